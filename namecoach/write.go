package namecoach

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/tidwall/gjson"

	"namebridge/internal/httpapi"
)

// maxWritten caps the answer to a write: one participant.
const maxWritten = 1 << 20

// NewParticipant is a participant to be created. Parts that are empty are not sent.
type NewParticipant struct {
	NamePageID string // the event; required

	FirstName, LastName, Email string
	Notes, Phonetic            string
	InstitutionID              string // cannot be changed later
	// PhoneNumber, "+16461111111", makes NameCoach telephone the person, unless there is a Pronunciation.
	PhoneNumber   string
	CustomFields  map[string]string // by the fields' import keys
	Pronunciation []byte            // audio
	Avatar        []byte            // image
}

// ChangedParticipant is what is to change of a participant: what is nil is not sent.
type ChangedParticipant struct {
	NamePageID string // the event; required

	FirstName, LastName *string
	Notes, Phonetic     *string
	// PhoneNumber makes NameCoach telephone the person, unless there is a Pronunciation.
	PhoneNumber   *string
	CustomFields  map[string]string // by the fields' import keys
	Pronunciation []byte            // audio
	Avatar        []byte            // image
}

// wireParticipant is both as they travel.
type wireParticipant struct {
	FirstName     *string           `json:"first_name,omitempty"`
	LastName      *string           `json:"last_name,omitempty"`
	Email         *string           `json:"email,omitempty"`
	Notes         *string           `json:"notes,omitempty"`
	Phonetic      *string           `json:"phonetic,omitempty"`
	InstitutionID *string           `json:"institution_id,omitempty"`
	PhoneNumber   *string           `json:"phone_number,omitempty"`
	CustomFields  map[string]string `json:"custom_fields,omitempty"`
	Pronunciation *wireFile         `json:"pronunciation,omitempty"`
	Avatar        *wireFile         `json:"avatar,omitempty"`
}

// wireFile is a file in base64 without a data prefix. The document's attributes call it base64_str and its
// examples base64_set; the attributes are the specification.
type wireFile struct {
	Base64 []byte `json:"base64_str"`
}

func file(content []byte) *wireFile {
	if len(content) == 0 {
		return nil
	}
	return &wireFile{Base64: content}
}

func orNil(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// Create asks POST /participants and returns the participant as NameCoach
// stored it. It is sent once: where the error says Unknown it may exist.
func (c *Client) Create(ctx context.Context, p NewParticipant) (Participant, error) {
	r := httpapi.Request{Endpoint: "participants.create", Method: http.MethodPost, Path: "participants"}
	return c.write(ctx, r, p.NamePageID, wireParticipant{
		FirstName: orNil(p.FirstName), LastName: orNil(p.LastName), Email: orNil(p.Email),
		Notes: orNil(p.Notes), Phonetic: orNil(p.Phonetic), InstitutionID: orNil(p.InstitutionID),
		PhoneNumber: orNil(p.PhoneNumber), CustomFields: p.CustomFields,
		Pronunciation: file(p.Pronunciation), Avatar: file(p.Avatar),
	})
}

// Update asks PUT /participants/{email} and returns the participant as
// NameCoach stored it. It is sent once: where the error says Unknown it may be changed.
func (c *Client) Update(ctx context.Context, email string, p ChangedParticipant) (Participant, error) {
	r := httpapi.Request{Endpoint: "participants.update", Method: http.MethodPut}
	var err error
	if r.Path, err = participantPath(email); err != nil {
		return Participant{}, refused(r, err)
	}
	return c.write(ctx, r, p.NamePageID, wireParticipant{
		FirstName: p.FirstName, LastName: p.LastName, Notes: p.Notes, Phonetic: p.Phonetic,
		PhoneNumber: p.PhoneNumber, CustomFields: p.CustomFields,
		Pronunciation: file(p.Pronunciation), Avatar: file(p.Avatar),
	})
}

func (c *Client) write(ctx context.Context, r httpapi.Request, namePageID string, p wireParticipant) (Participant, error) {
	if strings.TrimSpace(namePageID) == "" {
		return Participant{}, refused(r, errors.New("no name page is named"))
	}
	res, raw, err := c.tell(ctx, r, map[string]any{"name_page_id": namePageID, "participant": p})
	if err != nil {
		return Participant{}, err
	}
	written, err := readWritten(raw)
	if err != nil {
		return Participant{}, unreadable(r, res, err)
	}
	return written, nil
}

// Delete asks DELETE /participants/{email}: the person leaves one name page. It is sent once.
func (c *Client) Delete(ctx context.Context, email, namePageID string) error {
	r := httpapi.Request{Endpoint: "participants.delete", Method: http.MethodDelete}
	var err error
	if r.Path, err = participantPath(email); err != nil {
		return refused(r, err)
	}
	if strings.TrimSpace(namePageID) == "" {
		return refused(r, errors.New("no name page is named"))
	}
	_, _, err = c.tell(ctx, r, map[string]any{"name_page_id": namePageID})
	return err
}

// DeleteRecording asks DELETE /participants/{email}/pronunciations/{recording id}. It is sent once.
func (c *Client) DeleteRecording(ctx context.Context, email, recordingID string) error {
	r := httpapi.Request{Endpoint: "recordings.delete", Method: http.MethodDelete}
	path, err := participantPath(email)
	if err == nil && strings.TrimSpace(recordingID) == "" {
		err = errors.New("no recording is named")
	}
	if err != nil {
		return refused(r, err)
	}
	r.Path = path + "/pronunciations/" + url.PathEscape(recordingID)
	_, _, err = c.tell(ctx, r, nil)
	return err
}

// SynchronizeMoodle asks POST /lti/moodle/courses/synchronize for the courses of
// the Moodle instance that apiToken belongs to. notFound are the courses that Moodle
// does not have (202). It is sent once.
func (c *Client) SynchronizeMoodle(ctx context.Context, apiToken string, courseIDs []string) (notFound []string, err error) {
	r := httpapi.Request{Endpoint: "moodle.synchronize", Method: http.MethodPost, Path: "lti/moodle/courses/synchronize"}
	if apiToken == "" || len(courseIDs) == 0 {
		return nil, refused(r, errors.New("it needs an API token and at least one course"))
	}
	res, raw, err := c.tell(ctx, r, map[string]any{"api_token": apiToken, "external_course_ids": courseIDs})
	if err != nil || res.Status != http.StatusAccepted {
		return nil, err
	}
	notFound, err = readNotFound(raw)
	if err != nil {
		return nil, unreadable(r, res, err)
	}
	return notFound, nil
}

// tell sends a request that changes something.
func (c *Client) tell(ctx context.Context, r httpapi.Request, content any) (*httpapi.Response, []byte, error) {
	r.Header = c.header()
	r.MaxAnswer = maxWritten
	if content != nil {
		var err error
		if r.Body, err = json.Marshal(content); err != nil {
			return nil, nil, refused(r, err)
		}
	}
	return c.http.Fetch(ctx, r)
}

// participantPath refuses what is no address: "search" and "latest" are paths of their own.
func participantPath(email string) (string, error) {
	if !strings.Contains(email, "@") {
		return "", errors.New("the person is not named by an email address")
	}
	return "participants/" + url.PathEscape(email), nil
}

// readWritten reads {"participant": {…}}, also within a Response.
func readWritten(raw []byte) (Participant, error) {
	if !json.Valid(raw) {
		return Participant{}, errors.New("it is not JSON")
	}
	answer := gjson.ParseBytes(raw)
	if inner := answer.Get("Response"); inner.Exists() {
		answer = inner
	}
	written := answer.Get("participant")
	if !written.IsObject() {
		return Participant{}, errors.New("it has no participant object")
	}
	return readParticipant([]byte(written.Raw))
}

// readNotFound reads the answer 202 {"external_courses_ids": ["0"], …}; the parameter is external_course_ids.
func readNotFound(raw []byte) ([]string, error) {
	if !json.Valid(raw) {
		return nil, errors.New("it is not JSON")
	}
	answer := gjson.ParseBytes(raw)
	ids := answer.Get("external_courses_ids")
	if !ids.Exists() {
		ids = answer.Get("external_course_ids")
	}
	if !ids.IsArray() {
		return nil, errors.New("it has no external_courses_ids array")
	}
	var all []string
	for _, id := range ids.All() {
		s, err := text(id)
		if err != nil {
			return nil, fmt.Errorf("course %d is %w", len(all), err)
		}
		all = append(all, s)
	}
	return all, nil
}

// unreadable is the error of a write that was answered 2xx with something else than documented.
func unreadable(r httpapi.Request, res *httpapi.Response, err error) error {
	return &httpapi.Error{
		API: "namecoach", Endpoint: r.Endpoint, Method: r.Method,
		Status: res.Status, Err: fmt.Errorf("the answer cannot be read: %w", err), Unknown: true,
	}
}
