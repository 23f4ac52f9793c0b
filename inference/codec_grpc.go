package inference

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"modelgate/models"
)

// Fields of the protocol's messages over gRPC that are read or written here.
// Their numbers stand in api/oipgrpc/open_inference.proto.
const (
	requestModel, requestVersion, requestID, requestParams = 1, 2, 3, 4
	requestInputs, requestOutputs, requestRaw              = 5, 6, 7

	tensorName, tensorDatatype, tensorShape, tensorParams, tensorContents = 1, 2, 3, 4, 5

	outputName, outputParams = 1, 2

	responseModel, responseVersion, responseID, responseOutputs, responseRaw = 1, 2, 3, 5, 6

	streamError, streamResponse = 1, 2
)

// ScanProto reads all of a ModelInferRequest but the values of its tensors, as
// ScanInfer does for JSON, and names the model and the version asked for ("":
// the default). The result points into message. Unknown fields are skipped, as
// everywhere in protobuf; unknown parameters, and tensors that are sent raw
// and typed, are refused. Errors are ErrInput; what was read of the id by then
// is returned with them.
func ScanProto(message []byte) (r Infer, model, version string, err error) {
	var raw [][]byte
	err = protoFields(message, func(num protowire.Number, typ protowire.Type, value []byte, _ uint64) (err error) {
		if typ != protowire.BytesType {
			return nil
		}
		switch num {
		case requestModel:
			model, err = protoText("model_name", value)
		case requestVersion:
			version, err = protoText("model_version", value)
		case requestID:
			if r.ID, err = protoText("id", value); err != nil {
				r.ID = ""
			}
		case requestParams:
			err = protoParameter("the request's parameters", requestParameters, value, nil)
		case requestInputs:
			err = r.readProtoInput(value)
		case requestOutputs:
			err = r.readProtoOutput(value)
		case requestRaw:
			if len(raw) >= maxInputs {
				return ErrInput.With(fmt.Sprintf("\"raw_input_contents\" has more than %d entries", maxInputs))
			}
			raw = append(raw, value)
		}
		return err
	})
	if err == nil {
		err = r.shareProto(raw)
	}
	r.HasID = r.ID != ""
	return r, model, version, err
}

// shareProto gives each input its raw contents, which are for all of them or
// for none.
func (r *Infer) shareProto(raw [][]byte) error {
	if len(raw) == 0 {
		for i := range r.inputs {
			r.inputs[i].typed = true // without contents: no elements
		}
		return nil
	}
	if len(raw) != len(r.inputs) {
		return ErrInput.With(fmt.Sprintf("\"raw_input_contents\" has one entry for each input, in their order: %d, not %d", len(r.inputs), len(raw)))
	}
	for i := range r.inputs {
		in := &r.inputs[i]
		if in.typed {
			return ErrInput.With("input " + quote(in.name) + " has \"contents\" while the request has \"raw_input_contents\"; send either, for all inputs alike")
		}
		if in.sized && in.size != uint64(len(raw[i])) {
			return ErrInput.With(fmt.Sprintf("input %s has a binary_data_size of %d, but %d bytes in \"raw_input_contents\"", quote(in.name), in.size, len(raw[i])))
		}
		in.binary, in.bytes = true, raw[i]
	}
	return nil
}

// readProtoInput reads one entry of inputs.
func (r *Infer) readProtoInput(message []byte) error {
	if len(r.inputs) >= maxInputs {
		return ErrInput.With(fmt.Sprintf("%q has more than %d entries", "inputs", maxInputs))
	}
	in := inferInput{shape: []int64{}}
	err := protoFields(message, func(num protowire.Number, typ protowire.Type, value []byte, n uint64) (err error) {
		switch {
		case num == tensorShape && typ == protowire.VarintType:
			return in.dimension(n)
		case typ != protowire.BytesType:
			return nil
		}
		switch num {
		case tensorName:
			in.name, err = protoText("name", value)
		case tensorDatatype:
			in.datatype, err = protoText("datatype", value)
		case tensorShape:
			for len(value) > 0 && err == nil {
				d, size := protowire.ConsumeVarint(value)
				if size < 0 {
					return errProto
				}
				value, err = value[size:], in.dimension(d)
			}
		case tensorParams:
			err = protoParameter("an input's parameters", inputParameters, value, func(n uint64) { in.sized, in.size = true, n })
		case tensorContents:
			if in.typed {
				return ErrInput.With("input " + quote(in.name) + " has its \"contents\" twice")
			}
			in.typed, in.data = true, value
		}
		return err
	})
	if err != nil {
		return err
	}
	r.inputs = append(r.inputs, in)
	return nil
}

// dimension adds one to the shape.
func (in *inferInput) dimension(d uint64) error {
	if d > maxDimension {
		return ErrInput.With(fmt.Sprintf(`"shape" must be a list of whole numbers from 0 to %d, found %d`, maxDimension, int64(d)))
	}
	if len(in.shape) == maxDepth {
		return ErrInput.With(fmt.Sprintf("%q has more than %d entries", "shape", maxDepth))
	}
	in.shape = append(in.shape, int64(d))
	return nil
}

// readProtoOutput reads one entry of outputs. Answers are always raw, so that
// what is said of an output's form is taken and changes nothing.
func (r *Infer) readProtoOutput(message []byte) error {
	if len(r.Outputs) >= maxOutputs {
		return ErrInput.With(fmt.Sprintf("%q has more than %d entries", "outputs", maxOutputs))
	}
	name := ""
	err := protoFields(message, func(num protowire.Number, typ protowire.Type, value []byte, _ uint64) (err error) {
		switch {
		case typ != protowire.BytesType:
		case num == outputName:
			name, err = protoText("name", value)
		case num == outputParams:
			err = protoParameter("an output's parameters", outputParameters, value, nil)
		}
		return err
	})
	if err != nil {
		return err
	}
	r.Outputs = append(r.Outputs, name)
	return nil
}

// protoParameter reads one entry of a map of parameters, whose key must be
// among names. size is told of a number, and nil for parameters that are true
// or false.
func protoParameter(what string, names []string, entry []byte, size func(uint64)) error {
	key, parameter := "", []byte(nil)
	err := protoFields(entry, func(num protowire.Number, typ protowire.Type, value []byte, _ uint64) error {
		if typ == protowire.BytesType && num == 1 {
			key = string(value)
		} else if typ == protowire.BytesType && num == 2 {
			parameter = value
		}
		return nil
	})
	if err != nil {
		return err
	}
	if !slices.Contains(names, key) {
		return ErrInput.With("unknown field " + quote(key) + " in " + what + "; what is honoured there: " + strings.Join(names, ", "))
	}
	const boolParam, intParam, uintParam = 1, 2, 5
	found := false
	err = protoFields(parameter, func(num protowire.Number, typ protowire.Type, _ []byte, n uint64) error {
		switch {
		case typ != protowire.VarintType:
		case size == nil && num == boolParam:
			found = true
		case size != nil && (num == intParam || num == uintParam) && int64(n) >= 0:
			found = true
			size(n)
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case !found && size == nil:
		return ErrInput.With(fmt.Sprintf("%q must be true or false", key))
	case !found:
		return ErrInput.With(fmt.Sprintf("%q must be a whole number of bytes", key))
	}
	return nil
}

var errProto = ErrInput.With("the message is no ModelInferRequest: its encoding is broken")

// protoText takes a string, which protobuf wants in UTF-8.
func protoText(field string, value []byte) (string, error) {
	if !utf8.Valid(value) {
		return "", ErrInput.With(fmt.Sprintf("%q is not valid UTF-8", field))
	}
	return string(value), nil
}

// protoFields calls read at every field of a message (protobuf's encoding,
// https://protobuf.dev/programming-guides/encoding/): value is what a
// length-delimited field holds, n what a number holds. Groups, which nobody
// has sent for ten years, are refused.
func protoFields(message []byte, read func(num protowire.Number, typ protowire.Type, value []byte, n uint64) error) error {
	for len(message) > 0 {
		num, typ, size := protowire.ConsumeTag(message)
		if size < 0 {
			return errProto
		}
		message = message[size:]
		var value []byte
		var n uint64
		switch typ {
		case protowire.BytesType:
			value, size = protowire.ConsumeBytes(message)
		case protowire.VarintType:
			n, size = protowire.ConsumeVarint(message)
		case protowire.Fixed32Type:
			var short uint32
			short, size = protowire.ConsumeFixed32(message)
			n = uint64(short)
		case protowire.Fixed64Type:
			n, size = protowire.ConsumeFixed64(message)
		default:
			return errProto
		}
		if size < 0 {
			return errProto
		}
		if err := read(num, typ, value, n); err != nil {
			return err
		}
		message = message[size:]
	}
	return nil
}

// contentsOf names the field of InferTensorContents that holds elements of a
// type, and how they are encoded; 0 for types that are sent raw alone.
func contentsOf(t models.DataType) (field protowire.Number, typ protowire.Type) {
	switch t {
	case models.Bool:
		return 1, protowire.VarintType
	case models.Int8, models.Int16, models.Int32:
		return 2, protowire.VarintType
	case models.Int64:
		return 3, protowire.VarintType
	case models.Uint8, models.Uint16, models.Uint32:
		return 4, protowire.VarintType
	case models.Uint64:
		return 5, protowire.VarintType
	case models.Float32:
		return 6, protowire.Fixed32Type
	case models.Float64:
		return 7, protowire.Fixed64Type
	case models.String:
		return 8, protowire.BytesType
	}
	return 0, 0
}
