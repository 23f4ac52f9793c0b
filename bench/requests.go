package main

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
)

// values are the n numbers that every model gets, here and over HTTP: float32
// in [0, 1), always the same, with as many digits as real data has.
func values(n int64) []float32 {
	random := rand.New(rand.NewPCG(7, 7))
	list := make([]float32, n)
	for i := range list {
		list[i] = random.Float32()
	}
	return list
}

// vocabulary is how many ids the models know that take ids.
const vocabulary = 1000

// tokenOf makes an id of one of the values.
func tokenOf(f float32) int64 { return int64(f * vocabulary) }

// numbers is how many one row has.
func (m model) numbers() int64 {
	n := int64(1)
	for _, d := range m.shape {
		n *= d
	}
	return n
}

// datatype is what the Open Inference Protocol calls the input's type.
func (m model) datatype() string {
	if m.ids {
		return "INT64"
	}
	return "FP32"
}

// rows is the model called with n rows at once.
func (m model) rows(n int64) model {
	m.shape = append([]int64{n}, m.shape[1:]...)
	return m
}

// bytes is one row as both protocols carry it: little-endian.
func (m model) bytes() []byte {
	var b []byte
	for _, f := range values(m.numbers()) {
		if m.ids {
			b = binary.LittleEndian.AppendUint64(b, uint64(tokenOf(f)))
		} else {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(f))
		}
	}
	return b
}

func get(address string) []byte {
	return []byte("GET / HTTP/1.1\r\nHost: " + address + "\r\n\r\n")
}

// authorized is a whole request with a token.
func authorized(s *server, path, token, headers string, body []byte) []byte {
	head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n%sContent-Length: %d\r\n\r\n",
		path, s.address, token, headers, len(body))
	return append([]byte(head), body...)
}

// predict is one row of JSON with the server's token.
func predict(s *server, m model) []byte { return predictAs(s, m, s.token) }

func predictAs(s *server, m model, token string) []byte {
	body := fmt.Appendf(nil, `{"model":%q,"inputs":{%q:`, m.name, m.input)
	numbers := values(m.numbers())
	if m.ids {
		body = arrays(body, m.shape, &numbers, func(b []byte, f float32) []byte { return strconv.AppendInt(b, tokenOf(f), 10) })
	} else {
		body = nested(body, m.shape, &numbers)
	}
	body = append(body, "}}"...)
	return authorized(s, "/predict", token, "Content-Type: application/json\r\n", body)
}

// nested writes the next of the numbers as arrays of that shape.
func nested(b []byte, shape []int64, numbers *[]float32) []byte {
	return arrays(b, shape, numbers, func(b []byte, f float32) []byte { return strconv.AppendFloat(b, float64(f), 'g', -1, 32) })
}

func arrays(b []byte, shape []int64, numbers *[]float32, write func([]byte, float32) []byte) []byte {
	if len(shape) == 0 {
		b = write(b, (*numbers)[0])
		*numbers = (*numbers)[1:]
		return b
	}
	b = append(b, '[')
	for i := range shape[0] {
		if i > 0 {
			b = append(b, ',')
		}
		b = arrays(b, shape[1:], numbers, write)
	}
	return append(b, ']')
}

// infer is one row by the Open Inference Protocol over REST, with the binary
// tensor data extension both ways.
func infer(s *server, m model) []byte {
	data := m.bytes()
	shape := strconv.FormatInt(m.shape[0], 10)
	for _, d := range m.shape[1:] {
		shape += "," + strconv.FormatInt(d, 10)
	}
	head := fmt.Sprintf(`{"inputs":[{"name":%q,"datatype":%q,"shape":[%s],"parameters":{"binary_data_size":%d}}],`+
		`"parameters":{"binary_data_output":true}}`, m.input, m.datatype(), shape, len(data))
	headers := fmt.Sprintf("Content-Type: application/octet-stream\r\nInference-Header-Content-Length: %d\r\n", len(head))
	return authorized(s, "/v2/models/"+m.name+"/infer", s.token, headers, append([]byte(head), data...))
}

// Fields of inference.ModelInferRequest and its InferInputTensor, as in the
// Open Inference Protocol's grpc_predict_v2.proto.
const (
	requestModelName = 1
	requestInputs    = 5
	requestRaw       = 7
	tensorName       = 1
	tensorDatatype   = 2
	tensorShape      = 3
)

// inferMessage is one row as a ModelInferRequest with raw contents.
func inferMessage(m model) []byte {
	field := func(b []byte, n protowire.Number, content []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), content)
	}
	var shape []byte
	for _, d := range m.shape {
		shape = protowire.AppendVarint(shape, uint64(d))
	}
	tensor := field(nil, tensorName, []byte(m.input))
	tensor = field(tensor, tensorDatatype, []byte(m.datatype()))
	tensor = field(tensor, tensorShape, shape)
	b := field(nil, requestModelName, []byte(m.name))
	b = field(b, requestInputs, tensor)
	return field(b, requestRaw, m.bytes())
}
