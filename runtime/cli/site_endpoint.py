"""`counterseal site endpoint`: writes the folder of a Globus Compute endpoint that does nothing but answer deliveries."""

from __future__ import annotations

import os
import pwd
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import JsonFlag, emit, fields, plain, typed_values

if TYPE_CHECKING:
    from ..config import SiteConfig
    from ..endpoint.kit import Kit

__all__ = ["endpoint", "require_suitable"]

_SCHEDULERS = {"slurm": ("sbatch", "squeue", "scancel", "sacct"), "pbs": ("qsub", "qstat", "qdel")}


def endpoint(
    config: Annotated[Path, typer.Option("--config", "-c", help="The site's YAML file.")],
    profile: Annotated[str, typer.Option(help="laptop, ec2, slurm, pbs or kubernetes.")],
    function: Annotated[str, typer.Option(help="UUID of the function (`counterseal server function`).")],
    out: Annotated[Path, typer.Option(help="The endpoint's folder; its last part is the endpoint's name.")],
    name: Annotated[str | None, typer.Option(help="The name that Globus shows.")] = None,
    server_identity: Annotated[str | None, typer.Option(help="The server's identity at Globus.")] = None,
    multi_user: Annotated[bool, typer.Option("--multi-user", help="A daemon of root that maps the server.")] = False,
    map_to: Annotated[str | None, typer.Option(help="The account that the server is mapped to.")] = None,
    email: Annotated[str | None, typer.Option(help="Contact for Globus; multi-user only.")] = None,
    work: Annotated[Path | None, typer.Option(help="Folder for the mapped account's processes.")] = None,
    run_as: Annotated[str | None, typer.Option(help="The account that owns keys, data and state.")] = None,
    user: Annotated[str | None, typer.Option(help="The account of the daemon; by default yours.")] = None,
    policy: Annotated[str | None, typer.Option("--authentication-policy", help="UUID of a Globus policy.")] = None,
    daemon: Annotated[Path | None, typer.Option(help="The program globus-compute-endpoint.")] = None,
    program: Annotated[Path | None, typer.Option(help="The program counterseal.")] = None,
    keep: Annotated[list[str] | None, typer.Option(help="Variable that the site's program gets too.")] = None,
    worker_init: Annotated[str, typer.Option(help="Your shell lines before a worker (module load ...).")] = "",
    partition: Annotated[str | None, typer.Option("--partition", "--queue", help="Slurm, PBS.")] = None,
    account: Annotated[str | None, typer.Option(help="Slurm, PBS.")] = None,
    qos: Annotated[str | None, typer.Option(help="Slurm.")] = None,
    constraint: Annotated[str | None, typer.Option(help="Slurm.")] = None,
    walltime: Annotated[str | None, typer.Option(help="Slurm, PBS: HH:MM:SS of one job.")] = None,
    scheduler_options: Annotated[str | None, typer.Option(help="Slurm, PBS: whole #SBATCH or #PBS lines.")] = None,
    interface: Annotated[str | None, typer.Option(help="Slurm, PBS: where nodes reach this machine.")] = None,
    idle_seconds: Annotated[int | None, typer.Option(help="Slurm, PBS: how long an idle job is kept.")] = None,
    exclusive: Annotated[bool, typer.Option("--exclusive", help="Slurm: whole nodes.")] = False,
    gpus: Annotated[int | None, typer.Option(help="Slurm, PBS, Kubernetes.")] = None,
    cores: Annotated[int | None, typer.Option(help="Slurm, PBS, Kubernetes.")] = None,
    memory: Annotated[int | None, typer.Option(help="Slurm, PBS, Kubernetes: gigabytes.")] = None,
    image: Annotated[str | None, typer.Option(help="Kubernetes.")] = None,
    claim: Annotated[str | None, typer.Option(help="Kubernetes: claim with configuration, keys, state.")] = None,
    mount: Annotated[Path | None, typer.Option(help="Kubernetes: where the claim is mounted.")] = None,
    namespace: Annotated[str | None, typer.Option(help="Kubernetes.")] = None,
    uid: Annotated[int | None, typer.Option(help="Kubernetes: the pod's user.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write a complete endpoint folder for the daemon globus-compute-endpoint 4.19, and say what comes next.

    The daemon then runs one function, which starts `deliver` in that folder, which runs `counterseal site answer`. No server
    can send an option, a command or a package. Run it again to change something; nothing else is overwritten.

    Example: counterseal site endpoint --config site.yaml --profile slurm --function UUID --out ~/.globus_compute/hospital
    --partition gpu --gpus 1 --run-as fedsite
    """
    from ..config import load_site
    from ..endpoint.folder import write_folder
    from ..endpoint.kit import Kit

    settings = load_site(config)
    require_suitable(settings, config)
    folder = _absolute(out)
    batch = {
        "partition": partition,
        "account": account,
        "qos": qos,
        "constraint": constraint,
        "walltime": walltime,
        "scheduler_options": scheduler_options and scheduler_options.replace("\\n", "\n"),
        "interface": interface,
        "idle_seconds": idle_seconds,
        "exclusive": exclusive or None,
    }
    pod = {"image": image, "claim": claim, "mount": mount and _absolute(mount), "namespace": namespace, "uid": uid}
    sizes = {"gpus": gpus, "cores": cores, "memory": memory}
    given = _given(profile, batch, pod, sizes)
    server = server_identity or _server(settings)
    users = {"user": map_to, "server": server, "email": email, "work": work and _absolute(work)}
    if not multi_user and (map_to or email or work):
        raise typer.BadParameter("--map-to, --email and --work belong to --multi-user", param_hint="--map-to")
    with typed_values():
        kit = Kit.model_validate(
            {
                "profile": profile,
                "name": name or Path(folder).name,
                "folder": folder,
                "config": _absolute(config),
                "function": function,
                "program": _program(program, "counterseal", beside=sys.executable),
                "daemon": _program(daemon, "globus-compute-endpoint"),
                "user": user or ("root" if multi_user else pwd.getpwuid(os.geteuid()).pw_name),
                "search": _search(profile),
                "run_as": run_as,
                "multi_user": _only(users) if multi_user else None,
                "authentication_policy": policy,
                "client": None if multi_user else server,
                "keep": tuple(keep or ()),
                "worker_init": worker_init.replace("\\n", "\n"),
                "test_cloud": settings.globus and settings.globus.insecure_test_cloud,
                **given,
            }
        )
    written = write_folder(kit)
    _hand_over(kit, written)
    _show(kit, written, as_json=as_json)


def _given(
    profile: str, batch: dict[str, Any], pod: dict[str, Any], sizes: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return the options of the profile, or say which option belongs to another one."""
    of = "batch" if profile in _SCHEDULERS else "pod" if profile == "kubernetes" else ""
    foreign = {**({} if of == "batch" else batch), **({} if of == "pod" else pod), **({} if of else sizes)}
    if extra := [one for one, value in foreign.items() if value is not None]:
        option = f"--{extra[0].replace('_', '-')}"
        raise typer.BadParameter(f"{option} does not belong to --profile {profile}", param_hint=option)
    return {of: _only({**(batch if of == "batch" else pod), **sizes})} if of else {}


def _only(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def require_suitable(settings: SiteConfig, config: Path) -> None:
    """Refuse what cannot work behind the launcher, before anything is written."""
    from ..errors import EndpointError

    if settings.globus is None:
        raise EndpointError("the site's configuration has no block globus", where=str(config))
    secrets = {"passphrase": settings.passphrase, "globus.client_secret": settings.globus.client_secret}
    for name, source in secrets.items():
        if source is not None and source.environment is not None:
            raise EndpointError(
                f"{name} is in an environment variable: the launcher passes none on, and whatever the server sends could read it",
                where=str(config),
                remedy="Put it into a file (0600) of the account that the site's program runs as.",
            )


def _server(settings: SiteConfig) -> str | None:
    return None if settings.globus is None else settings.globus.server_client


def _absolute(path: Path) -> str:
    return os.path.abspath(path.expanduser())  # noqa: PTH100  resolves `..` and keeps links: others see the same path


def _program(given: Path | None, name: str, beside: str = "") -> str:
    from .output import EnvironmentFault

    if given is not None:
        found: str | None = _absolute(given)
    else:
        near = Path(beside).with_name(name) if beside else None
        found = str(near) if near is not None and near.is_file() else shutil.which(name)
    if found is None:
        option = "--program" if beside else "--daemon"
        raise EnvironmentFault(
            f"{name} is not installed here",
            remedy=f"Install it in an environment of its own, and name it with {option}.",
        )
    return found


def _search(profile: str) -> tuple[str, ...]:
    """Return the folders of the scheduler's commands, as they are found from here."""
    found = (shutil.which(command) for command in _SCHEDULERS.get(profile, ()))
    folders = dict.fromkeys(str(Path(one).parent) for one in found if one)
    return tuple(one for one in folders if one not in {"/usr/local/bin", "/usr/bin", "/bin"})


def _hand_over(kit: Kit, written: tuple[Path, ...]) -> None:
    """Give what root wrote to the account of the daemon, which keeps its id and log there; a multi-user daemon is root's."""
    if os.geteuid() != 0 or kit.user == "root" or kit.pod is not None:
        return
    try:
        account = pwd.getpwnam(kit.user)
    except KeyError:
        typer.echo(f"there is no account {kit.user} yet: make it, and run this again", err=True)
        return
    for path in (Path(kit.folder), *written):
        os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)


def _show(kit: Kit, written: tuple[Path, ...], *, as_json: bool) -> None:
    from ..endpoint.readme import next_steps

    steps = next_steps(kit)
    if as_json:
        told = {"folder": kit.folder, "launcher": kit.launcher, "function": kit.function, "runs_as": kit.site_user}
        emit(
            {**told, "files": [str(path) for path in written], "next": [{"why": why, "run": run} for why, run in steps]}
        )
        return
    fields(
        {"folder": kit.folder, "function": kit.function, "server's code": kit.runner, "site's program": kit.site_user}
    )
    if kit.site_user == kit.runner:
        typer.echo(
            "NOT COVERED: what the server sends runs as the account that owns the site's keys; --run-as closes this"
        )
    for number, (why, command) in enumerate(steps, 1):
        typer.echo(f"{number}. {plain(why)}\n     {plain(command)}")
