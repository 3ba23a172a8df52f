package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-kit/log"

	"eniagent/drivers/host"
	"eniagent/journal"
)

// rehearsed has fn work without a running agent, and before that, or with dry
// only that, on a copy of the journal in memory and a host that cannot be
// written. What is refused there is refused before anything is written: no
// directory, no journal where there was none, no record.
func rehearsed[R any](ctx context.Context, o Options, logger log.Logger, journalOptions func(*journal.Options), dry bool,
	fn func(a *Agent, dry bool) (R, error),
) (r R, err error) {
	quiet := logger
	if !dry {
		quiet = log.NewNopLogger() // all of it is told again
	}
	err = rehearse(ctx, o, quiet, func(a *Agent) (err error) {
		r, err = fn(a, true)
		return err
	})
	if dry || err != nil {
		return r, err
	}
	err = alone(ctx, o, logger, journalOptions, func(a *Agent) (err error) {
		r, err = fn(a, false)
		return err
	})
	return r, err
}

// readJournal reads the journal, and waits as long for another holder as one
// that opens it for writing would.
func (o Options) readJournal(ctx context.Context) (*journal.Snapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, max(o.LockTimeout, time.Nanosecond))
	defer cancel()
	for {
		s, err := journal.OpenReadOnly(o.journalFile())
		if !errors.Is(err, journal.ErrLocked) {
			return s, err
		}
		select {
		case <-time.After(giveBackAgain):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// rehearse is alone with nothing that could be written.
func rehearse(ctx context.Context, o Options, logger log.Logger, fn func(*Agent) error) (err error) {
	o.Observe = true
	if err := o.Validate(); err != nil {
		return err
	}
	store := journal.NewMemory()
	snapshot, err := o.readJournal(ctx)
	switch {
	case errors.Is(err, journal.ErrNotExist):
	case err != nil:
		return err
	default:
		if store, err = snapshot.Memory(); err != nil {
			return err
		}
	}
	h, closeHost, err := o.OpenHost()
	if err != nil {
		return err
	}
	defer closing(&err, "host", closeHost)
	bootID, err := host.BootID(ctx, h)
	if err != nil {
		return err
	}
	machineID := host.MachineID(ctx, h)
	j, err := journal.OpenMemory(ctx, store, journal.Options{
		Version: o.Version, BootID: bootID, MachineID: machineID, FlushAfter: flushed,
	})
	if err != nil {
		return fmt.Errorf("copy journal: %w", err)
	}
	defer closing(&err, "copy of the journal", j.Close)
	return o.workAlone(ctx, j, h, bootID, machineID, logger, fn)
}
