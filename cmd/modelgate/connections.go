package main

import (
	"errors"
	"math"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"modelgate/api"
)

const (
	// restGrace is how long after an answer a connection counts as idle: who has
	// just read one is likely to ask again.
	restGrace = 100 * time.Millisecond
	// newGrace is how long a connection may be new before it counts as idle, over
	// HTTP/1 and in a handshake.
	newGrace = 5 * time.Second
	// lookAgain is how soon who waits for a place looks again for idle ones.
	lookAgain = 250 * time.Millisecond
)

// connBounds bounds the connections of a port. Without it a flood of them takes
// every descriptor that the process may have, and with them the database, the
// audit log and the models' processes.
//
// Where all places are taken, or all that one address may have, the connection
// that has been idle longest makes room for who comes; over HTTP/2 too, where
// net/http would let it stay for minutes. Where none is idle, who comes waits
// for a place, and is refused if it is its own address that has too many.
type connBounds struct {
	most    int                   // at once
	each    int                   // of them, from one address; most or more: no bound of its own
	trusted func(netip.Addr) bool // addresses that each does not bind: of proxies
	freed   chan struct{}         // holds an element after a connection has ended
	open    prometheus.GaugeFunc
	cut     *prometheus.CounterVec // by reason

	mu    sync.Mutex
	conns map[*boundedConn]struct{} // guarded by mu
	from  map[netip.Prefix]held     // what each address has of conns; guarded by mu
}

// held is what one address has.
type held struct {
	n int // connections
	// busyTo: until then none of them is taken to be idle, as elapsed tells it. To
	// look at all of them costs ten times what it costs to refuse one more.
	busyTo int64
}

func newConnBounds(port string, most, each int, trusted func(netip.Addr) bool) *connBounds {
	b := &connBounds{most: most, each: each, trusted: trusted, freed: make(chan struct{}, 1),
		conns: map[*boundedConn]struct{}{}, from: map[netip.Prefix]held{}}
	label := prometheus.Labels{"port": port}
	b.open = prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "modelgate_connections", Help: "Open connections of clients, by the setting that names the port.", ConstLabels: label,
	}, func() float64 { return float64(b.count()) })
	b.cut = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "modelgate_connections_cut_total", ConstLabels: label,
		Help: "Connections closed for lack of places: idle ones that made room (idle), and new ones of an address that has all it may (address).",
	}, []string{"reason"})
	for _, reason := range []string{"idle", "address"} {
		b.cut.WithLabelValues(reason) // a rise from nothing to 1 would not be seen
	}
	return b
}

func (b *connBounds) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.conns)
}

// follow learns from the server which connections are idle. Call it before the
// server serves.
func (b *connBounds) follow(server *http.Server) {
	server.ConnState = func(c net.Conn, state http.ConnState) {
		own := boundedUnder(c)
		if own == nil {
			return
		}
		switch state {
		case http.StateActive:
			own.idleFrom.Store(inUse)
		case http.StateIdle:
			own.idleFrom.Store(elapsed() + int64(restGrace))
		}
	}
}

// boundedUnder finds the connection under those that TLS and api make of it.
func boundedUnder(c net.Conn) *boundedConn {
	for {
		switch layer := c.(type) {
		case *boundedConn:
			return layer
		case interface{ NetConn() net.Conn }:
			c = layer.NetConn()
		default:
			return nil
		}
	}
}

// enter gives c a place, and closes an idle connection for it if it must. It
// waits while there is none, until closed is.
func (b *connBounds) enter(c *boundedConn, closed <-chan struct{}) error {
	var tick <-chan time.Time
	for {
		victim, err := b.admit(c)
		switch {
		case victim != nil:
			b.cut.WithLabelValues("idle").Inc()
			victim.Close()
			continue
		case err == nil:
			return nil
		case errors.Is(err, errAddressFull):
			b.cut.WithLabelValues("address").Inc()
			return err
		}
		if tick == nil {
			ticker := time.NewTicker(lookAgain)
			defer ticker.Stop()
			tick = ticker.C
		}
		select {
		case <-b.freed:
		case <-tick:
		case <-closed:
			return net.ErrClosed
		}
	}
}

var (
	errAddressFull = errors.New("an address has as many connections as it may")
	errFull        = errors.New("all connections are taken")
)

// admit counts c if there is a place for it. Else it names the connection that
// is to make room, or says what there is too much of.
func (b *connBounds) admit(c *boundedConn) (victim *boundedConn, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	full, has, now := errFull, b.from[c.address], elapsed()
	if !c.trusted && b.each < b.most && has.n >= b.each {
		if full = errAddressFull; now < has.busyTo {
			return nil, full
		}
	} else if len(b.conns) < b.most {
		has.n++
		b.conns[c], b.from[c.address] = struct{}{}, has
		return nil, nil
	}
	longest := now
	for other := range b.conns {
		if full == errAddressFull && other.address != c.address {
			continue
		}
		if since := other.idleFrom.Load(); since <= longest {
			longest, victim = since, other
		}
	}
	if victim == nil && full == errAddressFull {
		has.busyTo = now + int64(restGrace)
		b.from[c.address] = has
	}
	return victim, full
}

// leave gives the place of c back.
func (b *connBounds) leave(c *boundedConn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, in := b.conns[c]; !in {
		return
	}
	delete(b.conns, c)
	has := b.from[c.address]
	if has.n--; has.n == 0 {
		delete(b.from, c.address)
	} else {
		b.from[c.address] = has
	}
	select {
	case b.freed <- struct{}{}:
	default:
	}
}

// boundedListener leaves connections beyond the bound in the kernel's queue, but
// for one that waits here.
type boundedListener struct {
	net.Listener
	bounds *connBounds
	once   sync.Once
	closed chan struct{}
}

func newBoundedListener(l net.Listener, b *connBounds) *boundedListener {
	return &boundedListener{Listener: l, bounds: b, closed: make(chan struct{})}
}

// Accept implements net.Listener.
func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		inner, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := l.bounds.conn(inner)
		err = l.bounds.enter(c, l.closed)
		if err == nil {
			return c, nil
		}
		inner.Close()
		if !errors.Is(err, errAddressFull) {
			return nil, err
		}
	}
}

// Close implements net.Listener.
func (l *boundedListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// started is where elapsed begins.
var started = time.Now()

// elapsed is the time in nanoseconds. It is read after each request, and
// cheaper than time.Now.
func elapsed() int64 { return int64(time.Since(started)) }

// inUse is the idleFrom of a connection on which something is asked.
const inUse = math.MaxInt64

// boundedConn gives its place back when it is closed.
type boundedConn struct {
	net.Conn
	bounds   *connBounds
	address  netip.Prefix // of the client
	trusted  bool         // the address has no bound
	idleFrom atomic.Int64 // when it counts as idle, as elapsed tells it
}

func (b *connBounds) conn(inner net.Conn) *boundedConn {
	c := &boundedConn{Conn: inner, bounds: b}
	c.idleFrom.Store(elapsed() + int64(newGrace))
	if peer, ok := inner.RemoteAddr().(*net.TCPAddr); ok {
		a := peer.AddrPort().Addr().Unmap()
		c.address, c.trusted = api.HostNetwork(a), b.trusted(a.WithZone(""))
	}
	return c
}

// Close implements net.Conn.
func (c *boundedConn) Close() error {
	err := c.Conn.Close()
	c.bounds.leave(c)
	return err
}

// CloseWrite lets the server end its side first, as a TCP connection does.
func (c *boundedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}
