package sync

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"namebridge/namecoach"
	"namebridge/state"
)

// rowsRun is a run that can do nothing but map rows.
func rowsRun() *run { return &run{Bridge: &Bridge{Settings: Settings{Layout: nested}}} }

func TestARowIsKeptByItsKeysWithItsTextCleaned(t *testing.T) {
	t.Parallel()
	got := rowsRun().participant(namecoach.Participant{
		FirstName: " Ja\x00ne ", LastName: "Doe\u202e", Email: " Jane.Doe@Example.EDU ", InstitutionID: " A17 ",
		EventTitle: "Gradu\u200eation ", EventSlug: "slug", EventAccessCode: " CODE ", EventCode: "unused",
		RecordingLink: "https://www.name-coach.com/j.mp3?sig=1", RecordingID: " 19", RecordingDate: "2024-01-01T00:00:00+0000",
		NameBadgeLink: "https://www.name-coach.com/j", Photo: "https://www.name-coach.com/j.png", Phonetic: "jayn\n", Notes: "not asked for",
		Custom: map[string]string{"gender_pronouns": "she\x7f/her", "other": "not asked for"},
	})
	got.ID, got.Content = nil, nil
	want := state.Participant{
		Person: "email:jane.doe@example.edu", Email: "Jane.Doe@Example.EDU", InstitutionID: "A17", EventAccessCode: "CODE", EventTitle: "Graduation",
		FirstName: "Jane", LastName: "Doe", NameBadgeLink: "https://www.name-coach.com/j", RecordingLink: "https://www.name-coach.com/j.mp3?sig=1",
		RecordingID: "19", RecordingDate: "2024-01-01T00:00:00+0000",
		Attributes: map[string]string{"custom_gender_pronouns": "she/her", "phonetic_spelling": "jayn"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got): %s", diff)
	}
	if got := rowsRun().participant(namecoach.Participant{}); got.Attributes != nil || !strings.HasPrefix(got.Person, "row:") {
		t.Errorf("an empty row is kept as %+v", got)
	}
}

func TestWhoARowBelongsTo(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		in     namecoach.Participant
		person string // empty: the row's own
		event  string
	}{
		"by address, case-folded (trap 27)":           {namecoach.Participant{Email: "JANE@x", InstitutionID: "17"}, "email:jane@x", ""},
		"else by institution id, exactly (trap 17)":   {namecoach.Participant{Email: " ", InstitutionID: "Ab "}, "id:Ab", ""},
		"an address that cannot be stored is none":    {namecoach.Participant{Email: "ja\x00ne@x", InstitutionID: "17"}, "id:17", ""},
		"a lone surrogate in an address (trap 27c)":   {namecoach.Participant{Email: "ja\ufffdne@x"}, "", ""},
		"an address over 1,020 bytes is none":         {namecoach.Participant{Email: strings.Repeat("a", 1021), InstitutionID: "17"}, "id:17", ""},
		"an institution id that cannot be stored":     {namecoach.Participant{InstitutionID: "1\x00"}, "", ""},
		"the event by its access code (trap 19)":      {namecoach.Participant{Email: "a@x", EventAccessCode: "AC", EventSlug: "slug", EventCode: "EC"}, "email:a@x", "AC"},
		"else by its slug, never by the code's case":  {namecoach.Participant{Email: "a@x", EventSlug: "Slug", EventCode: "EC"}, "email:a@x", "Slug"},
		"an access code that cannot be stored":        {namecoach.Participant{Email: "a@x", EventAccessCode: "\x00", EventSlug: "slug"}, "email:a@x", "slug"},
		"an event code alone says nothing (trap 19)":  {namecoach.Participant{Email: "a@x", EventCode: "EC"}, "email:a@x", ""},
		"the Kelvin sign is another person's address": {namecoach.Participant{Email: "\u212Aim@x"}, "email:\u212Aim@x", ""},
	} {
		got := rowsRun().participant(c.in)
		if c.person == "" && !strings.HasPrefix(got.Person, "row:") || c.person != "" && got.Person != c.person || got.EventAccessCode != c.event {
			t.Errorf("%s: %q in %q, want %q in %q", name, got.Person, got.EventAccessCode, c.person, c.event)
		}
	}
}

// Traps 8 and 12: rows have no id of their own, and their links may carry a changing query.
func TestWhatMakesARowAnotherOneAndWhatChangesIt(t *testing.T) {
	t.Parallel()
	base := namecoach.Participant{
		FirstName: "Jane", LastName: "Doe", Email: "jane@example.edu", InstitutionID: "17", EventTitle: "Graduation", EventSlug: "slug", EventAccessCode: "AC", EventCode: "EC",
		RecordingLink: "https://x/j.mp3?sig=1", RecordingID: "19", RecordingDate: "2024-01-01T00:00:00+0000", NameBadgeLink: "https://x/j", Photo: "https://x/p.png?sig=1",
		Phonetic: "jayn", Notes: "notes", Custom: map[string]string{"custom_gender_pronouns": "she/her", "other": "x"},
	}
	for name, c := range map[string]struct {
		change                func(*namecoach.Participant)
		another, changed, row bool // another identity; another content; another row in a page
	}{
		"nothing":                        {func(*namecoach.Participant) {}, false, false, false},
		"the recording's signature":      {func(p *namecoach.Participant) { p.RecordingLink = "https://x/j.mp3?sig=2" }, false, false, false},
		"the photo's signature":          {func(p *namecoach.Participant) { p.Photo = "https://x/p.png?sig=2" }, false, false, false},
		"the address's case":             {func(p *namecoach.Participant) { p.Email = "JANE@example.edu" }, false, false, true},
		"the recording":                  {func(p *namecoach.Participant) { p.RecordingLink = "https://x/k.mp3?sig=1" }, false, true, true},
		"no recording":                   {func(p *namecoach.Participant) { p.RecordingLink = "" }, false, true, true},
		"the recording id":               {func(p *namecoach.Participant) { p.RecordingID = "20" }, false, true, true},
		"the recording date":             {func(p *namecoach.Participant) { p.RecordingDate = "2025-01-01T00:00:00+0000" }, false, true, true},
		"a name":                         {func(p *namecoach.Participant) { p.FirstName = "Janet" }, false, true, true},
		"the event's title":              {func(p *namecoach.Participant) { p.EventTitle = "Commencement" }, false, true, true},
		"the phonetic spelling":          {func(p *namecoach.Participant) { p.Phonetic = "jane" }, false, true, true},
		"an attribute that is written":   {func(p *namecoach.Participant) { p.Custom = map[string]string{"custom_gender_pronouns": "they"} }, false, true, false},
		"an attribute that is not":       {func(p *namecoach.Participant) { p.Custom = map[string]string{"custom_gender_pronouns": "she/her"} }, false, false, false},
		"notes, which are not written":   {func(p *namecoach.Participant) { p.Notes = "other" }, false, false, true},
		"the badge":                      {func(p *namecoach.Participant) { p.NameBadgeLink = "https://x/k" }, true, true, true},
		"the event":                      {func(p *namecoach.Participant) { p.EventAccessCode = "BC" }, true, true, true},
		"the address":                    {func(p *namecoach.Participant) { p.Email = "john@example.edu" }, true, true, true},
		"the institution id":             {func(p *namecoach.Participant) { p.InstitutionID = "18" }, true, true, true},
		"two values with the same bytes": {func(p *namecoach.Participant) { p.FirstName, p.LastName = "Jan", "eDoe" }, false, true, true},
	} {
		after := base
		c.change(&after)
		was, is := rowsRun().participant(base), rowsRun().participant(after)
		if got := !bytes.Equal(was.ID, is.ID); got != c.another {
			t.Errorf("%s: another identity %t, want %t", name, got, c.another)
		}
		if got := !bytes.Equal(was.Content, is.Content); got != c.changed {
			t.Errorf("%s: another content %t, want %t", name, got, c.changed)
		}
		if got := rowID(base) != rowID(after); got != c.row {
			t.Errorf("%s: another row %t, want %t", name, got, c.row)
		}
	}
}

// Without an address and an institution id a row is told by its names too.
func TestRowsOfNobodyAreToldApartByName(t *testing.T) {
	t.Parallel()
	r := rowsRun()
	jane := r.participant(namecoach.Participant{EventAccessCode: "AC", FirstName: "Jane", NameBadgeLink: "https://x/j"})
	john := r.participant(namecoach.Participant{EventAccessCode: "AC", FirstName: "John", NameBadgeLink: "https://x/j"})
	if bytes.Equal(jane.ID, john.ID) || jane.Person == john.Person {
		t.Errorf("taken for one: %q", jane.Person)
	}
}

// Trap 15.
func TestAConfiguredAttributeIsFoundWhereverItStands(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		attribute string
		in        namecoach.Participant
		want      string
		found     bool
	}{
		"flat":                               {"custom_gender_pronouns", namecoach.Participant{Custom: map[string]string{"custom_gender_pronouns": "she"}}, "she", true},
		"in custom_objects":                  {"custom_gender_pronouns", namecoach.Participant{Custom: map[string]string{"gender_pronouns": "she"}}, "she", true},
		"the exact name first":               {"custom_a", namecoach.Participant{Custom: map[string]string{"custom_a": "1", "a": "2"}}, "1", true},
		"without the prefix":                 {"gender_pronouns", namecoach.Participant{Custom: map[string]string{"gender_pronouns": "she"}}, "she", true},
		"the prefix is not made up":          {"gender_pronouns", namecoach.Participant{Custom: map[string]string{"custom_gender_pronouns": "she"}}, "", false},
		"legal_*":                            {"legal_name", namecoach.Participant{Custom: map[string]string{"legal_name": "J"}}, "J", true},
		"phonetic_spelling":                  {"phonetic_spelling", namecoach.Participant{Phonetic: "jayn"}, "jayn", true},
		"phonetic":                           {"phonetic", namecoach.Participant{Phonetic: "jayn"}, "jayn", true},
		"notes":                              {"notes", namecoach.Participant{Notes: "n"}, "n", true},
		"a custom one where there is no own": {"notes", namecoach.Participant{Custom: map[string]string{"notes": "c"}}, "c", true},
		"nowhere":                            {"custom_x", namecoach.Participant{}, "", false},
		"names are compared exactly":         {"custom_x", namecoach.Participant{Custom: map[string]string{"Custom_X": "1"}}, "", false},
	} {
		if got, ok := attribute(c.in, c.attribute); got != c.want || ok != c.found {
			t.Errorf("%s: %q, %t, want %q, %t", name, got, ok, c.want, c.found)
		}
	}
}

// checkRow holds what every kept row must hold, whatever NameCoach sends.
func checkRow(t interface{ Fatalf(string, ...any) }, in namecoach.Participant) {
	r := rowsRun()
	got := r.participant(in)
	if diff := cmp.Diff(got, r.participant(in)); diff != "" {
		t.Fatalf("the same row twice: %s", diff)
	}
	if len(got.ID) != 16 || len(got.Content) != 16 {
		t.Fatalf("digests of %d and %d bytes", len(got.ID), len(got.Content))
	}
	v := reflect.ValueOf(got)
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.String && !isStorable(f.String()) {
			t.Fatalf("Postgres refuses %s: %+q", v.Type().Field(i).Name, f.String())
		}
	}
	for k, a := range got.Attributes {
		if !isStorable(k) || !isStorable(a) {
			t.Fatalf("Postgres refuses an attribute: %+q", a)
		}
	}
	for _, key := range []string{got.Person, got.Email, got.InstitutionID, got.EventAccessCode} {
		if len(key) > 1100 { // an index entry ends at 2,704 bytes
			t.Fatalf("a key of %d bytes", len(key))
		}
	}
	if Key(got.Email) != got.Email || strings.HasPrefix(got.Person, "email:") && got.Person != "email:"+Fold(got.Email) {
		t.Fatalf("person %+q with the address %+q", got.Person, got.Email)
	}
	// A link that had to be changed to be stored is never written.
	f, err := nested.Build(Participant{NameBadgeLink: got.NameBadgeLink, RecordingLink: got.RecordingLink})
	if err == nil && (in.NameBadgeLink != "" && (f[badgeKey] == nil || *f[badgeKey] != in.NameBadgeLink) ||
		in.RecordingLink != "" && (f[recordingKey] == nil || *f[recordingKey] != in.RecordingLink)) {
		t.Fatalf("links %+q and %+q would be written as %v", in.NameBadgeLink, in.RecordingLink, f)
	}
}

func isStorable(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

func TestWhateverNameCoachSendsCanBeKept(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := anyText()
		link := rapid.OneOf(text, rapid.Map(text, func(s string) string { return "https://www.name-coach.com/" + s }))
		checkRow(t, namecoach.Participant{
			FirstName: text.Draw(t, "first"), LastName: text.Draw(t, "last"), Email: text.Draw(t, "email"), InstitutionID: text.Draw(t, "id"),
			EventTitle: text.Draw(t, "title"), EventSlug: text.Draw(t, "slug"), EventAccessCode: text.Draw(t, "code"),
			RecordingLink: link.Draw(t, "recording"), RecordingID: text.Draw(t, "recording id"), RecordingDate: text.Draw(t, "date"),
			NameBadgeLink: link.Draw(t, "badge"), Phonetic: text.Draw(t, "phonetic"),
			Custom: map[string]string{"gender_pronouns": text.Draw(t, "pronouns")},
		})
	})
}

func FuzzParticipant(f *testing.F) {
	f.Add("Jane", "jane@example.edu", "17", "AC", "https://www.name-coach.com/j?x=1", "she/her")
	f.Add("\x00", "\u212A@\xff", strings.Repeat("\u023A", 510), "\ufffd", "https://www.name-coach.com/\x00", "\u202e")
	f.Add("", "", "", "", "https://www.name-coach.com/"+strings.Repeat("é", 1100), "")
	f.Fuzz(func(t *testing.T, name, email, id, event, link, attribute string) {
		checkRow(t, namecoach.Participant{
			FirstName: name, Email: email, InstitutionID: id, EventAccessCode: event, EventTitle: name,
			NameBadgeLink: link, RecordingLink: link, RecordingID: id, Custom: map[string]string{"gender_pronouns": attribute},
		})
	})
}
