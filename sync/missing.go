package sync

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"namebridge/state"
)

const (
	// tailTries is how often the newest edge is read again because time has gone on meanwhile.
	tailTries = 5
	// tailAhead is how far ahead the newest edge is asked for: for as long as a question may wait for its turn, which is NameCoach's period.
	tailAhead = 15 * time.Minute
)

// tail reads what NameCoach changed after the walk's end, the unsettled edge included, without moving the cursor: who was
// updated while a backfill ran is in it, and whatever is not yet visible comes with the next collect. Where it reaches the
// moment it was asked, every row that there is has been seen: rows that a walk from the beginning did not bring are missing.
func (r *run) tail(ctx context.Context) (verdict, error) {
	cursor, err := state.GetCursor(ctx, r.DB, r.Name, r.id().String())
	if err != nil {
		return more, err
	}
	whole := false
	for try := 0; try < tailTries && !whole; try++ {
		// A question may wait for its turn, and several take their time: what was touched later than the end is not brought.
		end := r.serverNow().Add(tailAhead)
		read, asked, err := r.readTail(ctx, NewWalk(cursor.Until.Add(-r.Settings.Settle), end), everything(cursor))
		if err != nil {
			return more, err
		}
		if !read {
			break
		}
		whole = !asked.After(end)
	}
	if whole && everything(cursor) {
		err = state.InTx(ctx, r.DB, func(tx pgx.Tx) error {
			if err := state.LockParticipants(ctx, tx, r.Name); err != nil {
				return err
			}
			return state.MarkMissing(ctx, tx, r.Name, r.row.StartedAt, nil)
		})
		if err != nil {
			return more, err
		}
	}
	return next, state.NoteCollected(ctx, r.DB, r.Name) // by itself: nobody locks users, and then the bridge
}

// readTail reads a walk to its end. asked is the server's time when the last window was.
func (r *run) readTail(ctx context.Context, walk Walk, all bool) (whole bool, asked time.Time, err error) {
	whole = true
	for {
		span, ok := walk.Window()
		if !ok {
			return whole && !asked.IsZero(), asked, nil
		}
		read, err := r.readWindow(ctx, walk, span)
		if err != nil {
			return false, asked, err
		}
		err = state.InTx(ctx, r.DB, func(tx pgx.Tx) error {
			if err := state.LockParticipants(ctx, tx, r.Name); err != nil {
				return err
			}
			// Rows of an incomplete reading are true rows; they just are not all. The cursor is not involved.
			_, err := state.StoreStaged(ctx, tx, r.Name, read.staged, state.Bringing{By: r.id(), All: all})
			return err
		})
		if errors.Is(err, state.ErrStagedLost) {
			if err := r.rereads(err); err != nil {
				return false, asked, err
			}
			continue
		}
		if err != nil {
			return false, asked, err
		}
		asked = read.date
		if read.whole {
			walk = walk.Complete(read.rows)
		} else if walk, err = walk.Narrow(read.total); errors.Is(err, ErrSingleSecond) {
			whole, walk = false, walk.Complete(read.rows)
		} else if err != nil {
			return false, asked, err
		}
	}
}

// lostTries is how often a run reads windows again whose staged rows Postgres has lost.
const lostTries = 5

// rereads says whether a window whose staged rows are gone may be read again.
func (r *run) rereads(err error) error {
	if r.lost++; r.lost > lostTries {
		return err
	}
	r.Log.Warn("a window is read again: Postgres has lost its staged rows", "bridge", r.Name, "problem", err)
	return nil
}

// ask asks NameCoach about rows in doubt.
func (r *run) ask(ctx context.Context) (verdict, error) {
	return next, r.settleDoubts(ctx)
}

// settleDoubts asks NameCoach about the people whom the rows that just came put in doubt: a row that looks like another of
// the same person, or has somebody else's badge or recording, may have taken its place. What two answers do not show
// is missing, and replaced where a row that came later stands in its place.
func (r *run) settleDoubts(ctx context.Context) error {
	// Rows that somebody stores just now are among the suspects, or keep their doubts.
	var before time.Time
	err := state.InTx(ctx, r.DB, func(tx pgx.Tx) (err error) {
		before, err = state.Moment(ctx, tx, r.Name)
		return err
	})
	if err != nil {
		return err
	}
	suspects, err := state.Suspects(ctx, r.DB, r.Name, r.Settings.Events)
	if err != nil {
		return err
	}
	for some := range slices.Chunk(suspects, searchKeys) {
		if err := r.settleSome(ctx, some); errors.Is(err, state.ErrStagedLost) {
			r.Log.Warn("people whose rows are in doubt could not be asked about; a backfill settles it", "bridge", r.Name, "people", len(some), "problem", err)
		} else if err != nil {
			return fmt.Errorf("ask about people in doubt: %w", err)
		}
	}
	return state.ForgetDoubts(ctx, r.DB, r.Name, before)
}

func (r *run) settleSome(ctx context.Context, people []state.KnownPerson) error {
	since, err := state.Now(ctx, r.DB)
	if err != nil {
		return err
	}
	answered, absent, err := r.askTwice(ctx, people, since, uuid.New())
	if err != nil || len(absent) == 0 {
		return err
	}
	var about state.Asked
	for _, p := range absent {
		switch {
		case answered[state.KeyEmail][p.Email]:
			about.Emails = append(about.Emails, p.Email)
		case p.Email == "" && answered[state.KeyExternalID][p.InstitutionID]:
			about.InstitutionIDs = append(about.InstitutionIDs, p.InstitutionID)
		}
	}
	return state.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		if err := state.LockParticipants(ctx, tx, r.Name); err != nil {
			return err
		}
		return state.MarkMissing(ctx, tx, r.Name, since, &about)
	})
}

// found is when an answer that is no window was given, on NameCoach's clock.
func (r *run) found(got read) *time.Time {
	at := got.date
	if at.IsZero() {
		at = r.serverNow()
	}
	return &at
}
