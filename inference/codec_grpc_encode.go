package inference

import (
	"google.golang.org/protobuf/encoding/protowire"
)

// AppendProto appends the answer to an infer request as a ModelInferResponse,
// its tensors in raw_output_contents as AppendInfer writes them behind the
// JSON. version is "" for none. Errors and limits are AppendInfer's; dst is
// then returned as it was.
func AppendProto(dst []byte, r *Result, req *Infer, version string) ([]byte, error) {
	w := encoder{b: dst, start: len(dst)}
	w.protoText(responseModel, r.Model)
	w.protoText(responseVersion, version)
	w.protoText(responseID, req.ID)
	flat := make([]flatOutput, len(r.Outputs))
	for i := range r.Outputs {
		var err error
		if flat[i], err = asTensor(&r.Outputs[i]); err != nil {
			return dst, err
		}
		w.protoOutput(r.Outputs[i].Name, &flat[i])
	}
	for i := range flat {
		size := flat[i].size()
		if int64(len(w.b)-w.start)+size > maxAnswer {
			return dst, tooMuch()
		}
		w.b = protowire.AppendTag(w.b, responseRaw, protowire.BytesType)
		w.b = protowire.AppendVarint(w.b, uint64(size))
		if err := w.appendBytes(&flat[i]); err != nil {
			return dst, err
		}
	}
	return w.b, nil
}

// AppendProtoStream appends the answer as a ModelStreamInferResponse.
func AppendProtoStream(dst []byte, r *Result, req *Infer, version string) ([]byte, error) {
	answer, err := AppendProto(nil, r, req, version)
	if err != nil {
		return dst, err
	}
	dst = protowire.AppendTag(dst, streamResponse, protowire.BytesType)
	return protowire.AppendBytes(dst, answer), nil
}

// AppendProtoError appends a ModelStreamInferResponse with nothing but words
// and the id of the request ("": none) that they are about.
func AppendProtoError(dst []byte, message, id string) []byte {
	w := encoder{b: dst}
	w.protoText(streamError, message)
	answer := encoder{}
	answer.protoText(responseID, id)
	w.b = protowire.AppendTag(w.b, streamResponse, protowire.BytesType)
	return protowire.AppendBytes(w.b, answer.b)
}

// protoText writes a string; an empty one is left out.
func (w *encoder) protoText(field protowire.Number, text string) {
	if text == "" {
		return
	}
	w.b = protowire.AppendTag(w.b, field, protowire.BytesType)
	w.b = protowire.AppendString(w.b, text)
}

// protoOutput writes one entry of outputs.
func (w *encoder) protoOutput(name string, f *flatOutput) {
	datatype, dims := f.datatype.String(), 0
	for _, d := range f.shape {
		dims += protowire.SizeVarint(uint64(d))
	}
	size := 2*protowire.SizeTag(tensorName) + protowire.SizeBytes(len(name)) + protowire.SizeBytes(len(datatype))
	if dims > 0 {
		size += protowire.SizeTag(tensorShape) + protowire.SizeBytes(dims)
	}
	w.b = protowire.AppendTag(w.b, responseOutputs, protowire.BytesType)
	w.b = protowire.AppendVarint(w.b, uint64(size))
	w.protoText(tensorName, name)
	w.protoText(tensorDatatype, datatype)
	if dims > 0 {
		w.b = protowire.AppendTag(w.b, tensorShape, protowire.BytesType)
		w.b = protowire.AppendVarint(w.b, uint64(dims))
		for _, d := range f.shape {
			w.b = protowire.AppendVarint(w.b, uint64(d))
		}
	}
}

// size is the bytes of an output in the binary form.
func (f *flatOutput) size() (n int64) {
	_ = f.each(func(t *Tensor, from, to int) error { n += t.bytesOf(from, to); return nil })
	return n
}
