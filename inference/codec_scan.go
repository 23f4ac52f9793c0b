package inference

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth bounds how deep arrays and objects may nest in a body. No tensor
// needs a tenth of it.
const maxDepth = 64

// Repeated over the eight bytes of a word.
const (
	ones  = 0x0101010101010101
	lows  = 0x7F7F7F7F7F7F7F7F
	highs = 0x8080808080808080
)

// scanner walks one JSON text (RFC 8259). Its methods leave i behind what they
// read; after an error i is where the trouble is.
type scanner struct {
	b    []byte
	i    int
	part string // of the body that b is, for messages; empty: all of it
}

// at says where i is, in the words of who sent the text.
func (s *scanner) at(i int) string {
	if s.part == "" {
		return fmt.Sprintf("byte %d", i)
	}
	return fmt.Sprintf("byte %d of %s", i, s.part)
}

// fail is an ErrInput that names the byte where the text stops being what was
// expected.
func (s *scanner) fail(expected string) error {
	if s.i >= len(s.b) {
		return ErrInput.With("the JSON ends too early: expected " + expected)
	}
	return ErrInput.With(fmt.Sprintf("the JSON is not valid at %s: expected %s, found %s", s.at(s.i), expected, s.found()))
}

// found quotes what stands at i, for messages.
func (s *scanner) found() string {
	end := s.i
	for end < len(s.b) && end < s.i+maxQuote && !strings.ContainsRune(" \t\r\n,:[]{}\"", rune(s.b[end])) {
		end++
	}
	return quote(s.b[s.i:max(end, min(s.i+1, len(s.b)))])
}

// maxQuote is how many bytes of a client's text a message repeats.
const maxQuote = 40

// quote repeats a client's text in a message: capped, and escaped so that it
// can't forge lines or control a terminal.
func quote[T string | []byte](text T) string {
	if len(text) <= maxQuote {
		return strconv.Quote(string(text))
	}
	cut := maxQuote
	for cut > maxQuote-utf8.UTFMax && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return strconv.Quote(string(text[:cut])) + "..."
}

// space skips white space and returns the byte behind it, 0 at the end.
func (s *scanner) space() byte {
	for ; s.i < len(s.b); s.i++ {
		switch c := s.b[s.i]; c {
		case ' ', '\t', '\n', '\r':
		default:
			return c
		}
	}
	return 0
}

// eat skips white space and then c, if c is what follows.
func (s *scanner) eat(c byte) bool {
	if s.space() != c {
		return false
	}
	s.i++
	return true
}

// end fails unless only white space is left.
func (s *scanner) end() error {
	if s.space(); s.i < len(s.b) {
		return s.fail("nothing more")
	}
	return nil
}

// key reads the next key of an object and the colon behind it; first is
// cleared. ok is false at the end of the object.
func (s *scanner) key(first *bool) (key []byte, ok bool, err error) {
	switch c := s.space(); {
	case c == '}':
		s.i++
		return nil, false, nil
	case *first:
		*first = false
	case c == ',':
		s.i++
		s.space()
	default:
		return nil, false, s.fail("a comma or }")
	}
	if key, err = s.text("a key in double quotes"); err != nil {
		return nil, false, err
	}
	if !s.eat(':') {
		return nil, false, s.fail("a colon")
	}
	s.space()
	return key, true, nil
}

// text reads a string. The bytes point into the text read, unless it has
// escapes.
func (s *scanner) text(expected string) ([]byte, error) {
	raw, escaped, err := s.raw(expected)
	if err != nil || !escaped {
		return raw, err
	}
	return unescape(nil, raw)
}

// raw reads a string and returns what stands between its quotes, checked for
// UTF-8 and control characters but with escapes unread.
func (s *scanner) raw(expected string) (raw []byte, escaped bool, err error) {
	if s.i >= len(s.b) || s.b[s.i] != '"' {
		return nil, false, s.fail(expected)
	}
	start := s.i + 1
	end := endOfString(s.b, start)
	if end < 0 {
		s.i = len(s.b)
		return nil, false, s.fail("the end of a string")
	}
	raw = s.b[start : end-1]
	wide := byte(0)
	for k, c := range raw {
		if c < 0x20 {
			s.i = start + k
			return nil, false, s.fail("no control character inside a string (write \\n, \\t, \\u0000)")
		}
		wide |= c
		escaped = escaped || c == '\\'
	}
	if wide >= utf8.RuneSelf && !utf8.Valid(raw) {
		return nil, false, ErrInput.With(fmt.Sprintf("the string at %s is not valid UTF-8", s.at(s.i)))
	}
	s.i = end
	return raw, escaped, nil
}

// endOfString returns the index behind the quote that closes the string whose
// text begins at i; -1 when it is not closed.
func endOfString(b []byte, i int) int {
	from := i
	for {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			return -1
		}
		at := i + n
		back := at
		for back > from && b[back-1] == '\\' {
			back--
		}
		if i = at + 1; (at-back)%2 == 0 {
			return i
		}
		from = i // the backslashes before it are accounted for
	}
}

// unescape appends the text of a string whose escapes are unread. Half a
// surrogate pair stands for no character and is refused.
func unescape(dst, raw []byte) ([]byte, error) {
	for len(raw) > 0 {
		k := bytes.IndexByte(raw, '\\')
		if k < 0 {
			return append(dst, raw...), nil
		}
		dst = append(dst, raw[:k]...)
		raw = raw[k+1:]
		c := raw[0] // endOfString sees to it that no text ends in a lone backslash
		switch at := strings.IndexByte(`"\/bfnrt`, c); {
		case at >= 0:
			dst = append(dst, "\"\\/\b\f\n\r\t"[at])
			raw = raw[1:]
		case c == 'u':
			r, n := unicodeEscape(raw)
			if n == 0 {
				return nil, ErrInput.With("the escape " + quote(raw[:min(len(raw), 11)]) +
					" behind a backslash stands for no character; write four hex digits, and both halves of a surrogate pair")
			}
			dst = utf8.AppendRune(dst, r)
			raw = raw[n:]
		default:
			return nil, ErrInput.With("the escape \\" + quote(raw[:1]) + " is not JSON")
		}
	}
	return dst, nil
}

// unicodeEscape reads uXXXX, or uXXXX\uXXXX for a surrogate pair, and how long
// it is; 0 when it stands for no character.
func unicodeEscape(b []byte) (rune, int) {
	r := hex4(b)
	switch {
	case r < 0:
		return 0, 0
	case !utf16.IsSurrogate(r):
		return r, 5
	case len(b) < 11 || b[5] != '\\':
		return 0, 0
	}
	if r = utf16.DecodeRune(r, hex4(b[6:])); r == utf8.RuneError {
		return 0, 0
	}
	return r, 11
}

// hex4 reads uXXXX; -1 when that is not there.
func hex4(b []byte) rune {
	if len(b) < 5 || b[0] != 'u' {
		return -1
	}
	r := rune(0)
	for _, c := range b[1:5] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return -1
		}
		r = r<<4 | rune(c)
	}
	return r
}

// skip passes over one value without reading it: it knows strings and
// brackets, but not whether brackets match in kind or what stands between
// them. Who reads the value later finds that out; where a value ends is right
// for every valid text. Depth is bounded by maxDepth.
func (s *scanner) skip() (value []byte, err error) {
	start := s.i
	switch c := s.space(); c {
	case 0:
		return nil, s.fail("a value")
	case '"':
		if s.i = endOfString(s.b, s.i+1); s.i < 0 {
			s.i = len(s.b)
			return nil, s.fail("the end of a string")
		}
	case '[', '{':
		if err := s.skipNested(); err != nil {
			return nil, err
		}
	default:
		for s.i < len(s.b) && !strings.ContainsRune(" \t\r\n,:[]{}\"", rune(s.b[s.i])) {
			s.i++
		}
		if s.i == start {
			return nil, s.fail("a value")
		}
	}
	return s.b[start:s.i], nil
}

// skipNested passes over an array or object, eight bytes at a time.
func (s *scanner) skipNested() error {
	b, i, depth := s.b, s.i+1, 1
	for {
		i = skipPlain(b, i)
		var w uint64
		if i+8 <= len(b) {
			w = binary.LittleEndian.Uint64(b[i:])
		} else {
			var tail [8]byte
			if copy(tail[:], b[i:]) == 0 {
				s.i = len(b)
				return s.fail("the end of an array or object")
			}
			w = binary.LittleEndian.Uint64(tail[:])
		}
		folded := w | 0x20*ones // [ and ] become { and }
		opens, closes, quotes := equal(folded, '{'), equal(folded, '}'), equal(w, '"')
		if up, down := bits.OnesCount64(opens), bits.OnesCount64(closes); quotes == 0 && down < depth && depth+up <= maxDepth {
			depth += up - down
			i = min(i+8, len(b))
			continue
		}
		next := min(i+8, len(b))
		for special := opens | closes | quotes; special != 0; special &= special - 1 {
			bit := special & -special
			at := i + bits.TrailingZeros64(bit)/8
			if quotes&bit != 0 {
				if next = endOfString(b, at+1); next < 0 {
					s.i = len(b)
					return s.fail("the end of a string")
				}
				break
			}
			if opens&bit != 0 {
				depth++
			} else {
				depth--
			}
			if depth == 0 {
				s.i = at + 1
				return nil
			}
			if depth > maxDepth {
				return ErrInput.With(fmt.Sprintf("the JSON nests deeper than %d levels at %s", maxDepth, s.at(at)))
			}
		}
		i = next
	}
}

// skipPlain passes over words that hold no quote and no byte of 0x40 and
// above, as brackets are: digits, signs, points, commas and spaces.
func skipPlain(b []byte, i int) int {
	for ; i+16 <= len(b); i += 16 {
		v, w := binary.LittleEndian.Uint64(b[i:]), binary.LittleEndian.Uint64(b[i+8:])
		p, q := v^'"'*ones, w^'"'*ones
		// x-ones&^x has the high bit in every zero byte, and maybe in others
		// above one: a false alarm costs a closer look.
		if ((v|w)<<1|(v|w)|(p-ones)&^p|(q-ones)&^q)&highs != 0 {
			break
		}
	}
	return i
}

// equal has the high bit of every byte of w that equals c.
func equal(w uint64, c byte) uint64 {
	t := w ^ uint64(c)*ones
	return ^((t&lows + lows) | t | lows)
}
