//go:build deploy

package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"namebridge/deploy/dashboards/grafana"
	"namebridge/internal/metrics"
	"namebridge/state"
)

const (
	root   = "../.."
	folder = root + "/deploy/chart/namebridge/files/dashboards"
)

// read are the dashboards that are checked in.
func read(t *testing.T) map[string]grafana.Dashboard {
	t.Helper()
	found := map[string]grafana.Dashboard{}
	for _, file := range slices.Sorted(maps.Keys(all())) {
		d, err := grafana.Read(filepath.Join(folder, file))
		if err != nil {
			t.Fatal(err)
		}
		found[file] = d
	}
	return found
}

func TestTheFilesAreTheCurrentOnes(t *testing.T) {
	t.Parallel()
	if err := run(folder, true); err != nil {
		t.Error(err)
	}
}

// queries are a panel's, with the panel's name.
func queries(d grafana.Dashboard) (all []string) {
	for _, p := range d.Panels {
		for _, q := range p.Targets {
			all = append(all, q.Expr)
		}
	}
	return all
}

// Grafana loads a dashboard that breaks one of these and shows something else than was meant.
func TestTheDashboardsAreWhatGrafanaReads(t *testing.T) {
	t.Parallel()
	units := []string{"", "short", "percentunit", "s", "bytes", "reqps", "dateTimeFromNow"} // of Grafana's list, those that are used
	uids := map[string]string{}
	for file, d := range read(t) {
		if len(d.UID) == 0 || len(d.UID) > 40 || uids[d.UID] != "" || d.SchemaVersion < 39 {
			t.Errorf("%s: uid %q, schema %d", file, d.UID, d.SchemaVersion)
		}
		uids[d.UID] = file
		variables := []string{"__rate_interval", "__range"}
		for _, v := range d.Templating.List {
			variables = append(variables, v.Name)
		}
		ids, taken := map[int]bool{}, map[[2]int]string{}
		for _, p := range d.Panels {
			name := file + ", " + p.Title
			if ids[p.ID] || p.ID < 1 {
				t.Errorf("%s: id %d", name, p.ID)
			}
			ids[p.ID] = true
			g := p.GridPos
			if g.W < 1 || g.H < 1 || g.X < 0 || g.Y < 0 || g.X+g.W > 24 {
				t.Errorf("%s: is at %+v", name, g)
			}
			for x := g.X; x < g.X+g.W; x++ {
				for y := g.Y; y < g.Y+g.H; y++ {
					if other, ok := taken[[2]int{x, y}]; ok {
						t.Fatalf("%s: lies upon %s", name, other)
					}
					taken[[2]int{x, y}] = name
				}
			}
			if p.Type == "row" {
				if len(p.Targets) > 0 || p.Panels == nil || p.Collapsed == nil {
					t.Errorf("%s: a row has panels and collapsed, and no queries", name)
				}
				continue
			}
			whole(t, name, p, variables, units)
		}
		for _, link := range d.Links {
			if !strings.HasPrefix(link.URL, "/d/"+fleetUID) {
				t.Errorf("%s links to %s", file, link.URL)
			}
		}
	}
	if uids[fleetUID] == "" || uids[bridgeUID] == "" {
		t.Errorf("links lead to %s and %s, and there are %v", fleetUID, bridgeUID, uids)
	}
}

// whole checks one panel.
func whole(t *testing.T, name string, p grafana.Panel, variables, units []string) {
	t.Helper()
	if p.Title == "" || p.Description == "" || p.Datasource == nil || p.Datasource.UID != "${datasource}" || p.FieldConfig == nil || len(p.Targets) == 0 {
		t.Errorf("%s: has no title, description, data source, field configuration or query", name)
		return
	}
	if !slices.Contains(units, p.FieldConfig.Defaults.Unit) {
		t.Errorf("%s: unit %q", name, p.FieldConfig.Defaults.Unit)
	}
	steps := p.FieldConfig.Defaults.Thresholds.Steps
	for i, s := range steps {
		if (s.Value == nil) != (i == 0) || i > 1 && *s.Value <= *steps[i-1].Value {
			t.Errorf("%s: threshold %d is not above the one before it", name, i)
		}
	}
	refs := map[string]bool{}
	for _, q := range p.Targets {
		if q.RefID == "" || refs[q.RefID] {
			t.Errorf("%s: refId %q", name, q.RefID)
		}
		refs[q.RefID] = true
		if q.Instant == q.Range || q.Datasource != *p.Datasource {
			t.Errorf("%s %s: is of a moment and of a time, or of neither, or asks another data source", name, q.RefID)
		}
		for _, found := range regexp.MustCompile(`\$\{?(\w+)`).FindAllStringSubmatch(q.Expr, -1) {
			if !slices.Contains(variables, found[1]) {
				t.Errorf("%s %s: there is no variable %s", name, q.RefID, found[1])
			}
		}
	}
	if p.Type != "table" {
		return
	}
	organize := p.Transformations[len(p.Transformations)-1].Options
	names, _ := organize["renameByName"].(map[string]any)
	order, _ := organize["indexByName"].(map[string]any)
	shown := []any{}
	for from, to := range names {
		shown = append(shown, to)
		if _, ref, _ := strings.Cut(from, "#"); len(p.Targets) > 1 && !refs[ref] || order[from] == nil {
			t.Errorf("%s: there is no column %q", name, from)
		}
	}
	for _, o := range p.FieldConfig.Overrides {
		if _, isLabel := order[o.Matcher.Options]; !slices.Contains(shown, any(o.Matcher.Options)) && !isLabel {
			t.Errorf("%s: there is no column %q to override", name, o.Matcher.Options)
		}
		for _, property := range o.Properties {
			if property.ID == "unit" && !slices.Contains(units, fmt.Sprint(property.Value)) {
				t.Errorf("%s: column %s has unit %v", name, o.Matcher.Options, property.Value)
			}
		}
	}
}

// exports is what a daemon exports under a name: GAUGE, COUNTER or HISTOGRAM.
type exports struct {
	kind   string
	labels []string
}

// exported are all families of ours that a daemon exports.
func exported(t *testing.T) map[string]exports {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	m := metrics.New(reg, "1.2.3", "5f3fa83")
	m.Expect("acme")
	m.Observe("acme")(observation)
	reg.MustRegister(metrics.NewStandings(t.Context(), func(context.Context) ([]state.Standing, error) {
		now := time.Now()
		return []state.Standing{{
			Bridge: "acme", LagKnown: true, Cursors: map[string]time.Time{state.ParticipantStream: now}, LastSuccess: map[state.Kind]time.Time{state.Sweep: now},
		}}, nil
	}))
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]exports{}
	for _, f := range families {
		e := exports{kind: f.GetType().String()}
		for _, l := range f.GetMetric()[0].GetLabel() {
			e.labels = append(e.labels, l.GetName())
		}
		slices.Sort(e.labels)
		found[f.GetName()] = e
	}
	return found
}

var metricName = regexp.MustCompile(`namebridge_\w+`)

// family is the family that a query's name belongs to.
func family(name string, families map[string]exports) string {
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if f, ok := families[strings.TrimSuffix(name, suffix)]; ok && f.kind == "HISTOGRAM" {
			return strings.TrimSuffix(name, suffix)
		}
	}
	return name
}

func TestEveryMetricIsOnAPanelAndEveryPanelShowsMetricsThatThereAre(t *testing.T) {
	t.Parallel()
	families := exported(t)
	shown := map[string]bool{}
	for file, d := range read(t) {
		for _, q := range queries(d) {
			for _, name := range metricName.FindAllString(q, -1) {
				f := family(name, families)
				if shown[f] = true; families[f].kind == "" {
					t.Errorf("%s asks for %s, which nobody exports", file, name)
				}
			}
		}
	}
	for name := range families {
		if !shown[name] {
			t.Errorf("%s is on no panel", name)
		}
	}
}

// Two replicas tell the same of a bridge: added up, it would be twice as many people.
func TestWhatTheDatabaseTellsIsNeverAddedUpOverReplicas(t *testing.T) {
	t.Parallel()
	fromDatabase := regexp.MustCompile(`(\w+ by \([^)]*\) \()?(\w+\()?namebridge_(participants|users|holds|collect_lag_seconds|cursor_timestamp_seconds|` +
		`last_success_timestamp_seconds|halted|quarantined_runs|jobs|late_found_total)\{`)
	for file, d := range read(t) {
		for _, q := range queries(d) {
			for _, found := range fromDatabase.FindAllStringSubmatch(q, -1) {
				if !strings.HasPrefix(found[1], "max by") && found[1]+found[2] != "min by (bridge) (min_over_time(" {
					t.Errorf("%s: %s: %s is not the highest of all replicas'", file, q, found[0])
				}
			}
		}
	}
}

// A counter begins anew with each process, and several are scraped at another pace than they are shown.
func TestCountersAreOnlyLookedAtAsRates(t *testing.T) {
	t.Parallel()
	families := exported(t)
	for file, d := range read(t) {
		for _, q := range queries(d) {
			for _, at := range metricName.FindAllStringIndex(q, -1) {
				name, before := q[at[0]:at[1]], q[:at[0]]
				counts := families[family(name, families)].kind == "COUNTER" || family(name, families) != name
				if rated := strings.HasSuffix(before, "rate(") || strings.HasSuffix(before, "increase("); counts != rated && name != "namebridge_late_found_total" {
					t.Errorf("%s: %s: counter %v, rate %v: %s", file, name, counts, rated, q)
				}
			}
			if strings.Contains(q, "rate(") != strings.Contains(q, "$__rate_interval") && !strings.Contains(q, "increase(") {
				t.Errorf("%s: %s: a rate is over $__rate_interval", file, q)
			}
		}
	}
}

func TestThresholdsAreThoseOfTheAlerts(t *testing.T) {
	t.Parallel()
	values, rules := text(t, "deploy/chart/namebridge/values.yaml"), text(t, "deploy/chart/namebridge/files/alerts.yaml")
	for pattern, want := range map[string]float64{
		`collectLateSeconds: (\d+)`: collectLate, `sweepLateSeconds: (\d+)`: sweepLate, `censusLateSeconds: (\d+)`: censusLate,
	} {
		compare(t, values, pattern, want)
	}
	for pattern, want := range map[string]float64{
		`namebridge_api_budget_remaining.*\n(?:.*\n){2}\s+\) < (\d+)\n`: budgetLow, `\n\s+/ sum .*namebridge_api_requests_total.*\) > ([\d.]+)\n`: turnedAway,
	} {
		compare(t, rules, pattern, want)
	}
}

func compare(t *testing.T, text, pattern string, want float64) {
	t.Helper()
	found := regexp.MustCompile(pattern).FindStringSubmatch(text)
	if found == nil {
		t.Errorf("nothing is like %s", pattern)
		return
	}
	if got, err := strconv.ParseFloat(found[1], 64); err != nil || got != want {
		t.Errorf("%s: %v, and dashboards change their colour at %v", pattern, found[1], want)
	}
}

func text(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Whoever is paged finds what it is about on a panel, and whoever sees a panel finds the page that helps.
func TestEveryAlertIsExplainedByAPanelAndEveryPageIsThere(t *testing.T) {
	t.Parallel()
	var alerts []string
	for _, found := range regexp.MustCompile(`- alert: (\w+)`).FindAllStringSubmatch(text(t, "deploy/chart/namebridge/files/alerts.yaml"), -1) {
		alerts = append(alerts, found[1])
	}
	named := map[string]bool{}
	for file, d := range read(t) {
		for _, p := range d.Panels {
			for _, found := range regexp.MustCompile("`docs/operations/(\\w+)\\.md`").FindAllStringSubmatch(p.Description, -1) {
				if named[found[1]] = true; !slices.Contains(alerts, found[1]) {
					t.Errorf("%s, %s: there is no alert %s", file, p.Title, found[1])
				}
				if _, err := os.Stat(filepath.Join(root, "docs/operations", found[1]+".md")); err != nil {
					t.Errorf("%s, %s: %v", file, p.Title, err)
				}
			}
		}
	}
	slices.Sort(alerts)
	if diff := cmp.Diff(alerts, slices.Sorted(maps.Keys(named))); diff != "" {
		t.Errorf("alerts, and those that panels name:\n%s", diff)
	}
}

// docs/monitoring.md has every metric with its labels, and no other.
func TestEveryMetricIsDocumented(t *testing.T) {
	t.Parallel()
	documented := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(namebridge_\\w+)` \\| (\\w+) \\| ([^|]*) \\|").FindAllStringSubmatch(text(t, "docs/monitoring.md"), -1) {
		documented[row[1]] = row[2] + " " + strings.Join(strings.Fields(strings.NewReplacer("`", "", ",", " ").Replace(row[3])), ",")
	}
	want := map[string]string{}
	for name, f := range exported(t) {
		want[name] = strings.ToLower(f.kind) + " " + strings.Join(f.labels, ",")
	}
	if diff := cmp.Diff(want, documented); diff != "" {
		t.Error(diff)
	}
}
