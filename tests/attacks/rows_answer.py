"""What the network can do to an answer, and what a malicious site can answer: met by the server."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from counterseal.audit.events import Place as LogPlace
from counterseal.audit.events import ReceiptFile
from counterseal.audit.tlog.checkpoint import Checkpoint
from counterseal.audit.tlog.cosignature import cosign
from counterseal.parameters import Schema, TensorSpec
from counterseal.trust.canonical import canonical
from counterseal.trust.documents import parse_document, sign
from counterseal.trust.dsse import read

from .forge import sealed_metrics
from .play import at_server
from .rogue import Lie, Rogue, constant, rogue
from .rows_delivery import flip, payload
from .table import Row
from .world import ME, OTHER, World, worlds

__all__ = ["ANSWERS"]


def of_me(edit: Callable[[World, dict[str, Any]], Any]) -> Callable[[World, str, bytes], bytes]:
    """Return an attack on site-a's first answer on its way to the server."""

    def apply(world: World, site: str, answer: bytes) -> bytes:
        value = json.loads(answer)
        if site != ME or value["ticket"] != world.ticket:
            return answer
        made = edit(world, value)
        return made if isinstance(made, bytes) else canonical(value)

    return apply


def receipt_of(value: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(value["receipt"])
    return found


def put(value: dict[str, Any], found: dict[str, Any]) -> None:
    value["receipt"] = canonical(found).decode()


def sig(world: World, value: dict[str, Any]) -> None:
    found = receipt_of(value)
    found["signatures"][0]["sig"] = flip(found["signatures"][0]["sig"])
    put(value, found)


def body(old: str, new: str) -> Callable[[World, dict[str, Any]], None]:
    def apply(world: World, value: dict[str, Any]) -> None:
        found = receipt_of(value)
        found["payload"] = payload(found["payload"], old, new)
        put(value, found)

    return apply


def resigned(world: World, value: dict[str, Any]) -> None:
    found = parse_document(ReceiptFile, read(value["receipt"].encode()).payload)
    value["receipt"] = sign(found, world.federation.keys[OTHER].signer).raw.decode()


def ticket_as_receipt(world: World, value: dict[str, Any]) -> None:
    value["receipt"] = world.json()["ticket"]


def earlier(world: World, value: dict[str, Any]) -> None:
    """Answer with the site's true receipt of the version before."""
    kept = [one for key, one in world.facts().items() if key.startswith("receipt/") and one["manifest"]]
    kept.sort(key=lambda one: json.loads(read(one["receipt"].encode()).payload)["version"])
    value["receipt"] = kept[0]["receipt"]


def of_other(world: World, value: dict[str, Any]) -> None:
    """Answer with another site's true receipt."""
    kept = [one for key, one in world.facts(OTHER).items() if key.startswith("open/")]
    value["receipt"] = kept[0]["receipt"]


def wrong_arrays(schema: Schema) -> Schema:
    first, *rest = schema.tensors
    return Schema((replace(first, shape=(*first.shape[:-1], first.shape[-1] + 1)), *rest))


def renamed(schema: Schema) -> Schema:
    first, *rest = schema.tensors
    return Schema((*rest, TensorSpec("zzz." + first.name, first.dtype, first.shape)))


def one_bad(value: float) -> Callable[[Schema], Any]:
    def make(schema: Schema) -> Any:
        arrays = dict(constant(0.01)(schema))
        name = schema.tensors[0].name
        arrays[name] = arrays[name].copy()
        arrays[name].reshape(-1)[0] = np.float32(value)
        return arrays

    return make


def twins() -> str:
    """Two sites send the same plaintext, each sealed and signed as it should be: neither counts."""
    with worlds() as world:
        lie = Lie()
        other = replace(
            lie,
            signer=lambda w: w.federation.keys[OTHER].signer,
            sealer=lambda w: w.federation.keys[OTHER].signer,
        )
        ended = world.finish(
            rogues={ME: lambda site: Rogue(world, site, lie), OTHER: lambda site: Rogue(world, site, other)}
        )
        assert ended.outcome == "completed"
        assert ended.verdict(ME) == ended.verdict(OTHER)
        assert world.verify() == []
        return ended.verdict(ME)


def cosign_other(world: World, receipt: ReceiptFile) -> dict[str, Any]:
    """Cosign a checkpoint that the log never had, and put that line under the true place."""
    keys = world.federation.keys[ME]
    forged = Checkpoint(world.federation.charter.charter.log_origin, receipt.checkpoint.size, b"\x00" * 32)
    return {"cosignature": cosign(forged, keys.cosigner, ME, world.clock())}


def cosign_as_other(world: World, receipt: ReceiptFile) -> dict[str, Any]:
    keys = world.federation.keys[ME]
    place = receipt.checkpoint
    true = Checkpoint(world.federation.charter.charter.log_origin, place.size, bytes.fromhex(place.root))
    return {"cosignature": cosign(true, keys.cosigner, OTHER, world.clock())}


def place(size: int, root: str) -> Callable[[World, ReceiptFile], dict[str, Any]]:
    return lambda world, receipt: {"checkpoint": LogPlace(size=size, root=root), "cosignature": None}


def old_manifest(world: World, manifest: Any) -> str:
    """The site's own manifest of the version before."""
    kept = [value for key, value in world.facts().items() if key.startswith("receipt/") and value["manifest"]]
    return next(
        str(one["manifest"])
        for one in kept
        if json.loads(read(one["manifest"].encode()).payload)["context"]["version"] == 1
    )


def resealed_other(world: World, manifest: Any) -> str:
    """Another site's manifest, whose sender is rewritten to this site and which this site signs."""
    from counterseal.trust.blob.manifest import Manifest

    kept = [value for key, value in world.facts(OTHER).items() if key.startswith("receipt/") and value["manifest"]]
    theirs = parse_document(Manifest, read(kept[-1]["manifest"].encode()).payload)
    mine = world.federation.keys[ME].signer
    context = manifest.document.context
    stolen = theirs.model_copy(update={"context": context})
    stolen = stolen.model_copy(update={"context": context.model_copy(update={"recipients": theirs.context.recipients})})
    return sign(stolen, mine).raw.decode()


def not_mine(world: World, keys: Any) -> Any:
    return (*keys, world.federation.charter.statements[OTHER].document.seal)


def server_only(world: World, keys: Any) -> Any:
    return keys[:1]


ANSWERS: tuple[Row, ...] = (
    at_server("P2-050", "network", "a bit of the receipt's signature flipped", "signature", answers=of_me(sig)),
    at_server(
        "P2-051",
        "network",
        "another outcome in the signed receipt",
        "signature",
        answers=of_me(body('"outcome":"done"', '"outcome":"deny"')),
    ),
    at_server(
        "P2-052",
        "network",
        "the receipt signed again with another member's key",
        "unknown_key",
        answers=of_me(resigned),
    ),
    at_server(
        "P2-053",
        "network",
        "the ticket sent back in place of a receipt",
        "unknown_key",
        answers=of_me(ticket_as_receipt),
    ),
    at_server(
        "P2-054", "network", "the site's receipt of the version before (replay)", "signature", answers=of_me(earlier)
    ),
    at_server("P2-055", "network", "another site's receipt (swap)", "unknown_key", answers=of_me(of_other)),
    at_server(
        "P2-056",
        "network",
        "metrics that the receipt does not commit to",
        "signature",
        answers=of_me(lambda w, value: value.update(metrics=sealed_metrics(w, {"accuracy": 1.0}, w.ticket))),
    ),
    at_server(
        "P2-065",
        "network",
        "metrics sealed for another ticket",
        "blob_recipient",
        answers=of_me(lambda w, value: value.update(metrics=sealed_metrics(w, {"accuracy": 1.0}, "e" * 64))),
    ),
    at_server(
        "P2-066", "network", "no metrics", "signature", answers=of_me(lambda w, value: value.update(metrics=None))
    ),
    at_server(
        "P2-057",
        "network",
        "another manifest than the receipt names",
        "signature",
        answers=of_me(lambda world, value: value.update(manifest=old_manifest(world, None))),
    ),
    at_server(
        "P2-058", "network", "no manifest", "signature", answers=of_me(lambda world, value: value.update(manifest=None))
    ),
    at_server(
        "P2-059",
        "network",
        "a bit of the manifest's signature flipped",
        "signature",
        answers=of_me(lambda world, value: value.update(manifest=_flip_manifest(value["manifest"]))),
    ),
    at_server(
        "P2-060", "network", "no receipt", "malformed", answers=of_me(lambda world, value: value.update(receipt=None))
    ),
    at_server(
        "P2-061",
        "network",
        "the answer cut off in the middle",
        "malformed",
        answers=of_me(lambda world, value: canonical(value)[:3000]),
    ),
    at_server(
        "P2-062",
        "network",
        "a fault that the site never had",
        "ticket_expired",
        answers=of_me(lambda world, value: canonical({"ticket": None, "fault": {"code": "ticket_expired"}})),
    ),
    at_server(
        "P2-063",
        "network",
        "an endless claim of another checkpoint",
        "consistency_needed",
        answers=lambda world, site, raw: (
            raw
            if site != ME or json.loads(raw)["ticket"] != world.ticket
            else canonical({"ticket": None, "fault": {"code": "consistency_needed", "witness_size": 3}})
        ),
    ),
    at_server(
        "P2-064",
        "network",
        "a claim of a checkpoint beyond the end of the log",
        "consistency_needed",
        answers=lambda world, site, raw: (
            raw
            if site != ME or json.loads(raw)["ticket"] != world.ticket
            else canonical({"ticket": None, "fault": {"code": "consistency_needed", "witness_size": 2**50}})
        ),
    ),
    at_server(
        "P2-070",
        "site",
        "a receipt for another ticket",
        "signature",
        rogue=rogue(receipt=lambda world, receipt: {"ticket": "e" * 64}),
    ),
    at_server(
        "P2-071",
        "site",
        "a receipt for another version",
        "signature",
        rogue=rogue(receipt=lambda world, receipt: {"version": 1}),
    ),
    at_server(
        "P2-072",
        "site",
        "a receipt for another run",
        "signature",
        rogue=rogue(receipt=lambda world, receipt: {"run": "run-2"}),
    ),
    at_server(
        "P2-073",
        "site",
        "a receipt in another site's name",
        "signature",
        rogue=rogue(receipt=lambda world, receipt: {"actor": OTHER}),
    ),
    at_server(
        "P2-074",
        "site",
        "a receipt with another sequence number",
        "signature",
        rogue=rogue(receipt=lambda world, receipt: {"seq": 99}),
    ),
    at_server(
        "P2-075",
        "site",
        "a receipt for another kind of work",
        "signature",
        rogue=rogue(receipt=lambda world, receipt: {"kind": "witness"}),
    ),
    at_server(
        "P2-076",
        "site",
        "an update sealed for another federation",
        "blob_place",
        rogue=rogue(place=lambda world: {"federation": "another"}),
    ),
    at_server(
        "P2-077",
        "site",
        "an update sealed for another run",
        "blob_place",
        rogue=rogue(place=lambda world: {"run": "run-2"}),
    ),
    at_server(
        "P2-078",
        "site",
        "an update sealed for another version",
        "blob_place",
        rogue=rogue(place=lambda world: {"version": 1}),
    ),
    at_server(
        "P2-079",
        "site",
        "an update sealed for another ticket",
        "blob_place",
        rogue=rogue(place=lambda world: {"ticket": "e" * 64}),
    ),
    at_server(
        "P2-080",
        "site",
        "an update on another parent",
        "blob_place",
        rogue=rogue(place=lambda world: {"parent": "e" * 64}),
    ),
    at_server(
        "P2-081",
        "site",
        "a model in place of an update",
        "blob_place",
        rogue=rogue(place=lambda world: {"kind": "global"}),
    ),
    at_server(
        "P2-082",
        "site",
        "an update under another sender's name",
        "blob_place",
        rogue=rogue(place=lambda world: {"sender": OTHER}),
    ),
    at_server(
        "P2-083",
        "site",
        "an update under another charter",
        "blob_place",
        rogue=rogue(place=lambda world: {"charter": "e" * 64}),
    ),
    at_server(
        "P2-084", "site", "an update sealed to one recipient more", "blob_place", rogue=rogue(recipients=not_mine)
    ),
    at_server(
        "P2-085", "site", "an update that the auditor cannot open", "blob_place", rogue=rogue(recipients=server_only)
    ),
    at_server("P2-086", "site", "an update of another shape", "blob_place", rogue=rogue(schema=wrong_arrays)),
    at_server("P2-087", "site", "an update with another tensor", "blob_place", rogue=rogue(schema=renamed)),
    at_server(
        "P2-088",
        "site",
        "an update that has expired",
        "blob",
        rogue=rogue(expires=lambda world, expires: world.clock() - 1),
    ),
    at_server(
        "P2-089",
        "site",
        "a manifest signed with another member's key",
        "unknown_key",
        rogue=rogue(sealer=lambda world: world.federation.keys[OTHER].signer),
    ),
    at_server(
        "P2-090",
        "site",
        "its own manifest of the version before (replay)",
        "blob_place",
        rogue=rogue(manifest=old_manifest),
    ),
    at_server(
        "P2-091",
        "site",
        "another site's manifest, signed as its own",
        "blob_recipient",
        rogue=rogue(manifest=resealed_other),
    ),
    at_server("P2-092", "site", "a receipt, and nothing uploaded", "missing", rogue=rogue(upload=False)),
    at_server(
        "P2-093",
        "site",
        "ciphertext that is not the manifest's",
        "blob_part",
        rogue=rogue(payload=lambda data: data[:-1] + bytes([data[-1] ^ 1])),
    ),
    at_server(
        "P2-094",
        "site",
        "ciphertext longer than granted",
        "wrong_length",
        rogue=rogue(payload=lambda data: data + b"\0" * 1000),
    ),
    at_server(
        "P2-095", "site", "ciphertext shorter than granted", "wrong_length", rogue=rogue(payload=lambda data: data[:-1])
    ),
    at_server(
        "P2-096", "site", "a parameter that is not a number", "not_finite", rogue=rogue(arrays=one_bad(float("nan")))
    ),
    at_server("P2-097", "site", "an infinite parameter", "not_finite", rogue=rogue(arrays=one_bad(float("inf")))),
    at_server("P2-098", "site", "an update over the declared bound", "norm_bound", rogue=rogue(arrays=constant(1e6))),
    at_server("P2-099", "site", "an update whose norm overflows", "norm_bound", rogue=rogue(arrays=constant(3e38))),
    Row("P2-100", "server", "site", "two sites with one plaintext (copy)", "duplicate_plaintext", twins),
    at_server(
        "P7-070",
        "site",
        "a receipt over a checkpoint that the log never had",
        "signature",
        rogue=rogue(receipt=place(5, "e" * 64)),
    ),
    at_server(
        "P7-071",
        "site",
        "a receipt over a checkpoint beyond the end of the log",
        "signature",
        rogue=rogue(receipt=place(2**50, "e" * 64)),
    ),
    at_server("P7-072", "site", "a cosignature over another checkpoint", "note", rogue=rogue(receipt=cosign_other)),
    at_server(
        "P7-073", "site", "a cosignature in another witness's name", "note", rogue=rogue(receipt=cosign_as_other)
    ),
)


def _flip_manifest(text: str) -> str:
    found = json.loads(text)
    found["signatures"][0]["sig"] = flip(found["signatures"][0]["sig"])
    return canonical(found).decode()
