package main

import "syscall"

// endWithParent has the kernel send SIGTERM when we are gone, however that came.
func endWithParent(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGTERM }
