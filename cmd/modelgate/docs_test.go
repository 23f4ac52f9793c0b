package main

import (
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/goccy/go-yaml"
)

// The documents say what the program does, so they are held to it: what can be
// compared with the code is compared here, and the examples are run in
// examples_test.go.

const root = "../.."

func readDoc(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// table returns the cells of the rows of every table in text whose header row
// begins with these cells.
func table(t *testing.T, text string, header ...string) [][]string {
	t.Helper()
	var rows [][]string
	inside := false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			inside = false
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		switch {
		case len(cells) >= len(header) && slices.Equal(cells[:len(header)], header):
			inside = true
		case inside && strings.Trim(cells[0], "-:") != "":
			rows = append(rows, cells)
		}
	}
	if len(rows) == 0 {
		t.Fatalf("there is no table that begins with %v", header)
	}
	return rows
}

func unquote(cell string) string { return strings.Trim(cell, "`") }

// TestOperationsListsEverySetting compares the table of settings with Config,
// both ways.
func TestOperationsListsEverySetting(t *testing.T) {
	rows := map[string][]string{}
	for _, cells := range table(t, readDoc(t, "docs/operations.md"), "Key", "Variable", "Default") {
		rows[unquote(cells[0])] = cells
	}
	fields := reflect.TypeFor[Config]()
	for i, s := range (&Config{}).Settings() {
		cells, ok := rows[s.Key]
		if !ok {
			t.Errorf("the setting %s is missing", s.Key)
			continue
		}
		delete(rows, s.Key)
		if got := unquote(cells[1]); got != s.Env {
			t.Errorf("%s: the variable is %s, documented is %s", s.Key, s.Env, got)
		}
		want := fields.Field(i).Tag.Get("default")
		if want == "" && fields.Field(i).Type.Kind() == reflect.Bool {
			want = "false"
		}
		if got := unquote(cells[2]); got != want {
			t.Errorf("%s: the default is %q, documented is %q", s.Key, want, got)
		}
		if len(cells) != 4 || len(cells[3]) < 15 {
			t.Errorf("%s: what it means is missing", s.Key)
		}
	}
	for key := range rows {
		t.Errorf("%s is documented but no setting", key)
	}
}

// requirements are the rows that docs/security.md answers for.
var requirements = strings.Fields(`A1 A2 A3 A4 A5 A6 A7 A8 A9 A10 A11 A12 A13
	T1 T2 T3 T4 T5 T6 T7 T8 T10 T12 T13 T14 T15 O2 O3 O4 O5 O6 O7 O8 O9 O10 O11 I1 I2 I3 I4 I5 I6 I7 I8 I9 I10 I11 Z1 Z2 Z3 Z4 Z5 Z6
	L1 L2 L3 L4 L5 L6 H1 H2 H3 H4 H5 H6 H7 H9 H10 G1 G2 G3 G4 G5 G6 G7 M1 M2 M3 M4 M5 M6 M7 P1 P2 P3`)

// TestSecurityTableNamesRealTests fails when a requirement is missing, when
// one is called held without a test, and when a test that is named is gone.
func TestSecurityTableNamesRealTests(t *testing.T) {
	named := regexp.MustCompile("`([a-z/]+)\\.((?:Test|Fuzz)[A-Za-z0-9_]*)`")
	tests := map[string]map[string]bool{}
	var seen []string
	for _, cells := range table(t, readDoc(t, "docs/security.md"), "Id", "State") {
		if len(cells) != 4 {
			t.Errorf("%v: want the cells id, state, requirement, tests", cells)
			continue
		}
		id, state := cells[0], cells[1]
		seen = append(seen, id)
		found := named.FindAllStringSubmatch(cells[3], -1)
		if state != "held" && state != "partly" && state != "not yet" {
			t.Errorf("%s: the state %q is none of held, partly, not yet", id, state)
		}
		if (state == "not yet") != (len(found) == 0) {
			t.Errorf("%s is said to be %q with %d tests", id, state, len(found))
		}
		if strings.Count(cells[3], "Test") != len(found)-strings.Count(cells[3], ".Fuzz") {
			t.Errorf("%s: %q names a test in another form than `package.TestName`", id, cells[3])
		}
		for _, f := range found {
			if tests[f[1]] == nil {
				tests[f[1]] = testsOf(t, f[1])
			}
			if !tests[f[1]][f[2]] {
				t.Errorf("%s names %s of package %s, which does not exist", id, f[2], f[1])
			}
		}
	}
	slices.Sort(seen)
	want := slices.Sorted(slices.Values(requirements))
	if !slices.Equal(seen, want) {
		t.Errorf("the rows are\n%v, want\n%v", seen, want)
	}
}

// testsOf lists the tests of a folder.
func testsOf(t *testing.T, folder string) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	files, err := filepath.Glob(filepath.Join(root, folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(\w+ \*testing\.[TF]\)`)
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range function.FindAllStringSubmatch(string(data), -1) {
			found[m[1]] = true
		}
	}
	return found
}

// sources reads the program's own Go files below a folder, tests apart.
func sources(t *testing.T, folder string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(filepath.Join(root, folder), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		data, err := os.ReadFile(path)
		all.Write(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

func difference(t *testing.T, what string, documented, real []string) {
	t.Helper()
	for _, name := range real {
		if !slices.Contains(documented, name) {
			t.Errorf("%s %s is not documented", what, name)
		}
	}
	for _, name := range documented {
		if !slices.Contains(real, name) {
			t.Errorf("%s %s is documented but does not exist", what, name)
		}
	}
}

// TestOperationsListsEveryMetric compares the list of metrics with the names
// in the code.
func TestOperationsListsEveryMetric(t *testing.T) {
	var real []string
	name := regexp.MustCompile(`"(modelgate_[a-z_]+)"`)
	for _, folder := range []string{"api", "auth", "audit", "models", "inference", "store", "cmd"} {
		for _, m := range name.FindAllStringSubmatch(sources(t, folder), -1) {
			real = append(real, m[1])
		}
	}
	for _, m := range regexp.MustCompile(`(?:histogram|counter|gauge)\("([a-z_]+)", "`).FindAllStringSubmatch(sources(t, "inference"), -1) {
		real = append(real, "modelgate_inference_"+m[1])
	}
	var documented []string
	for _, cells := range table(t, readDoc(t, "docs/operations.md"), "Metric") {
		documented = append(documented, unquote(cells[0]))
	}
	difference(t, "the metric", documented, real)
	alerts := readDoc(t, "deploy/alerts.yaml")
	var rules any
	if err := yaml.Unmarshal([]byte(alerts), &rules); err != nil {
		t.Errorf("deploy/alerts.yaml: %v", err)
	}
	used := regexp.MustCompile(`modelgate_[a-z_]+`).FindAllString(alerts, -1)
	for _, name := range used {
		if !slices.Contains(real, name) {
			t.Errorf("deploy/alerts.yaml looks at %s, which is no metric", name)
		}
	}
	if len(used) < 8 {
		t.Errorf("deploy/alerts.yaml looks at %d metrics", len(used))
	}
}

// TestOperationsListsEveryAction compares the table of the audit log's actions
// with the names in the code.
func TestOperationsListsEveryAction(t *testing.T) {
	action := regexp.MustCompile(`["\x60]((?:audit|client|identity|key|metrics|model|recovery_codes|role|secret|signing_key|token|totp|user)\.[a-z_]+)["\x60]`)
	var real, documented []string
	for _, folder := range []string{"api", "auth", "audit", "models"} {
		for _, m := range action.FindAllStringSubmatch(sources(t, folder), -1) {
			real = append(real, m[1])
		}
	}
	for _, cells := range table(t, readDoc(t, "docs/operations.md"), "Actions") {
		for _, m := range action.FindAllStringSubmatch(cells[0], -1) {
			documented = append(documented, m[1])
		}
	}
	difference(t, "the action", documented, real)
}

// TestAPIListsEveryCode compares the tables of error codes with the api's own
// table and with the codes of refused files.
func TestAPIListsEveryCode(t *testing.T) {
	doc := readDoc(t, "docs/api.md")
	outcome := regexp.MustCompile(`(?m)^\t"(\w+)":\s+\{http\.Status(\w+), "\w+",`)
	statuses := map[string]string{}
	for code := 400; code < 600; code++ {
		statuses[strings.ReplaceAll(http.StatusText(code), " ", "")] = strconv.Itoa(code)
	}
	real := map[string]string{}
	for _, m := range outcome.FindAllStringSubmatch(sources(t, "api"), -1) {
		real[m[1]] = statuses[m[2]]
	}
	documented := map[string]string{}
	for _, cells := range table(t, doc, "Code", "Status") {
		documented[unquote(cells[0])] = cells[1]
	}
	difference(t, "the code", slices.Collect(maps.Keys(documented)), slices.Collect(maps.Keys(real)))
	for code, status := range real {
		if documented[code] != "" && documented[code] != status {
			t.Errorf("the status of %s is %s, documented is %s", code, status, documented[code])
		}
	}

	var refusals []string
	for _, m := range regexp.MustCompile(`refuse\("(\w+)"|Rejected\{\s*Code:\s*"(\w+)"`).FindAllStringSubmatch(sources(t, "models")+sources(t, "inference"), -1) {
		refusals = append(refusals, m[1]+m[2])
	}
	documentedRefusals := []string{}
	for _, cells := range table(t, doc, "Refusal") {
		documentedRefusals = append(documentedRefusals, unquote(cells[0]))
	}
	difference(t, "the refusal", documentedRefusals, refusals)
}

// documents are all that people read, by path.
func documents(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md", "testdata/*.md"} {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			name, err := filepath.Rel(root, file)
			if err != nil {
				t.Fatal(err)
			}
			found[name] = readDoc(t, name)
		}
	}
	return found
}

// TestLinks follows every link between documents, headings included, and looks
// for every file of the tree that a document names.
func TestLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	file := regexp.MustCompile("`((?:api|audit|auth|bench|client|cmd|deploy|docs|inference|internal|models|store|testdata)/[A-Za-z0-9_./-]+\\.[a-z0-9]+|[A-Z]+\\.md|Makefile|Dockerfile)`")
	docs := documents(t)
	for name, text := range docs {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			path := filepath.Join(filepath.Dir(name), target)
			if target == "" {
				path = name
			}
			if _, err := os.Stat(filepath.Join(root, path)); err != nil {
				t.Errorf("%s: the link %s leads nowhere", name, m[1])
			}
			if anchor != "" && !slices.Contains(anchors(docs[path]), anchor) {
				t.Errorf("%s: the link %s: %s has no such heading", name, m[1], path)
			}
		}
		for _, m := range file.FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join(root, m[1])); err != nil {
				t.Errorf("%s names the file %s, which does not exist", name, m[1])
			}
		}
	}
}

// anchors are the headings of a document as links name them.
func anchors(text string) []string {
	var list []string
	fenced := false
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "```") {
			fenced = !fenced
		}
		heading, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " ")
		if fenced || !ok || !strings.HasPrefix(line, "#") {
			continue
		}
		list = append(list, strings.Map(func(r rune) rune {
			switch {
			case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
				return unicode.ToLower(r)
			case r == ' ':
				return '-'
			}
			return -1
		}, strings.TrimSpace(heading)))
	}
	return list
}

// TestDocumentsAreReadable bounds the lines of prose and code; tables may be
// as wide as they need.
func TestDocumentsAreReadable(t *testing.T) {
	for name, text := range documents(t) {
		if !strings.HasPrefix(name, "docs") && name != "README.md" {
			continue
		}
		n := 0
		for line := range strings.Lines(text) {
			n++
			if len([]rune(strings.TrimRight(line, "\n"))) > 125 && !strings.HasPrefix(line, "|") && !strings.Contains(line, "](") {
				t.Error(fmt.Sprintf("%s:%d", name, n), "is longer than 125 characters")
			}
		}
	}
}
