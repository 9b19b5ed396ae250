package sync_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"testing"

	"namebridge/internal/simulator"
	"namebridge/state"
	bridgesync "namebridge/sync"
)

func TestBackfillReadsOnlyWhomItWrites(t *testing.T) {
	t.Parallel()
	for name, rows := range map[string]simulator.ListRows{"complete rows": simulator.Complete, "partial rows": simulator.Partial} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, simulator.Options{Seed: 21, Users: 220, ListRows: rows})
			truth := w.Truth().Totals
			res := w.backfill(t)
			w.right(t)
			counted(t, res, truth)
			changed, held := truth.Written, truth.Held["unwritable"]
			if got := w.asked("bln users.put"); got != changed {
				t.Errorf("%d PUTs for %d changed users", got, changed)
			}
			if got := w.asked("bln users.get"); got != changed+held {
				t.Errorf("%d single GETs for %d changed and %d unwritable users", got, changed, held)
			}
			if got := w.asked("namecoach participants.list"); got > 3 {
				t.Errorf("%d requests to NameCoach for %d rows", got, truth.Participants)
			}
			if most := int64(truth.Users/100 + 2*changed + held + 10); res.Requests.BLN > most {
				t.Errorf("%d requests to BLN, want at most %d", res.Requests.BLN, most)
			}
		})
	}
}

func TestPlanForetellsWhatABackfillDoes(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{Seed: 22, Users: 200, Put: simulator.DeepMerge})
	truth := w.Truth().Totals
	plan := w.plan(t)
	if n := w.asked("bln users.put"); n > 0 {
		t.Errorf("a plan sent %d PUTs", n)
	}
	counted(t, plan, truth)
	type step struct{ action, wanted string }
	steps := map[int64]step{}
	rows, err := w.db.Query(t.Context(), `SELECT user_id, action, wanted FROM plan_steps WHERE run = $1`, plan.Run)
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		var id int64
		var s step
		if err := rows.Scan(&id, &s.action, &s.wanted); err != nil {
			t.Fatal(err)
		}
		steps[id] = s
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	for id, u := range w.Truth().Users {
		s, planned := steps[id]
		if planned != (u.Fragment != nil) {
			t.Errorf("user %d: planned %v, should be written %v", id, planned, u.Fragment != nil)
			continue
		}
		if !planned {
			continue
		}
		var got, want map[string]*string
		if json.Unmarshal([]byte(s.wanted), &got) != nil || json.Unmarshal([]byte(u.Fragment.JSON()), &want) != nil ||
			!maps.EqualFunc(got, want, func(a, b *string) bool { return a == b || a != nil && b != nil && *a == *b }) {
			t.Errorf("user %d: plans %s, want %s", id, s.wanted, u.Fragment.JSON())
		}
	}

	backfill := w.backfill(t)
	w.right(t)
	if backfill.Written != plan.Written || backfill.Cleared != plan.Cleared || backfill.Held != plan.Held {
		t.Errorf("the backfill after it: %+v,\nwas planned: %+v", backfill, plan)
	}
	counted(t, w.plan(t), w.Truth().Totals)
}

// Trap 45, and the rule that nobody's database is needed to see that nothing is to be done.
func TestWhatIsRightAlreadyIsLeftAloneWithAnEmptyDatabase(t *testing.T) {
	t.Parallel()
	for name, rows := range map[string]simulator.ListRows{"complete rows": simulator.Complete, "partial rows": simulator.Partial} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, simulator.Options{Seed: 23, Users: 150, ListRows: rows})
			w.backfill(t)
			w.forget(t)
			truth := w.Truth().Totals
			res := w.backfill(t)
			w.right(t)
			counted(t, res, truth)
			if puts := w.asked("bln users.put"); puts > 0 || res.Unchanged == 0 {
				t.Errorf("%d PUTs, %d unchanged", puts, res.Unchanged)
			}
			gets, want := w.asked("bln users.get"), truth.Held["unwritable"]
			if rows == simulator.Partial {
				want += truth.Unchanged // nothing else can tell
			}
			if gets != want {
				t.Errorf("%d single GETs, want %d", gets, want)
			}
		})
	}
}

func TestFlatLayoutWritesOneKeyForEachValue(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{Seed: 24, Users: 150, Put: simulator.ShallowMerge})
	w.settings.Layout.Flat = true
	truth := w.Truth()
	res := w.backfill(t)
	counted(t, res, truth.Totals)
	for id, u := range truth.Users {
		stored := w.members(t, id)
		var want map[string]json.RawMessage
		if u.Fragment != nil {
			if err := json.Unmarshal([]byte(u.Fragment.JSON()), &want); err != nil {
				t.Fatal(err)
			}
		}
		for _, key := range []string{"name_badge_link", "recording_link", "recording_id", "recording_date", "event_title"} {
			got, there := stored["namecoach_"+key]
			if there != (want != nil) || there && !sameText(got, want[key]) {
				t.Errorf("user %d: %s is %s, want %s", id, key, got, want[key])
			}
		}
		if stored["namecoach"] != nil {
			t.Errorf("user %d has the nested layout too", id)
		}
	}
	if res := w.backfill(t); res.Written > 0 || w.asked("bln users.get") > 0 {
		t.Errorf("a second backfill: %+v", res)
	}
}

func sameText(a, b json.RawMessage) bool {
	var x, y *string
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	return x == y || x != nil && y != nil && *x == *y
}

// Trap 15: custom attributes are flat or in custom_objects.
func TestExtraFieldsComeFromTheRowThatSpeaks(t *testing.T) {
	t.Parallel()
	for name, nested := range map[string]bool{"flat custom attributes": false, "custom_objects": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, simulator.Options{CustomObjects: nested})
			w.settings.Layout.Fields = []bridgesync.Field{{Name: "pronouns", Attribute: "custom_gender_pronouns"}, {Name: "phonetic", Attribute: "phonetic_spelling"}}
			ada := w.user("ada@demo.example", "S-1")
			silent := speaker("silent", "ada@demo.example", "", ada)
			silent.RecordingLink, silent.RecordingID, silent.Custom = "", "", map[string]string{"custom_gender_pronouns": "he/him"}
			w.AddParticipant(silent)
			heard := speaker("heard", "ada@demo.example", "", ada)
			heard.EventAccessCode, heard.Custom = "TEAM", map[string]string{"custom_gender_pronouns": " xe\x00 / xyr ✨\n", "legal_first_name": "Augusta"}
			w.AddParticipant(heard)
			w.backfill(t)
			f := w.fragment(t, ada)
			if len(f) != 7 || says(f, "pronouns") != "xe / xyr ✨" || says(f, "phonetic") != "<null>" || says(f, "name_badge_link") != heard.NameBadgeLink {
				t.Errorf("stored %s", w.UserOtherInfo(ada))
			}
			if res := w.backfill(t); res.Written != 0 || res.Unchanged != 1 {
				t.Errorf("a second backfill: %+v", res)
			}

			// A field that is no longer wanted is set to null, since a server that merges cannot be made to drop it.
			w.settings.Layout.Fields = nil
			if res := w.backfill(t); res.Written != 1 || says(w.fragment(t, ada), "pronouns") != "<null>" {
				t.Errorf("without extra fields: %+v, stored %s", res, w.UserOtherInfo(ada))
			}
		})
	}
}

// Traps 18, 19.
func TestConfiguredEventsDecideWhoSpeaks(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	ada, bob := w.user("ada@demo.example", ""), w.user("bob@demo.example", "")
	for i, code := range []string{"AAA", "FACULTY", "STAFF"} {
		p := speaker(fmt.Sprintf("ada-%d", i), "ada@demo.example", "", ada)
		p.EventAccessCode, p.EventTitle = code, "Title of "+code
		w.AddParticipant(p)
	}
	p := speaker("bob", "bob@demo.example", "", bob)
	p.EventAccessCode = "AAA"
	w.AddParticipant(p)
	for _, c := range []struct {
		events  []string
		ada     string
		bob     bool
		written int
	}{
		{[]string{"STAFF", "FACULTY"}, "Title of STAFF", false, 1},
		{[]string{"FACULTY", "STAFF"}, "Title of FACULTY", false, 1},
		{nil, "Title of AAA", true, 2},
	} {
		w.settings.Events = c.events
		res := w.backfill(t)
		if got := says(w.fragment(t, ada), "event_title"); got != c.ada || (w.fragment(t, bob) != nil) != c.bob || res.Written != c.written {
			t.Errorf("events %v: %q speaks for ada, bob has %v, %+v; want %q, %v, %d written", c.events, got, w.fragment(t, bob), res, c.ada, c.bob, c.written)
		}
	}
}

// Trap 41.
func TestAddressesThatUsersEditCountOnlyWhereTheyMay(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	ada := w.AddUser(simulator.NewUser{Username: "abyron", OtherInfo: `{"personalEmail":"Ada@Home.example","workEmail":null}`})
	w.AddParticipant(speaker("ada", "ada@home.example", "", ada))
	if res := w.backfill(t); res.Written != 0 || res.Held.Unmatched != 1 {
		t.Errorf("by default: %+v", res)
	}
	w.settings.MatchBy = append(w.settings.MatchBy, bridgesync.RuleOtherEmail)
	if res := w.backfill(t); res.Written != 1 || res.Held.Sum() != 0 {
		t.Errorf("where it may: %+v", res)
	}
	w.right(t)
	w.settings.MatchBy = w.settings.MatchBy[:2]
	w.user("eve@demo.example", "")
	if res := w.backfill(t); res.Held.Unmatched != 1 || res.Linked != 0 {
		t.Errorf("where it may no longer: %+v", res)
	}
}

// Trap 47: a setting alone is no proof. Where no probe has shown that the server merges, or it has shown that it does not,
// everything is sent.
func TestMergeWithoutAProofSendsEverything(t *testing.T) {
	t.Parallel()
	for name, shown := range map[string]string{"no probe": "", "a probe that has shown replace": "replace"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, simulator.Options{Seed: 26, Users: 60})
			w.merging(t, true)
			w.exec(t, `DELETE FROM runs`)
			if shown != "" {
				w.exec(t, `INSERT INTO runs (bridge, run, kind, status, ended_at, counts) VALUES ('default', gen_random_uuid(), 'probe', 'done', now(), jsonb_build_object('semantics', $1::text))`, shown)
			}
			if res := w.backfill(t); res.Written == 0 {
				t.Errorf("%+v", res)
			}
			w.right(t)
		})
	}
}

// Traps 48, 49: what others have stored is not sent, so it cannot be refused.
func TestAMergingServerIsSentOnlyTheFragment(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{Seed: 25, Users: 250, Put: simulator.ShallowMerge})
	w.merging(t, true)
	truth := w.Truth()
	full := 0
	for id, u := range truth.Users {
		if u.Held == "unwritable" && len(w.members(t, id)) == 100 {
			full++
		}
	}
	res := w.backfill(t)
	if res.Held.Unwritable != full || res.Written != truth.Totals.Written+truth.Totals.Held["unwritable"]-full {
		t.Errorf("%+v, the truth is %+v with %d full users", res, truth.Totals, full)
	}
	for _, body := range w.bodies.puts {
		var sent map[string]map[string]json.RawMessage
		if err := json.Unmarshal(body, &sent); err != nil {
			t.Fatal(err)
		}
		if len(sent) != 1 || len(sent["otherInfo"]) != 1 || sent["otherInfo"]["namecoach"] == nil {
			t.Errorf("sent %s", body)
		}
	}
	for id, u := range truth.Users {
		if u.Held == "unwritable" && len(w.members(t, id)) != 101 && len(w.members(t, id)) != 100 && !sameFragment(t, w.fragment(t, id), u.Wanted) {
			t.Errorf("user %d: stored %v, want %s", id, w.fragment(t, id), u.Wanted.JSON())
		}
	}
	if res := w.backfill(t); res.Written != 0 || w.asked("bln users.get") != 0 {
		t.Errorf("a second backfill: %+v", res)
	}
}

func sameFragment(t *testing.T, got bridgesync.Fragment, want *simulator.Fragment) bool {
	t.Helper()
	var f bridgesync.Fragment
	if err := json.Unmarshal([]byte(want.JSON()), &f); err != nil {
		t.Fatal(err)
	}
	return bytes.Equal(got.Digest(), f.Digest())
}

// Rule 3: no link before one complete listing.
func TestNobodyIsLinkedBeforeTheDirectoryIsWhole(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{Seed: 26, Users: 150})
	b := w.bridge(t)
	res, err := b.Collect(t.Context())
	if err != nil || res.Status != state.Done || res.Linked != 0 || res.Participants != w.Truth().Totals.Participants {
		t.Errorf("a collect into an empty database: %+v, %v", res, err)
	}
	w.Change(func(o *simulator.Options) { o.AfterIgnored = true })
	res, err = b.Sweep(t.Context())
	if err == nil || res.Status != state.Failed || res.Linked != 0 || w.asked("bln users.put") != 0 {
		t.Errorf("a sweep of a directory that shows one page for ever: %+v, %v", res, err)
	}
	if res, err = b.Collect(t.Context()); err != nil || res.Linked != 0 {
		t.Errorf("a collect after half a sweep: %+v, %v", res, err)
	}
	w.Change(func(o *simulator.Options) { o.AfterIgnored = false })
	if res, err = b.Sweep(t.Context()); err != nil || res.Status != state.Done {
		t.Errorf("a sweep of the whole: %+v, %v", res, err)
	}
	w.right(t)
}

// Trap 42, 54: whom the first page of the directory would name by address, the last one contradicts.
func TestALatePageOfTheDirectoryMayContradictTheFirst(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]simulator.Options{"complete rows": {Seed: 27, Users: 250}, "partial rows, short pages": {Seed: 28, Users: 120, ListRows: simulator.Partial, ShortPages: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, o)
			first := w.AddUser(simulator.NewUser{Username: "first@demo.example", Created: lastCentury})
			last := w.AddUser(simulator.NewUser{Username: "last@demo.example", ExternalID: "LATE-1"})
			p := speaker("late", "first@demo.example", "LATE-1", 0)
			p.Held = "conflict"
			w.AddParticipant(p)
			truth := w.Truth().Totals
			counted(t, w.backfill(t), truth)
			w.right(t)
			if w.UserOtherInfo(first)+w.UserOtherInfo(last) != "" {
				t.Errorf("one of the two was written")
			}
			if h := w.holds(t)["email:first@demo.example"]; h.reason != "conflict" || len(h.users) != 2 {
				t.Errorf("held as %+v", h)
			}
		})
	}
}
