// Package promtest runs the real namebridge and a real Prometheus that scrapes it, for the tests of what operators get.
package promtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// Options are what a Prometheus is started with.
type Options struct {
	Every time.Duration // between two scrapes, and two evaluations of the rules; 0: a second
	Rules []string      // files
	Job   string        // of what is scraped; "": namebridge
}

// Prometheus is one that runs until the test ends.
type Prometheus struct {
	URL     string
	targets string // the file that says what is scraped
}

// startWithin is how long a program may take to start that takes a second on an idle machine.
const startWithin = time.Minute

// Start starts a Prometheus that scrapes nothing yet.
func Start(t T, o Options) *Prometheus {
	t.Helper()
	program, err := exec.LookPath("prometheus")
	if err != nil {
		t.Fatal("there is no prometheus on the PATH: tools/prometheus.sh finds one, or gets it")
	}
	if o.Every == 0 {
		o.Every = time.Second
	}
	if o.Job == "" {
		o.Job = "namebridge"
	}
	folder := t.TempDir()
	p := &Prometheus{targets: filepath.Join(folder, "targets.json")}
	var rules []string
	for _, file := range o.Rules {
		whole, err := filepath.Abs(file)
		if err != nil {
			t.Fatal(err)
		}
		rules = append(rules, whole)
	}
	config, err := json.Marshal(map[string]any{ // YAML has JSON in it
		"global":     map[string]any{"scrape_interval": o.Every.String(), "scrape_timeout": o.Every.String(), "evaluation_interval": o.Every.String()},
		"rule_files": rules,
		"scrape_configs": []any{map[string]any{
			"job_name": o.Job, "file_sd_configs": []any{map[string]any{"files": []string{p.targets}, "refresh_interval": "1s"}},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "prometheus.yml"), config, 0o600); err != nil {
		t.Fatal(err)
	}
	p.Scrape(t)
	prometheus := begin(t, nil, program, "--config.file="+filepath.Join(folder, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(folder, "data"),
		"--web.listen-address=127.0.0.1:0", "--log.format=json")
	address := prometheus.says(t, "Listening on", "address")
	p.URL = "http://" + address
	Eventually(t, startWithin, "prometheus is ready", func() error {
		_, err := Get(t.Context(), p.URL+"/-/ready")
		return err
	})
	return p
}

// Scrape says anew what is scraped from now on: addresses, host:port.
func (p *Prometheus) Scrape(t T, addresses ...string) {
	t.Helper()
	if addresses == nil {
		addresses = []string{}
	}
	text, err := json.Marshal([]any{map[string]any{"targets": addresses}})
	if err != nil {
		t.Fatal(err)
	}
	// In one step: a file that is half there would be a configuration that does not hold.
	if err := os.WriteFile(p.targets+".new", text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(p.targets+".new", p.targets); err != nil {
		t.Fatal(err)
	}
}

// Series is one series of an answer.
type Series struct {
	Labels  map[string]string
	Samples []Sample
}

// Sample is a value at a time, in seconds since 1970.
type Sample struct{ At, Value float64 }

// Query asks what an expression is at a moment: one sample a series.
func (p *Prometheus) Query(ctx context.Context, expr string, at time.Time) ([]Series, error) {
	return p.ask(ctx, "query", url.Values{"query": {expr}, "time": {seconds(at)}})
}

// QueryRange asks what an expression is at each step from a time to another.
func (p *Prometheus) QueryRange(ctx context.Context, expr string, from, to time.Time, step time.Duration) ([]Series, error) {
	return p.ask(ctx, "query_range", url.Values{
		"query": {expr}, "start": {seconds(from)}, "end": {seconds(to)}, "step": {strconv.FormatFloat(step.Seconds(), 'f', -1, 64)},
	})
}

func seconds(t time.Time) string { return strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64) }

func (p *Prometheus) ask(ctx context.Context, what string, values url.Values) ([]Series, error) {
	text, err := Get(ctx, p.URL+"/api/v1/"+what+"?"+values.Encode())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", values.Get("query"), err)
	}
	var answer struct {
		Data struct {
			ResultType string
			Result     json.RawMessage
		}
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return nil, fmt.Errorf("%s: %w", values.Get("query"), err)
	}
	if answer.Data.ResultType == "scalar" {
		var one point
		if err := json.Unmarshal(answer.Data.Result, &one); err != nil {
			return nil, fmt.Errorf("%s: %w", values.Get("query"), err)
		}
		return []Series{{Samples: []Sample{one.sample}}}, nil
	}
	var result []struct {
		Metric map[string]string
		Value  *point
		Values []point
	}
	if err := json.Unmarshal(answer.Data.Result, &result); err != nil {
		return nil, fmt.Errorf("%s: %w", values.Get("query"), err)
	}
	var all []Series
	for _, r := range result {
		s := Series{Labels: r.Metric}
		if r.Value != nil {
			r.Values = append(r.Values, *r.Value)
		}
		for _, v := range r.Values {
			s.Samples = append(s.Samples, v.sample)
		}
		all = append(all, s)
	}
	return all, nil
}

// point is a sample as Prometheus writes it: a number and a text.
type point struct{ sample Sample }

// UnmarshalJSON is for json.Unmarshal.
func (p *point) UnmarshalJSON(text []byte) error {
	var value string
	if err := json.Unmarshal(text, &[]any{&p.sample.At, &value}); err != nil {
		return err
	}
	v, err := strconv.ParseFloat(value, 64)
	p.sample.Value = v
	return err
}

// Get reads what is at an address; anything but 200 is an error with what was answered.
func Get(ctx context.Context, address string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(response.Body)
	if err := errors.Join(err, response.Body.Close()); err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", response.Status, text)
	}
	return text, nil
}
