// Package source says what desired state is, wherever it comes from. Package
// file reads it from a YAML file. A source knows neither the journal nor the
// host: it says what is asked, and the agent resolves it to targets.
//
// # Caveats
//
// A source that cannot be read says so and sends nothing: absence is never a
// deletion. Giving an interface back is always explicit, by State Released.
package source
