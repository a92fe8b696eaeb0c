#!/usr/bin/env bash
# Runs a study as an array job, one run a task; submit it again to resume. --dry-run says how many runs there are: for 9,
#   sbatch --array=0-8 tools/slurm_study.sh STUDY.yaml [other options of tools/study.py]
# Add what your cluster needs, for instance --partition=gpu --gres=gpu:1 --time=24:00:00.
#SBATCH --job-name=study
#SBATCH --output=slurm-%A_%a.log
#SBATCH --cpus-per-task=2
# Runs save a checkpoint when the time is nearly over.
#SBATCH --signal=B:TERM@120

exec python -u tools/study.py "$@" --threads "$SLURM_CPUS_PER_TASK" --index "$SLURM_ARRAY_TASK_ID"
