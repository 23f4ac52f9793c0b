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
	"syscall"
	"time"

	"modelgate/client"
)

// server is one that is measured, in its own process.
type server struct {
	address string
	token   string // of an ordinary user; "" for the yardstick
	cmd     *exec.Cmd
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

// launch starts a server and waits until it answers at path. Its output goes
// into a file, as that of a service would.
func launch(ctx context.Context, address, output, path string, cmd *exec.Cmd) (*server, error) {
	s := &server{address: address, cmd: cmd, done: make(chan struct{})}
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
	poll := time.NewTicker(20 * time.Millisecond)
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
		said, _ := os.ReadFile(output)
		return nil, fmt.Errorf("%s: %w: %s", cmd.Path, err, bytes.TrimSpace(said))
	}
}

// freeAddress is one that nobody listened on a moment ago.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

func startHello(ctx context.Context, program string) (*server, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	return launch(ctx, address, os.DevNull, "/", exec.Command(program, address))
}

const password = "horse-staple-battery-7"

// startGate starts modelgate with its defaults, but for the rate and for the
// memory of bodies: 64 bodies of 1.6 MB, in buffers of 4 MiB, would take more
// than the default of 256 MiB. It opens the models to an ordinary user by a role.
func startGate(ctx context.Context, s settings, data string, models []model, flags ...string) (*server, error) {
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
	cmd := exec.Command(program, append([]string{"serve", "--listen", address, "--data", data,
		"--rate-predict", "100000000-M", "--body-memory", "1GiB"}, flags...)...)
	cmd.Dir = data // no .env of the operator's
	cmd.Env = append(os.Environ(), "MODELGATE_ADMIN_PASSWORD="+password)
	gate, err := launch(ctx, address, filepath.Join(data, "output.log"), "/healthz", cmd)
	if err != nil {
		return nil, err
	}
	if gate.token, err = furnish(ctx, s, "http://"+address, models); err != nil {
		gate.stop()
		return nil, err
	}
	return gate, nil
}

// furnish publishes the models and returns the token of a user who may call
// them and nothing else.
func furnish(ctx context.Context, s settings, url string, models []model) (string, error) {
	stranger, err := client.New(url)
	if err != nil {
		return "", err
	}
	tokens, err := stranger.Login(ctx, "admin", password)
	if err != nil {
		return "", err
	}
	admin, err := client.New(url, client.WithToken(tokens.AccessToken))
	if err != nil {
		return "", err
	}
	if _, err := admin.PutRole(ctx, "callers", []string{}, ""); err != nil {
		return "", err
	}
	for _, m := range models {
		file, err := os.ReadFile(s.fileOf(m))
		if err != nil {
			return "", err
		}
		open := func() (io.Reader, error) { return bytes.NewReader(file), nil }
		if _, err := admin.Push(ctx, m.name, int64(len(file)), open, client.Spec{Roles: []string{"callers"}}); err != nil {
			return "", fmt.Errorf("%s: %w", m.name, err)
		}
	}
	user, err := admin.CreateUser(ctx, "caller", []string{"callers"})
	if err != nil {
		return "", err
	}
	if _, err := stranger.Accept(ctx, user.InviteToken, password); err != nil {
		return "", err
	}
	tokens, err = stranger.Login(ctx, "caller", password)
	return tokens.AccessToken, err
}
