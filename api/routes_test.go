package api

import (
	"net/http"
	"strings"
	"testing"
)

func TestSmoke(t *testing.T) {
	w := newWorld(t, noLimits)
	w.get("/", "").is(200)
	w.get("/docs", "").is(200)
	w.get("/openapi.json", "").is(200)
	_, alice := w.user("alice")
	t.Log(string(w.get("/users/me", alice).is(200).Body))
	t.Log(string(w.get("/admin/users", w.admin).is(200).Body))
	t.Log(string(w.get("/admin/audit", w.admin).is(200).Body))
	w.get("/admin/users", alice).refused(403, "forbidden")
	w.get("/nothing", alice).refused(404, "not_found")
	_ = http.MethodGet
	_ = strings.ToLower
}
