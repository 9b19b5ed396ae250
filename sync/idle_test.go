package sync_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"namebridge/internal/simulator"
	"namebridge/state"
	bridgesync "namebridge/sync"
)

// statements keeps what a pool sends, of whatever kind.
type statements struct {
	mu   sync.Mutex
	sent []string
}

func (s *statements) note(sql string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = append(s.sent, strings.Join(strings.Fields(sql), " "))
}

// forget drops what was sent before.
func (s *statements) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = nil
}

// which are those that are as is says.
func (s *statements) which(is func(sql string) bool) (all []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sql := range s.sent {
		if is(sql) {
			all = append(all, sql)
		}
	}
	return all
}

func (s *statements) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	s.note(d.SQL)
	return ctx
}

func (s *statements) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (s *statements) TraceCopyFromStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceCopyFromStartData) context.Context {
	s.note("COPY " + d.TableName.Sanitize())
	return ctx
}

func (s *statements) TraceCopyFromEnd(context.Context, *pgx.Conn, pgx.TraceCopyFromEndData) {}

func (s *statements) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return ctx
}

func (s *statements) TraceBatchQuery(_ context.Context, _ *pgx.Conn, d pgx.TraceBatchQueryData) {
	s.note(d.SQL)
}

func (s *statements) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

// caused says whether a statement is sent because something was due. A daemon sends others at any time: heartbeats, jobs that are taken
// up, a look at what is due, and the queue's own polls, elections and tidying.
func caused(sql string) bool {
	among := func(texts ...string) bool {
		return slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(sql, text) })
	}
	if among("-- name: ") { // River's
		return among("JobInsert", "PGNotify", "JobSetState")
	}
	return !slices.Contains([]string{"begin", "commit", "rollback"}, sql) &&
		!among("INSERT INTO workers", "SET state = 'available', attempt = greatest(attempt - 1, 0)", "FROM schedules WHERE bridge = $1 ORDER BY due_at, kind")
}

// The bar: an idle poll costs one request, to NameCoach, and a handful of statements; and what it came to is counted all the same.
func TestAnIdlePollCostsOneRequestAndAHandfulOfStatements(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{Seed: 91, Users: 60})
	first := w.backfill(t)
	w.settings.Schedules = ticks(nil)
	w.settings.Schedules[state.Housekeeping] = w.settings.Schedules[state.Census] // never
	sent := &statements{}
	cfg := w.db.Config()
	cfg.ConnConfig.Tracer = sent
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	b := w.bridge(t)
	b.DB = pool
	serve(t, b).ready(t)
	w.due(t, state.Collect) // everything is connected
	for range 3 {
		w.ResetCounts()
		sent.forget()
		w.due(t, state.Collect)
		eventually(t, patience, func() string { // in the run's last transaction, and when the queue notes that the job has ended
			if n := len(sent.which(func(sql string) bool { return strings.Contains(sql, "JobSetState") })); n < 2 {
				return "the job is not ended"
			}
			return ""
		})
		w.quiet(t, "namecoach participants.list")
		if n := w.asked("namecoach participants.list"); n != 1 {
			t.Errorf("%d requests to NameCoach", n)
		}
		if its := sent.which(caused); len(its) > 28 {
			t.Errorf("%d statements:\n%s", len(its), strings.Join(its, "\n"))
		}
		var res bridgesync.Result
		all := w.runs(t, state.Collect)
		if err := json.Unmarshal(all[len(all)-1].Counts, &res); err != nil {
			t.Fatal(err)
		}
		if res.Participants != first.Participants || res.Users != first.Users || res.Linked != first.Linked || res.Held != first.Held ||
			res.Written != 0 || res.Unchanged != first.Written+first.Unchanged || res.Requests != (bridgesync.Requests{NameCoach: 1}) {
			t.Errorf("the collect has counted %+v, the backfill %+v", res, first)
		}
	}
	if n := value[int](t, w, `SELECT count(*) FROM cursors WHERE stream <> 'participants'`); n != 0 {
		t.Errorf("%d walks are left", n)
	}
}

// rows counts the rows of every table.
func (w *world) rows(t testing.TB) map[string]int {
	t.Helper()
	counts := map[string]int{}
	for _, table := range value[[]string](t, w, `SELECT array_agg(relname::text) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace`) {
		counts[table] = value[int](t, w, `SELECT count(*) FROM `+pgx.Identifier{table}.Sanitize())
	}
	return counts
}

// The bar: 24 hours of idling leave the database the size it was. Hours pass by what is stored growing older.
func TestADayOfIdlingLeavesTheDatabaseTheSizeItWas(t *testing.T) {
	t.Parallel()
	const collects, tidyings, heartbeats = 12, 60, 1800 // an hour
	hours := 5
	if *long {
		hours = 24
	}
	w := start(t, simulator.Options{Seed: 92, Users: 200})
	w.backfill(t)
	w.settings.Schedules = ticks(nil)
	w.settings.Schedules[state.Housekeeping] = bridgesync.Schedule{Expression: "@every 100ms", Times: every(100 * time.Millisecond)}
	serve(t, w.bridge(t)).ready(t)
	owner := value[uuid.UUID](t, w, `SELECT owner FROM workers`)
	const older = `UPDATE river_job SET created_at = created_at - interval '1 hour', attempted_at = attempted_at - interval '1 hour',
		scheduled_at = scheduled_at - interval '1 hour', finalized_at = finalized_at - interval '1 hour' WHERE finalized_at IS NOT NULL`
	const over = `state = 'completed' AND finalized_at < now() - interval '5 minutes'`
	var early map[string]int
	var size int64
	for hour := 1; hour <= hours; hour++ {
		w.ResetCounts()
		for range heartbeats {
			if _, err := state.Heartbeat(t.Context(), w.db, "default", owner); err != nil {
				t.Fatal(err)
			}
		}
		for n := range collects {
			w.exec(t, `UPDATE schedules SET due_at = now() WHERE kind = 'collect'`)
			eventually(t, patience, func() string {
				if w.asked("namecoach participants.list") <= n || running(t, w) != "" {
					return fmt.Sprintf("%d collects are done", n)
				}
				return ""
			})
		}
		w.quiet(t, "namecoach participants.list")
		w.exec(t, `UPDATE runs SET started_at = started_at - interval '1 hour', ended_at = ended_at - interval '1 hour' WHERE status <> 'running'`)
		for range tidyings { // and those of the daemon
			if _, err := state.Prune(t.Context(), w.db, "default", w.settings.Retention); err != nil {
				t.Fatal(err)
			}
		}
		tidying := value[time.Time](t, w, `SELECT clock_timestamp()`)
		eventually(t, patience, func() string {
			if value[int](t, w, `SELECT count(*) FROM river_job WHERE kind = 'housekeeping' AND state = 'completed' AND attempted_at > $1`, tidying) == 0 {
				return "the daemon does not tidy up"
			}
			return ""
		})
		w.exec(t, older)
		w.exec(t, `DELETE FROM river_job WHERE `+over) // as River does every 30 s
		w.exec(t, `VACUUM`)                            // as autovacuum does
		rows, now := w.rows(t), value[int64](t, w, `SELECT pg_database_size(current_database())`)
		t.Logf("after %d hours: %d kB; %d runs, %d jobs", hour, now/1024, rows["runs"], rows["river_job"])
		if hour <= 2 {
			early, size = rows, now
			continue
		}
		const few = 30 // fewer than one for each collect would come to
		for table, n := range rows {
			if n > early[table]+few {
				t.Errorf("%s has %d rows after %d hours, %d after two", table, n, hour, early[table])
			}
		}
		if now > size+512<<10 {
			t.Errorf("the database has %d kB after %d hours, %d kB after two", now/1024, hour, size/1024)
		}
	}
	if *long {
		w.exec(t, older)
		eventually(t, patience, func() string {
			if n := value[int](t, w, `SELECT count(*) FROM river_job WHERE `+over); n > 0 {
				return fmt.Sprintf("%d jobs that ended long ago are there", n)
			}
			return ""
		})
	}
}
