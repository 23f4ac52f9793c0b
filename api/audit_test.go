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
	"modelgate/auth/authtest"
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

// sameRecord compares lines; "*" stands for one word.
func sameRecord(got, want string) bool {
	return slices.EqualFunc(strings.Fields(got), strings.Fields(want), func(g, w string) bool { return g == w || w == "*" })
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
	w := newWorld(t, noLimits, withProvider(authtest.NewProvider(t)))
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
			ours := len(records) == 0
			for _, e := range records {
				ours = ours || e.Request == got.Header.Get("X-Request-Id")
				lines = append(lines, recordLine(e))
				if e.Request == "" || e.Address != "127.0.0.1" || time.Since(e.Time) > time.Minute || e.Count != 1 {
					t.Errorf("the record lacks where or when: %+v", e)
				}
				if e.Outcome != audit.Failed && (e.Actor == "" || e.ActorID == "") {
					t.Errorf("the record does not say who: %+v", e)
				}
			}
			if !ours {
				t.Errorf("no record has the id of the request: %v", lines)
			}
			if !slices.EqualFunc(lines, step.want, sameRecord) {
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
		if twin, ok := strings.CutPrefix(r.Path, consoleAPI); ok && covered[r.Method+" "+twin] != nil {
			continue // the same handler, under the same name in the log: consoleTable copies the route
		}
		if unrecorded[route] == "" && !covered[route][true] {
			t.Errorf("no record of %s is looked for", route)
		}
		// What anybody may do to himself is refused for its form alone, or for a
		// credential that is no good.
		if own := r.Access != Public && r.Permission == 0; !own && route != "POST /revoke" && !covered[route][false] {
			t.Errorf("no record of a refusal of %s is looked for", route)
		}
	}
}

// will is a request to come.
func (w *world) will(method, path, token string, json any) func() answer {
	return func() answer { return w.do(request{method: method, path: path, token: token, json: json}) }
}

func (w *world) willForm(path, token string, pairs ...string) func() answer {
	v := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		v.Set(pairs[i], pairs[i+1])
	}
	return func() answer { return w.form(path, token, v) }
}

// trails are the requests, in an order in which each finds what it needs. What
// they need is made before the first of them; late is somebody who signed in so
// long ago that he must prove his password for a credential, and may do nothing.
func (w *world) trails() []trail {
	_, ada := w.user("ada")
	bob, _ := w.user("bob")
	w.role("sees", "users:manage")
	w.user("manager", "sees")
	w.user("late")
	signIn, own := w.trailsOfSignIn(bob), w.trailsOfOwn(ada)
	clients, models := w.trailsOfClients(), w.trailsOfModels()
	late := w.login("late", userPassword)
	w.clock.advance(11 * time.Minute)
	manager := w.login("manager", userPassword)
	own = append(own,
		trail{"POST /users/me/keys", "without a fresh sign-in", w.will("POST", "/users/me/keys", late, `{"name":"k"}`), 403, []string{"key.create denied late k reauthentication_required"}},
		trail{"POST /users/me/keys", "", w.will("POST", "/users/me/keys", manager, `{"name":"k"}`), 201, []string{"key.create allowed manager k -"}})
	return slices.Concat(signIn, own, clients(late), w.trailsOfUsers(bob, late, manager), w.trailsOfIdentities(late),
		w.trailsOfSessions(late, manager), models(late), w.trailsOfFactors(), w.trailsOfConsole(late), w.trailOfAllSessions())
}

func credentials(name, password string) map[string]string {
	return map[string]string{"username": name, "password": password}
}

const newPassword = "another unusual phrase 4"

func (w *world) trailsOfSignIn(bob string) []trail {
	invited := w.post("/admin/users", w.admin, `{"username":"invited","roles":[]}`).is(201).field("invite_token")
	reset := w.post("/admin/users/"+bob+"/reset", w.admin, nil).is(200).field("reset_token")
	replayed := w.tokens("ada", userPassword)
	w.post("/refresh", "", map[string]string{"refresh_token": replayed.RefreshToken}).is(200)
	revocable, leaving := w.tokens("ada", userPassword), w.login("ada", userPassword)
	key := w.post("/users/me/keys", leaving, `{"name":"two"}`).is(201)
	revoked, left := w.session(revocable.AccessToken), w.session(leaving)
	return []trail{
		{"POST /register", "", w.will("POST", "/register", "", credentials("carol", userPassword)), 201, []string{"user.register allowed carol - -"}},
		{"POST /register", "taken", w.will("POST", "/register", "", credentials("ada", userPassword)), 409, []string{"user.register failed ada - taken"}},
		{"POST /register", "invitation", w.will("POST", "/register", "", map[string]string{"invite_token": invited, "password": userPassword}), 201, []string{"user.register allowed invited - -"}},
		{"POST /register", "no invitation", w.will("POST", "/register", "", map[string]string{"invite_token": "mgi_x", "password": userPassword}), 401, []string{"user.register failed - - malformed"}},
		{"POST /login", "", w.will("POST", "/login", "", credentials("ada", userPassword)), 200, []string{"user.login allowed ada - -"}},
		{"POST /login", "wrong password", w.will("POST", "/login", "", credentials("ada", "wrong"+userPassword)), 401, []string{"user.login failed ada - wrong_password"}},
		{"POST /login", "nobody", w.will("POST", "/login", "", credentials("nobody", userPassword)), 401, []string{"user.login failed nobody - unknown_user"}},
		{"POST /refresh", "replayed", w.will("POST", "/refresh", "", map[string]string{"refresh_token": replayed.RefreshToken}), 401, []string{"user.refresh failed ada - reused"}},
		{"POST /refresh", "unknown", w.will("POST", "/refresh", "", map[string]string{"refresh_token": "mgr_x"}), 401, []string{"user.refresh failed - - malformed"}},
		{"POST /password-reset", "", w.will("POST", "/password-reset", "", map[string]string{"reset_token": reset, "password": newPassword}), 204, []string{"user.reset allowed bob - -"}},
		{"POST /password-reset", "used", w.will("POST", "/password-reset", "", map[string]string{"reset_token": reset, "password": newPassword}), 401, []string{"user.reset failed - - unknown"}},
		{"POST /token", "", w.willForm("/token", "", "grant_type", "password", "username", "ada", "password", userPassword), 200, []string{"user.login allowed ada - -"}},
		{"POST /token", "wrong password", w.willForm("/token", "", "grant_type", "password", "username", "carol", "password", "x"+userPassword), 400, []string{"user.login failed carol - wrong_password"}},
		{"POST /revoke", "refresh token", w.willForm("/revoke", "", "token", revocable.RefreshToken), 200, []string{"user.logout allowed ada " + revoked + " revoked"}},
		{"POST /revoke", "key", w.willForm("/revoke", "", "token", key.field("key")), 200, []string{"key.delete allowed ada " + key.field("id") + " revoked"}},
		{"POST /revoke", "unknown", w.willForm("/revoke", "", "token", "mgr_x"), 200, nil},
		{"POST /logout", "", w.will("POST", "/logout", leaving, nil), 204, []string{"user.logout allowed ada " + left + " -"}},
		{"GET /users/me", "a key that is no good", w.will("GET", "/users/me", "mgk_x", nil), 401, nil},
	}
}

func (w *world) trailsOfOwn(ada string) []trail {
	other, everywhere := w.session(w.login("ada", userPassword)), w.login("late", userPassword)
	key := w.post("/users/me/keys", ada, `{"name":"one"}`).is(201).field("id")
	stranger := w.login("manager", userPassword)
	return []trail{
		{"DELETE /users/me/sessions/{id}", "another's", w.will("DELETE", "/users/me/sessions/"+other, stranger, nil), 404, nil},
		{"DELETE /users/me/sessions/{id}", "", w.will("DELETE", "/users/me/sessions/"+other, ada, nil), 204, []string{"user.logout allowed ada " + other + " -"}},
		{"DELETE /users/me/keys/{id}", "another's", w.will("DELETE", "/users/me/keys/"+key, stranger, nil), 404, nil},
		{"DELETE /users/me/keys/{id}", "", w.will("DELETE", "/users/me/keys/"+key, ada, nil), 204, []string{"key.delete allowed ada " + key + " -"}},
		{"POST /users/me/password", "wrong password", w.will("POST", "/users/me/password", ada, map[string]string{"current_password": "wrong one 12345", "new_password": newPassword}), 403, []string{"user.password failed ada - wrong_password"}},
		{"POST /users/me/password", "", w.will("POST", "/users/me/password", ada, map[string]string{"current_password": userPassword, "new_password": newPassword}), 204, []string{"user.password allowed ada ada -"}},
		{"DELETE /users/me/sessions", "", func() answer {
			got := w.do(request{method: "DELETE", path: "/users/me/sessions", token: w.admin})
			w.admin = w.login("admin", adminPassword)
			return got
		}, 204, []string{"user.logout allowed admin - everywhere", "user.login allowed admin - -"}},
		{"DELETE /users/me/sessions", "who is no one", w.will("DELETE", "/users/me/sessions", everywhere+"x", nil), 401, nil},
	}
}

func (w *world) trailsOfClients() func(late string) []trail {
	id, secret := w.service("nightly")
	user := w.post("/admin/users", w.admin, `{"username":"hourly","roles":[],"kind":"service"}`).is(201).field("id")
	var made answer
	return func(late string) []trail {
		path := "/admin/users/" + user + "/secrets"
		return []trail{
			{"POST /token", "client", func() answer { return w.formWith("/token", basic(id, secret), "grant_type", "client_credentials") }, 200, []string{"client.token allowed nightly - -"}},
			{"POST /token", "client's wrong secret", func() answer {
				return w.formWith("/token", basic(id, secret+"x"), "grant_type", "client_credentials")
			}, 401, []string{"client.authenticate failed " + id + " - malformed"}},
			{"POST /introspect", "", func() answer { return w.formWith("/introspect", basic(id, secret), "token", "x") }, 200, nil},
			{"POST /introspect", "client's wrong secret", func() answer { return w.formWith("/introspect", basic("u_nobody", secret), "token", "x") }, 401, []string{"client.authenticate failed * - *"}},
			{"POST /admin/users/{id}/secrets", "", func() answer {
				made = w.post(path, w.admin, `{}`)
				return made
			}, 201, []string{"secret.create allowed admin hourly -"}},
			{"POST /admin/users/{id}/secrets", "refused", w.will("POST", path, late, `{}`), 403, []string{"secret.create denied late " + user + " forbidden"}},
			{"DELETE /admin/users/{id}/secrets/{secret}", "refused", w.will("DELETE", path+"/c_x", late, nil), 403, []string{"secret.delete denied late " + user + " forbidden"}},
			{"DELETE /admin/users/{id}/secrets/{secret}", "", func() answer {
				return w.do(request{method: "DELETE", path: path + "/" + made.field("id"), token: w.admin})
			}, 204, []string{"secret.delete allowed admin hourly -"}},
		}
	}
}

func (w *world) trailsOfUsers(bob, late, manager string) []trail {
	w.role("spare")
	w.role("idle")
	path := "/admin/users/" + bob
	var next string // a signing key
	admin := func(method, path string, json any) func() answer {
		return func() answer { return w.do(request{method: method, path: path, token: w.admin, json: json}) }
	}
	return []trail{
		{"POST /admin/users", "", admin("POST", "/admin/users", `{"username":"made","roles":["spare"]}`), 201, []string{"user.create allowed admin made -"}},
		{"POST /admin/users", "refused", w.will("POST", "/admin/users", late, `{"username":"made2","roles":[]}`), 403, []string{"user.create denied late - forbidden"}},
		{"POST /admin/users", "more than he has", w.will("POST", "/admin/users", manager, `{"username":"made2","roles":["admin"]}`), 403, []string{"user.create denied manager made2 forbidden"}},
		{"PATCH /admin/users/{id}", "", admin("PATCH", path, `{"disabled":true}`), 200, []string{"user.update allowed admin bob -"}},
		{"PATCH /admin/users/{id}", "refused", w.will("PATCH", path, late, `{"disabled":true}`), 403, []string{"user.update denied late " + bob + " forbidden"}},
		{"PATCH /admin/users/{id}", "more than he has", w.will("PATCH", path, manager, `{"roles":["admin"]}`), 403, []string{"user.update denied manager bob forbidden"}},
		{"POST /admin/users/{id}/reset", "", admin("POST", path+"/reset", nil), 200, []string{"user.reset allowed admin bob -"}},
		{"POST /admin/users/{id}/reset", "refused", w.will("POST", path+"/reset", late, nil), 403, []string{"user.reset denied late " + bob + " forbidden"}},
		{"DELETE /admin/users/{id}", "refused", w.will("DELETE", path, late, nil), 403, []string{"user.delete denied late " + bob + " forbidden"}},
		{"DELETE /admin/users/{id}", "", admin("DELETE", path, nil), 204, []string{"user.delete allowed admin bob -"}},
		{"PUT /admin/roles/{name}", "", admin("PUT", "/admin/roles/made", `{"permissions":["audit:read"]}`), 200, []string{"role.put allowed admin made -"}},
		{"PUT /admin/roles/{name}", "refused", w.will("PUT", "/admin/roles/made", late, `{}`), 403, []string{"role.put denied late made forbidden"}},
		{"PUT /admin/roles/{name}", "more than he has", w.will("PUT", "/admin/roles/made", manager, `{"permissions":["models:manage"]}`), 403, []string{"role.put denied manager made forbidden"}},
		{"DELETE /admin/roles/{name}", "refused", w.will("DELETE", "/admin/roles/idle", late, nil), 403, []string{"role.delete denied late idle forbidden"}},
		{"DELETE /admin/roles/{name}", "", admin("DELETE", "/admin/roles/idle", nil), 204, []string{"role.delete allowed admin idle -"}},
		{"POST /admin/signing-keys", "", func() answer {
			made := admin("POST", "/admin/signing-keys", nil)()
			next = made.field("id")
			return made
		}, 201, []string{"signing_key.rotate allowed admin * -"}},
		{"POST /admin/signing-keys", "refused", w.will("POST", "/admin/signing-keys", late, nil), 403, []string{"signing_key.rotate denied late - forbidden"}},
		{"DELETE /admin/signing-keys/{id}", "refused", w.will("DELETE", "/admin/signing-keys/k", late, nil), 403, []string{"signing_key.retire denied late k forbidden"}},
		{"DELETE /admin/signing-keys/{id}", "", func() answer { return admin("DELETE", "/admin/signing-keys/"+next, nil)() }, 204, []string{"signing_key.retire allowed admin * -"}},
		{"GET /admin/audit/export", "", admin("GET", "/admin/audit/export?since=2020-01-01T00:00:00Z", nil), 200, []string{"audit.export allowed admin - -"}},
		{"GET /admin/users", "refused", w.will("GET", "/admin/users", late, nil), 403, []string{"user.list denied late - forbidden"}},
	}
}

// trailsOfFactors are those of a second factor. The codes that somebody lacks or
// has wrong are failures of his.
func (w *world) trailsOfFactors() []trail {
	_, dora := w.user("dora")
	f := &factor{w: w, name: "dora"}
	otp := func(method, path string, code func() string) func() answer {
		return func() answer {
			return w.do(request{method: method, path: path, token: dora, json: map[string]string{"otp": code()}})
		}
	}
	return []trail{
		{"POST /users/me/totp", "wrong password", w.will("POST", "/users/me/totp", dora, `{"password":"wrong password 1"}`), 403, []string{"totp.begin failed dora - wrong_password"}},
		{"POST /users/me/totp", "", func() answer {
			got := w.post("/users/me/totp", dora, nil)
			f.secret = got.field("secret")
			return got
		}, 200, []string{"totp.begin allowed dora dora -"}},
		{"POST /users/me/totp/confirm", "wrong code", otp("POST", "/users/me/totp/confirm", f.wrong), 403, []string{"totp.enable failed dora - wrong_code"}},
		{"POST /users/me/totp/confirm", "", otp("POST", "/users/me/totp/confirm", f.next), 200, []string{"totp.enable allowed dora dora -"}},
		{"POST /login", "no code", w.will("POST", "/login", "", credentials("dora", userPassword)), 401, []string{"user.login failed dora - no_code"}},
		{"POST /users/me/recovery-codes", "wrong code", otp("POST", "/users/me/recovery-codes", f.wrong), 403, []string{"recovery_codes.create failed dora - wrong_code"}},
		{"POST /users/me/recovery-codes", "", otp("POST", "/users/me/recovery-codes", f.next), 200, []string{"recovery_codes.create allowed dora dora -"}},
		{"DELETE /users/me/totp", "wrong code", otp("DELETE", "/users/me/totp", f.wrong), 403, []string{"totp.disable failed dora - wrong_code"}},
		{"DELETE /users/me/totp", "", otp("DELETE", "/users/me/totp", f.next), 204, []string{"totp.disable allowed dora dora -"}},
	}
}

// next is a code that was not used yet.
func (f *factor) next() string {
	f.w.clock.advance(time.Minute)
	return f.code()
}

// trailsOfIdentities are those of a user's identities at a provider.
func (w *world) trailsOfIdentities(late string) []trail {
	id, _ := w.user("eve")
	path, linked := "/admin/users/"+id+"/identities", ""
	in := map[string]string{"provider": "corp", "subject": "eve"}
	return []trail{
		{"POST /admin/users/{id}/identities", "refused", w.will("POST", path, late, in), 403, []string{"identity.link denied late " + id + " forbidden"}},
		{"POST /admin/users/{id}/identities", "", func() answer {
			got := w.post(path, w.admin, in)
			linked = got.field("id")
			return got
		}, 201, []string{"identity.link allowed admin eve -"}},
		{"DELETE /admin/users/{id}/identities/{identity}", "refused", w.will("DELETE", path+"/i_none", late, nil), 403, []string{"identity.unlink denied late " + id + " forbidden"}},
		{"DELETE /admin/users/{id}/identities/{identity}", "", func() answer {
			return w.do(request{method: "DELETE", path: path + "/" + linked, token: w.admin})
		}, 204, []string{"identity.unlink allowed admin eve -"}},
	}
}

// trailsOfSessions are those of sessions that an administrator ends.
func (w *world) trailsOfSessions(late, manager string) []trail {
	id, token := w.user("fay")
	one, path := w.session(token), "/admin/users/"+id+"/sessions"
	admins := "/admin/users/" + w.get("/users/me", w.admin).is(200).field("id") + "/sessions"
	admin := func(path string) func() answer {
		return func() answer { return w.do(request{method: "DELETE", path: path, token: w.admin}) }
	}
	return []trail{
		{"DELETE /admin/users/{id}/sessions/{session}", "refused", w.will("DELETE", path+"/"+one, late, nil), 403, []string{"session.end denied late " + id + " forbidden"}},
		{"DELETE /admin/users/{id}/sessions/{session}", "none", admin(path + "/s_none"), 404, nil},
		{"DELETE /admin/users/{id}/sessions/{session}", "", admin(path + "/" + one), 204, []string{"session.end allowed admin fay -"}},
		{"DELETE /admin/users/{id}/sessions", "refused", w.will("DELETE", "/admin/users/u_none/sessions", late, nil), 403, []string{"session.end denied late u_none forbidden"}},
		{"DELETE /admin/users/{id}/sessions", "of who has more rights", w.will("DELETE", admins, manager, nil), 403, []string{"session.end denied manager admin forbidden"}},
		{"DELETE /admin/users/{id}/sessions", "", admin(path), 204, []string{"session.end allowed admin fay -"}},
		{"DELETE /admin/sessions", "refused", w.will("DELETE", "/admin/sessions", late, nil), 403, []string{"session.end_all denied late - forbidden"}},
		{"DELETE /admin/sessions", "of who has more rights", w.will("DELETE", "/admin/sessions", manager, nil), 403, []string{"session.end_all denied manager - forbidden"}},
	}
}

// trailOfAllSessions comes last: nobody is signed in after it.
func (w *world) trailOfAllSessions() []trail {
	return []trail{{"DELETE /admin/sessions", "", func() answer {
		return w.do(request{method: "DELETE", path: "/admin/sessions", token: w.admin})
	}, 204, []string{"session.end_all allowed admin - -"}}}
}

func (w *world) trailsOfModels() func(late string) []trail {
	w.iris()
	w.upload(w.admin, "iris", "iris_v2.onnx", "").is(201)
	w.upload(w.admin, "gone", "iris_v2.onnx", "").is(201)
	admin := func(method, path string, json any) func() answer {
		return func() answer { return w.do(request{method: method, path: path, token: w.admin, json: json}) }
	}
	return func(late string) []trail {
		return []trail{
			{"POST /models/{name}/versions", "", func() answer { return w.upload(w.admin, "fresh", "iris_v2.onnx", "") }, 201, []string{"model.publish allowed admin fresh -"}},
			{"POST /models/{name}/versions", "refused", func() answer { return w.upload(late, "fresh", "iris_v2.onnx", "") }, 403, []string{"model.publish denied late fresh forbidden"}},
			{"PATCH /models/{name}", "", admin("PATCH", "/models/iris", `{"description":"x"}`), 200, []string{"model.update allowed admin iris -"}},
			{"PATCH /models/{name}", "refused", w.will("PATCH", "/models/iris", late, `{"description":"x"}`), 403, []string{"model.update denied late iris forbidden"}},
			{"DELETE /models/{name}/versions/{version}", "", admin("DELETE", "/models/iris/versions/2", nil), 204, []string{"model.delete_version allowed admin iris -"}},
			{"DELETE /models/{name}/versions/{version}", "refused", w.will("DELETE", "/models/iris/versions/1", late, nil), 403, []string{"model.delete_version denied late iris forbidden"}},
			{"DELETE /models/{name}", "refused", w.will("DELETE", "/models/gone", late, nil), 403, []string{"model.delete denied late gone forbidden"}},
			{"DELETE /models/{name}", "", admin("DELETE", "/models/gone", nil), 204, []string{"model.delete allowed admin gone -"}},
			{"POST /predict", "refused", w.will("POST", "/predict", late, `{"model":"fresh","inputs":[[1,2,3,4]]}`), 403, []string{"model.predict denied late fresh forbidden"}},
			{"POST /v2/repository/models/{name}/load", "refused", w.will("POST", "/v2/repository/models/fresh/load", late, `{}`), 403, []string{"model.load denied late fresh forbidden"}},
			{"POST /v2/repository/models/{name}/unload", "refused", w.will("POST", "/v2/repository/models/fresh/unload", late, `{}`), 403, []string{"model.unload denied late fresh forbidden"}},
		}
	}
}

func (w *world) trailsOfConsole(string) []trail {
	b := *w
	b.browser = true
	cookie := ""
	admins := func(method, path string, json any) func() answer {
		return func() answer {
			got := b.do(request{method: method, path: path, token: cookie, json: json})
			if len(got.Header["Set-Cookie"]) > 0 {
				cookie = got.cookie()
			}
			return got
		}
	}
	return []trail{
		{"POST /console/session", "", func() answer {
			got := w.willConsole("admin", adminPassword)()
			cookie = got.cookie()
			return got
		}, 200, []string{"user.login allowed admin - -"}},
		{"POST /console/session", "wrong password", w.willConsole("late", "wrong"+userPassword), 401, []string{"user.login failed late - wrong_password"}},
		{"POST /console/session/reauthenticate", "", admins("POST", "/console/session/reauthenticate", map[string]string{"password": adminPassword}), 200, []string{"user.reauthenticate allowed admin - -"}},
		{"POST /console/session/reauthenticate", "wrong password", admins("POST", "/console/session/reauthenticate", map[string]string{"password": "wrong" + userPassword}), 403, []string{"user.reauthenticate failed admin - wrong_password"}},
		{"PUT /console/api/admin/roles/{name}", "", admins("PUT", "/console/api/admin/roles/made", `{}`), 200, []string{"role.put allowed admin made -"}},
		{"PUT /console/api/admin/roles/{name}", "refused", func() answer {
			return b.do(request{method: "PUT", path: "/console/api/admin/roles/made2", token: b.login("late", userPassword), json: `{}`})
		}, 403, []string{"user.login allowed late - -", "role.put denied late made2 forbidden"}},
		{"DELETE /console/session", "", func() answer {
			return b.do(request{method: "DELETE", path: "/console/session", token: cookie})
		}, 204, []string{"user.logout allowed admin * -"}},
	}
}

func (w *world) willConsole(name, password string) func() answer {
	return w.will("POST", "/console/session", "", credentials(name, password))
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
	for _, query := range []string{"since=yesterday", "until=1", "until=", "since", "since=2020-01-01T00:00:00Z&since=2020-01-01T00:00:00Z"} {
		w.get("/admin/audit/export?"+query, w.admin).refused(400, "invalid_input")
	}
	if err := w.audit.Close(); err != nil {
		t.Fatal(err)
	}
	w.get("/admin/audit/export", w.admin).refused(503, "unavailable") // it could not be recorded
}
