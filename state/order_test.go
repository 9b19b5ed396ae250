package state_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"namebridge/internal/postgres/testdb"
	"namebridge/migrations"
	"namebridge/state"
)

// meet does something beside a transaction that locks first before, and then, as soon as the other waits for it, what second names.
// Postgres ends neither for a deadlock where both lock in one order. It gives what became of do.
func meet(t *testing.T, db *pgxpool.Pool, first, second string, do func(pgx.Tx) error) {
	t.Helper()
	other, mine := open(t, db), open(t, db)
	exec(t, other, first)
	done := make(chan error, 1)
	go func() {
		err := do(mine)
		if err == nil {
			err = mine.Commit(t.Context())
		} else {
			err = errors.Join(err, mine.Rollback(t.Context()))
		}
		done <- err
	}()
	for waits := false; !waits; {
		select {
		case err := <-done:
			t.Fatalf("it did not wait for what was locked: %v", err)
		case <-time.After(5 * time.Millisecond):
			waits = blocked(t, db, other)
		}
	}
	_, err := other.Exec(t.Context(), second)
	if err == nil {
		err = other.Commit(t.Context())
	} else {
		err = errors.Join(err, other.Rollback(t.Context()))
	}
	if err := errors.Join(err, <-done); err != nil {
		t.Errorf("%v", err)
	}
}

// blocked says whether anybody waits for tx.
func blocked(t testing.TB, db *pgxpool.Pool, tx pgx.Tx) bool {
	t.Helper()
	return value[bool](t, db, `SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE $1::int = ANY(pg_blocking_pids(pid)))`, int(tx.Conn().PgConn().PID()))
}

// reversed is a database with users 1 to 3 of bridge a, whose rows lie the other way round, and whose plans go by where they lie: no
// statement locks them in order by luck.
func reversed(t *testing.T) *pgxpool.Pool {
	t.Helper()
	cfg := get[*pgxpool.Config](t)(pgxpool.ParseConfig(testdb.URL(t, migrations.Up)))
	for _, way := range []string{"enable_indexscan", "enable_indexonlyscan"} {
		cfg.ConnConfig.RuntimeParams[way] = "off"
	}
	db := get[*pgxpool.Pool](t)(pgxpool.NewWithConfig(t.Context(), cfg))
	t.Cleanup(db.Close)
	get[state.Bridge](t)(state.EnsureBridge(t.Context(), db, "a", 1))
	for id := int64(3); id > 0; id-- {
		email := string(rune('a'+id-1)) + "@x"
		get[int64](t)(state.StoreDirectory(t.Context(), db, "a", 1, []state.DirectoryUser{user(id, email, "")}, false))
	}
	return db
}

// Processes that lock several users lock them in the order of their ids, whatever they do and whatever the plan: else two of them end in
// a deadlock.
func TestUsersAreLockedInOneOrder(t *testing.T) {
	t.Parallel()
	all := []int64{3, 2, 1}
	claimed := []state.Claimed{{UserID: 3}, {UserID: 2}, {UserID: 1}}
	owner, run := uuid.New(), uuid.New()
	// What speaks for everybody was last seen before another row that says as much, or in a census before this one.
	const spoken = `INSERT INTO participants (bridge, participant, person, email, institution_id, event_access_code, event_title, first_name, last_name,
			name_badge_link, recording_link, recording_id, recording_date, content, seen_at, created_at, created_run, seen_run, asked_run)
		SELECT 'a', convert_to(e || r, 'UTF8'), 'email:' || e, e, '', 'E', '', '', '', '', 'https://x', '', '', '', now() - r * interval '1 hour',
			now() - r * interval '1 hour', gen_random_uuid(), gen_random_uuid(), CASE WHEN r = 2 THEN $1::uuid END FROM unnest(ARRAY['c@x', 'b@x', 'a@x']) e, generate_series(1, 2) r;`
	const linked = `INSERT INTO links (bridge, person, user_id, rule) SELECT bridge, 'email:' || email, user_id, 'email' FROM directory_users ORDER BY user_id DESC`
	for name, c := range map[string]struct {
		prepare []string
		args    []any // of the first
		do      ask
	}{
		"NextUsers": {[]string{`UPDATE directory_users SET decide_due = true`}, nil, asks(func(ctx context.Context, q state.Querier) ([]state.DueUser, error) {
			return state.NextUsers(ctx, q, "a", 0, 3, true)
		})},
		"StoreDirectory": {do: asks(func(ctx context.Context, q state.Querier) (int64, error) {
			return state.StoreDirectory(ctx, q, "a", 1, []state.DirectoryUser{user(3, "c@x", ""), user(2, "b@x", ""), user(1, "a@x", "")}, false)
		})},
		"CompleteListing": {[]string{`INSERT INTO listings (bridge, sweep) VALUES ('a', 2)`}, nil, func(ctx context.Context, q state.Querier) error {
			return state.CompleteListing(ctx, q, "a", state.Listing{Sweep: 2})
		}},
		"NoteLayout": {[]string{`UPDATE bridges SET layout = 'nested'`, `UPDATE directory_users SET wanted_version = 1`}, nil, func(ctx context.Context, q state.Querier) error {
			return state.NoteLayout(ctx, q.(pgx.Tx), "a", "flat", "flat")
		}},
		"NoteAsked, of some": {do: func(ctx context.Context, q state.Querier) error { return state.NoteAsked(ctx, q, "a", all) }},
		"NoteAsked, of all":  {do: func(ctx context.Context, q state.Querier) error { return state.NoteAsked(ctx, q, "a", nil) }},
		"StoreAudits": {do: asks(func(ctx context.Context, q state.Querier) (int64, error) {
			return state.StoreAudits(ctx, q, "a", []state.Audit{{UserID: 3}, {UserID: 2}, {UserID: 1}})
		})},
		"PostponeAudits":  {do: func(ctx context.Context, q state.Querier) error { return state.PostponeAudits(ctx, q, "a", all) }},
		"Withdraw":        {do: func(ctx context.Context, q state.Querier) error { return state.Withdraw(ctx, q, "a", claimed) }},
		"FoundRecordings": {do: func(ctx context.Context, q state.Querier) error { return state.FoundRecordings(ctx, q, "a", claimed) }},
		"Fail": {do: func(ctx context.Context, q state.Querier) error {
			return state.Fail(ctx, q, "a", []state.Failure{{UserID: 3}, {UserID: 2}, {UserID: 1}})
		}},
		"Settle": {do: func(ctx context.Context, q state.Querier) error {
			return state.Settle(ctx, q, "a", []state.Outcome{{UserID: 3}, {UserID: 2}, {UserID: 1}})
		}},
		"ReleaseClaimed": {do: func(ctx context.Context, q state.Querier) error {
			return state.ReleaseClaimed(ctx, q, "a", all, make([]int64, 3))
		}},
		"ReleaseBut": {[]string{`UPDATE directory_users SET claim_owner = $1`}, []any{owner}, func(ctx context.Context, q state.Querier) error {
			return state.ReleaseBut(ctx, q, "a", owner, nil)
		}},
		"Release": {[]string{`UPDATE directory_users SET claim_owner = $1`}, []any{owner}, func(ctx context.Context, q state.Querier) error {
			return state.Release(ctx, q, "a", owner)
		}},
		"Adopt": {[]string{`UPDATE directory_users SET wanted_version = 1`}, nil, func(ctx context.Context, q state.Querier) error {
			return state.Adopt(ctx, q, "a", run, state.SweepPriority)
		}},
		"TakeRemovals": {
			[]string{`UPDATE directory_users SET wanted_version = 1, action = 'clear', removes = true`},
			nil,
			asks(func(ctx context.Context, q state.Querier) ([]int64, error) {
				return state.TakeRemovals(ctx, q, "a", run, true)
			}),
		},
		"ApproveRun": {[]string{
			`INSERT INTO runs (bridge, run, kind, status) VALUES ('a', $1, 'census', 'quarantined')`,
			`INSERT INTO plan_steps (bridge, run, user_id, action, version) SELECT 'a', run, user_id, 'clear', 1 FROM runs, directory_users ORDER BY user_id DESC`,
			`UPDATE directory_users SET wanted_version = 1`,
		}, []any{run}, asks(func(ctx context.Context, q state.Querier) (state.Approval, error) {
			return state.ApproveRun(ctx, q, "a", run, "write", owner, "why")
		})},
		"MarkMissing": {[]string{spoken, linked}, []any{run}, func(ctx context.Context, q state.Querier) error {
			return state.MarkMissing(ctx, q, "a", time.Now().Add(-90*time.Minute), nil)
		}},
		"ConcludeCensus": {[]string{spoken, linked}, []any{run}, asks(func(ctx context.Context, q state.Querier) (state.CensusCounts, error) {
			return state.ConcludeCensus(ctx, q, "a", run, time.Now(), 1)
		})},
		"StoreDecisions": {do: func(ctx context.Context, q state.Querier) error {
			return state.StoreDecisions(ctx, q, "a", []state.Decided{
				{Person: "email:c@x", UserID: 3, Rule: "email"}, {Person: "email:b@x", UserID: 2, Rule: "email"}, {Person: "email:a@x", UserID: 1, Rule: "email"},
			})
		}},
		"DropUncounted": {[]string{linked}, nil, func(ctx context.Context, q state.Querier) error {
			return state.DropUncounted(ctx, q, "a", []string{"E"})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := reversed(t)
			for i, sql := range c.prepare {
				if i > 0 {
					exec(t, db, sql)
				} else {
					exec(t, db, sql, c.args...)
				}
			}
			meet(t, db, `SELECT FROM directory_users WHERE user_id = 2 FOR UPDATE`, `SELECT FROM directory_users WHERE user_id = 3 FOR UPDATE`,
				func(tx pgx.Tx) error { return c.do(t.Context(), tx) })
		})
	}
}

// A hold of a user belongs to whoever has locked the user.
const aHold = `INSERT INTO holds (bridge, kind, subject, reason, detail) VALUES ('a', 'user', '1', 'unwritable', '')
	ON CONFLICT (bridge, kind, subject) DO UPDATE SET reason = EXCLUDED.reason`

// What has rows in several tables takes them in one order: else two that each do one thing right end in a deadlock.
func TestTablesAreLockedInOneOrder(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		prepare       string
		first, second string // of somebody who has them in this order
		do            func(context.Context, pgx.Tx) error
	}{
		"a directory that is complete, beside a probe of one of its users": {
			`INSERT INTO listings (bridge, sweep) VALUES ('a', 2)`,
			`SELECT FROM bridges FOR NO KEY UPDATE`, `SELECT FROM directory_users WHERE user_id = 1 FOR UPDATE`,
			func(ctx context.Context, tx pgx.Tx) error {
				return state.CompleteListing(ctx, tx, "a", state.Listing{Sweep: 2})
			},
		},
		"a bridge that is resumed, beside a failure that is noted with a hold": {
			`WITH due AS (INSERT INTO schedules (bridge, kind, expression, due_at) VALUES ('a', 'housekeeping', '', now())) UPDATE bridges SET halted_at = now()`,
			`UPDATE schedules SET due_at = now()`, aHold,
			func(ctx context.Context, tx pgx.Tx) error { return state.Resume(ctx, tx, "a", "why") },
		},
		"a hold that is released, beside a decision about its user": {
			aHold,
			`SELECT FROM directory_users WHERE user_id = 1 FOR UPDATE`, aHold,
			func(ctx context.Context, tx pgx.Tx) error {
				return state.ReleaseHold(ctx, tx, "a", state.ListedHold{Kind: state.HeldUser, Subject: "1", Reason: "unwritable"})
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := reversed(t)
			exec(t, db, c.prepare)
			meet(t, db, c.first, c.second, func(tx pgx.Tx) error { return c.do(t.Context(), tx) })
		})
	}
}

// The queue locks jobs in orders of its own, so that nobody may wait for one while having another.
func TestNoJobIsWaitedForByWhoeverHasAnother(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	first, second := job(t, db, "a", "retryable", uuid.New(), 60), job(t, db, "a", "retryable", uuid.New(), 60)
	lock := func(id int64) string { return fmt.Sprintf(`SELECT FROM river_job WHERE id = %d FOR UPDATE`, id) }
	meet(t, db, lock(second), lock(first), func(pgx.Tx) error { return state.WakeJobs(t.Context(), db, "a") })
	if n := value[int](t, db, `SELECT count(*) FROM river_job WHERE state = 'available'`); n != 2 {
		t.Errorf("%d of 2 jobs are awake", n)
	}
}

// What is done every few moments passes over what somebody has, in whichever order, and comes to it the next time.
func TestTidyingUpWaitsForNobody(t *testing.T) {
	t.Parallel()
	prune := asks(func(ctx context.Context, q state.Querier) (int64, error) {
		return state.Prune(ctx, q, "a", 24*time.Hour)
	})
	owner := uuid.New()
	for name, c := range map[string]struct {
		lock, left string
		do         ask
	}{
		"a settled write":        {`SELECT FROM journal LIMIT 1 FOR UPDATE`, `SELECT count(*) FROM journal`, prune},
		"a run":                  {`SELECT FROM runs ORDER BY started_at LIMIT 1 FOR UPDATE`, `SELECT count(*) FROM runs WHERE started_at < now() - interval '1 day'`, prune},
		"a walk":                 {`SELECT FROM cursors LIMIT 1 FOR UPDATE`, `SELECT count(*) FROM cursors`, prune},
		"a row that is replaced": {`SELECT FROM participants LIMIT 1 FOR UPDATE`, `SELECT count(*) FROM participants`, prune},
		"a doubt": {
			`SELECT FROM participants LIMIT 1 FOR UPDATE`, `SELECT count(*) FROM participants WHERE doubt_due`,
			func(ctx context.Context, q state.Querier) error { return state.ForgetDoubts(ctx, q, "a", time.Now()) },
		},
		"a row of an event that does not count": {
			`SELECT FROM participants LIMIT 1 FOR UPDATE`, `SELECT count(*) FROM participants WHERE link_due`,
			func(ctx context.Context, q state.Querier) error {
				return state.ForgetUncounted(ctx, q, "a", []string{"F"})
			},
		},
		"a row that windows have missed": {
			`SELECT FROM participants LIMIT 1 FOR UPDATE`, `SELECT count(*) FROM participants WHERE found_at IS NOT NULL`,
			asks(func(ctx context.Context, q state.Querier) (int64, error) {
				return state.CountLate(ctx, q, "a", time.Now(), time.Minute, true)
			}),
		},
		"a user who is gone": {`SELECT FROM directory_users WHERE gone_at IS NOT NULL LIMIT 1 FOR UPDATE`, `SELECT count(*) FROM directory_users WHERE gone_at IS NOT NULL`, prune},
		"a process of yesterday": {
			`SELECT FROM workers LIMIT 1 FOR UPDATE`, `SELECT count(*) FROM workers WHERE heartbeat_at < now() - interval '1 day'`,
			asks(func(ctx context.Context, q state.Querier) (state.Company, error) {
				return state.Heartbeat(ctx, q, "a", owner)
			}),
		},
		"a row of a reading of nobody's": {
			`SELECT FROM staged_participants LIMIT 1 FOR UPDATE`, `SELECT count(*) FROM staged_participants`,
			func(ctx context.Context, q state.Querier) error { return state.DropStaged(ctx, q, "a", reading()) },
		},
		"a job of nobody's": {
			`SELECT FROM river_job LIMIT 1 FOR UPDATE`, `SELECT count(*) FROM river_job WHERE state = 'running'`,
			asks(func(ctx context.Context, q state.Querier) (int64, error) {
				return state.RescueJobs(ctx, q, "a", owner, nil)
			}),
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := fresh(t, "a")
			outdated(t, db, "a")
			exec(t, db, `INSERT INTO journal (bridge, run, user_id, fence, action, state, settled_at) SELECT bridge, run, user_id, fence, action, state, settled_at FROM journal`)
			exec(t, db, `INSERT INTO runs (bridge, run, kind, status, started_at, ended_at) SELECT bridge, gen_random_uuid(), kind, status, started_at, ended_at
				FROM runs WHERE started_at < now() - interval '1 day'`)
			exec(t, db, `INSERT INTO cursors (bridge, stream, since, until, moved_at) SELECT bridge, gen_random_uuid(), since, until, moved_at FROM cursors`)
			older := participant("older@x", "E")
			store(t, db, "a", older)
			exec(t, db, `UPDATE participants SET replaced = true, missing_since = now() - interval '2 days', found_at = '2024-01-01', doubt_due = true, link_due = true`)
			exec(t, db, `INSERT INTO directory_users (bridge, user_id, username, email, external_id, sweep, gone_at) VALUES ('a', 801, '', '', '', 1, now() - interval '2 days')`)
			abandoned := reading()
			must(t, state.StageParticipants(t.Context(), db, "a", &abandoned, []state.Participant{older, participant("b@x", "E")}))
			exec(t, db, `UPDATE staged_participants SET staged_at = now() - interval '2 hours'`)
			for range 2 {
				exec(t, db, `INSERT INTO workers (bridge, owner, host, heartbeat_at) VALUES ('a', $1, '', now() - interval '2 days')`, uuid.New())
				job(t, db, "a", "running", uuid.New(), 3600)
			}
			exec(t, db, `UPDATE directory_users SET gone_at = now() - interval '2 days'`)
			if n := value[int](t, db, c.left); n != 2 {
				t.Fatalf("there are %d, want 2", n)
			}
			other, mine := open(t, db), open(t, db)
			exec(t, other, c.lock)
			exec(t, mine, `SET LOCAL lock_timeout = '10s'`)
			must(t, c.do(t.Context(), mine))
			must(t, mine.Commit(t.Context()))
			if n := value[int](t, db, c.left); n != 1 {
				t.Errorf("%d are left, want the one that somebody has", n)
			}
			must(t, other.Rollback(t.Context()))
			must(t, c.do(t.Context(), db))
			if n := value[int](t, db, c.left); n != 0 {
				t.Errorf("%d are left", n)
			}
		})
	}
}
