package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"namebridge/internal/simulator"
)

// healthy is a place in which all is well, a daemon at work included.
func healthy(t *testing.T, o simulator.Options) *place {
	t.Helper()
	p := newPlace(t, o).with(map[string]string{"NAMECOACH_REQUESTS_PER_15_MINUTES": "1000"})
	p.AddUser(simulator.NewUser{Username: p.Username(), Role: simulator.RoleAdmin})
	p.exec(t, `INSERT INTO bridges (bridge, organization_id) VALUES ('default', $1)`, p.OrganizationID())
	p.exec(t, `INSERT INTO workers (bridge, owner, host, heartbeat_at) VALUES ('default', gen_random_uuid(), 'here', now() + interval '1 hour')`)
	return p
}

func TestDoctorExitsWithWhatItFound(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		env   map[string]string
		sql   string
		args  string
		code  int
		tells []string // in the table
	}{
		"all well": {tells: []string{"  ok       database", "All is well."}},
		"a warning": {env: map[string]string{"CENSUS_CONFIRMATIONS": "1"}, tells: []string{
			"  warning  configuration",
			"→ set CENSUS_CONFIRMATIONS", "0 problems, 1 warning.",
		}},
		"a problem": {env: map[string]string{"NAMECOACH_TOKEN": "wrong"}, code: 1, tells: []string{
			"  problem  namecoach",
			"→ set NAMECOACH_TOKEN", "1 problem, 0 warnings. After mending: namebridge doctor\n",
		}},
		"a wrong configuration": {env: map[string]string{"NAMECOACH_TOKEN": ""}, code: 2, tells: []string{
			"NAMECOACH_TOKEN is not set",
			"signs in as the user of BLN_USERNAME", "Postgres",
		}},
		"a halt":                    {sql: `UPDATE bridges SET halted_at = now()`, code: 3, tells: []string{"HALTED", "→ look into it; then: namebridge resume"}},
		"a halt beside a problem":   {sql: `UPDATE bridges SET halted_at = now()`, env: map[string]string{"NAMECOACH_TOKEN": "wrong"}, code: 3},
		"a quarantined run":         {sql: quarantined, code: 3, tells: []string{"QUARANTINED", "namebridge runs approve"}},
		"configuration before halt": {sql: `UPDATE bridges SET halted_at = now()`, env: map[string]string{"LOG_LEVEL": "loud"}, code: 2},
		"a probe that is refused": {args: "--probe-write 99999", code: 1, tells: []string{
			"there is no user 99999",
			"After mending: namebridge doctor --probe-write 99999\n",
		}},
		"no database at all": {env: map[string]string{"DATABASE_URL": ""}, code: 2, tells: []string{"DATABASE_URL is not set", "signs in as"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := healthy(t, simulator.Options{})
			if test.sql != "" {
				p.exec(t, test.sql)
			}
			p = p.with(test.env)
			args := append([]string{"doctor"}, strings.Fields(test.args)...)
			o := p.run(t, args...).ends(t, test.code)
			o.sings(t, "table")
			for _, text := range test.tells {
				if !strings.Contains(o.stdout, text) {
					t.Errorf("stdout does not tell %q:\n%s", text, o.stdout)
				}
			}
			o = p.run(t, append(args, "--output", "json")...).ends(t, test.code)
			o.sings(t, "JSON")
			object := o.object(t)
			if object["ok"] != (test.code == 0) || !slices.Equal(keys(object), []string{"findings", "ok"}) {
				t.Errorf("got %v", object)
			}
			for _, f := range object["findings"].([]any) {
				if !slices.Equal(keys(f), []string{"bridge", "check", "cure", "status", "text"}) {
					t.Errorf("a finding has %v", keys(f))
				}
			}
		})
	}
}

// quarantined is a run that has staged a clear which is still pending.
const quarantined = `WITH r AS (INSERT INTO runs (bridge, run, kind, status) VALUES ('default', gen_random_uuid(), 'sweep', 'quarantined') RETURNING run),
	s AS (INSERT INTO plan_steps (bridge, run, user_id, action, version) SELECT 'default', run, 5, 'clear', 1 FROM r)
	INSERT INTO directory_users (bridge, user_id, username, email, external_id, sweep, action, wanted_version, removes)
		VALUES ('default', 5, 'u', 'u', '', 1, 'clear', 1, true)`

func TestDoctorTellsWrongUsageFromTrouble(t *testing.T) {
	t.Parallel()
	p := healthy(t, simulator.Options{})
	several := p.with(map[string]string{"BRIDGES": "acme,globex", "GLOBEX_BLN_ORGANIZATION_ID": "4712"})
	for _, test := range []struct {
		p     *place
		args  string
		tells string
	}{
		{p, "--bridge acme", `no bridge "acme"`},
		{p, "--probe-write 0", "no user.id"},
		{p, "--probe-write -3", "no user.id"},
		{p, "--probe-write jane", "jane"},
		{p, "--output yaml", `"yaml"`},
		{several, "--probe-write 3", "acme, globex"},
		{several, "--bridge initech", "acme, globex"},
	} {
		if o := test.p.run(t, append([]string{"doctor"}, strings.Fields(test.args)...)...).ends(t, 2, test.tells, "--help"); o.stdout != "" {
			t.Errorf("%s: stdout is not empty: %s", test.args, o.stdout)
		}
	}
	o := several.run(t, "doctor").ends(t, 1)
	if !strings.Contains(o.stdout, "acme namecoach") || !strings.Contains(o.stdout, "globex bln") {
		t.Errorf("which bridge is which:\n%s", o.stdout)
	}
	findings, _, _ := strings.Cut(o.stdout, "\n\n")
	for line := range strings.Lines(findings) { // status and what was looked at have their own columns, which are as wide as they must be
		if r := []rune(line); len(r) < 33 || r[31] != ' ' || r[32] == ' ' {
			t.Errorf("not in its column: %q", line)
		}
	}
	if p.Counts()["bln users.put"] > 0 {
		t.Error("something was written")
	}
}

func TestDoctorLooksAtAPrivatePostgresToo(t *testing.T) {
	t.Parallel()
	data, err := os.MkdirTemp("/tmp", "namebridge-data-") //nolint:usetesting // t.TempDir is closed to root's Postgres, which is not root
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(data) })
	if err := os.Chmod(data, 0o755); err != nil {
		t.Fatal(err)
	}
	p := healthy(t, simulator.Options{}).with(map[string]string{"DATABASE_URL": "embedded", "XDG_DATA_HOME": data})
	for _, tells := range []string{"namebridge's tables are not there yet", "version 3, nothing pending"} {
		if o := p.run(t, "doctor").ends(t, 0); !strings.Contains(o.stdout, tells) {
			t.Errorf("does not tell %q:\n%s", tells, o.stdout)
		}
		p.run(t, "migrate", "up").ends(t, 0)
	}
}

// The canaries stand in every otherInfo, and one of them is probed.
func TestDoctorShowsNoPersonAndNoSecret(t *testing.T) {
	t.Parallel()
	p := aviary(t, simulator.Options{Role: simulator.RoleAdmin}, "debug")
	p.run(t, "backfill").ends(t, 0)
	for id, truth := range p.Truth().Users {
		o := p.run(t, "doctor", "--probe-write", fmt.Sprint(id))
		o.sings(t, "probe of "+truth.Held)
		if !strings.Contains(o.stdout, "this server replaces") && !strings.Contains(o.stdout, "nothing was written to user") {
			t.Errorf("user %d (%s):\n%s", id, truth.Why, o.stdout)
		}
	}
	p.Change(func(o *simulator.Options) { o.DropForeignKeyOnPut = simulator.Tamper{Every: 1} })
	p.run(t, "doctor", "--probe-write", fmt.Sprint(slices.Min(slices.Collect(maps.Keys(p.Truth().Users))))).ends(t, 3).sings(t, "damage")
}

// Rule 2 holds for the doctor, too: its before-image is on disk, and an ordinary run looks into what was cut off.
func TestAProbeMayDieAtAnyMoment(t *testing.T) {
	t.Parallel()
	bin := program(t)
	const otherInfo = `{"jobTitle":"x","trades":["a","b"],"notes-1":{"x":1.10}}`
	for _, put := range []simulator.PutSemantics{simulator.Replace, simulator.ShallowMerge} {
		for n := 1; n <= 3; n++ {
			for _, carriedOut := range []bool{false, true} {
				t.Run(fmt.Sprint(put, n, carriedOut), func(t *testing.T) {
					t.Parallel()
					p := healthy(t, simulator.Options{Put: put})
					user := p.AddUser(simulator.NewUser{Username: "patient@people.example", OtherInfo: otherInfo})
					own := []string{"namecoach_probe_kept", "namecoach_probe_left_out"}
					foreign := p.ForeignDigests(own...)
					g := newGate(t, p)
					p = p.with(map[string]string{"BLN_URL": g.URL, "NAMECOACH_REQUESTS_PER_15_MINUTES": "1000000"}) // nothing here is about its pace
					started := make(chan *process, 1)                                                               // hooks are called while the process starts
					die := func() { _ = (<-started).Process.Kill() }
					if carriedOut {
						g.hang(hooks{after: func(i int) {
							if i == n {
								die()
							}
						}})
					} else {
						g.hang(hooks{before: func(i int) bool {
							if i == n {
								die()
							}
							return i < n
						}})
					}
					child := p.start(t, bin, "doctor", "--probe-write", fmt.Sprint(user))
					started <- child
					if err := child.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
						t.Fatalf("it ended by itself: %v\n%s", err, child.stderr.String())
					}
					g.quiet()
					g.hang(hooks{})
					p.expire(t)
					if n := p.sql(t, `SELECT count(*) FROM journal WHERE state = 'sending' AND before IS NOT NULL`); n != 1 {
						t.Errorf("%d open entries with a before-image, want 1", n)
					}
					p.run(t, "doctor").ends(t, 0) // a warning
					p.run(t, "backfill").ends(t, 0)
					p.run(t, "doctor", "--probe-write", fmt.Sprint(user)).ends(t, 0)
					if got, want := p.ForeignDigests(own...)[user], foreign[user]; got != want {
						t.Errorf("the user is not as before: %s", p.UserOtherInfo(user))
					}
					if strings.Contains(p.UserOtherInfo(user), "may be removed") {
						t.Errorf("something of the probe is left: %s", p.UserOtherInfo(user))
					}
					for what, statement := range map[string]string{
						"open entries": `SELECT count(*) FROM journal WHERE state = 'sending' OR before IS NOT NULL`,
						"halts":        `SELECT count(*) FROM bridges WHERE halted_at IS NOT NULL`,
						"claims":       `SELECT count(*) FROM directory_users WHERE claim_owner IS NOT NULL`,
					} {
						if n := p.sql(t, statement); n != 0 {
							t.Errorf("%d %s", n, what)
						}
					}
				})
			}
		}
	}
}
