package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"

	"namebridge/internal/config"
	"namebridge/state"
)

const (
	// A guard that lets this many people, or this share, be cleared in one run without a question guards little: what shrinks suddenly is
	// an incomplete source.
	boldClears  = 500
	boldPercent = 20
	// usualBudget is what NameCoach is known to grant one token in 15 minutes.
	usualBudget = 1000
)

// configuration reports what is wrong with the configuration, and what is right but risky.
func (e *examination) configuration() {
	if e.Problems != nil {
		for _, p := range e.Problems.List {
			e.found(Problem, "", Configuration, p.Variable+" "+p.Text, cureOfSetting(p))
		}
	}
	for _, s := range e.Strangers {
		text, cure := s.finding()
		e.found(Warning, "", Configuration, text, cure)
	}
	risky := len(e.Strangers)
	for _, b := range e.Config.Bridges {
		if e.Bridge != "" && b.Name != e.Bridge {
			continue
		}
		for _, r := range risks(b) {
			risky++
			e.found(Warning, b.Name, Configuration, r.text, r.cure)
		}
	}
	if e.Problems == nil && risky == 0 {
		e.ok("", Configuration, "%s, nothing missing, nothing risky", count(int64(len(e.Config.Bridges)), "bridge"))
	}
}

// cureOfSetting says what to do with a variable, where its text may have said already what to do it with.
func cureOfSetting(p config.Problem) string {
	switch {
	case p.Variable == "DATABASE_URL" && strings.HasPrefix(p.Text, "is not set"):
		return "to try it: export DATABASE_URL=embedded; for good, the URL of a Postgres of your own"
	case strings.HasPrefix(p.Text, "is not set"):
		return "set " + p.Variable + "; what it means: namebridge config --help"
	}
	return "correct " + p.Variable + "; what it may be: namebridge config --help"
}

type risk struct{ text, cure string }

// risks are settings that are legal, and that people were seen to regret.
func risks(b config.Bridge) []risk {
	var all []risk
	if slices.Contains(b.MatchBy, "otherEmail") {
		all = append(all, risk{
			"MATCH_BY has otherEmail: users edit personalEmail and workEmail themselves, so whoever enters another's address claims the other's recording",
			"take otherEmail out of MATCH_BY, unless you trust every user of the organization",
		})
	}
	if wider := widened(b.LinkHosts); len(wider) > 0 {
		all = append(all, risk{
			"LINK_HOSTS lets links lead to " + strings.Join(wider, ", ") + ", beyond NameCoach's own hosts",
			"keep only hosts that NameCoach or you own: a link on a person's record is followed by others",
		})
	}
	if b.GuardMaxClears > boldClears || b.GuardMaxClearPercent > boldPercent {
		all = append(all, risk{
			fmt.Sprintf("the guard lets one run clear up to %d people or %g %% of the linked users, whichever is more, without asking anybody",
				b.GuardMaxClears, b.GuardMaxClearPercent),
			fmt.Sprintf("set GUARD_MAX_CLEARS to %d and GUARD_MAX_CLEAR_PERCENT to %d at most; more can be approved when it happens",
				boldClears, boldPercent),
		})
	}
	if b.CensusConfirmations == 1 {
		all = append(all, risk{
			"CENSUS_CONFIRMATIONS is 1: a single answer of NameCoach that leaves a person out clears the badge",
			"set CENSUS_CONFIRMATIONS to 2 or more",
		})
	}
	if b.NameCoachRequestsPer15Minutes > usualBudget {
		all = append(all, risk{
			fmt.Sprintf("NAMECOACH_REQUESTS_PER_15_MINUTES is %d, and NameCoach is known to lock a token out above about %d",
				b.NameCoachRequestsPer15Minutes, usualBudget),
			fmt.Sprintf("set it to %d, unless NameCoach has granted you more", usualBudget),
		})
	}
	return all
}

const eventsCure = "correct NAMECOACH_EVENTS: an event_access_code is compared letter by letter"

// events looks whether every event that counts has brought anybody.
func (e *examination) events(ctx context.Context, b config.Bridge) error {
	none, err := unseen(ctx, e.db, b)
	if err != nil || len(none) == 0 {
		return err
	}
	text := "NAMECOACH_EVENTS has " + plain(strings.Join(none, ", ")) + ", and no participant that was collected has"
	if len(none) == len(b.NameCoachEvents) {
		text += ": nobody counts, and nobody is given a badge"
	}
	e.found(Warning, b.Name, Configuration, text, eventsCure+"; an event that is yet to come needs nothing but time")
	return nil
}

// NobodyCounts says that people are known and that not one of them is in an event that counts, and what to do about it; "" where that is not so. Then
// every run ends well, has nothing to do, and gives nobody a badge.
func NobodyCounts(ctx context.Context, db *pgxpool.Pool, b config.Bridge) (string, error) {
	none, err := unseen(ctx, db, b)
	if err != nil || len(none) == 0 || len(none) < len(b.NameCoachEvents) {
		return "", err
	}
	var participants int64
	if err := db.QueryRow(ctx, `SELECT count(*) FROM participants WHERE bridge = $1`, b.Name).Scan(&participants); err != nil || participants == 0 {
		return "", err
	}
	return b.Named(fmt.Sprintf("NAMECOACH_EVENTS is %s, and of %s known none is in such an event: nobody counts, and nobody is given a badge. "+
		"Correct it, letter by letter, or take it away: then all events count", plain(strings.Join(none, ",")), count(participants, "participant"))), nil
}

// unseen are the events that count and that no participant is in, once NameCoach was read to the end.
func unseen(ctx context.Context, db *pgxpool.Pool, b config.Bridge) ([]string, error) {
	kept, err := state.GetBridge(ctx, db, b.Name)
	if errors.Is(err, state.ErrNotFound) || err == nil && kept.CollectedAt == nil || len(b.NameCoachEvents) == 0 {
		return nil, nil
	}
	var none []string
	if err == nil {
		err = db.QueryRow(ctx, `SELECT coalesce(array_agg(c ORDER BY array_position($2, c)), '{}') FROM
			(SELECT unnest($2::text[]) EXCEPT SELECT event_access_code FROM participants WHERE bridge = $1) x (c)`, b.Name, b.NameCoachEvents).Scan(&none)
	}
	return none, err
}

// widened are the hosts that the default does not have.
func widened(hosts []string) []string {
	i := slices.IndexFunc(config.Variables, func(v config.Variable) bool { return v.Name == "LINK_HOSTS" })
	usual := strings.Split(config.Variables[i].Default, ",")
	var wider []string
	for _, h := range hosts {
		// A host below name-coach.com is covered by the default's *.name-coach.com.
		covered := slices.ContainsFunc(usual, func(u string) bool {
			return h == u || strings.HasPrefix(u, "*") && strings.HasSuffix(h, u[1:])
		})
		if !covered {
			wider = append(wider, h)
		}
	}
	return wider
}

// semantics compares BLN_PUT_SEMANTICS with what the last probe has shown.
func (e *examination) semantics(ctx context.Context, b config.Bridge) {
	if b.BLNPutSemantics != merge {
		return
	}
	const cure = "prove it: namebridge doctor --probe-write USER_ID, and start what serves anew; or set BLN_PUT_SEMANTICS=replace, which is safe on any server"
	shown := ""
	if e.tables {
		var err error
		if shown, err = state.ProbedSemantics(ctx, e.db, b.Name); err != nil {
			e.found(Warning, b.Name, Configuration,
				"BLN_PUT_SEMANTICS is merge, and whether a probe has shown that this server merges cannot be read ("+trouble(err)+")", cure)
			return
		}
	}
	switch shown {
	case merge:
		e.ok(b.Name, Configuration, "BLN_PUT_SEMANTICS is merge, and the last probe has shown that this server merges")
	case replace:
		e.found(Problem, b.Name, Configuration, "BLN_PUT_SEMANTICS is merge, but the last probe has shown that this server replaces: "+
			"everything is sent, as with replace", "set BLN_PUT_SEMANTICS=replace")
	default:
		e.found(Warning, b.Name, Configuration, "BLN_PUT_SEMANTICS is merge, and no probe is known that has shown that this server merges: "+
			"until one is, everything is sent, as with replace", cure)
	}
}

// What BLN_PUT_SEMANTICS and a probe can say.
const (
	merge   = "merge"
	replace = "replace"
)
