package auth

import (
	"context"
	"errors"
	"time"
)

// Browser is what a sign-in in a browser gives. Cookie is the one value by which
// the browser proves itself until the session ends; it is not a token, and no
// method but those of this file takes it.
type Browser struct {
	Cookie  string
	Session Session
}

// BrowserIdle is how long a browser's session lasts without a request.
func (s *Service) BrowserIdle() time.Duration { return s.cfg.BrowserIdle }

// BeginBrowser proves a password and a second factor like Login, and begins the
// session of a browser. It ends at BrowserTTL, or earlier when it is not used
// for BrowserIdle. The value is a new one each time; the session of replaced, a
// cookie that the browser had before, ends.
func (s *Service) BeginBrowser(ctx context.Context, o Origin, userAgent, username, password, otp, replaced string) (Browser, error) {
	p, err := s.prove(ctx, o, username, password, otp)
	if err != nil {
		return Browser{}, err
	}
	return s.beginBrowser(ctx, p, userAgent, replaced)
}

func (s *Service) beginBrowser(ctx context.Context, p proof, userAgent, replaced string) (Browser, error) {
	old, err := s.ofCookie(ctx, replaced)
	if err == nil && old.ID != p.replaces {
		err = s.endReplaced(ctx, p.attempt.origin, old)
	}
	if err != nil {
		return Browser{}, err
	}
	now := s.now()
	cookie, first := s.newCookie(now)
	session, _, err := s.beginSession(ctx, p, BrowserSession, userAgent, first, now.Add(s.cfg.BrowserTTL))
	return Browser{cookie, session}, err
}

func (s *Service) newCookie(now time.Time) (string, RefreshToken) {
	secret, hash := newSecret(cookiePrefix)
	return secret, RefreshToken{Hash: hash, ExpiresAt: now.Add(s.cfg.BrowserIdle)}
}

// ofCookie finds the live session of a cookie; the zero Session where there is
// none.
func (s *Service) ofCookie(ctx context.Context, cookie string) (Session, error) {
	hash, ok := secretHash(cookiePrefix, cookie)
	if !ok {
		return Session{}, nil
	}
	session, _, err := s.cfg.Store.BrowserSession(ctx, hash, s.now())
	if errors.Is(err, ErrNotFound) {
		return Session{}, nil
	}
	return session, err
}

// endReplaced ends the session that a browser had before, if it had one,
// whoever's it is: who had its cookie may.
func (s *Service) endReplaced(ctx context.Context, o Origin, session Session) error {
	if session.ID == "" {
		return nil
	}
	user, name := s.named(ctx, session.UserID)
	return s.end(ctx, signIn{origin: o, action: "user.logout", username: name, user: user}, session.ID, "replaced")
}

// AuthenticateBrowser is Authenticate for the value of a browser's cookie, and
// counts as use of its session. Everything that proves nothing is ErrToken.
func (s *Service) AuthenticateBrowser(ctx context.Context, cookie string) (Principal, error) {
	hash, ok := secretHash(cookiePrefix, cookie)
	if !ok {
		return Principal{}, errCookie
	}
	now := s.now()
	if err := s.abreast(ctx, now); err != nil {
		return Principal{}, err
	}
	if e := s.cache.get(&hash, now.UnixNano()); e != nil {
		s.metrics.hits.Inc()
		e.use.mark(now)
		return e.who, nil
	}
	s.metrics.misses.Inc()
	epoch := s.cache.begin()
	session, idleEnd, err := s.cfg.Store.BrowserSession(ctx, hash, now)
	if err != nil {
		return Principal{}, deadCookie(err)
	}
	if idleEnd, err = s.touch(ctx, hash, session, idleEnd, now); err != nil {
		return Principal{}, deadCookie(err)
	}
	who, err := s.principal(ctx, session.UserID, session.factor())
	if err != nil {
		return Principal{}, deadCookie(err)
	}
	who.SessionID, who.AuthTime, who.SecondFactor = session.ID, session.AuthTime, session.SecondFactor
	use := s.sessionUses.of(session.ID)
	use.mark(now)
	s.cache.put(&hash, epoch, who, idleEnd, now, use)
	return who, nil
}

var errCookie = ErrToken.With("you are not signed in, or your session has ended; sign in again")

func deadCookie(err error) error {
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrToken) {
		return errCookie.Because(err)
	}
	return err
}

// maxUnwritten bounds how far what the database knows of a session's use may
// lag: a twentieth of the idle time, at most a minute. An unused session may end
// by as much and cacheAge, for which the database is not asked, too early.
func (s *Service) maxUnwritten() time.Duration { return min(time.Minute, s.cfg.BrowserIdle/20) }

// touch stores that a session is used, unless that was done lately, and returns
// its idle end, which says when it was: the last use does not, since that is
// stored by itself too. A session that ended meanwhile is ErrNotFound. Any other
// failure costs nothing now: the session ends earlier than it should.
func (s *Service) touch(ctx context.Context, hash [32]byte, session Session, idleEnd, now time.Time) (time.Time, error) {
	next := now.Add(s.cfg.BrowserIdle)
	if next.After(session.ExpiresAt) {
		next = session.ExpiresAt
	}
	if next.Sub(idleEnd) < s.maxUnwritten() {
		return idleEnd, nil
	}
	err := s.cfg.Store.TouchBrowser(ctx, hash, now, next)
	switch {
	case err == nil:
		return next, nil
	case errors.Is(err, ErrNotFound):
		return idleEnd, err
	case ctx.Err() == nil:
		s.cfg.Logger.Warn("the use of a browser's session could not be stored; it may end early", "session", session.ID, "cause", err)
	}
	return idleEnd, nil
}

// Reauthenticate proves the password of a browser's session anew, and the second
// factor of a user who has one, for what needs a recent sign-in, and gives the
// session another cookie: one that was stolen before is worth nothing from now
// on. ErrCredentials for a wrong password, ErrOTPRequired and ErrCode for a
// missing or wrong code, ErrToken for a session that has ended.
func (s *Service) Reauthenticate(ctx context.Context, who Principal, cookie, password, otp string) (Browser, error) {
	old, ok := secretHash(cookiePrefix, cookie)
	if !ok {
		return Browser{}, errCookie
	}
	if err := boundPassword(password); err != nil {
		return Browser{}, err
	}
	user, err := s.cfg.Store.User(ctx, who.UserID)
	if err != nil {
		return Browser{}, deadCookie(err)
	}
	v, err := s.hasher.verify(ctx, user.PasswordHash, password)
	if err != nil {
		return Browser{}, err
	}
	attempt := signIn{origin: who.Origin, action: "user.reauthenticate", username: who.Username, user: user}
	if reason := s.passwordRefused(user, v.match); reason != "" {
		return Browser{}, s.failed(ctx, attempt, reason, ErrCredentials.With("the password is wrong"))
	}
	if user.TOTP {
		by, err := s.secondFactor(ctx, attempt, otp, ErrCode)
		if err != nil {
			return Browser{}, err
		}
		attempt.by = string(by)
	}
	if err := s.succeeded(ctx, attempt); err != nil {
		return Browser{}, err
	}
	defer s.cache.revoke(user.ID)
	now := s.now()
	next, token := s.newCookie(now)
	session, err := s.cfg.Store.RenewBrowser(ctx, old, token, now)
	if err != nil {
		return Browser{}, deadCookie(err)
	}
	return Browser{next, session}, nil
}
