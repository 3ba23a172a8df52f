package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
	for _, tc := range salvaged() {
		o := Options{}.withDefaults()
		if err := writtenAnew(t, fullOf(o.Limits, tc[0], tc[1]), o); err != nil {
			t.Errorf("records of %d bytes: %v", tc[0], err)
		}
	}
}

// salvaged are sizes of records and of the names of some.
func salvaged() [][2]int {
	return [][2]int{{1, 20}, {700, 20}, {1400, 20}, {2030, 20}, {4040, 20}, {4060, 20}, {4060, 1000}, {2100, 2000}, {4100, 4000}, {9000, 20}, {70_000, 20}}
}

// TestBrokenLimitsAreCaught: the test above notices limits that allow more than
// the file takes.
func TestBrokenLimitsAreCaught(t *testing.T) {
	for name, breaks := range map[string]func(l *Limits){
		"no page has air":                   func(l *Limits) { l.File /= 2 },
		"each bucket may have what all may": func(l *Limits) { l.Bytes *= 7 },
	} {
		seen := false
		for _, tc := range slices.Backward(salvaged()) { // the few large records first: they take no time
			o := Options{}.withDefaults()
			breaks(&o.Limits)
			seen = seen || writtenAnew(t, fullOf(o.Limits, tc[0], tc[1]), o) != nil
		}
		if !seen {
			t.Errorf("%s: not noticed", name)
		}
	}
}

// writtenAnew says what is wrong with a journal that salvage writes.
func writtenAnew(t *testing.T, rows []write, o Options) error {
	t.Helper()
	temp := filepath.Join(t.TempDir(), "new")
	if err := fillTemp(temp, rows, o); err != nil {
		return err
	}
	info, err := os.Stat(temp)
	if err != nil {
		return err
	}
	t.Logf("%d records in %d KiB", len(rows), info.Size()>>10)
	if info.Size() > int64(o.Limits.File) {
		return fmt.Errorf("%d bytes are written", info.Size())
	}
	s, err := openBolt(temp, info, o)
	if err != nil {
		return err
	}
	var n int
	if err := s.load(func(string, string, []byte) error { n++; return nil }); err != nil || n < len(rows) {
		return errors.Join(fmt.Errorf("%d of %d are read: %w", n, len(rows), err), s.close())
	}
	// And a commit as large as one gets still has room.
	if err := s.commit([]write{{BucketDesired, "file", bytes.Repeat([]byte{'y'}, maxDesired)}}); err != nil {
		return errors.Join(fmt.Errorf("a commit after it: %w", err), s.close())
	}
	return s.close()
}
