package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"eniagent/journal"
)

// holdings is what a process has of its machine.
type holdings struct{ descriptors, threads, children, kilobytes int }

func holdingsOf(pid int) (h holdings, err error) {
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return h, err
	}
	h.descriptors = len(fds)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return h, err
	}
	for field, to := range map[string]*int{"Threads": &h.threads, "VmRSS": &h.kilobytes} {
		m := regexp.MustCompile(field + `:\s+(\d+)`).FindSubmatch(status)
		if m == nil {
			return h, fmt.Errorf("process %d has no %s", pid, field)
		}
		if *to, err = strconv.Atoi(string(m[1])); err != nil {
			return h, err
		}
	}
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		b, _ := os.ReadFile(list) // a thread may end meanwhile
		h.children += len(strings.Fields(string(b)))
	}
	return h, err
}

// within allows what does not grow with the number of operations: the runtime's
// threads, its heap's slack, a connection that is just being closed.
func (h holdings) within(before holdings) bool {
	return h.descriptors <= before.descriptors+4 && h.children <= before.children && h.threads <= before.threads+8 &&
		h.kilobytes <= before.kilobytes+before.kilobytes/2+16<<10
}

// leavesNothing has one agent carry out many operations.
func leavesNothing(t *testing.T, agent string, operations, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 3))
	n := newSimulated(t, agent)
	n.desire(t, anything(r)...)
	c := n.start(t)
	for range 4 {
		n.toAndFro(t, r) // until every child has been started
	}
	before, err := holdingsOf(c.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	first := n.last()
	for n.last() < first+operations {
		n.toAndFro(t, r)
	}
	var after holdings
	until(t, fmt.Sprintf("holding as much as before, %+v", before), func() bool {
		if after, err = holdingsOf(c.Process.Pid); err != nil {
			t.Fatal(err)
		}
		return after.within(before)
	})
	info, err := os.Stat(filepath.Join(n.state(), "journal", journal.FileName))
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > 8<<20 {
		t.Errorf("the journal grew to %d bytes", info.Size())
	}
	if err := errors.Join(c.Process.Signal(syscall.SIGTERM), c.Wait()); err != nil {
		t.Errorf("stopped agent: %v", err)
	}
	t.Logf("%d operations: from %+v to %+v, journal of %d bytes", n.last()-first, before, after, info.Size())
}

// toAndFro has every function bound to vfio-pci and given back to its kernel driver.
func (n *simulated) toAndFro(t *testing.T, r *rand.Rand) {
	t.Helper()
	for _, bound := range []bool{true, false} {
		var want []ask
		for _, pci := range functions() {
			a := ask{pci: pci, driver: "vfio-pci"}
			if !bound {
				a.driver, a.mtu = kernelDriver(pci), anyMTU(r)
			}
			want = append(want, a)
		}
		n.desire(t, want...)
		until(t, "what is asked", func() bool {
			shown := n.must(t, "sim", "show")
			return !slices.ContainsFunc(want, func(a ask) bool { return a.differs(shown) != "" })
		})
	}
	n.must(t, "status", "--wait", "60s")
}

// last is the newest operation of which the agent told.
func (n *simulated) last() (id uint64) {
	n.hear()
	for promised := range n.promised {
		id = max(id, promised)
	}
	return id
}
