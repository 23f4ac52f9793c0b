package auth

import (
	"context"
	"errors"
	"math"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

var cheapHashing = Hashing{Memory: 64, Time: 1, Parallel: 1, Gate: 1, Queue: 3}

func cheapHasher() *hasher { return newHasher(cheapHashing, newMetrics()) }

func mustHash(t testing.TB, h *hasher, password string) string {
	t.Helper()
	s, err := h.hash(context.Background(), password)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func match(t testing.TB, h *hasher, stored, password string) bool {
	t.Helper()
	v, err := h.verify(context.Background(), stored, password)
	if err != nil {
		t.Fatal(err)
	}
	return v.match
}

func mustBcrypt(t testing.TB, password string) string {
	t.Helper()
	b, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestDefaultCost(t *testing.T) {
	h := newHasher(Hashing{}, newMetrics())
	stored := mustHash(t, h, "lorry under seven bridges")
	if !strings.HasPrefix(stored, "$argon2id$v=19$m=47104,t=1,p=1$") {
		t.Fatalf("%s", stored)
	}
	if cap(h.slots) != max(1, runtime.NumCPU()/2) || h.queue != 128 {
		t.Errorf("gate of %d, line of %d", cap(h.slots), h.queue)
	}
	if !match(t, h, stored, "lorry under seven bridges") || match(t, h, stored, "lorry under seven bridges ") || h.outdated(stored) {
		t.Error("the hash does not verify")
	}
	if stored == mustHash(t, h, "lorry under seven bridges") {
		t.Error("two hashes of one password are alike: no salt")
	}
}

// A hash made by the reference implementation (argon2-cffi) verifies.
func TestForeignArgonHash(t *testing.T) {
	const stored = "$argon2id$v=19$m=1024,t=2,p=2$c29tZSBzYWx0IGhlcmU$DP4eoIK0IeL5tFRtF5UbPkK+OiNb5MESVKwJar+FO7M"
	h := cheapHasher()
	if !match(t, h, stored, "pässword of another program") {
		t.Error("does not verify")
	}
	if match(t, h, stored, "pAssword of another program") || !h.outdated(stored) {
		t.Error("verifies too much, or is not renewed")
	}
}

func TestEveryByteMatters(t *testing.T) {
	h := cheapHasher()
	base := strings.Repeat("0123456789ab", 6) // 72 bytes
	stored := mustHash(t, h, base+"X")
	for _, p := range []string{base + "Y", base, base + "X ", " " + base + "X", strings.ToUpper(base + "X")} {
		if match(t, h, stored, p) {
			t.Errorf("%q verifies", p)
		}
	}
	old := mustBcrypt(t, base) // bcrypt takes exactly 72 bytes
	if !match(t, h, old, base) {
		t.Error("a bcrypt hash does not verify")
	}
	for _, p := range []string{base + "X", base + "Y", base[:71], ""} {
		if match(t, h, old, p) {
			t.Errorf("%q verifies against bcrypt", p)
		}
	}
	for _, prefix := range []string{"$2b$", "$2y$"} {
		if !match(t, h, strings.Replace(old, "$2a$", prefix, 1), base) {
			t.Errorf("%s does not verify", prefix)
		}
	}
}

// What somebody wrote into the database by hand neither matches nor stops us.
func TestUnreadableHashes(t *testing.T) {
	h := cheapHasher()
	salt, sum := "c29tZSBzYWx0IGhlcmU", "XUWbC2MSy/o5PZT8qwmKDSxf/yj2sVBPB58f43Ipgzc"
	for _, stored := range []string{
		"", "x", "plaintext", "$argon2id$", "$argon2i$v=19$m=64,t=1,p=1$" + salt + "$" + sum, "$argon2id$v=16$m=64,t=1,p=1$" + salt + "$" + sum,
		"$argon2id$v=19$m=4294967295,t=1,p=1$" + salt + "$" + sum, "$argon2id$v=19$m=64,t=4294967295,p=1$" + salt + "$" + sum, "$argon2id$v=19$m=64,t=0,p=1$" + salt + "$" + sum,
		"$argon2id$v=19$m=64,t=1,p=0$" + salt + "$" + sum, "$argon2id$v=19$m=64,t=1,p=1$$", "$argon2id$v=19$m=64,t=1,p=1$" + salt + "$", "$argon2id$v=19$m=64,t=1,p=1$" + salt + "$AA",
		"$argon2id$v=19$m=1,t=1,p=1$" + salt + "$" + sum, "$argon2id$v=19$m=64,t=1,p=300$" + salt + "$" + sum, "$2a$31$" + strings.Repeat("a", 53), "$2a$", "$1$md5$xyz", h.dummy,
	} {
		done := make(chan bool, 1)
		go func() {
			v, err := h.verify(context.Background(), stored, "plaintext")
			done <- v.match || err != nil
		}()
		select {
		case bad := <-done:
			if bad {
				t.Errorf("%q verifies", stored)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%q takes for ever", stored)
		}
	}
}

func TestOutdated(t *testing.T) {
	h := cheapHasher()
	for stored, want := range map[string]bool{
		mustHash(t, h, "x"): false, mustBcrypt(t, "x"): true,
		argonCost{64, 2, 1}.encode(make([]byte, 16), make([]byte, 32)): true, argonCost{32, 1, 1}.encode(make([]byte, 16), make([]byte, 32)): true,
		argonCost{64, 1, 1}.encode(make([]byte, 16), make([]byte, 16)): true,
	} {
		if h.outdated(stored) != want {
			t.Errorf("%s: %v", stored, !want)
		}
	}
}

// One hash at a time, three in line, the next is turned away at once, and who
// waits may leave.
func TestGate(t *testing.T) {
	h := cheapHasher()
	ctx, cancel := context.WithCancel(context.Background())
	h.slots <- struct{}{} // a hash at work
	var wg sync.WaitGroup
	errs := make(chan error, 3)
	for i := range 3 {
		wg.Go(func() {
			c := context.Background()
			if i == 0 {
				c = ctx
			}
			_, err := h.hash(c, "x")
			errs <- err
		})
	}
	for h.waiting.Load() < 3 {
		runtime.Gosched()
	}
	if _, err := h.hash(context.Background(), "x"); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "too many") {
		t.Fatalf("the line is full: %v", err)
	}
	cancel()
	if err := <-errs; !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Fatalf("who left: %v", err)
	}
	<-h.slots
	wg.Wait()
	for range 2 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if h.waiting.Load() != 0 || len(h.slots) != 0 {
		t.Error("the gate does not close")
	}
}

// A failure takes as long as the slowest of the last ones, and as long as one
// over a hash of another kind, however long ago that was.
func TestPace(t *testing.T) {
	var p pacer
	ms := time.Millisecond
	for _, c := range []struct {
		took, floor time.Duration
		other       bool
	}{{40 * ms, 40 * ms, false}, {38 * ms, 40 * ms, false}, {45 * ms, 45 * ms, false}, {30 * ms, 45 * ms, false}} {
		if got := p.observe(c.took, c.other); got != c.floor {
			t.Errorf("%v: %v, want %v", c.took, got, c.floor)
		}
	}
	for range paceWindow {
		p.observe(35*ms, false)
	}
	if got := p.observe(35*ms, false); got != 35*ms {
		t.Errorf("an outlier is kept for ever: %v", got)
	}
	p.observe(211*ms, true)
	for range 2 * paceWindow {
		p.observe(35*ms, false)
	}
	if got := p.observe(35*ms, false); got != 211*ms {
		t.Errorf("a rare old hash is forgotten: %v", got)
	}
	if got := p.observe(time.Hour, true); got != maxPace {
		t.Errorf("%v", got)
	}
	began := time.Now()
	p.hold(context.Background(), verification{began: began.Add(-maxPace + 20*ms)})
	if held := time.Since(began); held < 20*ms {
		t.Errorf("held for %v", held)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	began = time.Now()
	p.hold(ctx, verification{began: began})
	if time.Since(began) > maxPace/2 {
		t.Error("who has left is waited for")
	}
}

// The area under the ROC curve of a guess "known or not" by the time of the
// answer: 0.5 is chance.
func auc(a, b []time.Duration) float64 {
	wins := 0.0
	for _, x := range a {
		for _, y := range b {
			if x > y {
				wins++
			} else if x == y {
				wins += 0.5
			}
		}
	}
	return wins / float64(len(a)*len(b))
}

func TestKnownAndUnknownTakeTheSameTime(t *testing.T) {
	if testing.Short() {
		t.Skip("measures time")
	}
	h := newHasher(Hashing{Memory: 8 << 10, Gate: 1}, newMetrics())
	var p pacer
	stored, old := mustHash(t, h, "right"), mustBcrypt(t, "right")
	measure := func(stored string) time.Duration {
		began := time.Now()
		v, err := h.verify(context.Background(), stored, "wrong")
		if err != nil {
			t.Fatal(err)
		}
		p.hold(context.Background(), v)
		return time.Since(began)
	}
	for range 10 {
		measure(stored)
	}
	score := 0.0
	for range 3 { // others use the machine too
		var known, unknown, foreign []time.Duration
		for range 25 {
			known = append(known, measure(stored))
			unknown = append(unknown, measure(""))
			foreign = append(foreign, measure(old))
		}
		score = auc(known, unknown)
		if other := auc(foreign, unknown); math.Abs(other-0.5) > math.Abs(score-0.5) {
			score = other
		}
		if math.Abs(score-0.5) <= 0.2 {
			return
		}
	}
	t.Errorf("the time tells whether a user exists: AUC %.2f", score)
}

func BenchmarkHash(b *testing.B) {
	h := newHasher(Hashing{}, newMetrics())
	for b.Loop() {
		mustHash(b, h, "lorry under seven bridges")
	}
}
