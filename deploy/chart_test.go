//go:build deploy

package deploy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
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

const (
	chart   = "chart/namebridge"
	minimal = chart + "/ci/minimal.yaml"
)

// tool is a program that `make test-deploy` has built, in the version that its go.mod pins.
func tool(t *testing.T, name, module string) string {
	t.Helper()
	mod, err := os.ReadFile(filepath.Join("..", "tools", name, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`(?m)^\s*(?:require )?` + regexp.QuoteMeta(module) + ` (v\S+)`).FindSubmatch(mod)
	if version == nil {
		t.Fatalf("tools/%s/go.mod does not require %s", name, module)
	}
	path, err := filepath.Abs(filepath.Join("..", ".cache", "bin", name+"-"+string(version[1])))
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Fatalf("%v\nmake test-deploy builds it", err)
	}
	return path
}

// run gives a program the input and returns all that it says.
func run(t *testing.T, input, program string, args ...string) (string, error) {
	t.Helper()
	command := exec.CommandContext(t.Context(), program, args...)
	command.Stdin = strings.NewReader(input)
	// No registry, repository or cluster of the one who runs the tests is asked.
	home := t.TempDir()
	command.Env = append(os.Environ(), "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home, "KUBECONFIG="+filepath.Join(home, "none"))
	var output, problems bytes.Buffer
	command.Stdout, command.Stderr = &output, &problems
	if err := command.Run(); err != nil {
		return output.String(), fmt.Errorf("%s %s: %w\n%s%s", filepath.Base(program), strings.Join(args, " "), err, output.String(), problems.String())
	}
	return output.String(), nil
}

func helm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	return run(t, "", tool(t, "helm", "helm.sh/helm/v4"), args...)
}

// template renders the chart as release namebridge. extra are values in YAML that go before those of the file.
func template(t *testing.T, file, extra string) (string, error) {
	t.Helper()
	return run(t, extra, tool(t, "helm", "helm.sh/helm/v4"),
		"template", "namebridge", chart, "--namespace", "people", "--values", file, "--values", "-")
}

// object is one manifest.
type object map[string]any

func render(t *testing.T, file, extra string) []object {
	t.Helper()
	text, err := template(t, file, extra)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, text)
}

func parse(t *testing.T, text string) []object {
	t.Helper()
	var all []object
	for decoder := yaml.NewDecoder(strings.NewReader(text)); ; {
		var o map[string]any // not an object: the maps in it would be objects, too
		err := decoder.Decode(&o)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if len(o) > 0 {
			all = append(all, o)
		}
	}
}

// at is what stands at a path of keys; nil where nothing does.
func at(o any, path ...string) any {
	for _, key := range path {
		switch m := o.(type) {
		case object:
			o = m[key]
		case map[string]any:
			o = m[key]
		default:
			return nil
		}
	}
	return o
}

func (o object) kind() string { return fmt.Sprint(o["kind"]) }
func (o object) name() string { return fmt.Sprint(at(o, "metadata", "name")) }

// kind are those of a kind; there has to be one at least.
func kind(t *testing.T, all []object, kind string) []object {
	t.Helper()
	some := slices.DeleteFunc(slices.Clone(all), func(o object) bool { return o.kind() != kind })
	if len(some) == 0 {
		t.Fatalf("no %s is rendered", kind)
	}
	return some
}

// pod is what an object makes pods of: the template's metadata and spec; false where it makes none.
func (o object) pod() (metadata, spec map[string]any, ok bool) {
	var pod any = o
	if o.kind() != "Pod" {
		pod = at(o, "spec", "template")
	}
	metadata, _ = at(pod, "metadata").(map[string]any)
	spec, ok = at(pod, "spec").(map[string]any)
	return metadata, spec, ok && spec["containers"] != nil
}

func container(spec map[string]any) map[string]any {
	containers, _ := spec["containers"].([]any)
	c, _ := containers[0].(map[string]any)
	return c
}

// combinations are the documented combinations of values.
func combinations(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(chart + "/ci/*.yaml")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d files of values, %v", len(files), err)
	}
	return files
}

// eachCombination runs a test with each.
func eachCombination(t *testing.T, test func(t *testing.T, file string)) {
	t.Helper()
	for _, file := range combinations(t) {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			t.Parallel()
			test(t, file)
		})
	}
}

func TestTheChartLintsWithEveryCombination(t *testing.T) {
	t.Parallel()
	eachCombination(t, func(t *testing.T, file string) {
		if _, err := helm(t, "lint", "--strict", chart, "--values", file); err != nil {
			t.Error(err)
		}
	})
}

// conform checks manifests against the schemas of Kubernetes and of the Prometheus operator.
func conform(t *testing.T, manifests string) error {
	t.Helper()
	const schemas = "../.cache/schemas"
	if _, err := os.Stat(schemas); err != nil {
		t.Fatalf("%v\nmake test-deploy makes them", err)
	}
	_, err := run(t, manifests, tool(t, "kubeconform", "github.com/yannh/kubeconform"), "-strict", "-summary",
		"-schema-location", schemas+"/{{.ResourceKind}}{{.KindSuffix}}.json")
	return err
}

func TestKubernetesAcceptsEveryCombination(t *testing.T) {
	t.Parallel()
	eachCombination(t, func(t *testing.T, file string) {
		manifests, err := template(t, file, "")
		if err == nil {
			err = conform(t, manifests)
		}
		if err != nil {
			t.Error(err)
		}
	})
}

// A check that lets everything through would prove nothing.
func TestTheSchemasOfKubernetesRefuseWhatAServerWould(t *testing.T) {
	t.Parallel()
	manifests, err := template(t, chart+"/ci/everything.yaml", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := conform(t, manifests); err != nil {
		t.Fatal(err)
	}
	for right, wrong := range map[string]string{
		"replicas: 3":                    "replicas: three",
		"readOnlyRootFilesystem: true":   "readonlyRootFilesystem: true",
		"maxUnavailable: 0":              "maxUnavailable: {}",
		"unhealthyPodEvictionPolicy":     "unhealthyPodEvictionPolice",
		"backoffLimit: 0":                "backoffLimit: none",
		"policyTypes: [Ingress, Egress]": "policyTypes: Ingress",
		"matchLabelKeys":                 "matchLabelKey",
		"scrapeTimeout: 20s":             "scrapetimeout: 20s",
		"automountServiceAccountToken":   "automountServiceaccountToken",
		"apiVersion: policy/v1\n":        "apiVersion: policy/v1beta1\n",
		"apiVersion: monitoring.coreos.com/v1\nkind: ServiceMonitor": "apiVersion: monitoring.coreos.com/v1\nkind: ServiceMonitr",
	} {
		broken := strings.ReplaceAll(manifests, right, wrong)
		if broken == manifests {
			if right != "matchLabelKeys" { // everything.yaml has constraints of its own
				t.Errorf("%s is not rendered", right)
			}
			continue
		}
		if conform(t, broken) == nil {
			t.Errorf("%s is let through", wrong)
		}
	}
}

func TestEveryPodFitsTheRestrictedStandard(t *testing.T) {
	t.Parallel()
	program := tool(t, "podsecurity", "k8s.io/pod-security-admission")
	eachCombination(t, func(t *testing.T, file string) {
		manifests, err := template(t, file, "")
		if err == nil {
			_, err = run(t, manifests, program)
		}
		if err != nil {
			t.Error(err)
		}
	})
	manifests, err := template(t, minimal, "podSecurityContext: {runAsNonRoot: false, seccompProfile: null}")
	if err != nil {
		t.Fatal(err)
	}
	_, err = run(t, manifests, program)
	if err == nil || !strings.Contains(err.Error(), "runAsNonRoot") || !strings.Contains(err.Error(), "seccomp") {
		t.Errorf("a pod that is not restricted is let through: %v", err)
	}
}

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

func TestASecretIsNotTakenForAnEnvironmentVariable(t *testing.T) {
	t.Parallel()
	for _, v := range config.Variables {
		if !v.Secret {
			continue
		}
		_, err := template(t, minimal, "env: {"+v.Name+": hunter2}")
		if err == nil || !strings.Contains(err.Error(), "'"+v.Name+"'") {
			t.Errorf("env.%s: %v", v.Name, err)
		}
	}
}

func TestNoMessageShowsASecret(t *testing.T) {
	t.Parallel()
	for _, values := range []string{
		"env: {NAMECOACH_TOKEN: hunter2}", "env: {NAMECOACH_TOKEN_FILE: hunter2}", "env: {DATABASE_URL_FILE: 'postgres://u:hunter2@h/d'}",
		"env: {HTTPS_PROXY: 'u:hunter2'}\nreplicas: 0", "env: {HTTPS_PROXY: 'http://u:hunter2@proxy:3128'}", "env: {HTTPS_PROXY: 'u:hunter2@proxy:3128'}",
		"env: {BLN_URL: 'https://u:hunter2@bln.example.edu'}", "secret: {existing: '', create: true, values: {DATABASE_URL: 'mysql://u:hunter2@h/d'}}",
		"secret: {existing: '', create: true, values: {ADMIN_PASSWORD_HASH: hunter2}}", "secret: {values: {NAMECOACH_TOKEN: hunter2, NAMECOACH_TOKN: hunter2}}",
		"secret: {existing: '', create: true, values: {NAMECOACH_TOKEN: [hunter2]}}", "secret: {from: {NAMECOACH_TOKEN: hunter2}}",
	} {
		if _, err := template(t, minimal, values); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", values, err)
		}
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

func TestSelectorsMeetTheDaemonsAndNobodyElse(t *testing.T) {
	t.Parallel()
	all := render(t, chart+"/ci/everything.yaml", "nameOverride: other")
	pods := map[string]map[string]any{}
	for _, o := range all {
		if metadata, _, ok := o.pod(); ok {
			labels, _ := metadata["labels"].(map[string]any)
			pods[o.kind()] = labels
		}
	}
	meets := func(selector any) string {
		wanted, _ := selector.(map[string]any)
		if len(wanted) == 0 {
			t.Error("an empty selector")
		}
		var met []string
		for kind, labels := range pods {
			missing := false
			for key, value := range wanted {
				missing = missing || labels[key] != value
			}
			if !missing {
				met = append(met, kind)
			}
		}
		slices.Sort(met)
		return strings.Join(met, " ")
	}
	for _, test := range []struct {
		kind string
		path []string
		want string
	}{
		{"Deployment", []string{"spec", "selector", "matchLabels"}, "Deployment"},
		{"Service", []string{"spec", "selector"}, "Deployment"},
		{"PodDisruptionBudget", []string{"spec", "selector", "matchLabels"}, "Deployment"},
		{"NetworkPolicy", []string{"spec", "podSelector", "matchLabels"}, "Deployment Job Pod"},
	} {
		if got := meets(at(kind(t, all, test.kind)[0], test.path...)); got != test.want {
			t.Errorf("%s: the selector meets the pods of %s, not %s", test.kind, got, test.want)
		}
	}
	labels, _ := at(kind(t, all, "Service")[0], "metadata", "labels").(map[string]any)
	wanted, _ := at(kind(t, all, "ServiceMonitor")[0], "spec", "selector", "matchLabels").(map[string]any)
	for key, value := range wanted {
		if labels[key] != value {
			t.Errorf("the ServiceMonitor wants %s=%v, the Service has %v", key, value, labels[key])
		}
	}
}

// Its name says everything of a Job that cannot be changed: else an upgrade would fail.
func TestAJobWithAnotherPodHasAnotherName(t *testing.T) {
	t.Parallel()
	const backfill = chart + "/ci/backfill.yaml"
	first := kind(t, render(t, backfill, ""), "Job")[0]
	if len(first.name()) > 63 {
		t.Errorf("the name %s is too long", first.name())
	}
	names := map[string]string{first.name(): "as it was"}
	for _, values := range []string{
		"image: {tag: v2}", "env: {LOG_LEVEL: debug}", "backfill: {since: '2026-10-01'}", "backfill: {run: again}", "podLabels: {team: a}", "podAnnotations: {a: b}",
		"resources: {limits: {memory: 1Gi}}", "nodeSelector: {a: b}",
	} {
		job := kind(t, render(t, backfill, values), "Job")[0]
		if same := names[job.name()]; same != "" {
			t.Errorf("%s: the Job has the same name as %s", values, same)
		}
		names[job.name()] = values
	}
	// One that failed for a wrong password would otherwise stay failed.
	created := func(values string) object {
		return kind(t, render(t, chart+"/ci/secret-created.yaml", "backfill: {enabled: true}\n"+values), "Job")[0]
	}
	if corrected := created("secret: {values: {NAMECOACH_TOKEN: corrected}}"); corrected.name() == created("").name() {
		t.Error("a corrected secret begins no other backfill")
	}
	for _, values := range []string{"replicas: 5", "networkPolicy: {enabled: false}", "monitoring: {serviceMonitor: {enabled: true}}"} {
		if same := kind(t, render(t, backfill, values), "Job")[0]; !cmp.Equal(same, first) {
			t.Errorf("%s begins another backfill", values)
		}
	}
}

func TestABackfillNamesItsBridge(t *testing.T) {
	t.Parallel()
	args := func(extra string) (all []string) {
		for _, job := range kind(t, render(t, chart+"/ci/backfill.yaml", extra), "Job") {
			_, spec, _ := job.pod()
			all = append(all, fmt.Sprint(container(spec)["args"]))
		}
		return all
	}
	if diff := cmp.Diff([]string{"[backfill --output=json --since=2026-09-01 --bridge=globex]"}, args("")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"[backfill --output=json --bridge=acme]", "[backfill --output=json --bridge=globex]"}, args("backfill: {bridges: [], since: ''}")); diff != "" {
		t.Error(diff)
	}
}

func TestOtherSecretsStartOtherPods(t *testing.T) {
	t.Parallel()
	const created = chart + "/ci/secret-created.yaml"
	pod := func(extra string) map[string]any {
		metadata, _, _ := kind(t, render(t, created, extra), "Deployment")[0].pod()
		return metadata
	}
	first := pod("")
	if same := pod("replicas: 5"); !cmp.Equal(first, same) {
		t.Error("the pods are started anew though nothing of theirs has changed")
	}
	if other := pod("secret: {values: {NAMECOACH_TOKEN: other}}"); cmp.Equal(first, other) {
		t.Error("another token does not reach the pods")
	}
}

// serve needs 25 seconds at most to stop, and Kubernetes kills after this.
func TestADaemonHasTheTimeToStop(t *testing.T) {
	t.Parallel()
	_, spec, _ := kind(t, render(t, minimal, ""), "Deployment")[0].pod()
	if got, _ := spec["terminationGracePeriodSeconds"].(int); got < 30 {
		t.Errorf("%d seconds", got)
	}
	if got := at(container(spec), "livenessProbe", "timeoutSeconds"); got != 5 { // the server itself answers after 2 s at the latest
		t.Errorf("the liveness probe waits %v s", got)
	}
}

func TestThePortIsTheOneThatIsListenedOn(t *testing.T) {
	t.Parallel()
	listens := config.Variables[slices.IndexFunc(config.Variables, func(v config.Variable) bool { return v.Name == "LISTEN_ADDR" })].Default
	for values, want := range map[string]string{"": strings.TrimPrefix(listens, ":"), "env: {LISTEN_ADDR: '[::]:9191'}": "9191"} {
		all := render(t, minimal, values)
		_, spec, _ := kind(t, all, "Deployment")[0].pod()
		if ports := fmt.Sprint(container(spec)["ports"]); ports != "[map[containerPort:"+want+" name:http]]" {
			t.Error(ports)
		}
		if ingress := fmt.Sprint(at(kind(t, all, "NetworkPolicy")[0], "spec", "ingress")); !strings.Contains(ingress, "port:"+want) {
			t.Error(ingress)
		}
	}
}

// By the contract's exit codes: 2 is a wrong configuration, 3 a halt or a quarantine. 1 and 4 end better the next time.
func TestOnlyWhatAnotherTryMendsIsTriedAgain(t *testing.T) {
	t.Parallel()
	job := kind(t, render(t, chart+"/ci/backfill.yaml", ""), "Job")[0]
	want := "[map[action:FailJob onExitCodes:map[containerName:namebridge operator:In values:[2 3]]] map[action:Ignore onPodConditions:[map[status:True type:DisruptionTarget]]]]"
	if got := fmt.Sprint(at(job, "spec", "podFailurePolicy", "rules")); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}
