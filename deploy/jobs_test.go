//go:build deploy

package deploy

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Its name says everything of a Job that cannot be changed: else an upgrade would fail.
func TestAJobWithAnotherPodHasAnotherName(t *testing.T) {
	t.Parallel()
	const backfill = chart + "/ci/backfill.yaml"
	first := kind(t, render(t, backfill, ""), "Job")[0]
	if len(first.name()) > 63 {
		t.Errorf("the name %s is too long", first.name())
	}
	names := map[string]string{first.name(): "as it was"}
	for _, values := range []string{
		"image: {tag: v2}", "env: {LOG_LEVEL: debug}", "backfill: {since: '2026-10-01'}", "backfill: {run: again}", "podLabels: {team: a}", "podAnnotations: {a: b}",
		"resources: {limits: {memory: 1Gi}}", "nodeSelector: {a: b}",
	} {
		job := kind(t, render(t, backfill, values), "Job")[0]
		if same := names[job.name()]; same != "" {
			t.Errorf("%s: the Job has the same name as %s", values, same)
		}
		names[job.name()] = values
	}
	// One that failed for a wrong password would otherwise stay failed.
	created := func(values string) object {
		return kind(t, render(t, chart+"/ci/secret-created.yaml", "backfill: {enabled: true}\n"+values), "Job")[0]
	}
	if corrected := created("secret: {values: {NAMECOACH_TOKEN: corrected}}"); corrected.name() == created("").name() {
		t.Error("a corrected secret begins no other backfill")
	}
	for _, values := range []string{"replicas: 5", "networkPolicy: {enabled: false}", "monitoring: {serviceMonitor: {enabled: true}}"} {
		if same := kind(t, render(t, backfill, values), "Job")[0]; !cmp.Equal(same, first) {
			t.Errorf("%s begins another backfill", values)
		}
	}
}

func TestABackfillNamesItsBridge(t *testing.T) {
	t.Parallel()
	args := func(extra string) (all []string) {
		for _, job := range kind(t, render(t, chart+"/ci/backfill.yaml", extra), "Job") {
			_, spec, _ := job.pod()
			all = append(all, fmt.Sprint(container(spec)["args"]))
		}
		return all
	}
	if diff := cmp.Diff([]string{"[backfill --output=json --since=2026-09-01 --bridge=globex]"}, args("")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"[backfill --output=json --bridge=acme]", "[backfill --output=json --bridge=globex]"}, args("backfill: {bridges: [], since: ''}")); diff != "" {
		t.Error(diff)
	}
}

// By the contract's exit codes: 2 is a wrong configuration, 3 a halt or a quarantine. 1 and 4 end better the next time.
func TestOnlyWhatAnotherTryMendsIsTriedAgain(t *testing.T) {
	t.Parallel()
	job := kind(t, render(t, chart+"/ci/backfill.yaml", ""), "Job")[0]
	want := "[map[action:FailJob onExitCodes:map[containerName:namebridge operator:In values:[2 3]]] map[action:Ignore onPodConditions:[map[status:True type:DisruptionTarget]]]]"
	if got := fmt.Sprint(at(job, "spec", "podFailurePolicy", "rules")); got != want {
		t.Errorf("%s\nwant %s", got, want)
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
