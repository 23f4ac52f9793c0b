package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"modelgate/audit"
)

// trail is a request that changes something, or is refused, and the records
// that it must leave: exactly these.
type trail struct {
	route  string // of the table
	what   string
	do     func() answer
	status int
	// want is one line for each record: action, outcome, actor, target ("-" for
	// none), reason ("-" for none).
	want []string
}

// unrecorded are the routes that take a POST and change nothing, so that only
// what they refuse is in the log.
var unrecorded = map[string]string{
	"POST /introspect":                                "reads",
	"POST /predict":                                   "counted by the minute",
	"POST /v2/models/{name}/infer":                    "counted by the minute",
	"POST /v2/models/{name}/versions/{version}/infer": "counted by the minute",
	"POST /v2/repository/index":                       "reads",
	"POST /v2/repository/models/{name}/load":          "tells whether it is served",
	"POST /v2/repository/models/{name}/unload":        "always refused",
	"POST /refresh":                                   "the session that it goes on with was recorded",
}

// record writes an entry as trail.want does.
func recordLine(e audit.Entry) string {
	dash := func(s string) string {
		if s == "" {
			return "-"
		}
		return s
	}
	return fmt.Sprintf("%s %s %s %s %s", e.Action, e.Outcome, dash(e.Actor), dash(e.Target), dash(e.Reason))
}

// since returns the records after seq, oldest first.
func (w *world) since(seq uint64) []audit.Entry {
	w.t.Helper()
	p, err := w.audit.Read(context.Background(), audit.Query{Limit: 1000})
	if err != nil {
		w.t.Fatal(err)
	}
	i := slices.IndexFunc(p.Items, func(e audit.Entry) bool { return e.Seq <= seq })
	if i < 0 {
		i = len(p.Items)
	}
	slices.Reverse(p.Items[:i])
	return p.Items[:i]
}

func (w *world) lastRecord() uint64 {
	w.t.Helper()
	p, err := w.audit.Read(context.Background(), audit.Query{Limit: 1})
	if err != nil || len(p.Items) == 0 {
		w.t.Fatalf("%v, %v", p, err)
	}
	return p.Items[0].Seq
}

// TestEveryChangeIsRecorded is row G4's first half: every route that changes
// something leaves its record when it is done, and when it is refused, with who,
// what, on what, from where, the outcome and the request's id.
func TestEveryChangeIsRecorded(t *testing.T) {
	w := newWorld(t, noLimits)
	covered := map[string]map[bool]bool{} // by route: done, refused
	for _, step := range w.trails() {
		t.Run(step.route+" "+step.what, func(t *testing.T) {
			before := w.lastRecord()
			got := step.do()
			if got.Status != step.status {
				t.Fatalf("status %d, want %d: %s", got.Status, step.status, got.Body)
			}
			records := w.since(before)
			var lines []string
			for i, e := range records {
				lines = append(lines, recordLine(e))
				if e.Request == "" || i == len(records)-1 && e.Request != got.Header.Get("X-Request-Id") || e.Address != "127.0.0.1" || time.Since(e.Time) > time.Minute || e.Count != 1 {
					t.Errorf("the record lacks where or when: %+v", e)
				}
				if e.Outcome != audit.Failed && (e.Actor == "" || e.ActorID == "") {
					t.Errorf("the record does not say who: %+v", e)
				}
			}
			if !slices.Equal(lines, step.want) {
				t.Errorf("records\n  %s\nwant\n  %s", strings.Join(lines, "\n  "), strings.Join(step.want, "\n  "))
			}
		})
		if covered[step.route] == nil {
			covered[step.route] = map[bool]bool{}
		}
		if len(step.want) > 0 {
			covered[step.route][strings.Contains(step.want[0], " allowed ")] = true
		}
	}
	for _, r := range w.api.Routes() {
		route := r.Method + " " + r.Path
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			continue
		}
		if unrecorded[route] == "" && !covered[route][true] {
			t.Errorf("no record of %s is looked for", route)
		}
		// What anybody may do to himself is refused for its form alone, or for a
		// credential that is no good.
		if own := r.Access == Bearer && r.Permission == 0; !own && route != "POST /revoke" && !covered[route][false] {
			t.Errorf("no record of a refusal of %s is looked for", route)
		}
	}
}

// trails are the requests, in an order in which each finds what it needs. What
// they need is made here, before the first of them.
func (w *world) trails() []trail {
	admin := w.admin
	_, ada := w.user("ada")
	bobID, _ := w.user("bob")
	w.role("spare")
	w.role("idle")
	w.role("sees", "users:manage")
	_, manager := w.user("manager", "sees")
	w.iris()
	w.upload(admin, "iris", "iris_v2.onnx", "").is(201)
	w.upload(admin, "gone", "iris_v2.onnx", "").is(201)
	patch := func(path, token string, v any) func() answer {
		return func() answer { return w.do(request{method: "PATCH", path: path, token: token, json: v}) }
	}
	put := func(path, token string, v any) func() answer {
		return func() answer { return w.do(request{method: "PUT", path: path, token: token, json: v}) }
	}
	del := func(path, token string) func() answer {
		return func() answer { return w.do(request{method: "DELETE", path: path, token: token}) }
	}
	post := func(path, token string, v any) func() answer { return func() answer { return w.post(path, token, v) } }
	form := func(path, token string, v url.Values) func() answer {
		return func() answer { return w.form(path, token, v) }
	}
	sign := func(name, password string) map[string]string {
		return map[string]string{"username": name, "password": password}
	}

	invited := w.post("/admin/users", admin, `{"username":"invited","roles":[]}`).is(201)
	reset := w.post("/admin/users/"+bobID+"/reset", admin, nil).is(200).field("reset_token")
	replayed := w.tokens("ada", userPassword)
	w.post("/refresh", "", map[string]string{"refresh_token": replayed.RefreshToken}).is(200)
	revocable, other := w.tokens("ada", userPassword), w.tokens("ada", userPassword)
	key := w.post("/users/me/keys", ada, `{"name":"one"}`).is(201)
	revokedKey := w.post("/users/me/keys", ada, `{"name":"two"}`).is(201)
	leaving := w.login("ada", userPassword)
	current, ended, left := w.session(other.AccessToken), w.session(revocable.AccessToken), w.session(leaving)
	_, late := w.user("late")
	w.clock.advance(11 * time.Minute) // past the time in which no password is asked for
	keyID := key.field("id")
	none := []string(nil)

	return []trail{
		{"POST /register", "", post("/register", "", sign("carol", userPassword)), 201, []string{"user.register allowed carol - -"}},
		{"POST /register", "taken", post("/register", "", sign("ada", userPassword)), 409, []string{"user.register failed ada - taken"}},
		{"POST /register", "invitation", post("/register", "", map[string]string{"invite_token": invited.field("invite_token"), "password": userPassword}), 201, []string{"user.register allowed invited - -"}},
		{"POST /register", "no invitation", post("/register", "", map[string]string{"invite_token": "mgi_x", "password": userPassword}), 401, []string{"user.register failed - - malformed"}},
		{"POST /login", "", post("/login", "", sign("ada", userPassword)), 200, []string{"user.login allowed ada - -"}},
		{"POST /login", "wrong password", post("/login", "", sign("ada", "wrong"+userPassword)), 401, []string{"user.login failed ada - wrong_password"}},
		{"POST /login", "nobody", post("/login", "", sign("nobody", userPassword)), 401, []string{"user.login failed nobody - unknown_user"}},
		{"POST /refresh", "replayed", post("/refresh", "", map[string]string{"refresh_token": replayed.RefreshToken}), 401, []string{"user.refresh failed ada - reused"}},
		{"POST /refresh", "unknown", post("/refresh", "", map[string]string{"refresh_token": "mgr_x"}), 401, []string{"user.refresh failed - - malformed"}},
		{"POST /password-reset", "", post("/password-reset", "", map[string]string{"reset_token": reset, "password": "another unusual phrase 4"}), 204, []string{"user.reset allowed bob - -"}},
		{"POST /password-reset", "used", post("/password-reset", "", map[string]string{"reset_token": reset, "password": "another unusual phrase 4"}), 401, []string{"user.reset failed - - unknown"}},
		{"POST /token", "", form("/token", "", url.Values{"grant_type": {"password"}, "username": {"ada"}, "password": {userPassword}}), 200, []string{"user.login allowed ada - -"}},
		{"POST /token", "wrong password", form("/token", "", url.Values{"grant_type": {"password"}, "username": {"carol"}, "password": {"x" + userPassword}}), 400, []string{"user.login failed carol - wrong_password"}},
		{"POST /revoke", "refresh token", form("/revoke", "", url.Values{"token": {revocable.RefreshToken}}), 200, []string{"user.logout allowed ada " + ended + " revoked"}},
		{"POST /revoke", "key", form("/revoke", "", url.Values{"token": {revokedKey.field("key")}}), 200, []string{"key.delete allowed ada " + revokedKey.field("id") + " revoked"}},
		{"POST /revoke", "unknown", form("/revoke", "", url.Values{"token": {"mgr_x"}}), 200, none},
		{"POST /introspect", "", form("/introspect", admin, url.Values{"token": {ada}}), 200, none},
		{"POST /logout", "", post("/logout", leaving, nil), 204, []string{"user.logout allowed ada " + left + " -"}},
		{"DELETE /users/me/sessions/{id}", "", del("/users/me/sessions/"+current, ada), 204, []string{"user.logout allowed ada " + current + " -"}},
		{"DELETE /users/me/sessions/{id}", "another's", del("/users/me/sessions/"+current, manager), 404, none},
		{"POST /users/me/keys", "without a fresh sign-in", post("/users/me/keys", late, `{"name":"k"}`), 403, []string{"key.create denied late k reauthentication_required"}},
		{"POST /users/me/keys", "", func() answer { return w.post("/users/me/keys", w.login("late", userPassword), `{"name":"k"}`) }, 201, []string{"user.login allowed late - -", "key.create allowed late k -"}},
		{"DELETE /users/me/keys/{id}", "another's", del("/users/me/keys/"+keyID, manager), 404, none},
		{"DELETE /users/me/keys/{id}", "", del("/users/me/keys/"+keyID, ada), 204, []string{"key.delete allowed ada " + keyID + " -"}},
		{"POST /users/me/password", "wrong password", post("/users/me/password", ada, map[string]string{"current_password": "wrong one 12345", "new_password": "another unusual phrase 4"}), 403, []string{"user.password failed ada - wrong_password"}},
		{"POST /users/me/password", "", post("/users/me/password", ada, map[string]string{"current_password": userPassword, "new_password": "another unusual phrase 4"}), 204, []string{"user.password allowed ada ada -"}},

		{"POST /admin/users", "", post("/admin/users", admin, `{"username":"made","roles":["spare"]}`), 201, []string{"user.create allowed admin made -"}},
		{"POST /admin/users", "refused", post("/admin/users", late, `{"username":"made2","roles":[]}`), 403, []string{"user.create denied late - forbidden"}},
		{"POST /admin/users", "more than he has", post("/admin/users", manager, `{"username":"made2","roles":["admin"]}`), 403, []string{"user.create denied manager made2 forbidden"}},
		{"PATCH /admin/users/{id}", "", patch("/admin/users/"+bobID, admin, `{"disabled":true}`), 200, []string{"user.update allowed admin bob -"}},
		{"PATCH /admin/users/{id}", "refused", patch("/admin/users/"+bobID, late, `{"disabled":true}`), 403, []string{"user.update denied late " + bobID + " forbidden"}},
		{"PATCH /admin/users/{id}", "more than he has", patch("/admin/users/"+bobID, manager, `{"roles":["admin"]}`), 403, []string{"user.update denied manager bob forbidden"}},
		{"POST /admin/users/{id}/reset", "", post("/admin/users/"+bobID+"/reset", admin, nil), 200, []string{"user.reset allowed admin bob -"}},
		{"POST /admin/users/{id}/reset", "refused", post("/admin/users/"+bobID+"/reset", late, nil), 403, []string{"user.reset denied late " + bobID + " forbidden"}},
		{"DELETE /admin/users/{id}", "refused", del("/admin/users/"+bobID, late), 403, []string{"user.delete denied late " + bobID + " forbidden"}},
		{"DELETE /admin/users/{id}", "", del("/admin/users/"+bobID, admin), 204, []string{"user.delete allowed admin bob -"}},
		{"PUT /admin/roles/{name}", "", put("/admin/roles/made", admin, `{"permissions":["audit:read"]}`), 200, []string{"role.put allowed admin made -"}},
		{"PUT /admin/roles/{name}", "refused", put("/admin/roles/made", late, `{}`), 403, []string{"role.put denied late made forbidden"}},
		{"PUT /admin/roles/{name}", "more than he has", put("/admin/roles/made", manager, `{"permissions":["models:manage"]}`), 403, []string{"role.put denied manager made forbidden"}},
		{"DELETE /admin/roles/{name}", "refused", del("/admin/roles/idle", late), 403, []string{"role.delete denied late idle forbidden"}},
		{"DELETE /admin/roles/{name}", "", del("/admin/roles/idle", admin), 204, []string{"role.delete allowed admin idle -"}},

		{"POST /models/{name}/versions", "", func() answer { return w.upload(admin, "fresh", "iris_v2.onnx", "") }, 201, []string{"model.publish allowed admin fresh -"}},
		{"POST /models/{name}/versions", "refused", func() answer { return w.upload(late, "fresh", "iris_v2.onnx", "") }, 403, []string{"model.publish denied late fresh forbidden"}},
		{"PATCH /models/{name}", "", patch("/models/iris", admin, `{"description":"x"}`), 200, []string{"model.update allowed admin iris -"}},
		{"PATCH /models/{name}", "refused", patch("/models/iris", late, `{"description":"x"}`), 403, []string{"model.update denied late iris forbidden"}},
		{"DELETE /models/{name}/versions/{version}", "", del("/models/iris/versions/2", admin), 204, []string{"model.delete_version allowed admin iris -"}},
		{"DELETE /models/{name}/versions/{version}", "refused", del("/models/iris/versions/1", late), 403, []string{"model.delete_version denied late iris forbidden"}},
		{"DELETE /models/{name}", "refused", del("/models/gone", late), 403, []string{"model.delete denied late gone forbidden"}},
		{"DELETE /models/{name}", "", del("/models/gone", admin), 204, []string{"model.delete allowed admin gone -"}},
		{"POST /predict", "refused", post("/predict", late, `{"model":"fresh","inputs":[[1,2,3,4]]}`), 403, []string{"model.predict denied late fresh forbidden"}},
		{"POST /v2/repository/models/{name}/load", "refused", post("/v2/repository/models/fresh/load", late, `{}`), 403, []string{"model.load denied late fresh forbidden"}},
		{"POST /v2/repository/models/{name}/unload", "refused", post("/v2/repository/models/fresh/unload", late, `{}`), 403, []string{"model.unload denied late fresh forbidden"}},
		{"GET /admin/audit/export", "", func() answer { return w.get("/admin/audit/export?since=2020-01-01T00:00:00Z", admin) }, 200, []string{"audit.export allowed admin - -"}},
		{"GET /admin/users", "refused", func() answer { return w.get("/admin/users", late) }, 403, []string{"user.list denied late - forbidden"}},
		{"GET /users/me", "a key that is no good", func() answer { return w.get("/users/me", "mg_x") }, 401, none},
	}
}

// session is the id of the session that a token belongs to.
func (w *world) session(token string) string {
	w.t.Helper()
	var list page[session]
	w.get("/users/me/sessions", token).is(200).decode(&list)
	i := slices.IndexFunc(list.Items, func(x session) bool { return x.Current })
	if i < 0 {
		w.t.Fatal("no session is the current one")
	}
	return list.Items[i].ID
}

// TestAuditExport: the records come as they stand in the log, within the time
// asked for, also when they are more than one block.
func TestAuditExport(t *testing.T) {
	w := newWorld(t, noLimits)
	for i := range 300 {
		e := audit.Entry{Actor: "filler", Action: "test.fill", Target: strings.Repeat("x", 200) + fmt.Sprint(i), Outcome: audit.Allowed}
		if err := w.audit.Append(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	got := w.get("/admin/audit/export", w.admin).is(200)
	if kind := got.Header.Get("Content-Type"); kind != "application/x-ndjson" {
		t.Errorf("Content-Type %q", kind)
	}
	report, err := audit.Verify(bytes.NewReader(got.Body), audit.Head{})
	if err != nil || report.Problem != "" || report.Records < 300 {
		t.Fatalf("an export is no whole log: %+v, %v", report, err)
	}
	first := bytes.SplitN(got.Body, []byte{'\n'}, 2)[0]
	var e audit.Entry
	if err := json.Unmarshal(first, &e); err != nil || e.Seq != 1 {
		t.Fatalf("%s, %v", first, err)
	}
	until := url.QueryEscape(e.Time.Add(time.Microsecond).Format(time.RFC3339Nano))
	if part := w.get("/admin/audit/export?until="+until, w.admin).is(200); !bytes.HasPrefix(part.Body, first) || len(part.Body) > len(first)+1+4096 {
		t.Errorf("until a moment after the first record: %d bytes", len(part.Body))
	}
	if none := w.get("/admin/audit/export?since=2100-01-01T00:00:00Z", w.admin).is(200); len(none.Body) != 0 {
		t.Errorf("of the future: %s", none.Body)
	}
	for _, query := range []string{"since=yesterday", "until=1", "since=2020-01-01T00:00:00Z&since=2020-01-01T00:00:00Z"} {
		w.get("/admin/audit/export?"+query, w.admin).refused(400, "invalid_input")
	}
	if err := w.audit.Close(); err != nil {
		t.Fatal(err)
	}
	w.get("/admin/audit/export", w.admin).refused(503, "unavailable") // it could not be recorded
}
