"""`counterseal server function`: the one function that is registered with Globus Compute."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .doctor_check import Check
from .output import JsonFlag, check_row, emit, plain

if TYPE_CHECKING:
    from ..config.globus import ComputeTransportConfig
    from ..transports.compute.service import ComputeService

__all__ = ["function"]


def function(
    config: Annotated[
        Path,
        typer.Option("--config", "-c", help="The server's YAML file, or one with a block globus: and nothing else."),
    ],
    register: Annotated[bool, typer.Option("--register", help="Register the function and print its UUID.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Check the configured function and endpoints.")] = False,
    source: Annotated[bool, typer.Option("--source", help="Print what is registered, for those who allow it.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Register the function that hands deliveries to sites, check it and the endpoints, or show its source.

    Registering needs a login at Globus only; sites then list the UUID in `allowed_functions`, and the server in
    `transport.function`. Exit code 1 if a check failed.

    Example: counterseal server function --config server.yaml --register
    """
    if register + check + source != 1:
        raise typer.BadParameter("name exactly one of --register, --check, --source", param_hint="--register")
    if source:
        _source(as_json)
        return
    from ..config import load_globus
    from ..transports.compute.service import ComputeService

    service = ComputeService(load_globus(config))
    try:
        if register:
            _register(service, as_json)
        else:
            _check(service, config, as_json)
    finally:
        service.close()


def _source(as_json: bool) -> None:
    import inspect

    from ..transports.compute.function import deliver

    text = inspect.getsource(deliver)
    if as_json:
        emit({"source": text})
    else:
        typer.echo(text, nl=False)


def _register(service: ComputeService, as_json: bool) -> None:
    made = service.register()
    if as_json:
        emit({"function": made})
    else:
        typer.echo(made)


def _check(service: ComputeService, path: Path, as_json: bool) -> None:
    from ..config import load_server
    from ..config.globus import ComputeTransportConfig
    from ..errors import ConfigError

    settings = load_server(path).transport
    if not isinstance(settings, ComputeTransportConfig):
        raise ConfigError("this server's transport is not globus-compute", where=str(path))
    found = []
    for one in _checks(service, settings):
        found.append(one)
        if not as_json:
            check_row(one.ok, one.name, one.what)
            if one.mend and one.ok is False:
                typer.echo(f"      mend: {plain(one.mend)}")
    failed = any(one.ok is False for one in found)
    if as_json:
        emit({"ok": not failed, "checks": [asdict(one) for one in found]})
    if failed:
        raise typer.Exit(1)


def _checks(service: ComputeService, settings: ComputeTransportConfig) -> Iterator[Check]:
    from ..errors import GlobusRefusedError

    again = "Register it: counterseal server function --register"
    try:
        ours = service.is_ours(settings.function)
    except GlobusRefusedError as error:
        yield Check("function", False, error.what, again)
    else:
        what = (
            f"{settings.function} is this version's code"
            if ours
            else f"{settings.function} is other code than this version's"
        )
        yield Check("function", ours, what, "" if ours else again)
    for site, endpoint in sorted(settings.endpoints.items()):
        yield _endpoint(service, settings.function, site, endpoint)


def _endpoint(service: ComputeService, function: str, site: str, endpoint: str) -> Check:
    from ..errors import GlobusRefusedError

    name = f"endpoint of {site}"
    try:
        online = service.online(endpoint)
        allowed = service.allowed(endpoint)
    except GlobusRefusedError as error:
        return Check(
            name, False, error.what, "Ask the site for its endpoint's UUID, and whether it allows this server."
        )
    if allowed is not None and function not in allowed:
        return Check(name, False, "it does not allow this function", f"The site adds {function} to allowed_functions.")
    word = "online" if online else "offline: its deliveries wait"
    extra = "; it allows ANY function" if allowed is None else ""
    return Check(name, True if online else None, word + extra)
