package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// contender is a kind of server of the comparison.
type contender struct {
	name   string // of its folder in bench/compare
	title  string
	ready  string // path that answers 200 when all models are served; %s is the last of them
	bodies []body
	login  func(ctx context.Context, address, password string) (token string, err error) // nil: it knows no callers
}

// body is one way to write a prediction.
type body struct {
	name    string
	request func(at *server, m model) []byte // whole, with its headers
	// numbers are those of the first output. header is the length of the JSON
	// before binary tensors, or -1.
	numbers func(answer []byte, header int) ([]float64, error)
}

const plainJSON, oipJSON, oipBinary = "JSON", "OIP JSON", "OIP binary"

var ours = contender{name: "modelgate", title: "modelgate", bodies: []body{
	{plainJSON, predict, numbersAt("outputs")},
	{oipJSON, inferJSON, numbersAt("outputs", "data")},
	{oipBinary, inferBinary, binaryNumbers},
}}

var others = []contender{
	{name: "fastapi", title: "FastAPI", ready: "/healthz", login: tokenByForm,
		bodies: []body{{plainJSON, nestedTo("/%s/predict", ""), numbersAt("probabilities")}}},
	{name: "litserve", title: "LitServe", ready: "/health",
		bodies: []body{{plainJSON, nestedTo("/predict", `"model":"%s",`), numbersAt("probabilities")}}},
	{name: "bentoml", title: "BentoML", ready: "/readyz",
		bodies: []body{{plainJSON, nestedTo("/%s/predict", ""), numbersAt()}}},
	{name: "mlserver", title: "MLServer", ready: "/v2/models/%s/ready",
		bodies: []body{{oipJSON, inferJSON, numbersAt("outputs", "data")}}},
	{name: "triton", title: "Triton (PyTriton)", ready: "/v2/models/%s/ready",
		bodies: []body{{oipJSON, inferJSON, numbersAt("outputs", "data")}, {oipBinary, inferBinary, binaryNumbers}}},
}

// pythonsOf reads what bench/compare/install.sh prints: the name of a server
// and its Python, or its name, a dash and why there is none.
func pythonsOf(lines string) map[string]string {
	list := map[string]string{}
	for line := range strings.Lines(lines) {
		name, python, _ := strings.Cut(strings.TrimSpace(line), " ")
		list[name] = python
	}
	return list
}

// start starts a server with a worker for each core, in a folder of its own.
func (c contender) start(ctx context.Context, python, folder string, files []string) (*server, error) {
	if reason, missing := strings.CutPrefix(python, "- "); missing || python == "" {
		return nil, fmt.Errorf("it could not be installed: %s", reason)
	}
	script, err := filepath.Abs(filepath.Join("bench", "compare", c.name, "serve.py"))
	if err != nil {
		return nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, err
	}
	args := []string{script, port, strconv.Itoa(runtime.NumCPU())}
	for _, file := range files {
		if file, err = filepath.Abs(file); err != nil {
			return nil, err
		}
		args = append(args, file)
	}
	cmd := exec.Command(python, args...)
	cmd.Dir = folder
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1", "TMPDIR="+folder, "JWT_SECRET="+rand.Text(), "CALLER_PASSWORD="+password)
	last := strings.TrimSuffix(filepath.Base(files[len(files)-1]), ".onnx")
	ready := strings.ReplaceAll(c.ready, "%s", last)
	at, err := launch(ctx, address, filepath.Join(folder, "output.log"), ready, cmd)
	if err != nil {
		return nil, fmt.Errorf("it did not start: %s", lastLine(err.Error()))
	}
	if c.login != nil {
		if at.token, err = c.login(ctx, address, password); err != nil {
			at.stop()
			return nil, fmt.Errorf("no token from it: %w", err)
		}
	}
	return at, nil
}

// lastLine is where Python says what went wrong: the last line that names an
// error, or else the last.
func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	for _, line := range slices.Backward(lines) {
		if strings.Contains(line, "Error:") {
			return line
		}
	}
	return lines[len(lines)-1]
}

// tokenByForm signs in with OAuth's password grant (RFC 6749, section 4.3).
func tokenByForm(ctx context.Context, address, password string) (string, error) {
	form := url.Values{"grant_type": {"password"}, "username": {"caller"}, "password": {password}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/token", strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var answer struct {
		Token string `json:"access_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return "", err
	}
	if answer.Token == "" {
		return "", errors.New(resp.Status)
	}
	return answer.Token, nil
}

// post writes a request. header is the length of the JSON before binary
// tensors, or -1.
func post(at *server, path string, header int, body []byte) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n", path, at.address, len(body))
	if at.token != "" {
		fmt.Fprintf(&b, "Authorization: Bearer %s\r\n", at.token)
	}
	if header >= 0 {
		fmt.Fprintf(&b, "Content-Type: application/octet-stream\r\nInference-Header-Content-Length: %d\r\n\r\n", header)
	} else {
		b.WriteString("Content-Type: application/json\r\n\r\n")
	}
	b.Write(body)
	return b.Bytes()
}

// nestedTo writes one row as nested arrays below the name of the input. %s in
// the path and in what stands before is the model.
func nestedTo(path, before string) func(*server, model) []byte {
	return func(at *server, m model) []byte {
		numbers := values(size(m.shape))
		body := fmt.Appendf(nil, `{%s%q:`, strings.ReplaceAll(before, "%s", m.name), m.input)
		body = append(nested(body, m.shape, &numbers), '}')
		return post(at, strings.ReplaceAll(path, "%s", m.name), -1, body)
	}
}

// inferJSON is one row by the Open Inference Protocol, its numbers flat.
func inferJSON(at *server, m model) []byte {
	shape, n := shapeText(m.shape), size(m.shape)
	numbers := values(n)
	body := fmt.Appendf(nil, `{"inputs":[{"name":%q,"shape":%s,"datatype":"FP32","data":`, m.input, shape)
	body = append(nested(body, []int64{n}, &numbers), "}]}"...)
	return post(at, "/v2/models/"+m.name+"/infer", -1, body)
}

// inferBinary is the same with the binary tensor data extension, both ways.
func inferBinary(at *server, m model) []byte {
	data := littleEndian(values(size(m.shape)))
	header := fmt.Appendf(nil, `{"inputs":[{"name":%q,"shape":%s,"datatype":"FP32","parameters":{"binary_data_size":%d}}],`+
		`"parameters":{"binary_data_output":true}}`, m.input, shapeText(m.shape), len(data))
	return post(at, "/v2/models/"+m.name+"/infer", len(header), append(header, data...))
}

func size(shape []int64) int64 {
	n := int64(1)
	for _, d := range shape {
		n *= d
	}
	return n
}

func shapeText(shape []int64) []byte {
	text, _ := json.Marshal(shape) // integers always can be
	return text
}

func littleEndian(list []float32) []byte {
	data := make([]byte, 4*len(list))
	for i, f := range list {
		binary.LittleEndian.PutUint32(data[4*i:], math.Float32bits(f))
	}
	return data
}

func fromLittleEndian(data []byte) []float64 {
	list := make([]float64, len(data)/4)
	for i := range list {
		list[i] = float64(math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:])))
	}
	return list
}

// numbersAt takes all numbers, in order, of what lies at a path of members; of
// a list on the way, its first element.
func numbersAt(path ...string) func([]byte, int) ([]float64, error) {
	return func(answer []byte, _ int) ([]float64, error) {
		var v any
		if err := json.Unmarshal(answer, &v); err != nil {
			return nil, err
		}
		for _, name := range path {
			if list, ok := v.([]any); ok && len(list) > 0 {
				v = list[0]
			}
			members, ok := v.(map[string]any)
			if !ok {
				return nil, fmt.Errorf("the answer has no %q", name)
			}
			v = members[name]
		}
		return flat(nil, v), nil
	}
}

// flat appends the numbers within a JSON value, of which an object has one
// member.
func flat(list []float64, v any) []float64 {
	switch v := v.(type) {
	case float64:
		return append(list, v)
	case []any:
		for _, element := range v {
			list = flat(list, element)
		}
	case map[string]any:
		for _, member := range v {
			list = flat(list, member)
		}
	}
	return list
}

// binaryNumbers are all bytes after the JSON.
func binaryNumbers(answer []byte, header int) ([]float64, error) {
	if header < 0 || header > len(answer) {
		return nil, fmt.Errorf("the answer of %d bytes has no binary data after %d", len(answer), header)
	}
	return fromLittleEndian(answer[header:]), nil
}

// ask sends one request, byte for byte as it is measured later.
func ask(ctx context.Context, address string, request []byte, numbers func([]byte, int) ([]float64, error)) ([]float64, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return nil, err
	}
	if _, err := conn.Write(request); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", resp.Status, answer[:min(len(answer), 300)])
	}
	header := -1
	if text := resp.Header.Get("Inference-Header-Content-Length"); text != "" {
		if header, err = strconv.Atoi(text); err != nil {
			return nil, err
		}
	}
	return numbers(answer, header)
}

// adoptOrphans makes this process the parent of what descends from it and has
// lost its own (prctl(2), PR_SET_CHILD_SUBREAPER): some servers leave processes
// behind when they end, and killStrays must find them.
func adoptOrphans() error {
	const setChildSubreaper = 36
	if _, _, failed := syscall.RawSyscall(syscall.SYS_PRCTL, setChildSubreaper, 1, 0); failed != 0 {
		return failed
	}
	return nil
}

// killStrays ends all that descends from this process but the given servers
// and what belongs to them. Nothing else may run below it at that time.
func killStrays(keep ...*server) {
	kept := map[int]bool{os.Getpid(): true}
	for _, s := range keep {
		for _, pid := range family(s.pid()) {
			kept[pid] = true
		}
	}
	for _, pid := range family(os.Getpid()) {
		if !kept[pid] {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
	}
}
