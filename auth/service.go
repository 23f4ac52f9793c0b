package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"modelgate/audit"
)

// Registration says who may make an account.
type Registration string

const (
	Open       Registration = "open"   // anyone
	InviteOnly Registration = "invite" // whom an administrator made a user and gave the invitation
	Closed     Registration = "closed" // nobody: the users there are is all
)

// Config is what New needs. Durations that are zero take the defaults named.
type Config struct {
	Store        Store
	Guard        *Guard
	Audit        *audit.Log
	Keys         *Keyring
	Vault        *Vault        // seals what the database keeps and readers of it must not see
	Issuer       string        // iss of access tokens: this server's URL
	Audience     string        // aud of access tokens; empty: "modelgate"
	AccessTTL    time.Duration // of access tokens; 15 minutes
	RefreshTTL   time.Duration // of a refresh token that is not used; 7 days
	SessionTTL   time.Duration // from login, whatever is refreshed; 30 days
	BrowserTTL   time.Duration // of a browser's session, from sign-in; 12 hours
	BrowserIdle  time.Duration // of a browser's session that is not used; 30 minutes
	MaxSessions  int           // live ones of an account, of all kinds together; 250
	InviteTTL    time.Duration // 72 hours
	ResetTTL     time.Duration // 1 hour
	Registration Registration  // empty: open
	RequireTOTP  []string      // roles whose holders with a password need a second factor
	Hashing      Hashing
	// PasswordGrant lets OAuth2 clients sign in by grant_type=password; the
	// token endpoint asks PasswordGrant().
	PasswordGrant bool
	Providers     []Provider       // whose word about people counts; none: nobody's
	Now           func() time.Time // nil: time.Now
	Logger        *slog.Logger     // nil: slog.Default
}

// Service is the room's door: it proves identities and manages users, sessions,
// keys and roles. All methods are safe for concurrent use. A method that takes
// a Principal decides by itself whether he may, and records it.
type Service struct {
	cfg      Config
	hasher   *hasher
	pacer    pacer
	verifier *verifier
	cache    *cache
	follower follower
	uses     *keyUses
	metrics  *metrics
	// providers don't change.
	providers  *providers
	maxToken   int           // bytes of a credential
	maxSignIns int           // through providers, under way at once
	watchFirst time.Duration // after which a provider that does not answer is asked again
	budgets    *budgets

	secretUses  *keyUses
	sessionUses *keyUses
	expiries    seldom // told sign-ins by an expired password
	unopened    seldom // told secrets of second factors that no master key opens
	// admin is held (one element sent) while users' roles or the roles change,
	// so that nobody is judged by a role that becomes another meanwhile.
	admin chan struct{}
}

// New makes a Service. Call EnsureAdmin before serving.
func New(cfg Config) (*Service, error) {
	if cfg.Store == nil || cfg.Guard == nil || cfg.Audit == nil || cfg.Keys == nil || cfg.Vault == nil || cfg.Issuer == "" {
		return nil, errors.New("auth: Store, Guard, Audit, Keys, Vault and Issuer are needed")
	}
	if cfg.Audience == "" {
		cfg.Audience = firstParty
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	switch cfg.Registration {
	case "":
		cfg.Registration = Open
	case Open, InviteOnly, Closed:
	default:
		return nil, fmt.Errorf("registration is %q; it can be %s, %s or %s", cfg.Registration, Open, InviteOnly, Closed)
	}
	for _, d := range []struct {
		ttl *time.Duration
		def time.Duration
	}{
		{&cfg.AccessTTL, defaultAccessTTL}, {&cfg.RefreshTTL, 7 * 24 * time.Hour}, {&cfg.SessionTTL, 30 * 24 * time.Hour},
		{&cfg.BrowserTTL, 12 * time.Hour}, {&cfg.BrowserIdle, 30 * time.Minute},
		{&cfg.InviteTTL, 72 * time.Hour}, {&cfg.ResetTTL, time.Hour},
	} {
		if *d.ttl == 0 {
			*d.ttl = d.def
		}
		if *d.ttl < time.Second {
			return nil, fmt.Errorf("a lifetime of %s is too short", *d.ttl)
		}
	}
	if cfg.MaxSessions == 0 {
		cfg.MaxSessions = defaultMaxSessions
	}
	if cfg.MaxSessions < 1 {
		return nil, fmt.Errorf("an account can't be bound to %d sessions; it needs one", cfg.MaxSessions)
	}
	var err error
	if cfg.Providers, err = checkProviders(cfg.Providers, cfg.Issuer); err != nil {
		return nil, err
	}
	m := newMetrics()
	s := &Service{
		cfg: cfg, metrics: m, budgets: newBudgets(cfg.Store, cfg.Now, m), hasher: newHasher(cfg.Hashing, m), cache: newCache(), uses: newKeyUses(), secretUses: newKeyUses(), sessionUses: newKeyUses(),
		verifier: newVerifier(cfg.Keys, cfg.Issuer, cfg.Audience, cfg.Now), admin: make(chan struct{}, 1),
		providers: newProviders(cfg.Providers, cfg.Now), maxToken: maxToken, maxSignIns: maxSignIns, watchFirst: watchFirst,
	}
	if len(s.providers.byIssuer) > 0 {
		s.maxToken = maxForeignToken
	}
	s.follower.mark = -1
	return s, nil
}

const (
	defaultAccessTTL   = 15 * time.Minute
	defaultMaxSessions = 250
)

// PasswordGrant says whether OAuth2 clients may sign in by password.
func (s *Service) PasswordGrant() bool { return s.cfg.PasswordGrant }

// now is the time as the store keeps it.
func (s *Service) now() time.Time { return s.cfg.Now().UTC().Truncate(time.Microsecond) }

// lockAdmin takes s.admin, and keeps other servers from the same meanwhile: what
// is judged here must not be altered there before it is stored.
func (s *Service) lockAdmin(ctx context.Context) (unlock func(), err error) {
	select {
	case s.admin <- struct{}{}:
	case <-ctx.Done():
		return nil, ErrUnavailable.Because(ctx.Err())
	}
	others, err := s.cfg.Store.LockAdmin(ctx)
	if err != nil {
		<-s.admin
		return nil, err
	}
	return func() { others(); <-s.admin }, nil
}

const (
	flushEvery = time.Minute
	sweepEvery = time.Hour
	lastFlush  = 5 * time.Second
)

// Run does the background work until ctx ends: identity providers are asked until
// each has answered once; the Store is asked every second what other processes
// changed; every minute the last use of API keys, client secrets and
// sessions is stored, the signing keys are looked after, and what was taken from
// budgets and not used returned; what has expired is removed every hour. End ctx when no
// prediction runs any more.
func (s *Service) Run(ctx context.Context) error {
	var watch sync.WaitGroup
	watch.Go(func() { s.watchProviders(ctx) })
	defer watch.Wait()
	poll, flush, sweep := time.NewTicker(pollEvery), time.NewTicker(flushEvery), time.NewTicker(sweepEvery)
	defer poll.Stop()
	defer flush.Stop()
	defer sweep.Stop()
	for {
		select {
		case <-poll.C:
			_ = s.poll(ctx) // it tells by itself; who depends on it asks again
		case <-flush.C:
			s.flushUses(ctx)
			s.flushBudgets(ctx, false)
			if err := s.keepKeys(ctx); err != nil && ctx.Err() == nil {
				s.cfg.Logger.Error("the signing keys could not be rotated; it is tried again in a minute", "cause", err)
			}
		case <-sweep.C:
			s.sweep(ctx)
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastFlush)
			defer cancel()
			s.flushUses(last)
			s.flushBudgets(last, true)
			return nil
		}
	}
}

func (s *Service) flushBudgets(ctx context.Context, all bool) {
	if err := s.budgets.flush(ctx, all); err != nil {
		s.cfg.Logger.Error("rows of daily budgets could not be returned to the database; they are lost for today", "cause", err)
	}
}

func (s *Service) sweep(ctx context.Context) {
	now := s.now()
	s.cache.sweep(now)
	if err := s.cfg.Store.Sweep(ctx, now); err != nil && ctx.Err() == nil {
		s.cfg.Logger.Error("expired sessions, keys and tickets could not be removed; it is tried again in an hour", "cause", err)
	}
}

// errPeek ends an Update that only wants to look.
var errPeek = errors.New("nothing to change")

// EnsureAdmin makes the built-in roles what they are and, when nobody is an
// administrator, the user admin with that role. An empty password means a
// random one, which is returned and signs in for InitialPasswordTTL; a given one
// must be good enough, does not expire, and is never returned. created is false
// when there is an administrator already; while he has the random one, each call
// is a line of the log.
func (s *Service) EnsureAdmin(ctx context.Context, password string) (generated string, created bool, err error) {
	if err := s.ensureRoles(ctx); err != nil {
		return "", false, err
	}
	exists, err := s.adminExists(ctx)
	if err == nil && exists {
		err = s.tellInitial(ctx)
	}
	if err != nil || exists {
		return "", false, err
	}
	now := s.now()
	var expires time.Time
	if password == "" {
		generated = newID("") // 130 bits
		password, expires = generated, now.Add(InitialPasswordTTL)
	} else if err := checkPassword(adminRole, password); err != nil {
		return "", false, err
	}
	hash, err := s.hasher.hash(ctx, password)
	if err != nil {
		return "", false, err
	}
	u := User{ID: newID("u_"), Username: adminRole, PasswordHash: hash, PasswordExpires: expires, Roles: []string{adminRole}, CreatedAt: now, UpdatedAt: now}
	err = s.cfg.Audit.Append(ctx, audit.Entry{Actor: "start", Action: "user.create", Target: u.Username, Outcome: audit.Allowed, Reason: "first_administrator"})
	if err != nil {
		return "", false, ErrUnavailable.Because(err)
	}
	if err := s.cfg.Store.CreateUser(ctx, u, nil); err != nil {
		if errors.Is(err, ErrTaken) {
			err = errors.New("nobody is an administrator, and the name admin is taken by a user who is none; stop the server and give him the role in the database")
		}
		return "", false, err
	}
	return generated, true, nil
}

// adminExists finds out without reading every user: any one user knows how many
// others are administrators.
func (s *Service) adminExists(ctx context.Context) (bool, error) {
	first, err := s.cfg.Store.Users(ctx, "", 1)
	if err != nil || len(first) == 0 {
		return false, err
	}
	admins := 0
	_, err = s.cfg.Store.UpdateUser(ctx, first[0].ID, func(old User, others int) (User, error) {
		if admins = others; isAdmin(old) {
			admins++
		}
		return User{}, errPeek
	})
	if !errors.Is(err, errPeek) {
		return false, err
	}
	return admins > 0, nil
}

// signIn is an attempt to prove an identity, for the log.
type signIn struct {
	origin   Origin
	action   string
	username string // as claimed
	user     User   // zero when unknown
	detail   map[string]string
	by       string // kind of the code that proved a second factor
}

func (a signIn) entry(outcome audit.Outcome, reason string) audit.Entry {
	actor := a.username
	if !validName(actor, 2) {
		actor = "" // no user's name; often it is a password, typed in the wrong field
	}
	return audit.Entry{
		Actor: actor, ActorID: a.user.ID, Action: a.action, Outcome: outcome, Reason: reason,
		Address: a.origin.Address, Request: a.origin.RequestID, Detail: a.detail,
	}
}

// failed records a failed attempt and returns answer, which is all the caller
// learns.
func (s *Service) failed(ctx context.Context, a signIn, reason string, answer error) error {
	s.metrics.failures.WithLabelValues(a.action, reason).Inc()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), denialTimeout)
	defer cancel()
	e := a.entry(audit.Failed, reason)
	if reason == expiredPassword {
		e.Detail = map[string]string{"way_out": wayOut}
	}
	if err := s.cfg.Audit.Append(ctx, e); err != nil {
		return ErrUnavailable.Because(err)
	}
	return answer
}

// succeeded records a proved identity; without the record it does not count.
func (s *Service) succeeded(ctx context.Context, a signIn) error {
	if err := s.cfg.Audit.Append(ctx, a.entry(audit.Allowed, a.by)); err != nil {
		return ErrUnavailable.Because(err)
	}
	return nil
}

// ResetOffline sets the password of a user in a store that no server has open,
// and ends his sessions. It is for an administrator who locked himself out; the
// data folder is his proof. A disabled user stays disabled.
func ResetOffline(ctx context.Context, store Store, hashing Hashing, username, password string) error {
	name := lower(username)
	user, err := store.UserByName(ctx, name)
	if errors.Is(err, ErrNotFound) {
		return ErrNotFound.With(fmt.Sprintf("there is no user %q", name))
	}
	if err != nil {
		return err
	}
	if user.Kind == ServiceAccount {
		return ErrInvalid.With(fmt.Sprintf("%s is a service account, which has no password", name))
	}
	if err := checkPassword(name, password); err != nil {
		return err
	}
	hash, err := newHasher(hashing, newMetrics()).hash(ctx, password)
	if err != nil {
		return err
	}
	_, err = store.UpdateUser(ctx, user.ID, func(old User, _ int) (User, error) {
		old.PasswordHash, old.PasswordExpires = hash, time.Time{}
		old.UpdatedAt = time.Now().UTC()
		return old, nil
	})
	if err != nil {
		return err
	}
	_, err = store.EndSessions(ctx, user.ID, "")
	return err
}
