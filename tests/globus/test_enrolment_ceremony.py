"""The whole ceremony by command: two sites enrol, the server admits, all sign, the federation runs, and the log tells."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import Result

from counterseal.audit.events import AccessDenied, Event, KeyEnrol, MemberAdd
from counterseal.runtime.api import run_federation
from counterseal.runtime.assembly import open_site
from counterseal.runtime.cli.timeline import lines, read_copy
from counterseal.runtime.config import load_server, load_site
from counterseal.runtime.globus.credentials import GROUPS_VIEW_SCOPE
from counterseal.runtime.training.plugins import file_digest
from counterseal.tests.federation import DirectTransport
from counterseal.tests.globus.enrolment_world import ENDPOINT, MFA, log_in, private
from counterseal.tests.runtime.cli_world import LOADER, call, document
from counterseal.tests.standin.cloud import Cloud
from counterseal.trust.canonical import canonical
from counterseal.trust.errors import SignatureError

NAMES = ("anna", "berta", "carla")
PASSPHRASE = "nobody-guesses-this-4711"


@pytest.fixture(autouse=True)
def no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@dataclass
class Ceremony:
    """The folders of a server and of three sites, of which the third is no member yet."""

    cloud: Cloud
    folder: Path
    server: str
    native: str
    group: str
    people: dict[str, str]

    @property
    def config(self) -> Path:
        return self.folder / "server" / "server.yaml"

    @property
    def statement(self) -> Path:
        return self.folder / "server" / "key-statement.counterseal.json"

    @property
    def fingerprint(self) -> str:
        return str(document(call("keys", "show", self.folder / "server" / "keys", "--json"))["keys"]["seal"])

    def site(self, name: str) -> Path:
        return self.folder / name / "site.yaml"

    def enrol(self, name: str, *options: object) -> Result:
        told = ("--server-statement", self.statement, "--fingerprint", self.fingerprint)
        return call("site", "enrol", "--config", self.site(name), *told, *options)

    def sealed(self, name: str) -> Path:
        return self.folder / name / "enrolment" / f"{self.people[name]}.enrolment.counterseal.json"

    def admit(self, *names: str, options: tuple[object, ...] = ()) -> Result:
        return call(
            "server", "admit", "--config", self.config, "--group", self.group, *options, *map(self.sealed, names)
        )

    def log(self) -> list[Event]:
        copy = read_copy(self.folder / "server" / "log")
        return [line.event for line in lines(copy.leaves) if line.event is not None]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key folders that the tests copy, since drawing and encrypting keys takes long."""
    folder = tmp_path_factory.mktemp("keys")
    secret = private(folder / "passphrase", PASSPHRASE)
    for name in ("server", *NAMES):
        operator = ["--operator"] if name == "server" else []
        assert call("keys", "new", folder / name, *operator, "--passphrase-file", secret).exit_code == 0
    return folder


@pytest.fixture
def ceremony(cloud: Cloud, tmp_path: Path, keys: Path) -> Ceremony:
    server, secret = cloud.client("server")
    cloud.scope(server, "enrol")
    native = cloud.native()
    people = {name: cloud.person(f"{name}@uni.example") for name in NAMES}
    members = {server: ("manager", "active")} | {people[name]: ("member", "active") for name in NAMES[:2]}
    group = cloud.group("heart", members, members_visible=True)
    made = Ceremony(cloud, tmp_path, server, native, group, people)
    private(tmp_path / "server" / "secret", secret)
    for name in ("server", *NAMES):
        private(tmp_path / name / "passphrase", PASSPHRASE)
        shutil.copytree(keys / name, tmp_path / name / "keys")
    _write_server(made)
    for number, name in enumerate(NAMES):
        _write_site(made, name, number)
    return made


def _common(identity: str) -> dict[str, Any]:
    return {
        "identity": identity,
        "charter": "charter",
        "keys": "keys",
        "passphrase": {"file": "passphrase"},
        "state": "state",
        "store": {"kind": "directory", "path": "../store"},
    }


def _write_server(made: Ceremony) -> None:
    globus = {"client_id": made.server, "client_secret": {"file": "secret"}, "clients": [made.native]}
    transport = {"kind": "local", "sites": {made.people[name]: f"../{name}/site.yaml" for name in NAMES[:2]}}
    run = {
        "name": "run-1",
        "rounds": 1,
        "seed": 3,
        "model": {"name": "logistic", "parameters": {"inputs": 6, "classes": 3}},
        "trainer": {
            "name": "numpy-linear",
            "optimizer": {"name": "sgd", "parameters": {"lr": 0.5}},
            "epochs": 1,
            "batch_size": 10,
        },
        "aggregation": {"clip_norm": 2.0},
        "minimum_sites": 2,
        "round_seconds": 60,
    }
    value = {
        **_common(made.server),
        "globus": {**globus, "insecure_test_cloud": made.cloud.url},
        "log": "log",
        "transport": transport,
        "run": run,
    }
    made.config.write_text(yaml.safe_dump(value))
    told = call(
        *("keys", "statement", made.folder / "server" / "keys", "--federation", "heart", "--identity", made.server),
        *("--log-origin", "heart.example/log", "--out", made.statement),
        *("--passphrase-file", made.folder / "server" / "passphrase"),
    )
    assert told.exit_code == 0, told.output


def _write_site(made: Ceremony, name: str, number: int) -> None:
    loader = made.folder / name / "loader.py"
    loader.write_text(LOADER)
    value = {
        **_common(made.people[name]),
        "globus": {
            "client_id": made.native,
            "tokens": "tokens.db",
            "server_client": made.server,
            "insecure_test_cloud": made.cloud.url,
        },
        "loader": {"file": "loader.py", "sha256": file_digest(loader), "parameters": {"seed": number}},
        "unprotected": True,
    }
    made.site(name).write_text(yaml.safe_dump(value))


def _log_in(made: Ceremony, name: str, session: Any = MFA, enrol: bool = True) -> None:
    settings = load_site(made.site(name))
    assert settings.globus is not None
    scopes = GROUPS_VIEW_SCOPE + (f" https://auth.globus.org/scopes/{made.server}/enrol" if enrol else "")
    log_in(settings.globus, made.cloud, made.people[name], scopes, session)


def _found(made: Ceremony) -> str:
    """Write, sign and hand out the charter of what was admitted; return its digest."""
    proposal = made.folder / "server" / "proposal"
    shutil.copy(made.statement, proposal / "statements" / "server.key-statement.counterseal.json")
    sites = [
        {
            "identity": made.people[name],
            "name": name.title(),
            "roles": ["site"],
            "weight": 1.0,
            "statement": f"statements/{made.people[name]}.key-statement.counterseal.json",
        }
        for name in NAMES[:2]
    ]
    server = {"identity": made.server, "name": "Server", "roles": ["server"]}
    charter = {
        "version": 1, "previous": None, "federation": "heart", "title": "Hearts", "log_origin": "heart.example/log",
        "group": {"id": made.group, "authorizer": "globus"}, "suite": "MLKEM768_X25519",
        "members": [{**server, "statement": "statements/server.key-statement.counterseal.json"}, *sites],
        "server": made.server, "quorum": {"k": 2, "f": 1}, "cosign_lag": 1, "commit_before_upload": True, "max_staleness": 0,
        "limits": {"update_bytes": 1 << 20, "norm_bound": 1000.0, "ticket_seconds": 60, "round_seconds": 60},
        "aggregation": {"rule": "norm-clipped-fedavg", "clip_norm": 2.0}, "dispute_window_seconds": 3600,
    }  # fmt: skip
    draft = proposal / "charter.yaml"
    draft.write_text(yaml.safe_dump(charter, sort_keys=False))
    checked = call("charter", "check", draft, "--json")
    assert checked.exit_code == 0, checked.output
    digest = str(document(checked)["digest"])
    parties = {"server": made.server} | {name: made.people[name] for name in NAMES[:2]}
    for folder, identity in parties.items():
        home = made.folder / folder
        own = ("--keys", home / "keys", "--identity", identity, "--passphrase-file", home / "passphrase")
        signed = call("charter", "sign", draft, *own, "--digest", digest, "--out", proposal)
        assert signed.exit_code == 0, signed.output
    words = sorted(proposal.glob("*.charter-signature.counterseal.json"))
    done = call("charter", "assemble", draft, *words, "--out", made.folder / "charter")
    assert done.exit_code == 0, done.output
    for folder in parties:
        shutil.copytree(made.folder / "charter", made.folder / folder / "charter")
    return digest


def _run(made: Ceremony) -> Any:
    sites = {made.people[name]: open_site(load_site(made.site(name))) for name in NAMES[:2]}
    try:
        return run_federation(load_server(made.config), transport=DirectTransport(sites))
    finally:
        for site in sites.values():
            site.close()


def test_the_whole_ceremony(ceremony: Ceremony) -> None:
    for name in NAMES:
        _log_in(ceremony, name)
        made = ceremony.enrol(name, "--endpoint", ENDPOINT)
        assert made.exit_code == 0, made.output
    admitted = ceremony.admit("anna", "berta")
    assert admitted.exit_code == 0, admitted.output
    for name in NAMES[:2]:
        assert f'- identity: "{ceremony.people[name]}"' in admitted.output
        assert f'"{ceremony.people[name]}": "{ENDPOINT}"' in admitted.output
    refused = ceremony.admit("carla")
    assert (refused.exit_code, "not_a_member" in refused.output) == (1, True), refused.output
    digest = _found(ceremony)

    assert _run(ceremony).outcome == "completed"
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
    _run(ceremony)
    assert len(ceremony.log()) == size, "a second start logs enrolments again"
    shown = call("audit", "show", ceremony.folder / "server" / "log", "--site", ceremony.people["anna"])
    assert "key.enrol" in shown.output


def test_a_member_that_nobody_admitted_is_named(ceremony: Ceremony) -> None:
    for name in NAMES[:2]:
        _log_in(ceremony, name)
        assert ceremony.enrol(name).exit_code == 0
    assert ceremony.admit("anna").exit_code == 0
    for path in (ceremony.folder / "berta" / "enrolment").glob("*.key-statement.counterseal.json"):
        shutil.copy(path, ceremony.folder / "server" / "proposal" / "statements")
    digest = _found(ceremony)
    assert _run(ceremony).outcome == "completed"
    verified = call("audit", "verify", ceremony.folder / "server" / "log", "--digest", digest)
    assert verified.exit_code == 0, verified.output
    told = " ".join(verified.output.split())
    assert "never admitted with a token" in told
    assert told.count(ceremony.people["berta"]) >= 1


def test_a_record_that_the_server_did_not_write_stops_it(ceremony: Ceremony) -> None:
    for name in NAMES[:2]:
        _log_in(ceremony, name)
        assert ceremony.enrol(name).exit_code == 0
    assert ceremony.admit("anna", "berta").exit_code == 0
    _found(ceremony)
    record = next((ceremony.folder / "server" / "state" / "admissions").glob("*.admission.counterseal.json"))
    value = json.loads(record.read_text())
    text = value["signatures"][0]["sig"]
    value["signatures"][0]["sig"] = text[:40] + ("A" if text[40] != "A" else "B") + text[41:]
    record.write_bytes(canonical(value))
    with pytest.raises(SignatureError):
        _run(ceremony)
    assert not (ceremony.folder / "server" / "log" / "checkpoints").exists()


# The site's side.


def test_the_token_is_nowhere_at_the_site(ceremony: Ceremony, monkeypatch: pytest.MonkeyPatch) -> None:
    from counterseal.runtime.globus.credentials import Login

    given: list[str] = []
    real = Login.access_token

    def remember(self: Login, scope: str) -> str:
        given.append(real(self, scope))
        return given[-1]

    monkeypatch.setattr(Login, "access_token", remember)
    _log_in(ceremony, "anna")
    made = ceremony.enrol("anna")
    assert made.exit_code == 0
    assert len(given) == 1
    for path in [*ceremony.folder.rglob("*")]:
        if path.is_file():
            assert given[0].encode() not in path.read_bytes(), path
    assert given[0] not in made.output
    admitted = ceremony.admit("anna", options=("--json",))
    assert admitted.exit_code == 0, admitted.output
    for path in (ceremony.folder / "server").rglob("*"):
        if path.is_file():
            assert given[0].encode() not in path.read_bytes(), path
    assert given[0] not in admitted.output


def test_a_wrong_fingerprint_asks_nobody_and_writes_nothing(ceremony: Ceremony) -> None:
    _log_in(ceremony, "anna")
    asked = len(ceremony.cloud.requests)
    told = ("--server-statement", ceremony.statement, "--fingerprint", "0" * 64)
    result = call("site", "enrol", "--config", ceremony.site("anna"), *told)
    assert result.exit_code == 1
    assert "Send nothing" in result.output
    assert len(ceremony.cloud.requests) == asked
    assert not (ceremony.folder / "anna" / "enrolment").exists()
    short = call(
        "site", "enrol", "--config", ceremony.site("anna"), *told[:2], "--fingerprint", ceremony.fingerprint[:60]
    )
    assert short.exit_code == 1


def test_the_fingerprint_is_asked_for_and_never_shown(ceremony: Ceremony) -> None:
    _log_in(ceremony, "anna")
    known = ceremony.fingerprint
    ask = ("site", "enrol", "--config", ceremony.site("anna"), "--server-statement", ceremony.statement)
    nothing = call(*ask, stdin="")
    assert (nothing.exit_code, known[:16] in nothing.output.replace(" ", "").lower()) == (1, False)
    wrong = call(*ask, "--fingerprint", "0" * 64)
    assert known[:16] not in wrong.output.replace(" ", "").lower()
    typed = " ".join(known[at : at + 4] for at in range(0, 64, 4)).upper()
    assert call(*ask, stdin=f"{typed}\n").exit_code == 0


def test_another_enrolment_is_not_overwritten(ceremony: Ceremony) -> None:
    _log_in(ceremony, "anna")
    assert ceremony.enrol("anna").exit_code == 0
    first = ceremony.sealed("anna").read_bytes()
    asked = len(ceremony.cloud.requests)
    again = ceremony.enrol("anna")
    assert (again.exit_code, "made here before" in again.output) == (1, True)
    assert ceremony.sealed("anna").read_bytes() == first
    assert len(ceremony.cloud.requests) == asked
    assert ceremony.enrol("anna", "--out", ceremony.folder / "second").exit_code == 0


def test_a_login_without_the_scope_is_told_the_command(ceremony: Ceremony) -> None:
    _log_in(ceremony, "anna", enrol=False)
    result = ceremony.enrol("anna", "--json")
    assert result.exit_code == 1
    fault = document(result)["error"]
    assert fault["code"] == "login_needed"
    assert f"counterseal login --config {ceremony.site('anna')} --scope enrol --mfa" in fault["mend"]
    assert not (ceremony.folder / "anna" / "enrolment").exists()


def test_nobody_logged_in(ceremony: Ceremony) -> None:
    result = ceremony.enrol("anna", "--json")
    assert document(result)["error"]["code"] == "login_needed"


def test_not_a_servers_statement(ceremony: Ceremony) -> None:
    _log_in(ceremony, "anna")
    assert ceremony.enrol("anna").exit_code == 0
    own = next((ceremony.folder / "anna" / "enrolment").glob("*.key-statement.counterseal.json"))
    told = ("--server-statement", own, "--fingerprint", "0" * 64, "--out", ceremony.folder / "other")
    result = call("site", "enrol", "--config", ceremony.site("anna"), *told)
    assert (result.exit_code, "no checkpoint key" in result.output) == (1, True)


@pytest.mark.parametrize(
    ("option", "value"), [("--endpoint", "ABC"), ("--endpoint", ENDPOINT.upper()), ("--nonce", "1")]
)
def test_a_value_that_is_none_is_wrong_usage_and_costs_no_token(ceremony: Ceremony, option: str, value: str) -> None:
    _log_in(ceremony, "anna")
    asked = len(ceremony.cloud.requests)
    assert ceremony.enrol("anna", option, value).exit_code == 2
    assert len(ceremony.cloud.requests) == asked


def test_a_server_that_is_not_named(ceremony: Ceremony) -> None:
    text = ceremony.site("anna").read_text()
    ceremony.site("anna").write_text("".join(row for row in text.splitlines(True) if "server_client" not in row))
    result = ceremony.enrol("anna")
    assert (result.exit_code, "server_client" in result.output) == (1, True)


# The server's side.


def test_without_a_group_the_command_says_what_is_missing(ceremony: Ceremony) -> None:
    _log_in(ceremony, "anna")
    ceremony.enrol("anna")
    result = call("server", "admit", "--config", ceremony.config, ceremony.sealed("anna"))
    assert (result.exit_code, "--group" in result.output) == (1, True)


def test_an_outage_is_the_environments_fault_and_decides_nothing(ceremony: Ceremony) -> None:
    _log_in(ceremony, "anna")
    ceremony.enrol("anna")
    ceremony.cloud.fault("groups", "/v2", status=503, times=None)
    assert ceremony.admit("anna").exit_code == 3
    ceremony.cloud.clear_faults()
    assert ceremony.admit("anna").exit_code == 0


def test_one_refusal_does_not_hold_up_the_others(ceremony: Ceremony) -> None:
    for name, session in (("anna", {"amr": ["pwd"]}), ("berta", MFA)):
        _log_in(ceremony, name, session)
        ceremony.enrol(name)
    broken = ceremony.folder / "broken.enrolment.counterseal.json"
    broken.write_text("{}")
    result = ceremony.admit("anna", "berta", options=("--json", broken))
    assert result.exit_code == 1
    rows = document(result)["decisions"]
    assert [row["reason"] if not row["admitted"] else "" for row in rows] == ["malformed", "mfa_missing", ""]
    assert list(document(result)["statements"]) == [ceremony.people["berta"]]


def test_no_mfa_by_the_officers_word(ceremony: Ceremony) -> None:
    _log_in(ceremony, "anna", {"amr": ["pwd"]})
    ceremony.enrol("anna")
    assert ceremony.admit("anna", options=("--no-mfa",)).exit_code == 0


def test_the_nonce_travels_from_the_server_to_the_site_and_back(ceremony: Ceremony) -> None:
    _log_in(ceremony, "anna")
    ceremony.enrol("anna", "--nonce", "1" * 64)
    assert ceremony.admit("anna", options=("--nonce", "2" * 64)).exit_code == 1
    assert ceremony.admit("anna", options=("--nonce", "1" * 64)).exit_code == 0
    assert ceremony.admit("anna", "berta", options=("--nonce", "1" * 64)).exit_code == 2


def test_statements_that_a_crash_cost_are_written_again(ceremony: Ceremony) -> None:
    _log_in(ceremony, "anna")
    ceremony.enrol("anna")
    assert ceremony.admit("anna").exit_code == 0
    folder = ceremony.folder / "server" / "proposal" / "statements"
    (path,) = folder.iterdir()
    path.unlink()
    result = call("server", "admit", "--config", ceremony.config)
    assert (result.exit_code, path.exists()) == (0, True), result.output


def test_a_federation_with_a_roster_enrols_without_tokens(ceremony: Ceremony) -> None:
    ceremony.config.write_text("".join(_without_globus(ceremony.config.read_text())) + "roster: roster.yaml\n")
    site = ceremony.site("anna")
    site.write_text("".join(_without_globus(site.read_text())) + "roster: roster.yaml\n")
    member = {"identity": ceremony.people["anna"], "status": "active", "roles": ["site"]}
    roster = ceremony.folder / "server" / "roster.yaml"
    roster.write_text(yaml.safe_dump({"group": "heart roster", "members": [member]}))
    made = ceremony.enrol("anna")
    assert (made.exit_code, "none: no block globus" in made.output) == (0, True), made.output
    result = call("server", "admit", "--config", ceremony.config, ceremony.sealed("anna"))
    assert (result.exit_code, "no login" in result.output) == (0, True), result.output
    assert ceremony.cloud.requests == []


def _without_globus(text: str) -> list[str]:
    value = yaml.safe_load(text)
    del value["globus"]
    return [yaml.safe_dump(value)]
