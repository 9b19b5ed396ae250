package state_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"namebridge/state"
)

// bring makes a row of bridge a count that a window (found nil) or a search brings.
func bring(t testing.TB, db *pgxpool.Pool, found *time.Time, p state.Participant) {
	t.Helper()
	must(t, state.InTx(t.Context(), db, func(tx pgx.Tx) error {
		reading := reading()
		if err := state.StageParticipants(t.Context(), tx, "a", &reading, []state.Participant{p}); err != nil {
			return err
		}
		_, err := state.StoreStaged(t.Context(), tx, "a", reading, state.Bringing{By: uuid.New(), Found: found})
		return err
	}))
}

// Windows must bring every row. What only a search has brought, they have missed, if they are past it.
func TestARowThatASearchBroughtAndNoWindowIsLate(t *testing.T) {
	t.Parallel()
	type step struct {
		search  int // seconds on NameCoach's clock; 0: a window
		content string
		spelled string // the address, where it is spelled otherwise
		missing bool   // before it, a question did not show the row
		gone    bool   // nothing but that
		silent  bool   // before it, so many censuses did not show the row that it spoke for nobody
	}
	at := func(s int) *time.Time {
		if s == 0 {
			return nil
		}
		found := second(s)
		return &found
	}
	db := fresh(t, "a")
	for name, c := range map[string]struct {
		steps []step
		late  int64 // by second 20
	}{
		"a window brought it":                                     {[]step{{content: "x"}}, 0},
		"a search brought it":                                     {[]step{{search: 10, content: "x"}}, 1},
		"a search brought it just now":                            {[]step{{search: 20, content: "x"}}, 0},
		"two searches did":                                        {[]step{{search: 10, content: "x"}, {search: 30, content: "x"}}, 1},
		"a search, then a window":                                 {[]step{{search: 10, content: "x"}, {content: "x"}}, 0},
		"a search, then a window that changes it":                 {[]step{{search: 10, content: "x"}, {content: "y"}}, 0},
		"a window, then a search that shows it as it is":          {[]step{{content: "x"}, {search: 10, content: "x"}}, 0},
		"a window, then a search that shows it changed":           {[]step{{content: "x"}, {search: 10, content: "y"}}, 1},
		"a search, then one just now that shows it changed":       {[]step{{search: 10, content: "x"}, {search: 20, content: "y"}}, 0},
		"a search, a window, then a search that shows it changed": {[]step{{search: 10, content: "x"}, {content: "x"}, {search: 15, content: "y"}}, 1},
		"a window, then a search that spells it otherwise":        {[]step{{content: "x"}, {search: 10, content: "x", spelled: "A@x"}}, 1},
		// What one question did not show and the next shows as it was, has not changed: no window had to bring it.
		"a window, a search without it, one with it":         {[]step{{content: "x"}, {search: 10, content: "x", missing: true}}, 0},
		"a window, a search without it, one with it changed": {[]step{{content: "x"}, {search: 10, content: "y", missing: true}}, 1},
		"a window, censuses without it, one with it changed": {[]step{{content: "x"}, {search: 10, content: "y", silent: true}}, 0},
		"and then a search shows it changed":                 {[]step{{content: "x"}, {search: 5, content: "y", silent: true}, {search: 10, content: "z"}}, 1},
		"a window, a search without it, a window with it":    {[]step{{content: "x"}, {content: "x", missing: true}}, 0},
		"a search with it, one without it, one with it":      {[]step{{search: 10, content: "x"}, {search: 15, content: "x", missing: true}}, 1},
		"a search with it, one without it, one just now":     {[]step{{search: 10, content: "x"}, {search: 20, content: "x", missing: true}}, 1},
		"a search with it, one without it, a window with it": {[]step{{search: 10, content: "x"}, {content: "x", missing: true}}, 0},
		// It was deleted, or its address corrected, before a window could bring it.
		"a search with it, and one without it": {[]step{{search: 10, content: "x"}, {missing: true, gone: true}}, 0},
	} {
		for _, s := range c.steps {
			p := participant("a@x", "E")
			p.Content = []byte(s.content)
			if s.spelled != "" {
				p.Email = s.spelled
			}
			if s.missing {
				exec(t, db, `UPDATE participants SET missing_since = now(), absences = 1`)
			}
			if s.silent {
				exec(t, db, `UPDATE participants SET missing_since = now(), absences = 2, replaced = true`)
			}
			if s.gone {
				continue
			}
			bring(t, db, at(s.search), p)
		}
		if late := get[int64](t)(state.CountLate(t.Context(), db, "a", second(20), time.Minute, true)); late != c.late {
			t.Errorf("%s: %d are late, want %d", name, late, c.late)
		}
		if late := get[int64](t)(state.CountLate(t.Context(), db, "a", second(20), time.Minute, true)); late != 0 {
			t.Errorf("%s: %d are counted twice", name, late)
		}
		exec(t, db, `DELETE FROM participants`)
	}
}

// Where windows do not go back to the beginning, a row that only a search brings may be from before.
func TestRowsFromBeforeTheFirstWindowAreNotLate(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	found := second(10)
	bring(t, db, &found, participant("a@x", "E"))
	before := get[state.Bridge](t)(state.GetBridge(t.Context(), db, "a"))
	if late := get[int64](t)(state.CountLate(t.Context(), db, "a", second(20), time.Minute, false)); late != 0 {
		t.Errorf("%d are late", late)
	}
	if late := get[int64](t)(state.CountLate(t.Context(), db, "a", second(20), time.Minute, true)); late != 0 {
		t.Errorf("%d are late afterwards", late)
	}
	if after := get[state.Bridge](t)(state.GetBridge(t.Context(), db, "a")); after != before {
		t.Errorf("the bridge is %+v", after)
	}
}

func TestTheLookbackDoublesUpToADayWhereWindowsMissRows(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	const configured = 10 * time.Minute
	now := func() state.Bridge {
		t.Helper()
		return get[state.Bridge](t)(state.GetBridge(t.Context(), db, "a"))
	}
	if got := now().Lookback(configured); got != configured {
		t.Errorf("at first it is %v", got)
	}
	for n, minutes := range []int{20, 40, 80, 160, 320, 640, 1280, 1440, 1440} {
		want := time.Duration(minutes) * time.Minute
		found := second(n)
		bring(t, db, &found, participant("a@x", "E"))
		if late := get[int64](t)(state.CountLate(t.Context(), db, "a", second(n+1), now().Lookback(configured), true)); late != 1 {
			t.Fatalf("%d are late", late)
		}
		if got := now().Lookback(configured); got != want || now().LateFound != int64(n+1) {
			t.Errorf("after %d it is %v, want %v; %d were missed", n+1, got, want, now().LateFound)
		}
		exec(t, db, `DELETE FROM participants`)
	}
	if got := now().Lookback(48 * time.Hour); got != 48*time.Hour {
		t.Errorf("configured wider than a day, it is %v", got)
	}
	// Nothing late for a while, and it is as configured.
	get[int64](t)(state.CountLate(t.Context(), db, "a", second(100), configured, true))
	exec(t, db, `UPDATE bridges SET widened_at = now() - interval '7 days' + interval '1 minute'`)
	if got := now().Lookback(configured); got != 24*time.Hour {
		t.Errorf("within a week it is %v", got)
	}
	exec(t, db, `UPDATE bridges SET widened_at = now() - interval '7 days' - interval '1 minute'`)
	if got := now().Lookback(configured); got != configured {
		t.Errorf("after a week it is %v", got)
	}
}

func TestWhenABridgeWasFirstCollectedIsKept(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	if b := get[state.Bridge](t)(state.GetBridge(t.Context(), db, "a")); b.CollectedAt != nil {
		t.Errorf("%+v", b)
	}
	must(t, state.NoteCollected(t.Context(), db, "a"))
	exec(t, db, `UPDATE bridges SET collected_at = collected_at - interval '1 hour'`)
	first := get[state.Bridge](t)(state.GetBridge(t.Context(), db, "a"))
	must(t, state.NoteCollected(t.Context(), db, "a"))
	if b := get[state.Bridge](t)(state.GetBridge(t.Context(), db, "a")); first.CollectedAt == nil || !b.CollectedAt.Equal(*first.CollectedAt) {
		t.Errorf("%v, then %v", first.CollectedAt, b.CollectedAt)
	}
}
