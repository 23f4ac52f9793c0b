package inference_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"modelgate/audit"
	"modelgate/auth"
	"modelgate/inference"
	"modelgate/inference/ort"
	"modelgate/models"
	"modelgate/store"
)

// house is the real thing below the transports: database, audit log,
// catalogue, runtime, service.
type house struct {
	catalog *models.Catalog
	service *inference.Service
	engine  inference.Engine
	mem     *inference.Memory
	owner   auth.Principal
}

func newHouse(t testing.TB) *house {
	t.Helper()
	lib, err := ort.FindLibrary(os.Getenv("MODELGATE_ONNXRUNTIME_LIB"))
	if err != nil {
		t.Skipf("ONNX Runtime is needed (make test fetches it): %v", err)
	}
	h := &house{mem: inference.NewMemory(256 << 20), owner: auth.Principal{UserID: "u1", Username: "olga", Permissions: auth.ModelsWrite}}
	engine, err := ort.Open(lib, ort.Config{Memory: h.mem})
	if err != nil {
		t.Fatal(err)
	}
	h.engine = engine
	dir := t.TempDir()
	db, err := store.Open(t.Context(), "sqlite:"+filepath.Join(dir, "db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	log, err := audit.Open(t.Context(), audit.Config{Path: filepath.Join(dir, "audit.log"), Heads: db})
	if err != nil {
		t.Fatal(err)
	}
	files, err := models.OpenFiles(filepath.Join(dir, "models"), 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.CreateUser(t.Context(), auth.User{ID: h.owner.UserID, Username: h.owner.Username}, nil); err != nil {
		t.Fatal(err)
	}
	h.catalog, err = models.New(t.Context(), models.Config{Store: db, Files: files, Guard: auth.NewGuard(log)})
	if err != nil {
		t.Fatal(err)
	}
	h.service = inference.New(inference.Config{Engine: engine, Catalog: h.catalog, Memory: h.mem})
	h.catalog.Retired(h.service.Retire)
	t.Cleanup(func() {
		ctx := context.Background()
		for _, err := range []error{h.service.Close(ctx), engine.Close(), log.Close(), db.Close()} {
			if err != nil {
				t.Error(err)
			}
		}
		if n := h.mem.InUse(); n != 0 {
			t.Errorf("%d bytes of tensors left", n)
		}
	})
	return h
}

func (h *house) publish(ctx context.Context, name, file string) (*models.Version, error) {
	f, err := os.Open(filepath.Join("../testdata", file))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	staged, err := h.catalog.Stage(ctx, f)
	if err != nil {
		return nil, err
	}
	_, v, err := h.catalog.Publish(ctx, h.owner, name, staged, models.Spec{}, h.service.Try)
	return v, err
}

func (h *house) predict(ctx context.Context, body string) (string, error) {
	e, err := inference.ScanPredict([]byte(body))
	if err != nil {
		return "", err
	}
	r, err := h.service.Predict(ctx, h.owner, models.Ref{Model: e.Model, Version: e.Version, Alias: e.Alias},
		func(sig *models.Signature, mem *inference.Memory) (*inference.Request, error) {
			in, err := inference.DecodeJSON(e.Inputs, sig, mem)
			if err != nil {
				return nil, err
			}
			return &inference.Request{Inputs: in, Outputs: e.Outputs}, nil
		})
	if err != nil {
		return "", err
	}
	defer r.Release()
	out, err := inference.AppendJSON(nil, r, &e)
	return string(out), err
}

// caseFile is a file of testdata/cases: see testdata/casefile.py.
type caseFile struct {
	Model string
	File  string
	Cases []struct {
		Name    string
		Inputs  map[string]array
		Outputs map[string]output
	}
}

type array struct {
	Datatype string            `json:"datatype"`
	Shape    []int             `json:"shape"`
	Data     []json.RawMessage `json:"data"`
}

type output struct {
	array
	Kind string          `json:"kind"`
	Data json.RawMessage `json:"data"`
}

// nest writes an array as nested JSON arrays.
func (a *array) nest() string {
	if len(a.Shape) == 0 {
		return string(a.Data[0])
	}
	at := 0
	var write func(level int) string
	write = func(level int) string {
		parts := make([]string, a.Shape[level])
		for i := range parts {
			if level == len(a.Shape)-1 {
				parts[i] = string(a.Data[at])
				at++
			} else {
				parts[i] = write(level + 1)
			}
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	return write(0)
}

func (a *array) flat() string {
	data, err := json.Marshal(a.Data)
	if err != nil {
		panic(err)
	}
	shape, _ := json.Marshal(a.Shape)
	return fmt.Sprintf(`{"shape":%s,"data":%s}`, shape, data)
}

// want is what the answer's JSON must be for an output, numbers aside.
func (o *output) want(t *testing.T) (text string, tolerance float64) {
	t.Helper()
	switch o.Kind {
	case "maps":
		return string(o.Data), 1e-5
	case "tensors":
		var list []array
		if err := json.Unmarshal(o.Data, &list); err != nil {
			t.Fatal(err)
		}
		var parts []string
		for i := range list {
			parts = append(parts, list[i].nest())
		}
		return "[" + strings.Join(parts, ",") + "]", 1e-5
	}
	if err := json.Unmarshal(o.Data, &o.array.Data); err != nil {
		t.Fatal(err)
	}
	tolerance = 1e-5
	switch o.Datatype { // half a unit in the last place: fewer digits are written
	case "FP16":
		tolerance = 1.0 / 2048
	case "BF16":
		tolerance = 1.0 / 256
	}
	return o.array.nest(), tolerance
}

// TestCases predicts every case of testdata through the catalogue, both forms
// of the JSON codec and ONNX Runtime, and compares with what Python's
// onnxruntime computed.
func TestCases(t *testing.T) {
	h := newHouse(t)
	files, err := filepath.Glob("../testdata/cases/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var f caseFile
		if err := json.Unmarshal(text, &f); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		t.Run(f.Model, func(t *testing.T) { runCases(t, h, &f) })
	}
}

func runCases(t *testing.T, h *house, f *caseFile) {
	v, err := h.publish(t.Context(), f.Model, f.File)
	if f.Model == "external" { // its client sends the weights within the file; here they are missing
		if r := (*models.Rejected)(nil); !errors.As(err, &r) || r.Code != "external_data" {
			t.Fatalf("weights in another file: got %v, want a refusal", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if v.Facts.Trial != "ran" && v.Facts.Trial != "inconclusive" {
		t.Errorf("trial %q", v.Facts.Trial)
	}
	for _, c := range f.Cases {
		var flat, nested []string
		open := true // whether nesting tells the shape
		for name, a := range c.Inputs {
			flat = append(flat, fmt.Sprintf("%q:%s", name, a.flat()))
			nested = append(nested, fmt.Sprintf("%q:%s", name, a.nest()))
			for i, d := range a.Shape {
				open = open && (d != 0 || i == len(a.Shape)-1 || v.Signature.Inputs[v.Signature.Input(name)].Shape[i+1] >= 0)
			}
		}
		forms := [][]string{flat}
		if open {
			forms = append(forms, nested)
		}
		for _, inputs := range forms {
			got, err := h.predict(t.Context(), fmt.Sprintf(`{"model":%q,"inputs":{%s}}`, f.Model, strings.Join(inputs, ",")))
			if err != nil {
				t.Errorf("%s: %v", c.Name, err)
				continue
			}
			compareAnswer(t, c.Name, got, c.Outputs)
		}
	}
}

func compareAnswer(t *testing.T, name, got string, outputs map[string]output) {
	t.Helper()
	var answer struct {
		Outputs map[string]any `json:"outputs"`
	}
	if err := json.Unmarshal([]byte(got), &answer); err != nil {
		t.Errorf("%s: %v in %s", name, err, got)
		return
	}
	if len(answer.Outputs) != len(outputs) {
		t.Errorf("%s: %d outputs, want %d", name, len(answer.Outputs), len(outputs))
	}
	for key, o := range outputs {
		text, tolerance := o.want(t)
		var want any
		if err := json.Unmarshal([]byte(text), &want); err != nil {
			t.Fatal(err)
		}
		if !near(answer.Outputs[key], want, tolerance) {
			t.Errorf("%s: output %s is %v, want %v", name, key, answer.Outputs[key], want)
		}
	}
}

// near compares decoded JSON; numbers may differ by tolerance, absolutely or
// relative to their size.
func near(got, want any, tolerance float64) bool {
	switch want := want.(type) {
	case float64:
		f, ok := got.(float64)
		return ok && math.Abs(f-want) <= tolerance*max(1, math.Abs(want))
	case []any:
		list, ok := got.([]any)
		if !ok || len(list) != len(want) {
			return false
		}
		for i := range want {
			if !near(list[i], want[i], tolerance) {
				return false
			}
		}
		return true
	case map[string]any:
		object, ok := got.(map[string]any)
		if !ok || len(object) != len(want) {
			return false
		}
		for k := range want {
			if !near(object[k], want[k], tolerance) {
				return false
			}
		}
		return true
	}
	return reflect.DeepEqual(got, want)
}

func TestPublishAndDelete(t *testing.T) {
	h := newHouse(t)
	var refused *models.Rejected
	if _, err := h.publish(t.Context(), "broken", "hostile/type_mismatch.onnx"); !errors.As(err, &refused) || strings.Contains(refused.Detail, "onnxruntime/") {
		t.Errorf("a model that the runtime can't load: %v", err)
	}
	if _, err := h.publish(t.Context(), "pair", "two_io.onnx"); err != nil {
		t.Fatal(err)
	}
	body := `{"model":"pair","inputs":` + pair + `}`
	if _, err := h.predict(t.Context(), body); err != nil {
		t.Error(err)
	}
	if err := h.catalog.Delete(t.Context(), h.owner, "pair"); err != nil {
		t.Error(err)
	}
	if _, err := h.predict(t.Context(), body); !errors.Is(err, models.ErrClosed) {
		t.Errorf("a deleted model: %v", err)
	}
}

// With the real catalogue: new versions take over and old ones are deleted
// while requests pour in, and none of them fails.
func TestVersionsAreSwappedUnderLoad(t *testing.T) {
	h := newHouse(t)
	if _, err := h.publish(t.Context(), "pair", "two_io.onnx"); err != nil {
		t.Fatal(err)
	}
	stop, served := make(chan struct{}), make(chan struct{})
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			for {
				if _, err := h.predict(t.Context(), `{"model":"pair","inputs":`+pair+`}`); err != nil {
					t.Error(err)
					return
				}
				select {
				case <-stop:
					return
				case served <- struct{}{}:
				}
			}
		})
	}
	for number := 2; number < 8; number++ {
		<-served
		if _, err := h.publish(t.Context(), "pair", "two_io.onnx"); err != nil {
			t.Error(err)
		}
		if _, err := h.catalog.Update(t.Context(), h.owner, "pair", models.Patch{DefaultVersion: &number}); err != nil {
			t.Error(err)
		}
		if err := h.catalog.DeleteVersion(t.Context(), h.owner, "pair", number-1); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	callers.Wait()
}

// A run that never ends by itself is ended, and its file refused.
func TestATrialThatNeverEnds(t *testing.T) {
	h := newHouse(t)
	file, err := os.ReadFile("../testdata/hostile/endless_loop.onnx")
	if err != nil {
		t.Fatal(err)
	}
	hasty := inference.New(inference.Config{Engine: h.engine, Catalog: h.catalog, Memory: h.mem, Timeout: 50 * time.Millisecond})
	var refused *models.Rejected
	if _, err := hasty.Try(t.Context(), file); !errors.As(err, &refused) || refused.Code != "run_timeout" {
		t.Errorf("got %v", err)
	}
	if err := hasty.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// Strings go through the runtime as they are, zero bytes included.
func TestStringsAreKeptWhole(t *testing.T) {
	h := newHouse(t)
	v, err := h.publish(t.Context(), "types", "types.onnx")
	if err != nil {
		t.Fatal(err)
	}
	var inputs []string
	text := ""
	for i := range v.Signature.Inputs {
		spec := &v.Signature.Inputs[i]
		value := "1"
		switch spec.Type {
		case models.String:
			text, value = spec.Name, `"a\u0000b\ud83d\ude00"`
		case models.Bool:
			value = "true"
		}
		n := 1
		shape := make([]string, len(spec.Shape))
		for k, d := range spec.Shape {
			n *= int(max(d, 1))
			shape[k] = strconv.FormatInt(max(d, 1), 10)
		}
		inputs = append(inputs, fmt.Sprintf(`%q:{"shape":[%s],"data":[%s]}`, spec.Name, strings.Join(shape, ","),
			strings.TrimSuffix(strings.Repeat(value+",", n), ",")))
	}
	got, err := h.predict(t.Context(), `{"model":"types","inputs":{`+strings.Join(inputs, ",")+`}}`)
	if err != nil || text == "" || !strings.Contains(got, `"a\u0000b😀"`) {
		t.Errorf("%s, %v", got, err)
	}
}

// BenchmarkPredict is a tiny prediction from body to answer, without HTTP.
func BenchmarkPredict(b *testing.B) {
	h := newHouse(b)
	if _, err := h.publish(b.Context(), "iris", "iris.onnx"); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h.predict(b.Context(), `{"model":"iris","inputs":{"X":[[5.1,3.5,1.4,0.2]]}}`); err != nil {
			b.Fatal(err)
		}
	}
}
