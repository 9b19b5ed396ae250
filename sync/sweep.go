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

// listNext is one unit of work: it asks for the next page of the directory. A listing that another run has under way is
// gone on with, wherever that is.
func (r *run) listNext(ctx context.Context) (verdict, error) {
	stored, err := state.GetBridge(ctx, r.DB, r.Name)
	if err != nil {
		return more, err
	}
	if at := stored.DirectoryListedAt; at != nil && !at.Before(r.row.StartedAt) && time.Since(*at) < listingServes {
		return r.listed(stored), nil
	}
	listing, err := state.TakeListing(ctx, r.DB, r.Name, listingMaxAge)
	if err != nil {
		return more, err
	}
	if err := r.joined(ctx, listing.Sweep); err != nil {
		return more, err
	}
	done, err := r.listPage(ctx, listing, stored.RowsCarryFragment)
	switch {
	case errors.Is(err, errMoved): // another run that lists, too, was faster
		return more, nil
	case err != nil || !done:
		return more, err
	}
	// Looked at when the listing is stored as complete, as a collect looks when it is: whichever is the later sees the other.
	if stored, err = state.GetBridge(ctx, r.DB, r.Name); err != nil {
		return more, err
	}
	return r.listed(stored), nil
}

// listed is what follows a complete listing: a sweep of a bridge that was never collected to the end leaves linking to the
// collect that is under way or will come, since nobody is linked by half of what there is to know.
func (r *run) listed(b state.Bridge) verdict {
	if r.row.Kind == state.Sweep && b.CollectedAt == nil {
		return over
	}
	return next
}

// errMoved says that another run has moved the listing on.
var errMoved = errors.New("the listing was moved on")

// joined fails where the listing that this run was part of was refused meanwhile by another run.
func (r *run) joined(ctx context.Context, sweep int64) error {
	if r.phase != PhaseList {
		return nil
	}
	var was int64
	if err := r.place(&was); err != nil || was == 0 || was == sweep {
		return err
	}
	former, err := state.GetListing(ctx, r.DB, r.Name, was)
	if errors.Is(err, state.ErrNotFound) || err == nil && former.RefusedAt == nil {
		return nil
	}
	if err != nil {
		return err
	}
	return &ListingError{former.Rows, "another run has just found that it shows too few users; if the directory did shrink so much, list it once more"}
}

// listPage asks for the page after listing's place and stores its users and the new place in one transaction. An empty
// page is the end: a short one need not be (BLN 7680). errMoved: another run has moved it on.
func (r *run) listPage(ctx context.Context, listing state.Listing, carry *bool) (done bool, err error) {
	page, err := r.BLN.Users(ctx, bln.Cursor{After: listing.After, ID: listing.AfterID})
	if isStatus(err, 403) {
		return false, &PermissionError{Needs: "list the users of the organization"}
	}
	if err != nil {
		return false, err
	}
	if len(page.Users) == 0 {
		return true, r.endListing(ctx, listing)
	}
	if first := page.Users[0].Created; createdBefore(first, listing.LastCreated) {
		return false, &ListingError{listing.Rows, "a page begins before the last one ended: the order is not kept"}
	}
	next := listing
	next.After, next.AfterID = page.Next.After, page.Next.ID
	next.LastCreated = page.Users[len(page.Users)-1].Created
	users := make([]state.DirectoryUser, len(page.Users))
	shown := false
	for i, u := range page.Users {
		users[i] = r.directoryUser(u)
		shown = shown || users[i].ListedFragment != nil
	}
	if shown && (carry == nil || !*carry) {
		if err := state.SetRowsCarryFragment(ctx, r.DB, r.Name, true); err != nil {
			return false, err
		}
	}
	asked, err := r.readEverything(ctx)
	if err != nil {
		return false, err
	}
	var fresh int64
	err = r.commit(ctx, func(tx pgx.Tx) (to reached, err error) {
		if fresh, err = state.StoreDirectory(ctx, tx, r.Name, listing.Sweep, users, asked); err != nil || fresh == 0 {
			return to, err
		}
		next.Rows = listing.Rows + fresh
		if err = state.MoveListing(ctx, tx, r.Name, listing, next); errors.Is(err, state.ErrStale) {
			return to, errMoved
		}
		if r.phase == PhaseList {
			to = reached{listing.Sweep, &progress{Done: int(next.Rows)}}
		}
		return to, err
	})
	if err != nil || fresh > 0 {
		return false, err
	}
	if err := r.still(ctx, listing); err != nil {
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
	return true, r.endListing(ctx, listing)
}

// readEverything says whether this run has just read all rows that NameCoach has.
func (r *run) readEverything(ctx context.Context) (bool, error) {
	if r.row.Kind != state.Backfill && r.row.Kind != state.Plan {
		return false, nil
	}
	walk, err := state.GetCursor(ctx, r.DB, r.Name, r.id().String())
	return err == nil && everything(walk) && r.phase == PhaseList, err
}

// still fails with errMoved where another run has moved the listing on from where l says it is.
func (r *run) still(ctx context.Context, l state.Listing) error {
	now, err := state.GetListing(ctx, r.DB, r.Name, l.Sweep)
	moved := now.After != l.After || now.AfterID != l.AfterID || now.Rows != l.Rows || now.CompletedAt != nil || now.RefusedAt != nil
	if errors.Is(err, state.ErrNotFound) || err == nil && moved {
		return errMoved
	}
	return err
}

// endListing makes a listing that came to its end the directory, unless it shows so few that it must be incomplete.
// errMoved: another run has moved it on.
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
	err = state.InTx(ctx, r.DB, func(tx pgx.Tx) error { return state.CompleteListing(ctx, tx, r.Name, l) })
	if errors.Is(err, state.ErrStale) {
		return errMoved
	}
	if err != nil {
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
	return state.DropUncounted(ctx, r.DB, r.Name, r.Settings.Events)
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

// decideBatch is how many users are decided on in one transaction.
const decideBatch = 500

// recheckUnwritable is how long a user who could not be written is left alone while the list shows no change of it. A
// little under a day, so that a daily sweep looks again, and a run right after another reads nobody.
const recheckUnwritable = 20 * time.Hour

// decideNext is one unit of work: it compares the next users of the run, everyone who is linked or those to whom something
// happened, with what should be there, and queues jobs for those that differ.
func (r *run) decideNext(ctx context.Context) (verdict, error) {
	var after int64
	if err := r.place(&after); err != nil {
		return more, err
	}
	wish, err := r.wish(ctx)
	if err != nil {
		return more, err
	}
	p := r.done()
	var users []state.DueUser
	err = r.commit(ctx, func(tx pgx.Tx) (to reached, err error) {
		if users, err = r.decideSome(ctx, tx, after, r.dueOnly(), wish); err != nil || len(users) == 0 {
			return to, err
		}
		return reached{users[len(users)-1].UserID, &progress{Done: p.Done + len(users)}}, nil
	})
	if err != nil || len(users) == 0 {
		return next, err
	}
	return more, nil
}

// wish is what the run's decisions are stored as.
func (r *run) wish(ctx context.Context) (state.Wish, error) {
	w := state.Wish{Run: r.id(), Urgency: r.row.Priority}
	switch r.row.Kind {
	case state.Plan:
		w.Urgency = state.Planned
	case state.Collect:
		walk, err := state.GetCursor(ctx, r.DB, r.Name, r.id().String())
		if err == nil {
			end := walk.Until.Add(r.Settings.Settle)
			w.Window = &end
		} else if !errors.Is(err, state.ErrNotFound) { // a run that collects nothing
			return w, err
		}
	}
	return w, nil
}

// decideDue decides on those to whom something happened, outside of a run's own phase.
func (r *run) decideDue(ctx context.Context, wish state.Wish) error {
	for after := int64(0); ; {
		var users []state.DueUser
		err := state.InTx(ctx, r.DB, func(tx pgx.Tx) (err error) {
			users, err = r.decideSome(ctx, tx, after, true, wish)
			return err
		})
		if err != nil || len(users) == 0 {
			return err
		}
		after = users[len(users)-1].UserID // not before the commit: a transaction may be made twice
	}
}

// decideSome decides on the next users after the given one.
func (r *run) decideSome(ctx context.Context, tx pgx.Tx, after int64, dueOnly bool, wish state.Wish) ([]state.DueUser, error) {
	users, err := state.NextUsers(ctx, tx, r.Name, after, decideBatch, dueOnly)
	if err != nil || len(users) == 0 {
		return nil, err
	}
	stored, err := state.GetBridge(ctx, tx, r.Name)
	if err != nil {
		return nil, err
	}
	pending, err := r.decide(ctx, tx, users, stored.RowsCarryFragment == nil || *stored.RowsCarryFragment, wish)
	if err != nil {
		return nil, err
	}
	return users, queueWriters(ctx, r.queue, tx, r.Bridge, wish.Urgency, pending)
}

// decide plans for users and stores what is wanted of each. It says how many are pending by that.
func (r *run) decide(ctx context.Context, tx pgx.Tx, users []state.DueUser, trustRows bool, wish state.Wish) (pending int, err error) {
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
		return 0, err
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
		return 0, err
	}
	// Most users of a sweep are as they were: their rows are left alone.
	was := make(map[int64]state.DueUser, len(users))
	for _, u := range users {
		was[u.UserID] = u
	}
	wanted = slices.DeleteFunc(wanted, func(w state.Wanted) bool { return decidedBefore(was[w.UserID], w) })
	if pending, err = state.StoreWanted(ctx, tx, r.Name, wish, wanted); err != nil {
		return 0, err
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
	return pending, state.StoreHolds(ctx, tx, r.Name, state.HeldUser, holds, lifted)
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
