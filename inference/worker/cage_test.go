//go:build linux && (amd64 || arm64)

package worker

import (
	"strings"
	"testing"
)

func TestMissing(t *testing.T) {
	if gaps := whole.Missing(); len(gaps) != 0 {
		t.Errorf("nothing is missing, and yet %v", gaps)
	}
	for label, take := range map[string]func(p *Protections){
		"landlock":          func(p *Protections) { p.Landlock = 0 },
		"landlock_network":  func(p *Protections) { p.Landlock = 3 },
		"landlock_scope":    func(p *Protections) { p.Landlock = 5 },
		"other_user":        func(p *Protections) { p.Root, p.OtherUser = true, false },
		"user_namespace":    func(p *Protections) { p.UserNamespace = false },
		"network_namespace": func(p *Protections) { p.NetworkNamespace = false },
		"ipc_namespace":     func(p *Protections) { p.IPCNamespace = false },
		"capabilities":      func(p *Protections) { p.NoCapabilities = false },
		"not_dumpable":      func(p *Protections) { p.NotDumpable = false },
		"oom_score":         func(p *Protections) { p.OOMFirst = false },
	} {
		p := whole
		take(&p)
		gaps := p.Missing()
		found := false
		for _, gap := range gaps {
			found = found || gap.Label == label
			// Without network rules there are no scopes either.
			if gap.Label != label && (label != "landlock_network" || gap.Label != "landlock_scope") {
				t.Errorf("without %s, %s is said to be missing", label, gap.Label)
			}
			if gap.Text == "" {
				t.Errorf("%s is not explained", gap.Label)
			}
		}
		if !found {
			t.Errorf("%s is missing, and only %v is told", label, gaps)
		}
	}
	ordinary := whole
	ordinary.OtherUser = false // of a server that isn't root
	if gaps := ordinary.Missing(); len(gaps) != 0 {
		t.Errorf("an ordinary user has no other user to give, and yet %v", gaps)
	}
}

// TestMinimum takes each part of the minimum.
func TestMinimum(t *testing.T) {
	if err := whole.check(0); err != nil {
		t.Error(err)
	}
	for part, take := range map[string]func(p *Protections){
		"seccomp":      func(p *Protections) { p.Seccomp = false },
		"no_new_privs": func(p *Protections) { p.NoNewPrivs = false },
		"RLIMIT_DATA":  func(p *Protections) { p.DataLimit = 0 },
	} {
		p := whole
		take(&p)
		if err := p.check(0); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("without %s: %v", part, err)
		}
	}
}

// TestEnterByHand calls the hidden subcommand as a person might.
func TestEnterByHand(t *testing.T) {
	for _, args := range [][]string{nil, {"--help"}, {"a", "b"}, {"{}"}, {`{"parent":1}`}, {`{"data":1}`}, {"null"}} {
		if _, err := enter(args); err != errByHand {
			t.Errorf("%q: %v, want %v", args, err, errByHand)
		}
	}
}
