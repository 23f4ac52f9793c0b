package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"modelgate/auth"
	"modelgate/models"
)

// send uploads a body as it is.
func (w *world) send(token, name, body, contentType string) answer {
	w.t.Helper()
	return w.do(request{method: "POST", path: "/models/" + name + "/versions", token: token, body: body, contentType: contentType})
}

// leftovers counts the files of uploads that became no version.
func (w *world) leftovers() int {
	w.t.Helper()
	n := 0
	err := filepath.WalkDir(filepath.Join(w.dir, "models", "tmp"), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

func TestUpload(t *testing.T) {
	w := newWorld(t, noLimits)
	_, scientist := w.user("grace", "data-scientist")
	_, ada := w.user("ada")
	file := modelFile(t, "iris.onnx")

	// Either order of the parts; a file name of the client's means nothing.
	body, kind := multipartBody(t, part{"spec", "", []byte(`{"roles":["user"],"description":"flowers"}`)}, part{"file", "../../etc/passwd\r\nX: y", file})
	got := w.send(scientist, "iris", body, kind).is(201)
	exactly(t, got, "name", "version", "digest", "state", "inputs", "outputs", "batching")
	var made published
	got.decode(&made)
	if made.Name != "iris" || made.Version != 1 || made.State != "ready" || !strings.HasPrefix(made.Digest, "sha256:") || len(made.Inputs) != 1 || made.Inputs[0].Name != "X" {
		t.Errorf("%s", got.Body)
	}
	w.upload(scientist, "iris", "iris_v2.onnx", "").is(201)

	// What a caller may know, and what who manages it (row Z4).
	exactly(t, w.get("/models/iris", ada).is(200), "name", "description", "inputs", "outputs")
	managed := []string{"name", "description", "inputs", "outputs", "owner", "roles", "disclosure", "serving", "default_version", "aliases",
		"created_at", "updated_at", "versions"}
	for _, token := range []string{scientist, w.admin} {
		exactly(t, w.get("/models/iris", token).is(200), managed...)
	}
	var view managedView
	w.get("/models/iris", scientist).is(200).decode(&view)
	if view.DefaultVersion != 1 || len(view.Versions) != 2 || view.Versions[0].Size != int64(len(file)) || view.Versions[0].Digest != made.Digest {
		t.Errorf("%+v", view)
	}
	var tensors struct {
		Inputs, Outputs []map[string]any
	}
	w.get("/models/iris", ada).is(200).decode(&tensors)
	for _, x := range append(tensors.Inputs, tensors.Outputs...) {
		if len(x) != 3 || x["name"] == "" || x["datatype"] == "" || x["shape"] == nil {
			t.Errorf("a tensor has the fields %v", x)
		}
	}

	// To another scientist the model is as if it were not there.
	_, other := w.user("other", "data-scientist")
	w.upload(other, "hers", "iris.onnx", "").is(201)
	exactly(t, w.get("/models/iris", other).is(200), "name", "description", "inputs", "outputs") // by role user
	w.get("/models/hers", scientist).refused(403, "forbidden")
	w.send(other, "iris", body, kind).is(409)
	w.do(request{method: "PATCH", path: "/models/iris", token: other, json: `{"roles":[]}`}).refused(403, "forbidden")
	if w.leftovers() != 0 {
		t.Errorf("%d temporary files are left", w.leftovers())
	}
}

func TestUploadRefusals(t *testing.T) {
	w := newWorld(t, noLimits)
	file := modelFile(t, "iris.onnx")
	good := part{"file", "m.onnx", file}
	build := func(parts ...part) [2]string {
		body, kind := multipartBody(t, parts...)
		return [2]string{body, kind}
	}
	whole := build(good)
	for name, test := range map[string]struct {
		send   [2]string
		status int
		code   string
		names  string
	}{
		"no parts":            {build(), 400, "invalid_input", `"file"`},
		"no file":             {build(part{"spec", "", []byte(`{}`)}), 400, "invalid_input", `"file"`},
		"file twice":          {build(good, good), 400, "invalid_input", "twice"},
		"spec twice":          {build(part{"spec", "", []byte(`{}`)}, part{"spec", "", []byte(`{}`)}, good), 400, "invalid_input", "twice"},
		"unknown part":        {build(good, part{"x", "", []byte(`y`)}), 400, "invalid_input", "neither"},
		"spec no JSON":        {build(part{"spec", "", []byte(`{`)}, good), 400, "invalid_input", "JSON"},
		"spec unknown field":  {build(part{"spec", "", []byte(`{"Roles":[]}`)}, good), 400, "invalid_input", "Roles"},
		"spec large":          {build(part{"spec", "", bytes.Repeat([]byte(" "), 70<<10)}, good), 413, "too_large", "spec"},
		"spec after, bad":     {build(good, part{"spec", "", []byte(`{"owner":"x"}`)}), 400, "invalid_input", "owner"},
		"unknown role":        {build(part{"spec", "", []byte(`{"roles":["nothing"]}`)}, good), 400, "invalid_input", "nothing"},
		"not ONNX":            {build(part{"file", "m.onnx", []byte("hello, this is no model")}), 422, "", ""},
		"empty":               {build(part{"file", "m.onnx", nil}), 422, "", ""},
		"truncated":           {build(part{"file", "m.onnx", file[:len(file)/2]}), 422, "", ""},
		"external data":       {build(part{"file", "m.onnx", modelFile(t, "external.onnx")}), 422, "external_data", ""},
		"larger than allowed": {build(part{"file", "m.onnx", make([]byte, 5<<20)}), 413, "too_large", ""},
		"much larger":         {build(part{"file", "m.onnx", make([]byte, 8<<20)}), 413, "too_large", ""},
		"JSON":                {[2]string{`{}`, "application/json"}, 415, "unsupported_media_type", "multipart"},
		"no boundary":         {[2]string{whole[0], "multipart/form-data"}, 415, "unsupported_media_type", ""},
		"wrong boundary":      {[2]string{whole[0], "multipart/form-data; boundary=other"}, 400, "invalid_input", ""},
		"stops halfway":       {[2]string{whole[0][:len(whole[0])/2], whole[1]}, 400, "invalid_input", ""},
		"stops in a header":   {[2]string{whole[0][:40], whole[1]}, 400, "invalid_input", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := w.in(t).send(w.admin, "iris", test.send[0], test.send[1])
			var p problem
			got.decode(&p)
			if got.Status != test.status || test.code != "" && p.Code != test.code || !strings.Contains(p.Detail, test.names) || p.Detail == "" {
				t.Errorf("%d %s, want %d %s naming %q", got.Status, got.Body, test.status, test.code, test.names)
			}
			if w.leftovers() != 0 {
				t.Errorf("%d temporary files are left", w.leftovers())
			}
		})
	}
	w.get("/models/iris", w.admin).refused(404, "not_found")
	for _, name := range []string{"Iris", "-iris", "a b", strings.Repeat("a", 65), "%C3%A9"} {
		body, kind := multipartBody(t, good)
		w.send(w.admin, strings.ReplaceAll(name, " ", "%20"), body, kind).refused(400, "invalid_input")
	}
}

// TestUploadDecidesFirst: who may not publish is told before his file is read.
func TestUploadDecidesFirst(t *testing.T) {
	w := newWorld(t, noLimits)
	_, ada := w.user("ada")
	resp, data, err := w.raw("POST /models/iris/versions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + ada +
		"\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n")
	if err != nil || resp.StatusCode != 403 {
		t.Fatalf("%v %v: %s", resp, err, data)
	}
}

// TestUploadAborted: a connection that dies in the middle leaves nothing.
func TestUploadAborted(t *testing.T) {
	w := newWorld(t, noLimits)
	body, kind := multipartBody(t, part{"file", "m.onnx", modelFile(t, "iris.onnx")})
	conn, err := net.Dial("tcp", w.http.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "POST /models/iris/versions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s",
		w.admin, kind, len(body), body[:len(body)/2])
	for deadline := time.Now().Add(5 * time.Second); w.leftovers() == 0; {
		if time.Now().After(deadline) {
			t.Fatal("the upload does not begin")
		}
	}
	conn.Close()
	for deadline := time.Now().Add(5 * time.Second); w.leftovers() != 0; {
		if time.Now().After(deadline) {
			t.Fatal("a broken upload leaves its file")
		}
	}
	w.get("/models/iris", w.admin).refused(404, "not_found")
}

// TestUploadChunked: a body without a length is taken as well.
func TestUploadChunked(t *testing.T) {
	w := newWorld(t, noLimits)
	body, kind := multipartBody(t, part{"file", "m.onnx", modelFile(t, "iris.onnx")})
	req, err := http.NewRequest("POST", w.http.URL+"/models/iris/versions", io.MultiReader(strings.NewReader(body)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+w.admin)
	req.Header.Set("Content-Type", kind)
	resp, err := w.http.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 201 {
		t.Errorf("status %d", resp.StatusCode)
	}
}

// Why a version is out of service is for those who manage the model; its
// callers learn only that it is, until its file is published again.
func TestQuarantinedModel(t *testing.T) {
	w := newWorld(t, noLimits)
	w.iris()
	_, ada := w.user("ada", "user")
	const reason = "its process ended 5 times within 1m0s, the last time so: signal: killed"
	access, err := w.models.Open(t.Context(), auth.Principal{Roles: []string{"user"}}, models.Ref{Model: "iris"})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.models.Quarantine(t.Context(), access.Version, reason); err != nil {
		t.Fatal(err)
	}
	var view managedView
	w.get("/models/iris", w.admin).is(200).decode(&view)
	if v := view.Versions[0]; v.State != models.Quarantined || v.Reason != reason {
		t.Errorf("%+v", v)
	}
	detail := w.post("/predict", ada, `{"model":"iris","inputs":[[5.1,3.5,1.4,0.2]]}`).refused(503, "model_unavailable")
	if told := detail + string(w.get("/models/iris", ada).is(200).Body); strings.Contains(told, "process") {
		t.Errorf("a caller is told %s", told)
	}
	w.upload(w.admin, "iris", "iris.onnx", `{"default":true}`).is(201)
	w.post("/predict", ada, `{"model":"iris","inputs":[[5.1,3.5,1.4,0.2]]}`).is(200)
}

func TestModelPolicies(t *testing.T) {
	w := newWorld(t, noLimits)
	w.iris()
	w.upload(w.admin, "iris", "iris_v2.onnx", "").is(201)
	patch := func(body string) answer {
		return w.do(request{method: "PATCH", path: "/models/iris", token: w.admin, json: body})
	}
	var view managedView
	patch(`{"description":"x","disclosure":{"top_k":2,"decimals":0,"roles":{"user":{"label_only":true}}},"serving":{"timeout_ms":5},"default_version":2,"aliases":{"old":1}}`).is(200).decode(&view)
	policy, err := json.Marshal(view.Disclosure)
	if err != nil || string(policy) == "{}" || view.Disclosure.Decimals == nil || *view.Disclosure.Decimals != 0 || !view.Disclosure.Roles["user"].LabelOnly {
		t.Errorf("disclosure %s", policy)
	}
	if view.DefaultVersion != 2 || view.Aliases["old"] != 1 || view.Serving.TimeoutMS != 5 || view.Description != "x" {
		t.Errorf("%+v", view)
	}
	view = managedView{}
	patch(`{"serving":{"max_batch":8,"instances":2,"queue":9}}`).is(200).decode(&view)
	if view.Serving != (serving{MaxBatch: 8, Instances: 2, Queue: 9}) || !view.Versions[1].Batching.Active || !view.Versions[0].Batching.Possible {
		t.Errorf("%+v, %+v", view.Serving, view.Versions[1].Batching)
	}
	view = managedView{}
	patch(`{"serving":{"pinned":true}}`).is(200).decode(&view)
	if pinned := w.models.Pinned(); view.Serving != (serving{Pinned: true}) || len(pinned) != 1 || pinned[0].Number != 2 {
		t.Errorf("%+v, pinned are %v", view.Serving, pinned)
	}
	patch(`{"serving":{}}`).is(200)
	if pinned := w.models.Pinned(); len(pinned) != 0 {
		t.Errorf("pinned are %v", pinned)
	}
	for _, bad := range []string{`{"pinned":1}`, `{"max_batch":-1}`, `{"max_batch":4097}`, `{"max_batch":"8"}`, `{"maxBatch":8}`, `{"instances":1025}`, `{"queue":100001}`} {
		patch(`{"serving":`+bad+`}`).refused(400, "invalid_input")
	}
	var mixed published
	w.upload(w.admin, "mixed", "rowmix.onnx", `{"serving":{"max_batch":8}}`).is(201).decode(&mixed)
	if b := mixed.Batching; b == nil || b.Possible || b.Active || !strings.Contains(b.Reason, "ReduceMax") {
		t.Errorf("rows that mix: %+v", b)
	}
	// What a patch leaves out stays; an empty policy takes the policy away.
	patch(`{}`).is(200).decode(&view)
	if view.Disclosure.TopK != 2 {
		t.Errorf("an empty patch changed the policy: %+v", view)
	}
	cleared := patch(`{"disclosure":{},"aliases":{}}`).is(200)
	if !strings.Contains(string(cleared.Body), `"disclosure":{}`) || !strings.Contains(string(cleared.Body), `"aliases":{}`) {
		t.Errorf("not cleared: %s", cleared.Body)
	}
	for body, names := range map[string]string{
		`{"roles":["nothing"]}`:                     "nothing",
		`{"disclosure":{"outputs":["nothing"]}}`:    "nothing",
		`{"default_version":9}`:                     "9",
		`{"aliases":{"x":9}}`:                       "9",
		`{"disclosure":{"top_k":-1}}`:               "top_k",
		`{"disclosure":{"outputs":[]}}`:             "outputs",
		`{"owner":"u_1"}`:                           "owner",
		`{"disclosure":{"roles":{"user":{"x":1}}}}`: "x",
	} {
		if detail := patch(body).refused(400, "invalid_input"); !strings.Contains(detail, names) {
			t.Errorf("%s: the sentence %q does not name %s", body, detail, names)
		}
	}
	w.do(request{method: "DELETE", path: "/models/iris/versions/2", token: w.admin}).refused(409, "conflict")
	for _, bad := range []string{"0", "-1", "x", "01", "1.0", "99999999999999999999"} {
		w.do(request{method: "DELETE", path: "/models/iris/versions/" + bad, token: w.admin}).refused(400, "invalid_input")
	}
	w.do(request{method: "DELETE", path: "/models/iris/versions/9", token: w.admin}).refused(404, "not_found")
}

func TestModelList(t *testing.T) {
	w := newWorld(t, noLimits)
	for _, name := range []string{"a", "b", "c", "d"} {
		w.upload(w.admin, name, "iris.onnx", map[bool]string{true: `{"roles":["user"]}`, false: ""}[name != "c"]).is(201)
	}
	_, ada := w.user("ada")
	var names []string
	for after, more := "", true; more; {
		var p page[modelView]
		w.get("/models?limit=2&after="+after, ada).is(200).decode(&p)
		for _, m := range p.Items {
			names = append(names, m.Name)
		}
		after, more = p.Next, p.Next != ""
	}
	if strings.Join(names, "") != "abd" {
		t.Errorf("the list has %v", names)
	}
	for _, query := range []string{"limit=0", "limit=1001", "limit=x", "limit=1&limit=2", "after=" + strings.Repeat("a", 300)} {
		w.get("/models?"+query, ada).refused(400, "invalid_input")
	}
}

// TestUploadPace: an upload takes as long as it needs while bytes come, and is
// cut when they stop.
func TestUploadPace(t *testing.T) {
	w := newWorld(t, noLimits, withGrace)
	body, kind := multipartBody(t, part{"file", "m.onnx", modelFile(t, "iris.onnx")})
	head := fmt.Sprintf("POST /models/iris/versions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n",
		w.admin, kind, len(body))
	resp, data, err := w.raw(head + body[:len(body)/2])
	if err != nil || resp.StatusCode != 408 || !strings.Contains(string(data), `"timeout"`) {
		t.Fatalf("an upload that stops: %v %v: %s", resp, err, data)
	}
	if w.leftovers() != 0 {
		t.Errorf("%d temporary files are left", w.leftovers())
	}
	resp, data, err = w.raw(head, func(c net.Conn) {
		const steps = 10
		for i := range steps { // one second in all, more than three times the grace
			from, to := i*len(body)/steps, (i+1)*len(body)/steps
			if _, err := io.WriteString(c, body[from:to]); err != nil {
				return
			}
			<-time.After(100 * time.Millisecond)
		}
	})
	if err != nil || resp.StatusCode != 201 {
		t.Fatalf("a slow upload: %v %v: %s", resp, err, data)
	}
}

// TestUploadLeaves: who hangs up while his model is tried publishes nothing.
func TestUploadLeaves(t *testing.T) {
	w := newWorld(t, noLimits)
	gate := w.fake.HoldRuns()
	body, kind := multipartBody(t, part{"file", "m.onnx", modelFile(t, "iris.onnx")})
	ctx, leave := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, "POST", w.http.URL+"/models/iris/versions", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+w.admin)
	req.Header.Set("Content-Type", kind)
	done := make(chan error, 1)
	go func() {
		_, err := w.http.Client().Do(req)
		done <- err
	}()
	gate.Await(t, 1)
	leave()
	<-done
	for deadline := time.Now().Add(5 * time.Second); !strings.Contains(w.log.String(), `"status":499`); {
		if time.Now().After(deadline) {
			t.Fatal("the trial of a client that left goes on")
		}
		w.get("/healthz", "").is(200)
	}
	gate.Open()
	w.get("/models/iris", w.admin).refused(404, "not_found")
	if w.leftovers() != 0 {
		t.Errorf("%d temporary files are left", w.leftovers())
	}
}
