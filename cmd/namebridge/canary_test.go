package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"namebridge/internal/simulator"
)

// canary stands in everything that must not be seen: it is in no word of ours.
const canary = "canary4711"

// secret is what no output may hold: the canary, the simulated accounts' token, password and address, and BLN's tokens.
var secret = regexp.MustCompile(`(?i)` + canary + `|FjQB7vXvsPK|simulated-password|bridge@demo\.example|eyJ[A-Za-z0-9_-]{8}|people\.example`)

// sings complains about whatever an output shows. It is safe for concurrent use.
func (o outcome) sings(t *testing.T, where string) {
	t.Helper()
	for name, text := range map[string]string{"stdout": o.stdout, "stderr": o.stderr} {
		for line := range strings.Lines(text) {
			if found := secret.FindString(line); found != "" {
				t.Errorf("%s: %s shows %q: %s", where, name, found, line)
			}
		}
	}
}

// aviary is a small world whose people are canaries, of every kind.
func aviary(t *testing.T, o simulator.Options, level string) *place {
	t.Helper()
	p := newPlace(t, o)
	p.env["LOG_LEVEL"] = level
	address := func(s string) string { return s + "." + canary + "@people.example" }
	other := `{"personalEmail":"` + address("private") + `","workPhone":"` + canary + `","jobTitle":"` + canary + `"`
	row := simulator.Participant{
		FirstName: canary, LastName: canary, EventTitle: canary, EventAccessCode: canary, NameBadgeLink: "https://www.name-coach.com/" + canary,
		RecordingLink: "https://namewaves.s3.amazonaws.com/" + canary + ".mp3?Signature=" + canary, RecordingID: canary, Notes: canary, Phonetic: canary,
	}
	for i, kind := range []struct{ otherInfo, badge string }{
		{other + `}`, ""},
		{other + `,"birthYear":1801}`, ""},                      // unwritable
		{other + `}`, "https://" + canary + ".example/x"},       // refused
		{other + `}`, "http://" + canary + ":" + canary + "@x"}, // refused
		{other + `,"` + canary + `":1,"` + canary + `":2}`, ""}, // cannot be read without loss
		{`"` + canary + `"`, ""},                                // no object
	} {
		key := fmt.Sprint(canary, "-", i)
		user := p.AddUser(simulator.NewUser{Username: address(key), ExternalID: key, FirstName: canary, LastName: canary, OtherInfo: kind.otherInfo})
		r := row
		r.For, r.Email, r.InstitutionID = user, address(key), key
		if kind.badge != "" {
			r.NameBadgeLink = kind.badge
		}
		p.AddParticipant(r)
	}
	p.AddUser(simulator.NewUser{Username: address("twin-1"), ExternalID: canary + "-twin"})
	p.AddUser(simulator.NewUser{Username: address("twin-2"), ExternalID: canary + "-twin"})
	for _, held := range []struct{ held, email, id string }{
		{"", address("nobody"), canary + "-nobody"},
		{"ambiguous", "", canary + "-twin"},
		{"conflict", address("twin-1"), canary + "-0"},
		{"", address("with,comma"), ""},
	} {
		r := row
		r.Held, r.Email, r.InstitutionID = held.held, held.email, held.id
		p.AddParticipant(r)
	}
	return p
}

func TestNoRunThatGoesWellShowsAPersonOrASecret(t *testing.T) {
	t.Parallel()
	for _, level := range []string{"info", "debug"} {
		p := aviary(t, simulator.Options{}, level)
		for _, command := range []string{"config", "collect", "plan", "backfill", "sweep", "collect", "backfill -o json", "plan -o json", "status", "status -o json", "migrate status", "resume --reason none"} {
			o := p.run(t, strings.Fields(command)...).ends(t, 0)
			o.sings(t, level+", "+command)
			if command != "backfill -o json" {
				continue
			}
			for reason, n := range o.object(t)["held"].(map[string]any) {
				if n == 0.0 && reason != "reverted" {
					t.Errorf("nobody is held as %s: the canaries do not come by there", reason)
				}
			}
		}
	}
}

func TestNoDamageShowsAPersonOrASecret(t *testing.T) {
	t.Parallel()
	p := aviary(t, simulator.Options{ChangeForeignKeyOnPut: simulator.Tamper{At: 1, Key: "workPhone"}}, "debug")
	p.run(t, "backfill").ends(t, 3, "workPhone").sings(t, "damage")
	p.run(t, "status").ends(t, 0).sings(t, "status after damage")
	p.run(t, "backfill", "-o", "json").ends(t, 3).sings(t, "halted")
}

func TestNoAnswerOfAServerIsPassedOn(t *testing.T) {
	t.Parallel()
	message := "no " + canary + " for " + canary + "@people.example and Bearer " + canary
	bodies := map[string]string{
		"json":      `{"code":"invalid","message":"` + message + `","errors":{"` + canary + `":["` + canary + `@people.example"]}}`,
		"html":      "<html><title>" + message + "</title>",
		"cut":       `{"Response":{"participants":[{"email":"` + canary + `@people.example",`,
		"wrong":     `{"Response":{"participants":[["` + canary + `"]]},"accessToken":["` + canary + `"],"id":"` + canary + `"}`,
		"duplicate": `[{"` + canary + `":1,"` + canary + `":2,"user":{"id":"` + canary + `"}}]`,
	}
	type fault struct {
		api, method, path string
		status            int
		body              string
	}
	var faults []fault
	for _, at := range []struct{ api, method, path string }{
		{"namecoach", "GET", "/participants"},
		{"bln", "POST", "/auth/login"},
		{"bln", "GET", "/organizations/4711"},
		{"bln", "GET", "/organizations/4711/users"},
		{"bln", "GET", "/organizations/4711/users/"},
		{"bln", "PUT", "/organizations/4711/users/"},
	} {
		for _, status := range []int{400, 401, 302} {
			faults = append(faults, fault{at.api, at.method, at.path, status, "json"})
		}
		for _, body := range []string{"wrong", "cut"} {
			faults = append(faults, fault{at.api, at.method, at.path, 200, body})
		}
	}
	// What takes longest, for it is tried again, once for each API.
	faults = append(faults, fault{"namecoach", "GET", "/participants", 500, "html"}, fault{"bln", "GET", "/organizations/4711/users", 503, "html"},
		fault{"bln", "GET", "/organizations/4711/users", 200, "duplicate"}, fault{"bln", "GET", "/organizations/4711/users/", 200, "duplicate"})
	// They wait more than they work: all at once rather than as many as there are processors.
	var all sync.WaitGroup
	places := make(chan struct{}, 24)
	for i, f := range faults {
		places <- struct{}{}
		p := aviary(t, simulator.Options{}, []string{"info", "debug"}[i%2])
		intercept := func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != f.method || !strings.HasSuffix(r.URL.Path, f.path) && !(strings.HasSuffix(f.path, "/") && strings.Contains(r.URL.Path, f.path)) {
				return false
			}
			_, _ = io.Copy(io.Discard, r.Body) // or the answer may be lost in a reset
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("X-"+canary, canary)
			if f.status == 302 {
				w.Header().Set("Location", "https://"+canary+".example/?token="+canary)
			}
			w.WriteHeader(f.status)
			_, _ = io.WriteString(w, bodies[f.body])
			return true
		}
		name := "NAMECOACH_URL"
		if f.api == "bln" {
			name = "BLN_URL"
		}
		p.env[name] = front(t, p.env[name], intercept)
		all.Go(func() {
			defer func() { <-places }()
			where := fmt.Sprintf("%s %s %d %s", f.method, f.path, f.status, f.body)
			// What is tried again for long has shown by then what it shows.
			ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
			defer cancel()
			o := p.runIn(ctx, "backfill")
			o.sings(t, where)
			if o.code == 0 && f.method != http.MethodPut && f.path != "/organizations/4711/users/" {
				t.Errorf("%s: the backfill is done all the same", where)
			}
			p.run(t, "status").sings(t, where+", status")
		})
	}
	all.Wait()
}

func TestNoTroubleOfTheDatabaseShowsARow(t *testing.T) {
	t.Parallel()
	for name, statement := range map[string]string{
		"check":   `ALTER TABLE participants ADD CHECK (email = '')`,
		"unique":  `CREATE UNIQUE INDEX ON participants (event_access_code)`,
		"size":    `ALTER TABLE directory_users ALTER external_id TYPE varchar(3)`,
		"type":    `ALTER TABLE holds ADD CHECK (subject = '')`,
		"journal": `ALTER TABLE journal ADD CHECK (after_fragment IS NULL)`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := aviary(t, simulator.Options{}, "debug")
			p.exec(t, statement)
			p.run(t, "backfill").ends(t, 1).sings(t, "backfill")
			p.run(t, "status").sings(t, "status")
		})
	}
}

func TestNoSecretOfTheConfigurationIsShown(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{})
	dead := httptest.NewServer(nil)
	dead.Close()
	host := strings.TrimPrefix(dead.URL, "http://")
	for name, env := range map[string]map[string]string{
		"an unusable database URL":  {"DATABASE_URL": "postgres://u:" + canary + "%zz@db/x"},
		"no database URL":           {"DATABASE_URL": "host=db password=" + canary},
		"an unusable port":          {"DATABASE_URL": "postgres://u:" + canary + "@db:no/x"},
		"an unusable sslmode":       {"DATABASE_URL": "postgres://u:" + canary + "@db/x?sslmode=" + "maybe"},
		"a dead database":           {"DATABASE_URL": "postgres://u:" + canary + "@" + host + "/x"},
		"a password that is wrong":  {"DATABASE_URL": strings.Replace(p.env["DATABASE_URL"], "namebridge:", "namebridge:"+canary, 1)},
		"a token with white space":  {"NAMECOACH_TOKEN": canary + " " + canary},
		"a token with control":      {"NAMECOACH_TOKEN": canary + "\x01"},
		"a token with a line break": {"BLN_ACCESS_TOKEN": canary + "\n" + canary, "BLN_USERNAME": "", "BLN_PASSWORD": ""},
		"a token that is wrong":     {"NAMECOACH_TOKEN": canary},
		"an access token":           {"BLN_ACCESS_TOKEN": canary, "BLN_USERNAME": "", "BLN_PASSWORD": ""},
		"a password":                {"BLN_PASSWORD": canary},
		"a user name":               {"BLN_USERNAME": canary + "@people.example"},
		"a URL with a user":         {"BLN_URL": "https://u:" + canary + "@bln.example"},
		"a URL with a query":        {"NAMECOACH_URL": "https://bln.example/?token=" + canary},
		"a file that is the secret": {"NAMECOACH_TOKEN": "", "NAMECOACH_TOKEN_FILE": canary},
		"a password hash":           {"ADMIN_PASSWORD_HASH": canary},
	} {
		for _, command := range []string{"config", "backfill", "status", "migrate up", "migrate status", "resume --reason x"} {
			p.with(env).run(t, strings.Fields(command)...).sings(t, name+", "+command)
		}
	}
}

func TestHelpShowsNothingOfTheEnvironment(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{})
	p.env["NAMECOACH_TOKEN"] = canary
	for _, command := range []string{"--help", "config --help", "backfill --help", "backfill --no-such-flag", "version"} {
		p.run(t, strings.Fields(command)...).sings(t, command)
	}
}

func TestAnUnexpectedErrorKeepsItsWords(t *testing.T) {
	t.Parallel()
	if got := explain(errors.New("the sky fell"), func(s string) string { return s }); got != "the sky fell." {
		t.Errorf("got %q", got)
	}
}
