//go:build !linux

package postgres

import "syscall"

// endWithParent can ask for nothing here. A temporary server is ended by its watcher; one with a data folder is reported by the next start.
func endWithParent(*syscall.SysProcAttr) {}

// runsIn cannot tell here, and takes whoever is alive for a Postgres of the folder.
func runsIn(int, string) bool { return true }
