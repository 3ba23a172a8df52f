package module

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// configured is a host with nothing but files.
type configured struct {
	host.Reader
	files map[string]string
}

func (c configured) Read(_ context.Context, file string) (string, error) {
	text, ok := c.files[file]
	if !ok {
		return "", fs.ErrNotExist
	}
	return text, nil
}

func (c configured) List(_ context.Context, dir string) (names []string, err error) {
	for file := range c.files {
		if path.Dir(file) == dir {
			names = append(names, path.Base(file))
		}
	}
	if names == nil {
		return nil, fs.ErrNotExist
	}
	return names, nil
}

const (
	kernelRelease = "6.12.0"
	modulesDir    = "/lib/modules/" + kernelRelease + "/"
	lines         = `# a comment
options igb max_vfs=2 \
  debug=3
options  vfio-pci ids="10de:1,  10de:2" disable_vga=1
softdep igb pre: vfio-pci post: uio
softdep i?b post: dca
blacklist dca
install cc /bin/false
install uio /sbin/modprobe --ignore-install uio; logger loaded
	options igb after=1
options igb
nonsense igb x=1
`
)

func withConfig() configured {
	files := map[string]string{
		"/proc/sys/kernel/osrelease": kernelRelease, "/proc/cmdline": `root=/dev/sda igb.late="a b" quiet vfio_pci.disable_idle_d3=1 module_blacklist=bad-one,worse`,
		modulesDir + "modules.dep":     "kernel/igb.ko: kernel/dca.ko\nkernel/dca.ko:\nkernel/vfio-pci.ko:\nkernel/uio.ko:\nkernel/cc.ko:\nkernel/bad_one.ko:",
		modulesDir + "modules.softdep": "softdep igb pre: cc\nsoftdep dca post: cc",
		"/etc/modprobe.d/a.conf":       lines, "/usr/lib/modprobe.d/b.conf": "options igb zz=1",
		"/usr/lib/modprobe.d/a.conf": "options igb hidden=1", "/etc/modprobe.d/c.conf.dpkg-old": "options igb old=1", "/run/modprobe.d/aa.conf": "options igb run=1\r\n",
	}
	return configured{files: files}
}

// TestOptionsAsModprobeHasThem: what each line comes to was seen with modprobe
// of kmod 30 (modprobe -c, and modprobe -D of these modules).
func TestOptionsAsModprobeHasThem(t *testing.T) {
	for _, wrong := range notAsModprobe(t, withConfig()) {
		t.Error(wrong)
	}
}

// TestBrokenReadersOfOptionsAreCaught: the test above notices a reader that takes a
// rule of modprobe's for another. Each is the same reader of what that one would
// have made of the files.
func TestBrokenReadersOfOptionsAreCaught(t *testing.T) {
	const etc, usr = "/etc/modprobe.d/a.conf", "/usr/lib/modprobe.d/a.conf"
	rewritten := func(file, from, to string) func(map[string]string) {
		return func(files map[string]string) { files[file] = strings.Replace(files[file], from, to, 1) }
	}
	for name, breaks := range map[string]func(map[string]string){
		"a line ends at its backslash":    rewritten(etc, "\\\n", "\n"),
		"a name is what it is spelled as": rewritten(etc, "options  vfio-pci", "options  vfio_pci_"),
		"what is quoted is words":         rewritten(etc, "10de:1,  10de:2", "10de:1, 10de:2"),
		"a line that is indented is none": rewritten(etc, "\toptions", "#options"),
		"no file hides another":           func(files map[string]string) { files["/usr/lib/modprobe.d/a2.conf"] = files[usr] },
		"a file may have any name": func(files map[string]string) {
			files["/etc/modprobe.d/old.conf"] = files["/etc/modprobe.d/c.conf.dpkg-old"]
		},
		"directories are read one by one": func(files map[string]string) {
			files["/run/modprobe.d/zz.conf"] = files["/run/modprobe.d/aa.conf"]
			delete(files, "/run/modprobe.d/aa.conf")
		},
		"the command line is not read":           rewritten("/proc/cmdline", "igb.late=", "late="),
		"a value of it ends at a space":          rewritten("/proc/cmdline", `"a b"`, "a"),
		"the first softdep is the kernel's":      rewritten(etc, "softdep igb pre: vfio-pci post: uio\n", ""),
		"the last softdep that matches counts":   rewritten(etc, "softdep igb pre: vfio-pci post: uio\nsoftdep i?b post: dca", "softdep i?b post: dca\nsoftdep igb pre: vfio-pci post: uio"),
		"a softdep of the kernel does not count": rewritten(modulesDir+"modules.softdep", "softdep dca post: cc", ""),
	} {
		c := withConfig()
		breaks(c.files)
		if maps.Equal(c.files, withConfig().files) {
			t.Errorf("%s: the files are the same", name)
		}
		if len(notAsModprobe(t, c)) == 0 {
			t.Errorf("%s: not noticed", name)
		}
	}
}

func notAsModprobe(t *testing.T, c configured) (wrong []string) {
	t.Helper()
	x, err := readIndex(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"igb":      `max_vfs=2   debug=3 after=1 run=1 zz=1 late="a b"`,
		"vfio_pci": `ids="10de:1,  10de:2" disable_vga=1 disable_idle_d3=1`,
		"dca":      "",
	} {
		if got := x.config.optionsOf(name); got != want {
			wrong = append(wrong, fmt.Sprintf("%s is loaded with %q, want %q", name, got, want))
		}
	}
	for name, want := range map[string][]drivers.Target{
		"igb": {"module/dca", "module/vfio_pci", "module/igb", "module/uio"}, // the first softdep that matches, and a file's before the kernel's
		"dca": {"module/dca", "module/cc"},
	} {
		got, err := Closure(t.Context(), c, name)
		// Dependencies first: what dca itself asks for comes after it.
		got = slices.DeleteFunc(got, func(m drivers.Target) bool { return name == "igb" && m == "module/cc" })
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			wrong = append(wrong, fmt.Sprintf("%s: %v\n%s", name, err, diff))
		}
	}
	return wrong
}

// TestWhatIsNotRunIsSaid, and what may not be loaded is refused.
func TestWhatIsNotRunIsSaid(t *testing.T) {
	all, err := Remarks(t.Context(), withConfig(), []drivers.Target{"module/igb", "module/uio"})
	if err != nil || len(all) != 1 || !strings.Contains(all[0], "install uio /sbin/modprobe --ignore-install uio; logger loaded") {
		t.Errorf("it is said: %q (%v)", all, err)
	}
	for name, says := range map[drivers.Target]string{
		"module/cc": "modprobe.d forbids module cc (install cc /bin/false)", "module/bad_one": "module_blacklist",
	} {
		if _, err := Remarks(t.Context(), withConfig(), []drivers.Target{name}); !errors.Is(err, drivers.ErrRefused) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	broken := withConfig()
	if _, err := Remarks(t.Context(), unreadable{broken}, []drivers.Target{"module/igb"}); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("what cannot be read is not said: %v", err)
	}
}

// unreadable is a host whose modprobe.d may not be read.
type unreadable struct{ configured }

func (u unreadable) List(context.Context, string) ([]string, error) { return nil, fs.ErrPermission }

// TestModprobeItself holds the options against the real program's.
func TestModprobeItself(t *testing.T) {
	modprobe, err := exec.LookPath("modprobe")
	if err != nil {
		t.Skip("no modprobe here: install kmod")
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"a.conf": lines, "b.conf": "options igb zz=1\n\\\noptions igb q='x y'\n", "c.txt": "options igb no=1\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command(modprobe, "-C", dir, "-c").Output()
	if err != nil {
		t.Skipf("modprobe -c: %v", err)
	}
	want, got := map[string][]string{}, &config{options: map[string][]string{}, installs: map[string]string{}, denied: map[string]bool{}}
	for line := range strings.Lines(string(out)) {
		if command, rest := cutWord(strings.TrimRight(line, "\n")); command == "options" {
			name, options := cutWord(rest)
			want[name] = append(want[name], options)
		}
	}
	for _, name := range []string{"a.conf", "b.conf"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		got.parse(string(text))
	}
	for _, name := range []string{"igb", "vfio_pci", "uio"} {
		if diff := cmp.Diff(want[name], got.options[name]); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
}
