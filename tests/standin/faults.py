"""Faults on demand: refusals, delays, silence and rate limits of the web services."""

from __future__ import annotations

import collections
import fnmatch
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Faults", "Outcome"]


@dataclass(frozen=True)
class Outcome:
    """What becomes of a request: nothing out of the way, an error, or no answer at all."""

    status: int = 0
    code: str = "FAULT"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    drop: bool = False


@dataclass
class _Rule:
    service: str
    path: str
    method: str | None
    left: int | None
    delay: float
    outcome: Outcome

    def matches(self, service: str, method: str, path: str) -> bool:
        if self.left == 0 or service != self.service or self.method not in (None, method):
            return False
        return fnmatch.fnmatchcase(path, self.path + "*")


class Faults:
    """The faults that a test ordered, in order."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[_Rule] = []
        self._limits: dict[str, tuple[int, float]] = {}
        self._hits: dict[tuple[str, str], collections.deque[float]] = collections.defaultdict(collections.deque)

    def add(
        self,
        service: str,
        path: str,
        *,
        status: int | None,
        times: int | None,
        delay: float,
        retry_after: int | None,
        body: Any,
        method: str | None,
        drop: bool,
    ) -> None:
        """Order a fault; `Levers.fault` says what the words mean."""
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        code = {401: "AUTHENTICATION_ERROR", 403: "FORBIDDEN", 404: "NOT_FOUND"}.get(status or 0, "ON_DEMAND")
        outcome = Outcome(status or 0, code, headers, body, drop)
        with self._lock:
            self._rules.append(_Rule(service, path, method, times, delay, outcome))

    def limit(self, service: str, requests: int, seconds: float) -> None:
        """Let each credential ask ``service`` for ``requests`` times in ``seconds``; the next is answered 429."""
        with self._lock:
            self._limits[service] = (requests, seconds)

    def clear(self) -> None:
        """Forget all faults and limits."""
        with self._lock:
            self._rules.clear()
            self._limits.clear()
            self._hits.clear()

    def meet(self, service: str, method: str, path: str, credential: str) -> Outcome:
        """Return what becomes of a request, after the delay that was ordered for it."""
        with self._lock:
            rule = next((each for each in self._rules if each.matches(service, method, path)), None)
            if rule is not None and rule.left is not None:
                rule.left -= 1
            limited = self._over(service, credential) if rule is None else None
        if rule is None:
            return limited or Outcome()
        time.sleep(rule.delay)
        return rule.outcome

    def _over(self, service: str, credential: str) -> Outcome | None:
        if service not in self._limits:
            return None
        most, seconds = self._limits[service]
        hits, now = self._hits[(service, credential)], time.monotonic()
        while hits and hits[0] <= now - seconds:
            hits.popleft()
        if len(hits) < most:
            hits.append(now)
            return None
        wait = max(1, round(hits[0] + seconds - now + 0.5))
        return Outcome(429, "MAX_REQUESTS_EXCEEDED", {"Retry-After": str(wait)})
