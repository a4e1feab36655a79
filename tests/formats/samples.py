"""Fixed keys, and one sample of every event: what the vectors are made of. The same in every process."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from counterseal.audit.checks.leaf_checks import actor_fault
from counterseal.audit.events import EVENTS, Event
from counterseal.trust.documents import sign
from counterseal.trust.identifiers import sha256
from counterseal.trust.keys.signing import SoftwareSigner

__all__ = ["CHARTER", "FEDERATION", "NOW", "SERVER", "SITES", "digest", "event", "events_table", "signed", "signer"]

NOW = 1_800_000_000
FEDERATION = "lung"
SERVER = "server"
SITES = ("east", "west")
_PARTIES = (SERVER, *SITES, "stranger")


def digest(name: str) -> str:
    """Return a digest to stand for ``name``."""
    return sha256(name.encode())


CHARTER = digest("charter")


def signer(name: str) -> SoftwareSigner:
    """Return a party's key: the Ed25519 key of 32 equal bytes."""
    return SoftwareSigner(Ed25519PrivateKey.from_private_bytes(bytes([_PARTIES.index(name) + 1]) * 32))


_DECISION = {
    "identity": "east",
    "role": "site",
    "allowed": True,
    "reason": "active",
    "source": "roster file",
    "time": NOW,
}
_PLACE = {"size": 77, "root": digest("root")}
_INPUT = {
    "site": "east", "ticket": digest("ticket"), "manifest": digest("manifest"), "weight": 1.5,
    "coefficient": digest("coefficient"),
}  # fmt: skip
_FIELDS: dict[str, Any] = {
    "federation": FEDERATION, "actor": SERVER, "time": NOW, "run": "run-1", "version": 3, "attempt": 0, "seq": 4,
    "identity": "west", "site": "east", "roles": ["site"], "authorizer": "roster file", "signatures": [digest("signature")],
    "config": {"name": "run-1", "rounds": 5}, "parameters": {"clip_norm": 2.5}, "rule": "norm-clipped-fedavg",
    "suite": "MLKEM768_X25519", "seal_key": "AAAA", "participants": list(SITES), "decisions": [_DECISION], "decision": _DECISION,
    "kind": "train", "not_after": NOW + 600, "outcome": "done", "checkpoint": _PLACE, "reason": "outage",
    "reasons": ["norm_bound"],
    "inputs": [_INPUT], "excluded": [{"site": "west", "reason": "late"}], "at": "ticket", "seconds": -340, "what": "two_tickets",
    "messages": [digest("message")], "witnesses": list(SITES), "recipients": list(SITES), "witnessed": True, "charter": CHARTER,
    "mfa": True, "session_age": 240,
}  # fmt: skip
_OWN: dict[tuple[str, str], Any] = {
    ("receipt.file", "actor"): "east", ("blob.unopenable", "actor"): "east", ("run.end", "outcome"): "completed",
    ("key.enrol", "decision"): {**_DECISION, "identity": "west"},
    ("key.revoke", "reason"): "lost", ("member.remove", "reason"): "left",
}  # fmt: skip


def event(name: str, **changes: Any) -> Event:
    """Return the sample of the event type ``name``: its required fields, those of which are digests by name."""
    model = EVENTS[name]
    needed = [field for field, about in model.model_fields.items() if about.is_required()]
    values = {field: _OWN.get((name, field), _FIELDS.get(field, digest(field))) for field in needed}
    return model.from_json({"type": name, **values, **changes})


def signed(name: str, **changes: Any) -> bytes:
    """Return the sample's leaf, signed by its actor."""
    found = event(name, **changes)
    return sign(found, signer(found.actor)).raw


def _speakers(name: str) -> str:
    """Return who may sign the event, by asking the rule that sites and auditors ask."""
    sites = frozenset(SITES)
    may = {who for who in _PARTIES if not actor_fault(event(name, actor=who), SERVER, sites)}
    named = {"identity", "site"} & EVENTS[name].model_fields.keys()
    if may == {SERVER}:
        return "server"
    if may == set(SITES):
        return "the site"
    if may == set(_PARTIES):
        return "any member"
    if len(may) == 2 and SERVER in may and named:
        return f"server, or its `{named.pop()}`"
    return ", ".join(sorted(may))


def events_table() -> str:
    """Return the table of docs/formats/events.md: type, signer, fields beyond the common ones (with ? where optional)."""
    rows = ["| type | signed by | fields |", "|---|---|---|"]
    for name, model in EVENTS.items():
        own = [field for field in model.model_fields if field not in Event.model_fields]
        fields = ", ".join(f"`{field}`" + ("" if model.model_fields[field].is_required() else "?") for field in own)
        rows.append(f"| `{name}` | {_speakers(name)} | {fields} |")
    return "\n".join(rows) + "\n"
