package api

import (
	"errors"

	"modelgate/auth"
)

func (s *Server) me(c *call) (me, error) {
	u, err := s.auth.Me(c.ctx(), c.who)
	if err != nil {
		return me{}, err
	}
	budgets, err := s.budgets(c)
	if err != nil {
		return me{}, err
	}
	return me{ID: u.ID, Username: u.Username, Roles: u.Roles,
		Permissions: c.who.Permissions.Names(), TOTP: u.TOTP, CreatedAt: u.CreatedAt.UTC(), Budgets: budgets}, nil
}

// budgets are what is left of the caller's today, of those models that he has
// called.
func (s *Server) budgets(c *call) ([]budget, error) {
	all, err := s.auth.Budgets(c.ctx(), c.who, func(model string) int64 { return s.catalog.DailyRows(c.who, model) })
	if err != nil || len(all) == 0 {
		return nil, err
	}
	list := make([]budget, len(all))
	for i, b := range all {
		list[i] = budget{Model: b.Model, DailyRows: b.Limit, Left: b.Left}
	}
	return list, nil
}

func (s *Server) changePassword(c *call, in *passwordRequest) (none, error) {
	return none{}, s.guarded(c, func() error {
		return s.auth.ChangePassword(c.ctx(), c.who, in.CurrentPassword, in.NewPassword, in.OTP)
	})
}

// guarded runs a try at the caller's own password, which can be guessed here
// too, by who found a token or sits at his desk. What strangers do at /login
// does not count here.
func (s *Server) guarded(c *call, prove func() error) error {
	try, err := s.rates.try(c.ctx(), "change:"+c.who.UserID, "")
	if err != nil {
		return err
	}
	err = prove()
	if errors.Is(err, auth.ErrCredentials) {
		// Not 401: the credential that was sent is good.
		return &fault{code: "wrong_password", detail: refuse(err).detail}
	}
	try.abandoned(c.ctx())
	return err
}

func (s *Server) beginTOTP(c *call, in *proofRequest) (out newTOTP, err error) {
	err = s.guarded(c, func() (err error) {
		out.Secret, out.URI, err = s.auth.BeginTOTP(c.ctx(), c.who, in.Password)
		return err
	})
	return out, err
}

func (s *Server) confirmTOTP(c *call, in *codeRequest) (recoveryCodes, error) {
	codes, err := s.auth.ConfirmTOTP(c.ctx(), c.who, in.OTP)
	return recoveryCodes{codes}, err
}

func (s *Server) removeTOTP(c *call, in *proofCodeRequest) (none, error) {
	return none{}, s.guarded(c, func() error { return s.auth.RemoveTOTP(c.ctx(), c.who, in.Password, in.OTP) })
}

func (s *Server) renewRecoveryCodes(c *call, in *proofCodeRequest) (out recoveryCodes, err error) {
	err = s.guarded(c, func() (err error) {
		out.Codes, err = s.auth.RenewRecoveryCodes(c.ctx(), c.who, in.Password, in.OTP)
		return err
	})
	return out, err
}

func (s *Server) keys(c *call) (page[key], error) {
	all, err := s.auth.Keys(c.ctx(), c.who)
	if err != nil {
		return page[key]{}, err
	}
	return pageOf(all, "", keyOf), nil
}

func (s *Server) createKey(c *call, in *keyRequest) (newKey, error) {
	var models []string
	if in.Models != nil {
		models = *in.Models
	}
	k, secret, err := s.auth.CreateKey(c.ctx(), c.who, auth.KeyRequest{Name: in.Name, ExpiresIn: lifetime(in.ExpiresIn), Models: models})
	if err != nil {
		return newKey{}, err
	}
	return newKey{ID: k.ID, Name: k.Name, Key: secret, Models: k.Models, CreatedAt: k.CreatedAt.UTC(), ExpiresAt: instant(k.ExpiresAt)}, nil
}

func (s *Server) deleteKey(c *call) (none, error) {
	return none{}, s.auth.DeleteKey(c.ctx(), c.who, c.param("id"))
}

func (s *Server) sessions(c *call) (page[session], error) {
	all, err := s.auth.Sessions(c.ctx(), c.who)
	if err != nil {
		return page[session]{}, err
	}
	return pageOf(all, "", func(x auth.Session) session { return sessionOf(x, c.who.SessionID) }), nil
}

func (s *Server) endSession(c *call) (none, error) {
	return none{}, s.auth.EndSession(c.ctx(), c.who, c.param("id"))
}

// endSessions ends all of the caller's sessions. A browser's cookie is worth
// nothing then, and goes.
func (s *Server) endSessions(c *call) (none, error) {
	if err := s.auth.EndSessions(c.ctx(), c.who); err != nil {
		return none{}, err
	}
	if c.rt.Access == Cookie {
		c.forgetBrowser()
	}
	return none{}, nil
}
