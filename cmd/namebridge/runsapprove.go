package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"namebridge/state"
	bridgesync "namebridge/sync"
)

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
		cfg, err := a.load()
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
		err = a.drive(ctx, cfg, chosen, db, errand{"approve", bridgesync.PhaseWrite, false, func(ctx context.Context, b *bridgesync.Bridge) (res bridgesync.Result, err error) {
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
