"""What a site asks its policy: facts that the site itself computed or read from signed, logged documents.

`question` turns a `PolicyRequest` into the entities and the context that the schema (schema.cedarschema) promises. It builds
JSON values, never Cedar text, so that no name can become part of a policy. Whatever it cannot turn into a valid value (NaN, a
negative count, a control character, terms without an epsilon) is a `SitePolicyError`, and for whoever asked the policy a "no".

The privacy terms of a run are one value here: present in full, or absent. So a policy cannot meet a mechanism without its
epsilon. Where something is trained they are there exactly if the run is ``private``; where nothing is priced (``receive``) a
private run may come without them, and ``private`` still says that it is one.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias, get_args

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ..canonical import parse
from ..errors import SitePolicyError
from ..terms import PrivacyTerms
from .numbers import decimal_down, decimal_up, delta_exponent, whole

__all__ = ["ACTIONS", "Action", "PolicyRequest", "question", "read_request"]

Action: TypeAlias = Literal["train", "evaluate", "receive", "releaseMetrics"]
ACTIONS: tuple[Action, ...] = get_args(Action)

_NAMESPACE = "Counterseal"
_LONGEST = 300  # characters of a name
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp", "Co", "Cn"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRequest:
    """One thing that a site is asked to do. Optional facts are None where the site does not know them."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    action: Action
    """``train`` (release an update), ``evaluate`` (compute metrics and keep them), ``releaseMetrics`` (send exact metrics),
    ``receive`` (take the final model)."""
    server: str
    """Identity of the server that signed the ticket."""
    federation: str
    group_source: str
    """Where today's membership was asked: ``globus``, ``roster``, ..."""
    dataset: str
    """The name of the site's data."""
    public: bool = False
    """Whether these data are public."""
    population: str | None = None
    """Whose budget this is."""
    unit: str | None = None
    """What the loader gives as one record."""
    charter: str
    """Digest of the charter in force."""
    run: str
    version: int
    """The version of the model that the work starts from."""
    release: int | None = None
    """Which release of this run this would be, from 1."""
    private: bool
    """Whether the run has privacy terms; if not, what leaves in it is exact."""
    terms: PrivacyTerms | None = None
    """The run's privacy terms for this site: to ``train`` in a private run they are needed."""
    epsilon_run: float | None = None
    """The epsilon of all releases of the run together, computed by this site; with ``terms`` only, and then needed."""
    epsilon_after: float | None = None
    """The epsilon of the population after this run is reserved, over all federations; with ``epsilon_cap`` or not at all."""
    epsilon_cap: float | None = None
    """The population's cap in the ledger."""
    rule: str | None = None
    """The aggregation rule."""
    trainer: str | None = None
    model: str | None = None
    anchored: bool
    """Whether the ledger has an anchor outside its disk; False without a ledger."""
    commit_before_upload: bool
    """Charter: updates are committed to in the log before they are uploaded."""
    auditor: bool
    """Charter: an auditor can open what was sealed."""
    server_validates_updates: bool
    """Charter: the server looks at single updates to judge them."""
    unprotected_allowed: bool
    """Configuration of this site: it takes part in runs without privacy terms."""


def read_request(data: bytes) -> PolicyRequest:
    """Return the request that a JSON document spells, for `policy explain`.

    Raises:
        MalformedError: not strict JSON.
        SitePolicyError: not a request; ``where`` names the field.
    """
    parse(data, limit=1 << 16, what="request")
    try:
        return TypeAdapter(PolicyRequest).validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "request"
        raise SitePolicyError(ascii(first["msg"])[1:-1][:300], where=ascii(field)[1:-1][:100]) from None


def question(request: PolicyRequest) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return Cedar's request and entities.

    Raises:
        SitePolicyError: a fact that no schema-valid value stands for; ``where`` names it.
    """
    if request.action not in ACTIONS:
        raise SitePolicyError("not an action", where="action")
    server, dataset = _entity("Server", request.server, "server"), _entity("Dataset", request.dataset, "dataset")
    facts = {
        "federation": _name(request.federation, "federation"),
        "group_source": _name(request.group_source, "group_source"),
    }
    data = {
        "public": _flag(request.public, "public"),
        **_known(population=request.population, unit=request.unit),
    }
    entities: list[dict[str, Any]] = [
        {"uid": server, "attrs": facts, "parents": []},
        {"uid": dataset, "attrs": data, "parents": []},
    ]
    action = {"type": f"{_NAMESPACE}::Action", "id": request.action}
    return {"principal": server, "action": action, "resource": dataset, "context": _context(request)}, entities


def _context(request: PolicyRequest) -> dict[str, Any]:
    flags = (
        "private",
        "anchored",
        "commit_before_upload",
        "auditor",
        "server_validates_updates",
        "unprotected_allowed",
    )
    context: dict[str, Any] = {name: _flag(getattr(request, name), name) for name in flags}
    context |= {name: _name(getattr(request, name), name) for name in ("federation", "charter", "run")}
    context |= _known(rule=request.rule, trainer=request.trainer, model=request.model)
    context["version"] = whole(request.version, "version")
    if request.release is not None:
        context["release"] = whole(request.release, "release")
    if request.private != (request.terms is not None) and (request.action == "train" or not request.private):
        raise SitePolicyError("a private run has privacy terms, and no other", where="terms")
    if request.terms is not None:
        context["privacy"] = _privacy(request.terms, request.epsilon_run)
    elif request.epsilon_run is not None:
        raise SitePolicyError("an epsilon without privacy terms", where="epsilon_run")
    if (request.epsilon_after, request.epsilon_cap) != (None, None):
        after, cap = (
            decimal_up(request.epsilon_after, "epsilon_after"),
            decimal_down(request.epsilon_cap, "epsilon_cap"),
        )
        context["budget"] = {"epsilon_after": _extension(after), "epsilon_cap": _extension(cap)}
    return context


def _privacy(terms: PrivacyTerms, epsilon: float | None) -> dict[str, Any]:
    if type(terms) is not PrivacyTerms:
        raise SitePolicyError("not privacy terms", where="terms")
    if epsilon is None:
        raise SitePolicyError("privacy terms without the epsilon of the run", where="epsilon_run")
    return {
        "mechanism": _name(terms.mechanism, "mechanism"),
        "unit": _name(terms.unit, "unit"),
        "adjacency": _name(terms.adjacency, "adjacency"),
        "epsilon_run": _extension(decimal_up(epsilon, "epsilon_run")),
        "delta_exponent": delta_exponent(terms.delta),
        "noise_multiplier": _extension(decimal_down(terms.noise_multiplier, "noise_multiplier")),
        "clip_norm": _extension(decimal_up(terms.clip_norm, "clip_norm")),
        "sampling_rate": _extension(decimal_up(terms.sampling_rate, "sampling_rate")),
        "steps": whole(terms.steps, "steps"),
        "releases": whole(terms.releases, "releases"),
    }


def _extension(decimal: str) -> dict[str, Any]:
    return {"__extn": {"fn": "decimal", "arg": decimal}}


def _entity(kind: str, name: str, what: str) -> dict[str, str]:
    return {"type": f"{_NAMESPACE}::{kind}", "id": _name(name, what)}


def _known(**names: str | None) -> dict[str, str]:
    return {what: _name(name, what) for what, name in names.items() if name is not None}


def _name(value: object, what: str) -> str:
    if type(value) is not str or not 0 < len(value) <= _LONGEST:
        raise SitePolicyError(f"not a text of 1 to {_LONGEST} characters", where=what)
    if any(unicodedata.category(character) in _HIDDEN for character in value):
        raise SitePolicyError("a control, format or unassigned character in a name", where=what)
    return value


def _flag(value: object, what: str) -> bool:
    if type(value) is not bool:
        raise SitePolicyError("neither true nor false", where=what)
    return value
