#!/usr/bin/env bash
# install.sh lays the agent's service on this machine, or takes it off again. `make install` and `make uninstall` run
# it; PREFIX, DESTDIR and FORCE are theirs. BINARY is what is installed.
set -euo pipefail
cd "$(dirname "$0")/../.."
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"

prefix=${PREFIX:-/usr/local}
root=${DESTDIR:-}
agent=$prefix/bin/agent
case $prefix in
/usr | /usr/local) units=$prefix/lib/systemd/system ;;
*) units=/etc/systemd/system ;; # systemd does not look below another prefix
esac
unit=$units/eniagent.service
config=/etc/eniagent
state=/var/lib/eniagent

say() { echo "$*"; }
die() { echo "uninstall: $*" >&2; exit 1; }

# systemd: this is the running system, and not one that is being built, and systemd runs it.
systemd() { [ -z "$root" ] && [ -d /run/systemd/system ]; }
active() { systemd && systemctl -q is-active eniagent.service; }

lay() {
	install -D -m 0755 "${BINARY:-bin/agent}" "$root$agent"
	install -d -m 0755 "$root$units" "$root$config"
	sed "s|/usr/local/bin/agent|$agent|" deploy/systemd/eniagent.service >"$root$unit.new"
	chmod 0644 "$root$unit.new"
	mv "$root$unit.new" "$root$unit"
	install -m 0644 deploy/systemd/interfaces.yaml.example "$root$config/interfaces.yaml.example"
	! systemd || systemctl daemon-reload
	say "Installed $root$agent and $root$unit."
	if active; then
		say "Next: systemctl restart eniagent"
	elif [ -e "$root$config/interfaces.yaml" ]; then
		say "Next: systemctl enable --now eniagent"
	else
		say "Next: cp $config/interfaces.yaml.example $config/interfaces.yaml, edit it, and: systemctl enable --now eniagent"
	fi
}

# taken says what the journal still has to give back; nothing when all is given back, or nothing was ever taken.
# It reads the journal of an agent that is stopped.
taken() {
	[ -e "$root$state/journal/journal.db" ] || return 0
	local records
	records=$("$root$agent" journal export --state-dir "$root$state" 2>&1) ||
		{ echo "the journal cannot be read: $records"; return; }
	if grep -qE '^\{"bucket":"(baseline|open|quarantine)"' <<<"$records"; then
		echo "the agent still has functions of this node, or something is unfinished"
	elif grep -q '^{"bucket":"meta","key":"degraded"' <<<"$records"; then
		echo "the journal was damaged, and what the agent has is not known for certain"
	fi
}

take_off() {
	local why was=no
	! active || was=yes
	# A stop leaves all functions as they are.
	! systemd || systemctl -q stop eniagent.service 2>/dev/null || true
	why=$(taken)
	if [ -n "$why" ] && [ "${FORCE:-}" != 1 ]; then
		[ "$was" = no ] || systemctl start eniagent.service
		die "$why.
Give everything back first:  $agent release --all
Or leave it all as it is:    make uninstall FORCE=1"
	fi
	! systemd || systemctl -q disable eniagent.service 2>/dev/null || true
	rm -f "$root$unit" "$root$agent" "$root$config/interfaces.yaml.example"
	(cd "$root$prefix/lib" 2>/dev/null && rmdir -p --ignore-fail-on-non-empty systemd/system) 2>/dev/null || true
	if systemd; then
		systemctl daemon-reload
		systemctl -q reset-failed eniagent.service 2>/dev/null || true
	fi
	[ -n "$why" ] || rm -rf "$root$state"
	rmdir --ignore-fail-on-non-empty "$root$config" 2>/dev/null || true
	say "Removed $root$agent and $root$unit."
	[ ! -d "$root$config" ] || say "Your configuration is still in $root$config."
	[ -z "$why" ] || say "The journal is still in $root$state: $why."
}

case ${1:-} in
install) lay ;;
uninstall) take_off ;;
*)
	echo "usage: install.sh install|uninstall" >&2
	exit 64
	;;
esac
