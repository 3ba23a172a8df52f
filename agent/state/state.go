// Package state is what an interface is, and how one state may follow another.
//
//	unknown      to: down up configuring bound degraded error gone quarantined
//	down         to: unknown up configuring bound degraded error gone
//	up           to: unknown down configuring degraded error gone
//	configuring  to: unknown down up bound degraded error gone quarantined
//	bound        to: unknown down configuring degraded error gone
//	degraded     to: unknown down up configuring bound error gone
//	error        to: gone unknown down up configuring bound degraded
//	gone         to: unknown
//	quarantined  to: unknown configuring
//
// What follows from the way the agent works is a rule here, and what another
// hand can do to the host is not: a cable, a driver and a device come and go.
//
//   - A device that comes back is another one until it was looked at: gone is
//     left for unknown alone.
//   - Nothing is quarantined that was not being configured, now or before this
//     agent knew of it; and a quarantine is left by configuring, which a person
//     decides, or else by looking anew.
//   - A function goes from the kernel to a program, or back, by an operation of
//     the agent, or it was seen that another hand did it: then it is unknown
//     what else that hand did, until it was looked at.
package state

// State is what an interface is.
type State string

// The states.
const (
	Unknown     State = "unknown"     // not looked at yet, or it cannot be
	Down        State = "down"        // on no driver, or its link is down or without carrier
	Up          State = "up"          // its link is up and has a carrier
	Configuring State = "configuring" // an operation is open on it
	Bound       State = "bound"       // on a driver for userspace programs
	Degraded    State = "degraded"    // as asked and not healthy, or changed by another hand and left so
	Error       State = "error"       // what is asked was tried and given up
	Gone        State = "gone"        // the host has no such device
	Quarantined State = "quarantined" // hands off until a person decides
)

// States are all of them, for metrics.
func States() []State {
	return []State{Unknown, Down, Up, Configuring, Bound, Degraded, Error, Gone, Quarantined}
}

// Legal says whether one state may follow another. A state that lasts is no
// transition.
func Legal(from, to State) bool {
	switch {
	case from == to || from == Unknown || to == Unknown:
		return true
	case from == Gone:
		return false
	case from == Quarantined:
		return to == Configuring
	case to == Quarantined:
		return from == Configuring
	case from == Up && to == Bound, from == Bound && to == Up:
		return false
	}
	return true
}
