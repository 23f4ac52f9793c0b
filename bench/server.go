package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"modelgate/client"
)

// server is one that is measured, in its own process.
type server struct {
	address string
	grpc    string            // address of gRPC; "": it speaks none
	token   string            // of an ordinary user; "" for the yardsticks
	admin   string            // token of the administrator
	missing map[string]string // models that are not there, by name, and why
	cmd     *exec.Cmd
	output  string        // file that it writes to
	done    chan struct{} // closed when the process has ended
}

func (s *server) pid() int { return s.cmd.Process.Pid }

func (s *server) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-s.done:
	case <-time.After(10 * time.Second):
		_ = s.cmd.Process.Kill()
		<-s.done
	}
}

// stopAll ends servers at the same time.
func stopAll(servers []*server) {
	var group sync.WaitGroup
	for _, s := range servers {
		group.Go(s.stop)
	}
	group.Wait()
}

// launch starts a server and waits until it answers at path. Its output goes
// into a file, as that of a service would.
func launch(ctx context.Context, address, output, path string, cmd *exec.Cmd) (*server, error) {
	s := &server{address: address, cmd: cmd, output: output, done: make(chan struct{})}
	file, err := os.Create(output)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	cmd.Stdout, cmd.Stderr = file, file
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w; 'make bench' builds what it needs", err)
	}
	go func() {
		_ = cmd.Wait() // how a killed server ends is no news
		close(s.done)
	}()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	limit := time.After(30 * time.Second)
	for {
		if resp, err := http.Get("http://" + address + path); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return s, nil
			}
		}
		select {
		case <-poll.C:
			continue
		case <-s.done:
			err = errors.New("it ended")
		case <-limit:
			err = errors.New("no answer within 30 s")
		case <-ctx.Done():
			err = ctx.Err()
		}
		s.stop()
		return nil, fmt.Errorf("%s: %w: %s", cmd.Path, err, s.lastWords())
	}
}

// lastWords are the end of a server's output, without the lines of its access
// log.
func (s *server) lastWords() string {
	said, err := os.ReadFile(s.output)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(said)), "\n")
	lines = slices.DeleteFunc(lines, func(line string) bool { return strings.Contains(line, `"msg":"request"`) })
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}

// deaths tell of the servers that have ended, which explain what failed.
func deaths(servers []*server) error {
	var errs []error
	for _, s := range servers {
		select {
		case <-s.done:
			errs = append(errs, fmt.Errorf("%s has ended (%s): %s", s.cmd.Path, s.cmd.ProcessState, s.lastWords()))
		default:
		}
	}
	return errors.Join(errs...)
}

// freeAddress is one that nobody listened on a moment ago.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// startYardstick starts a program that takes an address, and what else it is
// given.
func startYardstick(ctx context.Context, output, program string, args ...string) (*server, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	return launch(ctx, address, output, "/", exec.Command(program, append([]string{address}, args...)...))
}

const password = "horse-staple-battery-7"

// startGate starts modelgate and opens the models to an ordinary user by a
// role.
func startGate(ctx context.Context, s settings, data string, models []model, flags ...string) (*server, error) {
	gate, err := launchGate(ctx, s, data, flags...)
	if err != nil {
		return nil, err
	}
	if err := gate.furnish(ctx, s, models); err != nil {
		gate.stop()
		return nil, err
	}
	return gate, nil
}

// launchGate starts modelgate over a data folder, with its defaults but for the
// rate, and for tokens that outlive the run. It speaks gRPC where it can.
func launchGate(ctx context.Context, s settings, data string, flags ...string) (*server, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	program, err := filepath.Abs(s.program)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, err
	}
	args := []string{"serve", "--listen", address, "--data", data, "--rate-predict", "100000000-M", "--access-ttl", "2h"}
	grpc := ""
	if speaksGRPC(ctx, program) {
		if grpc, err = freeAddress(); err != nil {
			return nil, err
		}
		args = append(args, "--grpc-listen", grpc)
	}
	cmd := exec.Command(program, append(args, flags...)...)
	cmd.Dir = data // no .env of the operator's
	// As a variable: programs of before the bound know no such flag.
	cmd.Env = append(os.Environ(), "MODELGATE_ADMIN_PASSWORD="+password, "MODELGATE_MAX_CONNECTIONS=20000",
		"MODELGATE_MAX_CONNECTIONS_PER_ADDRESS=20000")
	gate, err := launch(ctx, address, filepath.Join(data, "output.log"), "/healthz", cmd)
	if err != nil {
		return nil, err
	}
	gate.grpc = grpc
	return gate, nil
}

// speaksGRPC asks a program, which may be older than the listener for gRPC.
func speaksGRPC(ctx context.Context, program string) bool {
	help, err := exec.CommandContext(ctx, program, "serve", "--help").Output()
	return err == nil && bytes.Contains(help, []byte("--grpc-listen"))
}

// furnish publishes the models and gets the token of a user who may call them
// and nothing else.
func (s *server) furnish(ctx context.Context, from settings, models []model) error {
	var err error
	if s.admin, err = login(ctx, s, "admin"); err != nil {
		return err
	}
	s.missing = map[string]string{}
	admin, err := client.New("http://"+s.address, client.WithToken(s.admin))
	if err != nil {
		return err
	}
	if _, err := admin.PutRole(ctx, "callers", []string{}, "", 0); err != nil {
		return err
	}
	for _, m := range models {
		v, err := publish(ctx, admin, m, from.fileOf(m))
		var refused *client.Error
		switch {
		case m.maxBatch > 0 && errors.As(err, &refused) && refused.Status == http.StatusBadRequest:
			s.missing[m.name] = "the server refused max_batch: " + refused.Detail
		case err != nil:
			return fmt.Errorf("%s: %w", m.name, err)
		case m.maxBatch > 0 && (v.Batching == nil || !v.Batching.Active):
			s.missing[m.name] = "the server runs every request by itself"
		}
	}
	user, err := admin.CreateUser(ctx, "caller", []string{"callers"})
	if err != nil {
		return err
	}
	stranger, err := client.New("http://" + s.address)
	if err != nil {
		return err
	}
	if _, err := stranger.Accept(ctx, user.InviteToken, password); err != nil {
		return err
	}
	s.token, err = login(ctx, s, "caller")
	return err
}

// login returns an access token.
func login(ctx context.Context, at *server, username string) (string, error) {
	stranger, err := client.New("http://" + at.address)
	if err != nil {
		return "", err
	}
	tokens, err := stranger.Login(ctx, username, password)
	return tokens.AccessToken, err
}

func publish(ctx context.Context, admin *client.Client, m model, path string) (v client.Version, err error) {
	file, err := os.ReadFile(path)
	if err != nil {
		return v, err
	}
	spec := client.Spec{Roles: []string{"callers"}}
	if m.maxBatch > 0 {
		spec.Serving = fmt.Appendf(nil, `{"max_batch":%d}`, m.maxBatch)
	}
	open := func() (io.Reader, error) { return bytes.NewReader(file), nil }
	return admin.Push(ctx, m.name, int64(len(file)), open, spec)
}
