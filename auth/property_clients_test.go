package auth_test

import (
	"errors"
	"fmt"
	"time"

	"pgregory.net/rapid"

	"modelgate/auth"
)

// clientSecret is what ought to be true of a service account's secret, and grant
// of an access token that was given for one.
type clientSecret struct {
	id, secret string
	deleted    bool
	ends       time.Time // zero: never
}

type grant struct {
	token   string
	by      *clientSecret
	alive   bool
	expires time.Time
}

func (l *lives) good(c *clientSecret) bool {
	return !c.deleted && (c.ends.IsZero() || l.clock.now().Before(c.ends))
}

func (l *lives) granted(a *account, g *grant) bool {
	return g.alive && !a.disabled && l.good(g.by) && l.clock.now().Before(g.expires)
}

func (l *lives) keepSecret(a *account, c auth.ClientSecret, secret string) {
	a.secrets = append(a.secrets, &clientSecret{id: c.ID, secret: secret, ends: c.ExpiresAt})
}

func (l *lives) secretLife() time.Duration {
	return rapid.SampledFrom([]time.Duration{0, 0, 20 * time.Minute, 9 * 24 * time.Hour}).Draw(l.t, "life of the secret")
}

func (l *lives) makeService(run int) {
	if len(l.users) == 4 {
		l.t.Skip("enough users")
	}
	l.n++
	a := &account{name: fmt.Sprintf("service-%d-%d", run, l.n), roles: []string{"user"}, service: true}
	u, c, secret, err := l.CreateService(l.ctx, l.root(), a.name, a.roles, l.secretLife())
	l.must(err)
	a.id = u.ID
	l.keepSecret(a, c, secret)
	l.users = append(l.users, a)
}

func (l *lives) pickService() *account {
	a := l.pick()
	if !a.service {
		l.t.Skip("a person")
	}
	return a
}

func (l *lives) makeSecret(*rapid.T) {
	a := l.pickService()
	live := 0
	for _, c := range a.secrets {
		if l.good(c) {
			live++
		}
	}
	c, secret, err := l.CreateSecret(l.ctx, l.root(), a.id, l.secretLife())
	if live == 2 {
		if !errors.Is(err, auth.ErrInvalid) {
			l.t.Fatalf("a third secret: %v", err)
		}
		return
	}
	l.must(err)
	l.keepSecret(a, c, secret)
}

func (l *lives) deleteSecret(*rapid.T) {
	a := l.pickService()
	c := rapid.SampledFrom(a.secrets).Draw(l.t, "secret")
	err := l.DeleteSecret(l.ctx, l.root(), a.id, c.id)
	if l.good(c) || !errors.Is(err, auth.ErrNotFound) { // what has expired may be swept away already
		l.must(err)
	}
	c.deleted = true
}

func (l *lives) clientToken(*rapid.T) {
	a := l.pickService()
	c := rapid.SampledFrom(a.secrets).Draw(l.t, "secret")
	client, err := l.AuthenticateClient(l.ctx, origin, a.id, c.secret)
	if a.disabled || !l.good(c) {
		if !errors.Is(err, auth.ErrClient) {
			l.t.Fatalf("a dead secret proves a client: %v", err)
		}
		return
	}
	l.must(err)
	token, ttl, err := l.ClientToken(l.ctx, origin, "x", client)
	l.must(err)
	a.grants = append(a.grants, &grant{token: token, by: c, alive: true, expires: l.clock.now().Add(ttl).Truncate(time.Second)})
}

func (l *lives) clientRevokes(*rapid.T) {
	a := l.pickService()
	if a.disabled || len(a.grants) == 0 {
		l.t.Skip("nothing to revoke")
	}
	g := rapid.SampledFrom(a.grants).Draw(l.t, "grant")
	for _, c := range a.secrets { // any good secret will do
		if l.good(c) {
			client, err := l.AuthenticateClient(l.ctx, origin, a.id, c.secret)
			l.must(err)
			l.must(l.RevokeIssued(l.ctx, client, g.token))
			g.alive = false
			return
		}
	}
	l.t.Skip("no good secret")
}
