package api

import (
	"net/http"
	"strings"
	"testing"

	"golang.org/x/net/http/httpguts"

	"modelgate/auth/authtest"
)

// TestForgedTokensOverHTTP sends every forged token to /predict, where a good
// one is served: the answer is 401, or 400 for bytes that no header may have,
// or 431 where the head would be too large.
func TestForgedTokensOverHTTP(t *testing.T) {
	w := newWorld(t, noLimits)
	w.iris()
	w.user("ada")
	ended := w.tokens("ada", userPassword).AccessToken
	w.post("/logout", ended, nil).is(204)
	strangersID, stranger := w.user("eve")
	good := w.tokens("ada", userPassword).AccessToken
	f, err := authtest.New(t.Context(), w.db, w.vault, good, w.clock.now())
	if err != nil {
		t.Fatal(err)
	}
	sid := func(token string) string {
		claims, err := authtest.Part(token, 1)
		if err != nil {
			t.Fatal(err)
		}
		return claims["sid"].(string)
	}
	f.Stranger, f.StrangersSID, f.EndedSID = strangersID, sid(stranger), sid(ended)
	w.post("/predict", f.Good(), irisRow).is(200)
	forged := f.Forged()
	sent := 0
	for _, c := range forged {
		if strings.Trim(c.Token, " \t\r\n") == f.Good() || c.Token == "" {
			continue // as a header's value this is the good one, or none
		}
		sent++
		if httpguts.ValidHeaderFieldValue(c.Token) && len(c.Token) < 500<<10 {
			got := w.in(t).do(request{method: "POST", path: "/predict", json: irisRow, header: http.Header{"Authorization": {"Bearer " + c.Token}}})
			if got.refused(401, "invalid_token"); !strings.HasPrefix(got.Header.Get("Www-Authenticate"), "Bearer ") {
				t.Errorf("%s: challenge %q", c.Name, got.Header.Get("Www-Authenticate"))
			}
			continue
		}
		resp, data, err := w.raw("POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer " + c.Token + "\r\nContent-Length: 51\r\n\r\n" + irisRow)
		if err == nil && resp.StatusCode != 400 && resp.StatusCode != 401 && resp.StatusCode != 431 {
			t.Errorf("%s: status %d: %.200s", c.Name, resp.StatusCode, data)
		}
	}
	if sent < len(forged)-3 || sent < 580 {
		t.Errorf("%d of %d were sent", sent, len(forged))
	}
	// Raised roles in a token that the server might have signed itself.
	raised := f.Sign(f.Header(), f.With("roles", []string{"admin"}))
	w.get("/users/me", raised).is(200)
	w.get("/admin/users", raised).refused(403, "forbidden")
}
