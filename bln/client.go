package bln

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidwall/gjson"

	"namebridge/internal/httpapi"
)

// Endpoints are all values of an [httpapi.Observation]'s Endpoint.
var Endpoints = []string{
	"auth.login", "organizations.get", "user.acl", "users.list", "users.search", "users.query", "users.get", "users.update",
}

// Options configure a [Client].
type Options struct {
	BaseURL        string // https://bln-api.coursepark.com; https, or plain http to loopback
	OrganizationID int64  // the number: sign-in does not take the key (BLN 73)

	Username, Password string // or AccessToken, which wins
	AccessToken        string

	PerSecond   float64 // upper bound of the request rate; required
	Concurrency int     // requests in flight at most; 0 = 8
	// Patience is how long a request waits for a BLN that asks for a pause; then it fails with an *httpapi.PausedError.
	// 0 = as long as it takes. A write says itself until when it may leave.
	Patience  time.Duration
	Observe   func(httpapi.Observation)
	Transport http.RoundTripper // nil: a fresh http.Transport
}

// Client reads and writes the members of one organization. It is safe for concurrent use.
//
// Methods fail with an *[httpapi.Error], or with a *[SignInError] where BLN does not accept the credentials. An answer that is
// not what the documentation shows is an *httpapi.Error, too, never an empty result. No error holds a credential or what a
// person's record says.
type Client struct {
	http *httpapi.Client
	o    Options
	*session
}

// session is the sign-in of a client and of its views.
type session struct {
	now     func() time.Time
	current atomic.Pointer[token] // nil before the first sign-in
	turn    chan struct{}         // holds one element while somebody signs in

	mu       sync.Mutex
	refusals int // in a row
	refusal  *SignInError
	held     time.Time // no sign-in before; refusal is the reason
}

// New checks the options. It sends nothing.
func New(o Options) (*Client, error) {
	var problems []error
	if o.OrganizationID <= 0 {
		problems = append(problems, errors.New("the organization id must be a number above 0"))
	}
	switch {
	case o.AccessToken != "" && !isToken(o.AccessToken):
		problems = append(problems, errors.New("the access token holds spaces, control characters or letters that no header can carry"))
	case o.AccessToken == "" && (o.Username == "" || o.Password == ""):
		problems = append(problems, errors.New("a user name and a password are needed, or an access token"))
	}
	h, err := httpapi.New(httpapi.Options{
		API:     "bln",
		BaseURL: o.BaseURL,
		// A tenth of a second's worth may leave at once: timers are too coarse to space high rates evenly.
		PerSecond: o.PerSecond, Burst: max(1, int(o.PerSecond/10)), Concurrency: o.Concurrency,
		Patience: o.Patience, Observe: o.Observe, Transport: o.Transport,
	})
	if err != nil {
		problems = append(problems, err)
	}
	if err := errors.Join(problems...); err != nil {
		return nil, fmt.Errorf("bln client: %w", err)
	}
	c := &Client{http: h, o: o, session: &session{now: time.Now, turn: make(chan struct{}, 1)}}
	if o.AccessToken != "" {
		c.current.Store(&token{value: o.AccessToken, claims: readClaims(o.AccessToken)})
	}
	return c, nil
}

// Clock is the server's clock minus ours, in whole seconds; false before the first answer.
func (c *Client) Clock() (time.Duration, bool) { return c.http.Clock() }

// SetShare makes the client use one n-th of its request rate, where n clients share the budget of one account.
func (c *Client) SetShare(n int) { c.http.SetShare(n) }

// Join is SetShare for a client that begins while others use the account, or used it a moment ago: it has nothing saved up.
func (c *Client) Join(n int) { c.http.Join(n) }

// Observed is a view of c, with the same pace and sign-in, whose requests are told to observe, too: also a sign-in that
// happens to be made for one of them.
func (c *Client) Observed(observe func(httpapi.Observation)) *Client {
	return &Client{http: c.http.Observed(observe), o: c.o, session: c.session}
}

// Urgent is a view of c, with the same pace and sign-in, whose requests leave before all that are not urgent (writes and
// sign-ins always are). It is for the few that somebody waits for.
func (c *Client) Urgent() *Client {
	return &Client{http: c.http.Urgent(), o: c.o, session: c.session}
}

// While is a view of c, with the same pace and sign-in, whose requests leave only while may says so: else nothing is sent, and the cause is
// httpapi.ErrLate.
func (c *Client) While(may func() bool) *Client {
	return &Client{http: c.http.While(may), o: c.o, session: c.session}
}

// unusable is the error of a request whose answer came and cannot be used.
func unusable(r httpapi.Request, err error) *httpapi.Error {
	return &httpapi.Error{API: "bln", Endpoint: r.Endpoint, Method: r.Method, Err: err, Unknown: !r.Repeat}
}

// maxAnswerNesting is as deep as encoding/json reads.
const maxAnswerNesting = 10_000

func parseAnswer(body []byte) (gjson.Result, error) {
	text := string(body)
	switch {
	case nesting(text) > maxAnswerNesting: // before the check that follows, which is recursive
		return gjson.Result{}, fmt.Errorf("the answer is nested deeper than %d levels", maxAnswerNesting)
	case !gjson.Valid(text):
		return gjson.Result{}, errors.New("the answer is not valid JSON")
	}
	return gjson.Parse(text), nil
}

// fields hands each member of an object to the place that pick names for its key, if any. A key that stands twice
// has no one meaning.
func fields(object gjson.Result, pick func(key string) *gjson.Result) error {
	if !object.IsObject() {
		return fmt.Errorf("is no object but %s", typeName(object))
	}
	var err error
	object.ForEach(func(key, value gjson.Result) bool {
		place := pick(key.Str)
		switch {
		case place == nil:
		case place.Exists():
			err = fmt.Errorf("has %s twice", key.Str)
		default:
			*place = value
		}
		return err == nil
	})
	return err
}

// readText is a field's text. Null and nothing are "", numbers and booleans their JSON text.
func readText(v gjson.Result, name string) (string, error) {
	switch v.Type {
	case gjson.Null:
		return "", nil
	case gjson.JSON:
		return "", fmt.Errorf("has %s as %s", name, typeName(v))
	case gjson.String:
		return strings.Clone(strings.ToValidUTF8(unescape(v.Raw), "\uFFFD")), nil // a clone does not keep the whole page alive
	default:
		return strings.Clone(v.Raw), nil
	}
}
