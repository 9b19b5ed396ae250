package sync

import (
	"errors"
	"slices"
	"time"
)

const (
	// targetRows is what a window should hold: few enough for one transaction, enough for pages to be full.
	targetRows = 10_000
	// maxRows is what a window may hold. One that holds more is narrowed as soon as its first page says so, if it can be.
	maxRows = 20_000
)

// ErrSingleSecond says that a window of one second was incomplete: NameCoach's bounds have whole seconds, so it cannot be
// narrowed. The cursor must stay before it until its rows are known to be complete by other means.
var ErrSingleSecond = errors.New("a window of one second cannot be narrowed")

// ErrWalkDone says that a walk without a window was asked to narrow it.
var ErrWalkDone = errors.New("the walk is done: there is no window to narrow")

// Span is a span of update time in whole seconds: From inclusive, To exclusive.
type Span struct{ From, To time.Time }

// Ask returns the bounds to send as updated_after and updated_before. The document does not say whether bounds are inclusive
// or exclusive, nor whether fractions of a second are compared; with these nothing in the span is left out in any case. Rows of
// the second before the span and of the second after it may come along.
func (s Span) Ask() (after, before time.Time) { return s.From.Add(-time.Second), s.To }

func (s Span) seconds() int64 { return s.To.Unix() - s.From.Unix() }

// crosses says whether t lies within the span and not on its edge. The zero time crosses nothing.
func (s Span) crosses(t time.Time) bool { return s.From.Before(t) && t.Before(s.To) }

// Walk says which window of NameCoach update time to read next. It is a value: the methods return the walk that follows, and
// it is stored between windows. Next, Until and Width alone make a right walk; the other fields save requests (Target,
// Ahead) or guard the newest edge (Settled).
type Walk struct {
	// Next is where the next window begins; Until is where the last one ends. Whole seconds.
	Next, Until time.Time
	// Width is that of the next window, cut at Until.
	Width time.Duration

	// Settled is the time before which no row becomes visible any more: the server's now less the lookback, with some seconds to
	// spare. A window that reaches over it counts only if one answer holds it whole, else it is cut there. Before Settled, rows
	// can only leave a window, so a total that stays the same proves that none did. After it, a row that comes can hide one that
	// goes, but the next walk's lookback reads all of that again. Zero: everything is settled.
	Settled time.Time

	// Target is how many rows a window should hold; 0 is the usual 10,000. It falls when windows of less fail (answers cut
	// short, rows that keep moving) and recovers slowly, so that a server's hidden limit is not run into by every window.
	Target int
	// Ahead is what the server has said about the spans that begin at Next, the widest first. It finds the crowded hour of
	// twenty-six years by halving instead of by groping.
	Ahead []Count
}

// Count is a number of rows that the server said to have from the walk's Next to To, less those already read.
type Count struct {
	To   time.Time
	Rows int
}

// NewWalk begins a walk over all update times from from (rounded down to a second) to until (rounded up), with the whole span
// as first window.
func NewWalk(from, until time.Time) Walk {
	w := Walk{Next: from.UTC().Truncate(time.Second), Until: until.UTC().Truncate(time.Second)}
	if w.Until.Before(until) {
		w.Until = w.Until.Add(time.Second)
	}
	return w.withWidth(1<<62, w.Until)
}

// Window is the span to read next; false when the walk is done.
func (w Walk) Window() (Span, bool) {
	if !w.Next.Before(w.Until) {
		return Span{}, false
	}
	to := w.Next.Add(max(w.Width.Truncate(time.Second), time.Second))
	if to.After(w.Until) {
		to = w.Until
	}
	return Span{From: w.Next, To: to}, true
}

// Complete is the walk after its window was read whole and held that many rows: Next moves to the window's end. It changes
// nothing where the walk is done.
func (w Walk) Complete(rows int) Walk {
	s, ok := w.Window()
	if !ok {
		return w
	}
	next := w
	next.Next, next.Ahead = s.To, nil
	if target := w.target(); rows >= target/2 { // full enough to prove that as much can be read
		next.Target = min(max(target+target/8+1, rows), targetRows)
	}
	for _, c := range w.Ahead {
		if c.To.After(s.To) {
			c.Rows = max(c.Rows-rows, 0)
			next.Ahead = append(next.Ahead, c)
		}
	}
	switch {
	case s.seconds() == 1 && rows > w.maxRows():
		// A bulk import. With inclusive bounds the second after it brings its rows once more, and so would any wider window.
		return next.withWidth(1, next.Until)
	case len(next.Ahead) > 0:
		return next.aim(next.Until.Add(time.Second), rows > w.expected(s)/2)
	case rows == 0:
		return next.withWidth(s.seconds()*16, next.Until)
	default:
		width := s.seconds() * int64(next.target()) / int64(rows)
		return next.withWidth(min(width, s.seconds()*16), next.Until)
	}
}

// Narrow is the walk after its window proved incomplete, with a strictly narrower window at the same Next. total is how many
// rows the server says that the window holds, 0 where it does not say. It fails with ErrSingleSecond where the window is one
// second wide already, and with ErrWalkDone where there is none.
func (w Walk) Narrow(total int) (Walk, error) {
	s, ok := w.Window()
	switch {
	case !ok:
		return w, ErrWalkDone
	case s.seconds() <= 1:
		return w, ErrSingleSecond
	}
	next := w
	if total <= 0 {
		next.Target = max(w.target()/2, 1)
		return next.withWidth(s.seconds()/2, s.To), nil
	}
	next.Ahead = slices.DeleteFunc(slices.Clone(w.Ahead), func(c Count) bool { return c.To.Equal(s.To) })
	at := 0
	for at < len(next.Ahead) && next.Ahead[at].To.After(s.To) {
		at++
	}
	next.Ahead = slices.Insert(next.Ahead, at, Count{To: s.To, Rows: total})
	even := true
	if expected := w.expected(s); expected > 0 {
		even = total < expected+expected/2
	}
	if total <= w.maxRows() {
		if s.crosses(w.Settled) { // very likely incomplete only because of that
			return next.withWidth(1<<62, w.Settled), nil
		}
		// The size was right and yet it could not be read: the server has a limit that it does not tell, or its rows keep moving.
		next.Target = max(min(w.target(), (total-1)/2), 1)
		even = false
	}
	return next.aim(s.To, even), nil
}

// aim sets the width by what is known ahead, to end before limit. Rows that are not spread evenly are halved in, since a
// proportion would grope.
func (w Walk) aim(limit time.Time, even bool) Walk {
	target := w.target()
	fits := target
	if target == targetRows {
		fits += target / 2
	}
	for _, c := range w.Ahead { // the widest first
		if c.Rows <= fits && c.To.Before(limit) {
			return w.withWidth(1<<62, c.To)
		}
	}
	near := w.Ahead[len(w.Ahead)-1]
	rest := near.To.Unix() - w.Next.Unix()
	width := rest / 2
	if even {
		width = min(width, rest*int64(target)/int64(max(near.Rows, 1)))
	}
	return w.withWidth(width, near.To)
}

func (w Walk) target() int {
	if w.Target <= 0 {
		return targetRows
	}
	return min(w.Target, targetRows)
}

// maxRows is the most rows that the next window may hold.
func (w Walk) maxRows() int { return maxRows / targetRows * w.target() }

// expected is how many rows s should hold if those in the narrowest wider span with a known count were spread evenly; 0 where
// nothing is known.
func (w Walk) expected(s Span) int {
	for _, c := range slices.Backward(w.Ahead) {
		if c.To.After(s.To) {
			return int(float64(c.Rows) * float64(s.seconds()) / float64(c.To.Unix()-s.From.Unix()))
		}
	}
	return 0
}

// withWidth sets the width in seconds: at least one, and not beyond end.
func (w Walk) withWidth(seconds int64, end time.Time) Walk {
	// Sub saturates at 292 years, which only means one window more.
	w.Width = max(time.Duration(min(seconds, int64(end.Sub(w.Next)/time.Second)))*time.Second, time.Second)
	return w
}
