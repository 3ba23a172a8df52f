// Package recovery decides what becomes of operations that a crash left open.
// It decides only: the engine that began them carries the decision out, so
// there is no second way to write the host.
//
// An open operation is observed, each of its keys classified (Classify), and
// the operation as a whole decided on (Decide). Both are pure tables; recovery,
// dry run, tests and the documentation use the same ones.
//
//	operation is   | same boot                          | volatile, new boot | persistent, new boot
//	before         | wanted: replay; withdrawn: reverted | superseded         | as same boot
//	between, mixed | wanted or unknown: replay;          | superseded         | replay when all it depends on
//	               | withdrawn: revert; reverting: revert |                    | is done, else revert
//	after          | done (reverting: revert)            | superseded         | done, synced again
//	foreign        | quarantine                          | superseded         | quarantine
//	gone           | superseded                          | superseded         | before if Before is absence,
//	               |                                     |                    | else quarantine
//	unobservable   | keep                                | superseded         | keep
//
// # Caveats
//
// A fenced target is not observed at all: while an unbind hangs, the driver
// link is gone already, and lies.
package recovery
