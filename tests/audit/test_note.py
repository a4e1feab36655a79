"""Signed notes: the specification's vector, its rules, and everything that is not a note."""

from __future__ import annotations

import base64
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterseal.audit.errors import NoteError
from counterseal.audit.tlog.note import Note, NoteKey, NoteSignature, NoteType, sign_note
from counterseal.trust.errors import WeakKeyError
from counterseal.trust.keys.signing import SoftwareSigner, VerifyingKey

VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
LINE = "\u2014 example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
NOTE = "This is an example message.\n\n" + LINE
STRANGER = NoteSignature("stranger.example", b"\1\2\3\4", bytes(64)).line()


def test_the_vector_of_the_specification() -> None:
    key = NoteKey.from_vkey(VKEY)
    note = Note.parse(NOTE.encode())
    assert note.text == "This is an example message.\n"
    assert note.signed_by([key]) == {key}
    assert key.vkey() == VKEY
    assert note.to_bytes() == NOTE.encode()


def test_text_ends_at_the_last_blank_line(signer: SoftwareSigner) -> None:
    text = "one\n\n\u2014 not.a/signature AAAAAAAA\n\nfour\n"
    note = Note.parse(sign_note(text, "log.example", signer))
    assert note.text == text
    assert note.signed_by([NoteKey("log.example", NoteType.ED25519, signer.public)])


def test_unknown_keys_are_ignored_even_with_half_a_known_name() -> None:
    key = NoteKey.from_vkey(VKEY)
    same_name = NoteSignature(key.name, b"\0\0\0\0", bytes(64)).line()
    same_id = NoteSignature("other.example", key.id, bytes(64)).line()
    note = Note.parse((NOTE + STRANGER + same_name + same_id).encode())
    assert note.signed_by([key]) == {key}


def test_a_known_key_with_a_bad_signature_rejects_the_whole_note(signer: SoftwareSigner) -> None:
    first = NoteKey.from_vkey(VKEY)
    second = NoteKey("second.example", NoteType.ED25519, signer.public)
    forged = NoteSignature(second.name, second.id, bytes(64)).line()
    with pytest.raises(NoteError, match="does not hold"):
        Note.parse((NOTE + forged).encode()).signed_by([first, second])


def test_a_key_counts_once_and_its_second_line_must_hold_too() -> None:
    key = NoteKey.from_vkey(VKEY)
    assert Note.parse((NOTE + LINE).encode()).signed_by([key]) == {key}
    with pytest.raises(NoteError):
        Note.parse((NOTE + NoteSignature(key.name, key.id, bytes(64)).line()).encode()).signed_by([key])


def test_a_hundred_signatures_are_read() -> None:
    assert len(Note.parse((NOTE + STRANGER * 99).encode()).signatures) == 100


BAD_NOTES = {
    "empty": "",
    "no signature": "text\n",
    "no signature after the blank line": "text\n\n",
    "no blank line": "text\n" + LINE,
    "no final newline": NOTE[:-1],
    "blank line at the end": NOTE + "\n",
    "carriage return": NOTE.replace("message.\n", "message.\r\n"),
    "NUL": NOTE.replace("This", "Th\0is"),
    "tab": NOTE.replace("This", "Th\tis"),
    "escape": NOTE.replace("This", "\x1b[2Jis"),
    "hyphen for dash": NOTE.replace("\u2014", "-"),
    "two spaces": NOTE.replace("\u2014 ", "\u2014  "),
    "trailing space": NOTE[:-1] + " \n",
    "no name": NOTE.replace("example.com/foo ", " "),
    "plus in the name": NOTE.replace("example.com/foo ", "example.com+foo "),
    "no-break space in the name": NOTE.replace("example.com/foo ", "example.com\u00a0foo "),
    "line separator in the name": NOTE.replace("example.com/foo ", "example.com\u2028foo "),
    "base64 without padding": NOTE.replace("aQM=", "aQM"),
    "base64 with stray bits": NOTE.replace("aQM=", "aQN="),
    "url-safe base64": NOTE.replace("aQM=", "aQ_="),
    "id only": "text\n\n\u2014 a.example AAAAAA==\n",
    "a line that is no signature": NOTE + "hello\n",
}


@pytest.mark.parametrize("name", BAD_NOTES)
def test_bytes_that_are_not_a_note(name: str) -> None:
    with pytest.raises(NoteError):
        Note.parse(BAD_NOTES[name].encode())


def test_not_utf8_and_too_long() -> None:
    with pytest.raises(NoteError, match="UTF-8"):
        Note.parse(NOTE.encode().replace(b"This", b"Th\xff\xfe"))
    with pytest.raises(NoteError, match="longer"):
        Note.parse(b"x" * (1 << 20) + NOTE.encode())


@given(at=st.integers(0, len(NOTE.encode()) - 1), bit=st.integers(0, 7))
def test_no_single_bit_may_change(at: int, bit: int) -> None:
    raw = bytearray(NOTE.encode())
    raw[at] ^= 1 << bit
    with contextlib.suppress(NoteError):
        assert not Note.parse(bytes(raw)).signed_by([NoteKey.from_vkey(VKEY)])


@given(st.binary(max_size=200))
def test_garbage_is_a_typed_error(raw: bytes) -> None:
    with pytest.raises(NoteError):
        Note.parse(raw)


BAD_NAMES = {
    "empty": "",
    "space": "a b",
    "newline": "a\n\u2014 forged.example AAAA",
    "em dash": "a\u2014b",
    "plus": "a+b",
    "escape": "a\x1b[31m",
    "right-to-left override": "a\u202eb",
    "zero width joiner": "a\u200db",
    "no-break space": "a\u00a0b",
    "ideographic space": "a\u3000b",
    "line separator": "a\u2028b",
    "surrogate": "a\ud800",
    "too long": "a" * 256,
}


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_could_pass_for_something_else(name: str, signer: SoftwareSigner) -> None:
    with pytest.raises(NoteError):
        NoteKey(BAD_NAMES[name], NoteType.ED25519, signer.public)
    with pytest.raises(NoteError):
        sign_note("text\n", BAD_NAMES[name], signer)


@pytest.mark.parametrize("text", ["", "no newline", "a\tb\n", "a\0b\n", "a\r\n"])
def test_texts_that_are_not_signed(text: str, signer: SoftwareSigner) -> None:
    with pytest.raises(NoteError):
        sign_note(text, "log.example", signer)


def test_only_ed25519_signs_notes() -> None:
    with pytest.raises(NoteError, match="ed25519"):
        NoteKey("log.example", NoteType.ED25519, SoftwareSigner.generate("p256").public)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.com/foo",
        VKEY.replace("530d903a", "530d903b"),
        VKEY.replace("530d903a", "530D903A"),
        VKEY.replace("example.com/foo", "example.com/fop"),
        VKEY[:-4],
        VKEY + "A",
        "x+00000000+" + base64.b64encode(b"\x02" + bytes(32)).decode(),
    ],
)
def test_bad_vkeys(text: str) -> None:
    with pytest.raises(NoteError):
        NoteKey.from_vkey(text)


def test_a_vkey_of_small_order_is_refused() -> None:
    with pytest.raises(WeakKeyError):
        NoteKey.from_vkey("x+00000000+" + base64.b64encode(b"\x01\x01" + bytes(31)).decode())


def test_types_have_different_ids() -> None:
    public = VerifyingKey("ed25519", NoteKey.from_vkey(VKEY).key.public)
    assert NoteKey("a.example", NoteType.ED25519, public).id != NoteKey("a.example", NoteType.COSIGNATURE, public).id
