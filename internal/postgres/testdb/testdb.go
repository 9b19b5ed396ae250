// Package testdb gives each test a database of its own, on a real Postgres.
//
// The server is the one that DATABASE_URL names, else a private one for each test binary, started when the first test asks. On it, one
// database is migrated and serves as the template of all others, so a migrated database takes some tens of milliseconds. Tests may run
// in parallel.
package testdb

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"namebridge/internal/postgres"
	"namebridge/state"
)

// Migrate brings the database at databaseURL to the schema that a test needs.
type Migrate func(ctx context.Context, databaseURL string) error

// New is a pool of connections, as a process has it, to a fresh database that migrate (a top-level function; nil for none) has run on. Both end with the test.
func New(t testing.TB, migrate Migrate) *pgxpool.Pool {
	t.Helper()
	pool, err := state.Open(t.Context(), URL(t, migrate), 1)
	if err != nil {
		t.Fatalf("connect to the test's database: %v", err)
	}
	t.Cleanup(pool.Close) // runs before URL's cleanup, which drops the database
	return pool
}

// URL is the connection URL of a fresh database that migrate (a top-level function; nil for none) has run on. It is dropped when the test
// ends, with whoever is still connected.
func URL(t testing.TB, migrate Migrate) string {
	t.Helper()
	s, err := shared()
	if err != nil {
		t.Fatalf("a Postgres to test with: %v", err)
	}
	template, err := s.template(migrate)
	if err != nil {
		t.Fatalf("prepare the template of the test's database: %v", err)
	}
	name := newName()
	if err := s.create(t.Context(), name, template); err != nil {
		t.Fatalf("make the test's database: %v", err)
	}
	t.Cleanup(func() {
		if err := s.drop(name); err != nil {
			t.Errorf("drop the test's database: %v", err)
		}
	})
	return s.databaseURL(name)
}

// Refusing is an address, host:port, where no server listens, and that nobody else is given while the test lasts.
func Refusing(t testing.TB) string {
	t.Helper()
	s, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(s) })
	if err := syscall.Bind(s, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(s)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port)
}

// Main wraps the tests of a package, so that the server and the templates are gone when they are over, not only some moments after the
// test binary is: os.Exit(testdb.Main(m).Run()), or goleak.VerifyTestMain(testdb.Main(m)), which would take the server for a leak.
func Main(m *testing.M) Runner { return Runner{m} }

// Runner is what Main returns.
type Runner struct{ m *testing.M }

// Run runs the tests and tidies up; it returns their exit code.
func (r Runner) Run() int {
	code := r.m.Run()
	if !started {
		return code
	}
	s, err := shared()
	if err == nil {
		err = s.close()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "testdb:", err)
		return max(code, 1)
	}
	return code
}

const (
	prefix = "namebridge_test_"
	stale  = 2 * time.Hour // longer than a test binary may run
)

// newName is a database's name, unique on a server that several test binaries share; it tells when it was made.
func newName() string {
	return prefix + strconv.FormatInt(time.Now().Unix(), 10) + "_" + strings.ToLower(rand.Text()[:12])
}

type server struct {
	admin     *url.URL
	private   *postgres.Server // nil on DATABASE_URL's server
	version   int              // server_version_num
	mu        sync.Mutex
	templates map[uintptr]func() (string, error) // by migrating function
}

var started bool // read when the tests are over

var shared = sync.OnceValues(func() (_ *server, err error) {
	started = true
	s := &server{templates: map[uintptr]func() (string, error){}}
	raw := os.Getenv("DATABASE_URL")
	if raw == "" || raw == "embedded" {
		private, err := postgres.Start(context.Background(), postgres.Options{Parent: inMemory()})
		if err != nil {
			return nil, err
		}
		defer func() {
			if err != nil {
				err = errors.Join(err, private.Stop())
			}
		}()
		s.private, raw = private, private.URL()
	}
	admin, err := url.Parse(raw)
	if err != nil {
		return nil, errors.New("DATABASE_URL is not a URL") // the cause would print it, password and all
	}
	s.admin = admin
	err = s.do(context.Background(), func(ctx context.Context, c *pgx.Conn) error {
		if err := c.QueryRow(ctx, `SELECT current_setting('server_version_num')::int`).Scan(&s.version); err != nil {
			return err
		}
		return dropStale(ctx, c)
	})
	return s, err
})

// inMemory is a folder in memory with room for the databases of many tests; "" where there is none. Making and dropping hundreds of
// databases is mostly files that are made and removed: on a disk that takes twice as long.
func inMemory() string {
	const folder, room = "/dev/shm", 4 << 30
	var s syscall.Statfs_t
	if err := syscall.Statfs(folder, &s); err != nil || s.Bavail*uint64(s.Bsize) < room {
		return ""
	}
	return folder
}

// dropStale removes what test binaries that were killed left on a server that outlives them.
func dropStale(ctx context.Context, c *pgx.Conn) error {
	rows, err := c.Query(ctx, `SELECT datname FROM pg_database WHERE starts_with(datname, $1)`, prefix)
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, name := range names {
		made, _, _ := strings.Cut(strings.TrimPrefix(name, prefix), "_")
		seconds, err := strconv.ParseInt(made, 10, 64)
		if err != nil || time.Since(time.Unix(seconds, 0)) < stale {
			continue
		}
		if err := dropDatabase(ctx, c, name); err != nil {
			return err
		}
	}
	return nil
}

// do runs f on a connection of its own to the server's own database: a pool would hold goroutines between the tests.
func (s *server) do(ctx context.Context, f func(context.Context, *pgx.Conn) error) (err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	c, err := pgx.Connect(ctx, s.admin.String())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close(ctx)) }()
	return f(ctx, c)
}

func (s *server) databaseURL(name string) string {
	u := *s.admin
	u.Path = "/" + name
	return u.String()
}

// template is the name of the database that migrate has run on; it runs once.
func (s *server) template(migrate Migrate) (string, error) {
	if migrate == nil {
		return "template0", nil
	}
	key := reflect.ValueOf(migrate).Pointer()
	s.mu.Lock()
	prepare, ok := s.templates[key]
	if !ok {
		prepare = sync.OnceValues(func() (string, error) {
			name := newName()
			ctx := context.Background() // for all tests, not for the first that asks
			if err := s.create(ctx, name, "template0"); err != nil {
				return "", err
			}
			return name, migrate(ctx, s.databaseURL(name))
		})
		s.templates[key] = prepare
	}
	s.mu.Unlock()
	return prepare()
}

func (s *server) create(ctx context.Context, name, template string) error {
	statement := "CREATE DATABASE " + pgx.Identifier{name}.Sanitize() + " TEMPLATE " + pgx.Identifier{template}.Sanitize()
	if s.version >= 150000 {
		statement += " STRATEGY file_copy" // what 14 does without being asked; the default since logs every block
	}
	return s.do(ctx, func(ctx context.Context, c *pgx.Conn) error {
		return patiently(ctx, c, statement)
	})
}

func (s *server) drop(name string) error {
	return s.do(context.Background(), func(ctx context.Context, c *pgx.Conn) error { return dropDatabase(ctx, c, name) })
}

func dropDatabase(ctx context.Context, c *pgx.Conn, name string) error {
	return patiently(ctx, c, "DROP DATABASE IF EXISTS "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)")
}

// patiently executes a statement that needs a database for itself. Postgres waits 5 s for whoever is still connected, and nobody waits for the
// process of a connection that was closed: on a busy machine it is there for longer.
func patiently(ctx context.Context, c *pgx.Conn, statement string) error {
	for {
		_, err := c.Exec(ctx, statement)
		var pg *pgconn.PgError
		if !errors.As(err, &pg) || pg.Code != "55006" || ctx.Err() != nil {
			return err
		}
	}
}

func (s *server) close() error {
	if s.private != nil {
		return s.private.Stop()
	}
	var errs []error
	for _, template := range s.templates {
		name, err := template()
		if err == nil {
			err = s.drop(name)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
