package httpapi

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// flood sends n requests at once and returns when all are answered.
func flood(t *testing.T, c *Client, n int) {
	t.Helper()
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			if _, _, err := c.Fetch(t.Context(), get("a")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestNoSpanSeesMoreThanTheUpperBound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const perSecond, burst = 5, 3
		var sent departures
		c := client(t, Options{PerSecond: perSecond, Burst: burst, Transport: wire(func(*http.Request) (*http.Response, error) {
			sent.now()
			return answer(200, ""), nil
		})})
		start := time.Now()
		flood(t, c, 100)
		time.Sleep(time.Hour) // a quiet time saves up burst, no more
		flood(t, c, 20)
		at := sent.since(start)
		for i := range at {
			for j := i; j < len(at); j++ {
				if got, most := float64(j-i+1), burst+perSecond*(at[j]-at[i]).Seconds()+0.001; got > most {
					t.Fatalf("%v requests in %v, want at most %v", got, at[j]-at[i], most)
				}
			}
		}
		if took := at[99]; took > 20*time.Second {
			t.Errorf("100 requests took %v: slower than allowed", took)
		}
	})
}

// Traps 21 and 34: a 429 may come from any endpoint, and is "not carried out" for every method.
func TestA429IsWaitedOutForEveryMethod(t *testing.T) {
	t.Parallel()
	date := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // when every bubble begins
	for name, test := range map[string]struct {
		headers    []string
		low, high  time.Duration
		retryAfter time.Duration
	}{
		"seconds":                   {[]string{"Retry-After", "60"}, 60 * time.Second, 60 * time.Second, 60 * time.Second},
		"an HTTP date":              {[]string{"Retry-After", date.Add(90 * time.Second).Format(http.TimeFormat)}, 90 * time.Second, 90 * time.Second, 90 * time.Second},
		"a date on a wrong clock":   {[]string{"Retry-After", date.Add(time.Hour + 30*time.Second).Format(http.TimeFormat), "Date", date.Add(time.Hour).Format(http.TimeFormat)}, 30 * time.Second, 30 * time.Second, 30 * time.Second},
		"NameCoach's reset":         {[]string{"Nc-Rate-Limit-Limit", "1000", "Nc-Rate-Limit-Remaining", "0", "Nc-Rate-Limit-Reset", "420"}, 420 * time.Second, 420 * time.Second, 420 * time.Second},
		"a day is capped":           {[]string{"Retry-After", "86400"}, 15 * time.Minute, 15 * time.Minute, 15 * time.Minute},
		"a far date is capped":      {[]string{"Retry-After", date.AddDate(50, 0, 0).Format(http.TimeFormat)}, 15 * time.Minute, 15 * time.Minute, 15 * time.Minute},
		"a far reset is capped":     {[]string{"Nc-Rate-Limit-Reset", "1e300"}, 15 * time.Minute, 15 * time.Minute, 15 * time.Minute},
		"a past date":               {[]string{"Retry-After", date.Add(-time.Hour).Format(http.TimeFormat)}, time.Second, 1500 * time.Millisecond, 0},
		"nothing":                   {nil, time.Second, 1500 * time.Millisecond, 0},
		"no number":                 {[]string{"Retry-After", "soon"}, time.Second, 1500 * time.Millisecond, 0},
		"a negative number":         {[]string{"Retry-After", "-5"}, time.Second, 1500 * time.Millisecond, 0},
		"zero":                      {[]string{"Retry-After", "0"}, time.Second, 1500 * time.Millisecond, 0},
		"Retry-After over the rest": {[]string{"Retry-After", "10", "Nc-Rate-Limit-Reset", "420"}, 10 * time.Second, 10 * time.Second, 10 * time.Second},
	} {
		for _, method := range []string{"GET", "POST", "PUT", "DELETE"} {
			synctest.Test(t, func(t *testing.T) {
				var bodies []string
				c := client(t, Options{Transport: wire(func(r *http.Request) (*http.Response, error) {
					text, _ := io.ReadAll(r.Body)
					bodies = append(bodies, string(text))
					if len(bodies) == 1 {
						return answer(429, `{"message":"Too Many Requests"}`, test.headers...), nil
					}
					return answer(200, ""), nil
				})})
				start := time.Now()
				_, _, err := c.Fetch(t.Context(), Request{Endpoint: "a.b", Method: method, Path: "a", Body: []byte("content")})
				waited := time.Since(start)
				if err != nil || waited < test.low || waited > test.high {
					t.Errorf("%s, %s: waited %v, %v; want %v to %v", name, method, waited, err, test.low, test.high)
				}
				if diff := cmp.Diff([]string{"content", "content"}, bodies); diff != "" {
					t.Errorf("%s, %s: bodies (-want +got):\n%s", name, method, diff)
				}
			})
		}
		synctest.Test(t, func(t *testing.T) {
			h := answer(429, "", test.headers...).Header //nolint:bodyclose // made of a string
			server, _ := http.ParseTime(h.Get("Date"))
			b := readBudget(h)
			got := readRetryAfter(h, server, time.Now())
			if got == 0 {
				got = max(b.reset, 0)
			}
			if got != test.retryAfter {
				t.Errorf("%s: read as %v, want %v", name, got, test.retryAfter)
			}
		})
	}
}

func TestEndless429sEndAfter20(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var seen log
		c := client(t, Options{Attempts: 1, Observe: seen.observe, Transport: wire(func(*http.Request) (*http.Response, error) {
			return answer(429, "", "Retry-After", "7"), nil
		})})
		start := time.Now()
		_, err := c.Do(t.Context(), put("a"))
		var fail *Error
		if !errors.As(err, &fail) || fail.Status != 429 || fail.Unknown || fail.RetryAfter != 7*time.Second {
			t.Errorf("got %#v", err)
		}
		if n := len(seen.codes()); n != 20 || time.Since(start) < 19*7*time.Second {
			t.Errorf("%d requests in %v, want 20 with 7 s between", n, time.Since(start))
		}
	})
}

func Test429sTakeNothingFromTheAttempts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		script := append(slices.Repeat([]int{429}, 19), 500)
		script = append(script, slices.Repeat([]int{429}, 19)...) // 19 in a row, twice
		script = append(script, 500, 429, 200)
		var seen log
		next := 0
		c := client(t, Options{Attempts: 3, Observe: seen.observe, Transport: wire(func(*http.Request) (*http.Response, error) {
			next++
			return answer(script[next-1], "", "Retry-After", "1"), nil
		})})
		if _, _, err := c.Fetch(t.Context(), get("a")); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(script, seen.codes()); diff != "" { // each 429 is counted
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// A library's limiter slowed only the request that met the 429, never its neighbours.
func TestA429SlowsTheNeighboursToo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var sent departures
		c := client(t, Options{PerSecond: 8, Burst: 4, Concurrency: 16, Transport: wire(func(*http.Request) (*http.Response, error) {
			if sent.now() == 1 {
				return answer(429, "", "Retry-After", "30"), nil
			}
			return answer(200, ""), nil
		})})
		start := time.Now()
		flood(t, c, 16)
		at := sent.since(start)
		// What left together with the refused one is not to be called back; everybody else waits.
		held := slices.IndexFunc(at, func(d time.Duration) bool { return d > 0 })
		if held > 4 || at[held] < 30*time.Second {
			t.Fatalf("departures %v: somebody left during the pause", at)
		}
		for i := held + 1; i < len(at); i++ { // then at about half the pace, without a burst
			if gap := at[i] - at[i-1]; gap < 150*time.Millisecond || gap > 251*time.Millisecond {
				t.Errorf("gap %v after the pause, want between 1/4 s (half the pace) and a bit less", gap)
			}
		}
	})
}

func TestThePaceGrowsBackEvenly(t *testing.T) {
	t.Parallel()
	start := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	p := newPacer(60, 10)
	pace := func(after time.Duration) (float64, int) {
		p.adjust(start.Add(after))
		return float64(p.bucket.Limit()), p.bucket.Burst()
	}
	check := func(after time.Duration, want float64, wantBurst int) {
		t.Helper()
		got, burst := pace(after)
		if diff := got - want; diff > 0.001 || diff < -0.001 || burst != wantBurst {
			t.Errorf("after %v: pace %v with burst %d, want %v with %d", after, got, burst, want, wantBurst)
		}
	}
	check(0, 60, 10)
	none := budget{-1, -1, -1}
	p.answered(start.Add(time.Millisecond), start.Add(time.Second), 429, none, 10*time.Second)
	p.answered(start.Add(2*time.Millisecond), start.Add(time.Second), 429, none, 10*time.Second) // left before that: no news
	check(time.Second, 30, 1)
	check(11*time.Second, 30, 1) // the pause earns nothing
	check(12*time.Second, 31, 1)
	check(21*time.Second, 40, 1)
	p.answered(start.Add(12*time.Second), start.Add(21*time.Second), 429, none, time.Second)
	check(22*time.Second, 20, 1)
	check(62*time.Second, 60, 10) // full again, burst included
	check(time.Hour, 60, 10)
	for i := range 100 {
		at := start.Add(2*time.Hour + time.Duration(i)*time.Nanosecond)
		p.answered(at, at, 429, none, time.Nanosecond)
	}
	if got, _ := pace(2 * time.Hour); got < 60*slowest-0.001 {
		t.Errorf("pace %v fell below %v", got, 60*slowest)
	}
}

func TestPausesThatTheServerLeavesToUsGrowUntilItAnswers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var sent departures
		c := client(t, Options{Transport: wire(func(*http.Request) (*http.Response, error) {
			switch sent.now() {
			case 9, 11:
				return answer(200, ""), nil
			}
			return answer(429, ""), nil
		})})
		flood(t, c, 1)
		flood(t, c, 1)
		at := sent.since(sent.at[0])
		for i, seconds := range []int{1, 2, 4, 8, 16, 32, 60, 60} {
			want := time.Duration(seconds) * time.Second
			if gap := at[i+1] - at[i]; gap < want || gap > want*3/2 {
				t.Errorf("pause %d is %v, want %v and up to half more", i, gap, want)
			}
		}
		if gap := at[10] - at[9]; gap > 1500*time.Millisecond {
			t.Errorf("after an answer the first pause is %v, want about 1 s again", gap)
		}
	})
}

// quota is a server with a fixed budget for each period, published the way NameCoach does.
type quota struct {
	mu      sync.Mutex
	limit   int
	period  time.Duration
	started time.Time
	used    int
	refused int
	publish bool
}

func (q *quota) RoundTrip(*http.Request) (*http.Response, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	if q.started.IsZero() || now.Sub(q.started) >= q.period {
		q.started, q.used = now, 0
	}
	q.used++
	res := answer(200, "")
	if q.used > q.limit {
		q.refused++
		res = answer(429, "")
	}
	if q.publish {
		res.Header.Set("Nc-Rate-Limit-Limit", strconv.Itoa(q.limit))
		res.Header.Set("Nc-Rate-Limit-Remaining", strconv.Itoa(max(q.limit-q.used, 0)))
		res.Header.Set("Nc-Rate-Limit-Reset", fmt.Sprint(int((q.started.Add(q.period).Sub(now) + time.Second - 1).Seconds())))
	}
	return res, nil
}

func TestAPublishedBudgetIsObeyedBeforeItIsUsedUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := &quota{limit: 300, period: 15 * time.Minute, publish: true} // another page says 300, not 1000
		c := client(t, Options{API: "namecoach", PerSecond: 1000, Burst: 100, Concurrency: 4, Transport: server})
		start := time.Now()
		flood(t, c, 1000)
		took := time.Since(start)
		if server.refused != 0 {
			t.Errorf("%d requests met a 429 although the budget was published", server.refused)
		}
		if took < 45*time.Minute || took > 61*time.Minute { // 3 whole periods at least; not much slower than allowed
			t.Errorf("1000 requests at 300 in 15 minutes took %v", took)
		}
	})
}

func TestLittleLeftIsSpreadOverThePeriod(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		headers []string
		want    time.Duration // gap between the two requests that follow
	}{
		"plenty left":                     {[]string{"Nc-Rate-Limit-Limit", "1000", "Nc-Rate-Limit-Remaining", "201", "Nc-Rate-Limit-Reset", "600"}, 0},
		"a fifth left":                    {[]string{"Nc-Rate-Limit-Limit", "1000", "Nc-Rate-Limit-Remaining", "200", "Nc-Rate-Limit-Reset", "600"}, 3 * time.Second},
		"little left of an unknown limit": {[]string{"Nc-Rate-Limit-Remaining", "60", "Nc-Rate-Limit-Reset", "600"}, 10 * time.Second},
		"no reset":                        {[]string{"Nc-Rate-Limit-Limit", "1000", "Nc-Rate-Limit-Remaining", "1"}, 0},
		"no remaining":                    {[]string{"Nc-Rate-Limit-Limit", "1000", "Nc-Rate-Limit-Reset", "600"}, 0},
		"nonsense":                        {[]string{"Nc-Rate-Limit-Limit", "x", "Nc-Rate-Limit-Remaining", "-5", "Nc-Rate-Limit-Reset", "NaN"}, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			var sent departures
			c := client(t, Options{Burst: 10, PerSecond: 1000, Transport: wire(func(*http.Request) (*http.Response, error) {
				sent.now()
				return answer(200, "", test.headers...), nil
			})})
			for range 3 {
				if _, _, err := c.Fetch(t.Context(), get("a")); err != nil {
					t.Fatal(err)
				}
			}
			at := sent.since(sent.at[0])
			if gap := at[2] - at[1]; gap < test.want-time.Millisecond || gap > test.want+time.Millisecond {
				t.Errorf("%s: gap %v, want %v", name, gap, test.want)
			}
		})
	}
}

// The measured bar: 26 answers 429 in 10 s. Libraries alone got 200 to 700.
func TestAnUnpublishedLimitIsFoundWithFew429s(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := &quota{limit: 10, period: time.Second}
		c := client(t, Options{PerSecond: 20, Burst: 20, Concurrency: 8, Transport: server})
		start := time.Now()
		flood(t, c, 600)
		took := time.Since(start)
		if per := float64(server.refused) / took.Seconds(); per > 0.3 || took > 3*time.Minute {
			t.Errorf("600 requests at 10 a second took %v with %d answers 429", took, server.refused)
		}
	})
}

func TestSharesDivideTheBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := client(t, Options{PerSecond: 30, Burst: 1, Transport: wire(func(*http.Request) (*http.Response, error) { return answer(200, ""), nil })})
		for _, test := range []struct {
			n    int
			want time.Duration
		}{{1, time.Second}, {3, 3 * time.Second}, {2, 2 * time.Second}, {0, time.Second}} {
			c.SetShare(test.n)
			flood(t, c, 1)
			time.Sleep(2 * time.Minute) // lets the pace settle and fills the bucket
			flood(t, c, 1)
			start := time.Now()
			flood(t, c, 30)
			if took := time.Since(start); took < test.want-10*time.Millisecond || took > test.want+10*time.Millisecond {
				t.Errorf("share 1/%d: 30 requests took %v, want %v", test.n, took, test.want)
			}
		}
	})
}

func TestRequestsLeaveInTheOrderTheyAsked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var order []string
		c := client(t, Options{PerSecond: 1, Concurrency: 20, Transport: wire(func(r *http.Request) (*http.Response, error) {
			order = append(order, r.URL.Path)
			return answer(200, ""), nil
		})})
		var want []string
		var wg sync.WaitGroup
		for i := range 15 {
			want = append(want, fmt.Sprintf("/base/%d", i))
			wg.Go(func() { _, _, _ = c.Fetch(t.Context(), get(strconv.Itoa(i))) })
			synctest.Wait()
		}
		wg.Wait()
		if diff := cmp.Diff(want, order); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func FuzzLimits(f *testing.F) {
	f.Add("60", "1000", "3", "42", "", 429)
	f.Add("Sat, 01 Jan 2000 00:00:00 GMT", "1e3", "-0", "0", "Sat, 01 Jan 2000 00:00:00 GMT", 503)
	f.Add("99999999999999999999", "inf", "nan", "1e308", "x", 200)
	f.Add("0x1p-2", "0", "0.0000001", "1e-300", "", 429)
	f.Fuzz(func(t *testing.T, retryAfter, limit, remaining, reset, date string, status int) {
		h := http.Header{"Retry-After": {retryAfter}, "Nc-Rate-Limit-Limit": {limit}, "Nc-Rate-Limit-Remaining": {remaining}, "Nc-Rate-Limit-Reset": {reset}}
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		server, _ := http.ParseTime(date)
		wait := readRetryAfter(h, server, now)
		if wait < 0 || wait > maxPause {
			t.Fatalf("Retry-After %q is %v", retryAfter, wait)
		}
		b := readBudget(h)
		if !(b.limit >= -1) || !(b.remaining >= -1) || b.reset < -1 || b.reset > maxPause {
			t.Fatalf("budget %+v", b)
		}
		p := newPacer(10, 5)
		p.answered(now, now.Add(time.Second), status, b, wait)
		now = now.Add(time.Second)
		for range 3 { // whatever a server says, a request leaves within two pauses
			delay := p.take(now)
			if delay > maxPause {
				t.Fatalf("a pause of %v", delay)
			}
			now = now.Add(delay)
		}
		if delay := p.take(now.Add(2 * maxPause)); delay != 0 {
			t.Fatalf("still waiting for %v after half an hour", delay)
		}
	})
}

func BenchmarkRequest(b *testing.B) {
	var sent atomic.Int64
	c, err := New(Options{API: "bln", BaseURL: "http://localhost", PerSecond: 1e9, Burst: 1e9, Transport: wire(func(*http.Request) (*http.Response, error) {
		sent.Add(1)
		return answer(200, "{}", "Nc-Rate-Limit-Limit", "1000", "Nc-Rate-Limit-Remaining", "999", "Nc-Rate-Limit-Reset", "900"), nil
	})})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := c.Fetch(b.Context(), get("a")); err != nil {
			b.Fatal(err)
		}
	}
}
