"""Admissions: what the server decided about enrolments, as signed records in a private folder.

    <folder>/<enrolment digest>.admission.counterseal.json    (0600; the folder 0700)
    <folder>/lock                                              held by the one command that decides

A record is written once, whole, and never changed: the decision about an enrolment is made once. It holds the enrolment as
its author signed it (its key statement holds the token's hash, the token is nowhere), what the token showed, what the group
said, and the rules by which the server decided. It is not published: linked identities are nobody else's business. What the
log gets (`runtime.server.enrolments`) is a digest, the decision, and how the person had logged in.

A record makes no key valid. Keys come from the charter, which every member signs.

Records are believed under the server's key alone: one of another server, or with a byte changed, stops whoever reads it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from ...audit.events import Decision
from ...durable import Probe, create_file, make_folder, silent
from ...trust import dsse
from ...trust.documents import Document, Model, Signed, open_document, parse_document, sign
from ...trust.errors import SignatureError
from ...trust.identifiers import Identifier, Identity, Text, Time, sha256
from ...trust.keys.permissions import read_private_file
from ...trust.keys.signing import Signer, VerifyingKey
from ...trust.keys.statement import KeyStatement
from ...trust.messages import Enrolment
from ..errors import JournalError

__all__ = ["Admission", "Admissions", "LinkedIdentities", "Rules", "Shown", "identity_sets", "linked_identities"]

_SUFFIX = ".admission.counterseal.json"
_LIMIT = 1 << 20
_Seconds = Annotated[int, Field(ge=0, le=2**40)]


class Rules(Model):
    """What the server asked for when it decided."""

    max_session_age: _Seconds
    mfa: bool
    service_account: bool


class Shown(Model):
    """What the token showed: the last three are null for a service account, which logs in nowhere."""

    identity_set: Annotated[tuple[Identity, ...], Field(min_length=1, max_length=1_000)]
    client: Text
    authenticated: Identity | None
    mfa: bool | None
    session_age: _Seconds | None


class Admission(Document):
    """The server's decision about one enrolment: an admission if ``decision.allowed``, else a refusal."""

    KIND: ClassVar[str] = "admission"

    federation: Identifier
    server: Identity
    time: Time
    enrolment: str = Field(min_length=1, max_length=65_535)
    """The enrolment's envelope."""
    decision: Decision
    rules: Rules | None
    """Null where the group is a roster, and no token was asked for."""
    shown: Shown | None
    """Null where there was no token, or none that was good."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        claimed = self.claimed
        if (claimed.federation, claimed.identity) != (self.federation, self.decision.identity):
            raise ValueError("decision: about another than the enrolment")
        if self.shown is not None and claimed.identity not in self.shown.identity_set:
            raise ValueError("shown.identity_set: the enrolled identity is not in it")
        return self

    @property
    def claimed(self) -> Enrolment:
        """What the newcomer said; the server verified it before it signed this."""
        return parse_document(Enrolment, dsse.read(self.enrolment.encode()).payload)

    @property
    def enrolment_digest(self) -> str:
        """The digest of the enrolment, which names the record."""
        return sha256(dsse.read(self.enrolment.encode()).payload)

    @property
    def statement(self) -> Signed[KeyStatement]:
        """The key statement in the enrolment."""
        raw = self.claimed.statement.encode()
        envelope = dsse.read(raw)
        return Signed(parse_document(KeyStatement, envelope.payload), sha256(envelope.payload), envelope.key_id, raw)


class Admissions:
    """The folder of one server's records."""

    def __init__(self, folder: Path, key: VerifyingKey, *, probe: Probe = silent) -> None:
        """Read and write ``folder``; believe what ``key`` signed."""
        self._folder = folder
        self._key = key
        self._probe = probe

    def records(self) -> tuple[Signed[Admission], ...]:
        """Return every record, verified, the oldest first.

        Raises:
            CustodyError: others can read or write a record.
            MalformedError, SignatureError: not a record, or not one that this server signed under its name.
        """
        names = sorted(self._folder.glob(f"*{_SUFFIX}"))
        found = [self._read(name) for name in names if not name.name.startswith(".")]
        return tuple(sorted(found, key=lambda one: (one.document.time, one.digest)))

    def add(self, admission: Admission, signer: Signer) -> Signed[Admission]:
        """Sign a record and keep it.

        Raises:
            FileExistsError: this enrolment was decided before.
        """
        signed = sign(admission, signer)
        make_folder(self._folder, 0o700)
        path = self._folder / f"{admission.enrolment_digest}{_SUFFIX}"
        create_file(path, signed.raw, step="admission", probe=self._probe, mode=0o600)
        return signed

    @contextmanager
    def deciding(self) -> Iterator[None]:
        """Hold the folder, so that no token is used by two commands at once.

        Raises:
            JournalError: another command is deciding.
        """
        make_folder(self._folder, 0o700)
        descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise JournalError("another command is deciding about enrolments", where=str(self._folder)) from None
        finally:
            os.close(descriptor)

    def _read(self, path: Path) -> Signed[Admission]:
        signed = open_document(Admission, read_private_file(path, limit=_LIMIT), self._key, limit=_LIMIT)
        if path.name != f"{signed.document.enrolment_digest}{_SUFFIX}":
            raise SignatureError("a record of another enrolment than its name says", where=str(path))
        return signed


class LinkedIdentities:
    """Each admitted identity with those that Globus linked to it: the group may list any of them as its member.

    A callable, asked at every check of the group: records are read again only where new ones came. The newest admission
    of an identity counts.
    """

    def __init__(self, folder: Path, key: VerifyingKey) -> None:
        """Read ``folder`` when asked; believe what ``key``, the server's sign key, signed."""
        self._folder = folder
        self._key = key
        self._names: tuple[str, ...] = ()
        self._found: Mapping[str, frozenset[str]] = MappingProxyType({})

    def __call__(self) -> Mapping[str, frozenset[str]]:
        """Return identity -> all linked identities, itself among them.

        Raises:
            CustodyError, MalformedError, SignatureError: see `Admissions.records`.
        """
        names = tuple(sorted(path.name for path in self._folder.glob(f"*{_SUFFIX}")))
        if names != self._names:
            self._found, self._names = identity_sets(self._folder, self._key), names
        return self._found


def identity_sets(folder: Path, key: VerifyingKey) -> Mapping[str, frozenset[str]]:
    """Return each admitted identity with those that Globus linked to it; see `LinkedIdentities`.

    Raises:
        CustodyError, MalformedError, SignatureError: see `Admissions.records`.
    """
    return linked_identities(Admissions(folder, key).records())


def linked_identities(records: Iterable[Signed[Admission]]) -> Mapping[str, frozenset[str]]:
    """Return each admitted identity with those linked to it, from verified records, the oldest first."""
    found: dict[str, frozenset[str]] = {}
    for one in records:
        record = one.document
        if record.decision.allowed:
            linked = () if record.shown is None else record.shown.identity_set
            found[record.decision.identity] = frozenset({record.decision.identity, *linked})
    return MappingProxyType(found)
