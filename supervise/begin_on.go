//go:build crashpoint

package supervise

import "os"

// begin panics in the goroutine whose path ENIAGENT_PANIC names; "list" has each say that
// it has begun. It is compiled in by the build tag crashpoint only.
func begin(path string) {
	switch os.Getenv("ENIAGENT_PANIC") {
	case "":
	case "list":
		_, _ = os.Stderr.WriteString("began " + path + "\n")
	case path:
		panic("injected")
	}
}
