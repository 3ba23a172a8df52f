// Package drivertest is the suite that every kind passes: what the comments of
// drivers.Driver and drivers.Spec promise, tried on the simulated kernel with
// every fault at every write.
//
//	drivertest.Run(t, all.New, map[drivers.Kind][]drivertest.Sample{
//		link.KindMTU: {{Target: "0000:02:00.0", Before: "1500", After: "9000"}},
//	})
//
// A kind of the set that has no sample fails, so that a new kind is tested by
// being registered.
package drivertest
