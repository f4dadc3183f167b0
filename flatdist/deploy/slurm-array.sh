#!/bin/bash
# Checked with a stub of Slurm, never run on a real cluster: read it first. Made by `flatdist submit slurm`.
#SBATCH --job-name=@NAME@
#SBATCH --array=1-@PARTS@
#SBATCH --ntasks=1 --cpus-per-task=@CPUS@ @GPU_FLAG@
#SBATCH --time=@TIME@@DIRECTIVES@
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
@SETUP@# One part of the sweep, without Ray; the parts share the store alone.
trap 'kill -TERM $!' TERM        # two minutes before the time is up: store what is finished, and leave
@COMMAND@ &
wait $!                          # $! is known as soon as the part runs, so that no signal is lost
status=$?
if [ "$status" -gt 128 ] && kill -0 $! 2>/dev/null; then   # the first wait ended with the signal
    wait $!
    status=$?
fi
if [ "$status" = 130 ]; then     # interrupted: queue up for the rest
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
fi
exit "$status"
