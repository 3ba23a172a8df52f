package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"eniagent/agent/source"
	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/drivers/link"
	"eniagent/drivers/sriov"
	"eniagent/journal"
)

// A part that an entry asked for once and no longer does, while it still asks for
// others of the same kind, is a leftover too. The goals in the journal say the
// whole state of a kind. Which parts of it were asked say the entries in the
// document beside them, and of those that were not given back yet, its Parts.

// backwards are the kinds of which an entry may name a part: each func is the
// state at in which the named parts are as they are in the state to.
func backwards() map[drivers.Kind]func(at, to drivers.State, names []string) (drivers.State, error) {
	return map[drivers.Kind]func(at, to drivers.State, names []string) (drivers.State, error){
		link.KindAltNames: link.AltNamesBack,
		link.KindFeatures: link.FeaturesBack,
		link.KindChannels: func(at, to drivers.State, names []string) (drivers.State, error) {
			was, err := host.ParseChannels(string(to))
			if err != nil {
				return "", err
			}
			return link.WithChannels(at, func(n *host.Channels) {
				putNamed(names, number{"rx", &n.RX, was.RX}, number{"tx", &n.TX, was.TX}, number{"combined", &n.Combined, was.Combined})
			})
		},
		link.KindRings: func(at, to drivers.State, names []string) (drivers.State, error) {
			was, err := host.ParseRings(string(to))
			if err != nil {
				return "", err
			}
			return link.WithRings(at, func(n *host.Rings) {
				putNamed(names, number{"rx", &n.RX, was.RX}, number{"tx", &n.TX, was.TX},
					number{"mini", &n.Mini, was.Mini}, number{"jumbo", &n.Jumbo, was.Jumbo})
			})
		},
		sriov.KindVLAN: func(at, to drivers.State, names []string) (drivers.State, error) {
			was, err := host.ParseVLAN(string(to))
			if err != nil {
				return "", err
			}
			return sriov.WithVLAN(at, func(n *host.VLAN) {
				putNamed(names, number{"id", &n.ID, was.ID}, number{"qos", &n.QoS, was.QoS})
				if slices.Contains(names, "protocol") {
					n.Protocol = was.Protocol
				}
			})
		},
		sriov.KindRate: func(at, to drivers.State, names []string) (drivers.State, error) {
			was, err := host.ParseRate(string(to))
			if err != nil {
				return "", err
			}
			return sriov.WithRate(at, func(n *host.Rate) {
				putNamed(names, number{"min", &n.Min, was.Min}, number{"max", &n.Max, was.Max})
			})
		},
	}
}

// number is one of the numbers of a state, and what it was before.
type number struct {
	name string
	at   *int
	was  int
}

// putNamed sets the named numbers to what they were.
func putNamed(names []string, numbers ...number) {
	for _, n := range numbers {
		if slices.Contains(names, n.name) {
			*n.at = n.was
		}
	}
}

// given are the names of the fields that have a value.
func given(fields map[string]*int) []string {
	maps.DeleteFunc(fields, func(_ string, v *int) bool { return v == nil })
	return slices.Sorted(maps.Keys(fields))
}

// vlanNames are the parts of a VLAN that are asked for.
func vlanNames(v *source.VLAN) []string {
	names := given(map[string]*int{"id": v.ID, "qos": v.QoS})
	if v.Protocol != "" {
		names = append(names, "protocol")
	}
	return names
}

// partsOf are the parts that an entry asks for, each with what is to be given back
// of its kind.
func (v View) partsOf(ctx context.Context, r *request) []part {
	if v.namedBefore == nil {
		return v.recalling().partsOf(ctx, r)
	}
	ps := parts(r.asked.Interface)
	for i := range ps {
		p := &ps[i]
		was := v.namedBefore()[drivers.Key{Kind: p.kind, Target: r.target}]
		p.left = slices.DeleteFunc(slices.Clone(was), func(name string) bool { return slices.Contains(p.names, name) })
		if len(p.left) > 0 {
			v.askPartBack(ctx, r, p)
		}
	}
	return ps
}

// askPartBack widens a part by what it no longer has: that is to be as it was
// before it was asked for.
func (v View) askPartBack(ctx context.Context, r *request, p *part) {
	key := drivers.Key{Kind: p.kind, Target: r.target}
	to, known := v.wayBack(ctx, r, key)
	if !known {
		v.sayPartStays(ctx, r, p)
		return
	}
	back, with, left := backwards()[p.kind], p.with, slices.Clone(p.left)
	isBack := func(s drivers.State) bool {
		is, err := back(s, to, left)
		return err == nil && is == s
	}
	now := v.observer().Observe(ctx, key)
	_, changing := v.underWay(key)
	if now.Presence == drivers.Present && isBack(now.State) && isBack(v.before[key].State) && !changing {
		p.left = nil // it is back, and was seen to be
		return
	}
	p.with = func(at drivers.State) (drivers.State, error) {
		if at == "" || at == drivers.Hidden {
			return with(at)
		}
		is, err := back(at, to, left)
		if err != nil {
			return "", err
		}
		return with(is)
	}
}

// sayPartStays tells of a part that nobody knows what to give back to.
func (v View) sayPartStays(ctx context.Context, r *request, p *part) {
	key := drivers.Key{Kind: p.kind, Target: r.target}
	if _, touched := v.baseline(key, r.identity); !touched && !v.madeByAgent(r) {
		p.left = nil // it was never changed
		return
	}
	if now := v.observer().Observe(ctx, key); now.Presence == drivers.Present {
		r.later = fmt.Sprintf("%s of %s is no longer asked for and stays as in %s: nobody knows what it was before; ask for it by name",
			strings.Join(p.left, ", "), p.kind, now)
	}
}

// recallNamed reads, once and when it is needed, which parts were asked for by
// what was in force last.
func (v View) recallNamed() func() map[drivers.Key][]string {
	return sync.OnceValue(func() map[drivers.Key][]string {
		named := map[drivers.Key][]string{}
		for _, d := range v.Records.Sources() {
			namedIn(d, named)
		}
		return named
	})
}

// namedIn adds the parts that were asked for by one source.
func namedIn(d journal.Desired, named map[drivers.Key][]string) {
	doc, err := documentIn(d)
	if err != nil {
		return // which is told where it is put in force
	}
	add := func(k drivers.Key, names []string) {
		all := append(slices.Clone(named[k]), names...)
		slices.Sort(all)
		named[k] = slices.Compact(all)
	}
	entries := map[string]source.Interface{}
	for _, e := range doc.Entries {
		entries[e.String()] = e.Interface
	}
	for k, names := range doc.Parts {
		add(k, names)
	}
	for _, g := range d.Goals {
		if _, ok := backwards()[g.Key.Kind]; !ok {
			continue
		}
		for _, p := range parts(askedIn(entries, g.Entry)) {
			if p.kind == g.Key.Kind {
				add(g.Key, p.names)
			}
		}
	}
}

// askedIn is what an entry asked for of the function, or of one of its VFs, where
// the entry of a goal says so.
func askedIn(entries map[string]source.Interface, entry string) source.Interface {
	of, index, vf := strings.Cut(entry, " vf ")
	i := entries[of]
	if !vf {
		return i
	}
	n, err := strconv.Atoi(index)
	if err != nil || i.VFs == nil {
		return source.Interface{}
	}
	return source.Interface{Port: portOf(i.VFs.Of(n))}
}

// partsLeft are the parts to be kept in the journal beside the entries: those that
// are to be given back, and of what could not be resolved just now, or is given
// back as a whole, all that were asked for before.
func (v View) partsLeft(requests []request, goals []journal.Goal) map[drivers.Key][]string {
	kept, told := map[drivers.Key][]string{}, map[drivers.Key]bool{}
	for _, r := range requests {
		if r.err != nil {
			continue
		}
		for _, p := range r.parts {
			key := drivers.Key{Kind: p.kind, Target: r.target}
			if told[key] = true; len(p.left) > 0 {
				kept[key] = p.left
			}
		}
	}
	named := v.recallNamed()
	for _, g := range goals {
		if _, ok := backwards()[g.Key.Kind]; !ok || told[g.Key] {
			continue
		}
		if names := named()[g.Key]; len(names) > 0 {
			kept[g.Key] = names
		}
	}
	return kept
}
