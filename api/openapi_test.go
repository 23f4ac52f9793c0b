package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"

	"modelgate/auth"
	"modelgate/auth/authtest"
)

// spec is openapi.yaml as callers get it, loaded once for all tests.
var spec = sync.OnceValues(func() (*openapi3.T, error) {
	data, err := openapiJSON()
	if err != nil {
		return nil, err
	}
	openapi3filter.RegisterBodyDecoder("text/html", openapi3filter.RegisteredBodyDecoder("text/plain"))
	openapi3filter.RegisterBodyDecoder("application/x-ndjson", openapi3filter.RegisteredBodyDecoder("text/plain"))
	doc, err := openapi3.NewLoader().LoadFromData(data)
	if err != nil {
		return nil, err
	}
	return doc, doc.Validate(context.Background())
})

// describe finds the operation of the specification that a request is.
func describe(doc *openapi3.T, method string, u *url.URL) *routers.Route {
	best := ""
	for path, item := range doc.Paths.Map() {
		// "/users/me" is nearer than "/users/{id}".
		if matchPath(path, u.Path) && item.GetOperation(method) != nil && (best == "" || strings.Count(path, "{") < strings.Count(best, "{")) {
			best = path
		}
	}
	if best == "" {
		return nil
	}
	item := doc.Paths.Value(best)
	return &routers.Route{Spec: doc, Path: best, PathItem: item, Method: method, Operation: item.GetOperation(method)}
}

// checkContract holds an answer against the specification. Every request of
// every test passes through here.
func (w *world) checkContract(req *http.Request, got answer) {
	w.t.Helper()
	doc, err := spec()
	if err != nil {
		w.t.Fatalf("openapi.yaml: %v", err)
	}
	rt := describe(doc, req.Method, req.URL)
	if rt == nil || req.URL.RawPath != "" {
		return
	}
	if w.seen != nil {
		w.seen(req.Method, rt.Path, got.Status)
	}
	asked := &openapi3filter.RequestValidationInput{Request: req, Route: rt}
	if body := rt.Operation.RequestBody; body != nil && got.Status < 300 && req.GetBody != nil && hasMediaType(req, "application/json") {
		// What is accepted must be what the specification says is accepted.
		var err error
		if req.Body, err = req.GetBody(); err == nil {
			err = openapi3filter.ValidateRequestBody(context.Background(), asked, body.Value)
		}
		if err != nil {
			w.t.Errorf("%s: accepted, but openapi.yaml refuses it: %v", got.what, err)
		}
	}
	in := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: asked,
		Status:                 got.Status,
		Header:                 got.Header,
		Body:                   io.NopCloser(bytes.NewReader(got.Body)),
		Options:                &openapi3filter.Options{IncludeResponseStatus: true, MultiError: true},
	}
	if err := openapi3filter.ValidateResponse(context.Background(), in); err != nil {
		w.t.Errorf("%s: the answer %d is not what openapi.yaml says: %v", got.what, got.Status, err)
	}
}

// TestOpenAPIRoutes compares the specification with the route table, both
// ways: methods, paths, who may call, and the status of success.
func TestOpenAPIRoutes(t *testing.T) {
	doc, err := spec()
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	routes := map[string]*route{}
	for _, r := range w.api.routes {
		routes[r.Method+" "+r.Path] = r
	}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			name := method + " " + path
			r := routes[name]
			if r == nil {
				t.Errorf("openapi.yaml has %s, which is no route", name)
				continue
			}
			delete(routes, name)
			if open := op.Security != nil && len(*op.Security) == 0; open != (r.Access == Public) {
				t.Errorf("%s: security %v, but the route is %s", name, op.Security, r.Access)
			}
			if got, _ := op.Extensions["x-permission"].(string); got != permissionText(r.Route) {
				t.Errorf("%s: x-permission %q, want %q", name, got, permissionText(r.Route))
			}
			if op.Responses.Status(r.status) == nil {
				t.Errorf("%s: no answer for its success, %d", name, r.status)
			}
			if op.Summary == "" || op.OperationID == "" || len(op.Tags) != 1 {
				t.Errorf("%s: summary, operationId or tag is missing", name)
			}
			needed := []int{400, 500}
			if r.Access != Public {
				needed = append(needed, 401, 429, 503)
			}
			if r.Permission != 0 || r.console() && r.Method != http.MethodGet {
				needed = append(needed, 403)
			}
			if strings.Contains(path, "{") {
				needed = append(needed, 404) // a name in another encoding than the plain one is no route
			}
			for _, status := range needed {
				if op.Responses.Status(status) == nil {
					t.Errorf("%s: no answer %d", name, status)
				}
			}
		}
	}
	for name := range routes {
		t.Errorf("%s is missing in openapi.yaml", name)
	}
}

func permissionText(r Route) string {
	text := strings.Join(r.Permission.Names(), " and ")
	if r.Or != 0 {
		text += " or " + strings.Join(r.Or.Names(), " and ")
	}
	return text
}

// TestOpenAPICodes holds the list of codes in the specification against the
// table of errors.
func TestOpenAPICodes(t *testing.T) {
	doc, err := spec()
	if err != nil {
		t.Fatal(err)
	}
	text := doc.Components.Schemas["Problem"].Value.Properties["code"].Value.Description
	// Codes that no problem shows: those of OAuth, and of gRPC.
	hidden := map[string]bool{"unimplemented": true, "invalid_request": true, "invalid_client": true, "unauthorized_client": true, "invalid_scope": true, "unsupported_grant_type": true}
	words := strings.FieldsFunc(text, func(r rune) bool { return r != '_' && (r < 'a' || r > 'z') })
	for code := range outcomes {
		found := false
		for _, word := range words {
			found = found || word == code
		}
		if found == hidden[code] {
			t.Errorf("code %s: in the specification %v, hidden %v", code, found, hidden[code])
		}
	}
}

// TestOpenAPIRequests compares the fields of request bodies, both ways: what
// the server decodes and what the specification promises.
func TestOpenAPIRequests(t *testing.T) {
	doc, err := spec()
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]any{
		"Registration": registerRequest{}, "Login": loginRequest{}, "Refresh": refreshRequest{}, "Reauthentication": reauthenticateRequest{}, "PasswordReset": resetRequest{},
		"PasswordChange": passwordRequest{}, "KeyRequest": keyRequest{}, "UserRequest": userRequest{}, "UserPatch": userPatch{}, "SecretRequest": secretRequest{},
		"IdentityRequest": identityRequest{}, "RoleRequest": roleRequest{}, "UploadSpec": uploadSpec{}, "ModelPatch": modelPatch{}, "Disclosure": disclosure{}, "Rule": rule{},
		"Serving": serving{},
	} {
		schema := doc.Components.Schemas[name]
		if schema == nil {
			t.Errorf("openapi.yaml has no schema %s", name)
			continue
		}
		fields := map[string]bool{}
		for _, f := range reflect.VisibleFields(reflect.TypeOf(v)) {
			if tag, _, _ := strings.Cut(f.Tag.Get("json"), ","); tag != "" {
				fields[tag] = true
			}
		}
		for f := range schema.Value.Properties {
			if !fields[f] {
				t.Errorf("%s: openapi.yaml has %s, which is refused", name, f)
			}
			delete(fields, f)
		}
		for f := range fields {
			t.Errorf("%s: %s is taken, but openapi.yaml does not have it", name, f)
		}
	}
}

// TestOpenAPIServed: what is served is the file, as JSON.
func TestOpenAPIServed(t *testing.T) {
	w := newWorld(t)
	got := w.get("/openapi.json", "").is(200)
	var doc map[string]any
	got.decode(&doc)
	if !strings.HasPrefix(doc["openapi"].(string), "3.") || got.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%v as %q", doc["openapi"], got.Header.Get("Content-Type"))
	}
	page := string(w.get("/docs", "").is(200).Body)
	for _, r := range w.api.Routes() {
		if r.Method != "HEAD" && !strings.Contains(page, r.Method+" "+r.Path+"<") {
			t.Errorf("the documentation page lacks %s %s", r.Method, r.Path)
		}
	}
	policy := w.get("/docs", "").Header.Get("Content-Security-Policy")
	style := page[strings.Index(page, "<style>")+len("<style>") : strings.Index(page, "</style>")]
	if hash := sha256.Sum256([]byte(style)); !strings.Contains(policy, base64.StdEncoding.EncodeToString(hash[:])) || strings.Contains(policy, "unsafe") {
		t.Errorf("the page's policy is %q", policy)
	}
	for _, outside := range []string{"<script", "http://", "https://", "src=", "@import", "url("} {
		if strings.Contains(page, outside) {
			t.Errorf("the documentation page has %q", outside)
		}
	}
}

// TestOpenAPIWalk goes through every route to its success; checkContract looks
// at each answer on the way.
func TestOpenAPIWalk(t *testing.T) {
	p := authtest.NewProvider(t)
	w := newWorld(t, noLimits, withProvider(p))
	seen := map[string]bool{}
	w.seen = func(method, path string, status int) {
		if status < 400 {
			seen[method+" "+path] = true
		}
	}
	for _, path := range []string{"/", "/healthz", "/readyz", "/openapi.json", "/docs", "/.well-known/jwks.json", "/.well-known/oauth-authorization-server"} {
		w.get(path, "").is(200)
	}
	w.do(request{method: "HEAD", path: "/healthz"}).is(200)
	w.do(request{method: "HEAD", path: "/readyz"}).is(200)
	w.walkIdentity()
	w.walkTOTP()
	w.walkAdministration()
	w.walkModels()
	w.walkOIP()
	w.walkExternal(p)
	b := w.inBrowser()
	b.walkBrowser()
	b.walkTOTP()
	b.walkAdministration()
	b.walkModels()
	for _, r := range w.api.routes {
		if r.status < 400 && !seen[r.Method+" "+r.Path] { // one is always refused
			t.Errorf("the walk did not come to the success of %s %s", r.Method, r.Path)
		}
	}
}

func (w *world) walkIdentity() {
	w.t.Helper()
	w.user("walker")
	pair := w.tokens("walker", userPassword)
	w.post("/refresh", "", map[string]string{"refresh_token": pair.RefreshToken}).is(200).decode(&pair)
	token := pair.AccessToken
	w.get("/users/me", token).is(200)
	made := w.post("/users/me/keys", token, `{"name":"walk","expires_in":3600,"models":["iris"]}`).is(201)
	w.get("/users/me", made.field("key")).is(200)
	w.post("/users/me/keys", token, `{"name":"for ever"}`).is(201)
	w.get("/users/me/keys", token).is(200)
	w.do(request{method: "DELETE", path: "/users/me/keys/" + made.field("id"), token: token}).is(204)
	other := w.tokens("walker", userPassword)
	var list page[session]
	w.get("/users/me/sessions", token).is(200).decode(&list)
	for _, x := range list.Items {
		if !x.Current {
			w.do(request{method: "DELETE", path: "/users/me/sessions/" + x.ID, token: token}).is(204)
		}
	}
	w.get("/users/me", other.AccessToken).refused(401, "invalid_token")
	w.do(request{method: "DELETE", path: "/users/me/sessions", token: token}).is(204)
	token = w.login("walker", userPassword)
	w.post("/users/me/password", token, map[string]string{"current_password": userPassword, "new_password": "another unusual phrase 4"}).is(204)

	w.form("/token", "", url.Values{"grant_type": {"password"}, "username": {"walker"}, "password": {"another unusual phrase 4"}}).is(200).decode(&pair)
	w.form("/introspect", pair.AccessToken, url.Values{"token": {pair.AccessToken}}).is(200)
	w.form("/introspect", pair.AccessToken, url.Values{"token": {pair.RefreshToken}}).is(200)
	w.form("/revoke", "", url.Values{"token": {pair.RefreshToken}}).is(200)
	w.post("/logout", token, nil).is(204)
}

func (w *world) walkBrowser() {
	w.t.Helper()
	_, cookie := w.user("browser")
	w.get("/console/session", cookie).is(200)
	cookie = w.post("/console/session/reauthenticate", cookie, map[string]string{"password": userPassword}).is(200).cookie()
	w.get("/users/me", cookie).is(200)
	made := w.post("/users/me/keys", cookie, `{"name":"walk"}`).is(201)
	w.get("/users/me/keys", cookie).is(200)
	w.do(request{method: "DELETE", path: "/users/me/keys/" + made.field("id"), token: cookie}).is(204)
	w.login("browser", userPassword)
	var list page[session]
	w.get("/users/me/sessions", cookie).is(200).decode(&list)
	for _, x := range list.Items {
		if !x.Current {
			w.do(request{method: "DELETE", path: "/users/me/sessions/" + x.ID, token: cookie}).is(204)
		}
	}
	w.post("/users/me/password", cookie, map[string]string{"current_password": userPassword, "new_password": "another unusual phrase 4"}).is(204)
	w.do(request{method: "DELETE", path: "/console/session", token: cookie}).is(204)
	cookie = w.login("browser", "another unusual phrase 4")
	w.do(request{method: "DELETE", path: "/users/me/sessions", token: cookie}).is(204)
}

func (w *world) walkAdministration() {
	w.t.Helper()
	w.do(request{method: "PUT", path: "/admin/roles/analyst", token: w.admin, json: `{"permissions":["audit:read"],"rate_limit":"600-M"}`}).is(200)
	w.get("/admin/roles", w.admin).is(200)
	made := w.post("/admin/users", w.admin, `{"username":"invited","roles":["analyst"]}`).is(201)
	w.post("/register", "", map[string]string{"invite_token": made.field("invite_token"), "password": userPassword}).is(201)
	w.get("/admin/users?limit=1", w.admin).is(200)
	service := w.post("/admin/users", w.admin, `{"username":"nightly","roles":["analyst"],"kind":"service"}`).is(201)
	secrets := "/admin/users/" + service.field("id") + "/secrets"
	second := w.post(secrets, w.admin, `{"expires_in":3600}`).is(201)
	w.get(secrets, w.admin).is(200)
	w.form("/token", "", url.Values{"grant_type": {"client_credentials"}, "client_id": {service.field("client_id")}, "client_secret": {second.field("client_secret")}}).is(200)
	w.do(request{method: "DELETE", path: secrets + "/" + second.field("id"), token: w.admin}).is(204)
	next := w.post("/admin/signing-keys", w.admin, nil).is(201)
	w.get("/admin/signing-keys", w.admin).is(200)
	w.do(request{method: "DELETE", path: "/admin/signing-keys/" + next.field("id"), token: w.admin}).is(204)
	w.do(request{method: "DELETE", path: "/admin/users/" + service.field("id"), token: w.admin}).is(204)
	path := "/admin/users/" + made.field("id")
	w.get(path, w.admin).is(200)
	w.login("invited", userPassword)
	var list page[session]
	w.get(path+"/sessions", w.admin).is(200).decode(&list)
	w.do(request{method: "DELETE", path: path + "/sessions/" + list.Items[0].ID, token: w.admin}).is(204)
	w.do(request{method: "DELETE", path: path + "/sessions", token: w.admin}).is(204)
	w.do(request{method: "DELETE", path: "/admin/sessions", token: w.admin}).is(204)
	w.admin = w.login("admin", adminPassword)
	linked := w.post(path+"/identities", w.admin, `{"provider":"corp","subject":"walker"}`).is(201)
	w.get(path+"/identities", w.admin).is(200)
	w.do(request{method: "DELETE", path: path + "/identities/" + linked.field("id"), token: w.admin}).is(204)
	reset := w.post(path+"/reset", w.admin, nil).is(200).field("reset_token")
	w.post("/password-reset", "", map[string]string{"reset_token": reset, "password": "another unusual phrase 4"}).is(204)
	w.do(request{method: "PATCH", path: path, token: w.admin, json: `{"roles":["user"],"disabled":true}`}).is(200)
	w.do(request{method: "DELETE", path: path, token: w.admin}).is(204)
	w.do(request{method: "DELETE", path: "/admin/roles/analyst", token: w.admin}).is(204)
	w.get("/admin/audit?limit=3&actor=admin&action=user.create", w.admin).is(200)
	w.get("/admin/audit/export", w.admin).is(200)
	w.get("/admin/audit", w.admin).is(200)
	w.get("/admin/metrics", w.admin).is(200)
}

func (w *world) walkModels() {
	w.t.Helper()
	w.iris()
	w.upload(w.admin, "iris", "iris_v2.onnx", `{"description":"flowers","default":true,"disclosure":{"decimals":2,"roles":{"user":{"outputs":["label"]}}},"serving":{"timeout_ms":1000}}`).is(201)
	_, ada := w.user(fmt.Sprintf("reader-%t", w.browser))
	for _, token := range []string{w.admin, ada} {
		w.get("/models", token).is(200)
		w.get("/models/iris", token).is(200)
		w.post("/predict", token, irisRow).is(200)
	}
	w.do(request{method: "PATCH", path: "/models/iris", token: w.admin, json: `{"aliases":{"old":1},"roles":["user"]}`}).is(200)
	w.post("/predict", ada, `{"model":"iris","alias":"old","id":"r1","inputs":[[1,2,3,4]]}`).is(200)
	w.do(request{method: "PATCH", path: "/models/iris", token: w.admin, json: `{"aliases":{}}`}).is(200)
	w.do(request{method: "DELETE", path: "/models/iris/versions/1", token: w.admin}).is(204)
	w.do(request{method: "DELETE", path: "/models/iris", token: w.admin}).is(204)
}

// TestErrorTable: every code that a room may answer with has its place in the
// table, and nothing else does but as an internal error.
func TestErrorTable(t *testing.T) {
	for code, status := range codesOfRooms(t) {
		if renamed, ok := outward[code]; ok {
			code = renamed
		}
		if _, ok := outcomes[code]; !ok {
			t.Errorf("%s has the code %q, which errors.go does not know", status, code)
		}
	}
	r := refuse(io.ErrClosedPipe)
	if data, _ := r.body("/x", "id"); r.status != 500 || strings.Contains(string(data), "pipe") {
		t.Errorf("an unknown error: %+v", r)
	}
	// The outermost room's word counts.
	if r := refuse(auth.ErrUnavailable.Because(auth.ErrForbidden)); r.code != "unavailable" {
		t.Errorf("an error with another as its cause: %+v", r)
	}
	if r := refuse(auth.ErrToken.Because(auth.ErrReused)); r.code != "invalid_token" || r.detail != auth.ErrToken.Detail {
		t.Errorf("a replayed refresh token: %+v", r)
	}
	if r := refuse(&auth.Error{Code: "never_heard_of", Detail: "an inner secret"}); r.status != 500 || strings.Contains(r.detail, "secret") {
		t.Errorf("an unknown code: %+v", r)
	}
	var v map[string]string
	data, _ := refusal{status: 400, oauth: "invalid_request", detail: "a \"quote\" \\ and\nmore é"}.body("/token", "id")
	if err := json.Unmarshal(data, &v); err != nil || v["error_description"] != "a 'quote' ? and?more ?" {
		t.Errorf("an error_description has characters that RFC 6749 does not permit: %s", data)
	}
}
