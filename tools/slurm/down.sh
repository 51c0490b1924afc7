#!/usr/bin/env bash
# Stops everything that up.sh started, with its jobs and clients, and checks that nothing is left.
# It keeps $SLT_ROOT/log; --purge removes all of $SLT_ROOT. It signals only processes that up.sh recorded (pid and
# start time) or that live in its namespaces.
set -Eeuo pipefail
# shellcheck source=tools/slurm/common.sh
. "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/common.sh"
purge=${1:-}
[ -z "$purge" ] || [ "$purge" = --purge ] || die "down takes --purge or nothing"
[ "$(id -u)" = 0 ] || die "must be root"
if [ ! -e "$ROOT/etc/.slt" ]; then
  [ -e "$ROOT/log/.slt" ] && [ "$purge" = --purge ] && rm -rf "$ROOT"
  echo "slurm_testbed: nothing is up in $ROOT"
  exit 0
fi
[ ! -e /etc/slurm/.slt ] || die "run it outside the cluster"

shopt -s nullglob
machine=$(readlink /proc/self/ns/net)
spaces=()
for f in "$ROOT"/run/{ctl,node*}.pid; do
  name=$(basename "$f" .pid)
  alive "$name" || continue
  ns=$(readlink "/proc/$(pid_of "$name")/ns/net")
  [ "$ns" = "$machine" ] || spaces+=("$ns")
done
inside() { # pids of the cluster's namespaces
  local d ns
  for d in /proc/[0-9]*; do
    ns=$(readlink "$d/ns/net" 2>/dev/null) || continue
    [[ " ${spaces[*]-} " == *" $ns "* ]] && echo "${d#/proc/}"
  done
  true
}
empty() { [ -z "$(inside)" ]; }
dead() { ! alive "$1"; }

for f in "$ROOT"/run/node*.pid; do # takes the node's pid namespace with it
  name=$(basename "$f" .pid)
  alive "$name" && kill -KILL "$(pid_of "$name")"
done
for name in ctld munged ctl; do
  alive "$name" || continue
  kill -TERM "$(pid_of "$name")"
  # its saved state is removed below in any case
  wait_for 2 dead "$name" || kill -KILL "$(pid_of "$name")" 2>/dev/null || true
done
for f in "$ROOT"/run/node*.pid; do wait_for 5 dead "$(basename "$f" .pid)" || true; done

for signal in TERM KILL; do # clients left on the controller's host, a blocked srun, say
  for p in $(inside); do
    echo "slurm_testbed: left on the cluster, SIG$signal: $p $(tr '\0' ' ' <"/proc/$p/cmdline" 2>/dev/null || true)" >&2
    kill -"$signal" "$p" 2>/dev/null || true
  done
  wait_for 2 empty || true
done
left=$(inside)
[ -z "$left" ] || die "still running: $left"
rm -rf "$ROOT"/{run,state,spool,munge,etc,bin,dev}
[ -z "$purge" ] || rm -rf "$ROOT"
echo "slurm_testbed: nothing left running"
