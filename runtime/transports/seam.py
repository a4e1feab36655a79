"""How deliveries reach sites: the seam.

A transport promises little, on purpose: a delivery may be lost, repeated or answered late, and the server copes, because the work
is named by its ticket. Deadlines belong to the server. Only small JSON passes; every tensor goes through the store.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["Arrival", "Transport"]


@dataclass(frozen=True, slots=True)
class Arrival:
    """What came back from a site: the answer's bytes, or the code of a failure on the way."""

    site: str
    ticket: str
    answer: bytes | None
    failure: str | None = None


class Transport(Protocol):
    """Carries deliveries out and answers back."""

    def dispatch(self, site: str, ticket: str, delivery: bytes) -> None:
        """Send ``delivery``; returns at once. ``ticket`` is the digest under which the answer will arrive."""

    def poll(self, timeout: float) -> list[Arrival]:
        """Return what has arrived, waiting at most ``timeout`` seconds for the first."""

    def recover(self, tickets: dict[str, str]) -> set[str]:
        """After a restart: return those of ``tickets`` (digest -> site) whose answers may still come by themselves.

        For people only: the server dispatches all of them again, since a transport needs a delivery at hand to repeat it, and
        one that has sent it already knows not to send it at once.
        """

    def close(self) -> None:
        """Let go of every process and thread."""
