// Package link has the kinds of a function's netdev: admin (up or down), mtu,
// altnames, channels, rings and features, and its name and MAC address, which
// nobody asks for and which are put back to what they were.
//
// Those of one value are read from sysfs, which answers under RCU; the others take
// rtnl to read, so that they are observed only where they are asked for
// (drivers.Spec.WhenAsked). All are written over netlink or ethtool. Their
// target is the PCI function, never the netdev's name: the netdev goes when the
// function is bound to a userspace driver and comes back with another index,
// default settings and down.
//
// # Caveats
//
// A state has all of a netdev's settings of its kind, so that it can be observed
// without knowing what was asked. What is asked of some of them is a goal only
// together with the others as they are: With, on each kind's file, makes it.
package link
