package auth

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"time"
	"unsafe"
)

// Authenticate tells who an access token, ours or a provider's, or an API key
// proves to be, with the rights he has now: roles are read from the database,
// not from the token.
// o is where it was sent from, for the record of a user whom a provider's token
// makes or changes; it is not in the Principal.
//
// What this process changes (logout, disabling, roles, passwords) is seen by the
// next call; what another process changes in the same database, within two
// seconds.
//
// A credential seen lately costs a hash and a lookup, and no question to the
// database. Everything that proves nothing is ErrToken; ErrUnavailable means
// that the database could not be asked: for longer than these two seconds nobody
// is let in without it.
func (s *Service) Authenticate(ctx context.Context, o Origin, credential string) (Principal, error) {
	if len(credential) == 0 || len(credential) > s.maxToken || strings.HasPrefix(credential, cookiePrefix) {
		return Principal{}, ErrToken // a cookie is none, though the cache may know it
	}
	// A conversion would copy the token onto the heap; Sum256 only reads.
	sum := sha256.Sum256(unsafe.Slice(unsafe.StringData(credential), len(credential)))
	now := s.cfg.Now()
	if err := s.abreast(ctx, now); err != nil {
		return Principal{}, err
	}
	if e := s.cache.get(&sum, now.UnixNano()); e != nil {
		s.metrics.hits.Inc()
		if e.use != nil {
			e.use.mark(now)
		}
		return e.who, nil
	}
	s.metrics.misses.Inc()
	who, err := s.authenticate(ctx, o, &sum, credential, now)
	if err != nil {
		s.metrics.rejected(err)
	}
	return who, err
}

// Why a credential proves nothing, for the protected log and the metrics.
var (
	errEnded    = errors.New("it, or the session that it belongs to, has expired")
	errDisabled = errors.New("the user is disabled")
)

// authenticate asks the database.
func (s *Service) authenticate(ctx context.Context, o Origin, sum *[32]byte, credential string, now time.Time) (Principal, error) {
	if strings.HasPrefix(credential, keyPrefix) {
		who, err := s.authenticateKey(ctx, sum, credential, now)
		if told := (*Error)(nil); errors.As(err, &told) && told.Is(ErrToken) {
			return who, errKey.Because(told.Cause) // a login would not mend it
		}
		return who, err
	}
	if p := s.providers.ofToken(credential); p != nil {
		return s.authenticateForeign(ctx, o, sum, p, credential, now)
	}
	return s.authenticateToken(ctx, sum, credential, now)
}

func (s *Service) authenticateToken(ctx context.Context, sum *[32]byte, token string, now time.Time) (Principal, error) {
	epoch := s.cache.begin()
	c, err := s.verify(ctx, token)
	if err != nil {
		return Principal{}, err
	}
	session, err := s.cfg.Store.Session(ctx, c.SessionID)
	if err != nil {
		return Principal{}, deadIfMissing(err)
	}
	if session.UserID != c.Subject || session.ClientID != c.ClientID || !now.Before(session.ExpiresAt) {
		return Principal{}, ErrToken.Because(errEnded)
	}
	who, err := s.principal(ctx, session.UserID, factorHere)
	if err != nil {
		return Principal{}, err
	}
	who.SessionID = session.ID
	who.AuthTime, who.SecondFactor = session.AuthTime, session.SecondFactor
	until := time.Unix(c.Expires, 0)
	if session.ExpiresAt.Before(until) {
		until = session.ExpiresAt
	}
	use := s.sessionUses.of(session.ID)
	use.mark(now)
	s.cache.put(sum, epoch, who, until, now, use)
	return who, nil
}

// verify proves an access token, else ErrToken. A key that is not known here may
// have been made by another server a moment ago: the Store is asked for it, which
// strangers can bring about once a second.
func (s *Service) verify(ctx context.Context, token string) (*claims, error) {
	c, err := s.verifier.verify(token)
	if errors.Is(err, errUnknownKey) && s.cfg.Keys.stored() && s.mayLook(s.cfg.Now()) {
		if err := s.poll(ctx); err != nil {
			return nil, err
		}
		c, err = s.verifier.verify(token)
	}
	if err != nil {
		return nil, ErrToken.Because(err)
	}
	return c, nil
}

// scopedPermissions are all that a key limited to some models keeps of its
// user's: it is made to be handed to a program that needs no more.
const scopedPermissions = ModelsWrite | ModelsManage

func (s *Service) authenticateKey(ctx context.Context, sum *[32]byte, secret string, now time.Time) (Principal, error) {
	hash, ok := secretHash(keyPrefix, secret)
	if !ok {
		return Principal{}, ErrToken
	}
	epoch := s.cache.begin()
	key, err := s.cfg.Store.KeyByHash(ctx, hash)
	if err != nil {
		return Principal{}, deadIfMissing(err)
	}
	until := now.Add(cacheAge)
	if !key.ExpiresAt.IsZero() {
		if !now.Before(key.ExpiresAt) {
			return Principal{}, ErrToken.Because(errEnded)
		}
		if key.ExpiresAt.Before(until) {
			until = key.ExpiresAt
		}
	}
	who, err := s.principal(ctx, key.UserID, factorHere)
	if err != nil {
		return Principal{}, err
	}
	who.limitTo(key)
	use := s.uses.of(key.ID)
	use.mark(now)
	s.cache.put(sum, epoch, who, until, now, use)
	return who, nil
}

func deadIfMissing(err error) error {
	if errors.Is(err, ErrNotFound) {
		return ErrToken.Because(err)
	}
	return err
}

// principal makes the rights of an enabled user as of now; a missing or
// disabled one is ErrToken.
func (s *Service) principal(ctx context.Context, userID string, f factorFrom) (Principal, error) {
	user, err := s.cfg.Store.User(ctx, userID)
	if err != nil {
		return Principal{}, deadIfMissing(err)
	}
	if user.Disabled {
		return Principal{}, ErrToken.Because(errDisabled)
	}
	return s.rights(ctx, user, f)
}

// rights are those of an enabled user. ErrSecondFactor when he needs a second
// factor and came by a provider without one.
func (s *Service) rights(ctx context.Context, user User, f factorFrom) (Principal, error) {
	roles, err := s.roleTable(ctx)
	if err != nil {
		return Principal{}, err
	}
	who := Principal{UserID: user.ID, Kind: user.Kind, Username: user.Username, Roles: slices.Sorted(slices.Values(user.Roles))}
	for _, name := range who.Roles {
		r := roles[name]
		who.Permissions |= r.Permissions
		who.Rate = moreGenerous(who.Rate, r.Rate)
		who.DailyRows = max(who.DailyRows, r.DailyRows)
	}
	switch {
	case !who.HasAny(s.cfg.RequireTOTP):
	case f == factorMissing:
		return Principal{}, ErrSecondFactor
	case f == factorHere && user.PasswordHash != "" && !user.TOTP:
		who.MustEnrol, who.Permissions = true, 0
	}
	return who, nil
}

// roleTable reads the definitions of all roles.
func (s *Service) roleTable(ctx context.Context) (map[string]Role, error) {
	list, err := s.cfg.Store.Roles(ctx)
	if err != nil {
		return nil, err
	}
	m := make(map[string]Role, len(list))
	for _, r := range list {
		m[r.Name] = r
	}
	return m, nil
}
