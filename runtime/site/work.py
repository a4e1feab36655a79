"""What a site does for a ticket once it believes it: fetch and open the model, train, seal; or evaluate; or keep the model.

The update is the difference of the trained and the given parameters over the floating tensors, in the dtype of the model; integer
buffers stay at home. It is sealed to the run's key and the auditor's, which come from `run.start` and the charter, never from the
ticket. The plaintext model and update live in memory only; what is on disk is ciphertext, except for a model that was
released to this site (`receive`), which is written where its people expect it.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...algorithms.arithmetic import Float32, narrow, widen
from ...algorithms.statistics import Admission
from ...audit.events import RunStart, commitment, salt
from ...durable import Probe, replace_file, silent
from ...parameters import Schema, decode, encode
from ...privacy.errors import CoupledRecordsError, UnsupportedModelError
from ...trust.blob.manifest import Manifest, Place, read_manifest
from ...trust.blob.open import open_blob
from ...trust.blob.seal import seal
from ...trust.canonical import parse
from ...trust.documents import Signed
from ...trust.errors import MalformedError, PlaceError, TicketError
from ...trust.identifiers import sha256
from ...trust.keys.member import MemberKeys
from ...trust.keys.sealing import SealingKey
from ...trust.terms import PrivacyTerms
from ...trust.tickets import Ticket
from ..config import RunConfig
from ..delivery import DELIVERY_LIMIT, Delivery, Grants, Opening
from ..errors import GrantError, ObjectTooLargeError, TrainingFailedError
from ..parties import Parties
from ..places import answer_key, global_manifest_key, global_payload_key, update_payload_key
from ..stores.grants import Grant
from ..stores.seam import GrantClient, RangedSource
from ..training.seam import Array, Trainer
from .checks import Verified
from .memory import SiteMemory
from .releases import counted, released
from .steward import Leave

__all__ = ["Done", "Workshop", "require_grants", "run_key"]

_log = logging.getLogger(__name__)

_MANIFEST = 1 << 20
_BLOCK = 1 << 18


@dataclass(frozen=True, slots=True)
class Done:
    """What the work left: nothing here is secret but ``metrics``' salt."""

    manifest: str | None = None
    norm: float | None = None
    metrics: Opening | None = None
    model: str | None = None
    spending: dict[str, Any] | None = None
    """What the receipt says of policy and privacy (`audit.events.Spending`, as JSON)."""


def run_key(run: RunStart) -> SealingKey:
    """Return the key to which the updates of ``run`` are sealed."""
    try:
        return SealingKey(run.suite, base64.b64decode(run.seal_key, validate=True))
    except ValueError:
        raise MalformedError("the run's key is not base64 of a key of its suite", where="run.start seal_key") from None


def require_grants(ticket: Signed[Ticket], grants: Grants) -> None:
    """Return if every grant is for the object that this ticket speaks of.

    Grants are unsigned. Without this, whoever can change a delivery could make a site put its bytes in another object's place,
    which put-once would then keep for ever.

    Raises:
        GrantError: one is for another object.
    """
    order = ticket.document
    places = {
        "manifest": global_manifest_key(order.run, order.version),
        "payload": global_payload_key(order.run, order.version),
        "update": update_payload_key(order.run, ticket.digest),
        "answer": answer_key(order.run, ticket.digest),
    }
    for name, key in places.items():
        grant: Grant | None = getattr(grants, name)
        if grant is not None and grant.key != key:
            raise GrantError("a grant for another object than the ticket's", where=f"delivery.grants.{name}")


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
        memory: SiteMemory,
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
        self._memory = memory
        self._clock = clock
        self._probe = probe
        self._trainers: dict[str, Trainer] = {}

    def spooled(self, ticket: str) -> Path:
        """Return where the sealed update for ``ticket`` lies."""
        return self._spool / f"{ticket}.payload"

    def do(self, verified: Verified, delivery: Delivery, leave: Leave) -> Done:
        """Do what the ticket orders, and let out no more than ``leave`` says."""
        kind = verified.ticket.document.kind
        if kind == "witness":
            return Done()
        parameters, schema, digest = self._model(verified, delivery)
        if kind == "receive":
            self._keep(verified.ticket.document, parameters, schema)
            return Done(metrics=self._evaluate(verified, parameters, leave), model=digest, spending=leave.spending)
        if kind == "evaluate":
            return Done(metrics=self._evaluate(verified, parameters, leave), spending=leave.spending)
        if kind != "train":
            raise TicketError("a site's runtime does no work of this kind", where=kind)
        return self._train(verified, parameters, schema, leave)

    def trainer(self, config: RunConfig) -> Trainer:
        """Return this site's trainer of a run; its data are loaded at the first."""
        if config.name not in self._trainers:
            self._trainers[config.name] = self._build(config)
        return self._trainers[config.name]

    def require_means(self, verified: Verified, delivery: Delivery) -> None:
        """Return if the delivery brings what its work needs: before the ticket is accepted, so a garbled one costs nothing.

        Raises:
            GrantError: no leave to read the model.
            PlaceError: not the schema that run.start names.
        """
        if verified.ticket.document.kind == "witness":
            return
        if delivery.grants.manifest is None or delivery.grants.payload is None:
            raise GrantError("the delivery has no grant for the model", where="delivery.grants")
        _schema(delivery, verified.run.schema_digest)

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

    def dimensions(self, config: RunConfig, terms: PrivacyTerms) -> int:
        """Return how many numbers get noise under ``terms``: what ``dp-sgd`` trains, or all that an update carries."""
        trainer = self.trainer(config)
        if terms.mechanism == "dp-sgd":
            return trainer.dimensions
        return sum(spec.size for spec in Schema.of(trainer.initial_parameters(config.seed)).floats().tensors)

    def _train(self, verified: Verified, parameters: Mapping[str, Array], schema: Schema, leave: Leave) -> Done:
        with _one_code(leave):
            return self._trained(verified, parameters, schema, leave)

    def _trained(self, verified: Verified, parameters: Mapping[str, Array], schema: Schema, leave: Leave) -> Done:
        config, trainer = leave.config, self.trainer(leave.config)
        before = trainer.evaluate(parameters) if leave.metrics else {}
        local = self._memory.begin(verified.run, verified.ticket, schema, parameters)
        solver = {} if local is None else {"solver": local.solver}
        result = trainer.train(parameters, seed=config.seed, round_number=verified.ticket.document.version, **solver)
        floats = schema.floats()
        updates = floats if local is None else local.updates
        admission = Admission([spec.size for spec in updates.tensors])
        if local is None:
            private = released(leave.terms, floats, result.parameters, parameters)
            chunks = update_bytes(floats, private, parameters, admission)
        else:
            local.require_stepped(result.parameters)
            private = released(leave.terms, floats, result.parameters, parameters, local.centre)
            chunks = local.sent(update_bytes(floats, private, parameters, admission), admission)
        sealed = self._seal(verified, updates, chunks, leave.head)
        if local is not None:
            self._memory.keep(local)
        metrics: dict[str, Any] | None = None
        if leave.metrics:
            metrics = {
                "before": before,
                "after": trainer.evaluate(result.parameters),
                "train": dict(result.metrics),
                "seconds": round(result.seconds, 3),
                "device": result.device,
            }
        elif leave.counts is not None:
            metrics = {"counts": counted(trainer, private, leave.counts)}
        return Done(
            manifest=sealed.raw.decode(),
            norm=admission.result().norm,
            metrics=None if metrics is None else _opening(metrics),
            spending=leave.spending,
        )

    def _seal(
        self, verified: Verified, schema: Schema, update: Iterator[memoryview], head: str | None
    ) -> Signed[Manifest]:
        ticket, charter = verified.ticket, self._parties.charter
        recipients = [run_key(verified.run)]
        if charter.auditor is not None:
            recipients.append(self._parties.seal_key(charter.auditor, at=verified.witness.size))
        spool = self.spooled(ticket.digest)
        spool.unlink(missing_ok=True)  # an earlier life's: its root is forgotten, so nobody can open it
        sealed = seal(
            update,
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
            ledger_head=head,
            digest=False,
            probe=self._probe,
        )
        return sealed.manifest

    def _evaluate(self, verified: Verified, parameters: Mapping[str, Array], leave: Leave) -> Opening | None:
        if not leave.metrics:
            return None
        return _opening({"final": self.trainer(leave.config).evaluate(parameters)})

    def _keep(self, ticket: Ticket, parameters: Mapping[str, Array], schema: Schema) -> None:
        data = b"".join(encode(schema, parameters))
        path = self._models / f"{ticket.run}.safetensors"
        replace_file(path, data, step="site.model", probe=self._probe, mode=0o600)


@contextmanager
def _one_code(leave: Leave) -> Iterator[None]:
    """Under privacy terms, make one code of whatever fails after data was touched: which error it was may depend on them."""
    try:
        yield
    except Exception as error:
        if leave.terms is None:
            raise
        refused = isinstance(error, UnsupportedModelError | CoupledRecordsError)
        if refused and leave.terms.mechanism == "dp-sgd":
            raise  # our own trainer's, on made-up records: it says what to use instead, and nothing about the data
        _log.error("a private training failed: %s", type(error).__name__)  # a text or a trace could quote the data
        raise TrainingFailedError("the work failed after data was touched") from None


def update_bytes(
    schema: Schema, after: Mapping[str, Array], before: Mapping[str, Array], admission: Admission
) -> Iterator[memoryview]:
    """Yield the canonical bytes of ``after`` - ``before`` over the floating tensors of ``schema``, feeding ``admission``.

    Each difference is computed in float32 and rounded once to the tensor's dtype. One block exists at a time; a chunk is valid
    until the next.
    """
    yield memoryview(schema.header())
    old, new, exact = (np.empty(_BLOCK, np.float32) for _ in range(3))
    for spec in schema.tensors:
        one, two = after[spec.name].reshape(-1), before[spec.name].reshape(-1)
        for start in range(0, spec.size, _BLOCK):
            part = slice(start, min(start + _BLOCK, spec.size))
            count = part.stop - start
            step = np.subtract(
                _as_float32(spec.dtype, one[part], new), _as_float32(spec.dtype, two[part], old), out=exact[:count]
            )
            yield from _stored(spec.dtype, step, old[:count], admission)


def _stored(dtype: str, step: Float32, scratch: Float32, admission: Admission) -> Iterator[memoryview]:
    if dtype == "F32":
        admission.feed(step)
        yield step.view(np.uint8).data
        return
    out = np.empty(step.size, np.float16 if dtype == "F16" else np.uint16)
    narrow(step, dtype, out)
    widen(out, dtype, scratch)  # what is measured is what is sent
    admission.feed(scratch)
    yield out.view(np.uint8).data


def _as_float32(dtype: str, stored: Array, out: Float32) -> Float32:
    if dtype == "F32":
        return stored
    widen(stored, dtype, out[: stored.size])
    return out[: stored.size]


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
        raise ObjectTooLargeError(f"{source.length} bytes where at most {limit} are expected", where="manifest")
    data = bytearray(source.length)
    source.read_into(0, memoryview(data))
    return bytes(data)
