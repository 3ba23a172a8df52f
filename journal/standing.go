package journal

import (
	"context"
	"fmt"
)

// Acknowledge records that somebody has looked at what a damaged journal lost
// and takes it on. It is not degraded any more.
func (j *Journal) Acknowledge(ctx context.Context, who, why string) error {
	return j.commitChange(ctx, "acknowledge", func(e *edit) error {
		old, ok := j.degraded.get(keyDegraded)
		if !ok {
			return fmt.Errorf("acknowledge: the journal was never degraded: %w", ErrUnknown)
		}
		if !old.Acknowledged.IsZero() {
			return nil
		}
		d := *old
		d.Who, d.Why, d.Acknowledged = who, clip(why), j.stamp()
		return put(e, j.degraded, keyDegraded, &d, 1)
	})
}

// Machine is the machine that the journal was written on and the one it is
// open on. They differ on a cloned disk; "" is unknown.
func (j *Journal) Machine() (journal, here string) { return j.Meta().MachineID, j.o.MachineID }

// AdoptMachine makes this machine the journal's, once what another left in it
// has been dealt with.
func (j *Journal) AdoptMachine(ctx context.Context) error {
	return j.changeMeta(ctx, func(m *Meta) { m.MachineID = j.o.MachineID })
}

// RecoveredBoot is the boot whose duties are done: withdrawing what outlived
// its devices, before anything else.
func (j *Journal) RecoveredBoot() string { return j.Meta().RecoveredBoot }

// SetRecoveredBoot says that the duties of this boot are done.
func (j *Journal) SetRecoveredBoot(ctx context.Context) error {
	return j.changeMeta(ctx, func(m *Meta) { m.RecoveredBoot = j.o.BootID })
}

func (j *Journal) changeMeta(ctx context.Context, change func(*Meta)) error {
	return j.commitChange(ctx, "meta", func(e *edit) error {
		old, ok := j.meta.get(keyMeta)
		if !ok {
			return fmt.Errorf("meta record: %w", ErrUnknown)
		}
		m := *old
		change(&m)
		if m == *old {
			return nil
		}
		return put(e, j.meta, keyMeta, &m, 1)
	})
}
