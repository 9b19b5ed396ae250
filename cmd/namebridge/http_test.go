package main

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"namebridge/internal/metrics"
)

// logged is what was logged, for several goroutines.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// site is a server that a test asks over real connections, and what the test lets it say.
type site struct {
	*server
	reg           *prometheus.Registry
	log           *logged
	health, ready func(context.Context) error // nil: all is well; set before the first request
	served        chan error                  // what serve came to
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{reg: prometheus.NewPedanticRegistry(), log: new(logged), served: make(chan error, 1)}
	call := func(check *func(context.Context) error) func(context.Context) error {
		return func(ctx context.Context) error {
			if *check == nil {
				return nil
			}
			return (*check)(ctx)
		}
	}
	var err error
	s.server, err = newServer("127.0.0.1:0", s.reg, call(&s.health), call(&s.ready), slog.New(slog.NewTextHandler(s.log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	go func() { s.served <- s.serve() }()
	t.Cleanup(func() {
		s.stop(0)
		if err := <-s.served; err != nil {
			t.Error(err)
		}
	})
	return s
}

// said is an answer, its body read.
type said struct {
	status int
	header http.Header
	body   string
}

func (s *site) ask(t *testing.T, method, path string, header ...string) said {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.addr()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	transport := &http.Transport{DisableKeepAlives: true}
	res, err := transport.RoundTrip(r) // follows no redirect
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return said{res.StatusCode, res.Header, string(body)}
}

func TestAWellProcessSaysOK(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, path := range []string{"/healthz", "/readyz"} {
		if got := s.ask(t, "GET", path); got.status != 200 || got.body != "ok\n" {
			t.Errorf("%s: %d %q", path, got.status, got.body)
		}
		if got := s.ask(t, "HEAD", path); got.status != 200 || got.body != "" {
			t.Errorf("HEAD %s: %d %q", path, got.status, got.body)
		}
	}
	if s.log.String() != "" {
		t.Errorf("a process that is well logs: %s", s.log)
	}
}

func TestHealthAndReadinessFailEachWithItsReason(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.health = func(context.Context) error {
		return fmt.Errorf("worker 7 of acme: %w", reason("no heartbeat for 20 s"))
	}
	s.ready = func(context.Context) error { return reason("the database does not answer") }
	for path, want := range map[string]string{"/healthz": "no heartbeat for 20 s\n", "/readyz": "the database does not answer\n"} {
		if got := s.ask(t, "GET", path); got.status != 503 || got.body != want {
			t.Errorf("%s: %d %q, want 503 %q", path, got.status, got.body, want)
		}
		if got := s.ask(t, "HEAD", path); got.status != 503 {
			t.Errorf("HEAD %s: %d", path, got.status)
		}
	}
	if got := s.ask(t, "GET", "/metrics"); got.status != 200 {
		t.Errorf("what is not well is still watched: /metrics answers %d", got.status)
	}
}

// Whoever reaches the port reads the answer: what nobody has written for them may name hosts, users and databases.
func TestAReasonThatWasNotMeantForAnybodyStaysInTheLog(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	const secret = "failed to connect to user=namebridge host=db.internal.example 10.1.2.3"
	var fine atomic.Bool
	s.ready = func(context.Context) error {
		if fine.Load() {
			return nil
		}
		return errors.New(secret)
	}
	for range 3 {
		if got := s.ask(t, "GET", "/readyz"); got.status != 503 || got.body != "the log says why\n" {
			t.Errorf("%d %q", got.status, got.body)
		}
	}
	if n := strings.Count(s.log.String(), secret); n != 1 {
		t.Errorf("the log has the reason %d times, want it once for three probes:\n%s", n, s.log)
	}
	fine.Store(true)
	if got := s.ask(t, "GET", "/readyz"); got.status != 200 || !strings.Contains(s.log.String(), "a probe succeeds again") {
		t.Errorf("%d, and the log:\n%s", got.status, s.log)
	}
	fine.Store(false)
	s.ask(t, "GET", "/readyz")
	if n := strings.Count(s.log.String(), secret); n != 2 {
		t.Errorf("the log has the reason %d times, want it again when it comes again", n)
	}
}

func TestAProbeIsAnsweredWithinTwoSecondsWhateverHangs(t *testing.T) {
	t.Parallel()
	released := make(chan struct{})
	t.Cleanup(func() { close(released) })
	for name, hang := range map[string]func(context.Context) error{
		"until its context ends": func(ctx context.Context) error {
			if left, ok := ctx.Deadline(); !ok || time.Until(left) > 2*time.Second {
				return reason("this check has no end")
			}
			<-ctx.Done()
			return fmt.Errorf("ask the database: %w", ctx.Err())
		},
		"for ever": func(context.Context) error { <-released; return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.ready, s.health = hang, hang
			for _, path := range []string{"/healthz", "/readyz"} {
				if got := s.ask(t, "GET", path); got.status != 503 || got.body != "there was no answer within 2s\n" {
					t.Errorf("%s: %d %q", path, got.status, got.body)
				}
			}
		})
	}
}

// Anybody may ask, and each check takes a connection to the database.
func TestProbesAtOnceShareACheck(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	var checks atomic.Int32
	s.ready = func(ctx context.Context) error {
		checks.Add(1)
		<-ctx.Done() // two seconds, in which the others come
		return nil
	}
	const n = 10
	var all sync.WaitGroup
	for range n {
		all.Go(func() { s.ask(t, "GET", "/readyz") })
	}
	all.Wait()
	if got := checks.Load(); got > n/2 { // where a goroutine is that late, there are two
		t.Errorf("%d requests at once were %d checks", n, got)
	}
}

func TestMetricsAreServedInTheFormatThatIsAskedFor(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	metrics.New(s.reg, "1.2.3", "5f3fa83").Expect("acme")
	plain := s.ask(t, "GET", "/metrics")
	if plain.status != 200 || !strings.HasPrefix(plain.header.Get("Content-Type"), "text/plain; version=0.0.4") {
		t.Errorf("%d %s", plain.status, plain.header.Get("Content-Type"))
	}
	const line = `namebridge_writes_total{action="write",bridge="acme",outcome="verified"} 0`
	if !strings.Contains(plain.body, "\n"+line+"\n") {
		t.Errorf("there is no line %s in:\n%s", line, plain.body)
	}
	if err := testutil.GatherAndCompare(s.reg, strings.NewReader(plain.body)); err != nil {
		t.Errorf("what is served is not what was gathered: %v", err)
	}
	open := s.ask(t, "GET", "/metrics", "Accept", "application/openmetrics-text; version=1.0.0")
	if !strings.HasPrefix(open.header.Get("Content-Type"), "application/openmetrics-text; version=1.0.0") || !strings.HasSuffix(open.body, "# EOF\n") {
		t.Errorf("OpenMetrics was asked for, %s came", open.header.Get("Content-Type"))
	}
	packed := s.ask(t, "GET", "/metrics", "Accept-Encoding", "gzip")
	unzip, err := gzip.NewReader(strings.NewReader(packed.body))
	if err != nil || packed.header.Get("Content-Encoding") != "gzip" {
		t.Fatal("gzip was asked for and did not come", err)
	}
	if text, err := io.ReadAll(unzip); err != nil || string(text) != plain.body {
		t.Errorf("unpacked it is another text: %v", err)
	}
}

// broken is a collector that fails.
type broken struct{ desc *prometheus.Desc }

func (b broken) Describe(ch chan<- *prometheus.Desc) { ch <- b.desc }
func (b broken) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.NewInvalidMetric(b.desc, errors.New("db.internal.example is away"))
}

func TestAMetricThatFailsIsLoggedAndTakesNoOtherWithIt(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	metrics.New(s.reg, "1.2.3", "5f3fa83").Expect("acme")
	s.reg.MustRegister(broken{prometheus.NewDesc("namebridge_broken", "It fails.", nil, nil)})
	got := s.ask(t, "GET", "/metrics")
	if got.status != 200 || !strings.Contains(got.body, "namebridge_build_info{") || strings.Contains(got.body, "internal.example") {
		t.Errorf("%d:\n%s", got.status, got.body)
	}
	if !strings.Contains(s.log.String(), "db.internal.example is away") {
		t.Errorf("the log does not say what failed:\n%s", s.log)
	}
}

func TestAnythingElseIsNotFoundAndSaysWhatThereIs(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, path := range []string{"/", "/people/jane@acme.example", "/healthz/", "/metrics/x", "/favicon.ico"} {
		got := s.ask(t, "GET", path)
		if got.status != 404 || got.body != "namebridge answers at /healthz, /readyz and /metrics.\n" {
			t.Errorf("%s: %d %q", path, got.status, got.body)
		}
	}
}

func TestNothingButReadingIsAllowed(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, path := range []string{"/healthz", "/readyz", "/metrics", "/", "/anything"} {
		for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"} {
			if got := s.ask(t, method, path); got.status != 405 || got.header.Get("Allow") != "GET, HEAD" {
				t.Errorf("%s %s: %d, Allow %q", method, path, got.status, got.header.Get("Allow"))
			}
		}
	}
}

func TestNothingIsSaidOfTheServerAsAWhole(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "OPTIONS * HTTP/1.1\r\nHost: namebridge\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode < 400 {
		t.Errorf("OPTIONS *: %d", res.StatusCode)
	}
}

func TestNoAnswerIsKeptOrTakenForSomethingElse(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.ready = func(context.Context) error { return reason("not yet") }
	for _, r := range [][2]string{{"GET", "/healthz"}, {"GET", "/readyz"}, {"GET", "/metrics"}, {"HEAD", "/metrics"}, {"GET", "/"}, {"POST", "/"}, {"GET", "//healthz"}} {
		got := s.ask(t, r[0], r[1])
		if got.header.Get("X-Content-Type-Options") != "nosniff" || got.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s %s: %d %v", r[0], r[1], got.status, got.header)
		}
		if got.header.Get("Server") != "" || got.header.Get("Set-Cookie") != "" {
			t.Errorf("%s %s tells more than it was asked: %v", r[0], r[1], got.header)
		}
	}
}

func TestEveryWaitAndSizeHasABound(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	if got := s.ask(t, "GET", "/healthz", "X-Long", strings.Repeat("x", 64<<10)); got.status != 431 {
		t.Errorf("64 KiB of headers: %d", got.status)
	}
	h := s.http
	for name, d := range map[string]time.Duration{
		"ReadHeaderTimeout": h.ReadHeaderTimeout, "ReadTimeout": h.ReadTimeout, "WriteTimeout": h.WriteTimeout, "IdleTimeout": h.IdleTimeout,
	} {
		if d <= 0 || d > 5*time.Minute {
			t.Errorf("%s is %v", name, d)
		}
	}
	if h.WriteTimeout <= scrapeTimeout || h.WriteTimeout <= probeTimeout {
		t.Errorf("answers are cut off after %v, before they may have come", h.WriteTimeout)
	}
}

// When the process stops, it is to be left alone first: what it does meanwhile is still watched.
func TestReadinessFallsFirstWhenTheProcessStops(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.retire()
	for path, want := range map[string]int{"/readyz": 503, "/healthz": 200, "/metrics": 200} {
		if got := s.ask(t, "GET", path); got.status != want {
			t.Errorf("%s: %d %q, want %d", path, got.status, got.body, want)
		}
	}
	if got := s.ask(t, "GET", "/readyz"); got.body != "the process is stopping\n" {
		t.Errorf("%q", got.body)
	}
}

// slowSite is a server whose metrics take until they are let go.
type slowSite struct {
	*server
	served       chan error
	reached, let chan struct{}
}

func (s *slowSite) Describe(chan<- *prometheus.Desc) {}

func (s *slowSite) Collect(chan<- prometheus.Metric) {
	s.reached <- struct{}{}
	<-s.let
}

func newSlowSite(t *testing.T) *slowSite {
	t.Helper()
	s := &slowSite{served: make(chan error, 1), reached: make(chan struct{}), let: make(chan struct{})}
	reg := prometheus.NewRegistry()
	reg.MustRegister(s)
	var err error
	s.server, err = newServer("127.0.0.1:0", reg, well, well, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	go func() { s.served <- s.serve() }()
	return s
}

func well(context.Context) error { return nil }

// listens says whether the server's own port is open: who dials it may meet another, to whom it was given since.
func (s *server) listens() bool {
	return !errors.Is(s.listener.(*net.TCPListener).SetDeadline(time.Time{}), net.ErrClosed)
}

// open begins a request for the metrics and returns when it is being answered.
func (s *slowSite) open(t *testing.T) net.Conn {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	fmt.Fprintf(c, "GET /metrics HTTP/1.1\r\nHost: namebridge\r\n\r\n")
	<-s.reached
	return c
}

func TestStoppingLetsAnAnswerBeFinished(t *testing.T) {
	t.Parallel()
	s := newSlowSite(t)
	c := s.open(t)
	stopped := make(chan struct{})
	go func() { s.stop(time.Minute); close(stopped) }()
	if err := <-s.served; err != nil { // it listens no more, and still answers
		t.Fatal(err)
	}
	close(s.let)
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.ReadAll(res.Body); err != nil || res.StatusCode != 200 {
		t.Errorf("%d, %v", res.StatusCode, err)
	}
	<-stopped
	if s.listens() {
		t.Error("a server that has stopped listens")
	}
}

func TestStoppingWaitsNoLongerThanItWasTold(t *testing.T) {
	t.Parallel()
	s := newSlowSite(t)
	c := s.open(t)
	t.Cleanup(func() { close(s.let) })
	s.stop(10 * time.Millisecond) // returns, though the answer never comes
	if err := <-s.served; err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); err == nil {
		t.Errorf("%d bytes came after the connection was cut off", n)
	}
}

func TestAServerMayStopBeforeItServesAndTwice(t *testing.T) {
	t.Parallel()
	s, err := newServer("127.0.0.1:0", prometheus.NewRegistry(), well, well, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s.stop(time.Minute)
	s.stop(time.Minute)
	if s.listens() {
		t.Error("a server that has stopped listens")
	}
	if err := s.serve(); err != nil {
		t.Error(err)
	}
}

func TestAnAddressThatIsTakenIsKnownAtOnceAndByItsVariable(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	_, err := newServer(s.addr(), s.reg, well, well, slog.New(slog.DiscardHandler))
	if err == nil || !strings.HasPrefix(err.Error(), "LISTEN_ADDR: ") || !strings.Contains(err.Error(), "in use") {
		t.Errorf("%v", err)
	}
}
