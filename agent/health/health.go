package health

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// Reason is what ails a function, in one word, for metrics.
type Reason string

// The reasons.
const (
	Dead    Reason = "dead"    // the device does not answer: its config space reads as all ones
	Node    Reason = "node"    // the node that programs open is not there
	Group   Reason = "group"   // another function of its IOMMU group keeps programs from it
	Bus     Reason = "bus"     // AER counted uncorrectable errors
	Carrier Reason = "carrier" // the link shall be up and has no carrier
	Speed   Reason = "speed"   // the link had a speed and has none, with a carrier
	Errors  Reason = "errors"  // the link's error counters grow fast
)

// Reasons are all of them.
func Reasons() []Reason { return []Reason{Dead, Node, Group, Bus, Carrier, Speed, Errors} }

const (
	// patience is how long a link that is up may take to get its carrier.
	patience = 5 * time.Second
	// hold is how long a counter that has grown is told of.
	hold = 10 * time.Minute
	// sample is the least time over which error counters are compared, and
	// errorRate how many errors a second are too many.
	sample    = 10 * time.Second
	errorRate = 10
)

// Function is one that is as desired.
type Function struct {
	Target      drivers.Target
	Incarnation uint64 // 0 is unknown
	Driver      string // that it is bound to
	Up          bool   // its link is to be up
	OwnLink     bool   // a virtual one whose link is not that of its physical one
}

// Finding is one thing that ails a function.
type Finding struct {
	Reason Reason
	Text   string // for people; it does not change while the finding stands
}

// Verdict is how a function is.
type Verdict struct {
	Findings []Finding // in the order of Reasons; none is healthy
	Notes    []string  // what a person may want to know of a healthy one
	Again    time.Time // when to look again at the latest; zero is whenever
}

// Monitor remembers what it saw. Its methods may be called at once for
// different functions.
type Monitor struct {
	mu sync.Mutex
	by map[drivers.Target]*record
}

// record is of one function. Only the worker that is on the function uses it;
// what findings hold is guarded by the Monitor.
type record struct {
	function Function
	findings []Finding
	dark     time.Time // since when it has no carrier; zero is never
	pf       physical
	speed    bool // it was known once
	errors   counter
	bus      counter
}

// counter is a count and what became of it.
type counter struct {
	known bool
	value uint64
	at    time.Time // of the value
	grew  time.Time // when it last grew too much
}

// New makes a Monitor that has seen nothing.
func New() *Monitor { return &Monitor{by: map[drivers.Target]*record{}} }

// Keep forgets all functions but those that are still of interest.
func (m *Monitor) Keep(interesting func(drivers.Target) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.by, func(t drivers.Target, _ *record) bool { return !interesting(t) })
}

// Forget forgets a function, because it is not as desired now.
func (m *Monitor) Forget(t drivers.Target) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.by, t)
}

// Ailing is how many functions ail for a reason.
func (m *Monitor) Ailing(reason Reason) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.by {
		if slices.ContainsFunc(r.findings, func(f Finding) bool { return f.Reason == reason }) {
			n++
		}
	}
	return n
}

// Look looks at one function. For one function, one call at a time.
func (m *Monitor) Look(ctx context.Context, r host.Reader, f Function) Verdict {
	m.mu.Lock()
	rec := m.by[f.Target]
	if rec == nil || rec.function != f {
		rec = &record{function: f}
		m.by[f.Target] = rec
	}
	m.mu.Unlock()
	l := look{ctx: ctx, reader: r, record: rec, now: time.Now()}
	if drivers.Userspace(f.Driver) {
		l.device()
		l.node()
		l.group()
	} else {
		l.link()
	}
	l.physical()
	m.mu.Lock()
	defer m.mu.Unlock()
	rec.findings = l.verdict.Findings
	return l.verdict
}

// look is one look at one function.
type look struct {
	ctx     context.Context
	reader  host.Reader
	record  *record
	now     time.Time
	verdict Verdict
}

func (l *look) find(reason Reason, format string, args ...any) {
	l.verdict.Findings = append(l.verdict.Findings, Finding{reason, fmt.Sprintf(format, args...)})
}

// again asks for a further look at a time, or sooner.
func (l *look) again(t time.Time) {
	if l.verdict.Again.IsZero() || t.Before(l.verdict.Again) {
		l.verdict.Again = t
	}
}

// read is an attribute of the function, and whether it could be read.
func (l *look) read(name string) (string, bool) { return l.readOf(l.record.function.Target, name) }

// readOf is an attribute of any function, and whether it could be read.
func (l *look) readOf(t drivers.Target, name string) (string, bool) {
	s, err := l.reader.Read(l.ctx, host.Attr(string(t), name))
	return strings.TrimSpace(s), err == nil
}

// isVF says whether the function is virtual. The vendor and device that a VF's
// config space shows are ffff by the SR-IOV specification (3.4.1.1), dead or not.
func (l *look) isVF() bool {
	_, err := l.reader.Readlink(l.ctx, host.Attr(string(l.record.function.Target), "physfn"))
	return err == nil
}

// device looks at whether the device answers, and what AER has counted.
func (l *look) device() {
	if head, ok := l.read("config"); ok && head == "ffffffff" && !l.isVF() {
		l.find(Dead, "the device does not answer, its config space reads as all ones: it fell off the bus, has no power or hangs")
	}
	if l.busErrors(l.record.function.Target, &l.record.bus) {
		l.find(Bus, "PCIe reported uncorrectable errors (AER) in the last %d minutes: look at the kernel's log", hold/time.Minute)
	}
}

// busErrors says whether AER counted errors of a function lately.
func (l *look) busErrors(t drivers.Target, c *counter) bool {
	total := uint64(0)
	for _, name := range []string{"aer_dev_fatal", "aer_dev_nonfatal"} {
		text, ok := l.readOf(t, name)
		n, counts := totalOf(text)
		if !ok || !counts {
			return false
		}
		total += n
	}
	if c.known && total > c.value {
		c.grew = l.now
	}
	c.known, c.value = true, total
	if c.grew.IsZero() || l.now.Sub(c.grew) >= hold {
		return false
	}
	l.again(c.grew.Add(hold))
	return true
}

// totalOf is the last line of an AER attribute, "TOTAL_ERR_FATAL 0".
func totalOf(text string) (uint64, bool) {
	for line := range strings.SplitSeq(text, "\n") {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok || !strings.HasPrefix(name, "TOTAL_") {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 64)
		return n, err == nil
	}
	return 0, false
}

// group looks for members of the function's IOMMU group that the kernel uses: no
// program can open the group while there is one
// (iommu_group_claim_dma_owner, drivers/iommu/iommu.c).
func (l *look) group() {
	if l.record.function.Driver != "vfio-pci" {
		return
	}
	members, err := host.GroupOf(l.ctx, l.reader, string(l.record.function.Target))
	if err != nil {
		return
	}
	for _, m := range members {
		if !m.Viable() {
			l.find(Group, "no program can open it while %s, which is in its IOMMU group, is on %s: give that one to vfio-pci too, or none", m.Address, m.Driver)
			return
		}
	}
}

// node looks for what a program opens: the node of the function's group, or of
// its uio device. Without a directory to look in nothing is known.
func (l *look) node() {
	address := string(l.record.function.Target)
	if names, err := l.reader.List(l.ctx, host.Attr(address, "uio")); err == nil {
		for _, name := range names {
			if devices, err := l.reader.List(l.ctx, "/dev"); err == nil && !slices.Contains(devices, name) {
				l.find(Node, "/dev/%s is not there, so no program can open the function: is /dev the host's?", name)
			}
		}
		return
	}
	link, err := l.reader.Readlink(l.ctx, host.Attr(address, "iommu_group"))
	nodes, listed := l.reader.List(l.ctx, "/dev/vfio")
	if err != nil || listed != nil {
		return
	}
	group := link[strings.LastIndexByte(link, '/')+1:]
	if !slices.Contains(nodes, group) && !slices.Contains(nodes, "noiommu-"+group) {
		l.find(Node, "/dev/vfio/%s is not there, so no program can open the function: is /dev the host's?", group)
	}
}
