package api

import (
	"bytes"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"modelgate/api/oipgrpc/pb"
	"modelgate/auth"
	"modelgate/auth/authtest"
)

// delegations is, for every route that takes a bearer and every method over gRPC,
// what a provider's access token must delegate to come through: any one of these.
// The token's user may do everything.
var delegations = map[string]string{
	"POST /introspect": "account", "POST /logout": "account", "GET /users/me": "account", "POST /users/me/password": "account",
	"POST /users/me/totp": "account", "POST /users/me/totp/confirm": "account", "DELETE /users/me/totp": "account", "POST /users/me/recovery-codes": "account",
	"GET /users/me/keys": "account", "POST /users/me/keys": "account", "DELETE /users/me/keys/{id}": "account",
	"GET /users/me/sessions": "account", "DELETE /users/me/sessions": "account", "DELETE /users/me/sessions/{id}": "account",

	"GET /admin/users": "users:manage", "POST /admin/users": "users:manage", "GET /admin/users/{id}": "users:manage", "PATCH /admin/users/{id}": "users:manage",
	"DELETE /admin/users/{id}": "users:manage", "POST /admin/users/{id}/reset": "users:manage",
	"GET /admin/users/{id}/secrets": "users:manage", "POST /admin/users/{id}/secrets": "users:manage", "DELETE /admin/users/{id}/secrets/{secret}": "users:manage",
	"GET /admin/users/{id}/identities": "users:manage", "POST /admin/users/{id}/identities": "users:manage", "DELETE /admin/users/{id}/identities/{identity}": "users:manage",
	"GET /admin/users/{id}/sessions": "users:manage", "DELETE /admin/users/{id}/sessions": "users:manage",
	"DELETE /admin/users/{id}/sessions/{session}": "users:manage", "DELETE /admin/sessions": "users:manage",
	"GET /admin/roles": "users:manage", "PUT /admin/roles/{name}": "users:manage", "DELETE /admin/roles/{name}": "users:manage",
	"GET /admin/signing-keys": "users:manage", "POST /admin/signing-keys": "users:manage", "DELETE /admin/signing-keys/{id}": "users:manage",
	"GET /admin/audit": "audit:read", "GET /admin/audit/export": "audit:read", "GET /admin/metrics": "metrics:read",

	"GET /models": "predict", "GET /models/{name}": "predict", "POST /predict": "predict",
	"POST /models/{name}/versions": "models:write models:manage", "PATCH /models/{name}": "models:write models:manage",
	"DELETE /models/{name}": "models:write models:manage", "DELETE /models/{name}/versions/{version}": "models:write models:manage",

	"GET /v2": "predict", "GET /v2/models/{name}": "predict", "GET /v2/models/{name}/versions/{version}": "predict", "GET /v2/models/stats": "predict",
	"GET /v2/models/{name}/stats": "predict", "GET /v2/models/{name}/versions/{version}/stats": "predict", "GET /v2/models/{name}/config": "predict",
	"GET /v2/models/{name}/versions/{version}/config": "predict", "GET /v2/models/{name}/ready": "predict", "GET /v2/models/{name}/versions/{version}/ready": "predict",
	"POST /v2/models/{name}/infer": "predict", "POST /v2/models/{name}/versions/{version}/infer": "predict", "POST /v2/repository/index": "predict",
	"POST /v2/repository/models/{name}/load": "models:write models:manage", "POST /v2/repository/models/{name}/unload": "models:write models:manage",

	method("ServerMetadata"): "predict", method("ModelReady"): "predict", method("ModelMetadata"): "predict", method("ModelConfig"): "predict",
	method("ModelStatistics"): "predict", method("ModelInfer"): "predict", method("ModelStreamInfer"): "predict", method("RepositoryIndex"): "predict",
	method("RepositoryModelLoad"): "models:write models:manage", method("RepositoryModelUnload"): "models:write models:manage",
	"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo":      "metrics:read",
	"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": "metrics:read",
}

var scopes = strings.Fields("nothing predict account users:manage models:write models:manage audit:read metrics:read")

// withScopes maps each scope to what it is called after, but for nothing.
func withScopes(p *authtest.Provider) option {
	return func(c *auth.Config, _ *Config) {
		cfg := p.Config()
		cfg.TokenScopes, cfg.Roles["ml-managers"] = map[string][]string{}, []string{"managers"}
		for _, s := range scopes[1:] {
			cfg.TokenScopes[s] = []string{s}
		}
		c.Providers = []auth.Provider{cfg}
	}
}

// scoped are an administrator's access tokens, by the one scope of each.
func scoped(p *authtest.Provider, now time.Time) map[string]string {
	tokens := map[string]string{}
	for _, s := range scopes {
		tokens[s] = p.AccessToken(now, authtest.Members{"groups": []string{"ml-admins"}, "scope": s})
	}
	return tokens
}

// TestDelegationMatrix walks every route with a token of each scope: an
// administrator's access token does what it delegates and nothing else.
func TestDelegationMatrix(t *testing.T) {
	p := authtest.NewProvider(t)
	w := newWorld(t, noLimits, withScopes(p))
	tokens := scoped(p, w.clock.now())
	asked := 0
	for _, row := range matrix {
		method, path, _ := strings.Cut(row.route, " ")
		i := slices.IndexFunc(w.api.Routes(), func(r Route) bool { return r.Method == method && r.Path == path })
		if i < 0 || w.api.Routes()[i].Access == Public {
			continue // TestMatrix sees that no route is missing
		}
		opens := strings.Fields(delegations[row.route])
		if len(opens) == 0 {
			t.Errorf("%s is missing in the matrix of delegations", row.route)
		}
		if row.path != "" {
			path = row.path
		}
		for _, scope := range scopes {
			r := request{method: method, path: path, token: tokens[scope]}
			if row.json != "" {
				r.json = row.json
			}
			if row.form != "" {
				r.body, r.contentType = row.form, "application/x-www-form-urlencoded"
			}
			got := w.do(r)
			asked++
			lacks := strings.Contains(got.Header.Get("Www-Authenticate"), `error="insufficient_scope", error_description="your access token does not delegate `)
			if slices.Contains(opens, scope) {
				if lacks || got.Status == http.StatusUnauthorized {
					t.Errorf("%s with %s: refused: %d %s", row.route, scope, got.Status, got.Body)
				}
				continue
			}
			if got.Status != http.StatusForbidden || !lacks {
				t.Errorf("%s with %s: %d, challenge %q: %s", row.route, scope, got.Status, got.Header.Get("Www-Authenticate"), got.Body)
			}
			if !oauthRoute(path) && !oipRoute(path) {
				got.refused(403, "insufficient_scope")
			}
		}
	}
	if asked < 400 {
		t.Errorf("only %d requests", asked)
	}
	// Each refusal is recorded.
	before := w.lastRecord()
	w.get("/users/me", p.AccessToken(w.clock.now(), authtest.Members{"sub": "sub-2", "preferred_username": "bob", "scope": "predict"})).refused(403, "insufficient_scope")
	if last := w.since(before); len(last) != 2 || recordLine(last[1]) != "token.use denied bob /users/me insufficient_scope" {
		t.Errorf("recorded: %+v", last)
	}
}

// The same over gRPC.
func TestRPCDelegationMatrix(t *testing.T) {
	p := authtest.NewProvider(t)
	w := newRPCWorld(t, false, noLimits, withScopes(p))
	tokens := scoped(p, w.clock.now())
	for _, r := range w.api.RPCs() {
		if r.Access == Public {
			continue
		}
		opens := strings.Fields(delegations[r.Path])
		if len(opens) == 0 {
			t.Errorf("%s is missing in the matrix of delegations", r.Path)
		}
		for _, scope := range scopes {
			code, words, _ := w.rawPath(r.Path, tokens[scope], nil, bytes.NewReader(frame(0, encoded(t, rpcMatrix[r.Path].message))))
			lacks := strings.Contains(words, "your access token does not delegate ")
			if slices.Contains(opens, scope) == lacks || lacks && code != "7" {
				t.Errorf("%s with %s: %s %s", r.Path, scope, code, words)
			}
		}
	}
}

// Several scopes open together what each of them opens, and a user has no more by
// them than he has.
func TestDelegationIsNoPermission(t *testing.T) {
	p := authtest.NewProvider(t)
	w := newWorld(t, noLimits, withScopes(p))
	now := w.clock.now()
	all := strings.Join(scopes, " ")
	user := p.AccessToken(now, authtest.Members{"scope": all})
	w.get("/users/me", user).is(200)
	w.get("/models", user).is(200)
	for _, path := range []string{"/admin/users", "/admin/audit", "/admin/metrics"} {
		w.get(path, user).refused(403, "forbidden")
	}
	w.post("/users/me/keys", p.AccessToken(now, authtest.Members{"scope": "account", "auth_time": now.Unix()}), `{"name":"k"}`).refused(403, "insufficient_scope")
	w.post("/users/me/keys", p.AccessToken(now, authtest.Members{"scope": all, "auth_time": now.Unix()}), `{"name":"k"}`).is(201)

	admin := p.AccessToken(now.Add(time.Second), authtest.Members{"groups": []string{"ml-admins"}, "scope": "account audit:read"})
	w.get("/admin/audit", admin).is(200)
	w.get("/users/me", admin).is(200)
	w.get("/admin/users", admin).refused(403, "insufficient_scope")

	// Where one of two permissions does, it is named that the user has.
	w.role("managers", "models:manage")
	manager := p.AccessToken(now, authtest.Members{"sub": "sub-2", "groups": []string{"ml-managers"}, "scope": "predict"})
	got := w.do(request{method: "DELETE", path: "/models/none", token: manager})
	if detail := got.refused(403, "insufficient_scope"); !strings.Contains(detail, "models:manage") {
		t.Errorf("%s", detail)
	}
}

// A token that delegates predict opens, in every way, the models that are open to
// its user, by his permission models:manage too; but shows and changes nothing
// that managers alone see and change.
func TestPredictDelegatesWhatIsOpen(t *testing.T) {
	p := authtest.NewProvider(t)
	w := newRPCWorld(t, true, noLimits, withScopes(p))
	w.upload(w.admin, "iris", "iris.onnx", "").is(201)
	manager := p.AccessToken(w.clock.now(), authtest.Members{"groups": []string{"ml-admins"}, "scope": "predict"})
	user := p.AccessToken(w.clock.now(), authtest.Members{"sub": "sub-2", "preferred_username": "bob", "scope": "predict"})

	var list struct{ Items []struct{ Name string } }
	w.get("/models", manager).is(200).decode(&list)
	if len(list.Items) != 1 || list.Items[0].Name != "iris" {
		t.Errorf("lists %+v", list)
	}
	w.post("/predict", manager, irisRow).is(200)
	w.post("/v2/models/iris/infer", manager, `{"inputs":[{"name":"X","datatype":"FP32","shape":[1,4],"data":[5.1,3.5,1.4,0.2]}]}`).is(200)
	w.call(as(manager), "ModelInfer", row("iris"), new(pb.ModelInferResponse)).ok()

	all, seen := w.get("/models/iris", w.admin).is(200), w.get("/models/iris", manager).is(200)
	for _, members := range []string{`"owner"`, `"versions"`, `"roles"`, `"digest"`} {
		if !bytes.Contains(all.Body, []byte(members)) || bytes.Contains(seen.Body, []byte(members)) {
			t.Errorf("%s: a manager sees %s\nby his token: %s", members, all.Body, seen.Body)
		}
	}
	w.do(request{method: "PATCH", path: "/models/iris", token: manager, json: `{"description":"mine"}`}).refused(403, "insufficient_scope")
	w.do(request{method: "DELETE", path: "/models/iris", token: manager}).refused(403, "insufficient_scope")

	w.post("/predict", user, irisRow).refused(403, "forbidden")
	w.call(as(user), "ModelInfer", row("iris"), new(pb.ModelInferResponse)).refused(codes.PermissionDenied, "not open to you")
}

// Who needs a second factor, and does not prove one to his provider, reads what to
// do, as a token and in a browser.
func TestProviderSecondFactorAtTheAPI(t *testing.T) {
	p := authtest.NewProvider(t)
	w := newWorld(t, noLimits, withProvider(p), func(c *auth.Config, _ *Config) {
		c.RequireTOTP, c.Providers[0].SecondFactorAMR = []string{"data-scientist"}, []string{"otp"}
	})
	w.http.Client().CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	now := w.clock.now()
	weak := authtest.Members{"groups": []string{"ml-makers"}, "amr": []string{"pwd"}}
	strong := authtest.Altered(weak, authtest.Members{"amr": []string{"pwd", "otp"}})
	for path := range map[string]bool{"/users/me": true, "/models": true, "/v2": true} {
		got := w.get(path, p.AccessToken(now, weak))
		if challenge := got.Header.Get("Www-Authenticate"); got.Status != 403 || !strings.Contains(challenge, `error="insufficient_user_authentication"`) {
			t.Errorf("%s: %d, challenge %q", path, got.Status, challenge)
		}
		w.get(path, p.AccessToken(now, strong)).is(200)
	}
	w.get("/users/me", p.AccessToken(now, weak)).refused(403, "second_factor_required")

	walk := func(claims authtest.Members) answer {
		began := w.get("/console/oidc/corp", "").is(303)
		back := p.SignIn(began.Header.Get("Location"), authtest.Altered(idClaims(p, now), claims))
		return w.do(request{method: "GET", path: back.RequestURI(), header: withCookies(began)})
	}
	refused := walk(weak)
	refused.refused(403, "second_factor_required")
	for _, line := range refused.Header["Set-Cookie"] {
		if strings.HasPrefix(line, cookieName+"=") {
			t.Errorf("a session for who is refused: %s", line)
		}
	}
	session := withCookies(walk(strong).is(200))
	w.do(request{method: "GET", path: "/console/session", header: session}).is(200)

	// In a session from before, the same.
	session = withCookies(walk(authtest.Members{"sub": "sub-2", "preferred_username": "bob"}).is(200))
	w.do(request{method: "GET", path: "/console/session", header: session}).is(200)
	w.get("/models", p.AccessToken(now.Add(time.Second), authtest.Altered(strong, authtest.Members{"sub": "sub-2"}))).is(200)
	w.do(request{method: "GET", path: "/console/session", header: session}).refused(403, "second_factor_required")
}
