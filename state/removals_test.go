package state_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"namebridge/state"
)

// letThrough has the guard let all through that is to be judged with a run.
func letThrough(ctx context.Context, db state.Querier, bridge string, run uuid.UUID) error {
	users, err := state.TakeRemovals(ctx, db, bridge, run, true)
	return errors.Join(err, state.ReleaseRemovals(ctx, db, bridge, run, users))
}

// stage has the guard stage all that is to be judged with a run, and says how many that were.
func stage(ctx context.Context, db state.Querier, bridge string, run uuid.UUID) (int, error) {
	users, err := state.TakeRemovals(ctx, db, bridge, run, true)
	return len(users), errors.Join(err, state.StageRemovals(ctx, db, bridge, run, users))
}

// staged has a census of bridge a want users cleared, and leaves it waiting for a person.
func staged(t testing.TB, db database, users ...int64) uuid.UUID {
	t.Helper()
	want(t, db, "a", "clear", users...)
	run, _ := begin(t, db, state.NewRun{Kind: state.Census})
	if n := get[int](t)(stage(t.Context(), db, "a", run.Run)); n != len(users) {
		t.Fatalf("%d of %d removals were staged", n, len(users))
	}
	must(t, state.EndRun(t.Context(), db, "a", run, state.Quarantined, nil, ""))
	return run.Run
}

// A recording, and the whole fragment, are what people would miss: the guard counts who loses one.
func TestARemovalIsWhoeverLosesARecordingOrAll(t *testing.T) {
	t.Parallel()
	wanted := func(badge, recording string) state.Wanted {
		value := map[string]*string{"name_badge_link": &badge, "recording_link": &recording}
		if recording == "" {
			value["recording_link"] = nil
		}
		raw, err := json.Marshal(value)
		must(t, err)
		return state.Wanted{UserID: 1, Action: "write", Value: raw, Digest: []byte(badge + "|" + recording), Source: []byte("s")}
	}
	there := func(w state.Wanted) state.Wanted {
		w.There = true
		return w
	}
	var (
		gone    = state.Wanted{UserID: 1, Action: "clear"}
		nothing = state.Wanted{UserID: 1}
		badge   = wanted("b", "")
		voice   = wanted("b", "r")
	)
	db, owner := fresh(t), uuid.New()
	// A step is a decision, or "written": what is wanted is let through and written.
	for name, c := range map[string]struct {
		steps   []any
		removal bool
	}{
		"everything":                          {[]any{voice, "written", gone}, true},
		"everything, of a badge alone":        {[]any{badge, "written", gone}, true},
		"everything, of somebody never seen":  {[]any{gone}, true},
		"the recording":                       {[]any{voice, "written", badge}, true},
		"a recording that was there already":  {[]any{there(voice), badge}, true},
		"nothing: a badge from the start":     {[]any{badge}, false},
		"nothing: another badge":              {[]any{badge, "written", wanted("c", "")}, false},
		"nothing: another recording":          {[]any{voice, "written", wanted("b", "q")}, false},
		"nothing: a badge becomes a voice":    {[]any{badge, "written", voice}, false},
		"nothing that ever stood there":       {[]any{voice, badge}, false},
		"nothing: a badge was there already":  {[]any{there(badge), wanted("c", "")}, false},
		"nothing after it was cleared":        {[]any{voice, "written", gone, "written", badge}, false},
		"nothing after the recording is gone": {[]any{voice, "written", badge, "written", wanted("c", "")}, false},

		"the recording, decided again":              {[]any{voice, "written", badge, badge}, true},
		"the recording, and then another badge":     {[]any{voice, "written", badge, wanted("c", "")}, true},
		"everything, decided again":                 {[]any{voice, "written", gone, gone}, true},
		"everything, then the recording alone":      {[]any{voice, "written", gone, badge}, true},
		"the recording, called off in between":      {[]any{voice, "written", nothing, badge}, true},
		"the recording, called off and wanted anew": {[]any{voice, "written", badge, nothing, wanted("c", "")}, true},
		"a new recording lifts it":                  {[]any{voice, "written", badge, wanted("b", "q")}, false},
		"a new recording lifts a clear":             {[]any{voice, "written", gone, wanted("b", "q")}, false},
		"the recording after all":                   {[]any{voice, "written", badge, wanted("b", "q"), badge}, true},
		"it is called off":                          {[]any{voice, "written", badge, nothing}, false},
		"it stands there again":                     {[]any{voice, "written", badge, there(voice)}, false},
	} {
		bridge := name
		get[state.Bridge](t)(state.EnsureBridge(t.Context(), db, bridge, 1))
		get[int64](t)(state.StoreDirectory(t.Context(), db, bridge, 1, []state.DirectoryUser{user(1, "u@x", "")}, false))
		claim := func() []state.Claimed {
			return get[[]state.Claimed](t)(state.Claim(t.Context(), db, bridge, state.BackfillPriority, owner, 1))
		}
		for i, step := range c.steps {
			if w, ok := step.(state.Wanted); ok {
				wish(t, db, bridge, state.Wish{Run: uuid.New(), Urgency: state.SweepPriority}, w)
				continue
			}
			must(t, letThrough(t.Context(), db, bridge, uuid.Nil))
			for _, c := range claim() {
				must(t, state.Settle(t.Context(), db, bridge, []state.Outcome{{UserID: 1, Fence: c.Fence, Applied: true, Version: c.Version, Digest: c.WantedDigest, Source: c.WantedSource}}))
			}
			if value[bool](t, db, `SELECT wanted_version > applied_version FROM directory_users WHERE bridge = $1`, bridge) {
				t.Fatalf("%s: after step %d it is still pending", name, i)
			}
		}
		if users := get[[]int64](t)(state.TakeRemovals(t.Context(), db, bridge, uuid.New(), true)); (len(users) == 1) != c.removal {
			t.Errorf("%s: to be judged are %v", name, users)
		}
		// What the guard does not count must not wait for it, and the other way round.
		last := c.steps[len(c.steps)-1].(state.Wanted)
		if wished := last.Action != "" && !last.There; (len(claim()) == 1) != (wished && !c.removal) {
			t.Errorf("%s: it is claimed, or is not", name)
		}
	}
}

// What is written while something else is wanted by now may have brought a recording.
func TestWhatLandsWhileNoneIsWantedMakesTheWishARemoval(t *testing.T) {
	t.Parallel()
	db := directory(t, 1)
	owner := live(t, db, "a")
	sweep := state.Wish{Run: uuid.New(), Urgency: state.SweepPriority}
	voice := state.Wanted{UserID: 1, Action: "write", Value: []byte(`{"recording_link": "r"}`), Digest: []byte("voice")}
	badge := state.Wanted{UserID: 1, Action: "write", Value: []byte(`{"recording_link": null}`), Digest: []byte("badge")}
	wish(t, db, "a", sweep, voice)
	_, by := claim(t, db, owner, 1)
	wish(t, db, "a", sweep, badge)
	must(t, state.Settle(t.Context(), db, "a", []state.Outcome{{UserID: 1, Fence: by[1].Fence, Applied: true, Version: by[1].Version, Digest: by[1].WantedDigest}}))
	if ids, _ := claim(t, db, owner, 1); len(ids) != 0 {
		t.Error("a recording that has just come is taken away, and nobody has let that through")
	}
	wish(t, db, "a", sweep, badge)
	if users := get[[]int64](t)(state.TakeRemovals(t.Context(), db, "a", sweep.Run, true)); len(users) != 1 {
		t.Errorf("to be judged are %v", users)
	}
}

func TestARemovalIsGivenToNobodyBeforeItIsLetThrough(t *testing.T) {
	t.Parallel()
	db := directory(t, 3)
	owner := live(t, db, "a")
	run, _ := begin(t, db, state.NewRun{Kind: state.Sweep})
	by := state.Wish{Run: run.Run, Urgency: state.SweepPriority}
	cleared := []state.Wanted{{UserID: 1, Action: "clear"}, {UserID: 2, Action: "clear"}}
	wish(t, db, "a", by, append(cleared, state.Wanted{UserID: 3, Action: "write", Digest: []byte("x")})...)
	if ids, _ := claim(t, db, owner, 10); !slices.Equal(ids, []int64{3}) {
		t.Errorf("claimed: %v", ids)
	}
	if w := get[state.Work](t)(state.FindWork(t.Context(), db, "a", state.BackfillPriority)); w.Claimable {
		t.Error("those who write are told of removals that they must not make")
	}
	if p := get[state.Pending](t)(state.PendingOf(t.Context(), db, "a", run.Run, state.SweepPriority)); p.Ready {
		t.Error("the run waits for removals that nobody may make")
	}
	counts := func() [2]int {
		t.Helper()
		return [2]int{len(get[[]int64](t)(state.TakeRemovals(t.Context(), db, "a", run.Run, true))), get[state.Removals](t)(state.CountRemovals(t.Context(), db, "a", run.Run)).Done}
	}
	if users := get[[]int64](t)(state.TakeRemovals(t.Context(), db, "a", run.Run, false)); len(users) != 2 {
		t.Errorf("to be judged at once: %v", users)
	}
	if got := counts(); got != [2]int{2, 0} {
		t.Errorf("pending and done: %v", got)
	}
	must(t, letThrough(t.Context(), db, "a", run.Run))
	if got := counts(); got != [2]int{0, 2} {
		t.Errorf("let through, pending and done: %v", got)
	}
	wish(t, db, "a", by, cleared...) // decided again
	ids, claimed := claim(t, db, owner, 10)
	if !slices.Equal(ids, []int64{1, 2}) {
		t.Errorf("claimed when they were let through: %v", ids)
	}
	must(t, state.Settle(t.Context(), db, "a", []state.Outcome{{UserID: 1, Fence: claimed[1].Fence, Applied: true, Version: claimed[1].Version}}))
	if got := counts(); got != [2]int{0, 2} {
		t.Errorf("when one was made, pending and done: %v", got)
	}
	// Another wish is another thing.
	wish(t, db, "a", by, state.Wanted{UserID: 2, Action: "write", Digest: []byte("x")})
	wish(t, db, "a", by, state.Wanted{UserID: 2, Action: "clear"})
	if got := counts(); got != [2]int{1, 1} {
		t.Errorf("wanted anew, pending and done: %v", got)
	}
}

// A run that ends makes its removals the next judge's, also while that one judges.
func TestTheGuardLetsThroughWhatItHasJudged(t *testing.T) {
	t.Parallel()
	for name, judge := range map[string]func(context.Context, state.Querier, string, uuid.UUID, []int64) error{"let through": state.ReleaseRemovals, "staged": state.StageRemovals} {
		db := directory(t, 9)
		sweep, _ := begin(t, db, state.NewRun{Kind: state.Backfill, Phase: "decide", Priority: state.BackfillPriority})
		var many []state.Wanted
		for _, u := range upTo(9)[1:] {
			many = append(many, state.Wanted{UserID: u, Action: "clear"})
		}
		wish(t, db, "a", state.Wish{Run: sweep.Run, Urgency: state.BackfillPriority}, many...)
		collect, _ := begin(t, db, state.NewRun{Kind: state.Collect, Phase: "write", Priority: state.CollectPriority})
		wish(t, db, "a", state.Wish{Run: collect.Run, Urgency: state.CollectPriority}, state.Wanted{UserID: 1, Action: "clear"})
		must(t, state.InTx(t.Context(), db, func(tx pgx.Tx) error {
			users := get[[]int64](t)(state.TakeRemovals(t.Context(), tx, "a", collect.Run, true))
			if !slices.Equal(users, []int64{1}) {
				t.Errorf("to be judged: %v", users)
			}
			must(t, state.EndRun(t.Context(), db, "a", sweep, state.Failed, nil, "interrupted"))
			return judge(t.Context(), tx, "a", collect.Run, users)
		}))
		if n := value[int](t, db, `SELECT count(*) FILTER (WHERE released_version = wanted_version) + (SELECT count(*) FROM plan_steps) FROM directory_users`); n != 1 {
			t.Errorf("one was judged, and %d were %s", n, name)
		}
		// The others are judged together with it.
		left := get[[]int64](t)(state.TakeRemovals(t.Context(), db, "a", collect.Run, true))
		must(t, judge(t.Context(), db, "a", collect.Run, left))
		if r := get[state.Removals](t)(state.CountRemovals(t.Context(), db, "a", collect.Run)); len(left) != 8 || r.Done+r.Staged != 9 {
			t.Errorf("then %v, and altogether %+v", left, r)
		}
	}
}

// Two runs that judge at once must not both judge what nobody who runs wants: let through by halves, it would be twice as much.
func TestARemovalIsJudgedByOneRun(t *testing.T) {
	t.Parallel()
	for name, judge := range map[string]func(context.Context, state.Querier, string, uuid.UUID, []int64) error{"let through": state.ReleaseRemovals, "staged": state.StageRemovals} {
		db := directory(t, 2)
		want(t, db, "a", "clear", 1, 2)
		census, _ := begin(t, db, state.NewRun{Kind: state.Census})
		sweep, _ := begin(t, db, state.NewRun{Kind: state.Sweep})
		first := get[pgx.Tx](t)(db.Begin(t.Context()))
		users := get[[]int64](t)(state.TakeRemovals(t.Context(), first, "a", census.Run, true))
		second := make(chan []int64, 1)
		go func() {
			users, err := state.TakeRemovals(t.Context(), db, "a", sweep.Run, true)
			if err != nil {
				t.Error(err)
			}
			second <- users
		}()
		for len(second) == 0 && !value[bool](t, db, `SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')`) {
			time.Sleep(time.Millisecond)
		}
		must(t, judge(t.Context(), first, "a", census.Run, users))
		must(t, first.Commit(t.Context()))
		if others := <-second; len(users) != 2 || len(others) != 0 {
			t.Errorf("%s: %v by one, %v by the other", name, users, others)
		}
	}
}

// What stands there is told by reading it: a database that is new knows of nobody's recording.
func TestARecordingThatIsFoundIsForTheGuard(t *testing.T) {
	t.Parallel()
	db := directory(t, 2)
	owner := live(t, db, "a")
	sweep, _ := begin(t, db, state.NewRun{Kind: state.Sweep})
	by := state.Wish{Run: sweep.Run, Urgency: state.SweepPriority}
	badge := func(user int64) state.Wanted {
		return state.Wanted{UserID: user, Action: "write", Value: []byte(`{"recording_link": null}`), Digest: []byte("badge")}
	}
	wish(t, db, "a", by, badge(1), badge(2))
	_, claimed := claim(t, db, owner, 10)
	wish(t, db, "a", by, state.Wanted{UserID: 2, Action: "write", Value: []byte(`{"recording_link": "r"}`), Digest: []byte("voice")}) // meanwhile
	stale := claimed[1]
	stale.Fence--
	must(t, state.FoundRecordings(t.Context(), db, "a", []state.Claimed{stale}))
	if claimed[1].Released || value[bool](t, db, `SELECT removes FROM directory_users WHERE user_id = 1`) {
		t.Error("who has lost the user has a say")
	}
	must(t, state.FoundRecordings(t.Context(), db, "a", []state.Claimed{claimed[1], claimed[2]}))
	if ids, _ := claim(t, db, owner, 10); !slices.Equal(ids, []int64{2}) {
		t.Errorf("claimed: %v", ids)
	}
	wish(t, db, "a", by, badge(1)) // decided again
	if users := get[[]int64](t)(state.TakeRemovals(t.Context(), db, "a", sweep.Run, true)); !slices.Equal(users, []int64{1}) {
		t.Errorf("to be judged: %v", users)
	}
	if users := get[[]int64](t)(state.TakeRemovals(t.Context(), db, "a", sweep.Run, false)); len(users) != 0 {
		t.Errorf("to be judged while there may be more: %v", users)
	}
	must(t, letThrough(t.Context(), db, "a", sweep.Run))
	if ids, by := claim(t, db, owner, 10); !slices.Equal(ids, []int64{1}) || !by[1].Released {
		t.Errorf("claimed when it was let through: %v", ids)
	}
}

func TestARemovalIsStagedOnce(t *testing.T) {
	t.Parallel()
	db := directory(t, 6)
	first := staged(t, db, 1, 2)
	want(t, db, "a", "clear", 3, 4)
	wish(t, db, "a", state.Wish{Run: uuid.New(), Urgency: state.Planned}, state.Wanted{UserID: 5, Action: "clear"}) // a plan's is nobody's
	want(t, db, "a", "clear", 6)
	markGone(t, db, "a", 4)
	want(t, db, "a", "write", 6)
	if unjudged := get[bool](t)(state.AnyUnjudged(t.Context(), db, "a", uuid.Nil)); !unjudged {
		t.Error("a new removal is not noticed")
	}
	second, _ := begin(t, db, state.NewRun{Kind: state.Sweep})
	if n := get[int](t)(stage(t.Context(), db, "a", second.Run)); n != 1 {
		t.Errorf("%d were staged", n)
	}
	if unjudged := get[bool](t)(state.AnyUnjudged(t.Context(), db, "a", uuid.Nil)); unjudged {
		t.Error("everything was staged, and yet something is new")
	}
	if n := get[int](t)(stage(t.Context(), db, "a", second.Run)); n != 0 {
		t.Errorf("%d were staged again", n)
	}
	steps := func(run uuid.UUID) string {
		t.Helper()
		return value[string](t, db, `SELECT coalesce(string_agg(concat_ws(' ', user_id, action, version), ',' ORDER BY user_id), '') FROM plan_steps WHERE run = $1`, run)
	}
	if got := steps(first) + ";" + steps(second.Run); got != "1 clear 1,2 clear 1;3 clear 1" {
		t.Errorf("staged: %s", got)
	}
	// A run that fails asks nobody: the next one does.
	must(t, state.EndRun(t.Context(), db, "a", second, state.Failed, nil, ""))
	third, _ := begin(t, db, state.NewRun{Kind: state.Census})
	if n := get[int](t)(stage(t.Context(), db, "a", third.Run)); n != 1 || steps(third.Run) != "3 clear 1" {
		t.Errorf("%d were staged: %s", n, steps(third.Run))
	}
	// What is wanted anew is another thing than what was staged.
	want(t, db, "a", "write", 1)
	want(t, db, "a", "clear", 1)
	if n := get[int](t)(stage(t.Context(), db, "a", third.Run)); n != 1 || steps(third.Run) != "1 clear 3,3 clear 1" {
		t.Errorf("%d were staged: %s", n, steps(third.Run))
	}
}

func TestApprovingLetsThroughWhatIsStillWantedAndNamesTheRest(t *testing.T) {
	t.Parallel()
	db := directory(t, 8)
	owner := live(t, db, "a")
	run := staged(t, db, 1, 2, 3, 4, 5)
	want(t, db, "a", "write", 2)                            // another thing
	want(t, db, "a", "write", 3)                            // the same again, but
	want(t, db, "a", "clear", 3)                            // that is for the guard to judge anew
	wish(t, db, "a", state.Wish{}, state.Wanted{UserID: 4}) // nothing
	markGone(t, db, "a", 5)
	want(t, db, "a", "clear", 6) // not staged
	want(t, db, "a", "write", 7)
	exec(t, db, `UPDATE directory_users SET attempts = 3, retry_at = now() + interval '1 hour' WHERE user_id = 1`)

	got := get[state.Approval](t)(state.ApproveRun(t.Context(), db, "a", run, "write", owner, "looked at\x00"))
	if diff := cmp.Diff(state.Approval{Steps: 5, Moved: []int64{2, 3, 4, 5}}, got); diff != "" {
		t.Error(diff)
	}
	r := get[state.Run](t)(state.GetRun(t.Context(), db, "a", run))
	if r.Status != state.Running || r.Phase != "write" || r.Priority != state.OnDemand || *r.Hosted != owner || r.EndedAt != nil || r.ResumedAt == nil {
		t.Errorf("the run is %+v", r)
	}
	s := get[state.Staged](t)(state.CountSteps(t.Context(), db, "a", run))
	if s.ApprovedAt == nil || s.ApprovedReason != "looked at\ufffd" {
		t.Errorf("kept: %+v", s)
	}
	ids, by := claim(t, db, owner, 10)
	if !slices.Equal(ids, []int64{1, 2, 7}) || by[1].Run != run || by[1].Attempts != 0 {
		t.Errorf("claimed: %v %+v", ids, by[1])
	}
	if _, err := state.ApproveRun(t.Context(), db, "a", run, "write", owner, "again"); !errors.Is(err, state.ErrStale) {
		t.Errorf("approved twice: %v", err)
	}
	must(t, state.EndRun(t.Context(), db, "a", stored(t, db, "a", run), state.Quarantined, nil, ""))
	if _, err := state.ApproveRun(t.Context(), db, "a", run, "write", owner, "again"); !errors.Is(err, state.ErrStale) {
		t.Errorf("approved twice, ended in between: %v", err)
	}
}

func TestARunIsApprovedByOnePerson(t *testing.T) {
	t.Parallel()
	db := directory(t, 1)
	run := staged(t, db, 1)
	var approved atomic.Int32
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			_, err := state.ApproveRun(t.Context(), db, "a", run, "write", uuid.New(), fmt.Sprint(i))
			switch {
			case err == nil:
				approved.Add(1)
			case !errors.Is(err, state.ErrStale):
				t.Error(err)
			}
		})
	}
	all.Wait()
	if approved.Load() != 1 {
		t.Errorf("%d have approved it", approved.Load())
	}
}

func TestOnlyAWaitingRunAndAFinishedPlanAreApproved(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	for _, c := range []struct {
		kind     state.Kind
		status   state.RunStatus
		approved bool
	}{
		{state.Census, state.Quarantined, true},
		{state.Plan, state.Done, true},
		{state.Plan, state.Failed, false},
		{state.Plan, state.Running, false},
		{state.Sweep, state.Done, false},
		{state.Sweep, state.Failed, false},
		{state.Sweep, state.Halted, false},
		{state.Sweep, state.Running, false},
	} {
		t.Run(fmt.Sprint(c.kind, " ", c.status), func(t *testing.T) {
			undone(t, db, func(db pgx.Tx) {
				run, _ := begin(t, db, state.NewRun{Kind: c.kind, Phase: "first"})
				if c.status != state.Running {
					must(t, state.EndRun(t.Context(), db, "a", run, c.status, nil, ""))
				}
				before := contents(t, db, "a")
				_, err := state.ApproveRun(t.Context(), db, "a", run.Run, "write", uuid.New(), "why")
				if c.approved && err != nil || !c.approved && !errors.Is(err, state.ErrStale) {
					t.Errorf("%v", err)
				}
				if diff := cmp.Diff(before, contents(t, db, "a")); !c.approved && diff != "" {
					t.Error(diff)
				}
			})
		})
	}
	if _, err := state.ApproveRun(t.Context(), db, "a", uuid.New(), "write", uuid.New(), ""); !errors.Is(err, state.ErrStale) {
		t.Errorf("one that is not there: %v", err)
	}
}

// A plan is data: whoever is in it is written when somebody wants that, by approving the plan or by a run of another kind.
func TestPlannedUsersAreClaimedByNobodyUntilSomebodyWantsThemWritten(t *testing.T) {
	t.Parallel()
	db := directory(t, 2)
	plan := state.Wish{Run: uuid.New(), Urgency: state.Planned}
	planned := []state.Wanted{{UserID: 1, Action: "write", Digest: []byte("x")}, {UserID: 2, Action: "clear"}}
	for name, c := range map[string]struct {
		then func(t *testing.T, db database)
		want []int64
	}{
		"nobody does":    {func(*testing.T, database) {}, nil},
		"the plan again": {func(t *testing.T, db database) { wish(t, db, "a", plan, planned...) }, nil},
		"the guard":      {func(t *testing.T, db database) { must(t, letThrough(t.Context(), db, "a", uuid.Nil)) }, nil},
		"a sweep wants it": {func(t *testing.T, db database) {
			wish(t, db, "a", state.Wish{Run: uuid.New(), Urgency: state.SweepPriority}, planned...)
		}, []int64{1}},
		"a sweep takes it up": {func(t *testing.T, db database) {
			must(t, state.Adopt(t.Context(), db, "a", uuid.New(), state.SweepPriority))
		}, []int64{1}},
		"a person approves it": {func(t *testing.T, db database) {
			run := ended(t, db, state.Plan, state.Done).Run
			must(t, state.StorePlanSteps(t.Context(), db, "a", run, []state.PlanStep{{UserID: 1, Action: "write", Version: 1}, {UserID: 2, Action: "clear", Version: 1}}))
			get[state.Approval](t)(state.ApproveRun(t.Context(), db, "a", run, "write", uuid.New(), "why"))
		}, []int64{1, 2}},
	} {
		t.Run(name, func(t *testing.T) {
			undone(t, db, func(db pgx.Tx) {
				if n := wish(t, db, "a", plan, planned...); n != 2 {
					t.Errorf("%d are pending", n)
				}
				if n := get[int](t)(state.CountPending(t.Context(), db, "a")); n != 2 {
					t.Errorf("%d are pending", n)
				}
				if users := get[[]int64](t)(state.TakeRemovals(t.Context(), db, "a", plan.Run, true)); len(users) != 0 {
					t.Errorf("the guard judges what a plan would remove: %v", users)
				}
				c.then(t, db)
				if ids, _ := claim(t, db, live(t, db, "a"), 10); !slices.Equal(ids, c.want) {
					t.Errorf("claimed: %v", ids)
				}
			})
		})
	}
}

// A plan looks at what others want and leaves that to them.
func TestAPlanDoesNotKeepOthersFromWriting(t *testing.T) {
	t.Parallel()
	db := directory(t, 1)
	at := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	collect := state.Wish{Run: uuid.New(), Urgency: state.CollectPriority, Window: &at}
	w := state.Wanted{UserID: 1, Action: "write", Digest: []byte("x")}
	wish(t, db, "a", collect, w)
	wish(t, db, "a", state.Wish{Run: uuid.New(), Urgency: state.Planned}, w)
	cs := get[[]state.Claimed](t)(state.Claim(t.Context(), db, "a", state.CollectPriority, live(t, db, "a"), 1))
	if len(cs) != 1 || cs[0].Version != 1 || cs[0].Window == nil || !cs[0].Window.Equal(at) {
		t.Errorf("claimed: %+v", cs)
	}
}

// A plan is asked for while the daemon works: what it has looked at must not wait for the next sweep because of that.
func TestAPlanLeavesEverythingDue(t *testing.T) {
	t.Parallel()
	db := directory(t, 4)
	exec(t, db, `UPDATE directory_users SET decide_due = user_id < 4`)
	there := state.Wanted{UserID: 2, Action: "write", Digest: []byte("x"), There: true}
	decisions := []state.Wanted{{UserID: 1, Action: "write", Digest: []byte("x")}, there, {UserID: 3}, {UserID: 4}}
	wish(t, db, "a", state.Wish{Run: uuid.New(), Urgency: state.Planned}, decisions...)
	if due := dueUsers(t, db); !slices.Equal(due, []int64{1, 2, 3}) {
		t.Errorf("after a plan these are due: %v", due)
	}
	wish(t, db, "a", state.Wish{Run: uuid.New(), Urgency: state.CollectPriority}, decisions...)
	if due := dueUsers(t, db); len(due) != 0 {
		t.Errorf("after a collect these are due: %v", due)
	}
}
