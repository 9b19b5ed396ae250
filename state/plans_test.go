package state_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"testing"

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
	for i, bridge := range []string{"a", "b"} {
		if i > 0 {
			n /= 10
		}
		get[state.Bridge](t)(state.EnsureBridge(t.Context(), db, bridge, int64(i+1)))
		exec(t, db, `INSERT INTO directory_users (bridge, user_id, username, email, external_id, other_emails, sweep, wanted_version, action)
			SELECT $1::text, i, 'u' || i, 'u' || i || '@x', 'id' || i, CASE WHEN i % 2 = 0 THEN ARRAY['o' || i || '@x'] ELSE '{}' END, 1, (i % 50 = 0)::int, 'write' FROM generate_series(1, $2::int) i`, bridge, n)
		exec(t, db, `INSERT INTO participants (bridge, participant, person, email, institution_id, event_access_code, event_title, first_name, last_name,
				name_badge_link, recording_link, recording_id, recording_date, content, link_due)
			SELECT $1::text, int4send(i), 'email:u' || i || '@x', 'u' || i || '@x', 'id' || i, 'E', '', '', '', '', 'https://x', '', '', '', i % 50 = 0 FROM generate_series(1, $2::int) i`, bridge, n)
		exec(t, db, `INSERT INTO links (bridge, person, user_id, rule) SELECT $1::text, 'email:u' || i || '@x', i, 'email' FROM generate_series(1, $2::int) i`, bridge, n)
	}
	exec(t, db, `ANALYZE`)
	return db, r
}

// node is a step of a plan that Postgres has carried out.
type node struct {
	Type    string  `json:"Node Type"`
	Table   string  `json:"Relation Name"`
	Rows    float64 `json:"Actual Rows"`
	Loops   float64 `json:"Actual Loops"`
	Dropped float64 `json:"Rows Removed by Filter"`
	Plans   []node  `json:"Plans"`
}

// looked is the most rows that one step has looked at, and which step.
func (n node) looked() (most float64, step string) {
	most, step = (n.Rows+n.Dropped)*n.Loops, n.Type+" on "+n.Table
	for _, p := range n.Plans {
		if m, s := p.looked(); m > most {
			most, step = m, s
		}
	}
	return most, step
}

// What is asked for every batch must not cost more the more users there are: no statement looks at more than some
// thousands of rows, among 50,000.
func TestBatchesUseIndexesAmongManyUsers(t *testing.T) {
	t.Parallel()
	db, r := crowd(t, testdb.URL(t, migrations.Up), 50_000)
	owner := live(t, db, "a")
	ids, emails := []string{"id7", "id8"}, []string{"u9@x", "o10@x"}
	for name, ask := range map[string]func(context.Context, state.Querier) error{
		"NextPeople": func(ctx context.Context, q state.Querier) error {
			_, err := state.NextPeople(ctx, q, "a", "email:u3", 100, false, nil)
			return err
		},
		"NextPeople, due": func(ctx context.Context, q state.Querier) error {
			_, err := state.NextPeople(ctx, q, "a", "email:u3", 100, true, nil)
			return err
		},
		"Candidates": func(ctx context.Context, q state.Querier) error {
			_, err := state.Candidates(ctx, q, "a", ids, emails, true)
			return err
		},
		"NextUsers": func(ctx context.Context, q state.Querier) error {
			_, err := state.NextUsers(ctx, q, "a", 20_000, 100, false)
			return err
		},
		"NextUsers, due": func(ctx context.Context, q state.Querier) error {
			_, err := state.NextUsers(ctx, q, "a", 20_000, 100, true)
			return err
		},
		"DirectoryKeys, email": func(ctx context.Context, q state.Querier) error {
			_, err := state.DirectoryKeys(ctx, q, "a", state.KeyEmail, "u3", 500)
			return err
		},
		"DirectoryKeys, id": func(ctx context.Context, q state.Querier) error {
			_, err := state.DirectoryKeys(ctx, q, "a", state.KeyExternalID, "id3", 500)
			return err
		},
		"ParticipantsOf": func(ctx context.Context, q state.Querier) error {
			_, err := state.ParticipantsOf(ctx, q, "a", []int64{7, 8, 9})
			return err
		},
		"Claim": func(ctx context.Context, q state.Querier) error {
			_, err := state.Claim(ctx, q, "a", state.BackfillPriority, owner, 100)
			return err
		},
		"PlannedUsers": func(ctx context.Context, q state.Querier) error {
			_, err := state.PlannedUsers(ctx, q, "a", 20_000, 100)
			return err
		},
		"MarkGone": func(ctx context.Context, q state.Querier) error { return state.MarkGone(ctx, q, "a", 7) },
		"StoreDecisions": func(ctx context.Context, q state.Querier) error {
			return state.StoreDecisions(ctx, q, "a", []state.Decided{{Person: "email:u9@x", UserID: 9, Rule: "email", WasUser: 8}})
		},
		"StoreWanted": func(ctx context.Context, q state.Querier) error {
			_, err := state.StoreWanted(ctx, q, "a", state.Wish{Urgency: state.BackfillPriority}, []state.Wanted{{UserID: 9, Action: "write", Digest: []byte("x")}})
			return err
		},
		"Fail": func(ctx context.Context, q state.Querier) error {
			return state.Fail(ctx, q, "a", []state.Failure{{UserID: 9, Fence: 9}})
		},
		"Settle": func(ctx context.Context, q state.Querier) error {
			return state.Settle(ctx, q, "a", []state.Outcome{{UserID: 9, Fence: 9}})
		},
	} {
		tx := get[pgx.Tx](t)(db.Begin(t.Context()))
		r.asked = nil
		must(t, ask(t.Context(), tx))
		asked := r.asked
		for _, q := range asked {
			var plan []struct{ Plan node }
			must(t, tx.QueryRow(t.Context(), `EXPLAIN (ANALYZE, TIMING off, FORMAT json) `+q.SQL, q.Args...).Scan(&plan))
			if most, step := plan[0].Plan.looked(); most > 5000 {
				t.Errorf("%s looks at %.0f rows: %s", name, most, step)
			}
		}
		if len(asked) == 0 {
			t.Errorf("%s asks nothing", name)
		}
		must(t, tx.Rollback(t.Context()))
	}
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
