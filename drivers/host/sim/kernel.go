package sim

import (
	"fmt"
	"slices"
	"sync"
)

// Kernel is a simulated kernel in memory. It implements host.Host; its methods
// may be called from any number of goroutines.
type Kernel struct {
	front
	mem memory
}

// New boots a machine. It panics when the Config is one that Validate refuses.
func New(cfg Config) *Kernel {
	if err := cfg.Validate(); err != nil {
		panic(fmt.Sprintf("sim: %v", err))
	}
	return newKernel(newMachine(cfg))
}

func newKernel(m *machine) *Kernel {
	k := &Kernel{mem: memory{machine: m}}
	k.store = &k.mem
	return k
}

// Clone is a deep copy, without Hook and CrashFunc. Writes that have not
// returned go on in both, in the copy with nobody waiting for them.
func (k *Kernel) Clone() *Kernel {
	k.mem.mu.Lock()
	defer k.mem.mu.Unlock()
	return newKernel(k.mem.machine.clone())
}

// Hold makes a DPDK process open a function's vfio group, whenever it has one.
// The process exits when release is called.
func (k *Kernel) Hold(addr string) (release func()) {
	var h hold
	k.change(func(m *machine) {
		h = hold{Address: addr, PID: 100000 + int(m.next())}
		m.Holds = append(m.Holds, h)
	})
	return func() {
		k.change(func(m *machine) {
			m.Holds = slices.DeleteFunc(m.Holds, func(o hold) bool { return o == h })
		})
		k.settle()
	}
}

// Reboot cuts the power and boots again.
func (k *Kernel) Reboot() { k.change((*machine).reboot) }

// Thaw lets the writes go on that a Fault hung.
func (k *Kernel) Thaw() { k.change((*machine).thaw) }

// Writes is how many writes the agent has made, failed ones included.
func (k *Kernel) Writes() (n int) {
	k.change(func(m *machine) { n = m.Count })
	return n
}

// Taint is why the kernel is tainted, by the kernel's names, sorted.
func (k *Kernel) Taint() (names []string) {
	k.change(func(m *machine) { names = slices.Clone(m.Taints) })
	return names
}

// String is all mutable state as sorted lines of text.
func (k *Kernel) String() (s string) {
	k.change(func(m *machine) { s = m.dump() })
	return s
}

// Describe is what the machine has, as a table for people.
func (k *Kernel) Describe() (s string) {
	k.change(func(m *machine) { s = m.describe() })
	return s
}

// change is update without an error: memory has none.
func (k *Kernel) change(fn func(*machine)) {
	_ = k.mem.update(func(m *machine) error {
		fn(m)
		return nil
	})
}

// memory is a store in memory.
type memory struct {
	mu      sync.Mutex // guards what follows
	machine *machine
	wake    chan struct{} // nil while nobody waits
}

func (s *memory) view(fn func(*machine)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle()
	fn(s.machine)
	return nil
}

func (s *memory) update(fn func(*machine) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle()
	err := fn(s.machine)
	s.announce()
	return err
}

func (s *memory) changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wake == nil {
		s.wake = make(chan struct{})
	}
	return s.wake
}

func (s *memory) settle() {
	if s.machine.due() {
		s.machine.settle()
		s.announce()
	}
}

// announce wakes those who wait when the machine has changed.
func (s *memory) announce() {
	if s.machine.dirty && s.wake != nil {
		close(s.wake)
		s.wake = nil
	}
	s.machine.dirty = false
}
