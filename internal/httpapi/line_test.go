package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// arrivals is a server that takes its time and remembers what came, and when.
type arrivals struct {
	mu    sync.Mutex
	takes time.Duration
	start time.Time
	order []string
	at    []time.Duration
}

func (a *arrivals) RoundTrip(r *http.Request) (*http.Response, error) {
	a.mu.Lock()
	a.order = append(a.order, strings.TrimPrefix(r.URL.Path, "/base/"))
	a.at = append(a.at, time.Since(a.start))
	a.mu.Unlock()
	time.Sleep(a.takes)
	return answer(200, ""), nil
}

// queue sends n requests that are in no hurry, named from 0 on, and returns when all that can leave have left.
func queue(t *testing.T, all *sync.WaitGroup, c *Client, n int) {
	t.Helper()
	for i := range n {
		all.Go(func() {
			if _, _, err := c.Fetch(t.Context(), get(strconv.Itoa(i))); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
	}
}

func TestAnUrgentRequestLeavesNextInBothLines(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		options Options
		takes   time.Duration
		at      time.Duration // when the next may leave
	}{
		"many wait for the pace":                        {Options{PerSecond: 0.1, Burst: 1, Concurrency: 4}, 0, 10 * time.Second},
		"many wait for a place":                         {Options{Concurrency: 2}, 10 * time.Second, 10 * time.Second},
		"the places are busy for longer than the pace":  {Options{PerSecond: 1, Burst: 1, Concurrency: 1}, 10 * time.Second, 10 * time.Second},
		"the pace is slower than what is in the places": {Options{PerSecond: 0.1, Burst: 1, Concurrency: 1}, 7 * time.Second, 10 * time.Second},
	} {
		for kind, ask := range map[string]func(t *testing.T, c *Client) error{
			"urgent": func(t *testing.T, c *Client) error {
				t.Helper()
				_, _, err := c.Urgent().Fetch(t.Context(), get("urgent"))
				return err
			},
			"dated": func(t *testing.T, c *Client) error {
				t.Helper()
				r := get("urgent")
				r.NotAfter = time.Now().Add(time.Minute)
				_, _, err := c.Fetch(t.Context(), r)
				return err
			},
		} {
			synctest.Test(t, func(t *testing.T) {
				server := &arrivals{takes: test.takes, start: time.Now()}
				test.options.Transport = server
				c := client(t, test.options)
				var all sync.WaitGroup
				queue(t, &all, c, 20)
				time.Sleep(5 * time.Second)
				if err := ask(t, c); err != nil {
					t.Errorf("%s, %s: %v", name, kind, err)
				}
				all.Wait()
				if len(server.order) != 21 {
					t.Fatalf("%s, %s: %d of 21 requests left", name, kind, len(server.order))
				}
				if got := server.at[slices.Index(server.order, "urgent")]; got != test.at {
					t.Errorf("%s, %s: it left at %v, want %v", name, kind, got, test.at)
				}
			})
		}
	}
}

func TestUrgentRequestsLeaveInTheOrderTheyAsked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := &arrivals{}
		c := client(t, Options{PerSecond: 1, Burst: 1, Transport: server})
		var all sync.WaitGroup
		queue(t, &all, c, 3)
		want := []string{"0"}
		for i := range 6 {
			r := get(fmt.Sprintf("urgent-%d", i))
			want = append(want, r.Path)
			view := c.Urgent()
			if i%2 == 1 {
				view, r.NotAfter = c, time.Now().Add(time.Hour)
			}
			all.Go(func() { _, _, _ = view.Fetch(t.Context(), r) })
			synctest.Wait()
		}
		all.Wait()
		if diff := cmp.Diff(append(want, "1", "2"), server.order); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// The metric that tells whether a larger budget would help must not grow because answers are slow.
func TestThrottledIsTheTimeThatThePaceHoldsUpTheLine(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		options Options
		takes   time.Duration
		want    []time.Duration
	}{
		"nothing holds up":     {Options{}, 0, []time.Duration{0, 0, 0}},
		"the places":           {Options{Concurrency: 1}, 10 * time.Second, []time.Duration{0, 0, 0}},
		"the pace":             {Options{PerSecond: 0.1, Burst: 1}, 0, []time.Duration{0, 10 * time.Second, 20 * time.Second}},
		"a place, then a pace": {Options{PerSecond: 0.1, Burst: 1, Concurrency: 1}, 7 * time.Second, []time.Duration{0, 3 * time.Second, 6 * time.Second}},
	} {
		synctest.Test(t, func(t *testing.T) {
			var seen log
			test.options.Observe, test.options.Transport = seen.observe, &arrivals{takes: test.takes}
			c := client(t, test.options)
			var all sync.WaitGroup
			queue(t, &all, c, len(test.want))
			all.Wait()
			for i, want := range test.want {
				if got := seen.seen[i].Throttled; got != want {
					t.Errorf("%s: request %d was throttled for %v, want %v", name, i, got, want)
				}
			}
		})
	}
}

func TestWhoGivesUpInLineKeepsNoPlace(t *testing.T) {
	t.Parallel()
	for name, meanwhile := range map[string]func(l *line){
		"while it waits": func(*line) {},
		"at the moment when its turn comes": func(l *line) {
			l.places--
			l.release()
		},
		"at the moment when it is turned away": func(l *line) { l.turnAway(time.Now()) },
	} {
		synctest.Test(t, func(t *testing.T) {
			l := newLine(Options{PerSecond: 1, Burst: 1, Concurrency: 1})
			if _, err := l.enter(t.Context(), false, false); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			waits := make(chan error)
			go func() {
				_, err := l.enter(ctx, false, false)
				waits <- err
			}()
			synctest.Wait()
			l.mu.Lock()
			cancel()
			meanwhile(l)
			l.mu.Unlock()
			if err := <-waits; !errors.Is(err, context.Canceled) {
				t.Errorf("%s: got %v", name, err)
			}
			if l.places != 0 || len(l.bulk) != 0 {
				t.Errorf("%s: %d places are free and %d wait, want none", name, l.places, len(l.bulk))
			}
			l.leave()
			if _, err := l.enter(t.Context(), false, false); err != nil {
				t.Errorf("%s: the next: %v", name, err)
			}
		})
	}
}

// A run counts its own requests while others use the same client.
func TestViewsAreToldOfTheirOwnRequestsAndShareTheRest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		count := func(n *atomic.Int64) func(Observation) { return func(Observation) { n.Add(1) } }
		var all, run, step, other atomic.Int64
		var sent atomic.Int64
		c := client(t, Options{PerSecond: 10, Burst: 1, Observe: count(&all), Transport: wire(func(*http.Request) (*http.Response, error) {
			if sent.Add(1)%5 == 0 {
				return answer(500, ""), nil // attempts count, not requests
			}
			return answer(200, "", "Date", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)), nil
		})})
		ofRun := c.Observed(count(&run))
		var asked sync.WaitGroup
		start := time.Now()
		for _, view := range []*Client{c, ofRun, ofRun.Observed(count(&step)), ofRun.Urgent().Observed(count(&step)), c.Observed(count(&other)).Urgent()} {
			for range 20 {
				asked.Go(func() {
					if _, _, err := view.Fetch(t.Context(), get("a")); err != nil {
						t.Error(err)
					}
				})
			}
		}
		asked.Wait()
		if run.Load() < 60 || step.Load() < 40 || other.Load() < 20 || step.Load() >= run.Load() || all.Load() != sent.Load() || sent.Load() != 124 {
			t.Errorf("counted %d in all, %d of the run, %d of its step, %d of another; sent %d", all.Load(), run.Load(), step.Load(), other.Load(), sent.Load())
		}
		if took := time.Since(start); took < 12*time.Second {
			t.Errorf("124 requests at 10 a second took %v: the views have a pace of their own", took)
		}
		if offset, known := ofRun.Clock(); !known || (offset-time.Hour).Abs() > time.Second {
			t.Errorf("the view's clock: %v, %t", offset, known)
		}
		ofRun.Urgent().SetShare(5)
		if got := c.Interval(); got != 500*time.Millisecond {
			t.Errorf("interval %v after the view's share was set, want 500ms", got)
		}
	})
}

func TestPatienceEndsAtOnceWhereTheServerHoldsForLonger(t *testing.T) {
	t.Parallel()
	const patience = time.Minute
	for name, test := range map[string]struct {
		status  int
		headers []string
		until   time.Duration // 0: it is waited for
		waited  time.Duration // by then, at most
	}{
		"a 429 with a long Retry-After":       {429, []string{"Retry-After", "61"}, 61 * time.Second, 0},
		"a 429 with one that can be waited":   {429, []string{"Retry-After", "60"}, 0, 61 * time.Second},
		"a 429 that says nothing":             {429, nil, 0, 2 * time.Second},
		"a 429 with NameCoach's reset":        {429, []string{"Nc-Rate-Limit-Remaining", "0", "Nc-Rate-Limit-Reset", "420"}, 420 * time.Second, 0},
		"a 503 with a long Retry-After":       {503, []string{"Retry-After", "600"}, 600 * time.Second, 0},
		"a 503 with one that can be waited":   {503, []string{"Retry-After", "50"}, 0, 51 * time.Second},
		"a 500 with a long Retry-After":       {500, []string{"Retry-After", "600"}, 600 * time.Second, 0},
		"a 500":                               {500, nil, 0, 2 * time.Second},
		"a budget that is used up":            {500, []string{"Nc-Rate-Limit-Remaining", "0", "Nc-Rate-Limit-Reset", "300"}, 300 * time.Second, time.Second},
		"one that is used up for a moment":    {500, []string{"Nc-Rate-Limit-Remaining", "0", "Nc-Rate-Limit-Reset", "59"}, 0, 60 * time.Second},
		"one that has enough for a minute":    {500, []string{"Nc-Rate-Limit-Remaining", "50", "Nc-Rate-Limit-Reset", "600"}, 0, 13 * time.Second},
		"one of which plenty is left of much": {500, []string{"Nc-Rate-Limit-Limit", "10", "Nc-Rate-Limit-Remaining", "3", "Nc-Rate-Limit-Reset", "900"}, 0, 2 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			var sent departures
			c := client(t, Options{Patience: patience, PerSecond: 10, Burst: 1, Transport: wire(func(*http.Request) (*http.Response, error) {
				if sent.now() == 1 {
					return answer(test.status, `{"message":"not now"}`, test.headers...), nil
				}
				return answer(200, ""), nil
			})})
			start := time.Now()
			_, _, err := c.Fetch(t.Context(), get("a"))
			waited := time.Since(start)
			var fail *Error
			var paused *PausedError
			switch {
			case waited > test.waited:
				t.Errorf("%s: waited for %v, %v", name, waited, err)
			case test.until == 0:
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
			case !errors.As(err, &fail) || !errors.As(err, &paused) || fail.Unknown || fail.Status != 0 || len(sent.at) != 1:
				t.Errorf("%s: got %#v after %d requests", name, err, len(sent.at))
			default:
				if late := paused.Until.Sub(start) - test.until; late < 0 || late > 2*time.Second { // with a backoff before
					t.Errorf("%s: until %v, want %v", name, paused.Until.Sub(start), test.until)
				}
				time.Sleep(time.Until(paused.Until))
				again := time.Now()
				if _, _, err := c.Fetch(t.Context(), get("a")); err != nil || time.Since(again) > 0 {
					t.Errorf("%s: after the pause: %v, waited for %v", name, err, time.Since(again))
				}
			}
		})
	}
}

// A budget that is all but used up holds as a pause does; one of ours never does.
func TestPatienceEndsWhereTheServerLeavesTooLittle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := client(t, Options{Patience: time.Minute, PerSecond: 10, Burst: 1, Transport: wire(func(*http.Request) (*http.Response, error) {
			return answer(200, "", "Nc-Rate-Limit-Remaining", "5", "Nc-Rate-Limit-Reset", "310"), nil
		})})
		flood(t, c, 1)
		for range 3 {
			start := time.Now()
			_, err := c.Do(t.Context(), get("a"))
			var paused *PausedError
			if !errors.As(err, &paused) || time.Since(start) > 0 || (paused.Until.Sub(start)-62*time.Second).Abs() > time.Microsecond {
				t.Fatalf("got %v after %v, want to come again in 62 s", err, time.Since(start))
			}
			time.Sleep(time.Until(paused.Until))
			start = time.Now()
			if _, _, err := c.Fetch(t.Context(), get("a")); err != nil || time.Since(start) > time.Microsecond {
				t.Errorf("in 62 s: %v after %v", err, time.Since(start))
			}
		}
	})
}

func TestAPauseTurnsAwayWhoeverWaitsInLine(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		perSecond   float64
		concurrency int
	}{
		"for the pace":  {0.01, 8},
		"for a place":   {1e6, 2},
		"for the first": {0.01, 2},
	} {
		synctest.Test(t, func(t *testing.T) {
			var sent departures
			c := client(t, Options{Patience: time.Minute, PerSecond: test.perSecond, Burst: 2, Concurrency: test.concurrency, Transport: wire(func(r *http.Request) (*http.Response, error) {
				if sent.now() == 1 {
					time.Sleep(10 * time.Second)
					return answer(503, "", "Retry-After", "300"), nil
				}
				<-r.Context().Done() // keeps its place
				return nil, r.Context().Err()
			})})
			start := time.Now()
			until := start.Add(310 * time.Second)
			var all sync.WaitGroup
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			all.Go(func() { _, _ = c.Do(t.Context(), put("first")) })
			synctest.Wait()
			all.Go(func() { _, _ = c.Do(ctx, put("second")) })
			synctest.Wait()
			for i := range 20 {
				view := c
				if i%2 == 0 {
					view = c.Urgent()
				}
				all.Go(func() {
					_, err := view.Do(t.Context(), get("a"))
					var paused *PausedError
					if !errors.As(err, &paused) || !paused.Until.Equal(until) || time.Since(start) != 10*time.Second {
						t.Errorf("%s: got %v after %v", name, err, time.Since(start))
					}
				})
			}
			all.Go(func() {
				if _, err := c.Do(t.Context(), soon(15*time.Second)); !errors.Is(err, ErrLate) || time.Since(start) != 15*time.Second {
					t.Errorf("%s: a write that grows old: %v after %v", name, err, time.Since(start))
				}
			})
			all.Wait()
			_, err := c.Do(t.Context(), put("later"))
			if want := "bln things.update (PUT): paused by the server until 2000-01-01T00:05:10Z"; err == nil || err.Error() != want {
				t.Errorf("%s: got %v, want %s", name, err, want)
			}
			if n := len(sent.since(start)); n != 2 {
				t.Errorf("%s: %d requests left, want 2", name, n)
			}
		})
	}
}

// An answer may be read for minutes.
func TestAnAnswerSaysThatTheBudgetIsUsedUpBeforeItIsRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := client(t, Options{Patience: time.Minute, Concurrency: 1, Transport: wire(func(*http.Request) (*http.Response, error) {
			time.Sleep(time.Second)
			return answer(200, "", "Nc-Rate-Limit-Remaining", "0", "Nc-Rate-Limit-Reset", "90"), nil
		})})
		start := time.Now()
		waits := make(chan error, 1)
		time.AfterFunc(time.Second/2, func() {
			_, err := c.Do(t.Context(), get("b"))
			waits <- err
		})
		res, err := c.Do(t.Context(), get("a"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		var paused *PausedError
		if err := <-waits; !errors.As(err, &paused) || paused.Until.Sub(start) != 91*time.Second || time.Since(start) != time.Second {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
	})
}

func TestPatienceIsNotForTheTurnAtOurOwnPace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := &arrivals{takes: 30 * time.Second}
		c := client(t, Options{Patience: time.Second, PerSecond: 0.01, Burst: 1, Concurrency: 1, Transport: server})
		c.SetShare(2)
		start := time.Now()
		flood(t, c, 5)
		if took := time.Since(start); took != 830*time.Second {
			t.Errorf("5 requests at one in 200 s took %v, want 830s", took)
		}
	})
}
