package namecoach

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"namebridge/internal/httpapi"
)

const (
	// DefaultBaseURL is the API v5 root.
	DefaultBaseURL = "https://www.name-coach.com/api/private/v5"
	// DefaultRequestsPer15Minutes is the limit that NameCoach is known to apply to a token.
	DefaultRequestsPer15Minutes = 1000

	// maxList caps a list answer. It is decoded row by row, so this is no memory.
	maxList = 256 << 20
	// attemptTimeout is longer than usual: a large window takes NameCoach a while before it says the first byte.
	attemptTimeout = 60 * time.Second
	// concurrency is small: one account has one cursor, and the budget is about one request a second.
	concurrency = 4
)

// Endpoints are all values of an [httpapi.Observation]'s Endpoint.
var Endpoints = []string{
	"participants.list", "participants.search", "participants.latest",
	"participants.create", "participants.update", "participants.delete", "recordings.delete", "moodle.synchronize",
}

// Options configure a [Client].
type Options struct {
	BaseURL              string `json:"-"` // "" = DefaultBaseURL; may hold a secret by mistake
	Token                string `json:"-"` // the account's access token
	RequestsPer15Minutes int    // upper bound; 0 = DefaultRequestsPer15Minutes
	// Patience is how long a request waits for a NameCoach that asks for a pause or has little of the budget left; then
	// it fails with an *httpapi.PausedError. 0 = as long as it takes.
	Patience  time.Duration
	Observe   func(httpapi.Observation)
	Transport http.RoundTripper // nil: a fresh http.Transport
}

// Format keeps the token out of whatever prints the options.
func (o Options) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "namecoach.Options(%d requests in 15 minutes)", o.RequestsPer15Minutes)
}

// Client asks one NameCoach account. It is safe for concurrent use.
type Client struct {
	http   *httpapi.Client
	header func() http.Header // a closure, so that printing the client cannot print the token
}

// New checks the options and returns a client. It sends nothing. The token is
// refused, and not repeated, where it is empty or could not be a header value.
func New(o Options) (*Client, error) {
	if o.Token == "" {
		return nil, errors.New("namecoach token: is empty")
	}
	if strings.ContainsFunc(o.Token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, errors.New("namecoach token: holds white space, a control character or one that is not ASCII")
	}
	if o.RequestsPer15Minutes < 0 {
		return nil, errors.New("namecoach: requests per 15 minutes is negative")
	}
	if o.RequestsPer15Minutes == 0 {
		o.RequestsPer15Minutes = DefaultRequestsPer15Minutes
	}
	if o.BaseURL == "" {
		o.BaseURL = DefaultBaseURL
	}
	// Half of the budget may leave at once after a quiet time and the other half flows evenly: no span of
	// 15 minutes sees more than the whole.
	const period = 15 * 60
	client, err := httpapi.New(httpapi.Options{
		API:            "namecoach",
		BaseURL:        o.BaseURL,
		PerSecond:      float64(o.RequestsPer15Minutes) / 2 / period,
		Burst:          o.RequestsPer15Minutes / 2,
		Concurrency:    concurrency,
		AttemptTimeout: attemptTimeout,
		Patience:       o.Patience,
		Observe:        o.Observe,
		Transport:      o.Transport,
	})
	if err != nil {
		return nil, err
	}
	return &Client{http: client, header: func() http.Header {
		return http.Header{
			"Authorization": {o.Token},
			"Accept":        {"application/json"},
			"Content-Type":  {"application/json"},
		}
	}}, nil
}

// Clock returns NameCoach's clock minus ours, by its latest answer; false before the first.
func (c *Client) Clock() (offset time.Duration, known bool) { return c.http.Clock() }

// SetShare makes the client use one n-th of its budget, where n clients share the token.
func (c *Client) SetShare(n int) { c.http.SetShare(n) }

// Join is SetShare for a client that begins while others use the token, or used it in the last 15 minutes: it has nothing
// saved up, so restarts do not add up to more than the budget.
func (c *Client) Join(n int) { c.http.Join(n) }

// Observed is a view of c, with the same budget, whose requests are told to observe, too.
func (c *Client) Observed(observe func(httpapi.Observation)) *Client {
	return &Client{http: c.http.Observed(observe), header: c.header}
}

// Urgent is a view of c, with the same budget, whose requests leave before all that are not urgent. It is for the few that
// somebody waits for.
func (c *Client) Urgent() *Client {
	return &Client{http: c.http.Urgent(), header: c.header}
}

// Filter says which rows are asked for. The zero value asks for all, in pages of NameCoach's own size (10).
type Filter struct {
	// UpdatedAfter and UpdatedBefore bound the rows' update time; zero = unbounded. NameCoach has
	// resolution of a second and does not say whether bounds are inclusive: fractions are
	// rounded outward, and windows should overlap.
	UpdatedAfter, UpdatedBefore time.Time
	// Emails and InstitutionIDs name people in NameCoach's own spelling. One of the two only: whether both
	// together mean "and" or "or" is not documented.
	Emails, InstitutionIDs []string
	Include                string // "custom_attributes", "embeddables" or both with a comma
	Page, PerPage          int    // 0 = NameCoach's default
}

// UnaskableError tells that one of the people in a request cannot be asked for: commas join the
// list, so an entry with one would be two others, and a list that is blank to NameCoach returns everybody.
type UnaskableError struct {
	Index int // in Filter.Emails, Filter.InstitutionIDs or tokens
}

func (e *UnaskableError) Error() string {
	return fmt.Sprintf("entry %d cannot be asked for: it is blank or holds a comma", e.Index)
}

// List asks GET /participants, which is meant for windows of update time; the
// caller closes the answer or reads it to its end.
func (c *Client) List(ctx context.Context, f Filter) (*Answer, error) {
	r := httpapi.Request{Endpoint: "participants.list", Method: http.MethodGet, Path: "participants"}
	fields, err := f.fields()
	if err != nil {
		return nil, refused(r, err)
	}
	r.Query = url.Values{}
	for name, value := range fields {
		r.Query.Set(name, value)
	}
	return c.ask(ctx, r)
}

// Search asks POST /participants/search for the people named by f.Emails or
// f.InstitutionIDs, of which hundreds fit into one request. An empty list (it would
// return everybody) and both lists at once are refused, and so is an entry
// that cannot be asked for (*[UnaskableError]).
func (c *Client) Search(ctx context.Context, f Filter) (*Answer, error) {
	r := httpapi.Request{Endpoint: "participants.search", Method: http.MethodPost, Path: "participants/search"}
	fields, err := f.fields()
	if err == nil && len(f.Emails)+len(f.InstitutionIDs) == 0 {
		err = errors.New("nobody is named: NameCoach would return everybody")
	}
	if err != nil {
		return nil, refused(r, err)
	}
	if r.Body, err = json.Marshal(fields); err != nil { // page numbers as text, as in the document's example
		return nil, refused(r, err)
	}
	return c.ask(ctx, r)
}

// Latest asks GET /participants/latest for the newest participant of each
// person; a token is an email address or an institution id. How several tokens are joined is
// not documented (commas, here, as in the other lists): keep it off the bulk path.
func (c *Client) Latest(ctx context.Context, tokens []string, include string) (*Answer, error) {
	r := httpapi.Request{Endpoint: "participants.latest", Method: http.MethodGet, Path: "participants/latest"}
	list, err := join(tokens)
	if err == nil && len(tokens) == 0 {
		err = errors.New("nobody is named")
	}
	if err != nil {
		return nil, refused(r, err)
	}
	r.Query = url.Values{"tokens": {list}}
	if include != "" {
		r.Query.Set("include", include)
	}
	return c.ask(ctx, r)
}

// ask sends a request that only reads.
func (c *Client) ask(ctx context.Context, r httpapi.Request) (*Answer, error) {
	r.Header = c.header()
	r.Repeat = true
	r.MaxAnswer = maxList
	res, err := c.http.Do(ctx, r)
	if err != nil {
		return nil, err
	}
	return newAnswer(r, res), nil
}

// timeForm is how NameCoach writes a time: 2017-01-01T00:00:00+0000.
const timeForm = "2006-01-02T15:04:05-0700"

// fields are the filter's parameters as both list endpoints name them.
func (f Filter) fields() (map[string]string, error) {
	if len(f.Emails) > 0 && len(f.InstitutionIDs) > 0 {
		return nil, errors.New("people are named by address and by institution id at once")
	}
	emails, err := join(f.Emails)
	if err != nil {
		return nil, err
	}
	institutionIDs, err := join(f.InstitutionIDs)
	if err != nil {
		return nil, err
	}
	all := map[string]string{
		"email_list":          emails,
		"institution_id_list": institutionIDs,
		"include":             f.Include,
	}
	if t := f.UpdatedAfter; !t.IsZero() {
		all["updated_after"] = t.UTC().Truncate(time.Second).Format(timeForm)
	}
	if t := f.UpdatedBefore; !t.IsZero() {
		all["updated_before"] = t.UTC().Add(time.Second - time.Nanosecond).Truncate(time.Second).Format(timeForm)
	}
	if f.Page > 0 {
		all["page"] = strconv.Itoa(f.Page)
	}
	if f.PerPage > 0 {
		all["per_page"] = strconv.Itoa(f.PerPage)
	}
	for name, value := range all {
		if value == "" {
			delete(all, name)
		}
	}
	return all, nil
}

func join(list []string) (string, error) {
	i := slices.IndexFunc(list, func(s string) bool { return strings.Contains(s, ",") || strings.TrimSpace(s) == "" })
	if i >= 0 {
		return "", &UnaskableError{Index: i}
	}
	return strings.Join(list, ","), nil
}

// refused is the error of a request that is not sent.
func refused(r httpapi.Request, err error) error {
	return &httpapi.Error{API: "namecoach", Endpoint: r.Endpoint, Method: r.Method, Err: err}
}
