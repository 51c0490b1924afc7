#!/usr/bin/env bash
# Shows which parts of the testbed are up; exit code 0 if the controller answers.
set -euo pipefail
. "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/common.sh"
alive ctl || { echo "slurm_testbed: nothing is up in $ROOT" && exit 1; }
for f in "$ROOT"/run/{munged,ctld,node*}.pid; do
  name=$(basename "$f" .pid)
  if alive "$name"; then echo "$name: pid $(pid_of "$name")"; else echo "$name: dead"; fi
done
timeout 10 "$ROOT/bin/sinfo" -N -l && timeout 10 "$ROOT/bin/squeue"
