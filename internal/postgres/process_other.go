//go:build !linux

package postgres

import (
	"errors"
	"syscall"
)

// endWithParent can ask for nothing here. A temporary server is ended by its watcher; one with a data folder is reported by the next start.
func endWithParent(*syscall.SysProcAttr) {}

// runsIn reports whether pid is alive: no more can be known here without tools.
func runsIn(pid int, _ string) bool {
	return !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}
