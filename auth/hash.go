package auth

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

// Hashing sets the cost of password hashing. Zero fields take the defaults,
// which are those of OWASP ASVS 5.0 appendix C.
type Hashing struct {
	Memory   uint32 // KiB; 0: 46 MiB
	Time     uint32 // passes; 0: 1
	Parallel uint8  // lanes; 0: 1
	Gate     int    // hashes computed at once; 0: half the cores, at least 1
	Queue    int    // callers that may wait for the gate; 0: 128
	// Derive computes what argon2.IDKey does, elsewhere; nil: argon2.IDKey. It
	// is called at most Gate times at once.
	Derive func(password, salt []byte, time, memory uint32, parallel uint8, size uint32) []byte
}

const (
	saltSize = 16
	hashSize = 32

	// What a stored hash may cost to verify. A row that asks for more was not
	// written by us and would let whoever wrote it stop the service.
	maxArgonMemory = 1 << 20 // KiB
	maxArgonTime   = 64
	maxBcryptCost  = 15

	// bcrypt looks at no more than 72 bytes.
	bcryptBytes = 72
)

func (h Hashing) withDefaults() Hashing {
	if h.Memory == 0 {
		h.Memory = 46 << 10
	}
	if h.Time == 0 {
		h.Time = 1
	}
	if h.Parallel == 0 {
		h.Parallel = 1
	}
	if h.Gate <= 0 {
		h.Gate = max(1, runtime.NumCPU()/2)
	}
	if h.Queue <= 0 {
		h.Queue = 128
	}
	if h.Derive == nil {
		h.Derive = argon2.IDKey
	}
	return h
}

// hasher computes and verifies password hashes, few at a time: each takes a
// core and tens of megabytes.
type hasher struct {
	derive func(password, salt []byte, time, memory uint32, parallel uint8, size uint32) []byte
	cost   argonCost
	dummy  string // a hash no password matches, as costly as a real one

	slots   chan struct{} // one element for each hash at work
	waiting atomic.Int64  // callers in line for slots
	queue   int64

	wait    prometheus.Histogram
	refused prometheus.Counter
}

func newHasher(h Hashing, m *metrics) *hasher {
	h = h.withDefaults()
	c := argonCost{memory: h.Memory, time: h.Time, parallel: h.Parallel}
	salt, sum := make([]byte, saltSize), make([]byte, hashSize)
	rand.Read(salt)
	rand.Read(sum)
	return &hasher{
		derive: h.Derive, cost: c, dummy: c.encode(salt, sum), slots: make(chan struct{}, h.Gate), queue: int64(h.Queue),
		wait: m.hashWait, refused: m.hashRefused,
	}
}

// enter waits for a slot; the caller gives it back with leave. A full line
// answers at once.
func (h *hasher) enter(ctx context.Context) error {
	select {
	case h.slots <- struct{}{}: // a channel hands slots to those in line first
		h.wait.Observe(0)
		return nil
	default:
	}
	defer h.waiting.Add(-1)
	if h.waiting.Add(1) > h.queue {
		h.refused.Inc()
		return ErrUnavailable.With("too many sign-ins at the moment; try again in a few seconds")
	}
	began := time.Now()
	select {
	case h.slots <- struct{}{}:
		h.wait.Observe(time.Since(began).Seconds())
		return nil
	case <-ctx.Done():
		return ErrUnavailable.Because(ctx.Err())
	}
}

func (h *hasher) leave() { <-h.slots }

// hash makes a PHC string of a password. It fails only when the line is full or
// ctx ends.
func (h *hasher) hash(ctx context.Context, password string) (string, error) {
	if err := h.enter(ctx); err != nil {
		return "", err
	}
	defer h.leave()
	salt := make([]byte, saltSize)
	rand.Read(salt)
	return h.cost.encode(salt, h.sum(h.cost, password, salt, hashSize)), nil
}

// verification is the result of verify.
type verification struct {
	match bool
	other bool      // the hash is of another kind or cost than those made today
	began time.Time // when the work began, after the wait in line
}

// verify compares a password with a stored hash. An empty or unreadable hash
// costs as much as any and matches nothing.
func (h *hasher) verify(ctx context.Context, stored, password string) (verification, error) {
	if err := h.enter(ctx); err != nil {
		return verification{}, err
	}
	defer h.leave()
	v := verification{began: time.Now()}
	usable := stored != "" && matchable(stored)
	if !usable {
		stored = h.dummy
	}
	v.other = h.outdated(stored)
	v.match = h.compare(stored, password) && usable
	return v, nil
}

// outdated says that a stored hash should be replaced by one of today's cost.
func (h *hasher) outdated(stored string) bool {
	c, _, sum, err := parseArgon(stored)
	return err != nil || c != h.cost || len(sum) != hashSize
}

// matchable says whether a stored hash is of a kind and cost we verify.
func matchable(stored string) bool {
	if _, _, _, err := parseArgon(stored); err == nil {
		return true
	}
	cost, err := bcrypt.Cost([]byte(stored))
	return err == nil && cost <= maxBcryptCost
}

func (h *hasher) compare(stored, password string) bool {
	c, salt, sum, err := parseArgon(stored)
	if err == nil {
		return subtle.ConstantTimeCompare(h.sum(c, password, salt, uint32(len(sum))), sum) == 1
	}
	// bcrypt would ignore what follows byte 72, so that any suffix would do.
	p := []byte(password)
	whole := len(p) <= bcryptBytes
	p = p[:min(len(p), bcryptBytes)]
	return bcrypt.CompareHashAndPassword([]byte(stored), p) == nil && whole
}

// argonCost is the cost of an argon2id hash (RFC 9106).
type argonCost struct {
	memory, time uint32
	parallel     uint8
}

func (h *hasher) sum(c argonCost, password string, salt []byte, size uint32) []byte {
	return h.derive([]byte(password), salt, c.time, c.memory, c.parallel, size)
}

// encode writes the PHC string format, as libargon2 does.
func (c argonCost) encode(salt, sum []byte) string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, c.memory, c.time, c.parallel, b64.EncodeToString(salt), b64.EncodeToString(sum))
}

var errNotArgon = errors.New("not an argon2id hash")

func parseArgon(stored string) (c argonCost, salt, sum []byte, err error) {
	parts := strings.Split(stored, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return c, nil, nil, errNotArgon
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &c.memory, &c.time, &c.parallel); err != nil {
		return c, nil, nil, errNotArgon
	}
	b64 := base64.RawStdEncoding.Strict()
	salt, serr := b64.DecodeString(parts[4])
	sum, herr := b64.DecodeString(parts[5])
	switch {
	case serr != nil, herr != nil, len(salt) < 8, len(salt) > 64, len(sum) < 16, len(sum) > 64,
		c.time < 1, c.time > maxArgonTime, c.parallel < 1, c.memory < 8*uint32(c.parallel), c.memory > maxArgonMemory:
		return c, nil, nil, errNotArgon
	}
	return c, salt, sum, nil
}
