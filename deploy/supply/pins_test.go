// Package supply holds tests of what a release is made of: that everything from elsewhere is named by a version, that the runners have what the tests need,
// and that the notes and versions of a release agree.
package supply

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	action      = regexp.MustCompile(`^\s*-?\s*["']?uses["']?:\s*["']?([^\s"'#]+)["']?\s*(#.*)?$`)
	pinned      = regexp.MustCompile(`^[\w.-]+/[\w./-]+@[0-9a-f]{40}$`)
	saidVersion = regexp.MustCompile(`^# v\d+\.\d+\.\d+$`)
	image       = regexp.MustCompile(`^\s*-?\s*["']?image["']?:\s*["']?([^\s"'#]+)["']?`)
	from        = regexp.MustCompile(`^\s*FROM\s+(?:--\S+\s+)?(\S+)`)
	exact       = regexp.MustCompile(`(:v?\d+\.\d+(\.\d+)?([-.][\w.-]+)?|@sha256:[0-9a-f]{64})$`)
	runner      = regexp.MustCompile(`^\s*["']?(runs-on|os)["']?:.*-latest\b`)
	moving      = regexp.MustCompile(`[\w./-]+(@|:)(latest|main|master|HEAD|head|edge|nightly)\b`)
	download    = regexp.MustCompile(`https://\S+/(latest|main|master|HEAD)(/|\b)`)
	goRun       = regexp.MustCompile(`\bgo (?:run|install|get)(?: -\S+)* ([\w-]+\.[\w.-]+/[^\s@]+)(@\S+)?`)
	npm         = regexp.MustCompile(`\b(npx|npm (install|i|exec))\b`)
	npmVersion  = regexp.MustCompile(`@(\d|\$)`)
)

// moved says what of a file may be another version tomorrow, a line each. (What stands behind a version may be built anew where there is no hash.)
func moved(text string) (all []string) {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		say := func(what string) {
			all = append(all, fmt.Sprintf("line %d: %s: %s", i+1, what, strings.TrimSpace(line)))
		}
		if m := action.FindStringSubmatch(line); m != nil && !strings.HasPrefix(m[1], "./") {
			switch {
			case strings.HasPrefix(m[1], "docker://"):
				if !strings.Contains(m[1], "@sha256:") {
					say("an action's image without its digest")
				}
			case !pinned.MatchString(m[1]):
				say("an action without the hash of its commit")
			case !saidVersion.MatchString(strings.TrimSpace(m[2])):
				say("an action whose version is not said after its hash (# v1.2.3)")
			}
			continue
		}
		for _, kind := range []*regexp.Regexp{image, from} {
			m := kind.FindStringSubmatch(line)
			if m == nil || m[1] == "scratch" || strings.ContainsAny(m[1], "{}$|&*") { // what a template or a variable says
				continue
			}
			if !exact.MatchString(m[1]) {
				say("an image without a whole version or a digest")
			}
		}
		if runner.MatchString(line) {
			say("a runner that changes")
		}
		if moving.MatchString(line) || download.MatchString(line) {
			say("a name that moves")
		}
		for _, m := range goRun.FindAllStringSubmatch(line, -1) {
			if !strings.HasPrefix(m[2], "@v") {
				say("a Go program without a version")
			}
		}
		command := line
		for next := i; strings.HasSuffix(command, "\\") && next+1 < len(lines); {
			next++
			command = strings.TrimSuffix(command, "\\") + lines[next]
		}
		if npm.MatchString(line) && !npmVersion.MatchString(command) {
			say("an npm package without a version")
		}
	}
	return all
}

func TestNothingIsNamedByATagThatMoves(t *testing.T) {
	t.Parallel()
	const root = "../.."
	read := 0
	look := func(path string) {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.IndexByte(raw[:min(len(raw), 8000)], 0) >= 0 { // a picture
			return
		}
		read++
		for _, problem := range moved(string(raw)) {
			t.Errorf("%s: %s", strings.TrimPrefix(path, root+"/"), problem)
		}
	}
	for _, folder := range []string{"deploy", ".github", "tools"} {
		err := filepath.WalkDir(filepath.Join(root, folder), func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && (path == root+"/deploy/supply" || slices.Contains([]string{"testdata", "node_modules", "schemas"}, d.Name())):
				return fs.SkipDir // this test's own examples, and what others have published
			case d.Type().IsRegular() && d.Name() != "go.sum":
				look(path)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"Makefile", ".ci/run"} {
		look(filepath.Join(root, file))
	}
	if read < 30 {
		t.Errorf("only %d files were found", read)
	}
}

func TestWhatMovesIsFound(t *testing.T) {
	t.Parallel()
	hash, digest := strings.Repeat("0a", 20), strings.Repeat("0a", 32)
	for line, tells := range map[string]string{
		"      - uses: actions/checkout@v4":                               "without the hash",
		"      - uses: actions/checkout@v4.2.2":                           "without the hash",
		"      - uses: actions/checkout@main":                             "without the hash",
		"        uses: actions/checkout":                                  "without the hash",
		`      - "uses": "actions/checkout@v4"`:                           "without the hash",
		"      - uses: actions/checkout@" + hash:                          "version is not said",
		"      - uses: actions/checkout@" + hash + " # newest":            "version is not said",
		"      - uses: actions/checkout@" + hash[1:] + " # v4.2.2":        "without the hash",
		"      - uses: docker://alpine:3.20":                              "without its digest",
		"    runs-on: ubuntu-latest":                                      "a runner that changes",
		"    image: postgres":                                             "without a whole version",
		"    image: postgres:18":                                          "without a whole version",
		"    image: registry.example:5000/postgres":                       "without a whole version",
		"    image: prom/prometheus:latest":                               "without a whole version",
		`  - image: "grafana/grafana:main"`:                               "without a whole version",
		"FROM golang:alpine":                                              "without a whole version",
		"FROM --platform=linux/amd64 golang:1 AS build":                   "without a whole version",
		"	go run golang.org/x/vuln/cmd/govulncheck@latest ./...":          "a name that moves",
		"	go install golang.org/x/vuln/cmd/govulncheck ./...":             "a Go program without a version",
		"	npx --yes prettier .":                                           "an npm package without a version",
		"	npm install --silent prettier":                                  "an npm package without a version",
		"curl -fsSL https://raw.githubusercontent.com/a/b/main/x.sh":      "a name that moves",
		"curl -LO https://github.com/a/b/releases/latest/download/b.tgz":  "a name that moves",
		"crane push bin/image/oci registry.example/namebridge:latest":     "a name that moves",
		"helm pull oci://registry.example/charts/namebridge:edge --untar": "a name that moves",
	} {
		if problems := moved("first\n" + line + "\n"); len(problems) == 0 || !strings.HasPrefix(problems[0], "line 2: ") || !strings.Contains(problems[0], tells) {
			t.Errorf("%s: %q, want %q", line, problems, tells)
		}
	}
	for _, line := range []string{
		"      - uses: actions/checkout@" + hash + " # v4.2.2", "      - uses: ./.github/actions/ours", "      - uses: docker://alpine@sha256:" + digest,
		"    runs-on: ubuntu-24.04", "    image: postgres:18.6", "    image: prom/prometheus:v3.14.0", "    image: postgres:18.6-bookworm",
		"    image: registry.example:5000/postgres@sha256:" + digest, `          image: "namebridge:0.1.0"`, "    image: ${NAMEBRIDGE_IMAGE:?set it}",
		`          image: {{ include "namebridge.image" . }}`, "image:", "FROM scratch", "FROM golang:1.26.1", "	go run golang.org/x/vuln/cmd/govulncheck@v1.3.0 ./...",
		"	go run ./internal/postgres/where", "	npm install --silent --prefix \"$PWD/x\" \"$package@$package_version\"", "	npx prettier@3.6.2 .", "	npm install --silent \\\n\t\t\"$package@$package_version\" >/dev/null", "the latest answer", "on main",
	} {
		if problems := moved(line); len(problems) > 0 {
			t.Errorf("%s: %q", line, problems)
		}
	}
}
