package store

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ulule/limiter/v3"

	"modelgate/store/ratetest"
)

// shared opens a store in a server's Redis as servers do, with Run at work: for what is about the time that a call may
// take. On a loaded machine any call may take longer, and may have been granted nonetheless.
func shared(t testing.TB, url string, log *slog.Logger) *Redis {
	t.Helper()
	r, err := OpenRedis(url, log)
	if err != nil {
		t.Fatal(err)
	}
	return running(t, r)
}

// unhurried is shared, but calls may take as long as a loaded machine needs. now is the clock, Redis's own when nil.
func unhurried(t testing.TB, url string, log *slog.Logger, now func() time.Time) *Redis {
	t.Helper()
	o, err := ParseRedis(url)
	if err != nil {
		t.Fatal(err)
	}
	r := openRedis(o, log, time.Minute)
	r.now = now
	return running(t, r)
}

func running(t testing.TB, r *Redis) *Redis {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = r.Run(ctx)
	}()
	t.Cleanup(func() {
		stop()
		<-done
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// TestRedisWindow runs the suite of all stores of rates.
func TestRedisWindow(t *testing.T) {
	server := ratetest.StartRedis(t)
	ratetest.RunTests(t, func(t *testing.T, now func() time.Time) limiter.Store {
		server.Must("FLUSHALL")
		return unhurried(t, server.URL(), nil, now)
	})
}

// TestRedisShared lets many servers take from one window at once.
func TestRedisShared(t *testing.T) {
	server := ratetest.StartRedis(t)
	rate := limiter.Rate{Limit: 1000, Period: time.Hour}
	var granted, refused atomic.Int64
	var group sync.WaitGroup
	for range 4 {
		s := unhurried(t, server.URL(), nil, nil)
		for range 4 {
			group.Go(func() {
				for range 100 {
					switch c, err := s.Get(t.Context(), "k", rate); {
					case err != nil:
						t.Error(err)
					case c.Reached:
						refused.Add(1)
					default:
						granted.Add(1)
					}
				}
			})
		}
	}
	group.Wait()
	if granted.Load() != 1000 || refused.Load() != 600 {
		t.Errorf("%d granted and %d refused of 1600 tries at 1000", granted.Load(), refused.Load())
	}
}

// TestRedisKeys looks at what lies in Redis: no name, no address, a bounded size, and an end.
func TestRedisKeys(t *testing.T) {
	server := ratetest.StartRedis(t)
	clock := ratetest.NewClock()
	r := unhurried(t, server.URL(), nil, clock.Now)
	rate := limiter.Rate{Limit: 1 << 31, Period: 24 * time.Hour}
	for _, key := range []string{"account:ada.lovelace", "login:192.0.2.77"} {
		for range 200 { // two days and more, a grant in each slot
			if _, err := r.Increment(t.Context(), key, 1<<24, rate); err != nil {
				t.Fatal(err)
			}
			clock.Advance(24 * time.Minute)
		}
	}
	keys, err := r.client.Keys(t.Context(), "*").Result()
	if err != nil || len(keys) != 3 { // and the probe's
		t.Fatalf("%q, %v", keys, err)
	}
	for _, key := range keys {
		if !strings.HasPrefix(key, "modelgate:rate:{") || strings.Contains(key, "ada") || strings.Contains(key, "192") {
			t.Errorf("key %q", key)
		}
		size, err := r.client.StrLen(t.Context(), key).Result()
		if err != nil || size > 900 {
			t.Errorf("%s takes %d bytes, %v", key, size, err)
		}
		left, err := r.client.PTTL(t.Context(), key).Result()
		if err != nil || left <= 0 || left > 25*time.Hour {
			t.Errorf("%s is kept for %s, %v", key, left, err)
		}
	}
	// A refusal writes nothing.
	before := server.Must("DBSIZE")
	if c, err := r.Increment(t.Context(), "other", 2, limiter.Rate{Limit: 1, Period: time.Hour}); err != nil || !c.Reached {
		t.Fatalf("%+v, %v", c, err)
	}
	if after := server.Must("DBSIZE"); after != before {
		t.Errorf("a refusal left a key: %s before, %s after", before, after)
	}
}

// redisFaults are what can happen to a Redis, and how it comes back.
var redisFaults = []struct {
	name    string
	args    []string // of the server
	breaks  func(t *testing.T, r *ratetest.Redis)
	mends   func(t *testing.T, r *ratetest.Redis)
	says    string // in the error of the first call
	forgets bool   // what was counted before
	hurried bool   // only the limit of a call tells
}{
	{"killed", nil,
		func(_ *testing.T, r *ratetest.Redis) { r.Kill() },
		func(_ *testing.T, r *ratetest.Redis) { r.Start() }, "", true, false},
	{"hanging", nil,
		func(_ *testing.T, r *ratetest.Redis) { r.Hang() },
		func(_ *testing.T, r *ratetest.Redis) { r.Continue() }, "", false, true},
	{"the password changed", nil,
		func(t *testing.T, r *ratetest.Redis) {
			r.Must("CONFIG", "SET", "requirepass", "another password")
			r.Kill()
			r.Start("--requirepass", "another password")
		},
		func(t *testing.T, r *ratetest.Redis) {
			r.Kill()
			r.Start()
		}, "NOAUTH", true, false},
	{"full", []string{"--maxmemory-policy", "noeviction"},
		func(t *testing.T, r *ratetest.Redis) { r.Must("CONFIG", "SET", "maxmemory", "1") },
		func(t *testing.T, r *ratetest.Redis) { r.Must("CONFIG", "SET", "maxmemory", "0") }, "OOM", false, false},
	{"a replica that only reads", nil,
		func(t *testing.T, r *ratetest.Redis) { r.Must("REPLICAOF", "127.0.0.1", "1") },
		func(t *testing.T, r *ratetest.Redis) { r.Must("REPLICAOF", "NO", "ONE") }, "READONLY", false, false},
	{"loading", nil,
		func(t *testing.T, r *ratetest.Redis) {
			r.Must("DEBUG", "POPULATE", "12000")
			r.Must("SAVE")
			r.Kill()
			r.Start("--key-load-delay", "300", "--loading-process-events-interval-bytes", "1024")
		},
		func(t *testing.T, r *ratetest.Redis) {}, "LOADING", false, false},
}

// TestRedisFaults is row L5 below the policy: a call fails with what Redis said or within its 100 ms, those after it at
// once, without a wait for each, and when Redis works again so do they, by themselves.
func TestRedisFaults(t *testing.T) {
	for _, fault := range redisFaults {
		t.Run(fault.name, func(t *testing.T) {
			server := ratetest.StartRedis(t, append([]string{"--enable-debug-command", "yes"}, fault.args...)...)
			var log safeBuffer
			open := func(t testing.TB, url string, log *slog.Logger) *Redis { return unhurried(t, url, log, nil) }
			if fault.hurried {
				open = shared
			}
			r := open(t, server.URL(), slog.New(slog.NewTextHandler(&log, nil)))
			rate := limiter.Rate{Limit: 10, Period: time.Hour}
			if _, err := unhurried(t, server.URL(), nil, nil).Increment(t.Context(), "k", 7, rate); err != nil {
				t.Fatal(err)
			}
			fault.breaks(t, server)

			_, err := r.Increment(t.Context(), "k", 1, rate)
			for i := 0; err == errRedisDown && i < 100; i++ { // a slow machine lost a call before
				time.Sleep(10 * time.Millisecond)
				_, err = r.Increment(t.Context(), "k", 1, rate)
			}
			if err == nil || !strings.Contains(err.Error(), fault.says) {
				t.Fatalf("the first call: %v; want %q", err, fault.says)
			}
			start := time.Now()
			for range 1000 {
				if _, err := r.Increment(t.Context(), "k", 1, rate); err == nil && fault.name != "loading" {
					t.Fatal("a call succeeds")
				}
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("1000 calls took %s: each waits for a Redis that is known to fail", took)
			}
			fault.mends(t, server)

			want := int64(3)
			if fault.forgets {
				want = 10
			}
			got := eventually(t, r, rate)
			// A Redis that hung may have done what it was asked for before it was given up.
			if got.Remaining > want || got.Remaining < want-2 {
				t.Errorf("afterwards %+v; want %d remaining", got, want)
			}
			if n := strings.Count(log.String(), "does not answer"); n > 2 {
				t.Errorf("%d log lines of one outage:\n%s", n, &log)
			}
		})
	}
}

// eventually asks until Redis answers, with Run alone to find out.
func eventually(t *testing.T, r *Redis, rate limiter.Rate) limiter.Context {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c, err := r.Increment(t.Context(), "k", 0, rate)
		if err == nil {
			return c
		}
		if time.Now().After(deadline) {
			t.Fatalf("it does not come back: %v", err)
		}
	}
}

// safeBuffer is a log that a test reads while it is written.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// TestRedisEmptyAfterFailover: another Redis takes the place of one that is gone, and knows nothing. Limits hold from then
// on for all servers together, beginning with full allowances, and no error stays.
func TestRedisEmptyAfterFailover(t *testing.T) {
	server := ratetest.StartRedis(t)
	rate := limiter.Rate{Limit: 20, Period: time.Hour}
	stores := []*Redis{unhurried(t, server.URL(), nil, nil), unhurried(t, server.URL(), nil, nil)}
	spend := func() (granted, refused int) {
		t.Helper()
		for i := range 30 {
			switch c, err := stores[i%2].Get(t.Context(), "k", rate); {
			case err != nil:
				t.Fatal(err)
			case c.Reached:
				refused++
			default:
				granted++
			}
		}
		return granted, refused
	}
	for n := range 3 {
		if granted, refused := spend(); granted != 20 || refused != 10 {
			t.Fatalf("after %d failovers %d are granted and %d refused; want 20 and 10", n, granted, refused)
		}
		if granted, refused := spend(); granted != 0 || refused != 30 {
			t.Fatalf("after %d failovers, used up: %d are granted and %d refused", n, granted, refused)
		}
		server.Kill()
		for i, s := range stores {
			if _, err := s.Get(t.Context(), "k", rate); err == nil {
				t.Fatalf("server %d counts without a Redis", i)
			}
		}
		server.Start()
		for _, s := range stores {
			eventually(t, s, rate)
		}
	}
}

// TestRedisScriptLost proves that a Redis that lost its scripts is no failure.
func TestRedisScriptLost(t *testing.T) {
	server := ratetest.StartRedis(t)
	s := unhurried(t, server.URL(), nil, nil)
	rate := limiter.Rate{Limit: 10, Period: time.Hour}
	for i := range 3 {
		c, err := s.Get(t.Context(), "k", rate)
		if err != nil || c.Remaining != int64(9-i) {
			t.Fatalf("%+v, %v", c, err)
		}
		server.Must("SCRIPT", "FLUSH", "SYNC")
	}
}

// TestRedisNotThere starts before its Redis does.
func TestRedisNotThere(t *testing.T) {
	server := ratetest.StartRedis(t)
	server.Kill()
	r := shared(t, server.URL(), nil)
	rate := limiter.Rate{Limit: 10, Period: time.Hour}
	if _, err := r.Get(t.Context(), "k", rate); err == nil {
		t.Fatal("a call succeeds without a server")
	}
	server.Start()
	eventually(t, r, rate)
}

// TestRedisNoRedis talks to something else: it accepts, and answers nonsense, nothing, or without end.
func TestRedisNoRedis(t *testing.T) {
	for name, answer := range map[string]string{"silence": "", "nonsense": "HTTP/1.1 400 Bad Request\r\n\r\n",
		"another reply": ":1\r\n:1\r\n:1\r\n", "numbers missing": "*1\r\n:1\r\n*1\r\n:1\r\n", "huge length": "$99999999999\r\n", "deep": strings.Repeat("*1\r\n", 1000)} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					go func() {
						defer c.Close()
						buf := make([]byte, 4096)
						for {
							if _, err := c.Read(buf); err != nil {
								return
							}
							_, _ = c.Write([]byte(answer))
						}
					}()
				}
			}()
			r := shared(t, "redis://"+l.Addr().String(), nil)
			start := time.Now()
			if c, err := r.Get(t.Context(), "k", limiter.Rate{Limit: 1, Period: time.Hour}); err == nil {
				t.Errorf("%+v", c)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("it took %s to fail", took)
			}
		})
	}
}

// TestRedisPassword proves that a password gets into no error and no log.
func TestRedisPassword(t *testing.T) {
	const canary = "c4nary-p4ssword"
	for _, url := range []string{"redis://:" + canary + "@", "redis://u:" + canary + "@host:port", "http://u:" + canary + "@host",
		"redis://u:" + canary + "@host/database", "redis://u:" + canary + "@host/%zz", "redis://host?password=" + canary, canary} {
		if _, err := OpenRedis(url, nil); err == nil || strings.Contains(err.Error(), canary) || !strings.Contains(err.Error(), "redis://HOST") {
			t.Errorf("%q: %v", url, err)
		}
	}
	server := ratetest.StartRedis(t)
	server.Must("CONFIG", "SET", "requirepass", "the right one")
	var log safeBuffer
	r := shared(t, "redis://:"+canary+"@"+server.Address, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	_, err := r.Get(t.Context(), "k", limiter.Rate{Limit: 1, Period: time.Hour})
	for i := 0; err == errRedisDown && i < 100; i++ {
		time.Sleep(10 * time.Millisecond)
		_, err = r.Get(t.Context(), "k", limiter.Rate{Limit: 1, Period: time.Hour})
	}
	if err == nil || strings.Contains(err.Error(), canary) {
		t.Errorf("a wrong password: %v", err)
	}
	for i := 0; !strings.Contains(log.String(), "does not answer") && i < 1000; i++ {
		time.Sleep(10 * time.Millisecond)
	}
	if strings.Contains(log.String(), canary) || !strings.Contains(log.String(), "WRONGPASS") {
		t.Errorf("the log: %s", &log)
	}
	good := unhurried(t, "redis://:the%20right%20one@"+server.Address, nil, nil)
	if c, err := good.Get(t.Context(), "k", limiter.Rate{Limit: 1, Period: time.Hour}); err != nil || c.Reached {
		t.Errorf("the right password: %+v, %v", c, err)
	}
}

// TestRedisTLS speaks TLS, to nobody but who the certificate names.
func TestRedisTLS(t *testing.T) {
	cert, key, pool := certificate(t)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := free.Addr().(*net.TCPAddr).Port
	free.Close()
	ratetest.StartRedis(t, "--tls-port", strconv.Itoa(port), "--tls-cert-file", cert, "--tls-key-file", key, "--tls-auth-clients", "no")
	rate := limiter.Rate{Limit: 3, Period: time.Hour}
	for _, test := range []struct {
		name  string
		host  string
		roots *x509.CertPool
		works bool
	}{
		{"trusted", "localhost", pool, true},
		{"another name", "127.0.0.1", pool, false},
		{"unknown authority", "localhost", x509.NewCertPool(), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			o, err := ParseRedis(fmt.Sprintf("rediss://%s:%d", test.host, port))
			if err != nil {
				t.Fatal(err)
			}
			if o.TLSConfig == nil || o.TLSConfig.InsecureSkipVerify || o.TLSConfig.MinVersion < tls.VersionTLS12 {
				t.Fatalf("TLS: %+v", o.TLSConfig)
			}
			o.TLSConfig.RootCAs = test.roots
			r := running(t, openRedis(o, nil, time.Minute))
			_, err = r.Get(t.Context(), "k", rate)
			if (err == nil) != test.works {
				t.Errorf("%v", err)
			}
		})
	}
}

// certificate makes one for localhost, signed by itself.
func certificate(t *testing.T) (cert, key string, pool *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	pool.AddCert(parsed)
	return cert, key, pool
}

func BenchmarkRedis(b *testing.B) {
	server := ratetest.StartRedis(b)
	r := shared(b, server.URL(), nil)
	rate := limiter.Rate{Limit: 1<<32 - 1, Period: time.Minute}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := r.Increment(b.Context(), "user", 1, rate); err != nil {
			b.Fatal(err)
		}
	}
}
