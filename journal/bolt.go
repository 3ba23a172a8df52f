package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

const pageSize = 4096

// boltStore is a store in a bbolt file.
type boltStore struct {
	db   *bolt.DB
	file *os.File
	path string
	dead bool // bbolt panicked: its locks may never come free
}

// guard runs fn and makes an error of a panic, and of the SIGBUS of a mapped
// page that is not there.
func guard(what string, fn func() error) (err error) {
	old := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(old)
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%s: bbolt panicked: %v: %w", what, p, ErrCorrupt)
		}
	}()
	return fn()
}

// openBolt opens a file that was checked before, and no other that has taken
// its name since.
func openBolt(path string, want os.FileInfo, o Options) (*boltStore, error) {
	s := &boltStore{path: path}
	err := guard("open "+path, func() error {
		db, err := bolt.Open(path, 0o600, &bolt.Options{
			Timeout:         o.LockTimeout,
			PageSize:        pageSize,
			FreelistType:    bolt.FreelistMapType,
			InitialMmapSize: o.Limits.File, // so that growing never waits for readers
			MaxSize:         o.Limits.File,
			OpenFile: func(name string, flag int, _ os.FileMode) (*os.File, error) {
				f, err := os.OpenFile(name, flag&^os.O_CREATE|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
				if err != nil {
					return nil, err
				}
				s.file = f
				return f, sameFile(f, want)
			},
		})
		s.db = db
		return err
	})
	if err == nil {
		s.db.AllocSize = allocSize
		return s, nil
	}
	if s.file != nil {
		// After a panic the map may still hold the file open.
		_ = unix.Flock(int(s.file.Fd()), unix.LOCK_UN)
		_ = s.file.Close()
	}
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, lockedError(path, want)
	}
	return nil, fmt.Errorf("open %s: %w", path, explain(err))
}

func sameFile(f *os.File, want os.FileInfo) error {
	have, err := f.Stat()
	if err != nil {
		return err
	}
	if !os.SameFile(have, want) {
		return fmt.Errorf("%s was replaced while it was opened: %w", f.Name(), ErrUnsafe)
	}
	return nil
}

func (s *boltStore) load(fn func(bucket, key string, value []byte) error) error {
	return guard("read journal", func() error {
		return s.db.View(func(tx *bolt.Tx) error { return eachRow(tx, fn) })
	})
}

func eachRow(tx *bolt.Tx, fn func(bucket, key string, value []byte) error) error {
	return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
		return b.ForEach(func(k, v []byte) error { return fn(string(name), string(k), v) })
	})
}

func (s *boltStore) commit(rows []write) error {
	if s.dead {
		return fmt.Errorf("commit: %w", ErrClosed)
	}
	if err := s.there(); err != nil {
		return err
	}
	s.dead = true
	err := guard("commit", func() error {
		err := s.db.Update(func(tx *bolt.Tx) error { return putRows(tx, rows) })
		s.dead = false // only a panic skips this
		return err
	})
	return err
}

// there says whether the path still names the file that is open. A commit to a
// file without a name is durable for nobody.
func (s *boltStore) there() error {
	open, err := s.file.Stat()
	if err != nil {
		return fmt.Errorf("look for %s: %w", s.path, err)
	}
	if named, err := os.Lstat(s.path); err != nil || !os.SameFile(open, named) {
		return fmt.Errorf("%s: %w", s.path, ErrRemoved)
	}
	return nil
}

func putRows(tx *bolt.Tx, rows []write) error {
	for _, w := range rows {
		b := tx.Bucket([]byte(w.bucket))
		var err error
		switch {
		case b == nil:
			err = berrors.ErrBucketNotFound
		case w.value == nil:
			err = b.Delete([]byte(w.key))
		default:
			err = b.Put([]byte(w.key), w.value)
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", keyText(w.bucket, w.key), err)
		}
	}
	return setPace(tx)
}

func (s *boltStore) get(bucket, key string) (value []byte, err error) {
	if s.dead {
		return nil, fmt.Errorf("read: %w", ErrClosed)
	}
	err = guard("read journal", func() error {
		return s.db.View(func(tx *bolt.Tx) error {
			if b := tx.Bucket([]byte(bucket)); b != nil {
				value = append(value, b.Get([]byte(key))...)
			}
			return nil
		})
	})
	return value, err
}

func (s *boltStore) size() int64 {
	info, err := os.Stat(s.path)
	if err != nil {
		return 0
	}
	return info.Size()
}

func (s *boltStore) close() error {
	if s.dead {
		_ = unix.Flock(int(s.file.Fd()), unix.LOCK_UN)
		return s.file.Close()
	}
	return s.db.Close()
}

// create makes a journal such that a power cut leaves all of it or nothing:
// bbolt's own creation does not promise that.
func create(path string, rows []write, o Options) ([]string, error) {
	temp, warnings, err := createTemp(path, rows, o)
	if err != nil {
		return nil, err
	}
	if err := syncAbove(filepath.Dir(path)); err != nil {
		return nil, err
	}
	if err := os.Rename(temp, path); err != nil {
		return nil, fmt.Errorf("create journal: %w", explain(err))
	}
	return warnings, syncDir(filepath.Dir(path))
}

// createTemp makes a complete, durable journal beside its place.
func createTemp(path string, rows []write, o Options) (temp string, warnings []string, err error) {
	temp = path + tempSuffix
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", nil, fmt.Errorf("remove leftover: %w", explain(err))
	}
	if err := fillTemp(temp, rows, o); err != nil {
		_ = os.Remove(temp)
		return "", nil, fmt.Errorf("create %s: %w", temp, explain(err))
	}
	warnings, err = settleTemp(temp, o.Preallocate)
	if err != nil {
		_ = os.Remove(temp)
		return "", nil, fmt.Errorf("create %s: %w", temp, explain(err))
	}
	return temp, warnings, nil
}

const (
	// allocSize is by how much the file grows. bbolt refuses a page from MaxSize less
	// this on, 16 MiB unless it is set, which is possible after Open only.
	allocSize = 1 << 20
	// freshFill is how full the pages of a fresh file are, so that all that the limits
	// allow fits it; bbolt's default is half.
	freshFill = 0.9
)

func fillTemp(temp string, rows []write, o Options) error {
	f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Chmod(0o600), f.Close()); err != nil {
		return err
	}
	return guard("create journal", func() error {
		db, err := bolt.Open(temp, 0o600, &bolt.Options{
			Timeout: time.Second, PageSize: pageSize, FreelistType: bolt.FreelistMapType, MaxSize: o.Limits.File,
		})
		if err != nil {
			return err
		}
		db.AllocSize = allocSize
		err = db.Update(func(tx *bolt.Tx) error {
			for _, name := range buckets() {
				b, err := tx.CreateBucket([]byte(name))
				if err != nil {
					return err
				}
				b.FillPercent = freshFill
			}
			return putRows(tx, rows)
		})
		return errors.Join(err, db.Close())
	})
}

// settleTemp reserves space, so that intents still find room on a full disk,
// and syncs.
func settleTemp(temp string, reserve int64) (warnings []string, err error) {
	f, err := os.OpenFile(temp, os.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if reserve > 0 {
		reserve = (reserve + pageSize - 1) / pageSize * pageSize
		err := unix.Fallocate(int(f.Fd()), 0, 0, reserve)
		switch {
		case errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENOSYS):
			warnings = append(warnings, "file system cannot reserve space: a full disk will stop changes")
		case err != nil:
			return nil, fmt.Errorf("reserve %d bytes: %w", reserve, err)
		}
	}
	return warnings, f.Sync()
}
