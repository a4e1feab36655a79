"""Globus Compute's web service: functions, endpoints, submission, results by polling."""

from __future__ import annotations

from typing import Any

from .runner import PREFIX, Runner, queue_info
from .state import COMPUTE_SCOPE, COMPUTE_SERVER, State, Token, new_id
from .tasks import Endpoint, Function, Records, TaskGroup, listed
from .tokens import Tokens
from .web import Answer, Refusal, Request, Router

__all__ = ["Compute"]

_PAYLOAD = 10 * 1024 * 1024


class Compute:
    """The routes below /v2 and /v3, and the tasks behind them. Without a broker there are no endpoints."""

    def __init__(self, state: State, tokens: Tokens, broker_url: str | None) -> None:
        self._state = state
        self._tokens = tokens
        self.records = Records()
        self._runner = None if broker_url is None else Runner(state, self.records, broker_url)
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
        if self._runner is not None:
            self._runner.link.start()

    def close(self) -> None:
        """Leave the broker."""
        if self._runner is not None:
            self._runner.link.stop()

    def _need(self, request: Request) -> Token:
        return self._tokens.need(request, COMPUTE_SERVER, (COMPUTE_SCOPE,))

    def _need_runner(self) -> Runner:
        if self._runner is None:
            raise Refusal(503, "SERVICE_UNAVAILABLE", "this stand-in runs without a broker")
        return self._runner

    # Functions and endpoints ---------------------------------------------------------------------------------------

    def _version(self, request: Request) -> Answer:
        return Answer({"api": "1.99.0", "min_sdk_version": "1.0.0", "min_ep_version": "1.0.0", "git_sha": "0" * 40})

    def _result_url(self, request: Request) -> Answer:
        self._need(request)
        return Answer({"queue_prefix": PREFIX, "connection_url": self._need_runner().url})

    def _register_function(self, request: Request) -> Answer:
        owner, function = self._need(request).grant.identity, new_id()
        self.records.functions[function] = Function(owner, {**request.json, "function_uuid": function})
        return Answer({"function_uuid": function})

    def _get_function(self, request: Request, function: str) -> Answer:
        self._need(request)
        if function not in self.records.functions:
            raise Refusal(404, "FUNCTION_NOT_FOUND", f"Function {function} could not be resolved")
        return Answer(self.records.functions[function].document)

    def _register_endpoint(self, request: Request, endpoint: str) -> Answer:
        owner = self._need(request).grant.identity
        known = self.records.endpoints.get(endpoint)
        if known is not None and known.owner != owner:
            raise Refusal(403, "FORBIDDEN", "not your endpoint")
        runner = self._need_runner()
        self.records.endpoints[endpoint] = Endpoint(endpoint, owner, request.json)
        runner.link.queue(f"cmd.{endpoint}", empty=True)
        return Answer(
            {
                "endpoint_id": endpoint,
                "command_queue_info": {"connection_url": runner.url, "queue": f"cmd.{endpoint}"},
                "heartbeat_queue_info": queue_info(runner.url, "heartbeats"),
            },
            after=runner.link.settle,
        )

    def _endpoint(self, endpoint: str) -> Endpoint:
        if endpoint not in self.records.endpoints:
            raise Refusal(404, "ENDPOINT_NOT_FOUND", f"Endpoint {endpoint} could not be resolved")
        return self.records.endpoints[endpoint]

    def _get_endpoint(self, request: Request, endpoint: str) -> Answer:
        self._need(request)
        found = self._endpoint(endpoint)
        name = found.document.get("endpoint_name")
        owner = {"uuid": endpoint, "owner_id": found.owner, "name": name, "subscription_uuid": None}
        return Answer({**found.document, **owner})

    def _endpoint_status(self, request: Request, endpoint: str) -> Answer:
        self._need(request)
        self._endpoint(endpoint)
        users = [each.uuid for each in self.records.user_endpoints.values() if each.parent == endpoint]
        live = [each for each in users if self.records.is_online(each)]
        status = "online" if self.records.is_online(endpoint) else "offline"
        return Answer({"status": status, "details": self.records.heartbeats[live[0]].state if live else {}})

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
        runner, body, found = self._need_runner(), request.json, self._endpoint(endpoint)
        self._permit(found, token, body["tasks"])
        group = self._task_group_for(body, token)
        options = body.get("user_endpoint_config") or {}
        user = self.records.user_endpoint(endpoint, token.grant.identity, options)
        tasks = runner.submit(user, group, token, body)
        reply = {"request_id": new_id(), "task_group_id": group, "endpoint_id": endpoint, "tasks": tasks}
        return Answer(reply, after=runner.link.settle)

    def _permit(self, endpoint: Endpoint, token: Token, tasks: dict[str, Any]) -> None:
        """Refuse what this caller may not run there."""
        policy = self._state.policies.get(endpoint.document.get("authentication_policy") or "")
        if policy is not None:
            self._meet(policy, token)
        elif self._is_closed(endpoint, token):
            raise Refusal(403, "ENDPOINT_ACCESS_FORBIDDEN", "not your endpoint")
        for function in tasks:
            if function not in self.records.functions:
                raise Refusal(404, "FUNCTION_NOT_FOUND", f"Function {function} could not be resolved")
            if self.records.enforce_allowed and endpoint.allowed is not None and function not in endpoint.allowed:
                message = f"Function {function} not permitted on endpoint {endpoint.uuid}"
                raise Refusal(403, "FUNCTION_NOT_PERMITTED", message)

    def _is_closed(self, endpoint: Endpoint, token: Token) -> bool:
        """Return whether only the owner may submit there: one without an identity mapping has no use for others.

        ``public`` plays no part: by the daemon's documentation it is about being found, not about access.
        """
        mapped = endpoint.document.get("multi_user")
        owner = endpoint.owner in self._state.identity_set(token.grant.identity)
        return self.records.enforce_owner and not mapped and not owner

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
            self.records.groups[group] = TaskGroup(token.grant.identity)
        elif group not in self.records.groups:
            raise Refusal(404, "TASK_GROUP_NOT_FOUND", f"Task Group {group} could not be resolved")
        elif self.records.groups[group].owner != token.grant.identity:
            raise Refusal(403, "FORBIDDEN", "not your task group")
        return str(group)

    # Results -------------------------------------------------------------------------------------------------------

    def _fetch(self, task: str, token: Token) -> dict[str, Any]:
        found = self.records.tasks.get(task)
        if found is None or found.owner != token.grant.identity:
            return {"status": "failed", "reason": "unknown task id"}
        document = found.document()
        if found.completed is not None and not found.forgotten:
            found.fetched += 1
            found.forgotten = self.records.meddling.take("forget", found.endpoint) is not None
        return document

    def _get_task(self, request: Request, task: str) -> Answer:
        token = self._need(request)
        if task not in self.records.tasks or self.records.tasks[task].owner != token.grant.identity:
            raise Refusal(404, "TASK_NOT_FOUND", f"Task {task} could not be resolved")
        return Answer(self._fetch(task, token))

    def _batch_status(self, request: Request) -> Answer:
        token = self._need(request)
        results = {task: self._fetch(task, token) for task in request.json["task_ids"]}
        return Answer({"response": "batch", "results": results})

    def _task_group(self, request: Request, group: str) -> Answer:
        token, found = self._need(request), self.records.groups.get(group)
        if found is None or found.owner != token.grant.identity:
            raise Refusal(404, "TASK_GROUP_NOT_FOUND", f"Task Group {group} could not be resolved")
        extra = self.records.meddling.take("extra", "")
        more = [listed(new_id()) for _ in range(extra.count)] if extra else []
        return Answer({"taskgroup_id": group, "create_websockets_queue": found.queued, "tasks": found.tasks + more})
