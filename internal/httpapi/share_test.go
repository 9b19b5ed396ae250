package httpapi

import (
	"context"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestWhoJoinsHasNothingSavedUp(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		begin func(c *Client)
		want  []int // when the first requests leave, in seconds
	}{
		"a quiet start":                   {func(*Client) {}, []int{0, 0, 0, 0, 0, 0, 1}},
		"a quiet start of one of three":   {func(c *Client) { c.SetShare(3) }, []int{0, 0, 3, 6}},
		"joining nobody":                  {func(c *Client) { c.Join(1) }, []int{1, 2, 3}},
		"joining nobody, by another name": {func(c *Client) { c.Join(0) }, []int{1, 2, 3}},
		"joining two":                     {func(c *Client) { c.Join(3) }, []int{3, 6, 9}},
		"joining more than there is":      {func(c *Client) { c.Join(12) }, []int{12, 24}},
		"joining, then alone":             {func(c *Client) { c.Join(3); c.SetShare(1) }, []int{1, 2}},
		"joining long ago":                {func(c *Client) { c.Join(3); time.Sleep(5 * time.Minute) }, []int{0, 0, 3}},
		"joining a while ago":             {func(c *Client) { c.Join(2); time.Sleep(5 * time.Second) }, []int{0, 0, 1, 3}},
		"joining again":                   {func(c *Client) { c.Join(2); time.Sleep(5 * time.Minute); c.Join(2) }, []int{2, 4}},
		"the others leave":                {func(c *Client) { c.SetShare(2); time.Sleep(5 * time.Minute); c.SetShare(1) }, []int{0, 0, 0, 1}},
		"the others come":                 {func(c *Client) { time.Sleep(5 * time.Minute); c.SetShare(2) }, []int{0, 0, 0, 2}},
		"they come and leave while nobody asks": {func(c *Client) {
			c.Join(2)
			time.Sleep(4 * time.Second) // earns 2
			c.SetShare(1)
		}, []int{0, 0, 1}},
	} {
		synctest.Test(t, func(t *testing.T) {
			server := &arrivals{}
			c := client(t, Options{PerSecond: 1, Burst: 6, Transport: server})
			test.begin(c)
			server.start = time.Now()
			flood(t, c, len(test.want))
			for i, want := range test.want {
				if got := server.at[i]; (got - time.Duration(want)*time.Second).Abs() > time.Microsecond {
					t.Errorf("%s: request %d left after %v, want %d s", name, i, got, want)
				}
			}
		})
	}
}

func TestANewShareCountsForThoseWhoWaitAlready(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := &arrivals{start: time.Now()}
		c := client(t, Options{PerSecond: 1, Burst: 1, Transport: server})
		c.Join(10)
		var all sync.WaitGroup
		queue(t, &all, c, 1)
		time.Sleep(5 * time.Second) // half of a departure
		c.SetShare(1)
		all.Wait()
		if got := server.at[0]; (got - 5500*time.Millisecond).Abs() > time.Microsecond {
			t.Errorf("it left after %v, want 5.5s", got)
		}
	})
}

func TestWhatIsLeftOfAPublishedBudgetIsShared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := client(t, Options{PerSecond: 1000, Transport: wire(func(*http.Request) (*http.Response, error) {
			return answer(200, "", "Nc-Rate-Limit-Limit", "1000", "Nc-Rate-Limit-Remaining", "200", "Nc-Rate-Limit-Reset", "600"), nil
		})})
		c.SetShare(4)
		flood(t, c, 1)
		if got := c.Interval(); got != 12*time.Second {
			t.Errorf("interval %v, want 12s: a quarter of 200 in 600 s", got)
		}
	})
}

// The sum of all shares is what one client alone may send, whoever comes and goes, as long as each is told at once.
func TestSharesNeverAddUpToMoreThanTheBound(t *testing.T) {
	t.Parallel()
	for seed := range uint64(8) {
		synctest.Test(t, func(t *testing.T) {
			const perSecond, burst = 2, 40
			random := rand.New(rand.NewPCG(seed, 0))
			var mu sync.Mutex
			left, last, sent := float64(burst), time.Now(), 0 // the bucket of all together
			server := wire(func(*http.Request) (*http.Response, error) {
				mu.Lock()
				defer mu.Unlock()
				now := time.Now()
				left = min(left+perSecond*now.Sub(last).Seconds(), burst) - 1
				last = now
				sent++
				if left < -0.001 {
					t.Errorf("seed %d: request %d is one more than the bound allows", seed, sent)
				}
				return answer(200, ""), nil
			})

			type process struct {
				client *Client
				end    func()
			}
			quiet := true
			var alive []process
			var workers sync.WaitGroup
			start := func() {
				c := client(t, Options{PerSecond: perSecond, Burst: burst, Transport: server})
				ctx, cancel := context.WithCancel(t.Context())
				alive = append(alive, process{c, cancel})
				if quiet { // nobody was there before
					quiet = false
				} else {
					c.Join(len(alive))
				}
				busy := random.IntN(3)
				for range 3 {
					workers.Go(func() {
						for ctx.Err() == nil {
							_, _, _ = c.Fetch(ctx, get("a"))
							if busy == 0 { // a timer of no time kills the race detector in a bubble: CONTRIBUTING
								continue
							}
							select { // the idle save up
							case <-time.After(time.Duration(busy) * 10 * time.Second):
							case <-ctx.Done():
							}
						}
					})
				}
			}
			began := time.Now()
			start()
			for time.Since(began) < time.Hour {
				time.Sleep(time.Duration(random.IntN(20_000)) * time.Millisecond)
				if len(alive) > 0 && (len(alive) > 4 || random.IntN(2) == 0) {
					i := random.IntN(len(alive))
					alive[i].end()
					alive = append(alive[:i], alive[i+1:]...)
				} else {
					start()
				}
				for _, p := range alive {
					p.client.SetShare(len(alive))
				}
			}
			for _, p := range alive {
				p.end()
			}
			workers.Wait()
			if sent < 2000 { // of 7240
				t.Errorf("seed %d: only %d requests left", seed, sent)
			}
		})
	}
}
