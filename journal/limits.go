package journal

// MaxDocument is how many bytes a source's document may have.
const MaxDocument = 512 << 10

// What a record may hold. They are part of the format: a reader refuses what
// a writer could not have written.
const (
	maxName     = 256      // sources, entries, boot ids
	maxText     = 4 << 10  // errors, outcomes, paths
	maxState    = 32 << 10 // one state of one key
	maxDocument = MaxDocument
	maxChanges  = 4096    // keys of one operation
	maxGoals    = 16384   // goals of one source
	maxFacts    = 64      // facts of one control record
	maxCount    = 1 << 30 // any counter

	// A whole record, by kind. An operation on a physical function carries all
	// 256 of its virtual ones.
	maxRecord    = 64 << 10
	maxOperation = 256 << 10
	maxDesired   = 1 << 20
)

// Limits bound what a journal holds. The zero value of a field is its default.
type Limits struct {
	Open        int // open operations: 256
	Quarantined int // operations in quarantine: 256
	Done        int // closed operations that are remembered: 1000
	Baselines   int // 8192
	Failures    int // 1024; past it the one not updated for longest is forgotten
	Sources     int // sources of desired state: 16
	Controls    int // 1024
	// Bytes bounds each bucket by the sum of its records: 4 MiB. The seven of
	// them, half of every page being air, still fit the file.
	Bytes int
	// File bounds the file: 64 MiB.
	File int
}

// withDefaults fills what was left zero.
func (l Limits) withDefaults() Limits {
	set := func(v *int, def int) {
		if *v <= 0 {
			*v = def
		}
	}
	set(&l.Open, 256)
	set(&l.Quarantined, 256)
	set(&l.Done, 1000)
	set(&l.Baselines, 8192)
	set(&l.Failures, 1024)
	set(&l.Sources, 16)
	set(&l.Controls, 1024)
	set(&l.Bytes, 4<<20)
	set(&l.File, 64<<20)
	return l
}
