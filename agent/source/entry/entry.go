package entry

import (
	"errors"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v4"

	"eniagent/agent/source"
	"eniagent/drivers"
)

// The bounds of an MTU in bytes. The lower is that of IPv4; that IPv6 needs 1280
// depends on the host.
const (
	MinMTU = 68
	MaxMTU = 65535
)

const (
	maxName   = 127 // of an alternative name, ALTIFNAMSIZ without its NUL; a name itself has at most 15
	maxScalar = 256 // no legal value is longer
)

// driverName is what a driver's name may look like.
var driverName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,54}$`)

// attribute is one field of an entry.
type attribute struct {
	name string
	want string
	// set puts the value into the entry; false when it is not a legal one.
	set func(*source.Interface, *yaml.Node) bool
}

// selectors are the fields that pick the function.
func selectors() []attribute {
	return []attribute{
		{"pci", "want domain:bus:device.function in hex, such as \"0000:3b:00.1\"", setPCI},
		{"mac", "want the MAC address of one interface, such as 52:54:00:00:00:01", setMAC},
		{"name", "want an interface's name: at most 127 bytes, no '/', ':' or spaces, in quotes if it looks like a number", setName},
	}
}

// attributes are the fields that ask something of it.
func attributes() []attribute {
	return []attribute{
		{"driver", wantDriver, setDriver},
		{"up", "want true or false", setUp},
		{"mtu", "want a number of bytes from 68 to 65535, without quotes, such as 9000", setMTU},
		{"pool", wantPool, setPool},
		{"state", "want configured or released", setState},
		{"onStop", "want retain or release; without it the flag --on-stop says it", setOnStop},
		{"allowManagementPath", "want the reason, in words, for touching the node's management path", setAllowance},
	}
}

// names are the fields' names.
func names(as []attribute) []string {
	var ns []string
	for _, a := range as {
		ns = append(ns, a.name)
	}
	return ns
}

// entry reads one interface; false when the selector is not to be trusted.
func (p *parser) entry(n *yaml.Node, path string) (source.Interface, bool) {
	e := source.Interface{State: source.Configured}
	switch n.Kind {
	case yaml.MappingNode:
	case yaml.AliasNode:
		p.problems.add(n.Line, path, n, "an alias names the same interface again; write the entry out")
		return e, false
	default:
		p.problems.add(n.Line, path, n, "want an interface: one of pci, mac, name, and what is asked of it")
		return e, false
	}
	before := len(p.problems)
	all := append(selectors(), attributes()...)
	fields, _ := p.fields(n, path, append(append(names(all), settingNames()...), "vfs"))
	for _, a := range all {
		f, ok := fields[a.name]
		if !ok {
			continue
		}
		if v, ok := scalar(f.value); !ok || !a.set(&e, v) {
			p.problems.add(f.line, join(path, a.name), f.value, a.want)
		}
	}
	for _, s := range settings() {
		if f, ok := fields[s.name]; ok {
			s.read(p, &e, f, join(path, s.name))
		}
	}
	if f, ok := fields["vfs"]; ok {
		e.VFs = p.vfs(f, join(path, "vfs"))
	}
	// A field that could not be read would make what follows guess.
	if len(p.problems) > before {
		return e, false
	}
	ok := p.selected(n, path, fields)
	p.sensible(n, path, e, fields)
	return e, ok
}

// selected says that exactly one selector is there.
func (p *parser) selected(n *yaml.Node, path string, fields map[string]field) bool {
	given := present(fields, names(selectors()))
	switch len(given) {
	case 1:
		return true
	case 0:
		p.problems.add(n.Line, path, nil, "no interface is selected; add one of pci, mac, name")
	default:
		p.problems.add(n.Line, path, nil, strings.Join(given, " and ")+" together; keep one of them")
	}
	return false
}

// sensible finds fields that are each legal but not together.
func (p *parser) sensible(n *yaml.Node, path string, e source.Interface, fields map[string]field) {
	link := present(fields, append([]string{"up", "mtu"}, settingNames()...))
	asked := slices.Concat(present(fields, []string{"driver"}), link, present(fields, []string{"vfs", "pool"}))
	switch {
	case e.State == source.Released && len(asked) > 0:
		p.problems.add(fields["state"].line, join(path, "state"), fields["state"].value,
			"a released interface gets its baseline back; remove "+strings.Join(asked, ", "))
	case e.State == source.Released && e.OnStop != "":
		p.problems.add(fields["onStop"].line, join(path, "onStop"), fields["onStop"].value,
			"a released interface is given back whether or not the agent stops; remove onStop")
	case e.State == source.Configured && len(asked) == 0:
		p.problems.add(n.Line, path, nil, "nothing is asked of "+e.Selector.String()+"; add driver, up, mtu, pool or vfs, or \"state: released\"")
	case len(link) > 0 && drivers.Bare(e.Driver):
		p.problems.add(fields["driver"].line, join(path, "driver"), fields["driver"].value,
			"this driver leaves no network interface to configure; remove "+strings.Join(link, ", "))
	}
	if e.VFs != nil && e.Driver != "" && !drivers.MakesVFs(e.Driver) {
		p.problems.add(fields["driver"].line, join(path, "driver"), fields["driver"].value,
			"only a kernel driver makes virtual functions; remove vfs, or this driver")
	}
	if d := misnamed(e.Driver); d != "" {
		p.problems.add(fields["driver"].line, join(path, "driver"), fields["driver"].value,
			meantDriver+d)
	}
}

// present are the names that are among the fields.
func present(fields map[string]field, names []string) []string {
	var found []string
	for _, n := range names {
		if _, ok := fields[n]; ok {
			found = append(found, n)
		}
	}
	return found
}

// wantDriver says what a driver is given by.
const wantDriver = "want a driver's name as in /sys/bus/pci/drivers, such as vfio-pci"

// CheckDriver wants a driver's name; the error says what to give instead.
func CheckDriver(name string) error {
	if !driverName.MatchString(name) {
		return errors.New(wantDriver)
	}
	if d := misnamed(name); d != "" {
		return errors.New(meantDriver + d)
	}
	return nil
}

// meantDriver says of a module which driver was meant.
const meantDriver = "that is a module's name; the driver is "

// misnamed is the userspace driver that was meant by its module's name:
// vfio_pci for vfio-pci.
func misnamed(driver string) string {
	plain := func(s string) string { return strings.ReplaceAll(s, "-", "_") }
	for _, d := range drivers.UserspaceDrivers() {
		if d != driver && plain(d) == plain(driver) {
			return d
		}
	}
	return ""
}

// scalar is the scalar that n is or is an alias of. One that is too long to be
// legal is not looked at, however often it is repeated.
func scalar(n *yaml.Node) (*yaml.Node, bool) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n, n.Kind == yaml.ScalarNode && !null(n) && len(n.Value) <= maxScalar
}

func setPCI(e *source.Interface, n *yaml.Node) bool {
	t, err := drivers.PCI(n.Value)
	e.Selector.PCI = t
	return err == nil
}

func setMAC(e *source.Interface, n *yaml.Node) bool {
	mac, err := net.ParseMAC(n.Value)
	if err != nil || len(mac) != 6 || mac[0]&1 != 0 || [6]byte(mac) == [6]byte{} {
		return false
	}
	e.Selector.MAC = mac.String()
	return true
}

func setName(e *source.Interface, n *yaml.Node) bool {
	odd := func(r rune) bool { return r == '/' || r == ':' || unicode.IsSpace(r) || !unicode.IsPrint(r) }
	e.Selector.Name = n.Value
	return text(n) && n.Value != "" && len(n.Value) <= maxName && n.Value != "." && n.Value != ".." &&
		!strings.ContainsFunc(n.Value, odd)
}

func setDriver(e *source.Interface, n *yaml.Node) bool {
	e.Driver = n.Value
	return text(n) && driverName.MatchString(n.Value)
}

func setUp(e *source.Interface, n *yaml.Node) bool {
	up := strings.EqualFold(n.Value, "true")
	e.Up = &up
	return n.ShortTag() == "!!bool"
}

func setMTU(e *source.Interface, n *yaml.Node) bool {
	mtu, ok := number(n, MinMTU, MaxMTU)
	e.MTU = mtu
	return ok
}

// number takes plain decimals only: 0700, 0x700 and 1_500 are numbers to YAML,
// and not the ones a reader sees.
func number(n *yaml.Node, least, most int) (int, bool) {
	i, err := strconv.Atoi(n.Value)
	return i, err == nil && n.ShortTag() == "!!int" && strconv.Itoa(i) == n.Value && i >= least && i <= most
}

func setState(e *source.Interface, n *yaml.Node) bool {
	e.State = source.Disposition(n.Value)
	return e.State == source.Configured || e.State == source.Released
}

func setOnStop(e *source.Interface, n *yaml.Node) bool {
	e.OnStop = n.Value
	return e.OnStop == source.Retain || e.OnStop == source.Release
}

func text(n *yaml.Node) bool { return n.ShortTag() == "!!str" }

func setAllowance(e *source.Interface, n *yaml.Node) bool {
	e.AllowManagementPath = strings.TrimSpace(n.Value)
	return e.AllowManagementPath != ""
}
