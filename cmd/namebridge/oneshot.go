package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

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

// oneShot is a command that does one run and prints what came of it. prepare may be nil; it checks flags of the command's own before
// anything is touched.
func oneShot(a *app, c *cobra.Command, prepare func() error, do func(context.Context, *bridgesync.Bridge) (bridgesync.Result, error)) *cobra.Command {
	c.Long += `

With --output json the result is one object on stdout, also when the run fails (then "run" is the nil UUID where it did not get as far
as to begin); only wrong usage or configuration prints none. Progress and logs go to stderr.`
	output, bridge := outputFlag(c), bridgeFlag(c)
	c.Args = cobra.NoArgs
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		if prepare != nil {
			if err := prepare(); err != nil {
				return usageError{fmt.Errorf("%w\n\nHelp: %s --help", err, cmd.CommandPath())}
			}
		}
		cfg, err := a.load()
		if err != nil {
			return err
		}
		chosen, err := chooseBridge(cfg, *bridge)
		if err != nil {
			return err
		}
		res := bridgesync.Result{Kind: state.Kind(cmd.Name()), Status: state.Failed}
		var since time.Time // when the bridge was halted; zero: it is not
		db, stop, err := a.openDatabase(ctx, cfg)
		if err == nil {
			defer stop()
			since, err = haltedSince(ctx, db, chosen)
		}
		if err == nil {
			err = a.drive(ctx, cfg, chosen, db, errand{cmd.Name(), firstPhase(res.Kind), !since.IsZero() && res.Kind != state.Plan, do}, &res)
		}
		if halted := new(bridgesync.HaltedError); errors.As(err, &halted) && halted.Since.Equal(since) {
			err = &haltedBeforeError{err, res.Kind}
		}
		var usage usageError
		switch {
		case errors.As(err, &usage):
			return err
		case *output == "json":
			if err := json.NewEncoder(a.stdout).Encode(res); err != nil {
				return fmt.Errorf("write the result: %w", err)
			}
		case errors.As(err, new(*haltedBeforeError)): // that is all there is to tell
		case err == nil, errors.Is(err, bridgesync.ErrHalted):
			s := &stored{db: db, bridge: chosen.Name, flag: several(cfg, chosen)}
			show := a.printResult
			if res.Kind == state.Plan {
				show = func(ctx context.Context, s *stored, res bridgesync.Result) error {
					return a.printPlan(ctx, s, res, bridgesync.Guard{MaxClears: chosen.GuardMaxClears, MaxClearPercent: chosen.GuardMaxClearPercent})
				}
			}
			if err := show(context.WithoutCancel(ctx), s, res); err != nil {
				return err
			}
		}
		if err == nil {
			a.warnOfNobody(ctx, db, chosen)
		}
		if err != nil && ctx.Err() != nil {
			return &interruptedError{command: commandLine(cmd), result: res}
		}
		return cmp.Or(err, exitOf(res))
	}
	return c
}

// haltedBeforeError is the halt of a bridge that was halted before the command began.
type haltedBeforeError struct {
	error
	kind state.Kind
}

func (e *haltedBeforeError) Unwrap() error { return e.error }

// haltedSince is when a bridge was halted; zero where it is not.
func haltedSince(ctx context.Context, db *pgxpool.Pool, b config.Bridge) (since time.Time, err error) {
	stored, err := state.GetBridge(ctx, db, b.Name)
	switch {
	case errors.Is(err, state.ErrNotFound):
		return since, nil // its first run
	case err != nil:
		return since, &databaseError{err}
	case stored.HaltedAt != nil:
		since = *stored.HaltedAt
	}
	return since, nil
}

// exitOf is the exit code of a run that came to its end.
func exitOf(res bridgesync.Result) error {
	switch {
	case res.Status == state.Quarantined:
		return exit(exitLook)
	case res.Failed > 0:
		return exit(exitPartial)
	}
	return nil
}

// commandLine is what was typed, without what only concerns the form of the output.
func commandLine(cmd *cobra.Command) string {
	line := cmd.CommandPath()
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if f.Name != "output" {
			line += " --" + f.Name + " " + f.Value.String()
		}
	})
	return line
}

// interruptedError is a run that was stopped from outside.
type interruptedError struct {
	command string
	result  bridgesync.Result
}

func (e *interruptedError) Error() string {
	so := "Nothing was written to BLN yet"
	if e.result.Written > 0 {
		so = count(e.result.Written, noun{"person is", "people are"}) + " written"
	}
	if e.result.Kind == state.Plan {
		so = "A plan writes nothing to BLN"
	}
	return "interrupted. " + so + ", and nothing is lost.\nGo on:   " + e.command
}

// errand is something to be done with a bridge while people watch.
type errand struct {
	title string           // what the lines about its progress begin with
	first bridgesync.Phase // shown before it has reported anything
	quiet bool             // unless it reports something, there is nothing to watch
	do    func(context.Context, *bridgesync.Bridge) (bridgesync.Result, error)
}

// firstPhase is what a run of a kind begins with.
func firstPhase(k state.Kind) bridgesync.Phase {
	switch k {
	case state.Sweep:
		return bridgesync.PhaseList
	case state.Census:
		return bridgesync.PhaseCensus
	}
	return bridgesync.PhaseCollect
}

// drive does an errand, and shows how far it is. res gets what came of it.
func (a *app) drive(ctx context.Context, cfg *config.Config, chosen config.Bridge, db *pgxpool.Pool, e errand, res *bridgesync.Result) (err error) {
	defer func() {
		if err != nil {
			err = &bridgeError{err, chosen, several(cfg, chosen)}
		}
	}()
	if err := oneWriter(ctx, db, cfg, chosen); err != nil {
		return err
	}
	progress := newProgress(a.stderr, e.title, e.first)
	b, err := newBridge(chosen, db, a.commandLogger(cfg, progress, progress.bars != nil), progress.count)
	if err != nil {
		return err
	}
	if err := expect(ctx, b, res.Kind, progress); err != nil {
		return &databaseError{err}
	}
	b.Progress = progress.show
	said := make(chan struct{})
	unless := context.AfterFunc(ctx, func() {
		defer close(said)
		fmt.Fprintln(progress, "stopping: what is on its way is finished first (Ctrl-C again: at once)")
	})
	defer func() {
		if !unless() {
			<-said // whoever comes after writes to the same place
		}
	}()
	if !e.quiet {
		progress.start()
	}
	*res, err = e.do(ctx, b)
	progress.end(err != nil)
	return err
}

// expect takes the totals of last time for phases that cannot tell theirs: neither API says beforehand how much it has.
func expect(ctx context.Context, b *bridgesync.Bridge, kind state.Kind, p *progress) error {
	totals, err := state.CountTotals(ctx, b.DB, b.Name)
	if err != nil {
		return err
	}
	p.expected[bridgesync.PhaseList], p.expected[bridgesync.PhaseCensus] = totals.Users, totals.Linked
	if kind == state.Plan || kind == state.Backfill {
		p.expected[bridgesync.PhaseCollect] = totals.Participants
		p.expected[bridgesync.PhaseDecide] = totals.Linked
	}
	return nil
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
		Example: "  namebridge plan                            what would happen\n  namebridge backfill\n  namebridge backfill --since 2026-09-01\n  namebridge backfill --output json",
	}
	c.Flags().StringVar(&since, "since", "", "only what NameCoach changed since: 2026-09-01 or 2026-09-01T08:00:00Z")
	var from time.Time
	return oneShot(a, c, func() (err error) {
		from, err = parseSince(since)
		return err
	}, func(ctx context.Context, b *bridgesync.Bridge) (bridgesync.Result, error) {
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
				return t, fmt.Errorf("--since %s is in the future", s)
			}
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("--since %q is no time; write 2026-09-01 or 2026-09-01T08:00:00Z", s)
}

func newPlan(a *app) *cobra.Command {
	return oneShot(a, &cobra.Command{
		Use:   "plan",
		Short: "Show what a backfill would write, hold and clear, without writing to BLN",
		Long: `Collects and lists as a backfill does, and reads everyone that a backfill would write, since only a person's own record
tells whether it can be written. Nothing is written to BLN. The plan is kept as a run.`,
	}, nil, func(ctx context.Context, b *bridgesync.Bridge) (bridgesync.Result, error) { return b.Plan(ctx) })
}

func newCollect(a *app) *cobra.Command {
	return oneShot(a, &cobra.Command{
		Use:   "collect",
		Short: "Bring in what NameCoach changed since last time, and write the people it concerns",
		Long: `Reads NameCoach from the cursor (less the lookback) up to now, and writes the people whose badge or recording changed.
Before the first complete listing of the directory (backfill or sweep) nobody is linked or written.`,
	}, nil, func(ctx context.Context, b *bridgesync.Bridge) (bridgesync.Result, error) { return b.Collect(ctx) })
}

func newSweep(a *app) *cobra.Command {
	return oneShot(a, &cobra.Command{
		Use:   "sweep",
		Short: "List the whole BLN directory, and write whoever differs from what should be there",
		Long: `Lists every user of the organization, links the people that NameCoach is known to have, and repairs what somebody
changed or removed under our key.`,
	}, nil, func(ctx context.Context, b *bridgesync.Bridge) (bridgesync.Result, error) { return b.Sweep(ctx) })
}

func newCensus(a *app) *cobra.Command {
	return oneShot(a, &cobra.Command{
		Use:   "census",
		Short: "Ask NameCoach about everyone who is linked, and clear those who are gone",
		Long: `Asks NameCoach about every person who is linked to a user, to notice who is no longer there, and writes what this brings to light and
whoever is pending, as each run does. A badge is cleared when enough complete censuses in a
row (CENSUS_CONFIRMATIONS) have missed its person; where that concerns many at once (GUARD_MAX_CLEARS), somebody has to approve it first.`,
	}, nil, func(ctx context.Context, b *bridgesync.Bridge) (bridgesync.Result, error) { return b.Census(ctx) })
}

// countLine is one number of a result, and what it counts.
func countLine(w io.Writer, name string, n int, rest string) {
	fmt.Fprintln(w, strings.TrimRight(fmt.Sprintf("  %-9s %9s   %s", name, thousands(n), rest), " "))
}

func heldLine(w io.Writer, name string, h bridgesync.Held) {
	countLine(w, name, h.Sum(), strings.Join(heldLines(h), "\n"+strings.Repeat(" ", 24)))
}

// printPlan says in words what a plan came to, and what a backfill would make of it.
func (a *app) printPlan(ctx context.Context, s *stored, r bridgesync.Result, guard bridgesync.Guard) error {
	b, err := state.GetBridge(ctx, s.db, s.bridge)
	if err != nil {
		return err
	}
	holding, err := state.HoldingRuns(ctx, s.db, s.bridge)
	if err != nil {
		return err
	}
	removals, err := state.CountPlannedRemovals(ctx, s.db, s.bridge, r.Run)
	if err != nil {
		return err
	}
	w := a.stdout
	fmt.Fprintln(w, "What a backfill would do")
	countLine(w, "write", r.Written, "would be given a badge, or a newer one")
	if r.Cleared > 0 {
		countLine(w, "clear", r.Cleared, "would be cleared of a badge that is no longer theirs")
	}
	countLine(w, "leave", r.Unchanged, "have the right badge already")
	heldLine(w, "hold", r.Held)
	countLine(w, "nothing", r.Users-r.Linked, "users whom no participant is linked to")
	fmt.Fprintf(w, "%s.\nNothing was written to BLN. It took %s.\n", sizes(r), length(r))
	if b.HaltedAt != nil {
		fmt.Fprintf(w, "\n%s since %s: nothing is written before somebody has looked.\nLook:    namebridge status\nGo on:   namebridge resume --reason \"…\"%s\n",
			alarm(w, a.lookuper, "HALTED"), stamp(*b.HaltedAt), s.flag)
		return nil
	}
	exactly := "it clears nobody"
	if removals.Judged+removals.Kept > 0 {
		exactly = "it clears all of them: the guard is not asked"
	}
	if guard.Stages(removals.Judged, r.Linked) {
		fmt.Fprintf(w, "\n%s more than the guard (GUARD_MAX_CLEARS) lets\nthrough at once: a backfill stages them until somebody approves that.\n",
			count(removals.Judged, noun{"person would lose what they have,", "people would lose what they have,"}))
	}
	if removals.Kept > 0 && len(holding) > 0 {
		fmt.Fprintf(w, "\n%s: a backfill leaves out who waits for an approval.\n", alarm(w, a.lookuper, "QUARANTINED"))
		printHolding(w, holding, s.flag)
	}
	if r.Written+r.Cleared > 0 {
		fmt.Fprintf(w, "\nDo it:   namebridge backfill%s\nExactly: namebridge runs approve %s --reason \"…\"%s\n", s.flag, r.Run.String()[:8], s.flag)
		if r.Cleared > 0 {
			fmt.Fprintf(w, "         %s\n", exactly)
		}
	}
	return nil
}

// length is how long a run took.
func length(r bridgesync.Result) string { return span(time.Duration(r.Seconds * float64(time.Second))) }

// printResult says in words what a run that writes came to.
func (a *app) printResult(ctx context.Context, s *stored, r bridgesync.Result) error {
	w, took := a.stdout, length(r)
	switch {
	case r.Status == state.Quarantined:
		fmt.Fprintf(w, "%s after %s: coverage %s.\n", alarm(w, a.lookuper, "QUARANTINED"), took, coverage(r.Written+r.Unchanged, r.Users))
	case r.Status == state.Halted:
		fmt.Fprintf(w, "%s after %s\n", alarm(w, a.lookuper, "HALTED"), took)
	case r.Written+r.Cleared+r.Failed == 0:
		fmt.Fprintf(w, "Done in %s, nothing to do: coverage %s.\n", took, coverage(r.Unchanged, r.Users))
	default:
		fmt.Fprintf(w, "Done in %s: coverage %s.\n", took, coverage(r.Written+r.Unchanged, r.Users))
	}
	countLine(w, "written", r.Written, "given a badge, or a newer one")
	if r.Cleared > 0 {
		countLine(w, "cleared", r.Cleared, "cleared of a badge that is no longer theirs")
	}
	countLine(w, "unchanged", r.Unchanged, "had the right badge already")
	heldLine(w, "held", r.Held)
	if r.Failed > 0 {
		countLine(w, "failed", r.Failed, "could not be written; the next run tries them again")
	}
	countLine(w, "nothing", r.Users-r.Linked, "users whom no participant is linked to")
	fmt.Fprintf(w, "%s.\n%s to NameCoach, %s to BLN.\n", sizes(r), count(int(r.Requests.NameCoach), noun{"request", "requests"}), thousands(int(r.Requests.BLN)))
	if r.Status == state.Quarantined {
		return a.printQuarantine(ctx, s)
	}
	return nil
}

// printQuarantine says what waits for a person, wherever it does: that may be an earlier run.
func (a *app) printQuarantine(ctx context.Context, s *stored) error {
	holding, err := state.HoldingRuns(ctx, s.db, s.bridge)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "\n%s: more people would lose what they have than the guard\n(GUARD_MAX_CLEARS) lets through, so nobody did.\n", alarm(a.stdout, a.lookuper, "QUARANTINED"))
	printHolding(a.stdout, holding, s.flag)
	return nil
}

func sizes(r bridgesync.Result) string {
	return count(r.Participants, noun{"participant", "participants"}) + " on NameCoach, " + count(r.Users, noun{"user", "users"}) + " in BLN"
}

// coverage is which share of the users have the right badge.
func coverage(synced, users int) string {
	if users == 0 {
		return "is not known before the first backfill or sweep"
	}
	return fmt.Sprintf("%s, %s of %s", percent(synced, users), thousands(synced), count(users, noun{"user", "users"}))
}

// percent never rounds to all or to nothing what is neither.
func percent(part, whole int) string {
	p := 100 * float64(part) / float64(whole)
	if part > 0 && part < whole {
		p = min(max(p, 0.1), 99.9)
	}
	return fmt.Sprintf("%.1f %%", p)
}
