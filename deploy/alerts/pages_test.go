//go:build deploy

package alerts

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"namebridge/internal/promtest"
)

// pages are the texts of the runbooks and of their index, by file.
func pages(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob(runbooks + "/*.md")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all[filepath.Base(f)] = string(text)
	}
	return all
}

// code is what stands between backticks in a line, and the lines between fences.
func code(text string) (all []string) {
	fenced := false
	for line := range strings.Lines(text) {
		switch line = strings.TrimSpace(line); {
		case strings.HasPrefix(line, "```"):
			fenced = !fenced
		case fenced:
			all = append(all, line)
		default:
			for i, part := range strings.Split(line, "`") {
				if i%2 == 1 {
					all = append(all, part)
				}
			}
		}
	}
	return all
}

// Who was woken types what the page says: it must be a command that there is, with flags that there are.
func TestTheCommandsOfThePagesAreThoseOfTheProgram(t *testing.T) {
	t.Parallel()
	program, n := promtest.Build(t), 0
	words := regexp.MustCompile(`"[^"]*"|\S+`)
	for file, text := range pages(t) {
		for _, c := range code(text) {
			if !strings.HasPrefix(c, "namebridge ") {
				continue
			}
			c, _, _ = strings.Cut(c, "  ") // what is said about it
			args := words.FindAllString(strings.ReplaceAll(c, "USER_ID", "12"), -1)[1:]
			if code, out, log := promtest.Run(t, program, map[string]string{}, append(args, "--help")...); code != 0 || !strings.Contains(out, "Usage:") {
				t.Errorf("%s: %s: exit %d %s", file, c, code, log)
			} else if usage := "namebridge " + strings.Join(before(args, "-"), " "); !strings.Contains(out, "\n  "+usage) {
				t.Errorf("%s: %s: there is no such command:\n%s", file, c, out)
			}
			n++
		}
	}
	if n < 60 {
		t.Errorf("only %d commands were found", n)
	}
}

// before is the words of a command: what stands before its arguments and flags.
func before(args []string, flag string) (words []string) {
	for _, a := range args {
		if strings.HasPrefix(a, flag) || a != strings.ToLower(a) || regexp.MustCompile(`\d`).MatchString(a) {
			break
		}
		words = append(words, a)
	}
	return words
}

// queried asks every query of the pages, of a Prometheus that has watched healthy daemons for a while.
func queried(t *testing.T, s *site) {
	t.Helper()
	n := 0
	for file, text := range pages(t) {
		for _, c := range code(text) {
			if !regexp.MustCompile(`\bnamebridge_\w|\bprocess_\w|^up\{`).MatchString(c) || strings.HasPrefix(c, "kubectl") {
				continue
			}
			n++
			series, err := s.Query(t.Context(), c, time.Now())
			switch {
			case err != nil:
				t.Errorf("%s: %v", file, err)
			case len(series) == 0 && !strings.Contains(c, "offset 1d") && !strings.Contains(c, "429"):
				t.Errorf("%s: %s has no data", file, c)
			}
		}
	}
	if n < 40 {
		t.Errorf("only %d queries were found", n)
	}
}
