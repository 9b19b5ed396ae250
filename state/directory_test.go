package state_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"namebridge/state"
)

func TestAnInterruptedListingGoesOnWhileItIsYoung(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	take := func() state.Listing {
		t.Helper()
		return get[state.Listing](t)(state.TakeListing(t.Context(), db, "a", time.Hour))
	}
	first := take()
	if first.Sweep != 1 || first.After != "" || first.Rows != 0 || time.Since(first.StartedAt).Abs() > time.Minute {
		t.Errorf("begun as %+v", first)
	}
	next := first
	next.After, next.AfterID, next.LastCreated, next.Rows = "2024-01-01", 7, "2024-01-01", 100
	must(t, state.MoveListing(t.Context(), db, "a", first, next))
	if diff := cmp.Diff(next, take()); diff != "" {
		t.Errorf("it does not go on where it was: %s", diff)
	}
	// Another process that was at the same place.
	if err := state.MoveListing(t.Context(), db, "a", first, next); !errors.Is(err, state.ErrStale) {
		t.Errorf("a page was stored twice: %v", err)
	}
	exec(t, db, `UPDATE listings SET started_at = now() - interval '61 minutes'`)
	second := take()
	if second.Sweep != 2 || second.After != "" {
		t.Errorf("what is too old goes on: %+v", second)
	}
	must(t, state.CompleteListing(t.Context(), db, "a", second))
	for name, err := range map[string]error{
		"completed again": state.CompleteListing(t.Context(), db, "a", second), "moved after its end": state.MoveListing(t.Context(), db, "a", second, next),
		"an older one, moved": state.MoveListing(t.Context(), db, "a", next, next), "an older one, completed": state.CompleteListing(t.Context(), db, "a", next),
	} {
		if !errors.Is(err, state.ErrStale) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b := get[state.Bridge](t)(state.GetBridge(t.Context(), db, "a"))
	if b.DirectorySweep != 2 || b.DirectoryListedAt == nil || !b.DirectoryListedAt.Equal(second.StartedAt) {
		t.Errorf("the bridge does not know: %+v", b)
	}
	if third := take(); third.Sweep != 3 {
		t.Errorf("after a complete one: %+v", third)
	}
}

// The listing that was refused must not confirm itself, nor go on, in the hands of another run that shares it.
func TestARefusedListingIsOver(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	l := get[state.Listing](t)(state.TakeListing(t.Context(), db, "a", time.Hour))
	must(t, state.RefuseListing(t.Context(), db, "a", l))
	for name, err := range map[string]error{
		"completed": state.CompleteListing(t.Context(), db, "a", l), "moved": state.MoveListing(t.Context(), db, "a", l, l),
	} {
		if !errors.Is(err, state.ErrStale) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if now := get[state.Listing](t)(state.GetListing(t.Context(), db, "a", l.Sweep)); now.RefusedAt == nil || now.CompletedAt != nil {
		t.Errorf("%+v", now)
	}
	if _, err := state.GetListing(t.Context(), db, "a", l.Sweep+1); !errors.Is(err, state.ErrNotFound) {
		t.Errorf("one that was never begun: %v", err)
	}
}

func TestListingsBegunAtOnceAreOne(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	sweeps := make([]int64, 8)
	var all sync.WaitGroup
	for i := range sweeps {
		all.Go(func() {
			l, err := state.TakeListing(t.Context(), db, "a", time.Hour)
			if err != nil {
				t.Error(err)
			}
			sweeps[i] = l.Sweep
		})
	}
	all.Wait()
	if slices.Max(sweeps) != 1 || slices.Min(sweeps) != 1 {
		t.Errorf("sweeps %v", sweeps)
	}
}

func TestUsersThatACompleteListingDidNotShowAreGoneUntilTheyShowAgain(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	list := func(users ...state.DirectoryUser) (fresh int64) {
		t.Helper()
		l := get[state.Listing](t)(state.TakeListing(t.Context(), db, "a", time.Hour))
		fresh = get[int64](t)(state.StoreDirectory(t.Context(), db, "a", l.Sweep, users, false))
		must(t, state.CompleteListing(t.Context(), db, "a", l))
		return fresh
	}
	here := func() string {
		t.Helper()
		return value[string](t, db, `SELECT coalesce(string_agg(user_id::text, ',' ORDER BY user_id), '') FROM directory_users WHERE gone_at IS NULL`)
	}
	if n := list(user(1, "a@x", ""), user(2, "b@x", ""), user(2, "b@x", "")); n != 2 || here() != "1,2" {
		t.Errorf("%d are new, %s are here", n, here())
	}
	if n := list(user(1, "a@x", "")); n != 1 || here() != "1" {
		t.Errorf("%d are new, %s are here", n, here())
	}
	if due := value[bool](t, db, `SELECT decide_due FROM directory_users WHERE user_id = 2`); !due {
		t.Error("who is gone is not decided on anew")
	}
	if n := list(user(1, "a@x", ""), user(2, "b@x", "")); n != 2 || here() != "1,2" {
		t.Errorf("%d are new, %s are here", n, here())
	}
	// A listing that is not believed makes nobody gone.
	l := get[state.Listing](t)(state.TakeListing(t.Context(), db, "a", time.Hour))
	get[int64](t)(state.StoreDirectory(t.Context(), db, "a", l.Sweep, []state.DirectoryUser{user(1, "a@x", "")}, false))
	moved := l
	moved.Rows = 1
	must(t, state.MoveListing(t.Context(), db, "a", l, moved))
	must(t, state.RefuseListing(t.Context(), db, "a", moved))
	present, refused, err := state.ListingSizes(t.Context(), db, "a")
	if here() != "1,2" || present != 2 || refused != 1 || err != nil {
		t.Errorf("after a refused listing %s are here; %d present, %d refused, %v", here(), present, refused, err)
	}
	if err := state.MoveListing(t.Context(), db, "a", moved, moved); err == nil {
		if l := get[state.Listing](t)(state.TakeListing(t.Context(), db, "a", time.Hour)); l.Sweep == moved.Sweep {
			t.Error("a refused listing goes on")
		}
	}
	list(user(1, "a@x", ""), user(2, "b@x", ""))
	if _, refused, err = state.ListingSizes(t.Context(), db, "a"); refused != 0 || err != nil {
		t.Errorf("after one that was believed %d count as refused, %v", refused, err)
	}
}

func TestAUserIsStoredAsTheListShowsIt(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	one := state.DirectoryUser{
		UserID: 1, Username: "Jane@X", Email: "jane@x", ExternalID: `17\"{},NULL`, OtherEmails: []string{`a,"b"@x`, `{}`, `c\d@x`, "NULL", "é@x", "'"},
		ListedFragment: []byte{0, 255}, ListedContent: []byte("x"),
	}
	if n := get[int64](t)(state.StoreDirectory(t.Context(), db, "a", 5, []state.DirectoryUser{one}, false)); n != 1 {
		t.Errorf("%d are new", n)
	}
	for _, other := range one.OtherEmails {
		cs := get[[]state.Candidate](t)(state.Candidates(t.Context(), db, "a", nil, []string{other}, true))
		if diff := cmp.Diff([]state.Candidate{{UserID: 1, ExternalID: one.ExternalID, Email: "jane@x", OtherEmails: one.OtherEmails}}, cs); diff != "" {
			t.Errorf("by %q: %s", other, diff)
		}
	}
	// Asked for live, with the number of an older listing: it is known already, and stays seen by the newer one.
	if n := get[int64](t)(state.StoreDirectory(t.Context(), db, "a", 4, []state.DirectoryUser{{UserID: 1, Email: "new@x"}}, false)); n != 0 {
		t.Errorf("%d are new", n)
	}
	got := value[string](t, db, `SELECT concat_ws('|', username, email, external_id, other_emails::text, sweep, listed_fragment IS NULL) FROM directory_users`)
	if got != "|new@x||{}|5|t" {
		t.Errorf("stored again it is %s", got)
	}
	if n := get[int64](t)(state.StoreDirectory(t.Context(), db, "a", 6, nil, false)); n != 0 {
		t.Errorf("of nobody %d are new", n)
	}
}

func TestCandidatesAreThosePresentWhoBearAKey(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a", "b")
	store := func(bridge string, users ...state.DirectoryUser) {
		t.Helper()
		get[int64](t)(state.StoreDirectory(t.Context(), db, bridge, 1, users, false))
	}
	claims := user(4, "d@x", "")
	claims.OtherEmails = []string{"a@x"}
	store("a", user(1, "a@x", "17"), user(2, "b@x", "17"), user(3, "c@x", "18"), claims, user(5, "", ""), user(6, "f@x", "18"))
	store("b", user(7, "a@x", "17"), user(8, "c@x", "18"))
	markGone(t, db, "a", 6)
	for name, c := range map[string]struct {
		ids, emails []string
		others      bool
		want        map[int64]bool // shared
	}{
		"by externalId, both who have it":  {ids: []string{"17"}, want: map[int64]bool{1: true, 2: true}},
		"one of those who share, by email": {emails: []string{"b@x"}, want: map[int64]bool{2: true}},
		"who is gone shares nothing":       {ids: []string{"18"}, want: map[int64]bool{3: false}},
		"who is gone is nobody":            {emails: []string{"f@x"}, want: map[int64]bool{}},
		"by email only":                    {emails: []string{"a@x"}, want: map[int64]bool{1: true}},
		"by other addresses too":           {emails: []string{"a@x"}, others: true, want: map[int64]bool{1: true, 4: false}},
		"by several keys, each once":       {ids: []string{"17", "17", "99"}, emails: []string{"a@x", "c@x"}, want: map[int64]bool{1: true, 2: true, 3: false}},
		"no keys":                          {want: map[int64]bool{}},
		"an empty key is none":             {ids: []string{""}, emails: []string{""}, others: true, want: map[int64]bool{}},
	} {
		got := map[int64]bool{}
		for _, u := range get[[]state.Candidate](t)(state.Candidates(t.Context(), db, "a", c.ids, c.emails, c.others)) {
			if _, twice := got[u.UserID]; twice {
				t.Errorf("%s: user %d stands twice", name, u.UserID)
			}
			got[u.UserID] = u.Shared
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got): %s", name, diff)
		}
	}
}

func TestDirectoryKeysAreReadInPagesEachOnce(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a", "b")
	var users []state.DirectoryUser
	want := map[string]bool{}
	for i := range int64(25) {
		users = append(users, user(i, fmt.Sprintf("é%d-%c@x", i%20, 'A'+i%20), fmt.Sprint(i%7)))
		want[users[i].Email] = true
	}
	users = append(users, user(30, "", ""))
	get[int64](t)(state.StoreDirectory(t.Context(), db, "a", 1, users, false))
	get[int64](t)(state.StoreDirectory(t.Context(), db, "b", 1, []state.DirectoryUser{user(1, "other@x", "99")}, false))
	for key, n := range map[state.DirectoryKey]int{state.KeyEmail: 20, state.KeyExternalID: 7} {
		seen := map[string]bool{}
		for after := ""; ; {
			page := get[[]string](t)(state.DirectoryKeys(t.Context(), db, "a", key, after, 3))
			if len(page) == 0 {
				break
			}
			after = page[len(page)-1]
			for _, k := range page {
				if seen[k] || k == "" || key == state.KeyEmail && !want[k] {
					t.Fatalf("%s %q should not be there", key, k)
				}
				seen[k] = true
			}
		}
		if len(seen) != n {
			t.Errorf("%d of %d keys of %s", len(seen), n, key)
		}
	}
}

// BLN 645: merging accounts deletes users.
func TestWhoIsGoneGivesItsPeopleBack(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	store(t, db, "a", participant("a@x", "E"), participant("b@x", "E"), participant("c@x", "E"))
	get[int64](t)(state.StoreDirectory(t.Context(), db, "a", 1, []state.DirectoryUser{user(1, "a@x", ""), user(2, "c@x", "")}, false))
	must(t, state.StoreDecisions(t.Context(), db, "a", []state.Decided{
		{Person: "email:a@x", UserID: 1, Rule: "email"}, {Person: "email:b@x"}, {Person: "email:c@x", UserID: 2, Rule: "email"},
	}))
	exec(t, db, `INSERT INTO links (bridge, person, user_id, rule) VALUES ('a', 'email:b@x', 1, 'hand')`)
	markGone(t, db, "a", 1)
	if got := value[string](t, db, `SELECT string_agg(person || ' ' || rule, ',' ORDER BY person) FROM links`); got != "email:b@x hand,email:c@x email" {
		t.Errorf("links left: %s", got)
	}
	due := get[[]state.PersonKeys](t)(state.NextPeople(t.Context(), db, "a", "", 10, true, nil))
	if len(due) != 1 || due[0].Person != "email:a@x" || due[0].WasUser != 0 {
		t.Errorf("looked at again: %+v", due)
	}
}

// A link to a user who is found gone at the same moment must not stay: nobody is written for it, and nobody is held.
func TestALinkThatComesWhileItsUserIsFoundGoneIsGivenBackToo(t *testing.T) {
	t.Parallel()
	db := directory(t, 1)
	p := participant("u1@x", "E")
	store(t, db, "a", p)
	link := open(t, db)
	must(t, state.LockParticipants(t.Context(), link, "a"))
	if found := get[[]state.Candidate](t)(state.Candidates(t.Context(), link, "a", nil, []string{"u1@x"}, false)); len(found) != 1 {
		t.Fatalf("%+v", found)
	}
	gone := beside(t, db, func() error {
		return state.InTx(t.Context(), db, func(tx pgx.Tx) error { return state.MarkGone(t.Context(), tx, "a", 1) })
	})
	must(t, state.StoreDecisions(t.Context(), link, "a", []state.Decided{{Person: p.Person, UserID: 1, Rule: "email", Changed: true}}))
	must(t, link.Commit(t.Context()))
	gone()
	due := get[[]state.PersonKeys](t)(state.NextPeople(t.Context(), db, "a", "", 10, true, nil))
	if len(due) != 1 || due[0].WasUser != 0 {
		t.Errorf("the user is gone; to be linked: %+v", due)
	}
}
