package httpapi

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// wire is a fake at the wire: what a RoundTripper answers, inside a synctest bubble.
type wire func(*http.Request) (*http.Response, error)

func (w wire) RoundTrip(r *http.Request) (*http.Response, error) { return w(r) }

// answer builds a response; headers are name, value pairs.
func answer(status int, text string, headers ...string) *http.Response {
	h := http.Header{}
	for i := 0; i < len(headers); i += 2 {
		h.Set(headers[i], headers[i+1])
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(text))}
}

// pipes is a network of its own: a listener whose connections are net.Pipe, which a bubble's clock can wait for.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	close func()
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { p.close(); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.conns <- server:
		return client, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-p.done:
		return nil, net.ErrClosed
	}
}

// serve runs real HTTP inside the bubble and returns the transport that reaches it.
func serve(t *testing.T, h http.HandlerFunc) *http.Transport {
	t.Helper()
	done := make(chan struct{})
	p := &pipes{conns: make(chan net.Conn), done: done, close: sync.OnceFunc(func() { close(done) })}
	server := &http.Server{Handler: h}
	go server.Serve(p)
	transport := &http.Transport{DialContext: p.dial}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		server.Close()
	})
	return transport
}

// listen runs a real server over loopback.
func listen(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// client is a client that is fast unless o says otherwise.
func client(t *testing.T, o Options) *Client {
	t.Helper()
	if o.API == "" {
		o.API = "bln"
	}
	if o.BaseURL == "" {
		o.BaseURL = "http://localhost/base"
	}
	if o.PerSecond == 0 {
		o.PerSecond, o.Burst = 1e6, 1e6
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func get(path string) Request {
	return Request{Endpoint: "things.get", Method: http.MethodGet, Path: path, Repeat: true}
}

func put(path string) Request {
	return Request{Endpoint: "things.update", Method: http.MethodPut, Path: path, Body: []byte(`{"a":1}`)}
}

// log collects observations.
type log struct {
	mu   sync.Mutex
	seen []Observation
}

func (l *log) observe(o Observation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen = append(l.seen, o)
}

func (l *log) codes() []int {
	l.mu.Lock()
	defer l.mu.Unlock()
	var codes []int
	for _, o := range l.seen {
		codes = append(codes, o.Code)
	}
	return codes
}

// departures records when requests arrived at a fake server.
type departures struct {
	mu sync.Mutex
	at []time.Time
}

func (d *departures) now() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at = append(d.at, time.Now())
	return len(d.at)
}

func (d *departures) since(start time.Time) []time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []time.Duration
	for _, t := range d.at {
		all = append(all, t.Sub(start))
	}
	return all
}
