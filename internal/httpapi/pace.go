package httpapi

import (
	"math/rand/v2"
	"net/http"
	"time"

	"golang.org/x/time/rate"
)

const (
	// recovery is how long the pace takes from nothing back to its upper bound after 429s.
	recovery = time.Minute
	// slowest is the part of the upper bound below which the pace never falls: a client that all but
	// stopped would not learn that it may go on.
	slowest = 1.0 / 64
	// littleLeft is the part of a published budget from which on the rest is spread over the period;
	// littleLeftOfUnknown is that number of requests where the budget's size is not published.
	littleLeft          = 0.2
	littleLeftOfUnknown = 100
	// A 429 that says no time is followed by a pause of firstPause, doubled in a row up to longestPause.
	firstPause   = time.Second
	longestPause = time.Minute
)

// pacer decides when the next request of a client may leave: additive
// increase, multiplicative decrease on top of a token bucket. It is the line's, whose mutex guards it.
type pacer struct {
	bucket    *rate.Limiter
	full      rate.Limit // upper bound, and burst, of all shares together
	burst     int
	shares    int
	part      float64 // of our share of the upper bound, as of since: the pace
	since     time.Time
	cut       time.Time // when the pace was last halved
	row       int       // 429s in a row that halved it
	pause     time.Time // nobody leaves before
	spread    rate.Limit
	spreadEnd time.Time // until then the pace of all shares together is spread at most
}

func newPacer(perSecond float64, burst int) *pacer {
	full := rate.Limit(perSecond)
	return &pacer{
		bucket: rate.NewLimiter(full, burst),
		full:   full,
		burst:  burst,
		shares: 1,
		part:   1,
	}
}

// take takes one departure from the bucket and returns 0, or returns when to ask again.
func (p *pacer) take(now time.Time) time.Duration {
	if delay := p.pause.Sub(now); delay > 0 {
		return delay
	}
	p.adjust(now)
	r := p.bucket.ReserveN(now, 1)
	delay := r.DelayFrom(now)
	if delay > 0 {
		r.CancelAt(now)
		if left := p.spreadEnd.Sub(now); left > 0 {
			delay = min(delay, left)
		}
	}
	return delay
}

// top is our share of the upper bound.
func (p *pacer) top() rate.Limit { return p.full / rate.Limit(p.shares) }

// slowed tells that the server lets us go slower than our share of the upper bound.
func (p *pacer) slowed() bool { return p.bucket.Limit() < p.top() }

// adjust grows the pace by the time that passed and tells the bucket.
func (p *pacer) adjust(now time.Time) {
	if passed := now.Sub(p.since); passed > 0 {
		p.part = min(p.part+passed.Seconds()/recovery.Seconds(), 1)
		p.since = now
	}
	limit, burst := p.top()*rate.Limit(p.part), max(p.burst/p.shares, 1)
	if p.part < 1 {
		burst = 1 // what the bucket has saved up would leave at the old pace
	}
	if spread := p.spread / rate.Limit(p.shares); now.Before(p.spreadEnd) && spread < limit {
		limit, burst = spread, 1
	}
	p.bucket.SetLimitAt(now, limit)
	p.bucket.SetBurstAt(now, burst)
}

// answered learns from an answer to a request that left at sent. told is how long
// it asks us to wait, 0 where it does not say.
func (p *pacer) answered(sent, now time.Time, status int, b budget, told time.Duration) {
	p.obey(now, b)
	switch status {
	case http.StatusTooManyRequests:
		p.slow(sent, now, told)
	case http.StatusServiceUnavailable:
		p.rest(now.Add(told))
	default:
		p.row = 0
	}
}

// obey holds to a published budget.
func (p *pacer) obey(now time.Time, b budget) {
	little := b.limit * littleLeft
	if b.limit < 0 {
		little = littleLeftOfUnknown
	}
	switch {
	case b.remaining < 0 || b.reset < 0:
		return
	case b.remaining > little || b.reset == 0:
		p.spreadEnd = time.Time{} // a new period, or nothing to fear
	case b.remaining < 1:
		p.rest(now.Add(b.reset))
	default:
		p.spread = rate.Limit(b.remaining / b.reset.Seconds())
		p.spreadEnd = now.Add(b.reset)
	}
}

// slow is the answer to a 429.
func (p *pacer) slow(sent, now time.Time, told time.Duration) {
	if sent.After(p.cut) { // a 429 to a request that left before is no news: its neighbours already paid
		if told <= 0 {
			told = min(firstPause<<min(p.row, 10), longestPause)
			told += time.Duration(rand.Int64N(int64(told) / 2))
		}
		p.adjust(now)
		p.part = max(p.part/2, slowest)
		p.cut = now
		p.row++
	}
	p.rest(now.Add(told))
	p.since = p.pause // the pause itself earns no speed
}

// rest keeps everybody from leaving before until.
func (p *pacer) rest(until time.Time) {
	if until.After(p.pause) {
		p.pause = until
	}
}

// interval is the time between two departures.
func (p *pacer) interval(now time.Time) time.Duration {
	p.adjust(now)
	return time.Duration(float64(time.Second) / float64(p.bucket.Limit()))
}

// share makes the pace one n-th of the upper bound. Up to now the former share has earned.
func (p *pacer) share(n int, now time.Time) {
	p.shares = max(n, 1)
	p.adjust(now)
}

// empty takes what the bucket has saved up.
func (p *pacer) empty(now time.Time) {
	p.bucket.AllowN(now, int(p.bucket.TokensAt(now)))
}
