package api

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// readCompressed is readBody for routes that take gzip and deflate (RFC 9110
// section 8.4.1) as well. Both what comes and what it expands to are bounded
// by limit, and memory is taken as expanded bytes really come, under the byte
// budget.
func (c *call) readCompressed(limit int64) (body, error) {
	r := c.gin.Request
	given := r.Header["Content-Encoding"]
	if len(given) == 0 || plainEncoding(r) == nil {
		return c.readBody(limit)
	}
	coding := strings.ToLower(strings.TrimSpace(given[0]))
	if len(given) > 1 || coding != "gzip" && coding != "x-gzip" && coding != "deflate" {
		return body{}, &fault{code: "unsupported_encoding", detail: "Content-Encoding must be gzip or deflate, once; or leave it out"}
	}
	if r.ContentLength > limit {
		return body{}, tooLarge(limit)
	}
	if r.Body == nil || r.Body == http.NoBody {
		return body{}, notCompressed(coding, io.ErrUnexpectedEOF)
	}
	b := body{memory: c.s.bodies, shares: c.s.shares, user: c.who.UserID}
	if limit <= policyBody {
		b.memory = c.s.reserve
	}
	return c.readExpanded(b, coding, r.Body, limit)
}

// readExpanded reads what from expands to.
func (c *call) readExpanded(b body, coding string, from io.Reader, limit int64) (body, error) {
	return c.readInto(b, &expander{coding: coding, from: bufio.NewReader(&capped{from, limit, limit})}, -1, limit)
}

// capped fails when more than limit bytes come. Compressed data can be endless
// without expanding to anything.
type capped struct {
	from        io.Reader
	left, limit int64
}

func (c *capped) Read(p []byte) (int, error) {
	n, err := c.from.Read(p)
	if c.left -= int64(n); c.left < 0 {
		return 0, tooLarge(c.limit)
	}
	return n, err
}

// expander reads what one gzip or zlib stream expands to, and fails when
// anything follows the stream.
type expander struct {
	coding string
	from   *bufio.Reader
	stream io.Reader // nil before the first Read
}

func (e *expander) Read(p []byte) (int, error) {
	n, err := 0, error(nil)
	if e.stream == nil {
		if e.coding == "deflate" {
			e.stream, err = zlib.NewReader(e.from)
		} else {
			e.stream, err = gzip.NewReader(e.from)
		}
	}
	if err == nil {
		n, err = e.stream.Read(p)
	} else if err == io.EOF { // no header at all
		err = io.ErrUnexpectedEOF
	}
	if err == io.EOF {
		if _, more := e.from.ReadByte(); more != io.EOF {
			return 0, notCompressed(e.coding, more)
		}
	}
	if err != nil && err != io.EOF {
		return 0, notCompressed(e.coding, err)
	}
	return n, err
}

// notCompressed tells a body that is not what it says from one that did not
// come.
func notCompressed(coding string, err error) error {
	var corrupt flate.CorruptInputError
	switch {
	case err == nil, errors.As(err, &corrupt), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, gzip.ErrHeader), errors.Is(err, gzip.ErrChecksum),
		errors.Is(err, zlib.ErrHeader), errors.Is(err, zlib.ErrChecksum), errors.Is(err, zlib.ErrDictionary):
		return &fault{code: "invalid_input", detail: "the body is not one whole " + coding + " stream, as its encoding is said to be", cause: err}
	}
	return err
}

// compressor is what gzip and zlib writers have in common.
type compressor interface {
	io.WriteCloser
	Reset(io.Writer)
}

// Writers hold about a megabyte each, so they are used again. Speed is the
// level: floats hardly shrink.
var compressors = map[string]*sync.Pool{
	"gzip":    {New: func() any { w, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed); return compressor(w) }},
	"deflate": {New: func() any { w, _ := zlib.NewWriterLevel(nil, zlib.BestSpeed); return compressor(w) }},
}

// compress returns data in a coding of compressors.
func compress(coding string, data []byte) ([]byte, error) {
	w := compressors[coding].Get().(compressor)
	defer compressors[coding].Put(w)
	var out bytes.Buffer
	out.Grow(len(data)/2 + 64)
	w.Reset(&out)
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// wantedCoding picks the coding of an answer from Accept-Encoding (RFC 9110
// section 12.5.3): of gzip and deflate the one that is named with the greater
// weight, gzip of equals; "" where neither is named. A bare "*" names neither.
func wantedCoding(r *http.Request) string {
	best, weight := "", 0.0
	for _, line := range r.Header["Accept-Encoding"] {
		for entry := range strings.SplitSeq(line, ",") {
			coding, parameters, weighed := strings.Cut(entry, ";")
			coding = strings.ToLower(strings.TrimSpace(coding))
			if compressors[coding] == nil {
				continue
			}
			q := 1.0
			if weighed {
				name, value, _ := strings.Cut(strings.TrimSpace(parameters), "=")
				var err error
				if q, err = strconv.ParseFloat(strings.TrimSpace(value), 64); err != nil || !strings.EqualFold(strings.TrimSpace(name), "q") || !(q <= 1) {
					continue
				}
			}
			if q > weight || q == weight && q > 0 && coding == "gzip" {
				best, weight = coding, q
			}
		}
	}
	return best
}
