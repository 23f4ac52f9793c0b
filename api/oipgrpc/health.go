package oipgrpc

import (
	"google.golang.org/protobuf/encoding/protowire"
)

// The standard health service, grpc.health.v1. Its request has the name of a
// service, its answer a number.
const (
	HealthService = "grpc.health.v1.Health"

	Serving        = 1
	NotServing     = 2
	ServiceUnknown = 3
)

// HealthRequest reads the name of the service asked about; "" stands for the
// server. It is false for what is no HealthCheckRequest.
func HealthRequest(message []byte) (service string, ok bool) {
	for len(message) > 0 {
		num, typ, n := protowire.ConsumeField(message)
		if n < 0 {
			return "", false
		}
		if num == 1 {
			if typ != protowire.BytesType {
				return "", false
			}
			_, _, tag := protowire.ConsumeTag(message)
			text, _ := protowire.ConsumeBytes(message[tag:])
			service = string(text)
		}
		message = message[n:]
	}
	return service, true
}

// AppendHealth appends a HealthCheckResponse.
func AppendHealth(dst []byte, status int) []byte {
	return protowire.AppendVarint(protowire.AppendTag(dst, 1, protowire.VarintType), uint64(status))
}
