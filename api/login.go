package api

import (
	"errors"

	"modelgate/auth"
)

// register makes an account, or opens one that an administrator made.
func (s *Server) register(c *call, in *registerRequest) (newUser, error) {
	var u auth.User
	var err error
	if in.InviteToken != "" {
		u, err = s.auth.AcceptInvitation(c.ctx(), c.origin(), in.InviteToken, in.Password)
	} else {
		u, err = s.auth.Register(c.ctx(), c.origin(), in.Username, in.Password)
	}
	if err != nil {
		return newUser{}, err
	}
	return newUser{ID: u.ID, Username: u.Username, Roles: u.Roles, CreatedAt: u.CreatedAt.UTC()}, nil
}

func (s *Server) login(c *call, in *loginRequest) (tokens, error) {
	return s.signIn(c, in.Username, in.Password, in.OTP)
}

// signIn proves a password, and a second factor where there is one, for /login
// and the password grant alike. The rate of the address was charged before.
func (s *Server) signIn(c *call, username, password, otp string) (tokens, error) {
	var t auth.Tokens
	err := s.throttled(c, username, func() (err error) {
		t, err = s.auth.Login(c.ctx(), c.origin(), userAgent(c), username, password, otp)
		return err
	})
	if err != nil {
		return tokens{}, err
	}
	return tokensOf(t), nil
}

// throttled runs a try at an account's password. Only failures count.
func (s *Server) throttled(c *call, username string, prove func() error) error {
	try, err := s.rates.attempt(c.ctx(), username, c.address)
	if err != nil {
		return err
	}
	err = prove()
	switch {
	case err == nil:
		try.succeeded(c.ctx())
	case !errors.Is(err, auth.ErrCredentials):
		try.abandoned(c.ctx())
	}
	return err
}

func userAgent(c *call) string { return shorten(c.gin.Request.UserAgent(), 200) }

func (s *Server) refresh(c *call, in *refreshRequest) (tokens, error) {
	return s.renew(c, in.RefreshToken)
}

// renew rotates a refresh token, for /refresh and the refresh grant alike.
// What is too long to be one is not looked up.
func (s *Server) renew(c *call, token string) (tokens, error) {
	if len(token) > maxCredential {
		return tokens{}, auth.ErrToken
	}
	t, err := s.auth.Refresh(c.ctx(), c.origin(), token)
	if err != nil {
		return tokens{}, err
	}
	return tokensOf(t), nil
}

func (s *Server) logout(c *call) (none, error) { return none{}, s.auth.Logout(c.ctx(), c.who) }

func (s *Server) resetPassword(c *call, in *resetRequest) (none, error) {
	return none{}, s.auth.ResetPassword(c.ctx(), c.origin(), in.ResetToken, in.Password)
}
