package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"namebridge/internal/config"
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

type approval struct {
	At     time.Time `json:"at"`
	Reason string    `json:"reason"`
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

// approved is what `runs approve --output json` prints: the run's result, and what was let through.
type approved struct {
	bridgesync.Result
	Approved int     `json:"approved"` // users that were let through
	LeftOut  []int64 `json:"left_out"` // users for whom something else is wanted by now, or nothing any more
}

func newRunsApprove(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "approve RUN",
		Short: "Let through what a quarantined run has staged, or carry out a plan",
		Long: `A run that would take the badge or recording of more people than the guard lets through (GUARD_MAX_CLEARS, GUARD_MAX_CLEAR_PERCENT) stages
these and is quarantined. This lets through exactly what the run has staged, and waits until it is written; approving a plan carries out exactly
that plan, also what the guard would stage. Users for whom something else is wanted by now are left out and named.

RUN is the run's id, or how it begins: at least 4 hex digits that no other run has. Look first: namebridge runs show RUN

Exit codes are those of a run: 3 where something has to be approved anew, 4 where some people failed and will be retried.`,
		Example: "  namebridge runs show 7f3a\n  namebridge runs approve 7f3a --reason \"HR: the summer guests have left\"",
		Args:    cobra.ExactArgs(1),
	}
	output, bridge, reason := outputFlag(c), bridgeFlag(c), reasonFlag(c, "why this may be written")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		why, err := reason()
		if err != nil {
			return err
		}
		cfg, err := config.Load(a.lookuper, config.Database)
		if err != nil {
			return err
		}
		chosen, err := chooseBridge(cfg, *bridge)
		if err != nil {
			return err
		}
		db, stop, err := a.openDatabase(ctx, cfg)
		if err != nil {
			return err
		}
		defer stop()
		s := &stored{db: db, bridge: chosen.Name, flag: several(cfg, chosen)}
		run, err := s.findRun(ctx, cmd, args[0])
		if err != nil {
			return err
		}
		if err := s.approvable(ctx, run); err != nil {
			return err
		}
		var through state.Approval
		res := bridgesync.Result{Run: run.Run, Kind: run.Kind, Status: state.Failed}
		err = a.drive(ctx, cfg, chosen, db, errand{"approve", bridgesync.PhaseWrite, func(ctx context.Context, b *bridgesync.Bridge) (res bridgesync.Result, err error) {
			res, through, err = b.Approve(ctx, run.Run, why)
			return res, err
		}}, &res)
		switch {
		case errors.Is(err, state.ErrStale):
			return fmt.Errorf("run %s was approved by somebody else a moment ago; namebridge runs show %s%s", shortID(run), shortID(run), s.flag)
		case *output == "json":
			if err := json.NewEncoder(a.stdout).Encode(newApproved(res, through)); err != nil {
				return fmt.Errorf("write the result: %w", err)
			}
		case err == nil, errors.Is(err, bridgesync.ErrHalted):
			a.printApproval(run, through)
			if err := a.printResult(context.WithoutCancel(ctx), s, res); err != nil {
				return err
			}
			if res.Status == state.Quarantined {
				break // its result has named all that wait
			}
			if err := a.printOthers(context.WithoutCancel(ctx), s, run); err != nil {
				return err
			}
		}
		if err != nil && ctx.Err() != nil && through.Steps > 0 {
			return fmt.Errorf("interrupted. What is approved stays approved: the daemon writes the rest, or the next run; namebridge sweep%s", s.flag)
		}
		return cmp.Or(err, exitOf(res))
	}
	return c
}

func newApproved(res bridgesync.Result, through state.Approval) approved {
	out := approved{Result: res, Approved: through.Steps - len(through.Moved), LeftOut: through.Moved}
	if out.LeftOut == nil {
		out.LeftOut = []int64{}
	}
	return out
}

// approvable says why nothing of a run can be approved; nil where it can.
func (s *stored) approvable(ctx context.Context, run state.Run) error {
	b, err := state.GetBridge(ctx, s.db, s.bridge)
	if err != nil {
		return err
	}
	if b.HaltedAt != nil {
		e := &bridgesync.HaltedError{Since: *b.HaltedAt}
		if b.HaltReason != nil {
			e.Reason = *b.HaltReason
		}
		return e
	}
	detail, err := s.runDetail(ctx, run)
	if err != nil {
		return err
	}
	holding, err := state.HoldingRuns(ctx, s.db, s.bridge)
	if err != nil {
		return err
	}
	what := fmt.Sprintf("run %s (%s) waits for nobody", shortID(run), run.Kind)
	switch staged := detail.Staged; {
	case detail.Waiting:
		return nil
	case detail.Approved != nil:
		return fmt.Errorf("%s: it was approved at %s", what, stamp(detail.Approved.At))
	case run.Status == state.Running:
		return fmt.Errorf("%s: it is not over yet", what)
	case run.Status == state.Quarantined && len(waitingFor(run, holding)) > 0:
		var kept strings.Builder
		printHolding(&kept, waitingFor(run, holding), s.flag)
		return fmt.Errorf("%s itself.\n%s", what, strings.TrimSpace(kept.String()))
	case staged.Writes+staged.Clears == 0:
		return fmt.Errorf("%s: it has staged nothing", what)
	case run.Status != state.Quarantined && run.Kind != state.Plan:
		return fmt.Errorf("%s: it is %s", what, run.Status)
	}
	return fmt.Errorf("%s: of what it has staged, nothing is wanted any more as it was", what)
}

// printApproval says what was let through, and who is left out.
func (a *app) printApproval(run state.Run, through state.Approval) {
	w, left := a.stdout, len(through.Moved)
	fmt.Fprintf(w, "Approved %s %s: %s of %s let through.\n", run.Kind, shortID(run), thousands(through.Steps-left), count(through.Steps, noun{"user", "users"}))
	if left == 0 {
		return
	}
	fmt.Fprintf(w, "%s left out, since something else is wanted by now:\n  %s\n", count(left, noun{"is", "are"}), firstUsers(through.Moved))
}

// printOthers says how many runs wait beside one that was approved.
func (a *app) printOthers(ctx context.Context, s *stored, run state.Run) error {
	holding, err := state.HoldingRuns(ctx, s.db, s.bridge)
	if err != nil {
		return err
	}
	holding = slices.DeleteFunc(holding, func(h state.Holding) bool { return h.Run == run.Run })
	if len(holding) > 0 {
		_, err = fmt.Fprintf(a.stdout, "%s for a person: namebridge status\n", count(len(holding), noun{"more run waits", "more runs wait"}))
	}
	return err
}

// firstUsers lists users, of many the first.
func firstUsers(users []int64) string {
	if len(users) <= shownSteps {
		return userList(users)
	}
	return userList(users[:shownSteps]) + " and " + thousands(len(users)-shownSteps) + " more"
}
