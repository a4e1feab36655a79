"""Exhibits: what a store and a server's openings are worth, held against the log by whoever has the auditor's key.

Nothing is believed for where it lies. A manifest counts if its digest is in the log, and its sender's key was valid at the index
that counts; payloads count as far as that manifest's digests go; openings count if they open the log's commitments. So what
is wrong has one of two names:

- `FalseCommitError`: something that the log binds its signer to is not so. Nobody with access to the store alone can cause it.
- `MissingEvidenceError`: the bytes that the log names are not there. The store may have lost or changed them, so nothing is
  said about anybody; and nothing is said to be right.

A wrap that does not open although it is made out to the auditor is, in an update, the site's fault and not the server's, who
could not see it: it leaves the commit undecided. In a global model it is the server's own, and false.

Not handled here: who may count at all (`audit.verify`, obligations 8 to 12), and the arithmetic (`replay`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Protocol

from ...algorithms.errors import AlgorithmError
from ...audit.events import RunStart
from ...errors import ParametersError
from ...parameters import Schema
from ...trust import dsse
from ...trust.blob.manifest import BlobKind, Manifest, Place, read_manifest
from ...trust.blob.open import Opened, open_blob
from ...trust.charter.signing import SignedCharter
from ...trust.documents import Signed, parse_document
from ...trust.errors import (
    BlobError,
    CommitmentError,
    KeyFault,
    MalformedError,
    PartDigestError,
    RecipientError,
    SignatureError,
)
from ...trust.identifiers import sha256
from ...trust.keys.sealing import OpeningKey
from ...trust.keys.signing import VerifyingKey
from ...trust.keys.validity import KeyHistory
from ..errors import FalseCommitError, MissingEvidenceError, ReplayError, StoreError, StoreSetupError
from ..places import (
    global_manifest_key,
    global_payload_key,
    noise_manifest_key,
    noise_payload_key,
    openings_key,
    state_manifest_key,
    state_payload_key,
    update_payload_key,
)
from ..rule_state import Made, Row
from ..sealed_json import OPENINGS_LIMIT, Openings, open_openings
from ..stores.seam import RangedSource

__all__ = ["Exhibits", "ReadableStore", "UpdatePlace", "judged"]

_MANIFEST = 1 << 20


class ReadableStore(Protocol):
    """The end of a store that only reads."""

    def get(self, key: str, *, limit: int) -> bytes:
        """Return the object if it has at most ``limit`` bytes; see `ObjectStore.get`."""

    def open(self, key: str) -> RangedSource:
        """Return the object for reading by range, or raise `ObjectMissingError`."""


@dataclass(frozen=True, slots=True)
class UpdatePlace:
    """Where an update belongs, as the log has it; ``at`` is the index of its admitting leaf."""

    site: str
    ticket: str
    version: int
    parent: str
    manifest: str
    at: int


@contextlib.contextmanager
def judged(what: str) -> Iterator[None]:
    """Give what goes wrong with ``what`` one of the two names; a store that does not answer is told as it is.

    Raises:
        FalseCommitError, MissingEvidenceError: see above.
    """
    try:
        yield
    except ReplayError:
        raise
    except (StoreError, PartDigestError, SignatureError) as error:
        if isinstance(error, StoreSetupError) or (isinstance(error, StoreError) and error.retryable):
            raise
        raise MissingEvidenceError(error.what, where=what) from error
    except (BlobError, KeyFault, MalformedError, ParametersError, AlgorithmError) as error:
        raise FalseCommitError(error.what, where=what) from error


@dataclass(frozen=True)
class Exhibits:
    """What lies in the store of one run, for the holder of the auditor's key."""

    charter: SignedCharter
    history: KeyHistory
    store: ReadableStore
    key: OpeningKey = field(repr=False)
    start: RunStart

    def openings(self, version: int) -> Openings:
        """Return what the server sealed to the auditor about the commit that made ``version``; it proves nothing yet."""
        run, where = self.start.run, f"openings of version {version}"
        with judged(where):
            data = self.store.get(openings_key(run, version), limit=OPENINGS_LIMIT)
        try:
            return open_openings(data, self.key, federation=self.charter.charter.federation, run=run, version=version)
        except (
            RecipientError,
            MalformedError,
        ) as error:  # anybody can seal to the auditor: it says nothing of the server
            raise MissingEvidenceError(error.what, where=where) from error

    def schema(self, openings: Openings) -> Schema:
        """Return the run's schema from ``openings``, if it is the one that ``run.start`` names."""
        with contextlib.suppress(ParametersError):
            found = Schema.from_json(openings.layout)
            if found.digest == self.start.schema_digest:
                return found
        raise MissingEvidenceError("not the schema that run.start names", where="openings")

    def model(self, version: int, manifest: str, at: int, schema: Schema, stack: ExitStack) -> Opened:
        """Return the sealed model of ``version``, whose manifest has the logged digest ``manifest``; ``at`` is a leaf's index."""
        run, where = self.start.run, f"model of version {version}"
        with judged(where):
            raw = self.store.get(global_manifest_key(run, version), limit=_MANIFEST)
        server = self.charter.charter.server
        place = self._place(version, "global", schema, sender=server, ticket=None, parent=None)
        signed = self._manifest(raw, manifest, place, at, where)
        try:
            return self._open(signed, global_payload_key(run, version), schema, where, stack)
        except (RecipientError, CommitmentError) as error:
            raise FalseCommitError("the server's wrap for the auditor does not open it", where=where) from error

    def update(self, raw: str, place: UpdatePlace, schema: Schema, stack: ExitStack) -> Opened:
        """Return the sealed update at ``place``, whose manifest is ``raw`` if that has the logged digest."""
        where = f"update of {place.site}"
        expected = self._place(
            place.version, "update", schema, sender=place.site, ticket=place.ticket, parent=place.parent
        )
        signed = self._manifest(raw.encode(), place.manifest, expected, place.at, where)
        try:
            return self._open(signed, update_payload_key(self.start.run, place.ticket), schema, where, stack)
        except (RecipientError, CommitmentError) as error:
            what = f"{place.site} made out a wrap to the auditor that does not open its update"
            raise MissingEvidenceError(what, where=where, remedy="Its signed manifest proves it.") from error

    def state(
        self, member: int, plane: str, made: Made, at: int, schema: Schema, where: str, stack: ExitStack
    ) -> Opened:
        """Return the sealed row of ``plane`` of member number ``member``; ``at`` is the leaf whose commit made it."""
        run = self.start.run
        with judged(where):
            raw = self.store.get(state_manifest_key(run, made.version, member, plane), limit=_MANIFEST)
        server = self.charter.charter.server
        place = self._place(made.version, "state", schema, sender=server, ticket=made.ticket, parent=None)
        signed = self._manifest(raw, made.rows[plane].manifest, place, at, where)
        try:
            return self._open(signed, state_payload_key(run, made.version, member, plane), schema, where, stack)
        except (RecipientError, CommitmentError) as error:
            raise FalseCommitError("the server's wrap for the auditor does not open it", where=where) from error

    def noise(self, version: int, row: Row, at: int, schema: Schema, stack: ExitStack) -> Opened:
        """Return the sealed noise in ``version``; ``at`` is the leaf whose commit was made with it."""
        run, where = self.start.run, f"noise in version {version}"
        with judged(where):
            raw = self.store.get(noise_manifest_key(run, version), limit=_MANIFEST)
        server = self.charter.charter.server
        place = self._place(version, "state", schema, sender=server, ticket=None, parent=None)
        signed = self._manifest(raw, row.manifest, place, at, where)
        try:
            return self._open(signed, noise_payload_key(run, version), schema, where, stack)
        except (RecipientError, CommitmentError) as error:
            raise FalseCommitError("the server's wrap for the auditor does not open it", where=where) from error

    def _place(
        self,
        version: int,
        kind: BlobKind,
        schema: Schema,
        *,
        sender: str,
        ticket: str | None,
        parent: str | None,
    ) -> Place:
        charter = self.charter.charter
        return Place(
            suite=charter.suite,
            federation=charter.federation,
            charter=self.charter.digest,
            run=self.start.run,
            version=version,
            ticket=ticket,
            kind=kind,
            sender=sender,
            parent=parent,
            schema_digest=schema.digest,
        )

    def _manifest(self, raw: bytes, digest: str, place: Place, at: int, where: str) -> Signed[Manifest]:
        """Return the manifest that the log names; only its digest ties ``raw`` to anybody."""
        try:
            payload = dsse.read(raw).payload
        except MalformedError as error:
            raise MissingEvidenceError(error.what, where=where) from error
        if sha256(payload) != digest:
            raise MissingEvidenceError("not the manifest that the log names", where=where)
        with judged(where):
            # The envelope around the payload is not in the log: the key's name is taken from inside.
            name = parse_document(Manifest, payload).context.sender_key
            key = self.history.key(place.sender, "sign", name, at=at)
            if not isinstance(key, VerifyingKey):
                raise FalseCommitError("not signed with a signing key", where=where)
            return read_manifest(raw, place=place, sender=key, now=None)

    def _open(self, signed: Signed[Manifest], key: str, schema: Schema, where: str, stack: ExitStack) -> Opened:
        manifest = signed.document
        self._require_recipient(manifest, where)
        with judged(where):
            source = stack.enter_context(self.store.open(key))
        if source.length != manifest.length:
            raise MissingEvidenceError(f"{source.length} bytes lie where {manifest.length} are signed", where=where)
        try:
            return open_blob(signed, source, self.key, schema)
        except (RecipientError, CommitmentError):
            raise
        except BlobError as error:
            raise FalseCommitError(error.what, where=where) from error

    def _require_recipient(self, manifest: Manifest, where: str) -> None:
        recipients = manifest.context.recipients
        if self.key.public.key_id in recipients:
            return
        for name in recipients:
            held = self.history.tenures.get(name)
            if held is not None and held.identity == self.charter.charter.auditor:
                raise MissingEvidenceError(
                    f"sealed to the auditor's key {name[:16]}, not to {self.key.public.key_id[:16]}",
                    where=where,
                    remedy="Replay with the key folder of that time.",
                )
        raise FalseCommitError("not sealed to the auditor", where=where)
