package sim

import (
	"fmt"
	"syscall"

	"eniagent/drivers/host"
)

// DefaultNode is a believable node for a demonstration: a management NIC that
// nobody should touch, and three Intel 82576 ports, one of which has two
// virtual functions and one of which tells the addresses of its late. The DPDK drivers are there as modules, not loaded.
func DefaultNode() Config {
	c := Config{
		Seed:    "demo",
		Release: "6.12.95-cloud-amd64",
		Modules: modules(),
		Files:   files(),
		Links:   []Netdev{{Name: "lo", Kind: "loopback", MAC: "00:00:00:00:00:00", MTU: 65536, Up: true}},
		Devices: []Device{
			{Address: "0000:00:00.0", Vendor: "0x8086", Device: "0x29c0", Class: "0x060000", IOMMUGroup: "0"},
			{
				Address: "0000:00:05.0", Vendor: "0x1d0f", Device: "0xec20", SubsystemVendor: "0x1d0f", SubsystemDevice: "0xec20",
				Class: "0x020000", IOMMUGroup: "1",
				Net: &Netdev{
					Name: "ens5", AltNames: []string{"enp0s5"}, MAC: "0a:1b:2c:3d:4e:5f", MTU: 1500, MinMTU: 128, MaxMTU: 9216, Up: true,
					Defaults: []host.Default{{Family: "IPv4", Table: 254}}, Addresses: []string{"10.0.0.5"},
					Set: &Settings{Settings: host.Settings{Features: Features("ena")}},
				},
			},
		},
	}
	for i, port := range []struct{ bridge, address, group, bridgeGroup, name, mac string }{
		{"0000:00:1c.0", "0000:01:00.0", "7", "4", "enp1s0", "52:54:00:00:00:01"},
		{"0000:00:1c.1", "0000:02:00.0", "10", "5", "enp2s0", "52:54:00:00:00:02"},
		{"0000:00:1c.2", "0000:03:00.0", "11", "6", "enp3s0", "52:54:00:00:00:03"},
	} {
		pf := igb(port.address, port.group, port.name, port.mac)
		pf.Bridge = port.bridge
		if i == 0 {
			pf.NumVFs, pf.BootVFs = 2, 2
		}
		pf.LateVFs = i == 2
		c.Devices = append(c.Devices,
			Device{Address: port.bridge, Vendor: "0x1b36", Device: "0x000c", Class: "0x060400", IOMMUGroup: port.bridgeGroup}, pf)
	}
	for port, groups := range [][]string{
		{"8", "9", "12", "13", "14", "15", "16"}, {"17", "18", "19", "20", "21", "22", "23"}, {"24", "25", "26", "27", "28", "29", "30"},
	} {
		for i, group := range groups {
			c.Devices = append(c.Devices, igbvf(port, i, group))
		}
	}
	return c
}

// igbvf is a virtual function of a port: First VF Offset 128, VF Stride 2.
func igbvf(port, index int, group string) Device {
	return Device{
		Address: fmt.Sprintf("0000:%02x:%02x.%x", port+1, 0x10+index*2/8, index*2%8),
		Vendor:  "0x8086", Device: "0x10ca", SubsystemVendor: "0x8086", SubsystemDevice: "0xa03c",
		Class: "0x020000", Bridge: fmt.Sprintf("0000:00:1c.%d", port), PF: fmt.Sprintf("0000:%02x:00.0", port+1), IOMMUGroup: group,
		Net: &Netdev{Name: fmt.Sprintf("enp%ds0v%d", port+1, index), MTU: 1500, MinMTU: 68, MaxMTU: 9216, Set: IGBVF()},
	}
}

func igb(address, group, name, mac string) Device {
	return Device{
		Address: address, Vendor: "0x8086", Device: "0x10c9", SubsystemVendor: "0x8086", SubsystemDevice: "0xa03c",
		Class: "0x020000", IOMMUGroup: group, TotalVFs: 7, BareVFs: 8,
		Net: &Netdev{Name: name, MAC: mac, PermMAC: mac, MTU: 1500, MinMTU: 68, MaxMTU: 9216, Set: IGB()},
	}
}

// IGB is what igb lets be set of an 82576 on a machine with four processors:
// its rings from 64 to 4096 in steps of 8, combined channels only, of which two
// are left while it has VFs (igb_get_max_rss_queues).
func IGB() *Settings {
	s := intelRings("igb")
	s.Channels, s.MaxChannels, s.MaxWithVFs = host.Channels{Combined: 4}, host.Channels{Combined: 8}, 2
	return s
}

// IGBVF is the same of igbvf, which has one queue and no ethtool operation for
// channels.
func IGBVF() *Settings { return intelRings("igbvf") }

// IGBVFs is what igb lets be set of its VFs (igb_netdev_ops).
func IGBVFs() *VFLimits {
	return &VFLimits{NoLinkState: true, Only8021Q: true, NoMinRate: true, Speed: 1000}
}

func intelRings(driver string) *Settings {
	s := &Settings{MinRing: 64, RingStep: 8}
	s.Rings, s.MaxRings = host.Rings{RX: 256, TX: 256}, host.Rings{RX: 4096, TX: 4096}
	s.Features = Features(driver)
	return s
}

func modules() []Module {
	return []Module{
		{Name: "pcieport", Path: "kernel/drivers/pci/pcie/pcieport.ko", Builtin: true, Drivers: []Driver{{Name: "pcieport", Match: []string{"class:0604"}, RefusesOthers: syscall.ENODEV}}},
		{Name: "virtio_pci", Path: "kernel/drivers/virtio/virtio_pci.ko", Builtin: true, Drivers: []Driver{
			{Name: "virtio-pci", Match: []string{"1af4:1000", "1af4:1041"}, Makes: MakesNet},
		}},
		{Name: "ena", Path: "kernel/drivers/net/ethernet/amazon/ena/ena.ko.xz", Boot: true, Drivers: []Driver{
			{Name: "ena", Match: []string{"1d0f:ec20", "1d0f:ec21"}, Makes: MakesNet},
		}},
		{Name: "dca", Path: "kernel/drivers/dca/dca.ko.xz"},
		{Name: "i2c_algo_bit", Path: "kernel/drivers/i2c/algos/i2c-algo-bit.ko.xz"},
		{Name: "igb", Path: "kernel/drivers/net/ethernet/intel/igb/igb.ko.xz", Boot: true, Needs: []string{"dca", "i2c_algo_bit"}, Drivers: []Driver{
			{Name: "igb", Match: []string{"8086:10c9"}, Makes: MakesNet, RefusesOthers: syscall.EINVAL, VFs: IGBVFs()},
		}},
		{Name: "igbvf", Path: "kernel/drivers/net/ethernet/intel/igbvf/igbvf.ko.xz", Boot: true, Drivers: []Driver{
			{Name: "igbvf", Match: []string{"8086:10ca"}, Makes: MakesNet, RandomIsPermanent: true},
		}},
		{
			Name: "vfio", Path: "kernel/drivers/vfio/vfio.ko.xz", SoftPost: []string{"vfio_iommu_type1"},
			Params: []Param{{Name: noIOMMUParam, Default: "N", Bool: true}},
		},
		{Name: "vfio_iommu_type1", Path: "kernel/drivers/vfio/vfio_iommu_type1.ko.xz", Needs: []string{"vfio"}},
		{Name: "irqbypass", Path: "kernel/virt/lib/irqbypass.ko.xz"},
		{Name: "vfio_pci_core", Path: "kernel/drivers/vfio/pci/vfio-pci-core.ko.xz", Needs: []string{"vfio", "irqbypass"}},
		{Name: "vfio_pci", Path: "kernel/drivers/vfio/pci/vfio-pci.ko.xz", Needs: []string{"vfio_pci_core", "vfio"}, Drivers: []Driver{
			{Name: "vfio-pci", Makes: MakesVFIO},
		}},
		{Name: "pci_stub", Path: "kernel/drivers/pci/pci-stub.ko.xz", Drivers: []Driver{{Name: "pci-stub"}}},
		{Name: "pci_pf_stub", Path: "kernel/drivers/pci/pci-pf-stub.ko.xz", Drivers: []Driver{
			{Name: "pci-pf-stub", Match: []string{"1d0f:0053"}, StubVFs: true},
		}},
		{Name: "uio", Path: "kernel/drivers/uio/uio.ko.xz"},
		{Name: "uio_pci_generic", Path: "kernel/drivers/uio/uio_pci_generic.ko.xz", Needs: []string{"uio"}, Drivers: []Driver{
			{Name: "uio_pci_generic", Makes: MakesUIO},
		}},
		{Name: "igb_uio", Path: "extra/igb_uio.ko.xz", OutOfTree: true, Needs: []string{"uio"}, Drivers: []Driver{
			{Name: "igb_uio", Makes: MakesUIO},
		}},
	}
}

func files() map[string]string {
	return map[string]string{
		"/etc/machine-id":                    "5f0c1d7a2b3e4f6089abcdef01234567",
		"/etc/hostname":                      "node-1",
		"/proc/cmdline":                      "BOOT_IMAGE=/vmlinuz root=/dev/nvme0n1p1 ro intel_iommu=on iommu=pt",
		"/proc/meminfo":                      "MemTotal:       16308940 kB\nMemFree:        12004512 kB\nMemAvailable:   14220132 kB\nHugePages_Total:     512\nHugePages_Free:      512\nHugepagesize:       2048 kB",
		"/proc/mounts":                       "hugetlbfs /dev/hugepages hugetlbfs rw,relatime,pagesize=2M 0 0",
		"/proc/net/route":                    "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\nens5\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\nens5\t0000000A\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0",
		"/sys/class/iommu/dmar0/type":        "intel-iommu",
		"/sys/kernel/security/lockdown":      "[none] integrity confidentiality",
		"/sys/firmware/efi/fw_platform_size": "64",
		"/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages":      "512",
		"/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages":    "512",
		"/sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages":    "0",
		"/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages":   "0",
		"/sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages": "0",
	}
}
