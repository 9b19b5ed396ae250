package promtest

import (
	"bytes"
	"cmp"
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

// T is as much of testing.TB as is needed: what is no test itself may use this package too, and then has no testing in it.
type T interface {
	Helper()
	Context() context.Context
	Cleanup(func())
	TempDir() string
	Failed() bool
	Logf(format string, args ...any)
	Fatal(args ...any)
}

// Eventually waits until ok has nothing to say against it.
func Eventually(t T, within time.Duration, what string, ok func() error) {
	t.Helper()
	if err := await(t.Context(), within, what, ok); err != nil {
		t.Fatal(err)
	}
}

func await(ctx context.Context, within time.Duration, what string, ok func() error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		over := ctx.Err() // before it looks: who stood still until it was over looks once more
		err := ok()
		if err == nil {
			return nil
		}
		if over != nil {
			return fmt.Errorf("within %v not: %s: %w (%w)", within, what, err, over)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// Build builds the real program once for a test: what is watched must be what is deployed.
func Build(t T) (program string) {
	t.Helper()
	return BuildIn(t, "")
}

// BuildIn builds the program of another checkout; "" is this one.
func BuildIn(t T, checkout string) (program string) {
	t.Helper()
	program = filepath.Join(t.TempDir(), "namebridge")
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", program, "namebridge/cmd/namebridge") //nolint:gosec // our own program
	build.Dir = checkout
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatal(fmt.Errorf("build namebridge in %q: %w\n%s", checkout, err, out))
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
	serve := exec.Command(program, "serve") //nolint:noctx // a program of the test, which is asked to end, and killed only where it does not
	serve.Env = list(env)
	return Follow(t, serve)
}

// Follow is Serve for a command line that is made elsewhere; it has to log JSON.
func Follow(t T, serve *exec.Cmd) *Daemon {
	t.Helper()
	p, err := begin(serve)
	if err != nil {
		t.Fatal(err)
	}
	p.endsWith(t)
	address, err := p.says(t.Context(), "starting", "http")
	if err != nil {
		t.Fatal(err)
	}
	return &Daemon{p, address}
}

// Run runs a command of the program to its end, and gives its exit code and what it printed.
func Run(t T, program string, env map[string]string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	c := exec.CommandContext(t.Context(), program, args...) //nolint:gosec // a program of the test
	c.Env = list(env)
	var out, log strings.Builder
	c.Stdout, c.Stderr = &out, &log
	if err := c.Run(); err != nil && c.ProcessState == nil {
		t.Fatal(fmt.Errorf("%s: %w", program, err))
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

// begin starts a program.
func begin(command *exec.Cmd) (*process, error) {
	p := &process{command: command, ended: make(chan struct{})}
	command.Stderr = p
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", command.Path, err)
	}
	go func() {
		defer close(p.ended)
		_ = command.Wait() // Stop gives the code; why, is told by what it logged
	}()
	return p, nil
}

// endsWith ends the process with the test; where that has failed, it shows what the process said.
func (p *process) endsWith(t T) {
	t.Helper()
	t.Cleanup(func() {
		p.Stop()
		if t.Failed() {
			t.Logf("%s said:\n%s", filepath.Base(p.command.Path), p.Log())
		}
	})
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
func (p *process) says(ctx context.Context, message, field string) (value string, err error) {
	var gone error
	err = await(ctx, startWithin, fmt.Sprintf("%s logs %q", p.command.Path, message), func() error {
		for line := range strings.Lines(p.Log()) {
			var entry map[string]any
			if json.Unmarshal([]byte(line), &entry) == nil && entry["msg"] == message {
				value = fmt.Sprint(entry[field])
				return nil
			}
		}
		select {
		case <-p.ended:
			gone = fmt.Errorf("%s has ended:\n%s", p.command.Path, p.Log())
			return nil
		default:
			return fmt.Errorf("it said %q", p.Log())
		}
	})
	return value, cmp.Or(gone, err)
}

// stopWithin is longer than a daemon takes to finish what it has sent.
const stopWithin = 40 * time.Second

// Stop asks the process to end, as Kubernetes does, and waits until it has. Its exit code is -1 where it had to be killed.
func (p *process) Stop() (code int) { return p.end(syscall.SIGTERM) }

// Kill ends the process at once.
func (p *process) Kill() { p.end(os.Kill) }

func (p *process) end(signal os.Signal) (code int) {
	_ = p.command.Process.Signal(signal) // it may have ended
	select {
	case <-p.ended:
	case <-time.After(stopWithin):
		_ = p.command.Process.Kill()
		<-p.ended
	}
	return p.command.ProcessState.ExitCode()
}
