package sync_test

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"namebridge/internal/simulator"
	"namebridge/state"
	bridgesync "namebridge/sync"
)

// long makes some tests do what takes minutes: 100,000 users, a day of idling.
var long = flag.Bool("long", false, "tests of a daemon take minutes, as large as life")

// served is a process that serves a bridge.
type served struct {
	*bridgesync.Daemon
	quit  context.CancelFunc
	ended chan struct{}
	err   error // of Serve; to be read when ended is closed
}

// serve makes a process that serves b until it is stopped, or the test ends.
func serve(t testing.TB, b *bridgesync.Bridge) *served {
	t.Helper()
	ctx, quit := context.WithCancel(context.WithoutCancel(t.Context()))
	s := &served{Daemon: bridgesync.NewDaemon(b), quit: quit, ended: make(chan struct{})}
	go func() {
		s.err = s.Serve(ctx)
		close(s.ended)
	}()
	t.Cleanup(s.stop)
	return s
}

// stop ends the process as a signal does.
func (s *served) stop() {
	s.quit()
	<-s.ended
}

// every is a schedule of ticks shorter than a minute.
type every time.Duration

func (e every) Next(t time.Time) time.Time { return t.Add(time.Duration(e)) }

// ticks schedule the kinds; what is not among them is due by a test's wish alone.
func ticks(kinds map[state.Kind]time.Duration) map[state.Kind]bridgesync.Schedule {
	all := map[state.Kind]bridgesync.Schedule{}
	for _, kind := range []state.Kind{state.Collect, state.Sweep, state.Census} {
		d := kinds[kind]
		if d == 0 {
			d = 1000 * time.Hour
		}
		all[kind] = bridgesync.Schedule{Expression: "@every " + d.String(), Times: every(d)}
	}
	return all
}

// patience is how long a test waits for what has no bar of its own: machines that test are busy.
const patience = time.Minute

// eventually waits until check has nothing to object, and fails the test with its last objection.
func eventually(t testing.TB, within time.Duration, check func() string) {
	t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(20 * time.Millisecond) {
		objection := check()
		if objection == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v: %s", within, objection)
		}
	}
}

// ready waits until a process takes part.
func (s *served) ready(t testing.TB) {
	t.Helper()
	eventually(t, patience, func() string {
		if err := s.Ready(t.Context()); err != nil {
			return err.Error()
		}
		return ""
	})
}

// wrong is what is not as it should be in BLN, "" where nothing is.
func (w *world) wrong() string {
	if all := w.Mismatches(1); len(all) > 0 {
		return all[0]
	}
	return ""
}

// runs are all runs of a kind, in order of time.
func (w *world) runs(t testing.TB, kind state.Kind) []state.Run {
	t.Helper()
	rows, err := w.db.Query(t.Context(), `SELECT run FROM runs WHERE bridge = 'default' AND kind = $1 ORDER BY started_at`, kind)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var all []state.Run
	for rows.Next() {
		var id uuid.UUID
		if err := rows.Scan(&id); err != nil {
			t.Fatal(err)
		}
		run, err := state.GetRun(t.Context(), w.db, "default", id)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, run)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// exec changes rows behind the daemon's back.
func (w *world) exec(t testing.TB, sql string, args ...any) {
	t.Helper()
	if _, err := w.db.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

// value is what a statement with one row of one column answers.
func value[T any](t testing.TB, w *world, sql string, args ...any) (v T) {
	t.Helper()
	if err := w.db.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

// due makes a run of a kind due now, and waits until the daemon has ended one that was started since.
func (w *world) due(t testing.TB, kind state.Kind) {
	t.Helper()
	before := len(w.runs(t, kind))
	eventually(t, patience, func() string { // as soon as a process serves
		tag, err := w.db.Exec(t.Context(), `UPDATE schedules SET due_at = now() WHERE bridge = 'default' AND kind = $1`, kind)
		if err != nil {
			t.Fatal(err)
		}
		if tag.RowsAffected() == 0 {
			return "nobody serves"
		}
		return ""
	})
	eventually(t, patience, func() string {
		all := w.runs(t, kind)
		if len(all) == before {
			return fmt.Sprintf("no %s was started", kind)
		}
		if last := all[len(all)-1]; last.Status == state.Running {
			return fmt.Sprintf("a %s is still in phase %s", kind, last.Phase)
		}
		return ""
	})
}

// steady fails the test for what a daemon at rest must not leave: open writes, claims, running jobs.
func (w *world) steady(t testing.TB) {
	t.Helper()
	for what, sql := range map[string]string{
		"writes whose outcome is open":      `SELECT count(*) FROM journal WHERE state = 'sending'`,
		"users who are claimed":             `SELECT count(*) FROM directory_users WHERE claim_owner IS NOT NULL`,
		"jobs that somebody is to work on":  `SELECT count(*) FROM river_job WHERE state = 'running'`,
		"rows of windows that were dropped": `SELECT count(*) FROM staged_participants`,
	} {
		if n := value[int](t, w, sql); n != 0 {
			t.Errorf("%d %s", n, what)
		}
	}
}

// A deployment begins with nothing but its configuration.
func TestServingAnEmptyDatabaseBringsEverythingOver(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{Seed: 71, Users: 250})
	foreign := w.ForeignDigests("namecoach")
	w.settings.Schedules = ticks(nil)
	s := serve(t, w.bridge(t))
	eventually(t, patience, w.wrong)
	s.ready(t)
	if err := s.Stalled(); err != nil {
		t.Error(err)
	}
	eventually(t, patience, func() string {
		if n := value[int](t, w, `SELECT count(*) FROM runs WHERE status <> 'done'`); n > 0 {
			return fmt.Sprintf("%d runs are not done", n)
		}
		return ""
	})
	s.stop()
	if s.err != nil {
		t.Error(s.err)
	}
	w.foreignKept(t, foreign)
	w.settledJournal(t)
	w.steady(t)
	if collects, sweeps := len(w.runs(t, state.Collect)), len(w.runs(t, state.Sweep)); collects != 1 || sweeps != 1 {
		t.Errorf("%d collects and %d sweeps, want one of each", collects, sweeps)
	}
	if idle := w.IdleWrites(); len(idle) > 0 {
		t.Errorf("written twice: %v", idle[0])
	}
	// Everybody was known before the directory was listed.
	if n := w.asked("bln users.search") + w.asked("bln users.query"); n > 2 { // for the account itself, and for what list rows show
		t.Errorf("%d questions about single users", n)
	}
	res := w.runs(t, state.Collect)[0]
	if res.RequestsNamecoach == 0 {
		t.Error("the collect has counted no request")
	}
}

// However many replicas there are, each tick starts one run.
func TestEachTickIsFiredByOneReplica(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	w.user("ada@demo.example", "")
	w.backfill(t)
	const interval = 300 * time.Millisecond
	w.settings.Schedules = ticks(map[state.Kind]time.Duration{state.Collect: interval})
	for range 3 {
		serve(t, w.bridge(t))
	}
	eventually(t, patience, func() string {
		if n := len(w.runs(t, state.Collect)); n < 12 {
			return fmt.Sprintf("%d collects", n)
		}
		return ""
	})
	all := w.runs(t, state.Collect)
	most := int(all[len(all)-1].StartedAt.Sub(all[0].StartedAt)/interval) + 2 // the first may have been late
	if len(all) > most {
		t.Errorf("%d collects where there were %d ticks", len(all), most)
	}
	eventually(t, patience, func() string {
		if replicas, err := state.Replicas(t.Context(), w.db, "default"); err != nil || len(replicas) != 3 {
			return fmt.Sprintf("%d replicas, %v; want three", len(replicas), err)
		}
		return ""
	})
}

// A run that takes longer than its interval is not overtaken by the next.
func TestATickThatIsDueWhileTheRunIsUnderWayIsLeftOut(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	w.user("ada@demo.example", "")
	w.backfill(t)
	arrived, held := make(chan struct{}, 1), make(chan struct{})
	free := sync.OnceFunc(func() { close(held) })
	t.Cleanup(free)
	w.Change(func(o *simulator.Options) {
		o.OnRequest = func(_ *simulator.Simulator, endpoint string, _ int) {
			if endpoint == "namecoach participants.list" {
				select {
				case arrived <- struct{}{}:
				default:
				}
				<-held
			}
		}
	})
	w.settings.Schedules = ticks(map[state.Kind]time.Duration{state.Collect: 50 * time.Millisecond})
	serve(t, w.bridge(t))
	<-arrived
	due := value[time.Time](t, w, `SELECT due_at FROM schedules WHERE kind = 'collect'`)
	eventually(t, patience, func() string {
		if value[time.Time](t, w, `SELECT due_at FROM schedules WHERE kind = 'collect'`).Before(due.Add(500 * time.Millisecond)) {
			return "no ticks have passed"
		}
		return ""
	})
	if n := len(w.runs(t, state.Collect)); n != 1 {
		t.Errorf("%d collects at once", n)
	}
	free()
	eventually(t, patience, func() string {
		if n := len(w.runs(t, state.Collect)); n < 3 {
			return fmt.Sprintf("%d collects: the next tick starts none", n)
		}
		return ""
	})
}

// What was due while nobody served is made up, once however many ticks have passed.
func TestATickMissedWhileNobodyServedIsMadeUpOnce(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	w.user("ada@demo.example", "")
	w.backfill(t)
	w.settings.Schedules = ticks(map[state.Kind]time.Duration{state.Sweep: time.Hour})
	s := serve(t, w.bridge(t))
	s.ready(t)
	s.stop()
	w.exec(t, `UPDATE schedules SET due_at = now() - interval '10 hours' WHERE kind = 'sweep'`)

	s = serve(t, w.bridge(t))
	eventually(t, patience, func() string {
		if all := w.runs(t, state.Sweep); len(all) != 1 || all[0].Status != state.Done {
			return fmt.Sprintf("%d sweeps", len(all))
		}
		return ""
	})
	if next := value[time.Duration](t, w, `SELECT due_at - now() FROM schedules WHERE kind = 'sweep'`); next < 30*time.Minute || next > time.Hour {
		t.Errorf("the next sweep is due in %v", next)
	}
	s.stop()
	if n := len(w.runs(t, state.Sweep)); n != 1 {
		t.Errorf("%d sweeps", n)
	}
}

// Rule 2: a halted bridge asks and writes nothing, and whoever resumes it need do nothing else.
func TestAHaltedBridgeStartsNothingAndGoesOnWhenItIsResumed(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	w.crowd(30)
	w.settings.Schedules = ticks(map[state.Kind]time.Duration{state.Collect: 100 * time.Millisecond})
	halt := sync.OnceFunc(func() {
		if err := state.Halt(context.WithoutCancel(t.Context()), w.db, "default", "somebody looks into it", uuid.New()); err != nil {
			t.Error(err)
		}
	})
	w.Change(func(o *simulator.Options) {
		o.OnRequest = func(_ *simulator.Simulator, endpoint string, n int) {
			if endpoint == "bln users.put" && n >= 10 {
				halt() // whoever comes later waits until it is stored
			}
		}
	})
	s := serve(t, w.bridge(t))
	eventually(t, patience, func() string {
		if n := value[int](t, w, `SELECT count(*) FROM runs WHERE status = 'running'`); n > 0 || w.asked("bln users.put") < 10 {
			return fmt.Sprintf("%d runs go on, %d PUTs", n, w.asked("bln users.put"))
		}
		if n := value[int](t, w, `SELECT count(*) FROM directory_users WHERE claim_owner IS NOT NULL`); n > 0 {
			return fmt.Sprintf("%d users are still at work on", n)
		}
		return ""
	})
	puts, runs := w.asked("bln users.put"), value[int](t, w, `SELECT count(*) FROM runs`)
	if puts > 10+inFlight {
		t.Errorf("%d PUTs, where the tenth halted", puts)
	}
	w.ResetCounts()
	moved := value[time.Time](t, w, `SELECT due_at FROM schedules WHERE kind = 'collect'`)
	eventually(t, patience, func() string { // it has looked what is due, and put it off
		if due := value[time.Time](t, w, `SELECT due_at FROM schedules WHERE kind = 'collect'`); time.Until(due) < 5*time.Second {
			return fmt.Sprintf("the collect is due at %v, was %v", due, moved)
		}
		return ""
	})
	if now := value[int](t, w, `SELECT count(*) FROM runs`); now != runs || len(w.Counts()) > 0 {
		t.Errorf("a halted bridge has started %d runs and asked %v", now-runs, w.Counts())
	}
	s.ready(t) // what is halted is told by status and metrics: the process is well

	if err := state.Resume(t.Context(), w.db, "default", "it was nothing"); err != nil {
		t.Fatal(err)
	}
	eventually(t, patience, w.wrong)
	collects := len(w.runs(t, state.Collect))
	eventually(t, 30*time.Second, func() string { // at most 15 s after it was put off
		if n := len(w.runs(t, state.Collect)); n <= collects {
			return "no further collect was started"
		}
		return ""
	})
}

// severed is a process's network: nothing comes through once it is cut.
type severed struct{ done chan struct{} }

func (s severed) RoundTrip(r *http.Request) (*http.Response, error) {
	select {
	case <-s.done:
		<-r.Context().Done()
		return nil, r.Context().Err()
	default:
	}
	res, err := http.DefaultTransport.RoundTrip(r)
	select {
	case <-s.done:
		if err == nil {
			_ = res.Body.Close()
		}
		<-r.Context().Done()
		return nil, r.Context().Err()
	default:
		return res, err
	}
}

// A process that is gone without a word is followed by another within 15 s of its last sign of life.
func TestAnotherReplicaGoesOnWithinFifteenSeconds(t *testing.T) {
	t.Parallel()
	for name, at := range map[string]string{"that lists": "bln users.list", "that writes": "bln users.put"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, simulator.Options{BLNLatency: 5 * time.Millisecond})
			w.crowd(650)
			foreign := w.ForeignDigests("namecoach")
			w.settings.Schedules = ticks(nil)
			cable, db := w.cable(t)
			network := severed{make(chan struct{})}
			doomed := w.process(t, w.BLNURL(), db, network)
			reached := make(chan struct{})
			hold := sync.OnceFunc(func() { close(reached) })
			w.Change(func(o *simulator.Options) {
				o.OnRequest = func(_ *simulator.Simulator, endpoint string, n int) {
					if endpoint == at && n == 4 {
						hold()
					}
				}
			})
			serve(t, doomed)
			<-reached
			cable.cut()
			close(network.done)
			last := value[time.Time](t, w, `SELECT max(heartbeat_at) FROM workers`)
			w.ResetCounts()
			begun := value[time.Time](t, w, `SELECT now()`)

			next := serve(t, w.bridge(t))
			next.ready(t)
			eventually(t, patience, func() string {
				if w.asked(at) == 0 {
					return "nobody goes on"
				}
				return ""
			})
			took := value[time.Time](t, w, `SELECT now()`).Sub(last)
			t.Logf("it went on %.1f s after the last sign of life (%.1f s before the end)", took.Seconds(), begun.Sub(last).Seconds())
			bar := 15 * time.Second
			if !*long { // beside other tests
				bar *= 2
			}
			if took > bar {
				t.Errorf("it went on only after %v", took)
			}
			eventually(t, patience, w.wrong)
			eventually(t, patience, func() string {
				if n := value[int](t, w, `SELECT count(*) FROM runs WHERE status = 'running'`); n > 0 {
					return "a run is not ended"
				}
				return ""
			})
			w.foreignKept(t, foreign)
			w.settledJournal(t)
		})
	}
}

// A signal in the midst of writing: what was sent is seen to, nothing is left claimed, and another goes on at once.
func TestADaemonThatIsStoppedGivesEverythingBackAtOnce(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{BLNLatency: 20 * time.Millisecond})
	w.crowd(300)
	foreign := w.ForeignDigests("namecoach")
	w.settings.Schedules = ticks(nil)
	reached := make(chan struct{})
	tell := sync.OnceFunc(func() { close(reached) })
	w.Change(func(o *simulator.Options) {
		o.OnRequest = func(_ *simulator.Simulator, endpoint string, n int) {
			if endpoint == "bln users.put" && n >= 50 {
				tell()
				time.Sleep(time.Second) // so long may the word to stop take to come about
			}
		}
	})
	s := serve(t, w.bridge(t))
	<-reached
	began := time.Now()
	s.stop()
	if took := time.Since(began); took > 30*time.Second || s.err != nil { // then Kubernetes kills
		t.Errorf("it stopped after %v: %v", took, s.err)
	}
	puts := w.asked("bln users.put")
	if puts > 50+2*inFlight {
		t.Errorf("%d PUTs, where the fiftieth stopped it", puts)
	}
	w.settledJournal(t)
	w.steady(t)
	if n := value[int](t, w, `SELECT count(*) FROM workers`); n != 0 {
		t.Errorf("%d processes are still on the list", n)
	}
	if err := s.Ready(t.Context()); err == nil {
		t.Error("it is ready though it has stopped")
	}

	w.Change(func(o *simulator.Options) { o.BLNLatency, o.OnRequest = 0, nil })
	began = time.Now()
	serve(t, w.bridge(t))
	eventually(t, patience, w.wrong)
	t.Logf("the next was done after %v", time.Since(began))
	w.foreignKept(t, foreign)
	if n := w.asked("bln users.put"); n != 300 {
		t.Errorf("%d PUTs for 300 users", n)
	}
}

// Whoever changes the fragment is overruled: at the next sweep where list rows show it, by an audit where they do not.
func TestDriftIsRepaired(t *testing.T) {
	t.Parallel()
	for name, rows := range map[string]simulator.ListRows{"by a sweep": simulator.Complete, "by an audit": simulator.Partial} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, simulator.Options{Seed: 73, Users: 60, ListRows: rows})
			w.settings.Schedules = ticks(nil)
			serve(t, w.bridge(t))
			eventually(t, patience, w.wrong)
			eventually(t, patience, func() string { return running(t, w) })
			foreign := w.ForeignDigests("namecoach")
			for i, c := range w.Life(simulator.LifeOptions{Seed: 1, Weights: simulator.Weights{simulator.FragmentOverwritten: 1, simulator.FragmentRemoved: 1}}).Changes(6) {
				t.Log(i, c)
			}
			if w.wrong() == "" {
				t.Fatal("nothing has drifted")
			}
			if rows == simulator.Partial {
				w.due(t, state.Sweep)
				if w.wrong() == "" {
					t.Fatal("the sweep has seen what rows do not show")
				}
				// A month passes, for as many sweeps as it takes to read everybody.
				w.exec(t, `UPDATE directory_users SET audit_at = now() - interval '1 hour' WHERE audit_at IS NOT NULL`)
				for range 10 {
					w.due(t, state.Sweep)
				}
			} else {
				w.due(t, state.Sweep)
			}
			w.right(t)
			w.foreignKept(t, foreign)
		})
	}
}

// running names a run that is not ended.
func running(t testing.TB, w *world) string {
	t.Helper()
	return value[string](t, w, `SELECT coalesce(max(kind || ' in ' || phase), '') FROM runs WHERE status = 'running'`)
}

// Who came to BLN after a recording was made is met by a search, where windows do not go back so far.
func TestANewUserMeetsAnOldRecordingThroughSearch(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	w.user("ada@demo.example", "")
	w.AddParticipant(speaker("bob", "bob@demo.example", "", 2)) // who will be user 2
	if res := w.run(t, state.Done, func(b *bridgesync.Bridge) (bridgesync.Result, error) {
		return b.Backfill(t.Context(), time.Now().Add(-24*time.Hour))
	}); res.Participants != 0 {
		t.Fatalf("%+v, want that the recording is older than what is collected", res)
	}
	w.settings.Schedules = ticks(nil)
	serve(t, w.bridge(t))
	bob := w.user("bob@demo.example", "")
	w.due(t, state.Sweep)
	w.right(t)
	if w.fragment(t, bob) == nil {
		t.Error("nothing was written")
	}
	// Whom NameCoach was asked about is not asked about again.
	w.ResetCounts()
	w.due(t, state.Sweep)
	if n := w.asked("namecoach participants.search"); n > 0 {
		t.Errorf("%d searches", n)
	}
}

// The cursor audits itself: what a question brings and windows should have brought is counted, and they reach further back.
func TestRowsThatWindowsMissedAreCountedAndWidenTheLookback(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	w.user("ada@demo.example", "")
	w.AddParticipant(speaker("ada", "ada@demo.example", "", 1))
	w.settings.Schedules = ticks(nil)
	serve(t, w.bridge(t))
	eventually(t, patience, w.wrong)
	eventually(t, patience, func() string { return running(t, w) })
	w.due(t, state.Collect)

	// It becomes visible an hour after its update time: no window with a lookback of ten minutes brings it.
	late := speaker("bob", "bob@demo.example", "", 2) // who will be user 2
	late.Updated = time.Now().Add(-time.Hour)
	w.AddParticipant(late)
	w.due(t, state.Collect)
	bob := w.user("bob@demo.example", "")
	w.due(t, state.Sweep)
	if w.right(t); w.fragment(t, bob) == nil {
		t.Fatal("the sweep's search has not brought it")
	}
	if n := value[int64](t, w, `SELECT late_found FROM bridges`); n != 0 {
		t.Errorf("%d late rows: a window may still bring it", n)
	}
	w.Advance(15 * time.Minute)
	for range 3 { // the first learns the time, the second moves the cursor over what was missed
		w.due(t, state.Collect)
	}
	b, err := state.GetBridge(t.Context(), w.db, "default")
	if err != nil || b.LateFound != 1 || b.Lookback(w.settings.Lookback) != 2*w.settings.Lookback {
		t.Errorf("%d rows were found late, the lookback is %v; want one, and twice %v", b.LateFound, b.Lookback(w.settings.Lookback), w.settings.Lookback)
	}
	// Wide enough now: what shows 15 minutes late is brought by a window.
	late = speaker("eve", "eve@demo.example", "", w.user("eve@demo.example", ""))
	late.Updated = time.Now() // a quarter of an hour ago, by NameCoach's clock
	w.AddParticipant(late)
	w.due(t, state.Collect)
	w.right(t)
	if b, err := state.GetBridge(t.Context(), w.db, "default"); err != nil || b.LateFound != 1 {
		t.Errorf("%d rows were found late, %v", b.LateFound, err)
	}
}

// Everything that can happen to people happens, at any moment, with two replicas: in the end it is as it should be.
func TestADaemonKeepsALivingWorldTrue(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{Seed: 74, Users: 300})
	w.settings.Schedules = ticks(map[state.Kind]time.Duration{state.Collect: 250 * time.Millisecond, state.Sweep: 2 * time.Second})
	for range 2 {
		serve(t, w.bridge(t))
	}
	eventually(t, patience, w.wrong)
	life := w.Life(simulator.LifeOptions{Seed: 2, Avoid: 2 * time.Second})
	kinds := map[simulator.ChangeKind]int{}
	for range 120 {
		c, ok := life.Next()
		if !ok {
			t.Fatal("nothing more can happen")
		}
		kinds[c.Kind]++
		time.Sleep(25 * time.Millisecond)
	}
	t.Logf("%v", kinds)
	// A deletion is believed after two censuses; keys that moved in BLN are seen by a sweep.
	eventually(t, patience, func() string {
		all := w.Mismatches(1, simulator.Noticed, simulator.Unnoticed)
		if len(all) > 0 {
			return all[0]
		}
		return ""
	})
	for range 2 {
		w.due(t, state.Census)
	}
	eventually(t, patience, w.wrong)
	if damage := w.ForeignDamage(5); len(damage) > 0 {
		t.Errorf("foreign keys: %v", damage)
	}
	if lost := w.LostUpdates(); len(lost) > 0 {
		t.Errorf("what others wrote was undone: %v", lost)
	}
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		if kinds[kind] == 0 {
			t.Errorf("nobody %s", kind)
		}
	}
}

// The first sweep and the first collect may end in any order: whichever is the last to know enough begins to link.
func TestTheLaterOfTheFirstSweepAndTheFirstCollectLinks(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		held  string // the request that waits, the number of which is at, until the other kind's run is ended
		at    int
		other state.Kind
	}{
		"the collect ends while the sweep waits for its last page": {held: "bln users.list", at: 2, other: state.Collect},
		"the sweep ends while the collect waits for its rows":      {held: "namecoach participants.list", at: 1, other: state.Sweep},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, simulator.Options{})
			w.crowd(5)
			w.settings.Schedules = ticks(nil)
			ended := make(chan struct{})
			free := sync.OnceFunc(func() { close(ended) })
			t.Cleanup(free)
			w.Change(func(o *simulator.Options) {
				o.OnRequest = func(_ *simulator.Simulator, endpoint string, n int) {
					if endpoint == c.held && n == c.at {
						<-ended
					}
				}
			})
			serve(t, w.bridge(t)).ready(t)
			w.exec(t, `UPDATE schedules SET due_at = now() WHERE kind = 'sweep'`) // as its hour may come
			eventually(t, patience, func() string {
				if all := w.runs(t, c.other); len(all) == 0 || all[0].Status != state.Done {
					return "it is not ended"
				}
				return ""
			})
			if w.asked("bln users.put") > 0 {
				t.Error("somebody was written by half of what there is to know")
			}
			free()
			eventually(t, patience, w.wrong)
		})
	}
}
