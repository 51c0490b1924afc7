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
# There is nothing to edit: options of sbatch override the lines above. Every task of the array builds its part of the
# shards. The first task also submits the job that writes the manifest after the whole array has ended, with or without
# success. If shards are missing, that job names them. Then submit the same line again, with any --array, and only those
# are built. Without --array, one job does everything. slurm/env.sh, if it exists, is sourced first.
# Runs in quarantine do not fail the job, so that another job can depend on it. The table at its end lists them.
. "${SLURM_SUBMIT_DIR:?submit this with sbatch, from the root of the repository}/slurm/array.sh" shard "$@" || {
  echo "shard.sh: submit it from the root of the repository" >&2 && exit 2
}
fmriscale-shard "${work[@]}"
code=$?
[ "$code" -eq 3 ] || exit "$code" # 3: done, but runs were quarantined
