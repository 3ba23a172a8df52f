package journal

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"eniagent/drivers"
)

// filesDir has whole journals as releases wrote them, and what they hold.
const filesDir = "testdata/files/v1"

// goldenFiles fill the journals in filesDir. Each is opened twice, the second
// time in another boot, so that what outlives a boot is there as well.
func goldenFiles() map[string][2]func(*testing.T, *Journal) {
	ctx := context.Background()
	nothing := func(*testing.T, *Journal) {}
	return map[string][2]func(*testing.T, *Journal){
		"empty": {nothing, nothing},
		"open": {
			func(t *testing.T, j *Journal) {
				begin(t, j, 1, "9000")
				ok(t, j.Note(begin(t, j, 2, "9000").ID, "device or resource busy"))
				ok(t, j.Reverting(ctx, begin(t, j, 3, "9000").ID, "no such device", false))
				ok(t, j.Reverting(ctx, begin(t, j, 4, "9000").ID, "not asked for any more", true))
			},
			func(t *testing.T, j *Journal) {
				for _, id := range []uint64{2, 3} {
					_, err := j.Attempt(ctx, id)
					ok(t, err)
				}
			},
		},
		"quarantine": {
			func(t *testing.T, j *Journal) {
				ok(t, j.Quarantine(ctx, begin(t, j, 1, "9000").ID, "mtu is 4321, which nothing the agent did explains"))
				back := begin(t, j, 2, "9000")
				ok(t, j.Reverting(ctx, back.ID, "busy", false))
				ok(t, j.Quarantine(ctx, back.ID, "gone"))
			},
			nothing,
		},
		"done": {
			func(t *testing.T, j *Journal) {
				finish(t, j, begin(t, j, 1, "9000").ID, Done)
				finish(t, j, begin(t, j, 2, "9000").ID, Reverted)
				odd := begin(t, j, 3, "9000")
				ok(t, j.Quarantine(ctx, odd.ID, "foreign"))
				ok(t, j.Resolve(ctx, odd.ID, "accepted", "root", "it is right so"))
				begin(t, j, 4, "9000")
			},
			func(t *testing.T, j *Journal) { finish(t, j, 4, Superseded) },
		},
		"baselines": {
			func(t *testing.T, j *Journal) {
				file := drivers.Key{Kind: "pool", Target: "file//etc/pcidp/config.json#intel.com/sriov"}
				o, err := j.Begin(ctx, operation(1, "9000"), []Baseline{
					{Key: mtu(1), State: "1500", Class: drivers.Volatile, Incarnation: 4242},
					{Key: mtu(2), State: "1500", Class: drivers.Volatile, Unknown: true},
					{Key: file, State: "absent", Class: drivers.Persistent},
				})
				ok(t, err)
				finish(t, j, o.ID, Done)
			},
			nothing,
		},
		"controls": {
			func(t *testing.T, j *Journal) {
				ok(t, j.SetControl(ctx, Control{Action: "paused", Who: "root", Why: "maintenance"}))
				ok(t, j.SetControl(ctx, Control{Action: "released", Target: pci(1), Who: "root", Facts: map[string]string{"a": "1", "b": ""}}))
			},
			nothing,
		},
		"desired": {
			func(t *testing.T, j *Journal) {
				ok(t, j.SetDesired(ctx, Desired{
					Source: "file", Object: "/etc/agent/config.yaml", Generation: "sha256:00", Document: json.RawMessage(`{"interfaces":[{"name":"eth1","mtu":9000}]}`),
					Goals:      []Goal{{Key: mtu(1), State: "9000", Entry: "name eth1"}, {Key: mtu(2), State: "1500"}},
					Selections: []Selection{{Selector: "name eth1", Target: pci(1), Identity: drivers.Identity{MAC: "02:00:00:00:00:01", Netdev: 7}}},
				}))
				ok(t, j.SetDesired(ctx, Desired{Source: "other"}))
			},
			nothing,
		},
		"failures": {
			func(t *testing.T, j *Journal) {
				until := time.Date(2026, 2, 1, 0, 0, 0, 5000, time.UTC)
				ok(t, j.End(Closing{ID: begin(t, j, 1, "9000").ID, State: Reverted, Outcome: "gave up", Count: CountRevert, Until: until}))
				begin(t, j, 2, "9000")
			},
			func(t *testing.T, j *Journal) {
				ok(t, j.End(Closing{ID: 2, State: Superseded, Outcome: "the boot ended", Count: CountPanic}))
			},
		},
	}
}

// A journal of any release opens, whole, and nothing of it is migrated or lost.
func TestGoldenFiles(t *testing.T) {
	update := flag.Lookup("update").Value.String() == "true"
	for _, name := range slices.Sorted(maps.Keys(goldenFiles())) {
		t.Run(name, func(t *testing.T) {
			if _, err := os.Stat(filepath.Join(filesDir, name+".db.gz")); update && errors.Is(err, os.ErrNotExist) {
				writeGoldenFile(t, name) // never over what a release wrote
			}
			want, err := os.ReadFile(filepath.Join(filesDir, name+".jsonl"))
			ok(t, err)
			path := goldenFile(t, filepath.Join(filesDir, name))
			before := fingerprint(t, path)
			rep, err := Verify(path)
			ok(t, err)
			if len(rep.Unreadable)+len(rep.Warnings)+len(rep.Problems) > 0 {
				t.Errorf("%+v", rep)
			}
			wantText(t, readAll(t, path), string(want))
			if fingerprint(t, path) != before {
				t.Error("reading changed the file")
			}
			goOn(t, path)
			after := readAll(t, path)
			for line := range strings.Lines(string(want)) {
				if !strings.Contains(line, `"key":"manifest"`) && !strings.Contains(after, line) {
					t.Errorf("lost: %s", line)
				}
			}
		})
	}
	files, err := filepath.Glob(filepath.Join(filesDir, "*.db.gz"))
	ok(t, err)
	if len(files) != len(goldenFiles()) {
		t.Errorf("%d files, of which %d are tested", len(files), len(goldenFiles()))
	}
}

// goOn opens a journal for writing, first for nothing, then for an operation.
func goOn(t *testing.T, path string) {
	t.Helper()
	o := testOptions(nil)
	o.Dir = filepath.Dir(path)
	was := readAll(t, path)
	j, err := Open(context.Background(), o)
	ok(t, err)
	ok(t, j.Close())
	wantText(t, readAll(t, path), was)
	j, err = Open(context.Background(), o)
	ok(t, err)
	begin(t, j, 50, "9000")
	if _, degraded := j.Degraded(); degraded || len(j.Warnings())+len(j.Unreadable()) > 0 {
		t.Errorf("degraded %t, warnings %q, unreadable %v", degraded, j.Warnings(), j.Unreadable())
	}
	ok(t, j.Close())
}

func wantText(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// goldenFile is a copy of a golden journal in a place of its own.
func goldenFile(t *testing.T, name string) string {
	t.Helper()
	f, err := os.Open(name + ".db.gz")
	ok(t, err)
	z, err := gzip.NewReader(f)
	ok(t, err)
	b, err := io.ReadAll(z)
	ok(t, errors.Join(err, f.Close()))
	dir := filepath.Join(t.TempDir(), "journal")
	ok(t, os.Mkdir(dir, 0o700))
	path := filepath.Join(dir, FileName)
	ok(t, os.WriteFile(path, b, 0o600))
	return path
}

func writeGoldenFile(t *testing.T, name string) {
	t.Helper()
	o := testOptions(nil)
	o.Dir = filepath.Join(t.TempDir(), "journal")
	for i, fill := range goldenFiles()[name] {
		if i > 0 {
			o.BootID = "boot-2"
		}
		j, err := Open(context.Background(), o)
		ok(t, err)
		fill(t, j)
		ok(t, j.Close())
	}
	keepFile(t, filepath.Join(o.Dir, FileName), filepath.Join(filesDir, name))
}

// keepFile writes a journal, and what it holds, beside the golden ones.
func keepFile(t *testing.T, path, to string) {
	t.Helper()
	b, err := os.ReadFile(path)
	ok(t, err)
	var z bytes.Buffer
	w, err := gzip.NewWriterLevel(&z, gzip.BestCompression)
	ok(t, err)
	_, err = w.Write(b[:pagesInUse(t, path)*pageSize]) // the rest is air
	ok(t, errors.Join(err, w.Close()))
	ok(t, os.MkdirAll(filepath.Dir(to), 0o755))
	ok(t, os.WriteFile(to+".db.gz", z.Bytes(), 0o644))
	ok(t, os.WriteFile(to+".jsonl", []byte(readAll(t, path)), 0o644))
}
