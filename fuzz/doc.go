// Package fuzz holds the fuzz targets on the exported API: what a root process
// reads and did not write itself, or may have written before a crash.
//
//	make fuzz FUZZTIME=10m                       every target, one after another
//	go test ./fuzz -run '^$' -fuzz FuzzRecord$   one of them
//
// Each target states its invariants as a function that returns an error, so that
// a broken variant can be held against the same seeds: a check that no broken
// variant trips over checks nothing.
//
// # Caveats
//
// Damaged journal files are opened in this process and not in a child as the
// agent does, for speed. That is sound because the page reader, which never maps
// a file, goes first and bbolt sees only what it passed; TestVerdictOfAChild
// holds the two ways against each other.
package fuzz
