package sync

import (
	"context"
	"errors"
	"strings"
	"time"

	"namebridge/internal/httpapi"
	"namebridge/state"
)

// Beginning is before anything NameCoach has: a walk from here sees every participant.
var Beginning = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// Backfill collects everything that NameCoach changed since since (zero: from the beginning), lists the whole directory,
// and writes everyone who should be written. Interrupted, the next call goes on where it was.
func (b *Bridge) Backfill(ctx context.Context, since time.Time) (Result, error) {
	return b.do(ctx, state.Backfill, nullTime(since), func(ctx context.Context, r *run) error {
		if err := r.checkAccess(ctx, true); err != nil {
			return err
		}
		if err := r.gather(ctx, since); err != nil {
			return err
		}
		return r.write(ctx)
	})
}

// Plan finds out what a backfill would do and keeps it, without writing anything to BLN. Whoever would be written is
// read, since only a user's own otherInfo tells whether it can be written.
func (b *Bridge) Plan(ctx context.Context) (Result, error) {
	return b.do(ctx, state.Plan, nil, func(ctx context.Context, r *run) error {
		if err := r.checkAccess(ctx, false); err != nil {
			return err
		}
		if err := r.gather(ctx, time.Time{}); err != nil {
			return err
		}
		return r.foresee(ctx)
	})
}

// Collect brings in what NameCoach changed since the cursor, less the lookback, and writes the people it concerns. Keys
// that the directory does not know are asked for live. Before the first complete listing of the directory nobody is
// linked.
func (b *Bridge) Collect(ctx context.Context) (Result, error) {
	return b.do(ctx, state.Collect, nil, func(ctx context.Context, r *run) error {
		cursor, err := state.GetCursor(ctx, r.DB, r.Name, state.ParticipantStream)
		since := cursor.Until.Add(-r.Settings.Lookback)
		if errors.Is(err, state.ErrNotFound) {
			since, r.everything, err = Beginning, true, nil
		}
		if err != nil {
			return err
		}
		if err := r.collect(ctx, since); err != nil {
			return err
		}
		stored, err := state.GetBridge(ctx, r.DB, r.Name)
		if err != nil || stored.DirectorySweep == 0 {
			return err
		}
		if !cursor.Until.IsZero() {
			if err := r.settleDoubts(ctx); err != nil {
				return err
			}
		}
		if err := r.askLive(ctx, stored.DirectorySweep); err != nil {
			return err
		}
		if err := r.linkAll(ctx, true); err != nil {
			return err
		}
		if err := r.decideAll(ctx, true); err != nil {
			return err
		}
		return r.write(ctx)
	})
}

// Sweep lists the whole directory, links, compares every user with what should be there, and writes those that differ.
func (b *Bridge) Sweep(ctx context.Context) (Result, error) {
	return b.do(ctx, state.Sweep, nil, func(ctx context.Context, r *run) error {
		if err := r.checkAccess(ctx, true); err != nil {
			return err
		}
		if err := r.list(ctx); err != nil {
			return err
		}
		if err := r.decideEverything(ctx); err != nil {
			return err
		}
		return r.write(ctx)
	})
}

// gather brings our state up to both sides, from since on.
func (r *run) gather(ctx context.Context, since time.Time) error {
	if r.everything = since.IsZero(); r.everything {
		since = Beginning
	}
	if err := r.collect(ctx, since); err != nil {
		return err
	}
	whole, err := r.tail(ctx)
	if err != nil {
		return err
	}
	if r.everything && whole {
		if err := r.markMissing(ctx); err != nil {
			return err
		}
	}
	if err := r.list(ctx); err != nil {
		return err
	}
	return r.decideEverything(ctx)
}

func (r *run) decideEverything(ctx context.Context) error {
	if err := r.linkAll(ctx, false); err != nil {
		return err
	}
	return r.decideAll(ctx, false)
}

// checkAccess signs in to BLN and makes sure that the organization is there and that the user who signs in may do what
// the run needs: "not in BLN" from a partial view would be no fact (BLN 7223, 7612).
func (r *run) checkAccess(ctx context.Context, writing bool) error {
	if err := r.BLN.SignIn(ctx); err != nil {
		return err
	}
	if _, err := r.BLN.Organization(ctx); err != nil {
		return err
	}
	if r.Settings.Username == "" {
		return nil // a token does not say who it is; a 403 will
	}
	users, err := r.BLN.UsersByIdentifier(ctx, []string{r.Settings.Username})
	if isStatus(err, 403) {
		return &PermissionError{Needs: "list the users of the organization"}
	}
	if err != nil {
		return err
	}
	for _, u := range users {
		if !strings.EqualFold(u.Username, r.Settings.Username) {
			continue
		}
		needs := "update the users of the organization"
		if !writing {
			needs = "list the users of the organization"
		}
		if u.Role != "admin" && (writing || u.Role != "auditor") {
			return &PermissionError{Role: u.Role, Needs: needs}
		}
	}
	return nil
}

func isStatus(err error, status int) bool {
	var e *httpapi.Error
	return errors.As(err, &e) && e.Status == status
}

func nullTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Truncate(time.Second)
	return &t
}
