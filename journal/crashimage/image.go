package crashimage

import (
	"fmt"
	"hash/maphash"
	"iter"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	sector = 512
	page   = 4096
)

// Choice says which images there shall be.
type Choice struct {
	// Each bounds the images of one moment; 0 is all, up to 2^10
	// combinations. Nothing lost and all
	// lost are always among them.
	Each int
	Seed uint64 // of the choice, where there is one
	From int    // the first moment: after so many events
	// Durable are files whose changes are taken as durable at once: what is in
	// them means nothing after a crash.
	Durable []string
}

// maxSubsets is where all combinations become too many, and some are drawn.
const maxSubsets = 1 << 10

// Image is what a crash left. Sure and Said are numbers of marks: at every
// moment at which a crash leaves these very files, at least Sure marks had been
// made, and at the earliest of them Said had.
type Image struct {
	Sure, Said int
	Lost       string // for people: the moment, and what did not get to the disk

	disk disk
}

// disk is files and directories, by node.
type disk []content

type content struct {
	dir     bool
	data    []byte // up to the last byte written; the rest is zeros
	size    int64
	entries map[string]int
}

// on is the disk with the change made. What is shared with d is not written.
func (d disk) on(o *op, from, to int) disk {
	c := d[o.node]
	switch o.kind {
	case opWrite:
		data := make([]byte, max(len(c.data), int(o.off)+to))
		copy(data, c.data)
		copy(data[int(o.off)+from:], o.data[from:to])
		c.data, c.size = data, max(c.size, o.off+int64(to))
	case opSize:
		c.size = o.size
		c.data = c.data[:min(int64(len(c.data)), o.size)]
	case opGrow:
		c.size = max(c.size, o.size)
	case opName, opUnname:
		c.entries = maps.Clone(c.entries)
		if c.entries == nil {
			c.entries = map[string]int{}
		}
		delete(c.entries, o.gone)
		delete(c.entries, o.name)
		if o.kind == opName {
			c.entries[o.name] = o.to
		}
	}
	d = slices.Clone(d)
	d[o.node] = c
	return d
}

func (d disk) whole(o *op) disk { return d.on(o, 0, len(o.data)) }

// sum names the files and what is in them, as far as they have a name.
func (d disk) sum(seed maphash.Seed) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	_ = d.walk("", 0, func(path string, node int) error {
		c := d[node]
		fmt.Fprintf(&h, "%s %t %d %x\n", path, c.dir, c.size, maphash.Bytes(seed, trim(c.data)))
		return nil
	})
	return h.Sum64()
}

// trim leaves away zeros at the end, which are there when not written, too.
func trim(b []byte) []byte {
	for len(b) > 0 && b[len(b)-1] == 0 {
		b = b[:len(b)-1]
	}
	return b
}

func (d disk) walk(path string, node int, fn func(path string, node int) error) error {
	if err := fn(path, node); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(d[node].entries)) {
		if err := d.walk(filepath.Join(path, name), d[node].entries[name], fn); err != nil {
			return err
		}
	}
	return nil
}

// Write makes the image below dir, which is made if it is not there. Two names
// of one file stay that.
func (im Image) Write(dir string) error {
	first := map[int]string{}
	return im.disk.walk(dir, 0, func(path string, node int) error {
		c := im.disk[node]
		switch {
		case c.dir:
			return os.MkdirAll(path, 0o700)
		case first[node] != "":
			return os.Link(first[node], path)
		}
		first[node] = path
		if err := os.WriteFile(path, c.data, 0o600); err != nil {
			return err
		}
		return os.Truncate(path, c.size)
	})
}

// moment is the state between two events.
type moment struct {
	durable disk
	pending []*op
	names   []string // of pending, for people
	marks   int
	after   string
}

// moments replays the recording.
func (r *Recording) moments(from int, durable []string) iter.Seq[moment] {
	return func(yield func(moment) bool) {
		m := moment{durable: make(disk, len(r.nodes)), after: "nothing"}
		for i, dir := range r.nodes {
			m.durable[i].dir = dir
		}
		if from == 0 && !yield(m) {
			return
		}
		for i, e := range r.Events {
			if e.op != nil && slices.Contains(durable, e.Path) {
				m.durable = m.durable.whole(e.op)
				continue
			}
			m.next(e)
			if i+1 >= from && !yield(m) {
				return
			}
		}
	}
}

func (m *moment) next(e Event) {
	m.after = e.Text
	switch {
	case e.Mark != "":
		m.marks++
	case e.Sync:
		var pending []*op
		var names []string
		for i, o := range m.pending {
			if o.node == e.node {
				m.durable = m.durable.whole(o)
			} else {
				pending, names = append(pending, o), append(names, m.names[i])
			}
		}
		m.pending, m.names = pending, names
	default:
		m.pending = append(slices.Clip(m.pending), e.op)
		m.names = append(slices.Clip(m.names), e.Text)
	}
}

// Kill is a recording that ends after so many events, with the program killed:
// what it did is there, as later programs see it, but not durable. The files
// are made in dir, where the next program is recorded.
func (r *Recording) Kill(events int, dir string) (*Recording, error) {
	c := New(dir)
	c.Events, c.nodes = slices.Clone(r.Events[:events]), slices.Clone(r.nodes)
	var last moment
	for m := range c.moments(0, nil) {
		last = m
	}
	for _, o := range last.pending {
		last.durable = last.durable.whole(o)
	}
	seen := last.durable
	err := seen.walk("", 0, func(path string, node int) error {
		c.paths[filepath.Join(c.dir, path)] = node
		return nil
	})
	if err == nil {
		err = Image{disk: seen}.Write(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("make what a kill leaves: %w", err)
	}
	return c, nil
}

// cut is one way to lose things: the changes that are kept, and of one of them
// only some sectors.
type cut struct {
	kept     []bool
	torn     int // index, -1 for none
	from, to int
}

// cuts are the ways at one moment: the plainest, and all others.
func (m *moment) cuts(rnd *rand.Rand) (plain []cut, others iter.Seq[cut]) {
	n := len(m.pending)
	add := func(kept func(i int) bool) {
		c := cut{kept: make([]bool, n), torn: -1}
		for i := range n {
			c.kept[i] = kept(i)
		}
		plain = append(plain, c)
	}
	add(func(int) bool { return true })
	add(func(int) bool { return false })
	for one := range n {
		add(func(i int) bool { return i == one })
		add(func(i int) bool { return i != one })
	}
	return plain, func(yield func(cut) bool) {
		if !m.tears(plain[0].kept, 0, yield) {
			return
		}
		for kept := range subsets(n, rnd) {
			if !yield(cut{kept, -1, 0, 0}) || !m.tears(kept, m.last(kept), yield) {
				return
			}
		}
	}
}

// last is the last write that is kept: those before it are whole.
func (m *moment) last(kept []bool) int {
	for i, o := range slices.Backward(m.pending) {
		if kept[i] && o.kind == opWrite {
			return i
		}
	}
	return len(kept)
}

// tears are the ways to tear one of the kept writes, from the i-th on.
func (m *moment) tears(kept []bool, i int, yield func(cut) bool) bool {
	for ; i < len(m.pending); i++ {
		o := m.pending[i]
		if !kept[i] || o.kind != opWrite {
			continue
		}
		for at := sector; at < len(o.data); at += step(at, len(o.data)) {
			if !yield(cut{kept, i, 0, at}) || !yield(cut{kept, i, at, len(o.data)}) {
				return false
			}
		}
	}
	return true
}

// step is a sector in the first and the last page of a write, else a page.
func step(at, n int) int {
	if at >= page && at+page < n && at%page == 0 {
		return page
	}
	return sector
}

// subsets of n things: all, or maxSubsets of them.
func subsets(n int, rnd *rand.Rand) iter.Seq[[]bool] {
	return func(yield func([]bool) bool) {
		count := maxSubsets
		if n < 10 {
			count = 1 << n
		}
		for i := range count {
			s := make([]bool, n)
			for b := range s {
				if n < 10 {
					s[b] = i>>b&1 == 1
				} else {
					s[b] = rnd.IntN(2) == 1
				}
			}
			if !yield(s) {
				return
			}
		}
	}
}

// chosen are the cuts that the choice is for.
func (m *moment) chosen(c Choice, rnd *rand.Rand) []cut {
	plain, others := m.cuts(rnd)
	drawn := slices.Collect(others)
	if c.Each > 0 && len(drawn) > c.Each {
		rnd.Shuffle(len(drawn), func(i, j int) { drawn[i], drawn[j] = drawn[j], drawn[i] })
		drawn = drawn[:c.Each]
	}
	return append(plain, drawn...)
}

func (m *moment) disk(c cut) disk {
	d := m.durable
	for i, o := range m.pending {
		switch {
		case !c.kept[i]:
		case i == c.torn:
			d = d.on(o, c.from, c.to)
		default:
			d = d.whole(o)
		}
	}
	return d
}

func (m *moment) lost(c cut) string {
	var lost []string
	for i, name := range m.names {
		switch {
		case !c.kept[i]:
			lost = append(lost, name)
		case i == c.torn:
			lost = append(lost, fmt.Sprintf("%s but for bytes %d to %d", name, c.from, c.to))
		}
	}
	if lost == nil {
		lost = []string{"nothing"}
	}
	return fmt.Sprintf("after %d marks and %s; lost: %s", m.marks, m.after, strings.Join(lost, ", "))
}

// Images are the distinct files that a crash can leave.
func (r *Recording) Images(c Choice) iter.Seq[Image] {
	return func(yield func(Image) bool) {
		// The same files can be left by crashes at several moments. They are
		// looked at once, and must be right for all of them.
		type group struct{ sure, said int }
		seed, groups := maphash.MakeSeed(), map[uint64]*group{}
		each := func(fn func(m *moment, c cut, d disk, sum uint64) bool) {
			rnd := rand.New(rand.NewPCG(c.Seed, 1))
			for m := range r.moments(c.From, c.Durable) {
				for _, cut := range m.chosen(c, rnd) {
					d := m.disk(cut)
					if !fn(&m, cut, d, d.sum(seed)) {
						return
					}
				}
			}
		}
		each(func(m *moment, _ cut, _ disk, sum uint64) bool {
			if g := groups[sum]; g != nil {
				g.sure = m.marks
			} else {
				groups[sum] = &group{m.marks, m.marks}
			}
			return true
		})
		each(func(m *moment, how cut, d disk, sum uint64) bool {
			g := groups[sum]
			if g == nil {
				return true
			}
			delete(groups, sum)
			return yield(Image{Sure: g.sure, Said: g.said, Lost: m.lost(how), disk: d})
		})
	}
}
