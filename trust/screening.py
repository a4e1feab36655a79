"""Screening: which updates a round refuses, and which it shows to a person.

Two kinds of rules that never mix:

- *Hard* rules refuse. Each is exact, the same for everybody, and has a reason code that reaches the site:
  ``not_finite``           an element is NaN or infinite;
  ``norm_bound``           the norm is above the charter's declared bound (times 1 + 2^-16, so that a site that clips to the
                           bound is never refused for rounding);
  ``duplicate_plaintext``  the digest is that of another site's update, of this version or an earlier one, or of an update
                           that the site itself sent for an earlier version.
- *Soft* scores flag. They never refuse: honest sites differ, and a threshold on a statistic would throw out the hospital
  with the rare cases. Every one is a distance from a median in units of a scaled median absolute deviation (MAD), of the
  round and of the site's own past: ``norm_*`` (log of the norm), ``layer_*`` (the largest over layers of the log of the layer's
  part of the norm), ``cosine_*`` (with the previous step, low side only). ``near_duplicate`` is the largest cosine between
  sketches; ``zero_update`` says that nothing changed. A flag that was raised before, too, is *persistent*.

Why no z-scores: one huge norm moves mean and deviation so far that it hides itself (masking; with n values no z-score can
exceed (n-1)/sqrt(n)). Why no "cosine to the others below 0": on non-IID data honest sites do point apart.

Two updates of one version with one digest are *both* refused: who copied cannot be told, and deciding by arrival would let
a fast copier displace its victim. Nobody but the server can read an update before the round is over, so an outsider
cannot make a victim's duplicate; a server that colludes could as well drop it. Not duplicates: updates that change
nothing (norm 0: there is nothing to amplify), and a site's own bytes again for the *same* version (an aborted round, tried
again, trains from the same parent; deterministic training gives the same bytes).

With fewer than four updates a MAD says nothing, so only the site's own past is used; that too from its fourth update on.

Verdicts depend on values only: not on the order of the candidates, and on no clock and no random number.

How often honest sites are flagged (tests/trust/test_screening.py measures it on label-skewed sites): see `Thresholds`.

Not handled here: signature, place, schema and expiry (checked before an update is read), weighing (`algorithms`: the
default rule clips norms), quarantine (a person's decision). An attacker who stays within the honest spread is not seen.
The sketch's signs are public: who knows them can hide a near-duplicate, or imitate one.

Source: DESIGN sections 1 (P6) and 8; Iglewicz, Hoaglin, How to Detect and Handle Outliers, ASQC 1993 (modified z-score, MAD);
Shiffler, Maximum Z Scores and Outliers, The American Statistician 42(1), 1988; Fung, Yoon, Beschastnikh, The Limitations of
Federated Learning in Sybil Settings, RAID 2020 (similar updates of colluders); Shejwalkar, Houmansadr, Manipulating the
Byzantine, NDSS 2021 (what stays within the spread).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Final, Literal, Protocol, TypeAlias

import numpy as np

from .errors import MalformedError

__all__ = [
    "Candidate",
    "Flag",
    "History",
    "Past",
    "Reason",
    "Seen",
    "Statistics",
    "Thresholds",
    "Verdict",
    "examine",
    "screen",
]

Reason: TypeAlias = Literal["not_finite", "norm_bound", "duplicate_plaintext"]

Flag: TypeAlias = Literal[
    "norm_round",
    "norm_own",
    "layer_round",
    "layer_own",
    "cosine_round",
    "cosine_own",
    "near_duplicate",
    "zero_update",
]

_ENOUGH: Final = 4
_MEMORY: Final = 16
_NORMAL: Final = 1.4826  # the MAD of a normal distribution times this is its standard deviation
_ROUNDING: Final = 1.0 + 2.0**-16
_NO_LAYER: Final = 2.0**-20  # a layer's part of the norm below this counts as this: frozen layers have no logarithm


class Statistics(Protocol):
    """What screening reads of an admission pass; `algorithms.statistics.UpdateStatistics` is one."""

    @property
    def finite(self) -> bool:
        """Whether every element is finite."""

    @property
    def norm(self) -> float:
        """L2 norm."""

    @property
    def layer_norms(self) -> tuple[float, ...]:
        """L2 norm of each tensor."""

    @property
    def dot_previous(self) -> float | None:
        """Dot product with the previous step."""

    @property
    def sketch(self) -> tuple[float, ...]:
        """A vector whose inner products estimate those of the updates."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An update to be screened: whose it is, the SHA-256 of its plaintext, its statistics."""

    site: str
    digest: str
    statistics: Statistics


@dataclass(frozen=True, slots=True)
class Seen:
    """Who sent a plaintext, and for which version."""

    site: str
    version: int


@dataclass(frozen=True, slots=True)
class Past:
    """What is remembered of an admitted update of a site."""

    log_norm: float
    profile: tuple[float, ...]
    cosine: float | None
    flags: tuple[Flag, ...] = ()


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Where scores begin to flag. They are no promise: a flag asks a person to look.

    Measured on honest sites with Dirichlet(0.3) label skew, a tenfold spread of sizes and 20 rounds, in 20 federations each of
    5 and of 10 sites: 0.2 % and 0.5 % of updates were flagged (worst federation 1 % and 5.5 %), 0 and 0.3 % persistently
    (worst 4 %: one site of ten whose norms are lower for good). The test repeats three of them.
    """

    norm: float = 6.0
    layer: float = 8.0
    cosine: float = 4.0
    similarity: float = 0.98
    """Cosine of two sketches above which two updates are near-duplicates."""
    spread_floor: float = 0.2
    """Least scale, in log norm and in cosine: twice or half the median norm is never far, however alike the others are."""
    memory: int = _MEMORY
    """How many of a site's last updates are its past."""
    persistence: int = 2
    """A flag is persistent if at least so many of the site's last three updates carried it, too."""


@dataclass(frozen=True, slots=True)
class History:
    """What earlier rounds left: a value, folded forward with `after`."""

    version: int = 0
    """The version whose updates are screened now."""
    previous_norm: float | None = None
    """L2 norm of the previous step of the global model, if there was one."""
    seen: Mapping[str, tuple[Seen, ...]] = field(default_factory=dict)
    """Every plaintext digest that was ever read, refused ones too, but not those of this call's candidates."""
    past: Mapping[str, tuple[Past, ...]] = field(default_factory=dict)
    """Each site's admitted updates, oldest first."""

    def after(
        self,
        candidates: Sequence[Candidate],
        verdicts: Mapping[str, Verdict],
        *,
        step_norm: float | None,
        committed: bool = True,
        memory: int = _MEMORY,
    ) -> History:
        """Return the history once a round over ``candidates`` is over; ``step_norm`` is that of the step it made."""
        seen, past = dict(self.seen), dict(self.past)
        for one in sorted(candidates, key=lambda candidate: candidate.site):
            seen[one.digest] = (*seen.get(one.digest, ()), Seen(one.site, self.version))
            verdict = verdicts[one.site]
            if verdict.admit and one.statistics.norm > 0:
                remembered = _remember(one.statistics, self.previous_norm, verdict.flags)
                past[one.site] = (*past.get(one.site, ()), remembered)[-memory:]
        version, norm = (self.version + 1, step_norm) if committed else (self.version, self.previous_norm)
        return History(version, norm, seen, past)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What screening says of one update: ``reasons`` refuse it, ``flags`` show it to a person."""

    reasons: tuple[Reason, ...]
    flags: tuple[Flag, ...] = ()
    persistent: tuple[Flag, ...] = ()
    scores: Mapping[Flag, float] = field(default_factory=dict)

    @property
    def admit(self) -> bool:
        """Whether no hard rule refuses the update."""
        return not self.reasons


def examine(candidate: Candidate, history: History, norm_bound: float) -> tuple[Reason, ...]:
    """Return the reasons to refuse ``candidate`` that can be told without the others of its round."""
    statistics = candidate.statistics
    finite = statistics.finite and math.isfinite(statistics.norm)
    reasons: list[Reason] = []
    if not finite:
        reasons.append("not_finite")
    elif not statistics.norm <= norm_bound * _ROUNDING:
        reasons.append("norm_bound")
    earlier = history.seen.get(candidate.digest, ())
    if statistics.norm != 0 and any(one.site != candidate.site or one.version != history.version for one in earlier):
        reasons.append("duplicate_plaintext")
    return tuple(reasons)


def screen(
    candidates: Sequence[Candidate],
    history: History,
    norm_bound: float,
    thresholds: Thresholds | None = None,
) -> dict[str, Verdict]:
    """Return the verdict on each of a round's candidates, by site.

    norm_bound: the charter's declared bound, L2, in the units of the parameters.

    Raises:
        MalformedError: a site is there twice, statistics of different models, or a bound that is no bound.
    """
    ordered = sorted(candidates, key=lambda candidate: candidate.site)
    _check(ordered, norm_bound)
    limits = Thresholds() if thresholds is None else thresholds
    refused = {one.site: _reasons(one, ordered, history, norm_bound) for one in ordered}
    sound = [one for one in ordered if not refused[one.site]]
    moving = [one for one in sound if one.statistics.norm > 0]
    now = {one.site: _remember(one.statistics, history.previous_norm) for one in moving}
    alike = _similarities(moving)
    found = {}
    for one in ordered:
        if refused[one.site]:
            found[one.site] = Verdict(refused[one.site])
        elif one.site not in now:
            found[one.site] = Verdict((), ("zero_update",), scores={"zero_update": 1.0})
        else:
            past = history.past.get(one.site, ())[-limits.memory :]
            scores = dict(_scores(now[one.site], list(now.values()), past, limits.spread_floor))
            if one.site in alike:
                scores["near_duplicate"] = alike[one.site]
            found[one.site] = _soft(scores, past, limits)
    return found


def _check(ordered: Sequence[Candidate], norm_bound: float) -> None:
    if not norm_bound > 0:
        raise MalformedError("the norm bound is not a positive number", where="screening")
    for one, two in pairwise(ordered):
        if one.site == two.site:
            raise MalformedError(f"{one.site[:64]} is there twice", where="screening")
        first, second = one.statistics, two.statistics
        if len(first.layer_norms) != len(second.layer_norms) or len(first.sketch) != len(second.sketch):
            raise MalformedError("statistics of models with different tensors", where="screening")


def _reasons(
    candidate: Candidate, candidates: Sequence[Candidate], history: History, norm_bound: float
) -> tuple[Reason, ...]:
    reasons = examine(candidate, history, norm_bound)
    if "duplicate_plaintext" in reasons or candidate.statistics.norm == 0:
        return reasons
    copied = any(one.digest == candidate.digest and one.site != candidate.site for one in candidates)
    return (*reasons, "duplicate_plaintext") if copied else reasons


def _remember(statistics: Statistics, previous_norm: float | None, flags: tuple[Flag, ...] = ()) -> Past:
    norm = statistics.norm
    cosine = None
    if statistics.dot_previous is not None and previous_norm is not None and previous_norm > 0:
        cosine = max(-1.0, min(1.0, statistics.dot_previous / norm / previous_norm))
    profile = tuple(math.log(max(layer / norm, _NO_LAYER)) for layer in statistics.layer_norms)
    return Past(math.log(norm), profile, cosine, flags)


def _scores(mine: Past, everybody: Sequence[Past], own: Sequence[Past], floor: float) -> Iterator[tuple[Flag, float]]:
    """Yield the scores for which there is enough to compare with."""
    comparisons: tuple[tuple[Flag, Flag, Flag, Sequence[Past]], ...] = (
        ("norm_round", "layer_round", "cosine_round", everybody),
        ("norm_own", "layer_own", "cosine_own", own),
    )
    for norm, layer, cosine, others in comparisons:
        if len(others) >= _ENOUGH:
            yield norm, _distance(mine.log_norm, [one.log_norm for one in others], floor)
            if far := _farthest(mine.profile, [one.profile for one in others], floor):
                yield layer, far
        cosines = [one.cosine for one in others if one.cosine is not None]
        if mine.cosine is not None and len(cosines) >= _ENOUGH:
            yield cosine, _distance(mine.cosine, cosines, floor)


def _distance(value: float, sample: Sequence[float], floor: float) -> float:
    """Return how many scaled MADs ``value`` lies above the median of ``sample``; negative below it."""
    middle = median(sample)
    spread = _NORMAL * median(abs(one - middle) for one in sample)
    return (value - middle) / max(spread, floor)


def _farthest(profile: tuple[float, ...], sample: Sequence[tuple[float, ...]], floor: float) -> float:
    """Return the largest distance over the layers; a past of a model with other layers says nothing."""
    if not profile or any(len(one) != len(profile) for one in sample):
        return 0.0
    columns = zip(*sample, strict=True)
    return max(abs(_distance(mine, layer, floor)) for mine, layer in zip(profile, columns, strict=True))


def _similarities(candidates: Sequence[Candidate]) -> dict[str, float]:
    """Return each site's largest cosine with another's sketch; nothing for fewer than two."""
    rows = [one for one in candidates if any(one.statistics.sketch)]
    if len(rows) < 2:
        return {}
    sketches = np.array([one.statistics.sketch for one in rows], dtype=np.float64)
    sketches /= np.linalg.norm(sketches, axis=1, keepdims=True)
    cosines = sketches @ sketches.T
    np.fill_diagonal(cosines, -1.0)
    return {one.site: float(value) for one, value in zip(rows, cosines.max(axis=1), strict=True)}


def _soft(scores: Mapping[Flag, float], past: Sequence[Past], limits: Thresholds) -> Verdict:
    raised: list[Flag] = []
    for flag, score in scores.items():
        over = {
            "norm": abs(score) > limits.norm,
            "layer": score > limits.layer,
            "cosine": score < -limits.cosine,
            "near": score > limits.similarity,
        }
        if over[flag.split("_")[0]]:
            raised.append(flag)
    recent = past[-3:]
    again = [flag for flag in raised if sum(flag in one.flags for one in recent) >= limits.persistence]
    return Verdict((), tuple(sorted(raised)), tuple(sorted(again)), scores)
