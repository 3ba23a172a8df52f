package source

import (
	"context"
	"time"
)

// Owed is what came to be owed to a program that reads its file only when it
// starts.
type Owed struct {
	// Number counts the changes of the file, ever: with another there is one more.
	Number uint64
	// Last is when the last of them was made, by the clock of this node. Whoever
	// started later has read it.
	Last time.Time
	Why  string // of the last
}

// Restarted is how it came about that nothing runs on this node which has not
// read the last change.
type Restarted struct {
	How     string // "pod kube-system/x was restarted"
	Warning string // what a person should look at, though nothing is owed; "" is nothing
}

// Restarter restarts that program.
type Restarter interface {
	// Restart returns without an error once nothing that read the file before the
	// last change runs on this node, be it that nothing did. Who has read it is
	// left alone: asked twice, it restarts once. It says what it waits for, and
	// an error says what to do about it. A later change is the next one's.
	Restart(ctx context.Context, o Owed, waits func(what string)) (Restarted, error)
}
