package journal

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fullOf are buckets as full as the limits let them be of records of a size; where
// there may not be so many of them, of larger ones. Names are padded to a length
// where they may be so long.
func fullOf(l Limits, size, name int) (rows []write) {
	for bucket, most := range map[string]int{
		BucketOpen: l.Open, BucketQuarantine: l.Quarantined, BucketDone: l.Done, BucketFailures: l.Failures,
		BucketBaseline: l.Baselines, BucketDesired: l.Sources, BucketControl: l.Controls,
	} {
		each := size
		if size*most < l.Bytes*9/10 {
			each = l.Bytes / most
		}
		for n := range min(most, l.Bytes/each) {
			key := string(binary.BigEndian.AppendUint64(nil, uint64(n)))
			switch bucket {
			case BucketFailures, BucketDesired:
				key = fmt.Sprintf("%032x", n)
			case BucketBaseline, BucketControl: // of targets, which are paths
				key = fmt.Sprintf("%08x%s", n, strings.Repeat("k", name))
			}
			rows = append(rows, write{bucket, key, bytes.Repeat([]byte{'x'}, each)})
		}
	}
	return inOrder(rows)
}

// TestSalvageWritesWhatTheLimitsAllow: a journal whose buckets are full is written
// anew whatever the size of its records, small ones and those of which only one
// fits a page among them, and is within the bound of the file.
func TestSalvageWritesWhatTheLimitsAllow(t *testing.T) {
	for _, tc := range [][2]int{{1, 20}, {700, 20}, {1400, 20}, {2030, 20}, {4040, 20}, {4060, 20}, {4060, 1000}, {2100, 2000}, {4100, 4000}, {9000, 20}, {70_000, 20}} {
		size := tc[0]
		o := Options{}.withDefaults()
		rows := fullOf(o.Limits, size, tc[1])
		temp := filepath.Join(t.TempDir(), "new")
		if err := fillTemp(temp, rows, o); err != nil {
			t.Errorf("records of %d bytes: %v", size, err)
			continue
		}
		info, err := os.Stat(temp)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("records of %d bytes: %d of them in %d KiB", size, len(rows), info.Size()>>10)
		if info.Size() > int64(o.Limits.File) {
			t.Errorf("records of %d bytes take %d", size, info.Size())
		}
		var n int
		s, err := openBolt(temp, info, o)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.load(func(string, string, []byte) error { n++; return nil }); err != nil || n < len(rows) {
			t.Errorf("records of %d bytes: %d of %d read: %v", size, n, len(rows), err)
		}
		// And a commit as large as one gets still has room.
		if err := s.commit([]write{{BucketDesired, "file", bytes.Repeat([]byte{'y'}, maxDesired)}}); err != nil {
			t.Errorf("records of %d bytes, then a commit: %v", size, err)
		}
		if err := s.close(); err != nil {
			t.Error(err)
		}
	}
}
