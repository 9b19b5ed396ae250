package sync

import (
	"context"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/jackc/pgx/v5"

	"namebridge/state"
)

// auditShare is which part of the linked users one sweep audits at most: a month's worth in ten days.
const auditShare = 10

// auditNext is one unit of work: where list rows do not show our fragment, it reads the users whose audit is due, to see
// whether it still stands there.
func (r *run) auditNext(ctx context.Context) (verdict, error) {
	stored, err := state.GetBridge(ctx, r.DB, r.Name)
	if err != nil || stored.RowsCarryFragment == nil || *stored.RowsCarryFragment {
		return next, err
	}
	p := r.done()
	if p.Total == 0 {
		totals, err := state.CountTotals(ctx, r.DB, r.Name)
		if err != nil {
			return more, err
		}
		p.Total = totals.Linked/auditShare + 1
	}
	if p.Done >= p.Total {
		return next, nil
	}
	users, err := state.NextAudits(ctx, r.DB, r.Name, min(writeBatch, p.Total-p.Done))
	if err != nil || len(users) == 0 {
		return next, err
	}
	var mu sync.Mutex
	var audits []state.Audit
	group, each := errgroup.WithContext(ctx)
	group.SetLimit(max(r.Settings.Concurrency, 1))
	for _, u := range users {
		group.Go(func() error {
			user, err := r.BLN.User(each, u.UserID)
			if isGone(err) {
				return state.MarkGone(each, r.DB, r.Name, u.UserID)
			}
			if err != nil {
				return err
			}
			audit := state.Audit{UserID: u.UserID, Applied: u.AppliedDigest, Seen: u.AppliedDigest}
			if user.OtherInfoErr == nil { // what cannot be read is no drift: the next write will tell
				audit.Seen = r.Settings.Layout.Seen(user.OtherInfo.Get)
			}
			mu.Lock()
			defer mu.Unlock()
			audits = append(audits, audit)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return more, err
	}
	err = r.commit(ctx, func(tx pgx.Tx) (reached, error) {
		drifted, err := state.StoreAudits(ctx, tx, r.Name, audits)
		if err == nil && drifted > 0 {
			r.Log.Info("an audit found fragments that somebody has changed", "bridge", r.Name, "users", drifted)
		}
		return reached{progress: &progress{Done: p.Done + len(users), Total: p.Total}}, err
	})
	return more, err
}
