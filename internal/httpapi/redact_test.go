package httpapi

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// What no error may repeat, planted wherever a request or an upstream could leak it.
const (
	canaryToken    = "FjQB7vXvsPK_Ur6swRk7"
	canaryAddress  = "jane.roe@example.org"
	canaryPassword = "correcthorse" // looks like a word
	canaryBody     = "4711-the-upstream-body-0815"
)

func canaryRequest(method string) Request {
	return Request{
		Endpoint: "people.update", Method: method,
		Path:   "people/" + url.PathEscape(canaryAddress),
		Query:  url.Values{"search": {`{"identifier":["` + canaryAddress + `"]}`}},
		Header: http.Header{"Authorization": {"Bearer " + canaryToken}},
		Body:   []byte(`{"username":"` + canaryAddress + `","password":"` + canaryPassword + `","other":["` + canaryBody + `"]}`),
	}
}

// mustNotLeak looks at everything that printing or logging the error could show, causes included.
func mustNotLeak(t *testing.T, name string, err error) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error", name)
		return
	}
	if _, ok := errors.AsType[*url.Error](err); ok {
		t.Errorf("%s: a *url.Error is within reach", name)
	}
	var fail *Error
	if !errors.As(err, &fail) {
		t.Errorf("%s: not an *Error but %T", name, err)
		return
	}
	shown := fmt.Sprintf("%v %+v %#v %+v %#v", err, err, err, *fail, *fail)
	for cause := err; cause != nil; cause = errors.Unwrap(cause) {
		shown += fmt.Sprintf(" %v %#v", cause, cause)
	}
	for _, canary := range []string{canaryToken, canaryAddress, url.QueryEscape(canaryAddress), "jane.roe", canaryPassword, canaryBody, "people/", "identifier"} {
		if strings.Contains(shown, canary) {
			t.Errorf("%s: %q leaks in %s", name, canary, shown)
		}
	}
}

func TestRefusalsKeepSecrets(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"message echoes the token":         `{"message":"token ` + canaryToken + ` is wrong"}`,
		"message echoes the header":        `{"message":"Bearer ` + canaryToken + `"}`,
		"message echoes the address":       `{"message":"no user ` + canaryAddress + ` here"}`,
		"message echoes it escaped":        `{"message":"GET /x/` + url.QueryEscape(canaryAddress) + `?q=1"}`,
		"message echoes the password":      `{"message":"password '` + canaryPassword + `' is wrong"}`,
		"message echoes the body":          `{"message":"got ` + canaryBody + `"}`,
		"code is the password":             `{"code":"` + canaryPassword + `","message":"no"}`,
		"code is the token":                `{"code":"` + canaryToken + `"}`,
		"errors echo the address":          `{"message":"no","errors":{"email":["` + canaryAddress + ` is taken"]}}`,
		"errors are named by the password": `{"message":"no","errors":{"` + canaryPassword + `":["is wrong"]}}`,
		"an HTML page":                     `<html>` + canaryBody + canaryAddress + `</html>`,
		"broken JSON":                      `{"message":"` + canaryBody,
		"a string":                         `"` + canaryBody + `"`,
		"message is an object":             `{"message":{"` + canaryBody + `":"` + canaryAddress + `"},"code":["` + canaryPassword + `"]}`,
	} {
		for _, status := range []int{302, 400, 401, 429, 500} {
			c := client(t, Options{Attempts: 1, Transport: wire(func(r *http.Request) (*http.Response, error) {
				if status == 429 { // until it gives up
					return answer(status, text, "Nc-Rate-Limit-Reset", "0.000001"), nil
				}
				return answer(status, text, "Location", "https://"+canaryBody+"/"+canaryAddress), nil
			})})
			_, err := c.Do(t.Context(), canaryRequest(http.MethodPut))
			mustNotLeak(t, fmt.Sprintf("%d, %s", status, name), err)
		}
	}
}

func TestFailuresOnTheWireKeepSecrets(t *testing.T) {
	t.Parallel()
	raw := func(text string) *httptest.Server {
		return listen(t, func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			io.WriteString(conn, text)
			conn.Close()
		})
	}
	for name, text := range map[string]string{
		"no HTTP at all":      canaryBody + " " + canaryAddress + "\r\n\r\n",
		"a malformed status":  "HTTP/1.1 " + canaryBody + " OK\r\n\r\n",
		"a malformed header":  "HTTP/1.1 200 OK\r\n" + canaryAddress + "\r\n\r\n",
		"a malformed length":  "HTTP/1.1 200 OK\r\nContent-Length: " + canaryBody + "\r\n\r\n",
		"an unknown encoding": "HTTP/1.1 200 OK\r\nTransfer-Encoding: " + canaryBody + "\r\n\r\n",
		"a malformed chunk":   "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + canaryBody + "\r\n",
		"broken gzip":         "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + canaryBody,
		"nothing":             "",
		"half an answer":      "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + canaryBody,
	} {
		_, _, err := client(t, Options{BaseURL: raw(text).URL}).Fetch(t.Context(), canaryRequest(http.MethodPut))
		mustNotLeak(t, name, err)
	}

	untrusted := httptest.NewUnstartedServer(http.NotFoundHandler())
	untrusted.Config.ErrorLog = stdlog.New(io.Discard, "", 0)
	untrusted.StartTLS()
	t.Cleanup(untrusted.Close)
	var seen log
	_, err := client(t, Options{BaseURL: untrusted.URL, Observe: seen.observe}).Do(t.Context(), canaryRequest(http.MethodPut))
	mustNotLeak(t, "an untrusted certificate", err)
	var fail *Error
	if !errors.As(err, &fail) || fail.Unknown || len(seen.codes()) != 1 || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an untrusted certificate: got %#v after %v: it never left, and trying again is no use", err, seen.codes())
	}

	for name, cause := range map[string]error{
		"a *url.Error":         &url.Error{Op: "Put", URL: "https://x/people/" + canaryAddress, Err: errors.New(canaryBody)},
		"a dial error":         &net.OpError{Op: "dial", Net: "tcp", Err: &net.AddrError{Err: canaryBody, Addr: canaryAddress}},
		"a look-up error":      &net.DNSError{Err: canaryBody, Name: canaryAddress},
		"an unknown host":      &net.DNSError{Err: canaryBody, Name: canaryAddress, IsNotFound: true},
		"a proxy's error":      fmt.Errorf("invalid proxy address %q: %w", "http://user:"+canaryPassword+"@proxy", errors.New(canaryBody)),
		"a TLS record":         tls.RecordHeaderError{Msg: canaryBody},
		"an error of any kind": errors.New(canaryBody + canaryToken),
		"wrapped end of file":  fmt.Errorf("%s: %w", canaryBody, io.EOF),
	} {
		c := client(t, Options{Attempts: 1, Transport: wire(func(*http.Request) (*http.Response, error) { return nil, cause })})
		_, err := c.Do(t.Context(), canaryRequest(http.MethodPut))
		mustNotLeak(t, name, err)
		c = client(t, Options{Transport: wire(func(*http.Request) (*http.Response, error) {
			res := answer(200, "")
			res.Body = io.NopCloser(io.MultiReader(strings.NewReader(canaryBody), errReader{cause}))
			return res, nil
		})})
		_, _, err = c.Fetch(t.Context(), canaryRequest(http.MethodPut))
		mustNotLeak(t, name+" within the body", err)
	}

	bad := canaryRequest("no method " + canaryToken)
	_, err = client(t, Options{Transport: wire(nil)}).Do(t.Context(), bad)
	if err == nil || strings.Contains(err.Error(), canaryAddress) {
		t.Errorf("a request that cannot be built: %v", err)
	}
	bad = canaryRequest(http.MethodPut)
	bad.Path = "people//" + canaryAddress
	_, err = client(t, Options{Transport: wire(nil)}).Do(t.Context(), bad)
	mustNotLeak(t, "a path that is refused", err)
}

type errReader struct{ err error }

func (e errReader) Read([]byte) (int, error) { return 0, e.err }

// Trap 33: errors promise JSON and proxies keep no promises; what an API says about itself is kept.
func TestRefusalsAreReadAsFarAsTheyAreDocumented(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("word ", 100)
	for _, test := range []struct{ name, text, code, message string }{
		{"BLN", `{"code":"notFound","message":"User not found."}`, "notFound", "User not found."},
		{"NameCoach", `{"message":"Name page not found"}`, "", "Name page not found"},
		{"NameCoach 422", `{"message":"Unprocessable entity","errors":{"last_name":["is too long"],"first_name":["can't be blank","is odd"]}}`, "", "Unprocessable entity; first_name can't be blank, is odd; last_name is too long"},
		{"errors of another shape", `{"message":"no","errors":"yes"}`, "", "no"},
		{"the document's own broken 422", `{ "message": ""Participant has pending calls"" }`, "", ""},
		{"a property's path", `{"message":"otherInfo.jobTitle must be string"}`, "", "otherInfo.jobTitle must be string"},
		{"short numbers", `{"message":"user 10344 is (not) an admin, see 1, 2"}`, "", "user 10344 is (not) an admin, see 1, 2"},
		{"telephone numbers", `{"message":"call +16461111111 or 646-111-1111 or 16461111111 now"}`, "", "call … or … or … now"},
		{"a code of other characters", `{"code":"E_42","message":"no"}`, "", "no"},
		{"a long code", `{"code":"` + strings.Repeat("x", 41) + `"}`, "", ""},
		{"a code that is a number", `{"code":42,"message":"no"}`, "", "no"},
		{"control characters", `{"message":"a\u0000b\u001b[31mred\r\nnew\u202eline"}`, "", "a b …"},
		{"other scripts", `{"message":"Teilnehmer größer als 200 не найден"}`, "", "Teilnehmer größer als 200 не найден"},
		{"cut in the middle of nothing", `{"message":"` + long + `"}`, "", strings.TrimSpace(strings.Repeat("word ", 40))[:197] + "…"},
		{"null", `null`, "", ""},
		{"an array", `[]`, "", ""},
		{"empty", ``, "", ""},
	} {
		code, message := readRefusal([]byte(test.text), nil)
		if diff := cmp.Diff([2]string{test.code, test.message}, [2]string{code, message}); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

func TestALongRefusalIsNotReadToItsEnd(t *testing.T) {
	t.Parallel()
	var read countingReader
	c := client(t, Options{Attempts: 1, Transport: wire(func(*http.Request) (*http.Response, error) {
		res := answer(500, "")
		res.Body = io.NopCloser(&read)
		return res, nil
	})})
	_, err := c.Do(t.Context(), get("a"))
	var fail *Error
	if !errors.As(err, &fail) || fail.Status != 500 || fail.Message != "" || read > 100<<10 {
		t.Errorf("read %d bytes of an endless refusal: %v", read, err)
	}
}

type countingReader int

func (n *countingReader) Read(p []byte) (int, error) {
	*n += countingReader(len(p))
	return len(p), nil
}

func TestErrorsSayWhatHappened(t *testing.T) {
	t.Parallel()
	for want, fail := range map[string]*Error{
		"bln users.get (GET): answered 404 Not Found: notFound: User not found":           {Status: 404, Code: "notFound", Message: "User not found", Method: "GET"},
		"bln users.get (PUT): answered 502 Bad Gateway (outcome unknown)":                 {Status: 502, Unknown: true, Method: "PUT"},
		"bln users.get (PUT): the answer is larger than allowed (outcome unknown)":        {Err: ErrTooLarge, Unknown: true, Method: "PUT"},
		"bln users.get (GET): answered 200 OK: the answer cannot be read: it is not JSON": {Status: 200, Err: errors.New("the answer cannot be read: it is not JSON"), Method: "GET"},
		"bln users.get (GET): the answer broke off: unexpected EOF":                       {Err: cause(t.Context(), io.EOF), Method: "GET"},
		"bln users.get (GET): answered 429 Too Many Requests: Too Many Requests":          {Status: 429, Message: "Too Many Requests", Method: "GET"},
		"bln users.get (GET): no usable answer (*errors.errorString)":                     {Err: cause(t.Context(), errors.New("x")), Method: "GET"},
		"bln users.get (GET): the server's name is not known (no such host)":              {Err: cause(t.Context(), &net.DNSError{IsNotFound: true}), Method: "GET"},
	} {
		fail.API, fail.Endpoint = "bln", "users.get"
		if got := fail.Error(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func FuzzRefusal(f *testing.F) {
	f.Add([]byte(`{"code":"notFound","message":"User jane@example.org not found","errors":{"a":["b"]}}`), "jane@example.org")
	f.Add([]byte(`{"message":"\u0000\ud800 ünïcödé`+strings.Repeat("é", 150)+`"}`), "word")
	f.Fuzz(func(t *testing.T, text []byte, secret string) {
		code, message := readRefusal(text, []string{secret})
		if len(message) > maxMessage || !utf8.ValidString(message) {
			t.Errorf("message of %d bytes: %q", len(message), message)
		}
		if strings.ContainsAny(message, "@%") || strings.ContainsFunc(message, unicode.IsControl) {
			t.Errorf("message %q", message)
		}
		if code != "" && !codeLike.MatchString(code) || code == secret && secret != "" {
			t.Errorf("code %q", code)
		}
	})
}
