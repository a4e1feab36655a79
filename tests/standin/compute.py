"""Globus Compute's web service: functions, endpoints, submission, results by polling; and its side of the broker.

Published: commands to endpoints (``cmd.<endpoint>``), tasks to user endpoints (``task.<user endpoint>``), results to those
clients that asked for a queue (``tg.<task group>``). Listened to: ``results`` and ``heartbeats``.
"""

from __future__ import annotations

import hashlib
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
from .state import COMPUTE_SCOPE, COMPUTE_SERVER, State, Token, new_id
from .tasks import (
    FAILED,
    SUCCESS,
    Endpoint,
    Function,
    Heartbeat,
    Meddling,
    Task,
    TaskGroup,
    UserEndpoint,
    hostile,
    new_user_endpoint,
)
from .tokens import Tokens
from .web import Answer, Refusal, Request, Router

__all__ = ["Compute"]

_PAYLOAD = 10 * 1024 * 1024
_PREFIX = "tg."
_log = logging.getLogger(__name__)


class Compute:
    """The routes below /v2 and /v3, and the tasks behind them. Without a broker there are no endpoints."""

    def __init__(self, state: State, tokens: Tokens, broker_url: str | None) -> None:
        self._state = state
        self._tokens = tokens
        self._url = broker_url
        self._link: Link | None = None
        self.meddling = Meddling()
        self.enforce_allowed = True
        self.functions: dict[str, Function] = {}
        self.endpoints: dict[str, Endpoint] = {}
        self.user_endpoints: dict[str, UserEndpoint] = {}
        self.heartbeats: dict[str, Heartbeat] = {}
        self.groups: dict[str, TaskGroup] = {}
        self.tasks: dict[str, Task] = {}
        self.unknown_results = 0
        self.router = self._routes(Router("compute", ""))

    def _routes(self, router: Router) -> Router:
        router.add("GET", "/v2/version", self._version)
        router.add("GET", "/v2/get_amqp_result_connection_url", self._result_url)
        router.add("POST", "/v3/functions", self._register_function)
        router.add("GET", "/v2/functions/<function>", self._get_function)
        router.add("POST", "/v3/endpoints", lambda request: self._register_endpoint(request, new_id()))
        router.add("PUT", "/v3/endpoints/<endpoint>", self._register_endpoint)
        router.add("GET", "/v2/endpoints/<endpoint>", self._get_endpoint)
        router.add("GET", "/v2/endpoints/<endpoint>/status", self._endpoint_status)
        router.add("GET", "/v3/endpoints/<endpoint>/allowed_functions", self._allowed_functions)
        router.add("POST", "/v3/endpoints/<endpoint>/submit", self._submit)
        router.add("POST", "/v3/endpoints/<endpoint>/lock", self._lock)
        router.add("GET", "/v2/tasks/<task>", self._get_task)
        router.add("POST", "/v2/batch_status", self._batch_status)
        router.add("GET", "/v2/taskgroup/<group>", self._task_group)
        return router

    def open(self) -> None:
        """Connect to the broker, if there is one."""
        if self._url is not None:
            self._link = Link(self._url, {"results": self._take_result, "heartbeats": self._take_heartbeat})
            self._link.start()

    def close(self) -> None:
        """Leave the broker."""
        if self._link is not None:
            self._link.stop()

    def _need(self, request: Request) -> Token:
        return self._tokens.need(request, COMPUTE_SERVER, (COMPUTE_SCOPE,))

    def _broker(self) -> tuple[Link, str]:
        if self._link is None or self._url is None:
            raise Refusal(503, "SERVICE_UNAVAILABLE", "this stand-in runs without a broker")
        return self._link, self._url

    # Functions and endpoints ---------------------------------------------------------------------------------------

    def _version(self, request: Request) -> Answer:
        return Answer({"api": "1.99.0", "min_sdk_version": "1.0.0", "min_ep_version": "1.0.0", "git_sha": "0" * 40})

    def _result_url(self, request: Request) -> Answer:
        self._need(request)
        return Answer({"queue_prefix": _PREFIX, "connection_url": self._broker()[1]})

    def _register_function(self, request: Request) -> Answer:
        owner, function = self._need(request).grant.identity, new_id()
        self.functions[function] = Function(owner, {**request.json, "function_uuid": function})
        return Answer({"function_uuid": function})

    def _get_function(self, request: Request, function: str) -> Answer:
        self._need(request)
        if function not in self.functions:
            raise Refusal(404, "FUNCTION_NOT_FOUND", f"Function {function} could not be resolved")
        return Answer(self.functions[function].document)

    def _register_endpoint(self, request: Request, endpoint: str) -> Answer:
        owner = self._need(request).grant.identity
        known = self.endpoints.get(endpoint)
        if known is not None and known.owner != owner:
            raise Refusal(403, "FORBIDDEN", "not your endpoint")
        link, url = self._broker()
        self.endpoints[endpoint] = Endpoint(endpoint, owner, request.json)
        link.queue(f"cmd.{endpoint}", empty=True)
        return Answer(
            {
                "endpoint_id": endpoint,
                "command_queue_info": {"connection_url": url, "queue": f"cmd.{endpoint}"},
                "heartbeat_queue_info": _queue_info(url, "heartbeats"),
            },
            after=link.settle,
        )

    def _endpoint(self, endpoint: str) -> Endpoint:
        if endpoint not in self.endpoints:
            raise Refusal(404, "ENDPOINT_NOT_FOUND", f"Endpoint {endpoint} could not be resolved")
        return self.endpoints[endpoint]

    def _get_endpoint(self, request: Request, endpoint: str) -> Answer:
        self._need(request)
        found = self._endpoint(endpoint)
        name = found.document.get("endpoint_name")
        owner = {"uuid": endpoint, "owner_id": found.owner, "name": name, "subscription_uuid": None}
        return Answer({**found.document, **owner})

    def is_online(self, endpoint: str) -> bool:
        """Return whether ``endpoint`` has given a sign of life lately."""
        return endpoint in self.heartbeats and self.heartbeats[endpoint].is_live()

    def _endpoint_status(self, request: Request, endpoint: str) -> Answer:
        self._need(request)
        self._endpoint(endpoint)
        users = [each.uuid for each in self.user_endpoints.values() if each.parent == endpoint]
        live = [each for each in users if self.is_online(each)]
        status = "online" if self.is_online(endpoint) else "offline"
        return Answer({"status": status, "details": self.heartbeats[live[0]].state if live else {}})

    def _allowed_functions(self, request: Request, endpoint: str) -> Answer:
        self._need(request)
        allowed = self._endpoint(endpoint).allowed
        return Answer({"endpoint_id": endpoint, "restricted": allowed is not None, "functions": allowed or []})

    def _lock(self, request: Request, endpoint: str) -> Answer:
        self._need(request)
        self._endpoint(endpoint)
        return Answer({"endpoint_id": endpoint, "lock_expiration_timestamp": "2099-01-01T00:00:00"})

    # Submission ----------------------------------------------------------------------------------------------------

    def _submit(self, request: Request, endpoint: str) -> Answer:
        token = self._need(request)
        if len(request.body) > _PAYLOAD:
            raise Refusal(413, "TASK_PAYLOAD_TOO_LARGE", "Task payload is too large")
        link, _ = self._broker()
        body, found = request.json, self._endpoint(endpoint)
        self._permit(found, token, body["tasks"])
        group = self._task_group_for(body, token)
        user = self._user_endpoint(endpoint, token, body.get("user_endpoint_config") or {})
        link.queue(f"task.{user.uuid}")
        if body.get("create_queue"):
            link.queue(_PREFIX + group)
            self.groups[group].queued = True
        self._command(link, found, user, token, body)
        tasks = {
            name: [self._send(link, each, name, user, group, token, body) for each in payloads]
            for name, payloads in body["tasks"].items()
        }
        reply = {"request_id": new_id(), "task_group_id": group, "endpoint_id": endpoint, "tasks": tasks}
        return Answer(reply, after=link.settle)

    def _permit(self, endpoint: Endpoint, token: Token, tasks: dict[str, Any]) -> None:
        """Refuse what this caller may not run there."""
        policy = self._state.policies.get(endpoint.document.get("authentication_policy") or "")
        if policy is not None:
            self._meet(policy, token)
        elif not endpoint.document.get("public") and endpoint.owner not in self._state.identity_set(
            token.grant.identity
        ):
            raise Refusal(403, "ENDPOINT_ACCESS_FORBIDDEN", "not your endpoint")
        for function in tasks:
            if function not in self.functions:
                raise Refusal(404, "FUNCTION_NOT_FOUND", f"Function {function} could not be resolved")
            if self.enforce_allowed and endpoint.allowed is not None and function not in endpoint.allowed:
                message = f"Function {function} not permitted on endpoint {endpoint.uuid}"
                raise Refusal(403, "FUNCTION_NOT_PERMITTED", message)

    def _meet(self, policy: dict[str, Any], token: Token) -> None:
        """Refuse a caller whose login does not meet ``policy``, in the way that lets a client log in again."""
        identity = token.grant.identity
        domains = policy["domain_constraints_include"]
        good = not domains or self._state.people[identity].username.rpartition("@")[2] in domains
        if policy["high_assurance"]:
            login = (token.grant.session or {}).get("authentications", {}).get(identity, {})
            oldest = self._state.now() - policy["authentication_assurance_timeout"]
            good = good and login.get("auth_time", 0) >= oldest
            good = good and (not policy["required_mfa"] or "mfa" in (login.get("amr") or []))
        if not good:
            needed = {"session_message": "policy", "session_required_policies": [policy["id"]]}
            message = "endpoint authentication policy not satisfied"
            raise Refusal(403, "AUTHORIZATION_POLICY_NOT_MET", message, authorization_parameters=needed)

    def _task_group_for(self, body: dict[str, Any], token: Token) -> str:
        """Return the task group to submit to: one of the caller's, or a new one; unknown ones are refused."""
        group = body.get("task_group_id")
        if group is None:
            group = new_id()
            self.groups[group] = TaskGroup(token.grant.identity)
        elif group not in self.groups:
            raise Refusal(404, "TASK_GROUP_NOT_FOUND", f"Task Group {group} could not be resolved")
        elif self.groups[group].owner != token.grant.identity:
            raise Refusal(403, "FORBIDDEN", "not your task group")
        return str(group)

    def _user_endpoint(self, endpoint: str, token: Token, options: dict[str, Any]) -> UserEndpoint:
        key = json.dumps([endpoint, token.grant.identity, options], sort_keys=True)
        if key not in self.user_endpoints:
            self.user_endpoints[key] = new_user_endpoint(endpoint, hashlib.sha256(key.encode()).hexdigest()[:12])
        return self.user_endpoints[key]

    def _command(self, link: Link, endpoint: Endpoint, user: UserEndpoint, token: Token, body: dict[str, Any]) -> None:
        """Tell the endpoint to start ``user``; one that runs takes it as fresh credentials."""
        url, identity = self._broker()[1], token.grant.identity
        credentials = {
            "endpoint_id": user.uuid,
            "task_queue_info": {"connection_url": url, "exchange": "tasks", "queue": f"task.{user.uuid}"},
            "result_queue_info": _queue_info(url, "results"),
            "heartbeat_queue_info": _queue_info(url, "heartbeats"),
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
        link.publish(f"cmd.{endpoint.uuid}", text, content_type="application/json", timestamp=int(time.time()))

    def _send(
        self,
        link: Link,
        payload: str,
        function: str,
        user: UserEndpoint,
        group: str,
        token: Token,
        body: dict[str, Any],
    ) -> str:
        """Remember one task and send it on its way."""
        task = Task(new_id(), token.grant.identity, function, user.parent, user.uuid, group)
        self.tasks[task.uuid] = task
        self.groups[group].tasks.append(_listed(task.uuid))
        headers: dict[str, Any] = {"function_uuid": function, "task_uuid": task.uuid}
        if body.get("resource_specification"):
            headers["resource_specification"] = json.dumps(body["resource_specification"])
        if body.get("result_serializers"):
            headers["result_serializers"] = body["result_serializers"]
        code = self.functions[function].document["function_code"]
        message = messagepack.pack(TaskMessage(task_id=UUID(task.uuid), task_buffer=code + payload))
        if self.meddling.take("lose", user.parent) is not None:
            return task.uuid
        task.delivered = 2 if self.meddling.take("redeliver", user.parent) else 1
        for _ in range(task.delivered):
            link.publish(f"task.{user.uuid}", message, headers=headers)
        return task.uuid

    # Results -------------------------------------------------------------------------------------------------------

    def _take_heartbeat(self, body: bytes) -> None:
        """Remember a sign of life; a failed start is a failure of all tasks that wait for it."""
        report = _unpacked(body)
        if not isinstance(report, EPStatusReport):
            return
        endpoint, state = str(report.endpoint_id), report.global_state
        with self._state.lock:
            self.heartbeats[endpoint] = Heartbeat(time.time(), state.get("heartbeat_period", 30), state)
            waiting = [
                each for each in self.tasks.values() if each.user_endpoint == endpoint and each.completed is None
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
            task = self.tasks.get(str(result.task_id))
            if task is None:
                self.unknown_results += 1
                return
            delay = self.meddling.take("delay", task.endpoint)
            result = self._replaced(result, task)
            times = 2 if self.meddling.take("repeat", task.endpoint) else 1
        for _ in range(times):
            if delay is None:
                self._finish(result)
            else:
                threading.Timer(delay.seconds, self._finish, (result,)).start()

    def _replaced(self, result: Result, task: Task) -> Result:
        trap, other = self.meddling.take("hostile", task.endpoint), self.meddling.take("replace", task.endpoint)
        if trap is not None:
            return Result(task_id=result.task_id, data=hostile(trap.text), details=result.details)
        if other is not None:
            return Result(task_id=result.task_id, data=other.text, details=result.details)
        return result

    def _finish(self, result: Result) -> None:
        """Keep the first result of a task, count the others; hand it to a client that listens."""
        with self._state.lock:
            task = self.tasks[str(result.task_id)]
            task.results += 1
            if task.completed is not None:
                return
            task.completed, task.data, task.details = time.time(), result.data, result.details
            task.status = FAILED if result.is_error else SUCCESS
            if self.groups[task.group].queued and self._link is not None:
                self._link.publish(_PREFIX + task.group, messagepack.pack(result), timestamp=int(time.time()))

    def _fetch(self, task: str, token: Token) -> dict[str, Any]:
        found = self.tasks.get(task)
        if found is None or found.owner != token.grant.identity:
            return {"status": "failed", "reason": "unknown task id"}
        document = found.document()
        if found.completed is not None and not found.forgotten:
            found.fetched += 1
            found.forgotten = self.meddling.take("forget", found.endpoint) is not None
        return document

    def _get_task(self, request: Request, task: str) -> Answer:
        token = self._need(request)
        if task not in self.tasks or self.tasks[task].owner != token.grant.identity:
            raise Refusal(404, "TASK_NOT_FOUND", f"Task {task} could not be resolved")
        return Answer(self._fetch(task, token))

    def _batch_status(self, request: Request) -> Answer:
        token = self._need(request)
        results = {task: self._fetch(task, token) for task in request.json["task_ids"]}
        return Answer({"response": "batch", "results": results})

    def _task_group(self, request: Request, group: str) -> Answer:
        token, found = self._need(request), self.groups.get(group)
        if found is None or found.owner != token.grant.identity:
            raise Refusal(404, "TASK_GROUP_NOT_FOUND", f"Task Group {group} could not be resolved")
        extra = self.meddling.take("extra", "")
        more = [_listed(new_id()) for _ in range(extra.count)] if extra else []
        return Answer({"taskgroup_id": group, "create_websockets_queue": found.queued, "tasks": found.tasks + more})


def _unpacked(body: bytes) -> object:
    """Return the message in ``body``; what is none is logged and left."""
    try:
        return messagepack.unpack(body)
    except ValueError:
        _log.exception("not a message")
        return None


def _listed(task: str) -> dict[str, str]:
    return {"id": task, "created_at": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())}


def _queue_info(url: str, name: str) -> dict[str, Any]:
    """Return how to publish to the exchange ``name``."""
    publish = {
        "exchange": name,
        "routing_key": name,
        "mandatory": True,
        "properties": {"delivery_mode": 2, "content_type": "application/octet-stream"},
    }
    return {"connection_url": url, "exchange": name, "queue": name, "queue_publish_kwargs": publish}
