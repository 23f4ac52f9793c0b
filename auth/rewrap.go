package auth

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Rewrapped is what Rewrap has done.
type Rewrapped struct {
	Sealed  int // secrets that were sealed anew
	Removed int // signing keys that no master key opens
	// Unopened are the ids of users whose second factor no master key opens. It
	// is as it was: they sign in with recovery codes alone.
	Unopened []string
}

// Rewrap seals anew, by the first key of the vault, what the Store keeps sealed by
// another one: signing keys, and secrets of second factors.
//
// What no key of the vault opens is an error, unless discard says that the master
// key is lost. Then such signing keys are removed, which logs nobody out: clients
// refresh their access tokens. Second factors stay in either case, since without
// them a password alone would do.
//
// It may run beside servers that have both master keys, and again after an error:
// what is sealed anew stays so.
func Rewrap(ctx context.Context, store Store, vault *Vault, discard bool) (Rewrapped, error) {
	sealed, removed, err := rewrapSigningKeys(ctx, store, vault, discard)
	if err != nil {
		return Rewrapped{}, err
	}
	done := Rewrapped{Sealed: sealed, Removed: removed}
	if err := done.secondFactors(ctx, store, vault); err != nil {
		return done, err
	}
	if n := len(done.Unopened); n > 0 && !discard {
		return done, fmt.Errorf("the second factors of %d users: %w, or changed; all else is sealed anew", n, ErrMasterKey)
	}
	return done, nil
}

func rewrapSigningKeys(ctx context.Context, store Store, vault *Vault, discard bool) (sealed, removed int, err error) {
	_, err = store.UpdateSigningKeys(ctx, func(old []SigningKey) ([]SigningKey, error) {
		sealed, removed = 0, 0
		next := make([]SigningKey, 0, len(old))
		for _, key := range old {
			plain, err := vault.Open(keyPurpose, key.ID, key.Sealed)
			switch {
			case err != nil && discard:
				removed++
				continue
			case err != nil:
				return nil, fmt.Errorf("signing key %s: %w", key.ID, err)
			case vault.Stale(key.Sealed):
				key.Sealed = vault.Seal(keyPurpose, key.ID, plain)
				sealed++
			}
			next = append(next, key)
		}
		if n := len(next); n > 0 && removed > 0 {
			next[n-1].RetireAt = time.Time{}
		}
		return next, nil
	})
	return sealed, removed, err
}

// rewrapPage is how many second factors are read at once.
const rewrapPage = 100

func (r *Rewrapped) secondFactors(ctx context.Context, store Store, vault *Vault) error {
	last := ""
	for {
		page, err := store.TOTPs(ctx, last, rewrapPage)
		if err != nil {
			return err
		}
		for _, t := range page {
			if err := r.secondFactor(ctx, store, vault, t); err != nil {
				return err
			}
		}
		if len(page) < rewrapPage {
			return nil
		}
		last = page[len(page)-1].UserID
	}
}

// secondFactor seals one anew. It reads it again to do so: a sign-in may have
// used up a code meanwhile, or the user have taken it away.
func (r *Rewrapped) secondFactor(ctx context.Context, store Store, vault *Vault, found TOTP) error {
	if _, err := vault.Open(sealTOTP, found.UserID, found.Secret); err != nil {
		if found.Active { // one that is only begun is begun anew
			r.Unopened = append(r.Unopened, found.UserID)
		}
		return nil
	}
	if !vault.Stale(found.Secret) {
		return nil
	}
	err := store.UpdateTOTP(ctx, found.UserID, func(t TOTP) (TOTP, error) {
		plain, err := vault.Open(sealTOTP, found.UserID, t.Secret)
		if err != nil || !vault.Stale(t.Secret) {
			return TOTP{}, errPeek // taken away, or replaced
		}
		t.Secret = vault.Seal(sealTOTP, found.UserID, plain)
		return t, nil
	})
	switch {
	case errors.Is(err, errPeek), errors.Is(err, ErrNotFound): // the user has gone
		return nil
	case err != nil:
		return err
	}
	r.Sealed++
	return nil
}
