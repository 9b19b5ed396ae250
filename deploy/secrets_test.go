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

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"namebridge/internal/config"
)

// Who put it there is told where it belongs, not only that env does not have it.
func TestASecretIsNotTakenForAnEnvironmentVariable(t *testing.T) {
	t.Parallel()
	for _, v := range config.Variables {
		if !v.Secret {
			continue
		}
		names := []string{v.Name}
		if v.PerBridge {
			names = append(names, "ACME_"+v.Name)
		}
		for _, name := range names {
			_, err := template(t, minimal, "bridges: [acme]\nenv: {"+name+": hunter2}")
			for _, want := range []string{"env." + name + ": ", "env is no place for secrets", "secret.existing", "secret.from." + name} {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("env.%s: %v\ndoes not say %s", name, err, want)
				}
			}
		}
	}
}

func TestNoMessageShowsASecret(t *testing.T) {
	t.Parallel()
	for _, values := range []string{
		"env: {NAMECOACH_TOKEN: hunter2}", "env: {BLN_PASSWORD: [hunter2]}", "env: {DATABASE_URL: 'postgres://u:hunter2@h/d'}", "env: {NAMECOACH_TOKEN_FILE: hunter2}", "env: {DATABASE_URL_FILE: 'postgres://u:hunter2@h/d'}",
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
