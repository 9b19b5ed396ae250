//go:build deploy

package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"namebridge/internal/postgres/testdb"
	"namebridge/internal/promtest"
	"namebridge/internal/simulator"
	"namebridge/migrations"
)

func TestMain(m *testing.M) { os.Exit(testdb.Main(m).Run()) }

// world is two replicas of the real program that serve two bridges, a Prometheus that scrapes both, and people who change.
type world struct {
	*promtest.Prometheus
	acme, globex *simulator.Simulator
	program      string
	env          map[string]string
	replicas     [2]*promtest.Daemon
	began        time.Time
}

// pace is how fast a world goes.
type pace struct {
	users                      int
	collect, sweep, census, at time.Duration
}

func newWorld(t *testing.T, p pace) *world {
	t.Helper()
	w := &world{program: promtest.Build(t), began: time.Now()}
	w.env = map[string]string{
		"DATABASE_URL": testdb.URL(t, migrations.Up), "BRIDGES": "acme,globex",
		"COLLECT_SCHEDULE": "@every " + p.collect.String(), "SWEEP_SCHEDULE": "@every " + p.sweep.String(), "CENSUS_SCHEDULE": "@every " + p.census.String(),
		"WINDOW_SETTLE": "1s", "WINDOW_LOOKBACK": "3s", "GUARD_MAX_CLEARS": "4", "GUARD_MAX_CLEAR_PERCENT": "1",
		"NAMECOACH_REQUESTS_PER_15_MINUTES": "3000", "BLN_REQUESTS_PER_SECOND": "60",
		"PATH": os.Getenv("PATH"), "HOME": os.Getenv("HOME"),
	}
	w.acme = w.joins(t, "ACME_", simulator.Options{Seed: 4, Users: p.users})
	w.globex = w.joins(t, "GLOBEX_", simulator.Options{Seed: 5, Users: p.users / 3})
	w.Prometheus = promtest.Start(t, promtest.Options{Every: p.at})
	var addresses []string
	for i := range w.replicas {
		w.replicas[i] = promtest.Serve(t, w.program, w.env)
		addresses = append(addresses, w.replicas[i].Address)
	}
	w.Scrape(t, addresses...)
	return w
}

// joins makes both servers of a bridge: they take some time, have limits, and now and then fail.
func (w *world) joins(t *testing.T, prefix string, o simulator.Options) *simulator.Simulator {
	t.Helper()
	o.NameCoachLatency, o.BLNLatency, o.NameCoachPer15Minutes, o.BLNPerSecond, o.RetryAfter = 60*time.Millisecond, 25*time.Millisecond, 3000, 60, simulator.RetryAfterSeconds
	o.Faults = simulator.Faults{P5xx: .01, P429: .005, PReset: .005}
	s, err := simulator.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.Close()
		if t.Failed() {
			t.Logf("%sBLN: foreign keys that are not what they were: %q; writes that were undone: %q", prefix, s.ForeignDamage(5), s.LostUpdates())
		}
	})
	for name, value := range map[string]string{
		"NAMECOACH_URL": s.NameCoachURL(), "NAMECOACH_TOKEN": s.Token(), "BLN_URL": s.BLNURL(), "BLN_ORGANIZATION_ID": fmt.Sprint(s.OrganizationID()),
		"BLN_USERNAME": s.Username(), "BLN_PASSWORD": s.Password(),
	} {
		w.env[prefix+name] = value
	}
	return s
}

// live lets people of both bridges change until the function that it gives is called.
func (w *world) live(t *testing.T, every time.Duration) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var living sync.WaitGroup
	for i, s := range []*simulator.Simulator{w.acme, w.globex} {
		life := s.Life(simulator.LifeOptions{Seed: 7, Avoid: 10 * time.Second, Weights: simulator.EveryKind().Without(simulator.LeavesNameCoach)})
		living.Go(func() {
			tick := time.NewTicker(every * time.Duration(1+2*i))
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					life.Next()
				case <-ctx.Done():
					return
				}
			}
		})
	}
	stop = func() { cancel(); living.Wait() }
	t.Cleanup(stop)
	return stop
}

// halts makes BLN lose what is not globex's at its next write.
func (w *world) halts() {
	w.globex.Change(func(o *simulator.Options) { o.DropForeignKeyOnPut = simulator.Tamper{At: 1} })
}

// resumes is what a person does about it.
func (w *world) resumes(t *testing.T) {
	t.Helper()
	w.globex.Change(func(o *simulator.Options) { o.DropForeignKeyOnPut = simulator.Tamper{} })
	w.command(t, "resume", "--bridge", "globex", "--reason", "BLN says that it is mended")
}

func (w *world) command(t *testing.T, args ...string) string {
	t.Helper()
	code, out, log := promtest.Run(t, w.program, w.env, args...)
	if code != 0 {
		t.Fatalf("namebridge %s: exit %d\n%s\n%s", strings.Join(args, " "), code, out, log)
	}
	return out
}

// shrinks deletes so many people from acme's NameCoach that the guard lets nobody be cleared.
func (w *world) shrinks(n int) {
	for _, p := range w.acme.Participants() {
		if n > 0 && p.For != 0 && w.acme.DeleteParticipant(p.ID) {
			n--
		}
	}
}

// late adds somebody to both sides of acme whose row became visible long after its update time: no window brings it, the sweep's search does.
func (w *world) late(n int) {
	for i := range n {
		key := fmt.Sprintf("late-%d", i)
		user := w.acme.AddUser(simulator.NewUser{Username: key + "@demo.example", FirstName: "Late", LastName: fmt.Sprint(i)})
		events := w.acme.Events()
		w.acme.AddParticipant(simulator.Participant{
			FirstName: "Late", LastName: fmt.Sprint(i), Email: key + "@demo.example", EventTitle: events[0].Title, EventAccessCode: events[0].AccessCode,
			NameBadgeLink: "https://www.name-coach.com/" + key, RecordingLink: "https://namewaves.s3.amazonaws.com/" + key + ".mp3", RecordingID: fmt.Sprint(990_000 + i),
			Updated: time.Now().Add(-time.Hour), For: user, Kind: simulator.Recorded,
		})
	}
}

// until waits until an expression gives something other than 0.
func (w *world) until(t *testing.T, within time.Duration, what, expr string) {
	t.Helper()
	promtest.Eventually(t, within, what, func() error {
		series, err := w.Query(t.Context(), expr, time.Now())
		switch {
		case err != nil:
			return err
		case len(series) == 0 || series[0].Samples[0].Value == 0:
			return fmt.Errorf("%s gives %v", expr, series)
		}
		return nil
	})
}
