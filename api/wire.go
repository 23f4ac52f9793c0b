package api

import (
	"strconv"
	"time"

	"modelgate/audit"
	"modelgate/auth"
)

// Requests. Each has exactly the fields of the contract; anything else in a
// body is refused.

type registerRequest struct {
	Username    string `json:"username"`
	InviteToken string `json:"invite_token"`
	Password    string `json:"password"`
}

func (r *registerRequest) check() error {
	if r.InviteToken != "" && r.Username != "" {
		return invalid("send either username or invite_token: an invitation has its name already")
	}
	if r.InviteToken == "" && r.Username == "" {
		return required("username")
	}
	return requireText("password", r.Password)
}

type loginRequest struct {
	Username string `json:"username"`
	Password string `json:"password"`
	OTP      string `json:"otp"` // of accounts with a second factor: a code of either kind
}

func (r *loginRequest) check() error {
	if err := requireText("username", r.Username); err != nil {
		return err
	}
	return requireText("password", r.Password)
}

type reauthenticateRequest struct {
	Password string `json:"password"`
	OTP      string `json:"otp"` // as in loginRequest
}

func (r *reauthenticateRequest) check() error { return requireText("password", r.Password) }

type refreshRequest struct {
	RefreshToken string `json:"refresh_token"`
}

func (r *refreshRequest) check() error { return requireText("refresh_token", r.RefreshToken) }

type resetRequest struct {
	ResetToken string `json:"reset_token"`
	Password   string `json:"password"`
}

func (r *resetRequest) check() error {
	if err := requireText("reset_token", r.ResetToken); err != nil {
		return err
	}
	return requireText("password", r.Password)
}

type passwordRequest struct {
	CurrentPassword string `json:"current_password"`
	NewPassword     string `json:"new_password"`
	OTP             string `json:"otp"` // of who has a second factor, unless he has just signed in with it
}

func (r *passwordRequest) check() error {
	if err := requireText("current_password", r.CurrentPassword); err != nil {
		return err
	}
	return requireText("new_password", r.NewPassword)
}

// proofRequest may be empty within 10 minutes of a sign-in.
type proofRequest struct {
	Password string `json:"password"`
}

type codeRequest struct {
	OTP string `json:"otp"`
}

func (r *codeRequest) check() error { return requireText("otp", r.OTP) }

// proofCodeRequest may leave the password out within 10 minutes of a sign-in.
type proofCodeRequest struct {
	Password string `json:"password"`
	OTP      string `json:"otp"`
}

func (r *proofCodeRequest) check() error { return requireText("otp", r.OTP) }

// resetUserRequest may be left out.
type resetUserRequest struct {
	TOTP bool `json:"totp"` // the token removes the second factor too
}

type keyRequest struct {
	Name      string    `json:"name"`
	ExpiresIn *int64    `json:"expires_in"` // seconds
	Models    *[]string `json:"models"`
}

// longestKey is ten years, in seconds.
const longestKey = 10 * 365 * 24 * 3600

func (r *keyRequest) check() error {
	if err := checkSeconds(r.ExpiresIn); err != nil {
		return err
	}
	return requireText("name", r.Name)
}

func checkSeconds(n *int64) error {
	if n != nil && (*n < 1 || *n > longestKey) {
		return invalid("expires_in must be from 1 to " + strconv.Itoa(longestKey) + " seconds; leave it out for what does not expire")
	}
	return nil
}

// lifetime is 0 for what does not expire.
func lifetime(seconds *int64) time.Duration {
	if seconds == nil {
		return 0
	}
	return time.Duration(*seconds) * time.Second
}

type userRequest struct {
	Username  string   `json:"username"`
	Roles     []string `json:"roles"`
	Kind      string   `json:"kind"`       // "service": a service account
	ExpiresIn *int64   `json:"expires_in"` // seconds, of a service account's first secret
}

func (r *userRequest) check() error {
	switch {
	case r.Kind != "" && r.Kind != string(auth.ServiceAccount):
		return invalid("kind can be \"" + string(auth.ServiceAccount) + "\"; leave it out for a person")
	case r.Kind == "" && r.ExpiresIn != nil:
		return invalid("expires_in is for the secret of a service account")
	}
	if err := checkSeconds(r.ExpiresIn); err != nil {
		return err
	}
	return requireText("username", r.Username)
}

type secretRequest struct {
	ExpiresIn *int64 `json:"expires_in"` // seconds
}

func (r *secretRequest) check() error { return checkSeconds(r.ExpiresIn) }

type identityRequest struct {
	Provider string `json:"provider"`
	Subject  string `json:"subject"`
}

func (r *identityRequest) check() error {
	if err := requireText("provider", r.Provider); err != nil {
		return err
	}
	return requireText("subject", r.Subject)
}

type userPatch struct {
	Roles    *[]string `json:"roles"`
	Disabled *bool     `json:"disabled"`
}

type roleRequest struct {
	Permissions []string `json:"permissions"`
	RateLimit   string   `json:"rate_limit"`
	DailyRows   *int64   `json:"daily_rows"`
}

// dailyRows is 0 for a role without a budget.
func (r *roleRequest) dailyRows() int64 {
	if r.DailyRows == nil {
		return 0
	}
	return *r.DailyRows
}

func (r *roleRequest) check() error {
	if r.DailyRows != nil && *r.DailyRows < 1 {
		return invalid("daily_rows must be 1 or more; leave it out for no budget")
	}
	return nil
}

func required(field string) error { return invalid("the field \"" + field + "\" is required") }

func requireText(field, value string) error {
	if value == "" {
		return required(field)
	}
	return nil
}

// Answers. What is not listed here never leaves.

// page is one page of a list. Next is empty at the end.
type page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next"`
}

func pageOf[S, T any](items []S, next string, view func(S) T) page[T] {
	p := page[T]{Items: make([]T, len(items)), Next: next}
	for i, x := range items {
		p.Items[i] = view(x)
	}
	return p
}

// provider is an identity provider through which people sign in.
type provider struct {
	Name string `json:"name"`
}

// identity is who a user is at an identity provider. Provider is empty when the
// operator has removed it.
type identity struct {
	ID        string    `json:"id"`
	Provider  string    `json:"provider"`
	Issuer    string    `json:"issuer"`
	Subject   string    `json:"subject"`
	Managed   bool      `json:"managed"`
	CreatedAt time.Time `json:"created_at"`
}

// instant is nil for the zero time.
func instant(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

type about struct {
	Name    string `json:"name"`
	Docs    string `json:"docs"`
	OpenAPI string `json:"openapi"`
}

type status struct {
	Status string `json:"status"`
}

type newUser struct {
	ID        string    `json:"id"`
	Username  string    `json:"username"`
	Roles     []string  `json:"roles"`
	CreatedAt time.Time `json:"created_at"`
}

type me struct {
	ID          string    `json:"id"`
	Username    string    `json:"username"`
	Roles       []string  `json:"roles"`
	Permissions []string  `json:"permissions"`
	TOTP        bool      `json:"totp"` // a second factor is on
	CreatedAt   time.Time `json:"created_at"`
	Budgets     []budget  `json:"budgets,omitzero"` // of today; absent: none
}

// budget is what is left of a budget of rows today.
type budget struct {
	Model     string `json:"model,omitzero"` // absent: all models together
	DailyRows int64  `json:"daily_rows"`
	Left      int64  `json:"left"`
}

type newTOTP struct {
	Secret string `json:"secret"` // base32
	URI    string `json:"uri"`    // otpauth
}

type recoveryCodes struct {
	Codes []string `json:"recovery_codes"`
}

type key struct {
	ID        string     `json:"id"`
	Name      string     `json:"name"`
	Models    []string   `json:"models,omitzero"` // absent: every model of the user
	CreatedAt time.Time  `json:"created_at"`
	ExpiresAt *time.Time `json:"expires_at"` // null: never
	LastUsed  *time.Time `json:"last_used"`  // null: not yet
}

func keyOf(k auth.Key) key {
	return key{ID: k.ID, Name: k.Name, Models: k.Models, CreatedAt: k.CreatedAt.UTC(),
		ExpiresAt: instant(k.ExpiresAt), LastUsed: instant(k.LastUsed)}
}

type newKey struct {
	ID        string     `json:"id"`
	Name      string     `json:"name"`
	Key       string     `json:"key"`
	Models    []string   `json:"models,omitzero"`
	CreatedAt time.Time  `json:"created_at"`
	ExpiresAt *time.Time `json:"expires_at"`
}

type session struct {
	ID        string    `json:"id"`
	Kind      string    `json:"kind"` // token, browser
	ClientID  string    `json:"client_id"`
	Address   string    `json:"address"`
	UserAgent string    `json:"user_agent"`
	CreatedAt time.Time `json:"created_at"`
	LastUsed  time.Time `json:"last_used"`
	ExpiresAt time.Time `json:"expires_at"`
	Current   bool      `json:"current"`
}

func sessionOf(x auth.Session, current string) session {
	kind := "token"
	if x.Kind == auth.BrowserSession {
		kind = "browser"
	}
	return session{ID: x.ID, Kind: kind, ClientID: x.ClientID, Address: x.Address, UserAgent: x.UserAgent, CreatedAt: x.CreatedAt.UTC(),
		LastUsed: x.LastUsed.UTC(), ExpiresAt: x.ExpiresAt.UTC(), Current: x.ID == current}
}

// browserSession is what a page needs to know of its sign-in.
type browserSession struct {
	User        me        `json:"user"`
	ID          string    `json:"id"`
	AuthTime    time.Time `json:"auth_time"`    // last proof of the password
	ExpiresAt   time.Time `json:"expires_at"`   // whatever is done
	IdleSeconds int64     `json:"idle_seconds"` // without a request, after which it ends
}

func browserSessionOf(account me, x auth.Session, idle time.Duration) browserSession {
	return browserSession{User: account, ID: x.ID, AuthTime: x.AuthTime.UTC(), ExpiresAt: x.ExpiresAt.UTC(), IdleSeconds: int64(idle / time.Second)}
}

type user struct {
	ID        string    `json:"id"`
	Username  string    `json:"username"`
	Kind      string    `json:"kind,omitzero"` // "service", or absent
	Roles     []string  `json:"roles"`
	Disabled  bool      `json:"disabled"`
	TOTP      bool      `json:"totp"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

func userOf(u auth.User) user {
	return user{ID: u.ID, Username: u.Username, Kind: string(u.Kind), Roles: u.Roles, Disabled: u.Disabled, TOTP: u.TOTP,
		CreatedAt: u.CreatedAt.UTC(), UpdatedAt: u.UpdatedAt.UTC()}
}

type invitedUser struct {
	user
	InviteToken string `json:"invite_token"`
}

// newService is a service account with its first secret.
type newService struct {
	user
	ClientID     string     `json:"client_id"`
	ClientSecret string     `json:"client_secret"`
	SecretID     string     `json:"secret_id"`
	ExpiresAt    *time.Time `json:"expires_at"` // of the secret; null: never
}

type newSecret struct {
	ID           string     `json:"id"`
	ClientID     string     `json:"client_id"`
	ClientSecret string     `json:"client_secret"`
	CreatedAt    time.Time  `json:"created_at"`
	ExpiresAt    *time.Time `json:"expires_at"`
}

// secret is a service account's, without what proves it.
type secret struct {
	ID        string     `json:"id"`
	CreatedAt time.Time  `json:"created_at"`
	ExpiresAt *time.Time `json:"expires_at"` // null: never
	LastUsed  *time.Time `json:"last_used"`  // null: not yet
}

func secretOf(c auth.ClientSecret) secret {
	return secret{ID: c.ID, CreatedAt: c.CreatedAt.UTC(), ExpiresAt: instant(c.ExpiresAt), LastUsed: instant(c.LastUsed)}
}

type ticket struct {
	ResetToken string    `json:"reset_token"`
	ExpiresAt  time.Time `json:"expires_at"`
}

type role struct {
	Name        string    `json:"name"`
	Permissions []string  `json:"permissions"`
	RateLimit   string    `json:"rate_limit,omitzero"`
	DailyRows   int64     `json:"daily_rows,omitzero"`
	Builtin     bool      `json:"builtin"`
	CreatedAt   time.Time `json:"created_at"`
}

func roleOf(r auth.Role) role {
	return role{Name: r.Name, Permissions: r.Permissions.Names(), RateLimit: r.Rate, DailyRows: r.DailyRows, Builtin: r.Builtin, CreatedAt: r.CreatedAt.UTC()}
}

// signingKey is a key that signs access tokens; never its private part.
type signingKey struct {
	ID        string     `json:"id"`
	State     string     `json:"state"`
	CreatedAt time.Time  `json:"created_at"`
	ActiveAt  time.Time  `json:"active_at"`
	RetireAt  *time.Time `json:"retire_at,omitzero"`
}

func signingKeyOf(k auth.SigningKeyInfo) signingKey {
	out := signingKey{ID: k.ID, State: string(k.State), CreatedAt: k.CreatedAt.UTC(), ActiveAt: k.ActiveAt.UTC()}
	if !k.RetireAt.IsZero() {
		at := k.RetireAt.UTC()
		out.RetireAt = &at
	}
	return out
}

// auditEntry is a record as it stands in the log, with what is needed to check
// the chain.
type auditEntry struct {
	Seq       uint64            `json:"seq"`
	Time      time.Time         `json:"time"`
	Actor     string            `json:"actor"`
	ActorID   string            `json:"actor_id,omitzero"`
	Action    string            `json:"action"`
	Target    string            `json:"target,omitzero"`
	Outcome   audit.Outcome     `json:"outcome"`
	Reason    string            `json:"reason,omitzero"`
	Address   string            `json:"address,omitzero"`
	RequestID string            `json:"request_id,omitzero"`
	Count     int64             `json:"count"`
	Detail    map[string]string `json:"detail,omitzero"`
	Prev      string            `json:"prev"`
	Hash      string            `json:"hash"`
}

func auditEntryOf(e audit.Entry) auditEntry {
	return auditEntry{Seq: e.Seq, Time: e.Time.UTC(), Actor: e.Actor, ActorID: e.ActorID, Action: e.Action, Target: e.Target,
		Outcome: e.Outcome, Reason: e.Reason, Address: e.Address, RequestID: e.Request, Count: e.Count, Detail: e.Detail,
		Prev: e.Prev, Hash: e.Hash}
}
