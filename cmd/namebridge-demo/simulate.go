package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"namebridge/internal/simulator"
)

// choice is a flag with a closed set of words.
type choice[T any] struct {
	to    *T
	words map[string]T
	text  string
}

func (c *choice[T]) String() string { return c.text }
func (c *choice[T]) Type() string   { return "word" }

func (c *choice[T]) Set(text string) error {
	v, ok := c.words[text]
	if !ok {
		return fmt.Errorf("must be one of %v", slices.Sorted(maps.Keys(c.words)))
	}
	*c.to, c.text = v, text
	return nil
}

func simulateCommand() *cobra.Command {
	var (
		o       simulator.Options
		faults  float64
		changes float64
	)
	cmd := &cobra.Command{
		Use:   "simulate",
		Short: "Serve both APIs on loopback, with seeded people, latency, limits and faults",
		Long: `Serve NameCoach v5 and BLN on loopback until Ctrl-C, with people made from a seed: the same seed gives the same people.

The export lines for namebridge go to standard output, everything else to standard error. When it ends it says what was asked of
it, and what a polite client would not have asked.

What the two API documents leave open is a flag: run it as obliging as it starts, then make it less so.`,
		Example: `  namebridge-demo simulate --users 5000 --seed 1
  namebridge-demo simulate --put shallow --list-rows partial --paging ignored
  namebridge-demo simulate --faults 0.1 --latency 50ms --namecoach-limit 1000 --bln-rate 20
  namebridge-demo simulate --changes-per-minute 12    people record, join, leave and are corrected while you watch`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if faults < 0 || faults > 1 {
				return usageError{fmt.Errorf("--faults %v is no share from 0 to 1", faults)}
			}
			if changes < 0 || math.IsNaN(changes) || changes > 60_000 {
				return usageError{fmt.Errorf("--changes-per-minute %v is no number from 0 to 60000", changes)}
			}
			// Of ten faults three are 5xx, three 429, and the rest is spread over what networks do.
			o.Faults = simulator.Faults{
				P5xx: .3 * faults, P429: .3 * faults, PReset: .1 * faults, PTruncate: .1 * faults, PSlow: .1 * faults, PAppliedThenTimeout: .1 * faults,
			}
			o.BLNLatency = o.NameCoachLatency
			return simulate(cmd, o, changes)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.IntVar(&o.Users, "users", 5000, "people in the BLN organization")
	f.Uint64Var(&o.Seed, "seed", 1, "the same seed gives the same people")
	f.StringVar(&o.NameCoachAddr, "namecoach-addr", "127.0.0.1:0", "address NameCoach listens on")
	f.StringVar(&o.BLNAddr, "bln-addr", "127.0.0.1:0", "address BLN listens on")
	f.DurationVar(&o.NameCoachLatency, "latency", 0, "time that every answer takes")
	f.Float64Var(&faults, "faults", 0, "share of requests that go wrong, 0 to 1: 5xx, 429, resets, cut and slow answers, writes without answer")
	f.IntVar(&o.NameCoachPer15Minutes, "namecoach-limit", 0, "NameCoach requests in 15 minutes, then one a second, then 429; 0 = no limit")
	f.Float64Var(&o.BLNPerSecond, "bln-rate", 0, "BLN requests in a second, then 429; 0 = no limit")
	f.Var(&choice[simulator.RetryAfter]{&o.RetryAfter, map[string]simulator.RetryAfter{
		"none": simulator.NoRetryAfter, "seconds": simulator.RetryAfterSeconds, "date": simulator.RetryAfterDate,
	}, "none"}, "retry-after", "what a 429 says: none, seconds or date")
	f.DurationVar(&o.ClockOffset, "clock-offset", 0, "how far both servers' clocks are off")
	f.BoolVar(&o.Gzip, "gzip", false, "compress answers")
	f.Var(&choice[simulator.PutSemantics]{&o.Put, map[string]simulator.PutSemantics{
		"replace": simulator.Replace, "shallow": simulator.ShallowMerge, "deep": simulator.DeepMerge,
	}, "replace"}, "put", "what a PUT does to otherInfo: replace, shallow or deep merge")
	f.Var(&choice[simulator.PutAnswer]{&o.PutAnswer, map[string]simulator.PutAnswer{
		"full": simulator.Full, "short": simulator.Short, "stale": simulator.StaleListRow,
	}, "full"}, "put-answer", "what a PUT answers: full, short or stale")
	f.Var(&choice[simulator.ListRows]{&o.ListRows, map[string]simulator.ListRows{
		"complete": simulator.Complete, "partial": simulator.Partial,
	}, "complete"}, "list-rows", "otherInfo in rows of the BLN list: complete or partial")
	f.BoolVar(&o.LinkHeader, "link-header", false, "the BLN list has a link header")
	f.BoolVar(&o.ShortPages, "short-pages", false, "pages of the BLN list are shorter than asked though more follow")
	f.BoolVar(&o.AfterIgnored, "cursor-ignored", false, "the BLN list ignores its cursor")
	f.BoolVar(&o.OpaqueTokens, "opaque-tokens", false, "BLN tokens are hex rather than JWT")
	f.DurationVar(&o.TokenLife, "token-life", 7*24*time.Hour, "how long a BLN token is valid")
	f.StringVar(&o.Role, "role", simulator.RoleAdmin, "role of the BLN account: admin, auditor, networkAdmin or member")
	f.Var(&choice[bool]{&o.PagingIgnored, map[string]bool{"honoured": false, "ignored": true}, "honoured"}, "paging", "page and per_page of a filtered NameCoach list: honoured or ignored")
	f.IntVar(&o.MaxPerPage, "max-per-page", 2000, "rows of a NameCoach page at most")
	f.IntVar(&o.TruncateRows, "truncate-rows", 0, "rows of a NameCoach answer at most, whatever total_count says; 0 = all")
	f.BoolVar(&o.NoWrapper, "no-wrapper", false, "NameCoach lists come without Response around them")
	f.BoolVar(&o.NoMeta, "no-meta", false, "NameCoach lists come without meta")
	f.BoolVar(&o.RotateDigests, "rotate-digests", false, "addresses of recordings differ at every read")
	f.DurationVar(&o.LateVisible, "late-visible", 0, "how long a change stays unseen")
	f.DurationVar(&o.LateVisibleUpTo, "late-visible-up-to", 0, "and a while more, up to this, another for each change")
	f.Float64Var(&changes, "changes-per-minute", 0, "how often somebody changes something, one line each; 0 = never")
	return cmd
}

// avoid is how long simulated applications leave a user alone after a bridge's GET or PUT.
const avoid = 30 * time.Second

func simulate(cmd *cobra.Command, o simulator.Options, changesPerMinute float64) (err error) {
	s, err := simulator.New(o)
	if err != nil {
		return usageError{err}
	}
	if err := s.Start(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	out, log := cmd.OutOrStdout(), cmd.ErrOrStderr()
	totals := s.Truth().Totals
	fmt.Fprintf(log, "simulator  NameCoach with %s participants · BLN organization \"Demo College\" with %s users\n", grouped(totals.Participants), grouped(totals.Users))
	fmt.Fprintf(log, "           a correct backfill writes %s and holds %s\n\n", grouped(totals.Written), heldText(totals.Held))
	fmt.Fprintf(out, "export NAMECOACH_URL=%s\nexport NAMECOACH_TOKEN=%s\nexport BLN_URL=%s\nexport BLN_ORGANIZATION_ID=%d\nexport BLN_USERNAME=%s\nexport BLN_PASSWORD=%s\n",
		s.NameCoachURL(), s.Token(), s.BLNURL(), s.OrganizationID(), s.Username(), s.Password())
	fmt.Fprint(log, "\nserving until Ctrl-C\n")

	var tick <-chan time.Time
	if changesPerMinute > 0 {
		t := time.NewTicker(time.Duration(min(float64(time.Minute)/changesPerMinute, float64(24*time.Hour))))
		defer t.Stop()
		tick = t.C
	}
	life := s.Life(simulator.LifeOptions{Seed: o.Seed, Avoid: avoid})
	for {
		select {
		case <-tick:
			if change, ok := life.Next(); ok {
				fmt.Fprintf(log, "%s  %s\n", change.At.Format(time.TimeOnly), change)
			}
		case <-cmd.Context().Done():
			report(log, s)
			return nil
		}
	}
}

// report says at the end what was asked.
func report(w io.Writer, s *simulator.Simulator) {
	counts, truth := s.Counts(), s.Truth()
	fmt.Fprintln(w, "\nrequests")
	if len(counts) == 0 {
		fmt.Fprintln(w, "  none")
	}
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(w, "  %-32s %9s\n", name, grouped(counts[name]))
	}
	fmt.Fprintf(w, "people whose record is right: %s of %s\n", grouped(truth.Totals.Unchanged), grouped(truth.Totals.Unchanged+truth.Totals.Written))
	fmt.Fprintf(w, "writes: %s, of which %s changed nothing\n", grouped(len(s.Writes())), grouped(len(s.IdleWrites())))
	for _, what := range s.LostUpdates() {
		fmt.Fprintf(w, "undone: %s\n", what)
	}
	for _, what := range s.Violations() {
		fmt.Fprintf(w, "impolite: %s\n", what)
	}
}

// heldText is "131 unmatched, 22 ambiguous", without zeros.
func heldText(held map[string]int) string {
	text := ""
	for _, reason := range reasons {
		if held[reason] > 0 {
			if text != "" {
				text += ", "
			}
			text += grouped(held[reason]) + " " + reason
		}
	}
	if text == "" {
		return "nobody"
	}
	return text
}

// grouped writes 6204 as 6,204.
func grouped(n int) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
