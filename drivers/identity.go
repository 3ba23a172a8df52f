package drivers

// Identity is what tells one host thing from another at the same address. An
// empty field is unknown, and unknown never means different: a MAC cannot be
// read while the function sits on vfio-pci, and a VF's is random.
type Identity struct {
	Vendor    string `json:"vendor,omitempty"`    // "0x8086"
	Device    string `json:"device,omitempty"`    // "0x10c9"
	Subsystem string `json:"subsystem,omitempty"` // "0x8086:0xa03c"
	MAC       string `json:"mac,omitempty"`       // permanent hardware address
	ENI       string `json:"eni,omitempty"`       // "eni-0abc..." where a cloud told
	// Incarnation is the inode of the device's sysfs directory. It changes when
	// a VF is re-created and on remove and rescan, not when a PF's driver is
	// reloaded (seen on Linux 6.12).
	Incarnation uint64 `json:"incarnation,omitempty"`
	// Netdev is the ifindex; it changes whenever a driver makes the netdev anew.
	Netdev int `json:"netdev,omitempty"`
	// PF is the physical function of a VF, and its incarnation.
	PF            Target `json:"pf,omitempty"`
	PFIncarnation uint64 `json:"pf_incarnation,omitempty"`
}

// Difference names the first field in which two identities are known to
// differ: "vendor", "mac", "incarnation" and so on; "" when none does. The
// netdev is not compared here: a bind changes it by design.
func (a Identity) Difference(b Identity) string {
	text := []struct{ name, a, b string }{
		{"vendor", a.Vendor, b.Vendor},
		{"device", a.Device, b.Device},
		{"subsystem", a.Subsystem, b.Subsystem},
		{"eni", a.ENI, b.ENI},
		{"pf", string(a.PF), string(b.PF)},
	}
	for _, f := range text {
		if f.a != "" && f.b != "" && f.a != f.b {
			return f.name
		}
	}
	// A VF's MAC may be random at each probe, so it proves nothing.
	if a.PF == "" && b.PF == "" && a.MAC != "" && b.MAC != "" && a.MAC != b.MAC {
		return "mac"
	}
	if a.Incarnation != 0 && b.Incarnation != 0 && a.Incarnation != b.Incarnation {
		return "incarnation"
	}
	if a.PFIncarnation != 0 && b.PFIncarnation != 0 && a.PFIncarnation != b.PFIncarnation {
		return "pf_incarnation"
	}
	return ""
}
