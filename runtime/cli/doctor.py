"""What a site needs before its first delivery, checked one by one without changing anything that lasts.

A check passes, fails with what to do, or cannot be judged here. Counts and shapes of the site's data are shown to the
person at this terminal only; nothing is sent or stored. The state folder's lock, sync and put-once behaviour are tried in a
scratch folder inside it, so a site that is at work is not disturbed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ...durable import create_file, replace_file
from ...errors import CountersealError
from .doctor_check import Check, Doubt, Fault
from .doctor_privacy import PrivacyChecks

if TYPE_CHECKING:
    from ...trust.charter.signing import SignedCharter
    from ...trust.keys.member import MemberKeys
    from ..config import SiteConfig

__all__ = ["Check", "examine", "judged"]

_BUILT = 1_767_225_600
"""2026-01-01: a clock before this is wrong."""

_SOON = 30 * 86_400
_MEMORY = frozenset({"tmpfs", "ramfs"})
_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "lustre", "fuse.sshfs", "9p"})


def examine(settings: SiteConfig, *, clock: Callable[[], float] = time.time) -> Iterator[Check]:
    """Yield every check, as it is made."""
    site = _Site(settings, int(clock()))
    for name, check in (
        ("keys", site.keys),
        ("charter", site.charter),
        ("clock", site.clock),
        ("roster: this site", site.listed),
        ("roster: the server", site.server_listed),
        ("store", site.store),
        ("state: folder", site.state),
        ("state: lock, sync, put-once", site.durable),
        ("loader", site.data),
        ("device", site.device),
        *PrivacyChecks(settings).each(),
    ):
        yield judged(name, check)


def judged(name: str, check: Callable[[], str]) -> Check:
    """Return what came of one check."""
    try:
        return Check(name, True, check())
    except Doubt as doubt:
        return Check(name, None, str(doubt))
    except CountersealError as error:
        place = f"{error.where}: " if error.where else ""
        return Check(name, False, f"{place}{error.what}", error.remedy)
    except OSError as error:
        return Check(name, False, f"{error.filename or ''}: {error.strerror or type(error).__name__}".lstrip(": "))


class _Site:
    """The checks, with what earlier ones found."""

    def __init__(self, settings: SiteConfig, now: int) -> None:
        self._settings = settings
        self._now = now
        self._keys: MemberKeys | None = None
        self._charter: SignedCharter | None = None

    def keys(self) -> str:
        """Load the keys."""
        from ...trust.keys.custody import load_folder

        settings = self._settings
        self._keys = load_folder(settings.keys, settings.passphrase.source().obtain())
        return f"{settings.keys} is private and opens ({self._keys.suite})"

    def charter(self) -> str:
        """Verify the charter, and that it names this site with these keys."""
        from ..founding.charter_folder import read_charter_folder

        settings = self._settings
        found = read_charter_folder(settings.charter, now=self._now)
        member = found.charter.member(settings.identity)
        if member is None or "site" not in member.roles:
            raise Fault(f"{settings.identity} is not a site of this charter", remedy="Correct `identity`.")
        self._charter = found
        if self._keys is None:
            raise Doubt("signed by all members; whether it names these keys cannot be said, as they do not open")
        if self._keys.key_ids != found.statements[settings.identity].document.key_ids:
            raise Fault(
                "the charter names other keys for this site", remedy="Use the folder that its statement was made from."
            )
        return f"signed by all {len(found.signers)} members; names these keys; digest {found.digest[:16]}..."

    def clock(self) -> str:
        """Compare the clock with what the charter shows of the time."""
        now = self._now
        if now < _BUILT:
            raise Fault("the clock is years behind", remedy="Set it, and keep it with NTP.")
        if self._charter is None:
            raise Doubt("not before this version was made; the charter says nothing, as it does not hold")
        signed = max(one.document.time for one in self._charter.signatures)
        if now + 300 < signed:
            raise Fault("the clock is before the charter's signatures", remedy="Set it, and keep it with NTP.")
        left = self._charter.statements[self._settings.identity].document.not_after - now
        if left < _SOON:
            raise Doubt(f"this site's key statement ends in {max(left, 0) // 86_400} days: rotate its keys soon")
        return f"after the charter's signatures; this site's key statement holds for {left // 86_400} more days"

    def listed(self) -> str:
        """Ask the roster about this site."""
        return self._ask(self._settings.identity, "site")

    def server_listed(self) -> str:
        """Ask the roster about the server."""
        if self._charter is None:
            raise Doubt("who the server is cannot be said, as the charter does not hold")
        return self._ask(self._charter.charter.server, "server")

    def _ask(self, identity: str, role: str) -> str:
        from typing import cast

        from ...trust.group import Role, RosterAuthorizer

        roster = self._settings.roster
        if roster is None:
            raise Fault("no roster is configured", remedy="Name the file with `roster:`.")
        group = None if self._charter is None else self._charter.charter.group.id
        decision = RosterAuthorizer(roster, lambda: self._now, group=group).check(
            frozenset({identity}), cast("Role", role)
        )
        if not decision.allowed:
            raise Fault(f"{identity}: {decision.reason}", where=str(roster), remedy="Ask the keeper of the roster.")
        return f"{identity} is active as {role} ({decision.source})"

    def store(self) -> str:
        """Try the store: a folder is written to, a service is looked up."""
        from ..config import DirectoryStoreConfig

        config = self._settings.store
        if isinstance(config, DirectoryStoreConfig):
            if not config.path.is_dir():
                raise Fault("no such folder", where=str(config.path), remedy="Create it, or mount the share.")
            with tempfile.NamedTemporaryFile(dir=config.path, prefix=".doctor-"):
                return f"{config.path} is a folder that can be written"
        url = config.endpoint_url or f"https://s3.{config.region or 'us-east-1'}.amazonaws.com"
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
        except OSError:
            raise Fault(
                f"{parts.hostname} does not resolve", remedy="Correct `endpoint_url`, or the resolver."
            ) from None
        try:
            socket.create_connection((parts.hostname or "", port), timeout=10).close()
        except OSError as error:
            raise Fault(
                f"{parts.hostname}:{port} does not answer ({error})", remedy="Allow it through the proxy."
            ) from None
        return f"{parts.hostname}:{port} resolves and answers; bucket {config.bucket} is reached with grants only"

    def state(self) -> str:
        """Look at the state folder and what lies under it."""
        folder = self._settings.state
        place = _existing(folder)
        if folder.exists() and stat.S_IMODE(folder.stat().st_mode) & 0o077:
            raise Fault("others may enter it", where=str(folder), remedy=f"chmod 700 {folder}")
        kind = _filesystem(place)
        if kind in _MEMORY:
            raise Fault(f"on {kind}, which a restart empties", where=str(folder), remedy="Move it to a disk.")
        if kind in _NETWORK:
            raise Fault(
                f"on {kind}, whose locks and syncs are not to be relied on",
                where=str(folder),
                remedy="Use a local disk.",
            )
        free = shutil.disk_usage(place).free
        used = "is there" if folder.exists() else "will be created"
        return f"{folder} {used}, on {kind or 'a file system of unknown kind'}, {free / 1e9:.1f} GB free"

    def durable(self) -> str:
        """Try what the journal and the spool rely on, in a scratch folder."""
        place = _existing(self._settings.state)
        with tempfile.TemporaryDirectory(dir=place, prefix=".doctor-") as name:
            scratch = Path(name)
            _try_lock(scratch / "lock")
            create_file(scratch / "once", b"1", step="doctor.once")
            try:
                create_file(scratch / "once", b"2", step="doctor.once")
            except FileExistsError:
                pass
            else:
                raise Fault("a name could be taken twice", where=str(place), remedy="Use a local disk.")
            replace_file(scratch / "once", b"3", step="doctor.replace")
            if (scratch / "once").read_bytes() != b"3":
                raise Fault("a file does not hold what was written", where=str(place), remedy="Use another disk.")
        return "a second lock is refused, a taken name stays, files sync"

    def data(self) -> str:
        """Load the data as a training would."""
        from ..training.plugins import load_data

        with redirect_stdout(sys.stderr):  # what a plug-in prints is none of our output
            data = load_data(self._settings.loader)
        shapes = [
            f"train x {list(data.train.x.shape)} {data.train.x.dtype}, y {list(data.train.y.shape)} {data.train.y.dtype}"
        ]
        if data.test is not None:
            shapes.append(f"test x {list(data.test.x.shape)}")
        return "; ".join(shapes) + " (shown here only)"

    def device(self) -> str:
        """Choose the device that training would."""
        try:
            from ..training.device import choose_device, describe_device
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise Doubt("torch is not installed: only the numpy-linear trainer runs here") from None
        return describe_device(choose_device(self._settings.device or "auto"))


def _try_lock(path: Path) -> None:
    first, second = (os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) for _ in range(2))
    try:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        raise Fault("locks do not exclude each other", where=str(path.parent), remedy="Use a local disk.")
    finally:
        os.close(first)
        os.close(second)


def _existing(folder: Path) -> Path:
    """Return ``folder``, or the nearest folder above it that exists."""
    folder = folder.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return folder


def _filesystem(folder: Path) -> str:
    """Return the kind of file system that ``folder`` is on, or nothing where the system does not say."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    best, kind = -1, ""
    for line in mounts.splitlines():
        words = line.split()
        if len(words) < 3:
            continue
        point = Path(words[1].replace("\\040", " "))
        if (folder == point or point in folder.parents) and len(point.parts) >= best:
            best, kind = len(point.parts), words[2]
    return kind
