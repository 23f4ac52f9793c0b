package main

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"modelgate/client"
)

// TestWrongPort: who asks the wrong port, or in the wrong scheme, is told the
// right one.
func TestWrongPort(t *testing.T) {
	cert, key, roots := certificate(t)
	open := start(t, t.TempDir(), "MODELGATE_GRPC_LISTEN=127.0.0.1:0")
	closed := start(t, t.TempDir(), "MODELGATE_TLS_CERT="+cert, "MODELGATE_TLS_KEY="+key, "MODELGATE_GRPC_LISTEN=127.0.0.1:0")
	t.Chdir(t.TempDir())
	t.Setenv("MODELGATE_TOKEN", "mg_any")
	for url, want := range map[string]string{
		strings.Replace(closed.url, "https:", "http:", 1): "write its address with https://",
		strings.Replace(open.url, "http:", "https:", 1):   "write its address with http://",
		"http://" + open.grpcAddress():                    "its port for gRPC",
	} {
		t.Setenv("MODELGATE_URL", url)
		var errs bytes.Buffer
		if code := run(t.Context(), []string{"models"}, std{strings.NewReader(""), &errs, &errs}); code != 1 || !strings.Contains(errs.String(), want) {
			t.Errorf("exit %d, and no word of %q:\n%s", code, want, errs.String())
		}
	}
	for url, want := range map[string]string{
		strings.Replace(closed.url, "https:", "http:", 1): "write its address with https://",
		strings.Replace(open.url, "http:", "https:", 1):   "write its address with http://",
	} {
		var errs bytes.Buffer
		if code := run(t.Context(), []string{"healthcheck", "--url", url}, std{strings.NewReader(""), &errs, &errs}); code != 1 || !strings.Contains(errs.String(), want) {
			t.Errorf("healthcheck: exit %d, and no word of %q:\n%s", code, want, errs.String())
		}
	}
	over := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}}
	api, err := client.New("https://"+closed.grpcAddress(), client.WithHTTP(over))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := api.Models(t.Context()); err == nil || !strings.Contains(err.Error(), "speaks gRPC alone") {
		t.Errorf("over HTTP/2 the port for gRPC is told as %v", err)
	}
}

// TestHintsNameTheServer: who must log in again is told where, and first to
// unset the variables that would win.
func TestHintsNameTheServer(t *testing.T) {
	code := "reauthentication_required"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, `{"code":%q,"detail":"log in again"}`, code)
	}))
	t.Cleanup(server.Close)
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(home, ".config"))
	t.Chdir(t.TempDir())
	store, err := openCredentials()
	if err != nil {
		t.Fatal(err)
	}
	if err := store.save(login{URL: server.URL, Username: "ann", Access: "any", Expires: time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	says := func(want string) {
		t.Helper()
		var errs bytes.Buffer
		if exit := run(t.Context(), []string{"key", "create", "x"}, std{strings.NewReader(""), &errs, &errs}); exit != 1 || !strings.Contains(errs.String(), want) {
			t.Errorf("exit %d, and no word of %q:\n%s", exit, want, errs.String())
		}
	}
	says("Run 'modelgate login " + server.URL + "' again and repeat")
	code = "invalid_token"
	says("Run 'modelgate login " + server.URL + "' and repeat")
	code = "reauthentication_required"
	t.Setenv("MODELGATE_URL", server.URL)
	t.Setenv("MODELGATE_TOKEN", "mg_any")
	says("Unset MODELGATE_URL and MODELGATE_TOKEN, run 'modelgate login " + server.URL + "' and repeat")
}

// TestSignOutOfAProvidersUser says what it does not end.
func TestSignOutOfAProvidersUser(t *testing.T) {
	ended := false
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Method + " " + r.URL.Path {
		case "GET /admin/users":
			fmt.Fprint(w, `{"items":[{"id":"u_1","username":"ann"}],"next":""}`)
		case "GET /admin/users/u_1/identities":
			fmt.Fprint(w, `{"items":[{"id":"i_1","provider":"corp"}],"next":""}`)
		case "DELETE /admin/users/u_1/sessions":
			ended = true
			w.WriteHeader(http.StatusNoContent)
		}
	}))
	t.Cleanup(server.Close)
	t.Chdir(t.TempDir())
	t.Setenv("MODELGATE_URL", server.URL)
	t.Setenv("MODELGATE_TOKEN", "mg_any")
	var out bytes.Buffer
	exit := run(t.Context(), []string{"user", "sign-out", "ann"}, std{strings.NewReader(""), &out, &out})
	want := "API keys go on. Access tokens of his identity provider go on too, where they are taken; 'modelgate user disable ann' keeps him out."
	if exit != 0 || !ended || !strings.Contains(out.String(), want) {
		t.Errorf("exit %d: %s", exit, out.String())
	}
}

// TestNegativeNumbers: the parser takes them for flags, and what it says of that
// helps nobody.
func TestNegativeNumbers(t *testing.T) {
	t.Chdir(t.TempDir())
	for flag, want := range map[string]string{
		"--slots":          "--slots -1 is negative; take 0 or more; see 'modelgate config --help'",
		"--runtime-memory": "--runtime-memory -1 is negative; take a size, such as 512MiB or 2GiB; see",
		"--timeout":        "--timeout -1 is negative; take a time, such as 30s or 15m; see",
	} {
		var errs bytes.Buffer
		if code := run(t.Context(), []string{"config", flag, "-1"}, std{strings.NewReader(""), &errs, &errs}); code != 2 || !strings.Contains(errs.String(), want) {
			t.Errorf("exit %d, and no word of %q:\n%s", code, want, errs.String())
		}
	}
}
