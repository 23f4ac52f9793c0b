package api

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestHTTP2 walks the same handler over TLS and HTTP/2, whose streams have
// deadlines and buffers of their own.
func TestHTTP2(t *testing.T) {
	w := newWorld(t, noLimits, withGrace)
	w.iris()
	server := httptest.NewUnstartedServer(w.api.Handler())
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	send := func(method, path string, body io.Reader) (*http.Response, string) {
		t.Helper()
		req, err := http.NewRequest(method, server.URL+path, body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+w.admin)
		req.Header.Set("Content-Type", "application/json")
		resp, err := server.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if resp.ProtoMajor != 2 {
			t.Fatalf("spoken over %s", resp.Proto)
		}
		return resp, string(data)
	}
	for range 20 {
		if resp, data := send("POST", "/predict", strings.NewReader(irisRow)); resp.StatusCode != 200 || !strings.Contains(data, `"label":`) {
			t.Fatalf("%d: %s", resp.StatusCode, data)
		}
	}
	if resp, data := send("POST", "/predict", strings.NewReader(rows(2000))); resp.StatusCode != 200 {
		t.Fatalf("many rows: %d: %.200s", resp.StatusCode, data)
	}
	if resp, data := send("POST", "/predict", io.MultiReader(strings.NewReader(strings.Repeat(" ", 2<<20)))); resp.StatusCode != 413 {
		t.Errorf("a large body: %d: %s", resp.StatusCode, data)
	}
	stalled, end := io.Pipe()
	defer end.Close()
	if resp, data := send("POST", "/predict", stalled); resp.StatusCode != 408 {
		t.Errorf("a stalled body: %d: %s", resp.StatusCode, data)
	}
	if resp, data := send("GET", "/users/me", nil); resp.StatusCode != 200 {
		t.Errorf("%d: %s", resp.StatusCode, data)
	}
}
