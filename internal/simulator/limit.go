package simulator

import (
	"math"
	"strconv"
	"time"
)

// nameCoachBudget counts one token's requests in a period. Once they are used up one request a second is let through, the others are
// 429. Seen in the wild; not in the document.
type nameCoachBudget struct {
	since    time.Time
	used     int
	lastOver time.Time
}

// take is one request; it returns what is left and for how long.
func (b *nameCoachBudget) take(limit int, period time.Duration, now time.Time) (ok bool, remaining int, reset time.Duration) {
	if b.since.IsZero() || now.Sub(b.since) >= period {
		*b = nameCoachBudget{since: now}
	}
	switch {
	case b.used < limit:
		b.used++
		ok = true
	case now.Sub(b.lastOver) >= time.Second:
		b.lastOver = now
		ok = true
	}
	return ok, limit - b.used, period - now.Sub(b.since)
}

// bucket holds BLN's requests of one second.
type bucket struct {
	tokens float64
	at     time.Time
}

// take is one request; where there is no room it says when there will be.
func (b *bucket) take(rate float64, now time.Time) (ok bool, wait time.Duration) {
	burst := math.Max(1, rate)
	if b.at.IsZero() {
		b.tokens = burst
	} else {
		b.tokens = math.Min(burst, b.tokens+rate*now.Sub(b.at).Seconds())
	}
	b.at = now
	if b.tokens >= 1 {
		b.tokens--
		return true, 0
	}
	return false, time.Duration((1 - b.tokens) / rate * float64(time.Second))
}

// withinLimit takes one request out of the API's budget, or answers 429.
func (e *exchange) withinLimit() bool {
	now := e.o.Now()
	switch {
	case e.api == "namecoach" && e.o.NameCoachPer15Minutes > 0:
		limit := e.o.NameCoachPer15Minutes
		e.s.mu.Lock()
		ok, remaining, reset := e.s.nameCoach.take(limit, e.o.NameCoachPeriod, now)
		e.s.mu.Unlock()
		h := e.w.Header()
		h.Set("Nc-Rate-Limit-Limit", strconv.Itoa(limit))
		h.Set("Nc-Rate-Limit-Remaining", strconv.Itoa(remaining))
		h.Set("Nc-Rate-Limit-Reset", strconv.Itoa(int(math.Ceil(reset.Seconds()))))
		if !ok {
			e.over(time.Second)
		}
		return ok
	case e.api == "bln" && e.o.BLNPerSecond > 0:
		e.s.mu.Lock()
		ok, wait := e.s.bln.take(e.o.BLNPerSecond, now)
		e.s.mu.Unlock()
		if !ok {
			e.over(wait)
		}
		return ok
	}
	return true
}

// over answers 429 because the limit is reached.
func (e *exchange) over(wait time.Duration) {
	e.s.mu.Lock()
	e.seen.Over = true
	e.s.mu.Unlock()
	e.tooMany(wait)
}
