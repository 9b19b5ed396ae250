package postgres

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"
)

// starterVariable makes this test binary a program that starts a server in the folder it names ("-" for a temporary one), prints the URL
// and waits to be killed.
const starterVariable = "NAMEBRIDGE_TEST_STARTER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(starterVariable); dir != "" {
		if dir == "-" {
			dir = ""
		}
		s, err := Start(context.Background(), Options{Dir: dir})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(s.URL())
		_, _ = io.Copy(io.Discard, os.Stdin) // until the test lets go
		if err := s.Stop(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func TestATemporaryServerLeavesNothing(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	data := ask[string](t, s.URL(), `SHOW data_directory`)
	if got := ask[string](t, s.URL(), `SHOW server_version`); !strings.HasPrefix(got, s.Version()) {
		t.Errorf("Version() = %q, the server says %q", s.Version(), got)
	}
	for range 2 {
		if err := s.Stop(); err != nil {
			t.Fatalf("stop: %v", err)
		}
	}
	if _, err := os.Stat(filepath.Dir(data)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is still there: %v", err)
	}
	if _, err := pgx.Connect(t.Context(), s.URL()); err == nil {
		t.Error("the server still answers")
	}
}

func TestOnlyThisMachineAndOnlyWithThePassword(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	if got := ask[string](t, s.URL(), `SHOW listen_addresses`); got != "127.0.0.1" {
		t.Errorf("listens on %q", got)
	}
	if got := ask[string](t, s.URL(), `SHOW unix_socket_directories`); got != "" {
		t.Errorf("has a socket in %q", got)
	}
	u, err := url.Parse(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role, "wrong")
	if _, err := pgx.Connect(t.Context(), u.String()); err == nil {
		t.Error("a wrong password is accepted")
	}
}

func TestDataSurvivesStopAndStart(t *testing.T) {
	t.Parallel()
	dir := reachable(t)
	s := start(t, Options{Dir: dir})
	run(t, s.URL(), `CREATE TABLE kept AS SELECT 42 AS n`)
	for tries := 1; ; tries++ {
		first := s.URL()
		at, err := url.Parse(first)
		if err != nil {
			t.Fatal(err)
		}
		port, err := strconv.Atoi(at.Port())
		if err := errors.Join(err, s.Stop()); err != nil {
			t.Fatal(err)
		}
		again, err := Start(t.Context(), Options{Dir: dir, Port: port})
		if err != nil && strings.Contains(err.Error(), "another process took") && tries < 5 { // as it may, while nobody has it
			s = start(t, Options{Dir: dir})
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		s = again
		t.Cleanup(func() {
			if err := again.Stop(); err != nil {
				t.Error(err)
			}
		})
		if s.URL() != first {
			t.Errorf("at %s, was at %s", s.URL(), first)
		}
		break
	}
	if got := ask[int](t, s.URL(), `SELECT n FROM kept`); got != 42 {
		t.Errorf("got %d, want 42", got)
	}
	if got := ask[string](t, s.URL(), `SHOW fsync`); got != "on" {
		t.Errorf("kept data runs with fsync %s", got)
	}
}

func TestDataSurvivesKillOfTheParent(t *testing.T) {
	t.Parallel()
	dir := reachable(t)
	other := startElsewhere(t, dir)
	run(t, other.url, `CREATE TABLE kept AS SELECT 42 AS n`)
	other.kill(t)
	s := start(t, Options{Dir: dir}) // while the orphan may still be shutting down
	if got := ask[int](t, s.URL(), `SELECT n FROM kept`); got != 42 {
		t.Errorf("got %d, want 42", got)
	}
}

func TestDataSurvivesKillOfEverything(t *testing.T) {
	t.Parallel()
	dir := reachable(t)
	other := startElsewhere(t, dir)
	run(t, other.url, `CREATE TABLE kept AS SELECT 42 AS n`)
	pid, ready, err := home{dir: dir}.postmaster()
	if err != nil || !ready {
		t.Fatalf("postmaster: %d, ready %t, %v", pid, ready, err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	other.kill(t)
	s := start(t, Options{Dir: dir})
	if got := ask[int](t, s.URL(), `SELECT n FROM kept`); got != 42 {
		t.Errorf("got %d, want 42", got)
	}
}

// noticing calls seen with all that is written to it.
type noticing func(string)

func (n noticing) Write(b []byte) (int, error) {
	n(string(b))
	return len(b), nil
}

// Until it writes its postmaster.pid there is nothing to see of it.
func TestAnOrphanThatShowsItselfLateIsAwaited(t *testing.T) {
	t.Parallel()
	h, bin, undo := prepared(t)
	orphan, _, err := serve(t.Context(), bin, h, nil, freePort)
	if err != nil {
		t.Fatal(err)
	}
	undo.add(func() error { return orphan.shutdown(unhurried) })
	met := make(chan struct{})
	p, _, err := serve(t.Context(), bin, h, noticing(func(said string) {
		if strings.Contains(said, "lock file") {
			close(met) // once: from now on it is seen
			_ = orphan.cmd.Process.Signal(syscall.SIGINT)
		}
	}), freePort)
	if err != nil {
		t.Fatal(err)
	}
	undo.add(func() error { return p.shutdown(unhurried) })
	select {
	case <-met:
	default:
		t.Error("both run in the same folder")
	}
	select {
	case <-orphan.done:
	default:
		t.Error("it was not awaited")
	}
}

func TestAKillWhileTheDataIsMadeIsNoObstacle(t *testing.T) {
	t.Parallel()
	dir := reachable(t)
	other, _ := launchElsewhere(t, dir, nil)
	for {
		unfinished, err := filepath.Glob(filepath.Join(dir, "data.new-*"))
		if err != nil {
			t.Fatal(err)
		}
		if len(unfinished) > 0 {
			break
		}
		select {
		case <-t.Context().Done():
			t.Fatal("initdb does not start")
		case <-time.After(time.Millisecond):
		}
	}
	other.kill(t)
	start(t, Options{Dir: dir})
}

func TestATemporaryServerEndsWithItsParent(t *testing.T) {
	t.Parallel()
	other := startElsewhere(t, "-")
	folder := filepath.Dir(ask[string](t, other.url, `SHOW data_directory`))
	other.kill(t)
	for {
		if _, err := os.Stat(folder); errors.Is(err, os.ErrNotExist) {
			return
		}
		select {
		case <-t.Context().Done():
			t.Fatal("the folder is still there")
		case <-time.After(pollEvery):
		}
	}
}

func TestOneProcessAtATimeHasTheData(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]func(t *testing.T, dir string){
		"the same process": func(t *testing.T, dir string) { start(t, Options{Dir: dir}) },
		"another process":  func(t *testing.T, dir string) { startElsewhere(t, dir) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := reachable(t)
			first(t, dir)
			_, err := Start(t.Context(), Options{Dir: dir})
			if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), dir) {
				t.Errorf("got %v, want one that says that %s is in use", err, dir)
			}
		})
	}
}

// A child has copies of all our open files from fork to exec, of the lock too.
func TestTheLockIsGivenBackWhileChildrenAreStarted(t *testing.T) {
	t.Parallel()
	stop := make(chan struct{})
	var children sync.WaitGroup
	for range 4 {
		children.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_ = exec.CommandContext(t.Context(), "true").Run() // its being started is all that counts
				}
			}
		})
	}
	defer children.Wait()
	defer close(stop)
	h := home{dir: t.TempDir()}
	for range 3000 {
		var undo cleanup
		if err := h.lock(&undo); err != nil {
			t.Fatal(err)
		}
		if err := undo.run(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOneOfManyStartersOfAnEmptyFolderWins(t *testing.T) {
	t.Parallel()
	dir := reachable(t)
	results := make(chan error, 4)
	for range cap(results) {
		go func() {
			s, err := Start(t.Context(), Options{Dir: dir})
			if err == nil {
				t.Cleanup(func() { _ = s.Stop() })
			}
			results <- err
		}()
	}
	won := 0
	for range cap(results) {
		switch err := <-results; {
		case err == nil:
			won++
		case !errors.Is(err, ErrInUse):
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d starters won", won)
	}
}

func TestAPortThatIsTakenMeanwhileIsNoObstacle(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	taken := l.Addr().(*net.TCPAddr).Port

	h, bin, undo := prepared(t)
	asked := 0
	p, port, err := serve(t.Context(), bin, h, nil, func() (int, error) {
		if asked++; asked <= 2 {
			return taken, nil
		}
		return freePort()
	})
	if err != nil {
		t.Fatal(err)
	}
	undo.add(func() error { return p.shutdown(unhurried) })
	if port == taken || asked < 3 { // the free one may be taken meanwhile, too
		t.Errorf("port %d (taken: %d) after %d attempts", port, taken, asked)
	}
}

func TestAPortThatIsAlwaysTakenIsAnError(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	h, bin, _ := prepared(t)
	_, _, err = serve(t.Context(), bin, h, nil, func() (int, error) { return l.Addr().(*net.TCPAddr).Port, nil })
	if err == nil || !strings.Contains(err.Error(), "free port") {
		t.Errorf("got %v", err)
	}
}

func TestACancelledStartLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := reachable(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Start(ctx, Options{Dir: dir}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	start(t, Options{Dir: dir}) // neither a lock nor half of the data is in the way
}

func TestPostgresSeesNoneOfOurSecrets(t *testing.T) {
	t.Setenv("NAMECOACH_TOKEN", "s3cret")
	s := start(t, Options{})
	run(t, s.URL(), `CREATE TABLE environment (line text); COPY environment FROM PROGRAM 'env'`)
	if got := ask[int](t, s.URL(), `SELECT count(*)::int FROM environment WHERE line LIKE '%s3cret%'`); got != 0 {
		t.Error("the environment of Postgres has the token")
	}
}

// Rule 9: no person's address in a log line.
func TestTheLogHasNoRowValuesAndNoStatements(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	s := start(t, Options{Stderr: &log})
	run(t, s.URL(), `CREATE TABLE people (email text PRIMARY KEY); INSERT INTO people VALUES ('jane@example.com')`)
	c, err := pgx.Connect(t.Context(), s.URL())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exec(t.Context(), `INSERT INTO people VALUES ('jane@example.com')`); err == nil {
		t.Error("the duplicate was accepted")
	}
	if err := errors.Join(c.Close(t.Context()), s.Stop()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "duplicate key") || strings.Contains(log.String(), "jane") {
		t.Errorf("the log should have the error and not the address:\n%s", log.String())
	}
}

// The other tests run as whoever runs them; as root, which Postgres refuses, this one shows the ordinary user.
func TestAnOrdinaryUserCanStart(t *testing.T) {
	t.Parallel()
	dir := reachable(t)
	owner, err := ownerOf(dir)
	if err != nil {
		t.Fatal(err)
	}
	other := startElsewhereAs(t, dir, owner)
	if got := ask[int](t, other.url, `SELECT 42`); got != 42 {
		t.Errorf("got %d, want 42", got)
	}
}

func TestWhatIsMissingComesWithItsCure(t *testing.T) {
	t.Parallel()
	old := reachable(t)
	for _, program := range []string{"initdb", "postgres"} {
		script := "#!/bin/sh\necho 'postgres (PostgreSQL) 9.6.24'\n"
		if err := os.WriteFile(filepath.Join(old, program), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	h, bin, _ := prepared(t)
	empty := t.TempDir()
	newer := home{dir: reachable(t)}
	if err := os.MkdirAll(newer.data(), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(newer.data(), "PG_VERSION"), []byte("99\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		h      home
		chosen string
		dirs   []string
		want   []string
	}{
		"nothing installed":   {h, "", []string{empty}, []string{"install postgresql", BinVariable}},
		"the chosen is empty": {h, empty, []string{bin.dir}, []string{BinVariable, empty}},
		"too old":             {h, "", []string{old}, []string{"install postgresql", "9.6.24 is older than 14"}},
		"another version's data": {
			newer, "",
			[]string{bin.dir},
			[]string{"install postgresql", "version 99"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := find(t.Context(), test.h, test.chosen, test.dirs)
			if !errors.Is(err, ErrNotInstalled) {
				t.Fatalf("got %v, want %v", err, ErrNotInstalled)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is missing in %q", want, err)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %q", err)
			}
		})
	}
}

func TestTheNewestVersionComesFirst(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for _, v := range []string{"9.6", "15", "18", "16"} {
		if err := os.MkdirAll(filepath.Join(root, v, "bin"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	got := newestFirst(filepath.Join(root, "*", "bin"))
	var versions []string
	for _, dir := range got {
		versions = append(versions, filepath.Base(filepath.Dir(dir)))
	}
	if want := []string{"18", "16", "15", "9.6"}; !slices.Equal(versions, want) {
		t.Errorf("got %v, want %v", versions, want)
	}
}

// prepared is an initialized folder, not served.
func prepared(t *testing.T) (home, binaries, *cleanup) {
	t.Helper()
	undo := new(cleanup)
	t.Cleanup(func() {
		if err := undo.run(); err != nil {
			t.Error(err)
		}
	})
	h, err := openHome("", "", undo)
	if err != nil {
		t.Fatal(err)
	}
	bin, err := find(t.Context(), h, os.Getenv(BinVariable), places(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.initialize(t.Context(), bin); err != nil {
		t.Fatal(err)
	}
	return h, bin, undo
}

func start(t *testing.T, o Options) *Server {
	t.Helper()
	s, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

type starter struct {
	url string
	cmd *exec.Cmd
}

// startElsewhere starts a server in another process.
func startElsewhere(t *testing.T, dir string) starter {
	t.Helper()
	return startElsewhereAs(t, dir, nil)
}

func startElsewhereAs(t *testing.T, dir string, who *syscall.Credential) starter {
	t.Helper()
	s, stdout := launchElsewhere(t, dir, who)
	line, err := stdout.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "postgres://") {
		t.Fatalf("the other process says %q, %v", line, err)
	}
	s.url = strings.TrimSpace(line)
	return s
}

func launchElsewhere(t *testing.T, dir string, who *syscall.Credential) (starter, *bufio.Reader) {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if who != nil { // may not reach the folder of go test
		copied := filepath.Join(reachable(t), "starter")
		b, err := os.ReadFile(program)
		if err == nil {
			err = os.WriteFile(copied, b, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
		program = copied
	}
	cmd := exec.Command(program)
	bin, _, err := Find(t.Context()) // where it works it would not find what lies in the checkout
	if err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(os.Environ(), starterVariable+"="+dir, BinVariable+"="+bin)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: who}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Wait() // its result is what the test made of it
	})
	return starter{cmd: cmd}, bufio.NewReader(stdout)
}

func (s starter) kill(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = s.cmd.Wait() // killed: that is its result
}

// reachable is a folder that the user of Postgres can enter; t.TempDir's parent is ours alone.
func reachable(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func run(t *testing.T, databaseURL, statements string) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Exec(t.Context(), statements)
	if err := errors.Join(err, c.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
}

func ask[T any](t *testing.T, databaseURL, query string) T {
	t.Helper()
	c, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	var got T
	err = c.QueryRow(t.Context(), query).Scan(&got)
	if err := errors.Join(err, c.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
	return got
}
