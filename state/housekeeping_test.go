package state_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"namebridge/state"
)

// month is how long things are kept in these tests.
const month = 30 * 24 * time.Hour

// tidied puts things into bridge a, each with a name, forgets what nobody needs, and names what is left.
func tidied(t *testing.T, db *pgxpool.Pool, rows map[string]bool, insert func(q state.Querier, name string), left string) {
	t.Helper()
	for name := range rows {
		insert(db, name)
	}
	for range 2 { // as often as it is called
		get[int64](t)(state.Prune(t.Context(), db, "a", month))
	}
	names := get[[]string](t)(pgx.CollectRows(get[pgx.Rows](t)(db.Query(t.Context(), left)), pgx.RowTo[string]))
	got := map[string]bool{}
	for name := range rows {
		got[name] = false
	}
	for _, name := range names {
		got[name] = true
	}
	if diff := cmp.Diff(rows, got); diff != "" {
		t.Errorf("kept (-want +got): %s", diff)
	}
}

func TestSettledJournalEntriesAreForgottenInTime(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	settled := map[string][2]string{ // state, settled
		"verified, old": {"verified", "31 days"}, "verified, young": {"verified", "29 days"}, "unsent, old": {"unsent", "31 days"},
		"restored, old": {"restored", "31 days"}, "damaged, old": {"damaged", "10 years"}, "open, old": {"sending", ""},
	}
	tidied(t, db, map[string]bool{
		"verified, old": false, "verified, young": true, "unsent, old": false, "restored, old": false,
		"damaged, old": true, // its before-image is all that there is of somebody's data
		"open, old":    true, // nobody has looked into it yet
	}, func(q state.Querier, name string) {
		exec(t, q, `INSERT INTO journal (bridge, run, user_id, fence, action, state, note, created_at, settled_at)
			VALUES ('a', gen_random_uuid(), 1, 1, 'write', $1, $2, now() - interval '20 years', now() - nullif($3, '')::interval)`, settled[name][0], name, settled[name][1])
	}, `SELECT note FROM journal`)
}

func TestRunsOfWhichNothingIsLeftToTellAreForgotten(t *testing.T) {
	t.Parallel()
	const idle, busy = `{"written": 0, "cleared": 0}`, `{"written": 1, "cleared": 0}`
	db := directory(t, 3)
	want(t, db, "a", "clear", 1, 2)
	type run struct {
		kind, status, counts string
		hours                int // since it ended
		steps, journal       string
	}
	runs := map[string]run{
		"a sweep, old":                       {kind: "sweep", status: "done", counts: busy, hours: 31 * 24},
		"a sweep, young and idle":            {kind: "sweep", status: "done", counts: idle, hours: 29 * 24},
		"a sweep, newest":                    {kind: "sweep", status: "failed", hours: 1},
		"a sweep, old but under way":         {kind: "sweep", status: "running", hours: 40 * 24},
		"a census, old but the newest":       {kind: "census", status: "failed", hours: 35 * 24},
		"a census, old but the last success": {kind: "census", status: "done", counts: busy, hours: 36 * 24},
		"a census, old and failed":           {kind: "census", status: "failed", hours: 37 * 24},
		"a census, old and done":             {kind: "census", status: "done", counts: busy, hours: 38 * 24},
		"waiting for a person":               {kind: "census", status: "quarantined", hours: 400 * 24, steps: `(1, 1)`},
		"waiting for nobody by now":          {kind: "census", status: "quarantined", hours: 400 * 24, steps: `(2, 7)`},
		"its writes are told of":             {kind: "census", status: "done", hours: 400 * 24, journal: "damaged"},

		"a collect, newest":               {kind: "collect", status: "done", counts: idle, hours: 0},
		"a collect, idle within the hour": {kind: "collect", status: "done", counts: idle, hours: 0},
		"a collect, idle":                 {kind: "collect", status: "done", counts: idle, hours: 2},
		"a collect that wrote":            {kind: "collect", status: "done", counts: busy, hours: 2},
		"a collect that cleared":          {kind: "collect", status: "done", counts: `{"written": 0, "cleared": 2}`, hours: 2},
		"a collect that failed":           {kind: "collect", status: "failed", counts: idle, hours: 2},
		"a collect that was halted":       {kind: "collect", status: "halted", counts: idle, hours: 2},
		"a collect, with others' failed":  {kind: "collect", status: "done", counts: `{"written": 0, "cleared": 0, "failed": 1}`, hours: 2},
		"a collect that wrote, old":       {kind: "collect", status: "done", counts: busy, hours: 31 * 24},
		"a plan, old":                     {kind: "plan", status: "done", hours: 31 * 24, steps: `(1, 1)`},
		"a plan, newest":                  {kind: "plan", status: "done", hours: 5},
	}
	kept := map[string]bool{}
	for name := range runs {
		kept[name] = true
	}
	for _, name := range []string{
		"a sweep, old", "a census, old and failed", "a census, old and done", "waiting for nobody by now", "a collect, idle", "a collect, with others' failed", "a collect that wrote, old", "a plan, old",
	} {
		kept[name] = false
	}
	tidied(t, db, kept, func(q state.Querier, name string) {
		r := runs[name]
		id := uuid.New()
		minutes := 0
		if name == "a collect, idle within the hour" {
			minutes = 50
		}
		exec(t, q, `INSERT INTO runs (bridge, run, kind, status, started_at, ended_at, counts, error)
			SELECT 'a', $1, $2, $3, e - interval '1 minute', CASE WHEN $3 <> 'running' THEN e END, nullif($5, '')::jsonb, $6
			FROM (SELECT now() - make_interval(hours => $4, mins => $7) AS e) x`, id, r.kind, r.status, r.hours, r.counts, name, minutes)
		if r.steps != "" {
			exec(t, q, `INSERT INTO plan_steps (bridge, run, action, user_id, version) SELECT 'a', $1, 'clear', u, v FROM (VALUES `+r.steps+`) AS x (u, v)`, id)
		}
		if r.journal != "" {
			exec(t, q, `INSERT INTO journal (bridge, run, user_id, fence, action, state, settled_at) VALUES ('a', $1, 1, 1, 'write', $2, now() - interval '1 year')`, id, r.journal)
		}
	}, `SELECT error FROM runs`)
}

func TestWalksThatNobodyGoesOnWithAreForgotten(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	tidied(t, db, map[string]bool{"young": true, "old": false, state.ParticipantStream: true}, func(q state.Querier, name string) {
		exec(t, q, `INSERT INTO cursors (bridge, stream, since, until, moved_at) VALUES ('a', $1, now(), now(), now() - CASE WHEN $1 = 'young' THEN interval '29 days' ELSE '1 year' END)`, name)
	}, `SELECT stream FROM cursors`)
}

func TestRowsThatSpeakForNobodyAreForgottenUnlessTheirVoiceIsStillHeard(t *testing.T) {
	t.Parallel()
	db := directory(t, 2)
	rows := map[string]string{ // replaced, missing for
		"replaced, old": "true, '31 days'", "replaced, young": "true, '29 days'", "missing, old": "false, '10 years'", "there": "false, NULL",
		"its voice is heard": "true, '31 days'", "its voice was a gone user's": "true, '31 days'",
	}
	tidied(t, db, map[string]bool{
		"replaced, old": false, "replaced, young": true, "missing, old": true, "there": true, "its voice is heard": true, "its voice was a gone user's": false,
	}, func(q state.Querier, name string) {
		exec(t, q, `INSERT INTO participants (bridge, participant, person, email, institution_id, event_access_code, event_title, first_name, last_name,
				name_badge_link, recording_link, recording_id, recording_date, content, replaced, missing_since)
			SELECT 'a', convert_to($1, 'UTF8'), $1, $1, '', 'E', '', '', '', '', '', '', '', '', r, now() - m FROM (SELECT `+rows[name]+`::interval) AS x (r, m)`, name)
		switch name {
		case "its voice is heard":
			exec(t, q, `UPDATE directory_users SET applied_source = convert_to($1, 'UTF8') WHERE user_id = 1`, name)
		case "its voice was a gone user's":
			exec(t, q, `UPDATE directory_users SET applied_source = convert_to($1, 'UTF8'), gone_at = now() WHERE user_id = 2`, name)
		}
	}, `SELECT person FROM participants`)
}

func TestUsersWhoAreGoneAreForgottenInTime(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	n := 0
	tidied(t, db, map[string]bool{
		"there": true, "gone for long": false, "gone": true,
		"gone for long, written lately": true, // so that the journal can be told of
		"gone for long, linked by hand": true, // a person has decided that
	}, func(q state.Querier, name string) {
		n++
		gone := map[string]string{"there": "", "gone": "29 days"}
		ago, ok := gone[name]
		if !ok {
			ago = "31 days"
		}
		exec(t, q, `INSERT INTO directory_users (bridge, user_id, username, email, external_id, sweep, gone_at) VALUES ('a', $1, $2, '', '', 1, now() - nullif($3, '')::interval)`, n, name, ago)
		switch name {
		case "gone for long, written lately":
			exec(t, q, `INSERT INTO journal (bridge, run, user_id, fence, action, state, settled_at) VALUES ('a', gen_random_uuid(), $1, 1, 'write', 'verified', now())`, n)
		case "gone for long, linked by hand":
			exec(t, q, `INSERT INTO links (bridge, person, user_id, rule) VALUES ('a', 'email:x', $1, 'hand')`, n)
		}
	}, `SELECT username FROM directory_users`)
}

// However much there is to forget, nobody waits for it.
func TestHousekeepingForgetsALittleAtATime(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	exec(t, db, `INSERT INTO journal (bridge, run, user_id, fence, action, state, settled_at)
		SELECT 'a', gen_random_uuid(), i, 1, 'write', 'verified', now() - interval '1 year' FROM generate_series(1, 5001) i`)
	for _, want := range []int64{5000, 1, 0} {
		if gone := get[int64](t)(state.Prune(t.Context(), db, "a", month)); gone != want {
			t.Errorf("%d went, want %d", gone, want)
		}
	}
}

// A collect every five minutes, for years: of those that find nothing to do, no more is kept than of an hour.
func TestADayOfIdleCollectsDoesNotMakeTheRunsGrow(t *testing.T) {
	t.Parallel()
	db := fresh(t, "a")
	later := func() { // five minutes pass
		exec(t, db, `UPDATE runs SET started_at = started_at - interval '5 minutes', ended_at = ended_at - interval '5 minutes'`)
	}
	most := 0
	for n := range 288 {
		run, started := begin(t, db, state.NewRun{Kind: state.Collect, Phase: "collect"})
		if !started {
			t.Fatal("the last one is still under way")
		}
		written := 0
		if n%72 == 0 {
			written = 1
		}
		must(t, state.EndRun(t.Context(), db, "a", run, state.Done, map[string]int{"written": written, "cleared": 0}, ""))
		later()
		get[int64](t)(state.Prune(t.Context(), db, "a", month))
		most = max(most, value[int](t, db, `SELECT count(*) FROM runs`))
	}
	idle := value[int](t, db, `SELECT count(*) FROM runs WHERE counts->>'written' = '0'`)
	if wrote := value[int](t, db, `SELECT count(*) FROM runs WHERE counts->>'written' = '1'`); wrote != 4 || idle > 13 || most > 17 {
		t.Errorf("of a day %d collects are kept that wrote, and %d that did nothing; at most there were %d", wrote, idle, most)
	}
	if last := get[[]state.Run](t)(state.LastRuns(t.Context(), db, "a")); len(last) != 1 || fmt.Sprint(last[0].Status) != "done" {
		t.Errorf("the last is %+v", last)
	}
}
