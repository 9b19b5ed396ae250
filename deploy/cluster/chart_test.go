//go:build cluster

package cluster

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"namebridge/internal/promtest"
)

const (
	chart   = checkout + "/deploy/chart/namebridge"
	minimal = chart + "/ci/minimal.yaml"

	// within is how long something may take that takes a second on an idle machine.
	within  = 2 * time.Minute
	patient = "--timeout=5m"
)

// namespace makes one that lets in restricted pods only.
func namespace(t *testing.T, name string) string {
	t.Helper()
	standard := map[string]string{"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"}
	object, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name, "labels": standard}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := shared.command(t.Context(), string(object), "kubectl", "create", "--filename", "-"); err != nil {
		t.Fatal(err)
	}
	// Controllers furnish it, and what they bring is not ours.
	eventually(t, "the namespace is furnished", func() error {
		_, err := shared.command(t.Context(), "", "kubectl", "get", "serviceaccount/default", "configmap/kube-root-ca.crt", "--namespace", name)
		return err
	})
	return name
}

func eventually(t *testing.T, what string, ok func() error) {
	t.Helper()
	promtest.Eventually(t, within, what, ok)
}

// release is the chart installed, in a namespace of its own.
type release struct {
	t               *testing.T
	namespace, name string
	before          []string // what was in the namespace
}

func newRelease(t *testing.T, what string) *release {
	t.Helper()
	return newReleaseIn(t, what+"-"+strings.ToLower(rand.Text()[:6])) // a test may run several times
}

func newReleaseIn(t *testing.T, namespaceName string) *release {
	t.Helper()
	r := &release{t: t, namespace: namespace(t, namespaceName), name: "namebridge"}
	r.before = r.inventory()
	return r
}

// helm must succeed, without a warning.
func (r *release) helm(command string, args ...string) string {
	r.t.Helper()
	out, err := shared.command(r.t.Context(), "", "helm", append([]string{command, r.name, "--namespace", r.namespace}, args...)...)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

func (r *release) install(args ...string) {
	r.t.Helper()
	r.helm("install", append([]string{chart, "--wait", patient}, args...)...)
}

func (r *release) upgrade(args ...string) {
	r.t.Helper()
	r.helm("upgrade", append([]string{chart, "--wait", patient}, args...)...)
}

func (r *release) kubectl(args ...string) string {
	r.t.Helper()
	out, err := shared.command(r.t.Context(), "", "kubectl", append(args, "--namespace", r.namespace)...)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

// object is one, as the API server has it.
type object struct {
	Kind     string
	Metadata struct {
		Name, Namespace, UID string
		Labels, Annotations  map[string]string
		DeletionTimestamp    *string
		// DeletionGracePeriodSeconds is set with DeletionTimestamp.
		DeletionGracePeriodSeconds int
	}
	Spec   json.RawMessage
	Status json.RawMessage
}

func decode[T any](t *testing.T, content []byte) (value T) {
	t.Helper()
	if err := json.Unmarshal(content, &value); err != nil {
		t.Fatalf("%v in %s", err, content)
	}
	return value
}

// list are the objects of a kind that bear the labels ("" for all).
func (r *release) list(kind, labels string) []object {
	r.t.Helper()
	return decode[struct{ Items []object }](r.t, []byte(r.kubectl("get", kind, "--output=json", "--selector="+labels))).Items
}

const daemon = "app.kubernetes.io/component=daemon"

type podStatus struct {
	Phase      string
	Conditions []condition
}

type condition struct{ Type, Status, Reason, Message string }

// daemons are the ready pods of the Deployment by name, each with its specification; none that is on its way out.
func (r *release) daemons() map[string]podSpec {
	r.t.Helper()
	ready := map[string]podSpec{}
	for _, pod := range r.list("pods", daemon) {
		isReady := slices.ContainsFunc(decode[podStatus](r.t, pod.Status).Conditions, func(c condition) bool { return c.Type == "Ready" && c.Status == "True" })
		if pod.Metadata.DeletionTimestamp == nil && isReady {
			ready[pod.Metadata.Name] = decode[podSpec](r.t, pod.Spec)
		}
	}
	return ready
}

func (r *release) names() []string { return slices.Sorted(maps.Keys(r.daemons())) }

// replaced waits until other pods than those are there, and as many.
func (r *release) replaced(before []string) {
	r.t.Helper()
	eventually(r.t, "all daemons are others", func() error {
		after := r.names()
		if len(after) != len(before) || slices.ContainsFunc(after, func(name string) bool { return slices.Contains(before, name) }) {
			return fmt.Errorf("they were %v and are %v", before, after)
		}
		return nil
	})
}

// same fails where other pods are there than those.
func (r *release) same(before []string, after string) {
	r.t.Helper()
	if diff := cmp.Diff(before, r.names()); diff != "" {
		r.t.Errorf("%s other daemons run:\n%s", after, diff)
	}
}

// inventory is all that is in the namespace, of whatever kind, but what was only reported.
func (r *release) inventory() []string {
	r.t.Helper()
	kinds := strings.Fields(r.kubectl("api-resources", "--namespaced", "--verbs=list", "--output=name"))
	kinds = slices.DeleteFunc(kinds, func(kind string) bool { // what was reported, and the former name of endpointslices
		return kind == "events" || kind == "events.events.k8s.io" || kind == "endpoints"
	})
	all := strings.Fields(r.kubectl("get", strings.Join(kinds, ","), "--output=name", "--ignore-not-found"))
	slices.Sort(all)
	return all
}

// uninstall must leave what was there before, and what is named.
func (r *release) uninstall(stays ...string) {
	r.t.Helper()
	r.helm("uninstall", "--wait", patient)
	want := append(slices.Clone(r.before), stays...)
	slices.Sort(want)
	eventually(r.t, "nothing is left", func() error {
		if diff := cmp.Diff(want, r.inventory()); diff != "" {
			return errors.New(diff)
		}
		return nil
	})
}

func TestEveryCombinationIsInstalledAndLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(chart + "/ci/*.yaml")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d files of values, %v", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRelease(t, name)
			r.install("--values", file, "--wait-for-jobs")
			deployment := r.list("deployments", daemon)[0]
			if want, got := decode[struct{ Replicas int }](t, deployment.Spec).Replicas, len(r.names()); got != want {
				t.Errorf("%d of %d daemons are ready", got, want)
			}
			r.endpoints()

			// What `helm test` would begin.
			manifest := r.helm("template", chart, "--values", file, "--show-only", "templates/tests/doctor.yaml")
			if _, err := shared.command(t.Context(), manifest, "kubectl", "create", "--dry-run=server", "--validate=strict", "--namespace", r.namespace, "--filename", "-"); err != nil {
				t.Error(err)
			}
			r.uninstall()
		})
	}
}

// endpoints fails where the Service does not lead to the port of every ready daemon.
func (r *release) endpoints() {
	r.t.Helper()
	type slice struct {
		Endpoints []struct {
			Conditions struct{ Ready bool }
			TargetRef  struct{ Name string }
		}
		Ports []struct {
			Name string
			Port int
		}
	}
	daemons := r.daemons()
	eventually(r.t, "the Service leads to all daemons", func() error {
		var ready []string
		for _, s := range decode[struct{ Items []slice }](r.t, []byte(r.kubectl("get", "endpointslices", "--output=json"))).Items {
			for _, e := range s.Endpoints {
				spec, ok := daemons[e.TargetRef.Name]
				if len(s.Ports) != 1 || !ok || !e.Conditions.Ready {
					return fmt.Errorf("it leads to %+v", s)
				}
				if want := spec.Containers[0].Ports[0]; s.Ports[0].Name != want.Name || s.Ports[0].Port != want.ContainerPort {
					return fmt.Errorf("it leads to port %+v, not %+v", s.Ports[0], want)
				}
				ready = append(ready, e.TargetRef.Name)
			}
		}
		slices.Sort(ready)
		if diff := cmp.Diff(slices.Sorted(maps.Keys(daemons)), ready); diff != "" {
			return errors.New(diff)
		}
		return nil
	})
}

// A server that takes everything would prove nothing.
func TestTheServerRefusesWhatKubernetesDoesNotKnow(t *testing.T) {
	t.Parallel()
	ns := newRelease(t, "typing-errors").namespace
	manifests, err := shared.command(t.Context(), "", "helm", "template", "namebridge", chart, "--namespace", ns, "--values", chart+"/ci/everything.yaml", "--skip-tests")
	if err != nil {
		t.Fatal(err)
	}
	try := func(manifests string) error {
		_, err := shared.command(t.Context(), manifests, "kubectl", "apply", "--server-side", "--dry-run=server", "--validate=strict", "--namespace", ns, "--filename", "-")
		return err
	}
	if err := try(manifests); err != nil {
		t.Fatal(err)
	}
	for right, wrong := range map[string]string{
		"readOnlyRootFilesystem: true":   "readonlyRootFilesystem: true",
		"maxUnavailable: 0":              "maxUnavailable: {}",
		"unhealthyPodEvictionPolicy":     "unhealthyPodEvictionPolice",
		"policyTypes: [Ingress, Egress]": "policyTypes: [Ingres]",
		"scrapeTimeout: 20s":             "scrapeTimeout: soon",
		"action: FailJob":                "action: Fail",
		"alert: ":                        "alarm: ",
	} {
		broken := strings.ReplaceAll(manifests, right, wrong)
		if broken == manifests {
			t.Errorf("%s is not rendered", right)
		} else if try(broken) == nil {
			t.Errorf("%s is let through", wrong)
		}
	}
}

func TestPodsThatAreNotRestrictedAreNotLetIn(t *testing.T) {
	t.Parallel()
	r := newRelease(t, "not-restricted")
	_, err := shared.command(t.Context(), "", "helm", "install", r.name, chart, "--namespace", r.namespace, "--values", minimal, "--set", "podSecurityContext.runAsNonRoot=false")
	if err == nil || !strings.Contains(err.Error(), "would violate PodSecurity") {
		t.Errorf("nobody is warned: %v", err)
	}
	eventually(t, "the pods are refused", func() error {
		for _, c := range decode[podStatus](t, r.list("deployments", daemon)[0].Status).Conditions {
			if c.Type == "ReplicaFailure" && c.Status == "True" && strings.Contains(c.Message, "runAsNonRoot") {
				return nil
			}
		}
		return errors.New("no condition says so")
	})
	if pods := r.list("pods", ""); len(pods) > 0 {
		t.Errorf("%d pods are there", len(pods))
	}
}

func (s podSpec) value(name string) string {
	for _, e := range s.Containers[0].Env {
		if e.Name == name {
			return e.Value
		}
	}
	return ""
}

func TestAnUpgradeReplacesTheDaemonsAndARollbackBringsThemBack(t *testing.T) {
	t.Parallel()
	r := newRelease(t, "upgrades")
	r.install("--values", minimal)
	first := r.names()
	if len(first) != 2 {
		t.Fatalf("the daemons are %v", first)
	}
	fewest := r.watch()

	r.upgrade("--values", minimal)
	r.same(first, "after an upgrade that changes nothing")
	r.upgrade("--values", minimal, "--set", "service.port=80,podDisruptionBudget.enabled=false,networkPolicy.enabled=false")
	r.same(first, "after an upgrade that changes nothing of theirs")

	r.upgrade("--values", minimal, "--set", "env.LOG_LEVEL=debug")
	r.replaced(first)
	second := r.names()
	for name, spec := range r.daemons() {
		if spec.value("LOG_LEVEL") != "debug" {
			t.Errorf("%s does not have the new value", name)
		}
	}
	r.helm("rollback", "1", "--wait", patient)
	r.replaced(second)
	for name, spec := range r.daemons() {
		if spec.value("LOG_LEVEL") != "" {
			t.Errorf("%s has the value of before the rollback", name)
		}
	}
	if sets := r.list("replicasets", daemon); len(sets) != 2 {
		t.Errorf("%d ReplicaSets for two kinds of pods", len(sets))
	}
	if n := fewest(); n < 2 {
		t.Errorf("only %d daemons were available for a while", n)
	}
	r.uninstall()
}

// watch follows the Deployment; the function ends that and says how few daemons were available at a time.
func (r *release) watch() func() int {
	r.t.Helper()
	program, err := tool("kubectl", "cluster/kubernetes", "k8s.io/kubernetes")
	if err != nil {
		r.t.Fatal(err)
	}
	p, err := launch(nil, shared.dir, shared.environment(), program, "get", "deployment", r.name, "--namespace", r.namespace, "--watch",
		`--output=jsonpath={.status.availableReplicas}{"\n"}`)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { p.stop(time.Second) })
	return func() int {
		p.stop(time.Second)
		fewest, seen := 1000, 0
		for line := range strings.Lines(p.log()) {
			n, _ := strconv.Atoi(strings.TrimSpace(line)) // an empty line is none
			fewest, seen = min(fewest, n), seen+1
		}
		if seen < 4 { // at the least before, during and after both times
			r.t.Errorf("only %d states were seen: %s", seen, p.log())
		}
		return fewest
	}
}

// As docs/kubernetes.md asks for when the key, layout or fields change.
func TestAnUpgradeCanStopAllDaemonsFirst(t *testing.T) {
	t.Parallel()
	r := newRelease(t, "recreate")
	r.install("--values", minimal)
	first := r.names()
	r.upgrade("--values", minimal, "--set", "updateStrategy=Recreate,env.OTHER_INFO_KEY=names")
	r.replaced(first)
	second := r.names()
	r.upgrade("--values", minimal, "--set", "env.OTHER_INFO_KEY=names")
	r.same(second, "after only the strategy has changed")
	r.helm("rollback", "2", "--wait", patient)
	r.same(second, "after a rollback of only the strategy")
	r.helm("rollback", "1", "--wait", patient)
	r.replaced(second)
	r.uninstall()
}

func TestOtherSecretsStartOtherDaemons(t *testing.T) {
	t.Parallel()
	for _, asFiles := range []string{"false", "true"} {
		t.Run("as files "+asFiles, func(t *testing.T) {
			t.Parallel()
			r := newRelease(t, "secrets-"+asFiles)
			values := []string{"--values", chart + "/ci/secret-created.yaml", "--set", "secret.asFiles=" + asFiles}
			r.install(values...)
			first := r.names()
			r.upgrade(values...)
			r.same(first, "with the same secrets")
			r.upgrade(append(values, "--set", "secret.values.NAMECOACH_TOKEN=another")...)
			r.replaced(first)
			r.uninstall()
		})
	}
}

func TestABackfillIsBegunAgainOnlyWhenItIsAnother(t *testing.T) {
	t.Parallel()
	r := newRelease(t, "backfills")
	jobs := func() (ids []string) {
		for _, job := range r.list("jobs", "app.kubernetes.io/component=backfill") {
			if c := decode[podStatus](t, job.Status).Conditions; !slices.ContainsFunc(c, func(c condition) bool { return c.Type == "Complete" && c.Status == "True" }) {
				t.Errorf("%s is not complete: %+v", job.Metadata.Name, c)
			}
			ids = append(ids, job.Metadata.UID)
		}
		slices.Sort(ids)
		return ids
	}
	r.install("--values", minimal)
	if ids := jobs(); len(ids) > 0 {
		t.Errorf("there are %d jobs before one was asked for", len(ids))
	}
	var before []string
	for _, step := range []struct {
		set  string
		same bool
		n    int
	}{
		{"backfill.enabled=true", false, 1},
		{"backfill.enabled=true", true, 1},
		{"backfill.enabled=true,replicas=3,service.port=80,podDisruptionBudget.enabled=false", true, 1},
		{"backfill.enabled=true,backfill.run=after the merger", false, 1},
		{"backfill.enabled=true,backfill.since=2026-09-01", false, 1},
		{"backfill.enabled=true,env.LOG_LEVEL=debug", false, 1},
		{"backfill.enabled=true,image.tag=0.1.1", false, 1},
		{"backfill.enabled=true,image.tag=0.1.1,podLabels.team=people", false, 1},
		{`backfill.enabled=true,bridges={default,globex}`, false, 2},
		{`backfill.enabled=true,bridges={default,globex}`, true, 2},
		{"backfill.enabled=false", false, 0},
	} {
		r.upgrade("--values", minimal, "--wait-for-jobs", "--set", step.set)
		after := jobs()
		if len(after) != step.n {
			t.Errorf("%s: %d jobs, not %d", step.set, len(after), step.n)
		}
		kept := slices.DeleteFunc(slices.Clone(after), func(id string) bool { return !slices.Contains(before, id) })
		if step.same && !slices.Equal(after, before) || !step.same && len(kept) > 0 {
			t.Errorf("%s: the jobs were %v and are %v", step.set, before, after)
		}
		before = after
	}
	r.helm("rollback", "--wait", "--wait-for-jobs", patient)
	if n := len(jobs()); n != 2 {
		t.Errorf("%d jobs after a rollback to the revision before, which had 2", n)
	}
	r.uninstall()
}

// drained is a pool of nodes that one test only takes from the others.
const drained = "drained"

func TestOneDaemonAtATimeIsEvicted(t *testing.T) {
	t.Parallel()
	r := newRelease(t, "evictions")
	r.install("--values", minimal, "--set", "nodeSelector.pool="+drained+",tolerations[0].key=pool,tolerations[0].value="+drained)
	evict := func(pod string) error {
		_, err := shared.ask(t.Context(), http.MethodPost, "/api/v1/namespaces/"+r.namespace+"/pods/"+pod+"/eviction", "application/json", map[string]any{
			"apiVersion": "policy/v1", "kind": "Eviction", "metadata": map[string]any{"name": pod, "namespace": r.namespace},
		})
		return err
	}
	pods := r.names()
	eventually(t, "one may be evicted", func() error {
		if got := r.kubectl("get", "poddisruptionbudgets", "--output=jsonpath={.items[*].status.disruptionsAllowed}"); got != "1" {
			return fmt.Errorf("%q may", got)
		}
		return nil
	})
	if _, err := shared.command(t.Context(), "", "kubectl", "cordon", "--selector=pool="+drained); err != nil {
		t.Fatal(err) // so that nobody takes the place of who is evicted
	}
	if err := evict(pods[0]); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the evicted one is gone, and waited for", func() error {
		if all := r.list("pods", daemon); len(all) != 2 || len(r.names()) != 1 {
			return fmt.Errorf("there are %d, and %v are ready", len(all), r.names())
		}
		return nil
	})
	var no refusal
	if err := evict(pods[1]); !errors.As(err, &no) || no.status != http.StatusTooManyRequests {
		t.Errorf("the second is evicted, too: %v", err)
	}
	r.same(pods[1:], "after an eviction that is refused")
	if _, err := shared.command(t.Context(), "", "kubectl", "uncordon", "--selector=pool="+drained); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the next one is evicted when another is ready", func() error { return evict(pods[1]) })
	r.replaced(pods)
	r.uninstall()
}
