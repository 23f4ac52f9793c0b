package client

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Tokens is the answer to a login or refresh.
type Tokens struct {
	AccessToken      string `json:"access_token"`
	TokenType        string `json:"token_type"`
	ExpiresIn        int    `json:"expires_in"` // seconds
	RefreshToken     string `json:"refresh_token"`
	RefreshExpiresIn int    `json:"refresh_expires_in"` // seconds
}

// User is an account as its owner or an administrator sees it.
type User struct {
	ID        string    `json:"id"`
	Username  string    `json:"username"`
	Kind      string    `json:"kind,omitempty"` // "service": a service account
	Roles     []string  `json:"roles"`
	Disabled  bool      `json:"disabled,omitempty"`
	TOTP      bool      `json:"totp"` // a second factor is on
	CreatedAt time.Time `json:"created_at"`
	// InviteToken is there once, in the answer to CreateUser.
	InviteToken string `json:"invite_token,omitempty"`
	// Budgets are there in the answer to Me, where the caller has some.
	Budgets []Budget `json:"budgets,omitempty"`
}

// Budget is what is left today of a budget of rows.
type Budget struct {
	Model     string `json:"model,omitempty"` // empty: all models together
	DailyRows int64  `json:"daily_rows"`
	Left      int64  `json:"left"` // rows
}

// Service is a service account with its first secret, which is there once, in
// the answer to CreateService.
type Service struct {
	User
	ClientID     string     `json:"client_id"`
	ClientSecret string     `json:"client_secret"`
	SecretID     string     `json:"secret_id"`
	ExpiresAt    *time.Time `json:"expires_at,omitempty"` // of the secret
}

// Secret is one of a service account; Secret.ClientSecret is there once, in the
// answer to CreateSecret.
type Secret struct {
	ID           string     `json:"id"`
	ClientID     string     `json:"client_id,omitempty"`
	ClientSecret string     `json:"client_secret,omitempty"`
	CreatedAt    time.Time  `json:"created_at"`
	ExpiresAt    *time.Time `json:"expires_at,omitempty"`
	LastUsed     *time.Time `json:"last_used,omitempty"`
}

// Key is an API key; Key.Key is there once, in the answer to CreateKey.
type Key struct {
	ID        string     `json:"id"`
	Name      string     `json:"name"`
	Key       string     `json:"key,omitempty"`
	Models    []string   `json:"models,omitempty"`
	CreatedAt time.Time  `json:"created_at"`
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
	LastUsed  *time.Time `json:"last_used,omitempty"`
}

// Role opens models and carries permissions.
type Role struct {
	Name        string   `json:"name"`
	Permissions []string `json:"permissions"`
	RateLimit   string   `json:"rate_limit,omitempty"`
	DailyRows   int64    `json:"daily_rows,omitempty"` // 0: no budget
	Builtin     bool     `json:"builtin,omitempty"`
}

// AuditEntry is one record of the audit log.
type AuditEntry struct {
	Seq       uint64            `json:"seq"`
	Time      time.Time         `json:"time"`
	Actor     string            `json:"actor"`
	Action    string            `json:"action"`
	Target    string            `json:"target,omitempty"`
	Outcome   string            `json:"outcome"`
	Reason    string            `json:"reason,omitempty"`
	Address   string            `json:"address,omitempty"`
	RequestID string            `json:"request_id,omitempty"`
	Count     int64             `json:"count"`
	Detail    map[string]string `json:"detail,omitempty"`
}

// TOTP is a second factor that was begun: the secret in base32, and what a QR
// code for authenticator applications holds.
type TOTP struct {
	Secret string `json:"secret"`
	URI    string `json:"uri"`
}

type passwordLogin struct {
	Username string `json:"username"`
	Password string `json:"password"`
	OTP      string `json:"otp,omitempty"`
}

// Register makes an account.
func (c *Client) Register(ctx context.Context, username, password string) (User, error) {
	var u User
	return u, c.call(ctx, http.MethodPost, "/register", passwordLogin{Username: username, Password: password}, &u)
}

// Accept takes an invitation.
func (c *Client) Accept(ctx context.Context, invite, password string) (User, error) {
	var u User
	return u, c.call(ctx, http.MethodPost, "/register", map[string]string{"invite_token": invite, "password": password}, &u)
}

// ResetPassword uses up a reset token; every login of its user ends.
func (c *Client) ResetPassword(ctx context.Context, reset, password string) error {
	return c.call(ctx, http.MethodPost, "/password-reset", map[string]string{"reset_token": reset, "password": password}, nil)
}

// Login proves a password.
func (c *Client) Login(ctx context.Context, username, password string) (Tokens, error) {
	return c.LoginOTP(ctx, username, password, "")
}

// LoginOTP proves a password and a second factor: by a code of the
// authenticator application, or by a recovery code. Login says otp_required
// where this is needed.
func (c *Client) LoginOTP(ctx context.Context, username, password, otp string) (Tokens, error) {
	var t Tokens
	err := c.call(ctx, http.MethodPost, "/login", passwordLogin{username, password, otp}, &t)
	return t, err
}

// Refresh uses up a refresh token.
func (c *Client) Refresh(ctx context.Context, refresh string) (Tokens, error) {
	var t Tokens
	return t, c.call(ctx, http.MethodPost, "/refresh", map[string]string{"refresh_token": refresh}, &t)
}

// Logout ends the login that the credentials belong to.
func (c *Client) Logout(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/logout", nil, nil)
}

// Me returns the caller.
func (c *Client) Me(ctx context.Context) (User, error) {
	var u User
	return u, c.call(ctx, http.MethodGet, "/users/me", nil, &u)
}

// ChangePassword ends every other login of the caller. otp is the code of his
// second factor, or a recovery code; left empty, the answer says otp_required
// where it is needed: when he has a second factor and has not signed in with it
// in the last 10 minutes.
func (c *Client) ChangePassword(ctx context.Context, current, next, otp string) error {
	in := map[string]string{"current_password": current, "new_password": next}
	if otp != "" {
		in["otp"] = otp
	}
	return c.call(ctx, http.MethodPost, "/users/me/password", in, nil)
}

// BeginTOTP makes the secret of a second factor. It changes nothing before
// ConfirmTOTP. An empty password does within 10 minutes of the sign-in.
func (c *Client) BeginTOTP(ctx context.Context, password string) (TOTP, error) {
	var t TOTP
	err := c.call(ctx, http.MethodPost, "/users/me/totp", map[string]string{"password": password}, &t)
	return t, err
}

// ConfirmTOTP turns the second factor on by its first code and returns the
// recovery codes. Every other login of the caller ends.
func (c *Client) ConfirmTOTP(ctx context.Context, otp string) ([]string, error) {
	return c.recoveryCodes(ctx, "/users/me/totp/confirm", map[string]string{"otp": otp})
}

// RenewRecoveryCodes makes new recovery codes in place of all old ones. An
// empty password does within 10 minutes of the sign-in.
func (c *Client) RenewRecoveryCodes(ctx context.Context, password, otp string) ([]string, error) {
	return c.recoveryCodes(ctx, "/users/me/recovery-codes", map[string]string{"password": password, "otp": otp})
}

func (c *Client) recoveryCodes(ctx context.Context, path string, in any) ([]string, error) {
	var a struct {
		Codes []string `json:"recovery_codes"`
	}
	err := c.call(ctx, http.MethodPost, path, in, &a)
	return a.Codes, err
}

// RemoveTOTP takes the second factor away. An empty password does within 10
// minutes of the sign-in.
func (c *Client) RemoveTOTP(ctx context.Context, password, otp string) error {
	return c.call(ctx, http.MethodDelete, "/users/me/totp", map[string]string{"password": password, "otp": otp}, nil)
}

// Keys lists the caller's API keys.
func (c *Client) Keys(ctx context.Context) ([]Key, error) {
	return page[Key](ctx, c, "/users/me/keys", nil, 0)
}

// CreateKey makes an API key; with expires 0 it never expires, models nil
// opens all of the caller's.
func (c *Client) CreateKey(ctx context.Context, name string, expires time.Duration, models []string) (Key, error) {
	in := map[string]any{"name": name}
	if expires != 0 { // the server refuses what is below 1 s: none would never expire
		in["expires_in"] = int64(expires / time.Second)
	}
	if models != nil {
		in["models"] = models
	}
	var k Key
	return k, c.call(ctx, http.MethodPost, "/users/me/keys", in, &k)
}

// DeleteKey revokes a key at once.
func (c *Client) DeleteKey(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodDelete, "/users/me/keys/"+url.PathEscape(id), nil, nil)
}

// Users lists all accounts.
func (c *Client) Users(ctx context.Context) ([]User, error) {
	return page[User](ctx, c, "/admin/users", nil, 0)
}

// CreateUser makes an account that its invitation opens.
func (c *Client) CreateUser(ctx context.Context, username string, roles []string) (User, error) {
	var u User
	return u, c.call(ctx, http.MethodPost, "/admin/users", map[string]any{"username": username, "roles": roles}, &u)
}

// CreateService makes a service account; with expires 0 its secret never
// expires.
func (c *Client) CreateService(ctx context.Context, username string, roles []string, expires time.Duration) (Service, error) {
	in := map[string]any{"username": username, "roles": roles, "kind": "service"}
	if expires != 0 { // the server refuses what is below 1 s: none would never expire
		in["expires_in"] = int64(expires / time.Second)
	}
	var s Service
	return s, c.call(ctx, http.MethodPost, "/admin/users", in, &s)
}

// Secrets lists the secrets of a service account.
func (c *Client) Secrets(ctx context.Context, id string) ([]Secret, error) {
	return page[Secret](ctx, c, "/admin/users/"+url.PathEscape(id)+"/secrets", nil, 0)
}

// CreateSecret gives a service account another secret.
func (c *Client) CreateSecret(ctx context.Context, id string, expires time.Duration) (Secret, error) {
	in := map[string]any{}
	if expires != 0 { // the server refuses what is below 1 s: none would never expire
		in["expires_in"] = int64(expires / time.Second)
	}
	var s Secret
	return s, c.call(ctx, http.MethodPost, "/admin/users/"+url.PathEscape(id)+"/secrets", in, &s)
}

// DeleteSecret revokes a secret, and what was got with it, at once.
func (c *Client) DeleteSecret(ctx context.Context, id, secret string) error {
	return c.call(ctx, http.MethodDelete, "/admin/users/"+url.PathEscape(id)+"/secrets/"+url.PathEscape(secret), nil, nil)
}

// UserPatch changes what is not nil.
type UserPatch struct {
	Roles    *[]string `json:"roles,omitempty"`
	Disabled *bool     `json:"disabled,omitempty"`
}

// UpdateUser changes roles or disables; it holds from the user's next request.
func (c *Client) UpdateUser(ctx context.Context, id string, p UserPatch) (User, error) {
	var u User
	return u, c.call(ctx, http.MethodPatch, "/admin/users/"+url.PathEscape(id), p, &u)
}

// DeleteUser removes an account with its logins and keys.
func (c *Client) DeleteUser(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodDelete, "/admin/users/"+url.PathEscape(id), nil, nil)
}

// ResetUser returns a one-time token to set a new password with. With totp it
// takes the user's second factor away too, when it is used.
func (c *Client) ResetUser(ctx context.Context, id string, totp bool) (string, error) {
	var a struct {
		Token string `json:"reset_token"`
	}
	return a.Token, c.call(ctx, http.MethodPost, "/admin/users/"+url.PathEscape(id)+"/reset", map[string]bool{"totp": totp}, &a)
}

// Roles lists all roles.
func (c *Client) Roles(ctx context.Context) ([]Role, error) {
	return page[Role](ctx, c, "/admin/roles", nil, 0)
}

// PutRole makes or replaces a role. An empty rate is the server's; without
// dailyRows (0) there is no budget.
func (c *Client) PutRole(ctx context.Context, name string, permissions []string, rate string, dailyRows int64) (Role, error) {
	in := map[string]any{"permissions": append([]string{}, permissions...)} // null would be refused
	if dailyRows != 0 {
		in["daily_rows"] = dailyRows
	}
	if rate != "" {
		in["rate_limit"] = rate
	}
	var r Role
	return r, c.call(ctx, http.MethodPut, "/admin/roles/"+url.PathEscape(name), in, &r)
}

// DeleteRole removes a role that nobody has.
func (c *Client) DeleteRole(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, "/admin/roles/"+url.PathEscape(name), nil, nil)
}

// AuditQuery selects records; zero fields select all.
type AuditQuery struct {
	Actor, Action string
	Limit         int // 0: 100
}

// Audit lists records, newest first.
func (c *Client) Audit(ctx context.Context, q AuditQuery) ([]AuditEntry, error) {
	if q.Limit <= 0 {
		q.Limit = 100
	}
	v := url.Values{"limit": {strconv.Itoa(min(q.Limit, 1000))}}
	if q.Actor != "" {
		v.Set("actor", q.Actor)
	}
	if q.Action != "" {
		v.Set("action", q.Action)
	}
	return page[AuditEntry](ctx, c, "/admin/audit", v, q.Limit)
}

// ExportAudit writes the records of a time to w as JSON lines, the oldest
// first. A zero end of the time is open. When it fails, w may have a part.
func (c *Client) ExportAudit(ctx context.Context, since, until time.Time, w io.Writer) error {
	v := url.Values{}
	if !since.IsZero() {
		v.Set("since", since.UTC().Format(time.RFC3339Nano))
	}
	if !until.IsZero() {
		v.Set("until", until.UTC().Format(time.RFC3339Nano))
	}
	path := "/admin/audit/export"
	if len(v) > 0 {
		path += "?" + v.Encode()
	}
	return c.call(ctx, http.MethodGet, path, nil, w)
}
