package state_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"namebridge/state"
)

func TestAParticipantComesBackAsItWasStored(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	full := state.Participant{
		ID: []byte{0, 1, 255}, Person: "email:jane@x", Email: "Jane@X", InstitutionID: "17", EventAccessCode: "E", EventTitle: `"Grad" \ 'n' é👩` + "\ufffd",
		FirstName: "Jane", LastName: "Doe", NameBadgeLink: "https://b", RecordingLink: "https://r", RecordingID: "19", RecordingDate: "2024", Attributes: map[string]string{`k "é"`: "\u2028<&>\\", "empty": ""},
		Content: []byte{0},
	}
	bare := participant("john@x", "F")
	if n := store(t, db, "a", full, bare); n != 2 {
		t.Errorf("%d changed", n)
	}
	must(t, state.StoreDecisions(t.Context(), db, "a", []state.Decided{{Person: full.Person, UserID: 1, Rule: "email"}, {Person: bare.Person, UserID: 2, Rule: "email"}}))
	got := get[[]state.LinkedParticipant](t)(state.ParticipantsOf(t.Context(), db, "a", []int64{1, 2, 3}))
	slices.SortFunc(got, func(a, b state.LinkedParticipant) int { return int(a.UserID - b.UserID) })
	if diff := cmp.Diff([]state.LinkedParticipant{{UserID: 1, Participant: full}, {UserID: 2, Participant: bare}}, got); diff != "" {
		t.Errorf("(-want +got): %s", diff)
	}
}

func TestOnlyChangedRowsAreStored(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	jane, john := participant("jane@x", "E"), participant("john@x", "E")
	store(t, db, "a", jane, john)
	must(t, state.StoreDecisions(t.Context(), db, "a", []state.Decided{{Person: jane.Person}, {Person: john.Person}}))
	exec(t, db, `UPDATE participants SET changed_at = '2020-01-01'`)
	version := func(p state.Participant) string {
		t.Helper()
		return value[string](t, db, `SELECT concat_ws(' ', xmin, link_due, changed_at) FROM participants WHERE participant = $1`, p.ID)
	}
	before, beforeJohn := version(jane), version(john)
	jane.RecordingLink += "?sig=2" // what its content leaves out
	if n := store(t, db, "a", jane, john); n != 0 || version(jane) != before {
		t.Errorf("%d rows were stored again: %s, now %s", n, before, version(jane))
	}
	jane.Content, jane.RecordingID = []byte("other"), "20"
	if n := store(t, db, "a", john, jane); n != 1 || version(john) != beforeJohn {
		t.Errorf("%d rows were stored", n)
	}
	if got := value[string](t, db, `SELECT concat_ws(' ', link_due, changed_at > now() - interval '1 hour', recording_id, recording_link) FROM participants WHERE participant = $1`, jane.ID); got != "t t 20 "+jane.RecordingLink {
		t.Errorf("the changed row is %s", got)
	}
	if n := value[int](t, db, `SELECT count(*) FROM staged_participants`); n != 0 {
		t.Errorf("%d rows are still staged", n)
	}
}

// Rows without an id of their own (trap 8) may stand twice in a window: in whatever order they come, the same one counts.
func TestOfRowsWithOneIdentityTheSameCountsInAnyOrder(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	var rows []state.Participant
	for _, content := range []string{"a silent", "z", "y"} {
		p := participant("jane@x", "E")
		p.Content, p.RecordingID = []byte(content), content
		if content == "a silent" {
			p.RecordingLink = ""
		}
		rows = append(rows, p)
	}
	for range rows {
		rows = append(rows[1:], rows[0])
		exec(t, db, `DELETE FROM participants`)
		if n := store(t, db, "a", rows...); n != 1 {
			t.Errorf("%d rows were stored", n)
		}
		if got := value[string](t, db, `SELECT recording_id FROM participants`); got != "y" {
			t.Errorf("%q counts", got)
		}
		if n := store(t, db, "a", rows...); n != 0 {
			t.Errorf("the same window again changes %d", n)
		}
	}
}

func TestReadingsDoNotMixUnlessJoined(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	one, two, three := reading(), reading(), reading()
	three.Owner = live(t, db, "a")
	for reading, email := range map[*state.Reading]string{&one: "a@x", &two: "b@x", &three: "c@x"} {
		must(t, state.StageParticipants(t.Context(), db, "a", reading, []state.Participant{participant(email, "E")}))
	}
	must(t, state.StageParticipants(t.Context(), db, "a", &one, nil))
	must(t, state.JoinStaged(t.Context(), db, "a", two, &one))
	if n := get[int64](t)(state.StoreStaged(t.Context(), db, "a", one, state.Bringing{By: uuid.New()})); n != 2 {
		t.Errorf("%d rows were stored", n)
	}
	if _, err := state.StoreStaged(t.Context(), db, "a", one, state.Bringing{By: uuid.New()}); !errors.Is(err, state.ErrStagedLost) {
		t.Errorf("stored twice: %v", err)
	}
	if got := value[string](t, db, `SELECT string_agg(email, ',' ORDER BY email) FROM staged_participants`); got != "c@x" {
		t.Errorf("still staged: %s", got)
	}
	exec(t, db, `UPDATE staged_participants SET staged_at = now() - interval '61 minutes'`)
	must(t, state.DropStaged(t.Context(), db, "a", reading()))
	if n := value[int](t, db, `SELECT count(*) FROM staged_participants`); n != 1 {
		t.Error("a reading whose process lives was dropped")
	}
	must(t, state.Leave(t.Context(), db, "a", three.Owner))
	must(t, state.DropStaged(t.Context(), db, "a", reading()))
	if n := value[int](t, db, `SELECT count(*) FROM staged_participants`); n != 0 {
		t.Error("an abandoned reading stays")
	}
}

// A crash between storing and moving the cursor leaves neither.
func TestParticipantsAndCursorCommitTogether(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	reading := reading()
	must(t, state.StageParticipants(t.Context(), db, "a", &reading, []state.Participant{participant("a@x", "E")}))
	was := get[state.Cursor](t)(state.StartCursor(t.Context(), db, "a", state.Cursor{Stream: "walk", Since: second(0), Until: second(0)}))
	must(t, state.MoveCursor(t.Context(), db, "a", was, second(5), nil)) // another process has been there
	err := state.InTx(t.Context(), db, func(tx pgx.Tx) error {
		if n := get[int64](t)(state.StoreStaged(t.Context(), tx, "a", reading, state.Bringing{By: uuid.New()})); n != 1 {
			t.Errorf("%d rows", n)
		}
		return state.MoveCursor(t.Context(), tx, "a", was, second(9), nil)
	})
	if n := value[int](t, db, `SELECT count(*) FROM participants`); !errors.Is(err, state.ErrStale) || n != 0 {
		t.Errorf("%d rows are stored, %v", n, err)
	}
}

func TestStoringAndLinkingTakeTurns(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a", "b")
	must(t, state.InTx(t.Context(), db, func(tx pgx.Tx) error {
		must(t, state.LockParticipants(t.Context(), tx, "a"))
		must(t, state.InTx(t.Context(), db, func(other pgx.Tx) error { // another bridge does not wait
			return state.LockParticipants(t.Context(), other, "b")
		}))
		err := state.InTx(t.Context(), db, func(other pgx.Tx) error {
			exec(t, other, `SET LOCAL lock_timeout = '50ms'`)
			return state.LockParticipants(t.Context(), other, "a")
		})
		var pg *pgconn.PgError
		if !errors.As(err, &pg) || pg.Code != "55P03" {
			t.Errorf("two have the lock at once: %v", err)
		}
		return nil
	}))
}

// Whoever has asked about everybody at a moment must know who has come since, whichever transaction began first.
func TestAMomentDividesTheRowsThatWereStoredBeforeFromThoseAfter(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	var at time.Time
	moment := func() error {
		return state.InTx(t.Context(), db, func(tx pgx.Tx) (err error) {
			exec(t, tx, `SET LOCAL lock_timeout = '50ms'`)
			at, err = state.Moment(t.Context(), tx, "a")
			return err
		})
	}
	store(t, db, "a", participant("before@x", "E"))
	undone(t, db, func(early pgx.Tx) { // begun before the moment, to store after it
		value[time.Time](t, early, `SELECT now()`)
		must(t, moment())
		if before := get[[]state.PersonKeys](t)(state.NextPeople(t.Context(), db, "a", "", 10, true, nil)); !before[0].ChangedAt.Before(at) {
			t.Errorf("stored before %v, at %v", at, before[0].ChangedAt)
		}
		must(t, state.LockParticipants(t.Context(), early, "a"))
		reading := reading()
		must(t, state.StageParticipants(t.Context(), early, "a", &reading, []state.Participant{participant("after@x", "E")}))
		get[int64](t)(state.StoreStaged(t.Context(), early, "a", reading, state.Bringing{By: uuid.New()}))
		if after := get[[]state.PersonKeys](t)(state.NextPeople(t.Context(), early, "a", "", 10, true, nil)); !after[0].ChangedAt.After(at) {
			t.Errorf("stored after %v, at %v", at, after[0].ChangedAt)
		}
		var pg *pgconn.PgError
		if err := moment(); !errors.As(err, &pg) || pg.Code != "55P03" {
			t.Errorf("there is a moment while rows are stored: %v", err)
		}
	})
}

// Text is made storable before it gets here: what Postgres refuses fails loudly and stores nothing.
func TestWhatPostgresRefusesIsAnErrorAndNotHalfStored(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	for _, bad := range []string{"a\x00b", "a\xffb"} {
		p := participant("a@x", "E")
		p.EventTitle = bad
		reading := reading()
		if err := state.StageParticipants(t.Context(), db, "a", &reading, []state.Participant{participant("b@x", "E"), p}); err == nil {
			t.Errorf("%q was stored", bad)
		}
	}
	if n := value[int](t, db, `SELECT count(*) FROM staged_participants`); n != 0 {
		t.Errorf("%d rows are staged", n)
	}
}

func TestPeopleAreReadInPagesWithAllTheirKeys(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	rows := []state.Participant{participant("b@x", "E"), participant("b@x", "F"), participant("b@x", "G"), participant("a@x", "F"), participant("é@x", "E"), participant("B-@x", "E")}
	rows[0].InstitutionID, rows[1].InstitutionID, rows[2].InstitutionID = "2", "1", "2"
	store(t, db, "a", rows...)
	must(t, state.StoreDecisions(t.Context(), db, "a", []state.Decided{{Person: "email:é@x", UserID: 5, Rule: "email"}}))
	exec(t, db, `INSERT INTO links (bridge, person, user_id, rule) VALUES ('a', 'email:a@x', 6, 'hand')`)
	all := map[string]state.PersonKeys{
		"email:b@x":  {Person: "email:b@x", InstitutionIDs: []string{"1", "2"}, Due: true},
		"email:a@x":  {Person: "email:a@x", Due: true, Hand: 6, WasUser: 6},
		"email:é@x":  {Person: "email:é@x", WasUser: 5},
		"email:B-@x": {Person: "email:B-@x", Due: true},
	}
	pages := func(dueOnly bool, events ...string) map[string]state.PersonKeys {
		t.Helper()
		out := map[string]state.PersonKeys{}
		for after := ""; ; {
			page := get[[]state.PersonKeys](t)(state.NextPeople(t.Context(), db, "a", after, 2, dueOnly, events))
			if len(page) == 0 {
				return out
			}
			for _, p := range page {
				if _, twice := out[p.Person]; twice {
					t.Fatalf("%s stands twice", p.Person)
				}
				if p.Due != (p.ChangedAt != nil) {
					t.Errorf("%s is due: %v, and changed at %v", p.Person, p.Due, p.ChangedAt)
				}
				p.ChangedAt = nil // it is when the test ran
				out[p.Person] = p
			}
			after = page[len(page)-1].Person
		}
	}
	if diff := cmp.Diff(all, pages(false)); diff != "" {
		t.Errorf("everybody (-want +got): %s", diff)
	}
	due := pages(true)
	if _, linked := due["email:é@x"]; linked || len(due) != 3 {
		t.Errorf("due: %v", due)
	}
	b := all["email:b@x"]
	b.InstitutionIDs = []string{"1"}
	if diff := cmp.Diff(map[string]state.PersonKeys{"email:a@x": all["email:a@x"], "email:b@x": b}, pages(false, "F")); diff != "" {
		t.Errorf("of one event (-want +got): %s", diff)
	}
}

func TestDecisionsMoveLinksAndMarkWhomTheyConcern(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	var users []state.DirectoryUser
	for i := int64(1); i <= 9; i++ {
		users = append(users, user(i, "", ""))
	}
	get[int64](t)(state.StoreDirectory(t.Context(), db, "a", 1, users, false))
	store(t, db, "a", participant("stays@x", "E"), participant("moves@x", "E"), participant("lost@x", "E"), participant("hand@x", "E"), participant("new@x", "E"), participant("changed@x", "E"), participant("nobody@x", "E"))
	must(t, state.StoreDecisions(t.Context(), db, "a", []state.Decided{
		{Person: "email:stays@x", UserID: 1, Rule: "email"}, {Person: "email:moves@x", UserID: 2, Rule: "email"}, {Person: "email:lost@x", UserID: 3, Rule: "externalId"}, {Person: "email:changed@x", UserID: 7, Rule: "email"},
	}))
	exec(t, db, `INSERT INTO links (bridge, person, user_id, rule, reason) VALUES ('a', 'email:hand@x', 4, 'hand', 'why')`)
	exec(t, db, `UPDATE directory_users SET decide_due = false`)
	exec(t, db, `UPDATE participants SET link_due = true`)
	must(t, state.StoreDecisions(t.Context(), db, "a", []state.Decided{
		{Person: "email:stays@x", UserID: 1, Rule: "email", WasUser: 1},
		{Person: "email:moves@x", UserID: 5, Rule: "externalId", WasUser: 2},
		{Person: "email:lost@x", WasUser: 3},
		{Person: "email:hand@x", UserID: 4, Rule: "hand", WasUser: 4},
		{Person: "email:new@x", UserID: 6, Rule: "email"},
		{Person: "email:changed@x", UserID: 7, Rule: "email", WasUser: 7, Changed: true},
		{Person: "email:nobody@x", Changed: true},
	}))
	if got, want := value[string](t, db, `SELECT string_agg(concat_ws(' ', person, user_id, rule), ',' ORDER BY user_id) FROM links`),
		"email:stays@x 1 email,email:hand@x 4 hand,email:moves@x 5 externalId,email:new@x 6 email,email:changed@x 7 email"; got != want {
		t.Errorf("links %s, want %s", got, want)
	}
	if got := value[string](t, db, `SELECT string_agg(user_id::text, ',' ORDER BY user_id) FROM directory_users WHERE decide_due`); got != "2,3,5,6,7" {
		t.Errorf("to be decided on anew: %s", got)
	}
	if n := value[int](t, db, `SELECT count(*) FROM participants WHERE link_due`); n != 0 {
		t.Errorf("%d are still to be linked", n)
	}
	// A link made by hand meanwhile is left alone.
	exec(t, db, `UPDATE links SET rule = 'hand' WHERE person = 'email:new@x'`)
	must(t, state.StoreDecisions(t.Context(), db, "a", []state.Decided{{Person: "email:new@x", UserID: 9, Rule: "email", WasUser: 6}, {Person: "email:hand@x", WasUser: 4}}))
	if got := value[string](t, db, `SELECT string_agg(concat_ws(' ', person, user_id), ',' ORDER BY user_id) FROM links WHERE rule = 'hand'`); got != "email:hand@x 4,email:new@x 6" {
		t.Errorf("links by hand: %s", got)
	}
}

func TestLinksAndHoldsOfEventsThatNoLongerCountAreDropped(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	get[int64](t)(state.StoreDirectory(t.Context(), db, "a", 1, []state.DirectoryUser{user(1, "", ""), user(2, "", ""), user(3, "", "")}, false))
	store(t, db, "a", participant("in@x", "E"), participant("in@x", "F"), participant("out@x", "F"), participant("hand@x", "F"))
	must(t, state.StoreDecisions(t.Context(), db, "a", []state.Decided{{Person: "email:in@x", UserID: 1, Rule: "email"}, {Person: "email:out@x", UserID: 2, Rule: "email"}}))
	exec(t, db, `INSERT INTO links (bridge, person, user_id, rule) VALUES ('a', 'email:hand@x', 3, 'hand')`)
	must(t, state.StoreHolds(t.Context(), db, "a", state.HeldPerson, []state.Hold{{Subject: "email:in@x", Reason: "conflict"}, {Subject: "email:out@x", Reason: "conflict"}}, nil))
	must(t, state.StoreHolds(t.Context(), db, "a", state.HeldUser, []state.Hold{{Subject: "2", Reason: "unwritable"}}, nil))
	exec(t, db, `UPDATE directory_users SET decide_due = false`)
	must(t, state.DropUncounted(t.Context(), db, "a", []string{"E", "G"}))
	got := value[string](t, db, `SELECT concat_ws(' ', (SELECT string_agg(person, ',' ORDER BY person) FROM links), (SELECT string_agg(kind || subject, ',' ORDER BY kind) FROM holds),
		(SELECT string_agg(user_id::text, ',') FROM directory_users WHERE decide_due))`)
	if want := "email:hand@x,email:in@x personemail:in@x,user2 2"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestAHoldKeepsSinceWhenItStandsWhileItsReasonStays(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	hold := func(kind, subject, reason string, lifted ...string) {
		t.Helper()
		var holds []state.Hold
		if subject != "" {
			holds = []state.Hold{{Subject: subject, Reason: reason, Detail: "detail\x00 of " + reason, Users: []int64{2, 1}, Content: []byte(reason)}}
		}
		must(t, state.StoreHolds(t.Context(), db, "a", kind, holds, lifted))
	}
	row := func() string {
		t.Helper()
		return value[string](t, db, `SELECT coalesce(string_agg(concat_ws('|', kind, subject, reason, detail, users::text, encode(content, 'escape'), since::date = '2020-01-01', checked_at > now() - interval '1 hour'), ';' ORDER BY kind, subject), '') FROM holds`)
	}
	hold("person", "1", "conflict")
	hold("user", "1", "unwritable")
	exec(t, db, `UPDATE holds SET since = '2020-01-01', checked_at = '2020-01-01'`)
	hold("person", "1", "conflict")
	if got, want := row(), "person|1|conflict|detail\ufffd of conflict|{2,1}|conflict|t|t;user|1|unwritable|detail\ufffd of unwritable|{2,1}|unwritable|t|f"; got != want {
		t.Errorf("held again: %s, want %s", got, want)
	}
	hold("person", "1", "ambiguous")
	if got := row(); !strings.HasPrefix(got, "person|1|ambiguous|detail\ufffd of ambiguous|{2,1}|ambiguous|f|t;") {
		t.Errorf("held for another reason: %s", got)
	}
	hold("person", "", "", "1", "2")
	if got := row(); !strings.HasPrefix(got, "user|1|unwritable") {
		t.Errorf("after one kind was lifted: %s", got)
	}
}

func TestTenThousandRowsGoInOneStatement(t *testing.T) {
	t.Parallel()
	const n = 10_000
	db := fresh(t, "a")
	ps, us, ds, ws, hs := make([]state.Participant, n), make([]state.DirectoryUser, n), make([]state.Decided, n), make([]state.Wanted, n), make([]state.Hold, n)
	ids, lifted := make([]int64, n), make([]string, n)
	for i := range n {
		email, id := fmt.Sprintf("u%d@x", i), int64(i+1)
		ps[i], us[i] = participant(email, "E"), user(id, email, fmt.Sprint(i))
		us[i].OtherEmails = []string{fmt.Sprintf("other%d@x", i)}
		ds[i] = state.Decided{Person: ps[i].Person, UserID: id, Rule: "email", Changed: true}
		ws[i] = state.Wanted{UserID: id, Action: "write", Value: []byte(`{}`), Digest: []byte{byte(i)}, Source: ps[i].ID}
		hs[i] = state.Hold{Subject: fmt.Sprint(id), Reason: "refused", Users: []int64{id}}
		ids[i], lifted[i] = id, fmt.Sprint(id)
	}
	if got := store(t, db, "a", ps...); got != n {
		t.Errorf("%d participants were stored", got)
	}
	if got := get[int64](t)(state.StoreDirectory(t.Context(), db, "a", 1, us, false)); got != n {
		t.Errorf("%d users were stored", got)
	}
	must(t, state.StoreDecisions(t.Context(), db, "a", ds))
	if got := wish(t, db, "a", state.Wish{Run: uuid.New(), Urgency: state.BackfillPriority}, ws...); got != n {
		t.Errorf("%d are pending", got)
	}
	must(t, state.StoreHolds(t.Context(), db, "a", state.HeldUser, hs, nil))
	if got := len(get[[]state.LinkedParticipant](t)(state.ParticipantsOf(t.Context(), db, "a", ids))); got != n {
		t.Errorf("%d are linked", got)
	}
	run := uuid.New()
	owner := live(t, db, "a")
	claimed := get[[]state.Claimed](t)(state.Claim(t.Context(), db, "a", state.BackfillPriority, owner, n))
	if len(claimed) != n {
		t.Fatalf("%d were claimed", len(claimed))
	}
	intents, outcomes := make([]*state.Intent, n), make([]state.Outcome, n)
	for i, c := range claimed {
		intents[i] = &state.Intent{Run: run, UserID: c.UserID, Fence: c.Fence, Action: c.Action, Version: c.Version, Before: []byte(`{}`), AfterFragment: []byte(`{}`)}
	}
	must(t, state.Journal(t.Context(), db, "a", intents))
	for i, in := range intents {
		c := claimed[i]
		outcomes[i] = state.Outcome{UserID: in.UserID, Fence: in.Fence, Entry: in.Entry, State: state.Verified, Applied: true, Version: c.Version, Digest: c.WantedDigest, Source: c.WantedSource}
	}
	must(t, state.Settle(t.Context(), db, "a", outcomes))
	must(t, state.StoreHolds(t.Context(), db, "a", state.HeldUser, nil, lifted))
	written, _, err := state.CountWrites(t.Context(), db, "a", run)
	totals := get[state.Totals](t)(state.CountTotals(t.Context(), db, "a"))
	if diff := cmp.Diff(state.Totals{Participants: n, Users: n, Linked: n, Synced: n, Held: map[string]int{}, Quarantined: []string{}}, totals); diff != "" || written != n || err != nil {
		t.Errorf("%d written, %v; totals (-want +got): %s", written, err, diff)
	}
}
