package sync

import (
	"context"
	"sync"

	"golang.org/x/sync/errgroup"

	"namebridge/state"
)

// foresee reads everyone that would be written, to tell who can be, and keeps the plan.
func (r *run) foresee(ctx context.Context) error {
	w := r.newWriter()
	pending, err := state.CountPending(ctx, r.DB, r.Name)
	if err != nil {
		return err
	}
	w.total = pending.Writes + pending.Clears
	for after := int64(0); ; {
		users, err := state.PendingUsers(ctx, r.DB, r.Name, after, writeBatch)
		if err != nil || len(users) == 0 {
			return err
		}
		after = users[len(users)-1].UserID
		if err := w.foreseeBatch(ctx, users); err != nil {
			return err
		}
	}
}

func (w *writer) foreseeBatch(ctx context.Context, users []state.Claimed) error {
	var rest remains
	var mu sync.Mutex
	var steps []state.PlanStep
	group, each := errgroup.WithContext(ctx)
	group.SetLimit(max(w.Settings.Concurrency, 1))
	for _, c := range users {
		group.Go(func() error {
			user, err := w.BLN.User(each, c.UserID)
			if isGone(err) {
				return state.MarkGone(each, w.DB, w.Name, c.UserID)
			}
			if err != nil {
				return err
			}
			m, problem := w.merge(user, c)
			switch {
			case problem != "":
				rest.hold(c, Unwritable, problem)
			case m.there:
				return w.settleThere(c)
			case m.notOurs:
			default:
				mu.Lock()
				steps = append(steps, state.PlanStep{UserID: c.UserID, Action: c.Action, Wanted: c.Wanted, Digest: c.WantedDigest})
				w.planned[Action(c.Action)]++
				mu.Unlock()
			}
			w.progress(PhaseRead, int(w.done.Add(1)), w.total)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := w.store(ctx, &rest); err != nil {
		return err
	}
	return state.StorePlanSteps(ctx, w.DB, w.Name, w.id, steps)
}
