package journal

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"slices"
	"syscall"
)

// A reader of bbolt's file format that trusts nothing: it reads page by page
// with bounds, visits no page twice and never maps the file, so that it cannot
// panic, fault or go round in circles, as bbolt does on damaged pages. It
// decides whether bbolt may look at a file, and salvages when it may not.
//
// Layout (bbolt v1.3 to v1.5, internal/common): every page starts with
// id u64, flags u16, count u16, overflow u32. Pages 0 and 1 are meta pages.
// A leaf element is flags, pos, ksize, vsize (u32 each), a branch element pos,
// ksize (u32 each), child u64; pos counts from the element. All in the byte
// order of the machine.
const (
	boltMagic   = 0xED0CDAED
	boltVersion = 2
	metaSize    = 64 // with its checksum, behind the page header
	pageHeader  = 16
	elementSize = 16
	bucketSize  = 16 // root u64, sequence u64; an inline page follows when root is 0

	branchPage   = 0x01
	leafPage     = 0x02
	metaPage     = 0x04
	freelistPage = 0x10
	bucketFlag   = 0x01

	maxDepth = 32
	// maxFile is more than any journal and less than what would hurt to read.
	maxFile = 1 << 30
)

// boltMeta is what a meta page says.
type boltMeta struct {
	pageSize             uint32
	root, freelist, high uint64 // high is the first page id that is not used
	txid                 uint64
}

// image is a file with at least one good meta page.
type image struct {
	r     io.ReaderAt
	size  int64
	metas []boltMeta // good ones, newest first
	bad   error      // what is wrong with the other
	lie   error      // of a meta page that bbolt would believe
}

// errLie is wrapped around what is wrong with a meta page whose checksum holds:
// bbolt looks no further, and would follow it.
var errLie = fmt.Errorf("a good checksum around nonsense: %w", ErrCorrupt)

// readImage reads the meta pages.
func readImage(f *os.File) (*image, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, explain(err)
	}
	im := &image{r: f, size: info.Size()}
	if im.size > maxFile {
		return nil, fmt.Errorf("%s of %d bytes is too large to be a journal: %w", f.Name(), im.size, ErrCorrupt)
	}
	for i := range int64(2) {
		m, err := im.readMeta(i)
		if err != nil {
			err = fmt.Errorf("meta page %d: %w", i, err)
			if errors.Is(err, syscall.ENOMEM) {
				return nil, err
			}
			im.bad = errors.Join(im.bad, err)
			if errors.Is(err, errLie) {
				im.lie = err
			}
			continue
		}
		im.metas = append(im.metas, m)
	}
	if len(im.metas) == 0 {
		return nil, im.bad
	}
	slices.SortStableFunc(im.metas, func(a, b boltMeta) int { return cmp.Compare(b.txid, a.txid) })
	return im, nil
}

func (im *image) readMeta(i int64) (boltMeta, error) {
	b := make([]byte, pageHeader+metaSize)
	// Pages are 4096 bytes in every journal; the file says so itself.
	if _, err := im.r.ReadAt(b, i*pageSize); err != nil {
		return boltMeta{}, fmt.Errorf("not to be read in a file of %d bytes: %w", im.size, readError(err))
	}
	b = b[pageHeader:]
	ne := binary.NativeEndian
	h := fnv.New64a()
	h.Write(b[:metaSize-8])
	m := boltMeta{
		pageSize: ne.Uint32(b[8:]), root: ne.Uint64(b[16:]), freelist: ne.Uint64(b[32:]),
		high: ne.Uint64(b[40:]), txid: ne.Uint64(b[48:]),
	}
	switch {
	case ne.Uint32(b) != boltMagic:
		return m, fmt.Errorf("not a bbolt file: %w", ErrCorrupt)
	case ne.Uint64(b[metaSize-8:]) != h.Sum64():
		return m, fmt.Errorf("checksum does not match: %w", ErrCorrupt)
	case ne.Uint32(b[4:]) > boltVersion:
		return m, fmt.Errorf("bbolt format %d: %w", ne.Uint32(b[4:]), ErrNewer)
	case ne.Uint32(b[4:]) != boltVersion:
		return m, fmt.Errorf("bbolt format %d: %w", ne.Uint32(b[4:]), ErrCorrupt)
	case m.pageSize != pageSize:
		return m, fmt.Errorf("pages of %d bytes: %w", m.pageSize, errLie)
	case m.high < 4 || m.high > maxFile/pageSize || m.root >= m.high || m.freelist >= m.high:
		return m, fmt.Errorf("root %d and freelist %d of %d pages: %w", m.root, m.freelist, m.high, errLie)
	}
	return m, nil
}

// readError is a read that failed: what the disk does not give is damage, what
// there was no memory for is not.
func readError(err error) error {
	if errors.Is(err, syscall.ENOMEM) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrCorrupt, err)
}

// fits says whether the file is as long as its newest meta page needs.
func (im *image) fits() error {
	if m := im.metas[0]; im.size%pageSize != 0 || im.size < int64(m.high)*pageSize {
		return fmt.Errorf("file of %d bytes, but %d pages are in use: it was truncated: %w", im.size, m.high, ErrCorrupt)
	}
	return nil
}

// headers checks what a meta page says of itself before its checksum begins. A
// torn write does not change it: it is the same in every commit.
func (im *image) headers() error {
	for i := range int64(2) {
		var h [pageHeader]byte
		if _, err := im.r.ReadAt(h[:], i*pageSize); err != nil {
			return fmt.Errorf("meta page %d: %w", i, readError(err))
		}
		id, flags := binary.NativeEndian.Uint64(h[:]), binary.NativeEndian.Uint16(h[8:])
		if id != uint64(i) || flags != metaPage {
			return fmt.Errorf("meta page %d says it is page %d of kind %#x: %w", i, id, flags, ErrCorrupt)
		}
	}
	return nil
}

// walker goes through the tree of one meta page.
type walker struct {
	im      *image
	meta    boltMeta
	seen    []bool
	lenient bool // go on past damage
	damage  error
	pace    uint64 // what the file says of its commits, see setPace; 0 is nothing
	fn      func(bucket, key string, value []byte) error
}

// check walks strictly and accounts for every page. A file that passes holds
// nothing that bbolt could stumble over.
func (im *image) check(fn func(bucket, key string, value []byte) error) error {
	if im.lie != nil {
		return im.lie
	}
	if err := im.fits(); err != nil {
		return err
	}
	if err := im.headers(); err != nil {
		return err
	}
	var p pace
	w := &walker{im: im, meta: im.metas[0], seen: make([]bool, im.metas[0].high)}
	w.fn = func(bucket, key string, value []byte) error {
		if bucket == BucketMeta {
			p.note(key, value)
		}
		return fn(bucket, key, value)
	}
	if err := w.tree("", w.meta.root, nil, nil, 0); err != nil {
		return err
	}
	if err := p.kept(w.pace, w.meta.txid); err != nil {
		return err
	}
	if err := w.free(); err != nil {
		return err
	}
	for id := 2; id < len(w.seen); id++ {
		if !w.seen[id] {
			return fmt.Errorf("page %d is neither used nor free: %w", id, ErrCorrupt)
		}
	}
	return nil
}

// rows are all rows of a file whose pages are sound.
func (im *image) rows() (rows []write, err error) {
	err = im.check(func(bucket, key string, value []byte) error {
		rows = append(rows, write{bucket, key, bytes.Clone(value)})
		return nil
	})
	return rows, err
}

// collect walks leniently and returns what rows there are, and whether
// anything was in the way.
func (im *image) collect(m boltMeta) (rows []write, damaged bool, err error) {
	w := &walker{im: im, meta: m, seen: make([]bool, m.high), lenient: true}
	w.fn = func(bucket, key string, value []byte) error {
		rows = append(rows, write{bucket, key, bytes.Clone(value)})
		return nil
	}
	err = w.tree("", m.root, nil, nil, 0)
	return rows, w.damage != nil, err
}

// complain is an error when damage ends the walk.
func (w *walker) complain(format string, args ...any) error {
	err := fmt.Errorf(format+": %w", append(args, ErrCorrupt)...)
	if w.damage == nil {
		w.damage = err
	}
	if w.lenient {
		return nil
	}
	return err
}

// unread is complain for a page that could not be read.
func (w *walker) unread(id uint64, err error) error {
	if errors.Is(err, syscall.ENOMEM) {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return w.complain("page %d cannot be read (%v)", id, err)
}

// page reads a page and its overflow; nil when it was not usable.
func (w *walker) page(id uint64) ([]byte, error) {
	if id < 2 || id >= uint64(len(w.seen)) || w.seen[id] {
		return nil, w.complain("page %d is out of bounds or used twice", id)
	}
	var h [pageHeader]byte
	if _, err := w.im.r.ReadAt(h[:], int64(id)*pageSize); err != nil {
		return nil, w.unread(id, err)
	}
	over := uint64(binary.NativeEndian.Uint32(h[12:]))
	if id+over >= uint64(len(w.seen)) {
		return nil, w.complain("page %d overflows by %d pages past the end", id, over)
	}
	if is := binary.NativeEndian.Uint64(h[:]); is != id {
		if err := w.complain("page %d says it is page %d", id, is); err != nil {
			return nil, err
		}
	}
	for i := id; i <= id+over; i++ {
		if w.seen[i] {
			return nil, w.complain("page %d is used twice", i)
		}
		w.seen[i] = true
	}
	b := make([]byte, (over+1)*pageSize)
	if n, err := w.im.r.ReadAt(b, int64(id)*pageSize); err != nil {
		return b[:n], w.unread(id, err)
	}
	return b, nil
}

// tree walks the pages of one bucket whose keys are in [low, high).
func (w *walker) tree(bucket string, id uint64, low, high []byte, depth int) error {
	if depth > maxDepth {
		return w.complain("page %d is %d levels deep", id, depth)
	}
	b, err := w.page(id)
	if err != nil || len(b) < pageHeader {
		return err
	}
	switch flags := binary.NativeEndian.Uint16(b[8:]); flags {
	case leafPage:
		return w.leaf(bucket, id, b, low, high, depth)
	case branchPage:
		return w.branch(bucket, id, b, low, high, depth)
	default:
		return w.complain("page %d is of kind %#x", id, flags)
	}
}

func (w *walker) branch(bucket string, id uint64, b, low, high []byte, depth int) error {
	n := int(binary.NativeEndian.Uint16(b[10:]))
	if n == 0 || pageHeader+n*elementSize > len(b) {
		if err := w.complain("page %d says it has %d children", id, n); err != nil {
			return err
		}
		n = min(n, (len(b)-pageHeader)/elementSize)
	}
	keys, children := make([][]byte, n), make([]uint64, n)
	for i := range n {
		e := b[pageHeader+i*elementSize:]
		key, ok := cut(e, binary.NativeEndian.Uint32(e), binary.NativeEndian.Uint32(e[4:]))
		if !ok || !within(key, low, high) || (i > 0 && bytes.Compare(keys[i-1], key) >= 0) {
			if err := w.complain("page %d: key %d is out of bounds or order", id, i); err != nil {
				return err
			}
		}
		keys[i], children[i] = key, binary.NativeEndian.Uint64(e[8:])
	}
	for i, child := range children {
		from, to := keys[i], high
		if i+1 < n {
			to = keys[i+1]
		}
		if w.lenient {
			from, to = nil, nil
		}
		if err := w.tree(bucket, child, from, to, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) leaf(bucket string, id uint64, b, low, high []byte, depth int) error {
	n := int(binary.NativeEndian.Uint16(b[10:]))
	if pageHeader+n*elementSize > len(b) {
		if err := w.complain("page %d says it has %d elements", id, n); err != nil {
			return err
		}
		n = (len(b) - pageHeader) / elementSize
	}
	var last []byte
	for i := range n {
		e := b[pageHeader+i*elementSize:]
		ne := binary.NativeEndian
		pos, ksize, vsize := ne.Uint32(e[4:]), ne.Uint32(e[8:]), ne.Uint32(e[12:])
		kv, ok := cut(e, pos, uint32(min(uint64(ksize)+uint64(vsize), maxFile)))
		if !ok {
			if err := w.complain("page %d: element %d is out of bounds", id, i); err != nil {
				return err
			}
			continue
		}
		key, value := kv[:ksize], kv[ksize:]
		if !within(key, low, high) || (i > 0 && bytes.Compare(last, key) >= 0) {
			if err := w.complain("page %d: key %d is out of order", id, i); err != nil {
				return err
			}
		}
		last = key
		if err := w.element(bucket, id, ne.Uint32(e), key, value, depth); err != nil {
			return err
		}
	}
	return nil
}

// element is a row, or a bucket: the root bucket holds nothing else.
func (w *walker) element(bucket string, id uint64, flags uint32, key, value []byte, depth int) error {
	isBucket := flags&bucketFlag != 0
	switch {
	case !isBucket && bucket != "":
		return w.fn(bucket, string(key), value)
	case !isBucket || bucket != "" || len(key) == 0 || len(value) < bucketSize:
		return w.complain("page %d: %q is not where a bucket or a record belongs", id, key)
	}
	root := binary.NativeEndian.Uint64(value)
	if string(key) == BucketMeta {
		w.pace = binary.NativeEndian.Uint64(value[8:])
	}
	if root != 0 {
		return w.tree(string(key), root, nil, nil, depth+1)
	}
	inline := value[bucketSize:]
	if len(inline) < pageHeader || binary.NativeEndian.Uint16(inline[8:]) != leafPage {
		return w.complain("page %d: bucket %q has no page", id, key)
	}
	return w.leaf(string(key), id, inline, nil, nil, depth+1)
}

// free walks the list of free pages.
func (w *walker) free() error {
	b, err := w.page(w.meta.freelist)
	if err != nil {
		return err
	}
	if flags := binary.NativeEndian.Uint16(b[8:]); flags != freelistPage {
		return w.complain("freelist page %d is of kind %#x", w.meta.freelist, flags)
	}
	n, ids := uint64(binary.NativeEndian.Uint16(b[10:])), b[pageHeader:]
	if n == 0xFFFF {
		n, ids = binary.NativeEndian.Uint64(ids), ids[8:]
	}
	if n > uint64(len(ids)/8) {
		return w.complain("freelist says it has %d pages", n)
	}
	for i := range n {
		id := binary.NativeEndian.Uint64(ids[i*8:])
		if id < 2 || id >= uint64(len(w.seen)) || w.seen[id] {
			return w.complain("page %d is free and used, or out of bounds", id)
		}
		w.seen[id] = true
	}
	return nil
}

// cut is n bytes of b from pos, when there are so many.
func cut(b []byte, pos, n uint32) ([]byte, bool) {
	if uint64(pos)+uint64(n) > uint64(len(b)) {
		return nil, false
	}
	return b[pos : pos+n], true
}

func within(key, low, high []byte) bool {
	return (low == nil || bytes.Compare(low, key) <= 0) && (high == nil || bytes.Compare(key, high) < 0)
}
