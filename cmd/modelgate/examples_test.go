package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// block is a fenced block of a document.
type block struct {
	kind string // sh, python, go: run; json, text: what the one before prints; others are for reading only
	text string
	line int
}

// exampleURL is the server of the documents' examples.
const exampleURL = "http://127.0.0.1:8080"

// blocks finds the fenced blocks of a document.
func blocks(text string) []block {
	var list []block
	var open *block
	n := 0
	for line := range strings.Lines(text) {
		n++
		kind, fence := strings.CutPrefix(line, "```")
		switch {
		case fence && open == nil:
			open = &block{kind: strings.TrimSpace(kind), line: n}
		case fence:
			list = append(list, *open)
			open = nil
		case open != nil:
			open.text += line
		}
	}
	return list
}

// TestExamples runs the examples of the documents, in their order, against the
// real program with the sample models, and compares what they print with what
// the documents say. "..." there stands for anything.
func TestExamples(t *testing.T) {
	for _, name := range []string{"README.md", "docs/api.md", "docs/operations.md"} {
		t.Run(strings.ReplaceAll(name, "/", "-"), func(t *testing.T) {
			examples(t, name)
		})
	}
}

func examples(t *testing.T, name string) {
	for _, tool := range []string{"sh", "curl", "python3", "go"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("the examples need %s, which is not here", tool)
		}
	}
	// Not the temporary folder itself: an example makes a folder beside the tree.
	folder := filepath.Join(t.TempDir(), "modelgate")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	p := start(t, filepath.Join(folder, "data"), "MODELGATE_DEMO=true")
	// Examples are typed in the root of the tree. What they write must not go there.
	for _, below := range []string{"testdata", "client", "go.mod", "go.sum"} {
		real, err := filepath.Abs(filepath.Join(root, below))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(real, filepath.Join(folder, below)); err != nil {
			t.Fatal(err)
		}
	}
	program, err := exec.LookPath("modelgate")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(folder, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(program, filepath.Join(folder, "bin", "modelgate")); err != nil {
		t.Fatal(err)
	}
	list := blocks(readDoc(t, name))
	outputs := runExamples(t, p, folder, list)
	for i, b := range list {
		if b.kind != "json" && b.kind != "text" {
			continue
		}
		if i == 0 || !runnable(list[i-1].kind) {
			t.Errorf("%s:%d: this is said to be printed, but no command stands before it", name, b.line)
			continue
		}
		got, want := outputs[i-1], strings.ReplaceAll(b.text, exampleURL, p.url)
		if problem := compare(b.kind, got, want); problem != "" {
			t.Errorf("%s:%d: %s\nprinted:\n%s\ndocumented:\n%s", name, b.line, problem, got, want)
		}
	}
}

func runnable(kind string) bool { return kind == "sh" || kind == "python" || kind == "go" }

// runExamples runs all blocks in one shell, so that variables go from one to
// the next, and returns what each printed.
func runExamples(t *testing.T, p *program, folder string, list []block) map[int]string {
	t.Helper()
	const end = "---- end of block %d ----"
	var script strings.Builder
	script.WriteString("set -eu\n")
	for i, b := range list {
		text := strings.ReplaceAll(b.text, exampleURL, p.url)
		switch b.kind {
		case "sh":
			// What a person types at a prompt.
			text = strings.ReplaceAll(text, "--username admin\n", "--username admin --password-stdin <password\n")
			text = strings.ReplaceAll(text, "'the password that was printed'", "'"+adminPassword+"'")
			text = strings.ReplaceAll(text, "bin/modelgate password ", "bin/modelgate password --password-stdin <passwords ")
			text = strings.ReplaceAll(text, `--token "$INVITATION"`, `--token "$INVITATION" --password-stdin <password`)
			// And what he copies from the screen.
			text = strings.ReplaceAll(text, "user add rosalind --role botanists", "user add rosalind --role botanists | tee printed")
			text = strings.ReplaceAll(text, "'the invitation that was printed'", `"$(sed -n 's/^Invitation *//p' printed)"`)
			script.WriteString(text)
		case "python":
			fmt.Fprintf(&script, "cat >example.py <<'EOF'\n%sEOF\npython3 example.py\n", text)
		case "go":
			fmt.Fprintf(&script, "cat >main.go <<'EOF'\n%sEOF\ngo run .\n", text)
		default:
			continue
		}
		fmt.Fprintf(&script, "printf '\\n"+end+"\\n'\n", i)
	}
	if err := os.WriteFile(filepath.Join(folder, "password"), []byte(adminPassword+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "passwords"), []byte(adminPassword+"\nnine quiet green boats\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", script.String())
	cmd.Dir = folder
	cmd.Env = append(os.Environ(), "HOME="+folder, "XDG_CONFIG_HOME="+filepath.Join(folder, "config"), "GOFLAGS=", "GOWORK=off")
	for _, kept := range []string{"GOMODCACHE", "GOCACHE"} { // their defaults follow HOME
		value, err := exec.Command("go", "env", kept).Output()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Env = append(cmd.Env, kept+"="+strings.TrimSpace(string(value)))
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	failed := cmd.Run()
	outputs := map[int]string{}
	rest := stdout.String()
	for i, b := range list {
		if !runnable(b.kind) {
			continue
		}
		printed, after, done := strings.Cut(rest, fmt.Sprintf("\n"+end+"\n", i))
		if !done {
			t.Fatalf("line %d: the example fails: %v\n%s\n%s\n%s", b.line, failed, b.text, rest, stderr.String())
		}
		outputs[i], rest = printed, after
	}
	return outputs
}

const anything = "..."

// compare returns what is wrong with what was printed.
func compare(kind, got, want string) string {
	if kind == "text" {
		var pattern strings.Builder
		for i, part := range strings.Split(strings.TrimSpace(want), anything) {
			if i > 0 {
				pattern.WriteString(`[\s\S]*?`)
			}
			// Columns and line ends are for people.
			for k, word := range strings.Fields(part) {
				if k > 0 {
					pattern.WriteString(`\s+`)
				} else if i > 0 || strings.IndexAny(part, " \n") == 0 {
					pattern.WriteString(`\s*`)
				}
				pattern.WriteString(regexp.QuoteMeta(word))
			}
			pattern.WriteString(`\s*`)
		}
		if !regexp.MustCompile(`^\s*` + pattern.String() + `$`).MatchString(got) {
			return "the text is another"
		}
		return ""
	}
	var g, w any
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		return "what is documented is no JSON: " + err.Error()
	}
	if err := json.Unmarshal([]byte(got), &g); err != nil {
		return "what is printed is no JSON: " + err.Error()
	}
	return differ("", g, w)
}

// differ names the first place where got is not what want says.
func differ(at string, got, want any) string {
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			return at + " is no object"
		}
		_, more := w[anything]
		for key := range g {
			if _, known := w[key]; !known && !more {
				return at + "." + key + " is not documented"
			}
		}
		for key, value := range w {
			if key == anything {
				continue
			}
			if _, there := g[key]; !there {
				return at + "." + key + " is missing"
			}
			if problem := differ(at+"."+key, g[key], value); problem != "" {
				return problem
			}
		}
		return ""
	case []any:
		g, ok := got.([]any)
		more := len(w) > 0 && w[len(w)-1] == anything
		if more {
			w = w[:len(w)-1]
		}
		if !ok || len(g) < len(w) || !more && len(g) != len(w) {
			return at + " is no list of that length"
		}
		for i := range w {
			if problem := differ(fmt.Sprintf("%s[%d]", at, i), g[i], w[i]); problem != "" {
				return problem
			}
		}
		return ""
	case float64:
		if g, ok := got.(float64); ok && math.Abs(g-w) <= 1e-5*max(1, math.Abs(w)) {
			return ""
		}
	case string:
		if w == anything {
			return ""
		}
		g, ok := got.(string)
		if ok && compare("text", g, w) == "" {
			return ""
		}
	default:
		if got == want {
			return ""
		}
	}
	return fmt.Sprintf("%s is %v, documented is %v", at, got, want)
}
