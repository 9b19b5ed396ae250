package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"namebridge/internal/simulator"
)

// program builds the real program: what is killed must be what is deployed.
func program(t *testing.T) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "namebridge")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", to, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return to
}

// gate stands before BLN: it sees who is written, and can do something right before or after a write is carried out.
type gate struct {
	*httptest.Server
	mu       sync.Mutex
	idle     *sync.Cond
	underWay int
	carried  map[string]int // PUTs that BLN has carried out, by path
	n        int            // PUTs that arrived
	hooks
}

// hooks are called with the number of a write: before it is carried out, which it is not where before says no, and after.
type hooks struct {
	before func(n int) bool
	after  func(n int)
}

func (g *gate) hang(h hooks) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hooks = h
}

// arrived is how many writes arrived so far.
func (g *gate) arrived() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.n
}

func newGate(t *testing.T, p *place) *gate {
	t.Helper()
	to, err := url.Parse(p.BLNURL())
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{carried: map[string]int{}}
	g.idle = sync.NewCond(&g.mu)
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.ErrorLog = log.New(io.Discard, "", 0) // clients are killed
	proxy.ModifyResponse = func(r *http.Response) error {
		if n, ok := r.Request.Context().Value(g).(int); ok {
			g.mu.Lock()
			g.carried[r.Request.URL.Path]++
			after := g.after
			g.mu.Unlock()
			if after != nil {
				after(n)
			}
		}
		return nil
	}
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		g.underWay++
		g.mu.Unlock()
		defer func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.underWay--
			g.idle.Broadcast()
		}()
		if r.Method == http.MethodPut {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return // the client died in the middle of it
			}
			g.mu.Lock()
			g.n++
			n, before := g.n, g.before
			g.mu.Unlock()
			if before != nil && !before(n) {
				panic(http.ErrAbortHandler)
			}
			// Carried out whole, whatever becomes of the client; a context that can end keeps the proxy from asking about it.
			ctx, cancel := context.WithCancel(context.WithValue(context.WithoutCancel(r.Context()), g, n))
			defer cancel()
			r = r.WithContext(ctx)
			r.Body = io.NopCloser(bytes.NewReader(body))
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(g.Close)
	return g
}

// quiet waits until nothing that a dead process has sent is still on its way.
func (g *gate) quiet() {
	g.CloseClientConnections()
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.underWay > 0 {
		g.idle.Wait()
	}
}

// onceEach fails the test for every user whose write was carried out more than once, or where not total were.
func (g *gate) onceEach(t *testing.T, total int) {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	for path, n := range g.carried {
		if n != 1 {
			t.Errorf("%d PUTs to %s were carried out", n, path)
		}
	}
	if len(g.carried) != total {
		t.Errorf("%d users were written, want %d", len(g.carried), total)
	}
}

// process is the program, running.
type process struct {
	*exec.Cmd
	stderr logged
}

func (p *place) start(t *testing.T, program string, args ...string) *process {
	t.Helper()
	c := &process{Cmd: exec.CommandContext(t.Context(), program, args...)}
	c.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}
	for k, v := range p.env {
		c.Env = append(c.Env, k+"="+v)
	}
	c.Stderr = &c.stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	return c
}

// sql carries out a statement that answers one number.
func (p *place) sql(t *testing.T, statement string) (n int) {
	t.Helper()
	ctx := t.Context()
	c, err := pgx.Connect(ctx, p.env["DATABASE_URL"])
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(ctx) }()
	if err := c.QueryRow(ctx, statement).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// expire lets the time pass that a dead process is still believed alive.
func (p *place) expire(t *testing.T) {
	t.Helper()
	p.sql(t, `WITH dead AS (UPDATE workers SET heartbeat_at = heartbeat_at - interval '1 minute' RETURNING 1) SELECT count(*) FROM dead`)
}

// finished fails the test unless everything is as an undisturbed run leaves it.
func (p *place) finished(t *testing.T, foreign map[int64]string) {
	t.Helper()
	for _, m := range p.Mismatches(5) {
		t.Error(m)
	}
	now := p.ForeignDigests("namecoach")
	for id, digest := range foreign {
		if now[id] != digest {
			t.Errorf("user %d: foreign keys are not what they were: %s", id, p.UserOtherInfo(id))
		}
	}
	for what, statement := range map[string]string{
		"writes whose outcome is open":     `SELECT count(*) FROM journal WHERE state = 'sending'`,
		"before-images kept without need":  `SELECT count(*) FROM journal WHERE before IS NOT NULL`,
		"users still claimed":              `SELECT count(*) FROM directory_users WHERE claim_owner IS NOT NULL`,
		"users still pending":              `SELECT count(*) FROM directory_users WHERE wanted_version > applied_version AND gone_at IS NULL`,
		"runs that are not done":           `SELECT count(*) FROM runs WHERE status <> 'done'`,
		"halts":                            `SELECT count(*) FROM bridges WHERE halted_at IS NOT NULL`,
		"writes verified for a user twice": `SELECT count(*) FROM (SELECT 1 FROM journal WHERE state = 'verified' GROUP BY user_id HAVING count(*) > 1) x`,
		"walks that lead nowhere any more": `SELECT count(*) FROM cursors WHERE stream <> 'participants'`,
	} {
		if n := p.sql(t, statement); n != 0 {
			t.Errorf("%d %s", n, what)
		}
	}
	if v := p.Violations(); len(v) > 0 {
		t.Errorf("a polite client does none of these: %s", strings.Join(v, "; "))
	}
}

func TestTheProgramMayDieAtAnyMoment(t *testing.T) {
	t.Parallel()
	bin := program(t)
	t.Run("killed anywhere any number of times the end is the same", func(t *testing.T) { killed(t, bin) })
	t.Run("paused beyond its lease it writes nothing more", func(t *testing.T) { paused(t, bin) })
	t.Run("Ctrl-C loses nothing and the next run goes on at once", func(t *testing.T) { interrupted(t, bin) })
}

// The bar of crashes: kill -9 anywhere, any number of times, ends in the state of an undisturbed run.
func killed(t *testing.T, bin string) {
	t.Parallel()
	const users = 150
	for name, c := range map[string]struct {
		put simulator.PutAnswer
		// kills arranges for die to be called; the process of that round is killed by it.
		rounds int
		kills  func(p *place, g *gate, round int, die func())
	}{
		"before a write is carried out": {rounds: 4, kills: func(_ *place, g *gate, round int, die func()) {
			next := g.arrived() + 1 + 7*round
			g.hang(hooks{before: func(n int) bool {
				if n == next {
					die()
				}
				return n < next
			}})
		}},
		"after a write is carried out": {rounds: 4, put: simulator.Short, kills: func(_ *place, g *gate, round int, die func()) {
			next := g.arrived() + 1 + 7*round
			g.hang(hooks{after: func(n int) {
				if n == next {
					die()
				}
			}})
		}},
		"at the first write, again and again": {rounds: 4, kills: func(_ *place, g *gate, _ int, die func()) {
			g.hang(hooks{before: func(int) bool { die(); return false }})
		}},
		"while it collects, lists and reads": {rounds: 4, kills: func(p *place, _ *gate, round int, die func()) {
			at := []string{"namecoach participants.list", "bln users.list", "bln users.get", "bln users.list"}[round]
			p.Change(func(o *simulator.Options) {
				var seen atomic.Int32
				o.OnRequest = func(_ *simulator.Simulator, endpoint string, _ int) {
					if endpoint == at && seen.Add(1) == 2 {
						die()
					}
				}
			})
		}},
		"at any moment": {rounds: 8, kills: func(_ *place, _ *gate, round int, die func()) {
			after := rand.New(rand.NewPCG(7, uint64(round))).IntN(900)
			time.AfterFunc(time.Duration(100+after)*time.Millisecond, die)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t, simulator.Options{Seed: 5, Users: users, PutAnswer: c.put, MaxPerPage: 60})
			foreign, truth := p.ForeignDigests("namecoach"), p.Truth().Totals
			g := newGate(t, p)
			p = p.with(map[string]string{"BLN_URL": g.URL})
			for round := range c.rounds {
				// Hooks are called while the process starts.
				started := make(chan *process, 1)
				var once sync.Once
				c.kills(p, g, round, func() {
					once.Do(func() {
						child := <-started
						_ = child.Process.Kill() // it may have ended
					})
				})
				child := p.start(t, bin, "backfill", "--output", "json")
				started <- child
				err := child.Wait()
				g.quiet()
				g.hang(hooks{})
				p.Change(func(o *simulator.Options) { o.OnRequest = nil })
				if err == nil {
					break // it was done before it could be killed
				}
				if status, ok := child.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.Signaled() {
					t.Fatalf("round %d: it ended by itself: %v\n%s", round, err, child.stderr.String())
				}
				p.expire(t)
			}
			last := p.start(t, bin, "backfill", "--output", "json")
			if err := last.Wait(); err != nil {
				t.Fatalf("%v\n%s", err, last.stderr.String())
			}
			p.finished(t, foreign)
			g.onceEach(t, truth.Written)
		})
	}
}

// A process that is stopped for longer than its lease finds that another has taken over, and sends nothing more.
func paused(t *testing.T, bin string) {
	t.Parallel()
	p := newPlace(t, simulator.Options{Seed: 6, Users: 80})
	foreign, truth := p.ForeignDigests("namecoach"), p.Truth().Totals
	first, second := newGate(t, p), newGate(t, p)
	started, stopped := make(chan *process, 1), make(chan struct{})
	first.hang(hooks{after: func(n int) {
		if n == 20 {
			child := <-started
			if err := child.Process.Signal(syscall.SIGSTOP); err != nil {
				t.Error(err)
			}
			close(stopped)
		}
	}})
	sleeper := p.with(map[string]string{"BLN_URL": first.URL}).start(t, bin, "backfill")
	started <- sleeper
	<-stopped
	other := p.with(map[string]string{"BLN_URL": second.URL})
	heir := other.start(t, bin, "backfill")
	if err := heir.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, heir.stderr.String())
	}
	if said := heir.stderr.String(); !strings.Contains(said, "helping with it") {
		t.Errorf("the second process did not go on with the run of the first: %s", said)
	}
	written := p.ForeignDigests() // with ours
	if err := sleeper.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	// It may also see first that the run which it waits for is done.
	err := sleeper.Wait()
	// Then its jobs, which find that out for themselves, may be too slow for it to wait for them.
	said := sleeper.stderr.String()
	if err != nil && !strings.Contains(said, "taken over") && !strings.Contains(said, "stop the queue: context deadline exceeded") {
		t.Errorf("the paused process ended with %v and said %s", err, said)
	}
	p.finished(t, foreign)
	if got := p.ForeignDigests(); fmt.Sprint(got) != fmt.Sprint(written) {
		t.Error("something was written after the pause")
	}
	for path, n := range second.carried {
		first.carried[path] += n
	}
	first.onceEach(t, truth.Written)
}

// Ctrl-C: what is on its way is finished, the exit code is that of a failure, and the next run goes on at once.
func interrupted(t *testing.T, bin string) {
	t.Parallel()
	p := newPlace(t, simulator.Options{Seed: 8, Users: 100})
	foreign, truth := p.ForeignDigests("namecoach"), p.Truth().Totals
	g := newGate(t, p)
	p = p.with(map[string]string{"BLN_URL": g.URL})
	started := make(chan *process, 1)
	g.hang(hooks{before: func(n int) bool {
		if n == 30 {
			child := <-started
			if err := child.Process.Signal(os.Interrupt); err != nil {
				t.Error(err)
			}
		}
		return true
	}})
	child := p.start(t, bin, "backfill")
	started <- child
	if err := child.Wait(); err == nil || child.ProcessState.ExitCode() != exitFailed || !strings.Contains(child.stderr.String(), "interrupted") {
		t.Errorf("%v\n%s", err, child.stderr.String())
	}
	if n := p.sql(t, `SELECT count(*) FROM journal WHERE state = 'sending' OR before IS NOT NULL`); n > 0 {
		t.Errorf("%d writes were left open", n)
	}
	next := p.start(t, bin, "backfill")
	if err := next.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, next.stderr.String())
	}
	p.finished(t, foreign)
	g.onceEach(t, truth.Written)
}
