"""Writes tests/vectors/charter and tests/vectors/mailbox afresh, with keys of its own; run it when the formats change.

python -m counterseal.tests.trust.charter_vectors
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from counterseal.trust import dsse
from counterseal.trust.canonical import canonical
from counterseal.trust.charter.model import Charter
from counterseal.trust.charter.signing import CharterSignature
from counterseal.trust.documents import sign
from counterseal.trust.enrolment import SealedEnrolment, seal_enrolment
from counterseal.trust.identifiers import sha256
from counterseal.trust.keys.member import MemberKeys
from counterseal.trust.keys.sealing import SealingKey
from counterseal.trust.keys.statement import make_statement
from counterseal.trust.messages import Approval, Enrolment, Evidence, Revocation

FOLDER = Path(__file__).parent.parent / "vectors"
NOW = 1_800_000_000
ORIGIN = "lung.example.org/log"
PARTIES = ("server", "east", "west")
Row = dict[str, Any]


def _statement(keys: MemberKeys, identity: str, **more: Any) -> str:
    place = {"federation": "lung", "log_origin": ORIGIN, "not_before": NOW - 9, "not_after": NOW + 86_400}
    return make_statement(keys, identity=identity, **(place | more)).raw.decode()  # type: ignore[arg-type]


def _charter(keys: dict[str, MemberKeys]) -> Charter:
    rows: list[Row] = [
        {
            "identity": name,
            "name": name.title(),
            "roles": ["site"],
            "weight": 1.5,
            "statement": _statement(keys[name], name),
        }
        for name in PARTIES
    ]
    rows[0] |= {"roles": ["server"], "weight": None}
    return Charter.from_json({
        "version": 1, "previous": None, "federation": "lung", "title": "Two clinics", "log_origin": ORIGIN,
        "group": {"id": "lung-group", "authorizer": "roster"}, "suite": "P384", "members": rows, "server": "server",
        "quorum": {"k": 2, "f": 1}, "cosign_lag": 4, "commit_before_upload": True, "max_staleness": 0,
        "limits": {"update_bytes": 1000000, "norm_bound": 10.5, "ticket_seconds": 60, "round_seconds": 120},
        "aggregation": {"rule": "fedavg", "clip_norm": 1.0}, "dispute_window_seconds": 3600,
    })  # fmt: skip


def charter_vectors(keys: dict[str, MemberKeys]) -> Row:
    """Return the charter's vectors: one base text, and cases that replace a piece of it or choose signatures."""
    made = _charter(keys)
    text, digest = made.payload().decode(), made.digest

    def word(who: str, by: str, **more: Any) -> str:
        fields: Row = {"federation": "lung", "charter": digest, "identity": who, "time": NOW}
        document = CharterSignature(**(fields | more))
        return sign(document, keys[by].signer).raw.decode()

    signatures = {name: word(name, name) for name in PARTIES} | {
        "west by east": word("west", "east"),
        "west of another charter": word("west", "west", charter="0" * 64),
        "west of another federation": word("west", "west", federation="heart"),
        "west from the future": word("west", "west", time=NOW + 301),
        "a stranger": word("north", "north"),
    }
    full = list(PARTIES)
    cases: list[Row] = [
        {"name": "good", "signatures": full, "where": None},
        {"name": "a signature missing", "signatures": full[:2], "where": "charter signatures"},
        {"name": "a signature twice", "signatures": [*full, "east"], "where": "charter signatures"},
        {"name": "a stranger's signature", "signatures": [*full, "a stranger"], "where": "charter signature"},
    ]
    cases += [
        {"name": name, "signatures": [*full[:2], name], "where": "charter signature of west"}
        for name in signatures if name.startswith("west ")
    ]  # fmt: skip
    edits = [
        ("another spelling of the same values", '"version":1', '"version": 1', "charter signature of server"),
        ("a changed limit", '"norm_bound":10.5', '"norm_bound":99.5', "charter signature of server"),
        ("a quorum that can be split", '"k":2', '"k":1', "charter"),
        ("f of zero", '"f":1', '"f":0', "charter"),
        ("an unknown field", '"version":1', '"version":1,"vote":1', "charter"),
        ("a name twice in the JSON", '"version":1', '"version":1,"version":1', "charter"),
        ("a first charter with a past", '"previous":null', f'"previous":"{"0" * 64}"', "charter"),
        ("another suite than the keys", '"suite":"P384"', '"suite":"MLKEM1024_P384"', "members.0.statement"),
        ("another log than the keys", f'"log_origin":"{ORIGIN}"', '"log_origin":"x.example"', "members.0.statement"),
        ("another member's keys", '"identity":"east"', '"identity":"easy"', "members.1.statement"),
    ]
    for name, old, new, where in edits:
        assert old in text, old
        cases.append({"name": name, "replace": [old, new], "signatures": full, "where": where})
    return {"now": NOW, "digest": digest, "charter": text, "signatures": signatures, "cases": cases}


def mailbox_vectors(keys: dict[str, MemberKeys]) -> tuple[Row, dict[str, bytes]]:
    """Return the index and the files of the mailbox's vectors."""
    head: Row = {"federation": "lung", "identity": "east", "time": NOW}
    approval: Row = {
        "subject": "0" * 64,
        "subject_kind": "release",
        "decision": "approve",
        "officer": "E. Ost",
        "meaning": "read",
    }
    tickets = [dsse.sign(canonical({"n": n}), kind="ticket", signer=keys["server"].signer).decode() for n in (1, 2)]
    evidence = Evidence(**head, accused="server", form="dsse", first=tickets[0], second=tickets[1])
    revocation = Revocation(**head, member="east", key=keys["east"].signer.public.key_id, reason="lost")
    token = "a token for vectors only"
    server = keys["server"].opening
    statement = _statement(keys["north"], "north", token_hash=sha256(token.encode()))
    newcomer = Enrolment(
        **(head | {"identity": "north"}),
        server_key=server.public.key_id,
        statement=statement,
        endpoint="0b5d1bd4-2fc2-4c8e-9b0e-6d1b1c8a3f00",
    )
    enrolment = sign(newcomer, keys["north"].signer)
    sealed = seal_enrolment(enrolment, server.public, token=token, typed_fingerprint=server.public.key_id)
    upper = newcomer.model_dump(mode="json") | {"endpoint": "0B5D1BD4-2FC2-4C8E-9B0E-6D1B1C8A3F00"}
    odd = dsse.sign(canonical(upper), kind=Enrolment.KIND, signer=keys["north"].signer)
    east = keys["east"].signer

    def say(**changes: Any) -> bytes:
        return sign(Approval(**(head | approval | changes)), east).raw

    def raw(payload: Row, kind: str = "approval") -> bytes:
        return dsse.sign(canonical(payload), kind=kind, signer=east)

    same = {"accused": "server", "form": "dsse", "first": tickets[0], "second": tickets[0]}
    table: list[tuple[str, str, bytes]] = [
        ("", "good.approval", say()),
        ("", "good.evidence", sign(evidence, east).raw),
        ("", "good.revocation", sign(revocation, east).raw),
        ("", "good.enrolment", sealed.to_bytes()),
        ("mailbox", "kind-in-name.revocation", say()),
        ("mailbox", "federation.approval", say(federation="heart")),
        ("mailbox", "future.approval", say(time=NOW + 301)),
        ("unknown_key", "stranger.approval", say(identity="north")),
        ("unknown_key", "cosign-key.approval", sign(Approval(**head, **approval), keys["east"].cosigner).raw),
        ("malformed", "unknown-field.approval", raw(head | approval | {"also": 1})),
        ("malformed", "same-twice.evidence", raw(head | same, "evidence")),
        ("malformed", "own-recovery.recovery", raw(head | {"member": "east", "statement": "x"}, "recovery")),
        ("malformed", "bidi.approval", raw(head | approval | {"officer": "E\u202eOst"})),
        ("malformed", "two-signatures.approval", canonical(_doubled(json.loads(say())))),
        ("malformed", "plain.enrolment", enrolment.raw),
        ("malformed", "endpoint.enrolment", _sealed(odd, server.public, token)),
        ("mailbox", "moved.enrolment", canonical(json.loads(sealed.to_bytes()) | {"federation": "heart"})),
    ]
    index: Row = {
        "now": NOW, "federation": "lung", "log_origin": ORIGIN, "token": token,
        "server_suite": "P384", "server_private": server.to_private_bytes().hex(),
        "east": east.public.public.hex(),
        "files": {f"{name}.counterseal.json": code or None for code, name, _ in table},
    }  # fmt: skip
    return index, {f"{name}.counterseal.json": data for _, name, data in table}


def _sealed(envelope: bytes, key: SealingKey, token: str) -> bytes:
    """Seal whatever ``envelope`` holds, as somebody does who checks nothing."""
    info = b"counterseal-enrolment-v1\nlung\n" + key.key_id.encode()
    wrapped = key.wrap(canonical({"enrolment": envelope.decode(), "token": token}), info)
    text = base64.b64encode(wrapped).decode()
    return SealedEnrolment(federation="lung", key=key.key_id, sealed=text, suite=key.suite).to_bytes()


def _doubled(envelope: Row) -> Row:
    return envelope | {"signatures": envelope["signatures"] * 2}


def main() -> None:
    """Write both folders."""
    keys = {name: MemberKeys.generate("P384", operator=name == "server") for name in (*PARTIES, "north")}
    for name in ("charter", "mailbox"):
        (FOLDER / name).mkdir(parents=True, exist_ok=True)
    (FOLDER / "charter" / "vectors.json").write_text(json.dumps(charter_vectors(keys), indent=1) + "\n")
    index, files = mailbox_vectors(keys)
    (FOLDER / "mailbox" / "index.json").write_text(json.dumps(index, indent=1) + "\n")
    for file, data in files.items():
        (FOLDER / "mailbox" / file).write_bytes(data)


if __name__ == "__main__":
    main()
