package auth

import (
	"context"
	"time"
)

// UserKind tells people from programs.
type UserKind string

const (
	Person         UserKind = ""        // signs in with a password
	ServiceAccount UserKind = "service" // an OAuth client that proves itself by a secret
)

// User is a person or service account.
type User struct {
	ID           string
	Kind         UserKind // never changes
	Username     string   // lower case, unique
	PasswordHash string   // PHC string; empty until an invitation is taken
	// PasswordExpires is when a password that the program made stops to sign in;
	// zero: its user chose it, and it does not expire.
	PasswordExpires time.Time
	Roles           []string
	Disabled        bool
	TOTP            bool // a second factor is asked for at sign-in; UpdateTOTP and Redeem alone change it
	CreatedAt       time.Time
	UpdatedAt       time.Time
}

// Role is a named set of permissions, and the label that opens models.
type Role struct {
	Name        string
	Permissions Permission
	Rate        string // "600-M" or empty
	DailyRows   int64  // rows a day over all models; 0: no budget
	Builtin     bool
	CreatedAt   time.Time
}

// SessionKind tells by what a session is continued.
type SessionKind string

const (
	TokenSession   SessionKind = ""        // refresh tokens, each used once
	BrowserSession SessionKind = "browser" // a cookie, used until the session ends
)

// Session is one login: the family of refresh tokens that descend from it, or
// the cookie of a browser. That of a service account is one access token, and
// has no refresh tokens.
type Session struct {
	ID        string
	Kind      SessionKind
	UserID    string
	ClientID  string // "modelgate" for first-party logins; the user's id for a service account
	SecretID  string // with which a service account proved itself; else empty
	Address   string
	UserAgent string
	CreatedAt time.Time
	AuthTime  time.Time // when the password was last proved; zero for service accounts
	LastUsed  time.Time // at most a minute behind
	ExpiresAt time.Time // absolute end, whatever is refreshed
	// SecondFactor says that the sign-in took a code of the user's second factor.
	SecondFactor bool
	Provider     string // at which the user proved himself; empty: here
	// ProviderFactor says that he proved a second factor there.
	ProviderFactor bool
}

// Displaced are the sessions that end in the step in which another begins.
type Displaced struct {
	ID string // this one, whoever's; empty: none
	// Most is how many live sessions the user may have, the new one included. Of
	// the others those that were used longest ago end, of whatever kind, but at
	// most 500 of them. 0: as many as he likes.
	Most int
	// Used tells when a session was used last, as far as somebody knows it who may
	// know better than the store. It is asked within the step, and must not call
	// the store. nil: nobody does.
	Used func(sessionID string) time.Time
}

// RefreshToken is one link of a family, or the value of a browser's cookie;
// only its SHA-256 is stored.
type RefreshToken struct {
	Hash      [32]byte
	ExpiresAt time.Time // idle end
}

// Key is an API key of a user; only its SHA-256 is stored.
type Key struct {
	ID        string
	UserID    string
	Name      string
	Hash      [32]byte
	Models    []string // nil: every model of the user
	CreatedAt time.Time
	ExpiresAt time.Time // zero: never
	LastUsed  time.Time // zero: not yet; at most a minute behind
}

// ClientSecret proves a service account; only its SHA-256 is stored.
type ClientSecret struct {
	ID        string
	UserID    string
	Hash      [32]byte
	CreatedBy string // id of who made it, perhaps deleted since; empty: not known
	CreatedAt time.Time
	ExpiresAt time.Time // zero: never
	LastUsed  time.Time // zero: not yet; at most a minute behind
}

// TicketKind tells one-time tokens apart.
type TicketKind string

const (
	Invitation    TicketKind = "invitation"
	PasswordReset TicketKind = "password_reset"
)

// Ticket is a one-time token; only its SHA-256 is stored.
type Ticket struct {
	Hash      [32]byte
	Kind      TicketKind
	UserID    string
	ExpiresAt time.Time
	DropsTOTP bool // of a PasswordReset: the user's second factor goes with his password
}

// SignIn is a sign-in that has gone to a provider and not come back yet. Only
// the SHA-256 of the browser's secret is stored, from which all else follows.
type SignIn struct {
	Hash      [32]byte
	Provider  string // its name
	Fresh     bool   // the user must have proved himself to the provider anew
	SessionID string // of the browser that began it, which it had then; empty: none
	ExpiresAt time.Time
}

// SigningKey is a key pair that signs access tokens (Ed25519).
type SigningKey struct {
	ID        string // thumbprint of the public part (RFC 7638)
	Sealed    []byte // the private part, by the Vault
	CreatedAt time.Time
	ActiveAt  time.Time // signs from then on, until a later key does
	RetireAt  time.Time // verifies until then; zero: no later key is known
}

// ChangeKind says of what a Change is.
type ChangeKind string

const (
	UserChanged  ChangeKind = "user"  // Subject is the user's id; or his roles, sessions, keys
	RoleChanged  ChangeKind = "role"  // Subject is the role's name
	ModelChanged ChangeKind = "model" // Subject is the model's name
	KeysChanged  ChangeKind = "keys"  // the signing keys
)

// Change says that what somebody may do is not what it was.
type Change struct {
	Kind    ChangeKind
	Subject string
}

// Changes are those since some moment.
type Changes struct {
	List []Change // each once, the oldest first
	Mark int64    // of now, to ask from next time
	// All means that the list does not tell everything: whatever is remembered may
	// have changed.
	All bool
}

// Store keeps what the room must remember. All methods are safe for concurrent
// use, honour ctx, and are atomic: they happen whole or not at all, also when
// the process dies. Times are kept to the microsecond, in UTC. A missing row is
// ErrNotFound; a database that can't answer is ErrUnavailable with its cause.
// Functions given to Update methods may be called more than once and must have
// no effect of their own; an error they return is returned unchanged and
// nothing is written.
type Store interface {
	// CreateUser fails with ErrTaken for a used name or id and with ErrInvalid,
	// naming the role, for a role that does not exist. A non-nil ticket is
	// stored in the same step.
	CreateUser(ctx context.Context, u User, t *Ticket) error
	User(ctx context.Context, id string) (User, error)
	UserByName(ctx context.Context, username string) (User, error)
	// Users lists by username, from the first one greater than after, at most
	// limit. One query.
	Users(ctx context.Context, after string, limit int) ([]User, error)
	// LockAdmin waits until nobody else has the lock, at any server of the
	// database, and takes it until unlock is called or the process dies. It keeps
	// nobody from the other methods. Every unlock must be called once.
	LockAdmin(ctx context.Context) (unlock func(), err error)
	// UpdateUser replaces what f returns (id, kind, username and TOTP can't
	// change). A user whom it leaves disabled loses all his sessions in the same
	// step, and one to whom it gives another password hash, or a permission that his
	// roles did not give, all his tickets.
	// otherAdmins counts the other enabled people with role admin and a
	// password, in the same transaction: two administrators that remove each
	// other can't both succeed.
	UpdateUser(ctx context.Context, id string, f func(old User, otherAdmins int) (User, error)) (User, error)
	// RenewHash replaces the hash of a password by another one of the same
	// password, so that tickets stay. ErrNotFound when the user, or the hash old,
	// has gone.
	RenewHash(ctx context.Context, id, old, next string) (User, error)
	// DeleteUser removes the user with sessions, keys, secrets and tickets when f agrees.
	// Models he owns stay, without owner.
	DeleteUser(ctx context.Context, id string, f func(old User, otherAdmins int) error) error

	// UserByIdentity finds the user of an issuer and subject.
	UserByIdentity(ctx context.Context, issuer, subject string) (User, Identity, error)
	// CreateExternalUser stores a user and his identity in one step. ErrTaken
	// for a used name or id, ErrLinked for a used identity, ErrInvalid as
	// CreateUser.
	CreateExternalUser(ctx context.Context, u User, id Identity) error
	// LinkIdentity gives an identity to a user. ErrLinked for a used one,
	// ErrNotFound for a missing user.
	LinkIdentity(ctx context.Context, id Identity) error
	// IdentitiesOf lists a user's identities, oldest first.
	IdentitiesOf(ctx context.Context, userID string) ([]Identity, error)
	UnlinkIdentity(ctx context.Context, userID, id string) error
	// AssertIdentity notes that a token of that age was heard, and replaces the
	// user by what f returns, as UpdateUser does, unless his roles are as they were.
	// again says that one of the same age was heard before. When a newer one was,
	// nothing happens. It returns the user as stored.
	AssertIdentity(ctx context.Context, issuer, subject string, issued time.Time,
		f func(old User, otherAdmins int, again bool) (User, error)) (User, error)
	// CreateSignIn notes a sign-in that has gone to a provider, and forgets those
	// that have expired. ErrSignIns while there are most of them.
	CreateSignIn(ctx context.Context, in SignIn, now time.Time, most int) error
	// TakeSignIn removes it; ErrNotFound when it is unknown, taken or expired.
	// Of concurrent calls one succeeds.
	TakeSignIn(ctx context.Context, hash [32]byte, now time.Time) (SignIn, error)
	// UpdateTOTP replaces a user's second factor by what f returns; old is the
	// zero TOTP where there is none, and one without a UserID removes it. Of
	// concurrent calls each sees what those before it have left. ErrNotFound
	// without the user.
	UpdateTOTP(ctx context.Context, userID string, f func(old TOTP) (TOTP, error)) error
	// TOTPs lists second factors, the begun ones too, by their users' ids, after
	// one: at most limit.
	TOTPs(ctx context.Context, after string, limit int) ([]TOTP, error)

	// Roles lists all by name.
	Roles(ctx context.Context) ([]Role, error)
	// PutRole creates or replaces permissions, rate and daily rows. When the role
	// gains a permission, all who have it lose their tickets in the same step.
	PutRole(ctx context.Context, r Role) error
	// DeleteRole removes a role when f agrees. It fails with ErrInUse, without
	// asking f, while a user or model has the role.
	DeleteRole(ctx context.Context, name string, f func() error) error

	// CreateSession begins a session and ends those that d says. It returns the
	// ids of those that d.Most has ended. However many sessions of a user begin at
	// once, no more than d.Most are left, unless there were 500 too many before.
	// What is alive is judged at s.CreatedAt. ErrNotFound when the user, or the
	// session d.ID, has gone; nothing begins or ends then.
	CreateSession(ctx context.Context, s Session, first RefreshToken, d Displaced) (ended []string, err error)
	Session(ctx context.Context, id string) (Session, error)
	// SessionsOf lists the live sessions of a user, of every kind, newest first:
	// those that are past neither end at now, and access tokens of a service
	// account that have not expired.
	SessionsOf(ctx context.Context, userID string, now time.Time) ([]Session, error)
	// Rotate uses up the refresh token with hash old and puts next in its place.
	// Of any number of concurrent calls with one token a single one succeeds.
	// A token used before ends its session and fails with ErrReused (the
	// Session is returned with it, for the log), so that the losers of a race
	// end what the winner got: the first of them sees ErrReused, and those
	// after it ErrNotFound, since the tokens went with the session. An unknown
	// token is ErrNotFound; one past its idle or its session's absolute end is
	// ErrToken. next.ExpiresAt is cut to the session's end. The value of a
	// cookie is no refresh token: ErrNotFound.
	Rotate(ctx context.Context, old [32]byte, next RefreshToken, now time.Time) (Session, error)
	// SessionOfRefresh finds the session of a live, unused refresh token.
	SessionOfRefresh(ctx context.Context, hash [32]byte, now time.Time) (Session, error)
	// BrowserSession finds the live session of a cookie and its idle end. The
	// hash of a refresh token finds nothing.
	BrowserSession(ctx context.Context, hash [32]byte, now time.Time) (s Session, idleEnd time.Time, err error)
	// TouchBrowser notes that a cookie was used, and moves the idle end of its
	// session, which is cut to the absolute one. Neither ever goes back.
	TouchBrowser(ctx context.Context, hash [32]byte, used, idleEnd time.Time) error
	// RenewBrowser puts next in the place of the cookie with hash old, and sets
	// AuthTime and LastUsed of its session to now. Of concurrent calls with one
	// cookie a single one succeeds; to the others, as for one that is unknown
	// or past its end, it is ErrNotFound.
	RenewBrowser(ctx context.Context, old [32]byte, next RefreshToken, now time.Time) (Session, error)
	// TouchSession notes that a session was used, which moves none of its ends.
	// The time never goes back.
	TouchSession(ctx context.Context, id string, used time.Time) error
	// EndSession removes the session and its tokens; no error when it is gone.
	EndSession(ctx context.Context, id string) error
	// EndSessions removes all sessions of the user but the one named (empty:
	// all) and returns their ids.
	EndSessions(ctx context.Context, userID, except string) ([]string, error)
	// EndAllSessions removes the sessions of everybody, in steps that are each
	// atomic. Those that begin meanwhile may stay.
	EndAllSessions(ctx context.Context) error

	CreateKey(ctx context.Context, k Key) error
	KeyByHash(ctx context.Context, hash [32]byte) (Key, error)
	// KeysOf lists a user's keys, newest first.
	KeysOf(ctx context.Context, userID string) ([]Key, error)
	DeleteKey(ctx context.Context, userID, id string) error
	TouchKey(ctx context.Context, id string, used time.Time) error

	// CreateService is CreateUser for a service account with its first secret,
	// in one step.
	CreateService(ctx context.Context, u User, first ClientSecret) error
	// CreateSecret fails with ErrNotFound when there is no such user, and with
	// ErrTaken for a used id or hash.
	CreateSecret(ctx context.Context, c ClientSecret) error
	// SecretsOf lists a user's secrets, newest first, the expired ones too until
	// Sweep removes them.
	SecretsOf(ctx context.Context, userID string) ([]ClientSecret, error)
	// DeleteSecret removes one of the user's secrets and the sessions that were
	// begun with it.
	DeleteSecret(ctx context.Context, userID, id string) error
	TouchSecret(ctx context.Context, id string, used time.Time) error
	// CreateClientSession is CreateSession for a service account, whose session
	// has no refresh token. It fails with ErrNotFound also when the secret has gone.
	CreateClientSession(ctx context.Context, s Session, d Displaced) (ended []string, err error)

	// PutTicket stores t and removes the user's older tickets, of either kind: of
	// several the last one counts.
	PutTicket(ctx context.Context, t Ticket) error
	// Redeem uses up a ticket and replaces its user by what f returns, in one
	// step, in which one that DropsTOTP removes his second factor. An unknown,
	// used or expired ticket is ErrToken. Of concurrent calls one succeeds.
	// When f fails the ticket stays. Another password hash voids his other tickets,
	// as in UpdateUser.
	Redeem(ctx context.Context, hash [32]byte, kind TicketKind, now time.Time, f func(User) (User, error)) (User, error)

	// SigningKeys lists all, the first to be active first.
	SigningKeys(ctx context.Context) ([]SigningKey, error)
	// UpdateSigningKeys replaces all signing keys by those that f returns, in one
	// step: of servers that rotate at once the second sees what the first made. It
	// returns them as SigningKeys does.
	UpdateSigningKeys(ctx context.Context, f func(old []SigningKey) ([]SigningKey, error)) ([]SigningKey, error)
	// Changes tells what was changed since mark, by any process: each change that
	// ends or alters what somebody may do is in the list from the moment it can be
	// seen. With a mark below zero, one that is too old (some thousand changes), or
	// one of another database, All is set. It costs one look at an index.
	Changes(ctx context.Context, mark int64) (Changes, error)

	// TakeRows counts up to most rows against a budget of limit rows, but no fewer
	// than least: when less is left it counts none. It returns how many it
	// counted, and how many are left then. Concurrent calls never count more than
	// limit together.
	TakeRows(ctx context.Context, b RowBudget, limit, least, most int64) (taken, left int64, err error)
	// ReturnRows takes from what is counted what was not used, never below
	// nothing; budgets that nothing is counted of stay so.
	ReturnRows(ctx context.Context, unused map[RowBudget]int64) error
	// RowsUsed returns what is counted of a user's budgets of a day, by model.
	RowsUsed(ctx context.Context, userID string, day time.Time) (map[string]int64, error)

	// Sweep removes expired sessions, tokens, keys, secrets, tickets and sign-ins, old changes, and what
	// was counted on days that are over for a week. It may do so in
	// several steps, each of them atomic, so that others get their turn.
	Sweep(ctx context.Context, now time.Time) error
	// Ping answers when the database does.
	Ping(ctx context.Context) error
}
