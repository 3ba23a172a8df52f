// Package wire is what the two halves of the VM rig say to each other: the test on the host and the program that is
// the guest's userspace.
//
// Both write a stream of JSON objects. The guest speaks first, with a Hello. After that every Request is answered by
// one Reply or more with its ID, of which the last has Done set; requests run at the same time, and their replies
// interleave. Bytes travel as base64, as encoding/json does it.
package wire
