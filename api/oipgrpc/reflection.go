package oipgrpc

import (
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"

	"modelgate/api/oipgrpc/pb"
)

// The standard reflection service, by both names that clients ask under. The
// messages of the two are alike.
const (
	ReflectionService      = "grpc.reflection.v1.ServerReflection"
	ReflectionServiceAlpha = "grpc.reflection.v1alpha.ServerReflection"
)

// InferenceService is the protocol's own service.
const InferenceService = "inference.GRPCInferenceService"

// Fields of ServerReflectionRequest and ServerReflectionResponse.
const (
	askFile, askSymbol, askExtension, askExtensions, askServices = 3, 4, 5, 6, 7

	answerRequest, answerFiles, answerServices, answerError = 2, 4, 6, 7
)

// Reflect answers a ServerReflectionRequest with what is described here: the
// protocol's own file. Of the services for health and reflection it gives the
// names, which clients know the messages of. It is false for what is no
// request.
func Reflect(message []byte) (answer []byte, ok bool) {
	asked, text := protowire.Number(0), ""
	for rest := message; len(rest) > 0; {
		num, typ, n := protowire.ConsumeField(rest)
		if n < 0 {
			return nil, false
		}
		if num >= askFile && num <= askServices && typ == protowire.BytesType {
			_, _, tag := protowire.ConsumeTag(rest)
			value, _ := protowire.ConsumeBytes(rest[tag:])
			asked, text = num, string(value)
		}
		rest = rest[n:]
	}
	answer = appendField(nil, answerRequest, message)
	file := pb.File_open_inference_proto
	switch {
	case asked == askServices:
		var list []byte
		for _, name := range []string{InferenceService, HealthService, ReflectionService, ReflectionServiceAlpha} {
			list = appendField(list, 1, appendField(nil, 1, []byte(name)))
		}
		return appendField(answer, answerServices, list), true
	case asked == askFile && text == file.Path(), asked == askSymbol && describes(text):
		described, err := proto.Marshal(protodesc.ToFileDescriptorProto(file))
		if err != nil {
			return nil, false
		}
		return appendField(answer, answerFiles, appendField(nil, 1, described)), true
	}
	code := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), uint64(NotFound))
	return appendField(answer, answerError, appendField(code, 2, []byte("nothing of that name is described here"))), true
}

// describes reports whether the file has a service, method, message or type of
// that full name.
func describes(name string) bool { return symbols()[name] }

var symbols = sync.OnceValue(func() map[string]bool {
	all := map[string]bool{}
	file := pb.File_open_inference_proto
	for i := range file.Messages().Len() {
		m := file.Messages().Get(i)
		all[string(m.FullName())] = true
		for k := range m.Messages().Len() {
			all[string(m.Messages().Get(k).FullName())] = true
		}
	}
	for i := range file.Enums().Len() {
		all[string(file.Enums().Get(i).FullName())] = true
	}
	for i := range file.Services().Len() {
		s := file.Services().Get(i)
		all[string(s.FullName())] = true
		for k := range s.Methods().Len() {
			all[string(s.Methods().Get(k).FullName())] = true
		}
	}
	return all
})

func appendField(dst []byte, num protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(dst, num, protowire.BytesType), value)
}
