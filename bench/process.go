package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of CPU times in /proc: Linux fixes it at a hundredth of a
// second for all that user space sees (USER_HZ, proc_pid_stat(5)).
const tick = 10 * time.Millisecond

// cpuTime is the user and system time of a process and its children.
func cpuTime(pid int) (time.Duration, error) {
	var total time.Duration
	for _, p := range family(pid) {
		fields, err := stat(p)
		if err != nil {
			if p != pid {
				continue // a child that ended meanwhile
			}
			return 0, err
		}
		for _, field := range []int{14, 15} { // utime, stime
			n, err := strconv.ParseInt(fields[field-3], 10, 64)
			if err != nil {
				return 0, err
			}
			total += time.Duration(n) * tick
		}
	}
	return total, nil
}

// stat returns the fields of /proc/PID/stat from the third on; the second, the
// name, may hold anything.
func stat(pid int) ([]string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) < 13 {
		return nil, fmt.Errorf("/proc/%d/stat is short", pid)
	}
	return fields, nil
}

// family is a process with all that descend from it.
func family(pid int) []int {
	children := map[int][]int{}
	paths, _ := filepath.Glob("/proc/[0-9]*") // the pattern is well formed
	for _, path := range paths {
		child, err := strconv.Atoi(filepath.Base(path))
		if err != nil {
			continue
		}
		if fields, err := stat(child); err == nil {
			if parent, err := strconv.Atoi(fields[1]); err == nil {
				children[parent] = append(children[parent], child)
			}
		}
	}
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}

// resetPeak lets peak begin anew; where the kernel does not permit it, peak is
// that of the whole life.
func resetPeak(pid int) {
	for _, p := range family(pid) {
		_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p), []byte("5"), 0)
	}
}

// peak is the highest resident memory of a process and its children in bytes.
func peak(pid int) (total int64) {
	for _, p := range family(pid) {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(status)) {
			if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
				kb, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
				total += kb << 10
			}
		}
	}
	return total
}
