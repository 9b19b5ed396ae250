package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"namebridge/state"
)

// runDetail is one run as `runs show --output json` shows it, but for its writes, which come last.
type runDetail struct {
	Bridge   string         `json:"bridge"`
	Run      runStatus      `json:"run"`
	Since    *time.Time     `json:"since"`
	Approved *approval      `json:"approved"`
	Waiting  bool           `json:"waiting"`
	Staged   stagedStatus   `json:"staged"`
	Count    map[string]int `json:"writes_by_state"`
}

type stagedStatus struct {
	Writes int          `json:"writes"`
	Clears int          `json:"clears"`
	Moved  int          `json:"moved"` // of them: something else is wanted by now, or nothing any more
	Steps  []stepStatus `json:"steps"` // as many as are asked for
}

type stepStatus struct {
	UserID   int64           `json:"user_id"`
	Action   string          `json:"action"`
	Wanted   json.RawMessage `json:"wanted"`
	Moved    bool            `json:"moved"`
	Username string          `json:"username"`
	Lost     string          `json:"lost"` // what it takes from the user, as far as it is still to be done
}

type writeStatus struct {
	UserID    int64           `json:"user_id"`
	Action    string          `json:"action"`
	State     string          `json:"state"`
	CreatedAt time.Time       `json:"created_at"`
	SettledAt *time.Time      `json:"settled_at"`
	Note      string          `json:"note"`
	Before    json.RawMessage `json:"before"`
	After     json.RawMessage `json:"after"`
}

// shownSteps is how many of a run's steps and writes are shown, unless told otherwise.
const shownSteps = 20

func newRunsShow(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "show RUN",
		Short: "Show one run: how it ended, what waits for approval, and what it has written",
		Long: `Shows everything that is known of a run: its counts, its error, what it has planned or staged, with who would lose what, and its
writes from the journal, in order; --limit is how many of each. RUN is its id, or how it begins: at least 4 hex digits that no other
run has. Of people's records nothing is shown but the bridge's own keys, before and after, with --output json.

It needs DATABASE_URL only (and BRIDGES, where there are several).`,
		Example: "  namebridge runs show 7f3a\n  namebridge runs show 7f3a --limit 0\n  namebridge runs show 7f3a --output json",
		Args:    cobra.ExactArgs(1),
	}
	output, bridge, limit := outputFlag(c), bridgeFlag(c), limitFlag(c, shownSteps, "users and writes")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		most, err := limit(*output)
		if err != nil {
			return err
		}
		s, err := a.openStored(ctx, *bridge)
		if err != nil {
			return err
		}
		defer s.stop()
		run, err := s.findRun(ctx, cmd, args[0])
		if err != nil {
			return err
		}
		detail, err := s.runDetail(ctx, run)
		if err != nil {
			return err
		}
		if *output == "json" {
			for step, err := range state.RunSteps(ctx, s.db, s.bridge, run.Run, most) {
				if err != nil {
					return err
				}
				detail.Staged.Steps = append(detail.Staged.Steps, stepStatus(step))
			}
			return printJSON(a.stdout, detail, "writes", state.RunWrites(ctx, s.db, s.bridge, run.Run, most), newWriteStatus)
		}
		return a.printRun(ctx, s, run, detail, most)
	}
	return c
}

// runDetail reads all of a run but its steps and its writes, which may be many.
func (s *stored) runDetail(ctx context.Context, run state.Run) (runDetail, error) {
	d := runDetail{Bridge: s.bridge, Run: newRunStatus(run)}
	if run.Since != nil {
		since := run.Since.UTC()
		d.Since = &since
	}
	staged, err := state.CountSteps(ctx, s.db, s.bridge, run.Run)
	if err != nil {
		return d, err
	}
	if staged.ApprovedAt != nil {
		d.Approved = &approval{staged.ApprovedAt.UTC(), staged.ApprovedReason}
	}
	planned := run.Kind == state.Plan && run.Status == state.Done
	d.Waiting = staged.ApprovedAt == nil && staged.Writes+staged.Clears > staged.Moved && (planned || run.Status == state.Quarantined)
	d.Staged = stagedStatus{Writes: staged.Writes, Clears: staged.Clears, Moved: staged.Moved, Steps: []stepStatus{}}
	d.Count, err = state.CountRunWrites(ctx, s.db, s.bridge, run.Run)
	return d, err
}

func newWriteStatus(w state.RunWrite) writeStatus {
	out := writeStatus{
		UserID: w.UserID, Action: w.Action, State: w.State, CreatedAt: w.CreatedAt.UTC(), Note: w.Note, Before: w.BeforeFragment, After: w.AfterFragment,
	}
	if w.SettledAt != nil {
		settled := w.SettledAt.UTC()
		out.SettledAt = &settled
	}
	return out
}

func (a *app) printRun(ctx context.Context, s *stored, run state.Run, d runDetail, most int) error {
	w := a.stdout
	line := func(name, value string) { fmt.Fprintf(w, "  %-9s %s\n", name, value) }
	holding, err := state.HoldingRuns(ctx, s.db, s.bridge)
	if err != nil {
		return err
	}
	status := standing(run, holding)
	if status == string(state.Quarantined) || run.Status == state.Halted {
		status = alarm(w, a.lookuper, strings.ToUpper(status))
	}
	fmt.Fprintf(w, "%s %s · bridge %s · %s\n", run.Kind, run.Run, s.bridge, status)
	lasted := took(run, time.Now())
	if lasted != "" {
		lasted = ", took " + lasted
	}
	switch {
	case run.ResumedAt == nil:
		line("started", stamp(run.StartedAt)+lasted)
	case d.Approved != nil:
		line("started", stamp(run.StartedAt))
	default:
		line("started", stamp(run.StartedAt))
		line("went on", stamp(*run.ResumedAt)+lasted+"; the numbers are those of all its tries")
	}
	if d.Since != nil {
		line("since", stamp(*d.Since))
	}
	if c, ok := countsOf(run); ok {
		did := [2]string{"written", "cleared"}
		if run.Kind == state.Plan && d.Approved == nil {
			did = [2]string{"to write", "to clear"}
		}
		line("people", fmt.Sprintf("%s %s · %s %s · unchanged %s · held %s · failed %s",
			did[0], thousands(c.Written), did[1], thousands(c.Cleared), thousands(c.Unchanged), thousands(c.Held.Sum()), thousands(c.Failed)))
		for i, text := range heldLines(c.Held) {
			line([]string{"held", ""}[min(i, 1)], text)
		}
		line("requests", fmt.Sprintf("%s to NameCoach, %s to BLN", thousands(int(max(c.Requests.NameCoach, run.RequestsNamecoach))), thousands(int(max(c.Requests.BLN, run.RequestsBLN))))) // some are counted after its end
	}
	name := "error"
	for text := range strings.Lines(problem(run)) {
		line(name, clean(text))
		name = ""
	}
	if d.Approved != nil {
		line("approved", stamp(d.Approved.At)+lasted+": "+clean(d.Approved.Reason))
	}
	if run.Status == state.Quarantined && !d.Waiting {
		if kept := waitingFor(run, holding); len(kept) > 0 {
			fmt.Fprintln(w, "\nIt keeps nothing itself. What the guard has not let through:")
			printHolding(w, kept, s.flag)
		} else {
			fmt.Fprintln(w, "\nOvertaken: nothing that it was quarantined for is waiting now.")
		}
	}
	if err := a.printSteps(ctx, s, run, d, most); err != nil {
		return err
	}
	return a.printWrites(ctx, s, run, d, most)
}

// printSteps shows what a run has planned or staged, and how to approve it.
func (a *app) printSteps(ctx context.Context, s *stored, run state.Run, d runDetail, most int) error {
	w, all := a.stdout, d.Staged.Writes+d.Staged.Clears
	if all == 0 {
		return nil
	}
	what := "Staged"
	if run.Kind == state.Plan {
		what = "Planned"
	}
	fmt.Fprintf(w, "\n%s for %s: write %s · clear %s\n", what, count(all, noun{"user", "users"}), thousands(d.Staged.Writes), thousands(d.Staged.Clears))
	if d.Approved == nil && d.Staged.Moved == all && run.Status != state.Running {
		_, err := fmt.Fprintln(w, "None of that is left to be done: it is done, or something else is wanted by now.")
		return err
	}
	columns := []column{{"user", 10, 0}, {"username", 8, 48}, {"action", 8, 0}, {"loses", 9, 0}, {"", 0, 0}}
	shown, err := printTable(w, columns, state.RunSteps(ctx, s.db, s.bridge, run.Run, most), func(step state.RunStep) []string {
		note := ""
		if d.Waiting && step.Moved {
			note = "has changed since: would be left out"
		}
		return []string{fmt.Sprint(step.UserID), step.Username, step.Action, step.Lost, note}
	})
	if err != nil {
		return err
	}
	if all > shown {
		fmt.Fprintf(w, "and %s more: --limit 0 for all\n", thousands(all-shown))
	}
	if d.Approved != nil && len(d.Count) > 0 && run.Status != state.Running {
		left, err := state.LeftOut(ctx, s.db, s.bridge, run.Run)
		if err != nil {
			return err
		}
		if len(left) > 0 {
			fmt.Fprintf(w, "For %s nothing was written: %s\n", count(len(left), noun{"of them", "of them"}), firstUsers(left))
		}
	}
	if d.Waiting {
		if run.Kind == state.Plan && d.Staged.Clears > 0 {
			fmt.Fprintln(w, "Approving it clears all of these; the guard (GUARD_MAX_CLEARS) is not asked.")
		}
		left := ""
		if d.Staged.Moved > 0 {
			left = fmt.Sprintf(" (%s since and would be left out)", count(d.Staged.Moved, noun{"has changed", "have changed"}))
		}
		fmt.Fprintf(w, "They wait until somebody approves them%s.\nApprove: namebridge runs approve %s --reason \"…\"%s\n", left, shortID(run), s.flag)
	}
	return nil
}

// printWrites shows what a run has sent to BLN.
func (a *app) printWrites(ctx context.Context, s *stored, run state.Run, d runDetail, most int) error {
	w, all := a.stdout, 0
	var states []string
	for _, name := range slices.Sorted(maps.Keys(d.Count)) {
		all += d.Count[name]
		states = append(states, name+" "+thousands(d.Count[name]))
	}
	if all == 0 {
		_, err := fmt.Fprintln(w, "\nIt has written nothing to BLN.")
		return err
	}
	fmt.Fprintf(w, "\n%s: %s\n", count(all, noun{"write", "writes"}), strings.Join(states, " · "))
	columns := []column{{"user", 10, 0}, {"action", 8, 0}, {"state", 8, 0}, {"when", 23, 0}, {"note", 0, 64}}
	shown, err := printTable(w, columns, state.RunWrites(ctx, s.db, s.bridge, run.Run, most), func(e state.RunWrite) []string {
		return []string{fmt.Sprint(e.UserID), e.Action, e.State, stamp(e.CreatedAt), e.Note}
	})
	if err != nil {
		return err
	}
	if all > shown {
		fmt.Fprintf(w, "and %s more: --limit 0 for all\n", thousands(all-shown))
	}
	return nil
}

type approval struct {
	At     time.Time `json:"at"`
	Reason string    `json:"reason"`
}
