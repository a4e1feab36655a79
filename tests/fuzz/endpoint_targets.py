"""Targets of what lies or speaks where foreign code may: an endpoint's record, a worker's words; and of admissions."""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path

from counterseal.runtime.cli.doctor_worker import read_report
from counterseal.runtime.endpoint.folder import RECORD, read_kit
from counterseal.runtime.endpoint.kit import Kit
from counterseal.runtime.founding.admissions import Admission
from counterseal.runtime.founding.enrol import read_server_statement
from counterseal.runtime.site.probe import read_greeting
from counterseal.tests.federation import START

from .target import Target, require, round_trips, taken
from .world import folder, payload_of, vectors, world

__all__ = ["TARGETS"]

_NONCE = "ab" * 16


@cache
def _kit() -> Kit:
    return Kit(
        profile="laptop",
        name="Ward 7",
        folder="/srv/endpoint",
        config="/srv/site/site.yaml",
        function="6e9b1d5e-0c5e-4a39-8b5c-3d9f3d0c9a11",
        program="/opt/counterseal/bin/counterseal",
        daemon="/opt/endpoint/bin/globus-compute-endpoint",
        user="fedsite",
    )


@cache
def _folder() -> Path:
    return folder()


def _record(data: bytes) -> None:
    place = _folder()
    (place / RECORD).write_bytes(data)
    found = taken(lambda: read_kit(place))
    if found is not None:
        require(Kit.model_validate_json(found.model_dump_json()) == found, "differs after a round trip")
        require(found.user != "root" or found.multi_user or found.pod, "a kit that runs foreign code as root")


def _report(data: bytes) -> None:
    found = taken(lambda: read_report(io.BytesIO(data), _NONCE))
    require(found is None or found["nonce"] == _NONCE, "a report of another run")


def _report_seeds() -> list[bytes]:
    report = {"counterseal-probe": 1, "nonce": _NONCE, "seen": True, "time": 1.5, "device": "cpu"}
    return [b"srun: job 7 queued\n" + json.dumps(report).encode() + b"\n", b"{}\n[]\n" + json.dumps(report).encode()]


def _greeting(data: bytes) -> None:
    found = taken(lambda: read_greeting(data))
    require(found is None or "/" not in found["scratch"], "a path in a name")


def _admissions() -> list[bytes]:
    return [case["record"].encode() for case in vectors("admission/vectors.json")["cases"]]


def _admission_payload(data: bytes) -> None:
    found = round_trips(Admission, data)
    if found is not None:
        for part in ("claimed", "enrolment_digest", "statement"):
            taken(lambda part=part: getattr(found, part))  # type: ignore[misc]


def _statement(data: bytes) -> None:
    found = taken(lambda: read_server_statement(data, now=START))
    require(found is None or found.document.is_operator, "a server without a log")


def _statement_seeds() -> list[bytes]:
    return [one.raw for one in world().federation.charter.statements.values()]


TARGETS = (
    Target(
        "endpoint-record", ("runtime/endpoint/folder.py",), lambda: [_kit().model_dump_json().encode()], _record, True
    ),
    Target("worker-report", ("runtime/cli/doctor_worker.py",), _report_seeds, _report),
    Target(
        "probe-greeting",
        ("runtime/site/probe.py",),
        lambda: [json.dumps({"scratch": ".doctor-1a2b3c4d", "nonce": _NONCE}).encode()],
        _greeting,
        True,
    ),
    Target(
        "admission",
        ("runtime/founding/admissions.py",),
        lambda: [payload_of(one) for one in _admissions()],
        _admission_payload,
        True,
    ),
    Target("server-statement", ("runtime/founding/enrol.py",), _statement_seeds, _statement, True),
)
