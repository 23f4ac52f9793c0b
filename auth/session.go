package auth

import (
	"context"
	"errors"
	"strings"
	"time"

	"modelgate/audit"
)

// Tokens is what a sign-in gives. Refresh can be used once.
type Tokens struct {
	Access     string
	AccessTTL  time.Duration
	Refresh    string
	RefreshTTL time.Duration
	Session    Session
}

const maxUserAgent = 256 // bytes kept of it

// cut bounds a text that a client chose.
func cut(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return strings.ToValidUTF8(s, "")
}

// proof is an identity that was just proved, and recorded.
type proof struct {
	attempt  signIn
	user     User
	authTime time.Time // of the proof, if it was not just now
	replaces string    // the user's session that ends as the new one begins; empty: none
	// provider is where it was proved, if not here, and factor whether a second
	// factor was proved there.
	provider string
	factor   bool
	// still tells whether what was shown would do for the user as he is now.
	still func(ctx context.Context, now User) (bool, error)
}

// Login proves a password, and where the user has one his second factor, and
// begins a session. otp is a code of either kind; it is not looked at before the
// password is proved, nor for users without a second factor.
//
// An unknown name, a wrong password, a disabled user and a wrong code are
// ErrCredentials alike, after the same work: one look at the database, one hash,
// one record. Only who has the password can tell more: that a code is missing
// (ErrOTPRequired), and that too many were wrong (ErrTooManyCodes).
func (s *Service) Login(ctx context.Context, o Origin, userAgent, username, password, otp string) (Tokens, error) {
	p, err := s.prove(ctx, o, username, password, otp)
	if err != nil {
		return Tokens{}, err
	}
	now := s.now()
	refresh, token := s.newRefresh(now)
	session, user, err := s.beginSession(ctx, p, TokenSession, userAgent, token, now.Add(s.cfg.SessionTTL))
	if err != nil {
		return Tokens{}, err
	}
	return s.issue(session, user, refresh, session.CreatedAt)
}

// prove is the part of a sign-in that is the same for tokens and cookies.
func (s *Service) prove(ctx context.Context, o Origin, username, password, otp string) (proof, error) {
	if err := boundPassword(password); err != nil {
		return proof{}, err
	}
	attempt := signIn{origin: o, action: "user.login", username: lower(cut(username, maxUserAgent))}
	user, err := s.cfg.Store.UserByName(ctx, attempt.username)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return proof{}, err
	}
	attempt.user = user
	v, err := s.hasher.verify(ctx, user.PasswordHash, password)
	if err != nil {
		return proof{}, err
	}
	refusal := ErrCredentials
	if otp != "" { // by what was sent, not by what the account has
		refusal = refusal.With("wrong user name, password or code")
	}
	if reason := s.passwordRefused(user, v.match); reason != "" {
		err := s.failed(ctx, attempt, reason, refusal)
		s.pacer.hold(ctx, v)
		return proof{}, err
	}
	if user.TOTP {
		by, err := s.secondFactor(ctx, attempt, otp, refusal)
		if err != nil {
			s.pacer.hold(ctx, v)
			return proof{}, err
		}
		attempt.by = string(by)
	}
	if s.hasher.outdated(user.PasswordHash) {
		user = s.upgrade(ctx, user, password)
	}
	user.TOTP = attempt.by != "" // whatever he has now, this is what was proved: stillGood asks for no less
	if err := s.succeeded(ctx, attempt); err != nil {
		return proof{}, err
	}
	return proof{attempt: attempt, user: user, still: func(ctx context.Context, now User) (bool, error) {
		if now.PasswordHash == user.PasswordHash {
			return true, nil
		}
		v, err := s.hasher.verify(ctx, now.PasswordHash, password) // perhaps only renewed by another login
		return v.match, err
	}}, nil
}

// whyNot returns why a user may not sign in, for the log; empty if he may.
func whyNot(user User, match bool) string {
	switch {
	case user.ID == "":
		return "unknown_user"
	case user.Kind == ServiceAccount:
		return "service_account"
	case !match:
		return "wrong_password"
	case user.Disabled:
		return "disabled"
	}
	return ""
}

// upgrade replaces a hash of another kind or cost, now that the password is at
// hand. If it can't, the next sign-in will.
func (s *Service) upgrade(ctx context.Context, user User, password string) User {
	hash, err := s.hasher.hash(ctx, password)
	if err != nil {
		return user
	}
	next, err := s.cfg.Store.RenewHash(ctx, user.ID, user.PasswordHash, hash)
	if err != nil {
		if !errors.Is(err, ErrNotFound) { // else somebody changed it
			s.cfg.Logger.Warn("a password hash could not be renewed", "user", user.ID, "cause", err)
		}
		return user
	}
	return next
}

// beginSession begins a session of any kind for who proved himself, continued
// by the secret that first is the hash of. It returns the user as he is now.
func (s *Service) beginSession(ctx context.Context, p proof, kind SessionKind, userAgent string, first RefreshToken, end time.Time) (Session, User, error) {
	now := s.now()
	authTime := p.authTime
	if authTime.IsZero() {
		authTime = now
	}
	session := Session{
		ID: newID("s_"), Kind: kind, UserID: p.user.ID, ClientID: firstParty,
		Address: cut(p.attempt.origin.Address, 64), UserAgent: cut(userAgent, maxUserAgent),
		CreatedAt: now, AuthTime: authTime, LastUsed: now, ExpiresAt: end, SecondFactor: p.attempt.by != "", Provider: p.provider, ProviderFactor: p.factor,
	}
	ended, err := s.cfg.Store.CreateSession(ctx, session, first, s.displacing(p.replaces))
	switch {
	case errors.Is(err, ErrNotFound) && p.replaces != "": // or the user has gone, and his sessions with him
		return Session{}, User{}, s.failed(ctx, p.attempt, errSessionOver.reason, ErrForbidden.With(errSessionOver.detail))
	case errors.Is(err, ErrNotFound): // the user was deleted meanwhile
		return Session{}, User{}, s.failed(ctx, p.attempt, "unknown_user", ErrCredentials)
	case err != nil:
		return Session{}, User{}, err
	}
	if err := s.displaced(ctx, p.attempt, session, p.replaces, ended); err != nil {
		return Session{}, User{}, err
	}
	// Whoever changes the password or disables the user ends his sessions
	// after that; one begun after the ending must not live on the old password.
	current, reason, err := s.stillGood(ctx, p)
	if err != nil || reason != "" {
		s.drop(ctx, session)
		if err == nil {
			err = s.failed(ctx, p.attempt, reason, ErrCredentials)
		}
		return Session{}, User{}, err
	}
	return session, current, nil
}

// stillGood reads the user again and returns why he may not sign in any more.
// Also a second factor that was turned on meanwhile: its sessions of old ended
// before this one began.
func (s *Service) stillGood(ctx context.Context, p proof) (User, string, error) {
	user, err := s.cfg.Store.User(ctx, p.user.ID)
	if errors.Is(err, ErrNotFound) {
		return user, "unknown_user", nil
	}
	if err != nil {
		return user, "", err
	}
	match, err := p.still(ctx, user)
	if err != nil {
		return user, "", err
	}
	if reason := whyNot(user, match); reason != "" {
		return user, reason, nil
	}
	if user.TOTP && !p.user.TOTP {
		return user, "no_code", nil
	}
	return user, "", nil
}

// drop ends a session that may not be used, also when the caller has left.
func (s *Service) drop(ctx context.Context, session Session) {
	defer s.cache.revoke(session.UserID)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), denialTimeout)
	defer cancel()
	if err := s.cfg.Store.EndSession(ctx, session.ID); err != nil {
		s.cfg.Logger.Error("a session that was refused could not be removed", "session", session.ID, "cause", err)
	}
}

func (s *Service) newRefresh(now time.Time) (string, RefreshToken) {
	secret, hash := newSecret(refreshPrefix)
	return secret, RefreshToken{Hash: hash, ExpiresAt: now.Add(s.cfg.RefreshTTL)}
}

// issue makes the answer to a sign-in or refresh.
func (s *Service) issue(session Session, user User, refresh string, now time.Time) (Tokens, error) {
	access, ttl, err := s.sign(session, user, now)
	if err != nil {
		return Tokens{}, err
	}
	return Tokens{
		Access: access, AccessTTL: ttl, Refresh: refresh, RefreshTTL: min(s.cfg.RefreshTTL, session.ExpiresAt.Sub(now)), Session: session,
	}, nil
}

// Refresh exchanges a refresh token for new tokens with the user's roles of
// now. A token that was used before has been stolen from or by somebody: its
// session ends, with every token that descends from it. All failures are
// ErrToken.
func (s *Service) Refresh(ctx context.Context, o Origin, refresh string) (Tokens, error) {
	attempt := signIn{origin: o, action: "user.refresh"}
	old, ok := secretHash(refreshPrefix, refresh)
	if !ok {
		return Tokens{}, s.failed(ctx, attempt, "malformed", ErrToken)
	}
	now := s.now()
	next, token := s.newRefresh(now)
	session, err := s.cfg.Store.Rotate(ctx, old, token, now)
	switch {
	case errors.Is(err, ErrReused):
		s.cache.revoke(session.UserID)
		attempt.user, attempt.username = s.named(ctx, session.UserID)
		return Tokens{}, s.failed(ctx, attempt, "reused", ErrToken.Because(ErrReused))
	case errors.Is(err, ErrNotFound):
		return Tokens{}, s.failed(ctx, attempt, "unknown", ErrToken)
	case errors.Is(err, ErrToken):
		return Tokens{}, s.failed(ctx, attempt, "expired", ErrToken)
	case err != nil:
		return Tokens{}, err
	}
	user, err := s.cfg.Store.User(ctx, session.UserID)
	if err != nil {
		return Tokens{}, deadIfMissing(err)
	}
	if user.Disabled {
		s.drop(ctx, session)
		attempt.user, attempt.username = user, user.Username
		return Tokens{}, s.failed(ctx, attempt, "disabled", ErrToken)
	}
	return s.issue(session, user, next, now)
}

// named finds a user for the log, as far as he can be found.
func (s *Service) named(ctx context.Context, id string) (User, string) {
	user, err := s.cfg.Store.User(ctx, id)
	if err != nil {
		return User{ID: id}, ""
	}
	return user, user.Username
}

// Logout ends the session of an access token: it and its refresh token are dead
// on the next request. An API key has no session: ErrForbidden.
func (s *Service) Logout(ctx context.Context, who Principal) error {
	if who.Provider != "" {
		return ErrForbidden.With("this token is your identity provider's; sign out there")
	}
	if who.SessionID == "" {
		return ErrForbidden.With("an API key has no session to log out of; delete the key instead")
	}
	return s.end(ctx, signIn{origin: who.Origin, action: "user.logout", username: who.Username, user: User{ID: who.UserID}}, who.SessionID, "")
}

// end ends a session first and records it then: a log that can't be written
// must not keep a session alive. It is recorded before the caller has his
// answer all the same.
func (s *Service) end(ctx context.Context, a signIn, sessionID, reason string) error {
	defer s.cache.revoke(a.user.ID)
	if err := s.cfg.Store.EndSession(ctx, sessionID); err != nil {
		return err
	}
	e := a.entry(audit.Allowed, reason)
	e.Target = sessionID
	if err := s.cfg.Audit.Append(ctx, e); err != nil {
		return ErrUnavailable.Because(err)
	}
	return nil
}

// Revoke ends what a token stands for, whoever shows it (RFC 7009): the session
// of an access or refresh token, or an API key. A token that is unknown, used or
// expired is no error. What was issued to a client with a secret only that client
// can revoke: ErrNotIssued.
func (s *Service) Revoke(ctx context.Context, o Origin, token string) error {
	if strings.HasPrefix(token, keyPrefix) {
		return s.revokeKey(ctx, o, token)
	}
	return s.revokeToken(ctx, o, firstParty, token)
}

// revokeToken ends the session of an access or refresh token that was issued to
// the client.
func (s *Service) revokeToken(ctx context.Context, o Origin, clientID, token string) error {
	session, err := s.sessionOf(ctx, token)
	if errors.Is(err, ErrToken) {
		return nil
	}
	if err != nil {
		return err
	}
	if session.ClientID != clientID {
		return ErrNotIssued
	}
	user, name := s.named(ctx, session.UserID)
	return s.end(ctx, signIn{origin: o, action: "user.logout", username: name, user: user}, session.ID, "revoked")
}

// sessionOf finds the live session of a good access token or of a live refresh
// token, else ErrToken.
func (s *Service) sessionOf(ctx context.Context, token string) (Session, error) {
	if strings.HasPrefix(token, refreshPrefix) {
		hash, ok := secretHash(refreshPrefix, token)
		if !ok {
			return Session{}, ErrToken
		}
		session, err := s.cfg.Store.SessionOfRefresh(ctx, hash, s.now())
		return session, deadIfMissing(err)
	}
	c, err := s.verify(ctx, token)
	if err != nil {
		return Session{}, err
	}
	session, err := s.cfg.Store.Session(ctx, c.SessionID)
	return session, deadIfMissing(err)
}

// Introspection tells what a token is good for. The zero value is a token that
// is good for nothing.
type Introspection struct {
	Active    bool
	Username  string
	Subject   string // the user's id
	SessionID string // empty for API keys
	ClientID  string
	Roles     []string
	Kind      string    // "access_token", "refresh_token" or "api_key"
	IssuedAt  time.Time // zero for refresh tokens
	ExpiresAt time.Time // zero: never
}

// Introspect tells whether a token of any kind is alive (RFC 7662). The error
// is ErrUnavailable only.
func (s *Service) Introspect(ctx context.Context, token string) (Introspection, error) {
	in, err := s.introspect(ctx, token)
	if errors.Is(err, ErrToken) {
		return Introspection{}, nil
	}
	if err != nil {
		return Introspection{}, err
	}
	in.Active = true
	return in, nil
}

func (s *Service) introspect(ctx context.Context, token string) (Introspection, error) {
	if strings.HasPrefix(token, refreshPrefix) {
		session, err := s.sessionOf(ctx, token)
		if err != nil {
			return Introspection{}, err
		}
		who, err := s.principal(ctx, session.UserID, factorHere)
		in := describe(who, "refresh_token")
		in.SessionID, in.ClientID, in.ExpiresAt = session.ID, session.ClientID, session.ExpiresAt
		return in, err
	}
	if s.providers.ofToken(token) != nil { // its issuer tells of it; here nobody is made or changed by a question
		return Introspection{}, ErrToken
	}
	who, err := s.Authenticate(ctx, Origin{}, token)
	if err != nil {
		return Introspection{}, err
	}
	if who.KeyID != "" {
		hash, _ := secretHash(keyPrefix, token)
		key, err := s.cfg.Store.KeyByHash(ctx, hash)
		in := describe(who, "api_key")
		in.ClientID, in.IssuedAt, in.ExpiresAt = firstParty, key.CreatedAt, key.ExpiresAt
		return in, deadIfMissing(err)
	}
	c, err := s.verify(ctx, token)
	if err != nil {
		return Introspection{}, err
	}
	in := describe(who, "access_token")
	in.SessionID, in.ClientID = c.SessionID, c.ClientID
	in.IssuedAt, in.ExpiresAt = time.Unix(c.IssuedAt, 0).UTC(), time.Unix(c.Expires, 0).UTC()
	return in, nil
}

func describe(who Principal, kind string) Introspection {
	return Introspection{Username: who.Username, Subject: who.UserID, Roles: who.Roles, Kind: kind}
}
