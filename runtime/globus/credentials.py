"""One party's credentials at Globus: a service account's secret, or the tokens of a person's login.

A service account proves itself with its secret whenever a token is needed; its tokens live in memory and nowhere else. A
person logs in once (`counterseal login`); the tokens of that login lie in a private file and renew themselves there. No
method of this class ever asks a person anything: what a login does not cover is a `LoginNeededError`, in a server's log
and not in a prompt that nobody sees.

Every client gets its address, its certificates and its patience from here (`cloud`, `asking`), never from the environment.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ..config.globus import GlobusConfig
from ..errors import GlobusSetupError, LoginNeededError
from .asking import asking, patience, transport
from .cloud import require_extra, require_real_cloud, service_url
from .tokens import TokenFile, token_data

if TYPE_CHECKING:
    from globus_sdk import (
        AuthClient,
        ConfidentialAppAuthClient,
        GroupsClient,
        NativeAppAuthClient,
        OAuthTokenResponse,
    )
    from globus_sdk.authorizers import GlobusAuthorizer
    from globus_sdk.token_storage import TokenStorageData

__all__ = [
    "AUTH_SCOPES",
    "AUTH_SERVER",
    "COMPUTE_SCOPE",
    "COMPUTE_SERVER",
    "GROUPS_MANAGE_SCOPE",
    "GROUPS_SERVER",
    "GROUPS_VIEW_SCOPE",
    "Credentials",
    "Login",
    "ServiceAccount",
    "asking",
    "enrolment_scope",
]

AUTH_SERVER = "auth.globus.org"
AUTH_SCOPES = "openid email profile urn:globus:auth:scope:auth.globus.org:view_identity_set"
GROUPS_SERVER = "groups.api.globus.org"
GROUPS_VIEW_SCOPE = "urn:globus:auth:scope:groups.api.globus.org:view_my_groups_and_memberships"
GROUPS_MANAGE_SCOPE = "urn:globus:auth:scope:groups.api.globus.org:all"
COMPUTE_SERVER = "funcx_service"
COMPUTE_SCOPE = "https://auth.globus.org/scopes/facd7ccc-c5f4-42aa-916b-a0e270e2c2a9/all"

_NAME = "counterseal"


def enrolment_scope(server_client: str) -> str:
    """Return the scope that a federation's server registered for enrolments: it opens nothing else."""
    return f"https://auth.globus.org/scopes/{server_client}/enrol"


class Credentials(ABC):
    """What one party shows Globus; shows itself to nobody."""

    def __init__(self, config: GlobusConfig) -> None:
        self.config = config
        self._authorizers: dict[tuple[str, str], GlobusAuthorizer] = {}
        self._groups: dict[bool, GroupsClient] = {}
        self._auth: AuthClient | None = None

    @staticmethod
    def open(config: GlobusConfig) -> Credentials:
        """Return the credentials that ``config`` names; asks Globus nothing yet.

        Raises:
            TestCloudError: the environment leads elsewhere.
            GlobusSetupError: the extra is missing, or the secret is not text.
            CustodyError: the secret cannot be had, or its file is not private.
        """
        require_real_cloud(config)
        require_extra()
        if config.client_secret is not None:
            return ServiceAccount(config, _text(config.client_secret.source().obtain().reveal()))
        if config.tokens is not None:
            return Login(config, config.tokens)
        raise GlobusSetupError("neither client_secret nor tokens is named", where="globus")

    @abstractmethod
    def application(self) -> ConfidentialAppAuthClient | NativeAppAuthClient:
        """Return the application's own client of Globus Auth."""

    @abstractmethod
    def access_token(self, scope: str) -> str:
        """Return a fresh token for ``scope``, which is kept nowhere.

        Raises:
            LoginNeededError, GlobusRefusedError, GlobusUnavailableError: Globus gives none.
        """

    @abstractmethod
    def _authorizer(self, server: str, scope: str) -> GlobusAuthorizer: ...

    def authorizer(self, resource_server: str, scope: str) -> GlobusAuthorizer:
        """Return what signs requests to ``resource_server``; it renews tokens and never prompts.

        A service account's first token is fetched with the first request, so that an outage is the request's error.

        Raises:
            LoginNeededError: a person's login does not cover ``scope``.
        """
        place = resource_server, scope
        if place not in self._authorizers:
            self._authorizers[place] = self._authorizer(resource_server, scope)
        return self._authorizers[place]

    def groups(self, write: bool = False) -> GroupsClient:
        """Return a client of Globus Groups; one that writes asks nothing twice.

        Raises:
            LoginNeededError: a person's login does not cover it.
        """
        import globus_sdk

        if write not in self._groups:
            self._groups[write] = globus_sdk.GroupsClient(
                environment="production",
                base_url=service_url(self.config, "groups"),
                authorizer=self.authorizer(GROUPS_SERVER, GROUPS_MANAGE_SCOPE if write else GROUPS_VIEW_SCOPE),
                app_name=_NAME,
                transport=transport(test_cloud=self.config.insecure_test_cloud is not None),
                retry_config=patience(renew=not write),
            )
        return self._groups[write]

    def auth(self) -> AuthClient:
        """Return a client of Globus Auth that knows who this is, and finds identities by name.

        Raises:
            LoginNeededError: a person's login does not cover it.
        """
        if self._auth is None:
            self._auth = self.auth_with(self.authorizer(AUTH_SERVER, AUTH_SCOPES))
        return self._auth

    def auth_with(self, authorizer: GlobusAuthorizer) -> AuthClient:
        """Return a client of Globus Auth that shows another token; its caller closes it."""
        import globus_sdk

        return globus_sdk.AuthClient(
            environment="production",
            base_url=service_url(self.config, "auth"),
            authorizer=authorizer,
            app_name=_NAME,
            transport=transport(test_cloud=self.config.insecure_test_cloud is not None),
            retry_config=patience(renew=True),
        )

    def forget(self) -> None:
        """Drop every client and token in memory, so that the next question begins with the login as it is then."""
        for client in (*self._groups.values(), *((self._auth,) if self._auth is not None else ())):
            client.transport.close()
        self._groups.clear()
        self._auth = None
        self._authorizers.clear()

    def close(self) -> None:
        """Close the connections."""
        self.forget()
        self.application().transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ServiceAccount(Credentials):
    """A program's own identity: its secret buys tokens, which live in memory."""

    def __init__(self, config: GlobusConfig, secret: str) -> None:
        import globus_sdk

        super().__init__(config)
        self._application = globus_sdk.ConfidentialAppAuthClient(
            config.client_id,
            secret,
            environment="production",
            base_url=service_url(config, "auth"),
            app_name=_NAME,
            transport=transport(test_cloud=config.insecure_test_cloud is not None),
            retry_config=patience(renew=False),
        )

    def __repr__(self) -> str:
        return f"ServiceAccount({self.config.client_id})"

    def application(self) -> ConfidentialAppAuthClient:
        """Return the application's own client of Globus Auth."""
        return self._application

    def access_token(self, scope: str) -> str:
        """Return a fresh token for ``scope``."""
        with asking("Globus Auth"):
            return _only(self._application.oauth2_client_credentials_tokens(scope))

    def _authorizer(self, server: str, scope: str) -> GlobusAuthorizer:
        import globus_sdk

        # A token that ended in 1970: without one, the SDK would ask for the first one here and now.
        ended = ("none yet", 0)
        return globus_sdk.ClientCredentialsAuthorizer(
            self._application, scope, access_token=ended[0], expires_at=ended[1]
        )


class Login(Credentials):
    """A person's login, as `counterseal login` left it in a file."""

    def __init__(self, config: GlobusConfig, file: Path) -> None:
        import globus_sdk

        super().__init__(config)
        self._application = globus_sdk.NativeAppAuthClient(
            config.client_id,
            environment="production",
            base_url=service_url(config, "auth"),
            app_name=_NAME,
            transport=transport(test_cloud=config.insecure_test_cloud is not None),
            retry_config=patience(renew=False),
        )
        self.tokens = TokenFile(file, f"{config.insecure_test_cloud or 'globus.org'}/{config.client_id}")

    def __repr__(self) -> str:
        return f"Login({self.config.client_id}, {self.tokens!r})"

    def application(self) -> NativeAppAuthClient:
        """Return the application's own client of Globus Auth."""
        return self._application

    def access_token(self, scope: str) -> str:
        """Return a fresh token for ``scope``, bought with the login's refresh token."""
        for data in self.tokens.load().values():
            if _covers(data, scope):
                if data.refresh_token is None:
                    return data.access_token
                with asking("Globus Auth"):
                    return _only(self._application.oauth2_refresh_token(data.refresh_token))
        raise _not_covered(scope)

    def _authorizer(self, server: str, scope: str) -> GlobusAuthorizer:
        import globus_sdk

        kept = self.tokens.load().get(server)
        if kept is None or not _covers(kept, scope):
            raise _not_covered(scope)
        if kept.refresh_token is None:
            return globus_sdk.AccessTokenAuthorizer(kept.access_token)
        return globus_sdk.RefreshTokenAuthorizer(
            kept.refresh_token,
            self._application,
            access_token=kept.access_token,
            expires_at=kept.expires_at_seconds,
            on_refresh=lambda response: self._keep(response, kept),
        )

    def _keep(self, response: OAuthTokenResponse, before: TokenStorageData) -> None:
        renewed = token_data(response, before.identity_id)
        for data in renewed.values():
            data.refresh_token = data.refresh_token or before.refresh_token
        self.tokens.store(renewed)


def _covers(data: TokenStorageData, scope: str) -> bool:
    granted = set(data.scope.split())
    if GROUPS_MANAGE_SCOPE in granted:
        granted.add(GROUPS_VIEW_SCOPE)  # whoever may change a group may look at it
    return granted >= set(scope.split())


def _not_covered(scope: str) -> LoginNeededError:
    return LoginNeededError(
        f"the login does not cover {scope}", remedy="Log in again with that scope: counterseal login --scope ..."
    )


def _only(response: OAuthTokenResponse) -> str:
    (given,) = response.by_resource_server.values()
    return str(given["access_token"])


def _text(secret: bytes) -> str:
    try:
        return secret.decode("ascii")
    except UnicodeDecodeError:
        raise GlobusSetupError("the client secret is not plain text", where="globus.client_secret") from None
