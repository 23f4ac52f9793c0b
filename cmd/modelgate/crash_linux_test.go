package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"modelgate/client"
)

// fragile is a model that ends its process: see empty_inside in
// testdata/hostile_runs.py. Zeros do it no harm.
const (
	harmless = `{"model":"fragile","inputs":[[[0,0]]]}`
	deadly   = `{"model":"fragile","inputs":[[[1,1]]]}`
)

// crash ends the model's process. While it rests after the last crash, the
// caller tries again, as a client would that honours Retry-After.
func crash(t *testing.T, p *program, token string, crashes int) {
	t.Helper()
	if status, answer := predictAs(p.url, token, []byte(deadly)); status != 503 {
		t.Errorf("the call that ends the process: status %d: %s", status, answer)
	}
	within(t, time.Minute, fmt.Sprintf("crash %d is on record", crashes), func() bool {
		return p.crashes() == crashes
	})
}

// crashes is how many processes the metrics know to have ended by a signal.
func (p *program) crashes() int {
	p.t.Helper()
	return p.metric(`modelgate_inference_crashes_total{reason="signal"}`)
}

// metric is the value of a counter.
func (p *program) metric(name string) int {
	p.t.Helper()
	if p.operator == "" {
		p.operator = p.token("admin", adminPassword)
	}
	text := getAs(p.t, p.url+"/admin/metrics", p.operator)
	_, value, found := strings.Cut(text, "\n"+name+" ")
	var n int
	if _, err := fmt.Sscan(value, &n); !found || err != nil {
		p.t.Fatalf("no metric %s: %v", name, err)
	}
	return n
}

// serves waits until a caller is served: after crashes a model rests for a
// while before it is loaded again.
func serves(t *testing.T, p *program, token, body string) {
	t.Helper()
	within(t, time.Minute, "the model is served again", func() bool {
		status, answer := predictAs(p.url, token, []byte(body))
		if status != 200 && status != 503 {
			t.Fatalf("status %d: %s", status, answer)
		}
		return status == 200
	})
}

// TestCrashes has a caller end a model's process. It costs him that call, then
// the model, and nobody else anything.
func TestCrashes(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir(), quietly...)
	admin := p.admin()
	spec := client.Spec{Roles: []string{"user"}}
	push(t, admin, "iris", modelBytes(t, "iris.onnx"), spec)
	push(t, admin, "fragile", hostile(t, "empty_inside"), spec)
	tokens := p.register("alice", "bob", "carol")
	alice, bob := tokens[0], tokens[1]
	others := traffic{url: p.url, tokens: tokens[2:], bodies: [][]byte{irisBody}}
	server := p.cmd.Process.Pid
	others.during(t, 200, func() {
		serves(t, p, alice, harmless)
		worker := p.workers()
		crash(t, p, alice, 1)
		if status, answer := predictAs(p.url, alice, []byte(harmless)); status != 200 {
			t.Errorf("the next call after a first crash: status %d: %s", status, answer)
		}
		if now := p.workers(); len(now) != len(worker) || fmt.Sprint(now) == fmt.Sprint(worker) {
			t.Errorf("processes before the crash: %v, after it: %v", worker, now)
		}
		for n := 2; n <= 3; n++ {
			serves(t, p, bob, harmless)
			crash(t, p, alice, n)
		}
		serves(t, p, bob, harmless)
		status, answer := predictAs(p.url, alice, []byte(harmless))
		if status != 503 || !strings.Contains(answer, "closed to you") {
			t.Errorf("a caller after three crashes: status %d: %s", status, answer)
		}
		if status, answer := predictAs(p.url, bob, []byte(harmless)); status != 200 {
			t.Errorf("another caller then: status %d: %s", status, answer)
		}
		if status, answer := predictAs(p.url, alice, irisBody); status != 200 {
			t.Errorf("that caller at another model: status %d: %s", status, answer)
		}
	})
	if m, err := admin.Model(t.Context(), "fragile"); err != nil || m.Versions[0].State != "ready" {
		t.Errorf("after the crashes of one caller: %+v, %v", m.Versions, err)
	}
	if n := p.metric("modelgate_inference_callers_refused_total"); n != 1 {
		t.Errorf("%d callers are refused", n)
	}
	if p.cmd.Process.Pid != server || p.cmd.ProcessState != nil {
		t.Error("the server did not live through it")
	}
}

// TestCrashLoop has several callers end a model's process, until it is out of
// service: with a reason for those who manage it, a record, and a number.
// Published once more, it is served.
func TestCrashLoop(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	data := t.TempDir()
	p := start(t, data, quietly...)
	admin := p.admin()
	file := hostile(t, "empty_inside")
	push(t, admin, "fragile", file, client.Spec{Roles: []string{"user"}})
	names := []string{"anna", "bert", "cleo", "dora", "emil"}
	tokens := p.register(names...)
	for n, token := range tokens {
		serves(t, p, token, harmless)
		crash(t, p, token, n+1)
	}
	var m client.Model
	within(t, time.Minute, "the version is out of service", func() bool {
		var err error
		if m, err = admin.Model(ctx, "fragile"); err != nil {
			t.Fatal(err)
		}
		return m.Versions[0].State == "quarantined"
	})
	if !strings.Contains(m.Versions[0].Reason, "ended 5 times") || !strings.Contains(m.Versions[0].Reason, "signal") {
		t.Errorf("the reason is %q", m.Versions[0].Reason)
	}
	status, answer := predictAs(p.url, tokens[0], []byte(harmless))
	if status != 503 || strings.Contains(answer, "signal") || strings.Contains(answer, "quarantine") {
		t.Errorf("a caller is told: status %d: %s", status, answer)
	}
	if seen := getAs(t, p.url+"/models/fragile", tokens[0]); strings.Contains(seen, "signal") || strings.Contains(seen, "reason") {
		t.Errorf("a caller sees %s", seen)
	}
	if n := p.metric("modelgate_inference_quarantines_total"); n != 1 {
		t.Errorf("%d quarantines", n)
	}
	records, err := admin.Audit(ctx, client.AuditQuery{Action: "model.quarantine"})
	if err != nil || len(records) != 1 || records[0].Actor != "modelgate" || records[0].Detail["reason"] != m.Versions[0].Reason {
		t.Errorf("recorded: %+v, %v", records, err)
	}
	if n := len(p.workers()); n != 0 {
		t.Errorf("%d processes of a model that is out of service", n)
	}
	push(t, admin, "fragile", file, client.Spec{Default: true})
	serves(t, p, tokens[1], harmless)
	p.kill()
	p = start(t, data, quietly...)
	if m, err := p.admin().Model(ctx, "fragile"); err != nil || len(m.Versions) != 2 || m.Versions[0].State == m.Versions[1].State {
		t.Errorf("after a restart: %+v, %v", m.Versions, err)
	}
}

// TestKilledWorker kills the process of one of two models under load. Every
// request has an answer, the other model does not notice, and the killed one is
// served again.
func TestKilledWorker(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir(), quietly...)
	admin := p.admin()
	spec := client.Spec{Roles: []string{"user"}}
	push(t, admin, "iris", modelBytes(t, "iris.onnx"), spec)
	push(t, admin, "digits", modelBytes(t, "digits.onnx"), spec)
	if status, answer := predictAs(p.url, p.token("admin", adminPassword), digitsBody); status != 200 {
		t.Fatalf("status %d: %s", status, answer)
	}
	victim := p.workerOf(admin, client.PredictRequest{Model: "iris", Inputs: irisRow})
	bystanders := slices.DeleteFunc(p.workers(), func(pid int) bool { return pid == victim })
	// Of several callers, since what one alone may be to blame for counts against him.
	tokens := p.register("alice", "bob", "carol", "dora", "emil", "fred", "gina", "hans")
	hit := traffic{url: p.url, tokens: tokens, bodies: [][]byte{irisBody}, also: []int{503}}
	spared := traffic{url: p.url, tokens: tokens, bodies: [][]byte{digitsBody}}
	over, ended := make(chan struct{}), make(chan int, 1)
	go func() {
		took, _ := spared.during(t, 1000, func() { <-over })
		ended <- len(took)
	}()
	took, refusals := hit.during(t, 1000, func() {
		defer close(over)
		for range 2 {
			busy(t, victim)
			if err := syscall.Kill(victim, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			killed := time.Now()
			serves(t, p, tokens[0], string(irisBody))
			t.Logf("served again after %v", time.Since(killed))
			fresh := slices.DeleteFunc(p.workers(), func(pid int) bool { return slices.Contains(bystanders, pid) })
			if len(fresh) != 1 || fresh[0] == victim {
				t.Fatalf("processes of the killed model: %v; killed was %d", fresh, victim)
			}
			victim = fresh[0]
		}
	})
	t.Logf("%d requests for the killed model, of which %d got 503; %d for the other", len(took), refusals, <-ended)
	for _, pid := range bystanders {
		if !slices.Contains(p.workers(), pid) {
			t.Errorf("the process %d of the other model ended too", pid)
		}
	}
}

// busy waits until a process has computed for a while: a tenth of a second.
func busy(t *testing.T, pid int) {
	t.Helper()
	ticks := func() (n int) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		for _, field := range strings.Fields(rest)[11:13] { // in user mode, in the kernel
			ticks, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			n += ticks
		}
		return n
	}
	before := ticks()
	within(t, time.Minute, "the process is at work", func() bool { return ticks() >= before+10 })
}
