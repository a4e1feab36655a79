"""Explaining a blob in words, to somebody who holds no key.

Everything said is what the bytes *claim*: a signature is named, never verified here, and the first line says so.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from .. import dsse
from ..documents import parse_document
from ..errors import MalformedError
from ..identifiers import sha256
from .manifest import Manifest
from .payload import HEADER, SEGMENT, TAG, Geometry

__all__ = ["explain"]

_MANIFEST_LIMIT = 1 << 20


def explain(blob: bytes | Path) -> list[str]:
    """Return lines about a manifest or a payload: what, from whom, for whom, where, how large, or what is wrong with it."""
    if isinstance(blob, Path):
        with blob.open("rb") as file:
            head = file.read(_MANIFEST_LIMIT)
        length = blob.stat().st_size
    else:
        head, length = blob[:_MANIFEST_LIMIT], len(blob)
    if head[:1] == b"{":
        lines = _manifest(head) if length == len(head) else ["NOT A MANIFEST: longer than 1 MiB."]
    else:
        lines = _payload(head, length)
    # An error may quote a member name of the sender's choice: nothing here obeys a terminal's control characters.
    return ["".join(one if one.isprintable() else ascii(one)[1:-1] for one in line) for line in lines]


def _manifest(raw: bytes) -> list[str]:
    try:
        envelope = dsse.read(raw)
        if envelope.kind != Manifest.KIND:
            return [f"NOT A MANIFEST: an envelope of kind {envelope.kind}."]
        manifest = parse_document(Manifest, envelope.payload)
    except MalformedError as error:
        return [f"NOT A MANIFEST: {error}"]
    context = manifest.context
    lines = [
        f"A manifest, digest {sha256(envelope.payload)}. Nothing below is verified.",
        f"Signed with key {envelope.key_id}"
        + (
            "."
            if envelope.key_id == context.sender_key
            else f", BUT IT NAMES {context.sender_key}: nobody will open it."
        ),
        f"Kind {context.kind}, from {context.sender}, suite {context.suite}.",
        f"Place: federation {context.federation}, run {context.run}, version {context.version}.",
        f"Charter {context.charter}.",
        f"Ticket {context.ticket or 'none'}, parent model {context.parent or 'none'}.",
        f"Schema {context.schema_digest}, ledger head {context.ledger_head or 'none'}.",
        f"For {len(context.recipients)} recipients:",
        *(f"  sealing key {name}" for name in context.recipients),
        f"Plaintext {context.plaintext_length:,} bytes; payload {manifest.length:,} bytes in {len(manifest.parts)} parts"
        f" of at most {manifest.part_size:,} bytes.",
        *(f"  part {index}: SHA-256 {digest}" for index, digest in enumerate(manifest.parts)),
        f"Expires {_time(manifest.expires)}.",
    ]
    if manifest.rewraps is not None:
        lines.append(
            f"Hands on manifest {manifest.rewraps.manifest}, to whose context ({manifest.rewraps.context}) the payload is bound."
        )
    return lines


def _time(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"{seconds} seconds after 1970, beyond any calendar"


def _payload(head: bytes, length: int) -> list[str]:
    if length < HEADER + TAG:
        return [f"NOT A PAYLOAD: {length} bytes are fewer than a header and one tag ({HEADER + TAG})."]
    if head[0] != HEADER:
        return [f"NOT A PAYLOAD: the first byte is 0x{head[0]:02x} where a Tink header has 0x{HEADER:02x}."]
    segments = -(-length // SEGMENT)
    plain = length - HEADER - segments * TAG
    if plain < 0 or Geometry(plain).ciphertext_length != length:
        return [f"NOT A PAYLOAD: no plaintext encrypts to {length:,} bytes; it was cut or extended."]
    return [
        "A payload in the form of Tink AES256_GCM_HKDF_1MB. Nothing below is verified.",
        f"Salt {head[1:33].hex()}, nonce prefix {head[33:40].hex()}.",
        f"{segments} segments of at most {SEGMENT:,} bytes, {length:,} bytes in all, if nothing was cut at a segment's end;"
        " the manifest says how many belong here.",
        f"Plaintext {plain:,} bytes. It opens with the root that the manifest wraps, and with nothing else.",
    ]
