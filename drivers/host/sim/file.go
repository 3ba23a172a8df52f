package sim

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"eniagent/supervise"
)

// poll is how often a File looks whether another process has changed it.
const poll = 20 * time.Millisecond

// formatVersion is the version of the state file.
const formatVersion = 1

// ErrBroken is returned when a state file cannot be read as one.
var ErrBroken = errors.New("not a usable state of a simulated kernel")

// File is a simulated kernel whose state is in a file. It outlives its process,
// and any number of processes share it.
type File struct {
	front
	disk disk
}

// Create boots a machine and writes its state to a new file.
func Create(path string, cfg Config) (err error) {
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	f, err := open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return f.disk.locked(func() error {
		if _, err := os.Lstat(path); err == nil {
			return fmt.Errorf("create %s: %w (remove it to start with a fresh machine)", path, fs.ErrExist)
		}
		return f.disk.save(newMachine(cfg))
	})
}

// Open opens the state that Create wrote.
func Open(path string) (*File, error) {
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	if err := f.disk.view(func(*machine) {}); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func open(path string) (*File, error) {
	lock, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock of simulated kernel: %w", err)
	}
	f := &File{disk: disk{path: path, lock: lock}}
	f.store = &f.disk
	f.CrashFunc = crash
	return f, nil
}

// Close lets go of the files. The simulated kernel runs on.
func (f *File) Close() error { return f.disk.lock.Close() }

// crash kills the agent whose writer this process is, and then this process.
func crash(Point) {
	if agent := os.Getppid(); agent > 1 {
		_ = unix.Kill(agent, unix.SIGKILL)
	}
	_ = unix.Kill(os.Getpid(), unix.SIGKILL)
}

// Reboot cuts the power and boots again.
func (f *File) Reboot() error { return f.change((*machine).reboot) }

// Thaw lets the writes go on that a Fault hung.
func (f *File) Thaw() error { return f.change((*machine).thaw) }

// Hold makes a process hold a function's vfio group open, until it exits or
// Release is called.
func (f *File) Hold(addr string, pid int) error {
	started, ok := processStart(pid)
	if !ok {
		return fmt.Errorf("hold %s: no process %d", addr, pid)
	}
	return f.change(func(m *machine) {
		m.Holds = append(m.Holds, hold{Address: addr, PID: pid, Started: started})
	})
}

// Release makes a process close a function's vfio group.
func (f *File) Release(addr string, pid int) error {
	return f.change(func(m *machine) {
		m.Holds = slices.DeleteFunc(m.Holds, func(h hold) bool { return h.Address == addr && h.PID == pid })
		m.settle()
	})
}

// Writes is how many writes the agent has made, failed ones included.
func (f *File) Writes() (n int, err error) {
	err = f.store.view(func(m *machine) { n = m.Count })
	return n, err
}

// Taint is why the kernel is tainted, by the kernel's names, sorted.
func (f *File) Taint() (names []string, err error) {
	err = f.store.view(func(m *machine) { names = slices.Clone(m.Taints) })
	return names, err
}

// String is all mutable state as sorted lines of text, or what is wrong.
func (f *File) String() (s string) {
	if err := f.store.view(func(m *machine) { s = m.dump() }); err != nil {
		return err.Error()
	}
	return s
}

// Describe is what the machine has, as a table for people.
func (f *File) Describe() (s string, err error) {
	err = f.store.view(func(m *machine) { s = m.describe() })
	return s, err
}

func (f *File) change(fn func(*machine)) error {
	return f.store.update(func(m *machine) error {
		m.dirty = true
		fn(m)
		return nil
	})
}

// disk is a store in a file. The lock file beside it is locked for every
// change, and holds the number of the last one, so that a read that finds its
// number unchanged need not look at the state.
type disk struct {
	path string
	lock *os.File

	mu         sync.Mutex // guards what follows
	machine    *machine   // as of generation
	generation uint64
}

func (s *disk) view(fn func(*machine)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.current(); s.machine == nil || g == 0 || g != s.generation || s.machine.due() {
		err := s.withFlock(func() error { return s.mutate(func(*machine) error { return nil }) })
		if err != nil {
			return err
		}
	}
	fn(s.machine)
	return nil
}

func (s *disk) update(fn func(*machine) error) error {
	return s.locked(func() error { return s.mutate(fn) })
}

func (s *disk) changed() <-chan struct{} {
	ch := make(chan struct{})
	new(supervise.Group).AfterFunc(poll, "simulated kernel", func() { close(ch) })
	return ch
}

func (s *disk) locked(fn func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.withFlock(fn)
}

func (s *disk) withFlock(fn func() error) (err error) {
	for {
		if err = unix.Flock(int(s.lock.Fd()), unix.LOCK_EX); !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", s.lock.Name(), err)
	}
	defer func() { err = errors.Join(err, unix.Flock(int(s.lock.Fd()), unix.LOCK_UN)) }()
	return fn()
}

// mutate runs fn on the machine as it is in the file, and saves what it did.
func (s *disk) mutate(fn func(*machine) error) error {
	if err := s.load(); err != nil {
		return err
	}
	m := s.machine
	if m.due() {
		m.settle()
	}
	err := fn(m)
	if !m.dirty {
		return err
	}
	return errors.Join(err, s.save(m))
}

// document is the state file.
type document struct {
	Version int             `json:"version"`
	Config  json.RawMessage `json:"config"`
	State   state           `json:"state"`
}

func (s *disk) load() error {
	g := s.current()
	if s.machine != nil && g != 0 && g == s.generation {
		return nil
	}
	data, err := os.ReadFile(s.path)
	if err != nil {
		return fmt.Errorf("read simulated kernel: %w", err)
	}
	m, err := decode(data)
	if err != nil {
		return fmt.Errorf("%s: %w: %w (remove the file and create it anew: the simulated machine starts fresh)", s.path, ErrBroken, err)
	}
	s.machine, s.generation = m, g
	return nil
}

func decode(data []byte) (*machine, error) {
	var doc document
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&doc); err != nil {
		return nil, err
	}
	if doc.Version != formatVersion {
		return nil, fmt.Errorf("format version %d: this program knows %d", doc.Version, formatVersion)
	}
	var cfg Config
	if err := json.Unmarshal(doc.Config, &cfg); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	m := &machine{layout: newLayout(cfg), state: doc.State, alive: running}
	m.raw = doc.Config
	return m, m.check()
}

// save writes the machine. The generation goes first: who sees it waits for
// the lock, and whoever is killed in between leaves the state before, whole.
func (s *disk) save(m *machine) error {
	if m.raw == nil {
		raw, err := json.Marshal(m.cfg)
		if err != nil {
			return fmt.Errorf("encode config: %w", err)
		}
		m.raw = raw
	}
	data, err := json.Marshal(document{Version: formatVersion, Config: m.raw, State: m.state})
	if err != nil {
		return fmt.Errorf("encode simulated kernel: %w", err)
	}
	temp := s.path + ".tmp"
	s.machine = nil // unless all of this goes well, the file is the truth
	if err := os.WriteFile(temp, data, 0o600); err != nil {
		return fmt.Errorf("write simulated kernel: %w", err)
	}
	g := s.current() + 1
	if _, err := s.lock.WriteAt(binary.BigEndian.AppendUint64(nil, g), 0); err != nil {
		return fmt.Errorf("write generation: %w", err)
	}
	if err := os.Rename(temp, s.path); err != nil {
		return fmt.Errorf("write simulated kernel: %w", err)
	}
	m.dirty, m.alive = false, running
	s.machine, s.generation = m, g
	return nil
}

// current is the number of the last change, 0 when it cannot be read.
func (s *disk) current() uint64 {
	var b [8]byte
	if n, err := s.lock.ReadAt(b[:], 0); n < len(b) && (err == nil || errors.Is(err, io.EOF)) {
		return 0
	}
	return binary.BigEndian.Uint64(b[:])
}
