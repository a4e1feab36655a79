"""The arithmetic of quorums: how many cosignatures make one history.

Let n members cosign, let at most f of them sign whatever suits them (the server operator's own site is counted among
the f), and let a checkpoint count once k of them have cosigned it. An honest member never cosigns two checkpoints that
are inconsistent with each other. Then

    any two sets of k out of n share at least 2k - n members   (|A and B| = |A| + |B| - |A or B| >= k + k - n),
    so if 2k - n > f, that is 2k > n + f, they share an honest one,

and two inconsistent checkpoints can never both have a quorum. The bound is sharp: with 2k <= n + f there are two sets
that share liars only. f >= 1 is demanded because the operator of the log is the party the quorum exists to watch.

Safety only. A quorum lasts through n - k absent members; who cannot reach it waits and reports. Whether a cosignature
is valid, and whose it is, is decided before anybody is counted here.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from ..errors import CharterError

__all__ = ["Quorum"]


@dataclass(frozen=True, slots=True)
class Quorum:
    """k of n members, of whom f may lie.

    Raises:
        CharterError: numbers that describe no quorum at all (1 <= k <= n, 1 <= f <= n).
    """

    k: int
    n: int
    f: int

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.n:
            raise CharterError(f"k = {self.k} of n = {self.n} is no quorum", where="quorum.k")
        if not 1 <= self.f <= self.n:
            raise CharterError(
                f"f = {self.f} of n = {self.n}: at least the server operator must be assumed able to lie",
                where="quorum.f",
            )

    @property
    def overlap(self) -> int:
        """Members that any two quorums share at least."""
        return max(0, 2 * self.k - self.n)

    def intersects_in_honest(self) -> bool:
        """Whether any two quorums share a member that does not lie: 2k > n + f."""
        return 2 * self.k > self.n + self.f

    def lasts_without(self) -> int:
        """Return how many members may be away before nothing is witnessed any more: n - k."""
        return self.n - self.k

    def met(self, by: Set[str], members: Set[str]) -> bool:
        """Whether the parties in ``by`` that are among the n ``members`` are at least k: strangers never count.

        Raises:
            CharterError: ``members`` are not the n that this quorum was made for.
        """
        if len(members) != self.n:
            raise CharterError(f"{len(members)} members counted against a quorum of n = {self.n}", where="quorum")
        return len(by & members) >= self.k

    @staticmethod
    def smallest_k(n: int, f: int) -> int | None:
        """Return the least k with 2k > n + f, or nothing if even unanimity is too little."""
        k = (n + f) // 2 + 1
        return k if k <= n else None
