package sync

import (
	"context"
	"errors"
	"slices"

	"namebridge/bln"
	"namebridge/state"
)

// askLive asks BLN for the keys of changed people that the directory does not know, before the other rules may decide
// alone: since the last listing somebody may have been added. Who has not changed since it began was looked for in it. What
// BLN does not answer is unknown, not gone.
func (r *run) askLive(ctx context.Context, stored state.Bridge, people []state.PersonKeys) error {
	people = slices.DeleteFunc(slices.Clone(people), func(p state.PersonKeys) bool {
		return p.ChangedAt == nil || stored.DirectoryListedAt != nil && p.ChangedAt.Before(*stored.DirectoryListedAt)
	})
	if len(people) == 0 {
		return nil
	}
	found, err := r.candidates(ctx, r.DB, people)
	if err != nil {
		return err
	}
	emails, ids := unknownKeys(people, found, r.Settings.MatchBy)
	if err := r.askEmails(ctx, stored.DirectorySweep, emails); err != nil {
		return err
	}
	for _, id := range ids {
		r.forward()
		users, err := r.BLN.UsersByQuery(ctx, id)
		if refusedKey(err) {
			r.Log.Warn("BLN refuses to be asked about one person", "bridge", r.Name, "problem", err)
			continue
		}
		if err != nil {
			return err
		}
		// query also spans names, phones and addresses (BLN 7642): only equality counts.
		var same []bln.User
		for _, u := range users {
			if Key(u.ExternalID) == id {
				same = append(same, u)
			}
		}
		if err := r.storeLive(ctx, stored.DirectorySweep, same); err != nil {
			return err
		}
	}
	return nil
}

// askEmails asks for the users of addresses, in halves where BLN refuses one of them: a key that it does not like must
// not keep everybody else waiting.
func (r *run) askEmails(ctx context.Context, sweep int64, emails []string) error {
	if len(emails) == 0 {
		return nil
	}
	users, err := r.BLN.UsersByIdentifier(ctx, emails)
	switch {
	case refusedKey(err) && len(emails) > 1:
		half := len(emails) / 2
		return errors.Join(r.askEmails(ctx, sweep, emails[:half]), r.askEmails(ctx, sweep, emails[half:]))
	case refusedKey(err):
		r.Log.Warn("BLN refuses to be asked about one person", "bridge", r.Name, "problem", err)
		return nil
	case err != nil:
		return err
	}
	return r.storeLive(ctx, sweep, users)
}

// refusedKey says whether a question failed for what was asked. A 404 of something in front of the server is about no key.
func refusedKey(err error) bool {
	return isStatus(err, 400) || isStatus(err, 422) || isGone(err)
}

func (r *run) storeLive(ctx context.Context, sweep int64, users []bln.User) error {
	if len(users) == 0 {
		return nil
	}
	rows := make([]state.DirectoryUser, len(users))
	for i, u := range users {
		rows[i] = r.directoryUser(u)
	}
	_, err := state.StoreDirectory(ctx, r.DB, r.Name, sweep, rows, false)
	return err
}

// unknownKeys lists the keys of people that no candidate bears.
func unknownKeys(people []state.PersonKeys, found []Candidate, matchBy []Rule) (emails, ids []string) {
	for _, p := range people {
		person := personOf(p)
		for _, t := range Link(person, found, matchBy).Tried {
			switch {
			case len(t.Users) > 0:
			case t.Rule == RuleExternalID:
				ids = append(ids, t.Key)
			case t.Rule == RuleEmail:
				emails = append(emails, t.Key)
			}
		}
	}
	return emails, ids
}
