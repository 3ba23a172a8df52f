package drivers

// Settled is a state of a kind without what a netdev that is still to be made
// anew has instead of it (Spec.Probed).
func (s Spec) Settled(x State) State {
	if s.Probed == nil {
		return x
	}
	bare, _ := s.Probed(x)
	return bare
}

// Renews says whether the way from one state to another takes making the netdev
// anew, for a driver to take it up (Spec.Probed). One that has the other state
// already is as it shall be.
func (s Spec) Renews(from, to State) bool {
	if s.Probed == nil || len(s.Hops(from, to)) == 0 {
		return false
	}
	_, instead := s.Probed(from)
	return instead != to
}

// Renews says whether bringing a function from the first to the last of its
// states makes its netdev anew for a driver to take one up.
func (ss Specs) Renews(t Target, states map[Key][]State) bool {
	for k, all := range states {
		spec, _ := ss.Find(k.Kind)
		if k.Target == t && len(all) > 0 && spec.Renews(all[0], all[len(all)-1]) {
			return true
		}
	}
	return false
}
