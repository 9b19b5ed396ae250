package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/singleflight"
)

const (
	probeTimeout  = 2 * time.Second  // for an answer about health or readiness
	scrapeTimeout = 10 * time.Second // for one about metrics: what comes from the database takes 3 s at most
)

// reason is why the process is not well or not ready, in words that anybody may read: whoever reaches the port can. Any other error
// stays in the log, since it may name addresses.
type reason string

func (r reason) Error() string { return string(r) }

// server answers over HTTP: /healthz, /readyz and /metrics.
type server struct {
	http     *http.Server
	listener net.Listener
	stopping atomic.Bool
}

// newServer listens on an address (port 0: any that is free), so that a port that is taken is known at once. health says why the
// process should be started anew, nil for nothing; ready, why nobody should come here now. What both say is shown where it is
// a reason, and logged when it changes.
func newServer(listen string, reg prometheus.Gatherer, health, ready func(context.Context) error, log *slog.Logger) (*server, error) {
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, fmt.Errorf("LISTEN_ADDR: %w", err)
	}
	s := &server{listener: listener}
	errorLog := slog.NewLogLogger(log.Handler(), slog.LevelWarn)
	mux := http.NewServeMux()
	mux.Handle("GET /healthz", &probe{name: "health", log: log, check: health})
	readiness := &probe{name: "readiness", log: log, check: ready}
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if s.stopping.Load() {
			answer(w, http.StatusServiceUnavailable, "the process is stopping")
			return
		}
		readiness.ServeHTTP(w, r)
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{
		ErrorLog: errorLog, ErrorHandling: promhttp.ContinueOnError, EnableOpenMetrics: true,
		Timeout: scrapeTimeout, MaxRequestsInFlight: 10,
	}))
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusNotFound, "namebridge answers at /healthz, /readyz and /metrics.")
	})
	s.http = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Content-Type-Options", "nosniff")
			w.Header().Set("Cache-Control", "no-store")
			mux.ServeHTTP(w, r)
		}),
		ErrorLog:                     errorLog,
		ReadHeaderTimeout:            5 * time.Second,
		ReadTimeout:                  10 * time.Second,
		WriteTimeout:                 scrapeTimeout + 10*time.Second,
		IdleTimeout:                  2 * time.Minute, // longer than Prometheus waits between two scrapes
		MaxHeaderBytes:               16 << 10,
		DisableGeneralOptionsHandler: true,
	}
	return s, nil
}

// addr is where it listens.
func (s *server) addr() string { return s.listener.Addr().String() }

// serve answers until stop. Its error says what ended it before.
func (s *server) serve() error {
	if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve http on %s: %w", s.addr(), err)
	}
	return nil
}

// retire makes /readyz say that the process is stopping, so that nobody is sent here any more. All else is answered as before.
func (s *server) retire() { s.stopping.Store(true) }

// stop ends serve. Answers under way have that long to be finished, then they are cut off.
func (s *server) stop(within time.Duration) {
	s.retire()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if err := s.http.Shutdown(ctx); err != nil {
		_ = s.http.Close() // what is still open was given its time
	}
	_ = s.listener.Close() // for a server that never served
}

// probe answers 200, or 503 with the reason. Requests at once share one check.
type probe struct {
	name  string
	check func(context.Context) error
	log   *slog.Logger

	flight singleflight.Group
	mu     sync.Mutex
	last   string // what the last check said
}

func (p *probe) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	checked := p.flight.DoChan("", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), probeTimeout)
		defer cancel()
		return nil, p.check(ctx)
	})
	var err error
	select {
	case result := <-checked:
		err = result.Err
	case <-time.After(probeTimeout): // a check may hang where no context reaches
		err = context.DeadlineExceeded
	}
	if why := p.say(err); why != "" {
		answer(w, http.StatusServiceUnavailable, why)
		return
	}
	answer(w, http.StatusOK, "ok")
}

// say gives what anybody may read of err, "" for nil, and logs what is new.
func (p *probe) say(err error) (why string) {
	var plain reason
	now := ""
	switch {
	case err == nil:
	case errors.As(err, &plain):
		why, now = string(plain), err.Error()
	case errors.Is(err, context.DeadlineExceeded):
		why, now = fmt.Sprintf("there was no answer within %v", probeTimeout), err.Error()
	default:
		why, now = "the log says why", err.Error()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch now {
	case p.last:
	case "":
		p.log.Info("a probe succeeds again", "probe", p.name)
	default:
		p.log.Warn("a probe fails", "probe", p.name, "reason", now)
	}
	p.last = now
	return why
}

func answer(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	fmt.Fprintln(w, text)
}
