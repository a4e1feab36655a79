"""Targets of privacy: entries and files of the ledger, marks of an anchor, policies, requests, terms, tables of a rule's state.

Whoever damages or forges one of these must not get more than a typed error: a ledger that opens is a verified chain that its
anchor agrees to, a policy that loads decides every request, terms that two readers take are the same terms to both.
"""

from __future__ import annotations

import json
import os
import sqlite3
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from counterseal.algorithms.rule import CohortRule, make_rule
from counterseal.audit.checks.privacy_checks import check_privacy, terms_of
from counterseal.audit.events import ReceiptFile, RunStart
from counterseal.privacy.ledger.anchor import Mark
from counterseal.privacy.ledger.balance import history
from counterseal.privacy.ledger.book import Book
from counterseal.privacy.ledger.entry import Entry
from counterseal.privacy.ledger.ledger import Ledger, read_entries
from counterseal.privacy.ledger.path_anchor import PathAnchor
from counterseal.runtime.accounts import accounts
from counterseal.runtime.config.privacy import RunPrivacy
from counterseal.runtime.rule_state import Made, NoiseState, Row, RuleState
from counterseal.runtime.site.price import price_of
from counterseal.tests.federation import START
from counterseal.tests.formats import samples
from counterseal.tests.formats.write import DP_SGD, OUTPUT
from counterseal.tests.privacy.ledger_world import digest, order, ticket
from counterseal.tests.trust.policy_world import BASE
from counterseal.trust.canonical import canonical, parse
from counterseal.trust.policy.lints import lints
from counterseal.trust.policy.policy import SitePolicy, default_text
from counterseal.trust.policy.request import ACTIONS, question, read_request
from counterseal.trust.terms import PrivacyTerms

from .target import Target, require, same_model, taken
from .world import ME, VECTORS, folder

__all__ = ["TARGETS"]


# Ledger


@cache
def _played() -> Path:
    """Return a folder with a ledger that a few runs used, and its anchor."""
    root = folder()
    for path in (_file(root).parent, _marked(root).parent):
        path.mkdir(parents=True)
    real, os.fsync = os.fsync, _nothing
    try:
        ledger = Ledger.create(_file(root), PathAnchor(_marked(root)), clock=lambda: START)
        ledger.set_population("people", unit="record", adjacency="add-remove", epsilon=4.0, delta=1e-5)
        ledger.set_population("patients", unit="patient", adjacency="add-remove", epsilon=50.0, delta=1e-4)
        ledger.map_dataset("data", "patients")
        ledger.reserve_run(order(releases=3))
        ledger.reserve(ticket(0))
        ledger.settle(digest(0), "released")
        ledger.reserve(ticket(1))
    finally:
        os.fsync = real
    return root


def _file(root: Path) -> Path:
    return root / "ledger" / "ledger.sqlite"


def _marked(root: Path) -> Path:
    return root / "anchor" / "mark"


def _nothing(fd: object) -> None:
    """Sync nothing."""


@cache
def _entries() -> tuple[Entry, ...]:
    return tuple(read_entries(_file(_played())))


def _entry(data: bytes) -> None:
    found = taken(lambda: Entry.parse(data))
    if found is None:
        return
    again = Entry.make(found.counter, found.kind, found.previous, found.time, found.body)
    require((again.raw, again.digest, again == found) == (data, found.digest, True), "an entry with two spellings")
    for before in (_entries()[:1], _entries()):
        book = Book.of(before)
        if taken(lambda book=book: book.add(found)) is not None:  # type: ignore[misc]
            require(book.mark.head == found.digest, "a book that ends elsewhere")


def _entry_seeds() -> list[bytes]:
    vectors = (VECTORS / "ledger" / "good.jsonl").read_bytes().splitlines()
    odd = {**json.loads(_entries()[0].raw), "kind": []}
    return [*vectors, *(entry.raw for entry in _entries()), canonical(odd)]


def _mark(data: bytes) -> None:
    found = taken(lambda: Mark.parse(data, "here"))
    if found is not None:
        require(found.to_bytes() == data, "a mark with two spellings")
    path = _scratch() / "mark"
    path.write_bytes(data)
    require(taken(PathAnchor(path).read) == found, "the file says another mark than its bytes")


@cache
def _scratch() -> Path:
    return folder()


def _mark_seeds() -> list[bytes]:
    return [Mark("0" * 64, 1, "f" * 64).to_bytes(), _marked(_played()).read_bytes()]


def _ledger(data: bytes) -> None:
    """Open a damaged file beside the anchor that knows the whole one: refused, or nothing is missing."""
    path, anchor = _scratch() / "ledger.sqlite", PathAnchor(_marked(_played()))
    for old in _scratch().glob("ledger.sqlite*"):
        old.unlink()
    path.write_bytes(data)
    mark = anchor.read()
    found = taken(lambda: Ledger.open(path, anchor, patience=0.1))
    require(anchor.read() == mark, "a file that was refused or whole moved the anchor")
    if found is not None:
        entries = taken(found.export)
        require(entries is not None and tuple(entries) == _entries(), "opened, and not what its anchor saw")
        require([one.name for one in found.balances()] == ["patients", "people"], "other populations")
        require(set(history(entries or ())) == {"patients", "people"}, "another history")
    taken(lambda: read_entries(path))


def _ledger_seeds() -> list[bytes]:
    whole = _file(_played())
    other = _scratch() / "other.sqlite"
    other.unlink(missing_ok=True)
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE entries (counter INTEGER PRIMARY KEY, digest, entry)")
        connection.execute("INSERT INTO entries VALUES (1, 2, 3)")
    connection.close()
    quoted = whole.read_bytes().replace(b"TABLE entries", b"T\xbe\xbeLE entries")  # sqlite quotes it in its message
    return [whole.read_bytes(), other.read_bytes(), quoted]


# Policy


def _policy(data: bytes) -> None:
    found = taken(lambda: SitePolicy(data))
    if found is None:
        return
    require(SitePolicy(data).digest == found.digest, "one file, two digests")
    lints(found)
    for request in _requests():
        verdict = found.decide(request)
        require(not verdict.allowed or (verdict.reasons and not verdict.errors), "allowed without a reason")
        known = {one.id for one in found.policies} | {"builtin:epsilon-cap"}
        require(set(verdict.reasons) <= known, "a reason that nobody wrote")


@cache
def _requests() -> tuple[Any, ...]:
    from dataclasses import replace

    over = replace(BASE, epsilon_after=9.0, epsilon_cap=8.0)
    bare = replace(BASE, private=False, terms=None, epsilon_run=None)
    return (BASE, over, bare, *(replace(bare, action=action) for action in ACTIONS[1:]))


def _policy_seeds() -> list[bytes]:
    text = default_text()
    small = b'@id("a") permit (principal, action == Counterseal::Action::"train", resource) when { context.private };\n'
    less = b'@id("b") forbid (principal, action, resource) unless { context has budget && context.budget.epsilon_after.lessThan(decimal("3.5")) };'  # noqa: E501
    return [text, small, small + less, b'@id("c") permit (principal, action, resource);']


def _request(data: bytes) -> None:
    found = taken(lambda: read_request(data))
    if found is None:
        return
    asked = taken(lambda: question(found))
    verdict = _default().decide(found)
    require(asked is not None or (verdict.errors and not verdict.allowed), "decided what cannot be asked")
    if verdict.allowed and found.action == "train" and found.private:
        require(found.epsilon_run is not None and found.epsilon_run <= 8, "the default policy allowed too much")


@cache
def _default() -> SitePolicy:
    return SitePolicy.default()


def _request_seeds() -> list[bytes]:
    found = []
    for one in _requests():
        value = asdict(one)
        value["terms"] = None if one.terms is None else one.terms.model_dump(mode="json")
        found.append(json.dumps(value).encode())
    return found


# Terms

_STEPS = 200
"""Of all releases together, to be priced here: the accounting of long runs takes seconds."""


def _terms(data: bytes) -> None:
    value = taken(lambda: parse(data))
    run = taken(lambda: RunPrivacy.from_json(value))
    alone = taken(lambda: PrivacyTerms.from_json(value))
    for model in (run, alone):
        if model is not None:
            same_model(model)
    logged = taken(lambda: (terms_of({"privacy": value}, ME),))
    if run is not None and value is not None:
        require(logged == (run.of(ME),), "the configuration and the log have other terms")
    if isinstance(value, dict):
        _audited(value)
    if alone is not None and alone.steps * alone.releases <= _STEPS:
        price = taken(lambda: price_of(alone, None, 21))
        stated = None if price is None else taken(lambda: price.stated(alone.releases))
        require(stated is None or 0 <= stated["epsilon"] < float("inf"), "a stated epsilon that is none")


def _audited(value: dict[str, Any]) -> None:
    """Read what a log says of a run with these terms, as the verifier and the report do."""
    start = samples.event("run.start", config={"name": "run-1", "privacy": value})
    spending = {"policy": "0" * 64, "ledger": "1" * 64, "releases": 1, "epsilon": 0.5, "delta": 1e-5}
    receipt = samples.event("receipt.file", actor="east", spending=spending)
    require(isinstance(start, RunStart) and isinstance(receipt, ReceiptFile), "the samples")
    check_privacy([_At(0, start), _At(1, receipt)])  # type: ignore[list-item]
    terms = taken(lambda: terms_of({"privacy": value}, "east"))
    if terms is not None and terms.steps * terms.releases <= _STEPS:
        taken(lambda: accounts([(0, start), (1, receipt)]))


class _At:
    """An event at its index."""

    def __init__(self, index: int, event: Any) -> None:
        self.index, self.event = index, event


def _terms_seeds() -> list[bytes]:
    laplace = {**OUTPUT, "mechanism": "output-laplace", "delta": 0}
    runs = [
        {"terms": OUTPUT, "sites": {ME: laplace, "east": OUTPUT}, "counts": None},
        {"terms": {**DP_SGD, "steps": 2}, "sites": {}, "counts": {"noise_multiplier": 20}},
        {"terms": OUTPUT},
    ]
    return [canonical(one) for one in ({**DP_SGD, "steps": 4, "sampling_rate": 0.25}, OUTPUT, laplace, *runs)]


# State of a rule


def _state(data: bytes) -> None:
    drawn = taken(lambda: NoiseState.from_json(parse(data)))
    if drawn is not None:
        require(NoiseState.from_json(drawn.to_json()) == drawn, "a table that differs after a round trip")
    found = taken(lambda: RuleState.from_json(parse(data)))
    if found is None:
        return
    same_model(found)
    require(RuleState.from_json(found.to_json()) == found, "a table that differs after a round trip")
    require(len(found.rho) <= len(found.members), "more penalties than members")


def _state_seeds() -> list[bytes]:
    rule = make_rule("iiadmm", {"clip_norm": 1.0, "rho": 1.0})
    if not isinstance(rule, CohortRule):
        raise AssertionError("ADMM has a cohort")
    row = Row(manifest="a" * 64, plaintext="b" * 64)
    first = RuleState.first(("east", "west"), rule)
    later = first.after({"east": Made(version=1, ticket="c" * 64, rows={"dual": row})}, (1.0, 0.5))
    noise = NoiseState(version=1, attempt=0, tickets=("c" * 64,), noise=row)
    return [canonical(one.to_json()) for one in (first, later, noise)]


TARGETS = (
    Target("ledger-entry", ("privacy/ledger/entry.py",), _entry_seeds, _entry, as_json=True),
    Target(
        "anchor-mark", ("privacy/ledger/anchor.py", "privacy/ledger/path_anchor.py"), _mark_seeds, _mark, as_json=True
    ),
    Target("ledger-file", ("privacy/ledger/table.py",), _ledger_seeds, _ledger),
    Target("site-policy", ("trust/policy/engine.py",), _policy_seeds, _policy),
    Target("policy-request", ("trust/policy/request.py",), _request_seeds, _request, as_json=True),
    Target(
        "privacy-terms",
        ("audit/checks/privacy_checks.py", "runtime/accounts.py"),
        _terms_seeds,
        _terms,
        as_json=True,
    ),
    Target(
        "rule-state", ("runtime/replaying/states.py", "runtime/replaying/noise.py"), _state_seeds, _state, as_json=True
    ),
)
