// Package oipgrpc is what api needs of gRPC and of the Open Inference Protocol
// over it: how calls and messages stand in HTTP/2 (framing.go, after
// PROTOCOL-HTTP2.md of gRPC), the status codes, the standard services for
// health and reflection, and the protocol's own messages (pb, made from
// open_inference.proto).
//
// It knows bytes and no requests: it must not read a credential, decide, keep
// state, or know a model. The calls themselves go through the one gate of api,
// which speaks net/http's HTTP/2, so that every message is admitted, charged
// and reckoned against the byte budget before it is read.
package oipgrpc

//go:generate ./generate.sh
