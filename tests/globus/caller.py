"""A client of Compute for the stand-in's own tests: the real SDK's web clients and serialisers, results by polling."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from globus_compute_sdk.serialize import ComputeSerializer, DillCodeSource
from globus_sdk import AccessTokenAuthorizer, ComputeClientV2, ComputeClientV3, ConfidentialAppAuthClient
from globus_sdk.transport import RetryConfig

from counterseal.tests.standin.state import COMPUTE_SCOPE, COMPUTE_SERVER

__all__ = ["Caller", "account_id", "credentials", "slow"]


def account_id(seconds: float = 0.0) -> tuple[int, int]:
    """Return who runs this, and in which process."""
    import os
    import time

    time.sleep(seconds)
    return os.getuid(), os.getpid()


def credentials() -> list[str]:
    """Return what is known here of the daemon's login."""
    import os

    return [value for name, value in os.environ.items() if "CLIENT_ID" in name or "SECRET" in name]


def slow(path: str, seconds: float) -> str:
    """Add a line to ``path``, then take some time."""
    import time

    with open(path, "a") as file:  # noqa: PTH123 - this text runs at the endpoint
        file.write("ran\n")
    time.sleep(seconds)
    return "done"


class Caller:
    """One service account that registers functions, submits tasks and asks for results; it never retries by itself."""

    def __init__(self, url: str, client: tuple[str, str]) -> None:
        self.client = client
        login = ConfidentialAppAuthClient(*client, base_url=url + "/auth")
        tokens = login.oauth2_client_credentials_tokens(requested_scopes=COMPUTE_SCOPE)
        self._speak(url, tokens.by_resource_server[COMPUTE_SERVER]["access_token"])

    @classmethod
    def with_token(cls, url: str, token: str) -> Caller:
        """Return a caller with an access token that somebody got by logging in."""
        made = cls.__new__(cls)
        made._speak(url, token)
        return made

    def _speak(self, url: str, token: str) -> None:
        authorizer = AccessTokenAuthorizer(token)
        quick = RetryConfig(max_retries=0)
        self.v2 = ComputeClientV2(base_url=url, authorizer=authorizer, retry_config=quick)
        self.v3 = ComputeClientV3(base_url=url, authorizer=authorizer, retry_config=quick)
        self.serializer = ComputeSerializer(strategy_code=DillCodeSource())  # type: ignore[no-untyped-call]

    def register(self, function: Callable[..., Any]) -> str:
        """Register ``function`` by its source and return its UUID."""
        body = {
            "function_name": function.__name__,
            "function_code": self.code(function),
            "serialized": True,
            "meta": {},
        }
        return str(self.v3.register_function(body)["function_uuid"])

    def code(self, function: Callable[..., Any]) -> str:
        """Return ``function`` as it is registered."""
        return str(self.serializer.pack_buffers([self.serializer.serialize(function)]))

    def body(self, function: str, *args: Any, **more: Any) -> dict[str, Any]:
        """Return a submission of one call."""
        packed = self.serializer.pack_buffers([self.serializer.serialize(args), self.serializer.serialize({})])
        return {"tasks": {function: [packed]}, "create_queue": False, **more}

    def submit(self, endpoint: str, function: str, *args: Any, **more: Any) -> str:
        """Submit one call and return its task."""
        reply = self.v3.submit(endpoint, self.body(function, *args, **more))
        return str(reply["tasks"][function][0])

    def status(self, task: str) -> dict[str, Any]:
        """Return what the service says about ``task``."""
        found: dict[str, Any] = self.v2.get_task_batch([task])["results"][task]
        return found

    def wait(self, task: str, patience: float = 120.0) -> dict[str, Any]:
        """Poll until ``task`` is complete."""
        deadline = time.monotonic() + patience
        while "completion_t" not in (found := self.status(task)):
            assert time.monotonic() < deadline, f"no result after {patience} s: {found}"
            time.sleep(0.1)
        return found

    def result(self, endpoint: str, function: str, *args: Any) -> Any:
        """Submit one call and return its result."""
        found = self.wait(self.submit(endpoint, function, *args))
        assert found["status"] == "success", found
        return self.serializer.deserialize(found["result"])
