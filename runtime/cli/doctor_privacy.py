"""What a site needs before data may leave it: its policy, its ledger, and the packages that compute with them.

Read only: the ledger is read under its lock for some milliseconds, its anchor is asked and not moved. Numbers of the ledger are
shown to the person at this terminal and go nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from .doctor_check import Doubt, Fault

if TYPE_CHECKING:
    from ...privacy.ledger.anchor import Mark
    from ...privacy.ledger.balance import Balance
    from ...privacy.ledger.book import Book
    from ..config import SiteConfig
    from ..config.privacy import SitePrivacy

__all__ = ["PrivacyChecks"]

_LITTLE = 0.1
"""Of a cap: when so little is left, somebody should know before the next run."""


class PrivacyChecks:
    """The checks, with what earlier ones found."""

    def __init__(self, settings: SiteConfig) -> None:
        self._settings = settings
        self._book: Book | None = None

    def each(self) -> Iterator[tuple[str, Callable[[], str]]]:
        """Yield every check with its name."""
        yield "policy", self.policy
        yield "extras", self.extras
        yield "ledger", self.ledger
        yield "ledger: anchor", self.anchor
        yield "ledger: population", self.population
        yield "exact updates", self.unprotected

    def policy(self) -> str:
        """Load the policy and look for what is probably not meant."""
        from ...trust.policy.lints import lints
        from ...trust.policy.policy import SitePolicy

        path = self._settings.policy
        policy = SitePolicy.default() if path is None else SitePolicy.load(path)
        name = "the default policy of this version" if path is None else str(path)
        told = f"{name}: {len(policy.policies)} policies, digest {policy.digest[:16]}..."
        if found := lints(policy):
            first = f"line {found[0].line}: {found[0].text}"
            raise Doubt(f"{told}; {len(found)} warnings (`counterseal policy check`), the first at {first}")
        return told

    def extras(self) -> str:
        """Import what decides and what computes; see that what trains is there."""
        _import("cedarpy", "policy")
        if self._settings.privacy is None:
            return "cedarpy is installed; no private run, so nothing else is needed"
        _import("dp_accounting", "dp")
        if find_spec("opacus") is None:  # takes seconds to import, with torch
            raise Doubt("cedarpy and dp_accounting are installed, opacus is not: no training with dp-sgd here")
        return "cedarpy, dp_accounting and opacus are installed"

    def ledger(self) -> str:
        """Read the ledger from its first entry to its last."""
        from ...privacy.ledger.book import Book
        from ...privacy.ledger.ledger import read_entries

        privacy = self._settings.privacy
        if privacy is None:
            return "none is configured: this site takes part in no private run"
        entries = read_entries(privacy.ledger.path)
        self._book = Book.of(entries)
        return f"{privacy.ledger.path}: {len(entries)} entries, an unbroken chain"

    def anchor(self) -> str:
        """Ask the anchor whether this is the newest ledger."""
        from ..anchors.opening import open_anchor

        privacy, book = self._settings.privacy, self._book
        if privacy is None:
            return "none is needed without a ledger"
        anchor = open_anchor(privacy.ledger)
        if book is None:
            raise Doubt("what the ledger says is not known")
        if anchor is None:
            if book.anchored:
                raise Fault("this ledger has an anchor, and none is named", remedy="Name it under `ledger: anchor:`.")
            raise Doubt("none: a restored backup of the ledger would not be noticed (NOT COVERED in every report)")
        return _agreed(book, anchor.read(), anchor.place)

    def population(self) -> str:
        """See that the configured data belong to a population that has something left."""
        from ...privacy.ledger.balance import balance_of

        privacy, book = self._settings.privacy, self._book
        if privacy is None:
            return "none is needed without a ledger"
        if book is None:
            raise Doubt("what the ledger says is not known")
        _require_known(book, privacy)
        return _left(balance_of(book.populations[privacy.population]))

    def unprotected(self) -> str:
        """Say aloud what leaves this site as it is."""
        if self._settings.unprotected:
            raise Doubt(
                "`unprotected: true`: in runs without privacy terms, updates leave this site exactly as computed, and "
                "records can be reconstructed from them"
            )
        if self._settings.privacy is None:
            raise Fault(
                "neither private runs nor others: this site trains in none",
                remedy="Configure `privacy`, or say `unprotected: true` if exact updates may leave.",
            )
        return "none leaves: this site refuses runs without privacy terms"


def _import(module: str, extra: str) -> None:
    try:
        import_module(module)
    except ImportError:
        raise Fault(f"{module} is not installed", remedy=f"Run: pip install 'counterseal[{extra}]'") from None


def _agreed(book: Book, seen: Mark | None, place: str) -> str:
    if not book.anchored:
        raise Fault(
            "this ledger was made without an anchor",
            where=place,
            remedy="Bind it to this one: `counterseal ledger recover --new-anchor`.",
        )
    if seen == book.mark:
        return f"{place} knows this ledger's newest entry"
    if book.extends(seen):
        return f"{place} is behind, as a crash leaves it: the next entry moves it on"
    raise Fault(
        "the ledger here is not the one that its anchor knows: an old copy, or another one",
        where=place,
        remedy="Nothing is released with it. Put the newest copy here; see `counterseal ledger recover --help`.",
    )


def _require_known(book: Book, privacy: SitePrivacy) -> None:
    population, dataset = book.populations.get(privacy.population), book.datasets.get(privacy.dataset)
    if population is None:
        raise Fault(
            f"the ledger knows no population {privacy.population!r}",
            remedy="The officer names it and its cap: `counterseal ledger cap`.",
        )
    if dataset is None or dataset.population != population.name:
        told = "belongs to no population" if dataset is None else f"belongs to population {dataset.population!r}"
        raise Fault(
            f"dataset {privacy.dataset!r} {told}",
            remedy="The officer says whose data these are: `counterseal ledger map`. Or correct `privacy`.",
        )
    if population.unit != privacy.unit:
        raise Fault(
            f"one record here is a {privacy.unit}, the population counts a {population.unit}",
            remedy="Correct `privacy: unit`, or name the population that counts it.",
        )


def _left(balance: Balance) -> str:
    told = f"{balance.name}: epsilon {balance.reserved:.4g} of {balance.cap:g} at delta {balance.delta:g} is reserved"
    if balance.lost:
        raise Fault(f"{balance.name} is exhausted: entries were lost", remedy="New people need a new population.")
    if balance.remaining <= 0:
        raise Fault(
            f"{told}: nothing is left",
            remedy="Close runs that are over (`counterseal ledger close`); only the officer may raise a cap.",
        )
    if balance.remaining < _LITTLE * balance.cap:
        raise Doubt(f"{told}: little is left")
    return f"{told}, {balance.remaining:.4g} is left (shown here only)"
