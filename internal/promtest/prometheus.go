// Package promtest runs the real namebridge and a real Prometheus that scrapes it, for the tests of what operators get.
package promtest

import (
	"cmp"
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
	Rules []string      // files, with their whole path
}

// Prometheus is one that runs until Stop, or until the test ends that started it.
type Prometheus struct {
	*process
	URL     string
	targets string // the file that says what is scraped
}

// startWithin is how long a program may take to start that takes a second on an idle machine.
const startWithin = 3 * time.Minute

// Start is Open for a test, with which the Prometheus ends.
func Start(t T, o Options) *Prometheus {
	t.Helper()
	p, err := Open(t.Context(), t.TempDir(), o)
	if err != nil {
		t.Fatal(err)
	}
	p.endsWith(t)
	return p
}

// Open starts a Prometheus that scrapes nothing yet, and keeps what it has in a folder.
func Open(ctx context.Context, folder string, o Options) (*Prometheus, error) {
	program, err := exec.LookPath("prometheus")
	if err != nil {
		return nil, errors.New("there is no prometheus on the PATH: tools/prometheus.sh finds one, or gets it")
	}
	every, file := cmp.Or(o.Every, time.Second).String(), filepath.Join(folder, "prometheus.yml")
	p := &Prometheus{targets: filepath.Join(folder, "targets.json")}
	config, err := json.Marshal(map[string]any{ // YAML has JSON in it
		"global":     map[string]any{"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
		"rule_files": o.Rules,
		"scrape_configs": []any{map[string]any{
			"job_name": "namebridge", "file_sd_configs": []any{map[string]any{"files": []string{p.targets}, "refresh_interval": "1s"}},
		}},
	})
	if err := errors.Join(err, os.WriteFile(file, config, 0o600), p.Watch()); err != nil {
		return nil, err
	}
	p.process, err = begin(exec.Command(program, "--config.file="+file, "--storage.tsdb.path="+filepath.Join(folder, "data"), //nolint:gosec,noctx // asked to end by Stop
		"--web.listen-address=127.0.0.1:0", "--log.format=json"))
	if err != nil {
		return nil, err
	}
	address, err := p.says(ctx, "Listening on", "address")
	if err == nil {
		p.URL = "http://" + address
		err = await(ctx, startWithin, "prometheus is ready", func() error {
			_, err := Get(ctx, p.URL+"/-/ready")
			return err
		})
	}
	if err != nil {
		p.Stop()
		return nil, err
	}
	return p, nil
}

// Scrape is Watch for a test.
func (p *Prometheus) Scrape(t T, addresses ...string) {
	t.Helper()
	if err := p.Watch(addresses...); err != nil {
		t.Fatal(err)
	}
}

// Watch says anew what is scraped from now on: addresses, host:port.
func (p *Prometheus) Watch(addresses ...string) error {
	text, err := json.Marshal([]any{map[string]any{"targets": append([]string{}, addresses...)}})
	if err != nil {
		return err
	}
	// In one step: a file that is half there would be a configuration that does not hold.
	if err := os.WriteFile(p.targets+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(p.targets+".new", p.targets)
}

// Series is one series of an answer.
type Series struct {
	Labels  map[string]string `json:"metric"`
	Samples []Sample          `json:"values"`
}

// Sample is a value at a time, in seconds since 1970.
type Sample struct{ At, Value float64 }

// UnmarshalJSON is for json.Unmarshal: Prometheus writes a number and a text.
func (s *Sample) UnmarshalJSON(text []byte) error {
	var value string
	if err := json.Unmarshal(text, &[]any{&s.At, &value}); err != nil {
		return err
	}
	v, err := strconv.ParseFloat(value, 64)
	s.Value = v
	return err
}

// Query asks what an expression is at a moment: one sample a series.
func (p *Prometheus) Query(ctx context.Context, expr string, at time.Time) ([]Series, error) {
	return p.QueryRange(ctx, expr, at, at, time.Second)
}

// QueryRange asks what an expression is at each step from a time to another.
func (p *Prometheus) QueryRange(ctx context.Context, expr string, from, to time.Time, step time.Duration) ([]Series, error) {
	text, err := Get(ctx, p.URL+"/api/v1/query_range?"+url.Values{
		"query": {expr}, "start": {from.Format(time.RFC3339Nano)}, "end": {to.Format(time.RFC3339Nano)}, "step": {fmt.Sprint(step.Seconds())},
	}.Encode())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", expr, err)
	}
	var answer struct{ Data struct{ Result []Series } }
	if err := json.Unmarshal(text, &answer); err != nil {
		return nil, fmt.Errorf("%s: %w", expr, err)
	}
	return answer.Data.Result, nil
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
