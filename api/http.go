package api

import (
	"net/http"
	"time"
)

// Bounds of connections of HTTP. Those of gRPC are in rpc.go.
const (
	headerGrace = 10 * time.Second // for a request's head, and for the handshake of TLS
	idleGrace   = 2 * time.Minute  // between two requests
	maxHeader   = 32 << 10         // bytes of a head; net/http takes 4 KiB more over HTTP/1

	webStreams    = 100              // at once on one connection of HTTP/2; clients queue the rest
	webConnection = 1 << 20          // bytes that wait unread on one connection of HTTP/2
	webStream     = 512 << 10        // and on one stream
	webFrame      = 64 << 10         // a connection keeps a buffer of the largest frame that it was sent
	webPing       = 30 * time.Second // after this silence, a client is asked whether it is there
)

// HTTPServer returns the way in for HTTP, to be served on a listener of its own.
// It speaks HTTP/1, and over TLS HTTP/2 as well.
func (s *Server) HTTPServer() *http.Server {
	return &http.Server{
		Handler: s.Handler(), ConnContext: Connected,
		DisableGeneralOptionsHandler: true, // "OPTIONS *" is no route either
		// Bodies and answers have deadlines of their own, request by request.
		ReadHeaderTimeout: headerGrace, IdleTimeout: idleGrace, MaxHeaderBytes: maxHeader,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: webStreams, MaxReceiveBufferPerConnection: webConnection, MaxReceiveBufferPerStream: webStream,
			MaxReadFrameSize: webFrame,
			// A client that takes nothing more, or is gone, holds its streams no
			// longer than this.
			SendPingTimeout: webPing, PingTimeout: webPing / 2, WriteByteTimeout: s.writeGrace,
		},
	}
}
