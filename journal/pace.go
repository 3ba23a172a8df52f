package journal

import (
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

// notePace writes the distance into a file that has none yet.
func notePace(tx *bolt.Tx) error {
	b := tx.Bucket([]byte(BucketMeta))
	if b == nil || b.Sequence() != 0 {
		return nil
	}
	m, ok := manifestOf(b.Get([]byte(keyManifest)))
	if !ok {
		return nil
	}
	return b.SetSequence(uint64(tx.ID()) - m.Sequence + noPace)
}

// inPace holds a meta page against the manifest that it leads to.
func inPace(pace, txid uint64, manifest []byte) error {
	m, ok := manifestOf(manifest)
	if pace == 0 || !ok || txid-m.Sequence+noPace == pace {
		return nil // what is wrong with a manifest is said by who reads it
	}
	return fmt.Errorf("commit %d leads to the records of another, %d commits away: a write was lost: %w",
		txid, int64(txid-m.Sequence+noPace-pace), ErrCorrupt)
}

func manifestOf(raw []byte) (*Manifest, bool) {
	r, err := codec{}.decode(BucketMeta, keyManifest, raw)
	if err != nil {
		return nil, false
	}
	m, ok := r.(*Manifest)
	return m, ok
}
