// Package health looks at functions that are as desired, and says what ails
// them: a device that no longer answers, a group without a node or with a
// member that the kernel uses, errors on the bus or on the wire.
//
//	m := health.New()
//	verdict := m.Look(ctx, host, health.Function{Target: t, Driver: "vfio-pci"})
//	for _, f := range verdict.Findings {
//		fmt.Println(f.Reason, f.Text)
//	}
//
// Health is reported and never acted on: a function is not bound anew because
// it ails.
//
// # Caveats
//
// What cannot be read is unknown, and unknown is not unhealthy. Looking asks the
// device itself, which on a dead one may hang: look from a worker, with a host
// that has deadlines.
//
// Counters say something only by how they grow between two looks; what they
// said is held for a while, so that people see it.
package health
