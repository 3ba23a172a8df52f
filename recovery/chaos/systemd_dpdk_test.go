//go:build linux

package chaos

import (
	"context"
	"fmt"
	"regexp"
	"syscall"
	"testing"
)

// testpmd starts DPDK's own program on a function and waits until it has sent
// packets through it.
func (s service) testpmd(nic NIC) *Proc {
	s.t.Helper()
	p, err := s.vm.Start(s.ctx(), Command("dpdk-testpmd", "-l", "0,1", "-m", "256", "-a", nic.Addr,
		"--", "--total-num-mbufs=4096", "--auto-start", "--tx-first", "--stats-period", "1"))
	must(s.t, err)
	ctx, cancel := s.unhurried()
	defer cancel()
	sent := regexp.MustCompile(`TX-packets: [1-9]`)
	err = s.vm.WaitFor(ctx, "testpmd sends packets", func(context.Context) (bool, error) {
		out, _ := p.Output()
		if p.Ended() {
			return false, fmt.Errorf("it ended")
		}
		return sent.Match(out), nil
	})
	if err != nil {
		out, log := p.Output()
		s.t.Fatalf("%v\n%s\n%s", err, out, log)
	}
	return p
}

// quit ends testpmd as a person does.
func (s service) quit(p *Proc) {
	s.t.Helper()
	must(s.t, p.Signal(s.ctx(), syscall.SIGINT))
	ctx, cancel := s.unhurried()
	defer cancel()
	_, err := p.Wait(ctx)
	must(s.t, err)
}

// TestDPDKOnVFs has a real DPDK program send packets through VFs that the agent
// configured: at once, and after it was killed half-way and recovered. While the
// program runs, nobody takes its VF away.
func TestDPDKOnVFs(t *testing.T) {
	s := newService(t)
	mustRun(t, s.vm, Helper, "remove", StateDir)
	n := s.node
	n.ask(mixed(s.a, 2))
	p := n.run(AgentPath)
	n.settled(p)
	vfs := n.hasVFs(s.a, 2)
	dpdk := s.testpmd(vfs[0])

	n.ask(mixed(s.a, 4))
	n.said(p, vfs[0].Addr, "held by dpdk-testpmd")
	if now := n.vfsOf(s.a); len(now) != 2 {
		t.Fatalf("a VF in use was taken away: %d VFs", len(now))
	}
	s.quit(dpdk)
	_, err := s.vm.WaitExists(t.Context(), s.a.Sysfs("virtfn3"))
	must(t, err)
	n.settled(p)
	vfs = n.hasVFs(s.a, 4)
	s.quit(s.testpmd(vfs[3]))
	n.ask(mixed(s.a, 2))
	n.settled(p)
	n.stop(p)

	n.ask(mixed(s.a, 3))
	n.killed(n.run(crashing, "ENIAGENT_CRASH=bind:after:2"))
	n.explains("replay")
	p = n.run(AgentPath)
	n.settled(p)
	vfs = n.hasVFs(s.a, 3)
	s.quit(s.testpmd(vfs[2]))
	n.giveBackVFs(p)
}
