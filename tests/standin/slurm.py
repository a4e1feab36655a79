"""Programs that behave towards Parsl as Slurm's do: `sbatch` runs the job's script on this machine, at once.

A job has none of the daemon's environment. `jobs/` keeps the scripts, `cancelled` the jobs that were given back.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["write_slurm"]

SBATCH = """#!/bin/sh
head=$(grep '^#SBATCH' "$1") || exit 1
case "$head" in *--partition=gpu*) ;; *) echo "sbatch: error: invalid partition specified" >&2; exit 1 ;; esac
number=$(ls {folder}/jobs | wc -l)
cp "$1" {folder}/jobs/$number
out=$(sed -n 's/^#SBATCH --output=//p' "$1"); err=$(sed -n 's/^#SBATCH --error=//p' "$1")
setsid /usr/bin/env -i PATH=/usr/bin:/bin HOME={home} LANG=C SLURM_JOB_ID=$number CUDA_VISIBLE_DEVICES=3 \\
  /bin/bash "$1" >"$out" 2>"$err" </dev/null &
echo $! > {folder}/pids/$number
echo "Submitted batch job $number"
"""

SQUEUE = """#!/bin/sh
for pid in {folder}/pids/*; do
  [ -e "$pid" ] && kill -0 "$(cat "$pid")" 2>/dev/null && echo "$(basename "$pid") R"
done
exit 0
"""

SCANCEL = """#!/bin/sh
for job in "$@"; do kill -- -"$(cat {folder}/pids/"$job")" 2>/dev/null; echo "$job" >> {folder}/cancelled; done
exit 0
"""

SACCT = "#!/bin/sh\nexit 1\n"


def write_slurm(folder: Path, home: Path = Path("/tmp")) -> Path:
    """Write the programs into ``folder/bin``, for anybody's use, and return it; jobs have the home ``home``."""
    for name in ("jobs", "pids"):
        (folder / name).mkdir(parents=True)
        (folder / name).chmod(0o777)
    folder.chmod(0o777)
    commands = folder / "bin"
    commands.mkdir()
    for name, text in (("sbatch", SBATCH), ("squeue", SQUEUE), ("scancel", SCANCEL), ("sacct", SACCT)):
        (commands / name).write_text(text.replace("{folder}", str(folder)).replace("{home}", str(home)))
        (commands / name).chmod(0o755)
    return commands
