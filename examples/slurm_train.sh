#!/bin/bash
# Trains on several machines under Slurm, and goes on by itself when the time is up or the job is preempted:
#
#     sbatch examples/slurm_train.sh --preset paper
#
# Data and the folder you submit from (which will hold runs/) have to be visible to all machines, at the same paths.
# `lvgan` has to be installed on all of them. The number of machines and GPUs may change from one time to the next:
# the total batch stays the same.

#SBATCH --job-name=lvgan
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=lvgan-%j.log
#SBATCH --signal=B:TERM@120

set -u
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# Slurm sends SIGTERM to this script two minutes before the end. All ranks then stop at the same step and rank 0
# writes a checkpoint; the job goes back to the queue, and the same command goes on from there.
stopped=0
stop() {
    stopped=1
    scancel --signal=TERM "$SLURM_JOB_ID.0"
}
trap stop TERM

srun torchrun \
    --nnodes="$SLURM_NNODES" \
    --nproc-per-node="${SLURM_GPUS_ON_NODE:-8}" \
    --rdzv-id="$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}" \
    --rdzv-backend=c10d \
    --rdzv-endpoint="$head:29500" \
    --no-python -- \
lvgan train-lr /shared/out "$@" &
step=$!

wait "$step"
code=$?
if [ "$stopped" = 1 ]; then
    wait "$step" # the trap has ended the first wait
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
exit "$code"
