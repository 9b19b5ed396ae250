package httpapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
)

const (
	defaultConcurrency    = 8
	defaultAttemptTimeout = 30 * time.Second
	defaultAttempts       = 5
	defaultMaxAnswer      = 16 << 20

	// busyInRow ends a request that only ever meets 429: someone else uses the budget up.
	busyInRow = 20
	// maxErrorBody is how much of a refusal is read; the documented ones have 100 bytes.
	maxErrorBody = 64 << 10
)

// Options configure a [Client]. The zero value of a field that names a default means that default.
type Options struct {
	API            string            // "namecoach" or "bln": names it in errors and observations
	BaseURL        string            // https; plain http to loopback (localhost, 127/8, ::1) only; no user info, query or fragment
	PerSecond      float64           // upper bound of the request rate; required
	Burst          int               // requests that may leave at once after a quiet time; at least 1
	Concurrency    int               // requests in flight at most, a streaming answer included until it is closed; 0 = 8
	AttemptTimeout time.Duration     // until the headers are in, and the longest silence while a body is read; 0 = 30 s
	Attempts       int               // how often a repeatable request is sent, 429 not counted; 0 = 5
	MaxAnswer      int64             // bytes of one answer after decompression; 0 = 16 MiB
	Patience       time.Duration     // longest wait for a server that wants none for a while, see PausedError; 0 = as long as it takes
	Observe        func(Observation) // called once for each attempt, from the goroutine that asked; may be nil
	Transport      http.RoundTripper // nil: a fresh http.Transport
}

// Observation describes one attempt: one HTTP request, whatever became of it.
type Observation struct {
	API, Endpoint, Method string
	Code                  int           // status of the answer; 0: none came
	Duration              time.Duration // until the headers were in or the attempt failed
	Throttled             time.Duration // held up by the pace before it was sent, in line behind others too
	Remaining             float64       // requests left in the server's period, by its headers; -1 unknown
}

// Client sends requests to one API on one host: paced, repeated where that is
// safe, size-capped, redacted. It is safe for concurrent use.
//
// Observed, Urgent and While return views of it, which share its pace, its places in
// flight and its clock: whatever is said to one of them is said to all.
type Client struct {
	o      Options
	base   *url.URL
	line   *line
	clock  *atomic.Pointer[time.Duration]
	urgent bool
	may    func() bool // nil: always
}

// New checks the options and returns a client. It sends nothing. Its errors
// never repeat the base URL, which may hold a secret by mistake.
func New(o Options) (*Client, error) {
	base, err := parseBase(o.BaseURL)
	if err != nil {
		return nil, fmt.Errorf("%s base URL: %w", o.API, err)
	}
	if !(o.PerSecond > 0) || math.IsInf(o.PerSecond, 1) {
		return nil, fmt.Errorf("%s: requests per second must be more than 0, and finite", o.API)
	}
	if o.Burst < 0 || o.Concurrency < 0 || o.AttemptTimeout < 0 || o.Attempts < 0 || o.MaxAnswer < 0 || o.Patience < 0 {
		return nil, fmt.Errorf("%s: a limit is negative", o.API)
	}
	o.Burst = max(o.Burst, 1)
	o.Concurrency = orDefault(o.Concurrency, defaultConcurrency)
	o.AttemptTimeout = orDefault(o.AttemptTimeout, defaultAttemptTimeout)
	o.Attempts = orDefault(o.Attempts, defaultAttempts)
	o.MaxAnswer = orDefault(o.MaxAnswer, defaultMaxAnswer)
	if o.Observe == nil {
		o.Observe = func(Observation) {}
	}
	if o.Transport == nil {
		o.Transport = newTransport(o)
	}
	return &Client{o: o, base: base, line: newLine(o), clock: new(atomic.Pointer[time.Duration])}, nil
}

func orDefault[T int | int64 | time.Duration](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}

func parseBase(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "" || u.Opaque != "":
		return nil, errors.New("is not an absolute URL like https://host/path")
	case u.User != nil:
		return nil, errors.New("must not hold a user name or password")
	case strings.ContainsAny(raw, "?#"):
		return nil, errors.New("must not have a query or fragment")
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		return nil, errors.New("is not https; plain http is accepted for loopback only")
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, errors.New("is not https")
	}
	u.Path = strings.TrimRight(u.Path, "/")
	u.RawPath = strings.TrimRight(u.RawPath, "/")
	return u, nil
}

func isLoopback(host string) bool {
	return strings.EqualFold(host, "localhost") || net.ParseIP(host).IsLoopback()
}

func newTransport(o Options) *http.Transport {
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		// net/http goes on dialling when the request has given up: its own limits end that.
		DialContext:            departing((&net.Dialer{Timeout: o.AttemptTimeout}).DialContext),
		TLSHandshakeTimeout:    o.AttemptTimeout,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		Protocols:              oneRequestEach,
		MaxIdleConnsPerHost:    o.Concurrency, // net/http keeps 2: the others would shake hands for every request
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 256 << 10,
	}
}

// Request is what a client asks of its API.
type Request struct {
	Endpoint  string      // of a small closed set, e.g. "users.list": metrics label and name in errors. Never contains identifiers
	Method    string      // GET, POST, …
	Path      string      // joined to the base URL's path; segments are escaped already (url.PathEscape), none is empty, "." or ".."
	Query     url.Values  // may be nil
	Header    http.Header // may be nil; not kept
	Body      []byte      // sent as it is; Content-Type is the caller's
	Repeat    bool        // safe to send again when the outcome is unknown (GET, searches)
	MaxAnswer int64       // bytes; 0: the client's
	// NotAfter is for a request that says what was true a moment ago: where it cannot leave by then, nothing is sent and
	// the cause is ErrLate. Such a request goes before others of its client, and is not repeated after a 429 (everybody
	// waits all the same). Zero: it may leave at any time.
	NotAfter time.Time
}

// Response is a 2xx answer.
type Response struct {
	Status int
	Header http.Header
	// Body is decompressed. Reading past the cap fails with ErrTooLarge, a silence longer than AttemptTimeout
	// and an answer that breaks off fail, too, all as *Error. The caller closes it, and does not wait
	// for another request of the same client meanwhile: the open answer holds one of Concurrency places.
	Body io.ReadCloser
	Date time.Time // the server's clock; zero where it sent none
}

// Do sends r and returns the 2xx answer with its body still to be read. Every
// failure is an *[Error]; where ctx ended, errors.Is finds ctx's error in it.
func (c *Client) Do(ctx context.Context, r Request) (*Response, error) {
	return c.repeat(ctx, r, func(*Response) error { return nil })
}

// Fetch is Do with the body read whole (and closed). Here an answer that breaks off
// or stalls is asked for again, where r.Repeat allows it.
func (c *Client) Fetch(ctx context.Context, r Request) (*Response, []byte, error) {
	var whole []byte
	res, err := c.repeat(ctx, r, func(res *Response) error {
		defer func() { _ = res.Body.Close() }()
		var err error
		whole, err = io.ReadAll(res.Body)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return res, whole, nil
}

// Clock returns the server's clock minus ours, by the Date of the latest answer
// (whole seconds); false before the first answer with a Date.
func (c *Client) Clock() (offset time.Duration, known bool) {
	if p := c.clock.Load(); p != nil {
		return *p, true
	}
	return 0, false
}

// Observed is a view of c whose attempts are told to observe, too, after whoever is told of c's.
func (c *Client) Observed(observe func(Observation)) *Client {
	view := *c
	view.o.Observe = func(seen Observation) {
		c.o.Observe(seen)
		observe(seen)
	}
	return &view
}

// Urgent is a view of c whose requests leave before all that are not urgent, as requests with a NotAfter do. Nothing keeps
// many of them from holding up the others for ever: it is for the few that somebody waits for.
func (c *Client) Urgent() *Client {
	view := *c
	view.urgent = true
	return &view
}

// While is a view of c whose requests leave only while may says so; else nothing is sent, and the cause is ErrLate. It is asked last
// when the first byte is to be written.
func (c *Client) While(may func() bool) *Client {
	view := *c
	view.may = may
	return &view
}

// Interval is the time between two requests at the present pace, pauses left out.
func (c *Client) Interval() time.Duration {
	var interval time.Duration
	c.line.change(func(now time.Time) { interval = c.line.pace.interval(now) })
	return interval
}

// SetShare makes the client use one n-th of Options.PerSecond and Burst from now
// on, where n clients share the budget of one account. n below 1 counts as 1.
func (c *Client) SetShare(n int) {
	c.line.change(func(now time.Time) { c.line.pace.share(n, now) })
}

// Join is SetShare for a client that begins while others use the budget, or used it within the period that the server
// counts by (also one that was silent for so long that the others took its share): nothing is saved up for it, so that no
// number of restarts makes more of the budget than there is. Its first request waits for one Interval.
func (c *Client) Join(n int) {
	c.line.change(func(now time.Time) {
		c.line.pace.share(n, now)
		c.line.pace.empty(now)
	})
}

// repeat sends r until take accepts an answer or repeating is no use.
func (c *Client) repeat(ctx context.Context, r Request, take func(*Response) error) (*Response, error) {
	u, err := c.url(r)
	if err != nil {
		return nil, c.failed(r, err)
	}
	delays := backoff.NewExponentialBackOff()
	delays.Multiplier = 2
	delays.MaxInterval = 30 * time.Second
	for failures, busy := 0, 0; ; {
		res, fail := c.attempt(ctx, r, u)
		if fail == nil {
			err := take(res)
			if err == nil {
				return res, nil
			}
			if !errors.As(err, &fail) { // only our own body can fail
				fail = c.failed(r, err)
			}
		}
		if ctx.Err() != nil {
			return nil, fail
		}
		if fail.Status == http.StatusTooManyRequests {
			if busy++; busy == busyInRow || !r.NotAfter.IsZero() {
				return nil, fail
			}
			continue // the line makes this request wait, and every other
		}
		busy = 0
		if failures++; failures >= c.o.Attempts || !fail.again(r.Repeat) {
			return nil, fail
		}
		if p := c.o.Patience; p > 0 && fail.RetryAfter > p && r.NotAfter.IsZero() {
			return nil, c.failed(r, &PausedError{Until: time.Now().Add(fail.RetryAfter)})
		}
		wait := time.NewTimer(max(delays.NextBackOff(), fail.RetryAfter))
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			ended := c.failed(r, ctx.Err())
			ended.Unknown = fail.Unknown
			return nil, ended
		}
	}
}

// url joins the request's path to the base. A path that would leave the base, or change its meaning by an
// empty segment (DELETE /participants/ instead of one participant), is refused.
func (c *Client) url(r Request) (*url.URL, error) {
	raw := strings.TrimPrefix(r.Path, "/")
	for segment := range strings.SplitSeq(raw, "/") {
		plain, err := url.PathUnescape(segment)
		if err != nil || plain == "" || plain == "." || plain == ".." {
			return nil, errors.New("the path has a segment that is empty, relative or badly escaped")
		}
	}
	u := *c.base
	u.RawPath = u.EscapedPath() + "/" + raw
	path, err := url.PathUnescape(u.RawPath)
	if err != nil {
		return nil, errors.New("the path is badly escaped")
	}
	u.Path = path
	u.RawQuery = r.Query.Encode()
	return &u, nil
}

// attempt sends r once, as soon as a place and the pace allow.
func (c *Client) attempt(ctx context.Context, r Request, u *url.URL) (*Response, *Error) {
	queue := ctx
	if !r.NotAfter.IsZero() {
		var cancel context.CancelFunc
		queue, cancel = context.WithDeadlineCause(ctx, r.NotAfter, ErrLate)
		defer cancel()
	}
	dated := !r.NotAfter.IsZero()
	throttled, err := c.line.enter(queue, dated || c.urgent, dated)
	if err != nil {
		return nil, c.failed(r, err)
	}
	leave := sync.OnceFunc(c.line.leave)
	if !c.mayLeave(r) {
		leave()
		return nil, c.failed(r, ErrLate)
	}
	sent := time.Now()

	attempt, cancel := context.WithCancelCause(ctx)
	end := func() { cancel(context.Canceled); leave() }
	stall := time.AfterFunc(c.o.AttemptTimeout, func() { cancel(errSilent) })
	// A request is known not to have left while it has no connection.
	var wanted, connected atomic.Bool
	traced := httptrace.WithClientTrace(attempt, &httptrace.ClientTrace{
		GetConn: func(string) { wanted.Store(true) },
		GotConn: func(got httptrace.GotConnInfo) {
			connected.Store(true)
			ask(got.Conn, func() bool {
				may := c.mayLeave(r)
				if !may {
					cancel(ErrLate) // net/http may tell instead that the connection is closed, which it closes for this
				}
				return may
			})
		},
	})
	if !r.NotAfter.IsZero() {
		// Connecting takes time, too.
		defer time.AfterFunc(time.Until(r.NotAfter), func() {
			if wanted.Load() && !connected.Load() {
				cancel(ErrLate)
			}
		}).Stop()
	}
	req, err := c.request(traced, r, u)
	if err != nil {
		stall.Stop()
		end()
		return nil, c.failed(r, err)
	}
	// RoundTrip, not http.Client: no redirect is followed, no *url.Error with its URL is made.
	res, err := c.o.Transport.RoundTrip(req) // guarded closes it, here or for the caller
	stall.Stop()
	now := time.Now()
	seen := Observation{
		API: c.o.API, Endpoint: r.Endpoint, Method: r.Method,
		Duration: now.Sub(sent), Throttled: throttled, Remaining: -1,
	}
	if err != nil {
		fail := c.failed(r, cause(attempt, err))
		fail.Unknown = !errors.Is(fail, ErrLate) && (connected.Load() || !wanted.Load() && !isDial(err))
		end()
		c.o.Observe(seen)
		return nil, fail
	}

	date, _ := http.ParseTime(res.Header.Get("Date"))
	if !date.IsZero() {
		offset := date.Sub(now)
		c.clock.Store(&offset)
	}
	b := readBudget(res.Header)
	wait := readRetryAfter(res.Header, date, now)
	if wait == 0 && res.StatusCode == http.StatusTooManyRequests {
		wait = max(b.reset, 0)
	}
	c.line.change(func(time.Time) { c.line.pace.answered(sent, now, res.StatusCode, b, wait) })
	seen.Code = res.StatusCode
	seen.Remaining = b.remaining
	c.o.Observe(seen)

	guarded := &body{
		inner: res.Body, left: c.o.MaxAnswer, timeout: c.o.AttemptTimeout, stall: stall, end: end,
		failed: func(err error) *Error {
			fail := c.failed(r, cause(attempt, err))
			fail.Unknown = true
			return fail
		},
	}
	if r.MaxAnswer > 0 {
		guarded.left = r.MaxAnswer
	}
	if res.StatusCode >= 200 && res.StatusCode < 300 {
		return &Response{Status: res.StatusCode, Header: res.Header, Body: guarded, Date: date}, nil
	}
	defer func() { _ = guarded.Close() }()
	guarded.left = maxErrorBody
	text, _ := io.ReadAll(guarded) // what cannot be read just explains less
	redirect := res.StatusCode >= 300 && res.StatusCode < 400
	fail := &Error{
		API: c.o.API, Endpoint: r.Endpoint, Method: r.Method,
		Status:     res.StatusCode,
		RetryAfter: wait,
		// A write may have been carried out before its answer points elsewhere: 303 says just that. Repeating what only asks leads to
		// the same redirect.
		Unknown: res.StatusCode >= 500 || res.StatusCode == http.StatusRequestTimeout || redirect && !r.Repeat,
	}
	fail.Code, fail.Message = readRefusal(text, secrets(r))
	if redirect {
		fail.Code, fail.Message = "", "redirects are not followed"
	}
	return nil, fail
}

// late is why waiting has ended: ErrLate, or the error of the caller's context.
func late(queue context.Context) error {
	if errors.Is(context.Cause(queue), ErrLate) {
		return ErrLate
	}
	return queue.Err()
}

func (c *Client) request(ctx context.Context, r Request, u *url.URL) (*http.Request, error) {
	var content io.Reader
	if r.Body != nil {
		content = bytes.NewReader(r.Body)
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, "", content)
	if err != nil {
		return nil, errRequest
	}
	req.URL, req.Host = u, u.Host
	if r.Header != nil {
		req.Header = r.Header.Clone()
	}
	if req.Header.Get("User-Agent") == "" {
		req.Header.Set("User-Agent", "namebridge")
	}
	return req, nil
}

// failed is the error of a request that got no usable answer.
func (c *Client) failed(r Request, err error) *Error {
	return &Error{API: c.o.API, Endpoint: r.Endpoint, Method: r.Method, Err: err}
}
