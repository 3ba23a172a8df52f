package journal

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

func TestCreation(t *testing.T) {
	p := filePlace(t)
	p.dir = filepath.Join(p.dir, "deep", "er")
	j := p.open(t, func(o *Options) { o.Preallocate = 0 })
	for path, want := range map[string]fs.FileMode{
		p.dir: fs.ModeDir | 0o700, filepath.Dir(p.dir): fs.ModeDir | 0o755,
		p.path(): 0o600, filepath.Join(p.dir, lockName): 0o600,
	} {
		info, err := os.Lstat(path)
		ok(t, err)
		if info.Mode() != want {
			t.Errorf("%s has mode %v, want %v", path, info.Mode(), want)
		}
	}
	if j.Size() != 4<<20 {
		t.Errorf("%d bytes are reserved", j.Size())
	}
	info, err := os.Stat(p.path())
	ok(t, err)
	if st := info.Sys().(*syscall.Stat_t); st.Blocks*512 < 4<<20 {
		t.Errorf("only %d bytes are allocated", st.Blocks*512)
	}
	m := j.Meta()
	if m.Format != 1 || m.MinReader != 1 || m.MachineID != "m-1" || m.Agent != "v1.2.3" || m.Created.IsZero() {
		t.Errorf("%+v", m)
	}
	if len(j.Warnings()) != 0 {
		t.Errorf("warnings %v", j.Warnings())
	}
}

func TestOpenWithoutCommitChangesNothing(t *testing.T) {
	p := filePlace(t)
	j := p.open(t)
	begin(t, j, 1, "1")
	ok(t, j.Close())
	before := fingerprint(t, p.path())
	ok(t, p.open(t).Close())
	if after := fingerprint(t, p.path()); after != before {
		t.Fatalf("%s became %s", before, after)
	}
}

// fingerprint is a file's bytes, size and times.
func fingerprint(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	ok(t, err)
	info, err := os.Stat(path)
	ok(t, err)
	st := info.Sys().(*syscall.Stat_t)
	return digestText(string(b)) + info.ModTime().String() + time.Unix(st.Ctim.Unix()).String()
}

func TestUnsafePlaces(t *testing.T) {
	uid := os.Geteuid()
	for name, tc := range map[string]struct {
		spoil func(t *testing.T, p *place)
		want  []string
		root  bool
	}{
		"directory mode":    {func(t *testing.T, p *place) { ok(t, os.Chmod(p.dir, 0o755)) }, []string{"mode 0755", "chmod 0700"}, false},
		"parent mode":       {func(t *testing.T, p *place) { ok(t, os.Chmod(filepath.Dir(p.dir), 0o775)) }, []string{"mode 0775", "chmod go-w"}, false},
		"file mode":         {func(t *testing.T, p *place) { ok(t, os.Chmod(p.path(), 0o640)) }, []string{"mode 0640", "chmod 0600"}, false},
		"file links":        {func(t *testing.T, p *place) { ok(t, os.Link(p.path(), p.path()+"2")) }, []string{"2 hard links", "-samefile"}, false},
		"file is link":      {func(t *testing.T, p *place) { link(t, p.path()) }, []string{"symbolic link"}, false},
		"lock is link":      {func(t *testing.T, p *place) { link(t, filepath.Join(p.dir, lockName)) }, []string{"symbolic link"}, false},
		"directory is link": {func(t *testing.T, p *place) { link(t, p.dir) }, []string{"symbolic link", "-moved instead"}, false},
		"parent is link":    {func(t *testing.T, p *place) { link(t, filepath.Dir(p.dir)) }, []string{"symbolic link"}, false},
		"parent is file": {func(t *testing.T, p *place) {
			ok(t, os.RemoveAll(p.dir))
			ok(t, os.WriteFile(p.dir, nil, 0o600))
		}, []string{"not a directory"}, false},
		"file is fifo": {func(t *testing.T, p *place) {
			ok(t, os.Remove(p.path()))
			ok(t, unix.Mkfifo(p.path(), 0o600))
		}, []string{"not a regular file"}, false},
		"directory owner": {func(t *testing.T, p *place) { ok(t, os.Chown(p.dir, 65534, 0)) }, []string{"uid 65534", "chown"}, true},
		"parent owner":    {func(t *testing.T, p *place) { ok(t, os.Chown(filepath.Dir(p.dir), 65534, 0)) }, []string{"uid 65534", "chown root"}, true},
		"file owner":      {func(t *testing.T, p *place) { ok(t, os.Chown(p.path(), 65534, 0)) }, []string{"uid 65534", "chown"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.root && uid != 0 {
				t.Skip("SKIPPED: not root")
			}
			p := filePlace(t)
			p.dir = filepath.Join(p.dir, "state", "journal")
			ok(t, p.open(t).Close())
			tc.spoil(t, p)
			_, err := p.try()
			wantErr(t, err, ErrUnsafe, tc.want...)
			if !strings.Contains(err.Error(), "/") {
				t.Errorf("%v names no path", err)
			}
		})
	}
}

func link(t *testing.T, path string) {
	t.Helper()
	ok(t, os.Rename(path, path+"-moved"))
	ok(t, os.Symlink(path+"-moved", path))
}

func TestStickyParentIsSafe(t *testing.T) {
	p := filePlace(t)
	parent := filepath.Join(p.dir, "tmp")
	ok(t, os.MkdirAll(parent, 0o755))
	ok(t, os.Chmod(parent, 0o777|fs.ModeSticky))
	p.dir = filepath.Join(parent, "journal")
	p.open(t)
}

func TestFileSystems(t *testing.T) {
	for _, tc := range []struct {
		kind    uint32
		refused bool
		warned  bool
	}{
		{unix.NFS_SUPER_MAGIC, true, false},
		{unix.CIFS_SUPER_MAGIC, true, false},
		{unix.TMPFS_MAGIC, false, true},
		{unix.OVERLAYFS_SUPER_MAGIC, false, true},
		{unix.EXT4_SUPER_MAGIC, false, false},
		{unix.XFS_SUPER_MAGIC, false, false},
	} {
		warnings, err := judgeFileSystem("/x", tc.kind)
		if (err != nil) != tc.refused || (len(warnings) > 0) != tc.warned {
			t.Errorf("%#x: %v, %v", tc.kind, warnings, err)
		}
	}
}

func TestLeftoverIsRemoved(t *testing.T) {
	p := filePlace(t)
	ok(t, os.MkdirAll(p.dir, 0o700))
	ok(t, os.WriteFile(p.path()+tempSuffix, []byte("half of a journal"), 0o600))
	p.open(t)
	if _, err := os.Lstat(p.path() + tempSuffix); !os.IsNotExist(err) {
		t.Fatal("still there")
	}
}

func TestReadOnly(t *testing.T) {
	t.Parallel()
	p := filePlace(t)
	_, err := OpenReadOnly(p.path())
	wantErr(t, err, ErrNotExist)
	wantErr(t, err, fs.ErrNotExist)
	empty := filepath.Join(t.TempDir(), "empty")
	ok(t, os.WriteFile(empty, nil, 0o600))
	_, err = OpenReadOnly(empty)
	wantErr(t, err, ErrNotExist)
	_, err = OpenReadOnly(t.TempDir())
	if err == nil {
		t.Fatal("read a directory")
	}

	j := p.open(t)
	o, err := j.Begin(context.Background(), operation(1, "1"), []Baseline{{Key: mtu(1), State: "1500", Class: "volatile"}})
	ok(t, err)
	_, err = OpenReadOnly(p.path())
	wantErr(t, err, ErrLocked)
	finish(t, j, o.ID, Done)
	ok(t, j.Close())
	before := fingerprint(t, p.path())
	s, err := OpenReadOnly(p.path())
	ok(t, err)
	if h := s.History(0); len(h) != 1 || h[0].ID != o.ID {
		t.Fatalf("%+v", h)
	}
	if b, found := s.Baseline(mtu(1)); !found || b.State != "1500" {
		t.Fatal("the baseline of the boot that wrote it is not seen")
	}
	rep, err := Verify(p.path())
	ok(t, err)
	if rep.Records[BucketDone] != 1 || rep.Records[BucketBaseline] != 1 || rep.Sequence != s.Manifest().Sequence {
		t.Fatalf("%+v", rep)
	}
	if after := fingerprint(t, p.path()); after != before {
		t.Fatalf("reading changed the file: %s became %s", before, after)
	}
	// A reader keeps nobody out.
	p.open(t)
}

func TestExport(t *testing.T) {
	eachStore(t, func(t *testing.T, p *place) {
		j := p.open(t)
		begin(t, j, 1, "1")
		var b bytes.Buffer
		ok(t, j.Export(&b))
		lines := strings.Split(strings.TrimSpace(b.String()), "\n")
		if len(lines) != 3 || !strings.Contains(lines[0], "manifest") || !strings.Contains(lines[2], `"bucket":"open","key":"1","record":{"id":1,`) {
			t.Fatal(b.String())
		}
	})
}

func TestWaitsForLock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := filePlace(t)
		j := p.open(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		o := testOptions(nil)
		o.Dir, o.LockTimeout = p.dir, time.Minute
		_, err := Open(ctx, o)
		wantErr(t, err, context.DeadlineExceeded)
		time.AfterFunc(time.Second, j.Abandon)
		k, err := Open(t.Context(), o)
		ok(t, err)
		ok(t, k.Close())
	})
}

// After a panic of bbolt the file is let go of, although its map stays.
func TestPanicLetsGoOfTheFile(t *testing.T) {
	p := filePlace(t)
	j := p.open(t)
	begin(t, j, 1, "1")
	s := j.store.(*boltStore)
	err := guard("commit", func() error { panic("as bbolt does") })
	wantErr(t, err, ErrCorrupt)
	s.dead = true
	_, err = j.Begin(context.Background(), operation(2, "1"), nil)
	wantErr(t, err, ErrIndeterminate)
	wantErr(t, j.Close(), ErrIndeterminate)
	wantOpen(t, p.open(t), 1)
}
