package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

// life is what a tracer tells of a program that ended.
type life struct {
	Calls []call             `json:"calls"`
	Died  bool               `json:"died"` // killed before the last of the calls
	How   syscall.WaitStatus `json:"how"`
	Error string             `json:"error,omitempty"`
}

// call is a system call that was counted, such as "agent pwrite64 journal.db".
type call string

// trace runs a program and all that it starts under ptrace, and counts the
// system calls by which the outside can tell how far they came. strace counts
// for each thread and each call alone, so that no number of its is "after half
// of it": a goroutine's calls are made by whatever threads it happens to run on.
//
// A tracer is a process of its own, because it waits for whatever is its child.
type tracer struct {
	life
	kill  int  // at which call; 0 is never
	whole bool // kill the children as well, as the end of a control group does
}

// traceMain is that process: tracer K WHOLE COMMAND... It ends the program
// gently when its standard input ends, writes its life when the program has
// ended, and ends when all that the program started has.
func traceMain() {
	runtime.LockOSThread() // a tracee belongs to a thread
	tr := &tracer{whole: os.Args[2] == "true"}
	err := error(nil)
	if tr.kill, err = strconv.Atoi(os.Args[1]); err == nil {
		c := exec.Command(os.Args[3], os.Args[4:]...)
		c.Stderr, c.SysProcAttr = os.Stderr, &syscall.SysProcAttr{Ptrace: true}
		if err = c.Start(); err == nil {
			go func() {
				_, _ = io.Copy(io.Discard, os.Stdin)
				_ = c.Process.Signal(syscall.SIGTERM)
			}()
			err = errors.Join(tr.adopt(c.Process.Pid), tr.follow(c.Process.Pid))
		}
	}
	if err != nil {
		tr.Error = err.Error()
		tr.tell()
		os.Exit(1)
	}
	os.Exit(0)
}

func (tr *tracer) tell() { _ = json.NewEncoder(os.Stdout).Encode(tr.life) }

// What Linux has and package syscall has not.
const (
	ptraceGetSyscallInfo = 0x420e
	ptraceExitKill       = 1 << 20
	syscallEntry         = 1
	waitAll              = 0x40000000 // __WALL
)

const traced = ptraceExitKill | syscall.PTRACE_O_TRACESYSGOOD | syscall.PTRACE_O_TRACECLONE | syscall.PTRACE_O_TRACEFORK | syscall.PTRACE_O_TRACEVFORK

func (tr *tracer) adopt(pid int) error {
	var status syscall.WaitStatus
	if _, err := wait(pid, &status); err != nil {
		return err
	}
	if err := syscall.PtraceSetOptions(pid, traced); err != nil {
		return fmt.Errorf("trace: %w", err)
	}
	return syscall.PtraceSyscall(pid, 0)
}

func wait(pid int, status *syscall.WaitStatus) (int, error) {
	for {
		got, err := syscall.Wait4(pid, status, waitAll, nil)
		if !errors.Is(err, syscall.EINTR) {
			return got, err
		}
	}
}

// follow lets them all run from stop to stop until none is left.
func (tr *tracer) follow(root int) error {
	processes, known := map[int]bool{root: true}, map[int]bool{root: true}
	for {
		var status syscall.WaitStatus
		tid, err := wait(-1, &status)
		if errors.Is(err, syscall.ECHILD) {
			return nil
		}
		if err != nil {
			return err
		}
		if !status.Stopped() {
			delete(processes, tid)
			delete(known, tid)
			if tid == root {
				tr.How = status
				tr.tell()
			}
			continue
		}
		deliver := 0
		switch s := status.StopSignal(); {
		case s == syscall.SIGTRAP|0x80:
			tr.met(tid, root, processes)
		case s == syscall.SIGTRAP:
			if child := forked(tid, status); child != 0 {
				processes[child] = true
			}
		case s != syscall.SIGSTOP || known[tid]: // a new tracee begins with a SIGSTOP
			deliver = int(s)
		}
		known[tid] = true
		if err := syscall.PtraceSyscall(tid, deliver); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
}

// forked is the process that a tracee tells to have started, or 0.
func forked(tid int, status syscall.WaitStatus) int {
	if cause := status.TrapCause(); cause != syscall.PTRACE_EVENT_FORK && cause != syscall.PTRACE_EVENT_VFORK {
		return 0
	}
	child, err := syscall.PtraceGetEventMsg(tid)
	if err != nil {
		return 0 // it was killed meanwhile
	}
	return int(child)
}

// met looks at a system call that begins or ends, and kills before the chosen one.
func (tr *tracer) met(tid, root int, processes map[int]bool) {
	var info [11]uint64 // struct ptrace_syscall_info
	_, _, errno := syscall.RawSyscall6(syscall.SYS_PTRACE, ptraceGetSyscallInfo, uintptr(tid), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0)
	if errno != 0 || byte(info[0]) != syscallEntry || tr.Died {
		return
	}
	what, counts := describe(tid, info[3], [6]uint64(info[4:10]))
	if !counts {
		return
	}
	tr.Calls = append(tr.Calls, call(role(tid)+" "+what))
	if len(tr.Calls) != tr.kill {
		return
	}
	tr.Died = true
	_ = syscall.Kill(root, syscall.SIGKILL)
	for pid := range processes {
		if tr.whole && pid != root {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// describe names a call that changes files, locks or what another process is told.
func describe(tid int, number uint64, args [6]uint64) (what string, counts bool) {
	onFile := func(name string) (string, bool) {
		path, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", tid, int32(args[0])))
		if err != nil || strings.HasPrefix(path, "socket:") || strings.HasPrefix(path, "anon_inode:") {
			return "", false // the runtime waking itself
		}
		if strings.HasPrefix(path, "pipe:") {
			path = "pipe"
		}
		return name + " " + filepath.Base(path), true
	}
	onPath := func(name string, arg int) (string, bool) { return name + " " + pathAt(tid, args[arg]), true }
	switch number {
	case syscall.SYS_WRITE:
		return onFile("write")
	case syscall.SYS_PWRITE64:
		return onFile("pwrite64")
	case syscall.SYS_FSYNC:
		return onFile("fsync")
	case syscall.SYS_FDATASYNC:
		return onFile("fdatasync")
	case syscall.SYS_FTRUNCATE:
		return onFile("ftruncate")
	case syscall.SYS_FALLOCATE:
		return onFile("fallocate")
	case syscall.SYS_FLOCK:
		return onFile("flock")
	case syscall.SYS_FCHMOD:
		return onFile("fchmod")
	case syscall.SYS_FCNTL:
		switch args[1] {
		case syscall.F_SETLK, syscall.F_SETLKW, 37, 38: // the last two are F_OFD_SETLK and F_OFD_SETLKW
			return onFile("fcntl")
		}
	case syscall.SYS_OPENAT:
		if args[2]&(syscall.O_WRONLY|syscall.O_RDWR|syscall.O_CREAT|syscall.O_TRUNC) != 0 {
			return onPath("openat", 1)
		}
	case syscall.SYS_RENAMEAT:
		return onPath("renameat", 3)
	case syscall.SYS_LINKAT:
		return onPath("linkat", 3)
	case syscall.SYS_UNLINKAT:
		return onPath("unlinkat", 1)
	case syscall.SYS_MKDIRAT:
		return onPath("mkdirat", 1)
	case syscall.SYS_FCHMODAT:
		return onPath("fchmodat", 1)
	}
	return "", false
}

// pathAt is the last element of a path in a tracee's memory.
func pathAt(tid int, at uint64) string {
	f, err := os.Open(fmt.Sprintf("/proc/%d/mem", tid))
	if err != nil {
		return "?"
	}
	b := make([]byte, 512)
	n, _ := f.ReadAt(b, int64(at))
	_ = f.Close()
	path, _, _ := bytes.Cut(b[:n], []byte{0})
	return filepath.Base(string(path))
}

// role is what a process does: agent, writer, journal-scan.
func role(tid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", tid))
	words := strings.Split(string(b), "\x00")
	if err != nil || len(words) < 2 || !strings.HasPrefix(words[0], "/proc/") {
		return "agent"
	}
	return words[1]
}
