package sync

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"maps"
	"slices"
	"strings"

	"namebridge/namecoach"
	"namebridge/state"
)

// participant is the row as it is kept.
func (r *run) participant(p namecoach.Participant) state.Participant {
	event := Key(p.EventAccessCode)
	if event == "" {
		event = Key(p.EventSlug)
	}
	email, institution := Fold(p.Email), Key(p.InstitutionID)
	out := state.Participant{
		Email: Key(p.Email), InstitutionID: institution, EventAccessCode: event,
		EventTitle: CleanText(p.EventTitle), FirstName: CleanText(p.FirstName), LastName: CleanText(p.LastName),
		NameBadgeLink: Storable(p.NameBadgeLink, maxStored), RecordingLink: Storable(p.RecordingLink, maxStored),
		RecordingID: CleanText(p.RecordingID), RecordingDate: CleanText(p.RecordingDate),
	}
	for _, f := range r.Settings.Layout.Fields {
		if v, ok := attribute(p, f.Attribute); ok {
			if out.Attributes == nil {
				out.Attributes = map[string]string{}
			}
			out.Attributes[f.Attribute] = CleanText(v)
		}
	}
	// One address may stand in one event more than once, with a badge each. What follows the badge link's path may be a
	// signature.
	id := digestOf(event, email, institution, StableLink(out.NameBadgeLink))
	if email == "" && institution == "" {
		id = digestOf(event, StableLink(out.NameBadgeLink), out.FirstName, out.LastName)
	}
	out.ID = id[:]
	out.Person = PersonKey(email, institution, hex.EncodeToString(out.ID))
	parts := []string{
		out.Person, out.InstitutionID, event, out.EventTitle, out.FirstName, out.LastName, out.NameBadgeLink,
		StableLink(out.RecordingLink), out.RecordingID, out.RecordingDate,
	}
	for _, k := range slices.Sorted(maps.Keys(out.Attributes)) {
		parts = append(parts, k, out.Attributes[k])
	}
	content := digestOf(parts...)
	out.Content = content[:]
	return out
}

// attribute finds a configured attribute: flat (custom_gender_pronouns), in custom_objects with or without the prefix, or
// one of the row's own (phonetic_spelling).
func attribute(p namecoach.Participant, name string) (string, bool) {
	switch name {
	case "phonetic_spelling", "phonetic":
		if p.Phonetic != "" {
			return p.Phonetic, true
		}
	case "notes":
		if p.Notes != "" {
			return p.Notes, true
		}
	}
	if v, ok := p.Custom[name]; ok {
		return v, true
	}
	v, ok := p.Custom[strings.TrimPrefix(name, "custom_")]
	return v, ok
}

// rowID sums a whole row up, less the queries of its links, which may change from answer to answer.
func rowID(p namecoach.Participant) RowID {
	parts := []string{
		p.FirstName, p.LastName, p.Email, p.InstitutionID, p.EventTitle, p.EventSlug, p.EventAccessCode, p.EventCode,
		StableLink(p.RecordingLink), p.RecordingID, p.RecordingDate, p.NameBadgeLink, StableLink(p.Photo), p.Phonetic, p.Notes,
	}
	return RowID(digestOf(parts...))
}

// digestOf sums parts up so that no two different lists of parts come to the same.
func digestOf(parts ...string) (sum [16]byte) {
	h := sha256.New()
	for _, p := range parts {
		writePart(h, p)
	}
	copy(sum[:], h.Sum(nil))
	return sum
}

func writePart(h hash.Hash, part string) {
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(part)))
	h.Write(n[:])
	h.Write([]byte(part))
}
