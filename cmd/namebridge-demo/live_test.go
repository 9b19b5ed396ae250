package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"namebridge/internal/postgres/testdb"
	"namebridge/internal/simulator"
)

// small is a demo of few people who are in a hurry.
func small(t *testing.T) *demo {
	t.Helper()
	return &demo{
		world: simulator.Options{Seed: 1, Users: 60}, binary: instead(t, `exec "$real" serve`), postgres: testdb.URL(t, nil),
		every: 200 * time.Millisecond, lasting: 3 * time.Second,
	}
}

// ready is a demo that has come to its last part.
func ready(t *testing.T, out io.Writer) *demo {
	t.Helper()
	d := small(t)
	sim, err := simulator.New(d.world)
	if err != nil {
		t.Fatal(err)
	}
	if err := sim.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sim.Close() })
	d.sim, d.out, d.log = sim, out, out
	d.configure(d.postgres)
	return d
}

// instead is a namebridge that is the real one but for its serve, which is a line of shell: $real is the real one. Beside it is a file with the daemon's process id.
func instead(t *testing.T, serve string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "namebridge")
	script := "#!/bin/sh\nreal='" + namebridge(t) + "'\nif [ \"$1\" = serve ]; then\necho $$ > \"$0.pid\"\n" + serve + "\nfi\nexec \"$real\" \"$@\"\n"
	// A child that another test forks meanwhile would have it open for writing: "text file busy".
	syscall.ForkLock.RLock()
	err := os.WriteFile(path, []byte(script), 0o755)
	syscall.ForkLock.RUnlock()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var (
	environmentFile = regexp.MustCompile(`(?m)^    \. (/.*/env)$`)
	answersAt       = regexp.MustCompile(`http://(127\.0\.0\.1:\d+)/readyz`)
)

// gone checks that nothing is left of a demo that said this and had its namebridge from instead: neither the daemon nor its files.
func gone(t *testing.T, binary, said string) {
	t.Helper()
	file, at := environmentFile.FindStringSubmatch(said), answersAt.FindStringSubmatch(said)
	if file == nil || at == nil {
		t.Fatalf("it does not say where its settings are, and where it answers:\n%s", said)
	}
	if _, err := os.Stat(filepath.Dir(file[1])); !os.IsNotExist(err) {
		t.Errorf("its folder is still there: %v", err)
	}
	id, err := os.ReadFile(binary + ".pid")
	if err != nil {
		t.Fatal(err)
	}
	daemon, err := strconv.Atoi(strings.TrimSpace(string(id)))
	if err != nil {
		t.Fatal(err)
	}
	// The daemon's process group, not its port: that may be another's by now.
	if err := syscall.Kill(-daemon, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("its daemon, process %d, is still there: %v", daemon, err)
	}
}

func TestWhatPeopleChangeWhileItServesArrives(t *testing.T) {
	t.Parallel()
	d := small(t)
	d.lasting = 5 * time.Second
	var out, log bytes.Buffer
	if err := d.run(t.Context(), &out, &log); err != nil {
		t.Fatalf("%v\n%s\n%s", err, &out, &log)
	}
	said := out.String()
	n := strings.Count(said, "→ in BLN")
	if all := fmt.Sprintf("  Arrived: %d of %[1]d ", n); n < 1 || !strings.Contains(said, all) {
		t.Errorf("%d changes have arrived, and it does not say %q\n%s", n, all, said)
	}
	arrived := regexp.MustCompile(`(?m)^  \d\d:\d\d:\d\d   → in BLN  .+: (badge and recording|recording only|badge only|no badge), after \d+(\.\d)? s$`)
	if told := len(arrived.FindAllString(said, -1)); told != n {
		t.Errorf("of %d lines about arrivals %d say what has arrived and after how long\n%s", n, told, said)
	}
	for _, want := range []string{"It ends by itself after 5.0 s", "ended with exit code 0", "median", "Lost or changed: 0.", "all are right", "nothing is left behind"} {
		if !strings.Contains(said, want) {
			t.Errorf("%q is missing", want)
		}
	}
	if strings.Contains(said, "not yet") || strings.ContainsAny(said, "\r\x1b") {
		t.Errorf("something is late, or there are control characters:\n%q", said)
	}
	if t.Failed() {
		t.Log(said)
	}
	gone(t, d.binary, said)
}

// Whoever ends it by Ctrl-C has seen what there was to see: that is no failure, whether or not everything has arrived.
func TestCtrlCEndsAServingDemoWell(t *testing.T) {
	t.Parallel()
	for _, at := range []string{" is added to", "→ in BLN"} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			d := small(t)
			d.lasting = 0
			out, log := &cutter{at: at, cut: cancel}, new(bytes.Buffer)
			if err := d.run(ctx, out, log); err != nil {
				t.Errorf("%v\n%s\n%s", err, &out.Buffer, log)
			}
			for _, want := range []string{"Ctrl-C stops it.", "ended with exit code 0", "nothing is left behind"} {
				if !strings.Contains(out.String(), want) {
					t.Errorf("%q is missing in\n%s", want, &out.Buffer)
				}
			}
			gone(t, d.binary, out.String())
		})
	}
}

func TestCtrlCBeforePeopleChangeIsAnInterruption(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"postgres ", "$ namebridge plan", "$ namebridge serve"} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			d := small(t)
			out, log := &cutter{at: at, cut: cancel}, new(bytes.Buffer)
			if err := d.run(ctx, out, log); err == nil || err.Error() != "interrupted: everything was stopped, nothing is left behind" {
				t.Errorf("%v\n%s\n%s", err, &out.Buffer, log)
			}
		})
	}
}

// The commands that it names work as they stand there, also where the other terminal has settings of a real account.
func TestTheSettingsForAnotherTerminalAreAllThatTheOtherCommandsNeed(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &cutter{at: "→ in BLN"}
	d := ready(t, out)
	d.lasting = 0
	out.cut = func() {
		file := environmentFile.FindStringSubmatch(out.String())
		if file == nil || ctx.Err() != nil {
			return
		}
		commands := regexp.MustCompile(`(?m)^    (namebridge .+?)  `).FindAllStringSubmatch(out.String(), -1)
		if len(commands) != 4 {
			t.Errorf("commands to try: %q", commands)
		}
		for _, command := range append(commands, []string{"", "namebridge backfill"}) { // which leaves nothing to do
			c := exec.CommandContext(ctx, "/bin/sh", "-ec", ". "+file[1]+"\n"+command[1])
			c.Env = append(os.Environ(), "DATABASE_URL=postgres://nobody@127.0.0.1:1/", "NAMECOACH_TOKEN_FILE=/no/such/file", "BRIDGES=acme,globex", "MATCH_BY=stars")
			if said, err := c.CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", command[1], err, said)
			}
		}
		cancel()
	}
	if err := d.live(ctx); err != nil {
		t.Errorf("%v\n%s", err, &out.Buffer)
	}
}

func TestADaemonThatEndsByItselfIsReportedWithItsLastWords(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ serve, want string }{
		"at once":            {`echo "first words" >&2; for i in 1 2 3 4 5 6 7 8 9 10 11; do echo "line $i" >&2; done; echo "last words" >&2; exit 7`, "exit status 7. It logged last:\n  line 1\n"},
		"with nothing wrong": {`echo "last words" >&2; exit 0`, "exit status 0. It logged last:\n  last words"},
		"while people change": {`"$real" serve & child=$!
			sleep 4
			kill -KILL $child; wait $child; echo "last words" >&2; exit 9`, "exit status 9"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			d := ready(t, &out)
			d.lasting, d.binary = time.Hour, instead(t, test.serve)
			err := d.live(t.Context())
			if err == nil || !strings.Contains(err.Error(), "namebridge serve ended by itself: "+test.want) || !strings.Contains(err.Error(), "last words") {
				t.Errorf("%v\n%s", err, &out)
			}
			if err != nil && strings.Contains(err.Error(), "first words") {
				t.Errorf("more than the last lines: %v", err)
			}
		})
	}
}

func TestADemoFailsWhereSomethingDoesNotArrive(t *testing.T) {
	t.Parallel()
	d := small(t)
	d.binary = instead(t, `COLLECT_SCHEDULE="@every 24h" SWEEP_SCHEDULE="@every 24h" exec "$real" serve`)
	d.lasting, d.patience = 5*time.Second, 2*time.Second
	var out, log bytes.Buffer
	err := d.run(t.Context(), &out, &log)
	if err == nil || !strings.Contains(err.Error(), "did not arrive within 2.0 s") || !strings.Contains(out.String(), "not yet") {
		t.Errorf("%v\n%s\n%s", err, &out, &log)
	}
	gone(t, d.binary, out.String())
}

// A server that loses somebody else's key stops namebridge: there is nothing wrong then, but nothing arrives any more either.
func TestADemoFailsWhereTheBridgeHalts(t *testing.T) {
	t.Parallel()
	d := small(t)
	world, err := simulator.New(d.world)
	if err != nil {
		t.Fatal(err)
	}
	d.world.DropForeignKeyOnPut.At = world.Truth().Totals.Written + 1
	d.patience = 15 * time.Second // the daemon has to come to its first write within it
	var out, log bytes.Buffer
	err = d.run(t.Context(), &out, &log)
	if err == nil || !strings.Contains(err.Error(), "namebridge has halted") || !strings.Contains(out.String(), "Lost or changed: 0.") {
		t.Errorf("%v\n%s\n%s", err, &out, &log)
	}
	gone(t, d.binary, out.String())
}

func TestAForeignKeyThatABridgeLosesIsSeen(t *testing.T) {
	t.Parallel()
	sim, err := simulator.New(simulator.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := sim.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sim.Close() }()
	id := sim.AddUser(simulator.NewUser{Username: "jane.roe@demo.example", OtherInfo: `{"jobTitle": "Mayor"}`})
	for _, step := range []struct {
		body string
		want []string
	}{
		{`{"otherInfo": {"jobTitle": "Mayor", "namecoach": null}}`, nil},
		{`{"otherInfo": {}}`, []string{"lost or changed by 1 write", "is lost or changed in 1 user"}},
	} {
		body, want := step.body, step.want
		put, err := http.NewRequestWithContext(t.Context(), http.MethodPut, fmt.Sprintf("%s/organizations/%d/users/%d", sim.BLNURL(), sim.OrganizationID(), id), strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		put.Header.Set("Authorization", "Bearer "+sim.AccessToken())
		put.Header.Set("Content-Type", "application/json")
		answer, err := http.DefaultClient.Do(put)
		if err != nil || answer.StatusCode != http.StatusOK {
			t.Fatalf("PUT: %v, %v", answer, err)
		}
		_ = answer.Body.Close()
		var out bytes.Buffer
		wrong := strings.Join((&demo{sim: sim, out: &out}).verdict(nil), "\n")
		for _, text := range want {
			if !strings.Contains(wrong, text) {
				t.Errorf("%s: %q", body, wrong)
			}
		}
		if want == nil && (wrong != "" || !strings.Contains(out.String(), "Lost or changed: 0.")) {
			t.Errorf("%s: %q\n%s", body, wrong, &out)
		}
	}
}

func TestADaemonThatDoesNotEndWellIsAFailure(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	d := ready(t, &out)
	d.lasting = time.Second
	d.binary = instead(t, `"$real" serve & child=$!; trap 'kill $child; wait $child; echo "no mood" >&2; exit 5' TERM; wait $child`)
	err := d.live(t.Context())
	if err == nil || !strings.Contains(err.Error(), "did not end well: exit status 5") || !strings.Contains(err.Error(), "no mood") {
		t.Errorf("%v\n%s", err, &out)
	}
	gone(t, d.binary, out.String())
}

// What the help shows can be typed.
func TestTheExamplesOfTheHelpAreRight(t *testing.T) {
	t.Parallel()
	cmd := demoCommand()
	for line := range strings.Lines(cmd.Example) {
		args, ok := strings.CutPrefix(strings.TrimSpace(line), "namebridge-demo demo")
		if !ok {
			t.Errorf("no example of this command: %s", line)
		}
		if err := cmd.ParseFlags(strings.Fields(args)); err != nil || len(cmd.Flags().Args()) > 0 {
			t.Errorf("%s: %v", line, err)
		}
	}
}
