"""The endpoint: its folder line by line, its one function, its daemon, and who can write what runs.

The folder is written again in memory from the choices that it carries, and compared; so a template that takes what a server
sends is a difference, whoever put it there. What only Globus knows (the registered code, whether the daemon is heard) is
asked with the site's login, and left open where that login may not.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ...trust.canonical import parse
from ...trust.errors import MalformedError
from ...trust.strict_yaml import read_regular_file
from ..errors import GlobusRefusedError, LoginNeededError
from .doctor_check import Doubt, Fault

if TYPE_CHECKING:
    from ..config import SiteConfig
    from ..endpoint.kit import Kit
    from ..transports.compute.service import ComputeService

__all__ = ["EndpointChecks", "on_the_way"]

DAEMON = "4.19."
"""The version whose own code reads every profile in our tests."""

_LINKS = 40
T = TypeVar("T")
_AGAIN = "Write the folder again with `counterseal site endpoint`, and restart the daemon."


class EndpointChecks:
    """The checks, with the kit that the folder was written from."""

    def __init__(self, settings: SiteConfig, config: Path | None, folder: Path | None) -> None:
        self._settings = settings
        self._config = config
        self._folder = None if folder is None else Path(os.path.abspath(folder.expanduser()))  # noqa: PTH100
        self._kit: Kit | None = None

    def known_kit(self) -> Kit | None:
        """Return the kit, once the folder was read."""
        return self._kit

    def each(self) -> Iterator[tuple[str, Callable[[], str]]]:
        """Yield every check with its name."""
        if self._folder is None:
            if self._settings.globus is not None:
                yield "endpoint", self.unnamed
            return
        yield "endpoint: folder", self.folder
        yield "endpoint: accounts", self.accounts
        yield "endpoint: daemon", self.daemon
        yield "endpoint: function", self.function
        yield "endpoint: online", self.online

    def unnamed(self) -> str:
        """Say that nothing was looked at."""
        raise Doubt("not looked at: name its folder with --endpoint")

    def folder(self) -> str:
        """Compare the folder with what the kit writes."""
        from ..endpoint.folder import drift, read_kit

        folder = self._required()
        self._kit = kit = read_kit(folder)
        if found := drift(kit, folder):
            more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
            raise Fault("; ".join(map(str, found[:3])) + more, where=str(folder), remedy=_AGAIN)
        if self._config is not None and kit.config != os.path.abspath(self._config):  # noqa: PTH100
            raise Fault(f"it is the endpoint of {kit.config}", where=str(folder), remedy=_AGAIN)
        if kit.test_cloud is not None:
            raise Doubt("as the kit writes it, for a TEST CLOUD: nothing that it says is worth anything")
        return f"{folder} is as the kit writes it: profile {kit.profile}, function {kit.function}{_own_words(kit)}"

    def accounts(self) -> str:
        """See who runs what the server sends, and that it cannot write what the site runs."""
        kit = self._known()
        for path in (Path(kit.program), Path(kit.config)):
            _require_unwritable(path, kit)
        if kit.run_as is None:
            raise Doubt(
                f"what the server sends runs as {kit.runner}, which also owns keys, data and state: NOT COVERED (--run-as)"
            )
        _require_owner(self._settings.keys, kit.run_as)
        told = f"what the server sends runs as {kit.runner}; keys, data and state are {kit.run_as}'s"
        command = f"sudo -u {kit.runner} {kit.launcher} < /dev/null"
        return f"{told}. Try sudo yourself: `{command}` must print an answer"

    def daemon(self) -> str:
        """Look at the daemon's version, without running what the folder names: others may have written that."""
        kit = self._known()
        program = Path(kit.daemon)
        if not program.is_file():
            raise Fault(
                f"{program} is not there", remedy="Install globus-compute-endpoint 4.19 in an environment of its own."
            )
        found = program.parents[1].glob("lib/python3*/site-packages/globus_compute_endpoint-*.dist-info")
        versions = [one.name.split("-")[1].removesuffix(".dist-info") for one in found]
        if len(versions) != 1 or not versions[0].startswith(DAEMON):
            told = ", ".join(versions)[:40] or "not to be seen from its folder"
            raise Doubt(f"{program} is version {told}: only {DAEMON}x was tried with this template")
        return f"{program} is version {versions[0]}"

    def function(self) -> str:
        """Compare the one function's registered code with ours."""
        kit = self._known()
        ours = self._asked(lambda service: service.is_ours(kit.function), "which code the function has")
        if not ours:
            raise Fault(
                f"the code registered as {kit.function} is not this version's",
                remedy="Ask the server's operator for `counterseal server function --check`; do not start the daemon.",
            )
        return (
            f"{kit.function} is registered with this version's code, to the letter (what a call carries is not checked)"
        )

    def online(self) -> str:
        """Ask Globus whether it hears the daemon, and which functions it takes the endpoint to allow."""
        kit = self._known()
        try:
            data = read_regular_file(self._required() / "endpoint.json", limit=1 << 16, what="endpoint.json")
            number = str(parse(data, what="endpoint.json")["endpoint_id"])
        except (OSError, MalformedError, KeyError, TypeError):
            raise Doubt("the daemon was never started from this folder: README.txt has the command") from None
        online = self._asked(lambda service: service.online(number), "whether it is online")
        if not online:
            raise Fault(
                f"Globus does not hear {number}", remedy="Start the daemon (README.txt), and look at endpoint.log."
            )
        allowed = self._asked(lambda service: service.allowed(number), "which functions it allows")
        if allowed != frozenset({kit.function}):
            count = "any function" if allowed is None else f"{len(allowed)} functions"
            raise Fault(
                f"Globus takes {number} to allow {count}", remedy="Restart the daemon: it tells Globus when it starts."
            )
        return f"{number} is online, and allows the one function"

    def _asked(self, question: Callable[[ComputeService], T], what: str) -> T:
        """Return what Globus Compute answers to the site's login, which it need not answer."""
        if self._settings.globus is None:
            raise Doubt(f"{what} cannot be asked without the block globus")
        from ..transports.compute.service import ComputeService

        try:
            service = ComputeService(self._settings.globus)
            try:
                return question(service)
            finally:
                service.close()
        except (LoginNeededError, GlobusRefusedError) as error:
            raise Doubt(f"{what}, this site's login may not ask ({error.what})") from None

    def _required(self) -> Path:
        if self._folder is None:
            raise Doubt("not looked at: name its folder with --endpoint")
        return self._folder

    def _known(self) -> Kit:
        if self._kit is None:
            raise Doubt("cannot be said: the folder could not be read")
        return self._kit


def _own_words(kit: Kit) -> str:
    """Show what the administrator chose freely: whoever can write the folder can change it, and the record with it."""
    options = "" if kit.batch is None else kit.batch.scheduler_options
    shown = {"shell lines": kit.worker_init, "scheduler": options, "variables": " ".join(kit.keep)}
    told = [f"{name}: {' | '.join(value.split(chr(10))).strip(' |')}" for name, value in shown.items() if value]
    return f"; yours? {'; '.join(told)}" if told else "; nothing of the administrator's own"


def _require_unwritable(path: Path, kit: Kit) -> None:
    """Refuse a file that the account which the server reaches could replace, and where a wall is wanted, also its folders."""
    trusted = {0, *(_uid(kit.run_as) if kit.run_as else ())}
    for place in reversed(list(on_the_way(path))) if kit.run_as else (path.resolve(),):
        found = place.lstat()
        unwritten = stat.S_ISLNK(found.st_mode) or (stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX)
        if found.st_mode & (0o022 if kit.run_as else 0o002) and not unwritten:
            raise Fault("can be written by others", where=str(place), remedy=f"chmod go-w {place}")
        if kit.run_as and found.st_uid not in trusted:
            raise Fault(
                f"belongs to another account than root and {kit.run_as}: who owns it decides what runs",
                where=str(place),
                remedy=f"chown root {place}",
            )


def on_the_way(path: Path) -> Iterator[Path]:
    """Yield ``path`` and every folder and link on the way to what it leads to: whoever can change one of them changes it.

    Raises:
        Fault: links that lead to each other.
    """
    here, rest, links = Path("/"), list(reversed(path.parts[1:])), 0
    yield here
    while rest:
        found = here / rest.pop()
        if found.name == "..":
            here = here.parent
            continue
        yield found
        if not found.is_symlink():
            here = found
            continue
        links += 1
        if links > _LINKS:
            raise Fault("too many links", where=str(path))
        target = found.readlink()
        here = Path("/") if target.is_absolute() else here
        rest += reversed(target.parts[1:] if target.is_absolute() else target.parts)


def _require_owner(folder: Path, user: str) -> None:
    if folder.exists() and folder.stat().st_uid not in _uid(user):
        raise Fault(f"does not belong to {user}", where=str(folder), remedy=f"chown -R {user} {folder}")


def _uid(user: str) -> tuple[int, ...]:
    try:
        return (pwd.getpwnam(user).pw_uid,)
    except KeyError:
        raise Fault(f"there is no account {user} here", remedy=f"useradd --system --create-home {user}") from None
