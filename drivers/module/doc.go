// Package module has the kind module: whether a kernel module is loaded. It
// reads the kernel's own modules.dep and modules.softdep and loads through
// finit_module, compressed modules too, without modprobe.
//
// # Caveats
//
// Loading is one write a module. What a module depends on is not loaded behind
// the planner's back: Closure names all of them in order, and each is a key of
// its own in the operation.
package module
