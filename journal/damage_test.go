package journal

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"eniagent/drivers"
)

// fill puts something into every bucket and closes the journal.
func fill(t *testing.T, p *place) {
	t.Helper()
	ctx := context.Background()
	j := p.open(t)
	for i := range 20 {
		o, err := j.Begin(ctx, operation(i, "9000"), []Baseline{{Key: mtu(i), State: "1500", Class: drivers.Volatile}})
		ok(t, err)
		switch i % 4 {
		case 0:
			finish(t, j, o.ID, Done)
		case 1:
			ok(t, j.Quarantine(ctx, o.ID, "foreign"))
		case 2:
			ok(t, j.Reverting(ctx, o.ID, "x", false))
		}
	}
	ok(t, j.End(Closing{ID: 3, State: Reverted, Count: CountRevert}))
	ok(t, j.SetDesired(ctx, Desired{Source: "file", Document: json.RawMessage(`{"a":1}`)}))
	ok(t, j.SetControl(ctx, Control{Action: "paused", Target: pci(3)}))
	ok(t, j.Close())
}

// A flipped bit in any record is seen, and costs that record only.
func TestBitFlipsInRecords(t *testing.T) {
	t.Parallel()
	p := memoryPlace()
	fill(t, p)
	type at struct{ bucket, key string }
	rows := map[at][]byte{}
	p.mem.Rows(func(b, k string, v []byte) { rows[at{b, k}] = v })
	rnd := rand.New(rand.NewPCG(1, 2))
	for where, value := range rows {
		for range 40 {
			bad := bytes.Clone(value)
			bad[rnd.IntN(len(bad))] ^= 1 << rnd.IntN(8)
			if _, err := Decode(where.bucket, []byte(where.key), bad); err == nil {
				t.Fatalf("%v: a flipped bit was not seen", where)
			} else {
				wantErr(t, err, ErrCorrupt)
			}
		}
		if _, err := Decode(where.bucket, []byte(where.key+"x"), value); err == nil {
			t.Fatalf("%v: believed under another key", where)
		}
	}
	for where, value := range rows {
		m := p.mem.Clone()
		m.Put(where.bucket, where.key, append(bytes.Clone(value), 0))
		j, err := OpenMemory(context.Background(), m, testOptions(nil))
		ok(t, err)
		d, degraded := j.Degraded()
		if !degraded || len(d.Lost) == 0 || d.Reason == "" {
			t.Fatalf("%v: %+v", where, d)
		}
		have := 0
		for _, b := range buckets()[1:] {
			have += j.tallies()[b].Count
		}
		want := len(rows) - 2 // meta and manifest
		if where.bucket != BucketMeta {
			want--
		}
		if have != want {
			t.Fatalf("%v: %d records saved of %d", where, have, want)
		}
		j.Abandon()
	}
}

// A record that is gone is seen, whichever it is.
func TestMissingRecords(t *testing.T) {
	t.Parallel()
	p := memoryPlace()
	fill(t, p)
	var all []slot
	p.mem.Rows(func(b, k string, _ []byte) { all = append(all, slot{b, k}) })
	for _, s := range all {
		m := p.mem.Clone()
		m.Put(s.bucket, s.key, nil)
		j, err := OpenMemory(context.Background(), m, testOptions(nil))
		ok(t, err)
		if _, degraded := j.Degraded(); !degraded {
			t.Fatalf("%v: its loss was not seen", s)
		}
		j.Abandon()
	}
}

func TestDegradedUntilAcknowledged(t *testing.T) {
	ctx := context.Background()
	eachStore(t, func(t *testing.T, p *place) {
		j := p.open(t)
		wantErr(t, j.Acknowledge(ctx, "me", "x"), ErrUnknown)
		a := begin(t, j, 1, "1")
		ok(t, j.Close())
		if p.mem != nil {
			p.mem.Put(BucketOpen, idKey(a.ID), []byte("EA"))
		} else {
			flip(t, p.path(), []byte(`"open":{"count"`))
		}
		j = p.open(t)
		d, degraded := j.Degraded()
		if !degraded {
			t.Fatal("not degraded")
		}
		if p.mem == nil && (len(j.Warnings()) != 1 || !strings.Contains(j.Warnings()[0], d.Aside)) {
			t.Fatalf("warnings %v, aside %q", j.Warnings(), d.Aside)
		}
		ok(t, j.Close())
		j = p.open(t)
		if _, degraded := j.Degraded(); !degraded {
			t.Fatal("forgotten by a restart")
		}
		ok(t, j.Acknowledge(ctx, "me", "looked at it"))
		ok(t, j.Acknowledge(ctx, "me", "looked at it"))
		j.Abandon()
		j = p.open(t)
		if d, degraded := j.Degraded(); degraded || d.Who != "me" || d.Why != "looked at it" {
			t.Fatalf("%v %+v", degraded, d)
		}
	})
}

// flip changes a byte of the last place where the file holds the text: the
// page that is in use, as long as the others are older.
func flip(t *testing.T, path string, text []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	ok(t, err)
	if !bytes.Contains(b, text) {
		t.Fatalf("%q is not in the file", text)
	}
	b = bytes.ReplaceAll(b, text, append([]byte{text[0] ^ 1}, text[1:]...))
	ok(t, os.WriteFile(path, b, 0o600))
}

func TestUnusableFileIsKeptAside(t *testing.T) {
	t.Parallel()
	p := filePlace(t)
	fill(t, p)
	for i := range 5 {
		b, err := os.ReadFile(p.path())
		ok(t, err)
		b = b[:3*pageSize]
		if i%2 == 0 {
			b = []byte("nothing like a journal")
		}
		ok(t, os.WriteFile(p.path(), b, 0o600))
		j := p.open(t, func(o *Options) {
			o.Now = func() time.Time { return time.Date(2026, 1, 1, 0, 0, i/2, 0, time.UTC) }
		})
		d, degraded := j.Degraded()
		kept, err := os.ReadFile(d.Aside)
		ok(t, err)
		if !degraded || !bytes.Equal(kept, b) {
			t.Fatalf("%d: degraded %v, aside %d bytes, want %d", i, degraded, len(kept), len(b))
		}
		if said := strings.Join(j.Warnings(), "\n"); !strings.Contains(said, "journal was unusable and is kept as "+d.Aside) {
			t.Fatalf("%d: it warns of %q", i, said)
		}
		begin(t, j, 1, "1")
		finish(t, j, 1, Done)
		ok(t, j.Close())
	}
	names, err := asides(p.path())
	ok(t, err)
	if len(names) != maxAside {
		t.Fatalf("%d files aside: %v", len(names), names)
	}
}

// A crash between the two renames of a replacement is repaired.
func TestCrashWhileReplacing(t *testing.T) {
	t.Parallel()
	p := filePlace(t)
	fill(t, p)
	flip(t, p.path(), []byte(`"open":{"count"`))
	ok(t, os.Link(p.path(), p.path()+asideSuffix+"1700000000-0"))
	ok(t, os.WriteFile(p.path()+tempSuffix, []byte("half"), 0o600))
	j := p.open(t)
	if d, degraded := j.Degraded(); !degraded || d.Saved == 0 {
		t.Fatalf("%+v", d)
	}
	names, err := asides(p.path())
	ok(t, err)
	if len(names) != 1 || len(j.Operations()) == 0 {
		t.Fatalf("%v", names)
	}
}

func copyOf(t *testing.T, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), FileName)
	ok(t, os.WriteFile(path, b, 0o600))
	return path
}

// pagesInUse is how far the file is not just reserved.
func pagesInUse(t *testing.T, path string) int {
	t.Helper()
	f, err := openRead(path)
	ok(t, err)
	defer func() { _ = f.Close() }()
	im, err := readImage(f)
	ok(t, err)
	return int(im.metas[0].high)
}

func readAll(t *testing.T, path string) string {
	t.Helper()
	s, err := OpenReadOnly(path)
	ok(t, err)
	return export(t, s)
}

func export(t *testing.T, s *Snapshot) string {
	t.Helper()
	var b bytes.Buffer
	ok(t, s.Export(&b))
	return b.String()
}

func TestTwoClaimsAreCorrupt(t *testing.T) {
	p := memoryPlace()
	j := p.open(t)
	begin(t, j, 1, "1")
	j.claims = map[drivers.Target]uint64{} // a writer with a bug
	begin(t, j, 1, "2")
	ok(t, j.Close())
	j = p.open(t)
	if d, degraded := j.Degraded(); !degraded || !strings.Contains(d.Reason, "both claim") {
		t.Fatalf("%+v", d)
	}
	wantOpen(t, j, 1)
}

func TestSalvageNumbers(t *testing.T) {
	p := memoryPlace()
	fill(t, p)
	p.mem.Put(BucketMeta, keyManifest, nil)
	j := p.open(t)
	o := begin(t, j, 100, "1")
	if o.ID != 21 {
		t.Fatalf("number %d was given out again", o.ID)
	}
	if d, _ := j.Degraded(); !strings.Contains(fmt.Sprint(d.Lost), "manifest") {
		t.Fatalf("%+v", d)
	}
}

// What is saved in an older state than it was left in is said to be.
func TestSalvageSaysWhatIsOlder(t *testing.T) {
	p := memoryPlace()
	j := p.open(t)
	o := begin(t, j, 1, "9000")
	older := rowsOf(p.mem)
	_, err := j.Attempt(context.Background(), o.ID)
	ok(t, err)
	newest := rowsOf(p.mem)
	for bucket, want := range map[string]string{BucketOpen: "open: some records are as they were", BucketMeta: "the last commit"} {
		left := slices.DeleteFunc(slices.Clone(newest), func(w write) bool { return w.bucket == bucket })
		s := salvage(codec{}, left, older)
		if !strings.Contains(fmt.Sprint(s.lost), want) {
			t.Errorf("without the page of %s: lost %q", bucket, s.lost)
		}
	}
}

func rowsOf(m *Memory) (rows []write) {
	m.Rows(func(b, k string, v []byte) { rows = append(rows, write{b, k, v}) })
	return rows
}
