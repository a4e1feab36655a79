"""Checkpoints, cosignatures and the witness that makes a fork show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterseal.audit.errors import (
    CheckpointError,
    ForkError,
    InconsistencyError,
    NoteError,
    PolicyError,
    RollbackError,
)
from counterseal.audit.tlog.checkpoint import Checkpoint, log_key, open_checkpoint, sign_checkpoint
from counterseal.audit.tlog.cosignature import CosignedCheckpoint, Witnesses, cosign, require_cosignature, witness_key
from counterseal.audit.tlog.merkle import EMPTY_ROOT, leaf_hash
from counterseal.audit.tlog.note import Note, NoteSignature, sign_note
from counterseal.audit.tlog.tree import Tree
from counterseal.audit.tlog.witness import WitnessState, advance
from counterseal.trust.errors import MalformedError
from counterseal.trust.keys.signing import SoftwareSigner

ORIGIN = "counterseal.example/f7"


@dataclass(frozen=True)
class World:
    """A log that signs whatever it is told to: the malicious server."""

    signer: SoftwareSigner
    tree: Tree

    @classmethod
    def of(cls, signer: SoftwareSigner, leaves: list[bytes]) -> World:
        tree = Tree()
        tree.extend(map(leaf_hash, leaves))
        return cls(signer, tree)

    def note(self, size: int, origin: str = ORIGIN) -> bytes:
        return sign_checkpoint(Checkpoint(origin, size, self.tree.root(size)), self.signer)

    def state(self, size: int) -> WitnessState:
        return advance(WitnessState.pinned(ORIGIN), self.note(size), (), self.signer.public)


def leaves(size: int, rewritten: int = -1) -> list[bytes]:
    return [b"rewritten" if index == rewritten else b"leaf %d" % index for index in range(size)]


@pytest.fixture
def world(signer: SoftwareSigner) -> World:
    return World.of(signer, leaves(20))


def test_a_checkpoint_round_trips(world: World) -> None:
    note = world.note(7)
    assert note.startswith(b"counterseal.example/f7\n7\n")
    found = open_checkpoint(note, ORIGIN, world.signer.public)
    assert (found.size, found.root) == (7, world.tree.root(7))


BODIES = {
    "empty": "",
    "two lines": "o\n1\n",
    "size with sign": "o\n+1\n{root}\n",
    "size with leading zero": "o\n01\n{root}\n",
    "size with space": "o\n1 \n{root}\n",
    "size in other digits": "o\n\u0661\n{root}\n",
    "negative size": "o\n-1\n{root}\n",
    "size beyond all trees": "o\n9999999999999999999\n{root}\n",
    "huge size": "o\n" + "9" * 5000 + "\n{root}\n",
    "root too short": "o\n1\nAAAA\n",
    "root in loose base64": "o\n1\n{loose}\n",
    "extension line": "o\n1\n{root}\nextension\n",
    "blank line inside": "o\n1\n{root}\n\nmore\n",
    "empty tree with a root": "o\n0\n{root}\n",
    "name with space": "o o\n1\n{root}\n",
}


@pytest.mark.parametrize("name", BODIES)
def test_signed_texts_that_are_not_checkpoints(name: str, signer: SoftwareSigner) -> None:
    root = "A" * 43 + "="
    text = BODIES[name].format(root=root, loose="A" * 42 + "B=")
    if text.endswith("\n"):
        with pytest.raises(CheckpointError):
            open_checkpoint(sign_note(text, "o", signer), "o", signer.public)
    with pytest.raises(CheckpointError):
        Checkpoint.from_body(text)


def test_a_checkpoint_counts_for_its_origin_and_key_only(world: World) -> None:
    stranger = SoftwareSigner.generate()
    with pytest.raises(CheckpointError, match="not signed"):
        open_checkpoint(world.note(7, origin="other.example"), ORIGIN, world.signer.public)
    with pytest.raises(CheckpointError, match="not signed"):
        open_checkpoint(world.note(7), ORIGIN, stranger.public)
    text = Checkpoint("other.example", 7, world.tree.root(7)).body()
    with pytest.raises(CheckpointError, match="another origin"):
        open_checkpoint(sign_note(text, ORIGIN, world.signer), ORIGIN, world.signer.public)


# The witness


def test_a_witness_follows_an_honest_log(world: World) -> None:
    state = WitnessState.pinned(ORIGIN)
    for size in (0, 1, 1, 2, 7, 8, 20):
        state = advance(state, world.note(size), world.tree.consistency(state.size, size), world.signer.public)
        assert state.checkpoint == Checkpoint(ORIGIN, size, world.tree.root(size))
        assert WitnessState.from_bytes(state.to_bytes(), world.signer.public) == state


def test_a_fork_is_evidence(world: World) -> None:
    other = World.of(world.signer, leaves(20, rewritten=3))
    state = world.state(9)
    with pytest.raises(ForkError) as caught:
        advance(state, other.note(9), (), world.signer.public)
    # Both notes convict the log before anybody who knows its key: same origin, same size, two roots.
    seen, offered = (
        open_checkpoint(note, ORIGIN, world.signer.public) for note in (caught.value.seen, caught.value.offered)
    )
    assert seen.size == offered.size
    assert seen.root != offered.root


def test_two_witnesses_shown_two_forks_learn_it_when_they_meet(world: World) -> None:
    other = World.of(world.signer, leaves(20, rewritten=3))
    one, two = world.state(9), other.state(12)
    assert one.size < two.size  # each is happy alone
    for proof in (other.tree.consistency(9, 12), world.tree.consistency(9, 12), ()):
        with pytest.raises(InconsistencyError) as caught:
            advance(one, two.note, proof, world.signer.public)
        assert (caught.value.seen, caught.value.offered) == (one.note, two.note)


def test_rollback(world: World) -> None:
    with pytest.raises(RollbackError) as caught:
        advance(world.state(9), world.note(8), world.tree.consistency(8, 9), world.signer.public)
    assert caught.value.offered == world.note(8)


@pytest.mark.parametrize("damage", ["other origin", "other key", "unsigned", "forged", "empty"])
def test_notes_that_do_not_move_a_witness(damage: str, world: World) -> None:
    note = {
        "other origin": world.note(12, origin="other.example"),
        "other key": World(SoftwareSigner.generate(), world.tree).note(12),
        "unsigned": world.note(12).split(b"\n\n")[0] + b"\n",
        "forged": world.note(12).replace(b"\n12\n", b"\n13\n"),
        "empty": b"",
    }[damage]
    with pytest.raises(CheckpointError):
        advance(world.state(9), note, world.tree.consistency(9, 12), world.signer.public)


@settings(deadline=None)
@given(old=st.integers(1, 19), extra=st.integers(1, 19), rewritten=st.integers(0, 18))
def test_no_rewritten_past_passes(old: int, extra: int, rewritten: int) -> None:
    new = min(20, old + extra)
    signer = SoftwareSigner.generate()
    honest = World.of(signer, leaves(20))
    forged = World.of(signer, leaves(20, rewritten=min(rewritten, old - 1)))
    with pytest.raises((InconsistencyError, ForkError)):
        advance(honest.state(old), forged.note(new), forged.tree.consistency(old, new), signer.public)


def test_strangers_lines_do_not_enter_the_state(world: World) -> None:
    padded = world.note(9) + NoteSignature("stranger.example", b"abcd", bytes(5000)).line().encode() * 9
    state = advance(WitnessState.pinned(ORIGIN), padded, (), world.signer.public)
    assert state.note == world.note(9)


@pytest.mark.parametrize("raw", [b"", b"{}", b'{"note":1,"origin":"o"}', b'{"note":"","origin":"o","x":1}', b"[]"])
def test_damaged_states(raw: bytes, signer: SoftwareSigner) -> None:
    with pytest.raises(MalformedError):
        WitnessState.from_bytes(raw, signer.public)


def test_an_edited_state_is_not_believed(world: World) -> None:
    raw = world.state(9).to_bytes().replace(b"\\n9\\n", b"\\n2\\n")
    with pytest.raises(CheckpointError):
        WitnessState.from_bytes(raw, world.signer.public)


# Cosignatures


def cosigned(world: World, *lines: str, size: int = 9) -> CosignedCheckpoint:
    return CosignedCheckpoint.open(world.note(size) + "".join(lines).encode(), ORIGIN, world.signer.public)


@pytest.fixture
def sites() -> dict[str, SoftwareSigner]:
    return {name: SoftwareSigner.generate() for name in ("a.example", "b.example", "c.example")}


def test_cosignatures_count_distinct_known_witnesses(world: World, sites: dict[str, SoftwareSigner]) -> None:
    checkpoint = world.state(9).checkpoint
    known = Witnesses.of({name: one.public for name, one in sites.items()})
    stranger = cosign(checkpoint, SoftwareSigner.generate(), "d.example", 5)
    lines = [cosign(checkpoint, sites[name], name, time) for name, time in (("a.example", 5), ("b.example", 6))]
    found = cosigned(world, *lines, lines[0], stranger).witnessed_by(known)
    assert found == {"a.example": 5, "b.example": 6}


def test_the_signed_bytes_are_those_of_the_specification(world: World, sites: dict[str, SoftwareSigner]) -> None:
    checkpoint, site = world.state(9).checkpoint, sites["a.example"]
    blob = NoteSignature.from_line(cosign(checkpoint, site, "a.example", 1_700_000_000)).blob
    assert int.from_bytes(blob[:8], "big") == 1_700_000_000
    site.public.verify(blob[8:], b"cosignature/v1\ntime 1700000000\n" + checkpoint.body().encode())


FORGERIES: dict[str, Callable[[Checkpoint, SoftwareSigner], str]] = {
    "over another root": lambda c, s: cosign(Checkpoint(c.origin, c.size, bytes(32)), s, "a.example", 5),
    "over another size": lambda c, s: cosign(Checkpoint(c.origin, c.size + 1, c.root), s, "a.example", 5),
    "over another origin": lambda c, s: cosign(Checkpoint("o.example", c.size, c.root), s, "a.example", 5),
    "time changed": lambda c, s: _edit(cosign(c, s, "a.example", 5), lambda b: b[:7] + b"\x06" + b[8:]),
    "time beyond all calendars": lambda c, s: _edit(cosign(c, s, "a.example", 5), lambda b: b"\xff" * 8 + b[8:]),
    "truncated": lambda c, s: _edit(cosign(c, s, "a.example", 5), lambda b: b[:-1]),
    "lengthened": lambda c, s: _edit(cosign(c, s, "a.example", 5), lambda b: b + b"\0"),
    "zeros": lambda c, s: _edit(cosign(c, s, "a.example", 5), lambda b: bytes(72)),
    "plain note signature": lambda c, s: _edit(
        cosign(c, s, "a.example", 5), lambda b: bytes(8) + s.sign(c.body().encode())
    ),
}


def _edit(line: str, change: Callable[[bytes], bytes]) -> str:
    one = NoteSignature.from_line(line)
    return NoteSignature(one.name, one.id, change(one.blob)).line()


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_cosignatures_of_known_witnesses(name: str, world: World, sites: dict[str, SoftwareSigner]) -> None:
    checkpoint, site = world.state(9).checkpoint, sites["a.example"]
    key = witness_key("a.example", site.public)
    line = FORGERIES[name](checkpoint, site)
    with pytest.raises(NoteError):
        require_cosignature(line, checkpoint, key)
    with pytest.raises(CheckpointError):
        cosigned(world, line).witnessed_by([key])


def test_anothers_line_is_not_mine(world: World, sites: dict[str, SoftwareSigner]) -> None:
    checkpoint = world.state(9).checkpoint
    line = cosign(checkpoint, sites["b.example"], "a.example", 5)  # b's key under a's name: an unknown (name, id)
    key = witness_key("a.example", sites["a.example"].public)
    with pytest.raises(NoteError, match="another key"):
        require_cosignature(line, checkpoint, key)
    assert cosigned(world, line).witnessed_by([key]) == {}


def test_a_witness_has_one_key_and_one_name(sites: dict[str, SoftwareSigner], world: World) -> None:
    public = sites["a.example"].public
    with pytest.raises(PolicyError, match="one key"):
        Witnesses((witness_key("a.example", public), witness_key("b.example", public)))
    with pytest.raises(PolicyError, match="one name"):
        Witnesses((witness_key("a.example", public), witness_key("a.example", sites["b.example"].public)))
    with pytest.raises(PolicyError, match="type 04"):
        Witnesses((log_key(ORIGIN, world.signer.public),))


def test_the_logs_own_signature_is_no_cosignature(world: World) -> None:
    # Even if the log's key were listed as a witness, its note signature has another id and other bytes.
    assert cosigned(world).witnessed_by([witness_key(ORIGIN, world.signer.public)]) == {}


def test_an_empty_tree_has_one_root() -> None:
    assert Checkpoint(ORIGIN, 0, EMPTY_ROOT).size == 0
    with pytest.raises(CheckpointError):
        Checkpoint(ORIGIN, 0, bytes(32))


def test_cosigning_needs_ed25519(world: World) -> None:
    with pytest.raises(NoteError):
        cosign(world.state(9).checkpoint, SoftwareSigner.generate("p256"), "a.example", 5)


def test_a_cosigned_note_is_still_one_note(world: World, sites: dict[str, SoftwareSigner]) -> None:
    line = cosign(world.state(9).checkpoint, sites["a.example"], "a.example", 5)
    raw = world.note(9) + line.encode()
    assert Note.parse(raw).to_bytes() == raw
