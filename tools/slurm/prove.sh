#!/usr/bin/env bash
# Starts the testbed, shows that everything works that a test relies on, and stops it.
# SLOW=1 adds the real time limit (about 100 s). PY = a python with torch (default: the repository's .venv).
set -Eeuo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
trap 'echo "slurm_testbed: FAILED at prove.sh line $LINENO: $BASH_COMMAND" >&2' ERR
export SLT_ROOT=${SLT_ROOT:-/run/slt-prove}
PY=${PY:-$here/../../.venv/bin/python}
W=$(mktemp -dt slt-prove.XXXX)
chmod 755 "$W"
cd "$W"
trap '"$here/down.sh" >/dev/null 2>&1 || true' EXIT

now() { date +%s.%N; }
since() { awk "BEGIN{printf \"%.1f\", $(now)-$1}"; }
step() {
  [ -z "${started:-}" ] || echo "   [$(since "$started") s]"
  started=$(now)
  printf '\n== %s\n' "$*"
}
field() { scontrol show job "$1" | grep -oE "\b$2=[^ ]+" | head -1 | cut -d= -f2; }
until_() {
  local end=$((SECONDS + $1))
  shift
  while [ "$SECONDS" -le "$end" ]; do
    "$@" && return 0
    sleep 0.2
  done
  echo "timed out: $*" >&2
  return 1
}
finished() { [[ $(field "$1" JobState) =~ ^(COMPLETED|FAILED|TIMEOUT|CANCELLED|NODE_FAIL)$ ]]; }
has() { grep -q -- "$2" "$1" 2>/dev/null; }
state() { [ "$(field "$1" JobState)" = "$2" ]; }
mend() { "$here/up.sh" >/dev/null; }
all_started=$(now)

step "up"
"$here/up.sh"
export PATH=$SLT_ROOT/bin:$PATH
[ "$(sinfo -h -N -p gpu -t idle -o %N | wc -l)" = 3 ]

step "sbatch over 2 nodes, MASTER_ADDR"
cat >hello.sbatch <<'E'
#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=1 --gpus-per-node=8 --exclusive --mem=0 --time=5 --output=hello.out
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun bash -c 'echo "$(hostname) procid=$SLURM_PROCID master=$MASTER_ADDR=$(getent hosts $MASTER_ADDR | cut -d" " -f1) ip=$(hostname -I | xargs) CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES"'
E
J=$(sbatch --parsable hello.sbatch)
until_ 20 state "$J" COMPLETED
cat hello.out
has hello.out 'node01 procid=0 master=node01=10.77.0.1'
has hello.out 'node02 procid=1 master=node01=10.77.0.1 ip=10.77.0.2 CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6,7'

if [ -x "$PY" ]; then
  step "gloo all_reduce over 2 nodes"
  cat >ar.py <<'E'
import os, socket, torch, torch.distributed as dist
r, w = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"])
dist.init_process_group("gloo", init_method="env://", rank=r, world_size=w)
x = torch.full((4,), float(r + 1)); dist.all_reduce(x)
print(f"rank {r}/{w} on {socket.gethostname()} all_reduce={x.tolist()}", flush=True)
dist.destroy_process_group()
E
  cat >ar.sbatch <<E
#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=1 --time=5 --output=ar.out
export MASTER_ADDR=\$(scontrol show hostnames "\$SLURM_JOB_NODELIST" | head -n 1) MASTER_PORT=29500 OMP_NUM_THREADS=1
srun $PY ar.py
E
  J=$(sbatch --parsable ar.sbatch)
  until_ 90 state "$J" COMPLETED
  cat ar.out
  [ "$(grep -c 'all_reduce=\[3.0, 3.0, 3.0, 3.0\]' ar.out)" = 2 ]
fi

step "USR1 to the batch script, requeue, restart count 1"
cat >preempt.sbatch <<'E'
#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=1 --signal=B:USR1@30 --requeue --open-mode=append
start=$SECONDS
on_usr1() { trap '' TERM; echo "$HOSTNAME got USR1 after $((SECONDS - start)) s"; scontrol requeue "$SLURM_JOB_ID"; exit 0; }
trap on_usr1 USR1
echo "$HOSTNAME life ${SLURM_RESTART_COUNT:-0}"
[ "${SLURM_RESTART_COUNT:-0}" -ge 1 ] && exit 0
srun bash -c 'echo $SLURMD_NODENAME ready; while :; do sleep 1; done' &
while :; do wait $!; done
E
J=$(sbatch --parsable --time=10 --output=preempt.out preempt.sbatch)
until_ 20 has preempt.out 'node02 ready'
scancel --batch --signal=USR1 "$J"
until_ 40 state "$J" COMPLETED
cat preempt.out
has preempt.out 'got USR1'
has preempt.out 'life 1'
[ "$(field "$J" Restarts)" = 1 ]
if [ "${SLOW:-0}" = 1 ]; then
  step "the same by the real limit: --time=2 --signal=B:USR1@30"
  J=$(sbatch --parsable --time=2 --output=limit.out preempt.sbatch)
  until_ 150 state "$J" COMPLETED
  cat limit.out
  has limit.out 'got USR1'
  has limit.out 'life 1'
fi

step "a node loses power: requeued on the others"
cat >long.sbatch <<'E'
#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=1 --time=10 --open-mode=append --output=long-%j.out
echo "life ${SLURM_RESTART_COUNT:-0} on $SLURM_JOB_NODELIST"
[ "${SLURM_RESTART_COUNT:-0}" -ge 1 ] && exit 0
srun --kill-on-bad-exit=1 bash -c 'echo "$SLURMD_NODENAME ready"; exec sleep 300'; rc=$?
echo "srun rc=$rc"; exit $rc
E
J=$(sbatch --parsable --requeue long.sbatch)
until_ 20 has "long-$J.out" 'node02 ready'
slurm-node poweroff node02
until_ 60 state "$J" PENDING
until_ 40 state "$J" COMPLETED
cat "long-$J.out"
has "long-$J.out" 'life 1 on node\[01,03\]'
mend

step "slurmd alone dies, --no-requeue: NODE_FAIL"
J=$(sbatch --parsable --no-requeue long.sbatch)
until_ 20 has "long-$J.out" 'node02 ready'
slurm-node kill-slurmd node02
until_ 60 finished "$J"
state "$J" NODE_FAIL
mend

step "one task dies: the step ends, the job fails with srun's status"
J=$(sbatch --parsable --no-requeue long.sbatch)
until_ 20 has "long-$J.out" 'node02 ready'
slurm-node exec node02 sh -c 'for d in /proc/[0-9]*; do [ "$(tr "\0" " " <$d/cmdline)" = "sleep 300 " ] && kill -9 ${d#/proc/}; done; true'
until_ 20 finished "$J"
state "$J" FAILED

step "slurmctld stops and comes back: the job does not notice"
J=$(sbatch --parsable long.sbatch)
until_ 20 has "long-$J.out" 'node02 ready'
before=$(field "$J" StartTime)
kill -TERM "$(cut -d' ' -f1 "$SLT_ROOT/run/ctld.pid")" # TERM, so that it saves its state
sleep 2
mend
state "$J" RUNNING
[ "$before" = "$(field "$J" StartTime)" ]
scancel "$J"

step "array, afterok, and afterok of a failure"
A=$(sbatch --parsable --array=0-3 --output=array-%a.out --wrap 'sleep 1; date +%s.%N >array-$SLURM_ARRAY_TASK_ID.end')
D=$(sbatch --parsable --dependency=afterok:"$A" --output=after.out --wrap 'date +%s.%N')
F=$(sbatch --parsable --output=/dev/null --wrap 'exit 3')
N=$(sbatch --parsable --dependency=afterok:"$F" --kill-on-invalid-dep=yes --output=never.out --wrap 'echo never')
until_ 40 finished "$D"
until_ 20 finished "$N"
for i in 0 1 2 3; do awk "BEGIN{exit !($(cat after.out) > $(cat array-$i.end))}"; done
[ ! -e never.out ]
state "$N" CANCELLED

step "down, with a job and a blocked srun left behind"
sbatch --parsable --output=/dev/null --wrap 'sleep 600' >/dev/null
srun -N1 sleep 600 >/dev/null 2>&1 &
disown
sleep 2
"$here/down.sh" --purge
[ ! -e "$SLT_ROOT" ]
left=$(ps -eo pid,stat,args | grep -E "sleep 600|$SLT_ROOT/" | grep -v grep | awk '$2 !~ /^Z/' || true)
[ -z "$left" ] || { echo "LEFT: $left" && exit 1; }
echo "   [$(since "$started") s]"
printf '\nALL PASSED in %s s\n' "$(since "$all_started")"
rm -rf "$W"
