// Command namebridge carries people's name badges and recordings from NameCoach into BLN.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	_ "time/tzdata" // schedules may name a zone, and containers may have none

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"namebridge/internal/config"
)

// version and commit are set by the linker.
var (
	version = "development"
	commit  = "unknown"
)

// The exit codes, as the contract has them.
const (
	exitDone    = 0
	exitFailed  = 1
	exitUsage   = 2
	exitLook    = 3 // halted or quarantined: a person must look
	exitPartial = 4 // done, but some people failed and will be retried
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() {
		<-ctx.Done()
		stop() // a second Ctrl-C ends the process at once: what it was doing is picked up by the next
	}()
	code := run(ctx, os.Args[1:], config.Environ(os.Environ()), os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// app is what a command needs of the world around it.
type app struct {
	lookuper       config.Environment
	stdout, stderr io.Writer
}

// exit ends a command with a code other than those that errors stand for. Its text, if any, is already printed.
type exit int

func (e exit) Error() string { return fmt.Sprintf("exit %d", int(e)) }

// usageError is a command line that cannot be understood.
type usageError struct{ error }

// run carries out one command line and gives its exit code.
func run(ctx context.Context, args []string, lookuper config.Environment, stdout, stderr io.Writer) int {
	root := newRoot(&app{lookuper: lookuper, stdout: stdout, stderr: stderr})
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	var (
		code     exit
		problems *config.Problems
		usage    usageError
	)
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &problems), errors.As(err, &usage):
		fmt.Fprintf(stderr, "namebridge: %v\n", err)
		return exitUsage
	}
	fmt.Fprintf(stderr, "namebridge: %s\n", explain(err, func(text string) string { return alarm(stderr, lookuper, text) }))
	return exitCode(err)
}

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "namebridge",
		Short: "People's name badges and recordings, from NameCoach into BLN",
		Long: `namebridge carries the name badge and the recording that people keep on NameCoach into their records in BLN
(Bluedrop Learning Networks), and can prove what it did.

It is configured by environment variables: namebridge config --help lists them all. With DATABASE_URL=embedded the data is kept in
$XDG_DATA_HOME/namebridge; without XDG_DATA_HOME in ~/.local/share/namebridge, as root in /var/lib/namebridge.

Exit codes: 0 done · 1 failed · 2 wrong usage or configuration · 3 halted or quarantined, a person must look ·
4 done, but some people failed and will be retried.`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		Args:              knownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if bad, ok := errors.AsType[*pflag.InvalidValueError](err); ok && strings.HasPrefix(bad.GetFlag().Value.Type(), "int") {
			err = fmt.Errorf("--%s %q is no whole number", bad.GetFlag().Name, bad.GetValue())
		}
		return usageError{fmt.Errorf("%w\n\nHelp: %s --help", err, cmd.CommandPath())}
	})
	root.AddCommand(newServe(a), newBackfill(a), newPlan(a), newCollect(a), newSweep(a), newCensus(a), newStatus(a), newHolds(a), newRuns(a), newDoctor(a), newResume(a), newMigrate(a), newConfig(a), newVersion(a))
	wrapArgs(root)
	return root
}

// knownCommand refuses a word that is no command, with those it may have been meant for.
func knownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fmt.Errorf("there is no command %q", args[0])
	if cmd.SuggestionsMinimumDistance == 0 {
		cmd.SuggestionsMinimumDistance = 2
	}
	if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
		err = fmt.Errorf("%w; did you mean %s?", err, strings.Join(like, " or "))
	}
	return err
}

// wrongArgs says which arguments a command takes.
func wrongArgs(cmd *cobra.Command, args []string) error {
	name, wanted, some := strings.Cut(cmd.Use, " ")
	if !some {
		return fmt.Errorf("%s takes no arguments, but got %q", name, args[0])
	}
	line := cmd.CommandPath() + " " + wanted
	if cmd.Flags().Lookup("reason") != nil {
		line += ` --reason "…"`
	}
	return fmt.Errorf("give %s, and nothing else: %s", strings.Join(strings.Fields(wanted), " and "), line)
}

// wrapArgs makes complaints about arguments usage errors.
func wrapArgs(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				if !cmd.HasSubCommands() {
					err = wrongArgs(cmd, args)
				}
				return usageError{fmt.Errorf("%w\n\nHelp: %s --help", err, cmd.CommandPath())}
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		wrapArgs(sub)
	}
}
