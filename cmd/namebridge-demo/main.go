// Command namebridge-demo holds what production must not: both APIs on loopback, with people and faults.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as under nohup
		signals = append(signals, syscall.SIGHUP) // the terminal is closed
	}
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	// Ctrl-C ends whoever reads our output as well: there is still something to put away then.
	context.AfterFunc(ctx, func() { signal.Ignore(syscall.SIGPIPE) })
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the program: 0 done, 1 failed, 2 wrong usage.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	usage := true // until a command has begun its work, an error is one of usage
	root := &cobra.Command{
		Use:           "namebridge-demo",
		Short:         "Try namebridge without an account: both APIs, simulated, with people",
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRun: func(*cobra.Command, []string) {
			usage = false
		},
	}
	root.AddCommand(demoCommand(), simulateCommand())
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(stderr, "namebridge-demo: %v\n", err)
		var wrong usageError
		if usage || errors.As(err, &wrong) {
			return 2
		}
		return 1
	}
	return 0
}

// usageError is a wrong flag that only the command itself can notice.
type usageError struct{ error }
