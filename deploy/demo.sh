#!/usr/bin/env bash
# The main job on a simulated node: bind a NIC to vfio-pci, be killed with
# SIGKILL between its unbind and its bind, explain, recover, converge.
set -euo pipefail
agent=${1:?usage: demo.sh AGENT-BINARY}

dir=$(mktemp -d)
pid=
finish() {
	[ -z "$pid" ] || kill "$pid" 2>/dev/null || true
	wait 2>/dev/null || true
	rm -rf "$dir"
}
trap finish EXIT
args=(--simulate --state-dir "$dir")

say() { printf '\n\033[1m== %s\033[0m\n' "$*" | if [ -t 1 ]; then cat; else sed 's/\x1b\[[0-9]*m//g'; fi; }
show() {
	printf '\n$ agent %s\n' "$*"
	code=0
	"$agent" "$@" "${args[@]}" || code=$?
	[ "$code" = 0 ] || printf '(exit status %d)\n' "$code"
}
expect() { # what, code wanted
	[ "$code" = "$2" ] || { echo "demo: $1: exit status $code, want $2" >&2; exit 1; }
}
start() {
	"$agent" run "${args[@]}" --listen '' --log-level warn &
	pid=$!
}

cat >"$dir/interfaces.yaml" <<'YAML'
apiVersion: eniagent/v1alpha1
interfaces:
  - pci: "0000:02:00.0"     # a physical port for a DPDK program
    driver: vfio-pci
  - pci: "0000:01:10.0"     # a virtual function, too
    driver: vfio-pci
  - name: enp3s0            # a kernel interface with jumbo frames
    up: true
    mtu: 9000
YAML
"$agent" sim create --state-dir "$dir"

say "A node with six network functions, and what is asked of three of them"
show inventory
cat "$dir/interfaces.yaml"
show plan; expect plan 3

say "The agent starts. The node kills it with SIGKILL just before the bind of 0000:02:00.0"
"$agent" sim fault bind --path 0000:02:00.0 --crash --state-dir "$dir"
start
wait "$pid" 2>/dev/null && { echo "demo: the agent was not killed" >&2; exit 1; }
echo "The agent is gone (exit status $?). No clean-up ran: 0000:02:00.0 has no driver at all."
pid=
show inventory

say "An engineer asks what happened, and touches nothing"
before=$(sha256sum "$dir/journal/journal.db")
show recover --dry-run; expect "recover --dry-run" 3
[ "$before" = "$(sha256sum "$dir/journal/journal.db")" ] && echo "(the journal's bytes are the same as before)"

say "The agent is started again: it recovers, then goes on"
start
show status --wait 20s; expect status 0
show recover --dry-run; expect "recover --dry-run" 0
show journal list -n 4
show inventory

say "What changes in the file changes on the host: 0000:02:00.0 goes back to its kernel driver"
sed -i '/0000:02:00.0/{n;s/driver: vfio-pci/state: released/}' "$dir/interfaces.yaml"
for _ in $(seq 100); do
	"$agent" inventory "${args[@]}" | grep -q '0000:02:00.0 .* igb ' && break
	sleep 0.1
done
show status --wait 20s; expect status 0
say "Done. Nothing was left half-way."
