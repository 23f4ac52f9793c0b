package auth

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"modelgate/audit"
)

// Registration says who may make an account for himself.
type Registration string

const (
	Open       Registration = "open"   // anyone
	InviteOnly Registration = "invite" // with an invitation of an administrator
	Closed     Registration = "closed" // nobody; accounts are still made by invitation tokens of administrators
)

// Hashing sets the cost of password hashing. Zero fields take the defaults.
type Hashing struct {
	Memory   uint32 // KiB; 0: 46 MiB
	Time     uint32 // passes; 0: 1
	Parallel uint8  // lanes; 0: 1
	Gate     int    // hashes computed at once; 0: half the cores, at least 1
	Queue    int    // callers that may wait for the gate; 0: 128
}

type Config struct {
	Store            Store
	Guard            *Guard
	Audit            *audit.Log
	Keys             *Keyring
	Issuer, Audience string
	AccessTTL        time.Duration // 0: 15 minutes
	RefreshTTL       time.Duration // 0: 7 days
	SessionTTL       time.Duration // 0: 30 days
	InviteTTL        time.Duration // 0: 72 hours
	ResetTTL         time.Duration // 0: 1 hour
	Registration     Registration  // empty: open
	Hashing          Hashing
	PasswordGrant    bool
	Now              func() time.Time
	Logger           *slog.Logger
}

type Service struct{ cfg Config }

type Tokens struct {
	Access     string
	AccessTTL  time.Duration
	Refresh    string
	RefreshTTL time.Duration
	Session    Session
}

type Introspection struct {
	Active                                 bool
	Username, Subject, SessionID, ClientID string
	Roles                                  []string
	Kind                                   string // "access_token", "refresh_token", "api_key"
	IssuedAt, ExpiresAt                    time.Time
}

type KeyRequest struct {
	Name      string
	ExpiresIn time.Duration // 0: never
	Models    []string      // nil: every model of the user
}

type UserPatch struct {
	Roles    *[]string
	Disabled *bool
}

func New(cfg Config) (*Service, error) { return &Service{cfg: cfg}, nil }

func (s *Service) Run(ctx context.Context) error      { <-ctx.Done(); return nil }
func (s *Service) Collectors() []prometheus.Collector { return nil }
func (s *Service) EnsureAdmin(ctx context.Context, password string) (generated string, created bool, err error) {
	return "", false, ErrUnavailable
}
func (s *Service) Authenticate(ctx context.Context, credential string) (Principal, error) {
	return Principal{}, ErrToken
}
func (s *Service) Register(ctx context.Context, o Origin, username, password string) (User, error) {
	return User{}, ErrUnavailable
}
func (s *Service) AcceptInvitation(ctx context.Context, o Origin, token, password string) (User, error) {
	return User{}, ErrUnavailable
}
func (s *Service) ResetPassword(ctx context.Context, o Origin, token, password string) error {
	return ErrUnavailable
}
func (s *Service) Login(ctx context.Context, o Origin, userAgent, username, password string) (Tokens, error) {
	return Tokens{}, ErrUnavailable
}
func (s *Service) Refresh(ctx context.Context, o Origin, refresh string) (Tokens, error) {
	return Tokens{}, ErrUnavailable
}
func (s *Service) Logout(ctx context.Context, who Principal) error { return ErrUnavailable }
func (s *Service) Revoke(ctx context.Context, o Origin, token string) error {
	return ErrUnavailable
}
func (s *Service) Introspect(ctx context.Context, token string) (Introspection, error) {
	return Introspection{}, ErrUnavailable
}
func (s *Service) Me(ctx context.Context, who Principal) (User, error) {
	return User{}, ErrUnavailable
}
func (s *Service) ChangePassword(ctx context.Context, who Principal, current, next string) error {
	return ErrUnavailable
}
func (s *Service) Sessions(ctx context.Context, who Principal) ([]Session, error) {
	return nil, ErrUnavailable
}
func (s *Service) EndSession(ctx context.Context, who Principal, id string) error {
	return ErrUnavailable
}
func (s *Service) Keys(ctx context.Context, who Principal) ([]Key, error) {
	return nil, ErrUnavailable
}
func (s *Service) CreateKey(ctx context.Context, who Principal, r KeyRequest) (Key, string, error) {
	return Key{}, "", ErrUnavailable
}
func (s *Service) DeleteKey(ctx context.Context, who Principal, id string) error {
	return ErrUnavailable
}
func (s *Service) Users(ctx context.Context, who Principal, after string, limit int) (items []User, next string, err error) {
	return nil, "", ErrUnavailable
}
func (s *Service) User(ctx context.Context, who Principal, id string) (User, error) {
	return User{}, ErrUnavailable
}
func (s *Service) CreateUser(ctx context.Context, who Principal, username string, roles []string) (User, string, error) {
	return User{}, "", ErrUnavailable
}
func (s *Service) UpdateUser(ctx context.Context, who Principal, id string, p UserPatch) (User, error) {
	return User{}, ErrUnavailable
}
func (s *Service) DeleteUser(ctx context.Context, who Principal, id string) error {
	return ErrUnavailable
}
func (s *Service) ResetUser(ctx context.Context, who Principal, id string) (token string, expires time.Time, err error) {
	return "", time.Time{}, ErrUnavailable
}
func (s *Service) Roles(ctx context.Context, who Principal) ([]Role, error) {
	return nil, ErrUnavailable
}
func (s *Service) PutRole(ctx context.Context, who Principal, name string, permissions []string, rate string) (Role, error) {
	return Role{}, ErrUnavailable
}
func (s *Service) DeleteRole(ctx context.Context, who Principal, name string) error {
	return ErrUnavailable
}
func (s *Service) RolesExist(ctx context.Context, names []string) error { return ErrUnavailable }
func (s *Service) JWKS() []byte                                         { return nil }

// ResetOffline sets a user's password on a store no server has open.
func ResetOffline(ctx context.Context, store Store, hashing Hashing, username, password string) error {
	return ErrUnavailable
}
