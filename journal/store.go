package journal

// store is the seam between the journal and what makes it durable. It holds
// buckets of keys and values, and changes them all or not at all.
type store interface {
	// load hands every row to fn; the value is only valid during the call.
	load(fn func(bucket, key string, value []byte) error) error
	// commit is durable when it returns nil. After an error the rows are as
	// before, or as wanted, and only get can tell.
	commit(rows []write) error
	// get reads one value past every cache of the journal.
	get(bucket, key string) ([]byte, error)
	// size is the bytes it takes.
	size() int64
	close() error
}

// write is one row of a commit; a nil value removes.
type write struct {
	bucket, key string
	value       []byte
}
