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
# Nothing to edit: options of sbatch override the lines above (--gres=gpu:1 where there are GPUs). Every task of
# the array computes its part of the cells, one a CPU at a time; its first task also submits the job that writes
# the summary, the report and MLflow when the whole array has ended, well or badly. That job names the cells that
# are missing, if any are: submit the same line again, with any --array, and only those are computed. Without
# --array one job does it all. slurm/env.sh, if there is one, is sourced first.
. "${SLURM_SUBMIT_DIR:?submit this with sbatch, from the root of the repository}/slurm/array.sh" finetune "$@" || {
  echo "finetune.sh: submit it from the root of the repository" >&2 && exit 2
}
fmriscale finetune "${work[@]}"
