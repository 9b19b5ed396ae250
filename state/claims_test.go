package state_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"namebridge/state"
)

// directory is a database with users 1 to n of bridge a.
func directory(t testing.TB, n int) *pgxpool.Pool {
	t.Helper()
	db := fresh(t, "a")
	users := make([]state.DirectoryUser, n)
	for i := range users {
		users[i] = user(int64(i+1), fmt.Sprintf("u%d@x", i+1), "")
	}
	get[int64](t)(state.StoreDirectory(t.Context(), db, "a", 1, users, false))
	return db
}

func upTo(n int) []int64 {
	out := make([]int64, n)
	for i := range out {
		out[i] = int64(i + 1)
	}
	return out
}

// claim gives the users claimed for whatever there is to write, in order, and by id.
func claim(t testing.TB, db state.Querier, owner uuid.UUID, limit int) ([]int64, map[int64]state.Claimed) {
	t.Helper()
	by := map[int64]state.Claimed{}
	var ids []int64
	for _, c := range get[[]state.Claimed](t)(state.Claim(t.Context(), db, "a", state.BackfillPriority, owner, limit)) {
		by[c.UserID] = c
		ids = append(ids, c.UserID)
	}
	slices.Sort(ids)
	return ids, by
}

func TestEachPendingUserIsClaimedByOneProcess(t *testing.T) {
	t.Parallel()
	const users, processes = 500, 8
	db := directory(t, users)
	want(t, db, "a", "write", upTo(users)...)
	var mu sync.Mutex
	claimedBy := map[int64]uuid.UUID{}
	var all sync.WaitGroup
	// A statement that began before a process said that it lives takes it for dead: then the fence alone keeps them apart.
	owners := make([]uuid.UUID, processes)
	for i := range owners {
		owners[i] = live(t, db, "a")
	}
	for _, owner := range owners {
		all.Go(func() {
			for {
				cs, err := state.Claim(t.Context(), db, "a", state.BackfillPriority, owner, 7)
				if err != nil {
					t.Error(err)
				}
				if len(cs) == 0 {
					return
				}
				mu.Lock()
				for _, c := range cs {
					if other, taken := claimedBy[c.UserID]; taken {
						t.Errorf("user %d was claimed by %s and %s", c.UserID, other, owner)
					}
					claimedBy[c.UserID] = owner
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if len(claimedBy) != users { // a process that ends while others hold locks leaves theirs to them
		t.Errorf("%d of %d were claimed", len(claimedBy), users)
	}
}

func TestAClaimTakesNoMoreThanAskedForWhateverThePlannerKnows(t *testing.T) {
	t.Parallel()
	for _, n := range []int{3, 300} {
		db := directory(t, n)
		want(t, db, "a", "write", upTo(n)...)
		owner := live(t, db, "a")
		for range 2 {
			if ids, _ := claim(t, db, owner, 1); len(ids) != 1 {
				t.Errorf("of %d users %d were claimed, want 1", n, len(ids))
			}
			must(t, state.Release(t.Context(), db, "a", owner))
			exec(t, db, `ANALYZE`)
		}
	}
}

func TestAClaimWaitsForNobody(t *testing.T) {
	t.Parallel()
	db := directory(t, 3)
	want(t, db, "a", "write", upTo(3)...)
	owner := live(t, db, "a")
	must(t, state.InTx(t.Context(), db, func(tx pgx.Tx) error {
		exec(t, tx, `SELECT 1 FROM directory_users WHERE user_id = 2 FOR UPDATE`) // somebody decides on user 2
		if ids, _ := claim(t, db, owner, 10); !slices.Equal(ids, []int64{1, 3}) {
			t.Errorf("claimed beside a lock: %v", ids)
		}
		return nil
	}))
	if ids, _ := claim(t, db, owner, 10); !slices.Equal(ids, []int64{2}) {
		t.Errorf("claimed after the lock: %v", ids)
	}
}

func TestAClaimLastsAsLongAsItsProcessIsHeardOf(t *testing.T) {
	t.Parallel()
	db := directory(t, 2)
	want(t, db, "a", "write", 1)
	first, second := live(t, db, "a"), live(t, db, "a")
	_, by := claim(t, db, first, 10)
	if by[1].Fence != 1 || by[1].Version != 1 || by[1].Action != "write" || string(by[1].WantedDigest) != "wanted" || string(by[1].WantedSource) != "source" || string(by[1].Wanted) != `{"name_badge_link": "https://x"}` {
		t.Errorf("claimed as %+v", by[1])
	}
	want(t, db, "a", "write", 2)
	must(t, state.InTx(t.Context(), db, func(tx pgx.Tx) error { // in which no time passes
		silence(t, tx, first, state.Lease-2)
		if ids, _ := claim(t, tx, second, 10); !slices.Equal(ids, []int64{2}) {
			t.Errorf("within the lease: %v", ids)
		}
		return nil
	}))
	silence(t, db, first, state.Lease+1)
	if n := len(get[[]state.Claimed](t)(state.PlannedUsers(t.Context(), db, "a", 0, 10))); n != 1 {
		t.Errorf("%d pending users are free", n)
	}
	ids, by := claim(t, db, second, 10)
	if !slices.Equal(ids, []int64{1}) || by[1].Fence != 2 {
		t.Errorf("after the lease: %v, fence %d", ids, by[1].Fence)
	}
	// Back from the dead, the first one has nothing.
	get[state.Company](t)(state.Heartbeat(t.Context(), db, "a", first))
	must(t, state.Release(t.Context(), db, "a", first))
	if ids, _ := claim(t, db, first, 10); len(ids) != 0 {
		t.Errorf("claimed twice: %v", ids)
	}
	// Whoever leaves frees at once.
	must(t, state.Leave(t.Context(), db, "a", second))
	if ids, _ := claim(t, db, first, 10); !slices.Equal(ids, []int64{1, 2}) {
		t.Errorf("after it has left: %v", ids)
	}
}

func TestWhoIsClaimedAndWhoIsNot(t *testing.T) {
	t.Parallel()
	db := directory(t, 9)
	owner := live(t, db, "a")
	want(t, db, "a", "write", 1)
	_, by := claim(t, db, owner, 10)
	want(t, db, "a", "write", 2, 3, 4)
	want(t, db, "a", "clear", 5)
	plan := state.Wish{Run: uuid.New(), Urgency: state.Planned}
	wish(t, db, "a", plan, state.Wanted{UserID: 6, Action: "write", Digest: []byte("planned")})
	markGone(t, db, "a", 2)
	must(t, state.Fail(t.Context(), db, "a", []state.Failure{{UserID: 1, Fence: by[1].Fence, Problem: "problem", RetryAfter: time.Hour}}))
	exec(t, db, `INSERT INTO journal (bridge, run, user_id, fence, action, state) VALUES ('a', gen_random_uuid(), 3, 1, 'write', 'sending')`)
	if n := get[int](t)(state.CountPending(t.Context(), db, "a")); n != 5 {
		t.Errorf("%d are pending", n)
	}
	// 1 failed and waits, 2 is gone, 3 has an unsettled write, 5 loses what it has, 6 is planned, 7 and on are not pending.
	if ids, _ := claim(t, db, owner, 10); !slices.Equal(ids, []int64{4}) {
		t.Errorf("claimed: %v", ids)
	}
	must(t, letThrough(t.Context(), db, "a", uuid.Nil))
	if ids, _ := claim(t, db, owner, 10); !slices.Equal(ids, []int64{5}) {
		t.Errorf("claimed when it was let through: %v", ids)
	}
	must(t, state.Adopt(t.Context(), db, "a", uuid.New(), state.SweepPriority))
	ids, by := claim(t, db, owner, 10)
	if !slices.Equal(ids, []int64{1, 6}) || by[1].Attempts != 0 {
		t.Errorf("claimed when a run wants what others have left: %v %+v", ids, by[1])
	}
	open := get[[]state.OpenEntry](t)(state.ClaimOpen(t.Context(), db, "a", owner, 10))
	if len(open) != 1 || open[0].UserID != 3 || open[0].Fence != 1 {
		t.Errorf("unsettled: %+v", open)
	}
	if open = get[[]state.OpenEntry](t)(state.ClaimOpen(t.Context(), db, "a", owner, 10)); len(open) != 0 {
		t.Errorf("looked into twice at once: %+v", open)
	}
}

// A process that stops in the middle gives back what it has not begun, and nothing else.
func TestClaimsAreGivenBackAsFarAsTheyAreNamed(t *testing.T) {
	t.Parallel()
	db := directory(t, 4)
	want(t, db, "a", "write", 1, 2, 3, 4)
	owner, other := live(t, db, "a"), live(t, db, "a")
	_, by := claim(t, db, owner, 3)
	claim(t, db, other, 1)
	claimed := func() string {
		t.Helper()
		return value[string](t, db, `SELECT coalesce(string_agg(user_id::text, ' ' ORDER BY user_id), '') FROM directory_users WHERE claim_owner IS NOT NULL`)
	}
	must(t, state.ReleaseClaimed(t.Context(), db, "a", []int64{3, 1, 2}, []int64{by[3].Fence, by[1].Fence, by[2].Fence + 1}))
	if got := claimed(); got != "2 4" {
		t.Errorf("claimed are %s", got)
	}
	claim(t, db, owner, 2)
	must(t, state.ReleaseBut(t.Context(), db, "a", owner, []int64{3}))
	if got := claimed(); got != "3 4" {
		t.Errorf("claimed are %s", got)
	}
	must(t, state.ReleaseBut(t.Context(), db, "a", owner, nil))
	if got := claimed(); got != "4" {
		t.Errorf("claimed are %s", got)
	}
}

// userRows is everything known of the users, as text.
func userRows(t testing.TB, db state.Querier) string {
	t.Helper()
	return value[string](t, db, `SELECT string_agg(d::text, E'\n' ORDER BY user_id) FROM directory_users d`)
}

func TestAStaleFenceChangesNothing(t *testing.T) {
	t.Parallel()
	db := directory(t, 2)
	want(t, db, "a", "write", 1, 2)
	dead, owner := live(t, db, "a"), live(t, db, "a")
	_, by := claim(t, db, dead, 10)
	stale := by[1].Fence
	must(t, state.Leave(t.Context(), db, "a", dead))
	_, by = claim(t, db, owner, 10)
	before := userRows(t, db)
	in := &state.Intent{Run: uuid.New(), UserID: 1, Fence: stale, Action: "write", Version: by[1].Version, Before: []byte(`{}`)}
	must(t, state.Journal(t.Context(), db, "a", []*state.Intent{in}))
	if in.Entry != 0 {
		t.Error("a write of a claim that was taken over was journalled")
	}
	must(t, state.Fail(t.Context(), db, "a", []state.Failure{{UserID: 1, Fence: stale, Problem: "problem", RetryAfter: time.Hour}}))
	must(t, state.Settle(t.Context(), db, "a", []state.Outcome{{UserID: 1, Fence: stale, Applied: true, Version: 1, Digest: []byte("x"), Source: []byte("y")}}))
	must(t, state.Withdraw(t.Context(), db, "a", []state.Claimed{{UserID: 1, Fence: stale}}))
	must(t, state.Unclaim(t.Context(), db, "a", 1, stale))
	must(t, state.ReleaseClaimed(t.Context(), db, "a", []int64{1, 2}, []int64{stale, stale}))
	must(t, state.Release(t.Context(), db, "a", dead))
	if diff := cmp.Diff(before, userRows(t, db)); diff != "" {
		t.Errorf("changed: %s", diff)
	}
	// And for the one that holds it, each of two users by its own fence.
	must(t, state.Fail(t.Context(), db, "a", []state.Failure{
		{UserID: 1, Fence: by[1].Fence, Problem: "problem", RetryAfter: 90 * time.Hour}, {UserID: 2, Fence: by[2].Fence + 1, Problem: "stale"},
	}))
	got := value[string](t, db, `SELECT string_agg(concat_ws('|', user_id, claim_owner IS NULL, attempts, last_error, round(extract(epoch FROM retry_at - now()) / 36000)), ';' ORDER BY user_id) FROM directory_users`)
	if got != "1|t|1|problem|9;2|f|0" {
		t.Errorf("failed: %s", got)
	}
}

func TestNothingIsJournalledWhileHalted(t *testing.T) {
	t.Parallel()
	db := directory(t, 3)
	want(t, db, "a", "write", 1, 2)
	_, by := claim(t, db, live(t, db, "a"), 10)
	in := func(u int64) *state.Intent {
		return &state.Intent{Run: uuid.New(), UserID: u, Fence: by[u].Fence, Action: "write", Version: by[u].Version, Before: []byte("{ \"a\":\"\\u0000\xff\"}"), BeforeFragment: nil, AfterFragment: []byte(`{"x":1}`)}
	}
	one, two, unclaimed := in(1), in(2), in(3)
	must(t, state.Journal(t.Context(), db, "a", []*state.Intent{one, unclaimed}))
	if one.Entry == 0 || unclaimed.Entry != 0 {
		t.Errorf("entries %d and %d", one.Entry, unclaimed.Entry)
	}
	if got := value[[]byte](t, db, `SELECT before FROM journal WHERE entry = $1`, one.Entry); string(got) != string(one.Before) {
		t.Errorf("the before-image is %q", got)
	}
	must(t, state.Halt(t.Context(), db, "a", "reason", uuid.New()))
	must(t, state.Journal(t.Context(), db, "a", []*state.Intent{two}))
	if two.Entry != 0 {
		t.Error("journalled while halted")
	}
}

func TestWhoGivesTheSameUsersBackWaitsAndDoesNotDeadlock(t *testing.T) {
	t.Parallel()
	const users = 300
	db := directory(t, users)
	want(t, db, "a", "write", upTo(users)...)
	_, by := claim(t, db, live(t, db, "a"), users)
	up := slices.Collect(maps.Values(by))
	slices.SortFunc(up, func(a, b state.Claimed) int { return int(a.UserID - b.UserID) })
	down := slices.Clone(up)
	slices.Reverse(down)
	var all sync.WaitGroup
	for _, order := range [][]state.Claimed{up, down} {
		var failures []state.Failure
		var outcomes []state.Outcome
		for _, c := range order {
			failures = append(failures, state.Failure{UserID: c.UserID, Fence: c.Fence})
			outcomes = append(outcomes, state.Outcome{UserID: c.UserID, Fence: c.Fence})
		}
		for name, do := range map[string]func() error{
			"Fail":     func() error { return state.Fail(t.Context(), db, "a", failures) },
			"Settle":   func() error { return state.Settle(t.Context(), db, "a", outcomes) },
			"Withdraw": func() error { return state.Withdraw(t.Context(), db, "a", order) },
		} {
			all.Go(func() {
				for range 8 {
					if err := do(); err != nil {
						t.Errorf("%s: %v", name, err)
						return
					}
				}
			})
		}
	}
	all.Wait()
}

// What was decided while a write was on its way was decided without knowing of it.
func TestAWriteThatSettlesAsWhatIsNotWantedMakesItsUserDue(t *testing.T) {
	t.Parallel()
	db := directory(t, 1)
	want(t, db, "a", "write", 1)
	for name, c := range map[string]struct {
		wish *state.Wanted
		due  bool
	}{
		"it is still wanted":       {nil, false},
		"nothing is wanted by now": {&state.Wanted{UserID: 1}, true},
		"another is wanted by now": {&state.Wanted{UserID: 1, Action: "write", Digest: []byte("other")}, true},
	} {
		undone(t, db, func(db pgx.Tx) {
			_, by := claim(t, db, live(t, db, "a"), 1)
			claimed := by[1]
			in := &state.Intent{Run: uuid.New(), UserID: 1, Fence: claimed.Fence, Action: "write", Version: claimed.Version, Source: []byte("voice"), Before: []byte(`{}`)}
			must(t, state.Journal(t.Context(), db, "a", []*state.Intent{in}))
			if c.wish != nil {
				wish(t, db, "a", state.Wish{Urgency: state.BackfillPriority}, *c.wish)
			}
			exec(t, db, `UPDATE directory_users SET claim_owner = NULL, decide_due = false`)
			open, err := state.ClaimOpen(t.Context(), db, "a", live(t, db, "a"), 1)
			must(t, err)
			if len(open) != 1 || open[0].Version != claimed.Version || string(open[0].Source) != "voice" {
				t.Fatalf("%s: open is %+v", name, open)
			}
			must(t, state.Settle(t.Context(), db, "a", []state.Outcome{{
				UserID: 1, Fence: open[0].Fence, Entry: in.Entry, State: state.Verified, Applied: true,
				Version: open[0].Version, Digest: claimed.WantedDigest, Source: open[0].Source,
			}}))
			if due := value[bool](t, db, `SELECT decide_due FROM directory_users WHERE applied_source = 'voice'`); due != c.due {
				t.Errorf("%s: due is %v", name, due)
			}
		})
	}
}

// Whoever finds that a user cannot be written knows what was wanted when it was claimed, and nothing of what was decided since.
func TestWithdrawingConcernsOnlyWhatWasClaimed(t *testing.T) {
	t.Parallel()
	db := directory(t, 1)
	other := state.Wanted{UserID: 1, Action: "write", Digest: []byte("other")}
	there := other
	there.There = true
	for name, c := range map[string]struct {
		since   []state.Wanted
		pending bool
		action  string
	}{
		"nothing was decided since":           {nil, false, ""},
		"the same was":                        {[]state.Wanted{{UserID: 1, Action: "write", Digest: []byte("wanted")}}, false, ""},
		"something else was":                  {[]state.Wanted{other}, true, "write"},
		"something else, and then nothing":    {[]state.Wanted{other, {UserID: 1}}, false, ""},
		"something else, which stands there":  {[]state.Wanted{other, there}, false, "write"},
		"something else, and something again": {[]state.Wanted{other, {UserID: 1}, other}, true, "write"},
	} {
		undone(t, db, func(tx pgx.Tx) {
			want(t, tx, "a", "write", 1)
			_, by := claim(t, tx, live(t, tx, "a"), 1)
			for _, w := range c.since {
				wish(t, tx, "a", state.Wish{Urgency: state.BackfillPriority}, w)
			}
			must(t, state.Withdraw(t.Context(), tx, "a", []state.Claimed{by[1]}))
			got := value[string](t, tx, `SELECT concat_ws(' ', wanted_version > applied_version, action, claim_owner IS NULL) FROM directory_users`)
			if want := strings.Join(strings.Fields(fmt.Sprint(map[bool]string{true: "t", false: "f"}[c.pending], " ", c.action, " t")), " "); got != want {
				t.Errorf("%s: %s, want %s", name, got, want)
			}
		})
	}
}

func TestASettledWriteIsTrimmedToItsFragment(t *testing.T) {
	t.Parallel()
	db := directory(t, 1)
	want(t, db, "a", "write", 1)
	for outcome, kept := range map[string]bool{state.Verified: false, state.Unsent: false, state.Restored: false, state.Damaged: true} {
		for _, by := range []string{"Settle", "CloseEntry"} {
			undone(t, db, func(db pgx.Tx) {
				_, claimed := claim(t, db, live(t, db, "a"), 1)
				c := claimed[1]
				in := &state.Intent{Run: uuid.New(), UserID: 1, Fence: c.Fence, Action: "write", Version: c.Version, Before: []byte(`{"a":1}`), BeforeFragment: []byte(`{"b":1}`), AfterFragment: []byte(`{"c":1}`)}
				must(t, state.Journal(t.Context(), db, "a", []*state.Intent{in}))
				if by == "Settle" {
					must(t, state.Settle(t.Context(), db, "a", []state.Outcome{{UserID: 1, Fence: c.Fence, Entry: in.Entry, State: outcome}}))
				} else {
					must(t, state.CloseEntry(t.Context(), db, "a", in.Entry, outcome, "note"))
					if err := state.CloseEntry(t.Context(), db, "a", in.Entry+1, outcome, "note"); !errors.Is(err, state.ErrStale) {
						t.Errorf("an entry that is not there: %v", err)
					}
				}
				got := value[string](t, db, `SELECT concat_ws('|', state, before IS NOT NULL, encode(before_fragment, 'escape'), encode(after_fragment, 'escape'), settled_at IS NOT NULL) FROM journal`)
				if wanted := fmt.Sprintf(`%s|%s|{"b":1}|{"c":1}|t`, outcome, map[bool]string{true: "t", false: "f"}[kept]); got != wanted {
					t.Errorf("%s by %s: %s, want %s", outcome, by, got, wanted)
				}
			})
		}
	}
}

func TestWhatIsWantedAndWhatIsThereSayWhoIsPending(t *testing.T) {
	t.Parallel()
	db := directory(t, 1)
	owner := live(t, db, "a")
	pending := func() bool {
		t.Helper()
		return value[bool](t, db, `SELECT wanted_version > applied_version FROM directory_users`)
	}
	version := func() int64 {
		t.Helper()
		return value[int64](t, db, `SELECT wanted_version FROM directory_users`)
	}
	decide := func(w state.Wanted) {
		t.Helper()
		w.UserID = 1
		exec(t, db, `UPDATE directory_users SET decide_due = true`)
		if n := wish(t, db, "a", state.Wish{Run: uuid.New(), Urgency: state.BackfillPriority}, w); (n == 1) != (w.Action != "" && !w.There) {
			t.Errorf("%d are pending by %+v", n, w)
		}
		if value[bool](t, db, `SELECT decide_due FROM directory_users`) {
			t.Error("decided on, and still due")
		}
	}
	one := state.Wanted{Action: "write", Value: []byte(`{"recording_link": "1"}`), Digest: []byte("one"), Source: []byte("s")}
	two := state.Wanted{Action: "write", Value: []byte(`{"recording_link": "2"}`), Digest: []byte("two"), Source: []byte("s")}
	there := one
	there.There = true
	settle := func(c state.Claimed) {
		t.Helper()
		must(t, state.Settle(t.Context(), db, "a", []state.Outcome{{UserID: 1, Fence: c.Fence, Applied: true, Version: c.Version, Digest: c.WantedDigest, Source: c.WantedSource}}))
	}

	decide(state.Wanted{})
	if pending() {
		t.Error("nothing is wanted, and yet pending")
	}
	decide(there)
	if pending() || value[string](t, db, `SELECT concat_ws(' ', encode(applied_digest, 'escape'), encode(applied_source, 'escape'), action) FROM directory_users`) != "one s write" {
		t.Error("what is there already is pending, or not known as there")
	}
	decide(two)
	v := version()
	decide(two)
	if !pending() || version() != v {
		t.Errorf("the same wish twice: version %d, then %d", v, version())
	}
	_, by := claim(t, db, owner, 1)
	if string(by[1].AppliedDigest) != "one" {
		t.Errorf("claimed with %q applied", by[1].AppliedDigest)
	}
	decide(one) // while two is on its way
	if version() == v {
		t.Error("another wish has the same version")
	}
	settle(by[1])
	if !pending() {
		t.Error("the older wish was applied, and the newer is not pending")
	}
	_, by = claim(t, db, owner, 1)
	settle(by[1])
	if pending() || value[string](t, db, `SELECT encode(applied_digest, 'escape') FROM directory_users`) != "one" {
		t.Error("applied, and still pending")
	}
	decide(one) // somebody has removed it
	if !pending() {
		t.Error("what is no longer there is not pending")
	}
	decide(state.Wanted{})
	if pending() {
		t.Error("called off, and still pending")
	}
	decide(state.Wanted{Action: "clear"})
	must(t, letThrough(t.Context(), db, "a", uuid.Nil))
	_, by = claim(t, db, owner, 1)
	settle(by[1])
	if pending() || !value[bool](t, db, `SELECT applied_digest IS NULL FROM directory_users`) {
		t.Error("cleared, and not known as cleared")
	}
}

func TestAWrittenUserIsNoLongerHeldAsUnwritable(t *testing.T) {
	t.Parallel()
	db := directory(t, 2)
	want(t, db, "a", "write", 1, 2)
	_, by := claim(t, db, live(t, db, "a"), 10)
	must(t, state.StoreHolds(t.Context(), db, "a", state.HeldUser, []state.Hold{{Subject: "1", Reason: "unwritable"}, {Subject: "2", Reason: "unwritable"}}, nil))
	must(t, state.StoreHolds(t.Context(), db, "a", state.HeldPerson, []state.Hold{{Subject: "1", Reason: "unwritable"}}, nil))
	must(t, state.Settle(t.Context(), db, "a", []state.Outcome{{UserID: 1, Fence: by[1].Fence, Applied: true, Version: 1, Digest: []byte("wanted")}, {UserID: 2, Fence: by[2].Fence}}))
	if got := value[string](t, db, `SELECT string_agg(kind || subject, ',' ORDER BY kind) FROM holds`); got != "person1,user2" {
		t.Errorf("still held: %s", got)
	}
}

func TestUsersToDecideOn(t *testing.T) {
	t.Parallel()
	db := directory(t, 8)
	store(t, db, "a", participant("a@x", "E"), participant("b@x", "E"))
	must(t, state.StoreDecisions(t.Context(), db, "a", []state.Decided{{Person: "email:a@x", UserID: 2, Rule: "email"}, {Person: "email:b@x", UserID: 3, Rule: "email"}}))
	want(t, db, "a", "write", 5)
	wish(t, db, "a", state.Wish{Urgency: state.BackfillPriority}, state.Wanted{UserID: 6, Action: "write", Digest: []byte("d"), Source: participant("b@x", "E").ID, There: true})
	must(t, state.StoreHolds(t.Context(), db, "a", state.HeldUser, []state.Hold{{Subject: "5", Reason: "unwritable", Content: []byte("c")}}, nil))
	read := func(after int64, limit int, dueOnly bool) (ids []int64, by map[int64]state.DueUser) {
		t.Helper()
		by = map[int64]state.DueUser{}
		must(t, state.InTx(t.Context(), db, func(tx pgx.Tx) error {
			for _, u := range get[[]state.DueUser](t)(state.NextUsers(t.Context(), tx, "a", after, limit, dueOnly)) {
				ids = append(ids, u.UserID)
				by[u.UserID] = u
			}
			return nil
		}))
		return ids, by
	}
	ids, by := read(0, 10, false)
	if !slices.Equal(ids, []int64{2, 3, 5, 6}) {
		t.Errorf("linked or written: %v", ids)
	}
	if u := by[6]; !u.SourceMoved || string(u.AppliedDigest) != "d" || u.Pending {
		t.Errorf("whose voice is another's now: %+v", u)
	}
	if u := by[5]; u.SourceMoved || !u.Pending || u.HeldReason != "unwritable" || string(u.HeldContent) != "c" || u.HeldChecked == nil {
		t.Errorf("held and pending: %+v", u)
	}
	var paged []int64
	for after := int64(0); ; {
		ids, _ := read(after, 1, false)
		if len(ids) == 0 {
			break
		}
		after = ids[0]
		paged = append(paged, ids...)
	}
	if !slices.Equal(paged, []int64{2, 3, 5, 6}) {
		t.Errorf("in pages: %v", paged)
	}
	exec(t, db, `UPDATE directory_users SET decide_due = user_id IN (3, 7)`)
	if ids, _ := read(0, 10, true); !slices.Contains(ids, 3) || slices.Contains(ids, 2) {
		t.Errorf("due: %v", ids)
	}
}

func TestSomeOfTheWrittenAreNamedNewestFirst(t *testing.T) {
	t.Parallel()
	db := directory(t, 4)
	want(t, db, "a", "write", 1, 2, 3, 4)
	owner := live(t, db, "a")
	_, by := claim(t, db, owner, 10)
	for _, u := range []int64{1, 2, 3} {
		must(t, state.Settle(t.Context(), db, "a", []state.Outcome{{UserID: u, Fence: by[u].Fence, Applied: true, Version: 1, Digest: []byte("wanted")}}))
	}
	want(t, db, "a", "write", 3) // no longer there
	if got := get[[]string](t)(state.SomeWritten(t.Context(), db, "a", 5)); !slices.Equal(got, []string{"U2@X", "U1@X"}) {
		t.Errorf("got %v", got)
	}
}
