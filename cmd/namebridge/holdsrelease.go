package main

import (
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"namebridge/state"
	bridgesync "namebridge/sync"
)

func newHoldsRelease(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "release WHO",
		Short: "Take back what was decided about somebody",
		Long: `Lifts what a person has decided: a link made by hand (the rules decide again; where they do not name that user, the badge that came
by the link is cleared, as far as the guard lets it), or a hold that is ignored (it counts again). A user held as unwritable is tried again, too.

` + whoHelp,
		Example: "  namebridge holds release jane.roe@acme.edu\n  namebridge holds release 10344",
		Args:    cobra.ExactArgs(1),
	}
	bridge := bridgeFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		who, err := parseWho(cmd, args[0])
		if err != nil {
			return err
		}
		s, err := a.openStored(ctx, *bridge)
		if err != nil {
			return err
		}
		defer s.stop()
		var done, tried string
		due := false
		err = s.decide(ctx, who, func(tx pgx.Tx, found state.Found) error {
			several := &severalError{what: "this means several decisions"}
			var act func() error
			for _, p := range found.People {
				if p.Rule != state.LinkedByHand {
					continue
				}
				several.list = append(several.list, fmt.Sprintf("%s   joined by hand to user %d", p.Person, p.UserID))
				act = func() error {
					due, done = true, fmt.Sprintf("%s is no longer joined by hand to user %d: the rules decide again. Unless they name that user, it is cleared again, as far as the guard lets it.",
						personName(p.Person), p.UserID)
					_, err := state.ReleaseLink(ctx, tx, s.bridge, p.Person)
					return err
				}
			}
			for _, h := range found.Holds {
				if !h.Releasable() {
					continue
				}
				several.list = append(several.list, exactly(h)+"   held as "+h.Reason)
				act = func() error {
					due = h.Lifts()
					if due {
						tried, done = h.Subject, fmt.Sprintf("User %s, held as %s, is tried again.", h.Subject, h.Reason)
					} else {
						done = fmt.Sprintf("%s counts as held again: %s.", whoIs(h), h.Reason)
					}
					return state.ReleaseHold(ctx, tx, s.bridge, h)
				}
			}
			switch len(several.list) {
			case 0:
				return s.nothingToRelease(found)
			case 1:
				return act()
			}
			return several
		})
		if err != nil {
			return a.showSeveral(err)
		}
		fmt.Fprintln(a.stdout, bridgesync.CleanText(done))
		if !due {
			return nil
		}
		return a.carryOn(ctx, s, who, tried)
	}
	return c
}

// exactly is the form of WHO that means the one that a hold is about and nobody else.
func exactly(h state.ListedHold) string {
	if h.Kind == state.HeldUser {
		return userPrefix + h.Subject
	}
	return h.Subject
}

// nothingTo says that there is nothing to do about whoever was found, without an address: it is an error.
func (s *stored) nothingTo(do string, found state.Found, why string) error {
	who := "this person"
	switch {
	case len(found.People)+len(found.Users) == 0:
		return fmt.Errorf("nothing to %s: nobody is known by this address, institution id or BLN user id", do)
	case len(found.Users) == 1:
		who = fmt.Sprintf("user %d", found.Users[0].UserID)
	}
	return fmt.Errorf("nothing to %s for %s: %s; namebridge holds list%s shows who is held", do, who, why, s.flag)
}

// nothingToRelease says why, without an address: it is an error.
func (s *stored) nothingToRelease(found state.Found) error {
	if len(found.Holds) > 0 {
		h, who := found.Holds[0], "WHO"
		if h.Kind == state.HeldUser {
			who = h.Subject
		}
		return fmt.Errorf("nothing to release: held as %s, which is no person's decision. To lift it, %s", h.Reason, s.cure(h.Reason, who, "USER_ID"))
	}
	for _, p := range found.People {
		if p.UserID != 0 {
			return fmt.Errorf("nothing to release: linked to user %d (%s), and not held", p.UserID, ruleName(p.Rule))
		}
	}
	return s.nothingTo("release", found, "neither linked by hand nor held")
}

func newHoldsIgnore(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "ignore WHO",
		Short: "Set a hold aside: nothing is to be done about it",
		Long: `The person stays held and is not written, but is no longer listed and counted, until the reason changes or "holds release".

` + whoHelp,
		Example: `  namebridge holds ignore guest@other.example --reason "not one of ours"`,
		Args:    cobra.ExactArgs(1),
	}
	bridge, reason := bridgeFlag(c), reasonFlag(c, "why nothing is to be done")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		why, err := reason()
		if err != nil {
			return err
		}
		who, err := parseWho(cmd, args[0])
		if err != nil {
			return err
		}
		s, err := a.openStored(ctx, *bridge)
		if err != nil {
			return err
		}
		defer s.stop()
		var hold state.ListedHold
		err = s.decide(ctx, who, func(tx pgx.Tx, found state.Found) error {
			several := &severalError{what: "this means several holds"}
			for _, h := range found.Holds {
				hold = h
				several.list = append(several.list, exactly(h)+"   held as "+h.Reason)
			}
			switch {
			case len(found.Holds) > 1:
				return several
			case len(found.Holds) == 1:
				return state.IgnoreHold(ctx, tx, s.bridge, hold, why)
			}
			return s.nothingTo("ignore", found, "not held")
		})
		if err != nil {
			return a.showSeveral(err)
		}
		_, err = fmt.Fprintf(a.stdout, "%s stays held as %s and is no longer listed or counted.\nTo take it back: namebridge holds release %s%s\n",
			bridgesync.CleanText(whoIs(hold)), hold.Reason, bridgesync.CleanText(quoted(whoIs(hold))), s.flag)
		return err
	}
	return c
}
