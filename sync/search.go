package sync

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
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
	for _, u := range users {
		emails, ids = append(emails, u.Email), append(ids, u.ExternalID)
	}
	answered, err := r.askByKeys(ctx, emails, ids, state.Bringing{By: uuid.New()})
	if err != nil {
		return more, err
	}
	var asked []int64
	for _, u := range users {
		// A key that cannot be asked for says nothing either way.
		if answered.whole(state.KeyEmail, u.Email) && answered.whole(state.KeyExternalID, u.ExternalID) {
			asked = append(asked, u.UserID)
		}
	}
	p := r.done()
	err = r.commit(ctx, func(tx pgx.Tx) (reached, error) {
		to := reached{users[len(users)-1].UserID, &progress{Done: p.Done + len(users)}}
		return to, state.NoteAsked(ctx, tx, r.Name, asked)
	})
	return more, err
}

// answers are the keys that NameCoach has given a whole answer about.
type answers map[state.DirectoryKey]map[string]bool

// whole says whether all is known about a key: also where there is none, or none that can be asked for.
func (a answers) whole(kind state.DirectoryKey, key string) bool {
	return key == "" || strings.Contains(key, ",") || a[kind][key]
}

// askByKeys asks NameCoach about addresses and about institution ids, and stores what it answers as bringing says. A question
// whose answer is not whole is left out of what it returns: that is no evidence.
func (r *run) askByKeys(ctx context.Context, emails, ids []string, bringing state.Bringing) (answers, error) {
	got := answers{state.KeyEmail: {}, state.KeyExternalID: {}}
	for kind, keys := range map[state.DirectoryKey][]string{state.KeyEmail: emails, state.KeyExternalID: ids} {
		err := r.search(ctx, namecoach.Filter{}, kind, keys, func(page read, _ *Reading, asked []string) error {
			for _, k := range asked {
				got[kind][k] = true
			}
			bringing.Found = r.found(page)
			return state.InTx(ctx, r.DB, func(tx pgx.Tx) error {
				if err := state.LockParticipants(ctx, tx, r.Name); err != nil {
					return err
				}
				_, err := state.StoreStaged(ctx, tx, r.Name, page.staged, bringing)
				return err
			})
		})
		if errors.Is(err, errNotWhole) {
			r.Log.Warn("NameCoach's answer about somebody is not whole; they are left out", "bridge", r.Name, "problem", err)
		} else if err != nil {
			return got, err
		}
	}
	return got, nil
}

// counting is how far a census is.
type counting struct {
	After     string `json:"after"`
	Concluded bool   `json:"concluded"`
}

// countNext is one unit of work of a census: it asks NameCoach about the next people who are linked, or were until their rows were not
// shown, and about those who are not shown once more. When all were asked, it counts who was not shown.
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
	answered, _, err := r.askTwice(ctx, people, r.row.StartedAt, r.id())
	if err != nil {
		return more, err
	}
	at.After = people[len(people)-1].Person
	whole := map[string]bool{} // who is spelled in several ways must be answered about in each
	for _, p := range people {
		all, seen := whole[p.Person]
		whole[p.Person] = (answered[state.KeyEmail][p.Email] || p.Email == "" && answered[state.KeyExternalID][p.InstitutionID]) && (all || !seen)
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

// fewKeys is how many people a question asks about that every server answers whole.
const fewKeys = 20

// askTwice asks about people, and once more about those who have rows that neither the answer nor anything else has shown since a time: they
// are what it gives, with the keys about which all answers were whole. How many keys one question may have is not published: what
// is left out of a large answer, and out of its total, may still be there, so the second time few are asked about at once.
func (r *run) askTwice(ctx context.Context, people []state.KnownPerson, since time.Time, by uuid.UUID) (answers, []state.KnownPerson, error) {
	answered, err := r.askPeople(ctx, people, by)
	if err != nil {
		return nil, nil, err
	}
	keys := make([]string, len(people))
	for i, p := range people {
		keys[i] = p.Person
	}
	absent, err := state.NotSeenSince(ctx, r.DB, r.Name, keys, since)
	if err != nil {
		return nil, nil, err
	}
	for some := range slices.Chunk(absent, fewKeys) {
		again, err := r.askPeople(ctx, some, by)
		if err != nil {
			return nil, nil, err
		}
		for _, p := range some {
			answered[state.KeyEmail][p.Email] = again[state.KeyEmail][p.Email]
			answered[state.KeyExternalID][p.InstitutionID] = again[state.KeyExternalID][p.InstitutionID]
		}
	}
	return answered, absent, nil
}

// askPeople asks about people in NameCoach's own spelling, by address or, where somebody has none, by institution id.
func (r *run) askPeople(ctx context.Context, people []state.KnownPerson, by uuid.UUID) (answers, error) {
	var emails, ids []string
	for _, p := range people {
		if p.Email != "" {
			emails = append(emails, p.Email)
		} else {
			ids = append(ids, p.InstitutionID)
		}
	}
	return r.askByKeys(ctx, emails, ids, state.Bringing{By: by, All: true})
}

// conclude ends the counting of a census, once: another process may be at it, too.
func (r *run) conclude(ctx context.Context) error {
	return r.commit(ctx, func(tx pgx.Tx) (reached, error) {
		// Before the run, as whoever counts for it has them.
		if err := state.LockParticipants(ctx, tx, r.Name); err != nil {
			return reached{}, err
		}
		var at counting
		row, err := state.LockRun(ctx, tx, r.Name, r.id())
		if err != nil {
			return reached{}, err
		}
		r.row.Place = row.Place
		if err := r.place(&at); err != nil || at.Concluded {
			return reached{}, err
		}
		at.Concluded = true
		to := reached{place: at}
		c, err := state.ConcludeCensus(ctx, tx, r.Name, r.id(), r.row.StartedAt, r.Settings.Confirmations)
		if err == nil && c.Absent > 0 {
			r.Log.Info("a census was complete", "bridge", r.Name, "asked", c.Asked, "absent", c.Absent, "gone", c.Gone)
		}
		return to, err
	})
}
