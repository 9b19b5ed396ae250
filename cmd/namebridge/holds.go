package main

import (
	"context"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"namebridge/internal/config"
	"namebridge/state"
	bridgesync "namebridge/sync"
)

// holdReasons are the reasons of the contract.
var holdReasons = []bridgesync.Reason{
	bridgesync.Unmatched, bridgesync.Ambiguous, bridgesync.Conflict, bridgesync.Unwritable, bridgesync.Refused, bridgesync.Reverted,
}

func newHolds(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "holds",
		Short: "Review the people who are held, and decide about them",
		Long: `A person is held where evidence names no user or several (unmatched, ambiguous, conflict), where BLN would not take or give back
the record as it is (unwritable), or where a link must not be written (refused).
Nothing is written for them until the cause is mended or somebody decides.

These commands need DATABASE_URL only (and BRIDGES, where there are several). What link and release decide is carried out at once
where the configuration has what both APIs need; else by the daemon, or the next collect.`,
		Args: knownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(newHoldsList(a), newHoldsLink(a), newHoldsRelease(a), newHoldsIgnore(a))
	return c
}

// maxReason is how long a reason that a person gives may be, in bytes.
const maxReason = 500

// reasonFlag adds a --reason that is required. The function gives it, once the flags are read.
func reasonFlag(c *cobra.Command, usage string) func() (string, error) {
	reason := c.Flags().String("reason", "", usage+" (required)")
	return func() (string, error) {
		text := strings.TrimSpace(*reason)
		problem := ""
		switch {
		case text == "":
			problem = "--reason is required: it is kept with what you decide"
		case len(text) > maxReason:
			problem = fmt.Sprintf("--reason is over %d bytes", maxReason)
		case !utf8.ValidString(text), strings.ContainsFunc(text, unicode.IsControl):
			problem = "--reason has control characters, or is not UTF-8"
		default:
			return text, nil
		}
		return "", usageError{fmt.Errorf("%s\n\nHelp: %s --help", problem, c.CommandPath())}
	}
}

// decide runs do with everybody whom WHO may mean, in a transaction in which nobody else links.
func (s *stored) decide(ctx context.Context, who state.Who, do func(pgx.Tx, state.Found) error) error {
	return state.InTx(ctx, s.db, func(tx pgx.Tx) error {
		if err := state.LockParticipants(ctx, tx, s.bridge); err != nil {
			return err
		}
		found, err := state.Find(ctx, tx, s.bridge, who)
		if err != nil {
			return err
		}
		return do(tx, found)
	})
}

// carryOn does what was decided about who at once, where the configuration has what the APIs need; else it says when it comes about.
// tried is the user whose hold was lifted for that; empty: none.
func (a *app) carryOn(ctx context.Context, s *stored, who state.Who, tried string) error {
	b, err := state.GetBridge(ctx, s.db, s.bridge)
	if err != nil {
		return err
	}
	if b.HaltedAt != nil {
		_, err = fmt.Fprintf(a.stdout, "Bridge %s is halted: it is written after namebridge resume%s\n", s.bridge, s.flag)
		return err
	}
	cfg, problems := config.Load(a.lookuper, config.Database)
	if problems != nil {
		_, err = fmt.Fprintf(a.stdout, "The next collect writes it; now: namebridge collect%s\n", s.flag)
		return err
	}
	chosen, err := chooseBridge(cfg, s.bridge)
	if err != nil {
		return err
	}
	res := bridgesync.Result{Kind: state.Collect, Status: state.Failed}
	err = a.drive(ctx, cfg, chosen, s.db, errand{"holds", bridgesync.PhaseLink, false, settle}, &res)
	if err != nil {
		return fmt.Errorf("what you have decided is kept, and the next collect writes it: %w", err)
	}
	return a.printSettled(ctx, s, who, tried, res)
}

// settle does at once what is due. A collect that is under way may be past the point where it would have seen it.
func settle(ctx context.Context, b *bridgesync.Bridge) (res bridgesync.Result, err error) {
	for range 2 {
		if res, err = b.Settle(ctx); err != nil {
			return res, err
		}
		if due, err := state.AnythingDue(ctx, b.DB, b.Name); err != nil || !due {
			return res, err
		}
	}
	return res, nil
}

// printSettled says what came of a decision.
func (a *app) printSettled(ctx context.Context, s *stored, who state.Who, tried string, res bridgesync.Result) error {
	w := a.stdout
	var did []string
	for _, n := range []struct {
		n    int
		what string
	}{{res.Written, "written"}, {res.Cleared, "cleared"}, {res.Failed, "failed and tried again later"}} {
		if n.n > 0 {
			did = append(did, count(n.n, noun{"user", "users"})+" "+n.what)
		}
	}
	if did == nil {
		did = []string{"nothing had to be written"}
	}
	fmt.Fprintf(w, "Done: %s.\n", strings.Join(did, ", "))
	found, err := state.Find(ctx, s.db, s.bridge, who)
	if err != nil {
		return err
	}
	for _, h := range found.Holds {
		switch {
		case h.IgnoredAt != nil:
		case h.Kind == state.HeldUser && h.Subject == tried:
			fmt.Fprintln(w, bridgesync.CleanText(fmt.Sprintf("User %s was tried again and stays held as %s: %s. Next: %s", h.Subject, h.Reason, h.Detail, s.nextStep(h))))
		default:
			fmt.Fprintln(w, bridgesync.CleanText(fmt.Sprintf("%s is held as %s: %s", exactly(h), h.Reason, s.nextStep(h))))
		}
	}
	if res.Status == state.Quarantined {
		if err := a.printQuarantine(ctx, s); err != nil {
			return err
		}
	}
	return exitOf(res)
}
