//go:build deploy

package migrations_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"namebridge/internal/postgres/testdb"
	"namebridge/internal/simulator"
)

// within is how long something may take that takes a second or two on an idle machine.
const within = time.Minute

// git runs git in the checkout.
func git(t *testing.T, args ...string) (string, error) {
	t.Helper()
	command := exec.CommandContext(t.Context(), "git", append([]string{"-c", "safe.directory=*", "-C", ".."}, args...)...)
	out, err := command.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// previousRelease is the commit of the release before the present one: the newest tag before this commit, else what the file `previous` names.
func previousRelease(t *testing.T) string {
	t.Helper()
	if tag, err := git(t, "describe", "--tags", "--abbrev=0", "--match=v[0-9]*", "HEAD^"); err == nil {
		return tag
	}
	raw, err := os.ReadFile("previous")
	if err != nil {
		t.Fatal(err)
	}
	commit := strings.TrimSpace(string(raw))
	if out, err := git(t, "cat-file", "-e", commit+"^{commit}"); err != nil {
		t.Fatalf("there is no tag v* before this commit, and commit %s of migrations/previous is not in this clone (git fetch --unshallow --tags): %v %s", commit, err, out)
	}
	return commit
}

// build makes the program of a checkout.
func build(t *testing.T, checkout, version string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "namebridge")
	command := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-ldflags", "-X main.version="+version, "-o", to, "./cmd/namebridge")
	command.Dir = checkout
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", version, err, out)
	}
	return to
}

// unpacked is a folder with the files of a commit.
func unpacked(t *testing.T, commit string) string {
	t.Helper()
	dir := t.TempDir()
	archive := filepath.Join(dir, "archive.tar")
	if out, err := git(t, "archive", "--format=tar", "--output="+archive, commit); err != nil {
		t.Fatalf("git archive %s: %v\n%s", commit, err, out)
	}
	if out, err := exec.CommandContext(t.Context(), "tar", "-xf", archive, "-C", dir).CombinedOutput(); err != nil {
		t.Fatalf("unpack %s: %v\n%s", commit, err, out)
	}
	return dir
}

// world is both simulated APIs and one database, on which programs of several releases work.
type world struct {
	*simulator.Simulator
	t       *testing.T
	url     string
	foreign map[int64]string
	life    *simulator.Life
}

func newWorld(t *testing.T) *world {
	t.Helper()
	s, err := simulator.New(simulator.Options{Seed: 11, Users: 150})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return &world{s, t, testdb.URL(t, nil), s.ForeignDigests("namecoach"), s.Life(simulator.LifeOptions{Seed: 1, Weights: simulator.Weights{
		simulator.RecordsAnew: 5, simulator.RecordsFirst: 3, simulator.JoinsNameCoach: 2,
	}})}
}

// command is a program on this world, not started yet.
func (w *world) command(program string, args ...string) *exec.Cmd {
	c := exec.CommandContext(w.t.Context(), program, args...)
	for name, value := range map[string]string{
		"PATH": os.Getenv("PATH"), "HOME": os.Getenv("HOME"),
		"DATABASE_URL": w.url, "NAMECOACH_URL": w.NameCoachURL(), "NAMECOACH_TOKEN": w.Token(), "NAMECOACH_REQUESTS_PER_15_MINUTES": "1000000",
		"BLN_URL": w.BLNURL(), "BLN_ORGANIZATION_ID": fmt.Sprint(w.OrganizationID()), "BLN_USERNAME": w.Username(), "BLN_PASSWORD": w.Password(),
		"BLN_REQUESTS_PER_SECOND": "5000", "LISTEN_ADDR": "127.0.0.1:0",
		"COLLECT_SCHEDULE": "@every 1s", "SWEEP_SCHEDULE": "@every 24h", "CENSUS_SCHEDULE": "@every 24h", "WINDOW_SETTLE": "0s",
	} {
		c.Env = append(c.Env, name+"="+value)
	}
	return c
}

// says runs a program to its end, which has to be a good one.
func (w *world) says(program string, args ...string) string {
	w.t.Helper()
	c := w.command(program, args...)
	var problems bytes.Buffer
	c.Stderr = &problems
	out, err := c.Output()
	if err != nil {
		w.t.Fatalf("%s: %v\n%s%s", strings.Join(args, " "), err, out, problems.String())
	}
	return string(out)
}

// backfill runs one, and gives what it says it has written.
func (w *world) backfill(program string) (written int) {
	w.t.Helper()
	var result struct {
		Status  string
		Written int
	}
	if out := w.says(program, "backfill", "--output", "json"); json.Unmarshal([]byte(out), &result) != nil || result.Status != "done" {
		w.t.Fatalf("a backfill says %s", out)
	}
	return result.Written
}

// content is what every user's record shows.
func (w *world) content() map[int64]string {
	all := map[int64]string{}
	for _, u := range w.Users() {
		all[u.ID] = w.UserOtherInfo(u.ID)
	}
	return all
}

// daemon is `serve`, running.
type daemon struct {
	*world
	process *exec.Cmd
	log     *log
	ended   chan error
}

// log is what a process says.
type log struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// serve starts the daemon and waits until it is ready.
func (w *world) serve(program string) *daemon {
	w.t.Helper()
	d := &daemon{world: w, process: w.command(program, "serve"), log: &log{}, ended: make(chan error, 1)}
	d.process.Stderr = d.log
	if err := d.process.Start(); err != nil {
		w.t.Fatal(err)
	}
	go func() { d.ended <- d.process.Wait() }()
	d.eventually("ready", func() string {
		status, text := d.ask("/readyz")
		if status != http.StatusOK {
			return fmt.Sprintf("/readyz: %d %s", status, text)
		}
		return ""
	})
	return d
}

// ask asks the daemon over HTTP: 0 where it does not answer.
func (d *daemon) ask(path string) (int, string) {
	for line := range strings.Lines(d.log.String()) {
		var entry struct{ Msg, HTTP string }
		if json.Unmarshal([]byte(line), &entry) != nil || entry.Msg != "starting" {
			continue
		}
		res, err := http.Get("http://" + entry.HTTP + path) //nolint:noctx // a test's own server
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
	return 0, "it does not listen yet"
}

// eventually waits until ok says nothing.
func (d *daemon) eventually(what string, ok func() string) {
	d.t.Helper()
	problem := ""
	for deadline := time.Now().Add(within); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if problem = ok(); problem == "" {
			return
		}
	}
	d.t.Fatalf("after %v not %s: %s\n%s", within, what, problem, d.log)
}

// carries has people change, and waits until that is in BLN.
func (d *daemon) carries(changes int) {
	d.t.Helper()
	if n := len(d.life.Changes(changes)); n != changes {
		d.t.Fatalf("%d changes, want %d", n, changes)
	}
	d.eventually("right", func() string { return strings.Join(d.Mismatches(3), "\n") })
}

// stop ends the daemon as Kubernetes does, and waits for it.
func (d *daemon) stop() {
	d.t.Helper()
	if err := d.process.Process.Signal(syscall.SIGTERM); err != nil {
		d.t.Fatal(err)
	}
	select {
	case err := <-d.ended:
		if err != nil {
			d.t.Errorf("it ended with %v\n%s", err, d.log)
		}
	case <-time.After(within):
		d.t.Fatalf("it does not end\n%s", d.log)
	}
}

// unchanged fails the test unless BLN shows what it has shown, and everything in it is right.
func (w *world) unchanged(when string, content map[int64]string) {
	w.t.Helper()
	if now := w.content(); !maps.Equal(content, now) {
		for id, was := range content {
			if now[id] != was {
				w.t.Errorf("%s: user %d was %s and is %s", when, id, was, now[id])
			}
		}
	}
	w.right(when)
}

// right fails the test unless everybody's fragment is right and nothing foreign was touched.
func (w *world) right(when string) {
	w.t.Helper()
	for _, m := range w.Mismatches(5) {
		w.t.Errorf("%s: %s", when, m)
	}
	now := w.ForeignDigests("namecoach")
	for id, digest := range w.foreign {
		if now[id] != digest {
			w.t.Errorf("%s: user %d: foreign keys are not what they were: %s", when, id, w.UserOtherInfo(id))
		}
	}
	for _, v := range w.Violations() {
		w.t.Errorf("%s: a polite client does not do this: %s", when, v)
	}
}

// What an operator does: upgrade, find that something is wrong, roll back without touching the database, upgrade again. Replicas of both
// releases work beside each other each time, as they do while a Deployment is rolled out.
func TestTheReleaseBeforeRunsOnThePresentSchema(t *testing.T) {
	t.Parallel()
	release := previousRelease(t)
	before, present := build(t, unpacked(t, release), release), build(t, "..", "present")
	for name, born := range map[string]string{"a database of the release before": before, "a database of this one": present} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			if w.backfill(born) == 0 {
				t.Fatal("the first backfill wrote nobody")
			}
			w.right("after the first backfill")
			was := born
			for i, program := range []string{present, before, present} {
				step := []string{"upgraded", "rolled back", "upgraded again"}[i]
				content := w.content()
				old := w.serve(was)
				d := w.serve(program)
				if status, text := old.ask("/readyz"); status != http.StatusOK {
					t.Errorf("%s: what runs already is not ready beside it any more: %d %s", step, status, text)
				}
				w.unchanged(step+", nothing changed", content)
				d.carries(5)
				old.stop()
				d.carries(5)
				content = w.content()
				if written := w.backfill(program); written != 0 {
					t.Errorf("%s: a backfill wrote %d people who were right", step, written)
				}
				d.stop()
				if written := w.backfill(program); written != 0 {
					t.Errorf("%s: a backfill by itself wrote %d people who were right", step, written)
				}
				w.unchanged(step+", after a backfill", content)
				w.says(program, "status")
				w.says(program, "doctor")
				was = program
			}
		})
	}
}

// A program older than its database works, and says what it found.
func TestAProgramOlderThanItsDatabaseWorksAndSaysSo(t *testing.T) {
	t.Parallel()
	present := build(t, "..", "present")
	w := newWorld(t)
	w.backfill(present)
	content := w.content()
	c := connect(t, w.url)
	for _, statement := range []string{`ALTER TABLE runs ADD COLUMN tomorrow text`, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, true)`} {
		if _, err := c.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	d := w.serve(present)
	d.carries(5)
	if said := d.log.String(); !strings.Contains(said, "the database has a newer schema than this program knows") {
		t.Errorf("serve does not say what it found:\n%s", said)
	}
	d.stop()
	if written := w.backfill(present); written != 0 {
		t.Errorf("%d people were written who were right", written)
	}
	if len(content) != len(w.content()) {
		t.Error("users have gone")
	}
	w.right("on a newer schema")
	if said := w.says(present, "doctor"); !strings.Contains(said, "an older program on a newer schema: the database is at version 99") {
		t.Errorf("doctor says:\n%s", said)
	}
	if said := w.says(present, "migrate", "status"); strings.Contains(said, "missing") || !strings.Contains(said, "applied  00099, by a newer program") {
		t.Errorf("migrate status says:\n%s", said)
	}
}
