package sync_test

import (
	"fmt"
	"strings"
	"testing"

	"namebridge/internal/simulator"
)

// Every reason to hold somebody, as it comes about in practice, and what mends it.
func TestHoldsSayWhyAndAreLiftedWhenTheCauseIsMended(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		// make makes the case and returns who is held, what the detail has to name, and what mends it.
		make   func(t *testing.T, w *world) (subject string, detail []string, mend func() (writes int64))
		reason string
	}{
		"unmatched: no such address": {reason: "unmatched", make: func(_ *testing.T, w *world) (string, []string, func() int64) {
			p := speaker("new", "new@demo.example", "", 0)
			id := w.AddParticipant(p)
			return "email:new@demo.example", []string{"address"}, func() int64 {
				user := w.user("New@Demo.example", "")
				w.belongs(id, user)
				return user
			}
		}},
		"unmatched: no such institution id": {reason: "unmatched", make: func(_ *testing.T, w *world) (string, []string, func() int64) {
			id := w.AddParticipant(speaker("new", "", "S-9", 0))
			return "id:S-9", []string{"institution id"}, func() int64 {
				user := w.user("new@demo.example", " S-9 ")
				w.belongs(id, user)
				return user
			}
		}},
		"ambiguous: two users have the externalId": {reason: "ambiguous", make: func(_ *testing.T, w *world) (string, []string, func() int64) {
			one, two := w.user("one@demo.example", "S-9"), w.user("two@demo.example", "S-9")
			id := w.AddParticipant(speaker("new", "", "S-9", 0))
			return "id:S-9", []string{"2 users", "externalId"}, func() int64 {
				w.RemoveUser(one)
				w.belongs(id, two)
				return two
			}
		}},
		"ambiguous: the address is right but its user shares an externalId": {reason: "ambiguous", make: func(t *testing.T, w *world) (string, []string, func() int64) {
			one, two := w.user("one@demo.example", "S-9"), w.user("two@demo.example", "S-9")
			id := w.AddParticipant(speaker("new", "two@demo.example", "", 0))
			return "email:two@demo.example", []string{"externalId"}, func() int64 {
				w.setExternalID(t, one, "S-10")
				w.belongs(id, two)
				return two
			}
		}},
		"ambiguous: two users have the address": {reason: "ambiguous", make: func(_ *testing.T, w *world) (string, []string, func() int64) {
			one, two := w.user("twin@demo.example", ""), w.user("Twin@Demo.example", "")
			id := w.AddParticipant(speaker("new", "TWIN@demo.example", "", 0))
			return "email:twin@demo.example", []string{"2 users", "address"}, func() int64 {
				w.RemoveUser(two)
				w.belongs(id, one)
				return one
			}
		}},
		"conflict: the keys name two users": {reason: "conflict", make: func(t *testing.T, w *world) (string, []string, func() int64) {
			one, two := w.user("one@demo.example", "S-1"), w.user("two@demo.example", "S-2")
			id := w.AddParticipant(speaker("new", "one@demo.example", "S-2", 0))
			return "email:one@demo.example", []string{fmt.Sprint("user ", one), fmt.Sprint("user ", two), "externalId", "email"}, func() int64 {
				w.setExternalID(t, two, "S-3")
				w.belongs(id, one)
				return one
			}
		}},
		"unwritable: somebody's data reads but does not write": {reason: "unwritable", make: func(t *testing.T, w *world) (string, []string, func() int64) {
			user := w.user("new@demo.example", "")
			if err := w.EditOtherInfo(user, "birthYear", "1901"); err != nil {
				t.Fatal(err)
			}
			w.AddParticipant(speaker("new", "new@demo.example", "", user))
			return fmt.Sprint(user), []string{"birthYear"}, func() int64 {
				if err := w.EditOtherInfo(user, "birthYear", "1971"); err != nil {
					t.Fatal(err)
				}
				return user
			}
		}},
		"unwritable: learning records": {reason: "unwritable", make: func(t *testing.T, w *world) (string, []string, func() int64) {
			user := w.user("new@demo.example", "")
			if err := w.EditOtherInfo(user, "learningRecords", `{"a":{"employerName":"Another employer"}}`); err != nil {
				t.Fatal(err)
			}
			w.AddParticipant(speaker("new", "new@demo.example", "", user))
			return fmt.Sprint(user), []string{"learningRecords"}, func() int64 {
				if err := w.EditOtherInfo(user, "learningRecords", ""); err != nil {
					t.Fatal(err)
				}
				return user
			}
		}},
		"unwritable: a key that stands twice": {reason: "unwritable", make: func(_ *testing.T, w *world) (string, []string, func() int64) {
			user := w.user("new@demo.example", "")
			w.SetOtherInfo(user, `{"badge":"one","b\u0061dge":"two"}`)
			w.AddParticipant(speaker("new", "new@demo.example", "", user))
			return fmt.Sprint(user), []string{"badge"}, func() int64 {
				w.SetOtherInfo(user, `{"badge":"one"}`)
				return user
			}
		}},
		"refused: not https": {reason: "refused", make: func(_ *testing.T, w *world) (string, []string, func() int64) {
			user := w.user("new@demo.example", "")
			p := speaker("new", "new@demo.example", "", user)
			good := p.RecordingLink
			p.RecordingLink = "http" + strings.TrimPrefix(good, "https")
			id := w.AddParticipant(p)
			return fmt.Sprint(user), []string{"recording_link", "https"}, func() int64 {
				w.settled(func() { w.UpdateParticipant(id, func(p *simulator.Participant) { p.RecordingLink = good }) })
				return user
			}
		}},
		"refused: another host": {reason: "refused", make: func(_ *testing.T, w *world) (string, []string, func() int64) {
			user := w.user("new@demo.example", "")
			p := speaker("new", "new@demo.example", "", user)
			good := p.RecordingLink
			p.RecordingLink = "https://evil.example/" + "new@demo.example"
			id := w.AddParticipant(p)
			return fmt.Sprint(user), []string{"recording_link", "LINK_HOSTS"}, func() int64 {
				w.settled(func() { w.UpdateParticipant(id, func(p *simulator.Participant) { p.RecordingLink = good }) })
				return user
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, simulator.Options{})
			w.user("bystander@demo.example", "S-77")
			subject, detail, mend := c.make(t, w)
			res := w.backfill(t)
			h := w.holds(t)[subject]
			if res.Written != 0 || res.Held.Sum() != 1 || heldCounts(res.Held)[c.reason] != 1 || h.reason != c.reason {
				t.Fatalf("%+v, held %+v", res, w.holds(t))
			}
			for _, word := range detail {
				if !strings.Contains(h.detail, word) {
					t.Errorf("the detail %q does not say %q", h.detail, word)
				}
			}
			// What is held is not asked about again, and stays.
			if again := w.backfill(t); again.Held != res.Held || w.asked("bln users.get") != 0 {
				t.Errorf("a second backfill: %+v, %d single GETs", again, w.asked("bln users.get"))
			}
			user := mend()
			res = w.backfill(t)
			if res.Written != 1 || res.Held.Sum() != 0 || len(w.holds(t)) != 0 {
				t.Errorf("mended: %+v, held %+v", res, w.holds(t))
			}
			if w.fragment(t, user) == nil {
				t.Errorf("mended: user %d has no fragment", user)
			}
		})
	}
}

// belongs tells the simulator whose a row is by now.
func (w *world) belongs(row, user int64) {
	w.settled(func() { w.UpdateParticipant(row, func(p *simulator.Participant) { p.For, p.Held = user, "" }) })
}

// A sweep alone mends what was mended in BLN alone.
func TestASweepLiftsWhatBLNHasMended(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	unwritable := w.user("ada@demo.example", "")
	if err := w.EditOtherInfo(unwritable, "trades", "null"); err != nil {
		t.Fatal(err)
	}
	w.AddParticipant(speaker("ada", "ada@demo.example", "", unwritable))
	first, second := w.user("bob@demo.example", ""), w.user("BOB@demo.example", "")
	w.AddParticipant(speaker("bob", "bob@demo.example", "", first))
	w.AddParticipant(speaker("eve", "eve@demo.example", "", 0))
	w.backfill(t)
	w.wantReasons(t, map[string]string{fmt.Sprint(unwritable): "unwritable", "email:bob@demo.example": "ambiguous", "email:eve@demo.example": "unmatched"})

	if err := w.EditOtherInfo(unwritable, "trades", "[]"); err != nil {
		t.Fatal(err)
	}
	w.RemoveUser(second)
	eve := w.user("eve@demo.example", "")
	res := w.sweep(t)
	w.wantReasons(t, map[string]string{})
	if res.Written != 3 || w.fragment(t, unwritable) == nil || w.fragment(t, first) == nil || w.fragment(t, eve) == nil {
		t.Errorf("%+v", res)
	}
}

// The voice of somebody who is another user now does not stay because of the bad link of the one who takes the place.
func TestARefusalDoesNotKeepAWrongVoice(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	ada, bob := w.user("ada@demo.example", "S-1"), w.user("bob@demo.example", "")
	mine := w.AddParticipant(speaker("ada", "", "S-1", ada))
	w.backfill(t)
	w.setExternalID(t, ada, "S-2")
	w.setExternalID(t, bob, "S-1")
	w.belongs(mine, bob)
	bad := speaker("eve", "", "S-2", 0)
	bad.NameBadgeLink, bad.RecordingLink, bad.RecordingID = "http://www.name-coach.com/eve", "", ""
	w.AddParticipant(bad)
	if res := w.backfill(t); res.Written != 1 || res.Cleared != 1 || res.Held.Refused != 1 || w.fragment(t, ada) != nil || w.fragment(t, bob) == nil {
		t.Errorf("%+v: %s, %s", res, w.UserOtherInfo(ada), w.UserOtherInfo(bob))
	}
	if res := w.backfill(t); res.Written+res.Cleared != 0 || res.Held.Refused != 1 || w.asked("bln users.get") != 0 {
		t.Errorf("a second backfill: %+v", res)
	}
}

// Whoever shows what is wanted, whoever put it there, is not unwritable.
func TestAnUnwritableUserWhoShowsWhatIsWantedIsNotHeld(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	ada := w.user("ada@demo.example", "")
	w.AddParticipant(speaker("ada", "ada@demo.example", "", ada))
	w.backfill(t)
	fragment := string(w.members(t, ada)["namecoach"])
	for key, value := range map[string]string{"namecoach": "", "trades": "null"} {
		if err := w.EditOtherInfo(ada, key, value); err != nil {
			t.Fatal(err)
		}
	}
	w.sweep(t)
	w.wantReasons(t, map[string]string{fmt.Sprint(ada): "unwritable"})
	if err := w.EditOtherInfo(ada, "namecoach", fragment); err != nil {
		t.Fatal(err)
	}
	res := w.sweep(t)
	w.wantReasons(t, map[string]string{})
	if res.Written != 0 || res.Unchanged != 1 || w.asked("bln users.get") != 0 {
		t.Errorf("%+v", res)
	}
}
