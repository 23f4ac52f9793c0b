package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"modelgate/client"
	"modelgate/inference/ort"
)

// TestIsolation looks from outside at a server with loaded models, and at their
// processes: as the user that the tests run as, and as an ordinary one.
func TestIsolation(t *testing.T) {
	t.Run("as oneself", func(t *testing.T) { lookInside(t, start(t, t.TempDir(), quietly...), os.Geteuid()) })
	if os.Geteuid() == 0 {
		t.Run("as an ordinary user", func(t *testing.T) { lookInside(t, startAs(t, ordinary), ordinary) })
	}
}

const ordinary = 12345 // a user id of nobody

// startAs runs the program as another user, who has copies of what it needs.
func startAs(t *testing.T, user int) *program {
	t.Helper()
	needRuntime(t)
	library, err := ort.FindLibrary(os.Getenv("MODELGATE_ONNXRUNTIME_LIB"))
	if err != nil {
		t.Fatal(err)
	}
	folder, err := os.MkdirTemp("", "modelgate") // t.TempDir is closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	if err := os.Chmod(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	copyTo(t, "/proc/self/exe", filepath.Join(folder, "modelgate"), 0o755)
	copyTo(t, library, filepath.Join(folder, "libonnxruntime.so"), 0o644)
	data := filepath.Join(folder, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(data, user, user); err != nil {
		t.Fatal(err)
	}
	p, err := launchBy(func(cmd *exec.Cmd) {
		cmd.Path, cmd.Err = filepath.Join(folder, "modelgate"), nil
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(user), Gid: uint32(user)}}
	}, data, folder, append(quietly, "MODELGATE_ONNXRUNTIME_LIB="+filepath.Join(folder, "libonnxruntime.so"))...)
	if err != nil {
		t.Fatal(err)
	}
	p.t = t
	t.Cleanup(p.kill)
	return p
}

func copyTo(t *testing.T, from, to string, mode os.FileMode) {
	t.Helper()
	source, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(target, source)
	if closed := target.Close(); err != nil || closed != nil {
		t.Fatal(err, closed)
	}
}

// TestNoIsolation asks for models inside the server: it says so, serves, and
// ends as it should.
func TestNoIsolation(t *testing.T) {
	p := start(t, t.TempDir(), append(quietly, "MODELGATE_ISOLATION="+isolationNone)...)
	if !strings.Contains(p.output(), "models run inside this process") {
		t.Error("nothing warns the operator")
	}
	push(t, p.admin(), "iris", modelBytes(t, "iris.onnx"), client.Spec{})
	_, err := tryPush(p.admin(), "slow", hostile(t, "type_mismatch"), client.Spec{})
	if e := refused(t, err, 422, "a file that does not load"); e.Code != "load_failed" {
		t.Errorf("code %s", e.Code)
	}
	traffic{url: p.url, tokens: []string{p.token("admin", adminPassword)}, bodies: [][]byte{irisBody}}.during(t, 200, func() {})
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", p.cmd.Process.Pid))
	if err != nil || !strings.Contains(string(maps), "onnxruntime") {
		t.Errorf("the server has no model runtime mapped (%v): TestIsolation would not see one", err)
	}
	if pids := p.workers(); len(pids) != 0 {
		t.Errorf("there are processes of models: %v", pids)
	}
	if err := p.stop(); err != nil {
		t.Errorf("SIGTERM: %v\n%s", err, p.output())
	}
}

func lookInside(t *testing.T, p *program, user int) {
	admin := p.admin()
	token := p.token("admin", adminPassword)
	push(t, admin, "iris", modelBytes(t, "iris.onnx"), client.Spec{})
	push(t, admin, "digits", modelBytes(t, "digits.onnx"), client.Spec{})
	both := traffic{url: p.url, tokens: []string{token}, bodies: [][]byte{irisBody, digitsBody}}
	server := p.cmd.Process.Pid
	if uid := procStatus(t, server)["Uid"]; uid != fmt.Sprintf("%[1]d\t%[1]d\t%[1]d\t%[1]d", user) {
		t.Fatalf("the server runs as %q", uid)
	}
	both.during(t, 200, func() {})
	both.during(t, 200, func() {
		pids := p.workers()
		if len(pids) != 2 {
			t.Fatalf("the processes of two models are %v", pids)
		}
		for _, pid := range pids {
			lookAtWorker(t, pid, user)
		}
		// The library's file is open in the server, which gives it to workers; nothing
		// of it is mapped.
		maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", server))
		if err != nil || len(maps) == 0 {
			t.Fatalf("the server's mappings: %v", err)
		}
		if strings.Contains(string(maps), "onnxruntime") {
			t.Error("the server has the model runtime mapped")
		}
	})
	if err := p.stop(); err != nil {
		t.Errorf("SIGTERM: %v\n%s", err, p.output())
	}
	if pids := workersOf(t, server); len(pids) > 0 {
		t.Errorf("the server has ended, and its processes %v have not", pids)
	}
}

// lookAtWorker holds the process of a model to what the kernel says of it.
func lookAtWorker(t *testing.T, pid, user int) {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil || !strings.Contains(string(maps), "onnxruntime") {
		t.Errorf("the process %d has no model runtime mapped (%v): this test proves nothing", pid, err)
	}
	none := strings.Repeat("0", 16)
	status := procStatus(t, pid)
	for key, want := range map[string]string{"NoNewPrivs": "1", "Seccomp": "2", "CapInh": none, "CapPrm": none, "CapEff": none, "CapAmb": none} {
		if status[key] != want {
			t.Errorf("the process %d: %s is %s, want %s", pid, key, status[key], want)
		}
	}
	uids := strings.Fields(status["Uid"])
	if slices.Contains(uids, "0") || user == 0 && uids[0] != "65534" {
		t.Errorf("the process %d runs as %v", pid, uids)
	}
	if limit := dataLimit(t, pid); limit <= 0 {
		t.Errorf("the process %d may have %d bytes of data", pid, limit)
	}
	if os.Geteuid() != 0 {
		return // the rest is closed to its own user too
	}
	if environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)); err != nil || string(environ) != "ORT_DISABLE_TELEMETRY=1\x00" {
		t.Errorf("the environment of the process %d: %q, %v", pid, environ, err)
	}
	lookAtFiles(t, pid)
}

// lookAtFiles wants no descriptors but those that a worker needs.
func lookAtFiles(t *testing.T, pid int) {
	t.Helper()
	folder := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	wanted := map[string]string{
		"0": `/dev/null`, "1": `pipe:.*`, "2": `pipe:.*`, "3": `socket:.*`, "4": `/memfd:modelgate-tensors.*`, "5": `.*/libonnxruntime\.so.*`,
	}
	own := regexp.MustCompile(`^anon_inode:\[(eventpoll|eventfd)\]$`) // of Go's runtime
	control, err := os.Readlink(filepath.Join(folder, "3"))
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		target, err := os.Readlink(filepath.Join(folder, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		want, known := wanted[entry.Name()]
		switch {
		case known && !regexp.MustCompile("^"+want+"$").MatchString(target):
			t.Errorf("descriptor %s of the process %d is %s, want %s", entry.Name(), pid, target, want)
		case !known && !own.MatchString(target) && target != control: // which Go's package net has doubled
			t.Errorf("descriptor %s of the process %d is %s", entry.Name(), pid, target)
		}
	}
}

// TestDrain ends a server that computes: what it computes is answered, and no
// process is left.
func TestDrain(t *testing.T) {
	p := start(t, t.TempDir(), quietly...)
	admin := p.admin()
	token := p.token("admin", adminPassword)
	push(t, admin, "loop", modelBytes(t, "slow_run.onnx"), client.Spec{})
	worker := p.workerOf(admin, client.PredictRequest{Model: "loop", Inputs: []int64{1}})
	server := p.cmd.Process.Pid
	type answer struct {
		status int
		text   string
	}
	answered := make(chan answer, 1)
	go func() {
		status, text := predictAs(p.url, token, []byte(`{"model":"loop","inputs":[1000000]}`))
		answered <- answer{status, text}
	}()
	busy(t, worker)
	if err := p.stop(); err != nil {
		t.Errorf("SIGTERM: %v\n%s", err, p.output())
	}
	if a := <-answered; a.status != 200 || !strings.Contains(a.text, "1000000") {
		t.Errorf("what was computed at SIGTERM: status %d: %s", a.status, a.text)
	}
	if pids := workersOf(t, server); len(pids) > 0 {
		t.Errorf("the server has ended, and its processes %v have not", pids)
	}
}
