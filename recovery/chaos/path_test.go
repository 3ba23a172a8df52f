//go:build linux

package chaos

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// weather is a state of the network in which the kernel must keep its NICs.
type weather struct {
	rule, why, remedy string
	// held says that what is refused goes on by itself: the order to release is
	// taken.
	held  bool
	begin func(n *node) (end func())
}

// managementPath is a default route of a policy table, in IPv6, over a VLAN on
// a bond of both PFs.
func managementPath() weather {
	return weather{
		rule: "management-path", why: "IPv6 default route of table 100 on bond7.9", remedy: "set allowManagementPath",
		begin: func(n *node) func() {
			for _, module := range []string{"bonding", "8021q"} {
				mustRun(n.t, n.vm, "modprobe", module)
			}
			n.ip("link add bond7 type bond")
			for _, nic := range []NIC{n.a, n.b} {
				n.ip("link set " + n.ipLink(nic).Name + " down")
				n.ip("link set " + n.ipLink(nic).Name + " master bond7")
			}
			n.ip("link set bond7 up")
			n.ip("link add link bond7 name bond7.9 type vlan id 9")
			n.ip("link set bond7.9 up")
			n.ip("-6 addr add fd00:9::2/64 dev bond7.9 nodad")
			n.ip("-6 route add default via fd00:9::1 dev bond7.9 table 100 onlink")
			return func() { n.without("bond7.9", "bond7") }
		},
	}
}

// earlyBoot is a node whose network nobody has set up yet.
func earlyBoot() weather {
	return weather{
		rule: "no-default-route", why: "the node has no default route yet", remedy: "--allow-without-default-route", held: true,
		begin: func(n *node) func() {
			if routes := n.ip("route show table all default") + n.ip("-6 route show table all default"); routes != "" {
				n.t.Fatalf("there is a default route: %s", routes)
			}
			return func() {}
		},
	}
}

// without removes links that may be gone already.
func (n *node) without(links ...string) {
	n.t.Helper()
	for _, link := range links {
		_, err := n.vm.Run(n.ctx(), Command("/bin/ip", "link", "del", link))
		must(n.t, err)
	}
}

func (w weather) words() []string { return []string{"refused by " + w.rule, w.why, w.remedy} }

func (n *node) ip(args string) string {
	n.t.Helper()
	return mustRun(n.t, n.vm, append([]string{"/bin/ip"}, strings.Fields(args)...)...)
}

const listens = "127.0.0.1:9810"

// start starts an agent as a node has it: no rule is switched off.
func (n *node) start(flags ...string) *Proc {
	n.t.Helper()
	p, err := n.vm.StartAgent(n.ctx(), append([]string{
		"run", "--config", wanted, "--state-dir", StateDir, "--listen", listens, "--write-timeout", "2s",
	}, flags...)...)
	must(n.t, err)
	return p
}

// kill ends an agent that a test has left.
func (n *node) kill(p *Proc) {
	if !p.Ended() {
		_ = p.Signal(n.ctx(), syscall.SIGKILL)
		_, _ = p.Wait(n.ctx())
	}
}

// byHand binds a NIC as a person at the node does, with an override or none.
func (n *node) byHand(nic NIC, driver, override string) {
	n.t.Helper()
	n.unbound(nic)
	must(n.t, n.vm.Poke(n.ctx(), nic.Sysfs("driver_override"), override+"\n"))
	must(n.t, n.vm.Poke(n.ctx(), "/sys/bus/pci/drivers/"+driver+"/bind", nic.Addr))
}

func (n *node) unbound(nic NIC) {
	n.t.Helper()
	if n.driver(nic) != "" {
		must(n.t, n.vm.Poke(n.ctx(), nic.Sysfs("driver/unbind"), nic.Addr))
	}
}

// driver is what a NIC is bound to now, or "".
func (n *node) driver(nic NIC) string {
	link, err := n.vm.Readlink(n.ctx(), nic.Sysfs("driver"))
	if err != nil {
		return ""
	}
	return path.Base(link)
}

// home brings both PFs back to igb, and their links down, whatever a test did.
func (n *node) home() {
	n.t.Helper()
	for _, nic := range []NIC{n.a, n.b} {
		override, err := n.vm.ReadText(n.ctx(), nic.Sysfs("driver_override"))
		must(n.t, err)
		if n.driver(nic) != "igb" || override != "(null)" {
			n.byHand(nic, "igb", "")
		}
		n.ip("link set " + n.ipLink(nic).Name + " down mtu 1500")
	}
}

// standing is what must not change while the kernel keeps a NIC: a driver that
// was away for a moment gives the netdev another index.
func (n *node) standing() string {
	n.t.Helper()
	var s []string
	for _, nic := range []NIC{n.a, n.b} {
		index, err := n.vm.ReadText(n.ctx(), nic.Sysfs("net", n.ipLink(nic).Name, "ifindex"))
		must(n.t, err)
		override, err := n.vm.ReadText(n.ctx(), nic.Sysfs("driver_override"))
		must(n.t, err)
		l := n.ipLink(nic)
		s = append(s, fmt.Sprintln(nic.Addr, n.driver(nic), override, index, l.MTU, slices.Contains(l.Flags, "UP")))
	}
	return strings.Join(s, "")
}

func (n *node) keeps(was string) {
	n.t.Helper()
	if now := n.standing(); now != was {
		n.t.Errorf("the NICs are\n%s, and were\n%s", now, was)
	}
}

// refuses wants a command to be refused by the rule, with the reason and what
// can be done.
func (n *node) refuses(w weather, code int, args ...string) {
	n.t.Helper()
	args = append(args, "--state-dir", StateDir)
	res, err := n.vm.Agent(n.ctx(), args...)
	must(n.t, err)
	if said := string(res.Stdout) + string(res.Stderr); res.Code != code || !hasAll(said, w.words()) {
		n.t.Errorf("agent %s: want exit status %d and %q, got %v", strings.Join(args, " "), code, w.words(), res)
	}
}

// refusals is how often the running agent counted a refusal by the rule.
func (n *node) refusals(w weather) int {
	n.t.Helper()
	for line := range strings.Lines(mustRun(n.t, n.vm, Helper, "get", listens, "/metrics")) {
		if count, ok := strings.CutPrefix(line, fmt.Sprintf("eniagent_refusals_total{rule=%q} ", w.rule)); ok {
			many, err := strconv.Atoi(strings.TrimSpace(count))
			must(n.t, err)
			return many
		}
	}
	n.t.Fatalf("no metric of rule %s", w.rule)
	return 0
}

// refusesOnline wants the same of the running agent, which counts it and has
// it in its log.
func (n *node) refusesOnline(p *Proc, w weather, code int, args ...string) {
	n.t.Helper()
	counted, logged := n.refusals(w), n.lines(p, w.words()...)
	n.refuses(w, code, args...)
	if now := n.refusals(w); now <= counted {
		n.t.Errorf("agent %v: %d refusals were counted before, and %d after", args, counted, now)
	}
	if (args[0] == "recover" || w.held) && logged > 0 {
		return // how an operation or an interface stands is in the log once
	}
	must(n.t, n.vm.WaitFor(n.ctx(), fmt.Sprintf("the log to have agent %v", args), n.moreLines(p, logged, w.words()...)))
}

// moreLines waits for a line in the log with all the words, beside those that
// were there.
func (n *node) moreLines(p *Proc, were int, words ...string) func(context.Context) (bool, error) {
	return func(context.Context) (bool, error) { return n.lines(p, words...) > were, nil }
}

// lines is how many lines of an agent's log have all the words.
func (n *node) lines(p *Proc, words ...string) (count int) {
	_, log := p.Output()
	for line := range strings.Lines(string(log)) {
		if hasAll(line, words) {
			count++
		}
	}
	return count
}

// crash runs the agent until its crash point.
func (n *node) crash(point string) {
	n.t.Helper()
	n.killed(n.run(crashing, "ENIAGENT_CRASH="+point))
}

// quarantined makes the operation that a crash left one for a person, and
// gives its number: another hand has written an override.
func (n *node) quarantined(nic NIC) string {
	n.t.Helper()
	must(n.t, n.vm.Poke(n.ctx(), nic.Sysfs("driver_override"), "elsewhere\n"))
	said := n.agent(4, "recover", "--yes", "--allow-without-default-route")
	for word := range strings.FieldsSeq(said) {
		if _, err := strconv.Atoi(word); err == nil {
			return word // "Operation 1 on ..."
		}
	}
	n.t.Fatalf("no operation in:\n%s", said)
	return ""
}

// TestNothingUnbindsAManagementNIC asks for it in every way there is: by the
// file, by giving back, by taking on what another tool did, by recovery, and by
// a person's decision, of a running agent and of none.
func TestNothingUnbindsAManagementNIC(t *testing.T) {
	ways := []struct {
		name string
		try  func(*node, weather)
	}{
		{"recovery and replay", (*node).recoveryAndReplay},
		{"revert and adopted", (*node).revertAndAdopted},
		{"file and release", (*node).fileAndRelease},
	}
	for _, w := range []weather{earlyBoot(), managementPath()} {
		for _, way := range ways {
			t.Run(w.rule+", "+way.name, func(t *testing.T) {
				n := newNode(t)
				defer n.home()
				way.try(n, w)
			})
		}
	}
}

// ordered is the exit status of a release that the rule refuses: what goes on
// by itself is left to the order.
func (w weather) ordered() int {
	if w.held {
		return 3
	}
	return 4
}

// fileAndRelease: the agent has brought the one to igb and the other up, and
// the way back of both cuts.
func (n *node) fileAndRelease(w weather) {
	n.unbound(n.a)
	n.ask(driverOf(n.a, "igb"), linkOf(n.b, 1500))
	p := n.run(AgentPath)
	defer func() { n.kill(p) }()
	n.settled(p)
	n.stop(p)
	defer w.begin(n)()
	was := n.standing()

	n.refuses(w, w.ordered(), "release", n.a.Addr, "--yes", "--config", wanted)
	n.ask(driverOf(n.a, "vfio-pci"))
	if !w.held {
		n.refuses(w, w.ordered(), "release", n.b.Addr, "--yes", "--config", wanted)
		n.ask(driverOf(n.a, "vfio-pci"), fmt.Sprintf("{pci: %q, up: false, mtu: 1400}", n.b.Addr))
	}
	p = n.start()
	n.said(p, append(w.words(), "interface is ", n.a.Addr)...)
	n.refusesOnline(p, w, w.ordered(), "release", n.a.Addr, "--yes")
	if w.held {
		n.keeps(was)
		n.agent(0, "release", "--cancel", n.a.Addr, "--yes")
		n.goesOnWithARoute(p)
		return
	}
	n.said(p, append(w.words(), "interface is refused", n.b.Addr)...)
	n.refusesOnline(p, w, w.ordered(), "release", n.b.Addr, "--yes")
	n.keeps(was)
	n.stop(p)
	p = n.remembersThroughAPowerCut()
	n.stop(p)
}

// goesOnWithARoute gives the node its default route.
func (n *node) goesOnWithARoute(p *Proc) {
	n.t.Helper()
	mustRun(n.t, n.vm, "modprobe", "dummy")
	n.ip("link add dummy7 type dummy")
	defer n.without("dummy7")
	n.ip("link set dummy7 up")
	n.ip("addr add 10.9.9.2/24 dev dummy7")
	n.on(n.a, "igb") // until now
	n.ip("route add default via 10.9.9.1")
	n.on(n.a, "vfio-pci")
	n.stop(p)
}

// remembersThroughAPowerCut: at the next boot no route is there yet, and to go
// without one is allowed.
func (n *node) remembersThroughAPowerCut() *Proc {
	n.t.Helper()
	must(n.t, n.vm.PowerCut())
	must(n.t, n.vm.Boot(n.ctx()))
	p := n.start("--allow-without-default-route")
	for _, nic := range []NIC{n.a, n.b} {
		n.said(p, "interface is refused", nic.Addr, "refused by management-path", "it has carried")
		n.on(nic, "igb")
	}
	return p
}

// recoveryAndReplay: a bind was killed directly before its unbind, and another
// one is in quarantine.
func (n *node) recoveryAndReplay(w weather) {
	n.ask(driverOf(n.b, "vfio-pci"))
	n.crash("override:before:1")
	op := n.quarantined(n.b)
	n.ip("link set " + n.ipLink(n.a).Name + " up") // as a bond has it
	n.ask(driverOf(n.a, "vfio-pci"), driverOf(n.b, "vfio-pci"))
	n.crash("unbind:before:1")
	defer w.begin(n)()
	was := n.standing()

	n.refuses(w, 4, "recover", "--dry-run")
	n.refuses(w, 4, "recover", "--yes")
	n.refuses(w, 1, "resolve", op, "--replay", "--reason", "test", "--yes")
	p := n.start()
	defer n.kill(p)
	n.said(p, append(w.words(), "decision=keep")...)
	n.refusesOnline(p, w, 4, "recover", "--dry-run")
	n.refusesOnline(p, w, 4, "recover", "--yes")
	n.refusesOnline(p, w, 1, "resolve", op, "--replay", "--reason", "test", "--yes")
	n.keeps(was)
	if w.held {
		n.goesOnWithARoute(p)
	}
}

// revertAndAdopted: a bind to igb is in quarantine, so that to revert is to
// unbind; and a function that was adopted with another driver has come to carry
// the path.
func (n *node) revertAndAdopted(w weather) {
	n.withVFIO()
	n.unbound(n.a)
	n.ask(driverOf(n.a, "igb"))
	n.crash("bind:after:1")
	op := n.quarantined(n.a)
	n.byHand(n.b, "vfio-pci", "vfio-pci")
	n.agent(0, "adopt", "--baseline", n.b.Addr+"=igbvf", "--yes", "--config", wanted)
	n.byHand(n.b, "igb", "")
	defer w.begin(n)()
	was := n.standing()

	if res, err := n.vm.Agent(n.ctx(), "adopt", "--baseline", n.a.Addr+"=igbvf", "--yes", "--state-dir", StateDir); err != nil ||
		res.Code != 1 || !strings.Contains(string(res.Stderr), "it is on igb, which needs none") {
		n.t.Errorf("adopt a function on igb: %v, %v", res, err)
	}
	n.refuses(w, 1, "resolve", op, "--revert", "--reason", "test", "--yes")
	n.refuses(w, w.ordered(), "release", n.b.Addr, "--yes", "--config", wanted)
	p := n.start()
	defer n.kill(p)
	n.said(p, "interface is quarantined", n.a.Addr)
	n.refusesOnline(p, w, 1, "resolve", op, "--revert", "--reason", "test", "--yes")
	n.refusesOnline(p, w, w.ordered(), "release", n.b.Addr, "--yes")
	n.keeps(was)
}
