package namecoach

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"namebridge/internal/httpapi"
)

const token = "FjQB7vXvsPK_Ur6swRk7"

// request is what arrived at the fake NameCoach.
type request struct {
	Method, Path string
	Query        url.Values
	Body         string
}

// fake is a real server that answers each request with the next of its answers, the last one from then on.
type fake struct {
	*httptest.Server
	mu      sync.Mutex
	got     []request
	headers []http.Header
}

type reply struct {
	status int
	text   string
}

func serve(t *testing.T, replies ...reply) *fake {
	t.Helper()
	f := &fake{}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		f.mu.Lock()
		f.got = append(f.got, request{r.Method, r.URL.EscapedPath(), r.URL.Query(), string(body)})
		f.headers = append(f.headers, r.Header)
		next := replies[min(len(f.got), len(replies))-1]
		f.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(next.status)
		io.WriteString(w, next.text)
	}))
	t.Cleanup(f.Close)
	return f
}

func (f *fake) requests() []request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.got
}

func (f *fake) client(t *testing.T) *Client {
	t.Helper()
	c, err := New(Options{BaseURL: f.URL + "/api/private/v5", Token: token, RequestsPer15Minutes: 1e9})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// wire is a fake RoundTripper, for synctest bubbles.
type wire func(*http.Request) (*http.Response, error)

func (w wire) RoundTrip(r *http.Request) (*http.Response, error) { return w(r) }

func response(status int, text string) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(text))}
}

// all reads an answer to its end.
func all(a *Answer, err error) ([]Participant, error) {
	if err != nil {
		return nil, err
	}
	var rows []Participant
	for p, err := range a.Participants() {
		if err != nil {
			return rows, err
		}
		rows = append(rows, p)
	}
	return rows, nil
}

const noRows = `{"Response":{"participants":[],"meta":{"total_count":0}}}`

// Trap 25: the Authorization header is the raw token.
func TestTheTokenIsSentRaw(t *testing.T) {
	t.Parallel()
	f := serve(t, reply{200, noRows})
	if _, err := all(f.client(t).List(t.Context(), Filter{})); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"Authorization": token, "Accept": "application/json", "Content-Type": "application/json"} {
		if got := f.headers[0].Get(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func TestAnUnusableTokenIsRefusedAndNotRepeated(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", " ", "canary token", "canary\n", "canary\x00", "canary\tx", " canary", "canaryü", "canary\u202e"} {
		_, err := New(Options{Token: bad})
		if err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("token %q: got %v", bad, err)
		}
	}
	if _, err := New(Options{Token: token, RequestsPer15Minutes: -1}); err == nil {
		t.Error("a negative budget is accepted")
	}
	if _, err := New(Options{Token: token, BaseURL: "http://name-coach.example"}); err == nil {
		t.Error("plain http is accepted")
	}
	if _, err := New(Options{Token: token}); err != nil {
		t.Errorf("the defaults are refused: %v", err)
	}
}

func TestPrintingShowsNoToken(t *testing.T) {
	t.Parallel()
	o := Options{Token: token, BaseURL: "https://name-coach.example"}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		for _, v := range []any{o, &o, c, *c} {
			if s := fmt.Sprintf(format, v); strings.Contains(s, token) {
				t.Errorf("%s of %T shows the token: %s", format, v, s)
			}
		}
	}
}

func TestListAsksForItsFilter(t *testing.T) {
	t.Parallel()
	east := time.FixedZone("", 5*3600)
	for name, test := range map[string]struct {
		filter Filter
		want   url.Values
	}{
		"everything": {Filter{}, url.Values{}},
		"a window in the document's form of time (trap 7)": {
			Filter{UpdatedAfter: time.Date(2017, 1, 1, 5, 0, 0, 0, east), UpdatedBefore: time.Date(2017, 1, 2, 0, 0, 0, 0, time.UTC)},
			url.Values{"updated_after": {"2017-01-01T00:00:00+0000"}, "updated_before": {"2017-01-02T00:00:00+0000"}},
		},
		"fractions of a second are rounded outward (trap 7)": {
			Filter{UpdatedAfter: time.Date(2017, 1, 1, 0, 0, 0, 999, time.UTC), UpdatedBefore: time.Date(2017, 1, 1, 0, 0, 1, 1, time.UTC)},
			url.Values{"updated_after": {"2017-01-01T00:00:00+0000"}, "updated_before": {"2017-01-01T00:00:02+0000"}},
		},
		"a page with its size": {Filter{Page: 3, PerPage: 2000, Include: "custom_attributes"}, url.Values{"page": {"3"}, "per_page": {"2000"}, "include": {"custom_attributes"}}},
		"people by address":    {Filter{Emails: []string{"a+b@example.org", "c&d@example.com"}}, url.Values{"email_list": {"a+b@example.org,c&d@example.com"}}},
		"people by id":         {Filter{InstitutionIDs: []string{"111", "222"}}, url.Values{"institution_id_list": {"111,222"}}},
	} {
		f := serve(t, reply{200, noRows})
		if _, err := all(f.client(t).List(t.Context(), test.filter)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff([]request{{"GET", "/api/private/v5/participants", test.want, ""}}, f.requests()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// Trap 5: POST /participants creates a participant.
func TestSearchPostsToSearchOnly(t *testing.T) {
	t.Parallel()
	f := serve(t, reply{200, noRows})
	c := f.client(t)
	after := time.Date(2017, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, filter := range []Filter{
		{Emails: []string{"a@example.org", "B@Example.com"}, PerPage: 999, UpdatedAfter: after},
		{InstitutionIDs: []string{"111"}, Page: 2, Include: "embeddables"},
	} {
		if _, err := all(c.Search(t.Context(), filter)); err != nil {
			t.Fatal(err)
		}
	}
	want := []request{
		{"POST", "/api/private/v5/participants/search", url.Values{}, `{"email_list":"a@example.org,B@Example.com","per_page":"999","updated_after":"2017-01-01T00:00:00+0000"}`},
		{"POST", "/api/private/v5/participants/search", url.Values{}, `{"include":"embeddables","institution_id_list":"111","page":"2"}`},
	}
	if diff := cmp.Diff(want, f.requests()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWhatNameCoachWouldMisunderstandIsNotAsked(t *testing.T) {
	t.Parallel()
	f := serve(t, reply{200, noRows})
	c := f.client(t)
	list := func(f Filter) error { _, err := all(c.List(t.Context(), f)); return err }
	search := func(f Filter) error { _, err := all(c.Search(t.Context(), f)); return err }
	latest := func(tokens ...string) error { _, err := all(c.Latest(t.Context(), tokens, "")); return err }
	for name, test := range map[string]struct {
		err   error
		index int // of the entry to blame; -1: none
	}{
		"a search for nobody returns everybody (trap 6)":      {search(Filter{}), -1},
		"an empty list, too (trap 6)":                         {search(Filter{Emails: []string{}, InstitutionIDs: []string{}}), -1},
		"a blank entry is an empty list (trap 6)":             {search(Filter{Emails: []string{""}}), 0},
		"white space is an empty list (trap 6)":               {search(Filter{InstitutionIDs: []string{"1", " \t"}}), 1},
		"both lists at once (trap 27b)":                       {search(Filter{Emails: []string{"a@example.org"}, InstitutionIDs: []string{"1"}}), -1},
		"both lists at once in a window (trap 27b)":           {list(Filter{Emails: []string{"a@example.org"}, InstitutionIDs: []string{"1"}}), -1},
		"a comma makes two addresses of one (trap 24)":        {search(Filter{Emails: []string{"a@example.org", "b@example.org", `"x,y"@example.org`}}), 2},
		"a comma in an id (trap 24)":                          {search(Filter{InstitutionIDs: []string{"1,2"}}), 0},
		"a comma in a window's list (trap 24)":                {list(Filter{Emails: []string{"a,b@example.org"}}), 0},
		"latest of nobody":                                    {latest(), -1},
		"latest of a blank":                                   {latest("a@example.org", ""), 1},
		"latest of an address with a comma (traps 20 and 24)": {latest("a,b@example.org"), 0},
	} {
		var fail *httpapi.Error
		if !errors.As(test.err, &fail) || fail.Unknown || strings.Contains(test.err.Error(), "example.org") {
			t.Errorf("%s: got %v", name, test.err)
			continue
		}
		var unaskable *UnaskableError
		if found := errors.As(test.err, &unaskable); found != (test.index >= 0) || found && unaskable.Index != test.index {
			t.Errorf("%s: got %v, want index %d", name, test.err, test.index)
		}
	}
	if n := len(f.requests()); n != 0 {
		t.Errorf("%d requests were sent", n)
	}
}

func TestLatestAsksForTokens(t *testing.T) {
	t.Parallel()
	f := serve(t, reply{200, `{"participants":[]}`})
	if _, err := all(f.client(t).Latest(t.Context(), []string{"karla-gleichauf@example.com", "john.snow"}, "embeddables")); err != nil {
		t.Fatal(err)
	}
	want := []request{{
		"GET", "/api/private/v5/participants/latest",
		url.Values{"tokens": {"karla-gleichauf@example.com,john.snow"}, "include": {"embeddables"}},
		"",
	}}
	if diff := cmp.Diff(want, f.requests()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Trap 4: next_page_url names v4 and, on search, the unfiltered GET.
func TestNextPageURLIsNeverFollowed(t *testing.T) {
	t.Parallel()
	f := serve(t, reply{200, `{"Response":{"participants":[{}],"meta":{"next_page_url":"/api/private/v4/participants?page=2","total_count":9,"total_pages":9,"count":1}}}`})
	rows, err := all(f.client(t).List(t.Context(), Filter{PerPage: 1}))
	if err != nil || len(rows) != 1 || len(f.requests()) != 1 {
		t.Errorf("got %d rows with %d requests, %v", len(rows), len(f.requests()), err)
	}
}

// Traps 21 and 22: any endpoint may answer 429, and a 404 on a collection is an error, never "no participants".
func TestReadingRepeatsAndFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		script := []int{429, 502, 429, 200}
		sent := 0
		c, err := New(Options{Token: token, Transport: wire(func(*http.Request) (*http.Response, error) {
			sent++
			return response(script[(sent-1)%len(script)], `{"participants":[]}`), nil
		})})
		if err != nil {
			t.Fatal(err)
		}
		for name, ask := range map[string]func() (*Answer, error){
			"list":   func() (*Answer, error) { return c.List(t.Context(), Filter{}) },
			"search": func() (*Answer, error) { return c.Search(t.Context(), Filter{Emails: []string{"a@example.org"}}) },
			"latest": func() (*Answer, error) { return c.Latest(t.Context(), []string{"a@example.org"}, "") },
		} {
			sent = 0
			if _, err := all(ask()); err != nil || sent != 4 {
				t.Errorf("%s: %v after %d requests", name, err, sent)
			}
		}
	})
	f := serve(t, reply{404, `{"message":"Not Found"}`})
	_, err := f.client(t).List(t.Context(), Filter{})
	var fail *httpapi.Error
	if !errors.As(err, &fail) || fail.Status != 404 || fail.Message != "Not Found" || fail.Endpoint != "participants.list" {
		t.Errorf("404: got %v", err)
	}
}

func TestNo15MinutesSeeMoreThanTheBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const budget = 300
		var sent []time.Time
		c, err := New(Options{Token: token, RequestsPer15Minutes: budget, Transport: wire(func(*http.Request) (*http.Response, error) {
			sent = append(sent, time.Now())
			return response(200, `{"participants":[]}`), nil
		})})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 * budget {
			if _, err := all(c.List(t.Context(), Filter{})); err != nil {
				t.Fatal(err)
			}
		}
		for i := range sent {
			if j := i + budget; j < len(sent) && sent[j].Sub(sent[i]) < 15*time.Minute {
				t.Fatalf("%d requests in %v", budget+1, sent[j].Sub(sent[i]))
			}
		}
	})
}

func TestTheAnswerHasNameCoachsClock(t *testing.T) {
	t.Parallel()
	date := time.Date(2026, 10, 11, 4, 9, 4, 0, time.UTC) // trap 8: the cursor is a time on this clock
	c, err := New(Options{Token: token, Transport: wire(func(*http.Request) (*http.Response, error) {
		res := response(200, noRows)
		res.Header.Set("Date", date.Format(http.TimeFormat))
		return res, nil
	})})
	if err != nil {
		t.Fatal(err)
	}
	a, err := c.List(t.Context(), Filter{})
	if err != nil || !a.Date.Equal(date) {
		t.Errorf("got %v, %v", a.Date, err)
	}
	a.Close()
	if offset, known := c.Clock(); !known || time.Until(date)-offset > time.Minute {
		t.Errorf("clock: %v, %t", offset, known)
	}
}
