package state_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

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

// markGone marks a user as gone, in a transaction of its own.
func markGone(t testing.TB, db *pgxpool.Pool, bridge string, user int64) {
	t.Helper()
	must(t, state.InTx(t.Context(), db, func(tx pgx.Tx) error { return state.MarkGone(t.Context(), tx, bridge, user) }))
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

// database is a pool or, within undone, a transaction.
type database interface {
	state.Querier
	state.Copier
	Begin(ctx context.Context) (pgx.Tx, error)
}

// undone does something of which nothing stays: cases need no database each.
func undone(t testing.TB, db database, do func(tx pgx.Tx)) {
	t.Helper()
	tx := get[pgx.Tx](t)(db.Begin(t.Context()))
	defer func() { must(t, tx.Rollback(t.Context())) }()
	standing(t, tx)
	do(tx)
}

// standing lets a transaction outlive a test that stands still in it, where Postgres would end a process's.
func standing(t testing.TB, tx pgx.Tx) {
	t.Helper()
	_, err := tx.Exec(t.Context(), `SET LOCAL idle_in_transaction_session_timeout = 0`)
	must(t, err)
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
	return get[int64](t)(state.StoreStaged(t.Context(), db, bridge, reading, state.Bringing{By: uuid.New()}))
}

// user is a directory user with that address.
func user(id int64, email, external string) state.DirectoryUser {
	return state.DirectoryUser{UserID: id, Username: strings.ToUpper(email), Email: email, ExternalID: external}
}

// want makes users pending, for a run that is over, with the least urgency of those who write.
func want(t testing.TB, db state.Querier, bridge, action string, users ...int64) {
	t.Helper()
	ws := make([]state.Wanted, len(users))
	for i, u := range users {
		ws[i] = state.Wanted{UserID: u, Action: action, Value: json.RawMessage(`{"name_badge_link": "https://x"}`), Digest: []byte("wanted"), Source: []byte("source")}
	}
	wish(t, db, bridge, state.Wish{Run: uuid.New(), Urgency: state.BackfillPriority}, ws...)
}

// wish stores what somebody wants, and gives how many users are pending by that.
func wish(t testing.TB, db state.Querier, bridge string, by state.Wish, ws ...state.Wanted) int {
	t.Helper()
	return get[int](t)(state.StoreWanted(t.Context(), db, bridge, by, ws))
}

// live is a process that has just given a sign of life, and lives until it leaves or silence takes it: a test may stand still for longer than a lease.
func live(t testing.TB, db state.Querier, bridge string) uuid.UUID {
	t.Helper()
	owner := uuid.New()
	get[state.Company](t)(state.Heartbeat(t.Context(), db, bridge, owner))
	silence(t, db, owner, -3600)
	return owner
}

// silence makes a process silent for that long.
func silence(t testing.TB, db state.Querier, owner uuid.UUID, seconds float64) {
	t.Helper()
	exec(t, db, `UPDATE workers SET heartbeat_at = now() - make_interval(secs => $2) WHERE owner = $1`, owner, seconds)
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

// stored reads a run as it stands.
func stored(t testing.TB, q state.Querier, bridge string, run uuid.UUID) state.Run {
	t.Helper()
	return get[state.Run](t)(state.GetRun(t.Context(), q, bridge, run))
}

// at is a run as somebody knows it who believes it to be in a phase.
func at(run state.Run, phase string) state.Run {
	run.Phase = phase
	return run
}
