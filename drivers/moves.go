package drivers

import "slices"

// Moved says whether changing keys from one state to another, the first and the
// last of those each has here, may change the state of k besides (Spec.Moves). So
// may a driver that is bound anew: what a VF has told is told on while it has none.
func (ss Specs) Moved(k Key, states map[Key][]State) bool {
	for by, all := range states {
		spec, ok := ss.Find(by.Kind)
		if !ok || by.Target != k.Target || len(all) == 0 || !slices.Contains(spec.Moves, k.Kind) {
			continue
		}
		if all[0] != all[len(all)-1] || spec.Renew != nil && ss.Renews(by.Target, states) {
			return true
		}
	}
	return false
}
