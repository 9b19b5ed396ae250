//go:build cluster

package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a program that runs beside the tests, and never longer.
type process struct {
	command *exec.Cmd
	ended   chan struct{}
	mu      sync.Mutex
	said    bytes.Buffer
}

// launch starts a program with that environment and nothing of our own; who is whom it runs as, nil for ourselves.
func launch(who *syscall.Credential, dir string, env []string, program string, args ...string) (*process, error) {
	p := &process{command: exec.Command(program, args...), ended: make(chan struct{})} //nolint:noctx // it is asked to end, in its own order
	p.command.Dir, p.command.Env = dir, env
	p.command.Stdout, p.command.Stderr = p, p
	p.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: who}
	endWithParent(p.command.SysProcAttr)
	started := make(chan error)
	go func() {
		// What the kernel calls the parent is the thread, so it must live as long as the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.command.Start()
		started <- err
		if err == nil {
			_ = p.command.Wait() // how it ended is asked of its state
			close(p.ended)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	return p, nil
}

// Write takes what the program says.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.said.Write(b)
}

func (p *process) log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.said.String()
}

// stop asks the program to end; it reports false where that had to be enforced.
func (p *process) stop(grace time.Duration) bool {
	_ = p.command.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.ended:
		return true
	case <-time.After(grace):
		_ = p.command.Process.Kill()
		<-p.ended
		return false
	}
}

func (p *process) alive() error {
	select {
	case <-p.ended:
		lines := strings.Split(strings.TrimSpace(p.log()), "\n")
		return fmt.Errorf("%s has ended: %s\n%s", filepath.Base(p.command.Path), p.command.ProcessState, strings.Join(lines[max(0, len(lines)-20):], "\n"))
	default:
		return nil
	}
}

// folder makes a temporary folder, in memory where there is room; the function removes it, as does the end of this process, however it comes.
func folder() (string, func() error, error) {
	parent := "/dev/shm"
	var disk syscall.Statfs_t
	const noexec = 8 // a container may have it so, and the pods' program is there
	if err := syscall.Statfs(parent, &disk); err != nil || disk.Bavail*uint64(disk.Bsize) < 1<<30 || disk.Flags&noexec != 0 {
		parent = os.TempDir()
	}
	dir, err := os.MkdirTemp(parent, "namebridge-cluster-")
	if err != nil {
		return "", nil, err
	}
	// Standard input ends when the last holder of the pipe's other end does: we.
	watcher := exec.Command("/bin/sh", "-c", `read -r _; rm -rf "$1" || { sleep 1; rm -rf "$1"; }`, "sh", dir) //nolint:noctx // it outlives us
	watcher.Dir = "/"
	watcher.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := watcher.StdinPipe()
	if err == nil {
		err = watcher.Start()
	}
	if err == nil {
		err = os.Chmod(dir, 0o711) // a pod's user reaches its files in it //nolint:gosec // for that
	}
	return dir, func() error { return errors.Join(stdin.Close(), watcher.Wait()) }, err
}
