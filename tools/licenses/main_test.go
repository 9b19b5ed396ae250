package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/licenseclassifier/v2/assets"
)

// licence is the text of a licence that a module of ours is under, or of one that none may be.
func licence(t *testing.T, name string) string {
	t.Helper()
	raw, err := assets.ReadLicenseFile("License/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// of makes a module of files.
func of(t *testing.T, files map[string]string) *module {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return &module{path: "example.org/x", version: "v1.0.0", dir: dir, folders: []string{dir, filepath.Join(dir, "inner")}}
}

func TestWhatMayNotBeLinkedInIsRefused(t *testing.T) {
	t.Parallel()
	mit, gpl := licence(t, "MIT/pristine.txt"), licence(t, "GPL-3.0/license.txt")
	for name, test := range map[string]struct {
		files map[string]string
		tells string
	}{
		"a licence that is not allowed":  {map[string]string{"LICENSE": gpl, "inner/a.go": ""}, "GPL-3.0, which is not allowed"},
		"one of two that is not":         {map[string]string{"LICENSE": mit + "\n\n" + gpl, "inner/a.go": ""}, "GPL-3.0, which is not allowed"},
		"code that was taken over":       {map[string]string{"LICENSE": mit, "inner/LICENSE.txt": gpl}, "GPL-3.0, which is not allowed"},
		"the licence under another name": {map[string]string{"COPYING": gpl, "inner/a.go": ""}, "GPL-3.0, which is not allowed"},
		"none":                           {map[string]string{"README": mit, "inner/a.go": ""}, "it has no licence"},
		"only a notice":                  {map[string]string{"NOTICE": "made by us", "inner/a.go": ""}, "it has no licence"},
		"one that nobody knows":          {map[string]string{"LICENSE": "Ask first.", "inner/a.go": ""}, "no licence that is known"},
		"one that is known, and one not": {map[string]string{"LICENSE": mit, "LICENSE.extra": "Ask first.", "inner/a.go": ""}, "no licence that is known"},
		"a folder that is not there":     {map[string]string{"LICENSE": mit}, "inner"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			page, err := write([]*module{of(t, test.files)})
			if err == nil || !strings.Contains(err.Error(), test.tells) || page != nil {
				t.Errorf("it says %v, want %q", err, test.tells)
			}
		})
	}
}

func TestEveryTextComesAlongOnce(t *testing.T) {
	t.Parallel()
	apache := licence(t, "Apache-2.0/pristine.txt")
	one := of(t, map[string]string{"LICENSE": apache, "NOTICE": "Made by the people of X.", "inner/LICENSE": licence(t, "MIT/pristine.txt")})
	two := of(t, map[string]string{"LICENSE": apache, "inner/a.go": ""})
	two.path = "example.org/y"
	page, err := write([]*module{one, two})
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{
		"| example.org/x | v1.0.0 | Apache-2.0, MIT |\n", "| example.org/y | v1.0.0 | Apache-2.0 |\n",
		"\n## example.org/x · example.org/y\n", "Made by the people of X.", "Permission is hereby granted",
	} {
		if n := strings.Count(string(page), part); n != 1 {
			t.Errorf("%d times %q", n, part)
		}
	}
}

func TestAPageThatIsNotCurrentIsSaidAndLeft(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "licenses.md")
	if err := run("../..", file, true); err == nil || !strings.Contains(err.Error(), "make generate") {
		t.Errorf("where there is none: %v", err)
	}
	if err := run("../..", file, false); err != nil {
		t.Fatal(err)
	}
	if err := run("../..", file, true); err != nil {
		t.Errorf("right after it was written: %v", err)
	}
	if err := os.WriteFile(file, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run("../..", file, true); err == nil {
		t.Error("an old page passes")
	}
	if now, err := os.ReadFile(file); err != nil || string(now) != "old" {
		t.Errorf("a check has written: %q, %v", now, err)
	}
}
