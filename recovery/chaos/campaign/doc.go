// Command campaign is the node-reboot chaos campaign: a node on a real kernel
// is killed, cut off, rebooted and crashed at every label of a bind, an unbind
// and a link change, and while virtual functions are made, changed and removed,
// and at random moments, on ext4 and XFS, and has to come back each time. Then it replays what the journal's disk was told to write,
// cut at any moment and with its cache reordered.
//
// make chaos runs it. It prints a line for each run, and at the end which label
// met which end how often; a hole in that table is a failure too.
package main
