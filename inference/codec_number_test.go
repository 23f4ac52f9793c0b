package inference

import (
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// literals draws number literals: shortest forms of both widths, random
// digits, and decimals at and next to the middle of two float32 or half
// values, where wrong rounding shows.
func literals(rng *rand.Rand) string {
	f32 := func() float64 { return float64(math.Float32frombits(rng.Uint32() &^ (1 << 31))) }
	var s string
	switch rng.IntN(9) {
	case 0:
		s = strconv.FormatFloat(f32(), 'g', -1, 32)
	case 1:
		s = strconv.FormatFloat(f32(), 'e', -1, 64)
	case 2:
		s = strconv.FormatFloat(rng.Float64(), 'f', -1, 64)
	case 3:
		s = strconv.FormatFloat(math.Float64frombits(rng.Uint64()>>1), 'g', -1, 64)
	case 4:
		s = fmt.Sprintf("%d.%0*d", rng.IntN(1000), 1+rng.IntN(24), rng.Uint64())
	case 5:
		s = fmt.Sprintf("%de%d", rng.Uint64()>>rng.IntN(64), rng.IntN(100)-50)
	case 6: // middle of two float32
		bits := rng.Uint32N(0x7F7FFFFF)
		if rng.IntN(4) > 0 {
			bits = math.Float32bits(float32(rng.ExpFloat64()))
		}
		lo, hi := float64(math.Float32frombits(bits)), float64(math.Float32frombits(bits+1))
		s = strconv.FormatFloat((lo+hi)/2, 'e', 200, 64)
	case 7: // next to the middle of two float32, in digits that 64 bits hold
		bits := math.Float32bits(float32(rng.ExpFloat64()))
		middle := (float64(math.Float32frombits(bits)) + float64(math.Float32frombits(bits+1))) / 2
		s = strconv.FormatFloat(middle, 'f', 16+rng.IntN(3), 64)
		if last := s[len(s)-1]; last < '9' {
			s = s[:len(s)-1] + string(last+1)
		}
	default: // middle of two halves
		h := []*halfFormat{float16, bfloat16}[rng.IntN(2)]
		bits := uint16(rng.UintN(uint(h.infinity) - 1))
		s = strconv.FormatFloat((h.value(bits)+h.value(bits+1))/2, 'e', 200, 64)
	}
	mant, exp, _ := strings.Cut(s, "e")
	if exp != "" {
		exp = "e" + exp
	}
	if strings.Contains(mant, ".") {
		mant += []string{"", "", "0", "1", "000000000000000000000000000000000000001"}[rng.IntN(5)]
	}
	s = mant + exp
	if s == "NaN" || s == "+Inf" || strings.HasPrefix(s, "Inf") {
		return "0"
	}
	return []string{"", "-"}[rng.IntN(2)] + s
}

func TestFloatsAreBitExact(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 150_000 {
		s := literals(rng)
		for _, tail := range []string{"", ",1.5,2.5]"} {
			v, end := parseFloat32([]byte(s+tail), 0)
			want, err := strconv.ParseFloat(s, 32)
			if (end >= 0) != (err == nil) || err == nil && (end != len(s) || math.Float32bits(v) != math.Float32bits(float32(want))) {
				t.Fatalf("float32 of %s: got %v to %d, want %v (%v)", s, v, end, float32(want), err)
			}
			w, end := parseFloat64([]byte(s+tail), 0)
			want, err = strconv.ParseFloat(s, 64)
			if (end >= 0) != (err == nil) || err == nil && (end != len(s) || math.Float64bits(w) != math.Float64bits(want)) {
				t.Fatalf("float64 of %s: got %v to %d, want %v (%v)", s, w, end, want, err)
			}
		}
	}
}

// halfOracle rounds a decimal to the nearest value by exact fractions.
func halfOracle(h *halfFormat, table []*big.Rat, literal string) (uint16, bool) {
	x, ok := new(big.Rat).SetString(literal)
	if !ok {
		panic(literal)
	}
	sign := uint16(0)
	if strings.HasPrefix(literal, "-") {
		sign = 1 << 15
		x.Neg(x)
	}
	hi, found := slices.BinarySearchFunc(table, x, func(a, b *big.Rat) int { return a.Cmp(b) })
	if found {
		return sign | uint16(hi), hi < int(h.infinity)
	}
	if hi == len(table) {
		return 0, false
	}
	middle := new(big.Rat).Add(table[hi-1], table[hi])
	middle.Quo(middle, big.NewRat(2, 1))
	v := hi
	if c := x.Cmp(middle); c < 0 || c == 0 && hi%2 == 1 {
		v = hi - 1
	}
	return sign | uint16(v), v < int(h.infinity)
}

// halfTable has every finite value, and behind them where infinity begins
// counting as a value, by position of their bits.
func halfTable(h *halfFormat) []*big.Rat {
	var table []*big.Rat
	for v := uint16(0); v < h.infinity; v++ {
		table = append(table, new(big.Rat).SetFloat64(h.value(v)))
	}
	last := table[len(table)-1]
	step := new(big.Rat).Sub(last, table[len(table)-2])
	return append(table, step.Add(step, last))
}

func TestHalvesAreRoundedOnceFromTheDecimal(t *testing.T) {
	for _, h := range []*halfFormat{float16, bfloat16} {
		table := halfTable(h)
		rng := rand.New(rand.NewPCG(3, uint64(h.mantissa)))
		for range 30_000 {
			s := literals(rng)
			if rng.IntN(2) == 0 { // near what the type can hold
				s = strconv.FormatFloat(h.value(uint16(rng.UintN(uint(h.infinity))))*(1+1e-3*rng.Float64()), 'g', -1, 64)
			}
			if f, err := strconv.ParseFloat(s, 64); err != nil || math.Abs(f) > 1e39 || f != 0 && math.Abs(f) < 1e-60 {
				continue
			}
			want, fits := halfOracle(h, table, s)
			got, end := parseHalf([]byte(s), 0, h)
			if fits != (end >= 0) || fits && got != want {
				t.Fatalf("%d bits of mantissa: %s gives %#04x (%v), end %d, want %#04x (%v), fits %v",
					h.mantissa, s, got, h.value(got), end, want, h.value(want), fits)
			}
		}
	}
}

func TestHalfLiterals(t *testing.T) {
	for _, c := range []struct {
		h    *halfFormat
		text string
		want uint16
		ok   bool
	}{
		{float16, "0", 0, true},
		{float16, "-0", 0x8000, true},
		{float16, "-0.0e99", 0x8000, true},
		{float16, "0e999999999999", 0, true},
		{float16, "1", 0x3C00, true},
		{float16, "65504", 0x7BFF, true},
		{float16, "65519.99999999999999999999999999", 0x7BFF, true}, // as a float64 it is 65520
		{float16, "65520", 0, false},
		{float16, "1.00048828125", 0x3C00, true},                      // a tie: to even
		{float16, "1.00048828125000000000000000000001", 0x3C01, true}, // just above it
		{float16, "1.00146484375", 0x3C02, true},
		{float16, "1.00146484374999999999999999999999", 0x3C01, true},
		{float16, "5.9604644775390625e-8", 1, true},
		{float16, "2.98023223876953125e-8", 0, true},
		{float16, "2.980232238769531250000000000000000001e-8", 1, true},
		{bfloat16, "1.00390625", 0x3F80, true},
		{bfloat16, "1.003906250000000000000000000000001", 0x3F81, true},
		{bfloat16, "3.3895313892515355e38", 0x7F7F, true},
		{bfloat16, "3.4e38", 0, false},
		{bfloat16, "1e400", 0, false},
	} {
		got, end := parseHalf([]byte(c.text), 0, c.h)
		if (end == len(c.text)) != c.ok || c.ok && got != c.want {
			t.Errorf("%s: %#04x, end %d; want %#04x, %v", c.text, got, end, c.want, c.ok)
		}
	}
}

func TestHalfValuesAreThoseOfTheFormats(t *testing.T) {
	for v := 0; v < 1<<16; v++ {
		b := bfloat16.value(uint16(v))
		want := float64(math.Float32frombits(uint32(v) << 16))
		if b != want && !(math.IsNaN(b) && math.IsNaN(want)) || math.Signbit(b) != math.Signbit(want) && b == b {
			t.Fatalf("bfloat16 %#04x is %v, want %v", v, b, want)
		}
		for _, h := range []*halfFormat{float16, bfloat16} {
			f := h.value(uint16(v))
			if math.IsNaN(f) {
				if !math.IsNaN(h.value(h.bits(f))) {
					t.Fatalf("NaN %#04x does not stay one", v)
				}
				continue
			}
			if h.bits(f) != uint16(v) {
				t.Fatalf("%#04x is %v is %#04x", v, f, h.bits(f))
			}
			short := h.shortest(uint16(v))
			if h.bits(short) != uint16(v) {
				t.Fatalf("%#04x (%v) is written %v, which reads back as %#04x", v, f, short, h.bits(short))
			}
			for n := range h.digits { // none is shorter
				if fewer, ok := h.digitsOf(f, uint16(v), n+1); ok {
					if fewer != short && f != math.Trunc(f) {
						t.Fatalf("%#04x (%v) is written %v, though %v would do", v, f, short, fewer)
					}
					break
				}
			}
		}
	}
	for v, want := range map[uint16]float64{0x3C00: 1, 0xC000: -2, 0x7BFF: 65504, 0x0400: 6.103515625e-05, 1: 5.960464477539063e-08, 0x3555: 0.333251953125} {
		if got := float16.value(v); got != want {
			t.Errorf("float16 %#04x is %v, want %v", v, got, want)
		}
	}
	for v, want := range map[uint16]string{0x2E66: "0.1", 0x3555: "0.3333", 0x7BFF: "65500", 1: "6e-08", 0x8000: "-0"} {
		if got := strconv.FormatFloat(float16.shortest(v), 'g', -1, 64); got != want {
			t.Errorf("float16 %#04x is written %s, want %s", v, got, want)
		}
	}
}

func TestNumberGrammar(t *testing.T) {
	for _, s := range []string{"", "-", "+1", ".5", "-.5", "1.", "1.e3", "1e", "1e+", "e5", "NaN", "Infinity", "-Infinity", "nan", "inf", "null", "true", "\"1\"", "- 1", "--1"} {
		if _, end := number([]byte(s), 0); end != badLiteral {
			t.Errorf("%q is taken for a number up to %d", s, end)
		}
	}
	// What stops earlier leaves something that no separator is.
	for s, want := range map[string]int{"01": 1, "-01": 2, "0x10": 1, "1_000": 1, "1e5.5": 3, "1.5.5": 3, "12a": 2, "0": 1, "-0.0": 4, "1E+05": 5} {
		if _, end := number([]byte(s), 0); end != want {
			t.Errorf("%q is a number up to %d, want %d", s, end, want)
		}
	}
}

func TestIntegers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.Int64().Draw(t, "v")
		text := strconv.FormatInt(v, 10)
		check(t, text, parseSigned[int8], v >= math.MinInt8 && v <= math.MaxInt8, int8(v))
		check(t, text, parseSigned[int16], v >= math.MinInt16 && v <= math.MaxInt16, int16(v))
		check(t, text, parseSigned[int32], v >= math.MinInt32 && v <= math.MaxInt32, int32(v))
		check(t, text, parseSigned[int64], true, v)
		check(t, text, parseUnsigned[uint8], v >= 0 && v <= math.MaxUint8, uint8(v))
		check(t, text, parseUnsigned[uint16], v >= 0 && v <= math.MaxUint16, uint16(v))
		check(t, text, parseUnsigned[uint32], v >= 0 && v <= math.MaxUint32, uint32(v))
		u := rapid.Uint64().Draw(t, "u")
		check(t, strconv.FormatUint(u, 10), parseUnsigned[uint64], true, u)
	})
}

func check[T comparable](t *rapid.T, text string, parse func([]byte, int) (T, int), fits bool, want T) {
	v, end := parse([]byte(text+" ,"), 0)
	if fits != (end == len(text)) || fits && v != want || !fits && end != outOfRange {
		t.Fatalf("%s as %T: %v, end %d; fits %v", text, want, v, end, fits)
	}
}

func TestIntegerEdges(t *testing.T) {
	for _, c := range []struct {
		text string
		end  int
		want int64
	}{
		{"9223372036854775807", 19, math.MaxInt64},
		{"-9223372036854775808", 20, math.MinInt64},
		{"9223372036854775808", outOfRange, 0},
		{"-9223372036854775809", outOfRange, 0},
		{"99999999999999999999999999", outOfRange, 0},
		{"-0", 2, 0},
		{"1.0", notIntegral, 0},
		{"1e3", notIntegral, 0},
		{"1E3", notIntegral, 0},
		{"123456789012345678901234567890.5", notIntegral, 0},
		{"-", badLiteral, 0},
		{"", badLiteral, 0},
		{"+5", badLiteral, 0},
		{"true", badLiteral, 0},
	} {
		if v, end := parseSigned[int64]([]byte(c.text), 0); v != c.want || end != c.end {
			t.Errorf("%s: %d, end %d", c.text, v, end)
		}
	}
	for text, want := range map[string]int{"18446744073709551615": 20, "18446744073709551616": outOfRange, "-1": outOfRange, "-0": 2} {
		if _, end := parseUnsigned[uint64]([]byte(text), 0); end != want {
			t.Errorf("%s: end %d, want %d", text, end, want)
		}
	}
}
