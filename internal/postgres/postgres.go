// Package postgres runs a private Postgres beside the process: for DATABASE_URL=embedded, for the demo and for tests.
//
// The server is the installed Postgres, 14 or newer, listening on a port of 127.0.0.1 only, with a random password. It ends with
// the process that started it. Its data folder outlives a kill -9, and belongs to one process at a time.
package postgres

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
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
	"time"
)

const (
	role = "namebridge" // the server's superuser and the name of the role in URL

	portAttempts = 10 // another process may take the free port before Postgres does
	pollEvery    = 5 * time.Millisecond
	orphanWait   = 30 * time.Second // for a Postgres whose parent was killed to finish its own shutdown
	fastWait     = 20 * time.Second // for a fast shutdown, which writes a checkpoint
	unhurried    = time.Minute      // the same for a temporary server: no data is at stake, and a busy machine is no error
	hardWait     = 5 * time.Second  // for an immediate shutdown
)

// Options of Start.
type Options struct {
	// Dir is the folder that keeps the data; it is made where it is missing. "" is a temporary folder, removed by Stop (or, where the
	// process dies first, by a watcher that outlives it), and a server that trades durability for speed.
	Dir string
	// Parent is where a temporary folder is made; "" is os.TempDir.
	Parent string
	// Port is where it listens; 0 is any port that is free.
	Port int
	// Stderr gets what Postgres logs: no statement, no parameter and no row value. nil drops it.
	Stderr io.Writer
}

// Server is a running private Postgres.
type Server struct {
	url, version string
	stop         func() error
}

// URL is a connection URL of the server's database, with its password. It is valid until Stop; the port changes with each start
// unless Options.Port names it.
func (s *Server) URL() string { return s.url }

// Version is the server's version, such as "15.18".
func (s *Server) Version() string { return s.version }

// Stop shuts the server down, open connections included, and removes a temporary data folder. Stopping again returns the first result.
func (s *Server) Stop() error { return s.stop() }

// Start makes the data folder where there is none and runs Postgres in it until Stop or the end of the process, however that comes. ctx
// bounds the starting only. It returns once the server accepts connections.
//
// Postgres refuses to run as root: a root process runs it as the owner of an existing data folder, else as user postgres, else nobody.
// ErrNotInstalled says that no usable Postgres was found, ErrInUse that another process has the data folder.
func Start(ctx context.Context, o Options) (_ *Server, err error) {
	var undo cleanup
	defer func() {
		if err != nil {
			err = errors.Join(err, undo.run())
		}
	}()
	home, err := openHome(o.Dir, o.Parent, &undo)
	if err != nil {
		return nil, err
	}
	bin, err := find(ctx, home, os.Getenv(BinVariable), places(ctx))
	if err != nil {
		return nil, err
	}
	password, err := home.initialize(ctx, bin)
	if err != nil {
		return nil, err
	}
	if err := home.awaitOrphan(ctx); err != nil {
		return nil, err
	}
	ports := freePort
	if o.Port != 0 {
		ports = func() (int, error) { return o.Port, nil }
	}
	running, port, err := serve(ctx, bin, home, o.Stderr, ports)
	if err != nil {
		return nil, err
	}
	fast := fastWait
	if home.temporary {
		fast = unhurried
	}
	undo.add(func() error {
		if err := running.shutdown(fast); err != nil || running.err == nil {
			return err
		}
		return fmt.Errorf("postgres ended badly: %w: %s", running.err, running.last())
	})

	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(role, password), Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)),
		Path: "/postgres", RawQuery: "sslmode=disable",
	}
	return &Server{url: u.String(), version: bin.version, stop: sync.OnceValue(undo.run)}, nil
}

// cleanup is what to undo, last thing first.
type cleanup []func() error

func (c *cleanup) add(f func() error) { *c = append(*c, f) }

func (c *cleanup) run() error {
	var errs []error
	for _, f := range slices.Backward(*c) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

// home is the folder of one server: data (Postgres's own), password, and lock, held by the one process that uses the folder.
type home struct {
	dir       string
	temporary bool
	owner     *syscall.Credential // whom Postgres runs as; nil is ourselves
}

func (h home) data() string     { return filepath.Join(h.dir, "data") }
func (h home) password() string { return filepath.Join(h.dir, "password") }

// ErrInUse is the failure of Start on a data folder that another process uses.
var ErrInUse = errors.New("in use by another process")

// openHome makes and locks the folder; undo gets what gives it back.
func openHome(dir, parent string, undo *cleanup) (home, error) {
	h := home{dir: dir, temporary: dir == ""}
	var err error
	if h.temporary {
		if h.dir, err = temporaryFolder(parent); err != nil {
			return h, err
		}
		watcher, err := watch(h.dir)
		if err != nil {
			return h, errors.Join(err, os.RemoveAll(h.dir))
		}
		undo.add(watcher)
		undo.add(func() error { return os.RemoveAll(h.dir) })
	} else {
		if h.dir, err = filepath.Abs(dir); err != nil {
			return h, fmt.Errorf("data folder %s: %w", dir, err)
		}
		if err := os.MkdirAll(h.dir, 0o700); err != nil {
			return h, fmt.Errorf("make the data folder: %w", err)
		}
	}
	if err := h.lock(undo); err != nil {
		return h, err
	}
	h.owner, err = ownerOf(h.dir)
	return h, err
}

// lock refuses a second starter at once. The lock ends with the process that holds it, however it ends; Postgres's own postmaster.pid
// would not protect initdb, and is still there after a kill -9.
func (h home) lock(undo *cleanup) error {
	f, err := os.OpenFile(filepath.Join(h.dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("lock the data folder: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close() // nothing was written
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return fmt.Errorf("data folder %s is %w; one process at a time can have it", h.dir, ErrInUse)
		}
		return fmt.Errorf("lock the data folder %s: %w", h.dir, err)
	}
	undo.add(func() error {
		// Closing alone is not enough: a child that is just being started elsewhere in this process holds a copy until it runs its program.
		return errors.Join(syscall.Flock(int(f.Fd()), syscall.LOCK_UN), f.Close())
	})
	return nil
}

// major is the version of Postgres that made the data, such as "15"; "" where there is none yet.
func (h home) major() (string, error) {
	b, err := os.ReadFile(filepath.Join(h.data(), "PG_VERSION"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the version of the data folder: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// initialize makes the data where there is none, and returns the password of role. A crash at any line leaves either no data or all of it.
func (h home) initialize(ctx context.Context, bin binaries) (string, error) {
	if major, err := h.major(); err != nil || major != "" {
		if err != nil {
			return "", err
		}
		password, err := os.ReadFile(h.password())
		if err != nil {
			return "", fmt.Errorf("read the password of the data folder: %w", err)
		}
		return string(password), nil
	}
	// What a process that was killed left behind. Its initdb may still be at it: so ours works under another name, and what cannot be
	// removed now is removed by a later start.
	leftovers, _ := filepath.Glob(h.data() + ".new-*") // the one error is a bad pattern
	for _, dir := range leftovers {
		_ = os.RemoveAll(dir)
	}
	unfinished := h.data() + ".new-" + rand.Text()
	password := rand.Text()
	if err := os.WriteFile(h.password(), []byte(password), 0o600); err != nil {
		return "", fmt.Errorf("keep the password of the data folder: %w", err)
	}
	if h.owner != nil {
		if err := os.Chown(h.password(), int(h.owner.Uid), int(h.owner.Gid)); err != nil {
			return "", fmt.Errorf("give the password to the user of Postgres: %w", err)
		}
	}
	p, err := h.launch(nil, filepath.Join(bin.dir, "initdb"), "--no-sync", "--pgdata="+unfinished, "--username="+role,
		"--pwfile="+h.password(), "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C")
	if err != nil {
		return "", err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		return "", errors.Join(context.Cause(ctx), p.shutdown(hardWait))
	}
	if p.err != nil {
		return "", fmt.Errorf("initdb in %s: %w: %s", h.dir, p.err, p.last())
	}
	if err := os.Rename(unfinished, h.data()); err != nil {
		return "", fmt.Errorf("finish initdb: %w", err)
	}
	return password, nil
}

// awaitOrphan waits for a Postgres that lost its parent to be gone, and removes a postmaster.pid that names a process which is not a
// Postgres of this folder: process ids come round again, in a restarted container at once, and Postgres would refuse to start. One that
// names nobody is left to Postgres, which learns from it what else may be left.
func (h home) awaitOrphan(ctx context.Context) error {
	deadline := time.NewTimer(orphanWait)
	defer deadline.Stop()
	for {
		pid, _, err := h.postmaster()
		if err != nil || pid == 0 {
			return err
		}
		if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			return nil
		}
		if !runsIn(pid, h.data()) {
			if err := os.Remove(h.pidFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("remove a stale lock of Postgres: %w", err)
			}
			return nil
		}
		select {
		case <-time.After(pollEvery):
		case <-deadline.C:
			return fmt.Errorf("data folder %s is %w: Postgres, process %d, outlived its parent; stop it: kill -INT %d", h.dir, ErrInUse, pid, pid)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (h home) pidFile() string { return filepath.Join(h.data(), "postmaster.pid") }

// postmaster reads who runs in the data folder, 0 for nobody, and whether it accepts connections: postmaster.pid's first and eighth
// lines, as pg_ctl reads them (Postgres's src/include/utils/pidfile.h).
func (h home) postmaster() (pid int, ready bool, err error) {
	b, err := os.ReadFile(h.pidFile())
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("read the lock of Postgres: %w", err)
	}
	lines := strings.Split(string(b), "\n")
	pid, _ = strconv.Atoi(strings.TrimSpace(lines[0])) // a file that is just being written: nobody yet
	return pid, len(lines) > 7 && strings.TrimSpace(lines[7]) == "ready", nil
}

// serve runs Postgres on a port that ports names, and tries the next one where another process was faster.
func serve(ctx context.Context, bin binaries, h home, stderr io.Writer, ports func() (int, error)) (*process, int, error) {
	settings := []string{
		"unix_socket_directories=", "listen_addresses=127.0.0.1", "max_connections=200", "lc_messages=C",
		// An error's detail and statement can hold what people entered.
		"log_error_verbosity=terse", "log_min_error_statement=panic",
	}
	if h.temporary {
		settings = append(settings, "fsync=off", "full_page_writes=off", "synchronous_commit=off")
	}
	args := []string{"-D", h.data()}
	for _, s := range settings {
		args = append(args, "-c", s)
	}
	deadline := time.Now().Add(orphanWait)
	for taken := 0; ; {
		port, err := ports()
		if err != nil {
			return nil, 0, err
		}
		p, err := h.launch(stderr, filepath.Join(bin.dir, "postgres"), append(args, "-p", strconv.Itoa(port))...)
		if err != nil {
			return nil, 0, err
		}
		err = h.awaitReady(ctx, p)
		switch {
		case err == nil:
			return p, port, nil
		case p.said("could not bind"):
			if taken++; taken == portAttempts {
				return nil, 0, fmt.Errorf("no free port: another process took each of %d that were tried: %w", taken, err)
			}
		case (p.said("shared memory block") || p.said(`lock file "postmaster.pid"`)) && time.Now().Before(deadline):
			// Of a server that was killed alone, the children take a moment to notice. One whose parent was killed before it wrote its
			// postmaster.pid was not to be seen until now.
			select {
			case <-time.After(10 * pollEvery):
			case <-ctx.Done():
				return nil, 0, context.Cause(ctx)
			}
			if err := h.awaitOrphan(ctx); err != nil {
				return nil, 0, err
			}
		default:
			return nil, 0, err
		}
	}
}

func (h home) awaitReady(ctx context.Context, p *process) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-p.done:
			return fmt.Errorf("postgres in %s does not start: %s", h.dir, p.last())
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), p.shutdown(hardWait))
		case <-tick.C:
			pid, ready, err := h.postmaster()
			if err != nil {
				return errors.Join(err, p.shutdown(hardWait))
			}
			if ready && pid == p.cmd.Process.Pid {
				return nil
			}
		}
	}
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	return port, l.Close()
}

// temporaryFolder is one that the user of Postgres can reach: where we are root, TMPDIR may lie in our own home.
func temporaryFolder(parent string) (string, error) {
	owner, err := unprivileged()
	if err != nil {
		return "", err
	}
	if parent == "" {
		parent = os.TempDir()
	}
	if owner != nil && unreachable(parent, owner) != "" {
		parent = "/tmp"
	}
	dir, err := os.MkdirTemp(parent, "namebridge-postgres-")
	if err != nil {
		return "", fmt.Errorf("make a temporary data folder: %w", err)
	}
	return filepath.EvalSymlinks(dir)
}

// watch starts a shell that waits for this process to end, however it ends, then stops what is left of its Postgres and removes dir. The
// function that it returns sends the watcher home; called after dir was removed.
func watch(dir string) (func() error, error) {
	// Standard input ends when the last holder of the pipe's other end does: we.
	cmd := exec.Command("/bin/sh", "-c", `read -r _
pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null)
if [ -n "$pid" ]; then
	kill -QUIT "$pid" 2>/dev/null
	while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
fi
rm -rf "$1" || { sleep 1; rm -rf "$1"; }`, "sh", dir)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("watch the temporary data folder: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("watch the temporary data folder: %w", err)
	}
	return func() error { return errors.Join(stdin.Close(), cmd.Wait()) }, nil
}

// tail keeps the end of what was written, and hands everything on.
type tail struct {
	mu   sync.Mutex
	kept []byte
	next io.Writer
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	t.kept = append(t.kept, p...)
	if drop := len(t.kept) - 4096; drop > 0 {
		t.kept = bytes.Clone(t.kept[drop:])
	}
	t.mu.Unlock()
	if t.next == nil {
		return len(p), nil
	}
	return t.next.Write(p)
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.kept)
}
