package api

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"modelgate/auth"
)

// field is a field of a request's body, as the specification has it.
type field struct {
	path string // "disclosure.decimals"
	kind string // JSON type
}

// fieldsOf lists the fields of an object, those of objects inside it as well.
func fieldsOf(prefix string, s *openapi3.Schema) (list []field) {
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		p := s.Properties[name].Value
		kind := "object"
		if p.Type != nil && len(p.Type.Slice()) > 0 {
			kind = p.Type.Slice()[0]
		}
		list = append(list, field{prefix + name, kind})
		list = append(list, fieldsOf(prefix+name+".", p)...)
	}
	return list
}

// inside writes members at the place of the field, instead of it.
func inside(path, members string) string {
	parents := strings.Split(path, ".")
	parents = parents[:len(parents)-1]
	text := "{" + members + "}"
	for i := len(parents) - 1; i >= 0; i-- {
		text = fmt.Sprintf("{%q:%s}", parents[i], text)
	}
	return text
}

var anyValue = map[string]string{"string": `"x"`, "integer": "1", "number": "1", "boolean": "true", "array": "[]", "object": "{}"}

// otherCases are names that a decoder that is liberal about case takes for it.
func otherCases(name string) []string {
	list := []string{strings.ToUpper(name), strings.ToUpper(name[:1]) + name[1:]}
	// Unicode folds these into s and k.
	if folded := strings.NewReplacer("s", "ſ", "k", "\u212a").Replace(name); folded != name {
		list = append(list, folded)
	}
	return list
}

// coveted are fields by which somebody may try to get more than he is given.
var coveted = []string{"role", "roles", "id", "user_id", "owner", "owner_id", "is_admin", "admin", "permissions", "kind", "disabled", "password_hash", "builtin", "created_at", "__proto__"}

// TestMassAssignment is row Z3 for every JSON body there is, by the
// specification, which other tests hold against the routes: a field that is not
// its own, one in another case, and one that stands twice are refused by name.
func TestMassAssignment(t *testing.T) {
	w := newWorld(t, noLimits)
	doc, err := spec()
	if err != nil {
		t.Fatal(err)
	}
	bodies := 0
	for _, rt := range w.api.routes {
		op := doc.Paths.Find(rt.Path).GetOperation(rt.Method)
		if op == nil || op.RequestBody == nil || rt.console() && strings.HasPrefix(rt.Path, consoleAPI) {
			continue
		}
		media := op.RequestBody.Value.Content.Get("application/json")
		if media == nil || rt.Path == "/predict" || strings.HasPrefix(rt.Path, "/v2/") {
			continue // predictions have codecs of their own, with tests of their own
		}
		fields := fieldsOf("", media.Schema.Value)
		if len(fields) == 0 {
			t.Errorf("%s %s: the specification names no fields", rt.Method, rt.Path)
		}
		bodies++
		t.Run(rt.Method+" "+rt.Path, func(t *testing.T) { w.in(t).massAssignment(rt, fields) })
	}
	if bodies < 10 {
		t.Errorf("only %d bodies were found", bodies)
	}
	// The specification of an upload is a part of its own.
	for _, text := range []string{`{"owner":"x"}`, `{"Roles":["user"]}`, `{"roles":[],"roles":["user"]}`} {
		detail := w.upload(w.admin, "sneaky", "iris_v2.onnx", text).refused(400, "invalid_input")
		if !strings.Contains(strings.ToLower(detail), "roles") && !strings.Contains(detail, "owner") {
			t.Errorf("%s: %s", text, detail)
		}
	}
}

func (w *world) massAssignment(rt *route, fields []field) {
	w.t.Helper()
	path := strings.NewReplacer("{id}", "u_none", "{name}", "none", "{version}", "1", "{secret}", "c_none").Replace(rt.Path)
	from := w
	token := w.admin
	if rt.console() {
		from = w.inBrowser()
		token = from.admin
	}
	if rt.Access == Public {
		token = ""
	}
	refused := func(body, name string) {
		w.t.Helper()
		got := from.do(request{method: rt.Method, path: path, token: token, json: []byte(body)})
		var p problem
		if err := json.Unmarshal(got.Body, &p); err != nil || got.Status != http.StatusBadRequest || !strings.Contains(p.Detail, name) {
			w.t.Errorf("%s: status %d: %s", body, got.Status, got.Body)
		}
	}
	known := map[string]bool{}
	for _, f := range fields {
		known[f.path] = true
	}
	for _, name := range coveted {
		if !known[name] {
			refused(fmt.Sprintf(`{%q:"x"}`, name), name)
		}
	}
	for _, f := range fields {
		name := f.path[strings.LastIndexByte(f.path, '.')+1:]
		value := anyValue[f.kind]
		for _, other := range otherCases(name) {
			refused(inside(f.path, fmt.Sprintf(`"%s":%s`, other, value)), other)
		}
		refused(inside(f.path, fmt.Sprintf(`"%s":%s,"%s":%s`, name, value, name, value)), name)
	}
}

// TestEachPermissionAlone: the matrix has a caller for each permission that holds
// it and no other, so that what it opens is seen, and nothing besides.
func TestEachPermissionAlone(t *testing.T) {
	w := newWorld(t, noLimits)
	credential, _ := w.credentials()
	alone := map[string]bool{}
	for _, caller := range callers {
		who, err := w.auth.Authenticate(t.Context(), auth.Origin{}, credential(caller))
		if err != nil {
			t.Fatal(err)
		}
		if names := who.Permissions.Names(); len(names) == 1 {
			alone[names[0]] = true
		}
	}
	admin, err := w.auth.Authenticate(t.Context(), auth.Origin{}, w.admin)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range admin.Permissions.Names() {
		if !alone[name] {
			t.Errorf("no caller of the matrix has %s alone", name)
		}
	}
	for _, rt := range w.api.Routes() {
		for _, p := range []auth.Permission{rt.Permission, rt.Or} {
			if p != 0 && !admin.Can(p) {
				t.Errorf("%s %s needs a permission that no administrator has", rt.Method, rt.Path)
			}
		}
	}
}

// TestObjectsOfOthers is row Z2 for every object that has an owner: what belongs
// to another answers like what is not there, byte for byte but for the id of the
// request, to a person with every right to his own. For models that is so while
// they are closed to him.
func TestObjectsOfOthers(t *testing.T) {
	w := newWorld(t, noLimits)
	_, ada := w.user("ada", "data-scientist")
	_, eve := w.user("eve", "data-scientist")
	w.upload(ada, "hers2", "iris_v2.onnx", "").is(201)
	w.do(request{method: "PATCH", path: "/models/hers2", token: ada, json: `{"aliases":{"stable":1}}`}).is(200)
	session := w.session(ada)
	key := w.post("/users/me/keys", ada, `{"name":"k"}`).is(201).field("id")
	for _, c := range []struct{ method, path, absent, json, absentJSON string }{
		{"DELETE", "/users/me/sessions/" + session, "/users/me/sessions/" + strings.Repeat("x", len(session)), "", ""},
		{"DELETE", "/users/me/keys/" + key, "/users/me/keys/" + strings.Repeat("x", len(key)), "", ""},
		{"GET", "/models/hers2", "/models/none2", "", ""},
		{"PATCH", "/models/hers2", "/models/none2", `{"description":"x"}`, ""},
		{"PATCH", "/models/hers2", "/models/none2", `{"aliases":{"stable":1}}`, ""},
		{"PATCH", "/models/hers2", "/models/none2", `{"default_version":1}`, ""},
		{"DELETE", "/models/hers2", "/models/none2", "", ""},
		{"DELETE", "/models/hers2/versions/1", "/models/none2/versions/1", "", ""},
		{"DELETE", "/models/hers2/versions/7", "/models/none2/versions/7", "", ""},
		{"POST", "/predict", "/predict", `{"model":"hers2","inputs":[[1,2,3,4]]}`, `{"model":"none2","inputs":[[1,2,3,4]]}`},
		{"POST", "/predict", "/predict", `{"model":"hers2","alias":"stable","inputs":[[1,2,3,4]]}`, `{"model":"none2","alias":"stable","inputs":[[1,2,3,4]]}`},
		{"POST", "/predict", "/predict", `{"model":"hers2","version":1,"inputs":[[1,2,3,4]]}`, `{"model":"none2","version":1,"inputs":[[1,2,3,4]]}`},
		{"GET", "/v2/models/hers2/versions/1", "/v2/models/none2/versions/1", "", ""},
		{"GET", "/v2/models/hers2/stats", "/v2/models/none2/stats", "", ""},
		{"GET", "/v2/models/hers2/config", "/v2/models/none2/config", "", ""},
		{"POST", "/v2/repository/models/hers2/load", "/v2/repository/models/none2/load", "{}", ""},
		{"POST", "/v2/repository/models/hers2/unload", "/v2/repository/models/none2/unload", "{}", ""},
	} {
		ask := func(path, body string) answer {
			r := request{method: c.method, path: path, token: eve}
			if body != "" {
				r.json = body
			}
			return w.do(r)
		}
		absentJSON := c.absentJSON
		if absentJSON == "" {
			absentJSON = c.json
		}
		his, none := ask(c.path, c.json), ask(c.absent, absentJSON)
		id := func(a answer) string { return a.Header.Get("X-Request-Id") }
		if his.Status < 400 || his.Status != none.Status || strings.ReplaceAll(string(his.Body), id(his), "") != strings.ReplaceAll(string(none.Body), id(none), "") {
			t.Errorf("%s %s %s: %d %s, but of what is absent %d %s", c.method, c.path, c.json, his.Status, his.Body, none.Status, none.Body)
		}
	}
	// A name that is taken is all that who may publish learns.
	w.upload(eve, "hers2", "iris_v2.onnx", "").refused(409, "taken")
	w.get("/users/me", ada).is(200)
	w.get("/models/hers2", ada).is(200)
}
