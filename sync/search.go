package sync

import (
	"context"
	"errors"
	"slices"

	"github.com/jackc/pgx/v5"

	"namebridge/namecoach"
	"namebridge/state"
)

// searchNext is one unit of work: it asks NameCoach about the next users whom it was never asked about. What they had
// recorded before they came to BLN is known already where everything was collected from the beginning; that a search
// brings more shows that windows have missed rows.
func (r *run) searchNext(ctx context.Context) (verdict, error) {
	var after int64
	if err := r.place(&after); err != nil {
		return more, err
	}
	users, err := state.NextUnasked(ctx, r.DB, r.Name, after, searchKeys)
	if err != nil || len(users) == 0 {
		return next, err
	}
	var emails, ids []string
	asked := make([]int64, len(users))
	for i, u := range users {
		asked[i] = u.UserID
		emails, ids = append(emails, u.Email), append(ids, u.ExternalID)
	}
	for _, q := range []struct {
		key  state.DirectoryKey
		keys []string
	}{{state.KeyEmail, emails}, {state.KeyExternalID, ids}} {
		err := r.search(ctx, namecoach.Filter{}, q.key, q.keys, func(got read, _ *Reading, _ []string) error {
			return state.InTx(ctx, r.DB, func(tx pgx.Tx) error {
				if err := state.LockParticipants(ctx, tx, r.Name); err != nil {
					return err
				}
				_, err := state.StoreStaged(ctx, tx, r.Name, got.staged, state.Bringing{By: got.staged.ID, Found: r.found(got)})
				return err
			})
		})
		if errors.Is(err, errNotWhole) {
			r.Log.Warn("NameCoach's answer about somebody is not whole; windows bring what it has", "bridge", r.Name, "problem", err)
		} else if err != nil {
			return more, err
		}
	}
	p := r.done()
	err = r.commit(ctx, func(tx pgx.Tx) (reached, error) {
		to := reached{users[len(users)-1].UserID, &progress{Done: p.Done + len(users)}}
		return to, state.NoteAsked(ctx, tx, r.Name, asked)
	})
	return more, err
}

// counting is how far a census is.
type counting struct {
	After     string `json:"after"`
	Concluded bool   `json:"concluded"`
}

// countNext is one unit of work of a census: it asks NameCoach about the next people who are linked, in its own spelling, by
// address or, where somebody has none, by institution id. When all were asked, it counts who was not shown.
func (r *run) countNext(ctx context.Context) (verdict, error) {
	var at counting
	if err := r.place(&at); err != nil {
		return more, err
	}
	people, err := state.NextLinked(ctx, r.DB, r.Name, at.After, searchKeys)
	if err != nil {
		return more, err
	}
	if len(people) == 0 {
		return next, r.conclude(ctx)
	}
	var emails, ids []string
	for _, p := range people {
		if p.Email != "" {
			emails = append(emails, p.Email)
		} else {
			ids = append(ids, p.InstitutionID)
		}
	}
	answered := map[string]bool{}
	for _, q := range []struct {
		key  state.DirectoryKey
		keys []string
	}{{state.KeyEmail, emails}, {state.KeyExternalID, ids}} {
		err := r.search(ctx, namecoach.Filter{}, q.key, q.keys, func(got read, _ *Reading, asked []string) error {
			for _, k := range asked {
				answered[string(q.key)+k] = true
			}
			return state.InTx(ctx, r.DB, func(tx pgx.Tx) error {
				if err := state.LockParticipants(ctx, tx, r.Name); err != nil {
					return err
				}
				_, err := state.StoreStaged(ctx, tx, r.Name, got.staged, state.Bringing{By: r.id(), All: true, Found: r.found(got)})
				return err
			})
		})
		if errors.Is(err, errNotWhole) {
			// What could not be asked about is no evidence: it is left out of the count.
			r.Log.Warn("NameCoach's answer about somebody is not whole; the census leaves them out", "bridge", r.Name, "problem", err)
		} else if err != nil {
			return more, err
		}
	}
	at.After = people[len(people)-1].Person
	whole := map[string]bool{}
	for _, p := range people {
		key := string(state.KeyEmail) + p.Email
		if p.Email == "" {
			key = string(state.KeyExternalID) + p.InstitutionID
		}
		all, seen := whole[p.Person]
		whole[p.Person] = answered[key] && (all || !seen)
	}
	var counted []string
	for person, all := range whole {
		if all {
			counted = append(counted, person)
		}
	}
	slices.Sort(counted)
	p := r.done()
	err = r.commit(ctx, func(tx pgx.Tx) (reached, error) {
		to := reached{at, &progress{Done: p.Done + len(whole)}}
		if err := state.LockParticipants(ctx, tx, r.Name); err != nil {
			return to, err
		}
		return to, state.NoteCounted(ctx, tx, r.Name, r.id(), counted)
	})
	return more, err
}

// conclude ends the counting of a census.
func (r *run) conclude(ctx context.Context) error {
	var at counting
	if err := r.place(&at); err != nil || at.Concluded {
		return err // it was counted before a crash: twice would be once too often
	}
	return r.commit(ctx, func(tx pgx.Tx) (reached, error) {
		at.Concluded = true
		to := reached{place: at}
		if err := state.LockParticipants(ctx, tx, r.Name); err != nil {
			return to, err
		}
		c, err := state.ConcludeCensus(ctx, tx, r.Name, r.id(), r.row.StartedAt, r.Settings.Confirmations)
		if err == nil && c.Absent > 0 {
			r.Log.Info("a census was complete", "bridge", r.Name, "asked", c.Asked, "absent", c.Absent, "gone", c.Gone)
		}
		return to, err
	})
}
