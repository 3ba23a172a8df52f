package entry

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"eniagent/agent/source"
	"eniagent/drivers"
)

// Whatever can be desired can be written, in any of YAML's ways, and is read
// back as it was.
func TestAnyDesiredParsesBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOfNDistinct(interfaces(), 1, 8, func(i source.Interface) source.Selector { return i.Selector }).Draw(t, "interfaces")
		text := render(t, want)
		got, err := Document("f", []byte(text))
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("-want +got:\n%s\n%s", d, text)
		}
	})
}

// Whatever the bytes are, there is either a Desired or an error, on lines that
// name the file.
func TestAnyBytes(t *testing.T) {
	piece := rapid.OneOf(
		rapid.SampledFrom([]string{
			"apiVersion: eniagent/v1alpha1\n", "interfaces:\n", "- ", "  ", "\n", "pci: ", "mac: ", "name: ", "mtu: ", "up: ",
			"driver: ", "state: ", "released", "true", "9000", "3b:00.1", "vfio-pci", "&a ", "*a", "<<: ", "{", "}", "[", "]",
			", ", "---\n", "...\n", "? ", "! ", "|\n", ">\n", "'", "\"", "#", "\t", "\r", "\x00", "\xff", "%YAML 1.1\n",
		}),
		rapid.String(),
	)
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOf(piece).Draw(t, "pieces"), "")
		d, err := Document("f", []byte(text))
		if (d == nil) == (err == nil) {
			t.Fatalf("got %v, %v", d, err)
		}
		if err == nil {
			return
		}
		for l := range strings.Lines(err.Error()) {
			if !strings.HasPrefix(l, "f: ") {
				t.Fatalf("line %q of %q", l, err)
			}
		}
	})
}

func interfaces() *rapid.Generator[source.Interface] {
	return rapid.Custom(func(t *rapid.T) source.Interface {
		i := source.Interface{Selector: selector(t), State: source.Configured}
		switch rapid.IntRange(0, 2).Draw(t, "asks") {
		case 0:
			i.State = source.Released
		case 1:
			i.Driver = rapid.SampledFrom(drivers.UserspaceDrivers()).Draw(t, "driver")
		case 2:
			i.Driver = rapid.SampledFrom([]string{"", "ena", "mlx5_core", "8139too"}).Draw(t, "driver")
			i.MTU = rapid.SampledFrom([]int{0, 68, 1500, 65535}).Draw(t, "mtu")
			if up := rapid.Bool().Draw(t, "up"); i.Driver == "" && i.MTU == 0 || rapid.Bool().Draw(t, "has up") {
				i.Up = &up
			}
			ask(t, &i)
		}
		if i.State != source.Released && rapid.Bool().Draw(t, "pooled") {
			// One for each driver, or the two would be refused.
			i.Pool = rapid.StringMatching(`[a-z0-9]([a-z0-9-]{0,9}[a-z0-9])?(\.[a-z]{1,3})?/[a-zA-Z0-9][a-zA-Z0-9_-]{0,9}`).Draw(t, "pool") + "-" + i.Driver + "0"
		}
		if i.State != source.Released {
			i.OnStop = rapid.SampledFrom([]string{"", source.Retain, source.Release}).Draw(t, "onStop")
		}
		return i
	})
}

// ask asks for some of the settings that are lists and mappings.
func ask(t *rapid.T, i *source.Interface) {
	number := func(label string) *int {
		n := rapid.IntRange(1, maxSetting).Draw(t, label)
		return &n
	}
	if rapid.Bool().Draw(t, "names") {
		i.AltNames = rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z"'#,{}\[\]&*!|>._-]{0,30}[a-z]`), 1, 4, rapid.ID[string]).Draw(t, "altNames")
	}
	if rapid.Bool().Draw(t, "channels") {
		i.Channels = &source.Channels{Combined: number("combined")}
	}
	if rapid.Bool().Draw(t, "rings") {
		i.Rings = &source.Rings{RX: number("rx"), TX: number("tx")}
	}
	if rapid.Bool().Draw(t, "features") {
		i.Features = rapid.MapOfN(rapid.StringMatching(`q[a-z0-9_-]{0,30}`), rapid.Bool(), 1, 4).Draw(t, "by name")
	}
}

func selector(t *rapid.T) source.Selector {
	switch rapid.IntRange(0, 2).Draw(t, "selector") {
	case 0:
		return source.Selector{PCI: drivers.Target(rapid.StringMatching(`[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]`).Draw(t, "pci"))}
	case 1:
		mac := rapid.SliceOfN(rapid.Byte(), 6, 6).Draw(t, "mac")
		mac[0] = mac[0]&^1 | 2
		return source.Selector{MAC: net.HardwareAddr(mac).String()}
	default:
		return source.Selector{Name: rapid.StringMatching(`[a-z0-9@%#&*!|>?_+=,\[\]{}"'\x60.-]{0,12}[a-z0-9]`).Draw(t, "name")}
	}
}

// render writes the interfaces, in block or flow style, plain or in quotes,
// the fields in any order.
func render(t *rapid.T, list []source.Interface) string {
	s := "apiVersion: eniagent/v1alpha1\n" + "interfaces:\n"
	for _, i := range list {
		fields := rendered(t, i)
		if i.Pool != "" {
			fields = append(fields, fmt.Sprintf("pool: %q", i.Pool))
		}
		if i.OnStop != "" {
			fields = append(fields, "onStop: "+i.OnStop)
		}
		fields = rapid.Permutation(fields).Draw(t, "order")
		if rapid.Bool().Draw(t, "flow") {
			s += "- {" + strings.Join(fields, ", ") + "}\n"
			continue
		}
		s += "- " + strings.Join(fields, " # why\n  ") + "\n"
	}
	return s
}

func rendered(t *rapid.T, i source.Interface) []string {
	var fields []string
	switch sel := i.Selector; {
	case sel.PCI != "":
		address := string(sel.PCI)
		if rapid.Bool().Draw(t, "short") {
			address = strings.TrimPrefix(address, "0000:")
		}
		if rapid.Bool().Draw(t, "upper") {
			address = strings.ToUpper(address)
		}
		fields = append(fields, fmt.Sprintf("pci: %q", address))
	case sel.MAC != "":
		mac := sel.MAC
		if rapid.Bool().Draw(t, "dashes") {
			mac = strings.ReplaceAll(mac, ":", "-")
		}
		fields = append(fields, "mac: '"+mac+"'")
	default:
		fields = append(fields, fmt.Sprintf("name: %q", sel.Name))
	}
	if i.Driver != "" {
		fields = append(fields, "driver: "+rapid.SampledFrom([]string{i.Driver, `"` + i.Driver + `"`}).Draw(t, "quoted"))
	}
	if i.MTU != 0 {
		fields = append(fields, fmt.Sprintf("mtu: %d", i.MTU))
	}
	if i.Up != nil {
		fields = append(fields, fmt.Sprintf("up: %t", *i.Up))
	}
	if i.AltNames != nil {
		var names []string
		for _, n := range i.AltNames {
			names = append(names, fmt.Sprintf("%q", n))
		}
		fields = append(fields, "altNames: ["+strings.Join(names, ", ")+"]")
	}
	if i.Channels != nil {
		fields = append(fields, fmt.Sprintf("channels: {combined: %d}", *i.Channels.Combined))
	}
	if i.Rings != nil {
		fields = append(fields, fmt.Sprintf("rings: {rx: %d, tx: %d}", *i.Rings.RX, *i.Rings.TX))
	}
	if i.Features != nil {
		var features []string
		for name, on := range i.Features {
			features = append(features, fmt.Sprintf("%s: %t", name, on))
		}
		fields = append(fields, "features: {"+strings.Join(features, ", ")+"}")
	}
	if i.State == source.Released || rapid.Bool().Draw(t, "state") {
		fields = append(fields, "state: "+string(i.State))
	}
	return fields
}
