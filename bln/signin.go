package bln

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tidwall/gjson"

	"namebridge/internal/httpapi"
)

const (
	// maxTokenAge makes a token be renewed that does not say when it ends: BLN's were seen to last about 7 days.
	maxTokenAge = 6 * 24 * time.Hour
	// renewMargin before its end a token is renewed; of a short-lived one, a tenth of its life.
	renewMargin = 5 * time.Minute
	// After a refusal nobody signs in for firstHold, which doubles with each refusal in a row up to maxHold: eight workers
	// that repeat a wrong password lock the account.
	firstHold = time.Minute
	maxHold   = time.Hour
)

// SignInReason tells what BLN does not accept.
type SignInReason string

// What BLN can refuse.
const (
	CredentialsRefused SignInReason = "credentials" // user name, password or organization, by POST /auth/login
	TokenRefused       SignInReason = "token"       // Options.AccessToken, or a token that was issued a moment ago
)

// SignInError tells that BLN was reached and does not accept the credentials: only a person can help. Any other
// failure to sign in (no network, server errors) is an *[httpapi.Error] alone.
type SignInError struct {
	Reason SignInReason
	Err    *httpapi.Error // the answer
}

func (e *SignInError) Error() string {
	if e.Reason == TokenRefused {
		return "bln refuses the access token: " + e.Err.Error()
	}
	return "bln refuses the user name, the password or the organization: " + e.Err.Error()
}

// Unwrap returns the answer.
func (e *SignInError) Unwrap() error { return e.Err }

type token struct {
	value   string
	claims  claims
	renewAt time.Time   // our clock; zero: never
	worked  atomic.Bool // a request was answered with it
}

// SignIn makes sure that there is a token, which every request does by itself. It does nothing where there is a fresh one,
// or a fixed one. After a refusal it returns the same *[SignInError] without asking BLN again for a minute, doubling up to
// an hour with each further refusal.
func (c *Client) SignIn(ctx context.Context) error {
	_, err := c.token(ctx, nil)
	return err
}

// UserID is the user that is signed in, as far as the token tells: it need not be readable (BLN 93).
func (c *Client) UserID() (int64, bool) {
	t := c.current.Load()
	if t == nil || t.claims.userID == 0 {
		return 0, false
	}
	return t.claims.userID, true
}

// TokenExpires is when the present token ends, on BLN's clock, as far as it tells: it need not be readable (BLN 93). One that was signed in for
// is renewed before.
func (c *Client) TokenExpires() (time.Time, bool) {
	t := c.current.Load()
	if t == nil || t.claims.expires.IsZero() {
		return time.Time{}, false
	}
	return t.claims.expires, true
}

// fetch sends a request with a token. A 401 means that it was not carried out: sign in once more, send it once more.
func (c *Client) fetch(ctx context.Context, r httpapi.Request) (*httpapi.Response, []byte, error) {
	var refused *token
	for {
		t, err := c.token(ctx, refused)
		if err != nil {
			return nil, nil, err
		}
		r.Header = http.Header{"Authorization": {"Bearer " + t.value}, "Accept": {"application/json"}}
		if r.Body != nil {
			r.Header.Set("Content-Type", "application/json")
		}
		res, body, err := c.http.Fetch(ctx, r)
		var answer *httpapi.Error
		switch {
		case err == nil:
			c.tokenWorked(t)
			return res, body, nil
		case !errors.As(err, &answer) || answer.Status != http.StatusUnauthorized:
			return nil, nil, err
		case c.o.AccessToken != "":
			return nil, nil, &SignInError{Reason: TokenRefused, Err: answer}
		case refused != nil:
			return nil, nil, c.hold(&SignInError{Reason: TokenRefused, Err: answer})
		}
		refused = t
	}
}

// token is one to send, other than the refused one (may be nil). Whoever finds none signs in; the others wait for that.
func (c *Client) token(ctx context.Context, refused *token) (*token, error) {
	usable := func(t *token) bool {
		return t != nil && t != refused && (t.renewAt.IsZero() || c.now().Before(t.renewAt))
	}
	if t := c.current.Load(); usable(t) {
		return t, nil
	}
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return nil, &httpapi.Error{API: "bln", Endpoint: "auth.login", Method: http.MethodPost, Err: ctx.Err()}
	}
	if t := c.current.Load(); usable(t) { // someone else signed in meanwhile
		return t, nil
	}
	c.mu.Lock()
	held, refusal := c.now().Before(c.held), c.refusal
	c.mu.Unlock()
	if held {
		return nil, refusal
	}
	t, err := c.login(ctx)
	if err != nil {
		return nil, err
	}
	c.current.Store(t)
	return t, nil
}

// hold keeps everybody from signing in for a while.
func (c *Client) hold(refusal *SignInError) *SignInError {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refusal = refusal
	c.held = c.now().Add(min(firstHold<<min(c.refusals, 10), maxHold))
	c.refusals++
	return refusal
}

func (c *Client) tokenWorked(t *token) {
	if t.worked.CompareAndSwap(false, true) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.refusals, c.held = 0, time.Time{}
	}
}

// login asks POST /auth/login for a token (BLN 18). No duration is sent: its unit is not documented (BLN 76).
func (c *Client) login(ctx context.Context) (*token, error) {
	body, err := json.Marshal(struct {
		Username       string `json:"username"`
		Password       string `json:"password"`
		OrganizationID int64  `json:"organizationId"`
	}{c.o.Username, c.o.Password, c.o.OrganizationID})
	if err != nil {
		return nil, errors.New("bln: the credentials cannot be put into JSON")
	}
	asked := c.now()
	r := httpapi.Request{
		Endpoint: "auth.login", Method: http.MethodPost, Path: "/auth/login", Body: body,
		Header:    http.Header{"Accept": {"application/json"}, "Content-Type": {"application/json"}},
		Repeat:    true, // a second token does no harm
		MaxAnswer: 64 << 10,
	}
	_, text, err := c.http.Urgent().Fetch(ctx, r) // everybody waits for it
	if answer, ok := errors.AsType[*httpapi.Error](err); ok {
		if isRefusal(answer) {
			return nil, c.hold(&SignInError{Reason: CredentialsRefused, Err: answer})
		}
		failed := *answer
		failed.Unknown = false // for a PUT that waits for the token: it was not sent
		return nil, &failed
	}
	if err != nil {
		return nil, err
	}
	value, err := readLogin(text)
	if err != nil {
		return nil, unusable(r, err)
	}
	t := &token{value: value, claims: readClaims(value), renewAt: asked.Add(maxTokenAge)}
	offset, _ := c.http.Clock()
	end := t.claims.expires.Add(-offset) // on our clock
	// An end that has passed already says more about clocks than about the token: a 401 will tell.
	if life := end.Sub(asked); !t.claims.expires.IsZero() && life > 0 {
		if at := end.Add(-min(renewMargin, life/10)); at.Before(t.renewAt) {
			t.renewAt = at
		}
	}
	return t, nil
}

// isRefusal tells an answer to these credentials from one that any credentials would get. A 404 is one only where BLN
// itself says so: else the base URL is wrong.
func isRefusal(answer *httpapi.Error) bool {
	switch answer.Status {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusUnprocessableEntity:
		return true
	case http.StatusNotFound:
		return answer.Code == "notFound"
	}
	return false
}

func readLogin(body []byte) (string, error) {
	answer, err := parseAnswer(body)
	if err != nil {
		return "", err
	}
	var accessToken gjson.Result
	err = fields(answer, func(key string) *gjson.Result {
		if key == "accessToken" {
			return &accessToken
		}
		return nil
	})
	if err != nil || accessToken.Type != gjson.String || !isToken(accessToken.Str) {
		return "", errors.New("the answer has no usable accessToken")
	}
	return strings.Clone(accessToken.Str), nil
}

// isToken tells whether a header can carry s.
func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

// claims are what a token says about itself, unverified: only BLN has the key. Zero where it says nothing.
type claims struct {
	userID  int64
	expires time.Time
}

// readClaims reads a JWT's payload (BLN 28). A token that is none, such as BLN's own example (BLN 93), has no claims.
func readClaims(value string) claims {
	parts := strings.Split(value, ".")
	if len(parts) != 3 {
		return claims{}
	}
	// JWTs have unpadded base64url; the documented way to read it (BLN 41) takes the standard alphabet.
	payload, err := base64.RawURLEncoding.DecodeString(strings.NewReplacer("+", "-", "/", "_", "=", "").Replace(parts[1]))
	if err != nil {
		return claims{}
	}
	object, err := parseAnswer(payload)
	if err != nil {
		return claims{}
	}
	var user, exp gjson.Result
	err = fields(object, func(key string) *gjson.Result {
		switch key {
		case "userId":
			return &user
		case "exp":
			return &exp
		}
		return nil
	})
	if err != nil {
		return claims{}
	}
	var c claims
	if id, err := strconv.ParseInt(user.Raw, 10, 64); err == nil && id > 0 {
		c.userID = id
	}
	if exp.Type == gjson.Number {
		// Milliseconds (BLN 34), or a standard JWT's seconds, which stay below 1e11 until the year 5138.
		switch at := exp.Num; {
		case at > 1e11 && at < 1e15:
			c.expires = time.UnixMilli(int64(at))
		case at > 0 && at <= 1e11:
			c.expires = time.Unix(int64(at), 0)
		}
	}
	return c
}
