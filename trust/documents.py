"""Signed documents: frozen models whose identity is the digest of their payload.

A `Document` subclass names its ``KIND``; `sign` writes canonical JSON into a DSSE envelope, `open_document` takes bytes and
a key and returns a `Signed` value or raises. The digest is over the payload bytes as stored, never over a rewrite.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from . import dsse
from .canonical import LIMIT, canonical, parse
from .errors import MalformedError
from .identifiers import sha256
from .keys.signing import Signer, VerifyingKey

__all__ = ["Document", "Model", "Signed", "open_document", "parse_document", "sign", "validate"]


class Model(BaseModel):
    """A frozen value whose unknown members are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, ser_json_inf_nan="strings")

    @classmethod
    def from_json(cls, value: Any, *, what: str = "") -> Self:
        """Return the model that a parsed JSON ``value`` describes, or raise `MalformedError` naming the field."""
        return validate(cls, value, what=what or cls.__name__)


class Document(Model):
    """A model that is signed and stored; ``KIND`` names it on the wire."""

    KIND: ClassVar[str]

    def payload(self) -> bytes:
        """Return the canonical bytes that are signed."""
        return canonical(self.model_dump(mode="json"))

    @property
    def digest(self) -> str:
        """SHA-256 of `payload`: valid for documents that this process wrote; readers use `Signed.digest`."""
        return sha256(self.payload())


D = TypeVar("D", bound=Document)
M = TypeVar("M", bound=Model)


@dataclass(frozen=True, slots=True)
class Signed(Generic[D]):
    """A document whose signature was verified (or made here), with the bytes that prove it."""

    document: D
    digest: str
    key_id: str
    raw: bytes


def sign(document: D, signer: Signer) -> Signed[D]:
    """Sign ``document``."""
    payload = document.payload()
    raw = dsse.sign(payload, kind=document.KIND, signer=signer)
    return Signed(document, sha256(payload), signer.public.key_id, raw)


def open_document(model: type[D], raw: bytes, key: VerifyingKey, *, limit: int = LIMIT) -> Signed[D]:
    """Return the document in ``raw`` if ``key`` signed it and it is a valid ``model``.

    Raises:
        MalformedError: not an envelope, or the payload does not fit the model.
        SignatureError: another kind, another key, or a signature that does not hold.
    """
    envelope = dsse.read(raw, limit=limit)
    payload = envelope.verify(key, kind=model.KIND)
    return Signed(parse_document(model, payload), sha256(payload), envelope.key_id, raw)


def parse_document(model: type[D], payload: bytes, *, limit: int = LIMIT) -> D:
    """Return the model that ``payload`` spells: says nothing about who wrote it.

    Raises:
        MalformedError: the bytes do not fit the model; the message names the field.
    """
    parse(payload, limit=limit, what=model.KIND)  # the strictness that pydantic's own JSON reader lacks
    return _build(model, payload, model.KIND)


def validate(model: type[M], value: Any, *, what: str) -> M:
    """Return ``model`` built from a parsed JSON value, or raise `MalformedError` naming the first wrong field."""
    try:
        text = canonical(value)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"not a JSON value ({type(error).__name__})", where=what) from None
    return _build(model, text, what)


def _build(model: type[M], text: bytes, what: str) -> M:
    # Strict models are validated in JSON mode: JSON has no tuples, and a list stands for one there only.
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "(whole)"
        raise MalformedError(f"{ascii(field)[1:-1]}: {ascii(first['msg'])[1:-1]}"[:300], where=what) from None
