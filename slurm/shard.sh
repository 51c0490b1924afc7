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
. "${SLURM_SUBMIT_DIR:?submit this with sbatch, from the root of the repository}/slurm/array.sh" shard "$@" || {
  echo "shard.sh: submit it from the root of the repository" >&2 && exit 2
}
fmriscale-shard "${work[@]}"
code=$?
[ "$code" -eq 3 ] || exit "$code" # 3: done, but runs were quarantined
