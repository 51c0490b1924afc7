#!/usr/bin/env bash
# Scans -> corpus under Slurm: sbatch [--array=0-15] slurm/shard.sh CONFIG [--dotted.override VALUE ...]
#SBATCH --job-name=fmriscale-shard
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --mem-per-cpu=4G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
#
# Nothing to edit: options of sbatch override the lines above. Every task of the array builds its part of the
# shards; its first task also submits the job that writes the manifest when the whole array has ended, well or
# badly. That job tells which shards are missing, if any are: submit the same line again, with any --array, and
# only those are built. Without --array one job does it all. slurm/env.sh, if there is one, is sourced first.
# Runs in quarantine do not fail the job (the table at its end lists them), so that another job may depend on it.
set -o pipefail

[ $# -ge 1 ] || { echo "usage: sbatch [--array=0-15] slurm/shard.sh CONFIG [--dotted.override VALUE ...]" >&2 && exit 2; }
cd "${SLURM_SUBMIT_DIR:?submit this with sbatch, from the root of the repository}" || exit 2
[ -f slurm/shard.sh ] || { echo "shard.sh: no slurm/shard.sh in $PWD: submit from the root of the repository" >&2 && exit 2; }
[ ! -f slurm/env.sh ] || . slurm/env.sh
[ ! -f .venv/bin/activate ] || . .venv/bin/activate
export PYTHONUNBUFFERED=1 PYTHONFAULTHANDLER=1 OMP_NUM_THREADS=1
echo "$(date '+%F %T') job $SLURM_JOB_ID, life $((${SLURM_RESTART_COUNT:-0} + 1)), on ${SLURMD_NODENAME:-$HOSTNAME}"

# afterany, not afterok: after a failed task a job that waits for success would hang for ever, and say nothing.
# A task that comes back after its node failed keeps the array unfinished, and finds this job already there.
submit_finish() {
  local name=finish-$SLURM_ARRAY_JOB_ID
  [ -z "$(squeue --noheader --name="$name" --states=all)" ] || return 0
  local same=(--partition="$SLURM_JOB_PARTITION" ${SLURM_JOB_ACCOUNT:+--account="$SLURM_JOB_ACCOUNT"} ${SLURM_JOB_QOS:+--qos="$SLURM_JOB_QOS"})
  sbatch --parsable --job-name="$name" --dependency="afterany:$SLURM_ARRAY_JOB_ID" "${same[@]}" --cpus-per-task=1 \
    --output="shard-$SLURM_ARRAY_JOB_ID.out" slurm/shard.sh "$@" --finish ||
    echo "shard.sh: the job that finishes could not be submitted; when all tasks are done: fmriscale-shard --config $* --finish" >&2
}

case " $* " in
  *" --finish "*) unset "${!SLURM_ARRAY@}" ;;
  *) [ "${SLURM_ARRAY_TASK_ID:-none}" != "${SLURM_ARRAY_TASK_MIN:-}" ] || submit_finish "$@" ;;
esac
config=$1
shift
fmriscale-shard --config "$config" --jobs "${SLURM_CPUS_PER_TASK:-1}" "$@"
code=$?
[ "$code" -eq 3 ] || exit "$code" # 3: done, but runs were quarantined
