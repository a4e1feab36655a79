"""What the sites of a private run say they spent, and what it comes to when somebody else computes it.

    for one in accounts(events):           # events: (leaf, event) of a log whose signatures held
        one.stated, one.recomputed, one.agrees, second_opinion(one)

Epsilon follows from literal numbers that are in the log: the terms in ``run.start`` and how many releases a site made or
counted, whichever are more. So nobody has to believe a stated one, and a site that states nothing does not agree.
`Account.recomputed` is this package's own accounting (`privacy.accounting`) on the coarsest grid that it would choose, so it
may be larger in the last digit; `second_opinion` is another library's: Opacus' PRV accountant (Gopi, Lee, Wutschitz 2021, arXiv
2106.02848).

Not handled here: whether the noise was drawn as said, and whether the ledger held: NOT COVERED by any log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from ..audit.checks.privacy_checks import spends, terms_of
from ..audit.events import Event, ReceiptFile, RunStart, Spending
from ..trust.terms import PrivacyTerms
from .config.privacy import CountsConfig
from .site.price import Price

__all__ = ["Account", "accounts", "coarse_price", "second_opinion"]

_COARSEST = 4096
"""Grid units in a clipping bound, at least (`privacy.grid`)."""
_MOST_STEPS = 300_000
"""Beyond, the other library computes for minutes: who wrote the log chose how many."""
_AGREE = 2e-3
"""Both are rounded up to four digits, and the site's grid may be finer."""
_NOTHING = Spending(policy="0" * 64, ledger=None)
"""What a site said that released something and said nothing."""


@dataclass(frozen=True, slots=True)
class Account:
    """One site's releases in one run, as of its last receipt at ``leaf``."""

    run: str
    site: str
    terms: PrivacyTerms
    counts: CountsConfig | None
    spending: Spending
    leaf: int
    releases: int
    """Releases that the site counted, or that it made before everybody's eyes, whichever are more."""
    recomputed: float
    """Epsilon of as many releases under these terms."""
    whole: float
    """Epsilon of all releases that the run reserved."""

    @property
    def stated(self) -> float:
        """Epsilon as the site signed it."""
        return self.spending.epsilon or 0.0

    @property
    def delta(self) -> float:
        """Delta as the site signed it."""
        return self.spending.delta or 0.0

    @property
    def agrees(self) -> bool:
        """Whether the site stated what the terms come to, for all that it released, and at no smaller delta."""
        near = abs(self.stated - self.recomputed) <= _AGREE * max(self.stated, self.recomputed)
        return near and self.delta >= self.terms.delta


def accounts(events: Iterable[tuple[int, Event]]) -> tuple[Account, ...]:
    """Return an account for every site that released something under privacy terms, by run and site.

    Raises:
        MalformedError: a run with terms that this version does not know.
        PrivacyError: terms that cannot be accounted for.
    """
    runs: dict[str, RunStart] = {}
    last: dict[tuple[str, str], tuple[int, Spending]] = {}
    released: Counter[tuple[str, str]] = Counter()
    for leaf, event in events:
        if isinstance(event, RunStart):
            runs.setdefault(event.run, event)
        elif isinstance(event, ReceiptFile) and spends(event):
            key, told = (event.run, event.actor), event.spending
            released[key] += 1
            if told is not None and told.epsilon is not None:
                last[key] = (leaf, told)
            last.setdefault(key, (leaf, _NOTHING))
    found = []
    for (run, site), (leaf, spending) in sorted(last.items(), key=lambda one: one[0]):
        terms = terms_of(runs[run].config, site) if run in runs else None
        if terms is not None:
            count = max(spending.releases, released[run, site])
            found.append(_account(runs[run], site, terms, leaf, spending, count))
    return tuple(found)


def second_opinion(account: Account) -> float | None:
    """Return the epsilon that Opacus' PRV accountant gives, at most 0.02 above the true one; None for what it does not know."""
    terms = account.terms
    if terms.mechanism != "dp-sgd" or terms.adjacency != "add-remove" or account.counts is not None:
        return None
    if terms.steps * account.releases > _MOST_STEPS:
        return None
    from opacus.accountants import PRVAccountant

    other = PRVAccountant()
    other.history = [(terms.noise_multiplier, terms.sampling_rate, terms.steps * account.releases)]
    return float(other.get_epsilon(terms.delta))


def coarse_price(terms: PrivacyTerms, counts: CountsConfig | None) -> Price:
    """Return the price of releases on the coarsest grid, which needs no model: at least that of any model's own."""
    return Price(terms, counts, _COARSEST if terms.mechanism == "dp-sgd" else 2 * _COARSEST, 1, 0.0)


def _account(run: RunStart, site: str, terms: PrivacyTerms, leaf: int, spending: Spending, count: int) -> Account:
    counts = run.config["privacy"].get("counts")
    known = None if counts is None else CountsConfig.from_json(counts, what="run.start privacy")
    price = coarse_price(terms, known)
    recomputed = price.statement(count).epsilon
    whole = price.statement(terms.releases).epsilon
    return Account(run.run, site, terms, known, spending, leaf, count, recomputed, whole)
