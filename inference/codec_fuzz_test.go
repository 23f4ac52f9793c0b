package inference

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"modelgate/models"
)

// FuzzScanPredict compares with encoding/json: a body that is JSON and taken
// has its inputs where encoding/json finds them, and what surrounds the inputs
// of any body that is taken is JSON of the documented form.
func FuzzScanPredict(f *testing.F) {
	for _, body := range []string{
		`{"model":"iris","inputs":{"X":[[5.1,3.5,1.4,0.2]]}}`,
		`{"inputs":[1,"]}\"",{"a":"\\"}],"model":"m","version":3,"id":"r\u00e41","outputs":["a"]}`,
		`{"inputs":5,"alias":"canary","model":"m"}`,
		`{"Model":"m"}`,
		`{"model":"m","inputs":[[[[[[[[[]]]]]]]]]}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		e, err := ScanPredict(body)
		if err != nil {
			if e.Model != "" || e.Inputs != nil {
				t.Fatalf("an error and %+v", e)
			}
			return
		}
		at := bytes.Index(body, e.Inputs)
		for ; &body[at] != &e.Inputs[0]; at++ {
		}
		around := append(append(bytes.Clone(body[:at]), '0'), body[at+len(e.Inputs):]...)
		var want struct {
			Model   string   `json:"model"`
			Version int      `json:"version"`
			Alias   string   `json:"alias"`
			ID      *string  `json:"id"`
			Outputs []string `json:"outputs"`
			Inputs  int      `json:"inputs"`
		}
		d := json.NewDecoder(bytes.NewReader(around))
		d.DisallowUnknownFields()
		if err := d.Decode(&want); err != nil {
			t.Fatalf("%q was taken, but around the inputs: %v", body, err)
		}
		if want.Model != e.Model || want.Version != e.Version || want.Alias != e.Alias || (want.ID != nil) != e.HasID || e.HasID && *want.ID != e.ID || len(want.Outputs) != len(e.Outputs) {
			t.Fatalf("%q: %+v, want %+v", body, e, want)
		}
		if json.Valid(body) {
			var whole map[string]json.RawMessage
			if err := json.Unmarshal(body, &whole); err != nil {
				t.Fatal(err)
			}
			if got := strings.TrimSpace(string(whole["inputs"])); got != string(bytes.TrimSpace(e.Inputs)) {
				t.Fatalf("%q: inputs %q, want %q", body, e.Inputs, got)
			}
		}
	})
}

// fuzzed are the element types that FuzzDecodeJSON reads into.
var fuzzed = []models.DataType{models.Float32, models.Float64, models.Int64, models.Uint8, models.Bool, models.String, models.Float16, models.BFloat16}

// FuzzDecodeJSON reads bare arrays of rank 0 to 3 and compares with
// encoding/json: both take the same texts and see the same values. Objects
// must at least fail cleanly or give a whole tensor.
func FuzzDecodeJSON(f *testing.F) {
	for i, text := range []string{
		`[[5.1,3.5,1.4,0.2],[1e-7,-0,0.1,123456789.123456789]]`, `[1.5,2.25e3]`, `[[1,-2],[9223372036854775807,4]]`, `[0,255]`,
		`[true,false]`, `["a","\ud83d\ude00\n",",]"]`, `[[[65504]],[[-0.0001]]]`, `[]`,
		`{"X":{"shape":[1,2],"data":[1,2]}}`, `{"X":[[1],[2]]}`, `[[],[]]`, `7`, `[1,null]`, `[[1,2],[3]]`, `[NaN]`, `[1e400]`,
	} {
		for rank := range 4 {
			f.Add([]byte(text), uint8(i), uint8(rank))
		}
	}
	f.Fuzz(func(t *testing.T, text []byte, kind, rank uint8) {
		mem := NewMemory(1 << 24)
		dt := fuzzed[int(kind)%len(fuzzed)]
		sig := &models.Signature{Inputs: []models.TensorSpec{{Name: "X", GraphValue: models.GraphValue{Type: dt, Shape: []int64{-1, -1, -1}[:rank%4]}}}}
		in, err := DecodeJSON(text, sig, mem)
		if err != nil {
			if mem.InUse() != 0 {
				t.Fatalf("%q: %d bytes left", text, mem.InUse())
			}
		} else {
			if err := checkInputs(sig, in); err != nil {
				t.Fatalf("%q: %v", text, err)
			}
			defer in[0].Release()
		}
		if strings.HasPrefix(strings.TrimSpace(string(text)), "{") {
			return
		}
		want, ok := oracle(text, dt, int(rank%4))
		switch {
		case ok && err != nil && dt == models.String && (!utf8.Valid(text) || bytes.Contains(text, []byte(`\u`))):
			// encoding/json mends what is no text; we refuse it.
		case ok != (err == nil):
			t.Fatalf("%q as %s of rank %d: %v; encoding/json takes it: %v", text, dt, rank%4, err, ok)
		case ok:
			if got := plain(&in[0]); got != want {
				t.Fatalf("%q: %s, want %s", text, got, want)
			}
		}
	})
}

// oracle reads nested arrays with encoding/json. ok is false for what is not
// rectangular or holds what the type can't.
func oracle(text []byte, dt models.DataType, rank int) (string, bool) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil {
		return "", false
	}
	if _, err := d.Token(); err == nil || err.Error() != "EOF" {
		return "", false
	}
	shape := make([]int64, rank)
	for i := range shape {
		shape[i] = -1
	}
	var flat []any
	if !flatten(v, 0, shape, &flat) {
		return "", false
	}
	n := int64(len(flat))
	for i := range shape {
		shape[i] = max(shape[i], 0)
	}
	t, err := NewTensor(NewMemory(1<<24), dt, []int64{n})
	if err != nil {
		return "", false
	}
	t.Shape = shape
	for i, v := range flat {
		if !place(&t, i, v) {
			return "", false
		}
	}
	return plain(&t), true
}

func flatten(v any, level int, shape []int64, flat *[]any) bool {
	list, ok := v.([]any)
	if level == len(shape) {
		*flat = append(*flat, v)
		return !ok
	}
	if !ok || shape[level] >= 0 && shape[level] != int64(len(list)) {
		return false
	}
	for _, item := range list {
		if !flatten(item, level+1, shape, flat) {
			return false
		}
	}
	shape[level] = int64(len(list))
	return true
}

// place writes one value into a tensor, if it is of the type.
func place(t *Tensor, i int, v any) bool {
	switch v := v.(type) {
	case bool:
		if t.Type != models.Bool {
			return false
		}
		t.Data[i] = 0
		if v {
			t.Data[i] = 1
		}
		return true
	case string:
		if t.Type != models.String {
			return false
		}
		t.Strings[i] = v
		return true
	case json.Number:
		return placeNumber(t, i, string(v))
	}
	return false
}

func placeNumber(t *Tensor, i int, text string) bool {
	switch t.Type {
	case models.Float32:
		f, err := strconv.ParseFloat(text, 32)
		View[float32](t)[i] = float32(f)
		return err == nil
	case models.Float64:
		f, err := strconv.ParseFloat(text, 64)
		View[float64](t)[i] = f
		return err == nil
	case models.Int64:
		n, err := strconv.ParseInt(text, 10, 64)
		View[int64](t)[i] = n
		return err == nil
	case models.Uint8:
		n, err := strconv.ParseInt(text, 10, 64) // takes -0
		t.Data[i] = uint8(n)
		return err == nil && n >= 0 && n <= math.MaxUint8
	case models.Float16, models.BFloat16:
		h := float16
		if t.Type == models.BFloat16 {
			h = bfloat16
		}
		// Rounding twice is right but for literals next to a tie, which
		// TestHalvesAreRoundedOnceFromTheDecimal knows.
		v, end := parseHalf([]byte(text), 0, h)
		View[uint16](t)[i] = v
		return end == len(text)
	}
	return false
}
