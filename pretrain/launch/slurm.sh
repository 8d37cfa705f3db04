#!/bin/bash
# Train on several machines under Slurm, and go on after preemption or the time limit, until all steps are done.
#
#   sbatch --nodes 4 --gpus-per-node 8 --ntasks-per-node 8 pretrain/launch/slurm.sh ddp \
#       masked.mert_330m --data /data/shards --run /data/runs/mert_330m
#
# The first word is a configuration of pretrain/launch (ddp, fsdp2, zero1, zero2, zero3, …), the rest goes to
# `groundbass pretrain`. One task is one rank: as many per node as it has GPUs (on CPUs: ACCELERATE_USE_CPU=true).
# Five minutes before the end Slurm sends SIGTERM to every rank. The step in progress is finished, a checkpoint written,
# and the ranks end with 75, which puts the job into the queue again; the same run folder goes on. So do 75 of ranks that
# lost another one, and 134, 137 or 143 of one that was aborted (by NCCL's watchdog), killed (memory?) or terminated
# before its first step, at most MOST_RESTARTS times. Any other code is a fault, whose sentence stands in the log: the job
# ends.
#SBATCH --job-name=groundbass
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -uo pipefail

strategy=$1
shift
variables=$(python -m groundbass.pretrain.launch "$strategy") || exit 2
eval "$variables"

export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

echo "groundbass: start $((${SLURM_RESTART_COUNT:-0} + 1)), on $SLURM_NTASKS ranks of $SLURM_NNODES nodes, $strategy"
# --kill-on-bad-exit=0: a lost rank is noticed by the others, which say so and end with 75
srun --kill-on-bad-exit=0 bash -c '
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
    export LOCAL_WORLD_SIZE=$((SLURM_NTASKS / SLURM_NNODES))
    exec python -m groundbass.pretrain "$@"' rank "$@"
code=$?

case "$code" in
75 | 134 | 137 | 143)
    if [ "${SLURM_RESTART_COUNT:-0}" -lt "${MOST_RESTARTS:-20}" ]; then
        echo "groundbass: not done yet (code $code); job $SLURM_JOB_ID goes into the queue again"
        scontrol requeue "$SLURM_JOB_ID"
    fi
    ;;
esac
exit "$code"
