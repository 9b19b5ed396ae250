package postgres

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// In a container the ids start anew: the id in a stale postmaster.pid is soon another process.
func TestAStaleLockThatNamesAnotherProcessIsNoObstacle(t *testing.T) {
	t.Parallel()
	dir := reachable(t)
	if err := start(t, Options{Dir: dir}).Stop(); err != nil {
		t.Fatal(err)
	}
	owner, err := ownerOf(dir)
	if err != nil {
		t.Fatal(err)
	}
	bystander := exec.CommandContext(t.Context(), "sleep", "600")
	bystander.SysProcAttr = &syscall.SysProcAttr{Credential: owner}
	bystander.Dir = "/"
	if err := bystander.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = bystander.Wait() }) // killed by the end of the test's context
	stale := home{dir: dir}.pidFile()
	lines := fmt.Sprintf("%d\n%s\n1700000000\n5432\n\n127.0.0.1\n\nready\n", bystander.Process.Pid, filepath.Dir(stale))
	if err := os.WriteFile(stale, []byte(lines), 0o644); err != nil {
		t.Fatal(err)
	}
	start(t, Options{Dir: dir})
}

func TestAStrangerInThePidFileIsNotAPostgresOfThisFolder(t *testing.T) {
	t.Parallel()
	if runsIn(os.Getpid(), t.TempDir()) {
		t.Error("this process works elsewhere")
	}
}
