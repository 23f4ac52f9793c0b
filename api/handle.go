package api

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/go-json-experiment/json"

	"modelgate/api/oipgrpc"
	"modelgate/auth"
)

// handler answers one call, or fails with an error that refuse maps.
type handler func(*call) error

// none is the answer of routes that have nothing to say: 204.
type none struct{}

// plain adapts a function that takes nothing from the body. What the body
// holds is left unread.
func plain[O any](f func(*call) (O, error)) handler {
	return func(c *call) error {
		out, err := f(c)
		if err != nil {
			return err
		}
		return c.reply(out)
	}
}

// bound adapts a function over a JSON body of at most limit bytes.
func bound[I, O any](limit int64, f func(*call, *I) (O, error)) handler {
	return func(c *call) error {
		in := new(I)
		if err := c.bind(in, limit); err != nil {
			return err
		}
		out, err := f(c, in)
		if err != nil {
			return err
		}
		return c.reply(out)
	}
}

// optional is bound for a body that may be left out, which is the zero value.
func optional[I, O any](limit int64, f func(*call, *I) (O, error)) handler {
	with, without := bound(limit, f), plain(func(c *call) (O, error) { return f(c, new(I)) })
	return func(c *call) error {
		if c.gin.Request.ContentLength == 0 {
			return without(c)
		}
		return with(c)
	}
}

// call is one request on its way. It belongs to the goroutine that serves the
// request, and is used again for others afterwards.
type call struct {
	s       *Server
	rt      *route
	gin     *gin.Context
	conn    *conn // nil: over TLS, or HTTP/2
	id      string
	address string
	who     auth.Principal
	start   time.Time
	path    string // as sent; for nothing but the style of errors
	status  int
	err     error    // what the answer refuses, for the log
	headers []header // of the answer; their memory is used again

	bodyRead bool // to its end
}

var calls = sync.Pool{New: func() any { return new(call) }}

// serve is the whole way of one request: the same steps in the same order for
// every route.
func (s *Server) serve(rt *route) gin.HandlerFunc {
	return func(g *gin.Context) {
		c := calls.Get().(*call)
		*c = call{s: s, rt: rt, gin: g, id: newID(), start: time.Now(), path: g.Request.URL.Path, headers: c.headers[:0]}
		c.conn = connOf(g.Request)
		c.address = s.proxies.client(g.Request)
		c.standardHeaders()
		c.shareWithOrigin()
		defer c.finish()
		if endsConnection(g.Request) {
			g.Writer.Header()["Connection"] = []string{"close"}
		}
		if g.Request.ContentLength != 0 && !rt.rpc { // -1: chunks; calls of gRPC have it from their server
			// Also of a body that nobody will read: before it sends the answer,
			// net/http waits for what is left of a small one.
			c.readUntil(c.start.Add(s.bodyGrace))
		}
		if c.err = c.admit(); c.err == nil {
			c.err = rt.handle(c)
		}
		if c.err != nil {
			c.fail(c.err)
		}
	}
}

// endsConnection reports whether a request may hold what a proxy in front
// frames otherwise: then nothing that follows on its connection is believed.
// It is so of chunks beside a length (RFC 9112 section 6.1) and of chunks in
// HTTP/1.0, both of which net/http takes in silence; hence of all chunks, and
// of HTTP/1.0.
func endsConnection(r *http.Request) bool {
	return r.ProtoMajor == 1 && (r.ProtoMinor == 0 || len(r.TransferEncoding) > 0)
}

// admit does what comes before a body is looked at: the form of the request,
// who asks, whether he may, and the rate of his address.
func (c *call) admit() error {
	r := c.gin.Request
	if r.URL.RawPath != "" {
		// Names need no escapes, so an escaped path is one that wants to look
		// like another (%2e, %2f).
		return errNoRoute
	}
	if r.URL.User != nil { // RFC 9110 section 4.2.4
		return invalid("the address of the request names a user; credentials go into the Authorization header")
	}
	if len(r.Header["Authorization"]) > 1 {
		return invalid("the Authorization header is given more than once")
	}
	if c.rt.console() {
		if err := c.fromOwnPages(); err != nil {
			return err
		}
	}
	switch c.rt.Access {
	case Bearer:
		if err := c.identify(); err != nil {
			return err
		}
	case Cookie:
		if err := c.identifyBrowser(); err != nil {
			return err
		}
	case BearerOrClient:
		if err := c.bearerOrClient(); err != nil {
			return err
		}
	}
	if c.rt.Permission != 0 && (c.rt.Or == 0 || !c.who.Can(c.rt.Or)) {
		need := c.rt.Permission
		if (c.who.Permissions|c.who.Withheld)&need == 0 && c.who.Withheld&c.rt.Or != 0 { // he has this one, and his token does not
			need = c.rt.Or
		}
		a := auth.Action{Name: c.rt.action, Target: c.target()}
		if err := c.s.guard.Check(c.ctx(), c.who, need, a); err != nil {
			return err
		}
	}
	switch c.rt.rate {
	case noRate:
	case strangerRate:
		return c.s.rates.chargeStranger(c.ctx(), c.address)
	default:
		lc, err := c.s.rates.chargeAddress(c.ctx(), string(c.rt.rate), c.address)
		c.rateHeaders(lc)
		return err
	}
	return nil
}

var errNoRoute = &fault{code: "not_found", detail: "there is no such route; GET /openapi.json lists them"}

func (c *call) ctx() context.Context { return c.gin.Request.Context() }

func (c *call) origin() auth.Origin { return auth.Origin{Address: c.address, RequestID: c.id} }

func (c *call) param(name string) string { return c.gin.Param(name) }

// target names what a route with a parameter is about, for the audit log.
func (c *call) target() string {
	if len(c.gin.Params) == 0 {
		return ""
	}
	return shorten(c.gin.Params[0].Value, 128)
}

// readUntil and writeUntil set the deadlines of the request's body and of its
// answer. Where a connection has none, as in tests, there is nothing to hold.
func (c *call) readUntil(t time.Time) {
	if c.conn != nil {
		_ = c.conn.SetReadDeadline(t)
		return
	}
	_ = c.control().SetReadDeadline(t)
}

func (c *call) writeUntil(t time.Time) {
	if c.conn != nil {
		_ = c.conn.SetWriteDeadline(t)
		return
	}
	_ = c.control().SetWriteDeadline(t)
}

func (c *call) control() *http.ResponseController { return http.NewResponseController(c.gin.Writer) }

// bind reads a JSON body into v.
func (c *call) bind(v any, limit int64) error {
	if !hasMediaType(c.gin.Request, "application/json") {
		return &fault{code: "unsupported_media_type", detail: "send JSON, with Content-Type: application/json"}
	}
	b, err := c.readBody(limit)
	defer b.release()
	if err != nil {
		return err
	}
	return decodeJSON(b.data, v)
}

// reply answers with the route's own status.
func (c *call) reply(v any) error {
	if _, ok := v.(none); ok {
		c.write(c.rt.status, nil, nil)
		return nil
	}
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	c.write(c.rt.status, typeJSON, data)
	return nil
}

// Media types of answers. Nothing may be appended to them.
var typeJSON = []string{"application/json"}

const (
	// writeGrace is how long a client may take to read a small answer;
	// slowestRead bytes per second more for a large one.
	writeGrace  = 30 * time.Second
	slowestRead = 32 << 10
)

// write sends the answer. It is called once.
func (c *call) write(status int, mediaType []string, data []byte) {
	w := c.gin.Writer
	if mediaType != nil {
		w.Header()["Content-Type"] = mediaType
	}
	if len(data) >= 2048 {
		// net/http counts smaller ones itself.
		w.Header()["Content-Length"] = []string{strconv.Itoa(len(data))}
	}
	grace := c.s.writeGrace + time.Duration(len(data))*time.Second/slowestRead
	c.writeUntil(time.Now().Add(grace))
	c.status = status
	c.sendHeaders()
	w.WriteHeader(status)
	if len(data) == 0 {
		w.WriteHeaderNow()
		return
	}
	_, _ = w.Write(data) // a client that left hears nothing
}

// fail answers with a refusal.
func (c *call) fail(err error) {
	r := refuse(err)
	c.s.metrics.code(r)
	if c.rt.rpc && oipgrpc.IsContentType(c.gin.Request.Header.Get("Content-Type")) {
		c.failRPC(r)
		return
	}
	bearer, browser := c.rt.Access == Bearer || c.rt.Access == BearerOrClient, c.rt.console()
	if oauthRoute(c.path) {
		switch {
		case bearer && r.code == "invalid_token" && !r.bare:
			r.oauth = "invalid_token" // RFC 6750 section 3.1
		case r.oauth == "invalid_grant":
			r.status = http.StatusBadRequest // RFC 6749 section 5.2
		}
	}
	if oipRoute(c.path) && r.status == http.StatusUnprocessableEntity {
		r.status = http.StatusBadRequest // the protocol has no 422
	}
	if challenge := r.challenge(bearer, browser); challenge != "" && r.status >= 401 && r.status <= 403 {
		if c.rt.Access == BearerOrClient && r.bare {
			challenge += ", " + clientChallenge
		}
		c.setHeader("Www-Authenticate", challenge)
	}
	if r.retry > 0 {
		c.setNumber("Retry-After", int64(r.retry))
	}
	data, mediaType := r.body(c.path, c.id)
	if c.unread(r) {
		// Without this the server reads on before it answers, and then cuts.
		_ = c.control().EnableFullDuplex()
		h := c.gin.Writer.Header() // net/http acts on these
		h["Connection"] = []string{"close"}
		h["Content-Length"] = []string{strconv.Itoa(len(data))} // the answer must end before the reading does
		defer c.discardBody()
	}
	c.write(r.status, []string{mediaType}, data)
}

// unread reports whether a refused request has more of a body to come than
// net/http throws away by itself.
func (c *call) unread(r refusal) bool {
	const small = 64 << 10
	req := c.gin.Request
	if req.ProtoMajor != 1 || r.code == "timeout" || c.bodyRead {
		return false
	}
	return req.ContentLength > small || req.ContentLength < 0 && (r.status == http.StatusRequestEntityTooLarge || r.status == http.StatusUnprocessableEntity)
}

// What is thrown away of a body that was refused unread. Many clients
// listen only when they have sent everything: cut at once, they would see a
// broken connection and no reason.
const (
	discardMost     = 256 << 20
	discardStranger = 4 << 20 // of callers who showed no credential
	discardGrace    = 10 * time.Second
)

// discardBody reads the rest of the body after the answer was sent.
func (c *call) discardBody() {
	r := c.gin.Request
	if r.Body == nil || r.Header.Get("Expect") != "" { // who waits for our word has it now
		return
	}
	most := int64(discardMost)
	if c.who.UserID == "" {
		most = discardStranger
	}
	_ = c.control().Flush()
	c.readUntil(time.Now().Add(discardGrace))
	_, _ = io.CopyN(io.Discard, r.Body, most)
}

// finish contains a panic, counts, logs, and gives the call back.
func (c *call) finish() {
	p := recover()
	if p != nil && p != http.ErrAbortHandler {
		c.panicked(p)
		if c.gin.Writer.Written() {
			// Half an answer is on its way; only a cut tells the client so.
			p = http.ErrAbortHandler
		} else {
			c.err = errPanic
			c.fail(errPanic)
			p = nil
		}
	}
	r := c.gin.Request
	status := c.status
	if c.err != nil && r.Context().Err() != nil && errors.Is(c.err, context.Canceled) {
		status = statusLeft // the client left; nobody read the status sent
	}
	d := time.Since(c.start)
	c.rt.metrics.observe(r.Method, status, d)
	c.log(status, d)
	clear(c.headers)
	*c = call{headers: c.headers[:0]}
	calls.Put(c)
	if p != nil {
		panic(p)
	}
}

var errPanic = &fault{code: "internal", detail: internalDetail}

func (c *call) panicked(p any) {
	c.s.metrics.panics.Inc()
	c.s.log.LogAttrs(c.ctx(), slog.LevelError, "a request panicked", slog.String("request_id", c.id),
		slog.String("route", c.rt.Path), slog.String("cause", fmt.Sprintf("%v\n%s", p, debug.Stack())))
}

// log writes what went wrong, and one line for the request. The attribute
// "cause" holds what only the protected log may have.
func (c *call) log(status int, d time.Duration) {
	method := boundedMethod(c.gin.Request.Method)
	if c.err != nil && status != statusLeft {
		c.logRefusal(method, status)
	}
	c.s.accessLog.request(c.start.Add(d), c.id, method, c.rt.Path, status, d, c.who.UserID)
}

// logRefusal tells the operator of what is not the caller's doing; of the rest
// only who debugs.
func (c *call) logRefusal(method string, status int) {
	level := slog.LevelDebug
	switch {
	case status == http.StatusInternalServerError:
		level = slog.LevelError
	case status > http.StatusInternalServerError:
		level = slog.LevelWarn
	}
	if !c.s.log.Enabled(c.ctx(), level) {
		return
	}
	attrs := []slog.Attr{slog.String("request_id", c.id), slog.String("method", method), slog.String("route", c.rt.Path),
		slog.Int("status", status), slog.String("code", refuse(c.err).code)}
	if cause := causeOf(c.err); cause != "" {
		attrs = append(attrs, slog.String("cause", cause))
	}
	c.s.log.LogAttrs(c.ctx(), level, "request refused", attrs...)
}

// causeOf is what an error holds beyond the words that the caller got, or "".
func causeOf(err error) string {
	inner := errors.Unwrap(err)
	if inner == nil && refuse(err).code != "internal" {
		return ""
	}
	return err.Error()
}

// idBlock are request ids made together: 128 random bits each, in hexadecimal
// digits. One allocation for many requests.
type idBlock struct {
	text string
	next int
}

const (
	idLength = 32
	idsMade  = 32 // at once; whoever keeps one keeps the memory of all
)

var idBlocks = sync.Pool{New: func() any { return new(idBlock) }}

// newID makes a request id. A client's own X-Request-Id is never taken over.
func newID() string {
	b := idBlocks.Get().(*idBlock)
	defer idBlocks.Put(b)
	if b.next == len(b.text) {
		var raw [idsMade * idLength / 2]byte
		for i := 0; i < len(raw); i += 8 {
			binary.LittleEndian.PutUint64(raw[i:], rand.Uint64())
		}
		b.text, b.next = hex.EncodeToString(raw[:]), 0
	}
	id := b.text[b.next : b.next+idLength]
	b.next += idLength
	return id
}
