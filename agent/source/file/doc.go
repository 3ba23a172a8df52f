// Package file reads the desired state from a YAML file and follows the file
// as it changes.
//
//	apiVersion: eniagent/v1alpha1
//	interfaces:
//	  - pci: "0000:3b:00.1" # exactly one of pci, mac, name
//	    driver: vfio-pci
//	  - mac: 52:54:00:00:00:01
//	    up: true
//	    mtu: 9000
//	  - name: eth2
//	    state: released # its baseline is restored, then it is left alone
//
// Parse judges a file as a whole: one problem anywhere, and nothing of it is
// used. It names every problem at once, each with its line and what to write
// instead. New follows a file by the kernel's change events, through editors
// that rename, links that are swapped (ConfigMap volumes) and directories that
// are removed and made again.
//
// # Caveats
//
// A YAML file that was cut between two entries is a valid, shorter file; no
// parser can tell. So an entry that vanishes is never a deletion: whoever reads
// a Desired must take a missing interface as "nothing is asked", and give one
// back only for "state: released". For the same reason an empty file and an
// empty list are errors and not an empty Desired. A cut inside the last value
// ("mtu: 900" of 9000) cannot be told either: write a new file and rename it.
//
// The change events are inotify's. They do not tell of a mount made or
// removed above the file, nor of what another machine does to a network file
// system.
package file
