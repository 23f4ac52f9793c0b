package api

import (
	"net/http"
	"strings"
	"testing"
)

// TestCredentialKinds shows each kind of secret where another one belongs: on
// every route that asks for a bearer, and wherever a secret is sent in a body.
func TestCredentialKinds(t *testing.T) {
	w := newWorld(t, noLimits)
	_, ada := w.user("ada")
	pair := w.tokens("ada", userPassword)
	invited := w.post("/admin/users", w.admin, `{"username":"guest"}`).is(201)
	id := w.post("/admin/users", w.admin, `{"username":"other"}`).is(201).field("id")
	reset := w.post("/admin/users/"+id+"/reset", w.admin, nil).is(200).field("reset_token")
	key := w.post("/users/me/keys", ada, `{"name":"k"}`).is(201).field("key")
	secrets := map[string]string{
		"a refresh token": pair.RefreshToken, "an invitation": invited.field("invite_token"), "a reset token": reset, "a password": userPassword,
		"a key's id": "k_none", "the key in capitals": strings.ToUpper(key), "a key with a space in it": key[:10] + " " + key[10:],
	}
	for what, secret := range secrets {
		for _, rt := range w.api.routes {
			if rt.Access != Bearer {
				continue
			}
			path := strings.NewReplacer("{name}", "none", "{id}", "none", "{version}", "1", "{secret}", "none").Replace(rt.Path)
			got := w.do(request{method: rt.Method, path: path, header: http.Header{"Authorization": {"Bearer " + secret}}})
			if got.Status != 401 {
				t.Errorf("%s as a bearer at %s %s: status %d", what, rt.Method, path, got.Status)
			}
		}
	}
	bearers := map[string]string{"an access token": pair.AccessToken, "an API key": key}
	for what, secret := range bearers {
		for path, body := range map[string]string{
			"/refresh":        `{"refresh_token":"SECRET"}`,
			"/register":       `{"invite_token":"SECRET","password":"another unusual phrase 4"}`,
			"/password-reset": `{"reset_token":"SECRET","password":"another unusual phrase 4"}`,
			"/login":          `{"username":"ada","password":"SECRET"}`,
		} {
			if got := w.do(request{method: "POST", path: path, json: []byte(strings.ReplaceAll(body, "SECRET", secret))}); got.Status != 401 {
				t.Errorf("%s at %s: status %d: %s", what, path, got.Status, got.Body)
			}
		}
	}
	for path, body := range map[string]string{
		"/refresh": `{"refresh_token":"` + reset + `"}`, "/register": `{"invite_token":"` + pair.RefreshToken + `","password":"another unusual phrase 4"}`,
		"/password-reset": `{"reset_token":"` + pair.RefreshToken + `","password":"another unusual phrase 4"}`,
	} {
		w.do(request{method: "POST", path: path, json: []byte(body)}).refused(401, "invalid_token")
	}
	// A bearer in the URL, a form, a cookie or another header is not read at
	// any route.
	for _, rt := range w.api.routes {
		if rt.Access != Bearer {
			continue
		}
		path := strings.NewReplacer("{name}", "none", "{id}", "none", "{version}", "1", "{secret}", "none").Replace(rt.Path)
		for _, r := range []request{
			{method: rt.Method, path: path + "?access_token=" + w.admin},
			{method: rt.Method, path: path, header: http.Header{"Cookie": {"access_token=" + w.admin + "; Authorization=Bearer " + w.admin + "; __Host-modelgate=" + w.admin}}},
			{method: rt.Method, path: path, body: "access_token=" + w.admin, contentType: "application/x-www-form-urlencoded"},
			{method: rt.Method, path: path, header: http.Header{"X-Authorization": {"Bearer " + w.admin}, "Proxy-Authorization": {"Bearer " + w.admin}, "X-Api-Key": {key}}},
			{method: rt.Method, path: path, header: http.Header{"Authorization": {"Token " + w.admin}}},
			{method: rt.Method, path: path, header: http.Header{"Authorization": {"Basic " + w.admin}}},
		} {
			if got := w.do(r); got.Status != 401 {
				t.Errorf("%s: status %d: %s", got.what, got.Status, got.Body)
			}
		}
	}
	w.get("/users/me", pair.AccessToken).is(200) // and nothing above ended it
	w.get("/users/me", key).is(200)
}
