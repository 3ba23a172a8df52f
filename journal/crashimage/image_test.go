package crashimage_test

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"eniagent/journal/crashimage"
)

// trace writes calls as strace -xx does: 'strings' in hexadecimal.
func trace(calls ...string) string {
	var b strings.Builder
	for _, c := range calls {
		parts := strings.Split(c, "'")
		for i := 1; i < len(parts); i += 2 {
			x := hex.EncodeToString([]byte(parts[i]))
			var q strings.Builder
			for ; x != ""; x = x[2:] {
				q.WriteString(`\x` + x[:2])
			}
			parts[i] = `"` + q.String() + `"`
		}
		fmt.Fprintf(&b, "%s\n", strings.Join(parts, ""))
	}
	return b.String()
}

// edit is how a file is replaced: temporary file, sync, rename, sync of the
// directory. A second thread is in the middle of a call now and then.
func edit() []string {
	return []string{
		`7 openat(AT_FDCWD, '/d/conf.new', O_WRONLY|O_CREAT|O_EXCL|O_CLOEXEC, 0644) = 4`,
		`8 openat(AT_FDCWD, '/etc/other', O_RDONLY <unfinished ...>`,
		`7 pwrite64(4, 'new text', 8, 0)        = 8`,
		`8 <... openat resumed>)                = 5`,
		`7 fsync(4 <unfinished ...>`,
		`8 fsync(5)                              = 0`,
		`8 openat(AT_FDCWD, '/d/none', O_RDONLY) = -1 ENOENT (No such file or directory)`,
		`7 <... fsync resumed>)                  = 0`,
		`7 close(4)                              = 0`,
		`7 renameat(AT_FDCWD, '/d/conf.new', AT_FDCWD, '/d/conf') = 0`,
		`7 openat(AT_FDCWD, '/d', O_RDONLY|O_CLOEXEC) = 4`,
		`7 fsync(4)                              = 0`,
		`7 write(3, 'saved` + "\n" + `', 6)      = 6`,
		`8 +++ exited with 0 +++`,
	}
}

func read(t *testing.T, calls ...string) *crashimage.Recording {
	t.Helper()
	r := crashimage.New("/d")
	if err := r.Read(strings.NewReader(trace(calls...))); err != nil {
		t.Fatal(err)
	}
	return r
}

// images are all of a recording: marks, and the names with what is in them.
func images(t *testing.T, r *crashimage.Recording) []string {
	t.Helper()
	var all []string
	for im := range r.Images(crashimage.Choice{}) {
		dir := t.TempDir()
		if err := im.Write(dir); err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf("%d-%d", im.Said, im.Sure)
		for _, e := range entries {
			b, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			text += fmt.Sprintf(" %s=%q", e.Name(), b)
		}
		all = append(all, text)
	}
	slices.Sort(all)
	return all
}

func TestImages(t *testing.T) {
	for name, tc := range map[string]struct {
		drop string // the sync that is omitted
		want []string
	}{
		"as it should be": {"none", []string{
			`0-0`, `0-0 conf.new=""`, `0-0 conf.new="new text"`, `0-1 conf="new text"`,
		}},
		"no sync of the file": {"fsync conf.new", []string{
			`0-0`, `0-0 conf.new=""`, `0-0 conf.new="new text"`, `0-1 conf=""`, `0-1 conf="new text"`,
		}},
		"no sync of the directory": {"fsync .", []string{
			`0-1`, `0-1 conf.new="new text"`, `0-0 conf.new=""`, `0-1 conf="new text"`,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r := read(t, edit()...)
			have := images(t, r.Without(func(e crashimage.Event) bool { return e.Text == tc.drop }))
			slices.Sort(tc.want)
			if !slices.Equal(have, tc.want) {
				t.Errorf("have %q\nwant %q", have, tc.want)
			}
		})
	}
}

// TestTornWrites: either side of each sector's edge may be missing.
func TestTornWrites(t *testing.T) {
	body := strings.Repeat("a", 512) + strings.Repeat("b", 512) + strings.Repeat("c", 10)
	r := read(t,
		`7 openat(AT_FDCWD, '/d/f', O_WRONLY|O_CREAT, 0644) = 4`,
		`7 openat(AT_FDCWD, '/d', O_RDONLY) = 5`,
		`7 fsync(5) = 0`,
		`7 ftruncate(4, 1034) = 0`,
		`7 fsync(4) = 0`,
		`7 pwrite64(4, '`+body+`', 1034, 0) = 1034`,
	)
	blank := strings.Repeat("\x00", 1034)
	want := []string{`0-0`, `0-0 f=""`, fmt.Sprintf("0-0 f=%q", blank), fmt.Sprintf("0-0 f=%q", body)}
	for _, at := range []int{512, 1024} {
		want = append(want, fmt.Sprintf("0-0 f=%q", body[:at]+blank[at:]), fmt.Sprintf("0-0 f=%q", blank[:at]+body[at:]))
	}
	slices.Sort(want)
	if have := images(t, r); !slices.Equal(have, want) {
		t.Errorf("have %q\nwant %q", have, want)
	}
}

// TestKill: what a killed program wrote is there, and not durable.
func TestKill(t *testing.T) {
	r := read(t, edit()...)
	dir := t.TempDir()
	k, err := r.Kill(len(r.Events)-2, dir) // the sync of the directory and the mark
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "conf")); err != nil || string(b) != "new text" {
		t.Fatalf("%q, %v", b, err)
	}
	if err := k.Read(strings.NewReader(trace(
		`9 openat(AT_FDCWD, '`+dir+`/conf', O_RDWR) = 4`,
		`9 pwrite64(4, 'NEW', 3, 0) = 3`,
		`9 fdatasync(4) = 0`,
		`9 write(3, 'saved', 5) = 5`))); err != nil {
		t.Fatal(err)
	}
	have := images(t, k)
	for _, want := range []string{`0-1 conf.new="NEW text"`, `0-1 conf="NEW text"`} {
		if !slices.Contains(have, want) {
			t.Errorf("have %q\nwant %s", have, want)
		}
	}
}

// TestNoModel: a call that the model does not know is not passed over.
func TestNoModel(t *testing.T) {
	for _, call := range []string{
		`7 renameat(AT_FDCWD, '/d/f', AT_FDCWD, '/e/f') = 0`,
		`7 symlinkat('/x', AT_FDCWD, '/d/l') = 0`,
		`7 write(4, 'x', 1) = 1`,
		`7 fallocate(4, FALLOC_FL_PUNCH_HOLE|FALLOC_FL_KEEP_SIZE, 0, 1) = 0`,
		`7 copy_file_range(4, NULL, 9, NULL, 1, 0) = 1`,
		`7 truncate('/d/f', 0) = 0`,
		`7 pwrite64(4, 'x'..., 1, 0) = 1`,
		`7 openat(AT_FDCWD, '/d/unknown', O_RDWR) = 4`,
	} {
		r := crashimage.New("/d")
		err := r.Read(strings.NewReader(trace(`7 openat(AT_FDCWD, '/d/f', O_WRONLY|O_CREAT, 0644) = 4`, call)))
		if err == nil {
			t.Errorf("%s is believed", call)
		}
	}
}
