package auth

import (
	"context"
	"slices"
)

// Recheck tells who a Principal is by now, with those of his rights that he still
// has, for a request of which a part was long in coming. ErrToken: the session,
// the key or the identity that he proved himself with has ended, or he was
// disabled. That his access token has expired meanwhile is no failure: it was good
// when the request came, and an upload may take longer than a token lives. It asks
// the database.
func (s *Service) Recheck(ctx context.Context, who Principal) (Principal, error) {
	now := s.cfg.Now()
	from := factorHere
	if who.Provider != "" {
		from = factorProved // what his token says was looked at when it was let in
		if err := s.stillLinked(ctx, who); err != nil {
			return Principal{}, err
		}
	}
	if who.SessionID != "" {
		session, err := s.cfg.Store.Session(ctx, who.SessionID)
		if err != nil {
			return Principal{}, deadIfMissing(err)
		}
		// That of a service account is one access token, and ends with its secret.
		if session.SecretID == "" && !now.Before(session.ExpiresAt) {
			return Principal{}, ErrToken.Because(errEnded)
		}
		from = session.factor()
	}
	again, err := s.principal(ctx, who.UserID, from)
	if err != nil {
		return Principal{}, err
	}
	if who.KeyID != "" {
		keys, err := s.cfg.Store.KeysOf(ctx, who.UserID)
		if err != nil {
			return Principal{}, err
		}
		i := slices.IndexFunc(keys, func(k Key) bool { return k.ID == who.KeyID })
		if i < 0 || !keys[i].ExpiresAt.IsZero() && !now.Before(keys[i].ExpiresAt) {
			return Principal{}, errKey.Because(errEnded)
		}
		again.limitTo(keys[i])
	}
	// Nobody gains by being slow, least of all what his token does not delegate.
	again.Permissions &= who.Permissions
	again.Withheld = who.Withheld
	again.SessionID, again.Provider, again.Subject, again.Origin = who.SessionID, who.Provider, who.Subject, who.Origin
	again.AuthTime, again.SecondFactor = who.AuthTime, who.SecondFactor
	return again, nil
}

// stillLinked is ErrToken when the user is no more who his provider's token names.
func (s *Service) stillLinked(ctx context.Context, who Principal) error {
	identities, err := s.cfg.Store.IdentitiesOf(ctx, who.UserID)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(identities, func(i Identity) bool { return i.Subject == who.Subject && s.ProviderOf(i.Issuer) == who.Provider }) {
		return errForeign.Because(errStranger)
	}
	return nil
}

// limitTo leaves of a user's rights what a key has.
func (w *Principal) limitTo(key Key) {
	w.KeyID = key.ID
	if key.Models != nil {
		w.Models = key.Models
		w.Permissions &= scopedPermissions
	}
}
