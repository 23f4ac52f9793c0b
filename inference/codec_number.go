package inference

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/bits"
	"strconv"
	"unsafe"
)

// Why a literal gives no element. The parsers of this file return the index
// behind the literal, or one of these.
const (
	badLiteral  = -1 // not a literal of the type's grammar
	outOfRange  = -2 // a number that the type can't hold
	notIntegral = -3 // a fraction or exponent where a whole number is wanted
)

// decimal is a number literal taken apart: mant * 10^exp, negative or not.
// When more digits stand there than mant can hold, exact is false and mant and
// exp mean nothing.
type decimal struct {
	mant     uint64
	exp      int
	negative bool
	exact    bool
}

var pow10 = [...]uint64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19}

// pow10f are the powers of ten that float64 holds exactly.
var pow10f = [...]float64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22}

// digits reads decimal digits onto m, eight at a time, and returns the index
// behind them. ok is false when m would overflow.
func digits(b []byte, i int, m uint64) (_ uint64, end int, ok bool) {
	ok = true
	for i+8 <= len(b) {
		t := binary.LittleEndian.Uint64(b[i:]) ^ '0'*ones
		// The high bit of the first byte above 9 is exact: what lies below it
		// carries nothing into it.
		stop := ((t + 0x76*ones) | t) & highs
		n := 8
		if stop != 0 {
			if n = bits.TrailingZeros64(stop) / 8; n == 0 {
				return m, i, ok
			}
			t <<= (64 - 8*uint(n)) & 63 // zeros in front
		}
		// Pairs, fours, then all eight digits in three multiplications.
		t = t*10 + t>>8
		t = ((t & 0x000000FF000000FF * 0x000F424000000064) + (t >> 16 & 0x000000FF000000FF * 0x0000271000000001)) >> 32
		ok = ok && m < pow10[19-n]
		m = m*pow10[n] + t
		i += n
		if n < 8 {
			return m, i, ok
		}
	}
	for ; i < len(b); i++ {
		d := b[i] - '0'
		if d > 9 {
			break
		}
		ok = ok && m < pow10[18]
		m = m*10 + uint64(d)
	}
	return m, i, ok
}

// number takes the JSON number at i apart (RFC 8259, section 6). What may
// follow it is the caller's affair. end is badLiteral when none stands there.
func number(b []byte, i int) (d decimal, end int) {
	if i < len(b) && b[i] == '-' {
		d.negative = true
		i++
	}
	d.exact = true
	switch {
	case i >= len(b) || b[i]-'0' > 9:
		return d, badLiteral
	case b[i] == '0':
		i++
	default:
		for i < len(b) && b[i]-'0' <= 9 {
			d.exact = d.exact && d.mant < pow10[18]
			d.mant = d.mant*10 + uint64(b[i]-'0')
			i++
		}
	}
	if i < len(b) && b[i] == '.' {
		from, ok := i+1, false
		if d.mant, i, ok = digits(b, from, d.mant); i == from {
			return d, badLiteral
		}
		d.exact = d.exact && ok
		d.exp = from - i
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		return exponent(b, i+1, d)
	}
	return d, i
}

// exponent reads what follows the e of a number.
func exponent(b []byte, i int, d decimal) (decimal, int) {
	sign := 1
	if i < len(b) && (b[i] == '-' || b[i] == '+') {
		if b[i] == '-' {
			sign = -1
		}
		i++
	}
	from, e := i, 0
	for ; i < len(b) && b[i]-'0' <= 9; i++ {
		e = min(e*10+int(b[i]-'0'), 1<<20)
	}
	if i == from {
		return d, badLiteral
	}
	d.exp += sign * e
	return d, i
}

// near returns d as a float64 that is wrong by less than three units in the
// last place, and right when precise (Clinger 1990: both operands are held
// exactly, so that the one operation rounds once). ok is false when d is
// outside of what this way covers.
func (d decimal) near() (f float64, precise, ok bool) {
	if !d.exact || d.exp < -22 || d.exp > 22 {
		return 0, false, d.exact && d.mant == 0
	}
	// Beyond 2^53 the conversion rounds by half a unit, the division by
	// another half; scaled to a smaller significand, that is less than three.
	f = float64(d.mant)
	if d.exp < 0 {
		f /= pow10f[-d.exp]
	} else {
		f *= pow10f[d.exp]
	}
	return f, d.mant <= 1<<53, true
}

func signed(f float64, negative bool) float64 {
	if negative {
		return -f
	}
	return f
}

// parseFloat64 reads a number as strconv.ParseFloat(s, 64) does, but for the
// grammar, which is JSON's.
func parseFloat64(b []byte, i int) (float64, int) {
	d, end := number(b, i)
	if end < 0 {
		return 0, end
	}
	if f, precise, ok := d.near(); ok && (precise || f == 0) {
		return signed(f, d.negative), end
	}
	f, err := strconv.ParseFloat(string(b[i:end]), 64)
	if err != nil {
		return 0, outOfRange
	}
	return f, end
}

// parseFloat32 reads a number as strconv.ParseFloat(s, 32) does, but for the
// grammar, which is JSON's.
func parseFloat32(b []byte, i int) (float32, int) {
	d, end := number(b, i)
	if end < 0 {
		return 0, end
	}
	// A float64 that is nearly right rounds to the right float32 unless it lies
	// next to the middle of two of them, where the error could tip it over.
	if f, _, ok := d.near(); ok && f <= math.MaxFloat32 {
		if math.Float64bits(f)&(1<<29-1)-(1<<28-4) > 8 {
			return float32(signed(f, d.negative)), end
		}
	}
	f, err := strconv.ParseFloat(string(b[i:end]), 32)
	if err != nil {
		return 0, outOfRange
	}
	return float32(f), end
}

// parseHalf reads a number as float16 or bfloat16 bits: the nearest value, of
// two equally near ones the even one, as if rounded once from the decimal.
func parseHalf(b []byte, i int, h *halfFormat) (uint16, int) {
	d, end := number(b, i)
	if end < 0 {
		return 0, end
	}
	f, precise, ok := d.near()
	if !ok || !precise {
		var err error
		if f, err = strconv.ParseFloat(string(b[i:end]), 64); err != nil {
			return 0, outOfRange
		}
		f = math.Abs(f)
	}
	// f is the float64 nearest to the literal, so that it rounds as the literal
	// would unless it is a tie, which the literal may miss by a hair.
	v, tie := h.round(f)
	if tie {
		v = h.breakTie(f, compareDecimal(b[i:end], f))
	}
	if v >= h.infinity {
		return 0, outOfRange
	}
	if d.negative {
		v |= 1 << 15
	}
	return v, end
}

func parseFloat16(b []byte, i int) (uint16, int)  { return parseHalf(b, i, float16) }
func parseBFloat16(b []byte, i int) (uint16, int) { return parseHalf(b, i, bfloat16) }

// compareDecimal compares the absolute value of a number literal with f >= 0,
// exactly: -1, 0 or +1. Slow, for ties.
func compareDecimal(literal []byte, f float64) int {
	// No float64 has more than 767 significant digits.
	x, xe := significant(literal)
	y, ye := significant(strconv.AppendFloat(nil, f, 'e', 800, 64))
	switch {
	case len(x) == 0 || len(y) == 0:
		return min(len(x), 1) - min(len(y), 1)
	case xe != ye:
		if xe < ye {
			return -1
		}
		return 1
	}
	return bytes.Compare(x, y)
}

// significant returns the digits of a literal without zeros at either end, and
// the exponent e of 0.DIGITS * 10^e.
func significant(literal []byte) (ds []byte, e int) {
	point := -1
	rest := literal
	for len(rest) > 0 && rest[0]|0x20 != 'e' {
		switch c := rest[0]; {
		case c == '.':
			point = len(ds)
		case c != '-':
			ds = append(ds, c)
		}
		rest = rest[1:]
	}
	if point < 0 {
		point = len(ds)
	}
	if len(rest) > 0 {
		d, _ := exponent(rest, 1, decimal{})
		e = d.exp
	}
	e += point
	for len(ds) > 0 && ds[0] == '0' {
		ds = ds[1:]
		e--
	}
	for len(ds) > 0 && ds[len(ds)-1] == '0' {
		ds = ds[:len(ds)-1]
	}
	return ds, e
}

// parseSigned reads a whole number that T can hold. It must be written without
// fraction and exponent: what looks like a float is likely a mistake.
func parseSigned[T int8 | int16 | int32 | int64](b []byte, i int) (T, int) {
	m, negative, end := whole(b, i)
	beyond := uint64(1) << (8*unsafe.Sizeof(T(0)) - 1) // one more than the largest
	switch {
	case end < 0:
		return 0, end
	case negative && m <= beyond:
		return T(-int64(m)), end
	case !negative && m < beyond:
		return T(m), end
	}
	return 0, outOfRange
}

// parseUnsigned is parseSigned for types without a sign.
func parseUnsigned[T uint8 | uint16 | uint32 | uint64](b []byte, i int) (T, int) {
	m, negative, end := whole(b, i)
	switch {
	case end < 0:
		return 0, end
	case negative && m > 0 || m > uint64(^T(0)):
		return 0, outOfRange
	}
	return T(m), end
}

// whole reads an optional minus and digits that fit 64 bits.
func whole(b []byte, i int) (m uint64, negative bool, end int) {
	if i < len(b) && b[i] == '-' {
		negative = true
		i++
	}
	if i >= len(b) || b[i]-'0' > 9 {
		return 0, negative, badLiteral
	}
	ok := true
	if b[i] == '0' {
		end = i + 1
	} else {
		m, end, ok = digits(b, i, 0)
	}
	if end < len(b) && (b[end] == '.' || b[end]|0x20 == 'e') {
		return 0, negative, notIntegral
	}
	if !ok {
		// Nineteen digits always fit; twenty do up to 18446744073709551615.
		var err error
		if m, err = strconv.ParseUint(string(b[i:end]), 10, 64); err != nil {
			return 0, negative, outOfRange
		}
	}
	return m, negative, end
}

// parseBool reads true or false as 1 or 0.
func parseBool(b []byte, i int) (uint8, int) {
	switch rest := b[i:]; {
	case len(rest) >= 4 && string(rest[:4]) == "true":
		return 1, i + 4
	case len(rest) >= 5 && string(rest[:5]) == "false":
		return 0, i + 5
	}
	return 0, badLiteral
}
