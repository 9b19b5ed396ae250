package state_test

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
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

// contents is everything that a bridge has in the database, as text by table: its rows, and the jobs in its queues.
func contents(t testing.TB, db state.Querier, bridge string) map[string]string {
	t.Helper()
	rows, err := db.Query(t.Context(), `SELECT relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'bridge'
		WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace ORDER BY relname`)
	must(t, err)
	tables := get[[]string](t)(pgx.CollectRows(rows, pgx.RowTo[string]))
	out := map[string]string{
		"river_job": value[string](t, db, `SELECT coalesce(string_agg(t::text, E'\n' ORDER BY id), '') FROM river_job t WHERE split_part(queue, '_', 1) = $1`, bridge),
	}
	for _, table := range tables {
		out[table] = value[string](t, db, `SELECT coalesce(string_agg(t::text, E'\n' ORDER BY t::text COLLATE "C"), '') FROM `+table+` t WHERE bridge = $1`, bridge)
	}
	return out
}

// bridgeFunctions lists the functions of the package that take a bridge.
func bridgeFunctions(t *testing.T) (names []string) {
	t.Helper()
	files := get[[]string](t)(filepath.Glob("*.go"))
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		must(t, err)
		for _, d := range parsed.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Recv != nil || !f.Name.IsExported() {
				continue
			}
			for _, p := range f.Type.Params.List {
				for _, n := range p.Names {
					if n.Name == "bridge" {
						names = append(names, f.Name.Name)
					}
				}
			}
		}
	}
	slices.Sort(names)
	return names
}

// everything calls every function that takes a bridge, once with something to do, and says which it called.
func everything(t *testing.T, db *pgxpool.Pool, bridge string) map[string]bool {
	t.Helper()
	called := map[string]bool{}
	do := func(name string, err error) {
		t.Helper()
		called[name] = true
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	ctx := t.Context()
	owner := uuid.New()
	_, err := state.EnsureBridge(ctx, db, bridge, value[int64](t, db, `SELECT organization_id FROM bridges WHERE bridge = $1`, bridge))
	do("EnsureBridge", err)
	_, err = state.WhatIsKnown(ctx, db, bridge)
	do("WhatIsKnown", err)
	do("NoteLayout", state.InTx(ctx, db, func(tx pgx.Tx) error { return state.NoteLayout(ctx, tx, bridge, "nested", "nested") }))
	_, err = state.Heartbeat(ctx, db, bridge, owner)
	do("Heartbeat", err)
	silence(t, db, owner, -3600) // however long all this takes
	do("NoteServing", state.NoteServing(ctx, db, bridge, owner))
	_, err = state.Replicas(ctx, db, bridge)
	do("Replicas", err)
	do("SetRowsCarryFragment", state.SetRowsCarryFragment(ctx, db, bridge, true))

	run := goingOn(t, db, bridge, owner, do)
	collecting(t, db, bridge, run, do)
	listing(t, db, bridge, do)
	linking(t, db, bridge, run, do)
	writing(t, db, bridge, run, owner, do)
	judging(t, db, bridge, owner, do)

	do("EndRun", state.EndRun(ctx, db, bridge, stored(t, db, bridge, run), state.Done, map[string]int{"written": 1}, ""))
	_, err = state.LastRuns(ctx, db, bridge)
	do("LastRuns", err)
	forgetting(t, db, bridge, do)
	do("Leave", state.Leave(ctx, db, bridge, owner))
	reviewing(t, db, bridge, do)
	return called
}

// goingOn begins a run, takes it to its last phase, and plays with schedules and the queue.
func goingOn(t *testing.T, db *pgxpool.Pool, bridge string, owner uuid.UUID, do func(name string, err error)) (run uuid.UUID) {
	t.Helper()
	ctx := t.Context()
	since, gone := second(0), uuid.New()
	do("StartRun", state.InTx(ctx, db, func(tx pgx.Tx) error {
		r, started, err := state.StartRun(ctx, tx, bridge, state.NewRun{Kind: state.Backfill, Since: &since, Phase: "collect", Priority: state.BackfillPriority, Hosted: &gone})
		if run = r.Run; err == nil && !started {
			t.Error("a run that is new was not started")
		}
		return err
	}))
	do("HostRun", state.HostRun(ctx, db, bridge, run, owner))
	do("NoteStep", state.NoteStep(ctx, db, bridge, at(stored(t, db, bridge, run), "collect"), state.Step{Place: json.RawMessage(`1`), Progress: json.RawMessage(`{"done": 1}`), NameCoach: 1}))
	do("NextPhase", state.NextPhase(ctx, db, bridge, at(stored(t, db, bridge, run), "collect"), "write"))
	must(t, state.NoteStep(ctx, db, bridge, at(stored(t, db, bridge, run), "write"), state.Step{Progress: json.RawMessage(`{"done": 1}`)}))
	do("CountRequests", state.CountRequests(ctx, db, bridge, run, 2, 3))
	do("CountWritten", state.CountWritten(ctx, db, bridge, run, 1, 1))
	r, err := state.GetRun(ctx, db, bridge, run)
	do("GetRun", err)
	if r.Hosted == nil || *r.Hosted != owner || r.RequestsNamecoach != 3 || r.RequestsBLN != 4 || string(r.Progress) != `{"done": 2, "before": {"collect": 1}, "written": 1}` {
		t.Errorf("the run is %+v", r)
	}
	if got, err := state.RunningRuns(ctx, db, bridge); err != nil || len(got) != 1 || got[0].Run != run {
		t.Errorf("running are %+v, %v", got, err)
	}
	do("RunningRuns", nil)

	past := value[time.Time](t, db, `SELECT now() - interval '1 minute'`)
	for _, kind := range []state.Kind{state.Sweep, state.Census} {
		do("NoteSchedule", state.NoteSchedule(ctx, db, bridge, state.Schedule{Kind: kind, Expression: "@daily", DueAt: past}))
	}
	must(t, state.InTx(ctx, db, func(tx pgx.Tx) error {
		due, err := state.TakeDue(ctx, tx, bridge)
		do("TakeDue", err)
		do("MoveSchedule", state.MoveSchedule(ctx, tx, bridge, due.Kind, due.Now.Add(time.Hour)))
		return nil
	}))
	left, err := state.Schedules(ctx, db, bridge)
	do("Schedules", err)
	do("DropSchedule", state.DropSchedule(ctx, db, bridge, left[0].Kind))

	for queue, by := range map[string]uuid.UUID{bridge: owner, bridge + "_now": gone} {
		job(t, db, queue, "running", by, 60)
	}
	job(t, db, bridge+"_bulk", "retryable", gone, 60)
	if n, err := state.RescueJobs(ctx, db, bridge, owner, nil); err != nil || n != 2 {
		t.Errorf("%d jobs were rescued, %v", n, err)
	}
	do("RescueJobs", nil)
	do("WakeJobs", state.WakeJobs(ctx, db, bridge))
	do("HastenSchedule", state.HastenSchedule(ctx, db, bridge, state.Sweep, time.Hour))
	do("LockRun", state.InTx(ctx, db, func(tx pgx.Tx) error {
		_, err := state.LockRun(ctx, tx, bridge, run)
		return err
	}))
	do("Moment", state.InTx(ctx, db, func(tx pgx.Tx) error {
		_, err := state.Moment(ctx, tx, bridge)
		return err
	}))
	return run
}

// collecting stores rows, and compares what questions bring with what windows do.
func collecting(t *testing.T, db *pgxpool.Pool, bridge string, run uuid.UUID, do func(name string, err error)) {
	t.Helper()
	ctx := t.Context()
	since := second(0)
	cursor, err := state.StartCursor(ctx, db, bridge, state.Cursor{Stream: "walk", Since: since, Until: since, Walk: json.RawMessage(`{}`)})
	do("StartCursor", err)
	do("MoveCursor", state.MoveCursor(ctx, db, bridge, cursor, cursor.Until.Add(time.Hour), json.RawMessage(`{"a": 1}`)))
	do("Collected", state.Collected(ctx, db, bridge, since, since.Add(time.Hour), since.Add(time.Hour)))
	_, err = state.GetCursor(ctx, db, bridge, state.ParticipantStream)
	do("GetCursor", err)
	_, err = state.CursorAge(ctx, db, bridge, state.ParticipantStream)
	do("CursorAge", err)
	do("DropCursor", state.DropCursor(ctx, db, bridge, "walk"))

	first, second := reading(), reading()
	do("StageParticipants", state.StageParticipants(ctx, db, bridge, &first, []state.Participant{participant("a@x", "E"), participant("b@x", "E"), participant("c@x", "F")}))
	must(t, state.StageParticipants(ctx, db, bridge, &second, []state.Participant{participant("d@x", "E")}))
	do("JoinStaged", state.JoinStaged(ctx, db, bridge, second, &first))
	_, err = state.StoreStaged(ctx, db, bridge, first, state.Bringing{By: run, All: true})
	do("StoreStaged", err)
	found := reading()
	must(t, state.StageParticipants(ctx, db, bridge, &found, []state.Participant{participant("late@x", "E")}))
	get[int64](t)(state.StoreStaged(ctx, db, bridge, found, state.Bringing{By: found.ID, Found: &since}))
	if late, err := state.CountLate(ctx, db, bridge, since.Add(time.Second), time.Minute, true); err != nil || late != 1 {
		t.Errorf("%d rows came late, %v", late, err)
	}
	do("CountLate", nil)
	do("NoteCollected", state.NoteCollected(ctx, db, bridge))
	_, err = state.AnythingDue(ctx, db, bridge)
	do("AnythingDue", err)
	_, err = state.Suspects(ctx, db, bridge, nil)
	do("Suspects", err)
	do("MarkMissing", state.InTx(ctx, db, func(tx pgx.Tx) error {
		return state.MarkMissing(ctx, tx, bridge, time.Now().Add(time.Hour), &state.Asked{Emails: []string{"late@x"}})
	}))
	do("ForgetDoubts", state.ForgetDoubts(ctx, db, bridge, time.Now().Add(time.Hour)))
	do("ForgetUncounted", state.ForgetUncounted(ctx, db, bridge, []string{"E", "F"}))
	second = reading()
	must(t, state.StageParticipants(ctx, db, bridge, &second, []state.Participant{participant("e@x", "E")}))
	do("DropStaged", state.DropStaged(ctx, db, bridge, second))
	do("LockParticipants", state.InTx(ctx, db, func(tx pgx.Tx) error { return state.LockParticipants(ctx, tx, bridge) }))
}

// listing lists the directory, once in vain, and says whom NameCoach was asked about.
func listing(t *testing.T, db *pgxpool.Pool, bridge string, do func(name string, err error)) {
	t.Helper()
	ctx := t.Context()
	listing, err := state.TakeListing(ctx, db, bridge, time.Hour)
	do("TakeListing", err)
	_, err = state.GetListing(ctx, db, bridge, listing.Sweep)
	do("GetListing", err)
	do("RefuseListing", state.RefuseListing(ctx, db, bridge, listing))
	listing, err = state.TakeListing(ctx, db, bridge, time.Hour)
	must(t, err)
	users := []state.DirectoryUser{user(1, "a@x", "1"), user(2, "b@x", "1"), user(3, "c@x", "3"), user(4, "d@x", ""), user(5, "e@x", ""), user(6, "f@x", ""), user(7, "g@x", "")}
	_, err = state.StoreDirectory(ctx, db, bridge, listing.Sweep, users, false)
	do("StoreDirectory", err)
	next := listing
	next.After, next.AfterID, next.Rows = "2024", 7, 7
	do("LockListing", state.InTx(ctx, db, func(tx pgx.Tx) error { return state.LockListing(ctx, tx, bridge, listing) }))
	do("MoveListing", state.MoveListing(ctx, db, bridge, listing, next))
	_, _, err = state.ListingSizes(ctx, db, bridge)
	do("ListingSizes", err)
	do("CompleteListing", state.CompleteListing(ctx, db, bridge, next))
	_, err = state.Candidates(ctx, db, bridge, []string{"1"}, []string{"c@x"}, true)
	do("Candidates", err)
	_, err = state.DirectoryKeys(ctx, db, bridge, state.KeyEmail, "", 10)
	do("DirectoryKeys", err)
	unasked, err := state.NextUnasked(ctx, db, bridge, 0, 10)
	do("NextUnasked", err)
	if len(unasked) != 7 {
		t.Errorf("%d users were never asked about", len(unasked))
	}
	do("NoteAsked", state.NoteAsked(ctx, db, bridge, nil))
}

// linking decides whose rows are whose, and counts who was not shown.
func linking(t *testing.T, db *pgxpool.Pool, bridge string, run uuid.UUID, do func(name string, err error)) {
	t.Helper()
	ctx := t.Context()
	_, err := state.NextPeople(ctx, db, bridge, "", 10, true, nil)
	do("NextPeople", err)
	do("StoreDecisions", state.StoreDecisions(ctx, db, bridge, []state.Decided{
		{Person: "email:a@x", UserID: 1, Rule: "email", Changed: true},
		{Person: "email:b@x", UserID: 2, Rule: "email"},
		{Person: "email:c@x", UserID: 3, Rule: "email"},
		{Person: "email:late@x", UserID: 7, Rule: "email"},
	}))
	must(t, state.StoreDecisions(ctx, db, bridge, []state.Decided{{Person: "email:b@x", WasUser: 2}}))
	do("DropUncounted", state.DropUncounted(ctx, db, bridge, []string{"E"}))
	linked, err := state.NextLinked(ctx, db, bridge, "", 10)
	do("NextLinked", err)
	if len(linked) != 2 {
		t.Errorf("linked are %+v", linked)
	}
	unseen, err := state.NotSeenSince(ctx, db, bridge, []string{linked[0].Person, linked[1].Person}, time.Now().Add(time.Hour))
	do("NotSeenSince", err)
	if len(unseen) != 2 {
		t.Errorf("unseen are %+v", unseen)
	}
	_, err = state.ProbedSemantics(ctx, db, bridge)
	do("ProbedSemantics", err)
	must(t, state.InTx(ctx, db, func(tx pgx.Tx) error {
		if err := state.LockParticipants(ctx, tx, bridge); err != nil {
			return err
		}
		do("NoteCounted", state.NoteCounted(ctx, tx, bridge, run, []string{"email:late@x"}))
		c, err := state.ConcludeCensus(ctx, tx, bridge, run, time.Now().Add(time.Hour), 1)
		do("ConcludeCensus", err)
		if c != (state.CensusCounts{Asked: 1, Absent: 1, Gone: 1}) {
			t.Errorf("a census came to %+v", c)
		}
		return nil
	}))
	do("StoreHolds", state.StoreHolds(ctx, db, bridge, state.HeldUser, []state.Hold{{Subject: "1", Reason: "unwritable"}, {Subject: "2", Reason: "refused"}}, []string{"3"}))
	_, err = state.ParticipantsOf(ctx, db, bridge, []int64{1, 2})
	do("ParticipantsOf", err)
	must(t, state.InTx(ctx, db, func(tx pgx.Tx) error {
		_, err := state.NextUsers(ctx, tx, bridge, 0, 10, false)
		do("NextUsers", err)
		return nil
	}))
}

// writing makes users pending, and has them written with every outcome.
func writing(t *testing.T, db *pgxpool.Pool, bridge string, run, owner uuid.UUID, do func(name string, err error)) {
	t.Helper()
	ctx := t.Context()
	want(t, db, bridge, "write", 1, 2, 3, 4)
	want(t, db, bridge, "clear", 5, 6)
	do("StoreWanted", nil)
	do("Adopt", state.Adopt(ctx, db, bridge, run, state.SweepPriority))
	removals, err := state.TakeRemovals(ctx, db, bridge, run, true)
	do("TakeRemovals", err)
	if !slices.Equal(removals, []int64{5, 6}) {
		t.Errorf("to be judged are %v", removals)
	}
	if unjudged, err := state.AnyUnjudged(ctx, db, bridge, run); err != nil || !unjudged {
		t.Errorf("removals that nobody has judged: %v, %v", unjudged, err)
	}
	do("AnyUnjudged", nil)
	do("ReleaseRemovals", state.ReleaseRemovals(ctx, db, bridge, run, removals))
	if r, err := state.CountRemovals(ctx, db, bridge, run); err != nil || r.Done != 2 {
		t.Errorf("%d removals were let through, %v", r.Done, err)
	}
	do("CountRemovals", nil)
	planned, err := state.PlannedUsers(ctx, db, bridge, 0, 10)
	do("PlannedUsers", err)
	of, err := state.CountPendingOf(ctx, db, bridge, run, state.BackfillPriority)
	do("CountPendingOf", err)
	all, err := state.CountPending(ctx, db, bridge)
	do("CountPending", err)
	work, err := state.FindWork(ctx, db, bridge, state.BackfillPriority)
	do("FindWork", err)
	left, err := state.PendingOf(ctx, db, bridge, run, state.BackfillPriority)
	do("PendingOf", err)
	if len(planned) != 6 || of != 6 || all != 6 || work != (state.Work{Claimable: true}) || left != (state.Pending{Ready: true}) {
		t.Errorf("pending: %d planned, %d of the run, %d in all, %+v, %+v", len(planned), of, all, work, left)
	}
	do("StorePlanSteps", state.StorePlanSteps(ctx, db, bridge, run, []state.PlanStep{{UserID: 1, Action: "write", Wanted: json.RawMessage(`{}`)}}))
	_, _, err = state.CountPlanned(ctx, db, bridge, run)
	do("CountPlanned", err)

	claimed, err := state.Claim(ctx, db, bridge, state.BackfillPriority, owner, 10)
	do("Claim", err)
	if len(claimed) != 6 {
		t.Fatalf("%d users were claimed, want 6", len(claimed))
	}
	slices.SortFunc(claimed, func(a, b state.Claimed) int { return int(a.UserID - b.UserID) })
	in := func(c state.Claimed) *state.Intent {
		return &state.Intent{Run: run, UserID: c.UserID, Fence: c.Fence, Action: c.Action, Version: c.Version, Before: []byte(`{"a":1}`), AfterFragment: []byte(`{}`)}
	}
	intents := []*state.Intent{in(claimed[0]), in(claimed[1]), in(claimed[2]), in(claimed[4])}
	do("Journal", state.Journal(ctx, db, bridge, intents))
	do("Settle", state.Settle(ctx, db, bridge, []state.Outcome{{
		UserID: 1, Fence: claimed[0].Fence, Entry: intents[0].Entry, State: state.Verified, Applied: true,
		Version: claimed[0].Version, Digest: []byte("wanted"), Source: []byte("source"),
	}}))
	do("CloseEntry", state.CloseEntry(ctx, db, bridge, intents[1].Entry, state.Unsent, "note"))
	do("Fail", state.Fail(ctx, db, bridge, []state.Failure{{UserID: 2, Fence: claimed[1].Fence, Problem: "problem"}}))
	do("LockUsers", state.InTx(ctx, db, func(tx pgx.Tx) error { return state.LockUsers(ctx, tx, bridge, []int64{4}) }))
	do("Withdraw", state.Withdraw(ctx, db, bridge, claimed[3:4]))
	do("Unclaim", state.Unclaim(ctx, db, bridge, 3, claimed[2].Fence))
	do("ReleaseClaimed", state.ReleaseClaimed(ctx, db, bridge, []int64{6}, []int64{1 << 40}))
	do("FoundRecordings", state.FoundRecordings(ctx, db, bridge, claimed[5:]))
	do("ReleaseBut", state.ReleaseBut(ctx, db, bridge, owner, []int64{5}))
	open, err := state.ClaimOpen(ctx, db, bridge, owner, 10)
	do("ClaimOpen", err)
	if len(open) != 1 || open[0].UserID != 3 {
		t.Errorf("unsettled: %+v", open)
	}
	_, _, err = state.ClaimedWish(ctx, db, bridge, 3, open[0].Fence)
	do("ClaimedWish", err)
	exec(t, db, `UPDATE directory_users SET audit_at = now() - interval '1 minute' WHERE bridge = $1 AND audit_at IS NOT NULL`, bridge)
	audited, err := state.NextAudits(ctx, db, bridge, 10)
	do("NextAudits", err)
	if len(audited) != 1 || audited[0].UserID != 1 {
		t.Fatalf("to be audited: %+v", audited)
	}
	drifted, err := state.StoreAudits(ctx, db, bridge, []state.Audit{{UserID: 1, Applied: audited[0].AppliedDigest, Seen: []byte("other")}})
	do("StoreAudits", err)
	do("PostponeAudits", state.PostponeAudits(ctx, db, bridge, []int64{1}))
	if drifted != 1 {
		t.Errorf("%d have drifted", drifted)
	}
	_, err = state.SomeWritten(ctx, db, bridge, 5)
	do("SomeWritten", err)
	_, err = state.IsListed(ctx, db, bridge, 1, 1)
	do("IsListed", err)
	do("Rekey", state.InTx(ctx, db, func(tx pgx.Tx) error {
		return state.Rekey(ctx, tx, bridge, state.DirectoryUser{UserID: 1, Email: "a@x", ExternalID: "1"})
	}))
	do("MarkGone", state.InTx(ctx, db, func(tx pgx.Tx) error { return state.MarkGone(ctx, tx, bridge, 1) }))
	_, _, err = state.CountWrites(ctx, db, bridge, run)
	do("CountWrites", err)
	_, err = state.CountTotals(ctx, db, bridge)
	do("CountTotals", err)
	do("Release", state.Release(ctx, db, bridge, owner))

	do("Halt", state.Halt(ctx, db, bridge, "reason", run))
	do("CloseDamage", state.InTx(ctx, db, func(tx pgx.Tx) error {
		return state.CloseDamage(ctx, tx, bridge, intents[2].Entry, state.Damaged, "it could not be put back")
	}))
	_, err = state.GetBridge(ctx, db, bridge)
	do("GetBridge", err)
	do("Resume", state.Resume(ctx, db, bridge, "looked into"))
}

// judging stages removals in a run that waits for a person, and lets them through.
func judging(t *testing.T, db *pgxpool.Pool, bridge string, owner uuid.UUID, do func(name string, err error)) {
	t.Helper()
	ctx := t.Context()
	census := get[uuid.UUID](t)(uuid.NewRandom())
	exec(t, db, `INSERT INTO runs (bridge, run, kind, status) VALUES ($1, $2, 'census', 'running')`, bridge, census)
	want(t, db, bridge, "clear", 7)
	if n, err := stage(ctx, db, bridge, census); err != nil || n != 1 {
		t.Errorf("%d removals were staged, %v", n, err)
	}
	do("StageRemovals", nil)
	must(t, state.EndRun(ctx, db, bridge, stored(t, db, bridge, census), state.Quarantined, nil, ""))
	if a, err := state.ApproveRun(ctx, db, bridge, census, "write", owner, "why"); err != nil || a.Steps != 1 || len(a.Moved) != 0 {
		t.Errorf("approved: %+v, %v", a, err)
	}
	do("ApproveRun", nil)
	must(t, state.EndRun(ctx, db, bridge, stored(t, db, bridge, census), state.Done, nil, ""))
}

// forgetting makes a run, a row, a journal entry and a user of each bridge old, and forgets them.
func forgetting(t *testing.T, db *pgxpool.Pool, bridge string, do func(name string, err error)) {
	t.Helper()
	outdated(t, db, bridge)
	if gone, err := state.Prune(t.Context(), db, bridge, 24*time.Hour); err != nil || gone != 5 {
		t.Errorf("%d rows were forgotten, %v", gone, err)
	}
	do("Prune", nil)
}

// outdated makes one of everything that a bridge forgets after two days.
func outdated(t testing.TB, db state.Querier, bridge string) {
	t.Helper()
	exec(t, db, `INSERT INTO journal (bridge, run, user_id, fence, action, state, settled_at) VALUES ($1, gen_random_uuid(), 1, 1, 'write', 'verified', now() - interval '2 days')`, bridge)
	exec(t, db, `INSERT INTO runs (bridge, run, kind, status, started_at, ended_at) SELECT $1, gen_random_uuid(), 'collect', 'done', now() - d, now() - d
		FROM unnest(ARRAY[interval '2 days', interval '1 hour']) d`, bridge)
	exec(t, db, `INSERT INTO cursors (bridge, stream, since, until, moved_at) VALUES ($1, gen_random_uuid(), now(), now(), now() - interval '2 days')`, bridge)
	exec(t, db, `INSERT INTO participants (bridge, participant, person, email, institution_id, event_access_code, event_title, first_name, last_name,
			name_badge_link, recording_link, recording_id, recording_date, content, replaced, missing_since)
		VALUES ($1, 'old', 'email:old@x', 'old@x', '', 'E', '', '', '', '', '', '', '', '', true, now() - interval '2 days')`, bridge)
	exec(t, db, `INSERT INTO directory_users (bridge, user_id, username, email, external_id, sweep, gone_at) VALUES ($1, 800, '', '', '', 1, now() - interval '2 days')`, bridge)
}

// job puts a job into a queue, as it is when by has attempted it that many seconds ago for the second time, and gives its id.
func job(t testing.TB, db state.Querier, queue, as string, by uuid.UUID, ago float64) int64 {
	t.Helper()
	return value[int64](t, db, `INSERT INTO river_job (state, attempt, max_attempts, kind, queue, args, attempted_at, attempted_by, scheduled_at)
		VALUES ($1::text::river_job_state, 2, 25, 'sync_batch', $2, '{}', now() - make_interval(secs => $3), ARRAY['somebody else', $4], now() + CASE WHEN $1::text = 'retryable' THEN interval '1 hour' ELSE '0' END)
		RETURNING id`, as, queue, ago, by.String())
}

// Two bridges in one database know nothing of each other: whatever is done for one, of the other not one byte moves.
func TestNoFunctionTouchesAnotherBridge(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a", "b", "c")
	called := everything(t, db, "b")
	for _, name := range bridgeFunctions(t) {
		if !called[name] {
			t.Errorf("%s is not in this test", name)
		}
	}
	// Something of every kind stays with b, and something is under way.
	other := live(t, db, "b")
	store(t, db, "b", participant("z@x", "E"))
	must(t, state.StoreDecisions(t.Context(), db, "b", []state.Decided{{Person: "email:z@x", UserID: 6, Rule: "email"}}))
	found, late := reading(), second(0)
	must(t, state.StageParticipants(t.Context(), db, "b", &found, []state.Participant{participant("late@x", "G")}))
	get[int64](t)(state.StoreStaged(t.Context(), db, "b", found, state.Bringing{By: found.ID, Found: &late}))
	staged := reading()
	must(t, state.StageParticipants(t.Context(), db, "b", &staged, []state.Participant{participant("y@x", "E")}))
	exec(t, db, `UPDATE staged_participants SET staged_at = now() - interval '2 hours'`)
	get[state.Listing](t)(state.TakeListing(t.Context(), db, "b", time.Hour))
	want(t, db, "b", "write", 2, 3, 4)
	want(t, db, "b", "clear", 5, 6)
	wish(t, db, "b", state.Wish{Run: uuid.New(), Urgency: state.Planned}, state.Wanted{UserID: 4, Action: "write", Digest: []byte("planned")})
	get[[]state.Claimed](t)(state.Claim(t.Context(), db, "b", state.BackfillPriority, other, 1))
	exec(t, db, `UPDATE directory_users SET audit_at = now() - interval '1 day', applied_digest = 'wanted', retry_at = now() + interval '1 hour', attempts = 3 WHERE bridge = 'b' AND user_id > 2`)
	exec(t, db, `UPDATE directory_users SET asked_at = NULL WHERE bridge = 'b'`)
	exec(t, db, `UPDATE participants SET link_due = true, doubt_due = true, absences = 1 WHERE bridge = 'b'`)
	must(t, state.NoteSchedule(t.Context(), db, "b", state.Schedule{Kind: state.Census, Expression: "@daily", DueAt: late}))
	for queue, as := range map[string]string{"b": "running", "b_now": "running", "b_bulk": "retryable"} {
		job(t, db, queue, as, uuid.New(), 3600)
	}
	outdated(t, db, "b")
	must(t, state.Halt(t.Context(), db, "b", "reason", uuid.New()))
	exec(t, db, `UPDATE workers SET heartbeat_at = now() - interval '2 days'`)

	before := contents(t, db, "b")
	for table, rows := range before {
		if rows == "" {
			t.Errorf("nothing of b is in %s: this test would not show that it is touched", table)
		}
	}
	everything(t, db, "a")
	if diff := cmp.Diff(before, contents(t, db, "b")); diff != "" {
		t.Errorf("what was done for a has changed b: %s", diff)
	}
	for table, rows := range contents(t, db, "c") {
		if rows != "" && table != "bridges" {
			t.Errorf("what was done for a and b has left something with c: %s: %s", table, rows)
		}
	}
}

// What a bridge sees is its own: the same calls give the same answers beside a full bridge as in an empty database.
func TestNoFunctionSeesAnotherBridge(t *testing.T) {
	t.Parallel()
	alone, beside := fresh(t, "b"), fresh(t, "a", "b")
	everything(t, beside, "a")
	see := func(db *pgxpool.Pool) map[string]any {
		ctx := t.Context()
		everything(t, db, "b")
		out := map[string]any{}
		note := func(name string, v any, err error) {
			t.Helper()
			must(t, err)
			out[name] = v
		}
		candidates, err := state.Candidates(ctx, db, "b", []string{"1", "3"}, []string{"a@x", "f@x"}, true)
		slices.SortFunc(candidates, func(a, b state.Candidate) int { return int(a.UserID - b.UserID) })
		note("candidates", candidates, err)
		keys, err := state.DirectoryKeys(ctx, db, "b", state.KeyEmail, "", 10)
		note("keys", keys, err)
		people, err := state.NextPeople(ctx, db, "b", "", 10, false, nil)
		for i := range people {
			people[i].ChangedAt = nil // it is when the test ran
		}
		note("people", people, err)
		linked, err := state.NextLinked(ctx, db, "b", "", 10)
		note("linked", linked, err)
		unasked, err := state.NextUnasked(ctx, db, "b", 0, 10)
		note("unasked", unasked, err)
		pending, err := state.CountPending(ctx, db, "b")
		note("pending", pending, err)
		work, err := state.FindWork(ctx, db, "b", state.BackfillPriority)
		note("work", work, err)
		totals, err := state.CountTotals(ctx, db, "b")
		note("totals", totals, err)
		runs, err := state.LastRuns(ctx, db, "b")
		note("runs", len(runs), err)
		users, err := state.NextUsers(ctx, db, "b", 0, 10, false)
		for i := range users {
			users[i].HeldChecked = nil
		}
		note("users", users, err)
		present, refused, err := state.ListingSizes(ctx, db, "b")
		note("sizes", []int64{present, refused}, err)
		company, err := state.Heartbeat(ctx, db, "b", uuid.New())
		note("company", company, err)
		return out
	}
	if diff := cmp.Diff(see(alone), see(beside)); diff != "" {
		t.Errorf("alone, and beside another bridge: %s", diff)
	}
}
