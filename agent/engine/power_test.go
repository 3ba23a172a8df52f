package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"eniagent/drivers"
	"eniagent/drivers/deviceplugin"
	"eniagent/drivers/host"
	"eniagent/journal/crashimage"
)

// recordedVar names the directory in which a re-executed test edits pools.
const recordedVar = "ENGINE_TEST_RECORDED"

// recordedPools are the states that the recorded edits bring a pool to, one
// after another: a new file, another content, the last entry withdrawn.
func recordedPools(t testing.TB) []drivers.State {
	var large []string
	for i := range 40 { // several sectors
		large = append(large, fmt.Sprintf("0000:%02x:00.0", i))
	}
	return []drivers.State{poolOf(t, string(vf)), poolOf(t, large...), poolOf(t, string(port)), deviceplugin.Absent}
}

// onlyLinux is this kernel as a host.
type onlyLinux struct{ host.Linux }

func (onlyLinux) Fenced(drivers.Target) (bool, error) { return false, nil }

// TestRecordedEdits is the life that TestPowerCutOfPools records; alone it
// has nothing to do.
func TestRecordedEdits(t *testing.T) {
	root := os.Getenv(recordedVar)
	if root == "" {
		return
	}
	for _, dir := range []string{"etc", "etc/pcidp"} {
		if err := errors.Join(os.Mkdir(filepath.Join(root, dir), 0o755), syncDir(filepath.Join(root, filepath.Dir(dir)))); err != nil {
			t.Fatal(err)
		}
	}
	marks := os.NewFile(crashimage.MarkFD, "marks")
	d := deviceplugin.New(onlyLinux{host.Linux{Root: root}})
	for i, to := range recordedPools(t) {
		err := d.Apply(context.Background(), poolTarget("ours"), to)
		if err == nil {
			err = d.(drivers.Syncer).Sync(context.Background(), poolTarget("ours"))
		}
		if err == nil {
			_, err = fmt.Fprintln(marks, i)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func recordEdits(t *testing.T) *crashimage.Recording {
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil && os.Getenv("ENIAGENT_REQUIRE_VM") == "1" {
		t.Fatal("no strace; run as root: apt-get install strace")
	}
	if err != nil {
		t.Skip("SKIPPED: no strace; run as root: apt-get install strace")
	}
	root, trace := t.TempDir(), filepath.Join(t.TempDir(), "trace")
	marks, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = marks.Close() }()
	c := exec.Command(strace, append(crashimage.Strace(trace), os.Args[0], "-test.run=^TestRecordedEdits$")...)
	c.Env, c.ExtraFiles = append(os.Environ(), recordedVar+"="+root), []*os.File{marks}
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	f, err := os.Open(trace)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	r := crashimage.New(root)
	if err := r.Read(f); err != nil {
		t.Fatal(err)
	}
	if len(r.Marks()) != len(recordedPools(t)) {
		t.Fatalf("%d marks", len(r.Marks()))
	}
	return r
}

// checkEdits looks at every image: what a power cut leaves is the file before
// the edit that was under way or after it, whole, and what was synced is there.
func checkEdits(t *testing.T, r *crashimage.Recording) (images int, wrong []string) {
	t.Helper()
	states := append([]drivers.State{deviceplugin.Absent}, recordedPools(t)...)
	for im := range r.Images(crashimage.Choice{Each: 40}) {
		images++
		root := filepath.Join(t.TempDir(), "image")
		if err := im.Write(root); err != nil {
			t.Fatal(err)
		}
		got, err := afterCrash(root)
		for n := im.Said; n <= im.Sure; n++ {
			if legal := states[n:min(n+2, len(states))]; err != nil || !slices.Contains(legal, got) {
				wrong = append(wrong, fmt.Sprintf("%s: the pool is %q (%v), want one of %q", im.Lost, got, err, legal))
			}
		}
	}
	return images, wrong
}

// afterCrash reads the pool as the next agent does, and edits it: what a crash
// has left beside it is in nobody's way.
func afterCrash(root string) (drivers.State, error) {
	d := deviceplugin.New(onlyLinux{host.Linux{Root: root}})
	o := d.Observe(context.Background(), poolTarget("ours"))
	if o.Presence != drivers.Present {
		return "", o.Err
	}
	to, err := deviceplugin.Pool{Addresses: []string{"0000:7f:00.0"}}.State()
	if err == nil {
		err = d.Apply(context.Background(), poolTarget("ours"), to)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // the directory itself was not there yet
	}
	left, globErr := filepath.Glob(filepath.Join(root, "etc/pcidp/.*"))
	if len(left) > 0 {
		err = errors.Join(err, fmt.Errorf("left over: %v", left))
	}
	return o.State, errors.Join(err, globErr)
}

// TestPowerCutOfPools: at every moment of an edit of the real file, whatever
// was not synced yet is lost or not, in any combination.
func TestPowerCutOfPools(t *testing.T) {
	r := recordEdits(t)
	images, wrong := checkEdits(t, r)
	for _, w := range wrong[:min(len(wrong), 3)] {
		t.Error(w)
	}
	if images == 0 {
		t.Error("no image was tried")
	}
	t.Logf("evidence: on a disk | crash images of %d recorded system calls (edits of pools) | %d | %d", len(r.Events), images, len(wrong))

	for name, text := range map[string]string{"of the file": "fsync etc/pcidp/.config.json.eniagent", "of the directory": "fsync etc/pcidp"} {
		omitted := r.Without(func(e crashimage.Event) bool { return e.Text == text })
		if len(omitted.Events) == len(r.Events) {
			var syncs []string
			for _, e := range r.Events {
				if e.Sync {
					syncs = append(syncs, e.Text)
				}
			}
			t.Fatalf("there is no sync %s in %s", name, strings.Join(syncs, ", "))
		}
		if _, wrong := checkEdits(t, omitted); len(wrong) == 0 {
			t.Errorf("the sync %s that is left out harms nothing", name)
		}
	}
}
