package config

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/robfig/cron/v3"
)

// The functions here read one value. Their errors follow the variable's name in a sentence (which lacks its full stop) and say how to
// mend it. They quote the value unless it is a secret or may hold one.

// quoted is a value in an error, cut where it is long.
func quoted(s string) string {
	if r := []rune(s); len(r) > 60 {
		s = string(r[:60]) + "…"
	}
	return strconv.Quote(s)
}

func text(s string) (string, error) {
	if strings.ContainsFunc(s, unicode.IsControl) {
		return "", errors.New("has control characters")
	}
	return s, nil
}

// password is any text: white space is legal in it, also at its ends.
func password(s string) (Secret, error) { return NewSecret(s), nil }

func token(s string) (Secret, error) {
	if strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
		return Secret{}, errors.New("has white space or control characters in it: a token has none. Copy it again")
	}
	return NewSecret(s), nil
}

func databaseURL(s string) (Secret, error) {
	s = strings.TrimSpace(s)
	if s == Embedded {
		return NewSecret(s), nil
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" && u.Query().Get("host") == "" || !slices.Contains([]string{"postgres", "postgresql"}, u.Scheme) {
		return Secret{}, errors.New("is not a URL like postgres://user:password@host/namebridge, nor embedded. Special characters in the password are written %21 and so on")
	}
	return NewSecret(s), nil
}

var bcryptPattern = regexp.MustCompile(`^\$2[aby]\$(0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{53}$`)

func bcryptHash(s string) (Secret, error) {
	s = strings.TrimSpace(s)
	if !bcryptPattern.MatchString(s) {
		return Secret{}, errors.New(`is not a bcrypt hash. Make one: htpasswd -nBC 12 "" | tr -d ':\n'. (A shell or compose file may have eaten its $ signs)`)
	}
	return NewSecret(s), nil
}

func baseURL(s string) (string, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil, u.Opaque != "", u.Scheme != "https" && u.Scheme != "http", u.Hostname() == "":
		return "", errors.New("is not a URL like https://api.example.com")
	case u.User != nil:
		return "", errors.New("has a user name or password in it: those have variables of their own")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return "", errors.New("has a query or fragment: give the address alone")
	case u.Scheme == "http" && !Loopback(u.Hostname()):
		return "", fmt.Errorf("%s is not https. Plain http is accepted for loopback only", s)
	}
	return strings.TrimRight(s, "/"), nil
}

// Loopback says of a host, a name or an address, that it is this machine.
func Loopback(host string) bool {
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

// list is what stands between the commas.
func list(s string) ([]string, error) {
	var all []string
	for item := range strings.SplitSeq(s, ",") {
		item = strings.TrimSpace(item)
		switch {
		case item == "":
			return nil, fmt.Errorf("%s has an empty place between its commas", quoted(s))
		case strings.ContainsFunc(item, unicode.IsControl):
			return nil, errors.New("has control characters")
		case slices.Contains(all, item):
			return nil, fmt.Errorf("names %s twice", quoted(item))
		}
		all = append(all, item)
	}
	return all, nil
}

func oneOf(allowed ...string) func(string) (string, error) {
	return func(s string) (string, error) {
		if !slices.Contains(allowed, s) {
			return "", fmt.Errorf("%s is neither %s", quoted(s), strings.Join(allowed, " nor "))
		}
		return s, nil
	}
}

func whole(s string, least int) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < least {
		return 0, fmt.Errorf("%s is not a whole number of at least %d", quoted(s), least)
	}
	return n, nil
}

func positive(s string) (int, error)    { return whole(s, 1) }
func notNegative(s string) (int, error) { return whole(s, 0) }

func organizationID(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s is not a number. Sign-in needs the numeric id, not the key", quoted(s))
	}
	if n <= 0 {
		return 0, fmt.Errorf("%s is not the number of an organization: those start at 1", quoted(s))
	}
	return n, nil
}

func rate(s string) (float64, error) {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(f) || math.IsInf(f, 0) || f <= 0 {
		return 0, fmt.Errorf("%s is not a number above 0", quoted(s))
	}
	return f, nil
}

func percent(s string) (float64, error) {
	f, err := strconv.ParseFloat(strings.TrimSuffix(s, "%"), 64)
	if err != nil || math.IsNaN(f) || f < 0 || f > 100 {
		return 0, fmt.Errorf("%s is not a percentage from 0 to 100", quoted(s))
	}
	return f, nil
}

var daysPattern = regexp.MustCompile(`^([0-9]{1,6})d(.*)$`)

// duration reads Go's durations, and days in front of them: 90d, 1d12h. A day has 24 hours here.
func duration(s string) (time.Duration, error) {
	var days time.Duration
	rest := s
	if m := daysPattern.FindStringSubmatch(s); m != nil {
		n, err := strconv.Atoi(m[1])
		if err != nil || n > int(math.MaxInt64/(24*time.Hour)) {
			return 0, fmt.Errorf("%s is too long", quoted(s))
		}
		if days = time.Duration(n) * 24 * time.Hour; m[2] == "" {
			return days, nil
		}
		rest = m[2]
	}
	d, err := time.ParseDuration(rest)
	if err != nil || days > 0 && (d < 0 || days > math.MaxInt64-d) {
		return 0, fmt.Errorf("%s is not a duration like 30s, 10m, 2h or 90d", quoted(s))
	}
	return days + d, nil
}

func positiveDuration(s string) (time.Duration, error) {
	d, err := duration(s)
	if err == nil && d <= 0 {
		return 0, fmt.Errorf("%s is not longer than 0", quoted(s))
	}
	return d, err
}

func durationOrZero(s string) (time.Duration, error) {
	d, err := duration(s)
	if err == nil && d < 0 {
		return 0, fmt.Errorf("%s is shorter than 0", quoted(s))
	}
	return d, err
}

func schedule(s string) (string, error) {
	if (strings.HasPrefix(s, "TZ=") || strings.HasPrefix(s, "CRON_TZ=")) && !strings.Contains(s, " ") {
		return "", fmt.Errorf("%s has a time zone and no schedule", quoted(s)) // the parser would panic
	}
	parsed, err := cron.ParseStandard(s)
	if err != nil {
		return "", fmt.Errorf("%s is not a schedule like */5 * * * *, @hourly or @every 5m: %w", quoted(s), err)
	}
	if every, ok := strings.CutPrefix(s, "@every "); ok {
		if d, err := time.ParseDuration(every); err != nil || d < time.Second { // the parser would make it a second
			return "", fmt.Errorf("%s comes more often than once a second", quoted(s))
		}
	}
	if parsed.Next(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return "", fmt.Errorf("%s never comes", quoted(s))
	}
	return s, nil
}

func listenAddr(s string) (string, error) {
	_, port, err := net.SplitHostPort(s)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return "", fmt.Errorf("%s is not an address like :8080 or 127.0.0.1:8080", quoted(s))
	}
	return s, nil
}

func logLevel(s string) (slog.Level, error) {
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	level, ok := levels[strings.ToLower(s)]
	if !ok {
		return 0, fmt.Errorf("%s is not one of debug, info, warn, error", quoted(s))
	}
	return level, nil
}

// keyPattern is BLN's rule for the names of its users' own properties, BLN 7430.
var keyPattern = regexp.MustCompile(`^[a-zA-Z_0-9-]+$`)

// documented are the keys of otherInfo that mean something to BLN: those of the write schema, BLN 7347-7428, and learningRecords, which
// can only be read, BLN 7170.
var documented = []string{
	"address", "birthYear", "dob", "phone", "homePhone", "mobilePhone", "personalEmail", "workPhone", "workEmail", "jobTitle", "trades",
	"trainingStatus", "homePhoneContactAllowed", "mobilePhoneContactAllowed", "device", "affiliation", "learningRecords",
}

// own are the keys that every fragment has.
var own = []string{"name_badge_link", "recording_link", "recording_id", "recording_date", "event_title"}

func otherInfoKey(s string) (string, error) {
	if !keyPattern.MatchString(s) {
		return "", fmt.Errorf("%s is not a key that BLN accepts: letters, digits, _ and - only", quoted(s))
	}
	if slices.ContainsFunc(documented, func(d string) bool { return strings.EqualFold(d, s) }) {
		return "", fmt.Errorf("%s is a key of BLN itself. Choose one that nobody else uses, such as namecoach", s)
	}
	return s, nil
}

func fields(s string) ([]Field, error) {
	items, err := list(s)
	if err != nil {
		return nil, err
	}
	var all []Field
	for _, item := range items {
		name, attribute, ok := strings.Cut(item, "=")
		f := Field{Name: strings.TrimSpace(name), Attribute: strings.TrimSpace(attribute)}
		switch {
		case !ok || f.Name == "" || f.Attribute == "":
			return nil, fmt.Errorf("%s is not a pair like pronouns=custom_gender_pronouns", quoted(item))
		case !keyPattern.MatchString(f.Name):
			return nil, fmt.Errorf("the name %s has more than letters, digits, _ and -, which is all that BLN accepts", quoted(f.Name))
		case slices.Contains(own, f.Name):
			return nil, fmt.Errorf("the name %s is always there. Choose another", f.Name)
		case slices.ContainsFunc(all, func(g Field) bool { return g.Name == f.Name }):
			return nil, fmt.Errorf("gives the name %s to two attributes", f.Name)
		}
		all = append(all, f)
	}
	// A user has 100 properties at most, BLN 7463, the foreign ones included.
	if limit := 50; len(all) > limit {
		return nil, fmt.Errorf("has %d fields; %d is the most", len(all), limit)
	}
	return all, nil
}

func matchBy(s string) ([]string, error) {
	items, err := list(s)
	for _, item := range items {
		if !slices.Contains([]string{"externalId", "email", "otherEmail"}, item) {
			return nil, fmt.Errorf("%s is not one of externalId, email, otherEmail", quoted(item))
		}
	}
	return items, err
}

var (
	hostPattern = regexp.MustCompile(`^(\*\.)?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)
	// shared are domains below which everybody can have a host: a wildcard there would allow everybody's files.
	shared = []string{"amazonaws.com", "cloudfront.net", "googleapis.com", "windows.net"}
)

func linkHosts(s string) ([]string, error) {
	items, err := list(strings.ToLower(s))
	for _, host := range items {
		if !hostPattern.MatchString(host) || len(host) > 253 {
			return nil, fmt.Errorf("%s is not a host name like name-coach.com or *.name-coach.com: no scheme, port or path", quoted(host))
		}
		domain, wildcard := strings.CutPrefix(host, "*.")
		for _, everybody := range shared {
			if wildcard && (domain == everybody || strings.HasSuffix(domain, "."+everybody)) {
				return nil, fmt.Errorf("%s allows everybody's files: name each host below %s in full", quoted(host), everybody)
			}
		}
	}
	return items, err
}
