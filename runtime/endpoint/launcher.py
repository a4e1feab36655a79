"""The launcher `deliver`: the one program that the registered function starts, and what surrounds it when it changes users.

`env -i` gives the site's program nothing of the daemon's environment but the names in `KEPT`: the secret of the daemon's
login is in that environment, and so is whatever somebody exported before starting it. That is hygiene, not a wall: what the
server sends runs as the same user and could start anything itself. The wall is `run_as`: sudo lets the account that the server
reaches start two commands, letter for letter, as the account that owns keys, data and state. Those commands lie outside this
folder, which the daemon's account can write.

Why each name is kept:

- `HOME`, `TMPDIR`, `LANG`: where caches and scratch files go; on clusters `TMPDIR` is the job's own disk.
- `CUDA_VISIBLE_DEVICES`, `CUDA_DEVICE_ORDER`, `ROCR_VISIBLE_DEVICES`, `HIP_VISIBLE_DEVICES`, `NVIDIA_VISIBLE_DEVICES`: which
  of the machine's devices a scheduler gave to this job. Without them two jobs would train on one device.
- `OMP_NUM_THREADS`, `SLURM_CPUS_PER_TASK`: how many cores it gave.
- `SLURM_JOB_ID`, `PBS_JOBID`, `SLURM_TMPDIR`: where a loader finds the job's scratch disk. Nothing else of Slurm's is kept:
  most of it (`SLURM_CONF`, `SLURM_EXPORT_ENV`, ...) steers Slurm's own programs, which the site's program does not call.
- `HTTPS_PROXY`, `NO_PROXY` and their lower-case forms: how a compute node reaches the store. A proxy sees TLS.
"""

from __future__ import annotations

from .kit import Kit
from .quoting import shell

__all__ = ["KEPT", "commands", "launcher", "pam_service", "sudoers"]

KEPT = (
    "HOME",
    "TMPDIR",
    "LANG",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "ROCR_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "SLURM_CPUS_PER_TASK",
    "SLURM_JOB_ID",
    "SLURM_TMPDIR",
    "PBS_JOBID",
    "HTTPS_PROXY",
    "NO_PROXY",
    "https_proxy",
    "no_proxy",
)
"""The variables that reach the site's program, if the worker has them."""

_OF_THE_USER = frozenset({"HOME", "TMPDIR"})
"""Not carried to another user: sudo sets the first, and nobody writes scratch files where another account rules."""

PAM_SERVICE = "counterseal-endpoint"

_SCRIPT = """\
#!/bin/sh
# Written by `counterseal site endpoint`. `counterseal site doctor --endpoint` names every line that differs.
#   deliver          one delivery on standard input, one answer on standard output
#   deliver probe    what the doctor asks of a worker
case "$#:${{1-}}" in
  0:) set -- {answer} ;;
  1:probe) set -- {probe} ;;
  *) echo 'deliver: takes no argument, or the word probe' >&2; exit 64 ;;
esac
exec /usr/bin/env -i PATH={path} \\
{kept}  {through}"$@"
"""


def launcher(kit: Kit) -> str:
    """Return the script."""
    answer, probe = (" ".join(map(shell, command)) for command in commands(kit))
    kept = "".join(f'  ${{{name}+"{name}=${name}"}} \\\n' for name in _kept(kit))
    through = f"/usr/bin/sudo -n -H -u {shell(kit.run_as)} -- " if kit.run_as else ""
    path = shell(":".join((kit.program.rpartition("/")[0], "/usr/local/bin", "/usr/bin", "/bin")))
    return _SCRIPT.format(answer=answer, probe=probe, path=path, kept=kept, through=through)


def commands(kit: Kit) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the two commands of the site's program: answer a delivery, and be probed by the doctor."""
    return (
        (kit.program, "site", "answer", "--config", kit.config),
        (kit.program, "site", "probe", "--config", kit.config),
    )


def _kept(kit: Kit) -> tuple[str, ...]:
    usual = [name for name in KEPT if not (kit.run_as and name in _OF_THE_USER)]
    return (*usual, *(name for name in kit.keep if name not in usual))


def sudoers(kit: Kit) -> str:
    """Return the file for `/etc/sudoers.d` with which ``kit.runner`` may start the two commands and no other."""
    answer, probe = (" ".join(command) for command in commands(kit))
    kept = " ".join(_kept(kit))
    return f"""\
# Written by `counterseal site endpoint`: install with `visudo -cf sudoers && install -m 0440 sudoers /etc/sudoers.d/counterseal`.
# No wildcard, no shell. {kit.runner} must not be able to write {kit.program} or {kit.config}, nor a folder above them.
Cmnd_Alias COUNTERSEAL = {answer}, {probe}
Defaults!COUNTERSEAL env_reset, !setenv, env_keep = "{kept}", !requiretty, !use_pty, umask = 0077, umask_override
{kit.runner} ALL = ({kit.run_as}) NOPASSWD: COUNTERSEAL
"""


def pam_service() -> str:
    """Return the file for `/etc/pam.d` that a multi-user daemon needs if sudo is to work below it.

    Without PAM such a daemon sets `no_new_privs` before it starts anything, and then sudo gains nothing.
    """
    return """\
# Written by `counterseal site endpoint`: install as /etc/pam.d/counterseal-endpoint (root, 0644).
auth     required pam_permit.so
account  required pam_unix.so
session  required pam_permit.so
"""
