"""What a malicious site can make: it holds its real keys, opens what is sealed to it, and answers what it likes."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from counterseal.audit.events import ReceiptFile, RunStart, peek_event
from counterseal.parameters import Schema, encode
from counterseal.runtime.delivery import DELIVERY_LIMIT
from counterseal.runtime.site.site import Site
from counterseal.runtime.stores.directory import DirectoryGrantClient
from counterseal.runtime.stores.grants import Grant
from counterseal.trust.blob.manifest import Manifest, Place
from counterseal.trust.blob.seal import seal
from counterseal.trust.canonical import canonical, parse
from counterseal.trust.documents import Signed, parse_document, sign
from counterseal.trust.dsse import read
from counterseal.trust.keys.sealing import SealingKey
from counterseal.trust.keys.signing import Signer

from .world import ME, World, kind_of

__all__ = ["Lie", "Rogue", "constant", "rogue"]

Arrays = Callable[[Schema], Mapping[str, np.ndarray[Any, Any]]]


def constant(value: float) -> Arrays:
    """Return an update that is ``value`` everywhere."""
    return lambda schema: {spec.name: np.full(spec.shape, value, np.float32) for spec in schema.tensors}


_SMALL = constant(0.01)


@dataclass(frozen=True)
class Lie:
    """How the answer differs from the honest one. Each member is what an honest site would not do."""

    arrays: Arrays = _SMALL
    place: Callable[[World], Mapping[str, Any]] = lambda world: {}
    schema: Callable[[Schema], Schema] = lambda schema: schema
    recipients: Callable[[World, tuple[SealingKey, ...]], tuple[SealingKey, ...]] = lambda world, keys: keys
    expires: Callable[[World, int], int] = lambda world, expires: expires
    payload: Callable[[bytes], bytes] = lambda payload: payload
    upload: bool = True
    signer: Callable[[World], Signer] = lambda world: world.federation.keys[ME].signer
    sealer: Callable[[World], Signer] = lambda world: world.federation.keys[ME].signer
    manifest: Callable[[World, Signed[Manifest]], str] = lambda world, manifest: manifest.raw.decode()
    receipt: Callable[[World, ReceiptFile], Mapping[str, Any]] = lambda world, receipt: {}
    answer: Callable[[World, dict[str, Any]], Any] = lambda world, answer: answer


class Rogue:
    """Site-a, honest until its ticket for the third version."""

    def __init__(self, world: World, site: Site, lie: Lie) -> None:
        self.world = world
        self.site = site
        self.lie = lie

    def handle(self, delivery: bytes) -> bytes:
        """Answer a delivery."""
        if kind_of(delivery) != ("train", 2):
            return self.site.handle(delivery)
        value = json.loads(delivery)
        kept = {**value["grants"], "update": None, "answer": None}
        honest = json.loads(self.site.handle(canonical({**value, "grants": kept})))
        sealed, payload = self._seal(value, honest)
        etags = self._upload(value, payload) if self.lie.upload else ()
        manifest = self.lie.manifest(self.world, sealed)
        found = parse_document(ReceiptFile, read(honest["receipt"].encode()).payload)
        digest = _digest(manifest)
        changes = {"manifest": digest, **self.lie.receipt(self.world, found)}
        receipt = sign(found.model_copy(update=changes), self.lie.signer(self.world))
        answer = {**honest, "receipt": receipt.raw.decode(), "manifest": manifest, "etags": etags, "uploaded": True}
        made = self.lie.answer(self.world, answer)
        return made if isinstance(made, bytes) else canonical(made)

    def _seal(self, value: dict[str, Any], honest: dict[str, Any]) -> tuple[Signed[Manifest], bytes]:
        world, lie = self.world, self.lie
        mine = parse_document(Manifest, read(honest["manifest"].encode()).payload)
        schema = Schema.from_json(parse(value["objects"][0].encode(), limit=DELIVERY_LIMIT)).floats()
        schema = lie.schema(schema)
        fields = {name: getattr(mine.context, name) for name in Place.model_fields} | {"schema_digest": schema.digest}
        spool = Path(world.folder.parent / f"rogue-{os.urandom(4).hex()}")
        sealed = seal(
            encode(schema, lie.arrays(schema)),
            schema=schema,
            place=Place(**{**fields, **lie.place(world)}),
            recipients=lie.recipients(world, _recipients(world, value)),
            signer=lie.sealer(world),
            spool=spool,
            expires=lie.expires(world, mine.expires),
        )
        return sealed.manifest, lie.payload(spool.read_bytes())

    def _upload(self, value: dict[str, Any], payload: bytes) -> tuple[str, ...]:
        grant = Grant.from_json(value["grants"]["update"])
        part = grant.parts[0].model_copy(update={"length": len(payload)})
        grant = grant.model_copy(update={"length": len(payload), "parts": (part,)})
        return DirectoryGrantClient(self.world.store, clock=self.world.clock).upload(grant, payload)


def _recipients(world: World, value: dict[str, Any]) -> tuple[SealingKey, ...]:
    start = next(event for leaf in value["leaves"] if isinstance(event := peek_event(leaf["leaf"].encode()), RunStart))
    auditor = world.federation.charter.statements["auditor@fed.example"].document.seal
    return SealingKey(start.suite, base64.b64decode(start.seal_key)), auditor


def _digest(manifest: str) -> str:
    from counterseal.trust.identifiers import sha256

    return sha256(read(manifest.encode()).payload)


def rogue(**members: Any) -> Callable[[World, Site], Rogue]:
    """Return a maker of rogues that tell the lie of these members."""
    return lambda world, site: Rogue(world, site, Lie(**members))
