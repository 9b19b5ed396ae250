package httpapi

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// A process may stand still between any two of its instructions, for as long as it takes: stopped, or on a machine that sleeps. Timers
// then go off too late, beside whoever goes on. So whether a request may still leave is asked by the clock, and once more at the
// connection, when its first byte is to be written: what comes between that and the byte is as little as there can be.

// departure is a connection that asks whoever uses it next, before the first byte.
type departure struct {
	net.Conn
	may atomic.Pointer[func() bool]
}

func (d *departure) Write(b []byte) (int, error) {
	if may := d.may.Swap(nil); may != nil && !(*may)() {
		return 0, ErrLate
	}
	return d.Conn.Write(b)
}

// departing makes a dialler's connections ask.
func departing(dial func(ctx context.Context, network, address string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &departure{Conn: conn}, nil
	}
}

// oneRequestEach is HTTP/1: of HTTP/2 all requests share a connection, and none has a first byte of its own.
var oneRequestEach = func() *http.Protocols {
	var p http.Protocols
	p.SetHTTP1(true)
	return &p
}()

// ask has may asked before the next byte leaves on a connection.
func ask(conn net.Conn, may func() bool) {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	if d, ok := conn.(*departure); ok {
		d.may.Store(&may)
	}
}

// mayLeave says whether a request may leave now, by whichever clock says less: the monotonic one stands still while a machine sleeps.
func (c *Client) mayLeave(r Request) bool {
	now := time.Now()
	if !r.NotAfter.IsZero() && (now.After(r.NotAfter) || now.Round(0).After(r.NotAfter.Round(0))) {
		return false
	}
	return c.may == nil || c.may()
}
