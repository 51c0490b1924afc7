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
# There is nothing to edit: options of sbatch override the lines above. One task is one rank. A job with GPUs
# (sbatch --exclusive --mem=0 --gpus-per-node=8) has one rank per GPU. A job without has as many as sbatch's --ntasks-per-node.
# slurm/env.sh, if it exists, is sourced first (modules, conda, NCCL_SOCKET_IFNAME, MAX_RESTARTS, ...).
#
# The job is requeued, at most MAX_RESTARTS times (default 50), when
#   - the ranks saved on request: before the time limit, or after scancel --batch --signal=USR1
#   - the ranks crashed or hung after a checkpoint was written since this start; the next start resumes from it
# Slurm itself requeues the job when a node fails. The job is not requeued after scancel, a mistake in the
# configuration, damage, a training that diverged, or a crash without a checkpoint: those would only happen again.
set -o pipefail

srun="" asked=""
ask() {
  echo "$(date '+%F %T') $1: the ranks are asked to save"
  asked=$1
  [ -z "$srun" ] || pester &
}
pester() { # repeat it: ranks that are still starting do not receive the signal yet
  while kill -USR1 "$srun" 2>/dev/null; do sleep 5; done
}
trap 'ask USR1' USR1 # first of all: with a short time limit, Slurm sends the signal in the first seconds
trap 'ask TERM' TERM

[ $# -ge 1 ] || { echo "usage: sbatch slurm/pretrain.sh CONFIG [--dotted.override VALUE ...]" >&2 && exit 2; }
cd "${SLURM_SUBMIT_DIR:?submit this with sbatch, from the root of the repository}" || exit 2
[ -f fmriscale/train.py ] || { echo "pretrain.sh: no fmriscale/train.py in $PWD: submit from the root of the repository" >&2 && exit 2; }
[ ! -f slurm/env.sh ] || . slurm/env.sh
[ ! -f .venv/bin/activate ] || . .venv/bin/activate

restarts=${SLURM_RESTART_COUNT:-0} limit=${MAX_RESTARTS:-50}
[ "$restarts" -le "$limit" ] || { echo "$(date '+%F %T') start $((restarts + 1)) is one too many: MAX_RESTARTS is $limit" >&2 && exit 1; }

# A requeued job may run on other nodes, so each start determines the master address.
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + (SLURM_JOB_ID + restarts) % 10000))
[ -n "${SLURM_JOB_END_TIME:-}" ] || { # an older Slurm; if squeue has no answer, the ranks know of no end
  ends=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%e)
  SLURM_JOB_END_TIME=${ends:+$(date -d "$ends" +%s 2>/dev/null)}
}
export MASTER_ADDR MASTER_PORT SLURM_JOB_END_TIME # ranks stop by themselves before the end
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || {
  export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # srun does not inherit it from sbatch
  [ "${SLURM_GPUS_ON_NODE:-0}" -gt 0 ] || export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}
}
export SLURM_EXPORT_ENV=ALL PYTHONUNBUFFERED=1 PYTHONFAULTHANDLER=1

# srun ends with the worst exit code of all tasks. Rank 0 writes here what happened.
export FMRISCALE_OUTCOME=$PWD/slurm-$SLURM_JOB_ID.outcome
rm -f "$FMRISCALE_OUTCOME"

# One task per GPU; without GPUs, the tasks that sbatch was asked for. A rank needs a core to launch kernels and one
# to read, but sbatch grants one CPU a task, and this script is one task.
gpus=${SLURM_GPUS_ON_NODE:-0}
per_node=()
if [ "$gpus" -gt 0 ] && [ "${SLURM_CPUS_ON_NODE:-0}" -lt $((2 * gpus)) ]; then
  echo "pretrain.sh: $gpus GPUs on a node, but ${SLURM_CPUS_ON_NODE:-0} CPUs: add --exclusive --mem=0, or --cpus-per-gpu=8 --mem-per-gpu=64G, to sbatch" >&2
  exit 2
fi
[ "$gpus" -eq 0 ] || export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((SLURM_CPUS_ON_NODE / gpus))}
[ "$gpus" -eq 0 ] || per_node=(--overcommit --ntasks-per-node="$gpus" --ntasks=$((gpus * SLURM_JOB_NUM_NODES)))
echo "$(date '+%F %T') job $SLURM_JOB_ID, start $((restarts + 1)), on $SLURM_JOB_NODELIST, meeting at $MASTER_ADDR:$MASTER_PORT"

# Slurm tries for a minute to end a step on a node that does not answer, and identifies the step only by its
# number. Empty steps give the ranks of this start a step number that the two starts before did not have.
for ((i = 0; i < restarts % 3; i++)); do srun --nodes=1 --ntasks=1 true &>/dev/null; done

# bash handles a signal only when no foreground command runs. So srun runs in the background, and a loop waits for it.
# A task ignores USR1 until Python handles it. Otherwise an early signal would kill the task.
srun "${per_node[@]}" --kill-on-bad-exit=1 --label \
  bash -c 'trap "" USR1; exec "$@"' rank python fmriscale/train.py --config "$@" &
srun=$!
[ -z "$asked" ] || pester &
while :; do
  wait "$srun"
  code=$?
  kill -0 "$srun" 2>/dev/null || break # wait also returns after a signal
done
trap '' USR1 TERM
outcome=$(cat "$FMRISCALE_OUTCOME" 2>/dev/null)
rm -f "$FMRISCALE_OUTCOME"

again=""
case $code:$outcome in
0:* | 2:* | 4:* | *:diverged) ;;
85:* | *:stopped) again="saved" ;;
*:saved) again="the ranks ended with $code after a checkpoint" ;;
*) [ "$asked" != USR1 ] || again="the ranks ended with $code before the first checkpoint" ;;
esac
# scancel sends TERM, and so does Slurm at the time limit. After scancel, a requeue would bring the job back.
reason=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%r 2>/dev/null)
[ "$asked" != TERM ] || [ "$reason" = TimeLimit ] || again=""
if [ -n "$again" ] && [ "$restarts" -ge "$limit" ]; then
  echo "$(date '+%F %T') $again; no more restarts: MAX_RESTARTS is $limit"
elif [ -n "$again" ]; then
  echo "$(date '+%F %T') $again; start $((restarts + 2)) is put in the queue"
  scontrol requeue "$SLURM_JOB_ID" # sends TERM to this script at once, so it must be the last command
  sleep 60
fi
exit "$code"
