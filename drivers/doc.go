// Package drivers holds the words everything else is said in: Target, Kind,
// Key, State, Identity, and the two verbs of a Driver, Observe and Apply.
//
// It is the leaf of the import graph (standard library only), so that the
// journal, recovery and the planner can speak of a host without being able to
// touch one. The kinds themselves live in the packages below this one, one a
// subsystem, and are listed in drivers/all.
//
// # How a kind is made
//
// A kind is a Spec (what is true of it on any machine: class, order, legal
// values, the way from one state to another) and a Driver (how this machine is
// read and written). Nothing outside the kind's own package and one line in
// drivers/all knows it by name.
//
// # Caveats
//
// A State is canonical: two states are equal exactly when their strings are.
// A driver that reads "0x05dc" and prints "1500" elsewhere breaks recovery,
// which knows nothing but equality.
package drivers
