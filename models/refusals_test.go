package models

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

// reached are the refusals that the tests of this package have met.
var reached refusals

type refusals struct {
	mu   sync.Mutex
	seen map[string]bool // guarded by mu
}

func (r *refusals) add(e *Rejected) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen == nil {
		r.seen = map[string]bool{}
	}
	r.seen[e.Code+": "+e.Detail] = true
}

// TestMain runs the tests and then, if all of them ran, fails when one of the
// refusals in the source was met by none.
func TestMain(m *testing.M) {
	code := m.Run()
	whole := true
	for _, name := range []string{"test.run", "test.skip", "test.list", "test.fuzz"} {
		whole = whole && flag.Lookup(name).Value.String() == ""
	}
	if code == 0 && whole {
		missing, err := unreached()
		if err != nil {
			missing = []string{err.Error()}
		}
		for _, line := range missing {
			fmt.Fprintln(os.Stderr, "no test reaches", line)
			code = 1
		}
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, "goroutines are left:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// unreached lists the calls of refuse in the source whose sentence no test met.
func unreached() (missing []string, err error) {
	calls, err := refuseCalls("*.go")
	for _, call := range calls {
		if !reached.match(pattern(call.CallExpr)) {
			missing = append(missing, fmt.Sprintf("%s: %s", call.at, pattern(call.CallExpr)))
		}
	}
	return missing, err
}

// codesOf lists the codes that the calls of refuse in the files have.
func codesOf(t *testing.T, patterns ...string) (codes []string) {
	t.Helper()
	for _, pattern := range patterns {
		calls, err := refuseCalls(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, call := range calls {
			codes = append(codes, literal(call.Args[0]))
		}
	}
	slices.Sort(codes)
	return slices.Compact(codes)
}

// refuseCall is a call of refuse in the source.
type refuseCall struct {
	*ast.CallExpr
	at token.Position
}

func refuseCalls(pattern string) (calls []refuseCall, err error) {
	paths, err := filepath.Glob(pattern)
	if err != nil {
		return nil, err
	}
	set := token.NewFileSet()
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(set, path, nil, 0)
		if err != nil {
			return nil, err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok && len(call.Args) > 1 {
				if name, ok := call.Fun.(*ast.Ident); ok && name.Name == "refuse" {
					calls = append(calls, refuseCall{call, set.Position(call.Pos())})
				}
			}
			return true
		})
	}
	if len(calls) == 0 {
		return nil, fmt.Errorf("no call of refuse in %s", pattern)
	}
	return calls, nil
}

func literal(e ast.Expr) string {
	if lit, ok := e.(*ast.BasicLit); ok {
		if s, err := strconv.Unquote(lit.Value); err == nil {
			return s
		}
	}
	return "no literal"
}

// pattern is the regular expression of what a call of refuse says.
func pattern(call *ast.CallExpr) string {
	sentence := regexp.QuoteMeta(literal(call.Args[0]) + ": " + literal(call.Args[1]))
	return "^" + regexp.MustCompile(`%[sd]`).ReplaceAllString(sentence, "(?s:.*)") + "$"
}

func (r *refusals) match(pattern string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	re := regexp.MustCompile(pattern)
	for said := range r.seen {
		if re.MatchString(said) {
			return true
		}
	}
	return false
}
