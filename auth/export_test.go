package auth

import (
	"context"
	"crypto/ed25519"
	"time"
)

// What tests of the room's outside need of its inside.

func (s *Service) FlushUses(ctx context.Context) { s.flushUses(ctx) }

func (s *Service) Sweep(ctx context.Context) { s.sweep(ctx) }

func (s *Service) Verify(token string) error {
	_, err := s.verifier.verify(token)
	return err
}

func (s *Service) HashWaiting() int64 { return s.hasher.waiting.Load() }

// TakeHashSlot holds one place of the hashing gate until it is given back.
func (s *Service) TakeHashSlot() (giveBack func()) {
	s.hasher.slots <- struct{}{}
	return func() { <-s.hasher.slots }
}

func (s *Service) Cached() int {
	n := 0
	for i := range s.cache.shards {
		n += len(s.cache.shards[i].m)
	}
	return n
}

func (k *Keyring) SignerID() string { return k.signer(k.now()).id }

// Private is the key that signs.
func (k *Keyring) Private() ed25519.PrivateKey { return k.signer(k.now()).private.(ed25519.PrivateKey) }

func (k *Keyring) now() time.Time {
	if k.cfg.Now == nil {
		return time.Now()
	}
	return k.cfg.Now()
}

func (s *Service) KeepKeys(ctx context.Context) error { return s.keepKeys(ctx) }

func (s *Service) Poll(ctx context.Context) error { return s.poll(ctx) }

const (
	CacheAge = cacheAge
	Believed = believed
	KeySlack = keySlack
)

var Reachable = reachable

const (
	GuessBurst = guessBurst
	GuessEvery = guessEvery
)

// CodeAt is the code of a secret in base32 at a time.
func CodeAt(secret string, at time.Time) string {
	return hotp(Base32(secret), stepOf(at))
}

// Base32 decodes a secret as BeginTOTP returns it.
func Base32(secret string) []byte {
	plain, err := base32Text.DecodeString(secret)
	if err != nil {
		panic(err)
	}
	return plain
}

// BoundSignIns sets how many sign-ins through providers may be under way.
func (s *Service) BoundSignIns(most int) { s.maxSignIns = most }

// WatchFirst sets after which time a provider is asked again at first; call it
// before Run.
func (s *Service) WatchFirst(pause time.Duration) { s.watchFirst = pause }

// RewrapPage is how many second factors are read at once.
const RewrapPage = rewrapPage
