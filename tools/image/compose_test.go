package main

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"

	"namebridge/internal/config"
)

const deploy = "../../deploy"

// project is deploy/compose.yaml as Docker Compose reads it, all profiles on, in a copy of the folder that was set up as docs/installation.md says:
// .env is .env.example with these settings, and secrets.sh was run.
func project(t *testing.T, set map[string]string) *types.Project {
	t.Helper()
	folder := t.TempDir()
	if err := os.CopyFS(filepath.Join(folder, "compose"), os.DirFS(filepath.Join(deploy, "compose"))); err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile(filepath.Join(deploy, ".env.example"))
	if err != nil {
		t.Fatal(err)
	}
	env := string(example)
	for name, value := range set {
		line := regexp.MustCompile(`(?m)^#?` + name + `=.*$`)
		if line.MatchString(env) {
			env = line.ReplaceAllLiteralString(env, name+"="+value)
		} else {
			env += name + "=" + value + "\n"
		}
	}
	if err := os.WriteFile(filepath.Join(folder, ".env"), []byte(env), 0o600); err != nil {
		t.Fatal(err)
	}
	secrets(t, folder, "a-token", "a-key")
	p, err := load(t.Context(), folder, filepath.Join(deploy, "compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// load reads a compose file with the reader of Docker Compose, which validates it against the published schema. Nothing of this process's
// environment counts.
func load(ctx context.Context, folder string, files ...string) (*types.Project, error) {
	options, err := cli.NewProjectOptions(files, cli.WithWorkingDirectory(folder), cli.WithEnvFiles(filepath.Join(folder, ".env")), cli.WithDotEnv,
		cli.WithProfiles([]string{"*"}), cli.WithConsistency(true), cli.WithInterpolation(true), cli.WithNormalization(true), cli.WithResolvedPaths(true))
	if err != nil {
		return nil, err
	}
	return options.LoadProject(ctx)
}

// secrets runs secrets.sh, with what it asks for given, and gives what it prints. key is what signs in to BLN.
func secrets(t *testing.T, folder, token, key string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(folder, "compose", "secrets.sh"))
	cmd.Env = append(os.Environ(), "NAMECOACH_TOKEN="+token, "BLN_PASSWORD="+key, "BLN_ACCESS_TOKEN="+key)
	output, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("secrets.sh: %v\n%s", err, output)
	}
	return string(output)
}

func TestTheComposeFileIsReadStrictly(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(deploy, "compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	if err := os.CopyFS(filepath.Join(folder, "compose"), os.DirFS(filepath.Join(deploy, "compose"))); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, ".env"), []byte("NAMEBRIDGE_IMAGE=namebridge:v1.2.3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct{ old, new, says string }{
		"as it is":              {"", "", ""},
		"a misspelt key":        {"read_only: true", "readonly: true", "readonly"},
		"a network not there":   {"networks: [database]", "networks: [databse]", "databse"},
		"a secret not there":    {"secrets: [postgres_password]", "secrets: [postgres]", "postgres"},
		"a service not there":   {"depends_on: [prometheus]", "depends_on: [prometheuse]", "prometheuse"},
		"no image is set":       {"${NAMEBRIDGE_IMAGE:?", "${NO_IMAGE:?", "set it in .env"},
		"a value of wrong kind": {"pids_limit: 256", "pids_limit: many", "pids_limit"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if !strings.Contains(string(text), test.old) {
				t.Fatalf("compose.yaml has no %q by now", test.old)
			}
			file := filepath.Join(t.TempDir(), "compose.yaml")
			if err := os.WriteFile(file, []byte(strings.Replace(string(text), test.old, test.new, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := load(t.Context(), folder, file)
			if (err == nil) != (test.says == "") || err != nil && !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v, want an error that says %q", err, test.says)
			}
		})
	}
}

func TestComposeSetsVariablesOfTheContractOnly(t *testing.T) {
	t.Parallel()
	contract := map[string]config.Variable{}
	for _, v := range config.Variables {
		contract[v.Name] = v
		if v.Secret {
			contract[v.Name+"_FILE"] = v
		}
	}
	p := project(t, nil)
	compose, err := os.ReadFile(filepath.Join(deploy, "compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	// What stands in .env for compose.yaml itself.
	own := func(name string) bool { return strings.Contains(string(compose), "${"+name+":") }
	for name, value := range p.Services["namebridge"].Environment {
		v, ok := contract[name]
		if !ok && !own(name) {
			t.Errorf("%s is no variable of namebridge", name)
		}
		if v.Secret && !strings.HasSuffix(name, "_FILE") {
			t.Errorf("%s is a secret, and does not come from a file", name)
		}
		if file, ok := strings.CutPrefix(*value, "/run/secrets/"); ok {
			if !slices.ContainsFunc(p.Services["namebridge"].Secrets, func(s types.ServiceSecretConfig) bool { return s.Source == file }) {
				t.Errorf("%s is %s, which is not mounted", name, *value)
			}
		}
	}
	example, err := os.ReadFile(filepath.Join(deploy, ".env.example"))
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^#?([A-Z_0-9]+)=(.*)$`).FindAllStringSubmatch(string(example), -1)
	if len(found) < 5 {
		t.Fatalf(".env.example has %d settings only", len(found))
	}
	for _, f := range found {
		name, value := f[1], f[2]
		v, ok := contract[name]
		switch {
		case own(name):
			if fallback := "${" + name + ":-" + value + "}"; strings.HasSuffix(name, "_PORT") && !strings.Contains(string(compose), fallback) {
				t.Errorf(".env.example shows %s, and compose.yaml has another default", f[0])
			}
		case !ok:
			t.Errorf(".env.example has %s, which is no variable of namebridge", name)
		case v.Secret:
			t.Errorf(".env.example has %s, which is a secret", name)
		case value != v.Default:
			t.Errorf(".env.example has %s=%s, and the default is %q", name, value, v.Default)
		}
	}
}

// lookup is an environment.
type lookup map[string]string

func (l lookup) Lookup(name string) (string, bool) {
	value, ok := l[name]
	return value, ok
}

func TestComposeSignsInToBLNWithAPasswordOrWithAToken(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]map[string]string{
		"BLN_PASSWORD":     {"BLN_ORGANIZATION_ID": "4711", "BLN_USERNAME": "bridge@acme.example"},
		"BLN_ACCESS_TOKEN": {"BLN_ORGANIZATION_ID": "4711", "BLN_SIGN_IN": "bln_access_token"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := project(t, set)
			env := lookup{}
			for name, value := range p.Services["namebridge"].Environment {
				env[name] = strings.Replace(*value, "/run/secrets", filepath.Join(p.WorkingDir, "compose", "secrets"), 1)
			}
			c, err := config.Load(env, config.Database)
			if err != nil {
				t.Fatal(err)
			}
			b := c.Bridges[0]
			got := map[string]string{"BLN_PASSWORD": b.BLNPassword.Reveal(), "BLN_ACCESS_TOKEN": b.BLNAccessToken.Reveal()}
			if got[name] != "a-key" || got["BLN_PASSWORD"] != "" && got["BLN_ACCESS_TOKEN"] != "" {
				t.Errorf("it signs in with %v", got)
			}
			for _, s := range p.Services["namebridge"].Secrets {
				if _, err := os.Stat(p.Secrets[s.Source].File); err != nil {
					t.Errorf("secrets.sh has not made %s: %v", s.Source, err)
				}
			}
			if made := contents(t, filepath.Join(p.WorkingDir, "compose", "secrets")); len(made) != 5 {
				t.Errorf("secrets.sh has made %d files, and five are read", len(made))
			}
		})
	}
}

func TestAWayToSignInThatThereIsNotIsRefused(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	if err := os.CopyFS(filepath.Join(folder, "compose"), os.DirFS(filepath.Join(deploy, "compose"))); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, ".env"), []byte("NAMEBRIDGE_IMAGE=namebridge:v1.2.3\nBLN_SIGN_IN=token\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(folder, "compose", "secrets.sh"))
	cmd.Env = append(os.Environ(), "NAMECOACH_TOKEN=t", "BLN_PASSWORD=p", "BLN_ACCESS_TOKEN=a")
	if output, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(output), "BLN_SIGN_IN is token") {
		t.Errorf("secrets.sh: %v\n%s", err, output)
	}
	if _, err := load(t.Context(), folder, filepath.Join(deploy, "compose.yaml")); err == nil || !strings.Contains(err.Error(), "token") {
		t.Errorf("Compose: %v", err)
	}
}

// docs/installation.md says how: as the files' owner, who may not write to what has the mode 444.
func TestASecretIsMadeAnewAsTheDocumentSays(t *testing.T) {
	t.Parallel()
	document, err := os.ReadFile("../../docs/installation.md")
	if err != nil {
		t.Fatal(err)
	}
	command := regexp.MustCompile("(?m)A secret changes\\*\\*: `(rm [^`]*NAME[^`]*)`").FindSubmatch(document)
	if command == nil {
		t.Fatal("docs/installation.md does not say how a secret is made anew")
	}
	p := project(t, nil)
	before := contents(t, filepath.Join(p.WorkingDir, "compose", "secrets"))
	cmd := exec.CommandContext(t.Context(), "bash", "-c", strings.ReplaceAll(string(command[1]), "NAME", "namecoach_token"))
	cmd.Dir, cmd.Env = p.WorkingDir, append(os.Environ(), "NAMECOACH_TOKEN=another")
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	after := contents(t, filepath.Join(p.WorkingDir, "compose", "secrets"))
	for name := range before {
		if same := string(before[name]) == string(after[name]); same == (name == "namecoach_token") {
			t.Errorf("%s: the same %v, %q", name, same, after[name])
		}
	}
}

// docs/installation.md has a compose.override.yaml.
func TestSeveralBridgesInComposeAreAsTheDocumentSays(t *testing.T) {
	t.Parallel()
	document, err := os.ReadFile("../../docs/installation.md")
	if err != nil {
		t.Fatal(err)
	}
	override := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindSubmatch(document)
	if override == nil {
		t.Fatal("docs/installation.md has no compose.override.yaml by now")
	}
	folder := t.TempDir()
	if err := os.CopyFS(filepath.Join(folder, "compose"), os.DirFS(filepath.Join(deploy, "compose"))); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(folder, "compose.override.yaml")
	if err := os.WriteFile(file, override[1], 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, ".env"), []byte("NAMEBRIDGE_IMAGE=namebridge:v1.2.3\nBRIDGES=acme,globex\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := load(t.Context(), folder, filepath.Join(deploy, "compose.yaml"), file)
	if err != nil {
		t.Fatal(err)
	}
	s := p.Services["namebridge"]
	for name, want := range map[string]string{
		"BRIDGES": "acme,globex", "GLOBEX_NAMECOACH_TOKEN_FILE": "/run/secrets/globex_namecoach_token", "NAMECOACH_TOKEN_FILE": "/run/secrets/namecoach_token",
	} {
		if got := s.Environment[name]; got == nil || *got != want {
			t.Errorf("%s is %v, want %s", name, got, want)
		}
	}
	if len(s.Secrets) != 4 {
		t.Errorf("the secrets are %v, want one more than the three that are there", s.Secrets)
	}
}

func TestComposeRunsPinnedImagesThatAreOpenToThisMachineAlone(t *testing.T) {
	t.Parallel()
	p := project(t, nil)
	if got := p.ServiceNames(); !slices.Equal(slices.Sorted(slices.Values(got)), []string{"grafana", "namebridge", "postgres", "prometheus"}) {
		t.Errorf("the services are %v", got)
	}
	version := regexp.MustCompile(`:v?\d+(\.\d+)+$`)
	for name, s := range p.Services {
		if !version.MatchString(s.Image) {
			t.Errorf("%s: the image %s has no version", name, s.Image)
		}
		if !slices.Contains(s.SecurityOpt, "no-new-privileges:true") || s.Privileged || len(s.CapAdd) > 0 {
			t.Errorf("%s may become more than it is", name)
		}
		for _, port := range s.Ports {
			if ip := net.ParseIP(port.HostIP); ip == nil || !ip.IsLoopback() {
				t.Errorf("%s: port %d is open to the network", name, port.Target)
			}
		}
		for _, v := range s.Volumes {
			if v.Type != types.VolumeTypeBind {
				continue
			}
			source := strings.Replace(v.Source, p.WorkingDir, deploy, 1)
			if _, err := os.Stat(source); err != nil || !v.ReadOnly {
				t.Errorf("%s: %s is mounted, read-only %v; %v", name, v.Source, v.ReadOnly, err)
			}
		}
		monitors := name == "prometheus" || name == "grafana"
		if monitors != slices.Equal(s.Profiles, []string{"monitoring"}) {
			t.Errorf("%s has the profiles %v", name, s.Profiles)
		}
	}
	s := p.Services["namebridge"]
	if !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || s.User != user || len(s.Volumes) > 0 || len(s.Tmpfs) > 0 {
		t.Errorf("namebridge: read-only %v, without %v, user %s, volumes %v", s.ReadOnly, s.CapDrop, s.User, s.Volumes)
	}
	if stop := time.Duration(*s.StopGracePeriod); stop < 25*time.Second {
		t.Errorf("namebridge is killed after %v, and takes 25 s to end what it does", stop)
	}
	if n := p.Networks["database"]; !n.Internal || len(p.Services["postgres"].Networks) != 1 || len(p.Services["postgres"].Ports) > 0 {
		t.Error("Postgres can be reached by others than namebridge")
	}
}

// What Prometheus and Grafana find where compose.yaml mounts it: everything that their files name is there.
func TestMonitoringFindsTheDaemonTheAlertsAndTheDashboards(t *testing.T) {
	t.Parallel()
	p := project(t, nil)
	mounted := map[string]string{} // in a container → here
	for _, name := range []string{"prometheus", "grafana"} {
		for _, v := range p.Services[name].Volumes {
			mounted[v.Target] = strings.Replace(v.Source, p.WorkingDir, deploy, 1)
		}
	}
	read := func(path string) string {
		t.Helper()
		text, err := os.ReadFile(mounted[path])
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		return string(text)
	}

	// promtool, as if it were in the container.
	const inContainer = "/etc/prometheus/alerts.yaml"
	alerts, err := filepath.Abs(mounted[inContainer])
	if err != nil {
		t.Fatal(err)
	}
	text := read("/etc/prometheus/prometheus.yml")
	if !strings.Contains(text, inContainer) || !strings.Contains(text, `"namebridge:8080"`) {
		t.Errorf("prometheus.yml does not read the alerts or does not scrape the daemon\n%s", text)
	}
	file := filepath.Join(t.TempDir(), "prometheus.yml")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(text, inContainer, alerts)), 0o600); err != nil {
		t.Fatal(err)
	}
	output, err := exec.CommandContext(t.Context(), "promtool", "check", "config", file).CombinedOutput()
	if err != nil || !strings.Contains(string(output), "rules found") {
		t.Errorf("promtool check config: %v (tools/prometheus.sh gets it)\n%s", err, output)
	}

	provider := read("/etc/grafana/provisioning/dashboards/namebridge.yml")
	const dashboards = "/etc/namebridge/dashboards"
	if !strings.Contains(provider, "path: "+dashboards+"\n") {
		t.Errorf("Grafana looks elsewhere than in %s\n%s", dashboards, provider)
	}
	found, err := filepath.Glob(filepath.Join(mounted[dashboards], "*.json"))
	if err != nil || len(found) != 2 {
		t.Errorf("the dashboards are %v (%v), want two", found, err)
	}
	if source := read("/etc/grafana/provisioning/datasources/namebridge.yml"); !strings.Contains(source, "url: http://prometheus:9090\n") {
		t.Errorf("Grafana asks somebody else than Prometheus\n%s", source)
	}
	if file := p.Services["grafana"].Environment["GF_SECURITY_ADMIN_PASSWORD__FILE"]; file == nil || *file != "/run/secrets/"+p.Services["grafana"].Secrets[0].Source {
		t.Error("Grafana's password is not the one that was made")
	}
}

func TestTheSecretsAreMadeOnceAndKept(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	if err := os.CopyFS(filepath.Join(folder, "compose"), os.DirFS(filepath.Join(deploy, "compose"))); err != nil {
		t.Fatal(err)
	}
	first := secrets(t, folder, "token 1", "it's $a \\ \"password\"")
	before := contents(t, filepath.Join(folder, "compose", "secrets"))
	if again := secrets(t, folder, "token 2", ""); !strings.Contains(first, "made namecoach_token bln_password postgres_password database_url grafana_password") ||
		!strings.Contains(again, "all there already") {
		t.Errorf("it says\n%s%s", first, again)
	}
	after := contents(t, filepath.Join(folder, "compose", "secrets"))
	for name := range after {
		if string(before[name]) != string(after[name]) {
			t.Errorf("%s is another by now", name)
		}
		info, err := os.Stat(filepath.Join(folder, "compose", "secrets", name))
		if err != nil || info.Mode().Perm() != 0o444 {
			t.Errorf("%s: %v, %v; services run as users of their own", name, info.Mode(), err)
		}
	}
	if got := string(after["namecoach_token"]); got != "token 1" {
		t.Errorf("the token is %q", got)
	}
	if got := string(after["bln_password"]); got != "it's $a \\ \"password\"" {
		t.Errorf("the password is %q", got)
	}
	if url := string(after["database_url"]); !strings.Contains(url, ":"+string(after["postgres_password"])+"@postgres:5432/") || len(after["postgres_password"]) != 48 {
		t.Errorf("the database is %s", url)
	}
	info, err := os.Stat(filepath.Join(folder, "compose", "secrets"))
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder: %v, %v; nobody else on the machine may read them", info.Mode(), err)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(folder, "compose", "secrets.sh"))
	if err := os.Remove(filepath.Join(folder, "compose", "secrets", "bln_password")); err != nil {
		t.Fatal(err)
	}
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	if output, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(output), "BLN_PASSWORD is not set") {
		t.Errorf("without a password: %v\n%s", err, output)
	}
}
