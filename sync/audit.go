package sync

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"namebridge/internal/httpapi"
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
	var unread []int64
	group, each := errgroup.WithContext(ctx)
	group.SetLimit(max(r.Settings.Concurrency, 1))
	for _, u := range users {
		group.Go(func() error {
			user, err := r.BLN.User(each, u.UserID)
			audit := state.Audit{UserID: u.UserID, Applied: u.AppliedDigest, Seen: u.AppliedDigest}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case isGone(err):
				return r.markGone(each, u.UserID)
			case isRefusal(err), errors.As(err, new(*httpapi.PausedError)), each.Err() != nil:
				return err
			case err != nil: // one who cannot be read must not keep the sweep from everybody else
				unread = append(unread, u.UserID)
				r.Log.Warn("a user could not be audited and will be tomorrow", "bridge", r.Name, "user", u.UserID, "problem", err)
				return nil
			case user.HasOtherInfo && user.OtherInfoErr == nil: // what is not shown, or cannot be read, is no drift: the next write will tell
				audit.Seen = r.Settings.Layout.Seen(user.OtherInfo.Get)
			}
			audits = append(audits, audit)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return more, err
	}
	err = r.commit(ctx, func(tx pgx.Tx) (reached, error) {
		return reached{progress: &progress{Done: p.Done + len(users), Total: p.Total}}, r.storeAudits(ctx, tx, audits, unread)
	})
	return more, err
}

// storeAudits stores what reading users has shown, and puts off those who could not be read.
func (r *run) storeAudits(ctx context.Context, tx pgx.Tx, audits []state.Audit, unread []int64) error {
	all := slices.Clone(unread)
	for _, a := range audits {
		all = append(all, a.UserID)
	}
	if err := state.LockUsers(ctx, tx, r.Name, all); err != nil {
		return err
	}
	if err := state.PostponeAudits(ctx, tx, r.Name, unread); err != nil {
		return err
	}
	drifted, err := state.StoreAudits(ctx, tx, r.Name, audits)
	if err == nil && drifted > 0 {
		r.Log.Info("an audit found fragments that somebody has changed", "bridge", r.Name, "users", drifted)
	}
	return err
}
