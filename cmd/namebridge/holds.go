package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"namebridge/internal/config"
	"namebridge/state"
	bridgesync "namebridge/sync"
)

// holdReasons are the reasons of the contract.
var holdReasons = []bridgesync.Reason{
	bridgesync.Unmatched, bridgesync.Ambiguous, bridgesync.Conflict, bridgesync.Unwritable, bridgesync.Refused, bridgesync.Reverted,
}

// whoHelp says what WHO may be.
const whoHelp = `WHO is an address, an institution id, or a BLN user id, as "holds list" shows it. Where that means several, the name stands in
full: email:ADDRESS, id:INSTITUTION_ID, or user:USER_ID.`

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

// stored is a bridge as the database has it.
type stored struct {
	db     *pgxpool.Pool
	bridge string
	flag   string // " --bridge NAME" where there are several, for commands to be typed
	stop   func()
}

// openStored opens what commands need that talk to nobody but the database.
func (a *app) openStored(ctx context.Context, bridge string) (*stored, error) {
	cfg, err := config.LoadDatabase(a.lookuper)
	if err != nil {
		return nil, err
	}
	chosen, err := chooseBridge(cfg, bridge)
	if err != nil {
		return nil, err
	}
	s := &stored{bridge: chosen.Name, flag: several(cfg, chosen)}
	s.db, s.stop, err = a.openDatabase(ctx, cfg)
	return s, err
}

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

// The forms of WHO that mean one alone.
const userPrefix = "user:"

var exactPrefixes = []string{"email:", "id:", "row:", userPrefix}

func hasExactPrefix(s string) bool {
	return slices.ContainsFunc(exactPrefixes, func(p string) bool { return strings.HasPrefix(s, p) })
}

// whoIs is how the one that a hold is about is called, such that WHO understands it.
func whoIs(h state.ListedHold) string {
	if h.Kind == state.HeldUser {
		return h.Subject
	}
	return personName(h.Subject)
}

// personName is a person's address or institution id; the whole key where that alone could be taken for something else.
func personName(key string) string {
	kind, name, _ := strings.Cut(key, ":")
	switch {
	case kind == "row", hasExactPrefix(name), strings.HasPrefix(name, "-"):
		return key
	case kind == "id" && (strings.Contains(name, "@") || strings.TrimSpace(name) != name):
		return key
	}
	return name
}

// quoted makes a word that a shell takes as it stands: it may be anybody's text, and people copy what they read.
func quoted(word string) string {
	plain := func(r rune) bool {
		return unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("@._:+-", r)
	}
	if strings.ContainsFunc(word, func(r rune) bool { return !plain(r) }) {
		return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
	}
	return word
}

// parseWho reads WHO. Its errors do not repeat it: it may be somebody's address.
func parseWho(cmd *cobra.Command, arg string) (state.Who, error) {
	var who state.Who
	kind, rest, _ := strings.Cut(arg, ":")
	switch {
	case strings.HasPrefix(arg, userPrefix):
		who.UserID = userID(rest)
	case kind == "email" && bridgesync.Fold(rest) != "":
		who.Person = "email:" + bridgesync.Fold(rest)
	case (kind == "id" || kind == "row") && bridgesync.Key(rest) != "":
		who.Person = kind + ":" + bridgesync.Key(rest)
	case !hasExactPrefix(arg):
		who.Email, who.ID, who.UserID = bridgesync.Fold(arg), bridgesync.Key(arg), userID(arg)
	}
	if who == (state.Who{}) {
		return who, usageError{fmt.Errorf("WHO is neither an address, nor an institution id, nor a BLN user id\n\nHelp: %s --help", cmd.CommandPath())}
	}
	return who, nil
}

// userID reads a BLN user id, 0 for what is none.
func userID(s string) int64 {
	id, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil || id <= 0 {
		return 0
	}
	return id
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

// severalError says that WHO means more than one. Who they are is for stdout: an error must not show an address.
type severalError struct {
	what string
	list []string
}

func (e *severalError) Error() string {
	return e.what + "; name one of those above, as it stands there"
}

// showSeveral prints whom a severalError is about.
func (a *app) showSeveral(err error) error {
	if several, ok := errors.AsType[*severalError](err); ok {
		for _, line := range several.list {
			fmt.Fprintln(a.stdout, "  "+bridgesync.CleanText(line))
		}
		if len(several.list) >= state.FoundLimit {
			fmt.Fprintln(a.stdout, "  …")
		}
	}
	return err
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
	err = a.drive(ctx, cfg, chosen, s.db, errand{"holds", bridgesync.PhaseLink, settle}, &res)
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
