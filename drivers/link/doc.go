// Package link has the kinds of a function's netdev: admin (up or down) and
// mtu.
//
// They are read from sysfs, which answers under RCU, and written over netlink.
// Their target is the PCI function, never the netdev's name: the netdev goes
// when the function is bound to a userspace driver and comes back with another
// index, default MTU and down.
package link
