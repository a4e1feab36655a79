"""One changed byte anywhere: never another content, always a typed error or the very same acceptance.

What passes unnoticed is listed: parts that nobody signed and nobody believes. Everything else must be refused.
"""

from __future__ import annotations

import json
import logging
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from counterseal.runtime.server.correspondence.receipts import read_answer
from counterseal.trust.canonical import canonical
from counterseal.trust.dsse import read

from .world import ME, World, answer_of, worlds

IGNORED = (
    "grants",  # leave to use the store is unsigned: its time and length may differ, its key and kind may not
    "witnessed",  # a cosignature line under a name or key hash that nobody knows is no cosignature; the quorum decides
)
"""Members of a delivery in which a changed byte may leave the acceptance as it was."""


PLACE = st.integers(0, 2**20 - 1)
BYTE = st.integers(0, 255) | st.sampled_from(b'0123456789abcdefABCXYZ+/= ",:{}[]')
few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def change(data: bytes, place: int, byte: int) -> tuple[bytes, int]:
    """Return ``data`` with another byte at the place (in parts of 2^20), and its index."""
    index = place * len(data) >> 20
    found = byte if byte != data[index] else byte ^ 1
    return data[:index] + bytes([found]) + data[index + 1 :], index


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(logging.getLogger("counterseal"), "disabled", True)


def work_of(world: World, answer: bytes) -> dict[str, Any]:
    """Return what the site did and signed, without what differs between two honest tries (randomness)."""
    value = json.loads(answer)
    receipt = json.loads(read(value["receipt"].encode()).payload)
    manifest = json.loads(read(value["manifest"].encode()).payload)
    kept = ("run", "version", "ticket", "seq", "kind", "outcome", "checkpoint", "previous", "actor")
    context = {name: item for name, item in manifest["context"].items()}
    return {"receipt": {name: receipt[name] for name in kept}, "context": context, "uploaded": value["uploaded"]}


def member_at(delivery: bytes, index: int) -> str:
    """Return the member of the delivery in which byte ``index`` lies."""
    value = json.loads(delivery)
    end = 1
    for name in sorted(map(str, value)):
        end += len(canonical({name: value[name]})) - 2 + 1
        if index < end:
            return name
    return ""


@few
@given(place=PLACE, byte=BYTE)
def test_a_changed_byte_of_a_delivery_changes_nothing_that_is_believed(place: int, byte: int) -> None:
    with worlds() as world:
        changed, index = change(world.delivery, place, byte)
        with world.federation.site(ME) as site:
            answer = site.handle(changed)
        code = answer_of(answer)
        assert code != "site_failed"
        if code != "accepted":
            assert json.loads(answer)["fault"] is not None, code
            with world.federation.site(ME) as site:
                assert answer_of(site.handle(world.delivery)) == "accepted"
            return
        assert member_at(world.delivery, index) in IGNORED
        with worlds() as other, other.federation.site(ME) as honest:
            expected = work_of(other, honest.handle(other.delivery))
        done = work_of(world, answer)
        assert done["receipt"] == expected["receipt"]
        assert done["context"] == expected["context"]


@few
@given(place=PLACE, byte=BYTE)
def test_a_changed_byte_of_an_answer_changes_nothing_that_is_believed(place: int, byte: int) -> None:
    """The model is that of the undisturbed run, or of the run without site-a: never a third one."""
    with worlds() as world:
        changed: list[bytes] = []

        def answers(site: str, answer: bytes) -> bytes:
            if site != ME or json.loads(answer)["ticket"] != world.ticket or changed:
                return answer
            changed.append(change(answer, place, byte)[0])
            return changed[0]

        ended = world.finish(answers=answers)
        assert ended.outcome == "completed"
        assert ended.halted == ()
        assert ended.model in (world.model, world.alone)
        assert world.verify() == []
        if ended.model == world.model:
            assert read_answer(changed[0]).receipt is not None or read_answer(changed[0]).fault is not None
