package sriov

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"sync"
	"syscall"
	"time"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// What the driver of a physical function keeps for each of its virtual ones.
const (
	KindMAC        drivers.Kind = "vf.mac"
	KindVLAN       drivers.Kind = "vf.vlan"
	KindTrust      drivers.Kind = "vf.trust"
	KindSpoofCheck drivers.Kind = "vf.spoofchk"
	KindLinkState  drivers.Kind = "vf.state"
	KindRate       drivers.Kind = "vf.rate"
)

// untold is the state where the driver tells nothing of the attribute. It is
// never written.
const untold drivers.State = "-"

// AttributeSpecs are these kinds on any machine. What a VF has when it is made
// depends on the driver: most give it no MAC, and check what it sends. That a
// VF has no administrative MAC is host.NoMAC, also where its driver has told the
// physical function the one that it made up.
//
// The driver of the VF comes after them, since it reads its MAC when it is
// probed. A rate comes after the link is up: igb takes none without a link
// (igb_ndo_set_vf_bw).
func AttributeSpecs() []drivers.Spec {
	spec := func(kind drivers.Kind, cuts func(from, to drivers.State) bool, after ...drivers.Kind) drivers.Spec {
		return drivers.Spec{
			Kind: kind, Class: drivers.Volatile, OfVF: true, Fresh: drivers.Default, WhenAsked: true,
			After: append([]drivers.Kind{KindNumVFs}, after...), Cuts: cuts,
			Legal: func(t drivers.Target, to drivers.State) error { return legalAttribute(kind, t, to) },
		}
	}
	mac := spec(KindMAC, readdresses)
	mac.Probed, mac.Route, mac.Gives = probedMAC, routeMAC, givesMAC
	return []drivers.Spec{
		mac, spec(KindVLAN, readdresses), spec(KindTrust, nil), spec(KindSpoofCheck, nil),
		spec(KindLinkState, darkens), spec(KindRate, nil, "admin"),
	}
}

// readdresses says whether who could reach a VF may no longer.
func readdresses(from, to drivers.State) bool { return from != drivers.Hidden && from != to }

// darkens says whether a VF may lose its link: "auto" is that of the physical
// function.
func darkens(from, to drivers.State) bool {
	return readdresses(from, to) && from != "disable" && to != "enable"
}

func legalAttribute(kind drivers.Kind, t drivers.Target, to drivers.State) error {
	if _, ok := t.PCIAddress(); !ok {
		return fmt.Errorf("target %q of %s: %w", t, kind, drivers.ErrIllegal)
	}
	if err := host.VFValue(host.Op(kind), string(to)); err != nil {
		return fmt.Errorf("%s: %w: %w", kind, drivers.ErrIllegal, err)
	}
	return nil
}

// WithVLAN is the state at with some of its VLAN changed.
func WithVLAN(at drivers.State, change func(*host.VLAN)) (drivers.State, error) {
	v, err := parsed(at, host.ParseVLAN)
	change(&v)
	return drivers.State(v.String()), err
}

// WithRate is the state at with some of its rate changed.
func WithRate(at drivers.State, change func(*host.Rate)) (drivers.State, error) {
	r, err := parsed(at, host.ParseRate)
	change(&r)
	return drivers.State(r.String()), err
}

// parsed reads a state that a part is asked of. Of a VF that is still to be made
// (at is ""), and where the driver tells nothing, what is asked alone is the goal.
func parsed[T any](at drivers.State, parse func(string) (T, error)) (v T, err error) {
	if at == "" || at == untold || at == drivers.Hidden {
		return v, nil
	}
	return parse(string(at))
}

// NewAttribute makes the driver of one of these kinds.
func NewAttribute(kind drivers.Kind) func(host.Host) drivers.Driver {
	return func(h host.Host) drivers.Driver { return attribute{h, kind, &denials{at: map[denial]time.Time{}}} }
}

type attribute struct {
	host   host.Host
	kind   drivers.Kind
	denied *denials
}

// denials are what drivers were found not to be able to set: only trying tells.
type denials struct {
	mu sync.Mutex
	at map[denial]time.Time
}

// denial is of the netdev of a physical function.
type denial struct {
	index int
	to    drivers.State // "" is any
}

// forgotten is when a driver is tried again: its device may have been given
// another mode.
const forgotten = time.Hour

func (d *denials) add(of denial) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at[of] = time.Now()
}

func (d *denials) has(of denial) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	at, ok := d.at[of]
	return ok && time.Since(at) < forgotten
}

// place is where an attribute is kept.
type place struct {
	driver  string      // of the physical function
	address string      // its address
	pf      host.Netdev // its netdev; without a name it has none
	index   int         // of the VF
}

// place finds the physical function of a VF, and its index there.
func (a attribute) place(ctx context.Context, t drivers.Target) (p place, err error) {
	address, ok := t.PCIAddress()
	if !ok {
		return p, fmt.Errorf("%q: %w", t, drivers.ErrIllegal)
	}
	physfn, err := a.host.Readlink(ctx, host.Attr(address, "physfn"))
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := a.host.Inode(ctx, host.PCIDevices+address); errors.Is(err, fs.ErrNotExist) {
			return p, fmt.Errorf("%s: %w", t, drivers.ErrGone)
		}
		return p, fmt.Errorf("%s is no virtual function: %w", t, drivers.ErrUnsupported)
	}
	if err != nil {
		return p, fmt.Errorf("read physfn of %s: %w", t, err)
	}
	pf := path.Base(physfn)
	p.address = pf
	vfs, err := host.VFsOf(ctx, a.host, pf)
	if err != nil {
		return p, err
	}
	if p.index = slices.Index(vfs, t); p.index < 0 {
		return p, fmt.Errorf("%s is none of the VFs of %s: %w", t, pf, drivers.ErrUnknown)
	}
	if p.driver, err = host.DriverOf(ctx, a.host, pf); err != nil {
		return p, err
	}
	p.pf, err = host.NetdevOf(ctx, a.host, pf)
	return p, err
}

// read is the state, and where it is kept; Hidden where the physical function
// has no netdev to ask.
func (a attribute) read(ctx context.Context, t drivers.Target) (drivers.State, place, error) {
	p, err := a.place(ctx, t)
	if err != nil {
		return "", p, err
	}
	if p.pf.Name == "" {
		return drivers.Hidden, p, nil
	}
	s, err := a.host.Settings(ctx, p.pf.Index, host.SettingVFs)
	switch {
	case errors.Is(err, syscall.EOPNOTSUPP):
		return untold, p, nil
	case errors.Is(err, syscall.ENODEV) && p.pf.Went(ctx, a.host, p.address, err) == nil:
		return drivers.Hidden, p, nil // it went between the two reads
	case err != nil:
		return "", p, fmt.Errorf("read the VFs of %s: %w", p.pf.Name, err)
	}
	at := slices.IndexFunc(s.VFs, func(vf host.VF) bool { return vf.Index == p.index })
	if at < 0 {
		return "", p, fmt.Errorf("the driver of %s says nothing of VF %d now: %w", p.pf.Name, p.index, drivers.ErrUnknown)
	}
	state := a.of(s.VFs[at])
	if a.kind == KindMAC && state != host.NoMAC && state != untold {
		state, err = a.taken(ctx, t, p, state)
	}
	return state, p, err
}

// Observe asks the driver of the physical function, whatever the VF is bound to.
func (a attribute) Observe(ctx context.Context, t drivers.Target) drivers.Observation {
	state, _, err := a.read(ctx, t)
	switch {
	case errors.Is(err, drivers.ErrGone):
		return drivers.Observation{Presence: drivers.Gone}
	case err != nil:
		return drivers.Observation{Presence: drivers.Unobservable, Err: err}
	}
	return drivers.Seen(state)
}

// Apply lets the physical function set the attribute, and reads it back.
func (a attribute) Apply(ctx context.Context, t drivers.Target, to drivers.State) error {
	if err := legalAttribute(a.kind, t, to); err != nil {
		return err
	}
	at, p, err := a.read(ctx, t)
	switch {
	case err != nil:
		return a.fault(t, "find physical function", err, "")
	case bareMAC(at) == to:
		return nil
	case at == drivers.Hidden:
		return a.fault(t, "find physical function", drivers.ErrHidden, noNetdev)
	}
	call := host.Call{Op: host.Op(a.kind), Target: t, Index: p.pf.Index, Number: p.index, Value: string(to)}
	if err := a.host.Do(ctx, call); err != nil {
		return a.refused(ctx, t, p, to, err)
	}
	if at, _, err = a.read(ctx, t); err != nil {
		return a.fault(t, "read back", err, "")
	}
	if bareMAC(at) != to {
		return a.fault(t, "read back", fmt.Errorf("want %s, found %s: %w", to, at, drivers.ErrUnverified), "")
	}
	return nil
}

const noNetdev = "its physical function needs a network interface: bind its kernel driver first"

// refused says what the answer of a driver means (ndo_set_vf_* of
// linux/netdevice.h).
func (a attribute) refused(ctx context.Context, t drivers.Target, p place, to drivers.State, err error) error {
	do := "set by " + p.pf.Name
	switch {
	case errors.Is(err, syscall.EOPNOTSUPP):
		a.denied.add(denial{index: p.pf.Index})
		return a.fault(t, do, fmt.Errorf("%w: %w", drivers.ErrUnsupported, err), a.without(p))
	case errors.Is(err, syscall.EPROTONOSUPPORT):
		a.denied.add(denial{p.pf.Index, to})
		return a.fault(t, do, fmt.Errorf("%w: %w", drivers.ErrUnsupported, err), p.noProtocol())
	case errors.Is(err, syscall.EINVAL) && a.kind == KindRate:
		if state, serr := p.pf.Attr(ctx, a.host, "operstate"); serr == nil && state == "down" {
			// Not EINVAL: it is another matter once there is a link.
			return a.fault(t, do, fmt.Errorf("%w: %s has no link", syscall.EAGAIN, p.pf.Name), "its driver "+p.driver+" takes a rate with a link only: set it up, and see its cable")
		}
		return a.fault(t, do, err, "its driver "+p.driver+" takes no such rate: ask for no minTxRate, and for no more than the link has")
	case errors.Is(err, syscall.EINVAL):
		return a.fault(t, do, err, "its driver "+p.driver+" takes no such value: see the kernel's log")
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EBUSY):
		return a.fault(t, do, err, "the VF is being reset: it is tried again")
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return a.fault(t, do, err, "the agent needs CAP_NET_ADMIN, and the device's firmware may have to allow it")
	}
	return a.fault(t, do, err, "")
}

// noProtocol is the remedy where a driver knows only one.
func (p place) noProtocol() string {
	return "its driver " + p.driver + " knows no such protocol: ask for " + host.Dot1Q
}

// without is the remedy where a driver cannot do it.
func (a attribute) without(p place) string {
	field := map[drivers.Kind]string{
		KindMAC: "mac", KindVLAN: "vlan", KindTrust: "trust", KindSpoofCheck: "spoofCheck",
		KindLinkState: "linkState", KindRate: "minTxRate and maxTxRate",
	}[a.kind]
	return fmt.Sprintf("its driver %s lets no %s of a VF be set: take %s off vfs", p.driver, a.kind, field)
}

// Precheck refuses what the driver does not even tell of, and what it was found
// not to be able to set.
func (a attribute) Precheck(ctx context.Context, t drivers.Target, from, to drivers.State) error {
	p, err := a.place(ctx, t)
	do, never := "precheck "+string(to), fmt.Errorf("%w: %s does not set it", drivers.ErrUnsupported, p.pf.Name)
	switch {
	case err != nil:
		return a.fault(t, do, err, "")
	case from == untold, a.denied.has(denial{index: p.pf.Index}):
		return a.fault(t, do, never, a.without(p))
	case a.denied.has(denial{p.pf.Index, to}):
		return a.fault(t, do, never, p.noProtocol())
	}
	return nil
}

func (a attribute) fault(t drivers.Target, do string, err error, remedy string) error {
	return &drivers.Error{Key: drivers.Key{Kind: a.kind, Target: t}, Do: do, Err: err, Remedy: remedy}
}
