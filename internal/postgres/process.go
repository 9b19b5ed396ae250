package postgres

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// process is a child of ours; done is closed when it has ended, and then err is its result.
type process struct {
	cmd    *exec.Cmd
	stderr *tail
	done   chan struct{}
	err    error
}

// launch starts a program of Postgres, which ends with us. Of our environment it sees what it needs to run, and none of our secrets.
func (h home) launch(stderr io.Writer, name string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(name, args...), stderr: &tail{next: stderr}, done: make(chan struct{})}
	p.cmd.Dir = h.dir
	p.cmd.Stderr = p.stderr
	p.cmd.WaitDelay = hardWait // a backend that is slow to notice holds standard error open
	p.cmd.Env = []string{"LC_ALL=C", "TZ=UTC", "HOME=" + h.dir}
	for _, key := range []string{"PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"} {
		if v, ok := os.LookupEnv(key); ok {
			p.cmd.Env = append(p.cmd.Env, key+"="+v)
		}
	}
	// A process group of its own: Ctrl-C on our terminal is for us, and Postgres goes last.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: h.owner}
	endWithParent(p.cmd.SysProcAttr)

	started := make(chan error)
	go func() {
		// What the kernel calls the parent is the thread, so it must live as long as the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return p, nil
}

// shutdown asks for a fast shutdown, after fast for an immediate one, in the end it kills; p.err then is what came of it.
func (p *process) shutdown(fast time.Duration) error {
	for _, step := range []struct {
		signal syscall.Signal
		wait   time.Duration
	}{{syscall.SIGINT, fast}, {syscall.SIGQUIT, hardWait}, {syscall.SIGKILL, 2 * hardWait}} {
		if err := p.cmd.Process.Signal(step.signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("stop %s: %w", p.cmd.Path, err)
		}
		select {
		case <-p.done:
			return nil
		case <-time.After(step.wait):
		}
	}
	return fmt.Errorf("stop %s: process %d does not end", p.cmd.Path, p.cmd.Process.Pid)
}

func (p *process) said(text string) bool { return strings.Contains(p.stderr.String(), text) }

// last is the last thing the process complained about, in one line.
func (p *process) last() string {
	lines := strings.Split(strings.TrimSpace(p.stderr.String()), "\n")
	for _, line := range slices.Backward(lines) {
		for _, mark := range []string{"FATAL:", "PANIC:", "ERROR:", "error:"} {
			if _, text, ok := strings.Cut(line, mark); ok {
				return strings.TrimSpace(text)
			}
		}
	}
	return lines[len(lines)-1]
}
