"""Receipts: an answer from a site becomes a leaf, or a reason why not.

An answer's only authority is the receipt inside it: signed by the site whose ticket it is, about that ticket, over a checkpoint
of this very log. Everything else in an answer (manifest, metrics) must match what the receipt commits to.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from ....audit.events import ReceiptFile, commitment, open_event
from ....audit.tlog.checkpoint import Checkpoint
from ....audit.tlog.cosignature import require_cosignature, witness_key
from ....trust.canonical import parse
from ....trust.documents import Signed
from ....trust.dsse import read
from ....trust.errors import MalformedError, SignatureError
from ....trust.identifiers import sha256
from ....trust.keys.signing import VerifyingKey
from ...delivery import ANSWER_BYTES, DELIVERY_LIMIT, Answer
from ...errors import ObjectMissingError, StoreError, StoreSetupError
from ...places import answer_key
from ...sealed_json import open_sealed
from ..office import Office, RunFile
from .tickets import Issued

__all__ = ["Filed", "file_receipt", "read_answer", "stored_answer"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Filed:
    """A receipt that is in the log, and what came with it."""

    receipt: ReceiptFile
    digest: str
    manifest: str | None
    metrics: dict[str, Any]
    etags: tuple[str, ...]
    uploaded: bool


def read_answer(data: bytes) -> Answer:
    """Return the answer in ``data``; the padding of the store's copy is white space.

    Raises:
        MalformedError: not an answer.
    """
    return Answer.from_json(parse(data.rstrip(b" "), limit=DELIVERY_LIMIT, what="answer"))


def stored_answer(office: Office, run: str, digest: str) -> bytes | None:
    """Return the answer to the ticket ``digest`` that lies in the store, or None where there is none that could be one.

    Whoever can write to the store can put anything there; what is not of an answer's length is as good as nothing.

    Raises:
        StoreUnavailableError: the store does not answer.
        StoreSetupError: it refuses this server.
    """
    try:
        return office.store.get(answer_key(run, digest), limit=ANSWER_BYTES)
    except ObjectMissingError:
        return None
    except StoreError as error:
        if error.retryable or isinstance(error, StoreSetupError):
            raise
        _log.warning("the stored answer to ticket %s does not count: %s", digest[:16], error)
        return None


def file_receipt(office: Office, file: RunFile, ticket: Issued, answer: Answer) -> Filed:
    """Verify the receipt in ``answer`` and log it, once.

    Raises:
        MalformedError, SignatureError, KeyFault: not a receipt of this site for this ticket, or of another log.
    """
    if answer.receipt is None:
        raise MalformedError("the answer holds no receipt", where="answer")
    raw = answer.receipt.encode()
    signed = _open(office, ticket, raw)
    receipt = signed.document
    run = file.start.run
    _require_about(receipt, run, ticket)
    _require_manifest(receipt, answer)
    metrics = _metrics(office, file, receipt, answer)
    outbox = _require_outbox(receipt, answer)
    line = _require_cosignature(office, receipt)
    # The leaf comes last: a restart that finds it in the log does not ask again, so all that follows from it must be done.
    size = receipt.checkpoint.size
    if line and size in office.notary.log.published_sizes:
        office.notary.log.add_cosignatures(size, [line])
    seen = office.journal.get(f"seen/{receipt.actor}") or 0
    settled = office.journal.get(f"{run}/settled/{receipt.actor}") or 0
    office.journal.put_many(
        {
            f"seen/{receipt.actor}": max(seen, size),
            f"{run}/settled/{receipt.actor}": max(settled, ticket.order.seq - 1),
        }
    )
    office.filing.carry(f"receipt/{ticket.digest}", raw, outbox)
    return Filed(receipt, signed.digest, answer.manifest, metrics, answer.etags, answer.uploaded)


def _open(office: Office, ticket: Issued, raw: bytes) -> Signed[ReceiptFile]:
    key = office.parties.signing_key(raw, ticket.order.site, at=office.notary.log.size)
    signed = open_event(raw, key)
    if not isinstance(signed.document, ReceiptFile):
        raise MalformedError("the answer holds another event than a receipt", where="answer")
    return Signed(signed.document, signed.digest, signed.key_id, signed.raw)


def _require_about(receipt: ReceiptFile, run: str, ticket: Issued) -> None:
    order = ticket.order
    expected = {
        "federation": order.federation,
        "actor": order.site,
        "run": run,
        "version": order.version,
        "ticket": ticket.digest,
        "seq": order.seq,
        "kind": order.kind,
    }
    for field, value in expected.items():
        if getattr(receipt, field) != value:
            raise SignatureError(f"the receipt is about another {field}", where=f"receipt of {order.site}")


def _require_manifest(receipt: ReceiptFile, answer: Answer) -> None:
    manifest = None if answer.manifest is None else sha256(read(answer.manifest.encode()).payload)
    if manifest != receipt.manifest:
        raise SignatureError("the manifest is not the one that the receipt names", where="answer.manifest")


def _metrics(office: Office, file: RunFile, receipt: ReceiptFile, answer: Answer) -> dict[str, Any]:
    if answer.metrics is None and receipt.metrics is None:
        return {}
    where = {"federation": office.federation, "ticket": receipt.ticket}
    opening = None if answer.metrics is None else open_sealed(answer.metrics, file.key, purpose="metrics", **where)
    if opening is None or commitment(opening.value, opening.salt) != receipt.metrics:
        raise SignatureError("the metrics are not those that the receipt commits to", where="answer.metrics")
    return dict(opening.value) if isinstance(opening.value, dict) else {}


def _require_outbox(receipt: ReceiptFile, answer: Answer) -> tuple[bytes, ...]:
    raws = tuple(text.encode() for text in answer.outbox)
    if tuple(sha256(read(raw).payload) for raw in raws) != receipt.outbox:
        raise SignatureError("the messages are not those that the receipt names", where="answer.outbox")
    return raws


def _require_cosignature(office: Office, receipt: ReceiptFile) -> str | None:
    log, place = office.notary.log, receipt.checkpoint
    if place.size > log.size or log.root(place.size).hex() != place.root:
        raise SignatureError("the receipt is over a checkpoint that this log never had", where="receipt.checkpoint")
    if receipt.cosignature is None:
        return None
    checkpoint = Checkpoint(log.origin, place.size, bytes.fromhex(place.root))
    key = office.parties.history.current(receipt.actor, "cosign", at=place.size)
    if not isinstance(key, VerifyingKey):
        raise SignatureError("no cosigning key", where=receipt.actor)
    require_cosignature(receipt.cosignature, checkpoint, witness_key(receipt.actor, key))
    return receipt.cosignature
