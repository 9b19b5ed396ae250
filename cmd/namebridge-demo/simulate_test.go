package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

// The export lines are all that a bridge needs, and the servers behind them answer until the context ends.
func TestSimulatePrintsWhatABridgeNeedsAndServes(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out, to := io.Pipe()
	var log bytes.Buffer
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, []string{"simulate", "--users", "50", "--seed", "3", "--put", "shallow", "--list-rows", "partial", "--paging", "ignored"}, to, &log)
	}()
	env := map[string]string{}
	lines := bufio.NewScanner(out)
	for len(env) < 6 && lines.Scan() {
		name, value, ok := strings.Cut(strings.TrimPrefix(lines.Text(), "export "), "=")
		if !ok {
			t.Fatalf("no export line: %q", lines.Text())
		}
		env[name] = value
	}
	for _, name := range []string{"NAMECOACH_URL", "NAMECOACH_TOKEN", "BLN_URL", "BLN_ORGANIZATION_ID", "BLN_USERNAME", "BLN_PASSWORD"} {
		if env[name] == "" {
			t.Errorf("%s is missing", name)
		}
	}
	ask := func(address, token string) (int, string) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", token)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	if status, body := ask(env["NAMECOACH_URL"]+"/participants?updated_before=2030-01-01T00:00:00Z", env["NAMECOACH_TOKEN"]); status != http.StatusOK || !strings.Contains(body, `"total_pages":1`) {
		t.Errorf("NameCoach: %d %.200s", status, body)
	}
	if status, body := ask(env["BLN_URL"]+"/organizations/"+env["BLN_ORGANIZATION_ID"], ""); status != http.StatusOK || !strings.Contains(body, "Demo College") {
		t.Errorf("BLN: %d %.200s", status, body)
	}
	cancel()
	if code := <-done; code != 0 {
		t.Errorf("exit code %d", code)
	}
	for _, want := range []string{"with 50 users", "a correct backfill writes", "namecoach participants.list", "bln organization.get"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no %q in\n%s", want, log.String())
		}
	}
}

// Whoever watches a bridge follow reads what it follows, a line for each change.
func TestSimulateSaysWhatPeopleDo(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	lines, log := io.Pipe()
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, []string{"simulate", "--users", "60", "--changes-per-minute", "30000"}, io.Discard, log)
		log.Close()
	}()
	said := regexp.MustCompile(`^\d\d:\d\d:\d\d  .+ (records|removes|is|gets|has) .+ · (user|participant) \d+`)
	changes, last := 0, ""
	for s := bufio.NewScanner(lines); s.Scan(); last = s.Text() {
		if said.MatchString(s.Text()) {
			changes++
		}
		if changes == 20 {
			cancel()
		}
	}
	if code := <-done; code != 0 || changes < 20 || last != "writes: 0, of which 0 changed nothing" {
		t.Errorf("code %d, %d changes, the last line is %q", code, changes, last)
	}
}

func TestWrongUsageIsCode2AndSaysWhat(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"simulate --put sometimes": "must be one of [deep replace shallow]",
		"simulate --faults 2":      "no share from 0 to 1",

		"simulate --changes-per-minute -1":  "no number from 0 to 60000",
		"simulate --changes-per-minute NaN": "no number from 0 to 60000",
		"simulate --role owner":             `unknown role "owner"`,
		"simulate --users -1":               "-1 users",
		"simulate --shoes":                  "unknown flag",
		"simulate extra":                    "unknown command",
		"nonsense":                          "unknown command",
	} {
		var stderr bytes.Buffer
		if code := run(t.Context(), strings.Fields(args), io.Discard, &stderr); code != 2 || !strings.Contains(stderr.String(), want) {
			t.Errorf("%s: code %d, %s", args, code, stderr.String())
		}
	}
}

func TestAnAddressThatIsTakenIsCode1(t *testing.T) {
	t.Parallel()
	var stderr bytes.Buffer
	if code := run(t.Context(), []string{"simulate", "--users", "0", "--bln-addr", "256.0.0.1:1"}, io.Discard, &stderr); code != 1 || !strings.Contains(stderr.String(), "listen") {
		t.Errorf("code %d, %s", code, stderr.String())
	}
}
