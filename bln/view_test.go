package bln

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"namebridge/internal/httpapi"
)

func counter(n *atomic.Int64) func(httpapi.Observation) {
	return func(httpapi.Observation) { n.Add(1) }
}

func TestViewsShareTheSignIn(t *testing.T) {
	t.Parallel()
	f := newFakeBLN(t)
	f.issue = func(int64) string { return jwt(`{"userId":100}`) }
	f.handle("GET /user/acl", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{}`) })
	var all, run, step, other atomic.Int64
	c := f.client(t, func(o *Options) { o.Observe = counter(&all) })
	ofRun := c.Observed(counter(&run))
	views := []*Client{ofRun.Observed(counter(&step)), c, ofRun.Urgent(), c.Urgent().Observed(counter(&other))}
	if _, err := views[0].ACL(t.Context()); err != nil { // its sign-in is its own
		t.Fatal(err)
	}
	var asked sync.WaitGroup
	for _, view := range views {
		for range 10 {
			asked.Go(func() {
				if _, err := view.ACL(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
	}
	asked.Wait()
	if f.logins.Load() != 1 || all.Load() != 42 || run.Load() != 22 || step.Load() != 12 || other.Load() != 10 {
		t.Errorf("%d sign-ins; counted %d in all, %d of the run, %d of its step, %d of another; want 1; 42, 22, 12, 10",
			f.logins.Load(), all.Load(), run.Load(), step.Load(), other.Load())
	}
	if id, ok := c.UserID(); !ok || id != 100 {
		t.Errorf("the client does not know who a view has signed in: %d, %t", id, ok)
	}
}

func TestARefusalOfOneViewIsKnownToAll(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("POST /base/v1/auth/login", func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		refuse(w, 401, "unauthorized", "no")
	})
	srv := httptest.NewServer(mux)
	defer srv.Close()
	c := (&fakeBLN{Server: srv}).client(t)
	for range 3 {
		for _, view := range []*Client{c.Observed(func(httpapi.Observation) {}), c.Urgent(), c} {
			var refused *SignInError
			if err := view.SignIn(t.Context()); !errors.As(err, &refused) {
				t.Errorf("got %v, want a refusal", err)
			}
		}
	}
	if asked.Load() != 1 {
		t.Errorf("a wrong password was sent %d times", asked.Load())
	}
}

// wire is a server in a bubble.
type wire func(*http.Request) (*http.Response, error)

func (w wire) RoundTrip(r *http.Request) (*http.Response, error) { return w(r) }

func answer(status int, body string, headers ...string) *http.Response {
	w := httptest.NewRecorder()
	for i := 0; i < len(headers); i += 2 {
		w.Header().Set(headers[i], headers[i+1])
	}
	w.WriteHeader(status)
	_, _ = w.WriteString(body)
	return w.Result()
}

func bubble(t *testing.T, o Options) *Client {
	t.Helper()
	o.BaseURL, o.OrganizationID, o.Username, o.Password = "http://localhost", testOrganization, testUsername, testPassword
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Trap 53, to the moment.
func TestAWriteMayLeaveForTwoSecondsAfterTheReading(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sent := 0
		c := bubble(t, Options{PerSecond: 10, Transport: wire(func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodPut {
				sent++
				return answer(204, ""), nil
			}
			return answer(200, `{"accessToken":"x"}`), nil
		})})
		if err := c.SignIn(t.Context()); err != nil {
			t.Fatal(err)
		}
		read := time.Now()
		time.Sleep(2*time.Second - time.Millisecond)
		if _, err := c.UpdateOtherInfo(t.Context(), 1, OtherInfo{}, read); err != nil || sent != 1 {
			t.Errorf("in time: %v, sent %d times", err, sent)
		}
		time.Sleep(2 * time.Millisecond)
		if _, err := c.UpdateOtherInfo(t.Context(), 1, OtherInfo{}, read); !errors.Is(err, httpapi.ErrLate) || sent != 1 {
			t.Errorf("too late: %v, sent %d times", err, sent)
		}
	})
}

// Everybody waits for the sign-in; what cannot be sent without one must not stand before it.
func TestTheSignInGoesBeforeOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var order []string
		c := bubble(t, Options{PerSecond: 1, Transport: wire(func(r *http.Request) (*http.Response, error) {
			order = append(order, r.URL.Path)
			return answer(200, `{"accessToken":"x"}`), nil
		})})
		c.Join(1)
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				_, _, _ = c.http.Fetch(t.Context(), httpapi.Request{Method: http.MethodGet, Path: "/bulk"})
			})
		}
		synctest.Wait()
		start := time.Now()
		if err := c.SignIn(t.Context()); err != nil || time.Since(start) != time.Second {
			t.Errorf("signed in after %v, %v; want 1s", time.Since(start), err)
		}
		all.Wait()
		if order[0] != "/auth/login" {
			t.Errorf("%s left first", order[0])
		}
	})
}

func TestPatienceEndsASignInToo(t *testing.T) {
	t.Parallel()
	for name, headers := range map[string][]string{
		"a pause that is asked for": {"Retry-After", "600"},
		"none that is worth it":     nil,
	} {
		synctest.Test(t, func(t *testing.T) {
			sent := 0
			c := bubble(t, Options{PerSecond: 10, Patience: time.Minute, Transport: wire(func(*http.Request) (*http.Response, error) {
				if sent++; sent == 1 {
					return answer(503, "", headers...), nil
				}
				return answer(200, `{"accessToken":"x"}`), nil
			})})
			start := time.Now()
			if headers == nil {
				if err := c.SignIn(t.Context()); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				return
			}
			for range 3 {
				_, err := c.UpdateOtherInfo(t.Context(), 1, OtherInfo{}, time.Now())
				var fail *httpapi.Error
				var paused *httpapi.PausedError
				var refused *SignInError
				if !errors.As(err, &fail) || !errors.As(err, &paused) || errors.As(err, &refused) || fail.Unknown ||
					time.Since(start) > 0 || !paused.Until.Equal(start.Add(10*time.Minute)) {
					t.Errorf("%s: got %#v after %v", name, err, time.Since(start))
				}
			}
			time.Sleep(10 * time.Minute)
			if err := c.SignIn(t.Context()); err != nil || sent != 2 {
				t.Errorf("%s: after the pause: %v with %d requests", name, err, sent)
			}
		})
	}
}

// Metrics have a counter for each from the start, and none appears later.
func TestEndpointsAreAllThatAreObserved(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	c := bubble(t, Options{
		PerSecond: 1e6,
		Observe:   func(o httpapi.Observation) { seen[o.Endpoint] = true },
		Transport: wire(func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == "/auth/login" {
				return answer(200, `{"accessToken":"x"}`), nil
			}
			return answer(404, ""), nil
		}),
	})
	_, _ = c.Organization(t.Context())
	_, _ = c.ACL(t.Context())
	_, _ = c.Users(t.Context(), Cursor{})
	_, _, _ = c.Newest(t.Context())
	_, _ = c.UsersByIdentifier(t.Context(), []string{"a@example.com"})
	_, _ = c.UsersByQuery(t.Context(), "a")
	_, _ = c.User(t.Context(), 1)
	_, _ = c.UpdateOtherInfo(t.Context(), 1, OtherInfo{}, fresh())
	if diff := cmp.Diff(slices.Sorted(slices.Values(Endpoints)), slices.Sorted(maps.Keys(seen))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
