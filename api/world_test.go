package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"modelgate/audit"
	"modelgate/auth"
	"modelgate/inference"
	"modelgate/inference/inferencetest"
	"modelgate/inference/ort"
	"modelgate/models"
	"modelgate/store"
)

const (
	adminPassword = "correct horse battery 17"
	userPassword  = "an unusual phrase 93"
)

// world is a whole server over real rooms in a folder of its own: a database,
// an audit log, a keyring, model files, and ONNX Runtime where a test runs
// models.
type world struct {
	t       testing.TB
	dir     string
	api     *Server
	http    *httptest.Server
	auth    *auth.Service
	db      *store.DB
	vault   *auth.Vault
	audit   *audit.Log
	models  *models.Catalog
	log     *lockedBuffer
	metrics *prometheus.Registry
	clock   *clock
	memory  *inference.Memory
	fake    *inferencetest.Fake

	admin string                                // access token, or the cookie of browser
	seen  func(method, path string, status int) // told of every answer, by route
	// browser makes requests of the console API: tokens are values of cookies,
	// and routes that are mirrored are asked for there.
	browser bool
}

// lockedBuffer is a log that tests can read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// option changes what newWorld builds.
type option func(*auth.Config, *Config)

// noLimits is for tests that sign in more often than a person would.
func noLimits(_ *auth.Config, c *Config) {
	c.Limits = Limits{Predict: "1000000-S", Login: "1000000-S", Unauthenticated: "1000000-S"}
}

// withGrace makes slow clients fail fast.
func withGrace(_ *auth.Config, c *Config) {
	c.BodyGrace, c.WriteGrace = 300*time.Millisecond, 500*time.Millisecond
}

func newWorld(t testing.TB, options ...option) *world {
	t.Helper()
	return newWorldOn(t, false, options...)
}

func newWorldOn(t testing.TB, real bool, options ...option) *world {
	t.Helper()
	ctx := context.Background()
	w := &world{t: t, dir: t.TempDir(), log: new(lockedBuffer), clock: newClock()}
	w.clock.at.Store(time.Now().UnixNano())
	log := slog.New(slog.NewJSONHandler(w.log, nil))
	var err error
	must := func(what string) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	w.db, err = store.Open(ctx, filepath.Join(w.dir, "modelgate.db"), nil)
	must("store")
	t.Cleanup(func() { w.db.Close() })
	w.audit, err = audit.Open(ctx, audit.Config{Path: filepath.Join(w.dir, "audit.log"), Heads: w.db, Logger: log})
	must("audit")
	t.Cleanup(func() { w.audit.Close() })
	guard := auth.NewGuard(w.audit)
	w.vault, err = auth.OpenVault(filepath.Join(w.dir, "keys", "master.key"), "")
	must("vault")
	keys, err := auth.OpenKeyring(ctx, auth.KeyringConfig{Store: w.db, Vault: w.vault, Now: w.clock.now, Logger: log})
	must("keyring")
	authConfig := auth.Config{Store: w.db, Guard: guard, Audit: w.audit, Keys: keys, Vault: w.vault, Issuer: "http://modelgate.test",
		Hashing: auth.Hashing{Memory: 64, Time: 1, Parallel: 1, Queue: 1000}, PasswordGrant: true, Now: w.clock.now, Logger: log}
	files, err := models.OpenFiles(filepath.Join(w.dir, "models"), 4<<20)
	must("files")
	w.models, err = models.New(ctx, models.Config{Store: w.db, Files: files, Guard: guard, Logger: log, Quota: 8 << 20})
	must("catalogue")
	cfg := Config{Guard: guard, Catalog: w.models, Audit: w.audit, Logger: log, AccessLog: w.log, MaxBody: 1 << 20, MaxModel: 4 << 20,
		Issuer: authConfig.Issuer, PasswordGrant: true, Ready: w.db.Ping, Version: "test", Now: w.clock.now}
	for _, o := range options {
		o(&authConfig, &cfg)
	}
	w.auth, err = auth.New(authConfig)
	must("auth")
	_, _, err = w.auth.EnsureAdmin(ctx, adminPassword)
	must("first administrator")
	cfg.Auth = w.auth
	w.metrics = prometheus.NewRegistry()
	cfg.Metrics, cfg.Inference = w.metrics, w.inference(real)
	w.api, err = New(cfg)
	must("api")
	w.serve()
	w.admin = w.login("admin", adminPassword)
	return w
}

// inBrowser is the world as pages of the console see it, with the administrator
// signed in.
func (w *world) inBrowser() *world {
	w.t.Helper()
	c := *w
	c.browser = true
	c.admin = c.login("admin", adminPassword)
	return &c
}

// in is the world for a subtest.
func (w *world) in(t testing.TB) *world {
	c := *w
	c.t = t
	return &c
}

// inference serves models with the engine that is made for tests, which they
// can hold, or with ONNX Runtime.
func (w *world) inference(real bool) *inference.Service {
	w.memory = inference.NewMemory(64 << 20)
	w.fake = inferencetest.NewFake(w.memory)
	cfg := inference.Config{Engine: w.fake, Catalog: w.models, Memory: w.memory, Timeout: 2 * time.Second, Slots: 2, Queue: 2, Metrics: w.metrics}
	cfg.Charge = func(ctx context.Context, who auth.Principal, access models.Access, rows int) error {
		return w.auth.Spend(ctx, &who, access.Model.Name, access.Rule.DailyRows, int64(rows))
	}
	if real {
		path, err := ort.FindLibrary(os.Getenv("MODELGATE_ONNXRUNTIME_LIB"))
		if err != nil {
			w.t.Skip("ONNX Runtime is not installed: make runtime")
		}
		engine, err := ort.Open(path, ort.Config{Memory: w.memory})
		if err != nil {
			w.t.Fatal(err)
		}
		w.t.Cleanup(func() { engine.Close() })
		cfg.Engine = engine
	}
	s := inference.New(cfg)
	w.models.Retired(s.Retire)
	w.t.Cleanup(func() { s.Close(context.Background()) })
	return s
}

func (w *world) serve() {
	w.http = httptest.NewUnstartedServer(w.api.Handler())
	w.http.Config.ReadHeaderTimeout = 5 * time.Second
	w.http.Listener, w.http.Config.ConnContext = Listener(w.http.Listener), Connected
	w.http.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	w.http.Start()
	w.t.Cleanup(w.http.Close)
}

// answer is what a request got.
type answer struct {
	t      testing.TB
	what   string
	Status int
	Header http.Header
	Body   []byte
}

// request is a request in a test's words.
type request struct {
	method, path string
	token        string
	json         any    // encoded, unless it is a string or []byte
	body         string // with contentType
	contentType  string
	header       http.Header
}

func (w *world) do(r request) answer {
	w.t.Helper()
	var body io.Reader
	contentType := r.contentType
	switch v := r.json.(type) {
	case nil:
		if r.body != "" || r.contentType != "" {
			body = strings.NewReader(r.body)
		}
	case string:
		body, contentType = strings.NewReader(v), "application/json"
	case []byte:
		body, contentType = bytes.NewReader(v), "application/json"
	default:
		data, err := json.Marshal(v)
		if err != nil {
			w.t.Fatal(err)
		}
		body, contentType = bytes.NewReader(data), "application/json"
	}
	if path, _, _ := strings.Cut(r.path, "?"); w.browser && mirrored(path) {
		r.path = consoleAPI + r.path
	}
	req, err := http.NewRequest(r.method, w.http.URL+r.path, body)
	if err != nil {
		w.t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if r.token != "" && w.browser {
		req.Header.Set("Cookie", cookieName+"="+r.token)
	} else if r.token != "" {
		req.Header.Set("Authorization", "Bearer "+r.token)
	}
	for name, values := range r.header {
		req.Header[name] = values
	}
	resp, err := w.http.Client().Do(req)
	if err != nil {
		w.t.Fatalf("%s %s: %v", r.method, r.path, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatalf("%s %s: %v", r.method, r.path, err)
	}
	got := answer{w.t, r.method + " " + r.path, resp.StatusCode, resp.Header, data}
	w.checkContract(req, got)
	return got
}

func (w *world) get(path, token string) answer {
	w.t.Helper()
	return w.do(request{method: "GET", path: path, token: token})
}

func (w *world) post(path, token string, body any) answer {
	w.t.Helper()
	return w.do(request{method: "POST", path: path, token: token, json: body})
}

func (w *world) form(path, token string, values url.Values) answer {
	w.t.Helper()
	return w.do(request{method: "POST", path: path, token: token, body: values.Encode(), contentType: "application/x-www-form-urlencoded"})
}

// is fails the test unless the status is want.
func (a answer) is(want int) answer {
	a.t.Helper()
	if a.Status != want {
		a.t.Fatalf("%s: status %d, want %d: %s", a.what, a.Status, want, a.Body)
	}
	return a
}

// refused checks a problem with its code, and returns its detail.
func (a answer) refused(status int, code string) string {
	a.t.Helper()
	var p problem
	if err := json.Unmarshal(a.Body, &p); err != nil {
		a.t.Fatalf("%s: status %d and no problem: %s", a.what, a.Status, a.Body)
	}
	if a.Status != status || p.Code != code || p.Status != status {
		a.t.Fatalf("%s: %d %s, want %d %s: %s", a.what, a.Status, p.Code, status, code, a.Body)
	}
	if got := a.Header.Get("Content-Type"); got != "application/problem+json" {
		a.t.Errorf("%s: Content-Type %q", a.what, got)
	}
	if p.RequestID == "" || p.RequestID != a.Header.Get("X-Request-Id") || p.Type != "about:blank" || p.Detail == "" || p.Title == "" {
		a.t.Errorf("%s: an incomplete problem: %s", a.what, a.Body)
	}
	return p.Detail
}

func (a answer) decode(v any) {
	a.t.Helper()
	if err := json.Unmarshal(a.Body, v); err != nil {
		a.t.Fatalf("%s: %v in %s", a.what, err, a.Body)
	}
}

// cookie returns the value of the session's cookie that an answer sets, and
// checks that a browser would keep it to itself.
func (a answer) cookie() string {
	a.t.Helper()
	set := (&http.Response{Header: a.Header}).Cookies()
	if len(set) != 1 || set[0].Name != cookieName || set[0].Path != "/" || set[0].Domain != "" || !set[0].Secure || !set[0].HttpOnly ||
		set[0].SameSite != http.SameSiteStrictMode || set[0].MaxAge != 0 || !set[0].Expires.IsZero() {
		a.t.Fatalf("%s: Set-Cookie %q", a.what, a.Header["Set-Cookie"])
	}
	return set[0].Value
}

// field returns a top-level string.
func (a answer) field(name string) string {
	a.t.Helper()
	var m map[string]any
	a.decode(&m)
	s, _ := m[name].(string)
	if s == "" {
		a.t.Fatalf("%s: no %q in %s", a.what, name, a.Body)
	}
	return s
}

// login returns an access token, or the cookie of a browser.
func (w *world) login(name, password string) string {
	w.t.Helper()
	if w.browser {
		return w.post("/console/session", "", map[string]string{"username": name, "password": password}).is(200).cookie()
	}
	return w.tokens(name, password).AccessToken
}

func (w *world) tokens(name, password string) tokens {
	w.t.Helper()
	var t tokens
	w.post("/login", "", map[string]string{"username": name, "password": password}).is(200).decode(&t)
	return t
}

// user makes an account with more roles than "user" and returns its id and an
// access token.
func (w *world) user(name string, roles ...string) (id, token string) {
	w.t.Helper()
	id = w.post("/register", "", map[string]string{"username": name, "password": userPassword}).is(201).field("id")
	if len(roles) > 0 {
		w.do(request{method: "PATCH", path: "/admin/users/" + id, token: w.admin, json: map[string]any{"roles": append(roles, "user")}}).is(200)
	}
	return id, w.login(name, userPassword)
}

// role makes a role.
func (w *world) role(name string, permissions ...string) {
	w.t.Helper()
	if permissions == nil {
		permissions = []string{}
	}
	w.do(request{method: "PUT", path: "/admin/roles/" + name, token: w.admin, json: map[string]any{"permissions": permissions}}).is(200)
}

// part is one part of an upload.
type part struct {
	name, fileName string
	data           []byte
}

func multipartBody(t testing.TB, parts ...part) (body, contentType string) {
	t.Helper()
	var b bytes.Buffer
	m := multipart.NewWriter(&b)
	for _, p := range parts {
		var to io.Writer
		var err error
		if p.fileName != "" {
			to, err = m.CreateFormFile(p.name, p.fileName)
		} else {
			to, err = m.CreateFormField(p.name)
		}
		if err == nil {
			_, err = to.Write(p.data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String(), m.FormDataContentType()
}

func modelFile(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// upload publishes a file with a spec ("" for none).
func (w *world) upload(token, name, file, spec string) answer {
	w.t.Helper()
	parts := []part{{"file", "model.onnx", modelFile(w.t, file)}}
	if spec != "" {
		parts = append(parts, part{"spec", "", []byte(spec)})
	}
	body, contentType := multipartBody(w.t, parts...)
	return w.do(request{method: "POST", path: "/models/" + name + "/versions", token: token, body: body, contentType: contentType})
}

const irisRow = `{"model":"iris","inputs":{"X":[[5.1,3.5,1.4,0.2]]}}`

// rows is a body for iris with n rows.
func rows(n int) string {
	row := "[5.1,3.5,1.4,0.2]"
	return fmt.Sprintf(`{"model":"iris","inputs":{"X":[%s]}}`, strings.TrimSuffix(strings.Repeat(row+",", n), ","))
}
