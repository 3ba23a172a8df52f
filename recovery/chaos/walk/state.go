package walk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"syscall"

	"eniagent/drivers"
	"eniagent/drivers/host"
)

// state is what can be seen of the machine: a line of text for each thing.
type state struct {
	lines   map[string]string // by what the line begins with
	drivers map[string]string // by function
	wanted  map[string]string // override, by function
	links   map[string]host.Link
}

func (s state) driverOf(addr string) string {
	if d := s.drivers[addr]; d != "" {
		return d
	}
	return noDriver
}

// naturalOf is the driver that may be bound to a function.
func (s state) naturalOf(addr string) string {
	switch want := s.wanted[addr]; {
	case want != "" && host.PCIDrivers+want == path.Clean(host.PCIDrivers+want) && want != "(null)" && len(want) < 64:
		return want
	case strings.HasSuffix(addr, ":00.0"):
		return pfDriver
	}
	return vfDriver
}

func (s state) indexOf(addr string) int {
	if l, ok := s.links[addr]; ok {
		return l.Index
	}
	return nowhere
}

// has says whether the line of a thing has a word.
func (s state) has(thing, word string) bool {
	return strings.Contains(s.lines[thing]+" ", " "+word+" ")
}

// there says whether there is the function.
func (s state) there(addr string) bool { _, ok := s.drivers[addr]; return ok }

// ready says whether what comes about by itself has come: a bound NIC has its
// netdev.
func (s state) ready() bool {
	for addr, driver := range s.drivers {
		if _, ok := s.links[addr]; !ok && (driver == pfDriver || driver == vfDriver) {
			return false
		}
	}
	return true
}

// eyes look at a machine and know how often a number of each thing has changed.
type eyes struct {
	host.Host
	seen    map[string][]uint64     // numbers by thing, in the order of their coming
	sets    map[string]host.Setting // by function: the settings that are looked at, those that were written
	careful bool                    // a function may be fenced, and reading its override would hang
}

// look reads all of the functions, and of the modules.
func (e *eyes) look(ctx context.Context, functions []string) (state, error) {
	s := state{lines: map[string]string{}, drivers: map[string]string{}, wanted: map[string]string{}, links: map[string]host.Link{}}
	links, err := e.Links(ctx)
	if err != nil {
		return state{}, err
	}
	nodes, err := e.List(ctx, "/dev/vfio")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return state{}, err
	}
	s.lines["vfio"] = fmt.Sprintf("vfio nodes=%d", len(nodes))
	for _, l := range links {
		for _, addr := range functions {
			if l.Bus == addr {
				s.links[addr] = l
				s.lines["net "+addr] = e.netdev(ctx, addr, l)
			}
		}
	}
	for addr, which := range e.sets {
		if l, ok := s.links[addr]; ok {
			s.lines["set "+addr] = e.settings(ctx, addr, l.Index, which)
		}
	}
	if err := e.functions(ctx, s, functions); err != nil {
		return state{}, err
	}
	for _, m := range modules() {
		dir := host.SysModule + m.Name
		if refs := e.text(ctx, dir+"/refcnt"); refs != "-" {
			s.lines["module "+m.Name] = fmt.Sprintf("module %s %s refs=%s", m.Name, e.text(ctx, dir+"/initstate"), refs)
		}
	}
	return s, nil
}

// functions reads those that are there into the state.
func (e *eyes) functions(ctx context.Context, s state, functions []string) error {
	for _, addr := range functions {
		inode, err := e.Inode(ctx, host.PCIDevices+addr)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		s.drivers[addr] = strings.Trim(e.base(ctx, host.Attr(addr, "driver")), "-")
		s.wanted[addr] = e.override(ctx, addr)
		s.lines[addr] = fmt.Sprintf("%s no=%d override=%s %s", addr, e.number(addr, inode), short(s.wanted[addr]), e.function(ctx, addr))
	}
	return nil
}

// number counts the changes of a number that means nothing by itself.
func (e *eyes) number(thing string, n uint64) int {
	for i, old := range e.seen[thing] {
		if old == n {
			return i
		}
	}
	e.seen[thing] = append(e.seen[thing], n)
	return len(e.seen[thing]) - 1
}

// netdev leaves out the carrier, which comes when the NIC has trained its link.
func (e *eyes) netdev(ctx context.Context, addr string, l host.Link) string {
	mac, perm := orRandom(l.MAC), l.PermMAC
	switch perm {
	case "":
		perm = "-"
	case l.MAC:
		perm = "same"
	default:
		perm = orRandom(perm)
	}
	line := fmt.Sprintf("net %s no=%d up=%t mtu=%d min=%d max=%d mac=%s perm=%s assigned=%s",
		addr, e.number("net "+addr, uint64(l.Index)), l.Up, l.MTU, l.MinMTU, l.MaxMTU, mac, perm,
		e.text(ctx, host.SysNet+l.Name+"/addr_assign_type"))
	if strings.HasPrefix(l.Name, knownName) { // what the kernel calls it differs
		line += " name=" + l.Name
	}
	return line
}

// orRandom is a MAC, unless it was made up.
func orRandom(mac string) string {
	if first, err := strconv.ParseUint(strings.Split(mac+":", ":")[0], 16, 8); err == nil && first&2 != 0 && !strings.HasPrefix(mac, knownMAC) {
		return "random"
	}
	return mac
}

// settings are one group of a netdev's.
func (e *eyes) settings(ctx context.Context, addr string, index int, which host.Setting) string {
	set, err := e.Settings(ctx, index, which)
	if err != nil {
		return fmt.Sprintf("set %s %s %s", addr, which, outcome(err))
	}
	if which == host.SettingVFs {
		line := "set " + addr
		for _, vf := range set.VFs {
			line += fmt.Sprintf(" vf%d={mac=%s %s trust=%s spoofchk=%s state=%s %s}",
				vf.Index, orRandom(vf.MAC), vf.VLAN, vf.Trust, vf.SpoofCheck, vf.LinkState, vf.Rate)
		}
		return line
	}
	if len(set.Features) > 0 {
		return "set " + addr + " features" + featureWords(set.Features)
	}
	return fmt.Sprintf("set %s names=%q channels=%v of %v rings=%v of %v", addr, set.AltNames, set.Channels, set.MaxChannels, set.Rings, set.MaxRings)
}

// featureWords are the features that are on or can be changed. Those that are
// neither are the most, and which there are differs from kernel to kernel.
func featureWords(all []host.Feature) string {
	var words strings.Builder
	for _, f := range all {
		switch {
		case f.Fixed && f.Active:
			fmt.Fprintf(&words, " %s=fixed", f.Name)
		case !f.Fixed && f.Wanted == f.Active:
			fmt.Fprintf(&words, " %s=%t", f.Name, f.Wanted)
		case !f.Fixed:
			fmt.Fprintf(&words, " %s=%t(%t)", f.Name, f.Wanted, f.Active)
		}
	}
	return words.String()
}

// knownName begins the names that a walk gives.
const knownName = "lan"

// knownFeature is one that every driver of a Machine lets be changed.
const knownFeature = "tx-tcp-segmentation"

// function is all that sysfs tells of one.
func (e *eyes) function(ctx context.Context, addr string) string {
	group := e.base(ctx, host.Attr(addr, "iommu_group"))
	_, err := e.Inode(ctx, "/dev/vfio/"+group)
	words := []string{
		"driver=" + e.base(ctx, host.Attr(addr, "driver")),
		"group=" + strconv.FormatBool(group != "-"),
		"vfio=" + strconv.FormatBool(err == nil),
		"uio=" + strconv.FormatBool(e.is(ctx, host.Attr(addr, "uio"))),
		"net=" + strconv.FormatBool(e.is(ctx, host.Attr(addr, "net"))),
		"physfn=" + e.base(ctx, host.Attr(addr, "physfn")),
	}
	for _, name := range []string{"sriov_numvfs", "sriov_totalvfs", "sriov_drivers_autoprobe"} {
		words = append(words, strings.TrimPrefix(name, "sriov_")+"="+e.text(ctx, host.Attr(addr, name)))
	}
	for i := range maxVFs + 1 {
		if vf := e.base(ctx, host.Attr(addr, "virtfn"+strconv.Itoa(i))); vf != "-" {
			words = append(words, "vf="+vf)
		}
	}
	return strings.Join(words, " ")
}

func (e *eyes) override(ctx context.Context, addr string) string {
	if e.careful {
		if fenced, err := e.Fenced(drivers.Target(addr)); fenced || err != nil {
			return "(fenced)"
		}
	}
	return e.text(ctx, host.Attr(addr, "driver_override"))
}

// text is what a file says, its errno when it says nothing, "-" when it is not
// there.
func (e *eyes) text(ctx context.Context, file string) string {
	s, err := e.Read(ctx, file)
	if errors.Is(err, fs.ErrNotExist) {
		return "-"
	}
	if err != nil {
		return outcome(err)
	}
	return s
}

func (e *eyes) base(ctx context.Context, link string) string {
	s, err := e.Readlink(ctx, link)
	if errors.Is(err, fs.ErrNotExist) {
		return "-"
	}
	if err != nil {
		return outcome(err)
	}
	return path.Base(s)
}

func (e *eyes) is(ctx context.Context, file string) bool {
	_, err := e.Inode(ctx, file)
	return err == nil
}

// short is a word that fits in a line and has no space.
func short(s string) string {
	q := strings.ReplaceAll(strings.Trim(strconv.Quote(s), `"`), " ", `\x20`)
	if len(q) > 80 {
		return q[:1] + "*" + strconv.Itoa(len(q))
	}
	return q
}

// outcome is how a call ended: ok, the name of its errno, or what was said.
func outcome(err error) string {
	var errno syscall.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, drivers.ErrFenced):
		return "fenced"
	case errors.As(err, &errno):
		return errnoName(errno)
	}
	return err.Error()
}
