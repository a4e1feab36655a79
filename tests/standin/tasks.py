"""Compute's bookkeeping: functions, endpoints, tasks and their results, and what a test does to them on the way."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .state import new_id

__all__ = [
    "Endpoint",
    "Function",
    "Heartbeat",
    "Meddling",
    "Records",
    "Task",
    "TaskGroup",
    "UserEndpoint",
    "hostile",
    "listed",
]

WAITING, RUNNING, SUCCESS, FAILED = "waiting-for-ep", "running", "success", "failed"
KINDS = ("lose", "redeliver", "repeat", "delay", "hostile", "replace", "forget", "extra")


@dataclass(frozen=True)
class Function:
    """A registered function."""

    owner: str
    document: dict[str, Any]


@dataclass
class Endpoint:
    """A registered endpoint, as its daemon described it."""

    uuid: str
    owner: str
    document: dict[str, Any]

    @property
    def allowed(self) -> list[str] | None:
        """The functions that it runs; None for all."""
        found: list[str] | None = self.document.get("allowed_functions")
        return found


@dataclass(frozen=True)
class UserEndpoint:
    """What an endpoint starts for one identity and one set of options."""

    uuid: str
    parent: str
    name: str


@dataclass(frozen=True)
class Heartbeat:
    """The last sign of life of an endpoint; a period of 0 announces its end."""

    at: float
    period: float
    state: dict[str, Any]

    def is_live(self) -> bool:
        """Return whether it is recent enough."""
        return time.time() - self.at < 3 * self.period


@dataclass
class TaskGroup:
    """The tasks that one client submitted together."""

    owner: str
    queued: bool = False
    tasks: list[dict[str, str]] = field(default_factory=list)


@dataclass
class Task:
    """A task from its submission to its result."""

    uuid: str
    owner: str
    function: str
    endpoint: str
    user_endpoint: str
    group: str
    status: str = WAITING
    completed: float | None = None
    data: str | None = None
    details: Any = None
    forgotten: bool = False
    results: int = 0
    """Results that came, duplicates included."""
    delivered: int = 0
    fetched: int = 0

    def document(self) -> dict[str, Any]:
        """Return the task as /v2/tasks and /v2/batch_status show it."""
        document: dict[str, Any] = {"task_id": self.uuid, "status": self.status}
        if self.completed is None:
            return document
        document |= {"completion_t": str(self.completed), "details": self.details}
        if self.forgotten:
            return document | {"reason": "the result was purged"}
        return document | {"exception" if self.status == FAILED else "result": self.data}


@dataclass
class _Order:
    kind: str
    endpoint: str | None
    left: int | None
    seconds: float
    text: str
    count: int


class Meddling:
    """What a test ordered to happen to tasks and results, in order."""

    def __init__(self) -> None:
        self._orders: list[_Order] = []

    def order(self, kind: str, endpoint: str | None, times: int | None, seconds: float, text: str, count: int) -> None:
        """Order ``kind``; `Levers.meddle` says what the kinds are."""
        if kind not in KINDS:
            raise ValueError(f"not one of {KINDS}: {kind!r}")
        self._orders.append(_Order(kind, endpoint, times, seconds, text, count))

    def clear(self) -> None:
        """Forget all orders."""
        self._orders.clear()

    def take(self, kind: str, endpoint: str) -> _Order | None:
        """Return the first order of ``kind`` for ``endpoint`` that is not used up, and use it once."""
        for order in self._orders:
            if order.kind == kind and order.endpoint in (None, endpoint) and order.left != 0:
                order.left = None if order.left is None else order.left - 1
                return order
        return None


class _Trap:
    """An object that runs a command in whoever deserialises it."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self._command,)


def hostile(command: str) -> str:
    """Return a result that runs ``command`` where it is deserialised by dill, as a hostile site would send it."""
    return "00\n" + base64.b64encode(pickle.dumps(_Trap(command))).decode()


def listed(task: str) -> dict[str, str]:
    """Return a task as its group lists it."""
    return {"id": task, "created_at": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())}


class Records:
    """All functions, endpoints and tasks."""

    def __init__(self) -> None:
        self.meddling = Meddling()
        self.enforce_allowed = True
        self.enforce_owner = True
        self.functions: dict[str, Function] = {}
        self.endpoints: dict[str, Endpoint] = {}
        self.user_endpoints: dict[str, UserEndpoint] = {}
        self.heartbeats: dict[str, Heartbeat] = {}
        self.groups: dict[str, TaskGroup] = {}
        self.tasks: dict[str, Task] = {}
        self.unknown_results = 0

    def is_online(self, endpoint: str) -> bool:
        """Return whether ``endpoint`` has given a sign of life lately."""
        return endpoint in self.heartbeats and self.heartbeats[endpoint].is_live()

    def user_endpoint(self, parent: str, identity: str, options: dict[str, Any]) -> UserEndpoint:
        """Return the user endpoint that ``parent`` starts for ``identity`` and ``options``: always the same one."""
        key = json.dumps([parent, identity, options], sort_keys=True)
        if key not in self.user_endpoints:
            name = f"uep.{parent}.{hashlib.sha256(key.encode()).hexdigest()[:12]}"
            self.user_endpoints[key] = UserEndpoint(new_id(), parent, name)
        return self.user_endpoints[key]
