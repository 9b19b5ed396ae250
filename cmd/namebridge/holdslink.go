package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"namebridge/state"
	bridgesync "namebridge/sync"
)

func newHoldsLink(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "link WHO USER_ID",
		Short: "Say by hand which BLN user somebody on NameCoach is",
		Long: `Joins everything that NameCoach has of a person to one BLN user. No rule outranks this, and it stays until another link or
"holds release". What the person's recording was written to before is cleared.

WHO is the person's address or institution id on NameCoach, as "holds list" shows it. Where that means several, the name stands in full:
email:ADDRESS or id:INSTITUTION_ID.`,
		Example: `  namebridge holds link jane.roe@acme.edu 10344 --reason "HR: S-4471 is hers, 20981 is a guest account"`,
		Args:    cobra.ExactArgs(2),
	}
	bridge, reason := bridgeFlag(c), reasonFlag(c, "how you know who it is")
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
		user := userID(args[1])
		switch {
		case user == 0:
			return usageError{fmt.Errorf("USER_ID is no BLN user id, which is a whole number\n\nHelp: %s --help", cmd.CommandPath())}
		case strings.HasPrefix(args[0], userPrefix):
			return usageError{fmt.Errorf("WHO is somebody on NameCoach: an address or institution id\n\nHelp: %s --help", cmd.CommandPath())}
		}
		s, err := a.openStored(ctx, *bridge)
		if err != nil {
			return err
		}
		defer s.stop()
		var (
			was    state.FoundPerson
			others int
		)
		err = s.decide(ctx, who, func(tx pgx.Tx, found state.Found) (err error) {
			if len(found.People) > 1 {
				several := &severalError{what: "this is the institution id of several people"}
				for _, p := range found.People {
					several.list = append(several.list, p.Person)
				}
				return several
			}
			if len(found.People) == 0 {
				return errors.New("nobody that NameCoach has shown so far has this address or institution id; namebridge collect brings in what is new")
			}
			if found.People[0].Rows == 0 {
				return errors.New("NameCoach shows nothing of this person any more: there is nothing to link")
			}
			was, others, err = state.LinkByHand(ctx, tx, s.bridge, found.People[0].Person, user, why)
			return err
		})
		switch {
		case errors.Is(err, state.ErrNotFound):
			return fmt.Errorf("user %d is not in the directory as it was last listed; namebridge sweep lists it anew", user)
		case errors.Is(err, state.ErrGone):
			return fmt.Errorf("user %d has left the directory: nobody can be linked to it", user)
		case err != nil:
			return a.showSeveral(err)
		}
		return a.printLink(ctx, s, was, user, others)
	}
	return c
}

// printLink says what a link by hand has changed, and what may surprise about it.
func (a *app) printLink(ctx context.Context, s *stored, was state.FoundPerson, user int64, others int) error {
	target, err := state.Find(ctx, s.db, s.bridge, state.Who{UserID: user})
	if err != nil {
		return err
	}
	w, name := a.stdout, ""
	for _, u := range target.Users {
		if u.Username != "" {
			name = " (" + bridgesync.CleanText(u.Username) + ")"
		}
	}
	person := bridgesync.CleanText(personName(was.Person))
	switch {
	case was.UserID == user && was.Rule == state.LinkedByHand:
		fmt.Fprintf(w, "%s is joined to user %d%s by hand already; the reason is kept anew.\n", person, user, name)
	case was.UserID == 0:
		fmt.Fprintf(w, "%s is joined to user %d%s by hand. Before, no user was linked.\n", person, user, name)
	default:
		fmt.Fprintf(w, "%s is joined to user %d%s by hand. Before, user %d was linked (%s).\n", person, user, name, was.UserID, ruleName(was.Rule))
	}
	if others > 0 {
		fmt.Fprintf(w, "%s linked to user %d, too; one recording is written.\n",
			count(others, noun{"other person is", "other people are"}), user)
	}
	for _, h := range target.Holds {
		fmt.Fprintf(w, "User %d is held as %s all the same: %s\n", user, h.Reason, s.nextStep(h))
	}
	return a.carryOn(ctx, s, state.Who{Person: was.Person}, "")
}

// ruleName is a rule of a link in the words of a person.
func ruleName(rule string) string {
	switch rule {
	case state.LinkedByHand:
		return "by hand"
	case state.LinkReleased:
		return "by hand, released"
	}
	return "by " + rule
}
