package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sethvargo/go-envconfig"

	"namebridge/internal/postgres/testdb"
	"namebridge/internal/simulator"
)

// within is how long something may take to come about that takes a second or two on an idle machine.
const within = time.Minute

// eventually waits until all is as it should be: until ok says nothing.
func eventually(t *testing.T, what string, ok func() string) {
	t.Helper()
	problem := ""
	for deadline := time.Now().Add(within); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if problem = ok(); problem == "" {
			return
		}
	}
	t.Fatalf("after %v not %s: %s", within, what, problem)
}

// lively is the place with a daemon's schedules that a test can wait for, and nothing else due.
func (p *place) lively(changes map[string]string) *place {
	env := map[string]string{
		"LISTEN_ADDR": "127.0.0.1:0", "COLLECT_SCHEDULE": "@every 1s", "SWEEP_SCHEDULE": "@every 24h", "CENSUS_SCHEDULE": "@every 24h", "WINDOW_SETTLE": "0s",
	}
	maps.Copy(env, changes)
	return p.with(env)
}

// serving is `serve`, running.
type serving struct {
	*place
	log   *logged
	stop  func()        // SIGTERM
	ended chan struct{} // closed when it has ended, with code
	code  int
}

// serve runs the daemon in this process, until the test ends or stop is called.
func (p *place) serve(t *testing.T) *serving {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	d := &serving{place: p, log: new(logged), stop: stop, ended: make(chan struct{})}
	go func() {
		defer close(d.ended)
		d.code = run(ctx, []string{"serve"}, envconfig.MapLookuper(p.env), io.Discard, d.log)
	}()
	t.Cleanup(func() {
		stop()
		<-d.ended
		if t.Failed() {
			t.Logf("the daemon said:\n%s", d.log)
		}
	})
	return d
}

// ends waits for its end and checks the exit code.
func (d *serving) ends(t *testing.T, code int) {
	t.Helper()
	select {
	case <-d.ended:
	case <-time.After(within):
		t.Fatal("the daemon does not end")
	}
	if d.code != code {
		t.Errorf("exit %d, want %d", d.code, code)
	}
}

// lines are what the daemon has logged under a message.
func (d *serving) lines(message string) (all []map[string]any) {
	for line := range strings.Lines(d.log.String()) {
		var entry map[string]any
		if json.Unmarshal([]byte(line), &entry) == nil && entry["msg"] == message {
			all = append(all, entry)
		}
	}
	return all
}

// ask asks the daemon over HTTP: 0 where it does not answer.
func (d *serving) ask(path string) (status int, text string) {
	starting := d.lines("starting")
	if len(starting) == 0 {
		return 0, "it does not listen yet"
	}
	res, err := http.Get(fmt.Sprintf("http://%s%s", starting[0]["http"], path)) //nolint:noctx // a test's own server
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err.Error()
	}
	return res.StatusCode, strings.TrimSpace(string(body))
}

// answers waits until the daemon answers so.
func (d *serving) answers(t *testing.T, path string, status int, text string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s %d %s", path, status, text), func() string {
		if got, said := d.ask(path); got != status || !strings.Contains(said, text) {
			return fmt.Sprintf("%d %s", got, said)
		}
		return ""
	})
}

// right waits until everybody's fragment is what it should be.
func (p *place) right(t *testing.T) {
	t.Helper()
	eventually(t, "right", func() string { return strings.Join(p.Mismatches(3), "\n") })
}

func TestServeBringsAnEmptyDatabaseToWhatShouldBeAndKeepsItThere(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{Seed: 9, Users: 120}).lively(nil)
	p.env["DATABASE_URL"] = testdb.URL(t, nil)
	foreign := p.ForeignDigests("namecoach")
	d := p.serve(t)
	p.right(t)
	d.answers(t, "/readyz", 200, "ok")
	d.answers(t, "/healthz", 200, "ok")
	d.answers(t, "/metrics", 200, `namebridge_users{bridge="default",state="synced"}`)
	d.answers(t, "/metrics", 200, `namebridge_api_requests_total{api="namecoach",bridge="default",code="200",endpoint="participants.list"}`)
	d.answers(t, "/metrics", 200, "process_resident_memory_bytes")

	// What people do on NameCoach arrives without any command.
	life := p.Life(simulator.LifeOptions{Seed: 1, Weights: simulator.Weights{
		simulator.RecordsAnew: 5, simulator.RecordsFirst: 3, simulator.RemovesRecording: 1, simulator.JoinsNameCoach: 2,
	}})
	if n := len(life.Changes(12)); n != 12 {
		t.Fatalf("%d changes", n)
	}
	p.right(t)
	d.stop()
	d.ends(t, 0)
	now := p.ForeignDigests("namecoach")
	for id, digest := range foreign {
		if now[id] != digest {
			t.Errorf("user %d: foreign keys are not what they were: %s", id, p.UserOtherInfo(id))
		}
	}
	for _, v := range p.Violations() {
		t.Error(v)
	}
}
