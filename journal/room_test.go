package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// disk is a small file system that can be full.
type disk struct {
	dir    string
	filler string
}

// eachDisk runs a test on a file system in memory and on one with blocks.
func eachDisk(t *testing.T, mib, inodes int, test func(t *testing.T, d *disk)) {
	t.Parallel()
	t.Run("tmpfs", func(t *testing.T) {
		t.Parallel()
		d := mount(t, "tmpfs", "tmpfs", 0, fmt.Sprintf("mode=755,size=%dm,nr_inodes=%d", mib, inodes))
		test(t, &disk{dir: d, filler: filepath.Join(d, "filler")})
	})
	t.Run("ext4", func(t *testing.T) {
		t.Parallel()
		d := loop(t, mib, inodes)
		test(t, &disk{dir: d, filler: filepath.Join(d, "filler")})
	})
}

// loop mounts an ext4 in a file.
func loop(t *testing.T, mib, inodes int) string {
	t.Helper()
	mkfs := needs(t, "mkfs.ext4")
	image := filepath.Join(memoryDir(t), "image")
	out, err := exec.Command(mkfs, "-q", "-m", "0", "-N", fmt.Sprint(inodes), image, fmt.Sprintf("%dM", mib)).CombinedOutput()
	if err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	dir := openDir(t)
	if out, err := exec.Command("mount", "-o", "loop", image, dir).CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: cannot mount a loop device here: %v: %s", err, out)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// fill leaves so many pages free, as well as the file system can tell.
func (d *disk) fill(t *testing.T, free int) {
	t.Helper()
	f, err := os.OpenFile(d.filler, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	ok(t, err)
	defer func() { _ = f.Close() }()
	page := make([]byte, pageSize)
	pages := 0
	for {
		if _, err := f.WriteAt(page, int64(pages)*pageSize); err != nil {
			wantErr(t, err, syscall.ENOSPC)
			break
		}
		pages++
	}
	if free > pages {
		t.Fatalf("%d pages cannot be left free of %d", free, pages)
	}
	ok(t, errors.Join(f.Truncate(int64(pages-free)*pageSize), f.Sync()))
}

func (d *disk) empty(t *testing.T) {
	t.Helper()
	ok(t, os.RemoveAll(d.filler))
}

// fillNames leaves so many inodes free.
func (d *disk) fillNames(t *testing.T, free int) {
	t.Helper()
	ok(t, os.MkdirAll(d.filler, 0o700))
	var names []string
	for {
		name := filepath.Join(d.filler, fmt.Sprint(len(names)))
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			wantErr(t, err, syscall.ENOSPC)
			break
		}
		names = append(names, name)
	}
	for _, name := range names[:free] {
		ok(t, os.Remove(name))
	}
}

// TestNoRoomAtEveryCommit: wherever in a journal's life the disk is full, that
// change fails and is not there, all before it is, and room is all it takes.
func TestNoRoomAtEveryCommit(t *testing.T) {
	eachDisk(t, 8, 64, func(t *testing.T, d *disk) {
		failed, step := 0, 1
		if !campaign() {
			step = 3
		}
		for free := 0; ; free += step {
			var marks bytes.Buffer
			l := &recordedLife{dir: filepath.Join(d.dir, "state", "journal"), marks: &marks}
			d.fill(t, free)
			l.verbs()
			if l.err == nil {
				break
			}
			failed++
			wantErr(t, l.err, ErrNoSpace)
			if l.j != nil {
				ok(t, l.j.Err())
				l.j.Abandon()
			}
			said := strings.Split(strings.TrimSuffix(marks.String(), "\n"), "\n")
			comesUp(t, l.dir, said[len(said)-1], "still full")
			d.empty(t)
			comesUp(t, l.dir, said[len(said)-1], "with room")
			ok(t, os.RemoveAll(filepath.Dir(l.dir)))
		}
		if failed < 5 {
			t.Errorf("the disk was full %d times only", failed)
		}
		evidence(t, failed, "no room: %s", t.Name())
	})
}

// comesUp opens a journal that ran out of room. One that was never there may
// still have none.
func comesUp(t *testing.T, dir, want, when string) {
	t.Helper()
	j, err := Open(context.Background(), recordedOptions("verbs", dir))
	if want == "" && when == "still full" && errors.Is(err, ErrNoSpace) {
		for _, name := range []string{FileName, FileName + tempSuffix} {
			if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
				t.Fatalf("%s was left behind", name)
			}
		}
		return
	}
	if err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	defer j.Abandon()
	if have := summary(j); want != "" && have != want {
		t.Fatalf("%s: opens as %s\nwant %s", when, have, want)
	}
	if _, degraded := j.Degraded(); degraded {
		t.Fatalf("%s: degraded", when)
	}
	if when == "with room" {
		begin(t, j, 50, "9000")
	}
}

// TestRecoveryOnAFullDisk: what was reserved at creation carries a recovery,
// with no block and no inode free; without a reserve it would not.
func TestRecoveryOnAFullDisk(t *testing.T) {
	const operations = 100
	eachDisk(t, 16, 64, func(t *testing.T, d *disk) {
		for reserve, want := range map[int64]error{0: nil, -1: ErrNoSpace} {
			p := &place{dir: filepath.Join(d.dir, fmt.Sprint("reserve", reserve))}
			fileAt(p)
			j := p.open(t, func(o *Options) { o.Preallocate = reserve })
			for n := range operations {
				begin(t, j, n, "9000")
			}
			ok(t, j.Close())
			full := &disk{dir: d.dir, filler: d.filler + "-blocks"}
			full.fill(t, 0)
			d.fillNames(t, 0)
			if err := recoverAll(t, p, operations); !errors.Is(err, want) {
				t.Errorf("reserve %d: %v, want %v", reserve, err, want)
			}
			full.empty(t)
			d.empty(t)
		}
	})
}

// recoverAll undoes the operations that are open, and begins as many.
func recoverAll(t *testing.T, p *place, operations int) error {
	ctx := context.Background()
	j := p.open(t)
	defer j.Abandon()
	for id := uint64(1); id <= uint64(operations); id++ {
		if _, err := j.Attempt(ctx, id); err != nil {
			return err
		}
		if err := j.Reverting(ctx, id, "EBUSY", false); err != nil {
			return err
		}
		ok(t, j.End(Closing{ID: id, State: Reverted, Count: CountRevert}))
	}
	for n := range operations {
		if _, err := j.Begin(ctx, operation(n, strings.Repeat("x", 1000)), nil); err != nil {
			return err
		}
	}
	return j.Close()
}

// TestNoInodes: with no inode free nothing is made and nothing is spoilt.
func TestNoInodes(t *testing.T) {
	eachDisk(t, 8, 64, func(t *testing.T, d *disk) {
		for name, prepare := range map[string]func(t *testing.T, p *place){
			"creation": func(*testing.T, *place) {},
			"salvage": func(t *testing.T, p *place) {
				j := p.open(t)
				begin(t, j, 1, "9000")
				begin(t, j, 2, "damaged-1")
				ok(t, j.Close())
				ok(t, damage(p.path(), "damaged-1"))
			},
		} {
			p := &place{dir: filepath.Join(d.dir, name, "journal")}
			fileAt(p)
			free := 0
			for ; !opensWithInodes(t, p, d, free, prepare); free++ {
				j := p.open(t) // with room
				if _, degraded := j.Degraded(); degraded != (name == "salvage") {
					t.Fatalf("%s: degraded is %t", name, degraded)
				}
				if name == "salvage" {
					wantOpen(t, j, 1)
				}
				j.Abandon()
				ok(t, os.RemoveAll(filepath.Dir(p.dir)))
			}
			if free == 0 {
				t.Errorf("%s needs no inode", name)
			}
			ok(t, os.RemoveAll(filepath.Dir(p.dir)))
		}
	})
}

// opensWithInodes says whether so many are enough. If not, nothing has changed.
func opensWithInodes(t *testing.T, p *place, d *disk, free int, prepare func(*testing.T, *place)) bool {
	t.Helper()
	prepare(t, p)
	before, _ := os.ReadFile(p.path())
	d.fillNames(t, free)
	defer d.empty(t)
	j, err := p.try()
	if err == nil {
		j.Abandon()
		return true
	}
	wantErr(t, err, ErrNoSpace)
	if after, _ := os.ReadFile(p.path()); !bytes.Equal(after, before) {
		t.Fatalf("with %d inodes free the journal was changed", free)
	}
	return false
}
