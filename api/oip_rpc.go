package api

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"modelgate/api/oipgrpc"
	"modelgate/api/oipgrpc/pb"
	"modelgate/inference"
)

// The Open Inference Protocol over gRPC: what oip.go and oip_models.go do for
// REST, with other messages around it.

// inferenceTable is every method of the protocol's service, with its
// permission as table has it.
func (s *Server) inferenceTable() []*route {
	method := func(name string) string { return "/" + oipgrpc.InferenceService + "/" + name }
	open := func(name string, h handler) *route { return open(http.MethodPost, method(name), 200, noRate, h) }
	predicting := func(name string, h handler) *route { return predicting(http.MethodPost, method(name), 200, h) }
	managed := func(name, action string, h handler) *route {
		return managed(http.MethodPost, method(name), action, 200, h)
	}
	return []*route{
		open("ServerLive", s.rpcLive),
		open("ServerReady", s.rpcReady),
		predicting("ServerMetadata", unary(smallBody, s.rpcMetadata)),
		predicting("ModelReady", unary(smallBody, s.rpcModelReady)),
		predicting("ModelMetadata", unary(smallBody, s.rpcModel)),
		predicting("ModelConfig", unary(smallBody, s.rpcConfig)),
		predicting("ModelStatistics", unary(smallBody, s.rpcStatistics)),
		predicting("ModelInfer", s.rpcInfer),
		predicting("ModelStreamInfer", s.rpcStreamInfer),
		predicting("RepositoryIndex", unary(smallBody, s.rpcIndex)),
		managed("RepositoryModelLoad", "model.load", unary(smallBody, s.rpcLoad)),
		managed("RepositoryModelUnload", "model.unload", unary(smallBody, s.rpcUnload)),
	}
}

func (s *Server) rpcLive(c *call) error {
	if _, err := c.readPublic(); err != nil {
		return err
	}
	return c.replyMessage(&pb.ServerLiveResponse{Live: true})
}

func (s *Server) rpcReady(c *call) error {
	if _, err := c.readPublic(); err != nil {
		return err
	}
	_, err := s.readiness(c)
	return c.replyMessage(&pb.ServerReadyResponse{Ready: err == nil})
}

func (s *Server) rpcMetadata(c *call, _ *pb.ServerMetadataRequest) (*pb.ServerMetadataResponse, error) {
	m, err := s.oipServer(c)
	return &pb.ServerMetadataResponse{Name: m.Name, Version: m.Version, Extensions: m.Extensions}, err
}

// rpcModelReady says no of a model that is out of service, and fails for one
// that is not open to the caller.
func (s *Server) rpcModelReady(c *call, in *pb.ModelReadyRequest) (*pb.ModelReadyResponse, error) {
	_, err := c.open(in.Name, in.Version)
	if err != nil && refuse(err).code == "model_unavailable" {
		return &pb.ModelReadyResponse{}, nil
	}
	return &pb.ModelReadyResponse{Ready: true}, err
}

func (s *Server) rpcModel(c *call, in *pb.ModelMetadataRequest) (*pb.ModelMetadataResponse, error) {
	m, err := s.describe(c, in.Name, in.Version)
	if err != nil {
		return nil, err
	}
	tensors := func(list []oipTensor) []*pb.ModelMetadataResponse_TensorMetadata {
		all := make([]*pb.ModelMetadataResponse_TensorMetadata, len(list))
		for i, t := range list {
			all[i] = &pb.ModelMetadataResponse_TensorMetadata{Name: t.Name, Datatype: t.Datatype, Shape: t.Shape}
		}
		return all
	}
	return &pb.ModelMetadataResponse{Name: m.Name, Versions: m.Versions, Platform: m.Platform,
		Inputs: tensors(m.Inputs), Outputs: tensors(m.Outputs)}, nil
}

func (s *Server) rpcIndex(c *call, in *pb.RepositoryIndexRequest) (*pb.RepositoryIndexResponse, error) {
	list, err := s.index(c, in.Ready)
	if err != nil {
		return nil, err
	}
	out := &pb.RepositoryIndexResponse{Models: make([]*pb.RepositoryIndexResponse_ModelIndex, len(list))}
	for i, x := range list {
		out.Models[i] = &pb.RepositoryIndexResponse_ModelIndex{Name: x.Name, Version: x.Version, State: x.State, Reason: x.Reason}
	}
	return out, nil
}

func (s *Server) rpcLoad(c *call, in *pb.RepositoryModelLoadRequest) (*pb.RepositoryModelLoadResponse, error) {
	name := cmp.Or(in.ModelName, in.RepositoryName)
	if err := s.catalog.MayManage(c.ctx(), c.who, name, c.rt.action); err != nil {
		return nil, err
	}
	return &pb.RepositoryModelLoadResponse{ModelName: name, IsLoaded: true}, s.loadable(c, name)
}

func (s *Server) rpcUnload(c *call, in *pb.RepositoryModelUnloadRequest) (*pb.RepositoryModelUnloadResponse, error) {
	if err := s.catalog.MayManage(c.ctx(), c.who, cmp.Or(in.ModelName, in.RepositoryName), c.rt.action); err != nil {
		return nil, err
	}
	return nil, errUnload
}

// rpcInfer is infer with another codec.
func (s *Server) rpcInfer(c *call) error {
	// Before the message, so that a caller who is over his rate costs nothing.
	lc, err := s.rates.chargePrediction(c.ctx(), &c.who, 1)
	c.rateHeaders(lc)
	if err != nil {
		return err
	}
	b, err := c.readOne(s.maxBody)
	defer b.release()
	if err != nil {
		return err
	}
	p := inferring{call: c}
	result, version, err := p.predict(b.data)
	if err != nil {
		return err
	}
	buf := answers.Get().(*[]byte)
	frame, err := encodeRPC(inference.AppendProto, *buf, result, &p.scanned, version)
	// Nothing of the request is held while a slow client reads its answer.
	b.release()
	if err != nil {
		return err
	}
	return c.sendAnswer(frame, c.answerCoding(), buf)
}

// answerCoding is how an answer is compressed: as the request was, where the
// client takes that.
func (c *call) answerCoding() string {
	h := c.gin.Request.Header
	if asked := h["Grpc-Encoding"]; len(asked) == 1 && compressors[asked[0]] != nil && strings.Contains(h.Get("Grpc-Accept-Encoding"), asked[0]) {
		return asked[0]
	}
	return ""
}

// sendAnswer ends a unary call with a message, compressed as the request was.
func (c *call) sendAnswer(frame []byte, coding string, buf *[]byte) error {
	if coding != "" {
		packed, err := compressFrame(coding, frame)
		keepAnswer(buf, frame)
		if err != nil {
			return err
		}
		buf, frame = nil, packed
	}
	release, err := c.holdAnswer(frame)
	if err != nil {
		return err
	}
	defer release()
	if coding != "" {
		c.gin.Writer.Header()["Grpc-Encoding"] = []string{coding}
	}
	c.begin()
	c.send(frame, coding != "")
	c.succeed()
	// net/http copies what is small. Of a larger frame it may still read when the
	// client reset the stream; a buffer in use again would send him another's answer.
	if buf != nil && len(frame) <= copiedWrite {
		keepAnswer(buf, frame)
	}
	return nil
}

// copiedWrite is the most that net/http's HTTP/2 puts into a buffer of its own.
const copiedWrite = 4 << 10

// predict runs what a message asks for.
func (p *inferring) predict(message []byte) (result *inference.Result, version string, err error) {
	name := ""
	if p.scanned, name, version, err = inference.ScanProto(message); err != nil {
		return nil, "", err
	}
	ref, err := refOf(name, version)
	if err != nil {
		return nil, "", err
	}
	result, err = p.call.s.inference.Predict(p.call.ctx(), p.call.who, ref, p.read)
	return result, version, err
}

// appendAnswer is inference.AppendProto or its like for streams.
type appendAnswer func(dst []byte, r *inference.Result, req *inference.Infer, version string) ([]byte, error)

// encodeRPC writes an answer, behind room for its prefix, into buf's memory,
// and frees result.
func encodeRPC(form appendAnswer, buf []byte, result *inference.Result, asked *inference.Infer, version string) ([]byte, error) {
	defer result.Release()
	return form(append(buf[:0], make([]byte, oipgrpc.PrefixSize)...), result, asked, version)
}

// compressFrame is a frame with its message compressed.
func compressFrame(coding string, frame []byte) ([]byte, error) {
	packed, err := compress(coding, frame[oipgrpc.PrefixSize:])
	if err != nil {
		return nil, err
	}
	return append(make([]byte, oipgrpc.PrefixSize, oipgrpc.PrefixSize+len(packed)), packed...), nil
}

// rpcStreamInfer answers the messages of a stream one after the other. Each of
// them proves the credential anew and is charged before it is read, so that a
// revoked token predicts no further on a stream that it opened. What is wrong
// with one message is answered in the stream; a bad credential, a message over
// the cap and a broken stream end it.
func (s *Server) rpcStreamInfer(c *call) error {
	if given := c.gin.Request.Header["Grpc-Encoding"]; len(given) > 0 && given[0] != "identity" {
		if _, err := c.coding(); err != nil {
			return err
		}
	}
	c.writeUntil(time.Now().Add(s.writeGrace))
	c.begin()
	c.flush()
	for {
		p, err := c.nextPrefix(rpcIdle)
		if err == io.EOF {
			c.succeed()
			return nil
		}
		if err != nil {
			return err
		}
		c.readUntil(time.Now().Add(s.bodyGrace))
		if err := c.identify(); err != nil {
			return err
		}
		frame, err := c.streamed(p)
		if err != nil {
			return err
		}
		if err := c.sendFrame(frame); err != nil {
			return err
		}
	}
}

// sendFrame answers one message of a stream.
func (c *call) sendFrame(frame []byte) error {
	release, err := c.holdAnswer(frame)
	if err != nil {
		return err
	}
	defer release()
	c.send(frame, false)
	c.flush()
	return nil
}

// nextPrefix waits for the next message of a stream: no longer than idle, and
// not when the server is closing.
func (c *call) nextPrefix(idle time.Duration) (oipgrpc.Prefix, error) {
	c.readUntil(time.Now().Add(idle))
	interrupted := make(chan struct{})
	stop := context.AfterFunc(c.s.rpcs.closing, func() {
		defer close(interrupted)
		c.readUntil(time.Unix(1, 0))
	})
	p, err := oipgrpc.ReadPrefix(c.gin.Request.Body)
	if !stop() {
		<-interrupted
		return p, errClosing
	}
	switch {
	case err == nil || err == io.EOF:
		return p, err
	case tooSlow(err):
		return p, &fault{code: "timeout", detail: "no message came on this stream for too long; open another", cause: err}
	}
	return p, broken(err)
}

var errClosing = &fault{code: "unavailable", detail: "the server is closing; open the stream again"}

// streamed answers one message of a stream. An error ends the stream.
func (c *call) streamed(p oipgrpc.Prefix) ([]byte, error) {
	_, charged := c.s.rates.chargePrediction(c.ctx(), &c.who, 1)
	if charged != nil {
		left := &io.LimitedReader{R: c.gin.Request.Body, N: int64(p.Length)}
		return c.inStream(charged, "", left, nil)
	}
	b, left, err := c.readMessage(p, c.s.maxBody)
	defer b.release()
	if err != nil {
		return c.inStream(err, "", left, err)
	}
	c.readUntil(time.Time{}) // a long run is no slow client
	run := inferring{call: c}
	result, version, err := run.predict(b.data)
	if err != nil {
		return c.inStream(err, run.scanned.ID, nil, nil)
	}
	frame, err := encodeRPC(inference.AppendProtoStream, nil, result, &run.scanned, version)
	if err != nil {
		return c.inStream(err, run.scanned.ID, nil, nil)
	}
	return frame, nil
}

// inStream answers a message that is refused, and throws away what is left of
// it. reading is what kept the message from being read, or nil: if that was
// the stream itself, or a message over the cap, it ends.
func (c *call) inStream(err error, id string, left *io.LimitedReader, reading error) ([]byte, error) {
	if ctxErr := c.gin.Request.Context().Err(); ctxErr != nil {
		return nil, ctxErr
	}
	var known *fault
	if reading != nil && !(errors.As(reading, &known) && known.code == "unavailable") {
		return nil, err
	}
	if left != nil && left.N > 0 {
		if left.N > c.s.maxBody {
			return nil, err
		}
		c.readUntil(time.Now().Add(c.s.bodyGrace + time.Duration(left.N)*time.Second/slowestBody))
		if _, err := io.Copy(io.Discard, left); err != nil || left.N > 0 {
			return nil, stopped(cmp.Or(err, io.ErrUnexpectedEOF))
		}
	}
	c.logInStream(err)
	return inference.AppendProtoError(make([]byte, oipgrpc.PrefixSize), refuse(err).detail, id), nil
}

// logInStream tells of a refusal that does not end its stream.
func (c *call) logInStream(err error) {
	before := c.err
	c.err = err
	c.logRefusal(http.MethodPost, refuse(err).status)
	c.err = before
}
