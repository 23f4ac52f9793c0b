package main

import (
	"context"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"modelgate/client"
	"modelgate/store/ratetest"
)

// TestRedisLost is row L5 in the whole program, with a real Redis that is killed, hangs, and comes back empty, while
// predictions go on: none of them fails, nobody signs in meanwhile, and everything returns by itself.
func TestRedisLost(t *testing.T) {
	ctx := context.Background()
	redis := ratetest.StartRedis(t)
	p := start(t, t.TempDir(), "MODELGATE_REDIS_URL="+redis.URL(), "MODELGATE_RATE_PREDICT=1000000-M", "MODELGATE_RATE_LOGIN=10000-M")
	operator, err := p.anonymous().Login(ctx, "admin", adminPassword)
	if err != nil {
		t.Fatal(err)
	}
	up := func() string {
		return metric(t, getAs(t, p.url+"/admin/metrics", operator.AccessToken), "modelgate_limit_store_up")
	}
	admin := p.with(operator.AccessToken)
	push(t, admin, "iris", modelBytes(t, "iris.onnx"), client.Spec{Roles: []string{"user"}})
	if _, err := p.anonymous().Register(ctx, "alice", "an unusual phrase 93"); err != nil {
		t.Fatal(err)
	}
	tokens, err := p.anonymous().Login(ctx, "alice", "an unusual phrase 93")
	if err != nil {
		t.Fatal(err)
	}
	alice := p.with(tokens.AccessToken)

	var stop atomic.Bool
	var served atomic.Int64
	var load sync.WaitGroup
	for range 4 {
		load.Go(func() {
			for !stop.Load() {
				if _, err := label(alice, client.PredictRequest{Model: "iris", Inputs: irisRow}); err != nil {
					t.Errorf("a prediction failed: %v", err)
					return
				}
				served.Add(1)
			}
		})
	}
	defer func() {
		stop.Store(true)
		load.Wait()
		t.Logf("%d predictions", served.Load())
	}()

	for _, outage := range []struct {
		name        string
		breaks, end func()
	}{
		{"killed", redis.Kill, func() { redis.Start() }},
		{"hanging", redis.Hang, redis.Continue},
		{"scripts lost", func() { redis.Must("SCRIPT", "FLUSH"); redis.Must("CONFIG", "SET", "maxmemory", "1") },
			func() { redis.Must("CONFIG", "SET", "maxmemory", "0") }},
	} {
		outage.breaks()
		before := served.Load()
		for signedIn := true; signedIn; { // what was asked in time may still be answered
			_, err := p.anonymous().Login(ctx, "alice", "an unusual phrase 93")
			if signedIn = err == nil; !signedIn {
				var told *client.Error
				if !errors.As(err, &told) || told.Status != 503 || told.Code != "unavailable" {
					t.Fatalf("%s: sign-in: %v; want 503", outage.name, err)
				}
			}
		}
		for start := time.Now(); served.Load() < before+20; time.Sleep(5 * time.Millisecond) {
			if t.Failed() || time.Since(start) > 30*time.Second {
				t.Fatalf("%s: %d predictions in %s", outage.name, served.Load()-before, time.Since(start))
			}
		}
		if resp, err := http.Get(p.url + "/readyz"); err != nil || resp.StatusCode != 200 {
			t.Errorf("%s: /readyz: %v, %v", outage.name, resp, err)
		} else {
			resp.Body.Close()
		}
		if got := up(); got != "0" {
			t.Errorf("%s: modelgate_limit_store_up %s", outage.name, got)
		}
		if tokens, err = p.anonymous().Refresh(ctx, tokens.RefreshToken); err != nil {
			t.Errorf("%s: refresh: %v", outage.name, err)
		}
		outage.end()
		for start := time.Now(); ; time.Sleep(20 * time.Millisecond) {
			if _, err := p.anonymous().Login(ctx, "alice", "an unusual phrase 93"); err == nil {
				break
			}
			if time.Since(start) > 30*time.Second {
				t.Fatalf("%s: sign-in does not come back", outage.name)
			}
		}
		if got := up(); got != "1" {
			t.Errorf("%s, afterwards: modelgate_limit_store_up %s", outage.name, got)
		}
	}
	if n := strings.Count(p.output(), "the store of rates fails"); n < 1 || n > 5 {
		t.Errorf("%d log lines of three outages", n)
	}
}

// metric is the value of a metric without labels.
func metric(t *testing.T, text, name string) string {
	t.Helper()
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+" "); ok {
			return value
		}
	}
	t.Fatalf("no metric %s", name)
	return ""
}

// TestRedisRefused proves that a bad URL, or one whose password is wrong, shows the password to nobody.
func TestRedisRefused(t *testing.T) {
	const canary = "c4nary-p4ssword"
	cmd := exec.Command("modelgate", "serve", "--data", t.TempDir(), "--redis-url", "http://u:"+canary+"@127.0.0.1")
	out, err := cmd.CombinedOutput()
	if err == nil || cmd.ProcessState.ExitCode() != 2 || strings.Contains(string(out), canary) || !strings.Contains(string(out), "redis://HOST:6379") {
		t.Errorf("%v: %s", err, out)
	}
	redis := ratetest.StartRedis(t)
	redis.Must("CONFIG", "SET", "requirepass", "another")
	data := t.TempDir()
	p := start(t, data, "MODELGATE_REDIS_URL=redis://:"+canary+"@"+redis.Address)
	_, err = p.anonymous().Login(context.Background(), "admin", adminPassword)
	refused(t, err, 503, "sign-in with a Redis that does not know us")
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
	protected, err := os.ReadFile(protectedPath(data))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(protected), "WRONGPASS") || strings.Contains(string(protected)+p.output(), canary) {
		t.Errorf("what the logs say:\n%s\n%s", protected, p.output())
	}
}
