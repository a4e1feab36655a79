"""How an attack is played and what must still be true afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from counterseal.runtime.site.site import Site
from counterseal.trust.canonical import canonical

from .table import Row, Where, Who
from .world import ME, World, worlds

__all__ = ["Model", "at_server", "at_site", "edited"]

Model = Literal["same", "alone"]
"""The final model afterwards: of the undisturbed run, or of the run in which site-a has no part in the last round."""


def edited(edit: Callable[[dict[str, Any]], Any]) -> Callable[[World], bytes]:
    """Return an attack that changes the JSON of the delivery in place."""

    def apply(world: World) -> bytes:
        value = world.json()
        edit(value)
        return canonical(value)

    return apply


def at_site(
    id_: str,
    who: Who,
    attack: str,
    expected: str,
    make: Callable[[World], bytes],
    *,
    at: str = "train-2",
    halts: bool = False,
    model: Model | None = None,
    arrange: Callable[[World], Callable[[], None]] | None = None,
    settings: Callable[[World], Mapping[str, Any]] = lambda world: {},
) -> Row:
    """Return a row in which site-a is handed what ``make`` returns.

    A refused delivery changes nothing that the site remembers; one that halts it leaves the evidence and nothing else; in both
    cases no file appears or changes. ``arrange`` prepares the world first and returns how to undo that.
    """

    def play() -> str:
        with worlds(at) as world:
            delivery = make(world)
            undo = arrange(world) if arrange is not None else lambda: None
            facts, files = world.facts(), world.files()
            code = world.hand(delivery, **settings(world))
            _require_unharmed(world, facts, files, code, halts)
            undo()
            if halts:
                assert world.hand(world.delivery) == "halted"
            _require_end(world, model or ("alone" if halts else "same"), halts)
            return code

    return Row(id_, "site", who, attack, expected, play)


def _require_unharmed(world: World, facts: dict[str, Any], files: dict[str, str], code: str, halts: bool) -> None:
    assert code != "accepted"
    now, found = world.facts(), world.files()
    refused = f"receipt/{world.ticket}" in now and f"receipt/{world.ticket}" not in facts
    if refused:  # under its own signature, of which a copy lies in the store
        assert now[f"receipt/{world.ticket}"]["manifest"] is None
        found.pop(f"store/objects/runs/run-1/updates/{world.ticket}/answer")
        files = {path: digest for path, digest in files.items() if path in found or "/spool/" not in path}  # settled
    assert found == files, "something was written"
    if halts:
        evidence = now.pop("halted")
        assert evidence["code"] == code
        assert evidence["evidence"]["delivery"]
        assert evidence["evidence"]["checkpoint"]
    assert refused or now == facts


def _require_end(world: World, model: Model, halts: bool) -> None:
    ended = world.finish()
    assert ended.outcome == "completed"
    assert ended.model == (world.model if model == "same" else world.alone)
    assert ended.halted == ((ME,) if halts else ())
    assert halts or (world.folder / ME / "models" / "run-1.safetensors").exists()
    assert world.verify() == []


def at_server(
    id_: str,
    who: Who,
    attack: str,
    expected: str,
    *,
    rogue: Callable[[World, Site], Any] | None = None,
    answers: Callable[[World, str, bytes], bytes | None] | None = None,
    arrange: Callable[[World], Any] | None = None,
    model: Model = "alone",
    where: Where = "server",
    verdict: Callable[[Any], str] | None = None,
    **changes: Any,
) -> Row:
    """Return a row in which the server meets what ``rogue`` (as site-a) or ``answers`` (on the way) makes of the answer."""

    def play() -> str:
        with worlds() as world:
            if arrange is not None:
                arrange(world)
            ended = world.finish(
                answers=None if answers is None else lambda site, answer: answers(world, site, answer),
                rogues={} if rogue is None else {ME: lambda site: rogue(world, site)},
                **changes,
            )
            assert ended.outcome == "completed"
            assert ended.halted in ((), (ME,) if rogue else ())  # what a liar's own site makes of the log is its affair
            assert ended.model == (world.model if model == "same" else world.alone)
            assert world.verify() == []
            return ended.verdict(ME) if verdict is None else verdict(ended)

    return Row(id_, where, who, attack, expected, play)
