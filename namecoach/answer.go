package namecoach

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"namebridge/internal/httpapi"
)

// maxValue bounds what is held of an answer at one time: a row, the meta, or a value that is skipped.
const maxValue = 4 << 20

// Answer is a list answer whose rows are still to be read.
type Answer struct {
	Date time.Time // NameCoach's clock when it answered; zero where it did not say

	request httpapi.Request
	status  int
	body    io.ReadCloser
	ration  *io.LimitedReader
	json    *json.Decoder
	begun   bool
	rows    int
	meta    Meta
}

// Meta is what NameCoach says about the whole list. Latest has none.
type Meta struct {
	Known      bool // there was a meta with a total_count
	TotalCount int  // rows on all pages
	TotalPages int
	Count      int // rows on this page
}

func newAnswer(r httpapi.Request, res *httpapi.Response) *Answer {
	ration := &io.LimitedReader{R: res.Body}
	a := &Answer{Date: res.Date, request: r, status: res.Status, body: res.Body, ration: ration, json: json.NewDecoder(ration)}
	a.json.UseNumber() // so that a number no float can hold is no error
	return a
}

// Participants yields the rows in NameCoach's order, one at a time, and stops
// after its first error, an *httpapi.Error. An answer that ends before its JSON
// does, or that has no participants array, is an error. It can be read once; the
// answer is closed when the rows end, fail or are broken off.
func (a *Answer) Participants() iter.Seq2[Participant, error] {
	return func(yield func(Participant, error) bool) {
		defer func() { _ = a.Close() }()
		if a.begun {
			yield(Participant{}, a.failed(errors.New("its rows were read already")))
			return
		}
		a.begun = true
		err := a.decode(func(p Participant) bool { return yield(p, nil) })
		if err != nil && !errors.Is(err, errEnough) {
			yield(Participant{}, a.failed(err))
		}
	}
}

// Close ends the answer. Closing twice, or after the rows were read, does nothing.
func (a *Answer) Close() error { return a.body.Close() }

// Meta returns what NameCoach said about the list; valid once the rows ended without an error.
func (a *Answer) Meta() Meta { return a.meta }

// errEnough ends decoding where the caller wants no more rows.
var errEnough = errors.New("no more rows wanted")

// decode reads {"Response": {…}} (list, search) or the inner object alone (latest).
func (a *Answer) decode(row func(Participant) bool) error {
	found := false
	var member func(key string) error
	member = func(key string) error {
		switch key {
		case "Response":
			return a.object("Response", func(key string) error {
				if key == "Response" {
					return errors.New("its Response holds another Response")
				}
				return member(key)
			})
		case "participants":
			if found {
				return errors.New("it has two participants arrays")
			}
			found = true
			return a.participants(row)
		case "meta":
			raw, err := a.value()
			if err != nil {
				return err
			}
			return a.meta.read(raw)
		default:
			_, err := a.value()
			return err
		}
	}
	if err := a.object("the answer", member); err != nil {
		return err
	}
	if _, err := a.token(); err != io.EOF { //nolint:errorlint // a failure that wraps io.EOF is not the end
		if err == nil {
			err = errors.New("something follows its end")
		}
		return err
	}
	if !found {
		return errors.New("it has no participants array")
	}
	return nil
}

// object reads an object and calls member with each key, to read that key's value.
func (a *Answer) object(what string, member func(key string) error) error {
	if t, err := a.token(); err != nil {
		return unexpected(err)
	} else if t != json.Delim('{') {
		return fmt.Errorf("%s is not an object", what)
	}
	for a.more() {
		t, err := a.token()
		if err != nil {
			return unexpected(err)
		}
		key, ok := t.(string)
		if !ok {
			return a.notJSON()
		}
		if err := member(key); err != nil {
			return err
		}
	}
	return a.end('}')
}

func (a *Answer) participants(row func(Participant) bool) error {
	if t, err := a.token(); err != nil {
		return unexpected(err)
	} else if t != json.Delim('[') {
		return errors.New("participants is not an array")
	}
	for a.more() {
		raw, err := a.value()
		if err != nil {
			return fmt.Errorf("row %d: %w", a.rows, err)
		}
		p, err := readParticipant(raw)
		if err != nil {
			return fmt.Errorf("row %d: %w", a.rows, err)
		}
		a.rows++
		if !row(p) {
			return errEnough
		}
	}
	return a.end(']')
}

func (a *Answer) more() bool {
	a.ration.N = maxValue
	return a.json.More()
}

// end reads the end of an object or array. There may be no more because the answer broke off.
func (a *Answer) end(want json.Delim) error {
	t, err := a.token()
	if err == nil && t != want {
		return a.notJSON()
	}
	return unexpected(err)
}

func (a *Answer) token() (json.Token, error) {
	a.ration.N = maxValue
	t, err := a.json.Token()
	return t, a.plain(err)
}

// value reads the next value, whatever it is.
func (a *Answer) value() (json.RawMessage, error) {
	a.ration.N = maxValue
	var raw json.RawMessage
	err := a.json.Decode(&raw)
	return raw, unexpected(a.plain(err))
}

// plain keeps what the server sent out of the decoder's errors.
func (a *Answer) plain(err error) error {
	var syntax *json.SyntaxError
	switch {
	case err == nil:
		return nil
	case a.ration.N <= 0:
		return fmt.Errorf("a value of more than %d MiB: %w", maxValue>>20, httpapi.ErrTooLarge)
	case errors.As(err, &syntax):
		return a.notJSON()
	}
	return err
}

func (a *Answer) notJSON() error {
	return fmt.Errorf("it is not JSON at byte %d", a.json.InputOffset())
}

// unexpected makes an end within the JSON what it is: an answer that broke off.
func unexpected(err error) error {
	if err == io.EOF { //nolint:errorlint // the decoder's own; what wraps it says more
		return io.ErrUnexpectedEOF
	}
	return err
}

func (a *Answer) failed(err error) error {
	if already, ok := errors.AsType[*httpapi.Error](err); ok { // the transport's own: it broke off, stalled or is too large
		return already
	}
	status := a.status
	if errors.Is(err, io.ErrUnexpectedEOF) {
		status = 0
		err = fmt.Errorf("the answer ends within its JSON: %w", err)
	}
	return &httpapi.Error{
		API: "namecoach", Endpoint: a.request.Endpoint, Method: a.request.Method,
		Status: status, Err: fmt.Errorf("the answer cannot be read: %w", err),
	}
}

// read takes numbers and numbers written as text: the document has both.
func (m *Meta) read(raw json.RawMessage) error {
	*m = Meta{}
	members := gjson.ParseBytes(raw)
	if members.Type == gjson.Null {
		return nil
	}
	if !members.IsObject() {
		return errors.New("meta is not an object")
	}
	for key, value := range members.All() {
		to := map[string]*int{"total_count": &m.TotalCount, "total_pages": &m.TotalPages, "count": &m.Count}[key.Str]
		if to == nil {
			continue
		}
		s, err := text(value)
		if err != nil {
			return fmt.Errorf("meta: %s is %w", key.Str, err)
		}
		if s = strings.TrimSpace(s); s == "" {
			continue
		}
		n, err := strconv.ParseFloat(s, 64)
		if err != nil || n < 0 || n > 1<<31 || n != float64(int(n)) {
			return fmt.Errorf("meta: %s is no whole number", key.Str)
		}
		*to = int(n)
		if key.Str == "total_count" {
			m.Known = true
		}
	}
	return nil
}
