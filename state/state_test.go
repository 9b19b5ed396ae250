package state_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"namebridge/internal/postgres/testdb"
	"namebridge/migrations"
	"namebridge/state"
)

func TestMain(m *testing.M) { os.Exit(testdb.Main(m).Run()) }

// fresh is a migrated database with the bridges of those names.
func fresh(t testing.TB, bridges ...string) *pgxpool.Pool {
	t.Helper()
	db := testdb.New(t, migrations.Up)
	for i, b := range bridges {
		if _, err := state.EnsureBridge(t.Context(), db, b, int64(i+1)); err != nil {
			t.Fatal(err)
		}
	}
	return db
}

func exec(t testing.TB, db state.Querier, sql string, args ...any) {
	t.Helper()
	if _, err := db.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// value reads a single value.
func value[T any](t testing.TB, db state.Querier, sql string, args ...any) (v T) {
	t.Helper()
	if err := db.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// get fails the test for an error, and gives the value.
func get[T any](t testing.TB) func(T, error) T {
	t.Helper()
	return func(v T, err error) T {
		t.Helper()
		must(t, err)
		return v
	}
}

// contents is everything that a bridge has in the database, as text by table.
func contents(t testing.TB, db *pgxpool.Pool, bridge string) map[string]string {
	t.Helper()
	rows, err := db.Query(t.Context(), `SELECT relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'bridge'
		WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace ORDER BY relname`)
	must(t, err)
	tables := get[[]string](t)(pgx.CollectRows(rows, pgx.RowTo[string]))
	out := map[string]string{}
	for _, table := range tables {
		out[table] = value[string](t, db, `SELECT coalesce(string_agg(t::text, E'\n' ORDER BY t::text COLLATE "C"), '') FROM `+table+` t WHERE bridge = $1`, bridge)
	}
	return out
}

// participant is a row of somebody with that address in that event.
func participant(email, event string) state.Participant {
	return state.Participant{
		ID: []byte(email + "/" + event), Person: "email:" + email, Email: email, EventAccessCode: event,
		RecordingLink: "https://x/" + email, Content: []byte("content of " + email),
	}
}

// reading is a new one, of a process that is not alive.
func reading() state.Reading { return state.Reading{ID: uuid.New(), Owner: uuid.New()} }

// store makes rows count.
func store(t testing.TB, db *pgxpool.Pool, bridge string, rows ...state.Participant) int64 {
	t.Helper()
	reading := reading()
	must(t, state.StageParticipants(t.Context(), db, bridge, &reading, rows))
	return get[int64](t)(state.StoreStaged(t.Context(), db, bridge, reading, uuid.New(), false))
}

// user is a directory user with that address.
func user(id int64, email, external string) state.DirectoryUser {
	return state.DirectoryUser{UserID: id, Username: strings.ToUpper(email), Email: email, ExternalID: external}
}

// want makes users pending.
func want(t testing.TB, db state.Querier, bridge, action string, users ...int64) {
	t.Helper()
	ws := make([]state.Wanted, len(users))
	for i, u := range users {
		ws[i] = state.Wanted{UserID: u, Action: action, Value: json.RawMessage(`{"name_badge_link": "https://x"}`), Digest: []byte("wanted"), Source: []byte("source")}
	}
	must(t, state.StoreWanted(t.Context(), db, bridge, ws))
}

// live is a process that has just given a sign of life.
func live(t testing.TB, db state.Querier, bridge string) uuid.UUID {
	t.Helper()
	owner := uuid.New()
	must(t, state.Heartbeat(t.Context(), db, bridge, owner))
	return owner
}

// silence makes a process silent for that long.
func silence(t testing.TB, db state.Querier, owner uuid.UUID, seconds float64) {
	t.Helper()
	exec(t, db, `UPDATE workers SET heartbeat_at = now() - make_interval(secs => $2) WHERE owner = $1`, owner, seconds)
}

// everything calls every function that takes a bridge, once with something to do, and says which it called.
func everything(t *testing.T, db *pgxpool.Pool, bridge string) map[string]bool {
	t.Helper()
	ctx := t.Context()
	called := map[string]bool{}
	do := func(name string, err error) {
		t.Helper()
		called[name] = true
		if err != nil && !errors.Is(err, state.ErrStale) {
			t.Fatalf("%s: %v", name, err)
		}
	}
	owner := uuid.New()
	since := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	_, err := state.EnsureBridge(ctx, db, bridge, value[int64](t, db, `SELECT organization_id FROM bridges WHERE bridge = $1`, bridge))
	do("EnsureBridge", err)
	do("NoteLayout", state.InTx(ctx, db, func(tx pgx.Tx) error { return state.NoteLayout(ctx, tx, bridge, "nested") }))
	do("Heartbeat", state.Heartbeat(ctx, db, bridge, owner))
	do("SetRowsCarryFragment", state.SetRowsCarryFragment(ctx, db, bridge, true))
	var taken state.Run
	do("TakeRun", state.InTx(ctx, db, func(tx pgx.Tx) (err error) {
		taken, err = state.TakeRun(ctx, tx, bridge, state.Backfill, &since, owner, true)
		return err
	}))
	run := taken.Run
	_, err = state.GetRun(ctx, db, bridge, run)
	do("GetRun", err)

	cursor, err := state.StartCursor(ctx, db, bridge, state.Cursor{Stream: "walk", Since: since, Until: since, Walk: json.RawMessage(`{}`)})
	do("StartCursor", err)
	do("MoveCursor", state.MoveCursor(ctx, db, bridge, cursor, cursor.Until.Add(time.Hour), json.RawMessage(`{"a": 1}`)))
	do("Collected", state.Collected(ctx, db, bridge, since, since.Add(time.Hour)))
	_, err = state.GetCursor(ctx, db, bridge, state.ParticipantStream)
	do("GetCursor", err)

	first, second := reading(), reading()
	do("StageParticipants", state.StageParticipants(ctx, db, bridge, &first, []state.Participant{participant("a@x", "E"), participant("b@x", "E"), participant("c@x", "F")}))
	must(t, state.StageParticipants(ctx, db, bridge, &second, []state.Participant{participant("d@x", "E")}))
	do("JoinStaged", state.JoinStaged(ctx, db, bridge, second, &first))
	_, err = state.StoreStaged(ctx, db, bridge, first, run, true)
	do("StoreStaged", err)
	_, err = state.Now(ctx, db)
	must(t, err)
	_, err = state.Suspects(ctx, db, bridge, nil)
	do("Suspects", err)
	do("MarkMissing", state.InTx(ctx, db, func(tx pgx.Tx) error {
		return state.MarkMissing(ctx, tx, bridge, time.Now().Add(time.Hour), &state.Asked{Emails: []string{"nobody@x"}})
	}))
	do("ForgetDoubts", state.ForgetDoubts(ctx, db, bridge, time.Now().Add(time.Hour)))
	do("ForgetUncounted", state.ForgetUncounted(ctx, db, bridge, []string{"E", "F"}))
	second = reading()
	must(t, state.StageParticipants(ctx, db, bridge, &second, []state.Participant{participant("e@x", "E")}))
	do("DropStaged", state.DropStaged(ctx, db, bridge, second))
	do("LockParticipants", state.InTx(ctx, db, func(tx pgx.Tx) error { return state.LockParticipants(ctx, tx, bridge) }))

	listing, err := state.TakeListing(ctx, db, bridge, time.Hour)
	do("TakeListing", err)
	_, err = state.GetListing(ctx, db, bridge, listing.Sweep)
	do("GetListing", err)
	do("RefuseListing", state.RefuseListing(ctx, db, bridge, listing))
	listing, err = state.TakeListing(ctx, db, bridge, time.Hour)
	must(t, err)
	users := []state.DirectoryUser{user(1, "a@x", "1"), user(2, "b@x", "1"), user(3, "c@x", "3"), user(4, "d@x", ""), user(5, "e@x", ""), user(6, "f@x", "")}
	_, err = state.StoreDirectory(ctx, db, bridge, listing.Sweep, users)
	do("StoreDirectory", err)
	next := listing
	next.After, next.AfterID, next.Rows = "2024", 6, 6
	do("MoveListing", state.MoveListing(ctx, db, bridge, listing, next))
	_, _, err = state.ListingSizes(ctx, db, bridge)
	do("ListingSizes", err)
	do("CompleteListing", state.CompleteListing(ctx, db, bridge, next))
	_, err = state.Candidates(ctx, db, bridge, []string{"1"}, []string{"c@x"}, true)
	do("Candidates", err)
	_, err = state.DirectoryKeys(ctx, db, bridge, state.KeyEmail, "", 10)
	do("DirectoryKeys", err)

	_, err = state.NextPeople(ctx, db, bridge, "", 10, true, nil)
	do("NextPeople", err)
	do("StoreDecisions", state.StoreDecisions(ctx, db, bridge, []state.Decided{
		{Person: "email:a@x", UserID: 1, Rule: "email", Changed: true}, {Person: "email:b@x", UserID: 2, Rule: "email"}, {Person: "email:c@x", UserID: 3, Rule: "email"},
	}))
	must(t, state.StoreDecisions(ctx, db, bridge, []state.Decided{{Person: "email:b@x", WasUser: 2}}))
	do("DropUncounted", state.DropUncounted(ctx, db, bridge, []string{"E"}))
	do("StoreHolds", state.StoreHolds(ctx, db, bridge, state.HeldUser, []state.Hold{{Subject: "1", Reason: "unwritable"}, {Subject: "2", Reason: "refused"}}, []string{"3"}))
	_, err = state.ParticipantsOf(ctx, db, bridge, []int64{1, 2})
	do("ParticipantsOf", err)
	must(t, state.InTx(ctx, db, func(tx pgx.Tx) error {
		_, err := state.NextUsers(ctx, tx, bridge, 0, 10, false)
		do("NextUsers", err)
		return nil
	}))

	want(t, db, bridge, "write", 1, 2, 3, 4)
	want(t, db, bridge, "clear", 5, 6)
	called["StoreWanted"] = true
	do("StageClears", state.StageClears(ctx, db, bridge, run))
	do("StorePlanSteps", state.StorePlanSteps(ctx, db, bridge, run, []state.PlanStep{{UserID: 1, Action: "write", Wanted: json.RawMessage(`{}`)}}))
	_, err = state.PendingUsers(ctx, db, bridge, 0, 10)
	do("PendingUsers", err)
	claimed, err := state.Claim(ctx, db, bridge, owner, 10, true)
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
	do("Withdraw", state.Withdraw(ctx, db, bridge, claimed[3:4]))
	do("Unclaim", state.Unclaim(ctx, db, bridge, 3, claimed[2].Fence))
	_, err = state.ClaimOpen(ctx, db, bridge, owner, 10)
	do("ClaimOpen", err)
	_, err = state.CountPending(ctx, db, bridge)
	do("CountPending", err)
	do("ForgetFailures", state.ForgetFailures(ctx, db, bridge))
	do("MarkGone", state.MarkGone(ctx, db, bridge, 1))
	_, err = state.SomeWritten(ctx, db, bridge, 5)
	do("SomeWritten", err)
	_, _, err = state.CountWrites(ctx, db, bridge, run)
	do("CountWrites", err)
	_, err = state.CountTotals(ctx, db, bridge)
	do("CountTotals", err)
	_, err = state.LastRuns(ctx, db, bridge)
	do("LastRuns", err)
	do("Release", state.Release(ctx, db, bridge, owner))

	do("Halt", state.Halt(ctx, db, bridge, "reason", run))
	do("CloseDamage", state.InTx(ctx, db, func(tx pgx.Tx) error {
		return state.CloseDamage(ctx, tx, bridge, intents[2].Entry, state.Damaged, "it could not be put back")
	}))
	_, err = state.GetBridge(ctx, db, bridge)
	do("GetBridge", err)
	do("Resume", state.Resume(ctx, db, bridge, "looked into"))
	do("ReleaseRun", state.ReleaseRun(ctx, db, bridge, run, uuid.New()))
	do("EndRun", state.EndRun(ctx, db, bridge, run, owner, state.Done, map[string]int{"written": 1}, ""))
	do("DropCursor", state.DropCursor(ctx, db, bridge, "walk"))
	do("Leave", state.Leave(ctx, db, bridge, owner))
	return called
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
	staged := reading()
	must(t, state.StageParticipants(t.Context(), db, "b", &staged, []state.Participant{participant("y@x", "E")}))
	exec(t, db, `UPDATE staged_participants SET staged_at = now() - interval '2 hours'`)
	get[state.Listing](t)(state.TakeListing(t.Context(), db, "b", time.Hour))
	want(t, db, "b", "write", 2, 3)
	want(t, db, "b", "clear", 5, 6)
	get[[]state.Claimed](t)(state.Claim(t.Context(), db, "b", other, 1, true))
	must(t, state.Halt(t.Context(), db, "b", "reason", uuid.New()))
	exec(t, db, `UPDATE workers SET heartbeat_at = now() - interval '2 days'`)

	before := contents(t, db, "b")
	for table, rows := range before {
		if rows == "" && table != "holds" && table != "plan_steps" {
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
		note("people", people, err)
		pending, err := state.CountPending(ctx, db, "b")
		note("pending", pending, err)
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
		return out
	}
	if diff := cmp.Diff(see(alone), see(beside)); diff != "" {
		t.Errorf("alone, and beside another bridge: %s", diff)
	}
}

func TestATransactionThatConflictsIsRunAgain(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	var tries atomic.Int32
	err := state.InTx(t.Context(), db, func(tx pgx.Tx) error {
		exec(t, tx, `UPDATE bridges SET organization_id = organization_id + 1`)
		if tries.Add(1) < 3 {
			_, err := tx.Exec(t.Context(), `DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40P01'; END $$`)
			return fmt.Errorf("wrapped: %w", err)
		}
		return nil
	})
	if n := value[int64](t, db, `SELECT organization_id FROM bridges`); err != nil || tries.Load() != 3 || n != 2 {
		t.Errorf("after %d tries it was done %d times: %v", tries.Load(), n-1, err)
	}
	tries.Store(0)
	err = state.InTx(t.Context(), db, func(tx pgx.Tx) error {
		tries.Add(1)
		_, err := tx.Exec(t.Context(), `SELECT 1 / 0`)
		return err
	})
	if err == nil || tries.Load() != 1 {
		t.Errorf("what cannot be mended was tried %d times: %v", tries.Load(), err)
	}
}

func TestATransactionWhoseContextEndsIsRolledBack(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	ctx, cancel := context.WithCancel(t.Context())
	err := state.InTx(ctx, db, func(tx pgx.Tx) error {
		exec(t, tx, `DELETE FROM bridges`)
		cancel()
		return ctx.Err()
	})
	if n := value[int](t, db, `SELECT count(*) FROM bridges`); !errors.Is(err, context.Canceled) || n != 1 {
		t.Errorf("%d bridges are left, %v", n, err)
	}
}

// A connection string holds a password.
func TestAConnectionStringIsNotRepeatedInAnError(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"postgres://u:s3cret@localhost:port/x", "postgres://u:s3cret@[::1/x", "host=localhost password=s3cret port=-1 =", "postgres://u:s3cret@127.0.0.1:1/x?connect_timeout=1"} {
		db, err := state.Open(t.Context(), url, 1)
		if err == nil {
			db.Close()
			t.Fatal("opened")
		}
		if strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%v", err)
		}
	}
}

func TestAnOpenedDatabaseAnswers(t *testing.T) {
	t.Parallel()
	db, err := state.Open(t.Context(), testdb.URL(t, migrations.Up), 1)
	must(t, err)
	defer db.Close()
	if jit := value[string](t, db, `SHOW jit`); jit != "off" {
		t.Errorf("jit is %s: statements are compiled for longer than they run", jit)
	}
	if name := value[string](t, db, `SHOW application_name`); name != "namebridge" {
		t.Errorf("it is called %q", name)
	}
}

// A process that is stopped within a transaction, or whose machine is gone, must not hold up the one that takes over.
func TestATransactionThatNobodyGoesOnWithLetsGo(t *testing.T) {
	t.Parallel()
	url := testdb.URL(t, migrations.Up)
	stopped, heir := get[*pgxpool.Pool](t)(state.Open(t.Context(), url, 1)), get[*pgxpool.Pool](t)(state.Open(t.Context(), url, 1))
	t.Cleanup(stopped.Close)
	t.Cleanup(heir.Close)
	get[state.Bridge](t)(state.EnsureBridge(t.Context(), heir, "a", 1))
	tx := get[pgx.Tx](t)(stopped.Begin(t.Context()))
	t.Cleanup(func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) })
	exec(t, tx, `UPDATE bridges SET halt_reason = 'never committed' WHERE bridge = 'a'`)

	ctx, cancel := context.WithTimeout(t.Context(), 3*state.Lease*time.Second)
	defer cancel()
	if _, err := heir.Exec(ctx, `UPDATE bridges SET halt_reason = NULL WHERE bridge = 'a'`); err != nil {
		t.Fatalf("still waiting: %v", err)
	}
	if err := tx.Commit(t.Context()); err == nil {
		t.Error("the stopped transaction was committed all the same")
	}
}
