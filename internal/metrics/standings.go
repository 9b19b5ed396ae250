package metrics

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/riverqueue/river/rivertype"
	"golang.org/x/sync/singleflight"

	"namebridge/state"
)

const (
	askEvery = 15 * time.Second // at most so often
	askShare = 10               // and for at most this part of the time: counting a million users takes some seconds
	askLimit = 30 * time.Second // then the question counts as failed
	patience = 3 * time.Second  // how long a scrape waits for the answer
)

// reasons are those that people are held for.
var reasons = []string{"unmatched", "ambiguous", "conflict", "unwritable", "refused", "reverted"}

// Standings tells how bridges stand: a collector of what the database knows.
//
// It asks while it is scraped, at most every 15 s and for at most a tenth of the time, one question at a time; a scrape waits 3 s
// for the answer. A question that takes longer than that is the next scrapes', until 30 s have passed. What was last
// known is told meanwhile, and while the database is away.
type Standings struct {
	ctx context.Context // the process's: Collect has none
	ask func(context.Context) ([]state.Standing, error)

	flight singleflight.Group
	mu     sync.Mutex
	known  []state.Standing
	up     bool
	next   time.Time
}

// NewStandings is to be registered once in a process. No question outlives ctx. ask's errors show as namebridge_database_up only.
func NewStandings(ctx context.Context, ask func(context.Context) ([]state.Standing, error)) *Standings {
	return &Standings{ctx: ctx, ask: ask}
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("namebridge_"+name, help, append([]string{"bridge"}, labels...), nil)
}

var (
	databaseUp = prometheus.NewDesc("namebridge_database_up",
		"1 while the database answers, 0 while it does not: then the numbers that come from it are the last known, or absent.", nil, nil)
	participants = desc("participants", "People in events of NameCoach that are known: one for each person and event.")
	users        = desc("users", "Users of the BLN organization, by state: linked to a person of NameCoach; synced, their badge stands in BLN as it should; "+
		"pending, still to be written. A user may be in several.", "state")
	holds = desc("holds", "People and users that are held, not written, by reason. See namebridge holds list.", "reason")
	lag   = desc("collect_lag_seconds", "How long ago the moment is up to which everything that NameCoach changed is stored, in seconds. "+
		"Absent until the first collect has come so far.")
	cursor = desc("cursor_timestamp_seconds", "The moment up to which everything that NameCoach changed is stored, on NameCoach's clock, "+
		"in seconds since 1970. Absent until the first collect has come so far.", "stream")
	lastSuccess = desc("last_success_timestamp_seconds", "When the newest run of a kind that was done has ended, in seconds since 1970. "+
		"Absent until there is one. A quarantined run is not done.", "kind")
	halted      = desc("halted", "1 while the bridge writes nothing, because foreign data in BLN was damaged and nobody has looked yet (namebridge resume); else 0.")
	quarantined = desc("quarantined_runs", "Runs that would clear more people than the guard lets through, and wait for a person (namebridge runs approve).")
	jobs        = desc("jobs", "Jobs of the bridge's queues, by River's state. Completed ones stay until they are tidied away.", "state")
	lateFound   = desc("late_found_total", "Rows that a search brought and that the windows of update time should have brought before: each was a gap, closed late.")
)

// Describe is for prometheus.Registerer.
func (s *Standings) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{databaseUp, participants, users, holds, lag, cursor, lastSuccess, halted, quarantined, jobs, lateFound} {
		ch <- d
	}
}

// Collect is for prometheus.Registerer.
func (s *Standings) Collect(ch chan<- prometheus.Metric) {
	known, up := s.read()
	put := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	put(databaseUp, prometheus.GaugeValue, oneIf(up))
	for _, b := range known {
		gauge := func(d *prometheus.Desc, v float64, labels ...string) {
			put(d, prometheus.GaugeValue, v, append([]string{b.Bridge}, labels...)...)
		}
		gauge(participants, float64(b.Participants))
		gauge(users, float64(b.Linked), "linked")
		gauge(users, float64(b.Synced), "synced")
		gauge(users, float64(b.Pending), "pending")
		for reason, n := range withZeros(b.Held, reasons) {
			gauge(holds, float64(n), reason)
		}
		if b.LagKnown {
			gauge(lag, b.Lag.Seconds())
		}
		for stream, until := range b.Cursors {
			gauge(cursor, seconds(until), stream)
		}
		for kind, at := range b.LastSuccess {
			gauge(lastSuccess, seconds(at), string(kind))
		}
		gauge(halted, oneIf(b.Halted))
		gauge(quarantined, float64(b.Quarantined))
		for state, n := range withZeros(b.Jobs, rivertype.JobStates()) {
			gauge(jobs, float64(n), state)
		}
		put(lateFound, prometheus.CounterValue, float64(b.LateFound), b.Bridge)
	}
}

// read gives what is known, after asking anew if it is time to.
func (s *Standings) read() (known []state.Standing, up bool) {
	if s.due() {
		late := time.NewTimer(patience)
		defer late.Stop()
		select {
		case <-s.flight.DoChan("", s.refresh):
		case <-late.C:
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.known, s.up
}

func (s *Standings) due() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ctx.Err() == nil && !time.Now().Before(s.next)
}

func (s *Standings) refresh() (any, error) {
	if !s.due() {
		return nil, nil // another question has just been answered
	}
	ctx, cancel := context.WithTimeout(s.ctx, askLimit)
	defer cancel()
	began := time.Now()
	known, err := s.ask(ctx)
	if s.ctx.Err() != nil {
		return nil, nil // the process is ending, which says nothing about the database
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	took := time.Since(began)
	s.up = err == nil
	if s.up {
		s.known, s.next = known, began.Add(max(askEvery, askShare*took))
	} else {
		s.next = began.Add(took + askEvery)
	}
	return nil, nil
}

// withZeros is counts, with 0 for what it does not mention of all.
func withZeros[S ~string](counts map[string]int, all []S) map[string]int {
	whole := make(map[string]int, len(all))
	for _, name := range all {
		whole[string(name)] = 0
	}
	maps.Copy(whole, counts)
	return whole
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// seconds since 1970.
func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }
