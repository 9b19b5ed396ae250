package sync

import (
	"context"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"namebridge/state"
)

// linkBatch is how many people are linked in one transaction.
const linkBatch = 1000

// linkNext is one unit of work: it decides for the next people of the run, everyone or those who changed. It asks nobody:
// links depend on what is stored.
func (r *run) linkNext(ctx context.Context) (verdict, error) {
	var after string
	if err := r.place(&after); err != nil {
		return more, err
	}
	if after == "" {
		if err := r.forgetUncounted(ctx, r.dueOnly()); err != nil {
			return more, err
		}
	}
	stored, err := state.GetBridge(ctx, r.DB, r.Name)
	if err != nil {
		return more, err
	}
	if !mayLink(stored) {
		return over, nil
	}
	asked, err := r.askAhead(ctx, stored, after, r.dueOnly())
	if err != nil {
		return more, err
	}
	var people []state.PersonKeys
	p := r.done()
	err = r.commit(ctx, func(tx pgx.Tx) (to reached, err error) {
		if people, err = r.linkSome(ctx, tx, after, r.dueOnly(), asked); err != nil || len(people) == 0 {
			return to, err
		}
		return reached{people[len(people)-1].Person, &progress{Done: p.Done + len(people)}}, nil
	})
	if err != nil || len(people) == 0 {
		return next, err
	}
	return more, nil
}

// mayLink says whether all is known that links depend on: the whole directory, and all that NameCoach has, save where
// somebody wants no more than a part of that (backfill --since).
func mayLink(b state.Bridge) bool {
	return b.DirectorySweep > 0 && b.CollectedAt != nil
}

// linkDue links those who changed, outside of a run's own phase.
func (r *run) linkDue(ctx context.Context) error {
	stored, err := state.GetBridge(ctx, r.DB, r.Name)
	if err != nil || !mayLink(stored) {
		return err
	}
	for after := ""; ; {
		asked, err := r.askAhead(ctx, stored, after, true)
		if err != nil {
			return err
		}
		var people []state.PersonKeys
		err = state.InTx(ctx, r.DB, func(tx pgx.Tx) (err error) {
			people, err = r.linkSome(ctx, tx, after, true, asked)
			return err
		})
		if err != nil || len(people) == 0 {
			return err
		}
		after = people[len(people)-1].Person
	}
}

// askAhead asks live about the people who are linked next. The answer is up to when those who have changed are asked about.
func (r *run) askAhead(ctx context.Context, stored state.Bridge, after string, dueOnly bool) (asked time.Time, err error) {
	err = state.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		asked, err = state.Moment(ctx, tx, r.Name)
		return err
	})
	if err != nil {
		return asked, err
	}
	people, err := state.NextPeople(ctx, r.DB, r.Name, after, linkBatch, dueOnly, r.Settings.Events)
	if err != nil {
		return asked, err
	}
	return asked, r.askLive(ctx, stored, people)
}

func (r *run) forgetUncounted(ctx context.Context, dueOnly bool) error {
	if len(r.Settings.Events) == 0 {
		return nil
	}
	if err := state.ForgetUncounted(ctx, r.DB, r.Name, r.Settings.Events); err != nil || dueOnly {
		return err
	}
	return state.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		if err := state.LockParticipants(ctx, tx, r.Name); err != nil {
			return err
		}
		return state.DropUncounted(ctx, tx, r.Name, r.Settings.Events)
	})
}

// linkSome links the next people after the given one, but those who have changed since asked: nobody has looked yet whether
// BLN knows their keys, and they stay due.
func (r *run) linkSome(ctx context.Context, tx pgx.Tx, after string, dueOnly bool, asked time.Time) ([]state.PersonKeys, error) {
	if err := state.LockParticipants(ctx, tx, r.Name); err != nil {
		return nil, err
	}
	people, err := state.NextPeople(ctx, tx, r.Name, after, linkBatch, dueOnly, r.Settings.Events)
	if err != nil || len(people) == 0 {
		return nil, err
	}
	found, err := r.candidates(ctx, tx, people)
	if err != nil {
		return nil, err
	}
	index := indexCandidates(found)
	var decided []state.Decided
	var holds []state.Hold
	var lifted []string
	for _, p := range people {
		if p.ChangedAt != nil && p.ChangedAt.After(asked) {
			continue
		}
		person := personOf(p)
		d := Link(person, index.of(person), r.Settings.MatchBy)
		decided = append(decided, state.Decided{Person: p.Person, UserID: d.UserID, Rule: string(d.Rule), WasUser: p.WasUser, Changed: p.Due})
		if d.Reason == "" {
			lifted = append(lifted, p.Person)
		} else {
			holds = append(holds, state.Hold{Subject: p.Person, Reason: string(d.Reason), Detail: d.Detail, Users: d.Users})
		}
	}
	if err := state.StoreHolds(ctx, tx, r.Name, state.HeldPerson, holds, lifted); err != nil {
		return nil, err
	}
	return people, state.StoreDecisions(ctx, tx, r.Name, decided)
}

func personOf(p state.PersonKeys) Person {
	out := Person{Key: p.Person, InstitutionIDs: p.InstitutionIDs, Hand: p.Hand}
	if email, ok := strings.CutPrefix(p.Person, "email:"); ok {
		out.Email = email
	}
	return out
}

// candidates reads the directory users who bear any key of the people.
func (r *run) candidates(ctx context.Context, q state.Querier, people []state.PersonKeys) ([]Candidate, error) {
	var ids, emails []string
	others := false
	for _, rule := range r.Settings.MatchBy {
		others = others || rule == RuleOtherEmail
	}
	for _, p := range people {
		person := personOf(p)
		ids = append(ids, person.InstitutionIDs...)
		if person.Email != "" {
			emails = append(emails, person.Email)
		}
	}
	rows, err := state.Candidates(ctx, q, r.Name, ids, emails, others)
	if err != nil {
		return nil, err
	}
	out := make([]Candidate, len(rows))
	for i, c := range rows {
		out[i] = Candidate(c)
	}
	return out, nil
}

// candidateIndex finds the candidates of one person among those of a batch.
type candidateIndex map[string][]Candidate

func indexCandidates(cs []Candidate) candidateIndex {
	x := candidateIndex{}
	for _, c := range cs {
		if c.ExternalID != "" {
			x["id:"+c.ExternalID] = append(x["id:"+c.ExternalID], c)
		}
		seen := map[string]bool{"": true}
		for _, e := range append([]string{c.Email}, c.OtherEmails...) {
			if !seen[e] {
				x["email:"+e] = append(x["email:"+e], c)
			}
			seen[e] = true
		}
	}
	return x
}

func (x candidateIndex) of(p Person) []Candidate {
	out := append([]Candidate(nil), x["email:"+p.Email]...)
	for _, id := range p.InstitutionIDs {
		out = append(out, x["id:"+id]...)
	}
	return out
}
