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
