//go:build linux

// Command demo shows the main job on a real kernel in a VM: a real igb
// function bound to vfio-pci behind a real IOMMU, the power cut between its
// unbind and its bind, the boot after, and the recovery.
package main
