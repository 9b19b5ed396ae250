package sync

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// walkAsk is one list request to a model server.
type walkAsk func(s Span, page int) ([]RowID, PageMeta)

// walkEnd is how a walk ended: where, after how many requests, and why if it could not go on.
type walkEnd struct {
	walk              Walk
	requests, windows int
	err               error
}

var errTooManyRequests = errors.New("more requests than allowed")

// walkThrough reads windows until the walk is done or cannot go on, as the collecting loop does. accept gets each whole window
// with its rows, each as often as the page that had it most often.
func walkThrough(w Walk, perPage, allowed int, ask walkAsk, accept func(s Span, pages int, rows map[RowID]int)) walkEnd {
	end := walkEnd{walk: w}
	attempt := 0
	for {
		s, ok := end.walk.Window()
		if !ok {
			return end
		}
		r := NewReading(end.walk, perPage, attempt)
		stored := map[RowID]int{}
		verdict, page := NextPage, 0
		for verdict == NextPage {
			if end.requests++; end.requests > allowed {
				end.err = errTooManyRequests
				return end
			}
			page++
			ids, meta := ask(s, page)
			here := map[RowID]int{}
			for _, id := range ids {
				r.Row(id)
				if accept != nil {
					here[id]++
					stored[id] = max(stored[id], here[id])
				}
			}
			verdict, _ = r.EndPage(meta)
		}
		switch verdict {
		case Whole:
			end.windows++
			if accept != nil {
				accept(s, page, stored)
			}
			end.walk, attempt = end.walk.Complete(r.Distinct()), 0
		case ReadAgain:
			attempt++
		case Split:
			attempt = 0
			if end.walk, end.err = end.walk.Narrow(r.Total()); end.err != nil {
				return end
			}
		}
	}
}

func rowNumber(n int) (id RowID) {
	binary.LittleEndian.PutUint64(id[:], uint64(n))
	return id
}

// stillServer answers from update times (Unix seconds, sorted) that do not change. pageSize 0: paging is ignored and answers are
// cut after cut rows (0: never).
func stillServer(updated []int64, pageSize, cut int, inclusive, meta bool) walkAsk {
	return func(s Span, page int) ([]RowID, PageMeta) {
		after, before := s.Ask()
		from, to := after.Unix()+1, before.Unix()
		if inclusive {
			from, to = from-1, to+1
		}
		first, _ := slices.BinarySearch(updated, from)
		last, _ := slices.BinarySearch(updated, to)
		m := PageMeta{Known: meta, Total: last - first}
		if pageSize > 0 {
			first = min(first+(page-1)*pageSize, last)
			last = min(first+pageSize, last)
		} else if cut > 0 {
			last = min(last, first+cut)
		}
		ids := make([]RowID, 0, last-first)
		for i := first; i < last; i++ {
			ids = append(ids, rowNumber(i))
		}
		return ids, m
	}
}

var (
	walkBegin = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	walkStop  = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
)

// spreads are ways in which the update times of people are spread over twenty-six years.
var spreads = map[string]func(r *rand.Rand, rows int) []int64{
	"evenly": func(r *rand.Rand, rows int) []int64 {
		return spread(rows, func() int64 { return r.Int64N(26 * 365 * 86400) })
	},
	"in one hour": func(r *rand.Rand, rows int) []int64 {
		at := r.Int64N(26 * 365 * 86400)
		return spread(rows, func() int64 { return at + r.Int64N(3600) })
	},
	"in the first hour": func(r *rand.Rand, rows int) []int64 { return spread(rows, func() int64 { return r.Int64N(3600) }) },
	"in the last minute": func(r *rand.Rand, rows int) []int64 {
		return spread(rows, func() int64 { return walkStop.Unix() - walkBegin.Unix() - 1 - r.Int64N(60) })
	},
	"on three days":     func(r *rand.Rand, rows int) []int64 { return onDays(r, rows, 3) },
	"on six days":       func(r *rand.Rand, rows int) []int64 { return onDays(r, rows, 6) },
	"on a hundred days": func(r *rand.Rand, rows int) []int64 { return onDays(r, rows, 100) },
	"in one second": func(r *rand.Rand, rows int) []int64 {
		at := r.Int64N(26 * 365 * 86400)
		return spread(rows, func() int64 { return at })
	},
	"more and more": func(r *rand.Rand, rows int) []int64 {
		return spread(rows, func() int64 { x := r.Float64(); return int64((1 - x*x*x) * 26 * 365 * 86400) })
	},
	"half evenly, half in one hour": func(r *rand.Rand, rows int) []int64 {
		at := r.Int64N(26 * 365 * 86400)
		return spread(rows, func() int64 {
			if r.IntN(2) == 0 {
				return at + r.Int64N(3600)
			}
			return r.Int64N(26 * 365 * 86400)
		})
	},
}

func spread(rows int, at func() int64) []int64 {
	out := make([]int64, rows)
	for i := range out {
		out[i] = walkBegin.Unix() + at()
	}
	slices.Sort(out)
	return out
}

func onDays(r *rand.Rand, rows, days int) []int64 {
	starts := make([]int64, days)
	for i := range starts {
		starts[i] = r.Int64N(26*365) * 86400
	}
	return spread(rows, func() int64 { return starts[r.IntN(days)] + 8*3600 + r.Int64N(8*3600) })
}

var walkSizes = []int{0, 10, 1999, 2001, 20_001, 100_000}

// Design, section 7: a first backfill of P participants costs NameCoach at most P/1000 + 30 requests.
func TestWalkReadsManyRowsWithFewRequests(t *testing.T) {
	t.Parallel()
	usual := func(rows int) int { return rows/1000 + 30 }
	servers := map[string]struct {
		serve func(updated []int64) walkAsk
		most  func(rows int) int
	}{
		"pages of 2000, exclusive bounds": {func(u []int64) walkAsk { return stillServer(u, 2000, 0, false, true) }, usual},
		"pages of 2000, inclusive bounds": {func(u []int64) walkAsk { return stillServer(u, 2000, 0, true, true) }, usual},
		"no paging":                       {func(u []int64) walkAsk { return stillServer(u, 0, 0, true, true) }, usual},
		"no paging, cut after 10,000":     {func(u []int64) walkAsk { return stillServer(u, 0, 10_000, false, true) }, usual},
	}
	for how, times := range spreads {
		for name, server := range servers {
			t.Run(how+"/"+name, func(t *testing.T) {
				t.Parallel()
				most, stops := server.most, false
				if how == "in one second" {
					switch name {
					case "no paging, cut after 10,000":
						stops = true
					case "pages of 2000, inclusive bounds":
						// The second before and the one after bring the same rows, and nothing in the rows says so.
						most = func(rows int) int { return 3*(rows/2000+1) + 40 }
					}
				}
				worst := 0
				for _, rows := range walkSizes {
					for seed := range uint64(2) {
						if seed > 0 && rows >= 100_000 {
							continue // it takes the longest
						}
						w := NewWalk(walkBegin, walkStop)
						w.Settled = walkStop.Add(-10 * time.Minute)
						end := walkThrough(w, 2000, 2000, server.serve(times(rand.New(rand.NewPCG(seed, uint64(rows))), rows)), nil)
						if stops && rows > 10_000 {
							if !errors.Is(end.err, ErrSingleSecond) {
								t.Errorf("%d rows, seed %d: ended with %v, want %v", rows, seed, end.err, ErrSingleSecond)
							}
						} else if end.err != nil {
							t.Fatalf("%d rows, seed %d: %v", rows, seed, end.err)
						}
						if end.requests > most(rows) {
							t.Errorf("%d rows, seed %d: %d requests, want at most %d", rows, seed, end.requests, most(rows))
						}
						worst = max(worst, 100*end.requests/most(rows))
					}
				}
				t.Logf("at most %d %% of the requests allowed", worst)
			})
		}
	}
}

// Trap 3: a limit that the server does not tell is found, and then mostly kept.
func TestWalkLearnsALimitOfRows(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name      string
		cut, rows int
		meta      bool
		most      int
	}{
		{"answers cut after 10 rows", 10, 2_000, true, 2_000/10*3 + 60},
		{"answers cut after 2000 rows", 2_000, 200_000, true, 200_000/1000 + 30},
		{"answers cut after 2000 rows, no total", 2_000, 200_000, false, 200_000/1000 + 60},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			updated := spreads["evenly"](rand.New(rand.NewPCG(1, 2)), test.rows)
			end := walkThrough(NewWalk(walkBegin, walkStop), 2000, 10*test.most, stillServer(updated, 0, test.cut, false, test.meta), nil)
			if end.err != nil {
				t.Fatal(end.err)
			}
			if end.requests > test.most {
				t.Errorf("%d requests, want at most %d", end.requests, test.most)
			}
			t.Logf("%d requests of at most %d", end.requests, test.most)
		})
	}
}

// Trap 7: bounds may be inclusive or exclusive, and compare fractions or whole seconds; truncated on either side.
func TestAskLeavesNothingOfTheSpanOut(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		from := walkBegin.Add(time.Duration(rapid.Int64Range(0, 1000).Draw(t, "from")) * time.Second)
		s := Span{From: from, To: from.Add(time.Duration(rapid.Int64Range(1, 1000).Draw(t, "seconds")) * time.Second)}
		after, before := s.Ask()
		updated := s.From.Add(time.Duration(rapid.Int64Range(0, int64(s.To.Sub(s.From))-1).Draw(t, "updated")))
		for _, u := range []time.Time{updated, updated.Truncate(time.Second), s.From, s.To.Add(-1), s.To.Add(-1).Truncate(time.Second)} {
			if !u.After(after) || !u.Before(before) {
				t.Fatalf("asking for after %v and before %v leaves out %v, which is within %v", after, before, u, s)
			}
		}
		if wide := before.Sub(after) - s.To.Sub(s.From); wide > time.Second {
			t.Fatalf("asks for %v more than the span", wide)
		}
	})
}

func TestNewWalkCoversItsSpanInOneWindow(t *testing.T) {
	t.Parallel()
	at := func(s string) time.Time {
		v, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, test := range []struct {
		name        string
		from, until time.Time
		want        Span
		ok          bool
	}{
		{"whole seconds stay", at("2020-01-01T00:00:01Z"), at("2020-01-01T00:00:09Z"), Span{at("2020-01-01T00:00:01Z"), at("2020-01-01T00:00:09Z")}, true},
		{"fractions go outward", at("2020-01-01T00:00:01.9Z"), at("2020-01-01T00:00:08.1Z"), Span{at("2020-01-01T00:00:01Z"), at("2020-01-01T00:00:09Z")}, true},
		{"within one second", at("2020-01-01T00:00:01.2Z"), at("2020-01-01T00:00:01.3Z"), Span{at("2020-01-01T00:00:01Z"), at("2020-01-01T00:00:02Z")}, true},
		{"other zones become UTC", at("2020-01-01T02:00:00+02:00"), at("2020-01-01T02:00:05+02:00"), Span{at("2020-01-01T00:00:00Z"), at("2020-01-01T00:00:05Z")}, true},
		{"nothing to walk", at("2020-01-01T00:00:01Z"), at("2020-01-01T00:00:01Z"), Span{}, false},
		{"backwards is done", at("2020-01-01T00:00:09Z"), at("2020-01-01T00:00:01Z"), Span{}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := NewWalk(test.from, test.until)
			got, ok := w.Window()
			if diff := cmp.Diff(test.want, got); diff != "" || ok != test.ok {
				t.Errorf("window (-want +got), ok %v:\n%s", ok, diff)
			}
			if ok {
				return
			}
			if _, err := w.Narrow(5); !errors.Is(err, ErrWalkDone) {
				t.Errorf("narrowing a finished walk: %v, want %v", err, ErrWalkDone)
			}
			if diff := cmp.Diff(w, w.Complete(5)); diff != "" {
				t.Errorf("completing a finished walk changed it:\n%s", diff)
			}
		})
	}
}

func TestWalkBeforeTheFirstYearStillEnds(t *testing.T) {
	t.Parallel()
	w := NewWalk(time.Time{}, walkStop) // wider than a time.Duration can say
	for n := 0; ; n++ {
		if _, ok := w.Window(); !ok {
			break
		}
		if n > 20 {
			t.Fatal("not done after 20 empty windows")
		}
		w = w.Complete(0)
	}
}

func TestWindowEndsWithItsWalk(t *testing.T) {
	t.Parallel()
	w := Walk{Next: walkBegin, Until: walkBegin.Add(90 * time.Second), Width: time.Hour} // as it may be stored, with an Until that moved
	if s, ok := w.Window(); !ok || !s.To.Equal(w.Until) {
		t.Errorf("window %v, %v, want one that ends at %v", s, ok, w.Until)
	}
	w.Width = 0
	if s, ok := w.Window(); !ok || s.To.Sub(s.From) != time.Second {
		t.Errorf("window %v, %v, want one second where no width is known", s, ok)
	}
}

// Design rule 3.4: windows tile the time without a gap, whatever the server says about them.
func TestWindowsFollowEachOtherWithoutGap(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		span := time.Duration(rapid.Int64Range(1, 1<<rapid.IntRange(1, 33).Draw(t, "bits")).Draw(t, "seconds")) * time.Second
		w := NewWalk(walkBegin, walkBegin.Add(span))
		if rapid.Bool().Draw(t, "settles") {
			w.Settled = walkBegin.Add(time.Duration(rapid.Int64Range(-5, int64(span/time.Second)+5).Draw(t, "settled")) * time.Second)
		}
		rows := rapid.OneOf(rapid.Just(0), rapid.IntRange(0, 30), rapid.IntRange(0, 30_000), rapid.IntRange(0, 1<<40))
		done := w.Next
		for range 300 {
			s, ok := w.Window()
			if !ok {
				if !done.Equal(w.Until) {
					t.Fatalf("done at %v, before the end at %v", done, w.Until)
				}
				return
			}
			if !s.From.Equal(done) || !s.From.Before(s.To) || s.To.After(w.Until) {
				t.Fatalf("window %v after %v in a walk until %v", s, done, w.Until)
			}
			if s.From.Nanosecond() != 0 || s.To.Nanosecond() != 0 {
				t.Fatalf("window %v is not of whole seconds", s)
			}
			if len(w.Ahead) > 64 {
				t.Fatalf("%d counts are kept", len(w.Ahead))
			}
			for i, c := range w.Ahead {
				if !c.To.After(w.Next) || i > 0 && !c.To.Before(w.Ahead[i-1].To) {
					t.Fatalf("counts ahead are not from wide to narrow: %v", w.Ahead)
				}
			}
			kept := throughJSON(t, w)
			if diff := cmp.Diff(w, kept); diff != "" {
				t.Fatalf("stored and loaded (-want +got):\n%s", diff)
			}
			if rapid.Bool().Draw(t, "whole") {
				w, done = kept.Complete(rows.Draw(t, "rows")), s.To
				continue
			}
			narrow, err := w.Narrow(rows.Draw(t, "total"))
			if s.To.Sub(s.From) == time.Second {
				if !errors.Is(err, ErrSingleSecond) || cmp.Diff(w, narrow) != "" {
					t.Fatalf("narrowing one second: %v, want %v and no change", err, ErrSingleSecond)
				}
				continue
			}
			n, ok := narrow.Window()
			if err != nil || !ok || !n.From.Equal(s.From) || !n.To.Before(s.To) {
				t.Fatalf("narrowing %v gave %v, %v", s, n, err)
			}
			if diff := cmp.Diff(kept, w); diff != "" {
				t.Fatalf("narrowing changed the walk it was called on:\n%s", diff)
			}
			w = narrow
		}
	})
}

func throughJSON(t *rapid.T, w Walk) (kept Walk) {
	b, err := json.Marshal(w)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &kept); err != nil {
		t.Fatal(err)
	}
	return kept
}

func TestNextWindowFollowsTheRowsFound(t *testing.T) {
	t.Parallel()
	hour := Walk{Next: walkBegin, Until: walkBegin.AddDate(1, 0, 0), Width: time.Hour}
	limited, narrowing := hour, hour
	limited.Target = 1000
	narrowing.Ahead = []Count{{walkBegin.Add(21 * time.Hour), 30_000}}
	done := hour
	done.Until = walkBegin.Add(90 * time.Minute)
	for _, test := range []struct {
		name string
		walk Walk
		rows int
		want time.Duration
	}{
		{"an empty one doubles and more", hour, 0, 16 * time.Hour},
		{"a nearly empty one too", hour, 3, 16 * time.Hour},
		{"a half full one doubles", hour, 5_000, 2 * time.Hour},
		{"a right one stays", hour, 10_000, time.Hour},
		{"a full one halves", hour, 20_000, time.Hour / 2},
		{"nothing goes over the end", done, 0, 30 * time.Minute},
		{"a known limit is kept", limited, 400, 150 * time.Minute},
		{"what is known ahead decides", narrowing, 10_000, 10 * time.Hour},
		{"what is known ahead, when it is not even", narrowing, 0, 10 * time.Hour},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if got := test.walk.Complete(test.rows).Width; got != test.want {
				t.Errorf("width %v, want %v", got, test.want)
			}
		})
	}
}

func TestNarrowGoesByProportionOrHalf(t *testing.T) {
	t.Parallel()
	day := NewWalk(walkBegin, walkBegin.Add(24*time.Hour))
	edge := day
	edge.Settled = walkBegin.Add(23 * time.Hour)
	crowded := day
	crowded.Ahead = []Count{{walkBegin.Add(48 * time.Hour), 100_000}}
	for _, test := range []struct {
		name  string
		walk  Walk
		total int
		want  time.Duration
	}{
		{"unknown total: half", day, 0, 12 * time.Hour},
		{"total of 100,000: a tenth", day, 100_000, 24 * time.Hour / 10},
		{"more than it should hold: half", crowded, 100_000, 12 * time.Hour},
		{"as much as it should hold: by proportion", crowded, 60_000, 4 * time.Hour},
		{"fewer than one window holds: half", day, 15_000, 12 * time.Hour},
		{"it reached over Settled: cut there", edge, 15_000, 23 * time.Hour},
		{"it reached over Settled and is too large: by proportion", edge, 100_000, 24 * time.Hour / 10},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := test.walk.Narrow(test.total)
			if err != nil || got.Width != test.want {
				t.Errorf("width %v, %v, want %v", got.Width, err, test.want)
			}
		})
	}
}
