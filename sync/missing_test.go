package sync_test

import (
	"testing"
	"time"

	"namebridge/internal/simulator"
)

// replaced is a row that NameCoach gives another badge, and so another identity, with a new recording.
func replaced(t *testing.T) *world {
	t.Helper()
	w := start(t, simulator.Options{})
	ada := w.user("ada@demo.example", "")
	row := w.AddParticipant(speaker("ada-1", "ada@demo.example", "", ada))
	w.backfill(t)
	w.settled(func() {
		w.UpdateParticipant(row, func(p *simulator.Participant) {
			p.NameBadgeLink, p.RecordingLink, p.RecordingID = "https://www.name-coach.com/ada-2", "https://namewaves.s3.amazonaws.com/2.mp3", "recording_2"
		})
	})
	return w
}

func TestARowWithANewBadgeReplacesTheOldOne(t *testing.T) {
	t.Parallel()
	t.Run("collect asks about the person", func(t *testing.T) {
		t.Parallel()
		w := replaced(t)
		res, err := w.bridge(t).Collect(t.Context())
		if err != nil || res.Participants != 1 || res.Written != 1 {
			t.Errorf("%+v, %v", res, err)
		}
		w.right(t)
		if n := w.asked("namecoach participants.search"); n != 1 {
			t.Errorf("%d searches", n)
		}
		w.collect(t) // and asks no more
	})
	t.Run("backfill sees it without asking", func(t *testing.T) {
		t.Parallel()
		w := replaced(t)
		if res := w.backfill(t); res.Participants != 1 || res.Written != 1 {
			t.Errorf("%+v", res)
		}
		w.right(t)
	})
}

// The fear is the wrong person's voice: a row whose address was corrected takes its voice along.
func TestAVoiceThatMovedToSomebodyElseIsCleared(t *testing.T) {
	t.Parallel()
	for name, do := range map[string]func(*testing.T, *world){
		"collect": func(t *testing.T, w *world) {
			if _, err := w.bridge(t).Collect(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
		"backfill": func(t *testing.T, w *world) { w.backfill(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, simulator.Options{})
			ada, bob := w.user("ada@demo.example", ""), w.user("bob@demo.example", "")
			row := w.AddParticipant(speaker("x", "ada@demo.example", "", ada))
			w.backfill(t)
			w.settled(func() {
				w.UpdateParticipant(row, func(p *simulator.Participant) { p.Email, p.For = "bob@demo.example", bob })
			})
			do(t, w)
			w.right(t)
		})
	}
}

// Rule 3.5: what a whole walk did not bring stays, for absence is not evidence.
func TestARowThatIsGoneClearsNobody(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	ada := w.user("ada@demo.example", "")
	row := w.AddParticipant(speaker("x", "ada@demo.example", "", ada))
	w.backfill(t)
	before := w.UserOtherInfo(ada)
	w.DeleteParticipant(row)
	if res := w.backfill(t); res.Cleared != 0 || res.Written != 0 || res.Participants != 1 || res.Linked != 1 {
		t.Errorf("%+v", res)
	}
	if got := w.UserOtherInfo(ada); got != before {
		t.Errorf("now %s", got)
	}
	// It comes back, and speaks again.
	w.AddParticipant(speaker("x", "ada@demo.example", "", ada))
	if res := w.backfill(t); res.Participants != 1 {
		t.Errorf("%+v", res)
	}
	w.right(t)
}

// Traps 36, 37: created shows seconds, the order has fractions.
func TestAListWhoseOrderIsHiddenEndsAtItsNewestUser(t *testing.T) {
	t.Parallel()
	for _, link := range []bool{false, true} {
		w := start(t, simulator.Options{Seed: 65, Users: 90, HiddenFractions: true, LinkHeader: link})
		if _, err := w.bridge(t).Backfill(t.Context(), time.Time{}); err != nil {
			t.Fatalf("link header %v: %v", link, err)
		}
		w.right(t)
	}
}

// A corrected institution id makes another row of the same person: whoever the old one named must not keep the voice.
func TestAVoiceWhoseInstitutionIDWasCorrectedIsClearedWhereItWas(t *testing.T) {
	t.Parallel()
	for _, incremental := range []bool{false, true} {
		w := start(t, simulator.Options{})
		wrong, right := w.user("wrong@demo.example", "A"), w.user("right@demo.example", "B")
		row := w.AddParticipant(speaker("x", "someone@elsewhere.example", "A", wrong))
		w.backfill(t)
		w.settled(func() {
			w.UpdateParticipant(row, func(p *simulator.Participant) { p.InstitutionID, p.For = "B", right })
		})
		if incremental {
			if _, err := w.bridge(t).Collect(t.Context()); err != nil {
				t.Fatal(err)
			}
		} else if res := w.backfill(t); res.Cleared != 1 {
			t.Errorf("%+v", res)
		}
		w.right(t)
	}
}

// Nor does one absence take a recording away from somebody who has other rows: in another event, or a twin in the same.
func TestARowThatIsGoneSpeaksOnBesideOthers(t *testing.T) {
	t.Parallel()
	for name, code := range map[string]string{"another event": "Z", "the same event": "A"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, simulator.Options{})
			ada := w.user("ada@demo.example", "")
			recorded := speaker("x", "ada@demo.example", "", ada)
			recorded.EventAccessCode = "A"
			other := speaker("y", "ada@demo.example", "", ada)
			other.EventAccessCode, other.RecordingLink, other.RecordingID = code, "", ""
			row := w.AddParticipant(recorded)
			w.AddParticipant(other)
			w.backfill(t)
			w.backfill(t) // both were seen before, and together
			before := w.UserOtherInfo(ada)
			w.DeleteParticipant(row)
			if res := w.backfill(t); res.Cleared != 0 || res.Written != 0 {
				t.Errorf("%+v", res)
			}
			if got := w.UserOtherInfo(ada); got != before {
				t.Errorf("was %s, now %s", before, got)
			}
		})
	}
}
