package metrics_test

import (
	"context"
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/riverqueue/river/rivertype"
	"go.uber.org/goleak"

	"namebridge/bln"
	"namebridge/internal/httpapi"
	"namebridge/internal/metrics"
	"namebridge/internal/postgres/testdb"
	"namebridge/internal/simulator"
	"namebridge/migrations"
	"namebridge/namecoach"
	"namebridge/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(testdb.Main(m)) }

// contract is what dashboards and alerts are made from. A change breaks them: it needs a line for operators.
const contract = `
namebridge_api_budget_remaining{bridge,api} GAUGE
namebridge_api_request_duration_seconds{bridge,api,endpoint} HISTOGRAM
namebridge_api_requests_total{bridge,api,endpoint,code} COUNTER
namebridge_api_throttled_seconds_total{bridge,api} COUNTER
namebridge_build_info{version,commit,goversion} GAUGE
namebridge_collect_lag_seconds{bridge} GAUGE
namebridge_cursor_timestamp_seconds{bridge,stream} GAUGE
namebridge_database_up{} GAUGE
namebridge_halted{bridge} GAUGE
namebridge_holds{bridge,reason} GAUGE
namebridge_jobs{bridge,state} GAUGE
namebridge_last_success_timestamp_seconds{bridge,kind} GAUGE
namebridge_late_found_total{bridge} COUNTER
namebridge_participants{bridge} GAUGE
namebridge_propagation_seconds{bridge} HISTOGRAM
namebridge_quarantined_runs{bridge} GAUGE
namebridge_run_duration_seconds{bridge,kind,status} HISTOGRAM
namebridge_users{bridge,state} GAUGE
namebridge_writes_total{bridge,action,outcome} COUNTER
`

// series is one series that was scraped.
type series struct {
	name   string
	labels map[string]string
	value  float64 // of a histogram: how many observations
}

// String is it as Prometheus writes it, with sorted labels.
func (s series) String() string {
	var labels []string
	for name, value := range s.labels {
		labels = append(labels, fmt.Sprintf("%s=%q", name, value))
	}
	slices.Sort(labels)
	return s.name + "{" + strings.Join(labels, ",") + "}"
}

// scrape is every series that reg has, and each family's line of the contract.
func scrape(t *testing.T, reg prometheus.Gatherer) (all []series, families []string) {
	t.Helper()
	gathered, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range gathered {
		var names []string
		for _, m := range family.GetMetric() {
			s := series{name: family.GetName(), labels: map[string]string{}}
			for _, l := range m.GetLabel() {
				s.labels[l.GetName()] = l.GetValue()
				if !slices.Contains(names, l.GetName()) {
					names = append(names, l.GetName())
				}
			}
			s.value = m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
			all = append(all, s)
		}
		slices.Sort(names)
		families = append(families, fmt.Sprintf("%s %s %s", family.GetName(), strings.Join(names, ","), family.GetType()))
	}
	return all, families
}

// find gives the values of the named series, by their text without the name.
func find(t *testing.T, reg prometheus.Gatherer, name string) map[string]float64 {
	t.Helper()
	all, _ := scrape(t, reg)
	found := map[string]float64{}
	for _, s := range all {
		if s.name == name {
			found[strings.TrimPrefix(s.String(), name)] = s.value
		}
	}
	return found
}

// busy is a registry after a day's work: clients have asked both APIs in every way that a daemon does, well and badly, and the
// database is full of people.
func busy(t *testing.T) (reg *prometheus.Registry, secrets []string) {
	t.Helper()
	reg = prometheus.NewPedanticRegistry()
	m := metrics.New(reg, "1.2.3", "5f3fa83")
	m.Expect("acme")

	s, err := simulator.New(simulator.Options{Seed: 1, Users: 120})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	people, members := s.Participants(), s.Users()
	person, member := people[0], members[0]

	nc, err := namecoach.New(namecoach.Options{BaseURL: s.NameCoachURL(), Token: s.Token(), RequestsPer15Minutes: 1_000_000, Observe: m.Observe("acme")})
	must(t, err)
	answer, err := nc.List(t.Context(), namecoach.Filter{})
	must(t, err)
	must(t, answer.Close())
	answer, err = nc.Search(t.Context(), namecoach.Filter{Emails: []string{person.Email}})
	must(t, err)
	must(t, answer.Close())
	stranger, err := namecoach.New(namecoach.Options{BaseURL: s.NameCoachURL(), Token: "a-token-nobody-knows", Observe: m.Observe("acme")})
	must(t, err)
	if _, err := stranger.List(t.Context(), namecoach.Filter{}); err == nil {
		t.Fatal("an unknown token was accepted")
	}
	b, err := bln.New(bln.Options{
		BaseURL: s.BLNURL(), OrganizationID: s.OrganizationID(), Username: s.Username(), Password: s.Password(), PerSecond: 100_000, Observe: m.Observe("acme"),
	})
	must(t, err)
	_, err = b.Organization(t.Context())
	must(t, err)
	_, err = b.ACL(t.Context(), "users")
	must(t, err)
	_, err = b.Users(t.Context(), bln.Cursor{})
	must(t, err)
	_, err = b.UsersByIdentifier(t.Context(), []string{person.Email})
	must(t, err)
	_, err = b.UsersByQuery(t.Context(), person.Email)
	must(t, err)
	user, err := b.User(t.Context(), member.ID)
	must(t, err)
	read := time.Now().Add(time.Hour) // a machine that stands still does not make the write late
	_, err = b.UpdateOtherInfo(t.Context(), member.ID, user.OtherInfo.With("namecoach", []byte(`{"name_badge_link": null}`)), read)
	must(t, err)
	if _, err := b.User(t.Context(), 987654321); err == nil {
		t.Fatal("there is a user 987654321")
	}
	ctx, cancel := context.WithCancel(t.Context())
	unanswered, err := bln.New(bln.Options{
		BaseURL: "http://127.0.0.1:1", OrganizationID: 1, AccessToken: "t", PerSecond: 100_000,
		Observe: func(o httpapi.Observation) { m.Observe("acme")(o); cancel() },
	})
	must(t, err)
	if _, err := unanswered.Organization(ctx); err == nil || ctx.Err() == nil {
		t.Fatal("somebody answers on port 1")
	}
	m.Observe("acme")(httpapi.Observation{API: "namecoach", Endpoint: "participants.list", Code: 200, Remaining: 17})

	for _, kind := range state.Kinds {
		m.RunEnded("acme", kind, state.Done, time.Minute)
	}
	m.Written("acme", "write", state.Verified)
	m.Propagated("acme", 33*time.Second)

	db := testdb.New(t, migrations.Up)
	fill(t, db, person.Email, member.ID)
	reg.MustRegister(metrics.NewStandings(t.Context(), func(ctx context.Context) ([]state.Standing, error) {
		return state.Standings(ctx, db, []string{"acme"})
	}))

	secrets = []string{s.Token(), s.Password(), s.Username(), "a-token-nobody-knows", "987654321", fmt.Sprint(s.OrganizationID())}
	for _, p := range people {
		secrets = append(secrets, p.Email, p.FirstName, p.LastName, p.RecordingID)
	}
	for _, u := range members {
		secrets = append(secrets, u.Username, u.ExternalID, fmt.Sprint(u.ID))
	}
	return reg, secrets
}

// fill stores what names people and runs in every table that is counted.
func fill(t *testing.T, db *pgxpool.Pool, email string, user int64) {
	t.Helper()
	for _, sql := range []string{
		`INSERT INTO bridges (bridge, organization_id) VALUES ('acme', 7)`,
		`INSERT INTO runs (bridge, run, kind, status, started_at, ended_at) SELECT 'acme', gen_random_uuid(), 'collect', s, now(), now() FROM unnest('{done,failed,quarantined}'::text[]) AS s`,
		`INSERT INTO cursors (bridge, stream, since, until) VALUES ('acme', 'participants', now() - interval '1 day', now()), ('acme', gen_random_uuid()::text, now(), now())`,
		`INSERT INTO participants (bridge, participant, person, email, institution_id, event_access_code, event_title, first_name, last_name,
			name_badge_link, recording_link, recording_id, recording_date, content) VALUES ('acme', 'x', 'email:' || $1::text, $1, $2::bigint::text, 'E', '', '', '', '', '', '', '', 'x')`,
		`INSERT INTO directory_users (bridge, user_id, username, email, external_id, sweep) SELECT 'acme', $2::bigint, $1::text, $1, $2::text, 1`,
		`INSERT INTO links (bridge, person, user_id, rule) SELECT 'acme', 'email:' || $1::text, $2::bigint, 'email'`,
		`INSERT INTO holds (bridge, kind, subject, reason, detail) SELECT 'acme', 'person', 'email:' || $1::text, 'unmatched', 'no user ' || $2::bigint`,
		`INSERT INTO river_job (state, max_attempts, kind, queue, args) VALUES ('available', 25, 'sync_batch', 'acme', json_build_object('email', $1::text, 'user', $2::bigint))`,
	} {
		var args []any
		if strings.Contains(sql, "$1") {
			args = []any{email, user}
		}
		if _, err := db.Exec(t.Context(), sql, args...); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestNamesTypesAndLabelsAreThoseOfTheContract(t *testing.T) {
	t.Parallel()
	reg, _ := busy(t)
	line := regexp.MustCompile(`^(\w+)\{(.*)\} (\w+)$`)
	var want []string
	for l := range strings.SplitSeq(strings.TrimSpace(contract), "\n") {
		parts := line.FindStringSubmatch(l)
		labels := strings.Split(parts[2], ",")
		slices.Sort(labels)
		want = append(want, fmt.Sprintf("%s %s %s", parts[1], strings.Join(labels, ","), parts[3]))
	}
	_, got := scrape(t, reg)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestPrometheusHasNothingToSayAgainstTheMetrics(t *testing.T) {
	t.Parallel()
	reg, _ := busy(t)
	problems, err := testutil.GatherAndLint(reg)
	if err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}

// Rule 9: nothing of a person, no id and no token in a label. Each value is of a closed set.
func TestNoLabelSaysAnythingOfAPerson(t *testing.T) {
	t.Parallel()
	reg, secrets := busy(t)
	closed := map[string]string{
		"bridge":  `acme`,
		"api":     `namecoach|bln`,
		"code":    `\d{3}|none`,
		"kind":    `backfill|plan|collect|sweep|census|revert`,
		"status":  `done|failed|quarantined|halted`,
		"action":  `write|clear`,
		"outcome": `verified|unsent|restored|damaged`,
		"reason":  `unmatched|ambiguous|conflict|unwritable|refused|reverted`,
		"stream":  `participants`,
		"state":   `linked|synced|pending|available|cancelled|completed|discarded|retryable|running|scheduled`,
		"endpoint": `participants\.(list|search)|auth\.login|organizations\.get|user\.acl|` +
			`users\.(list|search|query|get|update)`,
		"version": `1\.2\.3`, "commit": `5f3fa83`, "goversion": regexp.QuoteMeta(runtime.Version()),
	}
	all, _ := scrape(t, reg)
	for _, s := range all {
		for name, value := range s.labels {
			if !regexp.MustCompile(`^(` + closed[name] + `)$`).MatchString(value) {
				t.Errorf("%s: %s is not of a closed set", s, name)
			}
			if strings.Contains(value, "@") || value != "" && slices.Contains(secrets, value) {
				t.Errorf("%s: %s says something of a person, or a secret", s, name)
			}
		}
	}
	if n := len(all); n < 150 {
		t.Errorf("only %d series were looked at", n)
	}
}

func TestWhatADaemonAsksIsExpectedFromTheStart(t *testing.T) {
	t.Parallel()
	fresh := prometheus.NewPedanticRegistry()
	metrics.New(fresh, "1.2.3", "5f3fa83").Expect("acme")
	expected, _ := scrape(t, fresh)
	known := map[string]bool{}
	for _, s := range expected {
		known[s.String()] = true
		if s.value != 0 && s.name != "namebridge_build_info" {
			t.Errorf("%s starts at %v", s, s.value)
		}
	}
	reg, _ := busy(t)
	all, _ := scrape(t, reg)
	asked := map[string]bool{}
	for _, s := range all {
		counts := strings.HasSuffix(s.name, "_total") || strings.HasSuffix(s.name, "_duration_seconds") || strings.HasSuffix(s.name, "_propagation_seconds")
		fromDatabase := s.name == "namebridge_late_found_total"
		if counts && !fromDatabase && !known[s.String()] && s.labels["code"] != "404" {
			t.Errorf("%s came as a surprise", s)
		}
		if s.value > 0 && s.labels["endpoint"] != "" {
			asked[s.labels["endpoint"]] = true
		}
	}
	for _, s := range expected {
		if e := s.labels["endpoint"]; e != "" && !asked[e] {
			t.Errorf("%s is expected, but no client has this endpoint", e)
			asked[e] = true
		}
	}
}

func TestEveryKnownCombinationIsThereAtZero(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewPedanticRegistry()
	m := metrics.New(reg, "", "")
	m.Expect("acme", "globex")
	for name, want := range map[string]int{
		"namebridge_run_duration_seconds":         2 * 6 * 4,
		"namebridge_writes_total":                 2 * 2 * 4,
		"namebridge_propagation_seconds":          2,
		"namebridge_api_requests_total":           2 * 10 * 9,
		"namebridge_api_request_duration_seconds": 2 * 10,
		"namebridge_api_throttled_seconds_total":  2 * 2,
		"namebridge_api_budget_remaining":         0, // not known is not 0
	} {
		found := find(t, reg, name)
		if len(found) != want {
			t.Errorf("%s has %d series, want %d", name, len(found), want)
		}
		for s, v := range found {
			if v != 0 {
				t.Errorf("%s%s starts at %v", name, s, v)
			}
		}
	}
	m.Written("acme", "clear", state.Restored)
	m.Expect("acme", "globex")
	if got := find(t, reg, "namebridge_writes_total")[`{action="clear",bridge="acme",outcome="restored"}`]; got != 1 {
		t.Errorf("expecting again has made a count of 1 into %v", got)
	}
}

func TestARequestIsCountedByWhatBecameOfIt(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewPedanticRegistry()
	observe := metrics.New(reg, "", "").Observe("acme")
	for _, o := range []httpapi.Observation{
		{API: "bln", Endpoint: "users.get", Code: 200, Duration: 80 * time.Millisecond, Throttled: 1500 * time.Millisecond, Remaining: 12},
		{API: "bln", Endpoint: "users.get", Code: 200, Duration: 2 * time.Second, Throttled: 250 * time.Millisecond, Remaining: -1},
		{API: "bln", Endpoint: "users.get", Code: 429, Duration: time.Millisecond, Remaining: 0},
		{API: "namecoach", Endpoint: "participants.list", Duration: 30 * time.Second, Remaining: -1},
	} {
		observe(o)
	}
	for name, want := range map[string]map[string]float64{
		"namebridge_api_requests_total": {
			`{api="bln",bridge="acme",code="200",endpoint="users.get"}`:                2,
			`{api="bln",bridge="acme",code="429",endpoint="users.get"}`:                1,
			`{api="namecoach",bridge="acme",code="none",endpoint="participants.list"}`: 1,
		},
		"namebridge_api_request_duration_seconds": {
			`{api="bln",bridge="acme",endpoint="users.get"}`:               3,
			`{api="namecoach",bridge="acme",endpoint="participants.list"}`: 1,
		},
		"namebridge_api_throttled_seconds_total": {`{api="bln",bridge="acme"}`: 1.75, `{api="namecoach",bridge="acme"}`: 0},
		"namebridge_api_budget_remaining":        {`{api="bln",bridge="acme"}`: 0},
	} {
		if diff := cmp.Diff(want, find(t, reg, name)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestDurationsAreInSeconds(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewPedanticRegistry()
	m := metrics.New(reg, "", "")
	m.RunEnded("acme", state.Backfill, state.Failed, 90*time.Minute)
	m.Propagated("acme", 34*time.Second)
	m.Observe("acme")(httpapi.Observation{API: "bln", Endpoint: "users.get", Duration: 40 * time.Millisecond})
	gathered, err := reg.Gather()
	must(t, err)
	sums := map[string]float64{}
	for _, family := range gathered {
		for _, s := range family.GetMetric() {
			if h := s.GetHistogram(); h != nil {
				sums[family.GetName()] = h.GetSampleSum()
			}
		}
	}
	want := map[string]float64{
		"namebridge_run_duration_seconds": 5400, "namebridge_propagation_seconds": 34, "namebridge_api_request_duration_seconds": 0.04,
	}
	if diff := cmp.Diff(want, sums); diff != "" {
		t.Error(diff)
	}
}

// A one-shot command has no metrics, and calls the same code.
func TestNoMetricsCountNothing(t *testing.T) {
	t.Parallel()
	var m *metrics.Metrics
	m.Expect("acme")
	m.Observe("acme")(httpapi.Observation{API: "bln", Endpoint: "users.get", Code: 200})
	m.RunEnded("acme", state.Collect, state.Done, time.Second)
	m.Written("acme", "write", state.Verified)
	m.Propagated("acme", time.Second)
}

// A collector zero-fills what River may say, by River's own list.
func TestRiversStatesAreKnown(t *testing.T) {
	t.Parallel()
	reg, _ := busy(t)
	found := find(t, reg, "namebridge_jobs")
	for _, s := range rivertype.JobStates() {
		if _, ok := found[fmt.Sprintf(`{bridge="acme",state=%q}`, s)]; !ok {
			t.Errorf("namebridge_jobs does not tell of jobs that are %s", s)
		}
	}
	if found[`{bridge="acme",state="available"}`] != 1 {
		t.Errorf("one job is available, and the metric says %v", found)
	}
}
