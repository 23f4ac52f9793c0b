package auth

import "time"

// Error is what the room tells a caller: a stable code and a sentence that is
// safe to show. Cause goes to the protected log only.
type Error struct {
	Code   string
	Detail string
	Cause  error
	// Retry is after how long it is worth to try again; zero: the code's own.
	Retry time.Duration
}

func (e *Error) Error() string {
	if e.Cause != nil {
		return e.Code + ": " + e.Detail + ": " + e.Cause.Error()
	}
	return e.Code + ": " + e.Detail
}

func (e *Error) Unwrap() error { return e.Cause }

// Is matches by code, so that errors.Is(err, ErrForbidden) holds for every
// detail.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// The codes of the room. api maps them to a status.
var (
	ErrInvalid     = &Error{Code: "invalid_input", Detail: "the request is not valid"}
	ErrCredentials = &Error{Code: "invalid_credentials", Detail: "wrong user name or password"}
	// ErrOTPRequired is told to who has proved the password alone.
	ErrOTPRequired  = &Error{Code: "otp_required", Detail: "this account has a second factor: send the code of your authenticator application, or a recovery code, as otp"}
	ErrCode         = &Error{Code: "wrong_code", Detail: "the code is wrong or used up; wait for the next one, or take a recovery code"}
	ErrTooManyCodes = &Error{Code: "rate_limited", Detail: "too many wrong codes for this account; wait for the seconds in Retry-After, or take a recovery code"}
	// ErrMustEnrol is what a user meets everywhere whose role needs a second
	// factor, while he has none.
	ErrMustEnrol = &Error{Code: "totp_required", Detail: "your role needs a second factor, and you have none yet; begin with POST /users/me/totp, or modelgate totp enable"}
	// ErrSecondFactor is what a user of such a role meets who comes by an identity
	// provider, and of whom it does not say that he proved a second factor.
	ErrSecondFactor = &Error{Code: "second_factor_required", Detail: "your role needs a second factor, and your identity provider does not say that you used one; sign in there with one, or ask the operator (second_factor)"}
	ErrToken        = &Error{Code: "invalid_token", Detail: "the token is malformed, expired or revoked; log in again"}
	errKey          = ErrToken.With("the API key is wrong, expired or revoked; make another, or ask for one")
	ErrClient       = &Error{Code: "invalid_client", Detail: "the client is unknown, or its secret is wrong, expired or revoked"}
	ErrNotIssued    = &Error{Code: "unauthorized_client", Detail: "the token was issued to another client, which alone can revoke it"}
	ErrForbidden    = &Error{Code: "forbidden", Detail: "your roles do not allow this; ask an administrator"}
	// ErrScope is told to who shows a provider's access token that delegates less
	// than this takes (RFC 6750 section 3.1).
	ErrScope          = &Error{Code: "insufficient_scope", Detail: "your access token does not delegate this; get one with a scope that does from your identity provider"}
	ErrNotFound       = &Error{Code: "not_found", Detail: "no such resource"}
	ErrTaken          = &Error{Code: "taken", Detail: "the name is taken; choose another"}
	ErrLinked         = &Error{Code: "linked", Detail: "this identity belongs to a user already; unlink it from him first"}
	ErrLastAdmin      = &Error{Code: "last_admin", Detail: "the last enabled administrator can't be removed, disabled or stripped of the role; make another first"}
	ErrWeakPassword   = &Error{Code: "weak_password", Detail: "the password is too easy to guess"}
	ErrReauthenticate = &Error{Code: "reauthentication_required", Detail: "log in again with your password, then repeat this within 10 minutes"}
	ErrBuiltin        = &Error{Code: "builtin_role", Detail: "built-in roles don't change; make a role of your own"}
	ErrInUse          = &Error{Code: "in_use", Detail: "users or models still have this role; take it from them first"}
	ErrUnavailable    = &Error{Code: "unavailable", Detail: "the service can't do this at the moment; try again in a few seconds"}
	// ErrSignIns is told while as many sign-ins through providers are under way as
	// are kept.
	ErrSignIns = &Error{Code: "unavailable", Detail: "too many sign-ins through identity providers are under way; try again in a minute", Retry: time.Minute}
	ErrBudget  = &Error{Code: "budget_exhausted", Detail: "your budget of rows for today is used up; it begins anew at midnight UTC"}
	// ErrReused tells apart a replayed refresh token for the audit log; it
	// reaches callers as ErrToken.
	ErrReused = &Error{Code: "refresh_reused", Detail: "the refresh token was used before; the session has ended, log in again"}
)

// With returns a copy of e with another detail.
func (e *Error) With(detail string) *Error {
	return &Error{Code: e.Code, Detail: detail, Cause: e.Cause, Retry: e.Retry}
}

// Because returns a copy of e that carries a cause for the log.
func (e *Error) Because(cause error) *Error {
	return &Error{Code: e.Code, Detail: e.Detail, Cause: cause, Retry: e.Retry}
}
