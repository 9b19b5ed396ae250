//go:build deploy

package deploy

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sethvargo/go-envconfig"
	"go.yaml.in/yaml/v3"

	"namebridge/internal/config"
)

// examples are values of variables that have no default, and of secrets.
var examples = map[string]string{
	"DATABASE_URL": "postgres://user:password@postgres/namebridge", "NAMECOACH_TOKEN": "token", "BLN_PASSWORD": "password", "BLN_ACCESS_TOKEN": "token",
	"ADMIN_PASSWORD_HASH": "$2b$12$" + strings.Repeat("h", 53), "NAMECOACH_EVENTS": "3A0CB,0882F4", "BLN_ORGANIZATION_ID": "4711",
	"BLN_USERNAME": "namebridge@example.edu", "OTHER_INFO_FIELDS": "pronouns=custom_gender_pronouns,phonetic=phonetic_spelling",
}

// example is a value for a variable, with or without a bridge's prefix.
func example(t *testing.T, name string) string {
	t.Helper()
	for _, v := range config.Variables {
		if name == v.Name || v.PerBridge && strings.HasSuffix(name, "_"+v.Name) {
			if s := examples[v.Name]; s != "" {
				return s
			}
			return v.Default
		}
	}
	t.Errorf("%s is no variable of namebridge", name)
	return ""
}

// environment is what a pod's process would see, with examples for what is in Secrets that are not the chart's.
func environment(t *testing.T, all []object, spec map[string]any) map[string]string {
	t.Helper()
	seen := map[string]string{}
	c := container(spec)
	from, _ := c["envFrom"].([]any)
	for _, f := range from {
		name := at(f, "secretRef", "name")
		created := slices.IndexFunc(all, func(o object) bool { return o.kind() == "Secret" && o.name() == name })
		if created < 0 {
			for _, key := range []string{"DATABASE_URL", "NAMECOACH_TOKEN", "BLN_PASSWORD"} {
				seen[key] = example(t, key)
			}
			continue
		}
		data, _ := all[created]["stringData"].(map[string]any)
		for key, value := range data {
			seen[key] = fmt.Sprint(value)
		}
	}
	env, _ := c["env"].([]any)
	for _, e := range env {
		name, _ := at(e, "name").(string)
		value, plain := at(e, "value").(string)
		variable, isFile := strings.CutSuffix(name, "_FILE")
		switch {
		case name == "SSL_CERT_FILE":
		case isFile:
			value = filepath.Join(t.TempDir(), variable)
			if err := os.WriteFile(value, []byte(example(t, variable)), 0o600); err != nil {
				t.Fatal(err)
			}
		case !plain && !slices.Contains(runtime, name):
			value = example(t, name)
		}
		if _, twice := seen[name]; twice && plain {
			t.Errorf("%s is set twice", name)
		}
		seen[name] = value
	}
	return seen
}

// runtime are the variables that are Go's, not ours.
var runtime = []string{"GOMAXPROCS", "GOMEMLIMIT", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_DIR", "SSL_CERT_FILE"}

func TestEveryCombinationIsAConfigurationThatTheProgramTakes(t *testing.T) {
	t.Parallel()
	eachCombination(t, func(t *testing.T, file string) {
		all := render(t, file, "")
		pods := 0
		for _, o := range all {
			_, spec, ok := o.pod()
			if !ok {
				continue
			}
			pods++
			env := environment(t, all, spec)
			for name := range env {
				if !slices.Contains(runtime, name) {
					example(t, strings.TrimSuffix(name, "_FILE")) // fails where there is no such variable
				}
			}
			c, err := config.Load(envconfig.MapLookuper(env), config.Database)
			if err != nil {
				t.Errorf("%s %s: %v", o.kind(), o.name(), err)
				continue
			}
			if want, ok := env["BRIDGES"]; ok && want != strings.Join(c.Names(), ",") {
				t.Errorf("the bridges are %v, not %s", c.Names(), want)
			}
		}
		if pods < 2 {
			t.Errorf("%d pods: there should be the daemon's and the doctor's at least", pods)
		}
	})
}

func TestEveryVariableCanBeSet(t *testing.T) {
	t.Parallel()
	for name, prefix := range map[string]string{"shared": "", "a bridge's own": "ACME_2_"} {
		env, secrets, want := map[string]string{}, map[string]string{}, map[string]string{"BRIDGES": "acme-2,globex"}
		for _, v := range config.Variables {
			if v.Name == "BRIDGES" {
				continue
			}
			key := v.Name
			if v.PerBridge {
				key = prefix + key
			}
			want[key] = example(t, key)
			if v.Secret {
				secrets[key] = want[key]
			} else {
				env[key] = want[key]
			}
		}
		values, err := yaml.Marshal(map[string]any{
			"bridges": []string{"acme-2", "globex"}, "env": env,
			// The other bridge needs its own, and its Secret is nobody's business here.
			"secret": map[string]any{"create": true, "values": secrets, "from": map[string]any{}},
		})
		if err != nil {
			t.Fatal(err)
		}
		extra := string(values)
		if prefix != "" {
			extra = strings.Replace(extra, "env:\n", "env:\n    GLOBEX_BLN_ORGANIZATION_ID: 2\n    GLOBEX_BLN_USERNAME: u\n", 1)
			extra = strings.Replace(extra, "from: {}", "from: {GLOBEX_NAMECOACH_TOKEN: {name: a, key: b}, GLOBEX_BLN_PASSWORD: {name: a, key: b}}", 1)
		}
		all := render(t, chart+"/values.yaml", extra)
		_, spec, _ := kind(t, all, "Deployment")[0].pod()
		got := environment(t, all, spec)
		maps.DeleteFunc(got, func(key, _ string) bool { return strings.HasPrefix(key, "GLOBEX_") || key == "GOMEMLIMIT" })
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", name, diff)
		}
	}
}

func TestNumbersReachTheProgramAsTheyWereWritten(t *testing.T) {
	t.Parallel()
	all := render(t, minimal, "env: {BLN_ORGANIZATION_ID: 12345678901, BLN_REQUESTS_PER_SECOND: 0.5, GUARD_MAX_CLEARS: 0, NAMECOACH_EVENTS: '$(BLN_PASSWORD)'}")
	_, spec, _ := kind(t, all, "Deployment")[0].pod()
	got := environment(t, all, spec)
	for name, want := range map[string]string{
		"BLN_ORGANIZATION_ID": "12345678901", "BLN_REQUESTS_PER_SECOND": "0.5", "GUARD_MAX_CLEARS": "0",
		"NAMECOACH_EVENTS": "$$(BLN_PASSWORD)", // which Kubernetes reads as what was written
	} {
		if got[name] != want {
			t.Errorf("%s is %q, not %q", name, got[name], want)
		}
	}
}

// Helm takes numbers of a file for floating ones, and 1e+06 is no duration of Prometheus'.
func TestThresholdsOfAlertsAreWrittenOut(t *testing.T) {
	t.Parallel()
	rules, err := template(t, chart+"/ci/everything.yaml", "monitoring: {alerts: {collectLateSeconds: 1000000, sweepLateSeconds: 2000000, censusLateSeconds: 12345678}}")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"offset 1000000s", "offset 2000000s", "offset 12345678s"} {
		if !strings.Contains(rules, want) {
			t.Errorf("%s is missing", want)
		}
	}
	if wrong := regexp.MustCompile(`.*[0-9]e\+[0-9].*`).FindString(rules); wrong != "" {
		t.Error(wrong)
	}
}

// An alert that knows of no schedule would wake somebody between any two collects.
func TestAnAlertDoesNotFireBetweenTwoCollects(t *testing.T) {
	t.Parallel()
	const alerts = "monitoring: {alerts: {enabled: true}}\n"
	for values, says := range map[string]string{
		alerts + "env: {COLLECT_SCHEDULE: '@every 2h'}":                                                             "env.COLLECT_SCHEDULE: ",
		alerts + "env: {COLLECT_SCHEDULE: '@every 30m'}":                                                            "env.COLLECT_SCHEDULE: ",
		alerts + "env: {COLLECT_SCHEDULE: 'TZ=Europe/Berlin @every 0h30m1.5s'}":                                     "env.COLLECT_SCHEDULE: ",
		alerts + "env: {COLLECT_SCHEDULE: '@hourly'}":                                                               "env.COLLECT_SCHEDULE: ",
		alerts + "bridges: [acme, globex]\nenv: {GLOBEX_COLLECT_SCHEDULE: '@every 2h'}":                             "env.GLOBEX_COLLECT_SCHEDULE: ",
		alerts + "bridges: [acme, globex]\nenv: {GLOBEX_COLLECT_SCHEDULE: '@every 5m', COLLECT_SCHEDULE: '@daily'}": "env.COLLECT_SCHEDULE: ",
		"monitoring: {alerts: {enabled: true, collectLateSeconds: 7200}}\nenv: {COLLECT_SCHEDULE: '@every 2h'}":     "(7200)",
		alerts + "env: {COLLECT_SCHEDULE: '@every 29m'}":                                                            "",
		alerts + "env: {COLLECT_SCHEDULE: '*/5 * * * *'}":                                                           "",
		alerts + "bridges: [acme]\nenv: {ACME_COLLECT_SCHEDULE: '@every 5m', COLLECT_SCHEDULE: '@every 2h'}":        "", // the shared one is nobody's
		"monitoring: {alerts: {enabled: true, collectLateSeconds: 7201}}\nenv: {COLLECT_SCHEDULE: '@every 2h'}":     "",
		"env: {COLLECT_SCHEDULE: '@every 2h'}":                                                                      "", // nobody is told anything
	} {
		t.Run(values, func(t *testing.T) {
			t.Parallel()
			_, err := template(t, minimal, values)
			switch {
			case says == "" && err != nil:
				t.Error(err)
			case says != "" && err == nil:
				t.Error("is let through")
			case says != "" && (!strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "monitoring.alerts.collectLateSeconds")):
				t.Errorf("%v\ndoes not say %s", err, says)
			}
		})
	}
}

func TestNonsenseIsRefusedByName(t *testing.T) {
	t.Parallel()
	for values, says := range map[string]string{
		"replica: 3":        "'replica'",
		"replicas: 0":       "/replicas",
		"replicas: two":     "/replicas",
		"image: {tags: v1}": "'tags'",
		"image: {repository: 'names:v1@sha256:0'}":       "/image/repository",
		"image: {repository: ''}":                        "/image/repository",
		"image: {tag: 'a b'}":                            "/image/tag",
		"image: {digest: latest}":                        "/image/digest",
		"image: {pullPolicy: Sometimes}":                 "/image/pullPolicy",
		"bridges: acme":                                  "/bridges",
		"bridges: [Acme]":                                "/bridges/0",
		"bridges: [acme, acme]":                          "/bridges",
		"bridges: [a_b]":                                 "/bridges/0",
		"env: {BLN_ORGANISATION_ID: 1}":                  "'BLN_ORGANISATION_ID'",
		"env: {PATH: /bin}":                              "'PATH'",
		"env: {BRIDGES: acme}":                           "'BRIDGES'",
		"env: {BLN_ORGANIZATION_ID: acme-inc}":           "/env/BLN_ORGANIZATION_ID",
		"env: {BLN_ORGANIZATION_ID: 0}":                  "/env/BLN_ORGANIZATION_ID",
		"env: {BLN_URL: 'http://bln.example.edu'}":       "/env/BLN_URL",
		"env: {BLN_PUT_SEMANTICS: both}":                 "/env/BLN_PUT_SEMANTICS",
		"env: {OTHER_INFO_LAYOUT: deep}":                 "/env/OTHER_INFO_LAYOUT",
		"env: {OTHER_INFO_KEY: a b}":                     "/env/OTHER_INFO_KEY",
		"env: {OTHER_INFO_FIELDS: pronouns}":             "/env/OTHER_INFO_FIELDS",
		"env: {MATCH_BY: phone}":                         "/env/MATCH_BY",
		"env: {COLLECT_SCHEDULE: sometimes}":             "/env/COLLECT_SCHEDULE",
		"env: {WINDOW_LOOKBACK: ten minutes}":            "/env/WINDOW_LOOKBACK",
		"env: {GUARD_MAX_CLEARS: -1}":                    "/env/GUARD_MAX_CLEARS",
		"env: {GUARD_MAX_CLEAR_PERCENT: 200}":            "/env/GUARD_MAX_CLEAR_PERCENT",
		"env: {BLN_REQUESTS_PER_SECOND: 0}":              "/env/BLN_REQUESTS_PER_SECOND",
		"env: {LISTEN_ADDR: '127.0.0.1:8080'}":           "/env/LISTEN_ADDR",
		"env: {LISTEN_ADDR: ':80'}":                      "/env/LISTEN_ADDR",
		"env: {LISTEN_ADDR: ':1023'}":                    "/env/LISTEN_ADDR",
		"env: {LISTEN_ADDR: ':65536'}":                   "/env/LISTEN_ADDR",
		"env: {LISTEN_ADDR: ':99999'}":                   "/env/LISTEN_ADDR",
		"env: {GOMAXPROCS: 0}":                           "/env/GOMAXPROCS",
		"env: {LOG_LEVEL: loud}":                         "/env/LOG_LEVEL",
		"env: {LOG_FORMAT: xml}":                         "/env/LOG_FORMAT",
		"env: {ACME_BLN_URL: 'https://bln.example.edu'}": "env.ACME_BLN_URL: no bridge has the prefix ACME_",
		"env: {ACME_LOG_LEVEL: debug}":                   "'ACME_LOG_LEVEL'",
		"env: {NAMECOACH_TOKEN_FILE: secrets/token}":     "env.NAMECOACH_TOKEN_FILE",
		"secret: {existing: 'No Name'}":                  "/secret/existing",
		"secret: {existing: a, create: true, values: {DATABASE_URL: 'postgres://a/b'}}": "secret.create",
		"secret: {values: {DATABASE_URL: 'postgres://a/b'}}":                            "secret.values",
		"secret: {existing: '', create: true, values: {DATABASE_URL: embedded}}":        "secret.values.DATABASE_URL",
		"secret: {existing: '', create: true, values: {LOG_LEVEL: debug}}":              "LOG_LEVEL",
		"secret: {existing: '', create: true, values: {BLN_PASSWORD: 1234}}":            "/secret/values/BLN_PASSWORD",
		"secret: {from: {FOO: {name: a, key: b}}}":                                      "'/secret/from': additional properties 'FOO'",
		"secret: {values: {FOO: a}}":                                                    "'/secret/values': additional properties 'FOO'",
		"podLabels: {a b: c}":                                                           "'/podLabels': additional properties 'a b'",
		"monitoring: {labels: {a b: c}}":                                                "'/monitoring/labels': additional properties 'a b'",
		"monitoring: {dashboards: {labels: {a b: c}}}":                                  "'/monitoring/dashboards/labels': additional properties 'a b'",
		"secret: {from: {LOG_LEVEL: {name: a, key: b}}}":                                "'/secret/from': additional properties 'LOG_LEVEL'",
		"secret: {from: {DATABASE_URL: postgres}}":                                      "/secret/from/DATABASE_URL",
		"secret: {from: {DATABASE_URL: {name: postgres}}}":                              "'key'",
		"secret: {from: {ACME_BLN_PASSWORD: {name: a, key: b}}}":                        "secret.from.ACME_BLN_PASSWORD",
		"secret: {asFiles: true}":                                                       "secret.asFiles",
		"secret: {existing: ''}":                                                        "DATABASE_URL is not set",
		"resources: {limits: {memory: 256}}":                                            "/resources/limits/memory",
		"resources: {limits: {memory: '256'}}":                                          "/resources/limits/memory",
		"resources: {limits: {memory: 256MB}}":                                          "/resources/limits/memory",
		"resources: {limit: {memory: 256Mi}}":                                           "'limit'",
		"updateStrategy: Canary":                                                        "/updateStrategy",
		"podDisruptionBudget: {enabled: 'yes'}":                                         "/podDisruptionBudget/enabled",
		"networkPolicy: {postgres: {port: 70000}}":                                      "/networkPolicy/postgres/port",
		"networkPolicy: {ingressFrom: monitoring}":                                      "/networkPolicy/ingressFrom",
		"service: {port: http}":                                                         "/service/port",
		"service: {type: LoadBalancer}":                                                 "'type'",
		"serviceAccount: {token: true}":                                                 "'token'",
		"monitoring: {alert: {enabled: true}}":                                          "'alert'",
		"monitoring: {alerts: {enable: true}}":                                          "'enable'",
		"monitoring: {serviceMonitor: {interval: 30}}":                                  "/monitoring/serviceMonitor/interval",
		"monitoring: {labels: {release: [a]}}":                                          "/monitoring/labels/release",
		"backfill: {since: yesterday}":                                                  "/backfill/since",
		"backfill: {bridges: [acme]}":                                                   "backfill.bridges: acme",
		"backfill: {retries: -1}":                                                       "/backfill/retries",
		"podLabels: {team: a b}":                                                        "/podLabels/team",
		"tolerations: {key: spot}":                                                      "/tolerations",
		"fullnameOverride: Namebridge":                                                  "/fullnameOverride",
	} {
		t.Run(values, func(t *testing.T) {
			t.Parallel()
			_, err := template(t, minimal, values)
			switch {
			case err == nil:
				t.Error("is let through")
			case !strings.Contains(err.Error(), says):
				t.Errorf("%v\ndoes not say %s", err, says)
			}
		})
	}
}

// What the program or Kubernetes takes, the chart takes.
func TestWhatIsLegalIsTaken(t *testing.T) {
	t.Parallel()
	for _, values := range []string{
		"env: {LOG_LEVEL: INFO}", "env: {LOG_LEVEL: Debug}", "env: {LISTEN_ADDR: ':1024'}", "env: {LISTEN_ADDR: '[::]:65535'}", "env: {LISTEN_ADDR: '0.0.0.0:10000'}",
		"env: {GOMAXPROCS: 2}", "env: {GOMAXPROCS: '2'}", "env: {SSL_CERT_DIR: '/etc/ssl/certs:/etc/own'}", "env: {HTTPS_PROXY: 'http://proxy.example.edu:3128'}",
		"resources: {limits: {memory: 1Ti}}", "resources: {limits: {memory: 268435456}}", "resources: {limits: {memory: '268435456'}}", "resources: {requests: {ephemeral-storage: 1T}}",
	} {
		t.Run(values, func(t *testing.T) {
			t.Parallel()
			manifests, err := template(t, minimal, values)
			if err == nil {
				err = conform(t, manifests)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// What is missing is told before a pod fails for it, and all of it at once.
func TestWhatIsMissingIsNamedForEachBridge(t *testing.T) {
	t.Parallel()
	_, err := template(t, chart+"/values.yaml", "bridges: [acme, globex]\nenv: {ACME_BLN_ORGANIZATION_ID: 1}\n"+
		"secret: {from: {ACME_NAMECOACH_TOKEN: {name: a, key: b}, BLN_PASSWORD: {name: a, key: b}, GLOBEX_BLN_ACCESS_TOKEN: {name: a, key: b}}}")
	for _, want := range []string{"DATABASE_URL is not set", "GLOBEX_NAMECOACH_TOKEN is not set", "env.GLOBEX_BLN_ORGANIZATION_ID is not set", "env.ACME_BLN_USERNAME and"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\ndoes not say %s", err, want)
		}
	}
	for _, wrong := range []string{"ACME_NAMECOACH_TOKEN is", "ACME_BLN_ORGANIZATION_ID is", "GLOBEX_BLN_USERNAME and"} {
		if err != nil && strings.Contains(err.Error(), wrong) {
			t.Errorf("%v\nsays %s", err, wrong)
		}
	}
}

func TestTheChartTakesTheNamesOfBridgesThatTheProgramTakes(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"acme", "a", "acme-2", "acme--2", "-acme", "acme-", "2acme", "Acme", "acme_2", "acmé", "acme.edu", "default"} {
		env := map[string]string{"BRIDGES": name, "BLN_ORGANIZATION_ID": "1", "BLN_USERNAME": "u", "DATABASE_URL": examples["DATABASE_URL"], "NAMECOACH_TOKEN": "t", "BLN_PASSWORD": "p"}
		_, wanted := config.Load(envconfig.MapLookuper(env), config.Database)
		_, err := template(t, minimal, fmt.Sprintf("bridges: [%q]", name))
		if (err == nil) != (wanted == nil) {
			t.Errorf("%s: the program says %v, the chart %v", name, wanted, err)
		}
	}
}

func TestTheGoRuntimeKnowsNineTenthsOfTheMemoryLimit(t *testing.T) {
	t.Parallel()
	for limit, want := range map[string]string{"256Mi": "241591910", "0.5Gi": "483183820", "1G": "900000000", "500000k": "450000000", "1Ti": "989560464998", "268435456": "241591910", "'268435456'": "241591910"} {
		all := render(t, minimal, "resources: {limits: {memory: "+limit+"}}")
		_, spec, _ := kind(t, all, "Deployment")[0].pod()
		if got := environment(t, all, spec)["GOMEMLIMIT"]; got != want {
			t.Errorf("%s: GOMEMLIMIT is %s, not %s", limit, got, want)
		}
	}
}
