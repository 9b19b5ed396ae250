package sync

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"namebridge/state"
)

// writing is where a run is that waits for its users to be written.
type writing struct {
	Staged  int  `json:"staged"`  // removals that the guard has kept for a person to approve
	Waiting bool `json:"waiting"` // an earlier run's still wait
}

const (
	// patience is how long a run waits for users that failed to be ripe for another try.
	patience = 90 * time.Second
	// pollFirst and pollMost are the pauses in which a run looks whether its users are written.
	pollFirst, pollMost = 20 * time.Millisecond, time.Second
	// dueSoon is how long before the next collect is due the last one ends at the latest.
	dueSoon = time.Second
)

// awaitWrites lets the run's removals through, or stages them, and then waits until nothing of what the run wants is left
// that can be done now.
func (r *run) awaitWrites(ctx context.Context) (verdict, error) {
	if r.row.Place == nil {
		return more, r.startWrites(ctx)
	}
	until, forRetries, err := r.waits(ctx)
	if err != nil {
		return more, err
	}
	for wait := pollFirst; ; wait = min(2*wait, pollMost) {
		if err := r.checkHalt(ctx); err != nil {
			return more, err
		}
		left, err := state.PendingOf(ctx, r.DB, r.Name, r.id(), r.row.Priority)
		if err != nil {
			return more, err
		}
		if time.Now().After(until) || !left.Ready && !left.Claimed && (left.Retry == nil || time.Until(*left.Retry) > forRetries) {
			if r.row.ApprovedAt != nil { // it judges nothing: what others have left is the next run's to judge
				return next, r.learnRows(ctx)
			}
			// What was found out by writing may have made removals.
			again, err := state.AnyUnjudged(ctx, r.DB, r.Name, r.id())
			if err != nil {
				return more, err
			}
			if again {
				return more, r.startWrites(ctx)
			}
			return next, r.learnRows(ctx)
		}
		if wait == pollMost {
			// Whoever waits for a job that got lost would wait for ever. And this comes forward as long as there is work.
			err := state.InTx(ctx, r.DB, func(tx pgx.Tx) error {
				return queueWriters(ctx, r.queue, tx, r.Bridge, r.row.Priority, writeBatch)
			})
			return more, errors.Join(err, pause(ctx, wait))
		}
		if err := pause(ctx, wait); err != nil {
			return more, err
		}
	}
}

// startWrites makes what was left behind the wish of a run that looks at everybody, and has the guard judge the removals.
func (r *run) startWrites(ctx context.Context) error {
	if r.row.ApprovedAt == nil && r.row.Priority >= state.SweepPriority && r.row.Kind != state.Census {
		// By itself: whom it locks, and those who are judged, are in one order each, but not together.
		err := r.commit(ctx, func(tx pgx.Tx) (reached, error) {
			return reached{}, state.Adopt(ctx, tx, r.Name, r.id(), r.row.Priority)
		})
		if err != nil {
			return err
		}
	}
	return r.commit(ctx, func(tx pgx.Tx) (to reached, err error) {
		if r.row.ApprovedAt != nil { // exactly that, and nothing else
			return r.awaited(ctx, tx, writing{})
		}
		place := writing{}
		if err := r.place(&place); err != nil {
			return to, err
		}
		removals, err := state.CountRemovals(ctx, tx, r.Name, r.id())
		if err != nil {
			return to, err
		}
		place.Waiting = removals.Staged > 0
		judged, err := state.TakeRemovals(ctx, tx, r.Name, r.id(), r.row.Place != nil)
		if err != nil {
			return to, err
		}
		if len(judged) > 0 {
			totals, err := state.CountTotals(ctx, tx, r.Name)
			if err != nil {
				return to, err
			}
			if r.Settings.Guard.Stages(len(judged)+removals.Done+place.Staged, totals.Linked) {
				place.Staged += len(judged)
				err = state.StageRemovals(ctx, tx, r.Name, r.id(), judged)
			} else {
				err = state.ReleaseRemovals(ctx, tx, r.Name, r.id(), judged)
			}
			if err != nil {
				return to, err
			}
		}
		return r.awaited(ctx, tx, place)
	})
}

// awaited queues jobs for those whom the run waits for.
func (r *run) awaited(ctx context.Context, tx pgx.Tx, place writing) (reached, error) {
	total, err := state.CountPendingOf(ctx, tx, r.Name, r.id(), r.row.Priority)
	if err != nil {
		return reached{}, err
	}
	return reached{place, &progress{Total: total}}, queueWriters(ctx, r.queue, tx, r.Bridge, r.row.Priority, total)
}

// waits says until when a run waits for its users to be written, and how long for those who failed to be ripe for another
// try. A collect of the daemon's is over before the next is due, which would be left out: one user who cannot be written,
// or a server that hangs, must not keep everybody else's changes waiting. What is left goes on without it.
func (r *run) waits(ctx context.Context) (until time.Time, forRetries time.Duration, err error) {
	forever := time.Now().Add(rescueAfter)
	if r.row.Kind != state.Collect || r.row.Hosted != nil {
		return forever, patience, nil
	}
	all, err := state.Schedules(ctx, r.DB, r.Name)
	for _, s := range all {
		if s.Kind == state.Collect {
			return time.Now().Add(s.DueAt.Sub(s.Now) - dueSoon), 0, nil
		}
	}
	return forever, 0, err
}
