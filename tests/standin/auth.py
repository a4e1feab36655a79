"""Globus Auth: logins, tokens, introspection, identities, scopes of one's own resource server."""

from __future__ import annotations

import base64
import hashlib
import html
import secrets
from typing import Any
from urllib.parse import urlencode

from .state import AUTH_SERVER, Application, Code, Grant, State, Token, new_id
from .tokens import Tokens, plain_scopes
from .web import Answer, Refusal, Request, Router

__all__ = ["Auth"]

_CODE_SECONDS = 600
_DEPENDENT = "urn:globus:auth:grant_type:dependent_token"
_MANAGE = "urn:globus:auth:scope:auth.globus.org:manage_projects"


def _oauth_error(status: int, error: str, description: str = "") -> Refusal:
    return Refusal(status, error, description, body={"error": error, "error_description": description})


class Auth:
    """The routes below /auth."""

    def __init__(self, state: State, tokens: Tokens) -> None:
        self._state = state
        self._tokens = tokens
        self.router = router = Router("auth", "/auth")
        router.add("GET", "/.well-known/openid-configuration", self._configuration)
        router.add("GET", "/jwk.json", lambda request: Answer(tokens.keys()))
        router.add("GET", "/v2/oauth2/authorize", self._authorize)
        router.add("GET", "/v2/web/auth-code", self._show_code)
        router.add("POST", "/v2/oauth2/token", self._token)
        router.add("POST", "/v2/oauth2/token/introspect", self._introspect)
        router.add("POST", "/v2/oauth2/token/revoke", self._revoke)
        router.add("GET", "/v2/oauth2/userinfo", self._userinfo)
        router.add("GET", "/v2/api/identities", self._identities)
        router.add("GET", "/v2/api/identities/<identity>/consents", lambda request, identity: Answer({"consents": []}))
        router.add("GET", "/v2/api/policies/<policy>", self._policy)
        router.add("GET", "/v2/api/scopes", self._list_scopes)
        router.add("POST", "/v2/api/clients/<client>/scopes", self._create_scope)

    def _configuration(self, request: Request) -> Answer:
        root = f"http://{request.headers['host']}/auth"
        names = {
            "authorization_endpoint": "/v2/oauth2/authorize",
            "token_endpoint": "/v2/oauth2/token",
            "userinfo_endpoint": "/v2/oauth2/userinfo",
            "revocation_endpoint": "/v2/oauth2/token/revoke",
            "jwks_uri": "/jwk.json",
        }
        lists = {
            "id_token_signing_alg_values_supported": ["RS512"],
            "scopes_supported": ["openid", "email", "profile"],
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
        }
        return Answer({"issuer": "https://auth.globus.org", **{key: root + at for key, at in names.items()}, **lists})

    # Logins --------------------------------------------------------------------------------------------------------

    def _authorize(self, request: Request) -> Answer:
        """Log the visitor in without asking, and send the browser back with a code."""
        query, state = request.query, self._state
        application = state.applications.get(query.get("client_id", ""))
        if application is None or query.get("response_type") != "code":
            raise _oauth_error(400, "invalid_request", "no such application")
        if application.secret is None and query.get("code_challenge_method") != "S256":
            raise _oauth_error(400, "invalid_request", "a native application needs PKCE with S256")
        if state.visitor is None:
            raise _oauth_error(403, "access_denied", "nobody sits at the browser")
        identity, about = state.visitor
        grant = Grant(
            application.client_id, identity, plain_scopes(query["scope"]), self._tokens.session(identity, about)
        )
        for scope in grant.scopes:
            self._tokens.server_of(scope)
        code = self.add_code(
            grant,
            offline=query.get("access_type") == "offline",
            challenge=query.get("code_challenge"),
            redirect=query["redirect_uri"],
            nonce=query.get("nonce"),
        )
        back = {"code": code} | ({"state": query["state"]} if "state" in query else {})
        joint = "&" if "?" in query["redirect_uri"] else "?"
        return Answer("", 302, {"Location": query["redirect_uri"] + joint + urlencode(back)})

    def _show_code(self, request: Request) -> Answer:
        return Answer(
            f"<!doctype html><title>Code</title><p>Copy this code: <code>{html.escape(request.query['code'])}</code>"
        )

    def add_code(
        self,
        grant: Grant,
        *,
        offline: bool = True,
        challenge: str | None = None,
        redirect: str | None = None,
        nonce: str | None = None,
    ) -> str:
        """Remember an authorization code for ``grant`` and return it."""
        text = secrets.token_urlsafe(24)
        expires = self._state.now() + _CODE_SECONDS
        self._state.codes[text] = Code(grant, expires, offline, challenge, redirect, nonce)
        return text

    # Tokens --------------------------------------------------------------------------------------------------------

    def _application(self, request: Request) -> Application:
        """Return the application that asks: proven by its secret, or a native one that names itself."""
        basic = request.basic()
        name = basic[0] if basic else request.form.get("client_id", "")
        found = self._state.applications.get(name)
        if found is None or found.secret != (basic[1] if basic else None):
            raise _oauth_error(401, "invalid_client")
        return found

    def _confidential(self, request: Request) -> Application:
        found = self._application(request)
        if found.secret is None:
            raise _oauth_error(401, "invalid_client")
        return found

    def _token(self, request: Request) -> Answer:
        kinds = {
            "client_credentials": self._by_secret,
            "authorization_code": self._by_code,
            "refresh_token": self._by_refresh,
            _DEPENDENT: self._by_token,
        }
        kind = kinds.get(request.form.get("grant_type", ""))
        if kind is None:
            raise _oauth_error(400, "unsupported_grant_type")
        return Answer(kind(request))

    def _by_secret(self, request: Request) -> dict[str, Any]:
        client = self._confidential(request).client_id
        return self._tokens.reply(Grant(client, client, plain_scopes(request.form.get("scope", ""))))

    def _by_code(self, request: Request) -> dict[str, Any]:
        application, form = self._application(request), request.form
        code = self._state.codes.pop(form.get("code", ""), None)
        if code is None or code.expires < self._state.now() or code.grant.client_id != application.client_id:
            raise _oauth_error(400, "invalid_grant")
        if code.redirect is not None and code.redirect != form.get("redirect_uri"):
            raise _oauth_error(400, "invalid_grant", "another redirect_uri than the one logged in with")
        verifier = form.get("code_verifier", "")
        if application.secret is None and not verifier:
            raise _oauth_error(400, "invalid_grant", "a native application needs PKCE")
        if code.challenge is not None and code.challenge != _challenge(verifier):
            raise _oauth_error(400, "invalid_grant", "the code_verifier does not fit")
        return self._tokens.reply(code.grant, offline=code.offline, nonce=code.nonce)

    def _by_refresh(self, request: Request) -> dict[str, Any]:
        application = self._application(request)
        grant = self._state.refreshes.get(request.form.get("refresh_token", ""))
        if grant is None or grant.client_id != application.client_id:
            raise _oauth_error(400, "invalid_grant")
        return self._tokens.reply(grant)

    def _by_token(self, request: Request) -> list[dict[str, Any]]:
        """The dependent-token grant: act for whoever sent us a token made for us."""
        client, form = self._confidential(request).client_id, request.form
        token = self._state.tokens.get(form.get("token", ""))
        if token is None or not self._state.is_live(token) or token.server != client:
            raise _oauth_error(400, "invalid_grant")
        scopes = plain_scopes(form.get("scope", "")) or self._dependents(token)
        offline = form.get("access_type") == "offline"
        return self._tokens.issue(Grant(client, token.grant.identity, scopes, token.grant.session), offline=offline)

    def _dependents(self, token: Token) -> tuple[str, ...]:
        known = [each for each in self._state.scopes.values() if each["scope_string"] in token.scopes]
        return tuple(str(one["scope"]) for each in known for one in each["dependent_scopes"])

    def _introspect(self, request: Request) -> Answer:
        """Tell the resource server that a token is for, or the application that it was issued to, about it."""
        client, form = self._confidential(request).client_id, request.form
        token = self._state.tokens.get(form.get("token", ""))
        if token is None or not self._state.is_live(token) or client not in (token.server, token.grant.client_id):
            return Answer({"active": False})
        person = self._state.people[token.grant.identity]
        answer: dict[str, Any] = {
            "active": True,
            "token_type": "Bearer",
            "scope": " ".join(token.scopes),
            "client_id": token.grant.client_id,
            "sub": person.identity,
            "username": person.username,
            "name": person.name,
            "email": person.username,
            "exp": int(token.expires),
            "iat": int(token.issued),
            "nbf": int(token.issued),
            "aud": list(dict.fromkeys((token.server, token.grant.client_id))),
            "iss": "https://auth.globus.org",
        }
        return Answer({**answer, **self._included(token, form.get("include", "").split(","))})

    def _included(self, token: Token, include: list[str]) -> dict[str, Any]:
        identities = self._state.identity_set(token.grant.identity)
        more: dict[str, Any] = {}
        if "identity_set" in include:
            more["identity_set"] = identities
        if "identity_set_detail" in include:
            more["identity_set_detail"] = [self._state.people[each].document() for each in identities]
        if "session_info" in include:
            more["session_info"] = token.grant.session or {"session_id": new_id(), "authentications": {}}
        return more

    def _revoke(self, request: Request) -> Answer:
        self._application(request)
        text = request.form.get("token", "")
        if text in self._state.tokens:
            self._state.tokens[text].revoked = True
        self._state.refreshes.pop(text, None)
        return Answer({"active": False})

    # Identities and scopes -----------------------------------------------------------------------------------------

    def _userinfo(self, request: Request) -> Answer:
        token = self._tokens.need(request, AUTH_SERVER, ("openid",))
        person = self._state.people[token.grant.identity]
        linked = [self._state.people[each].document() for each in self._state.identity_set(person.identity)]
        return Answer(
            {
                "sub": person.identity,
                "preferred_username": person.username,
                "name": person.name,
                "email": person.username,
                "identity_set": linked,
            }
        )

    def _identities(self, request: Request) -> Answer:
        if request.basic() is not None:
            self._confidential(request)
        else:
            self._tokens.need(request, AUTH_SERVER)
        ids = request.query.get("ids", "").lower().split(",")
        names = request.query.get("usernames", "").lower().split(",")
        people = self._state.people.values()
        found = [each.document() for each in people if each.identity in ids or each.username.lower() in names]
        return Answer({"identities": found})

    def _policy(self, request: Request, policy: str) -> Answer:
        self._tokens.need(request, AUTH_SERVER)
        if policy not in self._state.policies:
            raise Refusal(404, "NOT_FOUND", "no such policy")
        return Answer({"policy": self._state.policies[policy]})

    def _list_scopes(self, request: Request) -> Answer:
        self._tokens.need(request, AUTH_SERVER)
        wanted = request.query.get("scope_strings", "").split(",")
        return Answer({"scopes": [each for each in self._state.scopes.values() if each["scope_string"] in wanted]})

    def _create_scope(self, request: Request, client: str) -> Answer:
        """Register a scope of one's own resource server; only the client itself may."""
        basic = request.basic()
        asks = self._confidential(request).client_id if basic else self._manager(request)
        if asks != client:
            raise Refusal(403, "FORBIDDEN", "not your client")
        body = request.json["scope"]
        return Answer({"scope": self.add_scope(client, body["scope_suffix"], body)}, 201)

    def _manager(self, request: Request) -> str:
        return self._tokens.need(request, AUTH_SERVER, (_MANAGE,)).grant.identity

    def add_scope(self, client: str, suffix: str, about: dict[str, Any] | None = None) -> dict[str, Any]:
        """Register the scope ``suffix`` of ``client`` and return its document."""
        about = about or {}
        document = {
            "id": new_id(),
            "scope_string": f"https://auth.globus.org/scopes/{client}/{suffix}",
            "client": client,
            "name": about.get("name", suffix),
            "description": about.get("description", suffix),
            "advertised": about.get("advertised", False),
            "allows_refresh_token": about.get("allows_refresh_token", True),
            "required_domains": about.get("required_domains", []),
            "dependent_scopes": about.get("dependent_scopes", []),
        }
        if any(each["scope_string"] == document["scope_string"] for each in self._state.scopes.values()):
            raise Refusal(409, "CONFLICT", "the scope exists")
        self._state.scopes[str(document["id"])] = document
        return document


def _challenge(verifier: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
