// Package all lists the kinds there are. A new kind is one line in kinds.
//
// # Caveats
//
// A kind registered twice panics at the first use: that is a mistake of whoever
// wrote the line, and no input can cause it.
package all
