package sync

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/robfig/cron/v3"

	"namebridge/internal/postgres/testdb"
	"namebridge/migrations"
	"namebridge/state"
)

// deadlocks counts the statements that Postgres has ended for a deadlock: a transaction that is made again then hides them.
type deadlocks struct{ atomic.Int64 }

func (*deadlocks) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}

func (d *deadlocks) TraceQueryEnd(_ context.Context, _ *pgx.Conn, q pgx.TraceQueryEndData) {
	if pg, ok := errors.AsType[*pgconn.PgError](q.Err); ok && pg.Code == "40P01" {
		d.Add(1)
	}
}

// orderly is a process of its own on bridge a, with users 1 and 2, that does nothing by itself.
type orderly struct {
	*worker
	deadlocks
}

func newOrderly(t *testing.T) *orderly {
	t.Helper()
	o := &orderly{}
	cfg, err := pgxpool.ParseConfig(testdb.URL(t, migrations.Up))
	if err != nil {
		t.Fatal(err)
	}
	cfg.ConnConfig.Tracer = &o.deadlocks
	db, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	b := &Bridge{Name: "a", DB: db, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Settings: Settings{
		Concurrency: 8, Events: []string{"E"}, Confirmations: 2, Retention: time.Hour, Guard: Guard{MaxClears: 20, MaxClearPercent: 2},
		Schedules: map[state.Kind]Schedule{state.Sweep: {Expression: "@every 1h", Times: cron.Every(time.Hour)}},
	}}
	o.worker = &worker{lease: &lease{owner: uuid.New(), db: db, bridge: b.Name, over: t.Context()}, b: b, log: b.Log, endedAny: make(chan struct{}, 1)}
	if o.queue, err = river.NewClient(riverpgxv5.New(db), &river.Config{}); err != nil {
		t.Fatal(err)
	}
	if _, err := state.EnsureBridge(t.Context(), db, "a", 1); err != nil {
		t.Fatal(err)
	}
	users := []state.DirectoryUser{{UserID: 1, Username: "a@x", Email: "a@x"}, {UserID: 2, Username: "b@x", Email: "b@x"}}
	if _, err := state.StoreDirectory(t.Context(), db, "a", 1, users, false); err != nil {
		t.Fatal(err)
	}
	return o
}

func (o *orderly) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	if _, err := o.db.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// begun is a run of the bridge in a phase, as a job of this process works on it.
func (o *orderly) begun(t *testing.T, kind state.Kind, phase Phase) *run {
	t.Helper()
	row, _, err := state.StartRun(t.Context(), o.db, "a", state.NewRun{Kind: kind, Phase: string(phase), Priority: state.SweepPriority})
	if err != nil {
		t.Fatal(err)
	}
	return &run{Bridge: o.b, lease: o.lease, queue: o.queue, row: row, phase: phase, sent: new(sent), forward: func() {}}
}

func (o *orderly) inTx(ctx context.Context, do func(pgx.Tx) error) error {
	return state.InTx(ctx, o.db, do)
}

// meets does something beside somebody who locks first before, and second as soon as this process waits for it, or has come to its
// end. Postgres ends neither for a deadlock, where both lock in one order or this process waits for nothing. During is asked while it waits.
func (o *orderly) meets(t *testing.T, first, second string, do func(context.Context) error, during ...func()) {
	t.Helper()
	ctx := t.Context()
	other, err := o.db.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Rollback(context.WithoutCancel(ctx)) }()
	if _, err := other.Exec(ctx, first); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- do(ctx) }()
	waits := false
	for !waits && len(done) == 0 {
		if err := o.db.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE $1::int = ANY(pg_blocking_pids(pid)))`,
			int(other.Conn().PgConn().PID())).Scan(&waits); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	for _, d := range during {
		d()
	}
	_, err = other.Exec(ctx, second)
	if err == nil {
		err = other.Commit(ctx)
	} else {
		err = errors.Join(err, other.Rollback(ctx))
	}
	if err := errors.Join(err, <-done); err != nil {
		t.Error(err)
	}
	if n := o.Load(); n > 0 {
		t.Errorf("Postgres has ended %d deadlocks", n)
	}
}

const (
	userLock = `SELECT FROM directory_users WHERE user_id = %d FOR UPDATE`
	holdOf1  = `INSERT INTO holds (bridge, kind, subject, reason, detail) VALUES ('a', 'user', '1', 'refused', '') ON CONFLICT (bridge, kind, subject) DO UPDATE SET reason = 'refused'`
)

// What a batch has come to is several statements about its users, and about their holds.
func TestWhatABatchCameToIsStoredInTheOrderOfItsUsers(t *testing.T) {
	t.Parallel()
	withdrawn := &remains{}
	withdrawn.hold(state.Claimed{UserID: 1}, Refused, "")
	both := &remains{failed: []state.Failure{{UserID: 2}}, withdraw: withdrawn.withdraw, holds: withdrawn.holds}
	for name, c := range map[string]struct {
		rest   *remains
		second string
	}{
		"one who failed, and one before who is held": {both, fmt.Sprintf(userLock, 2)},
		"one who is held, and decided on meanwhile":  {withdrawn, holdOf1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOrderly(t)
			w := o.begun(t, state.Sweep, PhaseWrite).newWriter()
			o.meets(t, fmt.Sprintf(userLock, 1), c.second, func(ctx context.Context) error { return w.store(ctx, c.rest) })
		})
	}
}

func TestAuditsAreStoredInTheOrderOfTheirUsers(t *testing.T) {
	t.Parallel()
	o := newOrderly(t)
	r := o.begun(t, state.Sweep, PhaseAudit)
	o.exec(t, `UPDATE directory_users SET applied_digest = 'x'`)
	o.meets(t, fmt.Sprintf(userLock, 1), fmt.Sprintf(userLock, 2), func(ctx context.Context) error {
		return o.inTx(ctx, func(tx pgx.Tx) error {
			return r.storeAudits(ctx, tx, []state.Audit{{UserID: 1, Applied: []byte("x")}}, []int64{2})
		})
	})
}

// A run takes over what others have left, and has the guard judge what removes.
func TestARunBeginsToWriteInTheOrderOfItsUsers(t *testing.T) {
	t.Parallel()
	o := newOrderly(t)
	r := o.begun(t, state.Sweep, PhaseWrite)
	o.exec(t, `UPDATE directory_users SET wanted_version = 1, action = 'clear', removes = user_id = 1, wanted_run = CASE WHEN user_id = 1 THEN $1::uuid END`, r.id())
	o.meets(t, fmt.Sprintf(userLock, 1), fmt.Sprintf(userLock, 2), r.startWrites)
	var released, adopted bool
	if err := o.db.QueryRow(t.Context(), `SELECT bool_or(user_id = 1 AND released_version = 1), bool_or(user_id = 2 AND wanted_run = $1) FROM directory_users`, r.id()).
		Scan(&released, &adopted); err != nil || !released || !adopted {
		t.Errorf("let through: %v, taken over: %v, %v", released, adopted, err)
	}
}

// jobLock locks the job of a kind of a lane, or of a step.
func jobLock(kind string, more string) string {
	return fmt.Sprintf(`SELECT FROM river_job WHERE kind = '%s' AND state NOT IN ('completed', 'discarded')%s FOR UPDATE`, kind, more)
}

// The queue locks jobs in orders of its own: the lanes of one process that are put off together, any first.
func TestWhoeverQueuesLanesWaitsForNoneWhileHavingAnother(t *testing.T) {
	t.Parallel()
	o := newOrderly(t)
	queue := func(ctx context.Context) error {
		return o.inTx(ctx, func(tx pgx.Tx) error { return queueWriters(ctx, o.queue, tx, o.b, state.SweepPriority, 100) })
	}
	lanes := func() (s string) {
		t.Helper()
		if err := o.db.QueryRow(t.Context(), `SELECT string_agg(args->>'lane', ',' ORDER BY args->>'lane') FROM river_job WHERE state = 'available'`).Scan(&s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	for range 2 {
		if err := queue(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := lanes(); got != "0,1,2,3" {
			t.Fatalf("the lanes %s are queued", got)
		}
		o.exec(t, `UPDATE river_job SET state = 'completed', finalized_at = now() WHERE args->>'lane' IN ('0', '2')`)
	}
	if err := queue(t.Context()); err != nil {
		t.Fatal(err)
	}
	o.meets(t, jobLock("sync_batch", ` AND args->>'lane' = '1'`), jobLock("sync_batch", ` AND args->>'lane' = '0'`), queue)
	if got := lanes(); got != "0,1,2,3" {
		t.Errorf("the lanes %s are queued", got)
	}
}

// A change that comes while a lane runs queues no other: the lane must not end before it can be seen.
func TestALaneDoesNotEndWhileSomebodyQueuesIt(t *testing.T) {
	t.Parallel()
	o := newOrderly(t)
	queue := func(tx pgx.Tx) error { return queueWriters(t.Context(), o.queue, tx, o.b, state.SweepPriority, 100) }
	if err := o.inTx(t.Context(), queue); err != nil {
		t.Fatal(err)
	}
	o.exec(t, `UPDATE river_job SET state = 'running'`)
	err := o.inTx(t.Context(), func(tx pgx.Tx) error {
		if err := queue(tx); err != nil {
			return err
		}
		tag, err := o.db.Exec(t.Context(), `UPDATE river_job SET state = 'completed', finalized_at = now()
			WHERE id IN (SELECT id FROM river_job WHERE args->>'lane' = '0' FOR UPDATE SKIP LOCKED)`)
		if tag.RowsAffected() > 0 {
			t.Error("the first lane could end")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestWhoeverKeepsHouseWaitsForNoJobWhileHavingAnother(t *testing.T) {
	t.Parallel()
	o := newOrderly(t)
	o.begun(t, state.Sweep, PhaseLink)
	o.exec(t, `UPDATE directory_users SET wanted_version = 1, urgency = user_id * 2`)
	if err := o.keepHouse(t.Context()); err != nil {
		t.Fatal(err)
	}
	var jobs int
	if err := o.db.QueryRow(t.Context(), `SELECT count(*) FROM river_job`).Scan(&jobs); err != nil || jobs != 3 {
		t.Fatalf("%d jobs, want two lanes and a step, %v", jobs, err)
	}
	o.meets(t, jobLock("link_people", ""), jobLock("sync_batch", ""), o.keepHouse)
}

// Whoever ends a step has its job, and then its run.
func TestACommandThatJoinsARunTakesItsJobBeforeTheRun(t *testing.T) {
	t.Parallel()
	o := newOrderly(t)
	gone := uuid.New()
	n := state.NewRun{Kind: state.Sweep, Phase: string(PhaseAccess), Priority: state.SweepPriority, Hosted: &gone}
	if _, _, err := o.begin(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	n.Hosted = &o.owner
	o.meets(t, jobLock("check_access", ""), `UPDATE runs SET requests_bln = 1`, func(ctx context.Context) error {
		_, _, err := o.begin(ctx, n)
		return err
	})
	var hosted uuid.UUID
	if err := o.db.QueryRow(t.Context(), `SELECT hosted FROM runs`).Scan(&hosted); err != nil || hosted != o.owner {
		t.Errorf("hosted by %v, %v", hosted, err)
	}
}

// A sweep that fails makes the next one due sooner, in the transaction that has its job.
func TestWhatIsDueWaitsForNoJobOfARunThatIsUnderWay(t *testing.T) {
	t.Parallel()
	o := newOrderly(t)
	if _, _, err := o.begin(t.Context(), state.NewRun{Kind: state.Sweep, Phase: string(PhaseAccess), Priority: state.SweepPriority}); err != nil {
		t.Fatal(err)
	}
	o.exec(t, `INSERT INTO schedules (bridge, kind, expression, due_at) VALUES ('a', 'sweep', '@every 1h', now())`)
	o.meets(t, jobLock("check_access", ""), `UPDATE schedules SET due_at = due_at`, func(ctx context.Context) error {
		_, err := o.fire(ctx)
		return err
	})
}

// lockParticipants is what LockParticipants does.
const lockParticipants = `SELECT pg_advisory_xact_lock(hashtextextended('namebridge participants ' || 'a', 0))`

func TestACensusIsConcludedAmongParticipantsBeforeItsRun(t *testing.T) {
	t.Parallel()
	o := newOrderly(t)
	r := o.begun(t, state.Census, PhaseCensus)
	o.meets(t, lockParticipants, `UPDATE runs SET requests_bln = 1`, r.conclude)
	var at counting
	if err := r.place(&at); err != nil || !at.Concluded {
		t.Errorf("%+v, %v", at, err)
	}
}

// Whoever starts what is due has the bridge, and then its schedules.
func TestTheBridgeIsLockedBeforeWhatIsDue(t *testing.T) {
	t.Parallel()
	for name, do := range map[string]func(*orderly, *run, context.Context) error{
		"a sweep is due": func(o *orderly, _ *run, ctx context.Context) error {
			_, err := o.fire(ctx)
			return err
		},
		"the first collect hastens it": func(o *orderly, r *run, ctx context.Context) error {
			stored, err := state.GetBridge(ctx, o.db, "a")
			if err == nil {
				_, err = r.collected(ctx, state.Cursor{Since: time.Now()}, stored)
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOrderly(t)
			r := o.begun(t, state.Collect, PhaseCollect)
			o.exec(t, `INSERT INTO schedules (bridge, kind, expression, due_at) VALUES ('a', 'sweep', '@every 1h', now() - interval '1 minute')`)
			o.meets(t, `SELECT FROM bridges FOR NO KEY UPDATE`, `SELECT FROM schedules FOR UPDATE`, func(ctx context.Context) error { return do(o, r, ctx) })
		})
	}
}

// Links are dropped with people's holds and their users: whoever does so takes turns with those who link.
func TestLinksOfOtherEventsAreDroppedInTurn(t *testing.T) {
	t.Parallel()
	o := newOrderly(t)
	r := o.begun(t, state.Sweep, PhaseLink)
	o.exec(t, `INSERT INTO links (bridge, person, user_id, rule) VALUES ('a', 'ada', 1, 'email')`)
	o.meets(t, `SELECT FROM links FOR UPDATE`, `SELECT`, func(ctx context.Context) error { return r.forgetUncounted(ctx, false) }, func() {
		var free bool
		if err := o.db.QueryRow(t.Context(), `SELECT pg_try_advisory_lock(hashtextextended('namebridge participants ' || 'a', 0))`).Scan(&free); err != nil || free {
			t.Errorf("others may link meanwhile, %v", err)
		}
	})
}
