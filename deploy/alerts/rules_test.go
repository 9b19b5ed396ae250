//go:build deploy

// Package alerts tests the alert rules of the chart: each by itself with promtool, and all of them in a real Prometheus that watches the
// real program.
package alerts

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/template"
	"time"

	"namebridge/internal/postgres/testdb"
)

const (
	rulesFile = "../chart/namebridge/files/alerts.yaml"
	runbooks  = "../../docs/operations"
)

func TestMain(m *testing.M) {
	flag.Parse()
	// These tests wait for things to come about: how many of them do so at once has nothing to do with the number of processors.
	if err := flag.Set("test.parallel", "32"); err != nil {
		panic(err)
	}
	os.Exit(testdb.Main(m).Run())
}

// values are those of the chart that the rules are rendered with.
type values struct {
	replicas                                                int
	collectLateSeconds, sweepLateSeconds, censusLateSeconds int
	// The release that the rules are bound to; "": they watch every deployment that Prometheus does.
	namespace, job string
}

// usual are the chart's defaults.
var usual = values{replicas: 2, collectLateSeconds: 1800, sweepLateSeconds: 36 * 3600, censusLateSeconds: 9 * 24 * 3600}

// of are the same, bound to a release.
func (v values) of(namespace, job string) values {
	v.namespace, v.job = namespace, job
	return v
}

const runbookURL = "https://runbooks.example/operations"

// render is the rules as the chart renders them.
func render(t *testing.T, v values) string {
	t.Helper()
	source, err := os.ReadFile(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := template.New("alerts").Option("missingkey=error").Parse(string(source))
	if err != nil {
		t.Fatal(err)
	}
	ours := ""
	if v.job != "" {
		ours = fmt.Sprintf("namespace=%q, job=%q", v.namespace, v.job)
	}
	var text strings.Builder
	if err := parsed.Execute(&text, map[string]any{"ours": ours, "replicas": v.replicas, "Values": map[string]any{
		"replicas": v.replicas,
		"monitoring": map[string]any{
			"runbookURL": runbookURL,
			"alerts": map[string]any{
				"collectLateSeconds": v.collectLateSeconds, "sweepLateSeconds": v.sweepLateSeconds, "censusLateSeconds": v.censusLateSeconds,
			},
		},
	}}); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// save is a file with the text.
func save(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// promtool must have nothing to say against it.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	program, err := exec.LookPath("promtool")
	if err != nil {
		t.Fatal("there is no promtool on the PATH: tools/prometheus.sh finds one, or gets it")
	}
	if out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// rule is what is written down of an alert, its templates as they are.
type rule struct{ alert, expr, hold, severity, summary, description, runbook string }

// written are the rules of the file in their order, as they are rendered with the values.
func written(t *testing.T, v values) (all []rule) {
	t.Helper()
	text := render(t, v)
	starts := regexp.MustCompile(`(?m)^      - alert: `).FindAllStringIndex(text, -1)
	for i, s := range starts {
		end := len(text)
		if i+1 < len(starts) {
			end = starts[i+1][0]
		}
		part := text[s[0]:end]
		field := func(pattern string) string {
			if found := regexp.MustCompile(`(?m)` + pattern).FindStringSubmatch(part); found != nil {
				return strings.TrimSpace(found[1])
			}
			return ""
		}
		all = append(all, rule{
			alert: field(`- alert: (\w+)$`), expr: field(`^        expr: ((?s:.*?))^        \w`), hold: field(`^        for: (\w+)$`), severity: field(`^        labels: \{severity: (\w+)\}$`),
			summary: field(`^          summary: (?:>-\n)?(.*)$`), description: field(`^          description: (?:>-\n)?(.*)$`), runbook: field(`^          runbook_url: "(.*)"$`),
		})
	}
	return all
}

// leastPage is how long at least a page is held where time goes faster: tests judge who is woken, and a machine may stand still for seconds.
const leastPage = 15 * time.Second

// faster is rendered rules in which time goes faster by a factor; where most are told, no ticket is held longer, and nothing looked back
// further, than that. The seconds that come from values are the caller's to make fewer.
func faster(text string, factor int, mostHold, mostRange time.Duration) string {
	change := func(least, most time.Duration) func(string) string {
		return func(d string) string {
			n, err := strconv.Atoi(d[:len(d)-1])
			if err != nil {
				panic(err)
			}
			long := time.Duration(n) * map[byte]time.Duration{'m': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour}[d[len(d)-1]] / time.Duration(factor)
			if most > 0 {
				long = min(long, most)
			}
			return fmt.Sprintf("%dms", max(long, least).Milliseconds())
		}
	}
	duration := regexp.MustCompile(`\d+[mhd]\b`)
	text = regexp.MustCompile(`(?m)^        for: \d+[mhd]\n        labels: \{severity: \w+\}$`).ReplaceAllStringFunc(text, func(s string) string {
		var least time.Duration
		if strings.HasSuffix(s, "page}") {
			least = leastPage
		}
		return duration.ReplaceAllStringFunc(s, change(least, mostHold))
	})
	return regexp.MustCompile(`\[\d+[mhd](:\d+[mhd])?\]|offset \d+[mhd]\b`).ReplaceAllStringFunc(text, func(s string) string {
		return duration.ReplaceAllStringFunc(s, change(0, mostRange))
	})
}

func TestTheRulesAreWhatPrometheusTakes(t *testing.T) {
	t.Parallel()
	promtool(t, "check", "rules", save(t, "alerts.yaml", render(t, usual)))
	promtool(t, "check", "rules", save(t, "alerts.yaml", render(t, usual.of("prod", "namebridge"))))
	promtool(t, "check", "rules", save(t, "alerts.yaml", faster(render(t, usual), factor, mostHold, mostRange)))
}

// Whoever is woken must be told by what, what it means for people, and what to do first.
func TestEveryAlertSaysWhatItMeansAndWhatToDoFirst(t *testing.T) {
	t.Parallel()
	all := written(t, usual)
	if len(all) < 15 {
		t.Fatalf("only %d alerts were found in %s", len(all), rulesFile)
	}
	whole := map[string]bool{"NamebridgeDown": true, "NamebridgeDatabaseDown": true, "NamebridgeReplicasMissing": true, "NamebridgeRestarting": true}
	for _, r := range all {
		if r.severity != "page" && r.severity != "ticket" {
			t.Errorf("%s: severity %q", r.alert, r.severity)
		}
		if !whole[r.alert] && !strings.Contains(r.summary, "$labels.bridge") {
			t.Errorf("%s: its summary does not name the bridge: %s", r.alert, r.summary)
		}
		if !regexp.MustCompile(`First: (namebridge|kubectl) `).MatchString(r.description) {
			t.Errorf("%s: its description has no command to run first: %s", r.alert, r.description)
		}
		if want := runbookURL + "/" + r.alert + ".md"; r.runbook != want {
			t.Errorf("%s: runbook_url is %s, want %s", r.alert, r.runbook, want)
		}
	}
}

// A page without an alert is read by nobody; an alert without a page leaves whoever is woken alone.
func TestEveryAlertHasAPageAndEveryPageAnAlert(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(runbooks + "/Namebridge*.md")
	if err != nil {
		t.Fatal(err)
	}
	var pages, alerts []string
	for _, f := range files {
		pages = append(pages, strings.TrimSuffix(filepath.Base(f), ".md"))
	}
	index, err := os.ReadFile(runbooks + "/README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range written(t, usual) {
		alerts = append(alerts, r.alert)
		if row := fmt.Sprintf("| [%s](%s.md) | %s |", r.alert, r.alert, r.severity); !strings.Contains(string(index), row) {
			t.Errorf("%s/README.md has no row that begins with %q", runbooks, row)
		}
	}
	slices.Sort(pages)
	slices.Sort(alerts)
	if !slices.Equal(pages, alerts) {
		t.Errorf("pages %v, alerts %v", pages, alerts)
	}
	for _, page := range pages {
		text, err := os.ReadFile(filepath.Join(runbooks, page+".md"))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(string(text), "# "+page+"\n") {
			t.Errorf("%s.md does not begin with its name", page)
		}
		for _, part := range []string{"## What it means for people", "## Is it so?", "## Why, and what to do", "## When it is over"} {
			if !strings.Contains(string(text), "\n"+part+"\n") {
				t.Errorf("%s.md has no part %q", page, part)
			}
		}
	}
}

// What a page tells to look at must be there to be looked at: a metric that was renamed would leave every page wrong.
func TestThePagesNameMetricsOfTheContract(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("../../internal/metrics/metrics_test.go")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^(namebridge_\w+)\{.*\} (GAUGE|COUNTER|HISTOGRAM)$`).FindAllStringSubmatch(string(source), -1) {
		known[m[1]] = true
		if m[2] == "HISTOGRAM" {
			known[m[1]+"_count"], known[m[1]+"_sum"], known[m[1]+"_bucket"] = true, true, true
		}
	}
	if len(known) < 15 {
		t.Fatalf("the metrics of the contract were not found: %v", slices.Sorted(maps.Keys(known)))
	}
	files, err := filepath.Glob(runbooks + "/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range append(files, rulesFile) {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range regexp.MustCompile(`namebridge_[a-z_]+`).FindAllString(string(text), -1) {
			if !known[name] {
				t.Errorf("%s names %s, which is no metric", f, name)
			}
		}
	}
}

var update = flag.Bool("update", false, "write plain.yaml")

// Who has no Helm has the rules, too: with the defaults, for one replica.
func TestThePlainRulesAreThoseOfTheChart(t *testing.T) {
	t.Parallel()
	const file = "plain.yaml"
	v := usual
	v.replicas = 1
	want := "# Written by go test -tags deploy ./deploy/alerts -run Plain -update, from deploy/chart/namebridge/files/alerts.yaml.\n" +
		strings.ReplaceAll(render(t, v), runbookURL, "docs/operations")
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not what the chart's rules are by now: go test -tags deploy ./deploy/alerts -run Plain -update", file)
	}
	promtool(t, "check", "rules", file)
}

// The tests here and plain.yaml go by what the chart goes by.
func TestTheValuesAreTheDefaultsOfTheChart(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../chart/namebridge/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{
		"replicas": usual.replicas, "    collectLateSeconds": usual.collectLateSeconds, "    sweepLateSeconds": usual.sweepLateSeconds,
		"    censusLateSeconds": usual.censusLateSeconds,
	} {
		if line := fmt.Sprintf("\n%s: %d\n", name, want); !strings.Contains(string(text), line) {
			t.Errorf("values.yaml has no line %q", strings.TrimSpace(line))
		}
	}
}

// Helm makes of the file what is tested here. Which job the series have is known where the chart's ServiceMonitor brings them.
func TestTheChartRendersTheRulesThatAreTested(t *testing.T) {
	t.Parallel()
	programs, err := filepath.Glob("../../.cache/bin/helm-v*")
	if err != nil || len(programs) == 0 {
		t.Fatalf("there is no helm in .cache/bin, %v: make test-deploy builds it", err)
	}
	one := usual
	one.replicas = 1
	for set, want := range map[string]values{
		"": usual,
		",replicas=1,podDisruptionBudget.enabled=false":                  one,
		",monitoring.serviceMonitor.enabled=true":                        usual.of("people", "acme-namebridge"),
		",monitoring.serviceMonitor.enabled=true,fullnameOverride=names": usual.of("people", "names"),
	} {
		t.Run(set, func(t *testing.T) {
			t.Parallel()
			out, err := exec.CommandContext(t.Context(), slices.Max(programs), "template", "acme", "../chart/namebridge", "--namespace", "people",
				"--values", "../chart/namebridge/ci/minimal.yaml", "--set", "monitoring.alerts.enabled=true,monitoring.runbookURL="+runbookURL+set,
				"--show-only", "templates/prometheusrule.yaml").Output()
			if err != nil {
				t.Fatalf("helm template: %v", err)
			}
			_, spec, _ := strings.Cut(string(out), "\nspec:\n")
			plain := func(text string) string {
				return strings.TrimSpace(regexp.MustCompile(`(?m)[ \t]+$`).ReplaceAllString(text, ""))
			}
			if got := plain(regexp.MustCompile(`(?m)^  `).ReplaceAllString(spec, "")); got != plain(render(t, want)) {
				t.Errorf("the chart renders other rules:\n%s", got)
			}
		})
	}
}

// A rule that looks at another deployment's series tells its people by the wrong numbers.
func TestEveryRuleOfAReleaseLooksAtItsOwnSeriesOnly(t *testing.T) {
	t.Parallel()
	var found [][]string
	for _, replicas := range []int{1, 2} {
		v := usual.of("people", "names")
		v.replicas = replicas
		for _, r := range written(t, v) {
			of := regexp.MustCompile(`\b(?:namebridge_[a-z_]+|process_start_time_seconds|up)\b(\{[^}]*\})?`).FindAllStringSubmatch(r.expr, -1)
			if len(of) == 0 {
				t.Errorf("%s looks at nothing: %s", r.alert, r.expr)
			}
			found = append(found, of...)
		}
	}
	if len(found) < 80 {
		t.Fatalf("only %d selectors were found", len(found))
	}
	for _, f := range found {
		if !strings.Contains(f[1], `namespace="people", job="names"`) {
			t.Errorf("%s is of every deployment", f[0])
		}
	}
}
