"""What the network can do to a delivery on its way to a site."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

from counterseal.trust.canonical import canonical
from counterseal.trust.documents import sign
from counterseal.trust.dsse import read

from .forge import sealed_coefficient
from .play import at_site, edited
from .table import Row
from .world import ME, OTHER, World, kind_of, worlds

__all__ = ["DELIVERY"]


def flip(text: str, index: int = 0) -> str:
    """Return hexadecimal or base64 ``text`` with one character changed to another of the same alphabet."""
    other = "1" if text[index] == "0" else "0"
    return text[:index] + other + text[index + 1 :]


def envelope(edit: Callable[[dict[str, Any]], Any]) -> Callable[[World], bytes]:
    """Return an attack on the envelope of the ticket."""

    def apply(value: dict[str, Any]) -> None:
        found = json.loads(value["ticket"])
        edit(found)
        value["ticket"] = canonical(found).decode()

    return edited(apply)


def payload(text: str, old: str, new: str) -> str:
    """Return the base64 ``text`` with ``old`` replaced in what it spells."""
    data = base64.b64decode(text)
    assert old.encode() in data
    return base64.b64encode(data.replace(old.encode(), new.encode())).decode()


def leaf_of(value: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return the delivery's first leaf of an event of ``kind``."""
    found: dict[str, Any] = next(
        item for item in value["leaves"] if json.loads(read(item["leaf"].encode()).payload)["type"] == kind
    )
    return found


def without(kind: str) -> Callable[[dict[str, Any]], Any]:
    """Return an edit that drops the leaves of ``kind``."""
    return lambda value: value["leaves"].remove(leaf_of(value, kind))


def change_leaf(value: dict[str, Any], old: str, new: str) -> None:
    leaf = leaf_of(value, "round.open")
    found = json.loads(leaf["leaf"])
    found["payload"] = payload(found["payload"], old, new)
    leaf["leaf"] = canonical(found).decode()


def resigned(world: World) -> bytes:
    value = world.json()
    raw = read(value["ticket"].encode())
    from counterseal.trust.documents import parse_document
    from counterseal.trust.tickets import Ticket

    value["ticket"] = sign(parse_document(Ticket, raw.payload), world.federation.keys[OTHER].signer).raw.decode()
    return canonical(value)


def past(world: World, site: str, kind: str, version: int) -> bytes:
    """Return an earlier delivery."""
    return next(raw for to, _, raw in world.past if to == site and kind_of(raw) == (kind, version))


def old_checkpoint(world: World) -> bytes:
    value = world.json()
    value["checkpoint"] = json.loads(past(world, ME, "train", 0))["checkpoint"]
    return canonical(value)


def strip_cosignatures(value: dict[str, Any]) -> None:
    note = value["witnessed"]["note"]
    body, _, lines = note.partition("\n\n")
    value["witnessed"]["note"] = body + "\n\n" + lines.splitlines()[0] + "\n"


def break_cosignature(value: dict[str, Any]) -> None:
    body, _, lines = value["witnessed"]["note"].partition("\n\n")
    rows = lines.splitlines()
    rows[1] = rows[1][:-12] + flip(rows[1][-12:-8]) + rows[1][-8:]
    value["witnessed"]["note"] = body + "\n\n" + "\n".join(rows) + "\n"


def old_quorum(world: World) -> bytes:
    """Show the quorum of two versions ago, with a true consistency proof."""
    from counterseal.audit.tlog.log import Log

    from .world import SERVER

    value = world.json()
    value["witnessed"] = json.loads(past(world, ME, "train", 1))["witnessed"]
    keys = world.federation.keys[SERVER]
    assert keys.checkpoint is not None
    with Log.open(world.federation.log_folder, world.federation.charter.charter.log_origin, keys.checkpoint) as log:
        now, then = (int(note.split("\n")[1]) for note in (value["checkpoint"], value["witnessed"]["note"]))
        value["witnessed"]["consistency"] = [step.hex() for step in log.consistency(then, now)]
    return canonical(value)


def other_coefficient(world: World) -> bytes:
    value = world.json()
    last = value["settled"][-1]
    last["coefficient"] = sealed_coefficient(world, "3f800000", "0" * 64, last["ticket"])
    return canonical(value)


def grant(name: str, key: Callable[[World], str]) -> Callable[[World], bytes]:
    def apply(world: World) -> bytes:
        value = world.json()
        value["grants"][name]["key"] = key(world)
        return canonical(value)

    return apply


def answered() -> str:
    """A ticket that was answered comes again, changed in every way that nobody signed: the stored answer, and nothing else."""
    with worlds() as world:
        old = past(world, ME, "train", 1)
        value = json.loads(old) | {"settled": [], "leaves": [], "witnessed": None, "consistency": []}
        facts, files = world.facts(), world.files()
        with world.federation.site(ME) as site:
            answer = json.loads(site.handle(canonical(value)))
        receipt = facts[f"receipt/{answer['ticket']}"]["receipt"]
        assert answer["receipt"] == receipt
        assert (world.facts(), world.files()) == (facts, files)
        ended = world.finish()
        assert (ended.model, ended.halted) == (world.model, ())
        return "stored answer"


def spelled_otherwise() -> str:
    """The network adds white space to the envelope of an honest receipt: nobody is convicted of anything."""
    with worlds() as world:

        def answers(site: str, answer: bytes) -> bytes:
            value = json.loads(answer)
            if site == ME and value["receipt"] is not None:
                value["receipt"] = value["receipt"].replace('{"payload":', '{ "payload" : ')
            return canonical(value)

        ended = world.finish(answers=answers)
        assert (ended.model, ended.halted) == (world.model, ())
        assert world.verify() == []
        return ended.verdict(ME)


def _set(name: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda found: found.__setitem__(name, value)


def _sig(found: dict[str, Any]) -> dict[str, Any]:
    one: dict[str, Any] = found["signatures"][0]
    return one


_FOREIGN = "runs/run-1/versions/000003/payload"

DELIVERY: tuple[Row, ...] = (
    at_site(
        "P2-001",
        "network",
        "a bit of the ticket's signature flipped",
        "signature",
        envelope(lambda found: _sig(found).update(sig=flip(_sig(found)["sig"]))),
    ),
    at_site(
        "P2-002",
        "network",
        "another site's name in the signed ticket",
        "signature",
        envelope(lambda found: found.update(payload=payload(found["payload"], ME, OTHER))),
    ),
    at_site(
        "P2-003",
        "network",
        "a later deadline in the signed ticket",
        "signature",
        envelope(lambda found: found.update(payload=payload(found["payload"], '"not_after":18', '"not_after":19'))),
    ),
    at_site("P2-004", "network", "the ticket signed again with another member's key", "signature", resigned),
    at_site(
        "P2-005",
        "network",
        "the ticket's key id replaced by another member's",
        "signature",
        lambda world: envelope(
            lambda found: _sig(found).update(keyid=world.federation.keys[OTHER].signer.public.key_id)
        )(world),
    ),
    at_site(
        "P2-006",
        "network",
        "the ticket presented as a document of another kind",
        "signature",
        envelope(_set("payloadType", "application/vnd.counterseal.event.v1+json")),
    ),
    at_site(
        "P2-007",
        "network",
        "a second signature beside the true one",
        "malformed",
        envelope(lambda found: found["signatures"].append(_sig(found))),
    ),
    at_site("P2-008", "network", "no signature at all", "malformed", envelope(_set("signatures", []))),
    at_site(
        "P2-009",
        "network",
        "an unsigned member added to the envelope",
        "malformed",
        envelope(_set("recipients", ["everybody"])),
    ),
    at_site(
        "P2-010",
        "network",
        "an unsigned member added to the delivery",
        "malformed",
        edited(_set("recipients", ["everybody"])),
    ),
    at_site(
        "P2-011",
        "network",
        "the delivery of another site",
        "ticket_misaddressed",
        lambda world: past(world, OTHER, "train", 1),
    ),
    Row("P2-012", "site", "network", "an answered ticket again, without its proofs", "stored answer", answered),
    at_site(
        "P2-013",
        "network",
        "the delivery held back until the ticket has expired",
        "ticket_expired",
        lambda world: world.delivery,
        settings=lambda world: {"clock": lambda: world.clock() + 1000},
    ),
    at_site("P2-014", "network", "the delivery cut off in the middle", "malformed", lambda w: w.delivery[:9000]),
    at_site("P2-015", "network", "two deliveries in one", "malformed", lambda w: w.delivery + w.delivery),
    at_site(
        "P2-016",
        "network",
        "the grant of the upload for the place of the next model",
        "grant",
        grant("update", lambda world: _FOREIGN),
    ),
    at_site(
        "P2-017",
        "network",
        "the grant of the answer for another ticket's answer",
        "grant",
        grant("answer", lambda world: f"runs/run-1/updates/{'0' * 64}/answer"),
    ),
    at_site(
        "P2-018",
        "network",
        "the grant of the model for an older version",
        "grant",
        grant("payload", lambda world: "runs/run-1/versions/000001/payload"),
    ),
    at_site(
        "P2-019",
        "network",
        "no grant of the model",
        "grant",
        edited(lambda value: value["grants"].update(manifest=None)),
    ),
    at_site("P2-020", "network", "no schema of the model", "blob_place", edited(_set("objects", []))),
    at_site(
        "P2-021",
        "network",
        "a schema with another shape",
        "blob_place",
        edited(lambda value: value.update(objects=[value["objects"][0].replace("6", "7")])),
    ),
    at_site(
        "P2-022",
        "network",
        "a ticket to receive the model, its release hidden",
        "ticket_unlogged",
        edited(without("model.release")),
        at="receive-3",
    ),
    Row(
        "P2-023",
        "server",
        "network",
        "white space added inside the envelope of a receipt, so that the logged bytes are not the site's",
        "counted",
        spelled_otherwise,
    ),
    at_site(
        "P7-001",
        "network",
        "the leaf that issues the ticket left out",
        "ticket_unlogged",
        edited(without("ticket.issue")),
    ),
    at_site(
        "P7-002", "network", "the leaf that opens the round left out", "ticket_unlogged", edited(without("round.open"))
    ),
    at_site(
        "P7-003", "network", "the leaf that starts the run left out", "ticket_unlogged", edited(without("run.start"))
    ),
    at_site(
        "P7-004",
        "network",
        "the commits that made the model left out",
        "ticket_unlogged",
        edited(lambda value: [without("aggregate.commit")(value), without("aggregate.commit")(value)]),
    ),
    at_site("P7-005", "network", "all leaves left out", "ticket_unlogged", edited(_set("leaves", []))),
    at_site(
        "P7-006",
        "network",
        "a leaf whose content was changed",
        "proof",
        edited(lambda value: change_leaf(value, OTHER, "mallory@fed.example")),
    ),
    at_site(
        "P7-007",
        "network",
        "a step of an inclusion proof changed",
        "proof",
        edited(lambda value: value["leaves"][0]["proof"].__setitem__(0, flip(value["leaves"][0]["proof"][0]))),
    ),
    at_site(
        "P7-008", "network", "an inclusion proof truncated", "proof", edited(lambda v: v["leaves"][0]["proof"].pop())
    ),
    at_site(
        "P7-009",
        "network",
        "an inclusion proof extended",
        "proof",
        edited(lambda v: v["leaves"][0]["proof"].append("00" * 32)),
    ),
    at_site(
        "P7-010",
        "network",
        "two leaves under each other's indices",
        "proof",
        edited(
            lambda v: (
                v["leaves"][0].update(index=v["leaves"][1]["index"]),
                v["leaves"][1].update(index=v["leaves"][0]["index"] - 1),
            )
        ),
    ),
    at_site(
        "P7-011",
        "network",
        "a leaf beyond the end of the log",
        "proof",
        edited(lambda v: v["leaves"][0].update(index=2**50)),
    ),
    at_site(
        "P7-012",
        "network",
        "a bit of the checkpoint's signature flipped",
        "checkpoint",
        edited(
            lambda v: v.update(checkpoint=v["checkpoint"][:-10] + flip(v["checkpoint"][-10:-6]) + v["checkpoint"][-6:])
        ),
    ),
    at_site(
        "P7-013",
        "network",
        "the checkpoint of another log",
        "checkpoint",
        edited(lambda v: v.update(checkpoint=v["checkpoint"].replace("fed.example/log", "evil.example/log"))),
    ),
    at_site("P7-014", "network", "an older checkpoint (rollback)", "checkpoint_rollback", old_checkpoint),
    at_site(
        "P7-015",
        "network",
        "a step of the consistency proof changed",
        "checkpoint_inconsistent",
        edited(lambda v: v["consistency"].__setitem__(0, flip(v["consistency"][0]))),
    ),
    at_site("P7-016", "network", "no consistency proof", "checkpoint_inconsistent", edited(_set("consistency", []))),
    at_site(
        "P7-017",
        "network",
        "a consistency proof from the empty tree",
        "consistency_needed",
        edited(lambda v: v.update(consistency_from=0, consistency=[])),
    ),
    at_site("P7-018", "network", "no cosigned checkpoint", "quorum", edited(_set("witnessed", None))),
    at_site("P7-019", "network", "the cosignatures stripped off", "quorum", edited(strip_cosignatures)),
    at_site("P7-020", "network", "a cosignature that does not hold", "checkpoint", edited(break_cosignature)),
    at_site("P7-021", "network", "the quorum of an older version in place of today's", "quorum", old_quorum),
    at_site("P7-022", "network", "the earlier answers' fate left out", "unsettled", edited(_set("settled", []))),
    at_site(
        "P7-023",
        "network",
        "the earlier answers' fate without its leaves",
        "unsettled",
        edited(lambda v: [item.update(leaves=[]) for item in v["settled"]]),
    ),
    at_site(
        "P7-024",
        "network",
        "another coefficient than the one committed, unsigned: convicts nobody",
        "unsettled",
        other_coefficient,
    ),
    at_site(
        "P7-026",
        "network",
        "a coefficient that does not open",
        "unsettled",
        edited(lambda v: v["settled"][-1].update(coefficient="AAAA")),
    ),
    at_site(
        "P7-025",
        "network",
        "no opening of the coefficient",
        "unsettled",
        edited(lambda v: v["settled"][-1].update(coefficient=None)),
    ),
)
