package state_test

import (
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"namebridge/state"
)

func take(t testing.TB, db *pgxpool.Pool, kind state.Kind, since *time.Time, owner uuid.UUID, resume bool) (run state.Run, err error) {
	t.Helper()
	err = state.InTx(t.Context(), db, func(tx pgx.Tx) (err error) {
		run, err = state.TakeRun(t.Context(), tx, "a", kind, since, owner, resume)
		return err
	})
	return run, err
}

func TestARunBelongsToOneLiveProcess(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	first, second := live(t, db, "a"), live(t, db, "a")
	since := time.Date(2024, 1, 1, 0, 0, 0, 0, time.FixedZone("", 3600))
	run := get[state.Run](t)(take(t, db, state.Backfill, &since, first, true))
	if run.Kind != state.Backfill || run.Status != state.Running || !run.Since.Equal(since) || *run.Owner != first || !run.Live || run.EndedAt != nil {
		t.Errorf("begun as %+v", run)
	}
	for _, resume := range []bool{true, false} {
		if other, err := take(t, db, state.Backfill, &since, second, resume); !errors.Is(err, state.ErrStale) || other.Run != run.Run {
			t.Errorf("taken from a live process: %v", err)
		}
	}
	if other := get[state.Run](t)(take(t, db, state.Collect, nil, second, true)); other.Run == run.Run {
		t.Error("another kind is the same run")
	}
	silence(t, db, first, state.Lease+1)
	if r := get[state.Run](t)(state.GetRun(t.Context(), db, "a", run.Run)); r.Live || r.Status != state.Running {
		t.Errorf("interrupted, it is %+v", r)
	}
	if again := get[state.Run](t)(take(t, db, state.Backfill, &since, second, true)); again.Run != run.Run || *again.Owner != second {
		t.Errorf("interrupted, it goes on as %+v", again)
	}
	must(t, state.ReleaseRun(t.Context(), db, "a", run.Run, second))
	must(t, state.Heartbeat(t.Context(), db, "a", first))
	if again := get[state.Run](t)(take(t, db, state.Backfill, &since, first, true)); again.Run != run.Run {
		t.Errorf("given back, it goes on as %+v", again)
	}
	if err := state.EndRun(t.Context(), db, "a", run.Run, second, state.Done, nil, ""); !errors.Is(err, state.ErrStale) {
		t.Errorf("ended by a process that it was taken from: %v", err)
	}
	must(t, state.EndRun(t.Context(), db, "a", run.Run, first, state.Done, map[string]int{"written": 3}, "text\x00"))
	ended := get[state.Run](t)(state.GetRun(t.Context(), db, "a", run.Run))
	if ended.Status != state.Done || ended.EndedAt == nil || ended.Live || ended.Owner != nil || string(ended.Counts) != `{"written": 3}` || *ended.Error != "text\ufffd" {
		t.Errorf("ended as %+v", ended)
	}
	if next := get[state.Run](t)(take(t, db, state.Backfill, &since, first, true)); next.Run == run.Run {
		t.Error("a run that is done goes on")
	}
	if err := state.EndRun(t.Context(), db, "a", uuid.New(), first, state.Done, nil, ""); !errors.Is(err, state.ErrStale) {
		t.Errorf("ended what is not there: %v", err)
	}
	if _, err := state.GetRun(t.Context(), db, "a", uuid.New()); !errors.Is(err, state.ErrNotFound) {
		t.Errorf("read what is not there: %v", err)
	}
}

func TestOfProcessesThatStartAtOnceOneHasTheRun(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	var taken atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		owner := live(t, db, "a")
		all.Go(func() {
			_, err := take(t, db, state.Sweep, nil, owner, true)
			switch {
			case err == nil:
				taken.Add(1)
			case !errors.Is(err, state.ErrStale):
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := value[int](t, db, `SELECT count(*) FROM runs`); taken.Load() != 1 || n != 1 {
		t.Errorf("%d have it, there are %d runs", taken.Load(), n)
	}
}

func TestTheLastRunOfEachKindIsTold(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	owner := live(t, db, "a")
	var last []uuid.UUID
	for _, kind := range []state.Kind{state.Collect, state.Sweep, state.Collect} {
		run := get[state.Run](t)(take(t, db, kind, nil, owner, false))
		must(t, state.EndRun(t.Context(), db, "a", run.Run, owner, state.Quarantined, nil, ""))
		last = append(last, run.Run)
	}
	var got []uuid.UUID
	for _, r := range get[[]state.Run](t)(state.LastRuns(t.Context(), db, "a")) {
		got = append(got, r.Run)
	}
	if diff := cmp.Diff([]uuid.UUID{last[2], last[1]}, got); diff != "" {
		t.Errorf("(-want +got): %s", diff)
	}
}

func TestARunIsQuarantinedWhileWhatItStagedIsPending(t *testing.T) {
	t.Parallel()
	db := directory(t, 2)
	owner := live(t, db, "a")
	want(t, db, "a", "clear", 1)
	run := get[state.Run](t)(take(t, db, state.Sweep, nil, owner, false))
	must(t, state.StageClears(t.Context(), db, "a", run.Run))
	must(t, state.EndRun(t.Context(), db, "a", run.Run, owner, state.Quarantined, nil, ""))
	quarantined := func() []string {
		return get[state.Totals](t)(state.CountTotals(t.Context(), db, "a")).Quarantined
	}
	if diff := cmp.Diff([]string{run.Run.String()}, quarantined()); diff != "" {
		t.Errorf("while it is pending (-want +got): %s", diff)
	}
	exec(t, db, `UPDATE directory_users SET applied_version = wanted_version`)
	if diff := cmp.Diff([]string{}, quarantined()); diff != "" {
		t.Errorf("afterwards (-want +got): %s", diff)
	}
}

func TestAPlanIsKeptWithItsRun(t *testing.T) {
	t.Parallel()
	db := directory(t, 4)
	run := get[state.Run](t)(take(t, db, state.Plan, nil, live(t, db, "a"), false))
	steps := []state.PlanStep{{UserID: 1, Action: "write", Wanted: json.RawMessage(`{"a":"é\\ \" <"}`), Digest: []byte{0}}, {UserID: 2, Action: "clear"}}
	for range 2 {
		must(t, state.StorePlanSteps(t.Context(), db, "a", run.Run, steps))
	}
	want(t, db, "a", "clear", 2, 3, 4)
	want(t, db, "a", "write", 1)
	must(t, state.MarkGone(t.Context(), db, "a", 4))
	for range 2 {
		must(t, state.StageClears(t.Context(), db, "a", run.Run))
	}
	if got := value[string](t, db, `SELECT string_agg(concat_ws('|', user_id, action, wanted->>'a', encode(digest, 'hex')), ';' ORDER BY user_id) FROM plan_steps`); got != `1|write|é\ " <|00;2|clear;3|clear` {
		t.Errorf("kept: %s", got)
	}
	if err := state.StorePlanSteps(t.Context(), db, "a", uuid.New(), steps); err == nil {
		t.Error("a plan without a run was kept")
	}
}

func TestTotalsCountWhoIsPresent(t *testing.T) {
	t.Parallel()
	db := directory(t, 6)
	store(t, db, "a", participant("a@x", "E"), participant("a@x", "F"), participant("b@x", "E"), participant("c@x", "E"))
	must(t, state.StoreDecisions(t.Context(), db, "a", []state.Decided{{Person: "email:a@x", UserID: 1, Rule: "email"}, {Person: "email:b@x", UserID: 1, Rule: "email"}, {Person: "email:c@x", UserID: 6, Rule: "hand"}}))
	exec(t, db, `INSERT INTO links (bridge, person, user_id, rule) VALUES ('a', 'email:c@x', 6, 'hand'), ('a', 'email:d@x', 2, 'email')`)
	want(t, db, "a", "write", 1, 2, 3, 6)
	must(t, state.MarkGone(t.Context(), db, "a", 6))
	_, by := claim(t, db, live(t, db, "a"), 10, true)
	run := uuid.New()
	var intents []*state.Intent
	for _, u := range []int64{1, 2} {
		intents = append(intents, &state.Intent{Run: run, UserID: u, Fence: by[u].Fence, Action: "write", Version: by[u].Version, Before: []byte(`{}`)})
	}
	must(t, state.Journal(t.Context(), db, "a", intents))
	must(t, state.Settle(t.Context(), db, "a", []state.Outcome{{UserID: 1, Fence: by[1].Fence, Entry: intents[0].Entry, State: state.Verified, Applied: true, Version: 1, Digest: []byte("wanted")}}))
	must(t, state.CloseEntry(t.Context(), db, "a", intents[1].Entry, state.Unsent, ""))
	must(t, state.Fail(t.Context(), db, "a", []state.Failure{{UserID: 2, Fence: by[2].Fence, Problem: "x"}}))
	must(t, state.StoreHolds(t.Context(), db, "a", state.HeldUser, []state.Hold{{Subject: "4", Reason: "refused"}, {Subject: "5", Reason: "refused"}}, nil))
	must(t, state.StoreHolds(t.Context(), db, "a", state.HeldPerson, []state.Hold{{Subject: "email:x", Reason: "conflict"}}, nil))
	got := get[state.Totals](t)(state.CountTotals(t.Context(), db, "a"))
	wanted := state.Totals{Participants: 4, Users: 5, Linked: 2, Synced: 1, Pending: 2, Failed: 1, Held: map[string]int{"refused": 2, "conflict": 1}, Quarantined: []string{}}
	if diff := cmp.Diff(wanted, got); diff != "" {
		t.Errorf("(-want +got): %s", diff)
	}
	written, cleared, err := state.CountWrites(t.Context(), db, "a", run)
	if written != 1 || cleared != 0 || err != nil {
		t.Errorf("%d written, %d cleared, %v", written, cleared, err)
	}
	if slices.Contains(got.Quarantined, run.String()) {
		t.Error("a run that is no run is quarantined")
	}
}
