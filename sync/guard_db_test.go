package sync_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"namebridge/internal/simulator"
	"namebridge/state"
	bridgesync "namebridge/sync"
)

// muted has people speak in BLN, whose recordings NameCoach then shows no more.
func (w *world) muted(t *testing.T, n int) (users []int64) {
	t.Helper()
	var rows []int64
	for i := range n {
		name := fmt.Sprintf("ada%d", i)
		u := w.user(name+"@acme.edu", "S-"+name)
		users, rows = append(users, u), append(rows, w.AddParticipant(speaker(name, name+"@acme.edu", "S-"+name, u)))
	}
	w.backfill(t)
	w.settled(func() {
		for _, r := range rows {
			w.RemoveRecording(r)
		}
	})
	return users
}

// speaking counts the users who have a recording.
func (w *world) speaking(t *testing.T, users []int64) (n int) {
	t.Helper()
	for _, u := range users {
		var whole bridgesync.Fragment
		if !w.settings.Layout.Flat {
			whole = w.fragment(t, u)
		} else if raw := w.members(t, u)["namecoach_recording_link"]; raw != nil && string(raw) != "null" {
			n++
		}
		if says(whole, "recording_link") != "<null>" {
			n++
		}
	}
	return n
}

// A source that suddenly has no recordings is doubtful, whatever our database remembers: what a write would take away is
// told by what stands there.
func TestTheGuardJudgesRecordingsThatTheDatabaseDoesNotKnow(t *testing.T) {
	t.Parallel()
	for name, flat := range map[string]bool{"nested": false, "flat": true} {
		for _, rows := range []simulator.ListRows{simulator.Partial, simulator.Complete} {
			w := start(t, simulator.Options{Seed: 1, ListRows: rows})
			w.rude = flat // to the simulator other keys are somebody else's
			w.settings.Layout.Flat = flat
			w.settings.Guard = bridgesync.Guard{MaxClears: 29}
			users := w.muted(t, 30)
			w.forget(t)
			backfill := func(b *bridgesync.Bridge) (bridgesync.Result, error) { return b.Backfill(t.Context(), time.Time{}) }
			first := w.run(t, state.Quarantined, backfill)
			if n := w.speaking(t, users); n != 30 || first.Written != 0 {
				t.Errorf("%s: %d of 30 recordings are left, %+v", name, n, first)
			}
			// Nobody is read again to find that out again.
			again := w.run(t, state.Quarantined, func(b *bridgesync.Bridge) (bridgesync.Result, error) { return b.Sweep(t.Context()) })
			if again.Written != 0 || w.asked("bln users.get") != 0 {
				t.Errorf("%s, again: %+v, %d users were read", name, again, w.asked("bln users.get"))
			}
			w.run(t, state.Done, func(b *bridgesync.Bridge) (res bridgesync.Result, err error) {
				res, _, err = b.Approve(t.Context(), first.Run, "looked at")
				return res, err
			})
			if n := w.speaking(t, users); n != 0 {
				t.Errorf("%s: %d recordings are left that somebody has let go", name, n)
			}
			w.forget(t)
			if res := w.backfill(t); res.Written != 0 || res.Unchanged != 30 {
				t.Errorf("%s: when all is as it should: %+v", name, res)
			}
		}
	}
}

func TestAFewRecordingsThatTheDatabaseDoesNotKnowGoAtOnce(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{Seed: 1})
	w.settings.Guard = bridgesync.Guard{MaxClears: 5}
	users := w.muted(t, 5)
	w.forget(t)
	if res := w.backfill(t); res.Written != 5 || w.speaking(t, users) != 0 {
		t.Errorf("%+v, and %d recordings are left", res, w.speaking(t, users))
	}
}

func TestTheGuardJudgesRecordingsUnderOtherFields(t *testing.T) {
	t.Parallel()
	for _, rows := range []simulator.ListRows{simulator.Partial, simulator.Complete} {
		w := start(t, simulator.Options{Seed: 1, ListRows: rows})
		w.settings.Guard = bridgesync.Guard{MaxClears: 5}
		users := w.muted(t, 6)
		w.settings.Layout.Fields = []bridgesync.Field{{Name: "pronouns", Attribute: "custom_gender_pronouns"}}
		w.run(t, state.Quarantined, func(b *bridgesync.Bridge) (bridgesync.Result, error) { return b.Backfill(t.Context(), time.Time{}) })
		if n := w.speaking(t, users); n != 6 {
			t.Errorf("%d of 6 recordings are left", n)
		}
	}
}

// The wrong voice goes, also when the fields change while that waits for a person.
func TestAClearOutlivesOtherFields(t *testing.T) {
	t.Parallel()
	for _, rows := range []simulator.ListRows{simulator.Partial, simulator.Complete} {
		w := start(t, simulator.Options{Seed: 1, ListRows: rows})
		w.settings.Guard = bridgesync.Guard{}
		ada, bob := w.user("ada@acme.edu", ""), w.user("bob@acme.edu", "")
		w.AddParticipant(speaker("ada", "ada@acme.edu", "I-1", ada))
		w.backfill(t)
		w.setExternalID(t, bob, "I-1") // it is bob's voice: a conflict, which a person settles
		w.sweep(t)
		err := state.InTx(t.Context(), w.db, func(tx pgx.Tx) error {
			if err := state.LockParticipants(t.Context(), tx, "default"); err != nil {
				return err
			}
			_, _, err := state.LinkByHand(t.Context(), tx, "default", "email:ada@acme.edu", bob, "HR")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		sweep := func(b *bridgesync.Bridge) (bridgesync.Result, error) { return b.Sweep(t.Context()) }
		first := w.run(t, state.Quarantined, sweep)
		w.settings.Layout.Fields = []bridgesync.Field{{Name: "pronouns", Attribute: "custom_gender_pronouns"}}
		w.run(t, state.Quarantined, sweep)
		if f := w.fragment(t, ada); f == nil {
			t.Error("nobody has let that go")
		}
		w.run(t, state.Done, func(b *bridgesync.Bridge) (res bridgesync.Result, err error) {
			res, _, err = b.Approve(t.Context(), first.Run, "HR")
			return res, err
		})
		if f := w.fragment(t, ada); f != nil || w.fragment(t, bob) == nil {
			t.Errorf("ada still speaks with bob's voice, or bob does not: %s %s", w.UserOtherInfo(ada), w.UserOtherInfo(bob))
		}
	}
}
