"""A small federation for the blob tests: signers, sealing keys, places, and a sender who follows no rules."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from counterseal.parameters import Schema, encode
from counterseal.trust.blob import Manifest, Place, Sealed, part_size, seal
from counterseal.trust.blob.keys import BlobKeys
from counterseal.trust.blob.manifest import Context
from counterseal.trust.blob.payload import PayloadEncryptor
from counterseal.trust.blob.wraps import wrap_root
from counterseal.trust.documents import Signed, sign
from counterseal.trust.keys.sealing import OpeningKey
from counterseal.trust.keys.signing import SoftwareSigner

NOW = 1_800_000_000
LATER = NOW + 3600

Arrays = dict[str, npt.NDArray[Any]]


def small_model(seed: int = 0) -> Arrays:
    """A model of one segment."""
    generator = np.random.default_rng(seed)
    return {
        "head.bias": generator.standard_normal(7).astype(np.float32),
        "head.weight": generator.standard_normal((7, 11)).astype(np.float16),
        "norm.steps": np.array(3, np.int64),
    }


def flat_model(length: int, seed: int = 0) -> Arrays:
    """A model of ``length`` random bytes and a header."""
    return {"flat": np.random.default_rng(seed).integers(0, 256, length, np.uint8)}


@dataclass
class World:
    """Names, keys and a place."""

    signers: dict[str, SoftwareSigner] = field(
        default_factory=lambda: {name: SoftwareSigner.generate() for name in ("alice", "mallory", "server")}
    )
    openers: dict[str, OpeningKey] = field(
        default_factory=lambda: {name: OpeningKey.generate() for name in ("server", "auditor", "outsider")}
    )

    def place(self, schema: Schema, **changes: Any) -> Place:
        """Where alice's update belongs."""
        fields: dict[str, Any] = {
            "suite": "MLKEM768_X25519",
            "federation": "lung.example",
            "charter": "c" * 64,
            "run": "run-1",
            "version": 4,
            "ticket": "7" * 64,
            "kind": "update",
            "sender": "alice@site-a.example",
            "parent": "9" * 64,
            "schema_digest": schema.digest,
        }
        return Place(**{**fields, **changes})

    def seal(
        self,
        arrays: Arrays,
        spool: Path,
        *,
        to: Sequence[str] = ("server", "auditor"),
        by: str = "alice",
        workers: int = 1,
        **changes: Any,
    ) -> Sealed:
        """Seal honestly."""
        schema = Schema.of(arrays)
        return seal(
            encode(schema, arrays),
            schema=schema,
            place=self.place(schema, **changes),
            recipients=[self.openers[name].public for name in to],
            signer=self.signers[by],
            spool=spool,
            expires=LATER,
            ledger_head="1" * 64,
            workers=workers,
        )

    def sign(self, manifest: Manifest, by: str) -> Signed[Manifest]:
        """Sign anything."""
        return sign(manifest, self.signers[by])

    def forge(
        self, plaintext: bytes, schema: Schema, *, to: str = "server", by: str = "alice"
    ) -> tuple[Signed[Manifest], bytes]:
        """Seal any bytes of the schema's length, as a lying member would: everything holds but the plaintext."""
        context = Context(
            **self.place(schema).model_dump(),
            format="counterseal-blob/v1",
            sender_key=self.signers[by].public.key_id,
            recipients=(self.openers[to].public.key_id,),
            plaintext_length=len(plaintext),
            ledger_head=None,
        )
        keys = BlobKeys.generate()
        payload = encrypt(keys.tink, context.binding, plaintext)
        size = part_size(len(payload))
        manifest = Manifest(
            context=context,
            wraps=wrap_root(keys, context, [self.openers[to].public]),
            commitment=keys.commitment.hex(),
            part_size=size,
            parts=tuple(hashlib.sha256(payload[at : at + size]).hexdigest() for at in range(0, len(payload), size)),
            expires=LATER,
            rewraps=None,
        )
        return self.sign(manifest, by), payload


def encrypt(key: bytes, associated_data: bytes, plaintext: bytes) -> bytes:
    """Return the whole payload of ``plaintext``."""
    encryptor = PayloadEncryptor(key, associated_data, len(plaintext))
    geometry = encryptor.geometry
    out = bytearray(geometry.ciphertext_length)
    out[: len(encryptor.header)] = encryptor.header
    for index in range(geometry.segments):
        (begin, end), (start, stop) = geometry.plain(index), geometry.cipher(index)
        encryptor.encrypt_into(memoryview(plaintext)[begin:end], memoryview(out)[start:stop])
    return bytes(out)
