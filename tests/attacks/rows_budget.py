"""What a greedy server, or an officer's slip, can try on a site's policy and budget (P4).

Every row counts the releases that the ledger of site-a paid for, lets the run go on, and verifies the log.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from counterseal.audit.events import ReceiptFile
from counterseal.errors import CountersealError
from counterseal.privacy.ledger.ledger import Ledger
from counterseal.runtime.config import EvaluationConfig, LoaderConfig, RunConfig
from counterseal.runtime.config.privacy import RunPrivacy
from counterseal.runtime.server.correspondence.tickets import Counter
from counterseal.runtime.site.price import price_of
from counterseal.runtime.site.steward import Steward
from counterseal.runtime.training.party import site_trainers
from counterseal.runtime.training.plugins import file_digest
from counterseal.trust.policy.policy import SitePolicy, default_text
from counterseal.trust.terms import PrivacyTerms

from ..federation import Federation, run_config
from ..private import TERMS, ledger_of, open_ledger, privacy_of
from .private_play import comparable, hooked, require_end
from .private_world import GAUSSIAN, PRIVATE, PrivateFederation, PrivateWorld, private_worlds, receipt_in
from .table import Row
from .world import ME, OTHER, Wire, kind_of

__all__ = ["BUDGET"]

THIRD = "site-c@fed.example"
ANCHORED = b"""
@id("anchored-ledger")
forbid (principal, action == Counterseal::Action::"train", resource) when { context.private && !context.anchored };
"""
OVERFLOW = b"""
@id("overflow")
forbid (principal, action, resource) when { context.version + 9223372036854775807 < 0 };
"""


def other_terms(given: PrivacyTerms | None) -> Callable[[], str]:
    """Let the server write other terms into site-a's ticket than into the run's start."""

    def play() -> str:
        with private_worlds("train-1") as world:
            honest = Counter._privacy

            def lie(counter: Counter, site: str) -> PrivacyTerms | None:
                return given if site == ME else honest(counter, site)

            with patch.object(Counter, "_privacy", lie):
                told = world.told()
            require_end(world, told, (0, 1), drawn=2)
            return told.codes[-1]

    return play


def metrics_beside_terms() -> str:
    """Start a run that has privacy terms and asks every site for exact metrics."""
    with private_worlds("new") as world:
        asked = PRIVATE.model_copy(update={"evaluation": EvaluationConfig(sites=True)})  # no validator looks at a copy
        codes = []

        def answers(site: str, raw: bytes) -> bytes:
            receipt = receipt_in(raw)
            codes.append(None if receipt is None else receipt.reason)
            return raw

        try:
            world.config = asked
            assert world.finish(answers=answers).outcome != "completed"
        except CountersealError:
            pass  # without anybody's word there is no run
        assert set(codes) == {codes[0]}
        assert world.drawn() == 0
        require_end(world, world.told(PRIVATE.model_copy(update={"name": "run-2"})), (0, 1, 2), drawn=3)
        return str(codes[0])


def refused_run(
    config: RunConfig, settings: Callable[[PrivateWorld], Mapping[str, Any]] = lambda world: {}
) -> Callable[[], str]:
    """Let the others make a run of which site-a wants no part."""

    def play() -> str:
        with private_worlds("new") as world:
            world.federation.settings[ME] = dict(settings(world))
            told = world.told(config)
            require_end(world, told, (), drawn=0)
            assert len(set(told.codes)) == 1
            return told.codes[0]

    return play


def exact_run() -> str:
    """Ask a site that did not say `unprotected` for exact updates."""
    with private_worlds("new") as world:
        for name in (OTHER, THIRD):
            world.federation.settings[name] = {"unprotected": True}
        told = world.told(run_config(rounds=1, minimum_sites=2))
        require_end(world, told, (), drawn=0)
        return told.codes[0]


def for_me(terms: PrivacyTerms, **changes: Any) -> RunConfig:
    """Return a run of one round in which site-a has terms of its own."""
    privacy = RunPrivacy(terms=GAUSSIAN, sites={ME: terms})
    return PRIVATE.model_copy(update={"rounds": 1, "privacy": privacy, **changes})


@cache
def around(epsilon: float) -> tuple[PrivacyTerms, PrivacyTerms]:
    """Return the terms just below ``epsilon``, and those just above it."""
    low, high = 0.5, 16.0
    for _ in range(24):
        middle = (low + high) / 2
        terms = GAUSSIAN.model_copy(update={"noise_multiplier": middle})
        below = price_of(terms, None, 21).statement(4).epsilon <= epsilon
        low, high = (low, middle) if below else (middle, high)
    return GAUSSIAN.model_copy(update={"noise_multiplier": high}), GAUSSIAN.model_copy(update={"noise_multiplier": low})


def over_the_policy() -> str:
    """Ask for just more than the policy allows; just less is no matter."""
    allowed, over = around(8.0)
    with private_worlds("new") as world:
        require_end(world, world.told(for_me(allowed)), (0,), drawn=1)
    return refused_run(for_me(over))()


def reopened_rounds() -> str:
    """Open a round again so that site-a, which has two releases for two rounds, would make a third."""
    with private_worlds("new") as world:
        sites = {ME: GAUSSIAN.model_copy(update={"releases": 2})}
        config = PRIVATE.model_copy(update={"rounds": 2, "privacy": RunPrivacy(terms=GAUSSIAN, sites=sites)})
        lost: list[str] = []

        def meddle(site: str, delivery: bytes) -> bytes | None:
            # Lost on the way there: an answer that was lost on the way back would be found in the store.
            ticket, kind = _ticket(delivery)
            if site != ME and kind == "train" and ticket not in lost and len(lost) < 2:
                lost.append(ticket)
            return None if ticket in lost else delivery

        told = world.told(config, meddle=meddle)
        require_end(world, told, (0,), drawn=2)
        assert told.codes == ["accepted", "accepted", "policy_denied"]
        return told.codes[-1]


def _ticket(delivery: bytes) -> tuple[str, str]:
    """Return the digest and the kind of the ticket in ``delivery``."""
    import json

    from counterseal.trust.dsse import read
    from counterseal.trust.identifiers import sha256

    payload = read(json.loads(delivery)["ticket"].encode()).payload
    return sha256(payload), json.loads(payload)["kind"]


def without_ledger(world: PrivateWorld) -> dict[str, Any]:
    return {"steward": Steward(world.federation.charter, ME, unprotected=True)}


def of_patients(world: PrivateWorld) -> dict[str, Any]:
    return {"privacy": privacy_of(world.folder, ME, unit="patient")}


LOADER = """
from counterseal.tests.federation import data_of
from dataclasses import replace


def load(parameters):
    return replace(data_of("site-a@fed.example"), unit="visit")
"""


def of_visits(world: PrivateWorld) -> dict[str, Any]:
    path = world.folder / "loader.py"
    path.write_text(LOADER)
    loader = LoaderConfig(file=path, sha256=file_digest(path))
    party: Any = SimpleNamespace(identity=ME, loader=loader, device="cpu", checkpoints=None, plugins=())
    return {"trainers": site_trainers(party)}


def erring_policy() -> str:
    """Go on to a version at which evaluating one prohibition fails; Cedar alone would skip that one, and allow."""
    with private_worlds("new") as world:
        world.federation.settings[ME] = {"policy": SitePolicy(default_text() + OVERFLOW)}
        told = world.told(PRIVATE.model_copy(update={"rounds": 2}))
        require_end(world, told, (0,), drawn=1)
        return told.codes[-1]


def no_anchor(world: PrivateWorld) -> dict[str, Any]:
    path = world.folder / "plain.sqlite"
    ledger = Ledger.create(path) if not path.exists() else Ledger.open(path)
    ledger.set_population("people", unit="record", adjacency="add-remove", epsilon=50.0, delta=1e-4)
    ledger.map_dataset("data", "people")
    return {"ledger": ledger, "policy": SitePolicy(default_text() + ANCHORED)}


def dp_sgd_of(**changes: Any) -> RunConfig:
    """A run under dp-sgd that nobody here has to compute."""
    config = for_me(TERMS.model_copy(update=changes))
    trainer = config.trainer.model_copy(update={"steps": TERMS.steps, "epochs": None})
    return config.model_copy(update={"trainer": trainer})


def lowered_cap() -> str:
    """The officer lowers the cap while site-a trains: this release was paid for, the next one is not."""
    with private_worlds("train-1") as world:

        def lower(version: int) -> None:
            world.ledger().set_population("people", unit="record", adjacency="add-remove", epsilon=0.5, delta=1e-4)

        world.federation.settings[ME] = hooked(lower)
        told = world.told()
        require_end(world, told, (0, 1), drawn=2)
        return told.codes[-1]


def renamed(mapped: bool) -> Callable[[], str]:
    """Call the same data by another name in the middle of a run."""

    def play() -> str:
        with private_worlds() as world:
            if mapped:
                world.ledger().map_dataset("copy", "people")
            world.federation.settings[ME] = {"privacy": privacy_of(world.folder, ME, dataset="copy")}
            told = world.told()
            require_end(world, told, (0, 1), drawn=2)
            return told.codes[-1]

    return play


def again(rename: Callable[[Ledger], str]) -> Callable[[], str]:
    """Ask for a second run where the people have enough left for half of one; ``rename`` names data that cost nothing yet."""

    def play() -> str:
        with private_worlds("ended") as world:
            ledger = world.ledger()
            ledger.set_population("people", unit="record", adjacency="add-remove", epsilon=2.5, delta=1e-4)
            name = rename(ledger)
            world.federation.settings[ME] = {"privacy": privacy_of(world.folder, ME, dataset=name)}
            told = world.told(PRIVATE.model_copy(update={"name": "run-2"}))
            require_end(world, told, (), drawn=0)
            assert world.drawn(run="run-1") == 3
            return told.codes[0]

    return play


def copied(ledger: Ledger) -> str:
    ledger.map_dataset("copy", "people")
    return "copy"


def moved(ledger: Ledger) -> str:
    ledger.set_population("others", unit="record", adjacency="add-remove", epsilon=2.5, delta=1e-4)
    ledger.map_dataset("data", "others")
    return "data"


class Racing(Wire):
    """Two sites get their first tickets to train at the same moment."""

    held: dict[str, tuple[str, bytes]] | None = None

    def dispatch(self, site: str, ticket: str, delivery: bytes) -> None:
        """Deliver, or wait for the other."""
        if kind_of(delivery)[0] != "train" or site == THIRD:
            super().dispatch(site, ticket, delivery)
            return
        self.held = {} if self.held is None else self.held
        self.held[site] = (ticket, delivery)
        if len(self.held) == 2:
            start = threading.Barrier(2)
            waiting = [threading.Thread(target=self._race, args=(start, name, *self.held[name])) for name in self.held]
            for one in waiting:
                one.start()
            for one in waiting:
                one.join()

    def _race(self, start: threading.Barrier, site: str, ticket: str, delivery: bytes) -> None:
        start.wait()
        super().dispatch(site, ticket, delivery)


def race() -> str:
    """Two sites of one institution, each with its own handle on the one ledger, ask at once for what only one can have."""
    with private_worlds("new") as world:
        ledger_of(world.folder, ME, epsilon=3.0)
        for name in (ME, OTHER):
            world.federation.settings[name] = {"ledger": open_ledger(world.folder, ME)}
        codes: list[str] = []

        def answers(site: str, raw: bytes) -> bytes:
            receipt = receipt_in(raw)
            if site != THIRD and receipt is not None and receipt.kind == "train":
                codes.append(receipt.reason or "accepted")
            return raw

        told = world.told(PRIVATE.model_copy(update={"rounds": 1}), answers=answers, wire=Racing)
        assert told.outcome == "completed"
        assert world.verify() == []
        (balance,) = world.ledger().balances()
        assert (balance.runs, balance.releases) == (1, 1)
        accepted, lost = sorted(codes)
        assert accepted == "accepted"
        return lost


def second_federation(folder: Path, world: PrivateWorld) -> PrivateWorld:
    """Return another federation, with other keys, in which site-a takes part with the same ledger."""
    made = Federation.make(folder, 3, clock=world.clock)
    other = PrivateFederation(folder, made.sites, made.keys, made.charter, world.clock)
    other.settings[ME] = {"ledger": open_ledger(world.folder, ME)}
    return PrivateWorld(other, world.clock, b"{}", "", "", "", [], PRIVATE)


def two_federations() -> str:
    """Ask for the same budget in a second federation while the run of the first one goes on."""
    with private_worlds("new") as world:
        ledger_of(world.folder, ME, epsilon=3.0)
        second = second_federation(world.folder.parent / "second", world)
        codes: list[str] = []

        def meddle(site: str, delivery: bytes) -> bytes:
            if (site, kind_of(delivery)) == (ME, ("train", 1)) and not codes:
                told = second.told(PRIVATE.model_copy(update={"name": "run-2", "rounds": 1}))
                assert (told.outcome, told.counted) == ("completed", ())
                codes.extend(told.codes)
            return delivery

        require_end(world, world.told(PRIVATE, meddle=meddle), (0, 1, 2), drawn=3)
        assert [one.key[1] for one in _runs(world.ledger())] == ["run-1"]
        return codes[0]


def _runs(ledger: Ledger) -> list[Any]:
    found = [ledger.run("test-federation", name, ME) for name in ("run-1", "run-2", "run-3")]
    return [one for one in found if one is not None]


def early_stop() -> str:
    """Stop after one of four releases for a refund, and ask for four again: three are left, and three are given."""
    with private_worlds("train-0") as one:
        assert one.hand(one.delivery) == "accepted"
        cap = one.ledger().balances()[0].reserved * 1.0001
    with private_worlds("new") as world:
        ledger_of(world.folder, ME, epsilon=cap)
        require_end(world, world.told(PRIVATE.model_copy(update={"rounds": 1})), (0,), drawn=1)
        told = world.told(PRIVATE.model_copy(update={"name": "run-2", "rounds": 1}))
        require_end(world, told, (), drawn=0)
        three = GAUSSIAN.model_copy(update={"releases": 3})
        require_end(world, world.told(for_me(three, name="run-3")), (0,), drawn=1)
        return told.codes[0]


def which_said_no() -> str:
    """Compare the receipts of a site whose policy says no and of one whose budget is spent, word by word."""
    found = []
    deny = b'@id("never") forbid (principal, action == Counterseal::Action::"train", resource);\n'
    for settings in ({"policy": SitePolicy(default_text() + deny)}, {"cap": 0.1}):
        with private_worlds("new") as world:
            world.federation.settings[ME] = settings
            told = world.told(PRIVATE.model_copy(update={"rounds": 1}))
            receipts = [
                one for one in told.log if isinstance(one, ReceiptFile) and (one.actor, one.kind) == (ME, "train")
            ]
            assert (receipts[0].spending, receipts[0].metrics, receipts[0].manifest) == (None, None, None)
            found.append(comparable(receipts[0]))
    assert found[0] == found[1]
    return str(found[0]["reason"])


def row(id_: str, who: Any, attack: str, expected: str, play: Callable[[], str]) -> Row:
    return Row(id_, "site", who, attack, expected, play)


WEAK = GAUSSIAN.model_copy(update={"noise_multiplier": 0.01})

BUDGET: tuple[Row, ...] = (
    row("P4-001", "server", "a ticket with less noise than the run's start says", "ticket", other_terms(WEAK)),
    row("P4-002", "server", "a ticket without privacy terms in a private run", "ticket", other_terms(None)),
    row("P4-003", "server", "a private run that asks sites for exact metrics", "malformed", metrics_beside_terms),
    row(
        "P4-004",
        "server",
        "a run without privacy terms, at a site that does not say `unprotected`",
        "policy_denied",
        exact_run,
    ),
    row(
        "P4-005",
        "server",
        "terms whose epsilon is just over the policy's (just under it is taken)",
        "policy_denied",
        over_the_policy,
    ),
    row(
        "P4-006",
        "server",
        "rounds opened again for more releases than were reserved",
        "policy_denied",
        reopened_rounds,
    ),
    row(
        "P4-007",
        "server",
        "a private run at a site without a ledger, even an unprotected one",
        "policy_denied",
        refused_run(for_me(GAUSSIAN), without_ledger),
    ),
    row(
        "P4-008",
        "server",
        "terms that protect records, at a site that counts patients",
        "policy_denied",
        refused_run(dp_sgd_of(), of_patients),
    ),
    row(
        "P4-009",
        "site",
        "a loader that gives visits where the run protects records",
        "training",
        refused_run(dp_sgd_of(), of_visits),
    ),
    row(
        "P4-010",
        "server",
        "a trainer that is not known to keep dp-sgd, under terms of dp-sgd",
        "training",
        refused_run(dp_sgd_of()),
    ),
    row(
        "P4-011",
        "server",
        "a version number at which one prohibition of the policy overflows",
        "policy_denied",
        erring_policy,
    ),
    row(
        "P4-012",
        "server",
        "a private run at a site whose ledger has no anchor, and whose policy wants one",
        "policy_denied",
        refused_run(for_me(GAUSSIAN), no_anchor),
    ),
    row("P4-013", "site", "the cap lowered while a ticket runs: the next one", "policy_denied", lowered_cap),
    row(
        "P4-014", "site", "the dataset renamed in the middle of a run, to a name of nobody's", "ledger", renamed(False)
    ),
    row(
        "P4-015",
        "site",
        "the dataset renamed in the middle of a run, to another name of the same people's",
        "policy_denied",
        renamed(True),
    ),
    row(
        "P4-016",
        "site",
        "a copy of the dataset under a new name, for a second run of the same people",
        "policy_denied",
        again(copied),
    ),
    row("P4-017", "site", "the dataset given to a new population, for a second run", "policy_denied", again(moved)),
    row("P4-022", "server", "two sites of one institution race for the last budget", "policy_denied", race),
    row("P4-023", "server", "the same budget in two federations at once", "policy_denied", two_federations),
    row(
        "P4-024", "server", "a run stopped early for its refund, and the whole asked again", "policy_denied", early_stop
    ),
    row("P4-033", "server", "policy or budget told apart by their refusals", "policy_denied", which_said_no),
)
