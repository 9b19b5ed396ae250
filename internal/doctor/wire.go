package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"sync"
	"syscall"

	"namebridge/internal/httpapi"
)

// witness is a transport that remembers what became of the last request: the clients' errors tell people what happened, and here it has to be
// told which cure goes with it. What asking again would not mend ends the look at once.
type witness struct {
	base http.RoundTripper

	mu     sync.Mutex
	err    error // nil where an answer came
	status int
	give   context.CancelFunc
}

func newWitness() *witness {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	return &witness{base: t}
}

// RoundTrip sends one request.
func (w *witness) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := w.base.RoundTrip(r)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err == nil:
		w.err, w.status = nil, res.StatusCode
	case !errors.Is(err, context.Canceled):
		w.err, w.status = err, 0
		if w.give != nil && final(err) {
			w.give()
		}
	}
	return res, err
}

// close ends the connections that are kept for further requests.
func (w *witness) close() { w.base.(*http.Transport).CloseIdleConnections() }

// watch is a context that ends with what asking again would not mend.
func (w *witness) watch(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err, w.status, w.give = nil, 0, cancel
	return ctx, cancel
}

func (w *witness) seen() (status int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.status, w.err
}

// final tells that the same request would fail in the same way a moment later.
func final(err error) bool {
	var (
		dns    *net.DNSError
		verify *tls.CertificateVerificationError
		plain  tls.RecordHeaderError
	)
	return errors.As(err, &dns) && dns.IsNotFound || errors.As(err, &verify) || errors.As(err, &plain) || errors.Is(err, syscall.ECONNREFUSED)
}

// unanswered says why no answer came to a request, and what to do; false where one came. variable names the URL.
func (e *examination) unanswered(w *witness, failed error, variable string) (text, cure string, ok bool) {
	status, err := w.seen()
	var (
		dns       *net.DNSError
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
		verify    *tls.CertificateVerificationError
		plainText tls.RecordHeaderError
		timeout   net.Error
		paused    *httpapi.PausedError
	)
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return "the name of its host is not known (DNS)", "correct " + variable + ", or the DNS of this machine", true
	case errors.As(err, &dns):
		return "looking up the name of its host failed (DNS)", "mend the DNS of this machine, then run this again", true
	case errors.As(err, &authority):
		return "its certificate is signed by an authority that this machine does not know",
			"where a proxy of yours opens TLS, give this machine the proxy's certificate (SSL_CERT_FILE); else correct " + variable +
				": it may be somebody else who answers", true
	case errors.As(err, &host):
		return "its certificate is for another host", "correct " + variable + ": it may be somebody else who answers", true
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "its certificate has expired, or is not valid yet", "check the date of this machine; if it is right, tell who runs that server", true
	case errors.As(err, &verify):
		return "its certificate is not accepted", "tell who runs that server, or correct " + variable, true
	case errors.As(err, &plainText):
		return "it does not speak TLS", "correct the port in " + variable, true
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there: connection refused", "correct " + variable + ", or open the firewall on the way", true
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "there is no way to its host", "check the network of this machine, and its proxy (HTTPS_PROXY)", true
	case errors.As(failed, &paused):
		return "it asks everybody who uses this account to wait until " + paused.Until.UTC().Format("15:04:05 MST"),
			"wait until then, then run this again; see what else uses the account", true
	case errors.Is(failed, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		if status == http.StatusTooManyRequests {
			return "it answers nothing but 429: somebody else uses up what this account may ask",
				"see what else uses the account, then run this again", true
		}
		if status >= http.StatusInternalServerError {
			return "", "", false // that it fails is what there is to tell, not that it was asked again and again
		}
		return "no answer within " + length(e.Patience), "correct " + variable + ", or open the firewall on the way", true
	case err != nil:
		return "the connection broke", "run this again; if it stays, look at the proxy or firewall on the way", true
	}
	return "", "", false
}

// failedWith is the status of what failed with err: where time ran out, that of the failing answers before. 0: none.
func (w *witness) failedWith(err error) int {
	status := statusOf(err)
	if seen, _ := w.seen(); status == 0 && seen >= http.StatusInternalServerError {
		return seen
	}
	return status
}

// statusOf is the status of the answer that failed; 0 where there was none.
func statusOf(err error) int {
	if answer, ok := errors.AsType[*httpapi.Error](err); ok {
		return answer.Status
	}
	return 0
}
