//go:build deploy

package deploy

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
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

var update = flag.Bool("update", false, "write what is made from the chart: the plain manifests and the table of values")

// current fails where a file is not what is made for it; with -update it is written instead.
func current(t *testing.T, file, want string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("%s is not current: make deploy-manifests (-want +got)\n%s", file, diff)
	}
}

func TestThePlainManifestsAreCurrent(t *testing.T) {
	t.Parallel()
	// What Helm says of itself is not true of them.
	helms := regexp.MustCompile(`(?m)^(# Source: .*| *helm\.sh/chart: .*| *app\.kubernetes\.io/managed-by: Helm|)\n`)
	for file, args := range map[string][]string{
		"base/namebridge.yaml":              {"--skip-tests"},
		"components/backfill/backfill.yaml": {"--set", "backfill.enabled=true", "--show-only", "templates/backfill.yaml"},
	} {
		manifests, err := helm(t, append([]string{"template", "namebridge", chart, "--values", "kustomize/values.yaml"}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		current(t, "kustomize/"+file, "# Made from the chart by make deploy-manifests.\n"+helms.ReplaceAllString(manifests, ""))
	}
}

const overlay = "kustomize/overlays/example"

// build is what kustomize makes of a folder, which Kubernetes has to accept.
func build(t *testing.T, folder string) []object {
	t.Helper()
	manifests, err := run(t, "", tool(t, "kustomize", "sigs.k8s.io/kustomize/kustomize/v5"), "build", folder)
	if err != nil {
		t.Fatal(err)
	}
	if err := conform(t, manifests); err != nil {
		t.Error(err)
	}
	if _, err := run(t, manifests, tool(t, "podsecurity", "k8s.io/pod-security-admission")); err != nil {
		t.Error(err)
	}
	return parse(t, manifests)
}

func TestTheOverlaySetsNamespaceImageReplicasAndVariables(t *testing.T) {
	t.Parallel()
	all := build(t, overlay)
	for _, o := range all {
		if namespace := at(o, "metadata", "namespace"); namespace != "people" {
			t.Errorf("%s %s is in the namespace %v", o.kind(), o.name(), namespace)
		}
	}
	deployment := kind(t, all, "Deployment")[0]
	_, spec, _ := deployment.pod()
	if got := at(deployment, "spec", "replicas"); got != 3 {
		t.Errorf("%v replicas", got)
	}
	if got := container(spec)["image"]; got != "registry.example.com/namebridge:0.1.0" {
		t.Errorf("the image is %v", got)
	}
	secret := kind(t, all, "Secret")[0]
	if got := fmt.Sprint(container(spec)["envFrom"]); !strings.Contains(got, "name:"+secret.name()+"]") || secret.name() == "namebridge" {
		t.Errorf("the pods read %s, and the Secret is %s", got, secret.name())
	}
	content, err := os.ReadFile(filepath.Join(overlay, "namebridge.env"))
	if err != nil {
		t.Fatal(err)
	}
	env := map[string]string{}
	for _, line := range regexp.MustCompile(`(?m)^([A-Z_]+)=(.*)$`).FindAllStringSubmatch(string(content), -1) {
		env[line[1]] = line[2]
	}
	if data, _ := secret["data"].(map[string]any); len(data) != len(env) {
		t.Errorf("the Secret has %d keys, the file %d", len(data), len(env))
	}
	if _, err := config.Load(envconfig.MapLookuper(env), config.Database); err != nil {
		t.Error(err)
	}
}

// As docs/kubernetes.md says: the overlay, and the lines that are comments in it.
func TestABackfillIsAComponentOfTheOverlay(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "kustomize") // with the rest beside it: kustomize looks up relative paths
	if err := os.CopyFS(folder, os.DirFS("kustomize")); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(folder, "overlays", "example", "kustomization.yaml")
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	on := strings.ReplaceAll(string(content), "\n#components:\n#  - ", "\ncomponents:\n  - ")
	if on == string(content) {
		t.Fatal("the overlay does not have the component as a comment")
	}
	if err := os.WriteFile(file, []byte(on), 0o600); err != nil {
		t.Fatal(err)
	}
	all := build(t, filepath.Dir(file))
	job := kind(t, all, "Job")[0]
	_, spec, _ := job.pod()
	if got, secret := fmt.Sprint(container(spec)["envFrom"]), kind(t, all, "Secret")[0].name(); !strings.Contains(got, "name:"+secret+"]") {
		t.Errorf("the Job reads %s, and the Secret is %s", got, secret)
	}
	if got := container(spec)["image"]; got != "registry.example.com/namebridge:0.1.0" {
		t.Errorf("the Job's image is %v", got)
	}
}

const (
	tableBegin = "<!-- values: written by make deploy-manifests -->\n"
	tableEnd   = "<!-- end of values -->\n"
)

func TestTheTableOfValuesIsCurrent(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile(chart + "/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var values yaml.Node
	if err := yaml.Unmarshal(content, &values); err != nil {
		t.Fatal(err)
	}
	var table bytes.Buffer
	table.WriteString("\n| value | default | meaning |\n|---|---|---|\n")
	rows(t, &table, values.Content[0], "")
	table.WriteString("\n")

	readme, err := os.ReadFile(chart + "/README.md")
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(readme), tableBegin)
	_, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		t.Fatalf("the table's marks are missing in the chart's README.md:\n%s%s", tableBegin, tableEnd)
	}
	current(t, chart+"/README.md", before+tableBegin+table.String()+tableEnd+after)
}

// rows writes a row for each value below mapping, with the comment that stands before it.
func rows(t *testing.T, w *bytes.Buffer, mapping *yaml.Node, path string) {
	t.Helper()
	for i := 0; i < len(mapping.Content); i += 2 {
		key, value := mapping.Content[i], mapping.Content[i+1]
		name := path + key.Value
		meaning := strings.Join(strings.Fields(strings.ReplaceAll(key.HeadComment, "# ", "")), " ")
		section := value.Kind == yaml.MappingNode && len(value.Content) > 0 && name != "resources" && name != "podSecurityContext"
		if !section {
			var content any
			if err := value.Decode(&content); err != nil {
				t.Fatal(err)
			}
			fallback, err := json.Marshal(content)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(w, "| `%s` | `%s` | %s |\n", name, fallback, strings.ReplaceAll(meaning, "|", `\|`))
			continue
		}
		if meaning != "" {
			fmt.Fprintf(w, "| `%s` |  | %s |\n", name, strings.ReplaceAll(meaning, "|", `\|`))
		}
		rows(t, w, value, name+".")
	}
}

var fence = regexp.MustCompile("(?ms)^ *```(yaml)?\\n(.*?)^ *```$")

// What people copy has to work.
func TestTheChartTakesTheExamplesOfItsDocumentation(t *testing.T) {
	t.Parallel()
	for file, least := range map[string]int{"../docs/kubernetes.md": 6, chart + "/README.md": 1} {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		examples := 0
		for _, block := range fence.FindAllStringSubmatch(string(content), -1) {
			if block[1] == "yaml" {
				examples++
				if _, err := template(t, minimal, block[2]); err != nil {
					t.Errorf("%s: %s%v", file, block[2], err)
				}
				continue
			}
			for line := range strings.Lines(strings.ReplaceAll(block[2], "\\\n", "")) {
				args := strings.Fields(line)
				if len(args) < 4 || args[0] != "helm" || args[1] != "install" && args[1] != "upgrade" {
					continue
				}
				examples++
				args = append([]string{"template", args[2], chart}, args[4:]...) // in place of the path from the checkout's root
				args = slices.DeleteFunc(args, func(a string) bool { return a == "--reset-then-reuse-values" })
				for i, a := range args {
					if a == "values.yaml" {
						args[i] = minimal
					}
				}
				if !slices.Contains(args, minimal) && slices.Contains(strings.Fields(line), "--reset-then-reuse-values") {
					args = append(args, "--values", minimal)
				}
				if _, err := helm(t, args...); err != nil {
					t.Errorf("%s: %s%v", file, line, err)
				}
			}
		}
		if examples < least {
			t.Errorf("%s: only %d examples were found", file, examples)
		}
	}
}

func TestTheDocumentationNamesOnlyVariablesThatThereAre(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("kustomize/overlays/*/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(files, "../docs/kubernetes.md", chart+"/README.md", chart+"/values.yaml", chart+"/templates/NOTES.txt") {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range regexp.MustCompile(`\b[A-Z][A-Z0-9]*(_[A-Z0-9]+)+\b`).FindAllString(string(content), -1) {
			if !slices.Contains(runtime, name) {
				example(t, strings.TrimSuffix(name, "_FILE"))
			}
		}
	}
}
