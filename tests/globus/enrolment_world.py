"""What the tests of enrolment share: a server with its application, a group, people, and forged files of every sort."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from counterseal.durable import Probe, silent
from counterseal.runtime.config import GlobusConfig, PassphraseConfig
from counterseal.runtime.errors import AdmissionError
from counterseal.runtime.founding.admissions import Admissions
from counterseal.runtime.founding.desk import Auth, Desk, Place
from counterseal.runtime.globus.authorizer import open_authorizer
from counterseal.runtime.globus.credentials import Credentials, Login, enrolment_scope
from counterseal.runtime.globus.examination import TokenRules, introspector
from counterseal.runtime.globus.tokens import token_data
from counterseal.tests.standin.cloud import Cloud
from counterseal.trust.canonical import canonical
from counterseal.trust.documents import Signed, sign
from counterseal.trust.enrolment import SealedEnrolment
from counterseal.trust.identifiers import sha256
from counterseal.trust.keys.member import MemberKeys
from counterseal.trust.keys.sealing import SealingKey
from counterseal.trust.keys.statement import KeyStatement, make_statement
from counterseal.trust.messages import Enrolment

FEDERATION = "heart"
ORIGIN = "heart.example/log"
MFA: Mapping[str, Any] = {"amr": ["pwd", "mfa"]}
ENDPOINT = "0b5d1bd4-2fc2-4c8e-9b0e-6d1b1c8a3f00"


@cache
def keys_of(name: str) -> MemberKeys:
    """Return keys that are drawn once for all tests."""
    return MemberKeys.generate(operator=name == "server")


def statement_of(name: str, identity: str, token: str | None, **changes: Any) -> Signed[KeyStatement]:
    now = int(time.time())
    values: dict[str, Any] = {
        "federation": FEDERATION,
        "identity": identity,
        "log_origin": ORIGIN,
        "not_before": now - 10,
        "not_after": now + 86_400,
        "token_hash": None if token is None else sha256(token.encode()),
    }
    return make_statement(keys_of(name), **{**values, **changes})


def enrolment_of(name: str, identity: str, token: str | None, **changes: Any) -> Signed[Enrolment]:
    about = {key: changes.pop(key) for key in ("time", "endpoint", "server_key") if key in changes}
    statement = changes.pop("signed", None) or statement_of(name, identity, token, **changes)
    document = Enrolment(
        federation=changes.get("federation", FEDERATION),
        identity=identity,
        time=about.get("time", int(time.time())),
        server_key=about.get("server_key", keys_of("server").opening.public.key_id),
        statement=statement.raw.decode(),
        endpoint=about.get("endpoint"),
    )
    return sign(document, keys_of(name).signer)


def sealed(signed: Signed[Enrolment], token: str | None, key: SealingKey | None = None, to: str = FEDERATION) -> bytes:
    """Seal as somebody does who checks nothing."""
    key = key or keys_of("server").opening.public
    inside = canonical({"enrolment": signed.raw.decode(), "token": token})
    wrapped = key.wrap(inside, f"counterseal-enrolment-v1\n{to}\n{key.key_id}".encode())
    text = base64.b64encode(wrapped).decode()
    return SealedEnrolment(federation=to, key=key.key_id, sealed=text, suite=key.suite).to_bytes()


@dataclass
class Hall:
    """A server's desk at a stand-in for Globus, with one group and a few people."""

    cloud: Cloud
    folder: Path
    clock: Callable[[], int] = lambda: int(time.time())
    probe: Probe = silent
    anna: str = ""
    server_client: str = ""
    native: str = ""
    group: str = ""
    config: GlobusConfig = field(init=False)

    def __post_init__(self) -> None:
        cloud = self.cloud
        self.server_client, secret = cloud.client("server")
        cloud.scope(self.server_client, "enrol")
        self.native = cloud.native()
        self.anna = cloud.person("anna@uni.example")
        members = {self.server_client: ("manager", "active"), self.anna: ("member", "active")}
        self.group = cloud.group("heart", members, members_visible=False)
        self.config = GlobusConfig(
            client_id=self.server_client,
            client_secret=PassphraseConfig(file=private(self.folder / "secret", secret)),
            clients=(self.native,),
            insecure_test_cloud=cloud.url,
        )

    @property
    def scope(self) -> str:
        return enrolment_scope(self.server_client)

    @property
    def admissions(self) -> Admissions:
        return Admissions(self.folder / "admissions", keys_of("server").signer.public, probe=self.probe)

    @property
    def files(self) -> list[Path]:
        """Every record there is, drafts and all."""
        folder = self.folder / "admissions"
        return sorted(one for one in folder.iterdir() if one.name != "lock") if folder.is_dir() else []

    def desk(self, auth: bool = True, **rules: Any) -> Desk:
        wanted: dict[str, Any] = {
            "server": self.server_client,
            "scope": self.scope,
            "clients": frozenset({self.native}),
            "max_session_age": 3600,
            "require_mfa": True,
        }
        place = Place(FEDERATION, ORIGIN, "server")
        asked = Auth(introspector(Credentials.open(self.config)), TokenRules(**{**wanted, **rules}))
        authorizer = open_authorizer(self.config, self.group, self.clock)
        return Desk(place, keys_of("server"), self.admissions, authorizer, self.clock, auth=asked if auth else None)

    def token(self, who: str = "", session: Mapping[str, Any] | None = MFA, **changes: Any) -> str:
        values: dict[str, Any] = {"client": self.native, "scopes": self.scope}
        return self.cloud.token(who or self.anna, session=session, **{**values, **changes})

    def enrolment(self, token: str | None = None, identity: str = "", name: str = "anna", **changes: Any) -> bytes:
        token = self.token() if token is None else token
        return sealed(enrolment_of(name, identity or self.anna, token, **changes), token)

    def refusal(self, raw: bytes, nonce: str | None = None, **rules: Any) -> str:
        """Return the reason for which an enrolment is refused; fail if it is not, or if that is not recorded."""
        before = {one.digest for one in self.admissions.records()}
        try:
            self.desk(**rules).decide(raw, nonce=nonce)
        except AdmissionError as error:
            (fresh,) = [one.document for one in self.admissions.records() if one.digest not in before]
            assert (fresh.decision.allowed, fresh.decision.reason) == (False, error.reason)
            return error.reason
        raise AssertionError("admitted")


def private(path: Path, text: str) -> Path:
    """Write a file that only its owner can read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")
    path.chmod(0o600)
    return path


def log_in(config: GlobusConfig, cloud: Cloud, identity: str, scopes: str, session: Mapping[str, Any] = MFA) -> None:
    """Leave the tokens of a login where `counterseal login` would."""
    login = Credentials.open(config)
    assert isinstance(login, Login)
    application = login.application()
    application.oauth2_start_flow(requested_scopes=scopes, redirect_uri="http://localhost/cb", refresh_tokens=True)
    code = cloud.code(identity, scopes, session=session, client=config.client_id)
    login.tokens.store(token_data(application.oauth2_exchange_code_for_tokens(code), identity))
    login.close()
