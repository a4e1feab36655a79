"""Small values for one reader: metrics to the server, a coefficient to its site, through transport and store.

Transport and store see ciphertext only (P3), so the openings of commitments that travel in answers and deliveries are sealed with
HPKE to the run's key (metrics) or the site's key (coefficients), under an ``info`` that names purpose, federation and ticket.
Whoever reads the store learns neither value nor salt. Authorship is not said here: the commitment in a signed leaf says it.
"""

from __future__ import annotations

import base64
import binascii
from typing import Literal, TypeAlias

from ..trust.canonical import canonical, parse
from ..trust.errors import MalformedError
from ..trust.keys.sealing import OpeningKey, SealingKey
from .delivery import Opening

__all__ = ["Purpose", "open_sealed", "seal_opening"]

Purpose: TypeAlias = Literal["metrics", "coefficient"]


def seal_opening(opening: Opening, key: SealingKey, *, purpose: Purpose, federation: str, ticket: str) -> str:
    """Return ``opening`` sealed to ``key``, base64."""
    data = canonical(opening.model_dump(mode="json"))
    return base64.b64encode(key.wrap(data, _info(purpose, federation, ticket))).decode()


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
    return Opening.from_json(parse(key.unwrap(data, _info(purpose, federation, ticket)), what=purpose))


def _info(purpose: str, federation: str, ticket: str) -> bytes:
    return canonical({"federation": federation, "purpose": f"counterseal-{purpose}-v1", "ticket": ticket})
