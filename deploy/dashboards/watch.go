package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"namebridge/deploy/dashboards/grafana"
	"namebridge/deploy/dashboards/picture"
	"namebridge/internal/promtest"
)

const (
	scrapeEvery = 2 * time.Second
	drawEvery   = 5 * time.Second
	// shown is how far back the pages look.
	shown = 15 * time.Minute
)

// chosen are the variables as they stand in Grafana when a dashboard is opened without any choice, but for the bridge.
func chosen(bridge string) map[string]string {
	return map[string]string{"datasource": "prometheus", "namespace": ".*", "bridge": bridge}
}

// answers asks all that a dashboard asks.
func answers(ctx context.Context, p *promtest.Prometheus, d grafana.Dashboard, bridge string, from, to time.Time, scrape time.Duration) (picture.Answers, error) {
	all := picture.Answers{}
	for _, panel := range d.Panels {
		for _, q := range panel.Ask(chosen(bridge), from, to, scrape) {
			var series []promtest.Series
			var err error
			if q.Instant {
				series, err = p.Query(ctx, q.Expr, q.To)
			} else {
				series, err = p.QueryRange(ctx, q.Expr, q.From, q.To, q.Step)
			}
			if err != nil {
				return nil, fmt.Errorf("%s, %s: %w", d.Title, panel.Title, err)
			}
			all[panel.ID] = append(all[panel.ID], series)
		}
	}
	return all, nil
}

// answering is nil where a daemon tells its metrics at an address.
func answering(ctx context.Context, address string) error {
	const cure = "make demo prints the whole line for its daemon; of another it is what LISTEN_ADDR says, as host:port"
	if _, _, err := net.SplitHostPort(address); err != nil || strings.Contains(address, "/") {
		return fmt.Errorf("ADDRESS %q is not host:port; %s", address, cure)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	text, err := promtest.Get(ctx, "http://"+address+"/metrics")
	switch {
	case err != nil:
		return fmt.Errorf("no daemon answers at %s: %w; %s", address, err, cure)
	case !strings.Contains(string(text), "namebridge_build_info"):
		return fmt.Errorf("what answers at %s is no namebridge; %s", address, cure)
	}
	return nil
}

// pages shows the dashboards of a folder, drawn anew for each look.
func pages(p *promtest.Prometheus, folder string) (http.Handler, error) {
	mux, began := http.NewServeMux(), time.Now()
	mux.Handle("GET /{$}", http.RedirectHandler("/fleet", http.StatusFound))
	for name, other := range map[string]string{"fleet": "bridge", "bridge": "fleet"} {
		d, err := grafana.Read(filepath.Join(folder, name+".json"))
		if err != nil {
			return nil, err
		}
		mux.HandleFunc("GET /"+name, func(w http.ResponseWriter, r *http.Request) {
			to := time.Now()
			from := to.Add(-min(shown, max(to.Sub(began), time.Minute)))
			bridge := cmp.Or(r.FormValue("bridge"), "default")
			all, err := answers(r.Context(), p, d, bridge, from, to, scrapeEvery)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
				return
			}
			page, _, _ := picture.Page(d, all, chosen(bridge), from, to)
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			w.Header().Set("Refresh", fmt.Sprint(int(drawEvery.Seconds())))
			fmt.Fprintf(w, `%s<a style="position:absolute;top:18px;right:230px;color:#6e9fff" href="/%s">%[2]s</a>`, page, other)
		})
	}
	return mux, nil
}

// watch starts a Prometheus that scrapes daemons, and shows the dashboards of a folder until ctx ends.
func watch(ctx context.Context, folder string, daemons []string) error {
	for _, address := range daemons {
		if err := answering(ctx, address); err != nil {
			return err
		}
	}
	data, err := os.MkdirTemp("", "dashboards")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(data) }()
	p, err := promtest.Open(ctx, data, promtest.Options{Every: scrapeEvery})
	if err != nil {
		return err
	}
	defer p.Stop()
	if err := p.Watch(daemons...); err != nil {
		return err
	}
	handler, err := pages(p, folder)
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	fmt.Printf("Prometheus     %s   asks %s every %v\nall bridges    http://%s/fleet\none bridge     http://%[4]s/bridge             where there are several: /bridge?bridge=NAME\nThe pages are drawn anew every %v, from what Grafana would read. Ctrl-C ends it.\n",
		p.URL, strings.Join(daemons, ", "), scrapeEvery, listener.Addr(), drawEvery)
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
