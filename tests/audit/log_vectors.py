"""Write the vectors of docs/formats/log.md: `python -m counterseal.tests.audit.log_vectors FOLDER`. The same every time."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from counterseal.audit.tlog.checkpoint import Checkpoint, log_key, sign_checkpoint
from counterseal.audit.tlog.cosignature import cosign, witness_key
from counterseal.audit.tlog.log import Log
from counterseal.audit.tlog.merkle import leaf_hash
from counterseal.audit.tlog.note import NoteSignature
from counterseal.audit.tlog.policy import Group, Policy, PolicyWitness
from counterseal.audit.tlog.proof import LogProof
from counterseal.audit.tlog.tree import Tree
from counterseal.trust.keys.signing import SoftwareSigner

ORIGIN = "counterseal.example/federation-7"
SITES = ("site-a.example", "site-b.example", "site-c.example")
TIME = 1_800_000_000
SIZES = (1, 2, 3, 7, 8, 300)
INDEX = 77


def key(number: int) -> SoftwareSigner:
    return SoftwareSigner(Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32))


LOG = key(1)
KEYS = {name: key(number) for number, name in enumerate(SITES, 2)}


def leaf(index: int) -> bytes:
    return b"leaf %d" % index


def policy() -> Policy:
    witnesses = tuple(
        PolicyWitness(name.split(".")[0], witness_key(name, signer.public)) for name, signer in KEYS.items()
    )
    group = Group("sites", 2, tuple(one.name for one in witnesses))
    return Policy((log_key(ORIGIN, LOG.public),), witnesses, (group,), "sites")


def tree() -> dict[str, object]:
    grown = Tree()
    grown.extend(leaf_hash(leaf(index)) for index in range(SIZES[-1]))
    return {
        "leaves": "the ASCII texts `leaf 0`, `leaf 1`, ...",
        "roots": {str(size): grown.root(size).hex() for size in (0, *SIZES)},
        "inclusion": [
            {"index": index, "size": size, "proof": [one.hex() for one in grown.inclusion(index, size)]}
            for size in SIZES
            for index in sorted({0, size // 2, size - 1})
        ],
        "consistency": [
            {"old": old, "new": new, "proof": [one.hex() for one in grown.consistency(old, new)]}
            for old in (0, *SIZES)
            for new in SIZES
            if old <= new
        ],
    }


def proofs() -> dict[str, tuple[str, str, bytes]]:
    """Return name -> (error code or "", leaf, file)."""
    with tempfile.TemporaryDirectory() as folder, Log.open(Path(folder) / "log", ORIGIN, LOG) as log:
        log.append([leaf(index) for index in range(SIZES[-1])])
        log.checkpoint()
        assert log.published is not None
        here, size = log.published, log.size
        lines = [cosign(here, KEYS[name], name, TIME + number) for number, name in enumerate(SITES)]
        hashes, note = log.inclusion(INDEX, size), log.checkpoint_at(size)
    name, signer = SITES[0], KEYS[SITES[0]]
    known = witness_key(name, signer.public)
    stranger = NoteSignature("stranger.example", b"\1\2\3\4", bytes(64)).line()
    forged = NoteSignature(name, known.id, bytes(72)).line()
    elsewhere = cosign(Checkpoint(ORIGIN, size, bytes(32)), signer, name, TIME)
    other_root = sign_checkpoint(Checkpoint(ORIGIN, size, bytes(32)), LOG)
    other_log = sign_checkpoint(Checkpoint("other.example", size, here.root), LOG)

    def file(*cosigned: str, at: int = INDEX, path: tuple[bytes, ...] = hashes, signed: bytes = note) -> bytes:
        return LogProof(at, path, signed + "".join(cosigned).encode()).to_bytes()

    text, good = "leaf 77", file(*lines)
    return {
        "good/all-sites.tlog-proof": ("", text, good),
        "good/two-sites-and-a-stranger.tlog-proof": ("", text, file(*lines[:2], stranger)),
        "good/extra.tlog-proof": ("", text, LogProof(INDEX, hashes, note + "".join(lines).encode(), b"x").to_bytes()),
        "bad/other-leaf.tlog-proof": ("proof", "leaf 78", good),
        "bad/other-index.tlog-proof": ("proof", text, file(*lines, at=78)),
        "bad/index-beyond-the-tree.tlog-proof": ("proof", text, file(*lines, at=300)),
        "bad/hash-missing.tlog-proof": ("proof", text, file(*lines, path=hashes[1:])),
        "bad/hash-added.tlog-proof": ("proof", text, file(*lines, path=(*hashes, bytes(32)))),
        "bad/hashes-swapped.tlog-proof": ("proof", text, file(*lines, path=(hashes[1], hashes[0], *hashes[2:]))),
        "bad/one-site.tlog-proof": ("quorum", text, file(lines[0])),
        "bad/one-site-twice.tlog-proof": ("quorum", text, file(lines[0], cosign(here, signer, name, TIME + 9))),
        "bad/forged-cosignature.tlog-proof": ("checkpoint", text, file(*lines[1:], forged)),
        "bad/cosignature-of-another-root.tlog-proof": ("checkpoint", text, file(*lines[1:], elsewhere)),
        "bad/signed-other-root.tlog-proof": ("checkpoint", text, file(*lines, signed=other_root)),
        "bad/other-origin.tlog-proof": ("checkpoint", text, file(*lines, signed=other_log)),
        "bad/size-changed.tlog-proof": ("checkpoint", text, good.replace(b"\n300\n", b"\n301\n")),
        "bad/unsigned.tlog-proof": ("checkpoint", text, file(*lines).replace(note.split(b"\n\n")[1], b"")),
        "bad/two-origins-lines.tlog-proof": ("checkpoint", text, good.replace(b"\n300\n", b"\n300\n300\n")),
        "bad/index-with-zero.tlog-proof": ("proof", text, good.replace(b"index 77", b"index 077")),
        "bad/loose-base64.tlog-proof": ("proof", text, good.replace(b"=\n", b"\n", 1)),
        "bad/carriage-return.tlog-proof": ("proof", text, good.replace(b"index 77\n", b"index 77\r\n")),
        "bad/version-2.tlog-proof": ("proof", text, good.replace(b"@v1", b"@v2")),
        "bad/empty.tlog-proof": ("proof", text, b""),
    }


def write(folder: Path) -> None:
    index: dict[str, object] = {}
    for name, (error, text, data) in proofs().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        index[name] = {"leaf": text, "error": error}
    (folder / "proofs.json").write_text(json.dumps(index, indent=1) + "\n")
    (folder / "tree.json").write_text(json.dumps(tree(), indent=1) + "\n")
    (folder / "policy.txt").write_text(policy().to_text())


if __name__ == "__main__":
    write(Path(sys.argv[1]))
