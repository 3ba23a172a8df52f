package sim

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// running says whether the process that holds a function is still there.
func running(h hold) bool {
	started, ok := processStart(h.PID)
	return ok && started == h.Started
}

// processStart is when a process started, in clock ticks since boot, and
// whether it runs: a zombie has closed its files.
func processStart(pid int) (uint64, bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false
	}
	// The second field, the name in parentheses, may itself have both.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	const stateField, startField = 0, 19 // the third and the 22nd of proc(5)
	if len(fields) <= startField || fields[stateField][0] == 'Z' || fields[stateField][0] == 'X' {
		return 0, false
	}
	started, err := strconv.ParseUint(string(fields[startField]), 10, 64)
	return started, err == nil
}
