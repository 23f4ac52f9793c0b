package auth

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// seldom lets a line of the log through once a minute, where whoever sends
// requests could make it come with each of them.
type seldom struct{ last atomic.Int64 } // Unix nanoseconds

func (s *seldom) may(now time.Time) bool {
	last := s.last.Load()
	since := now.UnixNano() - last // below zero: the clock was set back
	return (last == 0 || since < 0 || since >= int64(time.Minute)) && s.last.CompareAndSwap(last, now.UnixNano())
}

// InitialPasswordTTL is how long a password that the program made signs in
// (OWASP ASVS 5.0 6.4.1): it was printed, and may stand in a log.
const InitialPasswordTTL = 72 * time.Hour

// expiredPassword is why it signs in no more, for logs and metrics.
const expiredPassword = "expired_password"

// wayOut is the command that helps who can't sign in any more.
const wayOut = "modelgate admin reset-password"

var errExpiredPassword = errors.New("the password is right; it was made by the program, and has expired")

func (s *Service) passwordExpired(u User) bool {
	return !u.PasswordExpires.IsZero() && !s.now().Before(u.PasswordExpires)
}

// passwordRefused is whyNot of a password, which signs nobody in once it has
// expired. The caller learns no more than of a wrong one; the operator is told
// the way out.
func (s *Service) passwordRefused(u User, match bool) string {
	if reason := whyNot(u, match); reason != "" {
		return reason
	}
	if !s.passwordExpired(u) {
		return ""
	}
	if s.expiries.may(s.cfg.Now()) {
		s.cfg.Logger.Warn("a sign-in by the password that was printed at the first start was refused: it has expired; set another: stop the server, run '"+
			wayOut+"', start it again", "user", u.Username, "cause", errExpiredPassword)
	}
	return expiredPassword
}

// tellInitial reminds the operator of the password that was printed for the
// first administrator, as long as it stands.
func (s *Service) tellInitial(ctx context.Context) error {
	u, err := s.cfg.Store.UserByName(ctx, adminRole)
	if errors.Is(err, ErrNotFound) || err == nil && u.PasswordExpires.IsZero() {
		return nil
	}
	if err != nil {
		return err
	}
	until := u.PasswordExpires.Format(time.RFC3339)
	if s.passwordExpired(u) {
		s.cfg.Logger.Warn("the password that was printed for the first administrator has expired and signs nobody in; set another: stop the server, run '"+
			wayOut+"', start it again", "user", u.Username, "expired", until)
		return nil
	}
	s.cfg.Logger.Warn("the first administrator still has the password that was printed for him; it signs in until then and no longer: change it with 'modelgate password'",
		"user", u.Username, "until", until)
	return nil
}

// unopened is the secret of a second factor that no master key opens.
type unopened struct{ cause error }

func (u *unopened) Error() string { return "the secret of a second factor: " + u.cause.Error() }
func (u *unopened) Unwrap() error { return u.cause }

// tellUnopened tells the operator of one: nothing else shows that a user can't
// sign in by codes any more.
func (s *Service) tellUnopened(userID string, err error) {
	if sealed := (*unopened)(nil); errors.As(err, &sealed) && s.unopened.may(s.cfg.Now()) {
		s.cfg.Logger.Error("no master key opens the secret of a second factor, so that its codes sign nobody in: give the master key of before beside the one in use; "+
			"if it is lost, the user signs in with a recovery code and enables his second factor anew, or it is taken away with 'modelgate user reset --totp' or '"+
			wayOut+" --totp'", "user", userID, "cause", sealed)
	}
}
