package api

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"modelgate/auth"
)

// realProvider is the program of auth/testdata/provider. Host is the name under
// which its users' browsers reach us: the one in the certificate of httptest.
const (
	publicHost   = "example.com"
	callbackPath = "/console/oidc/corp/callback"
)

// startProvider builds and starts a real provider and returns its issuer.
func startProvider(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "provider")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Dir = filepath.Join("..", "auth", "testdata", "provider")
	if out, err := build.CombinedOutput(); err != nil {
		t.Skipf("the provider can't be built, perhaps since its modules can't be had: %v\n%s", err, out)
	}
	run := exec.Command(program, "-redirect", "https://"+publicHost+callbackPath)
	in, err := run.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := run.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close() // it ends by that
		_ = run.Wait()
	})
	issuer, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the provider did not start: %v", err)
	}
	return strings.TrimSpace(issuer)
}

func withRealProvider(issuer string, change func(*auth.Provider)) option {
	return func(c *auth.Config, _ *Config) {
		p := auth.Provider{
			Name: "corp", Issuer: issuer, SignIn: true, ClientID: "browser-client", ClientSecret: "the client's own secret", Scopes: []string{"openid", "profile", "email"},
			APITokens: true, Audience: "modelgate-api", AcceptUntypedTokens: true, CreateUsers: true, RequireVerifiedEmail: false,
			RolesClaim: "groups", Roles: map[string][]string{"ml-users": {"user"}, "ml-admins": {"admin"}},
			TokenScopes: map[string][]string{"mg.account": {"account"}},
		}
		if change != nil {
			change(&p)
		}
		c.Issuer, c.Providers, c.Now = "https://"+publicHost, []auth.Provider{p}, time.Now
	}
}

// person is somebody with a browser that follows where it is sent.
type person struct {
	t      *testing.T
	client *http.Client
}

func newPerson(t *testing.T, server *httptest.Server) *person {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	dialer := net.Dialer{}
	transport := &http.Transport{
		TLSClientConfig: server.Client().Transport.(*http.Transport).TLSClientConfig.Clone(),
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			if address == publicHost+":443" {
				address = server.Listener.Addr().String()
			}
			return dialer.DialContext(ctx, network, address)
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &person{t, &http.Client{Jar: jar, Transport: transport, Timeout: 30 * time.Second}}
}

func (p *person) read(resp *http.Response, err error) answer {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return answer{p.t, resp.Request.Method + " " + resp.Request.URL.String(), resp.StatusCode, resp.Header, data}
}

func (p *person) open(address string) answer {
	p.t.Helper()
	return p.read(p.client.Get(address))
}

var loginID = regexp.MustCompile(`name="id" value="([^"]+)"`)

// signIn opens an address that leads to the provider's form, fills it in, and
// goes on to where that leads.
func (p *person) signIn(address, issuer, name string) answer {
	p.t.Helper()
	form := p.open(address).is(200)
	id := loginID.FindSubmatch(form.Body)
	if id == nil {
		p.t.Fatalf("%s: no form of the provider: %s", form.what, form.Body)
	}
	return p.read(p.client.PostForm(issuer+"/login/username", url.Values{"id": {string(id[1])}, "username": {name}, "password": {"verysecure"}}))
}

// tokens are those that a client of the provider gets for a person.
func (p *person) tokens(issuer, name string) (access, id string) {
	p.t.Helper()
	cfg := oauth2.Config{ClientID: "browser-client", ClientSecret: "the client's own secret", RedirectURL: "https://" + publicHost + callbackPath,
		Scopes: []string{"openid", "profile", "email"}, Endpoint: oauth2.Endpoint{AuthURL: issuer + "/auth", TokenURL: issuer + "/oauth/token"}}
	verifier := oauth2.GenerateVerifier()
	var code string
	p.client.CheckRedirect = func(r *http.Request, _ []*http.Request) error {
		if r.URL.Host == publicHost {
			code = r.URL.Query().Get("code")
			return http.ErrUseLastResponse
		}
		return nil
	}
	p.signIn(cfg.AuthCodeURL("state", oauth2.S256ChallengeOption(verifier), oauth2.SetAuthURLParam("nonce", "n")), issuer, name)
	p.client.CheckRedirect = nil
	t, err := cfg.Exchange(p.t.Context(), code, oauth2.VerifierOption(verifier))
	if err != nil {
		p.t.Fatal(err)
	}
	id, _ = t.Extra("id_token").(string)
	return t.AccessToken, id
}

// TestRealProvider signs in through a provider that somebody else has written,
// and takes its access tokens.
func TestRealProvider(t *testing.T) {
	issuer := startProvider(t)
	w := newWorld(t, noLimits, withRealProvider(issuer, nil))
	server := httptest.NewUnstartedServer(w.api.Handler())
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS13}
	server.StartTLS()
	defer server.Close()
	const start, session = "https://" + publicHost + "/console/oidc/corp", "https://" + publicHost + "/console/session"
	localID, _ := w.user("ada")

	ada := newPerson(t, server)
	ada.open(session).refused(401, "invalid_token")
	if done := ada.signIn(start, issuer, "ada").is(200); !strings.Contains(string(done.Body), "You are signed in") {
		t.Fatalf("%s: %s", done.what, done.Body)
	}
	var me browserSession
	ada.open(session).is(200).decode(&me)
	if me.User.ID == localID || !strings.HasPrefix(me.User.Username, "ada-") || strings.Join(me.User.Roles, " ") != "user" || time.Since(me.AuthTime) > time.Minute {
		t.Errorf("signed in as %+v", me)
	}
	ada.open("https://"+publicHost+"/console/api/admin/users").refused(403, "forbidden")

	// The mapping says who is an administrator; a mail address says nothing.
	grace, eve := newPerson(t, server), newPerson(t, server)
	grace.signIn(start, issuer, "grace").is(200)
	grace.open("https://" + publicHost + "/console/api/admin/users").is(200)
	eve.signIn(start, issuer, "eve").is(200)
	var other browserSession
	if eve.open(session).is(200).decode(&other); other.User.ID == me.User.ID || other.User.ID == localID {
		t.Errorf("eve is %+v", other)
	}

	// A proof anew: the provider asks for the password again, and says so.
	before := me.AuthTime
	ada.signIn(start+"?reauthenticate=1", issuer, "ada").is(200)
	if ada.open(session).is(200).decode(&me); me.AuthTime.Before(before) {
		t.Errorf("proved at %s, and before that at %s", me.AuthTime, before)
	}

	// At the API its access tokens are taken, and its ID tokens are not, though
	// they are for the same audience as well.
	access, id := newPerson(t, server).tokens(issuer, "ada")
	if who := w.get("/users/me", access).is(200).field("id"); who != me.User.ID {
		t.Errorf("at the API ada is %s", who)
	}
	if id == "" {
		t.Fatal("no ID token")
	}
	w.get("/models", access).refused(403, "insufficient_scope")
	w.get("/users/me", id).refused(401, "invalid_token")
	w.get("/users/me", access[:len(access)-8]+"AAAAAAAA").refused(401, "invalid_token")
	w.do(request{method: "PATCH", path: "/admin/users/" + me.User.ID, token: w.admin, json: `{"disabled":true}`}).is(200)
	w.get("/users/me", access).refused(401, "invalid_token")
	ada.open(session).refused(401, "invalid_token")
	ada.signIn(start, issuer, "ada").refused(403, "forbidden")

	// It tells of a password alone, which is what some call a second factor.
	for amr, status := range map[string]int{"pwd": 200, "mfa": 403} {
		w := newWorld(t, noLimits, withRealProvider(issuer, func(p *auth.Provider) { p.SecondFactorAMR = []string{amr} }),
			func(c *auth.Config, _ *Config) { c.RequireTOTP = []string{"admin"} })
		server := httptest.NewTLSServer(w.api.Handler())
		newPerson(t, server).signIn(start, issuer, "grace").is(status)
		newPerson(t, server).signIn(start, issuer, "ada").is(200)
		server.Close()
	}

	t.Run("stricter", func(t *testing.T) {
		w := newWorld(t, noLimits, withRealProvider(issuer, func(p *auth.Provider) { p.AcceptUntypedTokens, p.RequireVerifiedEmail = false, true }))
		server := httptest.NewTLSServer(w.api.Handler())
		defer server.Close()
		w.get("/users/me", access).refused(401, "invalid_token") // its typ is JWT
		newPerson(t, server).signIn(start, issuer, "ada").is(200)
		newPerson(t, server).signIn(start, issuer, "eve").refused(403, "forbidden")
	})
}
