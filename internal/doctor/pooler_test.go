package doctor_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"slices"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"namebridge/internal/doctor"
	"namebridge/internal/simulator"
)

// pooler stands before a Postgres as a connection pooler in transaction mode does: it drops start-up parameters that it does not know, and what
// is notified reaches nobody.
func pooler(t *testing.T, to string) string {
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
				if err := pool(client, server); err != nil {
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
