package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"namebridge/internal/simulator"
	bridgesync "namebridge/sync"
)

const (
	sweepRun   = "7f3a1b2c-dead-4000-8000-0000000000ff"
	collectRun = "7f3a9999-dead-4000-8000-0000000000ff"
	planRun    = "0aaa1b2c-dead-4000-8000-0000000000ff"
	deadRun    = "0bbb1b2c-dead-4000-8000-0000000000ff"
)

// ledger is a desk with runs of several kinds.
func ledger(t *testing.T) *desk {
	t.Helper()
	d := newDesk(t)
	counts := func(written, cleared int) string {
		raw, err := json.Marshal(bridgesync.Result{Written: written, Cleared: cleared, Unchanged: 7, Held: bridgesync.Held{Unmatched: 131, Conflict: 17}, Failed: 2, Requests: bridgesync.Requests{NameCoach: 9, BLN: 4100}})
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	for i, r := range []struct{ run, kind, status, counts, problem string }{
		{collectRun, "collect", "failed", counts(0, 0), "namecoach participants.list: 503\nsecond line"},
		{sweepRun, "sweep", "quarantined", counts(3911, 0), ""},
		{planRun, "plan", "done", counts(12, 3), ""},
	} {
		d.exec(t, `INSERT INTO runs (bridge, run, kind, status, started_at, ended_at, counts, error)
			VALUES ('default', $1, $2, $3, now() - make_interval(hours => $4), now() - make_interval(hours => $4) + interval '92 s', $5, nullif($6, ''))`,
			r.run, r.kind, r.status, i+1, r.counts, r.problem)
	}
	d.exec(t, `INSERT INTO runs (bridge, run, kind, status, started_at) VALUES ('default', $1, 'backfill', 'running', now() - interval '4 hours')`, deadRun)
	return d
}

func TestRunsAreATableOfHowTheyEnded(t *testing.T) {
	t.Parallel()
	d := ledger(t)
	o := d.run(t, "runs", "list").ends(t, 0).tellsOut(t, "7f3a1b2c", "overtaken", "1 min 32 s", "3,911", "148", "namecoach participants.list: 503 …", "interrupted", "namebridge runs show ID")
	if strings.Contains(o.stdout, "second line") {
		t.Errorf("an error takes more than a line: %s", o.stdout)
	}
	at := func(id string) int { return strings.Index(o.stdout, id[:8]) }
	if !slices.IsSorted([]int{0, at(collectRun), at(sweepRun), at(planRun), at(deadRun)}) {
		t.Errorf("not the newest first: %s", o.stdout)
	}
	if o := d.run(t, "runs", "list", "--kind", "sweep").ends(t, 0); strings.Contains(o.stdout, collectRun[:8]) || !strings.Contains(o.stdout, sweepRun[:8]) {
		t.Errorf("of one kind: %s", o.stdout)
	}
	d.run(t, "runs", "list", "--limit", "2").ends(t, 0).tellsOut(t, "the newest 2: --limit 0 for all")
	newDesk(t).run(t, "runs", "list").ends(t, 0).tellsOut(t, "Nothing was run yet", "namebridge plan")
}

func TestRunsAsJSON(t *testing.T) {
	t.Parallel()
	d := ledger(t)
	object := d.run(t, "runs", "list", "--output", "json").ends(t, 0).object(t)
	if diff := cmp.Diff([]string{"bridge", "runs"}, keys(object)); diff != "" {
		t.Error(diff)
	}
	runs := object["runs"].([]any)
	if len(runs) != 4 {
		t.Fatalf("%d runs", len(runs))
	}
	for _, r := range runs {
		if diff := cmp.Diff([]string{"counts", "ended_at", "error", "kind", "run", "started_at", "status"}, keys(r)); diff != "" {
			t.Errorf("keys of a run: %s", diff)
		}
	}
	first := runs[0].(map[string]any)
	if first["run"] != collectRun || first["status"] != "failed" || first["error"] != "namecoach participants.list: 503\nsecond line" {
		t.Errorf("%v", first)
	}
	checkKeys := first["counts"].(map[string]any)
	if diff := cmp.Diff(resultKeys, keys(checkKeys)); diff != "" {
		t.Errorf("keys of counts: %s", diff)
	}
	for args, want := range map[string]int{"--limit 1": 1, "--kind plan": 1, "--kind census": 0, "--limit 0": 4} {
		o := d.run(t, append([]string{"runs", "list", "-o", "json"}, strings.Fields(args)...)...).ends(t, 0)
		if n := len(o.object(t)["runs"].([]any)); n != want {
			t.Errorf("%s: %d runs, want %d", args, n, want)
		}
	}
}

func TestARunIsShownByHowItsIDBegins(t *testing.T) {
	t.Parallel()
	d := ledger(t)
	for prefix, want := range map[string]string{
		"7f3a1": sweepRun, "7F3A1B2C": sweepRun, sweepRun: sweepRun, "0aaa": planRun, "7f3a9": collectRun, strings.ReplaceAll(planRun, "-", ""): planRun,
	} {
		d.run(t, "runs", "show", prefix).ends(t, 0).tellsOut(t, want)
	}
	d.run(t, "runs", "show", "7f3a").ends(t, 1, "2 runs begin with 7f3a", sweepRun, collectRun, "sweep", "namebridge runs list")
	d.run(t, "runs", "show", "ffff").ends(t, 1, "no run whose id begins with ffff", "namebridge runs list")
	for _, bad := range []string{"7f3", "", "xyz0", "7f-3a", "jane@acme.edu", sweepRun + "0"} {
		d.run(t, "runs", "show", bad).ends(t, 2, "at least 4 of its hex digits").discreet(t)
	}
	d.run(t, "runs", "show").ends(t, 2, "give RUN, and nothing else: namebridge runs show RUN")
	d.run(t, "runs", "list", "--kind", "swep").ends(t, 2, "backfill, plan, collect, sweep")
	d.run(t, "runs", "list", "--limit", "-1").ends(t, 2, "--limit -1")
	d.run(t, "runs", "shw").ends(t, 2, "did you mean show")
}

// One clock: the time is that of the last try, and the newest is what was last begun.
func TestARunThatWasGoneOnWithStandsWhereItWasGoneOnWith(t *testing.T) {
	t.Parallel()
	d := ledger(t)
	d.exec(t, `UPDATE runs SET status = 'done', resumed_at = now() - interval '1 minute', ended_at = now() - interval '55 s' WHERE run = $1`, deadRun)
	o := d.run(t, "runs", "list", "--limit", "1").ends(t, 0).tellsOut(t, deadRun[:8], "5.0 s")
	if strings.Contains(o.stdout, " h ") {
		t.Errorf("the time in between is counted:\n%s", o.stdout)
	}
	d.run(t, "runs", "show", deadRun).ends(t, 0).tellsOut(t, "started", "went on", "took 5.0 s; the numbers are those of all its tries")
	d.run(t, "status").ends(t, 0).tellsOut(t, "5.0 s")
	d.exec(t, `UPDATE runs SET approved_at = resumed_at, approved_reason = 'looked at' WHERE run = $1`, deadRun)
	d.run(t, "runs", "show", deadRun).ends(t, 0).tellsOut(t, ", took 5.0 s: looked at")
}

// Whoever has to look reads the whole reason, once, and it has no power over the terminal.
func TestTheReasonOfARunIsNotCut(t *testing.T) {
	t.Parallel()
	d := ledger(t)
	long := strings.Repeat("BLN lost a key\x1b[31m of somebody. ", 40) + "That is the end."
	d.exec(t, `UPDATE runs SET status = 'halted', error = $2 WHERE run = $1`, collectRun, "halted: "+long)
	for _, args := range [][]string{{"runs", "show", collectRun}, {"runs", "list"}} {
		o := d.run(t, args...).ends(t, 0)
		text := strings.Join(strings.Fields(o.stdout), " ")
		if !strings.Contains(text, "That is the end.") || strings.Contains(text, "halted: ") || strings.Contains(text, "\x1b") {
			t.Errorf("%s", o.stdout)
		}
	}
	d.run(t, "status").ends(t, 0).tellsOut(t, "collect halted: BLN lost a key")
}

func TestARunIsShownWithItsCountsAndError(t *testing.T) {
	t.Parallel()
	d := ledger(t)
	d.run(t, "runs", "show", "7f3a9").ends(t, 0).tellsOut(t, "collect "+collectRun, "failed", "took 1 min 32 s", "namecoach participants.list: 503", "second line",
		"written 0", "held 148", "unmatched 131", "9 to NameCoach, 4,100 to BLN", "It has written nothing to BLN.")
	d.exec(t, `UPDATE runs SET requests_bln = 4123 WHERE run = $1`, collectRun) // what was put back after the end
	d.run(t, "runs", "show", "7f3a9").ends(t, 0).tellsOut(t, "9 to NameCoach, 4,123 to BLN")
	d.run(t, "runs", "show", "0bbb").ends(t, 0).tellsOut(t, "backfill "+deadRun, "interrupted")
	d.run(t, "runs", "show", "0aaa").ends(t, 0).tellsOut(t, "to write 12 · to clear 3")
}

// stage gives the sweep and the plan steps: 25 that stand, and one whose user has moved on.
func (d *desk) stage(t *testing.T) {
	t.Helper()
	d.exec(t, `INSERT INTO directory_users (bridge, user_id, username, email, external_id, sweep, wanted_version, action)
		SELECT 'default', n, 'user-' || n, '', '', 1, 1, CASE WHEN n > 124 THEN 'write' ELSE 'clear' END FROM generate_series(101, 126) n`)
	for _, run := range []string{sweepRun, planRun} {
		d.exec(t, `INSERT INTO plan_steps (bridge, run, user_id, action, wanted, version) SELECT 'default', $1, n, CASE WHEN n > 124 THEN 'write' ELSE 'clear' END,
			CASE WHEN n > 124 THEN '{"recording_id": "1"}'::jsonb END, 1 FROM generate_series(101, 126) n`, run)
	}
	d.exec(t, `UPDATE directory_users SET wanted_version = 2 WHERE user_id = 102`)
	d.exec(t, `UPDATE directory_users SET removes = true, applied_digest = 'd', applied_recording = user_id <> 103 WHERE user_id <> 125`)
}

// lines are those of stdout, with single spaces.
func (o outcome) lines() (all []string) {
	for line := range strings.Lines(o.stdout) {
		all = append(all, strings.Join(strings.Fields(line), " "))
	}
	return all
}

func TestStepsThatWaitAreShownWithHowToApproveThem(t *testing.T) {
	t.Parallel()
	d := ledger(t)
	d.stage(t)
	for _, id := range []string{sweepRun, planRun} {
		o := d.run(t, "runs", "show", id).ends(t, 0).tellsOut(t, "for 26 users: write 2 · clear 24", "101", "120", "and 6 more: --limit 0 for all", "has changed since: would be left out",
			"They wait until somebody approves them (1 has changed since and would be left out).", "Approve: namebridge runs approve "+id[:8]+" --reason")
		if strings.Contains(o.stdout, "121") {
			t.Errorf("more than the first 20 users: %s", o.stdout)
		}
	}
	o := d.run(t, "runs", "show", sweepRun, "--limit", "0").tellsOut(t, "QUARANTINED", "user", "username", "loses").lines()
	for user, want := range map[string]string{
		"101": "user-101 clear badge and recording", "102": "user-102 clear has changed since: would be left out", "103": "user-103 clear badge",
		"125": "user-125 write", "126": "user-126 write recording",
	} {
		if !slices.Contains(o, user+" "+want) {
			t.Errorf("user %s is not shown as %q: %q", user, want, o)
		}
	}
	object := d.run(t, "runs", "show", planRun, "-o", "json").ends(t, 0).object(t)
	staged := object["staged"].(map[string]any)
	if object["waiting"] != true || object["approved"] != nil || staged["writes"] != 2.0 || staged["clears"] != 24.0 || staged["moved"] != 1.0 || len(staged["steps"].([]any)) != 26 {
		t.Errorf("%v", object)
	}
	second := map[string]any{"user_id": 102.0, "action": "clear", "wanted": nil, "moved": true, "username": "user-102", "lost": ""}
	if diff := cmp.Diff(second, staged["steps"].([]any)[1]); diff != "" {
		t.Error(diff)
	}
	last := staged["steps"].([]any)[25].(map[string]any)
	if last["username"] != "user-126" || last["lost"] != "recording" {
		t.Errorf("%v", last)
	}
	for limit, want := range map[string]int{"0": 26, "3": 3} {
		object := d.run(t, "runs", "show", planRun, "-o", "json", "--limit", limit).ends(t, 0).object(t)
		if n := len(object["staged"].(map[string]any)["steps"].([]any)); n != want {
			t.Errorf("--limit %s: %d steps, want %d", limit, n, want)
		}
	}

	d.exec(t, `UPDATE runs SET approved_at = now(), approved_reason = 'looked at', status = 'done' WHERE run = $1`, sweepRun)
	if o := d.run(t, "runs", "show", sweepRun).ends(t, 0).tellsOut(t, "approved", "looked at", "Staged for 26 users"); strings.Contains(o.stdout, "They wait") {
		t.Errorf("what is approved does not wait: %s", o.stdout)
	}
	object = d.run(t, "runs", "show", sweepRun, "-o", "json").ends(t, 0).object(t)
	if object["waiting"] != false || object["approved"].(map[string]any)["reason"] != "looked at" {
		t.Errorf("%v", object)
	}
	// A run that would do nothing any more waits for nobody.
	d.exec(t, `UPDATE directory_users SET wanted_version = 9`)
	none := d.run(t, "runs", "show", planRun).ends(t, 0).tellsOut(t, "Planned for 26 users", "None of that is left to be done")
	if strings.Contains(none.stdout, "They wait") || strings.Contains(none.stdout, "101") {
		t.Errorf("%s", none.stdout)
	}
}

// Of a record, a run's page shows the bridge's own keys, and those as JSON only.
func TestWritesOfARunAreShownWithoutForeignValues(t *testing.T) {
	t.Parallel()
	d := ledger(t)
	d.exec(t, `INSERT INTO journal (bridge, run, user_id, fence, action, state, before, before_fragment, after_fragment, note, settled_at)
		SELECT 'default', $1, n, 1, 'write', CASE n WHEN 1 THEN 'damaged' ELSE 'verified' END, '{"workPhone": "canary4711"}', CASE WHEN n > 1 THEN '{"namecoach": null}'::bytea END,
			'{"namecoach": {"recording_id": "19"}}', CASE n WHEN 1 THEN 'workPhone was dropped' END, now() FROM generate_series(1, 60) n`, sweepRun)
	o := d.run(t, "runs", "show", sweepRun).ends(t, 0).tellsOut(t, "60 writes: damaged 1 · verified 59", "workPhone was dropped", "and 40 more: --limit 0 for all")
	if strings.Contains(o.stdout, canary) || strings.Contains(o.stdout, "recording_id") {
		t.Errorf("%s", o.stdout)
	}
	if o := d.run(t, "runs", "show", sweepRun, "--limit", "0").ends(t, 0); strings.Contains(o.stdout, "more") {
		t.Errorf("%s", o.stdout)
	}
	o = d.run(t, "runs", "show", sweepRun, "--output", "json").ends(t, 0)
	if strings.Contains(o.stdout, canary) {
		t.Errorf("a foreign value is shown: %s", o.stdout)
	}
	object := o.object(t)
	if diff := cmp.Diff([]string{"approved", "bridge", "run", "since", "staged", "waiting", "writes", "writes_by_state"}, keys(object)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]any{"damaged": 1.0, "verified": 59.0}, object["writes_by_state"]); diff != "" {
		t.Error(diff)
	}
	writes := object["writes"].([]any)
	if len(writes) != 60 {
		t.Fatalf("%d writes", len(writes))
	}
	for _, w := range writes {
		if diff := cmp.Diff([]string{"action", "after", "before", "created_at", "note", "settled_at", "state", "user_id"}, keys(w)); diff != "" {
			t.Errorf("keys of a write: %s", diff)
		}
	}
	first, second := writes[0].(map[string]any), writes[1].(map[string]any)
	if first["before"] != nil || first["note"] != "workPhone was dropped" {
		t.Errorf("%v", first)
	}
	if diff := cmp.Diff(map[string]any{"namecoach": nil}, second["before"]); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]any{"namecoach": map[string]any{"recording_id": "19"}}, second["after"]); diff != "" {
		t.Error(diff)
	}
	if n := len(d.run(t, "runs", "show", sweepRun, "-o", "json", "--limit", "3").ends(t, 0).object(t)["writes"].([]any)); n != 3 {
		t.Errorf("%d writes, want 3", n)
	}
}

// What a real run did is what its page shows.
func TestABackfillIsShownAsItWas(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{Seed: 3, Users: 60})
	result := p.run(t, "backfill", "--output", "json").ends(t, 0).object(t)
	id := result["run"].(string)
	object := p.run(t, "runs", "show", id[:8], "--output", "json").ends(t, 0).object(t)
	run := object["run"].(map[string]any)
	if run["run"] != id || run["status"] != "done" || run["counts"].(map[string]any)["written"] != result["written"] {
		t.Errorf("%v, want %v", run, result)
	}
	if n := len(object["writes"].([]any)); result["written"] == 0.0 || float64(n) != result["written"] {
		t.Errorf("%d writes, want %v", n, result["written"])
	}
	p.run(t, "runs", "show", id).ends(t, 0).tellsOut(t, "done", fmt.Sprintf("%v writes: verified %v", result["written"], result["written"]))
}
