"""What Compute says about a task, in our own words: an answer's bytes, or one code out of a short list.

A result is a site's word, and the site may be anybody's by now. The SDK offers a serializer with a list of what it may
unpack; that list must hold a strategy for code, and a result that says it is code is then unpacked as code, which runs
it on the server (`tests/globus/test_compute_results.py` does). So nothing of the SDK ever touches a result. This file takes
the one form that the registered function produces: the SDK's JSON header, a JSON text in a JSON string, base64.

The text of a remote exception is somebody's traceback, with a path or a patient in it. It is read for the few words that
tell a lost worker from a full disk, and then dropped.

Imports nothing of Globus, so that it can be attacked by itself (`tests/globus`, `tests/fuzz`).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ....errors import CountersealError
from ....trust.canonical import parse
from ...delivery import DELIVERY_LIMIT
from .function import FAILURES

__all__ = ["INFRASTRUCTURE", "Outcome", "State", "read_outcome", "read_result"]

State = Literal["pending", "done", "failed"]

_HEADER = "11\n"
"""What the SDK's `JSONData` writes before its JSON."""
_LONGEST = 2 * DELIVERY_LIMIT

_WORDS = (
    ("another instance", "endpoint_not_ready"),
    ("unable to start user endpoint", "endpoint_not_ready"),
    ("worker_lost", "worker_lost"),
    ("workerlost", "worker_lost"),
    ("managerlost", "manager_lost"),
    ("manager_lost", "manager_lost"),
    ("brokenprocesspool", "worker_lost"),
    ("maxresultsizeexceeded", "answer_too_large"),
    ("max_result_size", "answer_too_large"),
    ("function_not_allowed", "endpoint_refused"),
    ("function_not_permitted", "endpoint_refused"),
    ("startup_failure", "endpoint_not_ready"),
)

INFRASTRUCTURE = frozenset(
    {"endpoint_not_ready", "manager_lost", "result_missing", "task_failed", "task_gone", "worker_lost"}
)
"""Codes about the machinery between: the site never had the delivery, or its answer got lost. Sent again, later."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where a task stands; ``answer`` when done, else ``failure``."""

    state: State
    answer: bytes | None = None
    failure: str | None = None


def read_outcome(document: Any) -> Outcome | None:
    """Return what one entry of a batch status says; None if it says that there is no such task (any longer)."""
    if not isinstance(document, Mapping):
        return Outcome("pending")
    status = str(document.get("status", "")).lower()
    if "result" in document:
        return read_result(document["result"])
    if "exception" in document:
        return Outcome("failed", failure=_code(document["exception"]))
    if status == "failed":
        return Outcome("failed", failure="task_failed") if "completion_t" in document else None
    if status == "success":
        return Outcome("failed", failure="result_missing")
    return Outcome("pending")


def read_result(packed: Any) -> Outcome:
    """Return the answer, or the code, in a task's result; anything but our function's form is ``result_malformed``."""
    try:
        text = _json(packed.removeprefix(_HEADER)) if isinstance(packed, str) and packed.startswith(_HEADER) else None
        found: Any = _json(text) if isinstance(text, str) else None
        if not isinstance(found, dict) or len(found) != 1:
            return Outcome("done", failure="result_malformed")
        match found:
            case {"answer": str(answer)}:
                return Outcome("done", answer=_bytes(answer))
            case {"failure": str(failure)} if failure in FAILURES:
                return Outcome("done", failure=failure)
    except (CountersealError, binascii.Error, ValueError):
        pass
    return Outcome("done", failure="result_malformed")


def _json(text: str) -> Any:
    return parse(text.encode(), limit=_LONGEST, what="result")


def _bytes(text: str) -> bytes:
    answer = base64.b64decode(text, validate=True)
    if not 0 < len(answer) <= DELIVERY_LIMIT:
        raise ValueError("an answer of no length that one can have")
    return answer


def _code(exception: Any) -> str:
    words = exception.lower() if isinstance(exception, str) else ""
    return next((code for word, code in _WORDS if word in words), "task_failed")
