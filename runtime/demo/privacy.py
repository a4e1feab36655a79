"""What a private run says about people, in words for those who are not statisticians.

The questions are those that an evaluation of a privacy guarantee has to ask (NIST SP 800-226, Guidelines for Evaluating
Differential Privacy Guarantees, 2025: what is protected, from whom, how much, by what, what else leaves, what could go wrong).
Every number in an answer comes from the run's terms or from the sites' signed receipts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...trust.terms import PrivacyTerms
from ..accounts import Account

__all__ = ["Answer", "answers", "mechanism_words", "odds"]


@dataclass(frozen=True, slots=True)
class Answer:
    """A question that somebody should ask, and this run's answer."""

    question: str
    answer: str


def answers(terms: PrivacyTerms, accounts: Sequence[Account]) -> tuple[Answer, ...]:
    """Return the questions with their answers, for a run under ``terms`` (of the first site, where they differ)."""
    return (
        Answer("Who or what is protected?", _protected(terms)),
        Answer("From whom?", _from_whom()),
        Answer("How much can still be learned?", _how_much(terms, accounts)),
        Answer("How is it done?", mechanism_words(terms)),
        Answer(
            "Who adds the noise?",
            "Each site, inside its own walls, before anything is encrypted and sent. The server adds none.",
        ),
        Answer("What else leaves a site?", _else(accounts)),
        Answer("What is not covered?", _not_covered(terms)),
        Answer(
            "Who can check it?",
            "Anybody can compute the epsilons again from the numbers in the log (`counterseal audit privacy`). That a "
            "site drew "
            "the noise and kept its ledger is the site's own word, under its signature: no log shows it.",
        ),
    )


def odds(epsilon: float) -> float:
    """Return how often somebody at even odds can be right at best about one unit: e^eps / (1 + e^eps).

    >>> round(odds(1.0), 3)
    0.731
    """
    return 1 / (1 + math.exp(-epsilon))


def mechanism_words(terms: PrivacyTerms) -> str:
    """Return how the noise is made, in a sentence or two."""
    if terms.mechanism == "dp-sgd":
        return (
            f"DP-SGD. In each of {terms.steps} steps of a round, every {terms.unit} takes part with probability "
            f"{terms.sampling_rate:g}; "
            f"its gradient is cut to length {terms.clip_norm:g}, and discrete Gaussian noise of "
            f"{terms.noise_multiplier:g} times that "
            f"length is added to their sum, which is divided by {terms.normaliser:g}, a public number."
        )
    kind = "Laplace" if terms.mechanism == "output-laplace" else "Gaussian"
    return (
        f"Output perturbation. The whole update is cut to length {terms.clip_norm:g}, and discrete {kind} noise of "
        f"{terms.noise_multiplier:g} times twice that length is added to every number of it."
    )


def _protected(terms: PrivacyTerms) -> str:
    if terms.unit == "site":
        return (
            "Everything that a site has: whatever its data were, what it released would look much the same. That is far "
            "more than "
            "the presence of one person, and costs far more accuracy."
        )
    change = {
        "add-remove": "is in the site's data or not",
        "replace-one": "is in the site's data or another one in its place",
    }
    return (
        f"Each single {terms.unit} at each site: whether one {terms.unit} {change[terms.adjacency]}, what the site "
        f"released would look much "
        f"the same. A person with several {terms.unit}s is protected less: the loader has to make one {terms.unit} of "
        f"each person."
    )


def _from_whom() -> str:
    return (
        "From everybody outside the site: the server and its operator, the other sites, the store, and whoever gets the model. "
        "Nobody outside has to be trusted to forget anything."
    )


def _how_much(terms: PrivacyTerms, accounts: Sequence[Account]) -> str:
    if not accounts:
        return "Nothing was released."
    worst = max(one.stated for one in accounts)
    return (
        f"Epsilon {worst:g} at delta {terms.delta:g} for all releases of this run together, the site with the most. "
        f"Somebody who is "
        f"undecided about one {terms.unit}, half and half, can be right at most {odds(worst):.2%} of the time after "
        f"seeing all of it"
        f"{_bare(terms)}; at epsilon 1 that would be {odds(1):.0%}, at epsilon 0.1 {odds(0.1):.1%}. It is a bound for the "
        f"worst case, "
        f"not an estimate."
    )


def _bare(terms: PrivacyTerms) -> str:
    return "" if terms.delta == 0 else f" (but for a chance of {terms.delta:g})"


def _else(accounts: Sequence[Account]) -> str:
    counts = next((one.counts for one in accounts if one.counts is not None), None)
    if counts is None:
        return (
            "No metrics, no number of examples, no text of an error: a training that failed would say `site_failed`, and "
            "cost as much as one "
            "that did not. That a site answered, and when, can be seen."
        )
    return (
        f"Beside each update two noisy counts, held-out records and right ones among them, with Laplace noise of "
        f"{counts.noise_multiplier:g} times what one record changes; they are part of the epsilon. No exact metric, no "
        f"error text."
    )


def _not_covered(terms: PrivacyTerms) -> str:
    return (
        "What this site's people lost in other federations (its own ledger counts that; it is not in this report). What "
        "the model says "
        "about a group of people, or about somebody who is in nobody's data. How long a training took. Terms that "
        "somebody wrote after "
        "looking at the data." + ("" if terms.unit == "site" else " Records of one person that the loader left apart.")
    )
