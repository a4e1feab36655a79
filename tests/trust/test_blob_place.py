"""A blob counts only from its sender, for its recipients, in its place: everything off the diagonal is refused."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from counterseal.errors import CountersealError
from counterseal.parameters import Schema, decode
from counterseal.tests.trust.blob_world import LATER, NOW, World, flat_model, small_model
from counterseal.trust import dsse
from counterseal.trust.blob import BytesSource, Manifest, Place, Sealed, Wrap, open_blob, read_manifest, rewrap
from counterseal.trust.blob.keys import BlobKeys
from counterseal.trust.blob.manifest import Context
from counterseal.trust.blob.wraps import unwrap_root, wrap_root
from counterseal.trust.canonical import canonical
from counterseal.trust.documents import Signed
from counterseal.trust.errors import (
    BlobError,
    CommitmentError,
    MalformedError,
    PartDigestError,
    PayloadError,
    PlaceError,
    RecipientError,
    SignatureError,
)
from counterseal.trust.keys.sealing import OpeningKey

PLACES: dict[str, dict[str, Any]] = {
    "home": {},
    "federation": {"federation": "heart.example"},
    "charter": {"charter": "d" * 64},
    "run": {"run": "run-2"},
    "version": {"version": 5},
    "ticket": {"ticket": "8" * 64},
    "no ticket": {"ticket": None},
    "kind": {"kind": "state"},
    "sender": {"sender": "bob@site-b.example"},
    "parent": {"parent": "a" * 64},
    "no parent": {"parent": None},
}
READERS = {"home": ("server", "auditor"), "kind": ("server",)}

MODEL = small_model()
SCHEMA = Schema.of(MODEL)


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def blobs(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sealed]:
    folder = tmp_path_factory.mktemp("blobs")
    return {
        name: world.seal(MODEL, folder / str(index), to=READERS.get(name, ("server",)), **changes)
        for index, (name, changes) in enumerate(PLACES.items())
    }


def opened(
    world: World, manifest: Signed[Manifest], payload: bytes, place: Place, key: OpeningKey, by: str = "alice"
) -> bytes:
    """Do what a reader does."""
    trusted = read_manifest(manifest.raw, place=place, sender=world.signers[by].public, now=NOW)
    return open_blob(trusted, BytesSource(payload), key, SCHEMA).read().tobytes()


def test_only_the_diagonal_opens(world: World, blobs: dict[str, Sealed]) -> None:
    found = set()
    for blob, sealed in blobs.items():
        payload = sealed.path.read_bytes()
        for place, changes in PLACES.items():
            for reader, key in world.openers.items():
                try:
                    raw = opened(world, sealed.manifest, payload, world.place(SCHEMA, **changes), key)
                except (PlaceError, RecipientError):
                    continue
                found.add((blob, place, reader))
                assert decode(SCHEMA, raw)["head.bias"].tobytes() == MODEL["head.bias"].tobytes()
    assert found == {(blob, blob, reader) for blob in PLACES for reader in READERS.get(blob, ("server",))}


def test_the_first_wrong_field_is_named(world: World, blobs: dict[str, Sealed]) -> None:
    for name, changes in PLACES.items():
        for field in changes:
            with pytest.raises(PlaceError, match=f"^manifest: {field} is "):
                read_manifest(
                    blobs[name].manifest.raw,
                    place=world.place(SCHEMA),
                    sender=world.signers["alice"].public,
                    now=NOW,
                )


def test_no_payload_stands_in_for_another(world: World, blobs: dict[str, Sealed]) -> None:
    home, key = world.place(SCHEMA), world.openers["server"]
    for name, sealed in blobs.items():
        if name != "home":
            with pytest.raises(PartDigestError):
                opened(world, blobs["home"].manifest, sealed.path.read_bytes(), home, key)


def test_a_member_cannot_resign_what_another_sealed(world: World, blobs: dict[str, Sealed]) -> None:
    """Mallory keeps wraps and parts and writes her own name into the context: the wraps no longer open."""
    honest, key = blobs["home"], world.openers["server"]
    document, payload = honest.manifest.document, honest.path.read_bytes()
    as_it_was = world.sign(document, "mallory")
    with pytest.raises(SignatureError):
        opened(world, as_it_was, payload, world.place(SCHEMA), key)
    with pytest.raises(PlaceError, match="sender_key"):
        opened(world, as_it_was, payload, world.place(SCHEMA), key, by="mallory")
    mine = {"sender": "mallory@site-m.example", "sender_key": world.signers["mallory"].public.key_id}
    for changes in (mine, {"sender_key": mine["sender_key"]}, {**mine, "ticket": "8" * 64}):
        context = document.context.model_copy(update=changes)
        forged = world.sign(document.model_copy(update={"context": context}), "mallory")
        place = Place(**{name: getattr(context, name) for name in Place.model_fields})
        with pytest.raises(RecipientError):
            opened(world, forged, payload, place, key, by="mallory")


def test_a_recipient_who_moves_a_payload_meets_its_associated_data(world: World, blobs: dict[str, Sealed]) -> None:
    """The auditor knows the root, wraps it for a new place and signs: the payload is still bound to the old one."""
    honest = blobs["home"]
    document = honest.manifest.document
    keys = unwrap_root(document, world.openers["auditor"])
    context = document.context.model_copy(
        update={
            "ticket": "8" * 64,
            "sender": "mallory@site-m.example",
            "sender_key": world.signers["mallory"].public.key_id,
            "recipients": (world.openers["server"].public.key_id,),
        }
    )
    wraps = wrap_root(keys, context, [world.openers["server"].public])
    forged = world.sign(document.model_copy(update={"context": context, "wraps": wraps}), "mallory")
    place = world.place(SCHEMA, ticket="8" * 64, sender="mallory@site-m.example")
    with pytest.raises(PayloadError, match="segment 0 does not decrypt"):
        opened(world, forged, honest.path.read_bytes(), place, world.openers["server"], by="mallory")


def test_a_second_root_for_one_recipient_breaks_the_commitment(world: World, blobs: dict[str, Sealed]) -> None:
    document = blobs["home"].manifest.document
    auditor = world.openers["auditor"].public
    other = wrap_root(BlobKeys.generate(), document.context, [auditor])[0]
    wraps = tuple(other if one.key_id == auditor.key_id else one for one in document.wraps)
    forged = world.sign(document.model_copy(update={"wraps": wraps}), "alice")
    payload = blobs["home"].path.read_bytes()
    assert opened(world, forged, payload, world.place(SCHEMA), world.openers["server"])
    with pytest.raises(CommitmentError):
        opened(world, forged, payload, world.place(SCHEMA), world.openers["auditor"])


@pytest.mark.parametrize("root", [b"", b"short", b"r" * 33])
def test_a_root_of_another_length_is_refused(world: World, blobs: dict[str, Sealed], root: bytes) -> None:
    document = blobs["run"].manifest.document
    server = world.openers["server"].public
    data = base64.b64encode(server.wrap(root, document.context.binding)).decode()
    forged = world.sign(document.model_copy(update={"wraps": (Wrap(key_id=server.key_id, wrapped=data),)}), "alice")
    with pytest.raises(CommitmentError):
        place = world.place(SCHEMA, run="run-2")
        opened(world, forged, blobs["run"].path.read_bytes(), place, world.openers["server"])


def test_an_expired_manifest_is_refused_except_by_readers_of_history(world: World, blobs: dict[str, Sealed]) -> None:
    raw, alice = blobs["home"].manifest.raw, world.signers["alice"].public
    for now in (LATER, LATER + 1):
        with pytest.raises(BlobError, match="expired"):
            read_manifest(raw, place=world.place(SCHEMA), sender=alice, now=now)
    for fine in (LATER - 1, None):
        assert read_manifest(raw, place=world.place(SCHEMA), sender=alice, now=fine) == blobs["home"].manifest


def test_expected_recipients_are_compared(world: World, blobs: dict[str, Sealed]) -> None:
    raw, alice = blobs["home"].manifest.raw, world.signers["alice"].public
    names = {name: key.public.key_id for name, key in world.openers.items()}
    read_manifest(raw, place=world.place(SCHEMA), sender=alice, now=NOW, recipients={names["server"], names["auditor"]})
    for wrong in ([], [names["server"]], list(names.values()), [names["server"], names["outsider"]]):
        with pytest.raises(PlaceError, match="recipients"):
            read_manifest(raw, place=world.place(SCHEMA), sender=alice, now=NOW, recipients=wrong)


def changed(document: Manifest, path: str, value: object) -> dict[str, Any]:
    found: dict[str, Any] = document.model_dump(mode="json")
    target: dict[str, Any] = found
    *parents, last = path.split(".")
    for name in parents:
        target = target[name]
    if value is ...:
        del target[last]
    else:
        target[last] = value(target[last]) if callable(value) else value
    return found


MALFORMED: dict[str, tuple[str, object]] = {
    "unsorted recipients": ("context.recipients", lambda found: found[::-1]),
    "doubled recipient": ("context.recipients", lambda found: [found[0], found[0]]),
    "no recipients": ("context.recipients", []),
    "257 recipients": ("context.recipients", [f"{n:064x}" for n in range(257)]),
    "unsorted wraps": ("wraps", lambda found: found[::-1]),
    "wrap missing": ("wraps", lambda found: found[:1]),
    "wrap too many": ("wraps", lambda found: [*found, found[0]]),
    "part too many": ("parts", lambda found: found * 2),
    "no part": ("parts", []),
    "257 parts": ("parts", lambda found: found * 257),
    "part size of a byte": ("part_size", 1),
    "part size of nothing": ("part_size", 0),
    "another part size": ("part_size", 17 << 20),
    "length beyond the parts": ("context.plaintext_length", 17 << 20),
    "length beyond anything": ("context.plaintext_length", 2**45),
    "negative length": ("context.plaintext_length", -1),
    "length as text": ("context.plaintext_length", "7"),
    "another format": ("context.format", "counterseal-blob/v2"),
    "no format": ("context.format", ...),
    "no rewraps": ("rewraps", ...),
    "unknown suite": ("context.suite", "RSA"),
    "unknown kind": ("context.kind", "gossip"),
    "member too many": ("context.note", "x"),
    "upper-case digest": ("commitment", lambda found: found.upper()),
    "short commitment": ("commitment", "ab"),
    "path as a run": ("context.run", "../x"),
    "line break in a sender": ("context.sender", "a\nb"),
    "expiry before 1970": ("expires", -1),
    "loose base64": ("wraps", lambda found: [{**one, "wrapped": one["wrapped"] + "\n"} for one in found]),
    "URL base64": ("wraps", lambda found: [{**one, "wrapped": "-_-_"} for one in found]),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_manifest_that_contradicts_itself_is_malformed(world: World, blobs: dict[str, Sealed], name: str) -> None:
    payload = canonical(changed(blobs["home"].manifest.document, *MALFORMED[name]))
    raw = dsse.sign(payload, kind="manifest", signer=world.signers["alice"])
    with pytest.raises(MalformedError):
        read_manifest(raw, place=world.place(SCHEMA), sender=world.signers["alice"].public, now=NOW)


@pytest.mark.parametrize("attack", ["unsorted", "doubled"])
def test_recipients_are_sorted_and_unique_even_where_the_wraps_agree(
    world: World, blobs: dict[str, Sealed], attack: str
) -> None:
    document = blobs["home"].manifest.document.model_dump(mode="json")
    for entries in (document["context"]["recipients"], document["wraps"]):
        entries[:] = entries[::-1] if attack == "unsorted" else [entries[0], *entries]
    raw = dsse.sign(canonical(document), kind="manifest", signer=world.signers["alice"])
    with pytest.raises(MalformedError, match="sorted and unique"):
        read_manifest(raw, place=world.place(SCHEMA), sender=world.signers["alice"].public, now=NOW)


def test_another_schema_is_another_place(world: World, blobs: dict[str, Sealed]) -> None:
    payload, other = blobs["home"].path.read_bytes(), Schema.of(flat_model(5))
    with pytest.raises(PlaceError, match="schema"):
        open_blob(blobs["home"].manifest, BytesSource(payload), world.openers["server"], other)


def test_a_rewrap_opens_beside_its_original(world: World, blobs: dict[str, Sealed]) -> None:
    original, payload = blobs["home"], BytesSource(blobs["home"].path.read_bytes())
    outsider = world.openers["outsider"]
    handed = handed_on(world, original)
    place = world.place(SCHEMA, sender="server@lung.example")
    server = world.signers["server"].public
    trusted = read_manifest(handed.raw, place=place, sender=server, now=NOW, recipients=[outsider.public.key_id])
    raw = open_blob(trusted, payload, outsider, SCHEMA, original=original.manifest).read()
    assert decode(SCHEMA, raw)["norm.steps"] == 3
    with pytest.raises(RecipientError):
        open_blob(trusted, payload, world.openers["auditor"], SCHEMA, original=original.manifest)
    with pytest.raises(RecipientError):
        open_blob(original.manifest, payload, outsider, SCHEMA)


def handed_on(world: World, original: Sealed, key: str = "server") -> Signed[Manifest]:
    return rewrap(
        original.manifest,
        world.openers[key],
        [world.openers["outsider"].public],
        signer=world.signers["server"],
        sender="server@lung.example",
        expires=LATER,
    )


def test_a_rewrap_needs_exactly_its_original(world: World, blobs: dict[str, Sealed]) -> None:
    handed, payload = handed_on(world, blobs["home"]), BytesSource(blobs["home"].path.read_bytes())
    outsider, server = world.openers["outsider"], world.openers["server"]
    for original in (None, blobs["run"].manifest, handed):
        with pytest.raises(PlaceError):
            open_blob(handed, payload, outsider, SCHEMA, original=original)
    with pytest.raises(PlaceError, match="rewraps nothing"):
        open_blob(blobs["home"].manifest, payload, server, SCHEMA, original=blobs["home"].manifest)


def test_only_a_recipient_rewraps_and_only_an_original(world: World, blobs: dict[str, Sealed]) -> None:
    with pytest.raises(RecipientError):
        handed_on(world, blobs["home"], key="outsider")
    handed = handed_on(world, blobs["home"])
    with pytest.raises(BlobError, match="is not rewrapped"):
        rewrap(
            handed,
            world.openers["outsider"],
            [world.openers["auditor"].public],
            signer=world.signers["server"],
            sender="server@lung.example",
            expires=LATER,
        )


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("context.ticket", "8" * 64),
        ("context.version", 5),
        ("context.parent", None),
        ("context.run", "run-2"),
        ("context.ledger_head", None),
        ("context.kind", "release"),
        ("parts", ["0" * 64]),
        ("commitment", "0" * 64),
        ("rewraps.manifest", "0" * 64),
        ("rewraps.context", "0" * 64),
    ],
)
def test_a_rewrap_that_changes_anything_else_is_refused(
    world: World, blobs: dict[str, Sealed], path: str, value: object
) -> None:
    handed = Manifest.from_json(changed(handed_on(world, blobs["home"]).document, path, value))
    keys = BlobKeys.generate()  # even if the rewrapper seals the wraps anew for the changed context
    wraps = wrap_root(keys, handed.context, [world.openers["outsider"].public])
    forged = world.sign(handed.model_copy(update={"wraps": wraps}), "server")
    payload = BytesSource(blobs["home"].path.read_bytes())
    with pytest.raises(PlaceError):
        open_blob(forged, payload, world.openers["outsider"], SCHEMA, original=blobs["home"].manifest)


def test_the_context_binds_every_field_of_the_manifest_that_is_not_ciphertext(blobs: dict[str, Sealed]) -> None:
    context = blobs["home"].manifest.document.context
    others: dict[str, Any] = {
        "suite": "P384",
        "federation": "x",
        "charter": "0" * 64,
        "run": "x",
        "version": 0,
        "ticket": None,
        "kind": "state",
        "sender": "x",
        "parent": None,
        "schema_digest": "0" * 64,
        "format": "x",
        "sender_key": "0" * 64,
        "recipients": ("0" * 64,),
        "plaintext_length": 0,
        "ledger_head": None,
    }
    assert others.keys() == Context.model_fields.keys()
    bindings = {context.model_copy(update={name: value}).binding for name, value in others.items()}
    assert len(bindings | {context.binding}) == len(others) + 1


@pytest.mark.parametrize("attack", ["kind", "key"])
def test_the_envelope_is_checked_first(world: World, blobs: dict[str, Sealed], attack: str) -> None:
    payload = blobs["home"].manifest.document.payload()
    raw = dsse.sign(payload, kind="ticket" if attack == "kind" else "manifest", signer=world.signers["alice"])
    sender = world.signers["alice" if attack == "kind" else "mallory"].public
    with pytest.raises(SignatureError):
        read_manifest(raw, place=world.place(SCHEMA), sender=sender, now=NOW)


def test_every_refusal_is_one_of_ours(world: World) -> None:
    for raw in (b"", b"{}", b"\xff", b"[" * 100_000, b"x" * (2 << 20)):
        with pytest.raises(CountersealError):
            read_manifest(raw, place=world.place(SCHEMA), sender=world.signers["alice"].public, now=NOW)
