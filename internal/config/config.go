// Package config turns the environment into one validated struct, and a wrong environment into one list of everything that is wrong.
//
// Variables is the table of all settings: their names, defaults, meanings and how each is read. Load, the help text and the table in the
// README all come from it.
package config

import (
	"log/slog"
	"regexp"
	"time"
)

// Config is everything that the environment says. It can be printed: secrets show as "…".
type Config struct {
	DatabaseURL       Secret // a postgres:// URL, or Embedded
	ListenAddr        string // host:port
	AdminPasswordHash Secret // bcrypt; empty: the web pages are off
	LogLevel          slog.Level
	LogFormat         string   // "json" or "text"
	Bridges           []Bridge // at least one; in the order of BRIDGES
}

// Names gives the names of all bridges, in their order.
func (c *Config) Names() []string {
	names := make([]string, len(c.Bridges))
	for i, b := range c.Bridges {
		names[i] = b.Name
	}
	return names
}

// Embedded is the DATABASE_URL that asks for a private Postgres beside the process.
const Embedded = "embedded"

// Bridge is one NameCoach account joined to one BLN organization.
type Bridge struct {
	Name string // "default" without BRIDGES

	NameCoachURL                  string // without a slash at the end, as is BLNURL
	NameCoachToken                Secret
	NameCoachEvents               []string // event_access_codes in order of preference; nil: all events count alike
	NameCoachRequestsPer15Minutes int

	BLNURL               string
	BLNOrganizationID    int64
	BLNUsername          string // with BLNPassword; empty with BLNAccessToken
	BLNPassword          Secret
	BLNAccessToken       Secret
	BLNRequestsPerSecond float64
	BLNConcurrency       int
	BLNPutSemantics      string // "replace" or "merge"

	OtherInfoKey    string
	OtherInfoLayout string // "nested" or "flat"
	OtherInfoFields []Field
	MatchBy         []string // of "externalId", "email" and "otherEmail", in the order in which they are tried
	LinkHosts       []string // lower case; "*.name" is every host below name, and not name itself

	CollectSchedule, SweepSchedule, CensusSchedule string // cron.ParseStandard accepts them

	WindowLookback, WindowSettle time.Duration
	GuardMaxClears               int
	GuardMaxClearPercent         float64 // 0 to 100
	CensusConfirmations          int
	JournalRetention             time.Duration

	prefixed map[string]bool // its variables whose name has the bridge's prefix: those that were found so, or nowhere
}

var word = regexp.MustCompile(`[A-Z][A-Z0-9_]*`)

// Named is text with the bridge's variables under the names that they were found by: with BRIDGES, NAMECOACH_TOKEN becomes
// ACME_NAMECOACH_TOKEN, unless it was found without the prefix, and so is shared by all bridges.
func (b Bridge) Named(text string) string {
	return word.ReplaceAllStringFunc(text, func(name string) string {
		if b.prefixed[name] {
			return Prefix(b.Name) + name
		}
		return name
	})
}

// Field is an extra attribute of a participant that is carried into otherInfo.
type Field struct {
	Name      string // the key in otherInfo; in the flat layout OTHER_INFO_KEY and "_" come before it
	Attribute string // what NameCoach calls it
}
