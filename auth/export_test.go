package auth

import (
	"context"
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

func (k *Keyring) SignerID() string { return k.signer.id }

const CacheAge = cacheAge

var Reachable = reachable
