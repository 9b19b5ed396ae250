package state_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"

	"namebridge/state"
)

// ran makes a run that began minutes ago.
func ran(t testing.TB, db state.Querier, id, kind, status string, minutes int) uuid.UUID {
	t.Helper()
	run := uuid.MustParse(id)
	exec(t, db, `INSERT INTO runs (bridge, run, kind, status, started_at) VALUES ('a', $1, $2, $3, now() - make_interval(mins => $4))`, run, kind, status, minutes)
	return run
}

func TestRunsAreListedNewestFirst(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	oldest := ran(t, db, "10000000-0000-4000-8000-000000000000", "sweep", "done", 30)
	middle := ran(t, db, "20000000-0000-4000-8000-000000000000", "collect", "failed", 20)
	newest := ran(t, db, "00000000-0000-4000-8000-000000000000", "sweep", "running", 10)
	for _, c := range []struct {
		kind  state.Kind
		limit int
		want  []uuid.UUID
	}{
		{"", 0, []uuid.UUID{newest, middle, oldest}},
		{"", 2, []uuid.UUID{newest, middle}},
		{"sweep", 0, []uuid.UUID{newest, oldest}},
		{"sweep", 1, []uuid.UUID{newest}},
		{"plan", 0, nil},
	} {
		var got []uuid.UUID
		for _, r := range drain(t, state.Runs(t.Context(), db, "a", c.kind, c.limit)) {
			got = append(got, r.Run)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%d of kind %q: %v, want %v", c.limit, c.kind, got, c.want)
		}
	}
}

func TestARunThatWasGoneOnWithIsAsNewAsThat(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	old := ran(t, db, "10000000-0000-4000-8000-000000000000", "backfill", "failed", 30)
	newer := ran(t, db, "20000000-0000-4000-8000-000000000000", "collect", "done", 20)
	exec(t, db, `UPDATE runs SET resumed_at = now() - interval '1 minute' WHERE run = $1`, old)
	for i, r := range drain(t, state.Runs(t.Context(), db, "a", "", 0)) {
		if want := []uuid.UUID{old, newer}[i]; r.Run != want {
			t.Errorf("run %d is %v, want %v", i, r.Run, want)
		}
	}
}

func TestARunIsFoundByHowItsIDBegins(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	one := ran(t, db, "7f3a1b2c-dead-4000-8000-0000000000ff", "sweep", "done", 1)
	two := ran(t, db, "7f3a1b2d-0000-4000-8000-000000000000", "sweep", "done", 2)
	last := ran(t, db, "ffffffff-ffff-4fff-bfff-ffffffffffff", "sweep", "done", 3)
	for prefix, want := range map[string][]uuid.UUID{
		"7f3a":                                  {one, two},
		"7f3a1b2":                               {one, two},
		"7F3A1B2C":                              {one},
		"7f3a1b2c-":                             {one},
		"7f3a1b2c-dead":                         {one},
		"7f3a1b2cdead4":                         {one},
		"7f3a1b2c-dead-4000-8000-0000000000ff":  {one},
		"7f3a1b2c-dead-4000-8000-0000000000fe":  nil,
		"7f3a1b2cdead400080000000000000ff":      {one},
		"7f3b":                                  nil,
		"ffff":                                  {last},
		"7f3":                                   nil, // too short to mean one
		"":                                      nil,
		"7f3g":                                  nil,
		"7f-3a1b2c":                             nil,
		"7f3a1b2cdead-4":                        nil,
		"7f3a1b2c-dead-4000-8000-0000000000ff0": nil,
		"%%%%":                                  nil,
		"7f3a' OR true --":                      nil,
	} {
		var got []uuid.UUID
		for _, r := range get[[]state.Run](t)(state.FindRuns(t.Context(), db, "a", prefix, 5)) {
			got = append(got, r.Run)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", prefix, got, want)
		}
		if !state.RunPrefix(prefix) && want != nil {
			t.Errorf("%q is refused", prefix)
		}
	}
	if runs := get[[]state.Run](t)(state.FindRuns(t.Context(), db, "a", "7f3a", 1)); len(runs) != 1 {
		t.Errorf("%d runs, want no more than asked for", len(runs))
	}
}

func FuzzRunPrefix(f *testing.F) {
	for _, s := range []string{"", "7f3a", "7f3a1b2c-dead-4000-8000-0000000000ff", "----", "7f3a1b2c-", "é7f3a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		// Whatever a whole id begins with is a prefix from 4 digits on, and nothing else is.
		full := "7f3a1b2c-dead-4000-8000-0000000000ff"
		if len(s) >= state.MinRunPrefix && len(s) <= len(full) && full[:len(s)] == s && !state.RunPrefix(s) {
			t.Errorf("%q is refused", s)
		}
		if state.RunPrefix(s) && (len(s) < state.MinRunPrefix || len(s) > len(full)) {
			t.Errorf("%q is accepted", s)
		}
	})
}

func TestStepsSayWhatIsStillWanted(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	run := ran(t, db, "7f3a1b2c-dead-4000-8000-0000000000ff", "plan", "done", 1)
	listed(t, db, user(1, "a@x", ""), user(2, "b@x", ""), user(3, "c@x", ""), user(4, "d@x", ""), user(5, "e@x", ""))
	exec(t, db, `UPDATE directory_users SET wanted_version = 2, action = 'write'`)
	exec(t, db, `INSERT INTO plan_steps (bridge, run, user_id, action, wanted, version)
		SELECT 'a', $1, n, CASE n WHEN 5 THEN 'clear' ELSE 'write' END, CASE WHEN n < 5 THEN '{"recording_id": "1"}'::jsonb END, 2 FROM generate_series(1, 6) n`, run)
	exec(t, db, `UPDATE directory_users SET applied_version = 2 WHERE user_id = 2`) // somebody has done it
	exec(t, db, `UPDATE directory_users SET wanted_version = 3 WHERE user_id = 3`)  // something else is wanted
	exec(t, db, `UPDATE directory_users SET gone_at = now() WHERE user_id = 4`)     // the user has left; 6 was never known
	exec(t, db, `UPDATE directory_users SET username = 'the first' WHERE user_id = 1`)

	staged := get[state.Staged](t)(state.CountSteps(t.Context(), db, "a", run))
	if diff := cmp.Diff(state.Staged{Writes: 5, Clears: 1, Moved: 4}, staged); diff != "" {
		t.Error(diff)
	}
	steps := drain(t, state.RunSteps(t.Context(), db, "a", run, 0))
	var moved []int64
	for i, s := range steps {
		if s.UserID != int64(i+1) || s.Action == "clear" != (s.UserID == 5) || s.Action == "write" && s.UserID < 5 != (s.Wanted != nil) {
			t.Errorf("step %d: %+v", i, s)
		}
		if (s.Username == "the first") != (s.UserID == 1) || s.UserID == 6 && s.Username != "" {
			t.Errorf("step %d is of %q", i, s.Username)
		}
		if s.Moved {
			moved = append(moved, s.UserID)
		}
	}
	if len(steps) != 6 || !slices.Equal(moved, []int64{2, 3, 4, 6}) {
		t.Errorf("%d steps; moved on are %v", len(steps), moved)
	}
	if n := len(drain(t, state.RunSteps(t.Context(), db, "a", run, 2))); n != 2 {
		t.Errorf("%d steps, want 2", n)
	}
	exec(t, db, `UPDATE runs SET approved_at = now(), approved_reason = 'looked at'`)
	if s := get[state.Staged](t)(state.CountSteps(t.Context(), db, "a", run)); s.ApprovedAt == nil || s.ApprovedReason != "looked at" {
		t.Errorf("%+v", s)
	}
	other := ran(t, db, "00000000-0000-4000-8000-000000000000", "sweep", "done", 1)
	if diff := cmp.Diff(state.Staged{}, get[state.Staged](t)(state.CountSteps(t.Context(), db, "a", other))); diff != "" {
		t.Errorf("a run without steps: %s", diff)
	}
	if _, err := state.CountSteps(t.Context(), db, "a", uuid.New()); !errors.Is(err, state.ErrNotFound) {
		t.Errorf("no such run: %v", err)
	}
}

// Whoever approves a step must know what its user would lose, and is promised no less than that.
func TestStepsSayWhatTheirUserLoses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ action, set, lost string }{
		"a clear of badge and recording":           {"clear", `applied_digest = 'd', applied_recording = true, removes = true`, state.LostAll},
		"a clear of a badge alone":                 {"clear", `applied_digest = 'd', removes = true`, state.LostBadge},
		"a clear of what was never read":           {"clear", `removes = true`, state.LostAll},
		"a write that takes the recording":         {"write", `applied_digest = 'd', applied_recording = true, removes = true`, state.LostRecording},
		"a write that takes nothing":               {"write", `applied_digest = 'd', applied_recording = true`, ""},
		"a clear that is done":                     {"clear", `applied_version = 2`, ""},
		"a clear of somebody who has another wish": {"clear", `applied_digest = 'd', applied_recording = true, removes = true, wanted_version = 3`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := fresh(t, "a")
			run := ran(t, db, "7f3a1b2c-dead-4000-8000-0000000000ff", "census", "quarantined", 1)
			listed(t, db, user(1, "a@x", ""))
			exec(t, db, `UPDATE directory_users SET wanted_version = 2, action = $1`, c.action)
			exec(t, db, `UPDATE directory_users SET `+c.set)
			exec(t, db, `INSERT INTO plan_steps (bridge, run, user_id, action, version) VALUES ('a', $1, 1, $2, 2)`, run, c.action)
			if steps := drain(t, state.RunSteps(t.Context(), db, "a", run, 0)); len(steps) != 1 || steps[0].Lost != c.lost {
				t.Errorf("%+v, want %q", steps, c.lost)
			}
		})
	}
}

func TestWritesOfARunAreReadInTheOrderTheyWereMade(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	run := ran(t, db, "7f3a1b2c-dead-4000-8000-0000000000ff", "sweep", "done", 1)
	add := func(run uuid.UUID, user int64, action, state string) {
		exec(t, db, `INSERT INTO journal (bridge, run, user_id, fence, action, state, before, before_fragment, after_fragment, note, settled_at)
			VALUES ('a', $1, $2, 1, $3, $4, '{"workPhone": "foreign"}', '{"namecoach": null}', '{"namecoach": {}}', CASE $4 WHEN 'damaged' THEN 'workPhone' END, CASE WHEN $4 <> 'sending' THEN now() END)`,
			run, user, action, state)
	}
	add(run, 9, "write", "verified")
	add(run, 3, "clear", "damaged")
	add(uuid.New(), 4, "write", "verified")
	add(run, 3, "write", "sending")
	before, after := []byte(`{"namecoach": null}`), []byte(`{"namecoach": {}}`)
	want := []state.RunWrite{
		{UserID: 9, Action: "write", State: "verified", BeforeFragment: before, AfterFragment: after},
		{UserID: 3, Action: "clear", State: "damaged", Note: "workPhone", BeforeFragment: before, AfterFragment: after},
		{UserID: 3, Action: "write", State: "sending", BeforeFragment: before, AfterFragment: after},
	}
	got := drain(t, state.RunWrites(t.Context(), db, "a", run, 0))
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(state.RunWrite{}, "Entry", "CreatedAt", "SettledAt")); diff != "" {
		t.Error(diff)
	}
	if got[0].SettledAt == nil || got[2].SettledAt != nil || time.Since(got[0].CreatedAt) > time.Minute {
		t.Errorf("%+v", got)
	}
	if got := drain(t, state.RunWrites(t.Context(), db, "a", run, 1)); len(got) != 1 || got[0].UserID != 9 {
		t.Errorf("the first is %+v", got)
	}
	if diff := cmp.Diff(map[string]int{"verified": 1, "damaged": 1, "sending": 1}, get[map[string]int](t)(state.CountRunWrites(t.Context(), db, "a", run))); diff != "" {
		t.Error(diff)
	}
}

// Who waits is named with the run that keeps them, until somebody has let them through, by whatever way, or wants something else of them.
func TestWhatWaitsIsKeptByTheRunsThatHaveStagedIt(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	first := ran(t, db, "7f3a1b2c-dead-4000-8000-0000000000ff", "census", "quarantined", 30)
	second := ran(t, db, "00000000-0000-4000-8000-000000000000", "sweep", "quarantined", 20)
	ran(t, db, "10000000-0000-4000-8000-000000000000", "sweep", "quarantined", 10) // only because they wait
	plan := ran(t, db, "20000000-0000-4000-8000-000000000000", "plan", "done", 5)
	listed(t, db, user(1, "a@x", ""), user(2, "b@x", ""), user(3, "c@x", ""), user(4, "d@x", ""))
	exec(t, db, `UPDATE directory_users SET wanted_version = 2, action = 'clear', removes = true`)
	for _, s := range []struct {
		run   uuid.UUID
		users []int64
	}{{first, []int64{1, 2}}, {second, []int64{3}}, {plan, []int64{1, 2, 3, 4}}} {
		exec(t, db, `INSERT INTO plan_steps (bridge, run, user_id, action, version) SELECT 'a', $1, u, 'clear', 2 FROM unnest($2::bigint[]) u`, s.run, s.users)
	}
	check := func(what string, removals state.PlannedRemovals, want ...int) {
		t.Helper()
		var got []int
		for _, h := range get[[]state.Holding](t)(state.HoldingRuns(t.Context(), db, "a")) {
			got = append(got, h.Users)
			if h.Run != first && h.Run != second || h.Run == first != (h.Kind == state.Census) || h.StartedAt.IsZero() {
				t.Errorf("%s: kept by %+v", what, h)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: runs keep %v, want %v", what, got, want)
		}
		if n := get[state.PlannedRemovals](t)(state.CountPlannedRemovals(t.Context(), db, "a", plan)); n != removals {
			t.Errorf("%s: the plan takes away from %+v, want %+v", what, n, removals)
		}
	}
	check("staged", state.PlannedRemovals{Judged: 1, Kept: 3}, 2, 1)
	exec(t, db, `UPDATE directory_users SET wanted_version = 3, removes = false, action = 'write' WHERE user_id = 1`)
	check("one is back", state.PlannedRemovals{Judged: 1, Kept: 2}, 1, 1)
	exec(t, db, `UPDATE runs SET approved_at = now() WHERE run = $1`, second)
	exec(t, db, `UPDATE directory_users SET released_version = 2 WHERE user_id = 3`)
	check("one run is approved", state.PlannedRemovals{Judged: 1, Kept: 1}, 1)
	exec(t, db, `UPDATE directory_users SET released_version = 2 WHERE user_id IN (2, 4)`)
	check("all are let through by a plan", state.PlannedRemovals{})
}

func TestWhomAnApprovedRunHasNotWrittenIsNamed(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	run := ran(t, db, "7f3a1b2c-dead-4000-8000-0000000000ff", "plan", "done", 30)
	other := ran(t, db, "00000000-0000-4000-8000-000000000000", "sweep", "done", 20)
	exec(t, db, `INSERT INTO plan_steps (bridge, run, user_id, action) SELECT 'a', $1, n, 'clear' FROM generate_series(1, 4) n`, run)
	for user, by := range map[int64]uuid.UUID{1: run, 2: other, 3: run} {
		exec(t, db, `INSERT INTO journal (bridge, run, user_id, fence, action, state) VALUES ('a', $1, $2, 1, 'clear', CASE $2::bigint WHEN 3 THEN 'unsent' ELSE 'verified' END)`, by, user)
	}
	if left := get[[]int64](t)(state.LeftOut(t.Context(), db, "a", run)); !slices.Equal(left, []int64{2, 3, 4}) {
		t.Errorf("left out are %v", left)
	}
}
