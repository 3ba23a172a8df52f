package deviceplugin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"syscall"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// New is the kind on this machine.
func New(h host.Host) drivers.Driver { return &pools{host: h} }

type pools struct {
	host host.Host
	// mu lets one edit of a file be made after the other: two at once would both
	// be computed from what is there now, and one of them be refused.
	mu sync.Mutex
}

var (
	_ drivers.Prechecker = (*pools)(nil)
	_ drivers.Syncer     = (*pools)(nil)
)

// Observe reads the whole file.
func (p *pools) Observe(ctx context.Context, t drivers.Target) drivers.Observation {
	if err := legal(t, Absent); err != nil {
		return drivers.Observation{Presence: drivers.Unobservable, Err: err}
	}
	c, err := p.read(ctx, t)
	if err != nil {
		return drivers.Observation{Presence: drivers.Unobservable, Err: err}
	}
	return drivers.Seen(c.state)
}

// content is a file, read.
type content struct {
	document *Document
	digest   string
	state    drivers.State // of the target's entry
}

func (p *pools) read(ctx context.Context, t drivers.Target) (c content, err error) {
	file, entry, _ := t.FileEntry()
	text, err := p.host.File(ctx, file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return content{document: Missing(), state: Absent}, nil
	case err != nil:
		return c, p.fault(t, "read", err, readRemedy(err))
	}
	c.digest = host.Digest(text)
	c.document, err = Parse(text)
	if err == nil {
		c.state, err = c.document.State(entry)
	}
	if err != nil {
		return c, p.fault(t, "read", fmt.Errorf("%s: %w", file, err), "repair the file, or remove it; it is left as it is until then")
	}
	return c, nil
}

// Apply edits the file. It is durable after Sync.
func (p *pools) Apply(ctx context.Context, t drivers.Target, to drivers.State) error {
	if err := legal(t, to); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now, err := p.read(ctx, t)
	if err != nil || now.state == to {
		return err
	}
	file, entry, _ := t.FileEntry()
	next, err := now.document.With(entry, to)
	if err != nil {
		return p.fault(t, "edit", fmt.Errorf("%s: %w: %w", file, drivers.ErrRefused, err), "")
	}
	call := host.Call{Op: host.OpReplace, Target: t, Path: file, Value: next, Was: now.digest}
	if err := p.host.Do(ctx, call); err != nil {
		return p.fault(t, call.Label(), err, writeRemedy(err))
	}
	now, err = p.read(ctx, t)
	if err == nil && now.state != to {
		err = p.fault(t, "read back", fmt.Errorf("want %q, found %q: %w", to, now.state, drivers.ErrUnverified), "does another program write the file?")
	}
	return err
}

// Sync makes the file durable as it is, with its name.
func (p *pools) Sync(ctx context.Context, t drivers.Target) error {
	if err := legal(t, Absent); err != nil {
		return err
	}
	file, _, _ := t.FileEntry()
	call := host.Call{Op: host.OpSync, Target: t, Path: file}
	err := p.host.Do(ctx, call)
	if err == nil || errors.Is(err, drivers.ErrIllegal) {
		return nil // what may not be written here was not
	}
	return p.fault(t, call.Label(), err, writeRemedy(err))
}

// Precheck refuses what the plugin would end with, or what would take a
// function from another pool.
func (p *pools) Precheck(ctx context.Context, t drivers.Target, from, to drivers.State) error {
	refused := func(err error, remedy string) error {
		return p.fault(t, "precheck", fmt.Errorf("%w: %w", drivers.ErrRefused, err), remedy)
	}
	if err := legal(t, to); err != nil {
		return refused(err, "")
	}
	now, err := p.read(ctx, t)
	if err != nil {
		return fmt.Errorf("%w: %w", drivers.ErrRefused, err)
	}
	file, entry, _ := t.FileEntry()
	if now.state != from {
		return refused(fmt.Errorf("%s: the entry is %.200q, not %.200q: %w", file, now.state, from, drivers.ErrChanged),
			"it is not the agent's: take it out of the file, or give the pool another name")
	}
	if err := now.document.Clash(entry, to); err != nil {
		return refused(fmt.Errorf("%s: %w", file, err), "take the one or the other out of the file, or of what is asked")
	}
	if _, err := now.document.With(entry, to); err != nil {
		return refused(fmt.Errorf("%s: %w", file, err), "")
	}
	return nil
}

func (p *pools) fault(t drivers.Target, do string, err error, remedy string) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		err = fmt.Errorf("%w: %w", drivers.ErrStarved, err)
	}
	return &drivers.Error{Key: drivers.Key{Kind: Kind, Target: t}, Do: do, Err: err, Remedy: remedy}
}

func readRemedy(err error) string {
	switch {
	case errors.Is(err, syscall.ELOOP):
		return "it is a symbolic link, as in a mounted ConfigMap, which cannot be edited: give the plugin a file of the host"
	case errors.Is(err, syscall.EFBIG):
		return "so large a configuration is not edited"
	}
	return ""
}

func writeRemedy(err error) string {
	switch {
	case errors.Is(err, drivers.ErrIllegal):
		return "only the files that the agent was started for are written"
	case errors.Is(err, fs.ErrNotExist):
		return "make its directory: mkdir -p /etc/pcidp"
	case errors.Is(err, syscall.EROFS):
		return "the plugin's configuration must be on a writable file system, not in a ConfigMap"
	case errors.Is(err, syscall.EBUSY):
		return "the file itself is a mount: mount its directory instead"
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		return "the agent needs root, and a directory that nobody else writes: chmod o-w"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "make room on the file system of the file"
	}
	return ""
}
