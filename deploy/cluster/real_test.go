//go:build cluster

package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"namebridge/internal/postgres/testdb"
	"namebridge/internal/simulator"
)

// program builds the real one, where a pod's user may run it.
var program = sync.OnceValues(func() (string, error) {
	file := shared.path("namebridge")
	command := exec.Command("go", "build", "-o", file, "namebridge/cmd/namebridge")
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build namebridge: %w\n%s", err, out)
	}
	return file, nil
})

// site is the chart installed on the real node: its pods are processes of this machine, on a real Postgres and simulated servers.
type site struct {
	*release
	*simulator.Simulator
	kubelet *kubelet
	values  map[string]any
}

func (s *site) file() string {
	s.t.Helper()
	content, err := json.Marshal(s.values)
	if err != nil {
		s.t.Fatal(err)
	}
	file := filepath.Join(s.t.TempDir(), "values.yaml")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		s.t.Fatal(err)
	}
	return file
}

// set sets a value of the chart's and has the release follow.
func (s *site) set(name string, value any, args ...string) {
	s.t.Helper()
	s.values[name] = value
	s.upgrade(append(args, "--values", s.file())...)
}

func newSite(t *testing.T, namespace string, o simulator.Options) *site {
	t.Helper()
	sim, err := simulator.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := sim.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sim.Close() })
	s := &site{release: newRelease(t, namespace), Simulator: sim}
	// As docs/kubernetes.md has it. The database is empty: the first daemon migrates it.
	s.kubectl("create", "secret", "generic", "namebridge", "--from-literal", "DATABASE_URL="+testdb.URL(t, nil),
		"--from-literal", "NAMECOACH_TOKEN="+sim.Token(), "--from-literal", "BLN_PASSWORD="+sim.Password())
	s.values = map[string]any{
		"env": map[string]any{
			"BLN_ORGANIZATION_ID": sim.OrganizationID(), "BLN_USERNAME": sim.Username(), "BLN_URL": sim.BLNURL(), "NAMECOACH_URL": sim.NameCoachURL(),
			"COLLECT_SCHEDULE": "@every 2s", "WINDOW_SETTLE": "0s", "WINDOW_LOOKBACK": "5s", "BLN_REQUESTS_PER_SECOND": 1000,
		},
		"secret":       map[string]any{"existing": "namebridge"},
		"nodeSelector": map[string]any{"pool": realNode},
		"tolerations":  []any{map[string]any{"key": "pool", "value": realNode}},
	}
	file, err := program()
	if err != nil {
		t.Fatal(err)
	}
	s.kubelet = newKubelet(t, s.namespace, file)
	return s
}

// right waits until BLN has what NameCoach says.
func (s *site) right(when string) {
	s.t.Helper()
	eventually(s.t, "BLN is right "+when, func() error {
		if wrong := s.Mismatches(1); len(wrong) > 0 {
			return errors.New(wrong[0])
		}
		return nil
	})
}

// Nothing is pretended here but the container and its network: Ready means that /readyz has answered, and a Job is complete when its process says so.
func TestWhatTheServerHandsOutIsABridgeAtWork(t *testing.T) {
	t.Parallel()
	s := newSite(t, "real", simulator.Options{Seed: 41, Users: 60})
	s.install("--values", s.file())
	first := s.names()
	if len(first) != 2 {
		t.Fatalf("the daemons are %v", first)
	}
	s.right("after the installation")

	s.helm("test", patient)
	const doctor = "namebridge-doctor"
	if log := s.kubelet.log(doctor); !strings.Contains(log, "ok ") || strings.Contains(log, "problem ") {
		t.Errorf("the doctor said %s", log)
	}

	fewest := s.watch()
	for _, p := range s.Participants() {
		if p.RecordingID == "" {
			continue
		}
		s.UpdateParticipant(p.ID, func(p *simulator.Participant) {
			p.RecordingID += "2" // by which a recording is told
			p.RecordingLink = strings.Replace(p.RecordingLink, ".mp3", "2.mp3", 1)
		})
	}
	s.set("backfill", map[string]any{"enabled": true}, "--wait-for-jobs")
	s.same(first, "after a backfill was asked for")
	job := s.list("pods", "app.kubernetes.io/component=backfill")[0].Metadata.Name
	if log := s.kubelet.log(job); !strings.Contains(log, `"status":"done"`) && !strings.Contains(log, `"status": "done"`) {
		t.Errorf("the backfill said %s", log)
	}
	s.right("after the backfill")

	s.set("backfill", map[string]any{"enabled": false})
	from := map[string]any{}
	for _, name := range []string{"DATABASE_URL", "NAMECOACH_TOKEN", "BLN_PASSWORD"} {
		from[name] = map[string]any{"name": "namebridge", "key": name}
	}
	s.set("secret", map[string]any{"from": from, "asFiles": true})
	s.replaced(first)
	second := s.names()
	for name, spec := range s.daemons() {
		if c := spec.Containers[0]; len(c.VolumeMounts) != 1 || len(c.EnvFrom) > 0 {
			t.Errorf("%s has its secrets in the environment", name)
		}
	}
	s.helm("rollback", "1", "--wait", patient)
	s.replaced(second)
	if n := fewest(); n < 2 {
		t.Errorf("only %d daemons were ready for a while", n)
	}
	s.right("after all daemons were replaced twice")

	s.kubectl("patch", "secret", "namebridge", "--patch", `{"stringData": {"BLN_PASSWORD": "of yesterday"}}`)
	if out, err := shared.command(t.Context(), "", "helm", "test", s.name, "--namespace", s.namespace, patient); err == nil {
		t.Errorf("the test succeeds with a wrong password: %s\n%s", out, s.kubelet.log(doctor))
	}
	s.uninstall("secret/namebridge", "pod/"+doctor) // as docs/kubernetes.md says
}

func TestABackfillOfAHaltedBridgeFailsAtOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t, "halted", simulator.Options{Seed: 42, Users: 60, DropForeignKeyOnPut: simulator.Tamper{Every: 1}})
	s.values["backfill"] = map[string]any{"enabled": true}
	s.helm("install", chart, "--values", s.file()) // which would fail with the Job if it waited
	eventually(t, "the Job fails, and is not tried again", func() error {
		job := s.list("jobs", "")[0]
		status := decode[podStatus](t, job.Status)
		for _, c := range status.Conditions {
			if c.Type == "Failed" && c.Status == "True" && c.Reason == "PodFailurePolicy" && strings.Contains(c.Message, "exit code 3") {
				return nil
			}
		}
		return fmt.Errorf("it is %+v", status)
	})
	s.uninstall("secret/namebridge")
}
