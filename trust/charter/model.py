"""The charter: what the institutions of a federation agreed, as one frozen document.

A `Charter` that exists is consistent in itself: one server, unique names, a quorum that cannot be split (or the word
``unwitnessed``), numbers in range. Errors name the field. What it does **not** say: that its key statements hold
(`charter.members`), that its members signed it (`charter.signing`), that it is in force (`charter.amendment`).

Its identity is the SHA-256 of its canonical JSON; that is the digest which officers read to each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from ..documents import Document, Model
from ..group import Role
from ..identifiers import Digest, Identifier, Identity, Text
from ..keys.sealing import SealSuite
from ..keys.statement import LogOrigin
from . import rules
from .quorum import Quorum

__all__ = [
    "Aggregation",
    "Caveat",
    "Charter",
    "Group",
    "Limits",
    "Member",
    "QuorumTerms",
]

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Seconds = Annotated[int, Field(gt=0, le=10 * 366 * 86400)]
_Title = Annotated[Text, Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class Caveat:
    """Something that a charter does not protect and that every report must therefore say."""

    code: str
    field: str
    text: str

    def __str__(self) -> str:
        return f"{self.field}: {self.text}"


class Member(Model):
    """One party: who it is, what it does, what its word weighs, and its first keys."""

    identity: Identity
    name: _Title
    roles: tuple[Role, ...] = Field(min_length=1, max_length=3)
    weight: _Positive | None = None
    """Sites only: the charter weight, any positive scale; the aggregation normalises."""
    statement: str = Field(min_length=1, max_length=65_536)
    """The DSSE envelope of the key statement, verbatim."""


class Group(Model):
    """Where today's membership is asked."""

    id: _Title
    authorizer: Literal["globus", "roster"]


class QuorumTerms(Model):
    """k cosignatures make a checkpoint count, although f of the sites may lie; see `charter.quorum`."""

    k: int = Field(ge=1)
    f: int = Field(ge=1)
    external_witness: str | None = Field(default=None, max_length=300)
    """A C2SP cosignature vkey whose word is then required as well."""
    unwitnessed: bool = False
    """The federation knows that its quorum does not exclude a fork, and says so in every report."""


class Limits(Model):
    """Hard bounds on what a site may send."""

    update_bytes: int = Field(gt=0, le=1 << 43)
    norm_bound: _Positive
    """Declared bound of an update's L2 norm: above it an update is rejected."""
    ticket_seconds: _Seconds
    round_seconds: _Seconds


class Aggregation(Model):
    """What a run uses if it names nothing else."""

    rule: Identifier
    clip_norm: _Positive


class Charter(Document):
    """The agreement; ``version`` counts amendments and the first is 1."""

    KIND: ClassVar[str] = "charter"

    version: int = Field(ge=1, le=1_000_000)
    previous: Digest | None
    federation: Identifier
    title: _Title
    log_origin: LogOrigin
    """Also the key name in the log's checkpoints, hence no plus sign and no space."""
    group: Group
    suite: SealSuite
    members: tuple[Member, ...] = Field(min_length=1, max_length=500)
    server: Identity
    auditor: Identity | None = None
    quorum: QuorumTerms
    cosign_lag: int = Field(ge=1, le=10_000)
    commit_before_upload: bool
    max_staleness: int = Field(ge=0, le=10_000)
    limits: Limits
    aggregation: Aggregation
    server_validates_updates: bool = False
    dispute_window_seconds: _Seconds
    approved_code: tuple[Digest, ...] = Field(default=(), max_length=1000)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for fault in rules.faults(self):
            place = ".".join(str(part) for part in fault.place)
            raise PydanticCustomError(
                "charter", "{field}: {what}", {"field": place, "what": fault.what, "place": fault.place}
            )
        return self

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites' identities, ascending by their bytes: the order of every sum (docs/formats/arithmetic.md)."""
        return tuple(sorted(member.identity for member in self.members if "site" in member.roles))

    @property
    def cosigners(self) -> frozenset[str]:
        """The n parties whose cosignatures the quorum counts: the sites."""
        return frozenset(self.sites)

    @property
    def weights(self) -> dict[str, float]:
        """Charter weight of each site, not normalised."""
        return {member.identity: member.weight for member in self.members if member.weight is not None}

    @property
    def arithmetic(self) -> Quorum:
        """The quorum's k of n with f."""
        return Quorum(self.quorum.k, len(self.sites), self.quorum.f)

    def member(self, identity: str) -> Member | None:
        """Return the member called ``identity``, or nothing."""
        return next((member for member in self.members if member.identity == identity), None)

    def warnings(self) -> tuple[Caveat, ...]:
        """Return what this charter leaves unprotected, for officers before they sign and for every report."""
        return tuple(Caveat(*caveat) for caveat in rules.caveats(self))
