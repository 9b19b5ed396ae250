package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"namebridge/internal/postgres/testdb"
	"namebridge/internal/simulator"
	"namebridge/migrations"
)

func TestMain(m *testing.M) { os.Exit(testdb.Main(m).Run()) }

// place is both simulated APIs, a database, and the environment that leads there.
type place struct {
	*simulator.Simulator
	env map[string]string
}

func newPlace(t *testing.T, o simulator.Options) *place {
	t.Helper()
	s, err := simulator.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return &place{s, map[string]string{
		"DATABASE_URL":                      testdb.URL(t, migrations.Up),
		"NAMECOACH_URL":                     s.NameCoachURL(),
		"NAMECOACH_TOKEN":                   s.Token(),
		"NAMECOACH_REQUESTS_PER_15_MINUTES": "1000000",
		"BLN_URL":                           s.BLNURL(),
		"BLN_ORGANIZATION_ID":               fmt.Sprint(s.OrganizationID()),
		"BLN_USERNAME":                      s.Username(),
		"BLN_PASSWORD":                      s.Password(),
		"BLN_REQUESTS_PER_SECOND":           "5000",
	}}
}

// with is the same place with another environment; "" takes a variable away.
func (p *place) with(changes map[string]string) *place {
	env := maps.Clone(p.env)
	maps.Copy(env, changes)
	maps.DeleteFunc(env, func(_, v string) bool { return v == "" })
	return &place{p.Simulator, env}
}

// outcome is what a command came to.
type outcome struct {
	code           int
	stdout, stderr string
}

func (p *place) run(t *testing.T, args ...string) outcome {
	t.Helper()
	return p.runIn(t.Context(), args...)
}

func (p *place) runIn(ctx context.Context, args ...string) outcome {
	var stdout, stderr bytes.Buffer
	code := run(ctx, append([]string{}, args...), p.env, &stdout, &stderr) // in place of nil cobra takes the test program's own
	return outcome{code, stdout.String(), stderr.String()}
}

// ends checks the exit code and what stderr must tell.
func (o outcome) ends(t *testing.T, code int, tells ...string) outcome {
	t.Helper()
	if o.code != code {
		t.Errorf("exit %d, want %d\n%s\n%s", o.code, code, o.stdout, o.stderr)
	}
	for _, text := range tells {
		if !strings.Contains(o.stderr, text) {
			t.Errorf("stderr does not tell %q:\n%s", text, o.stderr)
		}
	}
	return o
}

// object is stdout as the one JSON object that it must be.
func (o outcome) object(t *testing.T) map[string]any {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(o.stdout))
	var object map[string]any
	if err := d.Decode(&object); err != nil {
		t.Fatalf("stdout is no JSON object: %v\n%q", err, o.stdout)
	}
	if rest, err := io.ReadAll(d.Buffered()); err != nil || strings.TrimSpace(string(rest)) != "" {
		t.Errorf("stdout has more than the object: %q", rest)
	}
	return object
}

func (p *place) exec(t *testing.T, statement string, args ...any) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), p.env["DATABASE_URL"])
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(t.Context()) }()
	if tag, err := c.Exec(t.Context(), statement, args...); err != nil {
		t.Fatal(err)
	} else if tag.Update() && tag.RowsAffected() == 0 {
		t.Fatalf("%s: no row", statement)
	}
}

// front stands before an API: what intercept does not answer goes on to it.
func front(t *testing.T, to string, intercept func(http.ResponseWriter, *http.Request) bool) string {
	t.Helper()
	target, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	base := &url.URL{Scheme: target.Scheme, Host: target.Host}
	proxy := httputil.NewSingleHostReverseProxy(base)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !intercept(w, r) {
			proxy.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL + target.Path
}

// addPerson makes a user and the participant that is this user's.
func (p *place) addPerson(key string) int64 {
	user := p.AddUser(simulator.NewUser{Username: key + "@people.example", ExternalID: key, FirstName: "A", LastName: "B", OtherInfo: `{"jobTitle":"x","notes-1":"y"}`})
	p.AddParticipant(simulator.Participant{
		For: user, Kind: simulator.Recorded, Email: key + "@people.example", InstitutionID: key, EventAccessCode: "E1", EventTitle: "Staff",
		NameBadgeLink: "https://www.name-coach.com/" + key, RecordingLink: "https://namewaves.s3.amazonaws.com/" + key + ".mp3", RecordingID: "1",
	})
	return user
}

var (
	resultKeys = []string{
		"cleared", "failed", "held", "kind", "linked", "participants", "requests", "run", "seconds", "status", "unchanged", "users", "written",
	}
	heldKeys   = []string{"ambiguous", "conflict", "refused", "reverted", "unmatched", "unwritable"}
	statusKeys = []string{
		"bridge", "cursor", "halted", "held", "lag_seconds", "linked", "next", "participants", "pending", "quarantined", "replicas", "runs", "synced", "users",
	}
)

func keys(object any) []string { return slices.Sorted(maps.Keys(object.(map[string]any))) }

// checkResult checks that an object is a run's result to the letter.
func checkResult(t *testing.T, object map[string]any, kind, status string) {
	t.Helper()
	if diff := cmp.Diff(resultKeys, keys(object)); diff != "" {
		t.Errorf("keys of the result: %s", diff)
	}
	if diff := cmp.Diff(heldKeys, keys(object["held"])); diff != "" {
		t.Errorf("keys of held: %s", diff)
	}
	if diff := cmp.Diff([]string{"bln", "namecoach"}, keys(object["requests"])); diff != "" {
		t.Errorf("keys of requests: %s", diff)
	}
	if object["kind"] != kind || object["status"] != status {
		t.Errorf("%s %s, want %s %s", object["kind"], object["status"], kind, status)
	}
}

func TestEveryRunPrintsTheResultOfTheContract(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{Seed: 1, Users: 150})
	want := p.Truth().Totals
	for _, test := range []struct {
		kind    string
		written int
	}{{"collect", 0}, {"plan", want.Written}, {"backfill", want.Written}, {"sweep", 0}, {"backfill", 0}, {"collect", 0}} {
		o := p.run(t, test.kind, "--output", "json").ends(t, 0)
		object := o.object(t)
		checkResult(t, object, test.kind, "done")
		if object["written"] != float64(test.written) || object["cleared"] != 0.0 || object["failed"] != 0.0 {
			t.Errorf("%s: written, cleared, failed are %v, %v, %v; want %d, 0, 0", test.kind, object["written"], object["cleared"], object["failed"], test.written)
		}
		if test.kind == "collect" {
			continue
		}
		for reason, n := range object["held"].(map[string]any) {
			if n != float64(want.Held[reason]) {
				t.Errorf("%s: held as %s are %v, want %d", test.kind, reason, n, want.Held[reason])
			}
		}
		for key, n := range map[string]int{"participants": want.Participants, "users": want.Users, "linked": want.Linked, "unchanged": want.Written - test.written} {
			if key == "unchanged" && test.written > 0 {
				n = 0
			}
			if object[key] != float64(n) {
				t.Errorf("%s: %s is %v, want %d", test.kind, key, object[key], n)
			}
		}
		if n := object["requests"].(map[string]any)["bln"].(float64); n < 1 {
			t.Errorf("%s: %v requests to BLN", test.kind, n)
		}
	}
	for _, m := range p.Mismatches(5) {
		t.Error(m)
	}
	for _, v := range p.Violations() {
		t.Error(v)
	}
}

func TestStatusPrintsTheObjectOfTheContract(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{Seed: 2, Users: 60})
	alone := p.with(map[string]string{"NAMECOACH_TOKEN": "", "BLN_ORGANIZATION_ID": "", "BLN_USERNAME": "", "BLN_PASSWORD": ""})
	read := func() map[string]any {
		t.Helper()
		object := alone.run(t, "status", "-o", "json").ends(t, 0).object(t)
		if diff := cmp.Diff([]string{"bridges"}, keys(object)); diff != "" {
			t.Error(diff)
		}
		one := object["bridges"].([]any)[0].(map[string]any)
		if diff := cmp.Diff(statusKeys, keys(one)); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(heldKeys, keys(one["held"])); diff != "" {
			t.Error(diff)
		}
		return one
	}
	one := read()
	if one["halted"] != nil || one["cursor"] != nil || one["lag_seconds"] != nil || len(one["quarantined"].([]any)) != 0 || len(one["runs"].([]any)) != 0 || one["bridge"] != "default" {
		t.Errorf("a bridge that was never run: %v", one)
	}
	if o := alone.run(t, "status").ends(t, 0); !strings.Contains(o.stdout, "namebridge plan") {
		t.Errorf("status does not name the first step:\n%s", o.stdout)
	}
	p.run(t, "plan").ends(t, 0)
	p.run(t, "backfill").ends(t, 0)
	one, want := read(), p.Truth().Totals
	for key, n := range map[string]int{"participants": want.Participants, "users": want.Users, "linked": want.Linked, "synced": want.Unchanged, "pending": 0} {
		if one[key] != float64(n) {
			t.Errorf("%s is %v, want %d", key, one[key], n)
		}
	}
	if one["cursor"] == nil || one["lag_seconds"].(float64) < 0 {
		t.Errorf("cursor %v, lag %v", one["cursor"], one["lag_seconds"])
	}
	var kinds []any
	for _, r := range one["runs"].([]any) {
		if diff := cmp.Diff([]string{"counts", "ended_at", "error", "kind", "run", "started_at", "status"}, keys(r)); diff != "" {
			t.Error(diff)
		}
		kinds = append(kinds, r.(map[string]any)["kind"])
	}
	if diff := cmp.Diff([]any{"backfill", "plan"}, kinds); diff != "" {
		t.Errorf("the last runs: %s", diff)
	}
	if o := alone.run(t, "status").ends(t, 0); !strings.Contains(o.stdout, "coverage") || strings.Contains(o.stdout, "\x1b") {
		t.Errorf("the table:\n%q", o.stdout)
	}
}

func TestAResultForPeopleSaysWhatCameOfIt(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{Seed: 1, Users: 150})
	for _, test := range []struct {
		command string
		says    []string
	}{
		{"plan", []string{"What a backfill would do", "Nothing was written to BLN", "namebridge backfill"}},
		{"backfill", []string{"Done in", "coverage", "unmatched", "150 users"}},
		{"backfill", []string{"nothing to do"}},
	} {
		o := p.run(t, test.command).ends(t, 0)
		for _, text := range test.says {
			if !strings.Contains(o.stdout, text) {
				t.Errorf("%s does not say %q:\n%s", test.command, text, o.stdout)
			}
		}
		for line := range strings.Lines(o.stdout + o.stderr) {
			if n := len([]rune(line)); n > 80 {
				t.Errorf("%s: %d columns: %s", test.command, n, line)
			}
		}
		if strings.ContainsAny(o.stdout+o.stderr, "\r\x1b") {
			t.Errorf("%s: what is no terminal got control characters", test.command)
		}
	}
}

func TestDamageHaltsWithExit3UntilSomebodyResumes(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{Seed: 3, Users: 80, DropForeignKeyOnPut: simulator.Tamper{At: 5}})
	o := p.run(t, "backfill", "-o", "json").ends(t, 3, "HALTED since", "put back and checked", "namebridge resume --reason")
	checkResult(t, o.object(t), "backfill", "halted")
	if strings.Contains(o.stderr, "nothing was done") {
		t.Errorf("it did something:\n%s", o.stderr)
	}
	look := "namebridge runs show " + o.object(t)["run"].(string)[:8] + "\n"
	p.ResetCounts()
	for _, command := range []string{"backfill", "sweep", "collect", "census"} {
		before := []string{
			"namebridge: nothing was done: the bridge was halted before this " + command + " began.\nHALTED since ", " UTC\nBLN lost or changed",
			"Look:    " + look, "Go on:   namebridge resume --reason",
		}
		checkResult(t, p.run(t, command, "-o", "json").ends(t, 3, before...).object(t), command, "halted")
		if o := p.run(t, command).ends(t, 3, before...); o.stdout != "" || strings.Contains(o.stderr, "stopped after") {
			t.Errorf("%s reads as if it had halted the bridge:\n%s%s", command, o.stdout, o.stderr)
		}
	}
	if n := p.Counts()["bln users.put"]; n > 0 {
		t.Errorf("%d writes while halted", n)
	}
	halted := p.run(t, "status", "-o", "json").ends(t, 0).object(t)["bridges"].([]any)[0].(map[string]any)["halted"]
	if diff := cmp.Diff([]string{"reason", "run", "since"}, keys(halted)); diff != "" {
		t.Error(diff)
	}
	if o := p.run(t, "status").ends(t, 0); !strings.Contains(o.stdout, "HALTED since") {
		t.Errorf("status hides the halt:\n%s", o.stdout)
	}
	for _, reason := range []string{"", "  "} {
		p.run(t, "resume", "--reason", reason).ends(t, 2, "--reason")
	}
	p.run(t, "resume").ends(t, 2, "--reason")
	p.run(t, "resume", "--reason", "seen to it").ends(t, 0)
	if o := p.run(t, "resume", "--reason", "seen to it").ends(t, 0); !strings.Contains(o.stdout, "nothing to do") {
		t.Errorf("a second resume: %s", o.stdout)
	}
	p.run(t, "backfill").ends(t, 0)
	for _, m := range p.Mismatches(5) {
		t.Error(m)
	}
}

func TestTooManyClearsAreQuarantinedWithExit3(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{})
	first := p.addPerson("S-1")
	second := p.AddUser(simulator.NewUser{Username: "second@people.example"})
	p.run(t, "backfill").ends(t, 0)
	// A person has decided otherwise: the participant is the second user's, so what the first one has must go.
	p.exec(t, `UPDATE links SET user_id = $2, rule = 'hand' WHERE user_id = $1`, first, second)
	guarded := p.with(map[string]string{"GUARD_MAX_CLEARS": "0", "GUARD_MAX_CLEAR_PERCENT": "0"})
	o := guarded.run(t, "sweep", "-o", "json").ends(t, 3)
	object := o.object(t)
	checkResult(t, object, "sweep", "quarantined")
	if object["cleared"] != 0.0 || !strings.Contains(p.UserOtherInfo(first), "name_badge_link") {
		t.Errorf("the guard let a clear through: %v, %s", object, p.UserOtherInfo(first))
	}
	one := p.run(t, "status", "-o", "json").ends(t, 0).object(t)["bridges"].([]any)[0].(map[string]any)
	if diff := cmp.Diff([]any{object["run"]}, one["quarantined"]); diff != "" {
		t.Error(diff)
	}
	for _, command := range []string{"status", "sweep"} {
		if o := guarded.run(t, command); !strings.Contains(o.stdout, "QUARANTINED") {
			t.Errorf("%s hides the quarantine:\n%s", command, o.stdout)
		}
	}
}

func TestPeopleWhoCouldNotBeWrittenMakeExit4(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{})
	p.addPerson("S-1")
	sick := p.addPerson("S-2")
	p.env["BLN_URL"] = front(t, p.BLNURL(), func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPut || !strings.HasSuffix(r.URL.Path, fmt.Sprint("/", sick)) {
			return false
		}
		// As if it had failed for long, so that this run does not wait for it to get well.
		p.exec(t, `UPDATE directory_users SET attempts = 3 WHERE user_id = $1`, sick)
		w.WriteHeader(http.StatusInternalServerError)
		return true
	})
	o := p.run(t, "backfill", "-o", "json").ends(t, 4)
	object := o.object(t)
	checkResult(t, object, "backfill", "done")
	if object["failed"] != 1.0 || object["written"] != 1.0 {
		t.Errorf("failed %v, written %v; want 1, 1", object["failed"], object["written"])
	}
}

func TestAFailedRunSaysWhyAndStillPrintsItsObject(t *testing.T) {
	t.Parallel()
	gone := testdb.Refusing(t)
	stranger := httptest.NewTLSServer(nil) // its certificate is signed by nobody we know
	stranger.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(stranger.Close)
	for name, test := range map[string]struct {
		options simulator.Options
		env     map[string]string
		code    int
		tells   []string
	}{
		"wrong token":             {env: map[string]string{"NAMECOACH_TOKEN": "wrong"}, code: 2, tells: []string{"NAMECOACH_TOKEN"}},
		"wrong password":          {env: map[string]string{"BLN_PASSWORD": "wrong-password"}, code: 2, tells: []string{"BLN_PASSWORD", "BLN_USERNAME"}},
		"wrong access token":      {env: map[string]string{"BLN_ACCESS_TOKEN": "wrong", "BLN_USERNAME": "", "BLN_PASSWORD": ""}, code: 2, tells: []string{"BLN_ACCESS_TOKEN was not accepted"}},
		"wrong organization":      {env: map[string]string{"BLN_ORGANIZATION_ID": "4712"}, code: 2, tells: []string{"BLN_ORGANIZATION_ID"}},
		"member":                  {options: simulator.Options{Role: simulator.RoleMember}, code: 2, tells: []string{"may not", "admin"}},
		"network admin":           {options: simulator.Options{Role: simulator.RoleNetworkAdmin}, code: 2, tells: []string{"may not", "admin"}},
		"auditor":                 {options: simulator.Options{Role: simulator.RoleAuditor}, code: 2, tells: []string{"may not", "admin"}},
		"BLN down":                {env: map[string]string{"BLN_URL": "http://" + gone}, code: 1, tells: []string{"BLN at " + gone + " does not answer", "connection refused", "Check BLN_URL", "namebridge doctor"}},
		"NameCoach's certificate": {env: map[string]string{"NAMECOACH_URL": stranger.URL}, code: 1, tells: []string{"NameCoach at " + stranger.Listener.Addr().String(), "certificate is not accepted", "Check NAMECOACH_URL"}},
		"database down":           {env: map[string]string{"DATABASE_URL": "postgres://u:hunter2@" + gone + "/x"}, code: 1, tells: []string{"namebridge: nothing listens where DATABASE_URL points: connection refused.\nNothing was done.", "start Postgres"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.options.Seed, test.options.Users = 4, 40
			p := newPlace(t, test.options).with(test.env)
			if role := test.options.Role; role != "" {
				p.AddUser(simulator.NewUser{Username: p.Username(), Role: role})
			}
			foreign := p.ForeignDigests()
			o := p.run(t, "backfill", "--output", "json").ends(t, test.code, test.tells...)
			checkResult(t, o.object(t), "backfill", "failed")
			if n := p.Counts()["bln users.put"]; n > 0 {
				t.Errorf("%d writes were sent", n)
			}
			if strings.Contains(o.stderr, "hunter2") {
				t.Errorf("the password is shown: %s", o.stderr)
			}
			if o := p.run(t, "backfill"); o.stdout != "" {
				t.Errorf("a failed run says on stdout: %s", o.stdout)
			}
			if diff := cmp.Diff(foreign, p.ForeignDigests()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestADatabaseOfAnotherOrganizationIsLeftAlone(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{Seed: 1, Users: 30})
	p.run(t, "collect").ends(t, 0)
	p.ResetCounts()
	other := p.with(map[string]string{"BLN_ORGANIZATION_ID": "4712"})
	other.run(t, "backfill").ends(t, 2, "BLN_ORGANIZATION_ID", "DATABASE_URL", "4711", "DELETE FROM bridges WHERE bridge = 'default'")
	p.run(t, "backfill").ends(t, 0)
	p.ResetCounts()
	if o := other.run(t, "backfill").ends(t, 2, "BLN_ORGANIZATION_ID", "DATABASE_URL", "4711"); strings.Contains(o.stderr, "DELETE") {
		t.Errorf("what BLN has brought is to be thrown away:\n%s", o.stderr)
	}
	if n := len(p.Counts()); n > 0 {
		t.Errorf("requests were sent: %v", p.Counts())
	}
}

func TestAMistypedOrganizationIsMendedByTheRightOne(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{Seed: 1, Users: 30})
	wrong := p.with(map[string]string{"BLN_ORGANIZATION_ID": "4712"})
	wrong.run(t, "backfill").ends(t, 2, "BLN_ORGANIZATION_ID")
	if o := p.run(t, "doctor"); !strings.Contains(o.stdout, "the next command replaces it") {
		t.Errorf("doctor does not say what becomes of it:\n%s", o.stdout)
	}
	p.exec(t, `INSERT INTO workers (bridge, owner, host, heartbeat_at) VALUES ('default', gen_random_uuid(), 'here', now() + interval '1 hour')`)
	p.run(t, "backfill").ends(t, 2, "a process still runs with it")
	p.exec(t, `DELETE FROM workers`)
	p.run(t, "backfill").ends(t, 0)
	for _, m := range p.Mismatches(5) {
		t.Error(m)
	}
}

// Under another name nothing would be known of what was decided and written.
func TestABridgeKeepsItsName(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{Seed: 1, Users: 30})
	p.run(t, "backfill").ends(t, 0)
	p.ResetCounts()
	acme := p.with(map[string]string{"BRIDGES": "acme", "LISTEN_ADDR": "127.0.0.1:0"})
	for _, command := range []string{"backfill", "plan", "collect", "sweep", "census", "serve"} {
		o := acme.run(t, command).ends(t, 2, "organization 4711 for bridge default", "BRIDGES=default.", "DEFAULT_BLN_ORGANIZATION_ID")
		if o.stdout != "" {
			t.Errorf("%s: stdout is not empty: %s", command, o.stdout)
		}
	}
	if n := len(p.Counts()); n > 0 {
		t.Errorf("requests were sent: %v", p.Counts())
	}
	if o := acme.run(t, "doctor").ends(t, 1); !strings.Contains(o.stdout, "keep the name default in BRIDGES") {
		t.Errorf("doctor:\n%s", o.stdout)
	}
	same := p.with(map[string]string{"BRIDGES": "default"})
	if object := same.run(t, "backfill", "-o", "json").ends(t, 0).object(t); object["written"] != 0.0 {
		t.Errorf("by its own name: %v", object)
	}
	acme.run(t, "backfill", "--bridge", "initech").ends(t, 2, "initech")
}

func TestWhatIsToBeMendedHasItsFullName(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{Seed: 1, Users: 10})
	for name, test := range map[string]struct {
		env   map[string]string
		code  int
		tells string
	}{
		"its own token":    {map[string]string{"GLOBEX_NAMECOACH_TOKEN": "wrong"}, 2, "GLOBEX_NAMECOACH_TOKEN was not accepted"},
		"the shared token": {map[string]string{"NAMECOACH_TOKEN": "wrong"}, 2, "namebridge: NAMECOACH_TOKEN was not accepted"},
		"its own password": {map[string]string{"GLOBEX_BLN_PASSWORD": "wrong-password"}, 2, "Check BLN_USERNAME and GLOBEX_BLN_PASSWORD, and that GLOBEX_BLN_ORGANIZATION_ID"},
	} {
		env := map[string]string{"BRIDGES": "acme,globex", "ACME_BLN_ORGANIZATION_ID": "4712", "GLOBEX_BLN_ORGANIZATION_ID": "4711"}
		maps.Copy(env, test.env)
		command := "collect"
		if strings.Contains(name, "password") {
			command = "sweep"
		}
		if o := p.with(env).run(t, command, "--bridge", "globex").ends(t, test.code, test.tells); t.Failed() {
			t.Logf("%s: %s", name, o.stderr)
		}
	}
}

func TestADatabaseThatIsNotThereIsToldInOneSentence(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{})
	u, err := url.Parse(p.env["DATABASE_URL"])
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/namebridge_nowhere"
	for _, command := range []string{"collect", "status", "migrate status"} {
		o := p.with(map[string]string{"DATABASE_URL": u.String()}).run(t, strings.Fields(command)...).
			ends(t, 1, "namebridge: there is no such database on this Postgres.\nNothing was done. What to do: make it (createdb)")
		if strings.Contains(o.stderr, "tls") || strings.Contains(o.stderr, u.Host) {
			t.Errorf("%s: what was tried is told as well:\n%s", command, o.stderr)
		}
	}
}

func TestConfigTellsMachinesToo(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{})
	good := p.run(t, "config", "-o", "json").ends(t, 0).object(t)
	bad := p.with(map[string]string{"NAMECOACH_TOKEN": ""}).run(t, "config", "-o", "json").ends(t, 2, "NAMECOACH_TOKEN").object(t)
	for name, object := range map[string]map[string]any{"good": good, "bad": bad} {
		if diff := cmp.Diff([]string{"bridges", "ok", "problems", "warnings"}, keys(object)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	problems := bad["problems"].([]any)
	if good["ok"] != true || bad["ok"] != false || len(good["problems"].([]any)) != 0 || len(problems) != 1 ||
		problems[0].(map[string]any)["variable"] != "NAMECOACH_TOKEN" || !strings.Contains(fmt.Sprint(problems[0].(map[string]any)["text"]), "is not set") {
		t.Errorf("good: %v\nbad: %v", good, bad)
	}
	if o := p.run(t, "config").ends(t, 0); o.stdout != "The configuration of 1 bridge is in order.\n" {
		t.Errorf("for people: %q", o.stdout)
	}
}

// Outside Kubernetes, whose chart refuses what it does not know, nothing else would tell.
func TestAMisspeltVariableIsToldOnceByEachCommand(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{Users: 10}).with(map[string]string{
		"WINDOW_LOOKBCK": "hush-hush", "BLN_PASWORD": "hush-hush", "BLN_SERVICE_HOST": "10.0.0.1", "JOURNAL_STREAM": "8:12",
	})
	const told = "namebridge: warning: BLN_PASWORD is no variable of namebridge and changes nothing; did you mean BLN_PASSWORD?\n" +
		"namebridge: warning: WINDOW_LOOKBCK is no variable of namebridge and changes nothing; did you mean WINDOW_LOOKBACK?\n"
	for _, command := range []string{
		"collect", "collect -o json", "status", "status -o json", "holds list", "runs list", "migrate status", "migrate up", "resume --reason x", "config", "config -o json",
	} {
		o := p.run(t, strings.Fields(command)...).ends(t, 0)
		if n := strings.Count(o.stderr, told); n != 1 || strings.Count(o.stderr, "warning") != 2 {
			t.Errorf("%s tells it %d times:\n%s", command, n, o.stderr)
		}
		if strings.Contains(o.stdout+o.stderr, "hush") {
			t.Errorf("%s shows a value:\n%s%s", command, o.stdout, o.stderr)
		}
	}
	warnings := p.run(t, "config", "-o", "json").ends(t, 0).object(t)["warnings"].([]any)
	if len(warnings) != 2 || warnings[1].(map[string]any)["variable"] != "WINDOW_LOOKBCK" {
		t.Errorf("config tells machines %v", warnings)
	}
	if o := p.run(t, "doctor").tellsOut(t, "warning  configuration", "BLN_PASWORD is no variable", "→ set BLN_PASSWORD if that was meant"); strings.Contains(o.stderr, "PASWORD") {
		t.Errorf("doctor tells it twice:\n%s", o.stderr)
	}
	if o := p.run(t, "version").ends(t, 0); o.stderr != "" {
		t.Errorf("version reads no variable, and says %q", o.stderr)
	}
	p.with(map[string]string{"BLN_PASSWORD": ""}).run(t, "sweep").ends(t, 2, told, "BLN_PASSWORD    is not set")
	p.with(map[string]string{"BLN_PASSWORD": ""}).run(t, "serve").ends(t, 2, told)
}

// Such a run ends well: without this line, only a coverage of 0 % would tell.
func TestWhereNobodyCountsTheCommandsSaySo(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{Seed: 4, Users: 20})
	none := p.with(map[string]string{"NAMECOACH_EVENTS": "nosuch,event"})
	const told = "namebridge: warning: NAMECOACH_EVENTS is nosuch,event, and of "
	silent := func(p *place, command string) {
		t.Helper()
		if o := p.run(t, strings.Fields(command)...).ends(t, 0); strings.Contains(o.stderr, "warning") {
			t.Errorf("%s warns of %s", command, o.stderr)
		}
	}
	silent(none, "status") // nothing was collected
	for _, command := range []string{"plan", "backfill", "collect", "sweep", "collect -o json", "status", "status -o json"} {
		o := none.run(t, strings.Fields(command)...).ends(t, 0, told, "nobody is given a badge. Correct it")
		if n := strings.Count(o.stderr, told); n != 1 {
			t.Errorf("%s tells it %d times:\n%s", command, n, o.stderr)
		}
	}
	checkResult(t, none.run(t, "collect", "-o", "json").ends(t, 0).object(t), "collect", "done")
	one := none.run(t, "status", "-o", "json").ends(t, 0).object(t)["bridges"].([]any)[0]
	if diff := cmp.Diff(statusKeys, keys(one)); diff != "" {
		t.Errorf("keys of status: %s", diff)
	}
	d := none.lively(nil).serve(t)
	eventually(t, "told by the daemon", func() string {
		if lines := d.lines("nobody is given a badge"); len(lines) != 1 || !strings.HasPrefix(fmt.Sprint(lines[0]["problem"]), "NAMECOACH_EVENTS is nosuch,event") {
			return fmt.Sprint(lines)
		}
		return ""
	})
	d.stop()
	d.ends(t, 0)
	p.exec(t, `UPDATE participants SET event_access_code = 'event' WHERE participant = (SELECT participant FROM participants LIMIT 1)`)
	for _, command := range []string{"collect", "status"} {
		silent(none, command) // somebody counts
		silent(p, command)    // everybody does
	}
	p.exec(t, `UPDATE participants SET event_access_code = 'E' WHERE event_access_code = 'event'`)
	renamed := none.with(map[string]string{"BRIDGES": "default", "DEFAULT_NAMECOACH_EVENTS": "nosuch", "NAMECOACH_EVENTS": ""})
	renamed.run(t, "status").ends(t, 0, "warning: DEFAULT_NAMECOACH_EVENTS is nosuch, and of")
	p.exec(t, `DELETE FROM participants`)
	silent(none, "status") // nobody is there to count
}

func TestAPortThatIsTakenSaysWhatToDo(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{})
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	p.with(map[string]string{"LISTEN_ADDR": taken.Addr().String()}).run(t, "serve").ends(t, 1, "LISTEN_ADDR", taken.Addr().String(), "give this one another address")
}

func TestAWrongConfigurationPrintsNothingButItsProblems(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{})
	dir := t.TempDir()
	for _, command := range []string{"backfill", "plan", "collect", "sweep", "config"} {
		for name, test := range map[string]struct {
			env   map[string]string
			tells []string
		}{
			"everything at once": {
				map[string]string{"NAMECOACH_TOKEN": "", "BLN_ORGANIZATION_ID": "acme-inc", "BLN_URL": "http://bln.acme.example"},
				[]string{"3 problems", "NAMECOACH_TOKEN", "BLN_ORGANIZATION_ID", "acme-inc", "BLN_URL", "is not https", "namebridge config --help"},
			},
			"plain http":        {map[string]string{"NAMECOACH_URL": "http://www.name-coach.com"}, []string{"NAMECOACH_URL", "not https"}},
			"no database":       {map[string]string{"DATABASE_URL": ""}, []string{"DATABASE_URL"}},
			"no such file":      {map[string]string{"BLN_PASSWORD": "", "BLN_PASSWORD_FILE": dir + "/none"}, []string{"BLN_PASSWORD_FILE"}},
			"a folder":          {map[string]string{"NAMECOACH_TOKEN": "", "NAMECOACH_TOKEN_FILE": dir}, []string{"NAMECOACH_TOKEN_FILE"}},
			"both ways":         {map[string]string{"NAMECOACH_TOKEN_FILE": dir}, []string{"NAMECOACH_TOKEN"}},
			"an unusable level": {map[string]string{"LOG_LEVEL": "loud"}, []string{"LOG_LEVEL"}},
		} {
			args := []string{command}
			if command != "config" {
				args = append(args, "--output", "json")
			}
			if o := p.with(test.env).run(t, args...).ends(t, 2, test.tells...); o.stdout != "" {
				t.Errorf("%s, %s: stdout is not empty: %s", command, name, o.stdout)
			}
		}
	}
	if n := len(p.Counts()); n > 0 {
		t.Errorf("requests were sent: %v", p.Counts())
	}
	p.run(t, "config").ends(t, 0)
}

func TestCommandsOfTheDatabaseAloneNeedNoAccount(t *testing.T) {
	t.Parallel()
	fresh := &place{env: map[string]string{"DATABASE_URL": testdb.URL(t, nil)}}
	if o := fresh.run(t, "migrate", "status").ends(t, 0); !strings.Contains(o.stdout, "missing") {
		t.Errorf("before: %s", o.stdout)
	}
	fresh.run(t, "migrate", "up").ends(t, 0)
	fresh.run(t, "migrate", "up").ends(t, 0)
	object := fresh.run(t, "migrate", "status", "-o", "json").ends(t, 0).object(t)
	for _, m := range object["migrations"].([]any) {
		if m.(map[string]any)["applied"] != true {
			t.Errorf("after: %v", m)
		}
	}
	fresh.run(t, "status").ends(t, 0)
	fresh.run(t, "resume", "--reason", "none").ends(t, 0)
	fresh.env["BRIDGES"] = "acme,globex"
	if n := len(fresh.run(t, "status", "-o", "json").ends(t, 0).object(t)["bridges"].([]any)); n != 2 {
		t.Errorf("%d bridges, want 2", n)
	}
	fresh.run(t, "resume", "--reason", "x").ends(t, 2, "--bridge", "acme, globex")
	fresh.run(t, "resume", "--reason", "x", "--bridge", "initech").ends(t, 2, "initech")
	fresh.run(t, "resume", "--reason", "x", "--bridge", "globex").ends(t, 0)
	for _, args := range [][]string{{"status"}, {"migrate", "up"}, {"migrate", "status"}, {"resume", "--reason", "x"}} {
		none := &place{env: map[string]string{}}
		if o := none.run(t, args...).ends(t, 2, "DATABASE_URL"); strings.Contains(o.stderr, "NAMECOACH_TOKEN") {
			t.Errorf("%v asks for more than it needs:\n%s", args, o.stderr)
		}
	}
}

// everyCommand calls do with the words of each command, the root's own being none.
func everyCommand(do func(path []string, c *cobra.Command)) {
	var walk func([]string, *cobra.Command)
	walk = func(path []string, c *cobra.Command) {
		do(path, c)
		for _, sub := range c.Commands() {
			walk(append(slices.Clone(path), sub.Name()), sub)
		}
	}
	walk(nil, newRoot(&app{}))
}

func TestEveryCommandHelps(t *testing.T) {
	t.Parallel()
	nowhere := &place{env: map[string]string{}}
	everyCommand(func(path []string, c *cobra.Command) {
		o := nowhere.run(t, append(path, "--help")...).ends(t, 0)
		if !strings.Contains(o.stdout, "Usage:") || o.stderr != "" || c.Short == "" {
			t.Errorf("%v --help: %q, %q", path, o.stdout, o.stderr)
		}
	})
	if o := nowhere.run(t, "config", "--help").ends(t, 0); !strings.Contains(o.stdout, "NAMECOACH_TOKEN") {
		t.Errorf("config --help does not list the variables:\n%s", o.stdout)
	}
	nowhere.run(t).ends(t, 0)
	nowhere.run(t, "migrate").ends(t, 0)
	if o := nowhere.run(t, "version").ends(t, 0); !strings.Contains(o.stdout, "namebridge") {
		t.Errorf("version: %s", o.stdout)
	}
	nowhere.run(t, "version", "-o", "json").ends(t, 0).object(t)
}

func TestWrongUsageIsExit2AndSaysWhat(t *testing.T) {
	t.Parallel()
	nowhere := &place{env: map[string]string{}}
	everyCommand(func(path []string, c *cobra.Command) {
		wrong := map[string]string{"--no-such-flag": "no-such-flag", "superfluous": `"superfluous"`}
		if strings.Contains(c.Use, " ") { // it takes arguments
			wrong = map[string]string{"--no-such-flag": "no-such-flag", "one two three": ", and nothing else: "}
		}
		for args, tells := range wrong {
			o := nowhere.run(t, append(path, strings.Fields(args)...)...).ends(t, 2, tells, "--help")
			if o.stdout != "" {
				t.Errorf("%v %s: stdout is not empty: %s", path, args, o.stdout)
			}
		}
	})
	for _, test := range []struct{ args, tells string }{
		{"backfill --output xml", `"xml"`},
		{"status -o yaml", `"yaml"`},
		{"backfill --since yesterday", `"yesterday"`},
		{"backfill --since 2999-01-01", "future"},
		{"backfill --since", "since"},
		{"resume", "--reason"},
		{"migrate down", "down"},
	} {
		if o := nowhere.run(t, strings.Fields(test.args)...).ends(t, 2, test.tells, "--help"); o.stdout != "" {
			t.Errorf("%s: stdout is not empty: %s", test.args, o.stdout)
		}
	}
	p := newPlace(t, simulator.Options{})
	p.run(t, "backfill", "--bridge", "acme").ends(t, 2, "acme")
}

func TestAnInterruptedBackfillSaysHowToGoOn(t *testing.T) {
	t.Parallel()
	ctx, interrupt := context.WithCancel(t.Context())
	p := newPlace(t, simulator.Options{Seed: 5, Users: 100, OnRequest: func(_ *simulator.Simulator, endpoint string, n int) {
		if endpoint == "bln users.put" && n >= 20 {
			interrupt()
			time.Sleep(time.Second) // so that not everything is written before it comes to a stop
		}
	}})
	o := p.runIn(ctx, "backfill", "--since", "2001-02-03", "-o", "json").
		ends(t, 1, "stopping: ", "interrupted. ", "written", "Go on:   namebridge backfill --since 2001-02-03\n")
	object := o.object(t)
	checkResult(t, object, "backfill", "failed")
	if n := object["written"].(float64); n < 1 || n >= float64(p.Truth().Totals.Linked) {
		t.Errorf("%v were written when it was interrupted", n)
	}
	runs := p.run(t, "status", "-o", "json").ends(t, 0).object(t)["bridges"].([]any)[0].(map[string]any)["runs"].([]any)
	if last := runs[0].(map[string]any); last["status"] != "failed" || last["error"] != "interrupted" {
		t.Errorf("status calls the run %v: %v", last["status"], last["error"])
	}
	p.Change(func(o *simulator.Options) { o.OnRequest = nil })
	again := p.run(t, "backfill", "--since", "2001-02-03", "-o", "json").ends(t, 0).object(t)
	if again["run"] != object["run"] {
		t.Errorf("another run was begun: %v, was %v", again["run"], object["run"])
	}
	for _, m := range p.Mismatches(5) {
		t.Error(m)
	}
	// Interrupted before anything was begun.
	p.runIn(ctx, "plan").ends(t, 1, "interrupted", "Go on:   namebridge plan")
}
