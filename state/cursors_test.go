package state_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"namebridge/state"
)

// second is the n-th second of a day.
func second(n int) time.Time { return time.Date(2024, 3, 31, 0, 0, n, 0, time.UTC) }

func TestTheCursorTakesInWhatItTouchesAndNothingElse(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	for i, c := range []struct {
		why          string
		has, in      [2]int // since, until, in seconds
		since, until int
		settled      int
	}{
		{"the next window", [2]int{10, 20}, [2]int{20, 30}, 10, 30, 100},
		{"a window with lookback", [2]int{10, 20}, [2]int{15, 30}, 10, 30, 100},
		{"the same window again", [2]int{10, 20}, [2]int{10, 20}, 10, 20, 100},
		{"a window within", [2]int{10, 20}, [2]int{12, 15}, 10, 20, 100},
		{"an older one that reaches it", [2]int{10, 20}, [2]int{0, 10}, 0, 20, 100},
		{"an older one that overlaps it", [2]int{10, 20}, [2]int{0, 15}, 0, 20, 100},
		{"one that spans it", [2]int{10, 20}, [2]int{0, 30}, 0, 30, 100},
		{"an older one with a gap", [2]int{10, 20}, [2]int{0, 9}, 10, 20, 100},
		{"a newer one with a gap", [2]int{10, 20}, [2]int{21, 30}, 10, 20, 100},
		{"an older end of the same beginning", [2]int{10, 20}, [2]int{10, 15}, 10, 20, 100},
		{"up to a clock that was set back", [2]int{10, 40}, [2]int{8, 20}, 8, 20, 20},
		{"up to a clock that was set back before all", [2]int{30, 40}, [2]int{10, 20}, 10, 20, 20},
		{"an older one, before a clock that was set back", [2]int{10, 40}, [2]int{8, 15}, 8, 40, 20},
	} {
		bridge := fmt.Sprint("b", i)
		get[state.Bridge](t)(state.EnsureBridge(t.Context(), db, bridge, 1))
		must(t, state.Collected(t.Context(), db, bridge, second(c.has[0]), second(c.has[1]), second(c.has[1])))
		must(t, state.Collected(t.Context(), db, bridge, second(c.in[0]), second(c.in[1]), second(c.settled)))
		got := get[state.Cursor](t)(state.GetCursor(t.Context(), db, bridge, state.ParticipantStream))
		if !got.Since.Equal(second(c.since)) || !got.Until.Equal(second(c.until)) {
			t.Errorf("%s: %v to %v, want second %d to %d", c.why, got.Since, got.Until, c.since, c.until)
		}
	}
}

// No gap: between since and until every second was collected, and neither ever moves inward.
func TestBetweenTheCursorsEndsEverythingWasCollected(t *testing.T) {
	t.Parallel()
	db := fresh(t)
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		bridge := fmt.Sprint("b", n)
		get[state.Bridge](t)(state.EnsureBridge(t.Context(), db, bridge, 1))
		covered := map[int]bool{} // second i to i+1
		var last state.Cursor
		for range rapid.IntRange(1, 8).Draw(rt, "windows") {
			from := rapid.IntRange(0, 30).Draw(rt, "from")
			to := from + rapid.IntRange(1, 10).Draw(rt, "width")
			for i := from; i < to; i++ {
				covered[i] = true
			}
			must(t, state.Collected(t.Context(), db, bridge, second(from), second(to), second(100)))
			c := get[state.Cursor](t)(state.GetCursor(t.Context(), db, bridge, state.ParticipantStream))
			for at := c.Since; at.Before(c.Until); at = at.Add(time.Second) {
				if !covered[int(at.Sub(second(0))/time.Second)] {
					rt.Fatalf("from %v to %v, and yet %v was never collected", c.Since, c.Until, at)
				}
			}
			if !last.Since.IsZero() && (c.Since.After(last.Since) || c.Until.Before(last.Until)) {
				rt.Fatalf("moved from %v-%v to %v-%v", last.Since, last.Until, c.Since, c.Until)
			}
			last = c
		}
	})
}

func TestACursorMovesOnlyFromWhereItWasSeen(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	if _, err := state.GetCursor(t.Context(), db, "a", "walk"); !errors.Is(err, state.ErrNotFound) {
		t.Errorf("before the first window: %v", err)
	}
	if err := state.MoveCursor(t.Context(), db, "a", state.Cursor{Stream: "walk", Until: second(0)}, second(1), nil); !errors.Is(err, state.ErrStale) {
		t.Errorf("moved what is not there: %v", err)
	}
	// Times are kept as they are, whatever zone they come in, to the microsecond.
	zone := time.FixedZone("somewhere", 5*3600+1800)
	at := second(5).Add(123456 * time.Microsecond)
	start := state.Cursor{Stream: "walk", Since: second(0).In(zone), Until: at.In(zone), Walk: json.RawMessage(`{"width": 1}`)}
	was := get[state.Cursor](t)(state.StartCursor(t.Context(), db, "a", start))
	if !was.Since.Equal(second(0)) || !was.Until.Equal(at) || string(was.Walk) != `{"width": 1}` {
		t.Errorf("started at %+v", was)
	}
	again := get[state.Cursor](t)(state.StartCursor(t.Context(), db, "a", state.Cursor{Stream: "walk", Since: second(9), Until: second(9)}))
	if diff := cmp.Diff(was, again); diff != "" {
		t.Errorf("started again, it moved: %s", diff)
	}
	must(t, state.MoveCursor(t.Context(), db, "a", was, was.Until, json.RawMessage(`{"width": 2}`))) // narrower, at the same place
	must(t, state.MoveCursor(t.Context(), db, "a", was, second(10), json.RawMessage(`{"width": 3}`)))
	for _, until := range []time.Time{second(7), second(10), second(20)} {
		if err := state.MoveCursor(t.Context(), db, "a", was, until, nil); !errors.Is(err, state.ErrStale) {
			t.Errorf("moved from where it no longer is to %v: %v", until, err)
		}
	}
	now := get[state.Cursor](t)(state.GetCursor(t.Context(), db, "a", "walk"))
	if !now.Until.Equal(second(10)) || string(now.Walk) != `{"width": 3}` {
		t.Errorf("it stands at %+v", now)
	}
	must(t, state.DropCursor(t.Context(), db, "a", "walk"))
	must(t, state.DropCursor(t.Context(), db, "a", "walk"))
	if _, err := state.GetCursor(t.Context(), db, "a", "walk"); !errors.Is(err, state.ErrNotFound) {
		t.Errorf("after it was dropped: %v", err)
	}
}
