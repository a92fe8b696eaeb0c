"""A study as an array job of Slurm."""

SCRIPT = """\
#!/bin/bash
# {count} runs of {name}. Task I runs run I of --dry-run, after the start that it needs. Submit again to resume.
#   sbatch {path}
# So that no task waits for its start, run the {starts} starts first:
#   sbatch --wait --array=0-{last_start} {path} && sbatch --array={starts}-{last} {path}
#SBATCH --job-name={name}
#SBATCH --array=0-{last}
#SBATCH --cpus-per-task={threads}
#SBATCH --output=slurm-%A_%a.log
# Runs save a checkpoint when the time is nearly over.
#SBATCH --signal=B:TERM@120
# Add what your cluster needs:
##SBATCH --partition=gpu
##SBATCH --gres=gpu:1
##SBATCH --time=24:00:00

exec {command} --index "$SLURM_ARRAY_TASK_ID"
"""


def array_script(name: str, path: str, count: int, starts: int, threads: int, command: str) -> str:
    """The text of a script for sbatch, of which ``starts`` of all ``count`` runs come first."""
    numbers = dict(last=count - 1, last_start=max(starts - 1, 0), starts=starts, threads=threads)
    return SCRIPT.format(name=name, path=path, count=count, command=command, **numbers)
