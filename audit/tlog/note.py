"""Signed notes (C2SP signed-note) and the keys that sign them.

    text, ending in a newline
    (blank line)
    — <key name> <base64 of key id[4] || signature>          one line a signature

Text and signatures are split at the LAST blank line. A signature names its key by (name, id), id being the first four
bytes of ``SHA-256(name LF type public)``: a hint, not a proof, so what counts is the key that the verifier brought.
`Note.signed_by` is the whole rule: signatures of unknown keys are ignored, a known key whose signature fails rejects the
note, and a key counts once however many lines it has.

Names of keys that *we* configure are narrower than the specification's: no control, bidirectional or separator
character and no em dash, so that a name can never look like another line of the note. Names of unknown keys in a note
are carried as bytes and never shown.

Types known here: 0x01 (Ed25519 over the text) and 0x04 (`audit.tlog.cosignature`). Not handled: ECDSA (0x02), ML-DSA-44
(0x06): such lines are unknown keys and ignored.

Source: c2sp.org/signed-note.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from ...trust.errors import SignatureError, WeakKeyError
from ...trust.keys.signing import Signer, VerifyingKey
from ..errors import NoteError

__all__ = ["MAX_NOTE", "Note", "NoteKey", "NoteSignature", "NoteType", "sign_note", "strict_base64"]

MAX_NOTE = 1 << 20
"""Bytes of the longest note that is read: thousands of Ed25519 signatures, hundreds of post-quantum ones."""

_DASH = "\u2014"
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class NoteType(IntEnum):
    """The signature types that this module knows."""

    ED25519 = 0x01
    COSIGNATURE = 0x04


@dataclass(frozen=True, slots=True)
class NoteKey:
    """A key that a verifier knows: its name, what it signs, its public half.

    Raises:
        NoteError: a name that could be mistaken for something else, or a key that is not Ed25519.
    """

    name: str
    type: NoteType
    key: VerifyingKey

    def __post_init__(self) -> None:
        require_name(self.name)
        if self.key.algorithm != "ed25519":
            raise NoteError(f"notes are signed with ed25519 keys, not {self.key.algorithm}", where="note key")

    @property
    def id(self) -> bytes:
        """The key id: bytes[4]."""
        material = self.name.encode() + b"\n" + bytes([self.type]) + self.key.public
        return hashlib.sha256(material).digest()[:4]

    def vkey(self) -> str:
        """Return the key's text form: ``name+id+base64``."""
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(bytes([self.type]) + self.key.public).decode()}"

    @classmethod
    def from_vkey(cls, text: str) -> NoteKey:
        """Return the key that ``text`` spells.

        Raises:
            NoteError: not a vkey of a known type, or its id is not that of its name and key.
            WeakKeyError: a key of small order.
        """
        parts = text.split("+", 2)  # base64 may hold a plus, a name may not
        if len(parts) != 3:
            raise NoteError("a vkey is name+id+key", where="vkey")
        material = strict_base64(parts[2], "vkey")
        if len(material) != 33 or material[0] not in set(NoteType):
            raise NoteError("not a key of type 01 or 04", where="vkey")
        found = cls(parts[0], NoteType(material[0]), VerifyingKey("ed25519", material[1:]))
        if found.id.hex() != parts[1]:
            raise NoteError("the id is not that of this name and key", where="vkey")
        return found


def require_name(name: str) -> None:
    """Return if ``name`` may name a key.

    Raises:
        NoteError: empty, too long, or with a character that could be taken for a separator or another line.
    """
    if not 0 < len(name) <= 255:
        raise NoteError("a key name has 1 to 255 characters", where="key name")
    for character in name:
        category = unicodedata.category(character)
        if category[0] in "CZ" or character.isspace() or character in _BIDI or character in ("+", _DASH):
            raise NoteError(f"character U+{ord(character):04X} is not allowed in a key name", where="key name")


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line: whose it claims to be, and its bytes (unverified)."""

    name: str
    id: bytes
    blob: bytes

    def line(self) -> str:
        """Return the line with its newline."""
        return f"{_DASH} {self.name} {base64.b64encode(self.id + self.blob).decode()}\n"

    @classmethod
    def from_line(cls, line: str) -> NoteSignature:
        """Return the signature in ``line``, with or without its newline.

        Raises:
            NoteError: not exactly one signature line.
        """
        parts = line.removesuffix("\n").split(" ")
        if len(parts) != 3 or parts[0] != _DASH or not _is_name(parts[1]):
            raise NoteError("not a signature line", where="note")
        data = strict_base64(parts[2], "note signature")
        if len(data) < 5:
            raise NoteError("a signature of no bytes", where="note")
        return cls(parts[1], data[:4], data[4:])


def _is_name(name: str) -> bool:
    return bool(name) and "+" not in name and not any(c.isspace() or ord(c) < 0x20 for c in name)


@dataclass(frozen=True, slots=True)
class Note:
    """A note that was read and **not** verified: its text may not be believed before `signed_by`."""

    text: str
    signatures: tuple[NoteSignature, ...]

    @classmethod
    def parse(cls, raw: bytes) -> Note:
        """Return the note in ``raw``.

        Raises:
            NoteError: not a note, or longer than `MAX_NOTE`.
        """
        if len(raw) > MAX_NOTE:
            raise NoteError(f"longer than {MAX_NOTE} bytes", where="note")
        try:
            whole = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise NoteError("not UTF-8", where="note") from None
        if any(character < " " and character != "\n" for character in whole):
            raise NoteError("a control character", where="note")
        at = whole.rfind("\n\n")
        if at < 0 or not whole.endswith("\n") or at + 2 == len(whole):
            raise NoteError("no text, blank line and signatures", where="note")
        lines = whole[at + 2 : -1].split("\n")
        return cls(whole[: at + 1], tuple(NoteSignature.from_line(line) for line in lines))

    def to_bytes(self) -> bytes:
        """Return the note's bytes: those that `parse` read."""
        return (self.text + "\n" + "".join(signature.line() for signature in self.signatures)).encode()

    def by(self, key: NoteKey) -> tuple[NoteSignature, ...]:
        """Return the lines that claim to be of ``key``."""
        wanted = (key.name, key.id)
        return tuple(one for one in self.signatures if (one.name, one.id) == wanted)

    def signed_by(self, keys: Iterable[NoteKey]) -> frozenset[NoteKey]:
        """Return which of the ``keys`` of type 01 signed this text.

        Raises:
            NoteError: a line claims to be of one of the keys and its signature does not hold.
        """
        found: set[NoteKey] = set()
        for key in keys:
            if key.type is not NoteType.ED25519:
                raise NoteError("a cosignature key does not sign a note's text", where=key.name)
            for signature in self.by(key):
                require_signature(key, signature.blob, self.text.encode())
                found.add(key)
        return frozenset(found)


def require_signature(key: NoteKey, signature: bytes, message: bytes) -> None:
    """Return if ``signature`` (bytes[64]) of ``key`` holds over ``message``.

    Raises:
        NoteError: it does not.
    """
    try:
        key.key.verify(signature, message)
    except (SignatureError, WeakKeyError):
        raise NoteError("the signature of a known key does not hold", where=key.name) from None


def sign_note(text: str, name: str, signer: Signer) -> bytes:
    """Return the note of ``text``, which ends in a newline, signed with a key of type 01.

    Raises:
        NoteError: the text, the name or the key is not of the promised form.
    """
    key = NoteKey(name, NoteType.ED25519, signer.public)
    if not text.endswith("\n") or any(character < " " and character != "\n" for character in text):
        raise NoteError("a note's text ends in a newline and has no other control character", where="note")
    return Note(text, (NoteSignature(name, key.id, signer.sign(text.encode())),)).to_bytes()


def strict_base64(text: str, where: str) -> bytes:
    """Return the bytes that ``text`` spells in padded standard base64, each value having one spelling.

    Raises:
        NoteError: anything else.
    """
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise NoteError("not strict base64", where=where) from None
    if base64.b64encode(data).decode() != text:
        raise NoteError("base64 with stray trailing bits", where=where)
    return data
