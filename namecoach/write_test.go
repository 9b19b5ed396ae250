package namecoach

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"namebridge/internal/httpapi"
)

// The document's answer to create and update (lines 462-479).
const documentWritten = `{"participant": {
	"first_name": "John", "last_name": "Snow", "email": "john.snow@example.com", "recording_link": null, "recording_id": null,
	"event_title": "Example Api Event", "event_slug": "example-api-event", "event_access_code": "3A0CB", "event_code": "0882F4",
	"institution_id": null, "photo": "https://www.name-coach.com/images/photo-blank.gif",
	"name_badge_link": "https://www.name-coach.com/images/john-snow", "phonetic_spelling": "Some notes", "notes": "Some phonetic"
}}`

var written = Participant{
	FirstName: "John", LastName: "Snow", Email: "john.snow@example.com",
	EventTitle: "Example Api Event", EventSlug: "example-api-event", EventAccessCode: "3A0CB", EventCode: "0882F4",
	NameBadgeLink: "https://www.name-coach.com/images/john-snow", Phonetic: "Some notes", Notes: "Some phonetic",
}

func TestWritesSendWhatTheDocumentSays(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		reply reply
		do    func(*Client) (any, error)
		want  request
		got   any
	}{
		"create, whole (trap 26: base64_str)": {
			reply{201, documentWritten},
			func(c *Client) (any, error) {
				return c.Create(t.Context(), NewParticipant{
					NamePageID: "event-identifier", FirstName: "John", LastName: "Snow", Email: "john.snow@example.com",
					Notes: "Some notes", Phonetic: "Some phonetic", InstitutionID: "john.snow", PhoneNumber: "+16462234567",
					CustomFields: map[string]string{"pronounce": "Custom pronounce"}, Pronunciation: []byte("audio?>"), Avatar: []byte("image"),
				})
			},
			request{"POST", "/api/private/v5/participants", url.Values{}, `{"name_page_id":"event-identifier","participant":{` +
				`"first_name":"John","last_name":"Snow","email":"john.snow@example.com","notes":"Some notes","phonetic":"Some phonetic",` +
				`"institution_id":"john.snow","phone_number":"+16462234567","custom_fields":{"pronounce":"Custom pronounce"},` +
				`"pronunciation":{"base64_str":"YXVkaW8/Pg=="},"avatar":{"base64_str":"aW1hZ2U="}}}`},
			written,
		},
		"create, sparse: no telephone call by accident (trap 26)": {
			reply{201, documentWritten},
			func(c *Client) (any, error) {
				return c.Create(t.Context(), NewParticipant{NamePageID: "e", FirstName: "John"})
			},
			request{"POST", "/api/private/v5/participants", url.Values{}, `{"name_page_id":"e","participant":{"first_name":"John"}}`},
			written,
		},
		"update changes what is given, also to nothing": {
			reply{200, `{"Response":` + documentWritten + `}`}, // trap 2: accept both
			func(c *Client) (any, error) {
				return c.Update(t.Context(), "john+x/y@example.com", ChangedParticipant{NamePageID: "e", Notes: new(""), LastName: new("Snow"), Pronunciation: []byte{0xff}})
			},
			request{"PUT", "/api/private/v5/participants/john+x%2Fy@example.com", url.Values{}, `{"name_page_id":"e","participant":{"last_name":"Snow","notes":"","pronunciation":{"base64_str":"/w=="}}}`},
			written,
		},
		"delete": {
			reply{200, "No content"},
			func(c *Client) (any, error) {
				return nil, c.Delete(t.Context(), "john.snow@example.com", "example-api-event")
			},
			request{"DELETE", "/api/private/v5/participants/john.snow@example.com", url.Values{}, `{"name_page_id":"example-api-event"}`},
			nil,
		},
		"delete a recording": {
			reply{204, ""},
			func(c *Client) (any, error) {
				return nil, c.DeleteRecording(t.Context(), "john.snow@example.com", "recording_6684ffd47c84ef13bf0364d5cafc86ef")
			},
			request{"DELETE", "/api/private/v5/participants/john.snow@example.com/pronunciations/recording_6684ffd47c84ef13bf0364d5cafc86ef", url.Values{}, ""},
			nil,
		},
		"Moodle, all found": {
			reply{200, "No content"},
			func(c *Client) (any, error) {
				return c.SynchronizeMoodle(t.Context(), "tool_api_token", []string{"0", "1"})
			},
			request{"POST", "/api/private/v5/lti/moodle/courses/synchronize", url.Values{}, `{"api_token":"tool_api_token","external_course_ids":["0","1"]}`},
			[]string(nil),
		},
		"Moodle, some not found": {
			reply{202, `{"external_courses_ids":["0",1],"message":"Not found in Moodle"}`},
			func(c *Client) (any, error) {
				return c.SynchronizeMoodle(t.Context(), "tool_api_token", []string{"0", "1"})
			},
			request{"POST", "/api/private/v5/lti/moodle/courses/synchronize", url.Values{}, `{"api_token":"tool_api_token","external_course_ids":["0","1"]}`},
			[]string{"0", "1"},
		},
	} {
		f := serve(t, test.reply)
		got, err := test.do(f.client(t))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff([]request{test.want}, f.requests()); diff != "" {
			t.Errorf("%s, request (-want +got):\n%s", name, diff)
		}
		if diff := cmp.Diff(test.got, got); diff != "" {
			t.Errorf("%s, answer (-want +got):\n%s", name, diff)
		}
	}
}

// writes is every endpoint that changes something, on behalf of the given person and secret.
func writes(t *testing.T, c *Client, email, secret string) map[string]func() error {
	return map[string]func() error{
		"participants.create": func() error {
			_, err := c.Create(t.Context(), NewParticipant{NamePageID: "e", Email: email, PhoneNumber: secret, Notes: secret})
			return err
		},
		"participants.update": func() error {
			_, err := c.Update(t.Context(), email, ChangedParticipant{NamePageID: "e", Notes: &secret})
			return err
		},
		"participants.delete": func() error { return c.Delete(t.Context(), email, "e") },
		"recordings.delete":   func() error { return c.DeleteRecording(t.Context(), email, "19") },
		"moodle.synchronize": func() error {
			_, err := c.SynchronizeMoodle(t.Context(), secret, []string{"0"})
			return err
		},
	}
}

// Trap 26: writing is explicit, and what may have happened is not done twice.
func TestAWriteOfUnknownOutcomeIsNotRepeated(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		status, sent := 0, 0
		c, err := New(Options{Token: token, Transport: wire(func(*http.Request) (*http.Response, error) {
			sent++
			if status == 0 {
				return nil, errors.New("connection reset")
			}
			return response(status, `{"message":"it broke"}`), nil
		})})
		if err != nil {
			t.Fatal(err)
		}
		for endpoint, write := range writes(t, c, "jane.roe@example.org", "+16462234567") {
			for _, status = range []int{0, 500, 503} {
				sent = 0
				err := write()
				var fail *httpapi.Error
				if !errors.As(err, &fail) || !fail.Unknown || fail.Endpoint != endpoint || sent != 1 {
					t.Errorf("%s answered %d: got %v after %d requests", endpoint, status, err, sent)
				}
			}
			status, sent = 422, 0
			var fail *httpapi.Error
			if err := write(); !errors.As(err, &fail) || fail.Unknown || sent != 1 {
				t.Errorf("%s answered 422: got %v after %d requests", endpoint, err, sent)
			}
		}
	})
	synctest.Test(t, func(t *testing.T) { // a 429 was not carried out
		sent := 0
		c, err := New(Options{Token: token, Transport: wire(func(*http.Request) (*http.Response, error) {
			if sent++; sent%2 == 1 {
				return response(429, ""), nil
			}
			return response(200, documentWritten), nil
		})})
		if err != nil {
			t.Fatal(err)
		}
		for endpoint, write := range writes(t, c, "jane.roe@example.org", "x") {
			if sent = 0; write() != nil || sent != 2 {
				t.Errorf("%s after a 429: %d requests", endpoint, sent)
			}
		}
	})
}

func TestAnAnswerToAWriteThatCannotBeReadIsAnError(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		``, `null`, `[]`, `{}`, `{"participant":null}`, `{"participant":[]}`, `{"participants":[{}]}`, `{"Response":{}}`, `{"Response":null}`,
		`{"participant":{"email":{"canary":1}}}`, `{"participant":{}`, `<canary>`, strings.Repeat("[", 500_000),
	} {
		f := serve(t, reply{200, text})
		_, err := f.client(t).Create(t.Context(), NewParticipant{NamePageID: "e"})
		var fail *httpapi.Error
		if !errors.As(err, &fail) || !fail.Unknown || fail.Status != 200 || strings.Contains(err.Error(), "canary") {
			t.Errorf("create answered %.40q: got %v", text, err)
		}
	}
	for _, text := range []string{``, `{}`, `{"external_courses_ids":null}`, `{"external_courses_ids":"0"}`, `{"external_courses_ids":[["canary"]]}`, `<canary>`} {
		f := serve(t, reply{202, text})
		_, err := f.client(t).SynchronizeMoodle(t.Context(), "tool_api_token", []string{"0"})
		var fail *httpapi.Error
		if !errors.As(err, &fail) || !fail.Unknown || strings.Contains(err.Error(), "canary") {
			t.Errorf("Moodle answered 202 %q: got %v", text, err)
		}
	}
}

func TestAnEndlessAnswerToAWriteIsCutOff(t *testing.T) {
	t.Parallel()
	f := serve(t, reply{200, `{"participant":{"notes":"` + strings.Repeat("x", maxWritten) + `"}}`})
	_, err := f.client(t).Create(t.Context(), NewParticipant{NamePageID: "e"})
	var fail *httpapi.Error
	if !errors.Is(err, httpapi.ErrTooLarge) || !errors.As(err, &fail) || !fail.Unknown {
		t.Errorf("got %v", err)
	}
}

func TestWritesThatNameNobodyAreNotSent(t *testing.T) {
	t.Parallel()
	f := serve(t, reply{200, documentWritten})
	c := f.client(t)
	update := func(email, page string) error {
		_, err := c.Update(t.Context(), email, ChangedParticipant{NamePageID: page})
		return err
	}
	moodle := func(token string, ids ...string) error {
		_, err := c.SynchronizeMoodle(t.Context(), token, ids)
		return err
	}
	_, create := c.Create(t.Context(), NewParticipant{Email: "a@example.org"})
	for name, err := range map[string]error{
		"create without a name page":       create,
		"update without a name page":       update("a@example.org", " "),
		"update of nobody":                 update("", "e"),
		"update of another path":           update("search", "e"),
		"update of a path further up":      update("..", "e"),
		"delete of nobody":                 c.Delete(t.Context(), "", "e"),
		"delete of a uid":                  c.Delete(t.Context(), "latest", "e"),
		"delete without a name page":       c.Delete(t.Context(), "a@example.org", ""),
		"delete of no recording":           c.DeleteRecording(t.Context(), "a@example.org", ""),
		"delete of a recording further up": c.DeleteRecording(t.Context(), "a@example.org", ".."),
		"delete of a recording of nobody":  c.DeleteRecording(t.Context(), "", "19"),
		"Moodle without a token":           moodle("", "0"),
		"Moodle without courses":           moodle("tool_api_token"),
	} {
		var fail *httpapi.Error
		if !errors.As(err, &fail) || fail.Unknown || fail.Status != 0 || strings.Contains(err.Error(), "example.org") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if n := len(f.requests()); n != 0 {
		t.Errorf("%d requests were sent", n)
	}
}

func TestNoErrorTellsOnAnybody(t *testing.T) {
	t.Parallel()
	const email, secret = "jane.roe@example.org", "swordfish"
	for _, test := range []reply{
		{400, `{"message":"no ` + email + ` with ` + secret + ` by ` + token + `"}`},
		{422, `{"message":"Unprocessable entity","errors":{"notes":["` + secret + ` is odd"],"email":["` + email + ` is taken"]}}`},
		{302, `{"message":"` + email + `"}`},
		{200, `{"participant":{"notes":["` + secret + email + `"]},"participants":[{"notes":{"` + secret + `":"` + email + `"}}]}`},
		{202, `{"external_courses_ids":{"` + secret + `":"` + email + `"},"participants":"` + secret + email + `"}`},
		{200, secret + email},
	} {
		c := serve(t, test).client(t)
		asks := writes(t, c, email, secret)
		asks["participants.list"] = func() error {
			_, err := all(c.List(t.Context(), Filter{Emails: []string{email}}))
			return err
		}
		asks["participants.search"] = func() error {
			_, err := all(c.Search(t.Context(), Filter{Emails: []string{email}}))
			return err
		}
		asks["participants.latest"] = func() error {
			_, err := all(c.Latest(t.Context(), []string{email}, ""))
			return err
		}
		for endpoint, ask := range asks {
			err := ask()
			if err == nil {
				if strings.HasSuffix(endpoint, ".delete") || endpoint == "moodle.synchronize" && test.status == 200 {
					continue // their 2xx has no content
				}
				t.Errorf("%s answered %d: no error", endpoint, test.status)
				continue
			}
			shown := fmt.Sprintf("%v %+v %#v", err, err, err)
			for cause := err; cause != nil; cause = errors.Unwrap(cause) {
				shown += fmt.Sprintf(" %v %#v", cause, cause)
			}
			// In a message, a secret that is a plain word is known as one by the request that sent it.
			sentSecret := slices.Contains([]string{"participants.create", "participants.update", "moodle.synchronize"}, endpoint)
			for _, canary := range []string{email, url.QueryEscape(email), "jane", secret, token} {
				if canary == secret && test.status >= 400 && !sentSecret {
					continue
				}
				if strings.Contains(shown, canary) {
					t.Errorf("%s answered %d %s: %q leaks in %s", endpoint, test.status, test.text, canary, shown)
				}
			}
		}
	}
}

func FuzzWritten(f *testing.F) {
	f.Add([]byte(documentWritten))
	f.Add([]byte(`{"Response":{"participant":{"custom_objects":{"a":1}}}}`))
	f.Add([]byte(`{"participant":{"email":"a","email":"\ud800"},"participant":[]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if _, err := readWritten(text); err == nil && !json.Valid(text) {
			t.Errorf("accepted what is not JSON: %q", text)
		}
	})
}

func FuzzNotFound(f *testing.F) {
	f.Add([]byte(`{"external_courses_ids":["0","1"],"message":"Not found in Moodle"}`))
	f.Add([]byte(`{"external_course_ids":[1,null,true,"\u0000"]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		ids, err := readNotFound(text)
		if err != nil {
			return
		}
		var answer map[string]json.RawMessage
		if err := json.Unmarshal(text, &answer); err != nil {
			t.Fatalf("accepted %q: %v", text, err)
		}
		if answer["external_courses_ids"] == nil && answer["external_course_ids"] == nil {
			t.Errorf("%q has %q", text, ids)
		}
	})
}
