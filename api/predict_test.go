package api

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"modelgate/audit"
	"modelgate/auth"
)

// iris publishes the iris model to role user.
func (w *world) iris() {
	w.t.Helper()
	w.upload(w.admin, "iris", "iris.onnx", `{"roles":["user"]}`).is(201)
}

// TestPredictReal is the main job over the real runtime.
func TestPredictReal(t *testing.T) {
	w := newWorldOn(t, true, noLimits)
	w.iris()
	_, ada := w.user("ada")
	for _, body := range []string{
		`{"model":"iris","id":"r1","inputs":{"X":[[5.1,3.5,1.4,0.2]]}}`,
		`{"inputs":[[5.1,3.5,1.4,0.2]],"id":"r1","model":"iris"}`,
		`{"id":"r1","inputs":{"X":{"shape":[1,4],"data":[5.1,3.5,1.4,0.2]}},"model":"iris","version":1}`,
	} {
		got := w.post("/predict", ada, []byte(body)).is(200)
		var answer struct {
			ID      string
			Model   string
			Outputs struct {
				Label         []int
				Probabilities []map[string]float64
			}
		}
		got.decode(&answer)
		if answer.ID != "r1" || answer.Model != "iris" || len(answer.Outputs.Label) != 1 || answer.Outputs.Label[0] != 0 ||
			len(answer.Outputs.Probabilities) != 1 || answer.Outputs.Probabilities[0]["0"] < 0.9 {
			t.Errorf("%s: %s", body, got.Body)
		}
		if got.Header.Get("Content-Type") != "application/json" || got.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("headers %v", got.Header)
		}
	}
	// A disclosure holds from the next request, in the answer and in the metadata.
	w.do(request{method: "PATCH", path: "/models/iris", token: w.admin, json: `{"disclosure":{"outputs":["label"]}}`}).is(200)
	if got := string(w.post("/predict", ada, irisRow).is(200).Body); strings.Contains(got, "probabilities") {
		t.Errorf("an output that is not disclosed: %s", got)
	}
	if got := string(w.get("/models/iris", ada).is(200).Body); strings.Contains(got, "probabilities") {
		t.Errorf("metadata of an output that is not disclosed: %s", got)
	}
	w.post("/predict", ada, `{"model":"iris","inputs":[[1,2,3,4]],"outputs":["probabilities"]}`).refused(400, "invalid_input")
}

// TestPredictRefusals: every bad request gets a 4xx with a sentence in public
// terms, and nothing stays allocated.
func TestPredictRefusals(t *testing.T) {
	w := newWorld(t, noLimits)
	w.iris()
	runs := w.fake.Stats().Runs
	_, ada := w.user("ada")
	for name, test := range map[string]struct {
		body   string
		status int
		code   string
		names  string
	}{
		"unknown model":     {`{"model":"nothing","inputs":[[1,2,3,4]]}`, 403, "forbidden", "no such model, or"},
		"unknown version":   {`{"model":"iris","version":9,"inputs":[[1,2,3,4]]}`, 404, "not_found", "version"},
		"unknown alias":     {`{"model":"iris","alias":"x","inputs":[[1,2,3,4]]}`, 404, "not_found", "alias"},
		"version and alias": {`{"model":"iris","version":1,"alias":"x","inputs":[[1,2,3,4]]}`, 400, "invalid_input", "alias"},
		"wrong input":       {`{"model":"iris","inputs":{"Y":[[1,2,3,4]]}}`, 400, "invalid_input", "X"},
		"ragged":            {`{"model":"iris","inputs":{"X":[[1,2,3,4],[1,2,3]]}}`, 400, "invalid_input", "X"},
		"wrong type":        {`{"model":"iris","inputs":{"X":[["a",2,3,4]]}}`, 400, "invalid_input", "X"},
		"null":              {`{"model":"iris","inputs":{"X":[[null,2,3,4]]}}`, 400, "invalid_input", "X"},
		"NaN":               {`{"model":"iris","inputs":{"X":[[NaN,2,3,4]]}}`, 400, "invalid_input", ""},
		"Infinity":          {`{"model":"iris","inputs":{"X":[[1e999,2,3,4]]}}`, 400, "invalid_input", "X"},
		"overflow":          {`{"model":"iris","inputs":{"X":{"shape":[4611686018427387904,4],"data":[1]}}}`, 400, "invalid_input", "X"},
		"unknown field":     {`{"model":"iris","inputs":[[1,2,3,4]],"Version":1}`, 400, "invalid_input", "Version"},
		"given twice":       {`{"model":"iris","model":"iris","inputs":[[1,2,3,4]]}`, 400, "invalid_input", "model"},
		"trailing data":     {irisRow + "x", 400, "invalid_input", ""},
		"unknown output":    {`{"model":"iris","inputs":[[1,2,3,4]],"outputs":["x"]}`, 400, "invalid_input", "label"},
		"no model":          {`{"inputs":[[1,2,3,4]]}`, 400, "invalid_input", "model"},
		"empty":             {``, 400, "invalid_input", ""},
		"deep":              {`{"model":"iris","inputs":` + strings.Repeat("[", 100_000), 400, "invalid_input", ""},
	} {
		t.Run(name, func(t *testing.T) {
			detail := w.in(t).post("/predict", ada, []byte(test.body)).refused(test.status, test.code)
			if !strings.Contains(detail, test.names) {
				t.Errorf("the sentence %q does not name %s", detail, test.names)
			}
		})
	}
	if n := w.fake.Stats().Runs; n != runs {
		t.Errorf("%d runs of refused predictions", n-runs)
	}
	if held := w.api.bodies.InUse(); held != 0 {
		t.Errorf("%v bytes of bodies are held", held)
	}
}

// TestAbsentLooksClosed is row Z2: who may not use a model can't tell it from
// one that does not exist.
func TestAbsentLooksClosed(t *testing.T) {
	w := newWorld(t, noLimits)
	w.upload(w.admin, "secret", "iris.onnx", "").is(201)
	_, ada := w.user("ada")
	_, eve := w.user("eve", "data-scientist")
	for _, token := range []string{ada, eve} {
		for _, ask := range []func(name string) request{
			func(n string) request {
				return request{method: "POST", path: "/predict", json: `{"model":"` + n + `","inputs":[[1,2,3,4]]}`}
			},
			func(n string) request {
				return request{method: "POST", path: "/predict", json: `{"model":"` + n + `","version":1,"inputs":[[1,2,3,4]]}`}
			},
			func(n string) request { return request{method: "GET", path: "/models/" + n} },
			func(n string) request { return request{method: "PATCH", path: "/models/" + n, json: `{}`} },
			func(n string) request { return request{method: "DELETE", path: "/models/" + n} },
			func(n string) request { return request{method: "DELETE", path: "/models/" + n + "/versions/1"} },
		} {
			var seen [2]string
			for i, name := range []string{"secret", "absent"} {
				r := ask(name)
				r.token = token
				got := w.do(r)
				got.refused(403, "forbidden")
				id := got.Header.Get("X-Request-Id")
				got.Header.Del("Date")
				got.Header.Del("X-Request-Id")
				got.Header.Del("X-Ratelimit-Remaining")
				seen[i] = strings.ReplaceAll(fmt.Sprint(got.Header, string(got.Body)), id, "ID")
			}
			if seen[0] != seen[1] {
				t.Errorf("a closed and an absent model answer differently:\n%s\n%s", seen[0], seen[1])
			}
		}
	}
}

// TestRowsCost is row L6: a prediction costs its rows, before anything runs.
func TestRowsCost(t *testing.T) {
	w := newWorld(t, limits(Limits{Predict: "100-M", Login: "1000-S"}))
	w.iris()
	_, ada := w.user("ada")
	left := func(a answer) string { return a.Header.Get("X-RateLimit-Remaining") }
	if got := w.post("/predict", ada, rows(40)).is(200); left(got) != "60" {
		t.Errorf("40 rows left %s of 100", left(got))
	}
	runs := w.fake.Stats().Runs
	detail := w.post("/predict", ada, rows(101)).refused(413, "too_many_rows")
	if !strings.Contains(detail, "100") {
		t.Errorf("the sentence %q does not name the limit", detail)
	}
	// The refused one cost the unit of its request; 59 are left.
	w.post("/predict", ada, rows(60)).limited()
	if n := w.fake.Stats().Runs; n != runs {
		t.Errorf("%d runs of refused predictions", n-runs)
	}
	if got := w.post("/predict", ada, rows(50)).is(200); left(got) != "8" {
		t.Errorf("left %s, want 8: 100 - 40 - 1 - 1 - 50", left(got))
	}
}

// TestDeniedCostsNoDecoding: a closed model answers 403 whatever the inputs
// are, so they were not looked at.
func TestDeniedCostsNoDecoding(t *testing.T) {
	w := newWorld(t, noLimits)
	w.upload(w.admin, "closed", "iris.onnx", "").is(201)
	_, ada := w.user("ada")
	w.post("/predict", ada, `{"model":"closed","inputs":{"nonsense":["a",[1],{}]}}`).refused(403, "forbidden")
	page, err := w.audit.Read(context.Background(), audit.Query{Action: "model.predict"})
	if err != nil || len(page.Items) != 1 || page.Items[0].Outcome != audit.Denied || page.Items[0].Actor != "ada" {
		t.Errorf("the denial in the audit log: %+v, %v", page.Items, err)
	}
}

// TestDeadline: a run that takes too long is a 504, and the next one works.
func TestDeadline(t *testing.T) {
	w := newWorld(t, noLimits)
	w.iris()
	w.do(request{method: "PATCH", path: "/models/iris", token: w.admin, json: `{"serving":{"timeout_ms":50}}`}).is(200)
	gate := w.fake.HoldRuns()
	w.post("/predict", w.admin, irisRow).refused(504, "deadline")
	gate.Open()
	w.post("/predict", w.admin, irisRow).is(200)
}

// TestQueueFull: two run, two wait, the rest is told at once when to come back.
func TestQueueFull(t *testing.T) {
	w := newWorld(t, noLimits)
	w.iris()
	gate := w.fake.HoldRuns()
	var wg sync.WaitGroup
	var mu sync.Mutex
	counts := map[int]int{}
	for range 12 {
		wg.Go(func() {
			got := w.post("/predict", w.admin, irisRow)
			mu.Lock()
			counts[got.Status]++
			full := counts[503] >= 8
			mu.Unlock()
			if got.Status == 503 {
				got.refused(503, "unavailable")
				if got.Header.Get("Retry-After") == "" {
					t.Error("no Retry-After")
				}
			}
			if full {
				gate.Open()
			}
		})
	}
	wg.Wait()
	if counts[200] != 4 || counts[503] != 8 {
		t.Errorf("answers by status: %v, want 4 of 200 and 8 of 503", counts)
	}
}

// TestClientLeaves: who hangs up ends his run, and the log tells it apart.
func TestClientLeaves(t *testing.T) {
	w := newWorld(t, noLimits)
	w.iris()
	gate := w.fake.HoldRuns()
	ctx, leave := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, "POST", w.http.URL+"/predict", strings.NewReader(irisRow))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+w.admin)
	req.Header.Set("Content-Type", "application/json")
	done := make(chan error, 1)
	go func() {
		_, err := w.http.Client().Do(req)
		done <- err
	}()
	gate.Await(t, 1)
	leave()
	if err := <-done; err == nil {
		t.Fatal("an answer came although the run was held")
	}
	for deadline := time.Now().Add(5 * time.Second); !strings.Contains(w.log.String(), `"status":499`); {
		if time.Now().After(deadline) {
			t.Fatal("the run of a client that left goes on")
		}
		w.get("/healthz", "").is(200)
	}
	gate.Open()
	w.post("/predict", w.admin, irisRow).is(200)
	if metrics := string(w.get("/admin/metrics", w.admin).Body); !strings.Contains(metrics, `modelgate_http_requests_total{method="POST",route="/predict",status="499"} 1`) {
		t.Error("the request is not counted as 499")
	}
}

// TestRunOutlastsBodyGrace: the read deadline of a body does not look like a
// client hanging up once the body is there.
func TestRunOutlastsBodyGrace(t *testing.T) {
	w := newWorld(t, noLimits, func(_ *auth.Config, c *Config) { c.BodyGrace = 100 * time.Millisecond })
	w.iris()
	gate := w.fake.HoldRuns()
	done := make(chan answer, 1)
	go func() { done <- w.post("/predict", w.admin, irisRow) }()
	gate.Await(t, 1)
	<-time.After(300 * time.Millisecond) // longer than the grace
	gate.Open()
	(<-done).is(200)
}

// TestKeepAlive: many predictions over one connection, each answered in turn.
func TestKeepAlive(t *testing.T) {
	w := newWorld(t, noLimits)
	w.iris()
	conn, err := net.Dial("tcp", w.http.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	r := bufio.NewReader(conn)
	for i := range 50 {
		body := fmt.Sprintf(`{"model":"iris","id":"r%d","inputs":[[1,2,3,%d]]}`, i, i)
		fmt.Fprintf(conn, "POST /predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
			w.admin, len(body), body)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		var got struct{ ID string }
		if err := json.NewDecoder(resp.Body).Decode(&got); err != nil || got.ID != fmt.Sprintf("r%d", i) || resp.StatusCode != 200 {
			t.Fatalf("answer %d: %d %+v %v", i, resp.StatusCode, got, err)
		}
		resp.Body.Close()
	}
}
