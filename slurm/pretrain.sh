#!/usr/bin/env bash
# Pre-training under Slurm: sbatch [--nodes N ...] slurm/pretrain.sh CONFIG [--dotted.override VALUE ...]
#SBATCH --job-name=fmriscale
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
#SBATCH --output=slurm-%j.out
#
# Nothing to edit: options of sbatch override the lines above. One task is one rank: one a GPU where the
# job has GPUs (sbatch --gpus-per-node=8), else as many as sbatch's --ntasks-per-node asks for.
# slurm/env.sh, if there is one, is sourced first (modules, conda, NCCL_SOCKET_IFNAME, MAX_RESTARTS, ...).
# Asked to stop (before the time limit, by preemption, by scancel --batch --signal=USR1), the ranks save and
# end with exit code 85, and the job is requeued, at most MAX_RESTARTS times (default 50).
set -o pipefail

[ $# -ge 1 ] || { echo "usage: sbatch slurm/pretrain.sh CONFIG [--dotted.override VALUE ...]" >&2 && exit 2; }
cd "${SLURM_SUBMIT_DIR:?submit this with sbatch, from the root of the repository}" || exit 2
[ -f fmriscale/train.py ] || { echo "pretrain.sh: no fmriscale/train.py in $PWD: submit from the root of the repository" >&2 && exit 2; }
[ ! -f slurm/env.sh ] || . slurm/env.sh
[ ! -f .venv/bin/activate ] || . .venv/bin/activate

# The job may come back on other nodes: the meeting point is found anew in each life.
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
restarts=${SLURM_RESTART_COUNT:-0}
MASTER_PORT=$((20000 + (SLURM_JOB_ID + restarts) % 10000))
export MASTER_ADDR MASTER_PORT
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || {
  export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # srun does not take it from sbatch by itself
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}
}
export SLURM_EXPORT_ENV=ALL PYTHONUNBUFFERED=1 PYTHONFAULTHANDLER=1

# One task a GPU; without GPUs the tasks that sbatch was asked for.
gpus=${SLURM_GPUS_ON_NODE:-0}
per_node=()
[ "$gpus" -eq 0 ] || per_node=(--overcommit --ntasks-per-node="$gpus" --ntasks=$((gpus * SLURM_JOB_NUM_NODES)))
echo "$(date '+%F %T') job $SLURM_JOB_ID, life $((restarts + 1)), on $SLURM_JOB_NODELIST, meeting at $MASTER_ADDR:$MASTER_PORT"

# bash acts on a signal only when no command is in front: srun runs behind, and is waited for in a loop.
forward() {
  echo "$(date '+%F %T') $1: the ranks are asked to save"
  kill -USR1 "$srun" 2>/dev/null # srun hands it on to every task
}
srun "${per_node[@]}" --kill-on-bad-exit=1 --label python fmriscale/train.py --config "$@" &
srun=$!
trap 'forward USR1' USR1
trap 'forward TERM' TERM
while :; do
  wait "$srun"
  code=$?
  kill -0 "$srun" 2>/dev/null || break # wait also returns when a signal came
done
trap '' USR1 TERM

if [ "$code" -eq 85 ] && [ "$restarts" -lt "${MAX_RESTARTS:-50}" ]; then
  echo "$(date '+%F %T') saved; life $((restarts + 2)) is put in the queue"
  scontrol requeue "$SLURM_JOB_ID" # sends TERM to this script at once: it is the last thing done
  sleep 60
fi
exit "$code"
