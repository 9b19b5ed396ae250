//go:build cluster

package cluster

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"namebridge/internal/postgres/testdb"
)

// shared is the cluster of all tests: what is theirs is in namespaces of their own.
var shared *cluster

func TestMain(m *testing.M) { goleak.VerifyTestMain(runner{m}) }

// runner runs the tests on a cluster.
type runner struct{ m *testing.M }

func (r runner) Run() int {
	begin := time.Now()
	c, err := newCluster(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, "a cluster to test with:", err)
		return 1
	}
	fmt.Fprintf(os.Stderr, "the cluster was there in %v\n", time.Since(begin).Round(100*time.Millisecond))
	shared = c
	code := testdb.Main(r.m).Run()
	if code != 0 {
		fmt.Fprint(os.Stderr, c.complaints())
	}
	if err := c.stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return max(code, 1)
	}
	return code
}

// cluster is a control plane on loopback, and kwok.
type cluster struct {
	dir, url, token string
	client          *http.Client
	processes       []*process
	remove          func() error
}

const (
	startWithin   = 3 * time.Minute // some seconds on an idle machine
	startAttempts = 5               // another process may take a free port before ours do
)

func newCluster(ctx context.Context) (*cluster, error) {
	for attempt := 1; ; attempt++ {
		c := &cluster{token: rand.Text()}
		err := c.start(ctx)
		if err == nil {
			return c, nil
		}
		taken := strings.Contains(c.everything(), "address already in use")
		err = errors.Join(err, c.stop())
		if !taken || attempt == startAttempts {
			return nil, err
		}
	}
}

func (c *cluster) start(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	if c.dir, c.remove, err = folder(); err != nil {
		return err
	}
	ports, err := freePorts(3)
	if err != nil {
		return err
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	signing := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	for name, content := range map[string][]byte{"signing.pem": signing, "tokens.csv": []byte(c.token + ",admin,admin,system:masters\n")} {
		if err := os.WriteFile(c.path(name), content, 0o600); err != nil {
			return err
		}
	}

	store, peers := "http://"+ports[0], "http://"+ports[1]
	if err := c.run("etcd", "etcd", "go.etcd.io/etcd/server/v3", "--data-dir="+c.path("etcd"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls="+store, "--advertise-client-urls="+store, "--listen-peer-urls="+peers, "--initial-advertise-peer-urls="+peers,
		"--initial-cluster=default="+peers); err != nil {
		return err
	}
	host, port, _ := net.SplitHostPort(ports[2])
	certificate := c.path("apiserver/apiserver.crt") // the server makes it itself
	if err := c.kubernetes("kube-apiserver", "--etcd-servers="+store, "--bind-address="+host, "--secure-port="+port, "--cert-dir="+filepath.Dir(certificate),
		"--token-auth-file="+c.path("tokens.csv"), "--authorization-mode=RBAC", "--service-cluster-ip-range=10.0.0.0/16",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+c.path("signing.pem"),
		"--service-account-signing-key-file="+c.path("signing.pem"),
		// A loopback address may not be an endpoint of a Service.
		"--endpoint-reconciler-type=none"); err != nil {
		return err
	}
	c.url = "https://" + ports[2]
	if err := c.await(ctx, func() error { return c.trust(certificate) }); err != nil {
		return err
	}
	if err := c.await(ctx, func() error { _, err := c.ask(ctx, http.MethodGet, "/readyz", "", nil); return err }); err != nil {
		return err
	}

	config, err := json.Marshal(map[string]any{ // YAML has JSON in it
		"apiVersion": "v1", "kind": "Config", "current-context": "test",
		"clusters": []any{map[string]any{"name": "test", "cluster": map[string]any{"server": c.url, "certificate-authority": certificate}}},
		"users":    []any{map[string]any{"name": "admin", "user": map[string]any{"token": c.token}}},
		"contexts": []any{map[string]any{"name": "test", "context": map[string]any{"cluster": "test", "user": "admin"}}},
	})
	if err == nil {
		err = os.WriteFile(c.kubeconfig(), config, 0o600)
	}
	if err != nil {
		return err
	}
	// Nodes here send no heartbeats, and nobody minds.
	if err := c.kubernetes("kube-controller-manager", "--kubeconfig="+c.kubeconfig(), "--leader-elect=false", "--secure-port=0",
		"--service-account-private-key-file="+c.path("signing.pem"), "--root-ca-file="+certificate, "--node-monitor-grace-period=24h",
		"--kube-api-qps=200", "--kube-api-burst=400"); err != nil {
		return err
	}
	if err := c.kubernetes("kube-scheduler", "--kubeconfig="+c.kubeconfig(), "--leader-elect=false", "--secure-port=0"); err != nil {
		return err
	}
	kwok, err := module(ctx, "kwok", "sigs.k8s.io/kwok")
	if err != nil {
		return err
	}
	args := []string{"--kubeconfig=" + c.kubeconfig(), "--manage-nodes-with-label-selector=" + played + "=true", "--node-lease-duration-seconds=40", "--cidr=10.1.0.1/16"}
	for _, stages := range []string{"node/fast", "pod/fast"} {
		files, err := filepath.Glob(filepath.Join(kwok, "kustomize/stage", stages, "[np]o*-*.yaml"))
		if err != nil || len(files) == 0 {
			return fmt.Errorf("kwok's stages %s: %d files, %w", stages, len(files), err)
		}
		for _, file := range files {
			args = append(args, "--config="+file)
		}
	}
	if err := c.run("kwok", "kwok", "sigs.k8s.io/kwok", args...); err != nil {
		return err
	}
	return c.furnish(ctx)
}

// played is the label of nodes that kwok plays.
const played = "example.com/played"

// node is one of the cluster's.
type node struct {
	name, zone string
	played     bool
	pool       string // "": for everybody; else for those only who ask for it and bear its taint
}

// furnish makes what the charts' values name and what is not theirs: kinds of the Prometheus operator, nodes, a priority.
func (c *cluster) furnish(ctx context.Context) error {
	operator, err := module(ctx, "operator", "github.com/prometheus-operator/prometheus-operator")
	if err != nil {
		return err
	}
	for _, kind := range []string{"servicemonitors", "prometheusrules"} {
		if _, err := c.command(ctx, "", "kubectl", "create", "--filename", filepath.Join(operator, "example/prometheus-operator-crd/monitoring.coreos.com_"+kind+".yaml")); err != nil {
			return err
		}
	}
	nodes := []node{{name: realNode, zone: "a", pool: realNode}}
	for i := range 9 {
		nodes = append(nodes, node{name: fmt.Sprintf("node-%d", i), zone: string("abc"[i%3]), played: true})
	}
	for i := range 3 {
		nodes = append(nodes, node{name: fmt.Sprintf("drained-%d", i), zone: string("abc"[i]), played: true, pool: drained})
	}
	objects := []any{map[string]any{"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": map[string]any{"name": "low"}, "value": -1}}
	for _, n := range nodes {
		spec := map[string]any{}
		if n.pool != "" {
			spec["taints"] = []any{map[string]any{"key": "pool", "value": n.pool, "effect": "NoSchedule"}}
		}
		objects = append(objects, map[string]any{"apiVersion": "v1", "kind": "Node", "spec": spec, "metadata": map[string]any{"name": n.name, "labels": map[string]any{
			"kubernetes.io/hostname": n.name, "kubernetes.io/arch": "arm64", "topology.kubernetes.io/zone": n.zone, "pool": n.pool, played: fmt.Sprint(n.played),
		}}})
	}
	list, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "List", "items": objects})
	if err != nil {
		return err
	}
	if _, err := c.command(ctx, string(list), "kubectl", "create", "--filename", "-"); err != nil {
		return err
	}
	ready := map[string]any{"status": map[string]any{
		"allocatable": map[string]any{"cpu": "4", "memory": "8Gi", "pods": "100"}, "capacity": map[string]any{"cpu": "4", "memory": "8Gi", "pods": "100"},
		"conditions": []any{map[string]any{"type": "Ready", "status": "True", "reason": "Tests", "lastHeartbeatTime": now(), "lastTransitionTime": now()}},
	}}
	if _, err := c.ask(ctx, http.MethodPatch, "/api/v1/nodes/"+realNode+"/status", "application/strategic-merge-patch+json", ready); err != nil {
		return err
	}
	_, err = c.command(ctx, "", "kubectl", "wait", "--for=condition=Ready", "nodes", "--all", "--timeout=60s")
	return err
}

func now() string { return time.Now().UTC().Format(time.RFC3339) }

func (c *cluster) path(name string) string { return filepath.Join(c.dir, name) }
func (c *cluster) kubeconfig() string      { return c.path("kubeconfig") }

// environment is all that Helm, kubectl and the cluster's programs see: no configuration, registry or cluster of the one who runs the tests.
func (c *cluster) environment() []string {
	home := c.path("home")
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + home, "KUBECONFIG=" + c.kubeconfig(),
		"HELM_CACHE_HOME=" + home, "HELM_CONFIG_HOME=" + home, "HELM_DATA_HOME=" + home,
	}
}

// run starts a program of the cluster.
func (c *cluster) run(name, folder, module string, args ...string) error {
	program, err := tool(name, "cluster/"+folder, module)
	if err != nil {
		return err
	}
	p, err := launch(nil, c.dir, c.environment(), program, args...)
	if err == nil {
		c.processes = append(c.processes, p)
	}
	return err
}

func (c *cluster) kubernetes(name string, args ...string) error {
	return c.run(name, "kubernetes", "k8s.io/kubernetes", args...)
}

// stop ends everything, the last first.
func (c *cluster) stop() error {
	for _, p := range slices.Backward(c.processes) {
		p.stop(time.Second) // nothing of it is needed any more
	}
	if c.client != nil {
		c.client.CloseIdleConnections()
	}
	if c.remove == nil {
		return nil
	}
	return c.remove()
}

// everything is what all programs said.
func (c *cluster) everything() string {
	var all strings.Builder
	for _, p := range c.processes {
		all.WriteString(p.log())
	}
	return all.String()
}

// complaints are the errors that the programs logged last.
func (c *cluster) complaints() string {
	var all strings.Builder
	for _, p := range c.processes {
		lines := slices.DeleteFunc(strings.Split(p.log(), "\n"), func(line string) bool { return !complaint.MatchString(line) })
		for _, line := range lines[max(0, len(lines)-10):] {
			fmt.Fprintf(&all, "%s: %.400s\n", filepath.Base(p.command.Path), line)
		}
	}
	return all.String()
}

var complaint = regexp.MustCompile(`^[EF]\d{4} |level=ERROR|"level":"(error|fatal)"`)

// await waits until ok, as long as all programs run.
func (c *cluster) await(ctx context.Context, ok func() error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ok()
		if err == nil {
			return nil
		}
		for _, p := range c.processes {
			if dead := p.alive(); dead != nil {
				return dead
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(err, context.Cause(ctx))
		}
	}
}

// trust has us believe the server's own certificate, and no other.
func (c *cluster) trust(certificate string) error {
	content, err := os.ReadFile(certificate)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(content) {
		return fmt.Errorf("%s: no certificate", certificate)
	}
	c.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}}}
	return nil
}

// refusal is an answer of the API server that is not a success.
type refusal struct {
	status  int
	message string
}

func (r refusal) Error() string { return fmt.Sprintf("%d: %s", r.status, r.message) }

// ask sends a request to the API server, as a kubelet and an administrator do.
func (c *cluster) ask(ctx context.Context, method, path, contentType string, body any) (answer []byte, err error) {
	content := []byte{}
	if body != nil {
		if content, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, c.url+path, bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+c.token)
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	response, err := c.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(response.Body)
	if err == nil && response.StatusCode >= http.StatusMultipleChoices {
		err = refusal{response.StatusCode, string(answer)}
	}
	return answer, err
}

// command runs Helm or kubectl, and returns what it prints; what it fails or warns with is the error's.
func (c *cluster) command(ctx context.Context, input, name string, args ...string) (string, error) {
	folder, of := "cluster/kubernetes", "k8s.io/kubernetes"
	if name == "helm" {
		folder, of = "helm", "helm.sh/helm/v4"
	}
	program, err := tool(name, folder, of)
	if err != nil {
		return "", err
	}
	command := exec.CommandContext(ctx, program, args...)
	command.Env, command.Stdin = c.environment(), strings.NewReader(input)
	var output, problems bytes.Buffer
	command.Stdout, command.Stderr = &output, &problems
	command.SysProcAttr = new(syscall.SysProcAttr)
	endWithParent(command.SysProcAttr)
	runtime.LockOSThread() // what the kernel calls the parent
	defer runtime.UnlockOSThread()
	if err := command.Run(); err != nil {
		return output.String(), fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(args, " "), err, output.String(), problems.String())
	}
	if strings.Contains(problems.String(), "Warning: ") || strings.Contains(problems.String(), "level=WARN") {
		return output.String(), fmt.Errorf("%s %s: %s", name, strings.Join(args, " "), problems.String())
	}
	return output.String(), nil
}

// checkout is the root of this working copy.
const checkout = "../.."

// pinned is the version of a module that a go.mod of tools/ requires.
func pinned(folder, path string) (string, error) {
	file := filepath.Join(checkout, "tools", folder, "go.mod")
	content, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	version := regexp.MustCompile(`(?m)^\s*(?:require )?` + regexp.QuoteMeta(path) + ` (v\S+)`).FindSubmatch(content)
	if version == nil {
		return "", fmt.Errorf("%s does not require %s", file, path)
	}
	return string(version[1]), nil
}

// tool is a program that make has built, in the version that its go.mod pins.
func tool(name, folder, path string) (string, error) {
	version, err := pinned(folder, path)
	if err != nil {
		return "", err
	}
	program, err := filepath.Abs(filepath.Join(checkout, ".cache/bin", name+"-"+version))
	if err == nil {
		_, err = os.Stat(program)
	}
	if err != nil {
		return "", fmt.Errorf("%w: make test-cluster builds it", err)
	}
	return program, nil
}

// module is the folder with the files of a module that a go.mod of tools/cluster/ requires, checked against its go.sum.
func module(ctx context.Context, folder, path string) (string, error) {
	command := exec.CommandContext(ctx, "go", "mod", "download", "-json", path)
	command.Dir = filepath.Join(checkout, "tools/cluster", folder)
	output, err := command.Output()
	var m struct{ Dir, Error string }
	if jsonErr := json.Unmarshal(output, &m); jsonErr != nil || m.Error != "" {
		return "", fmt.Errorf("go mod download %s: %s: %w", path, m.Error, errors.Join(err, jsonErr))
	}
	return m.Dir, err
}

// freePorts are addresses of loopback where nobody listens.
func freePorts(n int) ([]string, error) {
	var addresses []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // all at the end, so that they differ
		addresses = append(addresses, l.Addr().String())
	}
	return addresses, nil
}
