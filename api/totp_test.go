package api

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"modelgate/auth"
)

// totpCode is RFC 6238's code, as an authenticator application computes it.
func totpCode(t testing.TB, secret string, at time.Time) string {
	t.Helper()
	key, err := base32.StdEncoding.DecodeString(secret)
	if err != nil {
		t.Fatal(err)
	}
	mac := hmac.New(sha1.New, key)
	_ = binary.Write(mac, binary.BigEndian, at.Unix()/30)
	sum := mac.Sum(nil)
	n := binary.BigEndian.Uint32(sum[sum[19]&15:]) & 0x7fffffff
	return fmt.Sprintf("%06d", n%1e6)
}

// factor is a user's second factor.
type factor struct {
	w        *world
	name     string
	secret   string
	recovery []string
}

// enrol turns a second factor on for the user of an access token.
func (w *world) enrol(name, token string) *factor {
	w.t.Helper()
	f := &factor{w: w, name: name}
	begun := w.post("/users/me/totp", token, nil).is(200)
	exactly(w.t, begun, "secret", "uri")
	f.secret = begun.field("secret")
	done := w.post("/users/me/totp/confirm", token, map[string]string{"otp": f.code()}).is(200)
	exactly(w.t, done, "recovery_codes")
	var codes recoveryCodes
	done.decode(&codes)
	f.recovery = codes.Codes
	w.clock.advance(time.Minute)
	return f
}

func (f *factor) code() string { return totpCode(f.w.t, f.secret, f.w.clock.now()) }

// wrong is a code that is not good now.
func (f *factor) wrong() string {
	good := map[string]bool{}
	for _, off := range []time.Duration{-30 * time.Second, 0, 30 * time.Second} {
		good[totpCode(f.w.t, f.secret, f.w.clock.now().Add(off))] = true
	}
	i := 0
	for ; good[fmt.Sprintf("%06d", i)]; i++ {
	}
	return fmt.Sprintf("%06d", i)
}

func (f *factor) login(otp string) answer {
	f.w.t.Helper()
	return f.w.post("/login", "", map[string]string{"username": f.name, "password": userPassword, "otp": otp})
}

// TestTOTP is row A10 over HTTP.
func TestTOTP(t *testing.T) {
	w := newWorld(t, noLimits)
	_, ada := w.user("ada")
	w.post("/users/me/totp", ada, `{"password":"wrong password 1"}`).refused(403, "wrong_password")
	w.post("/users/me/totp/confirm", ada, `{"otp":"123456"}`).refused(404, "not_found")
	f := w.enrol("ada", ada)
	w.post("/users/me/totp", ada, nil).refused(409, "taken")
	if got := w.get("/users/me", ada).is(200); !strings.Contains(string(got.Body), `"totp":true`) {
		t.Errorf("%s", got.Body)
	}
	f.login("").refused(401, "otp_required")
	f.login(f.wrong()).refused(401, "invalid_credentials")
	code := f.code()
	f.login(code[:3] + " " + code[3:]).is(200)
	f.login(code).refused(401, "invalid_credentials") // replayed in its window
	f.login(f.recovery[0]).is(200)
	f.login(f.recovery[0]).refused(401, "invalid_credentials")

	// The password grant, by a parameter of ours.
	w.clock.advance(time.Minute)
	form := url.Values{"grant_type": {"password"}, "username": {"ada"}, "password": {userPassword}}
	if got := w.form("/token", "", form).is(400); got.field("error") != "invalid_grant" || !strings.Contains(got.field("error_description"), "otp") {
		t.Errorf("%s", got.Body)
	}
	form.Set("otp", f.wrong())
	if got := w.form("/token", "", form).is(400); got.field("error") != "invalid_grant" {
		t.Errorf("%s", got.Body)
	}
	form.Set("otp", f.code())
	w.form("/token", "", form).is(200)

	// New recovery codes, and off again.
	w.clock.advance(time.Minute)
	w.post("/users/me/recovery-codes", ada, map[string]string{"password": userPassword, "otp": f.wrong()}).refused(403, "wrong_code")
	w.post("/users/me/recovery-codes", ada, map[string]string{"password": userPassword, "otp": f.code()}).is(200)
	f.login(f.recovery[1]).refused(401, "invalid_credentials")
	w.clock.advance(time.Minute)
	remove := func(body map[string]string) answer {
		return w.do(request{method: "DELETE", path: "/users/me/totp", token: ada, json: body})
	}
	remove(map[string]string{"password": "wrong password 1", "otp": f.code()}).refused(403, "wrong_password")
	remove(map[string]string{"password": userPassword}).refused(400, "invalid_input")
	remove(map[string]string{"password": userPassword, "otp": f.wrong()}).refused(403, "wrong_code")
	remove(map[string]string{"password": userPassword, "otp": f.code()}).is(204)
	remove(map[string]string{"password": userPassword, "otp": f.code()}).refused(404, "not_found")
	f.login("").is(200)
}

// TestTOTPCredentialsAlike is row A8 with a second factor: without the password
// all answers are the same, byte for byte, and a wrong code is a wrong password.
func TestTOTPCredentialsAlike(t *testing.T) {
	w := newWorld(t, noLimits)
	_, ada := w.user("ada")
	f := w.enrol("ada", ada)
	w.user("bob")
	for _, otp := range []string{f.wrong(), f.code(), f.recovery[0], "x"} {
		first := ""
		for _, c := range [][2]string{{"ada", "wrong password 1"}, {"bob", "wrong password 1"}, {"nobody", userPassword}, {"ada", userPassword}} {
			if c[1] == userPassword && c[0] == "ada" && otp != "x" {
				continue // this one may pass
			}
			got := w.post("/login", "", map[string]string{"username": c[0], "password": c[1], "otp": otp})
			got.refused(401, "invalid_credentials")
			if a := anonymous(got); first == "" {
				first = a
			} else if a != first {
				t.Errorf("%q with %q answers differently:\n%s\n%s", c[0], otp, a, first)
			}
		}
	}
	if a, b := anonymous(f.login(f.wrong())), anonymous(w.post("/login", "", map[string]string{"username": "nobody", "password": "x", "otp": "1"})); a != b {
		t.Errorf("a wrong code answers differently:\n%s\n%s", a, b)
	}
}

// TestTOTPGuesses: wrong codes run out, whatever addresses they come from, and
// say when to come back. They are no way to lock the owner out.
func TestTOTPGuesses(t *testing.T) {
	w := newWorld(t, noLimits, behindProxy)
	_, ada := w.user("ada")
	f := w.enrol("ada", ada)
	try := func(password, otp string, i int) answer {
		return w.do(request{method: "POST", path: "/login", header: from(fmt.Sprintf("203.0.113.%d", i)),
			json: map[string]string{"username": "ada", "password": password, "otp": otp}})
	}
	for i := range 30 { // without the password they cost nothing
		try("wrong password 1", f.wrong(), i).refused(401, "invalid_credentials")
	}
	for i := range 10 {
		try(userPassword, f.wrong(), i).refused(401, "invalid_credentials")
	}
	got := try(userPassword, f.code(), 99)
	got.refused(429, "rate_limited")
	if wait, err := strconv.Atoi(got.Header.Get("Retry-After")); err != nil || wait < 1 || wait > 360 {
		t.Errorf("Retry-After %q", got.Header.Get("Retry-After"))
	}
	if got := w.form("/token", "", url.Values{"grant_type": {"password"}, "username": {"ada"}, "password": {userPassword}, "otp": {f.code()}}); got.Status != 429 {
		t.Errorf("/token: %d", got.Status)
	}
	w.get("/users/me", ada).is(200)
	try(userPassword, f.recovery[0], 99).is(200)
	w.clock.advance(6 * time.Minute)
	try(userPassword, f.code(), 99).is(200)
}

// TestTOTPReauthentication is row A11 for the routes of the second factor.
func TestTOTPReauthentication(t *testing.T) {
	w := newWorld(t, noLimits)
	w.user("ada")
	pair := w.tokens("ada", userPassword)
	key := w.post("/users/me/keys", pair.AccessToken, `{"name":"k"}`).is(201).field("key")
	w.clock.advance(11 * time.Minute)
	w.post("/refresh", "", map[string]string{"refresh_token": pair.RefreshToken}).is(200).decode(&pair)
	ada := pair.AccessToken
	w.post("/users/me/totp", ada, nil).refused(403, "reauthentication_required")
	w.post("/users/me/totp", ada, `{}`).refused(403, "reauthentication_required")
	w.post("/users/me/totp", key, `{"password":"`+userPassword+`"}`).refused(403, "reauthentication_required")
	secret := w.post("/users/me/totp", ada, `{"password":"`+userPassword+`"}`).is(200).field("secret")
	f := &factor{w: w, name: "ada", secret: secret}
	w.post("/users/me/totp/confirm", key, map[string]string{"otp": f.code()}).refused(403, "reauthentication_required")
	w.post("/users/me/totp/confirm", ada, map[string]string{"otp": f.code()}).is(200)
	w.clock.advance(time.Minute)
	for _, token := range []string{ada, key} {
		w.do(request{method: "DELETE", path: "/users/me/totp", token: token, json: map[string]string{"otp": f.code()}}).refused(403, "reauthentication_required")
		w.post("/users/me/recovery-codes", token, map[string]string{"otp": f.code()}).refused(403, "reauthentication_required")
	}
	// A new sign-in, with its code, is proof.
	ada = f.login(f.code()).is(200).field("access_token")
	w.clock.advance(time.Minute)
	w.do(request{method: "DELETE", path: "/users/me/totp", token: ada, json: map[string]string{"otp": f.code()}}).is(204)
}

// TestTOTPPasswordGuesses: who found a token guesses the password no faster here
// than at the other doors.
func TestTOTPPasswordGuesses(t *testing.T) {
	w := newWorld(t, limits(Limits{Login: "10-M"}))
	for i := range 10 {
		if i%2 == 0 {
			w.post("/users/me/totp", w.admin, `{"password":"wrong password 1"}`).refused(403, "wrong_password")
		} else {
			w.post("/users/me/password", w.admin, map[string]string{"current_password": "wrong password 1", "new_password": "another unusual phrase 4"}).refused(403, "wrong_password")
		}
	}
	w.post("/users/me/totp", w.admin, `{"password":"`+adminPassword+`"}`).limited()
}

// TestTOTPReset: an administrator gives a token that takes the second factor
// away; without that word it stays.
func TestTOTPReset(t *testing.T) {
	w := newWorld(t, noLimits)
	id, ada := w.user("ada")
	f := w.enrol("ada", ada)
	reset := func(body any) string {
		token := w.post("/admin/users/"+id+"/reset", w.admin, body).is(200).field("reset_token")
		w.post("/password-reset", "", map[string]string{"reset_token": token, "password": userPassword}).is(204)
		return token
	}
	reset(nil)
	f.login("").refused(401, "otp_required")
	reset(`{"totp":false}`)
	f.login("").refused(401, "otp_required")
	w.post("/admin/users/"+id+"/reset", w.admin, `{"totp":"yes"}`).refused(400, "invalid_input")
	w.post("/admin/users/"+id+"/reset", w.admin, `{"password":"x"}`).refused(400, "invalid_input")
	if got := w.get("/admin/users/"+id, w.admin).is(200); !strings.Contains(string(got.Body), `"totp":true`) {
		t.Errorf("%s", got.Body)
	}
	reset(`{"totp":true}`)
	f.login("").is(200)
}

// TestRequiredTOTP: who must turn a second factor on first is refused at every
// route but those that take him there.
func TestRequiredTOTP(t *testing.T) {
	w := newWorld(t, noLimits, func(a *auth.Config, _ *Config) { a.RequireTOTP = []string{"admin", "careful"} })
	open := map[string]bool{"POST /logout": true, "GET /users/me": true, "POST /users/me/password": true, "POST /users/me/totp": true, "POST /users/me/totp/confirm": true}
	for _, r := range w.api.routes {
		if r.Access != Bearer || open[r.Method+" "+r.Path] {
			continue
		}
		path := strings.NewReplacer("{id}", "x", "{name}", "none", "{version}", "1").Replace(r.Path)
		got := w.do(request{method: r.Method, path: path, token: w.admin})
		if got.Status != 403 || !strings.Contains(string(got.Body), "second factor") {
			t.Errorf("%s %s: %d %s", r.Method, r.Path, got.Status, got.Body)
		}
	}
	w.post("/introspect", w.admin, nil).is(403)
	_, ada := w.user("ada")
	w.get("/models", ada).is(200)
	if got := w.get("/users/me", w.admin).is(200); !strings.Contains(string(got.Body), `"permissions":[]`) {
		t.Errorf("%s", got.Body)
	}
	w.enrol("admin", w.admin)
	w.get("/admin/users", w.admin).is(200)
	w.get("/models", w.admin).is(200)
}

// TestTOTPInTheConsole: a browser signs in and proves itself anew by both factors.
func TestTOTPInTheConsole(t *testing.T) {
	w := newWorld(t, noLimits).inBrowser()
	_, cookie := w.user("ada")
	f := w.enrol("ada", cookie)
	sign := func(path, cookie, otp string) answer {
		body := map[string]string{"password": userPassword, "otp": otp}
		if path == "/console/session" {
			body["username"] = "ada"
		}
		return w.post(path, cookie, body)
	}
	sign("/console/session", "", "").refused(401, "otp_required")
	sign("/console/session", "", f.wrong()).refused(401, "invalid_credentials")
	cookie = sign("/console/session", "", f.code()).is(200).cookie()
	const again = "/console/session/reauthenticate"
	sign(again, cookie, "").refused(401, "otp_required")
	sign(again, cookie, f.wrong()).refused(403, "wrong_code")
	sign(again, cookie, f.code()).refused(403, "wrong_code") // it has signed in
	sign(again, cookie, f.recovery[0]).is(200)
}

// walkTOTP is the success of each route of the second factor.
func (w *world) walkTOTP() {
	w.t.Helper()
	id, token := w.user("two")
	f := w.enrol("two", token)
	w.post("/users/me/recovery-codes", token, map[string]string{"otp": f.code()}).is(200)
	w.clock.advance(time.Minute)
	w.do(request{method: "DELETE", path: "/users/me/totp", token: token, json: map[string]string{"otp": f.code()}}).is(204)
	w.do(request{method: "DELETE", path: "/admin/users/" + id, token: w.admin}).is(204)
}
