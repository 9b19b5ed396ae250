package state_test

import (
	"errors"
	"iter"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"namebridge/state"
)

// drain reads all that an iterator yields.
func drain[T any](t testing.TB, rows iter.Seq2[T, error]) (all []T) {
	t.Helper()
	for row, err := range rows {
		must(t, err)
		all = append(all, row)
	}
	return all
}

func hold(t testing.TB, db state.Querier, kind string, holds ...state.Hold) {
	t.Helper()
	must(t, state.StoreHolds(t.Context(), db, "a", kind, holds, nil))
}

// theHold is the one hold of the bridge.
func theHold(t testing.TB, db state.Querier) state.ListedHold {
	t.Helper()
	all := drain(t, state.Holds(t.Context(), db, "a", "", true, 0))
	if len(all) != 1 {
		t.Fatalf("%d holds, want 1: %+v", len(all), all)
	}
	return all[0]
}

func subjects(holds []state.ListedHold) []string {
	out := []string{}
	for _, h := range holds {
		out = append(out, h.Subject)
	}
	return out
}

func TestHoldsAreListedNewestFirstWithWhoTheyAreAbout(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	row := participant("a@x", "E")
	row.FirstName, row.LastName = "Ada", "Abbot"
	store(t, db, "a", row)
	listed(t, db, user(7, "u@x", "1"))
	hold(t, db, state.HeldPerson, state.Hold{Subject: "email:a@x", Reason: "conflict", Detail: "two", Users: []int64{7, 8}}, state.Hold{Subject: "email:b@x", Reason: "unmatched"})
	hold(t, db, state.HeldUser, state.Hold{Subject: "7", Reason: "unwritable", Detail: "birthYear"})
	for subject, hours := range map[string]int{"email:a@x": 3, "email:b@x": 1, "7": 2} {
		exec(t, db, `UPDATE holds SET since = now() - make_interval(hours => $2) WHERE subject = $1`, subject, hours)
	}
	want := []state.ListedHold{
		{Kind: "person", Subject: "email:b@x", Reason: "unmatched", Users: []int64{}},
		{Kind: "user", Subject: "7", Reason: "unwritable", Detail: "birthYear", Users: []int64{}, Username: "U@X"},
		{Kind: "person", Subject: "email:a@x", Reason: "conflict", Detail: "two", Users: []int64{7, 8}, Name: "Ada Abbot"},
	}
	got := drain(t, state.Holds(t.Context(), db, "a", "", false, 0))
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(state.ListedHold{}, "Since")); diff != "" {
		t.Error(diff)
	}
	if since := time.Since(got[2].Since); since < 3*time.Hour || since > 4*time.Hour {
		t.Errorf("held for %v, want 3 h", since)
	}
	if got := subjects(drain(t, state.Holds(t.Context(), db, "a", "", false, 2))); !slices.Equal(got, []string{"email:b@x", "7"}) {
		t.Errorf("the newest 2 are %q", got)
	}
	if got := subjects(drain(t, state.Holds(t.Context(), db, "a", "conflict", false, 0))); !slices.Equal(got, []string{"email:a@x"}) {
		t.Errorf("held as conflict: %q", got)
	}
	for range state.Holds(t.Context(), db, "a", "", false, 0) {
		break // whoever stops early gives the connection back
	}
	if n := db.Stat().AcquiredConns(); n != 0 {
		t.Errorf("%d connections are held by nobody", n)
	}
}

func TestAnIgnoredHoldIsNeitherListedNorCounted(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	hold(t, db, state.HeldPerson, state.Hold{Subject: "email:a@x", Reason: "unmatched"})
	must(t, state.IgnoreHold(t.Context(), db, "a", theHold(t, db), "a guest"))
	if got := drain(t, state.Holds(t.Context(), db, "a", "", false, 0)); len(got) != 0 {
		t.Errorf("listed: %+v", got)
	}
	open, ignored, err := state.CountHolds(t.Context(), db, "a", "")
	if err != nil || open != 0 || ignored != 1 {
		t.Errorf("%d open, %d ignored, %v; want 0, 1", open, ignored, err)
	}
	if open, ignored, err := state.CountHolds(t.Context(), db, "a", "conflict"); err != nil || open+ignored != 0 {
		t.Errorf("of another reason: %d, %d, %v", open, ignored, err)
	}
	if h := theHold(t, db); h.IgnoredAt == nil || h.IgnoredReason != "a guest" || !h.Releasable() || h.Lifts() {
		t.Errorf("%+v", h)
	}
}

// Somebody has decided about one matter; another reason is another matter.
func TestAHoldStaysIgnoredWhileItsReasonStays(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		again   state.Hold
		ignored bool
	}{
		"the same again":             {state.Hold{Subject: "email:a@x", Reason: "unmatched"}, true},
		"the same with other detail": {state.Hold{Subject: "email:a@x", Reason: "unmatched", Detail: "no such address"}, true},
		"another reason":             {state.Hold{Subject: "email:a@x", Reason: "conflict", Users: []int64{1, 2}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := fresh(t, "a")
			hold(t, db, state.HeldPerson, state.Hold{Subject: "email:a@x", Reason: "unmatched"})
			must(t, state.IgnoreHold(t.Context(), db, "a", theHold(t, db), "a guest"))
			was := theHold(t, db)
			hold(t, db, state.HeldPerson, c.again)
			h := theHold(t, db)
			if c.ignored && (h.IgnoredAt == nil || !h.IgnoredAt.Equal(*was.IgnoredAt) || h.IgnoredReason != "a guest" || !h.Since.Equal(was.Since)) {
				t.Errorf("%+v is not as it was: %+v", h, was)
			}
			if !c.ignored && (h.IgnoredAt != nil || h.IgnoredReason != "" || h.Since.Equal(was.Since)) {
				t.Errorf("%+v", h)
			}
			// When the former reason comes back, that is news, too.
			if !c.ignored {
				hold(t, db, state.HeldPerson, state.Hold{Subject: "email:a@x", Reason: "unmatched"})
				if h := theHold(t, db); h.IgnoredAt != nil {
					t.Errorf("%+v", h)
				}
			}
		})
	}
}

func TestWhatIsDecidedAboutAHoldThatHasMovedOnIsStale(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	listed(t, db, user(7, "u@x", ""))
	hold(t, db, state.HeldUser, state.Hold{Subject: "7", Reason: "unwritable"})
	seen := theHold(t, db)
	hold(t, db, state.HeldUser, state.Hold{Subject: "7", Reason: "refused"})
	if err := state.IgnoreHold(t.Context(), db, "a", seen, "why"); !errors.Is(err, state.ErrStale) {
		t.Errorf("ignored: %v", err)
	}
	if err := state.ReleaseHold(t.Context(), db, "a", seen); !errors.Is(err, state.ErrStale) {
		t.Errorf("released: %v", err)
	}
	if h := theHold(t, db); h.Reason != "refused" || h.IgnoredAt != nil {
		t.Errorf("%+v", h)
	}
	seen.Reason = "refused"
	must(t, state.StoreHolds(t.Context(), db, "a", state.HeldUser, nil, []string{"7"}))
	if err := state.IgnoreHold(t.Context(), db, "a", seen, "why"); !errors.Is(err, state.ErrStale) {
		t.Errorf("lifted, then ignored: %v", err)
	}
}

func TestReleasingAHoldTakesBackWhatAPersonDecided(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		kind, subject, reason string
		ignored, lifted       bool
	}{
		"reverted":             {kind: state.HeldUser, subject: "7", reason: "reverted", lifted: true},
		"unwritable":           {kind: state.HeldUser, subject: "7", reason: "unwritable", lifted: true},
		"reverted and ignored": {kind: state.HeldUser, subject: "7", reason: "reverted", ignored: true, lifted: true},
		"refused and ignored":  {kind: state.HeldUser, subject: "7", reason: "refused", ignored: true},
		"a person, ignored":    {kind: state.HeldPerson, subject: "email:a@x", reason: "unmatched", ignored: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := fresh(t, "a")
			listed(t, db, user(7, "u@x", ""), user(8, "v@x", ""))
			exec(t, db, `UPDATE directory_users SET decide_due = false`)
			hold(t, db, c.kind, state.Hold{Subject: c.subject, Reason: c.reason})
			if c.ignored {
				must(t, state.IgnoreHold(t.Context(), db, "a", theHold(t, db), "why"))
			}
			h := theHold(t, db)
			if !h.Releasable() || h.Lifts() != c.lifted {
				t.Errorf("%+v: releasable %v, lifts %v", h, h.Releasable(), h.Lifts())
			}
			must(t, state.ReleaseHold(t.Context(), db, "a", h))
			left := drain(t, state.Holds(t.Context(), db, "a", "", false, 0))
			if c.lifted != (len(left) == 0) {
				t.Errorf("left: %+v", left)
			}
			due := value[[]int64](t, db, `SELECT coalesce(array_agg(user_id), '{}') FROM directory_users WHERE decide_due`)
			if c.lifted && !slices.Equal(due, []int64{7}) || !c.lifted && len(due) != 0 {
				t.Errorf("due are %v", due)
			}
		})
	}
}

// What nobody has decided, nobody can take back.
func TestAHoldThatNobodyDecidedIsNotReleasable(t *testing.T) {
	t.Parallel()
	for _, h := range []state.ListedHold{
		{Kind: state.HeldPerson, Reason: "unmatched"},
		{Kind: state.HeldPerson, Reason: "ambiguous"},
		{Kind: state.HeldPerson, Reason: "conflict"},
		{Kind: state.HeldUser, Reason: "refused"},
	} {
		if h.Releasable() || h.Lifts() {
			t.Errorf("%+v", h)
		}
	}
}

// A review queue of any length is read with the memory of some rows, and in the time of one sort.
func TestManyHoldsAreListed(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	exec(t, db, `INSERT INTO holds (bridge, kind, subject, reason, detail) SELECT 'a', 'person', 'email:' || n || '@x', 'unmatched', 'nobody' FROM generate_series(1, 20000) n`)
	n := 0
	seen := map[string]bool{}
	for h, err := range state.Holds(t.Context(), db, "a", "unmatched", false, 0) {
		must(t, err)
		seen[h.Subject] = true
		n++
	}
	if n != 20000 || len(seen) != n {
		t.Errorf("%d holds of %d subjects, want 20,000", n, len(seen))
	}
}

// listed makes users known to bridge a.
func listed(t testing.TB, db state.Querier, users ...state.DirectoryUser) {
	t.Helper()
	for _, u := range users {
		exec(t, db, `INSERT INTO directory_users (bridge, user_id, username, email, external_id, sweep) VALUES ('a', $1, $2, $3, $4, 1)`, u.UserID, u.Username, u.Email, u.ExternalID)
	}
}
