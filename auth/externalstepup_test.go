package auth_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"modelgate/audit"
	"modelgate/auth"
	"modelgate/auth/authtest"
)

// A step-up is a proof of the user at his provider in the last ten minutes.
func TestProviderStepUp(t *testing.T) {
	p := authtest.NewProvider(t)
	e := newEnv(t, withProviders(p.Config()))
	now := e.clock.now()
	make := func(changes authtest.Members) error {
		_, _, err := e.CreateKey(e.ctx, e.who(p.AccessToken(now, changes)), auth.KeyRequest{Name: "k"})
		return err
	}
	want(t, make(authtest.Members{"auth_time": now.Unix() - 60}), nil)
	want(t, make(authtest.Members{"auth_time": now.Unix() - 601}), auth.ErrReauthenticate)
	want(t, make(nil), auth.ErrReauthenticate)
	who := e.who(p.AccessToken(now, authtest.Members{"auth_time": now.Unix()}))
	want(t, e.ChangePassword(e.ctx, who, "", "another good phrase 17", ""), auth.ErrReauthenticate)
	want(t, e.Logout(e.ctx, who), auth.ErrForbidden)
	if me, err := e.Me(e.ctx, who); err != nil || me.ID != who.UserID {
		t.Errorf("me: %+v, %v", me, err)
	}
	in, err := e.Introspect(e.ctx, p.AccessToken(now, nil))
	if err != nil || in.Active {
		t.Errorf("a provider's token is introspected: %+v, %v", in, err)
	}
	made := len(e.records("user.create"))
	in, err = e.Introspect(e.ctx, p.AccessToken(now, authtest.Members{"sub": "sub-2", "preferred_username": "bob"}))
	if err != nil || in.Active || len(e.records("user.create")) != made {
		t.Errorf("a question about a token made its user: %+v, %v", in, err)
	}
}

// Who has no password is not sent to log in with one, but to where he can go.
func TestProviderStepUpSaysWhere(t *testing.T) {
	p, other := authtest.NewProvider(t), authtest.NewProvider(t)
	second := other.Config()
	second.Name = "tokens"
	e := newEnv(t, withProviders(signInProvider(p, "corp"), second))
	now := e.clock.now()
	recent := func(p *authtest.Provider, sub string) auth.Principal {
		return e.who(p.AccessToken(now, members{"sub": sub, "preferred_username": sub, "auth_time": now.Unix()}))
	}
	_, key, err := e.CreateKey(e.ctx, recent(p, "bea"), auth.KeyRequest{Name: "k"})
	want(t, err, nil)
	_, otherKey, err := e.CreateKey(e.ctx, recent(other, "cleo"), auth.KeyRequest{Name: "k"})
	want(t, err, nil)
	ada, own := e.user("ada")
	_, err = e.LinkIdentity(e.ctx, e.admin, ada.ID, "corp", "sub-1")
	want(t, err, nil)
	adas := e.who(own.Access)
	e.clock.advance(11 * time.Minute)
	now = e.clock.now()

	const page, password, token = "/console/oidc/corp?reauthenticate=1", "log in again with your password", "auth_time"
	for _, c := range []struct {
		what      string
		who       auth.Principal
		has, lack []string
	}{
		{"a token", e.who(p.AccessToken(now, members{"sub": "bea"})), []string{page, token}, []string{password}},
		{"a key", e.who(key), []string{page}, []string{password, token}},
		{"a token, and no sign-in", e.who(other.AccessToken(now, members{"sub": "cleo"})), []string{token}, []string{"/console", password}},
		{"a key, and no sign-in", e.who(otherKey), []string{"administrator"}, []string{"/console", password, token}},
		{"who has a password as well", adas, []string{password}, []string{"/console", token}},
	} {
		_, _, err := e.CreateKey(e.ctx, c.who, auth.KeyRequest{Name: "x"})
		want(t, err, auth.ErrReauthenticate)
		for _, word := range c.has {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%s: no %q: %v", c.what, word, err)
			}
		}
		for _, word := range c.lack {
			if strings.Contains(err.Error(), word) {
				t.Errorf("%s: %q: %v", c.what, word, err)
			}
		}
	}
	_, _, begin := e.BeginTOTP(e.ctx, e.who(key), "")
	for _, err := range []error{begin, e.ChangePassword(e.ctx, e.who(key), "", "another good phrase 17", "")} {
		want(t, err, auth.ErrReauthenticate)
		if words := err.Error(); !strings.Contains(words, "change them there") || strings.Contains(words, "log in") {
			t.Error(words)
		}
	}
}

// A provider's token has no session, by which alone a second factor is
// confirmed: it begins none, and takes nobody's beginning away.
func TestProviderTokenBeginsNoSecondFactor(t *testing.T) {
	p := authtest.NewProvider(t)
	e := newEnv(t, withProviders(p.Config()))
	ada, own := e.user("ada")
	if _, err := e.LinkIdentity(e.ctx, e.admin, ada.ID, "corp", "sub-1"); err != nil {
		t.Fatal(err)
	}
	secret, _, err := e.BeginTOTP(e.ctx, e.who(own.Access), password)
	want(t, err, nil)
	now := e.clock.now()
	who := e.who(p.AccessToken(now, authtest.Members{"auth_time": now.Unix()}))
	_, _, err = e.BeginTOTP(e.ctx, who, "")
	want(t, err, auth.ErrReauthenticate)
	_, err = e.ConfirmTOTP(e.ctx, e.who(own.Access), auth.CodeAt(secret, now))
	want(t, err, nil)
}

// What a provider's token brings about is recorded with where it was sent from.
func TestProviderRecordsHaveAnOrigin(t *testing.T) {
	p := authtest.NewProvider(t)
	e := newEnv(t, withProviders(p.Config()))
	now := e.clock.now()
	e.who(p.AccessToken(now, nil))
	e.who(p.AccessToken(now.Add(time.Second), authtest.Members{"groups": []string{"ml-admins"}}))
	for _, action := range []string{"user.create", "user.update"} {
		r := e.records(action)
		if len(r) == 0 || r[0].Reason != "identity_provider" || r[0].Address != origin.Address || r[0].Request != origin.RequestID {
			t.Errorf("%s: %+v", action, r)
		}
	}
}

// A reset token and an identity are as good as the password of whoever they are
// made for, and outlive what they were made with: neither a late access token nor
// an API key of an administrator makes them, or takes an identity away.
func TestCredentialsOfOthersNeedAFreshSignIn(t *testing.T) {
	p := authtest.NewProvider(t)
	e := newEnv(t, withProviders(p.Config()))
	ada := e.register("ada")
	_, key, err := e.CreateKey(e.ctx, e.admin, auth.KeyRequest{Name: "stolen"})
	want(t, err, nil)
	fresh, late := e.clock.now(), e.admin
	tries := func(who auth.Principal) (reset, link error) {
		_, _, reset = e.ResetUser(e.ctx, who, ada.ID, false)
		_, link = e.LinkIdentity(e.ctx, who, ada.ID, "corp", "sub-9")
		return reset, link
	}
	linked, err := e.LinkIdentity(e.ctx, late, ada.ID, "corp", "sub-8")
	want(t, err, nil)
	e.clock.advance(11 * time.Minute)
	for what, who := range map[string]auth.Principal{"an old session": late, "an API key": e.who(key)} {
		if reset, link := tries(who); !errors.Is(reset, auth.ErrReauthenticate) || !errors.Is(link, auth.ErrReauthenticate) {
			t.Errorf("%s: %v, %v", what, reset, link)
		}
		want(t, e.UnlinkIdentity(e.ctx, who, ada.ID, linked.ID), auth.ErrReauthenticate)
	}
	for _, action := range []string{"user.reset", "identity.link", "identity.unlink"} {
		if r := e.records(action); len(r) == 0 || r[0].Outcome != audit.Denied || r[0].Reason != "reauthentication_required" {
			t.Errorf("%s: %+v", action, r)
		}
	}
	late.AuthTime = fresh.Add(11 * time.Minute)
	reset, link := tries(late)
	want(t, reset, nil)
	want(t, link, nil)
	want(t, e.UnlinkIdentity(e.ctx, late, ada.ID, linked.ID), nil)
}
