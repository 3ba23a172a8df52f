package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"eniagent/agent"
	"eniagent/agent/source"
	"eniagent/agent/source/file"
	"eniagent/drivers"
	"eniagent/drivers/host"
	"eniagent/journal"
)

func (c *cli) planCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "plan", Short: "Show what would be done, and do nothing", Args: noArgs,
		Long: `Show the writes that the desired state asks for, in order. With an agent running it
answers, also about the file given by --config; else the file, the journal and the
host are read here. An entry that a rule, a pause, an operation in quarantine or an
earlier failure keeps as it is has no writes, and says why. Exits with 3 when something
would change, or an entry cannot be had.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := c.plan(cmd.Context(), cmd.Flags().Changed("config"))
			if err != nil {
				return err
			}
			if err := c.print(p, func(w io.Writer) { planTable(w, p) }); err != nil {
				return err
			}
			return planError(p)
		},
	}
	c.configFlag(cmd)
	cmd.Flags().Lookup("config").Usage += ", or - for standard input"
	c.pathFlags(cmd, alone)
	cmd.Flags().BoolVar(&c.options.NoIOMMU, "allow-noiommu", false, "plan as if run with it")
	return cmd
}

// plan asks the agent, or plans here when none runs. Given says that it is about
// a file that was given, which may not be the agent's.
func (c *cli) plan(ctx context.Context, given bool) (p agent.PlanReport, err error) {
	if !given {
		if err = c.ask(ctx, "GET", "/plan", &p); errors.Is(err, errNobody) {
			return c.offlinePlan(ctx)
		}
		return p, err
	}
	name, data, err := c.given()
	if err != nil {
		return p, stream(fmt.Errorf("--config: %w", err))
	}
	err = c.submit(ctx, "/plan?"+url.Values{"object": {name}}.Encode(), data, &p)
	if !errors.Is(err, errNobody) {
		return p, err
	}
	desired, err := file.Parse(name, data)
	if err != nil {
		return p, err
	}
	return c.planHere(ctx, *desired)
}

// given is the document that --config names.
func (c *cli) given() (name string, data []byte, err error) {
	switch name = c.options.ConfigFile; name {
	case "":
		return name, nil, usage(errors.New(`"": want a file of desired state, or - for standard input`))
	case stdin:
		data, err = c.standardInput()
		return "standard input", data, err
	}
	data, err = file.Content(name)
	return name, data, err
}

// planError says whether all is as desired. What is refused or not found is not,
// though nothing would be written for it.
func planError(p agent.PlanReport) error {
	result := error(nil)
	for _, e := range p.Entries {
		switch {
		case e.Condition == agent.Failed, e.Condition == agent.Quarantined:
			return errHuman
		case len(e.Steps) > 0:
			result = errPending
		case e.Condition != agent.Right && e.Condition != agent.Released && e.Condition != agent.Paused:
			result = errPending
		}
	}
	return result
}

// keptPlan plans with no agent running where desired state comes from no file:
// what was last in force. Known is false where it comes from one.
func (c *cli) keptPlan(ctx context.Context) (p agent.PlanReport, known bool, err error) {
	o, err := c.openOffline(ctx)
	if err != nil {
		return p, false, nil // told where the file is read, if that matters there
	}
	if known = agent.InForce(o.snapshot.Records, file.Name).Source != file.Name; known {
		p = o.view.PlanKept(ctx)
	}
	return p, known, o.close()
}

// offlinePlan plans with no agent running: what the file asks, on top of what
// the journal remembers, if there is one.
func (c *cli) offlinePlan(ctx context.Context) (agent.PlanReport, error) {
	if p, known, err := c.keptPlan(ctx); known || err != nil {
		return p, err
	}
	desired, err := file.Read(c.options.ConfigFile) // refused where the agent would refuse it
	if err != nil {
		return agent.PlanReport{}, stream(fmt.Errorf("--config: %w", err))
	}
	return c.planHere(ctx, *desired)
}

// planHere plans what is desired on top of what the journal remembers.
func (c *cli) planHere(ctx context.Context, desired source.Desired) (agent.PlanReport, error) {
	o, err := c.openOffline(ctx)
	switch {
	case errors.Is(err, journal.ErrNotExist):
		return c.planWithout(ctx, desired)
	case err != nil:
		return agent.PlanReport{}, err
	}
	p := o.view.PlanFor(ctx, desired)
	return p, o.close()
}

// planWithout plans with no journal at hand.
func (c *cli) planWithout(ctx context.Context, desired source.Desired) (agent.PlanReport, error) {
	h, closeHost, err := c.options.OpenHost()
	if err != nil {
		return agent.PlanReport{}, err
	}
	bootID, err := host.BootID(ctx, h)
	if err != nil {
		return agent.PlanReport{}, errors.Join(err, closeHost())
	}
	empty, err := agent.NoJournal(ctx, bootID)
	if err != nil {
		return agent.PlanReport{}, errors.Join(err, closeHost())
	}
	view, err := c.view(ctx, h, empty.Records)
	if err != nil {
		return agent.PlanReport{}, errors.Join(err, empty.Close(), closeHost())
	}
	p := view.PlanFor(ctx, desired)
	return p, errors.Join(empty.Close(), closeHost())
}

func planTable(w io.Writer, p agent.PlanReport) {
	sourceLine(w, p.Source)
	var rows [][]string
	for _, e := range p.Entries {
		if len(e.Steps) == 0 {
			rows = append(rows, []string{e.Entry, string(e.Target), string(e.Condition), e.Reason})
		}
		for i, s := range e.Steps {
			row := []string{e.Entry, string(s.Target), string(s.Kind), wayText(s.From, s.To)}
			if i > 0 {
				row[0] = " "
			}
			rows = append(rows, row)
		}
		if len(e.Steps) > 0 && e.Reason != "" {
			rows = append(rows, []string{" ", string(e.Target), "note", e.Reason})
		}
	}
	if len(rows) > 0 {
		columns(w, append([][]string{{"ENTRY", "TARGET", "KIND", "STEP"}}, rows...))
	}
	if p.Changes() == 0 {
		fmt.Fprintln(w, "\nNothing would be written.")
		return
	}
	fmt.Fprintf(w, "\n%s would be made.\n", count(p.Changes(), "write", "writes"))
}

// shortList is how many words a state may have that is printed as a whole.
const shortList = 5

// wayText is a step from one state to the next. Of long lists, such as those of
// features, it has only what changes.
func wayText(from, to drivers.State) string {
	was, is := strings.Fields(string(from)), strings.Fields(string(to))
	if len(was) > shortList && len(is) > shortList {
		was, is = without(was, is), without(is, was)
	}
	return strings.Join(was, " ") + "  ->  " + strings.Join(is, " ")
}

func without(words, others []string) []string {
	return slices.DeleteFunc(slices.Clone(words), func(w string) bool { return slices.Contains(others, w) })
}

func sourceLine(w io.Writer, s agent.SourceReport) {
	if s.Object == "" {
		return
	}
	fmt.Fprintf(w, "Desired state: %s %s", s.Source, s.Object)
	if len(s.Generation) >= 12 {
		fmt.Fprintf(w, " (%s)", s.Generation[:12])
	}
	fmt.Fprintln(w)
	if s.Error != "" {
		fmt.Fprintf(w, "NOT READABLE, the last good one stays in force:\n  %s\n", s.Error)
	}
	if len(s.Refused) > 0 {
		fmt.Fprintln(w, "REFUSED, what was asked before stays in force:")
	}
	for _, r := range s.Refused {
		fmt.Fprintf(w, "  %s: %s\n", r.Object, r.Reason)
	}
	fmt.Fprintln(w)
}
