package state_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"namebridge/internal/postgres/testdb"
	"namebridge/migrations"
	"namebridge/state"
)

// recorder is a pool's tracer that keeps what was asked.
type recorder struct{ asked []pgx.TraceQueryStartData }

func (r *recorder) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	r.asked = append(r.asked, data)
	return ctx
}

func (r *recorder) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// crowd fills a database with n users of bridge a, each with a participant and a link, and a tenth as many of bridge b.
func crowd(t testing.TB, url string, n int) (*pgxpool.Pool, *recorder) {
	t.Helper()
	cfg := get[*pgxpool.Config](t)(pgxpool.ParseConfig(url))
	r := &recorder{}
	cfg.ConnConfig.Tracer = r
	cfg.MaxConns = 1 // so that what is recorded is in order
	db := get[*pgxpool.Pool](t)(pgxpool.NewWithConfig(t.Context(), cfg))
	t.Cleanup(db.Close)
	exec(t, db, `SET session_replication_role = replica`) // whose bridge there is need not be looked up 100,000 times
	for i, bridge := range []string{"a", "b"} {
		if i > 0 {
			n /= 10
		}
		get[state.Bridge](t)(state.EnsureBridge(t.Context(), db, bridge, int64(i+1)))
		// Everybody was written once, but some were cleared since: their audit was due long ago.
		exec(t, db, `INSERT INTO directory_users (bridge, user_id, username, email, external_id, other_emails, sweep, wanted_version, action, audit_at, applied_digest)
			SELECT $1::text, i, 'u' || i, 'u' || i || '@x', 'id' || i, CASE WHEN i % 2 = 0 THEN ARRAY['o' || i || '@x'] ELSE '{}' END, 1, (i % 50 = 0)::int, 'write',
				now() + (CASE WHEN i % 4 = 0 THEN -1 ELSE 1 END) * interval '1 day', CASE WHEN i % 4 > 0 THEN 'x'::bytea END FROM generate_series(1, $2::int) i`, bridge, n)
		exec(t, db, `INSERT INTO participants (bridge, participant, person, email, institution_id, event_access_code, event_title, first_name, last_name,
				name_badge_link, recording_link, recording_id, recording_date, content, link_due)
			SELECT $1::text, int4send(i), 'email:u' || i || '@x', 'u' || i || '@x', 'id' || i, 'E', '', '', '', '', 'https://x', '', '', '', i % 50 = 0 FROM generate_series(1, $2::int) i`, bridge, n)
		exec(t, db, `INSERT INTO links (bridge, person, user_id, rule) SELECT $1::text, 'email:u' || i || '@x', i, 'email' FROM generate_series(1, $2::int) i`, bridge, n)
	}
	exec(t, db, `INSERT INTO journal (bridge, run, user_id, fence, action, state, settled_at) SELECT 'a', gen_random_uuid(), user_id, 1, 'write', 'verified', now() FROM directory_users WHERE bridge = 'a'`)
	exec(t, db, `INSERT INTO runs (bridge, run, kind, status, started_at, ended_at, counts) SELECT 'a', gen_random_uuid(), 'collect', 'done', now() - i * interval '1 minute', now() - i * interval '1 minute',
		'{"written": 1, "cleared": 0}' FROM generate_series(1, 1000) i`)
	exec(t, db, `SET session_replication_role = origin`)
	exec(t, db, `ANALYZE`)
	return db, r
}

// node is a step of a plan that Postgres has carried out.
type node struct {
	Type     string  `json:"Node Type"`
	Table    string  `json:"Relation Name"`
	Rows     float64 `json:"Actual Rows"`
	Loops    float64 `json:"Actual Loops"`
	Filtered float64 `json:"Rows Removed by Filter"`
	Unjoined float64 `json:"Rows Removed by Join Filter"`
	Mistaken float64 `json:"Rows Removed by Index Recheck"`
	Plans    []node  `json:"Plans"`
}

// looked is the most rows that one step has looked at, and which step.
func (n node) looked() (most float64, step string) {
	most, step = (n.Rows+n.Filtered+n.Unjoined+n.Mistaken)*n.Loops, n.Type+" on "+n.Table
	for _, p := range n.Plans {
		if m, s := p.looked(); m > most {
			most, step = m, s
		}
	}
	return most, step
}

// ask is a call of a function that should look at few rows.
type ask func(ctx context.Context, q state.Querier) error

// asks makes the error of a call the answer.
func asks[T any](call func(ctx context.Context, q state.Querier) (T, error)) ask {
	return func(ctx context.Context, q state.Querier) error {
		_, err := call(ctx, q)
		return err
	}
}

// What is asked for every batch, or every few seconds, must not cost more the more users there are: no statement looks at
// more than some thousands of rows, among 50,000, however they stand.
func TestBatchesUseIndexesAmongManyUsers(t *testing.T) {
	t.Parallel()
	db, r := crowd(t, testdb.URL(t, migrations.Up), 50_000)
	owner := live(t, db, "a")
	run, collect := uuid.New(), uuid.New()
	ids, emails := []string{"id7", "id8"}, []string{"u9@x", "o10@x"}
	wishes := state.Wish{Run: run, Urgency: state.BackfillPriority}
	written := []state.Wanted{{UserID: 9, Action: "write", Digest: []byte("x")}}
	audits := []state.Audit{{UserID: 9, Applied: []byte("x")}, {UserID: 10, Applied: []byte("x")}}
	// It is a transaction of its own.
	r.asked = nil
	markGone(t, db, "a", 7)
	asked := r.asked
	exec(t, db, `UPDATE directory_users SET gone_at = NULL WHERE bridge = 'a' AND user_id = 7`)
	exec(t, db, `INSERT INTO links (bridge, person, user_id, rule) VALUES ('a', 'email:u7@x', 7, 'email')`)
	undone(t, db, func(tx pgx.Tx) { few(t, tx, "MarkGone, of a user who is linked", asked) })
	pending, left := map[string]ask{}, map[string]ask{}
	for urgency, run := range map[int16]uuid.UUID{state.CollectPriority: collect, state.BackfillPriority: run} {
		pending[fmt.Sprint("Claim ", urgency)] = asks(func(ctx context.Context, q state.Querier) ([]state.Claimed, error) {
			return state.Claim(ctx, q, "a", urgency, owner, 100)
		})
		pending[fmt.Sprint("FindWork ", urgency)] = asks(func(ctx context.Context, q state.Querier) (state.Work, error) {
			return state.FindWork(ctx, q, "a", urgency)
		})
		left[fmt.Sprint("PendingOf ", urgency)] = asks(func(ctx context.Context, q state.Querier) (state.Pending, error) {
			return state.PendingOf(ctx, q, "a", run, urgency)
		})
	}
	// As it is within a backfill, while a few changes come.
	const everybody = `UPDATE directory_users SET wanted_version = applied_version + 1, urgency = CASE WHEN user_id > 49990 THEN 2 ELSE 4 END,
		wanted_run = CASE WHEN user_id > 49990 THEN $1::uuid ELSE $2 END, claim_owner = CASE WHEN user_id < 100 THEN $3::uuid END`
	for situation, c := range map[string]struct {
		prepare  string
		args     []any
		analyzed bool // else the plans are made with what is known of other times
		asks     map[string]ask
	}{
		"some are pending and due": {asks: map[string]ask{
			"NextPeople": asks(func(ctx context.Context, q state.Querier) ([]state.PersonKeys, error) {
				return state.NextPeople(ctx, q, "a", "email:u3", 100, false, nil)
			}),
			"NextPeople, due": asks(func(ctx context.Context, q state.Querier) ([]state.PersonKeys, error) {
				return state.NextPeople(ctx, q, "a", "email:u3", 100, true, nil)
			}),
			"Candidates": asks(func(ctx context.Context, q state.Querier) ([]state.Candidate, error) {
				return state.Candidates(ctx, q, "a", ids, emails, true)
			}),
			"NextUsers": asks(func(ctx context.Context, q state.Querier) ([]state.DueUser, error) {
				return state.NextUsers(ctx, q, "a", 20_000, 100, false)
			}),
			"NextUsers, due": asks(func(ctx context.Context, q state.Querier) ([]state.DueUser, error) {
				return state.NextUsers(ctx, q, "a", 20_000, 100, true)
			}),
			"DirectoryKeys, email": asks(func(ctx context.Context, q state.Querier) ([]string, error) {
				return state.DirectoryKeys(ctx, q, "a", state.KeyEmail, "u3", 500)
			}),
			"DirectoryKeys, id": asks(func(ctx context.Context, q state.Querier) ([]string, error) {
				return state.DirectoryKeys(ctx, q, "a", state.KeyExternalID, "id3", 500)
			}),
			"ParticipantsOf": asks(func(ctx context.Context, q state.Querier) ([]state.LinkedParticipant, error) {
				return state.ParticipantsOf(ctx, q, "a", []int64{7, 8, 9})
			}),
			"NextLinked": asks(func(ctx context.Context, q state.Querier) ([]state.KnownPerson, error) {
				return state.NextLinked(ctx, q, "a", "email:u3", 100)
			}),
			"NextUnasked": asks(func(ctx context.Context, q state.Querier) ([]state.UnaskedUser, error) {
				return state.NextUnasked(ctx, q, "a", 20_000, 100)
			}),
			"NoteAsked": func(ctx context.Context, q state.Querier) error {
				return state.NoteAsked(ctx, q, "a", []int64{7, 8, 9})
			},
			"NoteCounted": func(ctx context.Context, q state.Querier) error {
				return state.NoteCounted(ctx, q, "a", run, []string{"email:u7@x", "email:u8@x"})
			},
			"PlannedUsers": asks(func(ctx context.Context, q state.Querier) ([]state.Claimed, error) {
				return state.PlannedUsers(ctx, q, "a", 20_000, 100)
			}),
			"StoreDecisions": func(ctx context.Context, q state.Querier) error {
				return state.StoreDecisions(ctx, q, "a", []state.Decided{{Person: "email:u9@x", UserID: 9, Rule: "email", WasUser: 8}})
			},
			"StoreWanted": asks(func(ctx context.Context, q state.Querier) (int, error) {
				return state.StoreWanted(ctx, q, "a", wishes, written)
			}),
			"Fail": func(ctx context.Context, q state.Querier) error {
				return state.Fail(ctx, q, "a", []state.Failure{{UserID: 9, Fence: 9}})
			},
			"Withdraw": func(ctx context.Context, q state.Querier) error {
				return state.Withdraw(ctx, q, "a", []state.Claimed{{UserID: 9, Fence: 9}})
			},
			"Settle": func(ctx context.Context, q state.Querier) error {
				return state.Settle(ctx, q, "a", []state.Outcome{{UserID: 9, Fence: 9}})
			},
			"StoreAudits": asks(func(ctx context.Context, q state.Querier) (int64, error) {
				return state.StoreAudits(ctx, q, "a", audits)
			}),
		}},
		// As it is between two collects.
		"nothing is left to do": {
			prepare: `WITH linked AS (UPDATE participants SET link_due = false, doubt_due = false WHERE link_due OR doubt_due)
				UPDATE directory_users SET applied_version = wanted_version, decide_due = false, asked_at = now()`,
			analyzed: true,
			asks: merged(pending, left, map[string]ask{
				"AnythingDue": asks(func(ctx context.Context, q state.Querier) (bool, error) { return state.AnythingDue(ctx, q, "a") }),
				"Suspects": asks(func(ctx context.Context, q state.Querier) ([]state.KnownPerson, error) {
					return state.Suspects(ctx, q, "a", nil)
				}),
				"NextPeople, due": asks(func(ctx context.Context, q state.Querier) ([]state.PersonKeys, error) {
					return state.NextPeople(ctx, q, "a", "", 100, true, nil)
				}),
				"NextUsers, due": asks(func(ctx context.Context, q state.Querier) ([]state.DueUser, error) {
					return state.NextUsers(ctx, q, "a", 0, 100, true)
				}),
				"NextUnasked": asks(func(ctx context.Context, q state.Querier) ([]state.UnaskedUser, error) {
					return state.NextUnasked(ctx, q, "a", 0, 100)
				}),
				"NextAudits": asks(func(ctx context.Context, q state.Querier) ([]state.AuditedUser, error) {
					return state.NextAudits(ctx, q, "a", 100)
				}),
				"CountPendingOf": asks(func(ctx context.Context, q state.Querier) (int, error) {
					return state.CountPendingOf(ctx, q, "a", run, state.BackfillPriority)
				}),
				"AnyUnjudged": asks(func(ctx context.Context, q state.Querier) (bool, error) { return state.AnyUnjudged(ctx, q, "a", run) }),
				"CountLate": asks(func(ctx context.Context, q state.Querier) (int64, error) {
					return state.CountLate(ctx, q, "a", time.Now(), time.Minute, true)
				}),
				"ClaimOpen": asks(func(ctx context.Context, q state.Querier) ([]state.OpenEntry, error) {
					return state.ClaimOpen(ctx, q, "a", owner, 100)
				}),
				"Prune": asks(func(ctx context.Context, q state.Querier) (int64, error) {
					return state.Prune(ctx, q, "a", 24*time.Hour)
				}),
				"TakeDue": func(ctx context.Context, q state.Querier) error {
					if _, err := state.TakeDue(ctx, q, "a"); !errors.Is(err, state.ErrNotFound) {
						return fmt.Errorf("something is due: %w", err)
					}
					return nil
				},
			}),
		},
		// As it is after a source was incomplete for a while.
		"a tenth speak for nobody": {
			prepare: `WITH gone AS (UPDATE participants SET missing_since = now(), replaced = true WHERE get_byte(participant, 3) % 10 = 0 RETURNING bridge, person)
				DELETE FROM links l USING gone WHERE l.bridge = gone.bridge AND l.person = gone.person`,
			asks: map[string]ask{
				"NextLinked": asks(func(ctx context.Context, q state.Querier) ([]state.KnownPerson, error) {
					return state.NextLinked(ctx, q, "a", "email:u3", 100)
				}),
			},
		},
		"everybody is pending, and few are urgent": {prepare: everybody, args: []any{collect, run, owner}, analyzed: true, asks: merged(pending, left)},
		"everybody has just become pending":        {prepare: everybody, args: []any{collect, run, owner}, asks: pending},
		// As it is while the guard waits for a person.
		"everybody is to be cleared, and nobody has let that through": {
			prepare: `UPDATE directory_users SET wanted_version = applied_version + 1, action = 'clear', removes = true, urgency = 2`,
			asks:    merged(pending, left),
		},
	} {
		outer := get[pgx.Tx](t)(db.Begin(t.Context()))
		if c.prepare != "" {
			exec(t, outer, c.prepare, c.args...)
		}
		if c.analyzed {
			exec(t, outer, `ANALYZE directory_users, participants`)
		}
		for name, ask := range c.asks {
			tx := get[pgx.Tx](t)(outer.Begin(t.Context()))
			r.asked = nil
			must(t, ask(t.Context(), tx))
			asked := r.asked
			few(t, tx, name+", where "+situation, asked)
			must(t, tx.Rollback(t.Context()))
		}
		must(t, outer.Rollback(t.Context()))
		exec(t, db, `VACUUM directory_users, participants`)
	}
}

// few fails the test where a statement that was asked looks at many rows, when it is asked once more within tx.
func few(t *testing.T, tx pgx.Tx, name string, asked []pgx.TraceQueryStartData) {
	t.Helper()
	looked := false
	for _, q := range asked {
		if q.SQL == "begin" || q.SQL == "commit" {
			continue
		}
		looked = true
		var plan []struct{ Plan node }
		must(t, tx.QueryRow(t.Context(), `EXPLAIN (ANALYZE, TIMING off, FORMAT json) `+q.SQL, q.Args...).Scan(&plan))
		if most, step := plan[0].Plan.looked(); most > 5000 {
			t.Errorf("%s, looks at %.0f rows: %s", name, most, step)
		}
	}
	if !looked {
		t.Errorf("%s, asks nothing", name)
	}
}

func merged(all ...map[string]ask) map[string]ask {
	out := map[string]ask{}
	for _, m := range all {
		maps.Copy(out, m)
	}
	return out
}

// batchOf draws the i-th batch of n.
func batchOf(i, n int) (ps []state.Participant, us []state.DirectoryUser, ds []state.Decided, ws []state.Wanted) {
	for k := range n {
		id := i*n + k + 1
		email := fmt.Sprintf("u%d@x", id)
		p := participant(email, "E")
		p.Content = binary.BigEndian.AppendUint64(nil, uint64(id))
		ps = append(ps, p)
		us = append(us, user(int64(id), email, fmt.Sprint(id)))
		ds = append(ds, state.Decided{Person: p.Person, UserID: int64(id), Rule: "email", Changed: true})
		ws = append(ws, state.Wanted{UserID: int64(id), Action: "write", Value: []byte(`{"name_badge_link":"https://x"}`), Digest: p.Content, Source: p.ID})
	}
	return ps, us, ds, ws
}

// Each op is one batch of 1,000, from a NameCoach page and a directory page to what is wanted.
func BenchmarkStoreAThousand(b *testing.B) {
	for name, step := range map[string]func(b *testing.B, db *pgxpool.Pool, i int){
		"participants": func(b *testing.B, db *pgxpool.Pool, i int) {
			ps, _, _, _ := batchOf(i, 1000)
			reading := reading()
			must(b, state.StageParticipants(b.Context(), db, "a", &reading, ps))
			get[int64](b)(state.StoreStaged(b.Context(), db, "a", reading, state.Bringing{By: uuid.New()}))
		},
		"directory": func(b *testing.B, db *pgxpool.Pool, i int) {
			_, us, _, _ := batchOf(i, 1000)
			get[int64](b)(state.StoreDirectory(b.Context(), db, "a", 1, us, false))
		},
		"decisions": func(b *testing.B, db *pgxpool.Pool, i int) {
			_, _, ds, _ := batchOf(i, 1000)
			must(b, state.StoreDecisions(b.Context(), db, "a", ds))
		},
		"wanted": func(b *testing.B, db *pgxpool.Pool, i int) {
			_, _, _, ws := batchOf(i%10, 1000)
			wish(b, db, "a", state.Wish{Run: uuid.New(), Urgency: state.BackfillPriority}, ws...)
		},
	} {
		b.Run(name, func(b *testing.B) {
			db := fresh(b, "a")
			for i := range 10 {
				_, us, _, _ := batchOf(i, 1000)
				get[int64](b)(state.StoreDirectory(b.Context(), db, "a", 1, us, false))
			}
			i := 0
			for b.Loop() {
				step(b, db, i)
				i++
			}
		})
	}
}
