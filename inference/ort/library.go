package ort

/*
#cgo linux LDFLAGS: -ldl
#include <stdlib.h>
#include "ortshim.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"unsafe"

	onnx "github.com/yalue/onnxruntime_go"
)

// The oldest ONNX Runtime served: before it, a file of 3 KB could take minutes
// to load.
const (
	oldestMajor = 1
	oldestMinor = 30
)

// probe is a model of one node, y = Identity(x) of a float of rank 0, in opset
// 13: what is loaded first, to see that the library works.
const probe = "\x08\x08:/\x0a\x10\x0a\x01x\x12\x01y\x22\x08Identity\x12\x01gZ\x0b\x0a\x01x\x12\x06\x0a\x04\x08\x01\x12\x00" +
	"b\x0b\x0a\x01y\x12\x06\x0a\x04\x08\x01\x12\x00B\x04\x0a\x00\x10\x0d"

const advice = "run `make build`, or set MODELGATE_ONNXRUNTIME_LIB to the path of libonnxruntime 1.30.0 or newer"

// library is the one ONNX Runtime of the process: the runtime keeps its
// environment in a global variable, and so must who counts its users.
var library struct {
	sync.Mutex
	users   int    // engines and stray loads
	path    string // once loaded, it stays
	version string
	limit   int64
}

// FindLibrary returns the path of the shared library: explicit when it is not
// empty, else the first there is of: beside the executable, ../lib from there,
// the cache that `make build` fills, the system's folders. The error lists
// what was tried and says what to do.
func FindLibrary(explicit string) (string, error) {
	if explicit != "" {
		if info, err := os.Stat(explicit); err != nil || info.IsDir() {
			return "", fmt.Errorf("--onnxruntime-lib (MODELGATE_ONNXRUNTIME_LIB) names %s, where no file is; correct it, or leave it out and run `make build`", explicit)
		}
		return filepath.Abs(explicit)
	}
	tried := candidates()
	for _, path := range tried {
		if info, err := os.Stat(path); err == nil && !info.IsDir() {
			return path, nil
		}
	}
	return "", fmt.Errorf("ONNX Runtime was not found; %s. Tried:\n  %s", advice, strings.Join(tried, "\n  "))
}

func candidates() []string {
	name := "libonnxruntime.so"
	if runtime.GOOS == "darwin" {
		name = "libonnxruntime.dylib"
	}
	var list []string
	if exe, err := os.Executable(); err == nil {
		if real, err := filepath.EvalSymlinks(exe); err == nil {
			exe = real
		}
		dir := filepath.Dir(exe)
		// The build names it .so everywhere.
		list = append(list, filepath.Join(dir, "libonnxruntime.so"), filepath.Join(dir, "..", "lib", "libonnxruntime.so"))
	}
	if cache, err := os.UserCacheDir(); err == nil {
		platform := map[string]string{"amd64": "x64"}[runtime.GOARCH]
		if platform == "" {
			platform = runtime.GOARCH
		}
		list = append(list, filepath.Join(cacheDir(cache), "modelgate", "onnxruntime", "1.30.0", runtime.GOOS+"-"+platform, "libonnxruntime.so"))
	}
	triple := map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}[runtime.GOARCH]
	for _, dir := range []string{"/usr/local/lib", filepath.Join("/usr/lib", triple), "/usr/lib64", "/usr/lib", "/opt/homebrew/lib"} {
		list = append(list, filepath.Join(dir, name))
	}
	return list
}

// cacheDir is the cache folder as fetch.sh finds it: the same on every
// platform, unlike Go's.
func cacheDir(platforms string) string {
	if dir := os.Getenv("XDG_CACHE_HOME"); filepath.IsAbs(dir) {
		return dir
	}
	if home := os.Getenv("HOME"); home != "" {
		return filepath.Join(home, ".cache")
	}
	return platforms
}

// openLibrary loads the library for one more user, with at most limit bytes
// for what models compute (0: no bound).
func openLibrary(path string, limit int64) (version string, err error) {
	library.Lock()
	defer library.Unlock()
	if library.users > 0 {
		if library.path != path || library.limit != limit {
			return "", errors.New("ONNX Runtime is open already, with another path or memory limit; one process has one")
		}
		library.users++
		return library.version, nil
	}
	if library.path != "" && library.path != path {
		return "", fmt.Errorf("ONNX Runtime was loaded from %s before and can't be loaded from elsewhere in the same process", library.path)
	}
	if err := loadLibrary(path); err != nil {
		return "", err
	}
	if err := initialise(path, limit); err != nil {
		return "", fmt.Errorf("ONNX Runtime %s in %s could not be set up: %w", library.version, path, err)
	}
	library.limit = limit
	library.users = 1
	return library.version, nil
}

// loadLibrary maps the library and checks its version. The caller holds the lock.
func loadLibrary(path string) error {
	// The library's initialisers read it, so it comes before everything.
	// With cgo, Setenv sets C's environment as well.
	if err := os.Setenv("ORT_DISABLE_TELEMETRY", "1"); err != nil {
		return err
	}
	if path == "" {
		return errors.New("no path of ONNX Runtime is given; " + advice)
	}
	name := C.CString(path)
	defer C.free(unsafe.Pointer(name))
	var version *C.char
	if problem := C.mg_open(name, &version); problem != nil {
		return fmt.Errorf("%s can't be loaded: %s; %s", path, C.GoString(problem), advice)
	}
	found := C.GoString(version)
	if !served(found) {
		return fmt.Errorf("%s is ONNX Runtime %s, and %d.%d.0 or newer is needed; %s", path, found, oldestMajor, oldestMinor, advice)
	}
	library.path, library.version = path, found
	return nil
}

// served reports whether a version, such as "1.30.0", is new enough.
func served(version string) bool {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 {
		return false
	}
	major, err1 := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(parts[1])
	return err1 == nil && err2 == nil && major == oldestMajor && minor >= oldestMinor
}

// initialise makes the environment and what all sessions share.
func initialise(path string, limit int64) error {
	onnx.SetSharedLibraryPath(path)
	if err := onnx.InitializeEnvironment(onnx.WithLogLevelFatal()); err != nil {
		return err
	}
	err := share(limit)
	if err == nil {
		if problem := C.mg_attach(unsafe.Pointer(unsafe.StringData(probe)), C.size_t(len(probe))); problem != nil {
			err = errors.New(C.GoString(problem))
		}
	}
	if err != nil {
		err = errors.Join(err, onnx.DestroyEnvironment())
	}
	return err
}

// share gives all sessions one arena and turns telemetry off once more, by the
// interface meant for it.
func share(limit int64) error {
	if err := onnx.DisableTelemetry(); err != nil {
		return err
	}
	info, err := onnx.GetMemoryInfo()
	if err != nil {
		return err
	}
	cfg, err := onnx.NewArenaCfgV2(map[string]int{"max_mem": int(limit)})
	if err != nil {
		return err
	}
	defer cfg.Destroy()
	return onnx.CreateAndRegisterAllocator(info, cfg)
}

// keepLibrary counts one more user of a library that is open.
func keepLibrary() {
	library.Lock()
	defer library.Unlock()
	library.users++
}

// closeLibrary counts one user less. After the last, the environment is freed;
// the library stays mapped.
func closeLibrary() error {
	library.Lock()
	defer library.Unlock()
	library.users--
	if library.users > 0 {
		return nil
	}
	C.mg_detach()
	return onnx.DestroyEnvironment()
}

// statusError turns a status into an error with the runtime's words, for a
// Cause; nil for none.
func statusError(status *C.OrtStatus) error {
	if status == nil {
		return nil
	}
	var message [2048]C.char
	C.mg_error(status, &message[0], C.size_t(len(message)))
	return errors.New(strings.ToValidUTF8(C.GoString(&message[0]), "?"))
}
