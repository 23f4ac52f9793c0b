package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"modelgate/auth"
)

func TestUsersPages(t *testing.T) {
	w := newWorld(t, noLimits)
	for i := range 5 {
		w.post("/admin/users", w.admin, fmt.Sprintf(`{"username":"user%d","roles":[]}`, i)).is(201)
	}
	var names []string
	for after, more := "", true; more; {
		var p page[user]
		w.get("/admin/users?limit=2&after="+url.QueryEscape(after), w.admin).is(200).decode(&p)
		if len(p.Items) > 2 {
			t.Fatalf("%d items of at most 2", len(p.Items))
		}
		for _, u := range p.Items {
			names = append(names, u.Username)
		}
		after, more = p.Next, p.Next != ""
	}
	if strings.Join(names, " ") != "admin user0 user1 user2 user3 user4" {
		t.Errorf("the pages have %v", names)
	}
	if body := string(w.get("/admin/users", w.admin).Body); strings.Contains(body, "argon2") || strings.Contains(body, "hash") {
		t.Errorf("users with their hashes: %s", body)
	}
}

// TestAdministrationRules is row Z5 over HTTP.
func TestAdministrationRules(t *testing.T) {
	w := newWorld(t, noLimits)
	w.role("helpdesk", "users:manage")
	helperID, helper := w.user("helper", "helpdesk")
	adminID := w.get("/users/me", w.admin).field("id")
	patch := func(token, id, body string) answer {
		return w.do(request{method: "PATCH", path: "/admin/users/" + id, token: token, json: body})
	}
	patch(w.admin, adminID, `{"roles":["user"]}`).refused(409, "last_admin")
	patch(w.admin, adminID, `{"disabled":true}`).refused(409, "last_admin")
	w.do(request{method: "DELETE", path: "/admin/users/" + adminID, token: w.admin}).refused(409, "last_admin")
	patch(helper, helperID, `{"roles":["admin"]}`).refused(403, "forbidden")
	patch(helper, helperID, `{"roles":["helpdesk","user","data-scientist"]}`).refused(403, "forbidden")
	bobID, _ := w.user("bob")
	patch(helper, bobID, `{"roles":["admin"]}`).refused(403, "forbidden")
	patch(helper, bobID, `{"roles":["nothing"]}`).refused(400, "invalid_input")
	patch(helper, adminID, `{"disabled":true}`).is(409)
	w.do(request{method: "POST", path: "/admin/users/" + adminID + "/reset", token: helper}).refused(403, "forbidden")
	w.do(request{method: "PUT", path: "/admin/roles/strong", token: helper, json: `{"permissions":["models:manage"]}`}).refused(403, "forbidden")
	w.do(request{method: "PUT", path: "/admin/roles/odd", token: w.admin, json: `{"permissions":["models:eat"]}`}).refused(400, "invalid_input")
	w.do(request{method: "PUT", path: "/admin/roles/odd", token: w.admin, json: `{"rate_limit":"fast"}`}).refused(400, "invalid_input")
	for _, name := range []string{"admin", "data-scientist", "user"} {
		w.do(request{method: "PUT", path: "/admin/roles/" + name, token: w.admin, json: `{"permissions":[]}`}).refused(409, "builtin_role")
		w.do(request{method: "DELETE", path: "/admin/roles/" + name, token: w.admin}).refused(409, "builtin_role")
	}
	w.do(request{method: "DELETE", path: "/admin/roles/helpdesk", token: w.admin}).refused(409, "in_use")
}

// TestAuditOverHTTP: what was done is there, newest first, in pages.
func TestAuditOverHTTP(t *testing.T) {
	w := newWorld(t, noLimits)
	_, ada := w.user("ada")
	for i := range 5 {
		w.get("/admin/users", ada).refused(403, "forbidden")
		w.role(fmt.Sprintf("role%d", i))
	}
	var all []auditEntry
	for after, more := "", true; more; {
		var p page[auditEntry]
		w.get("/admin/audit?actor=Admin&action=role.put&limit=2&after="+after, w.admin).is(200).decode(&p)
		all = append(all, p.Items...)
		after, more = p.Next, p.Next != ""
	}
	if len(all) != 5 {
		t.Fatalf("%d records of role.put, want 5", len(all))
	}
	for i, e := range all {
		if e.Target != fmt.Sprintf("role%d", 4-i) || e.Outcome != "allowed" || e.Actor != "admin" || e.RequestID == "" || e.Address != "127.0.0.1" {
			t.Errorf("record %d: %+v", i, e)
		}
	}
	var denied page[auditEntry]
	w.get("/admin/audit?actor=ada&action=user.list", w.admin).is(200).decode(&denied)
	if len(denied.Items) == 0 || denied.Items[0].Outcome != "denied" {
		t.Errorf("the denials: %+v", denied.Items)
	}
	for _, query := range []string{"after=x", "after=-1", "after=0", "limit=0"} {
		w.get("/admin/audit?"+query, w.admin).refused(400, "invalid_input")
	}
}

// TestAuditFails is row G4's other half: without its record a change does not
// happen.
func TestAuditFails(t *testing.T) {
	w := newWorld(t, noLimits)
	w.iris()
	_, ada := w.user("ada")
	if err := w.audit.Close(); err != nil {
		t.Fatal(err)
	}
	w.do(request{method: "PUT", path: "/admin/roles/late", token: w.admin, json: `{}`}).refused(503, "unavailable")
	w.post("/admin/users", w.admin, `{"username":"late","roles":[]}`).refused(503, "unavailable")
	w.post("/login", "", map[string]string{"username": "ada", "password": userPassword}).refused(503, "unavailable")
	w.do(request{method: "DELETE", path: "/models/iris", token: w.admin}).refused(503, "unavailable")
	w.post("/predict", ada, irisRow).is(200)
}

// TestMetrics: what was asked for is counted under bounded labels, and nothing
// that a caller chose becomes one (row G6).
func TestMetrics(t *testing.T) {
	w := newWorld(t, limits(Limits{Predict: "1-M", Login: "10-M"}))
	_, ada := w.user("canary-user")
	w.get("/models/canary-model", ada)
	w.get("/canary-path?canary-query=1", ada)
	w.do(request{method: "CANARYMETHOD", path: "/users/me"})
	w.post("/predict", ada, irisRow)
	w.post("/predict", ada, irisRow).is(429)
	w.get("/users/me", "mg_canary")
	w.post("/login", "", map[string]string{"username": "canary-user", "password": "wrong password 1"})
	got := w.get("/admin/metrics", w.admin).is(200)
	if kind := got.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/plain; version=0.0.4") {
		t.Errorf("Content-Type %q", kind)
	}
	text := string(got.Body)
	for _, want := range []string{
		`modelgate_http_requests_total{method="GET",route="/models/{name}",status="403"} 1`,
		`modelgate_http_requests_total{method="GET",route="unmatched",status="404"} 1`,
		`modelgate_http_requests_total{method="other",route="wrong method",status="405"} 1`,
		`modelgate_http_requests_total{method="POST",route="/predict",status="429"} 1`,
		`modelgate_http_request_seconds_count{method="POST",route="/predict"} 2`,
		`modelgate_limit_refusals_total{limit="predict"} 1`,
		`modelgate_limit_refusals_total{limit="register"} 0`, // there before the first
		`modelgate_http_bad_credentials_total 1`,
		`modelgate_http_refusals_total{code="rate_limited"} 1`,
		`modelgate_http_refusals_total{code="forbidden"} 2`,
		`modelgate_http_refusals_total{code="invalid_token"} 1`,
		`modelgate_http_refusals_total{code="unauthenticated"} 0`,
		`modelgate_http_refusals_total{code="unavailable"} 0`,
		`modelgate_build_info{version="test"} 1`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	if strings.Contains(strings.ToLower(text), "canary") {
		t.Error("something that a caller chose is in the metrics")
	}
}

// TestNoSecretsWritten is row G2: passwords, tokens and keys are in no log
// line, metric or answer but the one that gives them.
func TestNoSecretsWritten(t *testing.T) {
	w := newWorld(t, noLimits)
	w.iris()
	id, _ := w.user("ada")
	pair := w.tokens("ada", userPassword)
	key := w.post("/users/me/keys", pair.AccessToken, `{"name":"k"}`).is(201).field("key")
	reset := w.post("/admin/users/"+id+"/reset", w.admin, nil).is(200).field("reset_token")
	client, clientSecret := w.service("robot")
	const typo = "canary password 4711"
	secrets := []string{userPassword, adminPassword, typo, pair.AccessToken, pair.RefreshToken, key, reset, clientSecret,
		pair.AccessToken[strings.LastIndexByte(pair.AccessToken, '.')+1:]}
	check := func(where, text string) {
		t.Helper()
		for i, s := range secrets {
			if strings.Contains(text, s) {
				t.Errorf("%s holds the secret number %d", where, i)
			}
		}
	}
	for _, got := range []answer{
		w.post("/login", "", map[string]string{"username": "ada", "password": typo}),
		w.post("/login", "", `{"username":"`+typo+`","passwort":"`+typo+`"}`),
		w.get("/users/me?access_token="+pair.AccessToken, ""),
		w.get("/users/me", key+"x"),
		w.get("/users/me", pair.AccessToken),
		w.get("/"+pair.RefreshToken, ""),
		w.post("/predict", key, irisRow),
		w.post("/refresh", "", map[string]string{"refresh_token": pair.RefreshToken + "x"}),
		w.post("/password-reset", "", map[string]string{"reset_token": reset, "password": "short"}),
		w.formWith("/token", basic(client, clientSecret), "grant_type", "password"),
		w.formWith("/token", nil, "grant_type", "client_credentials", "client_id", clientSecret, "client_secret", clientSecret),
		w.formWith("/token", basic(client, clientSecret), "grant_type", "client_credentials", "client_secret", clientSecret),
		w.get("/admin/users/"+client+"/secrets", w.admin),
		w.form("/revoke", "", url.Values{"token": {key}}),
		w.form("/introspect", w.admin, url.Values{"token": {pair.RefreshToken}}),
		w.get("/admin/audit", w.admin), w.get("/admin/metrics", w.admin), w.get("/users/me/keys", pair.AccessToken),
	} {
		check("the answer to "+got.what[:min(len(got.what), 20)], string(got.Body))
	}
	w.api.Close()
	check("the log", w.log.String())
	if !strings.Contains(w.log.String(), `"msg":"request"`) {
		t.Error("there are no log lines to look at")
	}
}

// TestLogLines: one line for a request, with its id, and nothing of its path.
func TestLogLines(t *testing.T) {
	w := newWorld(t, noLimits)
	id, ada := w.user("ada")
	got := w.get("/models/secret-name?secret-query=1", ada)
	w.api.Close()
	log := w.log.String()
	i := strings.Index(log, got.Header.Get("X-Request-Id"))
	if i < 0 {
		t.Fatal("the request is not logged")
	}
	line := log[strings.LastIndexByte(log[:i], '\n')+1:]
	line = line[:strings.IndexByte(line, '\n')]
	var fields map[string]any
	if err := json.Unmarshal([]byte(line), &fields); err != nil {
		t.Errorf("%v in %s", err, line)
	}
	if at, err := time.Parse(time.RFC3339Nano, fields["time"].(string)); err != nil || time.Since(at) > time.Minute {
		t.Errorf("the time is %v (%v)", at, err)
	}
	for _, want := range []string{`"route":"/models/{name}"`, `"status":403`, `"user_id":"` + id + `"`, `"duration":`, `"method":"GET"`} {
		if !strings.Contains(line, want) {
			t.Errorf("the line lacks %s: %s", want, line)
		}
	}
	if strings.Contains(log, "secret-query") {
		t.Error("a query is logged")
	}
	quiet := newWorld(t, noLimits, func(_ *auth.Config, c *Config) { c.AccessLog = nil })
	quiet.get("/healthz", "").is(200)
	quiet.api.Close()
	if strings.Contains(quiet.log.String(), `"msg":"request"`) {
		t.Error("access lines although they are off")
	}
}

func TestReadiness(t *testing.T) {
	var down atomic.Bool
	asked := 0
	w := newWorld(t, noLimits, func(_ *auth.Config, c *Config) {
		c.Ready = func(context.Context) error {
			asked++
			if down.Load() {
				return errors.New("a canary of the database")
			}
			return nil
		}
	})
	for range 20 {
		w.get("/readyz", "").is(200)
	}
	if asked > 5 {
		t.Errorf("20 questions in a moment reached the database %d times", asked)
	}
	down.Store(true)
	w.api.probe.asked = time.Time{}
	got := w.get("/readyz", "")
	got.refused(503, "unavailable")
	if strings.Contains(string(got.Body), "canary") {
		t.Errorf("readiness tells why: %s", got.Body)
	}
	w.get("/healthz", "").is(200)
	down.Store(false)
	w.api.probe.asked = time.Time{}
	w.get("/readyz", "").is(200)
}

// TestSigningKeyRoutes is row T12 over HTTP: a new key is published before it
// signs, a key that is retired is gone, and nothing but public parts is shown.
func TestSigningKeyRoutes(t *testing.T) {
	w := newWorld(t)
	var list struct{ Items []signingKey }
	w.get("/admin/signing-keys", w.admin).is(200).decode(&list)
	if len(list.Items) != 1 || list.Items[0].State != "signing" {
		t.Fatalf("%+v", list)
	}
	first := list.Items[0].ID
	made := w.post("/admin/signing-keys", w.admin, nil).is(201)
	if made.field("state") != "next" || made.field("id") == first {
		t.Errorf("%s", made.Body)
	}
	w.post("/admin/signing-keys", w.admin, nil).refused(409, "in_use")
	set := w.get("/.well-known/jwks.json", "").is(200)
	for _, id := range []string{first, made.field("id")} {
		if !strings.Contains(string(set.Body), id) {
			t.Errorf("%s is not published: %s", id, set.Body)
		}
	}
	if strings.Contains(string(set.Body), `"d"`) || set.Header.Get("Cache-Control") != "public, max-age=300" { // half of the 10 minutes in which a key does not sign yet
		t.Errorf("%v: %s", set.Header, set.Body)
	}
	_, ada := w.user("ada")
	w.get("/users/me", ada).is(200)
	w.do(request{method: "DELETE", path: "/admin/signing-keys/" + first, token: w.admin}).is(204)
	w.get("/users/me", ada).refused(401, "invalid_token")
	w.get("/users/me", w.login("ada", userPassword)).is(200)
	if set := w.get("/.well-known/jwks.json", "").Body; strings.Contains(string(set), first) {
		t.Errorf("a retired key is published: %s", set)
	}
}
