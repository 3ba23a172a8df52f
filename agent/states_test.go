package agent

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"
	"pgregory.net/rapid"

	"eniagent/agent/source"
	"eniagent/agent/state"
	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/drivers/host/sim"
)

// path is the states that an entry went through, as the log has them.
func (n *node) path(entry string) string {
	states := []string{string(state.Unknown)}
	for line := range strings.Lines(n.log.String()) {
		if !strings.Contains(line, `msg="interface state"`) || !strings.Contains(line, fmt.Sprintf("entry=%q", entry)) {
			continue
		}
		_, rest, _ := strings.Cut(line, " to=")
		to, _, _ := strings.Cut(rest, " ")
		states = append(states, to)
	}
	return strings.Join(states, " ")
}

func (n *node) is(entry string, want state.State) {
	n.t.Helper()
	for _, i := range n.agent.Status(n.t.Context()).Interfaces {
		if i.Entry == entry {
			if i.State != want || i.StateSince.IsZero() {
				n.t.Errorf("%s is %s since %s, want %s\n%s", entry, i.State, i.StateSince, want, n.log)
			}
			return
		}
	}
	n.t.Errorf("no entry %s", entry)
}

// TestTheLifeOfAnInterface goes through all the states.
func TestTheLifeOfAnInterface(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const bound, port = "pci " + portA, "name enp3s0"
		n := newNode(t, sim.DefaultNode())
		n.start(nil)
		defer func() { n.halt() }()
		n.want(pci(portA, "vfio-pci"), named("enp3s0", 9000))
		settled(5 * time.Second)
		n.is(bound, state.Bound)
		n.is(port, state.Up)
		n.carrier("enp3s0", false)
		settled(time.Second)
		n.is(port, state.Down)
		settled(time.Minute)
		n.is(port, state.Degraded)
		n.carrier("enp3s0", true)
		if err := n.kernel.Unplug(portA); err != nil {
			t.Fatal(err)
		}
		settled(time.Second)
		n.is(bound, state.Gone)
		n.is(port, state.Up)
		if got := n.metric(`eniagent_interface_states{state="gone"}`); got != 1 {
			t.Errorf("%v interfaces are gone", got)
		}
		if err := n.kernel.Plug(sim.DefaultNode().Devices[5]); err != nil {
			t.Fatal(err)
		}
		settled(time.Second)
		n.is(bound, state.Bound)
		if got, want := n.path(bound), "unknown configuring bound gone unknown configuring bound"; got != want {
			t.Errorf("it went %s, want %s", got, want)
		}
		if got, want := n.path(port), "unknown configuring up down degraded up"; got != want {
			t.Errorf("it went %s, want %s", got, want)
		}
	})
}

// TestGivenUpAndQuarantined are the states that wait for a person.
func TestGivenUpAndQuarantined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		if err := n.kernel.Inject(sim.Fault{Label: "bind", Path: "vfio-pci", Errno: syscall.EINVAL, Times: 3}); err != nil {
			t.Fatal(err)
		}
		n.start(nil)
		defer func() { n.halt() }()
		n.want(pci(portA, "vfio-pci"))
		settled(30 * time.Minute)
		n.is("pci "+portA, state.Error)
		if _, err := n.agent.Retry(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		settled(time.Minute)
		n.is("pci "+portA, state.Bound)
		n.quarantined()
		n.is("pci "+portA, state.Quarantined)
		n.want(pci(portA, "")) // a driver that is no longer asked for is given back
		settled(time.Minute)
		n.is("pci "+portA, state.Down)
		if p := n.path("pci " + portA); !strings.HasSuffix(p, " error configuring bound configuring quarantined configuring down") {
			t.Errorf("it went %s", p)
		}
	})
}

// TestAQuarantineEndsWithNothingToDo: what the interface was before says
// nothing then, and it is unknown until it was looked at.
func TestAQuarantineEndsWithNothingToDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wild{node: newNode(t, sim.DefaultNode())}
		w.start(nil)
		defer func() { w.halt() }()
		w.want(pci(portA, "vfio-pci"))
		settled(5 * time.Second)
		w.endsByHand()
		settled(time.Minute)
		w.is("pci "+portA, state.Down)
		if p := w.path("pci " + portA); !strings.HasSuffix(p, " bound configuring quarantined unknown down") {
			t.Errorf("it went %s", p)
		}
	})
}

// endsByHand has a function put in quarantine and brought back by a person, to
// what it was before the agent changed it; then its driver is no longer asked for.
func (w *wild) endsByHand() {
	w.quarantined()
	w.foreign(portA, "igb")
	if err := w.kernel.Foreign(host.Call{Op: host.OpSysfs, Target: portA, Path: host.Attr(portA, "driver_override"), Value: "\n"}); err != nil {
		w.t.Error(err)
	}
	w.want(pci(portA, ""))
}

// wild is a node to which anything may happen, by the agent's hand or another.
type wild struct {
	*node
	pick  func(what string, n int) int
	holds []func()
	wants map[string]source.Interface
	did   []string
}

func ports() []string { return []string{portA, portB} }

func (w *wild) port() string { return ports()[w.pick("port", len(ports()))] }

// events are all that may happen, by name.
func events() []struct {
	name string
	do   func(*wild)
} {
	return []struct {
		name string
		do   func(*wild)
	}{
		{"ask", (*wild).ask},
		{"rebind by another hand", (*wild).rebind},
		{"unbind by another hand", func(w *wild) { w.foreign(w.port(), "") }},
		{"carrier", func(w *wild) { _ = w.kernel.SetCarrier(w.port(), w.pick("on", 2) == 1) }},
		{"unplug", func(w *wild) { _ = w.kernel.Unplug(w.port()) }},
		{"plug", func(w *wild) { _ = w.kernel.Plug(sim.DefaultNode().Devices[5+2*w.pick("device", 2)]) }},
		{"hold", func(w *wild) { w.holds = append(w.holds, w.kernel.Hold(w.port())) }},
		{"let go", (*wild).letGo},
		{"fault", (*wild).fail},
		{"heal", (*wild).heal},
		{"order", (*wild).order},
		{"retry", func(w *wild) { _, _ = w.agent.Retry(w.t.Context(), "") }},
		{"decide", (*wild).decide},
		{"restart", (*wild).restart},
		{"reboot", (*wild).reboot},
	}
}

// ask asks for something else of a function, by its address or its name.
func (w *wild) ask() {
	at := w.pick("port", len(ports()))
	s := source.Selector{PCI: drivers.Target(ports()[at])}
	if w.pick("by name", 3) == 0 {
		s = source.Selector{Name: []string{"enp2s0", "enp3s0"}[at]}
	}
	up := true
	i := source.Interface{Selector: s, State: source.Configured}
	switch w.pick("what", 4) {
	case 0, 1:
		i.Driver = "vfio-pci"
	case 2:
		i.Driver, i.Up, i.MTU = "igb", &up, 9000
	default:
		i.State = source.Released
	}
	w.wants[s.String()] = i
	var all []source.Interface
	for _, k := range []string{"pci " + portA, "pci " + portB, "name enp2s0", "name enp3s0"} {
		if i, ok := w.wants[k]; ok {
			all = append(all, i)
		}
	}
	w.want(all...)
}

// foreign unbinds a function, and binds it to another driver.
func (w *wild) foreign(address, driver string) {
	call := func(path, value string) {
		_ = w.kernel.Foreign(host.Call{Op: host.OpSysfs, Target: drivers.Target(address), Path: path, Value: value})
	}
	now, _ := host.DriverOf(w.t.Context(), w.kernel, address)
	if now != "" {
		call(host.PCIDrivers+now+"/unbind", address)
	}
	if driver != "" {
		call(host.Attr(address, "driver_override"), driver)
		call(host.PCIDrivers+driver+"/bind", address)
	}
}

func (w *wild) rebind() {
	w.foreign(w.port(), []string{"igb", "vfio-pci", "uio_pci_generic"}[w.pick("driver", 3)])
}

func (w *wild) letGo() {
	for _, release := range w.holds {
		release()
	}
	w.holds = nil
}

func (w *wild) fail() {
	f := sim.Fault{Label: []string{"bind", "unbind", "override", "probe", "mtu"}[w.pick("label", 5)], Times: 1 + w.pick("times", 3)}
	switch w.pick("how", 3) {
	case 0:
		f.Hang, f.Times = true, 1
	case 1:
		f.Noop = true
	default:
		f.Errno = syscall.EINVAL
	}
	if err := w.kernel.Inject(f); err != nil {
		w.t.Fatal(err)
	}
}

func (w *wild) heal() {
	if err := w.kernel.ClearFaults(); err != nil {
		w.t.Fatal(err)
	}
	w.kernel.Thaw()
}

func (w *wild) order() {
	o := Order{Targets: []string{w.port()}, Who: "test"}
	do := []func() (OrderReport, error){
		func() (OrderReport, error) { return w.agent.Release(w.t.Context(), o) },
		func() (OrderReport, error) { o.Cancel = true; return w.agent.Release(w.t.Context(), o) },
		func() (OrderReport, error) { return w.agent.Pause(w.t.Context(), o) },
		func() (OrderReport, error) { return w.agent.Resume(w.t.Context(), o) },
	}
	_, _ = do[w.pick("order", len(do))]()
}

// decide is what a person says of the first operation in quarantine.
func (w *wild) decide() {
	for _, op := range w.journal.Quarantined() {
		_, _ = w.agent.Resolve(w.t.Context(), Resolution{Operation: op.ID, How: []string{Accept, Replay, Revert}[w.pick("how", 3)], Who: "test"})
		return
	}
}

func (w *wild) restart() {
	w.halt()
	w.start(nil)
}

func (w *wild) reboot() {
	w.heal()
	w.letGo()
	w.halt()
	w.kernel.Reboot()
	w.start(nil)
}

// walk lets things happen, and says how many transitions were illegal.
func walk(t *testing.T, breaks func(*Agent), steps int, pick func(string, int) int) (illegal float64, w *wild) {
	w = &wild{node: newNode(t, sim.DefaultNode()), pick: pick, wants: map[string]source.Interface{}}
	w.breaks = breaks
	w.start(nil)
	w.ask()
	whatever := events()
	for range steps {
		e := whatever[pick("event", len(whatever))]
		w.did = append(w.did, e.name)
		illegal += w.before(e.name)
		e.do(w)
		settled([]time.Duration{0, 5 * time.Millisecond, 100 * time.Millisecond, time.Second, 30 * time.Second}[pick("then", 5)])
	}
	illegal += w.metric("eniagent_illegal_transitions_total")
	w.heal()
	w.letGo()
	w.halt()
	return illegal, w
}

// before is what is counted so far, where the count is about to be lost.
func (w *wild) before(event string) float64 {
	if event != "restart" && event != "reboot" {
		return 0
	}
	return w.metric("eniagent_illegal_transitions_total")
}

// TestNoTransitionIsIllegal: whatever happens to a node.
func TestNoTransitionIsIllegal(t *testing.T) {
	reached := map[state.State]bool{}
	rapid.Check(t, func(rt *rapid.T) {
		draws := rapid.SliceOfN(rapid.IntRange(0, 1<<16), 20, 80).Draw(rt, "draws")
		steps := rapid.IntRange(1, 15).Draw(rt, "steps")
		verdict := ""
		synctest.Test(t, func(t *testing.T) {
			// The walk counts; what fails it is told to rapid.
			illegal, w := walk(t, func(*Agent) {}, steps, func(_ string, n int) int {
				if len(draws) == 0 {
					return 0
				}
				d := draws[0] % n
				draws = draws[1:]
				return d
			})
			if illegal != 0 {
				verdict = fmt.Sprintf("%v illegal transitions after %q\n%s", illegal, w.did, w.log)
			}
			for _, k := range []string{"pci " + portA, "pci " + portB, "name enp2s0", "name enp3s0"} {
				for s := range strings.FieldsSeq(w.path(k)) {
					reached[state.State(s)] = true
				}
			}
		})
		if verdict != "" {
			rt.Fatal(verdict)
		}
	})
	for _, s := range []state.State{state.Configuring, state.Bound, state.Up, state.Down, state.Gone} {
		if !reached[s] { // the others are rarer, and have a test of their own
			t.Errorf("no world reached %s", s)
		}
	}
}

// TestBrokenStatesAreCaught leaves out one ground at a time for looking anew,
// and wants what it is for to be counted as illegal.
func TestBrokenStatesAreCaught(t *testing.T) {
	for _, v := range []struct {
		why     string // of the grounds, a part
		happens func(*wild)
	}{
		{"device", func(w *wild) {
			_ = w.kernel.Unplug(portA)
			settled(time.Second)
			_ = w.kernel.Plug(sim.DefaultNode().Devices[5])
		}},
		{"its quarantine is over", (*wild).endsByHand},
		{"another hand changed its driver", func(w *wild) {
			if _, err := w.agent.Pause(w.t.Context(), Order{Targets: []string{portA}, Who: "test"}); err != nil {
				w.t.Fatal(err)
			}
			w.foreign(portA, "igb")
			if err := w.kernel.Foreign(host.Call{Op: host.OpAdmin, Target: portA, Index: w.link("enp2s0").Index, Number: 1}); err != nil {
				w.t.Fatal(err)
			}
		}},
	} {
		for _, broken := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/%t", v.why, broken), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := &wild{node: newNode(t, sim.DefaultNode())}
					w.breaks = func(a *Agent) {
						a.states.anew = slices.DeleteFunc(a.states.anew, func(g ground) bool { return broken && strings.Contains(g.why, v.why) })
					}
					w.start(nil)
					w.want(pci(portA, "vfio-pci"))
					settled(5 * time.Second)
					v.happens(w)
					settled(time.Minute)
					if illegal := w.metric("eniagent_illegal_transitions_total"); illegal > 0 != broken {
						t.Errorf("%v illegal transitions\n%s", illegal, w.log)
					}
					w.halt()
				})
			})
		}
	}
}

// TestAnIllegalTransitionIsCountedAndGoesByUnknown: and what the agent does by
// its own hand is no other hand's.
func TestAnIllegalTransitionIsCountedAndGoesByUnknown(t *testing.T) {
	var logged syncBuffer
	for _, tc := range []struct {
		own     bool
		illegal int
	}{{own: true, illegal: 1}, {own: false, illegal: 0}} {
		s := newStates(nil, log.NewLogfmtLogger(&logged))
		own := func(time.Time) bool { return tc.own }
		for _, now := range []state.State{state.Up, state.Bound} {
			s.note("pci x", finding{target: portA, there: true, state: now, own: own})
		}
		if is, _ := s.get("pci x"); is != state.Bound {
			t.Errorf("it is %s", is)
		}
		if got := strings.Count(logged.String(), "level=error"); got != tc.illegal && tc.own {
			t.Errorf("%d errors were logged, want %d\n%s", got, tc.illegal, &logged)
		}
		if !strings.Contains(logged.String(), "from=up to=unknown") || strings.Contains(logged.String(), "msg=\"interface state\" from=up to=bound") {
			t.Errorf("it did not go by unknown\n%s", &logged)
		}
	}
}
