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
	"strconv"
	"strings"
	"sync"
	"testing"
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
	os.Exit(code)
}

// unreached lists the calls of refuse in the source whose sentence no test met.
func unreached() (missing []string, err error) {
	paths, err := filepath.Glob("*.go")
	if err != nil {
		return nil, err
	}
	set := token.NewFileSet()
	calls := 0
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(set, path, nil, 0)
		if err != nil {
			return nil, err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) < 2 {
				return true
			}
			if name, ok := call.Fun.(*ast.Ident); !ok || name.Name != "refuse" {
				return true
			}
			calls++
			if sentence := pattern(call); !reached.match(sentence) {
				missing = append(missing, fmt.Sprintf("%s: %s", set.Position(call.Pos()), sentence))
			}
			return true
		})
	}
	if calls < 60 {
		missing = append(missing, fmt.Sprintf("more than %d calls of refuse in the source; this test no longer finds them", calls))
	}
	return missing, nil
}

// pattern is the regular expression of what a call of refuse says.
func pattern(call *ast.CallExpr) string {
	text := func(e ast.Expr) string {
		if lit, ok := e.(*ast.BasicLit); ok {
			if s, err := strconv.Unquote(lit.Value); err == nil {
				return s
			}
		}
		return "never said"
	}
	sentence := regexp.QuoteMeta(text(call.Args[0]) + ": " + text(call.Args[1]))
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
