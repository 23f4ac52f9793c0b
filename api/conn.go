package api

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// Listener makes what l accepts cheaper to serve over HTTP/1. It is for plain
// TCP, and for servers that call Connected as their ConnContext.
//
// It takes two costs off each request that net/http can't avoid: setting half
// a dozen deadlines in the poller, and copying, sorting and checking a dozen
// headers that are constants or made here.
func Listener(l net.Listener) net.Listener { return listener{l} }

type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, read: deadline{set: c.SetReadDeadline}, write: deadline{set: c.SetWriteDeadline}}, nil
}

type connKey struct{}

// Connected is http.Server's ConnContext: handlers find the connection in the
// context of their requests.
func Connected(ctx context.Context, c net.Conn) context.Context {
	if own, ok := c.(*conn); ok {
		return context.WithValue(ctx, connKey{}, own)
	}
	return ctx
}

// connOf is the connection of a request over plain HTTP/1, or nil.
func connOf(r *http.Request) *conn {
	c, _ := r.Context().Value(connKey{}).(*conn)
	if c == nil || r.ProtoMajor != 1 {
		return nil
	}
	return c
}

// conn is one client's connection.
type conn struct {
	net.Conn
	read, write deadline
	// head holds header lines of the answer that is written next, each with its
	// end of line. Owned by the goroutine that serves the request.
	head []byte
}

// CloseWrite lets net/http end its side first, so that a client which still
// sends sees the answer.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// NetConn is the connection underneath.
func (c *conn) NetConn() net.Conn { return c.Conn }

func (c *conn) SetReadDeadline(t time.Time) error  { return c.read.want(t) }
func (c *conn) SetWriteDeadline(t time.Time) error { return c.write.want(t) }
func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.read.want(t), c.write.want(t))
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	for {
		if err := c.read.begin(); err != nil {
			return 0, err
		}
		n, err := c.Conn.Read(p)
		if early := c.read.end(err); n > 0 || !early {
			return n, err
		}
	}
}

// Write implements net.Conn. Lines in head go behind the status line, with
// which net/http begins to write an answer.
func (c *conn) Write(p []byte) (int, error) {
	if len(c.head) == 0 {
		return c.send(p)
	}
	line := bytes.IndexByte(p, '\n') + 1
	if line == 0 || !bytes.HasPrefix(p, []byte("HTTP/1.")) {
		return 0, errors.New("api: an answer does not begin with its status line")
	}
	joined := answers.Get().(*[]byte)
	b := append((*joined)[:0], p[:line]...)
	b = append(b, c.head...)
	b = append(b, p[line:]...)
	added := len(c.head)
	c.head = c.head[:0]
	n, err := c.send(b)
	if cap(b) <= largestKept {
		*joined = b
		answers.Put(joined)
	}
	return max(0, n-added), err
}

func (c *conn) send(p []byte) (sent int, err error) {
	for {
		if err := c.write.begin(); err != nil {
			return sent, err
		}
		n, err := c.Conn.Write(p[sent:])
		sent += n
		if early := c.write.end(err); !early {
			return sent, err
		}
	}
}

// deadline is one of a connection, set in the poller as seldom as can be: not
// when it moves, but when somebody waits under it, and then only if no earlier
// one is set. An earlier one that passes meanwhile is no failure: the waiting
// goes on under the right one.
type deadline struct {
	set func(time.Time) error

	mu     sync.Mutex
	due    time.Time // as asked for; zero: none; guarded by mu
	armed  time.Time // as set; zero: none; guarded by mu
	spent  bool      // what is set has passed; guarded by mu
	active bool      // somebody waits; guarded by mu
}

// want moves the deadline. Who waits under a later one is told at once.
func (d *deadline) want(t time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.due = t
	if d.active {
		return d.arm()
	}
	return nil
}

// arm sets the deadline unless one is set that is no later. The caller holds mu.
func (d *deadline) arm() error {
	if !d.spent && (d.due.IsZero() || !d.armed.IsZero() && !d.armed.After(d.due)) {
		return nil
	}
	d.spent, d.armed = false, d.due
	return d.set(d.due)
}

// begin is called before waiting.
func (d *deadline) begin() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.active = true
	return d.arm()
}

// end is called with what came of the waiting. It reports whether that was a
// deadline which is not due, so that the waiting must begin again.
func (d *deadline) end(err error) (early bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.active = false
	if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	d.spent = true
	return d.due.IsZero() || time.Now().Before(d.due)
}
