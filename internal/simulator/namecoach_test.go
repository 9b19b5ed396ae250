package simulator

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// few is a world of n participants, one a second from noon of a day on.
func few(t *testing.T, n int, o Options) *client {
	t.Helper()
	c := start(t, o)
	for i := range n {
		c.s.AddParticipant(Participant{
			FirstName: "P", Email: fmt.Sprintf("P%d@demo.example", i), InstitutionID: fmt.Sprint(100 + i), EventAccessCode: "3A0CB", EventTitle: "Event",
			RecordingLink: fmt.Sprintf("https://namewaves.s3.amazonaws.com/%d.mp3?digest=abc", i), RecordingID: fmt.Sprint(i),
			NameBadgeLink: "https://www.name-coach.com/p", Updated: noon.Add(time.Duration(i) * time.Second), Custom: map[string]string{"custom_honorific": "Dr.", "legal_first_name": "J"},
		})
	}
	return c
}

var noon = time.Date(2024, 5, 6, 12, 0, 0, 0, time.UTC)

// window is a filter of update time; seconds after noon.
func window(from, to int) string {
	return fmt.Sprintf("updated_after=2024-05-06T12:00:%02d%%2B0000&updated_before=2024-05-06T12:00:%02d%%2B0000", from, to)
}

const day = "updated_after=2024-05-06T00:00:00%2B0000"

// Traps 2, 4, 23: the shape of a list.
func TestAListHasTheDocumentedShapeUnlessToldOtherwise(t *testing.T) {
	t.Parallel()
	c := few(t, 5, Options{})
	first := c.ok(c.nameCoach("GET", "/participants?per_page=2&"+day, ""))
	if want := `"meta":{"next_page_url":"http://`; !strings.Contains(first.body, want) || !strings.HasPrefix(first.body, `{"Response":{"participants":[{"first_name":"P"`) {
		t.Errorf("got %s", first.body)
	}
	if r := c.list("per_page=2&page=3&" + day); r.meta("next_page_url") != "<nil>" || r.meta("total_count") != "5" || r.meta("total_pages") != "3" || r.meta("count") != "1" {
		t.Errorf("last page: %v", r.Response.Meta)
	}
	if got := len(c.list(day).Response.Participants); got != 5 {
		t.Errorf("without per_page: %d rows", got)
	}
	if r := c.list("page=9&" + day); len(r.Response.Participants) != 0 || r.meta("total_count") != "5" {
		t.Errorf("beyond the end: %v", r)
	}
	c.s.Change(func(o *Options) { o.NoWrapper, o.NoMeta = true, true })
	if got := c.nameCoach("GET", "/participants?"+day, "").body; !strings.HasPrefix(got, `{"participants":[`) || strings.Contains(got, "meta") {
		t.Errorf("got %.200s", got)
	}
	c.s.Change(func(o *Options) { o.NoMeta, o.MetaStrings = false, true })
	if got := c.nameCoach("GET", "/participants?"+day, "").body; !strings.Contains(got, `"total_count":"5"`) {
		t.Errorf("got %s", got[len(got)-200:])
	}
	c.violations()
}

// Trap 7: bounds.
func TestBoundsTakeInTheMomentThatTheyNameUnlessExclusive(t *testing.T) {
	t.Parallel()
	c := few(t, 10, Options{})
	ids := func(query string) string { return strings.Join(c.list(query).values("recording_id"), " ") }
	if got := ids(window(3, 5)); got != "5 4 3" {
		t.Errorf("inclusive: %s", got)
	}
	c.s.Change(func(o *Options) { o.ExclusiveBounds = true })
	if got := ids(window(3, 5)); got != "4" {
		t.Errorf("exclusive: %s", got)
	}
	c.s.Change(func(o *Options) { o.ExclusiveBounds, o.OrderByID = false, true })
	if got := ids(window(3, 5)); got != "3 4 5" {
		t.Errorf("by id: %s", got)
	}
	// A plus sign that is not encoded arrives as a space.
	if r := c.nameCoach("GET", "/participants?updated_after=2024-05-06T00:00:00+0000", ""); r.status != http.StatusUnprocessableEntity {
		t.Errorf("bare plus: %d", r.status)
	}
}

// Trap 3: what paging may turn out to be.
func TestPagingIsHonouredIgnoredCappedOrCutShort(t *testing.T) {
	t.Parallel()
	c := few(t, 12, Options{MaxPerPage: 5})
	if r := c.list("per_page=1000&" + day); len(r.Response.Participants) != 5 || r.meta("total_pages") != "3" {
		t.Errorf("capped: %d rows, %v", len(r.Response.Participants), r.Response.Meta)
	}
	c.s.Change(func(o *Options) { o.PagingIgnored = true })
	for _, page := range []string{"page=1&per_page=2&", "page=2&per_page=2&"} {
		if r := c.list(page + day); len(r.Response.Participants) != 12 || r.meta("total_count") != "12" {
			t.Errorf("ignored: %d rows", len(r.Response.Participants))
		}
	}
	c.s.Change(func(o *Options) { o.TruncateRows = 4 })
	if r := c.list("page=2&" + day); len(r.Response.Participants) != 4 || r.meta("total_count") != "12" {
		t.Errorf("cut short: %d rows, %v", len(r.Response.Participants), r.Response.Meta)
	}
	if got := c.s.Counts()["namecoach participants.list"]; got != 4 {
		t.Errorf("%d requests counted", got)
	}
}

// Trap 27a: a row that is updated between two pages leaves the window and shifts the rest.
func TestARowThatIsUpdatedBetweenPagesShiftsTheRest(t *testing.T) {
	t.Parallel()
	for _, byID := range []bool{false, true} {
		c := few(t, 10, Options{OrderByID: byID, OnNameCoachPage: func(s *Simulator, page int) {
			if page == 2 {
				s.UpdateParticipant(s.Participants()[map[bool]int{false: 8, true: 1}[s.options().OrderByID]].ID, func(*Participant) {})
			}
		}})
		query := "per_page=5&" + window(0, 59)
		first, second := c.list(query), c.list("page=2&"+query)
		seen := append(first.values("recording_id"), second.values("recording_id")...)
		if len(seen) != 9 || first.meta("total_count") != "10" || second.meta("total_count") != "9" {
			t.Errorf("by id %t: saw %v", byID, seen)
		}
		slices.Sort(seen)
		if missing := len(slices.Compact(seen)); missing != 9 {
			t.Errorf("by id %t: %d distinct", byID, missing)
		}
	}
}

func TestAChangeIsSeenLateWhereTheServerLagsBehind(t *testing.T) {
	t.Parallel()
	now := noon.Add(time.Hour)
	c := few(t, 2, Options{Now: func() time.Time { return now }})
	c.s.Change(func(o *Options) { o.LateVisible = time.Minute })
	id := c.s.Participants()[0].ID
	c.s.UpdateParticipant(id, func(p *Participant) { p.FirstName = "New" })
	if got := c.search(`{"email_list":"p0@demo.example"}`).values("first_name"); got[0] != "P" {
		t.Errorf("at once: %v", got)
	}
	now = now.Add(time.Minute)
	if got := c.search(`{"email_list":"p0@demo.example"}`).values("first_name"); got[0] != "New" {
		t.Errorf("a minute later: %v", got)
	}
	if got := c.list("updated_after=2024-05-06T13:00:00%2B0000").values("first_name"); len(got) != 1 {
		t.Errorf("its update time is when it happened: %v", got)
	}
}

// Traps 6, 24, 27b: search.
func TestSearchFindsByOneListInAnySpelling(t *testing.T) {
	t.Parallel()
	c := few(t, 4, Options{})
	find := func(body string) int { return len(c.search(body).Response.Participants) }
	for body, want := range map[string]int{
		`{"email_list":"p0@DEMO.example, p1@demo.example"}`:                              2,
		`{"email_list":"P0@demo.example","page":"1","per_page":"10"}`:                    1,
		`{"email_list":"nobody@demo.example"}`:                                           0,
		`{"institution_id_list":"101,102"}`:                                              2,
		`{"email_list":"p0@demo.example","updated_after":"2024-05-06T12:00:01+0000"}`:    0,
		`{"email_list":"p3@demo.example,p3@demo.example","per_page":1}`:                  1,
		`{"email_list":"p0@demo.example,p1@demo.example,p2@demo.example","per_page":2}`:  2,
		`{"institution_id_list":"100,101,102","page":2,"per_page":"2"}`:                  1,
		`{"institution_id_list":"100","updated_before":"2024-05-06T12:00:00.000+00:00"}`: 1,
	} {
		if got := find(body); got != want {
			t.Errorf("%s: %d rows, want %d", body, got, want)
		}
	}
	c.violations()
	c.s.Change(func(o *Options) { o.EmailCaseSensitiveSearch = true })
	if got := find(`{"email_list":"p0@demo.example"}`); got != 0 {
		t.Errorf("case-sensitive: %d rows", got)
	}
	if got := find(`{"email_list":""}`); got != 0 {
		t.Errorf("empty list: %d rows", got)
	}
	c.s.Change(func(o *Options) { o.SearchUnfilteredWhenEmpty = true })
	if got := find(`{"email_list":""}`); got != 4 {
		t.Errorf("empty list, unfiltered: %d rows", got)
	}
	both := `{"email_list":"P0@demo.example","institution_id_list":"100,101"}`
	if got := find(both); got != 2 {
		t.Errorf("both lists: %d rows", got)
	}
	c.s.Change(func(o *Options) { o.ListsIntersect = true })
	if got := find(both); got != 1 {
		t.Errorf("both lists, and: %d rows", got)
	}
	if r := c.nameCoach("POST", "/participants/search", `{"page":"1"}`); r.status != http.StatusUnprocessableEntity {
		t.Errorf("no list: %d", r.status)
	}
	c.violations("empty list (2)", "both lists (2)", "search without a list (1)")
}

// Traps 1, 11, 12, 14, 15: a row.
func TestARowHasTheDocumentedFieldsUnlessToldOtherwise(t *testing.T) {
	t.Parallel()
	c := few(t, 1, Options{})
	c.s.AddParticipant(Participant{FirstName: "A\x00\xed\xa0\xbd", Email: "q@demo.example", RecordingID: "19", RecordingIDNumber: true, RecordingDate: "2018-10-11T04:09:04.718-07:00"})
	ask := func(query string) map[string]any {
		return c.search(`{"email_list":"p0@demo.example"` + query + `}`).Response.Participants[0]
	}
	row := ask("")
	for key, want := range map[string]any{
		"recording_link": "https://namewaves.s3.amazonaws.com/0.mp3?digest=abc", "recording_id": "0", "photo": noPhoto, "custom_honorific": "Dr.", "legal_first_name": "J", "event_slug": nil,
	} {
		if row[key] != want {
			t.Errorf("%s: got %v, want %v", key, row[key], want)
		}
	}
	if _, there := row["recording_date"]; there {
		t.Error("recording_date is on latest only")
	}
	odd := c.ok(c.nameCoach("POST", "/participants/search", `{"email_list":"q@demo.example"}`)).body
	for _, want := range []string{`"first_name":"A\u0000\ud83d"`, `"recording_id":19,`, `"recording_date":"2018-10-11T04:09:04.718-07:00"`, `"recording_link":null`, `"institution_id":null`} {
		if !strings.Contains(odd, want) {
			t.Errorf("no %s in %s", want, odd)
		}
	}
	c.s.Change(func(o *Options) { o.RecordingURLKey, o.RotateDigests, o.CustomObjects = true, true, true })
	one, two := ask(`,"include":"embeddables,custom_attributes"`), ask("")
	if _, there := one["recording_link"]; there || one["recording_url"] == two["recording_url"] || one["embed_iframe"] == nil || two["custom_objects"] != nil {
		t.Errorf("got %v and %v", one, two)
	}
	if custom := fmt.Sprint(one["custom_objects"]); custom != "map[honorific:Dr. legal_first_name:J]" {
		t.Errorf("custom_objects: %s", custom)
	}
}

// Traps 10, 16, 20: latest.
func TestLatestAnswersTheNewestRowWithoutWrapper(t *testing.T) {
	t.Parallel()
	c := few(t, 2, Options{})
	c.s.AddParticipant(Participant{FirstName: "Newer", Email: "p1@demo.example", RecordingLink: "https://namewaves.s3.amazonaws.com/9.mp3", Updated: noon.Add(time.Hour)})
	got := c.ok(c.nameCoach("GET", "/participants/latest?tokens=p1@demo.example", "")).body
	if !strings.HasPrefix(got, `{"participants":[{"first_name":"Newer"`) || !strings.Contains(got, `"recording_date":"2024-05-06T13:00:00.000+00:00"`) || strings.Contains(got, "meta") {
		t.Errorf("got %s", got)
	}
	if r := c.nameCoach("GET", "/participants/latest?tokens=nobody@demo.example", ""); r.status != http.StatusNotFound || r.body != `{"message":"Not Found"}` {
		t.Errorf("got %d %s", r.status, r.body)
	}
}

// Traps 4, 5, 25: what a polite client never does.
func TestNameCoachNoticesWhatAPoliteClientNeverDoes(t *testing.T) {
	t.Parallel()
	c := few(t, 3, Options{})
	if r := c.do("GET", c.s.NameCoachURL()+"/participants?"+day, map[string]string{"Authorization": "Bearer " + c.s.Token()}, ""); r.status != http.StatusUnauthorized || r.body != `{"message":"Not Authorized"}` {
		t.Errorf("Bearer: %d %s", r.status, r.body)
	}
	if r := c.do("GET", c.s.NameCoachURL()+"/participants?"+day, map[string]string{"Authorization": c.token}, ""); r.status != http.StatusUnauthorized {
		t.Errorf("BLN's token: %d", r.status)
	}
	next := c.list("per_page=1&" + day).meta("next_page_url")
	if r := c.do("GET", next, map[string]string{"Authorization": c.s.Token()}, ""); r.status != http.StatusNotFound {
		t.Errorf("next_page_url: %d", r.status)
	}
	c.list("per_page=1")
	c.nameCoach("POST", "/participants", `{"email_list":"p0@demo.example"}`)
	c.violations("Bearer", "GET /participants without a filter", "was sent a token of BLN", "written to by POST", "next_page_url was followed")
}

// Traps 26, and the write side of the document.
func TestTheWriteSideIsThere(t *testing.T) {
	t.Parallel()
	c := start(t, Options{})
	c.s.AddEvent(Event{Title: "Example Api Event", Slug: "example-api-event", AccessCode: "3A0CB", Code: "0882F4"})
	if r := c.nameCoach("POST", "/participants", `{"name_page_id":"nowhere","participant":{}}`); r.status != http.StatusNotFound || r.body != `{"message":"Name page not found"}` {
		t.Errorf("unknown page: %d %s", r.status, r.body)
	}
	if r := c.nameCoach("POST", "/participants", `{"name_page_id":"3A0CB","participant":{"email":"a@b.example"}}`); r.status != http.StatusUnprocessableEntity || !strings.Contains(r.body, "can't be blank") {
		t.Errorf("no first name: %d %s", r.status, r.body)
	}
	made := c.nameCoach("POST", "/participants", `{"name_page_id":"example-api-event","participant":{"email":"john.snow@example.com","first_name":"John","institution_id":"john.snow",`+
		`"notes":"Some notes","phonetic":"Some phonetic","pronunciation":{"base64_str":"aGVsbG8="},"custom_fields":{"pronounce":"x"}}}`)
	for _, want := range []string{`{"participant":{"first_name":"John"`, `"event_code":"0882F4"`, `"phonetic_spelling":"Some notes"`, `"recording_id":"recording_5d41402abc4b2a76b9719d911017c592"`, `"custom_pronounce":"x"`} {
		if made.status != http.StatusCreated || !strings.Contains(made.body, want) {
			t.Errorf("created: %d, no %s in %s", made.status, want, made.body)
		}
	}
	if r := c.nameCoach("PUT", "/participants/john.snow@example.com", `{"name_page_id":"3A0CB","participant":{"first_name":"Jon"}}`); r.status != http.StatusOK || !strings.Contains(r.body, `"first_name":"Jon"`) {
		t.Errorf("updated: %d %s", r.status, r.body)
	}
	if r := c.nameCoach("PUT", "/participants/john.snow@example.com", `{"name_page_id":"3A0CB","participant":{"pronunciation":{"base64_set":"aGVsbG8="}}}`); r.status != http.StatusUnprocessableEntity {
		t.Errorf("base64_set: %d %s", r.status, r.body)
	}
	path := "/participants/john.snow@example.com/pronunciations/recording_5d41402abc4b2a76b9719d911017c592"
	if first, second := c.nameCoach("DELETE", path, ""), c.nameCoach("DELETE", path, ""); first.status != http.StatusOK || first.body != "" || second.status != http.StatusNotFound {
		t.Errorf("recording deleted: %d %q, then %d", first.status, first.body, second.status)
	}
	if p := c.s.Participants(); len(p) != 1 || p[0].RecordingID != "" || p[0].FirstName != "Jon" {
		t.Errorf("got %+v", p)
	}
	if r := c.nameCoach("DELETE", "/participants/john.snow@example.com", `{"name_page_id":"3A0CB"}`); r.status != http.StatusOK || len(c.s.Participants()) != 0 {
		t.Errorf("deleted: %d", r.status)
	}
	if r := c.nameCoach("POST", "/lti/moodle/courses/synchronize", `{"api_token":"t","external_course_ids":["0","1"]}`); r.status != http.StatusAccepted || r.body != `{"external_courses_ids":["0"],"message":"Not found in Moodle"}` {
		t.Errorf("moodle: %d %s", r.status, r.body)
	}
}

// A recording whose id is a number leaves null behind when it is removed, not nothing.
func TestARemovedRecordingHasNoID(t *testing.T) {
	t.Parallel()
	c := start(t, Options{})
	id := c.s.AddParticipant(Participant{Email: "a", RecordingLink: "https://namewaves.s3.amazonaws.com/7.mp3", RecordingID: "7", RecordingIDNumber: true})
	all := "updated_after=2000-01-01T00:00:00Z"
	if got := c.list(all).values("recording_id"); got[0] != "7" {
		t.Errorf("got %v", got)
	}
	c.s.RemoveRecording(id)
	if got := c.list(all).values("recording_id"); got[0] != "<nil>" {
		t.Errorf("got %v", got)
	}
}
