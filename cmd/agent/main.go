// Command agent keeps a node's extra network interfaces as they are asked to
// be, and cannot be caught half-way.
package main

import (
	"context"
	"os"
)

// version is set by the build.
var version = "devel"

func main() {
	os.Exit(execute(context.Background(), os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr}))
}
