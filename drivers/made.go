package drivers

import "slices"

// Maker finds, among keys and the states each of them has or is to have, the
// one whose states make the target. Whether these states make it anew says
// remade.
func (ss Specs) Maker(t Target, states map[Key][]State) (maker Key, remade, ok bool) {
	for k, all := range states {
		spec, _ := ss.Find(k.Kind)
		if spec.Makes == nil {
			continue
		}
		for _, s := range all {
			if slices.Contains(spec.Makes(s), t) {
				maker, ok = k, true
			}
			remade = remade || !slices.Equal(spec.Makes(s), spec.Makes(all[0]))
		}
		if ok {
			return maker, remade, true
		}
		remade = false
	}
	return Key{}, false, false
}
