package models

// Limits bound what the static check accepts. Zero fields mean the defaults.
type Limits struct {
	Size  int64
	Nodes int
}

// Verify checks a file without running it.
func Verify(file []byte, limits Limits) (Graph, Facts, error) { return Graph{}, Facts{}, nil }
