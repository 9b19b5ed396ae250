package sync

import (
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// readingPage is one page as the server lists it: row numbers, and its total (-1: none).
type readingPage struct {
	rows  []int
	total int
}

func numbers(from, to int) []int {
	var n []int
	for i := from; i < to; i++ {
		n = append(n, i)
	}
	return n
}

func TestReadingJudgesPages(t *testing.T) {
	t.Parallel()
	const unknown = -1
	minute := NewWalk(walkBegin, walkBegin.Add(time.Minute))
	second := NewWalk(walkBegin, walkBegin.Add(time.Second))
	edge := minute
	edge.Settled = walkBegin.Add(30 * time.Second)
	limited := minute
	limited.Target = 10
	for _, test := range []struct {
		name    string
		walk    Walk
		attempt int
		pages   []readingPage
		want    Verdict // of the last page; the others say NextPage
		reason  string
	}{
		{"an empty window is whole", minute, 0, []readingPage{{nil, 0}}, Whole, ""},
		{"one page with all rows is whole", minute, 0, []readingPage{{numbers(0, 3), 3}}, Whole, ""},
		{"pages that add up are whole", minute, 0, []readingPage{{numbers(0, 3), 5}, {numbers(3, 5), 5}}, Whole, ""},
		{"a short page is not the end", minute, 0, []readingPage{{numbers(0, 3), 6}, {numbers(3, 4), 6}, {numbers(4, 6), 6}}, Whole, ""},
		{"pages that overlap count each row once", minute, 0, []readingPage{{numbers(0, 3), 5}, {numbers(2, 4), 5}, {numbers(4, 5), 5}}, Whole, ""},
		{"twins on one page count twice", minute, 0, []readingPage{{[]int{1, 1, 2}, 3}}, Whole, ""},
		{"twins on two pages count once", minute, 0, []readingPage{{[]int{0, 1}, 4}, {[]int{1, 2}, 4}, {nil, 4}}, Split, "page 3 brought nothing new"},
		{"twins seen again count once more only where a page has more of them", minute, 0, []readingPage{{[]int{0, 1}, 5}, {[]int{1, 1}, 5}, {[]int{1, 2}, 5}, {[]int{3}, 5}}, Whole, ""},

		// Trap 3.
		{"an ignored page is split", minute, 0, []readingPage{{numbers(0, 3), 5}, {numbers(0, 3), 5}}, Split, "page 2 brought nothing new, with 3 of 5"},
		{"an empty page while rows are missing is split", minute, 0, []readingPage{{numbers(0, 3), 5}, {nil, 5}}, Split, "nothing new"},
		{"an empty page 1 with a total is split", minute, 0, []readingPage{{nil, 5}}, Split, "nothing new"},
		{"no total and no rows is whole", minute, 0, []readingPage{{nil, unknown}}, Whole, ""},
		{"no total and an odd count is whole", minute, 0, []readingPage{{numbers(0, 47), unknown}}, Whole, ""},
		{"no total and a multiple of ten is split", minute, 0, []readingPage{{numbers(0, 40), unknown}}, Split, "cut short"},
		{"no total and a multiple of twenty-five is split", minute, 0, []readingPage{{numbers(0, 25), unknown}}, Split, "cut short"},
		{"no total and a full page is split", minute, 0, []readingPage{{numbers(0, 64), unknown}}, Split, "cut short"},
		{"no total and twins make a round count: split", minute, 0, []readingPage{{append(numbers(0, 9), 8), unknown}}, Split, "cut short"},
		{"a negative total is none", minute, 0, []readingPage{{numbers(0, 40), -7}}, Split, "cut short"},
		{"more rows than the total on one page is whole", minute, 0, []readingPage{{numbers(0, 5), 3}}, Whole, ""},
		{"more rows than the total on several pages is read again", minute, 0, []readingPage{{numbers(0, 3), 4}, {numbers(3, 6), 4}}, ReadAgain, "more than the total of 4"},
		{"and split the third time", minute, 2, []readingPage{{numbers(0, 3), 4}, {numbers(3, 6), 4}}, Split, "more than the total of 4, also on reading 3"},

		// Trap 27a.
		{"a fallen total is read again, also where the rows add up", minute, 0, []readingPage{{numbers(0, 3), 5}, {numbers(4, 5), 4}}, ReadAgain, "total changed from 5 to 4"},
		{"a risen total is read again", minute, 1, []readingPage{{numbers(0, 3), 5}, {numbers(3, 5), 6}}, ReadAgain, "total changed from 5 to 6"},
		{"a total that goes missing is read again", minute, 1, []readingPage{{numbers(0, 3), 5}, {numbers(3, 5), unknown}}, ReadAgain, "total changed from 5 to unknown"},
		{"a third reading with a changed total is split", minute, 2, []readingPage{{numbers(0, 3), 5}, {numbers(3, 5), 6}}, Split, "also on reading 3"},
		{"a total that changes and comes back is read again", minute, 0, []readingPage{{numbers(0, 3), 9}, {numbers(3, 6), 8}}, ReadAgain, "total changed"},

		{"a window over the settled edge is whole on one page", edge, 0, []readingPage{{numbers(0, 3), 3}}, Whole, ""},
		{"a window over the settled edge is split before page 2", edge, 0, []readingPage{{numbers(0, 3), 5}}, Split, "may still appear"},
		{"too many rows are split at once", minute, 0, []readingPage{{numbers(0, 3), maxRows + 1}}, Split, "more than the 20000"},
		{"a learned limit counts too", limited, 0, []readingPage{{numbers(0, 3), 21}}, Split, "more than the 20"},
		{"too many rows in one answer are whole", minute, 0, []readingPage{{numbers(0, maxRows+1), maxRows + 1}}, Whole, ""},
		{"too many rows of one second are read on", second, 0, []readingPage{{numbers(0, maxRows), maxRows + 3}, {numbers(maxRows, maxRows+3), maxRows + 3}}, Whole, ""},
		{"more pages than the first one promised are split", minute, 0, []readingPage{{numbers(0, 3), 9}, {[]int{3}, 9}, {[]int{4}, 9}, {[]int{5}, 9}, {[]int{6}, 9}}, Split, "7 of 9 rows after 5 pages"},
		{"more than 10,000 pages are not begun", second, 0, []readingPage{{[]int{0}, maxPages + 1}}, Split, "more than 10000 pages"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := NewReading(test.walk, 64, test.attempt)
			for i, p := range test.pages {
				for _, n := range p.rows {
					r.Row(rowNumber(n))
				}
				want := NextPage
				if i == len(test.pages)-1 {
					want = test.want
				}
				got, reason := r.EndPage(PageMeta{Known: p.total != unknown, Total: p.total})
				if got != want {
					t.Fatalf("page %d: %v (%s), want %v", i+1, got, reason, want)
				}
				if needs := got == ReadAgain || got == Split; needs != (reason != "") || got == test.want && !strings.Contains(reason, test.reason) {
					t.Errorf("page %d: %v because %q, want %q in it", i+1, got, reason, test.reason)
				}
				if p.total >= 0 && r.Total() != p.total {
					t.Errorf("page %d: total %d, want %d", i+1, r.Total(), p.total)
				}
			}
		})
	}
}

// Trap 27a at its worst: between the pages row 0 is updated and leaves, so that row 3 moves to page 1, while row 6 shows late. The
// total stays 6 and six rows are seen, but row 3 is not among them. Settled is what stops this.
func TestALateRowCannotHideOneThatWasMissed(t *testing.T) {
	t.Parallel()
	minute := NewWalk(walkBegin, walkBegin.Add(time.Minute))
	read := func(w Walk) (v Verdict) {
		r := NewReading(w, 3, 0)
		for _, page := range [][]int{{0, 1, 2}, {4, 5, 6}} {
			for _, n := range page {
				r.Row(rowNumber(n))
			}
			if v, _ = r.EndPage(PageMeta{Known: true, Total: 6}); v != NextPage {
				break
			}
		}
		return v
	}
	if got := read(minute); got != Whole {
		t.Fatalf("%v where rows are said to be settled: the pages no longer show the danger", got)
	}
	minute.Settled = walkBegin.Add(30 * time.Second)
	if got := read(minute); got != Split {
		t.Errorf("%v where late rows may show, want %v", got, Split)
	}
}

func TestReadingNeverAsksForMoreThanTenThousandPages(t *testing.T) {
	t.Parallel()
	r := NewReading(NewWalk(walkBegin, walkBegin.Add(time.Second)), 64, 0)
	for page := 1; ; page++ {
		r.Row(rowNumber(page))
		v, reason := r.EndPage(PageMeta{Known: true, Total: maxPages})
		if v == NextPage && page < maxPages {
			continue
		}
		if v != Whole || page != maxPages {
			t.Fatalf("page %d: %v (%s)", page, v, reason)
		}
		return
	}
}

// movingRow is one participant of the moving server. People who look alike share a look.
type movingRow struct {
	look    int
	version int
	updated time.Time // as the server filters by it
	visible time.Time // when that version commits; until then the version before it shows
	before  time.Time // updated of the version before; zero: there was none
}

func (r movingRow) id() (id RowID) {
	return rowNumber(r.look<<20 | r.version)
}

// movingServer answers as the traps allow, on a clock that goes on with every request, while people are updated.
type movingServer struct {
	t    *rapid.T
	now  time.Time
	rows []movingRow

	perPage   int  // what the client asks for
	paging    bool // else page and per_page are ignored
	pageCap   int  // longest page
	cut       int  // where paging is ignored: answers end after that many rows, 0 never
	meta      bool
	lie       int // added to the total, in some requests
	inclusive bool
	whole     bool // compares whole seconds
	busy      int  // of 100 requests, how many have updates before them
	growing   int  // updates of these that are new people
	quiet     time.Time
}

// seenAs is the row as it shows now: its update time and id, false where it does not show.
func (m *movingServer) seenAs(r movingRow) (time.Time, RowID, bool) {
	if !r.visible.After(m.now) {
		return r.updated, r.id(), true
	}
	r.version--
	return r.before, r.id(), !r.before.IsZero()
}

func (m *movingServer) step() {
	m.now = m.now.Add(time.Duration(rapid.IntRange(1, 4000).Draw(m.t, "takes ms")) * time.Millisecond)
	if m.now.After(m.quiet) || len(m.rows) == 0 || rapid.IntRange(1, 100).Draw(m.t, "busy") > m.busy {
		return
	}
	for range rapid.IntRange(1, 3).Draw(m.t, "updates") {
		// An update takes its time when it begins and shows when it commits, up to a minute later.
		late := time.Duration(rapid.IntRange(0, 59_000).Draw(m.t, "late ms")) * time.Millisecond
		if rapid.IntRange(1, 100).Draw(m.t, "new") <= m.growing {
			m.rows = append(m.rows, movingRow{look: len(m.rows), updated: m.now, visible: m.now.Add(late)})
			continue
		}
		r := &m.rows[rapid.IntRange(0, len(m.rows)-1).Draw(m.t, "who")]
		if r.visible.After(m.now) {
			continue // being updated
		}
		r.before, r.updated, r.visible = r.updated, m.now, m.now.Add(late)
		r.version++
	}
}

func (m *movingServer) ask(s Span, page int) ([]RowID, PageMeta) {
	m.step()
	after, before := s.Ask()
	var ids []RowID
	for _, r := range m.rows {
		u, id, ok := m.seenAs(r)
		if m.whole {
			u = u.Truncate(time.Second)
		}
		if ok && (u.After(after) && u.Before(before) || m.inclusive && (u.Equal(after) || u.Equal(before))) {
			ids = append(ids, id)
		}
	}
	meta := PageMeta{Known: m.meta, Total: len(ids)}
	if m.lie != 0 && rapid.Bool().Draw(m.t, "lies") {
		meta.Total = max(meta.Total+m.lie, 0)
	}
	switch {
	case m.paging:
		size := min(m.perPage, m.pageCap)
		from := min((page-1)*size, len(ids))
		ids = ids[from:min(from+size, len(ids))]
	case m.cut > 0:
		ids = ids[:min(m.cut, len(ids))]
	}
	return ids, meta
}

const (
	walkLookback = 10 * time.Minute
	walkSettle   = 30 * time.Second
)

// drawServer makes a server of any kind that the traps allow, save one that tells an untruth.
func drawServer(t *rapid.T) *movingServer {
	m := &movingServer{
		t:         t,
		now:       walkBegin.Add(30 * 24 * time.Hour),
		perPage:   rapid.SampledFrom([]int{7, 20, 50, 2000}).Draw(t, "per page"),
		paging:    rapid.Bool().Draw(t, "paging"),
		meta:      rapid.IntRange(1, 4).Draw(t, "meta") > 1,
		inclusive: rapid.Bool().Draw(t, "inclusive"),
		whole:     rapid.Bool().Draw(t, "whole seconds"),
		busy:      rapid.SampledFrom([]int{0, 30, 100}).Draw(t, "busy %"),
		growing:   rapid.SampledFrom([]int{0, 50}).Draw(t, "new %"),
	}
	m.quiet = m.now.Add(time.Duration(rapid.IntRange(0, 600).Draw(t, "busy for s")) * time.Second)
	if m.meta {
		m.pageCap = rapid.OneOf(rapid.IntRange(1, 20), rapid.IntRange(1, 2000)).Draw(t, "cap")
		m.cut = rapid.OneOf(rapid.Just(0), rapid.IntRange(1, 60)).Draw(t, "cut")
	} else {
		// Without a total, a limit shows only if it is a round number or what was asked for.
		m.pageCap = rapid.SampledFrom([]int{10, 25, 100, 2000}).Draw(t, "cap")
		m.cut = rapid.SampledFrom([]int{0, 10, 20, 25, 100, m.perPage}).Draw(t, "cut")
	}
	for cluster := range rapid.IntRange(0, 6).Draw(t, "clusters") {
		base := walkBegin.Add(time.Duration(rapid.Int64Range(0, int64(30*24*time.Hour)-1).Draw(t, "at")))
		if cluster == 0 { // near now, about where rows settle
			base = m.now.Add(-time.Duration(rapid.Int64Range(0, int64(15*time.Minute)).Draw(t, "ago")))
		}
		width := rapid.SampledFrom([]time.Duration{time.Millisecond, time.Second, time.Minute, 24 * time.Hour}).Draw(t, "width")
		for range rapid.IntRange(0, 40).Draw(t, "people") {
			r := movingRow{look: len(m.rows), updated: base.Add(time.Duration(rapid.Int64Range(0, int64(width)).Draw(t, "within")))}
			if !r.updated.Before(m.now) {
				r.updated = m.now.Add(-time.Millisecond)
			}
			if len(m.rows) > 0 && rapid.IntRange(1, 10).Draw(t, "twin") == 1 {
				r.look = m.rows[len(m.rows)-1].look
			}
			r.visible = r.updated.Add(time.Duration(rapid.IntRange(0, 59_000).Draw(t, "late ms")) * time.Millisecond)
			m.rows = append(m.rows, r)
		}
	}
	return m
}

// checkOften checks a property that needs rare events to meet, with more examples than usual.
func checkOften(t *testing.T, property func(t *rapid.T)) {
	t.Helper()
	for n := range 10 {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, property)
		})
	}
}

// TestNoRowThatStayedIsMissed is design rule 3.4, with traps 3, 7, 8 and 27a, in a model. Its preconditions: totals, where given, tell the
// truth (see TestALyingTotalEndsInBoundedTime for the others); without a total, a server's hidden limit is a multiple of 10 or of 25, or the page
// size asked for; rows show at most a minute late and the lookback is longer; the digest of a row changes only with its update time.
//
// Then (a) each window that was accepted holds every row that was in it all the while it was read, if it ends before Settled or came in
// one answer; (b) windows follow each other without a gap; (c) once a second walk is through, every row is stored in its last version; (d) a walk that cannot go on
// stands at a window of one second.
func TestNoRowThatStayedIsMissed(t *testing.T) {
	t.Parallel()
	checkOften(t, func(t *rapid.T) {
		m := drawServer(t)
		stored := map[RowID]int{}
		cursor := walkBegin.Add(walkLookback)
		for range 3 {
			w := NewWalk(cursor.Add(-walkLookback), m.now.Add(-walkSettle))
			w.Settled = m.now.Add(-walkLookback)
			done := w.Next
			stayed := map[int]RowID{} // rows in the window in each answer so far
			var reading Span
			ask := func(s Span, page int) ([]RowID, PageMeta) {
				ids, meta := m.ask(s, page)
				if page == 1 {
					clear(stayed)
					reading = s
				}
				for i, r := range m.rows {
					u, id, ok := m.seenAs(r)
					in := ok && !u.Before(s.From) && u.Before(s.To)
					if page == 1 && in {
						stayed[i] = id
					} else if !in || stayed[i] != id {
						delete(stayed, i)
					}
				}
				return ids, meta
			}
			end := walkThrough(w, m.perPage, 50_000, ask, func(s Span, pages int, rows map[RowID]int) {
				if s != reading || !s.From.Equal(done) {
					t.Fatalf("window %v after %v", s, done)
				}
				done = s.To
				for id, n := range rows {
					stored[id] = max(stored[id], n)
				}
				if pages > 1 && s.To.After(w.Settled) {
					return // the next walk reads it again
				}
				want := map[RowID]int{}
				for _, id := range stayed {
					if want[id]++; rows[id] < want[id] {
						t.Fatalf("window %v, %d pages, accepted without row %x", s, pages, id)
					}
				}
			})
			if errors.Is(end.err, errTooManyRequests) {
				t.Fatalf("not done after %d requests, at %+v", end.requests, end.walk)
			}
			if !end.walk.Next.Equal(done) {
				t.Fatalf("the walk is at %v, windows were accepted until %v", end.walk.Next, done)
			}
			if end.err != nil {
				s, _ := end.walk.Window()
				if !errors.Is(end.err, ErrSingleSecond) || s.To.Sub(s.From) != time.Second {
					t.Fatalf("stopped at %v: %v", s, end.err)
				}
				return // the cursor stays
			}
			cursor = done
			m.now = m.now.Add(5 * time.Minute)
			if m.now.After(m.quiet) && m.now.Sub(m.quiet) < 2*walkLookback {
				m.now = m.quiet.Add(2 * walkLookback) // the last walks find everything settled
			}
		}
		for i, r := range m.rows {
			if r.updated.Before(cursor) && stored[r.id()] == 0 {
				t.Fatalf("row %d, updated %v, is not stored and the cursor is at %v", i, r.updated, cursor)
			}
		}
	})
}

// A server may say anything: the loop ends, without a gap, after requests in proportion to the rows.
func TestALyingTotalEndsInBoundedTime(t *testing.T) {
	t.Parallel()
	checkOften(t, func(t *rapid.T) {
		m := drawServer(t)
		m.lie = rapid.OneOf(rapid.IntRange(-300, 300), rapid.SampledFrom([]int{-1, 1, maxRows, 1 << 40})).Draw(t, "lie")
		w := NewWalk(walkBegin, m.now.Add(-walkSettle))
		w.Settled = m.now.Add(-walkLookback)
		done := w.Next
		end := walkThrough(w, m.perPage, 50_000, m.ask, func(s Span, _ int, _ map[RowID]int) {
			if !s.From.Equal(done) {
				t.Fatalf("window %v after %v", s, done)
			}
			done = s.To
		})
		if errors.Is(end.err, errTooManyRequests) {
			t.Fatalf("not done after %d requests, at %+v", end.requests, end.walk)
		}
		if !end.walk.Next.Equal(done) || end.err == nil && done.Before(w.Until) {
			t.Fatalf("the walk is at %v, windows were accepted until %v: %v", end.walk.Next, done, end.err)
		}
	})
}

func BenchmarkReading300000Rows(b *testing.B) {
	w := NewWalk(walkBegin, walkBegin.Add(time.Second))
	for _, perPage := range []int{2000, 300_000} {
		b.Run("pages of "+PageMeta{Known: true, Total: perPage}.String(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r := NewReading(w, perPage, 0)
				v := NextPage
				for n := 0; v == NextPage; {
					for range perPage {
						r.Row(rowNumber(n))
						n++
					}
					v, _ = r.EndPage(PageMeta{Known: true, Total: 300_000})
				}
				if v != Whole {
					b.Fatal(v)
				}
			}
		})
	}
}
