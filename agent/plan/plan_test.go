package plan_test

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"eniagent/agent/plan"
	"eniagent/drivers"
	"eniagent/drivers/all"
	"eniagent/drivers/sriov"
)

const nic drivers.Target = "0000:02:00.0"

func key(k drivers.Kind) drivers.Key { return drivers.Key{Kind: k, Target: nic} }

const (
	igb  drivers.State = "driver=igb override=-"
	vfio drivers.State = "driver=vfio-pci override=vfio-pci"
	uio  drivers.State = "driver=uio_pci_generic override=uio_pci_generic"
	none drivers.State = "driver=- override=-"
	half drivers.State = "driver=- override=vfio-pci"
)

func observed(driver, mtu, admin drivers.State) plan.Observed {
	return plan.Observed{
		key("driver"): drivers.Seen(driver), key("mtu"): drivers.Seen(mtu), key("admin"): drivers.Seen(admin),
	}
}

func goal(driver, mtu, admin drivers.State) plan.Goal {
	return plan.Goal{key("driver"): driver, key("mtu"): mtu, key("admin"): admin}
}

func lines(steps []drivers.Step) string {
	var b strings.Builder
	for _, s := range steps {
		fmt.Fprintf(&b, "%s: %s > %s\n", s.Key.Kind, s.From, s.To)
	}
	return b.String()
}

func TestOrder(t *testing.T) {
	tests := []struct {
		name string
		from plan.Observed
		to   plan.Goal
		want string
	}{
		{"nothing to do", observed(igb, "1500", "up"), goal(igb, "1500", "up"), ""},
		{
			"bind", observed(igb, "9000", "up"), goal(vfio, drivers.Hidden, drivers.Hidden), `
driver: driver=igb override=- > driver=igb override=vfio-pci
driver: driver=igb override=vfio-pci > driver=- override=vfio-pci
driver: driver=- override=vfio-pci > driver=vfio-pci override=vfio-pci
`,
		},
		{
			"go on half-way", observed(half, drivers.Hidden, drivers.Hidden), goal(vfio, drivers.Hidden, drivers.Hidden), `
driver: driver=- override=vfio-pci > driver=vfio-pci override=vfio-pci
`,
		},
		{
			"revert half-way: clear, bind, restore what the new netdev lost", observed(half, drivers.Hidden, drivers.Hidden), goal(igb, "9000", "up"), `
driver: driver=- override=vfio-pci > driver=- override=-
driver: driver=- override=- > driver=igb override=-
mtu: 1500 > 9000
admin: down > up
`,
		},
		{
			"back, to what is the kernel's default", observed(vfio, drivers.Hidden, drivers.Hidden), goal(igb, "1500", "down"), `
driver: driver=vfio-pci override=vfio-pci > driver=vfio-pci override=-
driver: driver=vfio-pci override=- > driver=- override=-
driver: driver=- override=- > driver=igb override=-
`,
		},
		{
			"back, with settings that only the device foresees",
			plan.Observed{key("driver"): drivers.Seen(vfio), key("rings"): drivers.Seen(drivers.Hidden), key("admin"): drivers.Seen(drivers.Hidden)},
			plan.Goal{key("driver"): igb, key("rings"): "rx=1024 mini=0 jumbo=0 tx=256", key("admin"): "up"},
			`
driver: driver=vfio-pci override=vfio-pci > driver=vfio-pci override=-
driver: driver=vfio-pci override=- > driver=- override=-
driver: driver=- override=- > driver=igb override=-
rings: default > rx=1024 mini=0 jumbo=0 tx=256
admin: down > up
`,
		},
		{"MTU before up", observed(igb, "1500", "down"), goal(igb, "9000", "up"), "\nmtu: 1500 > 9000\nadmin: down > up\n"},
		{
			"from one userspace driver to another", observed(uio, drivers.Hidden, drivers.Hidden), goal(vfio, drivers.Hidden, drivers.Hidden), `
driver: driver=uio_pci_generic override=uio_pci_generic > driver=uio_pci_generic override=vfio-pci
driver: driver=uio_pci_generic override=vfio-pci > driver=- override=vfio-pci
driver: driver=- override=vfio-pci > driver=vfio-pci override=vfio-pci
`,
		},
		{
			"an override of a name that no driver can have", observed(`driver=igb override="a b"`, "1500", "up"), goal(igb, "1500", "up"), `
driver: driver=igb override="a b" > driver=igb override=-
`,
		},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			steps, err := plan.Order(all.Specs(), tc.from, tc.to)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.TrimPrefix(tc.want, "\n"), lines(steps)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

const (
	first  drivers.Target = "0000:02:10.0" // VFs of nic
	second drivers.Target = "0000:02:10.2"
)

// vfs is the state of nic with these virtual functions.
func vfs(all ...drivers.Target) drivers.State {
	return sriov.VFs{Autoprobe: true, Addresses: all}.State()
}

func of(t drivers.Target, k drivers.Kind) drivers.Key { return drivers.Key{Kind: k, Target: t} }

// withVF is nic with one VF on a driver of the kernel, and where the other would
// be.
func withVF() plan.Observed {
	return plan.Observed{
		key("numvfs"):        drivers.Seen(vfs(first)),
		of(first, "driver"):  drivers.Seen("driver=igbvf override=-"),
		of(first, "mtu"):     drivers.Seen("1400"),
		of(second, "driver"): {State: drivers.Hidden, Presence: drivers.Concealed},
		of(second, "mtu"):    {State: drivers.Hidden, Presence: drivers.Concealed},
		of(nic, "mtu"):       drivers.Seen("9000"),
		of(nic, "driver"):    drivers.Seen(igb),
	}
}

func named(steps []drivers.Step) string {
	var b strings.Builder
	for _, s := range steps {
		fmt.Fprintf(&b, "%s: %s > %s\n", s.Key, s.From, s.To)
	}
	return b.String()
}

// TestOrderMakesVFsAnew: what is asked of them comes once they are there, and
// begins with what the kernel makes of a new one.
func TestOrderMakesVFsAnew(t *testing.T) {
	for name, tc := range map[string]struct {
		to   plan.Goal
		want string
	}{
		"one more": {plan.Goal{
			key("numvfs"): vfs(first, second), of(first, "driver"): "driver=igbvf override=-", of(first, "mtu"): "1400",
			of(second, "driver"): vfio, of(second, "mtu"): drivers.Hidden,
		}, `
numvfs@0000:02:00.0: autoprobe=1 vfs=0000:02:10.0 > autoprobe=1 vfs=-
numvfs@0000:02:00.0: autoprobe=1 vfs=- > autoprobe=0 vfs=-
numvfs@0000:02:00.0: autoprobe=0 vfs=- > autoprobe=0 vfs=0000:02:10.0,0000:02:10.2
numvfs@0000:02:00.0: autoprobe=0 vfs=0000:02:10.0,0000:02:10.2 > autoprobe=1 vfs=0000:02:10.0,0000:02:10.2
driver@0000:02:10.0: driver=- override=- > driver=igbvf override=-
driver@0000:02:10.2: driver=- override=- > driver=- override=vfio-pci
driver@0000:02:10.2: driver=- override=vfio-pci > driver=vfio-pci override=vfio-pci
mtu@0000:02:10.0: 1500 > 1400
`},
		"one more, and the PF's link first": {plan.Goal{
			key("numvfs"): vfs(first, second), key("mtu"): "1500", of(first, "driver"): "driver=igbvf override=-", of(first, "mtu"): "1400",
			of(second, "vf.mac"): "52:54:00:00:00:01", of(second, "driver"): "driver=igbvf override=-", of(second, "admin"): "up",
		}, `
numvfs@0000:02:00.0: autoprobe=1 vfs=0000:02:10.0 > autoprobe=1 vfs=-
numvfs@0000:02:00.0: autoprobe=1 vfs=- > autoprobe=0 vfs=-
numvfs@0000:02:00.0: autoprobe=0 vfs=- > autoprobe=0 vfs=0000:02:10.0,0000:02:10.2
numvfs@0000:02:00.0: autoprobe=0 vfs=0000:02:10.0,0000:02:10.2 > autoprobe=1 vfs=0000:02:10.0,0000:02:10.2
mtu@0000:02:00.0: 9000 > 1500
vf.mac@0000:02:10.2: default > 52:54:00:00:00:01
driver@0000:02:10.0: driver=- override=- > driver=igbvf override=-
driver@0000:02:10.2: driver=- override=- > driver=igbvf override=-
mtu@0000:02:10.0: 1500 > 1400
admin@0000:02:10.2: down > up
`},
		"the link goes down last": {plan.Goal{
			key("numvfs"): vfs(first), key("mtu"): "1500", key("admin"): "down", of(first, "driver"): none, of(first, "mtu"): drivers.Hidden,
		}, `
mtu@0000:02:00.0: 9000 > 1500
driver@0000:02:10.0: driver=igbvf override=- > driver=- override=-
admin@0000:02:00.0: up > down
`},
		"none": {plan.Goal{
			key("numvfs"): vfs(), of(first, "driver"): drivers.Hidden, of(first, "mtu"): drivers.Hidden,
		}, "numvfs@0000:02:00.0: autoprobe=1 vfs=0000:02:10.0 > autoprobe=1 vfs=-\n"},
	} {
		t.Run(name, func(t *testing.T) {
			from := withVF()
			from[key("admin")] = drivers.Seen("up")
			for _, kind := range []drivers.Kind{"vf.mac", "admin"} {
				from[of(second, kind)] = drivers.Seen(drivers.Hidden)
			}
			steps, err := plan.Order(all.Specs(), from, tc.to)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.TrimPrefix(tc.want, "\n"), named(steps)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestCoverTakesAllOfTheVFs: another number of them has all there is of each in
// the one operation, and nothing of the PF's own link.
func TestCoverTakesAllOfTheVFs(t *testing.T) {
	for name, tc := range map[string]struct {
		want     plan.Goal
		baseline plan.Goal
		is       plan.Draft
	}{
		"one more": {
			want: plan.Goal{key("numvfs"): vfs(first, second), of(second, "driver"): vfio},
			is: plan.Draft{Before: plan.Goal{
				key("numvfs"): vfs(first), of(first, "driver"): "driver=igbvf override=-", of(first, "mtu"): "1400",
				of(second, "driver"): drivers.Hidden, of(second, "mtu"): drivers.Hidden,
			}, After: plan.Goal{
				key("numvfs"): vfs(first, second), of(first, "driver"): "driver=igbvf override=-", of(first, "mtu"): "1400",
				of(second, "driver"): vfio, of(second, "mtu"): drivers.Hidden,
			}},
		},
		"one more, whose link was set once": {
			want:     plan.Goal{key("numvfs"): vfs(first, second), of(second, "driver"): igb},
			baseline: plan.Goal{of(second, "mtu"): "1300"},
			is: plan.Draft{Before: plan.Goal{
				key("numvfs"): vfs(first), of(first, "driver"): "driver=igbvf override=-", of(first, "mtu"): "1400",
				of(second, "driver"): drivers.Hidden, of(second, "mtu"): drivers.Hidden,
			}, After: plan.Goal{
				key("numvfs"): vfs(first, second), of(first, "driver"): "driver=igbvf override=-", of(first, "mtu"): "1400",
				of(second, "driver"): igb, of(second, "mtu"): "1300",
			}},
		},
		"none": {
			want: plan.Goal{key("numvfs"): vfs()},
			is: plan.Draft{
				Before: plan.Goal{key("numvfs"): vfs(first), of(first, "driver"): "driver=igbvf override=-", of(first, "mtu"): "1400"},
				After:  plan.Goal{key("numvfs"): vfs(), of(first, "driver"): drivers.Hidden, of(first, "mtu"): drivers.Hidden},
			},
		},
		"as many": {want: plan.Goal{key("numvfs"): vfs(first)}, is: plan.Draft{Before: plan.Goal{}, After: plan.Goal{}}},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := plan.Cover(all.Specs(), plan.Function{Target: nic, Want: tc.want, Observed: withVF(), Baseline: tc.baseline})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.is, d); diff != "" {
				t.Error(diff)
			}
		})
	}
	_, err := plan.Cover(all.Specs(), plan.Function{
		Target: nic, Want: plan.Goal{key("numvfs"): vfs(), of(first, "driver"): vfio}, Observed: withVF(),
	})
	if !errors.Is(err, drivers.ErrHidden) {
		t.Errorf("a driver of a VF that goes: %v, want %v", err, drivers.ErrHidden)
	}
	d, err := plan.Cover(all.Specs(), plan.Function{
		Target: nic, Want: plan.Goal{key("numvfs"): vfs(), of(first, "driver"): drivers.Hidden}, Observed: withVF(),
	})
	if err != nil || d.After[of(first, "driver")] != drivers.Hidden {
		t.Errorf("a VF that shall go is asked to be hidden: %v, %v", d, err)
	}
}

func TestOrderRefuses(t *testing.T) {
	gone := drivers.Observation{Presence: drivers.Gone}
	dark := drivers.Observation{Presence: drivers.Unobservable, Err: drivers.ErrFenced}
	circle := drivers.Specs{
		{Kind: "a", After: []drivers.Kind{"b"}}, {Kind: "b", After: []drivers.Kind{"a"}},
	}
	a := drivers.Key{Kind: "a", Target: nic}
	tests := []struct {
		name  string
		specs drivers.Specs
		from  plan.Observed
		to    plan.Goal
		want  error
	}{
		{"gone", all.Specs(), plan.Observed{key("mtu"): gone}, plan.Goal{key("mtu"): "9000"}, drivers.ErrGone},
		{"fenced", all.Specs(), plan.Observed{key("mtu"): dark}, plan.Goal{key("mtu"): "9000"}, drivers.ErrFenced},
		{"not observed", all.Specs(), plan.Observed{}, plan.Goal{key("mtu"): "9000"}, nil},
		{"unknown kind", all.Specs(), plan.Observed{a: drivers.Seen("x")}, plan.Goal{a: "y"}, drivers.ErrIllegal},
		{"circle of kinds", circle, plan.Observed{a: drivers.Seen("x")}, plan.Goal{a: "y"}, nil},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			steps, err := plan.Order(tc.specs, tc.from, tc.to)
			if err == nil || tc.want != nil && !errors.Is(err, tc.want) {
				t.Errorf("got %v, %v; want an error that is %v", steps, err, tc.want)
			}
		})
	}
}

// drawState draws any state of the three kinds of a function.
func drawState(t *rapid.T, label string) (driver, mtu, admin drivers.State) {
	driver = rapid.SampledFrom([]drivers.State{igb, vfio, uio, none, half, "driver=igb override=vfio-pci", "driver=vfio-pci override=-"}).Draw(t, label+" driver")
	if !strings.HasPrefix(string(driver), "driver=igb") {
		return driver, drivers.Hidden, drivers.Hidden
	}
	mtu = rapid.SampledFrom([]drivers.State{"1500", "9000", "1280"}).Draw(t, label+" mtu")
	return driver, mtu, rapid.SampledFrom([]drivers.State{"up", "down"}).Draw(t, label+" admin")
}

// orderer is plan.Order, or a broken variant of it.
type orderer func(drivers.Specs, plan.Observed, plan.Goal) ([]drivers.Step, error)

// brokenPlan checks the plan from one state to another by following it as the
// kernel would, and returns what is wrong.
func brokenPlan(order orderer, from plan.Observed, to plan.Goal) string {
	steps, err := order(all.Specs(), from, to)
	if err != nil {
		return err.Error()
	}
	at := plan.Goal{}
	for k, o := range from {
		at[k] = o.State
	}
	driver := key("driver")
	for _, s := range steps {
		if s.From != at[s.Key] {
			return fmt.Sprintf("%s starts at %s, the host is at %s", s.Key, s.From, at[s.Key])
		}
		if s.From == drivers.Hidden {
			return "writes a netdev that is not there"
		}
		at[s.Key] = s.To
		if s.Key != driver {
			continue
		}
		name, override, _ := strings.Cut(strings.TrimPrefix(string(s.To), "driver="), " override=")
		was, _, _ := strings.Cut(strings.TrimPrefix(string(s.From), "driver="), " override=")
		if name != "-" && name != was && override != "-" && override != name {
			return "binds " + name + " while the override names " + override
		}
		switch {
		case name != "igb":
			at[key("mtu")], at[key("admin")] = drivers.Hidden, drivers.Hidden
		case was != "igb":
			at[key("mtu")], at[key("admin")] = "1500", "down"
		}
	}
	return cmp.Diff(to, at)
}

func TestOrderReachesEveryGoalFromEveryState(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from, to := observed(drawState(t, "from")), goal(drawState(t, "to"))
		if wrong := brokenPlan(plan.Order, from, to); wrong != "" {
			t.Fatalf("%v to %v: %s", from, to, wrong)
		}
	})
}

// TestBrokenOrdersAreCaught holds the check above against planners that are
// wrong in one place each.
func TestBrokenOrdersAreCaught(t *testing.T) {
	reversed := func(specs drivers.Specs, from plan.Observed, to plan.Goal) ([]drivers.Step, error) {
		// The steps of the way there, undone from the last to the first.
		there := plan.Observed{}
		for k, s := range to {
			there[k] = drivers.Seen(s)
		}
		back := plan.Goal{}
		for k, o := range from {
			back[k] = o.State
		}
		steps, err := plan.Order(specs, there, back)
		var undone []drivers.Step
		for i := len(steps) - 1; i >= 0; i-- {
			undone = append(undone, drivers.Step{Key: steps[i].Key, From: steps[i].To, To: steps[i].From})
		}
		return undone, err
	}
	forgetful := func(specs drivers.Specs, from plan.Observed, to plan.Goal) ([]drivers.Step, error) {
		steps, err := plan.Order(specs, from, to)
		var kept []drivers.Step
		for _, s := range steps {
			if s.Key.Kind == "driver" {
				kept = append(kept, s)
			}
		}
		return kept, err
	}
	revert, back := observed(vfio, drivers.Hidden, drivers.Hidden), goal(igb, "9000", "up")
	for name, order := range map[string]orderer{"reverse of the list": reversed, "wiped attributes forgotten": forgetful} {
		t.Run(name, func(t *testing.T) {
			if brokenPlan(order, revert, back) == "" {
				t.Error("nothing is wrong with it: the check would not notice")
			}
		})
	}
}

func TestCover(t *testing.T) {
	tests := []struct {
		name     string
		from     plan.Observed
		want     plan.Goal
		baseline plan.Goal
		before   plan.Goal
		after    plan.Goal
	}{
		{"nothing differs", observed(igb, "9000", "up"), plan.Goal{key("mtu"): "9000"}, nil, plan.Goal{}, plan.Goal{}},
		{"only what differs", observed(igb, "1500", "up"), plan.Goal{key("mtu"): "9000", key("admin"): "up"}, nil, plan.Goal{key("mtu"): "1500"}, plan.Goal{key("mtu"): "9000"}},
		{
			"a bind takes the netdev's attributes with it", observed(igb, "9000", "up"),
			plan.Goal{key("driver"): vfio},
			nil,
			goal(igb, "9000", "up"), goal(vfio, drivers.Hidden, drivers.Hidden),
		},
		{
			"the way back restores the baseline", observed(vfio, drivers.Hidden, drivers.Hidden),
			plan.Goal{key("driver"): igb},
			plan.Goal{key("mtu"): "9000", key("admin"): "up"},
			goal(vfio, drivers.Hidden, drivers.Hidden), goal(igb, "9000", "up"),
		},
		{
			"what is asked outranks the baseline", observed(vfio, drivers.Hidden, drivers.Hidden),
			plan.Goal{key("driver"): igb, key("mtu"): "4000"},
			plan.Goal{key("mtu"): "9000", key("admin"): "up"},
			goal(vfio, drivers.Hidden, drivers.Hidden), goal(igb, "4000", "up"),
		},
		{
			"without a baseline nobody knows", observed(vfio, drivers.Hidden, drivers.Hidden),
			plan.Goal{key("driver"): igb},
			nil,
			plan.Goal{key("driver"): vfio},
			plan.Goal{key("driver"): igb},
		},
		{
			"from one kernel driver to another, the netdev is made anew", observed(igb, "9000", "up"),
			plan.Goal{key("driver"): "driver=e1000e override=-", key("mtu"): "9000"},
			nil,
			goal(igb, "9000", "up"), goal("driver=e1000e override=-", "9000", "up"),
		},
		{
			"one write brings the netdev back", observed("driver=- override=-", drivers.Hidden, drivers.Hidden),
			plan.Goal{key("driver"): igb},
			plan.Goal{key("mtu"): "9000", key("admin"): "up"},
			goal("driver=- override=-", drivers.Hidden, drivers.Hidden), goal(igb, "9000", "up"),
		},
		{"an override alone re-creates nothing", observed("driver=igb override=vfio-pci", "9000", "up"), plan.Goal{key("driver"): igb}, nil, plan.Goal{key("driver"): "driver=igb override=vfio-pci"}, plan.Goal{key("driver"): igb}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			d, err := plan.Cover(all.Specs(), plan.Function{Target: nic, Want: tc.want, Observed: tc.from, Baseline: tc.baseline})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(plan.Draft{Before: tc.before, After: tc.after}, d); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestCoverWaitsForTheNetdev that a driver has yet to make: an operation that
// began without it would take what it is then for another hand's doing.
func TestCoverWaitsForTheNetdev(t *testing.T) {
	probing := observed(igb, drivers.Hidden, drivers.Hidden)
	for _, want := range []plan.Goal{{key("mtu"): "9000"}, {key("admin"): "up"}, {key("driver"): igb, key("mtu"): "9000"}} {
		if d, err := plan.Cover(all.Specs(), plan.Function{Target: nic, Want: want, Observed: probing}); !errors.Is(err, drivers.ErrNotReady) {
			t.Errorf("%v: %v, %v", want, d, err)
		}
	}
	if d, err := plan.Cover(all.Specs(), plan.Function{Target: nic, Want: plan.Goal{key("driver"): igb}, Observed: probing}); err != nil || !d.Empty() {
		t.Errorf("nothing of the netdev: %v, %v", d, err)
	}
}

func TestCoverRefusesWhatCannotBe(t *testing.T) {
	_, err := plan.Cover(all.Specs(), plan.Function{
		Target: nic, Want: plan.Goal{key("mtu"): "9000"}, Observed: observed(vfio, drivers.Hidden, drivers.Hidden),
	})
	if !errors.Is(err, drivers.ErrHidden) {
		t.Errorf("an MTU of a function on vfio-pci: %v, want %v", err, drivers.ErrHidden)
	}
	for want, o := range map[error]drivers.Observation{
		drivers.ErrUnknown: {Presence: drivers.Gone},
		syscall.EIO:        {Presence: drivers.Unobservable, Err: syscall.EIO},
	} {
		_, err = plan.Cover(all.Specs(), plan.Function{
			Target: nic, Want: plan.Goal{key("driver"): vfio}, Observed: plan.Observed{key("driver"): o},
		})
		if !errors.Is(err, want) {
			t.Errorf("a function that is %s was planned: %v, want %v", o, err, want)
		}
	}
}

// TestAnUnreadDriverIsNotNone: while it cannot be read what driver a function
// has, what its netdev lacks is not said of it.
func TestAnUnreadDriverIsNotNone(t *testing.T) {
	observed := plan.Observed{
		key("driver"): {Presence: drivers.Unobservable, Err: syscall.EIO}, key("mtu"): drivers.Seen("1500"), key("admin"): drivers.Seen("up"),
	}
	for want, err := range map[drivers.State]error{"1500": nil, "4000": syscall.EIO} {
		d, got := plan.Cover(all.Specs(), plan.Function{Target: nic, Want: plan.Goal{key("mtu"): want}, Observed: observed})
		switch {
		case !errors.Is(got, err), errors.Is(got, drivers.ErrHidden), !d.Empty():
			t.Errorf("mtu %s: %+v, %v", want, d, got)
		case err != nil && !strings.Contains(got.Error(), "could not be read"):
			t.Errorf("mtu %s: %v", want, got)
		}
	}
}
