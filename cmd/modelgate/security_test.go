package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"modelgate/client"
)

// What docs/security.md says of the whole program, and no room can show alone.

// certificate writes a certificate for 127.0.0.1 and its key.
func certificate(t *testing.T) (cert, key string, roots *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	write(t, cert, string(certPEM))
	write(t, key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})))
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(certPEM)
	return cert, key, roots
}

// TestTLS is row H7: nothing older than TLS 1.2, and no answer, above all no
// redirection, to plain HTTP.
func TestTLS(t *testing.T) {
	cert, key, roots := certificate(t)
	p := start(t, t.TempDir(), "MODELGATE_TLS_CERT="+cert, "MODELGATE_TLS_KEY="+key)
	address, secure := strings.CutPrefix(p.url, "https://")
	if !secure {
		t.Fatalf("the server says that it listens on %s", p.url)
	}
	for version, accepted := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: roots, MinVersion: version, MaxVersion: version})
		if (err == nil) != accepted {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
		if err == nil {
			conn.Close()
		}
	}
	web := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	resp, err := web.Get(p.url + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Strict-Transport-Security") == "" {
		t.Errorf("over TLS: %s, %v", resp.Status, resp.Header)
	}
	plain := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err = plain.Get("http://" + address + "/healthz")
	if err == nil {
		resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("plain HTTP is answered with %s", resp.Status)
		}
	}
}

// TestUnsafeStarts is rows G7 and T10: each unsafe setting ends the program
// with a message that says what to do, before it listens.
func TestUnsafeStarts(t *testing.T) {
	cert, key, _ := certificate(t)
	if err := os.Chmod(key, 0o644); err != nil {
		t.Fatal(err)
	}
	opened := t.TempDir() // a data folder whose signing key others can read
	if err := os.Mkdir(filepath.Join(opened, "keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	private, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	signing := filepath.Join(opened, "keys", "a.pem")
	write(t, signing, string(private))
	if err := os.Chmod(signing, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what    string
		env     []string
		message string
		exit    int // 2: the settings alone tell
	}{
		{"plain HTTP for everybody", []string{"MODELGATE_LISTEN=0.0.0.0:0"}, "--insecure-http", 2},
		{"gRPC in clear for everybody", []string{"MODELGATE_GRPC_LISTEN=0.0.0.0:0"}, "--grpc-listen 0.0.0.0:0 is reachable", 2},
		{"gRPC on the port of HTTP", []string{"MODELGATE_LISTEN=127.0.0.1:8080", "MODELGATE_GRPC_LISTEN=127.0.0.1:8080"}, "a port of its own", 2},
		{"a TLS key that others can read", []string{"MODELGATE_TLS_CERT=" + cert, "MODELGATE_TLS_KEY=" + key}, "chmod 600", 2},
		{"every origin for CORS", []string{"MODELGATE_CORS_ORIGINS=*"}, "list each origin", 2},
		{"a signing key that others can read", []string{"MODELGATE_DATA=" + opened}, "chmod 600", 1},
		{"a master key that others can read", []string{"MODELGATE_MASTER_KEY_FILE=" + signing}, "chmod 600", 2},
		{"a master key of words", []string{"MODELGATE_MASTER_KEY=dGhpcyBpcyBhIHNlY3JldCBrZXkgb2YgMzIgYnl0ZXM="}, "openssl rand", 1},
		{"a master key of zeros", []string{"MODELGATE_MASTER_KEY=" + strings.Repeat("A", 43) + "="}, "openssl rand", 1},
		{"a short master key", []string{"MODELGATE_MASTER_KEY=c2VjcmV0"}, "openssl rand", 1},
		{"a short secret", []string{"MODELGATE_JWT_SECRET=secret"}, "openssl rand", 1},
		{"a sample secret", []string{"MODELGATE_JWT_SECRET=your-256-bit-secret-change-me-please"}, "openssl rand", 1},
		{"a secret that repeats itself", []string{"MODELGATE_JWT_SECRET=" + strings.Repeat("ab1", 20)}, "openssl rand", 1},
		{"a common password", []string{"MODELGATE_ADMIN_PASSWORD=password123"}, "first that attackers try", 1},
		{"a short password", []string{"MODELGATE_ADMIN_PASSWORD=x7#kQ"}, "at least 8", 1},
	} {
		t.Run(c.what, func(t *testing.T) {
			cmd := exec.Command("modelgate", "serve")
			cmd.Dir = t.TempDir()
			cmd.Env = append(os.Environ(), append([]string{"MODELGATE_LISTEN=127.0.0.1:0", "MODELGATE_DATA=" + filepath.Join(cmd.Dir, "data")}, c.env...)...)
			out, err := cmd.CombinedOutput()
			if err == nil || cmd.ProcessState.ExitCode() != c.exit {
				t.Errorf("exit: %v, want %d", err, c.exit)
			}
			if !strings.Contains(string(out), c.message) || strings.Contains(string(out), "listens on") {
				t.Errorf("want a message with %q:\n%s", c.message, out)
			}
		})
	}
}

// TestSlowHeaders is row H1 on the real program: who dribbles his headers is
// cut off.
func TestSlowHeaders(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for the server's patience to end")
	}
	p := start(t, t.TempDir())
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: "); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Errorf("the connection is still open after a minute: %v", err)
	}
	if bytes.Contains(answer, []byte("200 OK")) {
		t.Errorf("half a request was answered:\n%s", answer)
	}
}

// TestRowsOfOthersStayApart is row M7: a model that adds the largest value of
// its batch to every row tells one caller of another's rows, if both ever share
// a run. A row alone comes back doubled.
func TestRowsOfOthersStayApart(t *testing.T) {
	p := start(t, t.TempDir(), "MODELGATE_RATE_PREDICT=100000000-M", "MODELGATE_ACCESS_LOG=false")
	// It asks for shared runs, and is not given them.
	v := push(t, p.admin(), "rowmix", modelBytes(t, "rowmix.onnx"), client.Spec{Roles: []string{"user"}, Serving: json.RawMessage(`{"max_batch":64}`)})
	if v.Batching == nil || v.Batching.Possible || v.Batching.Active || !strings.Contains(v.Batching.Reason, "ReduceMax") {
		t.Errorf("it may share runs: %+v", v.Batching)
	}
	const callers, each = 8, 300
	var group sync.WaitGroup
	for n := range callers {
		name := "caller-" + string(rune('a'+n))
		if _, err := p.anonymous().Register(t.Context(), name, "an unusual phrase 93"); err != nil {
			t.Fatal(err)
		}
		caller := p.login(name, "an unusual phrase 93")
		group.Go(func() {
			for i := range each {
				v := float64(n*1000 + i)
				answer, err := caller.Predict(t.Context(), client.PredictRequest{Model: "rowmix", Inputs: [][]float64{{v, -v, v / 2, 1}}})
				if err != nil {
					t.Errorf("%s: %v", name, err)
					return
				}
				var y [][]float64
				if err := json.Unmarshal(answer.Outputs["y"], &y); err != nil || len(y) != 1 || len(y[0]) != 4 ||
					y[0][0] != 2*v || y[0][1] != -2*v || y[0][2] != v || y[0][3] != 2 {
					t.Errorf("%s asked for %v and got %s: rows of others are in it", name, v, answer.Outputs["y"])
					return
				}
			}
		})
	}
	group.Wait()
}

// TestLoginFlood is row A6: 200 logins at once neither fail a prediction nor
// take the memory of 200 hashes.
func TestLoginFlood(t *testing.T) {
	if testing.Short() {
		t.Skip("hashes 130 passwords")
	}
	if runtime.GOOS != "linux" {
		t.Skip("reads /proc")
	}
	p := start(t, t.TempDir(), "MODELGATE_RATE_LOGIN=1000000-M", "MODELGATE_RATE_PREDICT=100000000-M", "MODELGATE_ACCESS_LOG=false")
	admin := p.admin()
	push(t, admin, "iris", modelBytes(t, "iris.onnx"), client.Spec{})
	if _, err := label(admin, client.PredictRequest{Model: "iris", Inputs: irisRow}); err != nil {
		t.Fatal(err)
	}
	before := rss(t, p.cmd.Process.Pid)
	var done atomic.Bool
	var predicted, peak atomic.Int64
	var watcher, logins sync.WaitGroup
	watcher.Go(func() {
		for !done.Load() {
			if _, err := label(admin, client.PredictRequest{Model: "iris", Inputs: irisRow}); err != nil {
				t.Errorf("a prediction failed: %v", err)
				return
			}
			predicted.Add(1)
			peak.Store(max(peak.Load(), rss(t, p.cmd.Process.Pid)))
		}
	})
	var passed, busy atomic.Int64
	for range 200 {
		logins.Go(func() {
			_, err := p.anonymous().Login(t.Context(), "admin", adminPassword)
			switch e, _ := err.(*client.Error); {
			case err == nil:
				passed.Add(1)
			case e != nil && e.Status == http.StatusServiceUnavailable:
				busy.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	logins.Wait()
	done.Store(true)
	watcher.Wait()
	t.Logf("%d logins passed, %d were told to come back; %d predictions meanwhile; %d MiB more at the peak", passed.Load(), busy.Load(), predicted.Load(), (peak.Load()-before)>>20)
	if passed.Load() == 0 || predicted.Load() < 10 {
		t.Error("one kind of request starved")
	}
	// 200 at once would take 9 GiB. The collector lags behind those that are done.
	if limit := int64(max(1, runtime.NumCPU()/2))*(46<<20) + 512<<20; peak.Load()-before > limit {
		t.Errorf("resident memory grew by %d MiB", (peak.Load()-before)>>20)
	}
}
