package namecoach

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"namebridge/internal/httpapi"
)

// The document's own list answer (lines 92-149) and latest answer (348-367), shortened to one row.
const (
	documentList = `{"Response": {"participants": [{
		"first_name": "John", "last_name": "Snow", "email": "buster_test2@example.com",
		"recording_link": null, "recording_id": null,
		"event_title": "Example Api Event", "event_slug": "example-api-event", "event_access_code": "3A0CB", "institution_id": null,
		"photo": "https://www.name-coach.com/images/photo-blank.gif",
		"name_badge_link": "https://www.name-coach.com/john-snow-13014cd1-4d53-4995-bb83-a17bcafff9fa",
		"custom_gender_pronouns": "pronouns 1", "legal_first_name": "Johny 1"
	}], "meta": {
		"next_page_url": "https://www.name-coach.com/api/private/v4/participants?format=json&page=2&per_page=3",
		"self_url": "https://www.name-coach.com/api/private/v4/participants?format=json&page=1&per_page=3",
		"total_count": 9, "total_pages": 3, "count": 3
	}}}`
	documentLatest = `{"participants": [{
		"first_name": "Karla", "last_name": "Gleichauf", "email": "karla-gleichauf@example.com",
		"recording_link": "https://namewaves.s3.amazonaws.com/19.mp3?digest=fc6cf60196071e6763ee7e9d9f943acc", "recording_id": "19",
		"recording_date": "2018-10-11T04:09:04.718-07:00", "custom_objects_recorded_date": "2018-10-11T04:13:38.593-07:00",
		"event_title": "Example Api Event", "event_slug": "example-api-event", "event_access_code": "3A0CB", "institution_id": null,
		"photo": "https://www.name-coach.com/images/photo-blank.gif", "name_badge_link": "https://www.name-coach.com/karlagleichauf",
		"legal_first_name": "Johny"
	}]}`
)

func TestTheDocumentsAnswersAreRead(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		text string
		want Participant
		meta Meta
	}{
		"list and search, wrapped in Response (trap 2)": {documentList, Participant{
			FirstName: "John", LastName: "Snow", Email: "buster_test2@example.com",
			EventTitle: "Example Api Event", EventSlug: "example-api-event", EventAccessCode: "3A0CB",
			NameBadgeLink: "https://www.name-coach.com/john-snow-13014cd1-4d53-4995-bb83-a17bcafff9fa",
			Custom:        map[string]string{"custom_gender_pronouns": "pronouns 1", "legal_first_name": "Johny 1"},
		}, Meta{Known: true, TotalCount: 9, TotalPages: 3, Count: 3}},
		"latest, not wrapped and without meta (trap 2)": {documentLatest, Participant{
			FirstName: "Karla", LastName: "Gleichauf", Email: "karla-gleichauf@example.com",
			EventTitle: "Example Api Event", EventSlug: "example-api-event", EventAccessCode: "3A0CB",
			RecordingLink: "https://namewaves.s3.amazonaws.com/19.mp3?digest=fc6cf60196071e6763ee7e9d9f943acc", RecordingID: "19",
			RecordingDate: "2018-10-11T04:09:04.718-07:00", NameBadgeLink: "https://www.name-coach.com/karlagleichauf",
			Custom: map[string]string{"custom_objects_recorded_date": "2018-10-11T04:13:38.593-07:00", "legal_first_name": "Johny"}, // trap 16
		}, Meta{}},
	} {
		a := answerOf(test.text)
		rows, err := all(a, nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff([]Participant{test.want}, rows); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if diff := cmp.Diff(test.meta, a.Meta()); diff != "" {
			t.Errorf("%s, meta (-want +got):\n%s", name, diff)
		}
	}
}

// Trap 2: any other shape is an error, never "empty".
func TestAnUnexpectedShapeIsAnErrorAndNeverEmpty(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{}`:                                    "no participants array",
		`{"Response":{}}`:                       "no participants array",
		`{"Response":null}`:                     "Response is not an object",
		`{"Response":[]}`:                       "Response is not an object",
		`{"Response":{"Response":{}}}`:          "holds another Response",
		`{"participants":null}`:                 "participants is not an array",
		`{"participants":{}}`:                   "participants is not an array",
		`{"participants":"none"}`:               "participants is not an array",
		`{"participants":0}`:                    "participants is not an array",
		`{"participant":{}}`:                    "no participants array",
		`{"Participants":[]}`:                   "no participants array",
		`{"message":"Not Found"}`:               "no participants array",
		`{"participants":[],"participants":[]}`: "two participants arrays",
		`{"Response":{"participants":[]},"participants":[]}`: "two participants arrays",
		`[]`:                                   "the answer is not an object",
		`null`:                                 "the answer is not an object",
		`"participants"`:                       "the answer is not an object",
		`{"participants":[]} {}`:               "something follows its end",
		`{"participants":[]}]`:                 "not JSON",
		`{"participants":[],}`:                 "not JSON",
		`{"participants":[{},]}`:               "not JSON",
		`{"participants":[{} {}]}`:             "not JSON",
		`{participants:[]}`:                    "not JSON",
		`{"participants":[}`:                   "not JSON",
		`{"participants":[]]`:                  "not JSON",
		`<html>`:                               "not JSON",
		`{"participants":[{"a":tru}]}`:         "row 0: it is not JSON",
		`{"participants":[{},7]}`:              "row 1: a participant is not an object",
		`{"participants":[{},{},null]}`:        "row 2: a participant is not an object",
		`{"participants":[[]]}`:                "row 0: a participant is not an object",
		`{"participants":["x"]}`:               "row 0: a participant is not an object",
		`{"participants":[{"email":{"a":1}}]}`: "row 0: email is an object",
		`{"participants":[{"recording_link":["canary"]}]}`:     "row 0: recording_link is an array",
		`{"participants":[{"recording_id":{}}]}`:               "row 0: recording_id is an object",
		`{"participants":[{"custom_objects":"canary"}]}`:       "row 0: custom_objects is not an object",
		`{"participants":[{"custom_objects":[]}]}`:             "row 0: custom_objects is not an object",
		`{"participants":[{"custom_objects":{"canary":[1]}}]}`: "row 0: an entry of custom_objects is an array",
		`{"participants":[],"meta":[]}`:                        "meta is not an object",
		`{"participants":[],"meta":7}`:                         "meta is not an object",
		`{"participants":[],"meta":{"total_count":"canary"}}`:  "total_count is no whole number",
		`{"participants":[],"meta":{"total_count":-1}}`:        "total_count is no whole number",
		`{"participants":[],"meta":{"total_count":1.5}}`:       "total_count is no whole number",
		`{"participants":[],"meta":{"total_count":1e99}}`:      "total_count is no whole number",
		`{"participants":[],"meta":{"total_count":{}}}`:        "total_count is an object",
	} {
		_, err := all(answerOf(text), nil)
		var fail *httpapi.Error
		if !errors.As(err, &fail) || fail.Status != 200 || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}

func TestRowsAreBroughtToOneForm(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		row  string
		want Participant
	}{
		"nothing":                                  {`{}`, Participant{}},
		"recording_url alone (trap 1)":             {`{"recording_url":"https://x/1.mp3"}`, Participant{RecordingLink: "https://x/1.mp3"}},
		"recording_link first (trap 1)":            {`{"recording_url":"https://x/1.mp3","recording_link":"https://x/2.mp3"}`, Participant{RecordingLink: "https://x/2.mp3"}},
		"a blank recording_link is none (trap 1)":  {`{"recording_link":" \n","recording_url":" https://x/1.mp3\t"}`, Participant{RecordingLink: "https://x/1.mp3"}},
		"links are trimmed (trap 1)":               {`{"recording_link":" https://x/2.mp3 ","name_badge_link":"\u00a0https://x/b\r\n","photo":" https://x/p.gif "}`, Participant{RecordingLink: "https://x/2.mp3", NameBadgeLink: "https://x/b", Photo: "https://x/p.gif"}},
		"recording_id as text (trap 11)":           {`{"recording_id":"recording_6684ffd47c84ef13bf0364d5cafc86ef"}`, Participant{RecordingID: "recording_6684ffd47c84ef13bf0364d5cafc86ef"}},
		"recording_id as a number (trap 11)":       {`{"recording_id":19}`, Participant{RecordingID: "19"}},
		"a number no float holds (trap 11)":        {`{"recording_id":12345678901234567890123}`, Participant{RecordingID: "12345678901234567890123"}},
		"a blank recording_id is none (trap 11)":   {`{"recording_id":" "}`, Participant{}},
		"the placeholder is no photo (trap 14)":    {`{"photo":"https://www.name-coach.com/images/photo-blank.gif?v=2"}`, Participant{}},
		"another photo is one (trap 14)":           {`{"photo":"https://x/not-photo-blank.gif"}`, Participant{Photo: "https://x/not-photo-blank.gif"}},
		"institution_id null (trap 17)":            {`{"institution_id":null}`, Participant{}},
		"institution_id as a number (trap 17)":     {`{"institution_id":111}`, Participant{InstitutionID: "111"}},
		"the three names of an event (trap 19)":    {`{"event_access_code":"3A0CB","event_code":"0882F4","event_slug":"e"}`, Participant{EventAccessCode: "3A0CB", EventCode: "0882F4", EventSlug: "e"}},
		"true and false keep their text":           {`{"first_name":true,"last_name":false}`, Participant{FirstName: "true", LastName: "false"}},
		"numbers keep their text":                  {`{"first_name":1e3,"last_name":-0.10}`, Participant{FirstName: "1e3", LastName: "-0.10"}},
		"phonetic_spelling and notes (trap 26)":    {`{"phonetic_spelling":"Some notes","notes":"Some phonetic"}`, Participant{Phonetic: "Some notes", Notes: "Some phonetic"}},
		"phonetic where that is its name":          {`{"phonetic":"jon"}`, Participant{Phonetic: "jon"}},
		"custom_objects (trap 15)":                 {`{"custom_objects":{"honorific":"Mr.","age":7,"none":null,"yes":true}}`, Participant{Custom: map[string]string{"honorific": "Mr.", "age": "7", "yes": "true"}}},
		"custom_objects null or empty (trap 15)":   {`{"custom_objects":null,"custom_x":null}`, Participant{}},
		"custom_objects over flat ones (trap 15)":  {`{"custom_objects":{"a":"1"},"a":"2","custom_b":"3"}`, Participant{Custom: map[string]string{"a": "1", "custom_b": "3"}}},
		"unknown nested members are ignored":       {`{"new":{"a":1},"list":[1],"flat":"x"}`, Participant{Custom: map[string]string{"flat": "x"}}},
		"names are compared exactly":               {`{"Email":"x","EMAIL":"y"}`, Participant{Custom: map[string]string{"Email": "x", "EMAIL": "y"}}},
		"escaped names and values":                 {`{"\u0065mail":"\u0061@b","k\u0065y":"\"\\\/\u00e9"}`, Participant{Email: "a@b", Custom: map[string]string{"key": `"\/é`}}},
		"U+0000 is kept (trap 27c)":                {`{"first_name":"a\u0000b"}`, Participant{FirstName: "a\x00b"}},
		"lone surrogates become U+FFFD (trap 27c)": {`{"first_name":"\ud800","last_name":"a\udc00b","email":"\ud800\u0041"}`, Participant{FirstName: "\ufffd", LastName: "a\ufffdb", Email: "\ufffdA"}},
		"pairs are one character (trap 27c)":       {`{"first_name":"\ud83d\ude00"}`, Participant{FirstName: "😀"}},
		"invalid UTF-8 becomes U+FFFD (trap 27c)":  {"{\"first_name\":\"a\xffb\",\"\xfe\":\"x\"}", Participant{FirstName: "a\ufffdb", Custom: map[string]string{"\ufffd": "x"}}},
		"the last of two members of one name":      {`{"email":"a","email":"b"}`, Participant{Email: "b"}},
	} {
		for _, form := range []string{`{"participants":[%s]}`, `{"Response":{"participants":[%s]}}`, ` { "x" : [ { } ] , "participants" : [ %s ] } `} {
			rows, err := all(answerOf(fmt.Sprintf(form, test.row)), nil)
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if diff := cmp.Diff([]Participant{test.want}, rows); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
		}
	}
}

// Trap 23: numbers as strings or ints. Trap 3: a missing meta is not a count of 0.
func TestMetaIsReadWhereverAndHoweverItStands(t *testing.T) {
	t.Parallel()
	want := Meta{Known: true, TotalCount: 9, TotalPages: 3, Count: 1}
	for text, want := range map[string]Meta{
		`{"Response":{"meta":{"total_count":9,"total_pages":3,"count":1},"participants":[{}]}}`:            want,
		`{"Response":{"participants":[{}],"meta":{"total_count":"9","total_pages":" 3 ","count":"1"}}}`:    want,
		`{"Response":{"participants":[{}]},"meta":{"total_count":9.0,"total_pages":3,"count":1,"x":[{}]}}`: want,
		`{"participants":[{}],"meta":{"total_count":9e0,"total_pages":3,"count":1,"next_page_url":null}}`:  want,
		`{"participants":[{}],"meta":null}`:                                            {},
		`{"participants":[{}],"meta":{}}`:                                              {},
		`{"participants":[{}],"meta":{"total_count":null,"total_pages":"","count":1}}`: {Count: 1},
		`{"participants":[{}],"meta":{"total_count":0}}`:                               {Known: true},
		`{"participants":[{}]}`:                                                        {},
	} {
		a := answerOf(text)
		if rows, err := all(a, nil); err != nil || len(rows) != 1 {
			t.Errorf("%s: %d rows, %v", text, len(rows), err)
		}
		if diff := cmp.Diff(want, a.Meta()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
	}
}

// An answer that ends before its JSON does is an error, never "the end".
func TestACutAnswerIsNeverTheEnd(t *testing.T) {
	t.Parallel()
	for _, text := range []string{documentList, documentLatest} {
		for n := range len(text) {
			_, err := all(answerOf(text[:n]), nil)
			var fail *httpapi.Error
			if !errors.As(err, &fail) || !errors.Is(err, io.ErrUnexpectedEOF) || fail.Status != 0 {
				t.Fatalf("cut after %d bytes: got %v", n, err)
			}
		}
	}
	cut := documentList[:strings.Index(documentList, "next_page_url")]
	for name, handler := range map[string]http.HandlerFunc{
		"with a length": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(len(documentList)))
			io.WriteString(w, cut)
		},
		"in chunks": func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, cut)
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		},
		"until the connection closes": func(w http.ResponseWriter, r *http.Request) {
			conn, _, _ := http.NewResponseController(w).Hijack()
			io.WriteString(conn, "HTTP/1.0 200 OK\r\n\r\n"+cut)
			conn.Close()
		},
		"in chunks that end well": func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, cut)
		},
	} {
		s := httptest.NewServer(handler)
		t.Cleanup(s.Close)
		rows, err := all((&fake{Server: s}).client(t).List(t.Context(), Filter{}))
		var fail *httpapi.Error
		if !errors.As(err, &fail) || !errors.Is(err, io.ErrUnexpectedEOF) || fail.Status != 0 || len(rows) != 1 {
			t.Errorf("cut %s: got %d rows, %#v", name, len(rows), err)
		}
	}
}

// closing counts how often the body is closed.
type closing struct {
	io.Reader
	n int
}

func (c *closing) Close() error { c.n++; return nil }

func TestAnAnswerIsReadOnceAndClosedWhenItEnds(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"to its end":        `{"participants":[{},{},{}]}`,
		"to an error":       `{"participants":[{},{},7]}`,
		"until broken off":  `{"participants":[{},{},{},{},{}]}`,
		"to a missing rest": `{"participants":[{},{},`,
	} {
		body := &closing{Reader: strings.NewReader(text)}
		a := newAnswer(httpapi.Request{}, &httpapi.Response{Status: 200, Body: body})
		n := 0
		for range a.Participants() {
			if n++; n == 3 {
				break
			}
		}
		if body.n == 0 || n != 3 {
			t.Errorf("read %s: closed %d times after %d", name, body.n, n)
		}
		var again []error
		for _, err := range a.Participants() {
			again = append(again, err)
		}
		if len(again) != 1 || again[0] == nil {
			t.Errorf("read %s, then once more: got %v", name, again)
		}
	}

	f := serve(t, reply{200, page(1000)})
	c := f.client(t)
	for range 3 * concurrency { // each answer gives its place back
		a, err := c.List(t.Context(), Filter{})
		if err != nil {
			t.Fatal(err)
		}
		for range a.Participants() {
			break
		}
	}
	a, err := c.List(t.Context(), Filter{})
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	if _, err := all(a, nil); err == nil {
		t.Error("a closed answer was read to its end")
	}
}

func TestOneValueCannotFillTheMemory(t *testing.T) {
	t.Parallel()
	huge := strings.Repeat("x", 2*maxValue)
	for _, text := range []string{
		`{"participants":[{"notes":"` + huge + `"}]}`,
		`{"participants":[],"other":"` + huge + `"}`,
		`{"` + huge + `":1,"participants":[]}`,
		`{"participants":[],"meta":{"next_page_url":"` + huge + `"}}`,
	} {
		_, err := all(answerOf(text), nil)
		if !errors.Is(err, httpapi.ErrTooLarge) {
			t.Errorf("got %v", err)
		}
	}
	deep := strings.Repeat("[", maxValue/2)
	for _, text := range []string{`{"a":` + deep, `{"participants":[` + deep, deep, `{"participants":[{"a":` + deep} {
		if _, err := all(answerOf(text), nil); err == nil {
			t.Error("a deep answer is read")
		}
	}
	large := strings.Repeat("x", maxValue/2) // many large rows are none of its business
	text := `{"participants":[` + strings.Repeat(`{"notes":"`+large+`"},`, 9) + `{}]}`
	if rows, err := all(answerOf(text), nil); err != nil || len(rows) != 10 {
		t.Errorf("large rows: got %d, %v", len(rows), err)
	}
	// The decoder has read 495 bytes of the row when its ration begins: here it ends with the row's last byte,
	// and what follows must not look like the end of the answer.
	row := `{"notes":"` + strings.Repeat("x", maxValue+495-len(`{"notes":""}`)) + `"}`
	if rows, err := all(answerOf(`{"participants":[`+row+`,{}]}`), nil); err != nil || len(rows) != 2 {
		t.Errorf("a row that uses up its ration: got %d rows, %v", len(rows), err)
	}
}

//nolint:paralleltest // it measures the heap of the whole process
func TestAPartThatIsKeptDoesNotKeepItsRow(t *testing.T) {
	text := `{"participants":[` + strings.Repeat(`{"email":"a@example.org","new":{"a":"`+strings.Repeat("x", 1<<20)+`"}},`, 10) + `{}]}`
	before := heap()
	rows, err := all(answerOf(text), nil)
	if err != nil || len(rows) != 11 {
		t.Fatalf("got %d rows, %v", len(rows), err)
	}
	if grown := int64(heap()) - int64(before); grown > 5<<20 {
		t.Errorf("10 addresses keep %d bytes", grown)
	}
	runtime.KeepAlive(text)
	runtime.KeepAlive(rows)
}

// heap is what is in use after a collection, in bytes.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// rowsOnTheFly writes n rows without ever holding more than a few.
func rowsOnTheFly(w io.Writer, n int) {
	io.WriteString(w, `{"Response":{"participants":[`)
	var rows []byte
	for i := range n {
		rows = append(rows, `{"first_name":"John","email":"buster@example.com","custom_x":"y","recording_id":`...)
		rows = strconv.AppendInt(rows, int64(i), 10)
		rows = append(rows, "},"...)
		if i == n-1 {
			rows = rows[:len(rows)-1]
		}
		if len(rows) > 30_000 || i == n-1 {
			w.Write(rows)
			rows = rows[:0]
		}
	}
	fmt.Fprintf(w, `],"meta":{"total_count":%d}}}`, n)
}

//nolint:paralleltest // it measures the heap of the whole process
func TestMemoryStaysFlatOver300000Rows(t *testing.T) {
	const rows = 300_000
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { rowsOnTheFly(w, rows) }))
	t.Cleanup(s.Close)
	a, err := (&fake{Server: s}).client(t).List(t.Context(), Filter{})
	if err != nil {
		t.Fatal(err)
	}
	var first, most uint64
	n := 0
	for p, err := range a.Participants() {
		if err != nil {
			t.Fatal(err)
		}
		if want := strconv.Itoa(n); p.RecordingID != want {
			t.Fatalf("row %d is %s", n, p.RecordingID)
		}
		if n++; n%30_000 == 0 {
			most = max(most, heap())
			if first == 0 {
				first = most
			}
		}
	}
	if n != rows || a.Meta().TotalCount != rows {
		t.Errorf("got %d rows of %d", n, a.Meta().TotalCount)
	}
	if most > first+(1<<20) {
		t.Errorf("the heap grew from %d to %d bytes", first, most)
	}
}

func FuzzAnswer(f *testing.F) {
	for _, text := range []string{documentList, documentLatest, noRows, `{"participants":[{"custom_objects":{"a":1},"a":[1,{"b":null}]}],"meta":{"total_count":"1"}}`, `{"participants":[{"email":"\ud800\u0000`, "{\"participants\":[{\"\xff\":\"\xfe\"}]}", `[[[[`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		a := answerOf(string(text))
		rows, err := all(a, nil)
		if err != nil {
			if _, ok := errors.AsType[*httpapi.Error](err); !ok {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		// What was accepted is JSON, has these rows and says the same to encoding/json.
		if !json.Valid(text) {
			t.Fatalf("accepted what is not JSON: %q", text)
		}
		exact := map[string]json.RawMessage{}
		if err := json.Unmarshal(text, &exact); err != nil {
			t.Fatal(err)
		}
		if response, ok := exact["Response"]; ok && exact["participants"] == nil {
			exact = map[string]json.RawMessage{}
			if json.Unmarshal(response, &exact) != nil {
				return
			}
		}
		var want []map[string]json.RawMessage
		if json.Unmarshal(exact["participants"], &want) != nil { // two Response objects, of which encoding/json keeps one
			return
		}
		if len(rows) != len(want) {
			t.Fatalf("got %d rows, encoding/json has %d", len(rows), len(want))
		}
		for i, p := range rows {
			var email string
			if raw := want[i]["email"]; len(raw) > 0 && raw[0] == '"' {
				if err := json.Unmarshal(raw, &email); err != nil || p.Email != email {
					t.Fatalf("row %d: email %q, encoding/json has %q", i, p.Email, email)
				}
			}
		}
	})
}
