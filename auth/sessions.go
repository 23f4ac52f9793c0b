package auth

import (
	"context"
	"errors"
	"strconv"
	"time"

	"modelgate/audit"
)

// Sessions lists one's live sessions, newest first.
func (s *Service) Sessions(ctx context.Context, who Principal) ([]Session, error) {
	if who.Models != nil {
		return nil, errScopedKey
	}
	return s.cfg.Store.SessionsOf(ctx, who.UserID, s.now())
}

// Session returns the caller's own session; an API key has none: ErrToken.
func (s *Service) Session(ctx context.Context, who Principal) (Session, error) {
	session, err := s.cfg.Store.Session(ctx, who.SessionID)
	return session, deadIfMissing(err)
}

// addressesTime is how long Addresses takes at least: longer than its questions
// to the database, so that its time does not tell whether there is a user.
const addressesTime = 20 * time.Millisecond

// Addresses lists where the live sessions of a user began, for the throttle of
// sign-ins. An unknown name has none, and takes the same time.
func (s *Service) Addresses(ctx context.Context, username string) ([]string, error) {
	rest := time.NewTimer(addressesTime)
	defer rest.Stop()
	user, err := s.cfg.Store.UserByName(ctx, lower(cut(username, maxUserAgent)))
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, err
	}
	sessions, err := s.cfg.Store.SessionsOf(ctx, user.ID, s.now())
	if err != nil {
		return nil, err
	}
	list := make([]string, len(sessions))
	for i, x := range sessions {
		list[i] = x.Address
	}
	select {
	case <-rest.C:
		return list, nil
	case <-ctx.Done():
		return nil, ErrUnavailable.Because(ctx.Err())
	}
}

// EndSession ends one of one's own sessions; ErrNotFound for any other.
func (s *Service) EndSession(ctx context.Context, who Principal, id string) error {
	if who.Models != nil {
		return errScopedKey
	}
	session, err := s.cfg.Store.Session(ctx, id)
	if err == nil && session.UserID != who.UserID {
		err = ErrNotFound
	}
	if errors.Is(err, ErrNotFound) {
		return ErrNotFound.With("you have no such session")
	}
	if err != nil {
		return err
	}
	return s.end(ctx, signIn{origin: who.Origin, action: "user.logout", username: who.Username, user: User{ID: who.UserID}}, id, "")
}

// EndSessions ends every session of the caller, of any kind, his own included.
// His API keys go on.
func (s *Service) EndSessions(ctx context.Context, who Principal) error {
	if who.Models != nil {
		return errScopedKey
	}
	defer s.cache.revoke(who.UserID)
	if _, err := s.cfg.Store.EndSessions(ctx, who.UserID, ""); err != nil {
		return err
	}
	// As with one: ended first, recorded then.
	a := signIn{origin: who.Origin, action: "user.logout", username: who.Username, user: User{ID: who.UserID}}
	if err := s.cfg.Audit.Append(ctx, a.entry(audit.Allowed, "everywhere")); err != nil {
		return ErrUnavailable.Because(err)
	}
	return nil
}

// displacing says which sessions end as another begins: replaced, and of the
// user's others those that were used longest ago. Use is stored once a minute;
// what this process has seen since counts too, so that a session which is in use
// stays, however many begin.
func (s *Service) displacing(replaced string) Displaced {
	return Displaced{ID: replaced, Most: s.cfg.MaxSessions, Used: s.sessionUses.last}
}

// displaced records which sessions of the user ended as another of his began:
// the one that was replaced, and those that there was no room for. The new one
// may not be used without the record.
func (s *Service) displaced(ctx context.Context, a signIn, begun Session, replaced string, crowded []string) error {
	if replaced == "" && len(crowded) == 0 {
		return nil
	}
	defer s.cache.revoke(begun.UserID)
	a.action, a.detail = "user.logout", nil
	var list []audit.Entry
	if replaced != "" {
		e := a.entry(audit.Allowed, "replaced")
		e.Target = replaced
		list = append(list, e)
	}
	if len(crowded) > 0 {
		e := a.entry(audit.Allowed, "too_many_sessions")
		e.Target = crowded[0]
		if more := len(crowded) - 1; more > 0 { // the bound was lowered
			e.Detail = map[string]string{"others": strconv.Itoa(more)}
		}
		list = append(list, e)
	}
	for _, e := range list {
		if err := s.cfg.Audit.Append(ctx, e); err != nil {
			s.drop(ctx, begun)
			return ErrUnavailable.Because(err)
		}
	}
	return nil
}

// Sessions of others, for administrators.

var errNoSession = ErrNotFound.With("the user has no such session")

// SessionsOf lists a user's live sessions of every kind, newest first. Needs
// users:manage.
func (s *Service) SessionsOf(ctx context.Context, who Principal, userID string) ([]Session, error) {
	if err := s.cfg.Guard.Check(ctx, who, UsersManage, Action{Name: "session.list", Target: userID}); err != nil {
		return nil, err
	}
	if _, err := s.cfg.Store.User(ctx, userID); err != nil {
		return nil, noSuchUser(err)
	}
	return s.cfg.Store.SessionsOf(ctx, userID, s.now())
}

// mayEnd refuses to end sessions of a user with more rights than who has. One's
// own are as good as anybody's: that takes nothing but what Logout takes. The
// caller holds the admin lock.
func (s *Service) mayEnd(ctx context.Context, who Principal, userID string, a Action) error {
	user, err := s.cfg.Store.User(ctx, userID)
	if err != nil || user.ID == who.UserID {
		return noSuchUser(err)
	}
	table, err := s.roleTable(ctx)
	if err != nil {
		return err
	}
	return s.refuse(ctx, who, a, mayTouch(who, table, user, 0, false))
}

// EndSessionOf ends one session of a user, whose next request by it is refused.
// Needs users:manage and every permission that the user has. ErrNotFound for a
// session that is not his.
func (s *Service) EndSessionOf(ctx context.Context, who Principal, userID, sessionID string) error {
	his := func() error {
		session, err := s.cfg.Store.Session(ctx, sessionID)
		if errors.Is(err, ErrNotFound) || err == nil && session.UserID != userID {
			return errNoSession
		}
		return err
	}
	return s.endOf(ctx, who, userID, sessionID, his, func() error { return s.cfg.Store.EndSession(ctx, sessionID) })
}

// EndSessionsOf ends every session of a user; his API keys go on. Needs what
// EndSessionOf does.
func (s *Service) EndSessionsOf(ctx context.Context, who Principal, userID string) error {
	return s.endOf(ctx, who, userID, "all", nil, func() error {
		_, err := s.cfg.Store.EndSessions(ctx, userID, "")
		return err
	})
}

// endOf decides whether somebody may end what of a user, records it and does it.
// look is asked before it is recorded; nil: there is nothing to look for.
func (s *Service) endOf(ctx context.Context, who Principal, userID, what string, look, end func() error) error {
	a := s.target(ctx, Action{Name: "session.end", Detail: map[string]string{"session": cut(what, 64)}}, userID)
	if err := s.cfg.Guard.Check(ctx, who, UsersManage, a); err != nil {
		return err
	}
	unlock, err := s.lockAdmin(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.mayEnd(ctx, who, userID, a); err != nil {
		return err
	}
	if look != nil {
		if err := look(); err != nil {
			return err
		}
	}
	if err := s.cfg.Guard.Allow(ctx, who, UsersManage, a); err != nil {
		return err
	}
	defer s.cache.revoke(userID)
	return end()
}

// EndEverySession ends the sessions of all users, the caller's own included: who
// has taken one of his must not keep it. API keys go on. Needs users:manage and
// every other permission too, since some of the users may have them.
func (s *Service) EndEverySession(ctx context.Context, who Principal) error {
	a := Action{Name: "session.end_all"}
	if err := s.cfg.Guard.Check(ctx, who, UsersManage, a); err != nil {
		return err
	}
	if !who.Can(allPermissions) {
		err := ErrForbidden.With("some users have permissions that you lack, and this ends their sessions too; end those of single users")
		return s.cfg.Guard.Decide(ctx, who, false, err, true, a)
	}
	if err := s.cfg.Guard.Allow(ctx, who, UsersManage, a); err != nil {
		return err
	}
	defer s.cache.revokeAll()
	return s.cfg.Store.EndAllSessions(context.WithoutCancel(ctx)) // those of everybody, also when the caller leaves
}
