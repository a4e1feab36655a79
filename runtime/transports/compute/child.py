"""The process that speaks to Globus: requests in on standard input, what came of them out on standard output.

It runs beside the server and holds what the server should not: the SDKs, dill, parsers of whatever the web sends, a
secret of Globus. It has no key of the federation and no word in any decision. What it reads first is the `GlobusConfig`,
which names where a secret is found; the secret itself crosses no pipe. It ends when its standard input ends, at once
and whatever it was doing: what it leaves open, the transport finds again.

Frames of JSON (`..frames`). Requests, each with a number ``id``:

    {"do": "submit", "endpoint", "group", "deliveries": [base64]}  -> {"end": "submitted", "group", "tasks"}
    {"do": "results", "tasks"}    -> {"task", "state", "answer", "failure"} for each that ended, {"end": "asked", "gone"}
    {"do": "tasks", "group"}      -> {"end": "tasks", "tasks"}
    {"do": "online", "endpoint"}  -> {"end": "online", "online"}
    {"do": "function"}            -> {"end": "function", "ours"}

and for each, instead: {"end": "refused", "code", "maybe", "retry_after"}, where ``maybe`` says that a submission may have
been taken all the same.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, Protocol

from ....errors import CountersealError
from ....trust.canonical import parse
from ...config.globus import GlobusConfig
from ...errors import GlobusRefusedError, GlobusUnavailableError, LoginNeededError, TransportError
from ..frames import read_frame, write_frame
from .results import Outcome

__all__ = ["FRAME_LIMIT", "Service", "answer", "main", "refusal"]

_log = logging.getLogger(__name__)

FRAME_LIMIT = 24_000_000
"""Bytes of the longest frame: what Compute takes at once in base64, and room."""
_THREADS = 8

_REFUSALS = {403: "endpoint_refused", 413: "delivery_too_large"}


class Service(Protocol):
    """What answers: a `ComputeService`."""

    def submit(self, endpoint: str, function: str, group: str | None, deliveries: list[str]) -> tuple[str, list[str]]:
        """Send deliveries; return the task group and the tasks."""

    def results(self, tasks: list[str]) -> Iterator[tuple[str, Outcome | None]]:
        """Yield where each task stands."""

    def tasks(self, group: str) -> list[str]:
        """Return the tasks of a group."""

    def online(self, endpoint: str) -> bool:
        """Tell whether an endpoint is heard of."""

    def is_ours(self, function: str) -> bool:
        """Tell whether a function is our code."""


def answer(service: Service, function: str, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the frames that answer ``request``; never raises."""
    try:
        yield from _answer(service, function, request)
    except CountersealError as error:
        yield {"end": "refused", **refusal(service, function, request, error)}
    except Exception as error:  # noqa: BLE001 - the process goes on whatever a peer or the SDK did
        _log.error("failed on %s: %s", request.get("do"), type(error).__name__, exc_info=error)
        yield {"end": "refused", "code": "globus_unavailable", "maybe": True, "retry_after": None}


def _answer(service: Service, function: str, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    match request["do"]:
        case "submit":
            deliveries = request["deliveries"]
            group, tasks = service.submit(request["endpoint"], function, request["group"], deliveries)
            yield {"end": "submitted", "group": group, "tasks": tasks}
        case "results":
            gone = []
            for task, outcome in service.results(request["tasks"]):
                if outcome is None:
                    gone.append(task)
                elif outcome.state != "pending":
                    yield _told(task, outcome)
            yield {"end": "asked", "gone": gone}
        case "tasks":
            yield {"end": "tasks", "tasks": service.tasks(request["group"])}
        case "online":
            yield {"end": "online", "online": service.online(request["endpoint"])}
        case "function":
            yield {"end": "function", "ours": service.is_ours(function)}
        case _:
            raise ValueError("no such request")


def _told(task: str, outcome: Outcome) -> dict[str, Any]:
    text = None if outcome.answer is None else base64.b64encode(outcome.answer).decode("ascii")
    return {"task": task, "state": outcome.state, "answer": text, "failure": outcome.failure}


def refusal(service: Service, function: str, request: dict[str, Any], error: CountersealError) -> dict[str, Any]:
    """Return what the transport is told about ``error``: one code, and whether the request may have been done."""
    _log.info("Globus Compute did not do %s: %s", request["do"], error)
    if isinstance(error, GlobusUnavailableError):
        limited = error.retry_after is not None
        return {"code": error.code, "maybe": not limited, "retry_after": error.retry_after}
    if isinstance(error, GlobusRefusedError):
        return {"code": _refused(service, function, request, error.status), "maybe": False, "retry_after": None}
    code = error.code if isinstance(error, LoginNeededError) else "globus_unavailable"
    return {"code": code, "maybe": False, "retry_after": None}


def _refused(service: Service, function: str, request: dict[str, Any], status: int) -> str:
    """Return what was refused; of a thing that is missing, find out which of three it is."""
    if status != 404:
        return _REFUSALS.get(status, "globus_refused")
    if request["do"] != "submit":
        return "unknown"
    if request["group"] is not None and _missing(lambda: service.tasks(request["group"])):
        return "group_unknown"
    return "function_unknown" if _missing(lambda: service.is_ours(function)) else "endpoint_unknown"


def _missing(ask: Any) -> bool:
    try:
        ask()
    except GlobusRefusedError as error:
        return error.status == 404
    except CountersealError:
        return False
    return False


def main() -> int:
    """Serve on this process's standard streams; whatever else prints goes to standard error."""
    sink = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("globus_sdk").setLevel(logging.CRITICAL)  # its debug output shows headers
    try:
        _serve(sys.stdin.buffer, sink)
    except (TransportError, OSError) as error:
        _log.error("the server's pipe broke: %s", error)
    finally:
        os._exit(0)  # no thread that still waits for Globus holds this process back


def _serve(source: BinaryIO, sink: BinaryIO) -> None:
    lock = threading.Lock()

    def say(value: dict[str, Any]) -> None:
        with lock:
            write_frame(sink, json.dumps(value).encode())

    first = read_frame(source, FRAME_LIMIT)
    if first is None:
        return
    opening = json.loads(first)
    try:
        from .service import ComputeService

        service = ComputeService(GlobusConfig.from_json(parse(json.dumps(opening["globus"]).encode())))
    except CountersealError as error:
        say({"end": "closed", "code": error.code, "what": error.what, "where": error.where, "mend": error.remedy})
        return
    say({"end": "open"})
    function = str(opening["function"])

    def work(request: dict[str, Any]) -> None:
        for value in answer(service, function, request):
            say({**value, "id": request["id"]})

    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="compute")
    while (frame := read_frame(source, FRAME_LIMIT)) is not None:
        pool.submit(work, json.loads(frame))


if __name__ == "__main__":
    raise SystemExit(main())
