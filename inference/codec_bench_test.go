package inference

import (
	"bytes"
	"math/rand/v2"
	"strconv"
	"testing"

	"modelgate/models"
)

// floatBody is a body of 1.6 MB or so: rows of that many floats.
func floatBody(rows, width int, format func(float32) string) []byte {
	rng := rand.New(rand.NewPCG(5, 6))
	var b bytes.Buffer
	b.WriteString(`{"model":"m","inputs":{"X":[`)
	for i := range rows {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('[')
		for k := range width {
			if k > 0 {
				b.WriteByte(',')
			}
			b.WriteString(format(rng.Float32()))
		}
		b.WriteByte(']')
	}
	b.WriteString(`]}}`)
	return b.Bytes()
}

func BenchmarkJSONFloats(b *testing.B) {
	short := func(f float32) string { return strconv.FormatFloat(float64(f), 'f', -1, 32) }
	long := func(f float32) string { return strconv.FormatFloat(float64(f), 'f', -1, 64) }
	brief := func(f float32) string { return strconv.FormatFloat(float64(f)*10, 'f', 1, 64) }
	for _, c := range []struct {
		name string
		spec string
		body []byte
	}{
		{"image_float32_digits", "X FP32 [N,150528]", floatBody(1, 150528, short)},
		{"image_float64_digits", "X FP32 [N,150528]", floatBody(1, 150528, long)},
		{"rows_of_4", "X FP32 [N,4]", floatBody(80_000, 4, brief)},
		{"float64", "X FP64 [N,150528]", floatBody(1, 150528, short)},
		{"float16", "X FP16 [N,150528]", floatBody(1, 150528, short)},
	} {
		mem := NewMemory(1 << 30)
		sig := signature(c.spec)
		b.Run(c.name+"/scan", func(b *testing.B) {
			b.SetBytes(int64(len(c.body)))
			for b.Loop() {
				if _, err := ScanPredict(c.body); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(c.name+"/all", func(b *testing.B) {
			b.SetBytes(int64(len(c.body)))
			b.ReportAllocs()
			for b.Loop() {
				e, err := ScanPredict(c.body)
				if err != nil {
					b.Fatal(err)
				}
				in, err := DecodeJSON(e.Inputs, sig, mem)
				if err != nil {
					b.Fatal(err)
				}
				in[0].Release()
			}
		})
	}
}

func BenchmarkJSONIris(b *testing.B) {
	body := []byte(`{"model":"iris","inputs":{"X":[[5.1,3.5,1.4,0.2]]}}`)
	sig := signature("X FP32 [N,4]")
	mem := NewMemory(1 << 20)
	label, _ := NewTensor(mem, models.Int64, []int64{1})
	View[int64](&label)[0] = 0
	scores, _ := NewTensor(mem, models.Float32, []int64{1, 3})
	copy(View[float32](&scores), []float32{0.98, 0.02, 0})
	r := &Result{Model: "iris", Version: 1, Rows: 1, Outputs: []Output{
		{Name: "label", Value: Value{Tensor: label}}, {Name: "probabilities", Value: Value{Tensor: scores}}}}
	var out []byte
	b.ReportAllocs()
	for b.Loop() {
		e, err := ScanPredict(body)
		if err != nil {
			b.Fatal(err)
		}
		in, err := DecodeJSON(e.Inputs, sig, mem)
		if err != nil {
			b.Fatal(err)
		}
		if out, err = AppendJSON(out[:0], r, &e); err != nil {
			b.Fatal(err)
		}
		in[0].Release()
	}
}
