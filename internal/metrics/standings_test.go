package metrics_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"namebridge/internal/metrics"
	"namebridge/state"
)

// database answers how the bridges stand as a test wants it.
type database struct {
	asked   atomic.Int32
	takes   atomic.Int64 // nanoseconds until it answers
	away    atomic.Bool
	stuck   atomic.Bool  // it answers only when it is given up
	members atomic.Int32 // what it counts
}

func (d *database) ask(ctx context.Context) ([]state.Standing, error) {
	d.asked.Add(1)
	if d.stuck.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if takes := time.Duration(d.takes.Load()); takes > 0 { // a timer of no time kills the race detector in a bubble: CONTRIBUTING
		select {
		case <-time.After(takes):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if d.away.Load() {
		return nil, errors.New("connection refused")
	}
	return []state.Standing{{Bridge: "acme", Participants: int(d.members.Load())}}, nil
}

// told is what a scrape says of the participants (-1: nothing), and of the database.
func told(t *testing.T, reg prometheus.Gatherer) (participants, up float64) {
	t.Helper()
	all, _ := scrape(t, reg)
	participants, up = -1, -1
	for _, s := range all {
		switch s.name {
		case "namebridge_participants":
			participants = s.value
		case "namebridge_database_up":
			up = s.value
		}
	}
	return participants, up
}

// watched runs test in a time of its own, with a registry whose scrapes ask d until the process ends.
func watched(t *testing.T, test func(t *testing.T, d *database, reg prometheus.Gatherer, end func())) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		d := new(database)
		ctx, end := context.WithCancel(t.Context())
		defer end()
		reg := prometheus.NewPedanticRegistry()
		reg.MustRegister(metrics.NewStandings(ctx, d.ask))
		test(t, d, reg, end)
	})
}

func TestTheDatabaseIsAskedWhenScrapedAndAtMostEveryFifteenSeconds(t *testing.T) {
	t.Parallel()
	watched(t, func(t *testing.T, d *database, reg prometheus.Gatherer, _ func()) {
		if n := d.asked.Load(); n != 0 {
			t.Errorf("asked %d times before anybody has scraped", n)
		}
		for range 60 { // ten minutes scraped every 10 s
			d.members.Add(1)
			told(t, reg)
			time.Sleep(10 * time.Second)
		}
		if n := d.asked.Load(); n != 30 {
			t.Errorf("asked %d times in ten minutes, want every 20 s", n)
		}
		if got, _ := told(t, reg); got < 59 {
			t.Errorf("a scrape says %v: what was known 15 s ago and more", got)
		}
	})
}

func TestScrapesAtOnceShareAQuestion(t *testing.T) {
	t.Parallel()
	watched(t, func(t *testing.T, d *database, reg prometheus.Gatherer, _ func()) {
		d.takes.Store(int64(time.Second))
		d.members.Store(5)
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if got, up := told(t, reg); got != 5 || up != 1 {
					t.Errorf("participants %v, up %v", got, up)
				}
			})
		}
		all.Wait()
		if n := d.asked.Load(); n != 1 {
			t.Errorf("asked %d times", n)
		}
	})
}

func TestWhileTheDatabaseIsAwayTheLastKnownIsTold(t *testing.T) {
	t.Parallel()
	watched(t, func(t *testing.T, d *database, reg prometheus.Gatherer, _ func()) {
		check := func(when string, participants, up float64) {
			t.Helper()
			if got, isUp := told(t, reg); got != participants || isUp != up {
				t.Errorf("%s: participants %v, up %v; want %v, %v", when, got, isUp, participants, up)
			}
		}
		d.away.Store(true)
		check("before it was ever there", -1, 0)
		time.Sleep(15 * time.Second)
		d.away.Store(false)
		d.members.Store(7)
		check("when it comes", 7, 1)
		d.away.Store(true)
		time.Sleep(15 * time.Second)
		check("when it is gone", 7, 0)
		time.Sleep(time.Hour)
		check("an hour later", 7, 0)
		d.away.Store(false)
		d.members.Store(8)
		time.Sleep(15 * time.Second)
		check("when it is back", 8, 1)
	})
}

func TestADatabaseThatDoesNotAnswerHoldsAScrapeUpForThreeSecondsOnly(t *testing.T) {
	t.Parallel()
	watched(t, func(t *testing.T, d *database, reg prometheus.Gatherer, _ func()) {
		d.members.Store(7)
		told(t, reg)
		d.stuck.Store(true)
		time.Sleep(15 * time.Second)
		began := time.Now()
		if got, _ := told(t, reg); got != 7 {
			t.Errorf("participants %v, want the last known", got)
		}
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("the scrape took %v", took)
		}
		time.Sleep(30 * time.Second)
		if got, up := told(t, reg); got != 7 || up != 0 {
			t.Errorf("after 30 s without an answer: participants %v, up %v", got, up)
		}
		if n := d.asked.Load(); n != 2 {
			t.Errorf("asked %d times, want not again while one question is under way, nor at once after it", n)
		}
	})
}

// Counting a million users takes seconds: that is no reason to call the database away, nor to keep it busy with counting.
func TestASlowAnswerIsTakenWhenItComesAndAskedForLessOften(t *testing.T) {
	t.Parallel()
	watched(t, func(t *testing.T, d *database, reg prometheus.Gatherer, _ func()) {
		d.takes.Store(int64(8 * time.Second))
		d.members.Store(1_000_000)
		if got, up := told(t, reg); got != -1 || up != 0 {
			t.Errorf("participants %v, up %v before anything is known", got, up)
		}
		for range 60 {
			time.Sleep(10 * time.Second)
			if got, up := told(t, reg); got != 1_000_000 || up != 1 {
				t.Fatalf("participants %v, up %v", got, up)
			}
		}
		if n := d.asked.Load(); n > 9 {
			t.Errorf("asked %d times in some ten minutes: more than a tenth of the time was spent on it", n)
		}
	})
}

// What ends the process ends its questions, and is no failure of the database.
func TestAnEndingProcessAsksNoMore(t *testing.T) {
	t.Parallel()
	watched(t, func(t *testing.T, d *database, reg prometheus.Gatherer, end func()) {
		if _, up := told(t, reg); up != 1 {
			t.Fatal("the database is up")
		}
		d.stuck.Store(true)
		time.Sleep(15 * time.Second)
		time.AfterFunc(time.Second, end)
		began := time.Now()
		if _, up := told(t, reg); up != 1 || time.Since(began) != time.Second {
			t.Errorf("up %v after %v, want 1 as soon as the process ends", up, time.Since(began))
		}
		time.Sleep(time.Hour)
		if _, up := told(t, reg); up != 1 || d.asked.Load() != 2 {
			t.Errorf("up %v, asked %d times", up, d.asked.Load())
		}
	})
}

func TestAStandingIsToldWhole(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 10, 11, 12, 13, 14, 500e6, time.UTC)
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(metrics.NewStandings(t.Context(), func(context.Context) ([]state.Standing, error) {
		return []state.Standing{{
			Bridge: "acme", Participants: 6204, Linked: 4100, Synced: 3911, Pending: 12, Held: map[string]int{"unmatched": 131, "conflict": 17},
			Cursors: map[string]time.Time{"participants": at}, Lag: 90 * time.Second, LagKnown: true,
			LastSuccess: map[state.Kind]time.Time{state.Sweep: at}, Halted: true, Quarantined: 2, LateFound: 3, Jobs: map[string]int{"running": 4},
		}, {Bridge: "globex"}}, nil
	}))
	got := map[string]float64{}
	all, _ := scrape(t, reg)
	for _, s := range all {
		if s.labels["bridge"] == "acme" || s.value != 0 {
			got[s.String()] = s.value
		}
	}
	want := map[string]float64{
		`namebridge_database_up{}`:                                                 1,
		`namebridge_participants{bridge="acme"}`:                                   6204,
		`namebridge_users{bridge="acme",state="linked"}`:                           4100,
		`namebridge_users{bridge="acme",state="synced"}`:                           3911,
		`namebridge_users{bridge="acme",state="pending"}`:                          12,
		`namebridge_holds{bridge="acme",reason="unmatched"}`:                       131,
		`namebridge_holds{bridge="acme",reason="ambiguous"}`:                       0,
		`namebridge_holds{bridge="acme",reason="conflict"}`:                        17,
		`namebridge_holds{bridge="acme",reason="unwritable"}`:                      0,
		`namebridge_holds{bridge="acme",reason="refused"}`:                         0,
		`namebridge_holds{bridge="acme",reason="reverted"}`:                        0,
		`namebridge_cursor_timestamp_seconds{bridge="acme",stream="participants"}`: float64(at.Unix()) + 0.5,
		`namebridge_collect_lag_seconds{bridge="acme"}`:                            90,
		`namebridge_last_success_timestamp_seconds{bridge="acme",kind="sweep"}`:    float64(at.Unix()) + 0.5,
		`namebridge_halted{bridge="acme"}`:                                         1,
		`namebridge_quarantined_runs{bridge="acme"}`:                               2,
		`namebridge_late_found_total{bridge="acme"}`:                               3,
		`namebridge_jobs{bridge="acme",state="available"}`:                         0,
		`namebridge_jobs{bridge="acme",state="cancelled"}`:                         0,
		`namebridge_jobs{bridge="acme",state="completed"}`:                         0,
		`namebridge_jobs{bridge="acme",state="discarded"}`:                         0,
		`namebridge_jobs{bridge="acme",state="pending"}`:                           0,
		`namebridge_jobs{bridge="acme",state="retryable"}`:                         0,
		`namebridge_jobs{bridge="acme",state="running"}`:                           4,
		`namebridge_jobs{bridge="acme",state="scheduled"}`:                         0,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	// What is not known is absent: 0 would be a lag of nothing, and a success in 1970.
	for _, name := range []string{"namebridge_collect_lag_seconds", "namebridge_cursor_timestamp_seconds", "namebridge_last_success_timestamp_seconds"} {
		for s := range find(t, reg, name) {
			if s == `{bridge="globex"}` || len(find(t, reg, name)) != 1 {
				t.Errorf("%s%s is told though nothing is known", name, s)
			}
		}
	}
}
