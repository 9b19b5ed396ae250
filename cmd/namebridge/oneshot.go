package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"namebridge/internal/config"
	"namebridge/state"
	bridgesync "namebridge/sync"
)

// outputFlag adds --output and checks it.
func outputFlag(c *cobra.Command) *string {
	output := c.Flags().StringP("output", "o", "table", "table or json")
	c.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if *output != "table" && *output != "json" {
			return usageError{fmt.Errorf("--output %q is neither table nor json\n\nHelp: %s --help", *output, cmd.CommandPath())}
		}
		return nil
	}
	return output
}

// oneShot is a command that does one run and prints what came of it.
func oneShot(a *app, c *cobra.Command, do func(context.Context, *bridgesync.Bridge) (bridgesync.Result, error)) *cobra.Command {
	output, bridge := outputFlag(c), bridgeFlag(c)
	c.Args = cobra.NoArgs
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		cfg, err := config.Load(a.lookuper, config.Database)
		if err != nil {
			return err
		}
		chosen, err := chooseBridge(cfg, *bridge)
		if err != nil {
			return err
		}
		kind := state.Kind(cmd.Name())
		res := bridgesync.Result{Kind: kind, Status: state.Failed}
		err = a.runBridge(ctx, cfg, chosen, do, &res)
		if *output == "json" {
			if err := json.NewEncoder(a.stdout).Encode(res); err != nil {
				return fmt.Errorf("write the result: %w", err)
			}
		} else if err == nil || errors.Is(err, bridgesync.ErrHalted) {
			printResult(a.stdout, res)
		}
		switch {
		case err != nil:
			return err
		case res.Status == state.Quarantined:
			return exit(exitLook)
		case res.Failed > 0:
			return exit(exitPartial)
		}
		return nil
	}
	return c
}

func (a *app) runBridge(ctx context.Context, cfg *config.Config, chosen config.Bridge,
	do func(context.Context, *bridgesync.Bridge) (bridgesync.Result, error), res *bridgesync.Result,
) error {
	db, stop, err := openDatabase(ctx, cfg)
	if err != nil {
		return err
	}
	defer stop()
	progress := newProgress(a.stderr, res.Kind)
	b, err := newBridge(chosen, db, a.logger(cfg))
	if err != nil {
		return err
	}
	b.Progress = progress.show
	*res, err = do(ctx, b)
	progress.done()
	return err
}

func newBackfill(a *app) *cobra.Command {
	var since string
	c := &cobra.Command{
		Use:   "backfill",
		Short: "Collect everything, then compare and write everyone in the directory",
		Long: `Collects what NameCoach has (all of it, or what changed since --since), lists the whole BLN directory, and writes every
person who should be written and is not right yet.

It can be stopped at any time, by Ctrl-C or by kill -9: the same command goes on where it was. Run right after itself it
writes nothing. See it first with: namebridge plan`,
		Example: "  namebridge backfill\n  namebridge backfill --since 2026-09-01\n  namebridge backfill --output json",
	}
	c.Flags().StringVar(&since, "since", "", "only what NameCoach changed since: 2026-09-01 or 2026-09-01T08:00:00Z")
	return oneShot(a, c, func(ctx context.Context, b *bridgesync.Bridge) (bridgesync.Result, error) {
		from, err := parseSince(since)
		if err != nil {
			return bridgesync.Result{Kind: state.Backfill, Status: state.Failed}, err
		}
		return b.Backfill(ctx, from)
	})
}

func parseSince(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02"} {
		if t, err := time.Parse(layout, s); err == nil {
			if t.After(time.Now()) {
				return t, usageError{fmt.Errorf("--since %s is in the future", s)}
			}
			return t, nil
		}
	}
	return time.Time{}, usageError{fmt.Errorf("--since %q is no time; write 2026-09-01 or 2026-09-01T08:00:00Z", s)}
}

func newPlan(a *app) *cobra.Command {
	return oneShot(a, &cobra.Command{
		Use:   "plan",
		Short: "Show what a backfill would write, hold and clear, without writing to BLN",
		Long: `Collects and lists as a backfill does, and reads everyone that a backfill would write, since only a person's own record
tells whether it can be written. Nothing is written to BLN. The plan is kept as a run.`,
	}, func(ctx context.Context, b *bridgesync.Bridge) (bridgesync.Result, error) { return b.Plan(ctx) })
}

func newCollect(a *app) *cobra.Command {
	return oneShot(a, &cobra.Command{
		Use:   "collect",
		Short: "Bring in what NameCoach changed since last time, and write the people it concerns",
		Long: `Reads NameCoach from the cursor (less the lookback) up to now, and writes the people whose badge or recording changed.
Before the first complete listing of the directory (backfill or sweep) nobody is linked or written.`,
	}, func(ctx context.Context, b *bridgesync.Bridge) (bridgesync.Result, error) { return b.Collect(ctx) })
}

func newSweep(a *app) *cobra.Command {
	return oneShot(a, &cobra.Command{
		Use:   "sweep",
		Short: "List the whole BLN directory, and write whoever differs from what should be there",
		Long: `Lists every user of the organization, links the people that NameCoach is known to have, and repairs what somebody
changed or removed under our key.`,
	}, func(ctx context.Context, b *bridgesync.Bridge) (bridgesync.Result, error) { return b.Sweep(ctx) })
}

// printResult says in words what a run came to.
func printResult(w io.Writer, r bridgesync.Result) {
	would := ""
	if r.Kind == state.Plan {
		would = "would be "
		fmt.Fprintln(w, "What a backfill would do")
	} else {
		fmt.Fprintf(w, "%s %s in %s\n", capital(string(r.Kind)), r.Status, seconds(r.Seconds))
	}
	line := func(name string, n int, rest string) { fmt.Fprintf(w, "  %-10s %8s   %s\n", name, thousands(n), rest) }
	line("written", r.Written, would+"given a badge, or a newer one")
	if r.Cleared > 0 {
		line("cleared", r.Cleared, would+"cleared of a badge that is not theirs any more")
	}
	line("unchanged", r.Unchanged, "have the right badge already")
	line("held", r.Held.Sum(), heldWords(r.Held))
	if r.Failed > 0 {
		line("failed", r.Failed, "could not be written; they will be tried again")
	}
	fmt.Fprintf(w, "%s participants on NameCoach · %s users in BLN, %s of them linked · %s requests to NameCoach, %s to BLN\n",
		thousands(r.Participants), thousands(r.Users), thousands(r.Linked), thousands(int(r.Requests.NameCoach)), thousands(int(r.Requests.BLN)))
	if r.Status == state.Quarantined {
		fmt.Fprintln(w, "QUARANTINED: more people would be cleared than the guard lets through. Nobody was; see namebridge status.")
	}
}
