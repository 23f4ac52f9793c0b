//go:build amd64 || arm64

package worker

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCageAttempts has a worker try all it must not do. Without a cage, what
// can succeed does, so that a refusal is the cage's doing.
func TestCageAttempts(t *testing.T) {
	const whole = layerSeccomp | layerLandlock | layerNamespaces | layerUser
	for _, test := range []struct {
		name string
		only layer // what is left of the cage
	}{
		{"off", 0},
		{"whole", whole},
		{"seccomp alone", layerSeccomp},
		{"landlock alone", layerLandlock},
		{"no landlock", whole &^ layerLandlock},
		{"no namespaces", whole &^ layerNamespaces},
	} {
		t.Run(test.name, func(t *testing.T) {
			var c *cage
			if test.only != 0 {
				c = openCage(t, whole&^test.only)
			}
			var user *syscall.Credential
			if c != nil && c.has.OtherUser {
				user = &syscall.Credential{Uid: workerUser, Gid: workerUser}
			}
			p := hunt(t, user)
			w := begin(t, c, task{Do: "attack", Prey: p}, "/proc/self/exe", make([]byte, 4096))
			if got := w.has.Landlock > 0; c != nil && got != (test.only&layerLandlock != 0) {
				t.Errorf("Landlock in force: %v", got)
			}
			for _, a := range attempts() {
				o := w.next().Outcome
				if o == nil || o.Name != a.name {
					t.Fatalf("the worker told %+v instead of how it went to %s", o, a.name)
				}
				judge(t, a, o.Errno, test.only, w.has.Landlock)
			}
		})
	}
}

// judge compares an outcome with what the layers are to do.
func judge(t *testing.T, a attempt, errno unix.Errno, layers layer, abi int) {
	t.Helper()
	refused := errno == unix.EPERM || errno == unix.EACCES
	switch {
	case layers&layerSeccomp != 0:
		if a.refusal != 0 {
			refused = errno == a.refusal
		}
		if !refused {
			t.Errorf("%s: %v; the kernel must refuse it", a.name, text(errno))
		}
	case layers&layerLandlock != 0:
		if a.refusal == unix.EBADF {
			refused = errno == a.refusal
		}
		if a.landlock > 0 && a.landlock <= abi && !refused {
			t.Errorf("%s: %v; Landlock must refuse it", a.name, text(errno))
		}
	default:
		if (a.uncaged == byAnyone || a.uncaged == byRoot && os.Geteuid() == 0) && errno != 0 {
			t.Errorf("%s: %v; without a cage it must succeed, or else it proves nothing", a.name, text(errno))
		}
	}
}

func text(errno unix.Errno) string {
	if errno == 0 {
		return "it succeeded"
	}
	return errno.Error()
}

// TestCageAsOrdinaryUser runs all tests of the cage as a user without rights,
// who has a copy of what they need.
func TestCageAsOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 {
		return // they run as one now
	}
	folder, err := os.MkdirTemp("", "cage") // t.TempDir is closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	if err := os.Chmod(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	here := filepath.Join(folder, "inference", "worker")
	copyFile(t, "/proc/self/exe", filepath.Join(here, "worker.test"), 0o755)
	copyFile(t, library(t), filepath.Join(folder, "libonnxruntime.so"), 0o644)
	for _, name := range modelFiles(t) {
		copyFile(t, name, filepath.Join(here, name), 0o644)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(here, "worker.test"), "-test.run", "^TestCage", "-test.v")
	cmd.Dir = here
	cmd.Env = []string{"MODELGATE_ONNXRUNTIME_LIB=" + filepath.Join(folder, "libonnxruntime.so"), "PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 12345, Gid: 12345}}
	output, err := cmd.CombinedOutput()
	if err != nil || strings.Contains(string(output), "--- SKIP") {
		t.Errorf("as an ordinary user: %v\n%s", err, output)
	}
	for _, name := range []string{"TestCageAttempts/seccomp_alone", "TestCageRunsModels", "TestCageStatus"} {
		if !strings.Contains(string(output), "--- PASS: "+name) {
			t.Errorf("%s did not pass as an ordinary user", name)
		}
	}
}

// TestCageStatus reads what the kernel says of a worker and all its threads.
func TestCageStatus(t *testing.T) {
	c := openCage(t, 0)
	w := begin(t, c, task{Do: "wait"}, "/proc/self/exe", nil)
	pid := w.cmd.Process.Pid
	tasks, err := filepath.Glob(proc(pid, "task/*/status"))
	if err != nil || len(tasks) < 2 {
		t.Fatalf("the worker has the threads %v, %v; there should be several", tasks, err)
	}
	none := strings.Repeat("0", 16)
	want := map[string]string{"NoNewPrivs": "1", "Seccomp": "2", "CapInh": none, "CapPrm": none, "CapEff": none, "CapAmb": none, "Groups": ""}
	if w.has.UserNamespace || w.has.OtherUser {
		want["CapBnd"] = none // otherwise it has no right to empty it
	}
	if w.has.OtherUser {
		want["Uid"] = "65534\t65534\t65534\t65534"
		want["Gid"] = want["Uid"]
	}
	if os.Geteuid() != 0 {
		delete(want, "Groups") // one's own can't be given up
	}
	for _, name := range tasks {
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for line := range strings.Lines(string(content)) {
			key, value, _ := strings.Cut(line, ":")
			if _, asked := want[key]; asked {
				got[key] = strings.TrimSpace(value)
			}
		}
		if !maps.Equal(got, want) {
			t.Errorf("%s says %v, want %v", name, got, want)
		}
	}
	if score, err := os.ReadFile(proc(pid, "oom_score_adj")); err != nil || strings.TrimSpace(string(score)) != "1000" {
		t.Errorf("its OOM score is %q, %v; want 1000", score, err)
	}
	limits, err := os.ReadFile(proc(pid, "limits"))
	if err != nil {
		t.Fatal(err)
	}
	for what, most := range map[string]int64{"Max data size": w.has.DataLimit, "Max core file size": 0, "Max file size": 0,
		"Max open files": 64, "Max locked memory": 0} {
		number := strconv.FormatInt(most, 10)
		if !regexp.MustCompile(what + ` +` + number + ` +` + number + ` `).Match(limits) {
			t.Errorf("%s is not %d:\n%s", what, most, limits)
		}
	}
	if threads := regexp.MustCompile(`Max processes +(\d+) `).FindSubmatch(limits); w.has.UserNamespace && newer(t, 5, 14) {
		if most, err := strconv.Atoi(string(threads[1])); err != nil || most > 1024+8*runtime.NumCPU() {
			t.Errorf("it may have %d threads, %v", most, err)
		}
	}
	if environ, err := os.ReadFile(proc(pid, "environ")); err == nil && os.Geteuid() != 0 {
		t.Errorf("its environment can be read by its user: %q", environ)
	}
}

// newer reports whether the kernel is at least of that version.
func newer(t *testing.T, major, minor int) bool {
	t.Helper()
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	var a, b int
	if _, err := fmt.Sscanf(string(release), "%d.%d", &a, &b); err != nil {
		t.Fatal(err)
	}
	return a > major || a == major && b >= minor
}

// TestCageMemory asks for more than a worker may have.
func TestCageMemory(t *testing.T) {
	c := openCage(t, 0)
	// The probe had less for its model, but as much for itself.
	most := int(c.has.DataLimit) + spare
	w := begin(t, c, task{Do: "allocate", Bytes: most}, "/proc/self/exe", nil)
	if errno := w.next().Outcome.Errno; errno != unix.ENOMEM {
		t.Errorf("too much memory: %s; want ENOMEM", text(errno))
	}
	if errno := w.next().Outcome.Errno; errno != 0 {
		t.Errorf("its share of the memory afterwards: %s", text(errno))
	}
	w = begin(t, c, task{Do: "allocate", Bytes: spare}, "/proc/self/exe", nil)
	if errno := w.next().Outcome.Errno; errno != 0 {
		t.Errorf("all of its memory: %s", text(errno))
	}
	w = begin(t, nil, task{Do: "allocate", Bytes: most}, "/proc/self/exe", nil)
	if errno := w.next().Outcome.Errno; errno != 0 {
		t.Errorf("too much memory without a cage: %s; it must succeed, or else it proves nothing", text(errno))
	}
}

// modelFiles are models that load, and some that fail in various ways.
func modelFiles(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob("../../testdata/*.onnx")
	if err != nil || len(names) == 0 {
		t.Fatalf("no models are there: %v", err)
	}
	names = slices.DeleteFunc(names, func(name string) bool { return filepath.Base(name) == "slow_run.onnx" })
	for _, name := range []string{"not_onnx", "unknown_operator", "type_mismatch", "dangling_input", "truncated", "huge_initializer",
		"external_absolute", "dims_mismatch"} {
		names = append(names, filepath.Join("../../testdata/hostile", name+".onnx"))
	}
	return names
}

// TestCageRunsModels loads and runs models, good and bad, several at once: all
// goes as without a cage.
func TestCageRunsModels(t *testing.T) {
	var contents []byte
	do := task{Do: "run models"}
	names := modelFiles(t)
	for _, name := range names {
		model, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		contents = append(contents, model...)
		do.Sizes = append(do.Sizes, len(model))
	}
	library := library(t)
	free := begin(t, nil, do, library, contents)
	caged := begin(t, openCage(t, 0), do, library, contents)
	ran := 0
	for _, name := range names {
		want, got := free.next().Text, caged.next().Text
		// Refusing a file that it can't see, the runtime names another reason.
		if strings.Contains(name, "external") {
			if !strings.HasPrefix(got, "load: ") {
				t.Errorf("%s, whose data lies in another file: %s", name, got)
			}
			continue
		}
		if got != want {
			t.Errorf("%s in the cage: %s\nwithout: %s", name, got, want)
		}
		if got == "ran" {
			ran++
		}
	}
	if ran < 10 {
		t.Errorf("only %d models ran", ran)
	}
	if text := caged.end(); text != "" {
		t.Errorf("the worker wrote %q", text)
	}
}

// TestCageDeath ends workers by a panic and by a signal: they leave a trace and
// end.
func TestCageDeath(t *testing.T) {
	c := openCage(t, 0)
	for do, trace := range map[string]string{"panic": "panic: as told", "abort": "SIGABRT: abort"} {
		w := begin(t, c, task{Do: do}, "/proc/self/exe", nil)
		err := w.cmd.Wait()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 2 {
			t.Errorf("%s: it ended by %v; want status 2", do, err)
		}
		if text := w.end(); !strings.Contains(text, trace) || !strings.Contains(text, "goroutine 1") {
			t.Errorf("%s: it left no trace but %q", do, text)
		}
	}
}

// TestCageServerKilled kills a server: its worker, which ignores that, is gone
// at once.
func TestCageServerKilled(t *testing.T) {
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: []string{serverName}, Stderr: os.Stderr}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	output := bufio.NewReader(stdout)
	line, err := output.ReadString('\n')
	pid, bad := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || bad != nil {
		t.Fatalf("the server said %q, %v", line, err)
	}
	handle, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(handle)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	ready := []unix.PollFd{{Fd: int32(handle), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(ready, 10_000)
		if err == unix.EINTR {
			continue
		}
		if n != 1 || err != nil {
			t.Errorf("the worker lives on: %d, %v", n, err)
			unix.Kill(pid, unix.SIGKILL)
		}
		break
	}
}

// TestCageClosed closes a cage under a worker, which ends with it.
func TestCageClosed(t *testing.T) {
	c, err := newCage(t.Context(), cageConfig{})
	if err != nil {
		t.Fatal(err)
	}
	w := begin(t, c, task{Do: "wait"}, "/proc/self/exe", nil)
	c.close()
	if got := ended(w.cmd); got != "signal: killed" {
		t.Errorf("it ended by %q; want SIGKILL", got)
	}
}

// TestCageOnMainThread does the same where the cage begins on the main thread,
// which does not end with its goroutine.
func TestCageOnMainThread(t *testing.T) {
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: []string{mainName}}
	if output, err := cmd.CombinedOutput(); err != nil || string(output) != "signal: killed\n" {
		t.Errorf("%v: %q; want its worker to end by SIGKILL", err, output)
	}
}

// denied makes a cage where the kernel lacks what is named, and returns the
// labels of what is missing and what it wrote to its log.
func denied(t *testing.T, what string) (labels []string, log string) {
	t.Helper()
	var stdout, stderr strings.Builder
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: append([]string{deniedName}, strings.Fields(what)...), Stdout: &stdout, Stderr: &stderr}
	if err := cmd.Run(); err != nil {
		t.Errorf("without %q: %v: %s", what, err, stderr.String())
	}
	return strings.Fields(stdout.String()), stderr.String()
}

// TestCageDenied makes cages on kernels that lack something: what is missing is
// told, and the rest is there.
func TestCageDenied(t *testing.T) {
	always, _ := denied(t, "")
	for what, missing := range map[string][]string{
		"landlock":            {"landlock"},
		"namespaces":          {"user_namespace", "network_namespace", "ipc_namespace"},
		"landlock namespaces": {"landlock", "user_namespace", "network_namespace", "ipc_namespace"},
		"setuid":              {"other_user"},
	} {
		if what == "setuid" && os.Geteuid() != 0 {
			missing = nil
		}
		want := slices.Concat(always, missing)
		got, log := denied(t, what)
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, slices.Compact(want)) {
			t.Errorf("without %q, %q is missing; want %q", what, got, slices.Compact(want))
		}
		if refused := strings.Contains(log, "operation not permitted"); refused != (what != "landlock" && missing != nil) {
			t.Errorf("without %q the log says %q", what, log)
		}
	}
	// The minimum. A worker that can't be killed ends by itself, or this would not return.
	for what, why := range map[string]string{
		"seccomp":    "the seccomp filter can't be installed: function not implemented",
		"kill pidfd": "it could not be killed: operation not permitted",
	} {
		cmd := &exec.Cmd{Path: "/proc/self/exe", Args: append([]string{deniedName}, strings.Fields(what)...)}
		output, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(output), why) || !strings.Contains(string(output), "The kernel must offer") {
			t.Errorf("without %s: %v, %s; want an error that says %q", what, err, output, why)
		}
	}
}

// TestCageUnreadableLibrary starts a worker whose user may not read ONNX
// Runtime: it says what to do.
func TestCageUnreadableLibrary(t *testing.T) {
	c := openCage(t, 0)
	library := filepath.Join(t.TempDir(), "library")
	if err := os.WriteFile(library, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(library)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := os.Chmod(library, 0); err != nil { // not even the worker of an ordinary user's server
		t.Fatal(err)
	}
	output, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	cmd := c.command(workerFiles{control: file, memory: file, library: file}, spare)
	cmd.Stdout, cmd.Stderr = write, write
	err = c.start(cmd)
	write.Close()
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(output)
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(string(text), "let all users read it") {
		t.Errorf("it ended by %v and wrote %q", err, text)
	}
}
