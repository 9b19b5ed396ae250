package httpapi

import (
	"context"
	"errors"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// soon is a write that says what was true a moment ago.
func soon(within time.Duration) Request {
	r := put("a")
	r.NotAfter = time.Now().Add(within)
	return r
}

// A body that was made from what was just read is old after a pause: only whoever made it can make it anew (trap 53).
func TestAWriteThatGrowsOldIsNotRepeatedAfterA429AndEverybodyWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var sent departures
		c := client(t, Options{Transport: wire(func(*http.Request) (*http.Response, error) {
			if sent.now() == 1 {
				return answer(429, "", "Retry-After", "90"), nil
			}
			return answer(200, ""), nil
		})})
		start := time.Now()
		_, err := c.Do(t.Context(), soon(time.Hour))
		var fail *Error
		if !errors.As(err, &fail) || fail.Status != 429 || fail.Unknown || len(sent.since(start)) != 1 {
			t.Errorf("got %#v after %d requests, want the one 429", err, len(sent.since(start)))
		}
		if _, _, err := c.Fetch(t.Context(), get("b")); err != nil {
			t.Error(err)
		}
		if waited := time.Since(start); waited < 90*time.Second {
			t.Errorf("the next request left after %v", waited)
		}
	})
}

func TestAWriteThatCannotLeaveInTimeIsNotSent(t *testing.T) {
	t.Parallel()
	for name, setup := range map[string]func(t *testing.T, sent *departures) *Client{
		"held by a pause": func(t *testing.T, sent *departures) *Client {
			c := client(t, Options{Transport: wire(func(*http.Request) (*http.Response, error) {
				if sent.now() == 1 {
					return answer(503, "", "Retry-After", "60"), nil
				}
				return answer(200, ""), nil
			})})
			_, _ = c.Do(t.Context(), put("first"))
			return c
		},
		"held by the pace": func(t *testing.T, sent *departures) *Client {
			c := client(t, Options{PerSecond: 0.1, Burst: 1, Transport: wire(func(*http.Request) (*http.Response, error) {
				sent.now()
				return answer(200, ""), nil
			})})
			_, _ = c.Do(t.Context(), put("first"))
			return c
		},
		"held by requests in flight": func(t *testing.T, sent *departures) *Client {
			c := client(t, Options{Concurrency: 1, Transport: wire(func(*http.Request) (*http.Response, error) {
				sent.now()
				time.Sleep(10 * time.Second)
				return answer(200, ""), nil
			})})
			go func() { _, _, _ = c.Fetch(t.Context(), put("first")) }()
			synctest.Wait()
			return c
		},
		"held by a connection that does not come about": func(t *testing.T, sent *departures) *Client {
			sent.now()
			return client(t, Options{Transport: &http.Transport{DialContext: func(_ context.Context, _, _ string) (net.Conn, error) {
				time.Sleep(5 * time.Second)
				return nil, errors.New("no connection")
			}}})
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			var sent departures
			c := setup(t, &sent)
			start := time.Now()
			_, err := c.Do(t.Context(), soon(2*time.Second))
			var fail *Error
			if !errors.As(err, &fail) || !errors.Is(err, ErrLate) || fail.Unknown || fail.Status != 0 {
				t.Errorf("%s: got %#v", name, err)
			}
			if waited := time.Since(start); waited != 2*time.Second {
				t.Errorf("%s: given up after %v", name, waited)
			}
			time.Sleep(time.Minute)
			if n := len(sent.since(start)); n != 1 {
				t.Errorf("%s: %d requests arrived", name, n)
			}
		})
	}
}

// The caller's own end is not mistaken for lateness.
func TestAWriteWhoseCallerEndsIsNotLate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := client(t, Options{PerSecond: 0.1, Burst: 1, Transport: wire(func(*http.Request) (*http.Response, error) { return answer(200, ""), nil })})
		_, _ = c.Do(t.Context(), put("first"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Do(ctx, soon(time.Minute)); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrLate) {
			t.Errorf("got %v", err)
		}
	})
}

// At a slow pace a write would never leave in time behind a queue of readers.
func TestAWriteThatGrowsOldGoesBeforeOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := client(t, Options{PerSecond: 1, Burst: 1, Concurrency: 32, Transport: wire(func(*http.Request) (*http.Response, error) { return answer(200, ""), nil })})
		for range 20 {
			go func() { _, _, _ = c.Fetch(t.Context(), get("b")) }()
		}
		synctest.Wait()
		if got := c.Interval(); got != time.Second {
			t.Errorf("interval %v at one request a second", got)
		}
		start := time.Now()
		if _, _, err := c.Fetch(t.Context(), soon(4*c.Interval())); err != nil {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		time.Sleep(time.Minute)
	})
}
