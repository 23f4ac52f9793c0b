package importtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

const root = "../.."

// TestRules holds this repository to the rules.
func TestRules(t *testing.T) {
	if _, err := os.Stat(filepath.Join(root, "go.mod")); err != nil {
		t.Fatalf("the root of the repository is not where this test looks for it: %v", err)
	}
	broken, err := Check(os.DirFS(root))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range broken {
		t.Error(line)
	}
}

// TestNoOtherCgo looks through what the program links: a dependency that brings C code of its own is as much cgo as ours.
func TestNoOtherCgo(t *testing.T) {
	list := exec.Command("go", "list", "-deps", "-f",
		"{{if not .Standard}}{{if or .CgoFiles .SwigFiles}}{{.ImportPath}}{{end}}{{end}}", "./...")
	list.Dir = root
	out, err := list.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	permitted := []string{"github.com/yalue/onnxruntime_go", module + "/inference/ort"}
	for _, found := range strings.Fields(string(out)) {
		if !slices.Contains(permitted, found) {
			t.Errorf("%s uses cgo; only inference/ort and the binding to the model runtime may", found)
		}
	}
}

// TestCheck breaks each rule once in a made-up tree, beside imports that are allowed.
func TestCheck(t *testing.T) {
	source := func(imports ...string) string {
		return "package p\n\nimport (\n\t\"" + strings.Join(imports, "\"\n\t\"") + "\"\n)\n"
	}
	tests := []struct {
		name  string
		files map[string]string
		want  []string // what each broken rule's line starts with; none: the tree is in order
	}{
		{"downwards", map[string]string{
			"cmd/modelgate/main.go":   source("modelgate/api", "modelgate/store", "modelgate/client", "modelgate/inference/ort"),
			"api/server.go":           source("net/http", "modelgate/inference", "modelgate/auth", "github.com/gin-gonic/gin"),
			"inference/ort/engine.go": source("C", "modelgate/inference", "github.com/yalue/onnxruntime_go"),
			"store/open.go":           source("database/sql", "modelgate/auth", "modelgate/models", "modernc.org/sqlite"),
			"store/storetest/run.go":  source("testing", "modelgate/auth"),
			"auth/user.go":            source("modelgate/audit"),
		}, nil},
		{"upwards", map[string]string{
			"api/a.go":       source("modelgate/cmd/modelgate"),
			"inference/a.go": source("modelgate/api"),
			"models/a.go":    source("modelgate/inference"),
			"auth/a.go":      source("modelgate/models"),
			"audit/a.go":     source("modelgate/auth"),
			"store/a.go":     source("modelgate/inference"),
		}, []string{
			"api/a.go: imports modelgate/cmd/modelgate", "audit/a.go: imports modelgate/auth",
			"auth/a.go: imports modelgate/models", "inference/a.go: imports modelgate/api",
			"models/a.go: imports modelgate/inference", "store/a.go: imports modelgate/inference",
		}},
		{"skipping upwards", map[string]string{"audit/deep/a.go": source("modelgate/api/oipgrpc")},
			[]string{"audit/deep/a.go: imports modelgate/api/oipgrpc"}},
		{"upwards in a test", map[string]string{"auth/a_test.go": source("modelgate/models")},
			[]string{"auth/a_test.go: imports modelgate/models"}},
		{"upwards behind a build constraint", map[string]string{
			"auth/a.go": "//go:build never\n\n" + source("modelgate/models")},
			[]string{"auth/a.go: imports modelgate/models"}},
		{"the store known beyond cmd", map[string]string{"api/a.go": source("modelgate/store")},
			[]string{"api/a.go: imports modelgate/store"}},
		{"the store in benchmarks", map[string]string{
			"bench/a.go": source("modelgate/store"), "bench/a_test.go": source("modelgate/store")},
			[]string{"bench/a.go: imports modelgate/store"}},
		{"the store in tests", map[string]string{
			"api/a_test.go": source("modelgate/store"), "auth/a_test.go": source("modelgate/store/storetest")}, nil},
		{"test support in the program", map[string]string{"cmd/a.go": source("modelgate/inference/inferencetest")},
			[]string{"cmd/a.go: imports modelgate/inference/inferencetest: it is for tests alone"}},
		{"gin beyond api", map[string]string{"auth/a.go": source("github.com/gin-gonic/gin/binding")},
			[]string{"auth/a.go: imports github.com/gin-gonic/gin/binding: only api may"}},
		{"gin in a test beyond api", map[string]string{"cmd/a_test.go": source("github.com/gin-gonic/gin")},
			[]string{"cmd/a_test.go: imports github.com/gin-gonic/gin"}},
		{"cgo beyond inference/ort", map[string]string{"inference/a.go": source("C")},
			[]string{"inference/a.go: imports C: only inference/ort may"}},
		{"the binding beyond inference/ort", map[string]string{"inference/a.go": source("github.com/yalue/onnxruntime_go")},
			[]string{"inference/a.go: imports github.com/yalue/onnxruntime_go"}},
		{"engines beyond cmd", map[string]string{
			"api/a.go": source("modelgate/inference/ort"), "inference/a.go": source("modelgate/inference/worker"),
			"inference/worker/a.go": source("modelgate/inference/ort"), "inference/ort/a.go": source("modelgate/inference/worker"),
			"bench/a.go": source("modelgate/inference/worker")},
			[]string{"api/a.go: imports modelgate/inference/ort: only cmd, bench and tests", "bench/a.go: imports modelgate/inference/worker: only",
				"inference/a.go: imports modelgate/inference/worker: only", "inference/ort/a.go: imports modelgate/inference/worker: only",
				"inference/worker/a.go: imports modelgate/inference/ort: only"}},
		{"engines in tests", map[string]string{
			"inference/worker/a_test.go": source("modelgate/inference/ort"), "inference/a_test.go": source("modelgate/inference/ort"),
			"cmd/modelgate/a.go": source("modelgate/inference/worker", "modelgate/inference/ort"),
			"bench/a.go":         source("modelgate/inference/ort")}, nil},
		{"database/sql beyond store", map[string]string{"auth/a.go": source("database/sql"), "models/a.go": source("database/sql/driver")},
			[]string{"auth/a.go: imports database/sql: only store may", "models/a.go: imports database/sql/driver"}},
		{"a driver beyond store", map[string]string{"cmd/a.go": source("modernc.org/sqlite"), "api/a.go": source("github.com/pressly/goose/v3")},
			[]string{"api/a.go: imports github.com/pressly/goose/v3", "cmd/a.go: imports modernc.org/sqlite"}},
		{"a client with rooms", map[string]string{"client/a.go": source("modelgate/models"), "client/a_test.go": source("modelgate/api")},
			[]string{"client/a.go: imports modelgate/models"}},
		{"the client in a room", map[string]string{"api/a.go": source("modelgate/client")},
			[]string{"api/a.go: imports modelgate/client"}},
		{"vague folders", map[string]string{
			"api/utils/a.go": source("fmt"), "auth/common/a.go": source("fmt"), "models/helpers/a.go": source("fmt"),
			"inference/pkg/a.go": source("fmt"), "store/types/a.go": source("fmt")},
			[]string{"api/utils: ", "auth/common: ", "inference/pkg: ", "models/helpers: ", "store/types: "}},
		{"a folder at the top", map[string]string{"services/a.txt": "", "web/a.go": source("fmt")},
			[]string{"services: is not one", "web: is not one"}},
		{"folders that a build leaves", map[string]string{"bin/modelgate": "", "data/x": "", ".ci/run": ""}, nil},
		{"internal with more", map[string]string{"internal/importtest/a.go": source("fmt"), "internal/cache/a.go": source("fmt")},
			[]string{"internal/cache: internal holds importtest alone"}},
		{"the rules in the program", map[string]string{"api/a.go": source("modelgate/internal/importtest")},
			[]string{"api/a.go: imports modelgate/internal/importtest"}},
		{"a Go file at the top", map[string]string{"main.go": source("fmt")}, []string{"main.go: Go files live in a room"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			tree := fstest.MapFS{}
			for name, text := range test.files {
				tree[name] = &fstest.MapFile{Data: []byte(text)}
			}
			got, err := Check(tree)
			if err != nil {
				t.Fatal(err)
			}
			matches := slices.EqualFunc(got, test.want, strings.HasPrefix)
			if !matches {
				t.Errorf("broken rules:\n  %s\nwant lines that start with:\n  %s",
					strings.Join(got, "\n  "), strings.Join(test.want, "\n  "))
			}
		})
	}
}

// TestCheckUnreadable proves that a file that is no Go is reported rather than passed over.
func TestCheckUnreadable(t *testing.T) {
	tree := fstest.MapFS{"api/a.go": &fstest.MapFile{Data: []byte("pakcage api")}}
	if _, err := Check(tree); err == nil {
		t.Error("a file that does not parse passed")
	}
}
