package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"namebridge/internal/postgres"
	"namebridge/internal/postgres/testdb"
	"namebridge/internal/simulator"
	"namebridge/migrations"
)

// within is how long something may take to come about that takes a second or two on an idle machine.
const within = time.Minute

// eventually waits until all is as it should be: until ok says nothing.
func eventually(t *testing.T, what string, ok func() string) {
	t.Helper()
	problem := ""
	for deadline := time.Now().Add(within); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if problem = ok(); problem == "" {
			return
		}
	}
	t.Fatalf("after %v not %s: %s", within, what, problem)
}

// lively is the place with a daemon's schedules that a test can wait for, and nothing else due.
func (p *place) lively(changes map[string]string) *place {
	env := map[string]string{
		"LISTEN_ADDR": "127.0.0.1:0", "COLLECT_SCHEDULE": "@every 1s", "SWEEP_SCHEDULE": "@every 24h", "CENSUS_SCHEDULE": "@every 24h", "WINDOW_SETTLE": "0s",
	}
	maps.Copy(env, changes)
	return p.with(env)
}

// serving is `serve`, running.
type serving struct {
	*place
	log   *logged
	stop  func()        // SIGTERM
	ended chan struct{} // closed when it has ended, with code
	code  int
}

// serve runs the daemon in this process, until the test ends or stop is called.
func (p *place) serve(t *testing.T) *serving {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	d := &serving{place: p, log: new(logged), stop: stop, ended: make(chan struct{})}
	go func() {
		defer close(d.ended)
		d.code = run(ctx, []string{"serve"}, p.env, io.Discard, d.log)
	}()
	t.Cleanup(func() {
		stop()
		<-d.ended
		if t.Failed() {
			t.Logf("the daemon said:\n%s", d.log)
		}
	})
	return d
}

// ends waits for its end and checks the exit code.
func (d *serving) ends(t *testing.T, code int) {
	t.Helper()
	select {
	case <-d.ended:
	case <-time.After(within):
		t.Fatal("the daemon does not end")
	}
	if d.code != code {
		t.Errorf("exit %d, want %d", d.code, code)
	}
}

// lines are what the daemon has logged under a message.
func (d *serving) lines(message string) (all []map[string]any) {
	for line := range strings.Lines(d.log.String()) {
		var entry map[string]any
		if json.Unmarshal([]byte(line), &entry) == nil && entry["msg"] == message {
			all = append(all, entry)
		}
	}
	return all
}

// ask asks the daemon over HTTP: 0 where it does not answer.
func (d *serving) ask(path string) (status int, text string) {
	starting := d.lines("starting")
	if len(starting) == 0 {
		return 0, "it does not listen yet"
	}
	res, err := http.Get(fmt.Sprintf("http://%s%s", starting[0]["http"], path)) //nolint:noctx // a test's own server
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err.Error()
	}
	return res.StatusCode, strings.TrimSpace(string(body))
}

// answers waits until the daemon answers so.
func (d *serving) answers(t *testing.T, path string, status int, text string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s %d %s", path, status, text), func() string {
		if got, said := d.ask(path); got != status || !strings.Contains(said, text) {
			return fmt.Sprintf("%d %s", got, said)
		}
		return ""
	})
}

// right waits until everybody's fragment is what it should be.
func (p *place) right(t *testing.T) {
	t.Helper()
	eventually(t, "right", func() string { return strings.Join(p.Mismatches(3), "\n") })
}

func TestServeBringsAnEmptyDatabaseToWhatShouldBeAndKeepsItThere(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{Seed: 9, Users: 120}).lively(nil)
	p.env["DATABASE_URL"] = testdb.URL(t, nil)
	foreign := p.ForeignDigests("namecoach")
	d := p.serve(t)
	p.right(t)
	d.answers(t, "/readyz", 200, "ok")
	d.answers(t, "/healthz", 200, "ok")
	d.answers(t, "/metrics", 200, `namebridge_users{bridge="default",state="synced"}`)
	d.answers(t, "/metrics", 200, `namebridge_api_requests_total{api="namecoach",bridge="default",code="200",endpoint="participants.list"}`)
	d.answers(t, "/metrics", 200, "process_resident_memory_bytes")

	// What people do on NameCoach arrives without any command.
	life := p.Life(simulator.LifeOptions{Seed: 1, Weights: simulator.Weights{
		simulator.RecordsAnew: 5, simulator.RecordsFirst: 3, simulator.RemovesRecording: 1, simulator.JoinsNameCoach: 2,
	}})
	if n := len(life.Changes(12)); n != 12 {
		t.Fatalf("%d changes", n)
	}
	p.right(t)
	d.stop()
	d.ends(t, 0)
	now := p.ForeignDigests("namecoach")
	for id, digest := range foreign {
		if now[id] != digest {
			t.Errorf("user %d: foreign keys are not what they were: %s", id, p.UserOtherInfo(id))
		}
	}
	for _, v := range p.Violations() {
		t.Error(v)
	}
}

// tunnel stands before a Postgres, so that it can be away for a while.
type tunnel struct {
	listener net.Listener
	mu       sync.Mutex
	to       string // host:port; "" while nobody is there
	open     map[net.Conn]bool
}

func newTunnel(t *testing.T) *tunnel {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &tunnel{listener: listener, open: map[net.Conn]bool{}}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { u.carry(c) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		u.lead("")
		serving.Wait()
	})
	return u
}

// lead sends new connections elsewhere, and ends those that are open.
func (u *tunnel) lead(to string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.to = to
	for c := range u.open {
		_ = c.Close()
	}
	clear(u.open)
}

func (u *tunnel) carry(from net.Conn) {
	defer func() { _ = from.Close() }()
	u.mu.Lock()
	to, err := net.Conn(nil), error(nil)
	if u.to != "" {
		if to, err = net.Dial("tcp", u.to); err == nil { //nolint:noctx // to this machine
			u.open[from], u.open[to] = true, true
		}
	}
	u.mu.Unlock()
	if to == nil || err != nil {
		return
	}
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(from, to) // until either end is closed
		_ = from.Close()
	})
	_, _ = io.Copy(to, from)
	_ = to.Close()
	back.Wait()
}

// through is the URL that leads through the tunnel to where url leads.
func (u *tunnel) through(t *testing.T, at string) (through, to string) {
	t.Helper()
	parsed, err := url.Parse(at)
	if err != nil {
		t.Fatal(err)
	}
	to = parsed.Host
	parsed.Host = u.listener.Addr().String()
	return parsed.String(), to
}

func TestServeWaitsForTheDatabaseAndGoesOnWhenItWasAway(t *testing.T) {
	t.Parallel()
	folder, err := os.MkdirTemp("/tmp", "namebridge-data-") //nolint:usetesting // t.TempDir is closed to root's Postgres, which is not root
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	if err := os.Chmod(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	var server *postgres.Server
	begin := func() string {
		t.Helper()
		if server, err = postgres.Start(t.Context(), postgres.Options{Dir: filepath.Join(folder, "postgres")}); err != nil {
			t.Fatal(err)
		}
		return server.URL()
	}
	halt := func() {
		t.Helper()
		if err := server.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	address, way := begin(), newTunnel(t)
	through, _ := way.through(t, address)
	halt()
	p := newPlace(t, simulator.Options{Seed: 10, Users: 40}).lively(map[string]string{"DATABASE_URL": through})

	d := p.serve(t)
	d.answers(t, "/healthz", 200, "ok")
	d.answers(t, "/readyz", 503, "the database cannot be used yet")
	d.answers(t, "/metrics", 200, "namebridge_database_up 0")
	eventually(t, "said that it waits", func() string {
		if len(d.lines("the database cannot be used yet: trying again")) < 2 {
			return d.log.String()
		}
		return ""
	})
	up := func() {
		t.Helper()
		_, to := way.through(t, begin())
		way.lead(to)
	}
	up()
	p.right(t)
	d.answers(t, "/readyz", 200, "ok")

	halt()
	d.answers(t, "/readyz", 503, "")
	d.answers(t, "/healthz", 200, "ok")
	p.addPerson("S-while-away")
	up()
	d.answers(t, "/readyz", 200, "ok")
	p.right(t)
	d.stop()
	d.ends(t, 0)
	halt()
	if strings.Contains(d.log.String(), strings.Split(strings.Split(address, ":")[2], "@")[0]) {
		t.Error("the database's password is in the log")
	}
}

func TestServeThatNeverReachedTheDatabaseEndsWhenItIsTold(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{}).lively(nil)
	through, _ := newTunnel(t).through(t, p.env["DATABASE_URL"])
	d := p.with(map[string]string{"DATABASE_URL": through}).serve(t)
	d.answers(t, "/healthz", 200, "ok")
	d.stop()
	d.ends(t, 0)
}

// What is wrong with one bridge is no other's business.
func TestABridgeThatCannotWorkKeepsNoOtherFromWorking(t *testing.T) {
	t.Parallel()
	good, locked, stranger := newPlace(t, simulator.Options{Seed: 11, Users: 40}), newPlace(t, simulator.Options{Seed: 12, Users: 10}), newPlace(t, simulator.Options{Users: 5})
	p := good.lively(map[string]string{"BRIDGES": "good,locked,stranger"})
	for prefix, other := range map[string]*place{"LOCKED_": locked, "STRANGER_": stranger} {
		for _, name := range []string{"NAMECOACH_URL", "BLN_URL"} {
			p.env[prefix+name] = other.env[name]
		}
	}
	p.env["LOCKED_BLN_PASSWORD"] = "wrong-password"
	p.exec(t, `INSERT INTO bridges (bridge, organization_id, directory_sweep) VALUES ('stranger', 1, 1)`)
	d := p.serve(t)
	good.right(t)
	d.answers(t, "/readyz", 200, "ok")
	eventually(t, "told", func() string {
		for bridge, text := range map[string]string{"locked": "refuses the user name, the password", "stranger": "the database holds bridge stranger for organization 1, not 4711"} {
			if !slices.ContainsFunc(slices.Concat(d.lines("a run ended"), d.lines("took no part in the work for a moment")), func(line map[string]any) bool {
				problem, _ := line["problem"].(string)
				return line["bridge"] == bridge && strings.Contains(problem, text)
			}) {
				return bridge + ": " + d.log.String()
			}
		}
		return ""
	})
	good.addPerson("S-1")
	good.right(t)
	if n := locked.Counts()["bln users.put"] + stranger.Counts()["bln users.put"]; n > 0 {
		t.Errorf("%d writes to those that cannot work", n)
	}
	if o := p.run(t, "status").ends(t, 0); !strings.Contains(o.stdout, "by 1 daemon") || !strings.Contains(o.stdout, "by nobody") {
		t.Errorf("%s", o.stdout)
	}
	d.stop()
	d.ends(t, 0)
	if strings.Contains(d.log.String(), "wrong-password") {
		t.Error("a password is in the log")
	}
}

// Two processes work on one run, whoever has started it, and what a daemon keeps does not end a command.
func TestACommandBesideADaemonDoesItsRun(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{Seed: 13, Users: 80}).lively(nil)
	d := p.serve(t)
	p.right(t)
	user := p.addPerson("S-1")
	p.right(t)
	if err := p.EditOtherInfo(user, "namecoach", `{"name_badge_link": "https://somebody.example/else"}`); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"sweep", "backfill", "collect", "census"} {
		checkResult(t, p.run(t, kind, "--output", "json").ends(t, 0).object(t), kind, "done")
		if kind == "sweep" && p.Mismatch(user) != "" {
			t.Errorf("the sweep has not repaired what somebody changed: %s", p.Mismatch(user))
		}
	}
	one := p.run(t, "status", "-o", "json").ends(t, 0).object(t)["bridges"].([]any)[0].(map[string]any)
	replicas, next := one["replicas"].([]any), keys(one["next"])
	if len(replicas) != 1 || replicas[0].(map[string]any)["serves"] != true || !slices.Equal(keys(replicas[0]), []string{"host", "serves", "since"}) {
		t.Errorf("replicas are %v", replicas)
	}
	if !slices.Equal(next, []string{"census", "collect", "sweep"}) {
		t.Errorf("next are %v", next)
	}
	d.stop()
	d.ends(t, 0)
	if o := p.run(t, "status").ends(t, 0); !strings.Contains(o.stdout, "by nobody") {
		t.Errorf("%s", o.stdout)
	}
	for _, v := range p.Violations() {
		t.Error(v)
	}
}

// A daemon goes on by itself when somebody has looked into a halt.
func TestWhatAHaltHasStoppedGoesOnWithAResume(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{Seed: 3, Users: 80, DropForeignKeyOnPut: simulator.Tamper{At: 5}}).lively(nil)
	d := p.serve(t)
	eventually(t, "halted", func() string {
		if o := p.run(t, "status"); !strings.Contains(o.stdout, "HALTED since") || !strings.Contains(o.stdout, "namebridge runs show") {
			return o.stdout
		}
		// What was journalled before is still sent, and what was damaged is put back.
		if n := p.sql(t, `SELECT count(*) FROM journal WHERE state = 'sending'`); n > 0 {
			return fmt.Sprint(n, " writes are on their way")
		}
		return ""
	})
	p.ResetCounts()
	p.run(t, "backfill").ends(t, 3, "HALTED since")
	if n := p.Counts()["bln users.put"]; n > 0 {
		t.Errorf("%d writes while halted", n)
	}
	d.answers(t, "/readyz", 200, "ok") // it would write
	if o := p.run(t, "resume", "--reason", "seen to").ends(t, 0); !strings.Contains(o.stdout, "The daemon writes what is pending") {
		t.Errorf("%s", o.stdout)
	}
	p.right(t)
}

func TestServeSaysAtOnceWhatIsWrong(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{}).lively(nil)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	for name, c := range map[string]struct {
		env   map[string]string
		code  int
		tells []string
	}{
		"everything at once": {
			map[string]string{"NAMECOACH_TOKEN": "", "BLN_ORGANIZATION_ID": "acme-inc", "COLLECT_SCHEDULE": "now and then", "LISTEN_ADDR": "here", "DATABASE_URL": ""},
			2,
			[]string{"5 problems", "NAMECOACH_TOKEN", "BLN_ORGANIZATION_ID", "COLLECT_SCHEDULE", "LISTEN_ADDR", "DATABASE_URL", "namebridge config --help"},
		},
		"a taken address": {map[string]string{"LISTEN_ADDR": taken.Addr().String()}, 1, []string{"LISTEN_ADDR", "address already in use"}},
		"a misspelt variable": {
			map[string]string{"LISTEN_ADDR": taken.Addr().String(), "SWEEP_SCHEDUL": "hunter2"},
			1,
			[]string{`"level":"WARN"`, `"variable":"SWEEP_SCHEDUL","did_you_mean":"SWEEP_SCHEDULE"`},
		},
		"a database nowhere": {map[string]string{"DATABASE_URL": "postgres://u:hunter2@127.0.0.1:99999/x"}, 2, []string{"DATABASE_URL"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := p.with(c.env).serve(t)
			d.ends(t, c.code)
			for _, text := range c.tells {
				if !strings.Contains(d.log.String(), text) {
					t.Errorf("does not tell %q:\n%s", text, d.log)
				}
			}
			if strings.Contains(d.log.String(), "hunter2") {
				t.Error("the password is shown")
			}
		})
	}
}

func TestServeStartsAPrivatePostgres(t *testing.T) {
	t.Parallel()
	data, err := os.MkdirTemp("/tmp", "namebridge-data-") //nolint:usetesting // t.TempDir is closed to root's Postgres, which is not root
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(data) })
	if err := os.Chmod(data, 0o755); err != nil {
		t.Fatal(err)
	}
	p := newPlace(t, simulator.Options{Seed: 14, Users: 30}).lively(map[string]string{"DATABASE_URL": "embedded", "XDG_DATA_HOME": data})
	d := p.serve(t)
	p.right(t)
	p.run(t, "status").ends(t, 1, "in use by another process")
	d.stop()
	d.ends(t, 0)
	if o := p.run(t, "status").ends(t, 0); !strings.Contains(o.stdout, "coverage") {
		t.Errorf("%s", o.stdout)
	}
}

// SIGTERM during writes: what was sent is finished, and nothing is left for others to look into.
func TestAProgramThatIsToldToEndLeavesNothingOpen(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{Seed: 15, Users: 150, BLNLatency: 20 * time.Millisecond})
	foreign, truth := p.ForeignDigests("namecoach"), p.Truth().Totals
	g := newGate(t, p)
	p = p.lively(map[string]string{"BLN_URL": g.URL})
	started := make(chan *process, 1)
	told, stopping := make(chan time.Time, 1), make(chan struct{})
	g.hang(hooks{before: func(n int) bool {
		if n < 30 {
			return true
		}
		if n == 30 {
			child, now := <-started, time.Now()
			told <- now
			if err := child.Process.Signal(syscall.SIGTERM); err != nil {
				t.Error(err)
			}
			for !strings.Contains(child.stderr.String(), `"msg":"stopping"`) && time.Since(now) < within {
				time.Sleep(20 * time.Millisecond)
			}
			close(stopping)
		}
		// Slow from here on, so that not everything is written before it comes to a stop.
		<-stopping
		time.Sleep(time.Second)
		return true
	}})
	bin := program(t)
	child := p.start(t, bin, "serve")
	started <- child
	if err := child.Wait(); err != nil {
		t.Errorf("%v\n%s", err, child.stderr.String())
	}
	if took := time.Since(<-told); took > 30*time.Second { // then Kubernetes kills
		t.Errorf("it took %v to end", took)
	}
	for what, statement := range map[string]string{
		"writes whose outcome is open":    `SELECT count(*) FROM journal WHERE state = 'sending' OR before IS NOT NULL`,
		"users still claimed":             `SELECT count(*) FROM directory_users WHERE claim_owner IS NOT NULL`,
		"processes that seem to be alive": `SELECT count(*) FROM workers`,
	} {
		if n := p.sql(t, statement); n != 0 {
			t.Errorf("%d %s", n, what)
		}
	}
	if n := p.sql(t, `SELECT count(*) FROM directory_users WHERE wanted_version > applied_version`); n == 0 {
		t.Error("nothing was left to do: it was not stopped during writes")
	}
	g.hang(hooks{})
	d := p.serve(t)
	p.right(t)
	d.stop()
	d.ends(t, 0)
	g.onceEach(t, truth.Written)
	now := p.ForeignDigests("namecoach")
	for id, digest := range foreign {
		if now[id] != digest {
			t.Errorf("user %d: foreign keys are not what they were", id)
		}
	}
}

// Whoever presses Ctrl-C again does not want to wait.
func TestASecondSignalEndsTheProgramAtOnce(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{Seed: 16, Users: 60})
	g := newGate(t, p)
	p = p.lively(map[string]string{"BLN_URL": g.URL})
	over, sent := make(chan struct{}), make(chan struct{})
	defer close(over)
	var once sync.Once
	g.hang(hooks{before: func(int) bool {
		once.Do(func() { close(sent) })
		<-over // what was sent gets no answer
		return false
	}})
	child := p.start(t, program(t), "serve")
	ended := make(chan error, 1)
	go func() { ended <- child.Wait() }()
	<-sent
	press := func() {
		t.Helper()
		if err := child.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Error(err)
		}
	}
	press()
	eventually(t, "stopping", func() string {
		if !strings.Contains(child.stderr.String(), `"msg":"stopping"`) {
			return child.stderr.String()
		}
		return ""
	})
	// A moment passes until the program no longer listens: people press again.
	late := time.After(within)
	for again := time.NewTicker(50 * time.Millisecond); ; {
		select {
		case <-again.C:
			press()
			continue
		case err := <-ended:
			if status, ok := child.ProcessState.Sys().(syscall.WaitStatus); err == nil || !ok || !status.Signaled() {
				t.Errorf("it ended with %v", err)
			}
		case <-late:
			t.Error("it does not end")
			_ = child.Process.Kill()
		}
		again.Stop()
		return
	}
}

func TestAURLMaySizeThePool(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{Seed: 17, Users: 20}).lively(nil)
	p.env["DATABASE_URL"] = testdb.URL(t, nil) + "&pool_max_conns=8"
	p.run(t, "migrate", "up").ends(t, 0)
	d := p.serve(t)
	p.right(t)
	d.stop()
	d.ends(t, 0)
}

func TestTimesToComeAreWrittenAsPeopleSayThem(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 4, 12, 0, 0, 0, time.Local) // a Wednesday
	zone := now.Format(" MST")
	for _, c := range []struct {
		in   time.Duration
		want string
	}{
		{-time.Hour, "now"},
		{0, "now"},
		{time.Millisecond, "in 1 s"},
		{90 * time.Second, "in 90 s"},
		{5 * time.Minute, "in 5 min"},
		{119 * time.Minute, "in 119 min"},
		{3 * time.Hour, "at 15:00" + zone},
		{14 * time.Hour, "at 02:00" + zone},
		{30 * time.Hour, "Thu 5 Mar 18:00" + zone},
		{10 * 24 * time.Hour, "Sat 14 Mar 12:00" + zone},
	} {
		if got := when(now.Add(c.in), now); got != c.want {
			t.Errorf("in %v: %q, want %q", c.in, got, c.want)
		}
	}
	for listening, want := range map[string]string{
		"[::]:8080": "localhost:8080", "0.0.0.0:80": "localhost:80", "127.0.0.1:8080": "127.0.0.1:8080", "[fd00::1]:8080": "[fd00::1]:8080",
	} {
		if got := dialable(listening); got != want {
			t.Errorf("%s is at %s, want %s", listening, got, want)
		}
	}
}

// After a rollback the database has what only the newer program knows.
func TestAProgramOlderThanItsDatabaseServesItAndSaysSo(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{Seed: 9, Users: 30}).lively(nil)
	p.exec(t, `ALTER TABLE runs ADD COLUMN tomorrow text`)
	p.exec(t, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, true)`)
	d := p.serve(t)
	p.right(t)
	d.answers(t, "/readyz", 200, "ok")
	const said = "the database has a newer schema than this program knows: it works on it, and knows nothing of what is new"
	if lines := d.lines(said); len(lines) != 1 || lines[0]["schema"] != 99.0 || lines[0]["known"] != float64(migrations.Newest()) {
		t.Errorf("it says %v", lines)
	}
	// Somebody restores the schema that this program has itself: that is what it needs.
	p.exec(t, `DELETE FROM goose_db_version WHERE version_id = 99`)
	d.answers(t, "/readyz", 200, "ok")
	p.exec(t, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, true)`)
	p.run(t, "migrate", "status").ends(t, 0).tellsOut(t, "applied  00003_river", "applied  00099, by a newer program")
	all := p.run(t, "migrate", "status", "-o", "json").ends(t, 0).object(t)["migrations"].([]any)
	for i, m := range all {
		if unknown := m.(map[string]any)["unknown"]; (unknown == true) != (i == len(all)-1) {
			t.Errorf("%v", m)
		}
	}
	p.run(t, "doctor").tellsOut(t, "an older program on a newer schema: the database is at version 99, this program knows "+fmt.Sprint(migrations.Newest()))
	p.exec(t, `DELETE FROM goose_db_version WHERE version_id IN (99, $1)`, migrations.Newest())
	d.answers(t, "/readyz", 503, "older schema than this program needs")
}
