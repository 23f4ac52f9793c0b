package inference

import (
	"math"
	"strconv"
)

// halfFormat is a binary floating-point format of 16 bits.
type halfFormat struct {
	mantissa int     // explicit bits
	emin     int     // exponent of the smallest normal value
	least    float64 // the smallest normal value
	infinity uint16  // bits of +Inf
	digits   int     // decimal digits that tell all values apart
}

var (
	// float16 is binary16 of IEEE 754-2008.
	float16 = &halfFormat{mantissa: 10, emin: -14, least: 0x1p-14, infinity: 0x7C00, digits: 5}
	// bfloat16 is a float32 cut to its upper half.
	bfloat16 = &halfFormat{mantissa: 7, emin: -126, least: 0x1p-126, infinity: 0x7F80, digits: 4}
)

// round returns the bits of the value nearest to f >= 0, of two equally near
// ones the even one, and whether there were two. What rounds beyond the
// largest value is infinity; so is NaN here.
func (h *halfFormat) round(f float64) (v uint16, tie bool) {
	switch {
	case f == 0:
		return 0, false
	case !(f <= math.MaxFloat64):
		return h.infinity, false
	}
	if f >= h.least {
		// Consecutive values have consecutive bits in both formats, so a carry
		// into the exponent comes out right, infinity included.
		wide, cut := math.Float64bits(f), 52-h.mantissa
		rest, half := wide&(1<<cut-1), uint64(1)<<(cut-1)
		n := wide>>cut - uint64(1022+h.emin)<<h.mantissa
		if rest > half || rest == half && n&1 == 1 {
			n++
		}
		return uint16(min(n, uint64(h.infinity))), rest == half
	}
	// Below the normal values lie multiples of the smallest one.
	scaled := math.Ldexp(f, h.mantissa-h.emin) // exact
	return uint16(math.RoundToEven(scaled)), scaled-math.Trunc(scaled) == 0.5
}

// breakTie rounds a tie f by how the exact value compares with it.
func (h *halfFormat) breakTie(f float64, compare int) uint16 {
	switch {
	case compare < 0:
		f = math.Nextafter(f, 0)
	case compare > 0:
		f = math.Nextafter(f, math.Inf(1))
	}
	v, _ := h.round(f)
	return v
}

// value is the number that bits stand for.
func (h *halfFormat) value(bits uint16) float64 {
	m := int(bits & (1<<h.mantissa - 1))
	e := int(bits&0x7FFF) >> h.mantissa
	var f float64
	switch {
	case bits&0x7FFF >= h.infinity:
		f = math.Inf(1)
		if m != 0 {
			f = math.NaN()
		}
	case e == 0:
		f = math.Ldexp(float64(m), h.emin-h.mantissa)
	default:
		f = math.Ldexp(float64(m|1<<h.mantissa), e-1+h.emin-h.mantissa)
	}
	return signed(f, bits>>15 != 0)
}

// bits is the encoding of the value nearest to f; NaN stays NaN.
func (h *halfFormat) bits(f float64) uint16 {
	if math.IsNaN(f) {
		return h.infinity | 1<<(h.mantissa-1)
	}
	v, _ := h.round(math.Abs(f))
	if math.Signbit(f) {
		v |= 1 << 15
	}
	return v
}

// shortest returns, as a float64, the decimal with the fewest digits that
// reads back to the same bits; of several the one nearest to the exact value.
func (h *halfFormat) shortest(bits uint16) float64 {
	f := h.value(bits)
	if f == math.Trunc(f) && math.Abs(f) < float64(int(1)<<h.mantissa) || math.IsNaN(f) || math.IsInf(f, 0) {
		return f
	}
	// Not a bisection: at a power of two the interval is lopsided, so that n
	// digits may do where n+1 don't.
	for n := 1; n <= h.digits; n++ {
		if short, ok := h.digitsOf(f, bits, n); ok {
			return short
		}
	}
	return f
}

// digitsOf is f to n decimal digits, and whether that reads back to the bits.
func (h *halfFormat) digitsOf(f float64, bits uint16, n int) (float64, bool) {
	var room [24]byte
	short, end := parseFloat64(strconv.AppendFloat(room[:0], f, 'e', n-1, 64), 0)
	return short, end > 0 && h.bits(short) == bits
}
