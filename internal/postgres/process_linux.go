package postgres

import (
	"os"
	"strconv"
	"syscall"
)

// endWithParent has the kernel send SIGINT, Postgres's fast shutdown, when we are gone.
func endWithParent(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGINT }

// runsIn reports whether pid is a Postgres in the data folder: it works there. A process that we may not look at is not of our user.
func runsIn(pid int, data string) bool {
	works, err := os.Stat("/proc/" + strconv.Itoa(pid) + "/cwd")
	if err != nil {
		return false
	}
	here, err := os.Stat(data)
	return err == nil && os.SameFile(works, here)
}
