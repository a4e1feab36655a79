"""Targets of `trust`: JSON, envelopes, documents, keys, messages, YAML, payloads."""

from __future__ import annotations

import base64
import json
from functools import cache
from pathlib import Path
from typing import Any

from counterseal.audit.tlog.note import NoteKey
from counterseal.tests.federation import ORIGIN, SERVER, START
from counterseal.trust import dsse
from counterseal.trust.blob.manifest import Manifest, Place, read_manifest
from counterseal.trust.blob.payload import HEADER, PayloadDecryptor, PayloadEncryptor
from counterseal.trust.canonical import canonical, parse
from counterseal.trust.charter.model import Charter
from counterseal.trust.charter.signing import verify_charter
from counterseal.trust.charter.vkey import WitnessKey
from counterseal.trust.charter.yaml_file import TEMPLATE, dump_charter, load_charter_draft
from counterseal.trust.enrolment import SealedEnrolment, open_enrolment
from counterseal.trust.group import load_roster
from counterseal.trust.keys.custody import create_folder
from counterseal.trust.keys.index import FolderIndex
from counterseal.trust.keys.member import MemberKeys
from counterseal.trust.keys.passphrase import Passphrase
from counterseal.trust.keys.sealing import OpeningKey
from counterseal.trust.keys.statement import KeyStatement, verify_statement
from counterseal.trust.keys.validity import KeyHistory
from counterseal.trust.mailbox import KINDS, file_name, keys_at, read_message
from counterseal.trust.strict_yaml import parse_yaml
from counterseal.trust.tickets import Ticket, open_ticket

from .target import Target, require, round_trips, same_model, taken
from .world import ME, VECTORS, folder, payload_of, vectors, world

__all__ = ["TARGETS"]


def _canonical(data: bytes) -> None:
    value = taken(lambda: parse(data))
    if value is None:
        return
    written = canonical(value)
    require(parse(written) == value, "the canonical form reads as another value")
    require(canonical(parse(written)) == written, "two canonical forms")


def _canonical_seeds() -> list[bytes]:
    plain: list[Any] = [
        {"b": 1, "a": [True, None, "é", 1.5, -0.0, 1e300, 5e-324]}, "\U0001f4a9", [[[]]], {}, 2**53 - 1, 1e16, "\u2028\x7f",
    ]  # fmt: skip
    return [*(json.dumps(one).encode() for one in plain), *world().leaves[:3]]


def _dsse(data: bytes) -> None:
    found = taken(lambda: dsse.read(data))
    if found is None:
        return
    value = json.loads(data)
    require(value["payload"] == base64.b64encode(found.payload).decode(), "loose base64 in the payload")
    require(
        value["signatures"][0]["sig"] == base64.b64encode(found.signature).decode(), "loose base64 in the signature"
    )
    require(value["payloadType"] == dsse.payload_type(found.kind), "another type than the kind says")
    again = dsse.read(canonical(value))
    require((again.payload, again.signature) == (found.payload, found.signature), "differs after a round trip")
    for name, keys in world().federation.keys.items():
        if taken(lambda keys=keys: found.verify(keys.signer.public, kind=found.kind)) is not None:  # type: ignore[misc]
            require((found.kind, found.payload) in _signed(), f"{name} never signed this")


@cache
def _signed() -> frozenset[tuple[str, bytes]]:
    found = [dsse.read(raw) for raw in _envelopes()]
    return frozenset((one.kind, one.payload) for one in found)


@cache
def _envelopes() -> tuple[bytes, ...]:
    played = world()
    tickets = [json.loads(one)["ticket"].encode() for one in played.deliveries]
    statements = [member.statement.encode() for member in played.federation.charter.charter.members]
    return (*tickets, *played.leaves, *played.manifests, *statements)


def _ticket(data: bytes) -> None:
    keys = world().federation.keys[SERVER]
    charter = world().federation.charter
    ticket = round_trips(Ticket, data)
    raw = dsse.sign(data, kind="ticket", signer=keys.signer)
    opened = taken(
        lambda: open_ticket(
            raw, keys.signer.public, federation="test-federation", charter=charter.digest, site=ME, now=START
        )
    )
    if opened is not None:
        require(opened.document == ticket and ticket is not None, "opened what does not parse")
        require((opened.document.site, opened.document.charter) == (ME, charter.digest), "a ticket for somebody else")
        require(opened.document.not_after >= START, "an expired ticket")


def _ticket_seeds() -> list[bytes]:
    return [payload_of(json.loads(one)["ticket"].encode()) for one in world().deliveries]


def _manifest(data: bytes) -> None:
    manifest = round_trips(Manifest, data)
    signer = world().federation.keys[ME].signer
    place = Place.model_validate({name: _place()[name] for name in Place.model_fields}, strict=False)
    raw = dsse.sign(data, kind="manifest", signer=signer)
    opened = taken(lambda: read_manifest(raw, place=place, sender=signer.public, now=START))
    if opened is not None:
        require(opened.document == manifest, "opened what does not parse")
        require(opened.document.context.sender_key == signer.public.key_id, "another sender")
    if manifest is not None:
        covered = [manifest.part(index) for index in range(len(manifest.parts))]
        require(covered[0][0] == 0 and covered[-1][1] == manifest.length, "parts do not cover the payload")
        require(all(begin < end for begin, end in covered), "an empty part")


@cache
def _place() -> dict[str, Any]:
    return dict(json.loads(payload_of(_mine()))["context"])


def _mine() -> bytes:
    return next(raw for raw in world().manifests if json.loads(payload_of(raw))["context"]["sender"] == ME)


def _manifest_seeds() -> list[bytes]:
    good = json.loads(vectors("blob/vectors.json")["good"]["manifest"])["payload"]
    return [payload_of(_mine()), *(payload_of(raw) for raw in world().manifests[:2]), base64.b64decode(good)]


def _statement(data: bytes) -> None:
    statement = round_trips(KeyStatement, data)
    if statement is None:
        return
    require(
        statement.sign.key_id in statement.key_ids and statement.seal.key_id in statement.key_ids,
        "a key without a name",
    )
    for entry in statement.keys:
        # One key, one name: else a revoked key comes back under another spelling.
        require(base64.b64encode(entry.key.public).decode() == entry.public, "loose base64")
        if entry.algorithm in ("p256", "p384"):
            size = {"p256": 65, "p384": 97}[entry.algorithm]
            require(len(entry.key.public) == size and entry.key.public[0] == 4, "a second spelling of one key")
    raw = dsse.sign(data, kind="key-statement", signer=world().federation.keys[ME].signer)
    opened = taken(lambda: verify_statement(raw, federation="test-federation", log_origin=ORIGIN, now=START))
    if opened is not None:
        require(_proven(opened.document) == _proven(_genuine()), "keys in a place where their owner never put them")


def _proven(statement: KeyStatement) -> tuple[object, ...]:
    """Return what the proofs of possession bind: everything else is the sign key's word, and this target has that key."""
    keys = frozenset(entry.model_dump_json() for entry in statement.keys if entry.use != "seal")
    return statement.federation, statement.identity, statement.log_origin, statement.nonce, statement.token_hash, keys


@cache
def _genuine() -> KeyStatement:
    return world().federation.charter.statements[ME].document


def _statement_seeds() -> list[bytes]:
    files = sorted((VECTORS / "keys").rglob("*.json"))
    rows = [json.loads(path.read_text()) for path in files]
    raws = [text.encode() for row in rows for text in _envelope_texts(row)]
    return [_genuine().payload(), *(payload_of(raw) for raw in raws)]


def _envelope_texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        if set(value) == {"payload", "payloadType", "signatures"}:
            return [json.dumps(value)]
        return [text for child in value.values() for text in _envelope_texts(child)]
    return [value] if isinstance(value, str) and value.startswith('{"payload"') else []


def _charter(data: bytes) -> None:
    charter = round_trips(Charter, data)
    genuine = world().federation.charter
    signatures = [raw for raw in _charter_signatures()]
    signed = taken(lambda: verify_charter(data, signatures, now=START))
    if signed is not None:
        require(signed.digest == genuine.digest, "signatures hold over a changed charter")
    if charter is not None:
        require(charter.server in {member.identity for member in charter.members}, "a server that is no member")
        require(all(charter.weights[site] > 0 for site in charter.sites), "a site without weight")
        charter.warnings()


@cache
def _charter_signatures() -> tuple[bytes, ...]:
    from counterseal.trust.charter.signing import sign_charter

    federation = world().federation
    raw = federation.charter.charter.payload()
    now = federation.clock()
    return tuple(
        sign_charter(raw, name, federation.keys[name].signer, federation.charter.digest, now=now).raw
        for name in federation.keys
    )


def _charter_seeds() -> list[bytes]:
    return [world().federation.charter.charter.payload(), vectors("charter/vectors.json")["charter"].encode()]


def _messages(data: bytes) -> None:
    signer = world().federation.keys[ME].signer
    for kind, model in KINDS.items():
        found = round_trips(model, data)
        if found is None or kind == "enrolment":
            continue
        path = _inbox() / file_name(kind)
        path.write_bytes(dsse.sign(data, kind=kind, signer=signer))
        read = taken(lambda path=path: read_message(path, _resolver(), federation="test-federation", now=START))  # type: ignore[misc]
        if read is not None:
            require(read.document == found and found.identity == ME, "a message of somebody else")
            require(
                found.federation == "test-federation" and found.time <= START + 300,
                "a message for another place or time",
            )


@cache
def _inbox() -> Path:
    return folder()


@cache
def _resolver() -> Any:
    charter = world().federation.charter
    return keys_at(KeyHistory.from_charter(charter.charter.federation, charter.statements.values()), 0)


def _message_seeds() -> list[bytes]:
    files = sorted((VECTORS / "mailbox").glob("*.*.counterseal.json"))
    found = [path.read_bytes() for path in files if not path.name.endswith("enrolment.counterseal.json")]
    payloads = [base64.b64decode(json.loads(raw)["payload"]) for raw in found]
    mine = [
        json.dumps({**json.loads(one), "federation": "test-federation", "identity": ME}).encode() for one in payloads
    ]
    return [*payloads, *mine]


def _enrolment(data: bytes) -> None:
    index = vectors("mailbox/index.json")
    key = _server_key()
    opened = taken(
        lambda: open_enrolment(data, key, federation="lung", log_origin=index["log_origin"], now=index["now"])
    )
    if opened is not None:
        require(opened.token == index["token"], "another token")
        sealed = SealedEnrolment.from_json(parse(data))
        require(base64.b64encode(base64.b64decode(sealed.sealed)).decode() == sealed.sealed, "loose base64")


@cache
def _server_key() -> OpeningKey:
    index = vectors("mailbox/index.json")
    return OpeningKey.from_private_bytes(index["server_suite"], bytes.fromhex(index["server_private"]))


def _enrolment_seeds() -> list[bytes]:
    return [path.read_bytes() for path in sorted((VECTORS / "mailbox").glob("*.enrolment.counterseal.json"))]


def _vkey(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    outside = taken(lambda: WitnessKey.parse(text))
    note = taken(lambda: NoteKey.from_vkey(text))
    if note is not None:
        require(note.vkey() == text, "a vkey with two spellings")
    if outside is not None and note is not None:
        require((outside.name, outside.key) == (note.name, note.key), "two readers disagree")


def _vkey_seeds() -> list[bytes]:
    from counterseal.audit.tlog.checkpoint import log_key
    from counterseal.audit.tlog.cosignature import witness_key

    keys = world().federation.keys
    return [
        witness_key("site-a.example", keys[ME].cosigner.public).vkey().encode(),
        log_key("fed.example/log", keys[ME].cosigner.public).vkey().encode(),
    ]


def _charter_yaml(data: bytes) -> None:
    path = _drafts() / "charter.yaml"
    path.write_bytes(data)
    charter = taken(lambda: load_charter_draft(path, now=START))
    if charter is not None:
        path.write_text(dump_charter(charter))
        require(load_charter_draft(path, now=START) == charter, "the charter differs after a round trip")


@cache
def _drafts() -> Path:
    path = folder()
    for number, member in enumerate(world().federation.charter.charter.members):
        (path / f"{number}.json").write_text(member.statement)
    return path


def _charter_yaml_seeds() -> list[bytes]:
    charter = world().federation.charter.charter
    text = dump_charter(charter)
    named = text
    for number, member in enumerate(charter.members):
        named = named.replace(json.dumps(member.statement), f"{number}.json")
    return [text.encode(), named.encode(), TEMPLATE.encode()]


def _roster(data: bytes) -> None:
    roster = taken(lambda: load_roster(data, file="roster.yaml"))
    if roster is not None:
        same_model(roster)
        names = [member.identity.casefold() for member in roster.members]
        require(len(set(names)) == len(names), "one name twice")


def _roster_seeds() -> list[bytes]:
    return [world().federation.roster_path.read_bytes()]


def _yaml(data: bytes) -> None:
    found = taken(lambda: parse_yaml(data, file="x.yaml"))
    if found is not None:
        require(parse(canonical(found.value)) == found.value, "a value that is not JSON's")
        require(
            all(1 <= line <= data.count(b"\n") + data.count(b"\r") + 10_000 for line in found.lines.values()),
            "no such line",
        )


def _yaml_seeds() -> list[bytes]:
    return [
        b"a: 1\nb: [x, 'y', \"z\\u00e9\\n\", 1e-3, .5, true, null, ~]\n"
        b"c:\n  - d: |\n      text\n    e: >-\n      more\n  - {f: g}\n",
        b'"k": "\\x41\\U0001F4A9"\n? q\n: - 12:30\n  - no\n  - 0o7\n',
        *_roster_seeds(),
    ]


def _index(data: bytes) -> None:
    index = taken(lambda: FolderIndex.from_json(parse(data, limit=64 << 10, what="custody.json")))
    if index is not None:
        same_model(index)
        held = taken(index.held)
        require(held is None or {"sign", "cosign", "release", "seal"} <= set(held), "a key is missing")
        require(len(index.tag(bytes(32))) == 64, "no tag")


@cache
def _index_seeds() -> list[bytes]:
    path = folder() / "keys"
    create_folder(path, MemberKeys.generate("P384", operator=True), Passphrase(b"a passphrase of a test"))
    return [(path / "custody.json").read_bytes()]


_PLAIN = bytes(range(256)) * 4


@cache
def _sealed() -> bytes:
    encryptor = PayloadEncryptor(bytes(range(32)), b"a" * 32, len(_PLAIN))
    out = bytearray(len(_PLAIN) + 16)
    encryptor.encrypt_into(memoryview(_PLAIN), memoryview(out))
    return encryptor.header + bytes(out)


def _payload(data: bytes) -> None:
    decryptor = taken(lambda: PayloadDecryptor(bytes(range(32)), b"a" * 32, len(_PLAIN), data[:HEADER]))
    if decryptor is None:
        return
    out = bytearray(len(_PLAIN))
    rest = memoryview(data)[HEADER:]

    def decrypt() -> bool:
        decryptor.decrypt_into(0, rest, memoryview(out))
        return True

    if taken(decrypt):
        require(data == _sealed() and bytes(out) == _PLAIN, "a changed payload decrypts")


def _payload_seeds() -> list[bytes]:
    return [_sealed()]


TARGETS = (
    Target("canonical", ("trust/canonical.py",), _canonical_seeds, _canonical, as_json=True),
    Target("dsse", ("trust/dsse.py",), lambda: list(_envelopes()), _dsse, as_json=True),
    Target("ticket", ("trust/tickets.py", "trust/documents.py"), _ticket_seeds, _ticket, as_json=True),
    Target("manifest", ("trust/blob/manifest.py",), _manifest_seeds, _manifest, as_json=True),
    Target(
        "key-statement",
        ("trust/keys/statement.py", "trust/keys/entry.py", "trust/keys/signing.py", "trust/keys/sealing.py"),
        _statement_seeds,
        _statement,
        as_json=True,
    ),
    Target(
        "charter",
        ("trust/charter/model.py", "trust/charter/rules.py", "trust/charter/signing.py", "trust/charter/members.py"),
        _charter_seeds,
        _charter,
        as_json=True,
    ),
    Target("messages", ("trust/messages.py", "trust/mailbox.py"), _message_seeds, _messages, as_json=True),
    Target("enrolment", ("trust/enrolment.py",), _enrolment_seeds, _enrolment, as_json=True),
    Target("vkey", ("trust/charter/vkey.py", "audit/tlog/note.py"), _vkey_seeds, _vkey),
    Target("charter-yaml", ("trust/charter/yaml_file.py",), _charter_yaml_seeds, _charter_yaml),
    Target("roster", ("trust/group.py",), _roster_seeds, _roster),
    Target("yaml", ("trust/strict_yaml.py",), _yaml_seeds, _yaml),
    Target("key-index", ("trust/keys/index.py", "trust/keys/custody.py"), _index_seeds, _index, as_json=True),
    Target("payload", ("trust/blob/payload.py", "trust/blob/open.py"), _payload_seeds, _payload),
)
