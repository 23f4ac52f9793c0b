package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"modelgate/client"
)

// TestMemoryIsFlat serves 100,000 predictions of three models and looks at the
// resident memory of the process: what grows with each request shows here.
func TestMemoryIsFlat(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 100,000 predictions")
	}
	if runtime.GOOS != "linux" {
		t.Skip("reads /proc")
	}
	p := start(t, t.TempDir(), "MODELGATE_RATE_PREDICT=100000000-M", "MODELGATE_ACCESS_LOG=false")
	admin := p.admin()
	tokens, err := p.anonymous().Login(t.Context(), "admin", adminPassword)
	if err != nil {
		t.Fatal(err)
	}
	push(t, admin, "iris", modelBytes(t, "iris.onnx"), client.Spec{})
	push(t, admin, "digits", modelBytes(t, "digits.onnx"), client.Spec{})
	push(t, admin, "sentiment", modelBytes(t, "sentiment.onnx"), client.Spec{})
	bodies := [][]byte{
		[]byte(`{"model":"iris","inputs":[[5.1,3.5,1.4,0.2]]}`),
		[]byte(`{"model":"iris","inputs":` + string(rows(50, 4)) + `}`),
		[]byte(`{"model":"digits","inputs":[[` + string(rows(8, 8)) + `]]}`),
		[]byte(`{"model":"sentiment","inputs":` + sentences(t, admin) + `}`),
	}
	const rounds, callers = 100_000, 8
	predict := func(n int) {
		var next atomic.Int64
		var group sync.WaitGroup
		for range callers {
			group.Go(func() {
				for i := next.Add(1); i <= int64(n) && !t.Failed(); i = next.Add(1) {
					if status, answer := predictAs(p.url, tokens.AccessToken, bodies[int(i)%len(bodies)]); status != 200 {
						t.Errorf("prediction %d: status %d: %s", i, status, answer)
					}
				}
			})
		}
		group.Wait()
	}
	predict(rounds / 10) // pools, caches and arenas are filled by now
	before := rss(t, p.cmd.Process.Pid)
	predict(rounds / 2)
	middle := rss(t, p.cmd.Process.Pid)
	predict(rounds - rounds/10 - rounds/2)
	after := rss(t, p.cmd.Process.Pid)
	t.Logf("resident: %d MiB after %d predictions, %d MiB after %d, %d MiB after %d", before>>20, rounds/10, middle>>20, rounds*6/10, after>>20, rounds)
	if growth := after - before; growth > 24<<20 {
		t.Errorf("resident memory grew by %d MiB", growth>>20)
	}
}

func predictAs(url, token string, body []byte) (int, string) {
	req, err := http.NewRequest(http.MethodPost, url+"/predict", bytes.NewReader(body))
	if err != nil {
		return 0, err.Error()
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := keepAlive.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(answer)
}

var keepAlive = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}

// rows is an n by m array of numbers in JSON.
func rows(n, m int) []byte {
	all := make([][]float64, n)
	for i := range all {
		for j := range m {
			all[i] = append(all[i], float64((i*7+j*3)%16)/16)
		}
	}
	b, _ := json.Marshal(all)
	return b
}

// sentences fits the text model's input, whose rank is its own affair.
func sentences(t *testing.T, c *client.Client) string {
	t.Helper()
	m, err := c.Model(t.Context(), "sentiment")
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Inputs[0].Shape) == 2 {
		return `[["a lovely day"],["what a bad film"]]`
	}
	return `["a lovely day","what a bad film"]`
}

// rss is the resident memory of a process in bytes.
func rss(t *testing.T, pid int) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(status)
	if m == nil {
		t.Fatal("no VmRSS")
	}
	kb, err := strconv.ParseInt(string(m[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kb << 10
}
