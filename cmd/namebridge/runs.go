package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"namebridge/state"
	bridgesync "namebridge/sync"
)

// runKinds are what --kind may be.
var runKinds = []string{"backfill", "plan", "collect", "sweep", "census"}

func newRuns(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "runs",
		Short: "Look at runs and what they have written, and approve what waits for a person",
		Args:  knownCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(newRunsList(a), newRunsShow(a), newRunsApprove(a))
	return c
}

func newRunsList(a *app) *cobra.Command {
	var kind string
	c := &cobra.Command{
		Use:   "list",
		Short: "List runs, the newest first",
		Long: `Lists what was run, when, how it ended, and how many people were written, cleared, held, and could not be written. A run that was interrupted
and gone on with stands where it was gone on with: its time is that of the last try, its numbers are those of all. "overtaken" is a quarantined
run of which nothing waits any more. It needs DATABASE_URL only (and BRIDGES, where there are several).`,
		Example: "  namebridge runs list\n  namebridge runs list --kind sweep --limit 5\n  namebridge runs list --output json",
		Args:    cobra.NoArgs,
	}
	output, bridge, limit := outputFlag(c), bridgeFlag(c), limitFlag(c, 20, "runs")
	c.Flags().StringVar(&kind, "kind", "", "only runs of this kind: "+strings.Join(runKinds, ", "))
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		if kind != "" && !slices.Contains(runKinds, kind) {
			return usageError{fmt.Errorf("--kind %q is none of: %s\n\nHelp: %s --help", kind, strings.Join(runKinds, ", "), cmd.CommandPath())}
		}
		most, err := limit(*output)
		if err != nil {
			return err
		}
		s, err := a.openStored(ctx, *bridge)
		if err != nil {
			return err
		}
		defer s.stop()
		runs := state.Runs(ctx, s.db, s.bridge, state.Kind(kind), most)
		if *output == "json" {
			head := struct {
				Bridge string `json:"bridge"`
			}{s.bridge}
			return printJSON(a.stdout, head, "runs", runs, newRunStatus)
		}
		holding, err := state.HoldingRuns(ctx, s.db, s.bridge)
		if err != nil {
			return err
		}
		now := time.Now()
		columns := []column{
			{"id", 8, 0},
			{"kind", 8, 0},
			{"status", 11, 0},
			{"started", 19, 0},
			{"took", 9, 0},
			{"written", 7, 0},
			{"cleared", 7, 0},
			{"held", 6, 0},
			{"failed", 6, 0},
			{"error", 0, 60},
		}
		shown, err := printTable(a.stdout, columns, runs, func(r state.Run) []string {
			line := []string{shortID(r), string(r.Kind), standing(r, holding), stamp(begun(r)), took(r, now), "", "", "", "", firstLine(problem(r))}
			if c, ok := countsOf(r); ok {
				line[5], line[6], line[7], line[8] = thousands(c.Written), thousands(c.Cleared), thousands(c.Held.Sum()), thousands(c.Failed)
			}
			return line
		})
		switch {
		case err != nil:
			return err
		case shown == 0:
			_, err = fmt.Fprintln(a.stdout, "Nothing was run yet. See what would happen: namebridge plan"+s.flag)
		case shown == most:
			_, err = fmt.Fprintf(a.stdout, "the newest %d: --limit 0 for all. One of them: namebridge runs show ID%s\n", most, s.flag)
		default:
			_, err = fmt.Fprintf(a.stdout, "One of them: namebridge runs show ID%s\n", s.flag)
		}
		return err
	}
	return c
}

// newRunStatus is a run as JSON shows it.
func newRunStatus(r state.Run) runStatus {
	out := runStatus{Run: r.Run, Kind: r.Kind, Status: string(r.Status), StartedAt: r.StartedAt.UTC(), Counts: r.Counts, Error: r.Error, of: r}
	if r.EndedAt != nil {
		ended := r.EndedAt.UTC()
		out.EndedAt = &ended
	}
	if r.Status == state.Running && !r.Live {
		out.Status = "interrupted"
	}
	return out
}

// countsOf reads what a run has counted; false where it has not come to its end.
func countsOf(r state.Run) (bridgesync.Result, bool) {
	var c bridgesync.Result
	return c, len(r.Counts) > 0 && json.Unmarshal(r.Counts, &c) == nil
}

// begun is when a run was started, or last gone on with.
func begun(r state.Run) time.Time {
	if r.ResumedAt != nil {
		return *r.ResumedAt
	}
	return r.StartedAt
}

// standing is how a run stands, for people: of a quarantined one, whether anything waits still.
func standing(r state.Run, holding []state.Holding) string {
	if r.Status == state.Quarantined && len(waitingFor(r, holding)) == 0 {
		return "overtaken"
	}
	return newRunStatus(r).Status
}

// waitingFor are the runs that keep what a quarantined run is quarantined for: itself, or earlier ones.
func waitingFor(r state.Run, holding []state.Holding) []state.Holding {
	if i := slices.IndexFunc(holding, func(h state.Holding) bool { return h.Run == r.Run }); i >= 0 {
		return holding[i : i+1]
	}
	return slices.DeleteFunc(slices.Clone(holding), func(h state.Holding) bool { return h.StartedAt.After(begun(r)) })
}

// printHolding says which runs keep something for a person, and how to let it through.
func printHolding(w io.Writer, holding []state.Holding, flag string) {
	for _, h := range holding {
		id := h.Run.String()[:8]
		fmt.Fprintf(w, "%s waiting in %s %s.\nLook:    namebridge runs show %s%s\nApprove: namebridge runs approve %s --reason \"…\"%s\n",
			count(h.Users, noun{"user is", "users are"}), h.Kind, id, id, flag, id, flag)
	}
}

// problem is a run's error, without saying twice that it halted.
func problem(r state.Run) string {
	if r.Error == nil {
		return ""
	}
	return strings.TrimPrefix(*r.Error, "halted: ")
}

func shortID(r state.Run) string { return r.Run.String()[:8] }

func took(r state.Run, now time.Time) string {
	switch {
	case r.EndedAt != nil:
		return span(r.EndedAt.Sub(begun(r)))
	case r.Live:
		return span(now.Sub(begun(r))) + " so far"
	}
	return ""
}

func firstLine(text string) string {
	line, _, more := strings.Cut(text, "\n")
	if more {
		line += " …"
	}
	return line
}

// findRun is the run that RUN means: an id, or the beginning of exactly one.
func (s *stored) findRun(ctx context.Context, cmd *cobra.Command, prefix string) (state.Run, error) {
	if !state.RunPrefix(prefix) {
		return state.Run{}, usageError{fmt.Errorf("RUN is the id of a run, or how it begins: at least %d of its hex digits\n\nHelp: %s --help",
			state.MinRunPrefix, cmd.CommandPath())}
	}
	const some = 6
	runs, err := state.FindRuns(ctx, s.db, s.bridge, prefix, some)
	switch {
	case err != nil:
		return state.Run{}, err
	case len(runs) == 0:
		return state.Run{}, fmt.Errorf("bridge %s has no run whose id begins with %s; namebridge runs list%s shows them", s.bridge, prefix, s.flag)
	case len(runs) == 1:
		return runs[0], nil
	}
	lines := make([]string, len(runs))
	for i, r := range runs {
		lines[i] = fmt.Sprintf("\n  %s   %s, %s", r.Run, r.Kind, stamp(r.StartedAt))
	}
	text := fmt.Sprintf("the ids of %d runs begin with %s", len(runs), prefix)
	if len(runs) == some {
		text = fmt.Sprintf("the ids of %d runs or more begin with %s", some, prefix)
	}
	return state.Run{}, errors.New(text + "; give more of it:" + strings.Join(lines, "") + "\nAll of them: namebridge runs list" + s.flag + " --limit 0")
}
