// Command licenses reads the licence of everything that is linked into the two programs, refuses one that is not allowed, and writes docs/licenses.md:
// what is linked in, under which licence, and the text of each licence, which a copy of the programs has to come with.
package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	classifier "github.com/google/licenseclassifier/v2"
	"github.com/google/licenseclassifier/v2/assets"
)

// allowed are the licences under which something may be linked in: each lets it be given on as a part of a program under the Apache License 2.0, as
// long as its text comes along (for MPL-2.0 so that the source can be had, too; the Unlicense gives everything up).
var allowed = []string{"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MPL-2.0", "Unlicense"}

// linked are the programs and the platforms that are released: what is linked in depends on both.
var (
	programs      = []string{"./cmd/namebridge", "./cmd/namebridge-demo"}
	architectures = []string{"amd64", "arm64"}
)

func main() {
	source := flag.String("source", ".", "the checkout")
	check := flag.Bool("check", false, "write nothing; fail where the file is not the current one")
	flag.Parse()
	if err := run(*source, filepath.Join(*source, "docs", "licenses.md"), *check); err != nil {
		fmt.Fprintln(os.Stderr, "licenses:", err)
		os.Exit(1)
	}
}

func run(source, file string, check bool) error {
	modules, err := linkedModules(source)
	if err != nil {
		return err
	}
	page, err := write(modules)
	if err != nil {
		return err
	}
	if !check {
		return os.WriteFile(file, page, 0o644)
	}
	if present, err := os.ReadFile(file); err != nil || !bytes.Equal(present, page) {
		return fmt.Errorf("%s is not what is linked in now: run make generate", file)
	}
	return nil
}

// module is what has a version, with the folders of it that are linked in.
type module struct {
	path, version, dir string
	folders            []string
}

// linkedModules are those of which a package is linked into a program, in order, Go itself first.
func linkedModules(source string) ([]*module, error) {
	found := map[string]*module{}
	for _, arch := range architectures {
		list := exec.Command("go", append([]string{"list", "-deps", "-json=Dir,Standard,Module", "-mod=readonly"}, programs...)...)
		list.Dir = source
		list.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+arch, "CGO_ENABLED=0")
		var problems strings.Builder
		list.Stderr = &problems
		out, err := list.Output()
		if err != nil {
			return nil, fmt.Errorf("go list: %w\n%s", err, problems.String())
		}
		for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
			var p struct {
				Dir      string
				Standard bool
				Module   *struct {
					Path, Version, Dir string
					Main               bool
				}
			}
			if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return nil, fmt.Errorf("go list: %w", err)
			}
			if p.Standard || p.Module == nil || p.Module.Main {
				continue
			}
			m := found[p.Module.Path]
			if m == nil {
				m = &module{path: p.Module.Path, version: p.Module.Version, dir: p.Module.Dir}
				found[m.path] = m
			}
			m.folders = append(m.folders, p.Dir)
		}
	}
	// Go has the licence of its x modules, word for word; an installed Go may come without the file.
	x := found["golang.org/x/sys"]
	if x == nil {
		return nil, errors.New("golang.org/x/sys is not linked in any more: take Go's own licence from another golang.org/x module")
	}
	all := []*module{{path: "Go's standard library and runtime", dir: x.dir, folders: []string{x.dir}}}
	return append(all, slices.SortedFunc(maps.Values(found), func(a, b *module) int { return cmp.Compare(a.path, b.path) })...), nil
}

var licenceFile = regexp.MustCompile(`(?i)^(un)?(licen[cs]e|copying|copyright|notice)([.-].*)?$`)

// notice is a file that comes along and is no licence: the Apache License 2.0 asks for it.
func notice(name string) bool {
	return strings.HasPrefix(strings.ToLower(filepath.Base(name)), "notice")
}

// licenceFiles are those beside the packages that are linked in, and above them up to the module's own folder: code that a module has taken over
// from elsewhere has its licence beside it.
func (m *module) licenceFiles() ([]string, error) {
	var files []string
	seen := map[string]bool{}
	for _, dir := range m.folders {
		for ; !seen[dir]; dir = filepath.Dir(dir) {
			seen[dir] = true
			entries, err := os.ReadDir(dir)
			if err != nil {
				return nil, err
			}
			for _, e := range entries {
				if e.Type().IsRegular() && licenceFile.MatchString(e.Name()) && filepath.Ext(e.Name()) != ".go" {
					files = append(files, filepath.Join(dir, e.Name()))
				}
			}
			if dir == m.dir {
				break
			}
		}
	}
	slices.Sort(files)
	return files, nil
}

// text is the text of a licence or notice, and whose it is.
type text struct {
	of   []string
	body string
}

// write is the page. Its error names everything that may not be linked in.
func write(modules []*module) ([]byte, error) {
	known, err := assets.DefaultClassifier()
	if err != nil {
		return nil, fmt.Errorf("the known licences: %w", err)
	}
	var table bytes.Buffer
	var texts []*text
	var problems []error
	for _, m := range modules {
		names, found, err := m.licences(known)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s %s: %w", m.path, m.version, err))
			continue
		}
		fmt.Fprintf(&table, "| %s | %s | %s |\n", m.path, m.version, strings.Join(names, ", "))
		for _, body := range found {
			i := slices.IndexFunc(texts, func(t *text) bool { return t.body == body })
			if i < 0 {
				i, texts = len(texts), append(texts, &text{body: body})
			}
			texts[i].of = append(texts[i].of, m.path)
		}
	}
	if problems != nil {
		return nil, errors.Join(problems...)
	}
	var page bytes.Buffer
	fmt.Fprintf(&page, `# Licences

namebridge is under the [Apache License 2.0](../LICENSE). This is what is linked into its two programs on Linux, and under which licence; the texts follow, and
go along with every copy of the programs. Written by %[1]smake generate%[1]s, checked by %[1]smake licenses%[1]s. Allowed are: %[2]s.

| module | version | licence |
|---|---|---|
%[3]s
The source of each is its module in that version, unchanged: %[1]sgo mod download%[1]s has it, or <https://proxy.golang.org>.
`, "`", strings.Join(allowed, ", "), table.String())
	for _, t := range texts {
		fmt.Fprintf(&page, "\n## %s\n\n````\n%s\n````\n", strings.Join(t.of, " · "), t.body)
	}
	return page.Bytes(), nil
}

// licences are the names of those that a module is under, and the texts that come along with it.
func (m *module) licences(known *classifier.Classifier) (names, texts []string, err error) {
	files, err := m.licenceFiles()
	if err != nil {
		return nil, nil, err
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, nil, err
		}
		texts = append(texts, tidy(string(raw)))
		if notice(file) {
			continue
		}
		recognized := false
		for _, match := range known.Match(raw).Matches {
			if match.MatchType != "License" {
				continue
			}
			recognized = true
			if !slices.Contains(allowed, match.Name) {
				return nil, nil, fmt.Errorf("%s is %s, which is not allowed: do without it, or say in tools/licenses/main.go why it is", file, match.Name)
			}
			names = append(names, match.Name)
		}
		if !recognized {
			return nil, nil, fmt.Errorf("%s is no licence that is known", file)
		}
	}
	if names == nil {
		return nil, nil, errors.New("it has no licence: nobody may give it on")
	}
	slices.Sort(names)
	return slices.Compact(names), texts, nil
}

// tidy leaves a text as it is but for its line ends and the space around it.
func tidy(s string) string {
	lines := strings.Split(strings.ReplaceAll(s, "\r\n", "\n"), "\n")
	for i, l := range lines {
		lines[i] = strings.TrimRight(l, " \t\f")
	}
	return strings.Trim(strings.Join(lines, "\n"), "\n")
}
