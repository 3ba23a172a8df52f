// Package host is the one seam between the agent and Linux.
//
// It is deliberately thin: sysfs is read and written as paths and text, as the
// kernel documents it, so that there is little code here that only a real
// kernel can test, and a simulated kernel (package sim) can stand behind the
// same interface and be compared with a real one, errno by errno.
//
// Linux is the raw seam: it runs system calls in this process. Pool puts
// writer children in between: every write, and every read that can block on a
// lock of the device, is made by a kept child process of the same binary that
// has neither the journal nor its lock, because a write that hangs in the
// kernel cannot be killed and would keep them for ever.
//
// # Caveats
//
// A write whose deadline has passed is still running and may yet succeed. Its
// target is fenced until the kernel is really done with it; see Pool.
package host
