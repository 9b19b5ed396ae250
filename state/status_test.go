package state_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"namebridge/state"
)

// What somebody has set aside is nobody's to look at any more.
func TestHoldsThatAreSetAsideAreNotCounted(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	must(t, state.StoreHolds(t.Context(), db, "a", state.HeldPerson, []state.Hold{{Subject: "email:x@x", Reason: "unmatched"}, {Subject: "email:y@x", Reason: "unmatched"}}, nil))
	must(t, state.IgnoreHold(t.Context(), db, "a", state.ListedHold{Kind: state.HeldPerson, Subject: "email:x@x", Reason: "unmatched"}, "a guest"))
	held := get[state.Totals](t)(state.CountTotals(t.Context(), db, "a")).Held
	if diff := cmp.Diff(map[string]int{"unmatched": 1}, held); diff != "" {
		t.Error(diff)
	}
}

// A run waits for a person as long as anything that it has staged is what is wanted.
func TestARunIsQuarantinedWhileWhatItHasStagedIsStillWanted(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		then    string
		waiting bool
	}{
		"as it was staged":                   {"SELECT", true},
		"one of two is wanted otherwise":     {`UPDATE directory_users SET wanted_version = 2 WHERE user_id = 1`, true},
		"both are wanted otherwise":          {`UPDATE directory_users SET wanted_version = 2`, false},
		"both are made":                      {`UPDATE directory_users SET applied_version = 1`, false},
		"both have left":                     {`UPDATE directory_users SET gone_at = now()`, false},
		"a recording is removed, not a user": {`UPDATE directory_users SET action = 'write'`, true},
		"somebody has approved it":           {`UPDATE runs SET status = 'running'`, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := fresh(t, "a")
			exec(t, db, `WITH r AS (INSERT INTO runs (bridge, run, kind, status) VALUES ('a', gen_random_uuid(), 'sweep', 'quarantined') RETURNING run)
				INSERT INTO plan_steps (bridge, run, user_id, action, version) SELECT 'a', run, n, 'clear', 1 FROM r, generate_series(1, 2) n`)
			exec(t, db, `INSERT INTO directory_users (bridge, user_id, username, email, external_id, sweep, action, wanted_version, removes)
				SELECT 'a', n, '', '', '', 1, 'clear', 1, true FROM generate_series(1, 2) n`)
			exec(t, db, c.then)
			if n := len(get[state.Totals](t)(state.CountTotals(t.Context(), db, "a")).Quarantined); n > 0 != c.waiting {
				t.Errorf("%d runs wait", n)
			}
		})
	}
}

func TestReplicasAreTheLiveProcessesDaemonsFirst(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	helper, daemon, dead := live(t, db, "a"), live(t, db, "a"), live(t, db, "a")
	must(t, state.NoteServing(t.Context(), db, "a", daemon))
	silence(t, db, dead, state.Lease+1)
	var got []state.Replica
	undone(t, db, func(tx pgx.Tx) { // in which no time passes
		get[state.Company](t)(state.Heartbeat(t.Context(), tx, "a", daemon)) // it stays one
		got = get[[]state.Replica](t)(state.Replicas(t.Context(), tx, "a"))
	})
	if len(got) != 2 || got[0].Owner != daemon || !got[0].Serves || got[1].Owner != helper || got[1].Serves {
		t.Errorf("%+v", got)
	}
	for _, r := range got {
		if r.Host == "" || r.Since.IsZero() || r.Since.After(r.HeartbeatAt) {
			t.Errorf("%+v", r)
		}
	}
}

// Whoever resumes does not wait for what comes by itself in a minute.
func TestResumingMakesHousekeepingDue(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a", "b")
	for _, bridge := range []string{"a", "b"} {
		for _, kind := range []state.Kind{state.Housekeeping, state.Sweep} {
			must(t, state.NoteSchedule(t.Context(), db, bridge, state.Schedule{Kind: kind, DueAt: time.Now().Add(time.Hour)}))
		}
	}
	if err := state.Resume(t.Context(), db, "a", "not halted"); err == nil {
		t.Error("what is not halted was resumed")
	}
	if n := value[int](t, db, `SELECT count(*) FROM schedules WHERE due_at <= now()`); n != 0 {
		t.Errorf("%d are due", n)
	}
	must(t, state.Halt(t.Context(), db, "a", "damage", uuid.New()))
	must(t, state.Resume(t.Context(), db, "a", "seen to"))
	if due := value[string](t, db, `SELECT string_agg(bridge || ' ' || kind, ', ') FROM schedules WHERE due_at <= now()`); due != "a housekeeping" {
		t.Errorf("due are: %s", due)
	}
}
