#!/usr/bin/env bash
# recover.sh tells what the agent of a node left unfinished, whether its pod runs, crash-loops or is not there at all: it
# runs `agent recover --dry-run` in a pod of its own on that node, with the image, the rights and the view of the node
# that the DaemonSet gives the agent, all of it mounted read-only. It prints the report, deletes the pod, and ends with
# the agent's own exit status: 0 nothing is unfinished, 3 something is, 4 a person is needed; the others are those of
# `agent --help`. When the agent could not be asked it is 1, and standard error tells why.
set -euo pipefail

usage() {
	cat >&2 <<'END'
usage: recover.sh [-n NAMESPACE] [-t SECONDS] [-o table|json] NODE
  -n  of the DaemonSet (eniagent-system)
  -t  how long to wait for the pod (120)
  -o  what is printed (table)
END
	exit 64
}

namespace=eniagent-system
patience=120
output=table
while getopts n:t:o: flag; do
	case $flag in
	n) namespace=$OPTARG ;;
	t) patience=$OPTARG ;;
	o) output=$OPTARG ;;
	*) usage ;;
	esac
done
shift $((OPTIND - 1))
[[ $# = 1 && -n $1 ]] || usage
[[ $patience =~ ^[1-9][0-9]*$ ]] || usage
[[ $output =~ ^(table|json)$ ]] || usage
node=$1
pod=

die() { echo "recover.sh: $*" >&2; exit 1; }

# A pod that stays is told of, and never passes for success.
leave() {
	local status=$?
	if [ -n "$pod" ] && ! kubectl -n "$namespace" delete "$pod" --wait=false --ignore-not-found >/dev/null; then
		echo "recover.sh: delete it yourself: kubectl -n $namespace delete $pod" >&2
		[ "$status" != 0 ] || status=1
	fi
	exit "$status"
}
trap leave EXIT
trap 'exit 130' INT TERM

# text is a JSON string.
text() { printf '"%s"' "$(sed 's/[\\"]/\\&/g' <<<"$1")"; }

kubectl get node "$node" -o name >/dev/null || die "node $node cannot be read"

# What the DaemonSet gives the agent, a line each; objects and lists come as JSON.
container='.spec.template.spec.containers[?(@.name=="agent")]'
fields=(
	"{$container.image}" "{$container.imagePullPolicy}" "{$container.resources}" "{$container.securityContext}" "{$container.env}"
	'{.spec.template.spec.volumes}' '{.spec.template.spec.tolerations}' '{.spec.template.spec.imagePullSecrets}'
	'{.spec.template.spec.serviceAccountName}' '{.spec.template.spec.priorityClassName}'
	"{range $container.volumeMounts[*]}"'{"{\"name\":\""}{.name}{"\",\"mountPath\":\""}{.mountPath}{"\",\"readOnly\":true,\"recursiveReadOnly\":\"IfPossible\"},"}{end}'
	"{range $container.args[*]}"'{@}{"\n"}{end}'
)
of_set=$(kubectl -n "$namespace" get daemonset eniagent -o jsonpath="$(printf '%s{"\\n"}' "${fields[@]}")") ||
	die "there is no DaemonSet eniagent in $namespace: give its namespace with -n"
mapfile -t of_set <<<"$of_set"
image=${of_set[0]} policy=${of_set[1]} resources=${of_set[2]} security=${of_set[3]} env=${of_set[4]}
volumes=${of_set[5]} tolerations=${of_set[6]} secrets=${of_set[7]} account=${of_set[8]} priority=${of_set[9]} mounts=${of_set[10]%,}
[[ -n $image && -n $volumes && -n $mounts ]] || die "the DaemonSet eniagent has no container agent with volumes"

# Of the agent's flags, those that `agent recover` has too.
args='"recover","--dry-run","--output='$output'"'
for arg in "${of_set[@]:11}"; do
	case $arg in
	--root=* | --state-dir=* | --pod-resources=* | --device-plugin-config=* | --node-address=* | --keep-reachable=* | --allow-without-default-route*)
		args+=,$(text "$arg")
		;;
	esac
done

# Its label is not the DaemonSet's, which would take the pod for one of its own.
pod=$(kubectl -n "$namespace" create -o name -f - <<END
{
  "apiVersion": "v1",
  "kind": "Pod",
  "metadata": {
    "generateName": "eniagent-recover-",
    "namespace": $(text "$namespace"),
    "labels": {"app.kubernetes.io/name": "eniagent-recover"}
  },
  "spec": {
    "nodeName": $(text "$node"),
    "restartPolicy": "Never",
    "activeDeadlineSeconds": $patience,
    "terminationGracePeriodSeconds": 1,
    "hostNetwork": true,
    "hostPID": true,
    "enableServiceLinks": false,
    "automountServiceAccountToken": false,
    "serviceAccountName": $(text "$account"),
    "priorityClassName": $(text "$priority"),
    "tolerations": ${tolerations:-[]},
    "imagePullSecrets": ${secrets:-[]},
    "volumes": $volumes,
    "containers": [{
      "name": "agent",
      "image": $(text "$image"),
      "imagePullPolicy": $(text "$policy"),
      "args": [$args],
      "env": ${env:-[]},
      "resources": ${resources:-"{}"},
      "securityContext": ${security:-"{}"},
      "volumeMounts": [$mounts]
    }]
  }
}
END
) || die "the pod cannot be made"

# status is the agent's exit status once it has ended.
status=
at='{.status.containerStatuses[0].state'
deadline=$((SECONDS + patience))
until [ -n "$status" ]; do
	if now=$(kubectl -n "$namespace" get "$pod" -o jsonpath="{.status.phase}|$at.terminated.exitCode}|$at.terminated.reason}|$at.waiting.reason} $at.waiting.message}|{.status.reason} {.status.message}" 2>&1); then
		IFS='|' read -r phase status why waiting rejected <<<"${now//$'\n'/ }"
		[ -n "$status" ] || [ "$phase" != Failed ] || die "the node did not run the pod: $rejected"
	else
		[[ $now != *NotFound* ]] || die "somebody deleted the pod: $now"
		phase=unknown waiting=$now
	fi
	[ -z "$status" ] || break
	[ "$SECONDS" -lt "$deadline" ] || die "the pod has not ended within $patience s: ${phase:-not taken by node $node}, $waiting"
	sleep 1
done
kubectl -n "$namespace" logs "$pod" || die "the agent ended with $status, and its report cannot be read"
[[ $status != 2 && $status -le 7 || $status = 64 ]] || echo "recover.sh: the agent ended with $status: $why" >&2
exit "$status"
