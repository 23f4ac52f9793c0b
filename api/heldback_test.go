package api

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// holdBack sends a request in two halves. The second comes, after meanwhile,
// when the caller's proof is older than proofGrace. It returns status and answer.
func (w *world) holdBack(r request, meanwhile func()) (int, string) {
	w.t.Helper()
	conn, err := net.Dial("tcp", w.http.Listener.Addr().String())
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(60 * time.Second))
	credential := "Authorization: Bearer " + r.token
	if w.browser {
		credential, r.path = "Cookie: "+cookieName+"="+r.token, consoleAPI+r.path
	}
	fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: x\r\n%s\r\nContent-Type: %s\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n",
		r.method, r.path, credential, r.contentType, len(r.body))
	reader := bufio.NewReader(conn)
	resp, err := http.ReadResponse(reader, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusContinue {
		w.t.Fatalf("the server does not wait for the body: %s", resp.Status)
	}
	waited := time.After(proofGrace + 50*time.Millisecond)
	half := len(r.body) / 2
	_, err = io.WriteString(conn, r.body[:half])
	meanwhile()
	<-waited
	if err == nil {
		_, err = io.WriteString(conn, r.body[half:])
	}
	if err != nil {
		w.t.Fatal(err)
	}
	if resp, err = http.ReadResponse(reader, nil); err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

// TestHeldBackBodies: what a caller may not do any more when the last of his
// body comes is not done, however he proved himself when he began.
func TestHeldBackBodies(t *testing.T) {
	w := newWorld(t, noLimits)
	w.role("lab")
	w.role("maker", "models:write")
	w.role("head", "users:manage")
	w.upload(w.admin, "iris", "iris.onnx", `{"roles":["lab"]}`).is(201)
	change := func(id, json string) {
		t.Helper()
		w.do(request{method: "PATCH", path: "/admin/users/" + id, token: w.admin, json: json}).is(200)
	}
	predict := request{method: "POST", path: "/predict", body: irisRow, contentType: "application/json"}
	file, kind := multipartBody(t, part{"file", "model.onnx", modelFile(t, "iris.onnx")})
	upload := request{method: "POST", path: "/models/late/versions", body: file, contentType: kind}
	role := request{method: "PUT", path: "/admin/roles/late", body: `{"permissions":[]}`, contentType: "application/json"}
	disable := func(w *world, id, _ string) { change(id, `{"disabled":true}`) }
	for i, c := range []struct {
		name      string
		request   request
		way       string // of proof: "" is a login
		meanwhile func(w *world, id, credential string)
		status    int
	}{
		{"predict, disabled", predict, "", disable, 401},
		{"predict, disabled, with a key", predict, "key", disable, 401},
		{"predict, disabled, in a browser", predict, "browser", disable, 401},
		{"predict, logged out", predict, "", func(w *world, _, token string) {
			w.do(request{method: "DELETE", path: "/users/me/sessions", token: token}).is(204)
		}, 401},
		{"predict, key deleted", predict, "key", func(w *world, id, key string) {
			var list struct{ Items []struct{ ID string } }
			w.get("/users/me/keys", key).is(200).decode(&list)
			w.do(request{method: "DELETE", path: "/users/me/keys/" + list.Items[0].ID, token: key}).is(204)
		}, 401},
		{"predict, the model's role taken", predict, "", func(w *world, id, _ string) { change(id, `{"roles":["user"]}`) }, 403},
		{"upload, disabled", upload, "", disable, 401},
		{"upload, the right taken", upload, "", func(w *world, id, _ string) { change(id, `{"roles":["user","lab"]}`) }, 403},
		{"administration, the right taken", role, "", func(w *world, id, _ string) { change(id, `{"roles":["user"]}`) }, 403},
		// What changes nothing for the caller ends nothing. His token has expired by then.
		{"predict, as before", predict, "", func(*world, string, string) { w.clock.advance(20 * time.Minute) }, 200},
		{"predict, as before, with a key", predict, "key", func(*world, string, string) {}, 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.admin = w.login("admin", adminPassword)
			name := fmt.Sprint("caller", i)
			id, token := w.user(name, "lab", "maker", "head")
			as := w.in(t)
			switch c.way {
			case "key":
				token = w.post("/users/me/keys", token, `{"name":"k"}`).is(201).field("key")
			case "browser":
				as.browser = true
				token = as.login(name, userPassword)
			}
			r := c.request
			r.token = token
			runs := w.fake.Stats().Runs
			status, text := as.holdBack(r, func() { c.meanwhile(w.in(t), id, token) })
			if status != c.status {
				t.Errorf("status %d, want %d: %s", status, c.status, text)
			}
			if c.status != 200 && w.fake.Stats().Runs != runs {
				t.Error("a prediction ran")
			}
		})
	}
	w.admin = w.login("admin", adminPassword)
	w.get("/models/late", w.admin).is(404)
	if got := w.get("/admin/roles", w.admin).is(200); bytes.Contains(got.Body, []byte(`"late"`)) {
		t.Errorf("a role was made: %s", got.Body)
	}
}

// TestHeldBackMessage is the same of a message over gRPC, or of the end of a
// call behind it.
func TestHeldBackMessage(t *testing.T) {
	w := newRPCWorld(t, false, noLimits)
	w.iris()
	plain, err := proto.Marshal(row("iris"))
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{Protocols: new(http.Protocols), ExpectContinueTimeout: time.Minute}
	transport.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(transport.CloseIdleConnections)
	for i, c := range []struct {
		name, method string
		first, rest  []byte
	}{
		{"half of a message", "ModelInfer", frame(0, plain)[:10], frame(0, plain)[10:]},
		{"the end of the call", "ModelInfer", frame(0, plain), nil},
		{"an empty message", "RepositoryIndex", nil, frame(0, nil)},
	} {
		t.Run(c.name, func(t *testing.T) {
			id, token := w.user(fmt.Sprint("caller", i))
			runs := w.fake.Stats().Runs
			status := w.holdBackMessage(t, transport, c.method, token, c.first, c.rest, func() {
				w.do(request{method: "PATCH", path: "/admin/users/" + id, token: w.admin, json: `{"disabled":true}`})
			})
			if status != fmt.Sprint(int(codes.Unauthenticated)) {
				t.Errorf("the call of a disabled user has the status %q", status)
			}
			if w.fake.Stats().Runs != runs {
				t.Error("a prediction ran")
			}
		})
	}
}

// holdBackMessage calls a method with first, and with rest and the end of the
// call, after meanwhile, when the caller's proof is older than proofGrace. It
// returns the status.
func (w *rpcWorld) holdBackMessage(t *testing.T, transport *http.Transport, name, token string, first, rest []byte, meanwhile func()) string {
	t.Helper()
	in, out := io.Pipe()
	waits := make(chan struct{})
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got100Continue: func() { close(waits) }})
	r, err := http.NewRequestWithContext(ctx, "POST", "http://"+w.target+method(name), in)
	if err != nil {
		t.Fatal(err)
	}
	r.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}, "Authorization": {"Bearer " + token}, "Expect": {"100-continue"}}
	go func() {
		select {
		case <-waits:
		case <-time.After(time.Minute):
			out.CloseWithError(errors.New("the server does not wait for the message"))
			return
		}
		waited := time.After(proofGrace + 50*time.Millisecond)
		_, _ = out.Write(first)
		meanwhile()
		<-waited
		_, _ = out.Write(rest)
		out.Close()
	}()
	resp, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.Header.Get("Grpc-Status") + resp.Trailer.Get("Grpc-Status")
}
