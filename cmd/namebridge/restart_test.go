package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"namebridge/internal/postgres"
	"namebridge/internal/simulator"
	"namebridge/state"
)

// long makes some tests do what takes minutes: twenty restarts of Postgres.
var long = flag.Bool("long", false, "tests of the program take minutes, as large as life")

// outage is one restart of Postgres.
type outage struct {
	after  time.Duration // since the program was ready, or the last restart was over
	hard   bool          // ended at once, as in a crash; else in good order, which ends connections all the same
	lasts  time.Duration // how long it is away at least
	midway string        // the request that is on its way when it goes; "": whatever is
	hasty  bool          // the next does not wait until all is as it was
}

// outages are what most may meet, and with -long twenty of every kind.
func outages() []outage {
	if !*long {
		return []outage{
			{hard: true, midway: "bln users.put", hasty: true},
			{lasts: 2 * time.Second, midway: "bln users.put"},
			{after: 500 * time.Millisecond, hard: true, lasts: time.Second, midway: "namecoach participants.list"},
		}
	}
	dice := rand.New(rand.NewPCG(47, 1))
	all := make([]outage, 20)
	for i := range all {
		all[i] = outage{
			after: time.Duration(dice.Int64N(int64(5 * time.Second))), hard: i%2 == 0, hasty: i%3 == 0,
			midway: pick(dice, "", "bln users.put", "bln users.put", "bln users.get", "bln users.list", "namecoach participants.list"),
		}
		switch i % 5 {
		case 0, 2: // back at once
		case 4: // beyond every lease
			all[i].lasts = (state.Lease + 2) * time.Second
		default:
			all[i].lasts = time.Duration(dice.Int64N(int64(6 * time.Second)))
		}
	}
	return all
}

// The bar of faults for the database: however often it is restarted while both sides change, nothing is written without it, readiness
// tells, and the end is that of an undisturbed run, which nobody has to do anything for.
func TestWritesStopWhilePostgresIsAwayAndEverythingGoesOnByItself(t *testing.T) {
	t.Parallel()
	db := newDatabase(t)
	u := tumult{
		seed: 47, users: 400, gone: simulator.Unnoticed, half: true,
		schedules: map[string]time.Duration{"collect": time.Second, "sweep": 4 * time.Second},
		env: map[string]string{
			"COLLECT_SCHEDULE": "@every 1s", "SWEEP_SCHEDULE": "@every 4s", "CENSUS_SCHEDULE": "0 0 1 1 *", "NAMECOACH_REQUESTS_PER_15_MINUTES": "1000000",
		},
		weights: simulator.EveryKind().Without(simulator.LeavesNameCoach), // who is gone before they were seen speaks for nobody
	}
	p := u.place(t, map[string]string{"DATABASE_URL": db.URL()})
	p.Change(func(o *simulator.Options) { o.NameCoachPer15Minutes = 1_000_000 })
	f := u.replicas(t, p)
	w := newWatch(p)
	var all []*restart
	changes := u.disturb(t, w, func() {
		f.answer(t, http.StatusOK)
		for _, o := range outages() {
			all = append(all, o.happen(t, f, db))
		}
	})
	calm := time.Now()
	u.settle(t, f, w, calm)
	settled := time.Since(calm)
	f.answer(t, http.StatusOK) // also one that lost the lease meanwhile
	f.stop()

	// The queue tells of a database that is away, each kind of thing once a minute, and whoever has lost the lease says so.
	f.finished("ERROR the queue of jobs meets trouble", "ERROR took no part")
	said := func(begins string) bool {
		return slices.ContainsFunc(slices.Collect(maps.Keys(f.said)), func(what string) bool { return strings.HasPrefix(what, begins) })
	}
	if said("ERROR took no part") && !said("INFO takes part in the work again") {
		t.Error("nobody says that he takes part again")
	}
	u.carriedOver(t, p, w)
	journalled(t, p, all)
	for i, r := range all {
		t.Logf("restart %2d: %s", i+1, r)
	}
	u.report(t, f, w, changes, settled)
	u.nothingLeft(t, p)
}

// database is a Postgres of a test's own, that can go and come back where it was.
type database struct {
	*postgres.Server
	o postgres.Options
}

func newDatabase(t *testing.T) *database {
	t.Helper()
	folder, err := os.MkdirTemp("/tmp", "namebridge-data-") //nolint:usetesting // t.TempDir is closed to root's Postgres, which is not root
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	if err := os.Chmod(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	d := &database{o: postgres.Options{Dir: filepath.Join(folder, "postgres"), Port: keptPort(t)}}
	d.start(t)
	t.Cleanup(func() { _ = d.Stop() })
	return d
}

// keptPort is one that is free, and stays so while nobody listens: not among those that the system gives to whoever asks for any.
func keptPort(t *testing.T) int {
	t.Helper()
	for range 100 {
		port := 15000 + rand.IntN(15000)
		if l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err == nil {
			_ = l.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return 0
}

func (d *database) start(t *testing.T) {
	t.Helper()
	var err error
	if d.Server, err = postgres.Start(t.Context(), d.o); err != nil {
		t.Fatal(err)
	}
}

// end shuts it down; hard: at once, with a recovery at the next start.
func (d *database) end(t *testing.T, hard bool) {
	t.Helper()
	if hard {
		lock, err := os.ReadFile(filepath.Join(d.o.Dir, "data", "postmaster.pid"))
		if err != nil {
			t.Fatal(err)
		}
		first, _, _ := strings.Cut(string(lock), "\n")
		pid, err := strconv.Atoi(first)
		if err == nil {
			err = syscall.Kill(pid, syscall.SIGQUIT)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Stop(); err != nil && !hard {
		t.Fatal(err)
	}
}

// restart is an outage that has happened.
type restart struct {
	outage
	stretch                     // from when nothing could be stored any more, to when it could again
	fell, rose    time.Duration // since its beginning and its end: until no replica was ready, and all were
	runs, written time.Duration // since its end: until a run was done, and somebody was written, that were begun after it
	// 0: not waited for
}

func (r *restart) String() string {
	how := "in good order"
	if r.hard {
		how = "at once"
	}
	round := func(d time.Duration) time.Duration { return d.Round(10 * time.Millisecond) }
	return fmt.Sprintf("ended %s, away for %v (%s) · not ready after %v, ready again %v, run %v and write %v after", how, round(r.to.Sub(r.from)), r.midway,
		round(r.fell), round(r.rose), round(r.runs), round(r.written))
}

func (o outage) happen(t *testing.T, f *fleet, db *database) *restart {
	t.Helper()
	<-time.After(o.after) // what is hit is a matter of luck, whether the test succeeds is not
	there := make(chan struct{})
	if o.midway != "" {
		select {
		case <-f.trap(o.midway, there): // it is held until Postgres is away
		case <-time.After(within):
			t.Errorf("no %s comes", o.midway)
		}
	}
	began := time.Now()
	db.end(t, o.hard)
	r := &restart{outage: o, stretch: stretch{from: time.Now()}}
	close(there)
	f.place.Change(func(o *simulator.Options) { o.OnRequest = nil })
	if o.lasts > 0 {
		f.answer(t, http.StatusServiceUnavailable)
		r.fell = time.Since(began)
		<-time.After(o.lasts - time.Since(r.from))
		f.answer(t, http.StatusServiceUnavailable)
	}
	r.to = time.Now()
	db.start(t)
	up := time.Now()
	if o.hasty {
		return r
	}
	f.answer(t, http.StatusOK)
	r.rose = time.Since(up)
	at := f.place.connect(t)
	defer func() { _ = at.Close(t.Context()) }()
	for what, took := range map[string]*time.Duration{
		`SELECT count(*) FROM runs WHERE status = 'done' AND started_at > $1`:       &r.runs,
		`SELECT count(*) FROM journal WHERE state = 'verified' AND created_at > $1`: &r.written,
	} {
		eventually(t, "going on", func() string {
			n := 0
			if err := at.QueryRow(t.Context(), what, up).Scan(&n); err != nil || n == 0 {
				return fmt.Sprintf("%s: %d %v", what, n, err)
			}
			return ""
		})
		*took = time.Since(up)
	}
	return r
}

// answer waits until each replica answers so to whoever asks whether it is ready, and well in any case.
func (f *fleet) answer(t *testing.T, readiness int) {
	t.Helper()
	for _, d := range f.replicas {
		eventually(t, fmt.Sprintf("ready with %d", readiness), func() string {
			if got, text := d.ask("/readyz"); got != readiness {
				return fmt.Sprintf("%d %s", got, text)
			}
			return ""
		})
		eventually(t, "well", func() string { // what stands still itself is late with an answer
			if got, text := d.ask("/healthz"); got != http.StatusOK {
				return fmt.Sprintf("%d %s", got, text)
			}
			return ""
		})
	}
}

// ask asks a replica over HTTP: 0 where it does not answer.
func (d *replica) ask(path string) (status int, text string) {
	d.mu.Lock()
	address := d.address
	d.mu.Unlock()
	if address == "" {
		return 0, "it does not listen yet"
	}
	res, err := http.Get("http://" + address + path) //nolint:noctx // a test's own server
	if err != nil {
		return 0, err.Error()
	}
	body, err := io.ReadAll(res.Body)
	if err := errors.Join(err, res.Body.Close()); err != nil {
		return 0, err.Error()
	}
	return res.StatusCode, strings.TrimSpace(string(body))
}

// journalled fails the test for writes that were carried out without a journal entry from before: while Postgres is away there can be only
// those that were on their way when it went.
func journalled(t *testing.T, p *place, all []*restart) {
	t.Helper()
	entries := map[int64][]time.Time{}
	rows, err := p.connect(t).Query(t.Context(), `SELECT user_id, created_at FROM journal ORDER BY entry`)
	if err != nil {
		t.Fatal(err)
	}
	var user int64
	var at time.Time
	if _, err := pgx.ForEachRow(rows, []any{&user, &at}, func() error { entries[user] = append(entries[user], at); return nil }); err != nil {
		t.Fatal(err)
	}
	var before []time.Time
	for _, own := range entries {
		before = append(before, own...)
	}
	n := map[int64]int{}
	for _, w := range p.Writes() {
		n[w.User]++
		if own := entries[w.User]; len(own) < n[w.User] || own[n[w.User]-1].After(w.At) {
			t.Errorf("write %d of user %d at %v has no journal entry from before", n[w.User], w.User, w.At)
		}
	}
	for i, r := range all {
		could, sent, late, last := 0, 0, 0, time.Duration(0)
		for _, at := range before {
			if at.Before(r.from) {
				could++
			}
		}
		for _, q := range p.Requests("bln") {
			if q.Endpoint == "bln users.put" && q.At.Before(r.to) {
				if sent++; q.At.After(r.from) {
					late, last = late+1, q.At.Sub(r.from)
				}
			}
		}
		if sent > could {
			t.Errorf("restart %d: %d PUTs had arrived when it was over, but only %d were journalled when it began", i+1, sent, could)
		}
		t.Logf("restart %2d: %d PUTs were on their way, the last arrived after %v", i+1, late, last)
	}
}
