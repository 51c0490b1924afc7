#!/usr/bin/env bash
# A fine-tuning study under Slurm: sbatch [--array=0-15] slurm/finetune.sh CONFIG [--dotted.override VALUE ...]
#SBATCH --job-name=fmriscale-finetune
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --mem-per-cpu=4G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
#
# There is nothing to edit: options of sbatch override the lines above (--gres=gpu:1 where there are GPUs). Every task
# of the array computes its part of the cells, one per CPU at a time. The first task also submits the job that writes
# the summary, the report and MLflow after the whole array has ended, with or without success. If cells are missing,
# that job names them. Then submit the same line again, with any --array, and only those are computed. Without
# --array, one job does everything. slurm/env.sh, if it exists, is sourced first.
. "${SLURM_SUBMIT_DIR:?submit this with sbatch, from the root of the repository}/slurm/array.sh" finetune "$@" || {
  echo "finetune.sh: submit it from the root of the repository" >&2 && exit 2
}
fmriscale finetune "${work[@]}"
