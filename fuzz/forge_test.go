package fuzz_test

import (
	"cmp"
	"slices"
	"time"

	"eniagent/drivers"
	"eniagent/journal"
)

// What operations are forged of. The functions are those of sim.DefaultNode.
const (
	port   drivers.Target = "0000:02:00.0" // igb, netdev enp2s0
	vf     drivers.Target = "0000:01:10.0" // igbvf, netdev enp1s0v0
	pf     drivers.Target = "0000:01:00.0" // igb, with two VFs
	mgmt   drivers.Target = "0000:00:05.0" // ena, carries the default route
	bridge drivers.Target = "0000:00:1c.1"
	absent drivers.Target = "0000:ff:00.0"

	noIOMMU drivers.Target = "param/vfio/enable_unsafe_noiommu_mode"
)

func forgedTargets() []drivers.Target {
	return []drivers.Target{
		port, vf, pf, mgmt, bridge, absent,
		"module/vfio_pci", "module/igb_uio", "module/igb", "module/ena", "module/nosuch", noIOMMU, "param/kvm/x", "file//etc/passwd#ro/ot",
	}
}

func forgedKinds() []drivers.Kind {
	return []drivers.Kind{"driver", "mtu", "admin", "module", "noiommu", "pool", "rm"}
}

func forgedStates() []drivers.State {
	return []drivers.State{
		"driver=igb override=-", "driver=vfio-pci override=vfio-pci", "driver=igbvf override=-", "driver=- override=-", "driver=- override=vfio-pci",
		"driver=uio_pci_generic override=uio_pci_generic", "driver=ena override=-", "driver=igb override=vfio-pci", "driver=- override=none",
		drivers.Hidden, "1500", "9000", "4000", "67", "65536", "up", "down", "loaded", "absent", "on", "off",
		"driver=../../../etc override=-", "driver=.. override=..", "driver=module override=-", "driver=igb override=a/b", `driver=- override="\x00"`,
		"driver=igb\n override=-", "", "driver=",
	}
}

const (
	thisBoot    = "boot"
	thisMachine = "m"
)

// pick is one of a list.
func pick[T any](r *reader, of []T) T { return of[r.byte()%len(of)] }

// text is a state of the list, or any bytes.
func (r *reader) state() drivers.State {
	n := r.byte()
	if n < 240 {
		return forgedStates()[n%len(forgedStates())]
	}
	return drivers.State(r.take(n - 240))
}

// operation is any operation that the journal takes, whoever would write it.
// Bit 0 to 6 of its first byte: reverting, other boot, other machine, machine
// unknown, withdrawn, tried in this boot, identities.
func (r *reader) operation(id uint64, identity func(drivers.Target) drivers.Identity) journal.Operation {
	flags, tries := r.byte(), r.byte()
	is := func(bit int) bool { return flags>>bit&1 == 1 }
	op := journal.Operation{
		ID: id, State: journal.Intent, BootID: thisBoot, MachineID: thisMachine, Withdrawn: is(4),
		Reason: journal.Reason{Source: "forged"}, Attempts: tries % 10,
		Created: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Updated: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	if is(0) {
		op.State = journal.Reverting
		op.UndoneAt = r.byte() % (op.Attempts + 1)
	}
	switch most := op.Tries(); tries / 10 % 4 {
	case 0:
		op.Failed = most
	case 1:
		op.Spared = most
	case 2:
		op.Failed, op.Spared = most/2, most/4
	} // else all are crashes
	if is(1) {
		op.BootID = "other boot"
	}
	switch {
	case is(3):
		op.MachineID = ""
	case is(2):
		op.MachineID = "other"
	}
	if is(5) {
		op.TriedIn = thisBoot
	}
	for range 1 + r.byte()%5 {
		c := journal.Change{
			Key:   drivers.Key{Kind: pick(r, forgedKinds()), Target: pick(r, forgedTargets())},
			Class: pick(r, []drivers.Class{drivers.Volatile, drivers.Volatile, drivers.Volatile, drivers.Persistent}), Before: r.state(), After: r.state(),
		}
		op.Changes = append(op.Changes, c)
	}
	slices.SortStableFunc(op.Changes, func(a, b journal.Change) int { return a.Key.Compare(b.Key) })
	op.Changes = slices.CompactFunc(op.Changes, func(a, b journal.Change) bool { return a.Key == b.Key })
	if is(6) {
		op.Identity = map[drivers.Target]drivers.Identity{}
		for _, t := range op.Targets() {
			op.Identity[t] = r.spoil(identity(t))
		}
	}
	return op
}

// spoil makes an identity another one, or leaves it.
func (r *reader) spoil(id drivers.Identity) drivers.Identity {
	switch r.byte() % 8 {
	case 0:
		id.Incarnation++
	case 1:
		id.Vendor = "0xffff"
	case 2:
		id.Netdev++
	case 3:
		id = drivers.Identity{}
	case 4:
		id.PF, id.PFIncarnation = port, 77
	}
	return id
}

// script is the bytes that make an operation, for seeds: flags, attempts, and
// the changes.
type script struct {
	flags, attempts byte
	changes         []journal.Change
	then            []byte // what follows: identities
}

func (s script) bytes() []byte {
	b := []byte{s.flags, s.attempts}
	if s.flags&1 == 1 {
		b = append(b, 0)
	}
	b = append(b, byte(len(s.changes)-1))
	for _, c := range s.changes {
		class := byte(0)
		if c.Class == drivers.Persistent {
			class = 3
		}
		b = append(b, at(forgedKinds(), c.Key.Kind), at(forgedTargets(), c.Key.Target), class, at(forgedStates(), c.Before), at(forgedStates(), c.After))
	}
	return append(b, s.then...)
}

// at is where a word is in its list; one that is not there is a mistake in a
// seed.
func at[T cmp.Ordered](list []T, word T) byte {
	i := slices.Index(list, word)
	if i < 0 {
		panic("no such word to forge of")
	}
	return byte(i)
}

func change(k drivers.Kind, t drivers.Target, before, after drivers.State) journal.Change {
	return journal.Change{Key: drivers.Key{Kind: k, Target: t}, Class: drivers.Volatile, Before: before, After: after}
}
