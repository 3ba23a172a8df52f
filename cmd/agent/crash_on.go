//go:build crashpoint

package main

import (
	"eniagent/drivers/host"
	"eniagent/journal"
)

// crashPoints lets a test kill the agent before and after any commit of the
// journal, by ENIAGENT_CRASH: "journal.begin:before:1".
func crashPoints(o *journal.Options) {
	o.Fault = func(point string) error {
		host.CrashPoint("journal." + point)
		return nil
	}
}
