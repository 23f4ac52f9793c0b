package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// reading is the value of a metric.
func reading(t *testing.T, c prometheus.Collector) float64 {
	t.Helper()
	r := prometheus.NewRegistry()
	if err := r.Register(c); err != nil {
		t.Fatal(err)
	}
	families, err := r.Gather()
	if err != nil || len(families) != 1 || len(families[0].Metric) != 1 {
		t.Fatalf("%v, %v", families, err)
	}
	return families[0].Metric[0].GetGauge().GetValue() + families[0].Metric[0].GetCounter().GetValue()
}

func content(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestKeyPair: what is written in the place of the certificate is shown as soon
// as it fits its key, and until then the one of before.
func TestKeyPair(t *testing.T) {
	cert, key, _ := certificate(t)
	cert2, key2, _ := certificate(t)
	cert3, key3, _ := certificate(t)
	var log bytes.Buffer
	c, err := openKeyPair(cert, key, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	shown := func(what, path string, failures float64) {
		t.Helper()
		c.look()
		c.look() // a second look finds nothing new
		now, err := c.get(nil)
		if err != nil {
			t.Fatal(err)
		}
		want, err := tls.X509KeyPair([]byte(content(t, path)), []byte(content(t, strings.Replace(path, "cert.pem", "key.pem", 1))))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(now.Certificate[0], want.Certificate[0]) {
			t.Errorf("%s: another certificate is shown", what)
		}
		if got := reading(t, c.failures); got != failures {
			t.Errorf("%s: %v failures, want %v", what, got, failures)
		}
		if got := reading(t, c.notAfter); got != float64(now.Leaf.NotAfter.Unix()) {
			t.Errorf("%s: the metric says %v, the certificate %v", what, got, now.Leaf.NotAfter)
		}
	}
	old := filepath.Join(t.TempDir(), "cert.pem")
	write(t, old, content(t, cert))
	write(t, filepath.Join(filepath.Dir(old), "key.pem"), content(t, key))
	shown("unchanged", old, 0)
	write(t, cert, content(t, cert2))
	shown("the certificate alone", old, 1)
	write(t, key, content(t, key2))
	shown("both", cert2, 1)

	write(t, cert, content(t, cert3)[:100])
	shown("half written", cert2, 2)
	write(t, key, "")
	shown("emptied", cert2, 3)
	if err := os.Remove(cert); err != nil {
		t.Fatal(err)
	}
	shown("removed", cert2, 4)
	write(t, cert, content(t, cert3))
	write(t, key, content(t, key3))
	shown("a third pair", cert3, 4)

	if err := os.Chmod(key, 0o644); err != nil {
		t.Fatal(err)
	}
	write(t, cert, content(t, cert2))
	if err := os.WriteFile(key, []byte(content(t, key2)), 0o600); err != nil {
		t.Fatal(err)
	}
	shown("a key that others can read", cert3, 5)
	if err := os.Chmod(key, 0o600); err != nil {
		t.Fatal(err)
	}
	shown("its mode mended", cert2, 5)
	if strings.Contains(log.String(), "PRIVATE KEY") || strings.Count(log.String(), "can't be used") != 5 || !strings.Contains(log.String(), "not_after=") {
		t.Errorf("the log:\n%s", log.String())
	}
	// An hour is left of the test's certificates.
	if n := strings.Count(log.String(), "the certificate ends soon"); n != 4 {
		t.Errorf("%d of 4 certificates were said to end soon", n)
	}
	before := log.Len()
	c.remind(time.Now().Add(time.Hour - time.Minute))
	if log.Len() != before {
		t.Error("it is told twice a day")
	}
	c.remind(time.Now().Add(25 * time.Hour))
	if !strings.Contains(log.String()[before:], "has ended") {
		t.Error("nobody is told that it has ended")
	}
}

// TestKeyPairLinks replaces the pair as Kubernetes does: both files are links
// through a link to a folder, which is switched.
func TestKeyPairLinks(t *testing.T) {
	dir := t.TempDir()
	link := func(to, name string) {
		t.Helper()
		tmp := filepath.Join(dir, "tmp")
		if err := os.Symlink(to, tmp); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(tmp, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	cert, _, _ := certificate(t)
	cert2, _, _ := certificate(t)
	link(filepath.Dir(cert), "..data")
	link("..data/cert.pem", "tls.crt")
	link("..data/key.pem", "tls.key")
	c, err := openKeyPair(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	first, _ := c.get(nil)
	link(filepath.Dir(cert2), "..data")
	c.look()
	if second, _ := c.get(nil); first.Leaf.Equal(second.Leaf) || reading(t, c.failures) != 0 {
		t.Error("the switch was not seen")
	}
}

// TestCertificateIsReloaded replaces the certificate of a running server, which
// shows it on both ports and goes on with the connections there are.
func TestCertificateIsReloaded(t *testing.T) {
	cert, key, roots := certificate(t)
	cert2, key2, roots2 := certificate(t)
	p := start(t, t.TempDir(), "MODELGATE_TLS_CERT="+cert, "MODELGATE_TLS_KEY="+key, "MODELGATE_GRPC_LISTEN=127.0.0.1:0")
	address := strings.TrimPrefix(p.url, "https://")
	trusts := func(address string, roots *x509.CertPool) bool {
		conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: roots, NextProtos: []string{"h2"}})
		if err == nil {
			conn.Close()
		}
		return err == nil
	}
	before, err := tls.Dial("tcp", address, &tls.Config{RootCAs: roots, NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	write(t, cert, content(t, cert2))
	write(t, key, content(t, key2))
	for _, address := range []string{address, p.grpcAddress()} {
		for end := time.Now().Add(time.Minute); !trusts(address, roots2); time.Sleep(100 * time.Millisecond) { // a file says nothing of its change
			if time.Now().After(end) {
				t.Fatalf("%s still shows the old certificate:\n%s", address, p.output())
			}
		}
		if trusts(address, roots) {
			t.Errorf("%s shows both", address)
		}
	}
	if _, err := before.Write([]byte("GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	answer := new(bytes.Buffer)
	if _, err := answer.ReadFrom(before); err != nil || !strings.HasPrefix(answer.String(), "HTTP/1.1 200") {
		t.Errorf("a connection of before: %v, %s", err, answer)
	}
}
