package api

import (
	"bytes"
	"strconv"

	"github.com/prometheus/common/expfmt"

	"modelgate/auth"
)

// Pages of lists.
const (
	usualPage = 100
	mostPage  = 1000
)

// pageQuery reads ?after= and ?limit=.
func (c *call) pageQuery() (after string, limit int, err error) {
	q := c.gin.Request.URL.Query()
	for name, values := range q {
		if len(values) > 1 {
			return "", 0, invalid("the query parameter " + strconv.Quote(shorten(name, 40)) + " is given more than once")
		}
	}
	limit = usualPage
	if text := q.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > mostPage {
			return "", 0, invalid("limit must be a number from 1 to " + strconv.Itoa(mostPage))
		}
		limit = n
	}
	after = q.Get("after")
	if len(after) > 256 {
		return "", 0, invalid("after must be the next of the page before")
	}
	return after, limit, nil
}

func (s *Server) users(c *call) (page[user], error) {
	after, limit, err := c.pageQuery()
	if err != nil {
		return page[user]{}, err
	}
	items, next, err := s.auth.Users(c.ctx(), c.who, after, limit)
	if err != nil {
		return page[user]{}, err
	}
	return pageOf(items, next, userOf), nil
}

// createUser invites a person, or makes a service account.
func (s *Server) createUser(c *call, in *userRequest) (any, error) {
	if auth.UserKind(in.Kind) == auth.ServiceAccount {
		u, first, secret, err := s.auth.CreateService(c.ctx(), c.who, in.Username, in.Roles, lifetime(in.ExpiresIn))
		if err != nil {
			return nil, err
		}
		return newService{user: userOf(u), ClientID: u.ID, ClientSecret: secret, SecretID: first.ID, ExpiresAt: instant(first.ExpiresAt)}, nil
	}
	u, invite, err := s.auth.CreateUser(c.ctx(), c.who, in.Username, in.Roles)
	if err != nil {
		return nil, err
	}
	return invitedUser{user: userOf(u), InviteToken: invite}, nil
}

func (s *Server) secrets(c *call) (page[secret], error) {
	all, err := s.auth.Secrets(c.ctx(), c.who, c.param("id"))
	if err != nil {
		return page[secret]{}, err
	}
	return pageOf(all, "", secretOf), nil
}

func (s *Server) createSecret(c *call, in *secretRequest) (newSecret, error) {
	made, secret, err := s.auth.CreateSecret(c.ctx(), c.who, c.param("id"), lifetime(in.ExpiresIn))
	if err != nil {
		return newSecret{}, err
	}
	return newSecret{ID: made.ID, ClientID: made.UserID, ClientSecret: secret, CreatedAt: made.CreatedAt.UTC(), ExpiresAt: instant(made.ExpiresAt)}, nil
}

func (s *Server) deleteSecret(c *call) (none, error) {
	return none{}, s.auth.DeleteSecret(c.ctx(), c.who, c.param("id"), c.param("secret"))
}

func (s *Server) user(c *call) (user, error) {
	u, err := s.auth.User(c.ctx(), c.who, c.param("id"))
	if err != nil {
		return user{}, err
	}
	return userOf(u), nil
}

func (s *Server) updateUser(c *call, in *userPatch) (user, error) {
	u, err := s.auth.UpdateUser(c.ctx(), c.who, c.param("id"), auth.UserPatch{Roles: in.Roles, Disabled: in.Disabled})
	if err != nil {
		return user{}, err
	}
	return userOf(u), nil
}

func (s *Server) deleteUser(c *call) (none, error) {
	return none{}, s.auth.DeleteUser(c.ctx(), c.who, c.param("id"))
}

func (s *Server) resetUser(c *call, in *resetUserRequest) (ticket, error) {
	token, expires, err := s.auth.ResetUser(c.ctx(), c.who, c.param("id"), in.TOTP)
	if err != nil {
		return ticket{}, err
	}
	return ticket{ResetToken: token, ExpiresAt: expires.UTC()}, nil
}

func (s *Server) sessionsOf(c *call) (page[session], error) {
	all, err := s.auth.SessionsOf(c.ctx(), c.who, c.param("id"))
	if err != nil {
		return page[session]{}, err
	}
	return pageOf(all, "", func(x auth.Session) session { return sessionOf(x, c.who.SessionID) }), nil
}

func (s *Server) endSessionOf(c *call) (none, error) {
	return none{}, s.auth.EndSessionOf(c.ctx(), c.who, c.param("id"), c.param("session"))
}

func (s *Server) endSessionsOf(c *call) (none, error) {
	return none{}, s.auth.EndSessionsOf(c.ctx(), c.who, c.param("id"))
}

// endEverySession ends the caller's session too. A browser's cookie is worth
// nothing then, and goes.
func (s *Server) endEverySession(c *call) (none, error) {
	if err := s.auth.EndEverySession(c.ctx(), c.who); err != nil {
		return none{}, err
	}
	if c.rt.Access == Cookie {
		c.forgetBrowser()
	}
	return none{}, nil
}

func (s *Server) roles(c *call) (page[role], error) {
	all, err := s.auth.Roles(c.ctx(), c.who)
	if err != nil {
		return page[role]{}, err
	}
	return pageOf(all, "", roleOf), nil
}

func (s *Server) putRole(c *call, in *roleRequest) (role, error) {
	r, err := s.auth.PutRole(c.ctx(), c.who, c.param("name"), in.Permissions, in.RateLimit, in.dailyRows())
	if err != nil {
		return role{}, err
	}
	return roleOf(r), nil
}

func (s *Server) deleteRole(c *call) (none, error) {
	return none{}, s.auth.DeleteRole(c.ctx(), c.who, c.param("name"))
}

func (s *Server) signingKeys(c *call) (page[signingKey], error) {
	all, err := s.auth.SigningKeys(c.ctx(), c.who)
	if err != nil {
		return page[signingKey]{}, err
	}
	return pageOf(all, "", signingKeyOf), nil
}

func (s *Server) rotateSigningKey(c *call) (signingKey, error) {
	k, err := s.auth.RotateSigningKey(c.ctx(), c.who)
	if err != nil {
		return signingKey{}, err
	}
	return signingKeyOf(k), nil
}

func (s *Server) retireSigningKey(c *call) (none, error) {
	return none{}, s.auth.RetireSigningKey(c.ctx(), c.who, c.param("id"))
}

// showMetrics writes the Prometheus text format, version 0.0.4.
func (s *Server) showMetrics(c *call) error {
	families, err := s.gatherer.Gather()
	if err != nil {
		return err
	}
	var text bytes.Buffer
	for _, family := range families {
		if _, err := expfmt.MetricFamilyToText(&text, family); err != nil {
			return err
		}
	}
	c.write(c.rt.status, []string{"text/plain; version=0.0.4; charset=utf-8"}, text.Bytes())
	return nil
}
