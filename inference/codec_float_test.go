package inference

import (
	"encoding/json"
	"math"
	"math/big"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"testing"

	"github.com/bytedance/sonic"
)

// TestPowersOfTen computes the table anew.
func TestPowersOfTen(t *testing.T) {
	for i, got := range powersOfTen {
		k := firstPower + i
		p := new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(max(k, -k))), nil))
		if k < 0 {
			p.Inv(p)
		}
		shift := 127 - floorLog2Pow10(k)
		scale := new(big.Rat).SetInt(new(big.Int).Lsh(big.NewInt(1), uint(max(shift, -shift))))
		if shift < 0 {
			scale.Inv(scale)
		}
		p.Mul(p, scale)
		g, rest := new(big.Int).QuoRem(p.Num(), p.Denom(), new(big.Int))
		if rest.Sign() > 0 {
			g.Add(g, big.NewInt(1))
		}
		want := [2]uint64{new(big.Int).Rsh(g, 64).Uint64(), new(big.Int).And(g, new(big.Int).SetUint64(math.MaxUint64)).Uint64()}
		if got != want || g.BitLen() != 128 {
			t.Fatalf("10^%d is %x, want %x", k, got, want)
		}
	}
	if last := firstPower + len(powersOfTen) - 1; last != 324 {
		t.Errorf("the table ends with 10^%d", last)
	}
}

// sameFloat32 and sameFloat64 hold a float's text to that of encoding/json.
func sameFloat32(t *testing.T, buf []byte, bits uint32) []byte {
	f := math.Float32frombits(bits)
	buf = appendFloat32(append(buf[:0], "x"...), f)
	want, err := json.Marshal(f)
	if err != nil {
		want = []byte("null")
	}
	if string(buf[1:]) != string(want) {
		t.Errorf("%#x: got %s, want %s", bits, buf[1:], want)
	}
	return buf
}

func sameFloat64(t *testing.T, buf []byte, f float64) []byte {
	buf = appendFloat64(append(buf[:0], "x"...), f)
	want, err := json.Marshal(f)
	if err != nil {
		want = []byte("null")
	}
	if string(buf[1:]) != string(want) {
		t.Errorf("%#x: got %s, want %s", math.Float64bits(f), buf[1:], want)
	}
	return buf
}

// TestFloatsAtTheEdges: powers of two and ten, whole numbers, few digits, and
// what lies beside each of them.
func TestFloatsAtTheEdges(t *testing.T) {
	var buf []byte
	try := func(f float64) {
		for _, sign := range []float64{1, -1} {
			f := sign * f
			for _, g := range []float64{f, math.Nextafter(f, math.Inf(1)), math.Nextafter(f, math.Inf(-1))} {
				buf = sameFloat64(t, buf, g)
			}
			bits := math.Float32bits(float32(f))
			for d := range uint32(3) {
				buf = sameFloat32(t, buf, bits+d-1)
			}
		}
	}
	for e := -1080; e <= 1024; e++ {
		try(math.Ldexp(1, e))
		try(math.Ldexp(1.5, e))
	}
	for e := -330; e <= 310; e++ {
		try(math.Pow(10, float64(e)))
	}
	for n := range 3000 {
		for _, by := range []float64{1, 10, 1000, 1e6, 1e8, 1e15, 1e-3, 1e-12} {
			try(float64(n) / by)
		}
	}
	for _, f := range []float64{math.NaN(), math.Inf(1), math.MaxFloat64, math.MaxFloat32, math.SmallestNonzeroFloat32, 9007199254740993, 16777217, 1e21, 1e-6} {
		try(f)
	}
}

// TestFloatsAtRandom tries a few hundred thousand bit patterns; with
// MODELGATE_ALL_FLOATS=1 every float32, which takes minutes.
func TestFloatsAtRandom(t *testing.T) {
	r := rand.New(rand.NewPCG(1, uint64(os.Getpid())))
	var buf []byte
	for range 200_000 {
		buf = sameFloat64(t, buf, math.Float64frombits(r.Uint64()))
		buf = sameFloat64(t, buf, r.Float64())
		buf = sameFloat32(t, buf, r.Uint32())
		buf = sameFloat32(t, buf, math.Float32bits(r.Float32()))
	}
	if os.Getenv("MODELGATE_ALL_FLOATS") == "" {
		return
	}
	var all sync.WaitGroup
	parts := uint64(runtime.GOMAXPROCS(0))
	for part := range parts {
		all.Go(func() {
			var buf []byte
			for bits := part; bits < 1<<32 && !t.Failed(); bits += parts {
				buf = sameFloat32(t, buf, uint32(bits))
			}
		})
	}
	all.Wait()
}

// BenchmarkFloats writes 1000 float32 between 0 and 1, as a list, by this
// package, by sonic, and by the standard library.
func BenchmarkFloats(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	list := make([]float32, 1000)
	for i := range list {
		list[i] = r.Float32()
	}
	run := func(name string, write func([]byte) []byte) {
		b.Run(name, func(b *testing.B) {
			var out []byte
			for b.Loop() {
				out = write(out[:0])
			}
		})
	}
	run("own", func(out []byte) []byte {
		for _, f := range list {
			out = append(appendFloat32(out, f), ',')
		}
		return out
	})
	run("sonic", func([]byte) []byte {
		out, err := sonic.Marshal(list)
		if err != nil {
			b.Fatal(err)
		}
		return out
	})
	run("encoding/json", func([]byte) []byte {
		out, err := json.Marshal(list)
		if err != nil {
			b.Fatal(err)
		}
		return out
	})
}
