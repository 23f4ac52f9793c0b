package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"unicode/utf8"

	"modelgate/client"
	"modelgate/models"
)

// conformanceWay is one way to send inputs and get outputs.
type conformanceWay struct {
	name string
	// body writes a request. header is the length of the JSON in front of
	// binary data, 0 for none.
	body func(model string, v *client.Version, inputs []onnxValue) (path string, body []byte, header int, err error)
	// read reads the outputs of an answer, as many as are expected.
	read func(v *client.Version, answer []byte, header int, want []onnxValue) ([]onnxValue, error)
}

var conformanceWays = []conformanceWay{
	{"binary", binaryBody, readBinary},
	{"json", inferBody, readInfer},
	{"predict", predictBody, readPredict},
}

// errUnwritable tells that JSON has no form for an input.
var errUnwritable = errors.New("JSON has no form for an input")

// ask sends one request and compares the answer. The outcome is "" when it is
// right, else a word for the list: "unwritable", "differs", or the status of a
// refusal. detail is for people.
func (w *conformanceWay) ask(ctx context.Context, p *program, token, model string, v *client.Version, set *onnxSet) (got []onnxValue, outcome, detail string) {
	path, body, header, err := w.body(model, v, set.inputs)
	if err != nil {
		return nil, "unwritable", err.Error()
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url+path, bytes.NewReader(body))
	if err != nil {
		return nil, "broken", err.Error()
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", "application/json")
	if header > 0 {
		r.Header.Set("Content-Type", "application/octet-stream")
		r.Header.Set("Inference-Header-Content-Length", strconv.Itoa(header))
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, "broken", err.Error()
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, "broken", err.Error()
	}
	if resp.StatusCode != http.StatusOK {
		return nil, strconv.Itoa(resp.StatusCode), string(answer)
	}
	length, _ := strconv.Atoi(resp.Header.Get("Inference-Header-Content-Length"))
	got, err = w.read(v, answer, length, set.outputs)
	if err == nil {
		err = compareValues(set.outputs, got, w.name != "binary")
	}
	if err != nil {
		return got, "differs", err.Error()
	}
	return got, "", ""
}

// inferPart is an entry of inputs or outputs of the Open Inference Protocol.
type inferPart struct {
	Name       string           `json:"name"`
	Datatype   string           `json:"datatype"`
	Shape      []int64          `json:"shape"`
	Data       json.RawMessage  `json:"data,omitempty"`
	Parameters map[string]int64 `json:"parameters,omitempty"`
}

func inferParts(v *client.Version, inputs []onnxValue, fill func(p *inferPart, t *onnxTensor) error) ([]inferPart, error) {
	if len(inputs) != len(v.Inputs) {
		return nil, fmt.Errorf("%d inputs of %d are given", len(inputs), len(v.Inputs))
	}
	parts := make([]inferPart, len(inputs))
	for i := range inputs {
		t := &inputs[i].tensor
		parts[i] = inferPart{Name: v.Inputs[i].Name, Datatype: t.datatype.String(), Shape: t.shape}
		if err := fill(&parts[i], t); err != nil {
			return nil, err
		}
	}
	return parts, nil
}

func binaryBody(model string, v *client.Version, inputs []onnxValue) (string, []byte, int, error) {
	var tail []byte
	parts, err := inferParts(v, inputs, func(p *inferPart, t *onnxTensor) error {
		from := len(tail)
		tail = append(tail, t.data...)
		for _, s := range t.strings {
			tail = binary.LittleEndian.AppendUint32(tail, uint32(len(s)))
			tail = append(tail, s...)
		}
		p.Parameters = map[string]int64{"binary_data_size": int64(len(tail) - from)}
		return nil
	})
	if err != nil {
		return "", nil, 0, err
	}
	head, err := json.Marshal(map[string]any{"inputs": parts, "parameters": map[string]any{"binary_data_output": true}})
	return "/v2/models/" + model + "/infer", append(head, tail...), len(head), err
}

func inferBody(model string, v *client.Version, inputs []onnxValue) (string, []byte, int, error) {
	parts, err := inferParts(v, inputs, func(p *inferPart, t *onnxTensor) error {
		data, err := jsonElements(t)
		p.Data = data
		return err
	})
	if err != nil {
		return "", nil, 0, err
	}
	body, err := json.Marshal(map[string]any{"inputs": parts})
	return "/v2/models/" + model + "/infer", body, 0, err
}

func predictBody(model string, v *client.Version, inputs []onnxValue) (string, []byte, int, error) {
	values := map[string]json.RawMessage{}
	_, err := inferParts(v, inputs, func(p *inferPart, t *onnxTensor) error {
		data, err := jsonElements(t)
		if err != nil {
			return err
		}
		if t.elements() == 0 {
			data, err = json.Marshal(map[string]any{"shape": t.shape, "data": json.RawMessage(data)})
		} else {
			data = nest(data, t.shape)
		}
		values[p.Name] = data
		return err
	})
	if err != nil {
		return "", nil, 0, err
	}
	body, err := json.Marshal(map[string]any{"model": model, "inputs": values})
	return "/predict", body, 0, err
}

// jsonElements writes the elements as one flat array.
func jsonElements(t *onnxTensor) ([]byte, error) {
	if !t.finite() {
		return nil, errUnwritable
	}
	if t.datatype == models.String {
		for _, s := range t.strings {
			if !utf8.ValidString(s) {
				return nil, errUnwritable
			}
		}
		return json.Marshal(append([]string{}, t.strings...))
	}
	b := []byte{'['}
	for i := range int(t.elements()) {
		if i > 0 {
			b = append(b, ',')
		}
		bits := t.bits(i)
		switch t.datatype {
		case models.Bool:
			b = strconv.AppendBool(b, bits != 0)
		case models.Int8:
			b = strconv.AppendInt(b, int64(int8(bits)), 10)
		case models.Int16:
			b = strconv.AppendInt(b, int64(int16(bits)), 10)
		case models.Int32:
			b = strconv.AppendInt(b, int64(int32(bits)), 10)
		case models.Int64:
			b = strconv.AppendInt(b, int64(bits), 10)
		case models.Uint8, models.Uint16, models.Uint32, models.Uint64:
			b = strconv.AppendUint(b, bits, 10)
		case models.Float64:
			b = strconv.AppendFloat(b, t.float(i), 'g', -1, 64)
		default:
			b = strconv.AppendFloat(b, t.float(i), 'g', -1, 32)
		}
	}
	return append(b, ']'), nil
}

// nest turns a flat array of a tensor without empty dimensions into nested
// ones; rank 0 is a value alone.
func nest(flat []byte, shape []int64) []byte {
	var list []json.RawMessage
	if err := json.Unmarshal(flat, &list); err != nil {
		panic(err) // it was just made
	}
	for level := len(shape) - 1; level >= 0; level-- {
		n := int(shape[level])
		var outer []json.RawMessage
		for chunk := range slices.Chunk(list, n) {
			outer = append(outer, slices.Concat([]byte{'['}, bytes.Join(rawBytes(chunk), []byte{','}), []byte{']'}))
		}
		list = outer
	}
	return list[0]
}

func rawBytes(list []json.RawMessage) [][]byte {
	out := make([][]byte, len(list))
	for i := range list {
		out[i] = list[i]
	}
	return out
}

// readParts reads the JSON of an infer answer and looks whether the outputs
// are those of the contract, in its order.
func readParts(v *client.Version, text []byte, want []onnxValue) ([]inferPart, error) {
	var answer struct{ Outputs []inferPart }
	if err := json.Unmarshal(text, &answer); err != nil {
		return nil, err
	}
	if len(answer.Outputs) != len(v.Outputs) || len(want) > len(v.Outputs) {
		return nil, fmt.Errorf("%d outputs, the model has %d and the data %d", len(answer.Outputs), len(v.Outputs), len(want))
	}
	for i, out := range answer.Outputs {
		if out.Name != v.Outputs[i].Name {
			return nil, fmt.Errorf("output %d is %s, declared is %s", i, out.Name, v.Outputs[i].Name)
		}
	}
	return answer.Outputs, nil
}

func readBinary(v *client.Version, answer []byte, header int, want []onnxValue) ([]onnxValue, error) {
	if header <= 0 || header > len(answer) {
		return nil, fmt.Errorf("the answer says that its JSON has %d bytes, of %d in all", header, len(answer))
	}
	parts, err := readParts(v, answer[:header], want)
	if err != nil {
		return nil, err
	}
	rest, values := answer[header:], make([]onnxValue, len(parts))
	for i, p := range parts {
		size := p.Parameters["binary_data_size"]
		if size > int64(len(rest)) {
			return nil, fmt.Errorf("output %d has %d bytes, %d are left", i, size, len(rest))
		}
		t := &values[i].tensor
		t.datatype, _ = models.ParseDataType(p.Datatype)
		t.shape, t.data = p.Shape, rest[:size]
		if t.datatype == models.String {
			if t.strings, err = splitStrings(t.data); err != nil {
				return nil, err
			}
			t.data = nil
		}
		rest = rest[size:]
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("%d bytes belong to no output", len(rest))
	}
	return values, nil
}

func splitStrings(b []byte) (list []string, err error) {
	for len(b) > 0 {
		if len(b) < 4 || int64(binary.LittleEndian.Uint32(b)) > int64(len(b)-4) {
			return nil, errors.New("a string is longer than what is left")
		}
		n := binary.LittleEndian.Uint32(b)
		list, b = append(list, string(b[4:4+n])), b[4+n:]
	}
	return list, nil
}

func readInfer(v *client.Version, answer []byte, _ int, want []onnxValue) ([]onnxValue, error) {
	parts, err := readParts(v, answer, want)
	if err != nil {
		return nil, err
	}
	values := make([]onnxValue, len(parts))
	for i, p := range parts {
		datatype, _ := models.ParseDataType(p.Datatype)
		var flat []any
		if err := decodeNumbers(p.Data, &flat); err != nil {
			return nil, err
		}
		if values[i].tensor, err = fromJSON(datatype, p.Shape, flat); err != nil {
			return nil, fmt.Errorf("output %d: %w", i, err)
		}
	}
	return values, nil
}

// readPredict reads nested arrays. They tell shapes, up to an empty dimension,
// but no types: those are taken from what is expected.
func readPredict(v *client.Version, answer []byte, _ int, want []onnxValue) ([]onnxValue, error) {
	var body struct{ Outputs map[string]json.RawMessage }
	if err := json.Unmarshal(answer, &body); err != nil {
		return nil, err
	}
	if len(body.Outputs) != len(v.Outputs) || len(want) > len(v.Outputs) {
		return nil, fmt.Errorf("%d outputs, the model has %d and the data %d", len(body.Outputs), len(v.Outputs), len(want))
	}
	values := make([]onnxValue, len(want))
	for i := range want {
		var nested any
		if err := decodeNumbers(body.Outputs[v.Outputs[i].Name], &nested); err != nil {
			return nil, err
		}
		values[i].sequence = want[i].sequence
		if !want[i].sequence {
			t, err := unnest(nested, &want[i].tensor)
			if err != nil {
				return nil, fmt.Errorf("output %d: %w", i, err)
			}
			values[i].tensor = t
			continue
		}
		items, ok := nested.([]any)
		if !ok || len(items) != len(want[i].items) {
			return nil, fmt.Errorf("output %d is no sequence of %d", i, len(want[i].items))
		}
		for k := range items {
			t, err := unnest(items[k], &want[i].items[k])
			if err != nil {
				return nil, fmt.Errorf("output %d, item %d: %w", i, k, err)
			}
			values[i].items = append(values[i].items, t)
		}
	}
	return values, nil
}

func decodeNumbers(text []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	return d.Decode(into)
}

// unnest reads nested arrays as a tensor of want's type and rank.
func unnest(nested any, want *onnxTensor) (onnxTensor, error) {
	shape, flat := slices.Clone(want.shape), []any{nested}
	for level := range shape {
		var inner []any
		for k, entry := range flat {
			list, ok := entry.([]any)
			if !ok || k > 0 && int64(len(list)) != shape[level] {
				return onnxTensor{}, fmt.Errorf("no array as long as the others at level %d", level)
			}
			shape[level] = int64(len(list))
			inner = append(inner, list...)
		}
		flat = inner
	}
	return fromJSON(want.datatype, shape, flat)
}

// fromJSON makes a tensor of JSON's values; null is NaN.
func fromJSON(datatype models.DataType, shape []int64, flat []any) (onnxTensor, error) {
	t := onnxTensor{datatype: datatype, shape: shape}
	if int64(len(flat)) != t.elements() {
		return t, fmt.Errorf("%d values for the shape %v", len(flat), shape)
	}
	t.data = []byte{}
	for i, v := range flat {
		if datatype == models.String {
			s, ok := v.(string)
			if !ok {
				return t, fmt.Errorf("value %d is no string", i)
			}
			t.strings = append(t.strings, s)
			continue
		}
		bits, err := elementBits(datatype, v)
		if err != nil {
			return t, fmt.Errorf("value %d: %w", i, err)
		}
		t.data = append(t.data, binary.LittleEndian.AppendUint64(nil, bits)[:datatype.Size()]...)
	}
	return t, nil
}

// elementBits reads one value, which must be just in its type's range.
func elementBits(datatype models.DataType, v any) (uint64, error) {
	if b, ok := v.(bool); ok && datatype == models.Bool {
		if b {
			return 1, nil
		}
		return 0, nil
	}
	number, ok := v.(json.Number)
	if !ok && v != nil {
		return 0, fmt.Errorf("%v is no number", v)
	}
	width := 8 * datatype.Size()
	switch datatype {
	case models.Int8, models.Int16, models.Int32, models.Int64:
		n, err := strconv.ParseInt(string(number), 10, width)
		return uint64(n), err
	case models.Uint8, models.Uint16, models.Uint32, models.Uint64:
		return strconv.ParseUint(string(number), 10, width)
	case models.Float16, models.BFloat16, models.Float32, models.Float64:
	default:
		return 0, fmt.Errorf("a number where %s belongs", datatype)
	}
	f := math.NaN()
	if v != nil {
		var err error
		if f, err = strconv.ParseFloat(string(number), max(width, 32)); err != nil {
			return 0, err
		}
	}
	switch datatype {
	case models.Float64:
		return math.Float64bits(f), nil
	case models.Float32:
		return uint64(math.Float32bits(float32(f))), nil
	}
	return nearest16(datatype, f), nil
}

// nearest16 finds the float16 or bfloat16 that is nearest to f.
func nearest16(datatype models.DataType, f float64) uint64 {
	if math.IsNaN(f) {
		return 0x7fff
	}
	positive := map[models.DataType]func() []float64{models.Float16: halves, models.BFloat16: bhalves}[datatype]()
	size := math.Abs(f)
	i, _ := slices.BinarySearch(positive, size)
	if i == len(positive) || i > 0 && size-positive[i-1] < positive[i]-size {
		i--
	}
	if math.Signbit(f) {
		i |= 1 << 15
	}
	return uint64(i)
}

// The finite values of 16-bit floats from 0 up; the place of each is its bits.
var (
	halves  = sync.OnceValue(func() []float64 { return floats16(models.Float16, 0x7c00) })
	bhalves = sync.OnceValue(func() []float64 { return floats16(models.BFloat16, 0x7f80) })
)

func floats16(datatype models.DataType, infinity int) []float64 {
	list := make([]float64, infinity)
	for i := range list {
		t := onnxTensor{datatype: datatype, data: []byte{byte(i), byte(i >> 8)}}
		list[i] = t.float(0)
	}
	return list
}
