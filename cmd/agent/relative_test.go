package main

import "testing"

// A path that is relative to the working directory means what the kernel would
// take it for; one that only a symbolic link could decide stays, and is refused.
func TestRelativePaths(t *testing.T) {
	for path, want := range map[string]string{
		"state": "/srv/node/state", "./state": "/srv/node/state", "../state": "/srv/state", "..": "/srv",
		"../../../state": "/state", "a/b/": "/srv/node/a/b", "a/../b": "/srv/node/a/../b", ".": "/srv/node",
		"..state": "/srv/node/..state",
	} {
		if got := from("/srv/node", path); got != want {
			t.Errorf("%s: got %s, want %s", path, got, want)
		}
	}
}

func TestTypedYes(t *testing.T) {
	for line, want := range map[string]bool{
		"y\n": true, "Y\n": true, "yes\n": true, "YES\n": true, " Yes \r\n": true,
		"\n": false, "n\n": false, "no\n": false, "yess\n": false, "ye\n": false,
	} {
		if got := yes(line); got != want {
			t.Errorf("%q: got %v, want %v", line, got, want)
		}
	}
}
