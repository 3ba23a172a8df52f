package agent

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Notice is how the agent stands, for the service manager that started it.
type Notice struct {
	// Started says that the journal is open, recovery has dealt with every
	// operation that was open, and the loop runs. A desired state that cannot be
	// read does not keep it from being true: the node is kept as it was asked last.
	Started  bool
	Stopping bool
	Alive    bool   // the loop that makes the passes has a heartbeat
	Text     string // one line for people
}

// announce tells o.Notify how the agent stands, until ctx ends. It is not the
// loop that speaks: a service manager that does not listen must not stop it.
func (o Options) announce(ctx context.Context, a *Agent) error {
	tick := time.NewTicker(beat / 5)
	defer tick.Stop()
	started := false
	for {
		n := a.notice()
		if n.Started && !started {
			started = true
			tick.Reset(beat)
		}
		o.notify(n)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (o Options) notify(n Notice) {
	if o.Notify != nil {
		o.Notify(n)
	}
}

func (a *Agent) notice() Notice {
	ready, alive := a.Ready(), a.Healthy()
	a.mu.Lock()
	defer a.mu.Unlock()
	n := Notice{Started: len(a.unjudged) == 0 && a.heartbeat.After(a.started), Alive: alive == nil}
	switch {
	case !n.Alive:
		n.Text = alive.Error()
	case ready != nil:
		n.Text = "not ready: " + ready.Error()
	default:
		n.Text = "ready; " + a.summary()
		if a.c.Observe {
			n.Text = "observing, nothing is written; " + a.summary()
		}
		if a.source.Error != "" {
			n.Text += "; the desired state cannot be read, the last good one holds"
		}
	}
	n.Text, _, _ = strings.Cut(n.Text, "\n")
	return n
}

// summary counts the interfaces by condition: "3 interfaces: 2 right, 1 held".
// The caller holds mu.
func (a *Agent) summary() string {
	count := map[Condition]int{}
	for _, entry := range a.order {
		count[a.reportOf(entry).Condition]++
	}
	var parts []string
	for _, c := range Conditions() {
		if count[c] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", count[c], c))
		}
	}
	if len(parts) == 0 {
		return "no interfaces"
	}
	noun := "interfaces"
	if len(a.order) == 1 {
		noun = "interface"
	}
	return fmt.Sprintf("%d %s: %s", len(a.order), noun, strings.Join(parts, ", "))
}
