"""A whole site: changed deliveries through `Site.handle`, before each ticket of a real run.

Nothing escapes. What the site then says under its own key speaks of a ticket that the server signed, a checkpoint that the log
signed, and work that came out as it should; and no change made by whoever carries a delivery stops the site for good or takes
the ticket from it: the delivery as it was sent is still answered.
"""

from __future__ import annotations

import io
import json
import shutil
from functools import cache
from pathlib import Path

from counterseal.audit.events import ReceiptFile, open_event
from counterseal.audit.tlog.checkpoint import Checkpoint
from counterseal.audit.tlog.note import Note
from counterseal.runtime.delivery import Answer
from counterseal.runtime.site.site import Site
from counterseal.runtime.site.worker import serve
from counterseal.trust.canonical import parse
from counterseal.trust.documents import parse_document
from counterseal.trust.identifiers import sha256
from counterseal.trust.tickets import Ticket

from .target import Target, require, taken
from .world import ME, Scene, folder, payload_of, world

__all__ = ["TARGETS"]


class Stage:
    """The site of one scene, made afresh after it has acted."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._folder: Path | None = None
        self._site: Site | None = None

    def site(self) -> Site:
        """Return the site, as it was before the delivery."""
        if self._site is None:
            self._folder = folder() / "state"
            shutil.copytree(self._scene.state, self._folder)
            self._site = world().federation.site(ME, state=self._folder, clock=_Still(self._scene))
        return self._site

    def fresh(self) -> Site:
        """Return the site, made afresh."""
        if self._site is not None and self._folder is not None:
            self._site.close()
            shutil.rmtree(self._folder.parent)
        self._site = None
        return self.site()


class _Still:
    """A clock that stands where the ticket was good."""

    def __init__(self, scene: Scene) -> None:
        self._now = _order(scene.ticket).not_after - 1

    def __call__(self) -> int:
        return self._now


def _order(ticket: str) -> Ticket:
    return parse_document(Ticket, payload_of(ticket.encode()))


@cache
def _stages() -> dict[str, Stage]:
    return {sha256(payload_of(scene.ticket.encode())): Stage(scene) for scene in world().scenes}


@cache
def _places() -> frozenset[tuple[int, str]]:
    notes = [json.loads(one)["checkpoint"] for one in world().deliveries]
    found = [Checkpoint.from_body(Note.parse(note.encode()).text) for note in notes]
    return frozenset((one.size, one.root.hex()) for one in found)


@cache
def _orders() -> dict[str, Ticket]:
    return {digest: _order(stage._scene.ticket) for digest, stage in _stages().items()}


def _site(data: bytes) -> None:
    for stage in _stage(data):
        site = stage.site()
        answer = Answer.from_json(parse(site.handle(data), what="answer"))
        require(site._state.halted is None, "whoever carries a delivery can stop the site for good")
        if answer.receipt is None:
            require(answer.fault is not None and answer.manifest is None, "an answer that says nothing")
            require(not answer.uploaded and answer.metrics is None, "a refusal that gives something away")
            continue
        taken(lambda answer=answer: _believable(answer))  # type: ignore[misc]
        again = stage.fresh()
        require(again._state.halted is None, "halted")


def _stage(data: bytes) -> list[Stage]:
    stages = _stages()
    try:
        digest = sha256(payload_of(json.loads(data)["ticket"].encode()))
    except Exception:  # noqa: BLE001 - no such ticket: then any stage will do
        digest = ""
    return [stages.get(digest) or next(iter(stages.values()))]


def _believable(answer: Answer) -> Answer:
    raw = (answer.receipt or "").encode()
    receipt = open_event(raw, world().federation.keys[ME].signer.public).document
    require(isinstance(receipt, ReceiptFile), "an answer without a receipt in it")
    if not isinstance(receipt, ReceiptFile):
        return answer
    order = _orders().get(receipt.ticket)
    require(order is not None and answer.ticket == receipt.ticket, "a receipt for a ticket that was never signed")
    if order is not None:
        said = (receipt.run, receipt.version, receipt.seq, receipt.kind)
        require(said == (order.run, order.version, order.seq, order.kind), "a receipt that misquotes its ticket")
    place = (receipt.checkpoint.size, receipt.checkpoint.root)
    require(place in _places(), "a cosignature on a checkpoint that was never signed")
    require(receipt.outcome == "done", "a changed delivery made the site give up a good ticket")
    return answer


def _seeds() -> list[bytes]:
    return [scene.delivery for scene in world().scenes]


def _serve(data: bytes) -> None:
    """Frames with deliveries, through the loop of the site's process."""
    site = next(iter(_stages().values())).site()
    sink = io.BytesIO()
    # A broken pipe ends the process; it decided nothing.
    count = taken(lambda: serve(site, io.BytesIO(data), sink))
    require(count is None or sink.getvalue().count(b'"fault"') == count, "a frame without an answer")


def _serve_seeds() -> list[bytes]:
    first = b"0" * 64 + b"\n" + b'{"ticket": ""}'
    return [b"%d\n" % len(first) + first, b"2\nxy3\nx\ny"]


TARGETS = (
    Target(
        "site",
        ("runtime/site/site.py", "runtime/site/checks.py", "runtime/site/settlement.py"),
        _seeds,
        _site,
        as_json=True,
    ),
    Target("site-process", ("runtime/site/worker.py",), _serve_seeds, _serve),
)
