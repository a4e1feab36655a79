"""Issuing and reading tokens: which resource server a scope belongs to, access and refresh tokens, id_tokens, sessions."""

from __future__ import annotations

import base64
import re
import secrets
import time
from collections.abc import Iterable, Mapping
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from .state import AUTH_SERVER, COMPUTE_CLIENT, COMPUTE_SERVER, GROUPS_SERVER, PROVIDER, Grant, State, Token, new_id
from .web import Refusal, Request

__all__ = ["Tokens", "plain_scopes"]

_OPENID = ("openid", "email", "profile")
_GROUPS = f"urn:globus:auth:scope:{GROUPS_SERVER}:"
_AUTH = f"urn:globus:auth:scope:{AUTH_SERVER}:"
_OWN = re.compile(r"https://auth\.globus\.org/scopes/([^/]+)/\w+")


def plain_scopes(text: str) -> tuple[str, ...]:
    """Return the scopes of ``text`` without dependent scopes in brackets and without the mark for optional ones."""
    while "[" in text:
        shorter = re.sub(r"\[[^\[\]]*\]", "", text)
        if shorter == text:
            raise Refusal(400, "", "", body={"error": "invalid_scope"})
        text = shorter
    return tuple(dict.fromkeys(scope.lstrip("*") for scope in text.split()))


class Tokens:
    """The tokens of the stand-in, and the key that its id_tokens are signed with."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._key = rsa.generate_private_key(public_exponent=65_537, key_size=2048)

    def server_of(self, scope: str) -> str:
        """Return the resource server of ``scope``; a scope that nobody registered is refused, as Globus does."""
        if scope in _OPENID or scope.startswith(_AUTH):
            return AUTH_SERVER
        if scope.startswith(_GROUPS):
            return GROUPS_SERVER
        own = _OWN.fullmatch(scope)
        if own and own[1] == COMPUTE_CLIENT:
            return COMPUTE_SERVER
        if own and any(each["scope_string"] == scope for each in self._state.scopes.values()):
            return own[1]
        raise Refusal(400, "", "", body={"error": "unknown_scope_error", "error_description": f"unknown scope {scope}"})

    def issue(self, grant: Grant, *, offline: bool = False) -> list[dict[str, Any]]:
        """Issue one access token for each resource server in ``grant``; with ``offline`` each with a refresh token."""
        servers: dict[str, list[str]] = {}
        for scope in grant.scopes:
            servers.setdefault(self.server_of(scope), []).append(scope)
        if not servers:
            raise Refusal(400, "", "", body={"error": "invalid_scope", "error_description": "no scope"})
        return [self._issue_for(server, tuple(scopes), grant, offline) for server, scopes in servers.items()]

    def _issue_for(self, server: str, scopes: tuple[str, ...], grant: Grant, offline: bool) -> dict[str, Any]:
        state, now = self._state, self._state.now()
        text = "Ag" + secrets.token_urlsafe(36)
        state.tokens[text] = Token(grant, server, scopes, now, now + state.token_seconds)
        document: dict[str, Any] = {
            "access_token": text,
            "scope": " ".join(scopes),
            "expires_in": state.token_seconds,
            "token_type": "Bearer",
            "resource_server": server,
        }
        if offline:
            document["refresh_token"] = "Rg" + secrets.token_urlsafe(36)
            state.refreshes[document["refresh_token"]] = Grant(grant.client_id, grant.identity, scopes, grant.session)
        return document

    def reply(self, grant: Grant, *, offline: bool = False, nonce: str | None = None) -> dict[str, Any]:
        """Return a reply of the token endpoint for ``grant``."""
        first, *others = self.issue(grant, offline=offline)
        reply = {**first, "other_tokens": others}
        if "openid" in grant.scopes:
            reply["id_token"] = self._id_token(grant, nonce)
        return reply

    def _id_token(self, grant: Grant, nonce: str | None) -> str:
        """The times are this machine's, wherever a test moved the cloud's: client libraries compare them."""
        person, now = self._state.people[grant.identity], int(time.time())
        claims: dict[str, Any] = {
            "sub": grant.identity,
            "iss": "https://auth.globus.org",
            "aud": grant.client_id,
            "iat": now,
            "exp": now + self._state.token_seconds,
            "name": person.name,
            "preferred_username": person.username,
            "email": person.username,
        }
        if nonce is not None:
            claims["nonce"] = nonce
        return jwt.encode(claims, self._key, algorithm="RS512", headers={"kid": "1"})

    def keys(self) -> dict[str, Any]:
        """Return the JWKS."""
        numbers = self._key.public_key().public_numbers()
        key = {"alg": "RS512", "kty": "RSA", "use": "sig", "kid": "1", "n": _b64(numbers.n), "e": _b64(numbers.e)}
        return {"keys": [key]}

    def session(self, identity: str, about: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the session of a login just made: by password unless ``about`` says otherwise.

        ``about`` replaces members of the identity's entry (auth_time, amr, acr, idp), or, with a member
        ``authentications``, the whole.
        """
        if about is not None and "authentications" in about:
            return {"session_id": new_id(), **about}
        entry = {"auth_time": int(self._state.now()), "idp": PROVIDER, "acr": None, "amr": ["pwd"], "custom_claims": {}}
        return {"session_id": new_id(), "authentications": {identity: {**entry, **(about or {})}}}

    def need(self, request: Request, server: str, scopes: Iterable[str] = ()) -> Token:
        """Return the live token that ``request`` carries for ``server`` with one of ``scopes``, else refuse."""
        token = self._state.tokens.get(request.bearer() or "")
        if token is None or token.server != server or not self._state.is_live(token):
            raise Refusal(401, "AUTHENTICATION_ERROR", "invalid or expired token")
        wanted = tuple(scopes)
        if wanted and not set(wanted) & set(token.scopes):
            raise Refusal(403, "FORBIDDEN", "missing scope: " + " or ".join(wanted))
        return token


def _b64(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes((number.bit_length() + 7) // 8, "big")).rstrip(b"=").decode()
