package ort_test

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// fetchVersion is the version that fetch.sh pins; the made-up wheels below must bear it to be asked for.
const fetchVersion = "1.30.0"

// fetcher is a copy of fetch.sh that sees a search path of its own and an empty cache.
type fetcher struct {
	script string   // the copy; its checksum file stands beside it
	cache  string   // XDG_CACHE_HOME
	tools  string   // the whole PATH
	env    []string // what a test adds to the environment
}

// newFetcher copies the script, with the given checksum file in place of its own unless that is nil, and makes a PATH of
// the plain tools and the named package clients.
func newFetcher(t *testing.T, checksums []byte, clients ...string) *fetcher {
	t.Helper()
	folder := t.TempDir()
	f := &fetcher{
		script: filepath.Join(folder, "fetch.sh"),
		cache:  filepath.Join(folder, "cache"),
		tools:  filepath.Join(folder, "tools"),
	}
	script, err := os.ReadFile("fetch.sh")
	if err != nil {
		t.Fatal(err)
	}
	if checksums == nil {
		if checksums, err = os.ReadFile("onnxruntime.sha256"); err != nil {
			t.Fatal(err)
		}
	}
	write(t, f.script, script)
	write(t, filepath.Join(folder, "onnxruntime.sha256"), checksums)
	if err := os.Mkdir(f.tools, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tool := range strings.Fields("sh basename chmod cut dirname env find grep gzip head id mkdir mktemp mv rm sed " +
		"sha256sum shasum tail tar timeout true uname") {
		if real, err := exec.LookPath(tool); err == nil {
			f.addTool(t, tool, "exec '"+real+`' "$@"`)
		}
	}
	// No library is installed on this system, whatever is.
	f.addTool(t, "ldconfig", "exit 0")
	for _, client := range clients {
		f.addTool(t, client, clientCommand(t, client))
	}
	return f
}

func (f *fetcher) addTool(t *testing.T, name, command string) {
	t.Helper()
	write(t, filepath.Join(f.tools, name), []byte("#!/bin/sh\n"+command+"\n"))
}

// clientCommand is the shell command that runs the real python3 or npm without help from PATH.
func clientCommand(t *testing.T, client string) string {
	t.Helper()
	switch client {
	case "python3":
		out, err := exec.Command("python3", "-c", "import pip, sys; print(sys.executable)").Output()
		if err != nil {
			missing(t, "python3 with pip: %v", err)
		}
		return "exec '" + strings.TrimSpace(string(out)) + `' "$@"`
	case "npm":
		npm, err := exec.LookPath("npm")
		if err != nil {
			missing(t, "npm: %v", err)
		}
		out, err := exec.Command("node", "-p", "process.execPath").Output()
		if err != nil {
			missing(t, "node: %v", err)
		}
		if npm, err = filepath.EvalSymlinks(npm); err != nil {
			t.Fatal(err)
		}
		return "exec '" + strings.TrimSpace(string(out)) + "' '" + npm + `' "$@"`
	}
	t.Fatalf("no such client: %s", client)
	return ""
}

// run gives what the script prints on stdout, less the line's end, and on stderr, and its exit status.
func (f *fetcher) run(t *testing.T, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 9*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", append([]string{f.script}, args...)...)
	cmd.Env = append(os.Environ(), "PATH="+f.tools, "XDG_CACHE_HOME="+f.cache, "MODELGATE_ONNXRUNTIME_LIB=")
	cmd.Env = append(cmd.Env, f.env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Errorf("fetch.sh: %v", err)
	}
	return strings.TrimSuffix(out.String(), "\n"), errs.String(), cmd.ProcessState.ExitCode()
}

// offlineWheel makes pip serve a wheel with the given library, for linux-x64, and nothing from any network.
func (f *fetcher) offlineWheel(t *testing.T, library []byte) {
	t.Helper()
	folder := t.TempDir()
	var wheel bytes.Buffer
	archive := zip.NewWriter(&wheel)
	info := "onnxruntime-" + fetchVersion + ".dist-info/"
	for name, content := range map[string][]byte{
		"onnxruntime/capi/libonnxruntime.so." + fetchVersion: library,
		info + "METADATA": []byte("Metadata-Version: 2.1\nName: onnxruntime\nVersion: " + fetchVersion + "\n"),
		info + "WHEEL":    []byte("Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: cp312-cp312-manylinux_2_28_x86_64\n"),
		info + "RECORD":   nil,
	} {
		member, err := archive.Create(name)
		if err == nil {
			_, err = member.Write(content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(folder, "onnxruntime-"+fetchVersion+"-cp312-cp312-manylinux_2_28_x86_64.whl"), wheel.Bytes())
	f.env = append(f.env, "PIP_NO_INDEX=1", "PIP_FIND_LINKS="+folder)
}

// write makes an executable file.
func write(t *testing.T, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(name, content, 0o755); err != nil {
		t.Fatal(err)
	}
}

// missing skips a test that needs something of the machine; on continuous integration it fails instead.
func missing(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("needed here: "+format, args...)
	}
	t.Skipf("not to be had here: "+format, args...)
}

func sha256Hex(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// wantPinned checks that a path holds a library whose checksum is pinned for the platform and the source.
func wantPinned(t *testing.T, name, platform, source string) {
	t.Helper()
	library, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	pins, err := os.ReadFile("onnxruntime.sha256")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(pins)) {
		fields := strings.Fields(line)
		if len(fields) == 4 && fields[2] == platform && fields[3] == source {
			if fields[0] != sha256Hex(library) {
				t.Errorf("%s: SHA-256 %s, pinned is %s", name, sha256Hex(library), fields[0])
			}
			return
		}
	}
	t.Errorf("nothing is pinned for %s from %s", platform, source)
}

func hostPlatform(t *testing.T) string {
	t.Helper()
	switch host := runtime.GOOS + "/" + runtime.GOARCH; host {
	case "linux/amd64":
		return "linux-x64"
	case "linux/arm64":
		return "linux-arm64"
	case "darwin/arm64":
		return "darwin-arm64"
	default:
		t.Skipf("nothing is pinned for %s", host)
		return ""
	}
}

// fetchOrSkip runs a fetch that needs the network.
func fetchOrSkip(t *testing.T, f *fetcher, args ...string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("a download is too long for -short")
	}
	stdout, stderr, status := f.run(t, args...)
	if status != 0 && strings.Contains(stderr, "the download failed") && !strings.Contains(stderr, "REFUSED") {
		missing(t, "the network: %s", stderr)
	}
	if status != 0 {
		t.Fatalf("exit status %d\n%s", status, stderr)
	}
	return stdout
}

// TestFetchPip proves that pip alone suffices, for every pinned platform, and that the cache serves a second run that
// has no source at all.
func TestFetchPip(t *testing.T) {
	for _, platform := range []string{"linux-x64", "linux-arm64", "darwin-arm64"} {
		t.Run(platform, func(t *testing.T) {
			f := newFetcher(t, nil, "python3")
			lib := fetchOrSkip(t, f, "--platform", platform)
			want := filepath.Join(f.cache, "modelgate/onnxruntime", fetchVersion, platform, "libonnxruntime.so")
			if lib != want {
				t.Errorf("printed %q, want %q", lib, want)
			}
			wantPinned(t, lib, platform, "pip")

			if err := os.Remove(filepath.Join(f.tools, "python3")); err != nil {
				t.Fatal(err)
			}
			if again, stderr, status := f.run(t, "--platform", platform); again != lib || status != 0 {
				t.Errorf("second run: printed %q, exit status %d\n%s", again, status, stderr)
			}
		})
	}
}

// TestFetchNpm proves that npm alone suffices.
func TestFetchNpm(t *testing.T) {
	f := newFetcher(t, nil, "npm")
	wantPinned(t, fetchOrSkip(t, f), hostPlatform(t), "npm")
}

// TestFetchNothing proves that the script fails with a message that names every source and the way out.
func TestFetchNothing(t *testing.T) {
	f := newFetcher(t, nil)
	stdout, stderr, status := f.run(t, "--platform", "linux-x64")
	if status == 0 || stdout != "" {
		t.Errorf("exit status %d, printed %q", status, stdout)
	}
	for _, want := range []string{"pip: ", "npm: ", "release archive: ", "MODELGATE_ONNXRUNTIME_LIB"} {
		if !strings.Contains(stderr, want) {
			t.Errorf("the message does not say %q:\n%s", want, stderr)
		}
	}
	f.wantNoLeftovers(t)
}

// TestFetchRelease proves that the last source, the release archive, serves where there is neither pip nor npm. A stand-in
// for curl hands over an archive laid out as the official ones are.
func TestFetchRelease(t *testing.T) {
	library := []byte("a library")
	f := newFetcher(t, fmt.Appendf(nil, "%s %s linux-arm64 release\n", sha256Hex(library), fetchVersion))
	folder := t.TempDir()
	name := "onnxruntime-linux-aarch64-" + fetchVersion
	if err := os.MkdirAll(filepath.Join(folder, name, "lib"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(folder, name, "lib/libonnxruntime.so."+fetchVersion), library)
	if out, err := exec.Command("tar", "-czf", folder+"/release.tgz", "-C", folder, name).CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	f.addTool(t, "curl", `for url; do :; done
case $url in https://*/v`+fetchVersion+"/"+name+`.tgz) ;; *) echo "asked for $url" >&2; exit 22 ;; esac
while [ "$1" != --output ]; do shift; done
exec '`+mustLook(t, "cp")+"' '"+folder+`/release.tgz' "$2"`)
	lib, stderr, status := f.run(t, "--platform", "linux-arm64")
	if status != 0 {
		t.Fatalf("exit status %d\n%s", status, stderr)
	}
	if got, err := os.ReadFile(lib); err != nil || !bytes.Equal(got, library) {
		t.Errorf("%s holds %q (%v)", lib, got, err)
	}
}

func mustLook(t *testing.T, tool string) string {
	t.Helper()
	path, err := exec.LookPath(tool)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// wantNoLeftovers checks that the cache holds no library and no temporary folder.
func (f *fetcher) wantNoLeftovers(t *testing.T) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(f.cache, "modelgate/onnxruntime", fetchVersion, "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	hidden, err := filepath.Glob(filepath.Join(f.cache, "modelgate/onnxruntime", fetchVersion, "*", ".*"))
	if err != nil {
		t.Fatal(err)
	}
	if found = append(found, hidden...); len(found) > 0 {
		t.Errorf("left in the cache: %v", found)
	}
}

// TestFetchMismatch proves that a library other than the pinned one is refused and does not enter the cache.
func TestFetchMismatch(t *testing.T) {
	f := newFetcher(t, nil, "python3")
	f.offlineWheel(t, []byte("not the library"))
	stdout, stderr, status := f.run(t, "--platform", "linux-x64")
	if status == 0 || stdout != "" {
		t.Errorf("exit status %d, printed %q", status, stdout)
	}
	if !strings.Contains(stderr, "REFUSED") || !strings.Contains(stderr, sha256Hex([]byte("not the library"))) {
		t.Errorf("the message does not tell of the wrong checksum:\n%s", stderr)
	}
	f.wantNoLeftovers(t)
}

// TestFetchOtherSourcesPin proves that a pin holds for its source alone: what npm may give, pip may not.
func TestFetchOtherSourcesPin(t *testing.T) {
	library := []byte("a library")
	f := newFetcher(t, fmt.Appendf(nil, "%s %s linux-x64 npm\n", sha256Hex(library), fetchVersion), "python3")
	f.offlineWheel(t, library)
	if _, stderr, status := f.run(t, "--platform", "linux-x64"); status == 0 || !strings.Contains(stderr, "REFUSED") {
		t.Errorf("exit status %d\n%s", status, stderr)
	}
}

// TestFetchDamagedCache proves that a cached library is checked again and replaced.
func TestFetchDamagedCache(t *testing.T) {
	library := []byte("a library")
	f := newFetcher(t, fmt.Appendf(nil, "%s %s linux-x64 pip\n", sha256Hex(library), fetchVersion), "python3")
	f.offlineWheel(t, library)
	lib, stderr, status := f.run(t, "--platform", "linux-x64")
	if status != 0 {
		t.Fatalf("exit status %d\n%s", status, stderr)
	}
	write(t, lib, []byte("damaged"))
	if again, stderr, status := f.run(t, "--platform", "linux-x64"); again != lib || status != 0 {
		t.Fatalf("printed %q, exit status %d\n%s", again, status, stderr)
	}
	if got, err := os.ReadFile(lib); err != nil || !bytes.Equal(got, library) {
		t.Errorf("the cache holds %q (%v)", got, err)
	}
}

// TestFetchAtOnce proves that concurrent runs into one empty cache all end well.
func TestFetchAtOnce(t *testing.T) {
	library := bytes.Repeat([]byte("a library "), 1<<18)
	f := newFetcher(t, fmt.Appendf(nil, "%s %s linux-x64 pip\n", sha256Hex(library), fetchVersion), "python3")
	f.offlineWheel(t, library)
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			lib, stderr, status := f.run(t, "--platform", "linux-x64")
			if status != 0 {
				t.Errorf("exit status %d\n%s", status, stderr)
			} else if got, err := os.ReadFile(lib); err != nil || !bytes.Equal(got, library) {
				t.Errorf("%s is not the library (%v)", lib, err)
			}
		})
	}
	wait.Wait()
}

// TestFetchGiven proves the order of what is on the machine: the library named by the environment goes before an
// installed one, a wrong one is an error and not passed over, and an installed one serves if it is new enough.
func TestFetchGiven(t *testing.T) {
	hostPlatform(t)
	folder := t.TempDir()
	library := func(name, content string) string {
		path := filepath.Join(folder, name)
		write(t, path, []byte(content))
		return path
	}
	fits := library("fits.so", "\x00VERS_1.31.2\x00")
	old := library("old.so", "\x00VERS_1.29.9\x00")
	text := library("text.so", "nothing of the kind")
	installed := func(path string) string { return "echo '\tlibonnxruntime.so.1 (libc6,x86-64) => " + path + "'" }
	tests := []struct {
		name, named, ldconfig string
		want                  string // the path printed
		wantErr               string // part of the message, where there is no path
	}{
		{"named", fits, "exit 0", fits, ""},
		{"named before installed", fits, installed(old), fits, ""},
		{"named but absent", folder + "/absent.so", installed(fits), "", "no readable file"},
		{"named but too old", old, installed(fits), "", "ONNX Runtime 1.29.9"},
		{"named but something else", text, installed(fits), "", "no ONNX Runtime library"},
		{"installed", "", installed(fits), fits, ""},
		{"installed but too old", "", installed(old), "", "no source gave"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := newFetcher(t, nil)
			f.addTool(t, "ldconfig", test.ldconfig)
			f.env = []string{"MODELGATE_ONNXRUNTIME_LIB=" + test.named}
			stdout, stderr, status := f.run(t)
			if stdout != test.want || (status == 0) != (test.want != "") || !strings.Contains(stderr, test.wantErr) {
				t.Errorf("printed %q, exit status %d\n%s", stdout, status, stderr)
			}
		})
	}
}

// TestFetchHomeless proves that the script works without a home: it keeps a private folder in the temporary one, and
// uses none that is a link to somewhere else.
func TestFetchHomeless(t *testing.T) {
	library := []byte("a library")
	f := newFetcher(t, fmt.Appendf(nil, "%s %s linux-x64 pip\n", sha256Hex(library), fetchVersion), "python3")
	f.offlineWheel(t, library)
	temporary := t.TempDir()
	f.env = append(f.env, "HOME=", "XDG_CACHE_HOME=", "TMPDIR="+temporary)
	lib, stderr, status := f.run(t, "--platform", "linux-x64")
	if status != 0 || !strings.HasPrefix(lib, temporary+"/") {
		t.Fatalf("printed %q, exit status %d\n%s", lib, status, stderr)
	}
	private := filepath.Join(temporary, fmt.Sprintf("modelgate-cache-%d", os.Getuid()))
	if info, err := os.Stat(private); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder is not private: %v, %v", info, err)
	}

	elsewhere := t.TempDir()
	if err := errors.Join(os.RemoveAll(private), os.Symlink(elsewhere, private)); err != nil {
		t.Fatal(err)
	}
	if lib, stderr, status := f.run(t, "--platform", "linux-x64"); status == 0 {
		t.Errorf("followed a link in the temporary folder: printed %q\n%s", lib, stderr)
	}
}
