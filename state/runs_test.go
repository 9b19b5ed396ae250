package state_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"namebridge/state"
)

// begin starts a run of bridge a, or joins the one that is running.
func begin(t testing.TB, db database, n state.NewRun) (run state.Run, started bool) {
	t.Helper()
	must(t, pgx.BeginFunc(t.Context(), db, func(tx pgx.Tx) (err error) {
		run, started, err = state.StartRun(t.Context(), tx, "a", n)
		return err
	}))
	return run, started
}

// ended starts a run of bridge a and ends it.
func ended(t testing.TB, db database, kind state.Kind, status state.RunStatus) state.Run {
	t.Helper()
	run, started := begin(t, db, state.NewRun{Kind: kind, Phase: "first"})
	if !started {
		t.Fatalf("a %s is running already", kind)
	}
	must(t, state.EndRun(t.Context(), db, "a", run, status, nil, ""))
	return get[state.Run](t)(state.GetRun(t.Context(), db, "a", run.Run))
}

func TestARunIsStartedOnceAndJoinedByWhoeverComes(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	owner := live(t, db, "a")
	since := time.Date(2024, 1, 1, 0, 0, 0, 0, time.FixedZone("", 3600))
	backfill := state.NewRun{Kind: state.Backfill, Since: &since, Phase: "first", Priority: state.BackfillPriority, Hosted: &owner}
	run, started := begin(t, db, backfill)
	if !started || run.Kind != state.Backfill || run.Status != state.Running || !run.Since.Equal(since) || *run.Hosted != owner || run.Phase != "first" ||
		run.Place != nil || run.Priority != state.BackfillPriority || !run.Live || run.EndedAt != nil || run.ResumedAt != nil {
		t.Errorf("started %t as %+v", started, run)
	}
	other := uuid.New()
	for _, resume := range []bool{true, false} {
		joining := state.NewRun{Kind: state.Backfill, Since: &since, Phase: "other", Priority: state.OnDemand, Hosted: &other, Resume: resume}
		joined, started := begin(t, db, joining)
		if diff := cmp.Diff(run, joined); started || diff != "" {
			t.Errorf("joined, it was started %t: %s", started, diff)
		}
	}
	for name, n := range map[string]state.NewRun{"another kind": {Kind: state.Plan, Since: &since}, "of everything": {Kind: state.Backfill}} {
		if another, started := begin(t, db, n); !started || another.Run == run.Run {
			t.Errorf("%s is the same run", name)
		}
	}
	silence(t, db, owner, state.Lease+1)
	if r := get[state.Run](t)(state.GetRun(t.Context(), db, "a", run.Run)); r.Live || r.Status != state.Running {
		t.Errorf("when nobody serves the bridge it is %+v", r)
	}
	must(t, state.EndRun(t.Context(), db, "a", run, state.Done, map[string]int{"written": 3}, "text\x00"))
	ended := get[state.Run](t)(state.GetRun(t.Context(), db, "a", run.Run))
	if ended.Status != state.Done || ended.EndedAt == nil || ended.Live || ended.Hosted != nil || string(ended.Counts) != `{"written": 3}` || *ended.Error != "text\ufffd" {
		t.Errorf("ended as %+v", ended)
	}
	if next, started := begin(t, db, backfill); !started || next.Run == run.Run {
		t.Error("a run that is done goes on")
	}
	if err := state.EndRun(t.Context(), db, "a", state.Run{Run: uuid.New()}, state.Done, nil, ""); !errors.Is(err, state.ErrStale) {
		t.Errorf("ended what is not there: %v", err)
	}
	if _, err := state.GetRun(t.Context(), db, "a", uuid.New()); !errors.Is(err, state.ErrNotFound) {
		t.Errorf("read what is not there: %v", err)
	}
}

func TestProcessesThatStartAtOnceStartOneRun(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	var mu sync.Mutex
	runs := map[uuid.UUID]int{}
	first := 0
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			run, started := begin(t, db, state.NewRun{Kind: state.Sweep, Phase: "list"})
			mu.Lock()
			defer mu.Unlock()
			runs[run.Run]++
			if started {
				first++
			}
		})
	}
	all.Wait()
	if n := value[int](t, db, `SELECT count(*) FROM runs`); first != 1 || len(runs) != 1 || n != 1 {
		t.Errorf("%d have started one, %d are joined, there are %d", first, len(runs), n)
	}
}

func TestAFailedRunIsGoneOnWithFromItsFirstPhase(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	since := second(0)
	for name, c := range map[string]struct {
		status state.RunStatus
		resume bool
		since  *time.Time
		same   bool
	}{
		"failed":                     {state.Failed, true, &since, true},
		"failed, and not to be":      {state.Failed, false, &since, false},
		"failed, of everything":      {state.Failed, true, nil, false},
		"done":                       {state.Done, true, &since, false},
		"waiting for a person":       {state.Quarantined, true, &since, false},
		"stopped because of damage":  {state.Halted, true, &since, false},
		"interrupted and still open": {state.Running, true, &since, true},
	} {
		t.Run(name, func(t *testing.T) {
			undone(t, db, func(db pgx.Tx) {
				owner := uuid.New()
				n := state.NewRun{Kind: state.Plan, Since: &since, Phase: "first", Priority: state.BackfillPriority, Hosted: &owner}
				run, _ := begin(t, db, n)
				must(t, state.NextPhase(t.Context(), db, "a", at(run, "first"), "second"))
				must(t, state.NoteStep(t.Context(), db, "a", at(run, "second"), state.Step{Place: json.RawMessage(`1`), Progress: json.RawMessage(`{}`), NameCoach: 5}))
				must(t, state.StorePlanSteps(t.Context(), db, "a", run.Run, []state.PlanStep{{UserID: 1, Action: "write"}}))
				if c.status != state.Running {
					must(t, state.EndRun(t.Context(), db, "a", run, c.status, nil, "it did not work"))
				}
				other := uuid.New()
				n.Since, n.Resume, n.Hosted, n.Priority = c.since, c.resume, &other, state.SweepPriority
				again, started := begin(t, db, n)
				if (again.Run == run.Run) != c.same || started == (c.status == state.Running) {
					t.Fatalf("the same run %v, started %t: %+v", again.Run == run.Run, started, again)
				}
				if c.status != state.Failed || !c.same {
					return
				}
				if again.Status != state.Running || again.Phase != "first" || again.Place != nil || again.Progress != nil || again.EndedAt != nil || again.Error != nil ||
					again.ResumedAt == nil || *again.Hosted != other || again.Priority != state.SweepPriority || again.RequestsNamecoach != 5 {
					t.Errorf("gone on with as %+v", again)
				}
				if written, _, err := state.CountPlanned(t.Context(), db, "a", run.Run); written != 0 || err != nil {
					t.Errorf("%d users are in the plan already, %v: it may be that nothing is to be done for them by now", written, err)
				}
			})
		})
	}
}

// Of two failed runs the last is gone on with: what came before it is over.
func TestTheLastOfSeveralFailedRunsIsGoneOnWith(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	ended(t, db, state.Sweep, state.Failed)
	last := ended(t, db, state.Sweep, state.Failed)
	if run, started := begin(t, db, state.NewRun{Kind: state.Sweep, Phase: "first", Resume: true}); !started || run.Run != last.Run {
		t.Errorf("gone on with %v, started %t, want %v", run.Run, started, last.Run)
	}
}

// A person has approved exactly what it had staged: that it failed afterwards must not make it another run, whose new
// removals nobody could approve any more.
func TestAnApprovedRunThatFailedIsNotGoneOnWith(t *testing.T) {
	t.Parallel()
	db := directory(t, 1)
	run := staged(t, db, 1)
	get[state.Approval](t)(state.ApproveRun(t.Context(), db, "a", run, "write", uuid.New(), "why"))
	must(t, state.EndRun(t.Context(), db, "a", stored(t, db, "a", run), state.Failed, nil, "the server is away"))
	again, started := begin(t, db, state.NewRun{Kind: state.Census, Phase: "census", Resume: true})
	if !started || again.Run == run {
		t.Errorf("gone on with %+v, started %t", again, started)
	}
	if r := get[state.Run](t)(state.GetRun(t.Context(), db, "a", run)); r.Status != state.Failed {
		t.Errorf("the approved one is %s", r.Status)
	}
}

func TestAStepOfARunThatWasEndedOrIsElsewhereDoesNotCount(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	run, _ := begin(t, db, state.NewRun{Kind: state.Sweep, Phase: "list"})
	ctx := t.Context()
	step := state.Step{Place: json.RawMessage(`7`), Progress: json.RawMessage(`{"done": 1}`), NameCoach: 2, BLNSent: 3}
	must(t, state.NoteStep(ctx, db, "a", at(run, "list"), step))
	must(t, state.NoteStep(ctx, db, "a", at(run, "list"), state.Step{BLNSent: 1})) // the place is where it was
	is := get[state.Run](t)(state.GetRun(ctx, db, "a", run.Run))
	if string(is.Place) != `7` || string(is.Progress) != `{"done": 1}` || is.RequestsNamecoach != 2 || is.RequestsBLN != 4 {
		t.Errorf("it is at %+v", is)
	}
	must(t, state.NextPhase(ctx, db, "a", at(run, "list"), "link"))
	is = get[state.Run](t)(state.GetRun(ctx, db, "a", run.Run))
	if is.Phase != "link" || is.Place != nil || string(is.Progress) != `{"before": {"list": 1}}` || is.RequestsBLN != 4 {
		t.Errorf("the next phase begins as %+v", is)
	}
	refused := func(what, phase string) {
		t.Helper()
		for name, err := range map[string]error{
			"NoteStep":  state.NoteStep(ctx, db, "a", at(run, phase), step),
			"NextPhase": state.NextPhase(ctx, db, "a", at(run, phase), "link"),
		} {
			if !errors.Is(err, state.ErrStale) {
				t.Errorf("%s of a run that %s: %v", name, what, err)
			}
		}
	}
	refused("is further already", "list")
	must(t, state.EndRun(ctx, db, "a", run, state.Failed, nil, "interrupted"))
	refused("was ended", "link")
	if err := state.EndRun(ctx, db, "a", run, state.Done, nil, ""); !errors.Is(err, state.ErrStale) {
		t.Errorf("it was ended twice: %v", err)
	}
	after := get[state.Run](t)(state.GetRun(ctx, db, "a", run.Run))
	if after.Status != state.Failed || *after.Error != "interrupted" || after.Phase != "link" || after.RequestsBLN != 4 {
		t.Errorf("it is %+v", after)
	}
	// What was sent was sent.
	must(t, state.CountRequests(ctx, db, "a", run.Run, 1, 1))
	if r := get[state.Run](t)(state.GetRun(ctx, db, "a", run.Run)); r.RequestsNamecoach != 3 || r.RequestsBLN != 5 {
		t.Errorf("%d and %d requests", r.RequestsNamecoach, r.RequestsBLN)
	}
}

// A job may come forward long after others have given its run up, and gone on with it.
func TestWhoKnewARunBeforeItWasGoneOnWithCannotMoveIt(t *testing.T) {
	t.Parallel()
	db := directory(t, 1)
	for name, again := range map[string]func(db database) (was state.Run){
		"it had failed": func(db database) state.Run {
			was, _ := begin(t, db, state.NewRun{Kind: state.Sweep, Phase: "write"})
			must(t, state.EndRun(t.Context(), db, "a", was, state.Failed, nil, ""))
			if now, started := begin(t, db, state.NewRun{Kind: state.Sweep, Phase: "write", Resume: true}); !started || now.Run != was.Run {
				t.Fatal("it was not gone on with")
			}
			return was
		},
		"a person has approved it": func(db database) state.Run {
			run := staged(t, db, 1)
			was := stored(t, db, "a", run)
			was.Phase = "write"
			get[state.Approval](t)(state.ApproveRun(t.Context(), db, "a", run, "write", uuid.New(), "why"))
			return was
		},
	} {
		undone(t, db, func(db pgx.Tx) {
			was := again(db)
			before := contents(t, db, "a")
			for what, err := range map[string]error{
				"noted":  state.NoteStep(t.Context(), db, "a", was, state.Step{Place: json.RawMessage(`1`)}),
				"moved":  state.NextPhase(t.Context(), db, "a", was, "link"),
				"ended":  state.EndRun(t.Context(), db, "a", was, state.Done, nil, ""),
				"failed": state.EndRun(t.Context(), db, "a", was, state.Failed, nil, ""),
			} {
				if !errors.Is(err, state.ErrStale) {
					t.Errorf("%s: it was %s: %v", name, what, err)
				}
			}
			if diff := cmp.Diff(before, contents(t, db, "a")); diff != "" {
				t.Errorf("%s: %s", name, diff)
			}
			must(t, state.NoteStep(t.Context(), db, "a", stored(t, db, "a", was.Run), state.Step{Place: json.RawMessage(`1`)}))
		})
	}
}

func TestALockedRunIsMovedByNobodyElse(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	run, _ := begin(t, db, state.NewRun{Kind: state.Sweep, Phase: "list"})
	undone(t, db, func(tx pgx.Tx) {
		if locked := get[state.Run](t)(state.LockRun(t.Context(), tx, "a", run.Run)); locked.Run != run.Run || locked.Phase != "list" {
			t.Errorf("locked: %+v", locked)
		}
		undone(t, db, func(other pgx.Tx) {
			exec(t, other, `SET LOCAL lock_timeout = '50ms'`)
			var pg *pgconn.PgError
			if err := state.NextPhase(t.Context(), other, "a", run, "link"); !errors.As(err, &pg) || pg.Code != "55P03" {
				t.Errorf("moved meanwhile: %v", err)
			}
		})
		must(t, state.NextPhase(t.Context(), tx, "a", run, "link"))
	})
	if _, err := state.LockRun(t.Context(), db, "a", uuid.New()); !errors.Is(err, state.ErrNotFound) {
		t.Errorf("one that is not there: %v", err)
	}
}

func TestWhatIsWrittenIsProgressOfItsPhaseOnlyWhileItsRunWrites(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	run, _ := begin(t, db, state.NewRun{Kind: state.Sweep, Phase: "decide"})
	written := func() string {
		t.Helper()
		must(t, state.CountWritten(t.Context(), db, "a", run.Run, 40, 2))
		r := get[state.Run](t)(state.GetRun(t.Context(), db, "a", run.Run))
		return fmt.Sprintf("%d %s", r.RequestsBLN, r.Progress)
	}
	must(t, state.NoteStep(t.Context(), db, "a", at(run, "decide"), state.Step{Progress: json.RawMessage(`{"done": 9}`)}))
	if got := written(); got != `2 {"done": 9, "written": 40}` {
		t.Errorf("while it decides: %s", got)
	}
	must(t, state.NextPhase(t.Context(), db, "a", at(run, "decide"), "write"))
	if got := written(); got != `4 {"before": {"decide": 9}, "written": 80}` {
		t.Errorf("before it has begun: %s", got)
	}
	for _, c := range []struct{ was, want string }{
		{`{"done": 0, "total": 100}`, `6 {"done": 40, "total": 100, "before": {"decide": 9}, "written": 120}`},
		{`{"done": 10, "total": 100}`, `8 {"done": 50, "total": 100, "before": {"decide": 9}, "written": 160}`},
	} {
		must(t, state.NoteStep(t.Context(), db, "a", at(run, "write"), state.Step{Progress: json.RawMessage(c.was)}))
		if got := written(); got != c.want {
			t.Errorf("from %s: %s, want %s", c.was, got, c.want)
		}
	}
}

// Who waits for a run ends it when interrupted. So nobody may take it from a process that lives, nor from the daemon.
func TestARunIsHostedAnewOnlyWhereItsHostIsGone(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	for name, c := range map[string]struct {
		silent float64 // seconds since the host's last sign of life; negative: the run is the daemon's
		ended  bool
		taken  bool
	}{
		"its host lives":       {0, false, false},
		"its host is silent":   {state.Lease - 2, false, false},
		"its host is gone":     {state.Lease + 1, false, true},
		"it is the daemon's":   {-1, false, false},
		"it was ended already": {state.Lease + 1, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			undone(t, db, func(db pgx.Tx) {
				host, other := live(t, db, "a"), live(t, db, "a")
				n := state.NewRun{Kind: state.Sweep}
				if c.silent >= 0 {
					n.Hosted = &host
				}
				run, _ := begin(t, db, n)
				silence(t, db, host, c.silent)
				if c.ended {
					must(t, state.EndRun(t.Context(), db, "a", run, state.Failed, nil, ""))
				}
				before := get[state.Run](t)(state.GetRun(t.Context(), db, "a", run.Run))
				must(t, state.HostRun(t.Context(), db, "a", run.Run, other))
				after := get[state.Run](t)(state.GetRun(t.Context(), db, "a", run.Run))
				if c.taken {
					before.Hosted = &other
				}
				if diff := cmp.Diff(before, after); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

func TestTheMostUrgentOfTheRunningRunsIsFirst(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	ended(t, db, state.Census, state.Done)
	var want []uuid.UUID
	for _, n := range []state.NewRun{{Kind: state.Backfill, Priority: state.BackfillPriority}, {Kind: state.Sweep, Priority: state.SweepPriority}, {Kind: state.Collect, Priority: state.CollectPriority}} {
		run, _ := begin(t, db, n)
		want = append([]uuid.UUID{run.Run}, want...)
	}
	var got []uuid.UUID
	for _, r := range get[[]state.Run](t)(state.RunningRuns(t.Context(), db, "a")) {
		got = append(got, r.Run)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestTheLastRunOfEachKindIsTold(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	var last []uuid.UUID
	for _, kind := range []state.Kind{state.Collect, state.Sweep, state.Collect} {
		last = append(last, ended(t, db, kind, state.Quarantined).Run)
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
	want(t, db, "a", "clear", 1)
	run, _ := begin(t, db, state.NewRun{Kind: state.Sweep})
	get[int](t)(stage(t.Context(), db, "a", run.Run))
	must(t, state.EndRun(t.Context(), db, "a", run, state.Quarantined, nil, ""))
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
	db := fresh(t, "a")
	run, _ := begin(t, db, state.NewRun{Kind: state.Plan})
	steps := []state.PlanStep{{UserID: 1, Action: "write", Wanted: json.RawMessage(`{"a":"é\\ \" <"}`), Digest: []byte{0}, Version: 7}, {UserID: 2, Action: "clear", Version: 1}}
	for range 2 {
		must(t, state.StorePlanSteps(t.Context(), db, "a", run.Run, steps))
	}
	if got := value[string](t, db, `SELECT string_agg(concat_ws('|', user_id, action, wanted->>'a', encode(digest, 'hex'), version), ';' ORDER BY user_id) FROM plan_steps`); got != `1|write|é\ " <|00|7;2|clear|1` {
		t.Errorf("kept: %s", got)
	}
	if written, cleared, err := state.CountPlanned(t.Context(), db, "a", run.Run); written != 1 || cleared != 1 || err != nil {
		t.Errorf("%d would be written, %d cleared, %v", written, cleared, err)
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
	markGone(t, db, "a", 6)
	_, by := claim(t, db, live(t, db, "a"), 10)
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
