package main

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"namebridge/state"
	bridgesync "namebridge/sync"
)

// heldStatus is one hold as `holds list --output json` shows it.
type heldStatus struct {
	Who        string         `json:"who"`
	Kind       string         `json:"kind"` // person, on the NameCoach side, or user, of BLN
	Name       string         `json:"name"`
	UserID     *int64         `json:"user_id"`
	Username   string         `json:"username"`
	Reason     string         `json:"reason"`
	Since      time.Time      `json:"since"`
	Detail     string         `json:"detail"`
	Candidates []int64        `json:"candidates"`
	Ignored    *ignoredStatus `json:"ignored"`
	Next       string         `json:"next"`
}

type ignoredStatus struct {
	Since  time.Time `json:"since"`
	Reason string    `json:"reason"`
}

func newHoldsList(a *app) *cobra.Command {
	var (
		reason string
		all    bool
	)
	c := &cobra.Command{
		Use:   "list",
		Short: "List the people who are held, the newest first",
		Long: `Lists who is held, since when and why, which users the evidence names, and what to do about it. Holds that somebody has set aside
(holds ignore) are left out, unless --all is given.`,
		Example: "  namebridge holds list\n  namebridge holds list --reason conflict --limit 0\n  namebridge holds list --all --output json",
		Args:    cobra.NoArgs,
	}
	output, bridge, limit := outputFlag(c), bridgeFlag(c), limitFlag(c, 50, "holds")
	c.Flags().StringVar(&reason, "reason", "", "only those held for this reason: "+reasonNames())
	c.Flags().BoolVar(&all, "all", false, "those that are ignored, too")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		if reason != "" && !slices.Contains(holdReasons, bridgesync.Reason(reason)) {
			return usageError{fmt.Errorf("--reason %q is none of: %s\n\nHelp: %s --help", reason, reasonNames(), cmd.CommandPath())}
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
		holds := state.Holds(ctx, s.db, s.bridge, reason, all, most)
		if *output == "json" {
			head := struct {
				Bridge string `json:"bridge"`
			}{s.bridge}
			return printJSON(a.stdout, head, "holds", holds, s.heldStatus)
		}
		return a.printHolds(ctx, s, reason, all, holds)
	}
	return c
}

func (s *stored) heldStatus(h state.ListedHold) heldStatus {
	out := heldStatus{
		Who: whoIs(h), Kind: h.Kind, Name: h.Name, Username: h.Username, Reason: h.Reason, Since: h.Since.UTC(), Detail: h.Detail,
		Candidates: h.Users, Next: s.nextStep(h),
	}
	if id, err := strconv.ParseInt(h.Subject, 10, 64); err == nil && h.Kind == state.HeldUser {
		out.UserID = &id
	}
	if h.IgnoredAt != nil {
		out.Ignored = &ignoredStatus{Since: h.IgnoredAt.UTC(), Reason: h.IgnoredReason}
	}
	return out
}

// printHolds shows holds to people: a table, what it leaves out, and what to do about each reason in it.
func (a *app) printHolds(ctx context.Context, s *stored, reason string, all bool, holds iter.Seq2[state.ListedHold, error]) error {
	now := time.Now()
	seen := map[string]bool{}
	columns := []column{{"who", 24, 48}, {"reason", 10, 0}, {"since", 6, 0}, {"users", 6, 24}, {"detail", 0, 64}}
	shown, err := printTable(a.stdout, columns, holds, func(h state.ListedHold) []string {
		who, why := whoIs(h), h.Reason
		switch {
		case h.Kind == state.HeldUser && h.Username != "":
			who += " (" + h.Username + ")"
		case h.Kind == state.HeldPerson && h.Name != "":
			who += " (" + h.Name + ")"
		}
		detail := h.Detail
		if h.IgnoredAt != nil {
			why, detail = why+", ignored", detail+" (ignored: "+h.IgnoredReason+")"
		} else {
			seen[h.Reason] = true
		}
		return []string{who, why, ago(now.Sub(h.Since)), userList(h.Users), detail}
	})
	if err != nil {
		return err
	}
	open, ignored, err := state.CountHolds(ctx, s.db, s.bridge, reason)
	if err != nil {
		return err
	}
	w, as := a.stdout, ""
	if reason != "" {
		as = " as " + reason
	}
	total := open
	if all {
		total += ignored
	}
	switch {
	case shown == 0 && all:
		fmt.Fprintf(w, "Nobody is held%s.\n", as)
	case shown == 0 && open == 0:
		fmt.Fprintf(w, "Nobody is held%s: nothing to do.\n", as)
	case total > shown:
		fmt.Fprintf(w, "and %s more: --limit 0 for all", thousands(total-shown))
		if reason == "" {
			fmt.Fprint(w, ", --reason conflict for those of one reason")
		}
		fmt.Fprintln(w)
	}
	if !all && ignored > 0 {
		fmt.Fprintf(w, "%s ignored: --all shows them\n", count(ignored, noun{"more is", "more are"}))
	}
	if len(seen) == 0 {
		return nil
	}
	fmt.Fprintln(w, "\nNext")
	for _, r := range holdReasons {
		if seen[string(r)] {
			fmt.Fprintf(w, "  %-10s  %s\n", r, s.cure(string(r), "WHO", "USER_ID"))
		}
	}
	fmt.Fprintf(w, "  %-10s  namebridge holds ignore WHO --reason \"…\"%s\n", "set aside", s.flag)
	return nil
}

func reasonNames() string {
	var names []string
	for _, r := range holdReasons {
		if r != bridgesync.Reverted { // nothing makes these yet
			names = append(names, string(r))
		}
	}
	return strings.Join(names, ", ")
}

func userList(users []int64) string {
	ids := make([]string, len(users))
	for i, u := range users {
		ids[i] = strconv.FormatInt(u, 10)
	}
	return strings.Join(ids, ", ")
}

// nextStep says what to do about one hold, with the command that does it.
func (s *stored) nextStep(h state.ListedHold) string {
	who := quoted(whoIs(h))
	if h.IgnoredAt != nil {
		return "nothing, somebody has decided; to take that back: namebridge holds release " + who + s.flag
	}
	user := "USER_ID"
	if len(h.Users) > 0 {
		user = strconv.FormatInt(h.Users[0], 10)
		if len(h.Users) > 1 {
			user = "USER_ID" // who it is, is for a person to say
		}
	}
	return s.cure(h.Reason, who, user)
}

// cure says what lifts a hold of that reason.
func (s *stored) cure(reason, who, user string) string {
	link := fmt.Sprintf(`namebridge holds link %s %s --reason "…"%s`, who, user, s.flag)
	release := "namebridge holds release " + who + s.flag
	switch bridgesync.Reason(reason) {
	case bridgesync.Unmatched:
		return "correct the address or institution id, in BLN or on NameCoach, or say who it is: " + link
	case bridgesync.Ambiguous:
		return "give each user an externalId and an address of their own in BLN, or say who it is: " + link
	case bridgesync.Conflict:
		return "say which of the users it is: " + link
	case bridgesync.Unwritable:
		return "correct in BLN what the detail names; it is looked at again within a day, or at once with: " + release
	case bridgesync.Refused:
		return "correct the link on NameCoach, or allow its host with LINK_HOSTS"
	case bridgesync.Reverted:
		return "have the record written again: " + release
	}
	return "look at it: namebridge holds list --all" + s.flag
}
