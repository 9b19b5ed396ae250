//go:build deploy

package deploy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

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

func TestPrometheusOfOpenShiftMayScrape(t *testing.T) {
	t.Parallel()
	policy := kind(t, render(t, chart+"/ci/openshift.yaml", ""), "NetworkPolicy")[0]
	const want = "namespaceSelector:map[matchLabels:map[kubernetes.io/metadata.name:openshift-user-workload-monitoring]]"
	if got := fmt.Sprint(at(policy, "spec", "ingress")); !strings.Contains(got, want) {
		t.Errorf("%s\nhas no %s", got, want)
	}
}
