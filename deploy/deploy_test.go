// Package deploy_test runs what deploy/ ships: the file set of the container image, under chroot with the restrictions
// that the compose and Kubernetes files ask for. It holds no code of the program and imports none.
package deploy_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	nonroot = 65532
	program = "/usr/local/bin/modelgate"
)

// build makes the program and returns its path.
func build(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "modelgate")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-X main.version=v0.0.0-image",
		"-o", binary, "./cmd/modelgate")
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return binary
}

// runtimeLibrary returns the path of ONNX Runtime: the one that make has fetched, or one fetched now.
func runtimeLibrary(t *testing.T) string {
	t.Helper()
	cmd := exec.Command("/bin/sh", "../inference/ort/fetch.sh")
	cmd.Stderr = t.Output()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("fetch.sh: %v", err)
	}
	return strings.TrimSuffix(string(out), "\n")
}

// rootfs lays out the image's files, or skips the test where chroot can't be had.
func rootfs(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("chroot needs root")
	}
	if out, err := exec.Command("unshare", "--mount", "true").CombinedOutput(); err != nil {
		t.Skipf("root may not mount here, and a read-only root needs that: %v %s", err, out)
	}
	// Not t.TempDir: its folders are closed to the user nonroot.
	root, err := os.MkdirTemp("", "modelgate-rootfs-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(root); err != nil {
			t.Error(err)
		}
	})
	if out, err := exec.Command("./rootfs.sh", root, build(t), runtimeLibrary(t)).CombinedOutput(); err != nil {
		t.Fatalf("rootfs.sh: %v\n%s", err, out)
	}
	return root
}

// image is a laid-out file set with the environment that its commands get.
type image struct {
	root string
	env  []string
}

func (i image) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "./chroot.sh", append([]string{i.root, program}, args...)...)
	cmd.Env = append(i.env, "PATH="+os.Getenv("PATH"))
	return cmd
}

// TestImage walks a container's life: version, start, healthy, one real prediction, a clean end on SIGTERM, unhealthy.
func TestImage(t *testing.T) {
	address := freeAddress(t)
	image := image{rootfs(t), []string{"MODELGATE_LISTEN=" + address, "MODELGATE_DEMO=true"}}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()

	out, err := image.command(ctx, "version").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "v0.0.0-image") {
		t.Fatalf("version: %v\n%s", err, out)
	}

	server := image.command(ctx, "serve")
	lines, err := server.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	server.Stdout = t.Output()
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	log := watch(lines, address)
	select {
	case <-log.listening:
	case <-log.ended:
		t.Fatalf("the server ended: %v\n%s", server.Wait(), log.text.String())
	}

	if out, err := image.command(ctx, "healthcheck").CombinedOutput(); err != nil {
		t.Errorf("healthcheck: %v\n%s", err, out)
	}
	wantNonroot(t, server.Process.Pid)
	wantPrediction(t, "http://"+address)
	wantWorker(t, server.Process.Pid)

	if err := server.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-log.ended
	if err := server.Wait(); err != nil {
		t.Errorf("the end on SIGTERM: %v\n%s", err, log.text.String())
	}
	if out, err := image.command(ctx, "healthcheck").CombinedOutput(); err == nil {
		t.Errorf("healthcheck finds the ended server healthy:\n%s", out)
	}
	wantOwned(t, filepath.Join(image.root, "data"))
}

// TestSettings proves that the variables which the deployment files set are ones that the program reads: a misspelt one
// would silently do nothing.
func TestSettings(t *testing.T) {
	out, err := exec.Command(build(t), "config", "--json").Output()
	if err != nil {
		t.Fatalf("config: %v", err)
	}
	var settings []struct{ Env string }
	if err := json.Unmarshal(out, &settings); err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, setting := range settings {
		known[setting.Env] = true
	}
	variable := regexp.MustCompile(`MODELGATE_[A-Z_]+`)
	for _, name := range []string{"../Dockerfile", "compose.yaml", "kubernetes.yaml", "chroot.sh"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		found := variable.FindAllString(strings.ReplaceAll(string(text), "MODELGATE_...", ""), -1)
		for _, v := range found {
			if !known[v] && v != "MODELGATE_" {
				t.Errorf("%s names %s, which modelgate does not know", name, v)
			}
		}
	}
}

// TestPorts proves that the port on which the deployment files ask for gRPC is the one that they open.
func TestPorts(t *testing.T) {
	const port = "8081"
	for name, wanted := range map[string][]string{
		"../Dockerfile":   {`(?m)^EXPOSE .*\b` + port + `\b`},
		"compose.yaml":    {`MODELGATE_GRPC_LISTEN: 0\.0\.0\.0:` + port, `"127\.0\.0\.1:` + port + `:` + port + `"`},
		"kubernetes.yaml": {`name: MODELGATE_GRPC_LISTEN.*\n\s+value: "0\.0\.0\.0:` + port, `name: grpc\n\s+containerPort: ` + port, `targetPort: grpc\n`},
	} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range wanted {
			if !regexp.MustCompile(want).Match(text) {
				t.Errorf("%s has nothing like %s", name, want)
			}
		}
	}
}

// serverLog is what a server writes, read in the background until it ends.
type serverLog struct {
	text      bytes.Buffer  // read it after ended
	listening chan struct{} // closed when a line names the address
	ended     chan struct{} // closed at the end of the output
}

func watch(output io.Reader, address string) *serverLog {
	log := &serverLog{listening: make(chan struct{}), ended: make(chan struct{})}
	go func() {
		defer close(log.ended)
		heard := false
		lines := bufio.NewScanner(output)
		for lines.Scan() {
			log.text.Write(append(lines.Bytes(), '\n'))
			if !heard && strings.Contains(lines.Text(), address) {
				heard = true
				close(log.listening)
			}
		}
	}()
	return log
}

// freeAddress is one that nobody listens on; the program can't choose it, since healthcheck is told it beforehand.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// wantNonroot checks what the kernel says of the running server: its user, that it holds no capability and can gain none,
// and that of its files only the data folder can be written.
func wantNonroot(t *testing.T, pid int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Uid:\t65532\t65532\t65532\t65532\n", "Gid:\t65532\t65532\t65532\t65532\n", "Groups:\t65532 \n",
		"CapPrm:\t0000000000000000\n", "CapEff:\t0000000000000000\n", "NoNewPrivs:\t1\n",
	} {
		if !strings.Contains(string(status), want) {
			t.Errorf("the server's process lacks %q", want)
		}
	}
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mounts", pid))
	if err != nil {
		t.Fatal(err)
	}
	writable := ""
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if len(fields) > 3 && strings.HasPrefix(fields[3], "rw") {
			writable += fields[1] + " "
		}
	}
	if writable != "/data /proc " {
		t.Errorf("writable in the image: %s; only /data and /proc should be", writable)
	}
}

// wantWorker checks that the sample model runs in a sandboxed process, as its system calls are filtered, and that the server
// has no model runtime in its memory.
func wantWorker(t *testing.T, server int) {
	t.Helper()
	runtime := func(pid int) bool {
		maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(maps), "libonnxruntime")
	}
	if runtime(server) {
		t.Error("ONNX Runtime is mapped into the server")
	}
	folders, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		t.Fatal(err)
	}
	workers := 0
	for _, name := range folders {
		text, err := os.ReadFile(name)
		if err != nil || !strings.Contains(string(text), fmt.Sprintf("\nPPid:\t%d\n", server)) {
			continue // it has ended, or is another's
		}
		if command, err := os.ReadFile(filepath.Join(filepath.Dir(name), "cmdline")); err != nil || strings.Contains(string(command), "hash-passwords") {
			continue // the sign-in has started it
		}
		workers++
		for _, want := range []string{"Uid:\t65532\t65532\t65532\t65532\n", "CapPrm:\t0000000000000000\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n"} {
			if !strings.Contains(string(text), want) {
				t.Errorf("a worker lacks %q", want)
			}
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if err != nil {
			t.Fatal(err)
		}
		if !runtime(pid) {
			t.Error("ONNX Runtime is not mapped into the worker")
		}
	}
	if workers != 1 {
		t.Errorf("%d workers for one model", workers)
	}
}

// wantPrediction registers a user and asks a sample model: ONNX Runtime works with the libraries of the image.
func wantPrediction(t *testing.T, url string) {
	t.Helper()
	account := `{"username":"someone","password":"a long pass phrase 7319"}`
	post(t, url+"/register", "", account, http.StatusCreated, nil)
	var login struct {
		AccessToken string `json:"access_token"`
	}
	post(t, url+"/login", "", account, http.StatusOK, &login)
	var answer struct{ Outputs struct{ Label []int } }
	post(t, url+"/predict", login.AccessToken, `{"model":"iris","inputs":{"X":[[5.1,3.5,1.4,0.2]]}}`, http.StatusOK, &answer)
	if len(answer.Outputs.Label) != 1 || answer.Outputs.Label[0] != 0 {
		t.Errorf("label %v, want [0]", answer.Outputs.Label)
	}
}

// post sends JSON and decodes the answer, whose status must be the given one.
func post(t *testing.T, url, token, body string, status int, answer any) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != status {
		t.Fatalf("POST %s: %s\n%s", url, response.Status, text)
	}
	if answer != nil {
		if err := json.Unmarshal(text, answer); err != nil {
			t.Fatalf("POST %s: %v\n%s", url, err, text)
		}
	}
}

// wantOwned checks that the data belongs to nonroot and that others can't read it.
func wantOwned(t *testing.T, data string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(data, func(name string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		files++
		if owner := info.Sys().(*syscall.Stat_t).Uid; owner != nonroot {
			t.Errorf("%s belongs to user %d", name, owner)
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s can be read by others: %v", name, info.Mode())
		}
		return nil
	})
	if err != nil || files < 2 {
		t.Errorf("%d files in the data folder (%v)", files, err)
	}
}

// TestMemoryFits holds the memory that the deployment files give modelgate against the limit of their container, by the sum
// of "Sizing" in docs/operations.md: who is above it is killed in the middle of other people's requests.
func TestMemoryFits(t *testing.T) {
	const mib = 1 << 20
	const idle, hasher, checked = 105 * mib, 46 * mib, 2 // the server and ONNX Runtime; one password; files checked at once
	for name, limit := range map[string]*regexp.Regexp{
		"compose.yaml":    regexp.MustCompile(`mem_limit: (\d+)g`),
		"kubernetes.yaml": regexp.MustCompile(`limits:\s+memory: (\d+)Gi`),
	} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		find := func(what *regexp.Regexp) int {
			found := what.FindStringSubmatch(string(text))
			if found == nil {
				t.Fatalf("%s says nothing of %s", name, what)
			}
			n, err := strconv.Atoi(found[1])
			if err != nil {
				t.Fatal(err)
			}
			if len(found) > 2 && found[2] == "GiB" {
				return n << 30
			}
			return n * mib
		}
		size := func(key string) int {
			return find(regexp.MustCompile(key + `(?:: |, value: )(\d+)(MiB|GiB)`))
		}
		hashers := find(regexp.MustCompile(`MODELGATE_HASHERS(?:: |, value: )"(\d+)"`)) / mib
		sum := idle + size("MODELGATE_BODY_MEMORY") + size("MODELGATE_TENSOR_MEMORY") + size("MODELGATE_SESSION_MEMORY") +
			size("MODELGATE_RUNTIME_MEMORY") + hashers*hasher + checked*size("MODELGATE_MAX_MODEL")
		if most := find(limit) << 10; sum > most {
			t.Errorf("%s lets modelgate take %d MiB, its container has %d MiB", name, sum/mib, most/mib)
		}
	}
}
