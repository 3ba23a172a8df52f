package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"eniagent/agent/source"
	"eniagent/drivers/deviceplugin"
	"eniagent/drivers/host/sim"
	"eniagent/journal"
)

// fakePlugin is a device plugin that reads the file when it is restarted.
type fakePlugin struct {
	n *node

	mu    sync.Mutex
	asked []source.Owed
	err   error
	takes time.Duration
	done  source.Restarted
	found []string
}

// Restart notes what a crash now would find.
func (p *fakePlugin) Restart(ctx context.Context, o source.Owed, waits func(string)) (source.Restarted, error) {
	p.durable(o)
	p.mu.Lock()
	p.asked = append(p.asked, o)
	err, takes, done := p.err, p.takes, p.done
	p.mu.Unlock()
	waits("pod x")
	select {
	case <-time.After(takes):
		return done, err
	case <-ctx.Done():
		return done, context.Cause(ctx)
	}
}

// durable holds what is on the disks against what a restart is for.
func (p *fakePlugin) durable(o source.Owed) {
	now, _ := p.n.kernel.File(context.Background(), pluginFile)
	after := p.n.kernel.Clone()
	after.Reboot()
	file, _ := after.File(context.Background(), pluginFile)
	j, err := journal.OpenMemory(context.Background(), p.n.store.Clone(), journal.Options{BootID: "later"})
	if err != nil {
		p.wrong("%v", err)
		return
	}
	defer j.Abandon()
	d, _ := j.Debt(deviceplugin.Restart)
	if d.Owed < o.Number || file != now {
		p.wrong("R1: restarted for change %d, and durable are %d and %q of %q", o.Number, d.Owed, file, now)
	}
}

func (p *fakePlugin) wrong(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.found = append(p.found, fmt.Sprintf(format, args...))
}

func (p *fakePlugin) is(err error, takes time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err, p.takes = err, takes
}

// numbers are those of the changes that it was restarted for.
func (p *fakePlugin) numbers() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []string
	for _, o := range p.asked {
		all = append(all, fmt.Sprint(o.Number))
	}
	return strings.Join(all, " ")
}

// expect is for which changes the plugin was restarted so far, and what is owed.
func (p *fakePlugin) expect(numbers string, owed uint64) {
	p.n.t.Helper()
	if got := p.numbers(); got != numbers {
		p.n.t.Errorf("restarted for %q, want %q\n%s", got, numbers, p.n.log)
	}
	if got := p.n.owed(); got != owed {
		p.n.t.Errorf("%d are owed, want %d\n%s", got, owed, p.n.log)
	}
}

// withRestarts is withPools with an agent that restarts the plugin itself.
func withRestarts(t *testing.T, fn func(n *node, p *fakePlugin)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.writePlugin(theirs)
		p := &fakePlugin{n: n}
		n.start(func(c *Config) {
			withPlugin(c)
			c.Plugin = p
		})
		fn(n, p)
		n.halt()
		for _, f := range p.found {
			t.Error(f)
		}
	})
}

// TestWhatIsOwedIsPaid: one restart for a burst of changes, a while behind the
// last, and none while nothing changes.
func TestWhatIsOwedIsPaid(t *testing.T) {
	withRestarts(t, func(n *node, p *fakePlugin) {
		p.done = source.Restarted{How: "it was restarted"}
		n.want(inPool(pci(portA, "vfio-pci"), poolX))
		settled(2 * time.Second)
		n.want(inPool(pci(portA, "vfio-pci"), poolX), inPool(pci(portB, "vfio-pci"), poolY))
		settled(2 * time.Second)
		p.expect("", 2)
		s := n.agent.Status(n.t.Context()).PluginRestart
		if s == nil || !s.Automatic || s.Waiting != "more changes that may come" || s.Last.IsZero() {
			n.t.Errorf("status says %+v", s)
		}
		settled(5 * time.Second)
		p.expect("2", 0)
		if last := p.asked[0].Last; last.IsZero() || time.Since(last) > 8*time.Second || time.Since(last) < restartQuiet {
			n.t.Errorf("the last change was at %s, and it is %s", last, time.Now())
		}
		settled(time.Hour)
		p.expect("2", 0)
		if told := n.agent.standings().Plugin; told.At.IsZero() || told.How != "it was restarted" {
			n.t.Errorf("the source is told %+v", told)
		}
		if got := n.metric(`eniagent_plugin_restarts_total{result="ok"}`); got != 1 {
			n.t.Errorf("the metric says %v", got)
		}
	})
}

// TestChangesWithoutAnEnd do not put a restart off for ever, and make no more of
// them than there is time for.
func TestChangesWithoutAnEnd(t *testing.T) {
	withRestarts(t, func(n *node, p *fakePlugin) {
		settled(10 * time.Second)
		for range 60 {
			if err := n.journal.Owe(n.t.Context(), deviceplugin.Restart, "test", ""); err != nil {
				n.t.Fatal(err)
			}
			n.agent.payer.tell()
			settled(2 * time.Second)
		}
		if made := len(p.asked); made < 3 || made > 5 {
			n.t.Errorf("%d restarts in two minutes", made)
		}
		settled(2 * time.Minute)
		if owed := n.owed(); owed != 0 {
			n.t.Errorf("%d are owed", owed)
		}
	})
}

// TestAChangeDuringARestart is owed still, and paid by the next.
func TestAChangeDuringARestart(t *testing.T) {
	withRestarts(t, func(n *node, p *fakePlugin) {
		p.is(nil, 20*time.Second)
		n.want(inPool(pci(portA, "vfio-pci"), poolX))
		settled(10 * time.Second)
		p.expect("1", 1)
		if s := n.agent.Status(n.t.Context()).PluginRestart; s.Waiting != "pod x" {
			n.t.Errorf("status says %+v", s)
		}
		n.want(inPool(pci(portA, "vfio-pci"), poolX), inPool(pci(portB, "vfio-pci"), poolY))
		settled(16 * time.Second)
		p.expect("1", 1)
		settled(10 * time.Second)
		p.expect("1", 1) // not at once
		settled(2 * time.Minute)
		p.expect("1 2", 0)
	})
}

// TestWhatCannotBeRestarted is told, and tried again ever more seldom.
func TestWhatCannotBeRestarted(t *testing.T) {
	withRestarts(t, func(n *node, p *fakePlugin) {
		p.is(errors.New("forbidden: let it delete pods"), 0)
		n.want(inPool(pci(portA, "vfio-pci"), poolX))
		settled(10 * time.Minute)
		if tries := len(p.asked); tries < 10 || tries > 30 {
			n.t.Errorf("%d tries in ten minutes", tries)
		}
		s := n.agent.Status(n.t.Context()).PluginRestart
		if s == nil || s.Error != "forbidden: let it delete pods" || s.Again.IsZero() || s.Waiting != "the next try" && s.Waiting != "" {
			n.t.Errorf("status says %+v", s)
		}
		if told := strings.Count(n.log.String(), "device plugin is not restarted"); told != 1 {
			n.t.Errorf("the log says it %d times", told)
		}
		if n.metric(`eniagent_plugin_restarts_total{result="error"}`) < 10 {
			n.t.Error("the metric says nothing of it")
		}
		p.is(nil, 0)
		settled(2 * time.Minute)
		if owed := n.owed(); owed != 0 {
			n.t.Errorf("%d are owed", owed)
		}
	})
}

// TestAPersonWasFaster: the try under way ends, and no other follows.
func TestAPersonWasFaster(t *testing.T) {
	withRestarts(t, func(n *node, p *fakePlugin) {
		p.is(nil, time.Hour)
		n.want(inPool(pci(portA, "vfio-pci"), poolX))
		settled(10 * time.Second)
		p.expect("1", 1)
		if _, err := n.agent.PluginRestarted(n.t.Context(), 1, "root"); err != nil {
			n.t.Fatal(err)
		}
		settled(time.Minute)
		p.expect("1", 0)
		if d, _ := n.journal.Debt(deviceplugin.Restart); d.Who != "root" {
			n.t.Errorf("it was %s", d.Who)
		}
	})
}

// TestWhereNothingMayBeRestarted.
func TestWhereNothingMayBeRestarted(t *testing.T) {
	t.Run("observing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := newNode(t, sim.DefaultNode())
			n.writePlugin(theirs)
			n.start(withPlugin)
			n.want(inPool(pci(portA, "vfio-pci"), poolX))
			settled(10 * time.Second)
			n.halt()
			p := &fakePlugin{n: n}
			n.start(func(c *Config) { withPlugin(c); c.Plugin, c.Observe = p, true })
			settled(time.Hour)
			p.expect("", 1)
			if s := n.agent.Status(t.Context()).PluginRestart; s.Automatic {
				t.Errorf("status says %+v", s)
			}
			n.halt()
		})
	})
	t.Run("paused", func(t *testing.T) {
		withRestarts(t, func(n *node, p *fakePlugin) {
			n.want(inPool(pci(portA, "vfio-pci"), poolX))
			settled(time.Second)
			if _, err := n.agent.Pause(n.t.Context(), Order{Who: "test", Why: "test"}); err != nil {
				n.t.Fatal(err)
			}
			settled(time.Minute)
			p.expect("", 1)
			if s := n.agent.Status(n.t.Context()).PluginRestart; !strings.Contains(s.Waiting, "paused") {
				n.t.Errorf("status says %+v", s)
			}
			if _, err := n.agent.Resume(n.t.Context(), Order{Who: "test", Why: "test"}); err != nil {
				n.t.Fatal(err)
			}
			settled(time.Minute)
			p.expect("1", 0)
		})
	})
}

// TestADebtOutlivesTheAgent, with the time of its last change; and so does the
// time of the last restart.
func TestADebtOutlivesTheAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, sim.DefaultNode())
		n.writePlugin(theirs)
		p := &fakePlugin{n: n, takes: time.Hour}
		start := func() { n.start(func(c *Config) { withPlugin(c); c.Plugin = p }) }
		start()
		n.want(inPool(pci(portA, "vfio-pci"), poolX))
		settled(10 * time.Second)
		n.halt()
		p.is(nil, time.Second)
		start()
		settled(10 * time.Second)
		p.expect("1 1", 0)
		if !p.asked[0].Last.Equal(p.asked[1].Last) {
			t.Errorf("asked %+v", p.asked)
		}
		n.want(inPool(pci(portA, "vfio-pci"), poolX), inPool(pci(portB, "vfio-pci"), poolY))
		settled(time.Second)
		n.halt()
		start()
		settled(10 * time.Second)
		p.expect("1 1", 1)
		settled(time.Minute)
		p.expect("1 1 2", 0)
		n.halt()
		for _, f := range p.found {
			t.Error(f)
		}
	})
}

// TestBrokenPayersAreCaught breaks one thing at a time.
func TestBrokenPayersAreCaught(t *testing.T) {
	unsettled := func(a *Agent) { a.payer.quiet, a.payer.busy = 0, func() bool { return false } }
	for _, v := range []struct {
		name, sees string
		breaks     func(*Agent)
	}{
		{"", "", func(*Agent) {}},
		{"nobody tells of a change", "R2", func(a *Agent) { a.engine.Owed = nil }},
		{"before it is durable", "R1", func(a *Agent) {
			unsettled(a)
			a.payer.flush = func(context.Context) error { return nil }
		}},
		{"each change at once", "R3", unsettled},
	} {
		t.Run(v.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t, sim.DefaultNode())
				n.writePlugin(theirs)
				n.breaks = v.breaks
				p := &fakePlugin{n: n}
				n.start(func(c *Config) { withPlugin(c); c.Plugin = p })
				settled(5 * time.Second)
				n.want(inPool(pci(portA, "vfio-pci"), poolX))
				settled(2 * time.Second)
				n.want(inPool(pci(portA, "vfio-pci"), poolX), inPool(pci(portB, "vfio-pci"), poolY))
				settled(2 * time.Minute)
				if n.owed() != 0 {
					p.wrong("R2: it is owed still")
				}
				if restarts := len(p.asked); restarts > 1 {
					p.wrong("R3: %d restarts for a burst", restarts)
				}
				n.halt()
				if found := strings.Join(p.found, "\n"); !strings.Contains(found, v.sees) || v.sees == "" && found != "" {
					t.Errorf("found %q, want %q", found, v.sees)
				}
			})
		})
	}
}
