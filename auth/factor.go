package auth

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"modelgate/audit"
)

const sealTOTP = "totp" // purpose of sealed secrets

var errNoTOTP = ErrNotFound.With("there is no second factor to do this with; begin with POST /users/me/totp")

// tooManyCodes is ErrTooManyCodes with the time to wait.
func tooManyCodes(wait time.Duration) *Error {
	e := *ErrTooManyCodes
	e.Retry = wait
	return &e
}

// useCode decides on a code of the user's second factor, and uses it up or
// counts the guess, in one step of the database. Without a second factor it is
// ErrNotFound; the verdict is no error.
func (s *Service) useCode(ctx context.Context, userID, otp string) (v verdict, wait time.Duration, err error) {
	err = s.cfg.Store.UpdateTOTP(ctx, userID, func(old TOTP) (TOTP, error) {
		if !old.Active {
			return TOTP{}, errNoTOTP
		}
		var next TOTP
		var err error
		if next, v, wait, err = s.judge(old, otp); err == nil && v == codeTooMany {
			err = errPeek
		}
		return next, err
	})
	if errors.Is(err, errPeek) {
		err = nil
	}
	s.tellUnopened(userID, err)
	return v, wait, err
}

// judge is TOTP.judge with the secret out of the vault.
func (s *Service) judge(t TOTP, otp string) (TOTP, verdict, time.Duration, error) {
	if len(otp) > maxOTP {
		otp = ""
	}
	var secret []byte
	if isTOTP(plainCode(otp)) { // recovery codes need no master key
		var err error
		if secret, err = s.cfg.Vault.Open(sealTOTP, t.UserID, t.Secret); err != nil {
			return t, "", 0, ErrUnavailable.Because(&unopened{err})
		}
	}
	next, v, wait := t.judge(secret, otp, s.now())
	if v == codeGood && s.cfg.Vault.Stale(t.Secret) { // the master key was replaced
		next.Secret = s.cfg.Vault.Seal(sealTOTP, t.UserID, secret)
	}
	return next, v, wait, nil
}

// secondFactor proves the second factor of a user whose password was proved. It
// records what fails, and returns which kind of code passed: none where the
// second factor was removed since the user was read, so that the password is
// enough. answer is what the caller learns of a wrong code.
func (s *Service) secondFactor(ctx context.Context, attempt signIn, otp string, answer error) (verdict, error) {
	if otp == "" {
		return "", s.failed(ctx, attempt, "no_code", ErrOTPRequired)
	}
	v, wait, err := s.useCode(ctx, attempt.user.ID, otp)
	switch {
	case errors.Is(err, ErrNotFound):
		return "", nil
	case err != nil:
		return "", err
	case v == codeTooMany:
		return "", s.failed(ctx, attempt, string(v), tooManyCodes(wait))
	case !v.good():
		return "", s.failed(ctx, attempt, string(v), answer)
	}
	return v, nil
}

// present is step-up: it asks for proof that the user himself is there, which a
// stolen token is not. That is his password, or where he gives none, a sign-in
// of the last 10 minutes: ErrReauthenticate. A wrong password is ErrCredentials.
func (s *Service) present(ctx context.Context, who Principal, password string, a Action) (User, error) {
	within := freshAuth
	if password != "" {
		within = 0
	}
	if err := s.fresh(ctx, who, within, a); err != nil {
		return User{}, err
	}
	if err := boundPassword(password); err != nil {
		return User{}, err
	}
	user, err := s.cfg.Store.User(ctx, who.UserID)
	if err != nil {
		return User{}, deadIfMissing(err)
	}
	if password == "" {
		return user, nil
	}
	v, err := s.hasher.verify(ctx, user.PasswordHash, password)
	if err != nil {
		return User{}, err
	}
	if reason := s.passwordRefused(user, v.match); reason != "" {
		attempt := signIn{origin: who.Origin, action: a.Name, username: who.Username, user: user}
		return User{}, s.failed(ctx, attempt, reason, ErrCredentials.With("the password is wrong"))
	}
	return user, nil
}

// BeginTOTP makes the secret of a second factor and returns it, in base32 and
// as the otpauth URI of a QR code. Nothing is asked for at sign-in until
// ConfirmTOTP. Needs the password, or a sign-in of the last 10 minutes.
// ErrTaken while a second factor is on.
func (s *Service) BeginTOTP(ctx context.Context, who Principal, password string) (secret, uri string, err error) {
	a := Action{Name: "totp.begin", Target: who.Username}
	if err := s.fresh(ctx, who, 0, a); err != nil { // by its session it is confirmed
		return "", "", err
	}
	user, err := s.present(ctx, who, password, a)
	if err != nil {
		return "", "", err
	}
	if user.PasswordHash == "" {
		return "", "", ErrInvalid.With("a second factor stands beside a password, and this account has none")
	}
	if user.TOTP {
		return "", "", errHasTOTP
	}
	if err := s.cfg.Guard.Allow(ctx, who, 0, a); err != nil {
		return "", "", err
	}
	plain := make([]byte, totpBytes)
	rand.Read(plain)
	sealed := s.cfg.Vault.Seal(sealTOTP, user.ID, plain)
	err = s.cfg.Store.UpdateTOTP(ctx, user.ID, func(old TOTP) (TOTP, error) {
		if old.Active {
			return TOTP{}, errHasTOTP
		}
		return TOTP{UserID: user.ID, Secret: sealed, SessionID: who.SessionID, CreatedAt: s.now()}, nil
	})
	if err != nil {
		return "", "", deadIfMissing(err)
	}
	return base32Text.EncodeToString(plain), totpURI(plain, serverName(s.cfg.Issuer), user.Username), nil
}

var errHasTOTP = ErrTaken.With("a second factor is on already; DELETE /users/me/totp takes it away")

// ConfirmTOTP turns on the second factor that this very session began at most
// 10 minutes ago, by its first code, and returns the recovery codes, which are
// shown this once. Every other session of the user ends: it began without.
// ErrCode for a wrong code, ErrNotFound where nothing was begun.
func (s *Service) ConfirmTOTP(ctx context.Context, who Principal, otp string) ([]string, error) {
	a := Action{Name: "totp.enable", Target: who.Username}
	if err := s.fresh(ctx, who, 0, a); err != nil {
		return nil, err
	}
	attempt := signIn{origin: who.Origin, action: a.Name, username: who.Username, user: User{ID: who.UserID}}
	v, wait, err := s.firstCode(ctx, who, otp)
	switch {
	case err != nil:
		return nil, err
	case v == codeTooMany:
		return nil, s.failed(ctx, attempt, string(v), tooManyCodes(wait))
	case v != codeGood:
		return nil, s.failed(ctx, attempt, string(codeWrong), ErrCode)
	}
	if err := s.cfg.Guard.Allow(ctx, who, 0, a); err != nil {
		return nil, err
	}
	codes, hashes := newRecoveryCodes()
	err = s.changeFactor(ctx, who, func(old TOTP) (TOTP, error) {
		if !s.begunBy(old, who) {
			return TOTP{}, errNoTOTP
		}
		old.Active, old.SessionID, old.Codes = true, "", hashes
		return old, nil
	})
	if err != nil {
		return nil, err
	}
	return codes, nil
}

// begunBy says whether a second factor waits for its first code from who.
func (s *Service) begunBy(t TOTP, who Principal) bool {
	return t.UserID != "" && !t.Active && t.SessionID == who.SessionID && s.now().Sub(t.CreatedAt) <= enrolWithin
}

// firstCode uses up the code that confirms. Its step is kept, so that the same
// code does not sign in.
func (s *Service) firstCode(ctx context.Context, who Principal, otp string) (v verdict, wait time.Duration, err error) {
	err = s.cfg.Store.UpdateTOTP(ctx, who.UserID, func(old TOTP) (TOTP, error) {
		if !s.begunBy(old, who) {
			return TOTP{}, errNoTOTP
		}
		var next TOTP
		var err error
		next, v, wait, err = s.judge(old, otp)
		return next, err
	})
	s.tellUnopened(who.UserID, err)
	return v, wait, deadIfNoUser(err)
}

// deadIfNoUser is for a caller whose account was deleted under him.
func deadIfNoUser(err error) error {
	if err == error(ErrNotFound) {
		return ErrToken.Because(err)
	}
	return err
}

// changeFactor changes a second factor and ends every other session of the
// user: before as well as after, should the process die in between.
func (s *Service) changeFactor(ctx context.Context, who Principal, f func(TOTP) (TOTP, error)) error {
	defer s.cache.revoke(who.UserID)
	if _, err := s.cfg.Store.EndSessions(ctx, who.UserID, who.SessionID); err != nil {
		return err
	}
	if err := s.cfg.Store.UpdateTOTP(ctx, who.UserID, f); err != nil {
		return deadIfNoUser(err)
	}
	_, err := s.cfg.Store.EndSessions(context.WithoutCancel(ctx), who.UserID, who.SessionID)
	return err
}

// bothFactors is present with a code besides: what it takes to change a second
// factor that is on. Wrong codes are ErrCode.
func (s *Service) bothFactors(ctx context.Context, who Principal, password, otp string, a Action) error {
	user, err := s.present(ctx, who, password, a)
	if err != nil {
		return err
	}
	if !user.TOTP {
		return errNoTOTP
	}
	attempt := signIn{origin: who.Origin, action: a.Name, username: who.Username, user: user}
	by, err := s.secondFactor(ctx, attempt, otp, ErrCode)
	if err == nil && by == "" {
		err = errNoTOTP
	}
	return err
}

// RemoveTOTP takes one's second factor away with its recovery codes, and ends
// every other session. Needs the password or a sign-in of the last 10 minutes,
// and a code of either kind.
func (s *Service) RemoveTOTP(ctx context.Context, who Principal, password, otp string) error {
	a := Action{Name: "totp.disable", Target: who.Username}
	if err := s.bothFactors(ctx, who, password, otp, a); err != nil {
		return err
	}
	if err := s.cfg.Guard.Allow(ctx, who, 0, a); err != nil {
		return err
	}
	return s.changeFactor(ctx, who, func(old TOTP) (TOTP, error) {
		if !old.Active {
			return TOTP{}, errNoTOTP
		}
		return TOTP{}, nil
	})
}

// RenewRecoveryCodes makes new recovery codes; those before them are dead. It
// needs what RemoveTOTP needs.
func (s *Service) RenewRecoveryCodes(ctx context.Context, who Principal, password, otp string) ([]string, error) {
	a := Action{Name: "recovery_codes.create", Target: who.Username}
	if err := s.bothFactors(ctx, who, password, otp, a); err != nil {
		return nil, err
	}
	if err := s.cfg.Guard.Allow(ctx, who, 0, a); err != nil {
		return nil, err
	}
	codes, hashes := newRecoveryCodes()
	err := s.cfg.Store.UpdateTOTP(ctx, who.UserID, func(old TOTP) (TOTP, error) {
		if !old.Active {
			return TOTP{}, errNoTOTP
		}
		old.Codes = hashes
		return old, nil
	})
	if err != nil {
		return nil, deadIfNoUser(err)
	}
	return codes, nil
}

// RemoveTOTPOffline takes a user's second factor away in a store that no server
// has open. It is for an administrator who lost it; the data folder is his
// proof. false: he had none.
func RemoveTOTPOffline(ctx context.Context, store Store, log *audit.Log, username string) (bool, error) {
	user, err := store.UserByName(ctx, lower(username))
	if err != nil {
		return false, noSuchUser(err)
	}
	if !user.TOTP {
		return false, nil
	}
	err = log.Append(ctx, audit.Entry{Actor: "offline", Action: "totp.disable", Target: user.Username, Outcome: audit.Allowed, Reason: "data_folder"})
	if err != nil {
		return false, ErrUnavailable.Because(err)
	}
	err = store.UpdateTOTP(ctx, user.ID, func(TOTP) (TOTP, error) { return TOTP{}, nil })
	return err == nil, err
}
