"""What a site needs before its first delivery, checked one by one without changing anything that lasts.

A check passes, fails with what to do, or cannot be judged here. Counts and shapes of the site's data are shown to the
person at this terminal only; nothing is sent or stored. The state folder's lock, sync and put-once behaviour are tried in a
scratch folder inside it, so a site that is at work is not disturbed.

One file a subject: keys, charter, clock, data and device here; `doctor_group`, `doctor_store`, `doctor_state`,
`doctor_privacy`, `doctor_endpoint`, and `doctor_worker` for what a worker of a cluster sees.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ...errors import CountersealError
from .doctor_check import Check, Doubt, Fault
from .doctor_device import described
from .doctor_endpoint import EndpointChecks
from .doctor_group import GroupChecks
from .doctor_privacy import PrivacyChecks
from .doctor_state import StateChecks
from .doctor_store import StoreChecks
from .doctor_worker import WorkerChecks

if TYPE_CHECKING:
    from ...trust.charter.signing import SignedCharter
    from ...trust.keys.member import MemberKeys
    from ..config import SiteConfig

__all__ = ["Check", "Place", "examine", "judged"]

_BUILT = 1_767_225_600
"""2026-01-01: a clock before this is wrong."""

_SOON = 30 * 86_400

_Named: TypeAlias = Iterator[tuple[str, Callable[[], str]]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the site lives besides its configuration: the file of it, its endpoint's folder, the way to a worker."""

    config: Path | None = None
    endpoint: Path | None = None
    through: tuple[str, ...] = ()


def examine(settings: SiteConfig, place: Place = Place(), *, clock: Callable[[], float] = time.time) -> Iterator[Check]:
    """Yield every check, as it is made; later ones know what earlier ones found."""
    site = _Site(settings, int(clock()))
    endpoint = EndpointChecks(settings, place.config, place.endpoint)
    for name, check in chain(
        site.first(),
        GroupChecks(settings, site.known_charter, lambda: int(clock())).each(),
        StoreChecks(settings.store, clock).each(),
        StateChecks(settings.state, through=bool(place.through)).each(),
        site.last(),
        PrivacyChecks(settings).each(),
        endpoint.each(),
        WorkerChecks(settings, place.config, endpoint.known_kit, place.through).each(),
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

    def first(self) -> _Named:
        """Yield what everything else rests on."""
        yield "keys", self.keys
        yield "charter", self.charter
        yield "clock", self.clock

    def last(self) -> _Named:
        """Yield what training needs."""
        yield "loader", self.data
        yield "device", self.device

    def known_charter(self) -> SignedCharter | None:
        """Return the charter, once it was checked and holds."""
        return self._charter

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
        return described(self._settings.device)
