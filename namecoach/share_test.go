package namecoach

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"namebridge/internal/httpapi"
)

// NameCoach counts 1000 requests in 15 minutes for each token, whoever sends them, and locks out who sends more.
func TestReplicasThatAreRestartedNeverSendMoreThanTheBudget(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		replicas    int
		lives, rest time.Duration // at most
		atLeast     int           // in two hours, of 4500
	}{
		"one, every few seconds":                  {1, 9 * time.Second, 3 * time.Second, 2000},
		"three, every few seconds":                {3, 20 * time.Second, 3 * time.Second, 2000},
		"three, every few minutes":                {3, 5 * time.Minute, time.Second, 4000},
		"three, that are away for long":           {3, 10 * time.Minute, 20 * time.Minute, 3000},
		"eight, every few minutes, without pause": {8, 3 * time.Minute, 0, 3500},
	} {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(1, 2))
			var mu sync.Mutex
			var sent []time.Time
			server := wire(func(*http.Request) (*http.Response, error) {
				mu.Lock()
				defer mu.Unlock()
				sent = append(sent, time.Now())
				return response(200, noRows), nil
			})
			alive := make(map[*Client]bool) // each knows how many, at once
			share := func() {
				for c := range alive {
					c.SetShare(len(alive))
				}
			}
			begin := func(join bool) *Client {
				mu.Lock()
				defer mu.Unlock()
				c, err := New(Options{Token: token, Transport: server})
				if err != nil {
					t.Error(err)
				}
				alive[c] = true
				if join {
					c.Join(len(alive))
				}
				share()
				return c
			}
			end := func(c *Client) {
				mu.Lock()
				defer mu.Unlock()
				delete(alive, c)
				share()
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Hour)
			defer cancel()
			upTo := func(most time.Duration) time.Duration {
				mu.Lock()
				defer mu.Unlock()
				return time.Duration(random.Int64N(int64(most) + 1))
			}
			var replicas sync.WaitGroup
			for i := range test.replicas {
				replicas.Go(func() {
					for first := i == 0; ctx.Err() == nil; first = false { // the very first has the whole budget
						c := begin(!first)
						life, cancel := context.WithTimeout(ctx, upTo(test.lives))
						for life.Err() == nil {
							_, _ = all(c.List(life, Filter{}))
						}
						cancel()
						end(c)
						time.Sleep(upTo(test.rest))
					}
				})
				synctest.Wait()
			}
			replicas.Wait()
			for i := range sent {
				if j := i + DefaultRequestsPer15Minutes; j < len(sent) && sent[j].Sub(sent[i]) < 15*time.Minute {
					t.Fatalf("%s: %d requests in %v", name, DefaultRequestsPer15Minutes+1, sent[j].Sub(sent[i]))
				}
			}
			if len(sent) < test.atLeast {
				t.Errorf("%s: only %d requests left in two hours", name, len(sent))
			}
		})
	}
}

func TestAPollDoesNotWaitAfterAQuietTime(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		begin func(*Client)
		first time.Duration // how long the very first poll may wait
	}{
		"alone":                        {func(*Client) {}, 0},
		"alone, and told so":           {func(c *Client) { c.SetShare(1) }, 0},
		"one of five":                  {func(c *Client) { c.SetShare(5) }, 0},
		"started again soon":           {func(c *Client) { c.Join(1) }, 2 * time.Second},
		"started beside two others":    {func(c *Client) { c.Join(3) }, 6 * time.Second},
		"alone after others have left": {func(c *Client) { c.Join(3); c.SetShare(1) }, 2 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			c, err := New(Options{Token: token, Transport: wire(func(*http.Request) (*http.Response, error) { return response(200, noRows), nil })})
			if err != nil {
				t.Fatal(err)
			}
			test.begin(c)
			for i := range 10 {
				start := time.Now()
				if _, err := all(c.List(t.Context(), Filter{})); err != nil {
					t.Fatal(err)
				}
				if waited := time.Since(start); waited > test.first || i > 0 && waited > 0 {
					t.Errorf("%s: poll %d waited for %v", name, i, waited)
				}
				time.Sleep(5 * time.Minute)
			}
		})
	}
}

func TestViewsShareTheBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var order []string
		c, err := New(Options{Token: token, RequestsPer15Minutes: 1800, Transport: wire(func(r *http.Request) (*http.Response, error) {
			if r.Header.Get("Authorization") != token {
				t.Error("the view has no token")
			}
			order = append(order, r.URL.Path[len("/api/private/v5/"):])
			return response(200, noRows), nil
		})})
		if err != nil {
			t.Fatal(err)
		}
		c.Join(1)
		var run atomic.Int64
		ofRun := c.Observed(func(httpapi.Observation) { run.Add(1) })
		var asked sync.WaitGroup
		start := time.Now()
		for range 10 {
			asked.Go(func() { _, _ = all(ofRun.List(t.Context(), Filter{})) })
		}
		synctest.Wait()
		asked.Go(func() { _, _ = all(c.Urgent().Latest(t.Context(), []string{"a@example.org"}, "")) })
		asked.Go(func() { _, _ = all(ofRun.Urgent().Latest(t.Context(), []string{"a@example.org"}, "")) })
		asked.Wait()
		if diff := cmp.Diff([]string{"participants/latest", "participants/latest", "participants"}, order[:3]); diff != "" {
			t.Errorf("order (-want +got):\n%s", diff)
		}
		if took := time.Since(start); took < 11*time.Second || run.Load() != 11 {
			t.Errorf("12 requests at one a second took %v, %d of them the run's, want 11", took, run.Load())
		}
	})
}

func TestPatienceIsHandedOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, err := New(Options{Token: token, Patience: time.Minute, Transport: wire(func(*http.Request) (*http.Response, error) {
			res := response(429, "")
			res.Header.Set("Nc-Rate-Limit-Remaining", "0")
			res.Header.Set("Nc-Rate-Limit-Reset", "500")
			return res, nil
		})})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		_, err = c.List(t.Context(), Filter{})
		var paused *httpapi.PausedError
		if !errors.As(err, &paused) || !paused.Until.Equal(start.Add(500*time.Second)) || time.Since(start) > 0 {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
	})
	if _, err := New(Options{Token: token, Patience: -1}); err == nil {
		t.Error("a negative patience is accepted")
	}
}

// Metrics have a counter for each from the start, and none appears later.
func TestEndpointsAreAllThatAreObserved(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	c, err := New(Options{
		Token: token, RequestsPer15Minutes: 1e9,
		Observe:   func(o httpapi.Observation) { seen[o.Endpoint] = true },
		Transport: wire(func(*http.Request) (*http.Response, error) { return response(404, ""), nil }),
	})
	if err != nil {
		t.Fatal(err)
	}
	const email = "a@example.org"
	_, _ = c.List(t.Context(), Filter{})
	_, _ = c.Search(t.Context(), Filter{Emails: []string{email}})
	_, _ = c.Latest(t.Context(), []string{email}, "")
	_, _ = c.Create(t.Context(), NewParticipant{NamePageID: "1"})
	_, _ = c.Update(t.Context(), email, ChangedParticipant{NamePageID: "1"})
	_ = c.Delete(t.Context(), email, "1")
	_ = c.DeleteRecording(t.Context(), email, "1")
	_, _ = c.SynchronizeMoodle(t.Context(), "x", []string{"1"})
	if diff := cmp.Diff(slices.Sorted(slices.Values(Endpoints)), slices.Sorted(maps.Keys(seen))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
