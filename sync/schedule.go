package sync

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/robfig/cron/v3"

	"namebridge/state"
)

// Schedule is when runs of a kind are due.
type Schedule struct {
	Expression string // of robfig/cron, in UTC unless it names a zone
	Times      cron.Schedule
}

var everyMinute = Schedule{Expression: "@every 1m", Times: cron.Every(time.Minute)}

// scheduled are the kinds of a bridge that the daemon starts by itself.
func (b *Bridge) scheduled() map[state.Kind]Schedule {
	all := map[state.Kind]Schedule{state.Housekeeping: everyMinute}
	maps.Copy(all, b.Settings.Schedules)
	return all
}

// noteSchedules keeps when what is due. A bridge of which nothing is known begins with a collect at once, and goes on with a
// sweep: who was collected before the directory is listed need not be asked about in BLN one by one.
func (w *worker) noteSchedules(ctx context.Context) error {
	now, err := state.Now(ctx, w.db)
	if err != nil {
		return err
	}
	stored, err := state.GetBridge(ctx, w.db, w.b.Name)
	if err != nil {
		return err
	}
	for kind, s := range w.b.scheduled() {
		if err := state.NoteSchedule(ctx, w.db, w.b.Name, state.Schedule{Kind: kind, Expression: s.Expression, DueAt: nextDue(s.Times, now.UTC(), now.UTC())}); err != nil {
			return err
		}
		if kind == state.Collect && stored.CollectedAt == nil || kind == state.Sweep && stored.CollectedAt != nil && stored.DirectorySweep == 0 {
			if err := state.HastenSchedule(ctx, w.db, w.b.Name, kind, 0); err != nil {
				return err
			}
		}
	}
	return nil
}

// A run of the daemon's that is seldom due and has failed is started again this soon: seldom enough that a wrong password
// locks nobody out.
const (
	failedAgain  = 10 * time.Minute
	refusedAgain = time.Hour
)

// hasten makes a run that has failed due again before its time.
func (r *run) hasten(ctx context.Context, tx pgx.Tx, problem error) error {
	// A census that has counted must not count again before its time.
	counted := r.row.Kind == state.Census && r.phase != PhaseCensus
	if problem == nil || r.row.Hosted != nil || r.row.Kind == state.Collect || counted || errors.Is(problem, ErrHalted) {
		return nil
	}
	within := failedAgain
	if isRefusal(problem) {
		within = refusedAgain
	}
	return state.HastenSchedule(ctx, tx, r.Name, r.row.Kind, within)
}

// fire starts what is due, and says when to look again. Each run is started by exactly one process, in the transaction that
// says when the next is due; one that is still under way is not started again.
func (w *worker) fire(ctx context.Context) (again time.Duration, err error) {
	for {
		all, err := state.Schedules(ctx, w.db, w.b.Name)
		if err != nil || len(all) == 0 {
			return heartbeatEvery, err
		}
		if again := all[0].DueAt.Sub(all[0].Now); again > 0 {
			return again, nil
		}
		err = state.InTx(ctx, w.db, func(tx pgx.Tx) error {
			due, err := state.TakeDue(ctx, tx, w.b.Name)
			if err != nil {
				return err
			}
			s, ok := w.b.scheduled()[due.Kind]
			if !ok {
				return state.DropSchedule(ctx, tx, w.b.Name, due.Kind)
			}
			then := nextDue(s.Times, due.DueAt.UTC(), due.Now.UTC())
			switch halted, err := w.start(ctx, tx, due.Kind); {
			case err != nil:
				return err
			case halted: // it stays due
				then = due.Now.Add(haltedAgain)
			}
			return state.MoveSchedule(ctx, tx, w.b.Name, due.Kind, then)
		})
		if errors.Is(err, state.ErrNotFound) {
			return 0, nil // another process is just firing it, or has the bridge
		}
		if err != nil {
			return heartbeatEvery, err
		}
	}
}

// nextDue is the first time after due that is not past, however many were missed.
func nextDue(times cron.Schedule, due, now time.Time) time.Time {
	then := times.Next(due)
	if !then.After(now) {
		then = times.Next(now)
	}
	if then.IsZero() { // the 30th of February
		return now.AddDate(100, 0, 0)
	}
	return then
}

// haltedAgain is how soon after somebody has resumed a bridge what is due is started.
const haltedAgain = 15 * time.Second

// start queues what is due, unless the bridge is halted.
func (w *worker) start(ctx context.Context, tx pgx.Tx, kind state.Kind) (halted bool, err error) {
	if kind == state.Housekeeping {
		_, err := w.queue.InsertTx(ctx, tx, housekeeping{w.b.Name}, &river.InsertOpts{Queue: stepQueue(w.b.Name), Priority: 4, UniqueOpts: unique, MaxAttempts: 1})
		return false, err
	}
	stored, err := state.GetBridge(ctx, tx, w.b.Name)
	if err != nil || stored.HaltedAt != nil {
		return true, err
	}
	priority := state.SweepPriority
	if kind == state.Collect {
		priority = state.CollectPriority
	}
	run, started, err := state.StartRun(ctx, tx, w.b.Name, state.NewRun{Kind: kind, Phase: string(routes[kind][0].phase), Priority: priority})
	if err != nil {
		return false, err
	}
	if !started {
		// Should its job be lost, that is found by whoever keeps house: here it would be waited for, and whoever has it may be about to hasten
		// what is due.
		w.log.Info("a run is still under way: the one that is due now is left out", "bridge", w.b.Name, "kind", kind, "run", run.Run)
		return false, nil
	}
	return false, queueStep(ctx, w.queue, tx, w.b.Name, run, Phase(run.Phase))
}

// keepHouse finds what was left behind and forgets what nobody needs any more. It queues each job in a transaction of its own: the
// queue locks jobs in orders of its own.
func (w *worker) keepHouse(ctx context.Context) error {
	for _, urgency := range []int16{state.CollectPriority, state.BackfillPriority} {
		left, err := state.FindWork(ctx, w.db, w.b.Name, urgency)
		if err == nil && (left.Claimable || left.Open) {
			err = state.InTx(ctx, w.db, func(tx pgx.Tx) error { return queueWriters(ctx, w.queue, tx, w.b, urgency, 1) })
		}
		if err != nil {
			return err
		}
	}
	runs, err := state.RunningRuns(ctx, w.db, w.b.Name)
	if err != nil {
		return err
	}
	for _, run := range runs { // whose job may have got lost: else it is one with that
		err := state.InTx(ctx, w.db, func(tx pgx.Tx) error { return queueStep(ctx, w.queue, tx, w.b.Name, run, Phase(run.Phase)) })
		if err != nil && !errors.Is(err, errOtherVersion) { // a newer replica's
			return err
		}
	}
	_, err = state.Prune(ctx, w.db, w.b.Name, w.b.Settings.Retention)
	return err
}
