package sync

import (
	"context"
	"sync"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"namebridge/state"
)

// foreseeNext is one unit of work of a plan: it reads the next users that would be written, to tell who can be, and keeps
// what would be done.
func (r *run) foreseeNext(ctx context.Context) (verdict, error) {
	var after int64
	if err := r.place(&after); err != nil {
		return more, err
	}
	p := r.done()
	if r.row.Place == nil {
		pending, err := state.CountPending(ctx, r.DB, r.Name)
		if err != nil {
			return more, err
		}
		p.Total = pending
	}
	users, err := state.PlannedUsers(ctx, r.DB, r.Name, after, writeBatch)
	if err != nil {
		return more, err
	}
	if len(users) == 0 {
		return next, nil
	}
	w := r.newWriter()
	rest, steps, err := w.foresee(ctx, users)
	if err != nil {
		return more, err
	}
	err = r.commit(ctx, func(tx pgx.Tx) (reached, error) {
		to := reached{users[len(users)-1].UserID, &progress{Done: p.Done + len(users), Total: p.Total}}
		if err := w.storeIn(ctx, tx, rest); err != nil {
			return to, err
		}
		return to, state.StorePlanSteps(ctx, tx, r.Name, r.id(), steps)
	})
	return more, err
}

func (w *writer) foresee(ctx context.Context, users []state.Claimed) (*remains, []state.PlanStep, error) {
	var rest remains
	var mu sync.Mutex
	var steps []state.PlanStep
	group, each := errgroup.WithContext(ctx)
	group.SetLimit(max(w.Settings.Concurrency, 1))
	for _, c := range users {
		group.Go(func() error {
			user, err := w.readWhole(each, c)
			if isGone(err) {
				return w.run.markGone(each, c.UserID)
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
				defer mu.Unlock()
				if m.removes { // told with the plan, as for the guard to judge
					rest.removals = append(rest.removals, c)
				}
				steps = append(steps, state.PlanStep{UserID: c.UserID, Action: c.Action, Wanted: c.Wanted, Digest: c.WantedDigest, Version: c.Version})
			}
			return nil
		})
	}
	return &rest, steps, group.Wait()
}
