package inference

import (
	"encoding/binary"
	"math"
	"math/bits"
	"slices"
	"strconv"
)

// appendFloat32 and appendFloat64 write floats as encoding/json does: the
// fewest digits that give the float back, and of those the nearest, without an
// exponent between 1e-6 and 1e21. What is no number becomes null.
func appendFloat32(b []byte, f float32) []byte {
	float := math.Float32bits(f)
	size := float &^ (1 << 31)
	exponent := size >> 23
	if exponent == 0xFF {
		return append(b, "null"...)
	}
	if size != float {
		b = append(b, '-')
	}
	switch {
	case size == 0:
		return append(b, '0')
	case exponent >= 127 && exponent < 127+24 && size<<(exponent-127+9) == 0:
		return strconv.AppendUint(b, uint64(size&(1<<23-1)|1<<23)>>(127+23-exponent), 10)
	}
	d, k := shortest32(size)
	first := d / 1e8
	rest := eightDigits(d - first*1e8)
	zeros := bits.LeadingZeros64(rest) / 8 // at the end
	n := 9 - zeros
	k += zeros
	// The digits are the bytes of text, and of last if there are nine.
	text, last := uint64(first)|rest<<8, byte(rest>>56)
	if first == 0 {
		lead := bits.TrailingZeros64(rest) / 8
		n -= 1 + lead
		text, last = rest>>(8*lead), 0
	}
	text, last = text|'0'*ones, last|'0'
	point := n + k // where the point stands among the digits
	b = slices.Grow(b, longest)
	at := len(b)
	room := b[at : at+longest]
	switch {
	case point > 21 || point < -5:
		binary.LittleEndian.PutUint64(room[2:], text)
		room[10] = last
		return appendScientific(b, room[2:2+n], point-1)
	case point <= 0:
		binary.LittleEndian.PutUint64(room, zeroPoint)
		binary.LittleEndian.PutUint64(room[2-point:], text)
		room[10-point] = last
		return b[:at+2-point+n]
	}
	binary.LittleEndian.PutUint64(room, text)
	room[8] = last
	if k >= 0 {
		for i := n; i < point; i++ {
			room[i] = '0'
		}
		return b[:at+point]
	}
	room[point] = '.'
	binary.LittleEndian.PutUint64(room[point+1:], text>>(8*point)|uint64(last)<<(64-8*point))
	return b[:at+n+1]
}

// longest is more room than any float takes, and than is written to at all.
const longest = 64

// zeroPoint is the text 0.000000.
const zeroPoint = '0'*ones ^ ('0'^'.')<<8

func appendFloat64(b []byte, f float64) []byte {
	float := math.Float64bits(f)
	size := float &^ (1 << 63)
	exponent := size >> 52
	if exponent == 0x7FF {
		return append(b, "null"...)
	}
	if size != float {
		b = append(b, '-')
	}
	switch {
	case size == 0:
		return append(b, '0')
	case exponent >= 1023 && exponent < 1023+53 && size<<(exponent-1023+12) == 0:
		return strconv.AppendUint(b, (size&(1<<52-1)|1<<52)>>(1023+52-exponent), 10)
	}
	d, k := shortest64(size)
	var t decimalText
	high := d / 1e16
	d -= high * 1e16
	middle := d / 1e8
	binary.LittleEndian.PutUint64(t[0:], eightDigits(uint32(high)))
	binary.LittleEndian.PutUint64(t[8:], eightDigits(uint32(middle)))
	binary.LittleEndian.PutUint64(t[16:], eightDigits(uint32(d-middle*1e8)))
	return t.append(b, k)
}

// The two functions below give the shortest decimal d * 10^k that rounds to a
// positive float, the nearest of these if there are several. The algorithm is
// Schubfach: Raffaello Giulietti, "The Schubfach way to render doubles", 2020;
// names are those of the paper. With c * 2^q the float, its neighbours lie at
// (4c +- 2) * 2^(q-2); multiplied with a power of ten of enough bits, and
// rounded to odd, they say which integers lie between them.

// firstPower is the exponent of the first of powersOfTen.
const firstPower = -292

// floorLog10Pow2 is floor(log10(2^q)), or of 3/4 * 2^q.
func floorLog10Pow2(q int, threeQuarters bool) int {
	n := q * 1262611
	if threeQuarters {
		n -= 524031
	}
	return n >> 22
}

// floorLog2Pow10 is floor(log2(10^k)).
func floorLog2Pow10(k int) int { return k * 1741647 >> 19 }

func shortest32(float uint32) (d uint32, k int) {
	const fraction, bias = 23, 127 + 23
	c, exponent := float&(1<<fraction-1), int(float>>fraction)
	q := 1 - bias
	closer := c == 0 && exponent > 1 // the lower neighbour is
	if exponent > 0 {
		c |= 1 << fraction
		q = exponent - bias
	}
	k = floorLog10Pow2(q, closer)
	h := uint(q + floorLog2Pow10(-k) + 1)
	g := powersOfTen[-k-firstPower][0]
	if powersOfTen[-k-firstPower][1] != 0 {
		g++
	}
	odd := c & 1 // an odd float is not what its boundaries round to
	lower, upper := 4*c-2, 4*c+2
	if closer {
		lower++
	}
	v := roundToOdd32(g, 4*c<<h)
	low := roundToOdd32(g, lower<<h) + odd
	up := roundToOdd32(g, upper<<h) - odd
	return nearest(v, low, up, closer, k) // powers of two go up, as in strconv
}

func roundToOdd32(g uint64, c uint32) uint32 {
	hi, lo := bits.Mul64(g, uint64(c))
	y := uint32(hi)
	if lo>>32 > 1 {
		y |= 1
	}
	return y
}

func shortest64(float uint64) (d uint64, k int) {
	const fraction, bias = 52, 1023 + 52
	c, exponent := float&(1<<fraction-1), int(float>>fraction)
	q := 1 - bias
	closer := c == 0 && exponent > 1
	if exponent > 0 {
		c |= 1 << fraction
		q = exponent - bias
	}
	k = floorLog10Pow2(q, closer)
	h := uint(q + floorLog2Pow10(-k) + 1)
	g := &powersOfTen[-k-firstPower]
	odd := c & 1
	lower, upper := 4*c-2, 4*c+2
	if closer {
		lower++
	}
	v := roundToOdd64(g, 4*c<<h)
	low := roundToOdd64(g, lower<<h) + odd
	up := roundToOdd64(g, upper<<h) - odd
	return nearest(v, low, up, false, k)
}

// nearest picks from the multiples of 10^(k+1), or else of 10^k, that lie
// between low and up the one that is nearest to v, all three in quarters of
// 10^k. In the middle it goes to the even one, or up if so told.
func nearest[T uint32 | uint64](v, low, up T, middleUp bool, k int) (T, int) {
	s := v / 4
	if s >= 10 {
		s10 := s / 10
		below, above := low <= 40*s10, 40*s10+40 <= up
		if below != above {
			if above {
				s10++
			}
			return s10, k + 1
		}
	}
	below, above := low <= 4*s, 4*s+4 <= up
	if below != above {
		if above {
			s++
		}
		return s, k
	}
	if middle := 4*s + 2; v > middle || v == middle && (s&1 != 0 || middleUp) {
		s++
	}
	return s, k
}

func roundToOdd64(g *[2]uint64, c uint64) uint64 {
	x, _ := bits.Mul64(g[1], c)
	hi, lo := bits.Mul64(g[0], c)
	lo, carry := bits.Add64(lo, x, 0)
	hi += carry
	if lo > 1 {
		hi |= 1
	}
	return hi
}

// decimalText is a whole number of 24 decimal digits, from 0 to 9, and room to
// read on behind them.
type decimalText [64]byte

// eightDigits are the digits of d < 10^8, the first in the lowest byte.
func eightDigits(d uint32) uint64 {
	high := d / 1e4
	x := uint64(high) | uint64(d-high*1e4)<<32 // two numbers of four digits
	q := x * 10486 >> 20 & 0x7F0000007F        // a hundredth of each
	x = q | (x-q*100)<<16                      // four of two
	q = x * 103 >> 10 & 0x000F000F000F000F     // a tenth of each
	return q | (x-q*10)<<8
}

// append writes the number times 10^k. Digits are copied in pieces of fixed
// size, which write more than is kept.
func (t *decimalText) append(b []byte, k int) []byte {
	first, end := 0, 24
	for word := t.word(0); word == 0; word = t.word(first) {
		first += 8
	}
	first += bits.TrailingZeros64(t.word(first)) / 8
	for word := t.word(16); word == 0; word = t.word(end - 8) {
		end -= 8
		k += 8
	}
	zeros := bits.LeadingZeros64(t.word(end-8)) / 8
	end -= zeros
	k += zeros
	for at := 0; at < 24; at += 8 {
		binary.LittleEndian.PutUint64(t[at:], t.word(at)|'0'*ones)
	}
	n := end - first
	point := n + k // where the point stands among the digits
	b = slices.Grow(b, longest)
	at := len(b)
	room := b[at : at+longest]
	switch {
	case point > 21 || point < -5:
		return appendScientific(b, t[first:end], point-1)
	case point <= 0:
		binary.LittleEndian.PutUint64(room, zeroPoint)
		t.copy(room[2-point:], first)
		return b[:at+2-point+n]
	case k >= 0:
		t.copy(room, first)
		for i := n; i < point; i++ {
			room[i] = '0'
		}
		return b[:at+point]
	}
	t.copy(room, first)
	t.copy(room[point+1:], first+point)
	room[point] = '.'
	return b[:at+n+1]
}

// word is eight digits.
func (t *decimalText) word(at int) uint64 { return binary.LittleEndian.Uint64(t[at:]) }

// copy writes the 24 bytes from one on.
func (t *decimalText) copy(to []byte, from int) {
	for i := 0; i < 24; i += 8 {
		binary.LittleEndian.PutUint64(to[i:], t.word(from+i))
	}
}

func appendScientific(b, digits []byte, exponent int) []byte {
	b = append(b, digits[0])
	if len(digits) > 1 {
		b = append(b, '.')
		b = append(b, digits[1:]...)
	}
	b = append(b, 'e')
	if exponent > 0 {
		b = append(b, '+')
	}
	return strconv.AppendInt(b, int64(exponent), 10)
}
