package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"eniagent/agent/inventory"
)

func (c *cli) inventoryCommand() *cobra.Command {
	var check bool
	cmd := &cobra.Command{
		Use: "inventory", Short: "List the PCI network functions of this host", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			h, closeHost, err := c.options.OpenHost()
			if err != nil {
				return err
			}
			if check {
				checks := inventory.Checks(cmd.Context(), h)
				return errors.Join(c.print(checks, func(w io.Writer) { checkTable(w, checks) }), closeHost())
			}
			functions, err := inventory.List(cmd.Context(), h)
			if err != nil {
				return errors.Join(err, closeHost())
			}
			return errors.Join(c.print(functions, func(w io.Writer) { inventoryTable(w, functions) }), closeHost())
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "check what the host needs to hand functions to programs")
	return cmd
}

func inventoryTable(w io.Writer, functions []inventory.Function) {
	rows := [][]string{{"ADDRESS", "ID", "DRIVER", "OVERRIDE", "GROUP", "ROLE", "NETDEV", "MAC", "MTU", "LINK", "IN USE"}}
	for _, f := range functions {
		role := f.Role
		switch f.Role {
		case "pf":
			role = fmt.Sprintf("pf %d/%d", f.VFs, f.TotalVFs)
		case "vf":
			role = "vf of " + string(f.PF)
		}
		mtu := ""
		if f.MTU > 0 {
			mtu = fmt.Sprint(f.MTU)
		}
		rows = append(rows, []string{
			string(f.Address), f.ID, f.Driver, f.Override, f.Group, role, f.Netdev, f.MAC, mtu, f.Link,
			strings.TrimSpace(f.InUse + " " + f.Problem),
		})
	}
	columns(w, rows)
}

func checkTable(w io.Writer, checks []inventory.Check) {
	rows := [][]string{{"CHECK", "OK", "FOUND", "REMEDY"}}
	for _, c := range checks {
		mark := "yes"
		if !c.OK {
			mark = "NO"
		}
		rows = append(rows, []string{c.Name, mark, c.Found, c.Remedy})
	}
	columns(w, rows)
}
