package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"eniagent/agent"
	"eniagent/journal"
)

// Exit codes. An unknown one is a failure. The Go runtime ends a process with 2 by
// itself, after a panic, SIGQUIT or SIGABRT (a watchdog), and with 3 to 5 when that fails
// too (runtime/panic.go): a code that keeps a service manager from starting the agent
// again (RestartPreventExitStatus= in eniagent.service) is none of these. 64 is EX_USAGE
// of sysexits.h.
const (
	exitOK          = 0
	exitError       = 1
	exitPending     = 3
	exitHuman       = 4
	exitLocked      = 5
	exitJournal     = 6
	exitPlace       = 7
	exitLeft        = 8
	exitUsage       = 64
	exitInterrupted = 130
)

const exitStatus = `Exit status:
  0    done, or nothing to do
  1    an error, told on standard error
  2    the program crashed, or was made to: a panic, SIGQUIT, SIGABRT
  3    something is to be done: plan has changes or entries that cannot be had,
       recover has open operations, status is not as desired, not ready, finds
       no agent running, or the file is not readable
  4    a person is needed: an operation is quarantined or a newer agent's, a
       goal was given up, or the journal was damaged
  5    the journal is held by another process, which is named
  6    the journal is corrupt, or from a newer agent; nothing was changed
  7    the state directory cannot be used as it is: permission, owner, mode,
       read-only or full file system
  8    run was asked to stop, and left something that it was to give back
       (--on-stop, onStop): its log says what, and why
  64   wrong usage: flags, arguments, or a confirmation that was not given
  130  interrupted`

// errPending and errHuman are not failures: what was asked for was printed.
var (
	errPending = errors.New("something is to be done")
	errHuman   = errors.New("a person is needed")
	errUsage   = errors.New("usage")
	errStream  = errors.New("input or output")
)

type usageError struct{ err error }

func (e usageError) Error() string   { return e.err.Error() }
func (e usageError) Unwrap() []error { return []error{e.err, errUsage} }

func usage(err error) error { return usageError{err} }

// streamError is about what a command was to read or to print to. That this may
// not be read, or is full, says nothing of the state directory.
type streamError struct{ err error }

func (e streamError) Error() string   { return e.err.Error() }
func (e streamError) Unwrap() []error { return []error{e.err, errStream} }

func stream(err error) error { return streamError{err} }

// exitCode is the one place where an error becomes a number.
func exitCode(err error) int {
	var flags *agent.UsageError
	var damaged *agent.DamagedError
	is := func(targets ...error) bool {
		for _, t := range targets {
			if errors.Is(err, t) {
				return true
			}
		}
		return false
	}
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &flags), is(errUsage), unknownCommand(err):
		return exitUsage
	case is(errStream):
		return exitError
	case is(errHuman), errors.As(err, &damaged):
		return exitHuman
	case is(errPending):
		return exitPending
	case is(journal.ErrLocked):
		return exitLocked
	case is(journal.ErrCorrupt, journal.ErrNewer):
		return exitJournal
	case is(journal.ErrPermission, journal.ErrUnsafe, journal.ErrReadOnly, journal.ErrNoSpace, fs.ErrPermission,
		syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS):
		return exitPlace
	case is(agent.ErrNotGivenBack):
		return exitLeft
	case is(context.Canceled):
		return exitInterrupted
	}
	return exitError
}

// unknownCommand recognises cobra's own error, which has no type.
func unknownCommand(err error) bool { return strings.HasPrefix(err.Error(), "unknown command") }

// silent says that an error only carries an exit code.
func silent(err error) bool { return errors.Is(err, errPending) || errors.Is(err, errHuman) }

// printError tells an error: a line for people, an object for machines.
func (c *cli) printError(err error) {
	if err == nil || silent(err) {
		return
	}
	if c.output == "json" {
		// Standard error closed is nothing that could be told anywhere.
		_ = json.NewEncoder(c.err).Encode(map[string]any{"error": err.Error(), "exit_code": exitCode(err)})
		return
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		fmt.Fprintln(c.err, "agent:", line)
	}
}
