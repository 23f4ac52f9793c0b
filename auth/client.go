package auth

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// maxSecrets of a service account: the one in use, and its successor while
// programs change over.
const maxSecrets = 2

// errService keeps a program from what only a person can prove.
var errService = ErrForbidden.With("this takes a person who has just signed in; a service account has no password and no API keys, and an administrator changes its secrets")

var errNoService = ErrNotFound.With("there is no such service account")

// Client is an OAuth client that has proved a secret: a service account with
// the rights it has now.
type Client struct {
	Principal
	secret ClientSecret
}

// CreateService makes a service account with its first secret, which is shown
// this once. Its id is its OAuth client id. expiresIn 0: the secret never
// expires. Needs users:manage, every permission that the roles give, and a
// sign-in of the last 10 minutes.
func (s *Service) CreateService(ctx context.Context, who Principal, name string, roles []string, expiresIn time.Duration) (u User, first ClientSecret, secret string, err error) {
	a := Action{Name: "user.create", Target: name, Detail: map[string]string{"kind": string(ServiceAccount), "roles": strings.Join(roles, " ")}}
	fail := func(err error) (User, ClientSecret, string, error) { return User{}, ClientSecret{}, "", err }
	if err := s.mayMint(ctx, who, expiresIn, a); err != nil {
		return fail(err)
	}
	if name, err = username(name); err != nil {
		return fail(err)
	}
	a.Target = name
	unlock, err := s.lockAdmin(ctx)
	if err != nil {
		return fail(err)
	}
	defer unlock()
	if roles, err = s.grantable(ctx, who, roles, nil, a); err != nil {
		return fail(err)
	}
	if err := s.nameFree(ctx, who, name, a); err != nil {
		return fail(err)
	}
	now := s.now()
	u = User{ID: newID("u_"), Kind: ServiceAccount, Username: name, Roles: roles, CreatedAt: now, UpdatedAt: now}
	first, secret = s.mint(who, u.ID, expiresIn)
	a.Detail["secret"] = first.ID
	if err := s.cfg.Guard.Allow(ctx, who, UsersManage, a); err != nil {
		return fail(err)
	}
	if err := s.cfg.Store.CreateService(ctx, u, first); err != nil {
		return fail(s.refuse(ctx, who, a, err))
	}
	return u, first, secret, nil
}

// mayMint decides whether who may make a secret at all: it outlives what it was
// made with, as an API key does.
func (s *Service) mayMint(ctx context.Context, who Principal, expiresIn time.Duration, a Action) error {
	if err := s.cfg.Guard.Check(ctx, who, UsersManage, a); err != nil {
		return err
	}
	if err := s.fresh(ctx, who, freshAuth, a); err != nil {
		return err
	}
	if expiresIn < 0 || expiresIn > maxKeyLife {
		return ErrInvalid.With("a secret expires after a positive time of at most a hundred years")
	}
	return nil
}

func (s *Service) mint(who Principal, userID string, expiresIn time.Duration) (ClientSecret, string) {
	secret, hash := newSecret(clientPrefix)
	c := ClientSecret{ID: newID("cs_"), UserID: userID, Hash: hash, CreatedBy: who.UserID, CreatedAt: s.now()}
	if expiresIn > 0 {
		c.ExpiresAt = c.CreatedAt.Add(expiresIn).Truncate(time.Microsecond)
	}
	return c, secret
}

// service finds a service account; ErrNotFound for a person.
func (s *Service) service(ctx context.Context, id string) (User, error) {
	u, err := s.cfg.Store.User(ctx, id)
	if errors.Is(err, ErrNotFound) || err == nil && u.Kind != ServiceAccount {
		return User{}, errNoService
	}
	return u, err
}

// Secrets lists the secrets of a service account, newest first, without what
// proves them. Needs users:manage.
func (s *Service) Secrets(ctx context.Context, who Principal, id string) ([]ClientSecret, error) {
	if err := s.cfg.Guard.Check(ctx, who, UsersManage, Action{Name: "secret.list", Target: id}); err != nil {
		return nil, err
	}
	if _, err := s.service(ctx, id); err != nil {
		return nil, err
	}
	return s.cfg.Store.SecretsOf(ctx, id)
}

// CreateSecret makes another secret of a service account, so that its programs
// can change over before the old one is deleted: there are at most two at a
// time. Needs what CreateService needs, and every permission that the account
// has: whoever has the secret is the account.
func (s *Service) CreateSecret(ctx context.Context, who Principal, id string, expiresIn time.Duration) (c ClientSecret, secret string, err error) {
	a := s.target(ctx, Action{Name: "secret.create", Detail: map[string]string{}}, id)
	if err := s.mayMint(ctx, who, expiresIn, a); err != nil {
		return ClientSecret{}, "", err
	}
	unlock, err := s.lockAdmin(ctx)
	if err != nil {
		return ClientSecret{}, "", err
	}
	defer unlock()
	if err := s.mayManage(ctx, who, id, a); err != nil {
		return ClientSecret{}, "", err
	}
	have, err := s.cfg.Store.SecretsOf(ctx, id)
	if err != nil {
		return ClientSecret{}, "", err
	}
	now := s.now()
	have = slices.DeleteFunc(have, func(c ClientSecret) bool { return c.expired(now) })
	if len(have) >= maxSecrets {
		return ClientSecret{}, "", ErrInvalid.With(fmt.Sprintf("the service account has %d secrets, the most there can be; revoke the one that is out of use first", maxSecrets))
	}
	c, secret = s.mint(who, id, expiresIn)
	a.Detail["id"] = c.ID
	if err := s.cfg.Guard.Allow(ctx, who, UsersManage, a); err != nil {
		return ClientSecret{}, "", err
	}
	if err := s.cfg.Store.CreateSecret(ctx, c); err != nil {
		return ClientSecret{}, "", noSuchUser(err)
	}
	return c, secret, nil
}

// mayManage refuses to touch the secrets of an account with more rights.
func (s *Service) mayManage(ctx context.Context, who Principal, id string, a Action) error {
	u, err := s.service(ctx, id)
	if err != nil {
		return err
	}
	table, err := s.roleTable(ctx)
	if err != nil {
		return err
	}
	return s.refuse(ctx, who, a, mayTouch(who, table, u, 0, false))
}

// DeleteSecret ends a secret, and with it every access token that was given for
// it, on the next request. Needs users:manage and every permission that the
// account has.
func (s *Service) DeleteSecret(ctx context.Context, who Principal, id, secretID string) error {
	a := s.target(ctx, Action{Name: "secret.delete", Detail: map[string]string{"id": secretID}}, id)
	if err := s.cfg.Guard.Check(ctx, who, UsersManage, a); err != nil {
		return err
	}
	unlock, err := s.lockAdmin(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.mayManage(ctx, who, id, a); err != nil {
		return err
	}
	// Looked for before it is recorded as deleted. It may expire meanwhile, no more.
	secrets, err := s.cfg.Store.SecretsOf(ctx, id)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(secrets, func(c ClientSecret) bool { return c.ID == secretID }) {
		return errNoSecret
	}
	if err := s.cfg.Guard.Allow(ctx, who, UsersManage, a); err != nil {
		return err
	}
	defer s.cache.revoke(id)
	err = s.cfg.Store.DeleteSecret(ctx, id, secretID)
	if errors.Is(err, ErrNotFound) {
		return errNoSecret
	}
	return err
}

var errNoSecret = ErrNotFound.With("the service account has no such secret")

func (c ClientSecret) expired(now time.Time) bool {
	return !c.ExpiresAt.IsZero() && !now.Before(c.ExpiresAt)
}

// AuthenticateClient proves a service account by its id and one of its secrets.
// Whatever is wrong is ErrClient, after the same questions to the database; the
// log has the reason.
func (s *Service) AuthenticateClient(ctx context.Context, o Origin, id, secret string) (Client, error) {
	attempt := signIn{origin: o, action: "client.authenticate", username: id}
	hash, ok := secretHash(clientPrefix, secret)
	if !ok {
		return Client{}, s.failed(ctx, attempt, "malformed", ErrClient)
	}
	user, err := s.cfg.Store.User(ctx, id)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return Client{}, err
	}
	secrets, err := s.cfg.Store.SecretsOf(ctx, id)
	if err != nil {
		return Client{}, err
	}
	found, reason := judge(user, secrets, hash, s.now())
	if reason != "" {
		if user.ID != "" {
			attempt.user, attempt.username = user, user.Username
		}
		return Client{}, s.failed(ctx, attempt, reason, ErrClient)
	}
	who, err := s.rights(ctx, user, factorHere)
	if err != nil {
		return Client{}, err
	}
	who.Origin = o
	s.secretUses.of(found.ID).mark(s.cfg.Now())
	return Client{Principal: who, secret: found}, nil
}

// judge finds the secret with the hash, and why it does not prove the user,
// for the log. It looks at all secrets, whichever is the right one.
func judge(user User, secrets []ClientSecret, hash [32]byte, now time.Time) (found ClientSecret, reason string) {
	for _, c := range secrets {
		if subtle.ConstantTimeCompare(c.Hash[:], hash[:]) == 1 {
			found = c
		}
	}
	switch {
	case user.ID == "" || user.Kind != ServiceAccount:
		return found, "unknown_client"
	case found.ID == "":
		return found, "wrong_secret"
	case found.expired(now):
		return found, "expired"
	case user.Disabled:
		return found, "disabled"
	}
	return found, ""
}

// ClientToken gives a client an access token (RFC 6749 section 4.4). It lives as
// long as others, but not beyond the secret, and ends with it. There is no
// refresh token: the secret does as well.
func (s *Service) ClientToken(ctx context.Context, o Origin, userAgent string, c Client) (access string, ttl time.Duration, err error) {
	now := s.now()
	session := Session{
		ID: newID("s_"), UserID: c.UserID, ClientID: c.UserID, SecretID: c.secret.ID, Address: cut(o.Address, 64), UserAgent: cut(userAgent, maxUserAgent),
		CreatedAt: now, LastUsed: now, ExpiresAt: now.Add(s.cfg.AccessTTL),
	}
	if end := c.secret.ExpiresAt; !end.IsZero() && end.Before(session.ExpiresAt) {
		session.ExpiresAt = end
	}
	attempt := signIn{origin: o, action: "client.token", username: c.Username, user: User{ID: c.UserID}, detail: map[string]string{"secret": c.secret.ID}}
	if err := s.succeeded(ctx, attempt); err != nil {
		return "", 0, err
	}
	attempt.action = "client.authenticate"
	ended, err := s.cfg.Store.CreateClientSession(ctx, session, s.displacing(""))
	if err != nil {
		if errors.Is(err, ErrNotFound) { // the secret was deleted meanwhile
			err = s.failed(ctx, attempt, "revoked", ErrClient)
		}
		return "", 0, err
	}
	if err := s.displaced(ctx, attempt, session, "", ended); err != nil {
		return "", 0, err
	}
	// As at a sign-in: who disables the account ends its sessions after that.
	user, err := s.cfg.Store.User(ctx, c.UserID)
	if err != nil && !errors.Is(err, ErrNotFound) {
		s.drop(ctx, session)
		return "", 0, err
	}
	if user.ID == "" || user.Disabled {
		s.drop(ctx, session)
		return "", 0, s.failed(ctx, attempt, "disabled", ErrClient)
	}
	return s.sign(session, user, now)
}

// RevokeIssued is Revoke for a client: it ends what was issued to the client
// alone (RFC 7009 section 2.1). A token that is alive and was issued to another
// is ErrNotIssued.
func (s *Service) RevokeIssued(ctx context.Context, c Client, token string) error {
	if strings.HasPrefix(token, keyPrefix) {
		hash, ok := secretHash(keyPrefix, token)
		if !ok {
			return nil
		}
		_, err := s.cfg.Store.KeyByHash(ctx, hash)
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err == nil {
			err = ErrNotIssued
		}
		return err
	}
	return s.revokeToken(ctx, c.Origin, c.UserID, token)
}
