//go:build deploy

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"namebridge/deploy/dashboards/grafana"
	"namebridge/deploy/dashboards/picture"
	"namebridge/internal/httpapi"
	"namebridge/internal/promtest"
)

var (
	pictures = flag.String("pictures", "", "a folder: let a daemon work for some minutes and put pictures of the dashboards there (needs chromium)")
	lasting  = flag.Duration("lasting", 5*time.Minute, "how long it works for the pictures")
)

// observation is a request whose answer told of a budget.
var observation = httpapi.Observation{API: "namecoach", Endpoint: "participants.list", Code: 200, Remaining: 17}

// within is how long something may take to come about that takes some seconds on an idle machine.
const within = 3 * time.Minute

// answers is what a dashboard shows, and the queries without a number in their answer.
func (w *world) answers(t *testing.T, d grafana.Dashboard, bridge string, from, to time.Time, scrape time.Duration) (all picture.Answers, empty []string) {
	t.Helper()
	all, err := answers(t.Context(), w.Prometheus, d, bridge, from, to, scrape)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range d.Panels {
		for i, series := range all[p.ID] {
			if !tells(series) {
				empty = append(empty, fmt.Sprintf("%s, %s: %s", d.Title, p.Title, p.Targets[i].Expr))
			}
		}
	}
	return all, empty
}

// tells reports whether there is a number in an answer.
func tells(series []promtest.Series) bool {
	for _, s := range series {
		for _, v := range s.Samples {
			if !math.IsNaN(v.Value) {
				return true
			}
		}
	}
	return false
}

// Two replicas serve two bridges while people change: a bridge is halted, a run is quarantined, people are held, a row is found late.
func TestEveryQueryOfEveryPanelHasDataOfARealDaemon(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pace{users: 150, collect: time.Second, sweep: 8 * time.Second, census: 10 * time.Second, at: time.Second})
	dashboards := read(t)
	w.until(t, within, "acme's people have their badge", `max(namebridge_users{bridge="acme",state="synced"}) > 50`)
	stop := w.live(t, 300*time.Millisecond)
	w.halts()
	w.late(3)
	w.until(t, within, "globex is halted", `max(namebridge_halted{bridge="globex"})`)
	w.until(t, within, "a row was found late", `max(namebridge_late_found_total{bridge="acme"})`)
	w.until(t, within, "a census was done", `max(namebridge_last_success_timestamp_seconds{bridge="acme",kind="census"})`)
	promtest.Eventually(t, within, "every query has an answer", func() error {
		var none []string
		for _, d := range dashboards {
			_, empty := w.answers(t, d, "acme", w.began, time.Now(), time.Second)
			none = append(none, empty...)
		}
		if none != nil {
			return fmt.Errorf("without data:\n%s", strings.Join(none, "\n"))
		}
		return nil
	})
	for file, d := range dashboards {
		promtest.Eventually(t, within, "every panel of "+file+" is drawn with its data", func() error {
			answers, _ := w.answers(t, d, "acme", w.began, time.Now(), time.Second)
			if page, _, _ := picture.Page(d, answers, chosen("acme"), w.began, time.Now()); strings.Contains(page, "No data") {
				return errors.New("one has none")
			}
			return nil
		})
	}
	w.shrinks(30)
	w.until(t, within, "a census is quarantined", `max(namebridge_quarantined_runs{bridge="acme"})`)
	stop()

	// What a person reads at the dashboards is what `namebridge status` says, though two replicas tell it.
	promtest.Eventually(t, within, "dashboards and status say the same", func() error {
		var status struct {
			Bridges []struct {
				Bridge                                string
				Participants, Linked, Synced, Pending int
				Held                                  map[string]int
				Quarantined                           []string
				Halted                                any
			}
		}
		if err := json.Unmarshal([]byte(w.command(t, "status", "--output", "json")), &status); err != nil {
			return err
		}
		want := map[string]float64{"Bridges": float64(len(status.Bridges)), "Halted": 1}
		for _, b := range status.Bridges {
			want["People with their badge"] += float64(b.Synced)
			want["Waiting runs"] += float64(len(b.Quarantined))
			for _, n := range b.Held {
				want["People held"] += float64(n)
			}
		}
		for _, p := range dashboards["fleet.json"].Panels {
			expected, ok := want[p.Title]
			if !ok || p.Type != "stat" {
				continue
			}
			delete(want, p.Title)
			q := p.Ask(chosen(""), w.began, time.Now(), time.Second)[0]
			series, err := w.Query(t.Context(), q.Expr, time.Now())
			if err != nil || len(series) != 1 || series[0].Samples[0].Value != expected {
				return fmt.Errorf("%s: %v, want %v, %w", p.Title, series, expected, err)
			}
		}
		if len(want) > 0 {
			return fmt.Errorf("no panel is called %v", want)
		}
		return nil
	})
	promtest.Eventually(t, within, "both replicas are counted", func() error {
		panels := dashboards["fleet.json"].Panels
		series, err := w.Query(t.Context(), panels[len(panels)-2].Ask(chosen(""), w.began, time.Now(), time.Second)[0].Expr, time.Now())
		if err != nil || len(series) != 1 || series[0].Samples[0].Value != 2 {
			return fmt.Errorf("replicas: %v, want 2 of one version, %w", series, err)
		}
		return nil
	})
	w.canBeSeenWithoutGrafana(t)
}

// Where nothing answers that could be watched, nothing is shown as if it were.
func TestWatchingNothingIsRefused(t *testing.T) {
	t.Parallel()
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	empty := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer empty.Close()
	for address, want := range map[string]string{
		"nonsense": "is not host:port", "http://127.0.0.1:8080/metrics": "is not host:port", "127.0.0.1:1": "no daemon answers",
		strings.TrimPrefix(other.URL, "http://"): "no daemon answers", strings.TrimPrefix(empty.URL, "http://"): "is no namebridge",
	} {
		if err := watch(t.Context(), folder, []string{address}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", address, err)
		}
	}
}

// Who has no Grafana at hand sees the same, of the bridge that the address names.
func (w *world) canBeSeenWithoutGrafana(t *testing.T) {
	t.Helper()
	handler, err := pages(w.Prometheus, folder)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"/fleet": "globex", "/bridge?bridge=acme": "acme"} {
		promtest.Eventually(t, within, path+" shows "+want, func() error {
			answer := httptest.NewRecorder()
			handler.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, http.NoBody))
			page := answer.Body.String()
			if answer.Code != http.StatusOK || !strings.Contains(page, want) || !strings.Contains(page, "writing") {
				return fmt.Errorf("%d\n%s", answer.Code, page)
			}
			return nil
		})
	}
}

// With -pictures it makes those in the documentation; else it draws dashboards of a daemon that has told nothing yet.
func TestThePicturesShowEveryPanel(t *testing.T) {
	t.Parallel()
	dashboards := read(t)
	if *pictures == "" {
		for file, d := range dashboards {
			page, _, height := picture.Page(d, picture.Answers{}, chosen("acme"), time.Now().Add(-time.Hour), time.Now())
			for _, p := range d.Panels {
				if !strings.Contains(page, `">`+strings.NewReplacer("&", "&amp;", "'", "&#39;").Replace(p.Title)) {
					t.Errorf("%s: %s is not in the picture", file, p.Title)
				}
			}
			if height < 500 {
				t.Errorf("%s is %d pixels high", file, height)
			}
		}
		return
	}
	w := newWorld(t, pace{users: 900, collect: 5 * time.Second, sweep: 40 * time.Second, census: time.Minute, at: time.Second})
	w.work(t)
	to := time.Now()
	from := to.Add(-*lasting)
	for file, d := range dashboards {
		all, empty := w.answers(t, d, "acme", from, to, 5*time.Second) // as if scraped so: a second is too fine to be looked at
		for _, e := range empty {
			t.Errorf("nothing to draw: %s", e)
		}
		page, width, height := picture.Page(d, all, chosen("acme"), from, to)
		shoot(t, page, width, height, filepath.Join(*pictures, strings.TrimSuffix(file, ".json")+".png"))
	}
}

// work lets some minutes pass in which much happens.
func (w *world) work(t *testing.T) {
	t.Helper()
	part := *lasting / 6
	pass := func(parts int) {
		select {
		case <-time.After(time.Duration(parts) * part):
		case <-t.Context().Done():
		}
	}
	stop := w.live(t, 250*time.Millisecond)
	pass(2)
	w.late(5)
	w.halts()
	pass(1)
	w.shrinks(40)
	pass(1)
	w.resumes(t)
	w.replicas[1].Kill()
	w.replicas[1] = promtest.Serve(t, w.program, w.env)
	w.Scrape(t, w.replicas[0].Address, w.replicas[1].Address)
	pass(2)
	stop()
}

// shoot photographs a page.
func shoot(t *testing.T, page string, width, height int, to string) {
	t.Helper()
	from := filepath.Join(t.TempDir(), "page.html")
	if err := os.WriteFile(from, []byte(page), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	whole, err := filepath.Abs(to)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-device-scale-factor=1",
		fmt.Sprintf("--window-size=%d,%d", width, height), "--screenshot="+whole, "file://"+from).CombinedOutput()
	if err != nil {
		t.Fatalf("chromium: %v\n%s", err, out)
	}
	thin(t, whole)
}

// thin keeps the 256 colours of a picture that it has most of, which is nearly all: it is half as large.
func thin(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	from, err := png.Decode(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	size := from.Bounds()
	count := map[color.Color]int{}
	for y := range size.Dy() {
		for x := range size.Dx() {
			count[from.At(x, y)]++
		}
	}
	colors := slices.SortedFunc(maps.Keys(count), func(a, b color.Color) int { return count[b] - count[a] })
	to := image.NewPaletted(size, colors[:min(256, len(colors))])
	nearest := map[color.Color]uint8{}
	for y := range size.Dy() {
		for x := range size.Dx() {
			c := from.At(x, y)
			if _, known := nearest[c]; !known {
				nearest[c] = uint8(to.Palette.Index(c))
			}
			to.SetColorIndex(x, y, nearest[c])
		}
	}
	var b bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&b, to); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}
