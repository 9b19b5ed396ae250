package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/sethvargo/go-envconfig"
)

type env = map[string]string

// least is the smallest environment that is right.
func least() env {
	return env{
		"NAMECOACH_TOKEN":     "nc-token",
		"BLN_ORGANIZATION_ID": "7",
		"BLN_USERNAME":        "bridge@acme.example",
		"BLN_PASSWORD":        "pass word",
	}
}

// with is the smallest environment, changed; "" takes a variable away.
func with(changes env) env {
	e := least()
	maps.Copy(e, changes)
	maps.DeleteFunc(e, func(_, v string) bool { return v == "" })
	return e
}

func load(t *testing.T, e env) *Config {
	t.Helper()
	c, err := Load(envconfig.MapLookuper(e))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func problems(t *testing.T, e env, needs ...Need) []Problem {
	t.Helper()
	_, err := Load(envconfig.MapLookuper(e), needs...)
	if err == nil {
		return nil
	}
	var p *Problems
	if !errors.As(err, &p) {
		t.Fatalf("got %T, want *Problems", err)
	}
	return p.List
}

// Secrets are compared by what they hide.
var reveal = cmp.Options{cmp.Transformer("reveal", Secret.Reveal), cmpopts.IgnoreUnexported(Bridge{})}

func TestTheDefaultsAreTheContract(t *testing.T) {
	t.Parallel()
	want := &Config{
		ListenAddr: ":8080",
		LogLevel:   slog.LevelInfo,
		LogFormat:  "json",
		Bridges: []Bridge{{
			Name:                          "default",
			NameCoachURL:                  "https://www.name-coach.com/api/private/v5",
			NameCoachToken:                NewSecret("nc-token"),
			NameCoachRequestsPer15Minutes: 1000,
			BLNURL:                        "https://bln-api.coursepark.com",
			BLNOrganizationID:             7,
			BLNUsername:                   "bridge@acme.example",
			BLNPassword:                   NewSecret("pass word"),
			BLNRequestsPerSecond:          20,
			BLNConcurrency:                8,
			BLNPutSemantics:               "replace",
			OtherInfoKey:                  "namecoach",
			OtherInfoLayout:               "nested",
			MatchBy:                       []string{"externalId", "email"},
			LinkHosts: []string{
				"name-coach.com", "*.name-coach.com", "namewaves.s3.amazonaws.com", "nc-library-recordings.s3.us-west-1.amazonaws.com",
			},
			CollectSchedule:      "@every 5m",
			SweepSchedule:        "0 2 * * *",
			CensusSchedule:       "0 4 * * 6",
			WindowLookback:       10 * time.Minute,
			WindowSettle:         30 * time.Second,
			GuardMaxClears:       20,
			GuardMaxClearPercent: 2,
			CensusConfirmations:  2,
			JournalRetention:     90 * 24 * time.Hour,
		}},
	}
	if diff := cmp.Diff(want, load(t, least()), reveal); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestEverythingCanBeSet(t *testing.T) {
	t.Parallel()
	hash := "$2y$12$" + strings.Repeat("a", 53)
	c := load(t, env{
		"DATABASE_URL":                      "postgres://u:p@db.acme.example/namebridge?sslmode=verify-full",
		"LISTEN_ADDR":                       "127.0.0.1:0",
		"ADMIN_PASSWORD_HASH":               hash,
		"LOG_LEVEL":                         "debug",
		"LOG_FORMAT":                        "text",
		"NAMECOACH_URL":                     "http://127.0.0.1:4001/api/private/v5/",
		"NAMECOACH_TOKEN":                   "nc-token",
		"NAMECOACH_EVENTS":                  "3A0CB, 0882F4",
		"NAMECOACH_REQUESTS_PER_15_MINUTES": "300",
		"BLN_URL":                           "http://[::1]:4002",
		"BLN_ORGANIZATION_ID":               "9007199254740993",
		"BLN_ACCESS_TOKEN":                  "bln-token",
		"BLN_REQUESTS_PER_SECOND":           "0.5",
		"BLN_CONCURRENCY":                   "2",
		"BLN_PUT_SEMANTICS":                 "merge",
		"OTHER_INFO_KEY":                    "name_coach-2",
		"OTHER_INFO_LAYOUT":                 "flat",
		"OTHER_INFO_FIELDS":                 "pronouns=custom_gender_pronouns, phonetic = phonetic_spelling",
		"MATCH_BY":                          "email,otherEmail",
		"LINK_HOSTS":                        "WWW.Name-Coach.com,*.media.acme.example",
		"COLLECT_SCHEDULE":                  "*/10 * * * *",
		"SWEEP_SCHEDULE":                    "@daily",
		"CENSUS_SCHEDULE":                   "TZ=UTC 0 4 * * 0",
		"WINDOW_LOOKBACK":                   "1d12h",
		"WINDOW_SETTLE":                     "0s",
		"GUARD_MAX_CLEARS":                  "0",
		"GUARD_MAX_CLEAR_PERCENT":           "0.5%",
		"CENSUS_CONFIRMATIONS":              "3",
		"JOURNAL_RETENTION":                 "720h",
	})
	want := &Config{
		DatabaseURL:       NewSecret("postgres://u:p@db.acme.example/namebridge?sslmode=verify-full"),
		ListenAddr:        "127.0.0.1:0",
		AdminPasswordHash: NewSecret(hash),
		LogLevel:          slog.LevelDebug,
		LogFormat:         "text",
		Bridges: []Bridge{{
			Name:                          "default",
			NameCoachURL:                  "http://127.0.0.1:4001/api/private/v5",
			NameCoachToken:                NewSecret("nc-token"),
			NameCoachEvents:               []string{"3A0CB", "0882F4"},
			NameCoachRequestsPer15Minutes: 300,
			BLNURL:                        "http://[::1]:4002",
			BLNOrganizationID:             9007199254740993,
			BLNAccessToken:                NewSecret("bln-token"),
			BLNRequestsPerSecond:          0.5,
			BLNConcurrency:                2,
			BLNPutSemantics:               "merge",
			OtherInfoKey:                  "name_coach-2",
			OtherInfoLayout:               "flat",
			OtherInfoFields:               []Field{{"pronouns", "custom_gender_pronouns"}, {"phonetic", "phonetic_spelling"}},
			MatchBy:                       []string{"email", "otherEmail"},
			LinkHosts:                     []string{"www.name-coach.com", "*.media.acme.example"},
			CollectSchedule:               "*/10 * * * *",
			SweepSchedule:                 "@daily",
			CensusSchedule:                "TZ=UTC 0 4 * * 0",
			WindowLookback:                36 * time.Hour,
			GuardMaxClearPercent:          0.5,
			CensusConfirmations:           3,
			JournalRetention:              30 * 24 * time.Hour,
		}},
	}
	if diff := cmp.Diff(want, c, reveal); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestEveryProblemIsListedAtOnceWithItsCure(t *testing.T) {
	t.Parallel()
	_, err := Load(envconfig.MapLookuper(with(env{
		"NAMECOACH_TOKEN": "", "BLN_ORGANIZATION_ID": "acme-inc", "BLN_URL": "http://bln.acme.example",
	})))
	want := `3 problems with the configuration

  NAMECOACH_TOKEN        is not set. It is the access token of your NameCoach account (or NAMECOACH_TOKEN_FILE).
  BLN_URL                http://bln.acme.example is not https. Plain http is accepted for loopback only.
  BLN_ORGANIZATION_ID    "acme-inc" is not a number. Sign-in needs the numeric id, not the key.

Every variable: namebridge config --help`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

// A wrong token must not be sent anywhere, nor a right one to where a default would lead.
func TestWhatIsWrongIsLeftOutOfAnExamination(t *testing.T) {
	t.Parallel()
	c, problems := Examine(envconfig.MapLookuper(with(env{
		"BRIDGES": "acme,Initech", "NAMECOACH_TOKEN": "two words", "NAMECOACH_URL": "http://nc.acme.example", "BLN_CONCURRENCY": "0", "DATABASE_URL": "embedded",
	})))
	if problems == nil || len(problems.List) != 4 {
		t.Fatalf("problems: %v", problems)
	}
	if c.DatabaseURL.Reveal() != Embedded || len(c.Bridges) != 1 {
		t.Fatalf("got %+v", c)
	}
	b := c.Bridges[0]
	if b.Name != "acme" || b.NameCoachURL != "" || !b.NameCoachToken.Empty() || b.BLNConcurrency != 0 || b.BLNPassword.Empty() || b.BLNOrganizationID != 7 {
		t.Errorf("got %+v", b)
	}
	if c, problems := Examine(envconfig.MapLookuper(least())); problems != nil || c.Bridges[0].NameCoachToken.Empty() {
		t.Errorf("of what is right: %+v, %v", c, problems)
	}
}

func TestAnEmptyEnvironmentNamesWhatIsRequired(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		needs []Need
		want  []string
	}{
		"without a database": {nil, []string{"NAMECOACH_TOKEN", "BLN_ORGANIZATION_ID", "BLN_USERNAME", "BLN_PASSWORD"}},
		"with a database": {
			[]Need{Database},
			[]string{"DATABASE_URL", "NAMECOACH_TOKEN", "BLN_ORGANIZATION_ID", "BLN_USERNAME", "BLN_PASSWORD"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, p := range problems(t, env{"BLN_PASSWORD": "  "}, test.needs...) {
				got = append(got, p.Variable)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestAWrongValueIsOneProblemOfItsVariable(t *testing.T) {
	t.Parallel()
	tests := []struct {
		variable, value, says string
	}{
		{"DATABASE_URL", "host=db user=u", "postgres://"},
		{"DATABASE_URL", "mysql://u@db/x", "postgres://"},
		{"DATABASE_URL", "postgres:///x", "postgres://"},
		{"DATABASE_URL", "postgres://u:p%zz@db/x", "postgres://"},
		{"NAMECOACH_URL", "http://www.name-coach.com/api/private/v5", "not https"},
		{"NAMECOACH_URL", "http://127.0.0.1.example.com", "not https"},
		{"NAMECOACH_URL", "http://10.0.0.1", "not https"},
		{"NAMECOACH_URL", "www.name-coach.com", "not a URL"},
		{"NAMECOACH_URL", "ftp://127.0.0.1", "not a URL"},
		{"NAMECOACH_URL", "https:www.name-coach.com", "not a URL"},
		{"NAMECOACH_URL", "https://u:p@www.name-coach.com", "user name or password"},
		{"NAMECOACH_URL", "https://www.name-coach.com?page=1", "query"},
		{"NAMECOACH_URL", "https://www.name-coach.com#top", "fragment"},
		{"NAMECOACH_TOKEN", "two words", "white space"},
		{"NAMECOACH_TOKEN", "line\nbreak", "white space"},
		{"NAMECOACH_EVENTS", "a,,b", "empty place"},
		{"NAMECOACH_EVENTS", "a,b,a", "twice"},
		{"NAMECOACH_REQUESTS_PER_15_MINUTES", "0", "at least 1"},
		{"NAMECOACH_REQUESTS_PER_15_MINUTES", "many", "whole number"},
		{"BLN_ORGANIZATION_ID", "acme-inc", "not the key"},
		{"BLN_ORGANIZATION_ID", "0", "start at 1"},
		{"BLN_ORGANIZATION_ID", "99999999999999999999", "not a number"},
		{"BLN_USERNAME", "a\x00b", "control"},
		{"BLN_REQUESTS_PER_SECOND", "0", "above 0"},
		{"BLN_REQUESTS_PER_SECOND", "NaN", "above 0"},
		{"BLN_REQUESTS_PER_SECOND", "+Inf", "above 0"},
		{"BLN_CONCURRENCY", "-1", "at least 1"},
		{"BLN_PUT_SEMANTICS", "patch", "replace nor merge"},
		{"OTHER_INFO_KEY", "name coach", "letters"},
		{"OTHER_INFO_KEY", "name.coach", "letters"}, // trap 49
		{"OTHER_INFO_KEY", "address", "BLN itself"},
		{"OTHER_INFO_KEY", "workEmail", "BLN itself"},
		{"OTHER_INFO_KEY", "workemail", "BLN itself"},
		{"OTHER_INFO_KEY", "learningRecords", "BLN itself"}, // trap 48
		{"OTHER_INFO_LAYOUT", "Flat", "nested nor flat"},
		{"OTHER_INFO_FIELDS", "pronouns", "pair"},
		{"OTHER_INFO_FIELDS", "=x", "pair"},
		{"OTHER_INFO_FIELDS", "x=", "pair"},
		{"OTHER_INFO_FIELDS", "my pronouns=x", "letters"},
		{"OTHER_INFO_FIELDS", "recording_link=x", "always there"},
		{"OTHER_INFO_FIELDS", "a=x,a=y", "two attributes"},
		{"MATCH_BY", "externalId,phone", `"phone"`},
		{"MATCH_BY", "email,email", "twice"},
		{"LINK_HOSTS", "https://name-coach.com", "no scheme"},
		{"LINK_HOSTS", "name-coach.com:443", "no scheme"},
		{"LINK_HOSTS", "name-coach.com/x", "no scheme"},
		{"LINK_HOSTS", "10.0.0.1", "host name"},
		{"LINK_HOSTS", "*", "host name"},
		{"LINK_HOSTS", "*.com", "host name"},
		{"LINK_HOSTS", "*.s3.amazonaws.com", "everybody"},
		{"LINK_HOSTS", "*.amazonaws.com", "everybody"},
		{"LINK_HOSTS", "a.*.com", "host name"},
		{"COLLECT_SCHEDULE", "every 5 minutes", "not a schedule"},
		{"COLLECT_SCHEDULE", "@every 5", "not a schedule"},
		{"COLLECT_SCHEDULE", "@every 0s", "once a second"},
		{"COLLECT_SCHEDULE", "@every -5m", "once a second"},
		{"SWEEP_SCHEDULE", "TZ=UTC", "no schedule"},
		{"SWEEP_SCHEDULE", "CRON_TZ=Nowhere/Land 0 2 * * *", "not a schedule"},
		{"CENSUS_SCHEDULE", "0 0 30 2 *", "never comes"},
		{"WINDOW_LOOKBACK", "0", "longer than 0"},
		{"WINDOW_LOOKBACK", "10", "duration"},
		{"WINDOW_SETTLE", "-1s", "shorter than 0"},
		{"WINDOW_SETTLE", "10m", "not shorter than WINDOW_LOOKBACK"},
		{"GUARD_MAX_CLEARS", "-1", "at least 0"},
		{"GUARD_MAX_CLEAR_PERCENT", "101", "0 to 100"},
		{"CENSUS_CONFIRMATIONS", "0", "at least 1"},
		{"JOURNAL_RETENTION", "90", "duration"},
		{"JOURNAL_RETENTION", "0d", "longer than 0"},
		{"JOURNAL_RETENTION", "999999d", "too long"},
		{"JOURNAL_RETENTION", "1d-1h", "duration"},
		{"LISTEN_ADDR", "8080", "address"},
		{"LISTEN_ADDR", ":99999", "address"},
		{"ADMIN_PASSWORD_HASH", "hunter2", "bcrypt"},
		{"LOG_LEVEL", "loud", "one of debug"},
		{"LOG_FORMAT", "xml", "json nor text"},
		{"BRIDGES", "acme,acme", "twice"},
		{"BRIDGES", "acme,", "empty place"},
	}
	for _, test := range tests {
		t.Run(test.variable+"="+test.value, func(t *testing.T) {
			t.Parallel()
			got := problems(t, with(env{test.variable: test.value}))
			if len(got) != 1 || got[0].Variable != test.variable || !strings.Contains(got[0].Text, test.says) {
				t.Fatalf("got %v, want one of %s that says %q", got, test.variable, test.says)
			}
			i := slices.IndexFunc(Variables, func(v Variable) bool { return v.Name == test.variable })
			if Variables[i].Secret && strings.Contains(got[0].Text, test.value) {
				t.Errorf("the problem has the secret in it: %s", got[0].Text)
			}
		})
	}
}

func TestSigningInTakesExactlyOneWay(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		change env
		want   []string // variables with a problem
	}{
		"a person":                     {nil, nil},
		"a token":                      {env{"BLN_USERNAME": "", "BLN_PASSWORD": "", "BLN_ACCESS_TOKEN": "t"}, nil},
		"a person without a password":  {env{"BLN_PASSWORD": ""}, []string{"BLN_PASSWORD"}},
		"a password without a person":  {env{"BLN_USERNAME": ""}, []string{"BLN_USERNAME"}},
		"nothing":                      {env{"BLN_USERNAME": "", "BLN_PASSWORD": ""}, []string{"BLN_USERNAME", "BLN_PASSWORD"}},
		"both":                         {env{"BLN_ACCESS_TOKEN": "t"}, []string{"BLN_ACCESS_TOKEN"}},
		"a token and half of a person": {env{"BLN_ACCESS_TOKEN": "t", "BLN_PASSWORD": ""}, []string{"BLN_ACCESS_TOKEN"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, p := range problems(t, with(test.change)) {
				got = append(got, p.Variable)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got problems with %v, want %v", got, test.want)
			}
		})
	}
}

func TestEverySecretCanComeFromAFile(t *testing.T) {
	t.Parallel()
	values := env{
		"DATABASE_URL":        "postgres://u:p@db/x",
		"NAMECOACH_TOKEN":     "from-file",
		"BLN_PASSWORD":        " spaces stay ",
		"BLN_ACCESS_TOKEN":    "from-file",
		"ADMIN_PASSWORD_HASH": "$2b$12$" + strings.Repeat("x", 53),
	}
	for _, v := range Variables {
		if !v.Secret {
			continue
		}
		t.Run(v.Name, func(t *testing.T) {
			t.Parallel()
			base := with(env{v.Name: ""})
			if v.Name == "BLN_ACCESS_TOKEN" {
				base = with(env{"BLN_USERNAME": "", "BLN_PASSWORD": ""})
			}
			want, ok := values[v.Name]
			if !ok {
				t.Fatal("a secret without a value here")
			}
			withFile := func(file string) env {
				e := maps.Clone(base)
				e[v.Name+"_FILE"] = file
				return e
			}
			good := filepath.Join(t.TempDir(), "secret")
			if err := os.WriteFile(good, []byte(want+"\r\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			c := load(t, withFile(good))
			got := map[string]Secret{
				"DATABASE_URL": c.DatabaseURL, "ADMIN_PASSWORD_HASH": c.AdminPasswordHash, "NAMECOACH_TOKEN": c.Bridges[0].NameCoachToken,
				"BLN_PASSWORD": c.Bridges[0].BLNPassword, "BLN_ACCESS_TOKEN": c.Bridges[0].BLNAccessToken,
			}[v.Name].Reveal()
			if got != want {
				t.Errorf("got %q, want %q", got, want)
			}

			both := withFile(good)
			both[v.Name] = want
			empty := filepath.Join(t.TempDir(), "empty")
			if err := os.WriteFile(empty, []byte("\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			for name, test := range map[string]struct {
				e              env
				variable, says string
			}{
				"both":       {both, v.Name, "Keep one"},
				"unreadable": {withFile("hunter2-put-here-by-mistake"), v.Name + "_FILE", "cannot be read"},
				"empty":      {withFile(empty), v.Name + "_FILE", "nothing in it"},
			} {
				got := problems(t, test.e)
				if len(got) != 1 || got[0].Variable != test.variable || !strings.Contains(got[0].Text, test.says) {
					t.Errorf("%s: got %v, want one problem of %s that says %q", name, got, test.variable, test.says)
				}
				if s := fmt.Sprint(got); strings.Contains(s, want) || strings.Contains(s, "hunter2") {
					t.Errorf("%s: the problem has the secret in it", name)
				}
			}
		})
	}
}

func TestABridgesOwnVariableGoesBeforeTheSharedOne(t *testing.T) {
	t.Parallel()
	c := load(t, with(env{
		"BRIDGES":                    "acme-2, globex",
		"ACME_2_NAMECOACH_TOKEN":     "acme-token",
		"GLOBEX_BLN_ORGANIZATION_ID": "8",
		"OTHER_INFO_KEY":             "voice",
		"GLOBEX_OTHER_INFO_KEY":      "badge",
	}))
	type row struct {
		Name, Token, Key string
		Organization     int64
	}
	var got []row
	for _, b := range c.Bridges {
		got = append(got, row{b.Name, b.NameCoachToken.Reveal(), b.OtherInfoKey, b.BLNOrganizationID})
	}
	want := []row{{"acme-2", "acme-token", "voice", 7}, {"globex", "nc-token", "badge", 8}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// Mending a variable that another one goes before would change nothing.
func TestAVariableIsNamedAsItWasFound(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("t"), 0o600); err != nil {
		t.Fatal(err)
	}
	const text = "set NAMECOACH_TOKEN, BLN_PASSWORD, GUARD_MAX_CLEARS and LOG_LEVEL; MY_BLN_PASSWORD stays"
	several := with(env{"BRIDGES": "acme-2,globex", "ACME_2_NAMECOACH_TOKEN_FILE": file, "GLOBEX_BLN_ORGANIZATION_ID": "8"})
	for name, test := range map[string]struct {
		env    env
		bridge int
		want   string
	}{
		"alone":   {least(), 0, text},
		"its own": {several, 0, "set ACME_2_NAMECOACH_TOKEN, BLN_PASSWORD, ACME_2_GUARD_MAX_CLEARS and LOG_LEVEL; MY_BLN_PASSWORD stays"},
		"shared":  {several, 1, "set NAMECOACH_TOKEN, BLN_PASSWORD, GLOBEX_GUARD_MAX_CLEARS and LOG_LEVEL; MY_BLN_PASSWORD stays"},
	} {
		if got := load(t, test.env).Bridges[test.bridge].Named(text); got != test.want {
			t.Errorf("%s: %s\nwant %s", name, got, test.want)
		}
	}
}

// A file for one bridge must not collide with the shared secret that it replaces.
func TestABridgesOwnFileGoesBeforeTheSharedSecret(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("acme-token\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := load(t, with(env{"BRIDGES": "acme", "ACME_NAMECOACH_TOKEN_FILE": file}))
	if got := c.Bridges[0].NameCoachToken.Reveal(); got != "acme-token" {
		t.Errorf("got %q", got)
	}
}

func TestABridgesOwnWayOfSigningInReplacesTheSharedOne(t *testing.T) {
	t.Parallel()
	c := load(t, with(env{"BRIDGES": "acme", "ACME_BLN_ACCESS_TOKEN": "t"}))
	if b := c.Bridges[0]; b.BLNAccessToken.Reveal() != "t" || b.BLNUsername != "" || !b.BLNPassword.Empty() {
		t.Errorf("the token should stand alone: %+v", b)
	}
	c = load(t, env{
		"BRIDGES": "acme", "NAMECOACH_TOKEN": "n", "BLN_ORGANIZATION_ID": "7",
		"BLN_ACCESS_TOKEN": "t", "ACME_BLN_USERNAME": "u", "ACME_BLN_PASSWORD": "p",
	})
	if b := c.Bridges[0]; !b.BLNAccessToken.Empty() || b.BLNUsername != "u" || b.BLNPassword.Reveal() != "p" {
		t.Errorf("the person should stand alone: %+v", b)
	}
}

func TestProblemsOfBridgesAreNamedAsTheyWouldBeMended(t *testing.T) {
	t.Parallel()
	got := problems(t, with(env{
		"BRIDGES": "acme,globex,Initech", "NAMECOACH_TOKEN": "", "GLOBEX_BLN_ORGANIZATION_ID": "x", "MATCH_BY": "phone", "ACME_WINDOW_SETTLE": "1h",
	}))
	want := []Problem{
		{"ACME_NAMECOACH_TOKEN", "is not set. It is the access token of your NameCoach account " +
			"(or ACME_NAMECOACH_TOKEN_FILE, or NAMECOACH_TOKEN for all bridges)."},
		{"GLOBEX_NAMECOACH_TOKEN", "is not set. It is the access token of your NameCoach account " +
			"(or GLOBEX_NAMECOACH_TOKEN_FILE, or NAMECOACH_TOKEN for all bridges)."},
		{"GLOBEX_BLN_ORGANIZATION_ID", `"x" is not a number. Sign-in needs the numeric id, not the key.`},
		{"MATCH_BY", `"phone" is not one of externalId, email, otherEmail.`}, // once, though two bridges read it
		{"ACME_WINDOW_SETTLE", "1h0m0s is not shorter than ACME_WINDOW_LOOKBACK, 10m0s."},
		{"BRIDGES", `"Initech" cannot be a bridge's name: a small letter, then at most 39 small letters, digits and hyphens.`},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestTwoBridgesDoNotWriteToOneOrganization(t *testing.T) {
	t.Parallel()
	got := problems(t, with(env{"BRIDGES": "acme,globex", "GLOBEX_BLN_URL": "https://BLN-api.coursepark.com/"}))
	if len(got) != 1 || got[0].Variable != "BLN_ORGANIZATION_ID" || !strings.Contains(got[0].Text, "globex") || !strings.Contains(got[0].Text, "acme's") {
		t.Errorf("got %v", got)
	}
	if got := problems(t, with(env{"BRIDGES": "acme,globex", "GLOBEX_BLN_URL": "https://other.example"})); got != nil {
		t.Errorf("the same number on another server is another organization: %v", got)
	}
}

// Rule 9: secrets stay secret.
func TestAConfigNeverPrintsASecret(t *testing.T) {
	t.Parallel()
	hash := "$2b$12$" + strings.Repeat("h", 53)
	c := load(t, with(env{"NAMECOACH_TOKEN": "hunter2", "BLN_PASSWORD": "hunter2", "ADMIN_PASSWORD_HASH": hash, "DATABASE_URL": "postgres://u:hunter2@db/x"}))
	outputs := map[string]string{}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%p"} {
		outputs[verb] = fmt.Sprintf(verb, *c) + fmt.Sprintf(verb, c) + fmt.Sprintf(verb, c.Bridges) + fmt.Sprintf(verb, c.DatabaseURL)
	}
	hidden := struct{ inside Secret }{c.DatabaseURL} // fmt calls no method of an unexported field
	outputs["unexported field"] = fmt.Sprintf("%v %+v %#v", hidden, hidden, hidden)
	encoded, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	outputs["JSON"] = string(encoded)
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "config", c, "secret", c.DatabaseURL)
	slog.New(slog.NewTextHandler(&log, nil)).Info("m", "config", c, "secret", c.DatabaseURL)
	outputs["slog"] = log.String()
	for how, s := range outputs {
		for _, secret := range []string{"hunter2", fmt.Sprintf("%x", "hunter2"), fmt.Sprintf("%X", "hunter2"), hash} {
			if strings.Contains(s, secret) {
				t.Errorf("%s shows a secret: %s", how, s)
			}
		}
	}
	if !strings.Contains(outputs["JSON"], `"…"`) || !strings.Contains(outputs["slog"], "…") {
		t.Error("a secret that is set should show as …")
	}
}

func TestTheTableIsSound(t *testing.T) {
	t.Parallel()
	names := map[string]bool{}
	for _, v := range Variables {
		if names[v.Name] {
			t.Errorf("%s stands twice", v.Name)
		}
		names[v.Name] = true
		if v.Meaning == "" || strings.HasSuffix(v.Meaning, ".") || strings.Contains(v.Meaning, "|") {
			t.Errorf("%s: the meaning %q does not fit a table", v.Name, v.Meaning)
		}
		if v.Default != "" {
			if err := v.set(new(Config), new(Bridge), v.Default); err != nil {
				t.Errorf("the default of %s is refused: %v", v.Name, err)
			}
		}
		for _, text := range []string{Markdown(), Help()} {
			if !strings.Contains(text, v.Name) || !strings.Contains(text, v.Default) {
				t.Errorf("%s or its default %s is missing in\n%s", v.Name, v.Default, text)
			}
		}
	}
	// A bridge's prefix and one variable must never read as another's prefix and another variable.
	for name := range names {
		for other := range names {
			if strings.HasSuffix(name, "_"+other) {
				t.Errorf("%s could be %s of a bridge", name, other)
			}
		}
	}
	// So that a flat key, which has OTHER_INFO_KEY and "_" in front, is never one of BLN's own.
	for _, key := range documented {
		if strings.Contains(key, "_") {
			t.Errorf("%s could be a flat key", key)
		}
	}
}

func FuzzLoadNeverPanics(f *testing.F) {
	for _, v := range Variables {
		f.Add(v.Name, v.Default)
	}
	f.Add("SWEEP_SCHEDULE", "TZ=")
	f.Add("SWEEP_SCHEDULE", "CRON_TZ=UTC ")
	f.Fuzz(func(t *testing.T, name, value string) {
		problems(t, with(env{name: value}))
	})
}

func TestTheDatabaseAloneNeedsNothingOfTheAPIs(t *testing.T) {
	t.Parallel()
	database := env{"DATABASE_URL": "postgres://u:p@db/x", "BRIDGES": "acme,globex", "LOG_LEVEL": "debug"}
	c, err := LoadDatabase(envconfig.MapLookuper(database))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Bridge{{Name: "acme"}, {Name: "globex"}}, c.Bridges, reveal); diff != "" {
		t.Error(diff)
	}
	if c.LogLevel != slog.LevelDebug || c.DatabaseURL.Reveal() != database["DATABASE_URL"] {
		t.Errorf("got %v", c)
	}
	c, err = LoadDatabase(envconfig.MapLookuper(env{"DATABASE_URL": "embedded", "BLN_ORGANIZATION_ID": "no number"}))
	if err != nil || len(c.Bridges) != 1 || c.Bridges[0].Name != "default" {
		t.Errorf("a wrong variable of a bridge is in the way: %v, %v", c, err)
	}

	_, err = LoadDatabase(envconfig.MapLookuper(env{"BRIDGES": "Acme", "LOG_FORMAT": "xml"}))
	var p *Problems
	if !errors.As(err, &p) {
		t.Fatalf("got %v, want *Problems", err)
	}
	var names []string
	for _, q := range p.List {
		names = append(names, q.Variable)
	}
	if diff := cmp.Diff([]string{"DATABASE_URL", "LOG_FORMAT", "BRIDGES"}, names); diff != "" {
		t.Error(diff)
	}
}

func TestAnEnvironmentIsReadLikeTheProcessReadsIt(t *testing.T) {
	t.Parallel()
	e := Environ([]string{"A=1", "B=x=y", "C=", "=C:=C:\\", "no equals sign"})
	if diff := cmp.Diff(Environment{"A": "1", "B": "x=y", "C": ""}, e); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	for _, name := range []string{"A", "C", "D"} {
		if _, ok := e.Lookup(name); ok != slices.Contains([]string{"A", "C"}, name) {
			t.Errorf("%s is found: %v", name, ok)
		}
	}
}
