"""What a site does for a ticket once it believes it: fetch and open the model, train, seal; or evaluate; or keep the model.

The update is the difference of the trained and the given parameters over the floating tensors, in the dtype of the model; integer
buffers stay at home. It is sealed to the run's key and the auditor's, which come from `run.start` and the charter, never from the
ticket. The plaintext model and update live in memory only; what is on disk is ciphertext, except for a model that was
released to this site (`receive`), which is written where its people expect it.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from ...algorithms.statistics import Admission
from ...audit.events import RunStart, commitment, salt
from ...durable import Probe, replace_file, silent
from ...parameters import Schema, decode, encode
from ...trust.blob.manifest import Manifest, Place, read_manifest
from ...trust.blob.open import open_blob
from ...trust.blob.seal import seal
from ...trust.canonical import parse
from ...trust.documents import Signed
from ...trust.errors import PlaceError
from ...trust.identifiers import sha256
from ...trust.keys.member import MemberKeys
from ...trust.keys.sealing import SealingKey
from ...trust.tickets import Ticket
from ..config import RunConfig
from ..delivery import DELIVERY_LIMIT, Delivery, Opening
from ..errors import GrantError
from ..parties import Parties
from ..stores.seam import GrantClient, RangedSource
from ..training.seam import Array, Trainer
from .checks import Verified

__all__ = ["Done", "Workshop", "run_key"]

_MANIFEST = 1 << 20


@dataclass(frozen=True, slots=True)
class Done:
    """What the work left: nothing here is secret but ``metrics``' salt."""

    manifest: str | None = None
    norm: float | None = None
    metrics: Opening | None = None
    model: str | None = None


def run_key(run: RunStart) -> SealingKey:
    """Return the key to which the updates of ``run`` are sealed."""
    return SealingKey(run.suite, base64.b64decode(run.seal_key, validate=True))


class Workshop:
    """A site's hands: keys, store, trainer, spool."""

    def __init__(
        self,
        identity: str,
        parties: Parties,
        keys: MemberKeys,
        store: GrantClient,
        trainers: Callable[[RunConfig], Trainer],
        spool: Path,
        models: Path,
        clock: Callable[[], int],
        probe: Probe = silent,
    ) -> None:
        self._identity = identity
        self._parties = parties
        self._keys = keys
        self._store = store
        self._build = trainers
        self._spool = spool
        self._models = models
        self._clock = clock
        self._probe = probe
        self._trainers: dict[str, Trainer] = {}

    def spooled(self, ticket: str) -> Path:
        """Return where the sealed update for ``ticket`` lies."""
        return self._spool / f"{ticket}.payload"

    def do(self, verified: Verified, delivery: Delivery) -> Done:
        """Do what the ticket orders."""
        kind = verified.ticket.document.kind
        if kind == "witness":
            return Done()
        config = RunConfig.from_json(verified.run.config, what="run.start config")
        parameters, schema, digest = self._model(verified, delivery)
        if kind == "receive":
            self._keep(verified.ticket.document, parameters, schema)
            return Done(metrics=self._evaluate(config, verified, parameters), model=digest)
        if kind == "evaluate":
            return Done(metrics=self._evaluate(config, verified, parameters))
        return self._train(config, verified, parameters, schema)

    def _trainer(self, config: RunConfig, run: str) -> Trainer:
        if run not in self._trainers:
            self._trainers[run] = self._build(config)
        return self._trainers[run]

    def _model(self, verified: Verified, delivery: Delivery) -> tuple[dict[str, Array], Schema, str]:
        ticket, grants = verified.ticket.document, delivery.grants
        if grants.manifest is None or grants.payload is None:
            raise GrantError("the delivery has no grant for the model", where="delivery.grants")
        with self._store.open(grants.manifest) as source:
            raw = _whole(source, _MANIFEST)
        manifest = self._read_manifest(raw, verified)
        if manifest.digest != ticket.work.manifest:
            raise PlaceError("the stored manifest is not the one that the ticket names", where="manifest")
        schema = _schema(delivery, verified.run.schema_digest)
        with self._store.open(grants.payload) as source:
            data = open_blob(manifest, source, self._keys.opening, schema, workers=2).read()
        digest = sha256(data)
        if digest != ticket.parent:
            raise PlaceError("the sealed model is not the one that the log names", where="model")
        return decode(schema, data), schema, digest

    def _read_manifest(self, raw: bytes, verified: Verified) -> Signed[Manifest]:
        ticket, charter = verified.ticket.document, self._parties.charter
        return read_manifest(
            raw,
            place=Place(
                suite=charter.suite,
                federation=charter.federation,
                charter=self._parties.digest,
                run=ticket.run,
                version=ticket.version,
                ticket=None,
                kind="global",
                sender=charter.server,
                parent=None,
                schema_digest=verified.run.schema_digest,
            ),
            sender=self._parties.current_signing_key(charter.server, at=verified.witness.size),
            now=self._clock(),
        )

    def _train(self, config: RunConfig, verified: Verified, parameters: Mapping[str, Array], schema: Schema) -> Done:
        ticket = verified.ticket
        trainer = self._trainer(config, ticket.document.run)
        before = trainer.evaluate(parameters) if config.evaluation.sites else {}
        result = trainer.train(parameters, seed=config.seed, round_number=ticket.document.version)
        after = trainer.evaluate(result.parameters) if config.evaluation.sites else {}
        update, norm = difference(schema.floats(), result.parameters, parameters)
        sealed = self._seal(verified, schema.floats(), update)
        metrics = {
            "before": before,
            "after": after,
            "train": dict(result.metrics),
            "seconds": round(result.seconds, 3),
            "device": result.device,
        }
        return Done(manifest=sealed.raw.decode(), norm=norm, metrics=_opening(metrics))

    def _seal(self, verified: Verified, schema: Schema, update: Mapping[str, Array]) -> Signed[Manifest]:
        ticket, charter = verified.ticket, self._parties.charter
        recipients = [run_key(verified.run)]
        if charter.auditor is not None:
            recipients.append(self._parties.seal_key(charter.auditor, at=verified.witness.size))
        spool = self.spooled(ticket.digest)
        spool.unlink(missing_ok=True)  # an earlier life's: its root is forgotten, so nobody can open it
        sealed = seal(
            encode(schema, update),
            schema=schema,
            place=Place(
                suite=charter.suite,
                federation=charter.federation,
                charter=self._parties.digest,
                run=ticket.document.run,
                version=ticket.document.version,
                ticket=ticket.digest,
                kind="update",
                sender=self._identity,
                parent=ticket.document.parent,
                schema_digest=schema.digest,
            ),
            recipients=recipients,
            signer=self._keys.signer,
            spool=spool,
            expires=self._clock() + charter.dispute_window_seconds,
            probe=self._probe,
        )
        return sealed.manifest

    def _evaluate(self, config: RunConfig, verified: Verified, parameters: Mapping[str, Array]) -> Opening | None:
        if not config.evaluation.sites:
            return None
        trainer = self._trainer(config, verified.ticket.document.run)
        return _opening({"final": trainer.evaluate(parameters)})

    def _keep(self, ticket: Ticket, parameters: Mapping[str, Array], schema: Schema) -> None:
        data = b"".join(encode(schema, parameters))
        path = self._models / f"{ticket.run}.safetensors"
        replace_file(path, data, step="site.model", probe=self._probe, mode=0o600)


def difference(
    schema: Schema, after: Mapping[str, Array], before: Mapping[str, Array]
) -> tuple[dict[str, Array], float]:
    """Return the update over the floating tensors of ``schema``, in their dtypes, and its L2 norm as admission sees it."""
    update: dict[str, Array] = {}
    admission = Admission([spec.size for spec in schema.tensors])
    for spec in schema.tensors:
        step = subtract(spec.dtype, after[spec.name], before[spec.name])
        update[spec.name] = step
        admission.feed(as_float32(spec.dtype, step).reshape(-1))
    return update, admission.result().norm


def subtract(dtype: str, after: Array, before: Array) -> Array:
    """Return ``after`` - ``before`` rounded once to ``dtype``."""
    from ...algorithms.arithmetic import narrow

    exact = as_float32(dtype, after) - as_float32(dtype, before)
    if dtype == "F32":
        return exact
    out = np.empty(after.shape, dtype=after.dtype)
    narrow(exact.reshape(-1), dtype, out.reshape(-1))
    return out


def as_float32(dtype: str, array: Array) -> npt.NDArray[np.float32]:
    """Return stored floats as float32, exactly."""
    from ...algorithms.arithmetic import widen

    if dtype == "F32":
        return cast("npt.NDArray[np.float32]", array)
    out = np.empty(array.shape, dtype=np.float32)
    widen(array.reshape(-1), dtype, out.reshape(-1))
    return out


def _opening(value: dict[str, Any]) -> Opening:
    return Opening(value=value, salt=salt())


def metrics_commitment(opening: Opening | None) -> str | None:
    """Return the commitment that a receipt carries to its metrics."""
    return None if opening is None else commitment(opening.value, opening.salt)


def _schema(delivery: Delivery, digest: str) -> Schema:
    for text in delivery.objects:
        if sha256(text.encode()) == digest:
            return Schema.from_json(parse(text.encode(), limit=DELIVERY_LIMIT, what="schema"))
    raise PlaceError("the delivery lacks the schema that run.start names", where="delivery.objects")


def _whole(source: RangedSource, limit: int) -> bytes:
    if source.length > limit:
        raise GrantError(f"{source.length} bytes where at most {limit} are expected", where="manifest")
    data = bytearray(source.length)
    source.read_into(0, memoryview(data))
    return bytes(data)
