package all

import (
	"fmt"

	"eniagent/drivers"
	"eniagent/drivers/deviceplugin"
	"eniagent/drivers/dpdk"
	"eniagent/drivers/host"
	"eniagent/drivers/link"
	"eniagent/drivers/module"
	"eniagent/drivers/sriov"
)

type kind struct {
	spec drivers.Spec
	new  func(host.Host) drivers.Driver
}

func kinds() []kind {
	list := []kind{
		{module.Spec(), module.New},
		{dpdk.NoIOMMUSpec(), dpdk.NewNoIOMMU},
		{sriov.NumVFsSpec(), sriov.NewNumVFs},
		{dpdk.DriverSpec(), dpdk.NewDriver},
		{link.NameSpec(), link.NewName},
		{link.MACSpec(), link.NewMAC},
		{link.MTUSpec(), link.NewMTU},
		{link.AltNamesSpec(), link.NewAltNames},
		{link.ChannelsSpec(), link.NewChannels},
		{link.RingsSpec(), link.NewRings},
		{link.FeaturesSpec(), link.NewFeatures},
		{link.AdminSpec(), link.NewAdmin},
		{deviceplugin.Spec(), deviceplugin.New},
	}
	for _, s := range sriov.AttributeSpecs() {
		list = append(list, kind{s, sriov.NewAttribute(s.Kind)})
	}
	return list
}

// Specs are the kinds as they are on any machine.
func Specs() drivers.Specs {
	var specs drivers.Specs
	for _, k := range kinds() {
		if _, twice := specs.Find(k.spec.Kind); twice {
			panic(fmt.Sprintf("kind %q is registered twice", k.spec.Kind))
		}
		specs = append(specs, k.spec)
	}
	return specs
}

// New is every kind's driver on one host.
func New(h host.Host) drivers.Set {
	set := drivers.Set{Specs: Specs(), Drivers: map[drivers.Kind]drivers.Driver{}}
	for _, k := range kinds() {
		set.Drivers[k.spec.Kind] = k.new(h)
	}
	return set
}
