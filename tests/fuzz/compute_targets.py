"""Targets of the transport over Globus Compute: what a site's endpoint sends back, and what the registered function is given."""

from __future__ import annotations

import base64
import json
import os

from counterseal.runtime.delivery import DELIVERY_LIMIT
from counterseal.runtime.transports.compute.function import FAILURES, deliver
from counterseal.runtime.transports.compute.results import read_outcome, read_result

from .target import Target, require, taken
from .world import world

__all__ = ["TARGETS"]


def _result(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    found = taken(lambda: read_result(text))
    require(found is not None and found.state == "done", "a result that is neither taken nor refused")
    if found is None:
        return
    require((found.answer is None) == (found.failure is not None), "an answer and a failure, or neither")
    require(found.failure in {None, "result_malformed", *FAILURES}, "a code that a site made up")
    require(found.answer is None or 0 < len(found.answer) <= DELIVERY_LIMIT, "an answer of no length that one can have")
    failed = taken(lambda: read_outcome({"status": "failed", "exception": text}))
    require(failed is not None and (failed.failure or "").replace("_", "").isalpha(), "a remote text passed on")


def _result_seeds() -> list[bytes]:
    answers = [base64.b64encode(one).decode() for one in world().answers[:3]]
    told = [json.dumps({"answer": one}) for one in answers] + [json.dumps({"failure": one}) for one in sorted(FAILURES)]
    return [*(b"11\n" + json.dumps(one).encode() for one in told), b"00\ngASVHAAAAAAAAACMBXBvc2l4", b"st\nx:x = 1\n"]


def _function(data: bytes) -> None:
    os.environ.pop("COUNTERSEAL_SITE", None)
    found = taken(lambda: json.loads(deliver(data.decode("utf-8", "surrogateescape"))))
    require(
        found in ({"failure": "delivery_damaged"}, {"failure": "site_not_configured"}), "something else than one word"
    )


TARGETS = (
    Target("compute-result", ("runtime/transports/compute/results.py",), _result_seeds, _result),
    Target(
        "compute-function",
        ("runtime/transports/compute/function.py",),
        lambda: [base64.b64encode(one) for one in world().deliveries[:3]],
        _function,
    ),
)
