package sync

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"namebridge/bln"
	"namebridge/state"
)

// listingMaxAge is how old an interrupted listing may be to go on with it: what its first pages said must still be true
// enough to link by.
const listingMaxAge = 6 * time.Hour

// ListingError says that BLN's list of users cannot be followed to its end.
type ListingError struct {
	Rows   int64 // listed so far
	Reason string
}

func (e *ListingError) Error() string {
	return fmt.Sprintf("BLN's list of users stopped making sense after %d users (%s); nobody is linked by a list that may have gaps", e.Rows, e.Reason)
}

// listingServes is how old a complete listing may be for an interrupted run that made it to go on without another.
const listingServes = time.Hour

// list goes through the whole directory, page by page. The place is stored with every page.
func (r *run) list(ctx context.Context) error {
	stored, err := state.GetBridge(ctx, r.DB, r.Name)
	if err != nil {
		return err
	}
	if at := stored.DirectoryListedAt; at != nil && !at.Before(r.began) && time.Since(*at) < listingServes {
		return nil
	}
	listing, err := state.TakeListing(ctx, r.DB, r.Name, listingMaxAge)
	if err != nil {
		return err
	}
	carry := stored.RowsCarryFragment
	for done := false; !done; {
		if done, err = r.listPage(ctx, &listing, &carry); errors.Is(err, state.ErrStale) {
			listing, done, err = r.rejoin(ctx, listing)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// rejoin goes on where another run, which lists too, has brought the listing.
func (r *run) rejoin(ctx context.Context, l state.Listing) (now state.Listing, done bool, err error) {
	now, err = state.GetListing(ctx, r.DB, r.Name, l.Sweep)
	switch {
	case errors.Is(err, state.ErrNotFound): // a later one is complete
		return l, true, nil
	case err != nil:
		return l, false, err
	case now.RefusedAt != nil:
		return now, false, &ListingError{now.Rows, "another run has just found that it shows too few users; if the directory did shrink so much, list it once more"}
	}
	return now, now.CompletedAt != nil, nil
}

// listPage is one unit of work: it asks for the page after listing's place and stores its users and the new place in one
// transaction. An empty page is the end: a short one need not be (BLN 7680). ErrStale: another run has moved it on.
func (r *run) listPage(ctx context.Context, listing *state.Listing, carry **bool) (done bool, err error) {
	page, err := r.BLN.Users(ctx, bln.Cursor{After: listing.After, ID: listing.AfterID})
	if isStatus(err, 403) {
		return false, &PermissionError{Needs: "list the users of the organization"}
	}
	if err != nil {
		return false, err
	}
	if len(page.Users) == 0 {
		return true, r.endListing(ctx, *listing)
	}
	if first := page.Users[0].Created; createdBefore(first, listing.LastCreated) {
		return false, &ListingError{listing.Rows, "a page begins before the last one ended: the order is not kept"}
	}
	next := *listing
	next.After, next.AfterID = page.Next.After, page.Next.ID
	next.LastCreated = page.Users[len(page.Users)-1].Created
	users := make([]state.DirectoryUser, len(page.Users))
	for i, u := range page.Users {
		users[i] = r.directoryUser(u)
		if users[i].ListedFragment != nil && (*carry == nil || !**carry) {
			yes := true
			*carry = &yes
			if err := state.SetRowsCarryFragment(ctx, r.DB, r.Name, true); err != nil {
				return false, err
			}
		}
	}
	var fresh int64
	err = state.InTx(ctx, r.DB, func(tx pgx.Tx) (err error) {
		if fresh, err = state.StoreDirectory(ctx, tx, r.Name, listing.Sweep, users); err != nil || fresh == 0 {
			return err
		}
		next.Rows = listing.Rows + fresh
		return state.MoveListing(ctx, tx, r.Name, *listing, next)
	})
	if err != nil {
		return false, err
	}
	if fresh == 0 {
		if err := r.still(ctx, *listing); err != nil {
			return false, err
		}
		// A server that keeps fractions of a second which its created does not show repeats the rows of the last second for
		// ever. That the newest user of all is the last one here is proof enough of the end.
		newest, ok, err := r.BLN.Newest(ctx)
		if err != nil {
			return false, err
		}
		if !ok || newest.ID != page.Users[len(page.Users)-1].ID {
			return false, &ListingError{listing.Rows, "a page brought nobody new: the server does not follow the cursor"}
		}
		return true, r.endListing(ctx, *listing)
	}
	*listing = next
	r.progress(PhaseList, int(next.Rows), 0)
	return false, nil
}

// still fails with ErrStale where another run has moved the listing on from where l says it is.
func (r *run) still(ctx context.Context, l state.Listing) error {
	now, err := state.GetListing(ctx, r.DB, r.Name, l.Sweep)
	moved := now.After != l.After || now.AfterID != l.AfterID || now.Rows != l.Rows || now.CompletedAt != nil || now.RefusedAt != nil
	if errors.Is(err, state.ErrNotFound) || err == nil && moved {
		return fmt.Errorf("listing %d: %w", l.Sweep, state.ErrStale)
	}
	return err
}

// endListing makes a listing that came to its end the directory, unless it shows so few that it must be incomplete.
// ErrStale: another run has moved it on.
func (r *run) endListing(ctx context.Context, l state.Listing) error {
	if err := r.still(ctx, l); err != nil {
		return err
	}
	known, refused, err := state.ListingSizes(ctx, r.DB, r.Name)
	if err != nil {
		return err
	}
	if !BelieveListing(l.Rows, known, refused) {
		return errors.Join(&ListingError{l.Rows, fmt.Sprintf("it ended although %d users are known; if the directory did shrink so much, list it once more", known)},
			state.RefuseListing(ctx, r.DB, r.Name, l))
	}
	// Everything that links depend on changes with this commit: a crash before it lists the last page again.
	if err := state.InTx(ctx, r.DB, func(tx pgx.Tx) error { return state.CompleteListing(ctx, tx, r.Name, l) }); err != nil {
		return err
	}
	return state.Analyze(ctx, r.DB)
}

// createdBefore compares two raw times of rows; what cannot be read proves nothing.
func createdBefore(a, b string) bool {
	at, okA := parseDate(a)
	bt, okB := parseDate(b)
	return okA && okB && at.Before(bt)
}

// directoryUser keeps of a list row only the keys we match by, and digests of what it shows.
func (r *run) directoryUser(u bln.User) state.DirectoryUser {
	out := state.DirectoryUser{UserID: u.ID, Username: Key(u.Username), Email: Fold(u.Username), ExternalID: Key(u.ExternalID)}
	if u.OtherInfoErr == nil {
		out.ListedFragment = r.Settings.Layout.Seen(u.OtherInfo.Get)
	}
	sum := sha256.Sum256(u.OtherInfo.JSON())
	out.ListedContent = sum[:16]
	for _, rule := range r.Settings.MatchBy {
		if rule != RuleOtherEmail {
			continue
		}
		for _, key := range []string{"personalEmail", "workEmail"} {
			raw, _ := u.OtherInfo.Get(key)
			var address string
			if json.Unmarshal(raw, &address) == nil && Fold(address) != "" {
				out.OtherEmails = append(out.OtherEmails, Fold(address))
			}
		}
	}
	return out
}

// probeRows is how many written users are looked for in a list answer, to learn whether rows show the fragment.
const probeRows = 5

// learnRows finds out, once, whether list rows show our fragment, by one exact search for users just written. Without
// this a second sweep could not tell rows that never show it from fragments that somebody removed.
func (r *run) learnRows(ctx context.Context) error {
	stored, err := state.GetBridge(ctx, r.DB, r.Name)
	if err != nil || stored.RowsCarryFragment != nil {
		return err
	}
	names, err := state.SomeWritten(ctx, r.DB, r.Name, probeRows)
	if err != nil || len(names) == 0 {
		return err
	}
	users, err := r.BLN.UsersByIdentifier(ctx, names)
	if err != nil {
		return err
	}
	if len(users) == 0 {
		return nil
	}
	carry := false
	for _, u := range users {
		carry = carry || u.OtherInfoErr == nil && r.Settings.Layout.Seen(u.OtherInfo.Get) != nil
	}
	return state.SetRowsCarryFragment(ctx, r.DB, r.Name, carry)
}

// askLive asks BLN for the keys of changed people that the directory does not know, before the other rules may decide
// alone: since the last listing somebody may have been added. What BLN does not answer is unknown, not gone.
func (r *run) askLive(ctx context.Context, sweep int64) error {
	after := ""
	for {
		people, err := state.NextPeople(ctx, r.DB, r.Name, after, linkBatch, true, r.Settings.Events)
		if err != nil || len(people) == 0 {
			return err
		}
		after = people[len(people)-1].Person
		found, err := r.candidates(ctx, r.DB, people)
		if err != nil {
			return err
		}
		emails, ids := unknownKeys(people, found, r.Settings.MatchBy)
		if err := r.askEmails(ctx, sweep, emails); err != nil {
			return err
		}
		for _, id := range ids {
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
			if err := r.storeLive(ctx, sweep, same); err != nil {
				return err
			}
		}
	}
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

// refusedKey says whether a question failed for what was asked.
func refusedKey(err error) bool {
	return isStatus(err, 400) || isStatus(err, 404) || isStatus(err, 422)
}

func (r *run) storeLive(ctx context.Context, sweep int64, users []bln.User) error {
	if len(users) == 0 {
		return nil
	}
	rows := make([]state.DirectoryUser, len(users))
	for i, u := range users {
		rows[i] = r.directoryUser(u)
	}
	_, err := state.StoreDirectory(ctx, r.DB, r.Name, sweep, rows)
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

// linkBatch is how many people are linked in one transaction.
const linkBatch = 1000

// linkAll decides for everyone, or just for those who changed, in batches. It asks nobody: links depend on what is stored.
func (r *run) linkAll(ctx context.Context, dueOnly bool) error {
	if len(r.Settings.Events) > 0 {
		if err := state.ForgetUncounted(ctx, r.DB, r.Name, r.Settings.Events); err != nil {
			return err
		}
		if !dueOnly {
			if err := state.DropUncounted(ctx, r.DB, r.Name, r.Settings.Events); err != nil {
				return err
			}
		}
	}
	for after, done := "", 0; ; {
		var people []state.PersonKeys
		err := state.InTx(ctx, r.DB, func(tx pgx.Tx) (err error) {
			people, err = r.linkNext(ctx, tx, after, dueOnly)
			return err
		})
		if err != nil || len(people) == 0 {
			return err
		}
		after = people[len(people)-1].Person
		done += len(people)
		r.progress(PhaseLink, done, 0)
	}
}

// linkNext is one unit of work: it links the next people after the given one.
func (r *run) linkNext(ctx context.Context, tx pgx.Tx, after string, dueOnly bool) ([]state.PersonKeys, error) {
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

// decideBatch is how many users are decided on in one transaction.
const decideBatch = 500

// recheckUnwritable is how long a user who could not be written is left alone while the list shows no change of it. A
// little under a day, so that a daily sweep looks again, and a run right after another reads nobody.
const recheckUnwritable = 20 * time.Hour

// decideAll compares everyone who is linked, or just those to whom something happened, with what should be there.
func (r *run) decideAll(ctx context.Context, dueOnly bool) error {
	stored, err := state.GetBridge(ctx, r.DB, r.Name)
	if err != nil {
		return err
	}
	trustRows := stored.RowsCarryFragment == nil || *stored.RowsCarryFragment
	var after int64
	for done := 0; ; {
		var users []state.DueUser
		err := state.InTx(ctx, r.DB, func(tx pgx.Tx) (err error) {
			if users, err = state.NextUsers(ctx, tx, r.Name, after, decideBatch, dueOnly); err != nil || len(users) == 0 {
				return err
			}
			return r.decide(ctx, tx, users, trustRows)
		})
		if err != nil || len(users) == 0 {
			return err
		}
		after = users[len(users)-1].UserID // not before the commit: a transaction may be made twice
		done += len(users)
		r.progress(PhaseDecide, done, 0)
	}
}

// decide is one unit of work: it plans for users and stores what is wanted of each.
func (r *run) decide(ctx context.Context, tx pgx.Tx, users []state.DueUser, trustRows bool) error {
	ids := make([]int64, len(users))
	byID := make(map[int64]*UserState, len(users))
	states := make([]UserState, len(users))
	for i, u := range users {
		ids[i] = u.UserID
		states[i] = UserState{UserID: u.UserID, Applied: u.AppliedDigest, AppliedSource: string(u.AppliedSource), SourceMoved: u.SourceMoved, Seen: u.ListedFragment}
		if !trustRows && u.ListedFragment == nil {
			states[i].Seen = u.AppliedDigest
		}
		if keepsHold(u, time.Now()) {
			states[i].Held = Reason(u.HeldReason)
		}
		byID[u.UserID] = &states[i]
	}
	linked, err := state.ParticipantsOf(ctx, tx, r.Name, ids)
	if err != nil {
		return err
	}
	for _, l := range linked {
		u := byID[l.UserID]
		u.Linked = true
		u.Participants = append(u.Participants, Participant{
			ID: string(l.ID), EventAccessCode: l.EventAccessCode, EventTitle: l.EventTitle, InstitutionID: l.InstitutionID,
			NameBadgeLink: l.NameBadgeLink, RecordingLink: l.RecordingLink, RecordingID: l.RecordingID, RecordingDate: l.RecordingDate,
			Attributes: l.Attributes,
		})
	}
	plan := Compute(states, r.Settings.Layout, r.Settings.Events)
	wanted, err := wantedOf(plan)
	if err != nil {
		return err
	}
	// Most users of a sweep are as they were: their rows are left alone.
	was := make(map[int64]state.DueUser, len(users))
	for _, u := range users {
		was[u.UserID] = u
	}
	wanted = slices.DeleteFunc(wanted, func(w state.Wanted) bool { return decidedBefore(was[w.UserID], w) })
	if err := state.StoreWanted(ctx, tx, r.Name, wanted); err != nil {
		return err
	}
	var holds []state.Hold
	held, tried := map[int64]bool{}, map[int64]bool{}
	for _, s := range plan.Steps {
		tried[s.UserID] = true
	}
	for _, h := range plan.Holds {
		held[h.UserID] = true
		if h.Reason == Refused {
			holds = append(holds, state.Hold{Subject: fmt.Sprint(h.UserID), Reason: string(h.Reason), Detail: h.Detail})
		}
	}
	var lifted []string
	for _, u := range users {
		// An unwritable user that is to be tried again stays in the list until the try has an outcome.
		if !held[u.UserID] && u.HeldReason != "" && (Reason(u.HeldReason) != Unwritable || !tried[u.UserID]) {
			lifted = append(lifted, fmt.Sprint(u.UserID))
		}
	}
	return state.StoreHolds(ctx, tx, r.Name, state.HeldUser, holds, lifted)
}

// decidedBefore says whether w is what the user's row says already.
func decidedBefore(u state.DueUser, w state.Wanted) bool {
	switch {
	case u.Due, u.Pending, u.Action != w.Action:
		return false
	case w.Action == "":
		return true
	}
	return w.There && bytes.Equal(u.WantedDigest, w.Digest) && bytes.Equal(u.AppliedDigest, w.Digest) && bytes.Equal(u.AppliedSource, w.Source)
}

// keepsHold says whether a hold of a user outlives this decision: one that a person must lift, or one of a user that
// could not be written and has not changed since.
func keepsHold(u state.DueUser, now time.Time) bool {
	switch Reason(u.HeldReason) {
	case Reverted:
		return true
	case Unwritable:
		return u.HeldChecked != nil && now.Sub(*u.HeldChecked) < recheckUnwritable && string(u.HeldContent) == string(u.ListedContent)
	}
	return false
}

// wantedOf turns a plan into what is stored for each of its users.
func wantedOf(p Plan) ([]state.Wanted, error) {
	var out []state.Wanted
	add := func(s Step, there bool) error {
		w := state.Wanted{UserID: s.UserID, Action: string(s.Action), Digest: s.Digest, Source: []byte(s.Source), There: there}
		if s.Fragment != nil {
			raw, err := json.Marshal(s.Fragment)
			if err != nil {
				return fmt.Errorf("plan for user %d: %w", s.UserID, err)
			}
			w.Value = raw
		}
		out = append(out, w)
		return nil
	}
	var failed error
	stepped := map[int64]bool{}
	for _, s := range p.Steps {
		stepped[s.UserID] = true
		failed = errors.Join(failed, add(s, false))
	}
	for _, s := range p.Unchanged {
		failed = errors.Join(failed, add(s, true))
	}
	for _, h := range p.Holds {
		if !stepped[h.UserID] {
			out = append(out, state.Wanted{UserID: h.UserID})
		}
	}
	for _, id := range p.Nothing {
		out = append(out, state.Wanted{UserID: id})
	}
	return out, failed
}
