package fuzz_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"eniagent/drivers"
	"eniagent/journal"
)

const (
	pageSize   = 4096
	imagesFile = "testdata/images.tar.gz"
)

// images are one journal as it was after each of its commits, and what it held.
// They are kept in a file because bbolt places pages at random.
type images struct {
	files   [][]byte
	exports []string
	// ever are the lines of all exports but the manifests: records that an agent
	// wrote once.
	ever map[string]bool
}

func loadImages(t testing.TB) *images {
	t.Helper()
	f, err := os.Open(imagesFile)
	must(t, err)
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(f)
	must(t, err)
	im := &images{ever: map[string]bool{}}
	path := filepath.Join(scratch(t), journal.FileName)
	for r := tar.NewReader(z); ; {
		if _, err := r.Next(); errors.Is(err, io.EOF) {
			break
		}
		b, err := io.ReadAll(r)
		must(t, err)
		must(t, os.WriteFile(path, b, 0o600))
		s, err := journal.OpenReadOnly(path)
		must(t, err)
		text := export(t, s.Records)
		im.files, im.exports = append(im.files, b), append(im.exports, text)
		for _, l := range records(text) {
			im.ever[l] = true
		}
	}
	return im
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func export(t testing.TB, r *journal.Records) string {
	t.Helper()
	var b strings.Builder
	must(t, r.Export(&b))
	return b.String()
}

// records are the lines of an export without those of the meta bucket, which
// are made anew for a journal that takes over.
func records(export string) []string {
	return slices.DeleteFunc(slices.Collect(strings.Lines(export)), func(l string) bool {
		return strings.HasPrefix(l, `{"bucket":"meta"`)
	})
}

// scratch is a directory in memory where there is one: a sync costs nothing
// there.
func scratch(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "eniagent-fuzz-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// Edits are opcodes with operands, so that bytes of any origin are some edits.
const (
	editWrite  = iota // offset u24, length u8, bytes
	editFlip          // offset u24, bit u8
	editCut           // length u24
	editGrow          // pages u8
	editPage          // page u8, image u8: a page as it was after another commit
	editMeta          // page u8: the checksum of a meta page is made right again
	editOps           // how many there are
	maxEdits   = 64
	metaBytes  = 56 // of a meta page, behind its header of 16, that its checksum is over
	metaOffset = 16
)

// damaged is an image with edits made to it.
type damaged struct {
	bytes []byte
	image int
	metas []int // the images that its meta pages come from, besides
	// forged says that a meta page's checksum was made to fit, as no accident does.
	forged bool
}

// mutate applies edits to an image.
func (im *images) mutate(image int, edits []byte) damaged {
	image %= len(im.files)
	d := damaged{image: image}
	b, in := bytes.Clone(im.files[image]), reader{edits}
	for range maxEdits {
		if in.empty() {
			break
		}
		switch in.byte() % editOps {
		case editWrite:
			at := in.three()
			copy(b[min(at, len(b)):], in.take(in.byte()))
		case editFlip:
			if at, bit := in.three(), in.byte(); at < len(b) {
				b[at] ^= 1 << (bit % 8)
			}
		case editCut:
			b = b[:min(in.three(), len(b))]
		case editGrow:
			b = append(b, make([]byte, in.byte()%16*pageSize)...)
		case editPage:
			p, other := in.byte(), in.byte()%len(im.files)
			if is := im.page(other, p); is != nil && p*pageSize < len(b) {
				copy(b[p*pageSize:], is)
			}
			if p < 2 {
				d.metas = append(d.metas, other)
			}
		case editMeta:
			at := in.byte()%2*pageSize + metaOffset
			if at+metaBytes+8 <= len(b) {
				h := fnv.New64a()
				h.Write(b[at : at+metaBytes])
				d.forged = d.forged || binary.NativeEndian.Uint64(b[at+metaBytes:]) != h.Sum64()
				binary.NativeEndian.PutUint64(b[at+metaBytes:], h.Sum64())
			}
		}
	}
	d.bytes = b
	return d
}

// reader takes numbers from bytes until there are none left.
type reader struct{ b []byte }

func (r *reader) empty() bool { return len(r.b) == 0 }

func (r *reader) take(n int) []byte {
	n = min(n, len(r.b))
	t := r.b[:n]
	r.b = r.b[n:]
	return t
}

func (r *reader) byte() int {
	if t := r.take(1); len(t) == 1 {
		return int(t[0])
	}
	return 0
}

func (r *reader) three() int { return r.byte()<<16 | r.byte()<<8 | r.byte() }

// opener is how a journal is opened for writing; its broken variants too.
type opener func(dir string) (*journal.Journal, error)

func openJournal(dir string) (*journal.Journal, error) {
	return journal.Open(context.Background(), journalOptions(dir))
}

func journalOptions(dir string) journal.Options {
	return journal.Options{Dir: dir, BootID: "boot-2", MachineID: "m-1", FlushAfter: time.Hour, LockTimeout: time.Second, Preallocate: -1}
}

// legal are what an open that finds no damage may show: the commit of the image,
// or the one before, to which bbolt falls back when a meta page is torn; the
// same for another commit whose meta page is there, as all that it leads to may
// be. With a forged meta page it may be any commit there was.
func (im *images) legal(d damaged) []string {
	if d.forged {
		return im.exports
	}
	var legal []string
	for _, image := range append(d.metas, d.image) {
		legal = append(legal, im.exports[max(0, image-1):image+1]...)
	}
	return legal
}

// checkImage opens a damaged file in every way there is. It is right that each
// says what was written, or that there is damage; nothing may be lost without
// a word.
func (im *images) checkImage(open opener, dir string, image int, edits []byte) error {
	d := im.mutate(image, edits)
	path := filepath.Join(dir, journal.FileName)
	if err := os.WriteFile(path, d.bytes, 0o600); err != nil {
		return err
	}
	legal := im.legal(d)
	snapshot, readErr := journal.OpenReadOnly(path)
	_, verifyErr := journal.Verify(path)
	if (readErr == nil) != (verifyErr == nil) {
		return fmt.Errorf("reading says %v, verifying says %v", readErr, verifyErr) //nolint:errorlint // one of them is nil
	}
	if readErr == nil {
		if err := oneOf(snapshot.Records, legal); err != nil {
			return fmt.Errorf("read only: %w", err)
		}
	} else if !slices.ContainsFunc([]error{journal.ErrCorrupt, journal.ErrNewer, journal.ErrNotExist}, func(e error) bool { return errors.Is(readErr, e) }) {
		return fmt.Errorf("an error that says nothing of the journal: %w", readErr)
	}
	j, err := open(dir)
	if errors.Is(err, journal.ErrNewer) && d.forged {
		return unchanged(path, d.bytes)
	}
	if err != nil {
		return fmt.Errorf("the journal does not come up: %w", err)
	}
	defer j.Abandon()
	told, degraded := j.Degraded()
	switch {
	case degraded && readErr == nil:
		return errors.New("degraded, but read without complaint")
	case degraded:
		return im.salvaged(j.Records, told, d.bytes)
	}
	return oneOf(j.Records, legal)
}

func unchanged(path string, was []byte) error {
	if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, was) {
		return fmt.Errorf("a newer journal was changed (%w)", err)
	}
	return nil
}

func oneOf(r *journal.Records, legal []string) error {
	var have strings.Builder
	if err := r.Export(&have); err != nil {
		return err
	}
	if !slices.Contains(legal, have.String()) {
		return fmt.Errorf("without a word about damage, the journal holds\n%swhich it held after none of %d commits", have.String(), len(legal))
	}
	return nil
}

// salvaged: what was brought over was written once, what was not is counted,
// and the damaged file is kept.
func (im *images) salvaged(r *journal.Records, d journal.Degradation, damaged []byte) error {
	var have strings.Builder
	if err := r.Export(&have); err != nil {
		return err
	}
	kept := records(have.String())
	for _, l := range kept {
		if !im.ever[l] {
			return fmt.Errorf("salvaged what no agent wrote: %s", l)
		}
	}
	if aside, err := os.ReadFile(d.Aside); err != nil || !bytes.Equal(aside, damaged) {
		return fmt.Errorf("the damaged file is not kept as it was (%w)", err)
	}
	if d.Saved != len(kept) || d.Reason == "" {
		return fmt.Errorf("%d records saved, degradation says %d, because %q", len(kept), d.Saved, d.Reason)
	}
	if len(d.Lost) > 0 {
		return nil
	}
	// Nothing lost: then it is all that some commit left.
	for _, text := range im.exports {
		if len(records(text)) == len(kept) {
			return nil
		}
	}
	return fmt.Errorf("%d records are no commit's number, and none is called lost", len(kept))
}

// emptyDir leaves nothing in a directory.
func emptyDir(dir string) error {
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	for _, name := range names {
		err = errors.Join(err, os.Remove(name))
	}
	return err
}

// deadline ends this process when one input takes too long, which the fuzzer
// reports with the input.
func deadline() (stop func()) {
	t := time.AfterFunc(2*time.Minute, func() { panic("this input does not come to an end") })
	return func() { t.Stop() }
}

type imageSeed struct {
	image int
	edits []byte
}

func three(n int) []byte { return []byte{byte(n >> 16), byte(n >> 8), byte(n)} }

// imageSeeds are the crash images of every commit (each page of the next one is
// there or not, the meta page last), torn meta pages, and damage of every kind.
func (im *images) imageSeeds() []imageSeed {
	var seeds []imageSeed
	add := func(image int, edits ...byte) { seeds = append(seeds, imageSeed{image, edits}) }
	for i := range im.files {
		add(i)
		if i+1 == len(im.files) {
			break
		}
		var changed []byte // the edits that make image i+1 of image i
		changed = append(changed, editGrow, byte((len(im.files[i+1])-len(im.files[i]))/pageSize))
		for p := range len(im.files[i+1]) / pageSize {
			was, is := im.page(i, p), im.page(i+1, p)
			if p < 2 || bytes.Equal(was, is) {
				continue
			}
			add(i, editGrow, 15, editPage, byte(p), byte(i+1))
			changed = append(changed, editPage, byte(p), byte(i+1))
		}
		add(i, changed...)
		add(i, append(changed, editPage, byte((i+1)%2), byte(i+1))...)
	}
	last := len(im.files) - 1
	for p := range len(im.files[last]) / pageSize {
		at := p * pageSize
		for _, off := range []int{0, 8, 10, 12, 16, 20, 24, 28, 32, 56, 72, 200} {
			add(last, append(append([]byte{editFlip}, three(at+off)...), 1)...)
		}
		add(last, append(append([]byte{editFlip}, three(at+11)...), 7)...)
		add(last, append(append([]byte{editWrite}, three(at+10)...), 2, 0xff, 0xff)...)
		add(last, append([]byte{editCut}, three(at)...)...)
		add(last, append([]byte{editCut}, three(at+100)...)...)
		add(last, editPage, byte(p), byte(last-2))
	}
	// Meta pages that are forged: root, freelist, the number of pages, the format.
	for _, off := range []int{4, 8, 16, 32, 40, 48} {
		for page := range 2 {
			for _, value := range []byte{0, 1, 3, 200} {
				w := append([]byte{editWrite}, three(page*pageSize+metaOffset+off)...)
				add(last, append(w, 1, value, editMeta, byte(page))...)
			}
		}
	}
	return seeds
}

func (im *images) page(image, p int) []byte {
	if b := im.files[image]; (p+1)*pageSize <= len(b) {
		return b[p*pageSize : (p+1)*pageSize]
	}
	return nil
}

// FuzzJournalFile: whatever became of the file, a journal comes up, and what it
// holds is what was written, or it says that there was damage.
func FuzzJournalFile(f *testing.F) {
	im := loadImages(f)
	for _, s := range im.imageSeeds() {
		f.Add(byte(s.image), s.edits)
	}
	dir := scratch(f)
	f.Fuzz(func(t *testing.T, image byte, edits []byte) {
		defer deadline()()
		must(t, emptyDir(dir))
		if err := im.checkImage(openJournal, dir, int(image), edits); err != nil {
			t.Fatal(err)
		}
	})
}

// TestBrokenOpensAreCaught holds the seeds against ways to open that are wrong
// in one place each.
func TestBrokenOpensAreCaught(t *testing.T) {
	im := loadImages(t)
	empty := func(dir string) (*journal.Journal, error) {
		return openJournal(filepath.Join(dir, "fresh"))
	}
	for name, open := range map[string]opener{
		"an empty journal in the place of a damaged one": func(dir string) (*journal.Journal, error) {
			if _, err := journal.OpenReadOnly(filepath.Join(dir, journal.FileName)); err != nil {
				return empty(dir)
			}
			return openJournal(dir)
		},
		"always an empty journal": empty,
		"damage is not told": func(dir string) (*journal.Journal, error) {
			j, err := openJournal(dir)
			if err == nil {
				err = j.Acknowledge(context.Background(), "x", "y")
				if errors.Is(err, journal.ErrUnknown) {
					err = nil
				}
			}
			return j, err
		},
		"a damaged journal keeps the agent down": func(dir string) (*journal.Journal, error) {
			if _, err := journal.Verify(filepath.Join(dir, journal.FileName)); err != nil {
				return nil, err
			}
			return openJournal(dir)
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, s := range im.imageSeeds() {
				if im.checkImage(open, filepath.Join(scratch(t)), s.image, s.edits) != nil {
					return
				}
			}
			t.Error("no seed finds it")
		})
	}
}

// TestVerdictOfAChild opens damaged files as the agent does, scanned in a child
// with a deadline, and wants the verdict that this process comes to.
func TestVerdictOfAChild(t *testing.T) {
	im := loadImages(t)
	seeds := im.imageSeeds()
	inChild := func(dir string) (*journal.Journal, error) {
		o := journalOptions(dir)
		o.Scan = journal.Reexec("/usr/bin/env", childEnv+"=scan", os.Args[0])
		return journal.Open(context.Background(), o)
	}
	damaged := 0
	for i := 0; i < len(seeds); i += 1 + len(seeds)/25 {
		s := seeds[i]
		verdict := func(open opener) string {
			dir := scratch(t)
			if err := im.checkImage(open, dir, s.image, s.edits); err != nil {
				t.Fatal(err)
			}
			j, err := openJournal(dir)
			if errors.Is(err, journal.ErrNewer) {
				return "newer"
			}
			must(t, err)
			defer j.Abandon()
			if _, degraded := j.Degraded(); degraded {
				damaged++
				return "degraded\n" + strings.Join(records(export(t, j.Records)), "")
			}
			return export(t, j.Records)
		}
		if here, there := verdict(openJournal), verdict(inChild); here != there {
			t.Errorf("image %d, edits %x: here\n%s\nscanned in a child\n%s", s.image, s.edits, here, there)
		}
	}
	if damaged == 0 {
		t.Error("none was damaged")
	}
}

const childEnv = "ENIAGENT_FUZZ_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) == "scan" {
		os.Exit(journal.ScanMain(os.Args[1], os.Stderr))
	}
	flag.Bool("update", false, "write the images anew")
	os.Exit(m.Run())
}

// TestImages makes the images when asked to, and otherwise wants them to be of
// use: several commits, every bucket filled.
func TestImages(t *testing.T) {
	if flag.Lookup("update").Value.String() == "true" {
		updateImages(t)
	}
	im := loadImages(t)
	if len(im.files) < 10 {
		t.Errorf("%d images", len(im.files))
	}
	for _, b := range []string{
		journal.BucketOpen, journal.BucketQuarantine, journal.BucketDone, journal.BucketFailures, journal.BucketBaseline, journal.BucketDesired, journal.BucketControl,
	} {
		if !strings.Contains(im.exports[len(im.exports)-1], `{"bucket":"`+b+`"`) {
			t.Errorf("bucket %s is empty in the last image", b)
		}
	}
}

func updateImages(t *testing.T) {
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	must(t, err)
	w := tar.NewWriter(z)
	for i, b := range writeImages(t) {
		must(t, w.WriteHeader(&tar.Header{Name: fmt.Sprintf("%02d.db", i), Mode: 0o644, Size: int64(len(b))}))
		_, err := w.Write(b)
		must(t, err)
	}
	must(t, errors.Join(w.Close(), z.Close()))
	must(t, os.WriteFile(imagesFile, out.Bytes(), 0o644))
}

// writeImages is the life of a journal, copied after each commit.
func writeImages(t *testing.T) (files [][]byte) {
	ctx, dir, seconds := context.Background(), scratch(t), 0
	o := journalOptions(dir)
	o.BootID, o.Version = "boot-1", "v1"
	o.Now = func() time.Time {
		seconds++
		return time.Date(2026, 1, 1, 0, 0, seconds, 0, time.UTC)
	}
	j, err := journal.Open(ctx, o)
	must(t, err)
	kept := func(err error) {
		must(t, errors.Join(err, j.Flush(ctx)))
		b, err := os.ReadFile(filepath.Join(dir, journal.FileName))
		must(t, err)
		b = bytes.TrimRight(b, "\x00") // the rest is reserved
		files = append(files, append(b, make([]byte, (pageSize-len(b)%pageSize)%pageSize)...))
	}
	baseline := func(n int) journal.Baseline {
		key := drivers.Key{Kind: "mtu", Target: drivers.Target(fmt.Sprintf("0000:%02x:00.0", n))}
		return journal.Baseline{Key: key, State: "1500", Class: drivers.Volatile}
	}
	begin := func(n int, more ...journal.Baseline) uint64 {
		key := baseline(n).Key
		op, err := j.Begin(ctx, journal.Operation{
			Changes:  []journal.Change{{Key: key, Class: drivers.Volatile, Before: "1500", After: "9000"}},
			Identity: map[drivers.Target]drivers.Identity{key.Target: {Vendor: "0x8086", Incarnation: 42, Netdev: 7}},
			Reason:   journal.Reason{Source: "file", Entry: "eth1"},
		}, append(more, baseline(n)))
		kept(err)
		return op.ID
	}
	kept(nil)
	kept(j.End(journal.Closing{ID: begin(1), State: journal.Done}))
	kept(j.Quarantine(ctx, begin(2), "foreign"))
	kept(j.Reverting(ctx, begin(3), "EBUSY", false))
	kept(j.End(journal.Closing{ID: begin(4), State: journal.Superseded, Count: journal.CountPanic}))
	kept(j.SetDesired(ctx, journal.Desired{Source: "file", Document: json.RawMessage(`{"a":1}`)}))
	kept(j.SetControl(ctx, journal.Control{Action: "paused", Target: "0000:03:00.0", Who: "root"}))
	begin(5)
	// Until here all is in the root page. From here on there are pages of
	// branches, and one that overflows.
	var many []journal.Baseline
	for n := range 60 {
		many = append(many, baseline(100+n))
	}
	begin(7, many...)
	kept(j.SetDesired(ctx, journal.Desired{Source: "big", Document: json.RawMessage(`"` + strings.Repeat("x", 2*pageSize) + `"`)}))
	kept(j.Resolve(ctx, 2, "accept", "root", "looked"))
	kept(j.Quarantine(ctx, begin(6), "foreign"))
	must(t, j.Close())
	return files
}
