package host_test

import (
	"errors"
	"strings"
	"testing"

	"eniagent/drivers"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
)

const noiommu = "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode"

func sysfs(t drivers.Target, path, value string) host.Call {
	return host.Call{Op: host.OpSysfs, Target: t, Path: path, Value: value}
}

const (
	poolFile   = "/etc/pcidp/config.json"
	poolTarget = drivers.Target("file/" + poolFile + "#a/b")
)

// TestFilesOfTheOptions: other files than the default ones are written when the
// options name them, if they can be a configuration at all.
func TestFilesOfTheOptions(t *testing.T) {
	rules := host.Rules{Files: []string{"/srv/dp.d/a-1.json", "/etc/passwd", "/etc/../x.json", "/etc/.x.json", "/x y.json"}}
	for _, file := range rules.Files {
		c := host.Call{Op: host.OpReplace, Target: drivers.Target("file/" + file + "#a/b"), Path: file, Value: "{}"}
		if err := rules.Allowed(c); (err == nil) != (file == rules.Files[0]) {
			t.Errorf("%s: %v", file, err)
		}
	}
	c := host.Call{Op: host.OpReplace, Target: poolTarget, Path: poolFile, Value: "{}"}
	if err := rules.Allowed(c); !errors.Is(err, drivers.ErrIllegal) {
		t.Errorf("the default file: %v, want ErrIllegal", err)
	}
}

func TestAllowed(t *testing.T) {
	const address = string(vf0)
	for _, c := range []host.Call{
		sysfs(vf0, "/sys/bus/pci/devices/"+address+"/driver_override", "vfio-pci\n"),
		sysfs(vf0, "/sys/bus/pci/devices/"+address+"/driver_override", "vfio-pci"),
		sysfs(vf0, "/sys/bus/pci/devices/"+address+"/driver_override", "\n"),
		sysfs(vf0, "/sys/bus/pci/drivers/igbvf/unbind", address),
		sysfs(vf0, "/sys/bus/pci/drivers/vfio-pci/bind", address),
		sysfs(vf0, "/sys/bus/pci/drivers_probe", address),
		sysfs(dpdk.NoIOMMUTarget, noiommu, "Y"),
		sysfs(dpdk.NoIOMMUTarget, noiommu, "N"),
		{Op: host.OpMTU, Target: vf0, Index: 3, Number: 68},
		{Op: host.OpMTU, Target: vf0, Index: 3, Number: 65535},
		{Op: host.OpAdmin, Target: vf0, Index: 3, Number: 0},
		{Op: host.OpAdmin, Target: vf0, Index: 3, Number: 1},
		{Op: host.OpAltName, Target: vf0, Index: 3, Number: 1, Value: "eni0"},
		{Op: host.OpAltName, Target: vf0, Index: 3, Number: 0, Value: "any text: a name/of 127 bytes"},
		{Op: host.OpAltName, Target: vf0, Index: 3, Number: 1, Value: strings.Repeat("x", 127)},
		{Op: host.OpChannels, Target: vf0, Index: 3, Value: "rx=0 tx=0 combined=4"},
		{Op: host.OpChannels, Target: vf0, Index: 3, Value: "rx=1 tx=1 combined=0"},
		{Op: host.OpRings, Target: vf0, Index: 3, Value: "rx=1024 mini=0 jumbo=0 tx=4096"},
		{Op: host.OpFeature, Target: vf0, Index: 3, Number: 1, Value: "tx-tcp-segmentation"},
		{Op: host.OpFeature, Target: vf0, Index: 3, Number: 0, Value: "highdma"},
		{Op: host.OpFeature, Target: vf0, Index: 3, Number: 0, Value: "tx-udp_tnl-csum-segmentation"},
		{Op: host.OpVFMAC, Target: vf0, Index: 3, Number: 0, Value: "52:54:00:00:01:00"},
		{Op: host.OpVFMAC, Target: vf0, Index: 3, Number: 255, Value: host.NoMAC},
		{Op: host.OpVFVLAN, Target: vf0, Index: 3, Value: "id=4094 qos=7 protocol=802.1ad"},
		{Op: host.OpVFVLAN, Target: vf0, Index: 3, Value: "id=0 qos=0 protocol=802.1Q"},
		{Op: host.OpVFTrust, Target: vf0, Index: 3, Value: "on"},
		{Op: host.OpVFSpoofCheck, Target: vf0, Index: 3, Value: "off"},
		{Op: host.OpVFState, Target: vf0, Index: 3, Value: "disable"},
		{Op: host.OpVFRate, Target: vf0, Index: 3, Value: "min=10 max=0"},
		{Op: host.OpLoad, Target: "module/vfio", Path: "/lib/modules/6.12.95+deb13-cloud-amd64/kernel/drivers/vfio/vfio.ko.xz"},
		{Op: host.OpLoad, Target: "module/vfio", Path: "/lib/modules/6.8.0~rc1/updates/dkms/vfio.ko"},
		{Op: host.OpLoad, Target: "module/igb", Path: "/lib/modules/6.1/igb.ko", Value: `max_vfs=2 ids="8086:1, 8086:2"`},
		{Op: host.OpUnload, Target: "module/vfio_pci", Value: "vfio_pci"},
		{Op: host.OpReplace, Target: poolTarget, Path: poolFile, Value: "{}"},
		{Op: host.OpReplace, Target: poolTarget, Path: poolFile, Value: "\ufeff{}\r\n", Was: host.Digest("")},
		{Op: host.OpSync, Target: poolTarget, Path: poolFile},
	} {
		if err := host.Allowed(c); err != nil {
			t.Error(err)
		}
	}
}

func TestNotAllowed(t *testing.T) {
	const address, override = string(vf0), "/sys/bus/pci/devices/0000:01:10.0/driver_override"
	for name, c := range map[string]host.Call{
		"nothing":                       {},
		"a file of somebody else":       {Op: host.OpReplace, Target: "file//etc/other.json#a/b", Path: "/etc/other.json", Value: "{}"},
		"a file that is no JSON":        {Op: host.OpReplace, Target: "file//etc/passwd#a/b", Path: "/etc/passwd", Value: "{}"},
		"another file than the target":  {Op: host.OpReplace, Target: "file//etc/other.json#a/b", Path: poolFile, Value: "{}"},
		"a file and a function":         {Op: host.OpReplace, Target: vf0, Path: poolFile, Value: "{}"},
		"what is no JSON":               {Op: host.OpReplace, Target: poolTarget, Path: poolFile, Value: "{"},
		"an empty file":                 {Op: host.OpReplace, Target: poolTarget, Path: poolFile},
		"a file that is too large":      {Op: host.OpReplace, Target: poolTarget, Path: poolFile, Value: `"` + strings.Repeat("x", host.MaxFile) + `"`},
		"what is no digest":             {Op: host.OpReplace, Target: poolTarget, Path: poolFile, Value: "{}", Was: "x"},
		"a digest of a function":        {Op: host.OpMTU, Target: vf0, Index: 3, Number: 1500, Was: host.Digest("")},
		"a sync with a value":           {Op: host.OpSync, Target: poolTarget, Path: poolFile, Value: "{}"},
		"a sync of another file":        {Op: host.OpSync, Target: "file//etc/other.json#a/b", Path: "/etc/other.json"},
		"another operation":             {Op: "rm", Target: vf0, Path: override},
		"another function's override":   sysfs(vf1, override, "\n"),
		"another function's address":    sysfs(vf0, "/sys/bus/pci/drivers/igbvf/unbind", string(vf1)),
		"no target":                     sysfs("", override, "\n"),
		"a module as target":            sysfs("module/vfio", override, "\n"),
		"dots in the path":              sysfs(vf0, "/sys/bus/pci/devices/0000:01:10.0/../0000:01:10.2/driver_override", "\n"),
		"dots to elsewhere":             sysfs(vf0, "/sys/bus/pci/drivers/../../../../etc/passwd/bind", address),
		"dots for a driver":             sysfs(vf0, "/sys/bus/pci/drivers/../bind", address),
		"a driver with a slash":         sysfs(vf0, "/sys/bus/pci/drivers/a/b/bind", address),
		"a driver that is empty":        sysfs(vf0, "/sys/bus/pci/drivers//bind", address),
		"a driver that is too long":     sysfs(vf0, "/sys/bus/pci/drivers/"+strings.Repeat("x", 65)+"/bind", address),
		"a driver with a newline":       sysfs(vf0, "/sys/bus/pci/drivers/a\nb/bind", address),
		"a path with a newline":         sysfs(vf0, "/sys/bus/pci/drivers/igb/bind\n", address),
		"a path with a NUL":             sysfs(vf0, override+"\x00", "\n"),
		"two slashes":                   sysfs(vf0, "/sys/bus/pci/devices//0000:01:10.0/driver_override", "\n"),
		"a relative path":               sysfs(vf0, "sys/bus/pci/drivers_probe", address),
		"new_id":                        sysfs(vf0, "/sys/bus/pci/drivers/vfio-pci/new_id", "8086 10ca"),
		"remove":                        sysfs(vf0, "/sys/bus/pci/devices/0000:01:10.0/remove", "1"),
		"reset":                         sysfs(vf0, "/sys/bus/pci/devices/0000:01:10.0/reset", "1"),
		"rescan":                        sysfs(vf0, "/sys/bus/pci/rescan", "1"),
		"an override of two lines":      sysfs(vf0, override, "vfio-pci\nigb"),
		"an override after a newline":   sysfs(vf0, override, "\nigb"),
		"an override of two newlines":   sysfs(vf0, override, "\n\n"),
		"an override that is a NUL":     sysfs(vf0, override, "\x00"),
		"an override with a slash":      sysfs(vf0, override, "a/b\n"),
		"an override of no bytes":       sysfs(vf0, override, ""),
		"an override with a space":      sysfs(vf0, override, "a b\n"),
		"an address and a newline":      sysfs(vf0, "/sys/bus/pci/drivers_probe", address+"\n"),
		"a parameter's other value":     sysfs(dpdk.NoIOMMUTarget, noiommu, "1"),
		"a parameter and a newline":     sysfs(dpdk.NoIOMMUTarget, noiommu, "Y\n"),
		"a parameter of another target": sysfs("param/other/enable_unsafe_noiommu_mode", noiommu, "Y"),
		"a parameter for a function":    sysfs(vf0, noiommu, "Y"),
		"another parameter":             sysfs("param/kvm/x", "/sys/module/kvm/parameters/x", "Y"),
		"an MTU of a module":            {Op: host.OpMTU, Target: "module/x", Index: 3, Number: 1500},
		"an MTU of no netdev":           {Op: host.OpMTU, Target: vf0, Number: 1500},
		"an MTU of a negative one":      {Op: host.OpMTU, Target: vf0, Index: -1, Number: 1500},
		"an MTU too small":              {Op: host.OpMTU, Target: vf0, Index: 3, Number: 67},
		"an MTU too large":              {Op: host.OpMTU, Target: vf0, Index: 3, Number: 65536},
		"admin of something else":       {Op: host.OpAdmin, Target: vf0, Index: 3, Number: 2},
		"admin of no netdev":            {Op: host.OpAdmin, Target: vf0, Number: 1},
		"a name of no netdev":           {Op: host.OpAltName, Target: vf0, Number: 1, Value: "x"},
		"a name of a module":            {Op: host.OpAltName, Target: "module/x", Index: 3, Number: 1, Value: "x"},
		"a name of no bytes":            {Op: host.OpAltName, Target: vf0, Index: 3, Number: 1},
		"a name that is too long":       {Op: host.OpAltName, Target: vf0, Index: 3, Number: 1, Value: strings.Repeat("x", 128)},
		"a name with a NUL":             {Op: host.OpAltName, Target: vf0, Index: 3, Number: 1, Value: "a\x00b"},
		"a name that is no text":        {Op: host.OpAltName, Target: vf0, Index: 3, Number: 1, Value: "\xff"},
		"a name, neither there nor not": {Op: host.OpAltName, Target: vf0, Index: 3, Number: 2, Value: "x"},
		"no name":                       {Op: host.OpName, Target: vf0, Index: 3},
		"a name of 16 bytes":            {Op: host.OpName, Target: vf0, Index: 3, Value: strings.Repeat("x", 16)},
		"a name with a slash":           {Op: host.OpName, Target: vf0, Index: 3, Value: "a/b"},
		"a name that is a pattern":      {Op: host.OpName, Target: vf0, Index: 3, Value: "eth%d"},
		"a name of a space":             {Op: host.OpName, Target: vf0, Index: 3, Value: "a b"},
		"a rename of no netdev":         {Op: host.OpName, Target: vf0, Value: "eth0"},
		"a netdev's MAC of many":        {Op: host.OpMAC, Target: vf0, Index: 3, Value: "01:00:5e:00:00:01"},
		"a netdev's MAC of zeros":       {Op: host.OpMAC, Target: vf0, Index: 3, Value: host.NoMAC},
		"a netdev's MAC of a module":    {Op: host.OpMAC, Target: "module/x", Index: 3, Value: "52:54:00:00:01:00"},
		"no channels":                   {Op: host.OpChannels, Target: vf0, Index: 3, Value: "rx=0 tx=0 combined=0"},
		"channels to send by only":      {Op: host.OpChannels, Target: vf0, Index: 3, Value: "rx=0 tx=4 combined=0"},
		"channels in another order":     {Op: host.OpChannels, Target: vf0, Index: 3, Value: "combined=4 rx=0 tx=0"},
		"channels below zero":           {Op: host.OpChannels, Target: vf0, Index: 3, Value: "rx=0 tx=0 combined=-1"},
		"channels without a count":      {Op: host.OpChannels, Target: vf0, Index: 3, Value: "rx= tx=0 combined=1"},
		"channels and more":             {Op: host.OpChannels, Target: vf0, Index: 3, Value: "rx=0 tx=0 combined=1 x=1"},
		"rings that wrap around":        {Op: host.OpRings, Target: vf0, Index: 3, Value: "rx=4294967296 mini=0 jumbo=0 tx=1"},
		"rings by half":                 {Op: host.OpRings, Target: vf0, Index: 3, Value: "rx=1 mini=0"},
		"rings of no netdev":            {Op: host.OpRings, Target: vf0, Value: "rx=1 mini=0 jumbo=0 tx=1"},
		"rings with a zero before":      {Op: host.OpRings, Target: vf0, Index: 3, Value: "rx=01 mini=0 jumbo=0 tx=1"},
		"a feature with a space":        {Op: host.OpFeature, Target: vf0, Index: 3, Value: "a b"},
		"a feature without a name":      {Op: host.OpFeature, Target: vf0, Index: 3},
		"a feature and more":            {Op: host.OpFeature, Target: vf0, Index: 3, Value: "rx-gro\x00x"},
		"a feature that is too long":    {Op: host.OpFeature, Target: vf0, Index: 3, Value: strings.Repeat("x", 32)},
		"a feature, half on":            {Op: host.OpFeature, Target: vf0, Index: 3, Number: 2, Value: "highdma"},
		"a MAC of many":                 {Op: host.OpVFMAC, Target: vf0, Index: 3, Value: "01:00:5e:00:00:01"},
		"a MAC of 8 bytes":              {Op: host.OpVFMAC, Target: vf0, Index: 3, Value: "52:54:00:00:01:00:00:00"},
		"a MAC in capitals":             {Op: host.OpVFMAC, Target: vf0, Index: 3, Value: "52:54:00:00:01:0A"},
		"a MAC with dashes":             {Op: host.OpVFMAC, Target: vf0, Index: 3, Value: "52-54-00-00-01-00"},
		"a MAC by no netdev":            {Op: host.OpVFMAC, Target: vf0, Value: host.NoMAC},
		"a MAC of VF 256":               {Op: host.OpVFMAC, Target: vf0, Index: 3, Number: 256, Value: host.NoMAC},
		"a MAC of VF -1":                {Op: host.OpVFMAC, Target: vf0, Index: 3, Number: -1, Value: host.NoMAC},
		"a MAC of a module":             {Op: host.OpVFMAC, Target: "module/x", Index: 3, Value: host.NoMAC},
		"VLAN 4095":                     {Op: host.OpVFVLAN, Target: vf0, Index: 3, Value: "id=4095 qos=0 protocol=802.1Q"},
		"QoS 8":                         {Op: host.OpVFVLAN, Target: vf0, Index: 3, Value: "id=1 qos=8 protocol=802.1Q"},
		"a VLAN of another protocol":    {Op: host.OpVFVLAN, Target: vf0, Index: 3, Value: "id=1 qos=0 protocol=0x9100"},
		"no VLAN of a protocol":         {Op: host.OpVFVLAN, Target: vf0, Index: 3, Value: "id=0 qos=0 protocol=802.1ad"},
		"half trust":                    {Op: host.OpVFTrust, Target: vf0, Index: 3, Value: "-"},
		"checks that are 1":             {Op: host.OpVFSpoofCheck, Target: vf0, Index: 3, Value: "1"},
		"a VF that is up":               {Op: host.OpVFState, Target: vf0, Index: 3, Value: "up"},
		"a rate upside down":            {Op: host.OpVFRate, Target: vf0, Index: 3, Value: "min=2 max=1"},
		"a rate of one number":          {Op: host.OpVFRate, Target: vf0, Index: 3, Value: "max=1"},
		"a module elsewhere":            {Op: host.OpLoad, Target: "module/x", Path: "/tmp/x.ko"},
		"a module by dots":              {Op: host.OpLoad, Target: "module/x", Path: "/lib/modules/6.1/../../../tmp/x.ko"},
		"a release of dots":             {Op: host.OpLoad, Target: "module/x", Path: "/lib/modules/../x.ko"},
		"a module by one dot":           {Op: host.OpLoad, Target: "module/x", Path: "/lib/modules/6.1/./x.ko"},
		"a module that is none":         {Op: host.OpLoad, Target: "module/x", Path: "/lib/modules/6.1/x.so"},
		"a module and more":             {Op: host.OpLoad, Target: "module/x", Path: "/lib/modules/6.1/x.ko/y"},
		"a module and a newline":        {Op: host.OpLoad, Target: "module/x", Path: "/lib/modules/6.1/x.ko\n"},
		"another module's file":         {Op: host.OpLoad, Target: "module/x", Path: "/lib/modules/6.1/y.ko"},
		"a module with two lines":       {Op: host.OpLoad, Target: "module/x", Path: "/lib/modules/6.1/x.ko", Value: "a=1\nb=2"},
		"a module with a NUL":           {Op: host.OpLoad, Target: "module/x", Path: "/lib/modules/6.1/x.ko", Value: "a=1\x00"},
		"a module for a function":       {Op: host.OpLoad, Target: vf0, Path: "/lib/modules/6.1/x.ko"},
		"another module to unload":      {Op: host.OpUnload, Target: "module/x", Value: "y"},
		"no module to unload":           {Op: host.OpUnload, Target: vf0, Value: "x"},
	} {
		if err := host.Allowed(c); !errors.Is(err, drivers.ErrIllegal) {
			t.Errorf("%s: %+v: %v, want ErrIllegal", name, c, err)
		}
	}
}

func TestCallText(t *testing.T) {
	for _, tc := range []struct {
		call        host.Call
		label, text string
	}{
		{override(vf0, "x"), "override", `echo "x\n" > /sys/bus/pci/devices/0000:01:10.0/driver_override`},
		{sysfs(vf0, host.DriversProbe, "a"), "probe", `echo "a" > /sys/bus/pci/drivers_probe`},
		{sysfs(vf0, "/sys/bus/pci/drivers/igb/bind", "a"), "bind", `echo "a" > /sys/bus/pci/drivers/igb/bind`},
		{sysfs(vf0, "/sys/bus/pci/drivers/igb/unbind", "a"), "unbind", `echo "a" > /sys/bus/pci/drivers/igb/unbind`},
		{sysfs(vf0, noiommu, "Y"), "param", `echo "Y" > ` + noiommu},
		{host.Call{Op: host.OpMTU, Index: 3, Number: 9000}, "mtu", "ip link set index 3 mtu 9000"},
		{host.Call{Op: host.OpAdmin, Index: 3, Number: 1}, "admin", "ip link set index 3 up"},
		{host.Call{Op: host.OpName, Index: 3, Value: "eth1"}, "name", "ip link set index 3 name eth1"},
		{host.Call{Op: host.OpMAC, Index: 3, Value: "52:54:00:00:01:00"}, "mac", "ip link set index 3 address 52:54:00:00:01:00"},
		{host.Call{Op: host.OpAltName, Index: 3, Number: 1, Value: "eni0"}, "altname", `ip link property add index 3 altname "eni0"`},
		{host.Call{Op: host.OpAltName, Index: 3, Value: "eni0"}, "altname", `ip link property del index 3 altname "eni0"`},
		{host.Call{Op: host.OpChannels, Index: 3, Value: "rx=0 tx=0 combined=4"}, "channels", "ethtool -L index 3 rx=0 tx=0 combined=4"},
		{host.Call{Op: host.OpRings, Index: 3, Value: "rx=1 mini=0 jumbo=0 tx=1"}, "rings", "ethtool -G index 3 rx=1 mini=0 jumbo=0 tx=1"},
		{host.Call{Op: host.OpFeature, Index: 3, Number: 1, Value: "rx-gro"}, "feature", "ethtool -K index 3 rx-gro on"},
		{host.Call{Op: host.OpVFMAC, Index: 3, Number: 1, Value: host.NoMAC}, "vf.mac", "ip link set index 3 vf 1 mac 00:00:00:00:00:00"},
		{host.Call{Op: host.OpVFVLAN, Index: 3, Number: 1, Value: "id=5 qos=2 protocol=802.1ad"}, "vf.vlan", "ip link set index 3 vf 1 vlan 5 qos 2 proto 802.1ad"},
		{host.Call{Op: host.OpVFTrust, Index: 3, Number: 1, Value: "on"}, "vf.trust", "ip link set index 3 vf 1 trust on"},
		{host.Call{Op: host.OpVFSpoofCheck, Index: 3, Value: "off"}, "vf.spoofchk", "ip link set index 3 vf 0 spoofchk off"},
		{host.Call{Op: host.OpVFState, Index: 3, Value: "auto"}, "vf.state", "ip link set index 3 vf 0 state auto"},
		{host.Call{Op: host.OpVFRate, Index: 3, Value: "min=1 max=2"}, "vf.rate", "ip link set index 3 vf 0 min_tx_rate 1 max_tx_rate 2"},
		{host.Call{Op: host.OpLoad, Path: "/x.ko"}, "load", "insmod /x.ko"},
		{host.Call{Op: host.OpUnload, Value: "x"}, "unload", "unload x"},
	} {
		if tc.call.Label() != tc.label || tc.call.String() != tc.text {
			t.Errorf("%q %q, want %q %q", tc.call.Label(), tc.call, tc.label, tc.text)
		}
	}
}
