package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

var errTicket = ErrToken.With("the token is unknown, used or expired; ask an administrator for a new one")

var errUsername = ErrInvalid.With("a user name has 2 to 64 characters: letters, digits, and after the first also . _ -")

// programNames are who acts in the audit log where no user does. Who had one
// could hide among its records.
var programNames = []string{"start", "schedule", "offline", productName}

// username folds a name to lower case and checks it.
func username(name string) (string, error) {
	if len(name) > 64 {
		return "", errUsername
	}
	if name = lower(name); !validName(name, 2) {
		return "", errUsername
	}
	if slices.Contains(programNames, name) {
		return "", ErrTaken
	}
	return name, nil
}

// lower folds the letters that may stand in a name. Others are left as they
// are: strings.ToLower would make a k of the Kelvin sign.
func lower(name string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, name)
}

// shown is a user without what nobody may see.
func shown(u User) User {
	u.PasswordHash = ""
	return u
}

// Register makes an account with role user. ErrTaken, ErrWeakPassword, or
// ErrForbidden where registration is not open.
func (s *Service) Register(ctx context.Context, o Origin, name, password string) (User, error) {
	switch s.cfg.Registration {
	case InviteOnly:
		return User{}, ErrForbidden.With("registration is by invitation; ask an administrator for one")
	case Closed:
		return User{}, ErrForbidden.With("registration is closed")
	}
	name, err := username(name)
	if err != nil {
		return User{}, err
	}
	if err := checkPassword(name, password); err != nil {
		return User{}, err
	}
	attempt := signIn{origin: o, action: "user.register", username: name}
	if _, err := s.cfg.Store.UserByName(ctx, name); err == nil { // before a hash is spent on it
		return User{}, s.failed(ctx, attempt, "taken", ErrTaken)
	} else if !errors.Is(err, ErrNotFound) {
		return User{}, err
	}
	hash, err := s.hasher.hash(ctx, password)
	if err != nil {
		return User{}, err
	}
	now := s.now()
	u := User{ID: newID("u_"), Username: name, PasswordHash: hash, Roles: []string{userRole}, CreatedAt: now, UpdatedAt: now}
	attempt.user = u
	if err := s.succeeded(ctx, attempt); err != nil {
		return User{}, err
	}
	if err := s.cfg.Store.CreateUser(ctx, u, nil); err != nil {
		if errors.Is(err, ErrTaken) {
			return User{}, s.failed(ctx, attempt, "taken", ErrTaken)
		}
		return User{}, err
	}
	return shown(u), nil
}

// AcceptInvitation sets the first password of a user whom an administrator
// made. An unknown, used or expired invitation is ErrToken, and so is one of a
// user who has got a password by another way.
func (s *Service) AcceptInvitation(ctx context.Context, o Origin, token, password string) (User, error) {
	if s.cfg.Registration == Closed {
		return User{}, ErrForbidden.With("registration is closed")
	}
	return s.redeem(ctx, signIn{origin: o, action: "user.register"}, Invitation, invitePrefix, token, password)
}

// ResetPassword sets a new password by a reset token, and ends every session
// of the user. His second factor stays, unless the token was made to remove it. An unknown, used or expired token is ErrToken.
func (s *Service) ResetPassword(ctx context.Context, o Origin, token, password string) error {
	_, err := s.redeem(ctx, signIn{origin: o, action: "user.reset"}, PasswordReset, resetPrefix, token, password)
	return err
}

// redeem uses up a ticket to set a password. The ticket is looked at before a
// hash is spent on it, and stays good when the password is refused.
func (s *Service) redeem(ctx context.Context, attempt signIn, kind TicketKind, prefix, token, password string) (User, error) {
	if err := boundPassword(password); err != nil {
		return User{}, err
	}
	ticket, ok := secretHash(prefix, token)
	if !ok {
		return User{}, s.failed(ctx, attempt, "malformed", errTicket)
	}
	// An invitation is for the first password. The store voids it with the first
	// one, but did not always.
	late := func(u User) bool { return kind == Invitation && u.PasswordHash != "" }
	var user User
	_, err := s.cfg.Store.Redeem(ctx, ticket, kind, s.now(), func(u User) (User, error) {
		if late(u) {
			return User{}, ErrToken
		}
		user = u
		return User{}, errPeek
	})
	if !errors.Is(err, errPeek) {
		return User{}, s.unredeemed(ctx, attempt, err)
	}
	attempt.user, attempt.username = user, user.Username
	if user.Disabled {
		return User{}, s.failed(ctx, attempt, "disabled", errTicket)
	}
	if err := checkPassword(user.Username, password); err != nil {
		return User{}, err
	}
	hash, err := s.hasher.hash(ctx, password)
	if err != nil {
		return User{}, err
	}
	if err := s.succeeded(ctx, attempt); err != nil {
		return User{}, err
	}
	defer s.cache.revoke(user.ID)
	// Before as well as after: should the process die in between, no session
	// of the old password is left.
	if _, err := s.cfg.Store.EndSessions(ctx, user.ID, ""); err != nil {
		return User{}, err
	}
	stored, err := s.cfg.Store.Redeem(ctx, ticket, kind, s.now(), func(u User) (User, error) {
		if u.Disabled || late(u) {
			return User{}, ErrToken
		}
		u.PasswordHash, u.PasswordExpires = hash, time.Time{}
		u.UpdatedAt = s.now()
		return u, nil
	})
	if err != nil {
		return User{}, s.unredeemed(ctx, attempt, err)
	}
	if _, err := s.cfg.Store.EndSessions(context.WithoutCancel(ctx), user.ID, ""); err != nil {
		return User{}, err
	}
	return shown(stored), nil
}

func (s *Service) unredeemed(ctx context.Context, attempt signIn, err error) error {
	if errors.Is(err, ErrToken) || errors.Is(err, ErrNotFound) {
		return s.failed(ctx, attempt, "unknown", errTicket)
	}
	return err
}

// Me returns the caller's own account.
func (s *Service) Me(ctx context.Context, who Principal) (User, error) {
	u, err := s.cfg.Store.User(ctx, who.UserID)
	return shown(u), err
}

// ChangePassword replaces one's password, given the current one, and ends every
// other session. Who has a second factor gives a code as well, as otp, unless the
// session began in the last 10 minutes and with one. ErrCredentials if the
// password is not the current one, ErrWeakPassword for the new one,
// ErrOTPRequired and ErrCode for the code, ErrReauthenticate for an API key. A
// current one that has expired will do: it is how the user of a session that
// lives on gets another.
func (s *Service) ChangePassword(ctx context.Context, who Principal, current, next, otp string) error {
	a := Action{Name: "user.password", Target: who.Username}
	if err := s.fresh(ctx, who, 0, a); err != nil {
		return err
	}
	if err := boundPassword(current); err != nil {
		return err
	}
	if err := checkPassword(who.Username, next); err != nil {
		return err
	}
	user, err := s.cfg.Store.User(ctx, who.UserID)
	if err != nil {
		return deadIfMissing(err)
	}
	v, err := s.hasher.verify(ctx, user.PasswordHash, current)
	if err != nil {
		return err
	}
	attempt := signIn{origin: who.Origin, action: a.Name, username: who.Username, user: user}
	if !v.match {
		return s.failed(ctx, attempt, "wrong_password", ErrCredentials.With("the current password is wrong"))
	}
	if current == next {
		return ErrWeakPassword.With("the new password is the current one; take another")
	}
	if user.TOTP && !(who.SecondFactor && s.cfg.Now().Sub(who.AuthTime) <= freshAuth) {
		by, err := s.secondFactor(ctx, attempt, otp, ErrCode)
		if err != nil {
			return err
		}
		a.Detail = map[string]string{"code": string(by)} // its kind
	}
	hash, err := s.hasher.hash(ctx, next)
	if err != nil {
		return err
	}
	if err := s.cfg.Guard.Allow(ctx, who, 0, a); err != nil {
		return err
	}
	return s.replacePassword(ctx, who, user, hash)
}

func (s *Service) replacePassword(ctx context.Context, who Principal, user User, hash string) error {
	defer s.cache.revoke(user.ID)
	if _, err := s.cfg.Store.EndSessions(ctx, user.ID, who.SessionID); err != nil { // as in redeem
		return err
	}
	_, err := s.cfg.Store.UpdateUser(ctx, user.ID, func(old User, _ int) (User, error) {
		if old.PasswordHash != user.PasswordHash {
			return User{}, ErrUnavailable.With("the password was changed at the same time; try again")
		}
		old.PasswordHash, old.PasswordExpires = hash, time.Time{}
		old.UpdatedAt = s.now()
		return old, nil
	})
	if err != nil {
		return deadIfMissing(err)
	}
	if _, err := s.cfg.Store.EndSessions(context.WithoutCancel(ctx), user.ID, who.SessionID); err != nil {
		return fmt.Errorf("end the other sessions: %w", err)
	}
	return nil
}
