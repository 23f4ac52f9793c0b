package auth_test

import (
	"reflect"
	"testing"
	"time"

	"modelgate/auth"
	"modelgate/auth/authtest"
)

// TestRecheck: who has changed in nothing is the same, whatever he proved himself
// with, though his token has expired; who gained a right has not gained it, and
// whose account with a provider was unlinked is nobody.
func TestRecheck(t *testing.T) {
	p := authtest.NewProvider(t)
	cfg := p.Config()
	cfg.TokenScopes = map[string][]string{"make": {"models:write", "predict"}}
	e := newEnv(t, withProviders(cfg))
	_, err := e.PutRole(e.ctx, e.admin, "maker", []string{"models:write"}, "10-S", 7)
	want(t, err, nil)
	ada, tokens := e.user("ada")
	e.give(ada.ID, "user", "maker")
	_, key, err := e.CreateKey(e.ctx, e.who(tokens.Access), auth.KeyRequest{Name: "k", Models: []string{"iris"}})
	want(t, err, nil)
	inBrowser := e.whoBrowses(e.browse("ada").Cookie)
	foreign := p.AccessToken(e.clock.now(), members{"sub": "eve", "groups": []string{"ml-admins"}, "scope": "make"})
	callers := map[string]auth.Principal{"token": e.who(tokens.Access), "key": e.who(key), "browser": inBrowser, "token of a provider": e.who(foreign)}
	e.clock.advance(20 * time.Minute)
	for way, who := range callers {
		again, err := e.Recheck(e.ctx, who)
		want(t, err, nil)
		if !reflect.DeepEqual(again, who) {
			t.Errorf("%s: was %+v, is %+v", way, who, again)
		}
	}
	e.give(ada.ID, "user", "maker", "admin")
	for _, way := range []string{"token", "key", "browser"} {
		again, err := e.Recheck(e.ctx, callers[way])
		want(t, err, nil)
		if again.Permissions != callers[way].Permissions {
			t.Errorf("%s: has gained %b", way, again.Permissions)
		}
	}
	foreigner := callers["token of a provider"]
	ids, err := e.db.IdentitiesOf(e.ctx, foreigner.UserID)
	want(t, err, nil)
	want(t, e.db.UnlinkIdentity(e.ctx, foreigner.UserID, ids[0].ID), nil)
	_, err = e.Recheck(e.ctx, foreigner)
	want(t, err, auth.ErrToken)
}

// Whose identity was taken away, or whose secret, is not who he was.
func TestRecheckOfWhatWasTakenAway(t *testing.T) {
	p := authtest.NewProvider(t)
	e := newEnv(t, withProviders(p.Config()))
	ada, _ := e.user("ada")
	id, err := e.LinkIdentity(e.ctx, e.admin, ada.ID, "corp", "sub-9")
	want(t, err, nil)
	_, err = e.LinkIdentity(e.ctx, e.admin, ada.ID, "corp", "sub-8")
	want(t, err, nil)
	byProvider := e.who(p.AccessToken(e.clock.now(), members{"sub": "sub-9"}))
	u, first, secret := e.service("nightly")
	byClient := e.who(e.clientToken(u.ID, secret))

	// The access token of a program expires as that of a person does.
	e.clock.advance(20 * time.Minute)
	for _, who := range []auth.Principal{byProvider, byClient} {
		again, err := e.Recheck(e.ctx, who)
		if want(t, err, nil); !reflect.DeepEqual(again, who) {
			t.Errorf("was %+v, is %+v", who, again)
		}
	}
	e.admin = e.who(e.login("admin").Access)
	want(t, e.UnlinkIdentity(e.ctx, e.admin, ada.ID, id.ID), nil)
	want(t, e.DeleteSecret(e.ctx, e.admin, u.ID, first.ID), nil)
	for _, who := range []auth.Principal{byProvider, byClient} {
		_, err := e.Recheck(e.ctx, who)
		want(t, err, auth.ErrToken)
	}
}
