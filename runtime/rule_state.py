"""What an aggregation rule remembers from version to version: which sealed blobs, whose, and with which penalty.

A rule with a cohort (ADMM) keeps one row of float32 a plane for every member of the charter. The rows are sealed blobs of the
server to itself and to the auditor; `RuleState` is the small table that names them by digest. `aggregate.commit` carries a salted
commitment to the table (its digests are of plaintexts, and would let anybody confirm a guess), which the auditor gets opened.

A rule with noise (DP-FedAvg) keeps nothing from version to version; `NoiseState` names the one row that was drawn for a version.

Not handled here: the rows themselves (`server.rounds.state`, `server.rounds.noise`), what they mean (`algorithms.consensus`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field, StringConstraints

from ..algorithms.rule import CohortRule
from ..trust.documents import Model
from ..trust.identifiers import Digest, Identity

__all__ = ["Made", "MemberState", "NoiseState", "Row", "RuleState", "float_bits", "float_value"]

Bits = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8}$")]


def float_bits(value: float | np.floating[Any]) -> str:
    """Return the big-endian bits of a float32 as eight hexadecimal digits.

    >>> float_bits(0.25)
    '3e800000'
    """
    return np.asarray(value, dtype=">f4").tobytes().hex()


def float_value(bits: str) -> float:
    """Return the float32 whose bits `float_bits` wrote.

    >>> float_value("3e800000")
    0.25
    """
    return float(np.frombuffer(bytes.fromhex(bits), dtype=">f4")[0])


class Row(Model):
    """One plane of one member: a sealed blob by its manifest, and the SHA-256 of what is in it."""

    manifest: Digest
    plaintext: Digest


class Made(Model):
    """When a member's rows were made: by the commit that made ``version``, from its update for ``ticket``."""

    version: Annotated[int, Field(ge=1, le=2**53 - 1)]
    ticket: Digest
    rows: dict[str, Row]
    """By plane."""


class MemberState(Model):
    """What is kept for one member; ``made`` is None as long as none of its updates was committed."""

    site: Identity
    rho: Bits
    """The penalty of the next round, as float32 bits."""
    made: Made | None


class RuleState(Model):
    """The state beside ``version`` of the model: every member, in site order."""

    version: Annotated[int, Field(ge=0, le=2**53 - 1)]
    members: tuple[MemberState, ...]

    @classmethod
    def first(cls, members: Sequence[str], rule: CohortRule) -> Self:
        """Return the state beside version 0: nobody took part."""
        rho = float_bits(rule.penalty)
        return cls(version=0, members=tuple(MemberState(site=site, rho=rho, made=None) for site in members))

    @property
    def rho(self) -> dict[str, float]:
        """The penalty of each member."""
        return {one.site: float_value(one.rho) for one in self.members}

    def after(self, made: Mapping[str, Made], rho: Sequence[float]) -> Self:
        """Return the state of the next version: new rows for the members in ``made``, and everybody's next penalty."""
        members = [
            MemberState(site=one.site, rho=float_bits(value), made=made.get(one.site, one.made))
            for one, value in zip(self.members, rho, strict=True)
        ]
        return type(self)(version=self.version + 1, members=tuple(members))

    def to_json(self) -> dict[str, Any]:
        """Return the JSON value that is committed to."""
        return self.model_dump(mode="json")


class NoiseState(Model):
    """The noise in ``version`` of the model: drawn once, for the try at it and the updates that are named."""

    version: Annotated[int, Field(ge=1, le=2**53 - 1)]
    attempt: Annotated[int, Field(ge=0, le=1000)]
    tickets: Annotated[tuple[Digest, ...], Field(min_length=1)]
    """Of the updates that are counted, in site order."""
    noise: Row

    def to_json(self) -> dict[str, Any]:
        """Return the JSON value that is committed to."""
        return self.model_dump(mode="json")
