"""`site enrol` and `server admit` by command: what they refuse, what they never write down, what they say."""

from __future__ import annotations

import pytest
import yaml

from counterseal.tests.globus.ceremony_world import NAMES, Ceremony
from counterseal.tests.globus.enrolment_world import ENDPOINT, MFA
from counterseal.tests.runtime.cli_world import call, document

pytestmark = pytest.mark.processes  # the stand-in for Globus is a server


@pytest.fixture(autouse=True)
def no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


# The site's side.


def test_the_token_is_nowhere_at_the_site(ceremony: Ceremony, monkeypatch: pytest.MonkeyPatch) -> None:
    from counterseal.runtime.globus.credentials import Login

    given: list[str] = []
    real = Login.access_token

    def remember(self: Login, scope: str) -> str:
        given.append(real(self, scope))
        return given[-1]

    monkeypatch.setattr(Login, "access_token", remember)
    ceremony.log_in("anna")
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
    ceremony.log_in("anna")
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
    ceremony.log_in("anna")
    known = ceremony.fingerprint
    ask = ("site", "enrol", "--config", ceremony.site("anna"), "--server-statement", ceremony.statement)
    nothing = call(*ask, stdin="")
    assert (nothing.exit_code, known[:16] in nothing.output.replace(" ", "").lower()) == (1, False)
    wrong = call(*ask, "--fingerprint", "0" * 64)
    assert known[:16] not in wrong.output.replace(" ", "").lower()
    typed = " ".join(known[at : at + 4] for at in range(0, 64, 4)).upper()
    assert call(*ask, stdin=f"{typed}\n").exit_code == 0


def test_another_enrolment_is_not_overwritten(ceremony: Ceremony) -> None:
    ceremony.log_in("anna")
    assert ceremony.enrol("anna").exit_code == 0
    first = ceremony.sealed("anna").read_bytes()
    asked = len(ceremony.cloud.requests)
    again = ceremony.enrol("anna")
    assert (again.exit_code, "made here before" in again.output) == (1, True)
    assert ceremony.sealed("anna").read_bytes() == first
    assert len(ceremony.cloud.requests) == asked
    assert ceremony.enrol("anna", "--out", ceremony.folder / "second").exit_code == 0


def test_a_login_without_the_scope_is_told_the_command(ceremony: Ceremony) -> None:
    ceremony.log_in("anna", enrol=False)
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
    ceremony.log_in("anna")
    assert ceremony.enrol("anna").exit_code == 0
    own = next((ceremony.folder / "anna" / "enrolment").glob("*.key-statement.counterseal.json"))
    told = ("--server-statement", own, "--fingerprint", "0" * 64, "--out", ceremony.folder / "other")
    result = call("site", "enrol", "--config", ceremony.site("anna"), *told)
    assert (result.exit_code, "no checkpoint key" in result.output) == (1, True)


@pytest.mark.parametrize(
    ("option", "value"), [("--endpoint", "ABC"), ("--endpoint", ENDPOINT.upper()), ("--nonce", "1")]
)
def test_a_value_that_is_none_is_wrong_usage_and_costs_no_token(ceremony: Ceremony, option: str, value: str) -> None:
    ceremony.log_in("anna")
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
    ceremony.log_in("anna")
    ceremony.enrol("anna")
    result = call("server", "admit", "--config", ceremony.config, ceremony.sealed("anna"))
    assert (result.exit_code, "--group" in result.output) == (1, True)


def test_an_outage_is_the_environments_fault_and_decides_nothing(ceremony: Ceremony) -> None:
    ceremony.log_in("anna")
    ceremony.enrol("anna")
    ceremony.cloud.fault("groups", "/v2", status=503, times=None)
    assert ceremony.admit("anna").exit_code == 3
    ceremony.cloud.clear_faults()
    assert ceremony.admit("anna").exit_code == 0


def test_an_outage_in_the_middle_keeps_what_was_decided_before(ceremony: Ceremony) -> None:
    for name in NAMES[:2]:
        ceremony.log_in(name)
        ceremony.enrol(name)
    ceremony.cloud.fault("auth", "/v2/oauth2/token/introspect", delay=0.01)  # the first question is answered
    ceremony.cloud.fault("auth", "/v2/oauth2/token/introspect", status=503, times=None)
    result = ceremony.admit("anna", "berta", options=("--json",))
    assert result.exit_code == 3, result.output
    rows = document(result)["decisions"]
    assert [(row["admitted"], row["decided"]) for row in rows] == [(True, True), (False, False)]
    ceremony.cloud.clear_faults()
    assert ceremony.admit("berta").exit_code == 0
    told = call("server", "admit", "--config", ceremony.config)
    assert told.exit_code == 0
    assert all(ceremony.people[name] in told.output for name in NAMES[:2])


def test_a_file_that_is_not_there_decides_nothing(ceremony: Ceremony) -> None:
    ceremony.log_in("anna")
    ceremony.enrol("anna")
    assert ceremony.admit("anna", "berta").exit_code == 3
    assert "Nobody was admitted" in call("server", "admit", "--config", ceremony.config).output


def test_one_refusal_does_not_hold_up_the_others(ceremony: Ceremony) -> None:
    for name, session in (("anna", {"amr": ["pwd"]}), ("berta", MFA)):
        ceremony.log_in(name, session)
        ceremony.enrol(name)
    broken = ceremony.folder / "broken.enrolment.counterseal.json"
    broken.write_text("{}")
    result = ceremony.admit("anna", "berta", options=("--json", broken))
    assert result.exit_code == 1
    rows = document(result)["decisions"]
    assert [row["reason"] if not row["admitted"] else "" for row in rows] == ["malformed", "mfa_missing", ""]
    assert [member["identity"] for member in document(result)["admitted"]] == [ceremony.people["berta"]]


def test_no_mfa_by_the_officers_word(ceremony: Ceremony) -> None:
    ceremony.log_in("anna", {"amr": ["pwd"]})
    ceremony.enrol("anna")
    assert ceremony.admit("anna", options=("--no-mfa",)).exit_code == 0


def test_the_nonce_travels_from_the_server_to_the_site_and_back(ceremony: Ceremony) -> None:
    ceremony.log_in("anna")
    ceremony.enrol("anna", "--nonce", "1" * 64)
    assert ceremony.admit("anna", options=("--nonce", "2" * 64)).exit_code == 1
    assert ceremony.admit("anna", options=("--nonce", "1" * 64)).exit_code == 0
    assert ceremony.admit("anna", "berta", options=("--nonce", "1" * 64)).exit_code == 2


def test_statements_that_a_crash_cost_are_written_again(ceremony: Ceremony) -> None:
    ceremony.log_in("anna")
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


def test_one_person_under_two_names_is_shown_to_the_officer(ceremony: Ceremony) -> None:
    ceremony.cloud.link(ceremony.people["anna"], ceremony.people["berta"])
    for name in NAMES[:2]:
        ceremony.log_in(name)
        ceremony.enrol(name)
    result = ceremony.admit("anna", "berta", options=("--json",))
    assert result.exit_code == 0, result.output
    told = [row["same_person"] for row in document(result)["decisions"]]
    assert told == [[ceremony.people["berta"]], [ceremony.people["anna"]]]


def test_the_charter_has_the_last_word_about_the_group(ceremony: Ceremony) -> None:
    for name in NAMES[:2]:
        ceremony.log_in(name)
        ceremony.enrol(name)
    assert ceremony.admit("anna", "berta").exit_code == 0
    ceremony.found()
    other = ceremony.cloud.group("mine", {ceremony.server: ("manager", "active")})
    asked = ("server", "admit", "--config", ceremony.config, ceremony.sealed("anna"), "--group")
    result = call(*asked, other)
    assert (result.exit_code, ceremony.group in result.output) == (1, True), result.output
    text = yaml.safe_load(ceremony.config.read_text())
    del text["globus"]
    ceremony.config.write_text(yaml.safe_dump(text | {"roster": "roster.yaml"}))
    result = call(*asked[:-1])
    assert (result.exit_code, "no block globus" in result.output) == (1, True), result.output
