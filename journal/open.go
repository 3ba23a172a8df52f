package journal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"eniagent/supervise"
)

// FileName is the journal's file in its directory.
const FileName = "journal.db"

// Options are how a journal is opened. Dir is all that a file needs.
type Options struct {
	Dir       string           // made 0700 when missing
	Now       func() time.Time // time.Now when nil
	Version   string           // of this agent, kept in records
	MachineID string           // of this machine; "" is unknown
	BootID    string           // of this boot
	// Owner owns the goroutine that makes lazy changes durable; nil has the process own it.
	Owner *supervise.Group
	// OnCommit is told of every commit; it must not call the journal.
	OnCommit    func(d time.Duration, err error)
	FlushAfter  time.Duration // how long a lazy change may wait: 1 s
	Preallocate int64         // bytes reserved at creation: 4 MiB; negative for none
	LockTimeout time.Duration // how long to wait for another holder: 10 s
	// Scan checks the file before it is opened for writing; it is meant to run
	// Scan (the function) in a child process, see Reexec. Nil scans in this one.
	Scan        func(ctx context.Context, path string) error
	ScanTimeout time.Duration // 10 s
	Limits      Limits
	// Fault is called before and after each commit with its kinds and the side:
	// "begin:before", "begin+finish:after". An error before means that the
	// commit fails unwritten, one after that it was written and still fails. It
	// must not call the journal. For crash tests.
	Fault func(point string) error

	codec codec // for tests: of an agent that knows other formats
}

func (o Options) withDefaults() Options {
	if o.Now == nil {
		o.Now = time.Now
	}
	set := func(d *time.Duration, def time.Duration) {
		if *d <= 0 {
			*d = def
		}
	}
	if o.Owner == nil {
		o.Owner = &supervise.Group{}
	}
	set(&o.FlushAfter, time.Second)
	set(&o.LockTimeout, 10*time.Second)
	set(&o.ScanTimeout, 10*time.Second)
	if o.Preallocate == 0 {
		o.Preallocate = 4 << 20
	}
	o.Limits = o.Limits.withDefaults()
	return o
}

// Open opens the journal in o.Dir for writing, and creates it when there is
// none. A damaged one is kept aside, what decodes is brought over into a fresh
// one, and Degraded tells. It refuses, and changes nothing, when another
// process holds the journal (ErrLocked), a newer agent wrote it (ErrNewer), or
// its place is not safe (ErrUnsafe).
func Open(ctx context.Context, o Options) (*Journal, error) {
	o = o.withDefaults()
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	warnings, err := prepareDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	l, err := takeLock(ctx, dir, o.LockTimeout)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	j, err := openLocked(ctx, o, filepath.Join(dir, FileName))
	if err != nil {
		l.release()
		return nil, fmt.Errorf("open journal: %w", err)
	}
	j.release = l.release
	j.warnings = append(warnings, j.warnings...)
	return j, nil
}

func openLocked(ctx context.Context, o Options, path string) (*Journal, error) {
	if err := removeLeftovers(path); err != nil {
		return nil, err
	}
	var warnings []string
	if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
		if warnings, err = create(path, freshRows(o), o); err != nil {
			return nil, err
		}
	}
	s, r, err := openChecked(ctx, o, path)
	if damaged(err) {
		w, rerr := replace(ctx, o, path, err)
		if rerr != nil {
			return nil, rerr
		}
		warnings = append(warnings, w...)
		s, r, err = openChecked(ctx, o, path)
	}
	if err != nil {
		return nil, err
	}
	j := newJournal(o, s, r)
	j.warnings = warnings
	return j, nil
}

// openChecked lets bbolt at the file only after everything about it was found
// in order: bbolt maps the file, and believes it.
func openChecked(ctx context.Context, o Options, path string) (*boltStore, *Records, error) {
	id, err := checkFile(path)
	if err != nil {
		return nil, nil, err
	}
	if err := settle(path); err != nil {
		return nil, nil, err
	}
	if err := preflight(path); err != nil {
		return nil, nil, err
	}
	if err := runScan(ctx, o, path); err != nil {
		return nil, nil, err
	}
	s, err := openBolt(path, id, o)
	if err != nil {
		return nil, nil, err
	}
	r, err := readRecords(o.codec, s.load)
	if err != nil {
		_ = s.close()
		return nil, nil, err
	}
	return s, r, nil
}

// settle makes durable what is about to be read. An agent that was killed may
// have left a commit, or the journal's name, that a power cut would still take
// away after this agent has gone on from it.
func settle(path string) error {
	f, err := openRead(path)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("sync %s: %w", path, explain(err))
	}
	return syncDir(filepath.Dir(path))
}

// runScan has the file scanned. A scan that does not end is damage: bbolt can
// be sent round in circles.
func runScan(ctx context.Context, o Options, path string) error {
	scan := o.Scan
	if scan == nil {
		scan = func(_ context.Context, path string) error {
			_, err := o.codec.verify(path)
			return err
		}
	}
	sctx, cancel := context.WithTimeout(ctx, o.ScanTimeout)
	defer cancel()
	err := scan(sctx, path)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return fmt.Errorf("scan %s: not finished after %s: %w", path, o.ScanTimeout, ErrCorrupt)
	}
	if err != nil {
		return fmt.Errorf("scan %s: %w", path, err)
	}
	return nil
}

// readRecords takes in a whole store and holds it against its manifest.
func readRecords(c codec, load func(func(bucket, key string, value []byte) error) error) (*Records, error) {
	r := newRecords()
	r.codec = c
	var damage error
	err := load(func(bucket, key string, value []byte) error {
		err := r.load(bucket, key, value)
		// A newer journal is said to be newer even when it is damaged as well,
		// because a damaged one is replaced.
		if err != nil && !errors.Is(err, ErrNewer) {
			if damage == nil {
				damage = err
			}
			return nil
		}
		return err
	})
	if err == nil {
		err = damage
	}
	if err == nil {
		err = r.verify()
	}
	if err != nil {
		return nil, err
	}
	m, _ := r.meta.get(keyMeta)
	r.codec = c.writing(m.Format)
	return r, nil
}

// damaged says whether a journal may be replaced because of err. A newer one
// never is.
func damaged(err error) bool { return errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNewer) }

// freshRows are what an empty journal holds.
func freshRows(o Options) []write {
	r := newRecords()
	r.codec = o.codec
	newest := o.codec.newest()
	meta := Meta{Format: newest, MinReader: newest, MachineID: o.MachineID, Created: stamp(o.Now()), Agent: o.Version}
	return r.sealed(o, meta, nil, Manifest{NextID: 1})
}

// sealed are the rows of a whole journal: the records, and a meta record and
// manifest that go with them.
func (r *Records) sealed(o Options, meta Meta, d *Degradation, m Manifest) []write {
	e := &edit{limit: 1 << 40, codec: r.codec}
	err := put(e, r.meta, keyMeta, &meta, 1)
	if d != nil && err == nil {
		err = put(e, r.degraded, keyDegraded, d, 1)
	}
	m.Sequence++
	m.BootID, m.Agent, m.Written, m.Buckets = o.BootID, o.Version, stamp(o.Now()), r.tallies()
	raw, merr := r.codec.encode(BucketMeta, keyManifest, &m)
	if err != nil || merr != nil {
		panic(fmt.Sprintf("journal: meta records: %v, %v", err, merr)) // clipped and checked before
	}
	return append(r.rows(), write{BucketMeta, keyManifest, raw})
}

// rows are the bytes of every record but the manifest.
func (r *Records) rows() []write {
	var all []write
	all = appendRows(all, r.meta)
	all = appendRows(all, r.degraded)
	all = appendRows(all, r.open)
	all = appendRows(all, r.quarantine)
	all = appendRows(all, r.done)
	all = appendRows(all, r.failures)
	all = appendRows(all, r.baselines)
	all = appendRows(all, r.desired)
	return appendRows(all, r.control)
}

func appendRows[T any](all []write, t *table[T]) []write {
	for key, row := range t.rows {
		all = append(all, write{t.bucket, key, row.raw})
	}
	return all
}
