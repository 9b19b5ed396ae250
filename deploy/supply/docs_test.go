package supply

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What the threat model says is only as good as the test that holds it.
func TestTheThreatModelNamesWhatThereIs(t *testing.T) {
	t.Parallel()
	const root = "../.."
	tests, settings := map[string]bool{}, ""
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != root:
			return fs.SkipDir
		case strings.HasSuffix(path, "_test.go"):
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, m := range declared.FindAllSubmatch(raw, -1) {
				tests[string(m[1])] = true
			}
		case path == root+"/README.md", path == root+"/deploy/chart/namebridge/values.yaml":
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			settings += string(raw)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	quoted := regexp.MustCompile("`([^`\n]+)`")
	for page, atLeast := range map[string]int{"security.md": 50, "upgrading.md": 2, "releasing.md": 1} {
		text, err := os.ReadFile(filepath.Join(root, "docs", page))
		if err != nil {
			t.Fatal(err)
		}
		named := 0
		for _, m := range quoted.FindAllSubmatch(text, -1) {
			word := string(m[1])
			switch {
			case regexp.MustCompile(`^(Test|Fuzz)[A-Z]\w+$`).MatchString(word):
				named++
				if !tests[word] {
					t.Errorf("docs/%s: there is no %s", page, word)
				}
			case regexp.MustCompile(`^[a-z]\w*(/[\w.]+)*\.(go|sh|md|yaml)$`).MatchString(word) && strings.Contains(word, "/"):
				if _, err := os.Stat(filepath.Join(root, word)); err != nil {
					t.Errorf("docs/%s: there is no %s", page, word)
				}
			case regexp.MustCompile(`^[A-Z]+_[A-Z_]+$`).MatchString(word) && word != "HTTPS_PROXY":
				if !strings.Contains(settings, word) {
					t.Errorf("docs/%s: there is no variable %s", page, word)
				}
			}
		}
		if named < atLeast {
			t.Errorf("docs/%s names %d tests, which were %d", page, named, atLeast)
		}
	}
}

// One command, one spelling: the image has its program on the PATH.
func TestTheProgramIsCalledByItsNameEverywhere(t *testing.T) {
	t.Parallel()
	const root = "../../docs"
	read := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".md") {
			return err
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		read++
		if line := regexp.MustCompile(`.* /namebridge [a-z].*`).Find(raw); line != nil {
			t.Errorf("%s: %s", strings.TrimPrefix(path, root+"/"), line)
		}
		return nil
	})
	if err != nil || read < 20 {
		t.Errorf("%d pages were read: %v", read, err)
	}
}
