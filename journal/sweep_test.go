package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// sweep is a sound journal that is damaged in many ways, one after the other.
type sweep struct {
	dir   string
	whole []byte
	want  string          // what it holds
	older string          // what it held a commit before
	ever  map[string]bool // records of both
	pages []int           // that are in use from either meta page
	file  *os.File        // a copy, damaged in place
	rnd   *rand.Rand
	count map[string]int // verdicts
}

func newSweep(t *testing.T) *sweep {
	t.Helper()
	p := filePlace(t)
	p.dir = filepath.Join(memoryDir(t), "journal")
	fill(t, p)
	s := &sweep{dir: filepath.Dir(p.dir), ever: map[string]bool{}, count: map[string]int{}, rnd: rand.New(rand.NewPCG(seed(t), 2))}
	var err error
	s.whole, err = os.ReadFile(p.path())
	ok(t, err)
	s.want = readAll(t, p.path())
	f, err := openRead(p.path())
	ok(t, err)
	im, err := readImage(f)
	ok(t, err)
	s.pages = reachable(im)
	ok(t, f.Close())
	s.file, err = os.OpenFile(filepath.Join(s.dir, "damaged.db"), os.O_RDWR|os.O_CREATE, 0o600)
	ok(t, err)
	t.Cleanup(func() { _ = s.file.Close() })
	_, err = s.file.Write(s.whole)
	ok(t, err)
	newest := int(im.metas[0].txid % 2)
	s.damage(t, func() { s.older = readAll(t, s.file.Name()) }, newest*pageSize+pageHeader)
	for _, l := range append(records(s.want), records(s.older)...) {
		s.ever[l] = true
	}
	return s
}

// reachable are the meta pages and all that either of them leads to.
func reachable(im *image) []int {
	pages := []int{0, 1}
	for _, m := range im.metas {
		w := &walker{im: im, meta: m, seen: make([]bool, m.high), lenient: true, fn: func(string, string, []byte) error { return nil }}
		_ = w.tree("", m.root, nil, nil, 0)
		_, _ = w.page(m.freelist)
		for id, seen := range w.seen {
			if seen {
				pages = append(pages, id)
			}
		}
	}
	slices.Sort(pages)
	return slices.Compact(pages)
}

// records are the lines of an export but for those about the journal itself.
func records(export string) []string {
	return slices.DeleteFunc(strings.Split(export, "\n"), func(l string) bool {
		return l == "" || strings.HasPrefix(l, `{"bucket":"meta"`)
	})
}

// damage flips the lowest bit at each place while fn runs.
func (s *sweep) damage(t *testing.T, fn func(), at ...int) {
	t.Helper()
	for _, off := range at {
		s.flip(t, off, 0)
		defer s.flip(t, off, 0)
	}
	fn()
}

// flip turns over a bit of the copy.
func (s *sweep) flip(t *testing.T, off, bit int) {
	t.Helper()
	var b [1]byte
	_, err := s.file.ReadAt(b[:], int64(off))
	ok(t, err)
	b[0] ^= 1 << bit
	_, err = s.file.WriteAt(b[:], int64(off))
	ok(t, err)
}

// verdict is what reading the damaged copy comes to: what was written, a commit
// older when a meta page is hit, or an error. Verify must see each of them.
func (s *sweep) verdict(t *testing.T, what string, inMeta bool) string {
	t.Helper()
	snap, err := OpenReadOnly(s.file.Name())
	rep, verr := Verify(s.file.Name())
	have := ""
	if err == nil {
		have = export(t, snap)
	}
	verdict := "found"
	switch {
	case err != nil:
		wantErr(t, err, ErrCorrupt)
		if !errors.Is(verr, ErrCorrupt) || len(rep.Problems) == 0 {
			t.Fatalf("%s: cannot be read (%v), but verify says %v %+v", what, err, verr, rep)
		}
	case have == s.want && verr == nil:
		verdict = "harmless"
	case have == s.older && inMeta && verr == nil && len(rep.Warnings) > 0:
		verdict = "a commit older"
	default:
		t.Fatalf("%s: holds something else, and verify says %v %+v:\n%s", what, verr, rep, have)
	}
	s.count[verdict]++
	return verdict
}

// opens lets the journal come up on the damaged copy: it says what it lost, and
// brings nothing that was never written.
func (s *sweep) opens(t *testing.T, what, verdict string, change ...func(*Options)) {
	t.Helper()
	b, err := os.ReadFile(s.file.Name())
	ok(t, err)
	dir := filepath.Join(s.dir, "opened")
	defer func() { ok(t, os.RemoveAll(dir)) }()
	ok(t, os.Mkdir(dir, 0o700))
	ok(t, os.WriteFile(filepath.Join(dir, FileName), b, 0o600))
	p := &place{dir: dir}
	fileAt(p)
	j, err := p.try(change...)
	if err != nil {
		t.Fatalf("%s: does not come up: %v", what, err)
	}
	defer j.Abandon()
	d, degraded := j.Degraded()
	if degraded != (verdict == "found") {
		t.Fatalf("%s: %s, but degraded is %t", what, verdict, degraded)
	}
	var out bytes.Buffer
	ok(t, j.Export(&out))
	have, want := records(out.String()), records(s.want)
	if verdict == "a commit older" {
		want = records(s.older)
	}
	if !slices.Equal(have, want) && len(d.Lost) == 0 {
		t.Fatalf("%s: %d records of %d, and nothing is said to be lost", what, len(have), len(want))
	}
	for _, l := range have {
		if !s.ever[l] {
			t.Fatalf("%s: nobody ever wrote %s", what, l)
		}
	}
	if degraded {
		kept, err := os.ReadFile(d.Aside)
		if err != nil || !bytes.Equal(kept, b) {
			t.Fatalf("%s: the damaged file is not kept: %v", what, err)
		}
	}
	s.count["opened"]++
}

// place of a bit in the file.
type bitAt struct{ off, bit int }

// bits are those to flip: all of page headers and meta pages, and one of each
// other byte.
func (s *sweep) bits() (headers, metas, bodies []bitAt) {
	for _, page := range s.pages {
		for i := range pageSize {
			off := page*pageSize + i
			switch {
			case i < pageHeader:
				headers = append(headers, eight(off)...)
			case page < 2 && i < pageHeader+metaSize:
				metas = append(metas, eight(off)...)
			default:
				bodies = append(bodies, bitAt{off, s.rnd.IntN(8)})
			}
		}
	}
	return headers, metas, bodies
}

func eight(off int) (bits []bitAt) {
	for bit := range 8 {
		bits = append(bits, bitAt{off, bit})
	}
	return bits
}

// some draws n of all, or leaves all in a campaign.
func some[T any](rnd *rand.Rand, all []T, n int) []T {
	if campaign() || len(all) <= n {
		return all
	}
	rnd.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:n]
}

// TestFlips: bits of every page in use are flipped. Nothing panics or hangs,
// nothing is lost in silence, and a journal comes up on each.
func TestFlips(t *testing.T) {
	t.Parallel()
	s := newSweep(t)
	headers, metas, bodies := s.bits()
	all := slices.Concat(some(s.rnd, headers, 160), some(s.rnd, metas, 60), some(s.rnd, bodies, 180))
	for i, b := range all {
		what := fmt.Sprintf("page %d, byte %d, bit %d", b.off/pageSize, b.off%pageSize, b.bit)
		s.flip(t, b.off, b.bit)
		verdict := s.verdict(t, what, b.off < 2*pageSize)
		if i%10 == 0 {
			s.opens(t, what, verdict)
		}
		if i%100 == 0 {
			s.opens(t, what, verdict, scanChild("scan"))
		}
		s.flip(t, b.off, b.bit)
	}
	for _, v := range []string{"found", "harmless", "a commit older"} {
		if s.count[v] == 0 {
			t.Errorf("no flip came to be %s", v)
		}
	}
	evidence(t, len(all), "flipped bits in %d pages: %v", len(s.pages), s.count)
}

// TestTruncations: a file that was cut off is seen to be, unless what was cut
// off was never used.
func TestTruncations(t *testing.T) {
	t.Parallel()
	s := newSweep(t)
	var lengths []int
	for n := 512; n < len(s.whole); n += 512 {
		lengths = append(lengths, n)
	}
	used := (s.pages[len(s.pages)-1] + 1) * pageSize
	all := slices.Concat(some(s.rnd, lengths[:used/512], 60), some(s.rnd, lengths[used/512:], 10))
	for i, n := range all {
		what := fmt.Sprintf("cut off at %d of %d", n, len(s.whole))
		ok(t, s.file.Truncate(int64(n)))
		verdict := s.verdict(t, what, false)
		if verdict == "harmless" && (n%pageSize != 0 || n < used) {
			t.Errorf("%s: nobody sees it", what)
		}
		if campaign() || i%4 == 0 {
			s.opens(t, what, verdict)
		}
		_, err := s.file.WriteAt(s.whole[n:], int64(n))
		ok(t, err)
	}
	ok(t, s.file.Truncate(0))
	_, err := OpenReadOnly(s.file.Name())
	wantErr(t, err, ErrNotExist)
	s.opens(t, "empty", "found") // it is not a new journal: something emptied it
	evidence(t, len(all), "truncations: %v", s.count)
}

// badPage is a disk that does not give a page.
type badPage struct {
	io.ReaderAt
	page int64
	err  error
}

func (b badPage) ReadAt(p []byte, off int64) (int, error) {
	if off < (b.page+1)*pageSize && off+int64(len(p)) > b.page*pageSize {
		return 0, b.err
	}
	return b.ReaderAt.ReadAt(p, off)
}

// TestBadPage: a page that cannot be read is damage, and what is on the others
// is saved; one for which there was no memory says nothing about the journal.
func TestBadPage(t *testing.T) {
	t.Parallel()
	s := newSweep(t)
	f, err := openRead(s.file.Name())
	ok(t, err)
	defer func() { _ = f.Close() }()
	none := func(string, string, []byte) error { return nil }
	im, err := readImage(f)
	ok(t, err)
	newest := *im
	newest.metas = im.metas[:1]
	for _, page := range reachable(&newest) {
		im.r = badPage{f, int64(page), &os.PathError{Op: "read", Err: syscall.EIO}}
		wantErr(t, im.check(none), ErrCorrupt)
		_, damaged, err := im.collect(im.metas[0])
		ok(t, err)
		im.r = badPage{f, int64(page), &os.PathError{Op: "read", Err: syscall.ENOMEM}}
		err = im.check(none)
		wantErr(t, err, syscall.ENOMEM)
		_, _, cerr := im.collect(im.metas[0])
		if errors.Is(err, ErrCorrupt) || errors.Is(cerr, syscall.ENOMEM) != damaged {
			t.Errorf("page %d without memory: %v, %v", page, err, cerr)
		}
	}
}

// TestReaderAgreesWithBolt: what this package's reader passes, bbolt's own
// check passes.
func TestReaderAgreesWithBolt(t *testing.T) {
	t.Parallel()
	s := newSweep(t)
	n, passed := 400, 0
	if campaign() {
		n = 20_000
	}
	for range n {
		var bits []bitAt
		for range 1 + s.rnd.IntN(3) {
			page := s.pages[s.rnd.IntN(len(s.pages))]
			bits = append(bits, bitAt{page*pageSize + s.rnd.IntN(400), s.rnd.IntN(8)})
		}
		for _, b := range bits {
			s.flip(t, b.off, b.bit)
		}
		if preflight(s.file.Name()) == nil { // bbolt might not survive the others
			passed++
			ok(t, checkBolt(s.file.Name()))
		}
		for _, b := range bits {
			s.flip(t, b.off, b.bit)
		}
	}
	if passed == 0 || passed == n {
		t.Errorf("%d of %d damaged files have sound pages", passed, n)
	}
	t.Logf("%d of %d damaged files have sound pages", passed, n)
}
