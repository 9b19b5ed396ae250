package simulator

import (
	"compress/gzip"
	"io"
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// exchange is one request and its answer.
type exchange struct {
	s      *Simulator
	o      *Options // as they were when the request came
	r      *http.Request
	w      *answer
	api    string // "namecoach" or "bln"
	seen   *Request
	fault  fault
	isPut  bool
	cutoff int
}

type fault int

const (
	noFault fault = iota
	fault5xx
	fault5xxApplied
	fault429
	faultReset
	faultTruncateBroken
	faultTruncateClean
	faultSlow
	faultApplied
)

// handle wraps a handler in all that a request goes through before it: counting, hooks, latency, limits, faults.
func (s *Simulator) handle(api, name string, serve func(*exchange)) http.HandlerFunc {
	usual := api + " " + name
	return func(w http.ResponseWriter, r *http.Request) {
		o, endpoint := s.options(), usual
		if endpoint == "bln users.list" { // one path, three questions
			switch v := r.URL.Query(); {
			case v.Has("search"):
				endpoint = "bln users.search"
			case v.Has("query"):
				endpoint = "bln users.query"
			}
		}
		e := &exchange{s: s, o: o, r: r, api: api, isPut: endpoint == "bln users.put"}
		n := e.arrived(endpoint)
		if o.OnRequest != nil {
			o.OnRequest(s, endpoint, n)
			o = s.options()
			e.o = o
		}
		latency := o.NameCoachLatency
		if api == "bln" {
			latency = o.BLNLatency
		}
		pause(r.Context(), latency)
		s.world.settle(o.nameCoachNow())

		e.drawFault()
		e.w = newAnswer(e, w)
		e.w.Header().Set("Date", e.now().Format(http.TimeFormat))
		defer e.w.finish()
		if !e.withinLimit() {
			return
		}
		switch e.fault {
		case fault5xx:
			e.serverError()
			return
		case fault429:
			e.tooMany(time.Second)
			return
		case faultReset:
			e.w.code = -1
			return
		case fault5xxApplied, faultApplied:
			e.w.muted = true // the work is done, the answer never leaves
			serve(e)
			e.w.muted = false
			e.w.code = 0
			e.w.Header().Del("Content-Type")
			if e.fault == fault5xxApplied {
				e.serverError()
				return
			}
			pause(r.Context(), o.Faults.Hang)
			e.w.code = -1
			return
		}
		serve(e)
	}
}

// now is the time on the clock of the server that answers.
func (e *exchange) now() time.Time {
	if e.api == "bln" {
		return e.o.blnNow()
	}
	return e.o.nameCoachNow()
}

// drawFault decides what goes wrong with this request, from the seed.
func (e *exchange) drawFault() {
	f := e.o.Faults
	e.s.mu.Lock()
	u, coin, size := e.s.dice.Float64(), e.s.dice.IntN(2) == 0, e.s.dice.Float64()
	e.s.mu.Unlock()
	for _, c := range []struct {
		share       float64
		heads, tail fault
	}{
		{f.P5xx, fault5xx, fault5xxApplied},
		{f.P429, fault429, fault429},
		{f.PReset, faultReset, faultReset},
		{f.PTruncate, faultTruncateBroken, faultTruncateClean},
		{f.PSlow, faultSlow, faultSlow},
		{f.PAppliedThenTimeout, faultApplied, faultApplied},
	} {
		if u >= c.share {
			u -= c.share
			continue
		}
		e.fault = c.tail
		if coin {
			e.fault = c.heads
		}
		break
	}
	if !e.isPut {
		switch e.fault {
		case fault5xxApplied:
			e.fault = fault5xx
		case faultApplied:
			e.fault = noFault
		}
	}
	// Small cuts are likelier than big ones, so that short answers are hit as well.
	e.cutoff = int(math.Pow(20_000, size))
}

func (e *exchange) serverError() {
	e.s.mu.Lock()
	code := []int{500, 502, 503, 504}[e.s.dice.IntN(4)]
	e.s.mu.Unlock()
	if code == http.StatusBadGateway { // a proxy's page: errors promise JSON, proxies do not keep promises
		e.w.Header().Set("Content-Type", "text/html")
		e.w.WriteHeader(code)
		e.w.writeString("<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>")
		return
	}
	e.refuse(code)
}

// refuse answers with the API's own form of an error for that status.
func (e *exchange) refuse(status int) {
	if e.api == "namecoach" {
		e.nameCoachError(status, map[int]string{401: "Not Authorized", 404: "Not Found", 429: "Too Many Requests"}[status])
		return
	}
	e.blnError(status, "")
}

// tooMany answers 429.
func (e *exchange) tooMany(wait time.Duration) {
	seconds := int(math.Ceil(wait.Seconds()))
	switch e.o.RetryAfter {
	case RetryAfterSeconds:
		e.w.Header().Set("Retry-After", strconv.Itoa(seconds))
	case RetryAfterDate:
		e.w.Header().Set("Retry-After", e.now().Add(time.Duration(seconds)*time.Second).Format(http.TimeFormat))
	}
	e.refuse(http.StatusTooManyRequests)
}

// answer is the ResponseWriter of an exchange: it compresses, cuts short and dawdles as told, and remembers the status.
type answer struct {
	e     *exchange
	to    http.ResponseWriter
	gz    *gzip.Writer
	code  int // 0: nothing yet; -1: there will be none, and finish breaks the connection
	sent  int
	muted bool
	slow  bool
}

func newAnswer(e *exchange, w http.ResponseWriter) *answer {
	a := &answer{e: e, to: w, slow: e.fault == faultSlow}
	if e.o.Gzip && strings.Contains(e.r.Header.Get("Accept-Encoding"), "gzip") {
		w.Header().Set("Content-Encoding", "gzip")
		a.gz = gzip.NewWriter(writerFunc(a.pass))
	}
	return a
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func (a *answer) Header() http.Header { return a.to.Header() }

func (a *answer) WriteHeader(code int) {
	a.code = code
	if !a.muted {
		a.to.WriteHeader(code)
	}
}

func (a *answer) Write(b []byte) (int, error) {
	if a.code == 0 {
		a.WriteHeader(http.StatusOK)
	}
	if a.muted {
		return len(b), nil
	}
	if a.gz != nil {
		return a.gz.Write(b)
	}
	return a.pass(b)
}

// pass sends bytes as they go over the wire.
func (a *answer) pass(b []byte) (int, error) {
	whole := len(b)
	if a.e.fault == faultTruncateBroken || a.e.fault == faultTruncateClean {
		if left := a.e.cutoff - a.sent; left < len(b) {
			b = b[:max(left, 0)]
		}
	}
	if a.slow && len(b) > 1 {
		a.slow = false
		n, err := a.to.Write(b[:len(b)/2])
		if err != nil {
			return n, err
		}
		if err := http.NewResponseController(a.to).Flush(); err != nil {
			return n, err
		}
		pause(a.e.r.Context(), a.e.o.Faults.Slow)
		b = b[len(b)/2:]
		a.sent += n
	}
	n, err := a.to.Write(b)
	a.sent += n
	if err != nil {
		return n, err
	}
	return whole, nil
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 64<<10); return &b }}

// send writes what fill appends, in pieces: flush sends what there is when that is much.
func (a *answer) send(fill func(b []byte, flush func([]byte) []byte) []byte) {
	buffer := buffers.Get().(*[]byte)
	b := fill((*buffer)[:0], func(b []byte) []byte {
		if len(b) < 48<<10 {
			return b
		}
		_, _ = a.Write(b) // the client may have gone: nobody is left to tell
		return b[:0]
	})
	_, _ = a.Write(b)
	*buffer = b
	buffers.Put(buffer)
}

func (a *answer) writeString(s string) {
	// The client may have gone: nobody is left to tell.
	_, _ = io.WriteString(a, s)
}

func (a *answer) finish() {
	if a.code == 0 {
		a.WriteHeader(http.StatusOK)
	}
	if a.gz != nil && a.code > 0 {
		_ = a.gz.Close() // as above
	}
	broken := a.e.fault == faultTruncateBroken && a.sent >= a.e.cutoff
	label := strconv.Itoa(a.code)
	if a.code < 0 || broken {
		label = "none"
	}
	a.e.s.mu.Lock()
	a.e.s.answers[a.e.api+" "+label]++
	if label != "none" {
		a.e.seen.Status = a.code
	}
	a.e.s.mu.Unlock()
	// What the client sees comes after the counting: who asks for the counts then finds itself in them.
	if a.code < 0 {
		a.reset()
	}
	if broken {
		// The bytes so far must be on the wire, so that the client sees a body that stops rather than no answer.
		_ = http.NewResponseController(a.to).Flush()
		panic(http.ErrAbortHandler)
	}
}

// reset breaks the connection without an answer.
func (a *answer) reset() {
	conn, _, err := http.NewResponseController(a.to).Hijack()
	if err != nil { // HTTP/2 has no connection to take
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // close with a reset; where that fails it is a plain close
	}
	_ = conn.Close()
}
