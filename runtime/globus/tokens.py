"""The tokens of a person's login: one file of the SDK's own format, which nobody but its owner may read.

The file is checked at every opening: a regular file, reached through no link, of this user, mode 0600. Its format is
that of `globus_sdk.token_storage.SQLiteTokenStorage`, since a server and a command may renew tokens in it at once; its
namespace names cloud and application, so that a token never meets another cloud than the one that issued it.

A token in this file is worth what its scopes are worth until it is revoked (`counterseal login --logout`), and no
statement, ticket or update can be signed with it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ...trust.keys.permissions import read_private_file
from ..errors import GlobusSetupError, LoginNeededError

if TYPE_CHECKING:
    from globus_sdk import OAuthTokenResponse
    from globus_sdk.token_storage import SQLiteTokenStorage, TokenStorageData

__all__ = ["TokenFile", "token_data"]

_LIMIT = 1 << 20
_LOGIN = "Run: counterseal login --config FILE"


class TokenFile:
    """The tokens of one application's login, by the service that takes them."""

    def __init__(self, path: Path, namespace: str) -> None:
        self._path = path.absolute()
        self._namespace = namespace

    def __repr__(self) -> str:
        return f"TokenFile({self._path})"

    def load(self) -> dict[str, TokenStorageData]:
        """Return the tokens by resource server.

        Raises:
            LoginNeededError: nobody logged in.
            CustodyError: others can read the file, or it is another user's.
            GlobusSetupError: not a file of tokens.
        """
        if not self._path.exists() and not self._path.is_symlink():
            raise LoginNeededError("nobody has logged in", where=str(self._path), remedy=_LOGIN)
        with self._open() as storage:
            found: dict[str, TokenStorageData] = storage.get_token_data_by_resource_server()
        if not found:
            raise LoginNeededError("nobody has logged in to this application", where=str(self._path), remedy=_LOGIN)
        return found

    def store(self, tokens: Mapping[str, TokenStorageData]) -> None:
        """Keep ``tokens``, in place of older ones for the same servers; a new file gets mode 0600."""
        with self._open() as storage:
            storage.store_token_data_by_resource_server(tokens)

    def remove(self) -> None:
        """Forget this application's tokens; a file without any left goes away."""
        with self._open() as storage:
            for server in list(storage.get_token_data_by_resource_server()):
                storage.remove_token_data(server)
            others = list(storage.iter_namespaces())
        if not others:
            self._path.unlink()

    @contextmanager
    def _open(self) -> Iterator[SQLiteTokenStorage]:
        from globus_sdk.token_storage import SQLiteTokenStorage

        if self._path.exists() or self._path.is_symlink():
            read_private_file(self._path, limit=_LIMIT)
        try:
            storage = SQLiteTokenStorage(self._path, namespace=self._namespace)
            try:
                yield storage
            finally:
                storage.close()
        except (sqlite3.Error, ValueError, KeyError, TypeError):
            # Not chained: what could not be parsed may hold a token.
            raise GlobusSetupError(
                "not a file of tokens, or a damaged one", where=str(self._path), remedy="Remove it and log in again."
            ) from None


def token_data(response: OAuthTokenResponse, identity: str | None) -> dict[str, TokenStorageData]:
    """Return what a grant gave, as the SDK stores it; ``identity`` is whose it is."""
    from globus_sdk.token_storage import TokenStorageData

    return {
        server: TokenStorageData(
            resource_server=server,
            identity_id=identity,
            scope=given["scope"],
            access_token=given["access_token"],
            refresh_token=given.get("refresh_token"),
            expires_at_seconds=given["expires_at_seconds"],
            token_type=given.get("token_type"),
        )
        for server, given in response.by_resource_server.items()
    }
