package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"modelgate/models"
)

func readModel(t *testing.T, path string) ([]byte, int) {
	t.Helper()
	m, err := openModel(path)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	data, err := io.ReadAll(m.Reader())
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(data)) != m.Size() {
		t.Errorf("%s: %d bytes read, Size says %d", path, len(data), m.Size())
	}
	again, err := io.ReadAll(m.Reader())
	if err != nil || !bytes.Equal(data, again) {
		t.Errorf("%s: a second reading differs (%v)", path, err)
	}
	return data, m.External()
}

// TestInlineExternalWeights takes PyTorch's own export: what is sent must pass
// the server's check, which refuses external data.
func TestInlineExternalWeights(t *testing.T) {
	path := filepath.Join("..", "..", "testdata", "external.onnx")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := models.Verify(raw, models.Limits{}); err == nil {
		t.Fatal("the file beside its weights passes the check; this test proves nothing")
	}
	data, external := readModel(t, path)
	if external == 0 {
		t.Fatal("no external tensor was found")
	}
	if _, _, err := models.Verify(data, models.Limits{}); err != nil {
		t.Errorf("with its weights inside: %v", err)
	}
}

func TestInlineLeavesOthersAlone(t *testing.T) {
	for _, name := range []string{"iris.onnx", "digits.onnx", "hostile/not_onnx.onnx", "hostile/truncated.onnx", "hostile/empty.onnx"} {
		path := filepath.Join("..", "..", "testdata", name)
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if data, external := readModel(t, path); external != 0 || !bytes.Equal(data, raw) {
			t.Errorf("%s was changed", name)
		}
	}
}

// TestInlineStaysInTheFolder: a downloaded model must not send its user's
// other files to the server.
func TestInlineStaysInTheFolder(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	write(t, secret, "a private key")
	folder := filepath.Join(dir, "model")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, filepath.Join(folder, "link")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(folder, ".env"), "a token")
	for _, location := range []string{"../secret", secret, "link", "missing", ".env", "./.env", "a/../.env", "/etc/passwd"} {
		path := filepath.Join(folder, "m.onnx")
		write(t, path, string(externalModel(location, "0", "")))
		m, err := openModel(path)
		if err == nil {
			m.Close()
			t.Errorf("location %q was read", location)
		} else if !strings.Contains(err.Error(), "beside it") {
			t.Errorf("location %q: the message does not help: %v", location, err)
		} else if location != "missing" && !strings.Contains(err.Error(), "such files are not sent") {
			t.Errorf("location %q is told as %v", location, err)
		}
	}
}

// TestInlineMemoryMarker: there is no file to be put beside such a model.
func TestInlineMemoryMarker(t *testing.T) {
	m, err := openModel(filepath.Join("..", "..", "testdata", "hostile", "external_memory_marker.onnx"))
	if err == nil {
		m.Close()
		t.Fatal("weights in the memory of another process were read")
	}
	if text := err.Error(); !strings.Contains(text, "Export the model again") || strings.Contains(text, "beside") {
		t.Error(text)
	}
}

func TestInlineSections(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "w"), "0123456789")
	path := filepath.Join(dir, "m.onnx")
	for _, c := range []struct{ offset, length, want string }{
		{"", "", "0123456789"}, {"4", "", "456789"}, {"2", "3", "234"}, {"10", "0", ""},
	} {
		write(t, path, string(externalModel("w", c.offset, c.length)))
		data, external := readModel(t, path)
		if external != 1 || !bytes.Contains(data, []byte(c.want)) || len(data) > len(c.want)+20 {
			t.Errorf("%+v: %q", c, data)
		}
	}
	for _, c := range [][2]string{{"11", ""}, {"5", "6"}, {"-1", ""}, {"x", ""}, {"0", "9223372036854775807"}} {
		write(t, path, string(externalModel("w", c[0], c[1])))
		if m, err := openModel(path); err == nil {
			m.Close()
			t.Errorf("offset %q length %q was taken", c[0], c[1])
		}
	}
}

// externalModel is a ModelProto with one initializer that stands elsewhere.
func externalModel(location, offset, length string) []byte {
	field := func(num protowire.Number, v []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), v)
	}
	var tensor []byte
	for _, kv := range [][2]string{{"location", location}, {"offset", offset}, {"length", length}} {
		if kv[1] != "" {
			tensor = append(tensor, field(tensorExternal, append(field(entryKey, []byte(kv[0])), field(entryValue, []byte(kv[1]))...))...)
		}
	}
	tensor = protowire.AppendVarint(protowire.AppendTag(tensor, tensorLocation, protowire.VarintType), 1)
	return field(modelGraph, field(graphInitializer, tensor))
}
