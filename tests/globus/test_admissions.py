"""The records of a server's decisions: private, whole or absent, and believed under its key alone."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from counterseal.runtime.errors import AdmissionError, JournalError
from counterseal.runtime.founding.admissions import Admissions, LinkedIdentities
from counterseal.runtime.founding.desk import publish_statements, statement_file
from counterseal.tests.globus.enrolment_world import Hall, keys_of, private
from counterseal.tests.standin.cloud import Cloud
from counterseal.trust.documents import sign
from counterseal.trust.errors import CustodyError, MailboxError, MalformedError, SignatureError
from counterseal.trust.keys.custody import create_folder
from counterseal.trust.keys.passphrase import Passphrase
from counterseal.trust.keys.signing import SoftwareSigner

pytestmark = pytest.mark.processes  # the stand-in for Globus is a server


@pytest.fixture(autouse=True)
def no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture
def hall(cloud: Cloud, tmp_path: Path) -> Hall:
    return Hall(cloud, tmp_path)


def test_a_record_with_another_name_mode_or_signer_is_no_record(hall: Hall) -> None:
    hall.desk().decide(hall.enrolment())
    (path,) = hall.files
    raw = path.read_bytes()
    moved = path.with_name("0" * 64 + ".admission.counterseal.json")
    path.rename(moved)
    with pytest.raises(SignatureError, match="another enrolment"):
        hall.admissions.records()
    moved.rename(path)
    path.chmod(0o644)
    with pytest.raises(CustodyError):
        hall.admissions.records()
    path.chmod(0o600)
    forged = sign(hall.admissions.records()[0].document, SoftwareSigner.generate())
    path.write_bytes(forged.raw)
    with pytest.raises(SignatureError):
        hall.admissions.records()
    path.write_bytes(raw[:-9])
    with pytest.raises(MalformedError):
        hall.admissions.records()
    path.write_bytes(raw)
    assert len(hall.admissions.records()) == 1


def test_two_commands_do_not_decide_at_once(hall: Hall) -> None:
    with hall.admissions.deciding(), pytest.raises(JournalError, match="another command"):
        hall.desk().decide(hall.enrolment())
    assert hall.files == []


class Killed(BaseException):
    """Stands for the end of the process: no handler of ours may catch it."""


@pytest.mark.parametrize("step", ["admission.write", "admission.publish", "admission.done"])
def test_a_crash_leaves_a_record_or_none(step: str, hall: Hall) -> None:
    raw = hall.enrolment()

    def die(name: str) -> None:
        if name == step:
            raise Killed

    hall.probe = die
    with pytest.raises(Killed):
        hall.desk().decide(raw)
    hall.probe = lambda name: None
    known = hall.admissions.records()
    assert len(known) == (1 if step == "admission.done" else 0)
    if not known:
        assert hall.desk().decide(raw).document.decision.allowed
        return
    with pytest.raises(AdmissionError, match="decided before"):
        hall.desk().decide(raw)
    assert list(publish_statements(hall.admissions, hall.folder / "statements")) == [hall.anna]


def test_statements_are_written_for_the_admitted_alone_and_never_over_others(hall: Hall, cloud: Cloud) -> None:
    otto = cloud.person("otto@uni.example")
    assert hall.refusal(hall.enrolment(hall.token(otto), identity=otto, name="otto")) == "not_a_member"
    hall.desk().decide(hall.enrolment())
    out = hall.folder / "statements"
    assert publish_statements(hall.admissions, out) == {hall.anna: out / statement_file(hall.anna)}
    first = (out / statement_file(hall.anna)).read_bytes()
    (out / statement_file(hall.anna)).unlink()
    publish_statements(hall.admissions, out)
    assert (out / statement_file(hall.anna)).read_bytes() == first
    time.sleep(1)  # records are told apart by their second
    hall.desk().decide(hall.enrolment(name="anna anew"))
    with pytest.raises(MailboxError, match="admission before"):
        publish_statements(hall.admissions, out)
    assert (out / statement_file(hall.anna)).read_bytes() == first


def test_linked_identities_follow_the_folder(hall: Hall, cloud: Cloud) -> None:
    linked = LinkedIdentities(hall.folder / "admissions", keys_of("server").signer.public)
    assert linked() == {}
    hall.desk().decide(hall.enrolment())
    assert linked() == {hall.anna: frozenset({hall.anna})}
    otto = cloud.person("otto@uni.example")
    assert hall.refusal(hall.enrolment(hall.token(otto), identity=otto, name="otto")) == "not_a_member"
    assert set(linked()) == {hall.anna}, "a refusal links nobody"
    stranger = LinkedIdentities(hall.folder / "admissions", keys_of("anna").signer.public)
    with pytest.raises(SignatureError):
        stranger()


def test_the_folder_of_another_server_is_not_believed(hall: Hall) -> None:
    hall.desk().decide(hall.enrolment())
    other = Admissions(hall.folder / "admissions", keys_of("other server").signer.public)
    with pytest.raises(SignatureError):
        other.records()


_ADD = """
import os, sys, time
from pathlib import Path
from counterseal.audit.events import Decision
from counterseal.runtime.founding.admissions import Admission, Admissions
from counterseal.tests.globus.enrolment_world import enrolment_of
from counterseal.trust.keys.custody import load_folder
from counterseal.trust.keys.passphrase import Passphrase

folder, step = Path(sys.argv[1]), sys.argv[2]
signer = load_folder(folder / "keys", Passphrase.from_file(folder / "passphrase")).signer
decision = Decision(identity="anna", role="site", allowed=True, reason="active", source="group", time=1)
raw = enrolment_of("anna", "anna", None).raw.decode()
record = Admission(federation="heart", server="server", time=1, enrolment=raw, decision=decision, rules=None, shown=None)
probe = lambda name: os._exit(9) if name == step else None
with (admissions := Admissions(folder / "admissions", signer.public, probe=probe)).deciding():
    admissions.add(record, signer)
"""


@pytest.mark.parametrize(("step", "whole"), [("admission.write", 0), ("admission.publish", 0), ("admission.done", 1)])
def test_a_killed_command_leaves_no_half_record_and_no_lock(step: str, whole: int, tmp_path: Path) -> None:
    keys, secret = keys_of("server"), private(tmp_path / "passphrase", "nobody-guesses-this-4711")
    create_folder(tmp_path / "keys", keys, Passphrase.from_file(secret))
    done = subprocess.run([sys.executable, "-c", _ADD, str(tmp_path), step], check=False, timeout=60)
    assert done.returncode == 9
    admissions = Admissions(tmp_path / "admissions", keys.signer.public)
    assert len(admissions.records()) == whole
    with admissions.deciding():  # the kernel let go of the dead command's lock
        assert len(LinkedIdentities(tmp_path / "admissions", keys.signer.public)()) == whole
