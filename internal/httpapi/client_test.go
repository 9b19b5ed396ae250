package httpapi

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestPlainHTTPReachesLoopbackOnly(t *testing.T) {
	t.Parallel()
	for base, ok := range map[string]bool{
		"https://api.example.com":            true,
		"https://api.example.com/v5/":        true,
		"http://localhost:8080":              true,
		"http://127.0.0.1:1/x":               true,
		"http://127.9.9.9":                   true,
		"http://[::1]:80":                    true,
		"http://api.example.com":             false,
		"http://localhost.example.com":       false,
		"http://10.0.0.1":                    false,
		"http://0.0.0.0":                     false,
		"ftp://localhost":                    false,
		"https://":                           false,
		"https:opaque":                       false,
		"https://:443":                       false,
		"//host":                             false,
		"":                                   false,
		"https://user@api.example.com":       false,
		"https://u:hunter2@api.example.com":  false,
		"https://api.example.com?key=secret": false,
		"https://api.example.com?":           false,
		"https://api.example.com#secret":     false,
		"https://api.example.com:secret":     false,
		"https://api example com/secret\x7f": false,
	} {
		_, err := New(Options{API: "bln", BaseURL: base, PerSecond: 1})
		if (err == nil) != ok {
			t.Errorf("New(%q): got error %v, want ok %t", base, err, ok)
		}
		if err != nil && (strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("New(%q) repeats it: %v", base, err)
		}
	}
}

func TestPaceMustBeAPositiveNumber(t *testing.T) {
	t.Parallel()
	zero := 0.0
	for _, n := range []float64{0, -1, 1 / zero, zero / zero} {
		if _, err := New(Options{BaseURL: "https://example.com", PerSecond: n}); err == nil {
			t.Errorf("New with %v requests per second: no error", n)
		}
	}
}

func TestPathsStayBelowTheBase(t *testing.T) {
	t.Parallel()
	var got atomic.Value
	s := listen(t, func(w http.ResponseWriter, r *http.Request) { got.Store(r.URL.EscapedPath() + "?" + r.URL.RawQuery) })
	c := client(t, Options{BaseURL: s.URL + "/api/v5/"})
	for path, want := range map[string]string{
		"participants":                         "/api/v5/participants?",
		"/participants":                        "/api/v5/participants?",
		"a/" + url.PathEscape("x/y?z#%@ü ,+;"): "/api/v5/a/x%2Fy%3Fz%23%25@%C3%BC%20%2C+%3B?",
		"users/100":                            "/api/v5/users/100?",
		"":                                     "",
		"a//b":                                 "",
		"a/":                                   "",
		"..":                                   "",
		"a/../../etc":                          "",
		"a/%2e%2e/b":                           "",
		"a/./b":                                "",
		"a/%zz":                                "",
	} {
		got.Store("")
		res, _, err := c.Fetch(t.Context(), get(path))
		if (err == nil) != (want != "") || got.Load() != want {
			t.Errorf("path %q: asked %q, error %v; want %q", path, got.Load(), err, want)
		}
		if err == nil && res.Status != 200 {
			t.Errorf("path %q: status %d", path, res.Status)
		}
	}
	r := get("a")
	r.Query = url.Values{"updated_after": {"2017-01-01T00:00:00+0000"}}
	if _, _, err := c.Fetch(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	// Trap 7: a bare "+" in a query is a space.
	if want := "/api/v5/a?updated_after=2017-01-01T00%3A00%3A00%2B0000"; got.Load() != want {
		t.Errorf("query: asked %q, want %q", got.Load(), want)
	}
}

// Traps 4 and 25: the token must not travel to another place.
// Nor are they a refusal of a write: it may have been carried out by then (303 says so).
func TestRedirectsAreNeverFollowed(t *testing.T) {
	t.Parallel()
	var followed atomic.Int32
	other := listen(t, func(http.ResponseWriter, *http.Request) { followed.Add(1) })
	for _, status := range []int{301, 302, 303, 307, 308} {
		s := listen(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", other.URL+"/stolen")
			w.WriteHeader(status)
			io.WriteString(w, `{"message":"go elsewhere"}`)
		})
		for _, r := range []Request{get("a"), put("a")} {
			_, err := client(t, Options{BaseURL: s.URL}).Do(t.Context(), r)
			var fail *Error
			if !errors.As(err, &fail) || fail.Status != status || fail.Unknown != (r.Method == http.MethodPut) {
				t.Errorf("%s answered %d: got %#v", r.Method, status, err)
				continue
			}
			if strings.Contains(err.Error(), "stolen") || !strings.Contains(err.Error(), "redirect") {
				t.Errorf("%d: %v", status, err)
			}
		}
	}
	if n := followed.Load(); n != 0 {
		t.Errorf("%d redirects were followed", n)
	}
}

func TestA5xxIsRepeatedOnlyWhereThatIsSafe(t *testing.T) {
	t.Parallel()
	for _, status := range []int{500, 502, 503, 504, 599, 408} {
		for name, test := range map[string]struct {
			request Request
			want    []int
		}{
			"a repeatable request is sent Attempts times": {get("a"), []int{status, status, status}},
			"a write is sent once":                        {put("a"), []int{status}},
		} {
			synctest.Test(t, func(t *testing.T) {
				var seen log
				c := client(t, Options{Attempts: 3, Observe: seen.observe, Transport: wire(func(*http.Request) (*http.Response, error) {
					return answer(status, `{"code":"internal","message":"it broke"}`), nil
				})})
				_, err := c.Do(t.Context(), test.request)
				var fail *Error
				if !errors.As(err, &fail) || fail.Status != status || !fail.Unknown {
					t.Errorf("%s: got %#v", name, err)
				}
				if diff := cmp.Diff(test.want, seen.codes()); diff != "" {
					t.Errorf("%s: requests (-want +got):\n%s", name, diff)
				}
			})
		}
	}
}

func TestOther4xxAreFinal(t *testing.T) {
	t.Parallel()
	for _, status := range []int{400, 401, 403, 404, 409, 422} { // trap 22: a 404 is an error
		var seen log
		c := client(t, Options{Observe: seen.observe, Transport: wire(func(*http.Request) (*http.Response, error) {
			return answer(status, `{"code":"notFound","message":"Not Found"}`), nil
		})})
		_, err := c.Do(t.Context(), get("a"))
		var fail *Error
		if !errors.As(err, &fail) || len(seen.codes()) != 1 {
			t.Fatalf("%d: got %v after %v", status, err, seen.codes())
		}
		want := &Error{API: "bln", Endpoint: "things.get", Method: "GET", Status: status, Code: "notFound", Message: "Not Found"}
		if diff := cmp.Diff(want, fail); diff != "" {
			t.Errorf("%d (-want +got):\n%s", status, diff)
		}
	}
}

func TestBackoffGrowsBetweenAttempts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var sent departures
		c := client(t, Options{Transport: wire(func(*http.Request) (*http.Response, error) {
			sent.now()
			return answer(500, ""), nil
		})})
		start := time.Now()
		_, _ = c.Do(t.Context(), get("a"))
		at := sent.since(start)
		if len(at) != 5 {
			t.Fatalf("sent %d times, want 5", len(at))
		}
		for i, interval := 1, 500*time.Millisecond; i < len(at); i, interval = i+1, 2*interval {
			if gap := at[i] - at[i-1]; gap < interval/2 || gap > interval*3/2 {
				t.Errorf("gap %d is %v, want %v ± half", i, gap, interval)
			}
		}
	})
}

func TestA503WithRetryAfterPausesEverybody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var sent departures
		c := client(t, Options{Transport: wire(func(*http.Request) (*http.Response, error) {
			if sent.now() == 1 {
				return answer(503, "", "Retry-After", "90"), nil
			}
			return answer(200, ""), nil
		})})
		start := time.Now()
		_, err := c.Do(t.Context(), put("a"))
		var fail *Error
		if !errors.As(err, &fail) || fail.RetryAfter != 90*time.Second || !fail.Unknown {
			t.Errorf("got %#v", err)
		}
		if _, _, err := c.Fetch(t.Context(), get("b")); err != nil {
			t.Error(err)
		}
		if waited := time.Since(start); waited < 90*time.Second {
			t.Errorf("the neighbour left after %v", waited)
		}
	})
}

// dialer refuses the first n connections.
func refuseFirst(transport *http.Transport, n int32) {
	dial := transport.DialContext
	var dials atomic.Int32
	transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if dials.Add(1) <= n {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
		}
		return dial(ctx, network, addr)
	}
}

func TestARequestThatNeverLeftMayBeSentAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var seen log
		transport := serve(t, func(w http.ResponseWriter, r *http.Request) {
			content, _ := io.ReadAll(r.Body)
			w.Write(content)
		})
		refuseFirst(transport, 2)
		c := client(t, Options{Transport: transport, Observe: seen.observe})
		_, text, err := c.Fetch(t.Context(), put("a"))
		if err != nil || string(text) != `{"a":1}` {
			t.Errorf("got %q, %v", text, err)
		}
		if diff := cmp.Diff([]int{0, 0, 200}, seen.codes()); diff != "" {
			t.Errorf("attempts (-want +got):\n%s", diff)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		transport := serve(t, func(http.ResponseWriter, *http.Request) {})
		refuseFirst(transport, 1000)
		_, err := client(t, Options{Transport: transport}).Do(t.Context(), put("a"))
		var fail *Error
		if !errors.As(err, &fail) || fail.Unknown || fail.Status != 0 || !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("refused to the end: got %#v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) { // connecting alone takes longer than an attempt may
		transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
			time.Sleep(time.Hour) // net/http dials on for later requests when this one has given up
			return nil, errors.New("no connection")
		}}
		_, err := client(t, Options{Transport: transport, Attempts: 2}).Do(t.Context(), put("a"))
		var fail *Error
		if !errors.As(err, &fail) || fail.Unknown {
			t.Errorf("no connection in time: got %#v", err)
		}
		time.Sleep(2 * time.Hour) // until nobody dials
	})
}

// Trap 54: a write that got no answer may have been carried out.
func TestAResetBeforeTheHeadersLeavesTheOutcomeUnknown(t *testing.T) {
	t.Parallel()
	reset := func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		conn, _, _ := http.NewResponseController(w).Hijack()
		if tcp, ok := conn.(*net.TCPConn); ok {
			tcp.SetLinger(0) // RST instead of FIN
		}
		conn.Close()
	}
	s := listen(t, reset)
	var seen log
	_, err := client(t, Options{BaseURL: s.URL, Observe: seen.observe}).Do(t.Context(), put("a"))
	var fail *Error
	if !errors.As(err, &fail) || !fail.Unknown || fail.Status != 0 {
		t.Errorf("got %#v", err)
	}
	if diff := cmp.Diff([]int{0}, seen.codes()); diff != "" {
		t.Errorf("attempts (-want +got):\n%s", diff)
	}

	synctest.Test(t, func(t *testing.T) {
		var arrived atomic.Int32
		c := client(t, Options{Transport: serve(t, func(w http.ResponseWriter, r *http.Request) {
			if arrived.Add(1) < 3 {
				reset(w, r)
			}
		})})
		if _, _, err := c.Fetch(t.Context(), get("a")); err != nil {
			t.Errorf("a repeatable request after two resets: %v", err)
		}
	})
}

func TestAnAnswerThatBreaksOffIsAnError(t *testing.T) {
	t.Parallel()
	half := func(w http.ResponseWriter) {
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, `{"half":`)
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	synctest.Test(t, func(t *testing.T) {
		var arrived atomic.Int32
		c := client(t, Options{Transport: serve(t, func(w http.ResponseWriter, r *http.Request) {
			if arrived.Add(1) <= 2 {
				half(w)
			}
			io.WriteString(w, "whole")
		})})
		res, err := c.Do(t.Context(), put("a"))
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(res.Body)
		var fail *Error
		if !errors.As(err, &fail) || !fail.Unknown || !errors.Is(err, io.ErrUnexpectedEOF) || string(text) != `{"half":` {
			t.Errorf("stream: got %q, %#v", text, err)
		}
		if _, again := res.Body.Read(make([]byte, 1)); !errors.Is(again, err) {
			t.Errorf("a second read: got %v, want the same error", again)
		}
		res.Body.Close()
		_, whole, err := c.Fetch(t.Context(), get("a"))
		if err != nil || string(whole) != "whole" || arrived.Load() != 3 {
			t.Errorf("fetch: got %q, %v after %d requests", whole, err, arrived.Load())
		}
	})
	synctest.Test(t, func(t *testing.T) {
		var arrived atomic.Int32
		c := client(t, Options{Transport: serve(t, func(w http.ResponseWriter, r *http.Request) {
			arrived.Add(1)
			half(w)
		})})
		_, _, err := c.Fetch(t.Context(), put("a"))
		var fail *Error
		if !errors.As(err, &fail) || !fail.Unknown || arrived.Load() != 1 {
			t.Errorf("fetch of a write: got %#v after %d requests", err, arrived.Load())
		}
	})
}

func TestAnAnswerIsCappedAfterDecompression(t *testing.T) {
	t.Parallel()
	const limit = 1000
	for name, test := range map[string]struct {
		size int
		zip  bool
		ok   bool
	}{
		"just fits":               {limit, false, true},
		"one byte more":           {limit + 1, false, false},
		"just fits, compressed":   {limit, true, true},
		"a bomb in a few bytes":   {100 * limit, true, false},
		"nothing":                 {0, false, true},
		"much more, uncompressed": {50 * limit, false, false},
	} {
		s := listen(t, func(w http.ResponseWriter, r *http.Request) {
			text := bytes.Repeat([]byte("x"), test.size)
			if !test.zip {
				w.Write(text)
				return
			}
			if r.Header.Get("Accept-Encoding") != "gzip" {
				t.Errorf("%s: gzip was not asked for", name)
			}
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			z.Write(text)
			z.Close()
		})
		var seen log
		c := client(t, Options{BaseURL: s.URL, MaxAnswer: limit, Observe: seen.observe})
		_, text, err := c.Fetch(t.Context(), get("a"))
		if test.ok && (err != nil || len(text) != test.size) {
			t.Errorf("%s: got %d bytes, %v", name, len(text), err)
		}
		if !test.ok && (!errors.Is(err, ErrTooLarge) || len(seen.codes()) != 1) {
			t.Errorf("%s: got %v after %v", name, err, seen.codes())
		}
		r := get("a")
		r.MaxAnswer = 1 << 20
		if _, _, err := c.Fetch(t.Context(), r); err != nil {
			t.Errorf("%s, with a larger cap of its own: %v", name, err)
		}
	}
}

func TestAServerThatFallsSilentIsLeft(t *testing.T) {
	t.Parallel()
	silent := func(r *http.Request) { <-r.Context().Done() }
	synctest.Test(t, func(t *testing.T) { // before the headers
		c := client(t, Options{AttemptTimeout: 10 * time.Second, Transport: serve(t, func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body) // the server notices a lost client only while it reads
			silent(r)
		})})
		start := time.Now()
		_, err := c.Do(t.Context(), put("a"))
		var fail *Error
		if !errors.As(err, &fail) || !fail.Unknown || time.Since(start) != 10*time.Second || errors.Is(err, context.Canceled) {
			t.Errorf("got %#v after %v", err, time.Since(start))
		}
	})
	synctest.Test(t, func(t *testing.T) { // within the body
		c := client(t, Options{AttemptTimeout: 10 * time.Second, Transport: serve(t, func(w http.ResponseWriter, r *http.Request) {
			for range 4 { // slow, but never silent for long: no failure
				io.WriteString(w, "x")
				http.NewResponseController(w).Flush()
				time.Sleep(9 * time.Second)
			}
			silent(r)
		})})
		start := time.Now()
		res, err := c.Do(t.Context(), get("a"))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		var fail *Error
		if !errors.As(err, &fail) || !fail.Unknown || string(text) != "xxxx" || time.Since(start) != 37*time.Second {
			t.Errorf("got %q, %#v after %v", text, err, time.Since(start))
		}
	})
	synctest.Test(t, func(t *testing.T) { // a reader that takes its time is no silence of the server
		c := client(t, Options{AttemptTimeout: 10 * time.Second, Transport: serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Write(make([]byte, 100_000))
		})})
		res, err := c.Do(t.Context(), get("a"))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		io.ReadFull(res.Body, make([]byte, 10))
		time.Sleep(time.Hour)
		if rest, err := io.ReadAll(res.Body); err != nil || len(rest) != 99_990 {
			t.Errorf("after an hour: got %d bytes, %v", len(rest), err)
		}
	})
}

func TestAnEndedContextEndsARequestWhereverItWaits(t *testing.T) {
	t.Parallel()
	hang := func(r *http.Request) (*http.Response, error) { <-r.Context().Done(); return nil, r.Context().Err() }
	for name, test := range map[string]struct {
		options Options
		request Request
		before  func(t *testing.T, c *Client)
		unknown bool
	}{
		"for a place": {
			options: Options{Concurrency: 1, Transport: wire(func(*http.Request) (*http.Response, error) { return answer(200, "x"), nil })},
			request: put("a"),
			before: func(t *testing.T, c *Client) {
				res, err := c.Do(t.Context(), get("a"))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { res.Body.Close() })
			},
		},
		"for its turn": {
			options: Options{PerSecond: 0.001, Transport: wire(func(*http.Request) (*http.Response, error) { return answer(200, "x"), nil })},
			request: put("a"),
			before:  func(t *testing.T, c *Client) { _, _, _ = c.Fetch(t.Context(), get("a")) },
		},
		"for the end of a 429": {
			options: Options{Transport: wire(func(*http.Request) (*http.Response, error) {
				return answer(429, "", "Retry-After", "600"), nil
			})},
			request: put("a"),
		},
		"for the next attempt": {
			options: Options{Transport: wire(func(*http.Request) (*http.Response, error) {
				return answer(503, "", "Retry-After", "600"), nil
			})},
			request: get("a"),
			unknown: true,
		},
		"for the headers": {options: Options{AttemptTimeout: time.Hour, Transport: wire(hang)}, request: put("a"), unknown: true},
	} {
		for cause, end := range map[error]func(context.Context) (context.Context, context.CancelFunc){
			context.DeadlineExceeded: func(ctx context.Context) (context.Context, context.CancelFunc) {
				return context.WithTimeout(ctx, 5*time.Second)
			},
			context.Canceled: func(ctx context.Context) (context.Context, context.CancelFunc) {
				ctx, cancel := context.WithCancelCause(ctx)
				timer := time.AfterFunc(5*time.Second, func() { cancel(errors.New("a cause that says too much")) })
				return ctx, func() { timer.Stop(); cancel(nil) }
			},
		} {
			synctest.Test(t, func(t *testing.T) {
				c := client(t, test.options)
				if test.before != nil {
					test.before(t, c)
				}
				start := time.Now()
				ctx, cancel := end(t.Context())
				defer cancel()
				_, err := c.Do(ctx, test.request)
				var fail *Error
				if !errors.As(err, &fail) || !errors.Is(err, cause) || time.Since(start) != 5*time.Second || fail.Unknown != test.unknown {
					t.Errorf("waiting %s: got %#v after %v, want %v, unknown %t", name, err, time.Since(start), cause, test.unknown)
				}
			})
		}
	}
	synctest.Test(t, func(t *testing.T) {
		c := client(t, Options{Transport: serve(t, func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "x")
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
		})})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		res, err := c.Do(ctx, get("a"))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if _, err := io.ReadAll(res.Body); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("waiting for the body: got %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		c := client(t, Options{Transport: wire(func(*http.Request) (*http.Response, error) {
			t.Error("a request left with an ended context")
			return answer(200, ""), nil
		})})
		for range 100 { // select picks at random: a free place must not win once
			if _, err := c.Do(ctx, get("a")); !errors.Is(err, context.Canceled) {
				t.Fatalf("got %v", err)
			}
		}
	})
}

func TestAStreamingAnswerHoldsItsPlaceUntilItIsClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var inFlight, most atomic.Int32
		c := client(t, Options{Concurrency: 2, Transport: wire(func(*http.Request) (*http.Response, error) {
			most.Store(max(most.Load(), inFlight.Add(1)))
			time.Sleep(time.Second)
			inFlight.Add(-1)
			return answer(200, "x"), nil
		})})
		open, err := c.Do(t.Context(), get("a"))
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		results := make(chan error)
		for range 4 {
			go func() { _, _, err := c.Fetch(t.Context(), get("a")); results <- err }()
		}
		for range 4 {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		if took := time.Since(start); took != 4*time.Second || most.Load() != 1 {
			t.Errorf("beside an open answer: 4 requests took %v, %d at once; want 4s, 1", took, most.Load())
		}
		open.Body.Close()
		open.Body.Close() // closing twice frees one place
		for range 4 {
			go func() { _, _, err := c.Fetch(t.Context(), get("a")); results <- err }()
		}
		for range 4 {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		if most.Load() != 2 {
			t.Errorf("after closing: %d at once, want 2", most.Load())
		}
		if _, err := open.Body.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Errorf("reading a closed answer: got %v", err)
		}
	})
}

func TestEveryAttemptIsObserved(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var seen log
		var sent departures
		c := client(t, Options{API: "namecoach", PerSecond: 1, Burst: 1, Observe: seen.observe, Transport: wire(func(*http.Request) (*http.Response, error) {
			n := sent.now()
			time.Sleep(250 * time.Millisecond)
			switch n {
			case 1:
				return answer(429, "", "Retry-After", "60", "Nc-Rate-Limit-Remaining", "0"), nil
			case 2:
				return nil, errors.New("broken pipe of some kind")
			}
			return answer(201, "x", "Nc-Rate-Limit-Limit", "1000", "Nc-Rate-Limit-Remaining", "998.5"), nil
		})})
		if _, _, err := c.Fetch(t.Context(), get("a")); err != nil {
			t.Fatal(err)
		}
		want := []Observation{
			{"namecoach", "things.get", "GET", 429, 250 * time.Millisecond, 0, 0},
			{"namecoach", "things.get", "GET", 0, 250 * time.Millisecond, 60 * time.Second, -1},
			{"namecoach", "things.get", "GET", 201, 250 * time.Millisecond, 0, 998.5},
		}
		seen.seen[2].Throttled = 0 // depends on the jitter between attempts
		if diff := cmp.Diff(want, seen.seen); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func TestTheServersClockIsKnownAfterItsFirstDate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		date := ""
		c := client(t, Options{Transport: wire(func(*http.Request) (*http.Response, error) {
			return answer(404, "", "Date", date), nil
		})})
		for _, date = range []string{"", "soon"} {
			_, _ = c.Do(t.Context(), get("a"))
			if _, known := c.Clock(); known {
				t.Errorf("known by Date %q", date)
			}
		}
		for _, want := range []time.Duration{-time.Hour, 90 * time.Second} { // errors have a clock, too
			date = time.Now().Add(want).UTC().Format(http.TimeFormat)
			_, _ = c.Do(t.Context(), get("a"))
			if got, known := c.Clock(); !known || got != want {
				t.Errorf("got %v, %t; want %v", got, known, want)
			}
		}
	})
}

// Whatever transport a caller brings.
func TestAnHTTP2StreamThatWasResetHasAnUnknownOutcome(t *testing.T) {
	t.Parallel()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			panic(http.ErrAbortHandler)
		}
		io.WriteString(w, r.Proto)
	}))
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	c := client(t, Options{BaseURL: s.URL, Transport: s.Client().Transport})
	if _, text, err := c.Fetch(t.Context(), get("a")); err != nil || string(text) != "HTTP/2.0" {
		t.Errorf("got %q, %v", text, err)
	}
	_, err := c.Do(t.Context(), put("a"))
	var fail *Error
	if !errors.As(err, &fail) || !fail.Unknown {
		t.Errorf("a stream that was reset: got %#v", err)
	}
}
