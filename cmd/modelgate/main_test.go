package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"modelgate/client"
	"modelgate/inference/ort"
)

// TestMain lets the test binary be the program too: `modelgate` is on the PATH
// of scripts and of exec.Command.
func TestMain(m *testing.M) {
	testscript.Main(leakChecked{m}, map[string]func(){"modelgate": main})
}

// leakChecked fails when the tests leave goroutines behind.
type leakChecked struct{ m *testing.M }

func (l leakChecked) Run() int {
	code := l.m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, "goroutines are left:", err)
			code = 1
		}
	}
	return code
}

const adminPassword = "horse-staple-battery-7"

// program is a real server process.
type program struct {
	t    *testing.T
	cmd  *exec.Cmd
	url  string
	data string

	operator string // an administrator's token, for metrics

	mu     sync.Mutex
	stderr bytes.Buffer // guarded by mu
	done   chan struct{}
}

// needRuntime skips where ONNX Runtime is not there; make test fetches it.
func needRuntime(t *testing.T) {
	t.Helper()
	if _, err := ort.FindLibrary(os.Getenv("MODELGATE_ONNXRUNTIME_LIB")); err != nil {
		t.Skip("ONNX Runtime is missing; make test fetches it: ", err)
	}
}

// start runs `modelgate serve` on a free port with a data folder and waits
// until it listens.
func start(t *testing.T, data string, env ...string) *program {
	t.Helper()
	needRuntime(t)
	p, err := launch(data, t.TempDir(), env...)
	if err != nil {
		t.Fatal(err)
	}
	p.t = t
	t.Cleanup(p.kill)
	return p
}

// launch is start for who has no testing.T. dir is the working directory,
// which should hold no .env.
func launch(data, dir string, env ...string) (*program, error) {
	return launchBy(func(*exec.Cmd) {}, data, dir, env...)
}

// launchBy is launch with a last word about the command.
func launchBy(change func(*exec.Cmd), data, dir string, env ...string) (*program, error) {
	p := &program{data: data, done: make(chan struct{})}
	p.cmd = exec.Command("modelgate", "serve", "--listen", "127.0.0.1:0", "--data", data)
	p.cmd.Env = append(os.Environ(), append([]string{"MODELGATE_ADMIN_PASSWORD=" + adminPassword}, env...)...)
	p.cmd.Dir = dir
	change(p.cmd)
	pipe, err := p.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	listening := make(chan string, 1)
	go p.read(pipe, listening)
	select {
	case url, ok := <-listening:
		if !ok {
			p.kill()
			return nil, fmt.Errorf("the server ended at its start:\n%s", p.output())
		}
		p.url = url
		return p, nil
	case <-time.After(60 * time.Second):
		p.kill()
		return nil, fmt.Errorf("the server did not listen within 60 s:\n%s", p.output())
	}
}

// read keeps what the server writes and tells the address when it comes.
func (p *program) read(pipe io.Reader, listening chan<- string) {
	defer close(p.done)
	defer close(listening)
	address := regexp.MustCompile(`modelgate listens on (\S+);`)
	lines := bufio.NewScanner(pipe)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		p.mu.Lock()
		p.stderr.WriteString(lines.Text() + "\n")
		p.mu.Unlock()
		if m := address.FindStringSubmatch(lines.Text()); m != nil {
			listening <- m[1]
		}
	}
}

func (p *program) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stderr.String()
}

// kill ends the process as a power cut would.
func (p *program) kill() {
	if p.cmd.ProcessState == nil {
		p.cmd.Process.Kill()
		<-p.done
		p.cmd.Wait()
	}
}

// stop ends the process as an operator would and returns its error.
func (p *program) stop() error {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	<-p.done
	return p.cmd.Wait()
}

// admin returns a client logged in as the first administrator.
func (p *program) admin() *client.Client { return p.login("admin", adminPassword) }

func (p *program) login(username, password string) *client.Client {
	p.t.Helper()
	tokens, err := p.anonymous().Login(context.Background(), username, password)
	if err != nil {
		p.t.Fatalf("login of %s: %v", username, err)
	}
	return p.with(tokens.AccessToken)
}

func (p *program) anonymous() *client.Client { return p.with("") }

func (p *program) with(token string) *client.Client {
	p.t.Helper()
	c, err := client.New(p.url, client.WithToken(token))
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}

// refused fails unless err is the server's refusal with this status.
func refused(t *testing.T, err error, status int, what string) *client.Error {
	t.Helper()
	e, ok := err.(*client.Error)
	if !ok || e.Status != status {
		t.Fatalf("%s: got %v, want a refusal with status %d", what, err, status)
	}
	if e.Detail == "" || e.Code == "" || e.RequestID == "" {
		t.Errorf("%s: the refusal lacks detail, code or request id: %+v", what, e)
	}
	return e
}

// modelBytes reads a file of testdata.
func modelBytes(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func readAll(t *testing.T, resp *http.Response) string {
	t.Helper()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil {
		t.Fatal(err)
	}
	return b.String()
}
