package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"eniagent/agent"
	"eniagent/agent/source"
	"eniagent/drivers"
	"eniagent/drivers/all"
	"eniagent/journal"
)

func (c *cli) statusCommand() *cobra.Command {
	var wait time.Duration
	cmd := &cobra.Command{
		Use: "status", Short: "Show how the interfaces stand", Args: noArgs,
		Long: "Show how the interfaces stand, from the running agent; without one, from the journal\nand the host. Exits with 3 when no agent is running or something is not as\ndesired, 4 when a person is needed.\n\n" +
			"CONDITION says how an entry stands against what is asked of it: right, pending, changing,\nwaiting, refused, held, fenced, failed, quarantined, released, paused, degraded.\n" +
			"STATE says what its interface is, whatever is asked: unknown, down, up, configuring, bound,\ndegraded, error, gone, quarantined.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if wait < 0 {
				return usage(fmt.Errorf("--wait %s: want no less than 0", wait))
			}
			s, err := c.status(cmd.Context(), wait)
			if err != nil {
				return err
			}
			if err := c.print(s, func(w io.Writer) { statusTable(w, s) }); err != nil {
				return err
			}
			return statusError(s)
		},
	}
	cmd.Flags().DurationVar(&wait, "wait", 0, "wait this long for an agent that is ready and has everything as the source asks now")
	return cmd
}

// status asks the agent, or reads here when none runs. It asks again until all
// is as desired or the wait is over; the source is read before, as who edits it and waits
// means what it says now.
func (c *cli) status(ctx context.Context, wait time.Duration) (agent.Status, error) {
	deadline := time.Now().Add(wait)
	path := "/status"
	if wait > 0 {
		path = "/status?fresh=" + min(wait, mostFresh).String()
	}
	for {
		var s agent.Status
		err := c.ask(ctx, "GET", path, &s)
		over := time.Now().After(deadline)
		switch {
		case err == nil && (over || s.Ready && statusError(s) == nil):
			return s, nil
		case errors.Is(err, errNobody) && over:
			return c.offlineStatus(ctx)
		case err != nil && !errors.Is(err, errNobody):
			return s, err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return s, context.Cause(ctx)
		}
	}
}

// mostFresh is how long an answer waits for the source to be read, at most.
const mostFresh = 10 * time.Second

// statusError says whether all is as desired: what the file asks now and
// cannot be read is not.
func statusError(s agent.Status) error {
	result := error(nil)
	switch {
	case s.Mode == "degraded":
		return errHuman
	case !s.Ready, s.Source.Error != "", len(s.Source.Refused) > 0:
		result = errPending
	}
	conditions := []agent.Condition{}
	for _, i := range s.Interfaces {
		conditions = append(conditions, i.Condition)
	}
	for _, p := range s.Pools {
		conditions = append(conditions, p.Condition)
	}
	for _, c := range conditions {
		switch c {
		case agent.Right, agent.Released:
		case agent.Failed, agent.Quarantined:
			return errHuman
		default:
			result = errPending
		}
	}
	for _, op := range s.Operations {
		if op.State == journal.Quarantined {
			return errHuman
		}
		result = errPending
	}
	return result
}

// offlineStatus is what the journal and the host tell while no agent runs.
func (c *cli) offlineStatus(ctx context.Context) (agent.Status, error) {
	o, err := c.openOffline(ctx)
	if err != nil {
		return agent.Status{}, err
	}
	s := o.view.Status(ctx)
	s.NotReady = "no agent is running"
	return s, o.close()
}

// keptText says why an entry is there that the source does not name now.
func keptText(s agent.Status, i agent.InterfaceReport) string {
	switch d := (source.Desired{Refused: s.Source.Refused}); {
	case i.From != "":
		return "asked by the source before, " + i.From + ", and kept: to give it back use agent release."
	case i.Object == "":
		return "no longer in the file, kept: to give it back set state: released."
	case d.Refuses(i.Object):
		return "kept as it was asked before: " + i.Object + " is refused."
	default:
		return i.Object + " no longer asks for it: it is given back."
	}
}

func statusTable(w io.Writer, s agent.Status) {
	fmt.Fprintf(w, "Mode %s", s.Mode)
	if s.Ready {
		fmt.Fprintf(w, ", ready, up %s", age(s.Started))
	} else {
		fmt.Fprintf(w, ", not ready: %s", s.NotReady)
	}
	fmt.Fprintln(w)
	if s.Tainted != "" {
		fmt.Fprintln(w, "TAINTED by", s.Tainted)
	}
	restartLine(w, s.PluginRestart)
	sourceLine(w, s.Source)
	head := []string{"INTERFACE", "TARGET", "CONDITION", "SINCE", "STATE", "FOR", "DRIVER", "MTU", "ADMIN"}
	more := slices.ContainsFunc(s.Interfaces, func(i agent.InterfaceReport) bool { return settingsCell(i) != "" })
	if more {
		head = append(head, "MORE")
	}
	rows := [][]string{append(head, "REASON")}
	for _, i := range s.Interfaces {
		reason := i.Reason
		if i.Kept {
			reason = strings.TrimSpace(keptText(s, i) + " " + reason)
		}
		row := []string{
			i.Entry, string(i.Target), string(i.Condition), age(i.Since), string(i.State), age(i.StateSince),
			driverCell(i.Observed["driver"]), i.Observed["mtu"], i.Observed["admin"],
		}
		if more {
			row = append(row, settingsCell(i))
		}
		rows = append(rows, append(row, reason))
	}
	columns(w, rows)
	poolTable(w, s.Pools)
	if len(s.Operations) > 0 {
		fmt.Fprintln(w)
		operations := make([]journal.Operation, 0, len(s.Operations))
		for _, op := range s.Operations {
			operations = append(operations, op.Operation)
		}
		operationTable(w, operations)
	}
}

// poolTable is the pools and what the device plugin's file says of them.
func poolTable(w io.Writer, pools []agent.PoolReport) {
	if len(pools) == 0 {
		return
	}
	fmt.Fprintln(w)
	rows := [][]string{{"POOL", "CONDITION", "SINCE", "IN THE FILE", "REASON"}}
	for _, p := range pools {
		in := fmt.Sprintf("%d functions", len(p.Functions))
		if len(p.Functions) <= shortList {
			in = text(p.Functions)
		}
		rows = append(rows, []string{p.Pool, string(p.Condition), age(p.Since), in, p.Reason})
	}
	columns(w, rows)
}

// settingsCell is what is observed of the kinds that are only looked at where they
// are asked for; of a long list what is not as asked.
func settingsCell(i agent.InterfaceReport) string {
	var cells []string
	for _, s := range all.Specs() {
		want, asked := i.Want[string(s.Kind)]
		if !s.WhenAsked || !asked {
			continue
		}
		is := i.Observed[string(s.Kind)]
		switch words := strings.Fields(is); {
		case is == want && len(words) > shortList:
			is = "as asked"
		case len(words) > shortList:
			is = strings.Join(without(words, strings.Fields(want)), " ")
		}
		cells = append(cells, string(s.Kind)+" "+is)
	}
	return strings.Join(cells, ", ")
}

// driverCell shortens the common cases of a driver state.
func driverCell(s string) string {
	driver, override, ok := strings.Cut(strings.TrimPrefix(s, "driver="), " override=")
	switch {
	case !ok:
		return s
	case override == "-" || override == driver:
		return driver
	}
	return driver + " (override " + override + ")"
}

func operationTable(w io.Writer, operations []journal.Operation) {
	rows := [][]string{{"OP", "STATE", "AGE", "TRIES", "TARGET", "CHANGE", "WHY"}}
	for _, op := range operations {
		why := op.Outcome
		if why == "" {
			why = op.LastError
		}
		for i, ch := range byKind(op.Changes, func(ch journal.Change) drivers.Key { return ch.Key }) {
			row := []string{
				fmt.Sprint(op.ID), string(op.State), age(op.Created), fmt.Sprint(op.Attempts), string(ch.Key.Target),
				changeText(ch), why,
			}
			if i > 0 {
				row = []string{" ", " ", " ", " ", row[4], row[5], " "}
			}
			rows = append(rows, row)
		}
	}
	columns(w, rows)
}

// changeText is a change of a key in one cell.
func changeText(ch journal.Change) string {
	states := brief(string(ch.Before), string(ch.After))
	return fmt.Sprintf("%s: %s -> %s", ch.Key.Kind, states[0], states[1])
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
