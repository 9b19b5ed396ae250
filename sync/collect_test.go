package sync_test

import (
	"fmt"
	"testing"
	"time"

	"namebridge/internal/simulator"
)

func TestAnIdleCollectAsksNameCoachOnce(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{Seed: 51, Users: 60})
	w.backfill(t)
	for range 3 {
		res := w.collect(t)
		w.quiet(t, "namecoach participants.list")
		if n := w.asked("namecoach participants.list"); n != 1 || res.Written != 0 || res.Requests.NameCoach != 1 || res.Requests.BLN != 0 {
			t.Errorf("%d requests, %+v", n, res)
		}
	}
}

func TestACollectWritesWhatChanged(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{Seed: 52, Users: 60})
	ada, bob, eve := w.user("ada@demo.example", "S-1"), w.user("bob@demo.example", "S-2"), w.user("eve@demo.example", "S-3")
	row := w.AddParticipant(speaker("ada", "ada@demo.example", "S-1", ada))
	badge := speaker("bob", "bob@demo.example", "", bob)
	badge.RecordingLink, badge.RecordingID = "", ""
	bobs := w.AddParticipant(badge)
	w.backfill(t)
	w.right(t)

	w.settled(func() {
		w.UpdateParticipant(row, func(p *simulator.Participant) {
			p.RecordingLink, p.RecordingID = "https://namewaves.s3.amazonaws.com/again.mp3", "recording_again"
		})
		w.UpdateParticipant(bobs, func(p *simulator.Participant) { p.RecordingLink = "https://namewaves.s3.amazonaws.com/bob.mp3" })
		fresh := speaker("eve", "", "S-3", eve) // known to the directory, new to NameCoach
		fresh.Updated = time.Time{}
		w.AddParticipant(fresh)
	})
	res := w.collect(t)
	w.quiet(t, "namecoach participants.list", "bln auth.login", "bln users.get", "bln users.put")
	w.right(t)
	if res.Written != 3 || w.asked("bln users.get") != 3 || w.asked("bln users.put") != 3 {
		t.Errorf("%+v, %v", res, w.Counts())
	}
	if got := says(w.fragment(t, ada), "recording_id"); got != "recording_again" {
		t.Errorf("ada's recording is %s", got)
	}
}

// Trap 12: a signature that differs at every reading is no change.
func TestRotatingSignaturesCauseNoWrite(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{Seed: 53, Users: 100, RotateDigests: true})
	unnumbered := speaker("ada", "ada@demo.example", "", w.user("ada@demo.example", ""))
	unnumbered.RecordingID = ""
	row := w.AddParticipant(unnumbered)
	w.backfill(t)
	w.right(t)
	if res := w.backfill(t); res.Written != 0 || w.asked("bln users.get") != 0 {
		t.Errorf("a second backfill: %+v", res)
	}
	w.settled(func() {
		for _, p := range w.Participants() {
			w.UpdateParticipant(p.ID, func(*simulator.Participant) {}) // touched, the same as before
		}
	})
	if res := w.collect(t); res.Written != 0 || res.Requests.BLN != 0 {
		t.Errorf("a collect of rows that were touched: %+v", res)
	}
	w.settled(func() {
		w.UpdateParticipant(row, func(p *simulator.Participant) {
			p.RecordingLink = "https://namewaves.s3.amazonaws.com/new.mp3?digest=1"
		})
	})
	if res := w.collect(t); res.Written != 1 {
		t.Errorf("a recording at another path: %+v", res)
	}
	w.right(t)
}

// Rule 3, traps 39, 40: a key that the directory does not know is asked live.
func TestUsersAddedSinceTheListingAreAskedForLive(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{Seed: 54, Users: 60})
	w.backfill(t)
	byAddress := w.user("Added.One@Demo.example", "")
	byID := w.user("added2", "ADDED-2")
	w.AddUser(simulator.NewUser{Username: "decoy@demo.example", OtherInfo: `{"mobilePhone":"ADDED-2"}`}) // query finds this one too
	w.AddUser(simulator.NewUser{Username: "decoy2@demo.example", ExternalID: "ADDED-22"})
	now := func(p simulator.Participant) {
		p.Updated = time.Time{}
		w.settled(func() { w.AddParticipant(p) })
	}
	now(speaker("one", "added.one@demo.example", "", byAddress))
	now(speaker("two", "two@home.example", "ADDED-2", byID))
	now(speaker("nobody", "nobody@home.example", "ADDED-3", 0))
	held := w.Truth().Totals.Held
	res := w.collect(t)
	w.right(t)
	w.quiet(t, "namecoach participants.list", "bln auth.login", "bln users.search", "bln users.query", "bln users.get", "bln users.put")
	if res.Written != 2 || fmt.Sprint(heldCounts(res.Held)) != fmt.Sprint(held) {
		t.Errorf("%+v, held should be %v", res, held)
	}
	if n := w.asked("bln users.search"); n > 2 { // one for addresses; one to learn about list rows is not needed any more
		t.Errorf("%d searches", n)
	}
}

// Rule 3: what the directory knows is not the whole evidence while a key of the person is unknown to it.
func TestAConflictThatOnlyTheLiveQuestionShowsIsHeld(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{Seed: 55, Users: 60})
	known := w.user("known@demo.example", "")
	w.backfill(t)
	added := w.user("added@demo.example", "ADDED-1")
	p := speaker("who", "known@demo.example", "ADDED-1", 0)
	p.Held, p.Updated = "conflict", time.Time{}
	w.settled(func() { w.AddParticipant(p) })
	res := w.collect(t)
	w.right(t)
	if h := w.holds(t)["email:known@demo.example"]; res.Written != 0 || h.reason != "conflict" || fmt.Sprint(h.users) != fmt.Sprint([]int64{known, added}) {
		t.Errorf("%+v, held %+v", res, h)
	}
}

// Two users of whom the directory knows one have the same externalId: both are held as soon as the other is seen.
func TestASecondUserWithTheExternalIdHoldsBoth(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	ada := w.user("ada@demo.example", "S-1")
	row := w.AddParticipant(speaker("ada", "ada@demo.example", "S-1", ada))
	w.backfill(t)
	w.user("twin@demo.example", "S-1")
	w.settled(func() { w.rename(row, "Faculty") })
	w.sweep(t)
	w.wantReasons(t, map[string]string{"email:ada@demo.example": "ambiguous"})
	if says(w.fragment(t, ada), "event_title") != "Staff" {
		t.Errorf("what stood there was not left alone: %s", w.UserOtherInfo(ada))
	}
}

// Trap 2, rule 3: a badge stays where only the recording is gone.
func TestARemovedRecordingLeavesTheBadge(t *testing.T) {
	t.Parallel()
	for _, put := range []simulator.PutSemantics{simulator.Replace, simulator.DeepMerge} {
		w := start(t, simulator.Options{Put: put})
		ada := w.user("ada@demo.example", "")
		p := speaker("ada", "ada@demo.example", "", ada)
		p.RecordingDate = "2024-06-01T12:00:00.000-07:00"
		row := w.AddParticipant(p)
		w.backfill(t)
		if says(w.fragment(t, ada), "recording_date") == "<null>" {
			t.Fatalf("stored %s", w.UserOtherInfo(ada))
		}
		w.settled(func() { w.RemoveRecording(row) })
		res := w.collect(t)
		w.right(t)
		f := w.fragment(t, ada)
		for _, key := range []string{"recording_link", "recording_id", "recording_date"} {
			if v, there := f[key]; !there || v != nil {
				t.Errorf("%s is %s", key, says(f, key))
			}
		}
		if res.Written != 1 || res.Cleared != 0 || says(f, "name_badge_link") != p.NameBadgeLink {
			t.Errorf("%+v, stored %v", res, f)
		}
	}
}

// A row that speaks for somebody ceases to: the next best one does.
func TestTheNextBestRowSpeaksWhenARecordingIsRemoved(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{})
	ada := w.user("ada@demo.example", "")
	first, second := speaker("first", "ada@demo.example", "", ada), speaker("second", "ada@demo.example", "", ada)
	first.EventAccessCode, second.EventAccessCode = "A", "B"
	row := w.AddParticipant(first)
	w.AddParticipant(second)
	w.backfill(t)
	w.settled(func() { w.RemoveRecording(row) })
	w.collect(t)
	w.right(t)
	if got := says(w.fragment(t, ada), "recording_id"); got != second.RecordingID {
		t.Errorf("%s speaks", got)
	}
}
