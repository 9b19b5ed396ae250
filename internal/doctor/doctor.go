// Package doctor looks at a deployment from outside, as far as it can be looked at, and says of everything that is not in order how to mend
// it: configuration, database, schema, queue, both sign-ins, privileges and clocks. It changes nothing, but for the probe, which proves on
// one test user whether BLN merges or replaces otherInfo.
//
// What is found holds no secret, no person's address and nothing of an answer but numbers and the organization's name.
package doctor

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/jackc/pgx/v5/pgxpool"

	"namebridge/internal/config"
	"namebridge/migrations"
	"namebridge/state"
)

// Status is how something stands.
type Status string

// What a check can find.
const (
	OK      Status = "ok"
	Warning Status = "warning" // it works, and somebody should know
	Problem Status = "problem" // something does not work
)

// What is checked: the Check of a Finding.
const (
	Configuration = "configuration"
	Database      = "database"
	Connections   = "connections"
	Sessions      = "sessions" // what a connection pooler breaks
	Schema        = "schema"
	Queue         = "queue"
	Daemon        = "daemon" // live processes and what they should have begun
	Bridge        = "bridge" // halted, quarantined, unsettled writes
	NameCoach     = "namecoach"
	BLN           = "bln"
	Privileges    = "privileges"
	Clock         = "clock"
	Probe         = "probe"
)

// Finding is what one look came to.
type Finding struct {
	Bridge string `json:"bridge"` // "" where it concerns all
	Check  string `json:"check"`
	Status Status `json:"status"`
	Text   string `json:"text"`
	Cure   string `json:"cure"` // what to do about it; "" where it is ok

	Stopped bool `json:"-"` // a bridge is halted or a run quarantined: a person must look
}

// Options say what to look at.
type Options struct {
	Config    *config.Config   // as far as it could be read; zero values are not looked at
	Problems  *config.Problems // what is wrong with it; nil: nothing
	Strangers []Stranger       // what the environment has that reads like ours
	Bridge    string           // the only one to look at; "" all
	Probe     int64            // user.id of a test user on whom to prove what a PUT does; 0: no probe. With it there is one bridge only

	// Database gives the URL of the database, started where it is a private one, and what stops it.
	Database func(context.Context) (url string, stop func(), err error)
	Now      func() time.Time // our clock; nil: time.Now
	Patience time.Duration    // for each server; 0 = 20 s
}

// clockTolerance is how far two clocks may be apart before it is worth a word.
const clockTolerance = 30 * time.Second

// Run looks at everything, one thing after the other, and reports each finding as it is made. It stops early where ctx ends; then what it
// has reported is not all.
func Run(ctx context.Context, o Options, report func(Finding)) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Patience == 0 {
		o.Patience = 20 * time.Second
	}
	e := &examination{Options: o, report: func(f Finding) {
		for _, b := range o.Config.Bridges {
			if b.Name == f.Bridge {
				f.Text, f.Cure = b.Named(f.Text), b.Named(f.Cure)
			}
		}
		report(f)
	}}
	e.configuration()
	stop := e.database(ctx)
	defer stop()
	for _, b := range o.Config.Bridges {
		if o.Bridge != "" && b.Name != o.Bridge {
			continue
		}
		if ctx.Err() != nil {
			return
		}
		e.oneBridge(ctx, b)
	}
}

// examination is one Run.
type examination struct {
	Options
	report func(Finding)
	db     *pgxpool.Pool // nil where it cannot be used
	tables bool          // the schema is there, as this program knows it or newer
}

func (e *examination) ok(bridge, check, text string, args ...any) {
	e.report(Finding{Bridge: bridge, Check: check, Status: OK, Text: fmt.Sprintf(text, args...)})
}

// found reports what is not ok. A text with verbs comes formatted.
func (e *examination) found(s Status, bridge, check, text, cure string) {
	e.report(Finding{Bridge: bridge, Check: check, Status: s, Text: text, Cure: cure})
}

// oneBridge looks at all that is one bridge's. What one server does not answer does not keep the other from being asked.
func (e *examination) oneBridge(ctx context.Context, b config.Bridge) {
	if e.tables {
		e.stored(ctx, b)
	}
	e.nameCoach(ctx, b)
	if ctx.Err() != nil {
		return
	}
	client := e.bln(ctx, b)
	switch {
	case e.Probe == 0 || ctx.Err() != nil:
	case client == nil || !e.tables:
		e.found(Problem, b.Name, Probe,
			fmt.Sprintf("nothing was written to user %d: a probe needs the database with its tables, and a BLN that lets this account write", e.Probe),
			"mend what is named above, then run it again")
	case b.OtherInfoKey == "":
		e.found(Problem, b.Name, Probe, fmt.Sprintf("nothing was written to user %d: OTHER_INFO_KEY is wrong", e.Probe),
			"mend what is named above, then run it again")
	default:
		e.probe(ctx, b, client)
	}
	if ctx.Err() == nil {
		e.semantics(ctx, b)
	}
}

// length is a span of time for people.
func length(d time.Duration) string {
	d = d.Abs()
	if d > time.Second {
		d = d.Round(time.Second)
	}
	switch {
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.2f ms", float64(d.Microseconds())/1000)
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d d", int(d.Hours()/24))
}

// count is a number with its noun, whose plural has an s.
func count(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// plain makes a name that a server gave printable on one line, at most 80 characters.
func plain(s string) string {
	shown := []rune(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "")))
	if len(shown) > 80 {
		return string(shown[:80]) + "…"
	}
	return string(shown)
}

// clock reports how far a server's clock is from ours, where that is worth a word; offset is the server's minus ours.
func (e *examination) clock(bridge, whose string, offset time.Duration, means string) {
	if offset.Abs() <= clockTolerance {
		return
	}
	side := "ahead of"
	if offset < 0 {
		side = "behind"
	}
	e.found(Warning, bridge, Clock, fmt.Sprintf("%s clock is %s %s this machine's. %s", whose, length(offset), side, means),
		"keep this machine's time by NTP; if it is (other servers agree with it), tell who runs that server")
}

// known are all migrations of this program. It must not be asked for where the database has none yet: it would make the table that notes them.
func known(ctx context.Context, url string) (newest int64, pending int, err error) {
	all, err := migrations.List(ctx, url)
	for _, m := range all {
		if !m.Unknown {
			newest = max(newest, m.Version)
		}
		if !m.Applied {
			pending++
		}
	}
	return newest, pending, err
}

// lease is how long a process is believed alive after its last heartbeat.
const lease = state.Lease * time.Second
