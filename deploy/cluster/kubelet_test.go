//go:build cluster

package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// podSpec is as much of a pod as a kubelet here needs.
type podSpec struct {
	RestartPolicy   string
	Containers      []container
	Volumes         []volume
	SecurityContext struct{ RunAsUser, RunAsGroup, FSGroup *uint32 }
}

type container struct {
	Name, Image   string
	Command, Args []string
	Env           []struct {
		Name, Value string
		ValueFrom   *struct{ SecretKeyRef secretKey }
	}
	EnvFrom      []struct{ SecretRef struct{ Name string } }
	Ports        []containerPort
	VolumeMounts []struct{ Name, MountPath string }

	StartupProbe, LivenessProbe, ReadinessProbe probe
}

type secretKey struct{ Name, Key string }

type containerPort struct {
	Name          string
	ContainerPort int
}

type volume struct {
	Name      string
	Projected struct {
		DefaultMode os.FileMode
		Sources     []struct {
			Secret struct {
				Name  string
				Items []struct{ Key, Path string }
			}
		}
	}
}

type probe struct {
	HTTPGet struct {
		Path string
		Port string // by its name
	}
	PeriodSeconds, TimeoutSeconds, FailureThreshold int
}

// realNode is the one on which nothing is pretended.
const realNode = "real"

// kubelet runs the pods that a namespace has on the real node, until the test ends.
type kubelet struct {
	t       *testing.T
	path    string // of its pods in the API
	program string
	pods    map[string]*pod // by uid; the loop's own
	running sync.WaitGroup

	mu   sync.Mutex
	logs map[string]string // of the pods that have ended, by name
}

// pod is one that is run.
type pod struct {
	object
	spec    podSpec
	dir     string
	deleted chan struct{} // closed when somebody has deleted it; grace is then set
	grace   time.Duration
}

// newKubelet starts one for a namespace; program is what stands in for every image.
func newKubelet(t *testing.T, namespace, program string) *kubelet {
	t.Helper()
	k := &kubelet{t: t, path: "/api/v1/namespaces/" + namespace + "/pods", program: program, pods: map[string]*pod{}, logs: map[string]string{}}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context())) // what is deleted in the test's own cleanup is still ended
	k.running.Go(func() { k.loop(ctx) })
	t.Cleanup(func() {
		cancel()
		k.running.Wait()
		if t.Failed() {
			k.mu.Lock()
			defer k.mu.Unlock()
			for name, log := range k.logs {
				t.Logf("%s said:\n%s", name, log)
			}
		}
	})
	return k
}

func (k *kubelet) loop(ctx context.Context) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		answer, err := shared.ask(ctx, http.MethodGet, k.path+"?fieldSelector=spec.nodeName%3D"+realNode, "", nil)
		var list struct{ Items []object }
		if err == nil {
			err = json.Unmarshal(answer, &list)
		}
		if err != nil && ctx.Err() == nil {
			k.t.Errorf("the kubelet lists its pods: %v", err)
		}
		for _, o := range list.Items {
			k.see(ctx, o)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// see takes notice of a pod as it is now.
func (k *kubelet) see(ctx context.Context, o object) {
	p, known := k.pods[o.Metadata.UID]
	if !known {
		p = &pod{object: o, deleted: make(chan struct{}), dir: shared.path("pods/" + o.Metadata.UID)}
		k.pods[o.Metadata.UID] = p
		k.running.Go(func() {
			if err := k.run(ctx, p); err != nil && ctx.Err() == nil {
				k.t.Errorf("pod %s: %v", o.Metadata.Name, err)
			}
		})
	}
	select {
	case <-p.deleted:
	default:
		if o.Metadata.DeletionTimestamp != nil {
			p.grace = time.Duration(o.Metadata.DeletionGracePeriodSeconds) * time.Second
			close(p.deleted)
		}
	}
}

// run runs a pod from its beginning to its end.
func (k *kubelet) run(ctx context.Context, p *pod) error {
	if p.Metadata.DeletionTimestamp != nil {
		return p.remove(ctx) // it never began
	}
	if err := json.Unmarshal(p.Spec, &p.spec); err != nil {
		return err
	}
	if len(p.spec.Containers) != 1 || len(p.spec.Containers[0].Command) > 0 {
		return fmt.Errorf("not one container with the image's own entry point: %+v", p.spec.Containers)
	}
	c, s := p.spec.Containers[0], p.spec.SecurityContext
	if s.RunAsUser == nil || s.RunAsGroup == nil || *s.RunAsUser == 0 {
		return fmt.Errorf("it does not say whom it runs as: %+v", s)
	}
	var who *syscall.Credential
	if os.Geteuid() == 0 {
		who = &syscall.Credential{Uid: *s.RunAsUser, Gid: *s.RunAsGroup}
		if s.FSGroup != nil {
			who.Groups = []uint32{*s.FSGroup}
		}
	}
	if err := os.MkdirAll(p.dir, 0o711); err != nil {
		return err
	}
	env, err := p.environment(ctx, c)
	if err != nil {
		return err
	}
	process, err := launch(who, p.dir, env, k.program, c.Args...)
	if err != nil {
		return err
	}
	keep := func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.logs[p.Metadata.Name] = process.log()
	}
	defer func() {
		process.stop(0)
		keep()
	}()
	if err := p.report(ctx, "Running", false, map[string]any{"running": map[string]any{"startedAt": now()}}); err != nil {
		return err
	}
	if p.spec.RestartPolicy != "Never" {
		err = k.serve(ctx, p, c, process)
	} else {
		select {
		case <-process.ended:
		case <-p.deleted:
		case <-ctx.Done():
		}
	}
	if err != nil {
		return err
	}
	select {
	case <-p.deleted:
		if !process.stop(p.grace) {
			return fmt.Errorf("it did not end within the %v that it is given", p.grace)
		}
		if code := process.command.ProcessState.ExitCode(); p.spec.RestartPolicy != "Never" && code != 0 {
			return fmt.Errorf("asked to end, it ended with %s", process.command.ProcessState)
		}
		return p.remove(ctx)
	case <-ctx.Done():
		return nil
	default:
	}
	code, phase := process.command.ProcessState.ExitCode(), "Succeeded"
	if code != 0 {
		phase = "Failed"
	}
	keep() // before anybody hears of it
	err = p.report(ctx, phase, false, map[string]any{"terminated": map[string]any{"exitCode": code, "finishedAt": now()}})
	if err != nil {
		return err
	}
	select { // it stays until somebody deletes it
	case <-p.deleted:
		return p.remove(ctx)
	case <-ctx.Done():
		return nil
	}
}

// serve asks the probes of a daemon until somebody deletes the pod.
func (k *kubelet) serve(ctx context.Context, p *pod, c container, process *process) error {
	address := ""
	failures := map[string]int{}
	check := func(which probe) bool {
		if address == "" { // it says where it listens
			address = field(process.log(), "starting", "http")
		}
		if address == "" || which.HTTPGet.Port != c.Ports[0].Name {
			return false
		}
		ctx, cancel := context.WithTimeout(ctx, time.Duration(which.TimeoutSeconds)*time.Second)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+which.HTTPGet.Path, http.NoBody)
		if err != nil {
			return false
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return false
		}
		defer response.Body.Close()
		_, _ = io.Copy(io.Discard, response.Body)
		return response.StatusCode < http.StatusBadRequest
	}
	defer http.DefaultClient.CloseIdleConnections()
	begin := time.Now()
	due := map[string]time.Time{}
	started, ready := false, false
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-p.deleted:
			return nil
		case <-ctx.Done():
			return nil
		case <-process.ended:
			return fmt.Errorf("it has ended by itself: %s", process.command.ProcessState)
		case <-tick.C:
		}
		for name, which := range map[string]probe{"startup": c.StartupProbe, "liveness": c.LivenessProbe, "readiness": c.ReadinessProbe} {
			if started == (name == "startup") || time.Now().Before(due[name]) {
				continue
			}
			due[name] = time.Now().Add(time.Duration(which.PeriodSeconds) * time.Second)
			ok := check(which)
			failures[name]++
			if ok {
				failures[name] = 0
			}
			failed := failures[name] >= which.FailureThreshold
			switch {
			case name != "readiness" && failed:
				return fmt.Errorf("after %v its %s probe has failed %d times", time.Since(begin), name, failures[name])
			case name == "startup":
				started = ok
			case name == "readiness" && (ok && !ready || failed && ready):
				ready = ok
				if err := p.report(ctx, "Running", ready, map[string]any{"running": map[string]any{"startedAt": now()}}); err != nil {
					return err
				}
			}
		}
	}
}

// field is a field of a line of a log.
func field(log, message, name string) string {
	for line := range strings.Lines(log) {
		var entry map[string]any
		if json.Unmarshal([]byte(line), &entry) == nil && entry["msg"] == message {
			return fmt.Sprint(entry[name])
		}
	}
	return ""
}

func (p *pod) path() string {
	return "/api/v1/namespaces/" + p.Metadata.Namespace + "/pods/" + p.Metadata.Name
}

// secret are the contents of one in the pod's namespace.
func (p *pod) secret(ctx context.Context, name string) (map[string][]byte, error) {
	answer, err := shared.ask(ctx, http.MethodGet, "/api/v1/namespaces/"+p.Metadata.Namespace+"/secrets/"+name, "", nil)
	var secret struct{ Data map[string][]byte }
	if err == nil {
		err = json.Unmarshal(answer, &secret)
	}
	return secret.Data, err
}

// environment is what the pod's process sees. Its files are in a folder of this machine, so the paths to them are others; and all pods are on one loopback, so each
// listens on a port that is free, as its own address in a cluster's network would let it have the one it names.
func (p *pod) environment(ctx context.Context, c container) ([]string, error) {
	values := map[string]string{}
	for _, from := range c.EnvFrom {
		secret, err := p.secret(ctx, from.SecretRef.Name)
		if err != nil {
			return nil, err
		}
		for name, value := range secret {
			values[name] = string(value)
		}
	}
	for _, e := range c.Env {
		values[e.Name] = strings.ReplaceAll(e.Value, "$$", "$")
		if e.ValueFrom != nil {
			secret, err := p.secret(ctx, e.ValueFrom.SecretKeyRef.Name)
			if err != nil {
				return nil, err
			}
			value, ok := secret[e.ValueFrom.SecretKeyRef.Key]
			if !ok {
				return nil, fmt.Errorf("there is no %+v", e.ValueFrom.SecretKeyRef)
			}
			values[e.Name] = string(value)
		}
	}
	for _, mount := range c.VolumeMounts {
		folder := filepath.Join(p.dir, mount.Name)
		for _, v := range p.spec.Volumes {
			if v.Name == mount.Name {
				if err := p.mount(ctx, v, folder); err != nil {
					return nil, err
				}
			}
		}
		for name, value := range values {
			if strings.HasSuffix(name, "_FILE") {
				values[name] = strings.Replace(value, mount.MountPath+"/", folder+"/", 1)
			}
		}
	}
	if len(c.Ports) > 0 {
		listen := values["LISTEN_ADDR"]
		if listen == "" {
			listen = ":8080"
		}
		if want := fmt.Sprintf(":%d", c.Ports[0].ContainerPort); listen != want {
			return nil, fmt.Errorf("it listens on %s, and is asked on %s", listen, want)
		}
		values["LISTEN_ADDR"] = "127.0.0.1:0"
	}
	var env []string
	for name, value := range values {
		env = append(env, name+"="+value)
	}
	return env, nil
}

// mount writes the Secrets of a volume into a folder, for the pod's group to read.
func (p *pod) mount(ctx context.Context, v volume, folder string) error {
	if len(v.Projected.Sources) == 0 {
		return fmt.Errorf("volume %s has no Secrets", v.Name)
	}
	if err := os.MkdirAll(folder, 0o711); err != nil {
		return err
	}
	for _, source := range v.Projected.Sources {
		secret, err := p.secret(ctx, source.Secret.Name)
		if err != nil {
			return err
		}
		files := map[string][]byte{}
		for _, item := range source.Secret.Items {
			files[item.Path] = secret[item.Key]
		}
		if source.Secret.Items == nil {
			files = secret
		}
		for name, content := range files {
			file := filepath.Join(folder, name)
			if err := os.WriteFile(file, content, 0o600); err != nil {
				return err
			}
			if err := os.Chmod(file, v.Projected.DefaultMode); err != nil {
				return err
			}
			if group := p.spec.SecurityContext.FSGroup; group != nil && os.Geteuid() == 0 {
				if err := os.Chown(file, 0, int(*group)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// report tells the API server how the pod is.
func (p *pod) report(ctx context.Context, phase string, ready bool, state map[string]any) error {
	truth := map[bool]string{true: "True", false: "False"}[ready]
	conditions := []any{map[string]any{"type": "PodScheduled", "status": "True", "lastTransitionTime": now()}}
	for _, kind := range []string{"Ready", "ContainersReady"} {
		conditions = append(conditions, map[string]any{"type": kind, "status": truth, "lastTransitionTime": now()})
	}
	c := p.spec.Containers[0]
	_, err := shared.ask(ctx, http.MethodPatch, p.path()+"/status", "application/merge-patch+json", map[string]any{
		"metadata": map[string]any{"uid": p.Metadata.UID}, // of this pod and of no later one of its name
		"status": map[string]any{
			"phase": phase, "conditions": conditions, "podIP": "10.2.0.1", "podIPs": []any{map[string]any{"ip": "10.2.0.1"}},
			"containerStatuses": []any{map[string]any{"name": c.Name, "image": c.Image, "imageID": "", "ready": ready, "restartCount": 0, "state": state}},
		},
	})
	return gone(err)
}

// remove tells the API server that nothing of the pod is left.
func (p *pod) remove(ctx context.Context) error {
	_, err := shared.ask(ctx, http.MethodDelete, p.path(), "application/json", map[string]any{
		"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "preconditions": map[string]any{"uid": p.Metadata.UID},
	})
	return gone(err)
}

// gone is err, but where the pod was removed by another.
func gone(err error) error {
	var r refusal
	if errors.As(err, &r) && (r.status == http.StatusNotFound || r.status == http.StatusConflict) {
		return nil
	}
	return err
}

// log is what a pod said that has ended.
func (k *kubelet) log(pod string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.logs[pod]
}
