"""The whole ceremony: two sites enrol, the server admits, all sign, the federation runs, and the log tells."""

from __future__ import annotations

import json
import shutil

import pytest

from counterseal.audit.events import AccessDenied, KeyEnrol, MemberAdd
from counterseal.tests.globus.ceremony_world import NAMES, Ceremony
from counterseal.tests.globus.enrolment_world import ENDPOINT
from counterseal.tests.runtime.cli_world import call, document
from counterseal.trust.canonical import canonical
from counterseal.trust.errors import SignatureError

pytestmark = pytest.mark.processes  # the stand-in for Globus is a server


@pytest.fixture(autouse=True)
def no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def test_the_whole_ceremony(ceremony: Ceremony) -> None:
    for name in NAMES:
        ceremony.log_in(name)
        made = ceremony.enrol(name, "--endpoint", ENDPOINT)
        assert made.exit_code == 0, made.output
    admitted = ceremony.admit("anna", "berta")
    assert admitted.exit_code == 0, admitted.output
    for name in NAMES[:2]:
        assert f'- identity: "{ceremony.people[name]}"' in admitted.output
        assert f'"{ceremony.people[name]}": "{ENDPOINT}"' in admitted.output
    refused = ceremony.admit("carla")
    assert (refused.exit_code, "not_a_member" in refused.output) == (1, True), refused.output
    digest = ceremony.found()

    assert ceremony.run().outcome == "completed"
    events = ceremony.log()
    enrolled = [event for event in events if isinstance(event, KeyEnrol)]
    assert {event.identity for event in enrolled} == {ceremony.people[name] for name in NAMES[:2]}
    added = {event.identity: event.statement for event in events if isinstance(event, MemberAdd)}
    assert all(event.statement == added[event.identity] and event.mfa is True for event in enrolled)
    (denied,) = [event for event in events if isinstance(event, AccessDenied)]
    assert (denied.at, denied.run, denied.decision.reason) == ("enrolment", None, "not_a_member")
    assert denied.decision.identity == ceremony.people["carla"]

    verified = call("audit", "verify", ceremony.folder / "server" / "log", "--digest", digest, "--json")
    assert verified.exit_code == 0, verified.output
    rows = {row["id"]: row for row in document(verified)["obligations"]}
    assert rows["7"]["status"] == "PASS"
    assert "never admitted" not in json.dumps(rows["16"])

    size = len(events)
    ceremony.run()
    assert len(ceremony.log()) == size, "a second start logs enrolments again"
    shown = call("audit", "show", ceremony.folder / "server" / "log", "--site", ceremony.people["anna"])
    assert "key.enrol" in shown.output


def test_a_member_that_nobody_admitted_is_named(ceremony: Ceremony) -> None:
    for name in NAMES[:2]:
        ceremony.log_in(name)
        assert ceremony.enrol(name).exit_code == 0
    assert ceremony.admit("anna").exit_code == 0
    for path in (ceremony.folder / "berta" / "enrolment").glob("*.key-statement.counterseal.json"):
        shutil.copy(path, ceremony.folder / "server" / "proposal" / "statements")
    digest = ceremony.found()
    assert ceremony.run().outcome == "completed"
    verified = call("audit", "verify", ceremony.folder / "server" / "log", "--digest", digest)
    assert verified.exit_code == 0, verified.output
    told = " ".join(verified.output.split())
    assert "never admitted with a token" in told
    assert told.count(ceremony.people["berta"]) >= 1


def test_a_record_that_the_server_did_not_write_stops_it(ceremony: Ceremony) -> None:
    for name in NAMES[:2]:
        ceremony.log_in(name)
        assert ceremony.enrol(name).exit_code == 0
    assert ceremony.admit("anna", "berta").exit_code == 0
    ceremony.found()
    record = next((ceremony.folder / "server" / "state" / "admissions").glob("*.admission.counterseal.json"))
    value = json.loads(record.read_text())
    text = value["signatures"][0]["sig"]
    value["signatures"][0]["sig"] = text[:40] + ("A" if text[40] != "A" else "B") + text[41:]
    record.write_bytes(canonical(value))
    with pytest.raises(SignatureError):
        ceremony.run()
    assert not (ceremony.folder / "server" / "log" / "checkpoints").exists()
