package fuzz_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"

	"eniagent/journal"
)

// What journal/doc.go says of an envelope, written a second time: what these
// tests seal and the journal believes is the format, not an accident of one
// implementation.

const (
	envelopeHead = 10
	envelopeTail = 4
)

// seal makes a record's bytes of any payload.
func seal(bucket, key string, kind uint16, payload []byte) []byte {
	b := append([]byte("EA"), 1, 1)
	b = binary.BigEndian.AppendUint16(b, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	return checksummed(bucket, key, append(b, payload...))
}

// checksummed is an envelope with its last field.
func checksummed(bucket, key string, b []byte) []byte {
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	fmt.Fprintf(sum, "%s\x00%s\x00%s", bucket, key, b)
	return sum.Sum(bytes.Clone(b))
}

// payloadOf is what an envelope holds.
func payloadOf(sealed []byte) []byte { return sealed[envelopeHead : len(sealed)-envelopeTail] }

// kindOf is the number of the kind that belongs into a place; 0 for none.
func kindOf(bucket, key string) uint16 {
	switch bucket {
	case journal.BucketMeta:
		return map[string]uint16{"journal": 1, "manifest": 2, "degraded": 3}[key]
	case journal.BucketOpen, journal.BucketQuarantine, journal.BucketDone:
		return 4
	}
	return map[string]uint16{
		journal.BucketFailures: 5, journal.BucketBaseline: 6, journal.BucketDesired: 7, journal.BucketControl: 8,
	}[bucket]
}

// number is the key of an operation.
func number(id uint64) string { return string(binary.BigEndian.AppendUint64(nil, id)) }

// sealStore makes the manifest of a store say what it holds, as if an agent had
// written all of it.
func sealStore(m *journal.Memory) error {
	const place = "manifest"
	var old []byte
	next := uint64(1)
	tallies, sums := map[string]journal.Tally{}, map[string][16]byte{}
	m.Rows(func(bucket, key string, value []byte) {
		if bucket == journal.BucketMeta && key == place {
			old = value
			return
		}
		if op, err := journal.DecodeOperation(bucket, []byte(key), value); err == nil {
			next = max(next, op.ID+1)
		}
		sum, all := sha256.Sum256(bytes.Join([][]byte{[]byte(key), value}, []byte{0})), sums[bucket]
		for i := range all {
			all[i] ^= sum[i]
		}
		sums[bucket] = all
		tallies[bucket] = journal.Tally{Count: tallies[bucket].Count + 1, Digest: hex.EncodeToString(all[:])}
	})
	rec, err := journal.Decode(journal.BucketMeta, []byte(place), old)
	if err != nil {
		return err
	}
	manifest := *rec.(*journal.Manifest)
	empty := manifest.Buckets
	manifest.Buckets, manifest.NextID, manifest.Sequence = map[string]journal.Tally{}, next, manifest.Sequence+1
	for bucket := range empty {
		manifest.Buckets[bucket] = journal.Tally{Digest: hex.EncodeToString(make([]byte, 16))}
		if t, ok := tallies[bucket]; ok {
			manifest.Buckets[bucket] = t
		}
	}
	raw, err := journal.Encode(journal.BucketMeta, []byte(place), &manifest)
	if err != nil {
		return err
	}
	m.Put(journal.BucketMeta, place, raw)
	return nil
}

// golden are the records of the journal's own golden files, by their place.
func golden(t testing.TB) map[[2]string][]byte {
	t.Helper()
	places := map[string][2]string{
		"meta": {journal.BucketMeta, "journal"}, "manifest": {journal.BucketMeta, "manifest"}, "degraded": {journal.BucketMeta, "degraded"},
		"intent": {journal.BucketOpen, number(1)}, "reverting": {journal.BucketOpen, number(5)},
		"done": {journal.BucketDone, number(1)}, "quarantined": {journal.BucketQuarantine, number(4)},
		"baseline": {journal.BucketBaseline, "pool@file//etc/pcidp/config.json#intel.com/sriov"},
		"desired":  {journal.BucketDesired, "file"}, "control": {journal.BucketControl, "released@0000:00:00.1"},
		"failure": {journal.BucketFailures, ""},
	}
	records := map[[2]string][]byte{}
	for name, place := range places {
		raw, err := os.ReadFile(filepath.Join("..", "journal", "testdata", "v1", name+".rec"))
		if err != nil {
			t.Fatal(err)
		}
		if name == "failure" { // its key is its fingerprint
			_, rest, _ := bytes.Cut(payloadOf(raw), []byte(`"fingerprint":"`))
			key, _, _ := bytes.Cut(rest, []byte(`"`))
			place[1] = string(key)
		}
		records[place] = raw
	}
	return records
}
