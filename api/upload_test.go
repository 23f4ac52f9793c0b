package api

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// zeroBody is a body of zeros after a head, and counts what is read of it.
type zeroBody struct {
	head  io.Reader
	zeros int64 // bytes still to come
	read  int64
}

func (e *zeroBody) Read(p []byte) (int, error) {
	if n, err := e.head.Read(p); err == nil {
		return n, nil
	}
	n := int(min(int64(len(p)), e.zeros))
	if n == 0 {
		return 0, io.EOF
	}
	clear(p[:n])
	e.zeros -= int64(n)
	e.read += int64(n)
	return n, nil
}

// TestUploadOfZeros: a gigabyte of zeros is refused by its first bytes, or by its
// length, and held nowhere.
func TestUploadOfZeros(t *testing.T) {
	w := newWorld(t, noLimits)
	const size = 1 << 30
	for name, test := range map[string]struct {
		length int64 // what the request says of it
		status int
		code   string
	}{
		"chunked":     {-1, 422, "not_onnx"},
		"with length": {size, 413, "too_large"},
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			body := &zeroBody{head: strings.NewReader("--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"m.onnx\"\r\n\r\n"), zeros: size}
			req, err := http.NewRequest("POST", w.http.URL+"/models/zeros/versions", body)
			if err != nil {
				t.Fatal(err)
			}
			req.ContentLength = test.length
			req.Header.Set("Authorization", "Bearer "+w.admin)
			req.Header.Set("Content-Type", "multipart/form-data; boundary=b")
			resp, err := w.http.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			answer, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode != test.status || !strings.Contains(string(answer), `"`+test.code+`"`) {
				t.Errorf("%d %s (%v)", resp.StatusCode, answer, err)
			}
			runtime.ReadMemStats(&after)
			if grown := int64(after.HeapSys) - int64(before.HeapSys); grown > 64<<20 {
				t.Errorf("the heap grew by %d MiB", grown>>20)
			}
			if w.leftovers() != 0 {
				t.Errorf("%d temporary files are left", w.leftovers())
			}
		})
	}
}

// TestUploadCompressed: nothing of an upload is ever unpacked.
func TestUploadCompressed(t *testing.T) {
	w := newWorld(t, noLimits)
	bomb := modelFile(t, "hostile/gzip.onnx")
	for name, test := range map[string]struct {
		file     []byte
		encoding string // of the part
		whole    string // of the request
		status   int
		code     string
		names    string
	}{
		"gzip under another name":  {bomb, "", "", 422, "not_onnx", "gzip"},
		"a zip archive":            {modelFile(t, "hostile/zip.onnx"), "", "", 422, "not_onnx", "torch.onnx.export"},
		"a part that says so":      {bomb, "gzip", "", 415, "unsupported_encoding", "Content-Encoding"},
		"a request that says so":   {bomb, "", "gzip", 415, "unsupported_encoding", ""},
		"a part that says nothing": {modelFile(t, "iris.onnx"), "identity", "", 201, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			m := multipart.NewWriter(&b)
			header := textproto.MIMEHeader{"Content-Disposition": {`form-data; name="file"; filename="m.onnx"`}}
			if test.encoding != "" {
				header.Set("Content-Encoding", test.encoding)
			}
			part, err := m.CreatePart(header)
			if err == nil {
				_, err = part.Write(test.file)
			}
			if err != nil {
				t.Fatal(err)
			}
			m.Close()
			req := request{method: "POST", path: "/models/packed/versions", token: w.admin, body: b.String(), contentType: m.FormDataContentType()}
			if test.whole != "" {
				req.header = http.Header{"Content-Encoding": {test.whole}}
			}
			got := w.in(t).do(req)
			if test.status == 201 {
				got.is(201)
				return
			}
			if detail := got.refused(test.status, test.code); !strings.Contains(detail, test.names) {
				t.Errorf("the sentence %q does not name %s", detail, test.names)
			}
		})
	}
}

// TestUploadNames: a client's file name names nothing: not on the disk, not in
// a log.
func TestUploadNames(t *testing.T) {
	w := newWorld(t, noLimits)
	names := []string{"../../../escaped.onnx", "/tmp/escaped.onnx", `..\..\escaped.onnx`, "escaped\r\nX-Escaped: 1", "escaped\x00.onnx",
		"%2e%2e%2fescaped.onnx", strings.Repeat("escaped", 1000), "escaped -> /etc/passwd", "~/escaped", "", ".", ".."}
	for _, name := range names {
		// As it is, without the quoting of a careful client.
		body := "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"" + name + "\"\r\n\r\n" + string(modelFile(t, "iris.onnx")) + "\r\n--b--\r\n"
		got := w.send(w.admin, "iris", body, "multipart/form-data; boundary=b")
		if got.Status != 201 && got.Status != 400 || strings.Contains(string(got.Body), "escaped") || got.Header.Get("X-Escaped") != "" {
			t.Errorf("%q: %d %s", name, got.Status, got.Body)
		}
	}
	w.get("/models/iris", w.admin).is(200)
	if strings.Contains(w.log.String(), "escaped") {
		t.Error("a file name came into the log")
	}
	files := 0
	err := filepath.WalkDir(filepath.Dir(w.dir), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if strings.Contains(d.Name(), "escaped") {
			t.Errorf("on the disk: %s", path)
		}
		if strings.Contains(path, "/models/") {
			if files++; len(d.Name()) != 64 || filepath.Base(filepath.Dir(path)) != d.Name()[:2] {
				t.Errorf("a model file that is not named by its contents: %s", path)
			}
		}
		return nil
	})
	if err != nil || files != 1 {
		t.Errorf("%d model files (%v)", files, err)
	}
}

// TestUploadQuota: an owner's versions have a bound, which is told while the file
// comes.
func TestUploadQuota(t *testing.T) {
	w := newWorld(t, noLimits) // 8 MiB an owner, 4 MiB a file
	_, scientist := w.user("grace", "data-scientist")
	large := func(n int) string {
		entry := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), make([]byte, 3<<20+n))
		file := protowire.AppendBytes(protowire.AppendTag(modelFile(t, "iris.onnx"), 14, protowire.BytesType), entry)
		body, _ := multipartBody(t, part{"file", "m.onnx", file})
		return body
	}
	kind := func(body string) string {
		boundary, _, _ := strings.Cut(strings.TrimPrefix(body, "--"), "\r\n")
		return "multipart/form-data; boundary=" + boundary
	}
	for i := range 2 {
		body := large(i)
		w.send(scientist, fmt.Sprint("m", i), body, kind(body)).is(201)
	}
	third := large(2)
	if detail := w.send(scientist, "m2", third, kind(third)).refused(413, "quota_exceeded"); !strings.Contains(detail, "delete versions") {
		t.Errorf("the sentence is %q", detail)
	}
	w.send(w.admin, "m2", third, kind(third)).is(201)
	w.do(request{method: "DELETE", path: "/models/m0", token: scientist}).is(204)
	w.send(scientist, "m3", third, kind(third)).is(201)
	if w.leftovers() != 0 {
		t.Errorf("%d temporary files are left", w.leftovers())
	}
}

// TestUploadSignatureParts: what is no signature is told before anything else is
// made of it.
func TestUploadSignatureParts(t *testing.T) {
	w := newWorld(t, noLimits)
	good := part{"file", "m.onnx", modelFile(t, "iris.onnx")}
	for name, test := range map[string]struct {
		parts  []part
		status int
		code   string
	}{
		"no base64": {[]part{{"signature", "", []byte("not base64!")}, good}, 400, "invalid_input"},
		"empty":     {[]part{{"signature", "", nil}, good}, 400, "invalid_input"},
		"twice":     {[]part{{"signature", "", []byte("QUJD")}, {"signature", "", []byte("QUJD")}, good}, 400, "invalid_input"},
		"large":     {[]part{{"signature", "", bytes.Repeat([]byte("QUJD"), 300)}, good}, 413, "too_large"},
	} {
		t.Run(name, func(t *testing.T) {
			body, kind := multipartBody(t, test.parts...)
			w.in(t).send(w.admin, "iris", body, kind).refused(test.status, test.code)
		})
	}
	// Nobody asks for one here.
	body, kind := multipartBody(t, good, part{"signature", "", []byte("QUJD\n")})
	w.send(w.admin, "iris", body, kind).is(201)
}
