package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"modelgate/auth"
)

// exampleProviders are the examples of docs/operations.md.
func exampleProviders(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n## Identity providers\n")
	if !found {
		t.Fatal("docs/operations.md has no section Identity providers")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var examples []string
	for part := range strings.SplitSeq(section, "```yaml\n") {
		if example, _, ended := strings.Cut(part, "```"); ended && strings.HasPrefix(example, "- name:") {
			examples = append(examples, example)
		}
	}
	return examples
}

// TestIdentityProviders: what the documentation shows is taken, and read as it
// says.
func TestIdentityProviders(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "keycloak.secret"), "a secret\n")
	t.Setenv("CORP_CLIENT_SECRET", "another secret")
	examples := exampleProviders(t)
	if len(examples) < 4 {
		t.Fatalf("%d examples", len(examples))
	}
	all := map[string]auth.Provider{}
	for _, example := range examples {
		file := filepath.Join(dir, "providers.yaml")
		write(t, file, example)
		c, err := parse(t, "--identity-providers", file, "--issuer", "https://models.example.com")
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Check(); err != nil {
			t.Errorf("%v in\n%s", err, example)
		}
		list, _, err := c.identityProviders()
		if err != nil {
			t.Errorf("%v in\n%s", err, example)
		}
		for _, p := range list {
			all[p.Name] = p
		}
	}
	want := auth.Provider{
		Name: "keycloak", Issuer: "https://id.example.com/realms/corp", SignIn: true, ClientID: "modelgate", ClientSecret: "a secret",
		Scopes: []string{"openid", "profile", "email"}, APITokens: true, Audience: "modelgate-api", AcceptUntypedTokens: true, CreateUsers: true,
		RequireVerifiedEmail: true, RolesClaim: "realm_access.roles",
		Roles:           map[string][]string{"ml-users": {"user"}, "ml-makers": {"user", "data-scientist"}, "ml-admins": {"admin"}},
		SecondFactorACR: []string{"2"}, SecondFactorAMR: []string{"otp", "hwk"},
		TokenScopes: map[string][]string{"mg.predict": {"predict"}, "mg.publish": {"predict", "models:write"}, "mg.account": {"account"}},
	}
	if got := all["keycloak"]; !reflect.DeepEqual(got, want) {
		t.Errorf("keycloak is read as\n%+v, want\n%+v", got, want)
	}
	if got := all["entra"]; got.Roles["Publish"] == nil || !slices.Contains(got.TokenScopes["Models.Publish"], "models:write") {
		t.Errorf("who may publish by entra can't with its tokens: %+v", got)
	}
}

func TestIdentityProviderRefusals(t *testing.T) {
	const good = "- name: corp\n  issuer: https://id.example.com\n  sign_in: true\n  client_id: modelgate\n"
	dir := t.TempDir()
	write(t, filepath.Join(dir, "open.secret"), "a secret")
	write(t, filepath.Join(dir, "empty.secret"), "\n")
	if err := os.Chmod(filepath.Join(dir, "open.secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "providers.yaml")
	for text, says := range map[string]string{
		good: "", good + "  default_roles: [admin]\n  create_users: true\n": "can't hold admin", good + "  clientsecret: x\n": "unknown field",
		good + "  client_secret: in clear\n": "unknown field", good + "  name: again\n": "write a YAML list", "name: corp\n": "write a YAML list",
		good + "  client_secret_env: NOT_SET_ANYWHERE\n": "NOT_SET_ANYWHERE of client_secret_env is not set",
		good + "  client_secret_file: nowhere.secret\n":  "nowhere.secret", good + "  client_secret_file: open.secret\n": "chmod 600",
		good + "  client_secret_file: empty.secret\n":                                    "is empty",
		good + "  client_secret_file: a\n  client_secret_env: b\n":                       "exclude each other",
		strings.Replace(good, "https:", "http:", 1):                                      "is not https",
		strings.Replace(good, "https://id.example.com", "https://models.example.com", 1): "or this server",
		good + good: "another provider has this name",
	} {
		write(t, file, text)
		c, err := parse(t, "--identity-providers", file, "--issuer", "https://models.example.com")
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Check(); (says == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q, for\n%s", err, says, text)
		}
	}
	write(t, file, good)
	for _, args := range [][]string{{"--listen", "0.0.0.0:0", "--insecure-http"}, {"--identity-providers", file + ".missing"}} {
		c, err := parse(t, append([]string{"--identity-providers", file}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Check(); err == nil || !strings.Contains(err.Error(), "--identity-providers") {
			t.Errorf("%v: %v", args, err)
		}
	}
	if err := os.Chmod(file, 0o646); err != nil {
		t.Fatal(err)
	}
	c, err := parse(t, "--identity-providers", file)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Check(); err == nil || !strings.Contains(err.Error(), "chmod go-w") {
		t.Errorf("a file that others can change: %v", err)
	}
}

// A provider is asked at the start, which does not wait for it, nor does the end;
// what is wrong with it stands in the log.
func TestStartAsksProviders(t *testing.T) {
	asked, release := make(chan struct{}, 10), make(chan struct{})
	hanging := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	defer hanging.Close()
	defer close(release)
	wrong := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"issuer":"https://id.example.com","authorization_endpoint":"a","token_endpoint":"t","jwks_uri":"k"}`)
	}))
	defer wrong.Close()
	file := filepath.Join(t.TempDir(), "providers.yaml")
	write(t, file, "- {name: hanging, issuer: "+hanging.URL+", api_tokens: true, audience: a}\n- {name: wrong, issuer: "+wrong.URL+", api_tokens: true, audience: a}\n")
	p := start(t, t.TempDir(), "MODELGATE_IDENTITY_PROVIDERS="+file)
	<-asked
	p.admin()
	for late := time.Now().Add(time.Minute); !strings.Contains(p.output(), "write issuer exactly as it does there"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(late) {
			t.Fatalf("nothing says what is wrong:\n%s", p.output())
		}
	}
	if err := p.stop(); err != nil {
		t.Errorf("%v\n%s", err, p.output())
	}
	if out := p.output(); !strings.Contains(out, `"provider":"wrong"`) && !strings.Contains(out, "provider=wrong") || strings.Contains(out, "id.example.com") {
		t.Errorf("the log:\n%s", out)
	}
}
