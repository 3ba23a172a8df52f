package source

import (
	"context"
	"time"

	"eniagent/drivers"
)

// Standing is how what an object asks of one interface stands on the host.
type Standing struct {
	Object    string         // that asks it, as in Interface
	Entry     string         // the interface, as it is selected
	Target    drivers.Target // the function; "" while it is not known
	Condition string         // the agent's word for it, such as "right"
	Reason    string         // why, where that is not "right"
	Since     time.Time
	State     string // what the interface is, such as "bound"
	// StateSince is zero where nobody looked yet.
	StateSince time.Time
	Driver     string // that the function is bound to; "" is none, or not known
	Userspace  bool   // that driver is for userspace programs
	Pool       string // of the device plugin, that names the function now
	// Settled says that this is not about to change by itself: what is being done
	// was done, or waits for something that may take any time.
	Settled bool
	// Generation is that of the desired state with which it was looked at.
	Generation string
}

// Report is how everything that a source asks stands.
type Report struct {
	// Generation is that of the desired state that was last looked at as a whole.
	// What it asked for and has no Standing, there is nothing left of.
	Generation string
	Standings  []Standing
	// Plugin is the last restart of the device plugin that was owed, since the agent
	// started.
	Plugin Restart
}

// Restart is a restart of the device plugin that was owed.
type Restart struct {
	At time.Time // zero is none
	Restarted
}

// Refresher is a source that can be asked to read now, for what changed a moment ago and
// was not told yet.
type Refresher interface {
	// Refresh returns once the reader of the source's updates has taken what is asked now,
	// or ctx's cause when it ends before.
	Refresh(ctx context.Context) error
}

// Reporter is a source that wants to know how what it asks stands.
type Reporter interface {
	// Report is called whenever something of the report changed. It waits for
	// nothing, and keeps no more than the last.
	Report(r Report)
}
