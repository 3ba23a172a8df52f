package sim

import (
	"hash/fnv"
	"slices"
	"strings"
	"syscall"

	"eniagent/drivers/host"
)

// kind is what a place in the virtual file system is.
type kind uint8

const (
	kindFile kind = iota
	kindDir
	kindLink
	kindDevice // a character device
)

// node is a place in the virtual file system, made when a path leads there.
type node struct {
	kind  kind
	text  string // of a file, or of a link
	inode uint64 // 0: follows from the path

	// Of a directory: the names it may have, and what a name is. Names that
	// open does not know are not there.
	names func() []string
	open  func(name string) (node, bool)

	// Of an attribute.
	errno    syscall.Errno // that reading it fails with
	locks    bool          // reading it takes the device_lock of function
	store    act           // what writing it does; "" is read-only
	function *function
	driver   string
	module   string
	param    string
}

func textNode(s string) (node, bool) { return node{text: s}, true }

func linkNode(from, to string) (node, bool) {
	return node{kind: kindLink, text: relative(from, to)}, true
}

func dirNode(names func() []string, open func(string) (node, bool)) node {
	return node{kind: kindDir, names: names, open: open}
}

// linksNode is a directory of links, from its own path to what target says of
// a name.
func linksNode(dir string, names []string, target func(string) string) node {
	return dirNode(func() []string { return names }, func(name string) (node, bool) {
		if !slices.Contains(names, name) {
			return node{}, false
		}
		return linkNode(dir, target(name))
	})
}

// filesNode is a directory of read-only files.
func filesNode(names []string, text func(string) (string, bool)) node {
	return dirNode(func() []string { return names }, func(name string) (node, bool) {
		s, ok := text(name)
		return node{text: s}, ok
	})
}

// place is a node on the way that a path leads.
type place struct {
	name string
	node node
}

// resolve walks a path, following links on the way, and the last one if follow.
func (m *machine) resolve(path string, follow bool) (node, syscall.Errno) {
	if n, ok := m.attribute(path); ok && (n.kind != kindLink || !follow) {
		return n, 0
	}
	way, errno := m.walk(path, follow)
	if errno != 0 {
		return node{}, errno
	}
	return way[len(way)-1].node, 0
}

// attribute is a short way to what is read most: an attribute of a function.
func (m *machine) attribute(path string) (node, bool) {
	rest, ok := strings.CutPrefix(path, host.PCIDevices)
	addr, name, deep := strings.Cut(rest, "/")
	if !ok || !deep || strings.Contains(name, "/") || strings.HasPrefix(name, ".") {
		return node{}, false
	}
	f := m.find(addr)
	if f == nil {
		return node{}, false
	}
	return m.functionNode(f).open(name)
}

// maxLinks is how many links a path may lead through.
const maxLinks = 40

func (m *machine) walk(path string, follow bool) ([]place, syscall.Errno) {
	rest, absolute := strings.CutPrefix(path, "/")
	if !absolute {
		return nil, syscall.ENOENT
	}
	way := make([]place, 1, 12)
	way[0].node = m.treeNode(m.root)
	for links := 0; rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		switch name {
		case "", ".":
			continue
		case "..":
			way = way[:max(1, len(way)-1)]
			continue
		}
		top := way[len(way)-1].node
		if top.kind != kindDir {
			return nil, syscall.ENOTDIR
		}
		next, ok := top.open(name)
		switch {
		case !ok:
			return nil, syscall.ENOENT
		case next.kind != kindLink || rest == "" && !follow:
			way = append(way, place{name, next})
			continue
		}
		if links++; links > maxLinks {
			return nil, syscall.ELOOP
		}
		if strings.HasPrefix(next.text, "/") {
			way = way[:1]
		}
		rest = next.text + "/" + rest
	}
	return way, 0
}

// treeNode is a place of the unchanging part, with what is mounted there.
func (m *machine) treeNode(t *tree) node {
	var mounted node
	if t.mount != nil {
		var ok bool
		if mounted, ok = t.mount(m); !ok && t.kids == nil {
			return node{kind: kindDir, inode: missing}
		}
		if ok && mounted.kind != kindDir {
			return mounted
		}
	}
	if t.file {
		return node{text: t.text}
	}
	return dirNode(func() []string {
		var names []string
		for name := range t.kids {
			names = append(names, name)
		}
		if mounted.names != nil {
			names = append(names, mounted.names()...)
		}
		return names
	}, func(name string) (node, bool) {
		if kid := t.kids[name]; kid != nil {
			if n := m.treeNode(kid); n.inode != missing {
				return n, true
			}
		}
		if mounted.open != nil {
			return mounted.open(name)
		}
		return node{}, false
	})
}

// missing is the inode of a mount that is not there now.
const missing = ^uint64(0)

// list is the sorted names in a directory.
func (m *machine) list(path string) ([]string, syscall.Errno) {
	n, errno := m.resolve(path, true)
	switch {
	case errno != 0:
		return nil, errno
	case n.kind != kindDir:
		return nil, syscall.ENOTDIR
	}
	names := slices.DeleteFunc(slices.Clone(n.names()), func(name string) bool {
		_, ok := n.open(name)
		return !ok
	})
	slices.Sort(names)
	return slices.Compact(names), 0
}

// inode is the number of a place: a function's own, else one that follows from
// the path.
func (m *machine) inode(path string) (uint64, syscall.Errno) {
	way, errno := m.walk(path, true)
	if errno != 0 {
		return 0, errno
	}
	if n := way[len(way)-1].node.inode; n != 0 {
		return n, 0
	}
	h := fnv.New64a()
	for _, p := range way {
		h.Write([]byte(p.name))
		h.Write([]byte{'/'})
	}
	return h.Sum64() | 1<<63, 0
}

// relative is the text of a link in directory from to a path, as sysfs makes
// it: up to what they share, and down.
func relative(from, to string) string {
	shared := 0
	for i := 0; i < len(from) && i < len(to) && from[i] == to[i]; i++ {
		if from[i] == '/' {
			shared = i
		}
		if i+1 == len(from) && i+1 < len(to) && to[i+1] == '/' {
			shared = i + 1
		}
	}
	up := 0
	if shared < len(from) {
		up = strings.Count(from[shared+1:], "/") + 1
	}
	return strings.Repeat("../", up) + to[shared+1:]
}
