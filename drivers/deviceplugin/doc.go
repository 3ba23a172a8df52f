// Package deviceplugin is the kind pool: an entry of the configuration of the
// SR-IOV network device plugin, /etc/pcidp/config.json, which hands PCI
// functions to pods as a resource "prefix/name".
//
//	t, err := drivers.FileEntry("/etc/pcidp/config.json", "intel.com/sriov")
//	to, err := deviceplugin.Pool{Addresses: []string{"0000:01:10.0"}, Driver: "vfio-pci"}.State()
//
// # The file
//
// The plugin reads it once, when it starts, and ends with an error when it is
// no JSON, when two resources have one full name, or when a name is bad. A
// resource without a prefix has the plugin's own, intel.com. Keys are compared
// without regard to case, as encoding/json does. Of two resources that match a
// function the first in the file gets it.
//
// The file belongs to whoever made the node, and other programs write it. An
// edit changes the bytes of one entry and the comma beside it, and nothing else:
// what others wrote keeps its keys, their order and its white space. Ours is the
// entry that spells out both prefix and name of the target.
//
// # The state
//
// Absent, or the whole entry without its name, in one spelling: keys sorted, no
// white space, selectors as a list, PCI addresses in lower case, sorted. A
// revert so brings back all that an entry said.
//
// # Caveats
//
// The plugin must be restarted to read a change (Restart): who counts what is
// owed is the journal, and who restarts it somebody else.
//
// What cannot be read as such a configuration is Unobservable, and is never
// replaced: an empty or torn file is somebody's accident, and repairing it would
// make it ours. So there is nothing of which a copy would have to be kept.
//
// Only functions that another entry names by their PCI address are refused. One
// that selects them by vendor, PF or driver is told by Obstacle, where the node
// shows that it does; an entry that also selects by link type, RDMA or the like
// is not told.
package deviceplugin
