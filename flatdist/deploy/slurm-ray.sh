#!/bin/bash
# Checked with a stub of Slurm, never run on a real cluster: read it first. Made by `flatdist submit slurm --ray`.
#SBATCH --job-name=@NAME@
#SBATCH --nodes=@NODES@ --ntasks-per-node=1 --cpus-per-task=@CPUS@ @GPU_FLAG@
#SBATCH --time=@TIME@@DIRECTIVES@
@SETUP@# One Ray over all nodes of the allocation; the command runs on the first of them.
export RAY_USAGE_STATS_ENABLED=0 RAY_TMPDIR="${TMPDIR:-/tmp}"
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000))
srun --nodes=@NODES@ --ntasks=@NODES@ ray symmetric-run --address "$head:$port" --min-nodes @NODES@ \
    --num-cpus=@CPUS@ --num-gpus=@GPUS@ -- @COMMAND@
