package fuzz_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"eniagent/drivers"
	"eniagent/drivers/all"
	"eniagent/journal"
	"eniagent/recovery"
)

// seenHost is a host that shows what it is told to, and counts who looks where
// a fence forbids it.
type seenHost struct {
	observed map[drivers.Key]drivers.Observation
	identity map[drivers.Target]drivers.Identity
	fenced   map[drivers.Target]bool
	dark     map[drivers.Target]bool // whether it is fenced cannot be told
	peeked   []drivers.Key
}

var errDark = errors.New("EIO")

func (h *seenHost) Observe(_ context.Context, k drivers.Key) drivers.Observation {
	if h.fenced[k.Target] || h.dark[k.Target] {
		h.peeked = append(h.peeked, k)
	}
	return h.observed[k]
}

func (h *seenHost) Identify(_ context.Context, t drivers.Target) (drivers.Identity, error) {
	id, ok := h.identity[t]
	if !ok {
		return id, drivers.ErrGone
	}
	return id, nil
}

func (h *seenHost) Fenced(t drivers.Target) (bool, error) {
	if h.dark[t] {
		return false, errDark
	}
	return h.fenced[t], nil
}

// trial is everything a judgement is made of.
type trial struct {
	op     journal.Operation
	host   *seenHost
	wanted recovery.Wanted
	paused string
}

func (t trial) env() recovery.Env {
	return recovery.Env{
		Specs: all.Specs(), BootID: thisBoot, MachineID: thisMachine, MaxAttempts: 3,
		Wanted: func(*journal.Operation) recovery.Wanted { return t.wanted },
		Paused: func(*journal.Operation) string { return t.paused },
	}
}

// newTrial reads a trial from bytes.
func newTrial(b []byte) trial {
	r := &reader{b}
	is := drivers.Identity{Vendor: "0x8086", Device: "0x10c9", MAC: "02:00:00:00:00:01", Incarnation: 7, Netdev: 3}
	tr := trial{host: &seenHost{
		observed: map[drivers.Key]drivers.Observation{}, identity: map[drivers.Target]drivers.Identity{},
		fenced: map[drivers.Target]bool{}, dark: map[drivers.Target]bool{},
	}}
	tr.op = r.operation(1, func(drivers.Target) drivers.Identity { return is })
	flags := r.byte()
	tr.wanted = []recovery.Wanted{recovery.StillWanted, recovery.Withdrawn, recovery.Unsure, "nonsense"}[flags&3]
	if flags&4 != 0 {
		tr.paused = "maintenance"
	}
	for _, t := range tr.op.Targets() {
		switch r.byte() {
		case 1:
			tr.host.fenced[t] = true
		case 2:
			tr.host.dark[t] = true
		case 3:
			continue // not there
		}
		tr.host.identity[t] = is
	}
	for _, c := range tr.op.Changes {
		tr.host.observed[c.Key] = r.observation(c)
	}
	return tr
}

func (r *reader) observation(c journal.Change) drivers.Observation {
	switch r.byte() % 8 {
	case 0:
		return drivers.Observation{State: c.Before, Netdev: r.byte() % 5}
	case 1:
		return drivers.Observation{State: c.After, Netdev: r.byte() % 5}
	case 2:
		return drivers.Seen(drivers.Hidden)
	case 3:
		return drivers.Observation{Presence: drivers.Gone}
	case 4:
		return drivers.Observation{Presence: drivers.Unobservable, Err: errDark}
	case 5:
		return drivers.Observation{Presence: drivers.Presence(r.byte()), State: r.state()}
	default:
		return drivers.Observation{State: r.state(), Netdev: r.byte() % 5}
	}
}

// judge is recovery.Judge, or a broken variant of it.
type judge func(trial) recovery.Judgement

func judgeAsIs(t trial) recovery.Judgement {
	return recovery.Judge(context.Background(), t.env(), t.host, t.op)
}

// explained says whether a state can be any operation's doing: it is made of
// what the operation names, or of nothing.
func explained(c journal.Change, s drivers.State) bool {
	if s == c.Before || s == c.After {
		return true
	}
	if c.Key.Kind != "driver" {
		return false
	}
	part := func(s drivers.State, name string) string {
		_, rest, _ := strings.Cut(string(s), name+"=")
		word, _, _ := strings.Cut(rest, " ")
		return word
	}
	for _, name := range []string{"driver", "override"} {
		if w := part(s, name); w != "-" && w != part(c.Before, name) && w != part(c.After, name) {
			return false
		}
	}
	return true
}

// view is a trial and what was made of it, with the words of the laws.
type view struct {
	trial
	recovery.Judgement
}

func (v view) sameBoot() bool {
	return v.op.BootID == thisBoot && !v.otherMachine() && !v.otherDevice()
}

func (v view) otherMachine() bool {
	return v.op.MachineID != "" && v.op.MachineID != thisMachine
}

func (v view) otherDevice() bool {
	for t, id := range v.op.Identity {
		if now, ok := v.host.identity[t]; ok && id.Difference(now) != "" {
			return true
		}
	}
	return false
}

func (v view) allVolatile() bool {
	return !slices.ContainsFunc(v.op.Changes, func(c journal.Change) bool {
		return c.Key.Kind == "pool" || c.Key.Kind == "rm" && c.Class == drivers.Persistent
	})
}

// blind says whether a fence hides what was to be judged.
func (v view) blind() bool {
	return slices.ContainsFunc(v.Findings, func(f recovery.Finding) bool {
		t := f.Change.Key.Target
		return v.host.fenced[t] || v.host.dark[t]
	})
}

// any says whether it holds for a key that was judged.
func (v view) any(holds func(c journal.Change, o drivers.Observation) bool) bool {
	return slices.ContainsFunc(v.Findings, func(f recovery.Finding) bool { return holds(f.Change, v.host.observed[f.Change.Key]) })
}

// foreign is a value that no step of the operation leaves. A netdev's attribute
// may be anybody's once the operation makes the netdev anew.
func foreign(v view) func(journal.Change, drivers.Observation) bool {
	return func(c journal.Change, o drivers.Observation) bool {
		netdev := c.Key.Kind == "mtu" || c.Key.Kind == "admin"
		remade := netdev && slices.ContainsFunc(v.op.Changes, func(d journal.Change) bool {
			return d.Key.Target == c.Key.Target && d.Key.Kind == "driver"
		})
		return o.Presence == drivers.Present && o.State != drivers.Hidden && !remade && !explained(c, o.State)
	}
}

// laws are what every judgement keeps, by name. They say nothing of how it is
// come to.
func laws() map[string]func(view) bool {
	at := func(state func(journal.Change) drivers.State) func(journal.Change, drivers.Observation) bool {
		return func(c journal.Change, o drivers.Observation) bool {
			return o.Presence == drivers.Present && o.State != drivers.Hidden && o.State != state(c)
		}
	}
	before := func(c journal.Change) drivers.State { return c.Before }
	after := func(c journal.Change) drivers.State { return c.After }
	return map[string]func(view) bool{
		"there is a decision and a reason": func(v view) bool {
			return slices.Contains(recovery.Decisions(), v.Decision) && v.Why != ""
		},
		"what a fence hides is not looked at": func(v view) bool { return len(v.host.peeked) == 0 },
		"nothing is concluded behind a fence": func(v view) bool {
			return !v.blind() || v.Decision == recovery.Keep || v.Decision == recovery.Supersede || v.Decision == recovery.Quarantine && v.otherMachine()
		},
		"what cannot be observed is not written": func(v view) bool {
			return !v.Decision.Writes() || !v.any(func(_ journal.Change, o drivers.Observation) bool { return o.Presence >= drivers.Unobservable })
		},
		"what is gone is not written": func(v view) bool {
			return !v.Decision.Writes() || v.Epoch != recovery.SameBoot || !v.any(func(c journal.Change, o drivers.Observation) bool {
				return o.Presence == drivers.Gone && c.Class == drivers.Volatile
			}) || !v.allVolatile()
		},
		"a foreign hand is never written over": func(v view) bool { return !v.Decision.Writes() || !v.any(foreign(v)) },
		"a kind that is not known is not written": func(v view) bool {
			return !v.Decision.Writes() || !v.any(func(c journal.Change, _ drivers.Observation) bool { return c.Key.Kind == "rm" })
		},
		"done means at After":      func(v view) bool { return v.Decision != recovery.Done || !v.any(at(after)) },
		"reverted means at Before": func(v view) bool { return v.Decision != recovery.Reverted || !v.any(at(before)) },
		"what another kernel or device had is superseded": func(v view) bool {
			return v.sameBoot() || !v.allVolatile() || v.paused != "" || v.Decision == recovery.Supersede
		},
		"another machine's journal writes nothing": func(v view) bool { return !v.Decision.Writes() || !v.otherMachine() },
		"a revert goes on": func(v view) bool {
			return v.op.State != journal.Reverting || v.Decision != recovery.Replay && v.Decision != recovery.Done
		},
		"what nobody wants is not begun again": func(v view) bool { return v.wanted != recovery.Withdrawn || v.Decision != recovery.Replay },
		"tries are bounded":                    func(v view) bool { return v.op.Failed < 3 || v.Decision != recovery.Replay },
		"crashes are bounded":                  func(v view) bool { return v.op.Crashes() < recovery.MaxCrashes || v.Decision != recovery.Replay },
		"paused means hands off": func(v view) bool {
			return v.paused == "" || v.Decision == recovery.Keep && v.Why == v.paused
		},
		"the goal is the decision's": func(v view) bool {
			want := map[recovery.Decision]map[drivers.Key]drivers.State{recovery.Replay: v.op.After(), recovery.Revert: v.op.Before()}[v.Decision]
			return maps.Equal(v.Goal, want)
		},
	}
}

// brokenLaw is the name of a law that a judgement breaks; "" when it keeps all.
func brokenLaw(j judge, b []byte) string {
	t := newTrial(b)
	v := view{t, j(t)}
	for name, holds := range laws() {
		if !holds(v) {
			return name
		}
	}
	if again := j(newTrial(b)); !reflect.DeepEqual(again, v.Judgement) {
		return "the same makes the same"
	}
	return ""
}

// judgeSeeds are one operation of each kind, in each standing, seen in each way.
func judgeSeeds() (seeds [][]byte) {
	const igb, vfio = drivers.State("driver=igb override=-"), drivers.State("driver=vfio-pci override=vfio-pci")
	persistent := change("pool", "file//etc/passwd#ro/ot", "absent", "on")
	persistent.Class = drivers.Persistent
	unknown := change("rm", port, "on", "off")
	unknown.Class = drivers.Persistent
	ops := [][]journal.Change{
		{change("mtu", port, "1500", "9000")},
		{change("driver", port, igb, vfio), change("mtu", port, "9000", drivers.Hidden), change("admin", port, "up", drivers.Hidden)},
		{change("driver", port, vfio, igb), change("mtu", port, drivers.Hidden, "9000")},
		{change("driver", vf, igb, vfio), change("driver", port, igb, vfio)},
		{change("driver", port, vfio, "driver=uio_pci_generic override=uio_pci_generic"), change("mtu", port, drivers.Hidden, drivers.Hidden)},
		{change("module", "module/igb_uio", "absent", "loaded")},
		{unknown},
		{persistent},
		{change("pool", "file//etc/passwd#ro/ot", "on", "off"), change("admin", port, "down", "up")},
		{persistent, change("admin", port, "down", "up")},
		{change("admin", port, "up", "up"), change("driver", port, drivers.Hidden, drivers.Hidden)},
	}
	seen := [][]byte{ // of a key: how, and the netdev
		{0, 3}, {1, 3}, {2}, {3}, {4}, {6, 12, 3}, {6, 4, 0}, {0, 4}, {1, 4}, {6, 10, 4}, {5, 9, 1}, {6, 8, 3},
	}
	tries := []byte{35, 4, 0, 1, 2} // the first all crashed, the next all failed
	for _, changes := range ops {
		for _, flags := range []byte{0, 1, 2, 4, 64, 65, 8 | 2, 16} {
			for i := range seen {
				s := script{flags: flags, attempts: tries[i%len(tries)], changes: changes}
				for _, standing := range []byte{0, byte(i % 4)} {
					one, each := s.judged(byte(i), standing), s.judged(byte(i), standing)
					for n := range changes {
						one, each = append(one, seen[i]...), append(each, seen[(i+n)%len(seen)]...)
					}
					seeds = append(seeds, one, each)
				}
			}
		}
	}
	return seeds
}

// judged is the script up to how its keys are seen: identities, whether it is
// wanted or paused, and how its targets stand.
func (s script) judged(i, standing byte) []byte {
	b := s.bytes()
	bare := newTrial(b)
	targets := len(bare.op.Targets())
	if s.flags&64 != 0 {
		b = append(b, slices.Repeat([]byte{i % 7}, targets)...)
	}
	return append(append(b, i%8), slices.Repeat([]byte{standing}, targets)...)
}

// FuzzJudge: whatever the record, the host and the boot, no judgement breaks a
// law.
func FuzzJudge(f *testing.F) {
	for _, b := range judgeSeeds() {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if name := brokenLaw(judgeAsIs, b); name != "" {
			tr := newTrial(b)
			t.Fatalf("broken: %s\n%+v\nobserved %+v\n%+v", name, tr.op, tr.host, judgeAsIs(tr))
		}
	})
}

// TestBrokenJudgesAreCaught holds the seeds against judges that are wrong in one
// place each.
func TestBrokenJudgesAreCaught(t *testing.T) {
	with := func(change func(*trial)) judge {
		return func(t trial) recovery.Judgement {
			change(&t)
			return judgeAsIs(t)
		}
	}
	for name, broken := range map[string]judge{
		"fences are not asked":        with(func(t *trial) { t.host = &seenHost{observed: t.host.observed, identity: t.host.identity} }),
		"every boot is this one":      with(func(t *trial) { t.op.BootID = thisBoot }),
		"every machine is this one":   with(func(t *trial) { t.op.MachineID = "" }),
		"identities are not compared": with(func(t *trial) { t.op.Identity = nil }),
		"failures are not counted":    with(func(t *trial) { t.op.Spared, t.op.Failed = t.op.Spared+t.op.Failed, 0 }),
		"crashes are not counted":     with(func(t *trial) { t.op.Spared = t.op.Tries() - t.op.Failed }),
		"a revert may turn back":      with(func(t *trial) { t.op.State, t.op.UndoneAt = journal.Intent, 0 }),
		"wishes are not asked":        with(func(t *trial) { t.wanted = recovery.StillWanted }),
		"a pause is not asked":        with(func(t *trial) { t.paused = "" }),
		"what cannot be read is at Before": with(func(t *trial) {
			h := *t.host
			h.observed = maps.Clone(h.observed)
			for _, c := range t.op.Changes {
				if h.observed[c.Key].Presence > drivers.Concealed {
					h.observed[c.Key] = drivers.Seen(c.Before)
				}
			}
			t.host = &h
		}),
		"foreign is as good as between": func(t trial) recovery.Judgement {
			j := judgeAsIs(t)
			if j.Class == recovery.Foreign && j.Decision == recovery.Quarantine {
				j.Decision, j.Goal = recovery.Replay, t.op.After()
			}
			return j
		},
		"half-way is done": func(t trial) recovery.Judgement {
			j := judgeAsIs(t)
			if j.Class == recovery.Between {
				j.Decision, j.Goal = recovery.Done, nil
			}
			return j
		},
		"the goals are swapped": func(t trial) recovery.Judgement {
			j := judgeAsIs(t)
			if j.Decision == recovery.Revert {
				j.Goal = t.op.After()
			}
			return j
		},
	} {
		t.Run(name, func(t *testing.T) {
			if !slices.ContainsFunc(judgeSeeds(), func(b []byte) bool { return brokenLaw(broken, b) != "" }) {
				t.Error("no seed finds it")
			}
		})
	}
}

// FuzzDecide: the table is total, and where a case makes no sense nothing is
// written.
func FuzzDecide(f *testing.F) {
	words := func(bits int) recovery.Case {
		return recovery.Case{Persistent: bits&1 != 0, Absent: bits&2 != 0, Ready: bits&4 != 0, Exhausted: bits&8 != 0}
	}
	for _, class := range []recovery.Class{
		recovery.Before, recovery.After, recovery.Between, recovery.Foreign, recovery.Gone, recovery.Unobservable,
		recovery.Fresh, recovery.Hidden, recovery.Unchanged, "", "nonsense",
	} {
		for _, state := range []journal.OperationState{journal.Intent, journal.Reverting, journal.Done, ""} {
			for i, epoch := range []recovery.Epoch{recovery.SameBoot, recovery.NewBoot, recovery.OtherMachine, ""} {
				for j, wanted := range []recovery.Wanted{recovery.StillWanted, recovery.Withdrawn, recovery.Unsure, ""} {
					for _, bits := range []int{4*i + j, (4*i + j) ^ 4, (4*i + j) ^ 8} {
						f.Add(string(state), string(class), string(epoch), string(wanted), byte(bits))
					}
				}
			}
		}
	}
	f.Fuzz(func(t *testing.T, state, class, epoch, wanted string, bits byte) {
		c := words(int(bits))
		c.State, c.Class = journal.OperationState(state), recovery.Class(class)
		c.Epoch, c.Wanted = recovery.Epoch(epoch), recovery.Wanted(wanted)
		d, why := recovery.Decide(c)
		if err := checkDecision(c, d, why); err != nil {
			t.Fatalf("%+v: %s (%s): %v", c, d, why, err)
		}
	})
}

func checkDecision(c recovery.Case, d recovery.Decision, why string) error {
	if !slices.Contains(recovery.Decisions(), d) || why == "" {
		return fmt.Errorf("no decision, or no reason")
	}
	certain := slices.Contains([]recovery.Class{recovery.Before, recovery.After, recovery.Between}, c.Class) ||
		c.Class == recovery.Gone && c.Persistent && c.Absent
	switch {
	case !c.State.Open() && d != recovery.Keep:
		return errors.New("not open, and not left alone")
	case d.Writes() && !certain:
		return errors.New("writes without knowing what is there")
	case (d == recovery.Done || d == recovery.Reverted) && !certain:
		return errors.New("concludes without knowing what is there")
	case d.Writes() && c.Epoch != recovery.SameBoot && (c.Epoch != recovery.NewBoot || !c.Persistent):
		return errors.New("writes what belongs to another kernel or machine")
	}
	return nil
}
