package journal

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// TestErrorsOfThePlace: what the file system refuses is said, and by which step.
func TestErrorsOfThePlace(t *testing.T) {
	occupied := func(t *testing.T, path string) {
		t.Helper()
		ok(t, os.MkdirAll(filepath.Join(path, "occupied"), 0o700)) // no plain remove takes it away
	}
	for _, tc := range []struct {
		name string
		do   func(t *testing.T, dir string) error
		want error
		text string
	}{
		{"a way that is not there", func(_ *testing.T, dir string) error { return syncAbove(dir + "/a/b") }, fs.ErrNotExist, "sync directory"},
		{"a directory that is there", func(_ *testing.T, dir string) error { return makeOne(dir, filepath.Dir(dir), true) }, nil, ""},
		{"a directory in none", func(_ *testing.T, dir string) error { return makeOne(dir+"/a/b", dir, true) }, fs.ErrNotExist, ""},
		{"no file system", func(_ *testing.T, dir string) error { _, err := checkFileSystem(dir + "/a"); return err }, fs.ErrNotExist, "statfs"},
		{"no file to check", func(_ *testing.T, dir string) error { _, err := checkFile(dir + "/a"); return err }, fs.ErrNotExist, ""},
		{"no file to read", func(_ *testing.T, dir string) error { _, err := openRead(dir + "/a"); return err }, ErrNotExist, ""},
		{"a directory to read", func(_ *testing.T, dir string) error { _, err := openRead(dir); return err }, ErrUnsafe, "is not a regular file but d"},
		{"a FIFO to read", func(t *testing.T, dir string) error {
			t.Helper()
			ok(t, syscall.Mkfifo(dir+"/a", 0o600))
			_, err := openRead(dir + "/a")
			return err
		}, ErrUnsafe, "is not a regular file but p"},
		{"no file to copy", func(_ *testing.T, dir string) error { return copyFile(dir+"/a", dir+"/b") }, ErrNotExist, ""},
		{"no file to keep", func(_ *testing.T, dir string) error { return backup(dir+"/a", dir+"/b") }, ErrNotExist, ""},
		{"a copy that is there", func(t *testing.T, dir string) error {
			t.Helper()
			ok(t, os.WriteFile(dir+"/a", nil, 0o600))
			return copyFile(dir+"/a", dir+"/a")
		}, fs.ErrExist, ""},
		{"a leftover that stays, at creation", func(t *testing.T, dir string) error {
			t.Helper()
			occupied(t, dir+"/a"+tempSuffix)
			_, _, err := createTemp(dir+"/a", nil, Options{})
			return err
		}, syscall.ENOTEMPTY, "remove leftover"},
		{"a leftover that stays, at opening", func(t *testing.T, dir string) error {
			t.Helper()
			occupied(t, dir+"/a"+tempSuffix)
			return removeLeftovers(dir + "/a")
		}, syscall.ENOTEMPTY, "remove leftover"},
		{"a leftover that stays, at a copy", func(t *testing.T, dir string) error {
			t.Helper()
			occupied(t, dir+"/a"+tempSuffix)
			return backup(dir+"/a", dir+"/b")
		}, syscall.ENOTEMPTY, ""},
		{"nothing left", func(_ *testing.T, dir string) error { return removeLeftovers(dir + "/a") }, nil, ""},
		{"no directory to look for old ones in", func(_ *testing.T, dir string) error { return pruneAsides(dir+"/a/b", "") }, fs.ErrNotExist, ""},
		{"an old one that stays", func(t *testing.T, dir string) error {
			t.Helper()
			for _, n := range []string{"1", "2", "3", "4"} {
				occupied(t, dir+"/a"+asideSuffix+n)
			}
			return pruneAsides(dir+"/a", dir+"/a"+asideSuffix+"4")
		}, syscall.ENOTEMPTY, "remove the oldest damaged journal"},
		{"another file under its name", func(t *testing.T, dir string) error {
			t.Helper()
			a, err := os.Create(dir + "/a")
			ok(t, err)
			defer func() { ok(t, a.Close()) }()
			ok(t, os.WriteFile(dir+"/b", nil, 0o600))
			info, err := os.Stat(dir + "/b")
			ok(t, err)
			return sameFile(a, info)
		}, ErrUnsafe, "was replaced while it was opened"},
		{"a link to nothing", func(t *testing.T, dir string) error {
			t.Helper()
			ok(t, os.Symlink("nothing", dir+"/a"))
			return makeDir(dir + "/a/b")
		}, ErrUnsafe, "use the directory it points to instead"},
		{"a file that is closed", func(t *testing.T, dir string) error {
			t.Helper()
			a, err := os.Create(dir + "/a")
			ok(t, err)
			ok(t, a.Close())
			return writePID(a)
		}, os.ErrClosed, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := tc.do(t, t.TempDir())
			if !errors.Is(err, tc.want) || (err == nil) != (tc.want == nil) || err != nil && !strings.Contains(err.Error(), tc.text) {
				t.Errorf("it says %v, want %v with %q", err, tc.want, tc.text)
			}
		})
	}
}

func TestErrorsAreExplained(t *testing.T) {
	for _, tc := range []struct{ err, want error }{
		{syscall.EROFS, ErrReadOnly},
		{syscall.EACCES, ErrPermission},
		{syscall.EPERM, ErrPermission},
		{syscall.ENOSPC, ErrNoSpace},
		{syscall.EDQUOT, ErrNoSpace},
	} {
		if err := explain(tc.err); !errors.Is(err, tc.want) || !errors.Is(err, tc.err) {
			t.Errorf("%v: %v", tc.err, err)
		}
	}
	for _, err := range []error{nil, syscall.EIO} {
		if got := explain(err); !errors.Is(got, err) || errors.Is(got, ErrNoSpace) || errors.Is(got, ErrPermission) || errors.Is(got, ErrReadOnly) {
			t.Errorf("%v: %v", err, got)
		}
	}
}

// TestStoreErrors: a store that cannot do a write does none of the commit.
func TestStoreErrors(t *testing.T) {
	p := filePlace(t)
	j := p.open(t)
	s := j.store.(*boltStore)
	err := s.commit([]write{{BucketDone, "a", []byte("1")}, {"no bucket", "b", []byte("2")}})
	wantErr(t, err, berrors.ErrBucketNotFound, `"no bucket/b"`[1:10])
	if v, err := s.get(BucketDone, "a"); err != nil || v != nil {
		t.Errorf("half of it was written: %q, %v", v, err)
	}
	if v, err := s.get("no bucket", "b"); err != nil || v != nil {
		t.Errorf("%q, %v", v, err)
	}
	if s.size() == 0 {
		t.Error("it has no size")
	}
	s.dead = true
	wantErr(t, s.commit(nil), ErrClosed)
	_, err = s.get(BucketDone, "a")
	wantErr(t, err, ErrClosed)
	s.dead = false
	ok(t, os.Remove(s.path))
	wantErr(t, s.commit(nil), ErrRemoved)
	if n := s.size(); n != 0 {
		t.Errorf("what was removed has %d bytes", n)
	}
}

// TestExportOfANewerRecord hands out what it cannot read as it is.
func TestExportOfANewerRecord(t *testing.T) {
	j := memoryPlace().open(t)
	begin(t, j, 1, "a<b>")
	at := slot{BucketOpen, idKey(1)}
	raw := reseal(at.bucket, at.key, j.raw(at), func(h []byte) { h[2] = 2 })
	var known, unknown bytes.Buffer
	ok(t, j.Export(&known))
	j.open.load(at.key, nil, raw)
	ok(t, j.Export(&unknown))
	if s := known.String(); !strings.Contains(s, `"record":{"id":1,`) || strings.Contains(s, `"raw"`) || !strings.Contains(s, "a<b>") {
		t.Error(s)
	}
	if s := unknown.String(); strings.Contains(s, `"record":{"id":1,`) || !strings.Contains(s, `"key":"1","raw":"RUE`) {
		t.Error(s)
	}
	wantErr(t, j.Export(refusing{}), syscall.EPIPE, "export manifest")
}

// refusing is a reader's end that is closed.
type refusing struct{}

func (refusing) Write([]byte) (int, error) { return 0, syscall.EPIPE }

func TestEncodeAndDecodeFromOutside(t *testing.T) {
	j := memoryPlace().open(t)
	begin(t, j, 1, "9000")
	key := idKey(1)
	raw := j.raw(slot{BucketOpen, key})
	o, err := DecodeOperation(BucketOpen, []byte(key), raw)
	if ok(t, err); o.ID != 1 {
		t.Errorf("%+v", o)
	}
	again, err := Encode(BucketOpen, []byte(key), o)
	if ok(t, err); !bytes.Equal(again, raw) {
		t.Error("it is not what it was")
	}
	_, err = DecodeOperation(BucketMeta, []byte(keyMeta), j.raw(slot{BucketMeta, keyMeta}))
	wantErr(t, err, ErrCorrupt, "not an operation")
	_, err = DecodeOperation(BucketOpen, []byte(key), raw[1:])
	wantErr(t, err, ErrCorrupt)
	_, err = Encode(BucketOpen, []byte(key), "an operation")
	wantErr(t, err, ErrInvalid)
	_, err = Encode(BucketOpen, []byte(idKey(2)), o)
	wantErr(t, err, ErrInvalid, "does not belong there")
	_, err = Encode("no bucket", []byte(key), o)
	wantErr(t, err, ErrInvalid, "no record belongs into")
}

func TestNothingToUpgrade(t *testing.T) {
	p := filled(t)
	u, err := PlanUpgrade(p.dir)
	if ok(t, err); u.Needed() || u.From != 1 || u.To != 1 || u.Records < 10 || u.Path != p.path() || u.Backup != "" {
		t.Errorf("%+v", u)
	}
	_, err = PlanUpgrade(filepath.Join(p.dir, "none"))
	wantErr(t, err, ErrNotExist)
}

// TestEachCheckStandsAlone: what the scan does not see is seen before it or
// after it, and what only it sees is believed.
func TestEachCheckStandsAlone(t *testing.T) {
	blind := func(o *Options) { o.Scan = func(context.Context, string) error { return nil } }
	for _, tc := range []struct {
		name     string
		damage   func(t *testing.T, path string)
		with     func(*Options)
		degraded bool
		want     error
	}{
		{"sound", func(*testing.T, string) {}, blind, false, nil},
		{"pages", func(t *testing.T, path string) { t.Helper(); ok(t, os.Truncate(path, 3*pageSize)) }, blind, true, nil},
		{"a record", func(t *testing.T, path string) { t.Helper(); flip(t, path, []byte(`"state":"intent"`)) }, blind, true, nil},
		{"the scan says so", func(*testing.T, string) {}, func(o *Options) {
			o.Scan = func(context.Context, string) error { return syscall.ENOEXEC }
		}, false, syscall.ENOEXEC},
		{"another may read it", func(t *testing.T, path string) { t.Helper(); ok(t, os.Chmod(path, 0o640)) }, blind, false, ErrUnsafe},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := filePlace(t)
			fill(t, p)
			tc.damage(t, p.path())
			j, err := p.try(tc.with)
			if !errors.Is(err, tc.want) || (err == nil) != (tc.want == nil) {
				t.Fatalf("it says %v, want %v", err, tc.want)
			}
			if err != nil {
				return
			}
			defer j.Abandon()
			if _, degraded := j.Degraded(); degraded != tc.degraded {
				t.Errorf("degraded %t, want %t", degraded, tc.degraded)
			}
		})
	}
}

// TestAPanicAtOpeningLetsGoOfTheFile, which bbolt's map would hold on to.
func TestAPanicAtOpeningLetsGoOfTheFile(t *testing.T) {
	p := filePlace(t)
	fill(t, p)
	f, err := os.OpenFile(p.path(), os.O_RDWR, 0)
	ok(t, err)
	defer func() { ok(t, f.Close()) }()
	im, err := readImage(f)
	ok(t, err)
	_, err = f.WriteAt([]byte{0xEE}, int64(im.metas[0].freelist)*pageSize+8) // no freelist any more
	ok(t, err)
	info, err := f.Stat()
	ok(t, err)
	_, err = openBolt(p.path(), info, testOptions(nil).withDefaults())
	wantErr(t, err, ErrCorrupt, "bbolt panicked")
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Errorf("it is still locked: %v", err)
	}
}

// TestReadingLeavesNothingOpen, though it be done again and again.
func TestReadingLeavesNothingOpen(t *testing.T) {
	p := filled(t)
	count := func() int {
		names, err := os.ReadDir("/proc/self/fd")
		ok(t, err)
		return len(names)
	}
	before := count()
	for range 20 {
		_, err := OpenReadOnly(p.path())
		ok(t, err)
	}
	if after := count(); after > before+5 {
		t.Errorf("%d files open, %d before", after, before)
	}
}
