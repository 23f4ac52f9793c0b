package api

import (
	"bufio"
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"modelgate/auth"
)

// FuzzRequest gives whole requests to the handler: paths, queries with the
// cursors of lists, Authorization of both kinds, cookies, JSON, forms, uploads
// and compressed bodies. TOKEN stands for an administrator's token. Nothing may
// panic or be answered as a failure of the server.
func FuzzRequest(f *testing.F) {
	w := newWorld(f, noLimits)
	w.iris()
	const bearer = "Host: x\r\nAuthorization: Bearer TOKEN\r\n"
	seed := func(head, mediaType, body string) {
		if mediaType != "" {
			head += "Content-Type: " + mediaType + "\r\nTransfer-Encoding: chunked\r\n"
			body = strings.ToUpper(hexLength(len(body))) + "\r\n" + body + "\r\n0\r\n\r\n"
		}
		f.Add([]byte(head + "\r\n" + body))
	}
	for _, rt := range w.api.routes {
		path := strings.NewReplacer("{name}", "iris", "{id}", "u_x", "{version}", "1").Replace(rt.Path)
		if rt.Method == "DELETE" || strings.HasSuffix(path, "/logout") {
			path += "x" // the fuzzer finds the way there by itself
		}
		seed(rt.Method+" "+path+" HTTP/1.1\r\n"+bearer, "", "")
	}
	seed("GET /admin/users?after=abc&limit=2 HTTP/1.1\r\n"+bearer, "", "")
	seed("GET /admin/audit?after=7&actor=admin&action=user.create HTTP/1.1\r\n"+bearer, "", "")
	seed("GET /users/me HTTP/1.1\r\nHost: x\r\nCookie: __Host-modelgate=abc; a=\"b\r\n", "", "")
	seed("POST /token HTTP/1.1\r\nHost: x\r\nAuthorization: Basic YTpi\r\n", "application/x-www-form-urlencoded", "grant_type=client_credentials&scope=a")
	seed("POST /introspect HTTP/1.1\r\n"+bearer, "application/x-www-form-urlencoded", "token=TOKEN")
	seed("POST /login HTTP/1.1\r\nHost: x\r\n", "application/json", `{"username":"ada","password":"x"}`)
	seed("PATCH /models/iris HTTP/1.1\r\n"+bearer, "application/json", `{"disclosure":{"top_k":1},"serving":{"max_batch":2},"aliases":{"a":1}}`)
	seed("PUT /admin/roles/analyst HTTP/1.1\r\n"+bearer, "application/json", `{"permissions":["audit:read"],"rate_limit":"600-M"}`)
	seed("POST /predict HTTP/1.1\r\n"+bearer, "application/json", irisRow)
	seed("POST /v2/models/iris/infer HTTP/1.1\r\n"+bearer+"Inference-Header-Content-Length: 0\r\n", "application/octet-stream", strings.Repeat("\x00", 16))
	packed, err := compress("gzip", []byte(`{"inputs":[]}`))
	if err != nil {
		f.Fatal(err)
	}
	seed("POST /v2/models/iris/infer HTTP/1.1\r\n"+bearer+"Content-Encoding: gzip\r\nAccept-Encoding: deflate\r\n", "application/json", string(packed))
	upload, mediaType := multipartBody(f, part{"file", "m.onnx", modelFile(f, "scalar.onnx")}, part{"spec", "", []byte(`{"roles":["user"]}`)})
	seed("POST /models/fuzz/versions HTTP/1.1\r\n"+bearer, mediaType, upload)
	handler := w.api.Handler()
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(bytes.ReplaceAll(raw, []byte("TOKEN"), []byte(w.admin)))))
		if err != nil {
			return
		}
		r.RemoteAddr = "192.0.2.1:4711"
		got := httptest.NewRecorder()
		handler.ServeHTTP(got, r)
		if got.Code >= 500 || got.Code < 200 || got.Header().Get("X-Request-Id") == "" {
			t.Errorf("%q: %d %s", raw, got.Code, got.Body)
		}
	})
}

func hexLength(n int) string {
	const digits = "0123456789abcdef"
	if n < 16 {
		return digits[n : n+1]
	}
	return hexLength(n/16) + digits[n%16:n%16+1]
}

// FuzzBasic: what is taken for a client's credentials is what RFC 6749 section
// 2.3.1 writes for them; all else is one refusal.
func FuzzBasic(f *testing.F) {
	for _, line := range []string{"", "Basic YTpi", "basic YTpi", "Basic YQ==", "Basic YTpiOmM=", "Basic JTNBOiUzQQ==", "Basic JTo=", "Basic  YTpi", "Basic YTpi=", "Bearer x", "Basic \x00"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		id, secret, ok, err := basicCredentials([]string{line})
		switch {
		case err != nil:
			if told := (*auth.Error)(nil); ok || id != "" || secret != "" || !errors.As(err, &told) || !errors.Is(err, auth.ErrClient) {
				t.Errorf("%q: %q, %q, %v, %v", line, id, secret, ok, err)
			}
		case ok:
			r := &http.Request{Header: http.Header{"Authorization": {"Basic " + strings.TrimLeft(line[len("Basic "):], " ")}}}
			user, password, read := r.BasicAuth()
			plainID, err1 := url.QueryUnescape(user)
			plainSecret, err2 := url.QueryUnescape(password)
			if !read || err1 != nil || err2 != nil || plainID != id || plainSecret != secret {
				t.Errorf("%q: %q and %q, net/http reads %q and %q", line, id, secret, user, password)
			}
		}
	})
}

// FuzzForwardedFor: a stranger's X-Forwarded-For is never believed, and a
// proxy's gives an address.
func FuzzForwardedFor(f *testing.F) {
	for _, line := range []string{"", "203.0.113.9", "203.0.113.9, 10.0.0.2", "[2001:db8::1]:443", "unknown", ",,,", "::ffff:10.0.0.1", "fe80::1%eth0", "203.0.113.9:80, x", strings.Repeat("10.0.0.1,", 100)} {
		f.Add(line, line)
	}
	trusted, err := parseProxies([]string{"10.0.0.0/8", "::1"})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, first, second string) {
		header := http.Header{"X-Forwarded-For": {first, second}}
		if got := trusted.client(&http.Request{RemoteAddr: "203.0.113.1:4711", Header: header}); got != "203.0.113.1" {
			t.Errorf("%q, %q: a stranger is %q", first, second, got)
		}
		got := trusted.client(&http.Request{RemoteAddr: "10.0.0.1:4711", Header: header})
		if a, err := netip.ParseAddr(got); err != nil || a.Zone() != "" || a.Is4In6() {
			t.Errorf("%q, %q: behind a proxy is %q", first, second, got)
		}
	})
}
