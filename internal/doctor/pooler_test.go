package doctor_test

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"namebridge/internal/doctor"
	"namebridge/internal/simulator"
)

// pooler stands before a Postgres as a connection pooler in transaction mode does: it drops start-up parameters that it does not know, and what
// is notified reaches nobody.
func pooler(t *testing.T, to string) string {
	t.Helper()
	return between(t, to, pool)
}

// between is the URL of a database that is reached through carry.
func between(t *testing.T, to string, carry func(client net.Conn, to string) error) string {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	server := u.Host
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var under sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); under.Wait() })
	under.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			under.Go(func() {
				if err := carry(client, server); err != nil {
					t.Error(err)
				}
			})
		}
	})
	u.Host = l.Addr().String()
	return u.String()
}

func pool(client net.Conn, to string) error {
	defer func() { _ = client.Close() }()
	server, err := new(net.Dialer).DialContext(context.Background(), "tcp", to) // it ends with its client
	if err != nil {
		return err
	}
	defer func() { _ = server.Close() }()
	first, err := pgproto3.NewBackend(client, client).ReceiveStartupMessage()
	if err != nil {
		return err
	}
	start, ok := first.(*pgproto3.StartupMessage)
	if !ok { // to cancel a statement: there is nothing to change in it
		raw, err := first.Encode(nil)
		if err == nil {
			_, err = server.Write(raw)
		}
		return err
	}
	delete(start.Parameters, "jit")
	delete(start.Parameters, "idle_in_transaction_session_timeout")
	raw, err := start.Encode(nil)
	if err != nil {
		return err
	}
	if _, err := server.Write(raw); err != nil {
		return err
	}
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(server, client); _ = server.Close() })
	defer both.Wait()
	defer func() { _ = client.Close() }()
	head := make([]byte, 5)
	for {
		if _, err := io.ReadFull(server, head); err != nil {
			return nil // one of the two has hung up
		}
		body := make([]byte, int(head[1])<<24|int(head[2])<<16|int(head[3])<<8|int(head[4])-4)
		if _, err := io.ReadFull(server, body); err != nil {
			return errors.New("a message breaks off")
		}
		if head[0] == 'A' { // NotificationResponse
			continue
		}
		if _, err := client.Write(slices.Concat(head, body)); err != nil {
			return nil // the client has hung up
		}
	}
}

func TestAPoolerThatSharesSessionsIsFoundOut(t *testing.T) {
	t.Parallel()
	p := newPlace(t, simulator.Options{})
	p.env["DATABASE_URL"] = pooler(t, p.env["DATABASE_URL"])
	expect(t, p.look(t, t.Context()),
		want{doctor.Warning, doctor.Sessions, "idle_in_transaction_session_timeout is 0, not 12s; jit is on, not off", "ALTER ROLE"},
		want{doctor.Problem, doctor.Sessions, "LISTEN and NOTIFY do not work", "session mode"},
	)
}

func TestADatabaseIsFarAwayOnlyWhereItAlwaysIs(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		slow   int64 // so many times something comes late
		wanted []want
	}{
		"always":                       {math.MaxInt64, []want{{doctor.Warning, doctor.Database, "to ask the database anything", "in the same network"}}},
		"while a machine stands still": {12, nil}, // of which five would be questions
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t, simulator.Options{})
			p.o.Patience = time.Minute
			var left atomic.Int64
			left.Store(c.slow)
			p.env["DATABASE_URL"] = between(t, p.env["DATABASE_URL"], func(client net.Conn, to string) error {
				defer func() { _ = client.Close() }()
				server, err := new(net.Dialer).DialContext(t.Context(), "tcp", to)
				if err != nil {
					return err
				}
				var both sync.WaitGroup
				both.Go(func() { _, _ = io.Copy(server, client); _ = server.Close() })
				defer both.Wait()
				defer func() { _ = client.Close() }()
				answer := make([]byte, 1<<16)
				for {
					n, err := server.Read(answer)
					if err != nil {
						return nil // one of the two has hung up
					}
					if left.Add(-1) >= 0 {
						time.Sleep(60 * time.Millisecond)
					}
					if _, err := client.Write(answer[:n]); err != nil {
						return nil
					}
				}
			})
			expect(t, p.look(t, t.Context()), c.wanted...)
		})
	}
}
