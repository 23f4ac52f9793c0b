package api

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/gin-gonic/gin"
	"google.golang.org/protobuf/proto"

	"modelgate/api/oipgrpc"
)

// gRPC is HTTP/2 with messages in its bodies and a status in its trailers
// (package oipgrpc). Its methods are routes like all others: the same steps in
// the same order, and only reading a message, and answering, are done here.

// rpcServer is what the calls over gRPC share.
type rpcServer struct {
	routes   []*route
	engine   *gin.Engine
	closing  context.Context // done when the server drains; ends streams that wait
	close    context.CancelFunc
	watchers atomic.Int64 // of health
}

// Bounds of connections and streams.
const (
	rpcStreams    = 250              // at once on one connection; clients queue the rest
	rpcConnection = 1 << 20          // bytes that wait unread on one connection
	rpcStream     = 512 << 10        // and on one stream
	rpcFrame      = 64 << 10         // of HTTP/2; a connection keeps a buffer of its largest, whoever sent it
	rpcAge        = 30 * time.Minute // after which a connection takes no new calls
	rpcIdle       = 5 * time.Minute  // between two messages of a stream
	rpcPing       = 30 * time.Second // after this silence, a client is asked whether it is there
)

// buildRPC makes the router of gRPC.
func (s *Server) buildRPC() error {
	e, err := newEngine()
	if err != nil {
		return err
	}
	s.rpcs.closing, s.rpcs.close = context.WithCancel(context.Background())
	s.rpcs.routes = s.rpcTable()
	for _, r := range s.rpcs.routes {
		r.rpc, r.handle = true, called(r.handle)
		r.metrics = s.metrics.forRoute(r.Path, r.Method, http.StatusOK)
		e.POST(r.Path, s.serve(r))
	}
	unmatched := &route{Route: Route{Path: "unmatched"}, rpc: true, handle: called(func(*call) error {
		return &fault{code: "unimplemented", detail: "there is no such method; " + oipgrpc.InferenceService + " has those of the Open Inference Protocol"}
	})}
	unmatched.metrics = s.metrics.forRoute(unmatched.Path, "", 0)
	e.NoRoute(s.serve(unmatched))
	e.NoMethod(s.serve(unmatched))
	s.rpcs.engine = e
	return nil
}

// RPCs lists every gRPC method there is, as Routes does for HTTP.
func (s *Server) RPCs() []Route {
	list := make([]Route, len(s.rpcs.routes))
	for i, r := range s.rpcs.routes {
		list[i] = r.Route
	}
	return list
}

// RPCServer returns the way in for gRPC, to be served on a listener of its own
// and ended with Shutdown, which ends waiting streams too. It speaks HTTP/2,
// with and without TLS; HTTP/1 it takes to say that it doesn't.
func (s *Server) RPCServer() *http.Server {
	server := &http.Server{
		Handler:           http.HandlerFunc(s.serveRPC),
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10,
		ReadTimeout: s.bodyGrace, // of each call, till it sets another; cheaper here than call by call
		Protocols:   new(http.Protocols),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: rpcStreams, MaxReceiveBufferPerConnection: rpcConnection, MaxReceiveBufferPerStream: rpcStream,
			MaxReadFrameSize: rpcFrame,
			SendPingTimeout:  rpcPing, PingTimeout: rpcPing / 2, WriteByteTimeout: time.Minute,
		},
		ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
			return context.WithValue(ctx, bornKey{}, time.Now())
		},
	}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetHTTP2(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	server.RegisterOnShutdown(s.rpcs.close)
	return server
}

// serveRPC turns away who took the port for that of the REST API.
func (s *Server) serveRPC(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor >= 2 {
		s.rpcs.engine.ServeHTTP(w, r)
		return
	}
	header := w.Header()
	header.Set("Connection", "close") // its body is not read
	header.Set("Content-Type", "text/plain; charset=utf-8")
	header.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(http.StatusHTTPVersionNotSupported)
	_, _ = io.WriteString(w, notREST+"\n") // he may have left
}

// notREST is for who speaks anything but gRPC to its port.
const notREST = "this port speaks gRPC alone; the REST API is on another"

// bornKey is the key of the time at which a connection was made.
type bornKey struct{}

// called is what every method begins with: its media type, the age of its
// connection, and the client's deadline.
func called(h handler) handler {
	return func(c *call) error {
		r := c.gin.Request
		if !oipgrpc.IsContentType(r.Header.Get("Content-Type")) {
			return &fault{code: "unsupported_media_type", detail: notREST}
		}
		if born, ok := r.Context().Value(bornKey{}).(time.Time); ok && c.start.Sub(born) > rpcAge {
			c.gin.Writer.Header()["Connection"] = []string{"close"} // net/http makes a GOAWAY of it
		}
		if given := r.Header["Grpc-Timeout"]; len(given) > 0 {
			d, ok := oipgrpc.Timeout(given[0])
			if !ok || len(given) > 1 {
				return invalid("grpc-timeout must be a number of at most eight digits and a unit, once")
			}
			ctx, cancel := context.WithTimeout(r.Context(), d)
			defer cancel()
			c.gin.Request = r.WithContext(ctx)
		}
		return h(c)
	}
}

// readOne reads the one message that a unary call has. Messages of at most
// firstRead bytes have a budget of their own, and the common one behind it. The
// caller is looked at again when the call has ended on his side: that he may hold
// back as well as the message.
func (c *call) readOne(limit int64) (body, error) {
	r := c.gin.Request
	p, err := oipgrpc.ReadPrefix(r.Body)
	if err != nil {
		return body{}, broken(err)
	}
	b, _, err := c.readMessage(p, limit)
	if err != nil {
		return b, err
	}
	var more [1]byte
	switch n, err := io.ReadFull(r.Body, more[:]); {
	case n > 0:
		err = invalid("this method takes one message; more were sent")
		return b, err
	case err != io.EOF:
		return b, stopped(err)
	}
	return b, c.stillMay()
}

// broken is the answer to a call without the beginning of a message.
func broken(err error) error {
	switch {
	case err == io.EOF:
		return invalid("the call has no message")
	case errors.Is(err, oipgrpc.ErrPrefix):
		return &fault{code: "invalid_input", detail: "what was sent is no gRPC message", cause: err}
	}
	return stopped(err)
}

// readMessage reads the message behind a prefix, and expands it where it is
// compressed. Both sizes are bounded by limit; memory is taken as bytes really
// come. left is how much of the message was not read.
func (c *call) readMessage(p oipgrpc.Prefix, limit int64) (b body, left *io.LimitedReader, err error) {
	length := int64(p.Length)
	left = &io.LimitedReader{R: c.gin.Request.Body, N: length}
	if length > limit {
		return b, left, tooLarge(limit)
	}
	b = body{memory: c.s.bodies, shares: c.s.shares, user: c.who.UserID, streamed: true}
	if p.Compressed {
		coding, err := c.coding()
		if err != nil {
			return b, left, err
		}
		b, err = c.readExpanded(b, coding, left, limit)
		return b, left, err
	}
	if length == 0 {
		return b, left, nil
	}
	if length <= firstRead && c.s.small.Budget()-c.s.small.InUse() >= firstRead {
		b.memory = c.s.small
	}
	if b, err = c.readInto(b, left, length, limit); err == nil && left.N > 0 {
		b.release()
		err = stopped(io.ErrUnexpectedEOF)
	}
	return b, left, err
}

// coding is how the messages of a call are compressed, where they are.
func (c *call) coding() (string, error) {
	given := c.gin.Request.Header["Grpc-Encoding"]
	switch {
	case len(given) == 1 && compressors[given[0]] != nil:
		return given[0], nil
	case len(given) == 0 || given[0] == "identity":
		return "", invalid("a message is compressed, but grpc-encoding does not say how")
	}
	c.gin.Writer.Header()["Grpc-Accept-Encoding"] = []string{"gzip,deflate"}
	return "", &fault{code: "unsupported_encoding", detail: "grpc-encoding must be gzip or deflate; or leave it out"}
}

// statusKey and messageKey are the trailers of a status.
const (
	statusKey  = http.TrailerPrefix + "Grpc-Status"
	messageKey = http.TrailerPrefix + "Grpc-Message"
)

var (
	typeRPC  = []string{oipgrpc.ContentType}
	statusOK = []string{"0"}
)

// begin sends, or lets wait for more, the headers of an answer.
func (c *call) begin() {
	c.sendHeaders()
	c.gin.Writer.Header()["Content-Type"] = typeRPC
	c.gin.Writer.WriteHeader(http.StatusOK)
	c.gin.Writer.WriteHeaderNow()
}

// send writes one message; frame has room for its prefix in front.
func (c *call) send(frame []byte, compressed bool) {
	oipgrpc.PutPrefix(frame, compressed)
	grace := c.s.writeGrace + time.Duration(len(frame))*time.Second/slowestRead
	c.writeUntil(time.Now().Add(grace))
	_, _ = c.gin.Writer.Write(frame) // a client that left hears nothing
}

// flush sends what waits of a stream's answers. The stream has no deadline to
// write under until the next: net/http resets one whose deadline passes, though
// nothing waits to be written.
func (c *call) flush() {
	c.gin.Writer.Flush()
	c.writeUntil(time.Time{})
}

// succeed ends a call well.
func (c *call) succeed() {
	c.status = http.StatusOK
	c.gin.Writer.Header()[statusKey] = statusOK
}

// failRPC ends a call with a refusal, whose status stands in the trailers. For
// logs and metrics it has the status that REST would answer.
func (c *call) failRPC(r refusal) {
	c.status = r.status
	if r.status == http.StatusUnprocessableEntity {
		c.status = http.StatusBadRequest
	}
	h := c.gin.Writer.Header()
	retry := "Retry-After"
	if c.gin.Writer.Written() {
		retry = http.TrailerPrefix + retry
	}
	if r.retry > 0 {
		h[retry] = []string{strconv.Itoa(r.retry)}
	}
	if !c.gin.Writer.Written() {
		c.writeUntil(time.Now().Add(c.s.writeGrace))
		c.begin()
	}
	h[statusKey] = []string{strconv.Itoa(int(r.rpc))}
	h[messageKey] = []string{oipgrpc.EncodeMessage(r.detail)}
}

// message is a pointer to a generated message.
type message[T any] interface {
	*T
	proto.Message
}

// unary adapts a function from one message to another. Requests have at most
// limit bytes.
func unary[I any, M message[I], O proto.Message](limit int64, f func(*call, M) (O, error)) handler {
	return func(c *call) error {
		b, err := c.readOne(limit)
		defer b.release()
		if err != nil {
			return err
		}
		in := M(new(I))
		if err := proto.Unmarshal(b.data, in); err != nil {
			return &fault{code: "invalid_input", detail: "the message is not what this method takes: its encoding is broken", cause: err}
		}
		out, err := f(c, in)
		if err != nil {
			return err
		}
		return c.replyMessage(out)
	}
}

// replyMessage answers a unary call.
func (c *call) replyMessage(out proto.Message) error {
	frame, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, oipgrpc.PrefixSize, 256), out)
	if err != nil {
		return err
	}
	c.begin()
	c.send(frame, false)
	c.succeed()
	return nil
}

// publicBody is the most that a call without credentials may send. It is read
// outside the budgets, so that strangers fill none.
const publicBody = 1 << 10

// readPublic reads the message of a call without credentials.
func (c *call) readPublic() ([]byte, error) {
	p, err := oipgrpc.ReadPrefix(c.gin.Request.Body)
	switch {
	case err != nil:
		return nil, broken(err)
	case p.Length > publicBody:
		return nil, tooLarge(publicBody)
	case p.Compressed:
		return nil, &fault{code: "unsupported_encoding", detail: "this method takes no compressed messages"}
	}
	data := make([]byte, p.Length)
	if _, err := io.ReadFull(c.gin.Request.Body, data); err != nil {
		return nil, stopped(err)
	}
	return data, nil
}

// rpcTable is every gRPC method, as table is every route.
func (s *Server) rpcTable() []*route {
	return slices.Concat(s.inferenceTable(), s.standardTable())
}
