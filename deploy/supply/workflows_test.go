package supply

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// A runner of Ubuntu 24.04 is no root, lets no user have a namespace of its own, and has lists of packages that may be weeks old: whatever make test-deploy
// needs of these is there before it.
func TestTheRunnersAreReadyForWhatTheTestsNeed(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../.github/workflows/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	ready := 0
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var workflow struct {
			Jobs map[string]struct {
				Steps []struct{ Run string }
			}
		}
		if err := yaml.Unmarshal(raw, &workflow); err != nil {
			t.Fatal(err)
		}
		for name, job := range workflow.Jobs {
			before := ""
			for _, step := range job.Steps {
				for line := range strings.Lines(step.Run) {
					var needs []string
					line = strings.TrimSpace(line)
					switch {
					case slices.Contains([]string{"make ci", "make test-deploy"}, line):
						needs = append(needs, "sudo apt-get update", "sudo sysctl --write kernel.apparmor_restrict_unprivileged_userns=0")
					case strings.Contains(line, "apt-get install") || strings.Contains(line, "apt-get download"):
						needs = append(needs, "sudo apt-get update")
					}
					for _, need := range needs {
						if !strings.Contains(before, need+"\n") {
							t.Errorf("%s, job %s: no `%s` before `%s`", filepath.Base(file), name, need, line)
						}
						ready++
					}
					before += line + "\n"
				}
			}
		}
	}
	if ready < 5 {
		t.Errorf("%d needs were found, and they were five", ready)
	}
}
