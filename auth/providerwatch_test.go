package auth_test

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"modelgate/auth"
	"modelgate/auth/authtest"
)

// watchLog is a log whose lines can be waited for.
type watchLog struct {
	mu    sync.Mutex
	text  strings.Builder // guarded by mu
	wrote chan struct{}   // closed and replaced at each line; guarded by mu
}

func newWatchLog() *watchLog { return &watchLog{wrote: make(chan struct{})} }

func (l *watchLog) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.wrote)
	l.wrote = make(chan struct{})
	return l.text.Write(line)
}

// of returns the lines about a provider, and what tells of the next one.
func (l *watchLog) of(provider string) (lines string, next <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.text.String()) {
		if strings.Contains(line, `"provider":"`+provider+`"`) {
			lines += line
		}
	}
	return lines, l.wrote
}

// await waits for a line about a provider.
func (l *watchLog) await(t *testing.T, provider, part string) {
	t.Helper()
	late := time.After(time.Minute)
	for {
		lines, next := l.of(provider)
		if strings.Contains(lines, part) {
			return
		}
		select {
		case <-next:
		case <-late:
			t.Fatalf("nothing of %s says %q: %s", provider, part, lines)
		}
	}
}

// up reads the metric of a provider.
func (e *env) up(provider string) float64 {
	e.t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(e.Collectors()...)
	families, err := registry.Gather()
	if err != nil {
		e.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "modelgate_identity_provider_up" && m.GetLabel()[0].GetValue() == provider {
				return m.GetGauge().GetValue()
			}
		}
	}
	e.t.Fatalf("no metric of %s", provider)
	return 0
}

// Each provider is asked at the start. One that can't be used is told of, with what
// to do, and asked again until it can; meanwhile the rest goes on.
func TestProvidersAreAskedAtStart(t *testing.T) {
	good, wrong, late := authtest.NewProvider(t), authtest.NewProvider(t), authtest.NewProvider(t)
	wrong.Meta["issuer"] = "https://id.example.com"
	untrusted := httptest.NewUnstartedServer(http.NotFoundHandler())
	untrusted.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	untrusted.StartTLS()
	defer untrusted.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0") // nobody listens there afterwards
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	late.Change(func() {
		late.Answer["/keys"] = func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "canary", http.StatusTeapot) }
	})
	provider := func(name, issuer string) auth.Provider {
		cfg := good.Config()
		cfg.Name, cfg.Issuer = name, issuer
		return cfg
	}
	// Each question is a minute after the last: providers are not asked more often.
	asked := &clock{t: time.Date(2030, 3, 1, 12, 0, 0, 0, time.UTC)}
	log := newWatchLog()
	e := newEnv(t).replica(withProviders(provider("good", good.Issuer()), provider("wrong", wrong.Issuer()), provider("late", late.Issuer()),
		provider("untrusted", untrusted.URL), provider("closed", "http://"+closed.Addr().String())),
		func(c *auth.Config) {
			c.Logger = slog.New(slog.NewJSONHandler(log, nil))
			c.Now = func() time.Time { asked.advance(time.Minute); return asked.now() }
		})
	e.WatchFirst(time.Millisecond)
	if e.up("good") != 0 {
		t.Error("up, and nobody has asked")
	}
	ctx, cancel := context.WithCancel(e.ctx)
	done := make(chan error)
	go func() { done <- e.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	log.await(t, "good", "answers")
	log.await(t, "wrong", "write issuer exactly as it does there")
	log.await(t, "untrusted", "SSL_CERT_FILE")
	log.await(t, "closed", "it can't be reached")
	log.await(t, "late", "see cause in the protected log")
	if e.up("good") != 1 || e.up("wrong") != 0 || e.up("late") != 0 {
		t.Errorf("up: good %v, wrong %v, late %v", e.up("good"), e.up("wrong"), e.up("late"))
	}
	late.Change(func() { delete(late.Answer, "/keys") })
	log.await(t, "late", "answers")
	if lines, _ := log.of("good"); e.up("late") != 1 || strings.Contains(lines, "can't be used") {
		t.Errorf("late is up: %v; of the good one: %s", e.up("late"), lines)
	}
}
