package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"modelgate/client"
)

// exchange sends bytes on a connection of its own and returns the statuses of
// all answers until the server closes it. Once all is sent, the server is told
// so if done is set; else it must close the connection by itself.
func exchange(t *testing.T, url, text string, done bool) (statuses []int, all string) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	// What is refused early is cut; then the rest can't be sent.
	if _, err := io.WriteString(conn, text); err == nil && done {
		err = conn.(*net.TCPConn).CloseWrite()
		if err != nil {
			t.Fatal(err)
		}
	}
	data, err := io.ReadAll(conn)
	if netErr := net.Error(nil); errors.As(err, &netErr) && netErr.Timeout() {
		t.Errorf("the connection stays open after %.60q", text)
	}
	r := bufio.NewReader(strings.NewReader(string(data)))
	for {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return statuses, string(data)
		}
		io.Copy(io.Discard, resp.Body)
		statuses = append(statuses, resp.StatusCode)
	}
}

// TestRequestSmuggling sends what a proxy in front could frame otherwise than
// the server does. In each, an administrator's request hides where a second
// request might begin; it must have no answer, and the connection must end.
func TestRequestSmuggling(t *testing.T) {
	p := start(t, t.TempDir(), "MODELGATE_RATE_LOGIN=1000000-S")
	hidden := "GET /users/me HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + p.token("admin", adminPassword) + "\r\n\r\n"
	const login = "POST /login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
	for _, c := range []struct {
		name, text string
		want       []int
	}{
		{"length and chunks", login + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", []int{400}},
		{"chunks and length", login + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", []int{400}},
		{"length that holds it, and chunks", login + fmt.Sprintf("Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 5+len(hidden)), []int{400}},
		{"chunks alone", login + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", []int{400}},
		{"chunks with a public route", "GET /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", []int{200}},
		{"chunks in HTTP/1.0", strings.Replace(login, "1.1", "1.0", 1) + "Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", []int{400}},
		{"HTTP/1.0 that would stay", "GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", []int{200}},
		{"two lengths", login + "Content-Length: 0\r\nContent-Length: 2\r\n\r\n", []int{400}},
		{"two lengths in one", login + "Content-Length: 0, 2\r\n\r\n", []int{400}},
		{"a length with a sign", login + "Content-Length: +0\r\n\r\n", []int{400}},
		{"a length in hexadecimal", login + "Content-Length: 0x0\r\n\r\n", []int{400}},
		{"a length with an underscore", login + "Content-Length: 0_0\r\n\r\n", []int{400}},
		{"a folded length", login + "Content-Length: 0\r\n 2\r\n\r\n", []int{400}},
		{"a length of 20 digits", login + "Content-Length: 18446744073709551616\r\n\r\n", []int{400}},
		{"chunks and another coding", login + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", []int{501}},
		{"gzip and chunks", login + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", []int{501}},
		{"another name of chunks", login + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", []int{501}},
		{"chunks with a vertical tab", login + "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", []int{400}},
		{"chunks twice", login + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", []int{501}},
		{"a space before the colon", login + "Content-Length : 0\r\n\r\n", []int{400}},
		{"a space before the first name", "POST /login HTTP/1.1\r\n Content-Length: 0\r\nHost: x\r\n\r\n", []int{400}},
		{"a name with a NUL", login + "Content-Length\x00: 0\r\n\r\n", []int{400}},
		{"a value with a carriage return", login + "X: a\rContent-Length: 5\r\n\r\n", []int{400}},
		{"a chunk's size with a line feed alone", login + "Transfer-Encoding: chunked\r\n\r\n2\n{}\r\n0\r\n\r\n", []int{400}},
		{"a chunk's size with a sign", login + "Transfer-Encoding: chunked\r\n\r\n+2\r\n{}\r\n0\r\n\r\n", []int{400}},
		{"a chunk's size with 0x", login + "Transfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n", []int{400}},
		{"a chunk's size that overflows", login + "Transfer-Encoding: chunked\r\n\r\n10000000000000002\r\n{}\r\n0\r\n\r\n", []int{400}},
		{"a chunk longer than its size", login + "Transfer-Encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n", []int{400}},
		{"garbage", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", []int{400}},
		{"no request line", "Host: x\r\n\r\n", []int{400}},
		{"HTTP/0.9", "GET /healthz\r\n\r\n", []int{400}},
		{"two spaces", "GET  /healthz HTTP/1.1\r\nHost: x\r\n\r\n", []int{400}},
		{"a tab for a space", "GET\t/healthz\tHTTP/1.1\r\nHost: x\r\n\r\n", []int{400}},
		{"a version that is none", "GET /healthz HTTP/1.1x\r\nHost: x\r\n\r\n", []int{400}},
		{"a later version", "GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n", []int{505}},
		{"no host", "GET /healthz HTTP/1.1\r\n\r\n", []int{400}},
		{"two hosts", "GET /healthz HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", []int{400}},
		{"a method with a line feed", "GE\nT /healthz HTTP/1.1\r\nHost: x\r\n\r\n", []int{400}},
		{"a target with a NUL", "GET /healthz\x00 HTTP/1.1\r\nHost: x\r\n\r\n", []int{400}},
		{"a target with a space", "GET /health z HTTP/1.1\r\nHost: x\r\n\r\n", []int{400}},
		{"a target without a slash", "GET healthz HTTP/1.1\r\nHost: x\r\n\r\n", []int{400}},
		{"a target with a bad escape", "GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n", []int{400}},
		{"a header without a colon", "GET /healthz HTTP/1.1\r\nHost: x\r\nBroken\r\n\r\n", []int{400}},
		{"headers of 40 KB", "GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("a", 40<<10) + "\r\n\r\n", []int{431}},
		{"10,000 headers", "GET /healthz HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A:b\r\n", 10_000) + "\r\n", []int{431}},
		{"a target of 40 KB", "GET /" + strings.Repeat("a", 40<<10) + " HTTP/1.1\r\nHost: x\r\n\r\n", []int{431}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, all := exchange(t, p.url, c.text+hidden, false)
			if !slices.Equal(got, c.want) {
				t.Errorf("statuses %v, want %v: %.300q", got, c.want, all)
			}
			if strings.Contains(all, `"username":"admin"`) {
				t.Errorf("the hidden request was answered: %.600q", all)
			}
		})
	}
}

// TestFramingKeepsItsPlace: where the server goes on with a connection, it
// goes on at the right byte.
func TestFramingKeepsItsPlace(t *testing.T) {
	p := start(t, t.TempDir())
	token := p.token("admin", adminPassword)
	hidden := "GET /users/me HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + token + "\r\n\r\n"
	const health = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
	body := func(head, text string) string {
		return head + fmt.Sprintf("Content-Length: %d\r\n\r\n", len(text)) + text
	}
	for _, c := range []struct {
		name, text string
		want       []int
	}{
		{"a request in the body of a refused one", body("POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n", hidden) + health, []int{401, 200}},
		{"a request in a body that nobody reads", body("GET /healthz HTTP/1.1\r\nHost: x\r\n", hidden) + health, []int{200, 200}},
		{"a request in the body of an unknown route", body("POST /nothing HTTP/1.1\r\nHost: x\r\n", hidden) + health, []int{404, 200}},
		{"a request in the body of a wrong method", body("DELETE /healthz HTTP/1.1\r\nHost: x\r\n", hidden) + health, []int{405, 200}},
		{"a request in the body of a wrong media type", body("POST /login HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n", hidden) + health, []int{415, 200}},
		{"three in one piece", health + "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n" + health, []int{200, 404, 200}},
		{"after one that is refused for its header", "GET /healthz HTTP/1.1\r\nHost: x\r\nAuthorization: a\r\nAuthorization: b\r\n\r\n" + health, []int{400, 200}},
		// RFC 9112 section 2.2 permits both; what counts is that one reading holds.
		{"line feeds alone", strings.ReplaceAll(health, "\r\n", "\n") + health, []int{200, 200}},
		{"a folded header", "GET /healthz HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n\r\n" + health, []int{200, 200}},
		{"a length in a folded line is none", "GET /healthz HTTP/1.1\r\nHost: x\r\nX: a\r\n Content-Length: 100\r\n\r\n" + health, []int{200, 200}},
		{"whole addresses", "GET http://other.test/healthz HTTP/1.1\r\nHost: x\r\n\r\n" + health, []int{200, 200}},
		{"a whole address of what is not open", "GET http://other.test/admin/users HTTP/1.1\r\nHost: x\r\n\r\n" + health, []int{401, 200}},
		{"a whole address with a trick", "GET http://other.test/healthz/../users/me HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + token + "\r\n\r\n" + health, []int{404, 200}},
		{"an address of a user", "GET http://admin@other.test/healthz HTTP/1.1\r\nHost: x\r\n\r\n" + health, []int{400, 200}},
		{"a host with a user", "GET /healthz HTTP/1.1\r\nHost: admin@x\r\n\r\n" + health, []int{400}},
		{"a host with a path", "GET /healthz HTTP/1.1\r\nHost: x/y\r\n\r\n" + health, []int{400}},
		{"a host with a space", "GET /healthz HTTP/1.1\r\nHost: x y\r\n\r\n" + health, []int{400}},
		{"a host with a port", "GET /healthz HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n" + health, []int{200, 200}},
		{"everything", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n" + health, []int{404, 200}},
		{"a tunnel", "CONNECT other.test:443 HTTP/1.1\r\nHost: other.test:443\r\n\r\n" + health, []int{404, 200}},
		{"an escaped NUL", "GET /users/me%00 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + token + "\r\n\r\n" + health, []int{404, 200}},
		{"an escaped line end", "GET /models/a%0d%0aX-Injected:%201 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + token + "\r\n\r\n" + health, []int{404, 200}},
		{"an upgrade to HTTP/2", "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n" + health, []int{200, 200}},
		{"an upgrade to a socket", "GET /users/me HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n" + health, []int{401, 200}},
		{"a header that takes Authorization away", "GET /users/me HTTP/1.1\r\nHost: x\r\nConnection: Authorization\r\nAuthorization: Bearer " + token + "\r\n\r\n" + health, []int{200, 200}},
		{"an expectation of a refused request", "POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nExpect: 100-continue\r\n\r\n" + health, []int{401, 200}},
	} {
		t.Run(c.name, func(t *testing.T) {
			// The last one ends the connection. Ended from here, it would
			// cancel what the server still answers.
			text := strings.TrimSuffix(c.text, "\r\n") + "Connection: close\r\n\r\n"
			got, all := exchange(t, p.url, text, false)
			if !slices.Equal(got, c.want) {
				t.Errorf("statuses %v, want %v: %.600q", got, c.want, all)
			}
			if strings.Contains(strings.ToLower(all), "\r\nx-injected") {
				t.Errorf("a header was injected: %.600q", all)
			}
		})
	}
}

// TestExpectations: nobody is asked for a body that will not be read, and what
// is expected besides is refused.
func TestExpectations(t *testing.T) {
	p := start(t, t.TempDir())
	const head = "POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\nConnection: close\r\n"
	for name, c := range map[string]struct {
		text string
		want int
	}{
		"by a stranger":         {head + "Expect: 100-continue\r\n\r\n", 401},
		"too large":             {"POST /login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100000\r\nExpect: 100-continue\r\n\r\n", 413},
		"something else":        {head + "Expect: a-pony\r\n\r\n", 417},
		"something else beside": {head + "Expect: 100-continue, a-pony\r\n\r\n", 401},
	} {
		got, all := exchange(t, p.url, c.text, true)
		if !slices.Equal(got, []int{c.want}) || strings.Contains(all, "100 Continue") {
			t.Errorf("%s: %v, want %d: %.300q", name, got, c.want, all)
		}
	}
}

// TestNothingIsEchoedInHeaders puts a line end and a header wherever a client
// may put a text, and looks for it in the head of every answer.
func TestNothingIsEchoedInHeaders(t *testing.T) {
	p := start(t, t.TempDir(), "MODELGATE_RATE_LOGIN=1000000-S", "MODELGATE_RATE_UNAUTHENTICATED=1000000-S")
	admin := p.admin()
	push(t, admin, "iris", modelBytes(t, "iris.onnx"), client.Spec{})
	token := p.token("admin", adminPassword)
	const canary = "canary\\r\\nX-Injected: 1"
	escaped := "canary%0d%0aX-Injected:%201"
	form := "application/x-www-form-urlencoded"
	multipart := "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"canary%0d%0aX-Injected: 1\"\r\nContent-Type: canary\r\n\r\nx\r\n--b--\r\n"
	for _, c := range []struct{ method, path, mediaType, body string }{
		{"GET", "/models/" + escaped, "", ""}, {"GET", "/v2/models/" + escaped, "", ""}, {"GET", "/admin/users/" + escaped, "", ""}, {"GET", "/" + escaped, "", ""},
		{"DELETE", "/users/me/keys/" + escaped, "", ""}, {"DELETE", "/users/me/sessions/" + escaped, "", ""}, {"PUT", "/admin/roles/" + escaped, "application/json", `{"permissions":[]}`},
		{"GET", "/models?after=" + escaped, "", ""}, {"GET", "/models?limit=" + escaped, "", ""}, {"GET", "/admin/users?after=" + escaped, "", ""}, {"GET", "/admin/audit?actor=" + escaped, "", ""},
		{"GET", "/admin/audit?after=" + escaped, "", ""}, {"GET", "/healthz?" + escaped + "=" + escaped, "", ""},
		{"POST", "/login", "application/json", `{"username":"` + canary + `","password":"` + canary + `"}`}, {"POST", "/register", "application/json", `{"username":"` + canary + `","password":"a long phrase 9"}`},
		{"POST", "/login", "application/json", `{"` + canary + `":1}`}, {"POST", "/login", "text/canary", `{}`}, {"POST", "/refresh", "application/json", `{"refresh_token":"` + canary + `"}`},
		{"POST", "/token", form, "grant_type=" + escaped}, {"POST", "/token", form, "grant_type=password&client_id=" + escaped + "&username=" + escaped + "&password=x&scope=" + escaped},
		{"POST", "/revoke", form, "token=" + escaped}, {"POST", "/introspect", form, "token=" + escaped + "&token_type_hint=" + escaped},
		{"POST", "/predict", "application/json", `{"model":"` + canary + `","inputs":[]}`}, {"POST", "/predict", "application/json", `{"model":"iris","id":"` + canary + `","inputs":[[1,2,3,4]]}`},
		{"POST", "/predict", "application/json", `{"model":"iris","inputs":{"` + canary + `":[]}}`}, {"POST", "/predict", "application/json", `{"model":"iris","inputs":[[1,2,3,4]],"outputs":["` + canary + `"]}`},
		{"POST", "/v2/models/iris/infer", "application/json", `{"id":"` + canary + `","inputs":[{"name":"X","datatype":"FP32","shape":[1,4],"data":[1,2,3,4]}]}`},
		{"POST", "/v2/models/iris/infer", "application/json", `{"inputs":[{"name":"` + canary + `","datatype":"` + canary + `","shape":[1],"data":["` + canary + `"]}]}`},
		{"POST", "/users/me/keys", "application/json", `{"name":"` + canary + `"}`}, {"POST", "/admin/users", "application/json", `{"username":"` + canary + `"}`},
		{"PATCH", "/models/iris", "application/json", `{"description":"` + canary + `"}`}, {"PATCH", "/models/iris", "application/json", `{"aliases":{"` + canary + `":1}}`},
		{"POST", "/models/canary/versions", "multipart/form-data; boundary=b", multipart}, {"POST", "/models/" + escaped + "/versions", "multipart/form-data; boundary=b", multipart},
		{"POST", "/models/canary/versions", "multipart/form-data; boundary=" + strings.Repeat("canary", 20), multipart},
	} {
		head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: canary.test\r\nAuthorization: Bearer %s\r\nUser-Agent: canary\r\nOrigin: http://canary\r\nReferer: http://canary\r\n"+
			"X-Request-Id: canary\r\nX-Forwarded-For: canary\r\nX-Forwarded-Host: canary\r\nAccept-Encoding: canary\r\nAccept: text/canary\r\nCookie: canary=1\r\nConnection: close\r\n", c.method, c.path, token)
		if c.mediaType != "" {
			head += fmt.Sprintf("Content-Type: %s\r\nContent-Length: %d\r\n", c.mediaType, len(c.body))
		}
		statuses, all := exchange(t, p.url, head+"\r\n"+c.body, false)
		top, _, _ := strings.Cut(all, "\r\n\r\n")
		if len(statuses) != 1 || statuses[0] >= 500 || strings.Contains(strings.ToLower(top), "canary") || strings.Contains(strings.ToLower(top), "x-injected") {
			t.Errorf("%s %s %s: %v: %q", c.method, c.path, c.body, statuses, top)
		}
	}
}
