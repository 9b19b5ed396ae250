package sync

import (
	"cmp"
	"slices"
	"time"
)

// Participant is a NameCoach row as the rules see it. Empty text: NameCoach has nothing.
type Participant struct {
	ID              string // our digest of what identifies the row
	EventAccessCode string
	EventTitle      string
	InstitutionID   string
	NameBadgeLink   string
	RecordingLink   string
	RecordingID     string
	RecordingDate   string // ISO 8601, seldom there (NC 356)
	Attributes      map[string]string
}

// Choose picks the participant who speaks for a user among all that are linked to that user, the same one for any order
// of participants: only those of events, where any are given; those with a recording before those without; then by the
// order of events; then by the newest recording date, if each has one; then by event code, institution id and badge
// link. The answer is false where nobody has a badge or a recording.
func Choose(participants []Participant, events []string) (Participant, bool) {
	ps := slices.DeleteFunc(slices.Clone(participants), func(p Participant) bool {
		silent := p.NameBadgeLink == "" && p.RecordingLink == ""
		return silent || len(events) > 0 && !slices.Contains(events, p.EventAccessCode)
	})
	if slices.ContainsFunc(ps, func(p Participant) bool { return p.RecordingLink != "" }) {
		ps = slices.DeleteFunc(ps, func(p Participant) bool { return p.RecordingLink == "" })
	}
	if len(ps) == 0 {
		return Participant{}, false
	}
	dates := make(map[string]time.Time, len(ps))
	for _, p := range ps {
		if t, ok := parseDate(p.RecordingDate); ok {
			dates[p.ID] = t
		}
	}
	allDated := len(dates) == len(ps)
	return slices.MinFunc(ps, func(a, b Participant) int {
		byDate := 0
		if allDated {
			byDate = dates[b.ID].Compare(dates[a.ID])
		}
		return cmp.Or(
			cmp.Compare(slices.Index(events, a.EventAccessCode), slices.Index(events, b.EventAccessCode)),
			byDate,
			cmp.Compare(a.EventAccessCode, b.EventAccessCode),
			cmp.Compare(a.InstitutionID, b.InstitutionID),
			cmp.Compare(a.NameBadgeLink, b.NameBadgeLink),
			cmp.Compare(a.ID, b.ID),
		)
	}), true
}

// parseDate reads the times of both documents: with a zone of hours and minutes, with or without a colon, or with none
// (NC 67, 356, BLN 7281).
func parseDate(s string) (time.Time, bool) {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999-0700", time.DateTime} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}
