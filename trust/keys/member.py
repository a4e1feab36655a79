"""A member's private keys in this process: one for each use.

The uses are never mixed: what a key signs under one use can then never be taken for a statement under another, and a
key that must be online (`cosign`) is not the one whose word binds the institution (`sign`). Where a key lives is the
business of `trust.keys.custody` and `trust.keys.token`; this value only names who can sign and who can open.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .sealing import DEFAULT_SUITE, OpeningKey, SealSuite
from .signing import SignatureAlgorithm, Signer, SoftwareSigner

__all__ = ["MemberKeys", "SIGN_ALGORITHM"]

SIGN_ALGORITHM: Final[dict[SealSuite, SignatureAlgorithm]] = {
    "MLKEM768_X25519": "ed25519",
    "P384": "p384",
    "MLKEM1024_P384": "p384",
}
"""The algorithm of the `sign` key under each sealing suite: one profile per charter."""


@dataclass(frozen=True, slots=True)
class MemberKeys:
    """The private keys of one member; its repr shows public names only.

    ``signer`` speaks for the member, ``cosigner`` counter-signs checkpoints (Ed25519), ``opening`` opens what is sealed
    to the member, ``release`` signs released models (P-256), and ``checkpoint`` (Ed25519) exists at the log's operator.
    """

    signer: Signer
    cosigner: Signer
    opening: OpeningKey
    release: Signer
    checkpoint: Signer | None = None

    @property
    def suite(self) -> SealSuite:
        """The suite of the opening key, which fixes the algorithm of the others."""
        return self.opening.public.suite

    @property
    def key_ids(self) -> frozenset[str]:
        """The names of all the keys: what `KeyHistory.foreign` takes for the keys that I made."""
        signers = [self.signer, self.cosigner, self.release, *([self.checkpoint] if self.checkpoint else [])]
        return frozenset([*(one.public.key_id for one in signers), self.opening.public.key_id])

    @classmethod
    def generate(cls, suite: SealSuite = DEFAULT_SUITE, operator: bool = False) -> MemberKeys:
        """Make fresh keys in memory; ``operator`` adds the log's checkpoint key."""
        return cls(
            signer=SoftwareSigner.generate(SIGN_ALGORITHM[suite]),
            cosigner=SoftwareSigner.generate("ed25519"),
            opening=OpeningKey.generate(suite),
            release=SoftwareSigner.generate("p256"),
            checkpoint=SoftwareSigner.generate("ed25519") if operator else None,
        )

    def __reduce__(self) -> str:
        raise TypeError("private keys are never pickled")
