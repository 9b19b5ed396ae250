package httpapi

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"sync/atomic"
	"testing"
	"time"
)

// A process that stood still between its last look at the clock and the first byte writes nothing: by then others may have taken over. Here it
// stands still when it has got its connection, which is as late as a test can come.
func TestAWriteWhoseTimeIsOverWhenItHasAConnectionIsNotSent(t *testing.T) {
	t.Parallel()
	for name, secure := range map[string]bool{"plain": false, "TLS": true} {
		for _, reused := range []bool{false, true} {
			var arrived atomic.Int64
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				if arrived.Add(1); r.ProtoMajor != 1 {
					t.Errorf("it came by %s, beside others", r.Proto)
				}
			}))
			s.EnableHTTP2 = true
			if secure {
				s.StartTLS()
			} else {
				s.Start()
			}
			t.Cleanup(s.Close)
			transport := newTransport(Options{AttemptTimeout: time.Minute, Concurrency: 8})
			if secure {
				transport.TLSClientConfig = &tls.Config{RootCAs: certificates(s), MinVersion: tls.VersionTLS12}
			}
			t.Cleanup(transport.CloseIdleConnections)
			c, err := New(Options{API: "x", BaseURL: s.URL, PerSecond: 1000, Burst: 100, Transport: transport})
			if err != nil {
				t.Fatal(err)
			}
			var over atomic.Bool
			bound := c.While(func() bool { return !over.Load() })
			if reused {
				if _, _, err := bound.Fetch(t.Context(), put("a")); err != nil {
					t.Fatal(err)
				}
			}
			before := arrived.Load()
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { over.Store(true) }})
			var fail *Error
			if _, _, err := bound.Fetch(ctx, put("b")); !errors.As(err, &fail) || !errors.Is(err, ErrLate) || fail.Unknown {
				t.Errorf("%s, reused %t: got %#v (%v)", name, reused, err, err)
			}
			if n := arrived.Load() - before; n != 0 {
				t.Errorf("%s, reused %t: %d requests arrived", name, reused, n)
			}
			over.Store(false)
			if _, _, err := bound.Fetch(t.Context(), put("c")); err != nil || arrived.Load() != before+1 {
				t.Errorf("%s, reused %t: the next one: %v", name, reused, err)
			}
		}
	}
}

func certificates(s *httptest.Server) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	return pool
}

// The clock says so, and not a timer, which goes off beside whoever goes on.
func TestAWriteThatIsLateByTheClockIsNotSentThoughNoTimerHasGoneOff(t *testing.T) {
	t.Parallel()
	c := client(t, Options{Transport: wire(func(*http.Request) (*http.Response, error) {
		t.Error("it was sent")
		return answer(200, ""), nil
	})})
	r := put("a")
	r.NotAfter = time.Now().Add(time.Hour).Round(0)
	stood := c.While(func() bool { return false })
	var fail *Error
	if _, err := stood.Do(t.Context(), r); !errors.As(err, &fail) || !errors.Is(err, ErrLate) || fail.Unknown {
		t.Errorf("got %#v", err)
	}
	for name, notAfter := range map[string]time.Time{"both clocks": time.Now().Add(-time.Second), "the wall's": time.Now().Add(-time.Second).Round(0)} {
		r.NotAfter = notAfter
		if c.mayLeave(r) {
			t.Errorf("it may leave, late by %s", name)
		}
	}
}

func TestAConnectionAsksOnlyBeforeTheFirstByte(t *testing.T) {
	t.Parallel()
	near, far := net.Pipe()
	go func() { _, _ = far.Read(make([]byte, 10)); _, _ = far.Read(make([]byte, 10)) }()
	conn, err := departing(func(context.Context, string, string) (net.Conn, error) { return near, nil })(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	ask(conn, func() bool { asked++; return true })
	for range 2 {
		if _, err := conn.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
	_ = near.Close()
	_ = far.Close()
}
