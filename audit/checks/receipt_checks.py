"""Checks 13 and 14: what the sites said in their receipts, and who was still a member when it counted.

A receipt is a site's own word about the log it saw. If its checkpoint is not a prefix of this log, somebody was shown
another one: that is how a fork, or a dropped update, comes to light afterwards.
"""

from __future__ import annotations

from ...trust.errors import KeyFault
from ...trust.keys.signing import VerifyingKey
from ...trust.keys.validity import KeyHistory
from ..errors import NoteError
from ..events import Event, EvidenceEquivocation, ReceiptFile
from ..tlog.checkpoint import Checkpoint
from ..tlog.cosignature import require_cosignature, witness_key
from .evidence import Evidence, Logged
from .findings import Outcome, judge

__all__ = ["check_contradictions", "check_membership", "check_receipts"]


def check_membership(history: KeyHistory, admitted: list[tuple[int, str, str]], faults: list[str]) -> Outcome:
    """12. No update of a party that was removed, or whose key was revoked, counts: judged where it was admitted.

    Both end the key under which the site's receipt was signed (`trust.keys.validity`).
    """
    found = list(faults)
    for index, site, key_id in admitted:
        try:
            history.key(site, "sign", key_id, at=index)
        except KeyFault as error:
            found.append(f"leaf {index}: {site} counts by a receipt whose key is not valid there ({error.what})")
    return judge(found)


def check_receipts(evidence: Evidence, events: list[Logged[Event]], history: KeyHistory) -> Outcome:
    """13. Every receipt saw a prefix of this log, its cosignature holds, and each site's receipts are one chain."""
    faults: list[str] = []
    missing: list[str] = []
    seen: dict[str, dict[str, int]] = {}
    used: set[tuple[str, str | None]] = set()
    receipts = [(one, one.event) for one in events if isinstance(one.event, ReceiptFile)]
    for one, event in receipts:
        seen.setdefault(event.actor, {})[one.digest] = event.checkpoint.size
    for one, event in receipts:
        at, place = f"leaf {one.index}", event.checkpoint
        if place.size > one.index or evidence.tree.root(place.size).hex() != place.root:
            faults.append(f"{at}: {event.actor} saw {place.size} leaves that are not the first of this log")
        elif event.cosignature is not None and not _holds(evidence, one.index, event, history):
            faults.append(f"{at}: the cosignature of {event.actor} does not hold")
        before = None if event.previous is None else seen[event.actor].get(event.previous)
        if event.previous is not None and before is None:
            missing.append(
                f"{at}: the receipt of {event.actor} before this one is not in the log: dropped, or never sent"
            )
        elif before is not None and before > place.size:
            faults.append(f"{at}: {event.actor} saw fewer leaves than in its receipt before")
        if (event.actor, event.previous) in used:
            faults.append(f"{at}: two receipts of {event.actor} follow the same one")
        used.add((event.actor, event.previous))
    return judge(faults, missing)


def _holds(evidence: Evidence, index: int, event: ReceiptFile, history: KeyHistory) -> bool:
    place = event.checkpoint
    checkpoint = Checkpoint(evidence.trust.origin, place.size, bytes.fromhex(place.root))
    # The key may have been rotated between the checkpoint and the leaf that files the receipt.
    for at in (max(place.size - 1, 0), index):
        try:
            key = history.current(event.actor, "cosign", at=at)
            if isinstance(key, VerifyingKey):
                require_cosignature(event.cosignature or "", checkpoint, witness_key(event.actor, key))
                return True
        except (KeyFault, NoteError):
            continue
    return False


def check_contradictions(events: list[Logged[Event]]) -> Outcome:
    """14. Nobody filed evidence that somebody said two things in one place."""
    return judge(
        [
            f"leaf {one.index}: {one.event.actor} filed evidence against {one.event.identity} ({one.event.what})"
            for one in events
            if isinstance(one.event, EvidenceEquivocation)
        ]
    )
