package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ulule/limiter/v3"

	"modelgate/api"
	"modelgate/audit"
	"modelgate/auth"
	"modelgate/inference"
	"modelgate/inference/ort"
	"modelgate/models"
	"modelgate/store"
	"modelgate/store/ratetest"
	"modelgate/testdata"
)

// gate is what stands between a request and a model, with nothing around it:
// the real rooms over a real database.
type gate struct {
	auth    *auth.Service
	rates   limiter.Store
	catalog *models.Catalog
	audit   *audit.Log
	token   string
}

func newGate(tb testing.TB) *gate {
	tb.Helper()
	ctx, folder := context.Background(), tb.TempDir()
	must := func(err error) {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
	}
	library, err := ort.FindLibrary(os.Getenv("MODELGATE_ONNXRUNTIME_LIB"))
	if err != nil {
		tb.Skip("ONNX Runtime is missing; make test fetches it: ", err)
	}
	db, err := store.Open(ctx, filepath.Join(folder, "modelgate.db"), nil)
	must(err)
	tb.Cleanup(func() { db.Close() })
	g := &gate{rates: api.NewSliding(0, nil)}
	g.audit, err = audit.Open(ctx, audit.Config{Path: filepath.Join(folder, "audit.log"), Heads: db})
	must(err)
	tb.Cleanup(func() { g.audit.Close() })
	vault, err := auth.OpenVault(filepath.Join(folder, "keys", "master.key"), "")
	must(err)
	keys, err := auth.OpenKeyring(ctx, auth.KeyringConfig{Store: db, Vault: vault})
	must(err)
	guard := auth.NewGuard(g.audit)
	g.auth, err = auth.New(auth.Config{Store: db, Guard: guard, Audit: g.audit, Keys: keys, Vault: vault, Issuer: "http://modelgate.test",
		Hashing: auth.Hashing{Memory: 64, Time: 1, Parallel: 1}, Registration: "open"})
	must(err)
	_, _, err = g.auth.EnsureAdmin(ctx, password)
	must(err)
	files, err := models.OpenFiles(filepath.Join(folder, "models"), 1<<20)
	must(err)
	g.catalog, err = models.New(ctx, models.Config{Store: db, Files: files, Guard: guard})
	must(err)
	memory := inference.NewMemory(1 << 24)
	engine, err := ort.Open(library, ort.Config{Memory: memory})
	must(err)
	tb.Cleanup(func() { engine.Close() })
	service := inference.New(inference.Config{Engine: engine, Catalog: g.catalog, Memory: memory})
	tb.Cleanup(func() { service.Close(ctx) })

	iris, err := testdata.Models.ReadFile("iris.onnx")
	must(err)
	staged, err := g.catalog.Stage(ctx, bytes.NewReader(iris))
	must(err)
	owner := auth.Principal{Username: "owner", Permissions: auth.ModelsWrite | auth.ModelsManage}
	_, _, err = g.catalog.Publish(ctx, owner, "iris", staged, models.Spec{Roles: []string{"user"}}, service.Try)
	must(err)
	_, err = g.auth.Register(ctx, auth.Origin{Address: "127.0.0.1"}, "caller", password)
	must(err)
	tokens, err := g.auth.Login(ctx, auth.Origin{Address: "127.0.0.1"}, "bench", "caller", password, "")
	must(err)
	g.token = tokens.Access
	return g
}

// pass does for one request what the server does to let it in and to remember
// it: who is it, is his rate used up, may he call this model, and the count
// for the audit log.
func (g *gate) pass(ctx context.Context, token string, rate limiter.Rate) (granted bool, err error) {
	who, err := g.auth.Authenticate(ctx, auth.Origin{}, token)
	if err != nil {
		return false, err
	}
	charged, err := g.rates.Increment(ctx, who.UserID, 1, rate)
	if err != nil || charged.Reached {
		return false, err
	}
	access, err := g.catalog.Open(ctx, who, models.Ref{Model: "iris"})
	if err != nil {
		return false, err
	}
	g.audit.CountPrediction(who.UserID, who.Username, access.Version.Model, access.Version.Number, 1)
	return true, nil
}

// BenchmarkGate is the row of the table of targets: authentication,
// authorisation, limit and audit of one request, with a token seen before.
// `make bench` runs it between its other measurements.
func BenchmarkGate(b *testing.B) { newGate(b).measure(b, nil) }

// BenchmarkGateRedis is BenchmarkGate with the rates in a Redis on this
// machine, whose own CPU time is told beside.
func BenchmarkGateRedis(b *testing.B) {
	g, redis := newGate(b), ratetest.StartRedis(b)
	rates, err := store.OpenRedis(redis.URL(), nil)
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	b.Cleanup(func() { stop(); rates.Close() })
	go rates.Run(ctx)
	g.rates = rates
	g.measure(b, redis)
}

// measure passes one caller again and again.
func (g *gate) measure(b *testing.B, redis *ratetest.Redis) {
	ctx, rate := context.Background(), limiter.Rate{Period: time.Minute, Limit: 1 << 40}
	used := func(pid int) time.Duration {
		t, err := cpuTime(pid)
		if err != nil {
			b.Fatal(err)
		}
		return t
	}
	before, besides := used(os.Getpid()), time.Duration(0)
	if redis != nil {
		besides = used(redis.PID())
	}
	b.ReportAllocs()
	for b.Loop() {
		ok, err := g.pass(ctx, g.token, rate)
		for i := 0; redis != nil && err != nil && i < 1000; i++ { // on a busy machine Redis may answer too late
			time.Sleep(time.Millisecond)
			ok, err = g.pass(ctx, g.token, rate)
		}
		if !ok {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(used(os.Getpid())-before)/float64(b.N), "cpu-ns/op")
	if redis != nil {
		b.ReportMetric(float64(used(redis.PID())-besides)/float64(b.N), "redis-cpu-ns/op")
	}
}

// TestGate: what BenchmarkGate measures does decide.
func TestGate(t *testing.T) {
	g := newGate(t)
	ctx, once := t.Context(), limiter.Rate{Period: time.Hour, Limit: 1}
	if ok, err := g.pass(ctx, g.token+"x", once); ok || err == nil {
		t.Errorf("a wrong token passed: %v", err)
	}
	if ok, err := g.pass(ctx, g.token, once); !ok {
		t.Errorf("the first request was held up: %v", err)
	}
	if ok, err := g.pass(ctx, g.token, once); ok || err != nil {
		t.Errorf("the second request, over the rate, gave %v, %v", ok, err)
	}
}
