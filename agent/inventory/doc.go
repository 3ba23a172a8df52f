// Package inventory lists the PCI network functions of a host and checks what
// a host needs to hand them to programs. It only reads.
package inventory
