"""`README.txt` of an endpoint's folder: the next commands, in order, and what the administrator must know."""

from __future__ import annotations

from .kit import Kit
from .launcher import commands
from .pod import pod_name
from .quoting import shell

__all__ = ["next_steps", "readme"]


def next_steps(kit: Kit) -> tuple[tuple[str, str], ...]:
    """Return what remains to be done: why, and the command (or the file)."""
    parent, _, name = kit.folder.rpartition("/")
    steps = []
    if kit.run_as is not None:
        steps.append(
            (
                f"let {kit.runner} start two commands as {kit.run_as}, and nothing else (as root)",
                f"visudo -cf {kit.folder}/sudoers && install -m 0440 {kit.folder}/sudoers /etc/sudoers.d/counterseal",
            )
        )
    if kit.run_as is not None and kit.multi_user is not None:
        steps.append(
            (
                "let sudo work below a multi-user daemon (as root)",
                f"install -m 0644 {kit.folder}/pam /etc/pam.d/counterseal-endpoint",
            )
        )
    steps.append(_login(kit))
    steps.append(_start(kit, parent, name))
    doctor = f"counterseal site doctor --config {shell(kit.config)} --endpoint {kit.folder}"
    steps.append(("see that all is well", doctor))
    if kit.batch is not None:
        word = "srun -N1" if kit.profile == "slurm" else "COMMAND THAT RUNS ITS ARGUMENTS IN A JOB"
        steps.append(("see the state folder from a worker", f"{doctor} --through '{word}'"))
    steps.append(("enrol with the endpoint's id, which `start` prints", "counterseal site enrol --help"))
    return tuple(steps)


def _login(kit: Kit) -> tuple[str, str]:
    if kit.pod is not None:
        secret = (
            f"kubectl -n {kit.pod.namespace} create secret generic {pod_name(kit)}-login --from-env-file=endpoint.env"
        )
        return f"give the pod the login of the daemon ({_VARIABLES})", secret
    who = (
        "the site's own account" if kit.multi_user else "the server's service account (the server's operator gives it)"
    )
    return f"write the login of the daemon, {who} ({_VARIABLES})", f'(umask 077; "$EDITOR" {_login_file(kit)})'


_VARIABLES = "GLOBUS_COMPUTE_CLIENT_ID=... and GLOBUS_COMPUTE_CLIENT_SECRET=..., a line each"


def _login_file(kit: Kit) -> str:
    name = kit.folder.rpartition("/")[2]
    return f"/etc/counterseal/endpoint-{name}.env" if _has_unit(kit) else f"{kit.folder}.env"


def _has_unit(kit: Kit) -> bool:
    return kit.profile == "ec2" or kit.multi_user is not None


def _start(kit: Kit, parent: str, name: str) -> tuple[str, str]:
    if kit.pod is not None:
        return "start it", f"kubectl apply -f {kit.folder}/statefulset.json"
    if _has_unit(kit):
        service = f"counterseal-endpoint-{name}.service"
        install = f"install -m 0644 {kit.folder}/endpoint.service /etc/systemd/system/{service}"
        return "start it at every boot (as root)", f"{install} && systemctl enable --now {service}"
    variables = f"set -a; . {_login_file(kit)}; GLOBUS_COMPUTE_USER_DIR={parent}; PATH={kit.path}; set +a"
    return f"start it as {kit.user}, in a session of its own", f"({variables}; exec setsid {kit.daemon} start {name})"


def readme(kit: Kit) -> str:
    """Return the text."""
    answer = " ".join(commands(kit)[0])
    steps = "\n".join(f"{number}. {why}\n     {command}" for number, (why, command) in enumerate(next_steps(kit), 1))
    return f"""\
The endpoint of a Counterseal site, profile {kit.profile}. Written by `counterseal site endpoint`; do not edit: write it again.

What a call does: the daemon lets one function through, {kit.function}.
It starts {kit.launcher}, which runs
    {answer}
as {kit.site_user}.

{steps}

What the allow-list is not: it compares the function's id, and the code travels with each call. Whoever holds the server's login
at Globus, or Globus itself, can run other code under the same id, as the account {kit.runner}.
{_warning(kit)}docs/endpoint.md says which identity model this is, what each lets the server do, and what is NOT COVERED.
"""


def _warning(kit: Kit) -> str:
    if kit.run_as is not None:
        return f"That account reaches keys, data and state only through the two commands above, as {kit.run_as}.\n"
    return "That account also owns the site's keys, data and state: NOT COVERED. `--run-as` closes this.\n"
