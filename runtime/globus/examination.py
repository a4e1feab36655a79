"""Examining the token of an enrolment: what Globus Auth says of it, held against what the server asks for.

A token is a bearer's: whoever has it can show it. So it counts only where nothing else could have produced it, and each
row below is a way in which a good token is somebody else's:

| reason            | the token                                                                                        |
|-------------------|--------------------------------------------------------------------------------------------------|
| `token_inactive`  | is revoked, unknown, or for a server that is not ours (Globus then says no more than that)       |
| `token_audience`  | is for another resource server as well, or not for this one                                      |
| `token_scope`     | may do anything but enrol here                                                                   |
| `token_expired`   | ended while it was on its way                                                                    |
| `token_client`    | was obtained by an application that members do not log in with: a page that lured somebody       |
| `token_identity`  | is of somebody to whom the enrolled identity does not belong                                     |
| `service_account` | is of a program, which logs in nowhere, and the officer did not name it                          |
| `session_missing` | comes from no login of one of its owner's identities, or from one in the future                  |
| `session_old`     | comes from a login longer ago than allowed: a token file on a stolen disk renews itself          |
| `mfa_missing`     | comes from a login with one factor                                                               |

A login counts if one entry of the session is of the owner's identities, young enough, and (if asked for) with more than
one factor: all in the same entry. It need not be the enrolled identity's own: Globus links identities, and who can log in
as one of a person's can act for them all. Which one it was is recorded.

Evidence of more than one factor is listed in `MFA`, and nothing else counts. What Globus puts into ``amr`` and ``acr`` for
a given institution's login is UNVERIFIED: ask for it, and where it does not come, decide with ``--no-mfa`` and say so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...trust.identifiers import Identity
from ..errors import AdmissionError, GlobusSetupError, GlobusUnavailableError
from .asking import asking

if TYPE_CHECKING:
    from .credentials import Credentials

__all__ = ["MFA", "SKEW", "Examined", "Introspect", "TokenRules", "examine", "introspector"]

Introspect: TypeAlias = Callable[[str], Mapping[str, Any]]
"""token -> what Globus Auth says of it, as it came."""

MFA: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "amr": frozenset(
            {"mfa"}
        ),  # RFC 8176: "multiple-factor authentication"; single methods (otp, hwk) are one factor
        "acr": frozenset({"https://refeds.org/profile/mfa"}),  # REFEDS MFA profile, asserted by institutions
    }
)
"""What is taken for a login with more than one factor."""

SKEW: Final = 300
"""Seconds that Globus' clock may be ahead of ours."""


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What the server asks of a token. ``clients`` are the members' applications, ``service_accounts`` those named."""

    server: str
    scope: str
    clients: frozenset[str]
    max_session_age: int
    require_mfa: bool
    service_accounts: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Examined:
    """What a good token shows: whose it is, and of which login; None where there was no login."""

    identity_set: frozenset[str]
    client: str
    authenticated: str | None = None
    mfa: bool | None = None
    session_age: int | None = None


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class _Entry(_Answer):
    auth_time: float = Field(ge=0, allow_inf_nan=False)
    amr: list[str] | None = None
    acr: str | None = None

    @property
    def mfa(self) -> bool:
        return bool(MFA["amr"].intersection(self.amr or ())) or self.acr in MFA["acr"]


class _Session(_Answer):
    authentications: dict[str, _Entry] = {}


class _Token(_Answer):
    scope: str
    client_id: Identity
    sub: Identity
    aud: list[str]
    exp: int
    identity_set: Annotated[list[Identity], Field(max_length=1_000)]
    session_info: _Session | None = None


def introspector(credentials: Credentials) -> Introspect:
    """Return the question to Globus Auth, asked as the server's own application.

    Raises:
        GlobusSetupError: these are the credentials of a person's login, whom Globus tells nothing about tokens.
    """
    from globus_sdk import ConfidentialAppAuthClient

    application = credentials.application()
    if not isinstance(application, ConfidentialAppAuthClient):
        raise GlobusSetupError(
            "only an application with a secret may ask about tokens",
            where="globus.client_secret",
            remedy="Give the server a service account: its client_id and client_secret.",
        )

    def introspect(token: str) -> Mapping[str, Any]:
        with asking("Globus Auth, token introspection"):
            answer = application.oauth2_token_introspect(token, include="identity_set,session_info")
            return dict(answer.data)

    return introspect


def examine(answer: Mapping[str, Any], identity: str, rules: TokenRules, now: int) -> Examined:
    """Return what the token shows, if it is good for enrolling ``identity``.

    Raises:
        AdmissionError: it is not; the reason is in the table above.
        GlobusUnavailableError: the answer is none: nothing is known about the token.
    """
    if answer.get("active") is False:
        raise AdmissionError("token_inactive", "Globus does not know the token as a live one for this server")
    token = _read(answer)
    if rules.server not in token.aud or set(token.aud) - {rules.server, token.client_id}:
        raise AdmissionError("token_audience", "the token is not for this server alone")
    if token.scope.split() != [rules.scope]:
        raise AdmissionError("token_scope", "the token may do something else than enrol here")
    if token.exp <= now:
        raise AdmissionError("token_expired", "the token has ended", remedy=_AGAIN)
    if identity not in token.identity_set or token.sub not in token.identity_set:
        raise AdmissionError("token_identity", f"the token is of somebody who is not {identity}")
    if token.client_id == token.sub:
        return _service_account(token, identity, rules)
    if token.client_id not in rules.clients:
        raise AdmissionError(
            "token_client",
            f"the token was obtained by the application {token.client_id}, which is none of the members'",
            remedy="List the applications that members log in with under globus.clients.",
        )
    return _person(token, rules, now)


_AGAIN = "Ask for a new enrolment: counterseal site enrol."


def _read(answer: Mapping[str, Any]) -> _Token:
    try:
        if answer.get("active") is not True:
            raise ValueError("active")
        return _Token.model_validate({name: answer[name] for name in _Token.model_fields if name in answer})
    except ValidationError as error:
        field = str(error.errors(include_url=False, include_input=False)[0]["loc"][0])
    except ValueError:
        field = "active"
    raise GlobusUnavailableError(f"an answer about a token that is not understood ({field})", where="Globus Auth")


def _service_account(token: _Token, identity: str, rules: TokenRules) -> Examined:
    if identity not in rules.service_accounts or token.client_id != identity:
        raise AdmissionError(
            "service_account",
            "the token is of a program, which logs in nowhere",
            remedy=f"If its operator told you so by other means: --service-account {identity}",
        )
    return Examined(frozenset({identity}), token.client_id)


def _person(token: _Token, rules: TokenRules, now: int) -> Examined:
    entries = token.session_info.authentications if token.session_info is not None else {}
    logins = [(who, entry) for who, entry in entries.items() if who in token.identity_set]
    logins = [(who, entry) for who, entry in logins if entry.auth_time <= now + SKEW]
    if not logins:
        raise AdmissionError("session_missing", "the token comes from no login of its owner", remedy=_LOGIN)
    young = [(who, entry) for who, entry in logins if now - entry.auth_time <= rules.max_session_age]
    if not young:
        age = int(now - max(entry.auth_time for _, entry in logins))
        raise AdmissionError(
            "session_old", f"the login was {age} s ago, {rules.max_session_age} are allowed", remedy=_LOGIN
        )
    who, best = max(young, key=lambda login: (login[1].mfa, login[1].auth_time))
    if rules.require_mfa and not best.mfa:
        raise AdmissionError("mfa_missing", "nothing says that the login was with more than one factor", remedy=_LOGIN)
    age = max(0, int(now - best.auth_time))
    return Examined(frozenset(token.identity_set), token.client_id, who, best.mfa, age)


_LOGIN = "Ask for a new login and a new enrolment: counterseal login, then counterseal site enrol."
