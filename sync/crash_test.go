package sync_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"namebridge/bln"
	"namebridge/internal/simulator"
	"namebridge/state"
	bridgesync "namebridge/sync"
)

// front stands before the simulated BLN and sees who is written: the simulator counts requests, not people.
type front struct {
	url  string
	mu   sync.Mutex
	puts map[string]int // by path
	n    int
	// before is called with the number of a PUT and its path before the simulator has it, after when it is carried out and the
	// answer not yet given; afterGet likewise.
	before, after func(n int, path string)
	afterGet      func(path string)
}

func (w *world) front(t *testing.T) *front {
	t.Helper()
	to, err := url.Parse(w.BLNURL())
	if err != nil {
		t.Fatal(err)
	}
	f := &front{puts: map[string]int{}}
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.ErrorLog = log.New(io.Discard, "", 0) // tests cut connections
	proxy.ModifyResponse = func(r *http.Response) error {
		single := !strings.HasSuffix(r.Request.URL.Path, "/users") && strings.Contains(r.Request.URL.Path, "/users/")
		switch n, _ := r.Request.Context().Value(f).(int); {
		case n > 0 && f.after != nil:
			f.after(n, r.Request.URL.Path)
		case single && r.Request.Method == http.MethodGet && f.afterGet != nil:
			f.afterGet(r.Request.URL.Path)
		}
		return nil
	}
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			f.mu.Lock()
			f.n++
			n := f.n
			f.puts[r.URL.Path]++
			f.mu.Unlock()
			if f.before != nil {
				f.before(n, r.URL.Path)
			}
			// Carried out whole, whatever becomes of the client; a context that can end keeps the proxy from asking about it.
			ctx, cancel := context.WithCancel(context.WithValue(context.WithoutCancel(r.Context()), f, n))
			defer cancel()
			r = r.WithContext(ctx)
		}
		proxy.ServeHTTP(rw, r)
	}))
	t.Cleanup(server.Close)
	f.url = server.URL
	return f
}

// onceEach fails the test for every user who was sent more than one PUT, and where not all of total were sent one.
func (f *front) onceEach(t *testing.T, total int) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for path, n := range f.puts {
		if n != 1 {
			t.Errorf("%d PUTs to %s", n, path)
		}
	}
	if len(f.puts) != total {
		t.Errorf("%d users were sent a PUT, want %d", len(f.puts), total)
	}
}

// process is a bridge as another process would have it, that reaches BLN and the database its own way.
func (w *world) process(t *testing.T, blnURL string, db *pgxpool.Pool, over http.RoundTripper) *bridgesync.Bridge {
	t.Helper()
	b := w.bridge(t)
	c, err := bln.New(bln.Options{
		BaseURL: blnURL, OrganizationID: w.OrganizationID(), Username: w.Username(), Password: w.Password(),
		PerSecond: 100_000, Concurrency: 8, Transport: over,
	})
	if err != nil {
		t.Fatal(err)
	}
	b.BLN, b.DB = c, db
	return b
}

// cable carries the database's connections, until it is cut or held.
type cable struct {
	to    string
	mu    sync.Mutex
	open  map[net.Conn]bool
	isCut bool
	pass  chan struct{} // closed while bytes pass
}

// cable gives a pool whose connections go through it.
func (w *world) cable(t *testing.T) (*cable, *pgxpool.Pool) {
	t.Helper()
	cfg := w.db.Config()
	c := &cable{to: net.JoinHostPort(cfg.ConnConfig.Host, fmt.Sprint(cfg.ConnConfig.Port)), open: map[net.Conn]bool{}, pass: make(chan struct{})}
	close(c.pass)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { c.carry(in) })
		}
	})
	cfg.ConnConfig.Host, cfg.ConnConfig.Port = "127.0.0.1", uint16(l.Addr().(*net.TCPAddr).Port)
	cfg.ConnConfig.Fallbacks = nil
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = l.Close()
		c.mend()
		c.cut()
		pool.Close()
		serving.Wait()
	})
	return c, pool
}

func (c *cable) carry(in net.Conn) {
	defer in.Close()
	out, err := new(net.Dialer).DialContext(context.Background(), "tcp", c.to)
	if err != nil {
		return
	}
	defer out.Close()
	c.mu.Lock()
	if c.isCut {
		c.mu.Unlock()
		return
	}
	c.open[in], c.open[out] = true, true
	c.mu.Unlock()
	var both sync.WaitGroup
	for _, x := range [][2]net.Conn{{in, out}, {out, in}} {
		both.Go(func() {
			buffer := make([]byte, 64<<10)
			for {
				n, err := x[0].Read(buffer)
				c.mu.Lock()
				pass := c.pass
				c.mu.Unlock()
				<-pass
				if n > 0 {
					if _, err := x[1].Write(buffer[:n]); err != nil {
						break
					}
				}
				if err != nil {
					break
				}
			}
			_ = x[0].Close()
			_ = x[1].Close()
		})
	}
	both.Wait()
	c.mu.Lock()
	delete(c.open, in)
	delete(c.open, out)
	c.mu.Unlock()
}

// cut breaks every connection; new ones break at once.
func (c *cable) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.isCut = true
	for conn := range c.open {
		_ = conn.Close()
	}
}

// hold keeps every byte where it is. They go on when the cable is mended: late, not lost.
func (c *cable) hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pass = make(chan struct{})
}

func (c *cable) mend() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.isCut = false
	select {
	case <-c.pass:
	default:
		close(c.pass)
	}
}

// finishes runs a backfill that must come to the truth, with nothing foreign changed and nothing left open.
func (w *world) finishes(t *testing.T, b *bridgesync.Bridge, foreign map[int64]string) bridgesync.Result {
	t.Helper()
	res, err := b.Backfill(t.Context(), time.Time{})
	if err != nil || res.Status != state.Done || res.Failed != 0 {
		t.Fatalf("backfill: %+v, %v", res, err)
	}
	for _, m := range w.Mismatches(5) {
		t.Error(m)
	}
	w.foreignKept(t, foreign)
	w.settledJournal(t)
	return res
}

// Every write has a journal entry that was on disk before: without a database nothing is written.
func TestWithoutTheDatabaseNothingIsWritten(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		applied   bool // the write at which it happens is carried out by then
		terminate bool // the connections are ended, but new ones can be made
	}{
		"cut before a write arrives":         {},
		"cut after a write is carried out":   {applied: true},
		"ended before a write arrives":       {terminate: true},
		"ended after a write is carried out": {applied: true, terminate: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, simulator.Options{})
			w.crowd(60)
			foreign := w.ForeignDigests("namecoach")
			f := w.front(t)
			cable, db := w.cable(t)
			// Those on their way when it happens have their entry; those that come after must have none and not come.
			at := func(n int, _ string) {
				if n != 20 {
					return
				}
				if !c.terminate {
					cable.cut()
				} else if _, err := w.db.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
					WHERE datname = current_database() AND pid <> pg_backend_pid()`); err != nil {
					t.Error(err)
				}
			}
			f.before = at
			if c.applied {
				f.before, f.after = nil, at
			}

			res, err := w.process(t, f.url, db, nil).Backfill(t.Context(), time.Time{})

			switch {
			case c.terminate && err == nil && res.Status == state.Done: // it has met none of the ended connections
			case err == nil || errors.Is(err, bridgesync.ErrHalted) || res.Status != state.Failed || !strings.Contains(err.Error(), "database"):
				t.Errorf("the run ended with status %s: %v; want a failure that names the database", res.Status, err)
			}
			entries := map[string]bool{}
			for _, j := range w.entries(t) {
				entries[fmt.Sprintf("/organizations/%d/users/%d", w.OrganizationID(), j.UserID)] = true
			}
			f.mu.Lock()
			for path := range f.puts {
				if !entries[path] {
					t.Errorf("PUT %s has no journal entry", path)
				}
			}
			f.mu.Unlock()

			cable.mend()
			db.Reset() // another process has connections of its own
			f.before, f.after = nil, nil
			w.expire(t)
			w.finishes(t, w.process(t, f.url, db, nil), foreign)
			f.onceEach(t, 60)
		})
	}
}

// Trouble with our own database is named as such wherever it comes up, also when a batch of writes is counted.
func TestTroubleWithTheDatabaseIsCalledSo(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	w.crowd(3)
	if _, err := w.db.Exec(t.Context(), `
		CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = '53100'; END $$;
		CREATE TRIGGER full_disk BEFORE UPDATE ON runs FOR EACH ROW WHEN (NEW.requests_bln > OLD.requests_bln AND NEW.phase = 'write') EXECUTE FUNCTION full_disk()`); err != nil {
		t.Fatal(err)
	}
	res, err := w.bridge(t).Backfill(t.Context(), time.Time{})
	if err == nil || res.Status != state.Failed || !strings.HasPrefix(err.Error(), "the database: ") {
		t.Errorf("%+v, %v; want a failure that names the database", res, err)
	}
}

// expire lets the time pass that a dead process is still believed alive. Only for processes that are dead indeed.
func (w *world) expire(t *testing.T) {
	t.Helper()
	if _, err := w.db.Exec(t.Context(), `UPDATE workers SET heartbeat_at = heartbeat_at - interval '1 minute'`); err != nil {
		t.Fatal(err)
	}
}

// stalled keeps writes from leaving, as a process does that is paused between writing its journal and sending.
type stalled struct{ first chan struct{} }

func (s stalled) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodPut {
		return http.DefaultTransport.RoundTrip(r)
	}
	select {
	case s.first <- struct{}{}:
	default:
	}
	select {
	case <-r.Context().Done():
		return nil, r.Context().Err()
	case <-time.After(20 * time.Second): // long after another has taken over
		return http.DefaultTransport.RoundTrip(r)
	}
}

func TestAProcessThatHasLostItsLeaseSendsNothingMore(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	w.crowd(30)
	foreign := w.ForeignDigests("namecoach")
	slow, fast := w.front(t), w.front(t)
	cable, db := w.cable(t)
	first := make(chan struct{}, 1)
	ended := make(chan error, 1)
	go func() {
		_, err := w.process(t, slow.url, db, stalled{first}).Backfill(t.Context(), time.Time{})
		ended <- err
	}()
	<-first
	cable.hold()

	res, err := w.process(t, fast.url, w.db, nil).Backfill(t.Context(), time.Time{})
	if err != nil || res.Status != state.Done {
		t.Fatalf("the process that took over: %+v, %v", res, err)
	}
	cable.mend()
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "taken over") {
		t.Errorf("the stalled process ended with %v, want that another may have taken over", err)
	}
	slow.onceEach(t, 0)
	fast.onceEach(t, 30)
	w.foreignKept(t, foreign)
	w.settledJournal(t)
	for _, m := range w.Mismatches(5) {
		t.Error(m)
	}
	if run, err := state.GetRun(t.Context(), w.db, "default", res.Run); err != nil || run.Status != state.Done {
		t.Errorf("the run that was taken over is stored as %s, %v", run.Status, err)
	}
}

func TestProcessesThatStartAtOnceDoOneRunTogether(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	w.crowd(30)
	foreign := w.ForeignDigests("namecoach")
	f := w.front(t)
	results, errs := make([]bridgesync.Result, 4), make([]error, 4)
	var all sync.WaitGroup
	for i := range errs {
		b := w.process(t, f.url, w.db, nil)
		all.Go(func() { results[i], errs[i] = b.Backfill(t.Context(), time.Time{}) })
	}
	all.Wait()
	for i, err := range errs {
		if err != nil || results[i].Status != state.Done {
			t.Errorf("%+v, %v", results[i], err)
		}
	}
	f.onceEach(t, 30)
	w.foreignKept(t, foreign)
	w.settledJournal(t)
	for _, m := range w.Mismatches(5) {
		t.Error(m)
	}
}

// Runs of several kinds may go on at once: a user has one writer all the same.
func TestRunsOfDifferentKindsWriteEachUserOnce(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	w.crowd(80)
	foreign := w.ForeignDigests("namecoach")
	// Everything is known, nothing written yet.
	f := w.front(t)
	stopped, stop := context.WithCancel(t.Context())
	f.before = func(int, string) { stop() }
	if _, err := w.process(t, f.url, w.db, nil).Backfill(stopped, time.Time{}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	f.before = nil

	var all sync.WaitGroup
	for _, do := range []func(*bridgesync.Bridge) (bridgesync.Result, error){
		func(b *bridgesync.Bridge) (bridgesync.Result, error) { return b.Backfill(t.Context(), time.Time{}) },
		func(b *bridgesync.Bridge) (bridgesync.Result, error) { return b.Collect(t.Context()) },
	} {
		b := w.process(t, f.url, w.db, nil)
		all.Go(func() {
			if res, err := do(b); err != nil || res.Status != state.Done || res.Failed != 0 {
				t.Errorf("%+v, %v", res, err)
			}
		})
	}
	all.Wait()
	f.onceEach(t, 80)
	w.foreignKept(t, foreign)
	w.settledJournal(t)
	for _, m := range w.Mismatches(5) {
		t.Error(m)
	}
}

// late answers every write with 504 at once, and carries it out a while after.
func (w *world) late(t *testing.T, after time.Duration) *front {
	t.Helper()
	f := w.front(t)
	behind := f.url
	var waiting sync.WaitGroup
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		to := r.Clone(context.WithoutCancel(r.Context()))
		to.RequestURI, to.Body = "", io.NopCloser(bytes.NewReader(body))
		if to.URL, err = url.Parse(behind + r.URL.RequestURI()); err != nil {
			t.Error(err)
			return
		}
		send := func() (*http.Response, error) { return http.DefaultTransport.RoundTrip(to) }
		if r.Method == http.MethodPut {
			waiting.Add(1)
			time.AfterFunc(after, func() {
				defer waiting.Done()
				if answer, err := send(); err != nil {
					t.Error(err)
				} else {
					_ = answer.Body.Close()
				}
			})
			rw.WriteHeader(http.StatusGatewayTimeout)
			return
		}
		answer, err := send()
		if err != nil {
			rw.WriteHeader(http.StatusBadGateway)
			return
		}
		defer func() { _ = answer.Body.Close() }()
		maps.Copy(rw.Header(), answer.Header)
		rw.WriteHeader(answer.StatusCode)
		_, _ = io.Copy(rw, answer.Body)
	}))
	t.Cleanup(func() { server.Close(); waiting.Wait() })
	f.url = server.URL
	return f
}

// Trap 54: a gateway gives up before the server behind it does. What is not to be seen at once may still come.
func TestAWriteThatIsCarriedOutAfterItsAnswerIsRecognised(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	w.crowd(10)
	foreign := w.ForeignDigests("namecoach")
	f := w.late(t, 300*time.Millisecond)
	if res := w.finishes(t, w.process(t, f.url, w.db, nil), foreign); res.Written != 10 {
		t.Errorf("%+v, want ten written", res)
	}
	f.onceEach(t, 10)
}

// The contract's Ctrl-C: what was sent is seen to, the run is given back, and nothing is asked or written twice.
func TestAnInterruptedRunIsGoneOnWithAtOnce(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{MaxPerPage: 50})
	w.crowd(110)
	foreign := w.ForeignDigests("namecoach")
	f := w.front(t)
	ctx, interrupt := context.WithCancel(t.Context())
	f.before = func(n int, _ string) {
		if n >= 50 {
			interrupt()
			time.Sleep(time.Second) // so long may the word to stop take to come about
		}
	}
	first, err := w.process(t, f.url, w.db, nil).Backfill(ctx, time.Time{})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("interrupted: %+v, %v", first, err)
	}
	sent := f.n
	if states := w.settledJournal(t); states[state.Verified] != sent {
		t.Errorf("%d PUTs were sent, the journal has %v", sent, states)
	}
	if sent > 50+inFlight {
		t.Errorf("%d PUTs were sent, where the 50th interrupted", sent)
	}
	run, err := state.GetRun(t.Context(), w.db, "default", first.Run)
	if err != nil || run.Status != state.Failed || run.Error == nil || *run.Error != "interrupted" {
		t.Errorf("the interrupted run is stored as %+v, %v; want it given back", run, err)
	}
	before := w.Counts()

	f.before = nil
	res := w.finishes(t, w.process(t, f.url, w.db, nil), foreign)
	f.onceEach(t, 110)
	if res.Run != first.Run || res.Written != 110 {
		t.Errorf("%+v, want run %s with everyone it wrote", res, first.Run)
	}
	asked := maps.Clone(w.Counts())
	for name, n := range before {
		asked[name] -= n
	}
	if n := asked["namecoach participants.list"]; n > 1 {
		t.Errorf("asked NameCoach for %d pages again, want but what came since", n)
	}
	if n := asked["bln users.list"]; n > 0 {
		t.Errorf("listed %d pages of the directory again", n)
	}
	if n := asked["bln users.get"]; n > 110-sent {
		t.Errorf("read %d users, where %d were left to write", n, 110-sent)
	}
}

// Interrupted while it lists or collects, the next run asks for what is left.
func TestAnInterruptedListingIsGoneOnWith(t *testing.T) {
	t.Parallel()
	for name, at := range map[string]string{"listing": "bln users.list", "collecting": "namecoach participants.list"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, simulator.Options{MaxPerPage: 100})
			w.crowd(210)
			foreign := w.ForeignDigests("namecoach")
			w.interrupted(t, at, 3, func(ctx context.Context, b *bridgesync.Bridge) (bridgesync.Result, error) {
				return b.Backfill(ctx, time.Time{})
			})
			w.finishes(t, w.bridge(t), foreign)
			// 210 users are three pages and an empty one, after which the newest is asked for; the page that was being asked for is asked for again.
			if n := w.Counts()["bln users.list"]; n > 5+1 {
				t.Errorf("%d pages of the directory were asked for", n)
			}
			if n := w.Counts()["bln users.put"]; n != 210 {
				t.Errorf("%d PUTs", n)
			}
		})
	}
}

// A wish that changes between reading a user and writing is not carried out as it was.
func TestAWriteThatIsNoLongerWantedIsNotMade(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	w.crowd(5)
	held := fmt.Sprintf("/organizations/%d/users/3", w.OrganizationID())
	f := w.front(t)
	f.afterGet = func(path string) {
		if path != held {
			return
		}
		// As another process decides where the person turns out to be two.
		if _, err := state.StoreWanted(t.Context(), w.db, "default", state.Wish{Urgency: state.BackfillPriority}, []state.Wanted{{UserID: 3}}); err != nil {
			t.Error(err)
		}
	}
	res, err := w.process(t, f.url, w.db, nil).Backfill(t.Context(), time.Time{})
	if err != nil || res.Status != state.Done || res.Written != 4 {
		t.Fatalf("%+v, %v; want four written", res, err)
	}
	if f.puts[held] != 0 {
		t.Error("the user was written though nobody wanted it any more")
	}
}

// A decision that takes a user for right, while a write of something else is on its way, does not hide what was written.
func TestAWishThatChangesWhileAWriteIsOnItsWayIsCarriedOutAfterIt(t *testing.T) {
	t.Parallel()
	for name, there := range map[string]bool{"wanted anew": false, "taken for right": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, simulator.Options{})
			w.crowd(1)
			f := w.front(t)
			var once sync.Once
			f.after = func(int, string) {
				once.Do(func() {
					next := []byte(`{"name_badge_link":"https://www.name-coach.com/next","recording_link":null,"recording_id":null,"recording_date":null,"event_title":null}`)
					link := "https://www.name-coach.com/next"
					wish := state.Wish{Run: value[uuid.UUID](t, w, `SELECT run FROM runs`), Urgency: state.BackfillPriority}
					_, err := state.StoreWanted(t.Context(), w.db, "default", wish, []state.Wanted{{
						UserID: 1, Action: "write", Value: next,
						Digest: bridgesync.Fragment{"name_badge_link": &link}.Digest(), Source: []byte("next"), There: there,
					}})
					if err != nil {
						t.Error(err)
					}
				})
			}
			res, err := w.process(t, f.url, w.db, nil).Backfill(t.Context(), time.Time{})
			if err != nil || res.Status != state.Done {
				t.Fatalf("%+v, %v", res, err)
			}
			if got := w.UserOtherInfo(1); !strings.Contains(got, "https://www.name-coach.com/next") {
				t.Errorf("what was wanted last is not there: %s", got)
			}
		})
	}
}

// A write that landed before its process died is ours: what is wrong with it is cleared, not left as somebody else's.
func TestALandedWriteIsKnownAsOurs(t *testing.T) {
	t.Parallel()
	for _, kind := range []state.Kind{state.Collect, state.Sweep} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			w := start(t, simulator.Options{})
			ada, bob := w.user("ada@demo.example", ""), w.user("bob@demo.example", "")
			row := w.AddParticipant(speaker("x", "ada@demo.example", "", ada))
			c, db := w.cable(t)
			f := w.front(t)
			f.after = func(int, string) { c.cut() }
			if _, err := w.process(t, f.url, db, nil).Backfill(t.Context(), time.Time{}); err == nil {
				t.Fatal("it was to be cut")
			}
			w.expire(t)
			w.settled(func() {
				w.correct(row, "bob@demo.example", bob)
			})
			b := w.bridge(t)
			res, err := b.Collect(t.Context())
			if err == nil && kind == state.Sweep {
				res, err = b.Sweep(t.Context())
			}
			if err != nil || res.Failed != 0 {
				t.Fatalf("%+v, %v", res, err)
			}
			w.settledJournal(t)
			w.right(t)
		})
	}
}
