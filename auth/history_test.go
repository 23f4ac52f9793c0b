package auth_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"modelgate/auth"
)

// step is one thing that somebody asks of a server, at a time that the test
// chooses.
type step struct {
	Op      string // "login", "refresh", "logout", "look", "disable", "enable"
	User    string // id
	Name    string
	Session string
	Token   string // refresh token
	Now     int64  // Unix seconds
}

// outcome is its answer. Unknown: the server died, or its caller left.
type outcome struct {
	OK      bool // done; of "look": the token is alive
	Unknown bool
	Session string
	Token   string
	Access  string
	Fault   string // anything but a refusal
}

const (
	historyIdle     = 40 // seconds, of a refresh token
	historyAbsolute = 60 // seconds, of a session
)

// family is what a session ought to be: its one live refresh token, and when it
// ends.
type family struct {
	session, live string
	idle, end     int64
}

// account of the model: a user, and his families that have not ended, in the
// order of their sessions' names. It is never written to.
type modelled struct {
	disabled bool
	families string // of fmt.Sprint, for comparison
	by       map[string]family
}

func (m modelled) with(change func(by map[string]family)) modelled {
	by := maps.Clone(m.by)
	change(by)
	return modelled{disabled: m.disabled, by: by, families: fmt.Sprint(by)} // Sprint orders the keys
}

func (m modelled) ended(session string) modelled {
	return m.with(func(by map[string]family) { delete(by, session) })
}

// sessionModel says one user's sessions as if everything happened one after the
// other.
var sessionModel = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		parts := map[string][]porcupine.Operation{}
		for _, o := range history {
			user := o.Input.(step).User
			parts[user] = append(parts[user], o)
		}
		return slices.Collect(maps.Values(parts))
	},
	Init: func() any { return modelled{by: map[string]family{}} },
	Equal: func(a, b any) bool {
		return a.(modelled).disabled == b.(modelled).disabled && a.(modelled).families == b.(modelled).families
	},
	Step: func(state, input, output any) (bool, any) {
		return state.(modelled).step(input.(step), output.(outcome))
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) },
}

// step says whether the outcome is right, and what comes after.
func (m modelled) step(in step, out outcome) (bool, any) {
	f, alive := m.by[in.Session]
	switch in.Op {
	case "login":
		if m.disabled || !out.OK {
			return m.disabled && !out.OK, m
		}
		return true, m.with(func(by map[string]family) {
			end := in.Now + historyAbsolute
			by[out.Session] = family{out.Session, out.Token, min(in.Now+historyIdle, end), end}
		})
	case "refresh":
		switch {
		case !alive:
			return out.Unknown || !out.OK, m
		case f.live != in.Token: // used before: the family ends
			return out.Unknown || !out.OK, m.ended(in.Session)
		case in.Now >= f.idle:
			return out.Unknown || !out.OK, m
		}
		next := out.Token
		if out.Unknown {
			next = "whatever came for " + in.Token
		}
		return out.Unknown || out.OK, m.with(func(by map[string]family) {
			by[in.Session] = family{f.session, next, min(in.Now+historyIdle, f.end), f.end}
		})
	case "look":
		return out.OK == (alive && f.live == in.Token && in.Now < f.idle), m
	case "logout":
		return true, m.ended(in.Session)
	case "disable":
		return true, modelled{disabled: true, by: map[string]family{}, families: fmt.Sprint(map[string]family{})}
	case "enable":
		m.disabled = false
		return true, m
	}
	return false, m
}

// perform does a step on a Service whose clock stands at its time.
func perform(ctx context.Context, s *auth.Service, in step) outcome {
	refused := func(err error, refusal error) outcome {
		switch {
		case err == nil:
			return outcome{OK: true}
		case errors.Is(err, refusal):
			return outcome{}
		case errors.Is(err, auth.ErrUnavailable) || errors.Is(err, context.Canceled):
			return outcome{Unknown: true}
		}
		return outcome{Fault: err.Error()}
	}
	boss := auth.Principal{UserID: "boss", Username: "boss", Permissions: math.MaxUint32}
	switch in.Op {
	case "login":
		tok, err := s.Login(ctx, origin, "x", in.Name, password, "")
		out := refused(err, auth.ErrCredentials)
		out.Session, out.Token, out.Access = tok.Session.ID, tok.Refresh, tok.Access
		return out
	case "refresh":
		tok, err := s.Refresh(ctx, origin, in.Token)
		out := refused(err, auth.ErrToken)
		out.Token, out.Access = tok.Refresh, tok.Access
		return out
	case "look":
		i, err := s.Introspect(ctx, in.Token)
		out := refused(err, errors.ErrUnsupported)
		out.OK = i.Active
		return out
	case "logout":
		return refused(s.Logout(ctx, auth.Principal{UserID: in.User, Username: in.Name, SessionID: in.Session}), errors.ErrUnsupported)
	case "disable", "enable":
		_, err := s.UpdateUser(ctx, boss, in.User, auth.UserPatch{Disabled: ptr(in.Op == "disable")})
		return refused(err, errors.ErrUnsupported)
	}
	return outcome{Fault: "unknown step " + in.Op}
}

// history lets workers ask things of servers, at once, and notes what they did
// and when.
type history struct {
	t       *testing.T
	users   []auth.User
	virtual atomic.Int64 // the time of the steps
	clock   atomic.Int64 // grows with every call and return

	mu    sync.Mutex
	known []held                // guarded by mu: every token there ever was
	done  []porcupine.Operation // guarded by mu
	told  map[string]int        // outcomes by step; guarded by mu
}

type held struct {
	user           auth.User
	session, token string
}

func newHistory(t *testing.T, users []auth.User) *history {
	h := &history{t: t, users: users, told: map[string]int{}}
	h.virtual.Store(time.Date(2030, 3, 1, 12, 0, 0, 0, time.UTC).Unix())
	return h
}

// choose makes the next step of a worker.
func (h *history) choose(r *rand.Rand) step {
	if r.IntN(12) == 0 {
		h.virtual.Add(int64(r.IntN(60)))
	}
	now := h.virtual.Load()
	user := h.users[r.IntN(len(h.users))]
	in := step{User: user.ID, Name: user.Username, Now: now}
	h.mu.Lock()
	defer h.mu.Unlock()
	at := r.IntN(100)
	if len(h.known) == 0 || at < 12 {
		in.Op = "login"
		return in
	}
	if at < 16 {
		in.Op = []string{"disable", "enable", "enable"}[r.IntN(3)]
		return in
	}
	// Mostly one of the newest tokens, so that several want the same one.
	back := 1 + r.IntN(min(3, len(h.known)))
	if r.IntN(8) == 0 {
		back = 1 + r.IntN(len(h.known))
	}
	k := h.known[len(h.known)-back]
	in.User, in.Name, in.Session, in.Token = k.user.ID, k.user.Username, k.session, k.token
	switch {
	case at < 20:
		in.Op = "logout"
	case at < 40:
		in.Op = "look"
	default:
		in.Op = "refresh"
	}
	return in
}

// ask does a step, notes it, and remembers the token that came of it.
func (h *history) ask(worker int, in step, do func(step) outcome) outcome {
	call := h.clock.Add(1)
	out := do(in)
	returned := h.clock.Add(1)
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case out.Fault != "":
		h.t.Errorf("%+v: %s", in, out.Fault)
		return out
	case out.Unknown:
		h.told[in.Op+" unknown"]++
		if in.Op == "login" || in.Op == "look" {
			return out // nobody learned anything of it
		}
		returned = math.MaxInt64 // it may take effect at any later time, or never
	case out.OK:
		h.told[in.Op+" ok"]++
	default:
		h.told[in.Op+" refused"]++
	}
	h.done = append(h.done, porcupine.Operation{ClientId: worker, Input: in, Output: out, Call: call, Return: returned})
	if out.OK && out.Token != "" {
		session := in.Session
		if in.Op == "login" {
			session = out.Session
		}
		user := h.users[slices.IndexFunc(h.users, func(u auth.User) bool { return u.ID == in.User })]
		h.known = append(h.known, held{user, session, out.Token})
	}
	return out
}

// cutOff allows what is no single step: a refresh uses up its token, finds that
// the user was disabled at this moment, and is refused. Nobody gets anything by
// it, but others may have seen the token used. So a refusal during a disabling
// of the user may have done what an unanswered refresh may.
func (h *history) cutOff() {
	for i, o := range h.done {
		in, out := o.Input.(step), o.Output.(outcome)
		if in.Op != "refresh" || out.OK || out.Unknown {
			continue
		}
		if slices.ContainsFunc(h.done, func(d porcupine.Operation) bool {
			by := d.Input.(step)
			return by.Op == "disable" && by.User == in.User && d.Call < o.Return && o.Call < d.Return
		}) {
			out.Unknown = true
			h.done[i].Output = out
		}
	}
}

// check holds the history against the model.
func (h *history) check() {
	h.t.Helper()
	h.cutOff()
	result, info := porcupine.CheckOperationsVerbose(sessionModel, h.done, time.Minute)
	if result == porcupine.Ok {
		return
	}
	if result == porcupine.Unknown {
		h.t.Fatalf("%d steps could not be judged in time", len(h.done))
	}
	for _, o := range h.done {
		h.t.Logf("%d..%d %+v -> %+v", o.Call, o.Return, o.Input, o.Output)
	}
	if dir := os.Getenv("MODELGATE_TEST_KEEP"); dir != "" {
		_ = porcupine.VisualizePath(sessionModel, info, dir+"/history.html")
	}
	h.t.Fatal("no order of these steps explains what was answered")
}

// historyTime is how long a test of histories goes on.
func historyTime(usual time.Duration) time.Duration {
	if os.Getenv("MODELGATE_SOAK") != "" {
		return 3 * time.Minute
	}
	return usual
}

func historyConfig(c *auth.Config) {
	c.RefreshTTL, c.SessionTTL, c.AccessTTL = historyIdle*time.Second, historyAbsolute*time.Second, time.Minute
}

// TestSessionHistory has callers refresh, replay, log out, look and disable at
// once, over several Services on one database, each with a clock of its own as
// several servers have, and looks for an order in which a single one could have
// answered so.
func TestSessionHistory(t *testing.T) {
	e := newEnvIn(t, memoryDir(t), historyConfig)
	const workers = 6
	services := make([]*auth.Service, workers)
	clocks := make([]atomic.Int64, workers)
	for i := range services {
		cfg := auth.Config{Store: e.db, Guard: auth.NewGuard(e.audit), Audit: e.audit, Keys: e.keys, Vault: e.vault, Issuer: issuer, Hashing: cheap,
			Now: func() time.Time { return time.Unix(clocks[i].Load(), 0) }}
		historyConfig(&cfg)
		var err error
		services[i], err = auth.New(cfg)
		want(t, err, nil)
	}
	told := map[string]int{}
	rounds := 0
	for began := time.Now(); time.Since(began) < historyTime(4*time.Second); rounds++ {
		h := newHistory(t, []auth.User{e.register(fmt.Sprintf("a%d", rounds)), e.register(fmt.Sprintf("b%d", rounds))})
		var group sync.WaitGroup
		for i := range workers {
			group.Go(func() {
				r := rand.New(rand.NewPCG(uint64(rounds), uint64(i)))
				for range 25 {
					in := h.choose(r)
					clocks[i].Store(in.Now)
					h.ask(i, in, func(in step) outcome {
						ctx, cancel := context.WithCancel(e.ctx)
						defer cancel()
						if r.IntN(20) == 0 { // who asks leaves at some moment
							time.AfterFunc(time.Duration(r.IntN(1500))*time.Microsecond, cancel)
						}
						return perform(ctx, services[i], in)
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
	t.Logf("%d rounds: %v", rounds, told)
	for _, what := range []string{"login ok", "login refused", "refresh ok", "refresh refused", "refresh unknown", "look ok", "look refused", "logout ok", "disable ok"} {
		if told[what] == 0 && !raceEnabled {
			t.Errorf("never: %s", what)
		}
	}
}
