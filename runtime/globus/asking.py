"""Asking Globus: patience for each question, and its errors in our own tree.

An outage is an answer here, and a quick one: nothing is asked twice, except once after a token was renewed. Whoever can
wait does so itself and says so (the gate holds its round, a command tells its user), and a limit on the rate is not met
with more questions. The Globus SDK's own way, five tries within eleven seconds, would stall a round that somebody else
could have gone on with, and could create a group twice.

Neither tokens nor secrets enter an error: what Globus writes is cut, and long words in it are blanked, since a service
may echo what it was sent. The SDK's exception is not chained, for it carries the whole answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import GlobusRefusedError, GlobusSetupError, GlobusUnavailableError, LoginNeededError

if TYPE_CHECKING:
    from globus_sdk import GlobusAPIError
    from globus_sdk.transport import RequestsTransport, RetryConfig

__all__ = ["asking", "patience", "transport"]

_SECONDS = 5.0
"""Until an address that does not answer is given up: one connection, or one silence within an answer."""
_WHOLE_SECONDS = 30.0
_WHOLE_BYTES = 64 << 20
"""What one whole answer may take."""

_LOGIN = "Run `counterseal login`; for a service account, check its client_id and client_secret."
_DEAD_GRANTS = frozenset({"invalid_grant", "invalid_client", "unauthorized_client", "invalid_token"})
_LONG = re.compile(r"[A-Za-z0-9_.~+/=-]{40,}")


def patience(*, renew: bool) -> RetryConfig:
    """Return the SDK's settings for one try, and one more with a renewed token if ``renew``."""
    from globus_sdk.transport import RetryCheckResult, RetryConfig
    from globus_sdk.transport.retry import RetryContext

    def no_second_connection(context: RetryContext) -> RetryCheckResult:
        return RetryCheckResult.no_decision if context.exception is None else RetryCheckResult.do_not_retry

    settings = RetryConfig(
        max_retries=1 if renew else 0, max_sleep=0, retry_after_status_codes=(), transient_error_status_codes=()
    )
    settings.checks.register_check(no_second_connection)
    return settings


def transport(*, test_cloud: bool, seconds: float = _WHOLE_SECONDS, limit: int = _WHOLE_BYTES) -> RequestsTransport:
    """Return what sends requests: certificates are checked whatever the environment says, and nothing waits for long.

    ``seconds`` and ``limit`` (bytes) bound one whole answer.
    """
    from globus_sdk.transport import RequestsTransport

    from .bounded import Bounded

    sender = RequestsTransport(verify_ssl=True, http_timeout=_SECONDS)
    for scheme in ("https://", "http://"):
        sender.session.mount(scheme, Bounded(seconds=seconds, limit=limit))
    sender.session.trust_env = not test_cloud  # a proxy has no business between us and this machine
    return sender


@contextmanager
def asking(where: str) -> Iterator[None]:
    """Turn the errors of the Globus SDK into ours; put calls of the SDK in it and nothing else.

    Raises:
        LoginNeededError: the token or the credential is not taken (any longer).
        GlobusRefusedError: taken, and not allowed to; or there is no such thing.
        GlobusUnavailableError: no answer, one that asks to come again, or one that cannot be understood.
        GlobusSetupError: the address cannot be used at all.
    """
    from globus_sdk import GlobusAPIError, GlobusError, GlobusSDKUsageError
    from requests.exceptions import InvalidURL, RequestException

    try:
        yield
    except GlobusAPIError as error:
        raise _answered(error, where) from None
    except GlobusSDKUsageError:
        raise
    except InvalidURL:
        raise GlobusSetupError("the address of Globus cannot be used", where=where) from None
    except (GlobusError, RequestException) as error:
        raise GlobusUnavailableError(f"Globus does not answer ({type(error).__name__})", where=where) from None
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        # The SDK takes answers apart without checking them; a thousand brackets are too deep for its JSON.
        raise GlobusUnavailableError(f"an answer not understood ({type(error).__name__})", where=where) from None


def _answered(error: GlobusAPIError, where: str) -> LoginNeededError | GlobusRefusedError | GlobusUnavailableError:
    status = error.http_status
    if status == 401 or (status == 400 and _grant_error(error) in _DEAD_GRANTS):
        return LoginNeededError("Globus does not take this login (any longer)", where=where, remedy=_LOGIN)
    if status == 429:
        return GlobusUnavailableError(
            "Globus asks to come again later (429)", where=where, retry_after=_retry_after(error)
        )
    if status >= 500 or status in {408, 425}:
        return GlobusUnavailableError(f"Globus cannot answer now ({status})", where=where)
    what = "there is no such thing, or not for this login" if status == 404 else "not allowed to this login"
    if status not in {403, 404}:
        what = "Globus does not take this request"
    return GlobusRefusedError(
        f"{what} ({status}{_told(error)})", where=where, remedy=_session_remedy(error), status=status
    )


def _grant_error(error: GlobusAPIError) -> object:
    """Return the ``error`` of a token endpoint's answer (RFC 6749, 5.2), which the SDK does not take for a code."""
    body = error.raw_json
    return body.get("error") if isinstance(body, dict) else None


def _retry_after(error: GlobusAPIError) -> float:
    text = error.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else 1.0


def _told(error: GlobusAPIError) -> str:
    told = ", ".join(part for part in (error.code, error.message) if isinstance(part, str) and part != "Error")
    told = " ".join(_LONG.sub("...", told).split())
    return f": {told[:200]}" if told else ""


def _session_remedy(error: GlobusAPIError) -> str:
    """Say what a policy on the session asks for: only a person's new login can answer it, never a service account."""
    parameters = error.info.authorization_parameters
    if not parameters:
        return ""
    wanted = [
        text
        for asked, text in (
            (parameters.session_required_mfa, "a second factor"),
            (parameters.session_required_policies, "what a policy asks"),
            (parameters.session_required_identities, "another identity"),
            (parameters.session_required_single_domain, "an identity of another institution"),
        )
        if asked
    ]
    how = f" with {' and '.join(wanted)}" if wanted else ""
    return f"Log in anew{how}: `counterseal login`. A service account cannot."
