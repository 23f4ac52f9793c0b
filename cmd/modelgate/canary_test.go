package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"modelgate/client"
)

// recorder keeps every answer that came through it, headers included.
type recorder struct {
	mu      sync.Mutex
	answers []string // guarded by mu
}

func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answers = append(r.answers, fmt.Sprintf("%s %s: %d %v\n%s", req.Method, req.URL.Path, resp.StatusCode, resp.Header, body))
	return resp, nil
}

// TestCanaries looks for what must not leave: nothing internal of a model in
// any answer, log line or metric, and no secret anywhere but in the one answer
// that gives it.
func TestCanaries(t *testing.T) {
	const graph = "CANARY_7f3a" // every name in canary.onnx has it
	const abort = "terminate called"
	const password = "CANARY-password-51"
	ctx := context.Background()
	data := t.TempDir()
	idp, setting := withProvider(t)
	p := start(t, data, "MODELGATE_LOG_LEVEL=debug", "MODELGATE_RATE_LOGIN=100-M", setting)
	secrets := map[string]string{"password": password, "admin's password": adminPassword}

	tokens, err := p.anonymous().Login(ctx, "admin", adminPassword)
	if err != nil {
		t.Fatal(err)
	}
	secrets["admin's access token"], secrets["admin's refresh token"] = tokens.AccessToken, tokens.RefreshToken
	key, err := p.with(tokens.AccessToken).CreateKey(ctx, "robot", 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	secrets["API key"] = key.Key
	master, err := os.ReadFile(masterKeyPath(data))
	if err != nil {
		t.Fatal(err)
	}
	secrets["master key"] = strings.TrimSpace(string(master))

	var seen recorder
	as := func(token string) *client.Client {
		c, err := client.New(p.url, client.WithToken(token), client.WithHTTP(&http.Client{Transport: &seen}))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	manager := as(tokens.AccessToken)
	file := modelBytes(t, "canary.onnx")
	if !bytes.Contains(file, []byte(graph)) {
		t.Fatal("the model holds no canary; this test proves nothing")
	}
	push(t, manager, "secretive", file, client.Spec{Roles: []string{"user"}})
	push(t, manager, "fragile", modelBytes(t, "hostile/empty_inside.onnx"), client.Spec{Roles: []string{"user"}})
	for _, bad := range []string{"truncated", "external_parent", "unknown_operator", "unknown_field", "no_outputs", "type_mismatch"} {
		if _, err := tryPush(manager, "bad", modelBytes(t, "hostile/"+bad+".onnx"), client.Spec{}); err == nil {
			t.Errorf("%s was published", bad)
		}
	}
	// The canary itself, damaged behind the static check's back where possible.
	for _, cut := range []int{len(file) / 3, len(file) / 2, len(file) - 7} {
		_, _ = tryPush(manager, "bad", file[:cut], client.Spec{})
	}
	managerAnswers := seen.answers
	seen.answers = nil

	if _, err := as("").Register(ctx, "carol", password); err != nil {
		t.Fatal(err)
	}
	carolTokens, err := p.anonymous().Login(ctx, "carol", password)
	if err != nil {
		t.Fatal(err)
	}
	secrets["access token"], secrets["refresh token"] = carolTokens.AccessToken, carolTokens.RefreshToken
	carol := as(carolTokens.AccessToken)
	if _, err := carol.Predict(ctx, client.PredictRequest{Model: "secretive", Inputs: map[string]any{"input_0": [][]float64{{0, 1, 1}}}}); err != nil {
		t.Fatal(err)
	}
	failed := 0
	for _, inputs := range []any{
		map[string]any{"input_0": [][]float64{{7, 1, 1}}}, // fails in the runtime, whose message names a node
		map[string]any{"input_0": [][]float64{{1}}},
		map[string]any{}, [][]string{{"x"}}, nil,
	} {
		if _, err := carol.Predict(ctx, client.PredictRequest{Model: "secretive", Inputs: inputs}); err != nil {
			failed++
		}
	}
	// The runtime aborts, and says so on the standard error of its process.
	_, err = carol.Predict(ctx, client.PredictRequest{Model: "fragile", Inputs: [][][]float64{{{1, 1}}}})
	refused(t, err, 503, "a model that ends its process")
	// Not recorded: a refusal may quote the caller's own words.
	if _, err := p.with(carolTokens.AccessToken).Predict(ctx, client.PredictRequest{Model: "secretive", Inputs: map[string]any{graph + "/in:0": [][]float64{{0, 1, 1}}}}); err == nil {
		t.Error("the graph's own name of an input is taken")
	}
	if failed != 5 {
		t.Errorf("%d of 5 bad predictions were refused", failed)
	}
	_, _ = as("").Login(ctx, "carol", password+"x")
	_, _ = as(carolTokens.AccessToken + "x").Me(ctx)
	_, _ = as("mg_" + strings.Repeat("A", 43)).Me(ctx)
	_, _ = as("").Refresh(ctx, carolTokens.RefreshToken+"x")
	_, _ = carol.Model(ctx, "secretive")
	_, _ = carol.Models(ctx)
	_, _ = carol.Audit(ctx, client.AuditQuery{})
	for _, path := range []string{"/", "/docs", "/openapi.json", "/readyz", "/nothing", "/admin/metrics"} {
		req, _ := http.NewRequest(http.MethodGet, p.url+path, nil)
		if resp, err := (&http.Client{Transport: &seen}).Do(req); err == nil {
			resp.Body.Close()
		}
	}
	callerAnswers := seen.answers

	for what, secret := range makeCanaries(t, p, data, tokens.AccessToken, idp) {
		secrets[what] = secret
	}
	metrics := getAs(t, p.url+"/admin/metrics", tokens.AccessToken)
	if !strings.Contains(metrics, "modelgate_") {
		t.Fatalf("no metrics: %s", metrics)
	}
	auditLog, err := os.ReadFile(auditPath(data))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(file)
	internals := map[string]string{
		"a name of the graph": graph, "the data folder": data,
		"the runtime's source": "onnxruntime_src", "the runtime's library": "libonnxruntime", "what a process says when it aborts": abort, "where it was": "sigabrt", "the file's digest": hex.EncodeToString(sum[:]),
	}
	check := func(where string, text string, forbidden map[string]string, except ...string) {
		t.Helper()
		for what, canary := range forbidden {
			if i := strings.Index(strings.ToLower(text), strings.ToLower(canary)); i >= 0 && !slices.Contains(except, what) {
				t.Errorf("%s holds %s: ...%s...", where, what, text[max(0, i-120):min(len(text), i+len(canary)+120)])
			}
		}
	}
	for _, a := range callerAnswers {
		// A caller may not be told his own words back as if they were ours.
		check("an answer to a caller", a, internals)
		check("an answer to a caller", a, secrets)
	}
	for _, a := range managerAnswers {
		check("an answer to a manager", a, internals, "the file's digest")
		check("an answer to a manager", a, secrets)
	}
	check("the log", p.output(), internals)
	check("the log", p.output(), secrets)
	check("the metrics", metrics, internals)
	check("the metrics", metrics, secrets)
	check("the audit log", string(auditLog), internals, "the file's digest")
	check("the audit log", string(auditLog), secrets)

	// The protected log has the runtime's words, tied to the answer.
	protected, err := os.ReadFile(protectedPath(data))
	if err != nil {
		t.Fatal(err)
	}
	for what, words := range map[string]string{"about the failed run": graph, "when its process aborted": abort} {
		if !bytes.Contains(protected, []byte(words)) {
			t.Errorf("the runtime's words %s are nowhere: the protected log lacks them", what)
		}
	}
	check("the protected log", string(protected), secrets)
	for _, name := range []string{"modelgate.db", "modelgate.db-wal"} {
		db, err := os.ReadFile(filepath.Join(data, name))
		if err != nil {
			continue // the log is folded in at a clean end
		}
		check("the database", string(db), secrets)
	}
}

func getAs(t *testing.T, url, token string) string {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return readAll(t, resp)
}
