package drivers

// State is the canonical, printable value of a Key. Equal strings are equal
// states, and nothing else is known of them outside the kind's own package.
type State string

// Hidden is the state of a key that cannot be seen because another key of the
// same function hides it: a netdev's MTU while the function sits on vfio-pci.
const Hidden State = "hidden"

// Default stands for the state of a netdev that has just come up where only its
// device can say what that is. It is foreseen, and never observed or written.
const Default State = "default"

// Presence says what an Observation could see.
type Presence uint8

// The presences, from best to worst.
const (
	Present      Presence = iota // State holds the value
	Concealed                    // another key hides it; State is Hidden
	Gone                         // the target itself is not there
	Unobservable                 // reading failed, or a write is still running on it
)

// String is the word for the presence in tables and JSON.
func (p Presence) String() string {
	switch p {
	case Present:
		return "present"
	case Concealed:
		return "hidden"
	case Gone:
		return "gone"
	default:
		return "unobservable"
	}
}

// Observation is what Observe saw of a Key.
type Observation struct {
	Presence Presence
	State    State
	Err      error // why, when Unobservable
	// Netdev is the ifindex that the state was read from, for the kinds that
	// belong to a netdev; 0 when there is none.
	Netdev int
}

// Seen is the observation of a value.
func Seen(s State) Observation {
	if s == Hidden {
		return Observation{Presence: Concealed, State: Hidden}
	}
	return Observation{State: s}
}

// Is says whether the observation is exactly s. A hidden key is exactly Hidden.
func (o Observation) Is(s State) bool {
	return o.Presence <= Concealed && o.State == s
}

// String is the state, or the word for why there is none.
func (o Observation) String() string {
	if o.Presence == Present {
		return string(o.State)
	}
	return o.Presence.String()
}

// Step is one write on the way from what is to what shall be.
type Step struct {
	Key  Key
	From State
	To   State
}

// Class says what a reboot makes of a kind's state.
type Class string

// The classes.
const (
	Volatile   Class = "volatile"   // dies with the kernel: drivers, links, VFs
	Persistent Class = "persistent" // files
)
