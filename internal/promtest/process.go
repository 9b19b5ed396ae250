package promtest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// T is as much of testing.TB as is needed: without testing, what is not a test may share the types of this package.
type T interface {
	Helper()
	Context() context.Context
	Cleanup(func())
	TempDir() string
	Failed() bool
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// Eventually waits until ok has nothing to say against it.
func Eventually(t T, within time.Duration, what string, ok func() error) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(within); ; {
		err := ok()
		switch {
		case err == nil:
			return
		case time.Now().After(deadline):
			t.Fatalf("after %v not: %s: %v", within, what, err)
		}
		<-tick.C
	}
}

// Build builds the real program once for a test: what is watched must be what is deployed.
func Build(t T) (program string) {
	t.Helper()
	program = filepath.Join(t.TempDir(), "namebridge")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "namebridge/cmd/namebridge") //nolint:gosec // our own program
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build namebridge: %v\n%s", err, out)
	}
	return program
}

// Daemon is a `namebridge serve`.
type Daemon struct {
	*process
	Address string // of its HTTP server, host:port
}

// Serve runs a daemon until Stop, Kill, or the test ends. Only env is its environment; LISTEN_ADDR and LOG_FORMAT are set.
func Serve(t T, program string, env map[string]string) *Daemon {
	t.Helper()
	env = maps.Clone(env)
	env["LISTEN_ADDR"], env["LOG_FORMAT"] = "127.0.0.1:0", "json"
	d := &Daemon{process: begin(t, env, program, "serve")}
	d.Address = d.says(t, "starting", "http")
	return d
}

// Run runs a command of the program to its end, and gives its exit code and what it printed.
func Run(t T, program string, env map[string]string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	c := exec.CommandContext(t.Context(), program, args...) //nolint:gosec // a program of the test
	c.Env = list(env)
	var out, log strings.Builder
	c.Stdout, c.Stderr = &out, &log
	if err := c.Run(); err != nil && c.ProcessState == nil {
		t.Fatalf("%s: %v", program, err)
	}
	return c.ProcessState.ExitCode(), out.String(), log.String()
}

func list(env map[string]string) []string {
	all := []string{}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		all = append(all, name+"="+env[name])
	}
	return all
}

// process is a program that runs beside the test.
type process struct {
	command *exec.Cmd
	ended   chan struct{}
	mu      sync.Mutex
	log     bytes.Buffer
}

// begin starts a program that ends with the test; a nil env is the test's own.
func begin(t T, env map[string]string, program string, args ...string) *process {
	t.Helper()
	p := &process{command: exec.Command(program, args...), ended: make(chan struct{})} //nolint:gosec,noctx // a program of the test, which is asked to end, and killed only where it does not
	if env != nil {
		p.command.Env = list(env)
	}
	p.command.Stderr = p
	if err := p.command.Start(); err != nil {
		t.Fatalf("start %s: %v", program, err)
	}
	go func() {
		defer close(p.ended)
		_ = p.command.Wait() // how it ended is told by what it logged
	}()
	t.Cleanup(func() {
		p.Stop()
		if t.Failed() {
			t.Logf("%s said:\n%s", filepath.Base(program), p.Log())
		}
	})
	return p
}

// Write takes the log.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(b)
}

// Log is what was logged so far.
func (p *process) Log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// says waits for a message of the log and gives one of its fields.
func (p *process) says(t T, message, field string) (value string) {
	t.Helper()
	Eventually(t, startWithin, fmt.Sprintf("%q is logged", message), func() error {
		for line := range strings.Lines(p.Log()) {
			var entry map[string]any
			if json.Unmarshal([]byte(line), &entry) == nil && entry["msg"] == message {
				value = fmt.Sprint(entry[field])
				return nil
			}
		}
		select {
		case <-p.ended:
			t.Fatalf("%s has ended:\n%s", p.command.Path, p.Log())
		default:
		}
		return fmt.Errorf("it said %q", p.Log())
	})
	return value
}

// stopWithin is longer than a daemon takes to finish what it has sent.
const stopWithin = 40 * time.Second

// Stop asks the process to end, as Kubernetes does, and waits until it has.
func (p *process) Stop() { p.end(syscall.SIGTERM) }

// Kill ends the process at once.
func (p *process) Kill() { p.end(os.Kill) }

func (p *process) end(signal os.Signal) {
	_ = p.command.Process.Signal(signal) // it may have ended
	select {
	case <-p.ended:
	case <-time.After(stopWithin):
		_ = p.command.Process.Kill()
		<-p.ended
	}
}
