//go:build deploy

package alerts

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"namebridge/internal/postgres/testdb"
	"namebridge/internal/promtest"
	"namebridge/internal/simulator"
	"namebridge/migrations"
)

// within is how long something may take to come about that takes some seconds on an idle machine: what comes from the database is asked
// for every 15 s only, the rules look back 45 s, and other tests use the machine.
const within = 180 * time.Second

// site is a real daemon or two at work on simulated servers, and a real Prometheus that watches them by the rules.
type site struct {
	*promtest.Prometheus
	*simulator.Simulator
	t              *testing.T
	program        string
	env            map[string]string
	namecoach, bln *gate
	slots          []*slot
}

// newSite starts as many replicas as there are to be; the rules are those in the text.
func newSite(t *testing.T, program string, replicas int, rules string, o simulator.Options, env map[string]string) *site {
	t.Helper()
	sim, err := simulator.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := sim.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sim.Close() })
	s := &site{Simulator: sim, t: t, program: program, namecoach: newGate(t, sim.NameCoachURL()), bln: newGate(t, sim.BLNURL())}
	database, err := url.Parse(testdb.URL(t, migrations.Up))
	if err != nil {
		t.Fatal(err)
	}
	query := database.Query()
	query.Set("pool_max_conns", "8") // all sites are on one server
	database.RawQuery = query.Encode()
	s.env = map[string]string{
		"DATABASE_URL": database.String(),
		// Paths of this machine are nobody's business but the program's.
		"PATH": os.Getenv("PATH"), "HOME": t.TempDir(),
		"BRIDGES": "acme", "NAMECOACH_URL": s.namecoach.url, "NAMECOACH_TOKEN": sim.Token(), "NAMECOACH_REQUESTS_PER_15_MINUTES": "1000000",
		"BLN_URL": s.bln.url, "BLN_ORGANIZATION_ID": fmt.Sprint(sim.OrganizationID()), "BLN_USERNAME": sim.Username(), "BLN_PASSWORD": sim.Password(),
		"BLN_REQUESTS_PER_SECOND": "1000", "COLLECT_SCHEDULE": "@every 2s", "SWEEP_SCHEDULE": "@every 24h", "CENSUS_SCHEDULE": "@every 24h",
		"WINDOW_SETTLE": "0s", "WINDOW_LOOKBACK": "5s",
	}
	maps.Copy(s.env, env)
	s.Prometheus = promtest.Start(t, promtest.Options{Every: time.Second, Rules: []string{save(t, "alerts.yaml", rules)}})
	var addresses []string
	for range replicas {
		slot := newSlot(t)
		s.slots = append(s.slots, slot)
		addresses = append(addresses, slot.address)
		s.start(slot)
	}
	s.Scrape(t, addresses...)
	return s
}

// slot is a place for a replica: whoever is started there is scraped at the same address, as a container of a pod is.
type slot struct {
	address string
	mu      sync.Mutex
	daemon  *promtest.Daemon // nil: nobody
}

func newSlot(t *testing.T) *slot {
	t.Helper()
	s := new(slot)
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			s.mu.Lock()
			defer s.mu.Unlock()
			r.Out.URL.Scheme, r.Out.URL.Host = "http", "127.0.0.1:1" // where nobody is
			if s.daemon != nil {
				r.Out.URL.Host = s.daemon.Address
			}
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	server := httptest.NewServer(proxy)
	t.Cleanup(server.Close)
	s.address = server.Listener.Addr().String()
	return s
}

func (s *site) start(at *slot) {
	s.t.Helper()
	d := promtest.Serve(s.t, s.program, s.env)
	at.mu.Lock()
	defer at.mu.Unlock()
	at.daemon = d
}

func (s *site) stop(at *slot) {
	at.mu.Lock()
	d := at.daemon
	at.daemon = nil
	at.mu.Unlock()
	d.Stop()
}

// restart ends the process in a slot at once, and starts another when Prometheus may have seen the first.
func (s *site) restart(at *slot) {
	s.t.Helper()
	before := s.value(`process_start_time_seconds{instance="` + at.address + `"}`)
	at.mu.Lock()
	d := at.daemon
	at.mu.Unlock()
	d.Kill()
	s.start(at)
	promtest.Eventually(s.t, within, "the new process is scraped", func() error {
		if now := s.value(`process_start_time_seconds{instance="` + at.address + `"}`); now == before || now == 0 {
			return fmt.Errorf("it began at %v", now)
		}
		return nil
	})
}

// gate stands before an API: what answer does not answer goes on to it.
type gate struct {
	url    string
	mu     sync.Mutex
	answer func(http.ResponseWriter, *http.Request) bool
}

func newGate(t *testing.T, to string) *gate {
	t.Helper()
	target, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	g := new(gate)
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: target.Scheme, Host: target.Host})
	proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		answer := g.answer
		g.mu.Unlock()
		if answer == nil || !answer(w, r) {
			proxy.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	g.url = server.URL + target.Path
	return g
}

// refuse answers with a status instead of the API, where it is about such a request; status 0: no more.
func (g *gate) refuse(status int, about func(*http.Request) bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.answer = nil
	if status != 0 {
		g.answer = func(w http.ResponseWriter, r *http.Request) bool {
			if !about(r) {
				return false
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			fmt.Fprintf(w, `{"status":%d,"code":"refused","message":"by the test"}`, status)
			return true
		}
	}
}

func anything(*http.Request) bool { return true }

// command runs one beside the daemons, which must end with that code.
func (s *site) command(code int, args ...string) string {
	s.t.Helper()
	got, out, log := promtest.Run(s.t, s.program, s.env, args...)
	if got != code {
		s.t.Fatalf("namebridge %s: exit %d\n%s\n%s", strings.Join(args, " "), got, out, log)
	}
	return out
}

// value is what an expression is now; 0 where it is nothing.
func (s *site) value(expr string) float64 {
	s.t.Helper()
	series, err := s.Query(s.t.Context(), expr, time.Now())
	if err != nil {
		s.t.Fatal(err)
	}
	if len(series) == 0 {
		return 0
	}
	return series[0].Samples[0].Value
}

// until waits until an expression is something other than 0.
func (s *site) until(what, expr string) {
	s.t.Helper()
	promtest.Eventually(s.t, within, what, func() error {
		if s.value(expr) == 0 {
			return fmt.Errorf("%s is 0 or nothing", expr)
		}
		return nil
	})
}

// settled waits until all is as it should be, and Prometheus has heard of it.
func (s *site) settled() {
	s.t.Helper()
	promtest.Eventually(s.t, within, "everybody's badge is right", func() error {
		if wrong := s.Mismatches(3); len(wrong) > 0 {
			return fmt.Errorf("%s", strings.Join(wrong, "\n"))
		}
		return nil
	})
	s.until("the first collect and the first sweep are known to be done", `namebridge_last_success_timestamp_seconds{kind="sweep"} and ignoring (kind) namebridge_last_success_timestamp_seconds{kind="collect"}`)
	s.clears("NamebridgeDown") // it had nobody to ask, and said so
}

// alert is one that Prometheus' API tells.
type alert struct {
	Labels, Annotations map[string]string
	State               string
}

func (s *site) alerts() (all []alert) {
	s.t.Helper()
	text, err := promtest.Get(s.t.Context(), s.URL+"/api/v1/alerts")
	if err != nil {
		s.t.Fatal(err)
	}
	var answer struct{ Data struct{ Alerts []alert } }
	if err := json.Unmarshal(text, &answer); err != nil {
		s.t.Fatal(err)
	}
	return answer.Data.Alerts
}

// states are the alerts there are, as "NamebridgeHalted firing".
func (s *site) states() []string {
	s.t.Helper()
	var all []string
	for _, a := range s.alerts() {
		all = append(all, a.Labels["alertname"]+" "+a.State)
	}
	slices.Sort(all)
	return all
}

// fires waits until an alert does, and looks at what it says to whoever is woken.
func (s *site) fires(name string) {
	s.t.Helper()
	var firing alert
	promtest.Eventually(s.t, within, name+" fires", func() error {
		for _, a := range s.alerts() {
			if a.Labels["alertname"] == name && a.State == "firing" {
				firing = a
				return nil
			}
		}
		return fmt.Errorf("there are %v", s.states())
	})
	for _, part := range []string{"summary", "description", "runbook_url"} {
		if text := firing.Annotations[part]; text == "" || strings.Contains(text, "<") || strings.Contains(text, "{{") {
			s.t.Errorf("%s: its %s is %q", name, part, text)
		}
	}
	if bridge := firing.Labels["bridge"]; bridge != "" && !strings.Contains(firing.Annotations["summary"], "acme") {
		s.t.Errorf("%s does not name the bridge: %s", name, firing.Annotations["summary"])
	}
	if page := filepath.Base(firing.Annotations["runbook_url"]); page != name+".md" {
		s.t.Errorf("%s leads to %s", name, firing.Annotations["runbook_url"])
	}
	s.t.Logf("%s: %s", name, firing.Annotations["summary"])
}

// clears waits until an alert is over.
func (s *site) clears(name string) {
	s.t.Helper()
	promtest.Eventually(s.t, within, name+" is over", func() error {
		if slices.Contains(s.states(), name+" firing") {
			return fmt.Errorf("there are %v", s.states())
		}
		return nil
	})
}

// database lets nobody in, and ends who is in; or lets everybody in again.
func (s *site) database(open bool) {
	s.t.Helper()
	at, err := url.Parse(s.env["DATABASE_URL"])
	if err != nil {
		s.t.Fatal(err)
	}
	name := strings.TrimPrefix(at.Path, "/")
	at.Path, at.RawQuery = "/postgres", ""
	c, err := pgx.Connect(s.t.Context(), at.String())
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = c.Close(s.t.Context()) }()
	if _, err := c.Exec(s.t.Context(), fmt.Sprintf("ALTER DATABASE %s WITH ALLOW_CONNECTIONS %v", pgx.Identifier{name}.Sanitize(), open)); err != nil {
		s.t.Fatal(err)
	}
	if !open {
		if _, err := c.Exec(s.t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name); err != nil {
			s.t.Fatal(err)
		}
	}
}
