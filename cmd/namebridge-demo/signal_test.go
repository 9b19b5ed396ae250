package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	ossignal "os/signal"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"namebridge/internal/postgres/testdb"
)

// watched keeps what a program says and tells when it has said a text.
type watched struct {
	mu   sync.Mutex
	said bytes.Buffer
	text string
	seen chan struct{} // closed when it has
}

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	had := strings.Contains(w.said.String(), w.text)
	n, err := w.said.Write(p)
	if !had && strings.Contains(w.said.String(), w.text) {
		close(w.seen)
	}
	return n, err
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.said.String()
}

// signalled runs the real program until something has arrived, sends it a signal, and gives its namebridge, what it said and how it ended.
func signalled(t *testing.T, signal syscall.Signal) (binary, said string, ended error) {
	t.Helper()
	binary = instead(t, `exec "$real" serve`)
	c := exec.CommandContext(t.Context(), namebridge(t)+"-demo", "demo", "--users", "60", "--for", "1h", "--binary", binary)
	c.Env = append(os.Environ(), "DATABASE_URL="+testdb.URL(t, nil))
	// Under nohup the program ignores a hangup, as it should: caught here, it is not ignored by our children.
	caught := make(chan os.Signal, 1)
	ossignal.Notify(caught, syscall.SIGHUP)
	defer ossignal.Stop(caught)
	out := &watched{text: "→ in BLN", seen: make(chan struct{})}
	c.Stdout, c.Stderr = out, out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		ended = c.Wait()
	}()
	select {
	case <-out.seen:
	case <-done:
		t.Fatalf("it ended before anything arrived: %v\n%s", ended, out)
	}
	if err := c.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	<-done
	return binary, out.String(), ended
}

func TestASignalEndsTheDemoCleanly(t *testing.T) {
	t.Parallel()
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGHUP} {
		t.Run(fmt.Sprint(signal), func(t *testing.T) {
			t.Parallel()
			binary, said, err := signalled(t, signal)
			if err != nil || !strings.Contains(said, "nothing is left behind") {
				t.Errorf("%v\n%s", err, said)
			}
			gone(t, binary, said)
		})
	}
}

// Nobody is there then to stop the daemon, so it has to notice.
func TestTheDaemonDoesNotOutliveADemoThatIsKilled(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells a child that its parent is gone")
	}
	_, said, err := signalled(t, syscall.SIGKILL)
	if _, killed := errors.AsType[*exec.ExitError](err); !killed {
		t.Fatalf("%v\n%s", err, said)
	}
	at := answersAt.FindStringSubmatch(said)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		c, err := net.DialTimeout("tcp", at[1], 5*time.Second) //nolint:noctx // on loopback
		if err != nil {
			break
		}
		_ = c.Close()
		if time.Now().After(deadline) {
			t.Fatal("the daemon still answers")
		}
	}
	if err := os.RemoveAll(strings.TrimSuffix(environmentFile.FindStringSubmatch(said)[1], "/env")); err != nil {
		t.Error(err)
	}
}
