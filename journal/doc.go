// Package journal keeps what the agent intends to do to the host, durably,
// before it does it.
//
// An Operation is begun (fsynced as an intent), applied by somebody else, and
// finished. What a crash leaves open is what recovery looks at. Beside the
// operations the journal keeps what recovery and reconciliation must not
// forget: baselines, failures, the last good desired state, standing orders.
//
//	j, err := journal.Open(ctx, journal.Options{Dir: "/var/lib/agent/journal", BootID: boot})
//	op, err := j.Begin(ctx, journal.Operation{Changes: changes, Reason: why}, baselines)
//	// now, and not before, the host may be written
//	err = j.Finish(op.ID, journal.Done, "verified")
//
// # The file
//
// One bbolt file, one bucket an idea; numbers are keys of 8 bytes, most
// significant first:
//
//	journal.db
//	├── meta
//	│   ├── "journal"        Meta: format, oldest reader, machine, creation
//	│   ├── "manifest"       Manifest: sequence, count and digest of each bucket
//	│   └── "degraded"       Degradation: what a damaged predecessor lost
//	├── open
//	│   └── <id>             Operation: intent | reverting
//	├── quarantine
//	│   └── <id>             Operation: quarantined
//	├── done                 a ring: the oldest goes when a new one comes
//	│   └── <order of close> Operation: done | reverted | superseded | resolved
//	├── failures
//	│   └── <fingerprint>    Failure: reverts, panics, not to be tried before
//	├── baseline
//	│   └── <kind>@<target>  Baseline: what release restores
//	├── desired
//	│   └── <source>         Desired: the last good desired state
//	└── control
//	    └── <action>@<target> Control: a standing order, with who and why, or a Debt
//	journal.lock             held by the agent; its pid
//	journal.db.before-upgrade            a copy, from before the last Upgrade
//	journal.db.corrupt-<unix time>-<n>   at most three, kept for people
//
// Every record is in an envelope:
//
//	"EA" | format u8 | codec u8 | kind u16 | length u32 | payload | CRC32C u32
//
// with the checksum over bucket, key, header and payload. The payload is JSON
// in one spelling: what does not encode back to the same bytes is refused. One
// decoder serves every path. A record that a newer agent wrote is kept to the
// byte, what it is about is left alone, and Unreadable lists it.
//
// A checksum cannot see a record that is gone, so each commit also writes the
// manifest, and reading compares.
//
// # Versions
//
// Within a format, fields are only added, and absent ones mean what they did
// before (omitempty). An older agent finds such a record newer, as above, and
// refuses the file where the record is one of meta's. A new value of a field
// that is there, a new spelling, another meaning: that is a new format.
//
// A file keeps its format: a newer agent reads it and goes on writing what it
// found, so that an older one can take over again, until Upgrade. After that
// older agents refuse the file. What a release wrote is in testdata/files, and
// stays there.
//
// # States of an operation
//
//	intent ──────────────► done
//	   │  └──► reverting ─► reverted      (reverting is one-way)
//	   ├──────────────────► reverted      (nothing had been written)
//	   ├──► superseded ◄─── reverting, quarantined
//	   └──► quarantined ──► resolved      (by an operator)
//
// An open or quarantined operation claims its targets: Begin refuses them.
//
// # What a commit costs
//
// Begin is one commit, two fdatasync. Finish costs none of its own: it is
// visible at once, rides in the next commit, or is flushed within a second. A
// crash before that leaves the operation open, and recovery finds the host
// where it should be. Callers that come while a commit is under way share the
// next one; a caller alone waits for nobody.
//
// A failed commit is of unknown outcome (ErrIndeterminate) unless there was no
// room for it and it is provably not there (ErrNoSpace). After the first, the
// journal takes no more changes; after the second it goes on, and what was
// lazy is tried again.
//
// # Caveats
//
// bbolt believes its pages. It faults on truncated files, panics or goes round
// in circles on damaged ones, and silently shows fewer records when a page
// header has flipped. So a file is first walked by code that trusts nothing
// (pages.go), then scanned in a child process, and only then opened.
//
// A file that is one commit older is legal: it is what bbolt falls back to when
// its newest meta page is torn. Whoever reads a journal must therefore look at
// the host before acting on it.
//
// bbolt holds the file's lock as long as it is open. While the agent runs,
// others ask the agent; OpenReadOnly is for when it does not, and for copies.
// Copying the file of a running agent gives a damaged copy.
package journal
