package inference

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"modelgate/models"
)

// decodeInfer scans and decodes a request whose tensors stand behind its JSON.
func decodeInfer(t *testing.T, sig *models.Signature, mem *Memory, text string, tail ...byte) ([]Tensor, error) {
	t.Helper()
	header := NoHeader
	if tail != nil {
		header = len(text)
	}
	r, err := ScanInfer(append([]byte(text), tail...), header)
	if err != nil {
		return nil, err
	}
	return DecodeInfer(&r, sig, mem)
}

func TestDecodeInfer(t *testing.T) {
	for _, c := range []struct {
		sig   string
		shape string
		data  string // JSON, or
		bytes []byte
		want  string
	}{
		{"x FP32 [N,2]", "[2,2]", "[1,2,3,4]", nil, "[2 2] [1 2 3 4]"},
		{"x FP32 [N,2]", "[2,2]", "[[1,2],[3,4]]", nil, "[2 2] [1 2 3 4]"},
		{"x FP32 [N,2]", "[0,2]", "[]", nil, "[0 2] []"},
		{"x INT64 [N,0]", "[1,0]", "[[]]", nil, "[1 0] []"},
		{"x FP32 []", "[]", "[1.5]", nil, "[] [1.5]"},
		{"x FP16 [N]", "[3]", "[1,-2,65504]", nil, "[3] [15360 49152 31743]"},
		{"x BF16 [N]", "[2]", "[1,-2]", nil, "[2] [16256 49152]"},
		{"x BOOL [N]", "[2]", "[true,false]", nil, "[2] [1 0]"},
		{"x UINT64 [N]", "[1]", "[18446744073709551615]", nil, "[1] [18446744073709551615]"},
		{"x BYTES [N]", "[2]", `["a\u00e4",""]`, nil, `[2] ["aä" ""]`},
		{"x FP32 [N,1]", "[1,1]", "", []byte{0, 0, 128, 63}, "[1 1] [1]"},
		{"x FP32 [N]", "[1]", "", []byte{0, 0, 192, 127}, "[1] [NaN]"},
		{"x FP16 [N]", "[2]", "", []byte{0, 60, 255, 123}, "[2] [15360 31743]"},
		{"x INT8 [N]", "[2]", "", []byte{255, 1}, "[2] [-1 1]"},
		{"x BOOL [N]", "[2]", "", []byte{1, 0}, "[2] [1 0]"},
		{"x BYTES [N]", "[2]", "", []byte{2, 0, 0, 0, 0xc3, 0xa4, 0, 0, 0, 0}, `[2] ["ä" ""]`},
		{"x FP32 [N]", "[0]", "", []byte{}, "[0] []"},
	} {
		sig, mem := signature(c.sig), NewMemory(1<<20)
		rest := `"data":` + c.data
		if c.bytes != nil {
			rest = fmt.Sprintf(`"parameters":{"binary_data_size":%d}`, len(c.bytes))
		}
		text := fmt.Sprintf(`{"inputs":[{"name":"x","datatype":%q,"shape":%s,%s}]}`, sig.Inputs[0].Type, c.shape, rest)
		in, err := decodeInfer(t, sig, mem, text, c.bytes...)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := plain(&in[0]); got != c.want {
			t.Errorf("%s: %s, want %s", text, got, c.want)
		}
		if err := checkInputs(sig, in); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		releaseAll(in)
		if mem.InUse() != 0 {
			t.Errorf("%s: %d bytes are held", text, mem.InUse())
		}
	}
}

// TestDecodeInferRefusals: what does not fit is an ErrInput, and nothing stays
// allocated, whatever is claimed.
func TestDecodeInferRefusals(t *testing.T) {
	for _, c := range []struct {
		sig, shape, data string
		bytes            []byte
		words            string
	}{
		{"x FP32 [N,2]", "[2,2]", "[[1,2]]", nil, "nested as [1,2]"},
		{"x FP32 [N,2]", "[2,2]", "[[1,2,3,4]]", nil, "[1,4]"},
		{"x FP32 [N,2]", "[2,2]", "[1,2,3]", nil, "needs 4"},
		{"x FP32 [N,2]", "[2,2]", "[1,2,3,4,5]", nil, "needs 4"},
		{"x FP32 [N,2]", "[2,2]", "[[1,2],[3]]", nil, "ragged"},
		{"x FP32 [N,2]", "[1,2]", "[1,2]]", nil, "JSON"},
		{"x FP32 [N]", "[2]", "5", nil, "flat array"},
		{"x FP32 [N]", "[1]", "[1e39]", nil, "range"},
		{"x FP32 [N,N,N]", "[2147483647,2147483647,2147483647]", "[1]", nil, "out of range"},
		{"x FP64 [N,N]", "[2147483647,2147483647]", "", make([]byte, 8), "8 bytes"},
		{"x BYTES [N,N]", "[2147483647,2147483647]", "", make([]byte, 8), "too few"},
		{"x BOOL [N]", "[2]", "", []byte{1, 2}, "0 or 1"},
		{"x INT64 [N]", "[1]", "", make([]byte, 7), "7 bytes"},
		{"x BYTES [N]", "[1]", "", []byte{255, 255, 255, 255, 1}, "4294967295 bytes"},
		{"x BYTES [N]", "[2]", "", []byte{4, 0, 0, 0, 1, 1, 1, 1}, "ends before"},
		{"x BYTES [N]", "[1]", "", []byte{1, 0, 0, 0, 'a', 'b'}, "behind the last"},
		{"x BYTES [N]", "[1]", "", []byte{1, 0, 0, 0, 0xff}, "UTF-8"},
		{"x BYTES [N]", "[0]", "", []byte{0, 0, 0, 0}, "behind the last"},
	} {
		sig, mem := signature(c.sig), NewMemory(1<<20)
		rest := `"data":` + c.data
		if c.bytes != nil {
			rest = fmt.Sprintf(`"parameters":{"binary_data_size":%d}`, len(c.bytes))
		}
		text := fmt.Sprintf(`{"inputs":[{"name":"x","datatype":%q,"shape":%s,%s}]}`, sig.Inputs[0].Type, c.shape, rest)
		_, err := decodeInfer(t, sig, mem, text, c.bytes...)
		if !errors.Is(err, ErrInput) || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: %v, want %q", text, err, c.words)
		}
		if mem.InUse() != 0 {
			t.Errorf("%s: %d bytes are held", text, mem.InUse())
		}
	}
}

// TestDecodeInferRaw: the bytes of one input tell its open dimension.
func TestDecodeInferRaw(t *testing.T) {
	for _, c := range []struct{ sig, body, want string }{
		{"x INT16 [N,2]", "abcdefgh", "[2 2] [25185 25699 26213 26727]"},
		{"x UINT8 [3]", "abc", "[3] [97 98 99]"},
		{"x UINT8 [N]", "", "[0] []"},
		{"x BYTES [N]", "a whole body", `[1] ["a whole body"]`},
		{"x UINT8 [3]", "ab", "2 bytes"},
		{"x INT16 [N,2]", "abc", "multiple"},
		{"x UINT8 [N,N]", "ab", "more than one open"},
		{"x UINT8 [N,0]", "ab", "2 bytes"},
		{"x BYTES [N,2]", "ab", "one element"},
		{"x BYTES [N]", "\xff", "UTF-8"},
	} {
		sig, mem := signature(c.sig), NewMemory(1<<20)
		r, err := ScanInfer([]byte(c.body), 0)
		if err != nil {
			t.Fatal(err)
		}
		in, err := DecodeInfer(&r, sig, mem)
		switch {
		case err != nil && (!errors.Is(err, ErrInput) || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s of %q: %v, want %s", c.sig, c.body, err, c.want)
		case err == nil && plain(&in[0]) != c.want:
			t.Errorf("%s of %q: %s, want %s", c.sig, c.body, plain(&in[0]), c.want)
		}
		releaseAll(in)
		if mem.InUse() != 0 {
			t.Errorf("%s of %q: %d bytes are held", c.sig, c.body, mem.InUse())
		}
	}
	r, _ := ScanInfer(nil, 0)
	if _, err := DecodeInfer(&r, signature("a UINT8 [N]", "b UINT8 [N]"), NewMemory(1<<20)); !errors.Is(err, ErrInput) {
		t.Errorf("two inputs: %v", err)
	}
}

func TestHeaderLength(t *testing.T) {
	for text, want := range map[string]int{"0": 0, "17": 17, "2147483647": math.MaxInt32} {
		if n, err := HeaderLength(text); n != want || err != nil {
			t.Errorf("%q: %d, %v", text, n, err)
		}
	}
	for _, text := range []string{"", "-1", "+1", "1.0", "1e3", "0x10", " 1", "1 ", "1_0", "2147483648", "99999999999999999999"} {
		if n, err := HeaderLength(text); !errors.Is(err, ErrInput) {
			t.Errorf("%q: %d, %v", text, n, err)
		}
	}
}

func strs(s ...string) Tensor {
	return Tensor{Type: models.String, Shape: []int64{int64(len(s))}, Strings: s}
}

func float32s(mem *Memory, shape []int64, v ...float32) Tensor {
	t, err := NewTensor(mem, models.Float32, shape)
	if err != nil {
		panic(err)
	}
	copy(View[float32](&t), v)
	return t
}

// TestAppendInfer writes tensors and maps, in JSON and in bytes.
func TestAppendInfer(t *testing.T) {
	mem := NewMemory(1 << 20)
	values := func(v ...float32) Tensor { return float32s(mem, []int64{int64(len(v))}, v...) }
	r := &Result{Model: "m", Version: 3, Outputs: []Output{
		{Name: "y", Value: Value{Tensor: float32s(mem, []int64{1, 3}, 1.5, float32(math.NaN()), -2)}},
		{Name: "s", Value: Value{Tensor: strs("ä", "")}},
		{Name: "p", Value: Value{Kind: models.KindMaps, Maps: []Map{
			{Keys: strs("b", "a"), Values: values(2, 1)}, {Keys: strs("b", "a"), Values: values(4, 3)}, {Keys: strs("a", "b"), Values: values(5, 6)}}}},
		{Name: "q", Value: Value{Kind: models.KindMap, Maps: []Map{{Keys: strs("k"), Values: values(7)}}}},
		{Name: "e", Value: Value{Kind: models.KindMaps}},
	}}
	out, header, err := AppendInfer([]byte("before"), r, &Infer{}, "")
	want := `before{"model_name":"m","outputs":[{"name":"y","datatype":"FP32","shape":[1,3],"data":[1.5,null,-2]},` +
		`{"name":"s","datatype":"BYTES","shape":[2],"data":["ä",""]},{"name":"p","datatype":"FP32","shape":[3,2],"data":[1,2,3,4,5,6]},` +
		`{"name":"q","datatype":"FP32","shape":[1],"data":[7]},{"name":"e","datatype":"FP32","shape":[0,0],"data":[]}]}`
	if string(out) != want || header != NoHeader || err != nil {
		t.Errorf("%s, %d, %v", out, header, err)
	}
	asked := &Infer{HasID: true, ID: "i", binaryOutput: true, Outputs: []string{"y", "s", "p", "q", "e"}, binary: []choice{inJSON, unsaid, inBytes, unsaid, unsaid}}
	out, header, err = AppendInfer(nil, r, asked, "3")
	want = `{"model_name":"m","model_version":"3","id":"i","outputs":[{"name":"y","datatype":"FP32","shape":[1,3],"data":[1.5,null,-2]},` +
		`{"name":"s","datatype":"BYTES","shape":[2],"parameters":{"binary_data_size":10}},{"name":"p","datatype":"FP32","shape":[3,2],"parameters":{"binary_data_size":24}},` +
		`{"name":"q","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":4}},{"name":"e","datatype":"FP32","shape":[0,0],"parameters":{"binary_data_size":0}}]}`
	if err != nil || header != len(want) || string(out[:header]) != want || !json.Valid(out[:header]) {
		t.Fatalf("%s, %d, %v", out, header, err)
	}
	p := values(1, 2, 3, 4, 5, 6, 7)
	if tail := slices.Concat([]byte{2, 0, 0, 0, 0xc3, 0xa4, 0, 0, 0, 0}, p.Data); !bytes.Equal(out[header:], tail) {
		t.Errorf("behind the JSON stands %v, want %v", out[header:], tail)
	}
}

// TestAppendInferRefusals: what the protocol has no form for is told so.
func TestAppendInferRefusals(t *testing.T) {
	mem := NewMemory(1 << 20)
	one := float32s(mem, []int64{1}, 1)
	for name, v := range map[string]Value{
		"sequence":   {Kind: models.KindTensors},
		"other keys": {Kind: models.KindMaps, Maps: []Map{{Keys: strs("a"), Values: one}, {Keys: strs("b"), Values: one}}},
		"more keys":  {Kind: models.KindMaps, Maps: []Map{{Keys: strs("a"), Values: one}, {Keys: strs(), Values: Tensor{Type: models.Float32, Shape: []int64{0}}}}},
	} {
		out, _, err := AppendInfer([]byte("x"), &Result{Outputs: []Output{{Name: "y", Value: v}}}, &Infer{}, "")
		if !errors.Is(err, ErrInput) || string(out) != "x" || !strings.Contains(err.Error(), "POST /predict") {
			t.Errorf("%s: %q, %v", name, out, err)
		}
	}
	broken := Value{Tensor: Tensor{Type: models.Float32, Shape: []int64{9}}}
	if _, _, err := AppendInfer(nil, &Result{Outputs: []Output{{Name: "y", Value: broken}}}, &Infer{}, ""); !errors.Is(err, ErrRun) {
		t.Errorf("a broken tensor: %v", err)
	}
}

// FuzzInfer: any body, cut anywhere, is either refused with nothing left
// allocated, or JSON in front of tensors that fit the signature.
func FuzzInfer(f *testing.F) {
	f.Add([]byte(`{"inputs":[{"name":"a","datatype":"FP32","shape":[1,2],"data":[1,2]},{"name":"b","datatype":"BYTES","shape":[1],"data":["x"]}]}`), -1)
	f.Add([]byte(`{"id":"r","inputs":[{"name":"a","datatype":"FP32","shape":[1,2],"parameters":{"binary_data_size":8}},{"name":"b","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":5}}],"outputs":[{"name":"y","parameters":{"binary_data":true}}]}12345678\x01\x00\x00\x00a`), 241)
	f.Add([]byte("abc"), 0)
	sig := signature("a FP32 [N,2]", "b BYTES [N]")
	f.Fuzz(func(t *testing.T, body []byte, header int) {
		header = max(header, NoHeader)
		r, err := ScanInfer(body, header)
		if err != nil {
			if !errors.Is(err, ErrInput) {
				t.Fatal(err)
			}
			return
		}
		mem := NewMemory(1 << 20)
		in, err := DecodeInfer(&r, sig, mem)
		if err == nil {
			if err := checkInputs(sig, in); err != nil {
				t.Fatalf("%q: %v", body, err)
			}
			text := body
			if header > 0 {
				text = body[:header]
			}
			if !json.Valid(text) {
				t.Fatalf("%q was taken, but is no JSON", text)
			}
		}
		releaseAll(in)
		if mem.InUse() != 0 {
			t.Fatalf("%q: %d bytes are held", body, mem.InUse())
		}
	})
}
