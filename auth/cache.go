package auth

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
)

const (
	cacheShards  = 64
	cacheStripes = 4096
	cacheSize    = 64 << 10 // entries in all

	// cacheAge is how long a verified credential is believed without verifying it
	// anew. Changes made through this process are seen at once, those of other
	// processes within two seconds (changes.go); this is behind both.
	cacheAge = 30 * time.Second
)

// cache remembers verified credentials by their SHA-256, each with the
// Principal it proves.
//
// Revocation does not search for entries: it raises a generation, and an entry
// made under another one is no longer believed. Each user belongs to one of
// 4096 stripes with a generation each, so that a logout costs those who share
// its stripe one look at the database, and nobody else.
//
// An entry must also not be put in after a revocation that it missed: whoever
// verifies a credential takes the epoch before he reads the database and hands
// it to put, which refuses when anything was revoked since. revoke raises the
// epoch before the generation, so that either put sees the new epoch or the
// entry carries the old generation.
type cache struct {
	shards  [cacheShards]shard
	seed    maphash.Seed
	epoch   atomic.Uint64
	all     atomic.Uint64 // generation of everybody
	stripes [cacheStripes]atomic.Uint64
}

type shard struct {
	mu sync.RWMutex
	m  map[[32]byte]*entry // guarded by mu
}

// entry is immutable.
type entry struct {
	who    Principal
	until  int64 // Unix nanoseconds
	stripe uint32
	gen    uint64 // of the stripe
	all    uint64
	use    *keyUse // of an API key or session; nil for a provider's token
}

func newCache() *cache {
	c := &cache{seed: maphash.MakeSeed()}
	for i := range c.shards {
		c.shards[i].m = make(map[[32]byte]*entry)
	}
	return c
}

func (c *cache) stripe(userID string) uint32 {
	return uint32(maphash.String(c.seed, userID) % cacheStripes)
}

func (c *cache) live(e *entry, now int64) bool {
	return now < e.until && e.gen == c.stripes[e.stripe].Load() && e.all == c.all.Load()
}

// get returns a believed entry or nil.
func (c *cache) get(key *[32]byte, now int64) *entry {
	s := &c.shards[key[0]%cacheShards]
	s.mu.RLock()
	e := s.m[*key]
	s.mu.RUnlock()
	if e == nil || !c.live(e, now) {
		return nil
	}
	return e
}

// begin returns the epoch to hand to put; call it before reading the database.
func (c *cache) begin() uint64 { return c.epoch.Load() }

// put remembers who until then, unless something was revoked since epoch.
func (c *cache) put(key *[32]byte, epoch uint64, who Principal, until, now time.Time, use *keyUse) {
	if last := now.Add(cacheAge); last.Before(until) {
		until = last
	}
	e := &entry{who: who, until: until.UnixNano(), stripe: c.stripe(who.UserID), use: use}
	e.gen, e.all = c.stripes[e.stripe].Load(), c.all.Load()
	if c.epoch.Load() != epoch {
		return
	}
	s := &c.shards[key[0]%cacheShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m[*key] == nil && len(s.m) >= cacheSize/cacheShards {
		c.makeRoom(s, now.UnixNano())
	}
	s.m[*key] = e
}

// makeRoom drops dead entries among a few, or else any one. The caller holds
// s.mu.
func (c *cache) makeRoom(s *shard, now int64) {
	looked := 0
	dropped := false
	for k, e := range s.m { // in random order
		if !c.live(e, now) {
			delete(s.m, k)
			dropped = true
		}
		if looked++; looked == 16 {
			if !dropped {
				delete(s.m, k)
			}
			return
		}
	}
}

// revoke makes the user's credentials prove themselves anew.
func (c *cache) revoke(userID string) {
	c.epoch.Add(1)
	c.stripes[c.stripe(userID)].Add(1)
}

// revokeAll makes everybody's credentials prove themselves anew.
func (c *cache) revokeAll() {
	c.epoch.Add(1)
	c.all.Add(1)
}

// sweep drops the dead.
func (c *cache) sweep(now time.Time) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		for k, e := range s.m {
			if !c.live(e, now.UnixNano()) {
				delete(s.m, k)
			}
		}
		s.mu.Unlock()
	}
}
