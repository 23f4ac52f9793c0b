package api

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestStrictJSON is rows Z3 and H4: what is not exactly the contract's is
// refused, with the field's name.
func TestStrictJSON(t *testing.T) {
	w := newWorld(t, noLimits)
	id, _ := w.user("ada")
	deep := strings.Repeat(`{"a":`, 2500) + "1" + strings.Repeat("}", 2500)
	tests := []struct {
		name, method, path, body string
		names                    string // what the sentence names
	}{
		{"unknown field", "POST", "/register", `{"username":"bob","password":"` + userPassword + `","role":"admin"}`, `"role"`},
		{"another case", "POST", "/register", `{"username":"bob","password":"` + userPassword + `","ROLES":["admin"]}`, `"ROLES"`},
		{"known field in another case", "POST", "/register", `{"Username":"bob","password":"` + userPassword + `"}`, `"Username"`},
		{"id", "POST", "/register", `{"username":"bob","password":"` + userPassword + `","id":"u_1"}`, `"id"`},
		{"given twice", "POST", "/register", `{"username":"bob","username":"eve","password":"` + userPassword + `"}`, `"username"`},
		{"given twice by escape", "POST", "/register", `{"username":"bob","\u0075sername":"eve","password":"` + userPassword + `"}`, `"username"`},
		{"trailing data", "POST", "/register", `{"username":"bob","password":"` + userPassword + `"}{}`, "JSON"},
		{"trailing comma", "POST", "/register", `{"username":"bob",}`, "JSON"},
		{"not UTF-8", "POST", "/register", "{\"username\":\"bob\xff\",\"password\":\"" + userPassword + `"}`, "JSON"},
		{"wrong type", "POST", "/register", `{"username":7,"password":"` + userPassword + `"}`, `"username" must be a string`},
		{"array", "POST", "/register", `[]`, "must be an object"},
		{"null", "POST", "/register", `null`, "the body must not be null"},
		{"null field", "POST", "/register", `{"username":null,"password":"` + userPassword + `"}`, `"username"`},
		{"empty", "POST", "/register", ``, "empty"},
		{"cut off", "POST", "/register", `{"username":"bo`, "complete"},
		{"missing field", "POST", "/register", `{"username":"bob"}`, `"password"`},
		{"both", "POST", "/register", `{"username":"bob","invite_token":"x","password":"` + userPassword + `"}`, "either"},
		{"deep", "POST", "/register", deep, `"a"`},
		{"deep array", "POST", "/register", strings.Repeat("[", 8000), "object"},
		{"null for all models", "POST", "/users/me/keys", `{"name":"k","models":null}`, `"models"`},
		{"null for one of two", "POST", "/register", `{"username":"bob","invite_token":null,"password":"` + userPassword + `"}`, `"invite_token"`},
		{"null in a patch", "PATCH", "/admin/users/" + id, `{"disabled":null}`, `"disabled"`},
		{"null deep in a patch", "PATCH", "/models/none", `{"disclosure":{"roles":{"user":{"top_k":null}}}}`, `"disclosure.roles.user.top_k"`},
		{"unknown field of a patch", "PATCH", "/admin/users/" + id, `{"username":"root"}`, `"username"`},
		{"password of a patch", "PATCH", "/admin/users/" + id, `{"password":"` + userPassword + `"}`, `"password"`},
		{"wrong type in a list", "PATCH", "/admin/users/" + id, `{"roles":[1]}`, `"roles.0" must be a string`},
		{"fraction for an integer", "POST", "/users/me/keys", `{"name":"k","expires_in":1.5}`, `"expires_in" must be an integer`},
		{"too large for an integer", "POST", "/users/me/keys", `{"name":"k","expires_in":1e30}`, `expires_in`},
		{"negative lifetime", "POST", "/users/me/keys", `{"name":"k","expires_in":-1}`, `expires_in`},
		{"overflowing lifetime", "POST", "/users/me/keys", `{"name":"k","expires_in":9223372036854775807}`, `expires_in`},
		{"unknown field deep in a patch", "PATCH", "/models/none", `{"disclosure":{"roles":{"user":{"Top_K":1}}}}`, `"disclosure.roles.user.Top_K"`},
		{"twice in a map", "PATCH", "/models/none", `{"aliases":{"a":1,"a":2}}`, `"aliases.a"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			token := w.admin
			if test.path == "/register" {
				token = ""
			}
			detail := w.in(t).do(request{method: test.method, path: test.path, token: token, json: []byte(test.body)}).refused(400, "invalid_input")
			if !strings.Contains(detail, test.names) {
				t.Errorf("the sentence %q does not name %s", detail, test.names)
			}
			for _, internal := range []string{"Go ", "struct", "jsontext", "registerRequest", "json:"} {
				if strings.Contains(detail, internal) {
					t.Errorf("the sentence %q has the decoder's own words", detail)
				}
			}
		})
	}
	var users page[user]
	w.get("/admin/users", w.admin).is(200).decode(&users)
	for _, u := range users.Items {
		if u.Username != "admin" && u.Username != "ada" {
			t.Errorf("a refused request made the user %s", u.Username)
		}
		if u.Username == "ada" && (len(u.Roles) != 1 || u.Disabled) {
			t.Errorf("a refused request changed a user: %+v", u)
		}
	}
}

func TestMediaTypes(t *testing.T) {
	w := newWorld(t, noLimits)
	body := `{"username":"admin","password":"` + adminPassword + `"}`
	for contentType, status := range map[string]int{
		"application/json": 200, "application/json; charset=utf-8": 200, "Application/JSON": 200,
		"text/plain": 415, "application/x-www-form-urlencoded": 415, "application/jsonx": 415, "multipart/form-data; boundary=x": 415,
		"json": 415, ";": 415,
	} {
		got := w.do(request{method: "POST", path: "/login", body: body, contentType: contentType})
		if got.Status != status {
			t.Errorf("Content-Type %q: status %d, want %d", contentType, got.Status, status)
		}
	}
	// None at all.
	req, _ := http.NewRequest("POST", w.http.URL+"/login", strings.NewReader(body))
	resp, err := w.http.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 415 {
		t.Errorf("no Content-Type: status %d", resp.StatusCode)
	}
	got := w.post("/login", "", body)
	if kind := got.Header["Content-Type"]; len(kind) != 1 || kind[0] != "application/json" {
		t.Errorf("answered as %q, want exactly application/json", kind)
	}
}

// TestCompressedBody is row H3: a compressed body is not expanded at all.
func TestCompressedBody(t *testing.T) {
	w := newWorld(t, noLimits)
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	if _, err := z.Write(make([]byte, 64<<20)); err != nil {
		t.Fatal(err)
	}
	z.Close()
	for _, path := range []string{"/login", "/predict", "/models/x/versions", "/token"} {
		for _, encoding := range []string{"gzip", "deflate", "br", "zstd", "GZIP", "identity, gzip"} {
			contentType := map[string]string{"/models/x/versions": "multipart/form-data; boundary=x", "/token": "application/x-www-form-urlencoded"}[path]
			if contentType == "" {
				contentType = "application/json"
			}
			token := w.admin
			if path == "/token" {
				token = ""
			}
			got := w.do(request{method: "POST", path: path, token: token, body: bomb.String(), contentType: contentType,
				header: http.Header{"Content-Encoding": {encoding}}})
			if path == "/token" {
				if got.is(415).field("error") != "invalid_request" {
					t.Errorf("%s: %s", path, got.Body)
				}
				continue
			}
			got.refused(415, "unsupported_encoding")
		}
	}
	w.do(request{method: "POST", path: "/login", json: map[string]string{"username": "admin", "password": adminPassword},
		header: http.Header{"Content-Encoding": {"identity"}}}).is(200)
}

// raw sends bytes as they are and returns the answer.
func (w *world) raw(text string, more ...func(net.Conn)) (*http.Response, []byte, error) {
	w.t.Helper()
	conn, err := net.Dial("tcp", w.http.Listener.Addr().String())
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		w.t.Fatal(err)
	}
	if _, err := io.WriteString(conn, text); err != nil {
		return nil, nil, err
	}
	for _, f := range more {
		f(conn)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return resp, data, err
}

// TestBodyCaps is row H2.
func TestBodyCaps(t *testing.T) {
	w := newWorld(t, noLimits)
	auth := "Authorization: Bearer " + w.admin + "\r\n"
	head := func(path, more string) string {
		return "POST " + path + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + auth + more + "\r\n"
	}
	t.Run("a large Content-Length is refused unread", func(t *testing.T) {
		resp, data, err := w.raw(head("/predict", "Content-Length: 104857600\r\n"))
		if err != nil || resp.StatusCode != 413 {
			t.Fatalf("%v %v: %s", resp, err, data)
		}
	})
	t.Run("a large body that claims nothing", func(t *testing.T) {
		resp, data, err := w.raw(head("/predict", "Transfer-Encoding: chunked\r\n"), func(c net.Conn) {
			chunk := fmt.Sprintf("%x\r\n%s\r\n", 64<<10, strings.Repeat(" ", 64<<10))
			for range 40 { // 2.5 MiB; writing fails once the server has had enough
				if _, err := io.WriteString(c, chunk); err != nil {
					return
				}
			}
		})
		if err != nil || resp.StatusCode != 413 {
			t.Fatalf("%v %v: %s", resp, err, data)
		}
	})
	t.Run("one byte a chunk", func(t *testing.T) {
		resp, data, err := w.raw(head("/login", "Transfer-Encoding: chunked\r\n"), func(c net.Conn) {
			_, _ = io.WriteString(c, strings.Repeat("1\r\n \r\n", 65_000)+"0\r\n\r\n")
		})
		if err != nil || resp.StatusCode != 413 {
			t.Fatalf("%v %v: %s", resp, err, data)
		}
	})
	t.Run("one byte a chunk, within the cap", func(t *testing.T) {
		body := `{"username":"admin","password":"` + adminPassword + `"}`
		var chunks strings.Builder
		for i := range len(body) {
			chunks.WriteString("1\r\n" + body[i:i+1] + "\r\n")
		}
		resp, data, err := w.raw(head("/login", "Transfer-Encoding: chunked\r\n") + chunks.String() + "0\r\n\r\n")
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("%v %v: %s", resp, err, data)
		}
	})
	t.Run("a body that stops halfway", func(t *testing.T) {
		resp, data, err := w.raw(head("/predict", "Content-Length: 1000\r\n")+`{"model":`, func(c net.Conn) {
			_ = c.(*net.TCPConn).CloseWrite()
		})
		if err != nil || resp.StatusCode != 400 || !strings.Contains(string(data), "stopped") {
			t.Fatalf("%v %v: %s", resp, err, data)
		}
	})
	t.Run("a chunk that stops halfway", func(t *testing.T) {
		resp, data, err := w.raw(head("/predict", "Transfer-Encoding: chunked\r\n")+"10\r\n{", func(c net.Conn) {
			_ = c.(*net.TCPConn).CloseWrite()
		})
		if err != nil || resp.StatusCode != 400 {
			t.Fatalf("%v %v: %s", resp, err, data)
		}
	})
	t.Run("100 MB from a client that listens only afterwards", func(t *testing.T) {
		resp, data, err := w.raw(head("/predict", "Content-Length: 100000000\r\n") + strings.Repeat("x", 100_000_000))
		if err != nil || resp.StatusCode != 413 || !strings.Contains(string(data), "too_large") {
			t.Fatalf("%v %v: %s", resp, err, data)
		}
	})
	t.Run("a token of a megabyte", func(t *testing.T) {
		w.post("/refresh", "", map[string]string{"refresh_token": strings.Repeat("a", 1<<20)}).refused(413, "too_large")
	})
	t.Run("a password of a megabyte", func(t *testing.T) {
		w.post("/login", "", map[string]string{"username": "admin", "password": strings.Repeat("a", 1<<20)}).refused(413, "too_large")
	})
	if held := w.api.bodies.InUse(); held != 0 {
		t.Errorf("%v bytes of bodies are still held", held)
	}
}

// TestSlowBody is row H1: a body that comes too slowly is cut.
func TestSlowBody(t *testing.T) {
	w := newWorld(t, noLimits, withGrace)
	// Routes that read their body, and those that answer without.
	for path, status := range map[string]int{"/login": 408, "/predict": 408, "/users/me/sessions": 405, "/nothing": 404, "/models/x/versions": 415, "/logout": 204} {
		start := time.Now()
		resp, data, err := w.raw("POST " + path + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer " + w.login("admin", adminPassword) +
			"\r\nContent-Length: 1000\r\n\r\n{")
		if err != nil || resp.StatusCode != status {
			t.Fatalf("%s: %v %v, want %d: %s", path, resp, err, status, data)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("%s: cut after %v", path, took)
		}
	}
}

// TestSlowReader is row H1: who does not read his answer is cut off.
func TestSlowReader(t *testing.T) {
	w := newWorld(t, noLimits, withGrace)
	conn, err := net.Dial("tcp", w.http.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	ask := "GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
	for { // far more than the buffers between hold; nothing is read
		_, err := io.WriteString(conn, ask)
		if tooSlow(err) {
			t.Fatal("the server keeps a client that reads nothing")
		}
		if err != nil {
			return // the server has closed
		}
	}
}

// TestIdleThenContinue: the write deadline of one answer does not outlive its
// request; "100 Continue" is written before the next one's is set.
func TestIdleThenContinue(t *testing.T) {
	w := newWorld(t, noLimits, withGrace)
	conn, err := net.Dial("tcp", w.http.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	r := bufio.NewReader(conn)
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	<-time.After(600 * time.Millisecond) // longer than the write grace of this server
	body := `{"username":"admin","password":"` + adminPassword + `"}`
	fmt.Fprintf(conn, "POST /login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", len(body))
	line, err := r.ReadString('\n')
	if err != nil || !strings.Contains(line, "100") {
		t.Fatalf("%q, %v; want 100 Continue", line, err)
	}
	_, _ = r.ReadString('\n')
	_, _ = io.WriteString(conn, body)
	if resp, err = http.ReadResponse(r, nil); err != nil || resp.StatusCode != 200 {
		t.Fatalf("after 100 Continue: %v, %v", resp, err)
	}
}

// TestBodyBudget proves that bodies on their way hold memory by what arrived,
// not by what was declared, and that a spent budget answers at once.
func TestBodyBudget(t *testing.T) {
	w := newWorld(t, noLimits)
	conn, err := net.Dial("tcp", w.http.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer %s\r\nContent-Length: 1048576\r\n\r\n{", w.admin)
	for deadline := time.Now().Add(5 * time.Second); w.api.bodies.InUse() == 0; {
		if time.Now().After(deadline) {
			t.Fatal("the body is not being read")
		}
		w.get("/healthz", "").is(200)
	}
	if held := w.api.bodies.InUse(); held > firstRead {
		t.Errorf("a body of which one byte came holds %v bytes", held)
	}
	all, err := w.api.bodies.Charge(w.api.bodies.Budget() - w.api.bodies.InUse())
	if err != nil {
		t.Fatal(err)
	}
	got := w.do(request{method: "POST", path: "/predict", token: w.admin, json: `{"model":"m","inputs":[1]}`})
	got.refused(503, "unavailable")
	if got.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	// Predictions that fill the memory keep nobody from signing in.
	w.post("/login", "", map[string]string{"username": "admin", "password": adminPassword}).is(200)
	all.Release()
	// Nor does one user keep others from predicting.
	w.api.shares.held["u_somebody"] = w.api.shares.most
	mine := body{memory: w.api.bodies, shares: w.api.shares, user: "u_somebody"}
	if err := mine.grow(t.Context(), 1<<20); err == nil {
		t.Error("a user got more than his share")
	}
	other := body{memory: w.api.bodies, shares: w.api.shares, user: "u_other"}
	if err := other.grow(t.Context(), 1<<20); err != nil {
		t.Errorf("another user got none: %v", err)
	}
	other.release()
	if n := w.api.shares.held["u_other"]; n != 0 {
		t.Errorf("the other user still holds %d bytes of his share", n)
	}
	w.post("/login", "", map[string]string{"username": "admin", "password": adminPassword}).is(200)
}
