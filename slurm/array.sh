# shard.sh and finetune.sh source this file in a job, with their verb and arguments. It changes to the root of the
# repository, sets up the environment, and lets the array's first task submit the job that finishes the work of all
# tasks. It sets `work` to the options of the verb.
[ $# -ge 2 ] || { echo "usage: sbatch [--array=0-15] slurm/$1.sh CONFIG [--dotted.override VALUE ...]" >&2 && exit 2; }
cd "$SLURM_SUBMIT_DIR" || exit 2
[ ! -f slurm/env.sh ] || . slurm/env.sh
[ ! -f .venv/bin/activate ] || . .venv/bin/activate
export PYTHONUNBUFFERED=1 PYTHONFAULTHANDLER=1 OMP_NUM_THREADS=1
echo "$(date '+%F %T') job $SLURM_JOB_ID, start $((${SLURM_RESTART_COUNT:-0} + 1)), on ${SLURMD_NODENAME:-$HOSTNAME}"

# afterany, not afterok: after a failed task, a job that waits for success would wait for ever and say nothing.
# If a node fails, its task is requeued, the array stays unfinished, and the task finds that this job exists already.
submit_finish() {
  local verb=$1 name=finish-$SLURM_ARRAY_JOB_ID
  shift
  [ -z "$(squeue --noheader --name="$name" --states=all)" ] || return 0
  local same=(--partition="$SLURM_JOB_PARTITION" ${SLURM_JOB_ACCOUNT:+--account="$SLURM_JOB_ACCOUNT"} ${SLURM_JOB_QOS:+--qos="$SLURM_JOB_QOS"})
  sbatch --parsable --job-name="$name" --dependency="afterany:$SLURM_ARRAY_JOB_ID" "${same[@]}" --cpus-per-task=1 \
    --output="$verb-$SLURM_ARRAY_JOB_ID.out" "slurm/$verb.sh" "$@" --finish ||
    echo "$verb.sh: the job that finishes could not be submitted; when all tasks are done: fmriscale $verb --config $* --finish" >&2
}

case " $* " in
  *" --finish "*) unset "${!SLURM_ARRAY@}" ;;
  *) [ "${SLURM_ARRAY_TASK_ID:-none}" != "${SLURM_ARRAY_TASK_MIN:-}" ] || submit_finish "$@" ;;
esac
work=(--config "$2" --jobs "${SLURM_CPUS_PER_TASK:-1}" "${@:3}")
