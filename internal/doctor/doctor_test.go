package doctor_test

import (
	"context"
	"errors"
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
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/sethvargo/go-envconfig"

	"namebridge/internal/config"
	"namebridge/internal/doctor"
	"namebridge/internal/postgres"
	"namebridge/internal/postgres/testdb"
	"namebridge/internal/simulator"
	"namebridge/migrations"
)

func TestMain(m *testing.M) { os.Exit(testdb.Main(m).Run()) }

// place is a deployment in which all is well: both simulated APIs, a migrated database, a daemon at work, an account that may do everything.
type place struct {
	*simulator.Simulator
	db  *pgxpool.Pool // nil: the database is others' too, until exec gives it one of its own
	env map[string]string
	o   doctor.Options
}

func newPlace(t *testing.T, o simulator.Options) *place {
	t.Helper()
	p := newAPIs(t, o)
	p.ownDatabase(t)
	return p
}

// newAPIs is a place without a database.
func newAPIs(t *testing.T, o simulator.Options) *place {
	t.Helper()
	s, err := simulator.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	role := o.Role
	if role == "" {
		role = simulator.RoleAdmin
	}
	s.AddUser(simulator.NewUser{Username: s.Username(), Role: role})
	return &place{Simulator: s, env: map[string]string{
		"NAMECOACH_URL":           s.NameCoachURL(),
		"NAMECOACH_TOKEN":         s.Token(),
		"BLN_URL":                 s.BLNURL(),
		"BLN_ORGANIZATION_ID":     fmt.Sprint(s.OrganizationID()),
		"BLN_USERNAME":            s.Username(),
		"BLN_PASSWORD":            s.Password(),
		"BLN_REQUESTS_PER_SECOND": "1000",
	}}
}

func (p *place) ownDatabase(t *testing.T) {
	t.Helper()
	p.env["DATABASE_URL"] = testdb.URL(t, migrations.Up)
	p.db = connect(t, p.env["DATABASE_URL"])
	p.exec(t, `INSERT INTO bridges (bridge, organization_id) VALUES ('default', $1)`, p.OrganizationID())
	p.exec(t, `INSERT INTO workers (bridge, owner, host, heartbeat_at) VALUES ('default', $1, 'here', now() + interval '1 hour')`, uuid.New())
	p.exec(t, `INSERT INTO schedules (bridge, kind, expression, due_at) VALUES ('default', 'collect', '@every 5m', now() + interval '5 minutes')`)
}

func connect(t *testing.T, url string) *pgxpool.Pool {
	t.Helper()
	db, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}

func (p *place) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	if p.db == nil {
		p.ownDatabase(t)
	}
	if _, err := p.db.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// value is the only column of the only row.
func value[T any](t *testing.T, db *pgxpool.Pool, sql string, args ...any) (v T) {
	t.Helper()
	if err := db.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// look is one run of the doctor. No finding may show a secret, an address, or lack its cure.
func (p *place) look(t *testing.T, ctx context.Context) []doctor.Finding {
	t.Helper()
	o := p.o
	o.Config, o.Problems = config.Examine(envconfig.MapLookuper(p.env), config.Database)
	if o.Patience == 0 {
		o.Patience = time.Minute // nobody waits for it where all is well, and a busy machine is no finding
	}
	o.Database = func(context.Context) (string, func(), error) { return o.Config.DatabaseURL.Reveal(), func() {}, nil }
	var all []doctor.Finding
	doctor.Run(ctx, o, func(f doctor.Finding) { all = append(all, f) })
	for _, f := range all {
		for _, secret := range []string{p.Token(), p.Password(), p.Username(), "hunter2", "people.example", "eyJ"} {
			if strings.Contains(f.Text+f.Cure, secret) {
				t.Errorf("%q is shown: %+v", secret, f)
			}
		}
		if (f.Status == doctor.OK) != (f.Cure == "") || f.Text == "" || f.Check == "" {
			t.Errorf("a cure belongs to what is not ok, and to nothing else: %+v", f)
		}
	}
	return all
}

// amiss are the findings that are not ok.
func amiss(all []doctor.Finding) (bad []doctor.Finding) {
	for _, f := range all {
		if f.Status != doctor.OK {
			bad = append(bad, f)
		}
	}
	return bad
}

// want is what a finding must say.
type want struct {
	status doctor.Status
	check  string
	says   string // in its text
	cure   string // in its cure
}

func (w want) fits(f doctor.Finding) bool {
	return f.Status == w.status && f.Check == w.check && strings.Contains(f.Text, w.says) && strings.Contains(f.Cure, w.cure)
}

// expect fails the test unless what is not ok is just what is wanted, in order.
func expect(t *testing.T, all []doctor.Finding, wanted ...want) {
	t.Helper()
	bad := amiss(all)
	for i := range max(len(bad), len(wanted)) {
		switch {
		case i >= len(wanted):
			t.Errorf("found what was not wanted: %+v", bad[i])
		case i >= len(bad):
			t.Errorf("not found: %+v", wanted[i])
		case !wanted[i].fits(bad[i]):
			t.Errorf("found %+v\nwant  %+v", bad[i], wanted[i])
		}
	}
}

func TestAHealthyDeploymentHasNothingToMend(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{Seed: 1, Users: 20, NameCoachPer15Minutes: 1000})
	all := p.look(t, t.Context())
	expect(t, all)
	for _, w := range []want{
		{check: doctor.Configuration},
		{check: doctor.Database, says: "Postgres 1"},
		{check: doctor.Connections},
		{check: doctor.Sessions},
		{check: doctor.Schema},
		{check: doctor.Queue},
		{check: doctor.Bridge, says: "neither halted"},
		{check: doctor.Daemon, says: "1 process"},
		{check: doctor.NameCoach, says: "999 requests left"},
		{check: doctor.BLN, says: "organization 4711 is “Demo College”"},
		{check: doctor.Privileges, says: "role admin; 21 users"},
	} {
		w.status = doctor.OK
		found := false
		for _, f := range all {
			found = found || w.fits(f)
		}
		if !found {
			t.Errorf("nothing says %+v in\n%+v", w, all)
		}
	}
	wanted := map[string]int{
		"namecoach participants.list": 1, "bln auth.login": 1, "bln organization.get": 1, "bln users.list": 1, "bln users.search": 1, "bln acl": 1,
	}
	if got := p.Counts(); !maps.Equal(got, wanted) {
		t.Errorf("asked %v, want %v", got, wanted)
	}
	if v := p.Violations(); len(v) > 0 {
		t.Errorf("impolite: %v", v)
	}
}

// It is run before anything was set up, and must leave that as it is.
func TestALookChangesNothing(t *testing.T) {
	t.Parallel()
	const everything = `SELECT (SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace)`
	empty := newAPIs(t, simulator.Options{})
	empty.env["DATABASE_URL"] = testdb.URL(t, nil)
	expect(t, empty.look(t, t.Context()), want{doctor.Warning, doctor.Schema, "not there yet", "namebridge migrate up"})
	if n := value[int](t, connect(t, empty.env["DATABASE_URL"]), everything); n != 0 {
		t.Errorf("%d tables were made", n)
	}
	fresh := newAPIs(t, simulator.Options{})
	fresh.env["DATABASE_URL"] = testdb.URL(t, migrations.Up)
	expect(t, fresh.look(t, t.Context()), want{doctor.Warning, doctor.Daemon, "no process is at work", "namebridge serve"})
	if n := value[int](t, connect(t, fresh.env["DATABASE_URL"]), `SELECT (SELECT count(*) FROM bridges) + (SELECT count(*) FROM workers) + (SELECT count(*) FROM runs)`); n != 0 {
		t.Errorf("%d rows were made", n)
	}
}

// answering is the URL of a server that says the same to everything.
func answering(t *testing.T, status int, header http.Header, body string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		maps.Copy(w.Header(), header)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// before stands before an API: what intercept does not answer goes on to it.
func before(t *testing.T, to string, intercept func(http.ResponseWriter, *http.Request) bool) string {
	t.Helper()
	target, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: target.Scheme, Host: target.Host})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !intercept(w, r) {
			proxy.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL + target.Path
}

func silent(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String()
}

func TestEachProblemIsFoundByItselfAndNamesItsCure(t *testing.T) {
	t.Parallel()
	stranger := httptest.NewTLSServer(nil) // its certificate is signed by nobody we know
	stranger.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(stranger.Close)
	common := newPlace(t, simulator.Options{}) // for all who change nothing in the database
	set := func(name, v string) func(*testing.T, *place) {
		return func(_ *testing.T, p *place) { p.env[name] = v }
	}
	sql := func(statement string, args ...any) func(*testing.T, *place) {
		return func(t *testing.T, p *place) { p.exec(t, statement, args...) }
	}
	both := func(fs ...func(*testing.T, *place)) func(*testing.T, *place) {
		return func(t *testing.T, p *place) {
			for _, f := range fs {
				f(t, p)
			}
		}
	}
	toNameCoach := func(status int, body string) func(*testing.T, *place) {
		return func(t *testing.T, p *place) { p.env["NAMECOACH_URL"] = answering(t, status, nil, body) }
	}
	for name, test := range map[string]struct {
		options simulator.Options
		do      func(*testing.T, *place)
		want    []want
	}{
		"a wrong token": {do: set("NAMECOACH_TOKEN", "hunter2"), want: []want{{
			doctor.Problem, doctor.NameCoach, "(401)",
			"NAMECOACH_TOKEN",
		}}},
		"a token without rights": {do: toNameCoach(403, "{}"), want: []want{{doctor.Problem, doctor.NameCoach, "(403)", "ask NameCoach"}}},
		"a wrong path": {do: toNameCoach(404, ""), want: []want{{
			doctor.Problem, doctor.NameCoach, "(404)",
			"set NAMECOACH_URL to https://www.name-coach.com/api/private/v5",
		}}},
		"a redirect": {do: toNameCoach(302, ""), want: []want{{doctor.Problem, doctor.NameCoach, "(302)", "NAMECOACH_URL"}}},
		"somebody's home page": {do: toNameCoach(200, "<html>hunter2</html>"), want: []want{{
			doctor.Problem, doctor.NameCoach, "not NameCoach's API",
			"NAMECOACH_URL",
		}}},
		"a strange refusal": {do: toNameCoach(418, "hunter2"), want: []want{{doctor.Problem, doctor.NameCoach, "(418)", "NAMECOACH_URL"}}},
		"an answer cut off": {do: toNameCoach(200, `{"Response":{"participants":[`), want: []want{{doctor.Problem, doctor.NameCoach, "breaks off", "run this again"}}},
		"a NameCoach that is ill": {do: toNameCoach(503, "hunter2"), want: []want{{
			doctor.Problem, doctor.NameCoach, "fails (503)",
			"run this again",
		}}},
		"NameCoach's certificate": {do: set("NAMECOACH_URL", stranger.URL), want: []want{{
			doctor.Problem, doctor.NameCoach,
			"an authority that this machine does not know", "SSL_CERT_FILE",
		}}},
		"no NameCoach there": {
			do:   func(t *testing.T, p *place) { p.env["NAMECOACH_URL"] = "http://" + testdb.Refusing(t) },
			want: []want{{doctor.Problem, doctor.NameCoach, "connection refused", "NAMECOACH_URL"}},
		},
		"TLS to a plain port": {
			do: func(_ *testing.T, p *place) {
				p.env["NAMECOACH_URL"] = "https" + strings.TrimPrefix(p.Simulator.NameCoachURL(), "http")
			},
			want: []want{{doctor.Problem, doctor.NameCoach, "does not speak TLS", "NAMECOACH_URL"}},
		},
		"a silent NameCoach": {
			do: func(t *testing.T, p *place) {
				p.env["NAMECOACH_URL"], p.o.Patience = "http://"+silent(t), 10*time.Second
			}, // the database has no more
			want: []want{{doctor.Problem, doctor.NameCoach, "no answer within", "firewall"}},
		},
		"a pause for everybody": {do: func(t *testing.T, p *place) {
			p.env["NAMECOACH_URL"] = answering(t, 429, http.Header{"Retry-After": {"600"}}, "")
		}, want: []want{{doctor.Problem, doctor.NameCoach, "to wait until", "what else uses the account"}}},
		"a budget almost used up": {
			options: simulator.Options{NameCoachPer15Minutes: 20}, do: both(),
			want: []want{{doctor.Warning, doctor.NameCoach, "19 requests left", "what else uses this token"}},
		},

		"a wrong password": {do: set("BLN_PASSWORD", "hunter2-hunter2"), want: []want{{
			doctor.Problem, doctor.BLN, "user name or the password (401)",
			"BLN_PASSWORD",
		}}},
		"another organization": {
			do:   both(set("BLN_ORGANIZATION_ID", "4712"), sql(`UPDATE bridges SET organization_id = 4712`)),
			want: []want{{doctor.Problem, doctor.BLN, "not as a member of organization 4712 (403)", "BLN_ORGANIZATION_ID"}},
		},
		"no such organization": {
			do:   both(set("BLN_ORGANIZATION_ID", "99"), sql(`UPDATE bridges SET organization_id = 99`)),
			want: []want{{doctor.Problem, doctor.BLN, "knows no organization 99", "BLN_ORGANIZATION_ID"}},
		},
		"a sign-in that says only no": {do: func(t *testing.T, p *place) {
			p.env["BLN_URL"] = before(t, p.BLNURL(), func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path != "/auth/login" {
					return false
				}
				w.WriteHeader(400)
				return true
			})
		}, want: []want{{doctor.Problem, doctor.BLN, "the organization 4711 is there, so it is the user name or the password", "BLN_PASSWORD"}}},
		"a wrong access token": {
			do: both(set("BLN_ACCESS_TOKEN", "hunter2"), set("BLN_USERNAME", ""), set("BLN_PASSWORD", "")),
			want: []want{{doctor.Warning, doctor.BLN, "does not tell when it ends", "BLN_USERNAME"}, {
				doctor.Problem, doctor.BLN,
				"does not accept BLN_ACCESS_TOKEN (401)", "BLN_USERNAME",
			}},
		},
		"an access token that ends": {options: simulator.Options{TokenLife: 61*time.Minute + 30*time.Second}, do: func(_ *testing.T, p *place) {
			p.env["BLN_ACCESS_TOKEN"], p.env["BLN_USERNAME"], p.env["BLN_PASSWORD"] = p.AccessToken(), "", ""
		}, want: []want{{doctor.Warning, doctor.BLN, "ends in 61 min", "BLN_USERNAME"}}},
		"an access token that has ended": {options: simulator.Options{TokenLife: -61*time.Minute - 30*time.Second}, do: func(_ *testing.T, p *place) {
			p.env["BLN_ACCESS_TOKEN"], p.env["BLN_USERNAME"], p.env["BLN_PASSWORD"] = p.AccessToken(), "", ""
		}, want: []want{{doctor.Warning, doctor.BLN, "ended 61 min ago", "BLN_USERNAME"}, {
			doctor.Problem, doctor.BLN,
			"does not accept BLN_ACCESS_TOKEN (401)", "BLN_USERNAME",
		}}},
		"an auditor": {
			options: simulator.Options{Role: simulator.RoleAuditor}, do: both(),
			want: []want{{
				doctor.Problem, doctor.Privileges, "role auditor, which may not update users (“update user in organization”)",
				"role admin",
			}},
		},
		"a network admin": {
			options: simulator.Options{Role: simulator.RoleNetworkAdmin}, do: both(),
			want: []want{{
				doctor.Problem, doctor.Privileges, "may not list the users of the organization (“view users in organization”), nor update users",
				"role admin",
			}},
		},
		"a member": {
			options: simulator.Options{Role: simulator.RoleMember}, do: both(),
			want: []want{{doctor.Problem, doctor.Privileges, "may not list the users", "role admin"}},
		},
		"privileges of which nothing is told": {do: func(t *testing.T, p *place) {
			p.env["BLN_URL"] = before(t, p.BLNURL(), func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path != "/user/acl" && !r.URL.Query().Has("search") {
					return false
				}
				w.WriteHeader(404)
				return true
			})
		}, want: []want{{doctor.Warning, doctor.Privileges, "whether it may update them is not told", "--probe-write"}}},
		"no BLN there": {
			do:   func(t *testing.T, p *place) { p.env["BLN_URL"] = "http://" + testdb.Refusing(t) },
			want: []want{{doctor.Problem, doctor.BLN, "asked to sign in: nothing listens there", "BLN_URL"}},
		},
		"BLN's certificate": {do: set("BLN_URL", stranger.URL), want: []want{{
			doctor.Problem, doctor.BLN, "an authority that this machine does not know",
			"BLN_URL",
		}}},
		"something else at BLN_URL": {
			do:   func(t *testing.T, p *place) { p.env["BLN_URL"] = answering(t, 200, nil, "<html>hunter2</html>") },
			want: []want{{doctor.Problem, doctor.BLN, "is not BLN", "BLN_URL"}},
		},
		"a wrong BLN_URL": {
			do:   func(t *testing.T, p *place) { p.env["BLN_URL"] = answering(t, 404, nil, "hunter2") },
			want: []want{{doctor.Problem, doctor.BLN, "no such API at BLN_URL (404)", "BLN_URL"}},
		},
		"servers 90 s ahead": {options: simulator.Options{ClockOffset: 90 * time.Second}, do: both(), want: []want{
			{doctor.Warning, doctor.Clock, "s ahead of this machine's. Windows", "NTP"}, {
				doctor.Warning, doctor.Clock,
				"s ahead of this machine's. The end of a sign-in", "NTP",
			},
		}},
		"a machine 90 s ahead": {
			do:   func(_ *testing.T, p *place) { p.o.Now = func() time.Time { return time.Now().Add(90 * time.Second) } },
			want: []want{{doctor.Warning, doctor.Clock, "s behind this machine's. Schedules", "NTP"}},
		},

		"no database there": {
			do: func(t *testing.T, p *place) {
				p.env["DATABASE_URL"] = "postgres://u:hunter2@" + testdb.Refusing(t) + "/x"
			},
			want: []want{{doctor.Problem, doctor.Database, "connection refused", "DATABASE_URL"}},
		},
		"a silent database": {do: func(t *testing.T, p *place) {
			p.env["DATABASE_URL"], p.o.Patience = "postgres://u:hunter2@"+silent(t)+"/x", 10*time.Second
		}, want: []want{{doctor.Problem, doctor.Database, "no answer from the database within", "firewall"}}},
		"no such database": {
			do: func(_ *testing.T, p *place) {
				p.env["DATABASE_URL"] = named(p.env["DATABASE_URL"], "namebridge_nowhere")
			},
			want: []want{{doctor.Problem, doctor.Database, "no such database", "createdb"}},
		},
		"a read-only database": {do: func(t *testing.T, p *place) {
			p.exec(t, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); END $$`)
		}, want: []want{{doctor.Problem, doctor.Database, "read-only", "default_transaction_read_only"}}},
		"few connections": {do: func(t *testing.T, p *place) {
			p.exec(t, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I CONNECTION LIMIT 2', current_database()); END $$`)
		}, want: []want{{doctor.Warning, doctor.Connections, "left, and each process", "max_connections"}}},
		"names cannot be stored": {do: func(t *testing.T, p *place) {
			name := "namebridge_test_ascii_" + strings.ReplaceAll(uuid.NewString(), "-", "")
			p.exec(t, `CREATE DATABASE `+name+` TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'`)
			home := p.env["DATABASE_URL"]
			t.Cleanup(func() {
				ctx := context.WithoutCancel(t.Context())
				c, err := pgx.Connect(ctx, home)
				if err != nil {
					t.Error(err)
					return
				}
				_, err = c.Exec(ctx, `DROP DATABASE `+name)
				if err := errors.Join(err, c.Close(ctx)); err != nil {
					t.Error(err)
				}
			})
			p.env["DATABASE_URL"] = named(home, name)
			if err := migrations.Up(t.Context(), p.env["DATABASE_URL"]); err != nil {
				t.Fatal(err)
			}
		}, want: []want{{doctor.Problem, doctor.Database, "SQL_ASCII", "UTF8"}, {doctor.Warning, doctor.Daemon, "no process", "serve"}}},
		"an old schema": {do: func(t *testing.T, p *place) {
			p.ownDatabase(t)
			if err := migrations.Down(t.Context(), p.env["DATABASE_URL"], 2); err != nil {
				t.Fatal(err)
			}
		}, want: []want{{doctor.Warning, doctor.Schema, "version 2 of 3: 1 migration pending", "namebridge migrate up"}}},
		"a newer schema": {
			do: sql(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, true)`),
			want: []want{{
				doctor.Warning, doctor.Schema, "an older program on a newer schema: the database is at version 99, this program knows 3",
				"newer program",
			}},
		},
		"no tables of the queue": {do: sql(`DROP TABLE river_queue CASCADE`), want: []want{{doctor.Problem, doctor.Queue, "are missing", "backup"}}},
		"jobs given up": {
			do:   sql(`INSERT INTO river_job (state, kind, args, max_attempts, finalized_at) VALUES ('discarded', 'census', '{}', 3, now())`),
			want: []want{{doctor.Warning, doctor.Queue, "1 job given up after too many tries: census", "log"}},
		},
		"a job nobody takes": {
			do:   sql(`INSERT INTO river_job (state, kind, args, max_attempts, scheduled_at) VALUES ('available', 'census', '{}', 3, now() - interval '3 hours')`),
			want: []want{{doctor.Warning, doctor.Queue, "1 available; the oldest waits for 3 h", "daemon"}},
		},
		"a paused queue": {
			do:   sql(`INSERT INTO river_queue (name, paused_at, updated_at) VALUES ('default', now(), now())`),
			want: []want{{doctor.Problem, doctor.Queue, "paused the queue: default", "paused_at"}},
		},
		"a daemon that fires nothing": {
			do:   sql(`UPDATE schedules SET due_at = now() - interval '3 hours'`),
			want: []want{{doctor.Problem, doctor.Daemon, "a collect should have begun 3 h ago", "log"}},
		},
		"a daemon that died": {
			do:   sql(`UPDATE workers SET heartbeat_at = now() - interval '5 minutes'`),
			want: []want{{doctor.Warning, doctor.Daemon, "heard of 5 min ago", "namebridge serve"}},
		},
		"a daemon long gone": {
			do: both(sql(`DELETE FROM workers`), sql(`UPDATE schedules SET due_at = now() - interval '3 hours'`)),
			want: []want{{doctor.Warning, doctor.Daemon, "no process", "namebridge serve"}, {
				doctor.Problem, doctor.Daemon, "should have begun",
				"namebridge serve",
			}},
		},
		"a halt": {
			do:   sql(`UPDATE bridges SET halted_at = now() - interval '3 minutes', halt_reason = 'a key was lost'`),
			want: []want{{doctor.Problem, doctor.Bridge, "HALTED for 3 min: a key was lost", "namebridge resume"}},
		},
		"another's database": {
			do:   sql(`UPDATE bridges SET organization_id = 4700, directory_sweep = 1`),
			want: []want{{doctor.Problem, doctor.Bridge, "for organization 4700, and BLN_ORGANIZATION_ID is 4711", "a database, or a bridge, of its own"}},
		},
		"a number that was only tried": {do: sql(`UPDATE bridges SET organization_id = 4700`)},
		"a number that NameCoach was read with": {
			do:   sql(`UPDATE bridges SET organization_id = 4700, collected_at = now()`),
			want: []want{{doctor.Problem, doctor.Bridge, "for organization 4700, and BLN_ORGANIZATION_ID is 4711", "DELETE FROM bridges WHERE bridge = 'default'"}},
		},
		"a bridge by another name": {
			do:   sql(`INSERT INTO bridges (bridge, organization_id, directory_sweep) VALUES ('acme', 4711, 1), ('globex', 4711, 0), ('initech', 4712, 1)`),
			want: []want{{doctor.Problem, doctor.Bridge, "holds organization 4711 for bridge acme", "keep the name acme in BRIDGES"}},
		},
		"an event of nobody": {
			do: both(set("NAMECOACH_EVENTS", "Z9,E1,A0"), sql(`UPDATE bridges SET collected_at = now()`), sql(participant)),
			want: []want{{
				doctor.Warning, doctor.Configuration, "NAMECOACH_EVENTS has Z9, A0, and no participant that was collected has",
				"NAMECOACH_EVENTS",
			}},
		},
		"events of nobody": {
			do:   both(set("NAMECOACH_EVENTS", "e1"), sql(`UPDATE bridges SET collected_at = now()`), sql(participant)),
			want: []want{{doctor.Warning, doctor.Configuration, "nobody is given a badge", "NAMECOACH_EVENTS"}},
		},
		"events before the first collect": {do: both(set("NAMECOACH_EVENTS", "e1"), sql(participant))},
		"a quarantined run": {
			do: both(sql(`INSERT INTO runs (bridge, run, kind, status) VALUES ('default', $1, 'sweep', 'quarantined')`, uuid.Nil),
				sql(`INSERT INTO plan_steps (bridge, run, user_id, action, version) VALUES ('default', $1, 5, 'clear', 1)`, uuid.Nil),
				sql(`INSERT INTO directory_users (bridge, user_id, username, email, external_id, sweep, action, wanted_version, removes)
					VALUES ('default', 5, '', '', '', 1, 'clear', 1, true)`)),
			want: []want{{doctor.Problem, doctor.Bridge, "QUARANTINED", "runs approve " + uuid.Nil.String() + ` --reason "…" --bridge default`}},
		},
		"a write of unknown outcome": {
			do: both(
				sql(`INSERT INTO directory_users (bridge, user_id, username, email, external_id, sweep) VALUES ('default', 5, '', '', '', 1)`),
				sql(`INSERT INTO journal (bridge, run, user_id, fence, action, state) VALUES ('default', $1, 5, 1, 'write', 'sending')`, uuid.New())),
			want: []want{{doctor.Warning, doctor.Bridge, "the outcome of 1 write is not known", "namebridge backfill"}},
		},
		"a probe cut off": {
			do: sql(`INSERT INTO runs (bridge, run, kind, status, counts) VALUES ('default', $1, 'probe', 'failed', '{"user": 12, "left": true}')`, uuid.New()),
			want: []want{{
				doctor.Warning, doctor.Probe, "the probe on user 12 was cut off: namecoach_probe_kept and namecoach_probe_left_out",
				"--probe-write 12",
			}},
		},

		"addresses that people edit": {do: set("MATCH_BY", "externalId,email,otherEmail"), want: []want{{
			doctor.Warning, doctor.Configuration,
			"claims the other's recording", "MATCH_BY",
		}}},
		"other hosts for links": {
			do:   set("LINK_HOSTS", "name-coach.com,cdn.name-coach.com,*.cdn.acme.example"),
			want: []want{{doctor.Warning, doctor.Configuration, "lead to *.cdn.acme.example, beyond", "keep only"}},
		},
		"a guard that guards nobody": {do: set("GUARD_MAX_CLEAR_PERCENT", "100"), want: []want{{
			doctor.Warning, doctor.Configuration, "100 %",
			"GUARD_MAX_CLEAR_PERCENT",
		}}},
		"a guard with a large number": {do: set("GUARD_MAX_CLEARS", "5000"), want: []want{{
			doctor.Warning, doctor.Configuration, "5000 people",
			"GUARD_MAX_CLEARS",
		}}},
		"one census that decides": {do: set("CENSUS_CONFIRMATIONS", "1"), want: []want{{
			doctor.Warning, doctor.Configuration,
			"CENSUS_CONFIRMATIONS is 1", "2 or more",
		}}},
		"a greedy budget": {do: set("NAMECOACH_REQUESTS_PER_15_MINUTES", "3000"), want: []want{{
			doctor.Warning, doctor.Configuration,
			"is 3000", "1000",
		}}},
		"a settling time beyond the lookback": {do: set("WINDOW_SETTLE", "1h"), want: []want{{
			doctor.Problem, doctor.Configuration,
			"WINDOW_SETTLE 1h0m0s is not shorter", "WINDOW_SETTLE",
		}}},
		"merge without a proof": {do: set("BLN_PUT_SEMANTICS", "merge"), want: []want{{
			doctor.Warning, doctor.Configuration,
			"no probe is known", "--probe-write",
		}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newAPIs(t, test.options)
			p.env["DATABASE_URL"] = common.env["DATABASE_URL"]
			test.do(t, p)
			expect(t, p.look(t, t.Context()), test.want...)
			if n := p.Counts()["bln users.put"]; n > 0 {
				t.Errorf("%d writes were sent", n)
			}
		})
	}
}

const participant = `INSERT INTO participants (bridge, participant, person, email, institution_id, event_access_code, event_title, first_name, last_name,
	name_badge_link, recording_link, recording_id, recording_date, content) VALUES ('default', 'p', 'p', '', '', 'E1', '', '', '', '', '', '', '', 'c')`

// A token that is refused must not be called accepted, also where BLN shows the organization to everybody.
func TestATokenCountsAsAcceptedOnlyOnceItWas(t *testing.T) {
	t.Parallel()
	for accepted, options := range map[bool]simulator.Options{true: {TokenLife: time.Hour}, false: {TokenLife: -time.Hour}} {
		p := newPlace(t, options)
		p.env["BLN_ACCESS_TOKEN"], p.env["BLN_USERNAME"], p.env["BLN_PASSWORD"] = p.AccessToken(), "", ""
		said := 0
		for _, f := range p.look(t, t.Context()) {
			if strings.Contains(f.Text, "signs in with BLN_ACCESS_TOKEN") {
				said++
			}
		}
		if (said == 1) != accepted {
			t.Errorf("accepted: %v, said so %d times", accepted, said)
		}
	}
}

// named is the URL of another database on the same server.
func named(raw, database string) string {
	u, _ := url.Parse(raw)
	u.Path = "/" + database
	return u.String()
}

func TestNoProblemHidesAnother(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{ClockOffset: -90 * time.Second})
	p.exec(t, `UPDATE bridges SET halted_at = now(), halt_reason = 'x'`)
	p.exec(t, `UPDATE workers SET heartbeat_at = now() - interval '1 hour'`)
	p.exec(t, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); END $$`)
	p.env["NAMECOACH_TOKEN"], p.env["BLN_PASSWORD"], p.env["GUARD_MAX_CLEARS"], p.env["WINDOW_LOOKBACK"] = "hunter2", "hunter2-hunter2", "9999",
		"soon"
	all := p.look(t, t.Context())
	expect(t, all,
		want{doctor.Problem, doctor.Configuration, "WINDOW_LOOKBACK", "WINDOW_LOOKBACK"},
		want{doctor.Warning, doctor.Configuration, "9999 people", ""},
		want{doctor.Problem, doctor.Database, "read-only", ""},
		want{doctor.Problem, doctor.Bridge, "HALTED", "resume"},
		want{doctor.Warning, doctor.Daemon, "no process", ""},
		want{doctor.Problem, doctor.NameCoach, "(401)", ""},
		want{doctor.Warning, doctor.Clock, "NameCoach's clock is", ""},
		want{doctor.Problem, doctor.BLN, "(401)", ""},
		want{doctor.Warning, doctor.Clock, "BLN's clock is", ""},
	)
}

// A token goes nowhere but to the host that is configured, and where that is unusable, nowhere.
func TestWhatIsWrongInTheConfigurationIsNotAskedAbout(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{})
	p.env["NAMECOACH_URL"], p.env["BLN_ORGANIZATION_ID"] = "http://nc.acme.example", "acme"
	all := p.look(t, t.Context())
	expect(t, all,
		want{doctor.Problem, doctor.Configuration, "NAMECOACH_URL http://nc.acme.example is not https", "NAMECOACH_URL"},
		want{doctor.Problem, doctor.Configuration, "BLN_ORGANIZATION_ID", ""},
		want{doctor.Warning, doctor.NameCoach, "not asked", "mend"},
		want{doctor.Warning, doctor.BLN, "not asked", "mend"},
	)
	if len(p.Counts()) != 0 {
		t.Errorf("asked %v", p.Counts())
	}
	p.env = map[string]string{"BRIDGES": "Acme"}
	for _, f := range p.look(t, t.Context()) {
		if f.Check != doctor.Configuration {
			t.Errorf("without a bridge and a database there is nothing to look at: %+v", f)
		}
	}
}

func TestEachBridgeIsLookedAtByItself(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{})
	other := newAPIs(t, simulator.Options{})
	p.env["BRIDGES"], p.env["GLOBEX_NAMECOACH_TOKEN"], p.env["GLOBEX_BLN_URL"] = "default,globex", "hunter2", other.BLNURL()
	of := func(all []doctor.Finding) (bridges string) {
		for _, f := range all {
			if !strings.Contains(bridges, f.Bridge) {
				bridges += f.Bridge + " "
			}
		}
		return bridges
	}
	all := p.look(t, t.Context())
	expect(t, all, want{doctor.Warning, doctor.Daemon, "", ""}, want{doctor.Problem, doctor.NameCoach, "(401)", ""})
	if got := of(all); got != "default globex " || amiss(all)[1].Bridge != "globex" || !strings.Contains(amiss(all)[1].Cure, "set GLOBEX_NAMECOACH_TOKEN ") {
		t.Errorf("looked at %s: %+v", got, amiss(all)[1])
	}
	p.o.Bridge = "default"
	all = p.look(t, t.Context())
	expect(t, all)
	if got := of(all); got != "default " {
		t.Errorf("looked at %s", got)
	}
}

func TestAnInterruptedLookEndsSoonAndBlamesNobody(t *testing.T) {
	t.Parallel()
	for endpoint, allowed := range map[string]int{"namecoach participants.list": 0, "bln auth.login": 0, "bln users.list": 0} {
		ctx, interrupt := context.WithCancel(t.Context())
		p := newPlace(t, simulator.Options{OnRequest: func(_ *simulator.Simulator, e string, _ int) {
			if e == endpoint {
				interrupt()
			}
		}})
		if bad := amiss(p.look(t, ctx)); len(bad) > allowed {
			t.Errorf("interrupted at %s: %+v", endpoint, bad)
		}
	}
}

func TestAReplicaIsNoPlaceToWorkIn(t *testing.T) {
	t.Parallel()
	home, err := os.MkdirTemp("/tmp", "namebridge-replica-") //nolint:usetesting // t.TempDir is closed to root's Postgres, which is not root
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(home) })
	if err := os.Chmod(home, 0o755); err != nil {
		t.Fatal(err)
	}
	dir := home + "/postgres"
	primary, err := postgres.Start(t.Context(), postgres.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(migrations.Up(t.Context(), primary.URL()), primary.Stop()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/data/standby.signal", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	replica, err := postgres.Start(t.Context(), postgres.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = replica.Stop() })
	p := newAPIs(t, simulator.Options{})
	p.env["DATABASE_URL"] = replica.URL()
	expect(t, p.look(t, t.Context()), want{doctor.Problem, doctor.Database, "read-only replica", "primary"}, want{
		doctor.Warning, doctor.Daemon,
		"no process", "",
	})
}

func TestAUserOfTheDatabaseNeedsItsPrivileges(t *testing.T) {
	t.Parallel()
	role := "namebridge_test_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	p := newPlace(t, simulator.Options{})
	owner := p.env["DATABASE_URL"]
	p.exec(t, `CREATE ROLE `+role+` LOGIN PASSWORD 'hunter2'`)
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		c, err := pgx.Connect(ctx, owner)
		if err != nil {
			t.Error(err)
			return
		}
		_, err = c.Exec(ctx, `DROP OWNED BY `+role+`; DROP ROLE `+role)
		if err := errors.Join(err, c.Close(ctx)); err != nil {
			t.Error(err)
		}
	})
	as := func(raw, password string) string {
		u, _ := url.Parse(raw)
		u.User = url.UserPassword(role, password)
		return u.String()
	}
	p.exec(t, `GRANT SELECT ON goose_db_version TO `+role)
	p.exec(t, `GRANT SELECT, INSERT, UPDATE, DELETE ON bridges, runs, workers, participants, directory_users, river_job, river_queue, holds, links, plan_steps, schedules, cursors TO `+role)
	p.exec(t, `GRANT SELECT ON journal TO `+role)
	p.env["DATABASE_URL"] = as(owner, "hunter2")
	expect(t, p.look(t, t.Context()), want{
		doctor.Problem, doctor.Database, "may not read and write all tables: journal",
		"GRANT SELECT, INSERT, UPDATE, DELETE",
	})

	empty := testdb.URL(t, nil)
	if _, err := connect(t, empty).Exec(t.Context(), `REVOKE CREATE ON SCHEMA public FROM PUBLIC`); err != nil { // as it is from 15 on
		t.Fatal(err)
	}
	p.env["DATABASE_URL"] = as(empty, "hunter2")
	expect(t, p.look(t, t.Context()), want{doctor.Warning, doctor.Schema, "not there yet", "migrate up"}, want{
		doctor.Problem, doctor.Schema,
		"may not make tables", "GRANT CREATE",
	})
}
