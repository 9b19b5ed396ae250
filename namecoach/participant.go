package namecoach

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"
	"unicode/utf8"

	"github.com/tidwall/gjson"
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
//
// gjson only splits the row, in a quarter of the time that encoding/json needs
// for a map of raw members; what a string means is encoding/json's business.
func readParticipant(raw json.RawMessage) (Participant, error) {
	row := gjson.ParseBytes(raw)
	if !row.IsObject() {
		return Participant{}, errors.New("a participant is not an object")
	}
	var p Participant
	var recordingURL, phonetic string
	var objects gjson.Result
	for key, value := range row.All() {
		var to *string
		switch key.Str {
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
			objects = value
			continue
		default:
			if value.Type != gjson.JSON { // what is nested is no attribute
				p.custom(key, value)
			}
			continue
		}
		var err error
		if *to, err = text(value); err != nil {
			return Participant{}, fmt.Errorf("%s is %w", key.Str, err)
		}
	}
	if err := p.customObjects(objects); err != nil {
		return Participant{}, err
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
func (p *Participant) customObjects(entries gjson.Result) error {
	if entries.Type == gjson.Null {
		return nil
	}
	if !entries.IsObject() {
		return errors.New("custom_objects is not an object")
	}
	for key, value := range entries.All() {
		if _, err := text(value); err != nil {
			return fmt.Errorf("an entry of custom_objects is %w", err)
		}
		p.custom(key, value)
	}
	return nil
}

func (p *Participant) custom(key, value gjson.Result) {
	if value.Type == gjson.Null {
		return
	}
	if p.Custom == nil {
		p.Custom = make(map[string]string)
	}
	p.Custom[unquote(key.Raw)], _ = text(value)
}

// text reads what is expected to be text: null (and nothing) is "", a number or boolean its own text.
func text(value gjson.Result) (string, error) {
	switch {
	case value.Type == gjson.Null:
		return "", nil
	case value.IsObject():
		return "", errors.New("an object where text is expected")
	case value.IsArray():
		return "", errors.New("an array where text is expected")
	case value.Type == gjson.String:
		return unquote(value.Raw), nil
	}
	return strings.Clone(value.Raw), nil
}

// unquote decodes a JSON string, in memory of its own: a part that is kept must not keep its whole row.
func unquote(raw string) string {
	if plain := raw[1 : len(raw)-1]; !strings.Contains(plain, `\`) && utf8.ValidString(plain) {
		return strings.Clone(plain)
	}
	var s string
	_ = json.Unmarshal([]byte(raw), &s) // the row was valid JSON; invalid Unicode becomes U+FFFD
	return s
}

// isPlaceholder recognises the picture that means "no photo".
func isPlaceholder(photo string) bool {
	photo, _, _ = strings.Cut(photo, "?")
	return path.Base(photo) == "photo-blank.gif"
}
