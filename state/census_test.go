package state_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"namebridge/state"
)

// census asks about people of bridge a, is shown rows, and counts: confirmations censuses in a row silence a row.
func census(t testing.TB, db *pgxpool.Pool, confirmations int, asked []string, shown ...state.Participant) state.CensusCounts {
	t.Helper()
	run := uuid.New()
	began := value[time.Time](t, db, `SELECT now()`)
	reading := reading()
	must(t, state.StageParticipants(t.Context(), db, "a", &reading, shown))
	get[int64](t)(state.StoreStaged(t.Context(), db, "a", reading, state.Bringing{By: run, All: true, Found: &began}))
	return conclude(t, db, run, began, confirmations, asked)
}

// conclude counts for a census that has whole answers about the people asked.
func conclude(t testing.TB, db *pgxpool.Pool, run uuid.UUID, began time.Time, confirmations int, asked []string) (c state.CensusCounts) {
	t.Helper()
	must(t, state.InTx(t.Context(), db, func(tx pgx.Tx) (err error) {
		if err := state.LockParticipants(t.Context(), tx, "a"); err != nil {
			return err
		}
		if err := state.NoteCounted(t.Context(), tx, "a", run, asked); err != nil {
			return err
		}
		c, err = state.ConcludeCensus(t.Context(), tx, "a", run, began, confirmations)
		return err
	}))
	return c
}

// rowsOf is how rows stand: absences, whether missing, whether silenced.
func rowsOf(t testing.TB, db state.Querier) (out []string) {
	t.Helper()
	rows, err := db.Query(t.Context(), `SELECT concat_ws(' ', encode(participant, 'escape'), absences, missing_since IS NOT NULL, replaced) FROM participants ORDER BY 1`)
	must(t, err)
	return get[[]string](t)(pgx.CollectRows(rows, pgx.RowTo[string]))
}

// Absence is not evidence: it takes several complete censuses, one after the other, and every sight of a row begins anew.
func TestARowIsSilencedByEnoughCensusesInARowThatDidNotShowIt(t *testing.T) {
	t.Parallel()
	for _, confirmations := range []int{1, 2, 3} {
		t.Run(fmt.Sprint(confirmations), func(t *testing.T) {
			t.Parallel()
			db := fresh(t, "a")
			a, b := participant("a@x", "E"), participant("b@x", "E")
			store(t, db, "a", a, b)
			both := []string{a.Person, b.Person}
			for n := 1; n < confirmations; n++ {
				if c := census(t, db, confirmations, both, b); c != (state.CensusCounts{Asked: 2, Absent: 1}) {
					t.Errorf("the census came to %+v", c)
				}
				if diff := cmp.Diff([]string{fmt.Sprintf("a@x/E %d t f", n), "b@x/E 0 f f"}, rowsOf(t, db)); diff != "" {
					t.Errorf("after %d: %s", n, diff)
				}
			}
			// Seen once, it begins anew.
			if c := census(t, db, confirmations, both, a, b); c != (state.CensusCounts{Asked: 2}) {
				t.Errorf("seen: %+v", c)
			}
			if diff := cmp.Diff([]string{"a@x/E 0 f f", "b@x/E 0 f f"}, rowsOf(t, db)); diff != "" {
				t.Errorf("seen: %s", diff)
			}
			for n := 1; n <= confirmations; n++ {
				want := state.CensusCounts{Asked: 2, Absent: 1}
				if n == confirmations {
					want.Gone = 1
				}
				if c := census(t, db, confirmations, both, b); c != want {
					t.Errorf("census %d: %+v, want %+v", n, c, want)
				}
			}
			if diff := cmp.Diff([]string{fmt.Sprintf("a@x/E %d t t", confirmations), "b@x/E 0 f f"}, rowsOf(t, db)); diff != "" {
				t.Errorf("at the end: %s", diff)
			}
			// It is counted no more, and comes back as if it were new.
			if c := census(t, db, confirmations, both, b); c != (state.CensusCounts{Asked: 1}) {
				t.Errorf("silenced: %+v", c)
			}
			store(t, db, "a", a)
			if diff := cmp.Diff([]string{"a@x/E 0 f f", "b@x/E 0 f f"}, rowsOf(t, db)); diff != "" {
				t.Errorf("back: %s", diff)
			}
			if due := duePeople(t, db); !slices.Contains(due, a.Person) {
				t.Errorf("back, and not looked at: %v", due)
			}
		})
	}
}

func TestWhoWasNotAskedAboutIsLeftAloneByACensus(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	store(t, db, "a", participant("a@x", "E"), participant("b@x", "E"), participant("b@x", "F"))
	exec(t, db, `UPDATE participants SET absences = 1, missing_since = now(), seen_at = now() - interval '1 year' WHERE person = 'email:b@x'`)
	before := rowsOf(t, db)
	if c := census(t, db, 2, nil); c != (state.CensusCounts{}) {
		t.Errorf("%+v", c)
	}
	if c := census(t, db, 2, []string{"email:a@x"}, participant("a@x", "E")); c != (state.CensusCounts{Asked: 1}) {
		t.Errorf("%+v", c)
	}
	if diff := cmp.Diff(before, rowsOf(t, db)); diff != "" {
		t.Error(diff)
	}
	// Of those asked about every row counts by itself.
	if c := census(t, db, 2, []string{"email:b@x"}, participant("b@x", "F")); c != (state.CensusCounts{Asked: 2, Absent: 1, Gone: 1}) {
		t.Errorf("%+v", c)
	}
	if diff := cmp.Diff([]string{"a@x/E 0 f f", "b@x/E 2 t t", "b@x/F 0 f f"}, rowsOf(t, db)); diff != "" {
		t.Error(diff)
	}
}

// A census takes hours. What came meanwhile, by a window or a question of somebody else, is there.
func TestARowSeenSinceACensusBeganCountsAsShown(t *testing.T) {
	t.Parallel()
	changed := participant("a@x", "E")
	changed.Content = []byte("changed")
	for name, c := range map[string]struct {
		row state.Participant
		all bool
		as  state.CensusCounts
	}{
		"changed, by a window":              {changed, false, state.CensusCounts{Asked: 1}},
		"as it was, by a question":          {participant("a@x", "E"), true, state.CensusCounts{Asked: 1}},
		"as it was, by a window of changes": {participant("a@x", "E"), false, state.CensusCounts{Asked: 1, Absent: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := fresh(t, "a")
			store(t, db, "a", participant("a@x", "E"))
			exec(t, db, `UPDATE participants SET seen_at = seen_at - interval '1 hour'`)
			began := value[time.Time](t, db, `SELECT now() - interval '10 minutes'`)
			reading := reading()
			must(t, state.StageParticipants(t.Context(), db, "a", &reading, []state.Participant{c.row}))
			get[int64](t)(state.StoreStaged(t.Context(), db, "a", reading, state.Bringing{By: uuid.New(), All: c.all}))
			if got := conclude(t, db, uuid.New(), began, 2, []string{"email:a@x"}); got != c.as {
				t.Errorf("%+v, want %+v", got, c.as)
			}
		})
	}
}

func TestWhoHasNoRowLeftIsUnlinkedButNotALinkByHand(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	store(t, db, "a", participant("gone@x", "E"), participant("gone@x", "F"), participant("half@x", "E"), participant("half@x", "F"), participant("hand@x", "E"), participant("here@x", "E"))
	listed(t, db, user(1, "gone@x", ""), user(2, "half@x", ""), user(3, "u@x", ""), user(4, "here@x", ""))
	for i, email := range []string{"gone@x", "half@x", "", "here@x"} {
		if email != "" {
			decided(t, db, "email:"+email, int64(i+1), "email", 0)
		}
	}
	_, _, err := linkByHand(t, db, "email:hand@x", 3, "HR says so")
	must(t, err)
	hold(t, db, state.HeldPerson, state.Hold{Subject: "email:gone@x", Reason: "conflict"}, state.Hold{Subject: "email:half@x", Reason: "conflict"})
	settleAll(t, db)

	asked := []string{"email:gone@x", "email:half@x", "email:hand@x", "email:here@x"}
	shown := []state.Participant{participant("half@x", "F"), participant("here@x", "E")}
	if c := census(t, db, 2, asked, shown...); c != (state.CensusCounts{Asked: 6, Absent: 4}) {
		t.Errorf("the first came to %+v", c)
	}
	if users, people := dueUsers(t, db), duePeople(t, db); len(users)+len(people) != 0 {
		t.Errorf("one census alone makes %v and %v due", users, people)
	}
	if c := census(t, db, 2, asked, shown...); c != (state.CensusCounts{Asked: 6, Absent: 4, Gone: 4}) {
		t.Errorf("the second came to %+v", c)
	}
	links := value[string](t, db, `SELECT string_agg(concat_ws(' ', person, user_id, rule), ',' ORDER BY user_id) FROM links`)
	if links != "email:half@x 2 email,email:hand@x 3 hand,email:here@x 4 email" {
		t.Errorf("linked are %s", links)
	}
	if users := dueUsers(t, db); !slices.Equal(users, []int64{1, 2, 3}) {
		t.Errorf("to be decided on: %v", users)
	}
	if people := duePeople(t, db); !slices.Equal(people, []string{"email:half@x"}) { // by what is left of it
		t.Errorf("to be linked: %v", people)
	}
	if held := value[string](t, db, `SELECT string_agg(subject, ',') FROM holds`); held != "email:half@x" {
		t.Errorf("held are %s", held)
	}
	speaks := map[int64]int{}
	for _, p := range get[[]state.LinkedParticipant](t)(state.ParticipantsOf(t.Context(), db, "a", []int64{1, 2, 3, 4})) {
		speaks[p.UserID]++
	}
	if diff := cmp.Diff(map[int64]int{2: 1, 4: 1}, speaks); diff != "" {
		t.Errorf("rows that speak, by user: %s", diff)
	}
}

// NameCoach compares addresses as it has them: each of its own spellings is asked for.
// What speaks for nobody is asked for, too: it may be there again.
func TestACensusAsksAboutEveryoneLinkedOrSilencedInEverySpelling(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	spelled := func(key, email, institution, event string) state.Participant {
		p := somebody(key, institution)
		p.Email, p.ID, p.EventAccessCode = email, []byte(key+email+event), event
		return p
	}
	silenced := spelled("email:ada@x", "aDa@x", "", "E")
	store(t, db, "a", spelled("email:ada@x", "Ada@x", "1", "E"), spelled("email:ada@x", "ADA@X", "2", "E"), spelled("email:ada@x", "Ada@x", "1", "F"), silenced,
		spelled("id:17", "", "17", "E"), spelled("email:bob@x", "bob@x", "", "E"), spelled("email:eve@x", "eve@x", "", "E"),
		spelled("email:gone@x", "gone@x", "", "E"), spelled("id:18", "", "18", "E"), spelled("email:missing@x", "missing@x", "", "E"))
	exec(t, db, `UPDATE participants SET replaced = true, missing_since = now() WHERE participant = $1 OR person IN ('email:gone@x', 'id:18')`, silenced.ID)
	exec(t, db, `UPDATE participants SET missing_since = now() WHERE person = 'email:missing@x'`)
	listed(t, db, user(1, "ada@x", ""), user(2, "", "17"), user(3, "eve@x", ""))
	decided(t, db, "email:ada@x", 1, "email", 0)
	decided(t, db, "id:17", 2, "externalId", 0)
	decided(t, db, "email:eve@x", 3, "email", 0)
	// Of links by hand no row may be left, of many in a row: whoever comes after them is asked about.
	for _, forgotten := range []string{"email:f1@x", "email:f2@x", "email:f3@x"} {
		exec(t, db, `INSERT INTO links (bridge, person, user_id, rule) VALUES ('a', $1, 3, 'hand')`, forgotten)
	}
	var got []state.KnownPerson
	for after := ""; ; {
		page := get[[]state.KnownPerson](t)(state.NextLinked(t.Context(), db, "a", after, 2))
		if len(page) == 0 {
			break
		}
		after = page[len(page)-1].Person
		slices.SortStableFunc(page, func(a, b state.KnownPerson) int { return strings.Compare(a.Person+a.Email, b.Person+b.Email) })
		got = append(got, page...)
	}
	if diff := cmp.Diff([]state.KnownPerson{
		{Person: "email:ada@x", Email: "ADA@X"},
		{Person: "email:ada@x", Email: "Ada@x"},
		{Person: "email:ada@x", Email: "aDa@x"},
		{Person: "email:eve@x", Email: "eve@x"},
		{Person: "email:f1@x"},
		{Person: "email:f2@x"},
		{Person: "email:f3@x"},
		{Person: "email:gone@x", Email: "gone@x"},
		{Person: "id:17", InstitutionID: "17"},
		{Person: "id:18", InstitutionID: "18"},
	}, got); diff != "" {
		t.Error(diff)
	}
}

// Of somebody who came to BLN later than to NameCoach no window tells: NameCoach is asked once, and again when the keys change.
func TestNameCoachIsAskedOnceAboutEachUsersKeys(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	list := func(asked bool, users ...state.DirectoryUser) {
		t.Helper()
		get[int64](t)(state.StoreDirectory(t.Context(), db, "a", 1, users, asked))
	}
	unasked := func() (ids []int64) {
		t.Helper()
		for after := int64(0); ; {
			page := get[[]state.UnaskedUser](t)(state.NextUnasked(t.Context(), db, "a", after, 2))
			if len(page) == 0 {
				return ids
			}
			for _, u := range page {
				ids = append(ids, u.UserID)
			}
			after = ids[len(ids)-1]
		}
	}
	expect := func(why string, want ...int64) {
		t.Helper()
		if got := unasked(); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", why, got, want)
		}
	}
	one, two, three := user(1, "a@x", "17"), user(2, "b@x", ""), user(3, "c@x", "19")
	list(false, one, two, three)
	expect("never asked", 1, 2, 3)
	must(t, state.NoteAsked(t.Context(), db, "a", []int64{1, 3}))
	expect("asked about two", 2)
	list(false, one, two, three)
	expect("listed again as they are", 2)
	list(true, user(4, "d@x", ""), two)
	expect("NameCoach was just read to the end")
	one.Username, one.OtherEmails, one.ListedContent = "A@x", []string{"z@x"}, []byte("x")
	list(false, one)
	expect("something else has changed")
	one.Email = "new@x"
	two.ExternalID = "20"
	list(false, one, two, three)
	expect("their keys have changed", 1, 2)
	three.ExternalID = ""
	list(true, three)
	expect("its keys have changed, and NameCoach was just read to the end", 1, 2)
	markGone(t, db, "a", 1)
	expect("one is gone", 2)
	list(false, one)
	expect("it is back", 1, 2)
	must(t, state.NoteAsked(t.Context(), db, "a", []int64{}))
	expect("nobody was asked about", 1, 2)
	must(t, state.NoteAsked(t.Context(), db, "a", nil))
	expect("a walk has brought everything there is")
}

func TestAUserIsAskedAboutInNameCoachsOwnSpelling(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	known, upper := somebody("email:ada@x", ""), "Ada@X"
	known.Email = upper
	store(t, db, "a", known)
	get[int64](t)(state.StoreDirectory(t.Context(), db, "a", 1, []state.DirectoryUser{
		{UserID: 1, Username: "aDA@x", Email: "ada@x", ExternalID: "17"}, {UserID: 2, Username: "Bob@X", Email: "bob@x"}, {UserID: 3, Username: "bob", Email: "bob", ExternalID: "19"},
	}, false))
	want := []state.UnaskedUser{{UserID: 1, Email: upper, ExternalID: "17"}, {UserID: 2, Email: "Bob@X"}, {UserID: 3, ExternalID: "19"}}
	if diff := cmp.Diff(want, get[[]state.UnaskedUser](t)(state.NextUnasked(t.Context(), db, "a", 0, 10))); diff != "" {
		t.Error(diff)
	}
}
