package config

import (
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// Variable is one setting.
type Variable struct {
	Name      string
	Default   string // as it would be written in the environment; "" for none
	Meaning   string // one sentence or two, in Markdown
	Secret    bool   // may also come from the file that the variable with _FILE at its end names
	PerBridge bool   // with BRIDGES it is looked up with the bridge's prefix first

	missing string // where there must be a value: what it is, for the one who has to find it
	set     func(*Config, *Bridge, string) error
}

// Variables is every setting, in the order in which people read them.
var Variables = []Variable{
	{
		Name: "DATABASE_URL", Secret: true,
		Meaning: "Postgres 14 or newer: `postgres://user:password@host/namebridge`. `embedded` starts a private Postgres beside the process, " +
			"with the programs in `NAMEBRIDGE_POSTGRES_BIN`, else the installed ones",
		set: global(func(c *Config) *Secret { return &c.DatabaseURL }, databaseURL),
	},
	{
		Name: "NAMECOACH_URL", Default: "https://www.name-coach.com/api/private/v5", PerBridge: true,
		Meaning: "Where NameCoach's API v5 is",
		set:     bridge(func(b *Bridge) *string { return &b.NameCoachURL }, baseURL),
	},
	{
		Name: "NAMECOACH_TOKEN", Secret: true, PerBridge: true,
		Meaning: "**Required.** The access token of your NameCoach account",
		missing: "It is the access token of your NameCoach account",
		set:     bridge(func(b *Bridge) *Secret { return &b.NameCoachToken }, token),
	},
	{
		Name: "NAMECOACH_EVENTS", PerBridge: true,
		Meaning: "The `event_access_code`s that count, in order of preference, separated by commas. Without it all events count. " +
			"One that is taken away speaks for nobody any more; what it has brought to BLN stays until another speaks for that person",
		set: bridge(func(b *Bridge) *[]string { return &b.NameCoachEvents }, list),
	},
	{
		Name: "NAMECOACH_REQUESTS_PER_15_MINUTES", Default: "1000", PerBridge: true,
		Meaning: "An upper bound; what NameCoach's headers say may lower it",
		set:     bridge(func(b *Bridge) *int { return &b.NameCoachRequestsPer15Minutes }, positive),
	},
	{
		Name: "BLN_URL", Default: "https://bln-api.coursepark.com", PerBridge: true,
		Meaning: "Where BLN's API is",
		set:     bridge(func(b *Bridge) *string { return &b.BLNURL }, baseURL),
	},
	{
		Name: "BLN_ORGANIZATION_ID", PerBridge: true,
		Meaning: "**Required.** The organization's number, not its key",
		missing: "It is the number of your BLN organization",
		set:     bridge(func(b *Bridge) *int64 { return &b.BLNOrganizationID }, organizationID),
	},
	{
		Name: "BLN_USERNAME", PerBridge: true,
		Meaning: "**Required**, with `BLN_PASSWORD`, unless there is a `BLN_ACCESS_TOKEN`. An administrator of the organization",
		set:     bridge(func(b *Bridge) *string { return &b.BLNUsername }, text),
	},
	{
		Name: "BLN_PASSWORD", Secret: true, PerBridge: true,
		Meaning: "The administrator's password",
		set:     bridge(func(b *Bridge) *Secret { return &b.BLNPassword }, password),
	},
	{
		Name: "BLN_ACCESS_TOKEN", Secret: true, PerBridge: true,
		Meaning: "Instead of `BLN_USERNAME` and `BLN_PASSWORD`. Tokens end after some days, and then the bridge stops",
		set:     bridge(func(b *Bridge) *Secret { return &b.BLNAccessToken }, token),
	},
	{
		Name: "BLN_REQUESTS_PER_SECOND", Default: "20", PerBridge: true,
		Meaning: "An upper bound of the request rate",
		set:     bridge(func(b *Bridge) *float64 { return &b.BLNRequestsPerSecond }, rate),
	},
	{
		Name: "BLN_CONCURRENCY", Default: "8", PerBridge: true,
		Meaning: "Requests to BLN that are under way at the same time, at most",
		set:     bridge(func(b *Bridge) *int { return &b.BLNConcurrency }, positive),
	},
	{
		Name: "BLN_PUT_SEMANTICS", Default: "replace", PerBridge: true,
		Meaning: "`replace` sends all of `otherInfo` back with the fragment in it. `merge` sends only the fragment, once " +
			"`namebridge doctor --probe-write` has shown that this server merges: until then everything is sent",
		set: bridge(func(b *Bridge) *string { return &b.BLNPutSemantics }, oneOf("replace", "merge")),
	},
	{
		Name: "OTHER_INFO_KEY", Default: "namecoach", PerBridge: true,
		Meaning: "The key in `otherInfo` that the bridge owns",
		set:     bridge(func(b *Bridge) *string { return &b.OtherInfoKey }, otherInfoKey),
	},
	{
		Name: "OTHER_INFO_LAYOUT", Default: "nested", PerBridge: true,
		Meaning: "`nested` writes one object under the key; `flat` writes `namecoach_name_badge_link` and so on",
		set:     bridge(func(b *Bridge) *string { return &b.OtherInfoLayout }, oneOf("nested", "flat")),
	},
	{
		Name: "OTHER_INFO_FIELDS", PerBridge: true,
		Meaning: "Extra attributes to carry, by the name they get: `pronouns=custom_gender_pronouns,phonetic=phonetic_spelling`",
		set:     bridge(func(b *Bridge) *[]Field { return &b.OtherInfoFields }, fields),
	},
	{
		Name: "MATCH_BY", Default: "externalId,email", PerBridge: true,
		Meaning: "What links a participant to a user, in this order. `otherEmail` adds `personalEmail` and `workEmail`, which users can edit " +
			"themselves: whoever enters another's address then claims the other's recording",
		set: bridge(func(b *Bridge) *[]string { return &b.MatchBy }, matchBy),
	},
	{
		Name: "LINK_HOSTS", PerBridge: true,
		// The buckets are the two that are known to hold recordings. A bucket's name says nothing about its owner, so none is guessed.
		Default: "name-coach.com,*.name-coach.com,namewaves.s3.amazonaws.com,nc-library-recordings.s3.us-west-1.amazonaws.com",
		Meaning: "Hosts that a link may name; a person with any other link is held. `*.` in front means every host below",
		set:     bridge(func(b *Bridge) *[]string { return &b.LinkHosts }, linkHosts),
	},
	{
		Name: "COLLECT_SCHEDULE", Default: "@every 5m", PerBridge: true,
		Meaning: "When NameCoach is asked what is new: a cron expression, `@hourly` and the like, or `@every 5m`. In UTC, unless it begins with " +
			"`CRON_TZ=Europe/Berlin` or the like",
		set: bridge(func(b *Bridge) *string { return &b.CollectSchedule }, schedule),
	},
	{
		Name: "SWEEP_SCHEDULE", Default: "0 2 * * *", PerBridge: true,
		Meaning: "When every user of the organization is compared with what should be there",
		set:     bridge(func(b *Bridge) *string { return &b.SweepSchedule }, schedule),
	},
	{
		Name: "CENSUS_SCHEDULE", Default: "0 4 * * 6", PerBridge: true,
		Meaning: "When NameCoach is asked about every linked person, to notice who is gone",
		set:     bridge(func(b *Bridge) *string { return &b.CensusSchedule }, schedule),
	},
	{
		Name: "WINDOW_LOOKBACK", Default: "10m", PerBridge: true,
		Meaning: "How far each collect looks back behind the last one",
		set:     bridge(func(b *Bridge) *time.Duration { return &b.WindowLookback }, positiveDuration),
	},
	{
		Name: "WINDOW_SETTLE", Default: "30s", PerBridge: true,
		Meaning: "The newest edge of time, which is left for the next collect. Shorter than the lookback",
		set:     bridge(func(b *Bridge) *time.Duration { return &b.WindowSettle }, durationOrZero),
	},
	{
		Name: "GUARD_MAX_CLEARS", Default: "20", PerBridge: true,
		Meaning: "A run that would clear more people than this, and more than the percentage below, waits for an approval",
		set:     bridge(func(b *Bridge) *int { return &b.GuardMaxClears }, notNegative),
	},
	{
		Name: "GUARD_MAX_CLEAR_PERCENT", Default: "2", PerBridge: true,
		Meaning: "The same, in per cent of the linked users",
		set:     bridge(func(b *Bridge) *float64 { return &b.GuardMaxClearPercent }, percent),
	},
	{
		Name: "CENSUS_CONFIRMATIONS", Default: "2", PerBridge: true,
		Meaning: "How many complete censuses must miss a person before the badge is cleared",
		set:     bridge(func(b *Bridge) *int { return &b.CensusConfirmations }, positive),
	},
	{
		Name: "JOURNAL_RETENTION", Default: "90d", PerBridge: true,
		Meaning: "How long the record of each write is kept, with our keys as they stood before",
		set:     bridge(func(b *Bridge) *time.Duration { return &b.JournalRetention }, positiveDuration),
	},
	{
		Name: "LISTEN_ADDR", Default: ":8080",
		Meaning: "Where `serve` answers over HTTP: health and metrics",
		set:     global(func(c *Config) *string { return &c.ListenAddr }, listenAddr),
	},
	{
		Name: "ADMIN_PASSWORD_HASH", Secret: true,
		Meaning: "The bcrypt hash of the password for the web pages, which are not there yet: it is checked and changes nothing",
		set:     global(func(c *Config) *Secret { return &c.AdminPasswordHash }, bcryptHash),
	},
	{
		Name: "LOG_LEVEL", Default: "info",
		Meaning: "`debug`, `info`, `warn` or `error`. Without this and `LOG_FORMAT`, a command that shows its progress on a terminal logs from `warn` on",
		set:     global(func(c *Config) *slog.Level { return &c.LogLevel }, logLevel),
	},
	{
		Name: "LOG_FORMAT", Default: "json",
		Meaning: "`json` or `text`. Without this, a command that shows its progress on a terminal logs text",
		set:     global(func(c *Config) *string { return &c.LogFormat }, oneOf("json", "text")),
	},
	{
		Name: bridgesVariable,
		Meaning: "Names of several bridges: `acme,globex`. Then each variable of a bridge is read with its prefix, `ACME_NAMECOACH_TOKEN`, " +
			"and without it where that is not set",
		set: func(*Config, *Bridge, string) error { return nil }, // read first: it says whose variables there are
	},
}

const bridgesVariable = "BRIDGES"

// Markdown is the table of all variables, for the README.
func Markdown() string {
	var b strings.Builder
	b.WriteString("| variable | default | meaning |\n|---|---|---|\n")
	for _, v := range Variables {
		name, fallback := "`"+v.Name+"`", ""
		if v.Secret {
			name += ", `…_FILE`"
		}
		if v.Default != "" {
			fallback = "`" + v.Default + "`"
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", name, fallback, v.Meaning)
	}
	return b.String()
}

// Help is the same for a terminal.
func Help() string {
	var b strings.Builder
	plain := strings.NewReplacer("**", "", "`", "")
	for _, v := range Variables {
		b.WriteString("  " + v.Name)
		if v.Default != "" {
			b.WriteString(" = " + v.Default)
		}
		if v.Secret {
			b.WriteString("   (or " + v.Name + FileSuffix + ", the name of a file that holds it)")
		}
		b.WriteByte('\n')
		for _, line := range wrap(plain.Replace(v.Meaning)+".", 90) {
			b.WriteString("      " + line + "\n")
		}
	}
	return b.String()
}

// wrap breaks text into lines of at most width bytes, between words.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		switch {
		case line == "":
			line = word
		case len(line)+1+len(word) > width:
			lines = append(lines, line)
			line = word
		default:
			line += " " + word
		}
	}
	return append(lines, line)
}

// global reads into a field of Config, bridge into one of Bridge.
func global[T any](field func(*Config) *T, parse func(string) (T, error)) func(*Config, *Bridge, string) error {
	return func(c *Config, _ *Bridge, s string) error { return into(field(c), parse, s) }
}

func bridge[T any](field func(*Bridge) *T, parse func(string) (T, error)) func(*Config, *Bridge, string) error {
	return func(_ *Config, b *Bridge, s string) error { return into(field(b), parse, s) }
}

func into[T any](field *T, parse func(string) (T, error), s string) error {
	v, err := parse(s)
	if err == nil {
		*field = v
	}
	return err
}
