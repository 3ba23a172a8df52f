// Package source says what desired state is, wherever it comes from. Package
// file reads it from a YAML file, package nodeeni from objects of a Kubernetes
// API; what both call an entry is in package entry. A source knows neither the journal nor the host: it says what is asked,
// and the agent resolves it to targets.
//
// # Caveats
//
// A source that cannot be read says so and sends nothing: absence is never a
// deletion by itself. Giving an interface back is explicit. State Released says
// it of one. A Desired that is Complete says it of all that the source asked
// before and neither names nor refuses now: for a file nobody can say that,
// because one that was cut is a valid shorter file; a list of an API, which
// arrived whole and is as new as its last write, can.
package source
