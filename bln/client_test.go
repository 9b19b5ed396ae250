package bln

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"namebridge/internal/httpapi"
)

const (
	testOrganization = 100
	testUsername     = "chesley@example.com"
	testPassword     = "topsecret123"
)

// fakeBLN answers under a base path, as behind a proxy: a client that leaves the path out gets 404.
type fakeBLN struct {
	*httptest.Server
	mux    *http.ServeMux
	logins atomic.Int64
	token  atomic.Value // the one that is good; "" for none
	issue  func(n int64) string
}

func newFakeBLN(t *testing.T) *fakeBLN {
	t.Helper()
	f := &fakeBLN{mux: http.NewServeMux(), issue: func(n int64) string { return fmt.Sprintf("b6492cc0188368d08cba353bb6973c%02d", n) }}
	f.token.Store("")
	f.Server = httptest.NewServer(f.mux)
	t.Cleanup(f.Close)
	f.mux.HandleFunc("POST /base/v1/auth/login", func(w http.ResponseWriter, _ *http.Request) {
		token := f.issue(f.logins.Add(1))
		f.token.Store(token)
		fmt.Fprintf(w, `{"accessToken":%q}`, token)
	})
	return f
}

// handle answers authorized requests.
func (f *fakeBLN) handle(pattern string, h http.HandlerFunc) {
	method, path, _ := strings.Cut(pattern, " ")
	f.mux.HandleFunc(method+" /base/v1"+path, func(w http.ResponseWriter, r *http.Request) {
		if good := f.token.Load(); good == "" || r.Header.Get("Authorization") != "Bearer "+good.(string) {
			refuse(w, http.StatusUnauthorized, "unauthorized", "Log in first.")
			return
		}
		h(w, r)
	})
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"code": code, "message": message})
}

func (f *fakeBLN) client(t *testing.T, change ...func(*Options)) *Client {
	t.Helper()
	o := Options{
		BaseURL: f.URL + "/base/v1/", OrganizationID: testOrganization, Username: testUsername, Password: testPassword,
		PerSecond: 10_000, Transport: f.Server.Client().Transport,
	}
	for _, c := range change {
		c(&o)
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func fixedToken(token string) func(*Options) {
	return func(o *Options) { o.Username, o.Password, o.AccessToken = "", "", token }
}

// jwt is an unsigned token with that payload.
func jwt(payload string) string {
	return "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + ".Lm5ebbMggmO-UYXC"
}

// fresh is when a user was read whose write may still leave in an hour: a machine that stands still makes it late for no test.
func fresh() time.Time { return time.Now().Add(time.Hour) }

func noSecrets(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		return
	}
	for _, secret := range []string{testUsername, testPassword, "b6492cc0188368d08cba353bb6973c", "eyJ", "127.0.0.1", "tim@example.com", "Security Officer"} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("the error holds %q: %v", secret, err)
		}
	}
}

func TestNewNamesEveryProblemAndNoSecret(t *testing.T) {
	t.Parallel()
	good := Options{BaseURL: "https://bln.example/x", OrganizationID: 1, Username: "u", Password: "p", PerSecond: 1}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*Options)
		want   string
	}{
		"no organization": {func(o *Options) { o.OrganizationID = 0 }, "organization id"}, // trap 30
		"no password":     {func(o *Options) { o.Password = "" }, "a user name and a password"},
		"no user name":    {func(o *Options) { o.Username = "" }, "a user name and a password"},
		"token in two":    {fixedToken("s3cret s3cret"), "access token"},
		"token with line": {fixedToken("s3cret\n"), "access token"},
		"plain http":      {func(o *Options) { o.BaseURL = "http://bln.example" }, "https"},
		"no pace":         {func(o *Options) { o.PerSecond = 0 }, "per second"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := good
			c.change(&o)
			_, err := New(o)
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("got %v, want it to say %q", err, c.want)
			}
		})
	}
	_, err := New(Options{})
	if err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("got %v, want the organization, the credentials and the URL", err)
	}
}

// Traps 28, 30, 31, 32.
func TestSignInSendsUserNamePasswordAndTheOrganizationNumberOnceAndNothingElse(t *testing.T) {
	t.Parallel()
	var bodies []string
	f := newFakeBLN(t)
	f.mux.HandleFunc("POST /base/v2/auth/login", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		bodies = append(bodies, r.Header.Get("Content-Type")+" "+r.Header.Get("Authorization")+string(body))
		fmt.Fprint(w, `{"accessToken":"b6492cc0188368d08cba353bb6973cf90b736e74f453324b960c3bccfbd220a2","new":{}}`)
	})
	c := f.client(t, func(o *Options) { o.BaseURL = f.URL + "/base/v2" })
	for range 3 {
		if err := c.SignIn(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{`application/json {"username":"chesley@example.com","password":"topsecret123","organizationId":100}`}
	if diff := cmp.Diff(want, bodies); diff != "" {
		t.Error(diff)
	}
	if id, ok := c.UserID(); ok {
		t.Errorf("an opaque token tells the user %d", id)
	}
	if end, ok := c.TokenExpires(); ok {
		t.Errorf("an opaque token tells its end: %v", end)
	}
}

func TestAFixedTokenIsUsedAsItIs(t *testing.T) {
	t.Parallel()
	f := newFakeBLN(t)
	token := jwt(`{"login":true,"userId":107,"organizationId":100,"nbf":1433271073548,"exp":1433876173548}`) // long over: BLN decides
	f.token.Store(token)
	f.handle("GET /user/acl", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{}`) })
	c := f.client(t, fixedToken(token))
	if id, ok := c.UserID(); !ok || id != 107 {
		t.Errorf("UserID = %d, %v", id, ok)
	}
	if end, ok := c.TokenExpires(); !ok || !end.Equal(time.UnixMilli(1433876173548)) {
		t.Errorf("TokenExpires = %v, %v", end, ok)
	}
	if err := c.SignIn(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := c.ACL(t.Context()); err != nil {
		t.Error(err)
	}
	f.token.Store("another")
	var refused *SignInError
	_, err := c.ACL(t.Context())
	if !errors.As(err, &refused) || refused.Reason != TokenRefused {
		t.Errorf("got %v, want a refused token", err)
	}
	noSecrets(t, err)
	if f.logins.Load() != 0 {
		t.Error("signed in though the token is fixed")
	}
}

func TestARefusedSignInIsToldApartFromAServerThatIsDown(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer  http.HandlerFunc
		refused bool
		status  int
	}{
		"wrong password":       {func(w http.ResponseWriter, _ *http.Request) { refuse(w, 401, "unauthorized", "no") }, true, 401},
		"not of organization":  {func(w http.ResponseWriter, _ *http.Request) { refuse(w, 403, "forbidden", "no") }, true, 403},
		"not of the schema":    {func(w http.ResponseWriter, _ *http.Request) { refuse(w, 400, "invalid", "no") }, true, 400},
		"no such organization": {func(w http.ResponseWriter, _ *http.Request) { refuse(w, 404, "notFound", "no") }, true, 404},
		"echoing": {func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			refuse(w, 401, "unauthorized", string(body))
		}, true, 401},
		"no such page":   {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "<html>", 404) }, false, 404}, // trap 33
		"redirect":       {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", 302) }, false, 302},
		"no token":       {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"returnUrl":null}`) }, false, 0},
		"token is null":  {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"accessToken":null}`) }, false, 0},
		"token in lines": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"accessToken":"topsecret123\n"}`) }, false, 0},
		"two tokens":     {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"accessToken":"a","accessToken":"b"}`) }, false, 0},
		"not JSON":       {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `topsecret123`) }, false, 0},
		"huge":           {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, `{"accessToken":"%070000d"}`, 1) }, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mux := http.NewServeMux()
			mux.HandleFunc("POST /base/v1/auth/login", c.answer)
			srv := httptest.NewServer(mux)
			defer srv.Close()
			client := (&fakeBLN{Server: srv}).client(t)
			_, err := client.User(t.Context(), 1)
			var refused *SignInError
			if errors.As(err, &refused) != c.refused || c.refused && refused.Reason != CredentialsRefused {
				t.Errorf("got %v, want refused: %v", err, c.refused)
			}
			var answer *httpapi.Error
			if !errors.As(err, &answer) || answer.Status != c.status || answer.Unknown {
				t.Errorf("got %v, want status %d and nothing unknown", err, c.status)
			}
			noSecrets(t, err)
		})
	}
	t.Run("down", func(t *testing.T) {
		t.Parallel()
		c := newFakeBLN(t).client(t, func(o *Options) { o.Transport = failingTransport{} })
		err := c.SignIn(t.Context())
		var refused *SignInError
		if err == nil || errors.As(err, &refused) {
			t.Errorf("got %v, want a failure that is no refusal", err)
		}
		noSecrets(t, err)
	})
}

// failingTransport fails in a way that repeating does not mend, to save the test the waiting.
type failingTransport struct{}

func (failingTransport) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, httpapi.ErrTooLarge
}

func TestAWrongPasswordIsNotTriedAgainAndAgain(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	var right atomic.Bool
	mux := http.NewServeMux()
	mux.HandleFunc("POST /base/v1/auth/login", func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		if right.Load() {
			fmt.Fprint(w, `{"accessToken":"x"}`)
			return
		}
		refuse(w, 401, "unauthorized", "no")
	})
	mux.HandleFunc("GET /base/v1/user/acl", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{}`) })
	srv := httptest.NewServer(mux)
	defer srv.Close()
	c := (&fakeBLN{Server: srv}).client(t)
	now := time.Now()
	c.now = func() time.Time { return now }
	ask := func() error {
		_, err := c.ACL(t.Context())
		return err
	}

	var refused *SignInError
	for i, step := range []struct {
		later time.Duration
		asked int64
	}{
		{0, 1},
		{0, 1},
		{59 * time.Second, 1},
		{time.Second, 2},
		{119 * time.Second, 2},
		{time.Second, 3},
		{4 * time.Minute, 4},
		{8 * time.Minute, 5},
		{16 * time.Minute, 6},
		{32 * time.Minute, 7},
		{59 * time.Minute, 7},
		{time.Minute, 8},
		{time.Hour, 9},
	} {
		now = now.Add(step.later)
		if err := ask(); !errors.As(err, &refused) || asked.Load() != step.asked {
			t.Fatalf("step %d: %v after asking %d times, want %d", i, err, asked.Load(), step.asked)
		}
	}
	right.Store(true)
	now = now.Add(time.Hour)
	if err := ask(); err != nil || c.refusals != 0 {
		t.Errorf("got %v with %d refusals, want the account mended", err, c.refusals)
	}
}

func TestATokenThatBLNForgotIsRenewedOnceForAllWhoMeetThat(t *testing.T) {
	t.Parallel()
	f := newFakeBLN(t)
	var puts atomic.Int64
	f.handle("GET /user/acl", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{}`) })
	f.handle("PUT /organizations/100/users/200", func(w http.ResponseWriter, _ *http.Request) {
		puts.Add(1)
		fmt.Fprint(w, userJSON(`{}`))
	})
	c := f.client(t)
	if _, err := c.ACL(t.Context()); err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		f.token.Store("forgotten")
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				var err error
				if i%2 == 0 {
					_, err = c.ACL(t.Context())
				} else {
					_, err = c.UpdateOtherInfo(t.Context(), 200, OtherInfo{}, fresh())
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if got := f.logins.Load(); got != int64(round+2) {
			t.Fatalf("%d sign-ins, want %d", got, round+2)
		}
	}
	if puts.Load() != 30 {
		t.Errorf("%d writes were carried out, want 30", puts.Load())
	}
}

func TestAFreshTokenThatIsRefusedEndsTheRequestAndHoldsSignIns(t *testing.T) {
	t.Parallel()
	f := newFakeBLN(t)
	f.mux.HandleFunc("GET /base/v1/user/acl", func(w http.ResponseWriter, _ *http.Request) { refuse(w, 401, "unauthorized", "no") })
	c := f.client(t)
	for range 3 {
		_, err := c.ACL(t.Context())
		var refused *SignInError
		if !errors.As(err, &refused) || refused.Reason != TokenRefused || refused.Err.Status != 401 {
			t.Fatalf("got %v, want a refused token", err)
		}
		noSecrets(t, err)
	}
	if got := f.logins.Load(); got != 2 {
		t.Errorf("%d sign-ins, want 2", got)
	}
}

// Traps 28, 29.
func TestATokenIsRenewedBeforeItEnds(t *testing.T) {
	t.Parallel()
	ms := func(d time.Duration) int64 { return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Add(d).UnixMilli() } // when every bubble begins
	for name, c := range map[string]struct {
		token string
		want  time.Duration // after the beginning
	}{
		"opaque":           {"b6492cc0188368d08cba353bb6973cf90b736e74f453324b960c3bccfbd220a2", 6 * 24 * time.Hour},
		"a week in ms":     {jwt(fmt.Sprintf(`{"userId":100,"nbf":%d,"exp":%d}`, ms(-5*time.Minute), ms(7*24*time.Hour))), 6 * 24 * time.Hour},
		"an hour in ms":    {jwt(fmt.Sprintf(`{"exp":%d}`, ms(time.Hour))), 55 * time.Minute},
		"an hour in s":     {jwt(fmt.Sprintf(`{"exp":%d}`, ms(time.Hour)/1000)), 55 * time.Minute},
		"ten minutes":      {jwt(fmt.Sprintf(`{"exp":%d}`, ms(10*time.Minute))), 9 * time.Minute},
		"not yet":          {jwt(fmt.Sprintf(`{"nbf":%d,"exp":%d}`, ms(time.Hour), ms(2*time.Hour))), 115 * time.Minute},
		"over":             {jwt(fmt.Sprintf(`{"exp":%d}`, ms(-time.Hour))), 6 * 24 * time.Hour},
		"absurd":           {jwt(`{"exp":1e300}`), 6 * 24 * time.Hour},
		"text":             {jwt(`{"exp":"soon"}`), 6 * 24 * time.Hour},
		"twice":            {jwt(fmt.Sprintf(`{"exp":%d,"exp":1}`, ms(time.Hour))), 6 * 24 * time.Hour},
		"not base64":       {"a.!!!.c", 6 * 24 * time.Hour},
		"no object":        {jwt(`[1]`), 6 * 24 * time.Hour},
		"no JSON":          {jwt(`{`), 6 * 24 * time.Hour},
		"standard base64=": {"e30." + base64.StdEncoding.EncodeToString([]byte(fmt.Sprintf(`{"a":"??>>~~","exp":%d}`, ms(time.Hour)))) + ".x", 55 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				start, logins := time.Now(), 0
				client := bubble(t, Options{PerSecond: 10_000, Transport: wire(func(r *http.Request) (*http.Response, error) {
					body := `{}`
					if r.URL.Path == "/auth/login" {
						logins++
						body = fmt.Sprintf(`{"accessToken":%q}`, c.token)
					}
					return answer(200, body, "Date", time.Now().UTC().Format(http.TimeFormat)), nil
				})})
				for _, step := range []struct {
					at     time.Duration
					logins int
				}{{0, 1}, {c.want - time.Second, 1}, {c.want, 2}} {
					time.Sleep(time.Until(start.Add(step.at)))
					if _, err := client.ACL(t.Context()); err != nil || logins != step.logins {
						t.Fatalf("after %v: %d sign-ins, want %d (%v)", step.at, logins, step.logins, err)
					}
				}
			})
		})
	}
}

func TestATokensEndIsOnTheServersClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := time.Now().Add(-3 * time.Hour)
		c := bubble(t, Options{PerSecond: 1, Transport: wire(func(*http.Request) (*http.Response, error) {
			token := jwt(fmt.Sprintf(`{"userId":100,"exp":%d}`, server.Add(time.Hour).UnixMilli()))
			return answer(200, fmt.Sprintf(`{"accessToken":%q}`, token), "Date", server.UTC().Format(http.TimeFormat)), nil
		})})
		if err := c.SignIn(t.Context()); err != nil {
			t.Fatal(err)
		}
		if offset, ok := c.Clock(); !ok || offset != -3*time.Hour {
			t.Errorf("Clock = %v, %v", offset, ok)
		}
		if left := time.Until(c.current.Load().renewAt); left != 55*time.Minute {
			t.Errorf("renewed in %v, want 55 minutes", left)
		}
		if id, ok := c.UserID(); !ok || id != 100 {
			t.Errorf("UserID = %d, %v", id, ok)
		}
	})
}

func TestWaitingForAnothersSignInEndsWithTheContext(t *testing.T) {
	t.Parallel()
	arrived, release := make(chan struct{}), make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("POST /base/v1/auth/login", func(w http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-release
		fmt.Fprint(w, `{"accessToken":"x"}`)
	})
	srv := httptest.NewServer(mux)
	defer srv.Close()
	c := (&fakeBLN{Server: srv}).client(t)
	first := make(chan error)
	go func() { first <- c.SignIn(t.Context()) }()
	<-arrived
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.SignIn(ctx); !errors.Is(err, ctx.Err()) {
		t.Errorf("got %v, want %v", err, ctx.Err())
	}
	close(release)
	if err := <-first; err != nil {
		t.Error(err)
	}
}

func TestACLKnowsTheDocumentedShapeOnly(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		answer string
		want   map[string][]string
	}{
		{`{"resource-1":["privilege-A","privilege-B"],"resource-2":[]}`, map[string][]string{"resource-1": {"privilege-A", "privilege-B"}, "resource-2": {}}},
		{`{}`, map[string][]string{}},
		{`[]`, nil},
		{`null`, nil},
		{`{"a":[],"a":["b"]}`, nil},
		{`{"a":null}`, nil},
		{`{"a":{"b":"c"}}`, nil},
		{`{"a":[1]}`, nil},
		{`{"a":["b"`, nil},
		{``, nil},
	} {
		f := newFakeBLN(t)
		var query url.Values
		f.handle("GET /user/acl", func(w http.ResponseWriter, r *http.Request) {
			query = r.URL.Query()
			fmt.Fprint(w, c.answer)
		})
		got, err := f.client(t).ACL(t.Context(), "organization", "user")
		if diff := cmp.Diff(c.want, got); diff != "" || (err == nil) != (c.want != nil) {
			t.Errorf("%s: %v %s", c.answer, err, diff)
		}
		if diff := cmp.Diff(url.Values{"resource": {"organization,user"}}, query); diff != "" {
			t.Error(diff)
		}
		noSecrets(t, err)
	}
}

func TestOrganizationIsReadByItsNumberAndIsThatOne(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]Organization{
		`{"id":100,"key":"AwesomeInc","name":"Awesome Inc.","theme":{},"configuration":null}`: {100, "AwesomeInc", "Awesome Inc."},
		`{"id":101,"key":"AwesomeInc","name":"Awesome Inc."}`:                                 {},
		`{"id":"100"}`:            {},
		`{"id":100,"name":{}}`:    {},
		`{"id":100,"id":100}`:     {},
		`[{"id":100}]`:            {},
		`{"id":100,"name":"Awes`:  {},
		`{"id":100,"name":"A\ud`:  {},
		`{"id":100,"key":"\ud8"}`: {},
	} {
		f := newFakeBLN(t)
		f.handle("GET /organizations/100", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, answer) })
		got, err := f.client(t).Organization(t.Context())
		if got != want || (err == nil) != (want != Organization{}) {
			t.Errorf("%s: got %+v, %v", answer, got, err)
		}
	}
}

func TestClientCanUseAShareOfItsPace(t *testing.T) {
	t.Parallel()
	f := newFakeBLN(t)
	f.handle("GET /user/acl", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{}`) })
	var seen atomic.Int64
	c := f.client(t, func(o *Options) {
		o.PerSecond = 200
		o.Observe = func(o httpapi.Observation) {
			if o.API == "bln" {
				seen.Add(1)
			}
		}
	})
	c.SetShare(20) // 10 a second, one at once
	start := time.Now()
	for range 3 {
		if _, err := c.ACL(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(start); took < 250*time.Millisecond || seen.Load() != 4 { // the sign-in is the first
		t.Errorf("%d requests in %v, want 4 in 300 ms at least", seen.Load(), took)
	}
}

func FuzzLogin(f *testing.F) {
	for _, token := range []string{"b6492cc0", jwt(`{"login":true,"userId":100,"exp":1451016000000}`), "..", "a.b.c", jwt(`{"exp":-1e999}`)} {
		f.Add([]byte(fmt.Sprintf(`{"accessToken":%q}`, token)))
	}
	f.Add([]byte(`{"accessToken":"\ud800"}`))
	f.Add([]byte(strings.Repeat(`{"a":`, 20_000)))
	f.Fuzz(func(t *testing.T, body []byte) {
		token, err := readLogin(body)
		if err != nil {
			return
		}
		for _, r := range token {
			if r <= ' ' || r > '~' {
				t.Fatalf("token %q cannot be sent", token)
			}
		}
		if c := readClaims(token); c.userID < 0 || !c.expires.IsZero() && (c.expires.Before(time.Unix(0, 0)) || c.expires.After(time.UnixMilli(1e15))) {
			t.Fatalf("claims %+v", c)
		}
	})
}

func FuzzACL(f *testing.F) {
	f.Add([]byte(`{"resource-1":["privilege-A"],"resource-2":[]}`))
	f.Add([]byte(`{"a":null}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		acl, err := readACL(body)
		if (err == nil) != (acl != nil) {
			t.Fatal("neither an answer nor an error")
		}
		var want map[string][]string
		if err == nil && json.Unmarshal(body, &want) != nil {
			t.Fatal("accepted another shape")
		}
	})
}
