#!/usr/bin/env bash
# Evaluates under Slurm: tools/slurm_test.sh PARTITION JOB CONFIG CHECKPOINT [options of tools/test.py]
# Read from the environment: GPUS (4), GPUS_PER_NODE (as many, at most 8), CPUS_PER_TASK (5), SRUN_ARGS.
set -euo pipefail
GPUS=${GPUS:-4}
GPUS_PER_NODE=${GPUS_PER_NODE:-$((GPUS < 8 ? GPUS : 8))}
# shellcheck disable=SC2086  # SRUN_ARGS holds several words
srun --partition="$1" --job-name="$2" --gres="gpu:$GPUS_PER_NODE" --ntasks="$GPUS" \
    --ntasks-per-node="$GPUS_PER_NODE" --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    python -u "$(dirname "$0")/test.py" "$3" "$4" --launcher slurm "${@:5}"
