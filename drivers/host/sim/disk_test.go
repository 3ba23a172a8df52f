package sim

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"syscall"
	"testing"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

const pools = "/etc/pcidp/config.json"

func replace(path, value, was string) host.Call {
	return host.Call{Op: host.OpReplace, Target: drivers.Target("file/" + path + "#a/b"), Path: path, Value: value, Was: was}
}

func syncOf(path string) host.Call { return host.Call{Op: host.OpSync, Path: path} }

// holds checks a file's content, byte for byte; "" is that it is not there.
func (h hands) holds(path, want string) {
	h.Helper()
	got, err := h.File(context.Background(), path)
	if want == "" && errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil || got != want {
		h.Errorf("%s is %q (%v), want %q", path, got, err, want)
	}
}

// TestPowerCutLosesWhatIsNotSynced: a replaced file is seen at once, and
// survives a power cut when it was synced.
func TestPowerCutLosesWhatIsNotSynced(t *testing.T) {
	k := New(DefaultNode())
	h := on(t, k)
	h.holds(pools, "")
	h.must(replace(pools, "{}\n", ""))
	h.holds(pools, "{}\n")
	h.reads("{}", pools)
	h.lists("/etc/pcidp", "config.json")
	k.Reboot()
	h.holds(pools, "")
	h.must(replace(pools, "{}\n", ""), syncOf(pools), replace(pools, "[1]", host.Digest("{}\n")))
	c := k.Clone()
	k.Reboot()
	h.holds(pools, "{}\n")
	on(t, c).must(syncOf(pools))
	c.Reboot()
	on(t, c).holds(pools, "[1]")
	h.holds(pools, "{}\n")
}

// TestReplaceCompares: what is not as it was is not replaced.
func TestReplaceCompares(t *testing.T) {
	k := New(DefaultNode())
	h := on(t, k)
	for _, c := range []host.Call{replace(pools, "{}", host.Digest("x")), replace("/etc/machine-id", "{}", "")} {
		if err := h.Do(t.Context(), c); err == nil {
			t.Errorf("%s was made", c)
		}
	}
	h.must(replace(pools, "{}", ""))
	for _, was := range []string{"", host.Digest("{} ")} {
		if err := h.Do(t.Context(), replace(pools, "[]", was)); !errors.Is(err, drivers.ErrChanged) {
			t.Errorf("was %q: %v, want ErrChanged", was, err)
		}
	}
	h.wants(syscall.ENOENT, replace("/nowhere/x.json", "{}", ""))
	if err := k.WriteFile(pools, "theirs"); err != nil {
		t.Fatal(err)
	}
	if err := h.Do(t.Context(), replace(pools, "[]", host.Digest("{}"))); !errors.Is(err, drivers.ErrChanged) {
		t.Errorf("%v, want ErrChanged", err)
	}
	k.Reboot()
	h.holds(pools, "theirs")
	if err := k.RemoveFile(pools); err != nil {
		t.Fatal(err)
	}
	h.holds(pools, "")
	h.missing(pools)
	if err := k.WriteFile("/nowhere/x.json", ""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// TestFilesOfTheConfig are there at the first boot; those that are no JSON
// cannot be written, and read as they always did.
func TestFilesOfTheConfig(t *testing.T) {
	c := DefaultNode()
	c.Files = map[string]string{"/srv/dp/a.json": "{}\r\n", "/etc/x": "text"}
	path := filepath.Join(t.TempDir(), "state")
	if err := Create(path, c); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	h := on(t, f)
	h.holds("/srv/dp/a.json", "{}\r\n")
	h.holds("/etc/x", "text\n")
	h.must(replace("/srv/dp/a.json", "[]", host.Digest("{}\r\n")), syncOf("/srv/dp/a.json"))
	h.wants(syscall.ENOENT, replace("/etc/x", "[]", ""))
	if err := f.Reboot(); err != nil {
		t.Fatal(err)
	}
	h.holds("/srv/dp/a.json", "[]")
	if _, err := f.File(t.Context(), host.Attr(vf0, "driver")); !errors.Is(err, syscall.ELOOP) {
		t.Errorf("a link: %v", err)
	}
	if _, err := f.File(t.Context(), "/etc"); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("a directory: %v", err)
	}
}
