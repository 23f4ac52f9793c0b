package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"modelgate/client"
)

// TestScripts runs the command line as a person would. `server` starts a real
// server for the script, with its address in $URL and its data in $DATA.
func TestScripts(t *testing.T) {
	models, err := filepath.Abs(filepath.Join("..", "..", "testdata"))
	if err != nil {
		t.Fatal(err)
	}
	needRuntime(t)
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		Setup: func(env *testscript.Env) error {
			home := filepath.Join(env.WorkDir, "home")
			for _, kv := range [][2]string{
				{"HOME", home}, {"XDG_CONFIG_HOME", filepath.Join(home, ".config")}, {"MODELS", models},
				{"PASSWORD", adminPassword}, {"MODELGATE_ONNXRUNTIME_LIB", os.Getenv("MODELGATE_ONNXRUNTIME_LIB")},
				{"XDG_CACHE_HOME", os.Getenv("XDG_CACHE_HOME")},
			} {
				if kv[1] != "" {
					env.Setenv(kv[0], kv[1])
				}
			}
			return os.MkdirAll(home, 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"server": func(ts *testscript.TestScript, _ bool, args []string) {
				data := ts.MkAbs("data")
				p, err := launch(data, ts.MkAbs("home"), args...)
				ts.Check(err)
				ts.Setenv("URL", p.url)
				ts.Setenv("DATA", data)
				ts.Defer(p.kill)
				ts.Defer(func() { ts.Check(os.WriteFile(ts.MkAbs("server.log"), []byte(p.output()), 0o600)) })
			},
			// accept INVITATION makes the account, with the password of the others.
			"accept": func(ts *testscript.TestScript, _ bool, args []string) {
				c, err := client.New(ts.Getenv("URL"))
				ts.Check(err)
				_, err = c.Accept(context.Background(), args[0], adminPassword)
				ts.Check(err)
			},
			// keep VAR REGEXP sets a variable to the first group found in stdout.
			"keep": func(ts *testscript.TestScript, _ bool, args []string) {
				for line := range strings.Lines(ts.ReadFile("stdout")) {
					if _, rest, ok := strings.Cut(line, args[1]); ok {
						ts.Setenv(args[0], strings.Trim(strings.TrimSpace(rest), `",`))
						return
					}
				}
				ts.Fatalf("no %q in the output", args[1])
			},
		},
	})
}
