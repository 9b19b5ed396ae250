package httpapi

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"
)

// maxMessage is how much of an API's own message an error keeps, in bytes.
const maxMessage = 200

// Error is every failure of a request: no usable answer, or one other than 2xx.
// None of its parts holds a credential, a person's address, a URL or an upstream body.
type Error struct {
	API, Endpoint, Method string

	Status int // of the answer; 0: no answer came, or it broke off
	// Code is the API's own error code, where its JSON had a "code" of 1 to 40 letters.
	Code string
	// Message is the API's own message, for people to read: at most 200 bytes, without control characters,
	// anything like an address or token, and whatever the request itself sent, replaced by "…".
	Message string
	// RetryAfter is how long the server asked us to wait, 15 minutes at most; 0 where it did not.
	RetryAfter time.Duration
	// Err is the cause where there was no answer; never a *url.Error. Context errors, ErrTooLarge, ErrLate,
	// io.ErrUnexpectedEOF and a syscall.Errno are found in it by errors.Is, a *PausedError by errors.As.
	Err error
	// Unknown tells that the request may have been carried out: it was sent and no usable answer came
	// (timeout, reset, 5xx, a redirect of what is not repeatable).
	Unknown bool
}

func (e *Error) Error() string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s %s (%s)", e.API, e.Endpoint, e.Method)
	if e.Status != 0 {
		fmt.Fprintf(&s, ": answered %d %s", e.Status, http.StatusText(e.Status))
	}
	for _, part := range []string{e.Code, e.Message} {
		if part != "" {
			s.WriteString(": " + part)
		}
	}
	if e.Err != nil {
		s.WriteString(": " + e.Err.Error())
	}
	if e.Unknown {
		s.WriteString(" (outcome unknown)")
	}
	return s.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// ErrLate is the cause where a request could not leave by its NotAfter, or while it was allowed to (see Client.While).
var ErrLate = errors.New("it could not leave in time")

// PausedError is the cause where the server lets nobody's requests leave (a 429, Retry-After, a used-up budget), or so few,
// that this one would have to wait for longer than Options.Patience. It was not carried out, or may safely be sent again.
// Waiting for one's turn at the pace of Options is no such thing. Requests with a NotAfter never fail with it.
type PausedError struct {
	Until time.Time // when to try again; others may be first then
}

func (e *PausedError) Error() string {
	return "paused by the server until " + e.Until.UTC().Format(time.RFC3339)
}

var (
	errCertificate = errors.New("the server's certificate is not accepted")
	errRequest     = errors.New("the request cannot be built")
)

// again tells whether sending the request once more is safe and may help.
func (e *Error) again(repeat bool) bool {
	if _, paused := errors.AsType[*PausedError](e.Err); paused {
		return false
	}
	switch {
	case errors.Is(e.Err, ErrTooLarge), errors.Is(e.Err, errCertificate), errors.Is(e.Err, errRequest), errors.Is(e.Err, ErrLate):
		return false
	case e.Status == 0 && !e.Unknown: // it never left
		return true
	}
	return repeat && e.Unknown
}

// cause tells what went wrong in words of our own. The texts of net/http's errors are not ours to pass
// on: they quote what the server sent (malformed headers), proxies with their passwords, and URLs.
func cause(attempt context.Context, err error) error {
	if errors.Is(context.Cause(attempt), errSilent) {
		return errSilent
	}
	if errors.Is(context.Cause(attempt), ErrLate) || errors.Is(err, ErrLate) {
		return ErrLate
	}
	if ended := attempt.Err(); ended != nil {
		return ended
	}
	var (
		errno     syscall.Errno
		dns       *net.DNSError
		verify    *tls.CertificateVerificationError
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
		timeout   net.Error
	)
	switch {
	case errors.Is(err, ErrTooLarge):
		return ErrTooLarge
	case errors.As(err, &dns) && dns.IsNotFound:
		return errors.New("the server's name is not known (no such host)")
	case errors.As(err, &dns):
		return errors.New("looking up the server's name failed")
	case errors.As(err, &authority):
		return fmt.Errorf("%w: signed by an unknown authority", errCertificate)
	case errors.As(err, &host):
		return fmt.Errorf("%w: it is for another host", errCertificate)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("%w: it has expired or is not yet valid", errCertificate)
	case errors.As(err, &verify), errors.As(err, &invalid):
		return errCertificate
	case errors.As(err, &errno) && isDial(err):
		return fmt.Errorf("no connection: %w", errno)
	case errors.As(err, &errno):
		return fmt.Errorf("the connection broke: %w", errno)
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return errors.New("timed out")
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return fmt.Errorf("the answer broke off: %w", io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("no usable answer (%T)", err)
}

// isDial tells that no connection came about.
func isDial(err error) bool {
	var (
		op  *net.OpError
		dns *net.DNSError
	)
	return errors.As(err, &op) && op.Op == "dial" || errors.As(err, &dns)
}

var (
	codeLike = regexp.MustCompile(`^[a-zA-Z]{1,40}$`)
	// plainWord is what a message may say: words, property names and short numbers. Everything else could
	// be an address, a token or a telephone number.
	plainWord = regexp.MustCompile(`^[("'\x60‘“\[]*(\p{L}{1,24}([-_./'’]\p{L}{1,24}){0,5}|\d{1,6}|[-–—&/:])[)"'\x60’”\].,:;!?]*$`)
)

// readRefusal reads what both documents promise of an error body: "message", BLN's "code", NameCoach's
// "errors" (property → texts). Proxies keep no promises: anything else gives nothing.
func readRefusal(text []byte, secrets []string) (code, message string) {
	var answer struct {
		Code    json.RawMessage            `json:"code"`
		Message json.RawMessage            `json:"message"`
		Errors  map[string]json.RawMessage `json:"errors"`
	}
	// An "errors" of another shape leaves the other two filled in.
	var shape *json.UnmarshalTypeError
	if err := json.Unmarshal(text, &answer); err != nil && !errors.As(err, &shape) {
		return "", ""
	}
	if json.Unmarshal(answer.Code, &code) != nil || !codeLike.MatchString(code) || slices.Contains(secrets, code) {
		code = ""
	}
	if json.Unmarshal(answer.Message, &message) != nil {
		message = ""
	}
	for _, property := range slices.Sorted(maps.Keys(answer.Errors)) {
		var texts []string
		if json.Unmarshal(answer.Errors[property], &texts) == nil && len(texts) > 0 {
			message += "; " + property + " " + strings.Join(texts, ", ")
		}
	}
	return code, redact(strings.TrimPrefix(message, "; "), secrets)
}

// redact keeps the plain words of a message, in maxMessage bytes.
func redact(message string, secrets []string) string {
	for _, s := range secrets {
		message = strings.ReplaceAll(message, s, "…")
	}
	words := strings.FieldsFunc(message, func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r) || r == utf8.RuneError
	})
	for i, w := range words {
		if !plainWord.MatchString(w) {
			words[i] = "…"
		}
	}
	message = strings.Join(slices.CompactFunc(words, func(a, b string) bool { return a == "…" && b == "…" }), " ")
	if len(message) > maxMessage {
		cut := maxMessage - len("…")
		for !utf8.RuneStart(message[cut]) {
			cut--
		}
		message = message[:cut] + "…"
	}
	return message
}

// secrets lists what a request sends that its refusal could echo: header values and every
// string value in its body (a password, a recording, a person's address).
func secrets(r Request) []string {
	var all []string
	add := func(s string) {
		if len(s) >= 4 { // shorter ones would only tear words apart
			all = append(all, s)
		}
	}
	for name, values := range r.Header {
		if name == "Accept" || name == "Content-Type" {
			continue
		}
		for _, v := range values {
			add(v)
			if _, token, ok := strings.Cut(v, " "); ok { // "Bearer …"
				add(token)
			}
		}
	}
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case string:
			add(v)
		case []any:
			for _, v := range v {
				walk(v)
			}
		case map[string]any:
			for _, v := range v {
				walk(v)
			}
		}
	}
	var sent any
	if json.Unmarshal(r.Body, &sent) == nil {
		walk(sent)
	}
	slices.SortFunc(all, func(a, b string) int { return len(b) - len(a) }) // a part of a secret must not hide the whole
	return all
}
