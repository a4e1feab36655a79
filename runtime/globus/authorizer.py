"""`GlobusAuthorizer`: who is in the federation's Globus group, for every check of a server and a site's check of its server.

One question (`groups.read_group`) serves all checks for at most 30 seconds, counted from when it was sent; so a removal
holds from the first check after that, and a round asks Globus once or twice and not once a member. A refusal is kept as
long as an admission. "No answer" is kept for two seconds only, or for as long as Globus asks us to wait, so that the end of
an outage is noticed while the round is still held.

| role | who has it |
|---|---|
| site | any active membership |
| server | an active membership with the role manager or admin |
| auditor | an active membership in the subgroup that the configuration names |

Guarantees: those of `trust.group.Authorizer`: only ``active`` admits, no error escapes, and whatever is not an answer about
the member is an outage. Every decision says which group was asked, and whether the answer was kept from before; its time is
that of the question.

Not handled: whether the identity that logged in is the party's (enrolment), and whether Globus itself is honest.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast, get_args

from ...errors import CountersealError
from ...trust.errors import CustodyError
from ...trust.group import Decision, Reason, Role, Status, weigh
from ..config.globus import GlobusConfig
from ..errors import GlobusRefusedError, GlobusUnavailableError, LoginNeededError
from .credentials import Credentials
from .groups import Group, Membership, read_group

if TYPE_CHECKING:
    from globus_sdk import GroupsClient

__all__ = ["KEPT_SECONDS", "GlobusAuthorizer", "open_authorizer"]

KEPT_SECONDS = 30.0
"""How long an answer serves."""
FAILURE_SECONDS = 2.0
"""How long the lack of one does."""

IdentitySets = Callable[[], Mapping[str, frozenset[str]]]

_log = logging.getLogger(__name__)
_STATUSES: frozenset[str] = frozenset(get_args(Status))
_LEADERS = frozenset({"manager", "admin"})


@dataclass(frozen=True, slots=True)
class _Answer:
    """What one question brought: a group with its members, or the reason why there is none."""

    members: Mapping[str, tuple[Membership, ...]] | None
    reason: Reason
    time: int
    until: float


class GlobusAuthorizer:
    """Decides from the memberships of one Globus group; safe to share between threads, which then ask one by one."""

    def __init__(
        self,
        client: Callable[[], GroupsClient],
        group_id: str,
        clock: Callable[[], int],
        *,
        auditors: str | None = None,
        identity_sets: IdentitySets = dict,
        forget: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
        source: str = "globus group",
    ) -> None:
        """Ask nothing yet.

        ``client`` is called before every question, and after a login that was not taken ``forget``, so that a new login is
        found without a restart. ``identity_sets`` gives the identities linked to each identity of the charter, as they were
        when it enrolled.
        """
        self._client = client
        self._group = group_id
        self._auditors = auditors
        self._clock = clock
        self._identity_sets = identity_sets
        self._forget = forget
        self._monotonic = monotonic
        self._source = source
        self._lock = threading.Lock()
        self._answers: dict[str, _Answer] = {}

    def check(self, identities: frozenset[str], role: Role) -> Decision:
        """Decide whether any of one party's ``identities``, or of those linked to them, is an active member in ``role``."""
        group = self._auditors if role == "auditor" and self._auditors is not None else self._group
        source = f"{self._source} {group}"
        try:
            with self._lock:
                answer, kept = self._answer(group)
                reason = self._reason(answer, self._all(identities), role)
        except Exception as error:  # noqa: BLE001  no error escapes `check`
            # Admissions that cannot be believed; or a mistake of ours, or of the SDK. It admits nobody and expels nobody.
            told = error if isinstance(error, CountersealError) else type(error).__name__
            _log.error("could not decide about a member of %s: %s", source, told)
            return Decision(False, "outage", source, self._clock())
        return Decision(reason == "active", reason, f"{source} (kept)" if kept else source, answer.time)

    def _all(self, identities: frozenset[str]) -> frozenset[str]:
        """Return ``identities`` and those linked to them, but for one that enrolled by itself: it counts for itself alone.

        Else a person with two sites could not be removed from one of them.
        """
        sets = self._identity_sets()
        linked = {one for identity in identities for one in sets.get(identity, ())} - sets.keys()
        return frozenset(one.lower() for one in identities | linked)

    def _reason(self, answer: _Answer, identities: frozenset[str], role: Role) -> Reason:
        if answer.members is None:
            return answer.reason
        found = [answer.members[identity] for identity in identities if identity in answer.members]
        reasons = [self._judge(one, role) for one in found]
        if "active" not in reasons and "outage" in reasons:
            return "outage"
        return weigh(reason for reason in reasons if reason != "outage")

    def _judge(self, rows: tuple[Membership, ...], role: Role) -> Reason:
        statuses = {one.status for one in rows}
        if "active" in statuses and len(statuses) > 1:
            return "outage"  # one row says active and another does not: neither is the answer
        if "active" not in statuses:
            return weigh(cast(Reason, one) if one in _STATUSES else "not_active" for one in statuses)
        if role == "server":
            return "active" if any(one.role in _LEADERS for one in rows) else "wrong_role"
        if role == "auditor":
            return "wrong_role" if self._auditors is None else "active"
        return "active"

    def _answer(self, group: str) -> tuple[_Answer, bool]:
        kept = self._answers.get(group)
        if kept is not None and self._monotonic() < kept.until:
            return kept, True
        asked, started = self._clock(), self._monotonic()
        members, reason, wait = self._ask(group)
        if members is None:
            # Counted from the end: a question that took long to fail is not put again at once.
            started = self._monotonic()
            if kept is None or kept.reason != reason:
                _log.warning("%s %s gives no answer: %s", self._source, group, reason)
        elif kept is not None and kept.members is None:
            _log.warning("%s %s answers again", self._source, group)
        self._answers[group] = _Answer(members, reason, asked, started + wait)
        return self._answers[group], False

    def _ask(self, group: str) -> tuple[Mapping[str, tuple[Membership, ...]] | None, Reason, float]:
        """Return the members, or the reason why there are none; and how long that is good for."""
        try:
            found: Group = read_group(self._client(), group)
        except GlobusUnavailableError as error:
            if error.retry_after is None:
                return None, "outage", FAILURE_SECONDS
            return None, "rate_limited", min(max(error.retry_after, FAILURE_SECONDS), KEPT_SECONDS)
        except (LoginNeededError, CustodyError) as error:
            _log.info("%s", error)
            self._forget()
            return None, "login_needed", FAILURE_SECONDS
        except GlobusRefusedError as error:
            reasons: dict[int, Reason] = {403: "forbidden", 404: "no_such_group"}
            return None, reasons.get(error.status, "outage"), FAILURE_SECONDS
        if found.members is None:
            return None, "not_visible", FAILURE_SECONDS
        return found.members, "active", KEPT_SECONDS


def open_authorizer(
    config: GlobusConfig, group_id: str, clock: Callable[[], int], *, admissions: IdentitySets = dict
) -> GlobusAuthorizer:
    """Return the authorizer of one party.

    ``admissions`` gives, at a server, the identities that were linked to each identity that it admitted
    (`founding.admissions.LinkedIdentities`).

    Raises:
        TestCloudError, GlobusSetupError, CustodyError: Globus cannot be used from here, or not with this secret.
        LoginNeededError: nobody has logged in.
    """
    credentials = Credentials.open(config)
    credentials.groups()  # a login that is not there is found here and now, not in the middle of a round
    source = "globus group" if config.insecure_test_cloud is None else "TEST CLOUD, no Globus group"
    return GlobusAuthorizer(
        credentials.groups,
        group_id,
        clock,
        auditors=config.auditors,
        identity_sets=admissions,
        forget=credentials.forget,
        source=source,
    )
