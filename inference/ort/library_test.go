package ort

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"modelgate/inference"
)

// The first line of a child says what it is to do.
const childEnv = "MODELGATE_TEST_ORT_CHILD"

func TestMain(m *testing.M) {
	if task := os.Getenv(childEnv); task != "" {
		os.Exit(child(task))
	}
	os.Exit(m.Run())
}

// TestTable compares the places of the functions with the header that
// onnxruntime_go brings.
func TestTable(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/yalue/onnxruntime_go").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	header, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), "onnxruntime_c_api.h"))
	if err != nil {
		t.Fatal(err)
	}
	own, err := os.ReadFile("ortshim.h")
	if err != nil {
		t.Fatal(err)
	}
	places := tableOf(t, header)
	used := regexp.MustCompile(`(?m)^  F\((\d+), .*?(\w+), *(?:\\\n *)?\(`).FindAllSubmatch(own, -1)
	if lines := bytes.Count(own, []byte("\n  F(")); len(used) != lines || lines < 50 {
		t.Fatalf("%d of %d functions were understood", len(used), lines)
	}
	for _, u := range used {
		place, name := string(u[1]), string(u[2])
		if i := slices.Index(places, name); place != strconv.Itoa(i) {
			t.Errorf("%s is said to be at %s, the header has it at %d", name, place, i)
		}
	}
}

// tableOf lists the functions of OrtApi in the order of the header.
func tableOf(t *testing.T, header []byte) []string {
	t.Helper()
	_, body, ok := bytes.Cut(header, []byte("\nstruct OrtApi {"))
	if !ok {
		t.Fatal("the header has no struct OrtApi")
	}
	body, _, _ = bytes.Cut(body, []byte("\n};"))
	body = regexp.MustCompile(`(?s)/\*.*?\*/`).ReplaceAll(body, nil)
	body = regexp.MustCompile(`(?m)//.*$|^\s*#.*$`).ReplaceAll(body, nil)
	var list []string
	name := regexp.MustCompile(`^ORT_API2_STATUS\((\w+)|^ORT_CLASS_RELEASE\((\w+)|^ORT_API_T\([^,]+,\s*(\w+)|\(ORT_API_CALL\*\s*(\w+)\)`)
	for _, statement := range bytes.Split(body, []byte(";")) {
		statement = bytes.TrimSpace(statement)
		if len(statement) == 0 {
			continue
		}
		m := name.FindSubmatch(statement)
		if m == nil {
			t.Fatalf("not understood: %s", statement)
		}
		if len(m[2]) > 0 {
			m[1] = append([]byte("Release"), m[2]...)
		}
		list = append(list, string(m[1])+string(m[3])+string(m[4]))
	}
	return list
}

func TestServed(t *testing.T) {
	for version, want := range map[string]bool{
		"1.30.0": true, "1.31.2": true, "1.100.0": true, "1.30.0-dev": true,
		"1.29.1": false, "1.3.0": false, "0.30.0": false, "2.30.0": false, "": false, "1": false, "x.y.z": false,
	} {
		if served(version) != want {
			t.Errorf("%q: %v", version, !want)
		}
	}
}

func TestFindLibrary(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", dir)
	file := filepath.Join(dir, "lib.so")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := FindLibrary(file); err != nil || got != file {
		t.Errorf("an explicit file: %q, %v", got, err)
	}
	for _, explicit := range []string{dir, filepath.Join(dir, "absent.so")} {
		if _, err := FindLibrary(explicit); err == nil || !strings.Contains(err.Error(), "MODELGATE_ONNXRUNTIME_LIB") || !strings.Contains(err.Error(), explicit) {
			t.Errorf("%s: %v", explicit, err)
		}
	}
	// The cache comes before the system's folders, after the executable's.
	platform := runtime.GOOS + "-" + map[string]string{"amd64": "x64", "arm64": "arm64"}[runtime.GOARCH]
	cached := filepath.Join(dir, "modelgate", "onnxruntime", "1.30.0", platform, "libonnxruntime.so")
	if !slices.Contains(candidates(), cached) {
		t.Fatalf("the cache %s is not among %q", cached, candidates())
	}
	if err := os.MkdirAll(filepath.Dir(cached), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cached, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := FindLibrary(""); err != nil || got != cached {
		t.Errorf("the cache: %q, %v", got, err)
	}
}

// What can't be loaded, or is no ONNX Runtime, is told with what to do. Each
// runs in a process of its own, since a library stays once it is loaded.
func TestOpenWrongLibrary(t *testing.T) {
	text := filepath.Join(t.TempDir(), "text.so")
	if err := os.WriteFile(text, []byte("no library"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{"a text": text, "absent": text + ".absent", "no path": "", "another library": anyLibrary(t)} {
		out := runChild(t, "open", "MODELGATE_ONNXRUNTIME_LIB="+path)
		if !strings.Contains(out, "make build") || !strings.Contains(out, "MODELGATE_ONNXRUNTIME_LIB") {
			t.Errorf("%s: %q", name, out)
		}
	}
}

// anyLibrary returns a shared library of the system that is no ONNX Runtime.
func anyLibrary(t *testing.T) string {
	t.Helper()
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		t.Skip("no /proc to find a library in")
	}
	defer maps.Close()
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if path := fields[len(fields)-1]; strings.Contains(path, "libc.so") || strings.Contains(path, "libc-") {
			return path
		}
	}
	t.Skip("this test binary has no libc of its own")
	return ""
}

// The runtime sends nothing and remembers nothing: a process that loads, runs
// and fails reads no machine id, leaves no file in the folders that telemetry
// uses, and prints nothing of its own.
func TestNoTelemetryAndNoOutput(t *testing.T) {
	path := libraryPath(t)
	home := t.TempDir()
	env := []string{"MODELGATE_ONNXRUNTIME_LIB=" + path, "ORT_DISABLE_TELEMETRY="}
	for _, name := range []string{"HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "TMPDIR"} {
		dir := filepath.Join(home, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		env = append(env, name+"="+dir)
	}
	if out := runChild(t, "work", env...); out != "done\n" {
		t.Errorf("the process wrote %q", out)
	}
	err := filepath.WalkDir(home, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			t.Errorf("%s was written", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Log("strace is not installed, so that only files were looked for")
		return
	}
	trace := filepath.Join(t.TempDir(), "trace")
	cmd := childCommand("work", env...)
	cmd.Path, cmd.Args = strace, append([]string{strace, "-f", "-o", trace, "-e", "trace=openat,open,creat,mkdir,mkdirat,socket,connect"}, cmd.Path)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Logf("strace does not work here: %v: %s", err, out)
		return
	}
	calls, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(calls, []byte(path)) {
		t.Fatal("the trace does not show the library")
	}
	for line := range strings.Lines(string(calls)) {
		if strings.Contains(line, "machine-id") || strings.Contains(line, "O_CREAT") || strings.Contains(line, "mkdir") ||
			strings.Contains(line, "socket(") || strings.Contains(line, "connect(") {
			t.Error(strings.TrimSpace(line))
		}
	}
}

func childCommand(task string, env ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(e string) bool {
		return strings.HasPrefix(e, "ORT_") || strings.HasPrefix(e, "GOCOVERDIR=")
	}), append([]string{childEnv + "=" + task}, env...)...)
	return cmd
}

func runChild(t *testing.T, task string, env ...string) string {
	t.Helper()
	out, err := childCommand(task, env...).CombinedOutput()
	if err != nil {
		t.Errorf("the child failed: %v", err)
	}
	return string(out)
}

// child is the other process of a test.
func child(task string) int {
	mem := inference.NewMemory(1 << 20)
	e, err := Open(os.Getenv("MODELGATE_ONNXRUNTIME_LIB"), Config{Memory: mem})
	if task == "open" {
		if err != nil {
			os.Stdout.WriteString(err.Error() + "\n")
		}
		return 0
	}
	if err != nil {
		os.Stdout.WriteString(err.Error() + "\n")
		return 1
	}
	if err := work(e, mem); err != nil {
		os.Stdout.WriteString(err.Error() + "\n")
		return 1
	}
	os.Stdout.WriteString("done\n")
	return 0
}
