// Package importtest states which room of the program may import which, and finds the files that break it.
//
// The rules are those of docs/architecture.md: imports point one way, the concrete store is known to cmd alone, and each
// heavy dependency (gin, the model runtime, the database) has one home. The package reads source files and nothing else:
// it must not import any room, and no program code may import it.
package importtest

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// module is the import path of the repository's root.
const module = "modelgate"

// rooms names every permitted top-level folder, with the rooms that its program code (not its tests) may import. A room
// may always import itself.
var rooms = map[string][]string{
	"cmd":       {"api", "inference", "models", "auth", "audit", "store", "client", "testdata"},
	"api":       {"inference", "models", "auth", "audit"},
	"inference": {"models", "auth", "audit"},
	"models":    {"auth", "audit"},
	"auth":      {"audit"},
	"audit":     {},
	"store":     {"models", "auth", "audit"},
	"client":    {},
	"bench":     {"api", "inference", "models", "auth", "audit", "client", "testdata"},
	"testdata":  {},
	"internal":  {},
	"deploy":    {},
	"docs":      {},
}

// forTests names the rooms that the tests of any room may import besides: real stores instead of mocks, the client to
// drive a real server, the sample models.
var forTests = []string{"store", "client", "testdata"}

// home is the one folder that may import a dependency, in tests as well. The import path "C" is cgo.
var home = map[string]string{
	"C":                               "inference/ort",
	"github.com/yalue/onnxruntime_go": "inference/ort",
	"github.com/gin-gonic/gin":        "api",
	"github.com/gin-contrib":          "api",
	"database/sql":                    "store",
	"modernc.org/sqlite":              "store",
	"github.com/pressly/goose":        "store",
	"github.com/redis":                "store",
}

// engines run models. The program code that may import one is its wiring, and the benchmark of the floor under it. Even
// inference/worker is given the runtime, so that nothing but a worker process opens it there.
var engines = map[string][]string{
	"inference/ort":    {"cmd", "bench"},
	"inference/worker": {"cmd"},
}

// vague are folder names that say nothing of what is inside.
var vague = []string{"utils", "common", "helpers", "pkg", "types"}

// made are the folders at the top that building and running leave behind; git ignores them.
var made = []string{"bin", "data", "dist"}

// Check reads every Go file below the root of a source tree, whatever its build constraints, and returns one line per
// broken rule, sorted by path. A file that does not parse is an error.
func Check(tree fs.FS) ([]string, error) {
	var broken []string
	err := fs.WalkDir(tree, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case name == ".":
			return nil
		case entry.IsDir():
			if skipped(name) {
				return fs.SkipDir
			}
			broken = append(broken, checkFolder(name)...)
			return nil
		case path.Ext(name) != ".go":
			return nil
		}
		found, err := checkFile(tree, name)
		broken = append(broken, found...)
		return err
	})
	return broken, err
}

// skipped tells the folders that hold no source of the program: hidden ones, build results, and the testdata folders
// below the top, which the go command leaves out as well.
func skipped(folder string) bool {
	base := path.Base(folder)
	return strings.HasPrefix(base, ".") || slices.Contains(made, folder) || base == "testdata" && folder != base ||
		base == "node_modules"
}

func checkFolder(folder string) []string {
	var broken []string
	if _, known := rooms[folder]; !known && !strings.Contains(folder, "/") {
		broken = append(broken, folder+": is not one of the permitted top-level folders")
	}
	if slices.Contains(vague, path.Base(folder)) {
		broken = append(broken, folder+": the name says nothing; name the folder after what it is for")
	}
	if path.Dir(folder) == "internal" && path.Base(folder) != "importtest" {
		broken = append(broken, folder+": internal holds importtest alone")
	}
	return broken
}

func checkFile(tree fs.FS, name string) ([]string, error) {
	source, err := fs.ReadFile(tree, name)
	if err != nil {
		return nil, err
	}
	file, err := parser.ParseFile(token.NewFileSet(), name, source, parser.ImportsOnly)
	if err != nil {
		return nil, err
	}
	folder := path.Dir(name)
	if folder == "." {
		return []string{name + ": Go files live in a room, not at the top"}, nil
	}
	var broken []string
	for _, spec := range file.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, fmt.Errorf("%s: import %s: %w", name, spec.Path.Value, err)
		}
		if why := refusal(folder, strings.HasSuffix(name, "_test.go"), imported); why != "" {
			broken = append(broken, fmt.Sprintf("%s: imports %s: %s", name, imported, why))
		}
	}
	return broken, nil
}

// refusal tells why a file of the folder must not import a package, or "".
func refusal(folder string, test bool, imported string) string {
	for dependency, only := range home {
		if within(imported, dependency) && !within(folder, only) {
			return "only " + only + " may"
		}
	}
	if !within(imported, module) {
		return ""
	}
	target := strings.TrimPrefix(strings.TrimPrefix(imported, module), "/")
	from, to := top(folder), top(target)
	support := testSupport(folder)
	if testSupport(target) && !test && !support {
		return "it is for tests alone"
	}
	for engine, users := range engines {
		if within(target, engine) && !within(folder, engine) && !test && !support && !slices.Contains(users, from) {
			return "only " + strings.Join(users, ", ") + " and tests may"
		}
	}
	switch {
	case from == to:
		return ""
	case slices.Contains(rooms[from], to):
		return ""
	case (test || support) && slices.Contains(forTests, to):
		return ""
	case test && from == "client" && to != "cmd":
		return "" // its tests talk to a real server
	case slices.Contains(rooms[to], from):
		return "imports point one way, " + to + " -> " + from
	}
	return from + " may not import " + to
}

// testSupport tells the packages that are written for tests though their files are not named so: storetest,
// inferencetest.
func testSupport(folder string) bool {
	return len(path.Base(folder)) > len("test") && strings.HasSuffix(path.Base(folder), "test")
}

// within tells whether a slash-separated path is the given one or below it.
func within(name, parent string) bool {
	return name == parent || strings.HasPrefix(name, parent+"/")
}

func top(folder string) string {
	first, _, _ := strings.Cut(folder, "/")
	return first
}
