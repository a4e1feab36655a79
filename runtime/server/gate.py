"""The gate: asks the group, three times in the life of an update, and writes each answer down.

No answer is not a refusal: the decision then says ``outage`` (`trust.group.UNANSWERED`), and the caller holds the round until
its deadline.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from ...audit.events import AccessDenied, Decision
from ...trust.group import Authorizer, Role
from .notary import Notary

__all__ = ["Gate", "Moment"]

Moment = Literal["ticket", "admission", "commit", "enrolment"]


class Gate:
    """Group membership, checked and logged."""

    def __init__(
        self, authorizer: Authorizer, notary: Notary, federation: str, server: str, clock: Callable[[], int]
    ) -> None:
        self._authorizer = authorizer
        self._notary = notary
        self._federation = federation
        self._server = server
        self._clock = clock

    def ask(self, identity: str, role: Role) -> Decision:
        """Return what the group says of ``identity`` now."""
        found = self._authorizer.check(frozenset({identity}), role)
        return Decision(
            identity=identity,
            role=role,
            allowed=found.allowed,
            reason=found.reason,
            source=found.source,
            time=found.time,
        )

    def deny(self, step: str, decision: Decision, run: str, at: Moment) -> None:
        """Log that somebody was refused."""
        self._notary.record(
            f"{step}/denied/{decision.identity}",
            lambda: AccessDenied(
                federation=self._federation,
                actor=self._server,
                time=self._clock(),
                run=run,
                at=at,
                decision=decision,
            ),
        )
