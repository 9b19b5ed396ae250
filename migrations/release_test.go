//go:build deploy

package migrations_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"namebridge/internal/postgres/testdb"
	"namebridge/internal/promtest"
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
	env     map[string]string
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
	env := map[string]string{
		"PATH": os.Getenv("PATH"), "HOME": os.Getenv("HOME"),
		"DATABASE_URL": testdb.URL(t, nil), "NAMECOACH_URL": s.NameCoachURL(), "NAMECOACH_TOKEN": s.Token(), "NAMECOACH_REQUESTS_PER_15_MINUTES": "1000000",
		"BLN_URL": s.BLNURL(), "BLN_ORGANIZATION_ID": fmt.Sprint(s.OrganizationID()), "BLN_USERNAME": s.Username(), "BLN_PASSWORD": s.Password(),
		"BLN_REQUESTS_PER_SECOND": "5000",
		"COLLECT_SCHEDULE":        "@every 1s", "SWEEP_SCHEDULE": "@every 24h", "CENSUS_SCHEDULE": "@every 24h", "WINDOW_SETTLE": "0s",
	}
	return &world{s, t, env, s.ForeignDigests("namecoach"), s.Life(simulator.LifeOptions{Seed: 1, Weights: simulator.Weights{
		simulator.RecordsAnew: 5, simulator.RecordsFirst: 3, simulator.JoinsNameCoach: 2,
	}})}
}

// says runs a program to its end, which has to be a good one.
func (w *world) says(program string, args ...string) string {
	w.t.Helper()
	code, out, problems := promtest.Run(w.t, program, w.env, args...)
	if code != 0 {
		w.t.Fatalf("%s: exit code %d\n%s%s", strings.Join(args, " "), code, out, problems)
	}
	return out
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

// serve starts the daemon and waits until it is ready.
func (w *world) serve(program string) *promtest.Daemon {
	w.t.Helper()
	d := promtest.Serve(w.t, program, w.env)
	promtest.Eventually(w.t, within, "it is ready", func() error { return w.ready(d) })
	return d
}

func (w *world) ready(d *promtest.Daemon) error {
	_, err := promtest.Get(w.t.Context(), "http://"+d.Address+"/readyz")
	return err
}

// carry has people change, and waits until the daemons have brought that to BLN.
func (w *world) carry(changes int) {
	w.t.Helper()
	if n := len(w.life.Changes(changes)); n != changes {
		w.t.Fatalf("%d changes, want %d", n, changes)
	}
	promtest.Eventually(w.t, within, "everybody's badge is right", func() error {
		if wrong := w.Mismatches(3); len(wrong) > 0 {
			return errors.New(strings.Join(wrong, "\n"))
		}
		return nil
	})
}

// stop ends a daemon as Kubernetes does: nothing may be wrong with that.
func (w *world) stop(d *promtest.Daemon) {
	w.t.Helper()
	if code := d.Stop(); code != 0 {
		w.t.Errorf("it ended with exit code %d", code)
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
	before, present := promtest.BuildIn(t, unpacked(t, previousRelease(t))), promtest.Build(t)
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
				promtest.Eventually(t, within, step+": what runs already is ready beside it", func() error { return w.ready(old) })
				w.unchanged(step+", nothing changed", content)
				w.carry(5)
				w.stop(old)
				w.carry(5)
				content = w.content()
				if written := w.backfill(program); written != 0 {
					t.Errorf("%s: a backfill wrote %d people who were right", step, written)
				}
				w.stop(d)
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
