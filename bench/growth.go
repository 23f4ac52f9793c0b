package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// growing is one thing that there may be more and more of while a request
// should cost the same.
type growing struct {
	what   string // the server of its keys
	title  string
	counts []int // the first is what the others are compared with
}

// activeUsers is how many of the stored users call.
const activeUsers = 1000

// settle is how long growth is under load before it is measured, besides the
// usual: opening ten thousand connections leaves work behind.
const settle = 500 * time.Millisecond

// growths are what is measured; quick ones grow less.
func (s settings) growths() []growing {
	list := []growing{
		{"models", "registered models", []int{1, 10, 100, 1000}},
		{"called", "models called in turn", []int{1, 8}},
		{"users", "stored users", []int{1, 1000, 1000000}},
		{"connections", "idle connections besides", []int{0, 100, 1000, 10000}},
	}
	if s.quick {
		list[0].counts, list[2].counts, list[3].counts = []int{1, 100}, []int{1, 10000}, []int{0, 500}
	}
	// Each open connection is a file of the server's and one of the holder's.
	last := &list[3].counts[len(list[3].counts)-1]
	*last = min(*last, filesAllowed()-300)
	return list
}

// filesAllowed is how many files a process may open: Go programs raise the
// limit to the hard one.
func filesAllowed() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 1024
	}
	return int(min(limit.Max, 1<<20))
}

// key names the measurement with n of it.
func (g growing) key(n int) key { return key{g.what, strconv.Itoa(n), crowd} }

// filled is what bench/testdata/fill prints.
type filled struct {
	Users, Models int
	Keys          []string
}

// startFilled starts a server over a database with that many callers and
// models, and returns the requests of the active callers for some of the models.
func startFilled(ctx context.Context, s settings, data string, users, models, called int) (*server, [][]byte, error) {
	m := s.small()
	gate, keys, err := fillGate(ctx, s, data, users, models)
	if err != nil {
		return nil, nil, err
	}
	var requests [][]byte
	for i := range max(called, len(keys)) {
		requests = append(requests, predictAs(gate, copyOf(m, i%called), keys[i%len(keys)]))
	}
	return gate, requests, nil
}

// copyOf is a model or, from 1 on, one of the copies that fill makes of it.
func copyOf(m model, n int) model {
	if n > 0 {
		m.name = fmt.Sprintf("%s-%d", m.name, n+1)
	}
	return m
}

// fillGate is startFilled without requests: it returns the keys of the active
// callers.
func fillGate(ctx context.Context, s settings, data string, users, models int, flags ...string) (*server, []string, error) {
	f, err := fillData(ctx, s, data, s.small(), users, models)
	if err != nil {
		return nil, nil, err
	}
	gate, err := launchGate(ctx, s, data, append([]string{"--access-log"}, flags...)...)
	return gate, f.Keys, err
}

// fillData makes a database with that many callers and models.
func fillData(ctx context.Context, s settings, data string, m model, users, models int) (f filled, err error) {
	first, err := startGate(ctx, s, data, []model{m}, "--access-log")
	if err != nil {
		return f, err
	}
	first.stop()
	cmd := exec.CommandContext(ctx, s.fill, "-db", filepath.Join(data, "modelgate.db"), "-model", m.name,
		"-users", strconv.Itoa(users), "-active", strconv.Itoa(min(users, activeUsers)), "-models", strconv.Itoa(models))
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return f, fmt.Errorf("%s: %w: %s", s.fill, err, bytes.TrimSpace(errs.Bytes()))
	}
	if err := json.Unmarshal(out, &f); err != nil {
		return f, err
	}
	if f.Users != users+1 || f.Models != models { // and the administrator
		return f, fmt.Errorf("the database has %d users and %d models", f.Users, f.Models)
	}
	return f, nil
}

// mixedRows are the rows of the requests that the memory is measured with: the
// bodies have 100 bytes to 22 MB. Quick ones stop at 450 KB.
var mixedRows = []int64{1, 100, 10_000, 100_000, 500_000}

const quickMixed = 3

// mixedBefore is how long they are sent before the first round.
const mixedBefore = 15 * time.Second

// mixedUsers send them. More than two would hold no more: a user may fill half
// of the memory for bodies.
const mixedUsers = 2

// mixedStep measures the memory of a server whose clients send bodies of all
// sizes at once, more than it has room for.
func (b *bench) mixedStep(ctx context.Context) (step, error) {
	m := b.s.small()
	b.say("making requests of all sizes")
	at, keys, err := fillGate(ctx, b.s, filepath.Join(b.folder, "mixed"), mixedUsers, 1, "--rate-predict", "1000000000-S")
	if err != nil {
		return step{}, err
	}
	b.servers = append(b.servers, at)
	p := b.plan(at, nil, crowd)
	p.Lenient, p.Redial = true, true
	sizes := mixedRows
	if b.s.quick {
		sizes = sizes[:quickMixed]
	}
	for _, n := range sizes {
		for _, key := range keys {
			p.Others = append(p.Others, predictAs(at, m.rows(n), key))
		}
	}
	p.Request, p.Others = p.Others[0], p.Others[1:]
	if !b.s.quick {
		// Memory grows until every size has met every other; that it stops is
		// what the rounds then show.
		b.say("filling the memory with requests of all sizes")
		before := p
		before.Duration = mixedBefore
		if _, err := loadChild(ctx, before); err != nil {
			return step{}, err
		}
	}
	return step{mixedKey(m), func(ctx context.Context) (Result, error) { return loadChild(ctx, p) }}, nil
}

func mixedKey(m model) key { return key{"mixed", m.name, crowd} }

// growthSteps starts the servers of growth and returns what is to be measured.
func (b *bench) growthSteps(ctx context.Context) ([]step, error) {
	var steps []step
	add := func(k key, at *server, requests [][]byte, held int) {
		p := b.plan(at, requests[0], crowd)
		p.Others = requests[1:]
		p.Warmup += settle
		steps = append(steps, step{k, func(ctx context.Context) (result Result, err error) {
			if held == 0 {
				return loadChild(ctx, p)
			}
			release, err := hold(ctx, holding{Address: at.address, Request: requests[0], Connections: held})
			if err != nil {
				return result, err
			}
			defer func() { err = errors.Join(err, release()) }()
			return loadChild(ctx, p)
		}})
	}
	start := func(name string, users, models, called int) (*server, [][]byte, error) {
		b.say("making %s", name)
		at, requests, err := startFilled(ctx, b.s, filepath.Join(b.folder, name), users, models, called)
		if err == nil {
			b.servers = append(b.servers, at)
		}
		return at, requests, err
	}
	small, one, err := start("one of each", 1, 1, 1)
	if err != nil {
		return nil, err
	}
	for _, g := range b.r.Growths {
		for _, n := range g.counts {
			at, requests, held := small, one, 0
			switch {
			case g.what == "connections":
				held = n
			case n > 1 && g.what == "models":
				at, requests, err = start(fmt.Sprintf("%d models", n), 1, n, 1)
			case n > 1 && g.what == "called":
				at, requests, err = start(fmt.Sprintf("%d models to be called", n), 1, n, n)
			case n > 1:
				at, requests, err = start(fmt.Sprintf("%d users", n), n, 1, 1)
			}
			if err != nil {
				return nil, err
			}
			add(g.key(n), at, requests, held)
		}
	}
	mixed, err := b.mixedStep(ctx)
	return append(steps, mixed), err
}

// holding is what `bench hold` is told: to open connections, use each of them
// once, and keep them.
type holding struct {
	Address     string
	Request     []byte
	Connections int
}

// hold starts a process that holds connections, and waits until it does. The
// function that it returns ends it.
func hold(ctx context.Context, h holding) (release func() error, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, "hold")
	cmd.Env = append(os.Environ(), childVariable+"=1")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	release = func() error {
		in.Close() // tells it to end
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("what held the connections: %w: %s", err, bytes.TrimSpace(errs.Bytes()))
		}
		return nil
	}
	err = json.NewEncoder(in).Encode(h)
	if err == nil {
		_, err = io.ReadFull(out, make([]byte, len(holdingAll)))
	}
	if err != nil {
		return nil, errors.Join(release(), err)
	}
	return release, nil
}

// holdingAll is what the holder says when all connections are open.
const holdingAll = "open\n"

// holdChild is the process of hold. It ends when its input does, and fails if
// the server closed a connection meanwhile.
func holdChild() error {
	var h holding
	if err := json.NewDecoder(os.Stdin).Decode(&h); err != nil {
		return err
	}
	held := make([]*httpWire, h.Connections)
	for i := range held {
		w, err := dialHTTP(h.Address)
		if err != nil {
			return fmt.Errorf("connection %d: %w", i+1, err)
		}
		defer w.Close()
		if tcp, ok := w.Conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // else its port would be taken for a minute more
		}
		if err := w.exchange(h.Request); err != nil {
			return fmt.Errorf("connection %d: %w", i+1, err)
		}
		held[i] = w
	}
	fmt.Print(holdingAll)
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	closed := 0
	for _, w := range held {
		if !w.open() {
			closed++
		}
	}
	if closed > 0 {
		return fmt.Errorf("%d of %d connections were closed", closed, len(held))
	}
	return nil
}

// open reports whether nothing came on a connection that nothing was asked on,
// not even its end.
func (c *httpWire) open() bool {
	tcp, ok := c.Conn.(*net.TCPConn)
	if !ok || c.r.Buffered() > 0 {
		return false
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return false
	}
	var came error
	err = raw.Read(func(fd uintptr) bool {
		_, _, came = syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		return true
	})
	return err == nil && errors.Is(came, syscall.EAGAIN)
}
