"""DSSE envelopes with exactly one signature.

    {"payload": base64, "payloadType": "application/vnd.counterseal.<kind>.v1+json",
     "signatures": [{"keyid": 64 hex digits, "sig": base64}]}

The signature is over PAE = ``DSSEv1 SP len(type) SP type SP len(body) SP body`` (secure-systems-lab/dsse, protocol.md).
Base64 is strict (padded, standard alphabet, canonical tail), the object has these members only, and the payload type is
checked before the signature is: bytes in, trusted bytes out.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

from .canonical import LIMIT, canonical, parse
from .errors import MalformedError, SignatureError
from .keys.signing import Signer, VerifyingKey

__all__ = ["Envelope", "pae", "payload_type", "read", "sign"]

_TYPE = re.compile(r"application/vnd\.counterseal\.([a-z][a-z-]{0,39})\.v1\+json")
_KEYID = re.compile(r"[0-9a-f]{64}")


def payload_type(kind: str) -> str:
    """Return the media type of documents of ``kind``."""
    return f"application/vnd.counterseal.{kind}.v1+json"


def pae(type_: str, body: bytes) -> bytes:
    """Return DSSE's pre-authentication encoding.

    >>> pae("http://example.com/HelloWorld", b"hello world")
    b'DSSEv1 29 http://example.com/HelloWorld 11 hello world'
    """
    return b"DSSEv1 %d %s %d %s" % (len(type_.encode()), type_.encode(), len(body), body)


@dataclass(frozen=True, slots=True)
class Envelope:
    """An envelope that has been read but **not** verified: nothing in it may be believed before `verify`."""

    kind: str
    payload: bytes
    key_id: str
    signature: bytes
    raw: bytes

    def verify(self, key: VerifyingKey, *, kind: str) -> bytes:
        """Return the payload if it is of ``kind`` and ``key`` signed it.

        Raises:
            SignatureError: another kind, another key, or a signature that does not hold.
        """
        if self.kind != kind:
            raise SignatureError(f"a document of kind {self.kind!r} where {kind!r} belongs", where="envelope")
        if self.key_id != key.key_id:
            raise SignatureError(
                f"signed with key {self.key_id[:16]} instead of {key.key_id[:16]}", where=f"{kind} envelope"
            )
        key.verify(self.signature, pae(payload_type(kind), self.payload))
        return self.payload


def sign(payload: bytes, *, kind: str, signer: Signer) -> bytes:
    """Return the envelope of ``payload`` as canonical JSON."""
    signature = signer.sign(pae(payload_type(kind), payload))
    return canonical(
        {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": payload_type(kind),
            "signatures": [{"keyid": signer.public.key_id, "sig": base64.b64encode(signature).decode()}],
        }
    )


def read(raw: bytes, *, limit: int = LIMIT) -> Envelope:
    """Return the unverified envelope that ``raw`` spells.

    Raises:
        MalformedError: not exactly such an object, or longer than ``limit`` bytes.
    """
    found = parse(raw, limit=limit, what="envelope")
    if not isinstance(found, dict) or set(found) != {"payload", "payloadType", "signatures"}:
        raise MalformedError("an envelope has payload, payloadType and signatures, and nothing else", where="envelope")
    signatures = found["signatures"]
    if not isinstance(signatures, list) or len(signatures) != 1 or not isinstance(signatures[0], dict):
        raise MalformedError("an envelope has exactly one signature", where="envelope")
    one = signatures[0]
    if set(one) != {"keyid", "sig"} or not isinstance(one["keyid"], str) or not _KEYID.fullmatch(one["keyid"]):
        raise MalformedError("a signature has keyid (64 hexadecimal digits) and sig", where="envelope")
    match = _TYPE.fullmatch(found["payloadType"]) if isinstance(found["payloadType"], str) else None
    if match is None:
        raise MalformedError("unknown payloadType", where="envelope")
    return Envelope(match[1], _base64(found["payload"]), one["keyid"], _base64(one["sig"]), raw)


def _base64(text: object) -> bytes:
    if not isinstance(text, str):
        raise MalformedError("base64 text expected", where="envelope")
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise MalformedError("not strict base64", where="envelope") from None
    # b64decode accepts stray bits in the last group: one value must have one spelling.
    if base64.b64encode(data).decode() != text:
        raise MalformedError("base64 with stray trailing bits", where="envelope")
    return data
