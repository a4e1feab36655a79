"""Small values for one reader, through transport and store: metrics, a coefficient, and what the auditor needs for a replay.

Transport and store see ciphertext only (P3), so the openings of commitments that travel are sealed with HPKE to the run's key
(metrics), the site's key (coefficients) or the auditor's (all openings of a commit), under an ``info`` that names purpose,
federation and ticket, or run and version. Whoever reads the store learns neither value nor salt. Authorship is not said here: the
commitment in a signed leaf says it.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from ..trust.canonical import canonical, parse
from ..trust.documents import Model
from ..trust.errors import MalformedError
from ..trust.identifiers import Digest
from ..trust.keys.sealing import OpeningKey, SealingKey
from .delivery import Opening

__all__ = [
    "OPENINGS_LIMIT",
    "Counted",
    "Openings",
    "Purpose",
    "open_openings",
    "open_sealed",
    "seal_opening",
    "seal_openings",
]

Purpose: TypeAlias = Literal["metrics", "coefficient"]

OPENINGS_LIMIT = 64 << 20
"""Bytes of the largest sealed openings: a thousand inputs with the longest manifests."""

_ROUND = 4096


class Counted(Model):
    """One input of a commit, for the auditor: its manifest (an envelope, verbatim), and what its commitments hide."""

    ticket: Digest
    manifest: Annotated[str, Field(max_length=1 << 20)]
    coefficient: Opening
    statistics: Opening


class Openings(Model):
    """What the auditor needs to replay one commit, besides the log and the sealed blobs. All of it is checked by digest."""

    layout: dict[str, Any]
    """The schema whose digest `run.start` names (`Schema.to_json`)."""
    inputs: Annotated[tuple[Counted, ...], Field(min_length=1)]
    state: Opening | None = None
    """What opens `aggregate.commit.state`: the table of a rule that keeps state (`rule_state.RuleState`)."""


def seal_opening(opening: Opening, key: SealingKey, *, purpose: Purpose, federation: str, ticket: str) -> str:
    """Return ``opening`` sealed to ``key``, base64."""
    data = canonical(opening.model_dump(mode="json"))
    return base64.b64encode(key.wrap(data, _info(purpose, federation=federation, ticket=ticket))).decode()


def open_sealed(text: str, key: OpeningKey, *, purpose: Purpose, federation: str, ticket: str) -> Opening:
    """Return what `seal_opening` sealed for this place.

    Raises:
        MalformedError: not such a text.
        RecipientError: sealed for another key or another place.
    """
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise MalformedError("not base64", where=purpose) from None
    return Opening.from_json(
        parse(key.unwrap(data, _info(purpose, federation=federation, ticket=ticket)), what=purpose)
    )


def seal_openings(openings: Openings, key: SealingKey, *, federation: str, run: str, version: int) -> bytes:
    """Return ``openings`` of the commit that made ``version`` sealed to the auditor's ``key``.

    Padded with spaces to a multiple of 4096 bytes, so that the length says nothing about the digits of a norm.
    """
    data = canonical(openings.model_dump(mode="json"))
    return key.wrap(data.ljust(-(-len(data) // _ROUND) * _ROUND), _openings_info(federation, run, version))


def open_openings(data: bytes, key: OpeningKey, *, federation: str, run: str, version: int) -> Openings:
    """Return what `seal_openings` sealed for this version. Whoever knows the key's public half can have sealed it.

    Raises:
        MalformedError: not openings.
        RecipientError: sealed for another key or another place.
    """
    plain = key.unwrap(data, _openings_info(federation, run, version)).rstrip(b" ")
    return Openings.from_json(parse(plain, limit=OPENINGS_LIMIT, what="openings"))


def _openings_info(federation: str, run: str, version: int) -> bytes:
    return _info("openings", federation=federation, run=run, version=version)


def _info(purpose: str, **place: str | int) -> bytes:
    return canonical({"purpose": f"counterseal-{purpose}-v1", **place})
