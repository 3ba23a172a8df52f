package drivers

import (
	"errors"
	"fmt"
	"syscall"
)

// Errors that mean the same whichever driver returns them.
var (
	// ErrGone is returned when the target itself is not there.
	ErrGone = errors.New("target is gone")
	// ErrHidden is returned by Apply when another key hides the one to write:
	// no netdev while the function sits on vfio-pci.
	ErrHidden = errors.New("hidden by another attribute of the same function")
	// ErrFenced is returned when a write that was abandoned still runs in the
	// kernel and holds the target, or when one has just been abandoned.
	ErrFenced = errors.New("a write still runs in the kernel and holds the target")
	// ErrUnanswered is returned when the kernel has not answered a read within its
	// deadline. That says nothing of the target: neither that anything is absent
	// nor that a write runs.
	ErrUnanswered = errors.New("the kernel has not answered a read of it yet")
	// ErrRefused is returned when a rule forbids the write; nothing was written.
	ErrRefused = errors.New("refused")
	// ErrNotReady is returned with ErrRefused when something else has to come
	// first, such as a module.
	ErrNotReady = errors.New("not ready")
	// ErrHeld is returned with ErrRefused when somebody uses the target; it goes
	// on by itself when they have let go.
	ErrHeld = errors.New("in use")
	// ErrBarred is returned with ErrRefused when it is how the machine is made that
	// forbids it: to wait is of no use, and what was begun is undone.
	ErrBarred = errors.New("barred by how the machine is made")
	// ErrUnsupported is returned when the device or the kernel cannot do it.
	ErrUnsupported = errors.New("not supported here")
	// ErrUnverified is returned when a write succeeded and the host shows
	// something else.
	ErrUnverified = errors.New("write succeeded but the host shows something else")
	// ErrChanged is returned when what a write was computed from is not what is
	// there any more; nothing was written, and the next try looks anew.
	ErrChanged = errors.New("changed by another hand meanwhile")
	// ErrIllegal is returned when a key or value is off the allow-list.
	ErrIllegal = errors.New("not on the allow-list")
	// ErrStarved is returned when the agent lacks what it needs for itself to read
	// or write: descriptors, processes, memory, room for its own files. It says
	// nothing about the target, and passes.
	ErrStarved = errors.New("the node has nothing left of what the agent needs for that")
	// ErrUnknown is returned when something cannot be observed from here, such
	// as a host whose journal is read on another machine.
	ErrUnknown = errors.New("cannot be observed from here")
)

// Starved says whether an error is one of the agent's own means. No device
// answers with EMFILE or ENFILE; other errnos, such as ENOSPC and ENOMEM, are
// answers of devices too, and count only where ErrStarved says so.
func Starved(err error) bool {
	return errors.Is(err, ErrStarved) || errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// Error says what was being done to which key, in the shape of fs.PathError,
// so that labels of logs and metrics come from fields and not from text.
type Error struct {
	Key    Key
	Do     string // "write driver_override", "read back", "precheck"
	Err    error
	Remedy string // what a person can do about it; may be empty
}

// Error is one line: what, on what, why, and the remedy where there is one.
func (e *Error) Error() string {
	s := fmt.Sprintf("%s %s: %v", e.Key, e.Do, e.Err)
	if e.Remedy != "" {
		s += " (" + e.Remedy + ")"
	}
	return s
}

// Unwrap makes errors.Is see the cause.
func (e *Error) Unwrap() error { return e.Err }
