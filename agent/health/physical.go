package health

import (
	"path"
	"slices"
	"strings"
	"time"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// physical is what is remembered of the physical function of a virtual one.
type physical struct {
	target drivers.Target
	dark   time.Time // since when it has no carrier; zero is never
	bus    counter
}

// physical looks at the physical function of a virtual one, whose device, port
// and place on the bus are the virtual one's too: it has no others.
func (l *look) physical() {
	f := l.record.function
	link, err := l.reader.Readlink(l.ctx, host.Attr(string(f.Target), "physfn"))
	if err != nil {
		return // it is none
	}
	pf := drivers.Target(path.Base(link))
	if l.record.pf.target != pf {
		l.record.pf = physical{target: pf}
	}
	if head, ok := l.readOf(pf, "config"); ok && head == "ffffffff" {
		l.find(Dead, "its physical function %s does not answer, its config space reads as all ones: it fell off the bus, has no power or hangs", pf)
	}
	if l.busErrors(pf, &l.record.pf.bus) {
		l.find(Bus, "PCIe reported uncorrectable errors (AER) of its physical function %s in the last %d minutes: look at the kernel's log", pf, hold/time.Minute)
	}
	if used := f.Up || drivers.Userspace(f.Driver); used && !f.OwnLink {
		l.port(pf)
	}
	slices.SortStableFunc(l.verdict.Findings, func(a, b Finding) int {
		return slices.Index(Reasons(), a.Reason) - slices.Index(Reasons(), b.Reason)
	})
}

// port looks at the link of a physical function, which its virtual ones have
// where theirs is "auto". That it was not set up is only noted: some devices give
// VFs a link all the same.
func (l *look) port(pf drivers.Target) {
	n, err := host.NetdevOf(l.ctx, l.reader, string(pf))
	if err != nil || n.Name == "" {
		return // on another driver, or in another namespace: nothing is known
	}
	carrier, err := n.Attr(l.ctx, l.reader, "carrier")
	if err == nil && strings.TrimSpace(carrier) == "0" {
		told := slices.ContainsFunc(l.verdict.Findings, func(f Finding) bool { return f.Reason == Carrier })
		if l.isDark(&l.record.pf.dark) && !told {
			l.find(Carrier, "its physical function %s has no carrier: look at the cable, the transceiver and the switch", n.Name)
		}
		return
	}
	l.record.pf.dark = time.Time{}
	// The carrier of a netdev that is down is EINVAL (carrier_show of
	// net/core/net-sysfs.c).
	if state, serr := n.Attr(l.ctx, l.reader, "operstate"); err != nil && serr == nil && strings.TrimSpace(state) == "down" {
		l.verdict.Notes = append(l.verdict.Notes, "its physical function "+n.Name+" is down, and with most devices a VF has no link then: ask for up: true of it")
	}
}
