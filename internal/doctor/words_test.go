package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"namebridge/internal/httpapi"
)

// What goes wrong on the way to a server differs in its cure.
func TestEachReasonWhyNoAnswerCameHasItsOwnCure(t *testing.T) {
	t.Parallel()
	dial := func(err error) error { return &net.OpError{Op: "dial", Err: err} }
	for name, test := range map[string]struct {
		seen, failed error
		status       int
		text, cure   string
	}{
		"no such host":       {seen: dial(&net.DNSError{IsNotFound: true}), text: "not known (DNS)", cure: "NC_URL"},
		"DNS ill":            {seen: dial(&net.DNSError{}), text: "failed (DNS)", cure: "the DNS of this machine"},
		"another host":       {seen: &tls.CertificateVerificationError{Err: x509.HostnameError{Certificate: &x509.Certificate{}}}, text: "for another host", cure: "NC_URL"},
		"expired":            {seen: &tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Reason: x509.Expired}}, text: "expired", cure: "date"},
		"unknown authority":  {seen: &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}, text: "an authority", cure: "SSL_CERT_FILE"},
		"not accepted":       {seen: &tls.CertificateVerificationError{Err: errors.New("hunter2")}, text: "not accepted", cure: "NC_URL"},
		"no TLS":             {seen: tls.RecordHeaderError{}, text: "TLS", cure: "port"},
		"refused":            {seen: dial(os.NewSyscallError("connect", syscall.ECONNREFUSED)), text: "refused", cure: "NC_URL"},
		"no route":           {seen: dial(os.NewSyscallError("connect", syscall.EHOSTUNREACH)), text: "no way", cure: "network"},
		"reset":              {seen: os.NewSyscallError("read", syscall.ECONNRESET), text: "broke", cure: "firewall"},
		"silence":            {failed: context.DeadlineExceeded, text: "no answer within 20 s", cure: "firewall"},
		"nothing but 429":    {failed: context.DeadlineExceeded, status: 429, text: "429", cure: "what else"},
		"asked to wait":      {failed: &httpapi.Error{Err: &httpapi.PausedError{Until: time.Unix(0, 0)}}, status: 429, text: "until 00:00:00 UTC", cure: "what else"},
		"an answer, in fact": {failed: errors.New("hunter2"), status: 401},
	} {
		w := newWitness()
		w.err, w.status = test.seen, test.status
		e := &examination{Options: Options{Patience: 20 * time.Second}}
		text, cure, ok := e.unanswered(w, test.failed, "NC_URL")
		if ok != (test.text != "") || !strings.Contains(text, test.text) || !strings.Contains(cure, test.cure) || strings.Contains(text, "hunter2") {
			t.Errorf("%s: %v, %q → %q", name, ok, text, cure)
		}
	}
}

func TestEachReasonWhyTheDatabaseIsAwayHasItsOwnCure(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		err        error
		text, cure string
	}{
		"password":       {&pgconn.PgError{Code: "28P01", Message: "hunter2"}, "password", "DATABASE_URL"},
		"not let in":     {&pgconn.PgError{Code: "28000"}, "28000", "pg_hba.conf"},
		"no database":    {&pgconn.PgError{Code: "3D000"}, "no such database", "createdb"},
		"no CONNECT":     {&pgconn.PgError{Code: "42501"}, "may not connect", "GRANT CONNECT"},
		"full":           {&pgconn.PgError{Code: "53300"}, "no connection left", "max_connections"},
		"starting":       {&pgconn.PgError{Code: "57P03"}, "starting", "wait"},
		"a strict pool":  {&pgconn.PgError{Code: "08P01", Message: "unsupported startup parameter: jit"}, "pooler", "ignore_startup_parameters"},
		"something else": {&pgconn.PgError{Code: "XX000", Message: "hunter2"}, "XX000", "log"},
		"DNS":            {&net.DNSError{}, "DNS", "host in DATABASE_URL"},
		"certificate":    {x509.UnknownAuthorityError{}, "certificate", "sslrootcert"},
		"refused":        {os.NewSyscallError("connect", syscall.ECONNREFUSED), "refused", "start Postgres"},
		"silence":        {context.DeadlineExceeded, "within 20 s", "firewall"},
		"else":           {errors.New("hunter2"), "cannot be reached", "DATABASE_URL"},
	} {
		text, cure := Unreachable(fmt.Errorf("database: %w", test.err), 20*time.Second)
		if !strings.Contains(text, test.text) || !strings.Contains(cure, test.cure) || strings.Contains(text, "hunter2") {
			t.Errorf("%s: %q → %q", name, text, cure)
		}
	}
}

func TestAnOldPostgresIsToldByItsNumber(t *testing.T) {
	t.Parallel()
	for number, wanted := range map[int]Status{130012: Problem, 140000: OK, 180001: OK} {
		var got Finding
		e := &examination{report: func(f Finding) { got = f }}
		e.serverVersion(number, "x", time.Millisecond)
		if got.Status != wanted {
			t.Errorf("%d: %+v", number, got)
		}
	}
}

func TestLengthsAreShortAndHaveTheirUnit(t *testing.T) {
	t.Parallel()
	for d, wanted := range map[time.Duration]string{
		123 * time.Microsecond: "0.12 ms", 45 * time.Millisecond: "45 ms", -90 * time.Second: "90 s", 5 * time.Minute: "5 min", 3 * time.Hour: "3 h", 72 * time.Hour: "3 d",
	} {
		if got := length(d); got != wanted {
			t.Errorf("%v: %s, want %s", d, got, wanted)
		}
	}
}

func TestANameOfAServerFillsOneLine(t *testing.T) {
	t.Parallel()
	if got := plain("A\nB\x1b[31m\u202e" + strings.Repeat("x", 100)); strings.ContainsAny(got, "\n\x1b\u202e") || len([]rune(got)) != 81 {
		t.Errorf("%q", got)
	}
}

// Encryption that is only preferred protects from nobody who can act: it can be refused on the way.
func TestAPasswordThatMayGoOverANetworkAsItIsIsToldOf(t *testing.T) {
	t.Setenv("PGSSLMODE", "")
	for url, want := range map[string]bool{
		"postgres://u:p@db.example/x":                                   true,
		"postgres://u:p@db.example/x?sslmode=prefer":                    true,
		"postgres://u:p@db.example/x?sslmode=allow":                     true,
		"postgres://u:p@db.example/x?sslmode=disable":                   true,
		"postgres://u:p@db.example/x?sslmode=require":                   false,
		"postgres://u:p@db.example/x?sslmode=verify-full":               false,
		"postgres://u:p@localhost,db.example/x":                         true,
		"postgres://u:p@127.0.0.1,[::1]:5433/x":                         false,
		"postgres://u:p@localhost/x":                                    false,
		"postgres:///x?host=/var/run/postgresql&user=u":                 false,
		"postgres://u:p@db.example,other.example/x?sslmode=verify-full": false,
		"postgres://u:p@db.example,other.example/x?sslmode=disable":     true,
	} {
		c, err := pgconn.ParseConfig(url)
		if err != nil {
			t.Fatal(err)
		}
		if got := unencrypted(c); got != want {
			t.Errorf("%s: %t", url, got)
		}
	}
}
