"""What would have to differ: requests near a denied one that the policy allows.

`flips` changes one fact at a time (every yes or no, the privacy terms, names that the policy itself mentions, numbers up or down
to the first that passes), asks the policy, and tells which change turns the answer; if none does, it tries two at a time. It
does not read the policy's conditions, so what it says is what the policy answers. What it does not find may still exist.

Numbers are looked for by halving, which finds the limit where there is one limit; and one changed fact is not always a possible
one: more noise, for example, would change the epsilon as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, get_args

from pydantic import ValidationError

from ..terms import MechanismName, PrivacyTerms
from .lints import walk
from .policy import SitePolicy
from .request import PolicyRequest

__all__ = ["flips", "typical_terms"]

_FLAGS = ("public", "anchored", "commit_before_upload", "auditor", "server_validates_updates", "unprotected_allowed")
_NAMES = (
    "server",
    "federation",
    "group_source",
    "dataset",
    "population",
    "unit",
    "charter",
    "run",
    "rule",
    "trainer",
    "model",
)
_NOISE = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 16.0)
_WORDS = 40  # of the policy's own names tried
_PAIRS = 60  # changes tried two at a time
_TOLD = 3  # pairs told


@dataclass(frozen=True, slots=True)
class _Change:
    text: str
    apply: Callable[[PolicyRequest], PolicyRequest]
    group: str = ""
    """Of one group only the first that helps is told: the smallest step."""


def flips(policy: SitePolicy, request: PolicyRequest) -> tuple[str, ...]:
    """Return changes of ``request``, each of which alone (or, if none does, two of which) would be allowed."""
    changes = list(_changes(policy, request))
    single: dict[str, str] = {}
    for change in changes:
        if policy.decide(change.apply(request)).allowed:
            single.setdefault(change.group or change.text, change.text)
    limits = {"epsilon_run": _epsilon, "epsilon_after": _budget, "releases": _releases}
    single |= {group: text for group, limit in limits.items() if (text := limit(policy, request))}
    if single:
        return tuple(single.values())
    pairs = (
        f"{one.text}, and {two.text}"
        for one, two in combinations(changes[:_PAIRS], 2)
        if policy.decide(two.apply(one.apply(request))).allowed
    )
    return tuple(text for text, _ in zip(pairs, range(_TOLD), strict=False))


def typical_terms(mechanism: MechanismName = "dp-sgd", **changes: Any) -> PrivacyTerms:
    """Return terms of ``mechanism`` as a run could have them.

    Raises:
        ValidationError: ``changes`` that do not go together.
    """
    values: dict[str, Any] = {"mechanism": mechanism, "clip_norm": 1.0, "noise_multiplier": 1.0, "releases": 10}
    if mechanism == "dp-sgd":
        values |= {"delta": 1e-5, "steps": 100, "sampling_rate": 0.01}
    else:
        values |= {"unit": "site", "adjacency": "any", "delta": 0.0 if mechanism == "output-laplace" else 1e-5}
    return PrivacyTerms(**{**values, **changes})


def _changes(policy: SitePolicy, request: PolicyRequest) -> Iterator[_Change]:
    for flag in _FLAGS:
        new = not getattr(request, flag)
        yield _Change(f"{flag} were {str(new).lower()}", _setting(**{flag: new}))
    yield from _term_changes(request)
    names = [name for name in _words(policy) if 0 < len(name) <= 300][:_WORDS]
    for fact in _NAMES:
        for name in names:
            if name != getattr(request, fact):
                yield _Change(f"{fact} were {name!r}", _setting(**{fact: name}))


def _term_changes(request: PolicyRequest) -> Iterator[_Change]:
    terms = request.terms
    if terms is None:
        for mechanism in get_args(MechanismName):
            text = f"the run had privacy terms ({mechanism}, epsilon 1)"
            unit = {"unit": request.unit} if mechanism == "dp-sgd" and request.unit else {}
            terms_ = typical_terms(mechanism, **unit)
            yield _Change(text, _setting(private=True, terms=terms_, epsilon_run=1.0))
        return
    yield _Change("the run had no privacy terms", _setting(private=False, terms=None, epsilon_run=None))
    yield _Change("epsilon_run were lower", _setting(epsilon_run=0.0), "epsilon_run")
    for mechanism in get_args(MechanismName):
        if mechanism != terms.mechanism:
            yield _Change(
                f"mechanism were {mechanism}", _setting(terms=typical_terms(mechanism, releases=terms.releases))
            )
    if request.unit != terms.unit:
        yield _Change(f"the data's unit were {terms.unit!r}", _setting(unit=terms.unit))
    tries: list[tuple[str, Any]] = [("unit", request.unit), ("adjacency", "replace-one"), ("adjacency", "add-remove")]
    tries += [("delta", float(f"1e-{power}")) for power in range(1, 21) if float(f"1e-{power}") < terms.delta]
    tries += [("noise_multiplier", noise) for noise in _NOISE if noise > terms.noise_multiplier]
    for field, value in tries:
        if _terms(terms, field, value) is not None:
            group = field if isinstance(value, float) else ""
            yield _Change(f"{field} were {value!s}", _setting_terms(field, value), group)


def _terms(terms: PrivacyTerms, field: str, value: Any) -> PrivacyTerms | None:
    try:
        return PrivacyTerms(**{**terms.model_dump(), field: value})
    except ValidationError:
        return None


def _setting(**facts: Any) -> Callable[[PolicyRequest], PolicyRequest]:
    return lambda request: replace(request, **facts)


def _setting_terms(field: str, value: Any) -> Callable[[PolicyRequest], PolicyRequest]:
    def apply(request: PolicyRequest) -> PolicyRequest:
        changed = None if request.terms is None else _terms(request.terms, field, value)
        return request if changed is None else replace(request, terms=changed)

    return apply


def _words(policy: SitePolicy) -> list[str]:
    """Return the texts and entity names in the policies, in their order, once each."""
    found: dict[str, None] = {}
    for one in policy.policies:
        for node in walk({name: part for name, part in one.parsed.form.items() if name != "annotations"}):
            if isinstance(node, dict):
                value = node.get("Value")
                named = node.get("id") if "Action" not in str(node.get("type")) else None
                found |= dict.fromkeys(word for word in (value, named) if isinstance(word, str))
    return list(found)


def _epsilon(policy: SitePolicy, request: PolicyRequest) -> str:
    if request.epsilon_run is None:
        return ""
    limit = _limit(policy, request.epsilon_run, lambda value: replace(request, epsilon_run=value))
    return "" if limit is None else f"epsilon_run were at most {limit}"


def _budget(policy: SitePolicy, request: PolicyRequest) -> str:
    if request.epsilon_after is None:
        return ""
    limit = _limit(policy, request.epsilon_after, lambda value: replace(request, epsilon_after=value))
    return "" if limit is None else f"epsilon_after were at most {limit}"


def _releases(policy: SitePolicy, request: PolicyRequest) -> str:
    if (terms := request.terms) is None:
        return ""
    low, high = 0, terms.releases
    while high - low > 1:
        middle = (low + high) // 2
        changed = replace(request, terms=_terms(terms, "releases", middle))
        low, high = (middle, high) if policy.decide(changed).allowed else (low, middle)
    return f"releases were at most {low}" if low else ""


def _limit(policy: SitePolicy, value: float, make: Callable[[float], PolicyRequest]) -> float | None:
    """Return the largest number below ``value`` that is allowed, on the policy's grid of 0.0001; None if 0 is not."""
    if not 0 <= value < 1e11 or not policy.decide(make(0.0)).allowed:
        return None
    low, high = 0, int(value * 10_000) + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if policy.decide(make(middle / 10_000)).allowed else (low, middle)
    return low / 10_000
