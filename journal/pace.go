package journal

import (
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"
)

// Each commit is one transaction of bbolt's and one step of the manifest's
// sequence, so that the two numbers keep their distance for the life of a file.
// bbolt's stands in the meta page, the manifest's in the pages that it leads
// to: a distance that has changed is a page of another commit, which a disk
// left there when it lost a write that it had confirmed. No checksum sees
// that, as each page is sound.
//
// The distance is the sequence that bbolt keeps for a bucket, in the bucket
// meta: no record, so that an older agent, which does not know of it, keeps it.

// noPace is added to the distance, so that 0 is a file that has none.
const noPace = 1 << 32

// setPace writes the distance into a file that has none yet.
func setPace(tx *bolt.Tx) error {
	b := tx.Bucket([]byte(BucketMeta))
	if b == nil || b.Sequence() != 0 {
		return nil
	}
	var p pace
	p.note(keyManifest, b.Get([]byte(keyManifest)))
	if p.manifest == nil {
		return nil
	}
	return b.SetSequence(p.of(uint64(tx.ID())))
}

// pace is what the records of a file say of its commits.
type pace struct {
	manifest *Manifest
	newer    bool
}

// note takes a record of the bucket meta. What is wrong with one is said by who
// reads it.
func (p *pace) note(key string, value []byte) {
	r, err := codec{}.decode(BucketMeta, key, value)
	p.newer = p.newer || errors.Is(err, ErrNewer)
	switch m := r.(type) {
	case *Manifest:
		p.manifest = m
	case *Meta:
		p.newer = p.newer || m.MinReader > codec{}.newest()
	}
}

func (p *pace) of(txid uint64) uint64 { return txid - p.manifest.Sequence + noPace }

// kept holds a meta page against the manifest that it leads to. What a newer
// agent counts is its own.
func (p *pace) kept(want, txid uint64) error {
	if want == 0 || p.newer || p.manifest == nil || p.of(txid) == want {
		return nil
	}
	return fmt.Errorf("commit %d leads to the records of another, %d commits away: a write was lost: %w",
		txid, int64(p.of(txid)-want), ErrCorrupt)
}
