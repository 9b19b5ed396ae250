package namecoach

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"
)

// Participant is one person in one event. A part is "" where NameCoach has null or nothing. Strings are as
// decoded: they may hold U+0000, and U+FFFD where the answer was no valid Unicode.
type Participant struct {
	FirstName, LastName, Email, InstitutionID string

	EventTitle, EventSlug string
	EventAccessCode       string // event_access_code, "3A0CB": in every list
	EventCode             string // event_code, "0882F4": in answers to Create and Update only

	RecordingLink string // recording_link, else recording_url; may be signed and expire
	RecordingID   string // "19" or "recording_6684…": opaque
	RecordingDate string // in answers to Latest only

	NameBadgeLink string // host and form differ from row to row: opaque
	Photo         string // "" for NameCoach's placeholder

	Phonetic string // phonetic_spelling
	Notes    string // the document's examples swap notes and phonetic_spelling in answers to writes

	// Custom has custom_objects' entries and every other scalar that is not one of the above
	// (custom_…, legal_…, embed_…) by NameCoach's name, as text; those that are null are left out.
	// nil where there is none.
	Custom map[string]string
}

// readParticipant decodes one row of valid JSON. Its errors name the member, never its value.
func readParticipant(raw json.RawMessage) (Participant, error) {
	var row map[string]json.RawMessage
	if raw[0] != '{' || json.Unmarshal(raw, &row) != nil {
		return Participant{}, errors.New("a participant is not an object")
	}
	var p Participant
	var recordingURL, phonetic string
	for name, value := range row {
		var to *string
		switch name {
		case "first_name":
			to = &p.FirstName
		case "last_name":
			to = &p.LastName
		case "email":
			to = &p.Email
		case "institution_id":
			to = &p.InstitutionID
		case "event_title":
			to = &p.EventTitle
		case "event_slug":
			to = &p.EventSlug
		case "event_access_code":
			to = &p.EventAccessCode
		case "event_code":
			to = &p.EventCode
		case "recording_link":
			to = &p.RecordingLink
		case "recording_url":
			to = &recordingURL
		case "recording_id":
			to = &p.RecordingID
		case "recording_date":
			to = &p.RecordingDate
		case "name_badge_link":
			to = &p.NameBadgeLink
		case "photo":
			to = &p.Photo
		case "phonetic_spelling":
			to = &p.Phonetic
		case "phonetic":
			to = &phonetic
		case "notes":
			to = &p.Notes
		case "custom_objects":
			if err := p.customObjects(value); err != nil {
				return Participant{}, err
			}
			continue
		default:
			if s, err := text(value); err == nil && value[0] != 'n' { // what is nested is none of the attributes
				if _, ok := p.Custom[name]; !ok {
					p.custom(name, s)
				}
			}
			continue
		}
		var err error
		if *to, err = text(value); err != nil {
			return Participant{}, fmt.Errorf("%s is %w", name, err)
		}
	}
	if p.RecordingLink = strings.TrimSpace(p.RecordingLink); p.RecordingLink == "" {
		p.RecordingLink = strings.TrimSpace(recordingURL)
	}
	if strings.TrimSpace(p.RecordingID) == "" {
		p.RecordingID = ""
	}
	if p.Phonetic == "" {
		p.Phonetic = phonetic
	}
	p.NameBadgeLink = strings.TrimSpace(p.NameBadgeLink)
	if p.Photo = strings.TrimSpace(p.Photo); isPlaceholder(p.Photo) {
		p.Photo = ""
	}
	return p, nil
}

// customObjects takes the entries, which win over a flat attribute of the same name.
func (p *Participant) customObjects(raw json.RawMessage) error {
	if raw[0] == 'n' {
		return nil
	}
	var entries map[string]json.RawMessage
	if json.Unmarshal(raw, &entries) != nil {
		return errors.New("custom_objects is not an object")
	}
	for name, value := range entries {
		s, err := text(value)
		if err != nil {
			return fmt.Errorf("an entry of custom_objects is %w", err)
		}
		if value[0] != 'n' {
			p.custom(name, s)
		}
	}
	return nil
}

func (p *Participant) custom(name, value string) {
	if p.Custom == nil {
		p.Custom = make(map[string]string)
	}
	p.Custom[name] = value
}

// text reads what is expected to be text: null (and nothing) is "", a number or boolean its own text.
func text(raw json.RawMessage) (string, error) {
	if len(raw) == 0 {
		return "", nil
	}
	switch raw[0] {
	case 'n':
		return "", nil
	case '{':
		return "", errors.New("an object where text is expected")
	case '[':
		return "", errors.New("an array where text is expected")
	case '"':
		var s string
		err := json.Unmarshal(raw, &s)
		return s, err
	}
	return string(raw), nil
}

// isPlaceholder recognises the picture that means "no photo".
func isPlaceholder(photo string) bool {
	photo, _, _ = strings.Cut(photo, "?")
	return path.Base(photo) == "photo-blank.gif"
}
