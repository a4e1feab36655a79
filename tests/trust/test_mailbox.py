"""Message files and folders: what is taken, once, and what is refused, with its reason."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterseal.tests.trust.charter_world import NOW, first_statement, founded, keys_of, statement_of
from counterseal.trust import dsse
from counterseal.trust.canonical import canonical
from counterseal.trust.charter.signing import CharterSignature
from counterseal.trust.documents import Signed, sign
from counterseal.trust.errors import (
    MailboxError,
    MalformedError,
    RevokedKeyError,
    SignatureError,
    TrustError,
    UnknownKeyError,
)
from counterseal.trust.keys.signing import SoftwareSigner
from counterseal.trust.keys.validity import KeyHistory
from counterseal.trust.mailbox import KINDS, LIMIT, Mailbox, file_name, keys_at, read_message, write_message
from counterseal.trust.messages import Approval, Evidence, Message, Quarantine, Recovery, Revocation, Rotation

OLD = founded()
HISTORY = KeyHistory.from_charter("heart", OLD.statements.values())
RESOLVER = keys_at(HISTORY, 3)
HEAD: dict[str, Any] = {"federation": "heart", "identity": "anna", "time": NOW}


def _envelope(text: str, signer: str = "bert") -> str:
    return dsse.sign(canonical({"text": text}), kind="ticket", signer=keys_of(signer).signer).decode()


def _approval(**changes: Any) -> Approval:
    value: dict[str, Any] = {
        "subject": "0" * 64, "subject_kind": "release", "decision": "approve", "officer": "A. Berg", "meaning": "reviewed",
    }  # fmt: skip
    return Approval(**(HEAD | value | changes))


def _quarantine(**changes: Any) -> Quarantine:
    value = {"site": "dora", "run": "run-1", "action": "quarantine", "reason": "norm"}
    return Quarantine(**(HEAD | value | changes))


MESSAGES: dict[str, Message] = {
    "charter-signature": CharterSignature(**HEAD, charter="0" * 64),
    "rotation": Rotation(**HEAD, statement=first_statement("anna").raw.decode()),
    "recovery": Recovery(**HEAD, member="dora", statement=first_statement("dora").raw.decode()),
    "revocation": Revocation(**HEAD, member="anna", key="0" * 64, reason="stolen"),
    "approval": _approval(),
    "quarantine": _quarantine(),
    "evidence": Evidence(**HEAD, accused="bert", form="dsse", first=_envelope("yes"), second=_envelope("no")),
}


def _signed(message: Message, by: str = "anna") -> Signed[Any]:
    return sign(message, keys_of(by).signer)


def _read(path: Path) -> Signed[Any]:
    return read_message(path, RESOLVER, federation="heart", now=NOW)


def test_every_kind_is_here() -> None:
    assert set(KINDS) == {*MESSAGES, "enrolment"}


@pytest.mark.parametrize("kind", MESSAGES)
@pytest.mark.parametrize("name", ["", "from-anna"])
def test_every_kind_travels(tmp_path: Path, kind: str, name: str) -> None:
    signed = _signed(MESSAGES[kind])
    path = write_message(tmp_path, signed, name)
    assert path.name == (f"{name}.{kind}.counterseal.json" if name else f"{kind}.counterseal.json")
    assert _read(path) == signed
    assert write_message(tmp_path, signed, name) == path  # the same again is no error


def test_evidence_carries_both_texts_verbatim(tmp_path: Path) -> None:
    first, second = _envelope("yes"), _envelope("no")
    evidence = Evidence(**HEAD, accused="bert", form="dsse", first=first, second=second)
    found = _read(write_message(tmp_path, _signed(evidence))).document
    assert (found.first, found.second) == (first, second)
    for text in (found.first, found.second):
        dsse.read(text.encode()).verify(keys_of("bert").signer.public, kind="ticket")


def _ticket_of_other_kind() -> str:
    return dsse.sign(b"{}", kind="receipt", signer=keys_of("bert").signer).decode()


@pytest.mark.parametrize(("form", "first", "second", "what"), [
    ("dsse", lambda: _envelope("yes"), lambda: _envelope("yes"), "says the same"),
    ("dsse", lambda: _envelope("yes"), lambda: _envelope("no", "cleo"), "another signer"),
    ("dsse", lambda: _envelope("yes"), _ticket_of_other_kind, "another signer, kind"),
    ("dsse", lambda: _envelope("yes"), lambda: "{}", "envelope"),
    ("dsse", lambda: "x", lambda: "y", "JSON"),
    ("note", lambda: "a\n1\nx\n\n— a b\n", lambda: "b\n1\nx\n\n— a b\n", "origin"),
    ("note", lambda: "a\n1\nx\n\n— a b\n", lambda: "a\n1\nx\n\n— a c\n", "says the same"),
    ("note", lambda: "a", lambda: "b", "signed note"),
])  # fmt: skip
def test_what_contradicts_nothing_is_no_evidence(
    form: Any, first: Callable[[], str], second: Callable[[], str], what: str
) -> None:
    with pytest.raises(ValueError, match=what):
        Evidence(**HEAD, accused="bert", form=form, first=first(), second=second())


def test_two_checkpoints_of_one_log_are_evidence() -> None:
    Evidence(**HEAD, accused="server", form="note", first="a\n1\nx\n\n— a b\n", second="a\n1\ny\n\n— a c\n")


def test_nobody_vouches_for_itself() -> None:
    with pytest.raises(ValueError, match="nobody vouches"):
        Recovery(**HEAD, member="anna", statement="x")


@pytest.mark.parametrize(("kind", "name"), [
    ("approval", "../x"), ("approval", "a.b"), ("approval", "A"), ("approval", "a b"), ("approval", "-a"),
    ("approval", "x" * 65), ("ticket", ""), ("", ""), ("../approval", ""), ("approval\n", ""), ("Approval", ""),
])  # fmt: skip
def test_names_that_are_no_message_names(kind: str, name: str) -> None:
    with pytest.raises(MailboxError):
        file_name(kind, name)


def test_another_message_under_a_taken_name_is_not_written(tmp_path: Path) -> None:
    path = write_message(tmp_path, _signed(_approval()))
    before = path.read_bytes()
    with pytest.raises(MailboxError, match="another message has that name"):
        write_message(tmp_path, _signed(_approval(decision="reject")))
    assert path.read_bytes() == before


Make = Callable[[Path], Path]


def _file(raw: bytes, name: str = "approval.counterseal.json") -> Make:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(raw)
        return path

    return make


def _link(folder: Path) -> Path:
    target = _file(_signed(_approval()).raw, "real")(folder.parent)
    path = folder / "approval.counterseal.json"
    path.symlink_to(target)
    return path


def _pipe(folder: Path) -> Path:
    path = folder / "approval.counterseal.json"
    os.mkfifo(path)
    return path


def _directory(folder: Path) -> Path:
    path = folder / "approval.counterseal.json"
    path.mkdir()
    return path


def _tampered() -> bytes:
    raw = _signed(_approval()).raw
    place = raw.index(b'"sig":"') + 10
    return raw[:place] + (b"A" if raw[place : place + 1] != b"A" else b"B") + raw[place + 1 :]


def _stranger() -> bytes:
    return sign(_approval(identity="zoe"), keys_of("zoe").signer).raw


def _plain_enrolment() -> bytes:
    from counterseal.trust.messages import Enrolment

    return _signed(Enrolment(**HEAD, server_key="0" * 64, statement="x")).raw


def _extra_field() -> bytes:
    payload = canonical(_approval().model_dump(mode="json") | {"also": 1})
    return dsse.sign(payload, kind="approval", signer=keys_of("anna").signer)


ATTACKS: dict[str, tuple[Make, type[TrustError], str]] = {
    "another kind in the name": (_file(_signed(_quarantine()).raw), MailboxError, "the envelope quarantine"),
    "a kind that does not travel": (_file(b"{}", "ticket.counterseal.json"), MailboxError, "name of a message"),
    "a name with a space": (_file(b"{}", "a b.approval.counterseal.json"), MailboxError, "name of a message"),
    "a name with a line break": (_file(b"{}", "a\n.approval.counterseal.json"), MailboxError, "name of a message"),
    "a hidden kind": (_file(b"{}", "a.b.approval.counterseal.json"), MailboxError, "name of a message"),
    "a symbolic link": (_link, MalformedError, "symbolic link"),
    "a pipe": (_pipe, MalformedError, "not a regular file"),
    "a folder": (_directory, MalformedError, "not a regular file"),
    "too large": (_file(b" " * (LIMIT + 1)), MalformedError, "more than"),
    "empty": (_file(b""), MalformedError, "JSON"),
    "no envelope": (_file(b"[]"), MalformedError, "envelope"),
    "an unknown field": (_file(_extra_field()), MalformedError, "also"),
    "another federation": (_file(_signed(_approval(federation="lung")).raw), MailboxError, "addressed to"),
    "from the future": (_file(_signed(_approval(time=NOW + 301)).raw), MailboxError, "future"),
    "a stranger": (_file(_stranger()), UnknownKeyError, "zoe"),
    "in another's name": (_file(_signed(_approval(), "bert").raw), UnknownKeyError, "anna has no sign key"),
    "the cosign key": (_file(sign(_approval(), keys_of("anna").cosigner).raw), UnknownKeyError, "no sign key"),
    "a key out of nowhere": (_file(sign(_approval(), SoftwareSigner.generate()).raw), UnknownKeyError, "no sign key"),
    "a changed signature": (_file(_tampered()), SignatureError, "does not hold"),
    "an enrolment in clear": (_file(_plain_enrolment(), "enrolment.counterseal.json"), MailboxError, "opened with"),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_messages_that_are_not_taken(tmp_path: Path, name: str) -> None:
    make, kind, what = ATTACKS[name]
    folder = tmp_path / "in"
    folder.mkdir()
    with pytest.raises(kind) as caught:
        _read(make(folder))
    assert what in caught.value.what


@pytest.mark.parametrize("name", ATTACKS)
def test_a_bad_message_is_set_aside_with_its_reason_and_holds_nobody_up(tmp_path: Path, name: str) -> None:
    make, kind, _ = ATTACKS[name]
    box = Mailbox(tmp_path / "box", "heart")
    make(box.inbox)
    good = write_message(box.inbox, _signed(_quarantine()), "zz")
    assert [one.path for one in box.receive(RESOLVER, now=NOW)] == [good]
    assert [path.name for path in box.inbox.iterdir()] == [good.name]
    (reason,) = box.refused.glob("*.reason")
    expected = "mailbox" if name == "an enrolment in clear" else kind.code
    assert reason.read_text() == f"{expected}\n"
    assert os.path.lexists(reason.with_suffix(".refused"))


def test_a_revoked_key_speaks_no_more(tmp_path: Path) -> None:
    history = HISTORY.revoke(keys_of("anna").signer.public.key_id, at=5)
    path = write_message(tmp_path, _signed(_approval()))
    read_message(path, keys_at(history, 4), federation="heart", now=NOW)
    with pytest.raises(RevokedKeyError):
        read_message(path, keys_at(history, 5), federation="heart", now=NOW)


def test_each_message_is_taken_once(tmp_path: Path) -> None:
    box = Mailbox(tmp_path, "heart")
    signed = _signed(_approval())
    write_message(box.inbox, signed, "one")
    write_message(box.inbox, signed, "two")
    (received,) = box.receive(RESOLVER, now=NOW)
    assert received.kind == "approval"
    (again,) = box.receive(RESOLVER, now=NOW)  # until it is finished
    assert again.message == received.message
    assert not box.is_done(signed.digest)
    box.finish(received)
    assert box.is_done(signed.digest)
    assert box.receive(RESOLVER, now=NOW) == ()
    write_message(box.inbox, signed, "three")
    assert box.receive(RESOLVER, now=NOW) == ()
    assert list(box.inbox.iterdir()) == []
    assert list(box.refused.iterdir()) == []


def test_once_is_by_content_even_if_the_signature_differs(tmp_path: Path) -> None:
    """ECDSA signs the same text differently each time; a second vote in other bytes is still the same vote."""
    signer = SoftwareSigner.generate("p384")
    one, two = sign(_approval(), signer), sign(_approval(), signer)
    assert one.raw != two.raw and one.digest == two.digest
    box = Mailbox(tmp_path, "heart")
    write_message(box.inbox, one, "one")
    (received,) = box.receive(lambda identity, key_id: signer.public, now=NOW)
    box.finish(received)
    write_message(box.inbox, two, "two")
    assert box.receive(lambda identity, key_id: signer.public, now=NOW) == ()


class _Killed(BaseException):
    pass


def _steps(act: Callable[[Callable[[str], None]], object]) -> list[str]:
    steps: list[str] = []
    act(steps.append)
    return steps


def _whole_life(folder: Path, probe: Callable[[str], None]) -> list[str]:
    """Take what waits and finish it; return the digests that were acted upon."""
    box = Mailbox(folder, "heart", probe=probe)
    acted = []
    for received in box.receive(RESOLVER, now=NOW):
        acted.append(received.message.digest)
        box.finish(received)
    return acted


def _fill(folder: Path) -> Mailbox:
    box = Mailbox(folder, "heart")
    write_message(box.inbox, _signed(_approval()), "a")
    write_message(box.inbox, _signed(_approval()), "b")
    _file(_tampered(), "c.approval.counterseal.json")(box.inbox)
    write_message(box.inbox, _signed(_quarantine()), "d")
    return box


def test_killed_at_any_step_nothing_is_lost_and_nothing_bad_gets_in(tmp_path: Path) -> None:
    _fill(tmp_path / "count")
    steps = _steps(lambda probe: _whole_life(tmp_path / "count", probe))
    assert len(steps) >= 10
    for kill_at in range(len(steps)):
        folder = tmp_path / str(kill_at)
        box = _fill(folder)
        left = [kill_at]

        def probe(step: str, left: list[int] = left) -> None:
            if left[0] == 0:
                raise _Killed(step)
            left[0] -= 1

        with pytest.raises(_Killed):
            _whole_life(folder, probe)
        for _ in range(2):
            _whole_life(folder, lambda step: None)
        assert box.is_done(_signed(_approval()).digest), steps[kill_at]
        assert box.is_done(_signed(_quarantine()).digest), steps[kill_at]
        assert len(list(box.done.glob("*.counterseal.json"))) == 2
        assert list(box.inbox.glob("[!.]*")) == []
        assert len(list(box.refused.glob("*.refused"))) == 1


def test_an_unreadable_inbox_file_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = Mailbox(tmp_path, "heart")
    write_message(box.inbox, _signed(_approval()), "a")

    def fail(*args: Any, **options: Any) -> bytes:
        raise PermissionError(13, "no")

    monkeypatch.setattr("counterseal.trust.mailbox.read_regular_file", fail)
    assert box.receive(RESOLVER, now=NOW) == ()
    (reason,) = box.refused.glob("*.reason")
    assert reason.read_text() == "unreadable\n"


def test_folders_are_for_the_owner_and_the_outbox_keeps_what_is_posted(tmp_path: Path) -> None:
    box = Mailbox(tmp_path / "box", "heart")
    assert {path.stat().st_mode & 0o777 for path in (box.inbox, box.outbox, box.done, box.refused)} == {0o700}
    path = box.post(_signed(_approval()), "x")
    assert path.parent == box.outbox and _read(path).document == _approval()


@given(st.binary(max_size=400))
def test_no_bytes_raise_anything_but_our_errors(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "approval.counterseal.json"
    path.write_bytes(data)
    with pytest.raises(TrustError):
        _read(path)


def test_a_rotation_is_read_with_the_key_that_it_replaces(tmp_path: Path) -> None:
    new = statement_of(
        "anna", keys_of("anna", 2), previous=first_statement("anna"), previous_signer=keys_of("anna").signer
    )
    path = write_message(tmp_path, _signed(Rotation(**HEAD, statement=new.raw.decode())))
    assert _read(path).document.statement.encode() == new.raw
    history = HISTORY.rotate(new, at=4)
    with pytest.raises(RevokedKeyError):
        read_message(path, keys_at(history, 4), federation="heart", now=NOW)
