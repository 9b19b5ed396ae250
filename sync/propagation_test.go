package sync_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"namebridge/bln"
	"namebridge/internal/simulator"
	"namebridge/namecoach"
	"namebridge/state"
	bridgesync "namebridge/sync"
)

// paced is a bridge, as another process would have it, that keeps to the limits that an operator has by default.
func (w *world) paced(t testing.TB) *bridgesync.Bridge {
	t.Helper()
	b := w.bridge(t)
	var err error
	if *long { // a collect a second, as in the short version, is more than NameCoach allows
		if b.NameCoach, err = namecoach.New(namecoach.Options{BaseURL: w.NameCoachURL(), Token: w.Token()}); err != nil {
			t.Fatal(err)
		}
	}
	if b.BLN, err = bln.New(bln.Options{
		BaseURL: w.BLNURL(), OrganizationID: w.OrganizationID(), Username: w.Username(), Password: w.Password(), PerSecond: 20, Concurrency: 8,
	}); err != nil {
		t.Fatal(err)
	}
	return b
}

// under is how a steady stream of changes is carried over while a sweep runs.
type under struct {
	users, drifted int // how many of whom the sweep has to write anew
	replicas       int
	interval       time.Duration // between collects
	pause          time.Duration // between changes
	last           time.Duration // how long changes are made
}

// What changes does not wait for a sweep that uses up the account's requests. The bar is measured by the long version, on a machine that
// does nothing else: a changed recording is in BLN within one interval and 5 s, at the 99th percentile.
func TestAChangeIsInBLNSoonWhileASweepRuns(t *testing.T) {
	t.Parallel()
	load := under{users: 800, drifted: 500, replicas: 2, interval: time.Second, pause: 300 * time.Millisecond, last: 5 * time.Second}
	if *long {
		load = under{users: 100_000, drifted: 20_000, replicas: 2, interval: 5 * time.Second, pause: 500 * time.Millisecond, last: 8 * time.Minute}
	}
	w := start(t, simulator.Options{Seed: 81, Users: load.users})
	if res, err := w.bridge(t).Backfill(t.Context(), time.Time{}); err != nil || res.Status != state.Done {
		t.Fatalf("%+v, %v", res, err)
	}
	w.exec(t, `UPDATE workers SET heartbeat_at = now() - interval '1 hour'`) // so that nobody has used anything of the budget lately
	drifted := 0
	for _, u := range w.Users() {
		if w.UserOtherInfo(u.ID) != "" && w.Mismatch(u.ID) == "" && drifted < load.drifted {
			if err := w.EditOtherInfo(u.ID, "namecoach", ""); err != nil {
				t.Fatal(err)
			}
			if w.Mismatch(u.ID) != "" {
				drifted++
			}
		}
	}
	w.settings.Schedules = ticks(map[state.Kind]time.Duration{state.Collect: load.interval})
	for range load.replicas {
		serve(t, w.paced(t)).ready(t)
	}
	w.ResetCounts()
	w.exec(t, `UPDATE schedules SET due_at = now() WHERE kind = 'sweep'`)
	eventually(t, patience, func() string {
		if w.asked("bln users.list") == 0 {
			return "no sweep has begun"
		}
		return ""
	})

	life := w.Life(simulator.LifeOptions{Seed: 3, Weights: simulator.Weights{
		simulator.RecordsAnew: 6, simulator.RecordsFirst: 3, simulator.RemovesRecording: 1, simulator.JoinsNameCoach: 2,
	}})
	waiting := map[int64]time.Time{}
	phases := map[string]int{}
	var took []time.Duration
	began := time.Now()
	for made := began; time.Since(began) < load.last || len(waiting) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > load.last+patience {
			t.Fatalf("%d users are not right yet", len(waiting))
		}
		if time.Since(began) < load.last && time.Since(made) >= load.pause {
			c, ok := life.Next()
			if !ok {
				t.Fatal("nothing more can happen")
			}
			made = time.Now()
			for _, id := range c.Users {
				if _, waits := waiting[id]; !waits && w.Mismatch(id) != "" {
					waiting[id] = made
				}
			}
			phases[value[string](t, w, `SELECT coalesce(max(phase), 'none') FROM runs WHERE kind = 'sweep' AND status = 'running'`)]++
		}
		for id, since := range waiting {
			if w.Mismatch(id) == "" {
				took = append(took, time.Since(since))
				delete(waiting, id)
			}
		}
	}
	if n := value[int](t, w, `SELECT count(*) FROM runs WHERE kind = 'sweep' AND status = 'running'`); n == 0 {
		t.Error("what was changed has arrived only when the sweep was over")
	}
	slices.Sort(took)
	at := func(share float64) time.Duration {
		return took[int(share*float64(len(took)-1))].Round(time.Millisecond)
	}
	requests := w.Requests("bln")
	t.Logf("%d users, %d replicas, a collect every %v: %d changes were in BLN after %v (p50), %v (p90), %v (p99), %v at most; the sweep was in %v; "+
		"%d requests to BLN, at most %d in a second; %d to NameCoach; %d collects", load.users, load.replicas, load.interval, len(took), at(.5), at(.9), at(.99), at(1), phases,
		len(requests), requests.MaxIn(time.Second), len(w.Requests("namecoach")), len(w.runs(t, state.Collect)))
	if bar := load.interval + 5*time.Second; *long && at(.99) > bar {
		t.Errorf("the 99th percentile is %v, the bar is %v", at(.99), bar)
	}
	if over := requests.Over(); over > 0 {
		t.Errorf("%d requests over the limit", over)
	}
	if n := value[string](t, w, `SELECT coalesce(string_agg(DISTINCT status, ','), '') FROM runs WHERE status NOT IN ('done', 'running')`); n != "" {
		t.Errorf("runs ended as %s", n)
	}
}

// failing answers every write of one user with 503 while it is to.
type failing struct {
	path string
	on   atomic.Bool
	n    atomic.Int64
}

func (f *failing) RoundTrip(r *http.Request) (*http.Response, error) {
	if f.on.Load() && r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, f.path) {
		f.n.Add(1)
		return &http.Response{StatusCode: http.StatusServiceUnavailable, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
	}
	return http.DefaultTransport.RoundTrip(r)
}

// Who cannot be written keeps nobody else waiting, and is tried again soon.
func TestAUserWhoCannotBeWrittenKeepsNobodyWaiting(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	w.crowd(3)
	w.backfill(t)
	w.settings.Schedules = ticks(map[state.Kind]time.Duration{state.Collect: 2 * time.Second})
	f := &failing{path: "/users/1"}
	f.on.Store(true)
	s := serve(t, w.process(t, w.BLNURL(), w.db, f))
	s.ready(t)
	w.rename(1, "In vain")
	eventually(t, patience, func() string {
		if f.n.Load() == 0 {
			return "nobody has tried"
		}
		return ""
	})
	for _, id := range []int64{2, 3} {
		w.rename(id, fmt.Sprint("Title ", time.Now()))
		eventually(t, patience, func() string { return w.Mismatch(id) })
	}
	if w.Mismatch(1) == "" {
		t.Error("the user who cannot be written was written")
	}
	f.on.Store(false)
	eventually(t, patience, w.wrong)
	s.stop()
	w.settledJournal(t)
}
