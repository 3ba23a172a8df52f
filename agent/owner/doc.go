// Package owner finds who else writes an attribute of a PCI function: a network
// daemon that manages its link, a tool that binds it, a rule of udev, a process.
//
//	for _, o := range owner.Of(ctx, host, key, want) {
//		fmt.Println(o) // driverctl (/etc/driverctl.d/pci-0000:3b:00.1 says igb)
//	}
//
// # Caveats
//
// It only reads what others have left in files and which processes run in the
// moment it looks; what cannot be read names nobody. An owner that was not found
// may still be there.
package owner
