package drivers

import "slices"

// Moved says whether changing keys from one state to another, the first and the
// last of those each has here, may change the state of k besides (Spec.Moves).
func (ss Specs) Moved(k Key, states map[Key][]State) bool {
	for by, all := range states {
		if by.Target != k.Target || by.Kind == k.Kind || len(all) == 0 || all[0] == all[len(all)-1] {
			continue
		}
		if spec, ok := ss.Find(by.Kind); ok && slices.Contains(spec.Moves, k.Kind) {
			return true
		}
	}
	return false
}
