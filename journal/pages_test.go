package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"strings"
	"testing"
)

// sheets is a bbolt file made by hand, page by page.
type sheets struct {
	meta  boltMeta
	pages map[uint64][]byte
	size  int64
	heads [2][]byte // of the meta pages, before what the checksum covers
}

// item is an element of a page: a row or a bucket of a leaf, a child of a branch.
type item struct {
	flags      uint32
	key, value string
	child      uint64
}

func page(id uint64, flags, count uint16, over uint32, body []byte) []byte {
	ne := binary.NativeEndian
	b := ne.AppendUint64(nil, id)
	b = ne.AppendUint16(b, flags)
	b = ne.AppendUint16(b, count)
	b = ne.AppendUint32(b, over)
	b = append(b, body...)
	return append(b, make([]byte, max(0, pageSize*(int(over)+1)-len(b)))...)
}

// elements are the headers of items and, behind them, what they point to.
func elements(flags uint16, items []item) []byte {
	ne := binary.NativeEndian
	var heads, data []byte
	for i, it := range items {
		pos := uint32((len(items)-i)*elementSize + len(data))
		if flags == leafPage {
			heads = ne.AppendUint32(heads, it.flags)
			heads = ne.AppendUint32(heads, pos)
			heads = ne.AppendUint32(heads, uint32(len(it.key)))
			heads = ne.AppendUint32(heads, uint32(len(it.value)))
		} else {
			heads = ne.AppendUint32(heads, pos)
			heads = ne.AppendUint32(heads, uint32(len(it.key)))
			heads = ne.AppendUint64(heads, it.child)
		}
		data = append(append(data, it.key...), it.value...)
	}
	return append(heads, data...)
}

func leafOf(id uint64, items ...item) []byte {
	return page(id, leafPage, uint16(len(items)), 0, elements(leafPage, items))
}

func branchOf(id uint64, items ...item) []byte {
	return page(id, branchPage, uint16(len(items)), 0, elements(branchPage, items))
}

func freelistOf(free ...uint64) []byte {
	var b []byte
	for _, f := range free {
		b = binary.NativeEndian.AppendUint64(b, f)
	}
	return page(2, freelistPage, uint16(len(free)), 0, b)
}

func bucketAt(root uint64) string {
	return string(binary.NativeEndian.AppendUint64(binary.NativeEndian.AppendUint64(nil, root), 0))
}

func inlineBucket(items ...item) string {
	body := elements(leafPage, items)
	return bucketAt(0) + string(page(0, leafPage, uint16(len(items)), 0, body)[:pageHeader+len(body)])
}

// soundSheets holds two buckets: one of a branch with two leaves, one inline.
func soundSheets() *sheets {
	s := &sheets{meta: boltMeta{pageSize: pageSize, root: 3, freelist: 2, high: 8, txid: 9}}
	s.pages = map[uint64][]byte{
		2: freelistOf(7),
		3: leafOf(3, item{flags: bucketFlag, key: "done", value: inlineBucket(item{key: "k", value: "v"})},
			item{flags: bucketFlag, key: "open", value: bucketAt(4)}),
		4: branchOf(4, item{key: "a", child: 5}, item{key: "c", child: 6}),
		5: leafOf(5, item{key: "a", value: "1"}, item{key: "b", value: "2"}),
		6: leafOf(6, item{key: "c", value: "3"}),
	}
	s.size = 8 * pageSize
	for i := range s.heads {
		s.heads[i] = page(uint64(i), metaPage, 0, 0, nil)[:pageHeader]
	}
	return s
}

func (s *sheets) image() *image {
	b := make([]byte, s.size+pageSize)
	for i, h := range s.heads {
		copy(b[i*pageSize:], h)
	}
	for id, p := range s.pages {
		copy(b[int(id)*pageSize:], p)
	}
	return &image{r: bytes.NewReader(b), size: s.size, metas: []boltMeta{s.meta}}
}

// TestPagesAreChecked: each thing that can be wrong with a page is found, and
// said to be that.
func TestPagesAreChecked(t *testing.T) {
	ne := binary.NativeEndian
	bucket := func(value string) func(*sheets) {
		return func(s *sheets) {
			s.pages[3] = leafOf(3, item{flags: bucketFlag, key: "done", value: value}, item{flags: bucketFlag, key: "open", value: bucketAt(4)})
		}
	}
	const rows = "done/k=v open/a=1 open/b=2 open/c=3"
	for _, tc := range []struct {
		name   string
		change func(*sheets)
		want   string // the error; "" for none
		rows   string // that are saved all the same
	}{
		{"sound", func(*sheets) {}, "", rows},
		{"longer than it need be", func(s *sheets) { s.size += pageSize }, "", rows},
		{"a page too short", func(s *sheets) { s.size -= pageSize }, "it was truncated", rows},
		{"half a page too long", func(s *sheets) { s.size += 512 }, "it was truncated", rows},
		{"a meta page of another number", func(s *sheets) { s.heads[1][0] = 7 }, "meta page 1 says it is page 7", rows},
		{"a meta page that is none", func(s *sheets) { s.heads[0][8] = leafPage }, "meta page 0 says it is page 0 of kind 0x2", rows},

		{"a leaf of another number", func(s *sheets) { s.pages[6][0] = 5 }, "page 6 says it is page 5", rows},
		{"a page of no kind", func(s *sheets) { s.pages[6][8] = 0 }, "page 6 is of kind 0x0", "done/k=v open/a=1 open/b=2"},
		{"a child among the meta pages", func(s *sheets) { s.pages[4] = branchOf(4, item{key: "a", child: 5}, item{key: "c", child: 1}) }, "page 1 is out of bounds or used twice", "done/k=v open/a=1 open/b=2"},
		{"a child past the end", func(s *sheets) { s.pages[4] = branchOf(4, item{key: "a", child: 5}, item{key: "c", child: 8}) }, "page 8 is out of bounds or used twice", "done/k=v open/a=1 open/b=2"},
		{"a child twice", func(s *sheets) { s.pages[4] = branchOf(4, item{key: "a", child: 5}, item{key: "c", child: 5}) }, "page 5 is out of bounds or used twice", "done/k=v open/a=1 open/b=2"},
		{"a page with overflow to the end", func(s *sheets) {
			s.pages[6], s.pages[2] = page(6, leafPage, 1, 1, elements(leafPage, []item{{key: "c", value: "3"}})), freelistOf()
		}, "", rows},
		{"a page with overflow past the end", func(s *sheets) { s.pages[6][12] = 2 }, "page 6 overflows by 2 pages past the end", "done/k=v open/a=1 open/b=2"},
		{"a page with overflow into another", func(s *sheets) {
			s.pages[4] = branchOf(4, item{key: "a", child: 6}, item{key: "c", child: 5})
			s.pages[5][12], s.pages[6] = 1, leafOf(6, item{key: "a", value: "1"})
		}, "page 6 is used twice", "done/k=v open/a=1"},
		{"a page that nobody has", func(s *sheets) { s.pages[2] = freelistOf() }, "page 7 is neither used nor free", rows},

		{"a branch without children", func(s *sheets) { s.pages[4] = branchOf(4) }, "page 4 says it has 0 children", "done/k=v"},
		{"a branch with more children than room", func(s *sheets) { ne.PutUint16(s.pages[4][10:], 256) }, "page 4 says it has 256 children", "*"},
		{"children in another order", func(s *sheets) { s.pages[4] = branchOf(4, item{key: "c", child: 6}, item{key: "a", child: 5}) }, "page 4: key 1 is out of bounds or order", "done/k=v open/c=3 open/a=1 open/b=2"},
		{"children of the same key", func(s *sheets) { s.pages[4] = branchOf(4, item{key: "a", child: 5}, item{key: "a", child: 6}) }, "page 4: key 1 is out of bounds or order", rows},
		{"a child whose key is not on the page", func(s *sheets) { ne.PutUint32(s.pages[4][pageHeader+4:], pageSize) }, "page 4: key 0 is out of bounds or order", rows},
		{"a child with less than its key", func(s *sheets) { s.pages[4] = branchOf(4, item{key: "a", child: 5}, item{key: "d", child: 6}) }, "page 6: key 0 is out of order", rows},
		{"a child with as much as the next", func(s *sheets) { s.pages[5] = leafOf(5, item{key: "a", value: "1"}, item{key: "c", value: "2"}) }, "page 5: key 1 is out of order", "done/k=v open/a=1 open/c=2 open/c=3"},

		{"a leaf with more elements than room", func(s *sheets) { ne.PutUint16(s.pages[6][10:], 256) }, "page 6 says it has 256 elements", "*"},
		{"an element past the page", func(s *sheets) { ne.PutUint32(s.pages[6][pageHeader+12:], pageSize) }, "page 6: element 0 is out of bounds", "done/k=v open/a=1 open/b=2"},
		{"an element to the end of the page", func(s *sheets) { ne.PutUint32(s.pages[6][pageHeader+12:], pageSize-pageHeader-elementSize-1) }, "", "*"},
		{"an element a byte past it", func(s *sheets) { ne.PutUint32(s.pages[6][pageHeader+12:], pageSize-pageHeader-elementSize) }, "page 6: element 0 is out of bounds", "done/k=v open/a=1 open/b=2"},
		{"elements in another order", func(s *sheets) { s.pages[5] = leafOf(5, item{key: "b", value: "2"}, item{key: "a", value: "1"}) }, "page 5: key 1 is out of order", "done/k=v open/b=2 open/a=1 open/c=3"},
		{"elements of the same key", func(s *sheets) { s.pages[5] = leafOf(5, item{key: "a", value: "1"}, item{key: "a", value: "2"}) }, "page 5: key 1 is out of order", "done/k=v open/a=1 open/a=2 open/c=3"},
		{"a leaf without elements", func(s *sheets) { s.pages[6] = leafOf(6) }, "", "done/k=v open/a=1 open/b=2"},

		{"a row among the buckets", func(s *sheets) { s.pages[3][pageHeader] = 0 }, `page 3: "done" is not where`, "open/a=1 open/b=2 open/c=3"},
		{"a bucket in a bucket", func(s *sheets) { s.pages[6] = leafOf(6, item{flags: bucketFlag, key: "c", value: bucketAt(7)}) }, `page 6: "c" is not where`, "done/k=v open/a=1 open/b=2"},
		{"a bucket without a name", func(s *sheets) {
			s.pages[3] = leafOf(3, item{flags: bucketFlag, value: inlineBucket()}, item{flags: bucketFlag, key: "open", value: bucketAt(4)})
		}, `page 3: "" is not where`, "open/a=1 open/b=2 open/c=3"},
		{"a bucket without a root", bucket(bucketAt(0)[:bucketSize-1]), `page 3: "done" is not where`, "open/a=1 open/b=2 open/c=3"},
		{"a bucket without a page", bucket(bucketAt(0)), `page 3: bucket "done" has no page`, "open/a=1 open/b=2 open/c=3"},
		{"a bucket with less than a page", bucket(inlineBucket()[:bucketSize+pageHeader-1]), `page 3: bucket "done" has no page`, "open/a=1 open/b=2 open/c=3"},
		{"a bucket with nothing on its page", bucket(inlineBucket()), "", "open/a=1 open/b=2 open/c=3"},
		{"a bucket whose page is no leaf", bucket(bucketAt(0) + string(page(0, branchPage, 0, 0, nil)[:pageHeader])), `page 3: bucket "done" has no page`, "open/a=1 open/b=2 open/c=3"},

		{"a freelist that is none", func(s *sheets) { s.pages[2][8] = leafPage }, "freelist page 2 is of kind 0x2", rows},
		{"a freelist with more pages than room", func(s *sheets) { ne.PutUint16(s.pages[2][10:], (pageSize-pageHeader)/8+1) }, "freelist says it has 511 pages", rows},
		{"a freelist of a full page", func(s *sheets) { ne.PutUint16(s.pages[2][10:], (pageSize-pageHeader)/8) }, "page 0 is free and used, or out of bounds", rows},
		{"a freelist that counts for itself", func(s *sheets) { s.pages[2] = freelistOf(1, 7); ne.PutUint16(s.pages[2][10:], 0xFFFF) }, "", rows},
		{"a meta page is free", func(s *sheets) { s.pages[2] = freelistOf(1, 7) }, "page 1 is free and used, or out of bounds", rows},
		{"a page past the end is free", func(s *sheets) { s.pages[2] = freelistOf(7, 8) }, "page 8 is free and used, or out of bounds", rows},
		{"a page in use is free", func(s *sheets) { s.pages[2] = freelistOf(6, 7) }, "page 6 is free and used, or out of bounds", rows},
		{"a page is free twice", func(s *sheets) { s.pages[2] = freelistOf(7, 7) }, "page 7 is free and used, or out of bounds", rows},
		{"as deep as may be", func(s *sheets) { s.deep(maxDepth - 1) }, "", "open/a=1"},
		{"deeper", func(s *sheets) { s.deep(maxDepth) }, "is 33 levels deep", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := soundSheets()
			tc.change(s)
			im := s.image()
			found, err := im.rows()
			if (err == nil) != (tc.want == "") || err != nil && (!strings.Contains(err.Error(), tc.want) || !errors.Is(err, ErrCorrupt)) {
				t.Errorf("it says %v, want %q", err, tc.want)
			}
			saved, damaged, cerr := im.collect(im.metas[0])
			ok(t, cerr)
			if damaged && err == nil {
				t.Error("what is in order is said to be damaged when it is salvaged")
			}
			if got := textOf(saved); tc.rows != "*" && got != tc.rows {
				t.Errorf("saved are %s, want %s", got, tc.rows)
			}
			if err == nil && textOf(found) != textOf(saved) {
				t.Errorf("found are %s, saved %s", textOf(found), textOf(saved))
			}
		})
	}
}

// deep makes the bucket a chain of so many branches above one leaf.
func (s *sheets) deep(branches int) {
	s.pages = map[uint64][]byte{2: freelistOf(), 3: leafOf(3, item{flags: bucketFlag, key: "open", value: bucketAt(4)})}
	last := uint64(4 + branches)
	for id := uint64(4); id < last; id++ {
		s.pages[id] = branchOf(id, item{key: "a", child: id + 1})
	}
	s.pages[last] = leafOf(last, item{key: "a", value: "1"})
	s.meta.high, s.size = last+1, int64(last+1)*pageSize
}

func textOf(rows []write) string {
	var all []string
	for _, r := range rows {
		all = append(all, fmt.Sprintf("%s/%s=%s", r.bucket, r.key, r.value))
	}
	return strings.Join(all, " ")
}

// metaBytes is a meta page with a checksum that holds.
func metaBytes(magic, version uint32, m boltMeta) []byte {
	ne := binary.NativeEndian
	b := ne.AppendUint32(make([]byte, pageHeader), magic)
	b = ne.AppendUint32(b, version)
	b = ne.AppendUint32(b, m.pageSize)
	b = ne.AppendUint32(b, 0)
	for _, n := range []uint64{m.root, 0, m.freelist, m.high, m.txid} {
		b = ne.AppendUint64(b, n)
	}
	h := fnv.New64a()
	h.Write(b[pageHeader:])
	return ne.AppendUint64(b, h.Sum64())
}

func TestMetaPages(t *testing.T) {
	sound := soundSheets().meta
	with := func(change func(*boltMeta)) []byte { return metaBytes(boltMagic, boltVersion, *changed(sound, change)) }
	torn := with(func(*boltMeta) {})
	torn[pageHeader+48]++
	for _, tc := range []struct {
		name string
		page []byte
		err  error
		text string
	}{
		{"sound", with(func(*boltMeta) {}), nil, ""},
		{"another file", metaBytes(1, boltVersion, sound), ErrCorrupt, "not a bbolt file"},
		{"torn", torn, ErrCorrupt, "checksum"},
		{"of a bbolt to come", metaBytes(boltMagic, boltVersion+1, sound), ErrNewer, "bbolt format 3"},
		{"of a bbolt long gone", metaBytes(boltMagic, boltVersion-1, sound), ErrCorrupt, "bbolt format 1"},
		{"of smaller pages", with(func(m *boltMeta) { m.pageSize = 512 }), errLie, "pages of 512 bytes"},
		{"of the fewest pages", with(func(m *boltMeta) { m.high = 4 }), nil, ""},
		{"of fewer", with(func(m *boltMeta) { m.high, m.root = 3, 2 }), errLie, "of 3 pages"},
		{"of the most pages", with(func(m *boltMeta) { m.high = maxFile / pageSize }), nil, ""},
		{"of more", with(func(m *boltMeta) { m.high = maxFile/pageSize + 1 }), errLie, "pages"},
		{"whose root is the last page", with(func(m *boltMeta) { m.root = m.high - 1 }), nil, ""},
		{"whose root is past it", with(func(m *boltMeta) { m.root = m.high }), errLie, "root 8"},
		{"whose freelist is the last page", with(func(m *boltMeta) { m.freelist = m.high - 1 }), nil, ""},
		{"whose freelist is past it", with(func(m *boltMeta) { m.freelist = m.high }), errLie, "freelist 8"},
		{"cut off", torn[:pageHeader+metaSize-1], ErrCorrupt, "not to be read"},
	} {
		im := &image{r: bytes.NewReader(tc.page)}
		m, err := im.readMeta(0)
		if !errors.Is(err, tc.err) || err != nil && !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.err)
		}
		if errors.Is(err, errLie) != errors.Is(tc.err, errLie) {
			t.Errorf("%s: %v: would bbolt believe it?", tc.name, err)
		}
		if tc.name == "sound" && m != sound {
			t.Errorf("it says %+v, want %+v", m, sound)
		}
	}
}
