package oipgrpc

import (
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"time"
)

// ContentType is the media type of calls and answers.
const ContentType = "application/grpc"

// IsContentType reports whether a request with this Content-Type is a call
// whose messages are protobuf.
func IsContentType(s string) bool {
	rest, ok := strings.CutPrefix(s, ContentType)
	return ok && (rest == "" || rest == "+proto" || rest[0] == ';')
}

// Code is a gRPC status code.
type Code uint8

// The codes of gRPC, by their numbers.
const (
	OK                 Code = 0
	Cancelled          Code = 1
	Unknown            Code = 2
	InvalidArgument    Code = 3
	DeadlineExceeded   Code = 4
	NotFound           Code = 5
	AlreadyExists      Code = 6
	PermissionDenied   Code = 7
	ResourceExhausted  Code = 8
	FailedPrecondition Code = 9
	Aborted            Code = 10
	Unimplemented      Code = 12
	Internal           Code = 13
	Unavailable        Code = 14
	Unauthenticated    Code = 16
)

// PrefixSize is the bytes before each message: a flag and a length.
const PrefixSize = 5

// Prefix is what stands before a message.
type Prefix struct {
	Compressed bool
	Length     uint32 // bytes of the message that follow
}

// ErrPrefix is a prefix that gRPC does not know.
var ErrPrefix = errors.New("oipgrpc: a message begins with an unknown flag")

// ReadPrefix reads what stands before the next message. io.EOF when there is
// none, io.ErrUnexpectedEOF when it is cut, ErrPrefix for an unknown flag.
func ReadPrefix(r io.Reader) (Prefix, error) {
	var b [PrefixSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return Prefix{}, err
	}
	if b[0] > 1 {
		return Prefix{}, ErrPrefix
	}
	return Prefix{b[0] == 1, binary.BigEndian.Uint32(b[1:])}, nil
}

// PutPrefix writes a prefix into the first PrefixSize bytes of frame, whose
// rest is the message.
func PutPrefix(frame []byte, compressed bool) {
	frame[0] = 0
	if compressed {
		frame[0] = 1
	}
	binary.BigEndian.PutUint32(frame[1:], uint32(len(frame)-PrefixSize))
}

// Timeout reads the value of the header grpc-timeout: up to eight digits and a
// unit.
func Timeout(s string) (time.Duration, bool) {
	if len(s) < 2 || len(s) > 9 {
		return 0, false
	}
	var unit time.Duration
	switch s[len(s)-1] {
	case 'H':
		unit = time.Hour
	case 'M':
		unit = time.Minute
	case 'S':
		unit = time.Second
	case 'm':
		unit = time.Millisecond
	case 'u':
		unit = time.Microsecond
	case 'n':
		unit = time.Nanosecond
	default:
		return 0, false
	}
	n := time.Duration(0)
	for _, c := range []byte(s[:len(s)-1]) {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + time.Duration(c-'0')
	}
	const longest = 1<<63 - 1
	if n > longest/unit {
		return longest, true
	}
	return n * unit, true
}

// EncodeMessage writes the words of a status as the header grpc-message wants
// them: printable ASCII without the percent sign as it is, every other byte as
// a percent sign and two digits.
func EncodeMessage(s string) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '%' {
			b.WriteByte('%')
			b.WriteByte(digits[c>>4])
			b.WriteByte(digits[c&15])
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
