#!/usr/bin/env bash
# fresh.sh makes sure that what `make install` installs is built from the sources that are there: after a `git pull` an
# older bin/agent is built again. Under sudo that is done as the user who called it: root may have neither the Go nor the
# git of whoever built it, and git refuses root another user's repository. Where it cannot be built, nothing is installed.
# OUT is the binary; STALE=1 installs it however old it is.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${OUT:-bin/agent}

# newer is a source that was changed after the binary was built; nothing when none was. What git checks out has the time
# of the checkout, so a pull makes sources newer.
newer() {
	find . -name '.?*' -prune -o -newer "$out" -type f \( -name '*.go' -o -name go.mod -o -name go.sum \) ! -name '*_test.go' -print -quit
}

build() {
	if [ "$(id -u)" = 0 ] && [ -n "${SUDO_USER:-}" ] && [ "$SUDO_USER" != root ]; then
		# A login shell, as the user's own PATH may be what has Go.
		runuser -u "$SUDO_USER" -- env HOME="$(getent passwd "$SUDO_USER" | cut -d: -f6)" \
			bash -lc 'PATH=$PATH:/usr/local/go/bin exec make -s build OUT="$0"' "$out"
	else
		PATH=$PATH:/usr/local/go/bin make -s build OUT="$out"
	fi
}

why="$out is not there"
if [ -e "$out" ]; then
	changed=$(newer)
	[ -n "$changed" ] || exit 0
	why="$out is older than $changed"
fi
if [ "${STALE:-}" = 1 ] && [ -e "$out" ]; then
	echo "install: $why, and is installed as it is: STALE=1" >&2
	exit 0
fi
build || {
	echo "install: $why, and could not be built here. Nothing was installed.
Build it as a user who has Go and git, then install:  make build && sudo make install
Or install it as it is:                               make install STALE=1" >&2
	exit 1
}
