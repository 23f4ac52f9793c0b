package api

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// budget bounds the memory of all request bodies that are held at once.
type budget struct {
	total int64
	left  atomic.Int64
}

func newBudget(total int64) *budget {
	b := &budget{total: total}
	b.left.Store(total)
	return b
}

func (b *budget) take(n int64) bool {
	if b.left.Add(-n) < 0 {
		b.left.Add(n)
		return false
	}
	return true
}

func (b *budget) give(n int64) { b.left.Add(n) }

func (b *budget) held() float64 { return float64(b.total - b.left.Load()) }

// shares bounds what one user's larger bodies take of the budget, so that no
// account alone keeps the others out.
type shares struct {
	most int64
	mu   sync.Mutex
	held map[string]int64 // by user id; guarded by mu
}

func (s *shares) take(user string, n int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[user]+n > s.most {
		return false
	}
	s.held[user] += n
	return true
}

func (s *shares) give(user string, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[user] -= n; s.held[user] <= 0 {
		delete(s.held, user)
	}
}

// Bodies are read into buffers of these classes, which are reused. A body
// starts in the smallest that may do and moves up as bytes really arrive: a
// declared length alone takes no memory.
const (
	smallestClass = 4 << 10
	classes       = 13 // 4 KiB ... 16 MiB, each twice the one before; larger ones are not kept
	firstRead     = 64 << 10
)

var buffers [classes]sync.Pool // of *[]byte

// classFor returns the class of at least n bytes, or -1.
func classFor(n int64) int {
	size := int64(smallestClass)
	for c := range classes {
		if n <= size {
			return c
		}
		size *= 2
	}
	return -1
}

// body is what a caller sent, in memory, until release.
type body struct {
	data   []byte
	buf    *[]byte
	class  int
	budget *budget
	shares *shares
	user   string // whose share larger buffers are of
}

// grow moves the bytes read so far into a buffer of at least n bytes.
func (b *body) grow(n, most int64) error {
	class := classFor(n)
	size := min(n, most)
	if class >= 0 {
		size = smallestClass << class
	}
	if size > firstRead && !b.shares.take(b.user, size) {
		return &fault{code: "unavailable", detail: "too many large requests of yours are being read; send fewer at once"}
	}
	if !b.budget.take(size) {
		if size > firstRead {
			b.shares.give(b.user, size)
		}
		return &fault{code: "unavailable", detail: "too many request bodies are being read; try again in a moment"}
	}
	var next *[]byte
	if class >= 0 {
		next, _ = buffers[class].Get().(*[]byte)
	}
	if next == nil {
		fresh := make([]byte, size)
		next = &fresh
	}
	old := *b
	b.data, b.buf, b.class = (*next)[:copy(*next, old.data)], next, class
	old.release()
	return nil
}

// release gives the memory back; data must not be used any more. It may be
// called on nil and more than once.
func (b *body) release() {
	if b == nil || b.buf == nil {
		return
	}
	// Small bodies are where passwords and tokens stand.
	if len(b.data) <= firstRead {
		clear(b.data)
	}
	size := int64(len(*b.buf))
	b.budget.give(size)
	if size > firstRead {
		b.shares.give(b.user, size)
	}
	if b.class >= 0 {
		buffers[b.class].Put(b.buf)
	}
	b.data, b.buf = nil, nil
}

// Reading a body must be done after bodyGrace, and from then on has gone at
// slowestBody bytes per second at least.
const (
	bodyGrace   = 15 * time.Second
	slowestBody = 32 << 10
)

// readBody reads the whole body, at most limit bytes. Compressed bodies are
// refused rather than expanded.
func (c *call) readBody(limit int64) (body, error) {
	r := c.gin.Request
	if err := plainEncoding(r); err != nil {
		return body{}, err
	}
	return c.readFrom(r.Body, r.ContentLength, limit)
}

// readFrom reads all of from, of which length bytes come (-1: nobody knows).
func (c *call) readFrom(from io.Reader, length, limit int64) (body, error) {
	if length > limit {
		return body{}, tooLarge(limit)
	}
	b := body{budget: c.s.budget, shares: c.s.shares, user: c.who.UserID}
	if limit <= policyBody {
		b.budget = c.s.reserve
	}
	return c.readInto(b, from, length, limit)
}

// readInto is readFrom with the budgets that b names.
func (c *call) readInto(b body, from io.Reader, length, limit int64) (body, error) {
	if from == nil || from == http.NoBody {
		return b, nil
	}
	first := int64(smallestClass)
	if length > 0 {
		first = min(length, firstRead)
	}
	if err := b.grow(first, limit+1); err != nil {
		return b, err
	}
	start := time.Now()
	for {
		n, err := from.Read((*b.buf)[len(b.data):])
		b.data = (*b.buf)[:len(b.data)+n]
		read := int64(len(b.data))
		if read > limit {
			b.release()
			return b, tooLarge(limit)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			b.release()
			return b, stopped(err)
		}
		if len(b.data) == len(*b.buf) {
			if length == read {
				break
			}
			want := 4 * read
			if length > 0 {
				want = min(want, length)
			}
			if err := b.grow(want, limit+1); err != nil {
				b.release()
				return b, err
			}
		}
		if read > firstRead {
			// A pace on the whole, and no long pause: a stalled body holds memory.
			pace := start.Add(c.s.bodyGrace + time.Duration(read)*time.Second/slowestBody)
			if pause := time.Now().Add(c.s.bodyGrace); pause.Before(pace) {
				pace = pause
			}
			c.readUntil(pace)
		}
	}
	c.bodyRead = true
	// From here on net/http listens for the client hanging up, without deadline.
	return b, nil
}

func tooLarge(limit int64) *fault {
	return &fault{code: "too_large", detail: fmt.Sprintf("the body is larger than the %d bytes that are taken here", limit)}
}

// stopped is the answer to a body that ended before it should.
func stopped(err error) *fault {
	var known *fault
	if errors.As(err, &known) {
		return known
	}
	if tooSlow(err) {
		return &fault{code: "timeout", detail: "the body arrived too slowly; send it again", cause: err}
	}
	return &fault{code: "invalid_input", detail: "the body stopped before its end; send it again", cause: err}
}

// tooSlow tells a read deadline from other failures.
func tooSlow(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout()
}

func plainEncoding(r *http.Request) error {
	for _, e := range r.Header["Content-Encoding"] {
		if e = strings.TrimSpace(e); e != "" && !strings.EqualFold(e, "identity") {
			return &fault{code: "unsupported_encoding", detail: "compressed bodies are not taken; send it without Content-Encoding"}
		}
	}
	return nil
}

// hasMediaType reports whether the body is declared as want, whatever its
// parameters.
func hasMediaType(r *http.Request, want string) bool {
	given := r.Header["Content-Type"]
	if len(given) != 1 {
		return false
	}
	if given[0] == want {
		return true
	}
	got, _, err := mime.ParseMediaType(given[0])
	return err == nil && got == want
}
