package main

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"namebridge/internal/config"
	"namebridge/internal/postgres/testdb"
	"namebridge/internal/promtest"
	"namebridge/internal/simulator"
)

// within is how long something may take to come about that takes a second or two on an idle machine.
const within = time.Minute

// container is the image's files for this machine, unpacked: a program that runs there sees nothing else of the machine.
type container struct{ root string }

func newContainer(t *testing.T) container {
	t.Helper()
	c := container{t.TempDir()}
	if err := os.Chmod(filepath.Dir(c.root), 0o755); err != nil { // user 65532 passes
		t.Fatal(err)
	}
	all := files(t, images(t)["linux/"+runtime.GOARCH])
	for _, name := range slices.Sorted(maps.Keys(all)) { // folders come before what is in them
		path, f := filepath.Join(c.root, name), all[name]
		if f.FileInfo().IsDir() {
			if err := os.Mkdir(path, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		// A child that is forked meanwhile would hold the program open for writing, and nobody could run it: "text file busy".
		syscall.ForkLock.RLock()
		err := os.WriteFile(path, f.content, f.FileInfo().Mode())
		syscall.ForkLock.RUnlock()
		if err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// mount puts a file there, as whoever starts a container does; it can be read by everybody and written by nobody.
func (c container) mount(t *testing.T, name string, content []byte) {
	t.Helper()
	path := filepath.Join(c.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o444); err != nil {
		t.Fatal(err)
	}
}

// close takes the permission to write away, of folders too: all is read-only from now on, whoever the files belong to.
func (c container) close(t *testing.T) {
	t.Helper()
	seal := func(mode os.FileMode) {
		err := filepath.WalkDir(c.root, func(path string, d os.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return err
			}
			return os.Chmod(path, mode)
		})
		if err != nil {
			t.Error(err)
		}
	}
	seal(0o555)
	t.Cleanup(func() { seal(0o755) }) // else it cannot be removed by anybody but root
}

// command is a command line of the image, as the image's user, in the container and nowhere else.
func (c container) command(t *testing.T, env map[string]string, args ...string) *exec.Cmd {
	t.Helper()
	image, err := images(t)["linux/"+runtime.GOARCH].ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	var uid, gid int
	if _, err := fmt.Sscanf(image.Config.User, "%d:%d", &uid, &gid); err != nil {
		t.Fatal(err)
	}
	line := slices.Concat(image.Config.Entrypoint, args)
	cmd := exec.CommandContext(t.Context(), line[0], line[1:]...)
	cmd.Dir = image.Config.WorkingDir
	cmd.Env = slices.Clone(image.Config.Env)
	for name, value := range env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: c.root}
	if os.Getuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	} else { // where users may have namespaces of their own, they may do the same in one
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: os.Getgid(), Size: 1}}
	}
	return cmd
}

// outcome is what a command came to.
type outcome struct {
	code           int
	stdout, stderr string
}

func (c container) run(t *testing.T, env map[string]string, args ...string) outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := c.command(t, env, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if ended := (*exec.ExitError)(nil); err != nil && !errors.As(err, &ended) {
		t.Fatalf("%v: %v", cmd.Args, err)
	}
	return outcome{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// people are both APIs, with people.
func people(t *testing.T) *simulator.Simulator {
	t.Helper()
	s, err := simulator.New(simulator.Options{Users: 60, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// environment is what leads there.
func environment(s *simulator.Simulator, database string) map[string]string {
	return map[string]string{
		"DATABASE_URL": database, "NAMECOACH_URL": s.NameCoachURL(), "NAMECOACH_TOKEN": s.Token(), "BLN_URL": s.BLNURL(),
		"BLN_ORGANIZATION_ID": fmt.Sprint(s.OrganizationID()), "BLN_USERNAME": s.Username(), "BLN_PASSWORD": s.Password(),
	}
}

func TestTheProgramRunsInAContainerWithNothingElse(t *testing.T) {
	t.Parallel()
	c := newContainer(t)
	c.close(t)
	got := c.run(t, nil, "version")
	if want := fmt.Sprintf("namebridge %s (%s)\n", tested.Version, tested.Commit); got.code != 0 || got.stdout != want {
		t.Errorf("version: exit code %d, %q, want %q\n%s", got.code, got.stdout, want, got.stderr)
	}
	got = c.run(t, nil, "config", "--help")
	for _, v := range config.Variables {
		if !strings.Contains(got.stdout, v.Name) {
			t.Errorf("config --help: exit code %d, without %s\n%s%s", got.code, v.Name, got.stdout, got.stderr)
		}
	}
}

func TestSchedulesMayNameAZoneInTheImage(t *testing.T) {
	t.Parallel()
	c := newContainer(t)
	c.close(t)
	env := environment(people(t), "postgres://namebridge@postgres/namebridge")
	env["SWEEP_SCHEDULE"] = "CRON_TZ=America/St_Johns 30 2 * * *"
	if got := c.run(t, env, "config"); got.code != 0 {
		t.Errorf("exit code %d\n%s", got.code, got.stderr)
	}
	env["SWEEP_SCHEDULE"] = "CRON_TZ=Nowhere/Land 30 2 * * *"
	if got := c.run(t, env, "config"); got.code != 2 {
		t.Errorf("a zone that there is not: exit code %d\n%s", got.code, got.stderr)
	}
}

// The image's certificates decide whom the program talks to, and an authority of one's own can be mounted: in their place, or as one more.
func TestTheImagesCertificatesAreThoseThatCount(t *testing.T) {
	t.Parallel()
	s := people(t)
	env := environment(s, testdb.URL(t, nil))
	var authority []byte
	for _, name := range []string{"NAMECOACH_URL", "BLN_URL"} {
		to, err := url.Parse(env[name])
		if err != nil {
			t.Fatal(err)
		}
		secure := httptest.NewUnstartedServer(httputil.NewSingleHostReverseProxy(&url.URL{Scheme: to.Scheme, Host: to.Host}))
		secure.Config.ErrorLog = log.New(io.Discard, "", 0) // of clients that hang up
		secure.StartTLS()
		t.Cleanup(secure.Close)
		env[name] = secure.URL + to.Path
		authority = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}) // every test server has the same
	}
	public := newContainer(t)
	public.close(t)
	if got := public.run(t, env, "doctor"); got.code == 0 || strings.Count(got.stdout, "signed by an authority that this machine does not know") < 2 {
		t.Errorf("servers whose authority is none of the public ones are believed: exit code %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	for how, name := range map[string]string{"in their place": authorities, "beside them": "/etc/ssl/certs/own.pem"} {
		own := newContainer(t)
		own.mount(t, name, authority)
		own.close(t)
		if got := own.run(t, env, "migrate", "up"); got.code != 0 {
			t.Fatalf("exit code %d\n%s%s", got.code, got.stdout, got.stderr)
		}
		if got := own.run(t, env, "doctor"); got.code != 0 || strings.Contains(got.stdout, "authority") {
			t.Errorf("the authority that is mounted %s is not believed: exit code %d\n%s%s", how, got.code, got.stdout, got.stderr)
		}
	}
}

// As compose.yaml and .env.example have it: the same user, files, variables, secrets and commands; the ports alone are free ones here.
func TestTheImageServesAsTheComposeFileHasItAndWritesNoFile(t *testing.T) {
	t.Parallel()
	s, database := people(t), testdb.URL(t, nil)
	service := project(t, map[string]string{
		"NAMECOACH_URL": s.NameCoachURL(), "BLN_URL": s.BLNURL(), "BLN_ORGANIZATION_ID": fmt.Sprint(s.OrganizationID()), "BLN_USERNAME": s.Username(),
		"NAMECOACH_REQUESTS_PER_15_MINUTES": "1000000", "BLN_REQUESTS_PER_SECOND": "5000",
	}).Services["namebridge"]
	c := newContainer(t)
	for name, content := range map[string]string{"database_url": database, "namecoach_token": s.Token(), "bln_password": s.Password()} {
		c.mount(t, "/run/secrets/"+name, []byte(content))
	}
	c.close(t)
	before := contents(t, c.root)
	env := map[string]string{}
	for name, value := range service.Environment {
		if value != nil {
			env[name] = *value
		}
	}
	env["LISTEN_ADDR"] = "127.0.0.1:0"
	healthcheck := service.HealthCheck.Test
	if healthcheck[0] != "CMD" || healthcheck[1] != program {
		t.Fatalf("the healthcheck is %v, and %s is all that can be run", healthcheck, program)
	}

	daemon := promtest.Follow(t, c.command(t, env, service.Command...))
	promtest.Eventually(t, within, "it is ready", func() error {
		_, err := promtest.Get(t.Context(), "http://"+daemon.Address+"/readyz")
		return err
	})
	promtest.Eventually(t, within, "everybody's badge is right", func() error {
		if left := s.Truth().Totals.Written; left != 0 {
			return fmt.Errorf("%d people are still to be written", left)
		}
		return nil
	})
	if got := c.run(t, env, healthcheck[2:]...); got.code != 0 {
		t.Errorf("the healthcheck fails beside a daemon that is well: exit code %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	c2 := newContainer(t)
	c2.mount(t, "/run/secrets/database_url", []byte("postgres://namebridge:x@127.0.0.1:1/namebridge?sslmode=disable"))
	if got := c2.run(t, env, healthcheck[2:]...); got.code == 0 {
		t.Errorf("the healthcheck is content without a database\n%s%s", got.stdout, got.stderr)
	}
	asked := time.Now()
	if code := daemon.Stop(); code != 0 {
		t.Errorf("it ended with exit code %d", code)
	}
	if took := time.Since(asked); took > time.Duration(*service.StopGracePeriod) {
		t.Errorf("it has not stopped after %v, when Docker would kill it: it took %v", *service.StopGracePeriod, took)
	}
	if diff := cmp.Diff(before, contents(t, c.root)); diff != "" {
		t.Errorf("it has written (-before +after)\n%s", diff)
	}
	if told := daemon.Log(); strings.Contains(told, "read-only") || strings.Contains(told, "permission denied") {
		t.Errorf("it has tried to write\n%s", told)
	}
}
