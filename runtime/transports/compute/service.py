"""Globus Compute's web service, through the real SDK, with every surprise taken out.

Requests are made with the SDK's own `Batch` and serializer and with `globus_sdk.ComputeClientV2/V3`; not with
`globus_compute_sdk.Client`, whose one lock would send the submissions of a round one after the other, whose address
comes from an environment variable, and which repeats a submission that it got no answer to (five times, by its default):
a submission whose answer got lost may have been taken, so whether to repeat it is the transport's decision. No `Executor`
anywhere: see docs/globus.md, Transport.

Results are asked for over HTTPS and read by `results`; nothing that a site sent meets the SDK's serializers.

Compute allows 20 requests in 10 seconds for one login; `Pace` keeps to it, for all threads of this process together.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from ...config.globus import GlobusConfig
from ...errors import GlobusUnavailableError
from ...globus.asking import asking, patience, transport
from ...globus.cloud import require_extra, service_url
from ...globus.credentials import COMPUTE_SCOPE, COMPUTE_SERVER, Credentials
from .function import deliver
from .results import Outcome, read_outcome

if TYPE_CHECKING:
    from globus_compute_sdk.serialize import ComputeSerializer
    from globus_sdk import ComputeClientV2, ComputeClientV3

__all__ = ["ComputeService", "Pace", "Submitted", "function_code"]

_SECONDS = 60.0
"""Until a request without an answer is given up."""
_WHOLE = 600.0
_LARGEST = 1 << 30
"""Seconds and bytes of one whole answer: fifty results of 10 MB, written as JSON within JSON."""
_REQUESTS = 20
_WINDOW = 10.5
"""Compute's documented limit, with half a second for clocks that differ."""
_GOOD_HALF = 0.6
_GAP = 1.0
_LEAST = 0.001
_RESULTS = ["globus_compute_sdk.serialize.JSONData"]

Submitted = tuple[str, list[str]]
"""The task group, and the tasks in the order of their deliveries."""


class Pace:
    """Lets at most ``requests`` pass in any ``window`` seconds; the others wait.

    Questions that can wait leave room for those that cannot: once a good half of the window is used, they pass one a second.
    So a round that goes out does not stand behind questions about the last one.
    """

    def __init__(
        self,
        requests: int = _REQUESTS,
        window: float = _WINDOW,
        *,
        timer: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._requests = requests
        self._window = window
        self._timer = timer
        self._sleep = sleep
        self._passed: deque[float] = deque()
        self._lock = threading.Lock()

    def wait(self, *, urgent: bool = True) -> None:
        """Return when one more request may be made."""
        while rest := self._pass(urgent):
            self._sleep(rest)

    def _pass(self, urgent: bool) -> float:
        """Count a request and return 0, or return how long it must wait at least."""
        with self._lock:
            now = self._timer()
            while self._passed and self._passed[0] + self._window <= now:
                self._passed.popleft()
            if len(self._passed) >= self._requests:
                return max(self._passed[0] + self._window - now, _LEAST)
            if not urgent and len(self._passed) >= _GOOD_HALF * self._requests:
                rest = self._passed[-1] + _GAP - now
                if rest > 0:
                    return max(rest, _LEAST)
            self._passed.append(now)
            return 0.0


class ComputeService:
    """One party's requests to Compute. May be used by several threads."""

    def __init__(self, config: GlobusConfig, *, pace: Pace | None = None) -> None:
        """Open the credentials of ``config``; asks nothing yet.

        Raises:
            GlobusFault, CustodyError: see `Credentials.open`.
        """
        require_extra("globus_compute_sdk")
        self._config = config
        self._credentials = Credentials.open(config)
        self._pace = Pace() if pace is None else pace
        self._mine = threading.local()
        self._serializer = _serializer()

    def submit(self, endpoint: str, function: str, group: str | None, deliveries: Sequence[str]) -> Submitted:
        """Send ``deliveries`` (base64) to ``endpoint`` in one request; return the task group and the tasks.

        Raises:
            GlobusFault: nothing was taken, or (an outage other than 429) nobody knows.
        """
        from globus_compute_sdk.sdk.batch import Batch, create_user_runtime

        batch = Batch(
            group,
            request_queue=False,  # no queue of AMQP: results are asked for
            serializer=self._serializer,
            user_runtime=create_user_runtime(),
            result_serializers=_RESULTS,
        )
        for delivery in deliveries:
            batch.add(function, (delivery,))
        body = self._ask("submission", lambda: self._v3.submit(endpoint, batch.prepare()).data)
        return _submitted(body, function, len(deliveries))

    def results(self, tasks: Sequence[str]) -> Iterator[tuple[str, Outcome | None]]:
        """Yield each task with where it stands; None where Compute does not know it (any longer)."""
        body = self._ask("batch status", lambda: self._v2.get_task_batch(list(tasks)).data, urgent=False)
        found = body.get("results") if isinstance(body, dict) else None
        if not isinstance(found, dict):
            raise GlobusUnavailableError("an answer not understood", where="batch status")
        for task in tasks:
            yield task, read_outcome(found.pop(task)) if task in found else None

    def tasks(self, group: str) -> list[str]:
        """Return the tasks of a task group."""
        body = self._ask("task group", lambda: self._v2.get_task_group(group).data)
        with asking("task group"):
            return [str(UUID(one["id"])) for one in body["tasks"]]

    def online(self, endpoint: str) -> bool:
        """Tell whether Compute hears the endpoint's heartbeats."""
        body = self._ask("endpoint status", lambda: self._v2.get_endpoint_status(endpoint).data, urgent=False)
        return isinstance(body, dict) and body.get("status") == "online"

    def allowed(self, endpoint: str) -> frozenset[str] | None:
        """Return the functions that ``endpoint`` is restricted to, or None where it runs any."""
        body = self._ask("allowed functions", lambda: self._v3.get_endpoint_allowlist(endpoint).data)
        with asking("allowed functions"):
            return frozenset(str(one) for one in body["functions"]) if body["restricted"] else None

    def register(self) -> str:
        """Register the function, for this login alone, and return its UUID."""
        from globus_compute_sdk.sdk.client import FunctionRegistrationData

        about = "counterseal: hand a delivery to this site"
        data = FunctionRegistrationData(function=deliver, description=about, serializer=self._serializer)
        document: dict[str, Any] = data.to_dict()  # type: ignore[no-untyped-call]
        body = self._ask("registration", lambda: self._v3.register_function(document).data)
        with asking("registration"):
            return str(UUID(body["function_uuid"]))

    def is_ours(self, function: str) -> bool:
        """Tell whether ``function`` is this version's code, to the letter.

        Raises:
            GlobusRefusedError: there is no such function, or not for this login.
        """
        body = self._ask("function", lambda: self._v2.get_function(function).data)
        return isinstance(body, dict) and body.get("function_code") == function_code()

    def close(self) -> None:
        """Let go of the credentials."""
        self._credentials.close()

    def _ask(self, where: str, request: Callable[[], Any], *, urgent: bool = True) -> Any:
        self._pace.wait(urgent=urgent)
        with asking(f"Globus Compute, {where}"):
            return request()

    @property
    def _v2(self) -> ComputeClientV2:
        return self._clients()[0]

    @property
    def _v3(self) -> ComputeClientV3:
        return self._clients()[1]

    def _clients(self) -> tuple[ComputeClientV2, ComputeClientV3]:
        """Return this thread's clients: a connection is not shared."""
        if not hasattr(self._mine, "clients"):
            import globus_sdk

            self._mine.clients = (
                globus_sdk.ComputeClientV2(**self._settings()),
                globus_sdk.ComputeClientV3(**self._settings()),
            )
        clients: tuple[ComputeClientV2, ComputeClientV3] = self._mine.clients
        return clients

    def _settings(self) -> dict[str, Any]:
        sender = transport(test_cloud=self._config.insecure_test_cloud is not None, seconds=_WHOLE, limit=_LARGEST)
        sender.http_timeout = _SECONDS
        return {
            "environment": "production",
            "base_url": service_url(self._config, "compute"),
            "authorizer": self._credentials.authorizer(COMPUTE_SERVER, COMPUTE_SCOPE),
            "app_name": "counterseal",
            "transport": sender,
            "retry_config": patience(renew=True),  # a 401 is taken back to Auth once: it was not a submission
        }


def function_code() -> str:
    """Return what is registered: the function's source text, as the SDK packs it."""
    serializer = _serializer()
    return str(serializer.pack_buffers([serializer.serialize(deliver)]))


def _serializer() -> ComputeSerializer:
    from globus_compute_sdk.serialize import ComputeSerializer, JSONData, PureSourceTextInspect

    return ComputeSerializer(strategy_code=PureSourceTextInspect, strategy_data=JSONData)


def _submitted(body: Any, function: str, count: int) -> Submitted:
    with asking("Globus Compute, submission"):
        tasks = [str(UUID(task)) for task in body["tasks"][function]]
        if len(tasks) != count:
            raise GlobusUnavailableError("another number of tasks than deliveries", where="submission")
        return str(UUID(body["task_group_id"])), tasks
