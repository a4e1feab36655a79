"""`counterseal login` and the file of tokens, against the stand-in; what the SDK does here it does in production."""

from __future__ import annotations

import os
import stat
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from counterseal.runtime.config import GlobusConfig, PassphraseConfig
from counterseal.runtime.errors import (
    GlobusRefusedError,
    GlobusSetupError,
    GlobusUnavailableError,
    LoginNeededError,
)
from counterseal.runtime.globus.authorizer import open_authorizer
from counterseal.runtime.globus.credentials import (
    GROUPS_SERVER,
    GROUPS_VIEW_SCOPE,
    Credentials,
    Login,
    asking,
    enrolment_scope,
)
from counterseal.runtime.globus.login import log_in, log_out, paste, scopes_of, who
from counterseal.tests.standin.cloud import Cloud
from counterseal.trust.errors import CustodyError

from ..runtime.cli_world import call, document

pytestmark = pytest.mark.processes


class Person:
    """A person's laptop: a native application, a configuration of Globus alone, a browser elsewhere."""

    def __init__(self, cloud: Cloud, folder: Path, username: str = "anna@hospital.example") -> None:
        self.cloud = cloud
        self.identity = cloud.person(username)
        self.application = cloud.native()
        self.server, self.secret = cloud.client("server")
        cloud.scope(self.server, "enrol")
        self.tokens = folder / "globus" / "tokens.db"
        self.config = GlobusConfig(
            client_id=self.application,
            tokens=self.tokens,
            server_client=self.server,
            insecure_test_cloud=cloud.url,
        )
        self.file = folder / "globus.yaml"
        self.file.write_text(
            f"globus:\n  client_id: {self.application}\n  tokens: globus/tokens.db\n"
            f"  server_client: {self.server}\n  insecure_test_cloud: {cloud.url}\n"
        )
        cloud.visitor(self.identity)

    def open(self) -> Login:
        found = Credentials.open(self.config)
        assert isinstance(found, Login)
        return found

    def visit(self, address: str) -> str:
        """Open ``address`` in a browser and return the code that the page shows."""
        with urllib.request.urlopen(address) as page:
            return str(urllib.parse.parse_qs(urllib.parse.urlsplit(page.url).query)["code"][0])

    def log_in(self, *names: str, identity: str | None = None, **settings: Any) -> Login:
        login = self.open()
        log_in(login, scopes_of(self.config, names), paste(login, self.visit), identity=identity, **settings)
        return login

    def secrets(self) -> list[str]:
        """Every token in the file."""
        with self.open() as login:
            kept = login.tokens.load().values()
        return [text for data in kept for text in (data.access_token, data.refresh_token) if text]


@pytest.fixture
def person(cloud: Cloud, tmp_path: Path) -> Person:
    return Person(cloud, tmp_path)


# The library -----------------------------------------------------------------------------------------------------------


def test_a_login_is_kept_in_a_private_file_and_opens_groups(person: Person) -> None:
    with person.log_in() as login:
        assert stat.S_IMODE(person.tokens.stat().st_mode) == 0o600
        assert who(login).identity == person.identity
    group = person.cloud.group("heart", {person.identity: ("member", "active")})
    with person.open() as again, asking("test"):
        assert again.groups().get_group(group)["id"] == group


def test_pkce_binds_the_code_to_the_login_that_began(person: Person) -> None:
    """A code that was made for one address is worth nothing in another login, so stealing it is no use."""
    seen: list[str] = []

    def stolen(address: str) -> str:
        seen.append(person.visit(address))
        raise KeyboardInterrupt

    with person.open() as login, pytest.raises(KeyboardInterrupt):
        log_in(login, scopes_of(person.config, ()), paste(login, stolen))
    with person.open() as thief, pytest.raises((LoginNeededError, GlobusRefusedError)):
        log_in(thief, scopes_of(person.config, ()), paste(thief, lambda _: seen[0]))
    assert not person.tokens.exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666, 0o700 | 0o010])
def test_a_file_that_others_can_read_is_not_opened(person: Person, mode: int) -> None:
    person.log_in().close()
    person.tokens.chmod(mode)
    with person.open() as login, pytest.raises(CustodyError, match="lets others in"):
        login.groups()


def test_a_file_behind_a_link_is_not_opened(person: Person) -> None:
    person.log_in().close()
    person.tokens.rename(person.tokens.with_name("elsewhere"))
    person.tokens.symlink_to(person.tokens.with_name("elsewhere"))
    with person.open() as login, pytest.raises(CustodyError, match="symbolic link"):
        login.groups()


def test_a_file_of_somebody_else_is_not_opened(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    person.log_in().close()
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with person.open() as login, pytest.raises(CustodyError, match=f"owned by user {owner}"):
        login.groups()


def test_a_damaged_file_says_so_and_quotes_nothing(person: Person) -> None:
    person.log_in().close()
    token = person.secrets()[0]
    person.tokens.write_bytes(b"not a database " + token.encode())
    with person.open() as login, pytest.raises(GlobusSetupError, match="damaged") as caught:
        login.groups()
    assert token not in str(caught.value) and caught.value.__cause__ is None


def test_an_empty_file_is_a_damaged_one(person: Person) -> None:
    person.tokens.parent.mkdir()
    person.tokens.touch(mode=0o600)
    with person.open() as login, pytest.raises(GlobusSetupError, match="damaged"):
        login.groups()


def test_tokens_of_one_cloud_are_never_shown_to_another(person: Person, tmp_path: Path) -> None:
    person.log_in().close()
    real = GlobusConfig(client_id=person.application, tokens=person.tokens)
    with Credentials.open(real) as login, pytest.raises(LoginNeededError, match="to this application"):
        login.groups()


def test_an_access_token_that_ends_is_renewed_and_written_back(person: Person) -> None:
    person.log_in().close()
    first = {server: data.access_token for server, data in person.open().tokens.load().items()}
    group = person.cloud.group("heart", {person.identity: ("member", "active")})
    person.cloud.revoke(person.identity, refreshes=False)
    with person.open() as login, asking("test"):
        login.groups().get_group(group)
    second = {server: data.access_token for server, data in person.open().tokens.load().items()}
    assert first[GROUPS_SERVER] != second[GROUPS_SERVER]
    assert first.keys() == second.keys()
    with person.open() as login, asking("test"):
        login.groups().get_group(group)  # the refresh token survived the writing back
    assert stat.S_IMODE(person.tokens.stat().st_mode) == 0o600


def test_a_login_that_was_revoked_needs_another(person: Person) -> None:
    person.log_in().close()
    person.cloud.revoke(person.identity)
    with person.open() as login, pytest.raises(LoginNeededError, match="not take this login"), asking("test"):
        login.groups().get_group(person.identity)


def test_nothing_is_asked_of_a_person_where_a_login_lacks_a_scope(person: Person) -> None:
    with person.log_in() as login:
        with pytest.raises(LoginNeededError, match="does not cover"):
            login.groups(write=True)
        with pytest.raises(LoginNeededError, match="does not cover"):
            login.access_token(enrolment_scope(person.server))


def test_a_token_for_enrolling_is_fresh_each_time_and_kept_nowhere(person: Person) -> None:
    with person.log_in("enrol") as login:
        first, second = (login.access_token(enrolment_scope(person.server)) for _ in range(2))
    assert first != second
    kept = person.tokens.read_bytes()
    assert first.encode() not in kept and second.encode() not in kept


def test_whoever_may_change_groups_may_look_at_them(person: Person) -> None:
    with person.log_in("manage") as login:
        assert login.groups() is not login.groups(write=True)
        assert GROUPS_VIEW_SCOPE in login.tokens.load()[GROUPS_SERVER].scope


def test_somebody_else_at_the_browser_is_not_kept(person: Person) -> None:
    stranger = person.cloud.person("eve@elsewhere.example")
    person.cloud.visitor(stranger)
    with pytest.raises(LoginNeededError, match=r"eve@elsewhere\.example logged in"):
        person.log_in(identity=person.identity)
    assert not person.tokens.exists()
    assert all(status == 200 for _, path, status in person.cloud.requests if path.endswith("/revoke"))
    assert any(path.endswith("/revoke") for _, path, _ in person.cloud.requests)


def test_a_linked_identity_is_the_party(person: Person) -> None:
    other = person.cloud.person("anna@university.example", [person.identity])
    person.cloud.visitor(other)
    with person.log_in(identity=person.identity) as login:
        found = who(login)
    assert (found.identity, found.identities) == (other, frozenset({person.identity, other}))


def test_a_new_login_takes_the_place_of_the_old_one(person: Person) -> None:
    person.log_in("manage", "enrol").close()
    old = person.open().tokens.load()[GROUPS_SERVER].refresh_token
    with person.log_in() as login:
        kept = login.tokens.load()
    assert person.server not in kept and "all" not in kept[GROUPS_SERVER].scope.split(":")
    with person.open() as login, pytest.raises(LoginNeededError), asking("test"):
        login.application().oauth2_refresh_token(str(old))


def test_a_login_that_fails_leaves_the_old_one(person: Person) -> None:
    person.log_in().close()
    person.cloud.fault("auth", "/v2/oauth2/userinfo", status=503)
    with pytest.raises(GlobusUnavailableError):
        person.log_in("manage")
    with person.open() as login:
        assert who(login).identity == person.identity


def test_consent_that_was_not_given_for_all_is_not_kept(person: Person) -> None:
    def less(address: str) -> str:
        return person.visit(address.replace(urllib.parse.quote_plus(" " + GROUPS_VIEW_SCOPE), ""))

    with person.open() as login, pytest.raises(LoginNeededError, match="not allowed everything"):
        log_in(login, scopes_of(person.config, ()), paste(login, less))
    assert not person.tokens.exists()


def test_logging_out_revokes_and_removes(person: Person) -> None:
    login = person.log_in("enrol")
    refresh = login.tokens.load()[GROUPS_SERVER].refresh_token
    assert log_out(login) == 3
    assert not person.tokens.exists()
    with pytest.raises(LoginNeededError), asking("test"):
        login.application().oauth2_refresh_token(str(refresh))
    login.close()


def test_a_logout_that_could_not_revoke_removes_nothing(person: Person) -> None:
    with person.log_in() as login:
        person.cloud.close()
        with pytest.raises(GlobusUnavailableError):
            log_out(login)
        person.cloud.open()
        assert login.tokens.load()


def test_another_applications_tokens_in_the_file_stay(person: Person) -> None:
    person.log_in().close()
    other = person.config.model_copy(update={"client_id": person.cloud.native()})
    login = Credentials.open(other)
    assert isinstance(login, Login)
    with login:
        log_in(login, scopes_of(other, ()), paste(login, person.visit))
        log_out(login)
    with person.open() as mine:
        assert who(mine).identity == person.identity


# The command -----------------------------------------------------------------------------------------------------------


def code(person: Person, *scopes: str) -> str:
    """Return the code of a login in a browser far away."""
    return person.cloud.code(person.identity, " ".join(scopes_of(person.config, scopes)), client=person.application)


def test_a_login_by_hand(person: Person) -> None:
    done = call("login", "--config", person.file, "--no-browser", stdin=code(person) + "\n")
    assert done.exit_code == 0, done.output
    assert "anna@hospital.example" in done.stdout and "TEST CLOUD" in done.stdout
    assert "/v2/oauth2/authorize?" in done.stderr and "/v2/oauth2/authorize?" not in done.stdout
    assert "code_challenge_method=S256" in done.stderr
    assert not any(secret in done.output for secret in person.secrets())


def test_a_login_as_one_document(person: Person) -> None:
    done = call("login", "--config", person.file, "--no-browser", "--json", stdin=code(person) + "\n")
    found = document(done)
    assert (found["kind"], found["identity"], found["username"]) == ("person", person.identity, "anna@hospital.example")
    assert found["cloud"] == person.cloud.url and found["tokens"] == str(person.tokens)
    assert {row["server"]: row["renews"] for row in found["scopes"]} == {"auth.globus.org": True, GROUPS_SERVER: True}
    assert not any(secret in done.output for secret in person.secrets())
    shown = document(call("login", "--config", person.file, "--status", "--json"))
    assert shown == found


def test_a_login_in_this_machines_browser(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK's own server on this machine takes the code; the browser is a thread that follows redirects."""
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    monkeypatch.delenv("SSH_TTY", raising=False)

    class Browser:
        name = "a browser"

        def open(self, address: str, new: int) -> bool:
            threading.Thread(target=lambda: urllib.request.urlopen(address).close()).start()
            return True

    monkeypatch.setattr("webbrowser.get", lambda: Browser())
    done = call("login", "--config", person.file, "--scope", "manage")
    assert done.exit_code == 0, done.output
    assert "Waiting for the login in your browser" in done.stderr
    assert person.open().tokens.load()[GROUPS_SERVER].identity_id == person.identity


def test_a_machine_without_a_browser_asks_for_the_code(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.1 1 10.0.0.2 22")
    done = call("login", "--config", person.file, stdin=code(person) + "\n")
    assert done.exit_code == 0, done.output


def refused(done: Any) -> str:
    assert done.exit_code == 1, done.output
    return str(document(done)["error"]["code"])


def test_what_a_login_meets(person: Person) -> None:
    assert refused(call("login", "--config", person.file, "--status", "--json")) == "login_needed"
    assert refused(call("login", "--config", person.file, "--logout", "--json")) == "login_needed"
    wrong = call("login", "--config", person.file, "--no-browser", "--json", stdin="not-a-code\n")
    assert refused(wrong) == "login_needed"
    assert call("login", "--config", person.file, "--no-browser", stdin="").exit_code == 1
    assert call("login", "--config", person.file, "--scope", "everything").exit_code == 2
    assert call("login", "--config", person.file, "--status", "--logout").exit_code == 2
    person.cloud.close()
    done = call("login", "--config", person.file, "--no-browser", "--json", stdin="x\n")
    assert (done.exit_code, document(done)["error"]["code"]) == (3, "globus_unavailable")
    person.cloud.open()


def test_an_environment_that_leads_elsewhere_stops_every_command(
    person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOBUS_SDK_SERVICE_URL_AUTH", person.cloud.url)
    done = call("login", "--config", person.file, "--status", "--json")
    assert (done.exit_code, document(done)["error"]["code"]) == (3, "test_cloud")
    assert not person.cloud.requests


def test_status_after_a_revocation_is_not_a_login(person: Person) -> None:
    person.log_in().close()
    person.cloud.revoke(person.identity)
    assert refused(call("login", "--config", person.file, "--status", "--json")) == "login_needed"


def test_logout_by_command(person: Person) -> None:
    person.log_in().close()
    assert document(call("login", "--config", person.file, "--logout", "--json")) == {"revoked": 2}
    assert not person.tokens.exists()


def service(person: Person, monkeypatch: pytest.MonkeyPatch, secret: str) -> Path:
    monkeypatch.setenv("A_CLIENT_SECRET", secret)
    file = person.file.with_name("service.yaml")
    file.write_text(
        f"globus:\n  client_id: {person.server}\n  client_secret: {{environment: A_CLIENT_SECRET}}\n"
        f"  insecure_test_cloud: {person.cloud.url}\n"
    )
    return file


def test_a_service_account_proves_itself_and_keeps_nothing(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    file = service(person, monkeypatch, person.secret)
    before = set(file.parent.iterdir())
    done = call("login", "--config", file, "--scope", "manage", "--json")
    found = document(done)
    assert (found["kind"], found["identity"], found["tokens"]) == ("service_account", person.server, None)
    assert {row["server"] for row in found["scopes"]} == {"auth.globus.org", GROUPS_SERVER}
    assert person.secret not in done.output
    assert set(file.parent.iterdir()) == before
    assert refused(call("login", "--config", file, "--logout", "--json")) == "globus_refused"


def test_a_service_account_with_a_wrong_secret_is_told_so(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    file = service(person, monkeypatch, "wrong-" + person.secret)
    done = call("login", "--config", file, "--json")
    assert refused(done) == "login_needed"
    assert person.secret not in done.output


def test_secrets_are_in_no_text_of_an_error(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service may echo what it was sent; and the SDK puts the whole answer into its exception."""
    monkeypatch.setenv("A_CLIENT_SECRET", person.secret)
    config = GlobusConfig(
        client_id=person.server,
        client_secret=PassphraseConfig(environment="A_CLIENT_SECRET"),
        insecure_test_cloud=person.cloud.url,
    )
    texts: list[str] = []
    answers: list[tuple[int, Any]] = [
        (400, {"error": "invalid_scope", "message": person.secret}),
        (401, {"error": person.secret}),
        (403, {"code": person.secret, "message": f"you sent Basic {person.secret}"}),
        (500, {"message": person.secret}),
    ]
    for status, body in answers:
        person.cloud.fault("auth", "/v2/oauth2/token", status=status, body=body)
        with Credentials.open(config) as credentials:
            try:
                credentials.access_token(GROUPS_VIEW_SCOPE)
            except (LoginNeededError, GlobusRefusedError, GlobusUnavailableError) as error:
                assert error.__cause__ is None and error.__suppress_context__
                texts += [str(error), repr(error), *getattr(error, "__notes__", [])]
    assert len(texts) == 8
    assert not any(person.secret in text for text in texts)


# What a running party meets ---------------------------------------------------------------------------------------------


def test_a_new_login_is_found_by_a_party_that_runs(person: Person) -> None:
    person.log_in().close()
    group = person.cloud.group("heart", {person.identity: ("member", "active")})
    authorizer = open_authorizer(person.config, group, lambda: 7)
    answers: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("counterseal.runtime.globus.authorizer.KEPT_SECONDS", 0.0)
        patch.setattr("counterseal.runtime.globus.authorizer.FAILURE_SECONDS", 0.0)
        for change in (lambda: 0, lambda: person.cloud.revoke(person.identity), lambda: person.log_in().close()):
            change()
            answers.append(authorizer.check(frozenset({person.identity}), "site").reason)
        person.tokens.chmod(0o644)
        person.cloud.revoke(person.identity)
        answers.append(authorizer.check(frozenset({person.identity}), "site").reason)
    assert answers == ["active", "login_needed", "active", "login_needed"]


def test_a_service_that_does_not_answer_is_given_up_in_time(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("counterseal.runtime.globus.asking._SECONDS", 0.3)
    person.log_in().close()
    group = person.cloud.group("heart", {person.identity: ("member", "active")})
    authorizer = open_authorizer(person.config, group, lambda: 7)
    person.cloud.fault("groups", "/v2/groups", times=None, delay=1.5)
    started = time.monotonic()
    assert authorizer.check(frozenset({person.identity}), "site").reason == "outage"
    assert time.monotonic() - started < 1.2


def test_a_policy_on_the_session_says_what_to_do(person: Person) -> None:
    asked = {"session_message": "log in again", "session_required_mfa": True, "session_required_policies": ["x"]}
    person.log_in().close()
    person.cloud.fault(
        "groups", "/v2/groups", status=403, body={"code": "FORBIDDEN", "authorization_parameters": asked}
    )
    with person.open() as login, pytest.raises(GlobusRefusedError) as caught, asking("group"):
        login.groups().get_group(person.identity)
    assert caught.value.status == 403
    assert "with a second factor and what a policy asks" in caught.value.remedy


@pytest.mark.parametrize("body", [[], {}, {"identity_set": []}, {"sub": "anna"}, {"sub": None}, "x"])
def test_an_answer_about_who_this_is_that_says_nothing_is_an_outage(person: Person, body: Any) -> None:
    with person.log_in() as login:
        person.cloud.fault("auth", "/v2/oauth2/userinfo", status=200, body=body)
        with pytest.raises(GlobusUnavailableError, match="not understood"):
            who(login)
