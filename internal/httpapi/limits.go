package httpapi

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxPause caps what a server can make us wait: the longest documented period (NameCoach's 15 minutes).
const maxPause = 15 * time.Minute

// budget is what a server publishes of its rate limit; -1 where it says nothing usable.
type budget struct {
	limit, remaining float64       // requests
	reset            time.Duration // until the period ends
}

// readBudget reads NameCoach's Nc-Rate-Limit-Limit, -Remaining and -Reset (seconds).
func readBudget(h http.Header) budget {
	b := budget{
		limit:     readCount(h.Get("Nc-Rate-Limit-Limit")),
		remaining: readCount(h.Get("Nc-Rate-Limit-Remaining")),
		reset:     -1,
	}
	if s := readCount(h.Get("Nc-Rate-Limit-Reset")); s >= 0 {
		b.reset = seconds(s)
	}
	return b
}

// readRetryAfter returns how long the server asks us to wait: Retry-After as
// seconds or as an HTTP date (against the server's own clock where it sent
// one), else 0. At most maxPause.
func readRetryAfter(h http.Header, date, now time.Time) time.Duration {
	v := strings.TrimSpace(h.Get("Retry-After"))
	if s := readCount(v); s >= 0 {
		return seconds(s)
	}
	at, err := http.ParseTime(v)
	if err != nil {
		return 0
	}
	if !date.IsZero() {
		now = date
	}
	return min(max(at.Sub(now), 0), maxPause)
}

// readCount reads a number that is not negative, or returns -1.
func readCount(v string) float64 {
	n, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
	if err != nil || !(n >= 0) || math.IsInf(n, 1) {
		return -1
	}
	return n
}

func seconds(s float64) time.Duration {
	return time.Duration(min(s, maxPause.Seconds()) * float64(time.Second))
}
