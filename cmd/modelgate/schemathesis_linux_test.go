package main

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"modelgate/client"
)

// schemathesis makes requests of an OpenAPI contract, good and bad ones, and
// judges the answers by it. What decides which requests those are is pinned.
var schemathesis = []string{"schemathesis==4.32.5", "hypothesis==6.170.17", "jsonschema_rs==0.60.3"}

// schemathesisCaller is who makes the requests of one run.
type schemathesisCaller struct {
	name, username, password string
	roles                    []string // besides "user"
	console                  bool     // asks the console's twins of the routes too
	whole                    bool     // all phases, not only the examples of the contract and the edges of each schema
}

// TestSchemathesis holds the running program to the contract that it serves,
// as each kind of caller: no server error, no status, media type or body that
// openapi.yaml does not name, no request taken that it refuses. The operations
// come from the contract itself, so that new routes are covered by being in
// it.
//
// The administrator comes furthest, and so has the phases too that make requests
// at random, alone and one from the answers of another. With
// MODELGATE_TEST_EXAMPLES, the most requests per operation and phase, all have.
func TestSchemathesis(t *testing.T) {
	python := venv(t, schemathesis...)
	var mu sync.Mutex
	served := map[string]bool{} // operations that succeeded for somebody; guarded by mu
	var contract map[string]operation
	t.Run("as", func(t *testing.T) { // ends when all of them have
		for _, c := range []schemathesisCaller{
			{name: "anonymous", console: true},
			{name: "user", username: "alice", password: "an unusual phrase 93"},
			{name: "scientist", username: "alice", password: "an unusual phrase 93", roles: []string{"data-scientist"}},
			{name: "administrator", username: "admin", password: adminPassword, console: true, whole: true},
		} {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				p := start(t, filepath.Join(t.TempDir(), "data"), "MODELGATE_DEMO=true", "MODELGATE_RATE_LOGIN=1000000-S",
					"MODELGATE_RATE_PREDICT=1000000000-S", "MODELGATE_RATE_UNAUTHENTICATED=1000000-S")
				p.prepare(c)
				operations := p.contract()
				p.schemathesis(python, c)
				succeeded := p.judge(c, operations)
				mu.Lock()
				defer mu.Unlock()
				contract = operations
				maps.Copy(served, succeeded)
			})
		}
	})
	// What no request made of the schema alone can bring to success: it would
	// have to hold a model's file, a secret or code of this server, or the id of
	// something that few requests make; needs an identity provider; or is never done.
	beyond := []string{
		"DELETE /admin/users/{id}/identities/{identity}", "DELETE /admin/users/{id}/secrets/{secret}",
		"DELETE /admin/users/{id}/sessions", "DELETE /admin/users/{id}/sessions/{session}",
		"DELETE /console/session", "DELETE /users/me/sessions/{id}", "DELETE /users/me/totp",
		"GET /console/oidc/{provider}", "GET /console/oidc/{provider}/callback", "GET /console/session",
		"POST /admin/users/{id}/identities", "POST /console/session/reauthenticate", "POST /models/{name}/versions",
		"POST /password-reset", "POST /refresh", "POST /token", "POST /users/me/password", "POST /users/me/recovery-codes",
		"POST /users/me/totp/confirm", "POST /v2/repository/models/{name}/unload",
	}
	if t.Failed() {
		return
	}
	for name := range contract {
		if !served[name] && !slices.Contains(beyond, name) && !twin(name) {
			t.Errorf("%s succeeded for nobody; its requests came no further than a refusal", name)
		}
	}
}

// judge compares what the caller's requests came to with the contract, and
// returns the operations that succeeded.
func (p *program) judge(c schemathesisCaller, contract map[string]operation) map[string]bool {
	p.t.Helper()
	served := map[string]bool{}
	statuses := p.answered()
	for name, op := range contract {
		got := statuses[name]
		if len(got) == 0 && (c.console || !twin(name)) {
			p.t.Errorf("%s was not asked", name)
		}
		if !slices.ContainsFunc(slices.Collect(maps.Keys(got)), func(status int) bool { return status < 400 }) {
			continue
		}
		served[name] = true
		if op.signedIn && c.username == "" || op.permission != "" && c.name == "user" {
			p.t.Errorf("%s succeeded for the caller %s: %v", name, c.name, got)
		}
	}
	if n := p.metric("modelgate_http_panics_total"); n != 0 {
		p.t.Errorf("%d requests panicked", n)
	}
	return served
}

// twin reports whether an operation is the console's way to what another route
// does: with a cookie, by the same handler.
func twin(name string) bool { return strings.Contains(name, " /console/api/") }

// prepare makes the caller's account.
func (p *program) prepare(c schemathesisCaller) {
	p.t.Helper()
	if c.username == "" || c.username == "admin" {
		return
	}
	u, err := p.anonymous().Register(p.t.Context(), c.username, c.password)
	if err == nil && c.roles != nil {
		roles := append([]string{"user"}, c.roles...)
		_, err = p.admin().UpdateUser(p.t.Context(), u.ID, client.UserPatch{Roles: &roles})
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

// schemathesis runs the program of that name to its end.
func (p *program) schemathesis(python string, c schemathesisCaller) {
	p.t.Helper()
	dir := p.t.TempDir()
	parts := []string{"schemathesis.toml", "schemathesis_signed_in.toml"}
	if c.username == "" {
		parts[1] = "schemathesis_anonymous.toml"
	}
	var config []byte
	for _, name := range parts {
		text, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			p.t.Fatal(err)
		}
		config = append(config, text...)
	}
	path := filepath.Join(dir, "schemathesis.toml")
	if err := os.WriteFile(path, config, 0o600); err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(p.t.Context(), 15*time.Minute)
	defer cancel()
	begun := time.Now()
	arguments := []string{"-c", "from schemathesis.cli import schemathesis; schemathesis()", "--config-file", path,
		"run", p.url + "/openapi.json", "--no-color", "--max-examples", cmp.Or(os.Getenv("MODELGATE_TEST_EXAMPLES"), "10")}
	if !c.whole && os.Getenv("MODELGATE_TEST_EXAMPLES") == "" {
		arguments = append(arguments, "--phases", "examples,coverage")
	}
	if !c.console {
		arguments = append(arguments, "--exclude-path-regex", "^/console/api/")
	}
	cmd := exec.CommandContext(ctx, python, arguments...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CALLER="+c.username, "CALLER_PASSWORD="+c.password, "HOME="+dir, "NO_PROXY=*", "PYTHONIOENCODING=utf-8")
	out, err := cmd.CombinedOutput()
	if err != nil {
		p.t.Fatalf("schemathesis as %s: %v\n%s", c.name, err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	for _, line := range lines {
		if strings.Contains(line, "generated") {
			p.t.Logf("%s in %.0f s", strings.TrimSpace(line), time.Since(begun).Seconds())
		}
	}
}

// operation is what the contract says of one route.
type operation struct {
	signedIn   bool
	permission string
}

// contract reads the served contract, by method and path.
func (p *program) contract() map[string]operation {
	p.t.Helper()
	resp, err := http.Get(p.url + "/openapi.json")
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	var doc struct {
		Paths map[string]map[string]json.RawMessage `json:"paths"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&doc); err != nil {
		p.t.Fatal(err)
	}
	operations := map[string]operation{}
	for path, item := range doc.Paths {
		for method, text := range item {
			if method == "parameters" {
				continue
			}
			var op struct {
				Security   *[]any `json:"security"`
				Permission string `json:"x-permission"`
			}
			if err := json.Unmarshal(text, &op); err != nil {
				p.t.Fatal(err)
			}
			operations[strings.ToUpper(method)+" "+path] = operation{op.Security == nil, op.Permission}
		}
	}
	if len(operations) < 50 {
		p.t.Fatalf("the contract has %d operations", len(operations))
	}
	return operations
}

// answered counts the statuses of each operation in the access log.
func (p *program) answered() map[string]map[int]int {
	p.t.Helper()
	counts := map[string]map[int]int{}
	for line := range strings.Lines(p.output()) {
		var entry struct {
			Method, Route string
			Status        int
		}
		if json.Unmarshal([]byte(line), &entry) != nil || entry.Status == 0 {
			continue
		}
		name := entry.Method + " " + entry.Route
		if counts[name] == nil {
			counts[name] = map[int]int{}
		}
		counts[name][entry.Status]++
		if entry.Status >= 500 {
			p.t.Errorf("%s answered %d", name, entry.Status)
		}
	}
	return counts
}
