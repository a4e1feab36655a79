"""Write the vectors of docs/formats/blob.md: `python -m counterseal.tests.trust.blob_vectors FOLDER`. Fresh keys every time."""

from __future__ import annotations

import base64
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from counterseal.parameters import Schema
from counterseal.tests.trust.blob_world import LATER, NOW, World, small_model
from counterseal.trust.blob import Manifest, rewrap
from counterseal.trust.blob.keys import BlobKeys
from counterseal.trust.blob.wraps import wrap_root


def vectors() -> dict[str, Any]:
    """Return one good blob, its rewrap, and bad ones with the reason code of their refusal."""
    world, schema = World(), Schema.of(small_model())
    with tempfile.TemporaryDirectory() as folder:
        sealed = world.seal(small_model(), Path(folder) / "blob")
        other = world.seal(small_model(1), Path(folder) / "other")
        payload, foreign = sealed.path.read_bytes(), other.path.read_bytes()
    handed = rewrap(
        sealed.manifest,
        world.openers["server"],
        [world.openers["outsider"].public],
        signer=world.signers["server"],
        sender="server@lung.example",
        expires=LATER,
    )
    return {
        "now": NOW,
        "schema": schema.to_json(),
        "place": world.place(schema).model_dump(mode="json"),
        "signing_keys": {name: one.public.public.hex() for name, one in world.signers.items()},
        "opening_keys": {name: one.to_private_bytes().hex() for name, one in world.openers.items()},
        "good": {
            "manifest": sealed.manifest.raw.decode(),
            "binding": sealed.manifest.document.context.binding.hex(),
            "payload": text(payload),
            "plaintext_sha256": sealed.plaintext_digest,
        },
        "rewrap": {"manifest": handed.raw.decode(), "sender": "server@lung.example"},
        "bad": list(bad(world, sealed.manifest.document, payload, foreign)),
    }


def bad(world: World, document: Manifest, payload: bytes, foreign: bytes) -> list[dict[str, Any]]:
    """Return what a reader of the good place, key and clock refuses; a member left out is that of the good blob."""
    wrong = wrap_root(BlobKeys.generate(), document.context, [world.openers[n].public for n in ("server", "auditor")])
    moved = document.context.model_copy(update={"ticket": "8" * 64})
    signed = {
        "sealed for another ticket": ("blob_place", document.model_copy(update={"context": moved}), "alice"),
        "signed by another member": ("signature", document, "mallory"),
        "wraps of another root": ("blob_commitment", document.model_copy(update={"wraps": wrong}), "alice"),
        "expired": ("blob", document.model_copy(update={"expires": NOW}), "alice"),
        "wraps not in order": ("malformed", document.model_copy(update={"wraps": document.wraps[::-1]}), "alice"),
        "part too many": ("malformed", document.model_copy(update={"parts": document.parts * 2}), "alice"),
    }
    found: list[dict[str, Any]] = [
        {"name": name, "code": code, "manifest": world.sign(one, by).raw.decode()}
        for name, (code, one, by) in signed.items()
    ]
    flipped = payload[:-1] + bytes([payload[-1] ^ 1])
    found += [
        {"name": "last bit flipped", "code": "blob_part", "payload": text(flipped)},
        {"name": "payload of another blob", "code": "blob_part", "payload": text(foreign)},
        {"name": "payload cut", "code": "blob_payload", "payload": text(payload[:-1])},
        {"name": "payload extended", "code": "blob_payload", "payload": text(payload + b"\0")},
        {"name": "opened by an outsider", "code": "blob_recipient", "opener": "outsider"},
        {"name": "rewrap without its original", "code": "blob_place", "rewrap_alone": True},
    ]
    return found


def text(data: bytes) -> str:
    """Return base64."""
    return base64.b64encode(data).decode()


if __name__ == "__main__":
    Path(sys.argv[1], "vectors.json").write_text(json.dumps(vectors(), indent=1) + "\n")
