package sync_test

import (
	"errors"
	"testing"
	"time"

	"namebridge/internal/simulator"
	"namebridge/state"
	bridgesync "namebridge/sync"
)

// Where list rows do not show the fragment, what we know we wrote is trusted: but not as what stands in another place.
func TestAnotherPlaceOrShapeIsWrittenAnew(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*bridgesync.Layout)
		key    string
	}{
		"key":    {func(l *bridgesync.Layout) { l.Key = "pronunciation" }, "pronunciation"},
		"layout": {func(l *bridgesync.Layout) { l.Flat = true }, "namecoach_name_badge_link"},
		"fields": {func(l *bridgesync.Layout) { l.Fields = []bridgesync.Field{{Name: "notes", Attribute: "notes"}} }, "namecoach"},
	} {
		for _, rows := range []simulator.ListRows{simulator.Partial, simulator.Complete} {
			w := start(t, simulator.Options{ListRows: rows})
			w.rude = true // to the simulator another key is somebody else's
			ada := w.user("ada@demo.example", "")
			w.AddParticipant(speaker("x", "ada@demo.example", "", ada))
			w.backfill(t)
			former := string(w.members(t, ada)["namecoach"])
			c.change(&w.settings.Layout)
			res, err := w.bridge(t).Sweep(t.Context())
			if err != nil || res.Written+res.Unchanged != 1 || w.members(t, ada)[c.key] == nil || string(w.members(t, ada)["namecoach"]) != former {
				t.Errorf("%s: %+v, %v: %s", name, res, err, w.UserOtherInfo(ada))
			}
			if again := w.sweep(t); again.Written != 0 || again.Unchanged != 1 || w.asked("bln users.get") != 0 {
				t.Errorf("%s, a second sweep: %+v", name, again)
			}
		}
	}
}

// What an unsettled write of the former layout has damaged cannot be told by the new one.
func TestALayoutDoesNotChangeUnderAnUnsettledWrite(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	ada := w.user("ada@demo.example", "")
	w.AddParticipant(speaker("x", "ada@demo.example", "", ada))
	c, db := w.cable(t)
	f := w.front(t)
	f.after = func(int, string) { c.cut() }
	if _, err := w.process(t, f.url, db, nil).Backfill(t.Context(), time.Time{}); err == nil {
		t.Fatal("it was to be cut")
	}
	former := w.settings.Layout
	w.settings.Layout.Key = "pronunciation"
	if _, err := w.db.Exec(t.Context(), `UPDATE workers SET heartbeat_at = now() + interval '1 hour'`); err != nil {
		t.Fatal(err)
	}
	var unsettled *state.UnsettledError
	if _, err := w.bridge(t).Sweep(t.Context()); !errors.As(err, &unsettled) || unsettled.Alive != 1 || unsettled.Open != 1 {
		t.Errorf("while the former process may live: %v", err)
	}
	if _, err := w.db.Exec(t.Context(), `DELETE FROM workers`); err != nil {
		t.Fatal(err)
	}
	if _, err := w.bridge(t).Sweep(t.Context()); !errors.As(err, &unsettled) || unsettled.Alive != 0 || unsettled.Open != 1 {
		t.Errorf("with an unsettled write: %v", err)
	}
	w.settings.Layout = former
	w.sweep(t)
	w.right(t)
	w.settings.Layout.Key, w.rude = "pronunciation", true
	if res, err := w.bridge(t).Sweep(t.Context()); err != nil || res.Written != 1 || w.members(t, ada)["pronunciation"] == nil {
		t.Errorf("settled: %+v, %v", res, err)
	}
}
