package main

import (
	"fmt"
	"os"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"modelgate/client"
)

// TestIsolationIsTold starts the server in both ways: where models run, and what
// protects them there, is in the metrics, in the log, and what the kernel says.
func TestIsolationIsTold(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the sandbox is for Linux")
	}
	for _, isolation := range []string{isolationSandbox, isolationNone} {
		t.Run(isolation, func(t *testing.T) {
			var env []string
			if isolation != isolationSandbox { // the default
				env = append(env, "MODELGATE_ISOLATION="+isolation)
			}
			p := start(t, t.TempDir(), env...)
			push(t, p.admin(), "iris", modelBytes(t, "iris.onnx"), client.Spec{})
			tokens, err := p.anonymous().Login(t.Context(), "admin", adminPassword)
			if err != nil {
				t.Fatal(err)
			}
			if status, answer := predictAs(p.url, tokens.AccessToken, []byte(`{"model":"iris","inputs":[[5.1,3.5,1.4,0.2]]}`)); status != 200 {
				t.Fatalf("a prediction: %d: %s", status, answer)
			}
			metrics := getAs(t, p.url+"/admin/metrics", tokens.AccessToken)
			caged := isolation == isolationSandbox
			n := map[bool]string{true: "1", false: "0"}[caged]
			for _, want := range []string{`sandbox_layer{layer="seccomp"}`, `sandbox_layer{layer="no_new_privs"}`, `sandbox_layer{layer="data_limit"}`, "workers"} {
				if !strings.Contains(metrics, "\nmodelgate_"+want+" "+n+"\n") {
					t.Errorf("the metrics lack modelgate_%s %s", want, n)
				}
			}
			log := p.output()
			if inside := strings.Contains(log, "models run inside this process"); inside == caged {
				t.Errorf("that models run inside the server is in the log: %v", inside)
			}
			for _, m := range regexp.MustCompile(`(?m)^modelgate_sandbox_layer\{layer="(\w+)"\} ([01])$`).FindAllStringSubmatch(metrics, -1) {
				if !caged && m[2] != "0" {
					t.Errorf("without a sandbox there is its layer %s", m[1])
				}
				told := strings.Contains(log, fmt.Sprintf(`"layer":%q`, m[1]))
				// That there is no Landlock at all tells of its parts, too.
				if partly := strings.HasPrefix(m[1], "landlock_") && strings.Contains(log, `"layer":"landlock"`); caged && !partly && told == (m[2] == "1") {
					t.Errorf("the layer %s is %s, and the log tells that it is missing: %v", m[1], m[2], told)
				}
			}
			maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", p.cmd.Process.Pid))
			if err != nil {
				t.Fatal(err)
			}
			if mapped := strings.Contains(string(maps), "libonnxruntime"); mapped == caged {
				t.Errorf("ONNX Runtime is mapped into the server: %v", mapped)
			}
		})
	}
}
