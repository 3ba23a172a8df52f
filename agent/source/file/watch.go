package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/fsnotify/fsnotify"
)

// maxLinks is how many symbolic links the kernel follows in one path.
const maxLinks = 40

// watch tells when what a path leads to may have changed. It watches each
// directory that is looked into on the way, from the root and through symbolic
// links. That finds every way to change a file: a write, a rename over it, a
// link swapped under it, a directory replaced above it. When a part of the way
// is missing, the directory it would be in is watched anyway.
type watch struct {
	path  string
	names map[string]bool // what is looked up: directory and name
	dirs  map[string]bool // what it is looked up in
	fs    *fsnotify.Watcher
}

func newWatch(path string) (*watch, error) {
	n, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w%s", path, err, limit(err))
	}
	return &watch{path: path, fs: n}, nil
}

// notice says that the file may have changed or, with err, that it can no
// longer be told whether it does.
type notice struct{ err error }

// run sends notices until ctx ends, after it has said whether it can.
func (w *watch) run(ctx context.Context, watching chan<- error, changed chan notice) {
	// Closing frees descriptors only; there is nothing left to lose.
	defer func() { _ = w.fs.Close() }()
	err := w.install()
	watching <- err
	if err != nil {
		return
	}
	latest(changed, notice{}) // whoever did not wait for it may have read before
	for {
		select {
		case <-ctx.Done():
			return
		case _, open := <-w.fs.Errors:
			if !open {
				return
			}
			// The queue ran over, and events were lost.
			latest(changed, notice{w.install()})
		case e := <-w.fs.Events:
			name := filepath.Clean(e.Name)
			switch {
			case !w.names[name] && !w.dirs[name]:
			case e.Op == fsnotify.Write:
				latest(changed, notice{})
			default:
				latest(changed, notice{w.install()})
			}
		}
	}
}

// latest puts n into the channel's one place, over what nobody has taken.
func latest(changed chan notice, n notice) {
	select {
	case <-changed:
	default:
	}
	changed <- n
}

// install watches the whole way anew. The watches are made anew too: one that
// stayed might be on a directory that has been renamed away.
func (w *watch) install() error {
	for _, dir := range w.fs.WatchList() {
		// It fails when the directory has gone, and the watch with it.
		_ = w.fs.Remove(dir)
	}
	w.names, w.dirs = map[string]bool{}, map[string]bool{}
	var errs []error
	var last error
	way(w.path, func(dir, name string) {
		w.names[filepath.Join(dir, name)] = true
		if w.dirs[dir] {
			return
		}
		w.dirs[dir] = true
		last = w.fs.Add(dir)
		// A directory that vanishes is an event of the one above it.
		if last != nil && !errors.Is(last, fs.ErrNotExist) && !errors.Is(last, fs.ErrPermission) {
			errs = append(errs, last)
		}
	})
	// The directories above may be closed to us, the one with the file may not.
	if errors.Is(last, fs.ErrPermission) {
		errs = append(errs, last)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("watch %s: %w%s", w.path, err, limit(err))
	}
	return nil
}

// way calls visit for each name that is looked up when path is resolved, and
// looks it up after: what visit watches cannot change unseen. It ends where the
// path does, or where a part of it is missing.
func way(path string, visit func(dir, name string)) {
	dir, rest, links := "/", strings.Split(path, "/"), 0
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			dir = filepath.Dir(dir)
			continue
		}
		visit(dir, name)
		here := filepath.Join(dir, name)
		info, err := os.Lstat(here)
		switch {
		case err != nil:
			return
		case info.IsDir():
			dir = here
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(here)
			if links++; err != nil || links > maxLinks {
				return
			}
			if strings.HasPrefix(to, "/") {
				dir = "/"
			}
			rest = append(strings.Split(to, "/"), rest...)
		default:
			return
		}
	}
}

// limit is what to do when the kernel has no more watches to give.
func limit(err error) string {
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return "; raise the sysctl fs.inotify.max_user_watches"
	case errors.Is(err, syscall.EMFILE):
		return "; raise the sysctl fs.inotify.max_user_instances"
	}
	return ""
}
