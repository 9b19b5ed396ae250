package state_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"namebridge/state"
)

// schedule notes when a kind of runs of bridge a is due, seconds from the database's now.
func schedule(t testing.TB, db state.Querier, kind state.Kind, expression string, seconds float64) time.Time {
	t.Helper()
	due := value[time.Time](t, db, `SELECT now() + make_interval(secs => $1)`, seconds)
	must(t, state.NoteSchedule(t.Context(), db, "a", state.Schedule{Kind: kind, Expression: expression, DueAt: due}))
	return due
}

// due reads when every kind is due.
func due(t testing.TB, db state.Querier) (out []string) {
	t.Helper()
	for _, s := range get[[]state.Schedule](t)(state.Schedules(t.Context(), db, "a")) {
		out = append(out, fmt.Sprint(s.Kind, " ", s.Expression, " ", s.DueAt.UTC()))
	}
	return out
}

func TestAScheduleMovesWhenItsExpressionChangesAndStaysOtherwise(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	passed := schedule(t, db, state.Sweep, "0 2 * * *", -3600)
	schedule(t, db, state.Sweep, "0 2 * * *", 7200) // whoever starts again notes it again
	if diff := cmp.Diff([]string{fmt.Sprint("sweep 0 2 * * * ", passed.UTC())}, due(t, db)); diff != "" {
		t.Errorf("unchanged, it moved: %s", diff)
	}
	moved := schedule(t, db, state.Sweep, "0 3 * * *", 10800)
	if diff := cmp.Diff([]string{fmt.Sprint("sweep 0 3 * * * ", moved.UTC())}, due(t, db)); diff != "" {
		t.Errorf("changed, it stays: %s", diff)
	}
	must(t, state.DropSchedule(t.Context(), db, "a", state.Sweep))
	if got := due(t, db); len(got) != 0 {
		t.Errorf("dropped, it is there: %v", got)
	}
	if err := state.MoveSchedule(t.Context(), db, "a", state.Sweep, moved); !errors.Is(err, state.ErrStale) {
		t.Errorf("dropped, it was moved: %v", err)
	}
}

// fire takes what is due, as a process does, and moves it an hour on.
func fire(t testing.TB, db *pgxpool.Pool) (kind state.Kind, err error) {
	t.Helper()
	err = state.InTx(t.Context(), db, func(tx pgx.Tx) error {
		s, err := state.TakeDue(t.Context(), tx, "a")
		if err != nil {
			return err
		}
		kind = s.Kind
		return state.MoveSchedule(t.Context(), tx, "a", s.Kind, s.Now.Add(time.Hour))
	})
	return kind, err
}

// However long nobody was there.
func TestWhatWasMissedIsMadeUpOnceInTheOrderItWasDue(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	schedule(t, db, state.Collect, "@every 5m", -3600)
	schedule(t, db, state.Sweep, "0 2 * * *", -3*24*3600)
	schedule(t, db, state.Census, "0 4 * * 6", 60)
	var fired []state.Kind
	for {
		kind, err := fire(t, db)
		if errors.Is(err, state.ErrNotFound) {
			break
		}
		must(t, err)
		fired = append(fired, kind)
	}
	if diff := cmp.Diff([]state.Kind{state.Sweep, state.Collect}, fired); diff != "" {
		t.Error(diff)
	}
}

func TestOfProcessesThatFireAtOnceEachDueRunIsStartedByOne(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	kinds := []state.Kind{state.Collect, state.Sweep, state.Census, state.Housekeeping}
	for _, kind := range kinds {
		schedule(t, db, kind, "x", -60)
	}
	var mu sync.Mutex
	fired := map[state.Kind]int{}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for {
				kind, err := fire(t, db)
				if errors.Is(err, state.ErrNotFound) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				fired[kind]++
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if diff := cmp.Diff(map[state.Kind]int{state.Collect: 1, state.Sweep: 1, state.Census: 1, state.Housekeeping: 1}, fired); diff != "" {
		t.Error(diff)
	}
}

// While one fires, the others wait for nothing; and what it could not start stays due.
func TestWhatOneProcessFiresIsNobodyElsesUntilItFails(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	schedule(t, db, state.Sweep, "x", -60)
	failed := errors.New("it could not be started")
	err := state.InTx(t.Context(), db, func(tx pgx.Tx) error {
		get[state.Schedule](t)(state.TakeDue(t.Context(), tx, "a"))
		if _, err := fire(t, db); !errors.Is(err, state.ErrNotFound) {
			t.Errorf("two fire it at once: %v", err)
		}
		return failed
	})
	if !errors.Is(err, failed) {
		t.Fatal(err)
	}
	if kind, err := fire(t, db); kind != state.Sweep || err != nil {
		t.Errorf("what failed is not due: %s, %v", kind, err)
	}
}
