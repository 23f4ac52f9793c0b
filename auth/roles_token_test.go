package auth_test

import (
	"fmt"
	"strings"
	"testing"

	"modelgate/auth"
)

// TestTokenOfManyRoles: an access token must fit where tokens are taken (4 KiB),
// whatever its user's roles are called, and be good for as much as before.
func TestTokenOfManyRoles(t *testing.T) {
	e := newEnv(t)
	boss := e.manager("boss", "users:manage")
	u, _ := e.user("alice")
	roles := []string{"user"}
	for i := range 60 {
		name := fmt.Sprintf("r%02d%s", i, strings.Repeat("x", 61))
		_, err := e.PutRole(e.ctx, boss, name, nil, "", 0)
		want(t, err, nil)
		roles = append(roles, name)
	}
	e.give(u.ID, roles...)
	tokens := e.login("alice")
	if n := len(tokens.Access); n > 2048 {
		t.Errorf("the token has %d bytes", n)
	}
	who := e.who(tokens.Access)
	if len(who.Roles) != len(roles) {
		t.Errorf("%d roles count, want %d", len(who.Roles), len(roles))
	}
	want(t, e.Revoke(e.ctx, auth.Origin{}, tokens.Access), nil)
	e.dead("a revoked token", tokens.Access)
}
