package worker

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
)

// The descriptors of a worker, besides the standard three.
const (
	controlFD = 3 // a unix socket to the server, of type stream or seqpacket
	memoryFD  = 4 // the shared memory of tensors
	libraryFD = 5 // the file of ONNX Runtime, opened for reading
	processFD = 6 // /proc/self, from the first stage until shut
)

// libraryPath is how a worker names the library to the dynamic loader: the
// folders above the file may be closed to its user.
const libraryPath = "/proc/self/fd/5"

// workerUser is the user and group of workers when the server is root: nobody
// and nogroup of most systems. No file should belong to it.
const workerUser = 65534

// layer is a set of parts of the cage.
type layer uint

const (
	layerSeccomp layer = 1 << iota
	layerLandlock
	layerNamespaces
	layerUser
)

// cageConfig of a cage. The zero value is the whole of it.
type cageConfig struct {
	// without names layers to leave out even where the kernel has them, so
	// that a test sees what the others hold. What is left out isn't demanded.
	without layer
}

// workerFiles are what a worker inherits. They stay the caller's, who may
// close them once the worker is started.
type workerFiles struct {
	control *os.File // becomes controlFD
	memory  *os.File // becomes memoryFD
	library *os.File // becomes libraryFD; all users must be able to read the file
}

// Protections says what holds in a worker. The first three are the minimum,
// without which no worker runs.
type Protections struct {
	Seccomp    bool  `json:"seccomp"`      // an allow list of system calls, on all threads
	NoNewPrivs bool  `json:"no_new_privs"` // no program that it could start has more rights
	DataLimit  int64 `json:"data_limit"`   // RLIMIT_DATA, bytes: the model's and what the worker takes itself

	Landlock         int  `json:"landlock"`          // ABI of the kernel's Landlock in force; 0: none
	OtherUser        bool `json:"other_user"`        // runs as another user than the server
	Root             bool `json:"root"`              // runs as root
	UserNamespace    bool `json:"user_namespace"`    // has one of its own, and so below
	NetworkNamespace bool `json:"network_namespace"` // without any interface that is up
	IPCNamespace     bool `json:"ipc_namespace"`
	NoCapabilities   bool `json:"no_capabilities"` // none permitted, effective, inheritable or ambient
	NotDumpable      bool `json:"not_dumpable"`    // other processes of its user can't look into it, and it leaves no core
	OOMFirst         bool `json:"oom_first"`       // it dies before the server when memory runs out
}

// Gap is a protection that could not be had.
type Gap struct {
	Label string // short and stable, for metrics
	Text  string // what is missing, what follows and what gives it, for the operator
}

// Missing lists what the workers lack beyond the minimum; nothing when the cage
// is whole.
func (p Protections) Missing() []Gap {
	var gaps []Gap
	lacks := func(is bool, label, text string) {
		if is {
			gaps = append(gaps, Gap{label, text})
		}
	}
	lacks(p.Landlock == 0, "landlock", "no Landlock: files are kept from workers by seccomp and by their user alone; it takes Linux 5.13, "+
		"with landlock among the security modules (CONFIG_LSM, or lsm= of the kernel's command line)")
	lacks(p.Landlock > 0 && p.Landlock < 4, "landlock_network", "Landlock here knows no network rules: sockets are kept from workers by "+
		"seccomp and namespaces alone; it takes Linux 6.7")
	lacks(p.Landlock > 0 && p.Landlock < 6, "landlock_scope", "Landlock here can't fence off signals: they are kept from workers by seccomp "+
		"and by their user alone; it takes Linux 6.12")
	lacks(p.Root, "other_user", fmt.Sprintf("workers run as root like the server, since the kernel refuses them user %d; run the server as an "+
		"ordinary user, or give it the capabilities SETUID, SETGID and KILL and a program file that all may execute", workerUser))
	lacks(!p.UserNamespace, "user_namespace", "no user namespace for workers: rights over what is outside are kept from them by seccomp, no_new_privs and the lack of "+
		"capabilities alone; a container's seccomp profile, a chroot, "+
		"kernel.apparmor_restrict_unprivileged_userns or user.max_user_namespaces forbids it")
	lacks(!p.NetworkNamespace, "network_namespace", "no network namespace for workers: they share the server's network, which seccomp keeps "+
		"from them; it comes with the user namespace")
	lacks(!p.IPCNamespace, "ipc_namespace", "no IPC namespace for workers: they share the server's System V IPC, which seccomp keeps from "+
		"them; it comes with the user namespace")
	lacks(!p.NoCapabilities, "capabilities", "workers keep capabilities, since the kernel would not take them away")
	lacks(!p.NotDumpable, "not_dumpable", "other processes of the workers' user can look into them")
	lacks(!p.OOMFirst, "oom_score", "workers don't die first when memory runs out: /proc/self/oom_score_adj can't be written")
	return gaps
}

// check returns an error when the minimum does not hold.
func (p Protections) check(without layer) error {
	switch {
	case !p.NoNewPrivs:
		return errors.New("no_new_privs did not take hold")
	case !p.Seccomp && without&layerSeccomp == 0:
		return errors.New("the seccomp filter did not take hold")
	case p.DataLimit <= 0:
		return errors.New("RLIMIT_DATA did not take hold: the kernel is too old, or was started with ignore_rlimit_data")
	}
	return nil
}

// orders are what a server tells a worker on its command line, and what the
// first stage tells the second.
type orders struct {
	Parent     int               `json:"parent"`     // process id of the server
	ParentUser int               `json:"user"`       // its user id
	Namespaces map[string]string `json:"namespaces"` // its namespaces, as /proc/self/ns names them
	Data       int64             `json:"data"`       // bytes for the model
	Without    layer             `json:"without,omitempty"`
	Probe      bool              `json:"probe,omitempty"` // shut the cage, print the Protections, wait for the end
	Staged     bool              `json:"staged,omitempty"`
	Applied    Protections       `json:"applied,omitzero"` // by the first stage
}

// errByHand is for a person who finds the hidden subcommand.
var errByHand = errors.New("this command is for the server, which runs each model in a process of it; it is of no use by hand")

// parse reads orders from the arguments of the hidden subcommand. What no server
// sends is errByHand.
func (o *orders) parse(args []string) error {
	if len(args) != 1 || json.Unmarshal([]byte(args[0]), o) != nil || o.Parent <= 0 || o.Data <= 0 {
		return errByHand
	}
	return nil
}

// args is what parse reads.
func (o *orders) args() []string {
	text, err := json.Marshal(o)
	if err != nil {
		panic(err) // numbers and strings always marshal
	}
	return []string{"modelgate", "worker", string(text)}
}

// inside is a worker between its two stages and shut.
type inside struct{ orders orders }
