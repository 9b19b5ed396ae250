//go:build cluster

package cluster

import "syscall"

// endWithParent has the kernel end the program when we are gone.
func endWithParent(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }
