//go:build crashpoint

package host

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

var passed atomic.Int64 //nolint:gochecknoglobals // what is counted is the whole process

// CrashPoint kills this process with SIGKILL at the n-th passing of the point
// that ENIAGENT_CRASH names: "unbind:after:1". With ENIAGENT_CRASH_HOW=stop it
// stands still there instead, for a test that cuts the power, and with wait
// until the test lets it go on; with panic it panics; with list it says which points it passes, and
// dies at none. It is compiled in by the build tag crashpoint
// only.
func CrashPoint(point string) {
	want := os.Getenv("ENIAGENT_CRASH")
	if os.Getenv("ENIAGENT_CRASH_HOW") == "list" {
		_, _ = os.Stderr.WriteString("passed " + point + "\n")
		return
	}
	at := strings.LastIndex(want, ":")
	if at < 0 || want[:at] != point {
		return
	}
	if n, err := strconv.ParseInt(want[at+1:], 10, 64); err != nil || passed.Add(1) != n {
		return
	}
	switch os.Getenv("ENIAGENT_CRASH_HOW") {
	case "stop":
		_, _ = os.Stderr.WriteString("stopped at " + point + "\n")
		select {}
	case "panic":
		panic("injected at " + point)
	case "wait": // until the test makes the file
		_, _ = os.Stderr.WriteString("stopped at " + point + "\n")
		for {
			if _, err := os.Stat("/tmp/go-on"); err == nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
	select {}
}
