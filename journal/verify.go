package journal

import (
	"context"
	"errors"
	"fmt"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// Report is what Verify found.
type Report struct {
	Path       string         `json:"path"`
	Bytes      int64          `json:"bytes"`
	Sequence   uint64         `json:"sequence"` // commits so far
	Records    map[string]int `json:"records"`  // by bucket
	Unreadable []string       `json:"unreadable,omitempty"`
	Warnings   []string       `json:"warnings,omitempty"` // what is legal but not as it should be
	Problems   []string       `json:"problems,omitempty"`
}

// Verify checks everything about a journal that nobody writes to: meta pages,
// page structure (by this package and by bbolt), every record, the manifest,
// claims. It changes nothing. With ErrCorrupt the report says what is wrong,
// all of it; with other errors the file could not be judged.
func Verify(path string) (Report, error) { return codec{}.verify(path) }

func (c codec) verify(path string) (Report, error) {
	rep := Report{Path: path, Records: map[string]int{}}
	im, done, err := lockedImage(path)
	if errors.Is(err, ErrCorrupt) {
		rep.Problems = append(rep.Problems, err.Error())
	}
	if err != nil {
		return rep, fmt.Errorf("verify %s: %w", path, err)
	}
	defer done()
	rep.Bytes = im.size
	if im.bad != nil {
		rep.Warnings = append(rep.Warnings, fmt.Sprintf("%v; the other is used", im.bad))
	}
	r, err := c.verifyImage(im, &rep)
	if r != nil {
		rep.Sequence = r.manifest.Sequence
		for _, u := range r.unreadable {
			rep.Unreadable = append(rep.Unreadable, fmt.Sprintf("%s: %v", u.Key, u.Err))
		}
	}
	// bbolt only sees what is known to be sound.
	if err == nil {
		if err = checkBolt(path); errors.Is(err, ErrCorrupt) {
			rep.Problems = append(rep.Problems, err.Error())
		}
	}
	if err != nil {
		return rep, fmt.Errorf("verify %s: %w", path, err)
	}
	return rep, nil
}

// verifyImage collects every problem and returns the first.
func (c codec) verifyImage(im *image, rep *Report) (*Records, error) {
	r := newRecords()
	r.codec = c
	var first error
	problem := func(err error) {
		rep.Problems = append(rep.Problems, err.Error())
		if first == nil || errors.Is(err, ErrNewer) {
			first = err
		}
	}
	err := im.check(func(bucket, key string, value []byte) error {
		rep.Records[bucket]++
		if err := r.load(bucket, key, value); err != nil {
			problem(err)
		}
		return nil
	})
	if err != nil {
		problem(err)
	}
	if first == nil {
		if err := r.verify(); err != nil {
			problem(err)
		}
	}
	return r, first
}

// checkBolt has bbolt itself read the file and check its pages.
func checkBolt(path string) error {
	return guard("check "+path, func() error {
		db, err := bolt.Open(path, 0, &bolt.Options{ReadOnly: true, Timeout: time.Second, PageSize: pageSize})
		if errors.Is(err, berrors.ErrTimeout) {
			return ErrLocked
		}
		if err != nil {
			return explain(err)
		}
		defer func() { _ = db.Close() }()
		return db.View(func(tx *bolt.Tx) error {
			var first error
			for err := range tx.Check() {
				if first == nil {
					first = fmt.Errorf("bbolt: %w: %w", ErrCorrupt, err)
				}
			}
			return first
		})
	})
}

// lockedImage opens a file under a shared lock, so that no writer is half way.
func lockedImage(path string) (*image, func(), error) {
	f, err := openRead(path)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Size() == 0 {
		err = fmt.Errorf("%s is empty: %w", path, ErrNotExist)
	}
	if err == nil {
		err = waitLock(context.Background(), f, unix.LOCK_SH, time.Second)
	}
	if errors.Is(err, ErrLocked) {
		err = lockedError(path, info)
	}
	var im *image
	if err == nil {
		im, err = readImage(f)
	}
	if err == nil && im.bad != nil && errors.Is(im.bad, ErrNewer) {
		err = im.bad
	}
	if err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	return im, func() {
		_ = unix.Flock(int(f.Fd()), unix.LOCK_UN)
		_ = f.Close()
	}, nil
}
