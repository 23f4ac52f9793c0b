package main

import (
	"context"
	"crypto/tls"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"modelgate/api/oipgrpc/pb"
)

func dialGRPC(t *testing.T, p *program, c credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(p.grpcAddress(), grpc.WithTransportCredentials(c))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func live(t *testing.T, conn *grpc.ClientConn) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return conn.Invoke(ctx, "/inference.GRPCInferenceService/ServerLive", &pb.ServerLiveRequest{}, new(pb.ServerLiveResponse))
}

// TestGRPCOverTLS: gRPC has the certificate of HTTP, and nothing is spoken in
// clear beside it.
func TestGRPCOverTLS(t *testing.T) {
	cert, key, roots := certificate(t)
	p := start(t, t.TempDir(), "MODELGATE_TLS_CERT="+cert, "MODELGATE_TLS_KEY="+key, "MODELGATE_GRPC_LISTEN=127.0.0.1:0")
	if err := live(t, dialGRPC(t, p, credentials.NewTLS(&tls.Config{RootCAs: roots}))); err != nil {
		t.Errorf("over TLS: %v", err)
	}
	if err := live(t, dialGRPC(t, p, insecure.NewCredentials())); err == nil {
		t.Error("in clear it is answered too")
	}
	for version, accepted := range map[uint16]bool{tls.VersionTLS11: false, tls.VersionTLS12: true} {
		conn, err := tls.Dial("tcp", p.grpcAddress(), &tls.Config{RootCAs: roots, MinVersion: version, MaxVersion: version, NextProtos: []string{"h2"}})
		if (err == nil) != accepted {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
		if err == nil {
			conn.Close()
		}
	}
}

// TestGRPCDrain: at SIGTERM a stream that waits is told, and the program ends
// well without waiting for it.
func TestGRPCDrain(t *testing.T) {
	p := start(t, t.TempDir(), "MODELGATE_GRPC_LISTEN=127.0.0.1:0", "MODELGATE_DRAIN_TIMEOUT=30s")
	tokens, err := p.anonymous().Login(t.Context(), "admin", adminPassword)
	if err != nil {
		t.Fatal(err)
	}
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+tokens.AccessToken)
	stream, err := dialGRPC(t, p, insecure.NewCredentials()).NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true},
		"/inference.GRPCInferenceService/ModelStreamInfer")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := p.stop(); err != nil {
		t.Errorf("the program ended with %v", err)
	}
	if d := time.Since(began); d > 20*time.Second {
		t.Errorf("the end took %v", d)
	}
	if err := stream.RecvMsg(new(pb.ModelStreamInferResponse)); status.Code(err) != codes.Unavailable {
		t.Errorf("the stream ended with %v", err)
	}
}
