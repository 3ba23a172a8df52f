//go:build linux

package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"eniagent/recovery/chaos/wire"
)

// ErrDown is returned when the guest is not running, or has stopped running while it was asked something.
var ErrDown = errors.New("the VM is down")

// The package's own deadlines, for a context that has none. Software emulation on a busy machine is slow, and a
// deadline that fires on a machine that works is worse than one that is late.
const (
	bootWithin = 3 * time.Minute
	callWithin = 5 * time.Minute
	stopWithin = 30 * time.Second
)

// VM is a machine that can be switched off and on. Its methods may be called at the same time, but for those that
// switch it.
type VM struct {
	cfg     Config
	parts   Parts
	console *console

	// Both are open and, but for a disk that the Config names, already removed: nothing stays behind, however the
	// test ends. QEMU inherits them.
	initramfs, disk *os.File

	mu    sync.Mutex // guards what follows
	cur   *machine   // nil while off
	boot  Boot
	ports map[int]string // MAC by port, as it is plugged now
}

// Boot is what is known of the latest boot.
type Boot struct {
	ID       string        // ID is the kernel's boot_id.
	Kernel   string        // Kernel is its release.
	Took     time.Duration // Took is from power-on to the guest's being ready, on the host's clock.
	Userland time.Duration // Userland is the part of it after the kernel started /init.
}

// Start makes a machine and boots it.
func Start(ctx context.Context, c Config) (*VM, error) {
	c = c.withDefaults()
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("configure the VM: %w", err)
	}
	parts, err := Find()
	if err != nil {
		return nil, err
	}
	v := &VM{cfg: c, parts: parts, console: &console{log: c.Log}, ports: map[int]string{}}
	for i := range c.NICs {
		v.ports[i] = mac(i)
	}
	if err := v.make(ctx); err != nil {
		return nil, errors.Join(err, v.Close())
	}
	if err := v.Boot(ctx); err != nil {
		return nil, errors.Join(err, v.Close())
	}
	return v, nil
}

// Boot switches the machine on and waits until the guest answers.
func (v *VM) Boot(ctx context.Context) error {
	ctx, cancel := bounded(ctx, bootWithin)
	defer cancel()
	v.mu.Lock()
	if v.cur != nil {
		select {
		case <-v.cur.exited: // it switched itself off
		default:
			v.mu.Unlock()
			return errors.New("boot: the VM is running")
		}
	}
	args := v.args()
	m, err := power(v.parts.QEMU, args, v.console, v.initramfs, v.disk)
	v.cur = m
	v.mu.Unlock()
	if err != nil {
		return err
	}
	if err := m.qmp.do(ctx, "qmp_capabilities", nil); err != nil {
		m.kill()
		return v.explain("boot", err)
	}
	select {
	case h := <-m.hello:
		if err := v.awaitSystemd(ctx); err != nil {
			return err
		}
		b := Boot{ID: h.BootID, Kernel: h.Kernel, Took: time.Since(m.began), Userland: h.Up - h.Init}
		v.mu.Lock()
		v.boot = b
		v.mu.Unlock()
		_, _ = fmt.Fprintf(v.console, "rig: booted in %.2fs, of which userspace %.2fs\n", b.Took.Seconds(), b.Userland.Seconds())
		return nil
	case <-m.exited:
		return v.explain("boot", ErrDown)
	case <-ctx.Done():
		m.kill()
		return v.explain("boot", context.Cause(ctx))
	}
}

// awaitSystemd waits until the last job of the boot is done, if there is a systemd. That some unit failed is the
// test's business.
func (v *VM) awaitSystemd(ctx context.Context) error {
	if !v.cfg.Systemd {
		return nil
	}
	if _, err := v.WaitExists(ctx, "/run/systemd/private"); err != nil {
		return err
	}
	_, err := v.Run(ctx, Command("systemctl", "is-system-running", "--wait"))
	return err
}

// LastBoot tells about the latest boot.
func (v *VM) LastBoot() Boot {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.boot
}

// Running says whether the machine is on.
func (v *VM) Running() bool {
	_, err := v.machine()
	return err == nil
}

// PowerCut takes the power away: SIGKILL to QEMU. What the guest had not flushed to its disk is lost.
func (v *VM) PowerCut() error {
	m, err := v.machine()
	if err != nil {
		return fmt.Errorf("cut the power: %w", err)
	}
	m.kill()
	return nil
}

// Sysrq gives the kernel a command: "b" to reboot at once, "c" to crash. After both the machine is off, since it
// never reboots by itself; Boot switches it on again. Other commands leave it running.
func (v *VM) Sysrq(ctx context.Context, command string) error {
	ctx, cancel := bounded(ctx, stopWithin)
	defer cancel()
	m, err := v.machine()
	if err != nil {
		return fmt.Errorf("sysrq: %w", err)
	}
	_, err = m.call(ctx, wire.Request{Op: wire.Sysrq, Data: []byte(command)})
	if command != "b" && command != "c" {
		return v.explain("sysrq "+command, err)
	}
	return v.awaitOff(ctx, m, "sysrq "+command)
}

// Shutdown is the orderly end: sync, unmount, power off.
func (v *VM) Shutdown(ctx context.Context) error {
	ctx, cancel := bounded(ctx, stopWithin)
	defer cancel()
	m, err := v.machine()
	if err != nil {
		return fmt.Errorf("shut down: %w", err)
	}
	// Nobody is left to answer.
	_, _ = m.call(ctx, wire.Request{Op: wire.PowerOff})
	return v.awaitOff(ctx, m, "shut down")
}

// AwaitOff waits until the guest has switched itself off.
func (v *VM) AwaitOff(ctx context.Context) error {
	ctx, cancel := bounded(ctx, callWithin)
	defer cancel()
	m, err := v.machine()
	if err != nil {
		return nil
	}
	return v.awaitOff(ctx, m, "wait for the VM's end")
}

func (v *VM) awaitOff(ctx context.Context, m *machine, what string) error {
	select {
	case <-m.exited:
		return nil
	case <-ctx.Done():
		m.kill()
		return v.explain(what, context.Cause(ctx))
	}
}

// Close ends the machine, whatever it does. It is called once.
func (v *VM) Close() error {
	v.mu.Lock()
	m := v.cur
	v.mu.Unlock()
	if m != nil {
		m.kill()
	}
	var err error
	for _, f := range []*os.File{v.initramfs, v.disk} {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return err
}

func (v *VM) machine() (*machine, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.cur == nil {
		return nil, ErrDown
	}
	select {
	case <-v.cur.exited:
		return nil, ErrDown
	default:
		return v.cur, nil
	}
}

// explain adds what was being done and the end of the console to an error about the machine itself.
func (v *VM) explain(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w; last on the console:\n%s", what, err, v.console.last())
}

// bounded gives a context without a deadline one.
func bounded(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, d, fmt.Errorf("took more than %v: %w", d, context.DeadlineExceeded))
}
