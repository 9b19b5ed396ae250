package sync_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"namebridge/bln"
	"namebridge/internal/metrics"
	"namebridge/internal/simulator"
	"namebridge/state"
	bridgesync "namebridge/sync"
)

// journalled is one row of the journal.
type journalled struct {
	Entry  int64
	UserID int64
	State  string
	Before []byte
	Note   string
}

func (w *world) entries(t *testing.T) []journalled {
	t.Helper()
	rows, err := w.db.Query(t.Context(), `SELECT entry, user_id, state, before, coalesce(note, '') FROM journal ORDER BY entry`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var all []journalled
	for rows.Next() {
		var j journalled
		if err := rows.Scan(&j.Entry, &j.UserID, &j.State, &j.Before, &j.Note); err != nil {
			t.Fatal(err)
		}
		all = append(all, j)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// settledJournal fails the test for a write whose outcome is open, and for a before-image that is kept without need.
func (w *world) settledJournal(t *testing.T) map[string]int {
	t.Helper()
	states := map[string]int{}
	for _, j := range w.entries(t) {
		states[j.State]++
		if j.State == state.Sending {
			t.Errorf("the outcome of entry %d (user %d) was left open", j.Entry, j.UserID)
		}
		if j.Before != nil && j.State != state.Damaged {
			t.Errorf("entry %d (%s) still has the whole before-image", j.Entry, j.State)
		}
	}
	return states
}

// measured gives b metrics, and a check that they count each write as the journal does.
func measured(b *bridgesync.Bridge) (*bridgesync.Bridge, func(t *testing.T, journal map[string]int)) {
	reg := prometheus.NewPedanticRegistry()
	b.Metrics = metrics.New(reg, "", "")
	return b, func(t *testing.T, journal map[string]int) {
		t.Helper()
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		counted := map[string]int{}
		for _, f := range families {
			if f.GetName() != "namebridge_writes_total" {
				continue
			}
			for _, m := range f.GetMetric() {
				for _, l := range m.GetLabel() {
					if l.GetName() == "outcome" {
						counted[l.GetValue()] += int(m.GetCounter().GetValue())
					}
				}
			}
		}
		if !maps.Equal(counted, journal) {
			t.Errorf("namebridge_writes_total counts %v, the journal %v", counted, journal)
		}
	}
}

// foreignKept fails the test for every user whose foreign keys are not those of before, but for the excepted.
func (w *world) foreignKept(t *testing.T, before map[int64]string, except ...int64) {
	t.Helper()
	now := w.ForeignDigests("namecoach")
	for id, digest := range before {
		if now[id] != digest && !slices.Contains(except, id) {
			t.Errorf("user %d: foreign keys are not what they were: %s", id, w.UserOtherInfo(id))
		}
	}
}

// halted fails the test unless the bridge is halted, in the result, the error and the database.
func (w *world) halted(t *testing.T, res bridgesync.Result, err error) state.Bridge {
	t.Helper()
	if !errors.Is(err, bridgesync.ErrHalted) || res.Status != state.Halted {
		t.Fatalf("the run ended with status %s and error %v, want halted", res.Status, err)
	}
	b, err := state.GetBridge(t.Context(), w.db, "default")
	if err != nil {
		t.Fatal(err)
	}
	if b.HaltedAt == nil || b.HaltReason == nil || b.HaltRun == nil {
		t.Fatalf("the bridge's row does not say since when, why and by which run it is halted: %+v", b)
	}
	return b
}

// inFlight is how many users are being worked on at once, so that their writes may be on their way when damage is noticed.
const inFlight = 16

// staysHalted fails the test if a further run writes anything.
func (w *world) staysHalted(t *testing.T) {
	t.Helper()
	w.ResetCounts()
	res, err := w.bridge(t).Backfill(t.Context(), time.Time{})
	w.halted(t, res, err)
	if n := w.Counts()["bln users.put"]; n > 0 {
		t.Errorf("a halted bridge sent %d PUTs", n)
	}
}

// converges lifts the halt and fails the test unless the next run ends in the truth.
func (w *world) converges(t *testing.T) {
	t.Helper()
	if err := state.Resume(t.Context(), w.db, "default", "the server was mended"); err != nil {
		t.Fatal(err)
	}
	res, err := w.bridge(t).Backfill(t.Context(), time.Time{})
	if err != nil || res.Status != state.Done || res.Failed != 0 {
		t.Fatalf("after the halt was lifted: %+v, %v", res, err)
	}
	for _, m := range w.Mismatches(5) {
		t.Error(m)
	}
}

// Traps 47 and 53; rule 2, verified or stopped.
func TestAForeignKeyThatAWriteDamagesIsPutBackAndEverythingStops(t *testing.T) {
	t.Parallel()
	drop := func(x simulator.Tamper) func(*simulator.Options) {
		return func(o *simulator.Options) { o.DropForeignKeyOnPut = x }
	}
	change := func(x simulator.Tamper) func(*simulator.Options) {
		return func(o *simulator.Options) { o.ChangeForeignKeyOnPut = x }
	}
	for _, c := range []struct {
		name    string
		put     simulator.PutSemantics
		answer  simulator.PutAnswer
		merging bool // BLN_PUT_SEMANTICS=merge
		tamper  func(*simulator.Options)
	}{
		{"replace, full, dropped", simulator.Replace, simulator.Full, false, drop(simulator.Tamper{At: 5})},
		{"replace, short, dropped", simulator.Replace, simulator.Short, false, drop(simulator.Tamper{At: 5})},
		{"replace, stale, dropped", simulator.Replace, simulator.StaleListRow, false, drop(simulator.Tamper{At: 5})},
		{"replace, full, changed", simulator.Replace, simulator.Full, false, change(simulator.Tamper{At: 5})},
		{"replace, stale, a key of the list row dropped", simulator.Replace, simulator.StaleListRow, false, drop(simulator.Tamper{At: 5, Key: "workEmail"})},
		{"replace, stale, an object changed", simulator.Replace, simulator.StaleListRow, false, change(simulator.Tamper{At: 3, Key: "address"})},
		{"shallow merge, full, dropped", simulator.ShallowMerge, simulator.Full, false, drop(simulator.Tamper{At: 5})},
		{"shallow merge, short, changed", simulator.ShallowMerge, simulator.Short, false, change(simulator.Tamper{At: 5})},
		{"deep merge, stale, dropped", simulator.DeepMerge, simulator.StaleListRow, false, drop(simulator.Tamper{At: 1})},
		{"shallow merge that is known, full, dropped", simulator.ShallowMerge, simulator.Full, true, drop(simulator.Tamper{At: 5})},
		{"shallow merge that is known, short, changed", simulator.ShallowMerge, simulator.Short, true, change(simulator.Tamper{At: 5})},
		{"deep merge that is known, full, an object dropped", simulator.DeepMerge, simulator.Full, true, drop(simulator.Tamper{At: 1, Key: "address"})},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			o := simulator.Options{Put: c.put, PutAnswer: c.answer}
			c.tamper(&o)
			w := start(t, o)
			w.crowd(40)
			w.merging(t, c.merging)
			before := w.ForeignDigests("namecoach")

			bridge, check := measured(w.bridge(t))
			res, err := bridge.Backfill(t.Context(), time.Time{})

			b := w.halted(t, res, err)
			if !strings.Contains(*b.HaltReason, "put back and checked") {
				t.Errorf("the reason does not say what became of the person: %s", *b.HaltReason)
			}
			w.foreignKept(t, before)
			states := w.settledJournal(t)
			if states[state.Restored] != 1 || states[state.Damaged] != 0 {
				t.Errorf("journal %v, want one restored", states)
			}
			check(t, states)
			if at, n := max(o.DropForeignKeyOnPut.At, o.ChangeForeignKeyOnPut.At), w.Counts()["bln users.put"]; n > at+inFlight+1 {
				t.Errorf("%d PUTs, where the one that damaged a key was number %d", n, at)
			}
			w.staysHalted(t)
			w.foreignKept(t, before)

			w.Change(func(o *simulator.Options) {
				o.DropForeignKeyOnPut, o.ChangeForeignKeyOnPut = simulator.Tamper{}, simulator.Tamper{}
			})
			w.converges(t)
			w.foreignKept(t, before)
			w.settledJournal(t)
		})
	}
}

// Null and missing are the same (trap 51): a server that forgets nulls damages nothing.
func TestAForeignNullThatAWriteDropsIsNoDamage(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{DropForeignKeyOnPut: simulator.Tamper{At: 1, Key: "jobTitle"}})
	w.addSpeaker(`{"jobTitle":null,"Cohort":"2024"}`)
	if res, err := w.bridge(t).Backfill(t.Context(), time.Time{}); err != nil || res.Written != 1 {
		t.Fatalf("%+v, %v", res, err)
	}
}

// A key that holds null is a key, too: giving it a value is a change of what is not ours.
func TestAForeignNullThatAWriteFillsIsDamage(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{Seed: 1, ChangeForeignKeyOnPut: simulator.Tamper{At: 1, Key: "jobTitle"}})
	w.addSpeaker(`{"jobTitle":null,"Cohort":"2024"}`)
	before := w.ForeignDigests("namecoach")
	res, err := w.bridge(t).Backfill(t.Context(), time.Time{})
	w.halted(t, res, err)
	w.foreignKept(t, before)
	w.settledJournal(t)
}

// Trap 54: the answer to the write that does the damage may be the one that is lost, and so may that of the restoring one.
func TestDamageIsNoticedAndMendedWhereEveryAnswerToAWriteIsLost(t *testing.T) {
	t.Parallel()
	for name, faults := range map[string]simulator.Faults{
		"reset": {PAppliedThenTimeout: 1}, "hang": {PAppliedThenTimeout: 1, Hang: 30 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, simulator.Options{Faults: faults, DropForeignKeyOnPut: simulator.Tamper{At: 7}})
			w.crowd(40)
			before := w.ForeignDigests("namecoach")
			res, err := w.bridge(t).Backfill(t.Context(), time.Time{})
			w.halted(t, res, err)
			w.foreignKept(t, before)
			if states := w.settledJournal(t); states[state.Restored] != 1 || states[state.Damaged] != 0 {
				t.Errorf("journal %v, want one restored", states)
			}
			if n := w.Counts()["bln users.put"]; n > 7+inFlight+1 {
				t.Errorf("%d PUTs: a restoring one whose answer was lost must be looked into before it is repeated", n)
			}
			w.staysHalted(t)
			w.Change(func(o *simulator.Options) { o.DropForeignKeyOnPut = simulator.Tamper{} })
			w.converges(t)
			w.foreignKept(t, before)
			w.settledJournal(t)
		})
	}
}

func TestWhatCannotBePutBackKeepsItsWholeBeforeImage(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]simulator.Options{
		"dropped on every write":       {DropForeignKeyOnPut: simulator.Tamper{Every: 1}},
		"changed on every write":       {ChangeForeignKeyOnPut: simulator.Tamper{Every: 1}, PutAnswer: simulator.Short},
		"every answer is lost as well": {DropForeignKeyOnPut: simulator.Tamper{Every: 1}, Faults: simulator.Faults{PAppliedThenTimeout: 1}},
		"a merging server drops one":   {DropForeignKeyOnPut: simulator.Tamper{Every: 1}, Put: simulator.ShallowMerge},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, o)
			w.crowd(40)
			w.merging(t, o.Put != simulator.Replace)
			images := map[int64]string{}
			for _, u := range w.Users() {
				images[u.ID] = w.UserOtherInfo(u.ID)
			}
			before := w.ForeignDigests("namecoach")

			res, err := w.bridge(t).Backfill(t.Context(), time.Time{})

			b := w.halted(t, res, err)
			if !strings.Contains(*b.HaltReason, "NOT be put back") {
				t.Errorf("the reason does not say that the person is damaged: %s", *b.HaltReason)
			}
			var damaged []int64
			for _, j := range w.entries(t) {
				if j.State != state.Damaged {
					continue
				}
				damaged = append(damaged, j.UserID)
				image, err := bln.ParseOtherInfo(j.Before)
				if err != nil {
					t.Fatal(err)
				}
				was, err := bln.ParseOtherInfo([]byte(images[j.UserID]))
				if err != nil {
					t.Fatal(err)
				}
				if changes := was.Changes(image, nil); len(changes) > 0 {
					t.Errorf("the before-image of user %d lacks what was there: %v", j.UserID, changes)
				}
				if !strings.Contains(j.Note, fmt.Sprintf("journal entry %d", j.Entry)) {
					t.Errorf("entry %d does not say where the before-image is: %s", j.Entry, j.Note)
				}
			}
			if len(damaged) == 0 || len(damaged) > inFlight {
				t.Errorf("%d users are kept as damaged, want those in flight", len(damaged))
			}
			w.foreignKept(t, before, damaged...)
			w.settledJournal(t)
			w.staysHalted(t)
		})
	}
}

// Postgres takes no NUL and no lone surrogate in text: the name of a damaged key must not keep the bridge from halting.
func TestABridgeHaltsWhateverTheDamagedKeyIsCalled(t *testing.T) {
	t.Parallel()
	for name, key := range map[string]string{"NUL": `a\u0000b`, "lone surrogate": `a\ud800b`, "address": `who@mail.example`, "long": strings.Repeat("x", 5000)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// Only where just the fragment is sent does a key of such a name pass our own check.
			w := start(t, simulator.Options{Seed: 1, Put: simulator.ShallowMerge, DropForeignKeyOnPut: simulator.Tamper{At: 1}})
			w.merging(t, true)
			w.addSpeaker(`{"` + key + `":"theirs"}`)
			before := w.ForeignDigests("namecoach")
			res, err := w.bridge(t).Backfill(t.Context(), time.Time{})
			b := w.halted(t, res, err)
			if strings.Contains(*b.HaltReason, "@") || len(*b.HaltReason) > 1000 {
				t.Errorf("the reason shows what nobody should read there: %s", *b.HaltReason)
			}
			// What the server does not take back under that name is kept whole.
			for _, j := range w.entries(t) {
				if j.State == state.Restored {
					w.foreignKept(t, before)
				} else if j.State != state.Damaged || !strings.Contains(string(j.Before), key) {
					t.Errorf("entry %d is %s, before-image %q", j.Entry, j.State, j.Before)
				}
			}
			w.staysHalted(t)
		})
	}
}

// The answer to a clearing write that does not show our key says nothing about whether it is cleared.
func TestAClearIsVerifiedByWhatIsSeenNotByWhatAnAnswerLeavesOut(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]simulator.PutAnswer{"short": simulator.Short, "stale": simulator.StaleListRow} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, simulator.Options{Seed: 1, PutAnswer: answer})
			first := w.addSpeaker("")
			if _, err := w.bridge(t).Backfill(t.Context(), time.Time{}); err != nil {
				t.Fatal(err)
			}
			// The voice turns out to be another's: it moves there, and is cleared here.
			second := w.AddUser(simulator.NewUser{Username: "second@school.example", OtherInfo: "{}", Created: time.Now().Add(-time.Hour)})
			for _, p := range w.Participants() {
				w.DeleteParticipant(p.ID)
			}
			w.AddParticipant(voice("first", "second@school.example", second))
			if _, err := w.db.Exec(t.Context(), `UPDATE participants SET person = 'email:second@school.example', link_due = true`); err != nil {
				t.Fatal(err)
			}
			w.ResetCounts()
			res, err := w.bridge(t).Backfill(t.Context(), time.Time{})
			if err != nil || res.Cleared != 1 {
				t.Fatalf("%+v, %v; want one clear", res, err)
			}
			if got := w.UserOtherInfo(first); got != `{"namecoach":null}` {
				t.Errorf("user %d is not cleared: %s", first, got)
			}
			if gets := w.Counts()["bln users.get"]; gets != 4 {
				t.Errorf("%d GETs for a clear and a write whose answers show nothing, want two each", gets)
			}
		})
	}
}

// crowd adds n users with much in their otherInfo that is not ours and of which nothing is null, and a row for each.
func (w *world) crowd(n int) {
	first := len(w.Users())
	for i := first; i < first+n; i++ {
		foreign := []string{
			`"workEmail":"u%d@mail.example"`, `"address":{"street-address":"1230 Main Street","locality":"Łódź","district":null}`,
			`"score":1.10`, `"big-%d":9007199254740993`, `"Cohort":"caf\u00e9 \ud83e\udd8a \ud800"`, `"tags":["a",{"b":true},"\u0000"]`,
			`"trades":["hvac"]`, `"consent":{"a":1,"b":null}`, `"namecoachOld":"theirs"`,
		}
		for j := range foreign {
			foreign[j] = strings.ReplaceAll(foreign[j], "%d", fmt.Sprint(i))
		}
		foreign = append(foreign[i%len(foreign):], foreign[:i%len(foreign)]...)
		name := fmt.Sprintf("u%d", i)
		id := w.AddUser(simulator.NewUser{
			Username: name + "@school.example", OtherInfo: "{" + strings.Join(foreign, ",") + "}",
			Created: time.Date(2024, 5, 1, 0, 0, i, 0, time.UTC),
		})
		w.AddParticipant(voice(name, name+"@school.example", id))
	}
}

// addSpeaker adds a user of that otherInfo, and a row of theirs.
func (w *world) addSpeaker(otherInfo string) int64 {
	id := w.AddUser(simulator.NewUser{Username: "first@school.example", OtherInfo: otherInfo, Created: time.Now().Add(-time.Hour)})
	w.AddParticipant(voice("first", "first@school.example", id))
	return id
}

// voice is a row with a badge and a recording, made a year ago.
func voice(slug, email string, of int64) simulator.Participant {
	return simulator.Participant{
		FirstName: "Ada", LastName: "Byron", Email: email, For: of, EventTitle: "Staff", EventSlug: "staff", EventAccessCode: "STAFF",
		NameBadgeLink: "https://www.name-coach.com/" + slug, RecordingLink: "https://namewaves.s3.amazonaws.com/" + slug + ".mp3",
		RecordingID: "recording_" + slug, Updated: time.Now().Add(-8760 * time.Hour),
	}
}
