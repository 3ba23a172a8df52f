package agent

import (
	"context"
	"errors"
	"slices"

	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/drivers/sriov"
)

// Some functions tell what addresses their VFs have only while these exist. Their
// VFs are made in two operations: the first makes as many as are asked for, with
// the kernel's probing off, so that no driver takes them; the second, once their
// addresses are seen, does with them what is asked and puts the switch back. That
// the switch is off says that the second is still to come, after a crash too.

// vfAddresses are those of a function's n VFs: seen, foreseen, or remembered from
// when there were as many of them, for they depend on their number alone.
func (v View) vfAddresses(ctx context.Context, pf drivers.Target, n int) ([]drivers.Target, error) {
	all, err := sriov.Addresses(ctx, v.Host, pf, n)
	if !errors.Is(err, sriov.ErrUntold) {
		return all, err
	}
	id, ierr := host.Identify(ctx, v.Host, pf)
	key := drivers.Key{Kind: sriov.KindNumVFs, Target: pf}
	for _, op := range v.Records.History(0) {
		was := op.Identity[pf].Incarnation
		if op.BootID != v.BootID || ierr != nil || was != 0 && id.Incarnation != 0 && was != id.Incarnation {
			continue
		}
		for _, c := range op.Changes {
			for _, s := range []drivers.State{c.After, c.Before} {
				if vfs, perr := sriov.Parse(s); c.Key == key && perr == nil && len(vfs.Addresses) == n {
					return vfs.Addresses, nil
				}
			}
		}
	}
	return nil, err
}

// firstMake is what is asked of a function first whose VFs are to be made and do
// not have their addresses yet: others than these go before.
func firstMake(n int, probed bool, now drivers.State) sriov.VFs {
	if is, err := sriov.Parse(now); err == nil && len(is.Addresses) > 0 {
		return sriov.VFs{Autoprobe: probed}
	}
	return sriov.VFs{Count: n}
}

// makingUntold says that an operation is open that makes as many VFs as are
// asked for: once it has made them their addresses are known, and it is wanted
// all the same.
func (v View) makingUntold(key drivers.Key, r *request) (n int, ok bool) {
	for _, op := range v.Records.Operations() {
		i := slices.IndexFunc(op.States()[key], func(s drivers.State) bool {
			vfs, err := sriov.Parse(s)
			n = vfs.Count
			return err == nil && n > 0 && n == max(r.untold, len(r.makes))
		})
		if i >= 0 {
			return n, true
		}
	}
	return 0, false
}

// makingOf is how virtual functions come to their drivers.
type makingOf struct {
	just   bool // they are there, and were left without drivers when they were made
	probed bool // the kernel finds them theirs
}

// justMade says how the virtual functions of a function are made that is to go
// from one state to another.
func justMade(now, want drivers.State) makingOf {
	is, err := sriov.Parse(now)
	goal, gerr := sriov.Parse(want)
	return makingOf{
		just:   err == nil && gerr == nil && !is.Autoprobe && goal.Autoprobe && len(is.Addresses) > 0 && slices.Equal(is.Addresses, goal.Addresses),
		probed: gerr != nil || goal.Autoprobe,
	}
}
