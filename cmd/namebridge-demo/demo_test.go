package main

import (
	"bytes"
	"context"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"namebridge/internal/postgres/testdb"
)

func TestMain(m *testing.M) {
	code := testdb.Main(m).Run()
	if built != "" {
		_ = os.RemoveAll(built)
	}
	os.Exit(code)
}

var built string // the folder of program

// program builds both programs, once for all tests, and says where namebridge is; namebridge-demo is beside it.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "namebridge-demo-test-")
	if err != nil {
		return "", err
	}
	built = dir
	return filepath.Join(dir, "namebridge"), exec.Command("go", "build", "-o", dir, "namebridge/cmd/...").Run()
})

func namebridge(t *testing.T) string {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTheDemoShowsACorrectBackfill(t *testing.T) {
	t.Setenv("DATABASE_URL", "") // a private one
	var out, log bytes.Buffer
	if code := run(t.Context(), []string{"demo", "--users", "60", "--for", "1s", "--binary", namebridge(t)}, &out, &log); code != 0 {
		t.Fatalf("exit %d\n%s\n%s", code, &out, &log)
	}
	for _, want := range []string{"postgres   private", "What a backfill would do", "$ namebridge backfill", "Lost or changed: 0.", "; the others null }", "60, all are right", "before  otherInfo", "$ namebridge serve", "Next:"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in\n%s", want, &out)
		}
	}
	if strings.ContainsAny(out.String()+log.String(), "\r\x1b") {
		t.Errorf("what is no terminal got control characters:\n%q\n%q", &out, &log)
	}
	told, _, _ := strings.Cut(out.String(), "$ namebridge serve") // after that, lines have names of people
	for line := range strings.Lines(told) {
		if n := len([]rune(strings.TrimSpace(line))); n > 80 && !strings.Contains(line, "why") {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}

// schemas are those of the database that are not Postgres's own.
func schemas(t *testing.T, at string) []string {
	t.Helper()
	c, err := pgx.Connect(context.WithoutCancel(t.Context()), at)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(t.Context()) }()
	rows, err := c.Query(t.Context(), `SELECT n.nspname || '.' || coalesce(c.relname, '') FROM pg_namespace n LEFT JOIN pg_class c ON c.relnamespace = n.oid
		WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'`)
	if err != nil {
		t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestTheDemoLeavesADatabaseAsItFoundIt(t *testing.T) {
	at := testdb.URL(t, nil)
	t.Setenv("DATABASE_URL", at)
	before := schemas(t, at)
	u, err := url.Parse(at)
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()

	for name, interrupt := range map[string]string{"to its end": "no such text", "interrupted": "$ namebridge backfill"} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			out, log := &cutter{at: interrupt, cut: cancel}, new(bytes.Buffer)
			code := run(ctx, []string{"demo", "--users", "60", "--for", "1s", "--binary", namebridge(t)}, out, log)
			want := 0
			if ctx.Err() != nil {
				want = 1
			}
			if code != want {
				t.Errorf("exit %d, want %d:\n%s\n%s", code, want, &out.Buffer, log)
			}
			if want == 1 && !strings.Contains(log.String(), "nothing is left behind") {
				t.Errorf("an interrupted demo says %q", log)
			}
			if after := schemas(t, at); !slices.Equal(before, after) {
				t.Errorf("the database had %q, now it has %q", before, after)
			}
			if password != "" && strings.Contains(out.String()+log.String(), password) {
				t.Error("the password of DATABASE_URL is shown")
			}
		})
	}
}

// cutter is Ctrl-C as soon as a text is written.
type cutter struct {
	bytes.Buffer
	at  string
	cut func()
}

func (c *cutter) Write(p []byte) (int, error) {
	n, err := c.Buffer.Write(p)
	if strings.Contains(c.String(), c.at) {
		c.cut()
	}
	return n, err
}

func TestTheDemoFailsWhereSomethingIsNotAsItShouldBe(t *testing.T) {
	t.Setenv("DATABASE_URL", testdb.URL(t, nil))
	for name, test := range map[string]struct{ script, want string }{
		"namebridge fails":               {`exit 3`, "namebridge plan: exit status 3"},
		"namebridge does nothing":        {`echo '{"bridges":[{"synced":0,"pending":0,"halted":null,"held":{}}]}'`, "users: not what should stand there"},
		"namebridge's word is not true":  {`echo '{"bridges":[{"synced":60,"pending":0,"halted":null,"held":{}}]}'`, "namebridge believes that 60 users are right"},
		"namebridge says nothing at all": {`exit 0`, "its answer cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			fake := filepath.Join(t.TempDir(), "namebridge")
			if err := os.WriteFile(fake, []byte("#!/bin/sh\n"+test.script+"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			var out, log bytes.Buffer
			if code := run(t.Context(), []string{"demo", "--users", "60", "--binary", fake}, &out, &log); code != 1 {
				t.Errorf("exit %d, want 1", code)
			}
			if !strings.Contains(log.String(), test.want) {
				t.Errorf("%q is missing in\n%s", test.want, &log)
			}
		})
	}
}

func TestTheDemoIsOfNoUseWithoutWhatItNeeds(t *testing.T) {
	t.Setenv("DATABASE_URL", "postgres://u:hunter2%zz@db/x")
	for want, args := range map[string][]string{
		"--users 0":        {"--users", "0"},
		"--for 10ms":       {"--for", "10ms"},
		"make build":       {"--binary", filepath.Join(t.TempDir(), "namebridge")},
		"DATABASE_URL":     {"--binary", namebridge(t)},
		"unknown flag":     {"--no-such-flag"},
		"unknown command":  {"too many"},
		"invalid argument": {"--seed", "minus one"},
	} {
		var out, log bytes.Buffer
		if code := run(t.Context(), append([]string{"demo"}, args...), &out, &log); code != 2 || !strings.Contains(log.String(), want) {
			t.Errorf("%q: exit %d, %s", args, code, &log)
		}
		if strings.Contains(log.String(), "hunter2") {
			t.Errorf("%q shows the password: %s", args, &log)
		}
	}
}

func TestTheChildSeesNoSettingOfARealAccount(t *testing.T) {
	t.Parallel()
	d := demo{settings: []string{"NAMECOACH_TOKEN=simulated", "DATABASE_URL=postgres://demo"}}
	got := d.environment([]string{"PATH=/bin", "NAMECOACH_TOKEN=real", "NAMECOACH_TOKEN_FILE=/real", "BLN_PASSWORD=real", "DATABASE_URL=real", "BRIDGES=acme", "NO_COLOR=1"})
	want := []string{"PATH=/bin", "NO_COLOR=1", "NAMECOACH_TOKEN=simulated", "DATABASE_URL=postgres://demo"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestWhatTheDemoSaysToTypeNeedsNoPATH(t *testing.T) {
	t.Parallel()
	for self, want := range map[string][]string{
		"bin/namebridge-demo": {"Next:  bin/namebridge-demo demo --help  more", "\n       bin/namebridge plan "},
		"namebridge-demo":     {"Next:  namebridge-demo demo --help  more", "\n       namebridge plan "},
	} {
		for _, text := range want {
			if got := next(self); !strings.Contains(got, text) {
				t.Errorf("%s says\n%s not %q", self, got, text)
			}
		}
	}
}
