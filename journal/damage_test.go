package journal

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
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

// An empty file is not a new journal: something emptied it.
func TestEmptyFileIsDamage(t *testing.T) {
	p := filePlace(t)
	fill(t, p)
	ok(t, os.Truncate(p.path(), 0))
	if _, degraded := p.open(t).Degraded(); !degraded {
		t.Fatal("not degraded")
	}
}

// A crash between the two renames of a replacement is repaired.
func TestCrashWhileReplacing(t *testing.T) {
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

func TestTruncations(t *testing.T) {
	p := filePlace(t)
	fill(t, p)
	whole, err := os.ReadFile(p.path())
	ok(t, err)
	for n := 0; n < len(whole); n += 1024 + n/7 {
		path := copyOf(t, whole[:n])
		_, err := OpenReadOnly(path)
		if n == 0 {
			wantErr(t, err, ErrNotExist)
			continue
		}
		wantErr(t, err, ErrCorrupt)
		_, err = Verify(path)
		wantErr(t, err, ErrCorrupt)
		s, err := salvageFile(path)
		ok(t, err)
		if s.newer != nil {
			t.Fatal(s.newer)
		}
	}
}

func copyOf(t *testing.T, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), FileName)
	ok(t, os.WriteFile(path, b, 0o600))
	return path
}

// Every bit of every page header in use is flipped: what is read is what was
// written, or one commit older, or it is an error. Nothing hangs or panics, and
// a journal comes up on each.
func TestPageHeaderFlips(t *testing.T) {
	p := filePlace(t)
	fill(t, p)
	whole, err := os.ReadFile(p.path())
	ok(t, err)
	want := readAll(t, p.path())
	pages := pagesInUse(t, p.path())
	errs, same := 0, 0
	path := copyOf(t, whole)
	for page := range pages {
		for bit := range 16 * 8 {
			if testing.Short() && (page*128+bit)%7 != 0 {
				continue
			}
			off := page*pageSize + bit/8
			b := bytes.Clone(whole)
			b[off] ^= 1 << (bit % 8)
			ok(t, os.WriteFile(path, b, 0o600))
			s, err := OpenReadOnly(path)
			switch {
			case err != nil:
				wantErr(t, err, ErrCorrupt)
				errs++
			case export(t, s) == want:
				same++
			default:
				t.Fatalf("page %d, bit %d: read something else", page, bit)
			}
			if err != nil && bit%16 == 3 {
				openDamaged(t, b)
			}
		}
	}
	t.Logf("%d pages: %d flips are errors, %d harmless", pages, errs, same)
}

// Every bit of the meta pages is flipped: the one that is in use falls back one
// commit, the other is not looked at.
func TestMetaPageFlips(t *testing.T) {
	p := filePlace(t)
	fill(t, p)
	whole, err := os.ReadFile(p.path())
	ok(t, err)
	want := readAll(t, p.path())
	path := copyOf(t, whole)
	older := 0
	for bit := range 64 * 8 {
		for page := range 2 {
			b := bytes.Clone(whole)
			b[page*pageSize+16+bit/8] ^= 1 << (bit % 8)
			ok(t, os.WriteFile(path, b, 0o600))
			s, err := OpenReadOnly(path)
			ok(t, err)
			if export(t, s) != want {
				older++
			}
		}
	}
	if older != 512 {
		t.Errorf("%d fell back to the older commit, want the half", older)
	}
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

func openDamaged(t *testing.T, b []byte) {
	t.Helper()
	p := filePlace(t)
	ok(t, os.MkdirAll(p.dir, 0o700))
	ok(t, os.WriteFile(p.path(), b, 0o600))
	j := p.open(t)
	if _, degraded := j.Degraded(); !degraded {
		t.Fatal("not degraded")
	}
	ok(t, j.Close())
}

// What this package's reader passes, bbolt's own check passes: random damage
// where pages say what they hold.
func TestReaderAgreesWithBolt(t *testing.T) {
	n, passed := 3000, 0
	if testing.Short() {
		n = 300
	}
	p := filePlace(t)
	fill(t, p)
	whole, err := os.ReadFile(p.path())
	ok(t, err)
	path := copyOf(t, whole)
	used := pagesInUse(t, path)
	rnd := rand.New(rand.NewPCG(3, 4))
	for range n {
		b := bytes.Clone(whole)
		for range 1 + rnd.IntN(3) {
			b[rnd.IntN(used)*pageSize+rnd.IntN(400)] ^= 1 << rnd.IntN(8)
		}
		ok(t, os.WriteFile(path, b, 0o600))
		f, err := openRead(path)
		ok(t, err)
		im, err := readImage(f)
		if err == nil {
			err = im.check(func(string, string, []byte) error { return nil })
		}
		_ = f.Close()
		if err != nil {
			continue // bbolt might not survive it
		}
		passed++
		ok(t, checkBolt(path))
	}
	t.Logf("%d of %d damaged files have sound pages", passed, n)
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
