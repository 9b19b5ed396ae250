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

// bucket holds BLN's requests of one second.
type bucket struct {
	tokens float64
	at     time.Time
}

// withinLimit takes one request out of the budget, or answers 429.
func (e *exchange) withinLimit() bool {
	now := e.o.Now()
	e.s.mu.Lock()
	if e.api == "namecoach" {
		if e.o.NameCoachPer15Minutes == 0 {
			e.s.mu.Unlock()
			return true
		}
		b, limit := &e.s.nameCoach, e.o.NameCoachPer15Minutes
		if b.since.IsZero() || now.Sub(b.since) >= e.o.NameCoachPeriod {
			*b = nameCoachBudget{since: now}
		}
		ok := b.used < limit
		if ok {
			b.used++
		} else if now.Sub(b.lastOver) >= time.Second {
			ok, b.lastOver = true, now
		}
		remaining, reset := limit-b.used, e.o.NameCoachPeriod-now.Sub(b.since)
		e.s.mu.Unlock()
		h := e.w.Header()
		h["Nc-Rate-Limit-Limit"] = []string{strconv.Itoa(limit)}
		h["Nc-Rate-Limit-Remaining"] = []string{strconv.Itoa(remaining)}
		h["Nc-Rate-Limit-Reset"] = []string{strconv.Itoa(int(math.Ceil(reset.Seconds())))}
		if !ok {
			e.tooMany(time.Second)
		}
		return ok
	}
	rate := e.o.BLNPerSecond
	if rate == 0 {
		e.s.mu.Unlock()
		return true
	}
	b, burst := &e.s.bln, math.Max(1, rate)
	if b.at.IsZero() {
		b.tokens = burst
	} else {
		b.tokens = math.Min(burst, b.tokens+rate*now.Sub(b.at).Seconds())
	}
	b.at = now
	ok := b.tokens >= 1
	if ok {
		b.tokens--
	}
	wait := time.Duration((1 - b.tokens) / rate * float64(time.Second))
	e.s.mu.Unlock()
	if !ok {
		e.tooMany(wait)
	}
	return ok
}
