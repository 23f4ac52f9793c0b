package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"modelgate/audit"
)

// KeyState says what a signing key does.
type KeyState string

const (
	KeyNext     KeyState = "next"     // is published, and will sign
	KeySigning  KeyState = "signing"  // signs
	KeyRetiring KeyState = "retiring" // verifies what it has signed
)

// SigningKeyInfo is what may be known of a signing key.
type SigningKeyInfo struct {
	ID        string // the kid of its tokens
	State     KeyState
	CreatedAt time.Time
	ActiveAt  time.Time // signs from then on
	RetireAt  time.Time // verifies until then; zero: no later key is made yet
}

// infos describes the keys of the ring, the first to be active first.
func (k *Keyring) infos(now time.Time) []SigningKeyInfo {
	var list []SigningKeyInfo
	signer := k.signer(now)
	for _, key := range k.ring.Load().keys {
		if !key.verifies(now) {
			continue
		}
		state := KeyRetiring
		switch {
		case key == signer:
			state = KeySigning
		case key.active.After(now):
			state = KeyNext
		}
		list = append(list, SigningKeyInfo{key.id, state, key.created, key.active, key.retire})
	}
	return list
}

func (k *Keyring) info(id string, now time.Time) (SigningKeyInfo, error) {
	for _, one := range k.infos(now) {
		if one.ID == id {
			return one, nil
		}
	}
	return SigningKeyInfo{}, errNoSigningKey
}

var (
	errNoSigningKey = ErrNotFound.With("there is no such signing key")
	errSecretSigns  = ErrInvalid.With("this server signs with a shared secret, which its operator replaces (jwt-secret)")
	errTooManyKeys  = ErrInUse.With(fmt.Sprintf("there are %d signing keys, the most there can be; wait until older ones have retired", maxSigningKeys))
)

// SigningKeys lists the keys of access tokens, the oldest first; none where a
// shared secret signs. Needs users:manage.
func (s *Service) SigningKeys(ctx context.Context, who Principal) ([]SigningKeyInfo, error) {
	if err := s.cfg.Guard.Check(ctx, who, UsersManage, Action{Name: "signing_key.list"}); err != nil {
		return nil, err
	}
	if !s.cfg.Keys.stored() {
		return nil, nil
	}
	return s.cfg.Keys.infos(s.cfg.Now()), nil
}

// RotateSigningKey makes a new key, which is published at once and signs after
// the time that KeyringConfig.Lead names. Nobody is logged out. ErrInUse while
// one waits to sign already. Needs users:manage and a sign-in of the last 10
// minutes.
func (s *Service) RotateSigningKey(ctx context.Context, who Principal) (SigningKeyInfo, error) {
	a := Action{Name: "signing_key.rotate"}
	if err := s.mayChangeKeys(ctx, who, a); err != nil {
		return SigningKeyInfo{}, err
	}
	k, now := s.cfg.Keys, s.now()
	fresh, err := k.newKey(now)
	if err != nil {
		return SigningKeyInfo{}, ErrUnavailable.Because(err)
	}
	a.Target = fresh.ID
	may := func(old []SigningKey) error {
		for _, key := range old {
			if key.ActiveAt.After(now) {
				return ErrInUse.With(fmt.Sprintf("the key %s is published, and signs from %s on; rotate again after that", key.ID, key.ActiveAt.Format(time.RFC3339)))
			}
		}
		if len(old) >= maxSigningKeys {
			return errTooManyKeys
		}
		return nil
	}
	if err := s.changeKeys(ctx, who, a, now, func(old []SigningKey) ([]SigningKey, error) {
		return k.with(old, fresh, now.Add(k.cfg.Lead)), may(old)
	}); err != nil {
		return SigningKeyInfo{}, err
	}
	return k.info(fresh.ID, now)
}

// RetireSigningKey takes a key away at once: what it signed is refused from the
// next request on (within two seconds on other servers), and clients refresh
// their tokens. When it is the one that signs, a new one takes its place. For a
// key that somebody else may know. Needs users:manage and a sign-in of the last
// 10 minutes.
func (s *Service) RetireSigningKey(ctx context.Context, who Principal, id string) error {
	a := Action{Name: "signing_key.retire", Target: cut(id, 64)}
	if err := s.mayChangeKeys(ctx, who, a); err != nil {
		return err
	}
	k, now := s.cfg.Keys, s.now()
	fresh, err := k.newKey(now)
	if err != nil {
		return ErrUnavailable.Because(err)
	}
	return s.changeKeys(ctx, who, a, now, func(old []SigningKey) ([]SigningKey, error) {
		i := slices.IndexFunc(old, func(key SigningKey) bool { return key.ID == id })
		if i < 0 {
			return nil, errNoSigningKey
		}
		signs := signing(old, now) == i
		rest := slices.Delete(slices.Clone(old), i, i+1)
		if signs {
			rest = k.with(rest, fresh, now)
		}
		return rest, nil
	})
}

// signing returns which of the keys, ordered by ActiveAt, signs at a time, as
// Keyring.signer has it; -1 when there are none.
func signing(keys []SigningKey, now time.Time) int {
	for i := len(keys) - 1; i >= 0; i-- {
		if !keys[i].ActiveAt.After(now) {
			return i
		}
	}
	return min(0, len(keys)-1)
}

// with adds a key that signs from a time on.
func (k *Keyring) with(old []SigningKey, fresh SigningKey, active time.Time) []SigningKey {
	if len(old) == 0 {
		active = fresh.CreatedAt
	}
	fresh.ActiveAt = active
	return append(slices.Clone(old), fresh)
}

func (s *Service) mayChangeKeys(ctx context.Context, who Principal, a Action) error {
	if err := s.cfg.Guard.Check(ctx, who, UsersManage, a); err != nil {
		return err
	}
	if err := s.fresh(ctx, who, freshAuth, a); err != nil {
		return err
	}
	if !s.cfg.Keys.stored() {
		return errSecretSigns
	}
	return nil
}

// changeKeys judges and records a change, then makes it, judged again in the same
// transaction.
func (s *Service) changeKeys(ctx context.Context, who Principal, a Action, now time.Time, f func([]SigningKey) ([]SigningKey, error)) error {
	k := s.cfg.Keys
	old, err := k.cfg.Store.SigningKeys(ctx)
	if err != nil {
		return err
	}
	if _, err := f(old); err != nil {
		return err
	}
	if err := s.cfg.Guard.Allow(ctx, who, UsersManage, a); err != nil {
		return err
	}
	return s.storeKeys(ctx, now, f)
}

// storeKeys stores what f makes of the keys, and goes by it.
func (s *Service) storeKeys(ctx context.Context, now time.Time, f func([]SigningKey) ([]SigningKey, error)) error {
	k := s.cfg.Keys
	_, err := k.cfg.Store.UpdateSigningKeys(ctx, func(old []SigningKey) ([]SigningKey, error) {
		next, err := f(old)
		if err != nil {
			return nil, err
		}
		return k.settled(next, now), nil
	})
	if err != nil {
		return err
	}
	err = k.reload(ctx)
	s.cache.revokeAll() // tokens of a key that is gone were verified with it
	if err != nil {
		return fmt.Errorf("the keys are changed, and this server will hear of it when the database answers: %w", err)
	}
	return nil
}

// due says whether the last of the keys is so old that the schedule wants
// another.
func (k *Keyring) due(created, now time.Time) bool {
	return k.cfg.Every > 0 && !now.Before(created.Add(k.cfg.Every))
}

// keepKeys rotates by the schedule, and removes the keys that verify nothing any
// more. Of servers that do so at once, one makes a key.
func (s *Service) keepKeys(ctx context.Context) error {
	k, now := s.cfg.Keys, s.now()
	if !k.stored() {
		return nil
	}
	keys := k.ring.Load().keys
	switch {
	case len(keys) == 0:
		return nil // they can't be opened, as the log says
	case k.due(keys[len(keys)-1].created, now):
		return s.rotateBySchedule(ctx, now)
	case !keys[0].verifies(now):
		return s.storeKeys(ctx, now, func(old []SigningKey) ([]SigningKey, error) { return old, nil })
	}
	return nil
}

func (s *Service) rotateBySchedule(ctx context.Context, now time.Time) error {
	k := s.cfg.Keys
	fresh, err := k.newKey(now)
	if err != nil {
		return err
	}
	rotate := func(old []SigningKey) ([]SigningKey, error) {
		if len(old) > 0 && !k.due(old[len(old)-1].CreatedAt, now) {
			return nil, errPeek // another server was faster
		}
		return k.with(old, fresh, now.Add(k.cfg.Lead)), nil
	}
	rows, err := k.cfg.Store.SigningKeys(ctx)
	if err != nil {
		return err
	}
	if _, err := rotate(rows); err != nil {
		return s.poll(ctx) // what the other made
	}
	e := audit.Entry{Actor: "schedule", Action: "signing_key.rotate", Target: fresh.ID, Outcome: audit.Allowed}
	if err := s.cfg.Audit.Append(ctx, e); err != nil {
		return err
	}
	if err := s.storeKeys(ctx, now, rotate); !errors.Is(err, errPeek) {
		return err
	}
	return s.poll(ctx)
}
