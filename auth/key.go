package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"modelgate/audit"
)

const (
	maxKeys      = 100 // of a user
	maxKeyModels = 100
	maxKeyName   = 64 // characters
	freshAuth    = 10 * time.Minute
)

// KeyRequest describes an API key to be made.
type KeyRequest struct {
	Name      string        // for people: 1 to 64 printable characters
	ExpiresIn time.Duration // 0: never
	Models    []string      // nil: every model of the user
}

// fresh refuses credentials that don't prove that the user himself is there
// now: a new credential outlives the one it was made with.
func (s *Service) fresh(ctx context.Context, who Principal, within time.Duration, a Action) error {
	if who.Kind == ServiceAccount {
		return s.cfg.Guard.Decide(ctx, who, false, errService, false, a)
	}
	if who.Withheld != 0 { // which it would gain
		return s.cfg.Guard.Decide(ctx, who, false, errPart, false, a)
	}
	ok := who.SessionID != "" && within == 0 ||
		(who.SessionID != "" || who.Provider != "") && within > 0 && s.cfg.Now().Sub(who.AuthTime) <= within
	if ok {
		return nil
	}
	return s.cfg.Guard.Decide(ctx, who, false, s.reauthentication(ctx, who, within), false, a)
}

// reauthentication is ErrReauthenticate in the words that help who: he signs in
// with his password, or where he has none, at his identity provider. within is
// that of fresh; 0 is what a password takes part in.
func (s *Service) reauthentication(ctx context.Context, who Principal, within time.Duration) error {
	user, err := s.cfg.Store.User(ctx, who.UserID)
	if err != nil || user.PasswordHash != "" { // it is refused in any case; these are but the words
		return ErrReauthenticate
	}
	ids, err := s.cfg.Store.IdentitiesOf(ctx, who.UserID)
	if err != nil || len(ids) == 0 {
		return ErrReauthenticate
	}
	const none = "your account has no password here"
	if within == 0 {
		return ErrReauthenticate.With(none + ": your identity provider keeps it, and your second factor; change them there")
	}
	var ways []string
	if who.Provider != "" {
		ways = append(ways, "show an access token whose auth_time says that you have signed in to your identity provider just now")
	}
	for _, p := range s.providers.list {
		if p.SignIn && slices.ContainsFunc(ids, func(id Identity) bool { return id.Issuer == p.Issuer }) {
			ways = append(ways, "open /console/oidc/"+p.Name+"?reauthenticate=1 in a browser, sign in, and repeat this there within 10 minutes")
		}
	}
	if len(ways) == 0 {
		return ErrReauthenticate.With(none + ", and your identity provider signs nobody in here; ask an administrator")
	}
	return ErrReauthenticate.With(none + ": " + strings.Join(ways, "; or "))
}

// Keys lists one's API keys, newest first.
func (s *Service) Keys(ctx context.Context, who Principal) ([]Key, error) {
	if who.Models != nil {
		return nil, errScopedKey
	}
	return s.cfg.Store.KeysOf(ctx, who.UserID)
}

// CreateKey makes an API key. The secret is shown this once. Needs an access
// token whose session began, by password, at most 10 minutes ago:
// ErrReauthenticate. A key limited to models keeps no right but to these
// models.
func (s *Service) CreateKey(ctx context.Context, who Principal, r KeyRequest) (k Key, secret string, err error) {
	a := Action{Name: "key.create", Target: r.Name, Detail: map[string]string{"models": strings.Join(r.Models, " ")}}
	if err := s.fresh(ctx, who, freshAuth, a); err != nil {
		return Key{}, "", err
	}
	if err := r.check(); err != nil {
		return Key{}, "", err
	}
	have, err := s.cfg.Store.KeysOf(ctx, who.UserID)
	if err != nil {
		return Key{}, "", err
	}
	if len(have) >= maxKeys {
		return Key{}, "", ErrInvalid.With(fmt.Sprintf("you have %d API keys, the most there can be; delete one first", maxKeys))
	}
	now := s.now()
	k = Key{ID: newID("k_"), UserID: who.UserID, Name: r.Name, Models: slices.Clone(r.Models), CreatedAt: now}
	if r.ExpiresIn > 0 {
		k.ExpiresAt = now.Add(r.ExpiresIn).Truncate(time.Microsecond)
	}
	a.Detail["id"] = k.ID
	if err := s.cfg.Guard.Allow(ctx, who, 0, a); err != nil {
		return Key{}, "", err
	}
	secret, k.Hash = newSecret(keyPrefix)
	if err := s.cfg.Store.CreateKey(ctx, k); err != nil {
		return Key{}, "", err
	}
	return k, secret, nil
}

const maxKeyLife = 100 * 365 * 24 * time.Hour

func (r *KeyRequest) check() error {
	if n := utf8.RuneCountInString(r.Name); n < 1 || n > maxKeyName || !utf8.ValidString(r.Name) || strings.ContainsFunc(r.Name, unprintable) {
		return ErrInvalid.With(fmt.Sprintf("the name of a key has 1 to %d printable characters", maxKeyName))
	}
	if r.ExpiresIn < 0 || r.ExpiresIn > maxKeyLife {
		return ErrInvalid.With("a key expires after a positive time of at most a hundred years")
	}
	if r.Models != nil && len(r.Models) == 0 || len(r.Models) > maxKeyModels {
		return ErrInvalid.With(fmt.Sprintf("a key is limited to 1 to %d models, or to none in particular", maxKeyModels))
	}
	for _, m := range r.Models {
		if !validName(m, 1) {
			return ErrInvalid.With(fmt.Sprintf("%q can't be the name of a model", cut(m, 64)))
		}
	}
	return nil
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }

// errScopedKey keeps a key that is good for some models from its owner's other
// credentials.
var errScopedKey = ErrForbidden.With("a key limited to models can't see or end other credentials; log in")

// DeleteKey ends one of one's own keys; ErrNotFound for any other.
func (s *Service) DeleteKey(ctx context.Context, who Principal, id string) error {
	if who.Models != nil && id != who.KeyID {
		return errScopedKey
	}
	defer s.cache.revoke(who.UserID)
	err := s.cfg.Store.DeleteKey(ctx, who.UserID, id)
	if errors.Is(err, ErrNotFound) {
		return ErrNotFound.With("you have no such key")
	}
	if err != nil {
		return err
	}
	// As with sessions: ended first, recorded then.
	return s.cfg.Guard.Allow(ctx, who, 0, Action{Name: "key.delete", Target: id})
}

// revokeKey deletes a key on the word of whoever has it.
func (s *Service) revokeKey(ctx context.Context, o Origin, secret string) error {
	hash, ok := secretHash(keyPrefix, secret)
	if !ok {
		return nil
	}
	key, err := s.cfg.Store.KeyByHash(ctx, hash)
	if err == nil {
		defer s.cache.revoke(key.UserID)
		err = s.cfg.Store.DeleteKey(ctx, key.UserID, key.ID)
	}
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	user, name := s.named(ctx, key.UserID)
	e := signIn{origin: o, action: "key.delete", username: name, user: user}.entry(audit.Allowed, "revoked")
	e.Target = key.ID
	if err := s.cfg.Audit.Append(ctx, e); err != nil {
		return ErrUnavailable.Because(err)
	}
	return nil
}

// keyUse is when a key or secret was last shown, or a session used, as far as
// this process knows.
type keyUse struct {
	last    atomic.Int64 // Unix nanoseconds
	flushed int64        // what the store knows; owned by flushUses
}

func (u *keyUse) mark(now time.Time) { u.last.Store(now.UnixNano()) }

// keyUses gathers the last uses of keys, of secrets, or of sessions, between two
// flushes, so that a request never writes to the database for them.
type keyUses struct {
	mu sync.Mutex
	m  map[string]*keyUse // by id; guarded by mu
}

func newKeyUses() *keyUses { return &keyUses{m: make(map[string]*keyUse)} }

func (k *keyUses) of(id string) *keyUse {
	k.mu.Lock()
	defer k.mu.Unlock()
	u := k.m[id]
	if u == nil {
		u = new(keyUse)
		k.m[id] = u
	}
	return u
}

// last is when the one of that id was used since it was remembered; zero: not.
func (k *keyUses) last(id string) time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	if u := k.m[id]; u != nil {
		return time.Unix(0, u.last.Load()).UTC()
	}
	return time.Time{}
}

// take returns those used since the last flush and forgets those that no
// believed entry of the cache can hold any more.
func (k *keyUses) take(now time.Time) map[string]*keyUse {
	used := make(map[string]*keyUse)
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, u := range k.m {
		last := u.last.Load()
		if last > u.flushed {
			used[id] = u
		} else if now.UnixNano()-last > int64(2*cacheAge) {
			delete(k.m, id)
		}
	}
	return used
}

// flushUses stores when keys, secrets and sessions were last used. One flush at a
// time.
func (s *Service) flushUses(ctx context.Context) {
	flush(ctx, s, s.uses, s.cfg.Store.TouchKey)
	flush(ctx, s, s.secretUses, s.cfg.Store.TouchSecret)
	flush(ctx, s, s.sessionUses, s.cfg.Store.TouchSession)
}

func flush(ctx context.Context, s *Service, uses *keyUses, touch func(ctx context.Context, id string, used time.Time) error) {
	for id, u := range uses.take(s.cfg.Now()) {
		last := u.last.Load()
		err := touch(ctx, id, time.Unix(0, last).UTC())
		if err != nil && !errors.Is(err, ErrNotFound) {
			if ctx.Err() == nil {
				s.cfg.Logger.Warn("the last use of API keys, client secrets and sessions could not be stored; it is tried again in a minute", "cause", err)
			}
			return
		}
		u.flushed = last
	}
}
