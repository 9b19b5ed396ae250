package sync_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"namebridge/internal/simulator"
	"namebridge/namecoach"
	"namebridge/state"
	bridgesync "namebridge/sync"
)

// chorus makes total users with a recording each, all of them written.
func chorus(t *testing.T, total int, o simulator.Options) (w *world, users, rows []int64) {
	t.Helper()
	w = start(t, o)
	for i := range total {
		email := fmt.Sprintf("u%03d@demo.example", i)
		users = append(users, w.user(email, ""))
		rows = append(rows, w.AddParticipant(speaker(fmt.Sprint("u", i), email, "", users[i])))
	}
	if res := w.backfill(t); res.Written != total {
		t.Fatalf("%+v", res)
	}
	return w, users, rows
}

func (w *world) census(t *testing.T, status state.RunStatus) bridgesync.Result {
	t.Helper()
	return w.run(t, status, func(b *bridgesync.Bridge) (bridgesync.Result, error) { return b.Census(t.Context()) })
}

// Absence is not evidence, until it was seen twice in a row by a complete census.
func TestWhoIsGoneFromNameCoachIsClearedByTheSecondCensus(t *testing.T) {
	t.Parallel()
	w, users, rows := chorus(t, 12, simulator.Options{})
	w.DeleteParticipant(rows[0])
	w.DeleteParticipant(rows[1])
	for _, run := range []func() bridgesync.Result{
		func() bridgesync.Result { return w.census(t, state.Done) },
		func() bridgesync.Result { return w.collect(t) },
		func() bridgesync.Result { return w.sweep(t) },
		func() bridgesync.Result { return w.backfill(t) }, // which sees that the row is missing, and waits for a census all the same
	} {
		if res := run(); res.Cleared != 0 || res.Written != 0 || w.fragment(t, users[0]) == nil {
			t.Fatalf("cleared too early: %+v", res)
		}
	}
	if asked := w.asked("namecoach participants.search"); asked != 0 {
		t.Errorf("a backfill made %d searches", asked)
	}
	res := w.census(t, state.Done)
	if res.Cleared != 2 || res.Written != 0 || res.Linked != 10 {
		t.Errorf("%+v, want two cleared", res)
	}
	w.right(t)
	if members := w.members(t, users[0]); members["namecoach"] == nil {
		t.Errorf("the key is gone, want null: %s", w.UserOtherInfo(users[0]))
	}
	if asked := w.asked("namecoach participants.search"); asked != 2 {
		t.Errorf("%d searches, want one for twelve people and one for the two who were not shown", asked)
	}
	// They come back, and so does their badge.
	again := speaker("again", "u000@demo.example", "", users[0])
	again.Updated = time.Now()
	w.AddParticipant(again)
	if res := w.collect(t); res.Written != 1 {
		t.Errorf("who came back: %+v", res)
	}
	w.right(t)
	if res := w.census(t, state.Done); res.Cleared+res.Written != 0 {
		t.Errorf("%+v", res)
	}
}

// Whoever is there again as before, with the old update time, is in no window: an event that was archived and is reopened.
func TestWhoIsThereAgainAsBeforeIsFoundByTheNextCensus(t *testing.T) {
	t.Parallel()
	w, users, rows := chorus(t, 12, simulator.Options{})
	w.DeleteParticipant(rows[0])
	w.census(t, state.Done)
	if res := w.census(t, state.Done); res.Cleared != 1 {
		t.Fatalf("%+v", res)
	}
	if res := w.census(t, state.Done); res.Cleared+res.Written != 0 { // who is still gone is asked about, and changes nothing
		t.Errorf("%+v", res)
	}
	w.AddParticipant(speaker("u0", "u000@demo.example", "", users[0]))
	if res := w.census(t, state.Done); res.Written != 1 || res.Linked != 12 {
		t.Errorf("%+v", res)
	}
	w.right(t)
	// No window could bring it: none has missed it.
	w.Advance(w.settings.Lookback + time.Hour)
	w.collect(t)
	w.collect(t)
	if late := value[int64](t, w, `SELECT late_found FROM bridges`); late != 0 {
		t.Errorf("%d rows were found late", late)
	}
}

// What waits for a person waits as long as it is true: who is shown again to a census is not among it any more.
func TestAnApprovalClearsNobodyWhomACensusHasSeenSince(t *testing.T) {
	t.Parallel()
	w, users, rows := chorus(t, 60, simulator.Options{})
	for _, row := range rows[:30] {
		w.DeleteParticipant(row)
	}
	w.census(t, state.Done)
	staged := w.census(t, state.Quarantined)
	for i, id := range users[:29] { // the source is whole again, as it was; one has really left
		w.AddParticipant(speaker(fmt.Sprint("u", i), fmt.Sprintf("u%03d@demo.example", i), "", id))
	}
	if res, err := w.bridge(t).Census(t.Context()); err != nil || res.Cleared+res.Written != 0 {
		t.Fatalf("%+v, %v", res, err)
	}
	res, a, err := w.bridge(t).Approve(t.Context(), staged.Run, "a week later")
	if err != nil || res.Cleared != 1 || len(a.Moved) != 29 {
		t.Errorf("%+v, moved %v, %v; want one cleared and 29 left out", res, a.Moved, err)
	}
	w.right(t)
}

// One that is missing, is there, and is missing again was missing once.
func TestTheCensusesThatDoNotShowSomebodyMustFollowEachOther(t *testing.T) {
	t.Parallel()
	w, users, rows := chorus(t, 3, simulator.Options{})
	w.DeleteParticipant(rows[0])
	w.census(t, state.Done)
	again := w.AddParticipant(speaker("u0", "u000@demo.example", "", users[0]))
	w.census(t, state.Done)
	w.DeleteParticipant(again)
	if res := w.census(t, state.Done); res.Cleared != 0 || w.fragment(t, users[0]) == nil {
		t.Errorf("%+v", res)
	}
	if res := w.census(t, state.Done); res.Cleared != 1 {
		t.Errorf("%+v", res)
	}
	w.right(t)
}

func TestOneOfTwoRowsThatIsGoneLetsTheOtherSpeak(t *testing.T) {
	t.Parallel()
	w, users, rows := chorus(t, 3, simulator.Options{})
	other := speaker("other", "u000@demo.example", "", users[0])
	other.EventAccessCode, other.EventSlug, other.EventTitle = "OTHER", "other", "Other"
	w.AddParticipant(other)
	w.backfill(t)
	w.DeleteParticipant(rows[0])
	w.census(t, state.Done)
	res := w.census(t, state.Done)
	if res.Cleared != 0 {
		t.Errorf("%+v", res)
	}
	w.right(t)
}

func TestARecordingThatIsGoneWhileTheBadgeStaysIsFoundByACensus(t *testing.T) {
	t.Parallel()
	w, users, rows := chorus(t, 3, simulator.Options{})
	w.earlier(48*time.Hour, func() { w.RemoveRecording(rows[1]) }) // long before the lookback: no window brings it
	res := w.census(t, state.Done)
	f := w.fragment(t, users[1])
	if res.Written != 1 || res.Cleared != 0 || says(f, "name_badge_link") == "" || f["recording_link"] != nil || f["recording_id"] != nil {
		t.Errorf("%+v: %s", res, w.UserOtherInfo(users[1]))
	}
	w.right(t)
}

// A source that suddenly shrinks is an incomplete source: a person decides, and the rest goes on.
func TestACensusThatMissesManyWaitsForAPersonAndTheRestGoesOn(t *testing.T) {
	t.Parallel()
	w, users, rows := chorus(t, 60, simulator.Options{})
	w.census(t, state.Done)
	for _, row := range rows[:30] {
		w.DeleteParticipant(row)
	}
	w.census(t, state.Done)
	w.earlier(48*time.Hour, func() {
		w.UpdateParticipant(rows[40], func(p *simulator.Participant) { p.NameBadgeLink = "https://www.name-coach.com/changed" })
	})
	res := w.census(t, state.Quarantined)
	if res.Cleared != 0 || res.Written != 1 || says(w.fragment(t, users[40]), "name_badge_link") != "https://www.name-coach.com/changed" {
		t.Errorf("the safe part of it: %+v", res)
	}
	for _, id := range users[:30] {
		if w.fragment(t, id) == nil {
			t.Fatalf("user %d was cleared", id)
		}
	}
	// Other runs clear nobody either, and one of the thirty comes back before anybody has decided.
	w.collect(t)
	w.run(t, state.Quarantined, func(b *bridgesync.Bridge) (bridgesync.Result, error) { return b.Sweep(t.Context()) })
	back := speaker("back", "u005@demo.example", "", users[5])
	back.Updated = time.Now()
	w.AddParticipant(back)
	w.collect(t)
	if w.fragment(t, users[4]) == nil || says(w.fragment(t, users[5]), "name_badge_link") != "https://www.name-coach.com/back" {
		t.Errorf("%s, %s", w.UserOtherInfo(users[4]), w.UserOtherInfo(users[5]))
	}
	if _, _, err := w.bridge(t).Approve(t.Context(), uuid.New(), "no such run"); !errors.Is(err, state.ErrStale) {
		t.Errorf("an unknown run: %v", err)
	}
	approved, a, err := w.bridge(t).Approve(t.Context(), res.Run, "the class of 2024 has left")
	if err != nil || approved.Status != state.Done || approved.Cleared != 29 || a.Steps != 30 || !slices.Equal(a.Moved, []int64{users[5]}) {
		t.Errorf("%+v, %+v, %v; want 29 cleared and one left out", approved, a, err)
	}
	w.right(t)
	if _, _, err := w.bridge(t).Approve(t.Context(), res.Run, "twice"); !errors.Is(err, state.ErrStale) {
		t.Errorf("a second time: %v", err)
	}
}

// Recordings that are all gone at once are no less to be doubted than people.
func TestRecordingsThatAllVanishAtOnceWaitForAPerson(t *testing.T) {
	t.Parallel()
	w, users, rows := chorus(t, 40, simulator.Options{})
	for _, row := range rows[:25] {
		w.RemoveRecording(row)
	}
	res := w.run(t, state.Quarantined, func(b *bridgesync.Bridge) (bridgesync.Result, error) { return b.Collect(t.Context()) })
	if res.Written != 0 || says(w.fragment(t, users[0]), "recording_link") == "" {
		t.Errorf("%+v", res)
	}
	if approved, _, err := w.bridge(t).Approve(t.Context(), res.Run, "they were asked to record anew"); err != nil || approved.Written != 25 {
		t.Errorf("%+v, %v", approved, err)
	}
	w.right(t)
}

// What NameCoach does not answer, or answers in part, is no evidence: a census that fails is gone on with, and counts once.
func TestACensusThatFailsCountsNobodyAndIsGoneOnWith(t *testing.T) {
	t.Parallel()
	w, users, rows := chorus(t, 1100, simulator.Options{})
	w.settings.Guard.MaxClears = 2000
	for _, row := range rows[:10] {
		w.DeleteParticipant(row)
	}
	w.census(t, state.Done)
	w.interrupted(t, "namecoach participants.search", 2, censuses)
	if w.fragment(t, users[0]) == nil {
		t.Error("cleared by half a census")
	}
	w.interrupted(t, "bln users.put", 1, censuses) // when everybody is counted, and the clears have begun
	w.census(t, state.Done)
	w.right(t)
}

// A run that is gone on with is no second census.
func TestACensusThatWasInterruptedAfterCountingHasCountedOnce(t *testing.T) {
	t.Parallel()
	w, users, rows := chorus(t, 3, simulator.Options{})
	w.DeleteParticipant(rows[0])
	w.earlier(48*time.Hour, func() { w.RemoveRecording(rows[1]) })
	w.interrupted(t, "bln users.get", 1, censuses)
	var absences int
	if err := w.db.QueryRow(t.Context(), `SELECT max(absences) FROM participants`).Scan(&absences); err != nil || absences != 1 || w.fragment(t, users[0]) == nil {
		t.Errorf("%d absences, %v", absences, err)
	}
	if res := w.census(t, state.Done); res.Cleared != 1 {
		t.Errorf("the second census: %+v", res)
	}
	w.right(t)
}

// A person whose address NameCoach spells in two ways is asked about in both, and counted only when both were answered.
func TestACensusAsksInNameCoachsOwnSpelling(t *testing.T) {
	t.Parallel()
	w := start(t, simulator.Options{EmailCaseSensitiveSearch: true})
	ada := w.user("ada@demo.example", "S-1")
	first := speaker("ada", "Ada@Demo.Example", "", ada)
	second := speaker("ada2", "ADA@demo.example", "", ada)
	second.EventAccessCode, second.EventSlug = "OTHER", "other"
	bare := speaker("bob", "", "S-2", w.user("bob@demo.example", "S-2"))
	w.AddParticipant(first)
	w.AddParticipant(second)
	w.AddParticipant(bare)
	w.backfill(t)
	for range 3 {
		if res := w.census(t, state.Done); res.Cleared+res.Written != 0 {
			t.Errorf("%+v", res)
		}
	}
	w.right(t)
}

// forgetful answers a question about many people as if fewer had been asked about.
type forgetful struct{ most int }

func (f forgetful) RoundTrip(r *http.Request) (*http.Response, error) {
	if !strings.HasSuffix(r.URL.Path, "/participants/search") {
		return http.DefaultTransport.RoundTrip(r)
	}
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	var body map[string]string
	if err := json.Unmarshal(raw, &body); err != nil {
		return nil, err
	}
	keys := strings.Split(body["email_list"], ",")
	body["email_list"] = strings.Join(keys[:min(len(keys), f.most)], ",")
	if raw, err = json.Marshal(body); err != nil {
		return nil, err
	}
	again := r.Clone(r.Context())
	again.Body, again.ContentLength = io.NopCloser(bytes.NewReader(raw)), int64(len(raw))
	return http.DefaultTransport.RoundTrip(again)
}

// How many keys one question may have is not published: what a large answer leaves out, without a word, is asked about again.
func TestACensusDoesNotTrustOneLargeAnswer(t *testing.T) {
	t.Parallel()
	w, users, rows := chorus(t, 60, simulator.Options{})
	w.DeleteParticipant(rows[55])
	for range 2 {
		b := w.bridge(t)
		var err error
		b.NameCoach, err = namecoach.New(namecoach.Options{
			BaseURL: w.NameCoachURL(), Token: w.Token(), RequestsPer15Minutes: 1_000_000, Transport: forgetful{most: 25},
		})
		if err != nil {
			t.Fatal(err)
		}
		if res, err := b.Census(t.Context()); err != nil || res.Status != state.Done {
			t.Fatalf("%+v, %v", res, err)
		}
	}
	for i, user := range users {
		if there := w.fragment(t, user) != nil; there != (i != 55) {
			t.Errorf("user %d: a fragment is there: %v", i, there)
		}
	}
}
