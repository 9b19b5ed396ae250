package httpapi

import (
	"context"
	"slices"
	"sync"
	"time"
)

// line is where the requests of a client and of its views wait: for a place among those in flight, and for the pace.
//
// Only the first in line asks the pace, so nobody has reserved a departure when it drops: a 429 slows every neighbour
// at once. And nobody has a place before the pace lets them go, so that whoever is in a hurry finds one.
type line struct {
	patience time.Duration // of those who have it; 0: endless

	mu     sync.Mutex
	pace   *pacer
	places int       // not taken
	hurry  []*waiter // goes before bulk; each in the order in which they asked
	bulk   []*waiter
	timer  *time.Timer   // moves the line when the pace allows the next departure
	stuck  time.Time     // since when the first in line waits for the pace; zero: it does not
	held   time.Duration // for how long the pace has held the line up until then, in all
}

// waiter is a request in line. Until done is closed, the line's mutex guards it.
type waiter struct {
	patient bool          // waits longer than the line's patience
	held    time.Duration // the line's when it came, in the end for how long the pace has held up this request
	done    chan struct{}
	err     error // nil: it may leave, and has a place
}

func newLine(o Options) *line {
	return &line{patience: o.Patience, pace: newPacer(o.PerSecond, o.Burst), places: o.Concurrency}
}

// enter returns when a request may leave, and for how long the pace has held it up. Its place has to be given back by leave.
// It fails with a *PausedError, with ErrLate, or with ctx's error.
func (l *line) enter(ctx context.Context, hurry, patient bool) (time.Duration, error) {
	if ctx.Err() != nil { // before a departure is taken, which would be lost
		return 0, late(ctx)
	}
	w := &waiter{patient: patient, done: make(chan struct{})}
	queue := &l.bulk
	if hurry {
		queue = &l.hurry
	}
	l.change(func(time.Time) {
		w.held = l.held
		*queue = append(*queue, w)
	})
	select {
	case <-w.done:
	case <-ctx.Done():
	}
	if ctx.Err() == nil {
		return w.held, w.err
	}
	l.change(func(time.Time) {
		if i := slices.Index(*queue, w); i >= 0 {
			*queue = slices.Delete(*queue, i, i+1)
		} else if w.err == nil { // its turn came at this very moment
			l.places++
		}
	})
	return 0, late(ctx)
}

// leave gives a place back.
func (l *line) leave() { l.change(func(time.Time) { l.places++ }) }

// change does something to the line or its pace, and lets go whoever may leave now.
func (l *line) change(do func(now time.Time)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if !l.stuck.IsZero() {
		l.held += now.Sub(l.stuck)
		l.stuck = time.Time{}
		l.timer.Stop()
	}
	do(now)
	if l.patience > 0 && l.pace.pause.Sub(now) > l.patience {
		l.turnAway(l.pace.pause)
	}
	for l.places > 0 && len(l.hurry)+len(l.bulk) > 0 {
		delay := l.pace.take(now)
		switch {
		case delay <= 0:
			l.places--
			l.release()
		case l.patience > 0 && delay > l.patience && l.pace.slowed() && l.turnAway(now.Add(delay)):
			// look again who is left
		default:
			l.stuck = now
			l.timer = time.AfterFunc(delay, func() { l.change(func(time.Time) {}) })
			return
		}
	}
}

// release lets the first in line go.
func (l *line) release() {
	queue := &l.bulk
	if len(l.hurry) > 0 {
		queue = &l.hurry
	}
	w := (*queue)[0]
	*queue = slices.Delete(*queue, 0, 1)
	w.held = l.held - w.held
	close(w.done)
}

// turnAway fails everybody who does not wait so long, and tells whether there was anybody.
func (l *line) turnAway(until time.Time) bool {
	before := len(l.hurry) + len(l.bulk)
	for _, queue := range []*[]*waiter{&l.hurry, &l.bulk} {
		*queue = slices.DeleteFunc(*queue, func(w *waiter) bool {
			if !w.patient {
				w.err = &PausedError{Until: until}
				close(w.done)
			}
			return !w.patient
		})
	}
	return len(l.hurry)+len(l.bulk) < before
}
