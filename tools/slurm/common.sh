# Settings and process helpers of the Slurm testbed; sourced by its scripts.
# shellcheck shell=bash disable=SC2034
ROOT=${SLT_ROOT:-/run/slt} NODES=${SLT_NODES:-3} CPUS=${SLT_CPUS:-96} MEM=${SLT_MEM:-1000000}
GPUS=${SLT_GPUS:-8} GPU_TYPE=${SLT_GPU_TYPE:-h100} PARTS=${SLT_PARTS:-gpu debug} NET=${SLT_NET:-10.77.0}
WAIT=${SLT_WAIT:-60}

die() {
  echo "slurm_testbed: FAILED: $*" >&2
  exit 1
}

# A process is named by pid and start time, so that a reused pid is never signalled. A zombie is dead.
stamp() {
  local stat
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  stat=${stat##*) }
  # shellcheck disable=SC2086
  set -- $stat
  [ "$1" != Z ] && echo "${20}"
}
record() { echo "$2 $(stamp "$2")" >"$ROOT/run/$1.pid"; }
alive() {
  local pid start
  { read -r pid start <"$ROOT/run/$1.pid"; } 2>/dev/null && [ -n "${start:-}" ] && [ "$(stamp "$pid")" = "$start" ]
}
pid_of() { cut -d' ' -f1 "$ROOT/run/$1.pid"; }

# wait_for SECONDS COMMAND...: poll until the command succeeds
wait_for() {
  local end=$((SECONDS + $1))
  shift
  while [ "$SECONDS" -le "$end" ]; do
    "$@" >/dev/null 2>&1 && return 0
    sleep 0.1
  done
  return 1
}
