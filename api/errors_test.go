package api

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// codesOfRooms reads the codes of the errors that the rooms below declare, from
// their source: a new one must not become an internal error unnoticed.
func codesOfRooms(t *testing.T) map[string]string {
	t.Helper()
	codes := map[string]string{}
	for _, room := range []string{"auth", "models", "inference"} {
		files, err := filepath.Glob(filepath.Join("..", room, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("no source of %s: %v", room, err)
		}
		for _, name := range files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(n ast.Node) bool {
				literal, ok := n.(*ast.CompositeLit)
				if !ok {
					return true
				}
				if kind, ok := literal.Type.(*ast.Ident); !ok || kind.Name != "Error" {
					return true
				}
				for _, element := range literal.Elts {
					pair, ok := element.(*ast.KeyValueExpr)
					if !ok {
						continue
					}
					value, ok := pair.Value.(*ast.BasicLit)
					if key, _ := pair.Key.(*ast.Ident); ok && key != nil && key.Name == "Code" {
						if code, err := strconv.Unquote(value.Value); err == nil {
							codes[code] = name
						}
					}
				}
				return true
			})
		}
	}
	if len(codes) < 15 {
		t.Fatalf("only %d codes found; has the way of declaring them changed?", len(codes))
	}
	return codes
}
