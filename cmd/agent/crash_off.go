//go:build !crashpoint

package main

import "eniagent/journal"

// crashPoints does nothing in the shipped binary; see crash_on.go.
func crashPoints(*journal.Options) {}
