package link

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"sync"
	"syscall"
	"time"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// withVFs is how many combined channels a driver leaves a physical function at
// most while it has VFs, since the queues of the device are shared: igb leaves
// two on an 82576 and one on an I350 (igb_get_max_rss_queues), ixgbe as many as
// a VF has, which is four at most (ixgbe_set_sriov_queues). Of other drivers it
// is known only once there are VFs.
func withVFs(driver string) (most int, known bool) {
	most, known = map[string]int{"igb": 2, "ixgbe": 4}[driver]
	return most, known
}

type channels struct {
	netdev
	found *found
}

// found are the maxima that functions had while they had VFs. They are only seen
// when the VFs have been made for it.
type found struct {
	mu   sync.Mutex
	most map[drivers.Target]ceiling
}

type ceiling struct {
	combined int
	at       time.Time
}

// outdated is when a function is tried again: it may have been given another
// driver or another firmware.
const outdated = time.Hour

func (f *found) note(t drivers.Target, combined int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.most[t] = ceiling{combined, time.Now()}
}

func (f *found) of(t drivers.Target) (int, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, ok := f.most[t]
	return c.combined, ok && time.Since(c.at) < outdated
}

// Apply says which limit it was that the device answered EINVAL for, and
// remembers it where there are VFs.
func (c channels) Apply(ctx context.Context, t drivers.Target, to drivers.State) error {
	err := c.bring(ctx, t, to)
	if !errors.Is(err, syscall.EINVAL) {
		return err
	}
	if c.vfs(ctx, t) > 0 {
		if _, s, serr := c.current(ctx, t, host.SettingChannels); serr == nil {
			c.found.note(t, s.MaxChannels.Combined)
		}
	}
	if limited := c.Precheck(ctx, t, "", to); limited != nil {
		return limited
	}
	return err
}

// Precheck refuses channels that the device does not have now.
func (c channels) Precheck(ctx context.Context, t drivers.Target, from, to drivers.State) error {
	return c.PrecheckBeside(ctx, t, from, to, nil)
}

// PrecheckBeside refuses channels that the device will not have once it has the
// VFs that the operation makes. What it will have without those that go, it says
// when they are gone.
func (c channels) PrecheckBeside(ctx context.Context, t drivers.Target, _, to drivers.State, beside []drivers.Beside) error {
	want, err := host.ParseChannels(string(to))
	if err != nil {
		return c.refuse(t, to, drivers.ErrRefused, "ask for at least one combined channel, or one of rx and of tx", "%s", err.Error())
	}
	dev, s, err := c.current(ctx, t, host.SettingChannels)
	switch {
	case errors.Is(err, syscall.EOPNOTSUPP):
		return c.unsupported(t, to, dev)
	case err != nil || dev.Name == "":
		return err // a function without a netdev says its own limits when it is back
	}
	vfs, most, known := c.combined(ctx, t, s.MaxChannels.Combined, beside)
	if !known {
		return nil
	}
	while, remedy := "", ""
	if vfs > 0 {
		while, remedy = fmt.Sprintf(" while it has %d VFs", vfs), ", or for no VFs"
	}
	return c.within(t, to, dev, []limit{
		{"rx channels" + while, want.RX, s.MaxChannels.RX, ""},
		{"tx channels" + while, want.TX, s.MaxChannels.TX, ""},
		{"combined channels" + while, want.Combined, most, remedy},
	})
}

// Fit takes as many combined channels as the VFs of the operation leave.
func (c channels) Fit(ctx context.Context, t drivers.Target, to drivers.State, beside []drivers.Beside) (drivers.State, error) {
	want, err := host.ParseChannels(string(to))
	if err != nil {
		return to, err
	}
	dev, s, err := c.current(ctx, t, host.SettingChannels)
	if err != nil || dev.Name == "" {
		return to, err
	}
	vfs, most, known := c.combined(ctx, t, s.MaxChannels.Combined, beside)
	if !known || vfs == 0 || most == 0 {
		return to, nil
	}
	want.Combined = min(want.Combined, most)
	return drivers.State(want.String()), nil
}

// combined is the maximum at the goal, with how many VFs; it is not known where
// all of them go.
func (c channels) combined(ctx context.Context, t drivers.Target, now int, beside []drivers.Beside) (vfs, most int, known bool) {
	vfs, most = c.vfs(ctx, t), now
	for _, b := range beside {
		if b.Made == 0 {
			return 0, most, false
		}
		if vfs == 0 {
			most = min(most, c.expected(ctx, t, most))
		}
		vfs = b.Made
	}
	return vfs, most, true
}

// expected is the maximum with VFs, as far as it is known while there are none.
func (c channels) expected(ctx context.Context, t drivers.Target, now int) int {
	if most, ok := c.found.of(t); ok {
		return most
	}
	driver, err := host.DriverOf(ctx, c.host, string(t))
	if most, ok := withVFs(driver); err == nil && ok {
		return most
	}
	return now
}

// vfs is how many there are; 0 also of a function that makes none.
func (c channels) vfs(ctx context.Context, t drivers.Target) int {
	text, err := c.host.Read(ctx, host.Attr(string(t), "sriov_numvfs"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0
	}
	n, _ := strconv.Atoi(text) // it is for a message: what cannot be read names no VFs
	return n
}
