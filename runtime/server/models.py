"""Versions of the global model, as sealed blobs.

A version is sealed once, to the run's key, the auditor and the sites that were members then; its manifest is journaled before
anything is uploaded, so a restart uploads the same bytes. The server reads its own model back through the run's key,
one segment at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

from ...parameters import encode
from ...trust.blob.manifest import Manifest, read_manifest
from ...trust.blob.open import Opened, open_blob
from ...trust.blob.seal import seal
from ...trust.documents import Signed
from ..places import global_manifest_key, global_payload_key
from ..training.seam import Array
from .office import Office, RunFile

__all__ = ["Models"]


class Models:
    """The versions of one run."""

    def __init__(self, office: Office, file: RunFile) -> None:
        self._office = office
        self._file = file
        self._run = file.start.run

    def seal_first(self, parameters: Mapping[str, Array], sites: Iterable[str]) -> None:
        """Seal version 0."""
        self.seal(0, lambda: encode(self._file.schema, parameters), tuple(sites))

    def seal(
        self,
        version: int,
        chunks: Callable[[], Iterable[memoryview]],
        sites: tuple[str, ...],
        also: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        """Seal ``version`` to ``sites`` unless that was done; ``chunks`` is called for the canonical plaintext.

        Once it is sealed, what ``also`` returns is journaled with it: both or neither.
        """
        office, key = self._office, f"{self._run}/model/{version}"
        spool = office.spool / f"{self._run}-{version:06d}.payload"
        if office.journal.get(key) is None:
            spool.unlink(missing_ok=True)  # an earlier life's: nobody has its root
            at = office.notary.log.size
            recipients = [self._file.key.public, *office.auditor_key()]
            recipients += [office.parties.seal_key(site, at=at) for site in sites]
            sealed = seal(
                chunks(),
                schema=self._file.schema,
                place=office.place(self._run, version, "global", self._file.schema.digest),
                recipients=recipients,
                signer=office.keys.signer,
                spool=spool,
                expires=office.clock() + office.parties.charter.dispute_window_seconds,
                probe=office.probe,
                digest=True,
            )
            manifest = sealed.manifest.raw.decode()
            record = {
                "manifest": manifest,
                "manifest_digest": sealed.manifest.digest,
                "model": sealed.plaintext_digest,
                "sites": list(sites),
            }
            office.journal.put_many({key: record, **also()})
        self._upload(version)

    def _upload(self, version: int) -> None:
        office, spool = self._office, self._office.spool / f"{self._run}-{version:06d}.payload"
        if not office.journal.get(f"{self._run}/uploaded/{version}"):
            office.store.put(global_payload_key(self._run, version), spool)
            office.store.put(global_manifest_key(self._run, version), self.record(version)["manifest"].encode())
            office.journal.put(f"{self._run}/uploaded/{version}", True)
        spool.unlink(missing_ok=True)  # also when an earlier life died before it came to this

    def record(self, version: int) -> dict[str, Any]:
        """Return manifest, manifest_digest, model digest and sites of ``version``."""
        found: dict[str, Any] = self._office.journal.get(f"{self._run}/model/{version}")
        return found

    def digest(self, version: int) -> str:
        """Return the digest of the plaintext of ``version``."""
        return str(self.record(version)["model"])

    def manifest_digest(self, version: int) -> str:
        """Return the digest of the manifest of ``version``."""
        return str(self.record(version)["manifest_digest"])

    def sites(self, version: int) -> tuple[str, ...]:
        """Return the sites to which ``version`` is sealed."""
        return tuple(self.record(version)["sites"])

    def open(self, version: int, stack: ExitStack) -> Opened:
        """Open ``version`` with the run's key; its source closes with ``stack``."""
        source = stack.enter_context(self._office.store.open(global_payload_key(self._run, version)))
        return open_blob(self.manifest(version), source, self._file.key, self._file.schema, workers=2)

    def manifest(self, version: int) -> Signed[Manifest]:
        """Return the manifest of ``version``, verified like anybody's."""
        office = self._office
        raw = str(self.record(version)["manifest"]).encode()
        return read_manifest(
            raw,
            place=office.place(self._run, version, "global", self._file.schema.digest),
            sender=office.keys.signer.public,
            now=None,
        )
