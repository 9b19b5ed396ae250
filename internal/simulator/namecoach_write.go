package simulator

import (
	"cmp"
	"crypto/md5" //nolint:gosec // names a recording, protects nothing
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// The write side of NameCoach (NC 383-794). A sync never uses it, so every use is a violation that is carried out all the same.

// Events are the name pages of the world; new ones are added by AddEvent.
func (s *Simulator) Events() []Event {
	s.world.mu.RLock()
	defer s.world.mu.RUnlock()
	var all []Event
	for key, e := range s.world.events {
		if key == e.AccessCode {
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b Event) int { return strings.Compare(a.AccessCode, b.AccessCode) })
	return all
}

// AddEvent adds a name page, so that participants can be created on it over HTTP.
func (s *Simulator) AddEvent(e Event) {
	s.world.mu.Lock()
	defer s.world.mu.Unlock()
	s.world.addEvent(e)
}

func (w *world) addEvent(e Event) { w.events[e.Slug], w.events[e.AccessCode] = e, e }

func (e *exchange) writes() { e.s.violation("namecoach: written to by " + e.r.Method) }

// namePage reads the body and finds the event that it names, or answers.
func (e *exchange) namePage() (event Event, body node, ok bool) {
	e.writes()
	if body, ok = e.body(); !ok {
		return event, body, false
	}
	id := body.get("name_page_id")
	e.s.world.mu.RLock()
	if id != nil {
		event, ok = e.s.world.events[id.text]
	} else {
		ok = false
	}
	e.s.world.mu.RUnlock()
	if !ok {
		e.nameCoachError(http.StatusNotFound, "Name page not found")
	}
	return event, body, ok
}

func (e *exchange) createParticipant() {
	event, body, ok := e.namePage()
	if !ok {
		return
	}
	p := Participant{
		EventTitle: event.Title, EventSlug: event.Slug, EventAccessCode: event.AccessCode, EventCode: event.Code,
		NameBadgeLink: "https://www.name-coach.com/created-" + strconv.FormatInt(e.s.reads.Add(1), 10),
	}
	fields := body.get("participant")
	if fields == nil || !fill(&p, fields) || p.FirstName == "" {
		e.unprocessable("first_name", "can't be blank")
		return
	}
	if id := fields.get("institution_id"); id != nil {
		p.InstitutionID = id.text // it cannot be changed later (NC 405)
	}
	id := e.s.AddParticipant(p)
	e.one(http.StatusCreated, id)
}

func (e *exchange) updateParticipant() {
	event, body, ok := e.namePage()
	if !ok {
		return
	}
	ids := e.s.rowsOf(e.r.PathValue("email"), event.AccessCode)
	if len(ids) == 0 {
		e.nameCoachError(http.StatusNotFound, "Registered participant not found")
		return
	}
	fields := body.get("participant")
	if fields == nil || !fill(&Participant{}, fields) {
		e.unprocessable("pronunciation", "is no base64")
		return
	}
	e.s.UpdateParticipant(ids[0], func(p *Participant) { fill(p, fields) })
	e.one(http.StatusOK, ids[0])
}

// fill takes over the documented attributes that are there. It reports whether they can be read.
func fill(p *Participant, fields *node) bool {
	for _, f := range []struct {
		key string
		to  *string
	}{
		{"first_name", &p.FirstName}, {"last_name", &p.LastName}, {"email", &p.Email}, {"notes", &p.Notes}, {"phonetic", &p.Phonetic},
	} {
		if v := fields.get(f.key); v != nil {
			*f.to = v.text
		}
	}
	if custom := fields.get("custom_fields"); custom != nil {
		for _, m := range custom.members {
			if p.Custom == nil {
				p.Custom = map[string]string{}
			}
			p.Custom["custom_"+strings.TrimPrefix(m.key, "custom_")] = m.value.text
		}
	}
	if audio := fields.get("pronunciation"); audio != nil && audio.kind == '{' {
		text := audio.get("base64_str") // NC 417; the example's base64_set (NC 440) is not it
		if text == nil {
			return false
		}
		sound, err := base64.StdEncoding.DecodeString(text.text)
		if err != nil {
			return false
		}
		sum := md5.Sum(sound) //nolint:gosec // as above
		p.RecordingID = "recording_" + hex.EncodeToString(sum[:])
		p.RecordingIDNumber = false
		p.RecordingLink = "https://namewaves.s3.amazonaws.com/" + p.RecordingID + ".mp3?digest=" + hex.EncodeToString(sum[:])
	}
	return true
}

func (e *exchange) deleteParticipant() {
	event, _, ok := e.namePage()
	if !ok {
		return
	}
	ids := e.s.rowsOf(e.r.PathValue("email"), event.AccessCode)
	if len(ids) == 0 {
		e.nameCoachError(http.StatusNotFound, "Registered participant not found")
		return
	}
	for _, id := range ids {
		e.s.DeleteParticipant(id)
	}
	e.json(http.StatusOK)
}

func (e *exchange) deleteRecording() {
	e.writes()
	found := false
	for _, id := range e.s.rowsOf(e.r.PathValue("email"), "") {
		e.s.world.mu.RLock()
		place := e.s.world.participants[id]
		same := place != nil && place.now.RecordingID == e.r.PathValue("recording")
		e.s.world.mu.RUnlock()
		if same {
			found = e.s.RemoveRecording(id) || found
		}
	}
	if !found {
		e.nameCoachError(http.StatusNotFound, "Registered participant not found")
		return
	}
	e.json(http.StatusOK)
}

// rowsOf are the rows of an address, in one event where that is given.
func (s *Simulator) rowsOf(email, accessCode string) []int64 {
	s.world.mu.RLock()
	defer s.world.mu.RUnlock()
	var ids []int64
	for _, p := range s.world.byEmail[fold(email)] {
		if accessCode == "" || p.shown.EventAccessCode == accessCode {
			ids = append(ids, p.shown.ID)
		}
	}
	return ids
}

// one answers with a participant under the singular key (NC 463), notes and phonetic swapped as in the document (NC 476).
func (e *exchange) one(status int, id int64) {
	e.s.world.mu.RLock()
	var p *Participant
	if place := e.s.world.participants[id]; place != nil {
		p = place.now
	}
	e.s.world.mu.RUnlock()
	if p == nil {
		e.nameCoachError(http.StatusNotFound, "Registered participant not found")
		return
	}
	b := append([]byte(`{"participant":`), e.appendRow(nil, p, nil, false)...)
	b = b[:len(b)-1]
	for _, f := range [][2]string{{"event_code", p.EventCode}, {"phonetic_spelling", p.Notes}, {"notes", p.Phonetic}} {
		b = append(append(append(b, `,"`...), f[0]...), `":`...)
		b = appendStringOrNull(b, f[1])
	}
	e.json(status)
	e.w.writeString(string(append(b, "}}"...)))
}

func (e *exchange) unprocessable(field, why string) {
	b := append([]byte(`{"message":"Unprocessable entity","errors":{`), appendString(nil, field)...)
	b = append(append(append(b, ":["...), appendString(nil, why)...), "]}}"...)
	e.json(http.StatusUnprocessableEntity)
	e.w.writeString(string(b))
}

// synchronizeMoodle knows the courses "1" to "9"; others are answered with 202 (NC 765).
func (e *exchange) synchronizeMoodle() {
	e.writes()
	body, ok := e.body()
	if !ok {
		return
	}
	token, courses := body.get("api_token"), body.get("external_course_ids")
	if token == nil || token.text == "" || courses == nil {
		e.nameCoachError(http.StatusNotFound, "Tool consumer not found")
		return
	}
	var unknown []byte
	for i := range courses.items {
		id := cmp.Or(courses.items[i].text, "0")
		if len(id) != 1 || id == "0" {
			if unknown != nil {
				unknown = append(unknown, ',')
			}
			unknown = appendString(unknown, id)
		}
	}
	if unknown == nil {
		e.json(http.StatusOK)
		return
	}
	e.json(http.StatusAccepted)
	e.w.writeString(`{"external_courses_ids":[` + string(unknown) + `],"message":"Not found in Moodle"}`)
}
