//go:build deploy

package deploy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// A Secret of somebody else often holds the user beside the password, and a proxy's address has a password in it now and then.
func TestAUserAndAProxyMayComeFromASecret(t *testing.T) {
	t.Parallel()
	for how, asFiles := range map[string]string{"": "", "as files": "\n  asFiles: true"} {
		all := render(t, chart+"/values.yaml", `
bridges: [acme]
env: {BLN_ORGANIZATION_ID: 4711}
secret:
  from:
    DATABASE_URL: {name: postgres-app, key: uri}
    NAMECOACH_TOKEN: {name: namecoach, key: token}
    ACME_BLN_USERNAME: {name: bln, key: user}
    BLN_PASSWORD: {name: bln, key: password}
    HTTPS_PROXY: {name: proxy, key: url}`+asFiles)
		for _, o := range all {
			_, spec, ok := o.pod()
			if !ok {
				continue
			}
			env := fmt.Sprint(container(spec)["env"])
			for _, want := range []string{
				"map[name:ACME_BLN_USERNAME valueFrom:map[secretKeyRef:map[key:user name:bln]]]",
				"map[name:HTTPS_PROXY valueFrom:map[secretKeyRef:map[key:url name:proxy]]]", // neither can be read from a file
			} {
				if !strings.Contains(env, want) {
					t.Errorf("%s %s: the environment has no %s\n%s", o.kind(), how, want, env)
				}
			}
			if files := fmt.Sprint(spec["volumes"]); strings.Contains(files, "USERNAME") || strings.Contains(files, "PROXY") {
				t.Errorf("%s %s: a file that nobody reads\n%s", o.kind(), how, files)
			}
		}
	}
}

// Whoever may read Deployments must not find passwords out by trying them against a quick checksum.
func TestTheChecksumOfSecretsIsNotAQuickOne(t *testing.T) {
	t.Parallel()
	const created = chart + "/ci/secret-created.yaml"
	checksum := func(args ...string) string {
		text, err := helm(t, append([]string{"template", "namebridge", chart, "--values", created}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		metadata, _, _ := kind(t, parse(t, text), "Deployment")[0].pod()
		sum := fmt.Sprint(at(metadata, "annotations", "checksum/secret"))
		if !regexp.MustCompile(`^[0-9a-f]{8}$`).MatchString(sum) {
			t.Fatalf("the checksum is %s: eight digits tell a change, and more would tell more", sum)
		}
		return sum
	}
	content, err := os.ReadFile(filepath.FromSlash(created))
	if err != nil {
		t.Fatal(err)
	}
	var values struct {
		Secret struct{ Values map[string]string }
	}
	if err := yaml.Unmarshal(content, &values); err != nil {
		t.Fatal(err)
	}
	plain, err := json.Marshal(values.Secret.Values)
	if err != nil {
		t.Fatal(err)
	}
	first := checksum("--namespace", "people")
	if quick := sha256.Sum256(plain); strings.HasPrefix(hex.EncodeToString(quick[:]), first) {
		t.Error("it is the SHA-256 of the secrets")
	}
	if first != checksum("--namespace", "people", "--is-upgrade") {
		t.Error("the same secrets have two checksums: each upgrade would start the pods anew")
	}
	if first == checksum("--namespace", "others") {
		t.Error("another namespace has the same checksum: who tries passwords tries them for all at once")
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

// kubectl follows five pods and refuses more, unless it is told.
func TestTheLogsOfManyBackfillsCanBeFollowed(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"../docs/kubernetes.md", chart + "/templates/NOTES.txt"} {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		commands := regexp.MustCompile("kubectl logs .*--follow.*--selector.*").FindAllString(string(content), -1)
		if len(commands) == 0 {
			t.Errorf("%s follows nothing", file)
		}
		for _, command := range commands {
			if !strings.Contains(command, "--max-log-requests 100") {
				t.Errorf("%s: %s", file, command)
			}
		}
	}
}
