package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"eniagent/drivers"
	"eniagent/journal"
)

func (c *cli) journalCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "journal", Short: "Look into the journal"}
	var path string
	var closed int
	list := &cobra.Command{
		Use: "list", Short: "List operations: open, in quarantine, then the last closed ones", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.journalList(cmd.Context(), path, closed) },
	}
	list.Flags().IntVarP(&closed, "closed", "n", 20, "how many closed ones; -1 for all")
	show := &cobra.Command{
		Use: "show OP", Short: "Show one operation", Args: oneArg("the number of an operation"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := strconv.ParseUint(args[0], 10, 64)
			if err != nil {
				return usage(fmt.Errorf("%q is not the number of an operation", args[0]))
			}
			return c.journalShow(cmd.Context(), path, id)
		},
	}
	verify := &cobra.Command{
		Use: "verify", Short: "Check every byte of the journal; the agent must not be running", Args: noArgs,
		RunE: func(*cobra.Command, []string) error { return c.journalVerify(c.journalPath(path)) },
	}
	export := &cobra.Command{
		Use: "export", Short: "Write all records as JSON lines; the agent must not be running", Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			s, err := journal.OpenReadOnly(c.journalPath(path))
			if err != nil {
				return err
			}
			return s.Export(c.out)
		},
	}
	for _, sub := range []*cobra.Command{list, show, verify, export} {
		sub.Flags().StringVar(&path, "journal", "", "read this file, such as a copy from another machine")
		cmd.AddCommand(sub)
	}
	cmd.AddCommand(c.acknowledgeCommand(), c.upgradeCommand())
	return group(cmd)
}

func (c *cli) journalPath(path string) string {
	if path != "" {
		return path
	}
	return filepath.Join(c.options.JournalDir(), journal.FileName)
}

// read reads a copy, or this machine's journal while no agent runs.
func (c *cli) read(copied string) (*journal.Snapshot, error) {
	path := c.journalPath(copied)
	s, err := journal.OpenReadOnly(path)
	switch {
	case errors.Is(err, journal.ErrNotExist) && copied != "":
		return nil, fmt.Errorf("%w at %s", journal.ErrNotExist, path)
	case errors.Is(err, journal.ErrNotExist):
		return nil, fmt.Errorf("%w: no agent answers on %s, and there is no %s; has one run with this --state-dir?",
			journal.ErrNotExist, c.options.SocketPath(), path)
	case errors.Is(err, journal.ErrLocked) && copied == "":
		return nil, fmt.Errorf("%w; where it is the agent, it is starting or stopping and does not answer on %s yet", err, c.options.SocketPath())
	}
	return s, err
}

// damaged adds to an error about this machine's journal what becomes of it, what
// to do and what is lost. agent run deals with it itself, and no start of an agent
// touches a copy.
func (c *cli) damaged(cmd *cobra.Command, err error) error {
	copied := cmd.Flags().Lookup("journal")
	if !errors.Is(err, journal.ErrCorrupt) || cmd.Name() == "run" || copied != nil && copied.Changed {
		return err
	}
	return fmt.Errorf("%w; nothing was changed. The next start of the agent keeps it as %s.corrupt-..., brings over what can be read, and writes "+
		"nothing until agent journal acknowledge --reason TEXT: baselines that are lost cannot be restored by a release any more", err, c.journalPath(""))
}

func (c *cli) journalList(ctx context.Context, path string, closed int) error {
	var operations []journal.Operation
	err := errNobody
	if path == "" {
		err = c.ask(ctx, "GET", "/operations?n="+strconv.Itoa(closed), &operations)
	}
	if errors.Is(err, errNobody) {
		var s *journal.Snapshot
		if s, err = c.read(path); err == nil {
			operations = elsewhere(s).Operations(closed)
		}
	}
	if err != nil {
		return err
	}
	if operations == nil {
		operations = []journal.Operation{}
	}
	return c.print(operations, func(w io.Writer) {
		if len(operations) == 0 {
			fmt.Fprintln(w, "No operations.")
			return
		}
		operationTable(w, operations)
	})
}

func (c *cli) journalShow(ctx context.Context, path string, id uint64) error {
	var op journal.Operation
	err := errNobody
	if path == "" {
		err = c.ask(ctx, "GET", fmt.Sprintf("/operations/%d", id), &op)
	}
	if errors.Is(err, errNobody) {
		var s *journal.Snapshot
		if s, err = c.read(path); err == nil {
			op, err = elsewhere(s).Operation(id)
		}
	}
	if err != nil {
		return err
	}
	return c.print(op, func(w io.Writer) { showOperation(w, op) })
}

func showOperation(w io.Writer, op journal.Operation) {
	rows := [][]string{
		{"operation", fmt.Sprint(op.ID)},
		{"state", string(op.State)},
		{"outcome", op.Outcome},
		{"last error", op.LastError},
		{"attempts", fmt.Sprint(op.Attempts)},
		{"reason", fmt.Sprintf("%s %s %s", op.Reason.Source, op.Reason.Object, op.Reason.Entry)},
		{"boot", op.BootID},
		{"machine", op.MachineID},
		{"agent", op.Agent},
		{"created", op.Created.Format("2006-01-02 15:04:05.000Z07:00")},
		{"updated", op.Updated.Format("2006-01-02 15:04:05.000Z07:00")},
	}
	for _, ch := range byKind(op.Changes, func(ch journal.Change) drivers.Key { return ch.Key }) {
		rows = append(rows, []string{ch.Key.String(), fmt.Sprintf("%s -> %s (%s)", ch.Before, ch.After, ch.Class)})
	}
	for _, f := range op.Findings {
		rows = append(rows, []string{"found " + f.Key.String(), fmt.Sprintf("%s (%s), at the quarantine", f.Observed, f.Class)})
	}
	for _, t := range slices.Sorted(maps.Keys(op.Identity)) {
		b, err := json.Marshal(op.Identity[t])
		if err != nil {
			b = []byte(err.Error())
		}
		rows = append(rows, []string{"identity " + string(t), string(b)})
	}
	columns(w, rows)
}

func (c *cli) journalVerify(path string) error {
	report, err := journal.Verify(path)
	if err != nil && len(report.Problems) == 0 {
		return err
	}
	if perr := c.print(report, func(w io.Writer) { verifyTable(w, report) }); perr != nil {
		return perr
	}
	return err
}

func verifyTable(w io.Writer, r journal.Report) {
	fmt.Fprintf(w, "%s: %d bytes, %d commits\n\n", r.Path, r.Bytes, r.Sequence)
	rows := [][]string{{"BUCKET", "RECORDS"}}
	for _, b := range sortedKeys(r.Records) {
		rows = append(rows, []string{b, fmt.Sprint(r.Records[b])})
	}
	columns(w, rows)
	for _, list := range []struct {
		what  string
		lines []string
	}{{"problem", r.Problems}, {"warning", r.Warnings}, {"unreadable", r.Unreadable}} {
		for _, l := range list.lines {
			fmt.Fprintf(w, "%s: %s\n", list.what, l)
		}
	}
	if len(r.Problems) == 0 {
		fmt.Fprintln(w, "\nSound.")
	}
}
