package inference

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"modelgate/models"
)

// signature makes inputs from "name TYPE [dims]" lines; N stands for any size.
func signature(lines ...string) *models.Signature {
	sig := &models.Signature{}
	for _, line := range lines {
		sig.Inputs = append(sig.Inputs, spec(line))
	}
	return sig
}

func spec(line string) models.TensorSpec {
	f := strings.Fields(line)
	dt, ok := models.ParseDataType(f[1])
	if !ok {
		panic(line)
	}
	shape := []int64{}
	for d := range strings.SplitSeq(strings.Trim(f[2], "[]"), ",") {
		switch d {
		case "":
		case "N":
			shape = append(shape, -1)
		default:
			n, err := strconv.ParseInt(d, 10, 64)
			if err != nil {
				panic(line)
			}
			shape = append(shape, n)
		}
	}
	return models.TensorSpec{Name: f[0], GraphValue: models.GraphValue{Name: "graph/" + f[0], Type: dt, Shape: shape}}
}

// plain shows a tensor for comparison: its shape and its values.
func plain(t *Tensor) string {
	var values any
	switch t.Type {
	case models.Float32:
		values = View[float32](t)
	case models.Float64:
		values = View[float64](t)
	case models.Int8:
		values = View[int8](t)
	case models.Int16, models.Float16, models.BFloat16, models.Uint16:
		values = View[uint16](t)
	case models.Int32:
		values = View[int32](t)
	case models.Int64:
		values = View[int64](t)
	case models.Uint32:
		values = View[uint32](t)
	case models.Uint64:
		values = View[uint64](t)
	case models.String:
		return fmt.Sprintf("%v %q", t.Shape, t.Strings)
	default:
		values = View[uint8](t)
	}
	return fmt.Sprintf("%v %v", t.Shape, values)
}

func TestDecodeJSON(t *testing.T) {
	for _, c := range []struct {
		spec, json, want string
	}{
		{"X FP32 [N,4]", `{"X":[[5.1,3.5,1.4,0.2]]}`, "[1 4] [5.1 3.5 1.4 0.2]"},
		{"X FP32 [N,4]", `[[5.1,3.5,1.4,0.2],[1,2,3,4]]`, "[2 4] [5.1 3.5 1.4 0.2 1 2 3 4]"},
		{"X FP32 [N,4]", " { \"X\" :\n[ [ 5.1 , 3.5 ,\t1.4,\r\n0.2 ] ] } ", "[1 4] [5.1 3.5 1.4 0.2]"},
		{"X FP32 [N,4]", `{"X":{"shape":[1,4],"data":[1,2,3,4]}}`, "[1 4] [1 2 3 4]"},
		{"X FP32 [N,4]", `{"X":{"data":[ 1,2,3,4 ],"shape":[ 1 , 4 ]}}`, "[1 4] [1 2 3 4]"},
		{"X FP32 [N,4]", `{"\u0058":[[1,2,3,4]]}`, "[1 4] [1 2 3 4]"},
		{"X FP32 [N,4]", `{"X":[]}`, "[0 4] []"},
		{"X FP32 [N,4]", `{"X":{"shape":[0,4],"data":[]}}`, "[0 4] []"},
		{"X FP32 [N,N,N]", `[[],[]]`, "[2 0 0] []"},
		{"X FP32 [N,N,2]", `[[],[]]`, "[2 0 2] []"},
		{"X FP32 [N,2,2]", `[[[1,2],[3,4]],[[5,6],[7,8]]]`, "[2 2 2] [1 2 3 4 5 6 7 8]"},
		{"X FP32 []", `{"X":-2.5e-1}`, "[] [-0.25]"},
		{"X FP32 []", `-2.5e-1`, "[] [-0.25]"},
		{"X FP32 []", `{"X":{"shape":[],"data":[7]}}`, "[] [7]"},
		{"X FP32 [N]", `[1e-50,-0,3.4028235e38]`, "[3] [0 -0 3.4028235e+38]"},
		{"X FP64 [N]", `[1e-400,1.7976931348623157e308,0.1]`, "[3] [0 1.7976931348623157e+308 0.1]"},
		{"X FP16 [N]", `[1,-2,0.333251953125]`, "[3] [15360 49152 13653]"},
		{"X BF16 [N]", `[1,-2]`, "[2] [16256 49152]"},
		{"X INT8 [N]", `[-128,127,-0]`, "[3] [-128 127 0]"},
		{"X UINT8 [N]", `[0,255]`, "[2] [0 255]"},
		{"X INT16 [N]", `[1]`, "[1] [1]"},
		{"X UINT16 [N]", `[65535]`, "[1] [65535]"},
		{"X INT32 [N]", `[-2147483648]`, "[1] [-2147483648]"},
		{"X UINT32 [N]", `[4294967295]`, "[1] [4294967295]"},
		{"X INT64 [N]", `[9223372036854775807,-9223372036854775808]`, "[2] [9223372036854775807 -9223372036854775808]"},
		{"X UINT64 [N]", `[18446744073709551615]`, "[1] [18446744073709551615]"},
		{"X BOOL [N]", `[true,false]`, "[2] [1 0]"},
		{"X BOOL []", `true`, "[] [1]"},
		{"X BYTES [N]", `["a","","\u00e4\ud83d\ude00\n\"\\\/",",],[ä"]`, `[4] ["a" "" "ä😀\n\"\\/" ",],[ä"]`},
		{"X BYTES [N,2]", `[["a","b"],["c","d"]]`, `[2 2] ["a" "b" "c" "d"]`},
		{"X BYTES []", `"one"`, `[] ["one"]`},
		{"X BYTES [N,1]", `{"X":{"shape":[2,1],"data":["x","y\u0000"]}}`, `[2 1] ["x" "y\x00"]`},
	} {
		mem := NewMemory(1 << 20)
		in, err := DecodeJSON([]byte(c.json), signature(c.spec), mem)
		if err != nil {
			t.Errorf("%s: %s: %v", c.spec, c.json, err)
			continue
		}
		if got := plain(&in[0]); got != c.want {
			t.Errorf("%s: %s: got %s, want %s", c.spec, c.json, got, c.want)
		}
		if err := checkInputs(signature(c.spec), in); err != nil {
			t.Errorf("%s: %s: %v", c.spec, c.json, err)
		}
		in[0].Release()
		if mem.InUse() != 0 {
			t.Errorf("%s: %d bytes left", c.json, mem.InUse())
		}
	}
}

func TestDecodeJSONByName(t *testing.T) {
	sig := signature("a FP32 [N]", "b INT64 [N,2]", "c BYTES [N]")
	mem := NewMemory(1 << 20)
	in, err := DecodeJSON([]byte(`{"c":["],\"{"],"b":[[1,2],[3,4]],"a":[1,2,3]}`), sig, mem)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"[3] [1 2 3]", "[2 2] [1 2 3 4]", `[1] ["],\"{"]`} {
		if got := plain(&in[i]); got != want {
			t.Errorf("input %d: got %s, want %s", i, got, want)
		}
		in[i].Release()
	}
	if mem.InUse() != 0 {
		t.Errorf("%d bytes left", mem.InUse())
	}
}

// TestDecodeJSONRefusals states what callers are told. Every refusal must name
// the input in public terms and leave no memory behind.
func TestDecodeJSONRefusals(t *testing.T) {
	for _, c := range []struct {
		spec, json, want string
	}{
		{"X FP32 [N,4]", `{"X":[[1,2,3,4],[1,2,3,4],[1,2,3,4],[1,2,3,4,5]]}`, `input "X" is ragged: row 3 has 5 values, row 0 has 4; every row must be equally long`},
		{"X FP32 [N,2,2]", `{"X":[[[1,2],[3,4]],[[1,2],[3]]]}`, `input "X" is ragged: [1][1] has 1 entries, the ones before it have 2`},
		{"X FP32 [N,4]", `{"X":[[1,2,3],[4,5,6]]}`, `input "X" wants FP32 [N,4], got [2,3]`},
		{"X FP32 [N,N,3]", `{"X":{"shape":[2,3],"data":[1,2,3,4,5,6]}}`, `input "X" wants FP32 [N,M,3], got [2,3]`},
		{"X FP32 [N,4]", `{"X":[1,2,3,4]}`, `input "X" wants FP32 [N,4]: 2 levels of arrays, got values at level 1; for one row write [[...]]`},
		{"X FP32 [N,4]", `{"X":5}`, `input "X" wants FP32 [N,4]: 2 levels of arrays, got a single value`},
		{"X FP32 [N]", `{"X":[[1]]}`, `input "X" wants FP32 [N]: the arrays nest deeper than 1 level`},
		{"X FP32 []", `{"X":[1]}`, `input "X" wants FP32 []: the arrays nest deeper than 0 levels`},
		{"X FP32 [N,4]", `{"Y":[[1,2,3,4]]}`, `unknown input "Y"; the model takes X`},
		{"X FP32 [N,4]", `{"x":[[1,2,3,4]]}`, `unknown input "x"; the model takes X`},
		{"X FP32 [N,4]", `{}`, `input "X" is missing; the model takes X`},
		{"X FP32 [N,4]", `{"X":[[1,2,3,4]],"X":[[1,2,3,4]]}`, `input "X" is given twice`},
		{"X FP32 [N,4]", `{"X":[[1,2,null,4]]}`, `input "X" does not fit: row 0, value 2 is null; FP32 takes numbers, never null, NaN or Infinity`},
		{"X FP32 [N,4]", `{"X":[[1,2,NaN,4]]}`, `input "X" does not fit: row 0, value 2 is "NaN"; FP32 takes numbers, never null, NaN or Infinity`},
		{"X FP32 [N,4]", `{"X":[[1,-Infinity]]}`, `value 1 is "-Infinity"`},
		{"X FP32 [N,4]", `{"X":[[1,"2"]]}`, `value 1 is a string; FP32 takes numbers`},
		{"X FP32 [N]", `{"X":[1e39]}`, `input "X" does not fit: value 0 is "1e39", beyond the range of FP32`},
		{"X FP64 [N]", `{"X":[1e999]}`, `beyond the range of FP64`},
		{"X FP16 [N]", `{"X":[65520]}`, `beyond the range of FP16`},
		{"X UINT8 [N]", `{"X":[1,300]}`, `input "X" does not fit: value 1 is "300", beyond the range of UINT8 (0 to 255)`},
		{"X UINT8 [N]", `{"X":[-1]}`, `beyond the range of UINT8 (0 to 255)`},
		{"X INT8 [N]", `{"X":[128]}`, `beyond the range of INT8 (-128 to 127)`},
		{"X INT64 [N]", `{"X":[1.0]}`, `value 0 is "1.0"; INT64 takes whole numbers, written without fraction and exponent`},
		{"X INT64 [N]", `{"X":[1e3]}`, `written without fraction and exponent`},
		{"X INT64 [N]", `{"X":[true]}`, `is a truth value; INT64 takes numbers`},
		{"X BOOL [N]", `{"X":[1]}`, `is "1"; BOOL takes true or false`},
		{"X BOOL [N]", `{"X":[True]}`, `is "True"; BOOL takes true or false`},
		{"X BYTES [N]", `{"X":[1]}`, `is "1"; BYTES takes strings`},
		{"X BYTES [N]", `{"X":[null]}`, `is null; BYTES takes strings`},
		{"X BYTES [N]", `{"X":["\ud800"]}`, `stands for no character`},
		{"X BYTES [N]", `{"X":["\udc00\ud800"]}`, `stands for no character`},
		{"X BYTES [N]", `{"X":["\ud83dx"]}`, `stands for no character`},
		{"X BYTES [N]", `{"X":["\x"]}`, `is not JSON`},
		{"X BYTES [N]", `{"X":["\u12g4"]}`, `stands for no character`},
		{"X BYTES [N]", "{\"X\":[\"\xff\"]}", `is not valid UTF-8`},
		{"X BYTES [N]", "{\"X\":[\"a\nb\"]}", `no control character`},
		{"X FP32 [N]", `{"X":[1,]}`, `expected a value, found "]"`},
		{"X FP32 [N]", `{"X":[,1]}`, `expected a value, found ","`},
		{"X FP32 [N]", `{"X":[1 2]}`, `expected a comma or ] behind value 0, found "2"`},
		{"X FP32 [N]", `{"X":[01]}`, `expected a comma or ] behind value 0, found "1"`},
		{"X FP32 [N]", `{"X":[0x1p3]}`, `found "x1p3"`},
		{"X FP32 [N]", `{"X":[1_0]}`, `found "_0"`},
		{"X FP32 [N]", `{"X":[+1]}`, `is "+1"`},
		{"X FP32 [N]", `{"X":[.5]}`, `is ".5"`},
		{"X FP32 [N]", `{"X":[1.]}`, `is "1."`},
		{"X FP32 [N]", `{"X":[1`, `the JSON ends too early`},
		{"X FP32 [N]", `{"X":[1}`, `expected a comma or ]`},
		{"X FP32 [N,N]", `{"X":[[1}]`, `expected a comma or ]`},
		{"X FP32 [N,N]", `{"X":[[1]}`, `expected a comma or ]`},
		{"X FP32 [N]", `{"X":[1]]`, `expected a comma or }`},
		{"X FP32 [N]", `{"X":[1]} x`, `expected nothing more`},
		{"X FP32 [N]", `[1] []`, `expected nothing more`},
		{"X FP32 [N]", `null`, `input "X" has null where an array belongs; it wants FP32 [N]`},
		{"X FP32 []", `null`, `input "X" does not fit: the value is null`},
		{"X FP32 [N]", ``, `the JSON ends too early`},
		{"X FP32 [N]", `{"X":{"shape":[3],"data":[1,2]}}`, `input "X" has 2 values in "data", but the shape [3] needs 3`},
		{"X FP32 [N]", `{"X":{"shape":[1,2],"data":[1,2]}}`, `input "X" wants FP32 [N], got [1,2]`},
		{"X FP32 [N]", `{"X":{"shape":[2],"data":[[1,2]]}}`, `has nested arrays in "data"`},
		{"X FP32 [N]", `{"X":{"shape":[2]}}`, `without "shape" or without "data"`},
		{"X FP32 [N]", `{"X":{"shape":[2],"data":[1,2],"datatype":"FP32"}}`, `is an object with the key "datatype"`},
		{"X FP32 [N]", `{"X":{"shape":[2],"data":[1,2],"data":[1,2]}}`, `has "data" twice`},
		{"X FP32 [N]", `{"X":{"shape":[-1],"data":[]}}`, `that is no list of whole numbers from 0 to 2147483647; FP32 [N] wants 1 of them`},
		{"X FP32 [N]", `{"X":{"shape":[1.0],"data":[1]}}`, `no list of whole numbers`},
		{"X FP32 [N]", `{"X":{"shape":2,"data":[1]}}`, `no list of whole numbers`},
		{"X FP32 [N]", `{"X":{"shape":[1],"data":1}}`, `has "data" that is no array`},
		{"X FP32 [N]", `{"X":{"shape":null,"data":[1]}}`, `no list of whole numbers`},
		{"X FP32 [N,N,N]", `{"X":{"shape":[2147483647,2147483647,2147483647],"data":[1]}}`, `has a shape whose size is out of range`},
		{"X FP32 [N,N]", `{"X":{"shape":[3,6148914691236517207],"data":[1]}}`, `no list of whole numbers`},
		{"X FP32 [N,N]", `{"X":{"shape":[2147483647,1],"data":[1]}}`, `has 1 value in "data", but the shape [2147483647,1] needs 2147483647`},
		{"X FP32 [N]", `{"X":` + strings.Repeat("[", 100_000) + `}`, `the arrays nest deeper than 1 level`},
		{"X FP32 [N]", `{"X":[{"a":1}]}`, `is an object; FP32 takes numbers`},
	} {
		mem := NewMemory(1 << 20)
		_, err := DecodeJSON([]byte(c.json), signature(c.spec), mem)
		show := c.json[:min(len(c.json), 80)]
		switch {
		case !errors.Is(err, ErrInput):
			t.Errorf("%s: %s: %v", c.spec, show, err)
		case !strings.Contains(err.Error(), c.want):
			t.Errorf("%s: %s:\n got %v\nwant %s", c.spec, show, err, c.want)
		case strings.Contains(err.Error(), "graph/"):
			t.Errorf("a graph name got out: %v", err)
		}
		if mem.InUse() != 0 {
			t.Errorf("%s: %d bytes left", show, mem.InUse())
		}
	}
}

func TestDecodeJSONOfSeveralInputs(t *testing.T) {
	sig := signature("a FP32 [N]", "b INT64 [N]")
	for _, c := range []struct{ json, want string }{
		{`[1]`, `the model takes 2 inputs: send an object with the keys a, b`},
		{`{"a":[1]}`, `input "b" is missing; the model takes a, b`},
		{`{"a":[1],"b":[1.5]}`, `input "b" does not fit: value 0 is "1.5"`},
		{`{"a":[1],"c":[1]}`, `unknown input "c"; the model takes a, b`},
		{`{"a":[1],"` + strings.Repeat("c", 500) + `":[1]}`, `unknown input "cccccccccccccccccccccccccccccccccccccccc"...; the model takes a, b`},
		{`{"a":[1` + strings.Repeat("[", 100_000), `nests deeper than 64 levels`},
	} {
		mem := NewMemory(1 << 20)
		_, err := DecodeJSON([]byte(c.json), sig, mem)
		if !errors.Is(err, ErrInput) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.80s:\n got %v\nwant %s", c.json, err, c.want)
		}
		if mem.InUse() != 0 {
			t.Errorf("%.80s: %d bytes left", c.json, mem.InUse())
		}
	}
}

// A request takes memory for what it really holds, never for what it claims.
func TestDecodeJSONStaysWithinWhatWasSent(t *testing.T) {
	mem := NewMemory(1 << 12)
	if _, err := DecodeJSON([]byte(`{"X":{"shape":[1000000000],"data":[1]}}`), signature("X FP64 [N]"), mem); !errors.Is(err, ErrInput) {
		t.Errorf("a claim of a billion elements: %v", err)
	}
	long := "[" + strings.Repeat("1,", 1<<12) + "1]"
	if _, err := DecodeJSON([]byte(long), signature("X FP64 [N]"), mem); !errors.Is(err, ErrTooLarge) {
		t.Errorf("more than the budget: %v", err)
	}
	if mem.InUse() != 0 {
		t.Errorf("%d bytes left", mem.InUse())
	}
}

func TestScanPredict(t *testing.T) {
	for _, c := range []struct {
		body string
		want Envelope
	}{
		{`{"model":"iris","inputs":{"X":[[1]]}}`, Envelope{Model: "iris", Inputs: []byte(`{"X":[[1]]}`)}},
		{` { "inputs" : [ 1 , "]}\"" ] , "model" : "iris" } `, Envelope{Model: "iris", Inputs: []byte(`[ 1 , "]}\"" ]`)}},
		{`{"inputs":5,"model":"m","version":2,"id":"","outputs":["a","b"]}`, Envelope{Model: "m", Version: 2, HasID: true, Outputs: []string{"a", "b"}, Inputs: []byte(`5`)}},
		{`{"inputs":"x","model":"m","alias":"canary","id":"\u00e4\n"}`, Envelope{Model: "m", Alias: "canary", ID: "ä\n", HasID: true, Inputs: []byte(`"x"`)}},
		{`{"inputs":"x\\","\u006dodel":"m"}`, Envelope{Model: "m", Inputs: []byte(`"x\\"`)}},
		{`{"inputs":{"a":"\"}{][\\"},"model":"m"}`, Envelope{Model: "m", Inputs: []byte(`{"a":"\"}{][\\"}`)}},
		{`{"model":"m","inputs":` + strings.Repeat("[", 64) + strings.Repeat("]", 64) + `}`, Envelope{Model: "m", Inputs: []byte(strings.Repeat("[", 64) + strings.Repeat("]", 64))}},
	} {
		got, err := ScanPredict([]byte(c.body))
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s:\n got %+v, %v\nwant %+v", c.body, got, err, c.want)
		}
	}
}

func TestScanPredictRefusals(t *testing.T) {
	for _, c := range []struct{ body, want string }{
		{``, `the JSON ends too early: expected an object like`},
		{`[]`, `expected an object like`},
		{"\ufeff{}", `expected an object like`},
		{`{}`, `"model" is missing`},
		{`{"inputs":[1]}`, `"model" is missing`},
		{`{"model":"m"}`, `"inputs" is missing`},
		{`{"model":"m","inputs":[1],"inputs":[1]}`, `"inputs" is given twice`},
		{`{"model":"m","mod\u0065l":"m","inputs":[1]}`, `"model" is given twice`},
		{`{"Model":"m","inputs":[1]}`, `unknown field "Model"; field names are lower case: "model"`},
		{`{"model":"m","inputs":[1],"parameters":{}}`, `unknown field "parameters"; a prediction takes model`},
		{`{"model":"m","inputs":[1]} x`, `expected nothing more, found "x"`},
		{`{"model":"m","inputs":[1]}{}`, `expected nothing more`},
		{`{"model":"m","inputs":[1],}`, `expected a key in double quotes`},
		{`{"model":"m" "inputs":[1]}`, `expected a comma or }`},
		{`{"model" "m"}`, `expected a colon`},
		{`{model:"m"}`, `expected a key in double quotes`},
		{`{"model":7,"inputs":[1]}`, `"model" must be a string`},
		{`{"model":null,"inputs":[1]}`, `"model" must be a string, found "null"`},
		{`{"model":"","inputs":[1]}`, `"model" is empty`},
		{`{"model":"` + strings.Repeat("m", 300) + `","inputs":[1]}`, `"model" is longer than 256 bytes`},
		{"{\"model\":\"\xff\",\"inputs\":[1]}", `not valid UTF-8`},
		{"{\"model\":\"a\x00\",\"inputs\":[1]}", `no control character`},
		{`{"model":"m","version":0,"inputs":[1]}`, `"version" must be a whole number from 1 on`},
		{`{"model":"m","version":1.5,"inputs":[1]}`, `"version" must be a whole number`},
		{`{"model":"m","version":"1","inputs":[1]}`, `"version" must be a whole number`},
		{`{"model":"m","version":99999999999,"inputs":[1]}`, `"version" must be a whole number`},
		{`{"model":"m","version":1,"alias":"a","inputs":[1]}`, `exclude each other`},
		{`{"model":"m","outputs":[],"inputs":[1]}`, `"outputs" is an empty list`},
		{`{"model":"m","outputs":"a","inputs":[1]}`, `"outputs" must be a list`},
		{`{"model":"m","outputs":["a",1],"inputs":[1]}`, `"outputs" must be a string`},
		{`{"model":"m","id":1,"inputs":[1]}`, `"id" must be a string`},
		{`{"model":"m","inputs":`, `the JSON ends too early`},
		{`{"model":"m","inputs":[1`, `the JSON ends too early`},
		{`{"model":"m","inputs":"x`, `the JSON ends too early`},
		{`{"model":"m","inputs":,"id":"x"}`, `expected a value`},
		{`{"model":"m","inputs":` + strings.Repeat("[", 100_000), `nests deeper than 64 levels`},
		{`{"model":"m","inputs":` + strings.Repeat(`{"a":`, 100_000), `nests deeper than 64 levels`},
		{`{"model":"m","inputs":` + strings.Repeat("[", 65) + strings.Repeat("]", 65) + `}`, `nests deeper than 64 levels`},
		{`{"model":"m","inputs":[1],"` + strings.Repeat("k", 1000) + `":1}`, `"...; a prediction takes`},
		{"{\"model\":\"m\",\"inputs\":[1],\"a\x1b[31m\":1}", `no control character`},
	} {
		_, err := ScanPredict([]byte(c.body))
		if !errors.Is(err, ErrInput) || !strings.Contains(err.Error(), c.want) || len(err.Error()) > 400 {
			t.Errorf("%.80s:\n got %v\nwant %s", c.body, err, c.want)
		}
	}
}

// What skip passes over eight bytes at a time must end where a reader of
// single bytes says it ends.
func TestSkipEndsWhereTheValueEnds(t *testing.T) {
	piece := rapid.SampledFrom([]string{
		`1`, `,`, `1.5e-7`, ` `, `"`, `\"`, `\\`, `[`, `]`, `{`, `}`, `:`, "\n", `aB_é`, `[]`, `""`, `"]"`, `[[1,2],[3,4]]`, `12345678901234567890`,
	})
	rapid.Check(t, func(t *rapid.T) {
		text := "[" + strings.Join(rapid.SliceOfN(piece, 0, 60).Draw(t, "pieces"), "")
		s := scanner{b: []byte(text)}
		value, err := s.skip()
		want := endByHand(text)
		if want < 0 != (err != nil) || err == nil && len(value) != want {
			t.Fatalf("%q: skipped %d bytes (%v), want %d", text, len(value), err, want)
		}
	})
}

func endByHand(text string) int {
	depth, quoted, escaped := 0, false, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case escaped:
			escaped = false
		case quoted:
			escaped, quoted = c == '\\', c != '"'
		case c == '"':
			quoted = true
		case c == '[' || c == '{':
			if depth++; depth > maxDepth {
				return -1
			}
		case c == ']' || c == '}':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return -1
}

// Nested arrays of random shape and spacing, written by encoding/json, come
// back as they were.
func TestDecodeJSONReadsWhatOthersWrite(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		shape := rapid.SliceOfN(rapid.Int64Range(1, 5), 1, 4).Draw(t, "shape")
		n, _ := Elements(shape)
		want := make([]float32, n)
		for i := range want {
			want[i] = rapid.Float32().Draw(t, "v")
		}
		var nest func(level, at int) any
		step := len(want)
		steps := []int{}
		for _, d := range shape {
			step /= int(d)
			steps = append(steps, step)
		}
		nest = func(level, at int) any {
			if level == len(shape) {
				return want[at]
			}
			list := []any{}
			for i := range int(shape[level]) {
				list = append(list, nest(level+1, at+i*steps[level]))
			}
			return list
		}
		text, err := json.Marshal(nest(0, 0))
		if err != nil {
			t.Fatal(err)
		}
		if rapid.Bool().Draw(t, "spaced") {
			text = bytes.ReplaceAll(text, []byte(","), []byte(", "))
		}
		open := make([]string, len(shape))
		for i := range open {
			open[i] = "N"
		}
		mem := NewMemory(1 << 20)
		in, err := DecodeJSON(text, signature("X FP32 ["+strings.Join(open, ",")+"]"), mem)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(in[0].Shape, shape) {
			t.Fatalf("shape %v, want %v", in[0].Shape, shape)
		}
		for i, v := range View[float32](&in[0]) {
			if math.Float32bits(v) != math.Float32bits(want[i]) {
				t.Fatalf("element %d: %v, want %v", i, v, want[i])
			}
		}
		in[0].Release()
	})
}
