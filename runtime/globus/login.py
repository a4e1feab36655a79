"""Logging in: the only place where a person is asked anything, and where tokens enter the file that keeps them.

A person logs in to Globus in a browser, as the native application of the configuration, with PKCE; what comes back is an
authorization code, delivered to a port of this machine or copied by hand. The tokens are kept only if they belong to the
party: the identity that the configuration names is the one that logged in, or one linked to it. A new login takes the place
of the old one, whose tokens are revoked; so its scopes are exactly those that were asked for this time.

A service account does not log in: `prove` shows that its secret is taken, and who it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ..config.globus import GlobusConfig
from ..errors import GlobusFault, GlobusRefusedError, LoginNeededError
from .credentials import (
    AUTH_SCOPES,
    AUTH_SERVER,
    COMPUTE_SCOPE,
    GROUPS_MANAGE_SCOPE,
    GROUPS_VIEW_SCOPE,
    Credentials,
    Login,
    asking,
    enrolment_scope,
)
from .groups import UUID
from .tokens import token_data

if TYPE_CHECKING:
    from globus_sdk import OAuthTokenResponse
    from globus_sdk.gare import GlobusAuthorizationParameters
    from globus_sdk.login_flows import LoginFlowManager
    from globus_sdk.login_flows.local_server_login_flow_manager.local_server import RedirectHTTPServer
    from globus_sdk.token_storage import TokenStorageData

__all__ = [
    "SCOPES",
    "Granted",
    "Who",
    "browser",
    "log_in",
    "log_out",
    "paste",
    "prove",
    "require_person",
    "scopes_of",
    "status",
    "who",
]

SCOPES: Final = ("view", "manage", "enrol", "compute")
"""What a login may be asked to cover, in our words: `view` is always in it."""

Ask = Callable[[str], str]
"""Shows an address, and returns the code that a person copied from there."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Who:
    """Who a credential is: the identity that logged in, and those that Globus linked to it."""

    identity: str
    username: str
    linked: tuple[tuple[str, str], ...]
    """Every linked identity with its username, this one among them."""

    @property
    def identities(self) -> frozenset[str]:
        """All identities, as UUIDs."""
        return frozenset({self.identity, *(identity for identity, _ in self.linked)})


@dataclass(frozen=True, slots=True)
class Granted:
    """One token that is kept, or that a service account was given: never the token itself."""

    server: str
    scope: str
    expires: int
    renews: bool
    """Whether it renews itself."""


def scopes_of(config: GlobusConfig, names: Iterable[str]) -> tuple[str, ...]:
    """Return Globus' names of the scopes ``names``, and of those that every login has.

    Raises:
        LoginNeededError: a token for enrolling is made for a server, and none is configured.
    """
    wanted = [*AUTH_SCOPES.split(), GROUPS_VIEW_SCOPE]
    for name in names:
        if name == "manage":
            wanted.append(GROUPS_MANAGE_SCOPE)
        elif name == "compute":
            wanted.append(COMPUTE_SCOPE)
        elif name == "enrol":
            if config.server_client is None:
                raise LoginNeededError(
                    "a token for enrolling is made for one server, and none is named", where="globus.server_client"
                )
            wanted.append(enrolment_scope(config.server_client))
    return tuple(dict.fromkeys(wanted))


def who(credentials: Credentials) -> Who:
    """Return who Globus says that these credentials are.

    Raises:
        LoginNeededError, GlobusRefusedError, GlobusUnavailableError: see `asking`.
    """
    with asking("Globus Auth, userinfo"):
        return _who(credentials.auth().userinfo().data)


def _who(body: object) -> Who:
    if not isinstance(body, dict):
        raise ValueError("not an object")
    linked = tuple((_identity(one["sub"]), str(one.get("username", ""))) for one in body.get("identity_set") or ())
    return Who(_identity(body["sub"]), str(body.get("preferred_username", "")), linked)


def _identity(value: object) -> str:
    if not isinstance(value, str) or not UUID.fullmatch(value.lower()):
        raise ValueError("not an identity")
    return value.lower()


def prove(credentials: Credentials, scopes: Iterable[str]) -> tuple[Granted, ...]:
    """Return the tokens that a service account is given for ``scopes``: they are dropped at once.

    Raises:
        LoginNeededError: its secret is not taken.
        GlobusRefusedError: it is not given one of the scopes.
        GlobusUnavailableError: Globus does not answer.
    """
    import globus_sdk

    application = credentials.application()
    if not isinstance(application, globus_sdk.ConfidentialAppAuthClient):
        raise LoginNeededError("a person logs in; only a service account proves itself with a secret")
    with asking("Globus Auth"):
        given = application.oauth2_client_credentials_tokens(list(scopes)).by_resource_server
        found = tuple(
            Granted(server, one["scope"], one["expires_at_seconds"], True) for server, one in sorted(given.items())
        )
        for one in given.values():
            application.oauth2_revoke_token(one["access_token"])
    return found


def status(login: Login) -> tuple[Granted, ...]:
    """Return what a login covers, as its file says.

    Raises:
        LoginNeededError: nobody has logged in.
    """
    return tuple(_granted(data) for _, data in sorted(login.tokens.load().items()))


def _granted(data: TokenStorageData) -> Granted:
    return Granted(data.resource_server, data.scope, data.expires_at_seconds, data.refresh_token is not None)


def log_in(
    login: Login,
    scopes: Iterable[str],
    manager: LoginFlowManager,
    *,
    identity: str | None = None,
    fresh: bool = False,
    mfa: bool = False,
) -> Who:
    """Let a person log in, and keep the tokens if they are this party's.

    ``identity`` is whom the configuration names; ``fresh`` asks Globus for a login here and now, whatever the browser
    remembers, and ``mfa`` for a second factor.

    Raises:
        LoginNeededError: nobody logged in, or somebody else did, or not all of it was allowed.
        GlobusRefusedError, GlobusUnavailableError: see `asking`.
        CustodyError, GlobusSetupError: the file of tokens.
    """
    wanted = tuple(scopes)
    before = _kept(login)
    response = _flow(manager, _parameters(wanted, identity, fresh, mfa))
    with asking("Globus Auth, a login"):
        given = token_data(response, None)
    try:
        found = _ask_who(login, given)
        _require_party(found, identity)
        _require_scopes(given, wanted)
    except Exception:
        _revoke(login, given.values())
        raise
    for data in given.values():
        data.identity_id = found.identity
    if before:
        login.tokens.remove()
    login.tokens.store(given)
    login.forget()
    current = {token for data in given.values() for token in (data.refresh_token, data.access_token)}
    _revoke(login, before.values(), but=current)
    return found


def log_out(login: Login) -> int:
    """Revoke the tokens of a login and remove them; return how many there were.

    Raises:
        LoginNeededError: nobody has logged in.
        GlobusUnavailableError, GlobusRefusedError: not revoked, and therefore not removed.
    """
    kept = login.tokens.load()
    for data in kept.values():
        _revoke_one(login, data)
    login.tokens.remove()
    login.forget()
    return len(kept)


def paste(login: Login, ask: Ask) -> LoginFlowManager:
    """Return a login in whatever browser a person has: ``ask`` shows the address and returns the code."""
    from globus_sdk.login_flows import LoginFlowManager

    class Paste(LoginFlowManager):
        def run_login_flow(self, auth_parameters: GlobusAuthorizationParameters) -> OAuthTokenResponse:
            address = self._get_authorize_url(
                auth_parameters, f"{login.application().base_url.rstrip('/')}/v2/web/auth-code"
            )
            return login.application().oauth2_exchange_code_for_tokens(ask(address))

    return Paste(login.application(), request_refresh_tokens=True, native_prefill_named_grant="counterseal")


def browser(login: Login, ask: Ask) -> LoginFlowManager:
    """Return a login in this machine's browser, which brings the code back by itself; without one, `paste`."""
    from globus_sdk.login_flows import (
        LocalServerEnvironmentalLoginError,
        LocalServerLoginError,
        LocalServerLoginFlowManager,
    )

    class Browser(LocalServerLoginFlowManager):
        @contextmanager
        def background_local_server(self) -> Iterator[RedirectHTTPServer]:
            with super().background_local_server() as server:
                try:
                    yield server
                finally:  # the SDK leaves the port open, and the thread too where the browser does not start
                    server.shutdown()
                    server.server_close()

        def run_login_flow(self, auth_parameters: GlobusAuthorizationParameters) -> OAuthTokenResponse:
            try:
                return super().run_login_flow(auth_parameters)
            except LocalServerEnvironmentalLoginError:
                return paste(login, ask).run_login_flow(auth_parameters)
            except LocalServerLoginError:
                raise LoginNeededError("the browser came back without a login", where="Globus Auth") from None

    return Browser(login.application(), request_refresh_tokens=True, native_prefill_named_grant="counterseal")


def _parameters(scopes: tuple[str, ...], identity: str | None, fresh: bool, mfa: bool) -> GlobusAuthorizationParameters:
    from globus_sdk.gare import GlobusAuthorizationParameters

    return GlobusAuthorizationParameters(
        required_scopes=list(scopes),
        session_required_identities=[identity] if fresh and identity is not None and UUID.fullmatch(identity) else None,
        session_required_mfa=True if mfa else None,
        prompt="login" if fresh else None,
    )


def _flow(manager: LoginFlowManager, parameters: GlobusAuthorizationParameters) -> OAuthTokenResponse:
    with asking("Globus Auth, a login"):
        return manager.run_login_flow(parameters)


def _kept(login: Login) -> dict[str, TokenStorageData]:
    try:
        return login.tokens.load()
    except LoginNeededError:
        return {}


def _ask_who(login: Login, given: dict[str, TokenStorageData]) -> Who:
    import globus_sdk

    if AUTH_SERVER not in given:
        raise LoginNeededError("the login was not allowed to say who it is", where=AUTH_SERVER)
    client = login.auth_with(globus_sdk.AccessTokenAuthorizer(given[AUTH_SERVER].access_token))
    try:
        with asking("Globus Auth, userinfo"):
            return _who(client.userinfo().data)
    finally:
        client.transport.close()


def _require_party(found: Who, identity: str | None) -> None:
    if identity is not None and UUID.fullmatch(identity) and identity not in found.identities:
        raise LoginNeededError(
            f"{found.username} logged in, to whom {identity} is not linked",
            where="identity",
            remedy="Log in as the identity that this configuration names, or link the two at app.globus.org.",
        )


def _require_scopes(given: dict[str, TokenStorageData], wanted: tuple[str, ...]) -> None:
    granted = {scope for data in given.values() for scope in data.scope.split()}
    if missing := [scope for scope in wanted if scope not in granted]:
        raise LoginNeededError("the login was not allowed everything that was asked", where=" ".join(missing))


def _revoke(login: Login, tokens: Iterable[TokenStorageData], but: AbstractSet[str | None] = frozenset()) -> None:
    """Revoke what is no longer needed; a token that cannot be revoked now is told, and ends by itself."""
    for data in tokens:
        try:
            _revoke_one(login, data, but)
        except GlobusFault as error:
            _log.warning("a token for %s was not revoked: %s", data.resource_server, error)


def _revoke_one(login: Login, data: TokenStorageData, but: AbstractSet[str | None] = frozenset()) -> None:
    with asking("Globus Auth, revocation"):
        for token in (data.refresh_token, data.access_token):
            if token is not None and token not in but:
                login.application().oauth2_revoke_token(token)


def require_person(credentials: Credentials) -> Login:
    """Return ``credentials`` as a person's login.

    Raises:
        GlobusRefusedError: a service account's, which keep nothing.
    """
    if not isinstance(credentials, Login):
        raise GlobusRefusedError("a service account keeps no login", where="globus.client_secret")
    return credentials
