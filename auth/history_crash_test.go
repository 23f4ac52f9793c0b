package auth_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"modelgate/audit"
	"modelgate/auth"
	"modelgate/store"
)

const historyVariable = "MODELGATE_AUTH_TEST_SERVER"

// TestMain also is the other process of TestCrashedSessionHistory: a server that
// gets killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv(historyVariable); dir != "" {
		if err := historyServer(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

const lanes = 3 // steps that one server does at once, each by a clock of its own

type laneStep struct {
	Lane int
	Step step
}

type laneOutcome struct {
	Lane    int
	Outcome outcome
}

// historyServer does the steps that come in, on the database in dir, until there
// are no more.
func historyServer(dir string) error {
	ctx := context.Background()
	db, err := store.Open(ctx, filepath.Join(dir, "modelgate.db"), nil)
	if err != nil {
		return err
	}
	log, err := audit.Open(ctx, audit.Config{Path: filepath.Join(dir, fmt.Sprintf("audit-%d.log", os.Getpid()))})
	if err != nil {
		return err
	}
	vault, err := auth.OpenVault(filepath.Join(dir, "keys", "master.key"), "")
	if err != nil {
		return err
	}
	// The lanes have clocks of their own; at all of them the key that env made
	// signs.
	keys, err := auth.OpenKeyring(ctx, auth.KeyringConfig{Store: db, Vault: vault,
		Now: func() time.Time { return time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC) }})
	if err != nil {
		return err
	}
	var clocks [lanes]atomic.Int64
	var services [lanes]*auth.Service
	for i := range services {
		cfg := auth.Config{Store: db, Guard: auth.NewGuard(log), Audit: log, Keys: keys, Vault: vault, Issuer: issuer, Hashing: cheap,
			Now: func() time.Time { return time.Unix(clocks[i].Load(), 0) }}
		historyConfig(&cfg)
		if services[i], err = auth.New(cfg); err != nil {
			return err
		}
	}
	var mu sync.Mutex
	answers := json.NewEncoder(os.Stdout) // guarded by mu
	fmt.Println("ready")
	for steps := json.NewDecoder(os.Stdin); ; {
		var in laneStep
		if steps.Decode(&in) != nil {
			return nil
		}
		clocks[in.Lane].Store(in.Step.Now)
		go func() {
			out := perform(ctx, services[in.Lane], in.Step)
			mu.Lock()
			defer mu.Unlock()
			_ = answers.Encode(laneOutcome{in.Lane, out})
		}()
	}
}

// victim is a server process. Each lane has one caller.
type victim struct {
	cmd     *exec.Cmd
	mu      sync.Mutex
	steps   *json.Encoder // guarded by mu
	answers [lanes]chan outcome
	dead    chan struct{}
}

func startVictim(t *testing.T, dir string) *victim {
	v := &victim{cmd: exec.Command(os.Args[0]), dead: make(chan struct{})}
	v.cmd.Env = append(os.Environ(), historyVariable+"="+dir)
	v.cmd.Stderr = os.Stderr
	in, err := v.cmd.StdinPipe()
	if err != nil {
		t.Error(err)
		return nil
	}
	out, err := v.cmd.StdoutPipe()
	if err != nil {
		t.Error(err)
		return nil
	}
	if err := v.cmd.Start(); err != nil {
		t.Error(err)
		return nil
	}
	v.steps = json.NewEncoder(in)
	for i := range v.answers {
		v.answers[i] = make(chan outcome, 1)
	}
	lines := bufio.NewReader(out)
	if ready, err := lines.ReadString('\n'); err != nil || ready != "ready\n" {
		t.Errorf("a server says %q, %v", ready, err)
	}
	go func() {
		defer close(v.dead)
		for answers := json.NewDecoder(lines); ; {
			var a laneOutcome
			if answers.Decode(&a) != nil {
				return
			}
			v.answers[a.Lane] <- a.Outcome
		}
	}()
	return v
}

func (v *victim) kill() {
	_ = v.cmd.Process.Kill()
	<-v.dead // what it said before it died counts
	_ = v.cmd.Wait()
}

func (v *victim) do(lane int, in step) outcome {
	v.mu.Lock()
	err := v.steps.Encode(laneStep{lane, in})
	v.mu.Unlock()
	if err != nil {
		return outcome{Unknown: true}
	}
	select {
	case out := <-v.answers[lane]:
		return out
	case <-v.dead:
	}
	select {
	case out := <-v.answers[lane]:
		return out
	default:
		return outcome{Unknown: true}
	}
}

// restarts kills the servers of one place one after the other, each after a
// little while, until it is closed.
type restarts struct {
	next   chan *victim // the one that serves now, for whoever asks
	closed chan struct{}
	ended  chan struct{}
	kills  int // read after ended
}

func newRestarts(t *testing.T, dir string, seed uint64) *restarts {
	r := &restarts{next: make(chan *victim), closed: make(chan struct{}), ended: make(chan struct{})}
	go func() {
		defer close(r.ended)
		random := rand.New(rand.NewPCG(seed, seed))
		for {
			v := startVictim(t, dir)
			if v == nil {
				return
			}
			enough := time.NewTimer(time.Duration(20+random.IntN(250)) * time.Millisecond)
			for serving := true; serving; {
				select {
				case r.next <- v:
				case <-enough.C:
					serving = false
				case <-r.closed:
					v.kill()
					return
				}
			}
			v.kill()
			r.kills++
		}
	}()
	return r
}

// TestCrashedSessionHistory is TestSessionHistory over two processes on one
// database, which are killed in the middle of their work and started again: what
// was answered stays true, and what was not answered happened or did not.
func TestCrashedSessionHistory(t *testing.T) {
	e := newEnvIn(t, memoryDir(t), historyConfig)
	places := make([]*restarts, 2)
	for i := range places {
		places[i] = newRestarts(t, e.dir, uint64(i))
	}
	stop := sync.OnceFunc(func() {
		for _, r := range places {
			close(r.closed)
			<-r.ended
		}
	})
	defer stop()
	told := map[string]int{}
	rounds := 0
	for began := time.Now(); time.Since(began) < historyTime(5*time.Second) && !t.Failed(); rounds++ {
		h := newHistory(t, []auth.User{e.register(fmt.Sprintf("a%d", rounds)), e.register(fmt.Sprintf("b%d", rounds))})
		var group sync.WaitGroup
		for i := range len(places) * lanes {
			group.Go(func() {
				r := rand.New(rand.NewPCG(uint64(rounds), uint64(i)))
				for range 25 {
					h.ask(i, h.choose(r), func(in step) outcome {
						select {
						case v := <-places[i/lanes].next:
							return v.do(i%lanes, in)
						case <-places[i/lanes].ended:
							return outcome{Fault: "there is no server any more"}
						}
					})
				}
			})
		}
		group.Wait()
		h.check()
		for k, n := range h.told {
			told[k] += n
		}
	}
	stop()
	kills := places[0].kills + places[1].kills
	t.Logf("%d rounds, %d kills: %v", rounds, kills, told)
	if kills < 3 || told["refresh unknown"]+told["login unknown"]+told["look unknown"]+told["logout unknown"] == 0 || told["refresh ok"] == 0 {
		t.Error("too little happened")
	}
}
