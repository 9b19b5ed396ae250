package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"namebridge/internal/postgres/testdb"
	"namebridge/internal/simulator"
	"namebridge/migrations"
	"namebridge/state"
)

var (
	chaos = flag.Duration("chaos", 4*time.Second, "how long replicas are killed while everything changes")
	turn  = flag.Uint64("turn", 0, "another number, another course of events")
)

// The bar of crashes for the daemon: whatever happens to two replicas while both sides change and every twentieth request goes wrong, the end is
// that of an undisturbed run.
func TestReplicasThatAreKilledWhileEverythingChangesEndInTheTruth(t *testing.T) {
	t.Parallel()
	tumult{
		seed: 41 + *turn, users: 300 + 8*int(chaos.Seconds()), gone: simulator.Unnoticed, perPage: 100, known: true, half: true,
		schedules: map[string]time.Duration{"collect": 2 * time.Second, "sweep": 6 * time.Second},
		env:       map[string]string{"COLLECT_SCHEDULE": "@every 2s", "SWEEP_SCHEDULE": "@every 6s", "CENSUS_SCHEDULE": "0 0 1 1 *"},
		weights:   simulator.EveryKind(),
	}.run(t)
}

// Who is deleted from NameCoach is cleared when two complete censuses have not shown them, whoever took them, and nobody else is.
func TestCensusesOfReplicasThatAreKilledClearThoseWhoAreGoneAndNobodyElse(t *testing.T) {
	t.Parallel()
	weights := simulator.EveryKind()
	weights[simulator.LeavesNameCoach] = 30
	tumult{
		seed: 43 + *turn, users: 200 + 8*int(chaos.Seconds()), gone: simulator.Noticed, put: simulator.Short, pauses: true,
		schedules: map[string]time.Duration{"collect": 2 * time.Second, "sweep": 6 * time.Second, "census": 4 * time.Second},
		env:       map[string]string{"COLLECT_SCHEDULE": "@every 2s", "SWEEP_SCHEDULE": "@every 6s", "CENSUS_SCHEDULE": "@every 4s"},
		weights:   weights,
	}.run(t)
}

// tumult is two replicas of the real program that are killed again and again while people change things on both sides.
type tumult struct {
	seed      uint64
	users     int
	gone      simulator.Gone
	known     bool // a backfill has come first; else replicas begin with nothing
	half      bool // of the people are as they were left long ago, so that others may edit them from the start
	pauses    bool // some replicas are stopped for a while rather than killed
	put       simulator.PutAnswer
	perPage   int // rows that NameCoach answers with at most; 0: as many as usual
	schedules map[string]time.Duration
	env       map[string]string
	weights   simulator.Weights
}

const (
	nameCoachCeiling = 3000 // requests in 15 minutes
	blnCeiling       = 100  // requests in a second
	changeEvery      = 100 * time.Millisecond
	pulseEvery       = 100 * time.Millisecond
	killFirst        = 3 * time.Second // the least and the most between two kills, where it lasts long enough
	killLast         = 6 * time.Second
	pauseLasts       = (state.Lease + 3) * time.Second
	// othersWait is longer than it takes to notice that a process is dead and to look into its writes, should whoever does so die, too.
	othersWait = 50 * time.Second
	// calmWithin bounds how long it takes until everything is carried over when nothing happens any more, and half as long as things
	// have happened: so much more is left, the clears of two censuses above all, and variants share the machine.
	calmWithin = 3 * time.Minute
)

var fivePercent = simulator.Faults{P5xx: .018, P429: .002, PReset: .01, PTruncate: .01, PSlow: .005, PAppliedThenTimeout: .005, Slow: 500 * time.Millisecond}

func (u tumult) run(t *testing.T) {
	p := u.place(t, nil)
	p.exec(t, `CREATE TABLE fired AS SELECT kind, due_at AS due, now() AS at FROM schedules WITH NO DATA`)
	p.exec(t, `CREATE FUNCTION note_fired() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO fired VALUES (OLD.kind, OLD.due_at, now()); RETURN NULL; END'`)
	p.exec(t, `CREATE TRIGGER fired AFTER UPDATE OF due_at ON schedules FOR EACH ROW EXECUTE FUNCTION note_fired()`)
	p.Change(func(o *simulator.Options) { o.Faults = fivePercent })
	began := time.Now()
	f := u.replicas(t, p)
	watch := newWatch(p)
	over, pulse := f.feel(t)
	changes := u.disturb(t, watch, func() {
		ctx, cancel := context.WithTimeout(t.Context(), *chaos)
		defer cancel()
		f.killUntil(ctx, rand.New(rand.NewPCG(u.seed, 9)))
	})
	calm := time.Now()
	u.settle(t, f, watch, calm)
	settled := time.Since(calm)
	f.stop()
	over()
	f.stalls = <-pulse

	if f.kills == 0 {
		t.Error("nobody was killed")
	}
	f.finished()
	u.carriedOver(t, p, watch)
	u.onTime(t, f, began)
	ceilingsKept(t, p)
	t.Logf("%d kills · %d starts · %d pauses in %v", f.kills, f.starts, f.paused, *chaos)
	u.report(t, f, watch, changes, settled)
	// What is asked and written from here on is no longer theirs.
	p.Change(func(o *simulator.Options) { o.Faults = simulator.Faults{} })
	u.nothingLeft(t, p)
}

// place is where it takes place, with an environment that differs from the usual by env.
func (u tumult) place(t *testing.T, env map[string]string) *place {
	t.Helper()
	if !u.known && u.weights[simulator.LeavesNameCoach] > 0 && (u.gone == simulator.Unnoticed || u.half) {
		t.Fatal("who is deleted before a bridge has seen them speaks for nobody, and what stands there since before is nobody's to clear")
	}
	p := newPlace(t, simulator.Options{
		Seed: u.seed, Users: u.users, PutAnswer: u.put, MaxPerPage: u.perPage, RotateDigests: true, LateVisibleUpTo: time.Second,
		NameCoachLatency: 20 * time.Millisecond, BLNLatency: 20 * time.Millisecond, RetryAfter: simulator.RetryAfterSeconds,
		NameCoachPer15Minutes: nameCoachCeiling, BLNPerSecond: blnCeiling,
	}).with(map[string]string{
		"NAMECOACH_REQUESTS_PER_15_MINUTES": fmt.Sprint(nameCoachCeiling), "BLN_REQUESTS_PER_SECOND": fmt.Sprint(blnCeiling),
		"WINDOW_SETTLE": "1s", "WINDOW_LOOKBACK": "20s", "LISTEN_ADDR": "127.0.0.1:0", "LOG_LEVEL": "info",
		"GUARD_MAX_CLEARS": "1000000", // so much is changed in so little time
	}).with(u.env).with(env)
	if u.half {
		for id, user := range p.Truth().Users {
			if user.Fragment != nil && id%2 == 0 {
				if err := p.EditOtherInfo(id, "namecoach", user.Fragment.JSON()); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if u.known {
		p.run(t, "backfill").ends(t, exitDone)
	}
	return p
}

// replicas starts two, which end with the test.
func (u tumult) replicas(t *testing.T, p *place) *fleet {
	t.Helper()
	f := &fleet{t: t, place: p, bin: program(t), pauses: u.pauses, said: map[string]int{}}
	t.Cleanup(f.clear)
	for i := range f.replicas {
		f.replicas[i] = f.start()
	}
	return f
}

// disturb changes everything until harm, which does something to those who work on it, has done so.
func (u tumult) disturb(t *testing.T, w *watch, harm func()) (changes map[simulator.ChangeKind]int) {
	t.Helper()
	changes = map[simulator.ChangeKind]int{}
	life := w.place.Life(simulator.LifeOptions{Seed: u.seed, Weights: u.weights, Avoid: othersWait})
	over := make(chan struct{})
	var living sync.WaitGroup
	living.Go(func() {
		change, look := time.NewTicker(changeEvery), time.NewTicker(lookEvery)
		defer change.Stop()
		defer look.Stop()
		for {
			select {
			case <-change.C:
				c, ok := life.Next()
				if !ok {
					t.Error("nothing can be changed any more")
					return
				}
				changes[c.Kind]++
				w.expect(c)
			case <-look.C:
				w.look()
			case <-over:
				return
			}
		}
	})
	defer living.Wait()
	defer close(over)
	harm()
	return changes
}

func pick[T any](dice *rand.Rand, of ...T) T { return of[dice.IntN(len(of))] }

// watch measures how long it takes until a change is to be seen in BLN.
type watch struct {
	place *place
	all   []simulator.Change
	open  []waiting
	waits map[simulator.ChangeKind][]time.Duration
}

func newWatch(p *place) *watch {
	return &watch{place: p, waits: map[simulator.ChangeKind][]time.Duration{}}
}

type waiting struct {
	simulator.Change
	since time.Time
}

func (w *watch) expect(c simulator.Change) {
	w.all = append(w.all, c)
	if len(c.Users) > 0 && c.Kind != simulator.LeavesNameCoach {
		w.open = append(w.open, waiting{c, time.Now()})
	}
}

func (w *watch) look() {
	w.open = slices.DeleteFunc(w.open, func(c waiting) bool {
		for _, id := range c.Users {
			if w.place.Mismatch(id, simulator.Unnoticed, simulator.Noticed) != "" {
				return false
			}
		}
		w.waits[c.Kind] = append(w.waits[c.Kind], time.Since(c.since))
		return true
	})
}

// fleet is the replicas.
type fleet struct {
	t        *testing.T
	place    *place
	bin      string
	replicas [2]*replica

	pauses bool // beside kills

	kills, starts, paused int
	served                []stretch      // when one of those who are dead served the bridge
	stalls                []stretch      // when the machine or the database did nothing for anybody
	said                  map[string]int // by them, at warn and above, and that they take part again
}

type stretch struct{ from, to time.Time }

// replica is one life of a replica.
type replica struct {
	*exec.Cmd
	mu      sync.Mutex
	line    []byte
	log     []string
	address string    // of its HTTP server
	served  time.Time // since when it has taken part in the work
	paused  bool      // at some time: when it did so again is not known
	said    map[string]int
}

// Write takes the log.
func (d *replica) Write(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.line = append(d.line, b...)
	for {
		line, rest, whole := bytes.Cut(d.line, []byte("\n"))
		if !whole {
			return len(b), nil
		}
		d.log = append(d.log, string(line))
		var entry struct{ Level, Msg, Problem, Err, Error, HTTP string } // River calls a problem err or error
		switch err := json.Unmarshal(line, &entry); {
		case err != nil:
			d.said["NO LOG LINE: "+string(line)]++
		case entry.Msg == "starting":
			d.address = entry.HTTP
		case entry.Msg == "a bridge is served" && !d.paused:
			d.served = time.Now()
		case entry.Level != "INFO" || entry.Msg == "takes part in the work again":
			d.said[strings.TrimSpace(entry.Level+" "+entry.Msg+" "+cmp.Or(entry.Problem, entry.Err, entry.Error))]++
		}
		d.line = rest
	}
}

func (f *fleet) start() *replica {
	f.t.Helper()
	d := &replica{said: map[string]int{}}
	d.Cmd = f.place.command(f.t, f.bin, "serve")
	d.Stderr = d
	if err := d.Start(); err != nil {
		f.t.Error(err)
		return nil
	}
	f.starts++
	return d
}

// command is the program with the environment of the place, not started.
func (p *place) command(t *testing.T, program string, args ...string) *exec.Cmd {
	c := exec.CommandContext(t.Context(), program, args...)
	for k, v := range p.env {
		c.Env = append(c.Env, k+"="+v)
	}
	return c
}

// killUntil kills one replica after the other and starts it again, at least one: every other time while a request is on its way.
func (f *fleet) killUntil(ctx context.Context, dice *rand.Rand) {
	f.t.Helper()
	least, most := min(killFirst, *chaos/4), min(killLast, *chaos/2)
	for {
		victim, dead := dice.IntN(len(f.replicas)), make(chan struct{})
		select {
		case <-time.After(least + time.Duration(dice.Int64N(int64(most-least)))):
		case <-ctx.Done():
			if f.kills > 0 {
				return
			}
		}
		if f.pauses && dice.IntN(4) == 0 {
			f.pause(ctx, victim)
			continue
		}
		if dice.IntN(2) == 0 {
			select {
			case <-f.trap(pick(dice, "bln users.put", "bln users.put", "bln users.get", "bln users.list", "namecoach participants.list"), dead):
			case <-time.After(time.Second):
			}
		}
		_ = f.replicas[victim].Process.Kill() // bury finds out whether it had ended by itself
		close(dead)
		f.place.Change(func(o *simulator.Options) { o.OnRequest = nil })
		f.bury(victim, func(status syscall.WaitStatus) bool { return status.Signaled() && status.Signal() == syscall.SIGKILL })
		f.kills++
		if f.replicas[victim] = f.start(); f.replicas[victim] == nil {
			return
		}
	}
}

// pause stops a replica for longer than its lease, and lets it go on.
func (f *fleet) pause(ctx context.Context, victim int) {
	f.t.Helper()
	d := f.replicas[victim]
	if err := d.Process.Signal(syscall.SIGSTOP); err != nil {
		f.t.Error(err)
	}
	f.paused++
	d.mu.Lock()
	if !d.served.IsZero() {
		f.served = append(f.served, stretch{d.served, time.Now()})
	}
	d.served, d.paused = time.Time{}, true
	d.mu.Unlock()
	select {
	case <-time.After(pauseLasts):
	case <-ctx.Done():
	}
	if err := d.Process.Signal(syscall.SIGCONT); err != nil {
		f.t.Error(err)
	}
}

// trap closes what it returns when a request of that name arrives, and keeps that until dead is closed.
func (f *fleet) trap(endpoint string, dead <-chan struct{}) chan struct{} {
	there := make(chan struct{})
	var once sync.Once
	f.place.Change(func(o *simulator.Options) {
		o.OnRequest = func(_ *simulator.Simulator, name string, _ int) {
			if name == endpoint {
				once.Do(func() { close(there) })
				<-dead
			}
		}
	})
	return there
}

// bury takes in what a replica that has ended leaves; it must have ended as it should.
func (f *fleet) bury(i int, as func(syscall.WaitStatus) bool) {
	f.t.Helper()
	d := f.replicas[i]
	err := d.Wait()
	if status, ok := d.ProcessState.Sys().(syscall.WaitStatus); !ok || !as(status) {
		f.t.Errorf("a replica ended with %v\n%s", err, strings.Join(d.log[max(0, len(d.log)-30):], "\n"))
	}
	if !d.served.IsZero() {
		f.served = append(f.served, stretch{d.served, time.Now()})
	}
	for what, n := range d.said {
		f.said[what] += n
	}
	f.replicas[i] = nil
}

// stop asks both to end, which they do in good order.
func (f *fleet) stop() {
	f.t.Helper()
	for i, d := range f.replicas {
		if err := d.Process.Signal(syscall.SIGTERM); err != nil {
			f.t.Error(err)
		}
		f.bury(i, func(status syscall.WaitStatus) bool { return status.Exited() && status.ExitStatus() == exitDone })
	}
}

// clear ends what a test that failed has left running.
func (f *fleet) clear() {
	for _, d := range f.replicas {
		if d == nil {
			continue
		}
		_ = d.Process.Kill()
		_ = d.Wait()
		if f.t.Failed() {
			f.t.Logf("the end of a log:\n%s", strings.Join(d.log[max(0, len(d.log)-30):], "\n"))
		}
	}
}

// feel notes when this machine or the database do nothing for anybody: that is no replica's fault. It ends, and tells, when over is called.
func (f *fleet) feel(t *testing.T) (over func(), stalls <-chan []stretch) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	db, told := f.place.connect(t), make(chan []stretch, 1)
	go func() {
		var all []stretch
		defer func() { told <- all }()
		tick := time.NewTicker(pulseEvery)
		defer tick.Stop()
		for last := time.Now(); ; last = time.Now() {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			if _, err := db.Exec(t.Context(), `SELECT txid_current()`); err != nil {
				t.Error(err)
				return
			}
			if time.Since(last) > 4*pulseEvery {
				all = append(all, stretch{last, time.Now()})
			}
		}
	}()
	return cancel, told
}

// claimed counts the users whom somebody has claimed. Who was killed, or has lost the lease, has claimed nothing any more: whoever writes
// such a user takes it over, so that the mark stays where nothing is to be written, because the person was deleted before anybody came to it.
var claimed = fmt.Sprintf(`(SELECT count(*) FROM directory_users d WHERE claim_owner IS NOT NULL AND gone_at IS NULL AND NOT EXISTS
	(SELECT 1 FROM workers w WHERE w.bridge = d.bridge AND w.owner = d.claim_owner AND w.heartbeat_at < now() - interval '%d seconds'))`, state.Lease)

// unrest is what may stand in the database for a while, but not for ever.
var unrest = `SELECT format('%s sending, %s pending, %s claimed, %s running, %s due',
	(SELECT count(*) FROM journal WHERE state = 'sending'),
	(SELECT count(*) FROM directory_users WHERE wanted_version > applied_version AND gone_at IS NULL),
	` + claimed + `,
	(SELECT count(*) FROM runs WHERE status = 'running'),
	(SELECT count(*) FROM participants WHERE link_due OR doubt_due) + (SELECT count(*) FROM directory_users WHERE decide_due AND gone_at IS NULL))`

const rest = "0 sending, 0 pending, 0 claimed, 0 running, 0 due"

// settle waits until everything is carried over: each kind of run was done once more after everything had become calm, a census as
// often as it takes.
func (u tumult) settle(t *testing.T, f *fleet, w *watch, calm time.Time) {
	t.Helper()
	ctx, db := t.Context(), f.place.connect(t)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		w.look()
		var stands string
		var runs []string
		if err := db.QueryRow(ctx, unrest).Scan(&stands); err != nil {
			t.Fatal(err)
		}
		missing, lags := "", false
		err := db.QueryRow(ctx, `SELECT coalesce(array_agg(kind), '{}'), now() - (SELECT until FROM cursors WHERE stream = 'participants') > interval '10 seconds'
			FROM runs WHERE status = 'done' AND started_at > $1`, calm).Scan(&runs, &lags)
		if err != nil {
			t.Fatal(err)
		}
		if lags {
			missing = " the cursor lags"
		}
		for kind := range u.schedules {
			done := 0
			for _, k := range runs {
				if k == kind {
					done++
				}
			}
			if done == 0 || kind == "census" && done < 2 {
				missing += " no " + kind
			}
		}
		if stands == rest && missing == "" {
			if len(f.place.Mismatches(1, u.gone)) == 0 {
				return
			}
		}
		if within := calmWithin + *chaos/2; time.Since(calm) > within {
			t.Errorf("not calm after %v: %s;%s", within, stands, missing)
			return
		}
		<-tick.C
	}
}

// carriedOver fails the test unless both sides and the database are as an undisturbed run leaves them.
func (u tumult) carriedOver(t *testing.T, p *place, w *watch) {
	t.Helper()
	for what, all := range map[string][]string{
		"not the truth":                   p.Mismatches(20, u.gone),
		"foreign keys lost or changed":    p.ForeignDamage(20),
		"written over what others wrote":  p.LostUpdates(),
		"written without need":            p.IdleWrites(),
		"a polite client does none of it": p.Violations(),
	} {
		for _, one := range all {
			t.Errorf("%s: %s", what, one)
		}
	}
	for _, wrong := range p.Mismatches(1, u.gone) {
		var id int64
		if _, err := fmt.Sscanf(wrong, "user %d", &id); err != nil {
			t.Fatal(err)
		}
		p.tell(t, id, w)
	}
	// Statements that count what must not be there.
	for what, statement := range map[string]string{
		"writes whose outcome is open":    `SELECT count(*) FROM journal WHERE state = 'sending'`,
		"before-images kept without need": `SELECT count(*) FROM journal WHERE before IS NOT NULL`,
		"writes that damaged something":   `SELECT count(*) FROM journal WHERE state IN ('restored', 'damaged')`,
		// Of one version there may be two: what was decided while a write was on its way that it takes for done is written after that.
		"wishes that were carried out twice":               `SELECT count(*) FROM (SELECT 1 FROM journal WHERE state = 'verified' GROUP BY user_id, version, after_fragment HAVING count(*) > 1) x`,
		"users still claimed":                              `SELECT ` + claimed,
		"users still pending":                              `SELECT count(*) FROM directory_users WHERE wanted_version > applied_version AND gone_at IS NULL`,
		"halts":                                            `SELECT count(*) FROM bridges WHERE halted_at IS NOT NULL`,
		"runs that nobody ended":                           `SELECT count(*) FROM runs WHERE status = 'running' AND started_at < now() - interval '1 minute'`,
		"runs that ended in another way than done":         `SELECT count(*) FROM runs WHERE status NOT IN ('running', 'done')`,
		"walks that lead nowhere any more":                 `SELECT count(*) FROM cursors c WHERE stream <> 'participants' AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.run::text = c.stream AND r.status = 'running')`,
		"deadlocks":                                        `SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()`,
		"jobs that somebody still works on":                `SELECT count(*) FROM river_job WHERE state = 'running'`,
		"jobs that were given up":                          `SELECT count(*) FROM river_job WHERE state IN ('discarded', 'cancelled')`,
		"jobs that wait for a long time":                   `SELECT count(*) FROM river_job WHERE finalized_at IS NULL AND scheduled_at < now() - interval '1 minute'`,
		"processes that said good-bye and are still there": `SELECT count(*) FROM workers WHERE heartbeat_at > now() - interval '3 seconds'`,
		"cursors far behind the last collect": `SELECT 1 - count(*) FROM cursors WHERE stream = 'participants' AND
			until > (SELECT max(started_at) FROM runs WHERE kind = 'collect' AND status = 'done') - interval '10 seconds'`,
	} {
		if n := p.sql(t, statement); n != 0 {
			t.Errorf("%d %s", n, what)
		}
	}
	// Who is deleted after a search has shown them and before a window could is counted, too: deletions tell nobody.
	deleted := 0
	for _, c := range w.all {
		if c.Kind == simulator.LeavesNameCoach {
			deleted++
		}
	}
	if late := p.sql(t, `SELECT late_found FROM bridges`); late > (deleted+99)/100 {
		t.Errorf("%d rows that windows have missed; %d were deleted", late, deleted)
	}
	// Whatever was carried out is known to be, and nothing else is believed to be.
	carried, known := map[int64]int{}, map[int64]int{}
	for _, w := range p.Writes() {
		carried[w.User]++
	}
	db := p.connect(t)
	rows, err := db.Query(t.Context(), `SELECT user_id, count(*) FROM journal WHERE state = 'verified' GROUP BY user_id`)
	if err != nil {
		t.Fatal(err)
	}
	var id int64
	var n int
	if _, err := pgx.ForEachRow(rows, []any{&id, &n}, func() error { known[id] = n; return nil }); err != nil {
		t.Fatal(err)
	}
	for _, user := range p.Users() {
		if carried[user.ID] != known[user.ID] {
			t.Errorf("user %d: %d writes were carried out, %d are known", user.ID, carried[user.ID], known[user.ID])
			p.tell(t, user.ID, w)
		}
	}
}

// tell says what is known of a user.
func (p *place) tell(t *testing.T, id int64, w *watch) {
	t.Helper()
	for _, c := range w.all {
		if c.User == id || slices.Contains(c.Users, id) {
			t.Log(c.At.Format(time.TimeOnly), c)
		}
	}
	for _, row := range p.Participants() {
		if row.For == id {
			t.Logf("on NameCoach: %+v", row)
		}
	}
	for _, write := range p.Writes() {
		if write.User == id {
			t.Logf("carried out: %+v", write)
		}
	}
	rows, err := p.connect(t).Query(t.Context(), `SELECT to_jsonb(p)::text FROM participants p JOIN links l USING (bridge, person) WHERE l.user_id = $1
		UNION ALL SELECT to_jsonb(d)::text FROM directory_users d WHERE d.user_id = $1
		UNION ALL SELECT to_jsonb(j)::text FROM journal j WHERE j.user_id = $1`, id)
	if err != nil {
		t.Fatal(err)
	}
	known, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range known {
		t.Log("in the database:", one)
	}
}

// connect is a connection to the database for as long as the test lasts.
func (p *place) connect(t *testing.T) *pgx.Conn {
	t.Helper()
	db, err := pgx.Connect(t.Context(), p.env["DATABASE_URL"])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close(context.WithoutCancel(t.Context())) })
	return db
}

// finished fails the test for what no replica ever says, but for what begins so.
func (f *fleet) finished(but ...string) {
	f.t.Helper()
	if f.paused > 0 {
		but = append(but, "ERROR took no part", "ERROR the queue of jobs meets trouble") // whose questions have timed out meanwhile
	}
	for what := range f.said {
		if slices.ContainsFunc(but, func(begins string) bool { return strings.HasPrefix(what, begins) }) {
			continue
		}
		if strings.HasPrefix(what, "ERROR the queue of jobs meets trouble") && strings.Contains(what, "deadline exceeded") {
			continue // the database stood still for longer than River waits for it
		}
		if strings.HasPrefix(what, "ERROR") || strings.HasPrefix(what, "NO LOG LINE") {
			f.t.Errorf("a replica said %s", what)
		}
	}
}

// mayIdle is how much later than due a run may begin: shorter than it would take if anybody waited for the lease of one who was killed.
const mayIdle = (state.Lease - 2) * time.Second

// onTime fails the test unless each schedule was fired once a tick, as long as anybody served the bridge.
func (u tumult) onTime(t *testing.T, f *fleet, began time.Time) {
	t.Helper()
	ctx, db := t.Context(), f.place.connect(t)
	for kind, tick := range u.schedules {
		rows, err := db.Query(ctx, `SELECT started_at, coalesce(ended_at, now()) FROM runs WHERE kind = $1 ORDER BY started_at`, kind)
		if err != nil {
			t.Fatal(err)
		}
		runs, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (s stretch, err error) { return s, row.Scan(&s.from, &s.to) })
		if err != nil {
			t.Fatal(err)
		}
		if len(runs) == 0 {
			t.Errorf("there was no %s", kind)
			continue
		}
		// Whoever is late starts a run shortly before the next is due, but nobody starts two for one time.
		early := `SELECT count(*) FROM runs r LEFT JOIN fired f ON f.kind = r.kind AND f.at = r.started_at
			WHERE r.kind = '` + kind + `' AND (f.due > r.started_at OR f.due IS NULL)`
		if n := f.place.sql(t, early); n > 0 {
			t.Errorf("%d runs (%s) were started before they were due", n, kind)
		}
		longest := time.Duration(0)
		for i, run := range runs {
			before := began
			if i > 0 {
				before = runs[i-1].to
				if run.from.Before(before.Add(-time.Second)) {
					t.Errorf("a %s was started at %v while one was under way until %v", kind, run.from, before)
				}
			}
			idle := f.servedWithin(stretch{before, run.from})
			longest = max(longest, idle)
			if idle > tick+mayIdle {
				t.Errorf("no %s was started for %v before %v, although the bridge was served", kind, idle, run.from)
			}
		}
		t.Logf("%-8s %d runs · longest pause while served %v", kind, len(runs), longest.Round(time.Millisecond))
	}
}

// servedWithin is for how much of s anybody served the bridge and could do something.
func (f *fleet) servedWithin(s stretch) (sum time.Duration) {
	at := s.from
	for _, one := range slices.SortedFunc(slices.Values(f.served), func(a, b stretch) int { return a.from.Compare(b.from) }) {
		if one = one.within(stretch{at, s.to}); one.to.After(one.from) {
			sum += one.to.Sub(one.from)
			at = one.to
			for _, stall := range f.stalls {
				if stall = stall.within(one); stall.to.After(stall.from) {
					sum -= stall.to.Sub(stall.from)
				}
			}
		}
	}
	return sum
}

// within is the part of s that is in o; where there is none it ends before it begins.
func (s stretch) within(o stretch) stretch {
	if s.from.Before(o.from) {
		s.from = o.from
	}
	if s.to.After(o.to) {
		s.to = o.to
	}
	return s
}

// ceilingsKept fails the test where all replicas together have asked more than one of them might.
func ceilingsKept(t *testing.T, p *place) {
	t.Helper()
	for _, c := range []struct {
		api       string
		perSecond float64
		saved     float64
	}{
		{"namecoach", nameCoachCeiling / 2 / 900., nameCoachCeiling / 2},
		{"bln", blnCeiling, blnCeiling / 10},
	} {
		requests := p.Requests(c.api)
		if n := requests.Over(); n != 0 {
			t.Errorf("%s had to refuse %d requests because its limit was reached", c.api, n)
		}
		text := ""
		for _, period := range []time.Duration{time.Second, 10 * time.Second, time.Minute, 15 * time.Minute} {
			// A request is on its way for a moment.
			most, got := c.saved+c.perSecond*(period+time.Second/4).Seconds(), requests.MaxIn(period)
			text += fmt.Sprintf(" · %d in %v of %.0f", got, period, most)
			if float64(got) > most {
				t.Errorf("%s was asked %d times in %v; all together may ask %.0f times", c.api, got, period, most)
			}
		}
		t.Logf("%-9s %d requests%s", c.api, len(requests), text)
	}
}

// nothingLeft fails the test unless who looks at everything anew finds nothing to do.
func (u tumult) nothingLeft(t *testing.T, p *place) {
	t.Helper()
	p.sql(t, `WITH old AS (UPDATE staged_participants SET staged_at = staged_at - interval '2 hours' RETURNING 1) SELECT count(*) FROM old`)
	before := len(p.Writes())
	again := p.run(t, "backfill", "--output", "json").ends(t, exitDone).object(t)
	if again["written"] != 0. || again["cleared"] != 0. || again["failed"] != 0. || len(p.Writes()) != before {
		t.Errorf("a backfill still finds something to do: %v", again)
	}
	if n := p.sql(t, `SELECT count(*) FROM staged_participants`); n != 0 {
		t.Errorf("%d rows are still staged", n)
	}
	if u.gone != simulator.Noticed {
		return // nobody else knows of rows that are gone
	}
	fresh := p.with(map[string]string{"DATABASE_URL": testdb.URL(t, migrations.Up)})
	plan := fresh.run(t, "plan", "--output", "json").ends(t, exitDone).object(t)
	truth := p.Truth().Totals
	for what, want := range map[string]any{
		"written": 0, "cleared": 0, "failed": 0, "participants": truth.Participants, "users": truth.Users, "linked": truth.Linked,
	} {
		if fmt.Sprint(plan[what]) != fmt.Sprint(want) {
			t.Errorf("whoever knows nothing but what both sides say plans %s %v, not %v", what, plan[what], want)
		}
	}
	if fmt.Sprint(plan["held"]) != fmt.Sprint(again["held"]) || plan["linked"] != again["linked"] || plan["users"] != again["users"] {
		t.Errorf("an undisturbed run knows %v, the replicas %v", plan, again)
	}
}

func (u tumult) report(t *testing.T, f *fleet, w *watch, changes map[simulator.ChangeKind]int, settled time.Duration) {
	t.Helper()
	p, sum := f.place, 0
	for _, n := range changes {
		sum += n
	}
	faults := 0
	for answer, n := range p.Answers() {
		if api, status, _ := strings.Cut(answer, " "); status == "none" || status >= "429" || api == "" {
			faults += n
		}
	}
	counts := p.Counts()
	stalled := time.Duration(0)
	for _, one := range f.stalls {
		stalled += one.to.Sub(one.from)
	}
	t.Logf("the machine stood still for %v in all", stalled.Round(time.Millisecond))
	t.Logf("%d changes · calm after %v", sum, settled.Round(time.Millisecond))
	t.Logf("%d faults · PUTs %d, carried out %d · idle %d · lost updates %d · foreign keys damaged %d · mismatches %d",
		faults, counts["bln users.put"], len(p.Writes()), len(p.IdleWrites()), len(p.LostUpdates()), len(p.ForeignDamage(0)), len(p.Mismatches(0, u.gone)))
	var brought, others []time.Duration
	for _, kind := range slices.Sorted(maps.Keys(changes)) {
		waits := w.waits[kind]
		switch kind {
		case simulator.RecordsAnew, simulator.RecordsFirst, simulator.RemovesRecording, simulator.JoinsNameCoach, simulator.CorrectsAddress:
			brought = append(brought, waits...)
		default:
			others = append(others, waits...)
		}
		t.Logf("  %4d × %-42s %s", changes[kind], kind, percentiles(waits))
	}
	t.Logf("seen in BLN after: what collects bring %s · what sweeps find %s · not seen: %d", percentiles(brought), percentiles(others), len(w.open))
	for _, what := range slices.Sorted(maps.Keys(f.said)) {
		t.Logf("  %4d × %s", f.said[what], what)
	}
}

func percentiles(d []time.Duration) string {
	if len(d) == 0 {
		return ""
	}
	slices.Sort(d)
	at := func(p float64) time.Duration { return d[int(p*float64(len(d)-1))].Round(10 * time.Millisecond) }
	return fmt.Sprintf("p50 %v p99 %v max %v (%d)", at(.5), at(.99), at(1), len(d))
}
