"""Targets of `audit` and of the root: events, notes, checkpoints, proofs, policies, bundles, journals, parameters."""

from __future__ import annotations

import json
import struct
from functools import cache
from pathlib import Path

from counterseal.audit.events import EVENTS, open_event, peek_event
from counterseal.audit.tlog.checkpoint import Checkpoint, open_checkpoint
from counterseal.audit.tlog.cosignature import CosignedCheckpoint, Witnesses, require_cosignature, witness_key
from counterseal.audit.tlog.journal import Journal
from counterseal.audit.tlog.merkle import leaf_hash
from counterseal.audit.tlog.note import Note, NoteSignature
from counterseal.audit.tlog.policy import Policy
from counterseal.audit.tlog.proof import LogProof
from counterseal.audit.tlog.tiles import decode_bundle, encode_bundle
from counterseal.audit.tlog.tree import Tree
from counterseal.parameters import HeaderError, Schema, check_header, decode, encode
from counterseal.tests.federation import ORIGIN, SERVER
from counterseal.trust import dsse
from counterseal.trust.canonical import parse
from counterseal.trust.keys.signing import VerifyingKey

from .target import Target, require, round_trips, taken
from .world import ME, VECTORS, folder, payload_of, vectors, world

__all__ = ["TARGETS"]


def _event(data: bytes) -> None:
    signer = world().federation.keys[SERVER].signer
    raw = dsse.sign(data, kind="event", signer=signer)
    peeked = taken(lambda: peek_event(raw))
    opened = taken(lambda: open_event(raw, signer.public))
    require((peeked is None) == (opened is None), "peeked and opened disagree")
    if peeked is not None and opened is not None:
        require(opened.document == peeked and opened.raw == raw, "opened another event than peeked")
        require(EVENTS[peeked.type] is type(peeked), "an event under another's name")
        require(round_trips(type(peeked), data) == peeked, "differs after a round trip")


def _event_seeds() -> list[bytes]:
    found = {json.loads(payload_of(raw))["type"]: payload_of(raw) for raw in world().leaves}
    return [*found.values(), *(path.read_bytes() for path in sorted((VECTORS / "event").glob("good/*.json")))]


def _log_key() -> VerifyingKey:
    key = world().federation.keys[SERVER].checkpoint
    if key is None:
        raise AssertionError("the server has the log's key")
    return key.public


@cache
def _witnesses() -> Witnesses:
    federation = world().federation
    return Witnesses.of({name: federation.keys[name].cosigner.public for name in federation.sites})


@cache
def _texts() -> frozenset[str]:
    return frozenset(Note.parse(note).text for note in world().notes)


@cache
def _cosigned() -> frozenset[tuple[str, str]]:
    found = [CosignedCheckpoint.open(note, ORIGIN, _log_key()) for note in world().notes]
    return frozenset((name, one.checkpoint.body()) for one in found for name in one.witnessed_by(_witnesses()))


def _note(data: bytes) -> None:
    note = taken(lambda: Note.parse(data))
    if note is not None:
        require(note.to_bytes() == data, "a note with two spellings")
        for signature in note.signatures:
            require(NoteSignature.from_line(signature.line()) == signature, "a line with two spellings")


def _checkpoint(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    bare = taken(lambda: Checkpoint.from_body(text))
    require(bare is None or bare.body() == text, "a body with two spellings")
    found = taken(lambda: open_checkpoint(data, ORIGIN, _log_key()))
    if found is not None:
        require(found.body() in _texts(), "a checkpoint that was never signed")
        require(found.origin == ORIGIN, "another origin")


def _checkpoint_seeds() -> list[bytes]:
    return [*world().notes, *(text.encode() for text in _texts())]


def _cosignature(data: bytes) -> None:
    found = taken(lambda: CosignedCheckpoint.open(data, ORIGIN, _log_key()))
    if found is not None:
        names = taken(lambda: found.witnessed_by(_witnesses()))
        for name in names or ():
            require((name, found.checkpoint.body()) in _cosigned(), "a cosignature that was never given")
    place = CosignedCheckpoint.open(world().notes[-1], ORIGIN, _log_key()).checkpoint
    key = witness_key(ME, world().federation.keys[ME].cosigner.public)
    line = data.decode("utf-8", "replace")
    if taken(lambda: require_cosignature(line, place, key)) is not None:
        require((ME, place.body()) in _cosigned(), "a line that was never given")


def _cosignature_seeds() -> list[bytes]:
    lines = [line.line().encode() for note in world().notes[-2:] for line in Note.parse(note).signatures]
    return [*world().notes, *lines]


@cache
def _policy() -> Policy:
    return Policy.parse((VECTORS / "log" / "policy.txt").read_text())


def _proof(data: bytes) -> None:
    proof = taken(lambda: LogProof.parse(data))
    if proof is None:
        return
    require(proof.to_bytes() == data, "a proof with two spellings")
    log = _policy().logs[0]
    place = taken(lambda: proof.verify(b"leaf 77", log.name, log.key, _policy()))
    if place is not None:
        require(proof.index == 77 and place.size == 300, "a proof of another place")


def _proof_seeds() -> list[bytes]:
    return [path.read_bytes() for path in sorted((VECTORS / "log").rglob("*.tlog-proof"))]


def _policy_text(data: bytes) -> None:
    policy = taken(lambda: Policy.parse(data.decode("utf-8", "replace")))
    if policy is not None:
        require(Policy.parse(policy.to_text()) == policy, "a policy differs after a round trip")
        require(policy.satisfied([]) == (policy.quorum is None), "a quorum of nobody")
        require(policy.satisfied([one.name for one in policy.witnesses]), "a quorum that nobody can reach")


def _policy_seeds() -> list[bytes]:
    more = "\ngroup all all sites\ngroup any any all\nquorum any\n"
    text = (VECTORS / "log" / "policy.txt").read_text()
    return [text.encode(), text.replace("\nquorum sites\n", more).encode(), b"# nothing\nquorum none\n"]


def _bundle(data: bytes) -> None:
    width, bundle = (data[:1] or b"\0")[0] + 1, data[1:]
    leaves = taken(lambda: decode_bundle(bundle, width))
    if leaves is not None:
        require(len(leaves) == width and encode_bundle(leaves) == bundle, "a bundle with two spellings")
        tree = Tree()
        tree.extend(leaf_hash(leaf) for leaf in leaves)
        require(tree.size == width, "another number of leaves")


def _bundle_seeds() -> list[bytes]:
    from counterseal.audit.tlog.tiles import WIDTH

    leaves = world().leaves[:WIDTH]
    return [bytes([len(leaves) - 1]) + encode_bundle(leaves), b"\x01" + encode_bundle([b"", b"a"])]


def _journal(data: bytes) -> None:
    path = _journal_folder() / "journal"
    path.write_bytes(data)
    opened = taken(lambda: Journal.open(path))
    if opened is None:
        require(path.read_bytes() == data, "a refused journal was changed")
        return
    journal, batches = opened
    with_tail = journal.length
    require(path.stat().st_size == with_tail, "the torn tail was not cut off")
    genuine = set(world().leaves)
    require(all(leaf in genuine for batch in batches for leaf in batch.leaves), "a leaf that nobody wrote")
    journal.append(7, [b"next"])
    journal.close()
    journal, again = Journal.open(path)
    journal.close()
    require(again[:-1] == batches and again[-1].leaves == (b"next",), "what was appended is not read back")


@cache
def _journal_folder() -> Path:
    return folder()


@cache
def _journal_seeds() -> list[bytes]:
    path = folder() / "journal"
    Journal.create(path)
    journal, _ = Journal.open(path)
    seeds, at = [b""], 0
    for count in (1, 3, 2):
        journal.append(at, world().leaves[at : at + count])
        at += count
        seeds.append(path.read_bytes())
    journal.close()
    return seeds


@cache
def _schema() -> Schema:
    return Schema.from_json(vectors("blob/vectors.json")["schema"])


def _parameters(data: bytes) -> None:
    schema = _schema()

    def check() -> bool:
        check_header(schema, data)
        return True

    header = schema.header()
    require(
        bool(taken(check)) == (data[: len(header)] == header), "a header is taken exactly if it is the canonical one"
    )
    tensors = taken(lambda: decode(schema, data))
    if tensors is not None:
        require(b"".join(encode(schema, tensors)) == data, "parameters with two spellings")


@cache
def _parameter_seeds() -> list[bytes]:
    import numpy as np

    schema = _schema()
    generator = np.random.default_rng(5)
    tensors = {spec.name: generator.integers(0, 9, spec.shape).astype(spec.numpy_dtype) for spec in schema.tensors}
    header = schema.header()
    text = json.dumps(json.loads(header[8:]), indent=1).encode()
    meta = b'{"__metadata__":{"format":"pt"},' + header[9:].rstrip()
    return [
        b"".join(encode(schema, tensors)),
        *(struct.pack("<Q", len(one)) + one + bytes(64) for one in (text, meta, b"{}", b"[" * 5000)),
    ]


def _schema_json(data: bytes) -> None:
    value = taken(lambda: parse(data))
    schema = taken(lambda: Schema.from_json(value)) if value is not None else None
    if schema is None:
        return
    require(Schema.from_json(schema.to_json()) == schema, "a schema differs after a round trip")
    header = schema.header()
    check_header(schema, header)
    require(len(header) % 8 == 0 and schema.total_bytes == len(header) + schema.data_bytes, "another length")
    require(sum(span.nbytes for span in schema.spans()) == schema.data_bytes, "spans do not cover the data")
    try:
        check_header(schema, header[:-1] + b"!")
    except HeaderError:
        return
    raise AssertionError("a changed header was taken")


def _schema_seeds() -> list[bytes]:
    deep = Schema.from_json(vectors("blob/vectors.json")["schema"])
    objects = {one.encode() for raw in world().deliveries for one in json.loads(raw)["objects"]}
    return [json.dumps(deep.to_json()).encode(), *sorted(objects)]


TARGETS = (
    Target("event", ("audit/events.py",), _event_seeds, _event, as_json=True),
    Target("note", ("audit/tlog/note.py",), lambda: [*world().notes], _note),
    Target("checkpoint", ("audit/tlog/checkpoint.py",), _checkpoint_seeds, _checkpoint),
    Target("cosignature", ("audit/tlog/cosignature.py",), _cosignature_seeds, _cosignature),
    Target("tlog-proof", ("audit/tlog/proof.py",), _proof_seeds, _proof),
    Target("tlog-policy", ("audit/tlog/policy.py",), _policy_seeds, _policy_text),
    Target("bundle", ("audit/tlog/tiles.py", "audit/checks/tree_checks.py"), _bundle_seeds, _bundle),
    Target("log-journal", ("audit/tlog/journal.py",), _journal_seeds, _journal),
    Target("parameters", ("parameters.py",), _parameter_seeds, _parameters),
    Target("schema", ("parameters.py",), _schema_seeds, _schema_json, as_json=True),
)
