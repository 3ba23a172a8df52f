package recovery

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"eniagent/drivers"
	"eniagent/drivers/all"
	"eniagent/journal"
)

const nic drivers.Target = "0000:02:00.0"

func key(k drivers.Kind) drivers.Key { return drivers.Key{Kind: k, Target: nic} }

const (
	igb    drivers.State = "driver=igb override=-"
	igbVF  drivers.State = "driver=igb override=vfio-pci"
	noneVF drivers.State = "driver=- override=vfio-pci"
	none   drivers.State = "driver=- override=-"
	vfio   drivers.State = "driver=vfio-pci override=vfio-pci"
	other  drivers.State = "driver=uio_pci_generic override=uio_pci_generic"
)

// bind is an operation that binds nic to vfio-pci; its netdev had index 5.
func bind() *journal.Operation {
	return &journal.Operation{
		ID: 7, State: journal.Intent, BootID: "boot", Attempts: 1,
		Changes: []journal.Change{
			{Key: key("admin"), Class: drivers.Volatile, Before: "up", After: drivers.Hidden},
			{Key: key("driver"), Class: drivers.Volatile, Before: igb, After: vfio},
			{Key: key("mtu"), Class: drivers.Volatile, Before: "9000", After: drivers.Hidden},
		},
		Identity: map[drivers.Target]drivers.Identity{nic: {Incarnation: 1, Netdev: 5}},
	}
}

// unbind is the way back, begun on vfio-pci.
func unbind() *journal.Operation {
	op := bind()
	for i := range op.Changes {
		op.Changes[i].Before, op.Changes[i].After = op.Changes[i].After, op.Changes[i].Before
	}
	op.Identity = map[drivers.Target]drivers.Identity{nic: {Incarnation: 1}}
	return op
}

// mtuOnly changes the MTU of netdev 5.
func mtuOnly() *journal.Operation {
	op := bind()
	op.Changes = []journal.Change{{Key: key("mtu"), Class: drivers.Volatile, Before: "1500", After: "9000"}}
	return op
}

func seen(s drivers.State, netdev int) drivers.Observation {
	o := drivers.Seen(s)
	o.Netdev = netdev
	return o
}

func TestClassifyAndWhole(t *testing.T) {
	hidden := seen(drivers.Hidden, 0)
	gone := drivers.Observation{Presence: drivers.Gone}
	dark := drivers.Observation{Presence: drivers.Unobservable, Err: errors.New("EIO")}
	tests := []struct {
		name                     string
		op                       *journal.Operation
		admin, driver, mtu       drivers.Observation
		wantAdmin, wantD, wantMT Class
		whole                    Class
	}{
		{"bind: nothing written", bind(), seen("up", 5), seen(igb, 0), seen("9000", 5), Before, Before, Before, Before},
		{"bind: override written", bind(), seen("up", 5), seen(igbVF, 0), seen("9000", 5), Before, Between, Before, Between},
		{"bind: unbound", bind(), hidden, seen(noneVF, 0), hidden, Hidden, Between, Hidden, Between},
		{"bind: bound", bind(), hidden, seen(vfio, 0), hidden, Hidden, After, Hidden, After},
		{"bind, reverting: override cleared", bind(), hidden, seen(none, 0), hidden, Hidden, Between, Hidden, Between},
		{"bind, reverted: netdev is fresh", bind(), seen("down", 9), seen(igb, 0), seen("1500", 9), Fresh, Before, Fresh, Between},
		{"bind, reverted whole, another index", bind(), seen("up", 9), seen(igb, 0), seen("9000", 9), Before, Before, Before, Before},
		{"bind: somebody took another driver", bind(), hidden, seen(other, 0), hidden, Hidden, Foreign, Hidden, Foreign},
		{"bind: somebody changed the MTU", bind(), seen("up", 5), seen(igb, 0), seen("4000", 5), Before, Before, Foreign, Foreign},
		{"bind: gone", bind(), gone, gone, gone, Gone, Gone, Gone, Gone},
		{"bind: driver not readable", bind(), hidden, dark, hidden, Hidden, Unobservable, Hidden, Unobservable},
		{"unbind: nothing written", unbind(), hidden, seen(vfio, 0), hidden, Hidden, Before, Hidden, Before},
		{"unbind: override cleared", unbind(), hidden, seen("driver=vfio-pci override=-", 0), hidden, Hidden, Between, Hidden, Between},
		{"unbind: bound, netdev fresh", unbind(), seen("down", 9), seen(igb, 0), seen("1500", 9), Fresh, After, Fresh, Between},
		{"bind, reverting: bound, netdev not there yet", bind(), hidden, seen(igb, 0), hidden, Hidden, Before, Hidden, Between},
		{"unbind: bound, netdev not there yet", unbind(), hidden, seen(igb, 0), hidden, Hidden, After, Hidden, Between},
		{"unbind: MTU restored", unbind(), seen("down", 9), seen(igb, 0), seen("9000", 9), Fresh, After, After, Between},
		{"unbind: all restored", unbind(), seen("up", 9), seen(igb, 0), seen("9000", 9), After, After, After, After},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			var classes []Class
			for i, o := range []drivers.Observation{tc.admin, tc.driver, tc.mtu} {
				classes = append(classes, Classify(all.Specs(), tc.op, tc.op.Changes[i], o))
			}
			if classes[0] != tc.wantAdmin || classes[1] != tc.wantD || classes[2] != tc.wantMT {
				t.Errorf("classes are %v, want [%s %s %s]", classes, tc.wantAdmin, tc.wantD, tc.wantMT)
			}
			if whole := Whole(all.Specs(), tc.op, classes); whole != tc.whole {
				t.Errorf("the operation is %s, want %s", whole, tc.whole)
			}
		})
	}
}

// TestClassifyFreshSettings: what a netdev that was made anew has is the
// device's own, whatever that is; on the one that there was it is a foreign hand's.
func TestClassifyFreshSettings(t *testing.T) {
	const (
		fewer   drivers.State = "rx=0 tx=0 combined=2"
		small   drivers.State = "rx=256 mini=0 jumbo=0 tx=256"
		large   drivers.State = "rx=1024 mini=0 jumbo=0 tx=1024"
		theirs  drivers.State = "rx=4096 mini=0 jumbo=0 tx=4096"
		unnamed drivers.State = "[]"
	)
	change := func(k drivers.Kind, before, after drivers.State) journal.Change {
		return journal.Change{Key: key(k), Class: drivers.Volatile, Before: before, After: after}
	}
	back := unbind() // found on vfio-pci
	back.Changes = append(back.Changes, change("rings", drivers.Hidden, large), change("channels", drivers.Hidden, fewer), change("altnames", drivers.Hidden, "[lan0]"))
	away := bind() // its netdev had index 5
	away.Changes = append(away.Changes, change("rings", large, drivers.Hidden))
	set := mtuOnly()
	set.Changes = []journal.Change{change("rings", small, large), change("altnames", unnamed, "[lan0 lan1]")}
	for _, tc := range []struct {
		name string
		op   *journal.Operation
		kind drivers.Kind
		o    drivers.Observation
		want Class
	}{
		{"back, fresh rings", back, "rings", seen(small, 9), Fresh},
		{"back, fresh rings of any size", back, "rings", seen(theirs, 9), Fresh},
		{"back, rings set", back, "rings", seen(large, 9), After},
		{"back, fresh channels", back, "channels", seen("rx=0 tx=0 combined=64", 9), Fresh},
		{"back, a name of udev's", back, "altnames", seen("[enp2s0]", 9), Fresh},
		{"back, no netdev yet", back, "rings", seen(drivers.Hidden, 0), Hidden},
		{"away, as they were", away, "rings", seen(large, 5), Before},
		{"away, changed by another hand", away, "rings", seen(theirs, 5), Foreign},
		{"away and reverted, fresh", away, "rings", seen(small, 9), Fresh},
		{"set, as they were", set, "rings", seen(small, 5), Before},
		{"set, rounded", set, "rings", seen("rx=1024 mini=0 jumbo=0 tx=1032", 5), Between},
		{"set by another hand", set, "rings", seen(theirs, 5), Foreign},
		{"one name of two", set, "altnames", seen("[lan0]", 5), Between},
		{"a name of another hand's", set, "altnames", seen("[lan0 theirs]", 5), Foreign},
		{"another netdev", set, "rings", seen(small, 9), Gone},
	} {
		for _, c := range tc.op.Changes {
			if c.Key.Kind != tc.kind {
				continue
			}
			if got := Classify(all.Specs(), tc.op, c, tc.o); got != tc.want {
				t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
			}
		}
	}
}

func TestClassifyNetdevThatIsNotTheOperations(t *testing.T) {
	tests := []struct {
		name string
		o    drivers.Observation
		want Class
	}{
		{"before", seen("1500", 5), Before},
		{"after", seen("9000", 5), After},
		{"third value", seen("4000", 5), Foreign},
		{"another netdev took its place", seen("1500", 9), Gone},
		{"the netdev went", seen(drivers.Hidden, 0), Gone},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			op := mtuOnly()
			if got := Classify(all.Specs(), op, op.Changes[0], tc.o); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

// TestClassifyUnchanged is a key that the operation only names again.
func TestClassifyUnchanged(t *testing.T) {
	op := bind()
	op.Changes[0].After = "up"
	for state, want := range map[drivers.State]Class{"up": Unchanged, "down": Foreign} {
		if got := Classify(all.Specs(), op, op.Changes[0], seen(state, 5)); got != want {
			t.Errorf("%s is %s, want %s", state, got, want)
		}
	}
}

// TestWorstClassWins puts every class of section "Recovery" against every
// other in an operation of two keys.
func TestWorstClassWins(t *testing.T) {
	order := []Class{Unchanged, Before, After, Between, Fresh, Gone, Foreign, Unobservable}
	op := &journal.Operation{Changes: []journal.Change{
		{Key: drivers.Key{Kind: "module", Target: "module/a"}},
		{Key: drivers.Key{Kind: "module", Target: "module/b"}},
	}}
	flatten := func(c Class) Class {
		if c == Fresh {
			return Between
		}
		return c
	}
	for i, a := range order {
		for j, b := range order {
			var want Class
			switch {
			case a == Unchanged && b == Unchanged:
				want = After
			case a == Before && b == After || a == After && b == Before:
				want = Between
			case i >= j:
				want = flatten(a)
			default:
				want = flatten(b)
			}
			if got := Whole(all.Specs(), op, []Class{a, b}); got != want {
				t.Errorf("%s with %s is %s, want %s", a, b, got, want)
			}
		}
	}
}

// fakeHost answers from maps.
type fakeHost struct {
	state    map[drivers.Key]drivers.Observation
	id       drivers.Identity
	idErr    error
	fenced   bool
	fenceErr error
}

func (f fakeHost) Observe(_ context.Context, k drivers.Key) drivers.Observation { return f.state[k] }

func (f fakeHost) Identify(context.Context, drivers.Target) (drivers.Identity, error) {
	return f.id, f.idErr
}

func (f fakeHost) Fenced(drivers.Target) (bool, error) { return f.fenced, f.fenceErr }

func TestJudge(t *testing.T) {
	halfway := map[drivers.Key]drivers.Observation{
		key("driver"): drivers.Seen(noneVF), key("mtu"): drivers.Seen(drivers.Hidden), key("admin"): drivers.Seen(drivers.Hidden),
	}
	same := drivers.Identity{Incarnation: 1}
	tests := []struct {
		name  string
		host  fakeHost
		env   Env
		tries int
		want  Decision
		goal  drivers.State // of the driver
		why   string
	}{
		{"half-way, wanted", fakeHost{state: halfway, id: same}, Env{Wanted: WantedBy(map[drivers.Key]drivers.State{key("driver"): vfio})}, 1, Replay, vfio, ""},
		{"half-way, withdrawn", fakeHost{state: halfway, id: same}, Env{Wanted: WantedBy(map[drivers.Key]drivers.State{key("driver"): igb})}, 1, Revert, igb, ""},
		{"half-way, nobody asks any more", fakeHost{state: halfway, id: same}, Env{Wanted: WantedBy(map[drivers.Key]drivers.State{})}, 1, Revert, igb, ""},
		{"half-way, nothing known", fakeHost{state: halfway, id: same}, Env{Wanted: WantedBy(nil)}, 1, Replay, vfio, ""},
		{"half-way, failed three times", fakeHost{state: halfway, id: same}, Env{}, 4, Revert, igb, "the attempts are used up"},
		{"fenced is not observed", fakeHost{state: halfway, id: same, fenced: true}, Env{}, 1, Keep, "", "a write still runs"},
		{"new boot", fakeHost{state: halfway, id: same}, Env{BootID: "next"}, 1, Supersede, "", "booted anew"},
		{"new boot, fenced", fakeHost{state: halfway, id: same, fenced: true}, Env{BootID: "next"}, 1, Supersede, "", "booted anew"},
		{"another device at the address", fakeHost{state: halfway, id: drivers.Identity{Incarnation: 2}}, Env{}, 1, Supersede, "", "its incarnation differs"},
		{"identity unknown is not different", fakeHost{state: halfway, id: drivers.Identity{}}, Env{}, 1, Replay, vfio, ""},
		{"identity not readable is not the same either", fakeHost{state: halfway, idErr: errors.New("EIO")}, Env{}, 1, Keep, "", "cannot be observed"},
		{"nobody can say whether it is fenced", fakeHost{state: halfway, id: same, fenceErr: errors.New("EIO")}, Env{}, 1, Keep, "", ""},
		{"another machine", fakeHost{state: halfway, id: same}, Env{MachineID: "m2"}, 1, Supersede, "", ""},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			op := bind()
			op.MachineID, op.Attempts, op.Failed = "m1", tc.tries, tc.tries-1
			tc.env.Specs, tc.env.MaxAttempts = all.Specs(), 3
			if tc.env.BootID == "" {
				tc.env.BootID = "boot"
			}
			j := Judge(t.Context(), tc.env, tc.host, *op)
			if j.Decision != tc.want || j.Goal[key("driver")] != tc.goal {
				t.Errorf("decided %s (%s) with goal %v, want %s with %s", j.Decision, j.Why, j.Goal, tc.want, tc.goal)
			}
			if !strings.Contains(j.Why, tc.why) || j.Fenced != tc.host.fenced {
				t.Errorf("because %q, fenced %t: want %q", j.Why, j.Fenced, tc.why)
			}
			if j.Why == "" || len(j.Findings) != 3 {
				t.Errorf("no reason or no findings: %+v", j)
			}
		})
	}
}

// TestJudgeAsksTheRulesWithWhatItSaw is a rule that forbids a replay.
func TestJudgeAsksTheRulesWithWhatItSaw(t *testing.T) {
	halfway := map[drivers.Key]drivers.Observation{
		key("driver"): drivers.Seen(noneVF), key("mtu"): drivers.Seen(drivers.Hidden), key("admin"): drivers.Seen(drivers.Hidden),
	}
	forbidden := errors.New("forbidden")
	var asked map[drivers.Key]drivers.Observation
	env := Env{Specs: all.Specs(), BootID: "boot", MaxAttempts: 3}
	env.MayDrive = func(_ context.Context, o map[drivers.Key]drivers.Observation, _ map[drivers.Key]drivers.State) error {
		asked = o
		return forbidden
	}
	j := Judge(t.Context(), env, fakeHost{state: halfway}, *bind())
	if j.Decision != Keep || !errors.Is(j.Guarded, forbidden) || j.Goal != nil {
		t.Errorf("decided %s (%s) with goal %v", j.Decision, j.Why, j.Goal)
	}
	if diff := cmp.Diff(halfway, asked); diff != "" {
		t.Error(diff)
	}
}

// TestWhatIsBarredIsUndone: a rule that no time changes forbids to go on, so the
// way back is taken, of which the rules are asked too.
func TestWhatIsBarredIsUndone(t *testing.T) {
	halfway := map[drivers.Key]drivers.Observation{
		key("driver"): drivers.Seen(noneVF), key("mtu"): drivers.Seen(drivers.Hidden), key("admin"): drivers.Seen(drivers.Hidden),
	}
	op := bind()
	for name, back := range map[string]error{"": nil, "and the way back is forbidden": errors.New("forbidden")} {
		env := Env{Specs: all.Specs(), BootID: "boot", MaxAttempts: 3}
		env.MayDrive = func(_ context.Context, _ map[drivers.Key]drivers.Observation, goal map[drivers.Key]drivers.State) error {
			if maps.Equal(goal, op.After()) {
				return fmt.Errorf("the group: %w", drivers.ErrBarred)
			}
			return back
		}
		j := Judge(t.Context(), env, fakeHost{state: halfway}, *op)
		want := Revert
		if back != nil {
			want = Keep
		}
		if j.Decision != want || back == nil && !maps.Equal(j.Goal, op.Before()) || !errors.Is(j.Guarded, back) {
			t.Errorf("%s: decided %s (%s) with goal %v", name, j.Decision, j.Why, j.Goal)
		}
	}
}

// TestTheClassOfAKind is the kind's own where it is known, whatever a record
// says, and the record's where it is not.
func TestTheClassOfAKind(t *testing.T) {
	for _, tc := range []struct {
		kind   drivers.Kind
		record drivers.Class
		want   Decision
	}{
		{"driver", drivers.Persistent, Supersede},
		{"future", drivers.Volatile, Supersede},
		{"future", drivers.Persistent, Keep},
	} {
		op := bind()
		op.Changes = []journal.Change{{Key: key(tc.kind), Class: tc.record, Before: igb, After: vfio}}
		j := Judge(t.Context(), Env{Specs: all.Specs(), BootID: "next", MaxAttempts: 3}, fakeHost{}, *op)
		if j.Decision != tc.want {
			t.Errorf("%s, recorded as %s: %s (%s), want %s", tc.kind, tc.record, j.Decision, j.Why, tc.want)
		}
	}
}
