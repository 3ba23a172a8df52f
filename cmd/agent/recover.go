package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"eniagent/agent"
	"eniagent/drivers"
	"eniagent/journal"
	"eniagent/recovery"
)

func (c *cli) recoverCommand() *cobra.Command {
	var dry, yes, drain bool
	var copied string
	cmd := &cobra.Command{
		Use: "recover", Short: "Explain and finish what was left unfinished", Args: noArgs,
		Long: `Show what was left unfinished by a crash, what the host looks like now, what recovery
decides and why; then do it. With --dry-run nothing is touched: not the journal,
not its times, not the host. With an agent running it goes through the agent.

--journal reads a copy of a journal, on any machine: what cannot be observed is
shown as unknown, and nothing is done.

--drain is for before an older agent is installed: with no agent running, so that
nothing is begun meanwhile, it finishes all that is open, and ends with 0 only when
nothing unfinished is left; else it lists what is and why, and ends with 3, or with 4
where a person must decide.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case copied != "" && !dry && cmd.Flags().Changed("yes"):
				return usage(errors.New("--journal only reads: leave --yes out"))
			case copied != "" && drain:
				return usage(errors.New("--drain is for this machine's journal: leave --journal out"))
			case copied != "":
				return c.recoverCopy(cmd.Context(), copied)
			case drain:
				return c.drain(cmd.Context(), dry, yes)
			case dry:
				return c.recoverDry(cmd.Context())
			}
			return c.recover(cmd.Context(), yes)
		},
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "explain only, touch nothing")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&drain, "drain", false, "finish everything, with no agent running, before an older agent is installed")
	cmd.Flags().StringVar(&copied, "journal", "", "read this copy of a journal instead")
	c.pathFlags(cmd, alone)
	return cmd
}

func (c *cli) recoverCopy(ctx context.Context, path string) error {
	s, err := c.read(path)
	if err != nil {
		return err
	}
	return c.showRecovery(elsewhere(s).Recover(ctx, "copy"))
}

func (c *cli) recoverDry(ctx context.Context) error {
	r, err := c.judged(ctx)
	if err != nil {
		return err
	}
	return c.showRecovery(r)
}

// judged is the dry run, through the agent or by reading here.
func (c *cli) judged(ctx context.Context) (agent.RecoverReport, error) {
	var r agent.RecoverReport
	err := c.ask(ctx, "GET", "/recover", &r)
	if !errors.Is(err, errNobody) {
		return r, err
	}
	o, err := c.openOffline(ctx)
	if err != nil {
		return r, err
	}
	r = o.view.Recover(ctx, "journal")
	return r, o.close()
}

// recover shows the plan, asks, and carries it out.
func (c *cli) recover(ctx context.Context, yes bool) error {
	r, err := c.judged(ctx)
	if err != nil {
		return err
	}
	if len(r.Entries)+len(r.Pools) == 0 {
		return c.showRecovery(r)
	}
	if !yes {
		if c.output != "json" {
			recoverTable(c.err, r)
		}
		if err := c.confirm("Do this?"); err != nil {
			return err
		}
	}
	r = agent.RecoverReport{} // what is not in the answer must not stay
	err = c.act(ctx, "/recover", &r)
	if errors.Is(err, errNobody) {
		r, err = agent.RecoverNow(ctx, c.options, c.options.NewLogger(c.err), crashPoints)
	}
	if err != nil {
		return err
	}
	if r.NotDone != "" {
		fmt.Fprintf(c.err, "agent: nothing was done: %s\n", r.NotDone)
	}
	return c.showRecovery(r)
}

// confirm asks a person; without a terminal there is none.
func (c *cli) confirm(question string) error {
	if !term.IsTerminal(int(c.in.Fd())) {
		return usage(errors.New("nobody to ask, as standard input is not a terminal: give --yes"))
	}
	fmt.Fprint(c.err, question, " [y/N] ")
	line, err := bufio.NewReader(c.in).ReadString('\n')
	if err != nil || !yes(line) {
		return usage(errors.New("not confirmed, nothing was done"))
	}
	return nil
}

// yes says whether a typed answer is one.
func yes(line string) bool {
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return true
	}
	return false
}

func (c *cli) showRecovery(r agent.RecoverReport) error {
	if err := c.print(r, func(w io.Writer) { recoverTable(w, r) }); err != nil {
		return err
	}
	left := error(nil)
	if r.Damaged {
		return errHuman
	}
	if r.DryRun && len(r.Pools) > 0 || len(r.PoolsLeft) > 0 {
		left = errPending
	}
	for _, e := range r.Entries {
		switch {
		case e.Outcome == string(journal.Quarantined):
			return errHuman
		case r.DryRun && e.Decision == recovery.Quarantine:
			return errHuman
		case r.DryRun, e.Outcome == "kept", e.Outcome == "failed", e.Outcome == "blocked":
			left = errPending
		}
	}
	if len(r.Quarantined) > 0 || slices.ContainsFunc(r.Left, func(u agent.Unfinished) bool { return u.Person }) {
		return errHuman
	}
	return left
}

func recoverTable(w io.Writer, r agent.RecoverReport) {
	switch {
	case len(r.Entries)+len(r.Pools)+len(r.InQuarantine)+len(r.Left) == 0:
		fmt.Fprintln(w, "Nothing was left unfinished.")
	case r.DryRun && len(r.Entries)+len(r.Pools) == 0:
		fmt.Fprintln(w, "No operation is open. Nothing was touched.")
	case r.DryRun && len(r.Entries) > 0:
		fmt.Fprintf(w, "%s open. Nothing was touched.\n", count(len(r.Entries), "operation is", "operations are"))
	}
	for _, e := range r.Entries {
		recoverEntry(w, e)
	}
	for _, p := range r.Pools {
		fmt.Fprintf(w, "\nThe device plugin's file names what is not as asked, in %s: %s\n", p.Entry, p.Reason)
		for _, s := range p.Steps {
			fmt.Fprintf(w, "  withdrawn first: %s  ->  %s\n", s.From, s.To)
		}
	}
	for _, name := range r.PoolsLeft {
		fmt.Fprintf(w, "\nNOT WITHDRAWN: %s still names what is not as asked: see agent status and the log\n", name)
	}
	for _, e := range r.InQuarantine {
		quarantineEntry(w, e)
	}
	for _, u := range r.Unreadable {
		fmt.Fprintf(w, "\nFrom a newer agent, left alone: %s\n", u)
	}
}

func recoverEntry(w io.Writer, e agent.RecoverEntry) {
	fmt.Fprintf(w, "\nOperation %d on %s, begun %s ago by %s %s (%s), attempt %d\n",
		e.Operation, text(e.Targets), age(e.Created), e.Reason.Source, e.Reason.Object, e.Reason.Entry, e.Attempts)
	if e.LastError != "" {
		fmt.Fprintf(w, "  last error  %s\n", e.LastError)
	}
	keyTable(w, e.Keys, false)
	fmt.Fprintf(w, "  found       %s, %s, %s\n", e.Class, e.Epoch, e.Wanted)
	fmt.Fprintf(w, "  decision    %s: %s\n", strings.ToUpper(string(e.Decision)), e.Why)
	for i, s := range e.Steps {
		fmt.Fprintf(w, "  step %-2d     %s %s: %s  ->  %s\n", i+1, s.Target, s.Kind, s.From, s.To)
	}
	if e.Outcome != "" {
		fmt.Fprintf(w, "  outcome     %s\n", e.Outcome)
	}
	if e.Error != "" {
		fmt.Fprintf(w, "  error       %s\n", e.Error)
	}
}

// keyTable is the keys of an operation; then with what was found when it was put
// in quarantine.
func keyTable(w io.Writer, keys []agent.KeyReport, then bool) {
	head := []string{"  TARGET", "KEY", "BEFORE", "AFTER", "FOUND NOW", "IS"}
	if then {
		head = slices.Insert(head, 4, "FOUND THEN")
	}
	rows := [][]string{head}
	for _, k := range byKind(keys, func(k agent.KeyReport) drivers.Key { return k.Key }) {
		cells := brief(string(k.Before), string(k.After), k.Observed, k.Found)
		row := []string{"  " + string(k.Key.Target), string(k.Key.Kind), cells[0], cells[1], cells[2], string(k.Class)}
		if then {
			row = slices.Insert(row, 4, cells[3])
		}
		rows = append(rows, row)
	}
	columns(w, rows)
}

// quarantineEntry is what a person must know to decide about an operation.
func quarantineEntry(w io.Writer, e agent.QuarantineEntry) {
	fmt.Fprintf(w, "\nOperation %d on %s, in quarantine for %s, since %s: a person decides\n",
		e.Operation, text(e.Targets), age(e.Since), e.Since.Format("2006-01-02 15:04:05Z07:00"))
	fmt.Fprintf(w, "  begun       %s ago by %s %s (%s), attempt %d\n", age(e.Created), e.Reason.Source, e.Reason.Object, e.Reason.Entry, e.Attempts)
	fmt.Fprintf(w, "  why         %s\n", e.Why)
	keyTable(w, e.Keys, slices.ContainsFunc(e.Keys, func(k agent.KeyReport) bool { return k.Found != "" }))
	for _, way := range e.Ways {
		switch {
		case way.Error != "":
			fmt.Fprintf(w, "  %-11s not now: %s\n", way.How, way.Error)
		case len(way.Steps) == 0:
			fmt.Fprintf(w, "  %-11s writes nothing\n", way.How)
		}
		for i, s := range way.Steps {
			how := way.How
			if i > 0 {
				how = ""
			}
			fmt.Fprintf(w, "  %-11s writes %s %s: %s  ->  %s\n", how, s.Target, s.Kind, s.From, s.To)
		}
		if way.Note != "" {
			fmt.Fprintf(w, "  %-11s %s\n", "", way.Note)
		}
	}
	fmt.Fprintf(w, "  decide      agent resolve %d --accept|--replay|--revert --reason TEXT\n", e.Operation)
}
