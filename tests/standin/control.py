"""The cloud as a process of its own, and `Control`: the same levers, worked from another process.

The levers are on a port of their own, so that nothing that is meant for Globus reaches them, and so that they work while the
services have an outage.
"""

from __future__ import annotations

import argparse
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, cast

from .cloud import Cloud
from .faults import Faults
from .lifetime import block_signals, wait_for_the_end
from .state import State
from .web import Answer, Refusal, Request, Router, WebServer

__all__ = ["Control", "main"]


class _Remote:
    """Whatever `Cloud` can do, done over HTTP."""

    def __init__(self, url: str) -> None:
        self._url = url

    @property
    def requests(self) -> list[tuple[str, str, int]]:
        return [cast("tuple[str, str, int]", tuple(each)) for each in self._call("requests")]

    @property
    def url(self) -> str:
        return str(self._call("url"))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *args, **kwargs: self._call(name, *args, **kwargs)

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        body = json.dumps({"args": args, "kwargs": kwargs}).encode()
        request = urllib.request.Request(f"{self._url}/{name}", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                return json.load(reply)["result"]
        except urllib.error.HTTPError as error:
            with error:
                raise RuntimeError(f"the stand-in refuses {name}: {json.load(error).get('message')}") from None


def Control(url: str) -> Cloud:
    """Return the levers of the cloud whose control address is ``url``: everything public that `Cloud` has."""
    return cast("Cloud", _Remote(url))


def _controls(cloud: Cloud) -> Router:
    router = Router("control", "/_test")

    def pull(request: Request, name: str) -> Answer:
        if name.startswith("_") or not hasattr(cloud, name):
            raise Refusal(404, "NOT_FOUND", f"no such lever: {name}")
        lever, body = getattr(cloud, name), request.json
        try:
            return Answer({"result": lever(*body["args"], **body["kwargs"]) if callable(lever) else lever})
        except (KeyError, TypeError, ValueError) as fault:
            raise Refusal(400, "BAD_REQUEST", f"{type(fault).__name__}: {fault}") from None

    router.add("POST", "/<name>", pull)
    return router


def main() -> None:
    """Run the cloud until SIGTERM, SIGINT or, with --child, the end of standard input."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--control-port", type=int, default=0)
    parser.add_argument("--broker", help="amqp:// address; without it Compute runs nothing")
    parser.add_argument("--child", action="store_true", help="end with standard input")
    arguments = parser.parse_args()
    block_signals()
    with Cloud(arguments.port, arguments.broker) as cloud:
        control = WebServer(State(), [_controls(cloud)], Faults(), arguments.control_port)
        control.open()
        print(f"http://localhost:{control.port}/_test", flush=True)
        wait_for_the_end(child=arguments.child)
        control.close()


if __name__ == "__main__":
    main()
