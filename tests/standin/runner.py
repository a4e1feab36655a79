"""Tasks on their way: to user endpoints through the broker, and back as results; with what a test does to them."""

from __future__ import annotations

import json
import logging
import threading
import time
from typing import Any
from uuid import UUID

from globus_compute_common import messagepack
from globus_compute_common.messagepack.message_types import EPStatusReport, Result, ResultErrorDetails
from globus_compute_common.messagepack.message_types import Task as TaskMessage

from .link import Link
from .state import State, Token, new_id
from .tasks import FAILED, SUCCESS, Heartbeat, Records, Task, UserEndpoint, hostile, listed

__all__ = ["PREFIX", "Runner", "queue_info"]

PREFIX = "tg."
"""Before a task group's name: the queue of those clients that asked for one."""
_log = logging.getLogger(__name__)


class Runner:
    """The service's side of the broker at ``url``."""

    def __init__(self, state: State, records: Records, url: str) -> None:
        self.url = url
        self.records = records
        self.link = Link(url, {"results": self._take_result, "heartbeats": self._take_heartbeat})
        self._state = state

    def submit(self, user: UserEndpoint, group: str, token: Token, body: dict[str, Any]) -> dict[str, list[str]]:
        """Send the tasks of ``body`` to ``user``, and return their names in the order of the payloads."""
        self.link.queue(f"task.{user.uuid}")
        if body.get("create_queue"):
            self.link.queue(PREFIX + group)
            self.records.groups[group].queued = True
        self._command(user, token, body)
        return {
            function: [
                self._send(Task(new_id(), token.grant.identity, function, user.parent, user.uuid, group), each, body)
                for each in payloads
            ]
            for function, payloads in body["tasks"].items()
        }

    def _command(self, user: UserEndpoint, token: Token, body: dict[str, Any]) -> None:
        """Tell the parent of ``user`` to start it; one that runs takes it as fresh credentials."""
        url, identity = self.url, token.grant.identity
        credentials = {
            "endpoint_id": user.uuid,
            "task_queue_info": {"connection_url": url, "exchange": "tasks", "queue": f"task.{user.uuid}"},
            "result_queue_info": queue_info(url, "results"),
            "heartbeat_queue_info": queue_info(url, "heartbeats"),
        }
        people = [self._state.people[each].document() for each in self._state.identity_set(identity)]
        command = {
            "command": "cmd_start_endpoint",
            "args": [],
            "kwargs": {
                "name": user.name,
                "amqp_creds": credentials,
                "user_opts": body.get("user_endpoint_config") or {},
                "user_runtime": body.get("user_runtime") or {},
            },
            "globus_effective_identity": identity,
            "globus_username": self._state.people[identity].username,
            "globus_identity_set": people,
        }
        text = json.dumps(command).encode()
        self.link.publish(f"cmd.{user.parent}", text, content_type="application/json", timestamp=int(time.time()))

    def _send(self, task: Task, payload: str, body: dict[str, Any]) -> str:
        """Remember one task and send it on its way."""
        self.records.tasks[task.uuid] = task
        self.records.groups[task.group].tasks.append(listed(task.uuid))
        headers: dict[str, Any] = {"function_uuid": task.function, "task_uuid": task.uuid}
        if body.get("resource_specification"):
            headers["resource_specification"] = json.dumps(body["resource_specification"])
        if body.get("result_serializers"):
            headers["result_serializers"] = body["result_serializers"]
        code = self.records.functions[task.function].document["function_code"]
        message = messagepack.pack(TaskMessage(task_id=UUID(task.uuid), task_buffer=code + payload))
        if self.records.meddling.take("lose", task.endpoint) is not None:
            return task.uuid
        task.delivered = 2 if self.records.meddling.take("redeliver", task.endpoint) else 1
        for _ in range(task.delivered):
            self.link.publish(f"task.{task.user_endpoint}", message, headers=headers)
        return task.uuid

    def _take_heartbeat(self, body: bytes) -> None:
        """Remember a sign of life; a failed start is a failure of all tasks that wait for it."""
        report = _unpacked(body)
        if not isinstance(report, EPStatusReport):
            return
        endpoint, state = str(report.endpoint_id), report.global_state
        with self._state.lock:
            self.records.heartbeats[endpoint] = Heartbeat(time.time(), state.get("heartbeat_period", 30), state)
            waiting = [
                each
                for each in self.records.tasks.values()
                if each.user_endpoint == endpoint and each.completed is None
            ]
            for task in waiting if "error" in state else ():
                text = str(state["error"])
                error = ResultErrorDetails(code="ENDPOINT_STARTUP_FAILURE", user_message=text)
                self._finish(Result(task_id=UUID(task.uuid), data=text, error_details=error))

    def _take_result(self, body: bytes) -> None:
        """Meddle with a result as ordered, and take it."""
        result = _unpacked(body)
        if not isinstance(result, Result):
            return
        with self._state.lock:
            task = self.records.tasks.get(str(result.task_id))
            if task is None:
                self.records.unknown_results += 1
                return
            delay = self.records.meddling.take("delay", task.endpoint)
            result = self._replaced(result, task)
            times = 2 if self.records.meddling.take("repeat", task.endpoint) else 1
        for _ in range(times):
            if delay is None:
                self._finish(result)
            else:
                threading.Timer(delay.seconds, self._finish, (result,)).start()

    def _replaced(self, result: Result, task: Task) -> Result:
        trap, other = (
            self.records.meddling.take("hostile", task.endpoint),
            self.records.meddling.take("replace", task.endpoint),
        )
        if trap is not None:
            return Result(task_id=result.task_id, data=hostile(trap.text), details=result.details)
        if other is not None:
            return Result(task_id=result.task_id, data=other.text, details=result.details)
        return result

    def _finish(self, result: Result) -> None:
        """Keep the first result of a task, count the others; hand it to a client that listens."""
        with self._state.lock:
            task = self.records.tasks[str(result.task_id)]
            task.results += 1
            if task.completed is not None:
                return
            task.completed, task.data, task.details = time.time(), result.data, result.details
            task.status = FAILED if result.is_error else SUCCESS
            if self.records.groups[task.group].queued:
                self.link.publish(PREFIX + task.group, messagepack.pack(result), timestamp=int(time.time()))


def _unpacked(body: bytes) -> object:
    """Return the message in ``body``; what is none is logged and left."""
    try:
        return messagepack.unpack(body)
    except ValueError:
        _log.exception("not a message")
        return None


def queue_info(url: str, name: str) -> dict[str, Any]:
    """Return how to publish to the exchange ``name``."""
    publish = {
        "exchange": name,
        "routing_key": name,
        "mandatory": True,
        "properties": {"delivery_mode": 2, "content_type": "application/octet-stream"},
    }
    return {"connection_url": url, "exchange": name, "queue": name, "queue_publish_kwargs": publish}
