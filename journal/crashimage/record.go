package crashimage

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
)

// MarkFD is where the program writes its marks; the first of Cmd.ExtraFiles.
const MarkFD = 3

// calls are those that change files, or say which file a descriptor is.
const calls = "open,openat,creat,close,dup,dup2,dup3,write,writev,pwrite64,pwritev,pwritev2,truncate,ftruncate,fallocate," +
	"fsync,fdatasync,sync,syncfs,sync_file_range,msync,copy_file_range,sendfile,splice," +
	"rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,mkdir,mkdirat,rmdir"

// Strace is the arguments of strace with which it records what Read reads; the
// program and its arguments follow.
func Strace(trace string) []string {
	return []string{"-f", "-qq", "-xx", "-s", "4194304", "-o", trace, "-e", "signal=none", "-e", "trace=" + calls}
}

// Event is one call of the recording.
type Event struct {
	Text string // for people: "pwrite64 journal.db 4096 at 8192"
	Mark string // what the program said; nothing was changed then
	Path string // the file or the directory, below the recording's
	Sync bool   // what was done to it before is durable now

	node int
	op   *op // a change of node; nil for marks and syncs
}

// op is one change that a crash loses or keeps.
type op struct {
	node int // the file or the directory it is made to
	kind opKind
	off  int64
	data []byte
	size int64
	name string // of a directory's entry
	gone string // the name that a rename takes away
	to   int    // the node that the name stands for
}

type opKind int

const (
	opWrite opKind = iota
	opSize         // set the size
	opGrow         // at least this size
	opName         // an entry is made or moved
	opUnname
)

// Recording is what one program after another did below a directory, which was
// empty and durable before.
type Recording struct {
	Events []Event

	dir   string
	nodes []bool         // is a directory
	paths map[string]int // as the programs see them now
	fds   map[int]int    // of the program that is read
}

// New is the recording of nothing yet, below dir.
func New(dir string) *Recording {
	r := &Recording{dir: filepath.Clean(dir), paths: map[string]int{}}
	r.paths[r.dir] = r.node(true)
	return r
}

func (r *Recording) node(dir bool) int {
	r.nodes = append(r.nodes, dir)
	return len(r.nodes) - 1
}

// Without is the recording of a program that omits the syncs that drop names.
func (r *Recording) Without(drop func(Event) bool) *Recording {
	c := *r
	c.Events = nil
	for _, e := range r.Events {
		if !e.Sync || !drop(e) {
			c.Events = append(c.Events, e)
		}
	}
	return &c
}

// Changes says whether the event changed anything.
func (e Event) Changes() bool { return e.op != nil }

// Marks are what the programs said, in order.
func (r *Recording) Marks() []string {
	var all []string
	for _, e := range r.Events {
		if e.Mark != "" {
			all = append(all, e.Mark)
		}
	}
	return all
}

// line is one line of a trace: a call, or its first or second half.
type line struct{ thread, call, args, result string }

// parse splits a line; ok is false for what tells of exits and signals.
func parse(s string) (l line, ok bool) {
	l.thread, s, _ = strings.Cut(s, " ")
	s = strings.TrimLeft(s, " ")
	if half, unfinished := strings.CutSuffix(s, " <unfinished ...>"); unfinished {
		s = half
	} else {
		i := strings.LastIndex(s, " = ")
		if i < 0 {
			return l, false
		}
		l.result, _, _ = strings.Cut(s[i+len(" = "):], " ")
		s = strings.TrimSuffix(strings.TrimRight(s[:i], " "), ")")
	}
	if half, resumed := strings.CutPrefix(s, "<... "); resumed {
		l.call, l.args, ok = strings.Cut(half, " resumed>")
	} else {
		l.call, l.args, ok = strings.Cut(s, "(")
	}
	return l, ok
}

// Read takes in what strace wrote about one more program. A call that failed
// changed nothing, and one that did not return was not made: a signal that
// strace injects comes before it.
func (r *Recording) Read(trace io.Reader) error {
	r.fds = map[int]int{}
	begun := map[string]string{} // thread -> the arguments of a call that has not returned
	lines := bufio.NewReader(trace)
	for n := 1; ; n++ {
		text, err := lines.ReadString('\n')
		if errors.Is(err, io.EOF) && text == "" {
			return nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read trace: %w", err)
		}
		l, ok := parse(strings.TrimSuffix(text, "\n"))
		if !ok {
			continue
		}
		args := begun[l.thread] + l.args
		if l.result == "" {
			begun[l.thread] = args
			continue
		}
		delete(begun, l.thread)
		value, err := strconv.Atoi(l.result)
		if err != nil || value < 0 {
			continue
		}
		if err := r.call(l.call, strings.Split(args, ", "), value); err != nil {
			return fmt.Errorf("line %d of the trace: %s: %w", n, l.call, err)
		}
	}
}

func (r *Recording) call(name string, args []string, result int) error {
	switch name {
	case "open", "creat":
		return r.open(append([]string{"AT_FDCWD"}, args...), result)
	case "openat":
		return r.open(args, result)
	case "close":
		delete(r.fds, number(args[0]))
	case "write", "pwrite64", "ftruncate", "fallocate", "fsync", "fdatasync":
		return r.file(name, args, result)
	case "rename", "link", "unlink", "mkdir", "rmdir":
		return r.name(name, args)
	case "renameat", "renameat2", "linkat":
		return r.name(strings.TrimSuffix(strings.TrimSuffix(name, "2"), "at"), []string{args[1], args[3]})
	case "unlinkat", "mkdirat":
		return r.name(strings.TrimSuffix(name, "at"), args[1:])
	default:
		return r.foreign(args)
	}
	return nil
}

// foreign is a call without a model, which must not concern this directory.
func (r *Recording) foreign(args []string) error {
	for _, a := range args {
		if strings.HasPrefix(a, `"`) {
			if path, err := unquote(a); err == nil && r.below(path) {
				return fmt.Errorf("changes %s in a way that has no model here", path)
			}
		} else if _, ours := r.fds[number(a)]; ours && number(a) >= 0 {
			return fmt.Errorf("changes descriptor %s in a way that has no model here", a)
		}
	}
	return nil
}

func (r *Recording) below(path string) bool {
	return path == r.dir || strings.HasPrefix(path, r.dir+"/")
}

func (r *Recording) open(args []string, fd int) error {
	path, err := unquote(args[1])
	if err != nil {
		return err
	}
	delete(r.fds, fd)
	if !r.below(path) {
		return nil
	}
	flags := strings.Split(args[2], "|")
	has := func(flag string) bool {
		for _, f := range flags {
			if f == flag {
				return true
			}
		}
		return false
	}
	node, there := r.paths[path]
	if !there {
		if !has("O_CREAT") {
			return fmt.Errorf("opens %s, which nobody made in this recording", path)
		}
		node = r.node(false)
		r.entry("create", path, "", node)
	} else if has("O_TRUNC") {
		r.change("truncate "+r.short(path), path, &op{node: node, kind: opSize})
	}
	r.fds[fd] = node
	return nil
}

// entry gives a name, which may be moved from another one, to a node.
func (r *Recording) entry(verb, path, from string, node int) {
	dir := filepath.Dir(path)
	o := &op{node: r.paths[dir], kind: opName, name: filepath.Base(path), to: node}
	what := verb + " " + r.short(path)
	if from != "" {
		o.gone = filepath.Base(from)
		what = verb + " " + r.short(from) + " to " + r.short(path)
		delete(r.paths, from)
	}
	r.paths[path] = node
	r.change(what, dir, o)
}

func (r *Recording) change(what, path string, o *op) {
	r.Events = append(r.Events, Event{Text: what, Path: r.short(path), node: o.node, op: o})
}

func (r *Recording) short(path string) string {
	if rel, err := filepath.Rel(r.dir, path); err == nil {
		return rel
	}
	return path
}

// file is a call on a descriptor.
func (r *Recording) file(name string, args []string, result int) error {
	fd := number(args[0])
	node, ours := r.fds[fd]
	if name == "write" && fd == MarkFD && !ours {
		mark, err := unquote(args[1])
		r.Events = append(r.Events, Event{Text: "mark", Mark: strings.TrimSuffix(mark, "\n")})
		return err
	}
	if !ours {
		return nil
	}
	path := r.pathOf(node)
	switch name {
	case "fsync", "fdatasync":
		r.Events = append(r.Events, Event{Text: name + " " + r.short(path), Path: r.short(path), Sync: true, node: node})
	case "ftruncate":
		r.change("truncate "+r.short(path), path, &op{node: node, kind: opSize, size: int64(number(args[1]))})
	case "fallocate":
		if args[1] != "0" {
			return fmt.Errorf("mode %s has no model here", args[1])
		}
		r.change("fallocate "+r.short(path), path, &op{node: node, kind: opGrow, size: int64(number(args[2]) + number(args[3]))})
	case "pwrite64":
		data, err := unquote(args[1])
		if err != nil {
			return err
		}
		off := int64(number(args[3]))
		what := fmt.Sprintf("write %s %d at %d", r.short(path), result, off)
		r.change(what, path, &op{node: node, kind: opWrite, off: off, data: []byte(data[:result])})
	default:
		return fmt.Errorf("%s to %s: only writes at an offset have a model here", name, path)
	}
	return nil
}

// pathOf is a name of the node, for people.
func (r *Recording) pathOf(node int) string {
	for path, n := range r.paths {
		if n == node {
			return path
		}
	}
	return filepath.Join(r.dir, "(removed)")
}

// name is a call on names.
func (r *Recording) name(verb string, args []string) error {
	path, err := unquote(args[0])
	if err != nil {
		return err
	}
	var to string
	if verb == "rename" || verb == "link" {
		if to, err = unquote(args[1]); err != nil {
			return err
		}
		if filepath.Dir(path) != filepath.Dir(to) && (r.below(path) || r.below(to)) {
			return fmt.Errorf("%s to %s: only names in one directory have a model here", path, to)
		}
	}
	if !r.below(path) {
		return nil
	}
	node, there := r.paths[path]
	if !there && verb != "mkdir" {
		return fmt.Errorf("%s is of nobody in this recording", path)
	}
	switch verb {
	case "mkdir":
		r.entry(verb, path, "", r.node(true))
	case "rename":
		r.entry(verb, to, path, node)
	case "link":
		r.entry(verb, to, "", node)
	default:
		delete(r.paths, path)
		dir := filepath.Dir(path)
		r.change("remove "+r.short(path), dir, &op{node: r.paths[dir], kind: opUnname, name: filepath.Base(path)})
	}
	return nil
}

// unquote is a string as strace -xx writes it.
func unquote(arg string) (string, error) {
	s, quoted := strings.CutPrefix(arg, `"`)
	s, ended := strings.CutSuffix(s, `"`)
	if !quoted || !ended {
		return "", fmt.Errorf("%.40s is not a whole string", arg)
	}
	b, err := hex.DecodeString(strings.ReplaceAll(s, `\x`, ""))
	if err != nil {
		return "", fmt.Errorf("%.40s is not in hexadecimal: %w", arg, err)
	}
	return string(b), nil
}

// number is an argument that is one, else -1.
func number(arg string) int {
	n, err := strconv.Atoi(arg)
	if err != nil {
		return -1
	}
	return n
}
