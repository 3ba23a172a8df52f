package journal

import "errors"

// Errors that callers tell apart with errors.Is.
var (
	// ErrNotExist is returned when there is no journal at the path, or an empty
	// file that no agent has ever completed.
	ErrNotExist = errors.New("no journal here")
	// ErrLocked is returned when another process holds the journal; the text
	// names it where it can be found out.
	ErrLocked = errors.New("journal is held by another process")
	// ErrPermission is returned when this user may not read or write the journal.
	ErrPermission = errors.New("not permitted")
	// ErrUnsafe is returned when the owner, mode, kind or file system of the
	// journal or of a directory above it would let somebody else write it.
	ErrUnsafe = errors.New("not a safe place for a journal")
	// ErrReadOnly is returned when the file system is read-only.
	ErrReadOnly = errors.New("read-only file system")
	// ErrNoSpace is returned when a commit found no room. Nothing of it is in
	// the journal, which stays usable.
	ErrNoSpace = errors.New("no space for the journal")
	// ErrCorrupt is returned when bytes in the journal are not what was written.
	ErrCorrupt = errors.New("journal is corrupt")
	// ErrNewer is returned when a newer agent wrote the journal or the record.
	// Nothing is changed.
	ErrNewer = errors.New("written by a newer agent")
	// ErrIndeterminate is returned when a commit failed in a way that leaves
	// unknown whether its records are durable, and by every change after that.
	// The caller must not touch the host; the next start reads the truth.
	ErrIndeterminate = errors.New("outcome of a journal commit is unknown")
	// ErrRemoved is returned, with ErrIndeterminate, when the file was removed or
	// replaced under the agent: what it committed would be found by nobody.
	ErrRemoved = errors.New("journal was removed or replaced while it was open")
	// ErrClosed is returned by changes after Close.
	ErrClosed = errors.New("journal is closed")
	// ErrClaimed is returned by Begin when an open or quarantined operation, or
	// a record that cannot be read, already covers one of the targets.
	ErrClaimed = errors.New("target is claimed")
	// ErrUnknown is returned when no record has that number or name.
	ErrUnknown = errors.New("not in the journal")
	// ErrTransition is returned when an operation may not go to the state asked.
	ErrTransition = errors.New("illegal change of state")
	// ErrInvalid is returned when a record breaks a rule of the format; it is
	// then neither written nor believed.
	ErrInvalid = errors.New("invalid record")
	// ErrFull is returned when a bound on the number or bytes of records would
	// be passed.
	ErrFull = errors.New("journal is full")
)
