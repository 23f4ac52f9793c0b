package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base32"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"modelgate/auth/authtest"
)

// canary makes a secret, uses it well and badly, and returns it: TestCanaries
// then looks for it in everything that was written. A new kind of secret is a
// new line here.
type canary struct {
	what string
	make func(c *canaryCage) (secrets []string)
}

var canaries = []canary{
	{"client secret", (*canaryCage).clientSecret},
	{"cookie of a browser", (*canaryCage).cookie},
	{"second factor", (*canaryCage).secondFactor},
	{"sign-in at a provider", (*canaryCage).externalSignIn},
	{"invitation", func(c *canaryCage) []string {
		token := c.post("/admin/users", map[string]any{"username": "awaited", "roles": []string{}})["invite_token"]
		c.try("/register", map[string]any{"invite_token": token + "x", "password": "CANARY-password-52"})
		return []string{token, "CANARY-password-52"}
	}},
	{"reset token", func(c *canaryCage) []string {
		id := c.post("/admin/users", map[string]any{"username": "forgetful", "roles": []string{}})["id"]
		token := c.post("/admin/users/"+id+"/reset", nil)["reset_token"]
		c.try("/password-reset", map[string]any{"reset_token": token + "x", "password": "CANARY-password-53"})
		c.try("/password-reset", map[string]any{"reset_token": token, "password": "CANARY-password-54"})
		return []string{token, "CANARY-password-53", "CANARY-password-54"}
	}},
	{"password in the wrong field", func(c *canaryCage) []string {
		c.try("/login", map[string]any{"username": "CANARY Password 55", "password": "x"})
		c.try("/login", map[string]any{"username": "admin", "CANARY-password-56": "x"})
		return []string{"CANARY Password 55"}
	}},
	{"master key", func(c *canaryCage) []string { return c.file("keys/master.key") }},
	{"key of the audit log", func(c *canaryCage) []string { return c.file("keys/audit.key") }},
}

// canaryCage is the server that the secrets are made on.
type canaryCage struct {
	t     *testing.T
	p     *program
	data  string
	token string // the administrator's
	idp   *authtest.Provider
}

// send sends a request and returns its answer.
func (c *canaryCage) send(method, path, contentType, body string, header http.Header) (*http.Response, []byte) {
	c.t.Helper()
	req, err := http.NewRequest(method, c.p.url+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp, data
}

func (c *canaryCage) json(path, token string, body any) (*http.Response, []byte) {
	c.t.Helper()
	var text []byte
	if body != nil { // nil is no body, not the JSON null
		var err error
		if text, err = json.Marshal(body); err != nil {
			c.t.Fatal(err)
		}
	}
	header := http.Header{}
	if token != "" {
		header.Set("Authorization", "Bearer "+token)
	}
	return c.send("POST", path, "application/json", string(text), header)
}

// post does something as the administrator and returns the text fields of the
// answer.
func (c *canaryCage) post(path string, body any) map[string]string {
	c.t.Helper()
	resp, data := c.json(path, c.token, body)
	var all map[string]any
	if err := json.Unmarshal(data, &all); err != nil || resp.StatusCode >= 300 {
		c.t.Fatalf("%s: %d %s", path, resp.StatusCode, data)
	}
	fields := map[string]string{}
	for name, v := range all {
		fields[name] = fmt.Sprint(v)
	}
	return fields
}

// try does something as a stranger, however it ends.
func (c *canaryCage) try(path string, body any) {
	c.t.Helper()
	c.json(path, "", body)
}

func (c *canaryCage) clientSecret() []string {
	made := c.post("/admin/users", map[string]any{"username": "nightly", "roles": []string{}, "kind": "service"})
	id, secret := made["client_id"], made["client_secret"]
	token := ""
	for _, s := range []string{secret, secret + "x"} {
		form := url.Values{"grant_type": {"client_credentials"}, "client_id": {id}, "client_secret": {s}}
		resp, data := c.send("POST", "/token", "application/x-www-form-urlencoded", form.Encode(), nil)
		var t struct {
			Token string `json:"access_token"`
		}
		if good := resp.StatusCode == 200; good != (s == secret) || json.Unmarshal(data, &t) != nil {
			c.t.Fatalf("a client's token: %d %s", resp.StatusCode, data)
		}
		token += t.Token
	}
	c.send("GET", "/users/me", "", "", http.Header{"Authorization": {"Bearer " + token}})
	return []string{secret, token}
}

func (c *canaryCage) cookie() []string {
	resp, data := c.json("/console/session", "", map[string]string{"username": "admin", "password": adminPassword})
	if len(resp.Cookies()) != 1 {
		c.t.Fatalf("a sign-in of a browser: %d %s", resp.StatusCode, data)
	}
	value := resp.Cookies()[0].Value
	for _, v := range []string{value, value + "x"} {
		c.send("GET", "/console/session", "", "", http.Header{"Cookie": {resp.Cookies()[0].Name + "=" + v}})
	}
	return []string{value}
}

// secondFactor is turned on for a user, who signs in with codes good and bad.
func (c *canaryCage) secondFactor() []string {
	who := map[string]any{"username": "careful", "password": "CANARY-password-57"}
	c.try("/register", who)
	admin := c.token
	defer func() { c.token = admin }()
	c.token = c.post("/login", who)["access_token"]
	begun := c.post("/users/me/totp", nil)
	secret := begun["secret"]
	plain, err := base32.StdEncoding.DecodeString(secret)
	if err != nil {
		c.t.Fatal(err)
	}
	now := time.Now()
	c.try("/users/me/totp/confirm", map[string]any{"otp": secret})
	_, data := c.json("/users/me/totp/confirm", c.token, map[string]any{"otp": totpCode(c.t, secret, now)})
	var confirmed struct {
		Codes []string `json:"recovery_codes"`
	}
	if err := json.Unmarshal(data, &confirmed); err != nil || len(confirmed.Codes) < 2 {
		c.t.Fatalf("a second factor: %s", data)
	}
	for _, otp := range []string{totpCode(c.t, secret, now.Add(30*time.Second)), confirmed.Codes[0]} {
		who["otp"] = otp
		c.post("/login", who)
		c.try("/login", who) // it is used up
	}
	for _, otp := range []string{secret, confirmed.Codes[1] + "x"} {
		who["otp"] = otp
		c.try("/login", who)
	}
	secrets := []string{secret, string(plain), begun["uri"], "CANARY-password-57"}
	for _, code := range confirmed.Codes {
		secrets = append(secrets, code, strings.ReplaceAll(code, "-", ""))
	}
	return secrets
}

// externalSignIn is one that ends well, one of whose token the signature is bad,
// and one that the provider refuses in words that quote what it was sent.
func (c *canaryCage) externalSignIn() []string {
	secrets := []string{authtest.ClientSecret, url.QueryEscape(authtest.ClientSecret)}
	c.idp.Change(func() {
		c.idp.Tokens = func(answer authtest.Members, nonce string) {
			if len(secrets) > 6 { // the second
				answer["id_token"] = fmt.Sprint(answer["id_token"], "AA")
			}
			secrets = append(secrets, fmt.Sprint(answer["id_token"]), nonce)
		}
	})
	for i, status := range []int{200, 403, 403} {
		if i == 2 {
			c.idp.Change(func() {
				c.idp.Answer["/token"] = func(w http.ResponseWriter, r *http.Request) {
					body, _ := io.ReadAll(r.Body)
					id, secret, _ := r.BasicAuth()
					w.WriteHeader(http.StatusUnauthorized)
					fmt.Fprintf(w, `{"error":"invalid_client","error_description":"%s %s %s %s"}`, id, secret, r.Header.Get("Authorization"), body)
				}
			})
		}
		resp, cookie := c.browse("/console/oidc/corp", "")
		now := time.Now().Unix()
		back := c.idp.SignIn(resp.Header.Get("Location"), authtest.Members{"iss": c.idp.Issuer(), "sub": "sub-1", "iat": now, "exp": now + 300, "preferred_username": "external"})
		secrets = append(secrets, back.Query().Get("code"), back.Query().Get("state"), strings.SplitN(cookie, "=", 2)[1])
		resp, session := c.browse(back.RequestURI(), cookie)
		if resp.StatusCode != status {
			c.t.Fatalf("sign-in %d: %d; want %d", i+1, resp.StatusCode, status)
		}
		if status == 200 {
			secrets = append(secrets, strings.SplitN(session, "=", 2)[1])
			c.browse("/console/session", session+"x")
		}
	}
	return secrets
}

// browse opens a page as a browser does that follows nothing by itself, and
// returns the last cookie that it was given, with its name.
func (c *canaryCage) browse(path, cookie string) (*http.Response, string) {
	c.t.Helper()
	req, err := http.NewRequest(http.MethodGet, c.p.url+path, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	if cookie != "" {
		req.Header.Set("Cookie", cookie)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		c.t.Fatal(err)
	}
	resp.Body.Close()
	for _, got := range resp.Cookies() {
		cookie = got.Name + "=" + got.Value
	}
	return resp, cookie
}

// withProvider starts a provider and returns it with the setting of a server
// that lets people sign in there.
func withProvider(t *testing.T) (p *authtest.Provider, setting string) {
	t.Helper()
	p = authtest.NewProvider(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "secret"), authtest.ClientSecret)
	file := filepath.Join(dir, "providers.yaml")
	write(t, file, fmt.Sprintf("- name: corp\n  issuer: %s\n  sign_in: true\n  client_id: %s\n  client_secret_file: secret\n  create_users: true\n  default_roles: [user]\n",
		p.Issuer(), authtest.ClientID))
	return p, "MODELGATE_IDENTITY_PROVIDERS=" + file
}

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

// file gives the lines of a file of the data folder that are long enough to be
// a secret, and the bytes of all of them.
func (c *canaryCage) file(name string) (secrets []string) {
	c.t.Helper()
	text, err := os.ReadFile(filepath.Join(c.data, name))
	if err != nil {
		c.t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		if line = bytes.TrimSpace(line); len(line) >= 40 && !bytes.HasPrefix(line, []byte("-----")) {
			secrets = append(secrets, string(line))
		}
	}
	if len(secrets) == 0 {
		c.t.Fatalf("%s has no secret", name)
	}
	return secrets
}

// makeCanaries lets every secret fly.
func makeCanaries(t *testing.T, p *program, data, token string, idp *authtest.Provider) map[string]string {
	t.Helper()
	cage := &canaryCage{t, p, data, token, idp}
	all := map[string]string{}
	for _, c := range canaries {
		for i, secret := range c.make(cage) {
			if len(secret) < 12 {
				t.Fatalf("%s: the secret %q is too short to be looked for", c.what, secret)
			}
			all[fmt.Sprintf("%s (%d)", c.what, i+1)] = secret
		}
	}
	return all
}
