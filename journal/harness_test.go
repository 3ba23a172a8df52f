package journal

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"eniagent/drivers"
)

// childEnv makes the test binary a child process with the role it names.
const childEnv = "JOURNAL_TEST_CHILD"

func TestMain(m *testing.M) {
	if role := os.Getenv(childEnv); role != "" {
		os.Exit(childMain(role, os.Args[1:]))
	}
	flag.Bool("update", false, "write the golden files anew")
	goleak.VerifyTestMain(m)
}

// a place where a journal can be opened again and again.
type place struct {
	open func(t *testing.T, change ...func(*Options)) *Journal
	try  func(change ...func(*Options)) (*Journal, error)
	mem  *Memory // nil for a file
	dir  string
}

func testOptions(change []func(*Options)) Options {
	o := Options{
		Now: clock(), Version: "v1.2.3", MachineID: "m-1", BootID: "boot-1",
		FlushAfter: time.Hour, LockTimeout: time.Minute, ScanTimeout: 5 * time.Minute, Preallocate: -1,
	}
	for _, c := range change {
		c(&o)
	}
	return o
}

// clock ticks a second a call from a fixed time.
func clock() func() time.Time {
	n := 0
	return func() time.Time {
		n++
		return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).Add(time.Duration(n) * time.Second)
	}
}

func filePlace(t *testing.T) *place {
	t.Helper()
	p := &place{dir: filepath.Join(t.TempDir(), "journal")}
	fileAt(p)
	return p
}

// fileAt makes the place one of a file in its directory.
func fileAt(p *place) {
	p.try = func(change ...func(*Options)) (*Journal, error) {
		o := testOptions(change)
		o.Dir = p.dir
		return Open(context.Background(), o)
	}
	p.open = must(p)
}

func memoryPlace() *place {
	p := &place{mem: NewMemory()}
	p.try = func(change ...func(*Options)) (*Journal, error) {
		return OpenMemory(context.Background(), p.mem, testOptions(change))
	}
	p.open = must(p)
	return p
}

func must(p *place) func(t *testing.T, change ...func(*Options)) *Journal {
	return func(t *testing.T, change ...func(*Options)) *Journal {
		t.Helper()
		j, err := p.try(change...)
		if err != nil {
			t.Fatalf("open: %v", err)
		}
		t.Cleanup(j.Abandon)
		return j
	}
}

func (p *place) path() string { return filepath.Join(p.dir, FileName) }

// eachStore runs a test on a file and in memory: one code above both.
func eachStore(t *testing.T, test func(t *testing.T, p *place)) {
	t.Run("file", func(t *testing.T) { test(t, filePlace(t)) })
	t.Run("memory", func(t *testing.T) { test(t, memoryPlace()) })
}

func pci(n int) drivers.Target {
	return drivers.Target(fmt.Sprintf("0000:%02x:%02x.%d", n/256%256, n/8%32, n%8))
}

func mtu(n int) drivers.Key { return drivers.Key{Kind: "mtu", Target: pci(n)} }

// operation changes the MTU of function n.
func operation(n int, after string) Operation {
	return Operation{
		Changes:  []Change{{Key: mtu(n), Class: drivers.Volatile, Before: "1500", After: drivers.State(after)}},
		Identity: map[drivers.Target]drivers.Identity{pci(n): {Vendor: "0x8086", Device: "0x10c9", Incarnation: 4242, Netdev: 7}},
		Reason:   Reason{Source: "file", Object: "/etc/agent/config.yaml", Generation: "g1", Entry: "eth1"},
	}
}

func begin(t *testing.T, j *Journal, n int, after string) Operation {
	t.Helper()
	o, err := j.Begin(context.Background(), operation(n, after), nil)
	if err != nil {
		t.Fatalf("begin %d: %v", n, err)
	}
	return o
}

func finish(t *testing.T, j *Journal, id uint64, s OperationState) {
	t.Helper()
	if err := j.Finish(id, s, "test"); err != nil {
		t.Fatalf("finish %d as %s: %v", id, s, err)
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t *testing.T, err, want error, texts ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
	for _, s := range texts {
		if !strings.Contains(err.Error(), s) {
			t.Fatalf("error %q does not say %q", err, s)
		}
	}
}

func wantOpen(t *testing.T, v View, ids ...uint64) {
	t.Helper()
	var have []uint64
	for _, o := range v.Operations() {
		have = append(have, o.ID)
	}
	if fmt.Sprint(have) != fmt.Sprint(ids) {
		t.Fatalf("open operations %v, want %v", have, ids)
	}
}
