package api

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"

	"modelgate/audit"
	"modelgate/auth"
)

const irisInfer = `{"id":"r1","inputs":[{"name":"X","datatype":"FP32","shape":[1,4],"data":[5.1,3.5,1.4,0.2]}]}`

func (w *world) walkOIP() {
	w.t.Helper()
	w.upload(w.admin, "oip", "iris.onnx", `{"roles":["user"]}`).is(201)
	w.get("/v2", w.admin).is(200)
	w.get("/v2/health/live", "").is(200)
	w.get("/v2/health/ready", "").is(200)
	w.get("/v2/models/stats", w.admin).is(200)
	for _, path := range []string{"/v2/models/oip", "/v2/models/oip/versions/1"} {
		w.get(path, w.admin).is(200)
		w.get(path+"/stats", w.admin).is(200)
		w.get(path+"/config", w.admin).is(200)
		w.get(path+"/ready", w.admin).is(200)
		w.post(path+"/infer", w.admin, irisInfer).is(200)
	}
	w.post("/v2/repository/index", w.admin, `{"ready":true}`).is(200)
	w.post("/v2/repository/models/oip/load", w.admin, `{}`).is(200)
	w.post("/v2/repository/models/oip/unload", w.admin, `{}`).oipRefused(400)
}

// oipRefused checks an error of the protocol and returns its words.
func (a answer) oipRefused(status int) string {
	a.t.Helper()
	var e map[string]string
	if err := json.Unmarshal(a.Body, &e); err != nil || a.Status != status || len(e) != 1 || e["error"] == "" {
		a.t.Fatalf("%s: %d, want %d and an error alone: %s", a.what, a.Status, status, a.Body)
	}
	if got := a.Header.Get("Content-Type"); got != "application/json" {
		a.t.Errorf("%s: Content-Type %q", a.what, got)
	}
	if a.Header.Get("X-Request-Id") == "" {
		a.t.Errorf("%s: no request id", a.what)
	}
	return e["error"]
}

// inferred is an answer as its JSON says.
type inferred struct {
	ModelName    string  `json:"model_name"`
	ModelVersion *string `json:"model_version"`
	ID           *string `json:"id"`
	Outputs      []struct {
		Name       string
		Datatype   string
		Shape      []int64
		Data       []any
		Parameters struct {
			BinaryDataSize *int `json:"binary_data_size"`
		}
	}
}

// withBytes sends JSON and tensors behind it.
func (w *world) withBytes(path, token, text string, tensors ...[]byte) answer {
	w.t.Helper()
	body := text + string(bytes.Join(tensors, nil))
	return w.do(request{method: "POST", path: path, token: token, body: body, contentType: "application/octet-stream",
		header: http.Header{"Inference-Header-Content-Length": {fmt.Sprint(len(text))}}})
}

func floats(values ...float32) []byte {
	var b []byte
	for _, v := range values {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return b
}

// TestInfer is the main job over the real runtime, in JSON and in bytes.
func TestInfer(t *testing.T) {
	w := newWorldOn(t, true, noLimits)
	w.iris()
	_, ada := w.user("ada")
	var got inferred
	w.post("/v2/models/iris/infer", ada, irisInfer).is(200).decode(&got)
	if got.ModelName != "iris" || got.ModelVersion != nil || got.ID == nil || *got.ID != "r1" || len(got.Outputs) != 2 ||
		got.Outputs[0].Name != "label" || got.Outputs[0].Datatype != "INT64" || fmt.Sprint(got.Outputs[0].Data) != "[0]" {
		t.Errorf("%+v", got)
	}
	// A ZipMap is a tensor of its values by sorted key.
	p := got.Outputs[1]
	if p.Datatype != "FP32" || fmt.Sprint(p.Shape) != "[1 3]" || len(p.Data) != 3 || p.Data[0].(float64) < 0.9 {
		t.Errorf("probabilities: %+v", p)
	}
	for _, data := range []string{`[[5.1,3.5,1.4,0.2],[6.3,3.3,6,2.5]]`, `[5.1,3.5,1.4,0.2,6.3,3.3,6,2.5]`} {
		got = inferred{}
		w.post("/v2/models/iris/versions/1/infer", ada, `{"inputs":[{"name":"X","datatype":"FP32","shape":[2,4],"data":`+data+`}],"outputs":[{"name":"label"}]}`).is(200).decode(&got)
		if got.ModelVersion == nil || *got.ModelVersion != "1" || got.ID != nil || len(got.Outputs) != 1 || fmt.Sprint(got.Outputs[0].Data) != "[0 2]" {
			t.Errorf("%s: %+v", data, got)
		}
	}
	text := `{"inputs":[{"name":"X","datatype":"FP32","shape":[2,4],"parameters":{"binary_data_size":32}}],` +
		`"outputs":[{"name":"probabilities","parameters":{"binary_data":false}},{"name":"label"}],"parameters":{"binary_data_output":true}}`
	row := floats(5.1, 3.5, 1.4, 0.2, 6.3, 3.3, 6, 2.5)
	a := w.withBytes("/v2/models/iris/infer", ada, text, row).is(200)
	if a.Header.Get("Content-Type") != "application/octet-stream" {
		t.Errorf("Content-Type %q", a.Header.Get("Content-Type"))
	}
	var header int
	fmt.Sscan(a.Header.Get("Inference-Header-Content-Length"), &header)
	got = inferred{}
	if err := json.Unmarshal(a.Body[:header], &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Outputs[0].Data) != 6 || got.Outputs[1].Parameters.BinaryDataSize == nil || *got.Outputs[1].Parameters.BinaryDataSize != 16 ||
		!bytes.Equal(a.Body[header:], []byte{0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0}) {
		t.Errorf("%s", a.Body)
	}
	// Nothing but the input.
	a = w.do(request{method: "POST", path: "/v2/models/iris/infer", token: ada, body: string(row), contentType: "application/octet-stream",
		header: http.Header{"Inference-Header-Content-Length": {"0"}}}).is(200)
	if !bytes.Contains(a.Body, []byte(`"shape":[2],"parameters":{"binary_data_size":16}`)) {
		t.Errorf("%q", a.Body)
	}
}

// TestInferDisclosure: what is hidden is so on this way too, and asked for it
// is as unknown as what does not exist.
func TestInferDisclosure(t *testing.T) {
	w := newWorld(t, noLimits)
	w.iris()
	_, ada := w.user("ada")
	w.do(request{method: "PATCH", path: "/models/iris", token: w.admin, json: `{"disclosure":{"outputs":["label"]}}`}).is(200)
	for _, got := range []answer{w.get("/v2/models/iris", ada).is(200), w.post("/v2/models/iris/infer", ada, irisInfer).is(200)} {
		if bytes.Contains(got.Body, []byte("probabilities")) || !bytes.Contains(got.Body, []byte("label")) {
			t.Errorf("%s: %s", got.what, got.Body)
		}
	}
	ask := strings.TrimSuffix(irisInfer, "}") + `,"outputs":[{"name":"%s"}]}`
	hidden := w.post("/v2/models/iris/infer", ada, fmt.Sprintf(ask, "probabilities")).oipRefused(400)
	absent := w.post("/v2/models/iris/infer", ada, fmt.Sprintf(ask, "nothing")).oipRefused(400)
	if strings.ReplaceAll(hidden, "probabilities", "nothing") != absent {
		t.Errorf("%q, %q", hidden, absent)
	}
}

// TestOIPMetadata: versions are for who manages a model.
func TestOIPMetadata(t *testing.T) {
	w := newWorld(t, noLimits)
	w.iris()
	w.upload(w.admin, "iris", "iris_v2.onnx", "").is(201)
	w.upload(w.admin, "closed", "iris.onnx", "").is(201)
	_, ada := w.user("ada")
	_, eve := w.user("eve", "data-scientist")
	if got := string(w.get("/v2", ada).is(200).Body); got != `{"name":"modelgate","version":"test","extensions":["model_repository","model_configuration","statistics","binary_tensor_data"]}` {
		t.Errorf("server: %s", got)
	}
	const tensors = `"platform":"modelgate","inputs":[{"name":"X","datatype":"FP32","shape":[-1,4]}],` +
		`"outputs":[{"name":"label","datatype":"INT64","shape":[-1]},{"name":"probabilities","datatype":"FP32","shape":[-1,-1]}]}`
	for token, versions := range map[string]string{ada: "", w.admin: `"versions":["1","2"],`} {
		for _, path := range []string{"/v2/models/iris", "/v2/models/iris/versions/2"} {
			if got := string(w.get(path, token).is(200).Body); got != `{"name":"iris",`+versions+tensors {
				t.Errorf("%s: %s", path, got)
			}
			if got := string(w.get(path+"/ready", token).is(200).Body); got != `{"name":"iris","ready":true}` {
				t.Errorf("%s/ready: %s", path, got)
			}
		}
	}
	if got := string(w.post("/v2/repository/index", ada, nil).is(200).Body); got != `[{"name":"iris","state":"READY","reason":""}]` {
		t.Errorf("index for a caller: %s", got)
	}
	if got := string(w.post("/v2/repository/index", w.admin, nil).is(200).Body); got != `[{"name":"closed","version":"1","state":"READY","reason":""},{"name":"iris","version":"1","state":"READY","reason":""}]` {
		t.Errorf("index for who manages: %s", got)
	}
	for _, token := range []string{ada, eve} {
		for _, word := range []string{"load", "unload"} {
			w.post("/v2/repository/models/iris/"+word, token, `{}`).oipRefused(403)
			closed := w.post("/v2/repository/models/closed/"+word, token, `{}`).oipRefused(403)
			if absent := w.post("/v2/repository/models/nothing/"+word, token, `{}`).oipRefused(403); absent != closed {
				t.Errorf("%s: %q, %q", word, closed, absent)
			}
		}
	}
	page, err := w.audit.Read(t.Context(), audit.Query{Action: "model.load"})
	if err != nil || len(page.Items) == 0 {
		t.Errorf("denied loads in the audit log: %d, %v", len(page.Items), err)
	}
	w.post("/v2/repository/models/iris/load", w.admin, `{"parameters":{"config":"{}"}}`).oipRefused(400)
	w.get("/v2/models/iris/versions/9", ada).oipRefused(404)
	w.get("/v2/models/iris/versions/9/ready", ada).oipRefused(404)
	w.get("/v2/models/iris/versions/one", ada).oipRefused(400)
	w.get("/v2/health/live", "").is(200)
	w.get("/v2", "").oipRefused(401)
	w.get("/v2/nothing", ada).oipRefused(404)
}

// TestInferAbsentLooksClosed is row Z2 on this way.
func TestInferAbsentLooksClosed(t *testing.T) {
	w := newWorld(t, noLimits)
	w.upload(w.admin, "secret", "iris.onnx", "").is(201)
	_, ada := w.user("ada")
	for _, suffix := range []string{"", "/ready", "/versions/1", "/versions/1/ready", "/infer", "/versions/1/infer"} {
		ask := func(name string) string {
			if strings.HasSuffix(suffix, "infer") {
				return w.post("/v2/models/"+name+suffix, ada, irisInfer).oipRefused(403)
			}
			return w.get("/v2/models/"+name+suffix, ada).oipRefused(403)
		}
		if closed, absent := ask("secret"), ask("nothing"); closed != absent {
			t.Errorf("%s: %q, %q", suffix, closed, absent)
		}
	}
	w.do(request{method: "POST", path: "/v2/models/secret/infer", json: irisInfer}).oipRefused(401)
}

// TestInferRefusals: every bad request gets a 4xx in public terms, and nothing
// stays allocated.
func TestInferRefusals(t *testing.T) {
	w := newWorld(t, noLimits)
	w.iris()
	runs := w.fake.Stats().Runs
	_, ada := w.user("ada")
	before := w.memory.InUse()
	x := func(rest string) string { return `{"inputs":[{"name":"X","datatype":"FP32",` + rest + `}]}` }
	const sized = `"shape":[1,4],"parameters":{"binary_data_size":16}`
	sixteen := floats(1, 2, 3, 4)
	for name, test := range map[string]struct {
		text   string
		tail   []byte
		header string // "": the length of text where there is a tail, else none; "-": none
		status int
		words  string
	}{
		"empty":                 {"", nil, "", 400, "JSON"},
		"deep":                  {`{"inputs":` + strings.Repeat("[", 100_000), nil, "", 400, ""},
		"deep data":             {x(`"shape":[1,4],"data":` + strings.Repeat("[", 100_000)), nil, "", 400, "nests"},
		"no inputs":             {`{}`, nil, "", 400, "inputs"},
		"missing input":         {`{"inputs":[]}`, nil, "", 400, "missing"},
		"unknown input":         {`{"inputs":[{"name":"Y","datatype":"FP32","shape":[1],"data":[1]}]}`, nil, "", 400, "takes X"},
		"duplicate input":       {`{"inputs":[{"name":"X","datatype":"FP32","shape":[1,4],"data":[1,2,3,4]},{"name":"X","datatype":"FP32","shape":[1,4],"data":[1,2,3,4]}]}`, nil, "", 400, "twice"},
		"duplicate output":      {strings.TrimSuffix(irisInfer, "}") + `,"outputs":[{"name":"label"},{"name":"label"}]}`, nil, "", 400, "twice"},
		"duplicate field":       {`{"inputs":[],"inputs":[]}`, nil, "", 400, "twice"},
		"trailing data":         {irisInfer + "x", nil, "", 400, "nothing more"},
		"wrong type":            {`{"inputs":[{"name":"X","datatype":"FP64","shape":[1,4],"data":[1,2,3,4]}]}`, nil, "", 400, "FP64"},
		"wrong shape":           {x(`"shape":[1,3],"data":[1,2,3]`), nil, "", 400, "wants FP32 [N,4], got [1,3]"},
		"too few values":        {x(`"shape":[2,4],"data":[1,2,3,4]`), nil, "", 400, "needs 8"},
		"nested otherwise":      {x(`"shape":[2,4],"data":[[1,2,3,4]]`), nil, "", 400, "shape"},
		"a null":                {x(`"shape":[1,4],"data":[null,2,3,4]`), nil, "", 400, "null"},
		"huge shape":            {x(`"shape":[2147483647,4],"data":[1]`), nil, "", 400, "needs 8589934588"},
		"overflowing shape":     {x(`"shape":[4611686018427387904,4],"data":[1]`), nil, "", 400, "shape"},
		"negative shape":        {x(`"shape":[-1,4],"data":[1]`), nil, "", 400, "shape"},
		"sequence":              {strings.TrimSuffix(irisInfer, "}") + `,"parameters":{"sequence_id":7}}`, nil, "", 400, "sequence_id"},
		"priority":              {strings.TrimSuffix(irisInfer, "}") + `,"parameters":{"priority":1}}`, nil, "", 400, "priority"},
		"shared memory":         {x(`"shape":[1,4],"parameters":{"shared_memory_region":"r","shared_memory_byte_size":16}`), nil, "", 400, "shared_memory_region"},
		"shared memory output":  {strings.TrimSuffix(irisInfer, "}") + `,"outputs":[{"name":"label","parameters":{"shared_memory_region":"r"}}]}`, nil, "", 400, "shared_memory_region"},
		"classification":        {strings.TrimSuffix(irisInfer, "}") + `,"outputs":[{"name":"label","parameters":{"classification":3}}]}`, nil, "", 400, "classification"},
		"no data":               {x(`"shape":[1,4]`), nil, "", 400, "binary_data_size"},
		"both":                  {x(sized + `,"data":[1,2,3,4]`), sixteen, "", 400, "either"},
		"header beyond body":    {x(sized), sixteen, "100000", 400, "only"},
		"negative header":       {x(sized), sixteen, "-5", 400, "Length"},
		"header no number":      {x(sized), sixteen, "0x10", 400, "Length"},
		"empty header":          {x(sized), sixteen, " ", 400, "Length"},
		"no header":             {x(sized), nil, "", 400, "Inference-Header-Content-Length"},
		"nothing":               {"", nil, "", 400, "JSON"},
		"header cuts the JSON":  {x(sized), sixteen, "10", 400, "JSON"},
		"size beyond body":      {x(`"shape":[1,4],"parameters":{"binary_data_size":17}`), sixteen, "", 400, "only 16"},
		"negative size":         {x(`"shape":[1,4],"parameters":{"binary_data_size":-16}`), sixteen, "", 400, "binary_data_size"},
		"endless size":          {x(`"shape":[1,4],"parameters":{"binary_data_size":18446744073709551615}`), sixteen, "", 400, "only 16"},
		"size against shape":    {x(`"shape":[2,4],"parameters":{"binary_data_size":16}`), sixteen, "", 400, "16 bytes"},
		"trailing bytes":        {x(sized), append(floats(1, 2, 3, 4), 9), "", 400, "1 bytes follow"},
		"raw of an odd length":  {"12345", nil, "0", 400, "multiple"},
		"version that is none":  {irisInfer, nil, "", 400, "version"},
		"unknown field":         {`{"Inputs":[]}`, nil, "", 400, "Inputs"},
		"binary flag no truth":  {strings.TrimSuffix(irisInfer, "}") + `,"parameters":{"binary_data_output":1}}`, nil, "", 400, "true or false"},
		"object in place of []": {`{"inputs":{}}`, nil, "", 400, "list"},
	} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			header := http.Header{}
			switch {
			case test.header != "":
				header["Inference-Header-Content-Length"] = []string{test.header}
			case test.tail != nil:
				header["Inference-Header-Content-Length"] = []string{fmt.Sprint(len(test.text))}
			}
			path := "/v2/models/iris/infer"
			if name == "version that is none" {
				path = "/v2/models/iris/versions/0/infer"
			}
			words := w.do(request{method: "POST", path: path, token: ada, body: test.text + string(test.tail), contentType: "application/octet-stream", header: header}).oipRefused(test.status)
			if !strings.Contains(words, test.words) {
				t.Errorf("%q does not name %s", words, test.words)
			}
		})
	}
	w.do(request{method: "POST", path: "/v2/models/iris/infer", token: ada, body: irisInfer, contentType: "text/plain"}).oipRefused(415)
	w.do(request{method: "POST", path: "/v2/models/iris/infer", token: ada, body: irisInfer, contentType: "application/json",
		header: http.Header{"Inference-Header-Content-Length": {"1", "2"}}}).oipRefused(400)
	// 16 bytes of JSON must not be four floats.
	if words := w.do(request{method: "POST", path: "/v2/models/iris/infer", token: ada, json: `{"inputs":[    ]`,
		header: http.Header{"Inference-Header-Content-Length": {"0"}}}).oipRefused(400); !strings.Contains(words, "octet-stream") {
		t.Errorf("JSON as raw bytes: %s", words)
	}
	if n := w.fake.Stats().Runs; n != runs {
		t.Errorf("%d runs of refused predictions", n-runs)
	}
	if held := w.api.bodies.InUse(); held != 0 || w.memory.InUse() != before {
		t.Errorf("%v bytes of bodies and %d of tensors are held", held, w.memory.InUse()-before)
	}
}

// TestInferStatuses: failures that are not the request's own.
func TestInferStatuses(t *testing.T) {
	w := newWorld(t, noLimits)
	w.iris()
	_, ada := w.user("ada")
	w.fake.FailRuns(io.ErrUnexpectedEOF)
	if words := w.post("/v2/models/iris/infer", ada, irisInfer).oipRefused(400); strings.Contains(words, "EOF") {
		t.Errorf("a failed run says %q", words)
	}
	w.fake.FailRuns(nil)
	w.do(request{method: "PATCH", path: "/models/iris", token: w.admin, json: `{"serving":{"timeout_ms":20}}`}).is(200)
	gate := w.fake.HoldRuns()
	defer gate.Open()
	w.post("/v2/models/iris/infer", ada, irisInfer).oipRefused(504)
	w.do(request{method: "POST", path: "/v2/models/iris/infer", token: ada, body: strings.Repeat(" ", 1<<20+1), contentType: "application/json"}).oipRefused(413)
}

// TestInferRowsCost is row L6 on this way.
func TestInferRowsCost(t *testing.T) {
	w := newWorld(t, func(_ *auth.Config, c *Config) { c.Limits = Limits{Predict: "10-H", Login: "1000-S"} })
	w.iris()
	_, ada := w.user("ada")
	three := `{"inputs":[{"name":"X","datatype":"FP32","shape":[3,4],"parameters":{"binary_data_size":48}}]}`
	a := w.withBytes("/v2/models/iris/infer", ada, three, make([]byte, 48)).is(200)
	if got := a.Header.Get("X-RateLimit-Remaining"); got != "7" {
		t.Errorf("%s are left of 10 after 3 rows", got)
	}
	eleven := `{"inputs":[{"name":"X","datatype":"FP32","shape":[11,4],"parameters":{"binary_data_size":176}}]}`
	w.withBytes("/v2/models/iris/infer", ada, eleven, make([]byte, 176)).oipRefused(413)
	w.withBytes("/v2/models/iris/infer", ada, three, make([]byte, 48)).is(200)
	w.withBytes("/v2/models/iris/infer", ada, three, make([]byte, 48)).is(200)
	a = w.withBytes("/v2/models/iris/infer", ada, three, make([]byte, 48))
	a.oipRefused(429)
	if a.Header.Get("Retry-After") == "" {
		t.Error("429 without Retry-After")
	}
}

func zip(t testing.TB, coding string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := io.WriteCloser(gzip.NewWriter(&b))
	if coding == "deflate" {
		z = zlib.NewWriter(&b)
	}
	if _, err := z.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestInferCompressed is row H3: compressed bodies are capped after expansion,
// by the cap of bodies, in time and memory alike.
func TestInferCompressed(t *testing.T) {
	w := newWorld(t, noLimits)
	w.iris()
	_, ada := w.user("ada")
	send := func(coding string, body []byte) answer {
		t.Helper()
		return w.do(request{method: "POST", path: "/v2/models/iris/infer", token: ada, body: string(body), contentType: "application/octet-stream",
			header: http.Header{"Content-Encoding": {coding}}})
	}
	large := `{"inputs":[{"name":"X","datatype":"FP32","shape":[5000,4],"data":[` + strings.TrimSuffix(strings.Repeat("5.1,3.5,1.4,0.2,", 5000), ",") + `]}]}`
	bombs := map[string][]byte{
		"gzip":    bytes.Repeat(zip(t, "gzip", make([]byte, 16<<20)), 64), // a GiB in about a MB
		"deflate": zip(t, "deflate", make([]byte, 128<<20)),
	}
	for _, coding := range []string{"gzip", "deflate", "GZIP"} {
		kind := strings.ToLower(coding)
		send(coding, zip(t, kind, []byte(irisInfer))).is(200)
		send(coding, zip(t, kind, []byte(large))).is(200)
		for name, bad := range map[string][]byte{
			"cut short":     zip(t, kind, []byte(large))[:200],
			"followed":      append(zip(t, kind, []byte(irisInfer)), "more"...),
			"no such thing": []byte(irisInfer),
			"empty":         nil,
		} {
			if words := send(coding, bad).oipRefused(400); !strings.Contains(words, kind) {
				t.Errorf("%s: %q", name, words)
			}
		}
		send(coding, bombs[kind]).oipRefused(413)
		if held := w.api.bodies.InUse(); held != 0 {
			t.Errorf("%v bytes of bodies are held", held)
		}
	}
	// Members without content expand to nothing, for ever.
	send("gzip", bytes.Repeat(zip(t, "gzip", nil), 100_000)).oipRefused(413)
	send("br", []byte(irisInfer)).oipRefused(415)
	send("gzip, gzip", []byte(irisInfer)).oipRefused(415)
	send("identity", []byte(irisInfer)).is(200)
}

// TestInferAnswerCompressed: Accept-Encoding chooses.
func TestInferAnswerCompressed(t *testing.T) {
	w := newWorld(t, noLimits)
	w.iris()
	_, ada := w.user("ada")
	for accept, want := range map[string]string{
		"": "", "gzip": "gzip", "deflate": "deflate", "gzip;q=0": "", "gzip;q=0.1, deflate;q=0.5": "deflate", "br, deflate, gzip": "gzip",
		"*": "", "identity": "", "gzip;q=x": "",
	} {
		req, err := http.NewRequest("POST", w.http.URL+"/v2/models/iris/infer", strings.NewReader(strings.TrimSuffix(irisInfer, "}")+`,"parameters":{"binary_data_output":true}}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+ada)
		req.Header["Accept-Encoding"] = []string{accept}
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		data := io.Reader(resp.Body)
		switch resp.Header.Get("Content-Encoding") {
		case "gzip":
			data, err = gzip.NewReader(data)
		case "deflate":
			data, err = zlib.NewReader(data)
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(data)
		resp.Body.Close()
		header := 0
		fmt.Sscan(resp.Header.Get("Inference-Header-Content-Length"), &header)
		if err != nil || resp.Header.Get("Content-Encoding") != want || header == 0 || header >= len(body) || !json.Valid(body[:header]) {
			t.Errorf("%q: %d, %v, %v, %q", accept, resp.StatusCode, err, resp.Header, body)
		}
	}
}
