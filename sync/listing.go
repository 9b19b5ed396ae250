package sync

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
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
	page, err := r.nextPage(ctx, listing)
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
		if err := state.LockListing(ctx, tx, r.Name, listing); errors.Is(err, state.ErrStale) {
			return to, errMoved
		} else if err != nil {
			return to, err
		}
		if fresh, err = state.StoreDirectory(ctx, tx, r.Name, listing.Sweep, users, asked); err != nil || fresh == 0 {
			return to, err
		}
		next.Rows = listing.Rows + fresh
		err = state.MoveListing(ctx, tx, r.Name, listing, next)
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
	// ever: the end all the same.
	over, err := r.isOver(ctx, listing)
	if err != nil {
		return false, err
	}
	if !over {
		return false, &ListingError{listing.Rows, "a page brought nobody new: the server does not follow the cursor"}
	}
	return true, r.endListing(ctx, listing)
}

// nextPage asks for the page after listing's place. It is empty at the end: one answer that shows nobody is not yet the end of a
// directory by which people are linked.
func (r *run) nextPage(ctx context.Context, l state.Listing) (bln.Page, error) {
	for empty := 0; ; empty++ {
		page, err := r.BLN.Users(ctx, bln.Cursor{After: l.After, ID: l.AfterID})
		if isStatus(err, 403) {
			return page, &PermissionError{Needs: "list the users of the organization"}
		}
		if err != nil || len(page.Users) > 0 {
			return page, err
		}
		if over, err := r.isOver(ctx, l); err != nil || over {
			return page, err
		}
		if empty > 0 { // else somebody may just have joined
			return page, &ListingError{l.Rows, "a page is empty, though newer users follow"}
		}
	}
}

// isOver says whether the listing has shown the newest user of all.
func (r *run) isOver(ctx context.Context, l state.Listing) (bool, error) {
	newest, there, err := r.BLN.Newest(ctx)
	if err != nil || !there {
		return err == nil && l.Rows == 0, err
	}
	return state.IsListed(ctx, r.DB, r.Name, l.Sweep, newest.ID)
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
