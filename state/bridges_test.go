package state_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"namebridge/state"
)

func TestABridgeStaysWithItsOrganization(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	if _, err := state.GetBridge(t.Context(), db, "a"); !errors.Is(err, state.ErrNotFound) {
		t.Errorf("a bridge that is not there: %v", err)
	}
	for range 2 {
		b, err := state.EnsureBridge(t.Context(), db, "a", 7)
		if diff := cmp.Diff(state.Bridge{Bridge: "a", OrganizationID: 7}, b); err != nil || diff != "" {
			t.Errorf("%v %s", err, diff)
		}
	}
	for name, knows := range map[string]struct {
		statement string
		known     state.Knowledge
	}{
		"a participant": {`INSERT INTO participants (bridge, participant, person, email, institution_id, event_access_code, event_title, first_name, last_name,
			name_badge_link, recording_link, recording_id, recording_date, content) VALUES ($1, 'p', 'p', '', '', '', '', '', '', '', '', '', '', 'c')`, state.KnowsPeople},
		"a window":          {`INSERT INTO cursors (bridge, stream, since, until) VALUES ($1, 'participants', now(), now())`, state.KnowsPeople},
		"an empty account":  {`UPDATE bridges SET collected_at = now() WHERE bridge = $1`, state.KnowsPeople},
		"a user":            {`INSERT INTO directory_users (bridge, user_id, username, email, external_id, sweep) VALUES ($1, 1, '', '', '', 1)`, state.KnowsOrganization},
		"an empty list":     {`UPDATE bridges SET directory_sweep = 1 WHERE bridge = $1`, state.KnowsOrganization},
		"a write":           {`INSERT INTO journal (bridge, run, user_id, fence, action, state) VALUES ($1, gen_random_uuid(), 1, 1, 'write', 'sending')`, state.KnowsOrganization},
		"a process at work": {`INSERT INTO workers (bridge, owner, host, heartbeat_at) VALUES ($1, gen_random_uuid(), '', now())`, state.KnowsNothing},
	} {
		get[state.Bridge](t)(state.EnsureBridge(t.Context(), db, name, 7))
		exec(t, db, knows.statement, name)
		b, err := state.EnsureBridge(t.Context(), db, name, 8)
		var other *state.OtherOrganizationError
		if !errors.As(err, &other) || *other != (state.OtherOrganizationError{Bridge: name, Stored: 7, Requested: 8, Known: knows.known}) || b.OrganizationID != 7 {
			t.Errorf("%s, pointed at another organization: %v, %+v", name, err, b)
		}
	}
}

// A mistyped number must not take the database for good.
func TestANumberOfWhichNothingCameIsReplaced(t *testing.T) {
	t.Parallel()
	db := fresh(t, "b")
	get[state.Bridge](t)(state.EnsureBridge(t.Context(), db, "a", 7))
	exec(t, db, `INSERT INTO runs (bridge, run, kind, status, ended_at) VALUES ('a', gen_random_uuid(), 'backfill', 'failed', now())`)
	silence(t, db, live(t, db, "a"), 60)
	live(t, db, "b")
	for range 2 {
		b := get[state.Bridge](t)(state.EnsureBridge(t.Context(), db, "a", 8))
		if stored := get[state.Bridge](t)(state.GetBridge(t.Context(), db, "a")); b.OrganizationID != 8 || stored.OrganizationID != 8 {
			t.Errorf("given %d, stored %d", b.OrganizationID, stored.OrganizationID)
		}
	}
	if b := get[state.Bridge](t)(state.GetBridge(t.Context(), db, "b")); b.OrganizationID != 1 {
		t.Errorf("the other bridge has %d", b.OrganizationID)
	}
}

func TestABridgeIsFoundByItsOrganizationOnceItKnowsSomething(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a", "b")
	of := func(organization int64, names ...string) string {
		return get[string](t)(state.BridgeOf(t.Context(), db, organization, names))
	}
	if got := of(1, "acme"); got != "" {
		t.Errorf("a number that was only tried is %s's", got)
	}
	exec(t, db, `INSERT INTO directory_users (bridge, user_id, username, email, external_id, sweep) VALUES ('a', 1, '', '', '', 1)`)
	for _, test := range []struct {
		organization int64
		names        []string
		want         string
	}{{1, []string{"acme"}, "a"}, {1, []string{"acme", "a"}, ""}, {2, []string{"acme"}, ""}} {
		if got := of(test.organization, test.names...); got != test.want {
			t.Errorf("organization %d beside %v: %q, want %q", test.organization, test.names, got, test.want)
		}
	}
}

func TestAHaltStandsUntilItIsLiftedAndIsKept(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	first, second := uuid.New(), uuid.New()
	if err := state.Resume(t.Context(), db, "a", "why"); !errors.Is(err, state.ErrNotFound) {
		t.Errorf("resumed without a halt: %v", err)
	}
	must(t, state.Halt(t.Context(), db, "a", "first reason", first))
	halted := get[state.Bridge](t)(state.GetBridge(t.Context(), db, "a"))
	must(t, state.Halt(t.Context(), db, "a", "second reason", second))
	b := get[state.Bridge](t)(state.GetBridge(t.Context(), db, "a"))
	if diff := cmp.Diff(halted, b); diff != "" || *b.HaltReason != "first reason" || *b.HaltRun != first || time.Since(*b.HaltedAt).Abs() > time.Minute {
		t.Errorf("a second halt moved the first: %s", diff)
	}
	must(t, state.Resume(t.Context(), db, "a", "looked into"))
	b = get[state.Bridge](t)(state.GetBridge(t.Context(), db, "a"))
	if b.HaltedAt != nil || b.HaltReason != nil || b.HaltRun != nil {
		t.Errorf("still halted: %+v", b)
	}
	must(t, state.Halt(t.Context(), db, "a", "third reason", second))
	must(t, state.Resume(t.Context(), db, "a", "again"))
	history := value[string](t, db, `SELECT string_agg(concat_ws('|', reason, run, resumed_reason, halted_at <= resumed_at), ';' ORDER BY halted_at) FROM halts WHERE bridge = 'a'`)
	if want := "first reason|" + first.String() + "|looked into|t;third reason|" + second.String() + "|again|t"; history != want {
		t.Errorf("kept is %s, want %s", history, want)
	}
}

// What a reason quotes may hold what Postgres refuses; a halt must not fail for it.
func TestAHaltIsStoredWhateverItsReasonQuotes(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	must(t, state.Halt(t.Context(), db, "a", "lost: \"a\x00b\", \"\xed\xa0\x80\", é", uuid.New()))
	b := get[state.Bridge](t)(state.GetBridge(t.Context(), db, "a"))
	if want := "lost: \"a\ufffdb\", \"\ufffd\", é"; *b.HaltReason != want {
		t.Errorf("got %+q, want %+q", *b.HaltReason, want)
	}
	must(t, state.Resume(t.Context(), db, "a", "why\x00\xff"))
}

func TestWhetherRowsCarryTheFragmentIsUnknownUntilSeen(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	for _, carry := range []bool{true, false} {
		must(t, state.SetRowsCarryFragment(t.Context(), db, "a", carry))
		if b := get[state.Bridge](t)(state.GetBridge(t.Context(), db, "a")); b.RowsCarryFragment == nil || *b.RowsCarryFragment != carry {
			t.Errorf("want %t, got %v", carry, b.RowsCarryFragment)
		}
	}
}

// The first layout is just noted; another one forgets what is known of the former, of this bridge alone.
func TestAnotherLayoutForgetsWhatWasKnownOfTheFormer(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a", "b")
	note := func(bridge, layout string) error {
		return state.InTx(t.Context(), db, func(tx pgx.Tx) error { return state.NoteLayout(t.Context(), tx, bridge, layout[:5], layout) })
	}
	for _, bridge := range []string{"a", "b"} {
		must(t, state.SetRowsCarryFragment(t.Context(), db, bridge, true))
		exec(t, db, `INSERT INTO directory_users (bridge, user_id, username, email, external_id, sweep, listed_fragment, applied_digest, applied_source, wanted_version,
				applied_version, applied_recording)
			VALUES ($1, 1, '', '', '', 1, 'f', 'f', 's', 1, 1, true), ($1, 2, '', '', '', 1, NULL, NULL, NULL, 0, 0, false)`, bridge)
		must(t, note(bridge, "first"))
	}
	known := func(bridge string) string {
		return value[string](t, db, `SELECT concat_ws('|', layout, rows_carry_fragment, (SELECT string_agg(concat_ws(',', user_id, listed_fragment, applied_digest,
			applied_source, applied_recording, decide_due), ';' ORDER BY user_id) FROM directory_users d WHERE d.bridge = b.bridge)) FROM bridges b WHERE bridge = $1`, bridge)
	}
	const before = `first|t|1,\x66,\x66,\x73,t,f;2,f,f`
	must(t, note("a", "first"))
	if got := known("a"); got != before {
		t.Errorf("the same again: %s", got)
	}
	owner := live(t, db, "a")
	silence(t, db, live(t, db, "a"), 60)
	live(t, db, "b")
	var unsettled *state.UnsettledError
	if err := note("a", "second"); !errors.As(err, &unsettled) || unsettled.Alive != 1 || known("a") != before {
		t.Errorf("under a live process: %v, %s", err, known("a"))
	}
	must(t, state.Leave(t.Context(), db, "a", owner))
	must(t, note("a", "first and more"))
	if got := known("a"); got != `first and more|t|1,\x66,\x66,\x73,t,t;2,f,f` {
		t.Errorf("other fields in the same place: %s", got)
	}
	must(t, note("a", "second"))
	if got := known("a"); got != `second|1,f,t;2,f,f` {
		t.Errorf("another: %s", got)
	}
	if got := known("b"); got != before {
		t.Errorf("the other bridge: %s", got)
	}
}

func TestWhatIsUnsettledIsCountedInWords(t *testing.T) {
	t.Parallel()
	for want, e := range map[string]state.UnsettledError{
		"under the former 1 process still runs: let what runs end":                                                 {Alive: 1},
		"under the former the outcome of 1 write is not known: run it once more with the former settings":          {Open: 1},
		"2 processes still run, and the outcome of 3 writes is not known: let what runs end, and run it once more": {Alive: 2, Open: 3},
	} {
		if got := e.Error(); !strings.Contains(got, want) {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
}
