package supply

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// checkout is one in small: what the script reads, and the script.
func checkout(t *testing.T, version, appVersion, changelog string) string {
	t.Helper()
	script, err := os.ReadFile("../../tools/release-notes.sh")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, content := range map[string]string{
		"tools/release-notes.sh":             string(script),
		"CHANGELOG.md":                       changelog,
		"deploy/chart/namebridge/Chart.yaml": "apiVersion: v2\nname: namebridge\nversion: " + version + "\nappVersion: \"" + appVersion + "\"\nkubeVersion: \">=1.27.0-0\"\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const changelog = `# Changelog

For operators.

## Unreleased

- not out yet

## 1.10.0 (2026-12-01)

What is new:

- one
- ` + "`two`, and \"$(three)\"" + `

## 1.1.0

- older

## 1.0.0
`

func TestReleaseNotesAreTheSectionOfTheVersion(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]string{
		"v1.10.0": "What is new:\n\n- one\n- `two`, and \"$(three)\"\n",
		"1.1.0":   "- older\n",
	} {
		plain := strings.TrimPrefix(version, "v")
		command := exec.CommandContext(t.Context(), "bash", "tools/release-notes.sh", version)
		command.Dir = checkout(t, plain, plain, changelog)
		out, err := command.CombinedOutput()
		if err != nil || string(out) != want {
			t.Errorf("%s: %v, %q, want %q", version, err, out, want)
		}
	}
}

func TestAReleaseThatIsNotReadyHasNoNotes(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ version, chart, app, tells string }{
		"no version":           {"", "1.1.0", "1.1.0", "Usage"},
		"no such thing":        {"latest", "1.1.0", "1.1.0", "no version such as"},
		"too short":            {"1.1", "1.1", "1.1", "no version such as"},
		"a pattern":            {"1.1.0.*", "1.1.0", "1.1.0", "no version such as"},
		"the chart is older":   {"1.1.0", "1.0.0", "1.1.0", `version in deploy/chart/namebridge/Chart.yaml is "1.0.0", not 1.1.0`},
		"the program is older": {"1.1.0", "1.1.0", "1.0.0", `appVersion in deploy/chart/namebridge/Chart.yaml is "1.0.0", not 1.1.0`},
		"no section":           {"1.2.0", "1.2.0", "1.2.0", `no section "## 1.2.0"`},
		"nothing in it":        {"1.0.0", "1.0.0", "1.0.0", `nothing stands in it`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			command := exec.CommandContext(t.Context(), "bash", "tools/release-notes.sh", test.version)
			command.Dir = checkout(t, test.chart, test.app, changelog)
			var stdout strings.Builder
			var stderr strings.Builder
			command.Stdout, command.Stderr = &stdout, &stderr
			err := command.Run()
			if err == nil || stdout.Len() > 0 || !strings.Contains(stderr.String(), test.tells) {
				t.Errorf("%v, it says %q and %q, want %q", err, stdout.String(), stderr.String(), test.tells)
			}
		})
	}
}

// Between two releases the chart carries the version of the next, or of the last.
func TestTheChartHasTheVersionOfTheProgram(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../chart/namebridge/Chart.yaml")
	if err != nil {
		t.Fatal(err)
	}
	version, app := "", ""
	for line := range strings.Lines(string(raw)) {
		if v, ok := strings.CutPrefix(line, "version: "); ok {
			version = strings.Trim(v, "\" \n")
		}
		if v, ok := strings.CutPrefix(line, "appVersion: "); ok {
			app = strings.Trim(v, "\" \n")
		}
	}
	if version == "" || version != app {
		t.Errorf("version %q, appVersion %q", version, app)
	}
}
