package main

import (
	"bytes"
	"errors"
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

// cpuTime is the user and system time of a process and all that descend from
// it, of those that have ended too: who waited for one has its time (cutime and
// cstime, proc_pid_stat(5)).
func cpuTime(pid int) (total time.Duration, err error) {
	for range 10 {
		if total, err = sumTimes(family(pid)); !errors.Is(err, errEnded) {
			return total, err
		}
		// It was waited for perhaps after its parent was read: again.
	}
	return 0, err
}

// errEnded: a process ended while the times of its family were read.
var errEnded = errors.New("it has ended")

func sumTimes(family []int) (total time.Duration, err error) {
	for i, p := range family {
		fields, err := stat(p)
		if err != nil && i > 0 {
			return 0, fmt.Errorf("process %d: %w", p, errEnded)
		}
		if err != nil {
			return 0, err
		}
		for _, field := range []int{14, 15, 16, 17} { // utime, stime, cutime, cstime
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
	if len(fields) < 15 {
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

// peak is the sum of the highest resident memory of a process and its children
// in bytes. What several of them share counts for each.
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

// memory is what a process and its children take in bytes; of what several
// processes share, each counts its part (Pss, proc_pid_smaps(5)). Only root may
// ask that of a modelgate's workers: others get fs.ErrPermission.
func memory(pid int) (total int64, err error) {
	for _, p := range family(pid) {
		path := fmt.Sprintf("/proc/%d/smaps_rollup", p)
		rollup, err := os.ReadFile(path)
		if err != nil {
			return 0, err
		}
		_, rest, ok := strings.Cut(string(rollup), "\nPss:")
		fields := strings.Fields(rest)
		if !ok || len(fields) == 0 {
			return 0, fmt.Errorf("%s has no Pss", path)
		}
		kb, err := strconv.ParseInt(fields[0], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", path, err)
		}
		total += kb << 10
	}
	return total, nil
}
