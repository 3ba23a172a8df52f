package walk

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// Steps is how many a random walk has.
const Steps = 10

// Name is that of the random walk of a seed.
func Name(seed uint64) string { return fmt.Sprintf("seed %d", seed) }

// Random are the steps of a seed.
func (m Machine) Random(seed uint64) []Step {
	r := rand.New(rand.NewPCG(seed, 0))
	steps := make([]Step, Steps)
	hero, module := m.PFs[0].vf(r.IntN(startVFs)), pick(r, moduleNames()...)
	for i := range steps {
		steps[i] = m.random(r, hero, module)
	}
	return steps
}

func moduleNames() []string {
	return []string{"vfio_pci", "vfio_pci", "vfio_pci_core", "vfio", "vfio_iommu_type1", "irqbypass", vfDriver, "uio_pci_generic", "uio", "nosuch"}
}

// random is mostly about one VF and one module, so that its steps build on
// each other, and seldom about a PF, whose driver takes seconds.
func (m Machine) random(r *rand.Rand, hero, module string) Step {
	a, b := m.PFs[0], m.PFs[1]
	vf := pick(r, hero, hero, hero, hero, hero, hero, a.vf(0), a.vf(1), a.vf(2))
	pf := pick(r, a.Address, b.Address)
	on := vf
	switch n := r.IntN(100); {
	case n < 7:
		on = pf
	case n < 9:
		on = b.vf(0)
	case n < 10:
		on = absent
	}
	link := pick(r, vf, vf, pf)
	switch n := r.IntN(100); {
	case n < 20:
		return Step{verb: setOverride, on: pick(r, on, on, pf), value: pick(r, overrides()...)}
	case n < 36:
		return Step{verb: unbind, on: on, driver: pick(r, "", "", "", "", "", vfDriver, "vfio-pci", noDriver)}
	case n < 54:
		return Step{verb: bind, on: on, driver: pick(r, "", "", "", "", "vfio-pci", vfDriver, pfDriver, "uio_pci_generic", noDriver, "pcieport")}
	case n < 66:
		return Step{verb: probe, on: on}
	case n < 75:
		return Step{verb: setMTU, on: link, number: pick(r, 67, 68, 576, 1500, 3000, 9000, 9216, 9217, 70000)}
	case n < 84:
		return Step{verb: setAdmin, on: link, number: r.IntN(2)}
	case n < 89:
		return Step{verb: setVFs, on: pick(r, pf, pf, pf, vf), value: pick(r, "0", "1", "2", "3", "7", "8", "9", "2\n", "0x2", "02", "+1", "-1", "1_0", "many", "70000")}
	case n < 93:
		return Step{verb: setAutoprobe, on: pick(r, pf, pf, pf, vf), value: pick(r, "0", "0", "0", "1", "1", "y", "off", "maybe", "2")}
	case n < 99:
		return Step{verb: pick(r, load, unload), on: pick(r, module, module, module, pick(r, moduleNames()...))}
	default:
		return pick(r, Step{verb: remove, on: pf, value: "1"}, Step{verb: rescan, value: "1"}, Step{verb: remove, on: pf, value: "0"})
	}
}

func overrides() []string {
	return []string{
		"vfio-pci", "vfio-pci", "vfio-pci", "vfio-pci\n", vfDriver, pfDriver, "uio_pci_generic", "none", "\n", "\n", "", "\x00",
		"vfio-pci\nmore", "two words", strings.Repeat("x", 4094), strings.Repeat("x", 4095), strings.Repeat("x", 5000),
	}
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }
