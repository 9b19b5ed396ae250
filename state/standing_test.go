package state_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"namebridge/state"
)

// stood is how one bridge stands.
func stood(t *testing.T, db state.Querier, bridge string) state.Standing {
	t.Helper()
	return get[[]state.Standing](t)(state.Standings(t.Context(), db, []string{bridge}))[0]
}

func TestABridgeWithoutAPastStandsAtZeroAndItsLagIsNotKnown(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	got := get[[]state.Standing](t)(state.Standings(t.Context(), db, []string{"never heard of", "a"}))
	zero := func(bridge string) state.Standing {
		return state.Standing{
			Bridge: bridge, Held: map[string]int{}, Cursors: map[string]time.Time{}, LastSuccess: map[state.Kind]time.Time{}, Jobs: map[string]int{},
		}
	}
	if diff := cmp.Diff([]state.Standing{zero("never heard of"), zero("a")}, got); diff != "" {
		t.Error(diff)
	}
}

func TestTheLagIsFromTheCursorToTheDatabasesClockAndNeverNegative(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	exec(t, db, `INSERT INTO cursors (bridge, stream, since, until) VALUES ('a', gen_random_uuid()::text, now(), now() - interval '1 year')`)
	if s := stood(t, db, "a"); s.LagKnown || len(s.Cursors) != 0 {
		t.Errorf("the walk of a run counts as the cursor: %+v", s)
	}
	for ahead, want := range map[string]time.Duration{"-90 seconds": 90 * time.Second, "-40 days": 40 * 24 * time.Hour, "2 minutes": 0} {
		// In one transaction the clock of the database stands still.
		must(t, state.InTx(t.Context(), db, func(tx pgx.Tx) error {
			exec(t, tx, `INSERT INTO cursors (bridge, stream, since, until) VALUES ('a', 'participants', '2020-01-01', now() + $1::interval)
				ON CONFLICT (bridge, stream) DO UPDATE SET until = EXCLUDED.until`, ahead)
			until := value[time.Time](t, tx, `SELECT until FROM cursors WHERE stream = 'participants'`)
			s := stood(t, tx, "a")
			if !s.LagKnown || s.Lag != want || len(s.Cursors) != 1 || !s.Cursors[state.ParticipantStream].Equal(until) {
				t.Errorf("%s: lag %v (known %t), cursors %v; want %v, %v", ahead, s.Lag, s.LagKnown, s.Cursors, want, until)
			}
			return nil
		}))
	}
}

func TestTheLastSuccessIsTheNewestRunThatIsDone(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a", "b")
	run := func(bridge, kind, status string, startedAgo, endedAgo int) {
		exec(t, db, `INSERT INTO runs (bridge, run, kind, status, started_at, ended_at)
			VALUES ($1, gen_random_uuid(), $2, $3, '2026-01-01'::timestamptz - make_interval(mins => $4), '2026-01-01'::timestamptz - make_interval(mins => $5))`,
			bridge, kind, status, startedAgo, endedAgo)
	}
	run("a", "collect", "done", 30, 29)
	run("a", "collect", "done", 20, 19)
	run("a", "collect", "failed", 10, 9)
	run("a", "sweep", "quarantined", 10, 9)
	run("a", "backfill", "running", 10, 9)
	run("a", "census", "done", 500, 400)
	run("b", "collect", "done", 1, 0)
	end := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	got := map[state.Kind]string{}
	for kind, at := range stood(t, db, "a").LastSuccess {
		got[kind] = end.Sub(at).String()
	}
	if diff := cmp.Diff(map[state.Kind]string{"collect": "19m0s", "census": "6h40m0s"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestEveryKindOfRunIsLookedForAmongTheSuccesses(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	for _, kind := range state.Kinds {
		exec(t, db, `INSERT INTO runs (bridge, run, kind, status, ended_at) VALUES ('a', gen_random_uuid(), $1, 'done', now())`, kind)
	}
	if got := stood(t, db, "a").LastSuccess; len(got) != len(state.Kinds) || len(got) < 5 {
		t.Errorf("%d kinds of runs, and successes of %v", len(state.Kinds), got)
	}
}

func TestJobsAreCountedByTheQueuesOfTheirBridge(t *testing.T) {
	t.Parallel()
	db := fresh(t, "acme", "acme-two")
	for _, job := range []struct{ queue, state string }{
		{"acme", "available"},
		{"acme_now", "available"},
		{"acme_bulk", "running"},
		{"acme_plan", "retryable"},
		{"acme_bulk", "completed"},
		{"acme_bulk", "completed"},
		{"acme-two", "available"},
		{"acme-two_bulk", "discarded"},
		{"acme_other", "available"},
		{"default", "available"},
	} {
		exec(t, db, `INSERT INTO river_job (state, max_attempts, kind, queue, args, finalized_at) VALUES ($1::river_job_state, 25, 'sync_batch', $2, '{}',
			CASE WHEN $1 IN ('completed', 'discarded') THEN now() END)`, job.state, job.queue)
	}
	got := get[[]state.Standing](t)(state.Standings(t.Context(), db, []string{"acme", "acme-two"}))
	for i, want := range []map[string]int{
		{"available": 2, "running": 1, "retryable": 1, "completed": 2},
		{"available": 1, "discarded": 1},
	} {
		if diff := cmp.Diff(want, got[i].Jobs); diff != "" {
			t.Errorf("%s: %s", got[i].Bridge, diff)
		}
	}
}

// What is counted elsewhere is counted the same here, and each bridge has its own.
func TestAStandingSaysOfEachBridgeWhatItsTotalsSay(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a", "b")
	for i, bridge := range []string{"a", "b"} {
		for n := range 3 + i {
			exec(t, db, `INSERT INTO participants (bridge, participant, person, email, institution_id, event_access_code, event_title, first_name, last_name,
				name_badge_link, recording_link, recording_id, recording_date, content)
				VALUES ($1, $2::text::bytea, 'email:' || $2, $2, '', 'E', '', '', '', '', '', '', '', 'x')`, bridge, fmt.Sprint("p", n))
			exec(t, db, `INSERT INTO directory_users (bridge, user_id, username, email, external_id, sweep, action, wanted_version, applied_version, applied_digest)
				VALUES ($1, $2, 'u', $3, '', 1, 'write', 1, CASE WHEN $2::bigint > 0 THEN 1 ELSE 0 END, 'digest')`, bridge, n, fmt.Sprint("p", n))
			exec(t, db, `INSERT INTO links (bridge, person, user_id, rule) VALUES ($1, 'email:' || $3::text, $2, 'email')`, bridge, n, fmt.Sprint("p", n))
			exec(t, db, `INSERT INTO holds (bridge, kind, subject, reason, detail) VALUES ($1, 'person', $2, 'unmatched', '')`, bridge, fmt.Sprint("h", n))
		}
	}
	exec(t, db, `UPDATE bridges SET halted_at = now(), late_found = 12 WHERE bridge = 'b'`)
	exec(t, db, `INSERT INTO cursors (bridge, stream, since, until) VALUES ('b', 'participants', '2020-01-01', '2026-01-01')`)
	// A quarantined run of b whose clear still waits.
	exec(t, db, `UPDATE directory_users SET action = 'clear', removes = true, wanted_version = 2 WHERE bridge = 'b' AND user_id = 1`)
	exec(t, db, `WITH r AS (INSERT INTO runs (bridge, run, kind, status, ended_at) VALUES ('b', gen_random_uuid(), 'census', 'quarantined', now()) RETURNING bridge, run)
		INSERT INTO plan_steps (bridge, run, user_id, action, version) SELECT bridge, run, 1, 'clear', 2 FROM r`)

	for _, s := range get[[]state.Standing](t)(state.Standings(t.Context(), db, []string{"b", "a"})) {
		totals := get[state.Totals](t)(state.CountTotals(t.Context(), db, s.Bridge))
		got := state.Totals{
			Participants: s.Participants, Linked: s.Linked, Synced: s.Synced, Pending: s.Pending, Held: s.Held,
			Users: totals.Users, Failed: totals.Failed, Quarantined: totals.Quarantined,
		}
		if diff := cmp.Diff(totals, got); diff != "" || s.Quarantined != len(totals.Quarantined) {
			t.Errorf("%s: %d quarantined, %s", s.Bridge, s.Quarantined, diff)
		}
		wantUsers, halted := 3, false
		if s.Bridge == "b" {
			wantUsers, halted = 4, true
		}
		if s.Participants != wantUsers || s.Linked != wantUsers || s.Held["unmatched"] != wantUsers || s.Pending == 0 || s.Synced == 0 {
			t.Errorf("%+v", s)
		}
		if s.Halted != halted || (s.LateFound == 12) != halted || s.LagKnown != halted || (s.Quarantined == 1) != halted {
			t.Errorf("%s has the other's marks: %+v", s.Bridge, s)
		}
	}
}
