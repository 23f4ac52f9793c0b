package api

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// callers of the matrix, in the order of its columns.
var callers = []string{"user", "scientist", "users", "auditor", "metrics", "models", "admin", "key", "scoped"}

// matrix holds, for every route, one request and what each caller gets for it:
//
//	user       role user
//	scientist  role data-scientist: models:write
//	users      a role with users:manage
//	auditor    a role with audit:read
//	metrics    a role with metrics:read
//	models     a role with models:manage
//	admin      role admin
//	key        an API key of role admin
//	scoped     an API key of role admin that is limited to one model
//
// The requests are such that whoever is let in changes nothing: they name what
// does not exist, or send nothing useful. 401 and 403 are refusals of the gate;
// any other status means that the caller passed it. Without a good credential
// every route that is not public answers 401.
var matrix = []struct {
	route  string
	path   string // "" for the route's own
	json   string
	form   string
	public int // status without credentials; 0: not public
	status [9]int
}{
	{"GET /", "", "", "", 200, same(200)},
	{"GET /healthz", "", "", "", 200, same(200)},
	{"HEAD /healthz", "", "", "", 200, same(200)},
	{"GET /readyz", "", "", "", 200, same(200)},
	{"HEAD /readyz", "", "", "", 200, same(200)},
	{"GET /openapi.json", "", "", "", 200, same(200)},
	{"GET /docs", "", "", "", 200, same(200)},
	{"GET /.well-known/jwks.json", "", "", "", 200, same(200)},
	{"GET /.well-known/oauth-authorization-server", "", "", "", 200, same(200)},
	{"POST /register", "", `{}`, "", 400, same(400)},
	{"POST /login", "", `{}`, "", 400, same(400)},
	{"POST /refresh", "", `{}`, "", 400, same(400)},
	{"POST /password-reset", "", `{}`, "", 400, same(400)},
	{"POST /token", "", "", "grant_type=nothing", 400, same(401)}, // bearers are no clients
	{"POST /revoke", "", "", "token=nothing", 200, same(401)},
	{"POST /introspect", "", "", "token=nothing", 0, same(200)},
	{"POST /logout", "", "", "", 0, [9]int{204, 204, 204, 204, 204, 204, 204, 403, 403}},
	{"GET /users/me", "", "", "", 0, same(200)},
	{"POST /users/me/password", "", `{}`, "", 0, same(400)},
	// A bad password, so that nothing is begun: 403 wrong_password, or for keys
	// reauthentication_required.
	{"POST /users/me/totp", "", `{"password":"wrong password 1"}`, "", 0, same(403)},
	{"POST /users/me/totp/confirm", "", `{}`, "", 0, same(400)},
	{"DELETE /users/me/totp", "", `{}`, "", 0, same(400)},
	{"POST /users/me/recovery-codes", "", `{}`, "", 0, same(400)},
	{"GET /users/me/keys", "", "", "", 0, [9]int{200, 200, 200, 200, 200, 200, 200, 200, 403}},
	{"POST /users/me/keys", "", `{}`, "", 0, same(400)},
	{"DELETE /users/me/keys/{id}", "/users/me/keys/k_none", "", "", 0, [9]int{404, 404, 404, 404, 404, 404, 404, 404, 403}},
	{"POST /console/session", "", `{}`, "", 400, same(400)},
	{"GET /users/me/sessions", "", "", "", 0, [9]int{200, 200, 200, 200, 200, 200, 200, 200, 403}},
	{"DELETE /users/me/sessions", "", "", "", 0, [9]int{204, 204, 204, 204, 204, 204, 204, 204, 403}},
	{"DELETE /users/me/sessions/{id}", "/users/me/sessions/s_none", "", "", 0, [9]int{404, 404, 404, 404, 404, 404, 404, 404, 403}},
	{"GET /admin/users", "", "", "", 0, [9]int{403, 403, 200, 403, 403, 403, 200, 200, 403}},
	{"POST /admin/users", "", `{}`, "", 0, [9]int{403, 403, 400, 403, 403, 403, 400, 400, 403}},
	{"GET /admin/users/{id}", "/admin/users/u_none", "", "", 0, [9]int{403, 403, 404, 403, 403, 403, 404, 404, 403}},
	{"PATCH /admin/users/{id}", "/admin/users/u_none", `{}`, "", 0, [9]int{403, 403, 404, 403, 403, 403, 404, 404, 403}},
	{"DELETE /admin/users/{id}", "/admin/users/u_none", "", "", 0, [9]int{403, 403, 404, 403, 403, 403, 404, 404, 403}},
	{"POST /admin/users/{id}/reset", "/admin/users/u_none/reset", "", "", 0, [9]int{403, 403, 404, 403, 403, 403, 404, 404, 403}},
	{"GET /admin/users/{id}/secrets", "/admin/users/u_none/secrets", "", "", 0, [9]int{403, 403, 404, 403, 403, 403, 404, 404, 403}},
	// A key makes no secrets, whoever's it is.
	{"POST /admin/users/{id}/secrets", "/admin/users/u_none/secrets", `{}`, "", 0, [9]int{403, 403, 404, 403, 403, 403, 404, 403, 403}},
	{"DELETE /admin/users/{id}/secrets/{secret}", "/admin/users/u_none/secrets/cs_none", "", "", 0, [9]int{403, 403, 404, 403, 403, 403, 404, 404, 403}},
	{"GET /admin/users/{id}/identities", "/admin/users/u_none/identities", "", "", 0, [9]int{403, 403, 404, 403, 403, 403, 404, 404, 403}},
	{"POST /admin/users/{id}/identities", "/admin/users/u_none/identities", `{}`, "", 0, [9]int{403, 403, 400, 403, 403, 403, 400, 400, 403}},
	// A key takes no identity away either.
	{"DELETE /admin/users/{id}/identities/{identity}", "/admin/users/u_none/identities/i_none", "", "", 0, [9]int{403, 403, 404, 403, 403, 403, 404, 403, 403}},
	{"GET /console/oidc", "", "", "", 200, same(200)},
	{"GET /console/oidc/{provider}", "/console/oidc/none", "", "", 404, same(404)},
	{"GET /console/oidc/{provider}/callback", "/console/oidc/none/callback", "", "", 404, same(404)},
	{"GET /admin/roles", "", "", "", 0, [9]int{403, 403, 200, 403, 403, 403, 200, 200, 403}},
	{"PUT /admin/roles/{name}", "/admin/roles/UPPER", `{}`, "", 0, [9]int{403, 403, 400, 403, 403, 403, 400, 400, 403}},
	{"DELETE /admin/roles/{name}", "/admin/roles/none", "", "", 0, [9]int{403, 403, 404, 403, 403, 403, 404, 404, 403}},
	{"GET /admin/signing-keys", "", "", "", 0, [9]int{403, 403, 200, 403, 403, 403, 200, 200, 403}},
	{"POST /admin/signing-keys", "", "", "", 0, [9]int{403, 403, 201, 403, 403, 403, 409, 403, 403}}, // one waits to sign by then
	{"DELETE /admin/signing-keys/{id}", "/admin/signing-keys/none", "", "", 0, [9]int{403, 403, 404, 403, 403, 403, 404, 403, 403}},
	{"GET /admin/audit", "", "", "", 0, [9]int{403, 403, 403, 200, 403, 403, 200, 200, 403}},
	{"GET /admin/audit/export", "", "", "", 0, [9]int{403, 403, 403, 200, 403, 403, 200, 200, 403}},
	{"GET /admin/metrics", "", "", "", 0, [9]int{403, 403, 403, 403, 200, 403, 200, 200, 403}},
	{"GET /models", "", "", "", 0, same(200)},
	// Who manages all models learns that there is none of that name. A key for
	// another model is out of its scope, whoever's it is.
	{"GET /models/{name}", "/models/none", "", "", 0, [9]int{403, 403, 403, 403, 403, 404, 404, 404, 403}},
	// To make a model, models:manage is not enough.
	{"POST /models/{name}/versions", "/models/none/versions", `{}`, "", 0, [9]int{403, 415, 403, 403, 403, 403, 415, 415, 403}},
	{"PATCH /models/{name}", "/models/none", `{}`, "", 0, [9]int{403, 403, 403, 403, 403, 404, 404, 404, 403}},
	{"DELETE /models/{name}", "/models/none", "", "", 0, [9]int{403, 403, 403, 403, 403, 404, 404, 404, 403}},
	{"DELETE /models/{name}/versions/{version}", "/models/none/versions/1", "", "", 0, [9]int{403, 403, 403, 403, 403, 404, 404, 404, 403}},
	{"POST /predict", "", `{"model":"none","inputs":[1]}`, "", 0, [9]int{403, 403, 403, 403, 403, 404, 404, 404, 403}},
	{"GET /v2", "", "", "", 0, same(200)},
	{"GET /v2/health/live", "", "", "", 200, same(200)},
	{"GET /v2/health/ready", "", "", "", 200, same(200)},
	{"GET /v2/models/{name}", "/v2/models/none", "", "", 0, [9]int{403, 403, 403, 403, 403, 404, 404, 404, 403}},
	{"GET /v2/models/{name}/versions/{version}", "/v2/models/none/versions/1", "", "", 0, [9]int{403, 403, 403, 403, 403, 404, 404, 404, 403}},
	{"GET /v2/models/stats", "", "", "", 0, same(200)},
	{"GET /v2/models/{name}/stats", "/v2/models/none/stats", "", "", 0, [9]int{403, 403, 403, 403, 403, 404, 404, 404, 403}},
	{"GET /v2/models/{name}/versions/{version}/stats", "/v2/models/none/versions/1/stats", "", "", 0, [9]int{403, 403, 403, 403, 403, 404, 404, 404, 403}},
	{"GET /v2/models/{name}/config", "/v2/models/none/config", "", "", 0, [9]int{403, 403, 403, 403, 403, 404, 404, 404, 403}},
	{"GET /v2/models/{name}/versions/{version}/config", "/v2/models/none/versions/1/config", "", "", 0, [9]int{403, 403, 403, 403, 403, 404, 404, 404, 403}},
	{"GET /v2/models/{name}/ready", "/v2/models/none/ready", "", "", 0, [9]int{403, 403, 403, 403, 403, 404, 404, 404, 403}},
	{"GET /v2/models/{name}/versions/{version}/ready", "/v2/models/none/versions/1/ready", "", "", 0, [9]int{403, 403, 403, 403, 403, 404, 404, 404, 403}},
	{"POST /v2/models/{name}/infer", "/v2/models/none/infer", `{"inputs":[]}`, "", 0, [9]int{403, 403, 403, 403, 403, 404, 404, 404, 403}},
	{"POST /v2/models/{name}/versions/{version}/infer", "/v2/models/none/versions/1/infer", `{"inputs":[]}`, "", 0, [9]int{403, 403, 403, 403, 403, 404, 404, 404, 403}},
	{"POST /v2/repository/index", "", "", "", 0, same(200)},
	{"POST /v2/repository/models/{name}/load", "/v2/repository/models/none/load", "", "", 0, [9]int{403, 403, 403, 403, 403, 404, 404, 404, 403}},
	{"POST /v2/repository/models/{name}/unload", "/v2/repository/models/none/unload", "", "", 0, [9]int{403, 403, 403, 403, 403, 404, 404, 404, 403}},
	{"GET /admin/users/{id}/sessions", "/admin/users/u_none/sessions", "", "", 0, [9]int{403, 403, 404, 403, 403, 403, 404, 404, 403}},
	{"DELETE /admin/users/{id}/sessions", "/admin/users/u_none/sessions", "", "", 0, [9]int{403, 403, 404, 403, 403, 403, 404, 404, 403}},
	{"DELETE /admin/users/{id}/sessions/{session}", "/admin/users/u_none/sessions/s_none", "", "", 0, [9]int{403, 403, 404, 403, 403, 403, 404, 404, 403}},
	// The last, since it ends the logins of all callers. Who may manage users and
	// lacks another permission may not end those of who has it.
	{"DELETE /admin/sessions", "", "", "", 0, [9]int{403, 403, 403, 403, 403, 403, 204, 204, 403}},
}

func same(status int) (all [9]int) {
	for i := range all {
		all[i] = status
	}
	return all
}

// TestMatrix walks every route with every kind of caller and every state of a
// token.
func TestMatrix(t *testing.T) {
	w := newWorld(t, noLimits)
	credential, loggedOut := w.credentials()
	bad := w.badTokens()

	listed := map[string]bool{}
	for _, r := range w.api.Routes() {
		if r.Access == Cookie {
			continue // TestConsoleMatrix
		}
		listed[r.Method+" "+r.Path] = true
	}
	for _, row := range matrix {
		if !listed[row.route] {
			t.Errorf("the matrix has %s, which is no route", row.route)
		}
		delete(listed, row.route)
		ask := func(token string) answer {
			method, path, _ := strings.Cut(row.route, " ")
			if row.path != "" {
				path = row.path
			}
			r := request{method: method, path: path, token: token}
			if row.json != "" {
				r.json = row.json
			}
			if row.form != "" {
				r.body, r.contentType = row.form, "application/x-www-form-urlencoded"
			}
			return w.do(r)
		}
		if row.route == "GET /users/me" || row.route == "DELETE /users/me/sessions/{id}" { // the row before it logs everybody out
			loggedOut()
		}
		t.Run(row.route, func(t *testing.T) {
			for i, caller := range callers {
				got := ask(credential(caller))
				if got.Status != row.status[i] {
					t.Errorf("%s: status %d, want %d: %s", caller, got.Status, row.status[i], got.Body)
				}
			}
			for state, token := range bad {
				got := ask(token)
				want := row.public
				if want == 0 {
					want = 401
				} else if token != "" {
					want = row.status[0]
				}
				if got.Status != want {
					t.Errorf("%s: status %d, want %d: %s", state, got.Status, want, got.Body)
				}
				if row.public == 0 {
					challenge := got.Header.Get("WWW-Authenticate")
					if hasError := strings.Contains(challenge, `error="invalid_token"`); !strings.HasPrefix(challenge, "Bearer ") || hasError != (token != "") {
						t.Errorf("%s: challenge %q", state, challenge)
					}
				}
			}
		})
	}
	for route := range listed {
		t.Errorf("%s is missing in the matrix", route)
	}
}

// badTokens makes one token of each state that proves nothing.
func (w *world) badTokens() map[string]string {
	w.t.Helper()
	bad := map[string]string{"none": "", "malformed": "abc.def", "long": strings.Repeat("a", 5000)}

	out := w.login("user", userPassword)
	w.post("/logout", out, nil).is(204)
	bad["logged out"] = out

	id, token := w.user("disabled-one")
	w.do(request{method: "PATCH", path: "/admin/users/" + id, token: w.admin, json: `{"disabled":true}`}).is(200)
	bad["disabled user"] = token

	id, token = w.user("deleted-one")
	w.do(request{method: "DELETE", path: "/admin/users/" + id, token: w.admin}).is(204)
	bad["deleted user"] = token

	made := w.post("/users/me/keys", w.admin, map[string]any{"name": "gone"}).is(201)
	w.do(request{method: "DELETE", path: "/users/me/keys/" + made.field("id"), token: w.admin}).is(204)
	bad["deleted key"] = made.field("key")

	pair := w.tokens("user", userPassword)
	bad["refresh token"] = pair.RefreshToken

	parts := strings.Split(pair.AccessToken, ".")
	bad["forged"] = parts[0] + "." + parts[1] + "." + strings.Repeat("A", len(parts[2]))
	w.form("/revoke", "", url.Values{"token": {pair.AccessToken}}).is(200)
	bad["revoked"] = pair.AccessToken

	bad["expired"] = w.login("user", userPassword)
	w.clock.advance(16 * time.Minute)
	w.admin = w.login("admin", adminPassword)
	w.get("/users/me", w.admin).is(http.StatusOK)
	return bad
}

// credentials makes the callers of the matrix. credential gives a token of one;
// loggedOut says that the tokens are dead, so that new ones are made.
func (w *world) credentials() (credential func(caller string) string, loggedOut func()) {
	w.t.Helper()
	w.role("users-role", "users:manage")
	w.role("audit-role", "audit:read")
	w.role("metrics-role", "metrics:read")
	w.role("models-role", "models:manage")
	roles := map[string]string{"user": "", "scientist": "data-scientist", "users": "users-role", "auditor": "audit-role",
		"metrics": "metrics-role", "models": "models-role"}
	for name, role := range roles {
		if role == "" {
			w.user(name)
		} else {
			w.user(name, role)
		}
	}
	key := w.post("/users/me/keys", w.admin, map[string]any{"name": "all"}).is(201).field("key")
	scoped := w.post("/users/me/keys", w.admin, map[string]any{"name": "one", "models": []string{"other"}}).is(201).field("key")
	credentials := map[string]string{"key": key, "scoped": scoped}
	credential = func(caller string) string {
		if credentials[caller] == "" {
			password := userPassword
			if caller == "admin" {
				password = adminPassword
			}
			credentials[caller] = w.login(caller, password)
		}
		return credentials[caller]
	}
	loggedOut = func() { credentials = map[string]string{"key": key, "scoped": scoped} }
	return credential, loggedOut
}
