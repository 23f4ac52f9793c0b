package api

import (
	"strconv"
	"testing"
	"time"
)

// TestPasswordChangeTakesTheSecondFactor is ASVS 7.5.1: who has a second factor
// changes his password with a code, unless he has signed in with one in the last
// ten minutes. Guesses run out as those at sign-ins.
func TestPasswordChangeTakesTheSecondFactor(t *testing.T) {
	w := newWorld(t, noLimits)
	_, ada := w.user("ada")
	n, current := 0, userPassword
	change := func(token, otp string) answer {
		next := "unusual phrase number " + strconv.Itoa(n+1)
		body := map[string]string{"current_password": current, "new_password": next}
		if otp != "" {
			body["otp"] = otp
		}
		got := w.post("/users/me/password", token, body)
		if got.Status == 204 {
			n, current = n+1, next
		}
		return got
	}
	change(ada, "123456").is(204) // no second factor: not looked at
	f := w.enrol("ada", ada)
	change(ada, "").refused(401, "otp_required")
	change(ada, f.wrong()).refused(403, "wrong_code")
	code := f.code()
	change(ada, code).is(204)
	change(ada, code).refused(403, "wrong_code")
	change(ada, f.recovery[0]).is(204)
	change(ada, f.recovery[0]).refused(403, "wrong_code")
	w.post("/users/me/password", ada, `{"current_password":"x","new_password":"y","otp":5}`).refused(400, "invalid_input")

	w.clock.advance(time.Minute)
	login := func(otp string) string {
		return w.post("/login", "", map[string]string{"username": "ada", "password": current, "otp": otp}).is(200).field("access_token")
	}
	fresh := login(f.code())
	w.clock.advance(9 * time.Minute)
	change(fresh, "").is(204)
	w.clock.advance(2 * time.Minute)
	change(fresh, "").refused(401, "otp_required")
	for range 10 {
		change(fresh, f.wrong()).refused(403, "wrong_code")
	}
	got := change(fresh, f.code())
	got.refused(429, "rate_limited")
	if wait, err := strconv.Atoi(got.Header.Get("Retry-After")); err != nil || wait < 1 || wait > 360 {
		t.Errorf("Retry-After %q", got.Header.Get("Retry-After"))
	}
	change(fresh, f.recovery[1]).is(204)
}

// TestPasswordChangeInTheConsole is the same with a cookie.
func TestPasswordChangeInTheConsole(t *testing.T) {
	w := newWorld(t, noLimits).inBrowser()
	_, cookie := w.user("ada")
	f := w.enrol("ada", cookie)
	change := func(cookie, current, next, otp string) answer {
		return w.post("/users/me/password", cookie, map[string]string{"current_password": current, "new_password": next, "otp": otp})
	}
	const next, last = "another unusual phrase 4", "another unusual phrase 5"
	change(cookie, userPassword, next, "").refused(401, "otp_required")
	change(cookie, userPassword, next, f.wrong()).refused(403, "wrong_code")
	change(cookie, userPassword, next, f.code()).is(204)
	w.clock.advance(time.Minute)
	cookie = w.post("/console/session", "", map[string]string{"username": "ada", "password": next, "otp": f.code()}).is(200).cookie()
	change(cookie, next, last, "").is(204)
}

// TestPromotionsPastOthersSecrets: nobody gets a permission by a role that he
// gives to a service account whose secret he knows. Over HTTP it is a conflict,
// which says what to do.
func TestPromotionsPastOthersSecrets(t *testing.T) {
	w := newWorld(t, noLimits)
	w.role("helpers", "users:manage")
	w.role("label")
	_, helper := w.user("helper", "helpers")
	made := w.post("/admin/users", helper, map[string]any{"username": "nightly", "kind": "service", "roles": []string{"label"}}).is(201)
	id := made.field("client_id")
	raise := func() answer {
		return w.do(request{method: "PATCH", path: "/admin/users/" + id, token: w.admin, json: map[string]any{"roles": []string{"data-scientist"}}})
	}
	stronger := func() answer {
		return w.do(request{method: "PUT", path: "/admin/roles/label", token: w.admin, json: map[string]any{"permissions": []string{"models:manage"}}})
	}
	raise().refused(409, "conflict")
	stronger().refused(409, "conflict")
	w.post("/admin/users/"+id+"/secrets", w.admin, `{}`).is(201)
	w.do(request{method: "DELETE", path: "/admin/users/" + id + "/secrets/" + made.field("secret_id"), token: w.admin}).is(204)
	stronger().is(200)
	raise().is(200)
}
