package state_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"namebridge/state"
)

// somebody is a row of a person with that key and institution id.
func somebody(key, institution string) state.Participant {
	email, _ := strings.CutPrefix(key, "email:")
	if email == key {
		email = ""
	}
	return state.Participant{
		ID: []byte(key + "/" + institution), Person: key, Email: email, InstitutionID: institution, EventAccessCode: "E",
		RecordingLink: "https://x/" + key, Content: []byte(key + institution),
	}
}

// linkByHand joins a person to a user as the command does.
func linkByHand(t testing.TB, db *pgxpool.Pool, person string, user int64, reason string) (was state.FoundPerson, others int, err error) {
	t.Helper()
	err = state.InTx(t.Context(), db, func(tx pgx.Tx) (err error) {
		if err := state.LockParticipants(t.Context(), tx, "a"); err != nil {
			return err
		}
		was, others, err = state.LinkByHand(t.Context(), tx, "a", person, user, reason)
		return err
	})
	return was, others, err
}

func releaseLink(t testing.TB, db *pgxpool.Pool, person string) (was state.FoundPerson, err error) {
	t.Helper()
	err = state.InTx(t.Context(), db, func(tx pgx.Tx) (err error) {
		if err := state.LockParticipants(t.Context(), tx, "a"); err != nil {
			return err
		}
		was, err = state.ReleaseLink(t.Context(), tx, "a", person)
		return err
	})
	return was, err
}

// decided stores what the rules say about one person, as a run does.
func decided(t testing.TB, db state.Querier, person string, user int64, rule string, was int64) {
	t.Helper()
	must(t, state.StoreDecisions(t.Context(), db, "a", []state.Decided{{Person: person, UserID: user, Rule: rule, WasUser: was, Changed: true}}))
}

// settle makes nobody due.
func settleAll(t testing.TB, db state.Querier) {
	t.Helper()
	exec(t, db, `UPDATE participants SET link_due = false`)
	exec(t, db, `UPDATE directory_users SET decide_due = false`)
}

func dueUsers(t testing.TB, db state.Querier) []int64 {
	t.Helper()
	return value[[]int64](t, db, `SELECT coalesce(array_agg(user_id ORDER BY user_id), '{}') FROM directory_users WHERE decide_due`)
}

func duePeople(t testing.TB, db state.Querier) []string {
	t.Helper()
	return value[[]string](t, db, `SELECT coalesce(array_agg(DISTINCT person ORDER BY person), '{}') FROM participants WHERE link_due`)
}

func TestSomebodyIsFoundByWhatTheyAreCalled(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a", "b")
	store(t, db, "a", somebody("email:ada@x", "S-1"), somebody("email:bob@x", "S-2"), somebody("email:bobby@x", "S-2"),
		somebody("id:S-3", "S-3"), somebody("id:ada@x", "ada@x"), somebody("row:00ff", ""), somebody("email:old@x", "S-9"))
	store(t, db, "b", somebody("email:eve@x", "S-1"))
	exec(t, db, `UPDATE participants SET replaced = true WHERE person = 'email:old@x'`)
	listed(t, db, user(10, "ada@x", "S-1"), user(11, "other@x", "S-3"), user(12, "left@x", "S-4"))
	exec(t, db, `UPDATE directory_users SET gone_at = now() WHERE user_id = 12`)
	decided(t, db, "email:ada@x", 11, "externalId", 0)
	hold(t, db, state.HeldPerson, state.Hold{Subject: "id:S-3", Reason: "unmatched"}, state.Hold{Subject: "row:00ff", Reason: "unmatched"}, state.Hold{Subject: "email:gone@x", Reason: "conflict"})
	hold(t, db, state.HeldUser, state.Hold{Subject: "11", Reason: "unwritable"}, state.Hold{Subject: "12", Reason: "reverted"})
	for name, c := range map[string]struct {
		who    state.Who
		people []string
		users  []int64
		holds  []string
	}{
		"an address, and what the user that it is linked to is held for": {state.Who{Email: "ada@x", ID: "ada@x"}, []string{"email:ada@x"}, []int64{10}, []string{"11"}},
		"an institution id with an address":                              {state.Who{Email: "s-1", ID: "S-1"}, []string{"email:ada@x"}, []int64{10}, []string{"11"}},
		"an institution id of two":                                       {state.Who{Email: "s-2", ID: "S-2"}, []string{"email:bob@x", "email:bobby@x"}, nil, nil},
		"an institution id without an address":                           {state.Who{Email: "s-3", ID: "S-3"}, []string{"id:S-3"}, []int64{11}, []string{"11", "id:S-3"}},
		"one person and nobody else":                                     {state.Who{Person: "id:ada@x"}, []string{"id:ada@x"}, nil, nil},
		"one person alone, without the user":                             {state.Who{Person: "email:ada@x"}, []string{"email:ada@x"}, nil, nil},
		"somebody without a key":                                         {state.Who{Person: "row:00ff"}, []string{"row:00ff"}, nil, []string{"row:00ff"}},
		"a user id":                                                      {state.Who{UserID: 11}, nil, []int64{11}, []string{"11"}},
		"a user who has left, by id":                                     {state.Who{UserID: 12}, nil, []int64{12}, []string{"12"}},
		"a user who has left, by address":                                {state.Who{Email: "left@x", ID: "S-4"}, nil, nil, nil},
		"a hold of somebody who has no row":                              {state.Who{Email: "gone@x"}, []string{"email:gone@x"}, nil, []string{"email:gone@x"}},
		"somebody whose rows were all replaced":                          {state.Who{Email: "old@x"}, []string{"email:old@x"}, nil, nil},
		"nobody":                                                         {state.Who{Email: "eve@x", ID: "eve@x", UserID: 99}, nil, nil, nil},
		"no name at all":                                                 {state.Who{}, nil, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := get[state.Found](t)(state.Find(t.Context(), db, "a", c.who))
			var people []string
			var users []int64
			for _, p := range f.People {
				people = append(people, p.Person)
			}
			for _, u := range f.Users {
				users = append(users, u.UserID)
			}
			holds := subjects(f.Holds)
			slices.Sort(holds)
			if !slices.Equal(people, c.people) || !slices.Equal(users, c.users) || !slices.Equal(holds, c.holds) {
				t.Errorf("people %q, users %v, holds %q; want %q, %v, %q", people, users, holds, c.people, c.users, c.holds)
			}
		})
	}
	f := get[state.Found](t)(state.Find(t.Context(), db, "a", state.Who{Email: "ada@x"}))
	if p := f.People[0]; p.Rows != 1 || p.UserID != 11 || p.Rule != "externalId" || p.LinkedAt == nil {
		t.Errorf("%+v", p)
	}
	if old := get[state.Found](t)(state.Find(t.Context(), db, "a", state.Who{Email: "old@x"})).People[0]; old.Rows != 0 {
		t.Errorf("%+v: replaced rows speak for nobody", old)
	}
	if left := get[state.Found](t)(state.Find(t.Context(), db, "a", state.Who{UserID: 12})).Users[0]; left.GoneAt == nil {
		t.Errorf("%+v", left)
	}
}

// One institution id may be given to everybody: looking it up must not bring them all.
func TestFindNamesNoMoreThanItsLimit(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	exec(t, db, `INSERT INTO participants (bridge, participant, person, email, institution_id, event_access_code, event_title, first_name, last_name, name_badge_link, recording_link, recording_id, recording_date, content)
		SELECT 'a', n::text::bytea, 'email:' || n || '@x', n || '@x', 'none', 'E', '', '', '', '', '', '', '', '' FROM generate_series(1, 100) n`)
	if f := get[state.Found](t)(state.Find(t.Context(), db, "a", state.Who{ID: "none"})); len(f.People) != state.FoundLimit {
		t.Errorf("%d people, want %d", len(f.People), state.FoundLimit)
	}
}

func TestALinkByHandMakesEverybodyConcernedDue(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	second := somebody("email:ada@x", "S-2")
	store(t, db, "a", somebody("email:ada@x", "S-1"), second, somebody("email:bob@x", ""))
	listed(t, db, user(10, "ada@x", ""), user(11, "b@x", "S-1"), user(12, "c@x", ""))
	decided(t, db, "email:ada@x", 10, "email", 0)
	decided(t, db, "email:bob@x", 11, "email", 0)
	hold(t, db, state.HeldPerson, state.Hold{Subject: "email:ada@x", Reason: "conflict"}, state.Hold{Subject: "email:bob@x", Reason: "conflict"})
	settleAll(t, db)

	was, others, err := linkByHand(t, db, "email:ada@x", 11, "HR says so")
	if err != nil || was.UserID != 10 || was.Rule != "email" || others != 1 {
		t.Fatalf("was %+v, %d others, %v", was, others, err)
	}
	if people, users := duePeople(t, db), dueUsers(t, db); !slices.Equal(people, []string{"email:ada@x"}) || !slices.Equal(users, []int64{10, 11}) {
		t.Errorf("due are %q and %v", people, users)
	}
	if n := value[int](t, db, `SELECT count(*) FROM participants WHERE link_due`); n != 2 {
		t.Errorf("%d rows are due, want both of the person's", n)
	}
	if left := subjects(drain(t, state.Holds(t.Context(), db, "a", "", true, 0))); !slices.Equal(left, []string{"email:bob@x"}) {
		t.Errorf("held are %q", left)
	}
	if reason := value[string](t, db, `SELECT reason FROM links WHERE person = 'email:ada@x' AND rule = 'hand' AND user_id = 11`); reason != "HR says so" {
		t.Errorf("the reason is %q", reason)
	}
	// The next run is told.
	people := get[[]state.PersonKeys](t)(state.NextPeople(t.Context(), db, "a", "", 10, true, nil))
	for i := range people {
		people[i].ChangedAt = nil // it is when the test ran
	}
	if diff := cmp.Diff([]state.PersonKeys{{Person: "email:ada@x", InstitutionIDs: []string{"S-1", "S-2"}, Due: true, Hand: 11, WasUser: 11}}, people); diff != "" {
		t.Error(diff)
	}
}

// What rules say later changes nothing; another decision by hand does.
func TestALinkByHandStays(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	store(t, db, "a", somebody("email:ada@x", "S-1"))
	listed(t, db, user(10, "ada@x", ""), user(11, "b@x", "S-1"), user(12, "c@x", ""))
	if was, _, err := linkByHand(t, db, "email:ada@x", 11, "first"); err != nil || was.UserID != 0 || was.Rule != "" {
		t.Fatalf("%+v, %v", was, err)
	}
	now := func() (l state.FoundPerson) {
		t.Helper()
		return get[state.Found](t)(state.Find(t.Context(), db, "a", state.Who{Email: "ada@x"})).People[0]
	}
	first := now()
	for _, rule := range []struct {
		user int64
		rule string
	}{{10, "email"}, {11, "externalId"}, {0, ""}} {
		decided(t, db, "email:ada@x", rule.user, rule.rule, 11)
		if diff := cmp.Diff(first, now()); diff != "" {
			t.Errorf("after %+v: %s", rule, diff)
		}
	}
	markGone(t, db, "a", 11)
	if diff := cmp.Diff(first, now()); diff != "" {
		t.Errorf("the user has left: %s", diff)
	}
	exec(t, db, `UPDATE directory_users SET gone_at = NULL`)

	// The same once more keeps the time, and takes the new reason.
	if was, _, err := linkByHand(t, db, "email:ada@x", 11, "again"); err != nil || was.UserID != 11 || was.Rule != state.LinkedByHand || was.LinkReason != "first" {
		t.Errorf("%+v, %v", was, err)
	}
	if l := now(); l.LinkReason != "again" || !l.LinkedAt.Equal(*first.LinkedAt) {
		t.Errorf("%+v", l)
	}
	settleAll(t, db)
	if was, _, err := linkByHand(t, db, "email:ada@x", 12, "better"); err != nil || was.UserID != 11 {
		t.Errorf("%+v, %v", was, err)
	}
	if l, users := now(), dueUsers(t, db); l.UserID != 12 || l.LinkReason != "better" || !l.LinkedAt.After(*first.LinkedAt) || !slices.Equal(users, []int64{11, 12}) {
		t.Errorf("%+v, due are %v", l, users)
	}
}

func TestNobodyIsLinkedToAUserWhoIsNotThere(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		user int64
		want error
	}{"never listed": {99, state.ErrNotFound}, "has left": {11, state.ErrGone}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := fresh(t, "a")
			store(t, db, "a", somebody("email:ada@x", ""))
			listed(t, db, user(10, "ada@x", ""), user(11, "b@x", ""))
			exec(t, db, `UPDATE directory_users SET gone_at = now() WHERE user_id = 11`)
			decided(t, db, "email:ada@x", 10, "email", 0)
			hold(t, db, state.HeldPerson, state.Hold{Subject: "email:ada@x", Reason: "conflict"})
			settleAll(t, db)
			before := contents(t, db, "a")
			if _, _, err := linkByHand(t, db, "email:ada@x", c.user, "why"); !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
			if diff := cmp.Diff(before, contents(t, db, "a")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Whoever decides at the same time takes turns: each is told the link that it really replaced, and every user that lost or
// gained the person is due.
func TestLinksMadeAtOnceFollowEachOther(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	store(t, db, "a", somebody("email:ada@x", ""))
	const replicas = 8
	want := []int64{}
	for id := int64(1); id <= replicas; id++ {
		listed(t, db, user(id, "u@x", ""))
		want = append(want, id)
	}
	settleAll(t, db)
	var (
		wait sync.WaitGroup
		mu   sync.Mutex
		seen []int64 // that were replaced
	)
	for _, id := range want {
		wait.Go(func() {
			was, _, err := linkByHand(t, db, "email:ada@x", id, "why")
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Errorf("user %d: %v", id, err)
			}
			seen = append(seen, was.UserID)
		})
	}
	wait.Wait()
	last := value[int64](t, db, `SELECT user_id FROM links WHERE person = 'email:ada@x' AND rule = 'hand'`)
	seen = append(seen, last)
	slices.Sort(seen)
	if !slices.Equal(seen, append([]int64{0}, want...)) {
		t.Errorf("replaced, and last, were %v", seen)
	}
	if due := dueUsers(t, db); !slices.Equal(due, want) {
		t.Errorf("due are %v", due)
	}
}

// Until the rules have decided the link stands, so that nobody is left without a voice, and its user is known when they do.
func TestAReleasedLinkStandsUntilTheRulesHaveDecided(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		user int64 // that the rules name; 0: nobody
		rule string
		due  []int64
	}{
		"another user":  {10, "email", []int64{10, 11}},
		"the same user": {11, "externalId", []int64{11}},
		"nobody":        {0, "", []int64{11}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := fresh(t, "a")
			store(t, db, "a", somebody("email:ada@x", "S-1"))
			listed(t, db, user(10, "ada@x", ""), user(11, "b@x", "S-1"))
			if _, _, err := linkByHand(t, db, "email:ada@x", 11, "why"); err != nil {
				t.Fatal(err)
			}
			settleAll(t, db)
			was, err := releaseLink(t, db, "email:ada@x")
			if err != nil || was.UserID != 11 || was.Rule != state.LinkedByHand || was.LinkReason != "why" {
				t.Fatalf("%+v, %v", was, err)
			}
			if people, users := duePeople(t, db), dueUsers(t, db); !slices.Equal(people, []string{"email:ada@x"}) || !slices.Equal(users, []int64{11}) {
				t.Errorf("due are %q and %v", people, users)
			}
			people := get[[]state.PersonKeys](t)(state.NextPeople(t.Context(), db, "a", "", 10, true, nil))
			if len(people) != 1 || people[0].Hand != 0 || people[0].WasUser != 11 {
				t.Fatalf("the next run is told %+v", people)
			}
			// A run that was past linking may have looked at the user meanwhile.
			exec(t, db, `UPDATE directory_users SET decide_due = false`)
			decided(t, db, "email:ada@x", c.user, c.rule, people[0].WasUser)
			if due := dueUsers(t, db); !slices.Equal(due, c.due) {
				t.Errorf("due are %v, want %v", due, c.due)
			}
			link := value[string](t, db, `SELECT coalesce((SELECT user_id || ' ' || rule || coalesce(reason, '') FROM links), '')`)
			if want := map[int64]string{10: "10 email", 11: "11 externalId", 0: "0 released"}[c.user]; link != want {
				t.Errorf("linked to %q, want %q", link, want)
			}
			// A write that was on its way when the link was released has landed only now: its voice must not stay where it is nobody's.
			exec(t, db, `UPDATE directory_users SET decide_due = true, applied_digest = 'd', applied_source = 'email:ada@x/S-1' WHERE user_id = 11`)
			for _, u := range get[[]state.DueUser](t)(state.NextUsers(t.Context(), db, "a", 10, 10, true)) {
				if moved := c.user != 11; u.SourceMoved != moved {
					t.Errorf("the voice has moved: %v, want %v", u.SourceMoved, moved)
				}
			}
			if was, _, err := linkByHand(t, db, "email:ada@x", 11, "after all"); err != nil || was.UserID != c.user {
				t.Errorf("linked again after %+v, %v", was, err)
			}
			if _, err := releaseLink(t, db, "email:ada@x"); err != nil {
				t.Error(err)
			}
			decided(t, db, "email:ada@x", 11, "externalId", 11)
			if _, err := releaseLink(t, db, "email:ada@x"); !errors.Is(err, state.ErrNotFound) {
				t.Errorf("released twice: %v", err)
			}
		})
	}
}

func TestOnlyALinkByHandIsReleased(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	store(t, db, "a", somebody("email:ada@x", ""))
	listed(t, db, user(10, "ada@x", ""))
	decided(t, db, "email:ada@x", 10, "email", 0)
	settleAll(t, db)
	before := contents(t, db, "a")
	for _, person := range []string{"email:ada@x", "email:nobody@x"} {
		if _, err := releaseLink(t, db, person); !errors.Is(err, state.ErrNotFound) {
			t.Errorf("%s: %v", person, err)
		}
	}
	if diff := cmp.Diff(before, contents(t, db, "a")); diff != "" {
		t.Error(diff)
	}
}

// reviewing calls every function of reviewing holds and looking at runs that takes a bridge, once with something to do.
func reviewing(t *testing.T, db *pgxpool.Pool, bridge string, do func(name string, err error)) {
	t.Helper()
	ctx := t.Context()
	exec(t, db, `INSERT INTO directory_users (bridge, user_id, username, email, external_id, sweep) VALUES ($1, 901, 'r1@x', 'r1@x', 'R-1', 1), ($1, 902, 'r2@x', 'r2@x', '', 1)
		ON CONFLICT DO NOTHING`, bridge)
	store(t, db, bridge, somebody("email:review@x", "R-1"))
	must(t, state.InTx(ctx, db, func(tx pgx.Tx) error {
		if err := state.LockParticipants(ctx, tx, bridge); err != nil {
			return err
		}
		_, _, err := state.LinkByHand(ctx, tx, bridge, "email:review@x", 901, "why")
		do("LinkByHand", err)
		_, err = state.ReleaseLink(ctx, tx, bridge, "email:review@x")
		do("ReleaseLink", err)
		return nil
	}))
	must(t, state.StoreHolds(ctx, db, bridge, state.HeldPerson, []state.Hold{{Subject: "email:review@x", Reason: "conflict"}}, nil))
	must(t, state.StoreHolds(ctx, db, bridge, state.HeldUser, []state.Hold{{Subject: "901", Reason: "reverted"}, {Subject: "902", Reason: "refused"}}, nil))
	found, err := state.Find(ctx, db, bridge, state.Who{Email: "review@x", ID: "R-1", UserID: 902})
	do("Find", err)
	if len(found.People) != 1 || len(found.Users) != 2 || len(found.Holds) != 3 {
		t.Fatalf("found %+v", found)
	}
	for _, h := range found.Holds {
		do("IgnoreHold", state.IgnoreHold(ctx, db, bridge, h, "why"))
	}
	do("Holds", nil)
	if n := len(drain(t, state.Holds(ctx, db, bridge, "reverted", true, 0))); n != 1 {
		t.Fatalf("%d holds", n)
	}
	_, _, err = state.CountHolds(ctx, db, bridge, "")
	do("CountHolds", err)
	for _, h := range found.Holds {
		do("ReleaseHold", state.ReleaseHold(ctx, db, bridge, h))
	}

	run := uuid.New()
	exec(t, db, `INSERT INTO runs (bridge, run, kind, status) VALUES ($1, $2, 'plan', 'done')`, bridge, run)
	exec(t, db, `INSERT INTO plan_steps (bridge, run, user_id, action) VALUES ($1, $2, 901, 'clear')`, bridge, run)
	exec(t, db, `INSERT INTO journal (bridge, run, user_id, fence, action, state) VALUES ($1, $2, 901, 1, 'clear', 'verified')`, bridge, run)
	do("Runs", nil)
	if n := len(drain(t, state.Runs(ctx, db, bridge, state.Plan, 1))); n != 1 {
		t.Fatalf("%d runs", n)
	}
	_, err = state.FindRuns(ctx, db, bridge, run.String(), 2)
	do("FindRuns", err)
	_, err = state.CountSteps(ctx, db, bridge, run)
	do("CountSteps", err)
	do("RunSteps", nil)
	drain(t, state.RunSteps(ctx, db, bridge, run, 0))
	do("RunWrites", nil)
	drain(t, state.RunWrites(ctx, db, bridge, run, 0))
	_, err = state.CountRunWrites(ctx, db, bridge, run)
	do("CountRunWrites", err)
	_, err = state.CountPlannedRemovals(ctx, db, bridge, run)
	do("CountPlannedRemovals", err)
	_, err = state.LeftOut(ctx, db, bridge, run)
	do("LeftOut", err)
	_, err = state.HoldingRuns(ctx, db, bridge)
	do("HoldingRuns", err)
}

// Two bridges in one database know nothing of each other's reviews.
func TestNoReviewTouchesOrSeesAnotherBridge(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a", "b")
	do := func(name string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	reviewing(t, db, "b", do)
	must(t, state.StoreHolds(t.Context(), db, "b", state.HeldUser, []state.Hold{{Subject: "901", Reason: "reverted"}}, nil))
	before := contents(t, db, "b")
	reviewing(t, db, "a", do) // it fails where it sees more than its own
	if diff := cmp.Diff(before, contents(t, db, "b")); diff != "" {
		t.Errorf("what was done for a has changed b: %s", diff)
	}
	run := value[string](t, db, `SELECT run::text FROM runs WHERE bridge = 'b'`)
	if runs := get[[]state.Run](t)(state.FindRuns(t.Context(), db, "a", run, 2)); len(runs) != 0 {
		t.Errorf("a sees b's run: %+v", runs)
	}
	id := uuid.MustParse(run)
	if n := len(drain(t, state.RunWrites(t.Context(), db, "a", id, 0))) + len(drain(t, state.RunSteps(t.Context(), db, "a", id, 0))); n != 0 {
		t.Errorf("a sees %d writes and steps of b's run", n)
	}
	exec(t, db, `UPDATE directory_users SET wanted_version = 1, removes = true, action = 'clear' WHERE bridge = 'b'`)
	exec(t, db, `UPDATE plan_steps SET version = 1 WHERE bridge = 'b'`)
	if left := get[[]int64](t)(state.LeftOut(t.Context(), db, "a", id)); len(left) != 0 {
		t.Errorf("a sees whom b has left out: %v", left)
	}
	if n := get[state.PlannedRemovals](t)(state.CountPlannedRemovals(t.Context(), db, "a", id)); n != (state.PlannedRemovals{}) {
		t.Errorf("a sees b's removals: %+v", n)
	}
	exec(t, db, `UPDATE runs SET kind = 'sweep', status = 'quarantined' WHERE bridge = 'b'`)
	if n := get[[]state.Holding](t)(state.HoldingRuns(t.Context(), db, "a")); len(n) != 0 {
		t.Errorf("a sees what waits in b: %+v", n)
	}
	if n := get[[]state.Holding](t)(state.HoldingRuns(t.Context(), db, "b")); len(n) != 1 {
		t.Errorf("b sees %+v", n)
	}
	if _, err := state.CountSteps(t.Context(), db, "a", id); !errors.Is(err, state.ErrNotFound) {
		t.Errorf("a sees b's run: %v", err)
	}
}
