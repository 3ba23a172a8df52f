package sim

import (
	"fmt"
	"slices"
	"syscall"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// What others than the agent do to a machine: an operator, udev, a cloud that
// plugs an interface in, a test.

// Foreign makes a write that is not the agent's: it is not counted, meets no
// fault and no hook. When it blocks it returns drivers.ErrFenced at once and
// goes on in the kernel.
func (f *front) Foreign(c host.Call) error {
	return f.store.update(func(m *machine) error {
		seq := m.submit(c, Fault{})
		errno, _, waiting := m.take(seq)
		if waiting {
			m.abandon(seq)
			return fmt.Errorf("%s: %w", c, drivers.ErrFenced)
		}
		return callError(c, errno)
	})
}

// WriteFile is another program that writes one of the files that the agent may
// write too, in place and durably.
func (f *front) WriteFile(path, text string) error {
	return f.changeFile(path, content{Text: text})
}

// RemoveFile is another program that removes one, durably.
func (f *front) RemoveFile(path string) error { return f.changeFile(path, content{Gone: true}) }

func (f *front) changeFile(path string, to content) error {
	return f.store.update(func(m *machine) error {
		if !m.hasDir(path) {
			return pathError("open", path, syscall.ENOENT)
		}
		m.put(path, to)
		m.sync(path)
		return nil
	})
}

// Inject arms faults, or none when one of them is wrong.
func (f *front) Inject(faults ...Fault) error {
	return f.store.update(func(m *machine) error { return m.inject(faults) })
}

// ClearFaults disarms all faults. What they hung stays until Thaw.
func (f *front) ClearFaults() error {
	return f.store.update(func(m *machine) error {
		m.Faults, m.dirty = nil, true
		return nil
	})
}

// Unplug pulls a function out. Like the kernel's own removal it waits for a
// process that holds the function; Unplug itself does not. A virtual function is
// no card and goes with its PF only: that is EINVAL.
func (f *front) Unplug(addr string) error {
	return f.store.update(func(m *machine) error {
		fn := m.find(addr)
		if fn == nil {
			return fmt.Errorf("unplug %s: %w", addr, syscall.ENODEV)
		}
		if pf := m.devices[addr].PF; pf != "" {
			return fmt.Errorf("unplug %s: %w: it goes with %s, or with its sriov_numvfs", addr, syscall.EINVAL, pf)
		}
		if err := m.edit(func(c *Config) error {
			deviceOf(c, addr).Absent = true
			return nil
		}); err != nil {
			return err
		}
		path := host.Attr(addr, "remove")
		m.queue(&call{
			Seq: m.next(), Act: actRemove, Address: addr, Inode: fn.Inode, Abandoned: true,
			Call: host.Call{Op: host.OpSysfs, Target: drivers.Target(addr), Path: path, Value: "1"},
		})
		m.dirty = true
		m.advanceAll()
		return nil
	})
}

// Plug puts a function in, which comes up as at its first boot, with its
// natural driver when that is loaded. A virtual function comes with its PF.
func (f *front) Plug(d Device) error {
	return f.store.update(func(m *machine) error {
		if m.find(d.Address) != nil {
			return fmt.Errorf("plug %s: %w", d.Address, syscall.EEXIST)
		}
		d.Absent = false
		if err := m.edit(func(c *Config) error {
			if old := deviceOf(c, d.Address); old != nil {
				*old = d
			} else {
				c.Devices = append(c.Devices, d)
			}
			return nil
		}); err != nil {
			return fmt.Errorf("plug %s: %w", d.Address, err)
		}
		if d.PF == "" {
			m.bringUp(m.devices[d.Address])
		}
		return nil
	})
}

// Replug puts a function in again that was pulled out: the same one, as at its
// first boot, with what sits behind it. ENODEV is one that the node never had.
func (f *front) Replug(addr string) error {
	return f.store.update(func(m *machine) error {
		d := m.devices[addr]
		switch {
		case d == nil:
			return fmt.Errorf("plug %s: %w", addr, syscall.ENODEV)
		case d.PF != "":
			return fmt.Errorf("plug %s: %w: it comes with %s, by its sriov_numvfs", addr, syscall.EINVAL, d.PF)
		case m.find(addr) != nil:
			return fmt.Errorf("plug %s: %w", addr, syscall.EEXIST)
		}
		if err := m.edit(func(c *Config) error {
			deviceOf(c, addr).Absent = false
			return nil
		}); err != nil {
			return fmt.Errorf("plug %s: %w", addr, err)
		}
		m.bringUp(m.devices[addr])
		return nil
	})
}

func deviceOf(c *Config, addr string) *Device {
	at := slices.IndexFunc(c.Devices, func(d Device) bool { return d.Address == addr })
	if at < 0 {
		return nil
	}
	return &c.Devices[at]
}

// SetCarrier plugs a cable in or out. The port is named by PCI address or
// netdev name.
func (f *front) SetCarrier(where string, on bool) error {
	return f.store.update(func(m *machine) error { return m.setCarrier(where, on) })
}

// Rename gives a netdev another name, as udev does.
func (f *front) Rename(name, to string) error {
	return f.store.update(func(m *machine) error { return m.rename(name, to) })
}

// Edit changes what the machine is made of. Files and ids change at once; what
// a function starts with does at its next start.
func (f *front) Edit(change func(*Config) error) error {
	return f.store.update(func(m *machine) error { return m.edit(change) })
}

// edit makes a new layout, so that clones keep theirs.
func (m *machine) edit(change func(*Config) error) error {
	cfg := m.cfg.copy()
	if err := change(&cfg); err != nil {
		return fmt.Errorf("edit config: %w", err)
	}
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("edit config: %w", err)
	}
	l := newLayout(cfg)
	for _, f := range m.Present {
		if l.devices[f.Address] == nil {
			return fmt.Errorf("edit config: function %s is still there: unplug it first", f.Address)
		}
	}
	for _, o := range m.Loaded {
		if l.modules[o.Name] == nil {
			return fmt.Errorf("edit config: module %s is still loaded: unload it first", o.Name)
		}
	}
	m.layout, m.dirty = l, true
	return nil
}
