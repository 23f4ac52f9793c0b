package auth

import (
	"context"
	"errors"
	"slices"
)

// Recheck tells who a Principal is by now, with those of his rights that he still
// has, for a request of which a part was long in coming. ErrToken: the session or
// the key that he proved himself with has ended, his account with the provider of
// his token was unlinked, or he was disabled. That his access token has expired
// meanwhile is no failure: it was good when the request came, and an upload may
// take longer than a token lives. It asks the database.
func (s *Service) Recheck(ctx context.Context, who Principal) (Principal, error) {
	now := s.cfg.Now()
	from := factorHere
	if who.Provider != "" {
		from = factorProved // what his token says was looked at when it was let in
		linked, err := s.linked(ctx, who)
		if err != nil {
			return Principal{}, err
		}
		if !linked {
			return Principal{}, ErrToken.Because(errUnlinked)
		}
	}
	if who.SessionID != "" {
		session, err := s.cfg.Store.Session(ctx, who.SessionID)
		if err != nil {
			return Principal{}, deadIfMissing(err)
		}
		if !now.Before(session.ExpiresAt) {
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
	again.SessionID, again.Provider, again.Origin = who.SessionID, who.Provider, who.Origin
	again.AuthTime, again.SecondFactor = who.AuthTime, who.SecondFactor
	return again, nil
}

var errUnlinked = errors.New("the account with the provider was unlinked from the user")

// linked says whether an account with the provider of the caller's token is
// still linked to him.
func (s *Service) linked(ctx context.Context, who Principal) (bool, error) {
	identities, err := s.cfg.Store.IdentitiesOf(ctx, who.UserID)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(identities, func(id Identity) bool {
		p := s.providers.byIssuer[id.Issuer]
		return p != nil && p.Name == who.Provider
	}), nil
}

// limitTo leaves of a user's rights what a key has.
func (w *Principal) limitTo(key Key) {
	w.KeyID = key.ID
	if key.Models != nil {
		w.Models = key.Models
		w.Permissions &= scopedPermissions
	}
}
