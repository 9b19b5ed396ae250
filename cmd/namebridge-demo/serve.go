package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"
)

const (
	serveStart = time.Minute // how long serve may take until it is ready
	serveStop  = 40 * time.Second
	lastLines  = 12
)

// serving is `namebridge serve`, running beside this program.
type serving struct {
	command *exec.Cmd
	log     string        // the file that it logs to
	http    string        // where it answers: http://127.0.0.1:…
	ended   chan struct{} // closed when it has ended, with err
	err     error
}

// serve starts the daemon and waits until it is ready; its log is a file in dir. The error says what it logged last.
func (d *demo) serve(ctx context.Context, dir string) (*serving, error) {
	s := &serving{command: exec.Command(d.binary, "serve"), log: filepath.Join(dir, "serve.log"), ended: make(chan struct{})} //nolint:gosec,noctx // as in namebridge; stop ends it in an orderly way
	log, err := os.OpenFile(s.log, os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("the log of namebridge serve: %w", err)
	}
	defer func() { _ = log.Close() }() // the child has its own
	s.command.Env = d.environment(os.Environ())
	s.command.Stderr = log
	// A process group of its own: Ctrl-C is for us, and a second one would end it in the middle of its work.
	s.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	endWithParent(s.command.SysProcAttr)
	started := make(chan error)
	go func() {
		// What the kernel calls the parent is the thread, so it must live as long as the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := s.command.Start()
		started <- err
		if err == nil {
			s.err = s.command.Wait()
			close(s.ended)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("namebridge serve: %w", err)
	}
	if err := s.awaitReady(ctx); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

var whereServing = regexp.MustCompile(`msg=starting .*\bhttp=(\S+)`)

func (s *serving) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, serveStart)
	defer cancel()
	for tick := time.NewTicker(lookEvery); ; {
		select {
		case <-tick.C:
		case <-s.ended:
			return s.died()
		case <-ctx.Done():
			return fmt.Errorf("namebridge serve is not ready: %w\n%s", ctx.Err(), s.last())
		}
		if s.http == "" {
			log, err := os.ReadFile(s.log)
			if err != nil {
				return fmt.Errorf("the log of namebridge serve: %w", err)
			}
			at := whereServing.FindSubmatch(log)
			if at == nil {
				continue
			}
			s.http = "http://" + string(at[1])
		}
		ask, err := http.NewRequestWithContext(ctx, http.MethodGet, s.http+"/readyz", nil)
		if err != nil {
			return fmt.Errorf("namebridge serve: where it answers: %w", err)
		}
		if answer, err := http.DefaultClient.Do(ask); err == nil {
			_ = answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return nil
			}
		}
	}
}

// stop ends it as Kubernetes would: it finishes what is on its way. Stopping again does nothing.
func (s *serving) stop() error {
	select {
	case <-s.ended:
		return nil
	default:
	}
	if err := s.command.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop namebridge serve: %w", err)
	}
	select {
	case <-s.ended:
	case <-time.After(serveStop):
		_ = s.command.Process.Kill() // it may just have ended
		<-s.ended
		return fmt.Errorf("namebridge serve did not end within %v of SIGTERM, and was killed. It logged last:\n%s", serveStop, s.last())
	}
	if s.err != nil {
		return fmt.Errorf("namebridge serve did not end well: %w. It logged last:\n%s", s.err, s.last())
	}
	return nil
}

// died is the error of an end that nobody asked for.
func (s *serving) died() error {
	how := "exit status 0"
	if s.err != nil {
		how = s.err.Error()
	}
	return fmt.Errorf("namebridge serve ended by itself: %s. It logged last:\n%s", how, s.last())
}

// last are the last lines of its log.
func (s *serving) last() string {
	log, err := os.ReadFile(s.log)
	if err != nil {
		return "  (" + err.Error() + ")"
	}
	lines := strings.Split(string(bytes.TrimSpace(log)), "\n")
	return "  " + strings.Join(lines[max(len(lines)-lastLines, 0):], "\n  ")
}
