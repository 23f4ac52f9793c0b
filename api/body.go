package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"sync"
	"time"

	"modelgate/inference"
)

// shares bounds what one user's bodies take of the budget, so that no account
// alone keeps the others out. Small bodies are not counted: to fill the budget
// with them takes more connections, or more of a rate, than one account has.
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

// A body starts in little memory and moves to more as bytes really arrive: a
// declared length alone takes none. All of it lies outside the Go heap, so that
// large bodies neither set the collector's pace nor are left over as garbage.
const (
	firstBuffer = 4 << 10 // where no length is declared
	firstRead   = 64 << 10
)

// body is what a caller sent, in memory, until release.
type body struct {
	data   []byte
	buf    *inference.Buffer
	memory *inference.Memory
	shares *shares
	user   string // whose share larger buffers are of

	streamed bool // one of many on a connection: cheap to send, so that smaller ones count too
}

// shared reports whether n bytes count against the share of who sends them.
// Strangers have none.
func (b *body) shared(n int64) bool {
	return b.user != "" && (n > firstRead || b.streamed && n > firstBuffer)
}

// grow moves the bytes read so far into a buffer of n bytes.
func (b *body) grow(ctx context.Context, n int64) error {
	if b.shared(n) && !b.shares.take(b.user, n) {
		return &fault{code: "unavailable", detail: "too many large requests of yours are being read; send fewer at once"}
	}
	next, err := b.memory.Get(ctx, int(n))
	if err != nil {
		if b.shared(n) {
			b.shares.give(b.user, n)
		}
		return &fault{code: "unavailable", detail: "too many request bodies are being read; try again in a moment", cause: err}
	}
	old := *b
	b.data, b.buf = next.Bytes()[:copy(next.Bytes(), old.data)], next
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
	if n := int64(len(b.buf.Bytes())); b.shared(n) {
		b.shares.give(b.user, n)
	}
	b.buf.Release()
	b.data, b.buf = nil, nil
}

// holdAnswer counts the text of a large answer as its reader's, as long as he
// reads: what a slow client has not taken yet is memory like that of a body.
// The release must be called.
func (c *call) holdAnswer(data []byte) (release func(), err error) {
	n := int64(len(data))
	if n <= firstRead {
		return func() {}, nil
	}
	if n > c.s.shares.most {
		return nil, &fault{code: "too_large", detail: fmt.Sprintf("the answer is larger than the %d MiB that one user's may be; send less at once or ask for fewer outputs", c.s.shares.most>>20)}
	}
	busy := &fault{code: "unavailable", detail: "too many large answers are being sent; read those you asked for, or ask for less at once"}
	if !c.s.shares.take(c.who.UserID, n) {
		return nil, busy
	}
	held, err := c.s.bodies.Charge(n)
	if err != nil {
		c.s.shares.give(c.who.UserID, n)
		return nil, busy
	}
	user := c.who.UserID
	return func() {
		held.Release()
		c.s.shares.give(user, n)
	}, nil
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
	b := body{memory: c.s.bodies, shares: c.s.shares, user: c.who.UserID}
	if limit <= policyBody {
		b.memory = c.s.reserve
	}
	return c.readInto(b, from, length, limit)
}

// readInto is readFrom with the memory that b names.
func (c *call) readInto(b body, from io.Reader, length, limit int64) (body, error) {
	if from == nil || from == http.NoBody {
		return b, nil
	}
	first := min(firstBuffer, limit+1)
	if length > 0 {
		first = min(length, firstRead)
	}
	if err := b.grow(c.ctx(), first); err != nil {
		return b, err
	}
	start := time.Now()
	for {
		room := b.buf.Bytes()
		n, err := from.Read(room[len(b.data):])
		b.data = room[:len(b.data)+n]
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
		if len(b.data) == len(room) {
			if length == read {
				break
			}
			want := min(4*read, limit+1)
			if length > 0 {
				want = min(want, length)
			}
			if err := b.grow(c.ctx(), want); err != nil {
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
	if err := c.stillMay(); err != nil {
		b.release()
		return b, err
	}
	// From here on net/http listens for the client hanging up, without deadline.
	return b, nil
}

// proofGrace is how long a caller is who he was when his request began, while
// its body comes.
const proofGrace = time.Second

// stillMay is asked when a body has come. Of one that was long in coming the
// caller may have been disabled since, or have lost a right: what he held back
// must not be done as if he had not.
func (c *call) stillMay() error {
	if c.who.UserID == "" || time.Since(c.proved) < proofGrace {
		return nil
	}
	c.proved = time.Now()
	who, err := c.s.auth.Recheck(c.ctx(), c.who)
	if err := c.identified(who, err); err != nil {
		return err
	}
	return c.permitted()
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
