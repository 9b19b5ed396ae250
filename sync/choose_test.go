package sync

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// Trap 18: one person in many events.
func TestOneParticipantSpeaksForAUser(t *testing.T) {
	t.Parallel()
	const badge, recording = "https://www.name-coach.com/jane", "https://www.name-coach.com/jane.mp3"
	for name, c := range map[string]struct {
		participants []Participant
		events       []string
		want         string // empty: nobody
	}{
		"nobody is there": {want: ""},
		"neither badge nor recording": {
			participants: []Participant{{ID: "a", EventTitle: "x", RecordingID: "19", RecordingDate: "2024-01-01T00:00:00Z"}},
		},
		"a badge is enough": {
			participants: []Participant{{ID: "a"}, {ID: "b", NameBadgeLink: badge}}, want: "b",
		},
		"a recording is enough": {
			participants: []Participant{{ID: "a"}, {ID: "b", RecordingLink: recording}}, want: "b",
		},
		"a recording comes before a badge": {
			participants: []Participant{{ID: "a", NameBadgeLink: badge}, {ID: "b", RecordingLink: recording}}, want: "b",
		},
		"a recording comes before the preferred event": {
			participants: []Participant{{ID: "a", NameBadgeLink: badge, EventAccessCode: "first"}, {ID: "b", RecordingLink: recording, EventAccessCode: "second"}},
			events:       []string{"first", "second"}, want: "b",
		},
		"the preferred event": {
			participants: []Participant{{ID: "a", RecordingLink: recording, EventAccessCode: "second"}, {ID: "b", RecordingLink: recording, EventAccessCode: "first"}},
			events:       []string{"first", "second"}, want: "b",
		},
		"the preferred event comes before the newest": {
			participants: []Participant{
				{ID: "a", RecordingLink: recording, EventAccessCode: "second", RecordingDate: "2025-01-01T00:00:00Z"},
				{ID: "b", RecordingLink: recording, EventAccessCode: "first", RecordingDate: "2020-01-01T00:00:00Z"},
			},
			events: []string{"first", "second"}, want: "b",
		},
		"events that do not count": {
			participants: []Participant{{ID: "a", RecordingLink: recording, EventAccessCode: "other"}},
			events:       []string{"first"}, want: "",
		},
		"event codes are compared exactly (trap 19)": {
			participants: []Participant{{ID: "a", RecordingLink: recording, EventAccessCode: "FIRST"}},
			events:       []string{"first"}, want: "",
		},
		"a recording in an event that does not count is none": {
			participants: []Participant{{ID: "a", RecordingLink: recording, EventAccessCode: "other"}, {ID: "b", NameBadgeLink: badge, EventAccessCode: "first"}},
			events:       []string{"first"}, want: "b",
		},
		"the newest recording": {
			participants: []Participant{
				{ID: "a", RecordingLink: recording, RecordingDate: "2024-01-01T00:00:00Z"},
				{ID: "b", RecordingLink: recording, RecordingDate: "2024-01-01T00:00:01.5Z"},
				{ID: "c", RecordingLink: recording, RecordingDate: "2024-01-01T00:00:01Z"},
			}, want: "b",
		},
		"times are compared, not their spelling": {
			participants: []Participant{
				{ID: "a", RecordingLink: recording, RecordingDate: "2024-01-01T09:00:00+0900"},
				{ID: "b", RecordingLink: recording, RecordingDate: "2024-01-01T00:00:01+0000"},
				{ID: "c", RecordingLink: recording, RecordingDate: "2023-12-31T23:59:59.999-00:00"},
			}, want: "b",
		},
		"without a date on each, dates do not count": {
			participants: []Participant{
				{ID: "b", RecordingLink: recording, RecordingDate: "2024-01-01T00:00:00Z", EventAccessCode: "z"},
				{ID: "a", RecordingLink: recording, EventAccessCode: "a"},
			}, want: "a",
		},
		"a date that cannot be read is none": {
			participants: []Participant{
				{ID: "b", RecordingLink: recording, RecordingDate: "2024-01-01T00:00:00Z", EventAccessCode: "z"},
				{ID: "a", RecordingLink: recording, RecordingDate: "yesterday", EventAccessCode: "a"},
			}, want: "a",
		},
		"a date of somebody without a recording does not matter": {
			participants: []Participant{
				{ID: "a", RecordingLink: recording, RecordingDate: "2020-01-01T00:00:00Z", EventAccessCode: "a"},
				{ID: "b", RecordingLink: recording, RecordingDate: "2024-01-01T00:00:00Z", EventAccessCode: "z"},
				{ID: "c", NameBadgeLink: badge, EventAccessCode: "0"},
			}, want: "b",
		},
		"a tie goes by event code": {
			participants: []Participant{{ID: "a", RecordingLink: recording, EventAccessCode: "z", InstitutionID: "1"}, {ID: "b", RecordingLink: recording, EventAccessCode: "y", InstitutionID: "2"}}, want: "b",
		},
		"then by institution id": {
			participants: []Participant{{ID: "a", RecordingLink: recording, InstitutionID: "2", NameBadgeLink: badge + "1"}, {ID: "b", RecordingLink: recording, InstitutionID: "1", NameBadgeLink: badge + "2"}}, want: "b",
		},
		"then by badge link": {
			participants: []Participant{{ID: "a", RecordingLink: recording, NameBadgeLink: badge + "2"}, {ID: "b", RecordingLink: recording, NameBadgeLink: badge + "1"}}, want: "b",
		},
		"then by the row": {
			participants: []Participant{{ID: "b", RecordingLink: recording}, {ID: "a", RecordingLink: recording}}, want: "a",
		},
	} {
		for _, reversed := range []bool{false, true} {
			ps := slices.Clone(c.participants)
			if reversed {
				slices.Reverse(ps)
			}
			got, ok := Choose(ps, c.events)
			if got.ID != c.want || ok != (c.want != "") {
				t.Errorf("%s (reversed %t): %q speaks (%t), want %q", name, reversed, got.ID, ok, c.want)
			}
		}
	}
}

// drawParticipants draws rows of one person, each with an identity of its own; their links are good ones, or none.
func drawParticipants(t *rapid.T, most int) []Participant {
	pick := func(label string, from ...string) string { return rapid.SampledFrom(from).Draw(t, label) }
	n := rapid.IntRange(0, most).Draw(t, "participants")
	ps := make([]Participant, n)
	for i := range ps {
		ps[i] = Participant{
			ID:              string(rune('a' + i)),
			EventAccessCode: pick("event", "", "first", "second", "other"),
			EventTitle:      pick("title", "", "Commencement", " Graduation\u202e "),
			InstitutionID:   pick("institution", "", "1", "2"),
			NameBadgeLink:   pick("badge", "", "https://www.name-coach.com/jane", "https://www.name-coach.com/jane-doe"),
			RecordingLink:   pick("recording", "", "https://www.name-coach.com/a.mp3?sig=1", "https://www.name-coach.com/a.mp3?sig=2", "https://www.name-coach.com/b.mp3"),
			RecordingID:     pick("recording id", "", "19", "recording_6684"),
			RecordingDate:   pick("date", "", "2024-01-01T00:00:00+0000", "2025-01-01T00:00:00.000Z", "then"),
			Attributes:      map[string]string{"custom_gender_pronouns": pick("pronouns", "", "she/her")},
		}
	}
	return ps
}

var someEvents = rapid.SampledFrom([][]string{nil, {"first"}, {"second", "first"}, {"first", "second", "other", ""}})

func TestWhoSpeaksDoesNotDependOnTheOrderOfParticipants(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		ps, events := drawParticipants(t, 7), someEvents.Draw(t, "events")
		before := slices.Clone(ps)
		want, ok := Choose(ps, events)
		if diff := cmp.Diff(before, ps); diff != "" {
			t.Fatalf("the caller's participants were moved: %s", diff)
		}
		got, okToo := Choose(rapid.Permutation(ps).Draw(t, "order"), events)
		if ok != okToo || got.ID != want.ID {
			t.Fatalf("%q speaks (%t), in another order %q (%t)", want.ID, ok, got.ID, okToo)
		}
		if !ok {
			for _, p := range ps {
				if (p.NameBadgeLink != "" || p.RecordingLink != "") && (len(events) == 0 || slices.Contains(events, p.EventAccessCode)) {
					t.Fatalf("%q could speak", p.ID)
				}
			}
			return
		}
		// Who was not chosen is not missed: without any of the others, dates aside, the same one speaks.
		alone, ok := Choose([]Participant{want}, events)
		if !ok || alone.ID != want.ID {
			t.Fatalf("%q does not speak alone", want.ID)
		}
		if want.RecordingLink == "" && slices.ContainsFunc(ps, func(p Participant) bool {
			return p.RecordingLink != "" && (len(events) == 0 || slices.Contains(events, p.EventAccessCode))
		}) {
			t.Fatalf("%q has no recording, and somebody else has", want.ID)
		}
	})
}
