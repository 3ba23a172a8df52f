// Package plugin restarts the SR-IOV device plugin of one node, by deleting its
// pod through the Kubernetes API: the plugin reads its file only when it starts.
//
// Who has read the last change is told from what the kubelet says: a container
// that started after it has, by whatever it was started. Only a pod that runs
// since before is deleted, gracefully, and only as it was when that was decided
// (its UID and resourceVersion). Then the API is watched until nothing that read
// the file before runs on the node:
//
//	no pod, or one that has ended      nothing to restart: the next reads what is there
//	runs since before the change       deleted
//	is ending                          waited for
//	crashes since before, and is in    deleted: an empty configuration ends the plugin,
//	the kubelet's back-off             and its next try may be minutes away
//	has not started                    waited for, until it has started after the change
//	started after the change           has read it, ready or not, or crashes
//
// Of one that was deleted, the next is waited for until it is ready, a minute
// at most.
//
// # Caveats
//
// The kubelet tells whole seconds, rounded down: a start within the second of the
// change counts as before it. The times are those of the node's own clock; where
// that was set between the two, a pod that was not there when the change was
// first looked at is believed for that alone, so that no clock makes a loop.
//
// A pod that nobody would make again, and one that the API cannot restart, are
// left alone, and told.
package plugin
