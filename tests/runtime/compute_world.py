"""A stand-in for the child process that speaks to Globus: in this process, in virtual time, with faults to order.

`ComputeWorld` is Compute and the endpoints behind it; `WorldLink` is the transport's way to it. Nothing of Globus is imported.
"""

from __future__ import annotations

import base64
import heapq
import itertools
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from counterseal.durable import Probe, silent
from counterseal.runtime.config.globus import ComputeTransportConfig
from counterseal.runtime.delivery import Answer, Delivery, Fault, Grants
from counterseal.runtime.transports.compute.book import Book
from counterseal.runtime.transports.compute.transport import ComputeTransport
from counterseal.trust.canonical import canonical, parse
from counterseal.trust.documents import sign
from counterseal.trust.dsse import read
from counterseal.trust.identifiers import sha256
from counterseal.trust.keys.member import MemberKeys
from counterseal.trust.tickets import Ticket, Work

START = 1_800_000_000
FUNCTION = "00000000-0000-4000-8000-00000000f00d"
SITES = ("site-a@fed.example", "site-b@fed.example", "site-c@fed.example")


def endpoint_of(site: str) -> str:
    return f"00000000-0000-4000-8000-{SITES.index(site):012d}"


@cache
def _keys() -> MemberKeys:
    return MemberKeys.generate("MLKEM768_X25519", operator=True)


def make_delivery(
    site: str, seq: int = 1, *, not_after: int = START + 600, run: str = "run-1", grants: Grants | None = None
) -> tuple[str, bytes]:
    """Return a ticket's digest and a delivery of it, made as a server makes them."""
    ticket = Ticket(
        federation="fed",
        charter="0" * 64,
        run=run,
        site=site,
        seq=seq,
        version=0,
        parent="1" * 64,
        kind="train",
        work=Work(manifest=None),
        not_after=not_after,
    )
    raw = sign(ticket, _keys().signer).raw
    delivery = Delivery(
        ticket=raw.decode(), checkpoint="", consistency_from=0, consistency=(), leaves=(), grants=grants or Grants()
    )
    return sha256(read(raw).payload), canonical(delivery.model_dump(mode="json"))


def ticket_of(delivery: bytes) -> str:
    return sha256(read(Delivery.from_json(parse(delivery, limit=len(delivery))).ticket.encode()).payload)


def answer_to(ticket: str | None, fault: str | None = None) -> bytes:
    """Return an answer; its receipt is nothing that a server would file."""
    made = Answer(
        ticket=ticket, receipt=None if fault else f"receipt of {ticket}", fault=Fault(code=fault) if fault else None
    )
    return canonical(made.model_dump(mode="json"))


@dataclass
class Task:
    site: str
    ticket: str
    behaviour: str
    ready: float
    made: float
    answer: bytes | None = None
    told: int = 0


@dataclass
class ComputeWorld:
    """Compute, its endpoints, and time."""

    now: float = 0.0
    submissions: deque[str] = field(default_factory=deque)
    """What becomes of the next submissions: ok, limited, refused:CODE, unseen, die-before, die-after."""
    tasks_to_come: deque[str] = field(default_factory=deque)
    """What becomes of the next tasks: answer, slow, twice, lost, busy, died, CODE (infrastructure), foreign."""
    made: dict[str, Task] = field(default_factory=dict)
    groups: dict[str, list[str]] = field(default_factory=dict)
    offline: set[str] = field(default_factory=set)
    allowed: Callable[[], bool] = lambda: True
    events: list[tuple[float, int, dict[str, Any]]] = field(default_factory=list)
    numbers: Any = field(default_factory=lambda: itertools.count(1))
    seen: Counter[str] = field(default_factory=Counter)
    dead: bool = False

    def clock(self) -> int:
        return START + int(self.now)

    def timer(self) -> float:
        return self.now

    def later(self, event: dict[str, Any], delay: float = 0.05) -> None:
        heapq.heappush(self.events, (self.now + delay, next(self.numbers), event))

    def die(self) -> None:
        """The child is killed: what it was about to say is never said."""
        self.events.clear()
        self.dead = True
        self.later({"end": "lost"})

    # What the child does

    def take(self, request: dict[str, Any]) -> bool:
        if self.dead:
            return False
        self.seen[request["do"]] += 1
        getattr(self, f"_{request['do']}")(request["id"], request)
        return True

    def _submit(self, number: int, request: dict[str, Any]) -> None:
        fate = self.submissions.popleft() if self.submissions else "ok"
        self.seen[f"fate {fate}"] += 1
        refuse = {"id": number, "end": "refused", "retry_after": None, "maybe": False}
        if fate == "limited":
            self.later({**refuse, "code": "globus_unavailable", "retry_after": 3.0})
        elif fate.startswith("refused:"):
            self.later({**refuse, "code": fate.removeprefix("refused:")})
        elif fate == "down":
            self.later({**refuse, "code": "globus_unavailable", "maybe": True})
        elif fate == "die-before":
            self.die()
        else:
            group, tasks = self._make(request)
            if fate == "unseen":
                self.later({**refuse, "code": "globus_unavailable", "maybe": True})
            elif fate == "die-after":
                self.die()
            else:
                self.later({"id": number, "end": "submitted", "group": group, "tasks": tasks})

    def _make(self, request: dict[str, Any]) -> tuple[str, list[str]]:
        group = request["group"] or f"group-{next(self.numbers)}"
        site = next(one for one in SITES if endpoint_of(one) == request["endpoint"])
        tasks = []
        for text in request["deliveries"]:
            ticket = ticket_of(base64.b64decode(text))
            behaviour = self.tasks_to_come.popleft() if self.tasks_to_come else "answer"
            delay = {"slow": 400.0, "slower": 2000.0}.get(behaviour, 1.0)
            task = f"task-{next(self.numbers)}"
            self.made[task] = Task(site, ticket, behaviour, self.now + delay, self.now)
            tasks.append(task)
        self.groups.setdefault(group, []).extend(tasks)
        return group, tasks

    def _results(self, number: int, request: dict[str, Any]) -> None:
        gone = []
        for task in request["tasks"]:
            made = self.made.get(task)
            if made is None:
                gone.append(task)
            elif made.ready <= self.now and made.behaviour != "lost" and made.site not in self.offline:
                for _ in range(2 if made.behaviour == "twice" else 1):
                    self.later({"id": number, "task": task, **self._outcome(made)}, 0.02)
                made.told += 1
        self.later({"id": number, "end": "asked", "gone": gone}, 0.03)

    def _outcome(self, made: Task) -> dict[str, Any]:
        answer, failure = answer_to(made.ticket), None
        if made.answer is not None:
            answer = made.answer
        elif made.behaviour == "busy":
            answer = answer_to(made.ticket, "busy")
        elif made.behaviour == "foreign":
            answer = answer_to("f" * 64)
        elif made.behaviour not in {"answer", "slow", "slower", "twice"}:
            return {"state": "failed", "answer": None, "failure": made.behaviour}
        return {"state": "done", "answer": base64.b64encode(answer).decode(), "failure": failure}

    def _tasks(self, number: int, request: dict[str, Any]) -> None:
        if request["group"] not in self.groups:
            self.later({"id": number, "end": "refused", "code": "unknown", "maybe": False, "retry_after": None})
        else:
            self.later({"id": number, "end": "tasks", "tasks": list(self.groups[request["group"]])})

    def _online(self, number: int, request: dict[str, Any]) -> None:
        site = next(one for one in SITES if endpoint_of(one) == request["endpoint"])
        self.later({"id": number, "end": "online", "online": site not in self.offline})


class WorldLink:
    """The transport's way to a `ComputeWorld`; a dead child comes back a second later."""

    def __init__(self, world: ComputeWorld) -> None:
        self.world = world
        self.closed = False
        world.dead = False
        world.events.clear()  # what an earlier child was about to say

    def send(self, request: dict[str, Any]) -> bool:
        return self.world.take(parse(canonical(request)))

    def receive(self, timeout: float) -> list[dict[str, Any]]:
        world, end = self.world, self.world.now + max(timeout, 0.0)
        found: list[dict[str, Any]] = []
        while world.events and world.events[0][0] <= (end if not found else world.now):
            at, _, event = heapq.heappop(world.events)
            world.now = max(world.now, at)
            if event.get("end") == "lost":
                world.dead = False
            found.append(event)
        if not found:
            world.now = end
        return found

    def close(self) -> None:
        self.closed = True


def open_transport(
    world: ComputeWorld, folder: Path, *, resend: float = 60.0, sites: tuple[str, ...] = SITES, probe: Probe = silent
) -> ComputeTransport:
    settings = ComputeTransportConfig(
        kind="globus-compute",
        function=FUNCTION,
        endpoints={site: endpoint_of(site) for site in sites},
        poll_seconds=0.5,
        resend_seconds=resend,
    )
    book = Book(folder, probe)
    return ComputeTransport(settings, WorldLink(world), book, clock=world.clock, timer=world.timer)
