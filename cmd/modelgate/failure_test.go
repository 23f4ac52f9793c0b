package main

import (
	"bytes"
	"crypto/tls"
	"net/http"
	"strings"
	"testing"

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
