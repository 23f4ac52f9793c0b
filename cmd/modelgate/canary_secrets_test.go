package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
func makeCanaries(t *testing.T, p *program, data, token string) map[string]string {
	t.Helper()
	cage := &canaryCage{t, p, data, token}
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
